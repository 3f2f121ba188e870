"""Runs on disk, one folder each. A few lines in a notebook:

    import saves
    run = saves.load("saves/fedavg-digits-0123abcd-4567ef")  # run.rounds, run.clients, run.costs(), run.model()
    runs = saves.find("saves", algorithm=["fedavg", "cfkd"], alpha=0.1)
    saves.frame(runs).groupby("algorithm")["global_mean"].mean()

What a folder holds, and how it is written and checked: `saves/files.py`, docs/saved_runs.md.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import algorithms
import models
from data import datasets
from errors import UserError, reason_of
from options import nearest, plain_value
from saves.files import (
    DONE,
    EVENTS,
    FILES,
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
    "MANY",
    "OlderError",
    "Rows",
    "Run",
    "SERVER",
    "TIMING",
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
if TYPE_CHECKING:  # imported where it is needed: a command's help and a mistake need not wait for it
    import pandas as pd

Rows = dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]  # of one model for all, or of each client
MANY = 1_000  # clients; what has a row for each client is cut short where there are more (docs/saved_runs.md)
BATCH = 256  # images that are predicted at once
SERVER = ":server"  # the end of a column that counts what the server spends
log = logging.getLogger("chorus")

# --- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A saved run. `folder`, `config` (options, environment, hashes) and `history`, one frame: a row a round (client -1)
    and a row for each client that trained or was evaluated in it; of more than `MANY` clients all of them after the last
    round, and before it those that trained. Accuracies are fractions of 1, losses nats; bytes, steps
    and "flops" (floating point operations to train and to extract what is sent; "flops:server" the server's part of them)
    are those of that round, like "seconds" (without the evaluation), of which "train_seconds" are local epochs and
    "exchange_seconds" the rest: to work out what is sent, to send it, to average.
    "peak_memory" is in bytes: of the device in that round, or of the process so far where that is the processor."""

    folder: Path
    config: dict[str, Any]
    digests: dict[str, str] = field(repr=False)  # of its files, as `done` has them

    def _checked(self, name: str) -> Path:
        return checked(self.folder / name, self.digests.get(name))

    @cached_property
    def history(self) -> pd.DataFrame:
        """All rows. Raises DamagedError where they are not those that were written, or no run could have them."""
        import pandas as pd

        path = self._checked("history.npz")
        columns = read_arrays(path)
        if strange := strange_history(columns, self.options["n_clients"], self.options["rounds"]):
            raise damaged(path, strange)
        return pd.DataFrame(columns)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """A row a round, round 0 (what is sent before the first) included."""
        of_rounds = self.history[self.history["client"] == ALL]
        return of_rounds.drop(columns="client").dropna(axis=1, how="all").reset_index(drop=True)

    @property
    def clients(self) -> pd.DataFrame:
        """A row for each client and round in which it trained or was evaluated."""
        of_clients = self.history[self.history["client"] != ALL].dropna(axis=1, how="all").reset_index(drop=True)
        return of_clients[[name for name in of_clients if not name.endswith(SERVER)]]

    @cached_property
    def names(self) -> list[str]:
        """The clients' names, as the data have them; [] where they name none."""
        return list(map(str, (self.arrays("split", "clients") or {}).get("clients", [])))

    def called(self, client: int) -> str:
        """What a client is called: its name, or else its number."""
        return self.names[client] if self.names else str(client)

    @property
    def options(self) -> dict[str, Any]:
        """Every option, as `config.json` has it."""
        return self.config["options"]

    @property
    def done(self) -> bool:
        """Whether the run was finished."""
        return finished(self.folder)

    @property
    def diverged(self) -> int | None:
        """The first round in which a client or the server diverged, after which the run went on (`--on_divergence`), 0
        before round 1; None where nobody did."""
        rounds = self.rounds
        told = rounds[[name for name in rounds if name.partition(":")[0] in ("diverged", "tuned_diverged")]]
        found = rounds["round"][told.notna().any(axis=1)]
        return int(found.iloc[0]) if len(found) else None

    def summary(self) -> dict[str, Any]:
        """The keys of `--json`: accuracies after the last round; totals over the run of bytes, of the steps and flops of the
        clients and, apart, of the server, of seconds without the evaluation and of those of the evaluation; the first round
        in which the run diverged."""
        rounds = self.rounds
        last = rounds.iloc[-1]

        def total(name: str) -> int | None:
            return int(rounds[name].sum()) if name in rounds else None  # older runs have not all of them

        epochs = range(self.options.get("ft_epochs", 0) + 1)
        by_epoch = [float(last[f"tuned_mean:epoch {e}"]) for e in epochs if f"tuned_mean:epoch {e}" in last]
        accuracies = [f"{which}_{what}" for which in ("global", "personal") for what in ("mean", "std_clients", "worst")]
        return {
            "algorithm": self.options["algorithm"],
            "seed": self.options["seed"],
            "split_seed": self.options["split_seed"],
            "folder": str(self.folder),
            **{name: _number(last.get(name)) for name in accuracies},
            **{name: _number(last.get(name)) for name in ("tuned_mean", "tuned_std_clients", "tuned_worst")},
            "tuned_by_epoch": by_epoch or None,
            **{name: total(name) or 0 for name in ("bytes_up", "bytes_down", "bytes_between")},
            **{name.replace(":", "_"): total(name) for name in ("steps", f"steps{SERVER}", "flops", f"flops{SERVER}")},
            **{name: round(float(rounds[name].sum()), 3) for name in ("seconds", "evaluation_seconds")},
            "diverged": self.diverged,
            "options": self.options,
        }

    def best_on_validation(self) -> dict[str, Any] | None:
        """The round with the best mean validation accuracy (the first of equals) and its test accuracies, or None
        without `--validation`. Never the best over test rounds."""
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
        """{answer: weights of the one model for all, or a row a client}, after the last round, on the CPU."""
        path = self._checked("weights.pt")
        found = read_tensors(path)
        if strange := strange_weights(found, self.options["n_clients"]):
            raise damaged(path, strange)
        return found

    @property
    def headline(self) -> str:
        """The name of the answer whose columns have no name in them; no tensor of its weights is read."""
        return next(iter(read_tensors(self._checked("weights.pt"), mmap=True)))

    def arrays(self, name: str, *only: str) -> dict[str, np.ndarray] | None:
        """What `name.npz` ("split", "confusion", "features") in the folder holds, or only these of its arrays; None where it
        is not there."""
        path = self.folder / f"{name}.npz"
        return read_arrays(self._checked(path.name), only) if path.name in self.digests or there(path) else None

    def checkpoint(self) -> dict[str, Any]:
        """What the run ended with: "state", of which each algorithm has its own, "round", "history". Raises DamagedError."""
        found = read_checkpoint(self.folder, self.options["rounds"])
        if found is None:
            raise damaged(self.folder, "it has no good checkpoint")
        return found

    def model(self, client: int = 0, answer: str | None = None) -> models.Net:
        """The model after the last round: the one for all, or a client's own; in evaluation mode, on the CPU.

        `answer` names another than the headline. Raises UserError where there is no such answer or client.
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
            raise damaged(self.folder / "weights.pt", f"they are not those of its model ({reason_of(error)})") from None
        model.precision = self.options.get("precision", "float32")
        return model.eval()

    def data(self, data_dir: str | Path = "data") -> datasets.Data:
        """The data set of the run, whose files are in a folder as for `--data_dir`. Raises UserError where they are not
        there, or are others than the run's."""
        told = self.options
        where = (
            Path(data_dir),
            told.get("image_size"),
            told.get("attribute", "Smiling"),
            bool(self.config.get("unverified_data")),
            told.get("label"),
        )
        data = _data(told["dataset"], source := datasets.Source(*where))
        if told.get("public_dataset"):
            data = datasets.with_public(data, _data(told["public_dataset"], source))
        if data.digest != self.config["data"]["digest"]:
            raise UserError(f"--dataset {told['dataset']}: other data are there than those of {self.folder}")
        return data

    def predict(self, client: int, images: Any, answer: str | None = None, data_dir: str | Path = "data") -> torch.Tensor:
        """The class that a client's model after the last round says of each of n images, int64 [n]. `images`: a tensor or an
        array [n, channels, height, width], of pixels as in `run.data(data_dir).x`. Raises UserError as `model` and `data`
        do, and for images of another shape."""
        model, data, x = self.model(client, answer), self.data(data_dir), torch.as_tensor(images)
        if tuple(x.shape[1:]) != data.shape:
            raise UserError(f"images: must be of shape [n, {', '.join(map(str, data.shape))}], got {list(x.shape)}")
        given = replace(data, x=x)
        with torch.inference_mode():
            said = [model(given.images(part))[1].argmax(1) for part in torch.arange(len(x)).split(BATCH)]
        return torch.cat(said) if said else torch.zeros(0, dtype=torch.int64)

    def costs(self) -> pd.DataFrame:
        """What the run has cost up to each round, a row a round as in `rounds`: its bytes, steps, samples, operations and
        seconds, added up."""
        rounds = self.rounds
        names = [name for name in rounds if name.startswith(COUNTS) or (name in TIMING and name != "peak_memory")]
        return rounds[["round"]].join(rounds[names].cumsum())


