"""The checkpoints of a run: when they are written, and from which one a run goes on."""

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

SECONDS = 60  # at most this much work is lost when a run is killed, or the round it was in
SHARE = 0.02  # less is lost where writing takes no more than this part of the work that it saves
FIRST_WRITE = 0.02, 1e8  # seconds, and bytes a second: what the first one is thought to take, on a slow disk
log = logging.getLogger("chorus")


class Checkpoints(AbstractContextManager):
    """The last finished round of a run, which goes to its folder from time to time, and where an interrupt or the loss of a
    process ends the rounds. `last`: {"round", "state", "history", "files": {name: digest} of what the last round wrote}."""

    def __init__(self, folder: Path, r: int, state: dict, history: list, files: dict[str, str]) -> None:
        self._folder = folder
        self.now(r, state, history, files)
        seconds, speed = FIRST_WRITE
        self._written, self._cost = time.perf_counter(), seconds + _nbytes(self.last) / speed

    def now(self, r: int, state: dict, history: list, files: dict[str, str]) -> None:
        """Round r is finished. What is kept of it stays as it is while the next round goes on: a round replaces what it
        changes."""
        self.last = {"round": r, "state": dict(state), "history": list(history), "files": files}

    def save(self, last: bool) -> None:
        """Write the last finished round, where enough time has passed since another was written, or it is the `last`."""
        now = time.perf_counter()
        if last or now - self._written >= min(SECONDS, self._cost / SHARE):
            saves.write_checkpoint(self._folder, self.last)
            self._written = time.perf_counter()
            self._cost = self._written - now

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt | LostError):
            try:
                saves.write_checkpoint(self._folder, self.last)
            except OSError as error:  # who is told to stop stops
                log.warning("%s: round %d is not saved: %s", self._folder.name, self.last["round"], reason_of(error))


def _nbytes(tree: Any) -> int:
    if isinstance(tree, dict | list | tuple):
        return sum(map(_nbytes, tree.values() if isinstance(tree, dict) else tree))
    return tree.nbytes if isinstance(tree, Tensor) else 0


def from_checkpoint(saved: dict[str, Any], device: torch.device) -> tuple[dict, list, dict, int]:
    """Return what a checkpoint holds: (state, on a device; history; digests of files; number of the next round)."""
    return _to(saved["state"], device), saved["history"], saved["files"], saved["round"] + 1


def _to(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        return {key: _to(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_to(value, device) for value in tree]
    return tree.to(device) if isinstance(tree, Tensor) else tree


def checkpoint_of(experiment: Experiment, force: bool) -> dict[str, Any] | None:
    """Return the checkpoint from which a run goes on: its own, or unless `force` that of a shorter run; None where there is
    neither. Which it is is told, and which rounds were lost."""
    told = saves.saved_round(experiment.folder)
    saved = saves.read_checkpoint(experiment.folder, experiment.options.rounds, remove=True)
    saved = saved or (None if force else _shorter(experiment))
    _tell_where_it_goes_on(experiment, saved, told)
    return saved


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
