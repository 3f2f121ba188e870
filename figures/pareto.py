"""What accuracy costs in bytes, of saved runs, and which methods are on the Pareto front.

    python -m figures.pareto RUN [RUN ...] -o pareto.png

A point is a method's accuracy after the last round against what the whole run has spent, means over seeds; its bar is one
standard deviation over seeds. Up and to the left is better: the grey steps, the Pareto front, join the methods that no other
beats at their price or below. A reference (independent or centralized), whatever it costs, and against bytes what sends
nothing are level lines.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from figures import command, on_paper
from figures.curves import AXES, flat, last, level, seeds, title
from figures.groups import REFERENCES, Group, check, ordered
from figures.marks import Axis, Line, Panel, Points, Style
from figures.metrics import METRICS, check_metric, meant
from figures.styles import looks
from figures.targets import cumulated
from saves import Run

FRONT = Style("#9aa3b2")


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of points (bytes, accuracy): which no other beats, being at least as good in both and better in one."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    return [not any(beats(other, point) for other in points) for point in points]


def price(group: Group, quantity: str) -> float | None:
    """What a whole run has spent, mean over seeds; None where a history does not count it."""
    spent = [cumulated(run, quantity) for run in group.runs]
    return None if any(of_run is None for of_run in spent) else float(np.mean([of_run[-1] for of_run in spent]))


def panel(found: Sequence[Group], quantity: str, metric: str) -> Panel:
    """An accuracy that all runs have against one of `targets.QUANTITIES`, with the front, and the references
    level whatever they cost. It lacks the groups whose histories do not count that."""
    prices = [None if group.algorithm in REFERENCES or flat(group, quantity) else price(group, quantity) for group in found]
    known = [spent for spent in prices if spent is not None]
    x, places, marks, lacks = AXES[quantity].spanning(known, known), [], [], {}
    for spent, (group, style, label) in zip(prices, looks(found), strict=True):
        if spent is not None:
            mean, spread = last(group, metric)
            places.append((spent, mean))
            marks.append(Points([spent], [mean], style, label, None if spread is None else [spread], size=7))
        elif group.algorithm in REFERENCES or flat(group, quantity):
            marks.append(level(group, metric, x, style, label))
        else:
            lacks[label] = f"its histories do not count {quantity}"
    steps = sorted(place for place, on_it in zip(places, front(places), strict=True) if on_it)
    if steps:  # to the end of the axis: there the best accuracy costs no more either
        nbytes, values = zip(*steps, (x.span[1], steps[-1][1]), strict=True)
        marks.insert(0, Line(nbytes, values, FRONT, "Pareto front", hover="Pareto front", steps=True, width=3))
    return Panel(marks, x, Axis(f"{meant(metric)[0]} after the last round (%)"), title(metric), lacks)


def draw(runs: Sequence[Run], path: Path | None = None, metric: Sequence[str] = ("global", "personal")):
    """The points as a figure, a panel for each accuracy in `metric`; written to a PNG or PDF where there is a
    path. Raises UserError for runs that are not to be compared, or that did not measure it."""
    check(runs)
    for which in metric:
        check_metric(runs, which)
    found = ordered(runs)
    shown = [panel(found, "bytes", which) for which in metric]
    return on_paper.figure(shown, 4.6, 3.6, path, len(shown), legend=seeds(found, "bar"), sharey=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("pareto", __doc__)
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        default=["global", "personal"],
        help=f"a panel each: {METRICS} (default: global personal)",
    )
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
