"""Whole studies: side by side as one after another, whatever is killed; what is told while they go on."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import types
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT, carried_out, default_signals
from test_experiment import assert_same, prepared

import errors
import experiment
import run as command
import saves
from errors import UserError
from figures import status
from launch import Failed, display, ending, launch, loggers, loop, processes, scheduling, signals
from launch.display import Display
from launch.scheduling import cores  # as it is, and not the fixture's
from options import Launch, flags_of

STUDY = "fedavg cfkd --n_clients 3 --reduced 0.2 --model MLP --seed 0 1 --lr 0.01"
LONG = f"{STUDY} --rounds 100000"


def of(*seeds: int, export: Path, **flags) -> list[experiment.Experiment]:
    return [prepared("fedavg", export, seed=seed, **flags) for seed in seeds]


def results(experiments, **flags) -> list:
    return [result for _, result in launch(experiments, Launch(quiet=True, **flags))]


# --- side by side ------------------------------------------------------------------------------------------------------


def test_runs_side_by_side_are_the_same_bits_as_one_after_another_and_come_in_the_same_order(tmp_path):
    def mixed(export):
        runs = [prepared(name, export, rounds=2, seed=s) for name in ("fedavg", "cfkd", "mhmd") for s in (0, 1)]
        return [*runs, prepared("centralized", export, threads=2)]

    item, other = results(mixed(tmp_path / "1")), results(mixed(tmp_path / "2"), jobs=2)
    assert [run.folder.name for run in item] == [run.folder.name for run in other]
    for left, right in zip(item, other, strict=True):
        assert_same(left, right)
        names = [{path.name.rpartition("-")[0] or path.name for path in run.folder.iterdir()} for run in (left, right)]
        assert names[0] == names[1], "but for the digests of checkpoints, in which times are"


def test_the_command_prints_the_same_table_with_any_number_of_jobs(tmp_path, capsys):
    result = []
    for jobs in (1, 2):
        words = f"{STUDY} --rounds 2 --quiet --export_dir {tmp_path / str(jobs)} --jobs {jobs}"
        assert command.main(words.split()) == 0
        out = capsys.readouterr().out
        result.append(
            re.sub(r" +[\d.]+ (?:s|min)$", "", out.replace(str(tmp_path / str(jobs)), "saves"), flags=re.MULTILINE)
        )
    assert result[0] == result[1], "but for the seconds"


@pytest.fixture
def killing(monkeypatch):
    """Kills the worker of a run that has played a round since it began, so many times -> {its folder: how often yet}."""
    ended, victims, before = processes.Processes.ended, {}, {}

    def watched(self, timeout):
        for worker in self._busy:
            folder = worker.experiment.folder
            rows = status.rows_of(folder)
            if rows == before.setdefault((folder, worker.process.pid), rows) or victims.get(folder, 0) == 0:
                continue
            victims[folder] -= 1
            worker.process.kill()
            worker.process.join()
        return ended(self, 0.01)

    monkeypatch.setattr(processes.Processes, "ended", watched)
    return victims


def test_a_run_whose_worker_is_killed_is_begun_again_and_the_others_go_on(killing, tmp_path):
    experiments = of(0, 1, 2, export=tmp_path / "killed", rounds=30)
    killing[experiments[1].folder] = 1
    result = results(experiments, jobs=2)
    assert killing == {experiments[1].folder: 0}
    logs = [(run_experiment.folder / "run.log").read_text() for run_experiment in experiments]
    assert [log.count(" in /") for log in logs] == [1, 2, 1], "how often each was begun"
    for item, other in zip(results(of(0, 1, 2, export=tmp_path / "whole", rounds=30)), result, strict=True):
        assert_same(item, other)
        assert list(pd.read_csv(other.folder / "history.csv")["round"]) == list(range(31)), "each round once"


def test_a_run_whose_worker_is_killed_twice_has_failed_and_the_others_go_on(killing, tmp_path):
    experiments = of(0, 1, 2, export=tmp_path, rounds=30)
    killing[experiments[0].folder] = 2
    failed, *finished = results(experiments, jobs=2)
    assert failed.reason == "fedavg --seed 0: its process exited by SIGKILL, perhaps for lack of memory, 2 times"
    assert failed.log == experiments[0].folder / "run.log"
    assert [run.done for run in finished] == [True, True]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_stops_no_other_and_is_told_in_the_end_with_its_log(jobs, tmp_path, capsys):
    words = f"independent --n_clients 3 --rounds 3 --reduced 0.1 --model MLP --optimizer sgd --lr 1e30 0.01 --jobs {jobs}"
    assert command.main([*words.split(), "--export_dir", str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith("run.py: independent: the training loss of client ")
    (log,) = re.findall(r"\((\S+run\.log)\)$", line)
    assert "DivergedError" in Path(log).read_text()
    (row,) = [row for row in map(status.status, tmp_path.iterdir()) if row["status"] == "failed"]
    assert line.removeprefix("run.py: ").startswith(row["reason"])
    assert len(list(tmp_path.glob("*/done"))) == 1


def test_an_error_that_nobody_foresaw_is_a_failure_too(tmp_path, monkeypatch):
    run_experiment, other = of(0, 1, export=tmp_path)
    run = experiment.run
    monkeypatch.setattr(experiment, "run", lambda it, *rest: 1 / 0 if it.folder == run_experiment.folder else run(it, *rest))
    failed, finished = results([run_experiment, other])
    assert failed == Failed("ZeroDivisionError: division by zero", run_experiment.folder / "run.log")
    assert finished.done


def test_a_run_takes_as_many_cores_as_it_has_threads(tmp_path):
    experiments = [prepared("centralized", tmp_path, threads=threads) for threads in (1, 2, 3, 4)]
    place = processes.Processes(3, (), Display(experiments))
    assert place.fitting(experiments) == experiments, "where nothing runs, one that is too wide may"
    place._workers = [processes._Worker(None, None, experiments[0])]
    assert place.fitting(experiments) == experiments[:2]
    place._workers.append(processes._Worker(None, None, experiments[1]))
    assert place.fitting(experiments) == []
    place._workers[1].experiment = None
    assert place.fitting(experiments) == experiments[:2]


def test_the_longest_are_begun_first(tmp_path):
    by_work = [
        prepared("fedavg", tmp_path, **flags)
        for flags in ({"epoch_per_round": 20}, {"rounds": 6}, {}, {"model": ("LeNet5",)}, {"reduced": 0.01, "rounds": 1})
    ]
    assert sorted(by_work, key=scheduling.work_of, reverse=True) == by_work


def test_side_by_side_the_longest_take_the_first_core_that_is_free():
    assert scheduling.side_by_side([(3, 1), (2, 1), (2, 1)], 1) == 7
    assert scheduling.side_by_side([(2, 1), (3, 1), (2, 1)], 2) == 4, "3 beside 2 and 2"
    assert scheduling.side_by_side([(5, 1), (1, 2), (4, 8)], 2) == 5 + 4 + 1, "what takes both cores waits for both"


def test_auto_is_every_core_and_one_on_a_cuda_device(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduling, "cores", lambda: 7)
    (item,) = of(0, export=tmp_path)
    on_cuda = types.SimpleNamespace(options=types.SimpleNamespace(device="cuda:0"))
    assert scheduling.cores_of([item], "auto") == 7
    assert scheduling.cores_of([item, on_cuda], "auto") == 1
    assert scheduling.cores_of([item, on_cuda], 3) == 3


@pytest.mark.parametrize(
    ("quota", "of_four"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), (None, 4)]
)
def test_a_container_has_no_more_cores_than_it_is_given(quota, of_four, tmp_path, monkeypatch):
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(scheduling, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(scheduling.os, "sched_getaffinity", lambda process: {0, 1, 5, 6}, raising=False)
    assert cores() == of_four


# --- other processes at the same work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["it is done", "it dies"])
def test_a_run_in_progress_elsewhere_is_passed_over_and_then_waited_for(ends, tmp_path, monkeypatch):
    first, second = of(0, 1, export=tmp_path)
    created, waited = [], []
    run = experiment.run
    monkeypatch.setattr(experiment, "run", lambda item, *rest: (run(item, *rest), created.append(item))[0])
    elsewhere = saves.locked(first.folder)
    elsewhere.__enter__()

    def sleep(seconds):
        assert created == [second], "all other work is done"
        waited.append(seconds)
        if len(waited) == 3:
            elsewhere.__exit__(None, None, None)
            if ends == "it is done":
                run(first)

    monkeypatch.setattr(loop.time, "sleep", sleep)
    assert [item.done for item in results([first, second])] == [True, True]
    assert waited == [scheduling.POLL] * 3
    assert created == [second, first]
    assert (first.folder / "run.log").read_text().count(" in /") == 1, "it is made once"


def test_side_by_side_too_a_run_in_progress_elsewhere_comes_last(tmp_path):
    experiments = of(0, 1, 2, export=tmp_path)
    elsewhere, order = saves.locked(experiments[0].folder), []
    elsewhere.__enter__()

    class Watching(Display):
        def stops(self, item, result=None):
            super().stops(item, result)
            order.append(item)

        def waits(self, n):
            assert n == 1
            elsewhere.__exit__(None, None, None)

    shown = Watching(experiments)
    done = list(loop.make_runs(experiments, processes.Processes(2, (), shown), shown))
    assert {run_experiment.folder for run_experiment, _ in done} == {run_experiment.folder for run_experiment in experiments}
    assert order[-1] is experiments[0]


def test_two_callers_at_once_make_each_run_once_and_both_print_the_table(tmp_path):
    words = [sys.executable, "run.py", *f"{STUDY} --rounds 5 --quiet --jobs 2 --export_dir {tmp_path}".split()]
    both = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [caller.communicate() for caller in both]
    assert [caller.returncode for caller in both] == [0, 0], lines
    assert lines[0] == lines[1]
    assert "fedavg" in lines[0][0]
    logs = [path.read_text() for path in tmp_path.glob("*/run.log")]
    assert [log.count(" in /") for log in logs] == [1] * 4


# --- told to stop ------------------------------------------------------------------------------------------------------


def started(folder: Path, jobs: int):
    """A study that would take hours, each of its running runs past its first rounds -> (process, their folders)."""
    words = [sys.executable, "run.py", *f"{LONG} --jobs {jobs} --export_dir {folder}".split()]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with default_signals():
        process = subprocess.Popen(words, cwd=ROOT, **pipes)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        results = [path for path in folder.glob("*/history.csv") if path.read_text().count("\n") > 3]
        if len(results) == jobs:
            return process, [path.parent for path in results]
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate())


def assert_saved(folders) -> None:
    """The checkpoint is of the last round that was told."""
    for folder in folders:
        rounds = list(pd.read_csv(folder / "history.csv")["round"])
        assert rounds == list(range(len(rounds)))
        assert saves.saved_round(folder) - rounds[-1] in (0, 1), "stopped before or after it was told"
        assert not saves.at_work(folder)
        assert status.status(folder)["status"] == "stopped"


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_the_last_finished_round_of_every_run(name, code, jobs, tmp_path):
    process, folders = started(tmp_path, jobs)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate()
    assert process.returncode == code
    assert err.splitlines()[-1] == "stopped; rerun the same command to resume after the last finished round"
    assert "Traceback" not in err
    assert_saved(folders)


def test_no_worker_outlives_a_killed_parent(tmp_path):
    process, folders = started(tmp_path, 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    gone, alive = psutil.wait_procs(children, timeout=2 * processes.GRACE)
    assert not alive
    assert len(gone) >= 2
    _, err = process.communicate()
    assert "Traceback" not in err
    assert_saved(folders)


def test_a_signal_that_is_ignored_stays_so(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.interrupting():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            with pytest.raises(signals.Stopped) as stop:
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # one is enough: nothing disturbs the saving
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signals.status_of(stop.value) == 143
    assert signals.status_of(KeyboardInterrupt()) == 130
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_is_lost_as_an_object_is_thrown_away_comes_again():
    class Away:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):  # it is noticed between two steps of Python
                pass

    hook = sys.unraisablehook
    with pytest.raises(signals.Stopped), signals.interrupting():
        away = Away()
        del away
        time.sleep(10)
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("output", ["initialization failed", "At least one sheet must be visible"])
def test_an_interrupt_behind_an_error_of_a_library_is_one(output, tmp_path, monkeypatch):
    """A module that is interrupted as it loads, a workbook as it is closed."""

    def write(*_):
        try:
            raise signals.Stopped(signal.SIGTERM)
        except KeyboardInterrupt as interrupt:
            raise ImportError(output) from (interrupt if output.startswith("initialization") else None)

    monkeypatch.setattr(saves.workbook, "write", write)
    (run_experiment,) = of(0, export=tmp_path)
    with pytest.raises(signals.Stopped):
        carried_out(run_experiment, False, (), lambda _: None)
    assert saves.saved_round(run_experiment.folder) == run_experiment.options.rounds
    monkeypatch.undo()
    assert errors.passes(ImportError()) is False


def test_an_interrupt_in_a_round_that_arrives_as_another_error_saves_the_round_before(tmp_path):
    def report(row):
        if isinstance(row, dict) and row["round"] == 1:
            try:
                raise KeyboardInterrupt
            finally:
                raise IndexError("of a library that closes a file")

    (run_experiment,) = of(0, export=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        carried_out(run_experiment, False, (), report)
    assert saves.saved_round(run_experiment.folder) == 1


def test_whoever_is_impatient_while_libraries_load_is_told_in_a_line(capsys):
    errors.in_a_line(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.endswith(": stopped\n")


def test_output_whose_reader_is_gone_ends_a_command_without_a_word(capsys):
    errors.in_a_line(BrokenPipeError, BrokenPipeError(), None)
    assert capsys.readouterr().err == ""


def test_a_process_that_ends_is_not_interrupted():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        with pytest.raises(SystemExit) as end:
            ending.leave(3)
        assert end.value.code == 3
        assert {signal.getsignal(number) for number in numbers} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- what is told while they go on -------------------------------------------------------------------------------------


def test_history_csv_has_the_row_of_each_round(tmp_path):
    (run,) = results(of(0, export=tmp_path, track_history=2, ft_epochs=1, validation=0.2))
    result = pd.read_csv(run.folder / "history.csv")
    pd.testing.assert_frame_equal(result, run.rounds, check_dtype=False, check_column_type=False, check_exact=True)


def test_history_csv_is_whole_after_every_row_and_holds_no_round_twice(tmp_path):
    path = tmp_path / "history.csv"
    with loggers.history_csv(tmp_path, [{"round": 0, "loss": float("nan")}]) as tell:
        assert path.read_text() == "round,loss\n0,\n"
        tell({"round": 1, "loss": 0.5})
        assert path.read_text() == "round,loss\n0,\n1,0.5\n"
        tell({"round": 2, "loss": 0.25, "global_mean": 0.1})
        assert path.read_text() == "round,loss,global_mean\n0,,\n1,0.5,\n2,0.25,0.1\n"
    with path.open("a") as file:
        file.write("3,0.1")  # killed while it was written
    with loggers.history_csv(tmp_path, [{"round": 0, "loss": 1.0}, {"round": 1, "loss": 0.5}]) as tell:
        assert path.read_text() == "round,loss\n0,1.0\n1,0.5\n"


def test_the_log_of_a_run_has_a_line_a_round(tmp_path):
    (run,) = results(of(0, export=tmp_path))
    lines = [line for line in (run.folder / "run.log").read_text().splitlines() if "round" in line and "loss" in line]
    assert [re.search(r"round (\d+): loss \d", line)[1] for line in lines] == ["1", "2", "3"]
    assert f"global {run.rounds['global_mean'].iloc[-1]:.1%}" in lines[-1]


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
    written = []

    @contextmanager
    def writer(folder):
        yield types.SimpleNamespace(add_scalar=lambda *row: written.append((folder, *row)), flush=lambda: None)

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=writer))
    (run,) = results(of(0, export=tmp_path, track_history=2), log="tensorboard")
    there = [
        (run.folder, name.replace(":", "/"), value, entry["round"]["round"])
        for entry in run.checkpoint()["history"]
        for name, value in entry["round"].items()
        if name != "round" and not math.isnan(value)
    ]
    assert written == there


def test_tensorboard_reads_what_is_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (run,) = results(of(0, export=tmp_path), log="tensorboard")
    events = accumulator.EventAccumulator(str(run.folder)).Reload()
    lines = [(event.step, event.value) for event in events.Scalars("loss")]
    assert lines == [(r, pytest.approx(loss)) for r, loss in run.rounds[["round", "loss"]].dropna().itertuples(index=False)]
    saves.clear(run.folder)
    assert [path.name for path in run.folder.iterdir()] == [".lock"]


def test_tensorboard_that_is_not_there_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert command.main(["--log", "tensorboard", "--export_dir", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (
        "",
        "run.py: --log tensorboard: TensorBoard is not installed; run python -m pip install tensorboard\n",
    )
    with pytest.raises(UserError, match="pip install"):
        loggers.chosen("tensorboard")


def test_every_logger_that_a_flag_names_is_there():
    assert flags_of(Launch)["log"]["type"].names == tuple(loggers.LOGGERS)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still where the test does not turn it: clock[0] += seconds."""
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def plays(run_experiment, *seconds: float, first: int = 1, **accuracies) -> None:
    """The run has played rounds from `first` on, in so many seconds each."""
    run_experiment.folder.mkdir(exist_ok=True)
    rows = [{"round": r, "loss": 0.5, "seconds": s, "evaluation_seconds": 0.0} for r, s in enumerate(seconds, first)]
    rows[-1] |= accuracies
    pd.DataFrame([{"round": 0, "seconds": 0.0, "evaluation_seconds": 0.0}, *rows]).to_csv(
        run_experiment.folder / "history.csv", index=False
    )


