"""Code that a command brings along: what it may do, what of it names a run, and that every process finds it.

The files are the worked examples of docs/extending.md, outside the checkout.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import traceback

import pytest
import torch
from conftest import ROOT, line_of, tiny_data, tiny_federation
from test_docs import EXAMPLES, OF_FUNCTIONS
from test_experiment import assert_same

import algorithms
import commandline
import models
import plugins
import run as command
import saves
from experiment import identity

FEDAVGM, FEDFAIR = EXAMPLES["algorithms/fedavgm.py"], EXAMPLES["fedfair.py"]
TABLE_OF = {"data/datasets.py": "LOADERS", "models.py": "MODELS", "data/partition.py": "PARTITIONS"}
HEAD = """
import numpy as np
from torch import nn

import beside
import streams
from data.datasets import LOADERS, from_arrays
from data.partition import PARTITIONS
from models import MODELS, Net
"""
ADDS = HEAD + "".join(
    f'\n{EXAMPLES[place]}\n{TABLE_OF[place.split()[0]]}["{name}"] = {name}\n' for name, place in OF_FUNCTIONS.items()
)
QUICK = "--n_clients 3 --rounds 2 --reduced 0.1 --model MLP --threads 1 --track_features 2 --quiet"
MINE = QUICK.replace("MLP", "Softmax") + " --dataset stripes --partition halving"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What is loaded in a test is gone after it."""
    tables, modules = [dict(table) for table in plugins.TABLES], set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "LOADED", {})
    monkeypatch.setattr(plugins, "_before", {})
    yield
    for table, before in zip(plugins.TABLES, tables, strict=True):
        table.clear()
        table.update(before)
    for name in ("fedavgm", "fedfair", "mine", "beside", "mylib", "mylib.parts", "package", "package.beside", "wrong"):
        if name not in modules:
            sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path):
    """A folder with an algorithm, a file that adds to three tables, and a module that the latter imports."""
    (tmp_path / "code").mkdir()
    for name, text in (("fedavgm", FEDAVGM), ("mine", ADDS), ("beside", "K = 1\n")):
        (tmp_path / "code" / f"{name}.py").write_text(text)
    return tmp_path / "code"


def main(words, export):
    return command.main([*shlex.split(str(words)), "--export_dir", str(export)])


def elsewhere(words, cwd, ok=0):
    """A command in a process of its own, in another folder."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ok, done.stderr
    return done.stdout + done.stderr


def source_of(name, **flags):
    return identity.carrier(algorithms.options_of(name)(algorithm=name, device="cpu", **flags))["source"]


# --- an algorithm --------------------------------------------------------------------------------------------------------


def test_an_algorithm_in_a_file_runs_beside_those_of_the_house_and_names_its_own_runs_alone(folder, tmp_path):
    assert main(f"fedavg fd {QUICK} --lr 0.01", tmp_path / "without") == 0
    assert main(f"{folder}/fedavgm.py fedavg {QUICK} --lr 0.01 --server_momentum 0 0.9", tmp_path / "with") == 0
    plain, _ = sorted(saves.find(tmp_path / "without"), key=lambda run: run.options["algorithm"] != "fedavg")
    runs = {(run.options["algorithm"], run.options.get("server_momentum")): run for run in saves.find(tmp_path / "with")}
    assert len(runs) == 3
    assert runs["fedavg", None].folder.name == plain.folder.name
    item, other = (run.weights()["global"] for run in (plain, runs["fedavgm", 0.0]))
    assert all(torch.equal(item[name], other[name]) for name in item), "without momentum it is FedAvg"
    assert runs["fedavgm", 0.9].config["source"] != plain.config["source"]


def test_other_processes_find_it(folder, tmp_path):
    """Worker processes, which are sent its options and functions by the name of its module."""
    (tmp_path / "here").mkdir()
    words = f"../code/fedavgm.py --plugin ../code/mine.py {MINE} --seed 0 1"
    for where in ("--jobs 1 --workers 1", "--jobs 2", "--jobs 1 --workers 2"):
        export = ["--export_dir", where.replace("-", "").replace(" ", "")]
        elsewhere([ROOT / "run.py", *shlex.split(f"{words} {where}"), *export], tmp_path / "here")
    alone, *others = (list(saves.find(place)) for place in sorted((tmp_path / "here").iterdir()))
    assert len(others) == 2
    for runs in others:
        for left, right in zip(alone, runs, strict=True):
            assert left.folder.name == right.folder.name
            assert_same(left, right)


def test_ranks_find_it(folder, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    elsewhere([*torchrun, ROOT / "run.py", folder / "fedavgm.py", *QUICK.split(), "--export_dir", "two"], tmp_path)
    assert main(f"{folder}/fedavgm.py {QUICK}", tmp_path / "one") == 0
    (item,), (two,) = (saves.find(tmp_path / place) for place in ("one", "two"))
    assert_same(item, two)


def test_a_study_names_it(folder, tmp_path, capsys):
    words = f"{folder}/fedavgm.py fedavg {QUICK} --lr 0.01 --seed 0 1"
    assert main(f"{words} --save_study {tmp_path}/two.toml", tmp_path / "saves") == 0
    (again,) = re.findall(r"run it with: python run.py (.*)", " ".join(capsys.readouterr().out.split()))
    assert main(f"{again} --quiet", tmp_path / "saves") == 0
    assert len(list(saves.find(tmp_path / "saves" / "two"))) == 4


def test_the_command_that_makes_a_run_names_what_it_takes_and_nothing_else(folder):
    plugins.load(folder / "fedavgm.py"), plugins.load(folder / "mine.py")
    words = shlex.split(f"{folder}/fedavgm.py fedavg --plugin {folder}/mine.py --model Softmax MLP")
    classes = algorithms.all_options()
    runs, launch, _ = commandline.parse(words, classes, dict.fromkeys(classes, ""))
    by_name = {(run.algorithm, run.model[0]): commandline.command_of(run, launch) for run in runs}
    assert f"--plugin {folder}/fedavgm.py,{folder}/mine.py" in by_name["fedavgm", "Softmax"]
    assert re.findall(r"--plugin (\S+)", by_name["fedavgm", "MLP"]) == [f"{folder}/fedavgm.py"]
    assert re.findall(r"--plugin (\S+)", by_name["fedavg", "Softmax"]) == [f"{folder}/mine.py"]
    assert "--plugin" not in by_name["fedavg", "MLP"]
    for (name, model), line in by_name.items():
        again, _, _ = commandline.parse(shlex.split(line)[2:], classes, dict.fromkeys(classes, ""), alone=False)
        assert (again[0].algorithm, again[0].model) == (name, (model,))


# --- what names a run ----------------------------------------------------------------------------------------------------

LIBRARY = {"__init__.py": "from .parts import K\n", "parts.py": "K = 1\n", "unread.py": "K = 1\n"}


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        *(("mine.py", True), ("beside.py", True), ("mylib/__init__.py", True), ("mylib/parts.py", True)),
        *(("mylib/unread.py", False), ("unread.py", False), ("models.py", False), ("fedavgm.py", False)),
    ],
)
def test_a_run_is_named_by_a_plugin_and_by_what_that_imports_from_beside_it(file, counts, folder):
    """`models.py` beside it is not what it imports: the house's is."""
    (folder / "mylib").mkdir()
    for name, text in LIBRARY.items():
        (folder / "mylib" / name).write_text(text)
    for name in ("unread.py", "models.py"):
        (folder / name).write_text("K = 1\n")
    (folder / "beside.py").write_text("def late():\n    import mylib\n    return mylib.K\n")
    plugins.load(folder / "mine.py")
    plugins.load(folder / "fedavgm.py")
    taken, free = (lambda: source_of("fedavg", model=("Softmax",))), (lambda: source_of("fedavg", model=("MLP",)))
    before, without = taken(), free()
    (folder / file).write_text((folder / file).read_text() + "# changed\n")
    assert (taken() != before) == counts
    assert free() == without, "a run that takes nothing of it"


