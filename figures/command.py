"""Define the command lines of tables and pictures: which runs to read and select; `python -m figures.MODULE RUN [RUN
...]`."""

import argparse
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from errors import UserError, print_no_more, refused
from figures import on_paper
from figures.groups import read, select, where
from saves import Run
from untrusted import Parser, escape

gc.freeze()  # as in `run.py`


def names(text: str) -> tuple[str, ...]:
    """Parse option names as a flag takes them: lr,momentum."""
    return tuple(name.strip().removeprefix("--") for name in text.split(",") if name.strip())


def _condition(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise argparse.ArgumentTypeError(f"{text} must be OPTION=VALUE[,VALUE], such as alpha=0.1,1")
    return name.removeprefix("--"), values.split(",")


def of_runs(name: str, doc: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of every command on saved runs.

    `name`: the module. `doc`: its first line becomes the description."""
    parser = Parser(prog=f"python -m figures.{name}", description=doc.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run, or a folder of runs")
    parser.add_argument(
        "--where",
        nargs="+",
        type=_condition,
        default=[],
        metavar="OPTION=VALUE",
        help="select runs by their options, such as --where alpha=0.1 algorithm=fedavg,cfkd",
    )
    parser.add_argument(
        "--select",
        type=names,
        default=(),
        metavar="FLAG[,FLAG]",
        help="flags that were tuned; for each method, keep the setting with the best validation accuracy",
    )
    return parser


def chosen(args: argparse.Namespace, passed_over: list[str] | None = None, keep_equal: bool = False) -> list[Run]:
    """Return the runs of the folders that meet the conditions, of the selected settings.

    `passed_over` and `keep_equal` as in `groups.read`. Raises UserError."""
    return select(where(read(args.runs, passed_over, keep_equal), dict(args.where)), args.select)


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of every picture's command."""
    parser = of_runs(name, doc)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(f"{name}.png"),
        help=f"file of the picture, PNG or PDF (default: {name}.png)",
    )
    add_size(parser)
    return parser


def add_size(parser: argparse.ArgumentParser) -> None:
    """Add the flag that makes a picture as wide as a paper has room for."""
    parser.add_argument(
        "--size",
        choices=on_paper.SIZES,
        help="width of the picture in a paper: a column of 3.3 inches or a page of 7 inches, with text of 8 points "
        "(default: for the screen)",
    )


def add_by(parser: argparse.ArgumentParser) -> None:
    """Add the flag that draws several problems in one picture."""
    parser.add_argument(
        "--by",
        type=names,
        default=(),
        metavar="FLAG[,FLAG]",
        help="flags such as alpha; each of their values has its own panels",
    )


def ended(parser: argparse.ArgumentParser, error: Exception) -> NoReturn:
    """End a command with its error in one line, and status 2."""
    words = None if isinstance(error, FileNotFoundError) else refused(error)  # for example a folder that does not exist
    if words:
        print_no_more()
    parser.exit(2, f"{parser.prog}: error: {escape(words or error)}\n")


def run(parser: argparse.ArgumentParser, draw: Callable, argv: Sequence[str] | None) -> None:
    """Call draw(runs, path, ...) for a command line; other flags are keyword arguments of `draw`.

    Prints the written file. An error is one line, and exits with status 2."""
    args = parser.parse_args(argv)
    flags = {name: value for name, value in vars(args).items() if name not in ("runs", "where", "select", "output")}
    try:
        runs = chosen(args)
        draw(runs, args.output, **flags)
    except (UserError, OSError, ValueError, MemoryError) as error:
        ended(parser, error)
    print(f"{escape(args.output)}: {len(runs)} run{'s' * (len(runs) != 1)}")
