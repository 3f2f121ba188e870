"""Locks between processes. A lock is a file that one process holds at a time; the system frees it when that process ends,
however it ends."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from untrusted import RefusedError

WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)  # what file systems without locks answer
FOREVER = -1.0


def acquire(path: Path, seconds: float = 0.0) -> FileLock:
    """Return a lock that this process now holds; `release()` frees it.

    Waits at most so many `seconds` for another process, then raises Timeout. Raises OSError with the path in it where the
    system refuses: ENOLCK, with the folder, where the file system has no locks. Raises RefusedError where something else
    than a regular file has the name of the lock.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise RefusedError(path, "cannot be locked (no regular file); remove it, and the same command goes on")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", None) or errno.ENOLCK
        without = number in WITHOUT_LOCKS
        number = errno.ENOLCK if without else number
        raise OSError(number, os.strerror(number), str(path.parent if without else path)) from error
    return lock


@contextmanager
def held(path: Path, seconds: float = FOREVER) -> Iterator[None]:
    """Hold a lock inside. Raises what `acquire` raises."""
    lock = acquire(path, seconds)
    try:
        yield
    finally:
        lock.release()
