"""Does this working tree compute what an earlier revision computed, to the last bit?

    make same BEFORE=461ac72        # or: python checks/same_bits.py 461ac72 --kept FOLDER

Every algorithm and every variant in `COMMANDS` runs on two data sets, in a checkout of that revision and here; histories
(all columns but those of time) and the weights after the last round must be equal. What is compared is what the earlier
revision has: a run that it refuses is left out, and said. The exit status is the number of commands that differ.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import saves  # noqa: E402

SHARED = (
    "--n_clients 4 --partition lda --alpha 0.5 --validation 0.1 --rounds 3 --epoch_per_round 1 --batch_size 32 "
    "--augment flip --participation 0.8 --ft_epochs 1 --seed 3 --threads 1 --device cpu --quiet --json"
)
DATA = (
    "--dataset digits --reduced 0.3 --image_size 14",
    "--dataset MNIST --reduced 0.01 --image_size 14 --track_history 0 --lr_schedule cosine",
)
NEWER = (
    *("fedprox", "scaffold", "fedopt", "fednova", "feddyn", "moon", "fedrep", "ditto", "pfedme", "perfedavg", "apfl"),
    *("fedala", "fedproto", "fml", "epidemic"),
)
COMMANDS = (
    "cfkd",
    "cfkd --as_published",
    "cfkd --model LeNet5,ResNet4 --feature_dim 16",
    "fd",
    "fd --as_published",
    "fd --model LeNet5,ResNet4",
    "fedavg",
    "fedavg --as_published",
    "fedavg --model CNN4 --bn local",
    "fedavg --init independent --keep_optimizer --optimizer adam",
    "fedgkt --server_model ResNet5",
    "fedgkt --server_model ResNet5 --as_published",
    "fedgkt --server_model ResNet5 --stale drop --precision bf16",
    "fedbabu",
    "fedbabu --local_upt_part full --aggr_part body --bn local",
    "fedper",
    "lg_fedavg",
    "mhmd",
    "mhmd --distill deep_to_shallow --aggr_part full --local_upt_part full",
    "data_exchange",
    "data_exchange --aggr_model ps --share_ratio 0.5",
    "data_exchange --mixing reference --topology ring --participation 1",
    "dpsgd",
    "independent",
    "independent --optimizer amsgrad --clip_grad 1 --weight_decay 0.01",
    "centralized",
    *(f"{name} --model MLP" for name in NEWER),
    "feddf --model MLP --epoch_per_round 1 --distill_steps 20",
    "fedmd --model MLP --pretrain_epochs 1",
    "fednova --model LeNet5 --straggler 0.5 --compress fp16",
    "scaffold --model MLP_dropout --client_failure 0.4",
)


def command_of(case: str, data: str, export_dir: Path) -> list[str]:
    """The words behind `run.py`: those of the case have the last word over the shared ones."""
    name, *own = shlex.split(case)
    shared = shlex.split(f"{SHARED} {data}")
    for flag in (word for word in own if word.startswith("--") and word in shared):
        place = shared.index(flag)
        del shared[place : place + 2]
    return [name, *own, *shared, "--data_dir", str(ROOT / "data"), "--export_dir", str(export_dir)]


Read = dict[str, dict]
# each checkout reads its runs with its own code
READ = """
import sys, saves, torch
run = saves.load(sys.argv[1])
columns = {str(name): run.history[name].tolist() for name in run.history}
torch.save({"history": columns, "weights": run.weights()}, sys.argv[2])
"""


def run_checkout(root: Path, case: str, data: str, export_dir: Path) -> Read | str:
    """The history and the weights of a case in a checkout, or the words with which it is refused."""
    command = [sys.executable, "run.py", *command_of(case, data, export_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    read = [sys.executable, "-c", READ, str(ROOT / json.loads(done.stdout)["folder"]), str(export_dir / "read.pt")]
    subprocess.run(read, cwd=root, check=True)
    return torch.load(export_dir / "read.pt", weights_only=True)


def differences(before: Read, after: Read) -> list[str]:
    """The columns of the history and the weights that are not the same bits."""
    one_history, other = (
        pd.DataFrame(run["history"]).drop(columns=list(saves.TIMING), errors="ignore") for run in (before, after)
    )
    columns = sorted(set(one_history) - set(other))  # a column may be new
    columns += [name for name in one_history if name in other and not one_history[name].equals(other[name])]
    rows = [run["weights"] for run in (before, after)]
    if list(rows[0]) != list(rows[1]) or any(saves.digest(rows[0][name]) != saves.digest(rows[1][name]) for name in rows[0]):
        columns.append("weights")
    return columns


def compare(case: str, data: str, checkouts: Sequence[tuple[Path, Path]], revision: str) -> tuple[str, bool]:
    """Run a case in two checkouts, each with a folder for its runs, side by side; return a line, and whether they differ."""
    with ThreadPoolExecutor(2) as pair:
        before, after = pair.map(lambda place: run_checkout(place[0], case, data, place[1]), checkouts)
    if isinstance(before, str):
        return f"left out, refused by {revision}: {before}", False
    if isinstance(after, str):
        return f"DIFFERS: refused here: {after}", True
    columns = differences(before, after)
    return (f"DIFFERS: {', '.join(columns)}", True) if columns else ("the same bits", False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", help="what git calls it")
    parser.add_argument("--kept", type=Path, help="where the runs are kept, so that those of the revision are made once")
    args = parser.parse_args()
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", args.revision], capture_output=True, text=True, check=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        kept, checkout = (args.kept or Path(scratch) / "kept").resolve(), Path(scratch) / "before"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(checkout), args.revision], check=True)
        try:
            for data in DATA:
                for case in COMMANDS:
                    places = [(checkout, kept / commit.stdout.strip()), (ROOT, kept / "here")]
                    line, differs = compare(case, data, places, args.revision)
                    wrong += differs
                    print(f"{case:<70} {data.split()[1]:<8} {line}", flush=True)
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(checkout)], check=True)
    print(f"torch {torch.__version__}: {wrong} of {len(COMMANDS) * len(DATA)} commands differ")
    return min(wrong, 99)


if __name__ == "__main__":
    sys.exit(main())
