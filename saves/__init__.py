"""Load and compare runs on disk; each run has its own folder. A few lines in a notebook:

    import saves
    run = saves.load("saves/fedavg-digits-0123abcd-4567ef")  # run.rounds, run.clients, run.costs(), run.model()
    runs = saves.find("saves", algorithm=["fedavg", "cfkd"], alpha=0.1)
    saves.frame(runs).groupby("algorithm")["global_mean"].mean()

The files of a folder, and how Chorus writes and checks the files: `saves/files.py`, docs/saved_runs.md.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import algorithms
import models
from data import datasets
from data.partition import count_new
from errors import UserError, reason_of
from federation.recording import Message, from_plain
from options import nearest, plain_value
from saves.files import (
    DONE,
    EVENTS,
    FILES,
    LEAKAGE,
    RECORDINGS,
    TUNING,
    BusyError,
    DamagedError,
    OlderError,
    UnreadableError,
    at_work,
    checked,
    checkpoints,
    clear,
    damaged,
    digest_of,
    digests,
    finished,
    locked,
    read_arrays,
    read_checkpoint,
    read_json,
    read_tensors,
    recording_name,
    remove_half_written,
    saved_round,
    there,
    unreadable,
    write_arrays,
    write_checkpoint,
    write_done,
    write_history,
    write_json,
    write_tensors,
    write_text,
    written,
)
from saves.values import ALL, COUNTS, TIMING, strange_config, strange_history, strange_weights
from untrusted import is_there

__all__ = [
    "ALL",
    "BusyError",
    "COUNTS",
    "DONE",
    "DamagedError",
    "EVENTS",
    "FILES",
    "LEAKAGE",
    "MANY",
    "OlderError",
    "Rows",
    "Run",
    "SERVER",
    "TIMING",
    "TUNING",
    "UnreadableError",
    "at_work",
    "checkpoints",
    "clear",
    "digest",
    "digest_of",
    "find",
    "finished",
    "flat",
    "folders_in",
    "frame",
    "frame_of",
    "gather",
    "in_order",
    "kept",
    "load",
    "locked",
    "read_checkpoint",
    "read_config",
    "recording_name",
    "remove_half_written",
    "saved_round",
    "there",
    "unreadable",
    "verify",
    "whole",
    "write_arrays",
    "write_checkpoint",
    "write_done",
    "write_history",
    "write_json",
    "write_tensors",
    "write_text",
    "written",
]
if TYPE_CHECKING:  # imported where needed, so that help texts and error messages appear without delay
    import pandas as pd

Rows = dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]  # the weights of the common model, or a row per client
MANY = 1_000  # clients; with more clients, outputs with a row per client are cut (docs/saved_runs.md)
BATCH = 256  # images per prediction step
SERVER = ":server"  # suffix of columns that count the server's effort
log = logging.getLogger("chorus")

# --- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Give access to a saved run: `folder`, `config` (options, environment, hashes) and `history`, a frame with a row per
    round (client -1) and a row for each client that trained or was evaluated in the round. With more than `MANY` clients,
    the last round has a row for every client, and earlier rounds only for the clients that trained. Accuracies are fractions
    of 1, losses nats. Bytes, steps and "flops" (floating point operations to train and to compute the messages;
    "flops:server" is the server's part) count this round alone, and so does "seconds" (without the evaluation). Of these,
    "train_seconds" are local epochs and "exchange_seconds" the rest: computing the messages, sending, averaging.
    "peak_memory" is in bytes: of the device in this round, or, on the CPU, of the process so far."""

    folder: Path
    config: dict[str, Any]
    digests: dict[str, str] = field(repr=False)  # of its files, from the file `done`

    def _checked(self, name: str) -> Path:
        """Return the path of a file of the run after comparing its digest. Raise DamagedError where the digests differ."""
        return checked(self.folder / name, self.digests.get(name))

    @cached_property
    def history(self) -> pd.DataFrame:
        """Return all rows. Raise DamagedError where the file has changed since the run wrote the file, or holds values that
        no run can have."""
        import pandas as pd

        return pd.DataFrame(self._columns)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Return a row per round, including round 0 (messages before the first round)."""
        import pandas as pd

        return pd.DataFrame(self.round_columns)

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        path = self._checked("history.npz")
        columns = read_arrays(path)
        if problem := strange_history(columns, self._n_clients[1], self.options["rounds"]):
            raise damaged(path, problem)
        return columns

    @cached_property
    def round_columns(self) -> dict[str, np.ndarray]:
        """Return the columns of `rounds`: those with a value. (A frame takes ten times as long to make and to read.)"""
        is_round = self._columns["client"] == ALL
        columns = {name: column[is_round] for name, column in self._columns.items() if name != "client"}
        return {name: column for name, column in columns.items() if not np.isnan(column).all()}

    @property
    def clients(self) -> pd.DataFrame:
        """Return a row for each client and round in which the client trained or was evaluated."""
        return self._rows_of(0, self._n_clients[0])

    @property
    def new_clients(self) -> pd.DataFrame:
        """Return a row for each new client (`--new_clients`), with its accuracies after the last round."""
        rows = self._rows_of(*self._n_clients)
        return rows[[name for name in rows if name in ("round", "client") or name.startswith("new_")]]

    @property
    def _n_clients(self) -> tuple[int, int]:
        """Return the number of clients that train, and the number of all clients: the new ones have the last numbers."""
        n_clients = self.options["n_clients"]
        return n_clients, n_clients + count_new(self.options.get("new_clients", 0))

    def _rows_of(self, first: int, end: int) -> pd.DataFrame:
        client = self.history["client"]
        rows = self.history[(client >= first) & (client < end)].dropna(axis=1, how="all").reset_index(drop=True)
        return rows[[name for name in rows if not name.endswith(SERVER)]]

    @cached_property
    def names(self) -> list[str]:
        """Return the clients' names from the data; [] where the data name no clients."""
        return list(map(str, (self.arrays("split", "clients") or {}).get("clients", [])))

    def called(self, client: int) -> str:
        """Return a client's name, or its number where the clients have no names."""
        return self.names[client] if self.names else str(client)

    @property
    def options(self) -> dict[str, Any]:
        """Return every option, from `config.json`."""
        return self.config["options"]

    @property
    def done(self) -> bool:
        """Return whether the run is finished."""
        return finished(self.folder)

    @cached_property
    def diverged(self) -> int | None:
        """Return the first round in which a client or the server diverged while the run continued (`--on_divergence`), 0 for
        divergence before round 1, None without divergence."""
        columns = self.round_columns
        flags = [flag for name, flag in columns.items() if name.partition(":")[0].endswith("diverged")]
        rounds_diverged = columns["round"][~np.isnan(flags).all(axis=0)] if flags else []
        return int(rounds_diverged[0]) if len(rounds_diverged) else None

    def summary(self) -> dict[str, Any]:
        """Return the keys of `--json`: accuracies after the last round; totals over the run of bytes, of steps and flops of
        the clients and, separately, of the server, of seconds without the evaluation and seconds of the evaluation; and the
        first round in which the run diverged."""
        return dict(self._summary)

    @cached_property
    def _summary(self) -> dict[str, Any]:
        columns = self.round_columns
        last = {name: column[-1] for name, column in columns.items()}

        def total(name: str) -> int | None:
            return int(np.nansum(columns[name])) if name in columns else None  # older runs lack some columns

        epochs = range(self.options.get("ft_epochs", 0) + 1)
        by_epoch = [float(last[f"tuned_mean:epoch {e}"]) for e in epochs if f"tuned_mean:epoch {e}" in last]
        accuracies = [
            f"{model}_{statistic}" for model in ("global", "personal") for statistic in ("mean", "std_clients", "worst")
        ]
        return {
            "algorithm": self.options["algorithm"],
            "seed": self.options["seed"],
            "split_seed": self.options["split_seed"],
            "folder": str(self.folder),
            **{name: _number(last.get(name)) for name in accuracies},
            **{name: _number(last.get(name)) for name in ("tuned_mean", "tuned_std_clients", "tuned_worst")},
            **{name: _number(last.get(name)) for name in ("new_sent_mean", "new_tuned_mean") if name in last},
            "tuned_by_epoch": by_epoch or None,
            **{name: total(name) or 0 for name in ("bytes_up", "bytes_down", "bytes_between")},
            **{name.replace(":", "_"): total(name) for name in ("steps", f"steps{SERVER}", "flops", f"flops{SERVER}")},
            **{name: round(float(np.nansum(columns[name])), 3) for name in ("seconds", "evaluation_seconds")},
            "diverged": self.diverged,
            "options": self.options,
        }

    def best_on_validation(self) -> dict[str, Any] | None:
        """Return the round with the best mean validation accuracy (the first of equal rounds) and its test accuracies, or
        None without `--validation`. The choice never uses test accuracies."""
        rounds = self.rounds
        if "validation_mean" not in rounds:
            return None
        best = rounds.loc[rounds["validation_mean"].idxmax()]
        return {
            name: _number(best[name])
            for name in ("round", "validation_mean", "global_mean", "personal_mean")
            if name in best
        }

    def weights(self) -> dict[str, Rows]:
        """Return {answer: weights of the common model, or a row per client}, after the last round, on the CPU."""
        path = self._checked("weights.pt")
        weights = read_tensors(path)
        if problem := strange_weights(weights, self.options["n_clients"]):
            raise damaged(path, problem)
        return weights

    @property
    def headline(self) -> str:
        """Return the name of the answer whose columns carry no name, without reading the tensors of its weights."""
        return next(iter(read_tensors(self._checked("weights.pt"), mmap=True)))

    def arrays(self, name: str, *only: str) -> dict[str, np.ndarray] | None:
        """Return the arrays of `name.npz` ("split", "confusion", "features") in the folder, or only the arrays named in
        `only`; None where the file does not exist."""
        path = self.folder / f"{name}.npz"
        return read_arrays(self._checked(path.name), only) if path.name in self.digests or there(path) else None

    def recording(self) -> tuple[list[Message], dict[str, torch.Tensor]]:
        """Return the messages that `--record_wire` saved, in order of time, and the weights that all parties know. Raise
        UserError where the run recorded no messages."""
        messages, public = [], {}
        for name in sorted((name for name in self.digests if fnmatchcase(name, RECORDINGS)), key=_round_in):
            path = self._checked(name)
            content = read_tensors(path)
            try:
                messages += from_plain(content["messages"])
                public = dict(content["public"])
            except (TypeError, KeyError, ValueError) as error:
                raise damaged(path, f"it holds no recorded messages ({reason_of(error)})") from None
        if not (messages or self.options.get("record_wire")):
            raise UserError(f"{self.folder}: has no recorded messages; rerun it with --record_wire first,last")
        return messages, public

    def leakage(self) -> dict[str, dict[str, Any]]:
        """Return the results of attacks on the run (`python -m attacks`); {} where there are none, or where the files of the
        run have changed since."""
        path = self.folder / LEAKAGE
        if not there(path):
            return {}
        saved = read_json(path)
        if not isinstance(saved, dict) or saved.get("run") != digest_of(self.folder / DONE):
            return {}
        results = saved.get("results")
        valid = isinstance(results, dict) and all(isinstance(result, dict) for result in results.values())
        return results if valid else {}

    def checkpoint(self) -> dict[str, Any]:
        """Return the last checkpoint of the run: "state", in the algorithm's own form, "round", "history". Raise
        DamagedError."""
        checkpoint = read_checkpoint(self.folder, self.options["rounds"])
        if checkpoint is None:
            raise damaged(self.folder, "it has no good checkpoint")
        return checkpoint

    def model(self, client: int = 0, answer: str | None = None) -> models.Net:
        """Return the model after the last round, the common model or the client's own, in evaluation mode, on the CPU.

        Input: images float32 [n, channels, height, width], normalised as by `run.data().images(indices)`. Output: (features
        [n, D], logits [n, C]). The predicted class is `logits.argmax(1)`, a position in `run.data().classes`.

        `answer` names another answer than the headline. Raise UserError where this answer or client does not exist.
        """
        weights, n_clients = self.weights(), self.options["n_clients"]
        answer = answer or next(iter(weights))
        if answer not in weights:
            raise UserError(f"{self.folder}: has no answer {answer}; must be one of {', '.join(weights)}")
        if not 0 <= client < n_clients:
            raise UserError(f"{self.folder}: has no client {client}; must be 0 to {n_clients - 1}")
        row = weights[answer] if isinstance(weights[answer], dict) else weights[answer][client]
        rebuild = getattr(algorithms.ALGORITHMS.get(self.options["algorithm"]), "rebuild", _rebuild)
        model = rebuild(self.options, self.config["inputs"], client, answer)
        try:
            model.load_state_dict(row)
        except (RuntimeError, TypeError) as error:
            raise damaged(self.folder / "weights.pt", f"they do not fit its model ({reason_of(error)})") from None
        model.precision = self.options.get("precision", "float32")
        return model.eval()

    def data(self, data_dir: str | Path = "data") -> datasets.Data:
        """Return the data set of the run, whose files are in a folder as for `--data_dir`. Raise UserError where the files
        are missing, or differ from the run's data."""
        options = self.options
        arguments = (
            Path(data_dir),
            options.get("image_size"),
            options.get("attribute", "Smiling"),
            bool(self.config.get("unverified_data")),
            options.get("label"),
        )
        data = _data(options["dataset"], source := datasets.Source(*arguments))
        if options.get("public_dataset"):
            data = datasets.with_public(data, _data(options["public_dataset"], source))
        if data.digest != self.config["data"]["digest"]:
            raise UserError(f"--dataset {options['dataset']}: the data differ from the data of {self.folder}")
        return data

    def predict(self, client: int, images: Any, answer: str | None = None, data_dir: str | Path = "data") -> torch.Tensor:
        """Return the class that a client's model after the last round predicts for each of n images, int64 [n]. `images`: a
        tensor or an array [n, channels, height, width], with pixels as in `run.data(data_dir).x`. Raise UserError as `model`
        and `data` do, and for images of another shape."""
        model, data, x = self.model(client, answer), self.data(data_dir), torch.as_tensor(images)
        if tuple(x.shape[1:]) != data.shape:
            raise UserError(f"images: must be of shape [n, {', '.join(map(str, data.shape))}], got {list(x.shape)}")
        inputs = replace(data, x=x)
        with torch.inference_mode():
            predictions = [model(inputs.images(part))[1].argmax(1) for part in torch.arange(len(x)).split(BATCH)]
        return torch.cat(predictions) if predictions else torch.zeros(0, dtype=torch.int64)

    def export(self, path: str | Path, client: int = 0, answer: str | None = None, data_dir: str | Path = "data") -> Path:
        """Write a client's model after the last round to a file that needs nothing of Chorus; return the path.

        A path that ends in .pt2 is written by `torch.export`, a path that ends in .onnx as ONNX, if onnxscript is installed.
        Input: images [n, channels, height, width], with pixels as in `run.data(data_dir).x`; the normalisation is inside.
        Output: logits [n, C]. The class names are in the file of the same stem that ends in .classes.txt. Raise UserError as
        `model` and `data` do, and for a file or a network that cannot be exported.
        """
        from saves.export import export

        export(self.model(client, answer), self.data(data_dir), path := Path(path))
        return path

    def costs(self) -> pd.DataFrame:
        """Return the cumulative costs of the run, a row per round as in `rounds`: bytes, steps, samples, operations and
        seconds up to each round."""
        rounds = self.rounds
        names = [name for name in rounds if name.startswith(COUNTS) or (name in TIMING and name != "peak_memory")]
        return rounds[["round"]].join(rounds[names].cumsum())


