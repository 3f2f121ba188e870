"""What accuracy costs in bytes, of saved runs, and which methods are on the Pareto front.

    python -m figures.pareto RUN [RUN ...] -o pareto.png

A point is a method's accuracy after the last round against the bytes of all clients, directions and rounds, means over
seeds; its bar is one standard deviation over seeds. Nothing reaches more than the front for as few bytes. What sends
nothing and the reference lines are horizontal.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from figures import command, finished, panels
from figures.curves import LABELS, TITLES, Style, flat, in_units, labels, legend, styles
from figures.groups import Group, accuracy, check, ordered, sent
from saves import Run


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of points (bytes, accuracy): which no other beats, being at least as good in both and better in one."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    return [not any(beats(other, point) for other in points) for point in points]


def draw(runs: Sequence[Run], path: Path | None = None, metric: Sequence[str] = ("global", "personal")):
    """The points as a figure, a panel for each of `curves.TITLES` in `metric`; written to a PNG or PDF where there is a
    path. Raises UserError for runs that are not to be compared, or that did not measure it."""
    check(runs)
    found = ordered(runs)
    figure, (row,) = panels(1, len(metric), 4.6, 3.6, sharex=True, sharey=True)
    for axes, which in zip(row, metric, strict=True):
        _panel(axes, found, which)
        axes.set_title(TITLES[which], fontsize=11)
        axes.set_xlabel(LABELS["bytes"][0])
        axes.grid(alpha=0.3)
    row[0].set_xscale("log")  # of all panels, and behind the points: before them one place would be the whole axis
    for axes in row:
        in_units(axes.xaxis, "B")
    row[0].set_ylabel("accuracy after the last round (%)")
    legend(figure, row[0], found, "bar")
    return finished(figure, path)


def _panel(axes, found: Sequence[Group], metric: str) -> None:
    points = []
    for group, style, label in zip(found, styles(found), labels(found), strict=True):
        values = 100 * np.array([accuracy(run, metric, "last") for run in group.runs])
        spread = values.std(ddof=1) if len(values) > 1 else None
        if flat(group, "bytes"):
            _level(axes, values.mean(), spread, style, label)
        else:
            points.append((float(np.mean([sent(run) for run in group.runs])), values.mean()))
            how = {"color": style.colour, "marker": style.marker, "label": label}
            axes.errorbar(*points[-1], yerr=spread, linestyle="", markersize=7, capsize=3, zorder=3, **how)
    steps = sorted(point for point, on_it in zip(points, front(points), strict=True) if on_it)
    if steps:
        most = max(nbytes for nbytes, _ in points)  # up to where the best accuracy costs no more than its bytes
        axes.step(
            *zip(*steps, (most, steps[-1][1]), strict=True),
            where="post",
            color="#444444",
            linewidth=1,
            zorder=1,
            label="Pareto front",
        )


def _level(axes, mean: float, spread: float | None, style: Style, label: str) -> None:
    axes.axhline(mean, color=style.colour, linestyle=style.dashes, linewidth=1.8, label=label)
    if spread is not None:
        axes.axhspan(mean - spread, mean + spread, color=style.colour, alpha=0.15, linewidth=0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("pareto", __doc__)
    parser.add_argument(
        "--metric", nargs="+", choices=TITLES, default=["global", "personal"], help="a panel each (default: global personal)"
    )
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
