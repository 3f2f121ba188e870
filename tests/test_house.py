"""The house keeps its order: imports only point down, versions are pinned, git holds no generated files."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import planted
import pytest
from conftest import ROOT

import algorithms
from data import partition
from experiment import identity
from options import Launch, flags_of

STAIRCASE = (
    *(
        "run",
        "papers",
        "study",
        "commandline",
        "launch",
        "figures",
        "experiment",
        "plugins",
        "saves",
        "algorithms",
        "options",
        "helpers",
    ),
    *("measures", "optimizers", "federation", "models", "data", "streams", "allocator", "untrusted", "errors"),
)
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0].removesuffix(".py") in STAIRCASE]

ALGORITHMS = [path for path in MODULES if path.relative_to(ROOT).parts[0] == "algorithms" and path.name != "__init__.py"]
ALGORITHMS += sorted(ROOT.glob("algorithms/*/__init__.py"))


def imported(path: Path) -> set[str]:
    """Modules of the house that a file imports, with dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in STAIRCASE}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_point_down(path):
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported(path):
        there = name.split(".")[0]
        assert there == here or STAIRCASE.index(there) > STAIRCASE.index(here), f"{here} imports {name}"


def test_a_run_is_named_by_the_source_of_every_module_that_can_change_a_number():
    # what the rounds reach, less what only writes, draws or parses
    reached, todo = set(), ["experiment.rounds"]
    while todo:
        name = todo.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        of_no_number = name in ("data", "experiment", "federation.scratch") or name.split(".")[0] in (
            "plugins",
            "saves",
            "options",
            "errors",
            "algorithms",
            "allocator",
        )
        if path in reached or not path.exists() or of_no_number:
            continue
        reached.add(path)
        for found in imported(path):
            todo += [found, found.rpartition(".")[0]]
    assert {str(path.relative_to(ROOT).with_suffix("")) for path in reached} == set(identity.SOURCES)


def test_every_flag_is_read():
    flags = {name for algorithm in algorithms.ALGORITHMS for name in flags_of(algorithms.options_of(algorithm))}
    text = "\n".join(path.read_text() for path in MODULES)
    by_name = {name for partitioner in partition.PARTITIONS.values() for name in partition.parameters(partitioner)}
    read = {name for name in flags | set(flags_of(Launch)) if re.search(rf"\b(options|o|how|launch|run)\.{name}\b", text)}
    assert flags | set(flags_of(Launch)) == read | (by_name & flags)


def test_a_verb_of_helpers_is_one_that_two_algorithms_say_or_an_algorithm_and_another_verb():
    verbs = [node.name for node in ast.parse((ROOT / "helpers.py").read_text()).body if isinstance(node, ast.FunctionDef)]
    said = [{node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)} for path in ALGORITHMS]
    inside = [node.id for node in ast.walk(ast.parse((ROOT / "helpers.py").read_text())) if isinstance(node, ast.Name)]
    for verb in (verb for verb in verbs if not verb.startswith("_")):
        by_algorithms = sum(verb in names for names in said)
        assert by_algorithms >= 1
        assert by_algorithms + (verb in inside) >= 2, verb


BY_CONTRACT = ("Options", "loss", "start", "communicate")  # of an algorithm: see `algorithms`
BY_CUSTOM = ("forward", "main", "find_class", "error")  # of torch, a script, a library's class


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_and_every_public_class_function_and_method_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    excused = (*BY_CUSTOM, *(BY_CONTRACT if path.relative_to(ROOT).parts[0] == "algorithms" else ()))
    assert ast.get_docstring(tree)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in (*tree.body, *(node for of_class in classes for node in of_class.body)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node.name not in excused:
            setter = any(isinstance(decorator, ast.Attribute) for decorator in node.decorator_list)
            assert setter or ast.get_docstring(node), f"{node.name}, line {node.lineno}"


def test_every_requirement_is_pinned_and_the_pair_is_torch_2_13_and_torchvision_0_28():
    lines = [
        line for name in ("requirements.txt", "requirements-dev.txt") for line in (ROOT / name).read_text().splitlines()
    ]
    pins = [line for line in lines if line and not line.startswith(("#", "-r"))]
    assert all("==" in line for line in pins)
    assert {"torch==2.13.0", "torchvision==0.28.0"} <= set(pins)


def test_git_ignores_downloads_runs_and_environments():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    paths = [
        "data/MNIST/raw/x",
        "saves/fedavg-digits-0/done",
        ".venv/bin/python",
        ".venv-peers/fluke/bin/python",
        "data/x.npz",
        "saves/split-x.png",
    ]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == paths
    kept = subprocess.run(["git", "check-ignore", "data/datasets.py", "saves/workbook.py"], cwd=ROOT, check=False)
    assert kept.returncode == 1


def test_the_text_that_each_planted_bug_changes_is_there_once():
    found = {words: (ROOT / file).read_text().count(old) for words, file, _, old, *_ in planted.parsed(planted.PLANTS)}
    assert not {words: n for words, n in found.items() if n != 1}


COMMANDS = [path.relative_to(ROOT) for path in (ROOT / "figures").rglob("*.py") if '"__main__"' in path.read_text()]


@pytest.mark.parametrize("path", [*map(str, COMMANDS), "figures/report", "papers", "papers/__main__.py"])
def test_a_command_that_is_run_by_its_path_says_how_to_run_it(path):
    ended = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True)
    name = path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    assert ended.stderr == f"{path}: is a part of a package; in {ROOT} type: python -m {name}\n"
    assert ended.returncode == 2
