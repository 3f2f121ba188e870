"""Which run is next, and how many run at once."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import mean

import torch

import algorithms
import models
import saves
import streams
from experiment import Experiment
from federation import n_sampled, ranks

LONG = 5e9  # work of a run in units of `work_of`: some seconds, the time that worker processes take to start
MINUTES = 1e11  # work that takes some minutes
POLL = 1.0  # seconds between checks of the runs on which other processes work
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: microseconds of work per period, and length of the period
TRAINING = 3  # times the operations of a forward pass: forward, and backward to the inputs and to the weights


def cores() -> int:
    """Return how many cores this process may use.

    These are the cores of its CPU affinity, limited by its container or Slurm, and shared evenly with other ranks on this
    machine.
    """
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n_cores = min(n_cores, int(os.environ.get("SLURM_CPUS_ON_NODE", n_cores)))  # Slurm does not always enforce its limit
    with suppress(OSError, ValueError):  # no container, or one with all cores ("max")
        quota, period = QUOTA.read_text().split()
        n_cores = min(n_cores, max(1, int(quota) // int(period)))
    return max(1, n_cores // ranks.on_this_machine())


def cores_of(experiments: Sequence[Experiment], jobs: int | str) -> int:
    """Return how many cores may be in use at once.

    This is `--jobs`, where "auto" is all cores of this process; 1 where a run is on a CUDA device, which has one memory for
    all.
    """
    if jobs != "auto":
        return jobs
    return 1 if any(experiment.options.device.startswith("cuda") for experiment in experiments) else cores()


def workers_of(experiment: Experiment, workers: int | str, cores: int) -> int:
    """Return how many processes train the clients of a run that has `cores` cores.

    This is `--workers`, where "auto" is all cores for a long run and 1 for a short run. The result is at most the number of
    clients in a round, and 1 on a CUDA device.
    """
    if experiment.options.device.startswith("cuda"):
        return 1
    if workers == "auto":
        workers = cores if cores > 1 and work_of(experiment) >= LONG else 1
    return min(workers, n_sampled(experiment.options.participation, experiment.options.n_clients))


def next_of(waiting: Iterable[Experiment]) -> Experiment | None:
    """Return the first run on which no process works; None where there is no such run."""
    return next((experiment for experiment in waiting if not saves.at_work(experiment.folder)), None)


def work_of(experiment: Experiment) -> float:
    """Estimate the work of a run, to start with the longest run and to estimate the time that is left.

    The work is the number of images that pass through a network, training images three times, times the number of
    parameters. This estimate takes no time; a plan would take seconds per run. The estimate leaves out a server's own
    network and any other computation of an algorithm. It counts one evaluated model where all clients of an algorithm must
    share one architecture, and otherwise one model per client, which holds for most algorithms.
    """
    options, (shape, n_classes) = experiment.options, (experiment.data.shape, len(experiment.data.classes))
    heads = algorithms.says(options.algorithm, "heads")
    sizes = [_count_parameters(name, shape, n_classes, options.feature_dim, heads) for name in options.model]
    n_train, n_test = len(experiment.split.train.values), len(experiment.data.test)
    n_evaluations = 1 + (options.rounds // options.track_history if options.track_history else 0)
    n_trained = n_train * (options.rounds * options.epoch_per_round * options.participation + options.ft_epochs)
    n_models = options.n_clients if algorithms.says(options.algorithm, "mixed") else 1
    return mean(sizes) * (TRAINING * n_trained + n_evaluations * n_test * n_models)


def bf16_hint(experiments: Iterable[Experiment]) -> str | None:
    """Return a line that names `--precision bf16` if a long float32 run of CNN4 or a ResNet is on a processor with bf16.

    Chorus never changes the precision itself, since the results would be others.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return None
    names = {
        name
        for experiment in experiments
        if experiment.options.precision == "float32" and experiment.options.device == "cpu" and work_of(experiment) > MINUTES
        for name in experiment.options.model
        if name == "CNN4" or name.startswith("ResNet")
    }
    if not names:
        return None
    return (
        f"this processor computes in bf16: --precision bf16 may be 1.4 to 1.7 times as fast for {', '.join(sorted(names))}, "
        "with other results"
    )


@cache
def _count_parameters(*build_args) -> int:
    with streams.torch_seeded("tried out"):
        return sum(parameter.numel() for parameter in models.build(*build_args).parameters())


def side_by_side(runs: Iterable[tuple[float, int]], cores: int) -> float:
    """Return the seconds until the last of these runs, (seconds, threads) each, ends.

    The longest run starts first; each run starts as soon as enough cores are free.
    """
    free_at = [0.0] * cores  # the time at which each core is free
    for seconds, threads in sorted(runs, reverse=True):
        n_taken = min(threads, cores)
        free_at = sorted(free_at)
        free_at[:n_taken] = [free_at[n_taken - 1] + seconds] * n_taken
    return max(free_at)
