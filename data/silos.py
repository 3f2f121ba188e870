"""What users bring: arrays, tables and images, in one place or by client."""

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
FILES = (".npz", *TABLES)  # of which each may be a client's
CLIENT, PART, LABEL = "client", "part", "label"  # columns of a table
VALIDATION = ("val", "valid", "validation")  # names that no client may have
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
        found = _with_unread(found, path, chain(*leaf)) if path.is_dir() else found
    elif path.is_dir():
        named, common = _clients_of(path)
        found = _by_client(named, common, label) if named else _pictures(path)
        of_images = (file for part in found.parts if isinstance(part.x, list) for file in part.x)
        of_files = (file for file in (*named.values(), common) if file and file.is_file())
        found = _with_unread(found, path, chain(of_files, of_images))
    elif _suffix(path) in TABLES:
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
        names = list(_clients_of(path)[0])
    elif _suffix(path) in TABLES:
        held = tables.read(path).columns
        parts = held.get(PART, ["train"] * len(held.get(CLIENT, ())))
        names = {name for name, part in zip(held.get(CLIENT, ()), parts, strict=False) if part == "train"} - {""}
    else:
        of_each = brought(path).train.clients
        names = [] if of_each is None else np.unique(of_each)
    if not len(names):
        raise ValueError(f"names no clients; {WANTED}")
    return tuple(in_order(names))


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _with_unread(found: Brought, root: Path, read: Iterable[Path]) -> Brought:
    """The same, with a warning of what lies in the folder and is not read."""
    if not (unread := pictures.unread(root, read)):
        return found
    words = f"{root}: not read: {files.listed(unread)}" + (f" ({len(unread)} in all)" if len(unread) > 4 else "")
    return replace(found, warnings=(*found.warnings, words))


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
    files.one_spelling("client", {*names, *map(str, of_test)} - {""}, found.first.clients)
    strangers = set(map(str, of_test)) - {"", *names}
    if strangers and strangers != set(map(str, of_test)):
        raise ValueError(f"client {min(strangers)} has test examples and no training examples")
    return names, np.array([place.get(str(name), -1) for name in (*found.train.clients, *of_test)], np.int64)


# --- a folder or a file a client ---------------------------------------------------------------------------------------


def _clients_of(root: Path) -> tuple[dict[str, Path], Path | None]:
    """{client: its folder, with train/ in it, or its file}, and the test set that all share; nothing of another folder."""
    if (root / "train").is_dir():
        return {}, None
    found: dict[str, Path] = {}
    for path in pictures.visible(root):
        if path.is_dir() or _suffix(path) in FILES:
            name = path.name if path.is_dir() else path.stem
            if name in found and (path.is_file() and found[name].is_file() or name == "test"):
                raise ValueError(f"{found[name]} and {path} have the same name, {name}; keep one of the two")
            if name not in found or path.is_file():
                found[name] = path
    common = found.pop("test", None)
    of_folders = {name: path for name, path in found.items() if path.is_dir()}
    of_files = {name: path for name, path in found.items() if name not in of_folders}
    if not any((path / "train").is_dir() for path in of_folders.values()):
        of_folders = {}
    if of_files and of_folders:
        raise ValueError(f"{root} holds folders and files of clients; must be all of one kind")
    for path in of_folders.values():
        if not (path / "train").is_dir():
            raise ValueError(f"no folder {path / 'train'}; each client must have train/CLASS/*.png")
    found = of_files or of_folders
    if wrong := next((found[name] for name in VALIDATION if name in found), None):
        raise ValueError(
            f"{wrong} has the name of a validation set, not of a client; --validation draws one from the training data"
        )
    return {name: found[name] for name in in_order(found)}, common if found else None


def _by_client(of_clients: dict[str, Path], common: Path | None, label: str | None) -> Brought:
    """Everything that the clients have, client after client; then the test set that all share, where there is one."""
    named = {name: _of_client(name, path, label) for name, path in of_clients.items()}
    shared = [] if common is None else [("", _common(common, label))]
    first = next(iter(named.values()))
    for name, one in [*named.items(), *shared]:
        _alike(name or "test", one, next(iter(named)), first)
    train = _joined([(name, one.train) for name, one in named.items()])
    tests = [(name, one.test) for name, one in [*named.items(), *shared] if one.test is not None]
    places = files.First({}, {name: str(path) for name, path in of_clients.items()})
    warnings = []
    for one in (*named.values(), *(one for _, one in shared)):
        places |= files.First(one.first.labels, {})
        warnings += one.warnings
    return Brought(
        train, _joined(tests) if tests else None, first.classes, first.features, first=places, warnings=tuple(warnings)
    )


