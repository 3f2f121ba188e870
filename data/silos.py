"""Read the user's data: arrays, tables and images, with or without clients."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

import streams
import untrusted
from data import files, pictures, tables
from data.files import Brought, Part, in_order

TABLES = tables.SUFFIXES
FILES = (".npz", *TABLES)  # suffixes of files that may hold a client's data
CLIENT, PART, LABEL = "client", "part", "label"  # names of a table's special columns
VALIDATION = ("val", "valid", "validation")  # names that a client may not have
LEAF = 2 * untrusted.GIB  # bytes of a file; FEMNIST's files each have less than a tenth of this size
TEST_SHARE = 0.2  # of a table's rows, where the table has no test set
WANTED = (
    "use a folder with a folder (CLIENT/train/CLASS/*.png) or a file (CLIENT.npz, CLIENT.csv) per client, a .npz file "
    "with client_train, a table with a column client, or LEAF's JSON"
)


def brought(path: Path, label: str | None = None) -> Brought:
    """Load the user's data from a path, by client where the data name clients. `label`: the column of a table that holds the
    labels. Raise ValueError where the path has none of the layouts of docs/data_and_splits.md."""
    if leaf := _leaf_files(path):
        user_data = _leaf(*leaf)
        user_data = _warn_unread(user_data, path, chain(*leaf)) if path.is_dir() else user_data
    elif path.is_dir():
        client_paths, common = _clients_of(path)
        user_data = _by_client(client_paths, common, label) if client_paths else _pictures(path)
        image_files = (file for part in user_data.parts if isinstance(part.x, list) for file in part.x)
        client_files = (file for file in (*client_paths.values(), common) if file and file.is_file())
        user_data = _warn_unread(user_data, path, chain(client_files, image_files))
    elif _suffix(path) in TABLES:
        user_data = table(path, label)
        user_data = user_data if user_data.test or user_data.train.clients is not None else _with_test_set(user_data)
    else:
        user_data = files.npz(path)
    if label is not None and not user_data.features:
        raise ValueError(f"--label {label}: applies only to tables ({', '.join(TABLES)}); remove the flag")
    return user_data


def clients(path: Path) -> tuple[str, ...]:
    """Return the names of the clients in the data at a path, in order. Raise ValueError where the data name no clients."""
    if not untrusted.is_there(path):
        raise ValueError(f"no such file or folder; {WANTED}")
    if path.is_dir() and not _leaf_files(path):
        names = list(_clients_of(path)[0])
    elif _suffix(path) in TABLES:
        columns = tables.read(path).columns
        parts = columns.get(PART, ["train"] * len(columns.get(CLIENT, ())))
        names = {name for name, part in zip(columns.get(CLIENT, ()), parts, strict=False) if part == "train"} - {""}
    else:
        client_names = brought(path).train.clients
        names = [] if client_names is None else np.unique(client_names)
    if not len(names):
        raise ValueError(f"names no clients; {WANTED}")
    return tuple(in_order(names))


def _suffix(path: Path) -> str:
    """Return the suffix of a path in lower case."""
    return path.suffix.lower()


def _warn_unread(user_data: Brought, root: Path, read: Iterable[Path]) -> Brought:
    """Return the same data, with a warning that names the files in the folder that are not read."""
    if not (unread := pictures.unread(root, read)):
        return user_data
    warning = f"{root}: not read: {files.listed(unread)}" + (f" ({len(unread)} in all)" if len(unread) > 4 else "")
    return replace(user_data, warnings=(*user_data.warnings, warning))


def owners(data: Brought) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Return the names of the clients, and the number of the client of each example, training then test examples: int64 [n],
    -1 for an example without a client; (), None where the data name no clients. Where all test examples belong to clients
    without training examples, the test examples count as examples without a client. Raise ValueError where only some of the
    test examples belong to such clients."""
    if data.train.clients is None:
        return (), None
    names = tuple(in_order(np.unique(data.train.clients)))
    if "" in names:
        raise ValueError("training examples belong to a client without a name; name the client")
    test_clients = [] if data.test is None else [""] * len(data.test.y) if data.test.clients is None else data.test.clients
    number = {name: k for k, name in enumerate(names)}
    files.one_spelling("client", {*names, *map(str, test_clients)} - {""}, data.first.clients)
    untrained = set(map(str, test_clients)) - {"", *names}
    if untrained and untrained != set(map(str, test_clients)):
        raise ValueError(
            f"client {min(untrained)} has test examples but no training examples; add training examples, "
            "or remove its test examples"
        )
    return names, np.array([number.get(str(name), -1) for name in (*data.train.clients, *test_clients)], np.int64)


# --- a folder or a file per client -------------------------------------------------------------------------------------


