"""A comparison as text, Markdown, LaTeX, CSV, JSON or a workbook, from the same cells."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from figures.columns import Cell, Column
from figures.compare import Comparison, Table
from figures.units import UNITS
from untrusted import escape, no_formula

WIDTH = 100  # characters of a table on the screen
NAME = 28  # of a row's name at most, where the table is too wide otherwise
FORMS = ("plain", "markdown", "latex", "csv", "json")
MARKS = {  # of a cell: how each form shows the best of a column, and what is not told apart from it
    "plain": {"": "{}  ", "best": "{} *", "level": "{} ~"},
    "markdown": {"": "{}", "best": "**{}**", "level": "{} ~"},
    "latex": {"": "{}", "best": r"\textbf{{{}}}", "level": r"{}$^\dagger$"},
}


def render(result: Comparison, form: str = "plain") -> str:
    """The tables and what they say as text; `form` is one of FORMS. "csv" is the first table alone; in LaTeX what is not a
    table is a comment."""
    if form == "csv":
        return _csv(result)
    if form == "json":
        return _json(result)
    parts = []
    for table in result.tables:
        if form != "plain" or len(result.tables) > 1:
            parts += [_aside(f"{table.title}:", form), *([""] if form == "markdown" else [])]
        parts += [{"plain": _plain, "markdown": _markdown, "latex": _latex}[form](table), ""]
    mark = "- " if form == "markdown" else ""
    return "\n".join([*parts, *(mark + _aside(line, form) for line in result.lines)])


def _leveled(columns: Sequence[Column]) -> tuple[list[Column], int]:
    """The columns with as many lines of header each, and how many that are."""
    levels = max((len(column.heads) for column in columns), default=1)
    return [column._replace(heads=("",) * (levels - len(column.heads)) + column.heads) for column in columns], levels


def _spans(columns: Sequence[Column], level: int) -> list[list[int]]:
    """The places of adjacent columns whose headers are the same down to a line."""
    heads = [column.heads[: level + 1] for column in columns]
    return [list(same) for _, same in groupby(range(len(columns)), key=lambda i: heads[i])]


# --- for people --------------------------------------------------------------------------------------------------------


def _plain(table: Table) -> str:
    """The table within WIDTH: where it is too wide, deviations are written shorter, long names are cut, then columns of
    little weight are left out; what does not fit even so is a second table below."""
    columns, names, left_out = table.columns, table.names, []
    short = _width(table, columns, names, False) > WIDTH
    if short and _width(table, columns, names, short) > WIDTH:
        names = _cut(names, NAME)
        left = sorted((column for column in columns if column.shown > 1), key=lambda column: -column.shown)
        while left and _width(table, columns, names, short) > WIDTH:
            left_out.append(left.pop(0))
            columns = [column for column in table.columns if column not in left_out]
        for column in reversed(left_out):  # what there is room for after all
            more = [other for other in table.columns if other == column or other in columns]
            if _width(table, more, names, short) <= WIDTH:
                columns = more
        left_out = [column for column in left_out if column not in columns]
        if _width(table, columns, names, short) > WIDTH:
            columns, left_out, short = table.columns, [], False
    lines = ["\n\n".join(_block(table, block, names, short) for block in _blocks(table, columns, names, short))]
    if left_out:
        lines.append(f"not shown for want of room: {', '.join(column.name for column in reversed(left_out))}")
    lines += [f"{cut}: {escape(name)}" for cut, name in zip(names, table.names, strict=True) if cut != name]
    return "\n".join(lines)


def _cut(names: Sequence[str], most: int) -> list[str]:
    """Names of so many characters at most, with a number where two would be alike."""
    cut = [name if len(name) <= most else f"{name[: most - 1].rstrip()}…" for name in names]
    alike = Counter(cut)
    return [
        name if alike[name] == 1 else f"{name[: most - 4].rstrip('…').rstrip()}… {i}" for i, name in enumerate(cut, start=1)
    ]


def _blocks(table: Table, columns: Sequence[Column], names: Sequence[str], short: bool) -> Iterator[list[Column]]:
    """The columns in parts that each fit, cut between groups where that is possible."""
    block: list[Column] = []
    for _, same in groupby(columns, key=lambda column: column.group):
        group = list(same)
        if block and _width(table, [*block, *group], names, short) > WIDTH:
            yield block
            block = []
        for column in group:
            if block and _width(table, [*block, column], names, short) > WIDTH:
                yield block
                block = []
            block.append(column)
    if block or not columns:
        yield block


def _width(table: Table, columns: Sequence[Column], names: Sequence[str], short: bool) -> int:
    return max(map(len, _block(table, columns, names, short).splitlines()))


def _block(table: Table, columns: Sequence[Column], names: Sequence[str], short: bool) -> str:
    """Headers in lines, of which the upper ones stand over all columns that share them; a line; a row each."""
    marked = any(cell.mark for row in table.rows for cell in row.values())
    texts = [[_text(row[column.name], short, marked) for column in columns] for row in table.rows]
    columns, levels = _leveled(columns)
    widths = [max(len(column.heads[-1]), *(len(row[i]) for row in texts)) for i, column in enumerate(columns)]
    gaps = [3 if i and column.heads[0] != columns[i - 1].heads[0] else 2 for i, column in enumerate(columns)]
    for level in range(levels - 1):
        for span in _spans(columns, level):
            lacks = len(columns[span[0]].heads[level]) - sum(widths[i] + gaps[i] for i in span) + gaps[span[0]]
            widths[span[0]] += max(0, lacks)
    first = max(len(table.head), *map(len, names))

    def line(name: str, cells: Sequence[str]) -> str:
        padded = [
            " " * gap + (cell.ljust(width) if UNITS[column.unit].is_text else cell.rjust(width))
            for cell, width, gap, column in zip(cells, widths, gaps, columns, strict=True)
        ]
        return f"{name:<{first}}{''.join(padded)}".rstrip()

    heads = []
    for level in range(levels - 1):
        over = ""
        for span in _spans(columns, level):
            room = sum(widths[i] + gaps[i] for i in span) - gaps[span[0]]
            over += " " * gaps[span[0]] + columns[span[0]].heads[level].center(room)
        heads.append(f"{'':<{first}}{over}".rstrip())
    heads.append(line(table.head, [column.heads[-1] for column in columns]))
    rows = [line(name, row) for name, row in zip(names, texts, strict=True)]
    rule = "-" * (first + sum(widths) + sum(gaps))
    if table.below:
        rows.insert(table.below, rule)
    return "\n".join([*heads, rule, *rows])


def _text(cell: Cell, short: bool, marked: bool) -> str:
    text = (cell.short if short else "") or cell.text
    return MARKS["plain"][cell.mark].format(text) if marked else text


def _markdown(table: Table) -> str:
    heads = [table.head, *(" ".join(filter(None, column.heads)) for column in table.columns)]
    marks = MARKS["markdown"]
    cells = [
        [_in_markdown(name), *(marks[row[c.name].mark].format(_in_markdown(row[c.name].text)) for c in table.columns)]
        for name, row in zip(table.names, table.rows, strict=True)
    ]
    rule = [":---", *(":---" if UNITS[column.unit].is_text else "---:" for column in table.columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (list(map(_in_markdown, heads)), rule, *cells))


def _latex(table: Table) -> str:
    """In booktabs: the lines of the headers span the columns that share them, references stand below a line."""
    columns, levels = _leveled(table.columns)
    aligned = "".join("l" if UNITS[column.unit].is_text else "r" for column in columns)
    lines = [rf"\begin{{tabular}}{{l{aligned}}}", r"\toprule"]
    for level in range(levels):
        last = level == levels - 1
        spans = _spans(columns, level) if not last else [[i] for i in range(len(columns))]
        heads = [(len(span), typed(columns[span[0]].heads[level])) for span in spans]
        told = [rf"\multicolumn{{{n}}}{{c}}{{{head}}}" if n > 1 else head for n, head in heads]
        lines.append(" & ".join([typed(table.head) if last else "", *told]) + r" \\")
        if rules := [
            rf"\cmidrule(lr){{{span[0] + 2}-{span[-1] + 2}}}"
            for span in spans
            if len(span) > 1 and columns[span[0]].heads[level]
        ]:
            lines.append(" ".join(rules))
    lines.append(r"\midrule")
    for i, (name, row) in enumerate(zip(table.names, table.rows, strict=True)):
        if table.below and i == table.below:
            lines.append(r"\midrule")
        cells = [MARKS["latex"][row[column.name].mark].format(typed(row[column.name].text)) for column in columns]
        lines.append(" & ".join([typed(name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def typed(text: str) -> str:
    """Text as LaTeX can set it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {letter: rf"\ensuremath{{{letter}}}" for letter in "<>"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def _aside(line: str, form: str) -> str:
    """A line that is no table; one line in any case, so that a comment stays one."""
    line = escape(line)
    return f"% {line}" if form == "latex" else _in_markdown(line) if form == "markdown" else line


def _in_markdown(text: str) -> str:
    """Text as Markdown shows it: no markup, no link, no formula in it."""
    return re.sub(r"[\\`*\[<|$]", r"\\\g<0>", text)


# --- for programs ------------------------------------------------------------------------------------------------------


def _csv(result: Comparison) -> str:
    """The first table with its numbers as they are, or what stands for it."""
    headers, rows = (result.data or result.tables[0]).machine()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([escape(header) if header.startswith("--") else no_formula(escape(header)) for header, _ in headers])
    told = [["" if value is None else value for value in row] for row in rows]
    writer.writerows([[no_formula(escape(value)) if isinstance(value, str) else value for value in row] for row in told])
    return text.getvalue().rstrip()


def _json(result: Comparison) -> str:
    """{"tables": [{"title", "rows": [{header: value}]}], "verdict", "notes"}, with null for an empty cell."""
    found = [*([result.data] if result.data else []), *result.tables]
    tables = []
    for table in found:
        headers, rows = table.machine()
        tables.append({"title": table.title, "rows": [dict(zip([h for h, _ in headers], row, strict=True)) for row in rows]})
    return json.dumps({"tables": tables, "verdict": result.verdict, "notes": result.notes}, allow_nan=False, indent=1)


def write_xlsx(result: Comparison, path: Path) -> None:
    """A sheet a table, numbers as numbers in the units of their headers, and a sheet of notes."""
    import pandas as pd

    from saves.workbook import write_sheet

    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        for table in [*result.tables, *([result.data] if result.data else [])]:
            headers, rows = table.machine()
            forms = {header: UNITS[unit].excel for header, unit in headers}
            frame = pd.DataFrame(rows, columns=list(forms))
            write_sheet(writer, table.title, frame, lambda header, _, forms=forms: forms.get(header, "General"))
        write_sheet(writer, "notes", pd.DataFrame({"notes": result.lines}), lambda *_: "General")
