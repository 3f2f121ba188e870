"""The command line of a picture: `python -m figures.MODULE RUN [RUN ...] -o PICTURE`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from errors import UserError
from figures.groups import read


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """What every picture's command takes; `name` is of its module, `doc` begins with what it says."""
    made = argparse.ArgumentParser(prog=f"python -m figures.{name}", description=doc.splitlines()[0])
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run, or a folder of runs")
    made.add_argument("-o", "--output", type=Path, default=Path(f"{name}.png"), help=f"PNG or PDF (default: {name}.png)")
    return made


def run(of_command: argparse.ArgumentParser, draw: Callable, argv: Sequence[str] | None) -> None:
    """draw(runs, path, ...) of what is given; flags are its parameters. Says what it wrote; a mistake is a line, and exits
    with 2."""
    given = vars(of_command.parse_args(argv))
    folders, path = given.pop("runs"), given.pop("output")
    try:
        found = read(folders)
        draw(found, path, **given)
    except (UserError, OSError, ValueError) as error:
        of_command.error(str(error))
    print(f"{path}: {len(found)} run{'s' * (len(found) != 1)}")
