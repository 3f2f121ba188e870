"""Run the missing runs of published tables, and print the tables: see `papers`."""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from commandline import plan, value_of
from errors import UserError
from federation import allocator
from figures.units import in_blocks
from launch import ending, launch, tell_failed
from launch.display import log_to_stderr
from options import Launch, flags_of
from papers import PAPERS, page, results
from papers.tables import Results, Table, failures, rows_of, runs_in
from untrusted import Parser, wrap

PROGRAM = "papers"  # the name of this command in messages


def parser() -> argparse.ArgumentParser:
    """Return the command line of `python -m papers`."""
    parser = Parser(prog="python -m papers", description="Reproduce published tables.")
    parser.add_argument("names", nargs="*", metavar="PAPER", help="paper or PAPER/TABLE; without a name, list all papers")
    parser.add_argument("--rows", metavar="TEXT", help="select rows whose name contains TEXT")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--plan", action="store_true", help="estimate the cost of the missing runs; no training")
    mode.add_argument("--show", action="store_true", help="print the recorded results; no training")
    parser.add_argument(
        "--record", action="store_true", help="write papers/*/results.csv and RESULTS.md; without a name only RESULTS.md"
    )
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder with the data sets (default: data)")
    parser.add_argument("--export_dir", type=Path, default=Path("saves"), help="folder with the saved runs (default: saves)")
    parser.add_argument("--unverified_data", action="store_true", help="accept data files with another checksum")
    jobs = flags_of(Launch)["jobs"]
    parser.add_argument("--jobs", default=jobs["default"], metavar="N", help=f"{jobs['help']} (default: {jobs['default']})")
    parser.add_argument("--quiet", action="store_true", help="hide progress bars")
    return parser


@ending.with_status(lambda: PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns the exit status: 0, 1 where a run failed or a table does not hold, otherwise the status of `launch.ending`."""
    log_to_stderr()
    args = parser().parse_args(argv)
    allocator.keep_blocks()
    return _run_command(args)


def _run_command(args: argparse.Namespace) -> int:
    jobs = value_of("jobs", str(args.jobs), flags_of(Launch)["jobs"]["type"])
    launch_options = Launch(
        args.data_dir, args.export_dir, unverified_data=args.unverified_data, jobs=jobs, quiet=args.quiet
    )
    tables, status = _tables(args.names, args.rows), 0
    if args.plan and tables:
        return _plan(tables, launch_options)
    if not (tables or args.record):
        _list()
    if tables and not args.show:
        status = _run(tables, launch_options)
        results.attack([table for _, table in tables], launch_options)
    by_paper = _by_paper(tables)
    results_by_paper = {name: results.collect(paper_tables, launch_options) for name, paper_tables in by_paper.items()}
    for name, paper_tables in by_paper.items():
        status |= _print(name, paper_tables, results_by_paper[name]) > 0
        if args.record:
            results.record(PAPERS[name], results_by_paper[name])
    if args.record:
        _record()
    return int(status)


def _tables(names: Sequence[str], rows: str | None) -> list[tuple[str, Table]]:
    """Return (paper, table) of all names: PAPER selects its tables that are not heavy, PAPER/TABLE this table."""
    selected = []
    for name in names:
        paper, _, table_name = name.partition("/")
        if paper not in PAPERS:
            raise UserError(f"{paper}: must be one of {', '.join(PAPERS)}")
        tables = PAPERS[paper].TABLES
        if table_name and table_name not in [table.name for table in tables]:
            raise UserError(f"{name}: must be a table of {paper}: {', '.join(table.name for table in tables)}")
        selected += [(paper, table) for table in tables if table.name == table_name or not (table_name or table.heavy)]
    if rows and selected:
        rows_by_table = {
            table.name: {name: row for name, row in table.rows.items() if rows in name} for _, table in selected
        }
        if not any(rows_by_table.values()):
            raise UserError(
                f"--rows {rows}: matches no row; the rows are {'; '.join(name for _, t in selected for name in t.rows)}"
            )
        selected = [
            (paper, replace(table, rows=rows_by_table[table.name])) for paper, table in selected if rows_by_table[table.name]
        ]
    return selected


def _by_paper(tables: Sequence[tuple[str, Table]]) -> dict[str, list[Table]]:
    names = dict.fromkeys(name for name, _ in tables)
    return {name: [table for paper, table in tables if paper == name] for name in names}


def _list() -> None:
    for name, paper in PAPERS.items():
        print(wrap(f"{name}: {paper.TITLE}"))
        recorded = results.read(paper)
        for table in paper.TABLES:
            runs = runs_in([table])
            known = len(runs) - len(recorded.missing(table))
            heavy = ", heavy" * table.heavy
            print(wrap(f"  {name}/{table.name:<14} {known} of {len(runs)} runs recorded{heavy}: {table.title}"))


def _plan(tables: Sequence[tuple[str, Table]], launch_options: Launch) -> int:
    experiments, waiting = results.missing([table for _, table in tables], launch_options)
    status = plan.tell_all(experiments, launch_options, PROGRAM)
    if not (experiments or waiting):
        print("no run is missing")
    if waiting:
        print(f"{len(waiting)} runs are not planned, because they start from the models of missing runs")
    return status


def _run(tables: Sequence[tuple[str, Table]], launch_options: Launch) -> int:
    """Run the missing runs, then the runs that start from them; return 1 where a run failed, else 0."""
    while True:
        experiments, waiting = results.missing([table for _, table in tables], launch_options)
        status = tell_failed((result for _, result in launch(experiments, launch_options)), PROGRAM)
        if status or not waiting:
            return status


def _print(name: str, tables: Sequence[Table], paper_results: Results) -> int:
    """Print the tables, missing runs and failed checks; return the number of failed checks."""
    problems = []
    for table in tables:
        text = in_blocks(rows_of(table, paper_results), ["", "n"], "github")
        print(wrap(f"\n{table.title}. {table.source}\n"), text, "", sep="\n")
        missing = paper_results.missing(table)
        for key in missing[:3]:
            print(wrap(f"missing: python run.py {key}", " \\"))
        if len(missing) > 3:
            print(f"and {len(missing) - 3} more runs; run them with: python -m papers {name}/{table.name}")
        other_sources = dict.fromkeys(row["other"] for row in paper_results.rows.values() if row["other"])
        if other_sources:
            print(wrap(f"* results of other code, libraries or CPU: {'; '.join(other_sources)}"))
        problems += failures(table, paper_results)
    paper = PAPERS[name]
    if hasattr(paper, "check") and len(tables) == len(paper.TABLES):
        problems += paper.check(paper_results)
    print(*(wrap(f"check failed: {line}") for line in problems), sep="\n", end="\n" if problems else "")
    return len(problems)


def _record() -> None:
    page.PATH.write_text(page.written(page.PATH.read_text()))
    for name, paper in PAPERS.items():
        results.file_of(paper, "run.sh").write_text(page.script(name, paper))
        if hasattr(paper, "PICTURE") and results.file_of(paper).exists():
            paper.draw(results.read(paper), results.HERE / name / paper.PICTURE[0])


if __name__ == "__main__":
    ending.leave(main())