def _of_client(name: str, path: Path, label: str | None) -> Brought:
    if path.is_dir():
        train = _labelled(path / "train")
        test = _labelled(path / "test") if (path / "test").is_dir() else Brought(None, None)
        return Brought(train.train, test.train, first=train.first | test.first)
    if _suffix(path) in TABLES:
        found = table(path, label)
    else:
        with files.within(path):
            found = files.npz(path, optional="test")
    said = {str(one) for part in found.parts if part.clients is not None for one in part.clients} - {name}
    if said:
        raise ValueError(f"{path} names a client {min(said)}; a file is of the client that it is called after, {name}")
    return found


def _common(path: Path, label: str | None) -> Brought:
    """The test set that all share."""
    if path.is_dir():
        found = _labelled(path)
        return Brought(None, found.train, first=found.first)
    if _suffix(path) in TABLES:
        found = table(path, label)
        found = found if found.test else replace(found, train=None, test=found.train)
    else:
        with files.within(path):
            found = files.npz(path, optional="train")
    if found.train is not None:
        raise ValueError(f"{path} holds training examples, and is the test set of all clients; move them to a client")
    return replace(found, test=replace(found.test, clients=None))


def _labelled(folder: Path) -> Brought:
    """Images by class, as training examples."""
    found, names = pictures.labelled(folder)
    return Brought(Part(found, np.array(names)), None, first=files.First({name: str(folder / name) for name in names}, {}))


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
    files.one_spelling("class", classes, {name: str(root / "train" / name) for name in classes})
    return Brought(*(Part(found, np.array(y)) for found, y in (train, test)), np.array(classes))


# --- tables ------------------------------------------------------------------------------------------------------------


def table(path: Path, label: str | None = None) -> Brought:
    """A .csv or .parquet file, a row an example: the column `label`, by default "label" or else the last one, holds the
    classes, `client` the client, `part` "train" or "test", all others are features, which are finite numbers. Without `part`
    all rows are training examples. Raises ValueError, naming line and column."""
    held = tables.read(path)
    columns = list(held.columns)
    others = [name for name in columns if name not in (CLIENT, PART)]
    asked = label
    label = label or (LABEL if LABEL in columns else others[-1] if others else LABEL)
    if label not in others:
        raise ValueError(f"{path} has no column {label} for --label; it has {files.listed(columns)}")
    for name in others:
        meant = name.lower()
        if meant in (CLIENT, PART, LABEL) and name != meant and name != asked:
            raise ValueError(f"{path} has a column {name}; write {meant} if it is meant, else give it another name")
    features = tuple(name for name in others if name != label)
    if not features:
        raise ValueError(f"{path} has no columns but {label}; all others are the features")
    if label not in (asked, LABEL) and all(map(tables.is_value, features)):
        raise ValueError(
            f"{path} has no header, or only numbers for names ({files.listed(columns)}); name them, or say which is "
            "the label with --label"
        )
    if not len(held):
        raise ValueError(f"{path} has no rows")
    x = np.stack([held.numbers(name) for name in features], 1)[:, :, None, None]
    y = held.words(label)
    if len(wrong := _of_no_class(y)):
        raise ValueError(f"{held.place(wrong[0], label)} holds {y[wrong[0]]}, which is no class")
    whose = held.words(CLIENT, empty=True) if CLIENT in columns else None
    parts = held.words(PART) if PART in columns else np.full(len(y), "train")
    if len(strange := np.flatnonzero(~np.isin(parts, ("train", "test")))):
        raise ValueError(f"{held.place(strange[0], PART)} is {parts[strange[0]]}; must be train or test")
    train, test = (
        Part(x[it], y[it], None if whose is None else whose[it]) if (it := parts == part).any() else None
        for part in ("train", "test")
    )
    if train is None:
        raise ValueError(f"{path} has no training examples")
    warnings = tuple(
        f"{path}: the column {name} counts the rows and is read as a feature; remove it if it is an index"
        for name, column in zip(features, x.T[0, 0], strict=True)
        if tables.counts_rows(column)
    )
    first = files.First(held.first(label), held.first(CLIENT) if CLIENT in columns else {})
    return Brought(train, test, None, features, first, warnings)


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
    return replace(found, train=kept, test=test)


