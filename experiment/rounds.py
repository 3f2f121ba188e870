"""The loop over rounds: each is played and evaluated, recorded, and from time to time saved."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from errors import unmasked
from experiment import divergence
from experiment.answers import write_answers
from experiment.checkpoints import Checkpoints, from_checkpoint
from experiment.measuring import Entry, passed_over, play, start
from experiment.preparation import Experiment, at_work
from federation import Federation, computing_with

Row = dict[str, float]  # of a round: its columns of the history
# the folder of a run and the rows that are there already, as it begins or goes on -> what gets each further row
Logger = Callable[[Path, Sequence[Row]], AbstractContextManager[Callable[[Row], None]]]


def play_rounds(
    experiment: Experiment,
    federation: Federation,
    saved: dict[str, Any] | None,
    watch: Callable[[Row | str], None],
    loggers: Sequence[Logger],
) -> dict[str, Any]:
    """Play the rounds after a checkpoint, or all of them; returns the checkpoint after the last one.

    See `experiment.run` for `watch`, for `loggers`, and for what is raised.
    """
    options, done = experiment.options, None
    state, history, files, first = _begun(experiment, federation, saved)
    with (
        _recorded(experiment, history, watch, loggers) as record,
        Checkpoints(experiment.folder, first - 1, state, history, files) as checkpoints,
        unmasked(),
    ):
        for r in range(first, options.rounds + 1):
            done, entry, confusion = play(experiment, federation, state, r, watch, done)
            history.append(entry)
            if r == options.rounds:
                files = write_answers(experiment, federation, done, confusion)
            # a round that all clients fail leaves what the one before it left: it is not the first to be played again
            if r == options.rounds or not passed_over(experiment, federation, r + 1):
                checkpoints.now(r, state, history, files)
            checkpoints.save(last=r == options.rounds)
            record(entry)
    return checkpoints.last


def follow(experiment: Experiment, saved: dict[str, Any] | None) -> None:
    """Play the rounds after a checkpoint, on a rank that does not lead: nothing is written."""
    with computing_with(1), at_work(experiment) as federation:
        state, _, _, first = _begun(experiment, federation, saved)
        done = None
        for r in range(first, experiment.options.rounds + 1):
            done, _, _ = play(experiment, federation, state, r, before=done)


def _begun(experiment: Experiment, federation: Federation, saved: dict[str, Any] | None) -> tuple[dict, list, dict, int]:
    """Return (state, history, digests of the files of the last round, number of the next round), from a checkpoint or from
    nothing."""
    if saved is not None:
        return from_checkpoint(saved, federation.device)
    state, entry = start(experiment, federation)
    divergence.warn(experiment.options, [entry])
    return state, [entry], {}, 1


@contextmanager
def _recorded(
    experiment: Experiment, history: Sequence[Entry], watch: Callable[[Row], None], loggers: Sequence[Logger]
) -> Iterator[Callable[[Entry], None]]:
    """Inside, whoever is to hear of a finished round does: its row goes to `watch` and to the loggers."""
    with ExitStack() as logs:
        rows = [entry["round"] for entry in history]
        told = [watch, *(logs.enter_context(logger(experiment.folder, rows)) for logger in loggers)]

        def record(entry: Entry) -> None:
            divergence.warn(experiment.options, history)
            for tell in told:
                tell(entry["round"])

        yield record
