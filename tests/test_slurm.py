"""Array jobs: what is submitted, what an element makes, waits for and leaves, and nodes of another kind. Of Slurm there is a
stand-in for `sbatch`, which carries the elements out itself, at once, before it answers."""

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, line_of
from test_experiment import prepared
from test_study import CLASSES, TEXT

import commandline
import run as command
import saves
from experiment import identity
from launch import launch, loggers, nodes, scheduling, slurm
from options import Launch

RUNS = "fedavg cfkd --n_clients 3 --rounds 2 --reduced 0.1 --model MLP --seed 0 1 --lr 0.01 --jobs 1"

# its arguments as lines of calls.jsonl; of elements only a name of "two" asks for any
SBATCH = """#!{python}
import json, os, re, subprocess, sys
from pathlib import Path

*options, script = sys.argv[1:]
with Path(__file__).with_name("calls.jsonl").open("a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if "--partition=none" in options:
    sys.exit("sbatch: error: invalid partition specified: none")
(array,) = re.findall("--array=(.*)", " ".join(options)) or ["1"]
(log,) = (option.removeprefix("--output=") for option in options if option.startswith("--output="))
elements = []
for element in ("1", "2") if "--comment=carry out" in options else ():
    names = {{"%%": "%", "%A": "17", "%a": element}}
    with open(re.sub("%.", lambda found: names[found[0]], log), "a") as file:
        elements.append(subprocess.Popen(["sh", script], cwd="/", stdout=file, stderr=file, stdin=subprocess.DEVNULL))
for element in elements:
    element.wait()
print("17;two" if "--parsable" in options else "Submitted batch job 17")
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What sbatch was given, call by call: a function. One that carries out elements is asked to by a comment."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    path = tmp_path / "bin" / "calls.jsonl"
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def submitted(words: list[str], export: Path, options: str = "--array=1-2") -> list[str]:
    """Submit the command line -> the words with which an element calls run.py."""
    assert command.main([*words, "--export_dir", str(export), "--slurm", options]) == 0
    (script,) = export.rglob("slurm/1/job.sh")
    _, program, *drawn_split = shlex.split(script.read_text().partition("\nexec ")[2])
    assert program == str(ROOT / "run.py")
    return drawn_split


@contextmanager
def held(*folders: Path, seconds: float | None = None):
    """Inside, others are at work on these runs: all the time, or so many seconds of it."""
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(saves.locked(folder))
        timer = threading.Timer(seconds or 0, locks.close)
        if seconds:
            timer.start()
        yield
        timer.cancel()


def stopping_after(number: int):
    """A logger that stands for Ctrl-C after this round."""

    @contextmanager
    def logger(folder, rows):
        def report(row):
            if row["round"] == number:
                raise KeyboardInterrupt

        yield report

    return logger


def begun(folder: Path) -> int:
    """How often a run was begun."""
    return len(re.findall(r" DEBUG .*run\.py .* in /", (folder / "run.log").read_text()))


# --- submitting ------------------------------------------------------------------------------------------------------------


def test_elements_make_each_run_once_and_the_last_prints_the_table(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export = """it's "a" $HOME 5%d `b`"""
    words = [*RUNS.split(), "--export_dir", export, "--slurm", "--array=1-2 --comment 'carry out' '--comment=carry out'"]
    assert command.main(words) == 0
    output = capsys.readouterr().out
    assert "job 17: 4 of 4 runs are left\n" in output
    folder = tmp_path / export / "slurm" / "1"
    assert f"script and logs: {folder} " in " ".join(output.split())
    (inputs,) = calls()
    log = str(folder).replace("%", "%%")
    requests = ["--array=1-2", "--comment", "carry out", "--comment=carry out"]
    assert inputs == ["--parsable", f"--output={log}/%A_%a.log", *requests, str(folder / "job.sh")]
    runs = list(saves.find(tmp_path / export))
    assert [begun(run.folder) for run in runs] == [1] * 4
    logs = [(folder / f"17_{element}.log").read_text() for element in (1, 2)]
    table = next(log for log in logs if "algorithm" in log)
    assert all("algorithm" in log or "other processes are executing" in log for log in logs)

    assert command.main(words) == 0, "all are finished: the table, and no other job"
    rows = [line.split()[:7] for line in table.splitlines() if line.startswith(("fedavg ", "cfkd "))]
    out = capsys.readouterr().out
    assert [line.split()[:7] for line in out.splitlines() if line.startswith(("fedavg ", "cfkd "))] == rows
    assert len(rows) >= 2
    assert len(calls()) == 1


