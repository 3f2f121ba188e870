"""The Pareto front against a sweep along the bytes, and the points that are drawn against histories by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_curves import refused
from test_targets import saved

from figures import pareto
from figures.groups import ordered
from figures.styles import looks


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


def marks_of(runs, quantity="bytes", metric="global"):
    """{label: mark}, the panel itself as the last one."""
    (panel,) = pareto.panels({"": looks(ordered(runs))}, quantity, metric)
    return {mark.label: mark for mark in panel.marks} | {"": panel}


def place(mark):
    """(bytes, mean, half the bar) of a group."""
    (x,), (y,) = mark.x, mark.y
    return x, y, None if mark.spread is None else mark.spread[0]


@pytest.fixture
def runs(tmp_path):
    """fd: 20 bytes, 30 and 50 %; fedavg: 60 bytes, 80 %; cfkd: 100 bytes, 70 %; references at 55 and 95 %."""
    created = [saved(tmp_path, "fd", s, curve=(0.9, value), nbytes=(10, 0, 0)) for s, value in enumerate((0.3, 0.5))]
    created += [saved(tmp_path, "fedavg", curve=(0.9, 0.8), nbytes=(10, 15, 10))]
    created += [saved(tmp_path, "cfkd", curve=(0.9, 0.7), nbytes=(50, 0, 0))]
    created += [saved(tmp_path, "independent", curve=(0.9, 0.55), nbytes=(0, 0, 0))]
    return [*created, saved(tmp_path, "centralized", curve=(0.1, 0.95), nbytes=(0, 0, 7))]


def test_a_point_is_the_last_round_against_all_bytes_with_a_deviation_over_seeds(runs):
    for metric in ("global", "personal"):
        marks = marks_of(runs, metric=metric)
        assert place(marks["fd (n = 2)"]) == (20, pytest.approx(40), pytest.approx(100 * np.std([0.3, 0.5], ddof=1)))
        assert place(marks["fedavg (n = 1)"]) == (60, pytest.approx(80), None)
        assert place(marks["cfkd (n = 1)"]) == (100, pytest.approx(70), None)


def test_points_are_drawn_with_their_bars_on_an_axis_in_bytes(runs, tmp_path):
    left, right = pareto.draw([*runs, saved(tmp_path, "dear", curve=(0.9, 0.1), nbytes=(10**6, 0, 0))]).axes
    for axes in (left, right):
        (bar,) = [container for container in axes.containers if container.get_label() == "fd (n = 2)"]
        dot, _, (lines,) = bar.lines
        assert dot.get_xydata().tolist() == [[20, pytest.approx(40)]]
        assert np.ptp(lines.get_segments()[0][:, 1]) / 2 == pytest.approx(100 * np.std([0.3, 0.5], ddof=1))
        assert axes.get_xscale() == "log", "20 bytes and 2 MB"
        assert axes.xaxis.get_major_formatter()(1e6) == "1 MB"


def test_the_front_is_a_step_line_that_goes_on_to_the_end_of_the_axis(runs):
    mark = marks_of(runs)["Pareto front"]
    assert mark.steps
    assert mark.x[-1] == marks_of(runs)[""].x.span[1] == pytest.approx(105)
    front = {line.get_label(): line for line in pareto.draw(runs).axes[0].lines}["Pareto front"]
    assert front.get_drawstyle() == "steps-post"
    assert front.get_xydata().tolist() == [[20, pytest.approx(40)], [60, pytest.approx(80)], [105, pytest.approx(80)]]


def test_references_and_what_sends_nothing_are_level_and_no_points(runs, tmp_path):
    runs = [*runs, saved(tmp_path, "silent", curve=(0.1, 0.2), nbytes=(0, 0, 0))]
    marks = marks_of(runs)
    for label, level in (("independent (n = 1)", 55), ("centralized (n = 1)", 95), ("silent (n = 1)", 20)):
        assert marks[label].level
        assert list(marks[label].y) == pytest.approx([level] * 41)
    assert "Pareto front" not in marks_of(runs[-3:-1])
    assert marks_of(runs[-3:-1])[""].empty


def test_against_seconds_what_sends_nothing_has_a_price_and_references_have_none(runs, tmp_path):
    marks = marks_of([*runs, saved(tmp_path, "silent", curve=(0.1, 0.2), nbytes=(0, 0, 0))], "seconds")
    assert place(marks["silent (n = 1)"]) == (2, pytest.approx(20), None), "1 + 0.5 + 0.5"
    assert marks["independent (n = 1)"].level
    lacking = marks_of(runs, "flops")[""]
    assert list(lacking.lacks) == ["cfkd (n = 1)", "fd (n = 2)", "fedavg (n = 1)"]
    assert lacking.empty


def test_the_legend_has_the_methods_in_the_order_of_all_pictures_and_the_front_first_as_it_is_behind(runs):
    texts = [text.get_text() for text in pareto.draw(runs).legends[0].get_texts()]
    names = ["cfkd (n = 1)", "fd (n = 2)", "fedavg (n = 1)", "centralized (n = 1)", "independent (n = 1)"]
    assert texts == ["Pareto front", *names]


def test_points_that_all_cost_the_same_are_within_the_panel(tmp_path):
    left, right = pareto.draw([saved(tmp_path, name) for name in ("fd", "fedavg", "independent")]).axes
    for axes in (left, right):
        assert axes.get_xlim() == (0, pytest.approx(1.05 * 220))


def test_the_command(runs, tmp_path, capsys):
    pareto.main([str(tmp_path), "--metric", "worst", "-o", str(tmp_path / "pareto.png")])
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    saved(tmp_path, "fd", alpha=9)
    assert refused(capsys, pareto.main, tmp_path).startswith("different splits cannot be compared: --alpha")
