"""What the README says works as it stands: its commands parse, its worked example runs."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_datasets import LAYOUTS

import algorithms
import commandline
import run as command
import saves
from data.datasets import LOADERS
from data.partition import PARTITIONS

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
COMMANDS += re.findall(r"`(python run\.py [^`]*)`", TEXT.split("## Commands you know")[1].split("\n## ")[0])


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_is_understood(line):
    words = shlex.split(line)[2:]
    classes = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
    if "-h" in words:
        with pytest.raises(SystemExit):
            commandline.parse(words, classes, dict.fromkeys(classes, ""))
    else:
        runs, _, _ = commandline.parse(words, classes, dict.fromkeys(classes, ""))
        assert runs


def test_the_cfkd_codes_own_example_runs_as_typed(tmp_path, monkeypatch):
    """Where CelebA's files are: here eight pictures of its layout, whose checksums are taken for the published ones."""
    (line,) = [typed for typed in COMMANDS if "CELEBA" in typed]
    assert line == "python run.py --n_clients 2 --dataset CELEBA --model LeNet5 --feature_dim 84 --rounds 100"
    LAYOUTS["CELEBA"].write(tmp_path / "data")
    for path in (tmp_path / "data" / "celeba").glob("*.txt"):
        LAYOUTS["CELEBA"].publish(monkeypatch, path)
    monkeypatch.chdir(tmp_path)
    assert command.main(shlex.split(line)[2:]) == 0
    (run,) = saves.find(tmp_path / "saves")
    assert run.options["algorithm"] == "cfkd"
    assert run.config["inputs"] == [[3, 32, 32], 2]
    assert run.rounds["round"].max() == 100


REGISTER = """
import sys
from pathlib import Path

import models
from data import datasets, partition

texts = dict(pair.split("\\0") for pair in Path("examples").read_text().split("\\0\\0"))
for module, table in ((datasets, "LOADERS"), (models, "MODELS"), (partition, "PARTITIONS")):
    for name, text in texts.items():
        if name.split()[0] == f"{module.__name__.replace('.', '/')}.py":
            exec(text, vars(module))
            getattr(module, table)[name.split()[1]] = getattr(module, name.split()[1])
import run

sys.exit(run.main(sys.argv[1:]))
"""


def test_a_data_set_a_model_and_a_partitioner_are_one_function_and_one_line(tmp_path):
    """The examples, put into their modules and tables before the flags are made of them; then the command below them."""
    examples = re.findall(r"<!-- ((?:data|models)\S* \w+) -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 3
    (tmp_path / "examples").write_text("\0\0".join("\0".join(pair) for pair in examples))
    (line,) = re.findall(r"Then `python run\.py ([^`]*stripes[^`]*)`", TEXT)
    words = [*shlex.split(line), "--rounds", "2", "--quiet", "--export_dir", str(tmp_path / "runs"), "--threads", "1"]
    subprocess.run(
        [sys.executable, "-c", REGISTER, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    (run,) = saves.find(tmp_path / "runs")
    with np.load(run.folder / "split.npz") as saved:
        assert saved["table"].sum(1).tolist() == [500, 250, 125, 125]
    assert run.options["model"] == ["Softmax"]
    assert run.config["inputs"] == [[1, 16, 16], 2]


def test_the_readme_tells_for_every_data_set_and_partitioner_what_it_is():
    for title, names in (("## Your data", LOADERS), ("## Who gets what", PARTITIONS)):
        section = TEXT.split(title)[1].split("\n## ")[0]
        told = "".join(re.findall(r"^\|([^|]*)\|", section, re.MULTILINE))
        assert set(re.findall(r"`(\w+)`", told)) == set(names)


def test_the_readme_tells_for_every_algorithm_what_leaves_the_client():
    section = TEXT.split("## What leaves the client")[1].split("\n## ")[0]
    first = "".join(re.findall(r"^\|([^|]*)\|", section, re.MULTILINE))
    assert sorted(re.findall(r"`(\w+)`", first)) == sorted(algorithms.ALGORITHMS)


def test_make_run_is_the_main_job():
    job = "python run.py cfkd fd fedavg independent centralized --dataset digits --n_clients 5 --partition lda --alpha 0.5"
    assert f"{job} --lr 3e-3 --rounds 60" in (ROOT / "Makefile").read_text()


def test_every_file_of_the_house_is_listed_where_it_stands():
    listed = re.findall(r"^(\S+?)/?\s{2,}", TEXT.split("## Architecture")[1].split("```")[1], re.MULTILINE)
    there = {path.name for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(listed) == there - {"errors.py"}
