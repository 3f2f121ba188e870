"""How much faster than an earlier revision? The same commands there and here, in turn, a process each; medians.

Training are the local epochs of a round. The accuracies must be those of the earlier revision with one thread (by itself it
took all cores, which changes last bits), to the last digit, where the precision is the same; those that are not are counted.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import saves
from checks.bench.contestants import CORES, ROOT

RESNET = (
    "fedavg --dataset CIFAR10 --partition iid --n_clients 4 --epoch_per_round 1 --optimizer sgd --batch_size 64 --lr 0.05 "
    "--rounds 6 --track_history 0 --threads 1 --unverified_data"
)
COMMANDS = {  # as the Makefile of both revisions has it, and trainings of networks
    "make run": "cfkd fd fedavg independent centralized --dataset digits --n_clients 5 --partition lda --alpha 0.5 "
    "--lr 3e-3 --rounds 60",
    "ResNet8": f"{RESNET} --model ResNet8 --reduced 0.02",
    "ResNet56": f"{RESNET} --model ResNet56 --reduced 0.01",
}
NOW = {
    "make run": {"now": ""},
    **dict.fromkeys(
        ("ResNet8", "ResNet56"),
        {
            "now, 1 worker": "--workers 1",
            f"now, {CORES} workers": f"--workers {CORES}",
            "now, bf16, 1 worker": "--precision bf16 --workers 1",
            f"now, bf16, {CORES} workers": f"--precision bf16 --workers {CORES}",
        },
    ),
}


def compared(revision: str, names: list[str], times: int) -> int:
    """Prints a table a command; returns how many commands end at other accuracies."""
    wrong = 0
    with _checkout(revision) as earlier:
        for name in names:
            there = {revision: (earlier, ""), f"{revision}, 1 thread": (earlier, "--threads 1")}
            if "--threads" in COMMANDS[name]:
                del there[f"{revision}, 1 thread"]
            (*_, one_thread), ways = there, {**there, **{way: (ROOT, flags) for way, flags in NOW[name].items()}}
            taken = {way: [] for way in ways}
            print(f"\n{name}: run.py {COMMANDS[name]}", flush=True)
            for _ in range(times):
                for way, (where, flags) in ways.items():
                    taken[way].append(_done(where, f"{COMMANDS[name]} {flags}"))
                    train, test, command, _ = taken[way][-1]
                    print(f"  training {train:.2f} s a round, test {test:.2f} s, command {command:.1f} s  {way}", flush=True)
            base = [median(column) for column in list(zip(*taken[revision], strict=True))[:3]]
            for way, samples in taken.items():
                results = [median(column) for column in list(zip(*samples, strict=True))[:3]]
                ratios = " ".join(
                    f"{item:>8.2f} s {before / item:>5.2f}" for item, before in zip(results, base, strict=True)
                )
                print(f"  {ratios}  {way}")
                same = all(sample[3] == taken[one_thread][0][3] for sample in samples)
                if not same and "bf16" not in way and way != revision:
                    print(f"  WRONG: {way} ends at other accuracies")
                    wrong += 1
    return wrong


@contextlib.contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "earlier"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(there), revision], cwd=ROOT, check=True)
        try:
            yield there
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(there)], cwd=ROOT, check=True)


def _done(where: Path, line: str) -> tuple[float, float, float, list[float]]:
    """(seconds of the local epochs of a round and of the last test, of its last run; of the command; global accuracies)."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "run.py", *line.split(), "--data_dir", str(ROOT / "data"), "--export_dir", folder, "--json"]
        began = time.perf_counter()
        done = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        seconds = time.perf_counter() - began
        results = [json.loads(line) for line in done.stdout.splitlines()]
        rounds = saves.load(results[-1]["folder"]).rounds
        tests = rounds["evaluation_seconds"].iloc[-1]
        return median(rounds["train_seconds"].iloc[1:]), tests, seconds, [item["global_mean"] for item in results]