def test_an_algorithm_counts_what_it_takes_of_the_house(folder, monkeypatch):
    (folder / "beside.py").write_text("from algorithms.moon import loss\n")
    (folder / "fedavgm.py").write_text(FEDAVGM.replace("import torch\n", "import torch\n\nimport beside\n", 1))
    plugins.load(folder / "fedavgm.py")
    read, recorded = plugins.text_of, []
    monkeypatch.setattr(plugins, "text_of", lambda path: recorded.append(path.stem) or read(path))
    source_of("fedavgm")
    assert {"fedavgm", "beside", "moon", "helpers"} <= set(recorded)
    assert not {"scaffold", "options", "errors"} & set(recorded)


def test_where_a_plugin_lies_is_no_part_of_a_run(folder, tmp_path):
    results = []
    for place in (folder, tmp_path / "other", ROOT):
        path = place / "zz_fedavgm_of_a_test.py"
        try:
            place.mkdir(exist_ok=True)
            path.write_text(FEDAVGM)
            plugins.load(path)
            results.append(source_of(path.stem))
        finally:
            path.unlink()
            sys.modules.pop(path.stem)
            plugins.LOADED.clear()
            algorithms.ALGORITHMS.pop(path.stem)
    assert results[0] == results[1] == results[2], "in the checkout too, beside the modules of the house"


@pytest.mark.parametrize("flags", ["'beside'", "'be' + 'side'", "'.beside', 'package'"])
@pytest.mark.parametrize("late", [False, True])
def test_a_run_is_named_by_what_importlib_imports_from_beside_a_plugin(flags, late, folder):
    """By a name in the file whenever it is imported, by one that is put together where the import of the plugin does it."""
    if late and "+" in flags:
        pytest.skip("nobody can tell before")
    (folder / "package").mkdir()
    for place in ("package", "."):
        (folder / place / "beside.py").write_text("K = 1\n")
    call = f"importlib.import_module({flags}).K"
    text = "import importlib\nfrom models import MODELS, MLP\nMODELS['Mine'] = lambda shape, n: MLP(shape, n)\n"
    text += f"def later():\n    return {call}\n" if late else f"K = {call}\n"
    changes = folder / "beside.py"
    if "package" in flags:
        (folder / "package" / "__init__.py").write_text(text)
        text, changes = "import package\n", folder / "package" / "beside.py"
    (folder / "mine.py").write_text(text)
    plugins.load(folder / "mine.py")
    before = source_of("fedavg", model=("Mine",))
    changes.write_text("K = 2\n")
    assert source_of("fedavg", model=("Mine",)) != before


