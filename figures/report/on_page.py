"""Convert panels of `marks` to the traces and the layout of plotly.js.

Numbers are plain lists, so that a page can be read back. Every text is escaped: plotly reads a little HTML in texts."""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from figures.marks import Axis, Heat, Line, Panel, Points, Series, Style
from figures.styles import BLUES

Trace = dict[str, Any]
PX = 1.6  # pixels per point, for markers and dashes
MARKED = 9  # maximum number of markers on a line


def spec(panel: Panel) -> dict[str, Any]:
    """Return {"data", "layout"} of a panel."""
    data = [_area(mark, panel.y) for mark in panel.marks if isinstance(mark, Line) and mark.spread is not None]
    labels: set[str] = set()
    for mark in panel.marks:
        if isinstance(mark, Heat):
            data.append(_heat(mark, panel))
        else:
            data.append(_series(mark, panel.x) | (_line(mark) if isinstance(mark, Line) else _points(mark, panel)))
            data[-1]["showlegend"] = bool(mark.label) and mark.label not in labels
            labels.add(mark.label)
    has_heat = any(isinstance(mark, Heat) for mark in panel.marks)
    layout = {
        "title": {"text": text(panel.title, 140), "font": {"size": 13}, "x": 0, "xref": "paper", "y": 1, "pad": {"t": 8}},
        "xaxis": _axis(panel.x, has_heat),
        "yaxis": _axis(panel.y, has_heat) | ({"autorange": "reversed"} if has_heat else {}),
        "height": 130 + 32 * max(panel.rows, 5),
        "margin": {"l": 64, "r": 16, "t": 40, "b": 56},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#9ca3af", "activecolor": "#1f2937"},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1f2937"},
        "legend": {"font": {"size": 13}, "tracegroupgap": 0},
        "showlegend": bool(labels - {""}),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "uirevision": "kept",  # entries hidden in the legend stay hidden when the axis changes
    }
    return {"data": data, "layout": layout}


def text(message: str, width: int = 40) -> str:
    """Return a text for plotly: escaped, in lines of at most `width` characters; the default fits a legend."""
    return "<br>".join(escape(part) for line in message.split("\n") for part in textwrap.wrap(line, width))


def _series(mark: Series, x: Axis) -> Trace:
    """Return the part that lines and points share: coordinates, the legend, and the hover text."""
    name = text(mark.label)
    trace = {"type": "scatter", "x": _plain(mark.x), "y": _plain(mark.y), "name": name, "legendgroup": name}
    if len(mark.hover):
        hovertext = _hover_text(mark.hover) if isinstance(mark.hover, str) else [_hover_text(words) for words in mark.hover]
        return trace | {"hovertext": hovertext, "hoverinfo": "text"}
    if not mark.label:
        return trace | {"hoverinfo": "skip"}
    spread = "" if mark.spread is None else " ± %{customdata:.1f}"
    spent = f"%{{x:.3s}}{x.unit}" if x.unit else f"%{{x:.4~r}} {text(x.title, 90)}"
    trace["hovertemplate"] = f"<b>{name}</b><br>%{{y:.1f}} %{spread}<br>after {spent}<extra></extra>"
    return trace if mark.spread is None else trace | {"customdata": _plain(mark.spread)}


def _hover_text(words: str) -> str:
    first, *others = text(words).split("<br>")
    return "<br>".join([f"<b>{first}</b>", *others])


def _line(line: Line) -> Trace:
    dash = ",".join(f"{PX * length:.2g}px" for length in line.style.dash) or "solid"
    look = {"color": line.style.colour, "dash": dash, "width": 1.1 * line.width}
    trace = {"mode": "lines", "line": look | ({"shape": "hv"} if line.steps else {})}
    if line.style.marker:
        trace |= {"mode": "lines+markers", "marker": _marker(line.style, 5) | {"maxdisplayed": MARKED}}
    return trace


def _marker(style: Style, size: float) -> Trace:
    return {"color": style.colour, "symbol": style.marker or "circle", "size": round(PX * size)}


