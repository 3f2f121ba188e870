"""Accuracy against rounds, bytes, floating-point operations or seconds, of saved runs.

    python -m figures.curves RUN [RUN ...] --against rounds bytes -o curves.png

A line is the mean over the runs that differ in their seeds only, its band one standard deviation over seeds. A column of
panels is an accuracy: of the whole test set, or of each client's own distribution, mean over clients. Against bytes, what
sends nothing and the reference lines are horizontal, at their last value.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from errors import UserError
from figures import command, finished, panels
from figures.bands import Band, band
from figures.groups import COLUMNS, REFERENCES, Group, check, name_of, ordered, sent
from figures.targets import QUANTITIES
from saves import Run

# Okabe and Ito's colours, told apart by colour-blind readers, with a dash pattern and a marker each for print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)), (0, (5, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = tuple(zip(COLOURS, DASHES, strict=True))
GREYS = {"independent": "#000000", "centralized": "#707070"}  # references are no methods, and have no colour
GREY_DASHES = (":", (0, (12, 3)), (0, (1, 4)), (0, (12, 9)))

TITLES = {
    "global": "global: the whole test set",
    "personal": "personal: each client's own distribution",
    "worst": "personal accuracy of the worst client",
}
LABELS = {  # of each quantity, and the unit of its numbers
    "rounds": ("round", None),
    "bytes": ("bytes of all clients, all directions", "B"),
    "flops": ("floating-point operations", "FLOP"),
    "seconds": ("seconds, evaluations left out", None),
}
DECADES = 2  # of bytes; more than that are on a logarithmic axis


class Style(NamedTuple):
    """How a group of runs looks, in matplotlib's words."""

    colour: str
    dashes: Any
    marker: str


def styles(found: Sequence[Group]) -> list[Style]:
    """A style a group. The same groups have the same styles in every picture, and up to 36 methods are told apart."""
    seen: Counter[str] = Counter()
    told = []
    for group in found:
        reference = group.algorithm in REFERENCES
        i = seen[group.algorithm if reference else ""]
        seen[group.algorithm if reference else ""] += 1
        if reference:
            dashes = GREY_DASHES[(REFERENCES.index(group.algorithm) + 2 * i) % len(GREY_DASHES)]
            told.append(Style(GREYS[group.algorithm], dashes, "_"))
        else:
            shift = (i + i // len(COLOURS)) % len(COLOURS)  # the next pattern when the colours are used up
            told.append(Style(COLOURS[i % len(COLOURS)], DASHES[shift], MARKERS[shift]))
    return told


def labels(found: Sequence[Group]) -> list[str]:
    """What each group is called in a legend: its name and the number of its seeds."""
    return [f"{name_of(group, found)} (n = {len(group.runs)})" for group in found]


def legend(figure, axes, found: Sequence[Group], spread: str) -> None:
    """The legend of one panel's lines below the figure, which says what they are over seeds; `spread` is what shows one
    standard deviation."""
    order = labels(found)  # and what else there is behind them
    shown = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda line: (*order, line[1]).index(line[1]))
    handles, names = zip(*shown, strict=True)
    figure.set_figheight(figure.get_figheight() + 0.8)
    several = f"mean over n seeds, {spread}: one standard deviation over seeds"
    title = several if any(len(group.runs) > 1 for group in found) else "one seed: an illustration"
    fitting = max(1, int(14 * figure.get_figwidth() / (max(map(len, names)) + 7)))
    columns = min(len(names), fitting)
    columns = -(-len(names) // -(-len(names) // columns))  # rows of equal length, as near as may be
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, title=title)


def flat(group: Group, quantity: str) -> bool:
    """Whether its line against the quantity is horizontal: it sends nothing, or is a reference line."""
    return quantity == "bytes" and (group.algorithm in REFERENCES or not any(sent(run) for run in group.runs))


