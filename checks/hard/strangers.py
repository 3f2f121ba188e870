"""Files and names as somebody who means harm would make them. Each is handed to the command that reads it, in a process of
its own that may take so much memory and time; then it is looked whether code has run (a file would be there), whether
anything was written beside the folder of runs, and whether what was said is one line."""

import hashlib
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image

from checks.hard import Outcome

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY, SECONDS = 6 * 2**30, 120  # of address space, of which torch takes two; on the clock
CANARY = "code-has-run"
SMALL = "fedavg --n_clients 2 --rounds 1 --model MLP --threads 1 --quiet --partition iid --force"


class Code:
    """Where it is unpickled, a file is there afterwards."""

    def __init__(self, folder: Path):
        self.path = folder / CANARY

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


# --- archives of arrays ------------------------------------------------------------------------------------------------


def member(array: np.ndarray, **header) -> bytes:
    """An .npy file, whose header may say otherwise."""
    content = io.BytesIO()
    npy.write_array_header_1_0(content, {**npy.header_data_from_array_1_0(array), **header})
    return content.getvalue() + array.tobytes()


def archive(path: Path, members: dict[str, bytes], packed: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file of these."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", packed) as created:
        for name, content in members.items():
            created.writestr(name, content)
    return path


def parts(**changed: bytes) -> dict[str, bytes]:
    """A small data set as the members of an .npz file."""
    x, y = np.arange(12 * 64, dtype=np.uint8).reshape(12, 8, 8), np.arange(12) % 3
    own = {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6]}
    return {f"{name}.npy": content for name, content in ({name: member(a) for name, a in own.items()} | changed).items()}


def objects(folder: Path) -> bytes:
    """An array of objects, one of which is code."""
    content = io.BytesIO()
    np.save(content, np.array([Code(folder)], object), allow_pickle=True)
    return content.getvalue()


def lying(path: Path, output: int = 0xFFFFFFF0) -> None:
    """A small archive that says that it unpacks to four gigabytes."""
    content = bytearray(archive(path, parts()).read_bytes())
    for mark, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = content.find(mark)
        while start >= 0:
            struct.pack_into("<I", content, start + place, output)
            start = content.find(mark, start + 4)
    path.write_bytes(content)


def npz(**changed) -> Callable[[Path], None]:
    """A data set x.npz with some members replaced; a function is given the folder."""
    return lambda tmp: archive(
        tmp / "x.npz", parts(**{name: single(tmp) if callable(single) else single for name, single in changed.items()})
    )


# --- pickles -----------------------------------------------------------------------------------------------------------

CIFAR = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch", "batches.meta")


def cifar(content: Callable[[Path], bytes]) -> Callable[[Path], None]:
    """All files of CIFAR-10 are this one."""

    def make(tmp: Path) -> None:
        (tmp / "cifar-10-batches-py").mkdir()
        for name in CIFAR:
            (tmp / "cifar-10-batches-py" / name).write_bytes(content(tmp))

    return make


def forged(tmp: Path) -> bytes:
    """An array of objects whose pointers are numbers of the file: where numpy itself rebuilds it, the process dies."""
    array = np.zeros(8, np.uint8)
    text = pickle.dumps({b"data": array}, 2)
    return text.replace(b"U\x02u1", b"U\x02O8").replace(b"X\x02\x00\x00\x00u1", b"X\x02\x00\x00\x00O8")


def doubled(tmp: Path) -> bytes:
    """A tuple of a tuple of ..., twice each, as a key: its hash takes 2^60 steps."""
    return b"\x80\x02}(K\x01\x85" + b"q\x00h\x00\x86" * 60 + b"K\x01u."


PICKLES = {
    "that calls": lambda tmp: pickle.dumps({"data": Code(tmp)}),
    "that calls by its oldest words": lambda tmp: f"cos\nsystem\n(S'touch {tmp / CANARY}'\ntR.".encode(),
    "that builds an instance": lambda tmp: f"(S'touch {tmp / CANARY}'\nios\nsystem\n.".encode(),
    "with forged pointers": forged,
    "that changes a stand-in for good": lambda tmp: b"\x80\x02cnumpy\ndtype\n}X\x0c\x00\x00\x00__setstate__K\x01sb.",
    "that remembers at two thousand million": lambda tmp: b"\x80\x02}r\xff\xff\xff\x7f.",
    "that says it is endless": lambda tmp: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "whose key takes for ever": doubled,
    "of a list in itself": lambda tmp: b"\x80\x02}X\x06\x00\x00\x00labels]q\x00h\x00as.",
    "that ends early": lambda tmp: b"\x80\x02}",
    "of nothing that is there": lambda tmp: b"\x80\x02h\x05.",
}

