"""The Pareto front against a sweep along the bytes, and the points that are drawn against histories by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_curves import refused
from test_targets import saved

from figures import pareto


def test_a_point_is_on_the_front_where_none_is_as_cheap_and_as_good():
    cheap, better, dear, worse = (10, 0.5), (20, 0.7), (30, 0.9), (25, 0.6)
    assert pareto.front([dear, worse, cheap, better]) == [True, False, True, True]
    assert pareto.front([(10, 0.5), (10, 0.6)]) == [False, True], "as cheap and better"
    assert pareto.front([(10, 0.5), (20, 0.5)]) == [True, False], "as good and cheaper"
    assert pareto.front([(10, 0.5), (10, 0.5)]) == [True, True], "equals do not beat each other"
    assert pareto.front([]) == []


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_the_front_is_what_a_sweep_from_the_cheapest_meets_as_better_than_all_before(points):
    best, on_it = 0, set()
    for nbytes in sorted({nbytes for nbytes, _ in points}):
        top = max(value for other, value in points if other == nbytes)
        if top > best:
            best = top
            on_it.add((nbytes, top))
    assert pareto.front(points) == [point in on_it for point in points]


def point(axes, label):
    """(bytes, mean, half the bar) of a group."""
    (bar,) = [container for container in axes.containers if container.get_label() == label]
    dot, _, lines = bar.lines
    ((x, y),) = dot.get_xydata()
    return x, y, None if not lines else np.ptp(lines[0].get_segments()[0][:, 1]) / 2


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


@pytest.fixture
def runs(tmp_path):
    """fd: 20 bytes, 30 and 50 %; fedavg: 60 bytes, 80 %; cfkd: 100 bytes, 70 %; references at 55 and 95 %."""
    made = [saved(tmp_path, "fd", s, curve=(0.9, value), nbytes=(10, 0, 0)) for s, value in enumerate((0.3, 0.5))]
    made += [saved(tmp_path, "fedavg", curve=(0.9, 0.8), nbytes=(10, 15, 10))]
    made += [saved(tmp_path, "cfkd", curve=(0.9, 0.7), nbytes=(50, 0, 0))]
    made += [saved(tmp_path, "independent", curve=(0.9, 0.55), nbytes=(0, 0, 0))]
    return [*made, saved(tmp_path, "centralized", curve=(0.1, 0.95), nbytes=(0, 0, 7))]


def test_a_point_is_the_last_round_against_all_bytes_with_a_deviation_over_seeds(runs):
    left, right = pareto.draw(runs).axes
    for axes in (left, right):
        assert point(axes, "fd (n = 2)") == (20, pytest.approx(40), pytest.approx(100 * np.std([0.3, 0.5], ddof=1)))
        assert point(axes, "fedavg (n = 1)") == (60, pytest.approx(80), None)
        assert point(axes, "cfkd (n = 1)") == (100, pytest.approx(70), None)
        assert axes.get_xscale() == "log"
        assert axes.xaxis.get_major_formatter()(1e6) == "1 MB"


def test_the_front_is_a_step_line_that_goes_on_to_the_dearest_point(runs):
    front = lines_of(pareto.draw(runs).axes[0])["Pareto front"]
    assert front.get_drawstyle() == "steps-post"
    assert front.get_xydata().tolist() == [[20, pytest.approx(40)], [60, pytest.approx(80)], [100, pytest.approx(80)]]


def test_references_and_what_sends_nothing_are_horizontal_lines_and_no_points(runs, tmp_path):
    axes = pareto.draw([*runs, saved(tmp_path, "silent", curve=(0.1, 0.2), nbytes=(0, 0, 0))]).axes[0]
    lines = lines_of(axes)
    for label, level in (("independent (n = 1)", 55), ("centralized (n = 1)", 95), ("silent (n = 1)", 20)):
        assert list(lines[label].get_ydata()) == pytest.approx([level, level])
        assert label not in [container.get_label() for container in axes.containers]
    only = pareto.draw(runs[-2:]).axes[0]
    assert "Pareto front" not in lines_of(only)


def test_the_legend_has_the_methods_in_the_order_of_all_pictures_and_the_front_last(runs):
    texts = [text.get_text() for text in pareto.draw(runs).legends[0].get_texts()]
    names = ["cfkd (n = 1)", "fd (n = 2)", "fedavg (n = 1)", "centralized (n = 1)", "independent (n = 1)"]
    assert texts == [*names, "Pareto front"]


def test_points_that_all_cost_the_same_are_within_the_panel(tmp_path):
    left, right = pareto.draw([saved(tmp_path, name) for name in ("fd", "fedavg", "independent")]).axes
    for axes in (left, right):
        assert axes.get_xlim()[0] < 200 < 240 < axes.get_xlim()[1]


def test_the_command(runs, tmp_path, capsys):
    pareto.main([str(tmp_path), "--metric", "worst", "-o", str(tmp_path / "pareto.png")])
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    saved(tmp_path, "fd", alpha=9)
    assert refused(capsys, pareto.main, tmp_path).startswith("different splits are not compared: --alpha")
