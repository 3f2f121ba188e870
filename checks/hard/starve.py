"""Starved: a disk that is full, a folder that is gone or may not be written, too few descriptors, memory that is refused, a
worker that the kernel kills.

Each is tried on a real command in a process of its own, which must end by itself, with status 1 or 2 and one line that is no
traceback, or with 0 where it can do without. Then it is given back what it lacked, and the same command must end with the
history and the weights of a run that nobody disturbed, and leave nothing behind."""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import saves
from checks.hard import Outcome

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = (
    "run.py fedavg --dataset digits --n_clients 3 --model MLP --rounds 30 --epoch_per_round 2 --batch_size 32 --threads 1 "
    "--quiet"
)
HOW = {"alone": "--workers 1", "--jobs 2": "--jobs 2 --workers 1 --seed 0 1", "--workers 2": "--workers 2"}
LIMIT = 120  # seconds of a command
DAC_OVERRIDE, BOUNDING = 1, 24  # the right of root to write where permissions forbid it; prctl's way to give one up
SIZE = 40_000_000  # bytes of the disk


@dataclass
class Place:
    """A small disk with the folder of the runs and one for temporary files, on which `process` is at work."""

    disk: Path
    process: subprocess.Popen | None = None

    @property
    def saves(self) -> Path:
        """The folder of the runs."""
        return self.disk / "saves"

    def fill(self, leave: int = 0) -> None:
        """Until there is no space but so many bytes."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 12))
        os.truncate(filler, filler.stat().st_size - leave)

    def runs_removed(self) -> None:
        """The folders of the runs are gone."""
        for folder in self.saves.iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def permit(self, mode: str) -> None:
        """All that is in the folder of the runs, `a-w` or `u+w`."""
        subprocess.run(["chmod", "-R", mode, self.saves], check=True)

    def kill_worker(self) -> None:
        """As the kernel does where memory is short: SIGKILL to one that computes."""
        this = self.process.pid
        while self.process.poll() is None:  # they take a second or two to start
            them = _parents(this)
            servers = [pid for pid, (parent, line) in them.items() if parent == this and b"forkserver" in line]
            workers = [pid for pid, (parent, _) in them.items() if parent in servers]
            if workers:
                os.kill(workers[0], signal.SIGKILL)
                return
            time.sleep(0.02)


@dataclass
class Starvation:
    """What is done to a command: before it begins, or once a run of it has played some rounds, and how that is undone."""

    before: Callable[[Place], object] = lambda place: None
    after_rounds: Callable[[Place], object] | None = None
    undo: Callable[[Place], object] = lambda place: None
    limits: dict[int, int] = field(default_factory=dict)
    out: str | None = None  # where standard output goes
    mounts: bool = False  # whether it needs a disk of its own
    modes: tuple[str, ...] = tuple(HOW)


def _free(place: Place) -> None:
    (place.disk / "filler").unlink(missing_ok=True)


STARVED = {
    "disk full": Starvation(Place.fill, undo=_free, mounts=True),
    "disk nearly full": Starvation(lambda place: place.fill(300_000), undo=_free, mounts=True),
    "disk full after some rounds": Starvation(after_rounds=Place.fill, undo=_free, mounts=True),
    "folder of all runs removed": Starvation(after_rounds=lambda place: shutil.rmtree(place.saves, ignore_errors=True)),
    "folders of the runs removed": Starvation(after_rounds=Place.runs_removed, modes=("alone", "--jobs 2")),
    "folder made read-only": Starvation(
        after_rounds=lambda place: place.permit("a-w"), undo=lambda place: place.permit("u+w"), modes=("alone", "--jobs 2")
    ),
    "TMPDIR removed": Starvation(
        after_rounds=lambda place: shutil.rmtree(place.disk / "tmp", ignore_errors=True),
        modes=("--jobs 2", "--workers 2"),
    ),
    "8 descriptors": Starvation(limits={resource.RLIMIT_NOFILE: 8}),
    "16 descriptors": Starvation(limits={resource.RLIMIT_NOFILE: 16}, modes=("--jobs 2", "--workers 2")),
    "500 MB of memory, too little to load": Starvation(limits={resource.RLIMIT_AS: 500 << 20}, modes=("alone",)),
    "700 MB of memory, too little to finish": Starvation(limits={resource.RLIMIT_AS: 700 << 20}),
    "files of 1 kB": Starvation(limits={resource.RLIMIT_FSIZE: 1_000}, modes=("alone", "--jobs 2")),
    "files of 100 kB": Starvation(limits={resource.RLIMIT_FSIZE: 100_000}, modes=("alone", "--jobs 2")),
    "standard output full": Starvation(out="/dev/full", modes=("alone",)),
    "worker killed": Starvation(after_rounds=Place.kill_worker, modes=("--jobs 2", "--workers 2")),
    "all killed": Starvation(
        after_rounds=lambda place: os.kill(place.process.pid, signal.SIGKILL), modes=("alone", "--jobs 2", "--workers 2")
    ),
}


def tried(seed: int) -> Outcome:
    """Each of `STARVED`, in each of its ways. Nothing is drawn."""
    outcome = Outcome()
    for name in ("tried", "ended in one line", "did without", "killed", "resumed to the same bits"):
        outcome.figures[name] = 0
    with TemporaryDirectory(prefix="chorus-starve-") as scratch:
        whole = Path(scratch) / "whole"
        _begun("--jobs 2", whole, Path(scratch), stdout=subprocess.DEVNULL).wait(LIMIT)
        for name, starvation in STARVED.items():
            for flags in starvation.modes:
                with _disk(Path(scratch)) as (place, mounted):
                    if starvation.mounts and not mounted:
                        outcome.figures[f"skipped: {name}"] = "no disk may be mounted here, which takes root"
                        continue
                    outcome.count("tried")
                    for line in _starve(starvation, flags, place, whole, outcome):
                        outcome.failures.append(f"{name}, {flags}: {line}")
    return outcome


def _starve(starvation: Starvation, mode: str, place: Place, whole: Path, outcome: Outcome) -> Iterator[str]:
    """Try one; yields what is wrong."""
    starvation.before(place)
    result, out = place.disk.parent / "stderr", Path(starvation.out or os.devnull)

    def limit() -> None:
        for which, most in starvation.limits.items():
            resource.setrlimit(which, (most, most))
        if os.geteuid() == 0:
            ctypes.CDLL(None).prctl(BOUNDING, DAC_OVERRIDE, 0, 0, 0)

    with result.open("w") as err, out.open("w") as to:
        streams = {"stdout": to, "stderr": err, "start_new_session": True}
        place.process = _begun(mode, place.saves, place.disk / "tmp", preexec_fn=limit, **streams)
        acted = starvation.after_rounds is None or _after_rounds(starvation.after_rounds, place)
        try:
            status = place.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            yield f"hangs for {LIMIT} s"
            status = None
    if not acted:
        yield "was over before it could be starved"
    if _left(place.process.pid):
        yield "leaves processes behind"
    lines = result.read_text().splitlines()
    if any("Traceback" in line or "Logging error" in line for line in lines):
        yield f"a traceback: {lines[0]} ... {lines[-1]}"
    elif status in (1, 2):
        last = [line for line in lines if line.startswith("run.py: ") and "the same command" in line]
        if len(last) == 1 or (last and mode == "--jobs 2"):  # one line per run, where each run fails
            outcome.count("ended in one line")
        else:
            yield f"{len(last)} lines that say what to do: {' | '.join(lines)}"
    elif status is not None:
        outcome.count({0: "did without", -signal.SIGKILL: "killed"}.get(status, "ended otherwise"))
    starvation.undo(place)
    yield from _goes_on(mode, place, whole, outcome)


def _goes_on(mode: str, place: Place, whole: Path, outcome: Outcome) -> Iterator[str]:
    scratch = place.disk / "tmp"
    scratch.mkdir(exist_ok=True)
    again = _begun(mode, place.saves, scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    message = again.communicate(timeout=LIMIT)[1]
    if again.returncode:
        yield f"the same command ends with {again.returncode}: {message.strip()}"
        return
    wrong = [f"{path.name} is left in TMPDIR" for path in scratch.glob("chorus-*")]
    for run in saves.find(place.saves):
        wrong += [f"{run.folder.name}: another {what}" for what in _differences(run, saves.load(whole / run.folder.name))]
        left = {path.name for path in run.folder.iterdir() if path.name.startswith(".")} - {".lock"}
        wrong += [f"{run.folder.name}: {name} is left" for name in left]
    yield from wrong
    outcome.count("resumed to the same bits", not wrong)


def _differences(item: saves.Run, other: saves.Run) -> list[str]:
    histories = [run.history.drop(columns=list(saves.TIMING), errors="ignore") for run in (item, other)]
    results = [] if histories[0].equals(histories[1]) else ["history"]
    weights = [{name: saves.digest(rows) for name, rows in run.weights().items()} for run in (item, other)]
    return results + ([] if weights[0] == weights[1] else ["weights"])


def _begun(mode: str, folder: Path, scratch: Path, **others) -> subprocess.Popen:
    words = [sys.executable, *RUN.split(), *HOW[mode].split(), "--export_dir", str(folder), "--data_dir", str(ROOT / "data")]
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "TMPDIR": str(scratch)}, **others)


def _after_rounds(do: Callable[[Place], object], place: Place) -> bool:
    """Once a run is past its second round; whether there was one."""
    until = time.monotonic() + LIMIT
    while place.process.poll() is None and time.monotonic() < until:
        with suppress(OSError):
            if any(path.read_text().count("\n") > 3 for path in place.saves.glob("*/history.csv")):
                do(place)
                return True
        time.sleep(0.02)
    return False


@contextmanager
def _disk(scratch: Path) -> Iterator[tuple[Place, bool]]:
    """A small disk, where one may be mounted, and else a folder; and which of both."""
    disk = scratch / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)]
    mounted = shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        for name in ("saves", "tmp"):
            (disk / name).mkdir()
        yield Place(disk), mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", disk], check=True)
        shutil.rmtree(disk)


def _parents(session: int) -> dict[int, tuple[int, bytes]]:
    """{process: (its parent, its command)} of a session, where the system tells."""
    results = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                results[int(path.name)] = int(fields[1]), (path / "cmdline").read_bytes()
    return results


def _left(session: int) -> bool:
    """Whether there are processes that outlive the first of them, after they had time to save what they were at; they are
    ended."""
    until = time.monotonic() + 20
    while _parents(session) and time.monotonic() < until:
        time.sleep(0.1)
    result = _parents(session)
    for pid in result:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return bool(result)