def looked(shown: Display, clock) -> Display:
    """The display after a while."""
    clock[0] += 1
    shown.look(now=True)
    return shown


def test_a_study_tells_how_many_runs_stand_how_and_the_time_that_is_left(tmp_path, clock):
    run_experiment, two, three, four = of(0, 1, 2, 3, export=tmp_path, rounds=4)
    shown = Display([run_experiment, two, three, four])
    assert str(shown) == "0 of 4 runs done, 4 waiting"
    shown.begins(run_experiment)
    plays(run_experiment, 10, global_mean=0.25)
    assert str(looked(shown, clock)) == "0 of 4 runs done, 2.5 min left, 1 running, 3 waiting", "15 rounds of 10 seconds"
    assert str(shown.standings[run_experiment.folder]) == "1/4  global 25.0%  30 s left  fedavg --seed 0  loss 0.500"
    shown.stops(run_experiment, Failed("", tmp_path))
    shown.begins(two)
    plays(two, 8, 12, first=2, personal_mean=0.5)
    assert str(looked(shown, clock)) == "0 of 4 runs done, 1.5 min left, 1 running, 2 waiting, 1 failed", "9 rounds"
    shown.begins(three)
    plays(three, 5)
    assert "27 s left, 2 running" in str(looked(shown, clock)), "8 rounds, at one in 10 seconds and one in 5"
    shown.stops(three)
    shown.show_message(two, "fine-tuning")
    assert str(shown.standings[two.folder]).endswith("fine-tuning")
    shown.stops(two, saves.Run(two.folder, {}, {}))
    shown.waits(2)
    assert str(shown) == "1 of 4 runs done, 2 in another process, 1 failed"


