"""Show the effect of fine-tuning: a table, and a picture of accuracy against epochs of fine-tuning.

    python -m figures.tuning RUN [RUN ...] -o tuning.png

Personal accuracies (%): of the model as sent, after the local epochs of the last round (of the clients in it), and after
each epoch of fine-tuning a copy; mean over clients, and over the runs that differ in their seeds only.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from errors import UserError
from figures import command, on_paper
from figures.groups import Group, name_of, ordered
from figures.marks import Axis, Line, Panel
from figures.styles import styles
from figures.units import in_blocks, percent, spread
from untrusted import escape, print_escaped


def report(groups: Sequence[Group]) -> str:
    """Return a table with a row per group of runs."""
    rows = []
    for group in groups:
        last = [run.rounds.iloc[-1] for run in group.runs]
        mean = {name: 100 * np.mean([row.get(name, np.nan) for row in last]) for name in last[0].index}
        row = {"": name_of(group, groups), "n": len(group.runs), "global": mean["global_mean"]}
        row |= {"local": mean.get("local_mean", np.nan)}
        row |= {("as sent" if e == 0 else f"epoch {e}"): 100 * value for e, value in enumerate(by_epoch(group))}
        row |= {"std over clients": mean["tuned_std_clients"], "worst tenth": mean["tuned_worst_tenth"]}
        texts = {name: value if isinstance(value, str | int) else percent(value / 100) for name, value in row.items()}
        rows.append(texts | {"std over seeds": spread(group.values("tuned_mean"))})
    return in_blocks(rows, ["", "n"], "github")


def by_epoch(group: Group) -> np.ndarray:
    """Return mean personal accuracy after each epoch of fine-tuning, from 0: float [epochs + 1]."""
    return np.mean([summary["tuned_by_epoch"] for summary in group.summaries], axis=0)


def draw(groups: Sequence[Group], path: Path, size: str | None = None) -> None:
    """Draw a line per group into a PNG or PDF. `size`: one of `on_paper.SIZES`."""
    marks = []
    for group, style in zip(groups, styles(groups), strict=True):
        line = 100 * by_epoch(group)
        marks.append(Line(np.arange(len(line)), line, style, name_of(group, groups)))
    x, y = Axis("epochs of fine-tuning", whole=True), Axis("personal accuracy (%), mean over clients")
    on_paper.figure([Panel(marks, x, y)], 5.4, 3.6, path, legend="", size=size)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.of_runs("tuning", __doc__)
    parser.add_argument("-o", "--output", type=Path, help="file of a picture, PNG or PDF; default: no picture")
    command.add_size(parser)
    args = parser.parse_args(argv)
    if args.size and not args.output:
        parser.error("--size: only with --output")
    try:
        groups = ordered(command.chosen(args))
        not_tuned = [group.algorithm for group in groups if not group.tuned]
        if not_tuned:
            parser.error(f"{not_tuned[0]}: a run has no fine-tuning; use runs with --ft_epochs")
        print_escaped(report(groups))
        if args.output:
            draw(groups, args.output, args.size)
    except (UserError, OSError, ValueError) as error:
        parser.error(escape(error))


if __name__ == "__main__":
    main()
