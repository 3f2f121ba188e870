"""Attacks with files, each refused in one line before anything runs or is written; and names that stay names wherever they
are shown. `make hard` has the same attacks in processes of their own, and those on finished runs."""

import csv
import io
import json
import os
import re
import sys
import unicodedata
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pandas as pd
import pytest
from openpyxl import load_workbook
from PIL import EpsImagePlugin
from plotly.offline import get_plotlyjs

import run
from checks.hard import Outcome, meddlers, strangers, users
from checks.hard.forks import Forks
from experiment.identity import stem
from figures import marks, on_paper, report, status, table
from figures.columns import Cell, Column, of_option
from figures.compare import Comparison, Table
from figures.render import FORMS, render
from figures.units import shown
from saves import workbook


@pytest.mark.parametrize("name", strangers.ATTACKS)
def test_an_attack_is_refused_in_one_line_and_nothing_runs(name, tmp_path, capsys):
    make, words, result = strangers.ATTACKS[name]
    tmp = tmp_path / "own"
    tmp.mkdir()
    make(tmp)
    before = strangers._everything(tmp)
    words = words.format(tmp=tmp).split()
    words += [] if "--study" in words or "--config_file" in words else ["--n_clients", "2"]
    assert run.main([*words, "--export_dir", str(tmp / "saves")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("run.py: ")
    assert errors.count("\n") == 1
    assert result in errors
    assert errors[:-1].isprintable()
    assert not (tmp / strangers.CANARY).exists()
    assert strangers._everything(tmp) == before


def test_no_picture_starts_a_program(tmp_path, monkeypatch, capsys):
    """Pillow draws PostScript with gs, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {tmp_path / strangers.CANARY}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    make, words, _ = strangers.ATTACKS["a program for a picture"]
    make(tmp_path)
    assert run.main([*words.format(tmp=tmp_path).split(), "--n_clients", "2"]) == 2
    assert not (tmp_path / strangers.CANARY).exists()


EVIL = (
    *("=1+1", '=HYPERLINK("http://x","y")', "@SUM(1)", "<script>alert(1)</script>", "</script><b>", "$x^{$", r"\input{x}"),
    *(
        "a|b`c*[d](javascript:e)",
        "one\ntwo",
        "\x1b]0;title\x07\x1b[2J",
        "\u202egnp.exe\u2066",
        "\udce9\ud800",
        "\uffff",
        "é 東",
    ),
)


@pytest.fixture(scope="module")
def of_evil_names(tmp_path_factory):
    """The folder of a finished run on a file whose name, classes and clients are evil, and what was said meanwhile."""
    tmp = tmp_path_factory.mktemp("evil")
    y = np.arange(4 * len(EVIL)) % len(EVIL)
    x = np.zeros((len(y), 6, 6), np.uint8) + y[:, None, None].astype(np.uint8)
    path = tmp / '=HYPERLINK("http:x","y")<b>\x1b[2J\n$\udce9.npz'
    owners = np.array([EVIL[i % 2 + 8] for i in range(len(y))])
    with path.open("wb") as file:  # numpy itself opens no such name
        np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y, classes=np.array(EVIL), client_train=owners)
    patched = pytest.MonkeyPatch()
    patched.setattr(sys, "argv", ["run.py", "--clients", str(path)])  # which the log tells
    words = ["fedavg", "--rounds", "1", "--model", "MLP", "--threads", "1", "--clients", str(path)]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        assert run.main([*words, "--export_dir", str(tmp / "saves")]) == 0
    patched.undo()
    return next((tmp / "saves").glob("*/done")).parent, out.getvalue() + errors.getvalue()


def is_inert(text: str) -> bool:
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") or c in "\n\t" for c in text)


def test_evil_names_are_inert_on_the_screen(of_evil_names, capsys):
    folder, output = of_evil_names
    table.main([str(folder)])
    status.main([str(folder.parent)])
    assert is_inert(output + capsys.readouterr().out)
    assert "Traceback" not in output
    assert "error" not in output
    assert is_inert(folder.name)
    assert is_inert((folder / "run.log").read_text())
    assert (folder / "split.png").exists()


def test_a_dollar_begins_no_formula_in_a_picture_and_powers_of_ten_are_some(tmp_path):
    from matplotlib.text import Text

    style = marks.Style("#000000", (), "circle")
    line = marks.Line([1, 2], [1.0, 1e6], style, "$x^{$ and $y$")
    x = marks.Axis("$x^{$", ticks={1: "$x^{$", 2: "$"})
    figure = on_paper.figure(
        [marks.Panel([line], x, marks.Axis("y", log=True), "$t^{$")], 4, 3, tmp_path / "a.png", legend="$l^{$"
    )
    figure.canvas.draw()
    math = {text.get_text() for text in figure.findobj(Text) if text.get_parse_math() and "$" in text.get_text()}
    assert {r"\$x^{\$", r"\$"} <= math
    assert any("10^" in text for text in math)
    assert not any(text.startswith("$x") or text.startswith("$t") or text.startswith("$l") for text in math)


def test_evil_names_are_no_formulas_in_a_workbook(of_evil_names, tmp_path, capsys):
    folder, _ = of_evil_names
    table.main([str(folder), "--xlsx", str(tmp_path / "t.xlsx")])
    for path in (folder / "history.xlsx", tmp_path / "t.xlsx"):
        cells = [cell for sheet in load_workbook(path) for row in sheet.iter_rows() for cell in row]
        assert "f" not in {cell.data_type for cell in cells}
        assert all(is_inert(cell.value) for cell in cells if isinstance(cell.value, str))
    texts = [cell.value for row in load_workbook(folder / "history.xlsx")["clients"].iter_rows() for cell in row]
    assert {r"one\ntwo", r"\x1b]0;title\x07\x1b[2J"} <= {text for text in texts if isinstance(text, str)}


def test_text_that_begins_like_a_formula_is_text(tmp_path):
    with pd.ExcelWriter(tmp_path / "t.xlsx", engine="openpyxl") as writer:
        for name in ("a/b", "a/b", "A_B"):  # a sheet each
            workbook.write_sheet(
                writer, name, pd.DataFrame({"=1": ["=1+1", "\x00\uffff", "x" * 40_000]}), lambda *_: "General"
            )
    result = load_workbook(tmp_path / "t.xlsx")
    assert result.sheetnames == ["a_b", "a_b 2", "A_B 3"]
    for sheet in result:
        assert [cell.value[:12] for cell in sheet["A"]] == ["=1", "=1+1", r"\x00\uffff", "x" * 12]
        assert "f" not in {cell.data_type for cell in sheet["A"]}
        assert len(sheet["A4"].value) == workbook.MAX_TEXT


def test_evil_names_are_no_markup_on_a_page(of_evil_names, tmp_path, capsys):
    folder, _ = of_evil_names
    report.main([str(folder), "-o", str(tmp_path / "r.html")])
    page = (tmp_path / "r.html").read_text().replace(get_plotlyjs(), "")
    assert len(re.findall("<script", page)) == len(re.findall("</script", page)) == 3
    assert "<b>\\x1b" not in page
    assert "&lt;b&gt;\\x1b[2J" in page


def test_evil_names_are_text_in_markdown_latex_and_csv():
    rows = [{"--dataset": Cell(name, shown(name)), "kinds": Cell(name, shown(name))} for name in EVIL]
    kinds, option = Column("kinds", "sent", ("what", "is sent"), "text", None), of_option("dataset")
    evil = Table("on\n<b>", [kinds], rows, list(map(shown, EVIL)), keys=[option])
    result = Comparison([evil], [], ["of\n\\input{x}"])
    by_form = {form: render(result, form) for form in FORMS}
    assert [row["--dataset"] for row in json.loads(by_form.pop("json"))["tables"][0]["rows"]] == list(EVIL)
    assert all(map(is_inert, by_form.values()))
    assert not re.search(r"(?<!\\)[<`*\[$]", by_form["markdown"])
    assert not re.search(r"^(?!%).*(?<!\\)[$]", by_form["latex"], re.M)
    assert r"\input" not in re.sub(r"^%.*", "", by_form["latex"], flags=re.M).replace("textbackslash", "")
    assert by_form["latex"].splitlines()[-1] == r"% of\n\input{x}"
    actual = [row[0] for row in csv.reader(io.StringIO(by_form["csv"]))][1:]
    assert [text for text in actual if text[0] in "=+-@"] == []
    assert actual[0] == "'=1+1"


def test_long_names_are_cut_and_told_apart_and_short_ones_stay():
    assert stem("my data-set.v2") == "my_data_set.v2"
    long = [stem("a" * 239 + last) for last in "bc"]
    assert len(set(long)) == 2
    assert all(len(name) < 120 for name in long)
    assert len(stem("東" * 80).encode()) < 120


# --- plugins that interfere, and two users: `make hard` has all of these -----------------------------------------------


@pytest.fixture(scope="module")
def forks():
    with Forks() as processes:
        yield processes


@pytest.fixture(scope="module")
def without_plugin(forks, tmp_path_factory):
    place = tmp_path_factory.mktemp("plain")
    assert meddlers._run(forks, place).status == 0
    return place


@pytest.mark.parametrize(
    "name", ["a network's forward", "torch's default dtype", "sys.exit", "os.chdir", "sys.stdout", "latin-1", "no text"]
)
def test_a_plugin_that_interferes_is_refused_or_leaves_the_run_as_it_is(name, without_plugin, forks, tmp_path):
    assert list(meddlers.held_to(name, tmp_path, without_plugin, forks, Outcome())) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to be two users")
@pytest.mark.parametrize("name", ["root's runs are open", "histories are closed"])
def test_what_another_user_may_not_read_is_told_and_nothing_is_lost(name):
    with users.two_users() as (scratch, forks):
        assert list(users.held_to(users.CASES[name], users.opened(scratch / "case"), forks, Outcome())) == []
