"""One results table in all its forms: the same numbers in each, within 100 characters on the screen, and what one entry of
the registry adds to all of them."""

import csv
import io
import itertools
import json
import re

import numpy as np
import openpyxl
import pytest
from test_report import Page
from test_targets import right, saved

import algorithms
import measures
from figures import columns, report, table
from figures.columns import Column, cell_of
from figures.compare import compare
from figures.groups import read
from figures.render import WIDTH, render
from figures.units import UNITS

ENVIRONMENT = {"python": "3.11", "torch": "2.13.0", "processor": "x86_64", "device": "cpu"}


def study(export, n_seeds=3):
    """fedavg in two settings, fd, and both references; every cost is another number."""
    for seed in range(n_seeds):
        for i, (algorithm, lr) in enumerate(
            (("fedavg", 0.1), ("fedavg", 0.01), ("fd", 0.1), ("independent", 0.1), ("centralized", 0.1))
        ):
            value, nbytes = 0.5 + i / 20 + seed * (i + 1) / 100, 0 if algorithm == "independent" else 10**i * 1234
            counts = {
                "flops": [0, 3e9 + i, 5e9],
                "steps": [0, 1000 + i, 2000],
                "flops:server": [0, i * 1e8, 0],
                "steps:server": [0, i * 70, 0],
                "bytes_up:weights": [0, nbytes, nbytes],
            }
            run = saved(
                export,
                algorithm,
                seed,
                curve=(0.3, value),
                nbytes=(nbytes, 2 * nbytes, 0),
                clients={2: [value - 0.1, value + 0.02]},
                columns=counts,
                lr=lr,
                environment=ENVIRONMENT,
            )
            right(run, np.arange(50) < 20 + 4 * i, np.arange(50) < 30)
    return export


ASKED = {"baseline": "fd", "target": 0.4}
WORDS = ["--baseline", "fd", "--target", "0.4"]


def written(values, folder, capsys, *words):
    table.main([str(folder), *WORDS, "--columns", "all", *map(str, words)])
    values.append(capsys.readouterr().out)
    return values[-1]


