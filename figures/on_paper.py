"""Draw panels of `marks` as figures of matplotlib, for a notebook or a file."""

import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

import saves
from figures.marks import Axis, Heat, Line, Panel, Points
from figures.styles import BLUES, SHAPES


class Size(NamedTuple):
    """Describe the place of a figure: its width in inches, the font in points, and dots per inch of a PNG."""

    width: float
    font: float
    dpi: int


SCREEN = Size(12, 10, 110)  # the width limits the number of panels in a row; panels keep their own size
SIZES = {"column": Size(3.3, 8, 300), "page": Size(7, 8, 300)}  # in a paper with two columns of text
LEAST_WIDTH, LEAST_HEIGHT = 1.6, 1.3  # inches of a legible panel
LETTER = 0.6  # mean width of a letter, in font sizes
MANY = 1000  # letters: text that is this long is never broken
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


def panels(rows: int, columns: int, width: float, height: float, size: Size = SCREEN, **options):
    """Return a figure and its axes, an array [rows, columns], each `width` x `height` inches.

    `options` are arguments of `pyplot.subplots`."""
    options |= {"figsize": (width * columns, height * rows), "squeeze": False, "layout": "constrained", "dpi": size.dpi}
    plt = pyplot()
    with plt.rc_context({"font.size": size.font}):
        result, grid = plt.subplots(rows, columns, **options)
    for axes in grid.flat:
        axes.tick_params(which="both", labelsize=size.font)  # ticks are made when they are drawn
    return result, grid


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
    size: str | None = None,
):
    """Return panels of width x height inches as a figure, written to a PNG or PDF if there is a path.

    The panels are in rows of `columns` panels, by default as many as fit a page. `heading` is above the panels; with a
    `legend`, its title, the labels of the marks are below. `size`, one of SIZES, makes the figure as wide as a column or a
    page of a paper; where too many panels are in a row, the row continues below."""
    place = SIZES[size] if size else SCREEN
    columns = columns or max(1, min(len(shown), int(place.width / width * SCREEN.font / place.font)))
    rows, per_row = ceil(len(shown) / columns), columns
    if size:
        per_row = ceil(columns / ceil(columns / int(place.width / LEAST_WIDTH)))
        # the names of rows need the height that they have on the screen; other panels keep their shape
        least = height * place.font / SCREEN.font if any(panel.y.ticks for panel in shown) else LEAST_HEIGHT
        height, width = max(height * place.width / per_row / width, least), place.width / per_row
    lines = ceil(columns / per_row)
    positions = [(i // columns * lines + i % columns // per_row, i % columns % per_row) for i in range(len(shown))]
    result, grid = panels(rows * lines, per_row, width, height, place, sharey=sharey)
    for position in set(np.ndindex(grid.shape)) - set(positions):
        grid[position].remove()
    heats, by_position = [], dict(zip(positions, shown, strict=True))
    across = along = MANY  # letters that fit
    if size:
        across, along = (int(72 * inches / (LETTER * place.font)) for inches in (width - 0.3, height))
        names = [line for panel in shown for name in (panel.y.ticks or {}).values() for line in name.split("\n")]
        across = max(across - max(map(len, names), default=0), 12)
    for (row, column), panel in by_position.items():
        axes = grid[row, column]
        for mark in panel.marks:
            image = DRAW[type(mark)](axes, mark, panel, place.font)
            heats += [(axes, image, mark)] if image else []
        _axis(axes.xaxis, panel.x, axes.set_xlim)
        _axis(axes.yaxis, panel.y, axes.set_ylim)
        # do not repeat a title or label of the panel above, below or at the left
        above, left = (by_position.get(at) for at in ((row - 1, column), (row, column - 1)))
        below = next((other for (r, c), other in by_position.items() if c == column and r > row), None)
        is_titled = not above or above.title != panel.title
        axes.set_title(_wrap(panel.title, across) if is_titled else "", fontsize=place.font)
        axes.set_xlabel("" if below and below.x.words == panel.x.words else _wrap(panel.x.words, across))
        axes.set_ylabel("" if left and left.y.words == panel.y.words else _wrap(panel.y.words, along))
    if len(heats) > 1 and len({heat.top for _, _, heat in heats}) == 1:  # one colour bar for all maps
        bars = [(heats[0], {"ax": [axes for axes, *_ in heats], "shrink": 0.6})]
    else:
        bars = [(entry, {"ax": entry[0]}) for entry in heats]
    for (_, image, heat), options in bars:
        bar = result.colorbar(image, **options)
        bar.set_label(heat.unit, size=place.font)
        bar.ax.tick_params(labelsize=place.font)
    if heading:
        result.suptitle(_wrap(heading, across * per_row), fontsize=place.font)
    if legend is not None:
        order = dict.fromkeys(mark.label for panel in shown for mark in panel.marks if mark.label)
        _legend(result, list(order), legend, place.font)
    return finished(result, path)


def _wrap(words: str, width: int) -> str:
    """Return words in lines of at most `width` letters."""
    return "\n".join(textwrap.fill(line, width, break_long_words=False) for line in words.split("\n"))


def _marker(marker: str, colour: str, size: float) -> dict:
    """Return the options of matplotlib for a marker of a `marks.Style`."""
    shape = SHAPES.get(marker.removesuffix("-open"))
    corners = [*shape, shape[0]] if shape else ""
    face = "white" if marker.endswith("-open") else colour
    return {"marker": corners, "markersize": size, "markerfacecolor": face, "markeredgewidth": size / 8}


def _line(axes, line: Line, panel: Panel, font: float) -> None:
    scale, colour = font / SCREEN.font, line.style.colour
    options = {"color": colour, "linestyle": (0, line.style.dash), "linewidth": scale * line.width, "label": line.label}
    options |= _marker(line.style.marker, colour, 5.5 * scale)
    # a marker every quarter of the panel's diagonal, at other places on each line
    options["markevery"] = (0.25 * (0.5 + 0.382 * len(axes.lines)) % 0.25, 0.25)
    axes.plot(line.x, line.y, drawstyle="steps-post" if line.steps else "default", **options)
    if line.spread is not None:
        axes.fill_between(line.x, *panel.y.around(line.y, line.spread), color=colour, alpha=0.18, linewidth=0)


def _points(axes, points: Points, panel: Panel, font: float) -> None:
    scale, colour = font / SCREEN.font, points.style.colour
    options = _marker(points.style.marker, colour, scale * points.size)
    options |= {"color": colour, "label": points.label, "linestyle": "", "capsize": 3 * scale, "elinewidth": 1.2 * scale}
    if len(points.x):
        bars = [
            None if spread is None else np.abs(np.array(axis.around(values, spread)) - values)
            for axis, values, spread in ((panel.y, points.y, points.spread), (panel.x, points.x, points.across))
        ]
        axes.errorbar(points.x, points.y, *bars, zorder=3, **options)
    for x, y, name in zip(points.x, points.y, points.names, strict=False):
        options = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 0.8 * font}
        box = {"facecolor": "white", "linewidth": 0, "pad": 0.5}
        axes.annotate(name, (x, y), (-scale * points.size, 0), **options, bbox=box)


def _heat(axes, heat: Heat, panel: Panel, font: float):
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("blues", BLUES)
    image = axes.imshow(heat.values, cmap=colours, aspect="auto", vmin=0, vmax=heat.top)
    axes.set_facecolor("#dddddd")  # for cells without a value
    for (r, c), number in np.ndenumerate(heat.numbers or ()):
        colour = "white" if heat.values[r, c] > 0.6 * heat.top else "black"
        axes.text(c, r, number, ha="center", va="center", fontsize=0.8 * font, color=colour)
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


def _legend(figure, labels: Sequence[str], title: str, font: float) -> None:
    """Add the labels below the figure, in rows of nearly equal length."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    scale, width = font / SCREEN.font, figure.get_figwidth()
    n_fitting = max(1, int(14 * width / scale / (max(map(len, labels)) + 7)))
    rows, title = ceil(len(labels) / n_fitting), _wrap(title, int(72 * width / (LETTER * font)))
    figure.set_figheight(figure.get_figheight() + scale * (0.4 + 0.2 * rows + 0.15 * title.count("\n")))
    options = {"loc": "outside lower center", "ncols": ceil(len(labels) / rows), "frameon": False, "fontsize": 0.9 * font}
    options |= {"title_fontsize": font, "handlelength": 2.6, "markerscale": 0.9}
    legend = figure.legend([handles[label] for label in labels], labels, title=title or None, **options)
    legend.get_title().set_multialignment("center")
