"""The files of a run's folder: each is whole or not there, and what is read is what was written.

A checkpoint has the digest of what is in it in its name, `checkpoint-ROUND-DIGEST.pt`, so that one rename puts both in
place; the last two are kept while a run goes on. `done` has the digests of all that is read as data, in the format of
sha256sum, and is written last. Reading runs no code that is in a file: tensors are read with `weights_only`, arrays without
pickled objects.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import Timeout

import untrusted
from errors import REFUSED, UserError, passes, refused, writing
from federation import locks

if TYPE_CHECKING:  # imported where it is needed: a command's help and a mistake need not wait for it
    import pandas as pd

FILES = (  # in the order in which another machine is told them: what is read as data before what says that it is there
    "config.json",
    "weights.pt",
    "confusion.npz",
    "features.npz",
    "history.csv",
    "history.npz",
    "history.pkl",
    "history.xlsx",
    "split.npz",
    "split.png",
    "graph.png",
    "intensity.png",
    "run.log",
    "failed",
)
DONE, LOCK = "done", ".lock"
EVENTS = "events.out.tfevents.*"  # what `--log tensorboard` writes
CHECKPOINT = re.compile(r"checkpoint-(\d{1,9})-([0-9a-f]{16})\.pt")
KEPT = 2  # checkpoints of a run that goes on: where the last one is damaged, the one before it is good
BESIDE = re.compile(r"\.(?!lock$).+\.[0-9a-f]{8}")  # a file that is being written
DIGITS = 16  # of its digest in the name of a checkpoint
DIGEST_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
log = logging.getLogger("chorus")


class DamagedError(UserError):
    """A file of a run is not what was written: its text names the file."""


class UnreadableError(DamagedError):
    """Permissions forbid to read a run, which may be in order: it is not made anew, and nothing of it is removed."""


class OlderError(UserError):
    """A run is of a version that kept no digests."""


def damaged(path: Path, why: str) -> DamagedError:
    """That a file is, and in words why."""
    return DamagedError(f"{path}: is damaged: {why}")


# --- writing -----------------------------------------------------------------------------------------------------------


def written(path: Path, write: Callable[[Path], object], name: Callable[[str], str] | None = None) -> str:
    """Have write(path) put a file beside where it belongs, and rename it -> the digest of what is in it, its sha256.
    `name`: {digest: the name it gets}. What is written beside has a name of its own, so that several may write the same file
    at once; where writing fails, nothing is left of it."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with writing(path):
            write(beside)
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        digest = digest_of(beside)
        beside.replace(path.with_name(name(digest)) if name else path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    return digest


def digest_of(path: Path) -> str:
    """The sha256 of what is in a file, 64 hexadecimal digits."""
    with untrusted.opened(path) as file, untrusted.refusing(path, "a file"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> str:
    """Text as it is -> its digest, as all that writes here gives it."""
    return written(path, lambda other: other.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> str:
    """Plain values; NaN is refused, JSON has none."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Named arrays, as `.npz`."""

    def write(other: Path) -> None:
        with other.open("wb") as file:
            np.savez_compressed(file, **arrays)

    return written(path, write)


def write_tensors(path: Path, tree: Any) -> str:
    """A tree of tensors and plain values. Tensors are compacted first: a row of a stack would drag the stack along."""
    return written(path, lambda other: _save(tree, other))


def _save(tree: Any, path: Path) -> None:
    with path.open("wb") as file:  # given a path, torch would not say what the system refused
        torch.save(_compact(tree), file)


def _compact(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _compact(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_compact(value) for value in tree]
    if isinstance(tree, torch.Tensor) and tree.untyped_storage().nbytes() > tree.nbytes:
        return tree.clone()
    return tree


def write_history(folder: Path, frame: pd.DataFrame) -> str:
    """A frame of numbers: `history.npz`, which is read, and `history.pkl`, for those who have pandas and nothing else -> the
    former's digest."""
    plain = frame.set_axis(frame.columns.astype(object), axis=1)
    written(folder / "history.pkl", lambda other: other.write_bytes(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)))
    columns = {str(name): frame[name].to_numpy() for name in frame}
    return write_arrays(folder / "history.npz", columns)


def write_checkpoint(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """A checkpoint: "round", "state", "history", and "files", {name: digest} of what was written in its round. Of those
    before it the last one is kept."""

    def name(digest: str) -> str:
        return f"checkpoint-{checkpoint['round']}-{digest[:DIGITS]}.pt"

    written(folder / "checkpoint.pt", lambda beside: _save(checkpoint, beside), name)
    for older in checkpoints(folder)[KEPT:]:
        older.unlink()


def write_done(folder: Path, digests: Mapping[str, str]) -> None:
    """Say that a run is finished, and what is in the files that are read."""
    write_text(folder / DONE, "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def clear(folder: Path) -> None:
    """Remove what a run wrote, and nothing else; that it was finished first."""
    for path in (folder / DONE, *checkpoints(folder), *(folder / name for name in FILES), *folder.glob(EVENTS)):
        path.unlink(missing_ok=True)


def remove_half_written(folder: Path) -> None:
    """Remove what processes that were killed have left beside the files that they wrote."""
    for path in folder.iterdir():
        if BESIDE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, by the rounds in their names, the last one first."""
    found = [path for path in folder.glob("checkpoint-*.pt") if CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_round_of(path), path.lstat().st_mtime_ns), reverse=True)


def _round_of(path: Path) -> int:
    return int(CHECKPOINT.fullmatch(path.name)[1])


# --- reading -----------------------------------------------------------------------------------------------------------


def finished(folder: Path) -> bool:
    """Whether a folder holds a finished run: `done` is written last. False where permissions forbid to look."""
    return there(folder / DONE)


def there(path: Path) -> bool:
    """Whether there is something of this name, a link that leads nowhere too; False for a name that is too long, or none at
    all, and where permissions forbid to look."""
    return os.path.lexists(path)


def unreadable(folder: Path) -> str | None:
    """Return in one line why this process may not read a run's folder or a file of a run in it, None where it may."""
    names = (*(name for name in FILES if name.endswith((".json", ".npz", ".pt", "failed"))), DONE)
    try:
        with os.scandir(folder) as entries:
            held = {entry.name for entry in entries}
        for name in names:
            if name in held:
                os.close(untrusted.regular(folder / name))
    except PermissionError as error:
        return refused(error)
    except (OSError, ValueError, untrusted.RefusedError):  # removed since, no name, or no file: whoever reads it says so
        return None
    return None


def digests(folder: Path) -> dict[str, str]:
    """{name: digest} of what is read of a finished run. Raises UserError for a run of an older version, which has none."""
    path = folder / DONE
    with _telling_damage():
        lines = untrusted.text(path).splitlines()
    if not lines:
        raise OlderError(f"{folder}: has no digests: it is of an older version, which alone reads it, or {DONE} was emptied")
    found = [DIGEST_LINE.fullmatch(line) for line in lines]
    if None in found:
        raise damaged(path, f"line {found.index(None) + 1} is not a digest and a file")
    return {line[2]: line[1] for line in found}


@contextmanager
def _telling_damage() -> Iterator[None]:
    try:
        yield
    except untrusted.RefusedError as error:
        cause = error.__cause__
        if isinstance(cause, PermissionError):
            raise UnreadableError(f"{error.path}: {REFUSED[errno.EACCES]}") from None
        if cause is not None and passes(cause):
            raise cause from None
        raise damaged(error.path, error.reason) from None


def checked(path: Path, digest: str | None) -> Path:
    """The path of a file that is what was written. Raises DamagedError where it is not, or is not there; `digest` None is
    that of a file which nobody wrote."""
    if digest is None:
        raise damaged(path, f"it is not named in {DONE}")
    with _telling_damage():
        found = digest_of(path)
    if found[: len(digest)] != digest:
        raise damaged(path, "it is not what was written")
    return path


def read_json(path: Path) -> Any:
    """Plain values. Raises DamagedError for anything else."""
    with _telling_damage():
        return untrusted.tree(path)


def read_arrays(path: Path, only: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Named arrays, or only these of them. Raises DamagedError for anything else."""
    with _telling_damage():
        return untrusted.arrays(path, only or None)


def read_tensors(path: Path, mmap: bool = False) -> Any:
    """A tree of tensors and plain values, on the CPU. Raises DamagedError for anything else; no code in it is run."""
    with _telling_damage(), untrusted.opened(path) as file:
        try:
            return torch.load(path if mmap else file, weights_only=True, map_location="cpu", mmap=mmap)
        except Exception as error:  # whatever torch makes of bytes that are no file of tensors
            if passes(error):
                raise
            raise damaged(path, f"it holds no tensors ({type(error).__name__})") from None


def read_checkpoint(folder: Path, n_rounds: int, remove: bool = False) -> dict[str, Any] | None:
    """The last good checkpoint of a run of so many rounds, or None where it has none. One that is damaged, or beside which
    what was written in its round is, is told in a line and passed over; with `remove` it is gone."""
    for path in checkpoints(folder):
        try:
            return _checkpoint(path, n_rounds)
        except DamagedError as error:
            if remove and isinstance(error, UnreadableError):
                raise
            log.warning("%s; the checkpoint before it is used where there is one", error)
        if remove:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return None


def _checkpoint(path: Path, n_rounds: int) -> dict[str, Any]:
    r, digest = CHECKPOINT.fullmatch(path.name).groups()
    found = read_tensors(checked(path, digest))
    kinds = {"round": int, "state": dict, "history": list, "files": dict}
    if not isinstance(found, dict) or any(not isinstance(found.get(name), kind) for name, kind in kinds.items()):
        raise damaged(path, "it is no checkpoint")
    if found["round"] != int(r) or not 0 <= found["round"] <= n_rounds:
        raise damaged(path, f"it is of round {found['round']} of {n_rounds}")
    for name, of_file in found["files"].items():
        checked(path.with_name(name), of_file)
    return found


def saved_round(folder: Path) -> int:
    """The round after which an unfinished run goes on, 0 where it begins anew, by the names of its checkpoints."""
    return next(map(_round_of, checkpoints(folder)), 0)


# --- one process at a time ---------------------------------------------------------------------------------------------


class BusyError(UserError):
    """Another process is at work on a run."""


def at_work(folder: Path) -> bool:
    """Whether a process is at work on a run, this one included. A lock that a killed process held is free."""
    if not there(lock := folder / LOCK):
        return False
    try:
        locks.acquire(lock).release()
    except Timeout:
        return True
    except (OSError, untrusted.RefusedError):  # a folder of somebody else's, which is only read
        return False
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder. Raises BusyError where another process has it, and what `locks.acquire` raises."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.acquire(folder / LOCK)
    except Timeout:
        raise BusyError(f"{folder}: another process is at work on this very run; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()
