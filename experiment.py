"""One experiment: data -> federation -> rounds -> saved run."""

import hashlib
import logging
import math
import os
import pickle
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import algorithms
import figures.exchange
import figures.split
import models
import saves
from data import datasets, partition
from errors import DivergedError, UserError
from evaluation import cross_entropy, evaluate, personalise
from federation import Federation, computing_with
from helpers import Round
from options import Launch, Options, plain

HERE = Path(__file__).resolve().parent
CHECKPOINT_SECONDS = 60  # at most this much work is lost when a run is killed, or the round it was in
SOURCES = (
    "streams",
    "wire",
    "data/augment",
    "data/datasets",
    "data/files",
    "data/partition",
    "data/pictures",
    "models",
    "federation",
    "helpers",
    "evaluation",
    "experiment",
)
log = logging.getLogger("chorus")
log.setLevel(logging.DEBUG)  # a run's log gets all of it; what is shown is decided in run.py


@dataclass(frozen=True)
class Experiment:
    """A run that is ready: everything is checked and named, nothing is written yet."""

    options: Options
    data: datasets.Data
    split: partition.Split
    start: saves.Rows | None  # initial weights of --init_from
    folder: Path
    config: dict[str, Any]

    @property
    def module(self) -> ModuleType:
        return algorithms.module_of(self.options)


# --- before -------------------------------------------------------------------------------------------------------------


def prepare(options: Options, launch: Launch) -> Experiment:
    """Resolve `auto`, load the data, draw the split, name the folder. Raises UserError for whatever cannot work."""
    options = resolve(options)
    _writable(launch.export_dir)
    source = datasets.Source(launch.data_dir, options.image_size, options.attribute, options.unverified_data)
    data = _data(options.dataset, source)
    inputs = (data.shape, len(data.classes))
    _fits(options, inputs)
    shared = {f.name: getattr(options, f.name) for f in fields(Options)}
    split = _split(Options(**{**shared, "algorithm": "", "seed": 0}), source)
    start = _start(options, inputs)
    if hasattr(algorithms.ALGORITHMS[options.algorithm], "check"):
        words = algorithms.ALGORITHMS[options.algorithm].check(options, data, sum(map(len, split.train)))
        if words:
            log.info(words)
    described = {"options": plain(options), "split": split.digest, "data": {"name": data.name, "digest": data.digest}}
    if start is not None:
        described["init_from"] = saves.digest(start)
    files = {f.name: getattr(options, f.name) for f in fields(options) if isinstance(getattr(options, f.name), Path)}
    if files:  # their contents
        described["files"] = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}
    environment = _environment(options.device)
    code = _digest([environment["torch"], environment["numpy"], environment["processor"], *_sources(options.algorithm)])
    config = {
        **described,
        "unverified_data": data.unverified,
        "inputs": [list(data.shape), len(data.classes)],
        "source": code,
        "revision": _revision(),
        "environment": environment,
    }
    name = f"{options.algorithm}-{_stem(data)}-{_digest([described])[:8]}-{code[:6]}"
    return Experiment(options, data, split, start, launch.export_dir / name, config)


def resolve(options: Options) -> Options:
    """The same options with every `auto` replaced by what it means on this machine."""
    device, threads = options.device, options.threads
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"--device {options.device}: no CUDA device is there; --device cpu or auto")
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            allowed = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
            raise UserError(f"--device {options.device}: no such CUDA device; must be cpu, auto or one of {allowed}")
        device = f"cuda:{index}"
    if threads == "auto":
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return replace(options, device=device, threads=threads)


def _writable(folder: Path) -> None:
    try:
        there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError:  # a name that is too long, say
        writable = False
    if not writable:
        raise UserError(f"--export_dir {folder}: cannot be written; must be a folder, there or to be made")


@cache
def _data(name: str, source: datasets.Source) -> datasets.Data:
    data = datasets.load(name, source)
    if data.unverified:
        log.warning("--dataset %s: %s", name, data.unverified)
    return data


@cache
def _split(options: Options, source: datasets.Source) -> partition.Split:
    """The split, drawn once for all that share it: it reads neither the algorithm nor the seed."""
    return partition.split(_data(options.dataset, source), options)


