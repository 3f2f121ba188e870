"""Write files from the declared tables: RESULTS.md, with the results in git, and a shell script for each paper."""

import re
from pathlib import Path
from types import ModuleType

from papers import PAPERS
from papers.results import CARRIED, read
from papers.tables import Results, Table, render, runs_in

EARLIER = (
    "In brackets: as printed at revision 564cfaf (torch 2.13.0+cpu, x86_64 AVX512), from runs of the same commands that no "
    "longer exist."
)
PATH = Path(__file__).resolve().parent.parent / "RESULTS.md"


def written(text: str) -> str:
    """Return the text of RESULTS.md with a new text between the markers of each paper."""
    for name, paper in PAPERS.items():
        begin, end = f"<!-- papers/{name}: begin -->", f"<!-- papers/{name}: end -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n\n{block(name, paper)}\n\n{end}{tail}"
    return text


def block(name: str, paper: ModuleType) -> str:
    """Return the section of a paper: the finding, the tables, and details."""
    results = read(paper)
    parts, details = [f"## {paper.TITLE}"], [paper.ABOUT]
    recorded = [table for table in paper.TABLES if _known_fraction(table, results) > 0.5]
    if recorded and "nan" not in (words := paper.words(results)):  # nan: of cells without results yet
        finding, *other_paragraphs = words.split("\n\n")
        parts.append(finding)
        details += other_paragraphs
    if recorded and hasattr(paper, "PICTURE"):
        parts.append(f"![{paper.PICTURE[1]}](papers/{name}/{paper.PICTURE[0]})")
    for table in paper.TABLES:
        command = f"`python -m papers {name}/{table.name}`"
        if table not in recorded:
            parts.append(f"**{table.title}.** {table.source} Not recorded here; run {command}.")
            continue
        parts += [f"**{table.title}.** {table.source} {command}", render(table, results), carried(table, results)]
    return "\n\n".join([*parts, "### Details", *details])


def _known_fraction(table: Table, results: Results) -> float:
    """Return the fraction of a table's cells that are known: a table that is nearly empty is not shown."""
    known = [
        results.n(table, row, column) > 0 for row, cells in table.rows.items() for column in cells if cells[column].command
    ]
    return sum(known) / len(known)


def carried(table: Table, results: Results) -> str:
    """Return in words the code, libraries and processors of the recorded runs of a table."""
    runs = runs_in([table])
    rows = [results.rows[table_run.key] for table_run in runs if table_run.key in results.rows]
    sentences = []
    if rows:
        revisions, libraries, processors = (" and ".join(sorted({row[name] for row in rows})) for name in CARRIED[1:])
        sentences.append(f"{len(rows)} of {len(runs)} runs; code of {revisions}, torch {libraries}, {processors}.")
    if any(name == table.name for name, _, _ in results.earlier):
        sentences.append(EARLIER)
    return " ".join(sentences)


SCRIPT = """\
#!/bin/sh
# {title}: the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/{name}/run.sh [TABLE ...] [-- FLAGS]. The tables are {tables}; without a name: {light}.
# FLAGS are added to every command: sh papers/{name}/run.sh {first} -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${{tables:-{light}}}; do
case "$table" in
{cases}
*) echo "$0: no table $table; use {tables}" >&2; exit 2 ;;
esac
done
"""


def script(name: str, paper: ModuleType) -> str:
    """Return `papers/NAME/run.sh`. Runs that start from the models of other runs are left to `python -m papers`."""
    names = [table.name for table in paper.TABLES]
    light = [table.name for table in paper.TABLES if not table.heavy]
    cases = "\n".join(_case(name, table) for table in paper.TABLES)
    fields = {"tables": ", ".join(names), "light": " ".join(light), "first": names[0], "cases": cases}
    return SCRIPT.format(name=name, title=paper.TITLE, **fields)


def _case(name: str, table: Table) -> str:
    """Return the commands of a table as a case of the script; flags that all commands share appear once."""
    commands = dict.fromkeys(cell.command for cell in table.cells if not cell.start)
    flags = {command: re.split(r" (?=--)", command) for command in commands}
    common = [
        flag
        for flag in next(iter(flags.values()))[1:]
        if all(flag in flags_of_command for flags_of_command in flags.values())
    ]
    lines = [f"{table.name})  # {table.title}", "    (", f'    set -- {" ".join(common)} "$@"']
    for command in commands:
        lines.append(" ".join(["    python run.py", *(flag for flag in flags[command] if flag not in common), '"$@"']))
    if any(cell.start for cell in table.cells):
        lines.append(f"    python -m papers {name}/{table.name}  # the runs that start from models of those above")
    return "\n".join([*lines, "    ) ;;"])