def _area(line: Line, y: Axis) -> Trace:
    """Return the band of a line, which is drawn behind all lines."""
    (low, high), rgb = y.around(line.y, line.spread), bytes.fromhex(line.style.colour[1:])
    area = {"type": "scatter", "name": text(line.label), "legendgroup": text(line.label), "showlegend": False}
    area |= {"x": _plain([*line.x, *line.x[::-1]]), "y": _plain([*high, *low[::-1]])}
    return area | {"mode": "none", "fill": "toself", "fillcolor": f"rgba{(*rgb, 0.15)}", "hoverinfo": "skip"}


def _points(points: Points, panel: Panel) -> Trace:
    colour, marker = points.style.colour, points.style.marker
    trace: Trace = {"mode": "+".join(["markers"] * bool(marker) + ["text"] * bool(len(points.names)))}
    trace["marker"] = _marker(points.style, points.size)
    if len(points.names):
        trace |= {
            "text": [f"{text(name)}\u2002" for name in points.names],
            "textposition": "middle left",
            "textfont": {"size": 11},
        }
    for name, axis, values, spread in (
        ("error_y", panel.y, points.y, points.spread),
        ("error_x", panel.x, points.x, points.across),
    ):
        if spread is not None:
            below, above = (_plain(np.abs(end - np.asarray(values))) for end in axis.around(values, spread))
            trace[name] = {"type": "data", "array": above, "arrayminus": below, "symmetric": False}
            trace[name] |= {"color": colour, "thickness": 1.2, "width": 3}
    return trace


def _heat(heat: Heat, panel: Panel) -> Trace:
    columns, rows = ([text(tick) for tick in axis.ticks.values()] for axis in (panel.x, panel.y))
    trace = {"type": "heatmap", "x": columns, "y": rows, "z": [_plain(row, 4) for row in heat.values], "zmin": 0}
    trace |= {"zmax": float(heat.top), "colorscale": [list(stop) for stop in BLUES], "xgap": 1, "ygap": 1}
    trace["colorbar"] = {
        "title": {"text": heat.unit, "side": "right", "font": {"size": 13}},
        "thickness": 14,
        "outlinewidth": 0,
    }
    if heat.numbers:
        trace |= {"text": heat.numbers, "texttemplate": "%{text}"}
    counts = "" if heat.counts is None else "<br>%{customdata:,} examples"
    trace |= {} if heat.counts is None else {"customdata": heat.counts.tolist()}
    hovertemplate = f"{panel.y.title} %{{y}}<br>{panel.x.title} %{{x}}<br>%{{z:.4~r}} {heat.unit}{counts}<extra></extra>"
    return trace | {"hovertemplate": hovertemplate, "hoverongaps": False}


def _axis(axis: Axis, is_named: bool) -> dict[str, Any]:
    """Return an axis; `is_named`: the ticks are the rows or columns of a heat map."""
    grid = {"gridcolor": "#e5e7eb", "linecolor": "#9ca3af", "ticks": "outside", "tickcolor": "#9ca3af", "zeroline": False}
    settings = grid | {"title": {"text": text(axis.words, 90), "standoff": 12, "font": {"size": 13}}, "automargin": True}
    settings["uirevision"] = axis.title
    if axis.span:
        settings["range"] = [float(np.log10(end)) if axis.log else float(end) for end in axis.span]
    if axis.log:
        settings |= {"type": "log", "dtick": 1}
    elif axis.whole and axis.span and axis.span[1] < 8:
        settings["dtick"] = 1
    if axis.unit:
        settings |= {"tickformat": "~s", "ticksuffix": axis.unit}
    if is_named:
        settings["type"] = "category"
    elif axis.ticks is not None:
        words = [text(words) for words in axis.ticks.values()]
        settings |= {"tickvals": list(axis.ticks), "ticktext": words, "showgrid": False}
    return settings


def _plain(values: Sequence[float], digits: int = 7) -> list[float | None]:
    """Return numbers with no more digits than a screen shows; None for NaN."""
    return [None if np.isnan(value) else float(f"{value:.{digits}g}") for value in values]
