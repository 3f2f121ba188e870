"""Two users on one folder of runs: what one of them may not read or write is told in lines, each naming a file or a folder;
what can be done all the same is done, and nothing of the other's is lost.

Each case is a row of `CASES`: what two users do in turn, in processes of their own. It takes root, who alone can be two.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import saves
from checks.hard import Outcome
from checks.hard.forks import Forks, Plan

ROOT, OTHER = 0, 65534
GRID = "fedavg independent --dataset digits --n_clients 2 --model MLP --rounds 1 --reduced 0.1 --jobs 1 --workers 1 --quiet"


# what a command imports late: a Python that lies in root's home is closed to the other user
IMPORTED = (
    "encodings.utf_8_sig",
    "encodings.cp437",
    "encodings.idna",
    "encodings.unicode_escape",
    "plistlib",
    "fileinput",
    "scipy.stats",
    "openpyxl",
)
IMPORTED += (
    "matplotlib.backends.backend_agg",
    "matplotlib.font_manager",
    "plotly.offline",
    "plotly.graph_objects",
    "jinja2",
)


@dataclass(frozen=True)
class Step:
    """What a user does: `grid` (`run.py` with these seeds), `table`, `report` or `status` of the folder of runs, or a change
    of permissions (`chmod MODE PATTERN`) or a removal (`rm PATTERN`) below it. The exit status that must come of it, and
    words that must be said."""

    user: int
    does: str
    status: int = 0
    expected: str = ""
    umask: int = 0o022


CLOSED = "cannot be read or written"
CASES: dict[str, tuple[Step, ...]] = {
    "root's runs are open": (
        Step(ROOT, "grid 0"),
        Step(OTHER, "table"),
        Step(OTHER, "report"),
        Step(OTHER, "status"),
        Step(OTHER, "grid 0"),
        Step(OTHER, "grid 0 1"),
        Step(ROOT, "table"),
        Step(ROOT, "grid 0 1 2"),
    ),
    "root's runs are closed": (
        Step(ROOT, "grid 0", umask=0o077),
        Step(OTHER, "table", 2, CLOSED),
        Step(OTHER, "report", 2, CLOSED),
        Step(OTHER, "status"),
        Step(OTHER, "grid 0 1", 1, CLOSED),
        Step(ROOT, "grid 0 1"),
        Step(ROOT, "table"),
    ),
    "the other's runs are closed": (
        Step(OTHER, "grid 0", umask=0o077),
        Step(ROOT, "table"),
        Step(ROOT, "status"),
        Step(ROOT, "grid 0 1", umask=0o077),
        Step(OTHER, "table", 0, CLOSED),
        Step(OTHER, "grid 0"),
        Step(OTHER, "grid 0 1 2", 1, CLOSED),
        Step(ROOT, "grid 0 1 2"),
    ),
    "one of the runs is closed": (
        Step(ROOT, "grid 0"),
        Step(ROOT, "chmod 0 fedavg-*"),
        Step(OTHER, "table", 0, CLOSED),
        Step(OTHER, "grid 0 1", 1, CLOSED),
        Step(OTHER, "status"),
        Step(ROOT, "chmod 755 fedavg-*"),
        Step(OTHER, "grid 0 1"),
    ),
    "histories are closed": (
        Step(ROOT, "grid 0"),
        Step(ROOT, "chmod 0 */history.npz"),
        Step(OTHER, "table", 2, CLOSED),
        Step(OTHER, "grid 0 1", 1, CLOSED),
        Step(ROOT, "chmod 644 */history.npz"),
        Step(OTHER, "grid 0 1"),
    ),
    "weights are closed": (
        Step(ROOT, "grid 0"),
        Step(ROOT, "chmod 0 fedavg-*/weights.pt"),
        Step(OTHER, "table", 0, CLOSED),
        Step(OTHER, "grid 0 1", 1, CLOSED),
    ),
    "an unfinished run is root's": (
        Step(ROOT, "grid 0"),
        Step(ROOT, "rm fedavg-*/done"),
        Step(OTHER, "status"),
        Step(OTHER, "table"),
        Step(OTHER, "grid 0 1", 1, CLOSED),
        Step(ROOT, "grid 0 1"),
    ),
    "the folder of runs may not be written": (
        Step(ROOT, "grid 0"),
        Step(ROOT, "chmod 755 ."),
        Step(OTHER, "table"),
        Step(OTHER, "grid 0 1", 2, "cannot be written"),
    ),
    "the folder of runs is closed": (
        Step(ROOT, "grid 0"),
        Step(ROOT, "chmod 0 ."),
        Step(OTHER, "table", 2, CLOSED),
        Step(OTHER, "status", 2, CLOSED),
        Step(OTHER, "grid 0 1", 2, "cannot be written"),
        Step(ROOT, "chmod 755 ."),
        Step(OTHER, "table"),
    ),
}


def tried(seed: int) -> Outcome:
    """All cases; nothing is drawn."""
    outcome = Outcome(dict.fromkeys(("cases", "commands", "of these refused in lines", "runs lost or changed"), 0))
    if os.geteuid():
        outcome.figures["skipped"] = "it takes root to be two users"
        return outcome
    with two_users() as (scratch, forks):
        for name, steps in CASES.items():
            outcome.count("cases")
            for line in held_to(steps, opened(scratch / name.replace(" ", "_")), forks, outcome):
                outcome.failures.append(f"{name}: {line}")
    return outcome


@contextmanager
def two_users() -> Iterator[tuple[Path, Forks]]:
    """A folder that both may enter, and what carries commands out for them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        Path(scratch).chmod(0o777)
        with Forks(*IMPORTED, HOME=scratch, MPLCONFIGDIR=scratch) as forks:
            yield Path(scratch), forks


