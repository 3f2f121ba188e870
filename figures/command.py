"""The command lines of tables and pictures: which runs, and of these which; `python -m figures.MODULE RUN [RUN ...]`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from errors import UserError, print_no_more, refused
from figures.groups import read, select, where
from saves import Run
from untrusted import Parser, escape


def names(text: str) -> tuple[str, ...]:
    """Options as a flag takes them: lr,momentum."""
    return tuple(name.strip().removeprefix("--") for name in text.split(",") if name.strip())


def _condition(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise argparse.ArgumentTypeError(f"{text} is no OPTION=VALUE[,VALUE], such as alpha=0.1,1")
    return name.removeprefix("--"), values.split(",")


def of_runs(name: str, doc: str) -> argparse.ArgumentParser:
    """What every command on saved runs takes; `name` is of its module, `doc` begins with what it says."""
    made = Parser(prog=f"python -m figures.{name}", description=doc.splitlines()[0])
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run, or a folder of runs")
    made.add_argument(
        "--where",
        nargs="+",
        type=_condition,
        default=[],
        metavar="OPTION=VALUE",
        help="only the runs with these values of their options: --where alpha=0.1 algorithm=fedavg,cfkd",
    )
    made.add_argument(
        "--select",
        type=names,
        default=(),
        metavar="FLAG[,FLAG]",
        help="of the settings that differ in these flags the one best on validation",
    )
    return made


def chosen(given: argparse.Namespace, passed_over: list[str] | None = None) -> list[Run]:
    """The runs that are meant: of the folders, where the conditions hold, of the selected settings; `passed_over` as of
    `groups.read`. Raises UserError."""
    return select(where(read(given.runs, passed_over), dict(given.where)), given.select)


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """What every picture's command takes."""
    made = of_runs(name, doc)
    made.add_argument("-o", "--output", type=Path, default=Path(f"{name}.png"), help=f"PNG or PDF (default: {name}.png)")
    return made


def ended(of_command: argparse.ArgumentParser, error: Exception) -> NoReturn:
    """End a command with what went wrong, in a line, and status 2."""
    words = None if isinstance(error, FileNotFoundError) else refused(error)  # a folder that never was, say
    if words:
        print_no_more()
    of_command.exit(2, f"{of_command.prog}: error: {escape(words or error)}\n")


def run(of_command: argparse.ArgumentParser, draw: Callable, argv: Sequence[str] | None) -> None:
    """draw(runs, path, ...) of what is given; flags are its parameters. Says what it wrote; a mistake is a line, and exits
    with 2."""
    given = of_command.parse_args(argv)
    how = {name: value for name, value in vars(given).items() if name not in ("runs", "where", "select", "output")}
    try:
        found = chosen(given)
        draw(found, given.output, **how)
    except (UserError, OSError, ValueError, MemoryError) as error:
        ended(of_command, error)
    print(f"{escape(given.output)}: {len(found)} run{'s' * (len(found) != 1)}")
