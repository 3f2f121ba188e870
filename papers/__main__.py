"""Runs what is missing of published tables, and prints them: see `papers`."""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from commandline import plan, value_of
from errors import DivergedError, UserError
from federation import allocator
from launch import Failed, ending, launch, scheduling
from launch.display import log_to_stderr
from options import Launch, flags_of
from papers import PAPERS, page, results
from papers.tables import Results, Table, failures, render, runs_in
from untrusted import Parser


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m papers`."""
    made = Parser(prog="python -m papers", description="Published tables, repeated.")
    made.add_argument("names", nargs="*", metavar="PAPER", help="a paper, or PAPER/TABLE; none: list them")
    made.add_argument("--rows", metavar="TEXT", help="only the rows whose name has TEXT in it")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--plan", action="store_true", help="what the missing runs would cost; nothing is run")
    how.add_argument("--show", action="store_true", help="print what is there; nothing is run")
    made.add_argument(
        "--record", action="store_true", help="write papers/*/results.csv and RESULTS.md; without a name RESULTS.md alone"
    )
    made.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    made.add_argument("--export_dir", type=Path, default=Path("saves"), help="folder of the runs (default: saves)")
    made.add_argument("--unverified_data", action="store_true", help="take data without their published checksum")
    jobs = flags_of(Launch)["jobs"]
    made.add_argument("--jobs", default=jobs["default"], metavar="N", help=f"{jobs['help']} (default: {jobs['default']})")
    made.add_argument("--quiet", action="store_true", help="no progress bars")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 1 where a run failed or a table does not hold, and else that of
    `launch.ending`."""
    log_to_stderr()
    given = parser().parse_args(argv)
    allocator.keep_blocks()
    with ending.told("papers") as end:
        end.status = _carry_out(given)
    return end.status


def _carry_out(given: argparse.Namespace) -> int:
    jobs = value_of("jobs", str(given.jobs), flags_of(Launch)["jobs"]["type"])
    how = Launch(given.data_dir, given.export_dir, unverified_data=given.unverified_data, jobs=jobs, quiet=given.quiet)
    tables, failed = _tables(given.names, given.rows), 0
    if given.plan and tables:
        return _plan(tables, how)
    if not (tables or given.record):
        _list()
    if tables and not given.show:
        failed = _run(tables, how)
    by_paper = _by_paper(tables)
    found = {name: results.collect(of_paper, how) for name, of_paper in by_paper.items()}
    for name, of_paper in by_paper.items():
        failed += _print(name, of_paper, found[name])
        if given.record:
            results.record(PAPERS[name], found[name])
    if given.record:
        _record()
    return 1 if failed else 0


def _tables(names: Sequence[str], rows: str | None) -> list[tuple[str, Table]]:
    """(paper, table) of all that is named: of a paper those that are not heavy, of PAPER/TABLE that one."""
    found = []
    for name in names:
        paper, _, wanted = name.partition("/")
        if paper not in PAPERS:
            raise UserError(f"{paper}: must be one of {', '.join(PAPERS)}")
        tables = PAPERS[paper].TABLES
        if wanted and wanted not in [table.name for table in tables]:
            raise UserError(f"{name}: the tables of {paper} are {', '.join(table.name for table in tables)}")
        found += [(paper, table) for table in tables if table.name == wanted or not (wanted or table.heavy)]
    if rows and found:
        kept = {table.name: {name: row for name, row in table.rows.items() if rows in name} for _, table in found}
        if not any(kept.values()):
            raise UserError(f"--rows {rows}: no row of these tables; {'; '.join(name for _, t in found for name in t.rows)}")
        found = [(paper, replace(table, rows=kept[table.name])) for paper, table in found if kept[table.name]]
    return found


def _by_paper(tables: Sequence[tuple[str, Table]]) -> dict[str, list[Table]]:
    names = dict.fromkeys(name for name, _ in tables)
    return {name: [table for paper, table in tables if paper == name] for name in names}


def _list() -> None:
    for name, paper in PAPERS.items():
        print(f"{name}: {paper.TITLE}")
        recorded = results.read(paper)
        for table in paper.TABLES:
            runs = runs_in([table])
            there = len(runs) - len(recorded.missing(table))
            print(f"  {name}/{table.name:<14} {there} of {len(runs)} runs recorded{', heavy' * table.heavy}: {table.title}")


def _plan(tables: Sequence[tuple[str, Table]], how: Launch) -> int:
    ready, waiting = results.missing([table for _, table in tables], how)
    plans, failed = [], 0
    for found in plan.each(ready, how.quiet):
        if isinstance(found, DivergedError):
            print(f"papers: {found}", file=sys.stderr)
            failed = 1
        else:
            plans.append(found)
    if plans:
        print(plan.report(plans, scheduling.cores_of(ready, how.jobs)))
    elif not (failed or waiting):
        print("nothing is missing")
    if waiting:
        print(f"not planned, since they start from runs that are missing: {len(waiting)}")
    return failed


def _run(tables: Sequence[tuple[str, Table]], how: Launch) -> int:
    """Run what is missing, what starts from other runs after them; returns how many runs failed."""
    while True:
        ready, waiting = results.missing([table for _, table in tables], how)
        failed = 0
        for _, result in launch(ready, how):
            if isinstance(result, Failed):
                print(f"papers: {result}", file=sys.stderr)
                failed += 1
        if failed or not waiting:
            return failed


def _print(name: str, tables: Sequence[Table], found: Results) -> int:
    """The tables, and what is to be said of them; returns how much does not hold."""
    wrong = []
    for table in tables:
        print(f"\n{table.title}. {table.source}\n\n{render(table, found)}\n")
        absent = found.missing(table)
        for key in absent[:3]:
            print(f"missing: python run.py {key}")
        if len(absent) > 3:
            print(f"and {len(absent) - 3} runs more; python -m papers {name}/{table.name} makes them")
        others = dict.fromkeys(row["other"] for row in found.rows.values() if row["other"])
        if others:
            print(f"* made by {'; '.join(others)}, and not by what is at hand now")
        wrong += failures(table, found)
    paper = PAPERS[name]
    if hasattr(paper, "check") and len(tables) == len(paper.TABLES):
        wrong += paper.check(found)
    print(*(f"does not hold: {line}" for line in wrong), sep="\n", end="\n" if wrong else "")
    return len(wrong)


def _record() -> None:
    page.PATH.write_text(page.written(page.PATH.read_text()))
    for name, paper in PAPERS.items():
        results.file_of(paper, "run.sh").write_text(page.script(name, paper))
        if hasattr(paper, "PICTURE") and results.file_of(paper).exists():
            paper.draw(results.read(paper), results.HERE / name / paper.PICTURE[0])


if __name__ == "__main__":
    ending.leave(main())
