"""Runs on the nodes of a Ray cluster: the same bits as here, whatever is killed. Two nodes are two sets of processes of this
machine. Most is skipped where Ray (requirements-cluster.txt) is not installed."""

import importlib.util
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import ROOT, line_of
from test_experiment import assert_same, prepared

import run as command
import saves
from figures import status
from launch import Failed, launch, loggers, loop
from launch.display import Display
from options import Launch

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install -r requirements-cluster.txt")
STUDY = "fedavg cfkd --n_clients 3 --reduced 0.2 --model MLP --seed 0 1 2 3 --lr 0.01"
ROUNDS = 150


def test_where_ray_is_not_installed_a_line_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "launch.ray", raising=False)
    monkeypatch.delattr("launch.ray", raising=False)
    assert command.main(f"{STUDY} --rounds 1 --ray auto --quiet --export_dir {tmp_path}".split()) == 2
    text = "--ray auto: Ray is not installed; run python -m pip install -r requirements-cluster.txt"
    assert capsys.readouterr().err == f"run.py: {text}\n"


@pytest.fixture(scope="module")
def cluster():
    """A head that carries nothing out, and one node of one core; tests add others."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    result = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "ray_client_server_port": port})
    result.outside = f"ray://127.0.0.1:{port}"
    result.add_node(num_cpus=1)
    yield result
    result.shutdown()


@pytest.fixture
def second(cluster):
    """One node more for a test."""
    node = cluster.add_node(num_cpus=1)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


def started(address: str, folder: Path) -> subprocess.Popen:
    """A study of eight runs of some seconds each, on the cluster."""
    command = f"{STUDY} --rounds {ROUNDS} --quiet --ray {address} --export_dir {folder}"
    return subprocess.Popen(
        [sys.executable, "run.py", *command.split()], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def under_way(folder: Path) -> dict[str, int]:
    """{run: round of its checkpoint} of those that are not done."""
    result = {path.parent for path in folder.glob("*/checkpoint-*.pt") if not path.with_name("done").exists()}
    return {path.name: saves.saved_round(path) for path in result}


def both_are_at_work(folder: Path) -> bool:
    """Both nodes, with some rounds behind and some before them."""
    rounds = under_way(folder).values()
    return len(rounds) == 2 and max(rounds) < ROUNDS * 0.8


def wait_for(process: subprocess.Popen, condition) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study one run after another on this machine -> its runs."""
    folder = tmp_path_factory.mktemp("whole")
    assert command.main(f"{STUDY} --rounds {ROUNDS} --quiet --jobs 1 --export_dir {folder}".split()) == 0
    return list(saves.find(folder))


def files_of(run) -> set[str]:
    """The names of the files in a run's folder, but for the digests of checkpoints, in which times are."""
    return {path.name.rpartition("-")[0] or path.name for path in run.folder.iterdir()}


def assert_all_the_same(whole, folder: Path) -> dict[str, list[int]]:
    """The runs in the folder are those, to the last bit, each round once -> {run: after which rounds it went on}."""
    result = list(saves.find(folder))
    assert [run.folder.name for run in result] == [run.folder.name for run in whole]
    for item, other in zip(whole, result, strict=True):
        untimed = [run.history.drop(columns=list(saves.TIMING)) for run in (item, other)]
        pd.testing.assert_frame_equal(*untimed, check_exact=True)
        assert {a: saves.digest(w) for a, w in item.weights().items()} == {
            a: saves.digest(w) for a, w in other.weights().items()
        }
        assert files_of(item) == files_of(other)
        assert list(pd.read_csv(other.folder / "history.csv")["round"]) == list(range(ROUNDS + 1)), "each round once"
    return {run.folder.name: resumed(run.folder) for run in result}


def resumed(folder: Path) -> list[int]:
    return [int(r) for r in re.findall(r"resumed after round (\d+) of", (folder / "run.log").read_text())]


def begun(folder: Path) -> int:
    return (folder / "run.log").read_text().count(" DEBUG run.py ") if (folder / "run.log").exists() else 0


def create(experiments, cluster, display, **flags) -> dict:
    """{folder: result} of runs that the nodes make."""
    from launch.ray import Nodes

    place = Nodes(Launch(ray=cluster.address, **flags), experiments, loggers.ALWAYS)
    return {run_experiment.folder: result for run_experiment, result in loop.make_runs(experiments, place, display)}


