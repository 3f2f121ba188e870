"""RESULTS.md: what the papers' tables show, made from the results that are kept in git."""

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
