"""The rounds of an experiment, and how a run is saved and resumed."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import plugins
import saves
from data import partition
from errors import LostError, UserError, reason_of, unmasked
from experiment import divergence, identity
from experiment.measuring import is_evaluated, passed_over, play, start, untuned
from experiment.preparation import Experiment, at_work
from federation import Federation, computing_with, ranks
from helpers import Round
from options import Options
from untrusted import InertFormatter, RefusedError, appended, inert, read_bytes

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
    KeyboardInterrupt saves the last finished round, and so does a LostError. Raises UserError where a
    plugin has changed Chorus.
    """
    plugins.check()
    folder = experiment.folder
    with ExitStack() as held:
        try:
            held.enter_context(saves.locked(folder))
        except OSError:  # of somebody else's, or on a disk that is only read: what is finished needs no lock
            if force or not saves.finished(folder):
                raise
            saves.verify(there := saves.load(folder))
            return there
        if force:
            saves.clear(folder)
        if (there := saves.whole(folder, "the run is made anew, from its checkpoint where that is good")) is not None:
            return there
        (folder / saves.DONE).unlink(missing_ok=True)  # of a damaged one: it is unfinished from now on
        with _logged(folder / "run.log", experiment.data.unverified):
            saves.remove_half_written(folder)
            digests = _begin(experiment)
            told = saves.saved_round(folder)
            saved = saves.read_checkpoint(folder, experiment.options.rounds, remove=True)
            saved = saved or (None if force else _shorter(experiment))
            _tell_where_it_goes_on(experiment, saved, told)
            # one thread for what is not a server's phase or an evaluation, whatever the process has
            with computing_with(1), ranks.leading(_handed_over(experiment, saved)), at_work(experiment) as federation:
                last = _rounds(experiment, federation, saved, watch, loggers)
            _finish(experiment, last, digests)
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
    for run in _neighbours(folder):
        r, as_long = run.options["rounds"], {**run.config, "options": {**run.options, "rounds": options.rounds}}
        if r < options.rounds and is_evaluated(options, r) and identity.name_of(as_long) == folder.name:
            found |= {} if "any_node" in run.config else {r: run}
    if not found:
        return None
    r = max(found)
    try:
        saved = saves.read_checkpoint(found[r].folder, r)
    except PermissionError as error:
        log.warning("%s is passed over: %s", found[r].folder.name, reason_of(error))
        return None
    if saved is None:
        return None
    log.info("%s: its first %d rounds are those of %s", folder.name, r, found[r].folder.name)
    *before, last = saved["history"]
    return {**saved, "history": [*before, untuned(last)]}


def _neighbours(folder: Path) -> Iterator[saves.Run]:
    """The finished runs beside a run's folder that the same code and processor made. A damaged one and one that may not be
    read are told, and stop nobody."""
    carried = folder.name.rpartition("-")[2]
    for other in saves.folders_in(folder.parent):
        if not fnmatchcase(other.name, f"{folder.name.partition('-')[0]}-*-{carried}"):
            continue
        if (why := saves.unreadable(other)) is not None:
            log.warning("%s is passed over: %s", other.name, why)
            continue
        if not saves.finished(other):
            continue
        try:
            yield saves.load(other)
        except saves.DamagedError as error:
            log.warning("%s; it is passed over", error)
        except UserError:  # removed since
            continue


def _handed_over(experiment: Experiment, saved: dict[str, Any] | None) -> tuple[Experiment, dict[str, Any] | None]:
    """What other ranks are to follow: the data set is there already, and the history is of no use."""
    return replace(experiment, data=None), saved and {**saved, "history": None}


class _RunLog(logging.FileHandler):
    """Writes to a regular file alone: to open a pipe would wait for its reader."""

    def _open(self):
        return appended(Path(self.baseFilename))