def _clients_of(root: Path) -> tuple[dict[str, Path], Path | None]:
    """Return {client: its folder, which holds train/, or its file}, and the path of the common test set; {} and None for a
    folder without clients."""
    if (root / "train").is_dir():
        return {}, None
    paths: dict[str, Path] = {}
    for path in pictures.visible(root):
        if path.is_dir() or _suffix(path) in FILES:
            name = path.name if path.is_dir() else path.stem
            if name in paths and (path.is_file() and paths[name].is_file() or name == "test"):
                raise ValueError(f"{paths[name]} and {path} have the same name, {name}; rename or remove one of the two")
            if name not in paths or path.is_file():
                paths[name] = path
    common = paths.pop("test", None)
    folders = {name: path for name, path in paths.items() if path.is_dir()}
    client_files = {name: path for name, path in paths.items() if name not in folders}
    if not any((path / "train").is_dir() for path in folders.values()):
        folders = {}
    if client_files and folders:
        raise ValueError(f"{root} holds both folders and files of clients; use only folders or only files")
    for path in folders.values():
        if not (path / "train").is_dir():
            raise ValueError(f"no folder {path / 'train'}; add it, each client must have train/CLASS/*.png")
    paths = client_files or folders
    if wrong := next((paths[name] for name in VALIDATION if name in paths), None):
        raise ValueError(
            f"{wrong} has the name of a validation set; remove it and use --validation, or rename it if it is a client"
        )
    return {name: paths[name] for name in in_order(paths)}, common if paths else None


def _by_client(paths: dict[str, Path], common: Path | None, label: str | None) -> Brought:
    """Return the data of all clients, client after client, followed by the common test set, where there is a common test
    set."""
    by_name = {name: _of_client(name, path, label) for name, path in paths.items()}
    shared = [] if common is None else [("", _common(common, label))]
    first = next(iter(by_name.values()))
    for name, client_data in [*by_name.items(), *shared]:
        _check_compatible(name or "test", client_data, next(iter(by_name)), first)
    train = _joined([(name, client_data.train) for name, client_data in by_name.items()])
    tests = [(name, client_data.test) for name, client_data in [*by_name.items(), *shared] if client_data.test is not None]
    places = files.First({}, {name: str(path) for name, path in paths.items()})
    warnings = []
    for client_data in (*by_name.values(), *(client_data for _, client_data in shared)):
        places |= files.First(client_data.first.labels, {})
        warnings += client_data.warnings
    if all(_suffix(path) == ".npz" for path in paths.values()):
        warnings += files.text_classes(next(iter(paths.values())).parent, train.y)
    return Brought(
        train, _joined(tests) if tests else None, first.classes, first.features, first=places, warnings=tuple(warnings)
    )


def _of_client(name: str, path: Path, label: str | None) -> Brought:
    """Return the data of a client. Raise ValueError where its file names another client."""
    if path.is_dir():
        train = _labelled(path / "train")
        test = _labelled(path / "test") if (path / "test").is_dir() else Brought(None, None)
        return Brought(train.train, test.train, first=train.first | test.first)
    if _suffix(path) in TABLES:
        client_data = table(path, label)
    else:
        with files.within(path):
            client_data = files.npz(path, optional="test")
    others = {str(client) for part in client_data.parts if part.clients is not None for client in part.clients} - {name}
    if others:
        raise ValueError(f"{path} names client {min(others)}, but the file name says client {name}; correct one of them")
    return client_data


def _common(path: Path, label: str | None) -> Brought:
    """Return the common test set of all clients. Raise ValueError where the path holds training examples."""
    if path.is_dir():
        test_data = _labelled(path)
        return Brought(None, test_data.train, first=test_data.first)
    if _suffix(path) in TABLES:
        test_data = table(path, label)
        test_data = test_data if test_data.test else replace(test_data, train=None, test=test_data.train)
    else:
        with files.within(path):
            test_data = files.npz(path, optional="train")
    if test_data.train is not None:
        raise ValueError(
            f"{path} holds training examples, but is the common test set; move the training examples to a client"
        )
    return replace(test_data, test=replace(test_data.test, clients=None))


def _labelled(folder: Path) -> Brought:
    """Return images by class, as training examples."""
    paths, labels = pictures.labelled(folder)
    return Brought(Part(paths, np.array(labels)), None, first=files.First({name: str(folder / name) for name in labels}, {}))


