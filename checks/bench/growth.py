"""Does Chorus do nothing twice? Ratios, each measured in one run of this part.

An evaluation of 1,000 personal models of which 10 have changed, to the first; `figures.table` of 1,000 runs, to reading
their histories; 200 tiny runs in one process, to their rounds alone; a mistake in a flag, to importing torch.
"""

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

import run as command
import saves
from algorithms import options_of
from checks.bench.contestants import ROOT
from experiment import prepare
from experiment.lifecycle import run as run_experiment
from figures import table
from options import Launch

N_CLIENTS, N_RUNS, N_TINY = 1_000, 1_000, 200
TINY = "fedavg --dataset digits --n_clients 4 --rounds 2 --reduced 0.05 --model MLP --jobs 1 --threads 1 --quiet"


def compared(times: int) -> int:
    """Prints the ratios. None of them counts as wrong: they depend on the machine."""
    with tempfile.TemporaryDirectory() as folder:
        for measure in (evaluation, results_table, tiny_runs):
            print(measure(Path(folder) / measure.__name__), flush=True)
    print(start_up(times), flush=True)
    return 0


def seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        do()
    return time.perf_counter() - began


def evaluation(folder: Path) -> str:
    """A run of `independent` with 10 clients a round on 1,000 random test images of 8x8."""
    folder.mkdir()
    draw, parts = np.random.default_rng(0), {"train": 60_000, "test": 1_000}
    arrays = {f"x_{part}": draw.integers(0, 256, (n, 8, 8), np.uint8) for part, n in parts.items()}
    np.savez(folder / "random.npz", **arrays, **{f"y_{part}": np.arange(n) % 10 for part, n in parts.items()})
    options = options_of("independent")(
        algorithm="independent",
        dataset=str(folder / "random.npz"),
        n_clients=N_CLIENTS,
        participation=0.01,
        rounds=4,
        model=("MLP",),
    )
    rounds = run_experiment(prepare(replace(options, threads=1), Launch(export_dir=folder))).rounds
    first, *later = rounds["evaluation_seconds"][1:]
    again = median(later)
    return f"evaluation of {N_CLIENTS} models: {first:.2f} s, with 10 new {again:.2f} s, {first / again:.0f} times less"


def results_table(folder: Path) -> str:
    """The same run under 1,000 seeds."""
    seconds(lambda: command.main([*TINY.split(), "--export_dir", str(folder / "first")]))
    (run,) = saves.find(folder / "first")
    for seed in range(N_RUNS):
        copy = folder / "many" / f"run-{seed}"
        copy.mkdir(parents=True)
        for path in run.folder.iterdir():
            if path.is_file() and path.name not in ("config.json", "done"):
                os.link(path, copy / path.name)
        config = {**run.config, "options": {**run.options, "seed": seed}}
        saves.write_done(copy, {**run.digests, "config.json": saves.write_json(copy / "config.json", config)})
    reading = seconds(lambda: [saved.history for saved in saves.find(folder / "many")])
    showing = seconds(lambda: table.main([str(folder / "many")]))
    return f"table of {N_RUNS} runs: {showing:.2f} s, {showing / reading:.1f} times reading them"


def tiny_runs(folder: Path) -> str:
    words = [*TINY.split(), "--export_dir", str(folder), "--seed", *map(str, range(N_TINY))]
    whole = seconds(lambda: command.main(words))
    of_rounds = sum(run.rounds[["seconds", "evaluation_seconds"]].to_numpy().sum() for run in saves.find(folder))
    return f"{N_TINY} tiny runs: {whole:.1f} s, {whole / of_rounds:.1f} times their rounds"


def start_up(times: int) -> str:
    """Seconds of the processor, with Python's compiled files as for anybody."""
    commands = {"torch": ["-c", "import torch"], "mistake": ["run.py", "fedavg", "--rounds", "x"], "help": ["run.py", "-h"]}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, words in commands.items():
            before = of_children()
            subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, check=False)
            taken[name].append(of_children() - before)
    torch, *others = (median(of_command) for of_command in taken.values())
    return f"start-up: import torch {torch:.2f} s; a mistake {others[0] - torch:+.2f} s, -h {others[1] - torch:+.2f} s"


def of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
