"""Methods by problems: means and marks by hand, ranks and tests against closed forms; what is read off a grid."""

import csv
import io
import itertools
import re

import numpy as np
import pytest
from conftest import line_of
from test_targets import saved

from figures import curves, groups, problems, table
from figures.groups import read, select, where
from figures.render import render
from figures.statistics import nemenyi, over_problems

ACCURACY = {  # (method, alpha): by seed
    ("fedavg", 0.1): (0.50, 0.52, 0.54),
    ("fd", 0.1): (0.489, 0.519, 0.549),  # not told apart: +1.1, +0.1, -0.9 points
    ("cfkd", 0.1): (0.40, 0.41, 0.42),
    ("fedavg", "inf"): (0.80, 0.81, 0.82),
    ("fd", "inf"): (0.60, 0.61, 0.62),
    ("cfkd", "inf"): (0.90, 0.91, 0.92),
    ("independent", 0.1): (0.99, 0.99, 0.99),
}


@pytest.fixture
def runs(tmp_path):
    results = []
    for (name, alpha), values in ACCURACY.items():
        split = f"split of {alpha}"
        results += [saved(tmp_path, name, s, curve=(0.1, v), alpha=alpha, split=split) for s, v in enumerate(values)]
    return results


def rows_of(result):
    (run,) = result.tables
    return dict(zip(run.names, run.rows, strict=True))


def test_problems_are_columns_and_methods_rows_whose_cells_are_means_over_seeds(runs):
    rows = rows_of(problems.overview(runs))
    assert list(rows) == ["cfkd", "fd", "fedavg", "independent"], "references last"
    assert list(rows["fd"]) == ["alpha 0.1", "alpha inf", "average rank"]
    assert rows["fedavg"]["alpha 0.1"].text == "52.00 ±2.00 (3)"
    assert rows["fedavg"]["alpha 0.1"].std == pytest.approx(2)
    assert rows["fedavg"]["alpha 0.1"].value == pytest.approx(52)
    assert rows["independent"]["alpha inf"].text == "", "not run on it"


def test_the_best_of_the_methods_is_marked_and_what_is_not_told_apart_from_it(runs):
    rows = rows_of(problems.overview(runs))
    assert {name: row["alpha 0.1"].mark for name, row in rows.items()} == {
        "fedavg": "best",
        "fd": "level",
        "cfkd": "",
        "independent": "",  # a reference is no winner
    }
    assert [rows[name]["alpha inf"].mark for name in ("cfkd", "fedavg", "fd")] == ["best", "", ""]


def test_equal_methods_are_both_marked_and_what_diverged_is_not(tmp_path):
    def of(name, value, alpha, **others):
        return saved(tmp_path, name, curve=(0.1, value), alpha=alpha, split=str(alpha), **others)

    gone = {"columns": {"diverged": [np.nan, 1.0, 1.0]}}
    runs = [of("fedavg", 0.8, 0.1), of("fedprox", 0.8, 0.1), of("fd", 0.9, 0.1, **gone)]
    runs += [of("fedavg", 0.7, 1.0), of("fedprox", 0.8, 1.0)]
    rows = rows_of(problems.overview(runs))
    assert {name: row["alpha 0.1"].mark for name, row in rows.items()} == {"fedavg": "best", "fedprox": "best", "fd": ""}
    assert {name: row["alpha 1"].mark for name, row in rows.items()} == {"fedavg": "", "fedprox": "best", "fd": ""}


def test_ranks_are_means_over_problems_and_a_test_takes_six(runs):
    result = problems.overview(runs)
    rows = rows_of(result)
    # 0.1: fedavg, fd, cfkd; inf: cfkd, fedavg, fd
    assert [rows[name]["average rank"].value for name in ("fedavg", "fd", "cfkd")] == [1.5, 2.5, 2.0]
    assert rows["independent"]["average rank"].value is None
    assert any(note.startswith("no significance test: 2 problems are too few") for note in result.notes)


def test_from_six_problems_on_there_is_a_test(tmp_path):
    def over(n, names):
        results = []
        for alpha in range(1, n + 1):
            for place, name in enumerate(names):
                value = 0.5 + place / 10
                results.append(saved(tmp_path, name, curve=(0.1, value), alpha=float(alpha), split=str(alpha)))
        return problems.overview(results).notes

    assert any("Wilcoxon over 6 problems: p = 0.031" in note for note in over(6, ("fd", "fedavg"))), "2 / 2**6"
    notes = over(6, ("cfkd", "fd", "fedavg"))
    assert any("Friedman over 6 problems: p = 0.002" in note for note in notes), "chi2 = 12 with 2 degrees of freedom"
    assert any("Nemenyi" in note for note in notes)


def test_tests_over_problems_against_closed_forms():
    always = np.arange(6.0)[:, None] + np.array([0.0, 1.0, 2.0])
    assert over_problems(always) == ("Friedman", pytest.approx(np.exp(-6))), "chi2 = n (k - 1) = 12: exp(-12 / 2)"
    assert over_problems(always[:, :2]) == ("Wilcoxon", pytest.approx(2 / 2**6))
    # Demsar 2006, table 5: q of 5 % is 2.343 for 3 methods, 2.569 for 4
    assert nemenyi(3, 10) == pytest.approx(2.343 * (3 * 4 / 60) ** 0.5, abs=1e-3)
    assert nemenyi(4, 14) == pytest.approx(2.569 * (4 * 5 / 84) ** 0.5, abs=1e-3)


