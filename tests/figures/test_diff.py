"""What two runs differ in: nothing but time, an option, the code, a round."""

import shutil

import numpy as np
import pytest
import torch
from conftest import keeping
from test_targets import saved

import saves
from figures import diff


def compared(capsys, *runs):
    diff.main([str(run.folder) for run in runs])
    return capsys.readouterr().out


def test_a_run_with_other_seconds_and_nothing_else_is_the_same_bits(tmp_path, capsys):
    run = saved(tmp_path)
    other = saved(tmp_path, columns={"seconds": [3.0, 1, 2, 3, 4], "evaluation_seconds": 0.1})
    out = compared(capsys, run, other)
    assert "the same options\n" in out
    assert "the same data, code and environment\n" in out
    assert out.splitlines()[-1] == "histories: bit-identical (except seconds); not both runs have saved weights"
    row = next(line.split() for line in out.splitlines() if line.startswith("seconds"))
    assert row == ["seconds", "3.0", "13.0", "+10.0"]


def test_weights_are_compared_where_both_are_saved(tmp_path, capsys):
    run_experiment = saved(tmp_path)
    shutil.copytree(run_experiment.folder, tmp_path / "copy")
    copy = saves.load(tmp_path / "copy")
    for run in (run_experiment, copy):
        keeping(run, "weights.pt", {"global": {"w": torch.arange(3.0)}})
    out = compared(capsys, run_experiment, copy)
    assert out.endswith("histories and weights after the last round: bit-identical (except seconds)\n")
    keeping(copy, "weights.pt", {"global": {"w": torch.arange(3.0) + 1}})
    assert "the weights after the last round differ" in compared(capsys, run_experiment, copy)


def test_the_first_round_that_differs_is_named_with_its_columns(tmp_path, capsys):
    run = saved(tmp_path, curve=(0.2, 0.6, 0.4, 0.8), clients={4: [0.8]})
    other = saved(tmp_path, curve=(0.2, 0.6, 0.4, 0.7), clients={4: [0.8]}, columns={"steps": [0, 7, 7, 8, 7]})
    assert compared(capsys, run, other).splitlines()[-1] == "the histories differ from round 3 on, in steps"
    fewer = saved(tmp_path, clients={3: [0.4], 4: [0.8]})
    last = compared(capsys, run, fewer).splitlines()[-1]
    assert last == "the histories differ from round 3 on, where they have rows of different clients"


def test_accuracies_are_those_after_the_last_round_and_costs_those_of_all_rounds(tmp_path, capsys):
    out = compared(capsys, saved(tmp_path), saved(tmp_path, curve=(0.2, 0.9, 0.4, 0.7), nbytes=(1000, 20, 100)))
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["global_mean"] == ["80.00", "70.00", "-10.00"]
    assert rows["bytes_up"] == ["40", "4,000", "+3,960"]
    assert rows["steps"] == ["28", "28", "+0"]
    assert "tuned_mean" not in rows


def test_options_code_and_environment_that_differ_are_listed_and_the_others_are_not(tmp_path, capsys):
    run = saved(tmp_path, lr=0.1, mu=1.0, environment={"torch": "1", "numpy": "1"})
    other = saved(tmp_path, lr=0.2, source="1", environment={"torch": "2", "numpy": "1"})
    lines = [line.split() for line in compared(capsys, run, other).splitlines()]
    assert ["lr", "0.1", "0.2"] in lines
    assert ["mu", "1.0", "(none)"] in lines
    assert ["source", "0", "1"] in lines
    assert ["environment.torch", "1", "2"] in lines
    assert not [line for line in lines if line[:1] in (["alpha"], ["environment.numpy"], ["split"])]


def test_runs_of_other_lengths_are_not_compared_round_by_round_and_columns_of_one_are_named(tmp_path, capsys):
    out = compared(capsys, saved(tmp_path), saved(tmp_path, curve=(0.2, 0.6)))
    assert out.endswith("not compared round by round: A has 4 rounds, B 2\n")
    counted = saved(tmp_path, columns={"flops": np.ones(5)})
    out = compared(capsys, saved(tmp_path), counted)
    assert "only B has the columns flops\ncommon columns of the histories: bit-identical" in out


def test_what_is_no_run_is_refused_in_a_line(tmp_path, capsys):
    run = saved(tmp_path)
    (run.folder / "done").unlink()
    with pytest.raises(SystemExit) as stopped:
        diff.main([str(run.folder), str(run.folder)])
    assert stopped.value.code == 2
    assert "the run is not finished" in capsys.readouterr().err.splitlines()[-1]
