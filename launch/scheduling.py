"""Which run is next, and how many at once."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import mean

import algorithms
import models
import saves
import streams
from experiment import Experiment
from federation import n_sampled, ranks

LONG = 5e9  # work of a run, as `work_of` tells it: some seconds, which worker processes take to begin
POLL = 1.0  # seconds from one look at what another process is at work on to the next
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: microseconds of work in a period, and of the period
TRAINING = 3  # times the operations of a forward pass: forward, and backward to the inputs and to the weights


def cores() -> int:
    """How many cores this process may use: those that it may be on, and no more than its container or Slurm lets it have;
    shared evenly with other ranks on this machine."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    there = min(there, int(os.environ.get("SLURM_CPUS_ON_NODE", there)))  # not all that Slurm allots, it holds a job to
    with suppress(OSError, ValueError):  # no container, or one with all cores ("max")
        quota, period = QUOTA.read_text().split()
        there = min(there, max(1, int(quota) // int(period)))
    return max(1, there // ranks.on_this_machine())


def cores_of(experiments: Sequence[Experiment], jobs: int | str) -> int:
    """How many cores may be at work at once: `--jobs`, "auto" as all of this process's, or 1 where a run is on a CUDA
    device, which has one memory for all."""
    if jobs != "auto":
        return jobs
    return 1 if any(one.options.device.startswith("cuda") for one in experiments) else cores()


def workers_of(one: Experiment, workers: int | str, cores: int) -> int:
    """How many processes train the clients of a run that has so many cores: `--workers`, where "auto" is all of them for a
    run that takes long; never more than clients of a round, and 1 on a CUDA device."""
    if one.options.device.startswith("cuda"):
        return 1
    if workers == "auto":
        workers = cores if cores > 1 and work_of(one) >= LONG else 1
    return min(workers, n_sampled(one.options.participation, one.options.n_clients))


def next_of(waiting: Iterable[Experiment]) -> Experiment | None:
    """The first that no process is at work on; None where there is none."""
    return next((one for one in waiting if not saves.at_work(one.folder)), None)


def work_of(one: Experiment) -> float:
    """Roughly how much work a run is, to begin with the longest and to tell the time that is left: images that go through a
    network, those to learn from three times, times its parameters. That takes no time to find out; a plan would take
    seconds a run. Left out are a server's own network and what else an algorithm computes. One model for all is evaluated
    where an algorithm takes one architecture for all, and else a model a client, which is right of most."""
    options, (shape, n_classes) = one.options, (one.data.shape, len(one.data.classes))
    heads = algorithms.says(options.algorithm, "heads")
    sizes = [_parameters(name, shape, n_classes, options.feature_dim, heads) for name in options.model]
    train, test = len(one.split.train.values), len(one.data.test)
    evaluations = 1 + (options.rounds // options.track_history if options.track_history else 0)
    learnt = train * (options.rounds * options.epoch_per_round * options.participation + options.ft_epochs)
    models_asked = options.n_clients if algorithms.says(options.algorithm, "mixed") else 1
    return mean(sizes) * (TRAINING * learnt + evaluations * test * models_asked)


@cache
def _parameters(*built_of) -> int:
    with streams.torch_seeded("tried out"):
        return sum(p.numel() for p in models.build(*built_of).parameters())


def side_by_side(runs: Iterable[tuple[float, int]], cores: int) -> float:
    """Seconds until the last of these runs, (seconds, threads) each, is over, where the longest are begun first, as soon as
    enough cores are free."""
    free = [0.0] * cores  # when each core is
    for seconds, threads in sorted(runs, reverse=True):
        taken = min(threads, cores)
        free = sorted(free)
        free[:taken] = [free[taken - 1] + seconds] * taken
    return max(free)