def _check_compatible(name: str, client_data: Brought, first_name: str, first: Brought) -> None:
    """Raise ValueError where the data of two clients differ in columns, shape, dtype or classes."""
    if client_data.features != first.features:
        differing = sorted(set(client_data.features) ^ set(first.features)) or ["their order"]
        raise ValueError(f"the columns of {name} and {first_name} differ ({files.listed(differing)}); use the same columns")
    xs = [part.x for part in (*client_data.parts, *first.parts) if isinstance(part.x, np.ndarray)]
    for x in xs:
        if files.kind(x) != files.kind(xs[-1]):
            raise ValueError(
                f"examples of {name} are {files.kind(x)}, of {first_name} {files.kind(xs[-1])} [channels, height, width]; "
                "use the same type and shape"
            )
    parts = [*client_data.parts, *first.parts]
    if len({part.y.dtype.kind == files.TEXT for part in parts}) > 1:
        raise ValueError(f"the labels of {name} or {first_name} are text, the others numbers; use the same labels")
    if client_data.train is not None and not np.array_equal(client_data.classes, first.classes):
        raise ValueError(f"the classes of {name} and {first_name} differ; use the same classes")


def _joined(parts: Sequence[tuple[str, Part]]) -> Part:
    """Return the examples of all pairs (client, part), client after client."""
    xs = [part.x for _, part in parts]
    x = np.concatenate(xs) if isinstance(xs[0], np.ndarray) else [path for paths in xs for path in paths]
    y = np.concatenate([part.y for _, part in parts])
    return Part(x, y, np.repeat([name for name, _ in parts], [len(part.y) for _, part in parts]))


def _pictures(root: Path) -> Brought:
    """Return the images of root/train/CLASS and root/test/CLASS."""
    train, test, classes = pictures.tree(root)
    files.one_spelling("class", classes, {name: str(root / "train" / name) for name in classes})
    return Brought(*(Part(paths, np.array(y)) for paths, y in (train, test)), np.array(classes))


# --- tables ------------------------------------------------------------------------------------------------------------


def table(path: Path, label: str | None = None) -> Brought:
    """Load a .csv or .parquet file with an example per row. The column `label`, by default "label" or else the last column,
    holds the classes; `client` the client; `part` "train" or "test". All other columns are features, which are finite
    numbers. Without `part` all rows are training examples. Raise ValueError, naming line and column."""
    cells = tables.read(path)
    columns = list(cells.columns)
    others = [name for name in columns if name not in (CLIENT, PART)]
    requested = label
    label = label or (LABEL if LABEL in columns else others[-1] if others else LABEL)
    if label not in others:
        raise ValueError(
            f"{path} has no column {label} for --label; the columns are {files.listed(columns)}, "
            "and client and part are never labels"
        )
    for name in others:
        lower = name.lower()
        if lower in (CLIENT, PART, LABEL) and name != lower and name != requested:
            raise ValueError(
                f"{path} has a column {name}; rename the column to {lower} if it holds the {lower}, else to another name"
            )
    features = tuple(name for name in others if name != label)
    if not features:
        raise ValueError(f"{path} has only the column {label}; add columns of features")
    if label not in (requested, LABEL) and all(map(tables.is_value, features)):
        raise ValueError(
            f"{path} has no header, or only numbers as names of columns ({files.listed(columns)}); name the "
            "columns, or name the column of the labels with --label"
        )
    if not len(cells):
        raise ValueError(f"{path} has no rows; add a row per example")
    x = np.stack([cells.numbers(name) for name in features], 1)[:, :, None, None]
    y = cells.words(label)
    if len(wrong := _rows_without_class(y)):
        raise ValueError(
            f"{cells.place(wrong[0], label)} holds {y[wrong[0]]}, which is not a class; write a class or remove the row"
        )
    clients = cells.words(CLIENT, empty=True) if CLIENT in columns else None
    parts = cells.words(PART) if PART in columns else np.full(len(y), "train")
    if len(invalid := np.flatnonzero(~np.isin(parts, ("train", "test")))):
        raise ValueError(f"{cells.place(invalid[0], PART)} is {parts[invalid[0]]}; must be train or test")
    train, test = (
        Part(x[rows], y[rows], None if clients is None else clients[rows]) if (rows := parts == part).any() else None
        for part in ("train", "test")
    )
    if train is None:
        raise ValueError(f"{path} has no training examples; add rows whose part is train")
    warnings = tuple(
        f"{path}: the column {name} looks like row numbers and is used as a feature; remove the column if it is an index"
        for name, column in zip(features, x.T[0, 0], strict=True)
        if tables.counts_rows(column)
    )
    first = files.First(cells.first(label), cells.first(CLIENT) if CLIENT in columns else {})
    return Brought(train, test, None, features, first, warnings)


def _rows_without_class(y: np.ndarray) -> np.ndarray:
    """Return the indices of labels, text [n], that are NaN, the mark of a missing number."""
    return np.flatnonzero(np.char.lower(y) == "nan")


