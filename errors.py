"""What Chorus says when it cannot go on: one clear line, never a traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

for _room in ("data", "saves"):  # what is downloaded and what is run lies there beside code, and may be removed with it
    if not Path(__file__).with_name(_room).joinpath("__init__.py").exists():
        print(f"{_room}/ is gone, and with it code of Chorus; git checkout {_room} brings that back", file=sys.stderr)
        sys.exit(2)


_here, _main = Path(__file__).resolve().parent, sys.modules["__main__"]
_path = Path(getattr(_main, "__file__", None) or "/").resolve()
if not _main.__package__ and _here in _path.parent.parents and _path.with_name("__init__.py").exists():
    _name = ".".join(_path.relative_to(_here).with_suffix("").parts).removesuffix(".__main__")
    print(f"{sys.argv[0]}: is a part of a package; in {_here} type: python -m {_name}", file=sys.stderr)
    sys.exit(2)


class UserError(Exception):
    """A flag, a file or a data set is wrong: its text is the one line that a user reads, naming the flag, the value and
    what is allowed. `run.py` prints it and exits with 2, before anything was trained or written."""


class LostError(Exception):
    """A process that takes part in a run has failed or is gone: its text says which. The last finished round is saved, from
    which the same command goes on."""


class DivergedError(Exception):
    """A training loss became NaN or infinite; its text says where. `run.py` prints it and goes on with the next run."""


class NoRoomError(Exception):
    """Nothing can be saved any more, whichever run it is: its text says where and why. The command ends with it."""


# --- what the system refuses -------------------------------------------------------------------------------------------

AGAIN = "and the same command goes on"
MEMORY = f"memory is short; free some, allow more (ulimit -v) or ask for fewer --jobs and --workers, {AGAIN}"
_TASKS = f"no more processes or threads may begin; allow more (ulimit -u) or ask for fewer --jobs and --workers, {AGAIN}"
_GONE = "is not there; where it or its folder was removed, the same command makes it again"
REFUSED = {
    errno.ENOSPC: f"the disk is full; free some space, {AGAIN}",
    errno.EDQUOT: f"the quota of this disk is used up; free some space, {AGAIN}",
    errno.EROFS: f"the disk is read-only; make it writable, {AGAIN}",
    errno.EFBIG: f"a file may not be as large as this; allow larger ones (ulimit -f), {AGAIN}",
    errno.EIO: "the disk failed to read or write; once it is in order, the same command goes on",
    errno.EACCES: f"may not be read or written; change its permissions or those of its folder, {AGAIN}",
    errno.EPERM: f"may not be read or written; change its permissions or those of its folder, {AGAIN}",
    errno.ENOENT: _GONE,
    errno.ESTALE: _GONE,
    errno.EMFILE: f"too many files are open; allow more (ulimit -n) or ask for fewer --jobs and --workers, {AGAIN}",
    errno.ENFILE: f"too many files are open on this machine; close some, {AGAIN}",
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: _TASKS,
    errno.ENOLCK: "its file system has no locks; name a folder on another disk, for runs with --export_dir",
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOLCK)
SAID = {  # what libraries say in errors of their own kinds
    "can't allocate memory": MEMORY,  # torch
    "cannot allocate memory": MEMORY,  # the loader of shared objects
    "failed to map segment from shared object": MEMORY,
    "cuda out of memory": f"the memory of the CUDA device is short; free some there, {AGAIN}",
    "can't start new thread": _TASKS,
}


def refused(error: BaseException) -> str | None:
    """In one line what the system refused, a resource that is used up or a file that is gone, and what to do; None for any
    other error."""
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, OSError) and error.errno in REFUSED:
        words = REFUSED[error.errno]
        if error.filename is not None:
            return f"{_text(error.filename)}: {words}"
        return f"a file {words}" if words.startswith(("is", "may")) else words
    if isinstance(error, RuntimeError | ImportError | OSError):
        words = next((words for said, words in SAID.items() if said in str(error).lower()), None)
        if words is None and isinstance(error, ImportError) and error.__context__ is not None:
            return refused(error.__context__)  # a library that says in words of its own what it lacks
        return words
    return None


def passes(error: BaseException) -> bool:
    """Whether a file may be in order that could not be read: memory or descriptors are short, permissions forbid it, or its
    reader was interrupted."""
    gone = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESTALE)
    return (refused(error) is not None and not gone) or _interrupt_behind(error) is not None


@contextmanager
def unmasked() -> Iterator[None]:
    """Inside, an interrupt stays one. Of a library that is interrupted while it loads, or closes a file, an error of its own
    may arrive, and the interrupt is behind that."""
    try:
        yield
    except Exception as error:
        if (interrupt := _interrupt_behind(error)) is not None:
            raise interrupt from None
        raise


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    behind = [error]  # each once: where a cause is raised itself they go round in a circle
    for one in behind:
        if isinstance(one, KeyboardInterrupt):
            return one
        behind += [other for other in (one.__cause__, one.__context__) if other is not None and other not in behind]
    return None


def no_room(error: BaseException) -> bool:
    """Whether nothing can be saved any more: a disk that is full or read-only, or has no locks."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _text(name: str | bytes | int) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, what the system refuses is an OSError that names this file: writing to an open one names none, and torch makes
    an error of its own of it."""
    try:
        yield
    except OSError as error:
        beside = error.filename is None or Path(_text(error.filename)).name.startswith(f".{path.name}.")
        if beside and error.errno is not None:  # it is written there, and renamed
            error.filename = str(path)
        raise
    except RuntimeError as error:
        cause = error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def reason_of(error: BaseException) -> str:
    """In one line, why a run failed."""
    words, said = " ".join(str(error).split()), isinstance(error, UserError | DivergedError | LostError | NoRoomError)
    return words if said else refused(error) or f"{type(error).__name__}: {words}".removesuffix(": ")


def print_no_more() -> None:
    """What is still to be printed goes nowhere, as the disk behind it is full or its reader has gone: Python would try once
    more as it ends, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(ValueError):  # of an output that is no file, as in a test
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def in_a_line(kind, error, trace) -> None:
    """What Python says of an error as it ends (`sys.excepthook`): one of the system, and an interrupt, in a line."""
    words = "stopped" if isinstance(error, KeyboardInterrupt) else refused(error)
    print(f"{Path(sys.argv[0]).name}: {words}", file=sys.stderr) if words else sys.__excepthook__(kind, error, trace)


if _path.is_relative_to(_here):
    sys.excepthook = in_a_line  # of our commands, not of programs that use us: of what happens while libraries load
