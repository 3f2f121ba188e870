"""Find values that no run can have; each function returns the problem as text, or None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

ALL = -1  # the value of "client" in the row of a round
COUNTS = ("bytes_", "steps", "samples", "flops")  # prefixes of columns that are 0 where nothing was counted
# columns that differ between repetitions of a run
TIMING = ("seconds", "train_seconds", "exchange_seconds", "evaluation_seconds", "peak_memory")
ACCURACIES = ("global", "personal", "validation", "sent", "local", "tuned")  # beginnings of columns of accuracies
FRACTIONS = ("_mean", "_std_clients", "_worst", "_accuracy")  # and their ends; measures have the first three too
CONFIG = {"options": dict, "split": str, "data": dict, "files": dict, "inputs": list, "source": str, "environment": dict}
OPTIONS = {"algorithm": str, "n_clients": int, "rounds": int, "seed": int, "split_seed": int}
DATA = {"name": str, "digest": str}


def strange_config(config: Any) -> str | None:
    """Return what is wrong with a `config.json`, or None."""
    if not isinstance(config, dict):
        return "it is not a configuration"
    for tree, types in ((config, CONFIG), (config.get("options"), OPTIONS), (config.get("data"), DATA)):
        for name, expected in types.items():
            if not isinstance(tree, dict) or not isinstance(tree.get(name), expected):
                return f"its {name} is of the wrong type; must be {expected.__name__}"
    options = config["options"]
    if not isinstance(options.get("new_clients", 0), int | list):
        return "its new_clients is of the wrong type; must be a number or names"
    if not (options["n_clients"] > 0 and options["rounds"] > 0):
        return f"{options['n_clients']} clients in {options['rounds']} rounds"
    return None


def strange_history(columns: Mapping[str, np.ndarray], n_clients: int, n_rounds: int) -> str | None:
    """Return what is wrong with the columns of a history of `n_clients` clients and `n_rounds` rounds, or None. `columns`
    maps names to arrays with a number per row."""
    if not {"round", "client"} <= columns.keys() or any(column.ndim != 1 for column in columns.values()):
        return "it has no rounds and clients"
    if len({len(column) for column in columns.values()}) > 1:
        return "its columns differ in length"
    if any(column.dtype not in (np.int64, np.float64) for column in columns.values()):
        return "its columns are not all numbers"
    for name, column in columns.items():
        lowest, highest = _bounds(name, n_clients, n_rounds)
        outside = column[(column < lowest) | (column > highest)]  # False for NaN, which is allowed
        if len(outside):
            return f"{name} is {outside[0]:g}"
    if not np.array_equal(columns["round"][columns["client"] == ALL], np.arange(n_rounds + 1)):
        return f"it does not have one row for each of {n_rounds} rounds"
    return None


def strange_weights(weights: Any, n_clients: int) -> str | None:
    """Return what is wrong with the final weights of `n_clients` clients, or None: by answer, the weights of the common
    model or a row per client."""
    if not isinstance(weights, dict) or not weights:
        return "it holds no weights"
    for answer, rows in weights.items():
        if answer != "global" and not (isinstance(rows, list) and len(rows) == n_clients):
            return f"{answer} does not have {n_clients} clients"
        for row in [rows] if answer == "global" else rows:
            if not isinstance(row, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in row.values()):
                return f"{answer} does not consist of tensors"
    return None


def _bounds(name: str, n_clients: int, n_rounds: int) -> tuple[float, float]:
    """Return the lowest and the highest value that a column may hold."""
    if name == "round":
        return 0, n_rounds
    if name == "client":
        return ALL, n_clients - 1
    stem = name.partition(":")[0]
    for end in FRACTIONS:
        if stem.endswith(end):
            is_accuracy, is_spread = stem.removesuffix(end) in ACCURACIES, end == "_std_clients"
            return 0 if is_accuracy or is_spread else -np.inf, np.inf if is_spread and not is_accuracy else 1
    return (0 if name.startswith((*COUNTS, *TIMING)) else -np.inf), np.inf