def _start(options: Options, inputs: tuple) -> saves.Rows | None:
    """The weights after the last round of `--init_from`: of the one model for all where it has one, or a row a client."""
    if options.init_from is None:
        return None
    given = f"--init_from {options.init_from}:"
    try:
        weights = saves.load(options.init_from).weights()
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{given} not to be read; must be the folder of a finished run") from error
    except UserError as error:
        raise UserError(f"{given} {str(error).partition(': ')[2]}") from None
    found = weights["global"] if "global" in weights else weights["personal"]
    if isinstance(found, list):
        if not getattr(algorithms.ALGORITHMS[options.algorithm], "mixed", False):
            raise UserError(
                f"{given} has a model a client, and {options.algorithm} starts from one for all; must be a run that ends "
                f"with one, of fedavg or centralized"
            )
        if len(found) != options.n_clients:
            raise UserError(f"{given} has models of {len(found)} clients, and --n_clients is {options.n_clients}")
    with torch.random.fork_rng(devices=[]):
        built = [build().state_dict() for build in _architectures(options, inputs)]
    for k, row in enumerate(found if isinstance(found, list) else [found] * len(built)):
        if {n: t.shape for n, t in row.items()} != {n: t.shape for n, t in built[k % len(built)].items()}:
            raise UserError(
                f"{given} is of another architecture than --model {options.model[k % len(built)]} for {inputs[1]} classes "
                f"and images of {'x'.join(map(str, inputs[0]))}; must be the same"
            )
    return found


def _fits(options: Options, inputs: tuple) -> None:
    """Whether the algorithm can do with these architectures, and they with these images."""
    module, named = algorithms.ALGORITHMS[options.algorithm], ",".join(options.model)
    strange = [name for name in options.model if name not in models.HAVE_HEADS]
    if strange and getattr(module, "heads", False):
        raise UserError(
            f"--model {strange[0]}: has no auxiliary heads, which {options.algorithm} learns with; must be one of "
            f"{', '.join(models.HAVE_HEADS)}"
        )
    with torch.random.fork_rng(devices=[]):
        built = [build() for build in _architectures(options, inputs)]
    if len(set(options.model)) > 1 and not getattr(module, "mixed", False):
        raise UserError(
            f"--model {named}: {options.algorithm} averages or pools weights, which takes one architecture for all clients"
        )
    widths = {model.classifier.in_features for model in built}
    if len(widths) > 1 and getattr(module, "same_features", False):
        found = ", ".join(f"{name} {model.classifier.in_features}" for name, model in zip(options.model, built, strict=True))
        raise UserError(f"--model {named}: {options.algorithm} shares features, which must be of one dimension, got {found}")


def _architectures(options: Options, inputs: tuple) -> list[Callable[[], models.Net]]:
    """What builds the models that are dealt to the clients."""
    heads = getattr(algorithms.ALGORITHMS[options.algorithm], "heads", False)
    return [partial(models.build, name, *inputs, options.feature_dim, heads) for name in options.model]


def _stem(data: datasets.Data) -> str:
    """The name of the data as part of a file's name."""
    return re.sub(r"[^\w.]+", "_", data.name)


def _digest(parts: list) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _sources(algorithm: str) -> list[str]:
    """The text of every module that can change a number of this algorithm: the house's, its own, and those of the
    algorithms whose parts it takes."""
    todo = [algorithms.ALGORITHMS[algorithm], *filter(None, [algorithms.PUBLISHED.get(algorithm)])]
    own: set[str] = set()
    while todo:
        module = todo.pop()
        own.add(module.__name__)
        taken = {getattr(thing, "__module__", None) or getattr(thing, "__name__", "") for thing in vars(module).values()}
        todo += [sys.modules[name] for name in taken if name.startswith("algorithms.") and name not in own]
    files = [HERE / f"{name}.py" for name in SOURCES] + [Path(sys.modules[name].__file__) for name in sorted(own)]
    return [path.read_text() for path in files]


