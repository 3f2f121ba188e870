"""What a target accuracy cost, against interpolation by hand; and synthetic runs, for the other files beside this one."""

import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import keeping, sealed

import saves
from errors import UserError
from figures import alone, targets

UP, DOWN, FIRST = 10, 20, 100  # bytes a round of a client; what is sent before the first round


def saved(export, algorithm="fedavg", seed=0, curve=(0.2, 0.6, 0.4, 0.8), clients=None, columns=None, **changed):
    """A finished run in a folder of `export`: `curve` is the global accuracy by round, NaN where it was not evaluated.

    `clients`: {round: personal accuracies}, one client alone has `curve`; `columns`: more columns of the rounds, {name: a
    value a round from 0 on}; `changed`: options, and `split`, `data`, `source`, `environment` of the configuration.
    """
    nbytes, rounds = changed.pop("nbytes", (UP, DOWN, FIRST)), len(curve)
    of_all = {
        "round": range(rounds + 1),
        "client": saves.ALL,
        "global_mean": [np.nan, *curve],
        "personal_mean": [np.nan, *curve],
        "personal_worst": [np.nan, *curve],
        "steps": [0, *[7] * rounds],
        "steps:server": 0,
        "bytes_up": [0, *[nbytes[0]] * rounds],
        "bytes_down": [nbytes[2], *[nbytes[1]] * rounds],
        "bytes_between": 0,
        "seconds": [1.0, *[0.5] * rounds],
        "evaluation_seconds": [0.0, *[9.0] * rounds],
    }
    frame = pd.DataFrame({**of_all, **(columns or {})})
    for r, row in (clients or {r: [value] for r, value in enumerate(curve, 1)}).items():
        of_clients = pd.DataFrame({"round": r, "client": range(len(row)), "personal_accuracy": row})
        frame = pd.concat([frame, of_clients], ignore_index=True)
        frame.loc[(frame["round"] == r) & (frame["client"] == saves.ALL), "personal_mean"] = np.mean(row)
    n_clients = max([2, *map(len, (clients or {}).values())])
    parts = {name: changed.pop(name, "0") for name in ("split", "data", "source")}
    parts |= {"environment": changed.pop("environment", {}), "files": {}, "inputs": [[1, 8, 8], 10]}
    options = {
        "algorithm": algorithm,
        "seed": seed,
        "split_seed": 0,
        "n_clients": n_clients,
        "rounds": rounds,
        "lr": 0.1,
        "model": ["MLP"],
    }
    options |= {"dataset": "digits", "partition": "lda", "alpha": 0.5, "validation": 0.0} | changed
    folder = export / f"{algorithm}-{next(NUMBERS)}"
    folder.mkdir(parents=True)
    config = {"options": options, **parts, "data": {"name": "digits", "digest": parts["data"]}}
    saves.write_json(folder / "config.json", config)
    saves.write_history(folder, frame.sort_values(["round", "client"], ignore_index=True))
    return sealed(folder)


NUMBERS = itertools.count()


def right(run, *clients):
    """The run, that keeps which of their test examples its clients got right: a row of 0 and 1 a client."""
    sizes, result = [len(of_client) for of_client in clients], np.concatenate(clients).astype(int)
    own = {"own_true": np.ones_like(result), "own_predicted": result, "own_offsets": np.cumsum([0, *sizes])}
    arrays = {"test": np.array([[[0, 0], [0, 9]]]), "classes": np.array(["a", "b"]), **own}
    return keeping(run, "confusion.npz", arrays)


def test_which_examples_were_right_is_what_was_said_of_each_one(tmp_path):
    result = alone.own_right(right(saved(tmp_path), [1, 0, 1], [], [0]))
    assert [of_client.tolist() for of_client in result] == [[1, 0, 1], [], [0]]


def test_a_target_between_two_evaluated_rounds_is_on_the_line_between_them(tmp_path):
    run = saved(tmp_path)
    # 0.4 is half the way from 0.2 after round 1 to 0.6 after round 2; bytes are 100 + 30 r, seconds 1 + r / 2
    assert targets.rounds_to(run, 0.4).value == pytest.approx(1.5)
    assert targets.bytes_to(run, 0.4).value == pytest.approx(145)
    assert targets.seconds_to(run, 0.4).value == pytest.approx(1.75), "those of evaluations are left out"