def test_the_script_calls_the_very_words_in_the_folder_where_they_were_typed(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*RUNS.split(), "--quiet", "--data_dir", "a 'b'; \n\"$c\""]
    result = submitted(words, Path("saves"))
    named = tmp_path / "saves" / "slurm" / "1" / "named.json"
    assert result == [*words, "--export_dir", "saves", "--slurm", "--array=1-2", "--named_by", str(named)]
    assert f"\ncd {tmp_path} || exit 1\n" in named.with_name("job.sh").read_text()
    assert {"fedavg", "cfkd", "independent"} == set(json.loads(named.read_text())), "the table asks for independent too"


def test_what_is_submitted_once_more_has_a_folder_of_its_own(calls, tmp_path):
    for _ in range(2):
        assert command.main([*RUNS.split(), "--export_dir", str(tmp_path / "saves"), "--slurm", ""]) == 0
    assert sorted(path.name for path in (tmp_path / "saves" / "slurm").iterdir()) == ["1", "2"]
    assert [Path(inputs[-1]).parent.name for inputs in calls()] == ["1", "2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--slurm --array=1-2 --lr -1", "--lr -1: must be a number above 0"),
        ("--slurm --array=1-2 --n_clients 5000", "--n_clients 5000"),
        ("--slurm '--array=1-2 --partition=none'", "refused by sbatch (sbatch: error: invalid partition specified: none)"),
        ("--slurm '--array=1-2 mine.sh'", "mine.sh is not an option; must be options of sbatch, in one pair of quotes"),
        ("--slurm 'array=1-2'", "array=1-2 is not an option"),
        ('--slurm "--comment=\'a"', "cannot be parsed (No closing quotation)"),
        ("--slurm --array=1-2 --force", "--force: each element of the --slurm job would repeat every run"),
        ("--slurm --quiet 3", "--slurm: takes one value, got 2"),
        ("--any_node", "--any_node True: applies only with --slurm"),
        ("--slurm --array=1-2 --ray local", "--ray local: applies only without --slurm"),
    ],
)
def test_a_mistake_submits_nothing_and_leaves_nothing(words, message, calls, tmp_path, capsys):
    assert command.main(["fedavg", *shlex.split(words), "--export_dir", str(tmp_path / "saves")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert all("--partition=none" in inputs for inputs in calls()), "sbatch alone knows partitions"
    assert not list(tmp_path.glob("saves/*"))


def test_without_sbatch_it_is_said_that_there_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["fedavg", "--export_dir", str(tmp_path / "saves"), "--slurm", "--array=1"]) == 2
    assert "the command sbatch does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("spelled", [["--slurm", "--lr=1 -p gpu"], ["--slurm=--lr=1 -p gpu"]])
@pytest.mark.parametrize("others", [[], ["--preset", "fd"]])
def test_the_flags_of_sbatch_are_not_taken_for_ours(spelled, others):
    runs, launch_options, _ = commandline.parse([*others, *spelled, "--seed", "3"], CLASSES, dict.fromkeys(CLASSES, ""))
    assert launch_options.slurm == "--lr=1 -p gpu"
    assert [run.seed for run in runs] == [3]


# --- an element ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_at_which_others_are_at_work_are_left_to_them_once_there_is_no_other_work(jobs, tmp_path):
    experiments = [prepared("fedavg", tmp_path, seed=seed) for seed in range(4)]
    with held(experiments[0].folder, experiments[2].folder):
        result = list(launch(experiments, Launch(quiet=True, jobs=jobs), patience=1))
    assert [item for item, _ in result] == [experiments[1], experiments[3]]
    assert all(run.done for _, run in result)


def test_an_element_leaves_without_a_table_and_tells_who_prints_it(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "PATIENCE", 1)
    words = submitted([*RUNS.replace("0.01", "0.01 1e30").split(), "--optimizer", "sgd"], tmp_path / "saves")
    runs, launch_options, _ = commandline.parse(words, CLASSES, dict.fromkeys(CLASSES, ""))
    first, *others = (nodes.prepare(run, launch_options) for run in runs)
    capsys.readouterr()
    with held(first.folder):
        status = command.main(words)
    out, err = capsys.readouterr()
    failed = [run_experiment for run_experiment in others if (run_experiment.folder / "failed").exists()]
    assert status == (1 if failed else 0)
    assert "other processes are executing 1 of 8 runs; the last process to finish prints the table" in " ".join(err.split())
    assert len(re.findall(r"^run\.py: .*training loss", err, re.MULTILINE)) == len(failed) > 0, "failures are told too"
    assert "algorithm  " not in out
    assert command.main(words) == 1
    assert "algorithm  " in capsys.readouterr().out, "the last one"


def test_elements_of_a_study_wait_for_all_settings_and_leave_results_to_others(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "PATIENCE", 1)
    (tmp_path / "mine.toml").write_text(TEXT.replace("[0.1, 1.0]", "0.1"))
    words = submitted(["--study", str(tmp_path / "mine.toml"), "--jobs", "1"], tmp_path / "saves")
    output = capsys.readouterr().out
    assert "8 of 8 runs are left (tuning on held-out data), then the runs with the selected settings" in output
    folder = tmp_path / "saves" / "mine"
    _, launch_options, _ = commandline.parse(words, CLASSES, dict.fromkeys(CLASSES, ""))
    options = command.study.read(tmp_path / "mine.toml", CLASSES)
    tried = nodes.prepare(options.tried(CLASSES)["fedavg"][0], replace(launch_options, export_dir=folder / "tuning"))
    result = nodes.prepare(options.runs(CLASSES)["independent"][0], replace(launch_options, export_dir=folder))
    with held(result.folder), held(tried.folder, seconds=8):
        assert command.main(words) == 0
    assert len(list(saves.find(folder / "tuning"))) == 8, "with the one that another had for longer than its patience"
    assert len(list(saves.find(folder))) == 5
    out, err = capsys.readouterr()
    assert "other processes are executing 1 of 6 runs" in err
    assert command.main(words) == 0
    assert "independent" in capsys.readouterr().out


def test_an_element_that_is_told_to_stop_saves_the_last_finished_round(calls, tmp_path):
    submitted(RUNS.replace("--rounds 2", "--rounds 100000").split(), tmp_path / "saves")
    element = subprocess.Popen(["sh", str(tmp_path / "saves" / "slurm" / "1" / "job.sh")], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("saves/*/history.csv")):
        time.sleep(0.1)
    element.terminate()  # the shell, whose place python has taken
    assert element.wait() == 128 + signal.SIGTERM
    (folder,) = (path.parent for path in tmp_path.glob("saves/*/checkpoint-*.pt"))
    assert saves.saved_round(folder) < 100000


def test_an_element_takes_the_cores_that_it_was_given(monkeypatch):
    monkeypatch.undo()  # of one_core
    there = scheduling.cores()
    for inputs, taken in (("1", 1), (str(there + 1), there)):
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", inputs)
        assert scheduling.cores() == taken


# --- nodes of another kind -----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """A function that moves this process to a node of another kind."""
    here = identity._environment

    def move():
        there = {"processor": "aarch64 DEFAULT", "torch": "9.9"}
        monkeypatch.setattr(identity, "_environment", lambda device: {**here(device), **there})

    return move


def test_a_node_of_another_kind_declines_in_a_line(calls, elsewhere, tmp_path, capsys):
    words = submitted(RUNS.split(), tmp_path / "saves")
    named = json.loads((tmp_path / "saves" / "slurm" / "1" / "named.json").read_text())["fedavg"]["environment"]
    elsewhere()
    capsys.readouterr()
    assert command.main(words) == nodes.DECLINED == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "run.py: this node has torch 9.9, processor aarch64 DEFAULT, but the runs were submitted for "
        f"torch {named['torch']}, processor {named['processor']}; add --any_node to accept this node"
    )
    assert not list((tmp_path / "saves").glob("*/config.json"))