def test_every_form_has_the_same_numbers(tmp_path, capsys):
    """JSON has the raw numbers; each other form is held to them, the written ones to how the declared unit writes them."""
    folder, out = study(tmp_path / "saves"), []
    texts = json.loads(written(out, folder, capsys, "--json"))
    (run,) = compare(read([folder]), **ASKED, columns=["all"]).tables
    raw = texts["tables"][0]["rows"]
    assert len(raw) == 5
    assert [column.name for column in run.columns if column.spread] == ["global", "personal", "worst"]
    best = raw[0]
    assert (best["algorithm"], best["--lr"], best["n"]) == ("fd", 0.1, 3)
    assert best["global (%)"] == pytest.approx(63), "0.6 + seed * 0.03"
    assert best["global std (%)"] == pytest.approx(3)
    assert best["gain_global (points)"] == pytest.approx(-6), "0.65 + seed * 0.04 alone: 69"
    assert best["sent (bytes)"] == 3 * 123400 / 2, "of two clients, in two rounds, both ways"
    assert best["flops (FLOPs)"] == (8e9 + 2) / 4
    assert best["server_flops (FLOPs)"] == 1e8
    assert (best["time (s)"], best["steps"], best["server_steps"]) == (2, 3002, 140)

    header, *lines = csv.reader(io.StringIO(written(out, folder, capsys, "--csv")))
    assert header == list(raw[0])
    for line, row in zip(lines, raw, strict=True):
        assert [None if text == "" else text for text in line] == [
            None if value is None else str(value) for value in row.values()
        ]

    written(out, folder, capsys, "--xlsx", tmp_path / "table.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx")["after the last round"]
    header, *lines = sheet.iter_rows(values_only=True)
    assert list(header) == list(raw[0])
    for line, row in zip(lines, raw, strict=True):
        for value, expected in zip(line, row.values(), strict=True):
            assert value == (pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected)

    def text_of(column, row):
        """What a form for people has: the raw number as its declared unit writes it, with the deviation."""
        value = row[column.header]
        if value is None or isinstance(value, str):
            return cell_of(value, "text").text if column.unit in ("text", "option") else None  # >T is held to its number
        std = row[column.of_spread] if column.spread else None
        show = UNITS[column.unit].show
        return f"{show(value)} ±{show(std)}" if std is not None else show(value)

    expected = [[text_of(column, row) for column in run.columns] for row in raw]
    names = ["fd --lr 0.1", "fedavg --lr 0.01", "fedavg --lr 0.1", "centralized --lr 0.1", "independent --lr 0.1"]
    assert run.names == names

    def held(cells, row):
        assert len(cells) == len(row)
        assert [cell for cell, text in zip(cells, row, strict=True) if text is not None] == [t for t in row if t is not None]

    of_markdown = [line for line in written(out, folder, capsys, "--markdown").splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in of_markdown]
    of_latex = [line for line in written(out, folder, capsys, "--latex").splitlines() if " & " in line][2:]
    plain = [re.sub(r"\$\\pm\$", "±", line).replace(r"\_", "_") for line in of_latex]
    for form in (rows, [[cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in plain]):
        assert [row[0] for row in form] == names
        for row, own in zip(form, expected, strict=True):
            held(row[1:], own)

    screen = written(out, folder, capsys)
    assert max(map(len, screen.split("\nAfter the last round")[0].splitlines())) <= WIDTH
    for name, own in zip(names, expected, strict=True):
        lines = [line for line in screen.splitlines() if re.match(rf"{re.escape(name)}  ", line)]
        texts = [cell for line in lines for cell in re.split(r" {2,}", line[len(name) :].strip())]
        assert [cell for cell in texts if cell in own] == [text for text in own if text], "in the order of the columns"

    page = Page(report.page(read([folder]), **ASKED))
    of_page = page.rows()
    for row, own in zip(raw, expected, strict=True):
        texts = of_page[f"{row['algorithm']} {row['--lr']}"]
        for column, text in zip(run.columns, own, strict=True):
            if column.group not in ("options", "equal") and text is not None:
                value, written_there = texts[" ".join(" ".join(head for head in column.heads if head).split())]
                assert written_there == text
                assert value == str(row[column.header])


def test_what_the_table_had_before_there_were_groups_is_still_to_be_had(tmp_path):
    """The headers of the tables of old, each with the name of the column that tells it."""
    folder = study(tmp_path)
    (comparison,) = compare(read([folder]), baseline="independent", target=0.4, equal="bytes", columns=["all"]).tables
    names = {column.name for column in comparison.columns}
    of_the_command = ["global", "personal", "worst", "gain_global", "gain_personal", "sent_up", "sent_down", "n"]
    of_both = ["steps", "flops", "server_steps", "server_flops", "time"]
    of_the_module = ["gain_least", "harmed", "sent", "difference", "low", "high", "common_seeds", "reached"]
    of_targets = [f"{quantity}_to_target" for quantity in ("rounds", "bytes", "flops", "seconds")]
    equal = ["equal", "equal_n", "equal_difference", "equal_low", "equal_high", "equal_bytes", "equal_rounds", "equal_steps"]
    of_the_report = ["kinds"]
    assert {*of_the_command, *of_both, *of_the_module, *of_targets, *equal, *of_the_report} <= names


def wide(export, names, n_seeds, tuned=False, **options):
    """Runs of many methods, with all that a default table can show."""
    draw = np.random.default_rng(0)
    for name, seed in itertools.product(names, range(n_seeds)):
        values = draw.uniform(0.2, 0.9, 2)
        more = {"flops": [0, 1e9, 3.21e9], "flops:server": [0, 1e9, 1e9]}
        more |= {"tuned_mean": [np.nan, np.nan, 0.9]} if tuned else {}
        saved(export, name, seed, curve=tuple(values), nbytes=(123456, 234567, 0), columns=more, **options)


REALISTIC = {
    "one seed": lambda export: wide(export, ("fedavg", "cfkd", "fd", "independent", "centralized"), 1),
    "five seeds": lambda export: wide(export, ("fedavg", "cfkd", "fd", "independent", "centralized"), 5),
    "fine-tuned, five seeds": lambda export: wide(export, ("fedavg", "fedbabu", "independent"), 5, tuned=True),
    "all algorithms": lambda export: wide(export, algorithms.ALGORITHMS, 2, tuned=True),
    "settings": lambda export: [
        wide(export, ("fedprox", "fedavg"), 2, lr=lr, mu=mu) for lr in (0.1, 0.001) for mu in (1e-4, 1)
    ],
    "long names": lambda export: [
        wide(export, ("fedavg", "independent"), 3, topology_file=f"a/path/that/goes/on/and/on/and/on/{i}.txt", lr=0.1 * i)
        for i in (1, 2)
    ],
}


@pytest.mark.parametrize("name", REALISTIC)
def test_the_default_table_fits_in_100_characters_and_is_one_block(name, tmp_path, capsys):
    REALISTIC[name](tmp_path)
    table.main([str(tmp_path)])
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.startswith("algorithm ")]
    assert head == 1, "two lines of headers"
    assert {"global", "personal", "sent"} <= set(lines[1].split())
    rows = [line for line in lines[head:] if not line.startswith(("---", "  ")) and ": " not in line]
    assert max(map(len, (lines[0], *rows))) <= WIDTH == 100
    (comparison,) = compare(read([tmp_path])).tables
    assert len(rows) == 1 + len(comparison.rows)
    called = [re.split(r" {2,}", row)[0] for row in rows[1:]]
    assert len(set(called)) == len(called), "rows are told apart"


