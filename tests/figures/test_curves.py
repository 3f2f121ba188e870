"""Learning curves: the numbers of the lines and bands that are drawn, against histories by hand."""

import numpy as np
import pytest
from conftest import line_of
from test_targets import saved

from figures import curves
from figures.groups import ordered
from figures.marks import Line, Points
from figures.styles import looks
from figures.styles import styles as styles_of

NAN = float("nan")


def panel_of(runs, quantity="rounds", metric="global"):
    (panel,) = curves.panels({"": looks(ordered(runs))}, quantity, metric)
    return panel


def lines_of(panel):
    """{label: (x, y)} of the lines and points of a panel."""
    return {mark.label: (list(mark.x), list(mark.y)) for mark in panel.marks}


def drawn(axes):
    """The same of the lines that are drawn."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def filled(axes, number=0):
    """(lowest, highest) of a band at each of its x."""
    points = axes.collections[number].get_paths()[0].vertices
    xs = sorted(set(points[:, 0]))
    return [(points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()) for x in xs]


def counted(export, algorithm="fedavg", seed=0, **changed):
    """A run whose operations are counted: 2e9 a round, and none before the first."""
    rounds = len(changed.setdefault("curve", (0.2, 0.6)))
    return saved(export, algorithm, seed, columns={"flops": [0.0, *[2e9] * rounds]}, **changed)


# --- bands -------------------------------------------------------------------------------------------------------------


def test_a_band_is_the_mean_over_seeds_and_a_standard_deviation_of_a_sample(tmp_path):
    runs = [saved(tmp_path, seed=i, curve=curve) for i, curve in enumerate(((0.2, 0.6), (0.4, 0.6), (0.6, 0.9)))]
    result = curves.band(runs, "rounds")
    assert result.x.tolist() == [1, 2]
    assert result.mean == pytest.approx([0.4, 0.7])
    spread = np.array([0.2, np.sqrt(0.03)])  # deviations -0.2, 0, 0.2 and -0.1, -0.1, 0.2
    assert result.spread == pytest.approx(spread)


def test_where_seeds_spent_differently_points_are_between_what_all_have_spent(tmp_path):
    run = saved(tmp_path, curve=(0.2, 0.6), nbytes=(10, 0, 0))  # 10, 20 bytes
    other = saved(tmp_path, seed=1, curve=(0.1, 0.5), nbytes=(15, 0, 0))  # 15, 30 bytes
    result = curves.band([run, other], "bytes")
    assert result.x.tolist() == [15, 20]
    # at 15 bytes half the way from 0.2 to 0.6, at 20 a third of that from 0.1 to 0.5
    assert result.mean == pytest.approx([(0.4 + 0.1) / 2, (0.6 + 0.1 + 0.4 / 3) / 2])


def test_rounds_that_one_seed_did_not_evaluate_are_on_its_line(tmp_path):
    runs = [saved(tmp_path, curve=(0.2, 0.4, 0.6)), saved(tmp_path, seed=1, curve=(0.4, NAN, 1.0))]
    result = curves.band(runs, "rounds")
    assert result.x.tolist() == [1, 2, 3]
    assert result.mean == pytest.approx([0.3, 0.55, 0.8])


def test_a_single_run_has_no_spread_and_a_history_without_the_quantity_no_band(tmp_path):
    run = saved(tmp_path)
    result = curves.band([run], "rounds")
    assert (result.mean.tolist(), result.spread) == ([0.2, 0.6, 0.4, 0.8], None)
    assert curves.band([run], "flops") is None


# --- lines -------------------------------------------------------------------------------------------------------------


def test_a_line_is_a_group_of_seeds_in_percent_with_its_band_and_both_accuracies_are_panels(tmp_path):
    own = {1: [0.1], 2: [0.5]}
    runs = [saved(tmp_path, seed=s, curve=(0.2, 0.6), clients=own) for s in (0, 2)]
    runs += [saved(tmp_path, "cfkd", seed=s, curve=(0.2, 0.6 + s / 10), clients=own) for s in (0, 2)]
    left, right = curves.draw(runs).axes
    assert drawn(left) == {
        "cfkd (n = 2)": ([1, 2], pytest.approx([20, 70])),
        "fedavg (n = 2)": ([1, 2], pytest.approx([20, 60])),
    }
    assert drawn(right)["cfkd (n = 2)"] == ([1, 2], pytest.approx([10, 50]))
    half = 100 * np.std([0.6, 0.8], ddof=1)
    assert filled(left) == [pytest.approx((20, 20)), pytest.approx((70 - half, 70 + half))]
    assert (left.get_xlabel(), left.get_ylabel()) == ("communication rounds", "accuracy (%)")
    assert right.get_ylabel() == "", "it stands at the left already"


def test_a_single_seed_has_no_band_and_the_legend_says_what_lines_and_bands_are(tmp_path):
    figure = curves.draw([saved(tmp_path)])
    assert not figure.axes[0].collections
    assert figure.legends[0].get_title().get_text() == "one seed: an illustration"
    figure = curves.draw([saved(tmp_path / "more", seed=seed) for seed in (0, 1)])
    assert len(figure.axes[0].collections) == 1
    assert figure.legends[0].get_title().get_text() == "mean over n seeds, band: one standard deviation over seeds"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fedavg (n = 2)"]


def test_what_is_evaluated_once_is_a_point_with_a_bar_over_seeds(tmp_path):
    runs = [saved(tmp_path, seed=seed, curve=(value,)) for seed, value in enumerate((0.2, 0.4))]
    (mark,) = panel_of(runs).marks
    assert (type(mark), list(mark.x), list(mark.y)) == (Points, [1], [pytest.approx(30)])
    assert isinstance(panel_of([saved(tmp_path / "more")]).marks[0], Line)
    (axes, _) = curves.draw(runs).axes
    ((point, _, (bar,)),) = axes.containers
    assert (len(point.get_marker()), point.get_xdata().tolist(), point.get_ydata().tolist()) == (
        25,
        [1],
        [pytest.approx(30)],
    )
    (((_, low), (_, high)),) = bar.get_segments()
    assert (low, high) == pytest.approx((30 - 20 / np.sqrt(2), 30 + 20 / np.sqrt(2)))


def test_seeds_that_never_spent_alike_are_refused_in_a_line(tmp_path):
    runs = [saved(tmp_path, curve=(0.2,), nbytes=(10, 0, 0)), saved(tmp_path, seed=1, curve=(0.3,), nbytes=(15, 0, 0))]
    assert line_of(curves.draw, runs, None, ("bytes",)).startswith(
        "--against bytes: the seeds of fedavg have no common range"
    )


def test_each_quantity_is_a_row_of_panels_in_units_for_people(tmp_path):
    figure = curves.draw([counted(tmp_path)], against=curves.QUANTITIES, metric=["global"])
    x = {axes.get_xlabel(): drawn(axes)["fedavg (n = 1)"][0] for axes in figure.axes}
    assert x == {
        "communication rounds": [1, 2],
        "bytes of all clients in all directions": [130, 160],
        "floating-point operations of all clients and the server": [2e9, 4e9],
        "seconds, those of evaluations left out": [1.5, 2],
    }
    of_bytes, of_flops = (axes.xaxis.get_major_formatter() for axes in figure.axes[1:3])
    assert (of_bytes(2e6), of_flops(4e9)) == ("2 MB", "4 GFLOP")


def test_an_axis_is_logarithmic_where_the_ends_of_the_curves_are_further_apart_than_a_factor_of_twenty(tmp_path):
    def axis(*runs):
        return curves.draw(runs, against=["bytes"]).axes[0]

    few = saved(tmp_path, "fd", curve=(0.2, 0.6), nbytes=(1, 0, 0))  # 1 and 2 bytes
    linear = axis(few, saved(tmp_path, curve=(0.2, 0.6), nbytes=(20, 0, 0)))
    assert (linear.get_xscale(), linear.get_xlim()) == ("linear", (0, pytest.approx(42))), "the ends are 2 and 40"
    logarithmic = axis(few, saved(tmp_path, curve=(0.2, 0.6), nbytes=(21, 0, 0)))
    assert (logarithmic.get_xscale(), logarithmic.get_xlim()) == ("log", pytest.approx((0.6, 1.7 * 42)))
    assert logarithmic.get_xlabel() == "bytes of all clients in all directions (logarithmic)"
    reference = saved(tmp_path, "centralized", curve=(0.2, 0.6), nbytes=(1, 0, 9e9))
    assert axis(few, reference).get_xscale() == "linear", "a reference"
    assert axis(few).get_xscale() == "linear"


def test_against_bytes_references_and_what_sends_nothing_are_level_after_the_last_round(tmp_path):
    runs = [
        saved(tmp_path, name, s, curve=(0.2, v), nbytes=(0, 0, 0)) for name in ("independent", "silent") for s, v in SEEDS
    ]
    runs += [saved(tmp_path, "centralized", curve=(0.3, 0.9), nbytes=(0, 0, 77)), saved(tmp_path, curve=(0.2, 0.6))]
    of_bytes, of_rounds = (panel_of(runs, quantity) for quantity in ("bytes", "rounds"))
    lines = lines_of(of_bytes)
    for name, last in (("independent (n = 2)", 50), ("silent (n = 2)", 50), ("centralized (n = 1)", 90)):
        x, y = lines[name]
        assert (x[0], x[-1]) == of_bytes.x.span == (0, pytest.approx(168)), "from the left to the right of the panel"
        assert y == pytest.approx([last] * len(x))
        assert lines_of(of_rounds)[name][0] == [1, 2]
    assert lines["fedavg (n = 1)"][0] == [130, 160]
    half = 100 * np.std([0.4, 0.6], ddof=1)
    spreads = {mark.label: mark.spread for mark in of_bytes.marks}
    assert spreads["silent (n = 2)"] == pytest.approx([half] * 41)
    assert spreads["centralized (n = 1)"] is None
    assert [mark.level for mark in of_bytes.marks] == [False, True, True, True]
    assert not of_bytes.empty
    assert panel_of(runs[:2], "bytes").empty, "there is nothing that depends on bytes"


SEEDS = ((0, 0.4), (1, 0.6))


def test_the_order_of_the_runs_changes_neither_lines_nor_styles(tmp_path):
    runs = [saved(tmp_path, name, seed) for name in ("fd", "cfkd", "independent") for seed in (0, 1)]

    def report(runs):
        lines = curves.draw(runs).axes[0].lines
        return [(line.get_label(), line.get_color(), line.get_linestyle(), list(line.get_ydata())) for line in lines]

    assert report(runs) == report(runs[::-1])
    assert [label for label, *_ in report(runs)] == ["cfkd (n = 2)", "fd (n = 2)", "independent (n = 2)"]


def test_a_group_has_one_style_in_all_panels_and_no_other_group_has_it(tmp_path):
    runs = [saved(tmp_path, lr=lr) for lr in np.arange(1, 21) / 10] + [saved(tmp_path, "cfkd")]
    runs += [saved(tmp_path, name, lr=lr) for name in ("independent", "centralized") for lr in (0.1, 0.2)]
    left, right = curves.draw(runs).axes
    styles = [[(line.get_label(), line.get_color(), line._dash_pattern) for line in axes.lines] for axes in (left, right)]
    assert styles[0] == styles[1]
    assert len({repr(style[1:]) for style in styles[0]}) == len(styles[0]) == 25
    greys = {label.partition(" ")[0]: colour for label, colour, _ in styles[0]}
    assert (greys["independent"], greys["centralized"]) == ("#000000", "#707070")
    assert styles_of(ordered(runs)) == styles_of(ordered(runs[::-1]))


# --- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_png_or_a_pdf_by_the_ending_and_reads_folders_of_runs(tmp_path, monkeypatch, capsys):
    runs = [counted(tmp_path / "saves", name) for name in ("cfkd", "fedavg")]
    curves.main([str(tmp_path / "saves"), "--against", *curves.QUANTITIES, "-o", str(tmp_path / "a.png")])
    curves.main([str(run.folder) for run in runs] + ["--metric", "worst", "-o", str(tmp_path / "a.pdf")])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    monkeypatch.chdir(tmp_path)
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}: 2 runs\n{tmp_path / 'a.pdf'}: 2 runs\n"
    curves.main(["saves"])
    assert (tmp_path / "curves.png").exists()


def test_a_column_of_panels_is_of_any_accuracy_that_the_runs_have(tmp_path):
    run = saved(tmp_path, columns={"global_mean:head 1": [np.nan, 0.1, 0.2, 0.3, 0.4]})
    (line,) = panel_of([run], metric="global:head 1").marks
    assert list(line.y) == pytest.approx([10, 20, 30, 40])
    axes = curves.draw([run], metric=["global", "global:head 1"]).axes
    assert [axe.get_title() for axe in axes[:2]] == ["global: the whole test set", "global:head 1: the whole test set"]


def refused(capsys, command, *words):
    """The one line of error with which a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        command([str(word) for word in words])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line.partition("error: ")[2]


