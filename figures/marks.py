"""What a picture shows, as plain data: panels of lines, points and maps, drawn by `on_paper` and by `report.on_page`.

Nothing here knows how it is drawn. A colour is "#rrggbb", a size is in points; any text may have several lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

WIDE = 20  # curves whose ends are further apart than this factor are on a logarithmic axis
NUMBERED = 400  # more cells than this are too small for their numbers


class Style(NamedTuple):
    """How lines and points look. `dash`: lengths on and off in widths of the line, () for a solid one. `marker`: a word of
    `on_paper.MARKERS`, "" for none."""

    colour: str
    dash: tuple[float, ...] = ()
    marker: str = "circle"


@dataclass(frozen=True)
class Series:
    """Places x and y, float [P]; `spread`, float [P], is above and below. Equal labels are one entry of the legend, "" is
    none. `hover`: what the pointer is told, of each place or of all; by default the label, y with its spread, and x."""

    x: Sequence[float]
    y: Sequence[float]
    style: Style
    label: str = ""
    spread: Sequence[float] | None = None
    hover: str | Sequence[str] = ""


@dataclass(frozen=True)
class Line(Series):
    """Joined, `spread` as a band; with `steps` y stays up to the next x. `level`: y is the same all along the axis."""

    steps: bool = False
    level: bool = False
    width: float = 1.8


@dataclass(frozen=True)
class Points(Series):
    """Not joined, `spread` as bars, `across` as bars to the left and right; `names` stand at the left of each."""

    across: Sequence[float] | None = None
    names: Sequence[str] = ()
    size: float = 6


@dataclass(frozen=True)
class Heat:
    """A map of values, float [R, C], NaN where there is none, from 0 in the lightest colour to `top` in the darkest; `unit`
    is what they are; `counts`, int [R, C]: of how many examples. Rows and columns are the `ticks` of the axes."""

    values: np.ndarray
    top: float
    unit: str
    counts: np.ndarray | None = None

    @property
    def numbers(self) -> list[list[str]] | None:
        """What is written into each cell, nothing for NaN and 0; None where cells are too small."""
        if self.values.size > NUMBERED:
            return None
        return [[f"{value:.0f}" if value > 0.5 else "" for value in row] for row in self.values]


@dataclass(frozen=True)
class Axis:
    """An axis from the first to the second of `span`, or about its marks. `unit`: of numbers that are written with a prefix
    such as k. `ticks`, {place: text}: the only ones, and no grid. `whole`: what is between whole numbers has no tick."""

    title: str = ""
    unit: str = ""
    span: tuple[float, float] | None = None
    log: bool = False
    ticks: dict[float, str] | None = None
    whole: bool = False

    @property
    def words(self) -> str:
        """What stands along it."""
        return f"{self.title} (logarithmic)" if self.log else self.title

    def spanning(self, starts: Sequence[float], ends: Sequence[float]) -> "Axis":
        """The axis with room for curves from `starts` to `ends`, logarithmic where the ends are too far apart."""
        if min(ends, default=0) <= 0 or max(ends) <= WIDE * min(ends):
            return replace(self, span=(0.0, 1.05 * max(ends, default=0) or 1.0))
        low = min(start for start in starts if start > 0)
        return replace(self, span=(0.6 * low, 1.7 * max(ends)), log=True)

    def along(self, value: float, spread: float | None, **how) -> Line:
        """A level line all along the axis, so many points that one of them is always near the pointer; `how` is of Line."""
        x = (np.geomspace if self.log else np.linspace)(*self.span, 41)
        return Line(x, np.full(41, value), spread=None if spread is None else np.full(41, spread), level=True, **how)


@dataclass
class Panel:
    """Marks on two axes, the first at the back. `lacks`, {name: why}: what was asked for and is not there. `rows`: lines of
    text for which its height has room."""

    marks: Sequence[Series | Heat]
    x: Axis = Axis()
    y: Axis = Axis()
    title: str = ""
    lacks: dict[str, str] = field(default_factory=dict)
    rows: int = 10

    @property
    def empty(self) -> bool:
        """Whether there is nothing on it but what is level."""
        return all(isinstance(mark, Line) and mark.level for mark in self.marks)


def key(label: str, style: Style) -> Points:
    """An entry of the legend that is no point."""
    return Points([np.nan], [np.nan], style, label)