def _round_in(name: str) -> int:
    """Return the round in the name of a recording."""
    digits = name.removeprefix(RECORDINGS.partition("*")[0]).removesuffix(".pt")
    return int(digits) if digits.isdigit() else 0


@cache
def _data(name: str, source: datasets.Source) -> datasets.Data:
    """Load a data set once per process."""
    return datasets.load(name, source)


def _rebuild(options: Mapping[str, Any], inputs: Sequence[Any], client: int, answer: str) -> models.Net:
    """Return the client's architecture. Every answer has this architecture unless the algorithm says otherwise."""
    return models.of_client(options, inputs, client, algorithms.says(options["algorithm"], "heads"))


def load(folder: str | Path) -> Run:
    """Load a finished run from its folder. Raise UserError where the folder holds no finished run, OlderError for a run of
    an older version, DamagedError for a damaged run, and UnreadableError, a DamagedError, where permissions forbid reading
    the run."""
    folder = Path(folder)
    if not finished(folder):
        if (reason := unreadable(folder)) is not None:
            raise UnreadableError(reason)
        raise UserError(f"{folder}: {_why_not_finished(folder)}")
    file_digests = digests(folder)
    checked(folder / "config.json", file_digests.get("config.json"))
    return Run(folder, read_config(folder), file_digests)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a run, finished or not. Raise DamagedError."""
    path = folder / "config.json"
    config = read_json(path)
    if problem := strange_config(config):
        raise damaged(path, problem)
    return config


def _why_not_finished(folder: Path) -> str:
    """Return why a folder is not the folder of a finished run."""
    if there(folder / "config.json"):
        return "the run is not finished; the command in its run.log resumes it"
    return f"{'not a saved run' if there(folder) else 'no such folder'}; use the folder of a finished run"


def verify(run: Run) -> None:
    """Check every file of a run, including files that nobody has read yet. Raise DamagedError where a file has changed since
    the run wrote the file."""
    for name, digest in run.digests.items():
        checked(run.folder / name, digest)
    _ = run.history


def whole(folder: Path, otherwise: str) -> Run | None:
    """Return the finished run of a folder after checking every file, or None where there is no finished run. A damaged run
    also returns None, with a warning of the damage and of its consequence, `otherwise`. Raise UnreadableError where
    permissions forbid reading the run: the run may be intact."""
    if not finished(folder):
        return None
    try:
        run = load(folder)
        verify(run)
    except UnreadableError:
        raise
    except UserError as error:
        log.warning("%s; %s", error, otherwise)
        return None
    return run


def find(export_dir: str | Path, **options: Any) -> list[Run]:
    """Return every finished run in a folder of runs, by name; with `options`, only the runs with these options. Each option
    is a value or a list of allowed values: alpha=[0.1, 1.0]. Runs that `gather` skips cause warnings. Raise UserError for an
    option that no run has, DamagedError for a damaged run."""
    runs, passed_over = gather(export_dir)
    for line in passed_over:
        log.warning("%s", line)
    for name in options:
        if runs and not any(name in run.options for run in runs):
            known = sorted({known for run in runs for known in run.options})
            raise UserError(f"{name}: no run in {export_dir} has this option{nearest(name, known)}")
    return [run for run in runs if all(_matches(run.options.get(name), value) for name, value in options.items())]


def gather(export_dir: str | Path) -> tuple[list[Run], list[str]]:
    """Return every finished run in a folder of runs, by name, and the warnings: a line for each folder of a run that
    permissions forbid reading in whole or in part, and a single line for all runs of an older version. Raise
    DamagedError."""
    runs, older, passed_over = [], [], []
    for folder in folders_in(export_dir):
        if (reason := unreadable(folder)) is not None:
            passed_over.append(f"{folder.name} skipped: {reason}")
        elif finished(folder):
            try:
                runs.append(load(folder))
            except OlderError:
                older.append(folder.name)
    if older:
        names = ", ".join(older[:3]) + f" and {len(older) - 3} more" * (len(older) > 3)
        passed_over.append(f"{export_dir}: skipping runs of an older version, which have no digests: {names}")
    return runs, passed_over


def folders_in(export_dir: str | Path) -> list[Path]:
    """Return the folders of runs in a folder: folders with a `config.json`, and folders that this process may not read.
    Raise UnreadableError where this process may not read the folder of runs itself."""
    try:
        folders = sorted(path for path in Path(export_dir).iterdir() if path.is_dir()) if is_there(export_dir) else []
    except PermissionError as error:
        raise UnreadableError(reason_of(error)) from None
    return [path for path in folders if there(path / "config.json") or there(path / DONE) or unreadable(path)]


def _matches(value: Any, allowed: Any) -> bool:
    """Return whether an option of `config.json` equals a Python value, or a value of a list; a single model equals a list of
    this model."""
    values = allowed if isinstance(allowed, list) else [allowed]
    return any(value in (plain, [plain]) for plain in map(plain_value, values))


def frame(runs: Iterable[Run], rows: str = "runs") -> pd.DataFrame:
    """Return many runs in a frame: a row per run ("runs") with its `summary`, or all `rounds` or `clients` of each run. The
    first columns are the options; several models become a single text. Raise UserError for other rows."""
    import pandas as pd

    tables = {
        "runs": lambda run: pd.DataFrame([run.summary()]).drop(columns=["options", "tuned_by_epoch"]),
        "rounds": lambda run: run.rounds,
        "clients": lambda run: run.clients,
    }
    if rows not in tables:
        raise UserError(f"rows {rows}: must be one of {', '.join(tables)}")
    frames = []
    for run in runs:
        table = tables[rows](run)
        options = {name: _cell(value) for name, value in run.options.items() if name not in table}
        frames.append(pd.concat([pd.DataFrame([options] * len(table)), table], axis=1))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _cell(value: Any) -> Any:
    """Return the value of an option as a frame holds the value."""
    return ",".join(map(str, value)) if isinstance(value, list) else math.inf if value == "inf" else value


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of a `config.json`; a nested entry has the name of its parent before a point:
    environment.torch."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def digest(rows: Rows) -> str:
    """Return sixteen hexadecimal digits that identify these weights."""
    sha = hashlib.sha256()
    for row in rows if isinstance(rows, list) else [rows]:
        for name, tensor in row.items():
            sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def _number(value: Any) -> float | None:
    """Return a value as float, or None where the value is missing or not finite."""
    return None if value is None or not np.isfinite(value) else float(value)


def frame_of(history: list[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the frame of a run. `history`: for each round {"round": {column: number}, "clients": {column: S numbers, see
    `numbers`}}; "clients" has a column "client". Bytes that a client did not send are 0, values that were not measured are
    NaN."""
    import pandas as pd

    tables = []
    for entry in sorted(history, key=lambda entry: entry["round"]["round"]):
        clients = {name: numbers(column) for name, column in entry["clients"].items()}
        order = np.argsort(clients["client"], kind="stable")
        tables.append(({**entry["round"], "client": ALL}, {name: column[order] for name, column in clients.items()}))
    starts = np.cumsum([0, *(1 + len(clients["client"]) for _, clients in tables)])
    columns = {}
    for name in in_order(name for pair in tables for table in pair for name in table):
        is_integer = name in ("round", "client") or name.startswith(COUNTS)
        columns[name] = column = np.full(starts[-1], 0 if is_integer else np.nan, np.int64 if is_integer else np.float64)
        for (round_values, client_columns), start, end in zip(tables, starts, starts[1:], strict=False):
            column[start] = round_values.get(name, column[start])
            if name in client_columns:
                column[start + 1 : end] = np.nan_to_num(client_columns[name]) if is_integer else client_columns[name]
            elif name == "round":
                column[start + 1 : end] = round_values["round"]
    return pd.DataFrame(columns, copy=False)