def opened(place: Path) -> Path:
    """The folder of a case, in which both users may write."""
    (place / "saves").mkdir(parents=True)
    for folder in (place, place / "saves"):
        folder.chmod(0o777)
    return place


def held_to(steps: tuple[Step, ...], place: Path, forks: Forks, outcome: Outcome) -> Iterator[str]:
    """Do what a case says; yields what is wrong."""
    finished: dict[Path, str] = {}
    for number, step in enumerate(steps, 1):
        what, _, flags = step.does.partition(" ")
        if what in ("chmod", "rm"):
            _changed(place / "saves", what, flags)
        else:
            outcome.count("commands")
            ended = forks.run(_plan(step, place))
            lines = ended.output.strip().splitlines()
            spoken = " ".join(ended.output.split())  # a long message takes several lines
            outcome.count("of these refused in lines", int(bool(step.status)))
            text = f"step {number}, {step.does} of user {step.user}"
            if "Traceback" in ended.output or ended.status != step.status or step.expected not in spoken:
                expected = f"must be {step.status} with {step.expected!r}"
                yield f"{text}: exit status {ended.status}, {expected}: {ended.output[-600:]!r}"
            if ended.status and not lines[-1].startswith(("run.py: ", "python -m ")):
                yield f"{text}: its last line does not say why: {lines[-1]}"
        there = _digests(place / "saves")
        for folder, digest in finished.items():
            if what != "rm" and there.get(folder) != digest:
                outcome.count("runs lost or changed")
                yield f"step {number}, {step.does} of user {step.user}: {folder.name} is not what it was"
        finished = there
    created = {(run.options["algorithm"], run.options["seed"]) for run in saves.find(place / "saves")}
    options = {
        int(item) for step in steps if step.does.startswith("grid") and step.status < 2 for item in step.does.split()[1:]
    }
    if lacking := {(name, item) for name in ("fedavg", "independent") for item in options} - created:
        yield f"in the end there is no run of {sorted(lacking)}"


def _plan(step: Step, place: Path) -> Plan:
    what, _, flags = step.does.partition(" ")
    folder = str(place / "saves")
    argv = {
        "grid": [*GRID.split(), "--seed", *flags.split(), "--export_dir", folder],
        "table": [folder, "--csv"],  # notes go to standard error, which is read here
        "report": [folder, "-o", str(place / f"{step.user}.html")],
        "status": [folder],
    }[what]
    module = "run" if what == "grid" else f"figures.{what}"
    return Plan(argv, str(place), user=step.user, umask=step.umask, module=module)


def _changed(folder: Path, what: str, flags: str) -> None:
    mode, _, pattern = flags.rpartition(" ")
    for path in [folder] if pattern == "." else list(folder.glob(pattern)):
        path.chmod(int(mode, 8)) if what == "chmod" else path.unlink()


def _digests(folder: Path) -> dict[Path, str]:
    """{the folder of a finished run: the digest of all that is read of it}"""
    return {
        done.parent: hashlib.sha256(
            b"".join(path.name.encode() + path.read_bytes() for path in sorted(done.parent.glob("*.[njp][pst]*")))
        ).hexdigest()
        for done in folder.glob("*/done")
    }
