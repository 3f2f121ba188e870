"""Where experiments run: `loop` makes them, one after another in this process, or in a place that is a module of its own:
`processes`, side by side on the cores of this machine; `ray`, on the nodes of a cluster. `slurm` submits the whole command.
"""

import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import saves
from errors import UserError
from experiment import Experiment
from federation import ranks
from launch import ending, loggers, loop, scheduling
from launch.display import display_of
from launch.processes import Processes
from launch.single import Failed
from options import Launch
from untrusted import escape, print_escaped

__all__ = ["Failed", "launch", "refuse", "tell_failed"]


def launch(
    ready: Sequence[Experiment], how: Launch, patience: float = math.inf
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Carry experiments out; yields each with its saved run, or with the reason why there is none, in the order given.

    However many are at work at once (`--jobs`, `--workers`, `--ray`), the histories and weights are the same bits. Finished
    runs are read, unless `--force`. A run at which another process is at work is passed over while there is other work; then
    that one is waited for, and taken over where it dies; after `patience` seconds in which there was no other work it is
    left to that process, and not yielded. Raises UserError for a logger that is not there. A KeyboardInterrupt leaves each
    run that is at work with its last finished round.
    """
    told = loggers.chosen(how.log)
    refuse(ready, how)
    runs = {one.folder: one for one in ready}  # two may be the same: --threads 1 auto
    finished = {folder for folder in runs if not how.force and saves.finished(folder)}
    there, missing = ([one for one in runs.values() if (one.folder in finished) is so] for so in (True, False))
    cores = scheduling.cores_of(missing, how.jobs)
    each = 1 if how.ray else cores if ranks.world() > 1 else max(1, cores // max(1, len(missing)))
    missing = [replace(one, workers=scheduling.workers_of(one, how.workers, each)) for one in missing]
    with display_of(list(runs.values()), how.quiet) as display:
        here = place = loop.Here(told, display)
        if how.ray and missing:
            place = _nodes(how, missing, told)
        elif len(missing) > 1 and cores > 1 and ranks.world() == 1:
            place = Processes(cores, told, display)
        if place is not here:  # the longest first
            missing.sort(key=scheduling.work_of, reverse=True)
        results, waiting = {}, deque(ready)
        made = loop.carry_out(missing, place, display, how.force, patience)
        for one, result in chain(loop.carry_out(there, here, display), made):
            results[one.folder] = result
            while waiting and waiting[0].folder in results:
                first = waiting.popleft()
                with display.aside():
                    yield first, results[first.folder]
        yield from ((one, results[one.folder]) for one in waiting if one.folder in results)


def tell_failed(results: Iterable[saves.Run | Failed]) -> int:
    """Print why runs failed; returns the exit status, 1 where any did."""
    failed = [result for result in results if isinstance(result, Failed)]
    for failure in failed:
        print_escaped(f"{ending.program()}: {escape(failure)}", file=sys.stderr)
    return 1 if failed else 0


def refuse(ready: Sequence[Experiment], how: Launch) -> None:
    """Raises UserError for what the ranks of a torchrun cannot do together."""
    if any(one.options.device.startswith("cuda") for one in ready):
        ranks.refuse("--device cuda")
    if how.ray or how.jobs not in ("auto", 1):
        ranks.refuse("--ray" if how.ray else f"--jobs {how.jobs}")


def _nodes(*given) -> loop.Here:
    """The nodes of a cluster, whose library is only imported where `--ray` asks for it."""
    try:
        from launch.ray import Nodes
    except ImportError:
        told = f"--ray {given[0].ray}: Ray is not installed; python -m pip install -r requirements-cluster.txt"
        raise UserError(told) from None
    return Nodes(*given)
