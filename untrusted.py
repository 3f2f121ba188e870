"""Read files and names that strangers may have written.

Chorus runs nothing in such a file. The limits below bound the memory that a file may use; Chorus refuses a larger file
before unpacking the file. A faulty file raises a `RefusedError`, whose single line names the file.
"""

import argparse
import io
import json
import logging
import math
import os
import re
import shutil
import stat
import sys
import tomllib
import unicodedata
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.lib import format as npy

from errors import UserError

KIB, MIB, GIB = 2**10, 2**20, 2**30
ARRAYS = 64 * GIB  # bytes of arrays to read from one file; the machine's memory is a further limit
RATIO, UNASKED = 200, 256 * MIB  # a file that unpacks to more than UNASKED bytes may grow to RATIO times its size at most
MEMBERS = 100_000  # arrays in a file
TREE = 16 * MIB  # bytes of a JSON file, such as config.json; a JSON file of data may have more
TEXT = 16 * MIB  # bytes of other text
TOML = 256 * KIB  # bytes of a TOML file
DEPTH = 64  # brackets within brackets
DOTS = 1_000  # in a line of a TOML file: the time to read a dotted key grows with the square of its number of parts
NAME = 256  # characters of the name of a class or a client
WIDTH = 100  # characters of a line on the screen
KINDS = "biufUS"  # numpy's letters: booleans, signed and unsigned integers, floats, text, bytes
# Unicode's categories of invisible characters: control, format (bidi, zero width), surrogate, unassigned, line ends
INVISIBLE = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")


class RefusedError(UserError, ValueError):
    """Say that Chorus refuses a file: `path` is the file, `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = Path(path), " ".join(escape(reason, lines=True).split())
        super().__init__(f"{escape(path)}: {self.reason}")

    def __reduce__(self):  # by default pickle rebuilds an exception from its text alone
        return RefusedError, (self.path, self.reason)


def help_formatter(prog: str) -> argparse.HelpFormatter:
    """Return argparse's formatter of help texts, for the width of the terminal and at most WIDTH."""
    return argparse.HelpFormatter(prog, width=min(shutil.get_terminal_size().columns - 2, WIDTH))


class Parser(argparse.ArgumentParser):
    """Parse arguments as argparse does, but refuse --flag=--: argparse of Python 3.11 reads this value as an empty list.

    A help text has at most WIDTH characters per line.
    """

    def __init__(self, *args, formatter_class=help_formatter, **options) -> None:
        super().__init__(*args, formatter_class=formatter_class, **options)

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does; argparse's `parse_args` calls this method."""
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.partition("=")[2] == "--":
                self.error(f"{word}: -- is not a value")
        return super().parse_known_args(args, namespace)


