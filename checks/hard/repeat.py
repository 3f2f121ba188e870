"""The same bits of every method, whatever is around: a table of methods and conditions.

A condition is a way to give the same commands: side by side, in another order, beside other runs, from another folder, with
another seed of hashes, another locale or clock, without assertions.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import saves
from checks.hard import Outcome, methods
from checks.hard.forks import ROOT, Forks, Plan

LIMIT = 900  # seconds of a command of all methods


@dataclass(frozen=True)
class Condition:
    """Words behind those of a command; what is set in its environment, or unset where it is None; flags of python; the mask
    of files that it makes; whether the methods come in the reverse order, whether other runs are there, shorter and longer
    ones among them, and whether it is given from another folder."""

    words: tuple[str, ...] = ("--jobs", "1")
    environment: dict[str, str | None] = field(default_factory=dict)
    python: tuple[str, ...] = ()
    umask: int = -1
    reverse: bool = False
    beside_others: bool = False
    elsewhere: bool = False


ASCII = {"LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CONDITIONS = {
    "--jobs 2": Condition(("--jobs", "2")),
    "the other order": Condition(reverse=True),
    "beside other runs": Condition(beside_others=True),
    "from another folder": Condition(elsewhere=True),
    "PYTHONHASHSEED=0": Condition(environment={"PYTHONHASHSEED": "0"}),
    "PYTHONHASHSEED=1": Condition(environment={"PYTHONHASHSEED": "1"}),
    "PYTHONHASHSEED=random": Condition(environment={"PYTHONHASHSEED": "random"}),
    "an ASCII locale": Condition(environment=ASCII),
    "a Turkish locale": Condition(environment={"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}),
    "another time zone": Condition(environment={"TZ": "Pacific/Kiritimati"}),
    "python -O": Condition(python=("-O",)),
    "umask 077": Condition(umask=0o077),
}
# what an ordinary test has time for: all of the above at once, in two commands
TOGETHER = (
    Condition(environment={**ASCII, "PYTHONHASHSEED": "1"}, python=("-O",), reverse=True),
    Condition(
        ("--jobs", "2"),
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "random", "TZ": "Pacific/Kiritimati"},
        umask=0o077,
        beside_others=True,
        elsewhere=True,
    ),
)


def run_condition(condition: Condition, names: Sequence[str], folder: Path, **flags) -> list[str]:
    """Give the commands of these methods, whose runs are then in `folder` -> what went wrong, in words."""
    failures = []
    names = tuple(reversed(names)) if condition.reverse else tuple(names)
    rounds = int(flags.pop("rounds", methods.FLAGS["rounds"]))
    others = [{"rounds": rounds - 1}, {"rounds": rounds + 1}, {"rounds": rounds, "seed": 7}]
    for options in [*(others if condition.beside_others else ()), {"rounds": rounds}]:
        for words in methods.commands(names if options == {"rounds": rounds} else names[:2], **{**flags, **options}):
            ended = _python(condition, [*words, *condition.words, "--quiet", "--export_dir", str(folder)])
            if ended.returncode or "Traceback" in ended.stderr:
                failures.append(f"{' '.join(words)}: exit status {ended.returncode}, {ended.stderr[-500:]!r}")
    return failures


def _python(condition: Condition, words: Sequence[str]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **condition.environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    with tempfile.TemporaryDirectory() as other:
        return subprocess.run(
            [sys.executable, *condition.python, str(ROOT / "run.py"), *words],
            cwd=other if condition.elsewhere else ROOT,
            env=environment,
            umask=condition.umask,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )


def against(plain: dict[str, saves.Run], result: dict[str, saves.Run]) -> list[str]:
    """Where the runs of `plain` are others, or are not there."""
    failures = []
    for name, run in plain.items():
        apart = methods.apart(run, result[name]) if name in result else ["no such run"]
        failures += [f"{name} differs in {', '.join(apart)}"] if apart else []
    return failures


# --- all of it ---------------------------------------------------------------------------------------------------------


def tried(seed: int) -> Outcome:
    """All methods under all conditions; nothing is drawn."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch, ThreadPoolExecutor(2) as both:
        plain = Path(scratch) / "plain"
        outcome.failures += [f"plain: {failure}" for failure in run_condition(Condition(), methods.NAMES, plain)]
        expected = methods.runs_in(plain)
        folders = {title: Path(scratch) / title.replace(" ", "_") for title in CONDITIONS}
        requests = [(condition, methods.NAMES, folders[title]) for title, condition in CONDITIONS.items()]
        result = dict(zip(CONDITIONS, both.map(lambda item: run_condition(*item), requests), strict=True))
        folders["--workers 2"], result["--workers 2"] = Path(scratch) / "workers", _with_workers(Path(scratch) / "workers")
        for title, failures in result.items():
            failures = [*failures, *against(expected, methods.runs_in(folders[title]))]
            outcome.failures += [f"{title}: {failure}" for failure in failures]
            outcome.figures[title] = f"{len(expected) - len(failures)} of {len(methods.NAMES)} methods to the same bits"
    return outcome


def _with_workers(folder: Path) -> list[str]:
    """Runs that wait for their workers, which take longer to begin than these rounds take."""
    failures = []
    folder.mkdir()
    with Forks() as forks:
        for words in methods.commands():
            argv = [*words, "--jobs", "1", "--workers", "2", "--quiet", "--export_dir", str(folder)]
            ended = forks.run(Plan(argv, str(folder), eager=True))
            if ended.status:
                failures.append(f"{' '.join(words)}: exit status {ended.status}, {ended.output[-500:]!r}")
    return failures
