"""Representations: what is embedded on which axes, and which dots are drawn of whom."""

import itertools

import matplotlib
import numpy as np
import pytest
from conftest import keeping, line_of
from test_curves import refused
from test_targets import saved

from figures import representations
from figures.styles import of_classes

D = 5


def kept(run, rounds=(1, 2, 3), n_clients=2, n=4, dim=D, seed=0):
    """A run that kept features: client k's lie around 10 k along the first axis, and move along the second one by round."""
    generator = np.random.default_rng(seed)
    arrays = {"rounds": np.array(rounds), "classes": np.array(["cat", "dog"])}
    for k in range(n_clients):
        values = generator.normal(size=(1, n + k, dim)).repeat(len(rounds), 0).astype(np.float32)
        values[..., 0] += 10 * k
        values[..., 1] += np.arange(len(rounds), dtype=np.float32)[:, None]
        arrays |= {f"features_{k}": values, f"labels_{k}": np.arange(n + k) % 2}
    run.options["n_clients"] = n_clients
    return keeping(run, "features.npz", arrays)


def dots(panel):
    """{class, client: the places of its examples, float [N, 2]}."""
    shown = {mark.hover[0]: np.c_[mark.x, mark.y] for mark in panel.marks if len(mark.hover)}
    assert all(len(set(mark.hover)) <= 1 for mark in panel.marks), "a marker is of one client"
    return shown


def test_all_clients_of_a_run_are_together_in_their_order(tmp_path):
    run = kept(saved(tmp_path), n_clients=3)
    rounds, values, classes, whose = representations.features(run)
    assert rounds == [1, 2, 3]
    assert values.shape == (3, 4 + 5 + 6, D)
    assert whose.tolist() == [0] * 4 + [1] * 5 + [2] * 6
    assert classes.tolist() == [0, 1, 0, 1, *[0, 1, 0, 1, 0], *[0, 1, 0, 1, 0, 1]]
    assert np.array_equal(values[:, whose == 1], run.arrays("features")["features_1"])


def test_pca_is_on_the_axes_of_the_last_round_so_that_what_moves_is_seen_to_move():
    values = np.random.default_rng(0).normal(size=(3, 20, D)) * (9, 3, 1, 1, 1)
    values[0], values[1] = values[2] - 5, values[2]
    points = representations.embedded(values)
    centred = values[2] - values[2].mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(points[2]) == pytest.approx(np.abs(centred @ axes[:2].T))
    assert points[1] == pytest.approx(points[2])
    assert np.abs(points[2] - points[0]) == pytest.approx(np.abs(np.tile(5 * axes[:2].sum(1), (20, 1)))), "the same axes"


def test_tsne_is_the_same_whenever_it_is_repeated_and_takes_few_points():
    values = np.random.default_rng(0).normal(size=(1, 8, D)).astype(np.float32)
    item, other = (representations.embedded(values, "tsne") for _ in range(2))
    assert item.shape == (1, 8, 2)
    assert np.array_equal(item, other)


def test_rows_are_runs_columns_rounds_and_dots_are_of_a_client_in_the_colours_of_its_classes(tmp_path):
    runs = [kept(saved(tmp_path, name, seed), seed=seed) for name in ("fd", "cfkd") for seed in (0, 1)]
    figure = representations.draw(runs)
    assert len(figure.axes) == 4 * 3
    labels = [f"{name}\nseed {seed}, split 0\nprincipal component 2" for name in ("cfkd", "fd") for seed in (0, 1)]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == labels
    assert [axes.get_title() for axes in figure.axes[:3]] == ["round 1", "round 2", "round 3"]
    _, values, classes, whose = representations.features(runs[2])
    points = representations.embedded(values)
    for r, panel in enumerate(representations.panels(runs[2], [1, 2, 3])):
        for k, c in itertools.product((0, 1), (0, 1)):
            name = f"class {('cat', 'dog')[c]}, client {k}"
            assert dots(panel)[name] == pytest.approx(points[r][(whose == k) & (classes == c)])
        style = {mark.hover[0]: mark.style for mark in panel.marks if len(mark.hover)}
        assert style["class cat, client 0"].colour == style["class cat, client 1"].colour
        assert style["class cat, client 0"].colour != style["class dog, client 0"].colour
        assert style["class cat, client 0"].marker == style["class dog, client 0"].marker
        assert style["class cat, client 0"].marker != style["class cat, client 1"].marker
    drawn = [line.get_xydata() for line in figure.axes[0].lines if not np.isnan(line.get_xydata()).any()]
    assert np.concatenate(drawn) == pytest.approx(
        np.concatenate(list(dots(representations.panels(runs[2], [1])[0]).values()))
    )
    assert figure.axes[0].get_xlim() == figure.axes[2].get_xlim(), "movement is seen on one scale"
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == ["class cat", "class dog", "client 0", "client 1"]


