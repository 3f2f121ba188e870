"""What can happen to a file: of the file and what is drawn, in words, what was done to it."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

TIMES = 2  # of each damage that is drawn
REMOVED = "removed"


def truncated(path: Path, draw: np.random.Generator) -> str:
    """Cut at a random place."""
    content = path.read_bytes()
    n = int(draw.integers(len(content) or 1))
    path.write_bytes(content[:n])
    return f"cut to {n} of {len(content)} bytes"


def flipped(path: Path, draw: np.random.Generator) -> str:
    """One to eight bits are others."""
    content = bytearray(path.read_bytes())
    bits = draw.integers(8 * len(content), size=draw.integers(1, 9)) if content else []
    for bit in set(map(int, bits)):
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bits flipped: {sorted(set(map(int, bits)))}"


def emptied(path: Path, draw: np.random.Generator) -> str:
    """Nothing is left in it."""
    path.write_bytes(b"")
    return "emptied"


def removed(path: Path, draw: np.random.Generator) -> str:
    """It is not there."""
    path.unlink()
    return REMOVED


def a_folder(path: Path, draw: np.random.Generator) -> str:
    """A folder has its name."""
    path.unlink()
    path.mkdir()
    return "replaced by a folder"


def a_pipe(path: Path, draw: np.random.Generator) -> str:
    """A pipe has its name: whoever opens it waits for another who writes."""
    path.unlink()
    os.mkfifo(path)
    return "replaced by a pipe"


def a_socket(path: Path, draw: np.random.Generator) -> str:
    """A socket has its name."""
    path.unlink()
    short = Path(tempfile.mkdtemp(dir="/tmp")) / "s"  # the name of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as item:
        item.bind(str(short))
    shutil.move(short, path)
    short.parent.rmdir()
    return "replaced by a socket"


def a_device(path: Path, draw: np.random.Generator) -> str:
    """A link to a device that never ends has its name."""
    path.unlink()
    path.symlink_to("/dev/zero")
    return "replaced by a link to /dev/zero"


def a_circle(path: Path, draw: np.random.Generator) -> str:
    """A link to itself has its name."""
    path.unlink()
    path.symlink_to(path.name)
    return "replaced by a link to itself"


NO_FILES = (a_folder, a_pipe, a_socket, a_device, a_circle)


def anothers(path: Path, draw: np.random.Generator, other: Path) -> str:
    """The same file of another run has its name."""
    shutil.copyfile(other, path)
    return "that of another run"


def damages(path: Path, other: Path) -> list[Callable[[Path, np.random.Generator], str]]:
    """What is done to a file, of which another run's folder has the same."""
    drawn = [truncated, flipped] * TIMES if path.stat().st_size else []
    twin = other / path.name
    if path.name.startswith("checkpoint-"):
        twin = max(other.glob("checkpoint-*"), default=twin)
    others = [partial(anothers, other=twin)] if twin.is_file() and twin.read_bytes() != path.read_bytes() else []
    return [*drawn, emptied, removed, *NO_FILES, *others]