def test_a_file_gets_plain_lines_now_and_then_and_a_terminal_lines_that_change(tmp_path, clock, monkeypatch):
    run_experiment, two = of(0, 1, export=tmp_path)
    plain, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", plain)
    with display.display_of([run_experiment, two], quiet=False) as shown:
        shown.begins(run_experiment)
        plays(run_experiment, 15, 15)
        shown.look()
        assert not plain.getvalue()
        clock[0] += display.EVERY
        shown.look()
        shown.look()
        clock[0] += 1
        shown.stops(run_experiment, saves.Run(run_experiment.folder, {}, {}))
    assert plain.getvalue().splitlines() == [
        "0 of 2 runs done, 60 s left, 1 running, 1 waiting",
        "  2/3  15 s left  fedavg --seed 0  loss 0.500",
    ]
    monkeypatch.setattr(sys, "stderr", terminal)
    with display.display_of([run_experiment, two], quiet=False) as shown:
        shown.begins(run_experiment)
        shown.begins(two)
        plays(two, 1, 1, 1)
        clock[0] += 1
        shown.look()
    assert "0 of 2 runs done, " in terminal.getvalue()
    assert "3/3  0 s left  fedavg --seed 1" in terminal.getvalue()
    before = terminal.getvalue()
    with display.display_of([run_experiment, two], quiet=True) as shown:
        shown.begins(run_experiment)
        shown.look()
    assert terminal.getvalue() == before


