"""The loop that executes runs, wherever they run.

The folder of a run holds its state: the lock says that a process works on the run, `history.csv` and the checkpoints say how
many rounds are finished, `done` or `failed` says how the run ended. So any process that sees the folder can execute the run.
A place only starts a run and reports its end: `Here` in this process, `processes` in worker processes on this machine, `ray`
on the nodes of a cluster. An element of a Slurm job, or the same command started twice, is the same loop again: it takes the
next run that is unfinished and not locked by another process.
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


def make_runs(
    experiments: Sequence[Experiment], place: "Here", display: Display, force: bool = False, patience: float = math.inf
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Execute the runs in this order, as many at once as the place has room for; yield each run with its result.

    A run on which another process works comes last. After `patience` seconds without other work, the loop leaves such runs
    to that process and does not yield them. Raises NoRoomError where nothing can be saved any more.
    """
    waiting, kills, idle = list(experiments), Counter(), 0.0
    with place:
        while waiting or place.running:
            fitting = place.fitting(waiting)
            if experiment := next_of(fitting):
                waiting.remove(experiment)
                idle = 0.0
                display.begins(experiment)
                place.begin(experiment, force and not kills[experiment.folder])
                continue
            if fitting and not place.running:
                if idle >= patience:
                    return
                idle += POLL
                display.waits(len(waiting))
            for experiment, end in place.ended(POLL):
                if isinstance(end, NoRoomError):
                    raise end
                kills[experiment.folder] += isinstance(end, LostError)
                if isinstance(end, LostError) and kills[experiment.folder] == place.tries:
                    end = single.failed(
                        experiment, f"{display.standings[experiment.folder].label}: {end}, {place.tries} times"
                    )
                if isinstance(end, saves.Run | Failed):
                    display.stops(experiment, end)
                    yield experiment, end
                else:
                    display.stops(experiment)
                    waiting.append(experiment)  # behind all other waiting runs
            display.look()


class Here(AbstractContextManager):
    """Execute runs one after another in this process; the base class of every place.

    On leaving a place, its active runs stop; their last finished round is saved. A run whose process is killed is started at
    most `tries` times.
    """

    tries = 1

    def __init__(self, loggers: Sequence[Logger], display: Display) -> None:
        self._loggers, self._display = loggers, display
        self._ended: list[tuple[Experiment, End]] = []

    def __exit__(self, *_) -> None:
        pass

    @property
    def running(self) -> int:
        """The number of runs that started and that `ended` has not reported yet."""
        return len(self._ended)

    def fitting(self, waiting: Sequence[Experiment]) -> Sequence[Experiment]:
        """Return the waiting runs for which there is room now."""
        return [] if self._ended else waiting

    def begin(self, run_experiment: Experiment, force: bool) -> None:
        """Start a run; with `force` from the first round, whatever its folder holds."""
        with single.end_of(run_experiment) as ending:
            watch = partial(single.words_to, partial(self._display.show_message, run_experiment))
            loggers = (*self._loggers, self._display.logger)
            ending.end = experiment.run(run_experiment, force, watch, loggers)
        self._ended.append((run_experiment, ending.end))

    def ended(self, timeout: float) -> list[tuple[Experiment, End]]:
        """Return the runs that have ended, each with its end (`single.End`). Wait at most `timeout` seconds for a run."""
        if not self._ended:
            time.sleep(timeout)
        ended, self._ended = self._ended, []
        return ended
