"""How well does a plan foretell a run, and how much faster is a study on two cores?

    make bench        # or: python tests/bench.py [plan] [study]

*plan*: seconds of `--plan` and of the run itself, one after the other, and their ratio.

A process a command, one thread each, on the embedded digits and, where it is unpacked, on MNIST; each is planned and run in
turn three times, and medians are shown. Bytes and operations must be equal; the exit status is the number of runs where they
are not. How far the same run's seconds are apart tells how much of a ratio is the machine's.

*study*: seconds of the wall clock of 24 runs (three algorithms, two mixes of classes, four seeds) with `--jobs 1`, with
`--jobs 2`, and one after another with two threads each, in turn three times; medians. The histories and weights of the first
two must be the same bits; those that are not are counted.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import saves  # noqa: E402
from tests.same_bits import differences  # noqa: E402

TIMES = 3
SHARED = "--threads 1 --quiet --json --partition lda --alpha 0.5"
COMMANDS = (
    *(f"{name} --n_clients 5 --rounds 10" for name in ("cfkd", "fd", "independent", "centralized")),
    "fedavg --n_clients 5 --rounds 4",
    "data_exchange --dataset digits --n_clients 5 --rounds 4",
    "fedbabu --n_clients 5 --rounds 4 --model CNN4 --reduced 0.5 --ft_epochs 2",
    "mhmd --n_clients 4 --rounds 4 --model CNN4 --reduced 0.5",
    "fedgkt --n_clients 3 --rounds 2 --model ResNet8 --server_model ResNet9 --reduced 0.3",
)
MNIST = (
    "fedavg --dataset MNIST --n_clients 10 --rounds 4 --reduced 0.1 --participation 0.5 --track_history 2",
    "cfkd --dataset MNIST --n_clients 3 --rounds 5 --reduced 0.1 --model CNNMnist --track_history 0",
)


def told(command: str, folder: str) -> dict:
    """What a command line of run.py says in JSON."""
    words = [sys.executable, "run.py", *command.split(), *SHARED.split(), "--export_dir", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


STUDY = "fedavg cfkd independent --n_clients 4 --partition lda --alpha 0.3 1 --seed 0 1 2 3 --model LeNet5 --quiet --json"
STUDY_ROUNDS = 20
WAYS = {"--jobs 1": "--jobs 1", "--jobs 2": "--jobs 2", "--jobs 1, two threads": "--jobs 1 --threads 2"}


def studied(how: str, folder: str) -> tuple[float, dict[str, saves.Run]]:
    """Seconds of the study, and its runs by the names of their folders."""
    words = [sys.executable, "run.py", *f"{STUDY} --rounds {STUDY_ROUNDS} {how} --export_dir {folder}".split()]
    began = time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - began, {run.folder.name: run for run in saves.find(Path(folder))}


def study() -> int:
    """Prints seconds by way; returns how many runs are not the same bits side by side."""
    seconds, wrong = {way: [] for way in WAYS}, 0
    for _ in range(TIMES):
        with tempfile.TemporaryDirectory() as folder:
            found = {}
            for way, how in WAYS.items():
                taken, found[way] = studied(how, f"{folder}/{len(found)}")
                seconds[way].append(taken)
                print(f"{taken:>8.1f} s  {way}", flush=True)
            one, other = found["--jobs 1"], found["--jobs 2"]
            wrong += one.keys() != other.keys()
            wrong += sum(bool(differences(one[name], other[name])) for name in one.keys() & other.keys())
    base = median(seconds["--jobs 1"])
    for way, taken in seconds.items():
        print(f"{median(taken):>8.1f} s  {base / median(taken):>5.2f} times as fast  {way}")
    return wrong


def plan() -> int:
    """Prints a row a command; returns how many counts are wrong."""
    wrong = 0
    print(f"{'planned':>8} {'real':>8} {'ratio':>6}  {'real, from and to':<19} seconds of")
    for command in (*COMMANDS, *(MNIST if (ROOT / "data" / "MNIST" / "raw").exists() else ())):
        planned, real = [], []
        for _ in range(TIMES):
            with tempfile.TemporaryDirectory() as folder:
                plan, run = told(f"{command} --plan", folder), told(command, folder)
            planned.append(plan["seconds"] + plan["evaluation_seconds"])
            real.append(run["seconds"] + run["evaluation_seconds"])
            sent = sum(nbytes["run"] for nbytes in plan["bytes"].values())
            wrong += sent != run["bytes_up"] + run["bytes_down"] + run["bytes_between"]
            wrong += any(plan[name] != run[name] for name in ("steps", "steps_server", "flops", "flops_server"))
        p, r = median(planned), median(real)
        print(f"{p:>8.2f} {r:>8.2f} {p / r:>6.2f}  {min(real):>8.2f} {max(real):>8.2f}   {command}", flush=True)
    return wrong


def main() -> int:
    parts = {"plan": plan, "study": study}
    return sum(parts[name]() for name in sys.argv[1:] or parts)


if __name__ == "__main__":
    sys.exit(main())
