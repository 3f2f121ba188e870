"""In this process, one after another."""

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
    experiments: Sequence[Experiment], force: bool, loggers: Sequence[Logger], display: Display
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Yields each experiment with what came of it; those that another process is at work on come last."""
    waiting = list(experiments)
    while waiting:
        one = next_of(waiting)
        if one is None:
            display.waits(len(waiting))
            time.sleep(POLL)
            continue
        display.begins(one)
        try:
            result = single.carry_out(one, force, loggers, partial(display.told, one))
        except saves.BusyError:  # since a moment ago
            display.stops(one)
            continue
        waiting.remove(one)
        display.stops(one, result)
        yield one, result
