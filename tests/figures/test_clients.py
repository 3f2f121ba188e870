"""The clients' accuracies: the dots that are drawn, and who is harmed, against accuracies by hand."""

import pytest
from test_curves import refused
from test_targets import saved

from figures import clients
from figures.groups import ordered


def of(export, algorithm, seed, values, **changed):
    """A run whose clients have these accuracies after its last round, and others before."""
    return saved(export, algorithm, seed, curve=(0.1, 0.2), clients={1: [0.99] * len(values), 2: values}, **changed)


def dots(axes):
    """{colour: {"o": accuracies of clients, "x": of those harmed}} in percent, from the worst to the best."""
    told = {}
    for marks in axes.collections:
        mark = "o" if marks.get_paths()[0].codes is not None and len(marks.get_paths()[0].vertices) > 4 else "x"
        colours = [tuple(colour) for colour in (marks.get_facecolor() if mark == "o" else marks.get_edgecolor())]
        colour = colours[0] if colours else None
        told.setdefault(colour, {"o": [], "x": []})[mark] += marks.get_offsets()[:, 0].tolist()
    return told


def words(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def runs(tmp_path):
    """Two seeds on one split. fedavg less alone: +10, -10, 0 and +10, 0, -20 points."""
    alone = [of(tmp_path, "independent", s, values) for s, values in enumerate(((0.5, 0.7, 0.9), (0.3, 0.7, 0.9)))]
    return [of(tmp_path, "fedavg", s, v) for s, v in enumerate(((0.6, 0.6, 0.9), (0.4, 0.7, 0.7)))] + alone


def test_on_one_split_a_client_is_the_mean_over_its_seeds(runs):
    found = ordered(runs)
    frame = clients.accuracies(found[0], found, together=True)
    assert frame["client"].tolist() == [0, 1, 2]
    assert frame["accuracy"].tolist() == pytest.approx([0.5, 0.65, 0.8])
    assert frame["gain"].tolist() == pytest.approx([0.1, -0.05, -0.1])
    (axes,) = clients.draw(runs).axes
    fedavg, independent = dots(axes).values()
    assert fedavg == {"o": pytest.approx([50]), "x": pytest.approx([65, 80])}
    assert independent == {"o": pytest.approx([40, 70, 90]), "x": []}
    assert words(axes) == ["client 0", "2 of 3 harmed", "client 0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fedavg (n = 2)", "independent (n = 2)"]


def test_the_worst_client_is_on_the_top_of_its_row_and_the_mean_is_a_line(runs):
    (axes,) = clients.draw(runs).axes
    points = sorted(tuple(point) for marks in axes.collections[:2] for point in marks.get_offsets())
    heights = [y for _, y in points]
    assert heights == sorted(heights), "upside down: the first row is at 0, the second one at 1 below it"
    assert axes.get_ylim() == (1.5, -0.5)
    means = [line.get_xdata()[0] for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[1]]
    assert means == pytest.approx([65, 200 / 3])


def test_on_several_splits_every_seed_has_its_clients(tmp_path):
    runs = [of(tmp_path, "independent", s, (0.5, 0.7), split=str(s), split_seed=s) for s in (0, 1)]
    runs += [of(tmp_path, "cfkd", s, (0.6, 0.6 - s / 10), split=str(s), split_seed=s) for s in (0, 1)]
    figure = clients.draw(runs)
    cfkd, independent = dots(figure.axes[0]).values()
    assert cfkd == {"o": pytest.approx([60, 60]), "x": pytest.approx([50, 60])}
    assert independent["o"] == pytest.approx([50, 50, 70, 70])
    assert words(figure.axes[0])[:2] == ["client 1, seed 1", "2 of 4 harmed"]
    assert "several splits" in figure.axes[0].get_xlabel()


def test_harm_is_held_against_the_same_seed_and_is_not_told_without_any(tmp_path):
    runs = [of(tmp_path, "fedavg", s, (0.5, 0.6)) for s in (0, 1)] + [of(tmp_path, "independent", 1, (0.4, 0.7))]
    found = ordered(runs)
    told = clients.accuracies(found[0], found, together=False)
    assert told.loc[told["seed"] == 0, "gain"].isna().all()
    assert told.loc[told["seed"] == 1, "gain"].tolist() == pytest.approx([0.1, -0.1])
    assert words(clients.draw(runs[:2]).axes[0]) == ["client 0"]


def test_of_several_settings_of_independent_the_one_with_the_same_flags_counts(tmp_path):
    runs = [of(tmp_path, name, 0, (0.5 + lr,), lr=lr) for name in ("fedavg", "independent") for lr in (0.1, 0.2)]
    found = ordered(runs)
    assert [clients.accuracies(group, found, True)["gain"].tolist() for group in found[:2]] == [[0], [0]]


def test_the_command(runs, tmp_path, capsys):
    clients.main([str(tmp_path), "-o", str(tmp_path / "clients.pdf")])
    assert (tmp_path / "clients.pdf").read_bytes().startswith(b"%PDF")
    of(tmp_path, "fd", 0, (0.1,), alpha=9)
    assert refused(capsys, clients.main, tmp_path).startswith("different splits are not compared: --alpha")
