"""Files for a while. A process has one folder for its temporary files and for those of the libraries that it uses. It is
gone with the process; where that is killed its workers remove it, or the next command does.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import util
from pathlib import Path

from filelock import FileLock

PREFIX, OF_WORKERS = "chorus-", "worker-"
LOCK = ".lock"  # in a folder: held as long as the process is there whose folder it is
LAST = -200  # of what is done as a process ends: at -100 multiprocessing removes a folder of its own, which is in this one
PATIENCE = 1.0  # seconds: the lock of a process that was killed is free a moment after its pipes are closed

_held: FileLock | None = None  # in the folder of this process


@contextmanager
def used() -> Iterator[None]:
    """Inside, temporary files are in the folder of this process. Where it cannot be made they are where they always are."""
    before = tempfile.tempdir
    if of_process() is None:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            remove_abandoned(left)
        _make(PREFIX, None)
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
    if _held is None or not Path(_held.lock_file).exists():
        return None
    return Path(_held.lock_file).parent


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
    with suppress(OSError), ExitStack() as held:  # somebody else's, or of one that is at work
        if (folder / LOCK).exists():
            for lock in (folder / LOCK, *folder.glob(f"{OF_WORKERS}*/{LOCK}")):
                held.enter_context(FileLock(lock, timeout=patience))
            # by one process alone: another one that removes it too would make it anew, for its lock
            shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}-{os.getpid()}")), ignore_errors=True)


def _make(prefix: str, parent: Path | None) -> None:
    global _held
    with suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        util.Finalize(None, _remove, (folder,), exitpriority=LAST)  # first: what follows may be refused, or interrupted
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
        _held = lock


def _go_in() -> None:
    if (folder := of_process()) is not None:
        tempfile.tempdir = str(folder)


def _remove(folder: Path) -> None:
    if _held is not None and Path(_held.lock_file).parent == folder:
        _held.release()  # some systems remove no file that is open
    shutil.rmtree(folder, ignore_errors=True)
