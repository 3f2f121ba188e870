"""What users bring: arrays, tables and images, in one place or by client."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

import streams
import untrusted
from data import files, pictures
from data.files import Brought, Part, in_order

TABLES = (".csv", ".parquet")
FILES = (".npz", *TABLES)  # of which each may be a client's
CLIENT, PART, LABEL = "client", "part", "label"  # columns of a table
COLUMNS = 20_000  # of a table: pandas takes the square of their number
LEAF = 2 * untrusted.GIB  # bytes of a file; all of FEMNIST is in files of less than a tenth
TEST_SHARE = 0.2  # of a table that says nothing of a test set
WANTED = (
    "must be a folder with a folder (CLIENT/train/CLASS/*.png) or a file (CLIENT.npz, CLIENT.csv) a client, a .npz file "
    "with client_train, a table with a column client, or LEAF's JSON"
)


def brought(path: Path, label: str | None = None) -> Brought:
    """What is at a path, by client where it is so. `label`: the column of a table that holds the labels. Raises ValueError
    for what is none of the layouts of docs/data_and_splits.md."""
    if leaf := _leaf_files(path):
        found = _leaf(*leaf)
    elif path.is_dir():
        found = _by_client(path, label) if _clients_of(path) else _pictures(path)
    elif path.suffix in TABLES:
        found = table(path, label)
        found = found if found.test or found.train.clients is not None else _held_out(found)
    else:
        found = files.npz(path)
    if label is not None and not found.features:
        raise ValueError(f"--label {label}: read only with tables ({', '.join(TABLES)})")
    return found


def clients(path: Path) -> tuple[str, ...]:
    """The names of those who bring what is at a path, in their order. Raises ValueError where it names none."""
    if not untrusted.is_there(path):
        raise ValueError(f"there is no such file or folder; {WANTED}")
    if path.is_dir() and not _leaf_files(path):
        names = list(_clients_of(path))
    elif path.suffix in TABLES:
        frame = _frame(path, [name for name in (CLIENT, PART) if name in _columns(path)])
        training = frame[frame[PART] == "train"] if PART in frame else frame
        names = [name for name in training[CLIENT].unique() if name] if CLIENT in frame else []
    else:
        of_each = brought(path).train.clients
        names = [] if of_each is None else np.unique(of_each)
    if not len(names):
        raise ValueError(f"names no clients; {WANTED}")
    return tuple(in_order(names))


def owners(found: Brought) -> tuple[tuple[str, ...], np.ndarray | None]:
    """The names of the clients, and which of them each example is of, the training, then the test examples: int64 [n], -1 of
    what is nobody's; (), None where no clients are named. Test examples of people of whom none are trained on are nobody's.
    Raises ValueError where they are of some such people and of others."""
    if found.train.clients is None:
        return (), None
    names = tuple(in_order(np.unique(found.train.clients)))
    if "" in names:
        raise ValueError("training examples are of a client without a name")
    of_test = [] if found.test is None else [""] * len(found.test.y) if found.test.clients is None else found.test.clients
    place = {name: k for k, name in enumerate(names)}
    strangers = set(map(str, of_test)) - {"", *names}
    if strangers and strangers != set(map(str, of_test)):
        raise ValueError(f"client {min(strangers)} has test examples and no training examples")
    return names, np.array([place.get(str(name), -1) for name in (*found.train.clients, *of_test)], np.int64)


# --- a folder or a file a client ---------------------------------------------------------------------------------------


def _clients_of(root: Path) -> dict[str, Path]:
    """{client: its folder, with train/ in it, or its file}; empty for another folder."""
    if (root / "train").is_dir():
        return {}
    found = [path for path in pictures.visible(root) if path.stem != "test"]
    of_files = {path.stem: path for path in found if path.suffix in FILES}
    of_folders = {path.name: path for path in found if path.is_dir()}
    if not any((path / "train").is_dir() for path in of_folders.values()):
        of_folders = {}
    if of_files and of_folders:
        raise ValueError(f"{root} holds folders and files of clients; must be all of one kind")
    for path in of_folders.values():
        if not (path / "train").is_dir():
            raise ValueError(f"no folder {path / 'train'}; each client must have train/CLASS/*.png")
    found = of_files or of_folders
    return {name: found[name] for name in in_order(found)}


def _by_client(root: Path, label: str | None) -> Brought:
    """Everything that the clients have, client after client; then the test set that all share, root/test or root/test.npz,
    where there is one."""
    named = {name: _of_client(path, label) for name, path in _clients_of(root).items()}
    common = next((root / f"test{end}" for end in ("", *FILES) if (root / f"test{end}").exists()), None)
    shared = [] if common is None else [("", _common(common, label))]
    first = next(iter(named.values()))
    for name, one in [*named.items(), *shared]:
        _alike(name or "test", one, next(iter(named)), first)
    train = _joined([(name, one.train) for name, one in named.items()])
    tests = [(name, one.test) for name, one in [*named.items(), *shared] if one.test is not None]
    return Brought(train, _joined(tests) if tests else None, first.classes, first.features)


def _of_client(path: Path, label: str | None) -> Brought:
    if path.suffix in TABLES and path.is_file():
        return table(path, label)
    if path.is_file():
        with files.within(path):
            return files.npz(path, optional="test")
    tested = (path / "test").is_dir()
    return Brought(_labelled(path / "train"), _labelled(path / "test") if tested else None)


def _common(path: Path, label: str | None) -> Brought:
    """The test set that all share."""
    if path.is_dir():
        return Brought(None, _labelled(path))
    if path.suffix in TABLES:
        found = table(path, label)
        return Brought(None, found.test or found.train, features=found.features)
    with files.within(path):
        return Brought(None, files.npz(path, optional="train").test)


def _labelled(folder: Path) -> Part:
    found, names = pictures.labelled(folder)
    return Part(found, np.array(names))


def _alike(name: str, one: Brought, first_name: str, first: Brought) -> None:
    """Raises ValueError where what two clients bring does not go together."""
    if one.features != first.features:
        differing = sorted(set(one.features) ^ set(first.features)) or ["their order"]
        raise ValueError(f"the columns of {name} and {first_name} are not the same ({files.listed(differing)})")
    xs = [part.x for part in (*one.parts, *first.parts) if isinstance(part.x, np.ndarray)]
    for x in xs:
        if files.kind(x) != files.kind(xs[-1]):
            raise ValueError(
                f"an example of {name} is {files.kind(x)}, of {first_name} {files.kind(xs[-1])} [channels, height, width]; "
                "must be alike"
            )
    if one.train is not None and not np.array_equal(one.classes, first.classes):
        raise ValueError(f"the classes of {name} and {first_name} are not the same")


def _joined(parts: Sequence[tuple[str, Part]]) -> Part:
    """The examples of (client, part), one client after another."""
    xs = [part.x for _, part in parts]
    x = np.concatenate(xs) if isinstance(xs[0], np.ndarray) else [path for of_client in xs for path in of_client]
    y = np.concatenate([part.y for _, part in parts])
    return Part(x, y, np.repeat([name for name, _ in parts], [len(part.y) for _, part in parts]))


def _pictures(root: Path) -> Brought:
    train, test, classes = pictures.tree(root)
    return Brought(*(Part(found, np.array(y)) for found, y in (train, test)), np.array(classes))


# --- tables ------------------------------------------------------------------------------------------------------------


def table(path: Path, label: str | None = None) -> Brought:
    """A .csv or .parquet file, a row an example: the column `label`, by default "label" or else the last one, holds the
    classes, `client` the client, `part` "train" or "test", all others are features, which are finite numbers. Without `part`
    all rows are training examples. Raises ValueError, naming column and line."""
    columns = _columns(path)
    others = [name for name in columns if name not in (CLIENT, PART)]
    label = label or (LABEL if LABEL in columns else others[-1] if others else LABEL)
    if label not in others:
        raise ValueError(f"{path} has no column {label} for --label; it has {files.listed(columns)}")
    features = tuple(name for name in others if name != label)
    if not features:
        raise ValueError(f"{path} has no columns but {label}; all others are the features")
    frame = _frame(path, columns, features)
    if not len(frame):
        raise ValueError(f"{path} has no rows")
    x = np.stack([_numbers(path, frame, name) for name in features], 1)[:, :, None, None]
    y = _words(path, frame, label)
    if len(wrong := _of_no_class(y)):
        raise ValueError(f"{path}, line {wrong[0] + 2}: the column {label} holds {y[wrong[0]]}, which is no class")
    whose = _words(path, frame, CLIENT, allowed=("",)) if CLIENT in columns else None
    parts = _words(path, frame, PART) if PART in columns else np.full(len(y), "train")
    if len(strange := np.flatnonzero(~np.isin(parts, ("train", "test")))):
        raise ValueError(f"{path}, line {strange[0] + 2}: {PART} is {parts[strange[0]]}; must be train or test")
    train, test = (
        Part(x[it], y[it], None if whose is None else whose[it]) if (it := parts == part).any() else None
        for part in ("train", "test")
    )
    if train is None:
        raise ValueError(f"{path} has no training examples")
    return Brought(train, test, features=features)


def _columns(path: Path) -> list[str]:
    import pandas as pd

    with _reading(path) as file:
        if path.suffix == ".csv" and (n := file.readline().count(b",") + 1) > COLUMNS:
            raise ValueError(f"it has {n} columns; at most {COLUMNS} are read")
        file.seek(0)
        found = pd.read_csv(file, nrows=0) if path.suffix == ".csv" else pd.read_parquet(file).iloc[:0]
    return list(map(str, found.columns))


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """A table that is opened. Whatever is stumbled over inside names it."""
    try:
        with untrusted.opened(path) as file:
            yield file
    except Exception as error:  # whatever a reader stumbles over in a file that may be anything
        raise ValueError(f"{path} is not to be read as a table ({files.reason(error)})") from error


def _frame(path: Path, columns: Sequence[str], numbers: Sequence[str] = ()):
    """These columns, those that are `numbers` as pandas reads them, the others as text; empty cells are "" there."""
    import pandas as pd

    if path.suffix == ".parquet":
        with _reading(path) as file:
            frame = pd.read_parquet(file, columns=list(columns))
        return frame.assign(**{name: frame[name].astype("string").fillna("") for name in set(columns) - set(numbers)})
    missing = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
    as_text = {name: str for name in columns if name not in numbers}
    with _reading(path) as file:
        return pd.read_csv(
            file,
            usecols=list(columns),
            dtype=as_text,
            keep_default_na=False,
            na_values=dict.fromkeys(numbers, missing),
            low_memory=False,
        )


def _numbers(path: Path, frame, name: str) -> np.ndarray:
    """A feature, float32 [n]."""
    import pandas as pd

    column = frame[name]
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    if len(wrong := np.flatnonzero(~np.isfinite(found))):
        value = column.iloc[wrong[0]]
        told = "has no value" if pd.isna(value) else f"holds {value}"
        raise ValueError(f"{path}, line {wrong[0] + 2}: the column {name} {told}; features must be finite numbers")
    return found


def _words(path: Path, frame, name: str, allowed: Sequence[str] = ()) -> np.ndarray:
    """A column of text, of which no cell is empty unless that is allowed."""
    found = files.words(f"{path}: the column {name}", frame[name].tolist())
    if "" not in allowed and len(empty := np.flatnonzero(found == "")):
        raise ValueError(f"{path}, line {empty[0] + 2}: the column {name} has no value")
    return found


def _of_no_class(y: np.ndarray) -> np.ndarray:
    """The places of labels, text [n], that are not a number where one was wanted."""
    return np.flatnonzero(np.char.lower(y) == "nan")


def _held_out(found: Brought) -> Brought:
    """The same examples, a fifth of them as the test set, drawn by a fixed stream."""
    train = found.train
    drawn = streams.generator("data", "table").permutation(len(train.y))
    n = max(round(TEST_SHARE * len(drawn)), 1)
    if n == len(drawn):
        raise ValueError("a single row, which cannot be trained on and tested on")
    test, kept = (Part(train.x[it], train.y[it]) for it in (np.sort(drawn[:n]), np.sort(drawn[n:])))
    return Brought(kept, test, features=found.features)


# --- LEAF --------------------------------------------------------------------------------------------------------------


def _leaf_files(path: Path) -> tuple[list[Path], list[Path]] | None:
    """The files of the training and of the test part: path/train/*.json and path/test/*.json, or one that is all."""
    if path.suffix == ".json" and path.is_file():
        return [path], []
    train, test = (sorted((path / part).glob("*.json")) for part in ("train", "test"))
    return (train, test) if train else None


def _leaf(train: Sequence[Path], test: Sequence[Path]) -> Brought:
    """LEAF's JSON (Caldas et al., LEAF: A Benchmark for Federated Settings, 2018): {"users": [...], "user_data": {user:
    {"x": [...], "y": [...]}}}, x lists of numbers. Numbers stay as they are: LEAF's pixels are floats in 0 .. 1."""
    parts = [
        _joined(found) if (found := [one for path in of_part for one in _users(path)]) else None for of_part in (train, test)
    ]
    if parts[0] is None:
        raise ValueError("no users")
    return Brought(*parts)


def _users(path: Path) -> list[tuple[str, Part]]:
    """The users of a file and what they have; without those who have nothing."""
    with files.within(path):
        held = untrusted.tree(path, LEAF)
        found = []
        for user in held["users"]:
            of_user = held["user_data"][user]
            if of_user["y"]:
                x = files.examples(f"x of user {user}", _array(user, of_user["x"]))
                y = files.words(f"y of user {user}", of_user["y"])
                if len(x) != len(y) or any(isinstance(label, list | dict) for label in of_user["y"]):
                    raise ValueError(f"user {user} has {len(x)} examples and {len(y)} labels; must be one of each")
                if None in of_user["y"] or len(_of_no_class(y)):
                    raise ValueError(f"user {user} has a label that is none (null or NaN)")
                found.append((str(user), Part(x, y)))
        return found


def _array(user: str, x: list) -> np.ndarray:
    """Numbers in lists in lists as an array. Raises ValueError for anything else in them: an array holds every text in the
    room of the longest."""
    level = [x]
    while level:
        if strange := set(map(type, level)) - {list, int, float}:
            raise ValueError(f"x of user {user} holds a {strange.pop().__name__}; must be numbers")
        level = list(chain.from_iterable(one for one in level if type(one) is list))
    return np.asarray(x)
