"""Commands and files that nobody would write: a hundred drawn ones, and those that once broke something."""

import io
import shlex
import time
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

import algorithms
import run
from checks.hard import fuzz
from checks.hard.commands import OWN, UNTRIED, Command, value
from checks.hard.spoiled import signed
from figures import split
from launch import single
from options import Launch, flags_of
from saves import workbook


def test_a_hundred_inputs_keep_every_promise(monkeypatch):
    # two thirds of the time go to pictures and workbooks, which other tests look at, and `make hard`
    monkeypatch.setattr(single.folder, "complete", lambda run: None)
    monkeypatch.setattr(split, "draw_one", lambda saved, png: png.touch())
    monkeypatch.setattr(workbook, "dress", lambda sheet, *of_it: None)
    result = fuzz.tried(0, 100, small=False)
    assert result.failures == []
    assert result.figures["inputs"] >= 100
    assert result.figures["valid"] == 47


def started(weights):
    """The run to start from, with other weights, of which its `done` knows."""
    held, file = fuzz.start(), io.BytesIO()
    torch.save(weights, file)
    done = signed(held["start/done"].decode(), "weights.pt", file.getvalue())
    return {**held, "start/weights.pt": file.getvalue(), "start/done": done.encode()}


def broken_pickle():
    """The same, its weights a pickle that takes from an empty stack."""
    weights = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(fuzz.start()["start/weights.pt"])) as whole, zipfile.ZipFile(weights, "w") as broken:
        for name in whole.namelist():
            broken.writestr(name, b"\x80\x02a." if name.endswith("data.pkl") else whole.read(name))
    done = signed(fuzz.start()["start/done"].decode(), "weights.pt", weights.getvalue())
    return {**fuzz.start(), "start/weights.pt": weights.getvalue(), "start/done": done.encode()}


SMALL = "--rounds 1 --batch_size 16 --epoch_per_round 1 --jobs 1 --workers 1"
FOUND = {  # what was found: (the command, files, the stage that it reaches, words of its line)
    "an intensity of numbers that are all negative": (
        f"dpsgd --clients people.csv --model MLP_dropout {SMALL}",
        dict,
        *("run", []),
    ),
    "a leakage that is no number, at every client": (
        f"data_exchange --dataset table.csv --partition iid --n_clients 2 --model MLP_dropout {SMALL}",
        dict,
        *("run", []),
    ),
    "two lines in a stray word": (
        "fedavg --unverified_data 'a\nb'",
        dict,
        *("parser", [r"a\nb: does not belong to a flag"]),
    ),
    "two lines in an algorithm's name": ("'\nb' fedavg", dict, *("parser", [r"algorithm \nb: must be one of"])),
    "colours in a value": ("fedavg --lr '\x1b[31m'", dict, *("parser", [r"--lr \x1b[31m: must be a number"])),
    "weights whose pickle takes what is not there": (
        f"fedavg --dataset mine.npz --n_clients 3 --model MLP --init_from start {SMALL}",
        broken_pickle,
        *("data", ["--init_from start/weights.pt: is damaged"]),
    ),
    "weights that are a number": (
        f"fedavg --dataset mine.npz --n_clients 3 --model MLP --init_from start {SMALL}",
        lambda: started({"global": 3}),
        *("data", ["--init_from start/weights.pt: is damaged: global does not consist of tensors"]),
    ),
    "weights of another answer": (
        f"fedavg --dataset mine.npz --n_clients 3 --model MLP --init_from start {SMALL}",
        lambda: started({"server": [{}, {}, {}]}),
        *("data", ["--init_from start: has neither a global model nor one model per client, but server"]),
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_stays_mended(what, tmp_path, monkeypatch):
    command, files, stage, words = FOUND[what]
    result = []
    inner = fuzz.carried_out
    monkeypatch.setattr(fuzz, "carried_out", lambda *args: result.append(inner(*args)) or result[-1])
    inputs = Command(tuple(shlex.split(command)), files(), finishes=stage == "run")
    assert fuzz.held_to(inputs, tmp_path) == stage
    for word in words:
        assert word in result[-1].err


def test_every_flag_is_drawn_but_those_that_are_named():
    for cls in (Launch, *algorithms.all_options().values()):
        for name, declared in flags_of(cls).items():
            if declared["type"] is not None and cls is not Launch and name not in (*OWN, *UNTRIED):
                value(name, declared["type"])  # raises where nothing is known of what it takes


# --- each promise, broken ----------------------------------------------------------------------------------------------

ONE = Command(("fedavg", "--dataset", "mine.npz"), finishes=False)


def broken(monkeypatch, main):
    monkeypatch.setattr(run, "main", main)


def leaves(words):
    Path("left").write_text("something")
    print("run.py: no", file=fuzz.sys.stderr)
    return 2


def says(text, status, error=""):
    def main(words):
        print(text)
        print(error, file=fuzz.sys.stderr)
        return status

    return main


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (leaves, "left"),
        (says("", 2, "run.py: one\nrun.py: two"), "a refusal of 2 lines"),
        (says("", 2, "run.py: ValueError: x"), "ValueError"),
        (says("Traceback (most recent call last)", 0), "Traceback"),
        (says("", 1, "run.py: KeyError: 'x'"), "KeyError"),
        (says("", 5), "5"),
    ],
    ids=["a file is left", "two lines", "a name of Python's", "a traceback", "a failure", "a status of its own"],
)
def test_a_broken_promise_is_noticed(main, message, tmp_path, monkeypatch):
    broken(monkeypatch, main)
    with pytest.raises(AssertionError, match=message):
        fuzz.held_to(ONE, tmp_path)


def test_a_valid_command_that_is_refused_is_noticed(tmp_path, monkeypatch):
    broken(monkeypatch, says("", 2, "run.py: no"))
    with pytest.raises(AssertionError, match=r"run\.py: no"):
        fuzz.held_to(Command(ONE.words, finishes=True), tmp_path)


def test_who_stops_it_stops_it(tmp_path, monkeypatch):
    broken(monkeypatch, says("", 143))
    with pytest.raises(KeyboardInterrupt):
        fuzz.held_to(ONE, tmp_path)


def test_what_hangs_is_noticed(tmp_path, monkeypatch):
    broken(monkeypatch, lambda words: time.sleep(60))
    monkeypatch.setattr(fuzz, "PATIENCE", 1)
    with pytest.raises(fuzz.HangsError):
        fuzz.held_to(ONE, tmp_path)


def test_what_fails_is_made_small_and_told_as_a_command(tmp_path, monkeypatch):
    def fussy(words):
        if "--json" in words:
            raise KeyError("x")
        print("run.py: no", file=fuzz.sys.stderr)
        return 2

    broken(monkeypatch, fussy)
    words = st.lists(st.sampled_from(("fedavg", "--json", "--quiet", "--plan")), max_size=9)
    monkeypatch.setattr(fuzz, "KINDS", {"drawn": lambda: words.map(lambda some: Command(tuple(some)))})
    _, failures = fuzz.some("drawn", 50, 0, tmp_path)
    (left,) = tmp_path.iterdir()  # of all that failed the smallest
    assert failures == [f"KeyError 'x' | cd {left}; python run.py --json"]
