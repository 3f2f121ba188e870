"""One experiment, wherever it runs: carried out, its folder completed, and its failure told in a line."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from logging.handlers import QueueHandler
from pathlib import Path

import torch

import saves
from errors import LostError, NoRoomError, no_room, reason_of, unmasked
from experiment import Experiment
from federation import allocator
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


def words_to(say: Callable[[str], None], news: object) -> None:
    """Tell words, of all that a run tells: its rounds are in its folder."""
    if isinstance(news, str):
        say(news)


@dataclass(frozen=True)
class Failed:
    """Why there is no result: `reason` in one line; `log` has the rest."""

    reason: str
    log: Path

    def __str__(self) -> str:
        return f"{self.reason} ({self.log})"


# How a run ended: with its result; or not yet, since another process is at work on it, nothing can be saved any more, its
# process was killed, or its node is of another kind.
End = saves.Run | Failed | saves.BusyError | NoRoomError | LostError | nodes.DeclinedError


@dataclass
class Ending:
    """How a run ended, once it has: `end`."""

    end: End | None = None


@contextmanager
def ending(one: Experiment) -> Iterator[Ending]:
    """Inside, one experiment is carried out, and its saved run becomes `end`; then its pictures are drawn. Whatever goes
    wrong becomes `end` too, and stops no other run; a KeyboardInterrupt is raised. An `end` is small enough to be sent."""
    told = Ending()
    try:
        with unmasked():
            yield told
            _draw(told.end)
        told.end = replace(told.end)  # without the files that it has read
    except (saves.BusyError, nodes.DeclinedError) as error:
        told.end = error
    except Exception as error:
        told.end = NoRoomError(reason_of(error)) if no_room(error) else failed(one, reason_of(error))


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
