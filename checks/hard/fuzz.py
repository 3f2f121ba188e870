"""Commands and files that nobody would write: whatever they are, there is an exit status, and a line that says why.

Half of the commands are valid by construction (`commands.valid`), the others are mistyped (`commands.wrong`) or read a file
that is damaged (`spoiled`). Each is carried out in this process, in a folder of its own, and held to what is promised:

- it ends, in time, with 0, 1 or 2, and nothing that it prints is a traceback;
- 2 is a refusal: one line, and no file or folder more or less than before;
- 1 is a run that failed, and only because its numbers diverged or all its clients failed;
- a valid command ends with 0, and its runs are finished;
- a study, of which some are drawn too (`studies`), counts no run twice.

What breaks a promise is made as small as it can be, and told as a command line.
"""

import contextlib
import dataclasses
import faulthandler
import io
import json
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import commandline
import run
import saves
from checks.hard import HangsError, Outcome, in_time, material, studies
from checks.hard.commands import Command, extreme, impossible, odd, valid, wrong
from checks.hard.spoiled import spoiled
from commandline import plan, study, tuning
from figures import split
from launch import single

N = 2000
STAGES = ("parser", "data", "run")
PATIENCE = 120  # seconds after which an input counts as one that hangs
AT_ONCE = 50  # inputs of which one that fails ends the rest
ALLOWED = ("later rounds would be meaningless", "of its fine-tuning; a smaller", "all clients failed")


@dataclasses.dataclass
class Told:
    """What came of a command: how far it got, what it said, and which runs it was to make."""

    stage: str = "parser"
    status: int = 0
    out: str = ""
    err: str = ""
    experiments: list = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)
    launched: list[list[str]] = dataclasses.field(default_factory=list)  # each time the names of the runs


def carried_out(words: tuple[str, ...], largest: float = 8) -> Told:
    """What comes of a command in the folder where this process is; runs of more than `largest` rounds times epochs in all
    are not begun."""
    captured = Told()

    def noting(function: Callable, note: Callable) -> Callable:
        def noted(*args, **named):
            result = function(*args, **named)
            note(result)
            return result

        return noted

    def launching(function: Callable) -> Callable:
        def launched(experiments, *args, **named):
            captured.stage = "run"
            captured.launched.append([str(run_experiment.folder) for run_experiment in experiments])
            if (
                sum(run_experiment.options.rounds * run_experiment.options.epoch_per_round for run_experiment in experiments)
                > largest
            ):
                return iter(())
            return function(experiments, *args, **named)

        return launched

    def at(stage: str, function: Callable) -> Callable:
        def reached(*args, **named):
            captured.stage = stage
            return function(*args, **named)

        return reached

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", flags) for flags in ("strict", "backslashreplace"))
    with contextlib.ExitStack() as stack:
        for item in (_logging_as_before(), in_time(PATIENCE), warnings.catch_warnings()):
            stack.enter_context(item)
        for owner, name, wrapped in (
            (commandline, "parse", noting(commandline.parse, lambda _: setattr(captured, "stage", "data"))),
            (run, "_prepared", noting(run._prepared, captured.experiments.append)),
            (run, "launch", launching(run.launch)),
            (tuning, "launch", launching(tuning.launch)),
            (plan, "tell_all", at("run", plan.tell_all)),
            (split, "show", at("run", split.show)),
            (study, "save", at("run", study.save)),
            (single, "failed", noting(single.failed, lambda failure: captured.failed.append(failure.reason))),
            (socket, "create_connection", mock.Mock(side_effect=OSError("no network"))),
            (sys, "stdout", out),
            (sys, "stderr", err),
        ):
            stack.enter_context(mock.patch.object(owner, name, wrapped))
        try:
            captured.status = run.main(list(words))
        except SystemExit as left:  # of -h
            captured.status = left.code or 0
            captured.stage = "parser"
        if captured.status > 128:  # a signal that was meant for this process
            raise KeyboardInterrupt
        out.flush()
        err.flush()
        captured.out, captured.err = (stream.buffer.getvalue().decode() for stream in (out, err))
    return captured


@contextlib.contextmanager
def _logging_as_before() -> Iterator[None]:
    """`run.main` sets logging up for a process of its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)


def held_to(command: Command, folder: Path, largest: float = 8) -> str:
    """Carry a command out in an empty folder, and hold it to what is promised -> the stage that it reached. Raises
    AssertionError for a broken promise, and whatever comes out of it. Runs that are larger are not begun."""
    for path, content in {**material.common(), **command.files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    before, back = _tree(folder), Path.cwd()
    os.chdir(folder)
    try:
        captured = carried_out(command.words, largest)
    finally:
        os.chdir(back)
    both = captured.out + captured.err
    assert "Traceback (most recent call last)" not in both, both
    assert captured.status in (0, 1, 2), captured.status
    if captured.status == 2:
        lines = [line for line in captured.err.splitlines() if not line.startswith(tuple(run.algorithms.ALGORITHMS))]
        assert len(lines) == 1, f"a refusal of {len(lines)} lines: {captured.err}"
        assert re.match("run.py: .", lines[0]), captured.err
        assert not re.search(r"\b[A-Z]\w+(Error|Exception): ", lines[0]), lines[0]
        assert _tree(folder) == before, f"a refused command left {sorted(_tree(folder).items() ^ before.items())}"
    if captured.status == 1:
        reasons = captured.failed or [captured.err]
        assert all(any(words in reason for words in ALLOWED) for reason in reasons), reasons
    if captured.status == 0:
        assert captured.err == "" or "run.py:" not in captured.err, captured.err
        _whole_json(captured, command)
    if "--study" in command.words:
        twice = [name for names in captured.launched for name in names if names.count(name) > 1]
        assert not twice, f"a run is counted twice: {twice[0]}"
    if command.finishes:
        assert captured.status == 0 or all("all clients failed" in reason for reason in captured.failed or ["?"]), (
            captured.err
        )
        assert captured.stage == "run"
        if not {"--plan", "--show_split"} & set(command.words):
            assert all(
                saves.finished(folder / run_experiment.folder)
                for run_experiment in captured.experiments
                if not captured.failed
            )
    return captured.stage


def _whole_json(captured: Told, command: Command) -> None:
    """With --json every line on standard output is an object, and there is one a run."""
    if "--json" in command.words and not {"-h", "--help", "--show_split"} & set(command.words) and captured.stage == "run":

        def refused(name: str) -> None:
            raise AssertionError(f"{name} is no JSON")

        for line in captured.out.splitlines():
            json.loads(line, parse_constant=refused)


def _tree(folder: Path) -> dict[str, int]:
    """What there is in a folder."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