@needs_ray
def test_a_run_on_another_node_is_the_same_bits_and_files_and_tells_its_rounds(cluster, tmp_path):
    (tmp_path / "edges.txt").write_text("0 1\n1 2\n")
    graph = {"topology": "file", "topology_file": tmp_path / "edges.txt"}

    def study(export):
        bad = prepared("independent", export, optimizer="sgd", lr=1e30)
        return [bad, prepared("fedavg", export), prepared("data_exchange", export, **graph), prepared("cfkd", export)]

    class Hearing(Display):
        every, heard = 0.0, []

        def write(self, lines):
            self.heard += [(folder, self.standings[folder].round) for folder in self.running]

    here = [result for _, result in launch(study(tmp_path / "here"), Launch(quiet=True))]
    away = study(tmp_path / "away")
    came = create(away, cluster, shown := Hearing(away))
    there = [came[run_experiment.folder] for run_experiment in away]
    assert isinstance(there[0], Failed)
    assert there[0].reason == here[0].reason, "and it stops no other"
    assert (there[0].log.with_name("failed")).read_text() == (here[0].log.with_name("failed")).read_text()
    for item, other in zip(here[1:], there[1:], strict=True):
        assert_same(item, other)
        assert files_of(item) == files_of(other)
        assert {**item.config, "options": {**item.options}} == other.config
    assert (tmp_path / "away" / "result.xlsx").exists(), "the row of a run on a graph, beside the runs"
    assert {folder for folder, r in shown.heard if r > 0} >= {run_experiment.folder for run_experiment in away[1:]}
    assert not shown.running
    assert not any(saves.at_work(run_experiment.folder) for run_experiment in away)


@needs_ray
def test_a_node_that_is_killed_costs_no_run_more_than_the_rounds_since_its_checkpoint(cluster, second, whole, tmp_path):
    process = started(cluster.address, tmp_path)
    wait_for(process, lambda: both_are_at_work(tmp_path))
    at_work = under_way(tmp_path)
    (raylet,) = [started.process for started in second.all_processes["raylet"]]
    for victim in [psutil.Process(raylet.pid), *psutil.Process(raylet.pid).children(recursive=True)]:
        victim.kill()
    cluster.remove_node(second, allow_graceful=False)
    out, err = process.communicate()
    assert process.returncode == 0, err
    went_on = assert_all_the_same(whole, tmp_path)
    (name,) = [name for name, rounds in went_on.items() if rounds]
    assert name in at_work, "one run was on the node"
    assert all(begun(tmp_path / name) == 1 + len(rounds) for name, rounds in went_on.items()), "none began anew"
    (after,) = went_on[name]
    assert after >= at_work[name] > 0
    print(f"killed after round {at_work[name]} or later, went on after round {after} of {ROUNDS}")


@needs_ray
def test_a_run_whose_worker_is_killed_time_after_time_has_failed(cluster, tmp_path):
    from launch.ray import Nodes

    def times_in(folder):
        return (folder / "run.log").read_text().count(" in /") if (folder / "run.log").exists() else 0

    class Killing(Display):
        every, begun = 0.0, 0

        def begins(self, item):
            super().begins(item)
            self.begun += 1

        def write(self, lines):
            (node,) = cluster.worker_nodes
            (raylet,) = [started.process for started in node.all_processes["raylet"]]
            for child in psutil.Process(raylet.pid).children():
                if child.name().startswith("ray::make_run") and times_in(run_experiment.folder) == self.begun:
                    child.kill()

    run_experiment = prepared("fedavg", tmp_path, rounds=100_000)
    ((_, failed),) = create([run_experiment], cluster, display := Killing([run_experiment])).items()
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("fedavg --seed 0: ")
    assert failed.reason.endswith(f", {Nodes.tries} times")
    assert display.begun == Nodes.tries == 3
    assert not display.running
    assert not saves.at_work(run_experiment.folder)


@needs_ray
def test_the_same_command_after_its_caller_was_killed_does_only_what_is_missing(cluster, second, whole, tmp_path):
    process = started(cluster.address, tmp_path)
    wait_for(process, lambda: list(tmp_path.glob("*/done")) and both_are_at_work(tmp_path))
    process.kill()
    process.communicate()
    done = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/done")}
    left = under_way(tmp_path)
    until = time.monotonic() + 60
    while any(saves.at_work(folder) for folder in tmp_path.iterdir()):
        assert time.monotonic() < until, "Ray ends the tasks of a process that is gone"
        time.sleep(0.1)
    again = started(cluster.address, tmp_path)
    _, err = again.communicate()
    assert again.returncode == 0, err
    went_on = assert_all_the_same(whole, tmp_path)
    assert {name: (tmp_path / name / "done").stat().st_mtime_ns for name in done} == done, "what was done stayed"
    assert all(len(went_on[name]) == 1 and went_on[name][0] >= r for name, r in left.items())
    assert all(begun(tmp_path / name) == 1 + (name in left) for name in went_on)
    print(f"killed when {len(done)} of {len(went_on)} were done; went on after round {sorted(left.values())} of {ROUNDS}")


