"""How well does a plan foretell a run? Seconds of `--plan` and of the run itself, one after the other, and their ratio.

A process a command, one thread each, on the embedded digits and, where it is unpacked, on MNIST; each is planned and run in
turn, and medians are shown. Bytes and operations must be equal. How far the same run's seconds are apart tells how much of a
ratio is the machine's.
"""

import json
import os
import subprocess
import sys
import tempfile
from statistics import median

from checks.bench.contestants import ROOT

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


def describe(command: str, folder: str) -> dict:
    """What a command line of run.py says in JSON."""
    words = [sys.executable, "run.py", *command.split(), *SHARED.split(), "--export_dir", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def compared(times: int) -> int:
    """Prints a row a command; returns how many counts are wrong."""
    wrong = 0
    print(f"{'planned':>8} {'real':>8} {'ratio':>6}  {'real, from and to':<19} seconds of")
    for command in (*COMMANDS, *(MNIST if (ROOT / "data" / "MNIST" / "raw").exists() else ())):
        planned, real = [], []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as folder:
                plan, run = describe(f"{command} --plan", folder), describe(command, folder)
            planned.append(plan["seconds"] + plan["evaluation_seconds"])
            real.append(run["seconds"] + run["evaluation_seconds"])
            sent = sum(nbytes["run"] for nbytes in plan["bytes"].values())
            wrong += sent != run["bytes_up"] + run["bytes_down"] + run["bytes_between"]
            wrong += any(plan[name] != run[name] for name in ("steps", "steps_server", "flops", "flops_server"))
        p, r = median(planned), median(real)
        print(f"{p:>8.2f} {r:>8.2f} {p / r:>6.2f}  {min(real):>8.2f} {max(real):>8.2f}   {command}", flush=True)
    return wrong
