"""Render a comparison as text, Markdown, LaTeX, CSV, JSON or a workbook, from the same cells."""

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
from untrusted import WIDTH, escape, no_formula, wrap

NAME = 28  # maximum number of characters of a row's name in a table that is too wide
FORMS = ("plain", "markdown", "latex", "csv", "json")
MARKS = {  # {form: {mark of a cell: format}}
    "plain": {"": "{}  ", "best": "{} *", "level": "{} ~"},
    "markdown": {"": "{}", "best": "**{}**", "level": "{} ~"},
    "latex": {"": "{}", "best": r"\textbf{{{}}}", "level": r"{}$^\dagger$"},
}


def render(result: Comparison, form: str = "plain") -> str:
    """Return the tables and the lines below them as text.

    `form` is one of FORMS. "csv" has the first table alone; in LaTeX everything but tables is a comment."""
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
    """Return the columns with the same number of header lines, and this number."""
    levels = max((len(column.heads) for column in columns), default=1)
    return [column._replace(heads=("",) * (levels - len(column.heads)) + column.heads) for column in columns], levels


def _spans(columns: Sequence[Column], level: int) -> list[list[int]]:
    """Return the indices of adjacent columns whose headers are equal down to a line."""
    heads = [column.heads[: level + 1] for column in columns]
    return [list(same) for _, same in groupby(range(len(columns)), key=lambda i: heads[i])]


# --- for people --------------------------------------------------------------------------------------------------------


def _plain(table: Table) -> str:
    """Return the table as text within WIDTH characters.

    Where the table is too wide: write deviations shorter, cut long names, then leave out columns of little weight. If the
    table still does not fit, put the remaining columns in a second table below."""
    columns, names, left_out = table.columns, table.names, []
    short = _width(table, columns, names, False) > WIDTH
    if short and _width(table, columns, names, short) > WIDTH:
        names = _cut(names, NAME)
        removable = sorted((column for column in columns if column.shown > 1), key=lambda column: -column.shown)
        while removable and _width(table, columns, names, short) > WIDTH:
            left_out.append(removable.pop(0))
            columns = [column for column in table.columns if column not in left_out]
        for column in reversed(left_out):  # restore columns that fit after all
            candidates = [other for other in table.columns if other == column or other in columns]
            if _width(table, candidates, names, short) <= WIDTH:
                columns = candidates
        left_out = [column for column in left_out if column not in columns]
        if _width(table, columns, names, short) > WIDTH:
            columns, left_out, short = table.columns, [], False
    lines = ["\n\n".join(_block(table, block, names, short) for block in _blocks(table, columns, names, short))]
    if left_out:
        lines.append(wrap(f"left out for lack of width: {', '.join(column.name for column in reversed(left_out))}"))
    lines += [wrap(f"{cut}: {escape(name)}") for cut, name in zip(names, table.names, strict=True) if cut != name]
    return "\n".join(lines)


def _cut(names: Sequence[str], limit: int) -> list[str]:
    """Return names of at most `most` characters, numbered where two cut names would be equal."""
    cut = [name if len(name) <= limit else f"{name[: limit - 1].rstrip()}…" for name in names]
    counts = Counter(cut)
    return [
        name if counts[name] == 1 else f"{name[: limit - 4].rstrip('…').rstrip()}… {i}"
        for i, name in enumerate(cut, start=1)
    ]


