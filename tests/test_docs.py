"""What the pages say works as it stands: their commands are understood, their examples run, their links lead somewhere."""

import argparse
import importlib
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_datasets import LAYOUTS
from test_house import STAIRCASE

import algorithms
import commandline
import helpers
import models
import run as command
import saves
from attacks import ATTACKS
from data import silos
from data.datasets import LOADERS
from data.partition import PARTITIONS
from data.shift import SHIFTS
from docs import vocabulary
from options import Options, flags_of
from papers import __main__ as papers

READ = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]  # by users: an example may stand in any of them
LINKED = ("RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md", "checks/README.md")
LINKED = [*READ, *(ROOT / name for name in LINKED)]
TEXT = "\n".join(path.read_text() for path in READ)


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def first_cells(text):
    """What stands in backquotes in the first column of the tables of a text."""
    return re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", text, re.MULTILINE)))


# --- worked examples -----------------------------------------------------------------------------------------------------

EXAMPLES = dict(re.findall(r"<!-- (\S+\.py(?: \w+)?) -->\n```python\n(.*?)```", TEXT, re.DOTALL))
OF_ALGORITHMS = {name.split("/")[1].removesuffix(".py"): name for name in EXAMPLES if name.startswith("algorithms/")}
OF_FUNCTIONS = {name.split()[1]: name for name in EXAMPLES if " " in name}
OF_FILES = {name: EXAMPLES[name] for name in EXAMPLES if " " not in name and "/" not in name}
OF_TABLES = re.findall(r"`([A-Z]+)` \(`(\S+\.py)`\), here\s`(.*?)`", TEXT)  # table, where it is, a line of it


def test_an_example_is_the_same_wherever_it_stands():
    assert len(EXAMPLES) == len(set(re.findall(r"<!-- (\S+\.py(?: \w+)?) -->\n```python\n(.*?)```", TEXT, re.DOTALL)))
    assert "fedavgm" in OF_ALGORITHMS
    assert len(OF_FUNCTIONS) == 3, "a data set, a model, a partitioner"