def test_by_default_up_to_six_rounds_with_the_first_and_the_last_and_six_clients_are_shown(tmp_path):
    runs = [
        kept(saved(tmp_path, name), rounds=rounds, n_clients=8) for name, rounds in (("fd", range(12)), ("cfkd", range(11)))
    ]
    figure = representations.draw(runs)
    assert [axes.get_title() for axes in figure.axes[:6]] == [f"round {r}" for r in (0, 2, 4, 6, 8, 10)], "of both runs"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["class cat", "class dog", *(f"client {k}" for k in range(6))]
    figure = representations.draw(runs, rounds=[9, 3], clients=[7])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["round 9", "round 3"]
    shown = [line.get_xydata() for line in figure.axes[0].lines if not np.isnan(line.get_xydata()).any()]
    assert sum(map(len, shown)) == 4 + 7


def test_the_axes_are_of_the_runs_last_round_and_of_all_clients_whatever_is_shown(tmp_path):
    run = kept(saved(tmp_path), rounds=(1, 2, 5), n_clients=3)
    whole, part = representations.panels(run, [1, 2, 5]), representations.panels(run, [2], clients=[1])
    assert list(dots(part[0])) == ["class cat, client 1", "class dog, client 1"]
    for name, places in dots(part[0]).items():
        assert places == pytest.approx(dots(whole[1])[name])


def test_more_clients_than_markers_share_them_and_a_class_has_a_colour_however_many_there_are(tmp_path):
    (panel,) = representations.panels(kept(saved(tmp_path), n_clients=8), [3])
    whose = [{word.rpartition(" ")[2] for word in mark.hover} for mark in panel.marks if len(mark.hover)]
    assert whose[:2] == [{"0", "6"}, {"1", "7"}]
    for n in (2, 10, 11, 100):
        assert len(set(of_classes(n))) == n
    colours = matplotlib.color_sequences["petroff10"]
    assert [matplotlib.colors.to_rgb(item) for item in of_classes(10)] == [
        matplotlib.colors.to_rgb(colour) for colour in colours
    ]


def test_less_than_a_plane_is_refused_in_a_line(tmp_path):
    line = line_of(representations.draw, [kept(saved(tmp_path), n=1, n_clients=1)])
    assert line.endswith("requires at least two examples with at least two features")


def test_the_command_and_its_mistakes(tmp_path, capsys):
    run = kept(saved(tmp_path / "saves"))
    representations.main([str(run.folder), "--method", "tsne", "--rounds", "3", "-o", str(tmp_path / "r.png")])
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    main = representations.main
    text = refused(capsys, main, run.folder, "--rounds", 1, 7)
    assert text == "--rounds 7: must be a round with features of all these runs: 1, 2, 3"
    assert refused(capsys, main, run.folder, "--clients", 2) == "--clients 2: must be 0 to 1"
    without = saved(tmp_path / "saves", "fd")
    text = f"{without.folder}: has no features; rerun it with --track_features N --force"
    assert refused(capsys, main, tmp_path / "saves") == text
    kept(without, rounds=(8, 9))
    assert refused(capsys, main, tmp_path / "saves") == "these runs have no common round with features"
    keeping(without, "features.npz", {**without.arrays("features"), "features_1": np.zeros((2, 5, 7), np.float32)})
    text = f"{without.folder}: the clients' features differ in dimension (5 and 7), so they have no common axes"
    assert refused(capsys, main, without.folder) == text
    kept(saved(tmp_path / "saves", "cfkd", alpha=9))
    assert refused(capsys, main, tmp_path / "saves").startswith("different splits cannot be compared: --alpha")
