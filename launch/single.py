"""One experiment, wherever it runs: carried out, its folder completed, and its failure told in a line."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler
from pathlib import Path

import torch

import allocator
import experiment
import saves
from errors import NoRoomError, no_room, reason_of, unmasked
from experiment import Experiment
from experiment.rounds import Logger, Row
from figures import folder
from launch import nodes


class _Forward(QueueHandler):
    """Hands what is logged to a function, ready to be pickled."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand it over."""
        self.queue(record)


def be_worker(say: Callable[[logging.LogRecord], None]) -> None:
    """Make this process one that carries out runs for another, which has the terminal: what is logged goes to `say`, memory
    stays, and torch computes with one thread where a run does not ask for more."""
    allocator.keep_blocks()
    forward = _Forward(say)
    forward.setLevel(logging.INFO)
    logging.getLogger().handlers[:] = [forward]
    logging.captureWarnings(True)
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Failed:
    """Why there is no result: `reason` in one line; `log` has the rest."""

    reason: str
    log: Path

    def __str__(self) -> str:
        return f"{self.reason} ({self.log})"


def carry_out(
    one: Experiment, force: bool, loggers: Sequence[Logger], watch: Callable[[Row | str], None]
) -> saves.Run | Failed:
    """The saved run, or why it failed: whatever that is, it stops no other. Raises saves.BusyError where another process is
    at work on it, NoRoomError where nothing can be saved any more, and KeyboardInterrupt once the last finished round is
    saved."""
    try:
        with unmasked():
            if not force:
                one = nodes.going_on(one)
            run = experiment.run(one, force, watch, loggers)
            _draw(run)
    except saves.BusyError:
        raise
    except Exception as error:
        if no_room(error):
            raise NoRoomError(reason_of(error)) from error
        return failed(one, reason_of(error))
    return run


def _draw(run: saves.Run) -> None:
    """Draw the pictures of a finished run; one that cannot be drawn is a warning. Raises what a full disk raises."""
    try:
        folder.complete(run)
    except Exception as error:
        if no_room(error):
            raise
        words = "%s is finished and saved; a picture of it cannot be drawn: %s"
        logging.getLogger("chorus").warning(words, run.folder.name, reason_of(error))


def failed(one: Experiment, reason: str) -> Failed:
    """That a run failed for this reason."""
    return Failed(reason, one.folder / "run.log")