def test_every_loaded_plugin_stands_in_the_configuration_of_a_run(folder, tmp_path):
    assert main(f"fedavg {QUICK} --plugin {folder}/mine.py", tmp_path / "saves") == 0
    (run,) = saves.find(tmp_path / "saves")
    assert run.config["plugins"] == plugins.digests()
    assert list(run.config["plugins"]) == ["mine"]


# --- what a plugin must leave as it is -----------------------------------------------------------------------------------

CHANGES = {
    "models.Net.forward": "import models\nmodels.Net.forward = lambda self, x: (x, x)",
    "models.MLP": "import models\ndef other(shape, n_classes):\n    pass\nmodels.MLP.__code__ = other.__code__",
    "models.MUST_BE": "import models\nmodels.MUST_BE = ''",
    "models.NearestPrototype.__call__": "import models\nmodels.NearestPrototype.__call__ = lambda self, x: x",
    "helpers.sum": "import helpers\nhelpers.sum = max",
    "algorithms.PUBLISHED": "import algorithms\nalgorithms.PUBLISHED['moon'] = algorithms.ALGORITHMS['fedavg']",
    "torch.nn.functional.cross_entropy": "import torch.nn.functional as F\nF.cross_entropy = F.mse_loss",
    "torch.nn.modules.linear.Linear.forward": "from torch import nn\nnn.Linear.forward = lambda self, x: x",
    "torch's default dtype": "import torch\ntorch.set_default_dtype(torch.float64)",
    "torch's default device": "import torch\ntorch.set_default_device('meta')",
    "torch's grad mode": "import torch\ntorch.set_grad_enabled(False)",
    "torch's deterministic algorithms": "import torch\ntorch.use_deterministic_algorithms(True)",
    "torch's number of threads": "import torch\ntorch.set_num_threads(torch.get_num_threads() + 1)",
    "torch's random state": "import torch\ntorch.manual_seed(5)",
    "torch's hooks of all modules": "from torch.nn.modules import module\nmodule.register_module_forward_hook(print)",
    "numpy's random state": "import numpy\nnumpy.random.rand()",
    "numpy's handling of errors": "import numpy\nnumpy.seterr(all='raise')",
    "the state of Python's random": "import random\nrandom.seed(5)",
}


def in_a_child(*argv):
    """The exit status of a command in a fork of this process, which stays as it is, and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 1), os.dup2(write, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        status = 99
        try:
            status = command.main([str(word) for word in argv])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as result:
        text = result.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.mark.parametrize("what", CHANGES)
def test_a_plugin_that_changes_chorus_or_its_libraries_is_refused_in_a_line(what, tmp_path):
    (tmp_path / "meddles.py").write_text(CHANGES[what] + "\n")
    status, output = in_a_child("fedavg", *QUICK.split(), "--plugin", tmp_path / "meddles.py", "--export_dir", tmp_path)
    assert (status, len(output.splitlines())) == (2, 1), output
    assert f"meddles.py: changes {what}; a plugin may add to ALGORITHMS" in output


def test_a_plugin_that_changes_chorus_once_it_is_used_is_refused_too(tmp_path):
    text = "import models\ndef Late(shape, n):\n    models.Net.every_head = print\n    return models.MLP(shape, n)\n"
    (tmp_path / "meddles.py").write_text(text + "models.MODELS['Late'] = Late\n")
    words = ("fedavg", *QUICK.replace("MLP", "Late").split(), "--plugin", tmp_path / "meddles.py", "--export_dir", tmp_path)
    status, output = in_a_child(*words)
    assert (status, len(output.splitlines())) == (2, 1), output
    assert "has changed models.Net.every_head since it was loaded" in output


def test_libraries_that_a_plugin_imports_may_load_what_they_like(tmp_path):
    """torch's compiler, which the classes of torch.optim import, puts a function of its own around torch.manual_seed."""
    (tmp_path / "imports.py").write_text("import pandas, scipy.stats, sklearn.datasets\nimport torch._dynamo\n")
    message = elsewhere(
        ["-c", f"import run, plugins\nplugins.load({str(tmp_path / 'imports.py')!r})\nplugins.check()"], ROOT
    )
    assert "changes" not in message


# --- saved runs ----------------------------------------------------------------------------------------------------------


def test_saved_runs_are_read_without_the_files(folder, tmp_path):
    assert main(f"{folder}/fedavgm.py fedavg --plugin {folder}/mine.py {MINE} --seed 0 1", tmp_path / "saves") == 0
    for path in folder.iterdir():
        path.rename(path.with_suffix(".gone")) if path.is_file() else None
    message = elsewhere(["-c", READ, ROOT, tmp_path / "saves"], tmp_path)
    assert message.splitlines()[-1] == "--model Softmax: belongs to a plugin; load it first: plugins.load(FILE)"
    assert re.search(r"^fedavgm .*\(2\)|^fedavgm +\d", message, re.MULTILINE)
    assert (tmp_path / "report.html").exists()


