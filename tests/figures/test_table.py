"""The comparison over seeds, against statistics by hand; what it refuses; and its tables, read back."""

import math
import os
import re

import numpy as np
import openpyxl
import pytest
from conftest import keeping, line_of
from test_targets import right, saved

import saves
from figures import table
from figures.compare import compare
from figures.groups import groups, name_of, read
from figures.render import render
from figures.statistics import holm, paired
from figures.units import UNITS

T_2 = 4.302652729911275  # 97.5 % of Student's t with 2 degrees of freedom: x = 0.95 sqrt(2 / (1 - 0.95**2))


def rows_of(runs, **flags):
    """{name of the row: {name of the column: value}}, of all columns; "NAME std" is a spread over seeds."""
    (comparison,) = compare(runs, **{"columns": ["all"], **flags}).tables
    keys = [key.name for key in comparison.keys if key.name != "n"]
    named = [" ".join("" if row[key].value is None else str(row[key].value) for key in keys) for row in comparison.rows]
    lines = [
        {name: cell.value for name, cell in row.items()} | {f"{name} std": cell.std for name, cell in row.items()}
        for row in comparison.rows
    ]
    return dict(zip(named, lines, strict=True))


def seeds(export, algorithm, values, **changed):
    """A run a value, of seeds 0, 1, ..., with that accuracy after the last round."""
    return [saved(export, algorithm, seed, curve=(0.1, value), **changed) for seed, value in enumerate(values)]


