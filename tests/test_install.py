"""Chorus installed: a wheel of everything, in an environment of its own, used from an empty folder."""

import json
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from test_docs import EXAMPLES, copied
from test_experiment import assert_same
from test_house import STAIRCASE

import saves

DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_INSTALLED = ("papers",)  # whose results are recorded in a checkout
WORDS = shlex.split("--n_clients 3 --rounds 2 --reduced 0.1 --model MLP --threads 1 --track_features 2 --quiet")


def python(*words, cwd):
    """What a command says, which has to succeed."""
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with Chorus, and with the libraries of this one."""
    pytest.importorskip("setuptools", minversion="77")
    place = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = ["--no-deps", "--no-build-isolation", "--wheel-dir", place]
    python(*pip, "wheel", copied(place / "house"), *built, cwd=place)
    venv.create(place / "environment", with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place / "environment")}))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = place.glob("*.whl")
    binaries = place / "environment" / "bin"
    python(*pip, "--python", binaries / "python", "install", "--no-deps", "--no-index", wheel, cwd=place)
    return packages, binaries


def test_all_of_the_house_is_in_one_package_and_nothing_beside_it(installed):
    packages, _ = installed
    assert {path.name.partition("-")[0] for path in packages.iterdir()} == {"chorus", "chorus_bench", "libraries.pth"}
    rooms = [ROOT / f"{name}.py" for name in STAIRCASE if (ROOT / f"{name}.py").exists()]
    rooms += [path for name in STAIRCASE if name not in NOT_INSTALLED for path in (ROOT / name).rglob("*.py")]
    expected = {str(path.relative_to(ROOT)) for path in rooms} | {"__init__.py"}
    assert {str(path.relative_to(packages / "chorus")) for path in (packages / "chorus").rglob("*.py")} == expected
    assert len(list((packages / "chorus" / "figures" / "report").glob("page.*"))) == 3


def test_a_run_is_the_same_as_in_a_checkout_and_lies_where_the_command_was_given(installed, tmp_path):
    """In worker processes too, with an algorithm of one's own, and with a file beside it of a name that the house has."""
    (tmp_path / "fedavgm.py").write_text(EXAMPLES["algorithms/fedavgm.py"])
    (tmp_path / "models.py").write_text("raise ImportError\n")
    words = ["./fedavgm.py", "fedavg", *WORDS]
    python(installed[1] / "chorus", *words, "--jobs", "2", cwd=tmp_path)
    python(sys.executable, ROOT / "run.py", *words, "--jobs", "1", "--export_dir", "checkout", cwd=tmp_path)
    there, here = (saves.find(tmp_path / place) for place in ("saves", "checkout"))
    assert len(there) == len(here) == 2
    for run_experiment, other in zip(there, here, strict=True):
        assert run_experiment.folder.name == other.folder.name
        assert_same(run_experiment, other)
        assert run_experiment.config["revision"] is None, "it is no checkout"
    assert "fedavgm" in python(installed[1] / "python", "-m", "chorus.figures.table", "saves", cwd=tmp_path)
    result = json.loads(python(installed[1] / "python", "-c", IN_PYTHON, cwd=tmp_path))
    assert result == [2, True, True, True, "saves", 0, "chorus.nothing", "chorus.run is a function; its module is run", True]


IN_PYTHON = """
import json, sys
from chorus import saves
runs = saves.find("saves")
import chorus.saves, chorus.figures.curves
import saves as own
import figures.curves
from chorus.saves import Run
try:
    import chorus.nothing
except ModuleNotFoundError as error:
    missing = error.name
try:
    import chorus.run
except ModuleNotFoundError as error:
    refused = str(error)
folders = [run.folder for run in runs]
flags = dict(n_clients=3, rounds=2, reduced=0.1, model="MLP", threads=1, track_features=2, quiet=True)
_, again = chorus.run("./fedavgm.py", "fedavg", **flags)
same = [chorus.saves is own, chorus.figures.curves is figures.curves, type(runs[0]) is Run]
predicted = runs[0].predict(0, runs[0].data().x[:0])
print(json.dumps([len(runs), *same, own.__spec__.name, len(predicted), missing, refused, again.folder in folders]))
"""


def test_a_module_of_somebody_else_in_the_place_of_ours_is_refused(installed, tmp_path):
    (tmp_path / "models.py").write_text("")
    words = "import models\ntry:\n    import chorus\nexcept ImportError as error:\n    print(error)"
    line = python(installed[1] / "python", "-c", words, cwd=tmp_path).strip()
    assert line == (
        f"the module models of chorus cannot be imported, because {tmp_path / 'models.py'} is already imported; import "
        "chorus first"
    )


def test_ranges_begin_with_what_the_tests_are_run_with():
    locked = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if line[0] != "#"]
    ranges = {item.name: item.specifier for item in map(Requirement, DECLARED["project"]["dependencies"])}
    assert ranges.keys() == {item.name for item in locked}
    for entry in locked:
        (pin,) = entry.specifier
        assert {part.operator: part.version for part in ranges[entry.name]}[">="] == pin.version
        assert pin.version in ranges[entry.name]
