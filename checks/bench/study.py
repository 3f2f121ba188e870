"""How much faster is a study on several cores? Seconds of the wall clock of 24 runs (three algorithms, two mixes of
classes, four seeds) with `--jobs 1`, with `--jobs 2`, and one after another with two threads each, in turn; medians. The
histories and weights of the first two must be the same bits; those that are not are counted.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import saves
from checks.bench.contestants import ROOT
from checks.hard.methods import apart

STUDY = "fedavg cfkd independent --n_clients 4 --partition lda --alpha 0.3 1 --seed 0 1 2 3 --model LeNet5 --quiet --json"
STUDY_ROUNDS = 20
WAYS = {"--jobs 1": "--jobs 1", "--jobs 2": "--jobs 2", "--jobs 1, two threads": "--jobs 1 --threads 2"}


def studied(flags: str, folder: str) -> tuple[float, dict[str, saves.Run]]:
    """Seconds of the study, and its runs by the names of their folders."""
    words = [sys.executable, "run.py", *f"{STUDY} --rounds {STUDY_ROUNDS} {flags} --export_dir {folder}".split()]
    began = time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - began, {run.folder.name: run for run in saves.find(Path(folder))}


def compared(times: int) -> int:
    """Prints seconds by way; returns how many runs are not the same bits side by side."""
    seconds, wrong = {way: [] for way in WAYS}, 0
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            results = {}
            for way, flags in WAYS.items():
                taken, results[way] = studied(flags, f"{folder}/{len(results)}")
                seconds[way].append(taken)
                print(f"{taken:>8.1f} s  {way}", flush=True)
            item, other = results["--jobs 1"], results["--jobs 2"]
            wrong += item.keys() != other.keys()
            wrong += sum(bool(apart(item[name], other[name])) for name in item.keys() & other.keys())
    base = median(seconds["--jobs 1"])
    for way, taken in seconds.items():
        print(f"{median(taken):>8.1f} s  {base / median(taken):>5.2f} times as fast  {way}")
    return wrong