def _blocks(table: Table, columns: Sequence[Column], names: Sequence[str], short: bool) -> Iterator[list[Column]]:
    """Yield the columns in blocks that each fit the width, split between groups where possible."""
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
    """Return a block as text: headers, a rule, and a line per row.

    The upper header lines span all columns that share them."""
    marked = any(cell.mark for row in table.rows for cell in row.values())
    texts = [[_text(row[column.name], short, marked) for column in columns] for row in table.rows]
    columns, levels = _leveled(columns)
    widths = [max(len(column.heads[-1]), *(len(row[i]) for row in texts)) for i, column in enumerate(columns)]
    gaps = [3 if i and column.heads[0] != columns[i - 1].heads[0] else 2 for i, column in enumerate(columns)]
    for level in range(levels - 1):
        for span in _spans(columns, level):
            missing = len(columns[span[0]].heads[level]) - sum(widths[i] + gaps[i] for i in span) + gaps[span[0]]
            widths[span[0]] += max(0, missing)
    name_width = max(len(table.head), *map(len, names))

    def line(name: str, cells: Sequence[str]) -> str:
        padded = [
            " " * gap + (cell.ljust(width) if UNITS[column.unit].is_text else cell.rjust(width))
            for cell, width, gap, column in zip(cells, widths, gaps, columns, strict=True)
        ]
        return f"{name:<{name_width}}{''.join(padded)}".rstrip()

    heads = []
    for level in range(levels - 1):
        headers = ""
        for span in _spans(columns, level):
            width = sum(widths[i] + gaps[i] for i in span) - gaps[span[0]]
            headers += " " * gaps[span[0]] + columns[span[0]].heads[level].center(width)
        heads.append(f"{'':<{name_width}}{headers}".rstrip())
    heads.append(line(table.head, [column.heads[-1] for column in columns]))
    rows = [line(name, row) for name, row in zip(names, texts, strict=True)]
    rule = "-" * (name_width + sum(widths) + sum(gaps))
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
    """Return a booktabs table: header lines span the columns that share them, references stand below a rule."""
    columns, levels = _leveled(table.columns)
    alignment = "".join("l" if UNITS[column.unit].is_text else "r" for column in columns)
    lines = [rf"\begin{{tabular}}{{l{alignment}}}", r"\toprule"]
    for level in range(levels):
        is_last = level == levels - 1
        spans = _spans(columns, level) if not is_last else [[i] for i in range(len(columns))]
        heads = [(len(span), typed(columns[span[0]].heads[level])) for span in spans]
        head_cells = [rf"\multicolumn{{{n}}}{{c}}{{{head}}}" if n > 1 else head for n, head in heads]
        lines.append(" & ".join([typed(table.head) if is_last else "", *head_cells]) + r" \\")
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
    """Escape text for LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {letter: rf"\ensuremath{{{letter}}}" for letter in "<>"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def _aside(line: str, form: str) -> str:
    """Return a line of text outside the tables: a single line, so that a comment stays a comment; wrapped on the screen."""
    line = escape(line)
    return f"% {line}" if form == "latex" else _in_markdown(line) if form == "markdown" else wrap(line)


def _in_markdown(text: str) -> str:
    """Escape text for Markdown: no markup, no link, no formula."""
    return re.sub(r"[\\`*\[<|$]", r"\\\g<0>", text)


# --- for programs ------------------------------------------------------------------------------------------------------


def _csv(result: Comparison) -> str:
    """Return the first table with its raw numbers, or the `data` that replaces it."""
    headers, rows = (result.data or result.tables[0]).machine()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([escape(header) if header.startswith("--") else no_formula(escape(header)) for header, _ in headers])
    filled = [["" if value is None else value for value in row] for row in rows]
    writer.writerows([[no_formula(escape(value)) if isinstance(value, str) else value for value in row] for row in filled])
    return text.getvalue().rstrip()


def _json(result: Comparison) -> str:
    """Return {"tables": [{"title", "rows": [{header: value}]}], "verdict", "notes"}; an empty cell is null."""
    sources = [*([result.data] if result.data else []), *result.tables]
    tables = []
    for table in sources:
        headers, rows = table.machine()
        tables.append(
            {"title": table.title, "rows": [dict(zip([name for name, _ in headers], row, strict=True)) for row in rows]}
        )
    return json.dumps({"tables": tables, "verdict": result.verdict, "notes": result.notes}, allow_nan=False, indent=1)


def write_xlsx(result: Comparison, path: Path) -> None:
    """Write a sheet per table, numbers as numbers in the units of their headers, and a sheet of notes."""
    import pandas as pd

    from saves.workbook import write_sheet

    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        for table in [*result.tables, *([result.data] if result.data else [])]:
            headers, rows = table.machine()
            forms = {header: UNITS[unit].excel for header, unit in headers}
            frame = pd.DataFrame(rows, columns=list(forms))
            write_sheet(writer, table.title, frame, lambda header, _, forms=forms: forms.get(header, "General"))
        write_sheet(writer, "notes", pd.DataFrame({"notes": result.lines}), lambda *_: "General")
