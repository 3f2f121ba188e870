"""Every method in its smallest: three clients and a tenth of the digits, so that a run takes half a second."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import algorithms
import saves

NAMES = tuple(algorithms.ALGORITHMS)
FLAGS = {
    "dataset": "digits",
    "n_clients": 3,
    "reduced": 0.1,
    "participation": 0.7,
    "rounds": 5,
    "epoch_per_round": 1,
    "batch_size": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": 0.01,
    "ft_epochs": 1,
    "track_features": 4,
    "public_share": 0.1,
}
OWN = {
    "scaffold": {"variate": 1},
    "fml": {"shared_model": "MLP"},
    "fedmd": {"pretrain_epochs": 1},
    "feddf": {"distill_steps": 0},
    "fedgkt": {"server_model": "ResNet5", "epochs_server": 1, "reduced": 0.05},
}
MODELS = {"mhmd": "CNN4", "fedgkt": "ResNet4"}  # of all others MLP; a command has one for all of its algorithms


def commands(names: Sequence[str] = NAMES, **flags) -> list[list[str]]:
    """The words behind `run.py` of the commands, one a model, that make a run of each of these methods, in this order."""
    of_models: dict[str, list[str]] = {}
    for name in names:
        of_models.setdefault(MODELS.get(name, "MLP"), []).append(name)
    results = []
    for model, some in of_models.items():
        own = {flag: value for name in some for flag, value in OWN.get(name, {}).items()}
        by_name = {"model": model, **FLAGS, **own, **flags}
        results.append([*some, *(word for flag, value in by_name.items() for word in (f"--{flag}", *str(value).split()))])
    return results


def apart(item: saves.Run, other: saves.Run) -> list[str]:
    """What of two runs is not the same bits: columns of the history but those of time, weights, and every array."""
    results = []
    for name, kept, again in [
        ("history", _untimed(item), _untimed(other)),
        *((name, item.arrays(name) or {}, other.arrays(name) or {}) for name in ("confusion", "features", "split")),
        ("weights", *({name: saves.digest(rows) for name, rows in run.weights().items()} for run in (item, other))),
    ]:
        results += [f"{name} {part}" for part in sorted(kept.keys() ^ again.keys())]
        results += [f"{name} {part}" for part in sorted(kept.keys() & again.keys()) if not _same(kept[part], again[part])]
    return results


def _untimed(run: saves.Run) -> dict[str, np.ndarray]:
    return {name: run.history[name].to_numpy() for name in run.history if name not in saves.TIMING}


def _same(item, other) -> bool:
    """Whether two values are equal, of two arrays all bits, NaNs too."""
    if not isinstance(item, np.ndarray):
        return item == other
    return (item.dtype, item.shape, item.tobytes()) == (other.dtype, other.shape, other.tobytes())


def runs_in(folder: Path) -> dict[str, saves.Run]:
    """{name of a run's folder: the finished run}."""
    return {run.folder.name: run for run in saves.find(folder)}