def test_the_curve_is_its_running_maximum(tmp_path):
    run = saved(tmp_path)
    # after round 3 the best was 0.6, not 0.4: 0.7 is half the way to 0.8
    assert targets.rounds_to(run, 0.7).value == pytest.approx(3.5)
    assert targets.rounds_to(run, 0.6).value == 2, "reached there, and again after round 4"
    assert targets.rounds_to(run, 0.8).value == 4


def test_where_the_first_evaluated_round_is_at_the_target_it_is_the_answer(tmp_path):
    assert targets.rounds_to(saved(tmp_path), 0.1).value == 1
    assert targets.bytes_to(saved(tmp_path), 0.2).value == 130


def test_rounds_that_were_not_evaluated_are_no_points_of_the_curve_and_their_bytes_count(tmp_path):
    run = saved(tmp_path, curve=(np.nan, 0.2, np.nan, 0.6))
    assert targets.rounds_to(run, 0.3).value == pytest.approx(2.5)
    assert targets.bytes_to(run, 0.3).value == pytest.approx(100 + 30 * 2.5)


def test_a_target_that_is_not_reached_is_told_by_the_total(tmp_path):
    result = targets.bytes_to(saved(tmp_path), 0.81)
    assert (result.value, result.total, result.arrived, result.n) == (None, 220, 0, 1)
    assert result.text() == ">220"
    assert targets.rounds_to(saved(tmp_path), 0.81).text() == ">4"


def test_seeds_have_their_median_and_those_that_never_arrive_are_the_last_of_it(tmp_path):
    early, late, never = (saved(tmp_path, seed=i, curve=c) for i, c in enumerate(((0.2, 0.6), (0.2, 0.4), (0.1, 0.2))))
    # 0.4 after rounds 1.5, 2 and never
    assert targets.rounds_to([early, late], 0.4).value == pytest.approx(1.75)
    result = targets.rounds_to([early, late, never], 0.4)
    assert (result.value, result.arrived, result.n, result.text()) == (2, 2, 3, "2")
    assert targets.rounds_to([early, never, never], 0.4).text() == ">2"
    assert targets.rounds_to([early, never], 0.4).text() == ">2", "the upper of the two in the middle did not arrive"
    for order in itertools.permutations([early, late, never]):
        assert targets.rounds_to(order, 0.4) == result


def test_an_answer_says_what_it_was_read_off(tmp_path):
    run = saved(tmp_path, columns={"validation_mean": [np.nan, 0.1, 0.3, 0.5, 0.7]})
    assert targets.rounds_to(run, 0.6).read_off == "the test curve"
    result = targets.rounds_to(run, 0.6, "validation_mean")
    assert result.read_off == "validation"
    assert result.value == pytest.approx(3.5)
    assert targets.rounds_to(run, 0.6, "personal_mean").value == 2


def test_flops_are_none_where_a_history_does_not_count_them_and_cumulated_where_it_does(tmp_path):
    assert targets.flops_to(saved(tmp_path), 0.4) is None
    counted = saved(tmp_path, columns={"flops": [5.0, 1e3, 1e3, 1e3, 1e3]})
    assert targets.flops_to(counted, 0.4).value == pytest.approx(5 + 1.5e3)
    assert targets.flops_to([counted, saved(tmp_path)], 0.4) is None


def test_a_run_without_the_curve_is_refused_by_its_name(tmp_path):
    run = saved(tmp_path)
    with pytest.raises(UserError, match=f"{run.folder}: its history has no validation_mean"):
        targets.rounds_to(run, 0.5, "validation_mean")


def test_between_points_of_a_curve_a_line_before_the_first_nothing_behind_the_last_the_last():
    x, y = np.array([2.0, 4.0, 4.0, 8.0]), np.array([0.1, 0.3, 0.5, 0.9])
    assert targets.interpolated(x, y, 3) == pytest.approx(0.2)
    assert targets.interpolated(x, y, 4) == 0.5, "the last of those that cost the same"
    assert targets.interpolated(x, y, 5) == pytest.approx(0.6)
    assert targets.interpolated(x, y, 1.9) is None
    assert targets.interpolated(x, y, 9) == 0.9
