"""Draw learning curves of saved runs: accuracy against rounds, bytes, floating-point operations or seconds.

    python -m figures.curves RUN [RUN ...] --against rounds bytes -o curves.png
    python -m figures.curves RUN [RUN ...] --by alpha --size page -o curves.pdf

With `--by`, the figure has a column of panels for each value of a flag, such as each split.

A line is the mean over the runs that differ in their seeds only, its band one standard deviation over seeds to either side.
The accuracy is that of the whole test set or, personal, of each client's own distribution, mean over clients. Against bytes,
a reference (independent or centralized) or what sends nothing is a level line, at its accuracy after the last round.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from errors import UserError
from figures import command, on_paper
from figures.groups import REFERENCES, Group, check, ordered, problems, sent, title_of
from figures.marks import Axis, Line, Panel, Points, Style
from figures.metrics import METRICS, accuracy, check_metric, column_of, measure_of
from figures.styles import Look, looks
from figures.targets import QUANTITIES, cumulated, evaluated, interpolated
from saves import Run

TITLES = {
    "global": "the whole test set",
    "personal": "each client's own distribution",
    "worst": "the worst client only",
    "validation": "each client's held-out examples",
    "tuned": "each client's own distribution, after fine-tuning",
}
AXES = {
    "rounds": Axis("communication rounds", whole=True),
    "bytes": Axis("bytes of all clients in all directions", "B"),
    "flops": Axis("floating-point operations of all clients and the server", "FLOP"),
    "seconds": Axis("seconds, those of evaluations left out"),
}


class Band(NamedTuple):
    """Hold a curve over runs.

    x float [P], never decreasing: what a run has spent. mean float [P]: the curve's mean over runs. spread float [P]: one
    standard deviation over runs, None for a single run."""

    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray | None


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return mean and standard deviation of a sample over the first axis; the latter is None for a single value."""
    return values.mean(0), values.std(0, ddof=1) if len(values) > 1 else None


def band(runs: Sequence[Run], quantity: str, curve: str = "global_mean") -> Band | None:
    """Return the curve, a column of the rounds such as `personal_mean`, against a quantity of `targets.QUANTITIES`.

    Between a run's evaluated rounds the curve is a straight line; a point is shown where every run has spent as much. None
    where a history has no such quantity. Raises UserError for a run without that column."""
    lines = []
    for run in runs:
        is_evaluated, values = evaluated(run, curve)
        spent = cumulated(run, quantity)
        if spent is None:
            return None
        lines.append((spent[is_evaluated], values))
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    places = np.unique(np.concatenate([x for x, _ in lines] + [[first, last]]))
    places = places[(places >= first) & (places <= last)]
    values = np.array([[interpolated(x, y, at) for at in places] for x, y in lines]).reshape(len(lines), len(places))
    return Band(places, *over_seeds(values))


def flat(group: Group, quantity: str) -> bool:
    """Return whether a group's line against the quantity is horizontal: it sends nothing, or is a reference line."""
    return quantity == "bytes" and (group.algorithm in REFERENCES or not any(sent(run) for run in group.runs))


def last(group: Group, metric: str) -> tuple[float, float | None]:
    """Return accuracy (%) after the last round and its spread, over seeds. Raises UserError if it was not measured."""
    return over_seeds(100 * np.array([accuracy(run, metric, "last") for run in group.runs]))


def level(group: Group, metric: str, axis: Axis, style: Style, label: str) -> Line:
    """Return a group's accuracy after the last round as a line along the whole axis. Raises UserError as `last`."""
    mean, spread = last(group, metric)
    hover = f"{label}\n{mean:.1f} %{'' if spread is None else f' ± {spread:.1f}'}\nafter the last round"
    return axis.along(mean, spread, style=style, label=label, hover=hover)


def panels(parts: Mapping[str, Sequence[Look]], quantity: str, metric: str) -> list[Panel]:
    """Return the curves of an accuracy, which all runs must have, against one of QUANTITIES: a panel for each part.

    `parts`: {title: groups}; "" for a single part. All panels have the same axes. A panel lacks groups whose histories do
    not count the quantity, or whose runs have no point in common."""
    bands = [
        [
            None if flat(group, quantity) else band(group.runs, quantity, column_of(group.runs[0], metric))
            for group, *_ in part
        ]
        for part in parts.values()
    ]
    curves = [curve for of_part in bands for curve in of_part if curve is not None and len(curve.x)]
    x = AXES[quantity].spanning([x for curve in curves for x in curve.x], [curve.x[-1] for curve in curves])
    return [
        _panel(name, part, of_part, x, quantity, metric) for (name, part), of_part in zip(parts.items(), bands, strict=True)
    ]


