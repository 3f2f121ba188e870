"""Files of data sets: are they there, are they the published ones, and reading them without running anything in them."""

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

PATIENCE = 60  # seconds without a byte after which a download is given up


@contextmanager
def naming(name: str, path: Path | None = None) -> Iterator[None]:
    """Whatever is stumbled over inside becomes one line that names the data set, and the file where one is given."""
    try:
        yield
    except Exception as error:  # a damaged file can break its reader in any way
        if isinstance(error, UserError) and not isinstance(error, RefusedError):
            raise
        where = f"{path} cannot be read ({reason(error)})" if path else reason(error)
        raise UserError(f"--dataset {name}: {where}") from error


@contextmanager
def within(path: Path) -> Iterator[None]:
    """Whatever is stumbled over inside names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, RefusedError):
        return error.reason
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")


def listed(names: Iterable[str]) -> str:
    """a, b, c: all of them if they are few, else the first and the last."""
    names = list(names)
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, ..., {names[-1]}"


# --- published files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The files of a published data set, and where they are to be had.

    `files` are what is read: path below `root` -> md5 as published; None where only an archive has one (then the path may
    be a folder). `archives` are what they are unpacked from: path -> md5, or None where the download alone checks it.
    `download` puts all of them below the folder that it is given; `by_hand` tells the user what to put where instead.
    """

    name: str
    root: Path
    files: Mapping[str, str | None]
    archives: Mapping[str, str | None]
    download: Callable[[str], object]
    by_hand: str

    @property
    def place(self) -> Path:
        """The folder in which the first file lies."""
        return (self.root / next(iter(self.files))).parent

    def read(self, path: str, reader: Callable[[Path], Any]) -> Any:
        """What `reader` makes of the file at this path below `root`; whatever it stumbles over names the file."""
        with naming(self.name, self.root / path):
            return reader(self.root / path)


def obtain(wanted: Published, unverified: bool) -> str:
    """Make sure that the files are there and are the published ones -> which are not, or cannot be checked, in words.

    Raises UserError where files are neither there nor to be had, and, unless `unverified`, where one is not the published.
    """
    if _missing(wanted):
        _fetch(wanted)
    unchecked = [path for path, md5 in wanted.files.items() if md5 is None]
    archives = [path for path in wanted.archives if (wanted.root / path).exists()] if unchecked else []
    wrong = []
    for path in (*wanted.files, *archives):
        if complaint := _complaint(wanted, path):
            if not unverified:
                raise UserError(f"--dataset {wanted.name}: {complaint}; --unverified_data takes it all the same")
            wrong.append(path)
    words = []
    if wrong:
        words.append(f"{_names(wrong)} {'does' if len(wrong) == 1 else 'do'} not have the published checksum")
    if unchecked and not archives:
        words.append(f"{_names(unchecked)} cannot be checked: the archive {_names(wanted.archives)} is not there")
    return "; ".join(words)


def _missing(wanted: Published) -> list[str]:
    return [path for path in wanted.files if not (wanted.root / path).exists()]


def _names(paths: Iterable[str]) -> str:
    return listed(Path(path).name for path in paths)


def _complaint(wanted: Published, path: str) -> str:
    """That a file does not have its published checksum, in words; "" where it has, or where none is published."""
    published = {**wanted.files, **wanted.archives}[path]
    if published is None:
        return ""
    with naming(wanted.name, wanted.root / path), untrusted.opened(wanted.root / path) as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found == published:
        return ""
    return f"{wanted.root / path} does not have its published checksum (md5 {found}, published {published})"