def test_how_far_a_run_is_is_read_from_the_end_of_its_history(tmp_path):
    (run_experiment,) = of(0, export=tmp_path, rounds=10_000)
    standing = Display([run_experiment]).standings[run_experiment.folder]
    standing.look()
    assert str(standing).startswith("    0/10000  fedavg"), "nothing is there yet"
    plays(run_experiment, *[100.0] * 5_000, *[2.0] * 4_000)
    with (run_experiment.folder / "history.csv").open("a") as file:
        file.write("9001,0.4")  # half a line
    standing.look()
    assert str(standing) == " 9000/10000  33 min left  fedavg --seed 0  loss 0.500", "as fast as the last rounds"


def test_a_terminal_is_not_told_what_only_the_log_of_a_run_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    command.main([*f"{STUDY} --rounds 2 --json --export_dir {tmp_path}".split()])
    assert "round 1: loss" in next(tmp_path.glob("*/run.log")).read_text()
    assert "0 of 4 runs done, 1 running, 3 waiting" in terminal.getvalue()
    assert "round 1: loss" not in terminal.getvalue()


# --- how a folder of runs stands ---------------------------------------------------------------------------------------


def test_status_tells_of_each_run_where_it_stands(tmp_path, capsys, monkeypatch):
    done, running, stopped = of(0, 1, 2, export=tmp_path)
    (finished,) = results([done])
    for run_experiment in (running, stopped):
        with pytest.raises(KeyboardInterrupt):
            experiment.run(run_experiment, watch=_interrupts_in_round_2, loggers=loggers.ALWAYS)
    with saves.locked(running.folder):
        rows = {row["run"]: row for row in map(status.status, (done.folder, running.folder, stopped.folder))}
        assert status.main([str(tmp_path)]) == 0
    assert [rows[item.folder.name]["status"] for item in (done, running, stopped)] == ["done", "running", "stopped"]
    assert [rows[item.folder.name]["round"] for item in (done, running, stopped)] == ["3 of 3", "1 of 3", "2 of 3"]
    assert rows[done.folder.name]["global %"] == f"{100 * finished.rounds['global_mean'].iloc[-1]:.2f}"
    assert rows[running.folder.name]["time left"]
    out = capsys.readouterr().out
    assert all(item.folder.name in out for item in (done, running, stopped))
    assert out.endswith("3 runs: 1 done, 1 running, 1 stopped\n")
    assert {re.search(r"--seed \d", line)[0] for line in out.splitlines()[2:5]} == {f"--seed {seed}" for seed in range(3)}
    (tmp_path / saves.TUNING).mkdir()
    stopped.folder.rename(tmp_path / saves.TUNING / stopped.folder.name)
    assert f"{saves.TUNING}/{stopped.folder.name}" in status.table(tmp_path)


