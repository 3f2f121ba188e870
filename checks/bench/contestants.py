"""Who does the jobs: Chorus, bare loops, other systems. A contestant is a command line that gets the job's file, and leaves
its seconds."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

import algorithms
import commandline
import experiment
import saves
from checks.bench.jobs import Job
from checks.bench.work import Work
from experiment import Experiment
from options import plain

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENTS = ROOT / ".venv-peers"  # one a system, which `make bench-peers` sets up
CORES = len(os.sched_getaffinity(0))
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "9223372036854775807"}  # glibc keeps what it has taken
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "WANDB_MODE": "disabled"}

LOOK_SECONDS = 1  # from one look at what the processes of a command have spent to the next

Sample = dict[str, Any]  # what `work.tell` has, and the whole command: "command" in seconds, "cores" in core-seconds


@dataclass(frozen=True)
class Contestant:
    """`command`: (job, its file, a folder to write to) -> words; `read`: what it printed -> what `work.tell` has. `missing`:
    why it cannot take part, where it cannot."""

    command: Callable[[Job, Path, Path], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    read: Callable[[str], Sample] = lambda printed: json.loads(printed[printed.rindex('{"rounds": ') :].splitlines()[0])
    missing: str = ""


def chorus(workers: int = 1, flags: str = "--device cpu") -> Contestant:
    """Chorus, so many clients side by side."""

    def command(job: Job, work: Path, folder: Path) -> list[str]:
        settings = f"--workers {workers} {flags} --quiet --json --unverified_data --export_dir {folder}"
        return [sys.executable, "run.py", *job.command.split(), *settings.split()]

    return Contestant(command, read=_of_run)


def _of_run(printed: str) -> Sample:
    run = saves.load(json.loads(printed)["folder"])
    rounds = run.rounds[run.rounds["round"] > 0]
    tested = rounds[rounds["global_mean"].notna()]
    return {
        "rounds": rounds["seconds"].tolist(),
        "tests": tested["evaluation_seconds"].tolist(),
        "accuracy": float(tested["global_mean"].iloc[-1]),
        "steps": int(rounds["steps"].sum() + rounds["steps:server"].sum()),
    }


def bare(threads: int = 1, best: bool = False, device: str = "cpu") -> Contestant:
    """A bare loop of so many threads; with the best public settings."""

    def command(job: Job, work: Path, folder: Path) -> list[str]:
        flags = ["--threads", str(threads), "--device", device, *["--best"] * best]
        return [sys.executable, "-m", "checks.bench.bare", str(work), *flags]

    return Contestant(command, {"OMP_NUM_THREADS": str(threads), **(KEPT if best else {})})


def peer(name: str, threads: int = 1, launcher: str = "") -> Contestant:
    """Another system, in its own environment, started by a module that starts several processes where one is named."""
    python = ENVIRONMENTS / name / "bin" / "python"

    def command(job: Job, work: Path, folder: Path) -> list[str]:
        return [str(python), *launcher.split(), "-m", f"checks.bench.peers.{name}", str(work), "--threads", str(threads)]

    environment = {**QUIET, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    installed = (ENVIRONMENTS / name / "installed").exists()
    return Contestant(command, environment, missing="" if installed else f"not installed: see .venv-peers/{name}.log")


BARE = {
    "bare loop, 1 thread": bare(1),
    f"bare loop, {CORES} threads": bare(CORES),
    "bare loop, 1 thread, best settings": bare(1, best=True),
    f"bare loop, {CORES} threads, best settings": bare(CORES, best=True),
}
CHORUS = {
    "Chorus, 1 worker": chorus(1),
    f"Chorus, {CORES} workers": chorus(CORES),
    f"Chorus, {CORES} workers, stacked": chorus(CORES, "--device cpu --stacked 5"),
}
ON_CUDA = {
    "Chorus": chorus(flags="--device cuda"),
    "Chorus, bf16": chorus(flags="--device cuda --precision bf16"),
    "bare loop": bare(device="cuda"),
    "bare loop, best settings": bare(device="cuda", best=True),
}
PEERS = {
    "fluke, 1 thread": peer("fluke"),
    f"fluke, {CORES} threads": peer("fluke", CORES),
    f"pfl, {CORES} processes": peer("pfl", launcher=f"-m torch.distributed.run --nproc_per_node {CORES}"),
    "FedLab, 1 thread": peer("fedlab"),
    f"FedLab, {CORES} threads": peer("fedlab", CORES),
    f"Flower, {CORES} clients at once": peer("flower", CORES),
    f"BlazeFL, {CORES} threads": peer("blazefl", CORES),
}


def prepared(job: Job) -> Experiment:
    """Chorus's run of a job, of which nothing is written. Raises UserError where the data are not there."""
    classes = algorithms.all_options()
    (options,), launch_options, _ = commandline.parse(
        [*job.command.split(), "--unverified_data"], classes, dict.fromkeys(classes, "")
    )
    return experiment.prepare(options, launch_options)


def work_of(run_experiment: Experiment) -> Work:
    """What all start from."""
    federation, data = experiment.federation_of(run_experiment), run_experiment.data

    def examples(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return data.images(indices).clone(memory_format=torch.contiguous_format), data.y[indices]

    test = torch.arange(data.n_train, len(data.y))
    shares, state = (
        [examples(share) for share in federation.shares],
        run_experiment.module.start(federation, run_experiment.options),
    )
    own, server = state.get("weights", []), state.get("server", {})
    return Work(shares, examples(test), federation.initial(), own, server, plain(run_experiment.options))


def done(contestant: Contestant, job: Job, work: Path) -> Sample:
    """What it leaves. Raises RuntimeError with its last words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        words = contestant.command(job, work, Path(folder))
        environment = {**os.environ, **contestant.environment}
        with (Path(folder) / "out").open("w+") as out, (Path(folder) / "err").open("w+") as err:
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=err)
            watched: dict[int, float] = {}
            while process.poll() is None:
                _look(psutil.Process(process.pid), watched)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
            seconds = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            waited_for = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            out.seek(0), err.seek(0)
            if process.returncode:
                raise RuntimeError("\n".join(err.read().splitlines()[-20:]))
            return {**contestant.read(out.read()), "command": seconds, "cores": max(waited_for, sum(watched.values()))}


def _look(process: psutil.Process, watched: dict[int, float]) -> None:
    """What a process and those below it have spent, in core-seconds by number. Ray does not wait for its processes, so that
    nobody is told at the end."""
    with suppress(psutil.Error):
        for item in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                watched[item.pid] = sum(item.cpu_times()[:2])