def test_any_node_makes_the_runs_under_the_submitters_names_and_records_itself(calls, elsewhere, tmp_path, capsys):
    words = submitted([*RUNS.split(), "--any_node"], tmp_path / "saves")
    runs, launch_options, _ = commandline.parse(words, CLASSES, dict.fromkeys(CLASSES, ""))
    names = {nodes.prepare(run, launch_options).folder for run in runs}
    elsewhere()
    assert command.main(words) == 0
    result = list(saves.find(tmp_path / "saves"))
    assert {run.folder for run in result} == names
    for run in result:
        assert run.config["any_node"] is True
        assert run.config["environment"]["processor"] == "aarch64 DEFAULT"
        assert not run.folder.name.endswith(run.config["source"][:6])
    # a node of the submitter's kind finds them
    written = {run.folder: (run.folder / "weights.pt").stat().st_mtime_ns for run in result}
    assert command.main(words) == 0
    assert {folder: (folder / "weights.pt").stat().st_mtime_ns for folder in written} == written


def test_a_run_that_several_kinds_of_nodes_have_made_names_them_all(calls, elsewhere, tmp_path, monkeypatch):
    words = submitted([*RUNS.replace("cfkd ", "").replace("0 1", "0").split(), "--any_node"], tmp_path / "saves")
    runs, launch_options, _ = commandline.parse(words, CLASSES, dict.fromkeys(CLASSES, ""))
    here = nodes.prepare(runs[0], launch_options)
    with monkeypatch.context() as stopped:
        stopped.setattr(loggers, "ALWAYS", (stopping_after(1),))
        assert command.main(words) == 130
    elsewhere()
    assert command.main(words) == 0
    config = saves.load(here.folder).config
    assert config["environment"]["processor"] == "aarch64 DEFAULT"
    assert config["earlier_environments"] == [here.config["environment"]]
    assert config["any_node"] is True


def test_changed_code_is_another_kind_of_node_too(calls, tmp_path, monkeypatch, capsys):
    words = submitted(RUNS.split(), tmp_path / "saves")
    sources = identity._sources
    monkeypatch.setattr(identity, "_sources", lambda algorithm: [*sources(algorithm), "a line more"])
    assert command.main(words) == 3
    assert "this node has code of " in capsys.readouterr().err


def test_runs_that_are_submitted_together_are_named_for_one_kind_of_node(tmp_path):
    run_experiment = prepared("fedavg", tmp_path)
    other = replace(run_experiment, config={**run_experiment.config, "source": "0" * 64})
    assert "--device: must be the same" in line_of(nodes.write, [run_experiment, other], tmp_path / "named.json")


def test_a_file_that_names_nothing_is_a_mistake(tmp_path, capsys):
    words = ["fedavg", "--slurm", "--array=1", "--named_by", str(tmp_path / "none.json"), "--export_dir", str(tmp_path)]
    assert command.main(words) == 2
    assert "has no entry for fedavg; must be a file that --slurm has written" in capsys.readouterr().err