def curve(group: Group, quantity: str, metric: str) -> Band:
    """The group's band, in fractions of 1; for one that is `flat` from 0 to 1 of the panel's width. Raises UserError for a
    history without such a quantity or accuracy."""
    level = flat(group, quantity)
    found = band(group.runs, "rounds" if level else quantity, COLUMNS[metric])
    if found is None:
        raise UserError(
            f"--against {quantity}: the history of {group.runs[0].folder}, or of another seed of it, does not count them"
        )
    if not len(found.x):
        raise UserError(
            f"--against {quantity}: the runs of {group.algorithm} have no point in common, the evaluated rounds of one seed "
            "end before those of another begin; --against rounds"
        )
    if level:
        last = [np.repeat(values[-1], 2) for values in (found.mean, found.low, found.high)]
        return Band(np.array([0.0, 1.0]), *last, found.n)
    return found


def draw(
    runs: Sequence[Run],
    path: Path | None = None,
    against: Sequence[str] = ("rounds",),
    metric: Sequence[str] = ("global", "personal"),
):
    """The curves as a figure, a row of panels for each of QUANTITIES in `against`, a column for each of TITLES in `metric`;
    written to a PNG or PDF where there is a path. Raises UserError for runs that are not to be compared, or that did not
    measure it."""
    check(runs)
    found = ordered(runs)
    figure, grid = panels(len(against), len(metric), 4.6, 3.1, sharex="row", sharey=True)
    for row, quantity in zip(grid, against, strict=True):
        for axes, which in zip(row, metric, strict=True):
            bands = [curve(group, quantity, which) for group in found]
            for group, style, label, of_group in zip(found, styles(found), labels(found), bands, strict=True):
                _line(axes, of_group, style, label, flat(group, quantity))
            axes.grid(alpha=0.3)
        _quantity(row, quantity, [of for of, group in zip(bands, found, strict=True) if not flat(group, quantity)])
        row[0].set_ylabel("accuracy (%)")
    for axes, which in zip(grid[0], metric, strict=True):
        axes.set_title(TITLES[which], fontsize=11)
    legend(figure, grid[0, 0], found, "band")
    return finished(figure, path)


def _line(axes, of_group: Band, style: Style, label: str, level: bool) -> None:
    where = {"transform": axes.get_yaxis_transform()} if level else {}  # x in parts of the panel's width
    low, mean, high = (100 * values for values in (of_group.low, of_group.mean, of_group.high))
    if len(of_group.x) == 1:  # evaluated once: a line would not be seen
        bar = high - mean if of_group.n > 1 else None
        axes.errorbar(of_group.x, mean, bar, color=style.colour, marker=style.marker, linestyle="", capsize=3, label=label)
        return
    axes.plot(of_group.x, mean, color=style.colour, linestyle=style.dashes, label=label, linewidth=1.8, **where)
    if of_group.n > 1:
        axes.fill_between(of_group.x, low, high, color=style.colour, alpha=0.18, linewidth=0, **where)


def _quantity(row, quantity: str, bands: Sequence[Band]) -> None:
    """The x axis of a row of panels."""
    name, unit = LABELS[quantity]
    spent = np.concatenate([of_group.x[of_group.x > 0] for of_group in bands] or [np.ones(1)])
    for axes in row:
        axes.set_xlabel(name)
        if quantity == "bytes" and spent.max() > 10**DECADES * spent.min():
            axes.set_xscale("log")
        if unit:
            in_units(axes.xaxis, unit)
        if quantity == "rounds":
            axes.xaxis.get_major_locator().set_params(integer=True)


def in_units(axis, unit: str) -> None:
    """Ticks of an axis for people: 10 kB, 2 GFLOP (powers of 1000)."""
    from matplotlib.ticker import EngFormatter

    if axis.get_scale() == "linear":
        axis.get_major_locator().set_params(nbins=4)  # units are long
    axis.set_major_formatter(EngFormatter(unit))


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("curves", __doc__)
    parser.add_argument(
        "--against", nargs="+", choices=QUANTITIES, default=["rounds"], help="a row of panels each (default: rounds)"
    )
    parser.add_argument(
        "--metric", nargs="+", choices=TITLES, default=["global", "personal"], help="columns (default: global personal)"
    )
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
