"""Accuracy against rounds, bytes, floating-point operations or seconds, of saved runs.

    python -m figures.curves RUN [RUN ...] --against rounds bytes -o curves.png

A line is the mean over the runs that differ in their seeds only, its band one standard deviation over seeds to either side.
The accuracy is that of the whole test set or, personal, of each client's own distribution, mean over clients. Against bytes,
a reference (independent or centralized) or what sends nothing is a level line, at its accuracy after the last round.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from errors import UserError
from figures import command, on_paper
from figures.groups import REFERENCES, Group, check, ordered, sent
from figures.marks import Axis, Line, Panel, Points, Style
from figures.metrics import METRICS, accuracy, check_metric, column_of, meant
from figures.styles import looks
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
    """x float [P], never decreasing: what a run has spent; mean float [P] of the curve over runs, and its spread float [P],
    one standard deviation over them, None for a single run."""

    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray | None


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean and standard deviation of a sample over the first axis, the latter None for a single value."""
    return values.mean(0), values.std(0, ddof=1) if len(values) > 1 else None


def band(runs: Sequence[Run], quantity: str, curve: str = "global_mean") -> Band | None:
    """The curve, a column of the rounds such as `personal_mean`, against a quantity of `targets.QUANTITIES`.

    Between a run's evaluated rounds the curve is a straight line; a point is shown where every run has spent as much.
    None where a history has no such quantity. Raises UserError for a run without that column.
    """
    lines = []
    for run in runs:
        there, values = evaluated(run, curve)
        spent = cumulated(run, quantity)
        if spent is None:
            return None
        lines.append((spent[there], values))
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    points = np.unique(np.concatenate([x for x, _ in lines] + [[first, last]]))
    points = points[(points >= first) & (points <= last)]
    values = np.array([[interpolated(x, y, at) for at in points] for x, y in lines]).reshape(len(lines), len(points))
    return Band(points, *over_seeds(values))


def flat(group: Group, quantity: str) -> bool:
    """Whether its line against the quantity is horizontal: it sends nothing, or is a reference line."""
    return quantity == "bytes" and (group.algorithm in REFERENCES or not any(sent(run) for run in group.runs))


def last(group: Group, metric: str) -> tuple[float, float | None]:
    """Accuracy (%) after the last round and its spread, over seeds. Raises UserError where it was not measured."""
    return over_seeds(100 * np.array([accuracy(run, metric, "last") for run in group.runs]))


def level(group: Group, metric: str, axis: Axis, style: Style, label: str) -> Line:
    """Its accuracy after the last round, all along an axis. Raises UserError as `last`."""
    mean, spread = last(group, metric)
    told = f"{label}\n{mean:.1f} %{'' if spread is None else f' ± {spread:.1f}'}\nafter the last round"
    return axis.along(mean, spread, style=style, label=label, hover=told)


def panel(found: Sequence[Group], quantity: str, metric: str) -> Panel:
    """The curves of an accuracy that all runs have against one of QUANTITIES. It lacks the groups whose histories
    do not count that, or that have no point in common."""
    columns = [column_of(group.runs[0], metric) for group in found]
    bands = [
        None if flat(group, quantity) else band(group.runs, quantity, column)
        for group, column in zip(found, columns, strict=True)
    ]
    moving = [told for told in bands if told is not None and len(told.x)]
    x = AXES[quantity].spanning([x for told in moving for x in told.x], [told.x[-1] for told in moving])
    marks, lacks = [], {}
    for told, (group, style, label) in zip(bands, looks(found), strict=True):
        if flat(group, quantity):
            marks.append(level(group, metric, x, style, label))
        elif told is None:
            lacks[label] = f"the history of {group.runs[0].folder}, or of another seed of it, does not count them"
        elif not len(told.x):
            lacks[label] = (
                f"the runs of {group.algorithm} have no point in common, the evaluated rounds of one seed end before those "
                "of another begin; --against rounds"
            )
        else:
            mark = Line if len(told.x) > 1 else Points  # evaluated once, a line would not be seen
            spread = None if told.spread is None else 100 * told.spread
            marks.append(mark(told.x, 100 * told.mean, style, label, spread))
    return Panel(marks, x, Axis(f"{meant(metric)[0]} (%)"), title(metric), lacks)


def title(metric: str) -> str:
    """An accuracy by its name, and on which examples it is."""
    return f"{metric}: {TITLES[meant(metric)[1]]}"


def draw(
    runs: Sequence[Run],
    path: Path | None = None,
    against: Sequence[str] = ("rounds",),
    metric: Sequence[str] = ("global", "personal"),
):
    """The curves as a figure, a row of panels for each of QUANTITIES in `against`, a column for each accuracy in `metric`;
    written to a PNG or PDF where there is a path. Raises UserError for runs that are not to be compared, or that did not
    measure it."""
    check(runs)
    for which in metric:
        check_metric(runs, which)
    found = ordered(runs)
    shown = {(quantity, which): panel(found, quantity, which) for quantity in against for which in metric}
    for (quantity, _), of in shown.items():
        for why in of.lacks.values():
            raise UserError(f"--against {quantity}: {why}")
    return on_paper.figure(list(shown.values()), 4.6, 3.1, path, len(metric), legend=seeds(found, "band"), sharey=True)


def seeds(found: Sequence[Group], spread: str) -> str:
    """What is over seeds, in words; `spread` is what shows one standard deviation."""
    several = f"mean over n seeds, {spread}: one standard deviation over seeds"
    return several if any(len(group.runs) > 1 for group in found) else "one seed: an illustration"


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("curves", __doc__)
    parser.add_argument(
        "--against", nargs="+", choices=QUANTITIES, default=["rounds"], help="a row of panels each (default: rounds)"
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        default=["global", "personal"],
        help=f"a column each: {METRICS} (default: global personal)",
    )
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
