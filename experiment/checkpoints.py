"""The checkpoints of a run: when Chorus writes them, and from which checkpoint a run resumes."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import saves
from errors import LostError, UserError, reason_of
from experiment import identity
from experiment.measuring import is_evaluated, untuned
from experiment.preparation import Experiment
from untrusted import RefusedError, read_bytes

SECONDS = 60  # a killed run loses at most this much work, or its unfinished round
SHARE = 0.02  # writing more often may take at most this fraction of the time of the work that it saves
FIRST_WRITE = 0.02, 1e8  # seconds, and bytes per second: the estimate for the first checkpoint, on a slow disk
log = logging.getLogger("chorus")


class Checkpoints(AbstractContextManager):
    """The last finished round of a run, which `save` writes to the run's folder at intervals.

    An interrupt or the loss of a process ends the rounds; then the last finished round is written. `last`: {"round",
    "state", "history", "files": {name: digest} of the files that the last round wrote}.
    """

    def __init__(self, folder: Path, r: int, state: dict, history: list, files: dict[str, str]) -> None:
        self._folder = folder
        self.now(r, state, history, files)
        seconds, speed = FIRST_WRITE
        self._written, self._cost = time.perf_counter(), seconds + _nbytes(self.last) / speed

    def now(self, r: int, state: dict, history: list, files: dict[str, str]) -> None:
        """Record that round r is finished.

        The record does not change while the next round runs: a round replaces what it changes.
        """
        self.last = {"round": r, "state": dict(state), "history": list(history), "files": files}

    def save(self, last: bool) -> None:
        """Write the last finished round if enough time has passed since the last write, or if it is the `last` round."""
        current_time = time.perf_counter()
        if last or current_time - self._written >= min(SECONDS, self._cost / SHARE):
            saves.write_checkpoint(self._folder, self.last)
            self._written = time.perf_counter()
            self._cost = self._written - current_time

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt | LostError):
            try:
                saves.write_checkpoint(self._folder, self.last)
            except OSError as error:  # an interrupted run must stop even if its checkpoint cannot be written
                log.warning("%s: cannot save round %d: %s", self._folder.name, self.last["round"], reason_of(error))


def _nbytes(tree: Any) -> int:
    if isinstance(tree, dict | list | tuple):
        return sum(map(_nbytes, tree.values() if isinstance(tree, dict) else tree))
    return tree.nbytes if isinstance(tree, Tensor) else 0


def from_checkpoint(saved: dict[str, Any], device: torch.device) -> tuple[dict, list, dict, int]:
    """Return the parts of a checkpoint: (state on `device`, history, digests of files, number of the next round)."""
    return _move_to(saved["state"], device), saved["history"], saved["files"], saved["round"] + 1


def _move_to(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        # Adam counts its steps on the CPU: a step would wait for a counter on a GPU
        counters = {"step"} if "exp_avg" in tree else ()
        return {key: value if key in counters else _move_to(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_move_to(value, device) for value in tree]
    return tree.to(device) if isinstance(tree, Tensor) else tree


def checkpoint_of(experiment: Experiment, force: bool) -> dict[str, Any] | None:
    """Return the checkpoint from which a run resumes; None if there is none.

    This is the run's own checkpoint or, unless `force`, the checkpoint of a shorter run. The log says which checkpoint it is
    and which rounds were lost.
    """
    saved_round = saves.saved_round(experiment.folder)
    saved = saves.read_checkpoint(experiment.folder, experiment.options.rounds, remove=True)
    saved = saved or (None if force else _checkpoint_of_shorter_run(experiment))
    _log_resume_point(experiment, saved, saved_round)
    return saved


def _checkpoint_of_shorter_run(experiment: Experiment) -> dict[str, Any] | None:
    """Return the checkpoint of the longest finished run with the same options and fewer rounds, as this run would have it.

    Return None if the shorter run would differ: the learning rate falls towards the end, this run does not evaluate the
    shorter run's last round, evaluations between the rounds do not cover every client, all clients may fail in the next
    round, messages are recorded, or there are new clients.
    """
    options, folder = experiment.options, experiment.folder
    if options.lr_schedule != "constant" or options.n_clients > saves.MANY or options.client_failure or options.record_wire:
        return None
    if options.new_clients:  # their rows in the shorter run's last round belong to the last round only
        return None
    candidates: dict[int, saves.Run] = {}
    for run in _finished_runs_beside(folder):
        r, extended = run.options["rounds"], {**run.config, "options": {**run.options, "rounds": options.rounds}}
        if r < options.rounds and is_evaluated(options, r) and identity.name_of(extended) == folder.name:
            candidates |= {} if "any_node" in run.config else {r: run}
    if not candidates:
        return None
    r = max(candidates)
    try:
        saved = saves.read_checkpoint(candidates[r].folder, r)
    except PermissionError as error:
        log.warning("%s skipped: %s", candidates[r].folder.name, reason_of(error))
        return None
    if saved is None:
        return None
    log.info("%s: takes its first %d rounds from %s", folder.name, r, candidates[r].folder.name)
    *earlier, last = saved["history"]
    return {**saved, "history": [*earlier, untuned(last)]}


def _finished_runs_beside(folder: Path) -> Iterator[saves.Run]:
    """Yield the finished runs next to a run's folder that have the same code and CPU.

    Log a warning for a damaged or unreadable run and skip the run.
    """
    source_digest = folder.name.rpartition("-")[2]
    for other in saves.folders_in(folder.parent):
        if not fnmatchcase(other.name, f"{folder.name.partition('-')[0]}-*-{source_digest}"):
            continue
        if (reason := saves.unreadable(other)) is not None:
            log.warning("%s skipped: %s", other.name, reason)
            continue
        if not saves.finished(other):
            continue
        try:
            yield saves.load(other)
        except saves.DamagedError as error:
            log.warning("%s; skipping it", error)
        except UserError:  # another process has removed the run
            continue


def _log_resume_point(experiment: Experiment, saved: dict[str, Any] | None, saved_round: int) -> None:
    """Log the round after which the run resumes, and the lost rounds.

    Lost rounds are finished rounds after the checkpoint: `history.csv` has a row for them, or `saved_round` is the round of
    a checkpoint.
    """
    folder, resumed_round = experiment.folder, saved["round"] if saved else 0
    last_round = max(saved_round, _last_row(folder / "history.csv"))
    lost = f"round {last_round}" if last_round == resumed_round + 1 else f"rounds {resumed_round + 1} to {last_round}"
    note = f"; repeating {lost}" if last_round > resumed_round else ""
    if resumed_round:
        log.info("%s: resumed after round %d of %d%s", folder.name, resumed_round, experiment.options.rounds, note)
    elif last_round:
        log.info("%s: starts again from round 1, because it has no good checkpoint%s", folder.name, note)


def _last_row(path: Path) -> int:
    """Return the last round with a row in `history.csv`, 0 if the file has no valid row."""
    try:
        last = read_bytes(path).splitlines()[-1].partition(b",")[0]
    except (RefusedError, IndexError):
        return 0
    return int(last) if last.isdigit() else 0
