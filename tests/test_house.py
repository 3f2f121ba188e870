"""The house keeps its order: imports only point down, versions are pinned, git holds no generated files."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import algorithms
from checks import planted
from data import partition
from experiment import identity
from options import Launch, flags_of

STAIRCASE = (
    *(
        "run",
        "papers",
        "commandline",
        "launch",
        "attacks",
        "figures",
        "experiment",
        "plugins",
        "saves",
        "algorithms",
        "options",
        "helpers",
    ),
    *("measures", "federation", "models", "data", "streams", "untrusted", "errors"),
)
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0].removesuffix(".py") in STAIRCASE]

ALGORITHMS = [path for path in MODULES if path.relative_to(ROOT).parts[0] == "algorithms" and path.name != "__init__.py"]
ALGORITHMS += sorted(ROOT.glob("algorithms/*/__init__.py"))


def imported(path: Path) -> set[str]:
    """Modules of the house that a file imports, with dots."""
    results = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            results |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            results |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in results if name.split(".")[0] in STAIRCASE}


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
        if path in reached or not path.exists() or name in identity.OF_NO_NUMBER:
            continue
        reached.add(path)
        for result in imported(path):
            todo += [result, result.rpartition(".")[0]]
    assert reached == set(identity.sources())
    assert ROOT / "federation" / "optimizers.py" in reached


def test_every_flag_is_read():
    flags = {name for algorithm in algorithms.ALGORITHMS for name in flags_of(algorithms.options_of(algorithm))}
    text = "\n".join(path.read_text() for path in MODULES)
    by_name = {name for partitioner in partition.PARTITIONS.values() for name in partition.parameters(partitioner)}
    read = {
        name
        for name in flags | set(flags_of(Launch))
        if re.search(rf"\b(options|o|how|launch|launch_options|run)\.{name}\b", text)
    }
    assert flags | set(flags_of(Launch)) == read | (by_name & flags)


def test_a_verb_of_helpers_is_one_that_two_algorithms_say_or_an_algorithm_and_another_verb():
    verbs = [node.name for node in ast.parse((ROOT / "helpers.py").read_text()).body if isinstance(node, ast.FunctionDef)]
    outputs = [
        {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)} for path in ALGORITHMS
    ]
    inside = [node.id for node in ast.walk(ast.parse((ROOT / "helpers.py").read_text())) if isinstance(node, ast.Name)]
    for verb in (verb for verb in verbs if not verb.startswith("_")):
        by_algorithms = sum(verb in names for names in outputs)
        assert by_algorithms >= 1
        assert by_algorithms + (verb in inside) >= 2, verb


BY_CONTRACT = {  # see `algorithms` and `attacks`
    "algorithms": ("Options", "loss", "start", "communicate"),
    "attacks": ("Options", "attack"),
}
BY_CUSTOM = ("forward", "main", "find_class", "error")  # of torch, a script, a library's class


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_and_every_public_class_function_and_method_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    excused = (*BY_CUSTOM, *BY_CONTRACT.get(path.relative_to(ROOT).parts[0], ()))
    assert ast.get_docstring(tree)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in (*tree.body, *(node for of_class in classes for node in of_class.body)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node.name not in excused:
            setter = any(isinstance(decorator, ast.Attribute) for decorator in node.decorator_list)
            assert setter or ast.get_docstring(node), f"{node.name}, line {node.lineno}"


def test_every_requirement_is_pinned_and_the_pair_is_torch_2_13_and_torchvision_0_28():
    lines = [
        line
        for name in ("requirements.txt", "requirements-dev.txt", "requirements-docs.txt")
        for line in (ROOT / name).read_text().splitlines()
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
    results = {words: (ROOT / file).read_text().count(old) for words, file, _, old, *_ in planted.parsed(planted.PLANTS)}
    assert not {words: n for words, n in results.items() if n != 1}


READERS = ("load", "loadtxt", "genfromtxt", "fromfile", "memmap", "open_memmap", "read_csv", "read_parquet", "read_excel")
READERS += ("load_workbook", "imread", "loadmat", "whosmat", "ZipFile", "copyfile", "copy2", "copytree")
OURS = ("saves", "datasets", "plugins", "untrusted")  # whose `load` opens no file by itself
BARE = {  # what opens a file in another way than `untrusted.opened` and `untrusted.appended`, and why it may
    ("untrusted.py", "os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 438)"): "it is how they do it",
    ("untrusted.py", "open(path, 'a', encoding='utf-8', opener=regular)"): "`appended`",
    ("untrusted.py", "open(path, 'rb', opener=regular)"): "`opened`",
    ("untrusted.py", "archive.open(info)"): "a member of an archive that is opened",
    ("saves/files.py", "torch.load(path if mmap else file, weights_only=True, map_location='cpu', mmap=mmap)"): "inside it",
    ("saves/files.py", "temporary.open('rb')"): "what was written a moment ago, under a name of its own",
    ("data/datasets.py", "torch.load(path, mmap=True, weights_only=True)"): "a temporary file of this very command",
    ("papers/__main__.py", "page.PATH.read_text()"): "kept in git",
    ("papers/results.py", "path.open(newline='')"): "kept in git",
    ("papers/benchmark/__init__.py", "path.open(newline='')"): "kept in git",
    ("launch/scheduling.py", "QUOTA.read_text()"): "the kernel's",
    ("errors.py", "os.open(os.devnull, os.O_WRONLY)"): "is written",
    ("federation/pool.py", "os.open(os.devnull, os.O_WRONLY)"): "is written",
    ("launch/display.py", "os.open(os.devnull, os.O_RDWR)"): "is written",
    ("federation/locks.py", "FileLock(path)"): "the one place that makes a lock",
}


def openings(tree: ast.AST) -> list[str]:
    """Calls that open a file by its name to read it, or lock one. What is opened already is called `file` or `stream`."""
    results = []
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        owner, name = (
            (ast.unparse(node.func.value), node.func.attr)
            if isinstance(node.func, ast.Attribute)
            else ("", getattr(node.func, "id", ""))
        )
        first = ast.unparse(node.args[0]) if node.args else ""
        modes = [text.value for text in (*node.args, *node.keywords) if isinstance(text, ast.Constant)]
        writes = any(isinstance(mode, str) and set(mode) & set("wx") for mode in modes)
        by_name = (
            (name == "open" and not writes and first != "file")
            or (name in ("read_text", "read_bytes") and owner not in ("", "untrusted"))
            or (name in READERS and owner not in ("", *OURS) and first != "file")
            or (name in ("load_workbook", "FileLock", "FileHandler") and first != "file")
        )
        results += [ast.unparse(node)] if by_name else []
    return results


def test_what_is_read_is_opened_by_the_one_function_that_takes_regular_files_alone():
    """A pipe or a device in the place of a file would hang whoever opens it."""
    result = {(str(path.relative_to(ROOT)), call) for path in MODULES for call in openings(ast.parse(path.read_text()))}
    assert result == set(BARE)


@pytest.mark.parametrize(
    "line",
    ["path.open()", "open(path)", "p.read_bytes()", "np.load(path)", "torch.load(x.y)", "FileLock(p)", "os.open(p, 0)"],
)
def test_the_test_of_openings_sees_each_kind(line):
    assert openings(ast.parse(line)) == [line]
    assert openings(ast.parse("path.open('w'); np.load(file); Image.open(file); untrusted.opened(path)")) == []


COMMANDS = [path.relative_to(ROOT) for path in (ROOT / "figures").rglob("*.py") if '"__main__"' in path.read_text()]


@pytest.mark.parametrize("path", [*map(str, COMMANDS), "figures/report", "papers", "papers/__main__.py"])
def test_a_command_that_is_run_by_its_path_says_how_to_run_it(path):
    ended = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True)
    name = path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    assert ended.stderr == f"{path}: is part of a package; in {ROOT} run: python -m {name}\n"
    assert ended.returncode == 2


def test_a_library_in_an_environment_in_this_folder_may_start_its_own_scripts_which_then_import_from_here(tmp_path):
    # Ray starts its workers so: a script of a package in .venv/, which imports what the task needs
    package = tmp_path / ".venv/lib/library"
    package.mkdir(parents=True)
    for folder in ("data", "saves"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    shutil.copy(ROOT / "errors.py", tmp_path)
    (package / "__init__.py").touch()
    (package / "worker.py").write_text("import errors; print(errors.UserError)")
    flags = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}, "capture_output": True, "text": True}
    ended = subprocess.run([sys.executable, package / "worker.py"], **flags)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "<class 'errors.UserError'>\n", "")


# names that say only that something was said, found or made: name the thing
BANNED = ("told", "said", "found", "made", "given", "asked", "seen", "meant", "wanted", "one", "how", "ready")
BANNED += ("played", "carry_out")


def bound(tree: ast.AST) -> set[str]:
    """Names of variables, parameters, functions and classes that a module binds."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return names | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


TESTS = [path for folder in ("tests", "checks") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_identifiers_name_the_thing(path):
    assert not bound(ast.parse(path.read_text())) & set(BANNED)


def test_the_test_of_identifiers_sees_each_kind():
    code = "def told(one, *, how=1):\n  found = [made for made in one]\n  with x as seen: pass\n  return lambda given: 1"
    assert bound(ast.parse(code)) == {"told", "one", "how", "found", "made", "seen", "given"}