READ = """
import sys
sys.path.insert(0, sys.argv[1])
import saves
from errors import UserError
from figures import report, status, table
from experiment import identity

folder = sys.argv[2]
table.main([folder])
status.main([folder])
report.main([folder, "-o", "report.html"])
for run in saves.find(saves.Path(folder)):
    assert identity.name_of(run.config) == run.folder.name
    assert run.summary()["steps"] > 0
try:
    run.model()
except UserError as error:
    print(error)
"""


def test_a_measure_in_a_file_is_measured_and_has_its_columns_without_the_file(folder, tmp_path):
    adds = "from measures import MEASURES\nMEASURES['sureness'] = lambda y, p: float(p.max(1).mean())\n"
    (folder / "mine.py").write_text(adds)
    assert main(f"fedavg independent --plugin {folder}/mine.py {QUICK} --measure sureness,auc", tmp_path / "saves") == 0
    runs = {run.options["algorithm"]: run.rounds.iloc[-1] for run in saves.find(tmp_path / "saves")}
    (folder / "mine.py").unlink()
    words = [tmp_path / "saves", "--columns", "accuracy", "gain", "--json"]
    result = json.loads(elsewhere(["-c", TABLE, ROOT, *words], tmp_path))
    rows = {row["algorithm"]: row for row in result["tables"][0]["rows"]}
    for name, column in (("sureness", "global_sureness_mean"), ("personal_sureness", "personal_sureness_mean")):
        for algorithm, last in runs.items():
            assert rows[algorithm][f"{name} (%)"] == pytest.approx(100 * last[column])
        gain = 100 * (runs["fedavg"][column] - runs["independent"][column])
        assert rows["fedavg"][f"gain_{name} (points)"] == pytest.approx(gain)
    refused = main(f"fedavg --plugin {folder}/beside.py {QUICK} --measure surness", tmp_path / "saves")
    assert refused == 2, "a word that no table has"


def test_a_measure_below_0_and_one_of_each_class_are_in_tables_report_and_pictures(folder, tmp_path, capsys):
    adds = (
        "import numpy as np\nfrom measures import MEASURES\nMEASURES['fit'] = lambda y, p: np.log(p[:, 0] + 1e-9).mean()\n"
    )
    (folder / "mine.py").write_text(
        adds + "MEASURES['share'] = lambda y, p: np.bincount(p.argmax(1), minlength=10) / len(y)\n"
    )
    words = f"fedavg independent --plugin {folder}/mine.py {QUICK} --measure fit,share"
    assert main(words, tmp_path / "saves") == 0
    last = saves.find(tmp_path / "saves", algorithm="fedavg")[0].rounds.iloc[-1]
    assert last["global_fit_mean"] < 0
    assert sum(last[f"global_share_{c}_mean"] for c in range(10)) == pytest.approx(1)
    for path in folder.iterdir():
        path.rename(path.with_suffix(".gone")) if path.is_file() else None
    message = elsewhere(["-c", DRAW, ROOT, tmp_path / "saves"], tmp_path)
    assert f"{100 * last['global_fit_mean']:.2f}" in message
    page = (tmp_path / "report.html").read_text()
    for words in ("fit %", "share 3 %", "personal_fit: each client"):
        assert words in page
    for picture in ("curves", "pareto"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000


DRAW = """
import sys
sys.path.insert(0, sys.argv[1])
from figures import curves, pareto, report, table

folder = sys.argv[2]
table.main([folder, "--metric", "fit"])
report.main([folder, "--metric", "share_3", "-o", "report.html"])
curves.main([folder, "--metric", "fit", "personal_share_3", "-o", "curves.png"])
pareto.main([folder, "--metric", "fit", "-o", "pareto.png"])
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("None", "on 10 examples of 10 classes it fails: TypeError"),
        ("7.5", "on 10 examples of 10 classes it returns 7.5; must be at most 1, and larger is better"),
        ("p", "on 10 examples of 10 classes it returns an array [10, 10]; must return a number, or a number per class"),
        (
            "1 / (len(set(y)) - 1)",
            "on 10 examples of 1 classes it fails: ZeroDivisionError: division by zero; it may return NaN",
        ),
        ("1.0 if len(y) < 11 else y[len(y)]", "classes it fails: IndexError: index"),  # in the first round
    ],
)
def test_a_measure_that_fails_is_one_line(function, message, folder, tmp_path, capsys):
    (folder / "mine.py").write_text(f"from measures import MEASURES\nMEASURES['picky'] = lambda y, p: {function}\n")
    assert main(f"fedavg --plugin {folder}/mine.py {QUICK} --measure picky", tmp_path / "saves") in (1, 2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run.py")]
    assert line.startswith("run.py: --measure picky: on ")
    assert message in line


TABLE = """
import sys
sys.path.insert(0, sys.argv[1])
from figures import table

table.main(sys.argv[2:])
"""


# --- the shared tests ----------------------------------------------------------------------------------------------------


def held_to(path, some, ok=0):
    """What pytest says of an algorithm in a file, by some of the tests over all algorithms."""
    return elsewhere(
        [
            "-m",
            "pytest",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "-rs",
            "--method",
            path,
            "tests/test_algorithms.py",
            "-k",
            some,
        ],
        ROOT,
        ok,
    )


def test_the_shared_tests_hold_it_to_what_all_must_keep_to(folder):
    """The second changes the server's model in place; the third is no algorithm."""
    message = held_to(folder / "fedavgm.py", "in_place or worked_out_by_hand or goes_on or registered")
    assert sorted(re.search(r"^([.s]+) +\[100%\]$", message, re.MULTILINE)[1]) == list("...ss")
    assert "SKIPPED [2]" in message
    assert "outside the house no closed form is known" in message
    in_place = 'before["classifier.bias"].add_(1)'
    (folder / "careless.py").write_text(FEDAVGM.replace("    aggregate(", f"    {in_place}\n    aggregate("))
    assert "1 failed" in held_to(folder / "careless.py", "in_place", ok=1)
    assert "ERROR: --method" in held_to(folder / "beside.py", "in_place", ok=4)


OUTSIDE = "own_loss(federation, *p) for p in zip(clients, received)"


def test_the_example_with_two_messages_keeps_to_the_shared_tests_and_without_one_it_does_not(tmp_path):
    """The second sums up outside of a client's work; the third averages weights that no client has sent."""
    (tmp_path / "fedfair.py").write_text(FEDFAIR)
    assert "1 failed" not in held_to(tmp_path / "fedfair.py", "same_messages or added_up or goes_on or in_place")
    for (old, new), some in (
        (("federation.map_clients(own_loss, clients, received)", f"[{OUTSIDE}]"), "added_up"),
        (('federation.wire.up("weights", rows, clients)', "rows"), "same_messages_a"),
    ):
        assert FEDFAIR.count(old) == 1
        (tmp_path / "careless.py").write_text(FEDFAIR.replace(old, new))
        assert "1 failed" in held_to(tmp_path / "careless.py", some, ok=1)


def test_the_example_with_two_messages_is_fedavg_if_nothing_is_fair_and_nothing_is_kept(tmp_path):
    (tmp_path / "fedfair.py").write_text(FEDFAIR)
    words = f"{tmp_path}/fedfair.py fedavg {QUICK} --lr 0.01 --fairness 0 --client_momentum 0 --participation 0.7"
    assert main(words, tmp_path / "runs") == 0
    item, other = (run.weights()["global"] for run in saves.find(tmp_path / "runs"))
    for name, tensor in item.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-5)


