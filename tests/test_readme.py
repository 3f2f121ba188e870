"""What the README says works as it stands: its commands parse, its worked example runs."""

import importlib.util
import re
import shlex
import sys

import pytest
import torch
from conftest import ROOT

import algorithms
import options
import run as command
import saves

TEXT = (ROOT / "README.md").read_text()


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The README's worked example, registered as a reader would register it."""
    (code,) = re.findall(r"<!-- algorithms/fedavgm.py -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "fedavgm.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("algorithms.fedavgm", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "algorithms.fedavgm", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(algorithms.ALGORITHMS, "fedavgm", module)
    return code


def test_the_worked_example_runs_and_without_momentum_is_fedavg_bit_for_bit(example, tmp_path):
    flags = "--n_clients 3 --rounds 3 --reduced 0.02 --model ResNet9 --feature_dim 8 --participation 0.7 --threads 1"
    flags += " --track_history 0 --quiet"
    export = ["--export_dir", str(tmp_path / "runs")]
    assert command.main(["fedavgm", "fedavg", *flags.split(), "--server_momentum", "0", "0.9", *export]) == 0
    found = {(run.options["algorithm"], run.options.get("server_momentum")): run for run in saves.find(tmp_path / "runs")}
    weights = {key: torch.load(run.folder / "weights.pt", weights_only=True)["global"] for key, run in found.items()}
    plain, without, momentum = weights["fedavg", None], weights["fedavgm", 0.0], weights["fedavgm", 0.9]
    assert all(torch.equal(plain[name], without[name]) for name in plain)
    assert not all(torch.equal(plain[name], momentum[name]) for name in plain)
    assert all(momentum[name].dtype == plain[name].dtype for name in plain)


def test_the_worked_example_is_of_about_thirty_lines_of_code(example):
    body = example.split('"""')[2]
    assert 20 <= len([line for line in body.splitlines() if line.strip()]) <= 30


COMMANDS = re.findall(r"^python run\.py[^\n#]*", TEXT, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_is_understood(line):
    words = shlex.split(line)[2:]
    classes = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
    if "-h" in words:
        with pytest.raises(SystemExit):
            options.parse(words, classes, dict.fromkeys(classes, ""))
    else:
        runs, _, _ = options.parse(words, classes, dict.fromkeys(classes, ""))
        assert runs


def test_the_readme_tells_for_every_algorithm_what_leaves_the_client():
    section = TEXT.split("## What leaves the client")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(algorithms.ALGORITHMS)


def test_make_run_is_the_main_job():
    job = "python run.py cfkd fd fedavg independent centralized --dataset digits --n_clients 5 --partition lda --alpha 0.5"
    assert f"{job} --lr 3e-3 --rounds 60" in (ROOT / "Makefile").read_text()


def test_every_file_of_the_house_is_listed_where_it_stands():
    listed = re.findall(r"^(\S+?)/?\s{2,}", TEXT.split("## The house")[1].split("```")[1], re.MULTILINE)
    there = {path.name for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(listed) == there - {"errors.py"}
