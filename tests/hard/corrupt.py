"""Every file of a run's folder damaged: what is read is what was written, or refused in one line; and the same command again
ends in the right bits.

A file is truncated at a random place, has bits flipped, is emptied, removed, replaced by a folder, or by the same file of
another run: of a finished run, whose readers are asked for all that they tell; of one that was killed, which goes on from
the checkpoint before the newest, or begins anew; and of a finished run from which a longer one would go on.
"""

import io
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np

import saves
from errors import UserError
from figures import report, status, table
from tests.hard import Outcome, methods
from tests.hard.forks import Forks, Plan

TIMES = 3  # of each damage that is drawn
CASES = ("cfkd", "data_exchange")  # of which one draws, in the end, from its checkpoint
FLAGS = {"validation": 0.1, "jobs": 1}
REMOVED = "removed"

# --- damages: a file and what is drawn -> in words, what was done to it --------------------------------------------------


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
    return [*drawn, emptied, removed, a_folder, *others]


# --- what is read ------------------------------------------------------------------------------------------------------


def said_by(main: Callable, *words: str) -> str:
    """What a command says on its standard output; a UserError of the last line where it refuses."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([*words])
        except SystemExit as exit:
            if exit.code:
                raise UserError(err.getvalue().strip().splitlines()[-1]) from None
    return out.getvalue()


def told_of(run: saves.Run) -> dict:
    """Its summary, wherever it lies."""
    return {**run.summary(), "folder": run.folder.name}


def page_of(folder: Path, page: Path) -> str:
    """The report of a run."""
    said_by(report.main, str(folder), "-o", str(page))
    return page.read_text()


def as_bytes(tree) -> object:
    """Tensors and arrays in a tree as their bytes, so that == compares them."""
    if isinstance(tree, dict):
        return {key: as_bytes(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_bytes(value) for value in tree]
    if hasattr(tree, "numpy"):
        tree = tree.numpy()
    return (str(tree.dtype), tree.shape, tree.tobytes()) if isinstance(tree, np.ndarray) else tree


READERS: dict[str, Callable[[Path, Path], object]] = {
    "config": lambda folder, scratch: saves.load(folder).config,
    "history": lambda folder, scratch: saves.load(folder).history.to_csv(),
    "summary": lambda folder, scratch: told_of(saves.load(folder)),
    "weights": lambda folder, scratch: as_bytes(saves.load(folder).weights()),
    "headline": lambda folder, scratch: saves.load(folder).headline,
    "names": lambda folder, scratch: saves.load(folder).names,
    "split": lambda folder, scratch: as_bytes(saves.load(folder).arrays("split")),
    "confusion": lambda folder, scratch: as_bytes(saves.load(folder).arrays("confusion")),
    "features": lambda folder, scratch: as_bytes(saves.load(folder).arrays("features")),
    "model": lambda folder, scratch: as_bytes(dict(saves.load(folder).model(1).state_dict())),
    "find": lambda folder, scratch: [told_of(run) for run in saves.find(folder.parent)],
    "figures.table": lambda folder, scratch: said_by(table.main, str(folder)),
    "figures.report": lambda folder, scratch: page_of(folder, scratch / "report.html"),
    "figures.status": lambda folder, scratch: {
        name: status.status(folder)[name] for name in ("stands", "round", "global %")
    },
}


def told_by(folder: Path, scratch: Path) -> dict[str, object]:
    """What each reader says of a run; of one that refuses the UserError, and of one that fails any other."""
    found = {}
    for name, read in READERS.items():
        try:
            found[name] = read(folder, scratch)
        except Exception as error:  # whatever it is: that is what is asked here
            found[name] = error
    return found


def wrong(undamaged: dict[str, object], damaged: dict[str, object]) -> list[str]:
    """Where something else is read than what was written, or the refusal is not one line."""
    found = []
    for name, told in damaged.items():
        if isinstance(told, UserError):
            if len(str(told).splitlines()) != 1:
                found.append(f"{name} refuses in other than one line: {str(told)!r}")
        elif isinstance(told, Exception):
            found.append(f"{name} fails with {type(told).__name__}: {str(told)[:200]!r}")
        elif told != undamaged[name] and not (name == "figures.status" and told["stands"] != "done"):
            found.append(f"{name} reads something else")
    return found


# --- all of it ---------------------------------------------------------------------------------------------------------


def tried(seed: int) -> Outcome:
    """Damage everything, at places that are drawn from `seed`."""
    outcome, idle, number = Outcome(), SimpleQueue(), 0
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch, Forks() as one, Forks() as two, ThreadPoolExecutor(2) as both:
        idle.put(one)
        idle.put(two)
        for name in CASES:
            place = Path(scratch) / name
            (words,) = methods.commands([name], **FLAGS)
            whole, other = (_made(one, [*words, "--seed", s], place / f"seed {s}") for s in ("0", "1"))
            killed = _killed(one, [*words, "--seed", "0"], place / "killed")
            killed_other = _killed(one, [*words, "--seed", "1"], place / "killed other")
            (longer,) = methods.commands([name], **FLAGS, rounds=methods.FLAGS["rounds"] + 2)
            long = _made(one, [*longer, "--seed", "0"], place / "longer")
            todo = []
            for kind, folder, twin, command, expected in (
                ("finished", whole.folder, other.folder, words, whole),
                ("killed", killed, killed_other, words, whole),
                ("shorter", whole.folder, other.folder, longer, long),
            ):
                undamaged = told_by(folder, place) if kind == "finished" else {}
                read = saves.checkpoints(folder)[:1]  # by the command that is given again
                if kind == "finished":
                    read = [folder / saves.DONE, *(folder / file for file in saves.digests(folder))]
                for path in sorted(path for path in folder.iterdir() if path.is_file()):
                    for damage in damages(path, twin):
                        number += 1
                        copy = place / str(number) / folder.name
                        shutil.copytree(folder, copy)
                        told = (
                            f"{name}, {kind}: {path.name} {damage(copy / path.name, np.random.default_rng([seed, number]))}"
                        )
                        outcome.count(f"damages of a {kind} run")
                        if kind == "finished":
                            damaged = told_by(copy, place)
                            outcome.failures += [f"{told}: {what}" for what in wrong(undamaged, damaged)]
                            outcome.count("readings", len(damaged))
                            outcome.count("refused in a line", sum(isinstance(one, UserError) for one in damaged.values()))
                        must_be_told = path in read and done != REMOVED
                        todo.append((told, path, [*command, "--seed", "0"], copy, expected, must_be_told))

            def again(told: str, path: Path, words: list[str], copy: Path, *rest) -> list[str]:
                forks = idle.get()
                try:
                    return [f"{told}: {what}" for what in _again(forks, path, words, copy, *rest)]
                finally:
                    idle.put(forks)
                    shutil.rmtree(copy.parent)

            for found in both.map(lambda given: again(*given), todo):
                outcome.failures += found
                outcome.count("commands given again that end in the right bits", not found)
    return outcome


def _plan(words: list[str], folder: Path, **how) -> Plan:
    return Plan([*words, "--quiet", "--export_dir", str(folder)], str(folder), eager=True, **how)


def _made(forks: Forks, words: list[str], folder: Path) -> saves.Run:
    folder.mkdir(parents=True)
    ended = forks.run(_plan(words, folder))
    assert ended.status == 0, ended
    (run,) = methods.runs_in(folder).values()
    return run


def _killed(forks: Forks, words: list[str], folder: Path) -> Path:
    """The folder of a run that was killed with two checkpoints in it."""
    rename = 0
    while True:
        rename += 1
        (folder / str(rename)).mkdir(parents=True)
        ended = forks.run(_plan(words, folder / str(rename), rename=rename))
        assert ended.cut, ended
        (found,) = (path for path in (folder / str(rename)).iterdir() if path.is_dir())
        if len(list(found.glob("checkpoint-*"))) == 2 and saves.saved_round(found) == 3:
            return found


def _again(forks: Forks, path: Path, words: list[str], copy: Path, expected: saves.Run, must_be_told: bool) -> list[str]:
    """What is wrong with the same command again: its end, what it says, and the run that is there then."""
    ended = forks.run(_plan(words, copy.parent))
    lines = ended.said.strip().splitlines()
    found = [f"a traceback: {ended.said[-400:]!r}"] if "Traceback" in ended.said else []
    if (copy / path.name).is_dir() and ended.status:  # which nobody but the user can put right
        return [*found, *([] if path.name in lines[-1] else [f"not told: {lines}"])]
    if ended.status:
        return [*found, f"exit status {ended.status}, {lines[-3:]}"]
    there = methods.runs_in(copy.parent)
    apart = methods.apart(expected, there[expected.folder.name]) if expected.folder.name in there else ["no such run"]
    found += [f"the same command ends in another run: {', '.join(apart)}"] if apart else []
    if must_be_told and not any("is damaged" in line or "has no digests" in line for line in lines):
        found.append(f"nothing is said of it: {lines}")
    return found