def test_mistakes_are_a_line(tmp_path, capsys):
    run, other = saved(tmp_path), saved(tmp_path, "fd", alpha=9)
    assert refused(capsys, curves.main, tmp_path).startswith("different splits cannot be compared: --alpha is ")
    assert line_of(curves.draw, [run, other]).startswith("different splits cannot be compared: --alpha is 0.5 in ")
    assert "must be one of global, personal, worst" in refused(capsys, curves.main, run.folder, "--metric", "globl")
    result = refused(capsys, curves.main, run.folder, "--against", "flops")
    assert result == f"--against flops: the history of {run.folder}, or of another seed, does not count this quantity"
    assert "invalid choice: 'parameters'" in refused(capsys, curves.main, run.folder, "--against", "parameters")
    assert "not supported" in refused(capsys, curves.main, run.folder, "-o", tmp_path / "a.txt")
    assert "No such file" in refused(capsys, curves.main, run.folder, "-o", tmp_path / "none" / "a.png")
    assert refused(capsys, curves.main, tmp_path / "none").endswith("none: no such folder")


def test_a_method_looks_alike_whatever_stands_beside_it(tmp_path):
    runs = {name: saved(tmp_path, name) for name in ("cfkd", "fd", "fedavg", "independent")}
    alone = {name: styles_of(ordered([run]))[0] for name, run in runs.items()}
    result = ordered(list(runs.values()))
    assert {group.algorithm: style for group, style in zip(result, styles_of(result), strict=True)} == alone
    assert len(set(alone.values())) == 4


