"""The one loop that makes runs, wherever they are made.

How a run stands is in its folder: its lock says that a process is at work on it, `history.csv` and the checkpoints say how
far it is, `done` or `failed` how it ended. So any process that sees the folder can make the run. A place only begins a run
and says when it has ended: `Here` in this process, `processes` side by side on this machine, `ray` on nodes of a cluster.
An element of a Slurm job, or the same command given twice, is this loop once more: it takes the next run that is unfinished
and that nobody else is at work on.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

import experiment
import saves
from errors import LostError, NoRoomError
from experiment import Experiment
from experiment.rounds import Logger
from launch import single
from launch.display import Display
from launch.scheduling import POLL, next_of
from launch.single import End, Failed


def carry_out(
    experiments: Sequence[Experiment], place: "Here", display: Display, force: bool = False, patience: float = math.inf
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Make the runs, in this order, as far as there is room; yields each with its result as it ends. A run that another
    process is at work on comes last; where there is nothing else to do for `patience` seconds, it is left to that process
    and not yielded. Raises NoRoomError where nothing can be saved any more."""
    waiting, kills, idle = list(experiments), Counter(), 0.0
    with place:
        while waiting or place.running:
            fitting = place.fitting(waiting)
            if one := next_of(fitting):
                waiting.remove(one)
                idle = 0.0
                display.begins(one)
                place.begin(one, force and not kills[one.folder])
                continue
            if fitting and not place.running:
                if idle >= patience:
                    return
                idle += POLL
                display.waits(len(waiting))
            for one, end in place.ended(POLL):
                if isinstance(end, NoRoomError):
                    raise end
                kills[one.folder] += isinstance(end, LostError)
                if isinstance(end, LostError) and kills[one.folder] == place.tries:
                    end = single.failed(one, f"{display.standings[one.folder].label}: {end}, {place.tries} times")
                if isinstance(end, saves.Run | Failed):
                    display.stops(one, end)
                    yield one, end
                else:
                    display.stops(one)
                    waiting.append(one)  # after all others
            display.look()


class Here(AbstractContextManager):
    """In this process, one run after another; and what every place can do. On leaving a place, the runs that are at work
    there are stopped, and their last finished round is saved. A run whose process is killed is begun `tries` times."""

    tries = 1

    def __init__(self, loggers: Sequence[Logger], display: Display) -> None:
        self._loggers, self._display = loggers, display
        self._ended: list[tuple[Experiment, End]] = []

    def __exit__(self, *_) -> None:
        pass

    @property
    def running(self) -> int:
        """The number of runs that have begun and of which `ended` has not told."""
        return len(self._ended)

    def fitting(self, waiting: Sequence[Experiment]) -> Sequence[Experiment]:
        """The waiting runs for which there is room now."""
        return [] if self._ended else waiting

    def begin(self, one: Experiment, force: bool) -> None:
        """Begin a run; with `force` from nothing, whatever its folder holds."""
        with single.ending(one) as ending:
            watch = partial(single.words_to, partial(self._display.told, one))
            loggers = (*self._loggers, self._display.logger)
            ending.end = experiment.run(one, force, watch, loggers)
        self._ended.append((one, ending.end))

    def ended(self, timeout: float) -> list[tuple[Experiment, End]]:
        """The runs that have ended, and how (see `single.End`). Waits `timeout` seconds for one, at most."""
        if not self._ended:
            time.sleep(timeout)
        ended, self._ended = self._ended, []
        return ended