def _with_test_set(user_data: Brought) -> Brought:
    """Return the same examples, a fifth of them as the test set, drawn by a fixed stream."""
    train = user_data.train
    order = streams.generator("data", "table").permutation(len(train.y))
    n = max(round(TEST_SHARE * len(order)), 1)
    if n == len(order):
        raise ValueError("the table has a single row; training and testing need at least two rows")
    test, rest = (Part(train.x[rows], train.y[rows]) for rows in (np.sort(order[:n]), np.sort(order[n:])))
    return replace(user_data, train=rest, test=test)


# --- LEAF --------------------------------------------------------------------------------------------------------------


def _leaf_files(path: Path) -> tuple[list[Path], list[Path]] | None:
    """Return the files of the training and of the test part: path/train/*.json and path/test/*.json, or a single file as the
    training part; None where the path is not LEAF's JSON."""
    if path.suffix == ".json" and path.is_file():
        return [path], []
    train, test = (sorted((path / part).glob("*.json")) for part in ("train", "test"))
    return (train, test) if train else None


def _leaf(train: Sequence[Path], test: Sequence[Path]) -> Brought:
    """Load LEAF's JSON (Caldas et al., LEAF: A Benchmark for Federated Settings, 2018): {"users": [...], "num_samples":
    [...], "user_data": {user: {"x": [...], "y": [...]}}}, with x lists of numbers. Numbers stay unchanged: LEAF's pixels are
    floats in 0 .. 1."""
    parts, warnings = [], []
    first = files.First({}, {})
    for paths in (train, test):
        users_read: dict[str, tuple[Path, Part]] = {}
        for path in paths:
            users, empty = _users(path)
            for user, part in users:
                if user in users_read:
                    raise ValueError(
                        f"{path}: user {user} is also in {users_read[user][0]}; put each user into a single file of a part"
                    )
                users_read[user] = path, part
                first.clients.setdefault(user, str(path))
                for label in set(part.y.tolist()):
                    first.labels.setdefault(label, f"{path}, user {user}")
            if empty:
                warnings.append(f"{path}: left out users without examples ({len(empty)}): {files.listed(empty)}")
        parts.append(_joined([(user, part) for user, (_, part) in users_read.items()]) if users_read else None)
    if parts[0] is None:
        raise ValueError("the training files name no users; add users")
    return Brought(*parts, first=first, warnings=tuple(warnings))


def _users(path: Path) -> tuple[list[tuple[str, Part]], list[str]]:
    """Return the users of a file with their examples, and the names of the users without examples."""
    with files.within(path):
        content = untrusted.tree(path, LEAF)
        users, data_of = list(map(str, content["users"])), content["user_data"]
        counts = content.get("num_samples", [None] * len(users))
        if len(repeated := [user for user, n in Counter(users).items() if n > 1]):
            raise ValueError(
                f"user {repeated[0]} is listed {Counter(users)[repeated[0]]} times in users; list each user once"
            )
        if unmatched := sorted(set(data_of) ^ set(users)):
            lists = ("users", "user_data") if unmatched[0] in users else ("user_data", "users")
            raise ValueError(
                f"user {unmatched[0]} is in {lists[0]} but not in {lists[1]}; add the user to both or remove it"
            )
        if len(counts) != len(users):
            raise ValueError(f"num_samples holds {len(counts)} numbers for {len(users)} users; write one number per user")
        users_read, empty = [], []
        for user, n in zip(users, counts, strict=True):
            user_data = data_of[user]
            n_labels = len(user_data["y"])
            if len(user_data["x"]) != n_labels:
                raise ValueError(
                    f"user {user} has {len(user_data['x'])} examples and {n_labels} labels; write one label per example"
                )
            if n not in (None, n_labels):
                raise ValueError(f"user {user} has {n_labels} labels, but num_samples says {n}; correct one of them")
            if not n_labels:
                empty.append(user)
                continue
            x = files.examples(f"x of user {user}", _array(user, user_data["x"]))
            y = files.words(f"y of user {user}", user_data["y"])
            if any(isinstance(label, list | dict) for label in user_data["y"]):
                raise ValueError(f"user {user} has a list or an object as a label; write a number or text")
            if None in user_data["y"] or len(_rows_without_class(y)):
                raise ValueError(f"user {user} has a missing label (null or NaN); write a label or remove the example")
            users_read.append((user, Part(x, y)))
        return users_read, empty


def _array(user: str, x: list) -> np.ndarray:
    """Return nested lists of numbers as an array. Raise ValueError for any other content, such as text: an array uses the
    space of the longest text for every text."""
    level = [x]
    while level:
        if wrong_types := set(map(type, level)) - {list, int, float}:
            raise ValueError(f"x of user {user} holds a {wrong_types.pop().__name__}; must be numbers")
        level = list(chain.from_iterable(item for item in level if type(item) is list))
    return np.asarray(x)
