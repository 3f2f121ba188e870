"""How well does a plan foretell a run? Seconds of `--plan` and of the run itself, one after the other, and their ratio.

    make bench        # or: python tests/bench.py

A process a command, one thread each, on the embedded digits and, where it is unpacked, on MNIST. Bytes and operations must
be equal; the exit status is the number of commands where they are not. Ratios mean something on a machine that does nothing
else.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = "--threads 1 --quiet --json --partition lda --alpha 0.5"
COMMANDS = (
    *(f"{name} --n_clients 5 --rounds 20" for name in ("cfkd", "fd", "fedavg", "independent", "centralized")),
    "data_exchange --n_clients 5 --rounds 20",
    "fedbabu --n_clients 5 --rounds 10 --model CNN4 --reduced 0.5 --ft_epochs 2",
    "mhmd --n_clients 4 --rounds 4 --model CNN4 --reduced 0.5",
    "fedgkt --n_clients 3 --rounds 4 --model ResNet8 --server_model ResNet9 --reduced 0.3",
)
MNIST = (
    "fedavg --dataset MNIST --n_clients 10 --rounds 10 --reduced 0.1 --participation 0.5 --track_history 5",
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


def main() -> int:
    wrong = 0
    print(f"{'planned':>8} {'real':>8} {'ratio':>6}  seconds of")
    for command in (*COMMANDS, *(MNIST if (ROOT / "data" / "MNIST" / "raw").exists() else ())):
        with tempfile.TemporaryDirectory() as folder:
            plan, run = told(f"{command} --plan", folder), told(command, folder)
        sent = sum(nbytes["run"] for nbytes in plan["bytes"].values())
        same = (sent, plan["flops"]) == (run["bytes_up"] + run["bytes_down"] + run["bytes_between"], run["flops"])
        wrong += not same
        ratio = plan["seconds"] / run["seconds"]
        words = command if same else f"{command}  OTHER COUNTS"
        print(f"{plan['seconds']:>8.2f} {run['seconds']:>8.2f} {ratio:>6.2f}  {words}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