def test_rows_stand_best_first_by_the_metric_asked_and_references_below_a_line(tmp_path, capsys):
    for name, value, own in (("fd", 0.4, 0.9), ("fedavg", 0.6, 0.7), ("independent", 0.3, 0.99), ("centralized", 0.95, 0.5)):
        saved(tmp_path, name, curve=(0.1, value), clients={2: [own, own]})
    saved(tmp_path, "cfkd", curve=(0.1, 0.99), clients={2: [1, 1]}, columns={"diverged": [np.nan, 1.0, 1.0]})

    def order(*words):
        table.main([str(tmp_path), *words])
        lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
        return [line.split()[0].strip("-") for line in lines[3:]]

    assert order() == ["fedavg", "fd", "cfkd", "", "centralized", "independent"], "what diverged is not the best"
    assert order("--metric", "personal") == ["fd", "fedavg", "cfkd", "", "independent", "centralized"]


def test_a_name_that_is_cut_is_told_whole_below(tmp_path, capsys):
    REALISTIC["long names"](tmp_path)
    table.main([str(tmp_path)])
    out = " ".join(capsys.readouterr().out.split())
    for i in (1, 2):
        assert f": fedavg --lr {0.1 * i} --topology_file a/path/that/goes/on/and/on/and/on/{i}.txt" in out
    header, *rows = csv.reader(io.StringIO(render(compare(read([tmp_path])), "csv")))
    assert {row[header.index("--topology_file")] for row in rows} == {
        f"a/path/that/goes/on/and/on/and/on/{i}.txt" for i in (1, 2)
    }


def test_columns_are_chosen_by_name_or_group_with_spaces_or_commas(tmp_path, capsys):
    study(tmp_path)

    def header(*words):
        table.main([str(tmp_path), "--csv", "--columns", *words])
        return next(csv.reader(io.StringIO(capsys.readouterr().out)))[3:]  # behind algorithm, --lr, n

    assert header("cost") == ["flops (FLOPs)", "time (s)", "steps", "server_steps", "server_flops (FLOPs)"]
    assert header("time,sent_up", "worst") == ["worst (%)", "worst std (%)", "sent_up (bytes)", "time (s)"]
    with pytest.raises(SystemExit):
        table.main([str(tmp_path), "--columns", "target"])
    assert "--columns target: needs --target" in capsys.readouterr().err


def test_a_column_that_is_one_entry_of_the_registry_is_in_every_form(tmp_path, monkeypatch, capsys):
    study(tmp_path / "saves", 1)
    length = Column("warmth", "cost", ("of the room", "warmth"), "%", lambda row: 12.34567, shown=1, words="in the office")
    monkeypatch.setattr(columns, "COLUMNS", [*columns.COLUMNS, length])
    runs = read([tmp_path / "saves"])
    result = compare(runs)
    for form, actual in {
        "plain": "12.35",
        "markdown": "| 12.35 |",
        "latex": "& 12.35 &",
        "csv": "12.34567",
        "json": '"warmth (%)": 12.34567',
    }.items():
        assert actual in render(result, form).replace(r" \\", " &"), form
    assert "of the room" in render(result).splitlines()[0]
    assert "in the office" in result.notes
    table.main([str(tmp_path / "saves"), "--xlsx", str(tmp_path / "t.xlsx")])
    header, first, *_ = openpyxl.load_workbook(tmp_path / "t.xlsx")["after the last round"].iter_rows(values_only=True)
    assert dict(zip(header, first, strict=True))["warmth (%)"] == 12.34567
    page = Page(report.page(runs))
    assert page.rows()["fd 0.1"]["of the room warmth"] == ("12.34567", "12.35")


def test_a_measure_that_is_added_has_its_columns_and_its_gain(tmp_path, monkeypatch):
    monkeypatch.setitem(measures.MEASURES, "sureness", lambda y, p: float(p.max(1).mean()))
    for name, value in (("fedavg", 0.7), ("independent", 0.4)):
        more = {f"{of}_sureness_mean": [np.nan, 0.1, value + i / 10] for i, of in enumerate(("global", "personal"))}
        saved(tmp_path, name, curve=(0.1, 0.5), columns=more)

    def row(*words, **flags):
        (comparison,) = compare(read([tmp_path]), *words, **flags).tables
        return {name: cell.value for name, cell in comparison.rows[0].items()}

    result = row(columns=["accuracy", "gain"])
    assert (result["sureness"], result["personal_sureness"]) == pytest.approx((70, 80))
    assert (result["gain_sureness"], result["gain_personal_sureness"]) == pytest.approx((30, 30))
    assert "sureness" not in row(), "not by default"
    assert row("sureness")["sureness"] == pytest.approx(70), "but where it is asked for"