def _interrupts_in_round_2(news) -> None:
    if news["round"] == 2:
        raise KeyboardInterrupt


def test_a_damaged_run_is_told_among_the_others(tmp_path):
    done, stopped = of(0, 1, export=tmp_path)
    results([done])
    with pytest.raises(KeyboardInterrupt):
        experiment.run(stopped, watch=_interrupts_in_round_2)
    assert status.status(stopped.folder)["round"] == "2 of 3"
    (stopped.folder / "config.json").write_text("{")
    message = status.table(tmp_path)
    assert "2 runs: 1 damaged, 1 done" in message
    assert f"{stopped.folder / 'config.json'}: is damaged: cannot be read as JSON" in " ".join(message.split())


def test_status_of_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        status.main([str(tmp_path / "none")])
    assert exit.value.code == 2
    assert "no such folder" in capsys.readouterr().err.splitlines()[-1]
    status.main([str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}: no runs\n"


def test_json_lines_of_a_study_side_by_side_are_in_the_order_of_the_runs(tmp_path, capsys):
    assert command.main([*f"{STUDY} --rounds 1 --json --jobs 2 --export_dir {tmp_path}".split()]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["algorithm"], line["seed"]) for line in lines] == [("fedavg", 0), ("fedavg", 1), ("cfkd", 0), ("cfkd", 1)]


@pytest.mark.parametrize(
    ("flags", "native", "named"),
    [
        ({"model": ("CNN4",)}, True, True),
        ({"model": ("CNN4",)}, False, False),
        ({"model": ("CNN4",), "precision": "bf16"}, True, False),
        ({"model": ("CNN4",), "rounds": 1}, True, False),  # a short run
        ({"model": ("MLP",)}, True, False),
    ],
    ids=str,
)
def test_bf16_is_named_for_a_long_run_of_a_network_that_gains_on_a_processor_that_has_it(
    flags, native, named, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    long_run = prepared("fedavg", tmp_path, **{"rounds": 10_000, **flags})
    hint = scheduling.bf16_hint([long_run])
    assert (hint is not None) == named
    assert hint is None or "--precision bf16" in hint
    assert long_run.options.precision == flags.get("precision", "float32"), "which only the user changes"
