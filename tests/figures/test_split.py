"""The map of a split: a panel for each distinct one."""

import numpy as np
import pytest
from conftest import keeping
from test_targets import saved

from figures import on_paper, split

TABLE = np.array([[3, 0], [1, 9]])


def with_split(run, table=TABLE):
    return keeping(run, "split.npz", {"table": table, "classes": np.array(["cat", "dog"])})


def maps(figure):
    return [axes for axes in figure.axes if axes.get_xlabel() == "class"]


def test_runs_on_one_split_have_one_panel_and_each_other_split_one_more(tmp_path):
    runs = [with_split(saved(tmp_path, name)) for name in ("fd", "cfkd")]
    runs += [with_split(saved(tmp_path, split="1", split_seed=1), TABLE[::-1])]
    runs += [with_split(saved(tmp_path, split="2", alpha=9.0, n_clients=5), TABLE + 1)]
    panels = maps(split.draw(runs))
    assert [axes.images[0].get_array().tolist() for axes in panels] == [t.tolist() for t in (TABLE, TABLE[::-1], TABLE + 1)]
    assert [axes.get_title() for axes in panels] == [
        "digits --partition lda\n--n_clients 2 --alpha 0.5 --split_seed 0",
        "digits --partition lda\n--n_clients 2 --alpha 0.5 --split_seed 1",
        "digits --partition lda\n--n_clients 5 --alpha 9.0 --split_seed 0",
    ]
    assert [text.get_text() for text in panels[0].texts] == ["3", "", "1", "9"], "no zero is written"
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["cat", "dog"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["0 (3)", "1 (10)"], "and how many it has"


def test_clients_have_their_names(tmp_path):
    run = saved(tmp_path)
    named = {"table": TABLE, "classes": np.array(["cat", "dog"]), "clients": np.array(["north", "south"])}
    keeping(run, "split.npz", named)
    (axes,) = maps(split.draw([run]))
    assert ticks(axes.yaxis) == ["north (3)", "south (10)"]


def test_sixty_clients_have_a_row_each_and_of_more_it_is_told_how_many_have_how_many(tmp_path):
    (axes,) = maps(split.draw([with_split(saved(tmp_path), np.ones((60, 2), int))]))
    assert axes.images[0].get_array().shape == (60, 2)
    table = np.zeros((100, 2), int)
    table[:40, 0] = 1
    table[40:50, 0] = 3
    table[50:, 1] = 7
    table[99] = 5, 8
    (axes,) = maps(split.draw([with_split(saved(tmp_path), table)]))
    rows = dict(zip(ticks(axes.yaxis), axes.images[0].get_array().tolist(), strict=True))
    assert ticks(axes.xaxis) == ["cat", "dog", "all"]
    assert rows == {
        "8 to 15": pytest.approx([0, 1, 1]),
        "4 to 7": pytest.approx([1, 49, 49]),
        "2 to 3": pytest.approx([10, 0, 10]),
        "1": pytest.approx([40, 0, 40]),
        "0": pytest.approx([49, 50, 0]),
    }
    text = "100 clients; classes per client: 1 to 2, median 1; examples per client: 1 to 13, median 5"
    assert axes.get_title().endswith(text)


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("most", [0, 1, 2, 7, 8])
def test_every_client_is_in_one_row_of_each_class_whatever_it_has(most):
    table = np.random.default_rng(most).integers(0, most + 1, (split.MAX_CLIENTS + 1, 3))
    heat = split.panel({"table": table, "classes": np.array(["a", "b", "c"])}, most=split.MAX_CLIENTS).marks[0]
    assert heat.values.sum(0) == pytest.approx([100] * 4)
    for c, counts in enumerate(table.T):
        bins = [
            np.sum(counts == 0),
            *(np.sum((counts >= 2**i) & (counts < 2 ** (i + 1))) for i in range(len(heat.values) - 1)),
        ]
        assert heat.values[::-1, c] == pytest.approx(100 * np.array(bins) / len(table))


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_a_file_is_drawn_beside_and_runs_by_the_command(ending, tmp_path, capsys):
    run = with_split(saved(tmp_path))
    split.draw_one(run.arrays("split"), tmp_path / "one.png")
    split.main([str(tmp_path), "-o", str(tmp_path / f"split.{ending}")])
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"split.{ending}").stat().st_size > 1000


def test_letters_that_no_font_has_are_told_in_one_line(tmp_path, monkeypatch, caplog, recwarn):
    monkeypatch.setattr(on_paper, "FONTS", ("No Such Font",))
    names = {"table": TABLE, "classes": np.array(["\u732b", "\u72ac"])}
    split.draw([keeping(saved(tmp_path), "split.npz", names)], tmp_path / "split.png")
    assert caplog.messages == [
        "no installed font has \u732b\u72ac; pictures show boxes instead; install a font such as No Such Font"
    ]
    assert not list(recwarn)
