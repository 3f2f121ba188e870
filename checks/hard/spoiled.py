"""Files that are not what they should be: their bytes, their lines, their arrays or their trees changed, each with the
command that reads it."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tomli_w
import torch
from hypothesis import strategies as st

from checks.hard import material
from checks.hard.commands import Command

WORDS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    "-0",
    "3.5",
    "9" * 25,
    "é",
    "x" * 300,
    "\0",
    "train",
    "0",
    "1",
    "99",
    "[",
    '"',
    "#",
    "=",
)
VALUES = (None, True, False, -1, 0, 2, 10**25, 1e308, 0.5, "", "x", "\0", "nan", "é" * 40, [], {}, [[]], [1, "a"], {"a": []})
DTYPES = (
    "int8",
    "int64",
    "uint64",
    "float16",
    "float64",
    "bool",
    "complex64",
    "U3",
    "S2",
    "datetime64[s]",
    "timedelta64[s]",
    ">i4",
)


# --- how something is spoiled ------------------------------------------------------------------------------------------


@st.composite
def of_bytes(draw, content: bytes) -> bytes:
    """Some bytes flipped, cut off, repeated, left out, or others in their place."""
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    length = draw(st.integers(1, 64))
    some = draw(st.binary(min_size=1, max_size=8))
    return draw(
        st.sampled_from(
            (
                content[:place],
                content[place:],
                content[:place] + some + content[place + len(some) :],
                content[:place] + some + content[place:],
                content[:place] + content[place + length :],
                content[:place] + content[place : place + length] * 2 + content[place + length :],
                content[:place] + bytes(length) + content[place + length :],
                content + some,
                some,
                b"",
            )
        )
    )


@st.composite
def of_lines(draw, text: str, between: str = ",") -> bytes:
    """Rows left out, repeated, shuffled, cut, and words replaced."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, max(len(lines) - 1, 0)))
        what = draw(st.sampled_from(("drop", "again", "word", "word", "head", "cut", "longer", "only", "empty")))
        if what == "drop" or not lines:
            lines = lines[:i] + lines[i + draw(st.integers(1, 60)) :]
        elif what == "again":
            lines.insert(draw(st.integers(0, len(lines))), lines[i])
        elif what in ("word", "head"):
            i = 0 if what == "head" else i
            words = lines[i].split(between)
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(WORDS))
            lines[i] = between.join(words)
        elif what == "cut":
            lines[i] = lines[i][: draw(st.integers(0, len(lines[i])))]
        elif what == "longer":
            lines[i] += between + draw(st.sampled_from(WORDS))
        elif what == "only":
            lines = lines[: draw(st.integers(0, 3))]
        else:
            lines[i] = ""
    return "\n".join(lines).encode(draw(st.sampled_from(("utf-8", "utf-8", "utf-16"))))


