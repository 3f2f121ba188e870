"""Figures of matplotlib, for a notebook or a file, and the panels of `marks` drawn into them."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np

import saves
from figures.marks import Axis, Heat, Line, Panel, Points
from figures.styles import BLUES

MARKERS = {"circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "triangle-down": "v", "cross": "P"}
MARKERS |= {"x": "X", "star": "*", "": ""}
PAGE = 12  # inches that a reader sees at once
FONTS = (  # with letters that matplotlib's own font does not have; those that are installed are used for these
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "Noto Sans JP", "Source Han Sans", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic", "Hiragino Sans", "PingFang SC", "Microsoft YaHei"),
    *("SimHei", "MS Gothic", "Malgun Gothic", "AppleGothic", "NanumGothic", "Noto Sans Arabic", "Noto Sans Devanagari"),
)
LETTERS = 20  # that no font has are told
TICKS = 26  # more names than this do not fit along an axis


def pyplot():
    """matplotlib's pyplot, for files alone: it opens no window, and is not imported before it is needed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    default = matplotlib.rcParamsDefault["font.sans-serif"]
    matplotlib.rcParams["font.family"] = [default[0], *(name for name in FONTS if name in there)]
    return plt


@contextmanager
def _telling_missing_letters() -> Iterator[None]:
    """Inside, letters that no font has, which are drawn as boxes, are told in one line and not in a warning each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing: dict[str, None] = {}
    for one in caught:
        if found := re.match(r"Glyph (\d+) .* missing from font", str(one.message)):
            missing[chr(int(found[1]))] = None
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if missing:
        letters = "".join(missing)
        shown = letters if len(missing) <= LETTERS else f"{letters[:LETTERS]}..."
        logging.getLogger("chorus").warning(
            "no font here has %s; a picture shows boxes; install one such as %s", shown, FONTS[0]
        )


def panels(rows: int, columns: int, width: float, height: float, **how):
    """A figure and its axes, an array [rows, columns], each `width` x `height` inches; `how` is for `pyplot.subplots`."""
    size = (width * columns, height * rows)
    return pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", dpi=110, **how)


def finished(figure, path: Path | None = None):
    """The figure, written to a PNG or PDF where there is a path (by its ending), and no longer held by pyplot. A name with $
    in it is no formula. Raises ValueError for an ending that is no picture's, OSError where the file is not to be
    written."""
    from matplotlib.text import Text

    along = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [label for axis in along for minor in (False, True) for label in axis.get_ticklabels(minor, "both")]
    for text in figure.findobj(Text):
        if not any(text is label for label in ticks):  # powers of ten are formulas, and names there are `_axis`'s
            text.set_parse_math(False)
    try:
        if path is not None:
            with _telling_missing_letters():
                saves.written(path, partial(figure.savefig, format=path.suffix.removeprefix(".") or "png"))
    finally:
        pyplot().close(figure)
    return figure


def figure(
    shown: Sequence[Panel],
    width: float,
    height: float,
    path: Path | None = None,
    columns: int | None = None,
    heading: str = "",
    legend: str | None = None,
    sharey: bool = False,
):
    """Panels of width x height inches as a figure, in rows of `columns` or of as many as fit a page, written to a PNG or PDF
    where there is a path. `heading` stands above them; below, where `legend` is a title for it, the labels of the marks."""
    columns = columns or max(1, min(len(shown), int(PAGE / width)))
    drawn, grid = panels(ceil(len(shown) / columns), columns, width, height, sharey=sharey)
    for spare in grid.flat[len(shown) :]:
        spare.remove()
    heats = []
    for i, (panel, axes) in enumerate(zip(shown, grid.flat, strict=False)):
        for mark in panel.marks:
            image = DRAW[type(mark)](axes, mark)
            heats += [(axes, image, mark)] if image else []
        _axis(axes.xaxis, panel.x, axes.set_xlim)
        _axis(axes.yaxis, panel.y, axes.set_ylim)
        # what stands there already, above, below or at the left, is not repeated
        above, below = shown[max(i - columns, 0)], shown[min(i + columns, len(shown) - 1)]
        axes.set_title("" if i >= columns and above.title == panel.title else panel.title, fontsize=10)
        axes.set_xlabel("" if i + columns < len(shown) and below.x.words == panel.x.words else panel.x.words)
        axes.set_ylabel("" if i % columns and shown[i - 1].y.words == panel.y.words else panel.y.words)
    if len(heats) > 1 and len({heat.top for _, _, heat in heats}) == 1:  # one bar of colours for all
        drawn.colorbar(heats[0][1], ax=[axes for axes, *_ in heats], label=heats[0][2].unit, shrink=0.6)
    else:
        for axes, image, heat in heats:
            drawn.colorbar(image, ax=axes, label=heat.unit)
    if heading:
        drawn.suptitle(heading, fontsize=10)
    if legend is not None:
        order = dict.fromkeys(mark.label for panel in shown for mark in panel.marks if mark.label)
        _legend(drawn, list(order), legend)
    return finished(drawn, path)


def _line(axes, line: Line) -> None:
    how = {"color": line.style.colour, "linestyle": (0, line.style.dash), "linewidth": line.width, "label": line.label}
    axes.plot(line.x, line.y, drawstyle="steps-post" if line.steps else "default", **how)
    if line.spread is not None:
        y, spread = np.asarray(line.y), np.asarray(line.spread)
        axes.fill_between(line.x, y - spread, y + spread, color=line.style.colour, alpha=0.18, linewidth=0)


def _points(axes, points: Points) -> None:
    how = {"color": points.style.colour, "marker": MARKERS[points.style.marker], "markersize": points.size}
    how |= {"label": points.label, "linestyle": "", "capsize": 3, "elinewidth": 1.2, "zorder": 3}
    if len(points.x):
        axes.errorbar(points.x, points.y, points.spread, points.across, **how)
    for x, y, name in zip(points.x, points.y, points.names, strict=False):
        how = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 8}
        axes.annotate(name, (x, y), (-points.size, 0), **how, bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5})


def _heat(axes, heat: Heat):
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("blues", BLUES)
    image = axes.imshow(heat.values, cmap=colours, aspect="auto", vmin=0, vmax=heat.top)
    axes.set_facecolor("#dddddd")  # where there is no number
    for (r, c), number in np.ndenumerate(heat.numbers or ()):
        colour = "white" if heat.values[r, c] > 0.6 * heat.top else "black"
        axes.text(c, r, number, ha="center", va="center", fontsize=8, color=colour)
    return image


DRAW = {Line: _line, Points: _points, Heat: _heat}


def _axis(axis, of: Axis, limit) -> None:
    """The scale, the ticks and the grid of an axis of matplotlib, with what sets its limits."""
    from matplotlib.ticker import EngFormatter

    name = axis.axis_name
    if of.log:
        axis.axes.set(**{f"{name}scale": "log"})
    if of.span:
        limit(*of.span)
    if of.ticks is not None:
        places = list(of.ticks)[:: ceil(len(of.ticks) / TICKS) or 1]
        slanted = name == "x" and max((len(of.ticks[place]) for place in places), default=0) > 3
        how = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axis.set_ticks(places, [of.ticks[place].replace("$", r"\$") for place in places], **how)
    elif of.unit:
        if not of.log:
            axis.get_major_locator().set_params(nbins=4)  # units are long
        axis.set_major_formatter(EngFormatter(of.unit))
    elif of.whole and not of.log:
        axis.get_major_locator().set_params(integer=True)
    if of.ticks is None:
        axis.grid(alpha=0.3)


def _legend(figure, labels: Sequence[str], title: str) -> None:
    """The labels below the figure, in rows of equal length as near as may be."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fitting = max(1, int(14 * figure.get_figwidth() / (max(map(len, labels)) + 7)))
    rows = ceil(len(labels) / fitting)
    figure.set_figheight(figure.get_figheight() + 0.4 + 0.2 * rows)
    how = {"loc": "outside lower center", "ncols": ceil(len(labels) / rows), "frameon": False, "fontsize": 9}
    figure.legend([handles[label] for label in labels], labels, title=title or None, **how)
