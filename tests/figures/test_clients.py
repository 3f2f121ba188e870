"""The clients' accuracies: the dots that are drawn, and who is harmed, against accuracies by hand."""

import numpy as np
import pytest
from conftest import keeping
from test_curves import refused
from test_targets import right, saved

from figures import clients
from figures.groups import ordered, read
from figures.marks import Points


def of(export, algorithm, seed, values, **changed):
    """A run whose clients have these accuracies after its last round, on the first of 100 examples, and others before."""
    run = saved(export, algorithm, seed, curve=(0.1, 0.2), clients={1: [0.99] * len(values), 2: values}, **changed)
    return right(run, *[np.arange(100) < round(100 * value) for value in values])


def dots(runs):
    """{name of a row: {marker: accuracies}} in percent, "circle" of clients, "x" of those harmed, the worst first."""
    panel = clients.panel(ordered(runs))
    names = [name.partition(" (n")[0] for name in panel.y.ticks.values()]
    by_name = {name: {"circle": [], "x": []} for name in names}
    for mark in panel.marks:
        if len(mark.hover) and mark.style.marker and isinstance(mark, Points) and len(mark.x):
            by_name[names[round(mark.y[0])]][mark.style.marker] += list(mark.x)
    return by_name


def ticks(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def words(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def runs(tmp_path):
    """Two seeds on one split. fedavg less alone: +10, -10, 0 and +10, 0, -20 points."""
    alone = [of(tmp_path, "independent", s, values) for s, values in enumerate(((0.5, 0.7, 0.9), (0.3, 0.7, 0.9)))]
    return [of(tmp_path, "fedavg", s, v) for s, v in enumerate(((0.6, 0.6, 0.9), (0.4, 0.7, 0.7)))] + alone


def test_on_one_split_a_client_is_the_mean_over_its_seeds(runs):
    result = ordered(runs)
    frame = clients.accuracies(result[0], result, together=True)
    assert frame["client"].tolist() == [0, 1, 2]
    assert frame["accuracy"].tolist() == pytest.approx([0.5, 0.65, 0.8])
    assert frame["gain"].tolist() == pytest.approx([0.1, -0.05, -0.1])
    (axes,) = clients.draw(runs).axes
    assert dots(runs) == {
        "fedavg": {"circle": pytest.approx([50]), "x": pytest.approx([65, 80])},
        "independent": {"circle": pytest.approx([40, 70, 90]), "x": []},
    }
    assert words(axes) == ["client 0", "client 1", "client 2"] * 2
    assert ticks(axes) == ["fedavg (n = 2)\n2 of 3 harmed", "independent (n = 2)"]
    texts = [text.get_text() for text in clients.draw(runs).legends[0].get_texts()]
    assert texts == ["client", "harmed: significantly worse than the same client alone", "mean over clients"]


def test_clients_have_their_names(runs):
    for run in runs:
        named = {"table": np.ones((3, 2), int), "clients": np.array(["north", "south", "east"])}
        keeping(run, "split.npz", named)
    (axes,) = clients.draw(runs).axes
    assert words(axes) == ["client north", "client south", "client east"] * 2


def test_a_bar_is_a_deviation_over_seeds_and_the_pointer_is_told_who_it_is(runs):
    keeping(runs[0], "split.npz", {"table": np.array([[3, 9], [1, 0], [2, 2]])})
    panel = clients.panel(ordered(runs))
    fine, harmed = [mark for mark in panel.marks if isinstance(mark, Points) and mark.across is not None][:2]
    half = 100 * np.std([0.6, 0.4], ddof=1)
    assert list(fine.across) == pytest.approx([half])
    assert list(harmed.across) == pytest.approx([half / 2, half])
    (result,) = fine.hover
    assert result == "fedavg (n = 2)\nclient 0 (12 training examples)\n50.0 % ± 14.1\n+10.0 points over learning alone"
    (axes,) = clients.draw(runs).axes
    (bar,) = next(container for container in axes.containers if container.has_xerr).lines[2]
    assert bar.get_segments()[0][:, 0] == pytest.approx([50 - half, 50 + half])


def test_more_clients_than_can_be_named_have_no_bars_and_the_worst_is_named(tmp_path):
    runs = [of(tmp_path, "fedavg", s, np.arange(13, 0, -1) / 100 + s / 50) for s in (0, 1)]
    (axes,) = clients.draw(runs).axes
    assert words(axes) == ["client 12"]
    assert not any(container.has_xerr for container in axes.containers)


def test_the_worst_client_is_on_the_top_of_its_row_and_the_mean_is_a_line(runs):
    (axes,) = clients.draw(runs).axes
    lines = [container.lines[0] for container in axes.containers if len(container.lines[0].get_marker())]
    points = sorted(point for line in lines for point in line.get_xydata().tolist() if point[1] < 0.5)
    heights = [y for _, y in points]
    assert len(heights) == 3
    assert heights == sorted(heights), "upside down: the first row is at 0, the second one at 1 below it"
    assert axes.get_ylim() == (1.5, -0.5)
    means = [line.get_xdata()[0] for line in axes.lines if np.ptp(line.get_ydata()) == pytest.approx(0.84)]
    assert means == pytest.approx([65, 200 / 3])


def test_on_several_splits_every_seed_has_its_clients(tmp_path):
    runs = [of(tmp_path, "independent", s, (0.5, 0.7), split=str(s), split_seed=s) for s in (0, 1)]
    runs += [of(tmp_path, "cfkd", s, (0.6, 0.6 - s / 10), split=str(s), split_seed=s) for s in (0, 1)]
    figure = clients.draw(runs)
    result = dots(runs)
    assert result["cfkd"] == {"circle": pytest.approx([60, 60]), "x": pytest.approx([50, 60])}
    assert result["independent"]["circle"] == pytest.approx([50, 50, 70, 70])
    assert words(figure.axes[0])[:2] == ["client 1, seed 1", "client 0, seed 0"]
    assert ticks(figure.axes[0]) == ["cfkd (n = 2)\n2 of 4 harmed", "independent (n = 2)"]
    assert "several splits" in figure.axes[0].get_xlabel()


def test_harm_is_held_against_the_same_seed_and_is_not_told_without_any(tmp_path):
    runs = [of(tmp_path, "fedavg", s, (0.5, 0.6)) for s in (0, 1)] + [of(tmp_path, "independent", 1, (0.4, 0.7))]
    result = ordered(runs)
    actual = clients.accuracies(result[0], result, together=False)
    assert actual.loc[actual["seed"] == 0, "gain"].isna().all()
    assert actual.loc[actual["seed"] == 1, "gain"].tolist() == pytest.approx([0.1, -0.1])
    figure = clients.draw(runs[:2])
    assert ticks(figure.axes[0]) == ["fedavg (n = 2)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["client", "mean over clients"]


def test_of_several_settings_of_independent_the_one_with_the_same_flags_counts(tmp_path):
    runs = [of(tmp_path, name, 0, (0.5 + lr,), lr=lr) for name in ("fedavg", "independent") for lr in (0.1, 0.2)]
    result = ordered(runs)
    assert [clients.accuracies(group, result, True)["gain"].tolist() for group in result[:2]] == [[0], [0]]


def test_the_command(runs, tmp_path, capsys):
    clients.main([str(tmp_path), "-o", str(tmp_path / "clients.pdf")])
    assert (tmp_path / "clients.pdf").read_bytes().startswith(b"%PDF")
    of(tmp_path, "fd", 0, (0.1,), alpha=9)
    assert refused(capsys, clients.main, tmp_path).startswith("different splits cannot be compared: --alpha")


def test_each_value_of_a_flag_has_a_panel_with_the_same_axis(tmp_path):
    for alpha, values in ((0.1, (0.2, 0.3)), (1.0, (0.8, 0.9))):
        of(tmp_path, "fedavg", 0, values, alpha=alpha, split=str(alpha))
    figure = clients.draw(read([tmp_path]), by=["alpha"])
    assert [axes.get_title() for axes in figure.axes] == ["alpha 0.1", "alpha 1"]
    assert [words(axes) for axes in figure.axes] == [["client 0", "client 1"]] * 2
    first, second = (axes.get_xlim() for axes in figure.axes)
    assert first == second
    assert first[0] < 20
    assert first[1] > 90
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, True]