# --- archives of files -------------------------------------------------------------------------------------------------


def tarred(path: str) -> Callable[[Path], None]:
    """A tar archive in the place of a published one, with ways out of its folder."""

    def make(tmp: Path) -> None:
        (tmp / path).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tmp / path, "w:gz") as created:
            for name in ("../escaped", str(tmp / "escaped"), "cifar-10-batches-py/data_batch_1"):
                result = tarfile.TarInfo(name)
                result.size = 4
                created.addfile(result, io.BytesIO(b"evil"))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
                result = tarfile.TarInfo("link")
                result.type, result.linkname = kind, "../.."
                created.addfile(result)

    return make


# --- pictures and tables -----------------------------------------------------------------------------------------------


def pets(change: Callable[[Path], object], name: str = "train/cat/1.png") -> Callable[[Path], None]:
    """A folder of pictures, of which one is made by `change`."""

    def make(tmp: Path) -> None:
        for part in ("train", "test"):
            for kind in ("cat", "dog"):
                (tmp / "pets" / part / kind).mkdir(parents=True)
                for i in range(3):
                    Image.new("RGB", (8, 8), (40 * i, 9, 200)).save(tmp / "pets" / part / kind / f"{i}.png")
        (tmp / "pets" / name).unlink(missing_ok=True)
        change(tmp / "pets" / name)

    return make


def png(width: int, height: int) -> bytes:
    """The beginning of a picture that says how large it is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


POSTSCRIPT = (
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touched) (w) file closefile\nshowpage\n%%EOF\n"
)


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    """A file of this, as it is."""
    encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda tmp: (tmp / name).write_bytes(encoded)


def leaf(x, y) -> Callable[[Path], object]:
    """LEAF's JSON of one user."""
    return text("l.json", json.dumps({"users": ["u"], "user_data": {"u": {"x": x, "y": y}}}))


# --- the attacks -------------------------------------------------------------------------------------------------------