@cache
def _revision() -> str | None:
    """The commit of this checkout, "-dirty" where files differ from it; None outside git, or without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _environment(device: str) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
    }


def earlier(experiment: Experiment) -> Path | None:
    """The finished run of the same options, split and data that other code, libraries or processor made, if there is one."""
    stem = experiment.folder.name.rpartition("-")[0]
    others = [done.parent for done in experiment.folder.parent.glob(f"{stem}-*/done")]
    return next((folder for folder in sorted(others) if folder != experiment.folder), None)


# --- the rounds ---------------------------------------------------------------------------------------------------------


def run(
    experiment: Experiment, force: bool = False, watch: Callable[[dict[str, float] | str], None] = lambda row: None
) -> saves.Run:
    """Carry the experiment out, or go on with it, and save it; a finished run is returned as it is.

    `watch` is called after each round with its row of the history, and with words while clients fine-tune. Raises
    DivergedError when a training loss is not finite.
    """
    folder = experiment.folder
    with saves.locked(folder):
        if force:
            saves.clear(folder)
        if (folder / "done").exists():
            return saves.load(folder)
        with _logged(folder / "run.log", experiment.data.unverified):
            _begin(experiment)
            with computing_with(1):  # what is not a server's phase or an evaluation, whatever the process has
                _rounds(experiment, watch)
            _finish(experiment)
    return saves.load(folder)


@contextmanager
def _logged(path: Path, unverified: str) -> Iterator[None]:
    """Inside, the command, warnings and tracebacks go to the run's log as well."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    log.debug("%s in %s", " ".join(sys.argv), Path.cwd())
    if unverified:
        log.debug("unverified data: %s", unverified)
    try:
        yield
    except BaseException:
        log.debug("stopped", exc_info=True)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _begin(experiment: Experiment) -> None:
    saves.write_json(experiment.folder / "config.json", experiment.config)
    draw_split(experiment, experiment.folder, "split")


def draw_split(experiment: Experiment, folder: Path, stem: str = "") -> Path:
    """Save the split as `stem.npz` in a folder and draw it beside as `stem.png`, which is returned. Without a stem it is
    named by the data set, the partition and the split's digest."""
    options, split = experiment.options, experiment.split
    npz = folder / f"{stem or f'split-{_stem(experiment.data)}-{options.partition}-{split.digest}'}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    saves.write_arrays(npz, partition.arrays(experiment.data, split))
    figures.split.draw(npz, npz.with_suffix(".png"))
    return npz.with_suffix(".png")


def federation_of(experiment: Experiment) -> Federation:
    """The clients of an experiment, on its device."""
    options, data = experiment.options, experiment.data
    return Federation.of(
        data,
        experiment.split.train,
        _architectures(options, (data.shape, len(data.classes))),
        options.device,
        validation=experiment.split.validation,
        start=experiment.start,
        precision=options.precision,
        seed=options.seed,
        participation=options.participation,
        threads=options.threads,
    )


def _rounds(experiment: Experiment, watch: Callable[[dict[str, float] | str], None]) -> None:
    options, module, folder = experiment.options, experiment.module, experiment.folder
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    federation = federation_of(experiment)
    saved = saves.read_checkpoint(folder)
    if saved is None:
        began = time.perf_counter()
        state = module.start(federation, options)
        history = [_entry(federation, 0, Round([], torch.zeros(0), {}), {}, {}, time.perf_counter() - began, 0.0)]
        first = 1
    else:
        state, history, first = _to(saved["state"], federation.device), saved["history"], saved["round"] + 1
        log.info("%s: resumed after round %d of %d", folder.name, saved["round"], options.rounds)

    written = time.perf_counter()
    for r in range(first, options.rounds + 1):
        before = dict(state), list(history)
        try:
            began = time.perf_counter()
            done = module.communicate(federation.at(r), state, options)
            _check(options, r, done)
            trained = time.perf_counter()
            evaluated = ({}, {})
            if r == options.rounds or (options.track_history and r % options.track_history == 0):
                evaluated = evaluate(federation, experiment.split, done)
            if r == options.rounds and options.ft_epochs:
                loss = getattr(module, "tuning_loss", cross_entropy)
                tuned = personalise(federation, experiment.split, done, options, loss, watch)
                evaluated = tuple({**one, **other} for one, other in zip(evaluated, tuned, strict=True))
            spent = time.perf_counter() - trained
            history.append(_entry(federation, r, done, *evaluated, trained - began, spent))
        except KeyboardInterrupt:
            saves.write_tensors(folder / "checkpoint.pt", {"round": r - 1, "state": before[0], "history": before[1]})
            raise
        if r == options.rounds:
            saves.write_tensors(folder / "weights.pt", _final_weights(federation, done))
        if r == options.rounds or time.perf_counter() - written >= CHECKPOINT_SECONDS:
            saves.write_tensors(folder / "checkpoint.pt", {"round": r, "state": state, "history": history})
            written = time.perf_counter()
        watch(history[-1]["round"])


