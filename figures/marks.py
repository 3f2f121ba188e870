"""Describe a picture as plain data: panels of lines, points and maps, drawn by `on_paper` and by `report.on_page`.

Nothing here depends on how a picture is drawn. A colour is "#rrggbb", a size is in points; any text may have several
lines."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

WIDE = 20  # the axis is logarithmic if the ends of curves differ by more than this factor
NUMBERED = 400  # a map with more cells shows no numbers: the cells are too small


class Style(NamedTuple):
    """Describe how lines and points look.

    `dash`: lengths on and off in widths of the line, () for a solid line. `marker`: of points, and of a few places of a
    line: one of `styles.SHAPES`, open where it ends in "-open"; "" for none."""

    colour: str
    dash: tuple[float, ...] = ()
    marker: str = "circle"


@dataclass(frozen=True)
class Series:
    """Hold places x and y, float [P].

    `spread`, float [P]: the distance above and below y. Equal labels share an entry of the legend; "" has no entry. `hover`:
    the hover text of each place or of all; by default the label, y with its spread, and x."""

    x: Sequence[float]
    y: Sequence[float]
    style: Style
    label: str = ""
    spread: Sequence[float] | None = None
    hover: str | Sequence[str] = ""


@dataclass(frozen=True)
class Line(Series):
    """Join the places; `spread` is a band.

    `steps`: y stays constant up to the next x. `level`: y is the same along the whole axis."""

    steps: bool = False
    level: bool = False
    width: float = 1.8


@dataclass(frozen=True)
class Points(Series):
    """Do not join the places; `spread` is vertical bars, `across` horizontal bars. `names` are at the left of the points."""

    across: Sequence[float] | None = None
    names: Sequence[str] = ()
    size: float = 6


@dataclass(frozen=True)
class Heat:
    """Hold a map of values, float [R, C], NaN for no value, from 0 in the lightest colour to `top` in the darkest.

    `unit`: the unit of the values. `counts`, int [R, C]: the number of examples behind each value. Rows and columns are the
    `ticks` of the axes."""

    values: np.ndarray
    top: float
    unit: str
    counts: np.ndarray | None = None

    @property
    def numbers(self) -> list[list[str]] | None:
        """Return the text of each cell, empty for NaN and 0; None where cells are too small."""
        if self.values.size > NUMBERED:
            return None
        return [[f"{value:.0f}" if value > 0.5 else "" for value in row] for row in self.values]


@dataclass(frozen=True)
class Axis:
    """Describe an axis.

    `span`: first and last value; by default from the marks. `unit`: of numbers that are written with a prefix such as k.
    `ticks`, {place: text}: the only ticks, without a grid. `whole`: only whole numbers have ticks. `bounds`: the smallest
    and the largest value that exist, where bands and bars end."""

    title: str = ""
    unit: str = ""
    span: tuple[float, float] | None = None
    log: bool = False
    ticks: dict[float, str] | None = None
    whole: bool = False
    bounds: tuple[float, float] = (-np.inf, np.inf)

    @property
    def words(self) -> str:
        """Return the text along the axis."""
        return f"{self.title} (logarithmic)" if self.log else self.title

    def spanning(self, starts: Sequence[float], ends: Sequence[float]) -> "Axis":
        """Return the axis with room for curves from `starts` to `ends`; logarithmic where the ends are too far apart."""
        if min(ends, default=0) <= 0 or max(ends) <= WIDE * min(ends):
            return replace(self, span=(0.0, 1.05 * max(ends, default=0) or 1.0))
        low = min(start for start in starts if start > 0)
        return replace(self, span=(0.6 * low, 1.7 * max(ends)), log=True)

    def around(self, values: Sequence[float], spread: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of bands or bars around values: `spread` to either side, within the bounds."""
        values, spread = np.asarray(values, dtype=float), np.asarray(spread, dtype=float)
        return np.clip(values - spread, *self.bounds), np.clip(values + spread, *self.bounds)

    def along(self, value: float, spread: float | None, **options) -> Line:
        """Return a level line along the whole axis, with so many points that the pointer is always near a point.

        `options` are arguments of Line."""
        x = (np.geomspace if self.log else np.linspace)(*self.span, 41)
        return Line(x, np.full(41, value), spread=None if spread is None else np.full(41, spread), level=True, **options)


@dataclass
class Panel:
    """Hold marks on two axes, the first at the back.

    `lacks`, {name: reason}: requested entries that are missing. `rows`: the number of text lines that fit the height."""

    marks: Sequence[Series | Heat]
    x: Axis = Axis()
    y: Axis = Axis()
    title: str = ""
    lacks: dict[str, str] = field(default_factory=dict)
    rows: int = 10

    @property
    def empty(self) -> bool:
        """Return whether the panel has only level lines."""
        return all(isinstance(mark, Line) and mark.level for mark in self.marks)


def key(label: str, style: Style) -> Points:
    """Return an entry of the legend without a visible point."""
    return Points([np.nan], [np.nan], style, label)
