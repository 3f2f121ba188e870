"""The loop over rounds: run, evaluate and record each round, and save checkpoints at intervals."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from errors import unmasked
from experiment import defences, divergence
from experiment.answers import write_answers, write_recording
from experiment.checkpoints import Checkpoints, from_checkpoint
from experiment.measuring import Entry, passed_over, play, start
from experiment.preparation import Experiment, at_work
from federation import Federation, computing_with, ranks

Row = dict[str, float]  # a round's columns of the history
# (folder of a run, its existing rows) -> context manager of the function that receives each further row
Logger = Callable[[Path, Sequence[Row]], AbstractContextManager[Callable[[Row], None]]]


def play_rounds(
    experiment: Experiment,
    federation: Federation,
    saved: dict[str, Any] | None,
    watch: Callable[[Row | str], None],
    loggers: Sequence[Logger],
) -> dict[str, Any]:
    """Run the rounds after a checkpoint, or all rounds; return the checkpoint after the last round.

    See `experiment.run` for `watch`, `loggers` and errors.
    """
    options, result = experiment.options, None
    state, history, files, first = _initial_or_saved(experiment, federation, saved)
    if saved is None:
        files = write_recording(experiment, federation, 0, state)
    accountant = defences.Accountant(options, experiment.module, [len(share) for share in federation.shares], history)
    # ranks evaluate together, and a row that stays the same on one rank may arrive anew on another
    remembered = {} if ranks.world() == 1 else None
    with (
        _recorded(experiment, history, watch, loggers) as record,
        Checkpoints(experiment.folder, first - 1, state, history, files) as checkpoints,
        unmasked(),
    ):
        for r in range(first, options.rounds + 1):
            result, entry, confusion = play(experiment, federation, state, r, watch, result, remembered)
            entry["round"].update(accountant.columns(entry))
            history.append(entry)
            files = {**files, **write_recording(experiment, federation, r, state)}
            if r == options.rounds:
                files = {**files, **write_answers(experiment, federation, result, confusion)}
            # if all clients of the next round fail, its result is this round's, so a resumed run must not start with it
            if r == options.rounds or not passed_over(experiment, federation, r + 1):
                checkpoints.now(r, state, history, files)
            checkpoints.save(last=r == options.rounds)
            record(entry)
    return checkpoints.last


def follow(experiment: Experiment, saved: dict[str, Any] | None) -> None:
    """Run the rounds after a checkpoint on a rank that does not lead; write nothing."""
    with computing_with(1), at_work(experiment) as federation:
        state, _, _, first = _initial_or_saved(experiment, federation, saved)
        result = None
        for r in range(first, experiment.options.rounds + 1):
            result, _, _ = play(experiment, federation, state, r, before=result)


def _initial_or_saved(
    experiment: Experiment, federation: Federation, saved: dict[str, Any] | None
) -> tuple[dict, list, dict, int]:
    """Return (state, history, digests of the last round's files, next round), new or from a checkpoint."""
    if saved is not None:
        return from_checkpoint(saved, federation.device)
    state, entry = start(experiment, federation)
    divergence.warn(experiment.options, [entry])
    return state, [entry], {}, 1


@contextmanager
def _recorded(
    experiment: Experiment, history: Sequence[Entry], watch: Callable[[Row], None], loggers: Sequence[Logger]
) -> Iterator[Callable[[Entry], None]]:
    """Yield a function that passes the row of a finished round to `watch` and to the loggers."""
    with ExitStack() as logs:
        rows = [entry["round"] for entry in history]
        receivers = [watch, *(logs.enter_context(logger(experiment.folder, rows)) for logger in loggers)]

        def record(entry: Entry) -> None:
            divergence.warn(experiment.options, history)
            for receive in receivers:
                receive(entry["round"])

        yield record