@needs_ray
def test_two_callers_at_once_make_each_run_once(cluster, second, whole, tmp_path):
    both = [started(cluster.address, tmp_path) for _ in range(2)]
    lines = [caller.communicate() for caller in both]
    assert [caller.returncode for caller in both] == [0, 0], lines
    assert lines[0][0] == lines[1][0]
    assert not any(assert_all_the_same(whole, tmp_path).values())
    assert [begun(folder) for folder in tmp_path.iterdir()] == [1] * 8


@needs_ray
@pytest.mark.parametrize(("name", "code", "place"), [("SIGINT", 130, "address"), ("SIGTERM", 143, "outside")])
def test_a_signal_saves_the_last_finished_round_of_every_run(name, code, place, cluster, tmp_path):
    process = started(getattr(cluster, place), tmp_path)
    wait_for(process, lambda: any(r > 20 for r in under_way(tmp_path).values()))
    before = under_way(tmp_path)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate()
    assert process.returncode == code, err
    assert err.splitlines()[-1] == "stopped; rerun the same command to resume after the last finished round"
    assert "Traceback" not in err
    for run, r in before.items():
        folder = tmp_path / run
        assert not saves.at_work(folder)
        if (folder / "done").exists():  # it was faster
            continue
        assert saves.saved_round(folder) >= r
        assert "stopped" in (folder / "run.log").read_text(), "by itself: it left what it had"
        assert status.status(folder)["status"] == "stopped"


@needs_ray
def test_a_node_of_another_kind_declines_unless_any_node(cluster, tmp_path):
    run_experiment = prepared("fedavg", tmp_path)
    elsewhere = {**run_experiment.config["environment"], "processor": "another one"}
    run_experiment = replace(run_experiment, config={**run_experiment.config, "environment": elsewhere, "source": "0" * 64})
    line = line_of(lambda: list(launch([run_experiment], Launch(quiet=True, ray=cluster.address))))
    assert line.startswith("--ray: all nodes decline; ")
    assert "another one" in line
    assert not (run_experiment.folder / "config.json").exists()
    ((_, run),) = launch([run_experiment], Launch(quiet=True, ray=cluster.address, any_node=True))
    assert run.folder == run_experiment.folder, "under the name that it was given"
    assert run.config["environment"]["processor"] != "another one"
    assert run.config["any_node"]


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere://1"])
def test_no_cluster_at_the_address_is_a_mistake(address, tmp_path, capsys):
    words = f"fedavg --rounds 1 --n_clients 3 --ray {address} --quiet --export_dir {tmp_path}"
    assert command.main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run.py: --ray {address}: no usable cluster found (")


@needs_ray
def test_a_plugin_goes_to_the_nodes(cluster, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine_of_ray.py").write_text((ROOT / "algorithms" / "fedavg.py").read_text())
    words = "mine_of_ray.py --n_clients 3 --reduced 0.1 --model MLP --rounds 1 --quiet --export_dir saves --ray"
    run = [sys.executable, str(ROOT / "run.py"), *words.split(), cluster.address]
    done = subprocess.run(run, cwd=tmp_path / "mine", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run_experiment,) = saves.find(tmp_path / "mine" / "saves")
    assert run_experiment.folder.name.startswith("mine_of_ray-"), (
        "paths are those of the folder in which the command was given"
    )


@needs_ray
def test_a_node_that_does_not_share_the_folder_is_told_before_training(tmp_path, monkeypatch):
    from launch import ray as place

    run_experiment = prepared("fedavg", tmp_path / "elsewhere")
    line = line_of(place._as_it_is_here, run_experiment, Launch())
    missing = "does not exist on this node; the nodes of --ray must share --export_dir under the same path"
    assert line == f"{run_experiment.folder}: {missing}"
    run_experiment.folder.mkdir(parents=True)
    assert place._as_it_is_here(run_experiment, Launch()).config == run_experiment.config
    other = replace(run_experiment, config={**run_experiment.config, "data": {"name": "digits", "digest": "0" * 16}})
    assert line_of(place._as_it_is_here, other, Launch()).endswith("must be the same on all nodes")