# --- several problems, and paper ---------------------------------------------------------------------------------------


def several(export, algorithms=("fedavg", "fd"), alphas=(0.1, 1.0), seeds=(0, 1)):
    """Runs on two splits; fedavg sends ten times as much on the second one."""
    return [
        saved(
            export, name, seed, curve=(0.2, 0.5 + seed / 10), alpha=alpha, split=str(alpha), nbytes=(int(100 * alpha), 0, 0)
        )
        for alpha in alphas
        for name in algorithms
        for seed in seeds
    ]


def test_each_value_of_a_flag_has_its_panels_with_the_same_axes_styles_and_one_legend(tmp_path):
    figure = curves.draw(several(tmp_path), against=["bytes", "rounds"], metric=["global"], by=["alpha"])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["alpha 0.1", "alpha 1", "", ""], "a column of panels has its title once"
    assert [axes.get_ylabel() for axes in figure.axes] == ["global accuracy (%)", ""] * 2
    left, right = figure.axes[:2]
    assert left.get_xlim() == right.get_xlim() == (0, pytest.approx(1.05 * 200))
    assert left.get_ylim() == right.get_ylim()
    assert drawn(left)["fedavg (n = 2)"][0] == [10, 20]
    assert drawn(right)["fedavg (n = 2)"][0] == [100, 200]
    looks_of = [
        {line.get_label(): (line.get_color(), str(line._dash_pattern)) for line in axes.lines} for axes in (left, right)
    ]
    assert looks_of[0] == looks_of[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fd (n = 2)", "fedavg (n = 2)"]


def test_an_entry_of_the_legend_has_the_numbers_of_seeds_of_all_panels(tmp_path):
    runs = several(tmp_path, seeds=(0,)) + several(tmp_path, alphas=(0.1,), algorithms=("fd",), seeds=(1,))
    figure = curves.draw(runs, by=["alpha"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fd (n = 1 to 2)", "fedavg (n = 1)"]


def test_panels_by_a_flag_are_each_of_comparable_runs(tmp_path, capsys):
    runs = several(tmp_path)
    assert line_of(curves.draw, runs).endswith("; add --where alpha=1 to select one, or --by alpha for a panel each")
    assert line_of(curves.draw, runs, None, ("rounds",), ("global",), ("alhpa",)) == (
        "--by alhpa: must be an option of these runs, such as alpha or n_clients; did you mean alpha?"
    )
    assert line_of(curves.draw, runs, None, ("rounds",), ("global",), ("seed",)).startswith("--by seed: must be an option")
    assert line_of(curves.draw, runs, None, ("rounds",), ("global",), ("lr",)).startswith("different splits cannot")
    curves.main([str(tmp_path), "--by", "alpha", "--size", "page", "-o", str(tmp_path / "a.pdf")])
    assert (tmp_path / "a.pdf").exists()
    assert "argument --size: invalid choice" in refused(capsys, curves.main, tmp_path, "--size", "poster")


def test_bands_and_bars_end_where_accuracies_end(tmp_path):
    runs = [saved(tmp_path, seed=seed, curve=curve) for seed, curve in enumerate(((0.0, 1.0), (0.1, 0.7)))]
    (axes, _) = curves.draw(runs).axes
    assert filled(axes) == [(0, pytest.approx(5 + 10 / np.sqrt(2))), (pytest.approx(85 - 30 / np.sqrt(2)), 100)]
    runs = [saved(tmp_path / "once", seed=seed, curve=(value,)) for seed, value in enumerate((0.7, 1.0))]
    (axes, _) = curves.draw(runs).axes
    ((_, _, (bar,)),) = axes.containers
    (((_, low), (_, high)),) = bar.get_segments()
    assert (low, high) == pytest.approx((85 - 30 / np.sqrt(2), 100))


@pytest.mark.parametrize(("size", "width", "rows"), [("column", 3.3, 4), ("page", 7, 2)])
def test_a_figure_for_a_paper_has_its_width_and_font_and_rows_that_are_too_long_continue_below(size, width, rows, tmp_path):
    figure = curves.draw(several(tmp_path, alphas=(0.1, 0.5, 1.0)), by=["alpha"], size=size)
    assert figure.get_figwidth() == pytest.approx(width)
    assert {text.get_fontsize() for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)} == {8}
    assert {text.get_fontsize() for axes in figure.axes for text in axes.get_xticklabels()} == {8}
    assert min(text.get_fontsize() for text in figure.legends[0].get_texts()) > 7
    tops = sorted({round(axes.get_position().y1, 2) for axes in figure.axes}, reverse=True)
    assert len(tops) == rows
    figure.canvas.draw()
    for text in (*[axes.xaxis.label for axes in figure.axes], figure.legends[0].get_title()):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1, text.get_text()
