"""Temporary files.

A process has one folder for its temporary files and for those of its libraries. The folder is removed when the process
ends; if the process is killed, its workers or the next command remove the folder. The folder's lock is a file next to it
that exists before the folder and after it. So a folder with a free lock belongs to no process, at whatever moment its
process was killed.
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
LOCK = ".lock"  # suffix of a folder's name: the process that owns the folder holds this lock
LAST = -200  # exit priority: at -100 multiprocessing removes its own folder, which lies in this folder
PATIENCE = 1.0  # seconds: the lock of a killed process becomes free shortly after its pipes close

_own: tuple[Path, FileLock] | None = None  # the folder of this process, and its lock


@contextmanager
def used() -> Iterator[None]:
    """Put temporary files into this process's folder inside; if the folder cannot be created, into the usual one."""
    previous = tempfile.tempdir
    if of_process() is None:
        for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{LOCK}"):
            remove_abandoned(lock.with_suffix(""))
        _make(PREFIX, Path(tempfile.gettempdir()))
    _use_folder()
    try:
        yield
    finally:
        tempfile.tempdir = previous


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Yield a subfolder for files that this process shares with its workers; remove the subfolder afterwards."""
    with used(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def of_process() -> Path | None:
    """Return the folder of this process; None if there is none."""
    return _own[0] if _own is not None and _own[0].exists() else None


def be_in(parent: Path | None) -> None:
    """In a worker, put temporary files into the worker's own folder from now on, inside the parent process's folder."""
    if parent is not None:
        _make(OF_WORKERS, parent)
        _use_folder()


def leave(parent: Path | None) -> None:
    """In a worker whose parent process was killed, remove the worker's folder.

    Also remove the parent's folder if no other worker of the parent is left.
    """
    if (folder := of_process()) is not None:
        _remove(folder)
    if parent is not None:
        remove_abandoned(parent, PATIENCE)


def remove_abandoned(folder: Path, patience: float = 0.0) -> None:
    """Remove the folder of a killed process, unless a worker still uses it after `patience` seconds."""
    with suppress(OSError, RefusedError), ExitStack() as stack:  # another user's folder, or a folder in use
        for lock in (_lock_of(folder), *folder.glob(f"{OF_WORKERS}*{LOCK}")):
            stack.callback(_locked(lock, patience).release)
        _remove(folder)


def _make(prefix: str, parent: Path) -> None:
    global _own
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    util.Finalize(None, _remove, (folder,), exitpriority=LAST)  # before the next lines, which may fail or be interrupted
    with suppress(OSError, RefusedError):
        lock = _locked(_lock_of(folder), 0.0)
        folder.mkdir(mode=0o700)
        _own = folder, lock


def _locked(path: Path, patience: float) -> FileLock:
    """Return a lock that this process holds.

    Raise OSError or RefusedError if the lock is not free within `patience` seconds, or its folder does not exist.
    """
    path.parent.stat()  # fails if the folder is missing, which the library would create
    return locks.acquire(path, patience)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK)


def _use_folder() -> None:
    if (folder := of_process()) is not None:
        tempfile.tempdir = str(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if _own is not None and _own[0] == folder:
        _own[1].release()  # some systems cannot remove an open file
    with suppress(OSError):
        _lock_of(folder).unlink(missing_ok=True)