KEPT = ("", ".json", ".npz", ".pt")  # of a run what is read again


@cache
def start() -> dict[str, bytes]:
    """{path: content} of a finished run of three clients, in a folder "start"."""
    with tempfile.TemporaryDirectory() as place:
        words = "fedavg --dataset mine.npz --n_clients 3 --rounds 1 --batch_size 16 --model MLP --jobs 1 --workers 1"
        assert held_to(Command(tuple(words.split()), finishes=True), Path(place)) == "run"
        (created,) = (Path(place) / "saves").iterdir()
        return {f"start/{path.name}": path.read_bytes() for path in created.iterdir() if path.suffix in KEPT}


KINDS: dict[str, Callable[[], st.SearchStrategy]] = {
    "valid": valid,
    "at the bounds": extreme,
    "mistyped": wrong,
    "impossible": impossible,
    "of a damaged file that is parsed": lambda: spoiled(start, parsed=True),
    "of a damaged file": lambda: spoiled(start),
    "of a drawn study": studies.drawn,
}
MIX = {
    **{"valid": 0.47, "at the bounds": 0.03, "mistyped": 0.2, "impossible": 0.1},
    **{"of a damaged file that is parsed": 0.05, "of a damaged file": 0.15, "of a drawn study": 0.1},
}


def some(kind: str, n: int, seeded: int, place: Path, small: bool = True) -> tuple[Counter, list[str]]:
    """n inputs of a kind -> (how many reached each stage, what failed: a line each, made `small`, which takes minutes)."""
    reached, last, number = Counter(), [], iter(range(10**9))

    @seed(seeded)
    @settings(
        max_examples=n,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if small else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(KINDS[kind]())
    def tried_one(command):
        folder = place / f"{kind.replace(' ', '_')}-{seeded}-{next(number)}"
        folder.mkdir()
        if last:
            shutil.rmtree(last[1], ignore_errors=True)  # of what failed the smallest is left, which comes last
        last[:] = [command, folder]
        reached[held_to(command, folder)] += 1
        shutil.rmtree(folder)

    try:
        tried_one()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # one that hangs is none of Exception
        if not last:
            raise
        return reached, [_failure(error, *last)]
    return reached, []


def _failure(error: BaseException, command: Command, folder: Path) -> str:
    why = " ".join(str(error).split())[:600]
    return f"{type(error).__name__} {why} | cd {folder}; python run.py {shlex.join(command.words)}"


def every_flag_with_odd_words(place: Path, one_of: int = 1) -> tuple[int, list[str]]:
    """How many such commands there are, of which one of so many is taken, and what failed; no run is begun."""
    commands, failures = odd()[::one_of], []
    for number, command in enumerate(commands):
        folder = place / f"odd-{number}"
        folder.mkdir()
        try:
            held_to(command, folder, largest=-1)
        except (Exception, HangsError) as error:
            failures.append(_failure(error, command, folder))
        else:
            shutil.rmtree(folder)
    return len(commands), failures


def tried(seeded: int, n: int = N, small: bool = True) -> Outcome:
    """n inputs, and then as many more that are wrong as it takes until each stage has been reached by a quarter of all; what
    fails is made `small`."""
    outcome, reached, place = Outcome(), Counter(), Path(tempfile.mkdtemp(prefix="chorus-fuzz-"))
    torch.set_num_threads(1)
    faulthandler.enable()

    def more(kind: str, expected: int, chunk: int) -> None:
        result, failures = some(kind, expected, 100_000 * seeded + chunk, place, small)
        reached.update(result)
        outcome.count(f"{kind}", sum(result.values()))
        outcome.failures += [f"{kind}: {line}" for line in failures]

    for kind, share in MIX.items():
        required = round(share * n)
        for chunk, first in enumerate(range(0, required, AT_ONCE)):
            more(kind, min(AT_ONCE, required - first), chunk)
    for chunk in range(1000, 1000 + n // 10):
        few = [stage for stage in STAGES if reached[stage] * 4 < reached.total()]
        if not few:
            break
        more({"parser": "mistyped", "data": "impossible", "run": "valid"}[few[0]], 10, chunk)
    odd_ones, failures = every_flag_with_odd_words(place, 1 if n >= N else 19)  # a prime: each flag, each word
    outcome.failures += failures
    outcome.figures = {
        "a flag with an odd word": odd_ones,
        "inputs": reached.total(),
        **outcome.figures,
        **{f"reached {stage}": reached[stage] for stage in STAGES},
    }
    outcome.failures += [f"fewer than a quarter reached {s}" for s in STAGES if reached[s] * 4 < reached.total()]
    if not outcome.failures:
        place.rmdir()
    return outcome