def test_settings_are_selected_on_each_problem_for_itself_and_the_method_keeps_its_name(tmp_path):
    runs = []
    for alpha, best in ((0.1, 0.01), (1.0, 0.1)):
        for lr in (0.01, 0.1):
            columns = {"validation_mean": [np.nan, 0.2, 0.9 if lr == best else 0.3]}
            flags = {"alpha": alpha, "lr": lr, "columns": columns, "validation": 0.1, "split": str(alpha)}
            runs.append(saved(tmp_path, "fedavg", curve=(0.1, lr), **flags))
    rows = rows_of(problems.overview(runs, select=["lr"]))
    assert list(rows) == ["fedavg"]
    assert [rows["fedavg"][f"alpha {alpha}"].value for alpha in ("0.1", "1")] == pytest.approx([1, 10])
    assert [run.options["lr"] for run in select(runs, ["lr"])] == [0.01, 0.1]
    assert list(rows_of(problems.overview(runs))) == ["fedavg --lr 0.01", "fedavg --lr 0.1"]


def test_every_form_has_the_same_numbers(runs, capsys, tmp_path):
    result = problems.overview(runs)
    assert "| **52.00 ±2.00 (3)**" in render(result, "markdown")
    assert "52.00 ±2.00 (3) *" in render(result, "plain")
    latex = render(result, "latex")
    assert r"\textbf{52.00 $\pm$2.00 (3)}" in latex
    assert latex.count(r"\midrule") == 2, "references below a line"
    table.main([*(str(run.folder) for run in runs), "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(ACCURACY), "a row a method and problem, where it was run"
    first = next(row for row in rows if (row["algorithm"], row["--alpha"]) == ("fedavg", "0.1"))
    lines = [float(first[name]) for name in ("n", "global (%)", "global std (%)")]
    assert lines == pytest.approx([3, 52, 2])
    assert first["mark"] == "best"
    assert (float(first["personal (%)"]), first["personal mark"]) == (pytest.approx(52), "best")


def test_the_table_over_problems_has_global_and_personal_accuracy_unless_one_is_asked_for(runs, capsys):
    folders = [str(run.folder) for run in runs]
    titles = ["global accuracy (%) after the last round", "personal accuracy (%) after the last round"]
    table.main(folders)
    out = capsys.readouterr().out
    assert [out.count(title) for title in titles] == [1, 1]
    table.main([*folders, "--metric", "personal", "--markdown"])
    out = capsys.readouterr().out
    assert [out.count(title) for title in titles] == [0, 1]


def test_latex_groups_the_problems_by_their_first_option(tmp_path):
    runs = []
    for dataset, alpha in itertools.product(("MNIST", "digits"), (0.1, 1.0)):
        flags = {"dataset": dataset, "alpha": alpha, "split": f"{dataset} {alpha}", "data": dataset}
        runs += [saved(tmp_path, name, curve=(0.1, 0.5), **flags) for name in ("fd", "fedavg")]
    latex = render(problems.overview(runs), "latex")
    assert r"\multicolumn{2}{c}{MNIST} & \multicolumn{2}{c}{digits}" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in latex
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", latex)[1]
    assert re.findall(r"alpha [\d.]+", latex.splitlines()[5]) == ["alpha 0.1", "alpha 1", "alpha 0.1", "alpha 1"]
    lines = [line for line in latex.splitlines() if line.endswith(r" \\") and r"\multicolumn{2}" not in line]
    assert {line.count("&") for line in lines} == {len(columns) - 1}


def test_of_several_problems_a_baseline_is_told_on_each(runs, capsys):
    table.main([*(str(run.folder) for run in runs), "--baseline", "fedavg", "--columns", "difference"])
    out = capsys.readouterr().out
    assert "alpha 0.1, after the last round:" in out
    assert "alpha inf, after the last round:" in out
    assert "+10.00" in out, "cfkd with alpha inf"


def test_where_keeps_the_runs_with_these_values(runs):
    assert len(where(runs, {"alpha": ["0.1"]})) == 12
    assert len(where(runs, {"alpha": ["0.10", "inf"], "algorithm": ["fd", "cfkd"]})) == 12
    assert line_of(where, runs, {"beta": ["1"]}) == "--where beta: no run has this option"
    assert line_of(where, runs, {"alpha": ["7"]}) == "--where alpha=7: matches none of the 21 runs"


def test_a_run_from_before_a_flag_of_the_problem_is_of_the_problem_without_it(tmp_path):
    older, plain = saved(tmp_path), saved(tmp_path, "cfkd", feature_shift="none", shift_strength=0.5)
    shifted = saved(tmp_path, "cfkd", feature_shift="noise", shift_strength=0.5)
    names, result = groups.problems([older, plain, shifted])
    assert names == ["feature_shift"]
    assert [(problem.values, problem.runs) for problem in result] == [(("noise",), [shifted]), (("none",), [older, plain])]
    assert where([older, plain, shifted], {"feature_shift": ["none"]}) == [older, plain]
    assert where([older], {"feature_shift": ["none"]}) == [older]


def test_a_picture_of_several_problems_says_how_to_take_one(runs, tmp_path, capsys):
    folders = [str(run.folder) for run in runs]
    with pytest.raises(SystemExit):
        curves.main([*folders, "-o", str(tmp_path / "x.png")])
    assert "; add --where alpha=" in capsys.readouterr().err.splitlines()[-1]
    curves.main([*folders, "--where", "alpha=inf", "-o", str(tmp_path / "x.png")])
    assert capsys.readouterr().out.strip().endswith("x.png: 9 runs")


def test_columns_that_are_not_there_are_a_line(runs, capsys):
    with pytest.raises(SystemExit):
        table.main([*(str(run.folder) for run in runs), "--columns", "nothing"])
    assert "--columns nothing: no such column; must be all, a group (options, runs, accuracy, " in capsys.readouterr().err


def test_the_folders_of_a_grid_read_as_they_are(runs):
    assert len(read([runs[0].folder.parent])) == len(runs)
