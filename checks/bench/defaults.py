"""Every method with its own defaults on one small problem: the table of docs/settings.md."""

import resource
import shlex
import subprocess
import sys
from pathlib import Path

import algorithms
import saves
from checks.bench import results
from figures import verdict
from options import flags_of

ROOT = Path(__file__).parents[2]
PAGE, FOLDER = ROOT / "docs" / "settings.md", ROOT / "saves" / "defaults"
COMMAND = (
    "python run.py {method} --model {network} --dataset MNIST --reduced 0.1 --n_clients 10 --partition lda --alpha 0.3 "
    "--rounds 10 --track_history 0 --jobs 1 --workers 1 --threads 1 --quiet"
)
NETWORKS = ("LeNet5", "LeNet5_classic")
OWN = ("mhmd", "fedgkt")  # their networks are others
MOST = 600  # seconds of processor that a run may take
METHODS = [name for name in algorithms.ALGORITHMS if name not in OWN]


def measured(folder: Path = FOLDER) -> int:
    """Run what no finished run is there of, and write the table; returns how many runs failed."""
    failed = 0
    for method in METHODS:
        for network in (network for network in NETWORKS if (method, network) not in runs_by_network(folder)):
            words = shlex.split(COMMAND.format(method=method, network=network))[1:]
            limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (MOST, MOST))  # noqa: E731
            done = subprocess.run(
                [sys.executable, *words, "--export_dir", str(folder)], cwd=ROOT, preexec_fn=limit, check=False
            )
            failed += done.returncode > 0  # below 0 where the limit stopped it
    write(folder)
    return failed


def runs_by_network(folder: Path) -> dict[tuple[str, str], saves.Run]:
    """The finished runs of a folder, by method and network."""
    return {(run.options["algorithm"], ",".join(run.options["model"])): run for run in saves.find(folder)}


def write(folder: Path = FOLDER) -> None:
    """The table, in its place in the page."""
    PAGE.write_text(results.between(PAGE.read_text(), "defaults", f"\n\n{table(folder)}\n\n"))


def table(folder: Path) -> str:
    """Return a row per method: the rounds of its defaults, and the accuracies after 10 rounds with each network.

    Where the folder has no run, the page keeps its numbers.
    """
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().partition("<!-- defaults: begin -->")[2].splitlines()]
    earlier = {row[0]: row[2:] for row in rows}
    runs, both = runs_by_network(folder), [f"{network}: {what} %" for network in NETWORKS for what in ("global", "personal")]
    lines = [["method", "rounds of its defaults", *both], ["---"] * (2 + len(both))]
    for method in METHODS:
        rounds = flags_of(algorithms.options_of(method))["rounds"]["default"]
        lines.append([f"`{method}`", f"{rounds:,}"])
        for column, network in enumerate(NETWORKS):
            run = runs.get((method, network))
            kept = earlier.get(f"`{method}`", ["–"] * 4)[2 * column : 2 * column + 2]
            mark = "\\*" if run and verdict.no_better_than_largest_class(run) else ""
            means = [run.summary()[f"{what}_mean"] for what in ("global", "personal")] if run else []
            lines[-1] += [f"{100 * mean:.1f}{mark}" for mean in means] or kept
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
