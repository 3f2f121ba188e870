"""Locks between processes.

A lock is a file that one process holds at a time. The system frees the lock when the process ends, however it ends.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from untrusted import RefusedError

WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)  # error numbers of file systems without locks
FOREVER = -1.0


def acquire(path: Path, seconds: float = 0.0) -> FileLock:
    """Return a lock that this process now holds; `release()` frees it.

    Wait at most `seconds` for another process, then raise Timeout. Raise OSError with the path if the system refuses:
    ENOLCK, with the folder, if the file system has no locks. Raise RefusedError if the lock's name belongs to something
    other than a regular file.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise RefusedError(path, "cannot be locked (not a regular file); remove it, then rerun the same command")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", None) or errno.ENOLCK
        has_no_locks = number in WITHOUT_LOCKS
        number = errno.ENOLCK if has_no_locks else number
        raise OSError(number, os.strerror(number), str(path.parent if has_no_locks else path)) from error
    return lock


@contextmanager
def held(path: Path, seconds: float = FOREVER) -> Iterator[None]:
    """Hold a lock inside. Raise the errors of `acquire`."""
    lock = acquire(path, seconds)
    try:
        yield
    finally:
        lock.release()