def refused(capsys, *words):
    """The one line of error with which a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        table.main([str(word) for word in words])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line.partition("error: ")[2]


# --- statistics --------------------------------------------------------------------------------------------------------


def of(*values):
    return {(seed, 0): value for seed, value in enumerate(values)}


def test_the_interval_is_students_by_its_formula():
    assert pytest.approx(T_2) == 0.95 * math.sqrt(2 / (1 - 0.95**2))  # t with 2 degrees of freedom has a closed form
    result = paired(of(0.51, 0.62, 0.73), of(0.5, 0.6, 0.7))
    half = T_2 * 0.01 / math.sqrt(3)  # the differences 1, 2, 3 points have mean 2 and standard deviation 1
    assert result == pytest.approx((3, 0.02, 0.02 - half, 0.02 + half, None))


def test_p_is_of_the_paired_t_test_and_from_six_common_seeds_on():
    base = [0.5, 0.6, 0.7, 0.4, 0.5, 0.6]
    own = [value + i / 100 for i, value in enumerate(base, 1)]
    # differences 1 ... 6 points: mean 3.5, variance 3.5; t = sqrt(6 * 3.5), whose p with 5 degrees of freedom is closed
    angle = math.atan(math.sqrt(6 * 3.5) / math.sqrt(5))
    inside = 2 / math.pi * (angle + math.sin(angle) * (math.cos(angle) + 2 / 3 * math.cos(angle) ** 3))
    assert paired(of(*own), of(*base)).p == pytest.approx(1 - inside)
    assert paired(of(*own[:5]), of(*base)).p is None, "five seeds in common"
    assert paired(of(*own[:5]), of(*base)).n == 5
    assert paired(of(*base), of(*base)) == (6, 0, 0, 0, None), "equal differences have no test"


def test_one_common_seed_has_a_difference_and_no_interval_and_none_has_nothing():
    result = paired({(0, 0): 0.6, (1, 0): 0.9}, {(0, 0): 0.5, (0, 1): 0.1})
    assert result == (1, pytest.approx(0.1), None, None, None)
    assert paired({(0, 0): 0.6}, {(0, 1): 0.5}) is None


def test_holm_by_hand_on_three_p_values():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # 3 x 0.01, 2 x 0.03, not below that
    assert holm([0.6, 0.02, 0.5]) == pytest.approx([1, 0.06, 1])  # 2 x 0.5 is 1, and 0.6 not below that
    assert holm([]) == []


def test_p_is_adjusted_over_the_rows_that_have_one(tmp_path):
    base = [0.5, 0.6, 0.7, 0.4, 0.5, 0.6]
    runs = seeds(tmp_path, "fedavg", base)
    differences = {"a": (1, 2, 3, 4, 5, 6), "b": (1, -2, 3, -4, 5, 6), "c": (9, 9, 9)}
    for name, points in differences.items():
        runs += seeds(tmp_path, name, [value + d / 100 for value, d in zip(base, points, strict=False)])
    rows = rows_of(runs, baseline="fedavg")
    alone = {name: paired(of(*(d / 100 for d in differences[name])), of(*[0] * 6)).p for name in "ab"}
    assert rows["a"]["p"] == pytest.approx(2 * alone["a"])
    assert rows["b"]["p"] == pytest.approx(alone["b"])
    assert [rows[name]["p"] for name in ("c", "fedavg")] == [None, None], "three seeds, and the baseline itself"
    assert [rows[name]["common_seeds"] for name in ("a", "c", "fedavg")] == [6, 3, None]


# --- rows --------------------------------------------------------------------------------------------------------------


def test_a_row_has_mean_and_deviation_over_seeds_and_the_paired_difference_to_the_baseline(tmp_path):
    runs = seeds(tmp_path, "fedavg", (0.50, 0.60, 0.70)) + seeds(tmp_path, "cfkd", (0.51, 0.62, 0.73))
    rows = rows_of(runs, baseline="fedavg")
    cfkd, fedavg = rows["cfkd"], rows["fedavg"]
    assert (cfkd["n"], cfkd["global"]) == (3, pytest.approx(62))
    assert cfkd["global std"] == pytest.approx(11), "of a sample"
    assert cfkd["difference"] == pytest.approx(2)
    half = 100 * T_2 * 0.01 / math.sqrt(3)
    assert (cfkd["low"], cfkd["high"]) == pytest.approx((2 - half, 2 + half))
    assert fedavg["difference"] is None
    assert list(rows) == ["cfkd", "fedavg"], "by name"


def test_the_order_of_the_runs_changes_nothing(tmp_path):
    runs = [run for name in ("independent", "fedavg") for run in seeds(tmp_path, name, (0.5, 0.6, 0.4))]
    runs += seeds(tmp_path, "fedavg", (0.5, 0.7), lr=0.01, nbytes=(5, 5, 5))
    flags = {"baseline": "independent", "target": 0.45, "equal": "bytes"}
    result = render(compare(runs, **flags))
    for seed in range(5):
        shuffled = [runs[i] for i in np.random.default_rng(seed).permutation(len(runs))]
        assert render(compare(shuffled, **flags)) == result


def test_settings_are_rows_in_the_order_of_their_numbers_and_references_come_last(tmp_path):
    runs = [saved(tmp_path, "fedavg", lr=lr) for lr in (10.0, 0.5, 9.0)]
    rows = list(rows_of([saved(tmp_path, "independent", lr=0.5), *runs, saved(tmp_path, "mhmd", lr=0.5)]))
    assert rows == ["fedavg 0.5", "fedavg 9.0", "fedavg 10.0", "mhmd 0.5", "independent 0.5"]


def test_an_option_that_only_differs_between_algorithms_is_told_and_one_of_a_single_algorithm_is_not(tmp_path):
    rows = rows_of([saved(tmp_path, "fedavg", batch_size=10), saved(tmp_path, "fedprox", batch_size=32, mu=1.0)])
    assert list(rows) == ["fedavg 10", "fedprox 32"]
    assert not [name for name in rows["fedprox 32"] if "mu" in name]


def test_gain_and_harm_are_of_each_client_against_itself_alone_on_the_same_seed(tmp_path):
    alone = saved(tmp_path, "independent", 0, curve=(0.1, 0.6), clients={1: [0.9] * 4, 2: [0.5, 0.6, 0.7, 0.8]})
    other = saved(tmp_path, "independent", 1, curve=(0.1, 0.6), clients={2: [0.5, 0.5, 0.5, 0.5]})
    with_others = saved(tmp_path, "fedavg", 0, curve=(0.1, 0.6), clients={2: [0.6, 0.5, 0.7, 1.0]})
    second = saved(tmp_path, "fedavg", 1, curve=(0.1, 0.6), clients={2: [0.6, 0.6, 0.4, 0.3]})
    third = saved(tmp_path, "fedavg", 2, curve=(0.1, 0.6), clients={2: [0.0, 0.0, 0.0, 0.0]})
    row = rows_of([alone, other, with_others, second, third], metric="personal")["fedavg"]
    # seed 0: +10, -10, 0, +20; seed 1: +10, +10, -10, -20; seed 2 has no independent run
    assert row["gain_personal"] == pytest.approx((5 - 2.5) / 2)
    assert row["gain_least"] == pytest.approx((-10 - 20) / 2)
    assert row["harmed"] is None, "these runs did not keep which examples they got right"
    assert rows_of([with_others])["fedavg"]["gain_global"] is None
    assert "gain" not in render(compare([with_others]))


def test_a_client_is_harmed_where_an_interval_over_its_own_examples_says_so(tmp_path):
    """100 examples a client: of as many differences as are not 0, all -1, the mean m has the deviation sqrt(m - m^2)."""

    def pair(seed, *wrong, split_seed=0):
        ours = [np.arange(100) >= n for n in wrong]
        runs = [saved(tmp_path, name, seed, split_seed=split_seed) for name in ("fedavg", "independent")]
        return [right(runs[0], *ours), right(runs[1], *[np.ones(100)] * len(wrong))]

    # 5 of 100 worse: the interval, 0.05 +- 1.98 * 0.22 / 10, is below 0, and yet these are too few to speak of; 6 are not
    assert rows_of(pair(0, 5, 6))["fedavg"]["harmed"] == 50
    flat = pair(0, 0, 3)
    assert rows_of(flat)["fedavg"]["harmed"] == 0, "no change is no harm, and a little is none that is shown"
    # of two seeds on one split an example counts by its mean: 12 that differ in one seed of two
    assert rows_of(pair(0, 12, 0) + pair(1, 0, 0))["fedavg"]["harmed"] == 50
    # on splits of their own, the mean of the shares
    assert rows_of(pair(0, 9, 9) + pair(1, 9, 0, split_seed=1))["fedavg"]["harmed"] == 75


def test_one_that_gains_as_much_as_it_loses_is_not_harmed(tmp_path):
    ours, alone = np.repeat([0, 1, 1], [20, 20, 60]), np.repeat([1, 0, 1], [20, 20, 60])
    runs = [right(saved(tmp_path, "fedavg"), ours), right(saved(tmp_path, "independent"), alone)]
    assert rows_of(runs)["fedavg"]["harmed"] == 0
    runs[0] = right(saved(tmp_path, "fedavg", lr=0.2), np.repeat([0, 1, 1], [33, 7, 60]))
    assert rows_of([runs[0], runs[1]])["fedavg 0.2"]["harmed"] == 100


def test_of_several_independent_settings_the_one_with_the_same_shared_flags_is_the_comparison(tmp_path):
    runs = [saved(tmp_path, name, lr=lr, curve=(0.1, v)) for name, lr, v in (("fedavg", 1, 0.8), ("cfkd", 3, 0.9))]
    runs += [saved(tmp_path, "independent", lr=lr, curve=(0.1, v)) for lr, v in ((1, 0.5), (2, 0.7))]
    rows = rows_of(runs)
    assert rows["fedavg 1"]["gain_global"] == pytest.approx(30)
    assert rows["cfkd 3"]["gain_global"] is None, "no independent run has its learning rate"


def test_costs_are_those_of_the_whole_run(tmp_path):
    row = rows_of(seeds(tmp_path, "fedavg", (0.5, 0.6)))["fedavg"]
    assert row["sent"] == (100 + 2 * 30) / 2 / 2  # of two clients, in two rounds
    assert row["steps"] == 14
    assert row["time"] == 2, "evaluations are left out"


def test_targets_are_columns_of_rounds_bytes_flops_and_seconds(tmp_path):
    runs = [saved(tmp_path, seed=seed) for seed in range(3)] + [saved(tmp_path, "fd", curve=(0.1, 0.2, 0.3, 0.3))]
    rows = rows_of(runs, target=0.4)
    assert [rows["fedavg"][f"{what}_to_target"] for what in ("rounds", "bytes", "flops", "seconds")] == [
        pytest.approx(1.5),
        pytest.approx(145),
        None,
        pytest.approx(1.75),
    ]
    assert [rows["fd"][f"{what}_to_target"] for what in ("rounds", "bytes", "flops", "seconds")] == [
        ">4",
        ">220",
        None,
        ">3",
    ]
    assert [rows[name]["reached"] for name in ("fedavg", "fd")] == [3, 0]
    assert any("running maximum of the test curve (global)" in note for note in compare(runs, target=0.4).notes)


VALIDATED = {"validation": 0.1, "curve": (0.5, 0.9, 0.7), "columns": {"validation_mean": [np.nan, 0.3, 0.4, 0.6]}}


def test_on_validation_every_number_is_of_the_round_best_there(tmp_path):
    high = {"validation_mean": [np.nan, 0.8, 0.4, 0.6]}
    by_client = {1: [0.4, 0.6], 3: [0.0, 0.0]}
    runs = [saved(tmp_path, "fedavg", **{**VALIDATED, "columns": high}, clients=by_client)]
    runs += [saved(tmp_path, "independent", **VALIDATED, clients={1: [0.0, 0.0], 3: [0.3, 0.3]})]
    rows = rows_of(runs, on="validation", target=0.55)
    assert rows["fedavg"]["global"] == pytest.approx(50), "of round 1; the best on the test set was 90"
    assert rows["fedavg"]["best_round"] == 1
    assert rows["fedavg"]["gain_global"] == pytest.approx(50 - 70), "each at its own round"
    personal = rows_of(runs, on="validation", metric="personal")
    assert personal["fedavg"]["gain_personal"] == pytest.approx(50 - 30)
    assert rows["independent"]["global"] == pytest.approx(70)
    assert rows["independent"]["rounds_to_target"] == pytest.approx(2.75), "read off validation: 0.4, then 0.6"
    assert any("running maximum of validation reaches" in note for note in compare(runs, on="validation", target=0.5).notes)
    assert rows_of(runs)["fedavg"]["global"] == pytest.approx(70), "and the last round unless asked"


def tried(export, algorithm, settings, seed=0):
    """A run a setting {lr: (validation, test)}."""
    return [
        saved(export, algorithm, seed, lr=lr, validation=0.1, curve=(t,), columns={"validation_mean": [np.nan, v]})
        for lr, (v, t) in settings.items()
    ]


def test_of_each_algorithms_settings_the_one_best_on_validation_is_chosen_and_its_test_value_shown(tmp_path):
    runs = tried(tmp_path, "fedavg", {0.1: (0.6, 0.9), 0.2: (0.8, 0.7)}) + tried(
        tmp_path, "fd", {0.1: (0.5, 0.4), 0.3: (0.4, 0.8)}
    )
    result = compare(runs, select=["lr"])
    rows = rows_of(runs, select=["lr"])
    assert list(rows) == ["fedavg 0.2", "fd 0.1"]
    assert [rows[name]["global"] for name in rows] == pytest.approx([70, 40])
    assert result.tables[0].names == ["fedavg --lr 0.2", "fd --lr 0.1"], "what was chosen stands in the name"
    assert [rows[name]["tried"] for name in rows] == [2, 2]
    assert not any("warning" in note for note in result.notes)


def test_the_choice_is_by_the_mean_over_seeds(tmp_path):
    runs = tried(tmp_path, "fedavg", {0.1: (0.6, 0.1), 0.2: (0.9, 0.2)})
    runs += tried(tmp_path, "fedavg", {0.1: (0.6, 0.1), 0.2: (0.2, 0.2)}, seed=1)
    assert list(rows_of(runs, select=["lr"])) == ["fedavg 0.1"]


def test_an_unequal_tuning_budget_is_warned_of(tmp_path):
    runs = tried(tmp_path, "fedavg", {0.1: (0.6, 0.9), 0.2: (0.8, 0.7)}) + tried(tmp_path, "fd", {0.1: (0.5, 0.4)})
    notes = compare(runs, select=["lr"]).notes
    assert "warning: unequal tuning budgets, numbers of settings: fd 1, fedavg 2" in notes
    runs += tried(tmp_path, "fd", {0.2: (0.5, 0.4)}, seed=1)
    assert "warning: the settings of fd were run with different seeds" in compare(runs, select=["lr"]).notes


def test_at_equal_bytes_methods_are_compared_at_the_largest_total_that_all_have_sent(tmp_path):
    runs = [saved(tmp_path, "fedavg", nbytes=(10, 0, 0), curve=(0.2, 0.4, 0.8))]  # 10, 20, 30 bytes
    runs += [saved(tmp_path, "fd", nbytes=(5, 0, 0), curve=(0.3, 0.5, 0.6))]  # 5, 10, 15 bytes: the budget
    runs += [saved(tmp_path, "independent", nbytes=(0, 0, 0), curve=(0.3, 0.3, 0.1))]
    runs += [saved(tmp_path, "centralized", nbytes=(0, 0, 1), curve=(0.3, 0.3, 0.9))]
    rows = rows_of(runs, equal="bytes")
    assert {name: row["equal"] for name, row in rows.items()} == {
        "fedavg": pytest.approx(30),  # half the way from 0.2 to 0.4
        "fd": pytest.approx(60),
        "independent": pytest.approx(10),
        "centralized": pytest.approx(90),  # one byte in all, and no limit to the others
    }
    assert list(rows) == ["fedavg", "fd", "centralized", "independent"]
    assert [rows[name]["equal_bytes"] for name in rows] == [15, 15, 1, 0]
    assert [rows[name]["equal_rounds"] for name in rows] == pytest.approx([1.5, 3, 3, 3])
    assert [rows[name]["equal_steps"] for name in rows] == pytest.approx([10.5, 21, 21, 21])
    assert [rows_of(runs)[name]["steps"] for name in rows] == [21] * 4


def test_a_budget_of_bytes_may_be_of_ones_choice(tmp_path, capsys):
    runs = [
        saved(tmp_path, "fedavg", nbytes=(10, 0, 0), curve=(0.2, 0.4, 0.8)),
        saved(tmp_path, "fd", nbytes=(5, 0, 0), curve=(0.2, 0.4, 0.8)),
    ]
    rows = rows_of(runs, equal=20.0)
    assert rows["fedavg"]["equal"] == pytest.approx(40), "after two rounds of ten"
    assert (rows["fd"]["equal"], rows["fd"]["equal_bytes"]) == (pytest.approx(80), 15), "it never sent as much"
    assert table._budget("20MB") == 20e6
    assert table._budget("500kB") == 5e5
    assert "--equal: 20 euros must be bytes or a number of bytes" in refused(capsys, runs[0].folder, "--equal", "20 euros")


def test_a_method_that_has_sent_more_before_its_first_evaluated_round_has_no_value_at_equal_bytes(tmp_path):
    runs = [saved(tmp_path, "fedavg", nbytes=(99, 0, 0)), saved(tmp_path, "fd", nbytes=(1, 0, 0))]
    rows = rows_of(runs, equal="bytes")
    assert (rows["fedavg"]["equal_n"], rows["fedavg"]["equal"]) == (0, None)
    assert rows["fd"]["equal"] == pytest.approx(80)


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_other_rules_of_the_split_other_data_and_other_splits_of_one_seed_are_refused(tmp_path, capsys):
    run = saved(tmp_path / "one")
    for changed, message in (
        ({"alpha": 0.1}, "different splits cannot be compared: --alpha is 0.5 in "),
        ({"partition": "iid"}, "different splits cannot be compared: --partition is 'lda' in "),
        ({"n_clients": 3}, "different splits cannot be compared: --n_clients is 2 in "),
        ({"feature_shift": "noise"}, "different splits cannot be compared: --feature_shift is 'none' in "),  # which it lacks
        ({"data": "1"}, "different data cannot be compared: the data's digest is 0 in "),
        ({"split": "1"}, "different splits cannot be compared: the split's digest at --split_seed 0 is 0 in "),
        ({"split": "1", "seed": 7}, "different splits cannot be compared: the split's digest at --split_seed 0 is 0 in "),
    ):
        other = saved(tmp_path / "others", "cfkd", **changed)
        assert line_of(compare, [run, other]).startswith(f"{message}{run.folder}, but ")
        if not {"alpha", "partition", "n_clients", "feature_shift"} & changed.keys():  # these are problems side by side
            assert refused(capsys, run.folder, other.folder).startswith(f"{message}{run.folder}, but ")
    another = saved(tmp_path / "others", "cfkd", split="1", split_seed=1)
    assert len(rows_of([run, another])) == 2, "another seed of the split has another split"


def test_runs_that_differ_in_more_than_seeds_are_not_averaged(tmp_path, capsys):
    runs = [saved(tmp_path, lr=lr, validation=0.1) for lr in (0.1, 0.2)]
    text = "--by algorithm: runs of fedavg that differ in lr (0.1 and 0.2) are not averaged; "
    assert refused(capsys, tmp_path, "--by", "algorithm") == f"{text}--by algorithm,lr separates them"
    assert list(rows_of(runs, by=["lr"])) == ["0.1", "0.2"]


def test_of_equal_runs_of_other_code_the_newest_counts_and_the_same_run_twice_is_one(tmp_path, capsys):
    older, newer = saved(tmp_path, curve=(0.1, 0.5)), saved(tmp_path, source="1", curve=(0.1, 0.7))
    for run, seconds in ((older, 2_000), (newer, 1_000)):
        os.utime(run.folder / saves.DONE, (seconds, seconds))
    assert [run.folder for run in read([tmp_path])] == [older.folder], "by the time of `done`, not by the name"
    os.utime(newer.folder / saves.DONE, (3_000, 3_000))
    table.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "70.00" in out
    assert f"skipping {older.folder.name}: the same run is there from newer code" in out
    assert line_of(compare, [older, newer]).startswith("fedavg has two runs with --seed 0 --split_seed 0, but a seed counts")
    on_cuda = saved(tmp_path, device="cuda:0")
    assert len(read([tmp_path])) == 2, "another device is a separate row"
    assert [run.folder for run in read([on_cuda.folder, on_cuda.folder / ".." / on_cuda.folder.name])] == [on_cuda.folder]


def test_last_and_best_on_validation_are_never_mixed(tmp_path, capsys):
    run = saved(tmp_path, "fedavg", **VALIDATED)
    without = saved(tmp_path, "fd", **{**VALIDATED, "columns": None})
    assert refused(capsys, tmp_path, "--on", "validation") == (
        f"--on validation: {without.folder} was run without --validation; all runs must have it"
    )
    both = "--equal bytes reads the test curve; remove --on validation"
    assert refused(capsys, run.folder, "--on", "validation", "--equal", "bytes") == both


def test_other_mistakes_are_a_line_each(tmp_path, capsys):
    runs = [saved(tmp_path, lr=lr) for lr in (0.1, 0.2)]
    choice = f"--select lr requires validation, but {runs[0].folder} was run without --validation"
    assert refused(capsys, tmp_path, "--select", "lr") == choice
    assert refused(capsys, tmp_path, "--select", "seed").startswith("--select seed: must be a flag in which settings")
    assert refused(capsys, tmp_path, "--select", "mu").startswith("--select mu: must be a flag in which settings")
    assert refused(capsys, tmp_path, "--by", "mu") == "--by mu: no run has this option"
    names = "fedavg --lr 0.1; fedavg --lr 0.2"
    assert (
        refused(capsys, tmp_path, "--baseline", "fedavg")
        == f"--baseline fedavg: several rows with this name; must be one of: {names}"
    )
    assert refused(capsys, tmp_path, "--baseline", "fd") == f"--baseline fd: no row with this name; must be one of: {names}"
    assert refused(capsys, tmp_path, "--metric", "tuned") == (
        "--metric tuned: no run has this metric; must be one of global, personal, worst; it requires --ft_epochs"
    )
    assert "remove --on validation" in refused(capsys, tmp_path, "--metric", "tuned", "--target", "0.5")
    assert refused(capsys, tmp_path, "--target", "90") == "argument --target: 90 must be above 0 and at most 1, such as 0.9"
    assert refused(capsys, tmp_path / "x") == f"{tmp_path / 'x'}: no such folder"
    (tmp_path / "empty").mkdir()
    assert refused(capsys, tmp_path / "empty").endswith("must be a finished run or a folder of finished runs")
    silent = saved(tmp_path / "silent", nbytes=(0, 0, 0))
    assert refused(capsys, silent.folder, "--equal", "bytes") == "--equal bytes: no method of these runs sends anything"
    assert "xlsx" in refused(capsys, silent.folder, "--xlsx", tmp_path / "table.txt")


def test_a_baseline_may_be_a_row_by_its_whole_name(tmp_path):
    runs = [saved(tmp_path, lr=lr) for lr in (0.1, 0.2)]
    for name in ("fedavg --lr 0.2", "fedavg (--lr 0.2)"):  # as the table writes it, and as a legend does
        rows = rows_of(runs, baseline=name)
        assert rows["fedavg 0.2"]["difference"] is None
        assert rows["fedavg 0.1"]["difference"] == 0


# --- notes and forms ---------------------------------------------------------------------------------------------------


def test_a_method_whose_published_accuracy_is_after_fine_tuning_is_named_without_it(tmp_path):
    runs = [saved(tmp_path, name, ft_epochs=0) for name in ("fedbabu", "mhmd", "fedavg")]
    line = "the published accuracy of fedbabu and mhmd is after fine-tuning; --ft_epochs 5 measures it"
    assert line in compare(runs).notes
    assert not any("published" in note for note in compare(runs[2:]).notes)
    columns = {"tuned_mean": [*[np.nan] * 4, 0.5]}
    assert not any("published" in note for note in compare([saved(tmp_path, "fedbabu", ft_epochs=1, columns=columns)]).notes)


def test_what_weakens_a_comparison_is_said(tmp_path):
    runs = seeds(tmp_path, "fedavg", (0.5, 0.6))
    assert any(note.startswith("2 seeds on 1 split:") for note in compare(runs).notes)
    assert any(note.startswith("one seed is only an illustration") for note in compare(runs[:1]).notes)
    own = [saved(tmp_path, seed=seed, split_seed=seed, split=str(seed)) for seed in (7, 8)]
    assert "2 seeds, each with its own split" in compare(own).notes
    runs.append(saved(tmp_path, seed=2, split_seed=2, curve=(0.1, 0.4), source="1", environment={"torch": "2"}))
    notes = compare(runs).notes
    assert "warning: fedavg was run with 2 versions of code or libraries (see figures.diff)" in notes
    assert "warning: runs of 2 environments; do not compare their seconds (see figures.diff)" in notes


@pytest.fixture
def folder(tmp_path):
    seeds(tmp_path / "saves", "fedavg", (0.50, 0.60, 0.70), topology_file="a_b|c%.txt")
    seeds(tmp_path / "saves", "cfkd", (0.51, 0.62, 0.73), topology_file="d")
    return tmp_path / "saves"


def test_the_module_figures_table_is_the_command(folder, capsys):
    table.main([str(folder)])
    out = capsys.readouterr().out
    assert [line.split()[0][:9] for line in out.splitlines()[:5]] == ["accuracy", "algorithm", "-" * 9, "cfkd", "fedavg"]
    assert "\nAfter the last round, best global first. global: whole test set;" in out
    table.main([str(run.folder) for run in read([folder])])
    assert capsys.readouterr().out == out, "a folder of runs is its runs"


def test_markdown_read_back(folder, capsys):
    saved(folder, "fedavg", curve=(0.1, 0.4), topology_file="other")
    table.main([str(folder), "--markdown", "--baseline", "fedavg --topology_file a_b|c%.txt"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    header, _, cfkd, fedavg, _ = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    assert dict(zip(header, cfkd, strict=True))["accuracy % global"] == "62.00 ±11.00"
    assert dict(zip(header, cfkd, strict=True))["difference to baseline difference"] == "+2.00"
    assert dict(zip(header, fedavg, strict=True))["algorithm"] == r"fedavg --topology_file a_b\|c%.txt"


def test_a_run_from_before_a_flag_has_another_name_than_one_after_it(tmp_path):
    run_groups = groups([saved(tmp_path, "fd"), saved(tmp_path, "fd", track_features=0)])
    assert [name_of(group, run_groups) for group in run_groups] == ["fd", "fd (--track_features 0)"]


def test_latex_is_escaped_and_all_but_the_table_is_comment(folder, capsys):
    saved(folder, "fedavg", curve=(0.1, 0.4), topology_file="other")
    table.main([str(folder), "--latex", "--target", "0.9"])
    lines = capsys.readouterr().out.splitlines()
    (first,) = [i for i, line in enumerate(lines) if line.startswith(r"\begin{tabular}")]
    tabular = lines[first : lines.index(r"\end{tabular}")]
    assert all(line.startswith("%") for line in lines if line and line not in (*tabular, r"\end{tabular}"))
    assert [line for line in tabular if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    rows = [[cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in tabular if line.endswith(r"\\")]
    upper, lower, *rows = rows
    spans = [int(matches[1]) if (matches := re.match(r"\\multicolumn\{(\d+)\}", cell)) else 1 for cell in upper]
    assert {sum(spans), len(lower), *map(len, rows)} == {len(lower)}, "a header over several columns spans them"
    assert r"\multicolumn{4}{c}{to 90 \%}" in upper
    assert "global" in lower
    assert all(any(column) for column in zip(*rows, strict=True)), "no empty column"
    assert r"fedavg --topology\_file a\_b|c\%.txt" in rows[1]
    assert r"\ensuremath{>}2.0" in rows[0], "a target that was not reached"
    assert r"62.00 $\pm$11.00" in rows[0]


def test_the_workbook_read_back_has_numbers_as_numbers(folder, tmp_path, capsys):
    path = tmp_path / "table.xlsx"
    table.main([str(folder), "--xlsx", str(path), "--baseline", "fedavg", "--target", "0.65", "--equal", "bytes"])
    assert "After the last round, best global first." in capsys.readouterr().out, "and the table is printed"
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["after the last round", "notes"]
    header, cfkd, fedavg = book["after the last round"].iter_rows(values_only=True)
    header_cells = book["after the last round"][1]
    row = dict(zip(header, cfkd, strict=True))
    assert (row["algorithm"], row["n"], row["--topology_file"]) == ("cfkd", 3, "d")
    assert row["global (%)"] == pytest.approx(62, abs=1e-9)
    assert row["global std (%)"] == pytest.approx(11, abs=1e-9)
    assert row["low (points)"] == pytest.approx(100 * (0.02 - T_2 * 0.01 / math.sqrt(3)), abs=1e-9)
    forms = {cell.value: book["after the last round"].cell(2, cell.column).number_format for cell in header_cells}
    assert UNITS["option"].excel == "General", "a setting as it was given"
    assert (forms["global (%)"], forms["n"], forms["sent (bytes)"]) == ("0.00", "#,##0", "#,##0")
    assert row["bytes_to_target (bytes)"] == ">160"
    assert not {"p", "flops_to_target (FLOPs)"} & set(header), "empty columns are left out"
    assert dict(zip(header, fedavg, strict=True))["difference (points)"] is None
    assert [note for (note,) in book["notes"].iter_rows(min_row=2, values_only=True)]
    table.main([str(folder), "--xlsx", str(path), "--on", "last"])
    assert openpyxl.load_workbook(path).sheetnames == ["after the last round", "notes"]


def test_a_title_fits_a_sheet_of_excel(tmp_path):
    saved(tmp_path, **VALIDATED)
    table.main([str(tmp_path), "--on", "validation", "--xlsx", str(tmp_path / "x.xlsx")])
    assert openpyxl.load_workbook(tmp_path / "x.xlsx").sheetnames[0] == "in the best validation round"


def test_a_function_refuses_as_the_command_does(tmp_path):
    runs = [saved(tmp_path), saved(tmp_path, "fd", alpha=9)]
    assert line_of(compare, runs).startswith("different splits cannot be compared: --alpha")


# --- other answers and heads -------------------------------------------------------------------------------------------


def with_answers(export):
    """ditto, whose other answer is one model for all and has a head more, beside fedavg, whose headline is such a model."""
    others = {"personal_mean:global": [np.nan, 0.3, 0.4], "global_mean:global head 1": [np.nan, 0.1, 0.2]}
    two = saved(export, "ditto", curve=(0.5, 0.6), columns={**others, "validation_mean": [np.nan, 0.7, 0.8]})
    run = saved(export, "fedavg", curve=(0.3, 0.5))
    return keeping(two, "weights.pt", {"personal": [], "global": {}}), keeping(run, "weights.pt", {"global": {}})


@pytest.mark.parametrize(
    ("metric", "value"),
    [("personal", 60), ("personal:global", 40), ("global:global head 1", 20), ("validation", 80), ("personal:personal", 60)],
)
def test_any_accuracy_that_a_run_has_is_named(metric, value, tmp_path):
    two, _ = with_answers(tmp_path)
    row = rows_of([two], metric=metric, target=value / 100)["ditto"]
    assert row[metric] == pytest.approx(value)
    assert row["rounds_to_target"] == 2, "the target is read off the same curve"


def test_the_headline_has_its_own_name_too(tmp_path):
    rows = rows_of(with_answers(tmp_path), metric="personal:global", equal="bytes", target=0.4)
    assert [rows[name]["personal:global"] for name in ("ditto", "fedavg")] == pytest.approx([40, 50])
    assert [rows[name]["rounds_to_target"] for name in ("ditto", "fedavg")] == pytest.approx([2, 1.5])


def test_a_name_that_no_run_has_or_that_one_lacks_is_refused_with_those_that_there_are(tmp_path, capsys):
    two, run_experiment = with_answers(tmp_path)
    there = "global, global:global head 1, personal, personal:global, worst, validation"
    for words in (["globl"], ["personal:globl"], ["global:head 1"], ["steps"]):
        result = refused(capsys, tmp_path, "--metric", *words)
        assert result == f"--metric {words[0]}: no run has this metric; must be one of {there}"
    assert refused(capsys, tmp_path, "--metric", "validation") == (
        f"--metric validation: {run_experiment.folder} does not have this metric; it has global, personal, worst; "
        "it requires --validation; runs "
        "of ditto have it (--where algorithm=ditto)"
    )
    assert refused(capsys, tmp_path, "--metric", "personal:personal").endswith(
        "runs of ditto have it (--where algorithm=ditto)"
    )


def test_the_notes_say_what_a_name_is_of(tmp_path):
    notes = compare(with_answers(tmp_path), "personal:global").notes
    assert notes[0].startswith("After the last round, best personal:global first.")
    assert 'personal:global: accuracy on each client\'s own distribution, mean over clients, of "global"' in notes
    two, _ = with_answers(tmp_path / "more")
    assert any(
        "running maximum of validation (validation)" in note for note in compare([two], "validation", target=0.7).notes
    )
