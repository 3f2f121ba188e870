"""Files for a while. A process has one folder for its temporary files and for those of the libraries that it uses. It is
gone with the process; where that is killed its workers remove it, or the next command does. Its lock is a file beside it,
which is there before it and gone after it: so one whose lock is free is nobody's, at whatever moment its process was killed.
"""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import util
from pathlib import Path

from filelock import FileLock

from federation import locks
from untrusted import RefusedError

PREFIX, OF_WORKERS = "chorus-", "worker-"
LOCK = ".lock"  # behind the name of a folder: held as long as the process is there whose folder it is
LAST = -200  # of what is done as a process ends: at -100 multiprocessing removes a folder of its own, which is in this one
PATIENCE = 1.0  # seconds: the lock of a process that was killed is free a moment after its pipes are closed

_own: tuple[Path, FileLock] | None = None  # the folder of this process, and its lock


@contextmanager
def used() -> Iterator[None]:
    """Inside, temporary files are in the folder of this process. Where it cannot be made they are where they always are."""
    before = tempfile.tempdir
    if of_process() is None:
        for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{LOCK}"):
            remove_abandoned(lock.with_suffix(""))
        _make(PREFIX, Path(tempfile.gettempdir()))
    _go_in()
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder in it for files that this process shares with workers, which is gone afterwards."""
    with used(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def of_process() -> Path | None:
    """The folder of this process, where it has one."""
    return _own[0] if _own is not None and _own[0].exists() else None


def be_in(parent: Path | None) -> None:
    """Of a worker: from now on temporary files are in a folder of its own, which is in that of the process that began it."""
    if parent is not None:
        _make(OF_WORKERS, parent)
        _go_in()


def leave(parent: Path | None) -> None:
    """Of a worker, where the process that began it was killed: remove its own folder, and that of the other if no worker of
    it is left."""
    if (folder := of_process()) is not None:
        _remove(folder)
    if parent is not None:
        remove_abandoned(parent, PATIENCE)


def remove_abandoned(folder: Path, patience: float = 0.0) -> None:
    """Remove the folder of a process that was killed, unless a worker of it is at work there for so many seconds more."""
    with suppress(OSError, RefusedError), ExitStack() as held:  # somebody else's, or of one that is at work
        for lock in (_lock_of(folder), *folder.glob(f"{OF_WORKERS}*{LOCK}")):
            held.callback(_locked(lock, patience).release)
        _remove(folder)


def _make(prefix: str, there: Path) -> None:
    global _own
    folder = there / f"{prefix}{secrets.token_hex(4)}"
    util.Finalize(None, _remove, (folder,), exitpriority=LAST)  # first: what follows may be refused, or interrupted
    with suppress(OSError, RefusedError):
        lock = _locked(_lock_of(folder), 0.0)
        folder.mkdir(mode=0o700)
        _own = folder, lock


def _locked(path: Path, patience: float) -> FileLock:
    """A lock, held. Raises OSError or RefusedError where it is not to be had in so many seconds, or has no folder."""
    path.parent.stat()  # the library would make it
    return locks.acquire(path, patience)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK)


def _go_in() -> None:
    if (folder := of_process()) is not None:
        tempfile.tempdir = str(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if _own is not None and _own[0] == folder:
        _own[1].release()  # some systems remove no file that is open
    with suppress(OSError):
        _lock_of(folder).unlink(missing_ok=True)