# what is made in {tmp}, the words behind run.py, words of the line that refuses
ATTACKS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "arrays of code": (npz(x_train=objects), "--dataset {tmp}/x.npz", "x_train holds objects"),
    "names of code": (npz(classes=objects), "--dataset {tmp}/x.npz", "classes holds objects"),
    "a pickle called .npz": (lambda tmp: (tmp / "x.npz").write_bytes(pickle.dumps(Code(tmp))), "--dataset {tmp}/x.npz", ""),
    "an archive that says four gigabytes": (lambda tmp: lying(tmp / "x.npz"), "--dataset {tmp}/x.npz", "200 times its size"),
    "a header that says a terabyte": (
        npz(x_train=member(np.zeros(4, np.uint8), shape=(10**12,))),
        "--dataset {tmp}/x.npz",
        "x_train declares uint8 [1000000000000]",
    ),
    "letters that there are not": (
        npz(classes=member(np.full(3, 0x7FFFFFFF, "<u4"), descr="<U1")),
        "--dataset {tmp}/x.npz",
        "invalid characters",
    ),
    "a class of a million letters": (
        npz(classes=member(np.array(["a" * 10**6, "b", "c"]))),
        "--dataset {tmp}/x.npz",
        "a name of 1000000 characters",
    ),
    **{
        f"a pickle {what}": (cifar(content), "--dataset CIFAR10 --data_dir {tmp} --unverified_data", "--dataset CIFAR10: ")
        for what, content in PICKLES.items()
    },
    "an archive with ways out": (
        tarred("cifar-10-python.tar.gz"),
        "--dataset CIFAR10 --data_dir {tmp} --unverified_data",
        "does not have its published checksum",
    ),
    "another with ways out": (
        tarred("CINIC-10.tar.gz"),
        "--dataset CINIC10 --data_dir {tmp} --unverified_data",
        "does not have its published checksum",
    ),
    "a program for a picture": (pets(lambda p: p.write_text(POSTSCRIPT)), "--dataset {tmp}/pets", "train/cat/1.png"),
    "a picture of 400 million pixels": (
        pets(lambda p: p.write_bytes(png(20_000, 20_000))),
        "--dataset {tmp}/pets",
        "train/cat/1.png cannot be read as an image",
    ),
    "a picture of 81 million pixels": (
        pets(lambda p: p.write_bytes(png(9_000, 9_000))),
        "--dataset {tmp}/pets --image_size 8",
        "9000x9000; must have at most 67,108,864 pixels",
    ),
    "a GIF of four thousand million": (
        pets(
            lambda p: p.write_bytes(b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x01\x00;")
        ),
        "--dataset {tmp}/pets",
        "train/cat/1.png",
    ),
    "a pipe for a picture": (pets(os.mkfifo), "--dataset {tmp}/pets", "a pipe or a device; must be a file"),
    "a device for a picture": (pets(lambda p: p.symlink_to("/dev/zero")), "--dataset {tmp}/pets", "a pipe or a device"),
    "a picture that leads to itself": (pets(lambda p: p.symlink_to(p)), "--dataset {tmp}/pets", "train/cat/1.png"),
    "a table with zero bytes": (text("t.csv", b"a,b,y\n1,\x00\x00,u\n3,4,v\n"), "--dataset {tmp}/t.csv", "t.csv"),
    "a table with a huge cell": (
        text("t.csv", "a,b,y\n1,2,u\n3,4," + "v" * 10**7 + "\n"),
        "--dataset {tmp}/t.csv",
        "field larger than field limit",
    ),
    "a table of many columns": (
        text("t.csv", ",".join(f"c{i}" for i in range(110_000)) + "\n"),
        "--dataset {tmp}/t.csv",
        "110000 columns, more than the limit of 20000",
    ),
    "a table that is no text": (text("t.csv", b"a,b,y\n1,2,\xff\xfe\n"), "--dataset {tmp}/t.csv", "t.csv"),
    "a pipe for a table": (lambda tmp: os.mkfifo(tmp / "t.csv"), "--dataset {tmp}/t.csv", "a pipe or a device"),
    "a tree of 100,000 brackets": (text("l.json", "[" * 10**5 + "]" * 10**5), "--dataset {tmp}/l.json", "nested too deeply"),
    "text among numbers": (
        leaf([["a" * 10**5, *[1] * 10**5]], [0]),
        "--dataset {tmp}/l.json",
        "holds a str; must be numbers",
    ),
    "a label of a million letters": (leaf([[1]] * 9, ["a" * 10**6, *"bcdefghi"]), "--dataset {tmp}/l.json", "1000000"),
    "a split of code": (
        lambda tmp: archive(tmp / "s.npz", {"train.npy": objects(tmp)}),
        "--partition_file {tmp}/s.npz",
        "train holds objects",
    ),
    "a split that says four gigabytes": (lambda tmp: lying(tmp / "s.npz"), "--partition_file {tmp}/s.npz", "200 times"),
    "a split that is a device": (lambda tmp: None, "--partition_file /dev/zero", "a pipe or a device"),
    "a graph that is a device": (
        lambda tmp: None,
        "dpsgd --dataset digits --topology file --topology_file /dev/zero",
        "/dev/zero: cannot be read (a pipe or a device",
    ),
    "a config of 3,000 brackets": (
        text("c.json", "[" * 3000 + "]" * 3000),
        "--config_file {tmp}/c.json",
        "nested too deeply",
    ),
    "a config of 3,000 brackets in a flag": (
        text("c.json", '{"lr": ' + "[" * 3000 + "]" * 3000 + "}"),
        "--config_file {tmp}/c.json",
        "nested too deeply",
    ),
    "a config that is a pipe": (lambda tmp: os.mkfifo(tmp / "c.json"), "--config_file {tmp}/c.json", "a pipe or a device"),
    "a config whose algorithm is a path": (
        text("c.json", '{"algorithm": "../../../tmp/evil.py"}'),
        "--config_file {tmp}/c.json",
        "algorithm ../../../tmp/evil.py: must be one of",
    ),
    "a config with a line in its name": (
        text("c.json", '{"algorithm": "fed\\nrun.py: all is well\\u001b[2J"}'),
        "--config_file {tmp}/c.json",
        r"algorithm fed\nrun.py: all is well\x1b[2J",
    ),
    "a study of a thousand million runs": (
        text("s.toml", "[fedavg]\n" + "".join(f"{f} = {list(range(1, 1001))}\n" for f in ("lr", "rounds", "batch_size"))),
        "--study {tmp}/s.toml",
        "1,000,000,000 runs, more than the limit of 10,000 per command",
    ),
    "a study called by dots": (text("...toml", "[fedavg]\n"), "--study {tmp}/...toml", "has only dots as its name"),
    "a study of many dots": (text("s.toml", "a." * 50_000 + "b = 1"), "--study {tmp}/s.toml", "more than 1000 dots"),
    "a study of 3,000 brackets": (
        text("s.toml", "a = " + "[" * 3000 + "]" * 3000),
        "--study {tmp}/s.toml",
        "nested too deeply",
    ),
    "a study of code": (text("s.toml", "[fedavg]\nlr = \"__import__('os').abort()\"\n"), "--study {tmp}/s.toml", "--lr"),
    "a grid of a million million runs": (
        lambda tmp: None,
        " ".join(f"--{f} {' '.join(map(str, range(1, 1001)))}" for f in ("seed", "rounds", "batch_size", "split_seed")),
        "1,000,000,000,000 runs, more than the limit of 10,000 per command",
    ),
}