def _to(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        return {key: _to(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_to(value, device) for value in tree]
    return tree.to(device) if isinstance(tree, Tensor) else tree


def _check(options: Options, r: int, done: Round) -> None:
    losses = dict(zip([f"client {k}" for k in done.clients] or ["the server"], done.loss.tolist(), strict=True))
    if "server_loss" in done.told:
        losses["the server"] = done.told["server_loss"]
    wrong = [who for who, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise DivergedError(
            f"{options.algorithm}: the training loss of {wrong[0]} is {losses[wrong[0]]} in round {r}; "
            f"nothing after it would mean anything; a smaller --lr (it is {options.lr:g}) may help"
        )


def _entry(federation: Federation, r: int, done: Round, of_round: dict, of_clients: dict, seconds: float, evaluation: float):
    """A round's part of the history, as plain numbers and tensors; see `saves.frame_of`."""
    crossed = federation.wire.collect()
    effort, columns = dict(federation.effort), {}
    federation.effort.clear()
    totals: dict[str, float] = dict.fromkeys(("bytes_up", "bytes_down", "bytes_between", "steps", "samples"), 0)

    def count(name: str, client: int | None, amount: int) -> None:
        totals[name] = totals.get(name, 0) + amount
        if client is not None:
            columns.setdefault(name, {}).setdefault(client, 0)
            columns[name][client] += amount

    for (direction, kind), by_client in crossed.items():
        for client, nbytes in by_client.items():
            count(f"bytes_{direction}", client, nbytes)
            count(f"bytes_{direction}:{kind}", client, nbytes)
    for (what, party, client), amount in effort.items():
        count(what, client if party == "client" else None, amount)
    columns["loss"] = dict(zip(done.clients, done.loss.tolist(), strict=False))
    columns.update(of_clients)
    columns.update({name: told for name, told in done.told.items() if isinstance(told, dict)})
    of_all = {name: told for name, told in done.told.items() if not isinstance(told, dict)}
    present = sorted({client for column in columns.values() for client in column})
    clients = {
        name: torch.tensor([column.get(k, math.nan) for k in present], dtype=torch.float64)
        for name, column in columns.items()
    }
    clients["client"] = torch.tensor(present, dtype=torch.int64)
    loss = done.loss.mean().item() if len(done.loss) else math.nan
    timing = dict(zip(saves.TIMING, (seconds, evaluation), strict=True))
    return {"round": {"round": r, "loss": loss, **totals, **of_round, **of_all, **timing}, "clients": clients}


def _final_weights(federation: Federation, done: Round) -> dict[str, Any]:
    """{answer: weights}, or rows of weights where every client has its own."""

    def weights(answer: Callable, k: int) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in answer(k).state_dict().items()}

    return {
        name: weights(answer, 0) if name == "global" else [weights(answer, k) for k in federation.clients]
        for name, answer in done.answers.items()
    }


def _finish(experiment: Experiment) -> None:
    """Derive from the checkpoint what people open, and say that the run is done."""
    from saves import workbook  # openpyxl and pandas, not before they are needed

    folder = experiment.folder
    checkpoint = saves.read_checkpoint(folder)
    saves.write_frame(folder / "history.pkl", saves.frame_of(checkpoint["history"]))
    finished = saves.Run(folder, experiment.config)
    workbook.write(folder / ".history.xlsx", finished)
    (folder / ".history.xlsx").replace(folder / "history.xlsx")
    if "edges" in checkpoint["state"]:  # the clients are on a graph
        figures.exchange.report(finished, checkpoint["state"])
    (folder / "done").touch()
