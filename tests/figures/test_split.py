"""The map of a split: a panel for each distinct one."""

import numpy as np
import pytest
from test_curves import refused
from test_targets import saved

import saves
from figures import split

TABLE = np.array([[3, 0], [1, 9]])


def with_split(run, table=TABLE):
    saves.write_arrays(run.folder / "split.npz", {"table": table, "classes": np.array(["cat", "dog"])})
    return run


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


def test_more_clients_than_can_be_told_apart_are_cut_and_that_is_said(tmp_path):
    (axes,) = maps(split.draw([with_split(saved(tmp_path), np.ones((61, 2), int))]))
    assert axes.images[0].get_array().shape == (60, 2)
    assert axes.get_title().endswith("(the first 60 of 61 clients)")


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_a_file_is_drawn_beside_and_runs_by_the_command(ending, tmp_path, capsys):
    run = with_split(saved(tmp_path))
    split.draw_saved(run.folder / "split.npz", tmp_path / "one.png")
    split.main([str(tmp_path), "-o", str(tmp_path / f"split.{ending}")])
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"split.{ending}").stat().st_size > 1000
    without = saved(tmp_path / "without")
    assert refused(capsys, split.main, without.folder) == f"{without.folder}: no split.npz, which every run writes"