@cache
def _data(name: str, source: datasets.Source) -> datasets.Data:
    return datasets.load(name, source)


def _rebuild(options: Mapping[str, Any], inputs: Sequence[Any], client: int, answer: str) -> models.Net:
    """The client's architecture: what every answer is made of, where an algorithm does not say otherwise."""
    return models.of_client(options, inputs, client, algorithms.says(options["algorithm"], "heads"))


def load(folder: str | Path) -> Run:
    """A finished run from its folder. Raises UserError where there is none, OlderError for one of an older version,
    DamagedError for a damaged one, UnreadableError, which is one too, where permissions forbid to read it."""
    folder = Path(folder)
    if not finished(folder):
        if (why := unreadable(folder)) is not None:
            raise UnreadableError(why)
        raise UserError(f"{folder}: {_unfinished(folder)}")
    of_files = digests(folder)
    checked(folder / "config.json", of_files.get("config.json"))
    return Run(folder, read_config(folder), of_files)


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a run, finished or not. Raises DamagedError."""
    path = folder / "config.json"
    config = read_json(path)
    if strange := strange_config(config):
        raise damaged(path, strange)
    return config


def _unfinished(folder: Path) -> str:
    if there(folder / "config.json"):
        return "the run is not finished; the command in its run.log resumes it"
    return f"{'holds no run' if there(folder) else 'no such folder'}; must be the folder of a finished run"


def verify(run: Run) -> None:
    """Raises DamagedError where a file of a run is not what was written, also of those that nobody has read yet."""
    for name, digest in run.digests.items():
        checked(run.folder / name, digest)
    _ = run.history


def whole(folder: Path, otherwise: str) -> Run | None:
    """The finished run of a folder, every file of it looked at; None where there is none, or a damaged one: that is told,
    and what comes of it, `otherwise`. Raises UnreadableError where permissions forbid to read it: it may be whole."""
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
    """Every finished run in a folder of runs, by name; of these the ones with such options, each a value or a list of which
    it is one: alpha=[0.1, 1.0]. Those that `gather` passes over are told. Raises UserError for an
    option that no run has, DamagedError for a damaged run."""
    runs, passed_over = gather(export_dir)
    for words in passed_over:
        log.warning("%s", words)
    for name in options:
        if runs and not any(name in run.options for run in runs):
            known = sorted({known for run in runs for known in run.options})
            raise UserError(f"{name}: no run in {export_dir} has this option{nearest(name, known)}")
    return [run for run in runs if all(_is_of(run.options.get(name), wanted) for name, wanted in options.items())]


def gather(export_dir: str | Path) -> tuple[list[Run], list[str]]:
    """Return every finished run in a folder of runs, by name, and what is passed over: a line for each folder that this
    process may not read, or a file in it, and one for all runs of an older version. Raises DamagedError."""
    runs, older, passed_over = [], [], []
    for folder in folders_in(export_dir):
        if (why := unreadable(folder)) is not None:
            passed_over.append(f"{folder.name} is passed over: {why}")
        elif finished(folder):
            try:
                runs.append(load(folder))
            except OlderError:
                older.append(folder.name)
    if older:
        told = ", ".join(older[:3]) + f" and {len(older) - 3} more" * (len(older) > 3)
        passed_over.append(f"{export_dir}: passed over runs of an older version, which have no digests: {told}")
    return runs, passed_over


def folders_in(export_dir: str | Path) -> list[Path]:
    """Return the folders that are, or may be, those of runs: with a `config.json`, or closed to this process. Raises
    UnreadableError where the folder of runs is closed itself."""
    try:
        inside = sorted(path for path in Path(export_dir).iterdir() if path.is_dir()) if is_there(export_dir) else []
    except PermissionError as error:
        raise UnreadableError(reason_of(error)) from None
    return [path for path in inside if there(path / "config.json") or there(path / DONE) or unreadable(path)]


def _is_of(value: Any, wanted: Any) -> bool:
    """Whether an option of `config.json` is a value as Python has it, or one of a list; a single model stands for itself."""
    several = wanted if isinstance(wanted, list) else [wanted]
    return any(value in (plain, [plain]) for plain in map(plain_value, several))


def frame(runs: Iterable[Run], rows: str = "runs") -> pd.DataFrame:
    """Many runs in one frame: a row a run ("runs"), with what its `summary` says, or all `rounds` or `clients` of each;
    before that a column an option, in which several models are one text. Raises UserError for other rows."""
    import pandas as pd

    of_run = {
        "runs": lambda run: pd.DataFrame([run.summary()]).drop(columns=["options", "tuned_by_epoch"]),
        "rounds": lambda run: run.rounds,
        "clients": lambda run: run.clients,
    }
    if rows not in of_run:
        raise UserError(f"rows {rows}: must be one of {', '.join(of_run)}")
    frames = []
    for run in runs:
        told = of_run[rows](run)
        own = {name: _cell(value) for name, value in run.options.items() if name not in told}
        frames.append(pd.concat([pd.DataFrame([own] * len(told)), told], axis=1))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _cell(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else math.inf if value == "inf" else value


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of a `config.json`; what is inside another entry has its name before a point: environment.torch."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def digest(rows: Rows) -> str:
    """Sixteen hexadecimal digits that name these very weights."""
    sha = hashlib.sha256()
    for row in rows if isinstance(rows, list) else [rows]:
        for name, tensor in row.items():
            sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def frame_of(history: list[Mapping[str, Any]]) -> pd.DataFrame:
    """The tidy frame of a run. `history`: for each round {"round": {column: number}, "clients": {column: S numbers, see
    `numbers`}}, the latter with a column "client"; bytes that a client did not send are 0, what was not measured is NaN."""
    import pandas as pd

    tables = []
    for entry in sorted(history, key=lambda entry: entry["round"]["round"]):
        clients = {name: numbers(column) for name, column in entry["clients"].items()}
        order = np.argsort(clients["client"], kind="stable")
        tables.append(({**entry["round"], "client": ALL}, {name: column[order] for name, column in clients.items()}))
    starts = np.cumsum([0, *(1 + len(clients["client"]) for _, clients in tables)])
    columns = {}
    for name in in_order(name for both in tables for table in both for name in table):
        whole = name in ("round", "client") or name.startswith(COUNTS)
        columns[name] = column = np.full(starts[-1], 0 if whole else np.nan, np.int64 if whole else np.float64)
        for (of_round, of_clients), start, end in zip(tables, starts, starts[1:], strict=False):
            column[start] = of_round.get(name, column[start])
            if name in of_clients:
                column[start + 1 : end] = np.nan_to_num(of_clients[name]) if whole else of_clients[name]
            elif name == "round":
                column[start + 1 : end] = of_round["round"]
    return pd.DataFrame(columns, copy=False)


def kept(column: np.ndarray) -> bytes | list[float]:
    """Return a column of a round's clients, S numbers, as the history keeps it: float64 in bytes, or [] where S is 0, as
    torch reads no empty bytes.

    A small tensor that stayed until the end would keep a large free block of memory from being used again: a run of 1,900
    rounds took twice the memory of one of 200.
    """
    return column.astype(np.float64).tobytes() or []


def numbers(column: bytes | list[float] | torch.Tensor) -> np.ndarray:
    """Return the numbers of a column that `kept` made, or of the tensor that older checkpoints have."""
    return np.frombuffer(column) if isinstance(column, bytes) else np.asarray(column)


def in_order(names: Iterable[str]) -> list[str]:
    """Columns of a history, each once, as they stand in it."""
    names, first = dict.fromkeys(names), ("round", "client", "loss")
    others = sorted((name for name in names if name not in first), key=lambda name: (_place(name), name))
    return [*(name for name in first if name in names), *others]


def _place(name: str) -> int:
    """Where a column stands: accuracies, effort, bytes, time."""
    groups = (
        ("global", "personal", "validation"),
        ("sent", "local", "tuned"),
        ("steps", "samples", "flops"),
        ("bytes",),
        TIMING,
    )
    return next((i for i, group in enumerate(groups) if name.startswith(group)), len(groups))
