"""Download, verify and read the files of data sets, without running any code in a file."""

import hashlib
import pickletools
import re
import shutil
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

import untrusted
from errors import UserError
from untrusted import RefusedError

PATIENCE = 60  # seconds without a byte before a download fails


@contextmanager
def naming(name: str, path: Path | None = None) -> Iterator[None]:
    """Turn any error inside the block into a UserError of a single line that names the data set, and the file `path` if
    given."""
    try:
        yield
    except Exception as error:  # a damaged file can make its reader raise any error
        if isinstance(error, UserError) and not isinstance(error, RefusedError):
            raise
        where = f"{path} cannot be read ({reason(error)})" if path else reason(error)
        raise UserError(f"--dataset {name}: {where}") from error


@contextmanager
def within(path: Path) -> Iterator[None]:
    """Turn any error inside the block into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return the reason of an error, in a single line."""
    if isinstance(error, RefusedError):
        return error.reason
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")


def listed(names: Iterable[str]) -> str:
    """Return names as text: a, b, c for up to four names, else the first and the last name."""
    names = list(names)
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, ..., {names[-1]}"


# --- published files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Name the files of a published data set, and the sources of the files.

    `files` are the files to read: path below `root` -> published md5; None where only an archive has an md5 (the path may
    then be a folder). `archives` are the archives of the files: path -> md5, or None where only the download checks the
    archive. `download` puts all files below a folder, its argument. `by_hand` tells the user which file to put where
    instead.
    """

    name: str
    root: Path
    files: Mapping[str, str | None]
    archives: Mapping[str, str | None]
    download: Callable[[str], object]
    by_hand: str

    @property
    def place(self) -> Path:
        """Return the folder of the first file."""
        return (self.root / next(iter(self.files))).parent

    def read(self, path: str, reader: Callable[[Path], Any]) -> Any:
        """Return the result of `reader` for the file at this path below `root`; any error of the reader names the file."""
        with naming(self.name, self.root / path):
            return reader(self.root / path)


def obtain(published: Published, unverified: bool) -> str:
    """Make sure that the files exist and have their published checksums; return as text which files differ or cannot be
    checked.

    Raise UserError where files are missing and cannot be downloaded, and, unless `unverified`, where a file differs.
    """
    if _missing(published):
        _download(published)
    unchecked = [path for path, md5 in published.files.items() if md5 is None]
    archives = [path for path in published.archives if (published.root / path).exists()] if unchecked else []
    wrong = []
    for path in (*published.files, *archives):
        if problem := _checksum_problem(published, path):
            if not unverified:
                raise UserError(f"--dataset {published.name}: {problem}; add --unverified_data to use it anyway")
            wrong.append(path)
    problems = []
    if wrong:
        problems.append(f"{_file_names(wrong)} {'does' if len(wrong) == 1 else 'do'} not have the published checksum")
    if unchecked and not archives:
        problems.append(
            f"{_file_names(unchecked)} cannot be checked, because the archive {_file_names(published.archives)} is missing"
        )
    return "; ".join(problems)


def _missing(published: Published) -> list[str]:
    """Return the paths of the files that do not exist."""
    return [path for path in published.files if not (published.root / path).exists()]


def _file_names(paths: Iterable[str]) -> str:
    """Return the names of files as text."""
    return listed(Path(path).name for path in paths)


def _checksum_problem(published: Published, path: str) -> str:
    """Return as text that a file does not have its published checksum; "" where the checksum agrees or none is published."""
    expected = {**published.files, **published.archives}[path]
    if expected is None:
        return ""
    with naming(published.name, published.root / path), untrusted.opened(published.root / path) as file:
        actual = hashlib.file_digest(file, "md5").hexdigest()
    if actual == expected:
        return ""
    return f"{published.root / path} does not have its published checksum (md5 {actual}, published {expected})"


def _download(published: Published) -> None:
    """Download into a temporary folder beside the data sets, and move the files to their places once the download is
    complete. So a failed download leaves nothing behind, nobody reads half a file, and existing files stay unchanged."""
    archives = [path for path in published.archives if (published.root / path).exists()]
    for path in archives:
        if problem := _checksum_problem(published, path):
            raise UserError(f"--dataset {published.name}: {problem}; remove it to download the data set again")
    new_folders = [folder for folder in (published.root, *published.root.parents) if not folder.exists()]
    default_timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(PATIENCE)
        published.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=published.root, prefix=".download-") as folder:
            for path in archives:  # copies, because the download may overwrite its files
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                with untrusted.opened(published.root / path) as file, (Path(folder) / path).open("wb") as copy:
                    shutil.copyfileobj(file, copy)
            published.download(folder)
            _move(Path(folder), published.root)
        if _missing(published):
            raise FileNotFoundError(f"the download lacks {_file_names(_missing(published))}")
    except Exception as error:  # a download can fail with any error
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()  # fails for a folder that is not empty
        raise UserError(
            f"--dataset {published.name}: cannot be read from {published.place} or downloaded ({reason(error)}); "
            f"{published.by_hand}, or use another folder with --data_dir"
        ) from error
    finally:
        socket.setdefaulttimeout(default_timeout)


def _move(source: Path, destination: Path) -> None:
    """Move the file or folder `source` to `destination` where nothing exists yet; merge two folders."""
    if not destination.exists():
        source.rename(destination)
    elif source.is_dir() and destination.is_dir():
        for child in source.iterdir():
            _move(child, destination / child.name)


# --- readers -----------------------------------------------------------------------------------------------------------


def idx(path: Path, axes: int) -> np.ndarray:
    """Return the array of an IDX file of bytes (MNIST's format): 0, 0, 8, the number of axes, the lengths of the axes as
    big-endian int32, the bytes."""
    with untrusted.opened(path) as file:
        content = np.fromfile(file, np.uint8)
    start = 4 * (axes + 1)
    if len(content) < start or content[:4].tolist() != [0, 0, 8, axes]:
        raise ValueError(f"not an IDX file of bytes with {axes} axes")
    return content[start:].reshape(content[4:start].view(">u4").astype(int))


@dataclass
class _Called:
    """Stand in for a function or a class that a pickle names, and for the result of its call; nothing is called. `args` are
    the arguments, `state` is the state that the pickle assigns."""

    name: str
    args: tuple | None = None
    state: Any = None


KNOWN = {
    "numpy ndarray": "array",
    "numpy dtype": "dtype",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",  # since numpy 2
}
PLAIN = (str, bytes, int, float, bool, type(None))
PICKLE = 512 * untrusted.MIB  # bytes of a file; CIFAR's largest file has 155 MB


def unpickled(path: Path) -> dict[str, Any]:
    """Return a pickled dict of uint8 arrays, lists and single values, the content of CIFAR's files, by Python 2 or 3. Raise
    ValueError for anything else. This function interprets the few opcodes that build such a dict, so that no code in the
    file can run. (The usual `pickle.Unpickler` with a list of allowed names would call numpy with arguments of the file's
    choice.)"""
    with untrusted.opened(path, PICKLE) as file:
        content = file.read()
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    marks: list[int] = []

    def since_mark() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode.name]())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "APPEND" | "APPENDS":
                items = since_mark() if opcode.name == "APPENDS" else [stack.pop()]
                _require_type(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                entries = _require_type(stack[-1], dict)
                for key, value in zip(items[::2], items[1::2], strict=True):
                    entries[_require_type(key, str, bytes)] = value
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "GLOBAL" | "STACK_GLOBAL":
                name = argument or f"{_require_type(stack.pop(-2), str)} {_require_type(stack.pop(), str)}"
                if name not in KNOWN:
                    dotted = name.replace(" ", ".", 1)
                    raise ValueError(f"refused: it uses {dotted}; only arrays and plain containers are allowed")
                stack.append(_Called(KNOWN[name]))
            case "REDUCE":
                arguments, function = _require_type(stack.pop(), tuple), _require_type(stack.pop(), _Called)
                stack.append(_Called(function.name, arguments))
            case "BUILD":
                state = stack.pop()
                _require_type(stack[-1], _Called).state = state
            case _ if argument is not None and type(argument) in PLAIN:  # a number or text
                stack.append(argument)
            case other:
                raise ValueError(
                    f"refused: it holds the pickle instruction {other}; only arrays and plain containers are allowed"
                )
    (result,) = stack
    if not isinstance(result, dict):
        raise ValueError(f"must be a dict, not a {type(result).__name__}")
    return {key: _plain_value(value) for key, value in result.items()}


def _require_type(value: Any, *types: type) -> Any:
    """Return the value. Raise ValueError where its type is none of these types."""
    if type(value) not in types:
        raise ValueError(f"must hold a {types[0].__name__}, not a {type(value).__name__}")
    return value


def _plain_value(value: Any) -> Any:
    """Return a value of a pickled dict: a uint8 array from its stand-in, a list of plain values, or a plain value. Raise
    ValueError for anything else."""
    if isinstance(value, list) and all(type(item) in PLAIN for item in value):
        return value
    if type(value) is not _Called or value.name != "array":
        return _require_type(value, *PLAIN)
    _, shape, dtype, fortran, content = _require_type(value.state, tuple)
    if (name := _require_type(dtype, _Called).args[0]) not in ("u1", "|u1"):
        raise ValueError(f"must be an array of bytes, not of {name}")
    if isinstance(content, str):  # Python 3 reads the bytes of Python 2 as text
        content = content.encode("latin1")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


# --- the user's arrays -------------------------------------------------------------------------------------------------

KEYS = ("x_train", "y_train", "x_test", "y_test")
TEXT = "U"  # numpy's letter for text
COLLAPSED = 1e-4  # of a standard deviation: rounding that moves numbers by more blurs their differences
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?")


@dataclass(frozen=True)
class Part:
    """Hold the user's training or test examples: x uint8 or float32 [n, channels, height, width], or the n image files; y
    the labels, int64 [n] or text [n]; `clients` text [n], the client of each example, "" for no client, or None where the
    data name no clients."""

    x: np.ndarray | list[Path]
    y: np.ndarray
    clients: np.ndarray | None = None


@dataclass(frozen=True)
class First:
    """Say where each text label and each client occurs first: {label or client: file, and line where the file has lines}."""

    labels: dict[str, str]
    clients: dict[str, str]

    def __or__(self, other: "First") -> "First":
        """Return the places of both; where both have a place, the place of this object."""
        return First({**other.labels, **self.labels}, {**other.clients, **self.clients})


@dataclass(frozen=True)
class Brought:
    """Hold the user's data; a part that is missing is None. `classes`: the names of the labels; `features`: the names of a
    table's columns, where the features have names. `first`: where labels and clients occur first. `warnings`: a line
    each."""

    train: Part | None
    test: Part | None
    classes: np.ndarray | None = None
    features: tuple[str, ...] = ()
    first: First = field(default_factory=lambda: First({}, {}))
    warnings: tuple[str, ...] = ()

    @property
    def parts(self) -> list[Part]:
        """Return the training and test examples that exist."""
        return [part for part in (self.train, self.test) if part is not None]


def npz(path: Path, optional: str | None = None) -> Brought:
    """Read an .npz file with x_train, y_train, x_test, y_test; the part `optional`, "train" or "test", may be missing.

    In the file: x [n, height, width], [n, height, width, channels] or [n, channels, height, width]; see `channels_first`.
    Integers must lie in 0 .. 255; floats are any finite numbers. Vectors [n, d] are any finite numbers, and become floats
    [n, d, 1, 1]. y are integers or text, [n] or [n, 1]; text labels are the names of the classes. `classes`, the C names of
    integer labels, may be missing. `client_train` and `client_test` [n] name the client of each example. With client names
    the test part may be missing; without `client_test` the test examples belong to no client. Raise ValueError, and
    RefusedError where the file is not an .npz file.
    """
    clients, is_of_client = {part: f"client_{part}" for part in ("train", "test")}, optional is not None
    arrays = untrusted.arrays(path, (*KEYS, "classes", *clients.values()))
    optional = "test" if optional is None and clients["train"] in arrays else optional
    left_out = optional if not any(f"{letter}_{optional}" in arrays for letter in "xy") else None
    if missing := [key for key in KEYS if key not in arrays and not key.endswith(f"_{left_out}")]:
        raise ValueError(f"it lacks {', '.join(missing)}; must hold {', '.join(KEYS)}")
    x = {part: examples(f"x_{part}", arrays[f"x_{part}"]) for part in clients if part != left_out}
    if left_out is None and (x["train"].shape[1:] != x["test"].shape[1:] or x["train"].dtype != x["test"].dtype):
        kinds = [kind(images) for images in x.values()]
        raise ValueError(
            f"an image of x_train is {kinds[0]}, of x_test {kinds[1]} [channels, height, width]; must be the same"
        )
    parts = {
        part: Part(
            images, _labels(f"y_{part}", arrays[f"y_{part}"], len(images)), _client_names(key, arrays.get(key), len(images))
        )
        for part, key in clients.items()
        if (images := x.get(part)) is not None
    }
    is_text = {part.y.dtype.kind == TEXT for part in parts.values()}
    if len(is_text) > 1:
        raise ValueError("y_train and y_test: one holds text and the other numbers; use the same labels in both")
    if True in is_text and "classes" in arrays:
        raise ValueError("classes names integer labels, but the labels are text; remove classes")
    unread = sorted(set(untrusted.members(path)) - set(arrays))
    warnings = (f"{path}: not read: {listed(unread)}",) if unread else ()
    warnings += () if is_of_client else text_classes(path, parts["train"].y)
    return Brought(parts.get("train"), parts.get("test"), arrays.get("classes"), warnings=warnings)


def text_classes(path: Path, y: np.ndarray) -> tuple[str, ...]:
    """Return a warning with the order of the classes, if the labels of .npz files are text; else ()."""
    if y.dtype.kind != TEXT:
        return ()
    names = in_order(y)
    return (f"{path}: the labels are text; {len(names)} classes, in this order: {listed(names)}",)


def kind(x: np.ndarray) -> str:
    """Return dtype and shape of examples [n, ...] as text."""
    return f"{x.dtype} {list(x.shape[1:])}"


def _client_names(key: str, names: np.ndarray | None, n: int) -> np.ndarray | None:
    """Return client names as text [n], or None. Raise ValueError for another shape or dtype."""
    if names is None:
        return None
    if names.shape != (n,) or names.dtype.kind not in "iuUS":
        raise ValueError(
            f"{key} holds {names.dtype} {list(names.shape)}; must be [{n}], a name or a number for each example"
        )
    return names.astype(TEXT)


def examples(key: str, x: np.ndarray) -> np.ndarray:
    """Return images [n, height, width], ... as uint8 or float32 [n, channels, height, width], and vectors [n, d] as float64
    [n, d, 1, 1], for `in_32_bits`. Raise ValueError for other arrays; the message calls the array `key`."""
    vectors = x.ndim == 2
    if vectors:
        x = x[:, :, None, None].astype(np.float64 if x.dtype.kind in "iuf" else x.dtype)
    elif x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4:
        x = channels_first(key, x)
    if x.ndim != 4:
        allowed = "[n, d], [n, height, width], [n, height, width, channels] and [n, channels, height, width]"
        raise ValueError(f"{key} has the shape {list(x.shape)}; allowed are {allowed}")
    if x.size == 0:
        raise ValueError(f"{key} holds no images")
    if x.dtype.kind in "iu":
        if x.min() < 0 or x.max() > 255:
            raise ValueError(f"{key} holds integers from {x.min()} to {x.max()}; must be 0 .. 255, or floats")
        return np.ascontiguousarray(x, np.uint8)
    if x.dtype.kind != "f":
        raise ValueError(f"{key} holds {x.dtype}; must be integers 0 .. 255, or floats")
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError(f"{key} holds numbers that are not finite (NaN, inf, or too large for 32 bits)")
    return x if vectors else rounded


def channels_first(key: str, x: np.ndarray) -> np.ndarray:
    """Return images of four axes as [n, channels, height, width]. Of two possible layouts, the channels are the last axis.
    An axis of 1 to 4 holds channels; more channels are possible for square images, whose two other axes are equal. Raise
    ValueError where neither layout is possible; the message calls the array `key`."""
    _, first, middle, last = x.shape
    if 1 <= last <= 4 or (first > 4 and first == middle):
        return x.transpose(0, 3, 1, 2)
    if 1 <= first <= 4 or middle == last:
        return x
    raise ValueError(
        f"{key} has the shape {list(x.shape)}, in which the channels are not clear; must be [n, height, width, channels] or "
        "[n, channels, height, width], with 1 to 4 channels or square images"
    )


def in_32_bits(x: np.ndarray, n_train: int) -> np.ndarray:
    """Return vectors float64 [n, d, 1, 1] as float32; the first n_train vectors are the training examples. Where rounding
    moves a feature by more than a ten-thousandth of its standard deviation, as for a time in seconds since 1970, the feature
    is first standardised by mean and standard deviation of the training examples. Normalisation later does the same to all
    features."""
    rounded = x.astype(np.float32)
    for feature in range(x.shape[1]):
        column, rounded_column = x[:, feature], rounded[:, feature]
        train = column[:n_train]
        if np.abs(rounded_column - column).max() > COLLAPSED * (std := train.std()) and np.ptp(train) > 0:
            rounded_column[:] = (column - train.mean()) / std
    return rounded


def _labels(key: str, y: np.ndarray, n: int) -> np.ndarray:
    """Return labels as int64 [n] or text [n]. Raise ValueError for another shape, dtype or length, and for labels out of
    range."""
    if y.dtype.kind not in "iuUS":
        hint = f"; use {key}.argmax(1)" if y.ndim == 2 and y.shape[1] > 1 else f"; use {key}.astype(int)"
        raise ValueError(f"{key} holds {y.dtype}; must be integers or text{hint}")
    if y.ndim != 1 and not (y.ndim == 2 and y.shape[1] == 1):
        raise ValueError(f"{key} has the shape {list(y.shape)}; must be [n] or [n, 1]")
    if len(y) != n:
        raise ValueError(f"{key} holds {len(y)} labels for {n} images")
    if y.dtype.kind in "US":
        return words(key, [str(label, "utf-8") if isinstance(label, bytes) else label for label in y.reshape(-1).tolist()])
    if y.min() < 0 or y.max() >= 2**31:
        raise ValueError(f"{key} holds the label {y.min() if y.min() < 0 else y.max()}; must be 0 .. C - 1")
    return y.reshape(-1).astype(np.int64)


def classified(brought: Brought) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of the training examples followed by the test examples, int64 [n] in 0 .. C - 1, and the names of
    the C classes. Every class must occur in the training set. Text labels are the class names, in the order of `in_order`.
    Raise ValueError."""
    train, test = brought.train.y, brought.test.y if brought.test else brought.train.y[:0]
    if train.dtype.kind != TEXT:
        return np.concatenate([train, test]), _classes(train, test, brought.classes)
    classes = tuple(in_order(train))
    one_spelling("class", {*classes, *test.tolist()}, brought.first.labels)
    if unknown := sorted(set(test.tolist()) - set(classes)):
        raise ValueError(f"test examples have the class {unknown[0]}, but no training example has it")
    index = {name: c for c, name in enumerate(classes)}
    return np.array([index[name] for name in np.concatenate([train, test]).tolist()], np.int64), classes


def one_spelling(noun: str, names: Iterable[str], first: Mapping[str, str]) -> None:
    """Raise ValueError where two names of a `noun` ("class", "client") differ only in case, spaces or the spelling of a
    number or boolean; `first` says where each name occurs."""
    spellings: dict[Any, str] = {}
    for name in in_order(names):
        other = spellings.setdefault(_normalised(name), name)
        if other != name:
            left, right = (
                f"{spelling!r}" + (f" ({first[spelling]})" if spelling in first else "") for spelling in (other, name)
            )
            raise ValueError(
                f"{left} and {right} look like two spellings of one {noun}; use one spelling, or rename one of them"
            )


def _normalised(name: str) -> Any:
    """Return the common form of all spellings of a name."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    plain = {"true": "1", "false": "0"}.get(plain, plain)
    return Decimal(plain) if NUMBER.fullmatch(plain) else plain


def words(where: str, values: Sequence[Any]) -> np.ndarray:
    """Return names as text [n]. Raise ValueError for a name longer than `untrusted.NAME`: an array uses the space of the
    longest name for every name. The message begins with `where`."""
    names = list(map(str, values))
    untrusted.short(f"{where} holds", names)
    return np.array(names, TEXT) if names else np.zeros(0, f"{TEXT}1")


def in_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names in natural order: numbers by their value, ward_2 before ward_10."""

    def parts(name: str) -> list:
        return (
            [(0, float(name), "")]
            if _is_number(name)
            else [(1, int(part), "") if part.isdecimal() else (2, 0, part) for part in re.split(r"(\d+)", name)]
        )

    return sorted({str(name) for name in names}, key=lambda name: (parts(name), name))


def _is_number(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _classes(train: np.ndarray, test: np.ndarray, names: np.ndarray | None) -> tuple[str, ...]:
    """Return the names of the classes, by default their numbers. Raise ValueError where a class is missing in the training
    set."""
    present = np.unique(train)
    n_classes = int(present[-1]) + 1
    if n_classes > len(present):
        missing = np.setdiff1d(np.arange(min(n_classes, len(present) + 4)), present)[:4]
        raise ValueError(f"no label {', '.join(map(str, missing))} in y_train; all of 0 .. {n_classes - 1} must occur")
    if len(test) and test.max() >= n_classes:
        raise ValueError(f"y_test holds the label {test.max()}, but y_train does not")
    if names is None:
        return tuple(map(str, range(n_classes)))
    if names.shape != (n_classes,):
        raise ValueError(f"classes has the shape {list(names.shape)}; must be [{n_classes}], a name for each label")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
