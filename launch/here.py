"""In this process, one after another."""

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial

import saves
from experiment import Experiment
from experiment.rounds import Logger
from launch import single
from launch.display import Display
from launch.scheduling import POLL, next_of
from launch.single import Failed


def carry_out(
    experiments: Sequence[Experiment],
    force: bool,
    loggers: Sequence[Logger],
    display: Display,
    patience: float = math.inf,
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Yields each experiment with what came of it; those that another process is at work on come last, or not
    at all, where there is nothing else to do for `patience` seconds."""
    waiting, idle = list(experiments), 0.0
    while waiting:
        one = next_of(waiting)
        if one is None:
            if idle >= patience:
                return
            idle += POLL
            display.waits(len(waiting))
            time.sleep(POLL)
            continue
        idle = 0.0
        display.begins(one)
        try:
            result = single.carry_out(one, force, loggers, partial(display.told, one))
        except saves.BusyError:  # since a moment ago
            display.stops(one)
            continue
        waiting.remove(one)
        display.stops(one, result)
        yield one, result
