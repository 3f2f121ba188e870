"""The notebooks of examples/ run as they stand, and show today what they show in git."""

import re

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """The kinds of the outputs of a cell: of each the error, or the forms in which it is shown."""
    return [output.get("ename") or output.get("name") or sorted(output.data) for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_has_the_outputs_that_it_keeps(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kept = nbformat.read(path, as_version=4)
    executed = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(executed, timeout=300, kernel_name="python3", resources=where).execute()
    for cell, earlier in zip(code_of(executed), code_of(kept), strict=True):
        assert kinds(cell) == kinds(earlier), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_in_git_is_executed_small_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 400_000
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    texts = [output.data.get("text/plain", "") for output in outputs if "data" in output]
    bars = [text for text in texts if "█" in text]
    assert all(re.fullmatch(r"(\d+) of \1 runs done \|█+\|", text) for text in bars), "one finished line for each call"
    assert len(bars) >= 2
    for output in outputs:  # a mistake, which a notebook shows on purpose, is one line
        if output.output_type == "error":
            assert output.traceback == [f"{output.ename}: {output.evalue}"]


def test_the_readme_links_every_notebook():
    assert set(re.findall(r"\]\(examples/(\w+)\.ipynb\)", (ROOT / "README.md").read_text())) == {p.stem for p in NOTEBOOKS}
