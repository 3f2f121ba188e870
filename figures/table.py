"""Saved runs compared over their seeds: a row a setting, what it reaches, how far it is from a baseline, and what it costs.

    python -m figures.table RUN [RUN ...] --baseline fedavg --target 0.9

A RUN is the folder of a finished run, or a folder of such. Rows are groups of runs that differ in their seeds only, and the
unit of every mean, spread and test is the pair of --seed and --split_seed, never the client. Runs on different splits or on
different data are refused, and so is the same seed twice in a row. What is shown is of the last round, or of the round that
was best on validation, for all rows alike; it is never chosen on the test set.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from errors import UserError
from figures import command
from figures.columns import GROUPS
from figures.compare import Comparison, compare
from figures.groups import problems, read, where
from figures.metrics import METRICS, ROUND
from figures.problems import overview, title_of
from figures.render import render, write_xlsx
from saves import Run
from untrusted import print_escaped


def fraction(text: str) -> float:
    """A flag's accuracy, in (0, 1]. Raises argparse.ArgumentTypeError."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no fraction of 1, such as 0.9")
    return value


def _budget(text: str) -> float | str:
    """ "bytes", or so many: 500kB, 20MB."""
    if text == "bytes":
        return text
    found = re.fullmatch(r"([\d.]+) *([kMGT]?)B?", text)
    value = float(found[1]) * 1000 ** " kMGT".index(found[2] or " ") if found and found[1].count(".") < 2 else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is neither bytes nor a budget, such as 20MB")
    return value


def _workbook(text: str) -> Path:
    if not text.endswith(".xlsx"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .xlsx")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m figures.table`."""
    made = command.of_runs("table", __doc__)
    made.add_argument("--metric", metavar="NAME", default="global", help=f"which accuracy: {METRICS} (default: global)")
    made.add_argument(
        "--on", choices=ROUND, default="last", help="which round: the last, or the one best on validation (default: last)"
    )
    made.add_argument(
        "--by",
        type=command.names,
        default=(),
        metavar="OPTION[,OPTION]",
        help="what tells rows apart; default: all that varies",
    )
    made.add_argument("--baseline", metavar="NAME", help="the row, or its algorithm, to which differences are taken")
    made.add_argument("--target", type=fraction, metavar="ACCURACY", help="what it cost to reach it, a fraction of 1")
    made.add_argument(
        "--equal",
        type=_budget,
        metavar="BYTES",
        help='a second table, at equal bytes of all clients: "bytes" for as many as all methods have sent, or 20MB',
    )
    made.add_argument(
        "--columns",
        nargs="+",
        type=_words,
        default=[],
        metavar="NAME",
        help=f"columns to show, by name or group, or all of them; groups: {', '.join(GROUPS)}",
    )
    forms = made.add_mutually_exclusive_group()
    words = {
        "markdown": "a GitHub table",
        "latex": "a LaTeX table (booktabs)",
        "csv": "numbers alone",
        "json": "all in JSON",
    }
    for form, what in words.items():
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=what)
    forms.add_argument("--xlsx", type=_workbook, metavar="FILE", help="a workbook as well, numbers as numbers")
    made.set_defaults(form="plain")
    return made


def _words(text: str) -> list[str]:
    """Names of columns, which may have commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def main(argv: Sequence[str] | None = None) -> None:
    of_command = parser()
    given = of_command.parse_args(argv)
    try:
        passed_over: list[str] = []
        runs = where(read(given.runs, passed_over), dict(given.where))
        result = _of_all(runs, given)
        result.notes += passed_over
        if given.xlsx:
            write_xlsx(result, given.xlsx)
        print_escaped(render(result, given.form), flush=True)
        if given.form == "csv":  # which has no notes
            print_escaped(*passed_over, sep="\n", end="\n" * bool(passed_over), file=sys.stderr)
    except (UserError, OSError, ValueError, MemoryError) as error:
        command.ended(of_command, error)


def _of_all(runs: Sequence[Run], given: argparse.Namespace) -> Comparison:
    """The comparison of runs on one problem; of several problems the table over them, and the comparison on each where it is
    asked for something that the first does not tell."""
    asked = {name: getattr(given, name) for name in ("metric", "on", "by", "select", "baseline", "target", "equal")}
    asked["columns"] = [word for words in given.columns for word in words]
    names, found = problems(runs)
    if len(found) == 1:
        return compare(runs, **asked)
    result = overview(runs, given.metric, given.on, given.select)
    if any(asked[name] for name in ("by", "baseline", "target", "equal", "columns")):
        for problem in found:
            of_it = compare(problem.runs, **asked)
            title = title_of(names, problem.values, ", ")
            result.tables += [replace(table, title=f"{title}, {table.title}") for table in of_it.tables]
            result.notes += [note for note in of_it.notes if note not in result.notes]
    return result


if __name__ == "__main__":
    main()