def _panel(name: str, part: Sequence[Look], bands: Sequence[Band | None], x: Axis, quantity: str, metric: str) -> Panel:
    marks, lacking = [], {}
    for curve, (group, style, label) in zip(bands, part, strict=True):
        if flat(group, quantity):
            marks.append(level(group, metric, x, style, label))
        elif curve is None:
            lacking[label] = f"the history of {group.runs[0].folder}, or of another seed, does not count this quantity"
        elif not len(curve.x):
            lacking[label] = (
                f"the seeds of {group.algorithm} have no common range (one seed ends before another begins); use --against "
                "rounds"
            )
        else:
            mark = Line if len(curve.x) > 1 else Points  # a line with a single point is invisible
            spread = None if curve.spread is None else 100 * curve.spread
            marks.append(mark(curve.x, 100 * curve.mean, style, label, spread))
    return Panel(marks, x, y_axis(metric, name), name or title(metric), lacking)


def y_axis(metric: str, part: str, when: str = "") -> Axis:
    """Return the axis of a metric. The title of a single panel names the metric; otherwise the axis does."""
    measure = measure_of(metric)[0]
    is_accuracy = measure == "accuracy"
    name = (f"{metric} accuracy" if is_accuracy else metric) if part else measure
    return Axis(f"{name}{when} (%)", bounds=(0, 100) if is_accuracy else Axis.bounds)


def title(metric: str) -> str:
    """Return the name of an accuracy, and the examples on which it is measured."""
    return f"{metric}: {TITLES[measure_of(metric)[1]]}"


def in_parts(runs: Sequence[Run], metrics: Sequence[str], by: Sequence[str]) -> dict[str, list[Look]]:
    """Return the groups of comparable runs: {"": all groups}, or {title: groups} for each value of the options `by`.

    Raises UserError for runs that cannot be compared, or that did not measure an accuracy."""
    names, parts = problems(runs, by)
    for part in parts:
        check(part.runs, has_by=True)
        for metric in metrics:
            check_metric(part.runs, metric)
    groups = [ordered(part.runs) for part in parts]
    all_looks = iter(looks([group for of_part in groups for group in of_part], by))
    return {
        title_of(names, part.values, ", "): [next(all_looks) for _ in of_part]
        for part, of_part in zip(parts, groups, strict=True)
    }


def draw(
    runs: Sequence[Run],
    path: Path | None = None,
    against: Sequence[str] = ("rounds",),
    metric: Sequence[str] = ("global", "personal"),
    by: Sequence[str] = (),
    size: str | None = None,
):
    """Return the curves as a figure, written to a PNG or PDF if there is a path.

    The figure has a row of panels for each of QUANTITIES in `against`, and a column for each accuracy in `metric`; or a
    column for each value of the options `by`, and a row for each quantity and accuracy. `size`: one of `on_paper.SIZES`.
    Raises UserError for runs that cannot be compared, or that did not measure the accuracy."""
    parts = in_parts(runs, metric, by)
    shown = [panel for quantity, name in product(against, metric) for panel in panels(parts, quantity, name)]
    for panel, (quantity, _, _) in zip(shown, product(against, metric, parts), strict=True):
        for reason in panel.lacks.values():
            raise UserError(f"--against {quantity}: {reason}")
    groups = [look.group for part in parts.values() for look in part]
    columns = len(parts) if by else len(metric)
    return on_paper.figure(shown, 4.6, 3.1, path, columns, legend=seeds(groups, "band"), sharey=True, size=size)


def seeds(groups: Sequence[Group], spread: str) -> str:
    """Return in words what the mean and spread are over; `spread` is the mark that shows one standard deviation."""
    several = f"mean over n seeds, {spread}: one standard deviation over seeds"
    return several if any(len(group.runs) > 1 for group in groups) else "one seed: an illustration"


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("curves", __doc__)
    parser.add_argument(
        "--against",
        nargs="+",
        choices=QUANTITIES,
        default=["rounds"],
        metavar="QUANTITY",
        help=f"quantities of the x axis, one row of panels each: {', '.join(QUANTITIES)} (default: rounds)",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        default=["global", "personal"],
        help=f"metrics of the y axis, one column of panels each: {METRICS} (default: global personal)",
    )
    command.add_by(parser)
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
