"""Draw accuracy against bytes, or against leakage, of saved runs, with the Pareto front.

    python -m figures.pareto RUN [RUN ...] --against bytes exposed -o pareto.png

With `--by`, the figure has a column of panels for each value of a flag, such as each split.

A point is a method's accuracy after the last round against what the whole run has spent, or has exposed to the attacks on
its messages (`python -m attacks`), means over seeds; its bar is one standard deviation over seeds. Up and to the left is
better: the grey steps, the Pareto front, join the methods that no other beats at their price or below. A reference
(independent or centralized), whatever it costs, and against bytes what sends nothing are level lines.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from figures import command, on_paper
from figures.curves import AXES, flat, in_parts, last, level, seeds, title, y_axis
from figures.groups import REFERENCES, Group
from figures.leaked import leaked
from figures.marks import Axis, Line, Panel, Points, Style
from figures.metrics import METRICS
from figures.styles import Look
from figures.targets import cumulated
from saves import Run

FRONT = Style("#9aa3b2", marker="")
PRICES = {**AXES, "exposed": Axis("training examples exposed (%)")}


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point (bytes, accuracy) whether it is on the Pareto front.

    No other point is at least as good in both and better in one."""

    def beats(first: tuple[float, float], second: tuple[float, float]) -> bool:
        return first[0] <= second[0] and first[1] >= second[1] and first != second

    return [not any(beats(second, point) for second in points) for point in points]


def price(group: Group, quantity: str) -> float | None:
    """Return what a whole run has spent, or exposed in percent, mean over seeds; None where a run does not know it."""
    if quantity == "exposed":
        exposed = leaked(group.runs, quantity)
        return None if exposed is None else 100 * float(exposed.mean())
    spent = [cumulated(run, quantity) for run in group.runs]
    return (
        None
        if any(cumulated_values is None for cumulated_values in spent)
        else float(np.mean([cumulated_values[-1] for cumulated_values in spent]))
    )


def panels(parts: Mapping[str, Sequence[Look]], quantity: str, metric: str) -> list[Panel]:
    """Return an accuracy, which all runs must have, against one of `PRICES`, with the Pareto front: a panel for each part.

    `parts`: {title: groups}; "" for a single part. All panels have the same axes. References are level, whatever they cost.
    A panel lacks groups whose price is unknown."""
    prices = [
        [None if group.algorithm in REFERENCES or flat(group, quantity) else price(group, quantity) for group, *_ in part]
        for part in parts.values()
    ]
    known = [spent for of_part in prices for spent in of_part if spent is not None]
    x = PRICES[quantity].spanning(known, known)
    if quantity == "exposed" and x.span[0] == 0:  # a method that exposes nothing is a point like any other, whole
        x = replace(x, span=(-0.04 * x.span[1], x.span[1]))
    return [
        _panel(name, part, of_part, x, quantity, metric) for (name, part), of_part in zip(parts.items(), prices, strict=True)
    ]


def _panel(name: str, part: Sequence[Look], prices: Sequence[float | None], x: Axis, quantity: str, metric: str) -> Panel:
    places, marks, lacking = [], [], {}
    for spent, (group, style, label) in zip(prices, part, strict=True):
        if spent is not None:
            mean, spread = last(group, metric)
            places.append((spent, mean))
            marks.append(Points([spent], [mean], style, label, None if spread is None else [spread], size=7))
        elif group.algorithm in REFERENCES or flat(group, quantity):
            marks.append(level(group, metric, x, style, label))
        else:
            unknown = "it was not attacked" if quantity == "exposed" else f"its histories do not count {quantity}"
            lacking[label] = unknown
    steps = sorted(place for place, is_on_front in zip(places, front(places), strict=True) if is_on_front)
    if steps:  # to the end of the axis: the best accuracy costs no more there
        spent_on_front, values = zip(*steps, (x.span[1], steps[-1][1]), strict=True)
        marks.insert(0, Line(spent_on_front, values, FRONT, "Pareto front", hover="Pareto front", steps=True, width=3))
    return Panel(marks, x, y_axis(metric, name, " after the last round"), name or title(metric), lacking)


def draw(
    runs: Sequence[Run],
    path: Path | None = None,
    metric: Sequence[str] = ("global", "personal"),
    against: Sequence[str] = ("bytes",),
    by: Sequence[str] = (),
    size: str | None = None,
):
    """Return the points as a figure, written to a PNG or PDF if there is a path.

    The figure has a row of panels for each price in `against`, and a column for each accuracy in `metric`; or a column for
    each value of the options `by`, and a row for each price and accuracy. `size`: one of `on_paper.SIZES`. Raises UserError
    for runs that cannot be compared, or that did not measure the accuracy."""
    parts = in_parts(runs, metric, by)
    shown = [panel for quantity, name in product(against, metric) for panel in panels(parts, quantity, name)]
    groups = [look.group for part in parts.values() for look in part]
    columns = len(parts) if by else len(metric)
    return on_paper.figure(shown, 4.6, 3.6, path, columns, legend=seeds(groups, "bar"), sharey=True, size=size)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("pareto", __doc__)
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        default=["global", "personal"],
        help=f"metrics, one panel each: {METRICS} (default: global personal)",
    )
    parser.add_argument(
        "--against", nargs="+", choices=PRICES, default=["bytes"], help="prices, one row of panels each (default: bytes)"
    )
    command.add_by(parser)
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
