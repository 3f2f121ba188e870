"""Confusion matrices: what is summed and normalised, against tables by hand."""

import numpy as np
import pytest
from conftest import keeping, line_of, one_by_one
from test_curves import refused
from test_targets import saved

from figures import confusion

ONE = np.array([[3, 1], [0, 4]])
OTHER = np.array([[1, 3], [4, 0]])


def kept(run, test, own=(ONE, OTHER)):
    arrays = {"test": np.array(test), "classes": np.array(["cat", "dog"]), **one_by_one(own)}
    return keeping(run, "confusion.npz", arrays)


def test_the_matrices_are_counts_of_what_was_said_one_by_one(tmp_path):
    own = [ONE, np.zeros((2, 2), int), OTHER]
    run = kept(saved(tmp_path), [ONE], own)
    for client, (of_own, of_test) in {None: (ONE + OTHER, ONE), 0: (ONE, ONE), 1: (own[1], ONE), 2: (OTHER, ONE)}.items():
        assert np.array_equal(confusion.counts(run, True, client), of_own)
        assert np.array_equal(confusion.counts(run, False, client), of_test), "one model for all"
    line = line_of(confusion.counts, run, True, 3)
    assert line == f"--client 3: must be 0 to 2 for {run.folder}"


def tables(figure):
    """{title: percentages} of the panels, NaN where there are none."""
    panels = [axes for axes in figure.axes if axes.get_xlabel() == "predicted class"]
    return {axes.get_title(): axes.images[0].get_array().filled(np.nan) for axes in panels}


def test_a_panel_is_a_method_of_all_models_and_seeds_in_percent_of_the_true_class(tmp_path):
    runs = [kept(saved(tmp_path, "cfkd", seed), test) for seed, test in enumerate(([ONE, OTHER], [ONE, ONE]))]
    result = tables(confusion.draw([*runs, kept(saved(tmp_path), [ONE])]))
    assert list(result) == ["cfkd (n = 2)", "fedavg (n = 1)"]
    assert result["cfkd (n = 2)"] == pytest.approx(np.array([[10, 6], [4, 12]]) / 16 * 100)
    assert result["fedavg (n = 1)"] == pytest.approx(np.array([[75, 25], [0, 100]]))


def test_own_and_a_single_client(tmp_path):
    runs = [kept(saved(tmp_path, "cfkd"), [ONE, OTHER], own=[OTHER, 2 * ONE]), kept(saved(tmp_path), [ONE])]

    def drawn(**flags):
        return list(tables(confusion.draw(runs, **flags)).values())

    assert drawn(own=True)[0] == pytest.approx(np.array([[7, 5], [4, 8]]) / 12 * 100)
    assert drawn(own=True, client=1)[0] == pytest.approx(np.array([[75, 25], [0, 100]]))
    assert drawn(client=1)[0] == pytest.approx(np.array([[25, 75], [100, 0]]))
    assert drawn(client=1)[1] == pytest.approx(np.array([[75, 25], [0, 100]])), "one model for all"
    titles = [
        confusion.draw(runs, own=own, client=k)._suptitle.get_text() for own, k in ((True, 1), (True, None), (False, 1))
    ]
    assert [title.split("\n")[0] for title in titles] == [
        "the own test examples of client 1",
        "the own test examples of each client",
        "the whole test set, by the model of client 1",
    ]


def test_a_class_without_examples_is_no_number(tmp_path):
    run = kept(saved(tmp_path), [ONE], own=[[[2, 0], [0, 0]], [[0, 0], [0, 0]]])
    figure = confusion.draw([run], own=True)
    (table,) = tables(figure).values()
    assert np.array_equal(table, [[100, 0], [np.nan, np.nan]], equal_nan=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "", "", ""], "nor is a zero written"


def test_the_command_and_its_mistakes(tmp_path, capsys):
    run = kept(saved(tmp_path / "saves"), [ONE])
    confusion.main([str(run.folder), "--own", "--client", "0", "-o", str(tmp_path / "confusion.png")])
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    for client in ("2", "-1"):
        text = refused(capsys, confusion.main, run.folder, "--client", client)
        assert text == f"--client {client}: must be 0 to 1 for {run.folder}"
    older = saved(tmp_path / "saves", "fd")
    text = f"{older.folder}: confusion.npz, which every run writes, is missing"
    assert refused(capsys, confusion.main, tmp_path / "saves") == text
    kept(saved(tmp_path / "saves", "fd", alpha=9), [ONE])
    assert refused(capsys, confusion.main, tmp_path / "saves").startswith("different splits cannot be compared: --alpha")
