"""The command as a Python function, `run.run`: the same runs, the same lines for mistakes, and no change of the caller."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, line_of

import commandline
import run as command
import saves
from errors import FailedError

QUICK = {"n_clients": 3, "rounds": 2, "reduced": 0.1, "model": "MLP", "threads": 1}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"seed": 0, "lr": 1e-3, "alpha": float("inf")}, "--seed=0 --lr=0.001 --alpha=inf"),
        ({"seed": [0, 1]}, "--seed 0 1"),
        ({"seed": range(2), "lr": np.array([0.1, 0.2])}, "--seed 0 1 --lr 0.1 0.2"),
        ({"model": ("LeNet5", "MLP")}, "--model=LeNet5,MLP"),
        ({"model": [("LeNet5", "MLP"), "MLP"]}, "--model LeNet5,MLP MLP"),
        ({"force": True, "quiet": False, "label": None}, "--force"),
        ({"export_dir": Path("a folder")}, "--export_dir=a folder"),
    ],
)
def test_python_values_are_the_words_of_the_command(flags, words):
    expected = words.replace("a folder", "a_folder").split()
    assert commandline.words_of_call(["fedavg"], flags) == ["fedavg", *(word.replace("a_f", "a f") for word in expected)]


def test_a_call_makes_the_runs_of_the_command_and_returns_them(tmp_path, capsys):
    argv_before, main_module = sys.argv, sys.modules["__main__"]
    run = command.run("fedavg", **QUICK, seed=1, export_dir=tmp_path, quiet=True)
    assert (run.options["algorithm"], run.options["seed"], run.done) == ("fedavg", 1, True)
    assert capsys.readouterr() == ("", "")
    words = " ".join(f"--{name}={value}" for name, value in QUICK.items())
    assert f"run.py fedavg {words} --seed=1" in (run.folder / "run.log").read_text()
    assert (sys.argv, sys.modules["__main__"]) == (argv_before, main_module)
    several = command.run("independent", "fedavg", **QUICK, seed=[1, 0], export_dir=tmp_path, quiet=True)
    assert [(r.options["algorithm"], r.options["seed"]) for r in several] == [
        *(("independent", 1), ("independent", 0)),
        *(("fedavg", 1), ("fedavg", 0)),
    ]
    folders = sorted(tmp_path.iterdir())
    assert command.main(f"independent fedavg {words} --seed 0 1 --export_dir {tmp_path}".split()) == 0
    assert sorted(tmp_path.iterdir()) == folders, "the command reads the runs of the function"
    (listed,) = command.run("independent", **QUICK, seed=[1], export_dir=tmp_path, quiet=True)
    assert listed.folder == several[0].folder, "a list of one value returns a list"


@pytest.mark.parametrize(
    ("algorithm", "flags", "line"),
    [
        ("fedavg", {"n_client": 5}, "--n_client: not a flag of these methods; did you mean --n_clients?"),
        ("fedavg", {"mu": 1}, "--mu: not a flag of these methods; it is a flag of fedprox"),
        ("fedavgg", {}, "algorithm fedavgg: must be one of"),
        ("fedavg", {"rounds": "ten"}, "--rounds ten: must be a whole number at least 1"),
        ("fedavg", {"rounds": True}, "--rounds: the value is missing"),
        ("fedavg", {"seed": []}, "--seed: the value is missing"),
        ("fedavg", {"quiet": "yes"}, "--quiet=yes: --quiet takes no value; remove it"),
        ("fedavg", {"dataset": "MNITS"}, "--dataset MNITS: must be one of"),
        ("./nowhere.py", {}, "algorithm ./nowhere.py: no such file"),
        *(
            ("fedavg", {name: True}, f"--{name}: returns no run; use it on the command line, python run.py ... --{name}")
            for name in command.OF_THE_COMMAND
        ),
    ],
)
def test_a_mistake_is_the_line_of_the_command(algorithm, flags, line, tmp_path):
    message = line_of(lambda: command.run(algorithm, export_dir=tmp_path, **flags))
    assert message.startswith(line)
    assert not list(tmp_path.iterdir())


def test_a_failed_run_raises_after_the_others(tmp_path):
    with pytest.raises(FailedError, match="the training loss of client 0 is nan in round 1") as raised:
        command.run("fedavg", **{**QUICK, "optimizer": "sgd"}, lr=[1e30, 0.01], export_dir=tmp_path, quiet=True)
    assert len(str(raised.value).splitlines()) == 1
    assert [run.options["lr"] for run in saves.find(tmp_path)] == [0.01]


def test_data_that_change_between_two_calls_are_read_again(tmp_path):
    draw, runs = np.random.default_rng(0), []
    for _ in range(2):
        x, y = draw.integers(0, 255, (60, 6, 6), dtype=np.uint8), np.arange(60) % 3
        np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        flags = {**QUICK, "reduced": 1, "dataset": tmp_path / "mine.npz"}
        runs.append(command.run("fedavg", **flags, export_dir=tmp_path / "saves", quiet=True))
    assert runs[0].config["data"]["digest"] != runs[1].config["data"]["digest"]
    assert runs[0].folder != runs[1].folder


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from run import run
runs = run("fedavg", "independent", n_clients=3, rounds=1, reduced=0.1, model="MLP", jobs=2)
print([run.options["algorithm"] for run in runs])
"""


def test_a_script_without_main_guard_runs_once_with_worker_processes(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(root=str(ROOT)))
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["['fedavg', 'independent']"], done.stderr
    assert "Traceback" not in done.stderr
    assert len(saves.find(tmp_path / "saves")) == 2