# --- mistakes ------------------------------------------------------------------------------------------------------------

TABLES = """
from torch import nn
from algorithms import ALGORITHMS
from data.augment import AUGMENTATIONS
from data.datasets import LOADERS
from data.partition import PARTITIONS
from helpers import SCHEDULES
from models import MODELS, Net
from federation.optimizers import OPTIMIZERS
"""
MISTAKES = {
    "leaves.py": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "number.py": (TABLES + "MODELS[3] = MODELS['MLP']\n", "the name 3 in MODELS; must consist of letters, digits"),
    "comma.py": (TABLES + "MODELS['A,B'] = MODELS['MLP']\n", "the name 'A,B' in MODELS; must consist of"),
    "no_method.py": (TABLES + "ALGORITHMS['X'] = None\n", "ALGORITHMS['X'] is not a complete algorithm"),
    "loss_3.py": (FEDAVGM.replace("loss = cross_entropy", "loss = 3"), "missing: loss(model, batch, context, options)"),
    "bounds.py": (
        FEDAVGM.replace("flag(0.9, Number", "flag(1.5, Number"),
        "missing: another default for its flag server_momentum: 1.5 must be a number at least 0 and below 1",
    ),
    "shared_bounds.py": (
        FEDAVGM.replace("    server_momentum", "    lr: float = -1.0\n    server_momentum"),
        "missing: another default for its flag lr: -1.0 must be a number above 0",
    ),
    "steps.py": (TABLES + "AUGMENTATIONS['X'] = 'flip'\n", "AUGMENTATIONS['X'] is 'flip'; must be a tuple of steps"),
    "rate.py": (TABLES + "SCHEDULES['X'] = lambda done: None\n", "SCHEDULES['X'] fails: TypeError"),
    "ratio.py": (
        TABLES + "PARTITIONS['X'] = lambda pool, generator, ratio=2: None\n",
        "PARTITIONS['X'] reads ratio, which is not a flag of all methods; must be a function of (pool, generator, ",
    ),
    **{
        f"{table}_{kind}.py".lower(): (f"{TABLES}{table}['X'] = {thing}\n", f"{table}['X'] {message}")
        for table in ("LOADERS", "MODELS", "PARTITIONS", "OPTIMIZERS", "SCHEDULES")
        for kind, thing, message in (
            ("none", "None", "is None; must be a function of ("),
            ("call", "lambda *, x: 1", "cannot be called: too many positional arguments; must be a function of ("),
        )
    },
    "network.py": (
        TABLES + "MODELS['X'] = nn.ReLU()\n",
        "MODELS['X'] is a network; must be a function of (shape, n_classes",
    ),
    "my_measure.py": (
        "from measures import MEASURES\nMEASURES['X'] = lambda y: 1\n",
        "MEASURES['X'] cannot be called: too many positional arguments; must be a function of (y, p)",
    ),
    "nowhere.py": (None, "no such file; must be a Python file"),
    "fedavg.py": (FEDAVGM, "fedavg is the name of a module of Chorus"),
    "helpers.py": (FEDAVGM, "helpers is the name of another module"),
    "colorsys.py": (FEDAVGM, "colorsys is the name of another module"),
    "my-own.py": (FEDAVGM, "my-own is not a valid module name"),
    "half_one.py": (
        FEDAVGM.replace("def start", "def begin"),
        "is not a complete algorithm; missing: start(federation, options)",
    ),
    "two_less.py": (
        FEDAVGM.replace('"""', "'''", 1)
        .replace('"""', "'''", 1)
        .replace("'''FedAvgM:", "x = '''FedAvgM:")
        .replace("loss =", "lo ="),
        "missing: docstring (its first line says what is sent), loss(model, batch, context, options)",
    ),
    "thawed.py": (FEDAVGM.replace("@dataclass(frozen=True)\n", ""), "Options (a frozen dataclass that inherits"),
    "of_launch.py": (FEDAVGM.replace("server_momentum: float", "jobs: float"), "its flag jobs (this name is a launch flag)"),
    "changes.py": ("from models import MODELS, MLP\nMODELS['LeNet5'] = MLP\n", "changes LeNet5, which already exists"),
    "not_python.py": ("x = 1\nif x\n", "line 2: SyntaxError"),
    "fails_late.py": ("x = 1\n\nx = y\n", "line 3: NameError: name 'y' is not defined"),
    "fails_deep.py": ("import zz_not_there\n", "line 1: ModuleNotFoundError"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_file_is_one_line_and_leaves_nothing(name, tmp_path, capsys):
    text, result = MISTAKES[name]
    if text:
        (tmp_path / name).write_text(text)
    tables, modules = [dict(table) for table in plugins.TABLES], set(sys.modules)
    assert main(f"{tmp_path}/{name} {QUICK}", tmp_path / "saves") == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith(f"run.py: algorithm {tmp_path}/{name}")
    assert result in err
    assert [dict(table) for table in plugins.TABLES] == tables
    assert set(sys.modules) == modules
    assert not plugins.LOADED


USED = {  # flags, and what is said of them
    "MODELS['X'] = lambda shape, n_classes: Net(nn.Flatten(), 64, 5)": (
        "--model X",
        "--model X: {file}: an entry that it adds does not work: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "MODELS['X'] = lambda shape, n_classes: Net(nn.Flatten(), 784, 5)": (
        "--model X",
        "--model X: has 5 outputs, but the data have 10 classes; a model is a class or function of (shape, n_classes)",
    ),
    "MODELS['X'] = lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 5))": (
        "--model X",
        "--model X: has 5 outputs, but the data have 10 classes; a model is a class or function of (shape, n_classes)",
    ),
    "MODELS['X'] = lambda shape, n: nn.Sequential(nn.Flatten(), nn.Linear(784, n), nn.LogSoftmax(1))": (
        "--model X",
        "--model X: its forward returns other numbers than its last Linear layer, 1; return the output of a Linear layer",
    ),
    "MODELS['X'] = lambda shape, n: nn.Linear(28, n)": (
        "--model X",
        "--model X: its forward returns numbers of no Linear layer; return the output of a Linear layer, or name",
    ),
    "MODELS['X'] = lambda shape, n: nn.Sequential(nn.Flatten(2), nn.Linear(784, n))": (
        "--model X",
        "--model X: its head 1 reads [1, 1, 784] for one image; it must read [1, D], in a single call",
    ),
    "MODELS['X'] = lambda shape, n: 3": (
        "--model X",
        "--model X: is a int, not an nn.Module; a model is a class or function",
    ),
    "MODELS['X'] = lambda channels, classes: nn.Conv2d(channels, 8, 3)": (
        "--model X",
        "--model X: {file}, line 10: TypeError: unsupported operand type(s) for %: 'tuple' and 'int'; a model is",
    ),
    "MODELS['X'] = lambda shape, n: exit(3)": ("--model X", "--model X: {file}, line 10: SystemExit: 3; a model is"),
    "LOADERS['X'] = lambda source: None": (
        "--model MLP --dataset X",
        "--dataset X: its loader returns NoneType; must return a Data",
    ),
    "LOADERS['X'] = lambda source: source.nothing": ("--model MLP --dataset X", "--dataset X: 'Source' object has no"),
    "PARTITIONS['X'] = lambda pool, generator: None": (
        "--model MLP --partition X",
        "{file}: an entry that it adds does not work: TypeError: cannot unpack",
    ),
}


@pytest.mark.parametrize("text", USED)
def test_what_a_plugin_adds_and_does_not_work_is_one_line(text, tmp_path, capsys):
    flags, message = USED[text]
    (tmp_path / "wrong.py").write_text(f"{TABLES}{text}\n")
    assert main(f"fedavg {QUICK.replace('--model MLP', flags)} --plugin {tmp_path}/wrong.py", tmp_path / "saves") == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message.replace("{file}", str(tmp_path / "wrong.py")) in err


# --- networks ------------------------------------------------------------------------------------------------------------

NETWORKS = """
import torch
import torch.nn.functional as F
from torch import nn


class Plain(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(in_channels, 4, 3), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(4 * 26 * 26, 20), nn.Linear(20, num_classes)

    def features(self, x):
        return F.relu(self.fc1(F.relu(self.conv(x)).view(-1, 4 * 26 * 26)))  # `view` depends on the layout

    def forward(self, x):
        return self.fc2(self.drop(self.features(x)))


class Named(Plain):
    head = "fc2"

    def forward(self, x):
        return {"probabilities": super().forward(x).softmax(1)}


class WrongName(Plain):
    head = "conv"


class NoNumber(Plain):
    def forward(self, x):
        return {"logits": super().forward(x)}


class Huge(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.fc1, self.fc2 = nn.Linear(4 * 26 * 26, 8_000_000), nn.Linear(8_000_000, num_classes)  # 87 GB


class Images(Plain):
    def forward(self, x):
        x -= 0.5
        return super().forward(x)


class Clamped(Plain):
    def forward(self, x):
        with torch.no_grad():
            self.fc1.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


class Overwritten(Plain):
    def forward(self, x):
        hidden = self.features(x).sigmoid()
        square = hidden * hidden
        hidden += 1
        return self.fc2(square)


class AlwaysDropped(Plain):
    def forward(self, x):
        return self.fc2(F.dropout(self.features(x)))


class Fails(Plain):
    def forward(self, x):
        return self.fc2(x)


three = 3
"""


@pytest.fixture
def networks(folder):
    (folder / "mine.py").write_text(NETWORKS)
    return folder / "mine.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WrongName", "--model mine.WrongName: its head = 'conv' is none of its Linear layers, fc1, fc2"),
        ("NoNumber", "--model mine.NoNumber: its forward returns other numbers than its last Linear layer, fc2; return the"),
        ("Huge", "--model mine.Huge: its weights take more than"),
        ("Clamped", "--model mine.Clamped: changes fc1.weight in place in forward; compute a new tensor instead"),
        ("Overwritten", "--model mine.Overwritten: cannot be trained: one of the variables needed for gradient computation"),
        (
            "AlwaysDropped",
            "--model mine.AlwaysDropped: is random in evaluation mode; F.dropout needs training=self.training",
        ),
        ("Fails", "mine.py, line 70: RuntimeError: mat1 and mat2 shapes cannot be multiplied (28x28 and 20x10); a model"),
        ("three", "mine.py:three: three is 3; must be a function of (shape, n_classes, feature_dim, heads)"),
        ("Nothing", "mine.py has no Nothing; its networks are Plain, Named, WrongName, NoNumber, Huge, Images, Clamped"),
    ],
)
def test_a_network_that_cannot_be_trained_is_one_line(name, message, networks, tmp_path, capsys):
    assert main(f"fedavg {QUICK.replace('MLP', f'{networks}:{name}')}", tmp_path / "saves") == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