def _fetch(wanted: Published) -> None:
    """Download into a folder of its own beside the others, and move what is complete into its place: nothing is left of a
    download that failed, nobody reads half of one, and what is there already stays as it is."""
    archives = [path for path in wanted.archives if (wanted.root / path).exists()]
    for path in archives:
        if complaint := _complaint(wanted, path):
            raise UserError(f"--dataset {wanted.name}: {complaint}; without it the data set is downloaded anew")
    made = [folder for folder in (wanted.root, *wanted.root.parents) if not folder.exists()]
    patience = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(PATIENCE)
        wanted.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.root, prefix=".download-") as folder:
            for path in archives:  # copies, because the download may write over them
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                with untrusted.opened(wanted.root / path) as file, (Path(folder) / path).open("wb") as copy:
                    shutil.copyfileobj(file, copy)
            wanted.download(folder)
            _move(Path(folder), wanted.root)
        if _missing(wanted):
            raise FileNotFoundError(f"the download lacks {_names(_missing(wanted))}")
    except Exception as error:  # every kind of failed download
        for folder in made:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty
        raise UserError(
            f"--dataset {wanted.name}: not to be read from {wanted.place} and not to be downloaded ({reason(error)}); "
            f"{wanted.by_hand}, or name another folder of data sets with --data_dir"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def _move(new: Path, place: Path) -> None:
    """Move a file or a folder to its place, where there is none yet; what two folders hold is put together."""
    if not place.exists():
        new.rename(place)
    elif new.is_dir() and place.is_dir():
        for child in new.iterdir():
            _move(child, place / child.name)


# --- readers -----------------------------------------------------------------------------------------------------------


def idx(path: Path, axes: int) -> np.ndarray:
    """An IDX file of bytes (MNIST's format): 0, 0, 8, the number of axes, their lengths as big-endian int32, the bytes."""
    with untrusted.opened(path) as file:
        content = np.fromfile(file, np.uint8)
    start = 4 * (axes + 1)
    if len(content) < start or content[:4].tolist() != [0, 0, 8, axes]:
        raise ValueError(f"not an IDX file of bytes with {axes} axes")
    return content[start:].reshape(content[4:start].view(">u4").astype(int))


@dataclass
class _Called:
    """Stands in for a function or a class that a pickle names, and for what it says comes of calling it: nothing is called.
    `given` are the arguments, `state` is what it is told to become."""

    name: str
    given: tuple | None = None
    state: Any = None


KNOWN = {
    "numpy ndarray": "array",
    "numpy dtype": "dtype",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",  # since numpy 2
}
PLAIN = (str, bytes, int, float, bool, type(None))
PICKLE = 512 * untrusted.MIB  # bytes of a file; the largest of CIFAR has 155 MB


def unpickled(path: Path) -> dict[str, Any]:
    """A pickled dict of arrays of bytes, lists and single values, as the CIFAR files are, by Python 2 or 3. Raises
    ValueError for anything else. The few words of a pickle that make such a dict are followed here one by one, so that
    nothing in it can run, whatever it asks for. (The library's way, a `pickle.Unpickler` with a list of allowed names, would
    call numpy with whatever arguments the file has.)"""
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

    for opcode, said, _ in pickletools.genops(content):
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
                _is(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                held = _is(stack[-1], dict)
                for key, value in zip(items[::2], items[1::2], strict=True):
                    held[_is(key, str, bytes)] = value
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[len(memo) if said is None else said] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[said])
            case "GLOBAL" | "STACK_GLOBAL":
                name = said or f"{_is(stack.pop(-2), str)} {_is(stack.pop(), str)}"
                if name not in KNOWN:
                    asks = name.replace(" ", ".", 1)
                    raise ValueError(f"refused: it asks for {asks}, and only arrays and plain containers are read")
                stack.append(_Called(KNOWN[name]))
            case "REDUCE":
                given, called = _is(stack.pop(), tuple), _is(stack.pop(), _Called)
                stack.append(_Called(called.name, given))
            case "BUILD":
                state = stack.pop()
                _is(stack[-1], _Called).state = state
            case _ if said is not None and type(said) in PLAIN:  # a number or text
                stack.append(said)
            case other:
                raise ValueError(f"refused: it holds a pickle's {other}, and only arrays and plain containers are read")
    (found,) = stack
    if not isinstance(found, dict):
        raise ValueError(f"not a dict, but a {type(found).__name__}")
    return {key: _value(value) for key, value in found.items()}


def _is(thing: Any, *kinds: type) -> Any:
    """The thing itself. Raises ValueError where it is of none of these kinds."""
    if type(thing) not in kinds:
        raise ValueError(f"a {type(thing).__name__} where a {kinds[0].__name__} must be")
    return thing


def _value(value: Any) -> Any:
    """What stands in a pickled dict: the uint8 array that is told of, a list of plain values, or one. Raises ValueError."""
    if isinstance(value, list) and all(type(one) in PLAIN for one in value):
        return value
    if type(value) is not _Called or value.name != "array":
        return _is(value, *PLAIN)
    _, shape, dtype, fortran, content = _is(value.state, tuple)
    if (name := _is(dtype, _Called).given[0]) not in ("u1", "|u1"):
        raise ValueError(f"an array of {name}, not of bytes")
    if isinstance(content, str):  # as Python 3 reads the bytes of Python 2
        content = content.encode("latin1")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


# --- arrays of the user ------------------------------------------------------------------------------------------------

KEYS = ("x_train", "y_train", "x_test", "y_test")
TEXT = "U"  # numpy's letter for it
COLLAPSED = 1e-4  # of a standard deviation: numbers that rounding moves by more are not told apart well any more
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?")


@dataclass(frozen=True)
class Part:
    """Training or test examples that a user brings: x uint8 or float32 [n, channels, height, width], or the n files of
    images; y their labels, int64 [n] or text [n]; `clients` text [n], the client of each, "" nobody, where that is said."""

    x: np.ndarray | list[Path]
    y: np.ndarray
    clients: np.ndarray | None = None


@dataclass(frozen=True)
class First:
    """Where each label of text and each client occurs first: {label or client: file, and line where it has lines}."""

    labels: dict[str, str]
    clients: dict[str, str]

    def __or__(self, other: "First") -> "First":
        """Both; what occurs in both is where it occurs in this one."""
        return First({**other.labels, **self.labels}, {**other.clients, **self.clients})


@dataclass(frozen=True)
class Brought:
    """What a user brings, each part where it is there. `classes`: the names of the labels, `features` those of the columns
    of a table, where they have any. `first`: where labels and clients occur first. `warnings`: one line each."""

    train: Part | None
    test: Part | None
    classes: np.ndarray | None = None
    features: tuple[str, ...] = ()
    first: First = field(default_factory=lambda: First({}, {}))
    warnings: tuple[str, ...] = ()

    @property
    def parts(self) -> list[Part]:
        """Training and test examples, as far as there are any."""
        return [part for part in (self.train, self.test) if part is not None]


def npz(path: Path, optional: str | None = None) -> Brought:
    """An .npz file with x_train, y_train, x_test, y_test; all of the part `optional`, "train" or "test", may be left out.

    In the file: x [n, height, width], [n, height, width, channels] or [n, channels, height, width] with 1 to 4 channels;
    where both readings of four axes are possible, the channels are the last. Integers must lie in 0 .. 255; floats are any
    finite numbers. Vectors [n, d] are any finite numbers, and become floats [n, d, 1, 1]. y are integers [n] or [n, 1].
    `classes`, the C names, may be left out. `client_train` and `client_test` [n] name the client of each example: then the
    test part may be left out, and without `client_test` it is nobody's. Raises ValueError, and
    RefusedError for what is no such file.
    """
    clients = {part: f"client_{part}" for part in ("train", "test")}
    found = untrusted.arrays(path, (*KEYS, "classes", *clients.values()))
    optional = "test" if optional is None and clients["train"] in found else optional
    left_out = optional if not any(f"{what}_{optional}" in found for what in "xy") else None
    if lacking := [key for key in KEYS if key not in found and not key.endswith(f"_{left_out}")]:
        raise ValueError(f"it lacks {', '.join(lacking)}; must hold {', '.join(KEYS)}")
    x = {part: examples(f"x_{part}", found[f"x_{part}"]) for part in clients if part != left_out}
    if left_out is None and (x["train"].shape[1:] != x["test"].shape[1:] or x["train"].dtype != x["test"].dtype):
        kinds = [kind(of_part) for of_part in x.values()]
        raise ValueError(f"an image of x_train is {kinds[0]}, of x_test {kinds[1]} [channels, height, width]; must be alike")
    parts = {
        part: Part(
            of_part, _labels(f"y_{part}", found[f"y_{part}"], len(of_part)), _whose(key, found.get(key), len(of_part))
        )
        for part, key in clients.items()
        if (of_part := x.get(part)) is not None
    }
    unread = sorted(set(untrusted.members(path)) - set(found))
    warnings = (f"{path}: not read: {listed(unread)}",) if unread else ()
    return Brought(parts.get("train"), parts.get("test"), found.get("classes"), warnings=warnings)


def kind(x: np.ndarray) -> str:
    """Of what examples [n, ...] are, in words."""
    return f"{x.dtype} {list(x.shape[1:])}"


def _whose(key: str, names: np.ndarray | None, n: int) -> np.ndarray | None:
    """-> text [n]."""
    if names is None:
        return None
    if names.shape != (n,) or names.dtype.kind not in "iuUS":
        raise ValueError(
            f"{key} holds {names.dtype} {list(names.shape)}; must be [{n}], a name or a number for each example"
        )
    return names.astype(TEXT)


def examples(key: str, x: np.ndarray) -> np.ndarray:
    """Images [n, height, width], ... -> uint8 or float32 [n, channels, height, width]; vectors [n, d] -> float64 [n, d, 1,
    1], for `in_32_bits`. `key` is what they are called where they are neither. Raises ValueError."""
    vectors = x.ndim == 2
    if vectors:
        x = x[:, :, None, None].astype(np.float64 if x.dtype.kind in "iuf" else x.dtype)
    elif x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and 1 <= x.shape[3] <= 4:
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or not (vectors or 1 <= x.shape[1] <= 4):
        allowed = (
            "[n, d], [n, height, width], [n, height, width, channels] and [n, channels, height, width], 1 to 4 channels"
        )
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


def in_32_bits(x: np.ndarray, n_train: int) -> np.ndarray:
    """Vectors float64 [n, d, 1, 1] -> float32, n_train of them the training examples. A feature that rounding moves by more
    than a ten-thousandth of its standard deviation, such as a time in seconds since 1970, is standardised before, by mean
    and standard deviation of the training examples: normalisation does the same to all features later."""
    rounded = x.astype(np.float32)
    for feature in range(x.shape[1]):
        column, out = x[:, feature], rounded[:, feature]
        train = column[:n_train]
        if np.abs(out - column).max() > COLLAPSED * (std := train.std()) and np.ptp(train) > 0:
            out[:] = (column - train.mean()) / std
    return rounded


def _labels(key: str, y: np.ndarray, n: int) -> np.ndarray:
    """-> int64 [n]."""
    if y.dtype.kind not in "iu":
        raise ValueError(f"{key} holds {y.dtype}; must be integers")
    if y.ndim != 1 and not (y.ndim == 2 and y.shape[1] == 1):
        raise ValueError(f"{key} has the shape {list(y.shape)}; must be [n] or [n, 1]")
    if len(y) != n:
        raise ValueError(f"{key} holds {len(y)} labels for {n} images")
    if y.min() < 0 or y.max() >= 2**31:
        raise ValueError(f"{key} holds the label {y.min() if y.min() < 0 else y.max()}; must be 0 .. C - 1")
    return y.reshape(-1).astype(np.int64)


def classified(brought: Brought) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of the training, then of the test examples, int64 [n] in 0 .. C - 1, and the names of the C classes. Every
    class must occur in the training set. Labels of text are classes by themselves, in their order. Raises ValueError."""
    train, test = brought.train.y, brought.test.y if brought.test else brought.train.y[:0]
    if train.dtype.kind != TEXT:
        return np.concatenate([train, test]), _classes(train, test, brought.classes)
    classes = tuple(in_order(train))
    one_spelling("class", {*classes, *test.tolist()}, brought.first.labels)
    if unknown := sorted(set(test.tolist()) - set(classes)):
        raise ValueError(f"test examples are of class {unknown[0]}, which the training examples lack")
    place = {name: c for c, name in enumerate(classes)}
    return np.array([place[name] for name in np.concatenate([train, test]).tolist()], np.int64), classes


def one_spelling(what: str, names: Iterable[str], first: Mapping[str, str]) -> None:
    """Raises ValueError where two names of a `what` ("class", "client") are one but for capitals, spaces or the way a number
    or a truth value is written; `first` says where each occurs."""
    spelled: dict[Any, str] = {}
    for name in in_order(names):
        other = spelled.setdefault(_meaning(name), name)
        if other != name:
            one, two = (f"{said!r}" + (f" ({first[said]})" if said in first else "") for said in (other, name))
            raise ValueError(f"{one} and {two} look like one {what} spelled in two ways; spell it in one, or rename one")


def _meaning(name: str) -> Any:
    """What spellings of a name have in common."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    plain = {"true": "1", "false": "0"}.get(plain, plain)
    return Decimal(plain) if NUMBER.fullmatch(plain) else plain


def words(what: str, values: Sequence[Any]) -> np.ndarray:
    """Names as text [n]. An array holds all of them in the room of the longest, so none may be longer than
    `untrusted.NAME`. Raises ValueError."""
    told = list(map(str, values))
    untrusted.short(f"{what} holds", told)
    return np.array(told, TEXT) if told else np.zeros(0, f"{TEXT}1")


def in_order(names: Iterable[str]) -> list[str]:
    """The distinct names in the order in which people have them: those that are numbers by their value, ward_2 before
    ward_10."""

    def parts(name: str) -> list:
        return (
            [(0, float(name), "")]
            if _is_number(name)
            else [(1, int(part), "") if part.isdecimal() else (2, 0, part) for part in re.split(r"(\d+)", name)]
        )

    return sorted({str(name) for name in names}, key=lambda name: (parts(name), name))


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _classes(train: np.ndarray, test: np.ndarray, names: np.ndarray | None) -> tuple[str, ...]:
    """The names of the classes, by default their numbers; every one must occur in the training set."""
    present = np.unique(train)
    n_classes = int(present[-1]) + 1
    if n_classes > len(present):
        missing = np.setdiff1d(np.arange(min(n_classes, len(present) + 4)), present)[:4]
        raise ValueError(f"no label {', '.join(map(str, missing))} in y_train; all of 0 .. {n_classes - 1} must occur")
    if len(test) and test.max() >= n_classes:
        raise ValueError(f"y_test holds the label {test.max()}, which y_train lacks")
    if names is None:
        return tuple(map(str, range(n_classes)))
    if names.shape != (n_classes,):
        raise ValueError(f"classes has the shape {list(names.shape)}; must be [{n_classes}], a name for each label")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
