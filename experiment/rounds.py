"""The rounds of an experiment, and how a run is saved and resumed."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import saves
from data import partition
from errors import LostError, reason_of
from experiment import divergence, identity
from experiment.measuring import is_evaluated, passed_over, play, start, untuned
from experiment.preparation import Experiment, at_work
from federation import Federation, computing_with, ranks
from helpers import Round
from options import Options

CHECKPOINT_SECONDS = 60  # at most this much work is lost when a run is killed, or the round it was in
CHECKPOINT_SHARE = 0.02  # less is lost where writing takes no more than this part of the work that it saves
FIRST_WRITE = 0.02, 1e8  # seconds, and bytes a second: what the first one is thought to take, on a slow disk
log = logging.getLogger("chorus")
log.setLevel(logging.DEBUG)  # a run's log gets all of it; what is shown is decided in run.py

Row = dict[str, float]  # of a round: its columns of the history
# the folder of a run and the rows that are there already, as it begins or goes on -> what gets each further row
Logger = Callable[[Path, Sequence[Row]], AbstractContextManager[Callable[[Row], None]]]


def run(
    experiment: Experiment,
    force: bool = False,
    watch: Callable[[Row | str], None] = lambda row: None,
    loggers: Sequence[Logger] = (),
) -> saves.Run:
    """Carry the experiment out, or go on with it, and save it; a finished run is returned as it is.

    `watch` is called after each round with its row of the history, and with words while clients fine-tune; `loggers` get
    the rows too, those of a run that goes on from its beginning. Raises DivergedError when a training loss is not finite,
    saves.BusyError where another process is at work on this run, LostError where a rank of torchrun has failed. A
    KeyboardInterrupt saves the last finished round, and so does a LostError.
    """
    folder = experiment.folder
    with saves.locked(folder):
        if force:
            saves.clear(folder)
        if saves.finished(folder):
            return saves.load(folder)
        with _logged(folder / "run.log", experiment.data.unverified):
            _begin(experiment)
            saved = saves.read_checkpoint(folder) or (None if force else _shorter(experiment))
            # one thread for what is not a server's phase or an evaluation, whatever the process has
            with computing_with(1), ranks.leading(_handed_over(experiment, saved)), at_work(experiment) as federation:
                _rounds(experiment, federation, saved, watch, loggers)
            _finish(experiment)
    return saves.load(folder)


def follow(experiment: Experiment, saved: dict[str, Any] | None) -> None:
    """Play the rounds of an experiment after `saved`, on a rank that does not lead: nothing is written."""
    with computing_with(1), at_work(experiment) as federation:
        state, first = (start(experiment, federation)[0], 1) if saved is None else _from(saved, federation)
        done = None
        for r in range(first, experiment.options.rounds + 1):
            done, _, _ = play(experiment, federation, state, r, before=done)


def _shorter(experiment: Experiment) -> dict[str, Any] | None:
    """The checkpoint of the longest finished run that asked for the same and for fewer rounds, as this run would have it.

    None where nothing of it would be the same: a learning rate that falls towards the end, a last round that this run does
    not evaluate, evaluations that between the rounds are not of every client, or clients that may all fail in the next one.
    """
    options, folder = experiment.options, experiment.folder
    if options.lr_schedule != "constant" or options.n_clients > saves.MANY or options.client_failure:
        return None
    found: dict[int, saves.Run] = {}
    for done in folder.parent.glob(f"{options.algorithm}-*-{folder.name.rpartition('-')[2]}/done"):
        run = saves.load(done.parent)
        r, as_long = run.options["rounds"], {**run.config, "options": {**run.options, "rounds": options.rounds}}
        if r < options.rounds and is_evaluated(options, r) and identity.name_of(as_long) == folder.name:
            found |= {} if "any_node" in run.config else {r: run}
    if not found:
        return None
    r = max(found)
    log.info("%s: its first %d rounds are those of %s", folder.name, r, found[r].folder.name)
    saved = saves.read_checkpoint(found[r].folder)
    *before, last = saved["history"]
    return {**saved, "history": [*before, untuned(last)]}


def _handed_over(experiment: Experiment, saved: dict[str, Any] | None) -> tuple[Experiment, dict[str, Any] | None]:
    """What other ranks are to follow: the data set is there already, and the history is of no use."""
    return replace(experiment, data=None), saved and {**saved, "history": None}


@contextmanager
def _logged(path: Path, unverified: str) -> Iterator[None]:
    """Inside, the command, warnings and tracebacks go to the run's log as well; why it failed is left beside it."""
    failed = path.with_name("failed")
    failed.unlink(missing_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    log.debug("%s in %s", " ".join(sys.argv), Path.cwd())
    if unverified:
        log.debug("unverified data: %s", unverified)
    try:
        yield
    except BaseException as error:
        log.debug("stopped", exc_info=True)
        if isinstance(error, Exception):
            with suppress(OSError):  # of a full disk, say, which may be why
                failed.write_text(f"{reason_of(error)}\n")
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _begin(experiment: Experiment) -> None:
    saves.write_json(experiment.folder / "config.json", experiment.config)
    save_split(experiment, experiment.folder / "split.npz")


def save_split(experiment: Experiment, path: Path | None = None) -> Path:
    """Save the split as `.npz` -> where it is. Without a path it lies beside the runs, named by the data set, the partition
    and the split's digest."""
    options, split = experiment.options, experiment.split
    named = f"split-{identity.stem(experiment.data.name)}-{options.partition}-{split.digest}.npz"
    path = path or experiment.folder.parent / named
    path.parent.mkdir(parents=True, exist_ok=True)
    saves.write_arrays(path, partition.arrays(experiment.data, split))
    return path


def _rounds(
    experiment: Experiment,
    federation: Federation,
    saved: dict[str, Any] | None,
    watch: Callable[[Row | str], None],
    loggers: Sequence[Logger],
) -> None:
    options, folder = experiment.options, experiment.folder
    if saved is None:
        state, entry = start(experiment, federation)
        history, first = [entry], 1
        _warn(options, history)
    else:
        (state, first), history = _from(saved, federation), saved["history"]
        log.info("%s: resumed after round %d of %d", folder.name, saved["round"], options.rounds)

    with ExitStack() as logs:
        rows = [entry["round"] for entry in history]
        told = [watch, *(logs.enter_context(logger(folder, rows)) for logger in loggers)]
        finished = _as_of(first - 1, state, history)
        written, cost, done = time.perf_counter(), _first_write(finished), None
        try:
            for r in range(first, options.rounds + 1):
                done, entry, confusion = play(experiment, federation, state, r, watch, done)
                history.append(entry)
                _warn(options, history)
                if r == options.rounds:
                    saves.write_tensors(folder / "weights.pt", _final_weights(federation, done))
                    tables = {name: table.cpu().numpy() for name, table in confusion.items()}
                    saves.write_arrays(folder / "confusion.npz", {**tables, "classes": np.array(experiment.data.classes)})
                now = time.perf_counter()
                # one that is passed over leaves what the round before it left, so it is not the first to be played again
                if r == options.rounds or not passed_over(experiment, federation, r + 1):
                    finished = _as_of(r, state, history)
                if r == options.rounds or now - written >= min(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE):
                    saves.write_tensors(folder / "checkpoint.pt", finished)
                    written = time.perf_counter()
                    cost = written - now
                for tell in told:
                    tell(entry["round"])
        except (KeyboardInterrupt, LostError):
            saves.write_tensors(folder / "checkpoint.pt", finished)
            raise


def _warn(options: Options, history: list) -> None:
    """Once in a run, that it has diverged and goes on."""
    if words := divergence.first(options, history):
        log.warning(words)


def _as_of(r: int, state: dict, history: list) -> dict[str, Any]:
    """A checkpoint after round r, which stays as it is while the next round goes on: a round replaces what it changes."""
    return {"round": r, "state": dict(state), "history": list(history)}


def _first_write(checkpoint: Any) -> float:
    """Seconds that it may take to write a checkpoint where none has been written yet."""
    seconds, speed = FIRST_WRITE
    return seconds + _nbytes(checkpoint) / speed


def _nbytes(tree: Any) -> int:
    if isinstance(tree, dict | list | tuple):
        return sum(map(_nbytes, tree.values() if isinstance(tree, dict) else tree))
    return tree.nbytes if isinstance(tree, Tensor) else 0


def _from(saved: dict[str, Any], federation: Federation) -> tuple[dict[str, Any], int]:
    """A checkpoint's state, on the device of a federation, and the number of the next round."""
    return _to(saved["state"], federation.device), saved["round"] + 1


def _to(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        return {key: _to(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_to(value, device) for value in tree]
    return tree.to(device) if isinstance(tree, Tensor) else tree


def _final_weights(federation: Federation, done: Round) -> dict[str, Any]:
    """{answer: weights}, or rows of weights where every client has its own."""

    def weights(answer: Callable, k: int) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in answer(k).state_dict().items()}

    return {
        name: weights(answer, 0) if name == "global" else [weights(answer, k) for k in federation.clients]
        for name, answer in done.answers.items()
    }


def _write_features(experiment: Experiment, entries: Sequence[dict]) -> None:
    """`features.npz`: "rounds" int64 [T]; of each client k "features_k" float32 [T, n, D] and "labels_k" int64 [n];
    "classes"."""
    if not entries:
        return
    arrays = {
        "rounds": np.array([entry["round"]["round"] for entry in entries]),
        "classes": np.array(experiment.data.classes),
    }
    for name, of_last in entries[-1]["features"].items():
        rows = [entry["features"][name].numpy() for entry in entries]
        arrays[name] = np.stack(rows) if name.startswith("features") else of_last.numpy()
    saves.write_arrays(experiment.folder / "features.npz", arrays)


def _finish(experiment: Experiment) -> None:
    """Derive from the checkpoint what people open, and say that the run is done."""
    from saves import workbook  # openpyxl and pandas, not before they are needed

    folder = experiment.folder
    checkpoint = saves.read_checkpoint(folder)
    saves.write_frame(folder / "history.pkl", saves.frame_of(checkpoint["history"]))
    _write_features(experiment, [entry for entry in checkpoint["history"] if "features" in entry])
    finished = saves.Run(folder, experiment.config)
    workbook.write(folder / ".history.xlsx", finished)
    (folder / ".history.xlsx").replace(folder / "history.xlsx")
    (folder / "done").touch()