@pytest.mark.parametrize("flag", ["--model {file}", "--model={file}:Plain,{file}", "-m {file}"])
def test_a_file_without_the_name_of_a_network_is_one_line(flag, networks, tmp_path, capsys):
    assert main(f"fedavg {flag.replace('{file}', str(networks))}", tmp_path / "saves") == 2
    assert f"--model {networks}: must name a network in the file, as in {networks}:Net" in capsys.readouterr().err


def test_a_network_in_a_file_is_a_model_in_every_process_and_in_a_saved_run(networks, tmp_path):
    words = f"fedavg moon {QUICK.replace('MLP', f'{networks}:Named')}"
    assert main(f"{words} --jobs 1 --workers 1", tmp_path / "here") == 0
    for export, where in (("jobs", "--jobs 2"), ("workers", "--jobs 1 --workers 2")):
        elsewhere([ROOT / "run.py", *shlex.split(f"{words} {where}"), "--export_dir", export], tmp_path)
        for left, right in zip(*(saves.find(tmp_path / place) for place in ("here", export)), strict=True):
            assert left.folder.name == right.folder.name
            assert_same(left, right)
    run = saves.find(tmp_path / "here")[0]
    assert run.options["model"] == ["mine.Named"]
    again = "import sys, saves, plugins; plugins.load(sys.argv[1]); run = saves.load(sys.argv[2]); print(run.model(1))"
    assert "fc1" in elsewhere(["-c", again, f"{networks}:Named", run.folder], ROOT)


