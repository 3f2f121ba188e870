"""Commands in processes that begin at once: each is forked from one that has imported everything and started no thread, as
`python run.py` is after its seconds of imports. They are killed by it too, which alone can tell a process from another
that got its number since.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GRACE = 20.0  # seconds that the children of a killed process have to end: they may save what they are at
LIMIT = 300.0  # seconds of a command that is not killed


@dataclass
class Plan:
    """A command and its end: `signal` after `after` seconds, or SIGKILL at the rename number `rename` (from 1), before it or
    behind it; or none. `eager`: a checkpoint is written after every round, as where rounds take long; and a run with workers
    waits for them, as where rounds take longer than these to begin. `module`: another command than run.py."""

    argv: list[str]
    folder: str  # for temporary files, and of what it says
    signal: int = signal.SIGKILL
    after: float | None = None
    rename: int = 0
    behind: bool = False
    eager: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    user: int = 0  # whose rights the command has, where this process is root's
    umask: int = 0o022
    module: str = "run"  # whose `main` it is


@dataclass
class Ended:
    """How a command ended: its exit status, or less the number of the signal; the seconds that it took; whether it was
    ended before it was over; the file whose rename was its last; how many it had renamed; what it said on its standard
    error; the processes that outlived it by more than `GRACE`, and the seconds until the last of them had gone."""

    status: int
    seconds: float
    cut: bool
    file: str
    renames: int
    output: str
    left: list[str]
    lingered: float


class Forks:
    """A process that forks others. To be closed. `modules` are imported beforehand too, with these variables in
    the `environment`."""

    def __init__(self, *modules: str, **environment: str) -> None:
        words = [sys.executable, "-m", "checks.hard.forks", *modules]
        environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(words, cwd=ROOT, env=environment, **pipes)

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(self, plan: Plan) -> Ended:
        """Carry a command out, to its end."""
        self._process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


# --- in the process that forks -----------------------------------------------------------------------------------------


def _serve() -> None:
    import run  # noqa: F401  # and with it all that a command needs
    import saves.workbook  # noqa: F401
    from figures import folder, report, status, table  # noqa: F401

    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(asdict(_carried_out(Plan(**json.loads(line))))), flush=True)


def _carried_out(plan: Plan) -> Ended:
    import psutil

    result, moment = Path(plan.folder) / "said", Path(plan.folder) / "moment"
    moment.unlink(missing_ok=True)
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        _be(plan, result, moment)
    ended, cut, children = 0, False, []
    while not ended:
        ended, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.perf_counter() - began
        if not ended and not cut and seconds > (LIMIT if plan.after is None else plan.after):
            children, cut = psutil.Process(pid).children(recursive=True), True
            os.kill(pid, plan.signal if plan.after is not None else signal.SIGKILL)
        if not ended:
            time.sleep(0.001)
    gone_at = time.perf_counter()
    _, alive = psutil.wait_procs(children, timeout=GRACE)
    left = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):  # ended just now, or a zombie, which has ended too
            left.append(" ".join(process.cmdline()))
            process.kill()
    renamed = moment.read_text().splitlines() if moment.exists() else []
    file = renamed[-1].partition(" ")[0] if renamed else ""
    code = os.waitstatus_to_exitcode(status)
    cut = cut if not plan.rename else bool(file)
    text = result.read_text(errors="replace") if result.exists() else ""
    return Ended(code, seconds, cut, file, len(renamed), text, left, time.perf_counter() - gone_at)


def _be(plan: Plan, output: Path, moment: Path) -> None:
    """Become the command; never returns."""
    status = 70
    try:
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDWR)
        for there, here in ((nothing, 0), (nothing, 1), (out, 2)):
            os.dup2(there, here)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(plan.environment, TMPDIR=plan.folder)
        sys.argv = [f"{plan.module}.py", *plan.argv]
        _end_at_rename(plan.rename, plan.behind, moment)
        os.umask(plan.umask)
        if plan.user:
            os.setgroups([])
            os.setgid(plan.user)
            os.setuid(plan.user)

        command = importlib.import_module(plan.module)
        from experiment import checkpoints
        from federation.pool import Pool, ignore_signals

        if plan.eager:
            checkpoints.SECONDS = 0
            Pool.is_ready = property(lambda pool: pool.wait() or True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = command.main(plan.argv) or 0
        ignore_signals()
        atexit._run_exitfuncs()  # as at the end of any process: multiprocessing removes what it has in a folder
        sys.stderr.flush()
    except KeyboardInterrupt:  # before it could be told in another way: as Python ends then
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except SystemExit as left:
        status = left.code or 0
        if isinstance(status, str):  # as Python does with words
            print(status, file=sys.stderr)
            status = 1
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _end_at_rename(number: int, behind: bool, moment: Path) -> None:
    """Count the files that are renamed, and end this process at one of them."""
    count = 0

    def counted(rename):
        def renamed(source, target, **flags):
            nonlocal count
            count += 1
            if count == number and behind:
                rename(source, target, **flags)
            result = os.open(moment, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # a line a rename: it may be killed right here
            os.write(result, f"{Path(target).name if count == number else ''} {count}\n".encode())
            os.close(result)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target, **flags)

        return renamed

    os.replace, os.rename = counted(os.replace), counted(os.rename)


if __name__ == "__main__":
    _serve()
