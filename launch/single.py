"""One experiment, in any place: run it, complete its folder, and report a failure in one line."""

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
    """Pass log records, prepared for pickling, to a function."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """Pass a record to the function."""
        self.queue(record)


def be_worker(send: Callable[[logging.LogRecord], None]) -> None:
    """Turn this process into a worker, which executes runs for the process that has the terminal.

    Log records go to `send`. Freed memory stays with the process. torch computes with one thread unless a run asks for more.
    """
    allocator.keep_blocks()
    forward = _Forward(send)
    forward.setLevel(logging.INFO)
    logging.getLogger().handlers[:] = [forward]
    logging.captureWarnings(True)
    torch.set_num_threads(1)


def words_to(send: Callable[[str], None], message: object) -> None:
    """Send a message that is text; drop everything else that a run reports, since its rounds are in its folder."""
    if isinstance(message, str):
        send(message)


@dataclass(frozen=True)
class Failed:
    """Why there is no result: `reason` in one line; the file `log` has the details."""

    reason: str
    log: Path

    def __str__(self) -> str:
        return f"{self.reason} ({self.log})"


# How a run ended: with a result or a failure; or unfinished, because another process works on the run, nothing can be saved
# any more, the process of the run was killed, or the node is of another kind.
End = saves.Run | Failed | saves.BusyError | NoRoomError | LostError | nodes.DeclinedError


@dataclass
class Ending:
    """How a run ended; `end` is None until then."""

    end: End | None = None


@contextmanager
def end_of(experiment: Experiment) -> Iterator[Ending]:
    """Run one experiment inside this context; its saved run becomes `end`, and then its pictures are drawn.

    Any error becomes `end` too, and stops no other run; only a KeyboardInterrupt is raised. An `end` is small enough to send
    to another process.
    """
    result = Ending()
    try:
        with unmasked():
            yield result
            _draw_pictures(result.end)
        result.end = replace(result.end)  # a copy without the files that the run has read
    except (saves.BusyError, nodes.DeclinedError) as error:
        result.end = error
    except Exception as error:
        result.end = NoRoomError(reason_of(error)) if no_room(error) else failed(experiment, reason_of(error))


def _draw_pictures(run: saves.Run) -> None:
    """Draw the pictures of a finished run; a picture that fails is a warning. Raises the error of a full disk."""
    try:
        folder.complete(run)
    except Exception as error:
        if no_room(error):
            raise
        message = "%s: finished and saved, but a picture cannot be drawn: %s"
        logging.getLogger("chorus").warning(message, run.folder.name, reason_of(error))


def failed(experiment: Experiment, reason: str) -> Failed:
    """Return the Failed of an experiment, for this reason."""
    return Failed(reason, experiment.folder / "run.log")
