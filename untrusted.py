"""Files that strangers may have written, and names that they may have given.

Nothing in a file is run, and none may ask for more than the limits below say; what is beyond them is refused before it is
unpacked. Whatever is wrong with a file is a `RefusedError`, one line that names it.
"""

import argparse
import json
import logging
import math
import os
import stat
import sys
import tomllib
import unicodedata
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.lib import format as npy

from errors import UserError

KIB, MIB, GIB = 2**10, 2**20, 2**30
ARRAYS = 64 * GIB  # bytes of arrays that are read from one file; never more than the machine has memory
RATIO, UNASKED = 200, 256 * MIB  # a file that unpacks to more than UNASKED may become RATIO times its size, and no more
MEMBERS = 100_000  # arrays in a file
TREE = 16 * MIB  # bytes of a JSON file, such as config.json; one of data may have more
TEXT = 16 * MIB  # bytes of other text
TOML = 256 * KIB  # bytes of a TOML file
DEPTH = 64  # brackets within brackets
DOTS = 1_000  # in one line of a TOML file: keys of many parts take the square of their number to read
NAME = 256  # characters of the name of a class or a client
KINDS = "biufUS"  # numpy's letters: truth values, whole numbers, floats, text, bytes
# Unicode's categories of what is not seen: control, format (bidi, zero width), half a letter, no letter, ends of lines
INVISIBLE = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")


class RefusedError(UserError, ValueError):
    """A file is not read: `path`, and why, `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = Path(path), " ".join(escape(reason, lines=True).split())
        super().__init__(f"{escape(path)}: {self.reason}")

    def __reduce__(self):  # by default an exception is made again of its text alone, in another process
        return RefusedError, (self.path, self.reason)


class Parser(argparse.ArgumentParser):
    """That of the library, which in Python 3.11 makes an empty list of the value of --flag=--: this one refuses it."""

    def parse_known_args(self, args=None, namespace=None):
        """As in the library, whose `parse_args` calls it."""
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.partition("=")[2] == "--":
                self.error(f"{word}: -- is no value")
        return super().parse_known_args(args, namespace)


def is_there(path: str | Path) -> bool:
    """Whether there is such a file or folder; not, where the name is longer than that of any file, of which pathlib makes an
    OSError in Python 3.11."""
    return os.path.exists(path)  # noqa: PTH110


@contextmanager
def refusing(path: Path, what: str) -> Iterator[None]:
    """Whatever a reader stumbles over inside becomes one line: that the file is no `what` ("JSON", "an .npz file")."""
    try:
        yield
    except RefusedError:
        raise
    except RecursionError:
        raise RefusedError(path, f"is nested too deeply; at most {DEPTH} levels are read") from None
    except MemoryError as error:
        raise RefusedError(path, "asks for more memory than there is") from error
    except OSError as error:
        raise RefusedError(path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file can break its reader in any way
        raise RefusedError(path, f"is not to be read as {what} ({str(error) or type(error).__name__})") from error


def regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file, or a link to one, and return its descriptor: an `opener` for `open`. Raises RefusedError for a
    folder, a pipe, a socket or a device, and never waits for one. It looks twice: at the name, since to open a device may
    already do something, and at the open file, since another may have got the name in between."""
    with suppress(FileNotFoundError):
        _require_regular(path, os.stat(path))  # noqa: PTH116 the errors of pathlib are others
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o666)
    try:
        _require_regular(path, os.fstat(descriptor))
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(path: str | Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        kind = "a socket" if stat.S_ISSOCK(found.st_mode) else kind
        raise RefusedError(Path(path), f"cannot be read ({kind}; must be a file)")


@contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file to read its bytes: every file that Chorus reads is opened here. Raises RefusedError for anything
    else, for a file that cannot be opened, and for more bytes than `most`."""
    with refusing(path, "a file"):
        file = open(path, "rb", opener=regular)  # noqa: PTH123, SIM115 what is done with it stumbles over its own
    with file:
        if most is not None and (found := os.fstat(file.fileno()).st_size) > most:
            raise RefusedError(path, f"has {size(found)}; at most {size(most)} are read")
        yield file


def read_bytes(path: Path) -> bytes:
    """Read all bytes of a file. Raises RefusedError."""
    with opened(path) as file, refusing(path, "a file"):
        return file.read()


def appended(path: Path) -> TextIO:
    """Open a text file to add to its end, made where it is not there. Raises RefusedError for what is no regular file."""
    return open(path, "a", encoding="utf-8", opener=regular)  # noqa: PTH123


def size(nbytes: int) -> str:
    """Bytes as the limits are told: 300 bytes, 16 MiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:,.0f} {name}" if nbytes % unit == 0 else f"{nbytes / unit:,.1f} {name}"
    return f"{nbytes} bytes"


def memory() -> int:
    """Bytes that a file's arrays may take here: `ARRAYS`, or what the machine has."""
    import psutil

    return min(ARRAYS, psutil.virtual_memory().total)


# --- text and trees ----------------------------------------------------------------------------------------------------


def text(path: Path, most: int = TEXT) -> str:
    """A file of text in UTF-8. Raises RefusedError."""
    with opened(path, most) as file, refusing(path, "text"):
        return file.read(most + 1).decode("utf-8-sig")


def tree(path: Path, most: int = TREE) -> Any:
    """What a JSON file holds. Raises RefusedError for what is none, has more bytes than `most`, or is nested deeper than
    `DEPTH`."""
    content = text(path, most)
    with refusing(path, "JSON"):
        found = json.loads(content, object_pairs_hook=_once)
    return shallow(path, found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of JSON. Raises ValueError for a key that it has twice, of which json would keep the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key} occurs twice in one object")
        found[key] = value
    return found


def toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises RefusedError as `tree` does."""
    content = text(path, TOML)
    if any(line.count(".") > DOTS for line in content.splitlines()):
        raise RefusedError(path, f"has a line with more than {DOTS} dots, which are not read")
    with refusing(path, "TOML"):
        found = tomllib.loads(content)
    return shallow(path, found)


def shallow(path: Path, found: Any) -> Any:
    """The same tree of dicts and lists. Raises RefusedError where it is nested deeper than `DEPTH`: what goes down into it
    later, each level a call, would fall."""
    level = [found]
    for _ in range(DEPTH + 1):
        inside = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not inside:
            return found
        level = [one for of in inside for one in of if isinstance(one, dict | list)]
    raise RefusedError(path, f"is nested too deeply; at most {DEPTH} levels are read")


# --- arrays ------------------------------------------------------------------------------------------------------------


def arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or those of them that are named and there. Raises RefusedError for what is none; for
    arrays of objects or records; and, before anything is unpacked, for more than the limits of this module."""
    what = "an .npz file"
    with opened(path) as file, refusing(path, what), zipfile.ZipFile(file) as archive:
        members = {one.filename.removesuffix(".npy"): one for one in archive.infolist() if one.filename.endswith(".npy")}
        if len(archive.infolist()) > MEMBERS:
            raise RefusedError(path, f"holds {len(archive.infolist())} arrays; at most {MEMBERS} are read")
        if len(members) < sum(one.filename.endswith(".npy") for one in archive.infolist()):
            raise RefusedError(path, "holds two arrays of one name")
        wanted = {name: one for name, one in members.items() if names is None or name in names}
        for one in wanted.values():
            if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RefusedError(path, f"is not to be read as {what} ({one.filename} is packed otherwise than numpy does)")
        asked, packed = (sum(getattr(one, part) for one in wanted.values()) for part in ("file_size", "compress_size"))
        affordable(path, asked, min(packed, os.fstat(file.fileno()).st_size))
        found = {}
        for name, one in wanted.items():
            with refusing(path, f"the array {name}"), archive.open(one) as member:
                found[name] = _array(path, name, member, one.file_size)
                member.read(1)  # at its end the checksum is compared
        return found


def members(path: Path) -> list[str]:
    """The names of the arrays of an .npz file. Raises RefusedError as `arrays` does."""
    with opened(path) as file, refusing(path, "an .npz file"), zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def array(path: Path) -> np.ndarray:
    """The array of an .npy file. Raises RefusedError as `arrays` does."""
    with opened(path) as file, refusing(path, "an .npy file"):
        there = os.fstat(file.fileno()).st_size
        affordable(path, there, there)
        return _array(path, Path(path).name, file, there)


def affordable(path: Path, asked: int, packed: int) -> None:
    """Raises RefusedError where `packed` bytes of a file say that they unpack to more than the limits of this module."""
    if asked > UNASKED and asked > RATIO * packed:
        raise RefusedError(path, f"would unpack to {size(asked)}, more than {RATIO} times its size; save it without packing")
    if asked > (most := memory()):
        raise RefusedError(path, f"asks for {size(asked)} of memory; at most {size(most)} are given here")


def _array(path: Path, name: str, file, there: int) -> np.ndarray:
    """One array, whose header and numbers are the next `there` bytes of a file, no more and no fewer. (`np.load` takes the
    memory that a header asks for before it has read a number.)"""
    version = npy.read_magic(file)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        raise RefusedError(path, f"{name} is of the npy version {version}; must be 1.0 or 2.0")
    shape, fortran, dtype = reader(file)  # a header of more than 10,000 bytes is refused by numpy
    if dtype.kind not in KINDS:
        raise RefusedError(path, f"{name} holds {'objects' if dtype.hasobject else dtype}; only numbers and text are read")
    length = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or file.tell() + length != there:
        raise RefusedError(path, f"{name} says that it is {dtype} {list(shape)}, and holds {size(there)}")
    content = bytearray(length)
    left = memoryview(content)
    while left:
        if not (n := file.readinto(left[: 16 * MIB])):
            raise EOFError(f"{name} ends early")
        left = left[n:]
    if dtype.kind == "U" and length and np.frombuffer(content, f"{dtype.byteorder}u4").max() > sys.maxunicode:
        raise RefusedError(path, f"{name} holds characters that there are not")
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")


# --- names -------------------------------------------------------------------------------------------------------------


def escape(said: object, lines: bool = False) -> str:
    r"""Text that a terminal, a log and a table only show: what would move the cursor, end a line, turn the direction of
    writing or not be seen at all becomes an escape that is seen, \n or \x1b or \u202e. `lines` leaves line ends and tabs, of
    text that is ours and several lines long."""
    told = str(said)
    if told.isascii() and told.isprintable():
        return told
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in INVISIBLE and not (lines and c in "\n\t") else c for c in told
    )


def short(whose: str, names: Iterable[str]) -> None:
    """Raises ValueError, whose words begin with `whose`, for a name of more than `NAME` characters."""
    if (longest := max(map(len, names), default=0)) > NAME:
        raise ValueError(f"{whose} a name of {longest} characters; at most {NAME} are read")


def no_formula(said: str) -> str:
    """Text for a file of commas; what a spreadsheet would take for a formula has an apostrophe before it."""
    return f"'{said}" if said.startswith(("=", "+", "-", "@", "\t", "\r")) else said


def print_escaped(*words: object, **how: Any) -> None:
    """`print`, of text that names are in."""
    print(*(escape(word, lines=True) for word in words), **how)


class EscapingFormatter(logging.Formatter):
    """Of what is logged: names are in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record, in several lines where a traceback belongs to it."""
        return escape(super().format(record), lines=True)