@st.composite
def of_arrays(draw, arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays of another shape or kind, with other values, missing, or too many of them; or a header that lies."""
    arrays = dict(arrays)
    name = draw(st.sampled_from(sorted(arrays)))
    of = arrays[name]
    what = draw(
        st.sampled_from(("gone", "kind", "axes", "fewer", "value", "empty", "scalar", "objects", "more", "header", "nested"))
    )
    if what == "gone":
        del arrays[name]
    elif what == "kind":
        with np.errstate(all="ignore"):
            arrays[name] = of.astype(draw(st.sampled_from(DTYPES))) if of.dtype.kind != "U" else of.astype("S")
    elif what == "axes":
        arrays[name] = draw(st.sampled_from((of[None], of[..., None], of.reshape(-1), of.reshape(len(of), -1), of.T)))
    elif what == "fewer":
        arrays[name] = of[: draw(st.integers(0, len(of)))]
    elif what == "value":
        flat = of.astype(draw(st.sampled_from(("float64", "int64")))).reshape(-1) if of.dtype.kind != "U" else of.copy()
        odd = (np.nan, np.inf, 1e300, -1.0, 300.0) if flat.dtype.kind == "f" else (-1, 256, 2**31, 2**62, 7)
        flat[draw(st.integers(0, len(flat) - 1))] = draw(st.sampled_from(odd)) if flat.dtype.kind != "U" else "nobody"
        arrays[name] = flat.reshape(of.shape)
    elif what == "empty":
        arrays[name] = np.zeros(draw(st.sampled_from(((0,), (0, 8, 8), (60, 0), (60, 0, 8), (60, 8, 8, 0)))), of.dtype)
    elif what == "scalar":
        arrays[name] = np.array(draw(st.sampled_from((3, 0.5, "x"))))
    elif what == "objects":
        arrays[name] = np.array([{}, []] * 30, dtype=object)
    elif what == "more":
        other = draw(st.sampled_from(("classes", "client_train", "client_test", "public", "data", "overlapping", "clients")))
        arrays[other] = draw(st.sampled_from((np.arange(3), np.zeros((2, 2)), np.array(["a", "", "b"]), np.array("x"), of)))
    elif what == "nested":
        return _zipped({f"{key}.npy": material.npz_of({"x": item}) for key, item in arrays.items()})
    if what != "header":
        return material.npz_of(arrays)
    members = {}
    for key, entry in arrays.items():
        file = io.BytesIO()
        np.save(file, entry)
        members[f"{key}.npy"] = file.getvalue()
    old, new = draw(
        st.sampled_from(((b"(", b"(99999999, "), (b"(60", b"(61"), (b"'descr'", b"'dexcr'"), (b"|u1", b"|O8"), (b"{", b"[")))
    )
    members[f"{name}.npy"] = members[f"{name}.npy"].replace(old, new, 1)
    return _zipped(members)


def _zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@st.composite
def of_tree(draw, tree: Any, values: tuple = VALUES) -> Any:
    """A tree of JSON or TOML with a node replaced, left out or added."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(tree)))
        match draw(st.integers(0, 5)):
            case 0:
                return {name: item for name, item in tree.items() if name != key}
            case 1:
                return {
                    **tree,
                    draw(st.sampled_from(("x", "", "lr", "algorithm", "dataset", "preset"))): draw(st.sampled_from(values)),
                }
            case _:
                return {**tree, key: draw(of_tree(tree[key], values))}
    if isinstance(tree, list) and tree and draw(st.booleans()):
        i = draw(st.integers(0, len(tree) - 1))
        return [*tree[:i], draw(of_tree(tree[i], values)), *tree[i + 1 :]]
    return draw(st.sampled_from(values))


def _json(tree: Any) -> st.SearchStrategy:
    return of_tree(tree).map(lambda result: json.dumps(result).encode())


def _tensors(tree: Any) -> st.SearchStrategy:
    def saved(result: Any) -> bytes:
        file = io.BytesIO()
        torch.save(result, file)
        return file.getvalue()

    odd = (*VALUES, torch.zeros(3), torch.full((2, 2), torch.nan), torch.zeros(0), torch.zeros((), dtype=torch.bool))
    return of_tree(tree, odd).map(saved)


def _toml(tree: Any) -> st.SearchStrategy:
    plain = tuple(value for value in VALUES if value is not None and value != 10**25)
    changed = of_tree(tree, plain).map(
        lambda result: (tomli_w.dumps(result) if isinstance(result, dict) else repr(result)).encode()
    )
    return changed | of_lines(tomli_w.dumps(tree), " ")


# --- the files, and the commands that read them ------------------------------------------------------------------------

RUN = ("--rounds", "1", "--batch_size", "16", "--model", "MLP", "--jobs", "1", "--workers", "1")


def _cases() -> dict[str, tuple[str, st.SearchStrategy, str]]:
    """{what: (the file, what comes in its place, the command)}"""
    held, split_arrays = material.arrays(), dict(np.load(io.BytesIO(material.common()["split.npz"])))
    people = dict(np.load(io.BytesIO(material.common()["people/b.npz"])))

    def also(path: str, *others) -> st.SearchStrategy:
        """As it is spoiled by its own means, now and then by its bytes."""
        return st.one_of(*others, *others, of_bytes(material.common()[path]))

    return {
        "arrays": ("mine.npz", also("mine.npz", of_arrays(held)), "fedavg --dataset mine.npz"),
        "table": ("table.csv", also("table.csv", of_lines(material.table())), "fedprox --dataset table.csv"),
        "people": (
            "people.csv",
            also("people.csv", of_lines(material.table(True))),
            "fedavg --dataset people.csv --partition silos --n_clients 3",
        ),
        "leaf": ("leaf.json", also("leaf.json", _json(material.leaf())), "fedavg --dataset leaf.json"),
        "pictures": ("pets/train/x/1.png", of_bytes(material.picture()), "fedavg --dataset pets"),
        "split": (
            "split.npz",
            also("split.npz", of_arrays(split_arrays)),
            "fedavg --dataset mine.npz --partition_file split.npz",
        ),
        "split by hand": (
            "split.csv",
            also("split.csv", of_lines(material.split())),
            "fedavg --dataset mine.npz --partition_file split.csv",
        ),
        "graph": (
            "edges.txt",
            also("edges.txt", of_lines("0 1\n1 2\n2 0\n", " ")),
            "dpsgd --dataset mine.npz --n_clients 3 --partition iid --topology file --topology_file edges.txt",
        ),
        "study": ("study.toml", _toml(material.study()), "--study study.toml --jobs 1"),
        "public": (
            "public.npz",
            of_arrays(held),
            "fedmd --dataset mine.npz --public_dataset public.npz --public_share 0.2 --pretrain_epochs 1",
        ),
        "start": ("start/weights.pt", None, "fedavg --dataset mine.npz --n_clients 3 --init_from start"),
        "start's config": ("start/config.json", None, "fedavg --dataset mine.npz --n_clients 3 --init_from start"),
        "flags": ("config.json", also("config.json", _json(material.config())), "--config_file config.json --jobs 1"),
        "clients": ("people/b.npz", also("people/b.npz", of_arrays(people)), "fedavg --clients people"),
        "clients of a table": ("people.csv", of_lines(material.table(True)), "fedavg --clients people.csv"),
    }


def signed(done: str, name: str, content: bytes) -> str:
    """What a run's `done` says, with the digest that a file has now."""
    digest = hashlib.sha256(content).hexdigest()
    return "".join(f"{digest}  {name}\n" if line.split()[-1] == name else f"{line}\n" for line in done.splitlines())


# what is read while the command is parsed is refused there
PARSED = ("flags", "clients", "clients of a table")


@st.composite
def spoiled(draw, started: Callable[[], dict[str, bytes]], parsed: bool = False) -> Command:
    """A command and the one file that it reads, spoiled. `started`: what returns {path: content} of a finished run, in a
    folder "start"."""
    start = started()
    cases = _cases()
    what = draw(st.sampled_from([name for name in cases if (name in PARSED) is parsed]))
    path, content, command = cases[what]
    if content is None:
        whole = start[path]
        other = _json(json.loads(whole)) if path.endswith(".json") else _tensors(torch.load(io.BytesIO(whole)))
        content = st.one_of(of_bytes(whole), other, other)
    files = {**(start if path.startswith("start/") else {}), path: draw(content)}
    if path in start and draw(st.booleans()):  # and whoever changed it knows of digests
        files["start/done"] = signed(files["start/done"].decode(), path.partition("/")[2], files[path]).encode()
    words = command.split()
    run = () if "study" in what or what == "flags" else RUN
    return Command((*words, *run), files)
