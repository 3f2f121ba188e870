"""Where experiments run, a module for each place: `here`, in this process, one after another; `processes`, side by side on
the cores of this machine; `slurm` and `ray`, on the nodes of a cluster. Another place is another module like these, and a
line below.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import plugins
import saves
from errors import UserError
from experiment import Experiment
from federation import ranks
from launch import here, loggers, processes, scheduling
from launch.display import display_of
from launch.single import Failed

__all__ = ["Failed", "launch", "refuse"]


def launch(
    ready: Sequence[Experiment],
    force: bool = False,
    quiet: bool = False,
    jobs: int | str = 1,
    workers: int | str = 1,
    log: str | None = None,
    ray: str | None = None,
    any_node: bool = False,
    patience: float = math.inf,
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Carry experiments out; yields each with its saved run, or with the reason why there is none, in the order given.

    `jobs`: as many cores are at work at once, by runs side by side; "auto" is all that this process may use. `workers`: in
    as many processes the clients of a run train side by side; "auto" is the cores that no other run takes. However many,
    the histories and weights are the same bits. `ray`: the address of a cluster whose nodes do the work, those of another
    processor or library only with `any_node`. `log`: a name of `loggers.LOGGERS`, beside what is always written. Finished
    runs are read, unless `force`. A run at which another process is at work is passed over while there is other work; then
    that one is waited for, and taken over where it dies; after `patience` seconds in which there was no other work it is
    left to that process, and not yielded. Raises UserError for a logger that is not there. A
    KeyboardInterrupt leaves each run that is at work with its last finished round.
    """
    told = loggers.chosen(log)
    refuse(ready, jobs, ray)
    runs = {one.folder: one for one in ready}  # two may be the same: --threads 1 auto
    finished = {folder for folder in runs if not force and saves.finished(folder)}
    there, missing = ([one for one in runs.values() if (one.folder in finished) is so] for so in (True, False))
    cores = scheduling.cores_of(missing, jobs)
    each = 1 if ray else cores if ranks.world() > 1 else max(1, cores // max(1, len(missing)))
    missing = [replace(one, workers=scheduling.workers_of(one, workers, each)) for one in missing]
    if ray and missing:
        place = partial(_of_ray(ray), address=ray, jobs=jobs, any_node=any_node)
    else:
        beside = len(missing) > 1 and cores > 1 and ranks.world() == 1
        place = partial(processes.carry_out, cores=cores) if beside else here.carry_out
        place = partial(place, patience=patience)
    with display_of(list(runs.values()), quiet) as display:
        results, waiting = {}, deque(ready)
        for one, result in chain(here.carry_out(there, force, told, display), place(missing, force, told, display)):
            results[one.folder] = result
            while waiting and waiting[0].folder in results:
                first = waiting.popleft()
                with display.aside():
                    yield first, results[first.folder]
        yield from ((one, results[one.folder]) for one in waiting if one.folder in results)


def refuse(ready: Sequence[Experiment], jobs: int | str, ray: str | None) -> None:
    """Raises UserError for what the ranks of a torchrun cannot do together, or the nodes of Ray."""
    if any(one.options.device.startswith("cuda") for one in ready):
        ranks.refuse("--device cuda")
    if ray and (brought := {name for one in ready for name in plugins.used_by(one.options)}):
        raise UserError(f"--ray {ray}: takes no plugin to the nodes, and {min(brought)} is one; --jobs or --slurm do")
    if ray or jobs not in ("auto", 1):
        ranks.refuse("--ray" if ray else f"--jobs {jobs}")


def _of_ray(address: str) -> Callable[..., Iterator[tuple[Experiment, saves.Run | Failed]]]:
    """`launch.ray.carry_out`, whose library only those who ask for it need."""
    try:
        from launch import ray
    except ImportError:
        told = f"--ray {address}: Ray is not installed; python -m pip install -r requirements-cluster.txt"
        raise UserError(told) from None
    return ray.carry_out
