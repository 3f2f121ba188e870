"""The notebook of figures runs as it stands, on runs of a few seconds."""

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

import algorithms
import experiment
from options import Launch

NOTEBOOK = ROOT / "figures" / "Figures.ipynb"
QUICK = {"dataset": "digits", "reduced": 0.2, "rounds": 2, "epoch_per_round": 1, "threads": 1, "model": ("MLP",)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds of two methods and of one reference, which kept confusion matrices and no features."""
    folder = tmp_path_factory.mktemp("saves")
    for name in ("fedavg", "fd", "independent"):
        for seed in (0, 1):
            options = algorithms.options_of(name)(algorithm=name, seed=seed, n_clients=3, **QUICK)
            experiment.run(experiment.prepare(options, Launch(export_dir=folder)))
    return folder


def executed(folder):
    """The cells of the notebook after it ran on a folder of runs."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.source.startswith("RUNS = ")
    first.source = f"RUNS = [{str(folder)!r}]"
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_cell_runs_and_shows_its_figure_or_says_why_there_is_none(finished):
    cells = executed(finished)
    shown = {cell.source: cell.outputs for cell in cells if cell.source.startswith("show(")}
    pictures = [source for source, outputs in shown.items() if any("image/png" in o.get("data", {}) for o in outputs)]
    drawn = ("curves", "curves", "clients", "pareto", "split", "confusion")
    assert [source.removeprefix("show(").partition(".")[0] for source in pictures] == list(drawn)
    assert all(len(shown[source]) == 1 for source in pictures), "once"
    table, *_, representations, frame, costs, result = shown.values()
    assert "| fedavg" in table[0].data["text/markdown"]
    assert "has no features; rerun it with --track_features N" in representations[0].text
    assert len(shown) == len(pictures) + 5
    texts = [outputs[0].data["text/html"] for outputs in (frame, costs, result)]
    assert [text.count("<tr") - 1 for text in texts] == [6, 3, 10], "runs, rounds, images"
    assert all(word in text for word, text in zip(("personal_mean", "bytes_up", "taken for"), texts, strict=True))


def test_the_file_holds_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None and not cell.outputs for cell in code)
