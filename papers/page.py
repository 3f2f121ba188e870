"""Files made from the declared tables: RESULTS.md, with the results recorded in git, and a shell script for each paper."""

import re
from pathlib import Path
from types import ModuleType

from papers import PAPERS
from papers.results import CARRIED, read
from papers.tables import Results, Table, render, runs_in

EARLIER = (
    "In brackets: as printed at revision 564cfaf (torch 2.13.0+cpu, x86_64 AVX512), from runs of the same commands that are "
    "no longer at hand."
)
PATH = Path(__file__).resolve().parent.parent / "RESULTS.md"


def written(text: str) -> str:
    """The text of RESULTS.md, with what stands between the markers of each paper made anew."""
    for name, paper in PAPERS.items():
        begin, end = f"<!-- papers/{name}: begin -->", f"<!-- papers/{name}: end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{block(name, paper)}\n\n{end}{after}"
    return text


def block(name: str, paper: ModuleType) -> str:
    """One paper: what was published, what our tables show, and the tables."""
    results = read(paper)
    parts = [f"## {paper.TITLE}", paper.ABOUT]
    recorded = [table for table in paper.TABLES if _there(table, results) > 0.5]
    if recorded and "nan" not in (words := paper.words(results)):  # nan: of cells that are not there yet
        parts.append(words)
    if recorded and hasattr(paper, "PICTURE"):
        parts.append(f"![{paper.PICTURE[1]}](papers/{name}/{paper.PICTURE[0]})")
    for table in paper.TABLES:
        command = f"`python -m papers {name}/{table.name}`"
        if table not in recorded:
            parts.append(f"**{table.title}.** {table.source} Not recorded here; {command} makes it.")
            continue
        parts += [f"**{table.title}.** {table.source} {command}", render(table, results), carried(table, results)]
    return "\n\n".join(parts)


def _there(table: Table, results: Results) -> float:
    """The part of a table's cells that are known: one that is nearly empty is not shown."""
    there = [
        results.n(table, row, column) > 0 for row, cells in table.rows.items() for column in cells if cells[column].command
    ]
    return sum(there) / len(there)


def carried(table: Table, results: Results) -> str:
    """Which code made the recorded runs of a table, and on what."""
    runs = runs_in([table])
    there = [results.rows[made.key] for made in runs if made.key in results.rows]
    told = []
    if there:
        revisions, libraries, processors = (" and ".join(sorted({row[name] for row in there})) for name in CARRIED[1:])
        told.append(f"{len(there)} of {len(runs)} runs; code of {revisions}, torch {libraries}, {processors}.")
    if any(name == table.name for name, _, _ in results.earlier):
        told.append(EARLIER)
    return " ".join(told)


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
    told = {"tables": ", ".join(names), "light": " ".join(light), "first": names[0], "cases": cases}
    return SCRIPT.format(name=name, title=paper.TITLE, **told)


def _case(name: str, table: Table) -> str:
    """Return the commands of a table as a case of the script; flags that all commands share stand once."""
    commands = dict.fromkeys(cell.command for cell in table.cells if not cell.start)
    flags = {command: re.split(r" (?=--)", command) for command in commands}
    common = [flag for flag in next(iter(flags.values()))[1:] if all(flag in of_one for of_one in flags.values())]
    lines = [f"{table.name})  # {table.title}", "    (", f'    set -- {" ".join(common)} "$@"']
    for command in commands:
        lines.append(" ".join(["    python run.py", *(flag for flag in flags[command] if flag not in common), '"$@"']))
    if any(cell.start for cell in table.cells):
        lines.append(f"    python -m papers {name}/{table.name}  # the runs that start from models of those above")
    return "\n".join([*lines, "    ) ;;"])
