"""Draw panels of `marks` as figures of matplotlib, for a notebook or a file."""

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
PAGE = 12  # width of a page in inches
FONTS = (  # for letters that matplotlib's own font lacks; the installed ones are used
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "Noto Sans JP", "Source Han Sans", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic", "Hiragino Sans", "PingFang SC", "Microsoft YaHei"),
    *("SimHei", "MS Gothic", "Malgun Gothic", "AppleGothic", "NanumGothic", "Noto Sans Arabic", "Noto Sans Devanagari"),
)
LETTERS = 20  # maximum number of missing letters in the warning
TICKS = 26  # maximum number of names along an axis


def pyplot():
    """Return matplotlib's pyplot, for files alone: it opens no window, and is imported only when needed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    default = matplotlib.rcParamsDefault["font.sans-serif"]
    matplotlib.rcParams["font.family"] = [default[0], *(name for name in FONTS if name in installed)]
    return plt


@contextmanager
def _report_missing_letters() -> Iterator[None]:
    """Report letters that no font has, which are drawn as boxes, in one line instead of a warning each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing: dict[str, None] = {}
    for warning in caught:
        if match := re.match(r"Glyph (\d+) .* missing from font", str(warning.message)):
            missing[chr(int(match[1]))] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        letters = "".join(missing)
        sample = letters if len(missing) <= LETTERS else f"{letters[:LETTERS]}..."
        logging.getLogger("chorus").warning(
            "no installed font has %s; pictures show boxes instead; install a font such as %s", sample, FONTS[0]
        )


def panels(rows: int, columns: int, width: float, height: float, **options):
    """Return a figure and its axes, an array [rows, columns], each `width` x `height` inches.

    `options` are arguments of `pyplot.subplots`."""
    size = (width * columns, height * rows)
    return pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", dpi=110, **options)


def finished(figure, path: Path | None = None):
    """Return the figure, closed in pyplot, and write it to a PNG or PDF (by its ending) if there is a path.

    Texts with $ are not formulas. Raises ValueError for an ending that is not a picture's, OSError where the file cannot be
    written."""
    from matplotlib.text import Text

    axes_of_figure = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [label for axis in axes_of_figure for minor in (False, True) for label in axis.get_ticklabels(minor, "both")]
    for text in figure.findobj(Text):
        if not any(text is label for label in ticks):  # powers of ten are formulas; `_axis` escapes names of ticks
            text.set_parse_math(False)
    try:
        if path is not None:
            with _report_missing_letters():
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
    """Return panels of width x height inches as a figure, written to a PNG or PDF if there is a path.

    The panels are in rows of `columns` panels, by default as many as fit a page. `heading` is above the panels; with a
    `legend`, its title, the labels of the marks are below."""
    columns = columns or max(1, min(len(shown), int(PAGE / width)))
    result, grid = panels(ceil(len(shown) / columns), columns, width, height, sharey=sharey)
    for spare in grid.flat[len(shown) :]:
        spare.remove()
    heats = []
    for i, (panel, axes) in enumerate(zip(shown, grid.flat, strict=False)):
        for mark in panel.marks:
            image = DRAW[type(mark)](axes, mark)
            heats += [(axes, image, mark)] if image else []
        _axis(axes.xaxis, panel.x, axes.set_xlim)
        _axis(axes.yaxis, panel.y, axes.set_ylim)
        # do not repeat a title or label of the panel above, below or at the left
        above, below = shown[max(i - columns, 0)], shown[min(i + columns, len(shown) - 1)]
        axes.set_title("" if i >= columns and above.title == panel.title else panel.title, fontsize=10)
        axes.set_xlabel("" if i + columns < len(shown) and below.x.words == panel.x.words else panel.x.words)
        axes.set_ylabel("" if i % columns and shown[i - 1].y.words == panel.y.words else panel.y.words)
    if len(heats) > 1 and len({heat.top for _, _, heat in heats}) == 1:  # one colour bar for all maps
        result.colorbar(heats[0][1], ax=[axes for axes, *_ in heats], label=heats[0][2].unit, shrink=0.6)
    else:
        for axes, image, heat in heats:
            result.colorbar(image, ax=axes, label=heat.unit)
    if heading:
        result.suptitle(heading, fontsize=10)
    if legend is not None:
        order = dict.fromkeys(mark.label for panel in shown for mark in panel.marks if mark.label)
        _legend(result, list(order), legend)
    return finished(result, path)


def _line(axes, line: Line) -> None:
    options = {"color": line.style.colour, "linestyle": (0, line.style.dash), "linewidth": line.width, "label": line.label}
    axes.plot(line.x, line.y, drawstyle="steps-post" if line.steps else "default", **options)
    if line.spread is not None:
        y, spread = np.asarray(line.y), np.asarray(line.spread)
        axes.fill_between(line.x, y - spread, y + spread, color=line.style.colour, alpha=0.18, linewidth=0)


def _points(axes, points: Points) -> None:
    options = {"color": points.style.colour, "marker": MARKERS[points.style.marker], "markersize": points.size}
    options |= {"label": points.label, "linestyle": "", "capsize": 3, "elinewidth": 1.2, "zorder": 3}
    if len(points.x):
        axes.errorbar(points.x, points.y, points.spread, points.across, **options)
    for x, y, name in zip(points.x, points.y, points.names, strict=False):
        options = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 8}
        axes.annotate(name, (x, y), (-points.size, 0), **options, bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5})


def _heat(axes, heat: Heat):
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("blues", BLUES)
    image = axes.imshow(heat.values, cmap=colours, aspect="auto", vmin=0, vmax=heat.top)
    axes.set_facecolor("#dddddd")  # for cells without a value
    for (r, c), number in np.ndenumerate(heat.numbers or ()):
        colour = "white" if heat.values[r, c] > 0.6 * heat.top else "black"
        axes.text(c, r, number, ha="center", va="center", fontsize=8, color=colour)
    return image


DRAW = {Line: _line, Points: _points, Heat: _heat}


def _axis(axis, settings: Axis, set_limits) -> None:
    """Set the scale, the ticks and the grid of an axis of matplotlib; `set_limits` sets its limits."""
    from matplotlib.ticker import EngFormatter

    name = axis.axis_name
    if settings.log:
        axis.axes.set(**{f"{name}scale": "log"})
    if settings.span:
        set_limits(*settings.span)
    if settings.ticks is not None:
        places = list(settings.ticks)[:: ceil(len(settings.ticks) / TICKS) or 1]
        is_slanted = name == "x" and max((len(settings.ticks[place]) for place in places), default=0) > 3
        text_options = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_slanted else {}
        axis.set_ticks(places, [settings.ticks[place].replace("$", r"\$") for place in places], **text_options)
    elif settings.unit:
        if not settings.log:
            axis.get_major_locator().set_params(nbins=4)  # ticks with units are long
        axis.set_major_formatter(EngFormatter(settings.unit))
    elif settings.whole and not settings.log:
        axis.get_major_locator().set_params(integer=True)
    if settings.ticks is None:
        axis.grid(alpha=0.3)


def _legend(figure, labels: Sequence[str], title: str) -> None:
    """Add the labels below the figure, in rows of nearly equal length."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    n_fitting = max(1, int(14 * figure.get_figwidth() / (max(map(len, labels)) + 7)))
    rows = ceil(len(labels) / n_fitting)
    figure.set_figheight(figure.get_figheight() + 0.4 + 0.2 * rows)
    options = {"loc": "outside lower center", "ncols": ceil(len(labels) / rows), "frameon": False, "fontsize": 9}
    figure.legend([handles[label] for label in labels], labels, title=title or None, **options)
