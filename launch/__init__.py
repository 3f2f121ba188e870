"""Where experiments run.

`loop` executes them, one after another in this process or in a place with a module of its own: `processes` runs them in
parallel on the cores of this machine, `ray` on the nodes of a cluster. `slurm` submits the whole command.
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
from launch import loggers, loop, scheduling
from launch.display import display_of
from launch.processes import Processes
from launch.single import Failed
from options import Launch
from untrusted import escape, print_escaped

__all__ = ["Failed", "launch", "refuse", "tell_failed"]


def launch(
    experiments: Sequence[Experiment], launch_options: Launch, patience: float = math.inf
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Run experiments; yield each, in the given order, with its saved run or with the reason why there is none.

    Histories and weights are the same bits however many runs are active at once (`--jobs`, `--workers`, `--ray`). Finished
    runs are read, unless `--force`. A run on which another process works is skipped while there is other work. Then Chorus
    waits for that process, and takes the run over where the process dies. After `patience` seconds without other work Chorus
    leaves the run to that process and does not yield it. Raises UserError for a logger that is not installed. A
    KeyboardInterrupt leaves each active run with its last finished round.
    """
    run_loggers = loggers.chosen(launch_options.log)
    refuse(experiments, launch_options)
    # two experiments may be the same run: --threads 1 auto
    runs = {experiment.folder: experiment for experiment in experiments}
    finished = {folder for folder in runs if not launch_options.force and saves.finished(folder)}
    saved, missing = (
        [experiment for experiment in runs.values() if (experiment.folder in finished) is is_finished]
        for is_finished in (True, False)
    )
    cores = scheduling.cores_of(missing, launch_options.jobs)
    cores_per_run = 1 if launch_options.ray else cores if ranks.world() > 1 else max(1, cores // max(1, len(missing)))
    missing = [
        replace(experiment, workers=scheduling.workers_of(experiment, launch_options.workers, cores_per_run))
        for experiment in missing
    ]
    with display_of(list(runs.values()), launch_options.quiet) as display:
        here = place = loop.Here(run_loggers, display)
        if launch_options.ray and missing:
            place = _ray_nodes(launch_options, missing, run_loggers)
        elif len(missing) > 1 and cores > 1 and ranks.world() == 1:
            place = Processes(cores, run_loggers, display)
        if place is not here:  # the longest runs first, so that all cores finish at about the same time
            missing.sort(key=scheduling.work_of, reverse=True)
        results, waiting = {}, deque(experiments)
        new_results = loop.make_runs(missing, place, display, launch_options.force, patience)
        for experiment, result in chain(loop.make_runs(saved, here, display), new_results):
            results[experiment.folder] = result
            while waiting and waiting[0].folder in results:
                first = waiting.popleft()
                with display.aside():
                    yield first, results[first.folder]
        yield from ((experiment, results[experiment.folder]) for experiment in waiting if experiment.folder in results)


def tell_failed(results: Iterable[saves.Run | Failed], program: str) -> int:
    """Print why runs failed; return the exit status: 1 where any run failed, else 0.

    `program`: the name of this command in messages."""
    failed = [result for result in results if isinstance(result, Failed)]
    for failure in failed:
        print_escaped(f"{program}: {escape(failure)}", file=sys.stderr)
    return 1 if failed else 0


def refuse(experiments: Sequence[Experiment], launch_options: Launch) -> None:
    """Raise UserError for flags that the ranks of a torchrun do not support."""
    if any(experiment.options.device.startswith("cuda") for experiment in experiments):
        ranks.refuse("--device cuda")
    if launch_options.ray or launch_options.jobs not in ("auto", 1):
        ranks.refuse("--ray" if launch_options.ray else f"--jobs {launch_options.jobs}")


def _ray_nodes(*args) -> loop.Here:
    """Return the nodes of a cluster. The library is imported only where `--ray` asks for a cluster."""
    try:
        from launch.ray import Nodes
    except ImportError:
        message = f"--ray {args[0].ray}: Ray is not installed; run python -m pip install -r requirements-cluster.txt"
        raise UserError(message) from None
    return Nodes(*args)