@contextmanager
def _logged(path: Path, unverified: str) -> Iterator[None]:
    """Inside, the command, warnings and tracebacks go to the run's log as well; why it failed is left beside it."""
    failed = path.with_name("failed")
    failed.unlink(missing_ok=True)
    handler = _RunLog(path, encoding="utf-8")
    # of a full disk the log says nothing: the run ends, and tells it, with the first file that it cannot write
    handler.handleError = lambda record: None
    handler.setFormatter(InertFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    log.debug("%s in %s", inert(" ".join(sys.argv)), inert(Path.cwd()))
    if unverified:
        log.debug("unverified data: %s", unverified)
    try:
        yield
    except BaseException as error:
        log.debug("stopped", exc_info=True)
        if isinstance(error, Exception):
            with suppress(OSError):  # of a full disk, say, which may be why
                saves.write_text(failed, f"{inert(reason_of(error))}\n")
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()


def _begin(experiment: Experiment) -> dict[str, str]:
    """What is asked for, and who gets what -> {file: digest}."""
    folder = experiment.folder
    return {
        "config.json": saves.write_json(folder / "config.json", experiment.config),
        "split.npz": saves.write_arrays(folder / "split.npz", partition.arrays(experiment.data, experiment.split)),
    }


def save_split(experiment: Experiment) -> Path:
    """Save the split as `.npz` beside the runs, named by data set, partition and the split's digest -> where it is."""
    options, split = experiment.options, experiment.split
    named = f"split-{identity.stem(experiment.data.name)}-{options.partition}-{split.digest}.npz"
    path = experiment.folder.parent / named
    path.parent.mkdir(parents=True, exist_ok=True)
    saves.write_arrays(path, partition.arrays(experiment.data, split))
    return path


def _rounds(
    experiment: Experiment,
    federation: Federation,
    saved: dict[str, Any] | None,
    watch: Callable[[Row | str], None],
    loggers: Sequence[Logger],
) -> dict[str, Any]:
    """Play those after a checkpoint -> the checkpoint after the last one."""
    options, folder = experiment.options, experiment.folder
    if saved is None:
        state, entry = start(experiment, federation)
        history, first, files = [entry], 1, {}
        _warn(options, history)
    else:
        (state, first), history, files = _from(saved, federation), saved["history"], saved["files"]

    with ExitStack() as logs:
        rows = [entry["round"] for entry in history]
        told = [watch, *(logs.enter_context(logger(folder, rows)) for logger in loggers)]
        finished = _as_of(first - 1, state, history, files)
        written, cost, done = time.perf_counter(), _first_write(finished), None
        try:
            with unmasked():
                for r in range(first, options.rounds + 1):
                    done, entry, confusion = play(experiment, federation, state, r, watch, done)
                    history.append(entry)
                    _warn(options, history)
                    files = _write_answers(experiment, federation, done, confusion) if r == options.rounds else {}
                    now = time.perf_counter()
                    # one that is passed over leaves what the round before it left: it is not the first to be played again
                    if r == options.rounds or not passed_over(experiment, federation, r + 1):
                        finished = _as_of(r, state, history, files)
                    if r == options.rounds or now - written >= min(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE):
                        saves.write_checkpoint(folder, finished)
                        written = time.perf_counter()
                        cost = written - now
                    for tell in told:
                        tell(entry["round"])
        except (KeyboardInterrupt, LostError):
            try:
                saves.write_checkpoint(folder, finished)
            except OSError as error:  # who is told to stop stops
                log.warning("%s: round %d is not saved: %s", folder.name, finished["round"], reason_of(error))
            raise
    return finished


def _tell_where_it_goes_on(experiment: Experiment, saved: dict[str, Any] | None, told: int) -> None:
    """After which round, and which rounds are lost: those that had been played since, of which there is a row or, of `told`,
    was a checkpoint."""
    folder, done = experiment.folder, saved["round"] if saved else 0
    played = max(told, _last_row(folder / "history.csv"))
    lost = f"round {played} is" if played == done + 1 else f"rounds {done + 1} to {played} are"
    words = f"; {lost} played again" if played > done else ""
    if done:
        log.info("%s: resumed after round %d of %d%s", folder.name, done, experiment.options.rounds, words)
    elif played:
        log.info("%s: begins anew, no good checkpoint is there%s", folder.name, words)


def _last_row(path: Path) -> int:
    """The last round whose row is in `history.csv`, 0 where that says nothing."""
    try:
        last = read_bytes(path).splitlines()[-1].partition(b",")[0]
    except (RefusedError, IndexError):
        return 0
    return int(last) if last.isdigit() else 0


def _as_of(r: int, state: dict, history: list, files: dict[str, str]) -> dict[str, Any]:
    """A checkpoint after round r, which stays as it is while the next round goes on: a round replaces what it changes.
    `files`: {name: digest} of what was written in the last round."""
    return {"round": r, "state": dict(state), "history": list(history), "files": files}


def _warn(options: Options, history: list) -> None:
    """Once in a run, that it has diverged and goes on."""
    if words := divergence.first(options, history):
        log.warning(words)


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


def _write_answers(experiment: Experiment, federation: Federation, done: Round, confusion: dict) -> dict[str, str]:
    """The weights after the last round, and which class was taken for which -> {file: digest}."""
    folder = experiment.folder
    tables = {name: table.cpu().numpy() for name, table in confusion.items()}
    tables["classes"] = np.array(experiment.data.classes)
    return {
        "weights.pt": saves.write_tensors(folder / "weights.pt", _final_weights(federation, done)),
        "confusion.npz": saves.write_arrays(folder / "confusion.npz", tables),
    }


def _final_weights(federation: Federation, done: Round) -> dict[str, Any]:
    """{answer: weights}, or rows of weights where every client has its own."""

    def weights(answer: Callable, k: int) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in answer(k).state_dict().items()}

    return {
        name: weights(answer, 0) if name == "global" else [weights(answer, k) for k in federation.clients]
        for name, answer in done.answers.items()
    }


def _write_features(experiment: Experiment, entries: Sequence[dict]) -> dict[str, str]:
    """`features.npz`: "rounds" int64 [T]; of each client k "features_k" float32 [T, n, D] and "labels_k" int64 [n];
    "classes" -> {file: digest}, {} where no features were kept."""
    if not entries:
        return {}
    arrays = {
        "rounds": np.array([entry["round"]["round"] for entry in entries]),
        "classes": np.array(experiment.data.classes),
    }
    for name, of_last in entries[-1]["features"].items():
        rows = [entry["features"][name].numpy() for entry in entries]
        arrays[name] = np.stack(rows) if name.startswith("features") else of_last.numpy()
    return {"features.npz": saves.write_arrays(experiment.folder / "features.npz", arrays)}


def _finish(experiment: Experiment, last: dict[str, Any], digests: dict[str, str]) -> None:
    """Derive from the last checkpoint what people open, and say that the run is done, and what is in its files."""
    from saves import workbook  # openpyxl and pandas, not before they are needed

    folder = experiment.folder
    checkpoint, *older = saves.checkpoints(folder)
    for path in older:
        path.unlink()
    digests = {
        **digests,
        **last["files"],
        **_write_features(experiment, [entry for entry in last["history"] if "features" in entry]),
        "history.npz": saves.write_history(folder, saves.frame_of(last["history"])),
        checkpoint.name: saves.digest_of(checkpoint),
    }
    finished = saves.Run(folder, experiment.config, digests)
    saves.written(folder / "history.xlsx", lambda path: workbook.write(path, finished))
    saves.write_done(folder, digests)