# --- LEAF --------------------------------------------------------------------------------------------------------------


def _leaf_files(path: Path) -> tuple[list[Path], list[Path]] | None:
    """The files of the training and of the test part: path/train/*.json and path/test/*.json, or one that is all."""
    if path.suffix == ".json" and path.is_file():
        return [path], []
    train, test = (sorted((path / part).glob("*.json")) for part in ("train", "test"))
    return (train, test) if train else None


def _leaf(train: Sequence[Path], test: Sequence[Path]) -> Brought:
    """LEAF's JSON (Caldas et al., LEAF: A Benchmark for Federated Settings, 2018): {"users": [...], "num_samples": [...],
    "user_data": {user: {"x": [...], "y": [...]}}}, x lists of numbers. Numbers stay as they are: LEAF's pixels are floats in
    0 .. 1."""
    parts, warnings = [], []
    first = files.First({}, {})
    for of_part in (train, test):
        found: dict[str, tuple[Path, Part]] = {}
        for path in of_part:
            users, without = _users(path)
            for user, part in users:
                if user in found:
                    raise ValueError(f"{path}: user {user} is in {found[user][0]} too; must be in one file of a part")
                found[user] = path, part
                first.clients.setdefault(user, str(path))
                for label in set(part.y.tolist()):
                    first.labels.setdefault(label, f"{path}, user {user}")
            if without:
                warnings.append(f"{path}: left out {len(without)} without examples: {files.listed(without)}")
        parts.append(_joined([(user, part) for user, (_, part) in found.items()]) if found else None)
    if parts[0] is None:
        raise ValueError("no users")
    return Brought(*parts, first=first, warnings=tuple(warnings))


def _users(path: Path) -> tuple[list[tuple[str, Part]], list[str]]:
    """The users of a file and what they have, and those who have nothing."""
    with files.within(path):
        held = untrusted.tree(path, LEAF)
        users, of_users = list(map(str, held["users"])), held["user_data"]
        counts = held.get("num_samples", [None] * len(users))
        if len(twice := [user for user, n in Counter(users).items() if n > 1]):
            raise ValueError(f"user {twice[0]} is listed {Counter(users)[twice[0]]} times in users; must be listed once")
        if lost := sorted(set(of_users) ^ set(users)):
            lists = ("users", "user_data") if lost[0] in users else ("user_data", "users")
            raise ValueError(f"user {lost[0]} is in {lists[0]} and not in {lists[1]}; must be in both")
        if len(counts) != len(users):
            raise ValueError(f"num_samples holds {len(counts)} numbers for {len(users)} users; must be one for each")
        found, without = [], []
        for user, n in zip(users, counts, strict=True):
            of_user = of_users[user]
            n_labels = len(of_user["y"])
            if len(of_user["x"]) != n_labels:
                raise ValueError(f"user {user} has {len(of_user['x'])} examples and {n_labels} labels; must be one of each")
            if n not in (None, n_labels):
                raise ValueError(f"user {user} has {n_labels} labels, and num_samples says {n}; must be the same")
            if not n_labels:
                without.append(user)
                continue
            x = files.examples(f"x of user {user}", _array(user, of_user["x"]))
            y = files.words(f"y of user {user}", of_user["y"])
            if any(isinstance(label, list | dict) for label in of_user["y"]):
                raise ValueError(f"user {user} has a list or an object for a label; must be a number or text")
            if None in of_user["y"] or len(_of_no_class(y)):
                raise ValueError(f"user {user} has a label that is none (null or NaN)")
            found.append((user, Part(x, y)))
        return found, without


def _array(user: str, x: list) -> np.ndarray:
    """Numbers in lists in lists as an array. Raises ValueError for anything else in them: an array holds every text in the
    room of the longest."""
    level = [x]
    while level:
        if strange := set(map(type, level)) - {list, int, float}:
            raise ValueError(f"x of user {user} holds a {strange.pop().__name__}; must be numbers")
        level = list(chain.from_iterable(one for one in level if type(one) is list))
    return np.asarray(x)
