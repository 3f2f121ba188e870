"""The errors that end a command or a run, each with one clear line instead of a traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

for _package in ("data", "saves"):  # these folders hold downloads and runs beside code, so a user may remove the code too
    if not Path(__file__).with_name(_package).joinpath("__init__.py").exists():
        print(f"{_package}/ with code of Chorus is missing; restore it: git checkout {_package}", file=sys.stderr)
        sys.exit(2)


_here, _main = Path(__file__).resolve().parent, sys.modules["__main__"]
_path = Path(getattr(_main, "__file__", None) or "/").resolve()
_folders = [_folder for _folder in _path.parents if _here in _folder.parents]  # a .venv in here holds others' packages
if not _main.__package__ and _folders and all(_folder.joinpath("__init__.py").exists() for _folder in _folders):
    _name = ".".join(_path.relative_to(_here).with_suffix("").parts).removesuffix(".__main__")
    print(f"{sys.argv[0]}: is part of a package; in {_here} run: python -m {_name}", file=sys.stderr)
    sys.exit(2)


class _InALineError(Exception):
    def _render_traceback_(self) -> list[str]:  # IPython shows these lines in place of a traceback
        return [f"{type(self).__name__}: {self}"]


class UserError(_InALineError):
    """A flag, a file or a data set is wrong.

    The text is the one line that the user reads: it names the flag, the value and the allowed values. `run.py` prints the
    line and exits with 2, before Chorus trains or writes anything.
    """


class FailedError(_InALineError):
    """Runs ended without a result; the text has a line for each, with the path of its log."""


class LostError(Exception):
    """A process that takes part in a run has failed or is gone; the text says which process.

    The last finished round is saved. The same command continues from that round.
    """


class DivergedError(Exception):
    """A training loss became NaN or infinite; the text says where. `run.py` prints it and continues with the next run."""


class NoRoomError(Exception):
    """Nothing can be saved any more, for any run; the text says where and why. The command ends."""


# --- what the system refuses -------------------------------------------------------------------------------------------

AGAIN = "then rerun the same command"
MEMORY = f"not enough memory; free some, allow more (ulimit -v) or use fewer --jobs and --workers, {AGAIN}"
_TASKS = f"the limit of processes or threads is reached; allow more (ulimit -u) or use fewer --jobs and --workers, {AGAIN}"
_GONE = "does not exist; if it or its folder was removed, rerun the same command to create it"
REFUSED = {
    errno.ENOSPC: f"the disk is full; free some space, {AGAIN}",
    errno.EDQUOT: f"the disk quota is exhausted; free some space, {AGAIN}",
    errno.EROFS: f"the disk is read-only; make it writable, {AGAIN}",
    errno.EFBIG: f"the file exceeds the size limit; allow larger files (ulimit -f), {AGAIN}",
    errno.EIO: f"the disk failed to read or write; repair it, {AGAIN}",
    errno.EACCES: f"cannot be read or written; change the permissions of the file or of its folder, {AGAIN}",
    errno.EPERM: f"cannot be read or written; change the permissions of the file or of its folder, {AGAIN}",
    errno.ENOENT: _GONE,
    errno.ESTALE: _GONE,
    errno.EMFILE: f"too many files are open; allow more (ulimit -n) or use fewer --jobs and --workers, {AGAIN}",
    errno.ENFILE: f"too many files are open on this machine; close some, {AGAIN}",
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: _TASKS,
    errno.ENOLCK: "its file system has no locks; use a folder on another disk (for runs: --export_dir)",
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOLCK)
SAID = {  # {phrase in an error of a library, in lower case: message}
    "can't allocate memory": MEMORY,  # torch
    "cannot allocate memory": MEMORY,  # the loader of shared objects
    "failed to map segment from shared object": MEMORY,
    "cuda out of memory": f"not enough memory on the CUDA device; free some, {AGAIN}",
    "can't start new thread": _TASKS,
}


def refused(error: BaseException) -> str | None:
    """Return, in one line, what the system refused and what to do; None for any other error.

    The system refuses a resource that is used up, or a file that is gone.
    """
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, OSError) and error.errno in REFUSED:
        message = REFUSED[error.errno]
        if error.filename is not None:
            return f"{_decode(error.filename)}: {message}"
        return f"a file {message}" if message.startswith(("does not", "cannot")) else message
    if isinstance(error, RuntimeError | ImportError | OSError):
        message = next((message for phrase, message in SAID.items() if phrase in str(error).lower()), None)
        if message is None and isinstance(error, ImportError) and error.__context__ is not None:
            return refused(error.__context__)  # the library wraps the error of the system
        return message
    return None


def passes(error: BaseException) -> bool:
    """Return whether a file that could not be read may still be intact.

    This is so where memory or descriptors are short, permissions forbid reading, or an interrupt stopped the reader.
    """
    gone = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESTALE)
    return (refused(error) is not None and not gone) or _interrupt_in_chain(error) is not None


@contextmanager
def unmasked() -> Iterator[None]:
    """Raise an interrupt inside this context as a KeyboardInterrupt.

    A library that is interrupted while it loads, or while it closes a file, may raise an error of its own, with the
    interrupt as its cause or context.
    """
    try:
        yield
    except Exception as error:
        if (interrupt := _interrupt_in_chain(error)) is not None:
            raise interrupt from None
        raise


def _interrupt_in_chain(error: BaseException) -> KeyboardInterrupt | None:
    chain = [error]  # each error once: causes can form a cycle
    for cause in chain:
        if isinstance(cause, KeyboardInterrupt):
            return cause
        chain += [other for other in (cause.__cause__, cause.__context__) if other is not None and other not in chain]
    return None


def no_room(error: BaseException) -> bool:
    """Return whether nothing can be saved any more: the disk is full or read-only, or has no locks."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _decode(name: str | bytes | int) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the system inside this context into an OSError that names this file.

    The error of writing to an open file has no file name, and torch turns such an error into an error of its own.
    """
    try:
        yield
    except OSError as error:
        is_temporary = error.filename is None or Path(_decode(error.filename)).name.startswith(f".{path.name}.")
        if is_temporary and error.errno is not None:  # files are written under a temporary name, and renamed
            error.filename = str(path)
        raise
    except RuntimeError as error:
        cause = error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def reason_of(error: BaseException) -> str:
    """Return, in one line, why a run failed."""
    message, is_ours = " ".join(str(error).split()), isinstance(error, UserError | DivergedError | LostError | NoRoomError)
    return message if is_ours else refused(error) or f"{type(error).__name__}: {message}".removesuffix(": ")


def print_no_more() -> None:
    """Send the rest of standard output to the null device, after the disk is full or the reader is gone.

    Otherwise Python would try to write again as it ends, and print an error.
    """
    devnull = os.open(os.devnull, os.O_WRONLY)
    with suppress(ValueError):  # the output is no file, as in a test
        os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def in_a_line(kind, error, trace) -> None:
    """Print an uncaught error (`sys.excepthook`): an error of the system, and an interrupt, in one line."""
    if isinstance(error, BrokenPipeError):  # the reader of the output has gone: | head
        print_no_more()
        return
    message = "stopped" if isinstance(error, KeyboardInterrupt) else refused(error)
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr) if message else sys.__excepthook__(kind, error, trace)


if _path.is_relative_to(_here):
    sys.excepthook = in_a_line  # for commands of Chorus, not for programs that import it; reports failing imports
