"""Tables whose cells are both numbers and how these are written, as text and as workbooks."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from figures.groups import Group
from figures.units import operations
from untrusted import inert, no_formula

BREAK = "@@"  # where a header is broken: no header has it
FORMS = {"plain": "simple", "markdown": "github", "latex": "latex_booktabs"}
MARKS = {  # of a cell: how each form shows the best of a column, and what is not told apart from it
    "plain": {"": "{}  ", "best": "{} *", "level": "{} ~"},
    "markdown": {"": "{}", "best": "**{}**", "level": "{} ~"},
    "latex": {"": "{}", "best": r"\textbf{{{}}}", "level": r"{}$^\dagger$"},
}


class Cell(NamedTuple):
    """A number (or a word, or None for an empty cell) and how it is written; `mark` is a key of MARKS."""

    value: Any
    text: str
    mark: str = ""


@dataclass
class Comparison:
    """Tables by title, each a list of rows {header: cell}, and lines that say how to read them; `typeset`: {title: LaTeX} of
    those that are set otherwise than as they stand; `data`: the same with a value a row, for programs that read it."""

    tables: dict[str, list[dict[str, Cell]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    typeset: dict[str, str] = field(default_factory=dict)
    data: list[dict[str, Cell]] = field(default_factory=list)


def cell_of(value: float | None, show: Callable[[float], str]) -> Cell:
    """A number, or nothing for None and NaN."""
    return Cell(None, "") if value is None or np.isnan(value) else Cell(value, show(value))


def percent(value: float | None) -> Cell:
    """A fraction of 1 in percent."""
    return cell_of(None if value is None else 100 * float(value), "{:.2f}".format)


def points(value: float | None) -> Cell:
    """A difference of fractions in points, with its sign."""
    return cell_of(None if value is None else 100 * float(value), lambda points: f"{round(points, 2) + 0.0:+.2f}")


def word(text: str) -> Cell:
    """Text as it is."""
    return Cell(text or None, text)


def count(value: int | None) -> Cell:
    """A whole number as it is."""
    return cell_of(value, str)


def whole(value: float | None) -> Cell:
    """A number without its decimals."""
    return cell_of(None if value is None else float(value), "{:,.0f}".format)


def effort(group: Group) -> dict[str, Cell]:
    """What the parties of a group's runs spend besides bytes, means over seeds: the clients' part; the server's in columns
    of its own, empty where it does nothing; seconds of the whole run without those of its evaluations."""
    rounds = group.options["rounds"]
    steps, flops = group.mean("steps_server"), group.mean("flops_server")
    return {
        "steps of\nall clients": whole(group.mean("steps")),
        "FLOPs a client\nand round": cell_of(group.per_client_and_round("flops"), operations),
        "steps of\nthe server": whole(steps or None),
        "FLOPs of the\nserver a round": cell_of(flops / rounds or None, operations),
        "seconds without\nevaluation": cell_of(group.mean("seconds"), "{:.1f}".format),
    }


def without_empty(rows: Sequence[dict[str, Cell]], of: str = "") -> list[dict[str, Cell]]:
    """The rows without the columns that are empty in all of them; of those alone whose header has `of` in it."""
    empty = [name for name in rows[0] if of in name and not any(row[name].text for row in rows)]
    return [{name: cell for name, cell in row.items() if name not in empty} for row in rows]


def _title(header: str, between: str = " ") -> str:
    return header.strip().replace("\n", between)


def render(result: Comparison, form: str = "plain") -> str:
    """The tables and the notes as text; `form` is one of FORMS, or "csv": numbers alone, for programs. In LaTeX what is not
    a table is a comment, and columns that are empty are left out."""
    if form == "csv":
        return _csv(result)
    parts = []
    for title, rows in result.tables.items():
        text = result.typeset.get(title) if form == "latex" else None
        text = text or grid(without_empty(rows) if form == "latex" else rows, form)
        parts += [_aside(f"{title}:", form), *([""] if form == "markdown" else []), text, ""]
    mark = "- " if form == "markdown" else ""
    return "\n".join([*parts, *(mark + _aside(note, form) for note in result.notes)])


def grid(rows: Sequence[dict[str, Cell]], form: str) -> str:
    """One table, in one of FORMS; words are aligned left, numbers right."""
    headers = list(rows[0]) if form == "plain" else [_title(name, BREAK if form == "latex" else " ") for name in rows[0]]
    marked = any(cell.mark for row in rows for cell in row.values())
    spelled = _in_markdown if form == "markdown" else str
    cells = [
        [MARKS[form][cell.mark].format(spelled(cell.text)) if marked else spelled(cell.text) for cell in row.values()]
        for row in rows
    ]
    if form == "markdown":
        headers = [_in_markdown(name) for name in headers]
    aligned = ["left" if name == "algorithm" or name.startswith("--") else "right" for name in rows[0]]
    text = tabulate(cells, headers=headers, tablefmt=FORMS[form], colalign=aligned, disable_numparse=True)
    return _stacked(text) if form == "latex" else text


def _csv(result: Comparison) -> str:
    """The first table with its numbers as they are, or what stands for it."""
    import csv
    import io

    rows = result.data or next(iter(result.tables.values()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_title(name) for name in rows[0]])
    told = [["" if cell.value is None else cell.value for cell in row.values()] for row in rows]
    writer.writerows([[no_formula(inert(value)) if isinstance(value, str) else value for value in row] for row in told])
    return text.getvalue().rstrip()


def typed(text: str) -> str:
    """Text as LaTeX can set it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def _stacked(table: str) -> str:
    """A LaTeX table with its headers in lines, cut at BREAK: they are longer than the numbers below them."""
    cut = rf"[^&\n]*{BREAK}[^&\n]*?(?= +&| *\\\\)"
    return re.sub(cut, lambda found: r" \shortstack[r]{" + found[0].strip().replace(BREAK, r"\\") + "}", table)


def _aside(line: str, form: str) -> str:
    """A line that is no table; one line in any case, so that a comment stays one."""
    line = inert(line)
    return f"% {line}" if form == "latex" else _in_markdown(line) if form == "markdown" else line


def _in_markdown(text: str) -> str:
    """Text as Markdown shows it: no markup, no link, no formula in it."""
    return re.sub(r"[\\`*\[<|$]", r"\\\g<0>", text)


def write_xlsx(result: Comparison, path: Path) -> None:
    """A sheet a table, numbers as numbers in the units of their headers, and a sheet of notes."""
    import pandas as pd

    from saves.workbook import write_sheet

    frames = {
        title.partition(":")[0]: pd.DataFrame([{_title(name): cell.value for name, cell in row.items()} for row in rows])
        for title, rows in result.tables.items()
    }
    if result.data:
        frames["data"] = pd.DataFrame([{_title(name): cell.value for name, cell in row.items()} for row in result.data])
    frames["notes"] = pd.DataFrame({"notes": result.notes})
    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        for name, frame in frames.items():
            write_sheet(writer, name, frame, _number_format)


def _number_format(header: str, value: float) -> str:
    if header.startswith("--"):
        return "General"
    whole = isinstance(value, int) or header.startswith(("bytes", "flops", "steps", "common"))
    return "#,##0" if whole else "0.000" if header.startswith("p ") else "0.00"
