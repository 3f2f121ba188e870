"""Every file of a run's folder damaged: what is read is what was written, or refused in one line; and the same command again
ends in the right bits.

A file is truncated at a random place, has bits flipped, is emptied, removed, replaced by a folder, a pipe, a socket, a link
to a device or to itself, or by the same file of another run. Of a finished run the readers are asked for all that they tell,
each with a time limit; one that was killed goes on from the checkpoint before the newest, or begins anew; and from a
finished run a longer one would go on.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np

import saves
from checks.hard import HangsError, Outcome, in_time, methods
from checks.hard.damages import REMOVED, damages
from checks.hard.forks import Forks, Plan
from errors import UserError
from figures import report, status, table

CASES = ("cfkd", "data_exchange")  # of which one draws, in the end, from its checkpoint
FLAGS = {"validation": 0.1, "jobs": 1}
PATIENCE = 60  # seconds after which a reader counts as one that hangs
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
        name: status.status(folder)[name] for name in ("status", "round", "global %")
    },
}


def told_by(folder: Path, scratch: Path) -> dict[str, object]:
    """What each reader says of a run; of one that refuses the UserError, and of one that fails any other."""
    results = {}
    for name, read in READERS.items():
        try:
            with in_time(PATIENCE):
                results[name] = read(folder, scratch)
        except (Exception, HangsError) as error:  # whatever it is: that is what is asked here
            results[name] = error
    return results


def wrong(undamaged: dict[str, object], damaged: dict[str, object]) -> list[str]:
    """Where something else is read than what was written, or the refusal is not one line."""
    results = []
    for name, result in damaged.items():
        if isinstance(result, UserError):
            if len(str(result).splitlines()) != 1:
                results.append(f"{name} refuses in other than one line: {str(result)!r}")
        elif isinstance(result, BaseException):
            results.append(f"{name} fails with {type(result).__name__}: {str(result)[:200]!r}")
        elif result != undamaged[name] and not is_passed_over(name, result):
            results.append(f"{name} reads something else")
    return results


def is_passed_over(reader: str, values) -> bool:
    """Whether a reader takes the run for one that is not finished, and reads nothing of it."""
    return values == [] if reader == "find" else reader == "figures.status" and values["status"] != "done"


# --- all of it ---------------------------------------------------------------------------------------------------------


@dataclass
class Victim:
    """A run whose files are damaged, `kind` in a word; its folder, and that of another run of the same; the words of the
    command that is given then, and the run that must come of it; which files that reads."""

    kind: str
    folder: Path
    other: Path
    words: list[str]
    expected: saves.Run
    read: list[Path]
    files: list[Path] = field(default_factory=list)  # that are damaged; all of them where none is said


@dataclass
class Damage:
    """What was done, in words, to a copy of a victim's folder; which file, and whether a command must tell of it."""

    description: str
    victim: Victim
    copy: Path
    name: str
    to_be_told: bool


def tried(seed: int) -> Outcome:
    """Damage everything, at places that are drawn from `seed`."""
    outcome, idle = Outcome(), SimpleQueue()
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch, Forks() as item, Forks() as two, ThreadPoolExecutor(2) as both:
        idle.put(item)
        idle.put(two)

        def again(damage: Damage) -> list[str]:
            forks = idle.get()
            try:
                return [f"{damage.description}: {what}" for what in _again(forks, damage)]
            finally:
                idle.put(forks)
                shutil.rmtree(damage.copy.parent)

        for name in CASES:
            for victim in _victims(item, name, Path(scratch) / name):
                done = list(_damaged(victim, np.random.default_rng(seed), Path(scratch) / name / f"damaged {victim.kind}"))
                outcome.count(f"damages of a {victim.kind} run", len(done))
                if victim.kind == "finished":
                    _read(victim, done, Path(scratch), outcome)
                for result in both.map(again, done):
                    outcome.failures += result
                    outcome.count("commands given again that end in the right bits", not result)
    return outcome


