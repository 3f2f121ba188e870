"""Compare saved runs over seeds: one row per setting with accuracy, difference to a baseline, and cost.

    python -m figures.table RUN [RUN ...] --baseline fedavg --target 0.9

A RUN is the folder of a finished run, or a folder that contains such folders. A row is a group of runs that differ in their
seeds only. The unit of every mean, spread and test is the pair of --seed and --split_seed, never the client. Runs on
different splits or different data are refused, and so is the same seed twice in a row. All rows show the last round, or the
round that was best on validation; the round is never selected on the test set."""

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
from figures.groups import problems, read, title_of, where
from figures.metrics import METRICS, ROUND
from figures.problems import main_metrics, overview
from figures.render import render, write_xlsx
from saves import Run
from untrusted import print_escaped


def fraction(text: str) -> float:
    """Parse a flag's accuracy, in (0, 1]. Raises argparse.ArgumentTypeError."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 1, such as 0.9")
    return value


def _budget(text: str) -> float | str:
    """Parse "bytes", or a number of bytes: 500kB, 20MB."""
    if text == "bytes":
        return text
    match = re.fullmatch(r"([\d.]+) *([kMGT]?)B?", text)
    value = float(match[1]) * 1000 ** " kMGT".index(match[2] or " ") if match and match[1].count(".") < 2 else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} must be bytes or a number of bytes, such as 20MB")
    return value


def _workbook(text: str) -> Path:
    if not text.endswith(".xlsx"):
        raise argparse.ArgumentTypeError(f"{text} must end in .xlsx")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    """Return the command line of `python -m figures.table`."""
    parser = command.of_runs("table", __doc__)
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help=f"metric by which rows are sorted and compared: {METRICS} (default: global; over problems also personal)",
    )
    parser.add_argument(
        "--on",
        choices=ROUND,
        default="last",
        help="round of the accuracies: the last, or the one with the best validation accuracy (default: last)",
    )
    parser.add_argument(
        "--by",
        type=command.names,
        default=(),
        metavar="OPTION[,OPTION]",
        help="options that separate rows; default: all options that differ",
    )
    parser.add_argument("--baseline", metavar="NAME", help="row (or its algorithm) to which the other rows are compared")
    parser.add_argument(
        "--target", type=fraction, metavar="ACCURACY", help="accuracy above 0 and at most 1; adds the cost of reaching it"
    )
    parser.add_argument(
        "--equal",
        type=_budget,
        metavar="BYTES",
        help='also compare at this number of bytes, such as 20MB; "bytes" is the total of the method that sent least',
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        type=_words,
        default=[],
        metavar="NAME",
        help=f"columns to show: names, groups or all; the groups are {', '.join(GROUPS)}",
    )
    forms = parser.add_mutually_exclusive_group()
    words = {
        "markdown": "print a Markdown table (GitHub)",
        "latex": "print a LaTeX table (booktabs)",
        "csv": "print comma-separated numbers",
        "json": "print tables and notes as JSON",
    }
    for form, description in words.items():
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=description)
    forms.add_argument("--xlsx", type=_workbook, metavar="FILE", help="write an Excel workbook too")
    parser.set_defaults(form="plain")
    return parser


def _words(text: str) -> list[str]:
    """Split names of columns, which may have commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def main(argv: Sequence[str] | None = None) -> None:
    command_line = parser()
    args = command_line.parse_args(argv)
    try:
        passed_over: list[str] = []
        runs = where(read(args.runs, passed_over), dict(args.where))
        result = _of_all(runs, args)
        result.notes += passed_over
        if args.xlsx:
            write_xlsx(result, args.xlsx)
        print_escaped(render(result, args.form), flush=True)
        if args.form == "csv":  # CSV has no notes
            print_escaped(*passed_over, sep="\n", end="\n" * bool(passed_over), file=sys.stderr)
    except (UserError, OSError, ValueError, MemoryError) as error:
        command.ended(command_line, error)


def _of_all(runs: Sequence[Run], args: argparse.Namespace) -> Comparison:
    """Return the comparison of runs on one problem; of several problems the table over problems.

    The comparison on each problem follows where a flag requests a result that the table over problems does not have."""
    request = {name: getattr(args, name) for name in ("on", "by", "select", "baseline", "target", "equal")}
    request["metric"] = args.metric or "global"
    request["columns"] = [word for words in args.columns for word in words]
    names, by_problem = problems(runs)
    if len(by_problem) == 1:
        return compare(runs, **request)
    result = overview(runs, [args.metric] if args.metric else main_metrics(runs), args.on, args.select)
    if any(request[name] for name in ("by", "baseline", "target", "equal", "columns")):
        for problem in by_problem:
            comparison = compare(problem.runs, **request)
            title = title_of(names, problem.values, ", ")
            result.tables += [replace(table, title=f"{title}, {table.title}") for table in comparison.tables]
            result.notes += [note for note in comparison.notes if note not in result.notes]
    return result


if __name__ == "__main__":
    main()