# --- a finished run, changed -------------------------------------------------------------------------------------------


def sealed(folder: Path) -> None:
    """`done` with the digests of what is there now: whoever changes a file can do that too."""
    texts = [line.split(None, 1)[1].lstrip("*") for line in (folder / "done").read_text().splitlines() if line.strip()]
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in texts]
    (folder / "done").write_text("".join(lines))


def _tensors(path: Path, tmp: Path) -> None:
    """A file of torch's whose pickle is code."""
    torch.save({"global": Code(tmp)}, path)


def _forged_storage(path: Path, tmp: Path) -> None:
    """A file of torch's whose tensor is larger than what is stored of it."""
    torch.save({"global": {"w": torch.zeros(4)}}, path)
    with zipfile.ZipFile(path) as old:
        members = {item.filename: old.read(item) for item in old.infolist()}
    result = next(name for name in members if name.endswith("data.pkl"))
    members[result] = members[result].replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")  # its shape
    archive(path, members, zipfile.ZIP_STORED)


def _config(change: Callable[[dict], object]) -> Callable[[Path, Path], None]:
    def make(path: Path, tmp: Path) -> None:
        held = json.loads(path.read_text())
        change(held)
        path.write_text(json.dumps(held))

    return make


# the file of the run's folder, and what is made of it; {path, folder in which the canary is}
OF_RUNS: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "a history of code": ("history.npz", lambda path, tmp: archive(path, {"round.npy": objects(tmp)})),
    "a history that says four gigabytes": ("history.npz", lambda path, tmp: lying(path)),
    "a history of text": ("history.npz", lambda path, tmp: archive(path, {"round.npy": member(np.array(["a", "b"]))})),
    "a pickle that calls": ("history.pkl", lambda path, tmp: path.write_bytes(pickle.dumps(Code(tmp)))),
    "weights that call": ("weights.pt", _tensors),
    "weights with forged storage": ("weights.pt", _forged_storage),
    "a split of code": ("split.npz", lambda path, tmp: archive(path, {"table.npy": objects(tmp)})),
    "a config of 3,000 brackets": ("config.json", lambda path, tmp: path.write_text("[" * 3000 + "]" * 3000)),
    "a config of 3,000 brackets in an option": (
        "config.json",
        lambda path, tmp: path.write_text('{"options": {"lr": ' + "[" * 3000 + "]" * 3000 + "}}"),
    ),
    "a config of nothing": ("config.json", lambda path, tmp: path.write_text("null")),
    "an algorithm that is a path": ("config.json", _config(lambda c: c["options"].update(algorithm="../../evil"))),
    "an algorithm that is a list": ("config.json", _config(lambda c: c["options"].update(algorithm=["fedavg"]))),
    "rounds that are text": ("config.json", _config(lambda c: c["options"].update(rounds="many"))),
    "clients that are a dict": ("config.json", _config(lambda c: c["options"].update(n_clients={"a": 1}))),
    "a name of control characters": ("config.json", _config(lambda c: c["options"].update(dataset="\x1b[2J\n=1+1<script>"))),
}
READERS = {  # the words behind python, for a run's folder
    "table": "-m figures.table {run}",
    "report": "-m figures.report {run} -o {tmp}/saves/page.html",
    "config_file": "run.py --config_file {run}/config.json --plan --export_dir {tmp}/saves",
    "init_from": f"run.py {SMALL} --init_from {{run}} --export_dir {{tmp}}/saves",
    "status": "-m figures.status {run}/..",
    "the same command": f"run.py {SMALL.replace(' --force', '')} --dataset digits --export_dir {{tmp}}/saves",
}


@dataclass(frozen=True)
class Seen:
    """What came of a command: exit status (None where its time was over), what it said, and what it must not have done."""

    status: int | None
    output: str
    ran: bool
    written: list[str]