@pytest.fixture
def example(request, tmp_path, monkeypatch):
    """A worked example of an algorithm, registered as a reader would register it -> its name."""
    name = request.param
    path = tmp_path / f"{name}.py"
    path.write_text(EXAMPLES[OF_ALGORITHMS[name]])
    spec = importlib.util.spec_from_file_location(f"algorithms.{name}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, f"algorithms.{name}", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(algorithms.ALGORITHMS, name, module)
    return name


QUICK = "--n_clients 3 --rounds 3 --reduced 0.02 --model ResNet9 --feature_dim 8 --threads 1 --track_history 0 --quiet"


@pytest.mark.parametrize("example", OF_ALGORITHMS, indirect=True)
def test_an_algorithm_that_is_shown_runs_and_is_as_the_house_wants_it(example, tmp_path):
    module = algorithms.ALGORITHMS[example]
    assert all(hasattr(module, part) for part in ("Options", "loss", "start", "communicate"))
    assert algorithms.describe(example).splitlines()[0] == module.__doc__.splitlines()[0]
    assert command.main([example, *QUICK.split(), "--export_dir", str(tmp_path / "runs")]) == 0
    (run,) = saves.find(tmp_path / "runs")
    assert run.options["algorithm"] == example
    assert run.summary()["bytes_up"] > 0
    body = EXAMPLES[OF_ALGORITHMS[example]].split('"""')[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 30


@pytest.mark.parametrize("example", ["fedavgm"], indirect=True)
def test_fedavgm_without_momentum_is_fedavg_bit_for_bit(example, tmp_path):
    words = [*QUICK.split(), "--participation", "0.7", "--server_momentum", "0", "0.9"]
    assert command.main([example, "fedavg", *words, "--export_dir", str(tmp_path / "runs")]) == 0
    results = {(run.options["algorithm"], run.options.get("server_momentum")): run for run in saves.find(tmp_path / "runs")}
    weights = {key: torch.load(run.folder / "weights.pt", weights_only=True)["global"] for key, run in results.items()}
    plain, without, momentum = weights["fedavg", None], weights["fedavgm", 0.0], weights["fedavgm", 0.9]
    assert all(torch.equal(plain[name], without[name]) for name in plain)
    assert not all(torch.equal(plain[name], momentum[name]) for name in plain)
    assert all(momentum[name].dtype == plain[name].dtype for name in plain)


def copied(house):
    """A copy of the house without data and saved runs -> where it is."""

    def left_out(folder, names):
        of_code = Path(folder).name not in ("data", "saves")
        return [
            name for name in names if name.startswith((".", "__pycache__", "build")) or not (of_code or name.endswith(".py"))
        ]

    return shutil.copytree(ROOT, house, ignore=left_out, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the house into which the examples were copied as a reader would: a file or a function, and a line."""
    house = copied(tmp_path_factory.mktemp("house"))
    for name in OF_ALGORITHMS.values():
        (house / name).write_text(EXAMPLES[name])
    for table, file, line in OF_TABLES:
        text = (house / file).read_text()
        functions = [f"{EXAMPLES[name]}\n\n" for name in OF_FUNCTIONS.values() if name.split()[0] == file]
        before, table, rest = re.split(rf"^({table}\b)", text, maxsplit=1, flags=re.MULTILINE)
        rest = re.sub(r"^( +)\"\w+\"[:,]", rf"\1{line}\n\g<0>", rest, count=1, flags=re.MULTILINE)
        (house / file).write_text("".join([before, *functions, table, rest]))
    return house


def in_house(house, *words):
    """What a python command says in the copy, which has to succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=house, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_keep_to_what_the_shared_tests_ask_for_as_they_stand(house):
    assert {table for table, _, _ in OF_TABLES} == {"FAMILIES", "BYTES", "LOADERS", "MODELS", "PARTITIONS"}
    names = [*OF_ALGORITHMS, *OF_FUNCTIONS]
    files = ["algorithms", "models", "meter", "partition", "datasets", "plan", "options"]
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", " or ".join([*names, "names_of_the or documented"])]
    message = in_house(house, "-m", "pytest", *words, *(f"tests/test_{name}.py" for name in files))
    assert re.search(r"^\d+ passed, \d+ deselected|^\.+ +\[100%\]$", message, re.MULTILINE)
    assert "skipped" not in message


def test_a_data_set_a_model_and_a_partitioner_are_one_function_and_one_line(house, tmp_path):
    (line,) = {line for line in commands("run.py") if names_of_functions(line)}
    words = [*shlex.split(line)[1:], "--rounds", "2", "--quiet", "--export_dir", str(tmp_path / "runs"), "--threads", "1"]
    in_house(house, *words)
    (run,) = saves.find(tmp_path / "runs")
    with np.load(run.folder / "split.npz") as saved:
        assert saved["table"].sum(1).tolist() == [500, 250, 125, 125]
    assert run.options["model"] == ["Softmax"]
    assert run.config["inputs"] == [[1, 16, 16], 2]


# --- commands ------------------------------------------------------------------------------------------------------------


def commands(beginning):
    """The commands of the pages that begin with python and these words, each once: lines of their own, and in backquotes."""
    matches = re.findall(rf"^python {re.escape(beginning)}\b[^\n#`]*", TEXT, re.MULTILINE)
    matches += re.findall(rf"`python {re.escape(beginning)}\b[^`]*`", TEXT)
    return list(dict.fromkeys(re.split(r"&&|[;|]", line.strip("`"))[0].strip() for line in matches))


@pytest.mark.parametrize(
    "line", [line for line in commands("run.py") if re.search(r"\.py[ :]", line.removeprefix("python run.py"))]
)
def test_a_command_with_files_of_ones_own_runs(line, tmp_path):
    for name in (*OF_ALGORITHMS.values(), *OF_FILES):
        (tmp_path / name.split("/")[-1]).write_text(EXAMPLES[name])
    words = [str(ROOT / "run.py"), *shlex.split(line)[2:], "--rounds", "2", "--reduced", "0.05", "--quiet"]
    words += [] if "--n_clients" in line else ["--n_clients", "3"]
    in_house(tmp_path, *words, *([] if "--model" in line else ["--model", "MLP"]))
    assert len(saves.find(tmp_path / "saves")) >= 2


def names_of_functions(line):
    """The worked examples of a data set, a model or a partitioner that a command names."""
    return set(OF_FUNCTIONS) & set(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [line for line in commands("run.py") if not names_of_functions(line) and "--plugin" not in line and ".py:" not in line],
)
def test_every_command_of_run_py_is_understood(line, monkeypatch):
    monkeypatch.setattr(silos, "clients", lambda path: ("north", "south", "east"))  # of data that are not there
    words = shlex.split(line)[2:]
    classes = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
    named = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    if shown := [
        word for word in named if Path(word).stem in OF_ALGORITHMS or Path(word).name in OF_FILES
    ]:  # run above; its own flags are not known here
        words = [word for word in named if word not in shown]
    if "-h" in words:
        with pytest.raises(SystemExit):
            commandline.parse(words, classes, dict.fromkeys(classes, ""))
    else:
        runs, _, _ = commandline.parse(words, classes, dict.fromkeys(classes, ""))
        assert runs


class UnderstoodError(Exception):
    """Raised with what a command's parser made of its words, before anything is done."""


@pytest.fixture
def parsed(monkeypatch):
    """A function main, words -> what its parser makes of them, without anything being done."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, *args):
        raise UnderstoodError(original(self, *args))

    def ask(main, words):
        with pytest.raises(UnderstoodError) as result:
            main(words)
        return result.value.args[0]

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    return ask


@pytest.mark.parametrize("line", [*commands("-m figures"), *commands("-m papers")])
def test_every_command_of_figures_and_papers_names_a_module_and_flags_that_are_there(line, parsed):
    _, _, name, *words = shlex.split(line)
    run = parsed(importlib.import_module(name if name != "papers" else "papers.__main__").main, words)
    if name == "papers" and run.names != ["NAME"]:
        assert papers._tables(run.names, run.rows) or not run.names


def test_commands_are_found():
    assert len(commands("run.py")) > 20
    assert len(commands("-m figures")) > 8
    assert len(commands("-m papers")) > 1


def test_python_that_is_shown_outside_the_examples_is_python():
    shown = re.findall(r"(?<!-->\n)```python\n(.*?)```", TEXT, re.DOTALL)
    assert shown
    for text in shown:
        compile(text, "a page", "exec")


def test_the_cfkd_codes_own_example_runs_as_typed(tmp_path, monkeypatch):
    """Where CelebA's files are: here eight pictures of its layout, whose checksums are taken for the published ones."""
    (line,) = [typed for typed in commands("run.py") if "CELEBA" in typed]
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


def test_make_run_is_the_main_job():
    job = "python run.py cfkd fd fedavg independent centralized --dataset digits --n_clients 5 --partition lda --alpha 0.5"
    assert f"{job} --lr 3e-3 --rounds 60" in (ROOT / "Makefile").read_text()


# --- what is to be on a page ---------------------------------------------------------------------------------------------


def test_every_data_set_partitioner_and_shift_is_told():
    data, split = page("data_and_splits").split("\n## Who gets what")
    split, drawn_split = split.split("\n## What each client sees")
    assert set(first_cells(data)) == set(LOADERS)
    assert set(first_cells(split)) == set(PARTITIONS)
    assert set(first_cells(drawn_split)) == {"none", *SHIFTS}


def test_of_every_algorithm_it_is_told_what_leaves_the_client():
    assert sorted(first_cells(page("what_leaves_the_client"))) == sorted(algorithms.ALGORITHMS)


def test_every_other_name_of_a_flag_is_told_beside_its_own():
    table = page("flags_of_other_systems").split("## Other names of flags")[1]
    by_name = {row[0]: row[1] for row in re.findall(r"^\| `--(\w+)` \| (.*) \|$", table, re.MULTILINE)}
    others = {
        (flag, other)
        for name in algorithms.ALGORITHMS
        for flag, declared in flags_of(algorithms.options_of(name)).items()
        for other in declared["aliases"]
    }
    others |= {(other.says, name) for name, other in commandline.TRANSLATIONS.items()}
    assert others == {(flag, other) for flag, text in by_name.items() for other in re.findall(r"`--(\w+)`", text)}


def told_of(value):
    """A flag's value as the page of settings has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def test_the_defaults_of_every_method_are_told():
    shared = {name: declared["default"] for name, declared in flags_of(Options).items()}
    expected = []
    for method, module in algorithms.ALGORITHMS.items():
        defaults = {name: declared["default"] for name, declared in flags_of(module.Options).items()}
        others = [name for name in defaults if name in shared and defaults[name] != shared[name]]
        own = [name for name in defaults if name not in shared]
        cells = [" ".join(f"`--{name} {told_of(defaults[name])}`" for name in names) for names in (others, own)]
        expected.append(f"| `{method}` | {cells[0]} | {cells[1]} |")
    rows = page("settings").split("### What they reach in ten rounds")[0].splitlines()
    assert [row for row in rows if row.startswith("| `")] == expected


def test_every_topology_and_mixing_is_told():
    from algorithms.data_exchange import graph

    assert first_cells(page("on_a_graph").split("## What has left")[0]) == [*graph.TOPOLOGIES, *graph.MIXINGS]


def test_every_file_of_a_runs_folder_is_told():
    result = re.findall(r"`([-\w.]+)`", "".join(re.findall(r"^\|([^|]*)\|", page("saved_runs"), re.MULTILINE)))
    assert sorted(result) == sorted([*saves.FILES, saves.recording_name("ROUND"), "checkpoint-ROUND-DIGEST.pt", saves.DONE])


def test_every_attack_is_in_the_table_of_privacy():
    names = re.findall(r"^\| `(\w+)`", page("privacy").split("## The attacks")[1], re.MULTILINE)
    assert sorted(set(names) & ATTACKS.keys()) == sorted(ATTACKS)


def test_what_n_allows_is_students():
    from figures.statistics import least_errors

    (ns,), (run_experiment,) = (
        re.findall(rf"^\| {name} \|(.*)\|$", page("comparing"), re.MULTILINE) for name in ("n", "standard errors")
    )
    for n, errors in zip(ns.split("|"), run_experiment.split("|"), strict=True):
        assert f"{least_errors(int(n)):.2f}" == errors.strip()


def test_the_spectral_gaps_that_are_told_are_right():
    from algorithms.data_exchange import graph

    ring, full = (
        graph.spectral_gap(graph.metropolis(graph.between(range(8), of(8, None)))) for of in (graph.ring, graph.full)
    )
    assert f"Gap {full:.3g}: " in page("on_a_graph")
    assert f"Gap {ring:.3f} (a ring of 8" in page("on_a_graph")
    assert f"at most {1 - ring:.3f} of itself" in page("on_a_graph")


# --- the pages and the house ---------------------------------------------------------------------------------------------


def anchors(text):
    """The names under which GitHub has the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), link
        assert not anchor or anchor in anchors(there.read_text()), link


def test_the_words_of_a_round_are_those_of_the_docstrings():
    assert vocabulary.PAGE.read_text() == vocabulary.page(), "run python -m docs.vocabulary"
    assert vocabulary.page().count("\n| `federation.") > 15
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers.mean, "__doc__", "Return another mean. Of rows.")
        assert "| `mean(rows)` | Return another mean. | " in vocabulary.page()


def test_every_page_is_linked_from_the_readme():
    linked = re.findall(r"\]\((docs/\w+\.md)[)#]", (ROOT / "README.md").read_text())
    assert set(linked) == {f"docs/{path.name}" for path in READ[1:]}


def listed(text, block):
    """What a code block of CONTRIBUTING.md lists, a name a line."""
    return [name.rstrip("/") for name in re.findall(r"^(\S+)\s{2,}", text.split("```")[2 * block + 1], re.MULTILINE)]


def test_everything_at_the_top_of_the_house_is_listed():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms, others = listed(text, 0), listed(text, 1)
    assert [name.removesuffix(".py") for name in rooms] == [*STAIRCASE, "docs", "examples", "tests", "checks"]
    assert all((ROOT / name).exists() for name in (*rooms, *others))
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    there = {file.split("/")[0] for file in files if not file.startswith(".") and (ROOT / file).exists()}
    assert there <= {*rooms, *others}


def test_modules_that_contributing_names_in_a_room_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text().split("```")[1]
    for room, words in re.findall(r"^(\w+)/ +(.*(?:\n .*)*)", text, re.MULTILINE):
        for name in re.findall(r"(\w+\.py)\b", words):
            assert (ROOT / room / name).exists(), f"{room}/{name}"


def test_every_make_target_is_told():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"^\| `make ([\w-]+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)) == sorted(targets)


def test_the_citation_says_what_is_cited():
    text = (ROOT / "CITATION.cff").read_text()
    for line in ("cff-version: 1.2.0", 'title: "Chorus: a bench for collaborative learning"', "license: MIT"):
        assert line in text.splitlines()
    assert "doi" not in text
    assert "MIT" in (ROOT / "LICENSE").read_text()


def test_models_that_pages_name_are_there():
    named = re.findall(r"`((?:ResNet|LeNet|CNN|MLP|MobileNet)\w*)`", TEXT)
    assert set(named) <= set(models.MODELS)