def test_the_features_of_a_network_are_what_its_head_reads(networks):
    mine = plugins.load(f"{networks}:Named")
    model = models.build("mine.Named", (1, 28, 28), 7, 1).eval()
    x, network = torch.rand(3, 1, 28, 28), model.body.network
    features, logits = model(x)
    assert torch.equal(features, mine.Plain.features(network, x))
    assert torch.equal(logits, model.classifier(features)), "what follows the head is left out"
    assert model.names("head") == {"classifier.weight", "classifier.bias"}
    assert model.names("body") == {f"body.network.{part}.{t}" for part in ("conv", "fc1") for t in ("weight", "bias")}


def test_a_network_trains_to_the_same_bits_whatever_torch_drew_before(networks):
    plugins.load(f"{networks}:Plain")
    federation = tiny_federation(tiny_data(size=28), model="mine.Plain", dtype=torch.float32)
    options = algorithms.options_of("fedavg")(algorithm="fedavg", n_clients=3, rounds=1)
    rows = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = algorithms.ALGORITHMS["fedavg"].start(federation, options)
        algorithms.ALGORITHMS["fedavg"].communicate(federation.at(1), state, options)
        rows.append(state["server"])
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])


def test_the_command_that_makes_a_run_names_its_network(networks):
    commandline.bring(argv := ["fedavg", "--model", f"{networks}:Plain", "MLP"])
    classes = algorithms.all_options()
    runs, launch, _ = commandline.parse(argv, classes, dict.fromkeys(classes, ""))
    own, other = (commandline.command_of(run, launch) for run in runs)
    assert f"--model mine.Plain --plugin {networks}:Plain" in own
    assert "--plugin" not in other
    again, _, _ = commandline.parse(shlex.split(own)[2:], classes, dict.fromkeys(classes, ""))
    assert again == runs[:1]