def kept(column: np.ndarray) -> bytes | list[float]:
    """Return a column of a round's clients, S numbers, in the form of the history: float64 in bytes, or [] where S is 0,
    because torch reads no empty bytes.

    A small tensor that lives until the end would prevent the reuse of a large free block of memory: a run of 1,900 rounds
    took twice the memory of a run of 200.
    """
    return column.astype(np.float64).tobytes() or []


def numbers(column: bytes | list[float] | torch.Tensor) -> np.ndarray:
    """Return the numbers of a column from `kept`, or from a tensor of an older checkpoint."""
    return np.frombuffer(column) if isinstance(column, bytes) else np.asarray(column)


def in_order(names: Iterable[str]) -> list[str]:
    """Return the columns of a history, each once, in their display order."""
    names, first = dict.fromkeys(names), ("round", "client", "loss")
    others = sorted((name for name in names if name not in first), key=lambda name: (_column_group(name), name))
    return [*(name for name in first if name in names), *others]


def _column_group(name: str) -> int:
    """Return the position of a column's group: accuracies, effort, bytes, time."""
    groups = (
        ("global", "personal", "validation"),
        ("sent", "local", "tuned"),
        ("new",),
        ("steps", "samples", "flops"),
        ("bytes",),
        TIMING,
    )
    return next((i for i, group in enumerate(groups) if name.startswith(group)), len(groups))