def watched(words: list[str], tmp: Path) -> Seen:
    """A command in a process of its own, with limits; `tmp` is the folder in which everything lies, and of which only
    saves/ may change."""
    before = _everything(tmp)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    status, result = None, "its time was over"
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            preexec_fn=limited,
            stdin=subprocess.DEVNULL,
        )
        status, result = done.returncode, (done.stderr if done.returncode else done.stdout).decode(errors="replace")
    after = _everything(tmp)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return Seen(status, result, (tmp / CANARY).exists(), [name for name in changed if name != CANARY])


def _everything(tmp: Path) -> dict[str, tuple]:
    """{path: what it is} of all in a folder and beside it, but for saves/."""
    results = {}
    for path in sorted([*tmp.rglob("*"), *tmp.parent.iterdir()]):
        name = os.path.relpath(path, tmp)
        if not name.startswith("saves"):
            result = path.lstat()
            results[name] = (result.st_mode, result.st_size, result.st_mtime_ns if path.is_file() else 0)
    return results


def refused(recorded: Seen) -> str:
    """What is wrong with how an attack was refused; "" where it was, in one line."""
    lines = recorded.output.strip().split("\n")
    if recorded.status != 2 or len(lines) != 1 or "Traceback" in recorded.output:
        return f"exit status {recorded.status}, {len(lines)} lines: {lines[-1][-300:]}"
    return "" if all(c.isprintable() or c in " \n" for c in recorded.output) else "what it said is not inert"


def _counted(outcome: Outcome, name: str, recorded: Seen, complaint: str, message: str = "") -> None:
    outcome.count("attacks tried")
    outcome.count("refused in one line", int(recorded.status == 2 and not complaint))
    outcome.count("code run", int(recorded.ran))
    outcome.count("written outside the folder of runs", len(recorded.written))
    if message and message not in recorded.output:
        complaint = complaint or f"its line lacks {message!r}: {recorded.output.strip()[-300:]}"
    for wrong in (
        complaint,
        "code has run" * recorded.ran,
        f"wrote {', '.join(recorded.written)}" if recorded.written else "",
    ):
        if wrong:
            outcome.failures.append(f"{name}: {wrong}")


def tried(seed: int) -> Outcome:
    """All attacks; nothing in them is drawn. What takes a second of each is tests/test_strangers.py."""
    outcome = Outcome(
        dict.fromkeys(("attacks tried", "refused in one line", "code run", "written outside the folder of runs"), 0)
    )
    for name, (make, words, result) in ATTACKS.items():
        with tempfile.TemporaryDirectory() as beside:
            tmp = Path(beside) / "own"
            (tmp / "saves").mkdir(parents=True)
            make(tmp)
            inputs = f"{words} --export_dir {{tmp}}/saves --n_clients 2".format(tmp=tmp).split()
            inputs = inputs[:-2] if "--study" in inputs or "--config_file" in inputs else inputs
            recorded = watched(["run.py", *inputs], tmp)
            _counted(outcome, name, recorded, refused(recorded), result)
    with tempfile.TemporaryDirectory() as beside:
        on_runs(outcome, Path(beside) / "own")
    return outcome


def on_runs(outcome: Outcome, tmp: Path) -> None:
    """Attacks on the folder of a finished run, by all that read such."""
    (tmp / "saves").mkdir(parents=True)
    created = watched(["run.py", *SMALL.split(), "--dataset", "digits", "--export_dir", f"{tmp}/saves"], tmp)
    run = next(path.parent for path in (tmp / "saves").glob("*/done")) if created.status == 0 else None
    if run is None:
        outcome.failures.append(f"no run to attack: {created.output[-300:]}")
        return
    whole = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for name, (file, spoil) in OF_RUNS.items():
        if file not in whole:
            outcome.failures.append(f"{name}: a run has no {file}")
            continue
        for reader, words in READERS.items():
            for path, content in whole.items():
                (run / path).write_bytes(content)
            spoil(run / file, tmp)
            sealed(run)
            recorded = watched(words.format(run=run, tmp=tmp).split(), tmp)
            # what a reader does not read does not disturb it
            complaint = (
                "" if recorded.status == 0 and "Traceback" not in recorded.output else refused(recorded) and _lines(recorded)
            )
            _counted(outcome, f"{name}, {reader}", recorded, complaint)


def _lines(recorded: Seen) -> str:
    """What is wrong with how a command of figures/ refused: its usage stands before the line."""
    last = recorded.output.strip().split("\n")[-1]
    proper = recorded.status == 2 and "Traceback" not in recorded.output and "error:" in last
    return "" if proper else f"exit status {recorded.status}: {last[-300:]}"