def _victims(forks: Forks, name: str, place: Path) -> Iterator[Victim]:
    (words,) = methods.commands([name], **FLAGS)
    (longer,) = methods.commands([name], **FLAGS, rounds=methods.FLAGS["rounds"] + 2)
    words, others, longer = [*words, "--seed", "0"], [*words, "--seed", "1"], [*longer, "--seed", "0"]
    whole, other = (_made(forks, of, place / f"seed {of[-1]}") for of in (words, others))
    yield Victim(
        "finished", whole.folder, other.folder, words, whole, [*map(whole.folder.joinpath, ("done", *whole.digests))]
    )
    killed, other_killed = (_killed(forks, of, place / f"killed {of[-1]}") for of in (words, others))
    yield Victim("killed", killed, other_killed, words, whole, saves.checkpoints(killed)[:1])
    long, read = _made(forks, longer, place / "longer"), saves.checkpoints(whole.folder)
    looked_at = [whole.folder / "done", whole.folder / "config.json", *read]
    yield Victim("shorter", whole.folder, other.folder, longer, long, read, looked_at)


def _damaged(victim: Victim, draw: np.random.Generator, place: Path) -> Iterator[Damage]:
    number = 0
    for path in victim.files or sorted(path for path in victim.folder.iterdir() if path.is_file()):
        for damage in damages(path, victim.other):
            number += 1
            copy = place / str(number) / victim.folder.name
            shutil.copytree(victim.folder, copy)
            done = damage(copy / path.name, draw)
            text = f"{victim.words[0]}, {victim.kind}: {path.name} {done}"
            yield Damage(text, victim, copy, path.name, path in victim.read and done != REMOVED)


def _read(victim: Victim, done: Sequence[Damage], scratch: Path, outcome: Outcome) -> None:
    undamaged = told_by(victim.folder, scratch)
    failed = {name: result for name, result in undamaged.items() if isinstance(result, BaseException)}
    outcome.failures += [f"{victim.words[0]}, whole: {name} fails with {message!r}" for name, message in failed.items()]
    for damage in done:
        actual = told_by(damage.copy, scratch)
        outcome.failures += [f"{damage.description}: {what}" for what in wrong(undamaged, actual)]
        outcome.count("readings of a finished run", len(actual))
        outcome.count("of these refused in a line", sum(isinstance(result, UserError) for result in actual.values()))


def _plan(words: list[str], folder: Path, **flags) -> Plan:
    return Plan([*words, "--quiet", "--export_dir", str(folder)], str(folder), eager=True, **flags)


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
        (result,) = (folder / str(rename)).glob(f"{words[0]}-*")  # temporary files are beside it
        if len(list(result.glob("checkpoint-*"))) == 2 and saves.saved_round(result) == 3:
            return result


def _again(forks: Forks, damage: Damage) -> list[str]:
    """What is wrong with the command: its end, what it says, and the run that is there then."""
    ended = forks.run(_plan(damage.victim.words, damage.copy.parent))
    lines, expected = ended.output.strip().splitlines(), damage.victim.expected
    result = [f"a traceback: {ended.output[-400:]!r}"] if "Traceback" in ended.output else []
    if ended.status and not (damage.copy / damage.name).is_file():  # which nobody but the user can put right
        return result if damage.name in lines[-1] else [*result, f"the message does not name the file: {lines}"]
    if ended.status:
        return [*result, f"exit status {ended.status}, {lines[-3:]}"]
    try:
        apart = methods.apart(expected, saves.load(damage.copy.parent / expected.folder.name))
    except UserError as error:
        apart = [str(error)]
    result += [f"the command ends in another run: {', '.join(apart)}"] if apart else []
    if damage.to_be_told and not any("is damaged" in line or "has no digests" in line for line in lines):
        result.append(f"no message about the damage: {lines}")
    return result