def is_there(path: str | Path) -> bool:
    """Return whether a file or folder of this name exists. A name longer than any file name returns False; pathlib raises
    OSError for such a name in Python 3.11."""
    return os.path.exists(path)  # noqa: PTH110


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """Turn any error inside the block into a RefusedError of a single line: the file is not a valid `kind` ("JSON", "an .npz
    file")."""
    try:
        yield
    except RefusedError:
        raise
    except RecursionError:
        raise RefusedError(path, f"is nested too deeply; must have at most {DEPTH} levels") from None
    except MemoryError as error:
        raise RefusedError(path, "needs more memory than available") from error
    except OSError as error:
        raise RefusedError(path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file can make its reader raise any error
        raise RefusedError(path, f"cannot be read as {kind} ({str(error) or type(error).__name__})") from error


def regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file, or a link to a regular file, and return its descriptor: an `opener` for `open`. Raise
    RefusedError for a folder, a pipe, a socket or a device, and never wait for such a file. The function checks twice: the
    name before opening, because opening a device may have an effect, and the descriptor after opening, because another file
    may have taken the name in between."""
    with suppress(FileNotFoundError):
        _require_regular(path, os.stat(path))  # noqa: PTH116 pathlib raises other errors
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o666)
    try:
        _require_regular(path, os.fstat(descriptor))
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(path: str | Path, status: os.stat_result) -> None:
    """Raise RefusedError where `status` is not the status of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        kind = "a socket" if stat.S_ISSOCK(status.st_mode) else kind
        raise RefusedError(Path(path), f"cannot be read ({kind}; must be a file)")


@contextmanager
def opened(path: Path, limit: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file to read its bytes. Chorus opens every file that it reads here. Raise RefusedError where the path
    is not a regular file, cannot be opened, or has more bytes than `limit`."""
    with refusing(path, "a file"):
        file = open(path, "rb", opener=regular)  # noqa: PTH123, SIM115 `refusing` covers the opening alone
    with file:
        if limit is not None and (n_bytes := os.fstat(file.fileno()).st_size) > limit:
            raise RefusedError(path, f"has {size(n_bytes)}; must be at most {size(limit)}")
        yield file


def read_bytes(path: Path) -> bytes:
    """Return all bytes of a file. Raise RefusedError."""
    with opened(path) as file, refusing(path, "a file"):
        return file.read()


def appended(path: Path) -> TextIO:
    """Open a text file to append to its end; create the file if needed. Raise RefusedError where the path is not a regular
    file."""
    return open(path, "a", encoding="utf-8", opener=regular)  # noqa: PTH123


def size(nbytes: int) -> str:
    """Format a number of bytes as messages show the number: 300 bytes, 16 MiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:,.0f} {name}" if nbytes % unit == 0 else f"{nbytes / unit:,.1f} {name}"
    return f"{nbytes} bytes"


def memory() -> int:
    """Return how many bytes a file's arrays may take here: `ARRAYS`, or the machine's memory if smaller."""
    return min(ARRAYS, _machine_memory())


@lru_cache(maxsize=1)
def _machine_memory() -> int:
    import psutil

    return psutil.virtual_memory().total


# --- text and trees ----------------------------------------------------------------------------------------------------


def text(path: Path, limit: int = TEXT) -> str:
    """Return the content of a text file in UTF-8. Raise RefusedError."""
    with opened(path, limit) as file, refusing(path, "text"):
        return file.read(limit + 1).decode("utf-8-sig")


def tree(path: Path, limit: int = TREE) -> Any:
    """Return the content of a JSON file. Raise RefusedError where the file is not JSON, has more bytes than `limit`, or has
    more than `DEPTH` levels."""
    content = text(path, limit)
    with refusing(path, "JSON"):
        value = json.loads(content, object_pairs_hook=_unique_keys)
    return shallow(path, value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dict of a JSON object. Raise ValueError where a key occurs twice; json would keep the last value."""
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise ValueError(f"the key {key} occurs twice in one object")
        entries[key] = value
    return entries


def toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raise RefusedError as `tree` does."""
    content = text(path, TOML)
    if any(line.count(".") > DOTS for line in content.splitlines()):
        raise RefusedError(path, f"has a line with more than {DOTS} dots; use fewer")
    with refusing(path, "TOML"):
        value = tomllib.loads(content)
    return shallow(path, value)


def shallow(path: Path, value: Any) -> Any:
    """Return the same tree of dicts and lists. Raise RefusedError where the tree has more than `DEPTH` levels: later code
    calls itself for each level and would exceed Python's recursion limit."""
    level = [value]
    for _ in range(DEPTH + 1):
        children = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        if not children:
            return value
        level = [node for nodes in children for node in nodes if isinstance(node, dict | list)]
    raise RefusedError(path, f"is nested too deeply; must have at most {DEPTH} levels")


# --- arrays ------------------------------------------------------------------------------------------------------------


def arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, by default all of them; with `names`, only the named arrays that the file holds.
    Raise RefusedError where the file is not an .npz file, where an array holds objects or records, and, before unpacking,
    where the arrays exceed the limits of this module."""
    kind = "an .npz file"
    with opened(path) as file, refusing(path, kind), zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
        if len(archive.infolist()) > MEMBERS:
            raise RefusedError(path, f"holds {len(archive.infolist())} arrays; must hold at most {MEMBERS}")
        if len(members) < sum(info.filename.endswith(".npy") for info in archive.infolist()):
            raise RefusedError(path, "holds two arrays with the same name")
        selected = {name: info for name, info in members.items() if names is None or name in names}
        for info in selected.values():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RefusedError(
                    path, f"cannot be read as {kind} ({info.filename} is compressed with a method that numpy does not use)"
                )
        unpacked, packed = (
            sum(getattr(info, field) for info in selected.values()) for field in ("file_size", "compress_size")
        )
        affordable(path, unpacked, min(packed, os.fstat(file.fileno()).st_size))
        content = {}
        for name, info in selected.items():
            with refusing(path, f"the array {name}"), archive.open(info) as member:
                # a small array is read at once: each read of a member takes Python as long as many bytes
                source = io.BytesIO(member.read()) if info.file_size <= MIB else member
                content[name] = _array(path, name, source, info.file_size)
                member.read(1)  # zipfile compares the checksum at the end of a member
        return content


def members(path: Path) -> list[str]:
    """Return the names of the arrays of an .npz file. Raise RefusedError as `arrays` does."""
    with opened(path) as file, refusing(path, "an .npz file"), zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def array(path: Path) -> np.ndarray:
    """Return the array of an .npy file. Raise RefusedError as `arrays` does."""
    with opened(path) as file, refusing(path, "an .npy file"):
        n_bytes = os.fstat(file.fileno()).st_size
        affordable(path, n_bytes, n_bytes)
        return _array(path, Path(path).name, file, n_bytes)


def affordable(path: Path, unpacked: int, packed: int) -> None:
    """Raise RefusedError where `packed` bytes of a file unpack to `unpacked` bytes, more than the limits of this module."""
    if unpacked > UNASKED and unpacked > RATIO * packed:
        raise RefusedError(
            path, f"would unpack to {size(unpacked)}, more than {RATIO} times its size; save it without compression"
        )
    if unpacked > (limit := memory()):
        raise RefusedError(path, f"needs {size(unpacked)} of memory, more than the limit of {size(limit)}")


HEADERS = {(1, 0): (2, npy.read_array_header_1_0), (2, 0): (4, npy.read_array_header_2_0)}  # bytes of the length, reader


@lru_cache(maxsize=100)  # the columns of a history share a header
def _header(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type. Numpy refuses a header of more than 10,000 bytes."""
    return HEADERS[version][1](io.BytesIO(header))


def _array(path: Path, name: str, file, n_bytes: int) -> np.ndarray:
    """Return one array from the next `n_bytes` bytes of a file. The header and the values must fill these bytes exactly.
    (`np.load` allocates the memory that a header names before reading a value.)"""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise RefusedError(path, f"{name} has the npy version {version}; must be 1.0 or 2.0")
    length_bytes = file.read(HEADERS[version][0])
    shape, fortran, dtype = _header(version, length_bytes + file.read(int.from_bytes(length_bytes, "little")))
    if dtype.kind not in KINDS:
        held = "objects" if dtype.hasobject else dtype
        raise RefusedError(path, f"{name} holds {held}; only numbers and text are read, as np.array(..., dtype=str)")
    length = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or file.tell() + length != n_bytes:
        raise RefusedError(path, f"{name} declares {dtype} {list(shape)}, but holds {size(n_bytes)}")
    content = bytearray(length)
    unfilled = memoryview(content)
    while unfilled:
        if not (n := file.readinto(unfilled[: 16 * MIB])):
            raise EOFError(f"{name} ends early")
        unfilled = unfilled[n:]
    if dtype.kind == "U" and length and np.frombuffer(content, f"{dtype.byteorder}u4").max() > sys.maxunicode:
        raise RefusedError(path, f"{name} holds invalid characters")
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")


# --- names -------------------------------------------------------------------------------------------------------------


def escape(value: object, lines: bool = False) -> str:
    r"""Return text that is safe to show in a terminal, a log and a table: a character that moves the cursor, ends a line,
    changes the direction of writing or is invisible becomes a visible escape, \n or \x1b or \u202e. `lines` keeps line ends
    and tabs, for Chorus's own text of several lines."""
    shown = str(value)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in INVISIBLE and not (lines and c in "\n\t") else c for c in shown
    )


def short(prefix: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name of more than `NAME` characters; the message begins with `prefix`."""
    if (longest := max(map(len, names), default=0)) > NAME:
        raise ValueError(f"{prefix} a name of {longest} characters; must be at most {NAME}")


def no_formula(cell: str) -> str:
    """Return text for a CSV file, with an apostrophe before text that a spreadsheet would read as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def wrap(text: str, end: str = "") -> str:
    """Return a text in lines of at most WIDTH characters, broken between words, with a hanging indent of two blanks.

    A longer word stays whole. `end`: the end of each line but the last, such as " \\" for a command of a shell; words in
    single quotes then stay whole too.
    """
    return "\n".join(_wrap_line(line, end) if len(line) > WIDTH else line for line in text.split("\n"))


def _wrap_line(line: str, end: str) -> str:
    words = re.findall(r"(?:'[^']*'|\S)+" if end else r"\S+", line)
    indent = re.match(" *", line)[0]
    lines = [indent + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) + len(end) <= WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent}  {word}")
    return f"{end}\n".join(lines)


def print_escaped(*words: object, **options: Any) -> None:
    """Print text that may contain names from strangers, escaped; `options` are the keyword arguments of `print`."""
    print(*(escape(word, lines=True) for word in words), **options)


class EscapingFormatter(logging.Formatter):
    """Format log records, which may contain names from strangers."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, in several lines where the record has a traceback."""
        return escape(super().format(record), lines=True)
