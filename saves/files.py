"""Write and read the files of a run's folder: each file is complete or missing, and reading checks each file's digest.

A checkpoint has the digest of its content in its name, `checkpoint-ROUND-DIGEST.pt`, so that a single rename puts both in
place; a running run keeps the last two. `done` holds the digests of all data files, in the format of sha256sum, and is
written last. Reading runs no code from a file: tensors are read with `weights_only`, arrays without pickled objects.
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

if TYPE_CHECKING:  # imported where needed, so that help texts and error messages appear without delay
    import pandas as pd

LEAKAGE = "leakage.json"  # the results of attacks (`attacks`), written after the run
FILES = (  # in the order of copying to another machine: data before the files that announce the data
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
    LEAKAGE,
    "run.log",
    "failed",
)
DONE, LOCK = "done", ".lock"
TUNING = "tuning"  # in the folder of a study: the folder of the runs that choose among settings
RECORDINGS = "recording-*.pt"  # the files of `--record_wire`, one per round
EVENTS = "events.out.tfevents.*"  # the files of `--log tensorboard`
CHECKPOINT = re.compile(r"checkpoint-(\d{1,9})-([0-9a-f]{16})\.pt")
KEPT = 2  # checkpoints of a running run: if the last checkpoint is damaged, the previous checkpoint is good
BESIDE = re.compile(r"\.(?!lock$).+\.[0-9a-f]{8}")  # a temporary file of an unfinished write
DIGITS = 16  # of the digest in the name of a checkpoint
DIGEST_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
log = logging.getLogger("chorus")


class DamagedError(UserError):
    """Say that a file of a run differs from the written file; the text names the file."""


class UnreadableError(DamagedError):
    """Say that permissions forbid reading a run. The run may be intact, so Chorus neither repeats nor removes the run."""


class OlderError(UserError):
    """Say that a run comes from a version that kept no digests."""


def damaged(path: Path, reason: str) -> DamagedError:
    """Return the error that a file is damaged, with the reason."""
    return DamagedError(f"{path}: is damaged: {reason}")


# --- writing -----------------------------------------------------------------------------------------------------------


def written(path: Path, write: Callable[[Path], object], name: Callable[[str], str] | None = None) -> str:
    """Write a file through write(path) to a temporary file beside its place, rename the file, and return the sha256 of its
    content. `name`: digest -> the final name. Temporary names are unique, so that several processes may write the same file
    at once; a failed write leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with writing(path):
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        digest = digest_of(temporary)
        temporary.replace(path.with_name(name(digest)) if name else path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return digest


def digest_of(path: Path) -> str:
    """Return the sha256 of a file's content, 64 hexadecimal digits."""
    with untrusted.opened(path) as file, untrusted.refusing(path, "a file"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> str:
    """Write text unchanged; return the digest, as all writers here do."""
    return written(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> str:
    """Write plain values as JSON. Raise ValueError for NaN, which JSON lacks."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write named arrays as `.npz`."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    return written(path, write)


def write_tensors(path: Path, tree: Any) -> str:
    """Write a tree of tensors and plain values. Tensors are compacted first: a row of a stack would otherwise save the whole
    stack."""
    return written(path, lambda temporary: _save(tree, temporary))


def _save(tree: Any, path: Path) -> None:
    """Save a compacted tree to a path."""
    with path.open("wb") as file:  # torch's error for a path would hide the system's reason
        torch.save(_compact(tree), file)


def _compact(tree: Any) -> Any:
    """Return the tree with a copy of each tensor that is a part of a larger storage."""
    if isinstance(tree, dict):
        return {key: _compact(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_compact(value) for value in tree]
    if isinstance(tree, torch.Tensor) and tree.untyped_storage().nbytes() > tree.nbytes:
        return tree.clone()
    return tree


def write_history(folder: Path, frame: pd.DataFrame) -> str:
    """Write a frame of numbers as `history.npz`, which Chorus reads, and as `history.pkl`, for users who have only pandas;
    return the digest of `history.npz`."""
    plain = frame.set_axis(frame.columns.astype(object), axis=1)
    written(folder / "history.pkl", lambda temporary: temporary.write_bytes(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)))
    columns = {str(name): frame[name].to_numpy() for name in frame}
    return write_arrays(folder / "history.npz", columns)


def write_checkpoint(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint: "round", "state", "history", and "files", {name: digest} of the files written in its round. Keep
    the last of the earlier checkpoints."""

    def name(digest: str) -> str:
        return f"checkpoint-{checkpoint['round']}-{digest[:DIGITS]}.pt"

    written(folder / "checkpoint.pt", lambda temporary: _save(checkpoint, temporary), name)
    for older in checkpoints(folder)[KEPT:]:
        older.unlink()


def write_done(folder: Path, digests: Mapping[str, str]) -> None:
    """Mark a run as finished, with the digests of its data files."""
    write_text(folder / DONE, "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def clear(folder: Path) -> None:
    """Remove the files of a run, and nothing else; `done` first."""
    for path in (
        folder / DONE,
        *checkpoints(folder),
        *(folder / name for name in FILES),
        *folder.glob(RECORDINGS),
        *folder.glob(EVENTS),
    ):
        path.unlink(missing_ok=True)


def recording_name(r: int | str) -> str:
    """Return the name of the file with the recorded messages of a round."""
    return RECORDINGS.replace("*", str(r))


def remove_half_written(folder: Path) -> None:
    """Remove the temporary files of killed processes."""
    for path in folder.iterdir():
        if BESIDE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, by the rounds in their names, the last checkpoint first."""
    paths = [path for path in folder.glob("checkpoint-*.pt") if CHECKPOINT.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (_round_of(path), path.lstat().st_mtime_ns), reverse=True)


def _round_of(path: Path) -> int:
    """Return the round in the name of a checkpoint."""
    return int(CHECKPOINT.fullmatch(path.name)[1])


# --- reading -----------------------------------------------------------------------------------------------------------


def finished(folder: Path) -> bool:
    """Return whether a folder holds a finished run: `done` is written last. False where permissions forbid looking."""
    return there(folder / DONE)


def there(path: Path) -> bool:
    """Return whether a path exists, including a link without a target; False for a name that is empty or too long, and where
    permissions forbid looking."""
    return os.path.lexists(path)


def unreadable(folder: Path) -> str | None:
    """Return in a single line why this process may not read a run's folder or a file of a run in the folder; None where the
    process may."""
    names = (*(name for name in FILES if name.endswith((".json", ".npz", ".pt", "failed"))), DONE)
    try:
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries}
        for name in names:
            if name in present:
                os.close(untrusted.regular(folder / name))
    except PermissionError as error:
        return refused(error)
    except (OSError, ValueError, untrusted.RefusedError):  # removed, no valid name, or no file: reading reports it
        return None
    return None


def digests(folder: Path) -> dict[str, str]:
    """Return {name: digest} of the data files of a finished run. Raise OlderError, a UserError, for a run of an older
    version, which has no digests."""
    path = folder / DONE
    with _refusal_as_damage():
        lines = untrusted.text(path).splitlines()
    if not lines:
        raise OlderError(
            f"{folder}: has no digests, because an older version wrote it (only that version can read it) or {DONE} was "
            "emptied"
        )
    matches = [DIGEST_LINE.fullmatch(line) for line in lines]
    if None in matches:
        raise damaged(path, f"line {matches.index(None) + 1} does not consist of a digest and a file")
    return {line[2]: line[1] for line in matches}


@contextmanager
def _refusal_as_damage() -> Iterator[None]:
    """Turn a RefusedError inside the block into a DamagedError; a failure for lack of permission into an UnreadableError;
    and re-raise a cause that `errors.passes`."""
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
    """Return the path of a file after comparing its digest. Raise DamagedError where the file is missing or has changed
    since it was written; `digest` None means that no run wrote the file."""
    if digest is None:
        raise damaged(path, f"{DONE} does not list it")
    with _refusal_as_damage():
        actual = digest_of(path)
    if actual[: len(digest)] != digest:
        raise damaged(path, "its content has changed since it was written")
    return path


def read_json(path: Path) -> Any:
    """Return the plain values of a JSON file. Raise DamagedError for any other content."""
    with _refusal_as_damage():
        return untrusted.tree(path)


def read_arrays(path: Path, only: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Return the named arrays of a file, or only the arrays in `only`. Raise DamagedError for any other content."""
    with _refusal_as_damage():
        return untrusted.arrays(path, only or None)


def read_tensors(path: Path, mmap: bool = False) -> Any:
    """Return a tree of tensors and plain values, on the CPU. Raise DamagedError for any other content; no code in the file
    runs."""
    with _refusal_as_damage(), untrusted.opened(path) as file:
        try:
            return torch.load(path if mmap else file, weights_only=True, map_location="cpu", mmap=mmap)
        except Exception as error:  # torch raises many kinds of errors for a file without tensors
            if passes(error):
                raise
            raise damaged(path, f"it holds no tensors ({type(error).__name__})") from None


def read_checkpoint(folder: Path, n_rounds: int, remove: bool = False) -> dict[str, Any] | None:
    """Return the last good checkpoint of a run of `n_rounds` rounds, or None. A checkpoint is skipped with a warning where
    the checkpoint, or a file written in its round, is damaged; `remove` also removes such a checkpoint."""
    for path in checkpoints(folder):
        try:
            return _checkpoint(path, n_rounds)
        except DamagedError as error:
            if remove and isinstance(error, UnreadableError):
                raise
            log.warning("%s; using the previous checkpoint if there is one", error)
        if remove:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return None


def _checkpoint(path: Path, n_rounds: int) -> dict[str, Any]:
    """Return a checkpoint. Raise DamagedError where the checkpoint, or a file written in its round, is damaged."""
    r, digest = CHECKPOINT.fullmatch(path.name).groups()
    checkpoint = read_tensors(checked(path, digest))
    types = {"round": int, "state": dict, "history": list, "files": dict}
    if not isinstance(checkpoint, dict) or any(
        not isinstance(checkpoint.get(name), expected) for name, expected in types.items()
    ):
        raise damaged(path, "it is not a checkpoint")
    if checkpoint["round"] != int(r) or not 0 <= checkpoint["round"] <= n_rounds:
        raise damaged(path, f"it is of round {checkpoint['round']} of {n_rounds}")
    for name, file_digest in checkpoint["files"].items():
        checked(path.with_name(name), file_digest)
    return checkpoint


def saved_round(folder: Path) -> int:
    """Return the round from which an unfinished run resumes, by the names of its checkpoints; 0 for a new start."""
    return next(map(_round_of, checkpoints(folder)), 0)


# --- one process at a time ---------------------------------------------------------------------------------------------


class BusyError(UserError):
    """Say that another process is working on a run."""


def at_work(folder: Path) -> bool:
    """Return whether a process is working on a run, including this process. The lock of a killed process is free."""
    if not there(lock := folder / LOCK):
        return False
    try:
        locks.acquire(lock).release()
    except Timeout:
        return True
    except (OSError, untrusted.RefusedError):  # another user's folder, which this process only reads
        return False
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. Raise BusyError where another process holds the lock, and the errors of
    `locks.acquire`."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.acquire(folder / LOCK)
    except Timeout:
        raise BusyError(f"{folder}: another process is executing this run; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()