def test_a_plugin_may_be_written_in_another_encoding(folder):
    text = "# -*- coding: latin-1 -*-\n" + HEAD + "NAME = 'é'\nMODELS['Mine'] = MODELS['MLP']\n"
    (folder / "mine.py").write_bytes(text.encode("latin-1"))
    assert plugins.load(folder / "mine.py").NAME == "é"
    before = source_of("fedavg", model=("Mine",))
    (folder / "mine.py").write_bytes(text.replace("é", "è").encode("latin-1"))
    assert source_of("fedavg", model=("Mine",)) != before


def test_an_interrupt_while_a_plugin_is_imported_is_one(tmp_path):
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        plugins.load(tmp_path / "interrupted.py")
    assert not plugins.LOADED


def test_a_changed_file_is_loaded_again_with_what_it_imports(folder):
    first = plugins.load(folder / "mine.py")
    assert plugins.load(folder / "mine.py") is first
    before = source_of("fedavg", dataset="stripes")
    (folder / "beside.py").write_text("K = 22\n")
    second = plugins.load(folder / "mine.py")
    assert (first.beside.K, second.beside.K) == (1, 22)
    assert models.MODELS["Softmax"] is second.Softmax is not first.Softmax
    assert source_of("fedavg", dataset="stripes") != before
    (folder / "mine.py").write_text("from models import MODELS, MLP\nMODELS['Mine'] = MLP\n")
    plugins.load(folder / "mine.py")
    assert "Mine" in models.MODELS
    assert "Softmax" not in models.MODELS, "what the file no longer adds is gone"
    plugins.check()


def test_two_files_of_one_name_are_refused_and_one_file_twice_is_one(folder, tmp_path):
    (tmp_path / "fedavgm.py").write_text(FEDAVGM)
    assert plugins.load(folder / "fedavgm.py") is plugins.load(f"{folder}/../code/fedavgm.py")
    assert "fedavgm is the name of another module" in line_of(plugins.load, tmp_path / "fedavgm.py")
    assert main(f"{folder}/fedavgm.py fedavgm {QUICK}", tmp_path / "saves") == 0
    assert len(list(saves.find(tmp_path / "saves"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "{code}/beside.py",
            "beside.py: is not an algorithm; missing: docstring (its first line says what is sent), Options",
        ),
        ("fedavg --plugin", "--plugin: the value is missing"),
        ("fedavg --plugin x", "--plugin x: must be a Python file, NAME.py, or several joined by commas"),
        ("fedavg --plugin x.py", "--plugin x.py: no such file"),
        ("fedavg --plugin {code}/mine.py {code}/fedavgm.py", "--plugin: takes one value, got 2"),
        ("fedavg --plugin {code}/mine.py --model Softmx", "did you mean Softmax?"),
        (
            "fedavg --plugin {code}/mine.py --partition halving --alpha 3",
            "--alpha 3.0: applies only with --partition dirichlet",
        ),
        ("{code}/fedavgm.py --server_momentum 2", "--server_momentum 2: must be a number at least 0 and below 1"),
        ("fedavg --server_momentum 0.5", "--server_momentum: not a flag of these methods"),
    ],
)
def test_a_mistake_with_plugins_is_one_line(words, message, folder, tmp_path, capsys):
    assert main(words.replace("{code}", str(folder)), tmp_path / "saves") == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err


def test_what_a_plugin_adds_is_told_by_the_flags(folder, capsys):
    with pytest.raises(SystemExit):
        command.main(["fedavg", "--plugin", str(folder / "mine.py"), "-h"])
    output = " ".join(capsys.readouterr().out.split())
    assert "stripes" not in output, "names of data sets, models and partitions are in lists"
    for kind, name in (("datasets", "stripes"), ("models", "Softmax"), ("partitions", "halving")):
        assert command.main(["fedavg", "--plugin", str(folder / "mine.py"), "--list", kind]) == 0
        assert name in capsys.readouterr().out.splitlines()[-1]
