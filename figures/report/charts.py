"""The figures of a report: for each, what a reader may choose, and for every choice the traces and the layout of plotly.js.

Numbers are plain lists, so that a page can be read back. Every text is escaped: plotly reads a little HTML in names.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from errors import UserError
from figures import targets
from figures.bands import Band, band
from figures.curves import flat
from figures.curves import styles as styles_of
from figures.groups import COLUMNS, REFERENCES, Group, by_client, name_of
from figures.pareto import front
from figures.representations import colours_of, embedded, rounds_shown
from figures.representations import features as features_of

LINE = 2  # px
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}  # plotly's words for those of the pictures
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
OF_REFERENCES = {"independent": "x", "centralized": "star"}
QUANTITIES = {  # of the x axis: what a reader chooses, the axis, its ticks, and how the hover text has a value
    "rounds": ("rounds", "communication rounds", {}, "%{x:.0f} rounds"),
    "bytes": ("bytes", "bytes moved by all clients in all directions", {"tickformat": "~s", "ticksuffix": "B"}, "%{x:.3s}B"),
    "flops": ("FLOPs", "floating-point operations of all clients and the server", {"tickformat": "~s"}, "%{x:.3s} FLOPs"),
    "seconds": ("seconds", "seconds, those of evaluations left out", {}, "%{x:.1f} s"),
}
ACCURACIES = {  # what a reader chooses, and the axis
    "global": ("global: whole test set", "accuracy on the whole test set (%)"),
    "personal": ("personal: own distribution", "accuracy on the clients' own distributions (%)"),
}
BLUES = [[0, "#f7fbff"], [0.5, "#b3cfe6"], [1, "#1f67ab"]]  # light for few: numbers in the cells stay legible, in print too
WIDE = 20  # totals further apart than this factor are shown on a logarithmic axis
NUMBERED = 400  # more cells than this are too small for their numbers
NAMED = 12  # more clients than this are too many for a line of text each below the axis
MANY = 24  # more clients than this cannot be told apart side by side


class Style(NamedTuple):
    """How a group is drawn in every figure: a colour, a dash pattern for its lines and a symbol for its points."""

    colour: str
    dash: str
    symbol: str

    def faint(self, opacity: float) -> str:
        """The colour with an opacity, for an area."""
        return "rgba({},{},{},{})".format(*(int(self.colour[i : i + 2], 16) for i in (1, 3, 5)), opacity)


class Scale(NamedTuple):
    """What the x axis shows, in the unit of its quantity: from `low` to `high`, logarithmic or not."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, starts: Sequence[float], ends: Sequence[float]) -> "Scale":
        """Room for curves from `starts` (above 0) to `ends`; logarithmic where the ends are too far apart for one line."""
        log = min(ends) > 0 and max(ends) > WIDE * min(ends)
        return cls(0.6 * min(starts), 1.7 * max(ends), True) if log else cls(0.0, 1.05 * max(ends) or 1.0, False)

    def along(self) -> np.ndarray:
        """Points of a level line, so many that one of them is always near the pointer: float [41]."""
        return np.geomspace(self.low, self.high, 41) if self.log else np.linspace(self.low, self.high, 41)

    def axis(self, quantity: str) -> dict[str, Any]:
        """The axis, of one of QUANTITIES."""
        _, title, ticks, _ = QUANTITIES[quantity]
        if not self.log:
            return _axis(title, **ticks, range=[self.low, self.high], uirevision=quantity)
        powers = [float(np.log10(end)) for end in (self.low, self.high)]
        return _axis(f"{title} (logarithmic)", **ticks, type="log", dtick=1, range=powers, uirevision=quantity)


@dataclass
class Chart:
    """A figure: `choices`, a {value: label} for each thing to choose; `specs`, {"data", "layout"} by the chosen values
    joined with "/"; without any, `absent` says why."""

    id: str
    title: str
    words: str
    absent: str
    choices: dict[str, dict[str, str]] = field(default_factory=dict)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)


def styles(found: Sequence[Group]) -> list[Style]:
    """One for each group, as `curves.styles` has it for the pictures."""

    def dash(pattern: Any) -> str:
        return DASHES[pattern] if isinstance(pattern, str) else ",".join(f"{LINE * n}px" for n in pattern[1])

    return [
        Style(style.colour, dash(style.dashes), OF_REFERENCES.get(group.algorithm) or SYMBOLS[style.marker])
        for group, style in zip(found, styles_of(found), strict=True)
    ]


def _styled(found: Sequence[Group]) -> list[tuple[Group, Style]]:
    return list(zip(found, styles(found), strict=True))


def charts(found: Sequence[Group]) -> list[Chart]:
    """All figures of groups of runs on one data set and rule of the split, in the order of a reader's questions."""
    return [curves(found), pareto(found), clients(found), split(found), confusion(found), representations(found)]


def curves(found: Sequence[Group]) -> Chart:
    """Accuracy against what was spent."""
    chart = Chart(
        "curves",
        "Learning curves",
        "Lines are means over seeds, bands one standard deviation over seeds to either side. Against bytes, a reference "
        f"({' or '.join(REFERENCES)}), or what sends nothing, is a level line at its accuracy after the last round. A click "
        "on a name in the legend hides its line.",
        "No run has a learning curve.",
    )
    missing: dict[str, dict[str, None]] = {}
    for quantity, accuracy in product(QUANTITIES, _accuracies(found)):
        bands = [(group, style, band(group.runs, quantity, COLUMNS[accuracy])) for group, style in _styled(found)]
        level = [(group, style) for group, style, _ in bands if flat(group, quantity)]
        moving = [(group, style, told) for group, style, told in bands if (group, style) not in level]
        shown = [(group, style, told) for group, style, told in moving if told is not None and len(told.x)]
        for group in (group for group, _, told in moving if told is None or not len(told.x)):
            missing.setdefault(QUANTITIES[quantity][0], {})[name_of(group, found)] = None
        if shown:
            chart.specs[f"{quantity}/{accuracy}"] = _curves(shown, level, found, quantity, accuracy)
    chart.choices = _offered(chart, {"against": QUANTITIES, "accuracy": ACCURACIES})
    for quantity, names in missing.items():
        chart.words += f" Not against {quantity}, not in the histories or never alike in all seeds: {', '.join(names)}."
    return chart


def pareto(found: Sequence[Group]) -> Chart:
    """Accuracy after the last round against the price of the whole run."""
    chart = Chart(
        "price",
        "What accuracy costs",
        "After the last round, against the total of the whole run: up and to the left is better. Points are means over "
        "seeds, error bars one standard deviation over seeds. The grey steps join the methods that no other beats at their "
        f"price or below. A reference ({' or '.join(REFERENCES)}) is a level line, whatever it costs.",
        f"There is no method to compare, only {' and '.join(REFERENCES)}.",
    )
    for quantity, accuracy in product(("bytes", "flops", "seconds"), _accuracies(found)):
        priced = [(group, style, total(group, quantity)) for group, style in _styled(found)]
        if any(total is not None and group.algorithm not in REFERENCES for group, _, total in priced):
            chart.specs[f"{quantity}/{accuracy}"] = _pareto(priced, found, quantity, accuracy)
    chart.choices = _offered(chart, {"price": QUANTITIES, "accuracy": ACCURACIES})
    return chart


def clients(found: Sequence[Group]) -> Chart:
    """Personal accuracy of every client after the last round, on each split."""
    chart = Chart(
        "clients",
        "Each client",
        "Accuracy on the client's own distribution after the last round: mean over the seeds on this split, with one "
        "standard deviation over them.",
        "No run has accuracies by client after its last round.",
    )
    if found[0].options["n_clients"] > MANY:
        chart.words += " Each method has its clients in its own order, from the worst to the best: the pointer tells which."
    elif any(group.algorithm == "independent" for group in found):
        chart.words += " A method below the black cross of independent serves that client worse than learning alone."
    for seed, groups in _by_split(found).items():
        if "personal" in _accuracies(groups):
            chart.specs[str(seed)] = _clients(groups, found)
    chart.choices = {"split seed": {seed: seed for seed in chart.specs}}
    return chart


def split(found: Sequence[Group]) -> Chart:
    """How many training examples of each class every client has."""
    chart = Chart(
        "split",
        "Who has what",
        "Training examples by client and class.",
        "No run's folder has its split (split.npz).",
    )
    for seed, groups in _by_split(found).items():
        saved = next((saved for group in groups for run in group.runs if (saved := run.arrays("split"))), None)
        if saved:
            chart.specs[str(seed)] = _split(saved["table"], _words(saved["classes"]))
    chart.choices = {"split seed": {seed: seed for seed in chart.specs}}
    return chart


def confusion(found: Sequence[Group]) -> Chart:
    """Which class is taken for which, after the last round."""
    chart = Chart(
        "confusion",
        "Confusion matrices",
        "After the last round: of the examples of a true class (row) the share predicted as each class (column), in %. "
        "Examples are counted over all models and all seeds of the method.",
        "No run's folder has confusion matrices (confusion.npz).",
    )
    names, examples = {}, {"test": "whole test set", "own": "clients' own distributions"}
    for number, group in enumerate(found):
        saved = [arrays for run in group.runs if (arrays := run.arrays("confusion"))]
        if saved:
            names[str(number)] = name_of(group, found)
            for which in examples:
                counts = np.sum([arrays[which].sum(0) for arrays in saved], axis=0)
                chart.specs[f"{number}/{which}"] = _confusion(counts, _words(saved[0]["classes"]))
    chart.choices = {"method": names, "examples": examples}
    return chart


def representations(found: Sequence[Group]) -> Chart:
    """Where each client's own examples lie in its model's feature space, round by round."""
    chart = Chart(
        "representations",
        "Representations",
        "A point is a training example in the feature space of its client's model, on the first two principal components of "
        "the method's last round, so that movement over rounds is seen: its colour is the class, its symbol the client, "
        "whom the pointer names. Of the first seed of each method. A click on a class hides it.",
        "No run kept features (features.npz): --track_features N keeps those of N examples of each client.",
    )
    kept, lacking = {}, []
    for number, group in enumerate(found):
        try:
            kept[number] = features_of(group.runs[0])
        except UserError as error:  # none were kept, or they have no common axes
            lacking.append(str(error).partition(": ")[2])
    try:
        rounds = rounds_shown([there for there, *_ in kept.values()]) if kept else []
    except UserError as error:  # of no round in common
        rounds, lacking = [], [str(error)]
    if any((group.runs[0].folder / "features.npz").exists() for group in found):
        why = f" Not of all: {'; '.join(dict.fromkeys(lacking))}." if lacking else ""
        chart.words, chart.absent = chart.words + why, f"No representations.{why}"
    for number, (there, values, classes, whose) in kept.items() if rounds else ():
        names = _words(found[number].runs[0].arrays("features")["classes"])
        points = embedded(values[[*(there.index(r) for r in rounds), -1]])[:-1]
        for r, of_round in zip(rounds, points, strict=True):
            chart.specs[f"{number}/{r}"] = _representations(of_round, points, classes, whose, names)
    methods = {str(number): name_of(found[number], found) for number in kept}
    if chart.specs:
        chart.choices = {"method": methods, "round": {str(r): str(r) for r in reversed(rounds)}}
    return chart


# --- traces and layouts ------------------------------------------------------------------------------------------------


def _curves(
    moving: Sequence[tuple[Group, Style, Band]],
    level: Sequence[tuple[Group, Style]],
    found: Sequence[Group],
    quantity: str,
    accuracy: str,
) -> dict[str, Any]:
    spent = f"after {QUANTITIES[quantity][-1]}"
    scale = Scale.of([told.x[told.x > 0][0] for _, _, told in moving if told.x[-1] > 0], [t.x[-1] for _, _, t in moving])
    bands = [(group, style, told, spent) for group, style, told in moving]
    bands += [(group, style, _level(group, accuracy, scale), "after the last round") for group, style in level]
    areas = [_area(_name(group, found), style, told) for group, style, told, _ in bands if told.n > 1]
    lines = [_line(_name(group, found), style, told, words) for group, style, told, words in bands]
    return {"data": areas + lines, "layout": _layout(scale.axis(quantity), _axis(ACCURACIES[accuracy][1]))}


def _line(name: str, style: Style, told: Band, spent: str) -> dict[str, Any]:
    line = {"type": "scatter", "name": name, "legendgroup": name, "mode": "lines" if len(told.x) > 1 else "markers"}
    line |= {"x": _plain(told.x), "y": _plain(100 * told.mean), "customdata": _plain(100 * (told.high - told.mean))}
    line |= {"line": {"color": style.colour, "dash": style.dash, "width": LINE}}
    line |= {"marker": {"color": style.colour, "symbol": style.symbol, "size": 8}}
    return line | {"hovertemplate": _hover(name, spent, told.n)}


def _area(name: str, style: Style, told: Band) -> dict[str, Any]:
    area = {"type": "scatter", "name": name, "legendgroup": name, "showlegend": False, "mode": "none", "fill": "toself"}
    area |= {"x": _plain([*told.x, *told.x[::-1]]), "y": _plain(100 * np.array([*told.high, *told.low[::-1]]))}
    return area | {"fillcolor": style.faint(0.15), "hoverinfo": "skip"}


def _pareto(
    priced: Sequence[tuple[Group, Style, float | None]], found: Sequence[Group], quantity: str, accuracy: str
) -> dict[str, Any]:
    spent = QUANTITIES[quantity][-1]
    points = [
        (x, 100 * group.mean(COLUMNS[accuracy]), group, style)
        for group, style, x in priced
        if x is not None and group.algorithm not in REFERENCES
    ]
    scale = Scale.of([x for x, *_ in points], [x for x, *_ in points])
    data, places = [], [(x, y) for x, y, *_ in points]
    unbeaten = sorted(place for place, on_it in zip(places, front(places), strict=True) if on_it)
    unbeaten.append((scale.high, unbeaten[-1][1]))
    steps = {
        "type": "scatter",
        "mode": "lines",
        "x": _plain([x for x, _ in unbeaten]),
        "y": _plain([y for _, y in unbeaten]),
    }
    steps |= {"line": {"shape": "hv", "color": "#c3c8d0", "width": 6}, "name": "unbeaten at its price", "hoverinfo": "skip"}
    steps["legendrank"] = 2000
    data.append(steps)
    for group, style, _ in priced:
        if group.algorithm in REFERENCES:
            line = _line(_name(group, found), style, _level(group, accuracy, scale), "after the last round")
            data.append(line | {"legendrank": 1500})
    for x, y, group, style in points:
        deviation, name = 100 * _deviation(group.values(COLUMNS[accuracy])), _name(group, found)
        point = {"type": "scatter", "mode": "markers", "x": _plain([x]), "y": _plain([y]), "customdata": _plain([deviation])}
        point |= {"name": name, "marker": {"color": style.colour, "symbol": style.symbol, "size": 12}}
        point |= {"error_y": _bars([deviation], style), "hovertemplate": _hover(name, f"for {spent}", len(group.runs))}
        data.append(point)
    return {"data": data, "layout": _layout(scale.axis(quantity), _axis(ACCURACIES[accuracy][1]))}


def _clients(groups: Sequence[Group], found: Sequence[Group]) -> dict[str, Any]:
    import pandas as pd

    style_of = {_name(group, found): style for group, style in _styled(found)}
    saved = next((saved for group in groups for run in group.runs if (saved := run.arrays("split"))), None)
    sizes = saved["table"].sum(1) if saved else None
    data, n_clients = [], groups[0].options["n_clients"]
    for place, group in enumerate(groups):
        frame = 100 * pd.DataFrame([by_client(run, "last") for run in group.runs])  # a row a seed, a column a client
        name, mean = _name(group, found), frame.mean()
        if n_clients > MANY:
            mean, mode = mean.sort_values(kind="stable"), "lines"
            x = np.arange(1, len(mean) + 1)
        else:
            x, mode = mean.index + 0.7 * ((place + 0.5) / len(groups) - 0.5), "markers"
        deviation = frame.std().fillna(0)[mean.index]
        style = style_of[name]
        dots = {"type": "scatter", "mode": mode, "name": name, "x": _plain(x), "y": _plain(mean)}
        dots |= {"customdata": [[int(k), *_plain([spread])] for k, spread in deviation.items()]}
        dots |= {"marker": {"color": style.colour, "symbol": style.symbol, "size": 9}}
        dots |= {"line": {"color": style.colour, "dash": style.dash, "width": LINE}}
        what = f" ± %{{customdata[1]:.1f}} over {len(frame)} seeds" if len(frame) > 1 else ""
        dots["hovertemplate"] = f"<b>{name}</b>, client %{{customdata[0]}}<br>%{{y:.1f}} %{what}<extra></extra>"
        if len(frame) > 1 and mode == "markers":
            dots["error_y"] = _bars(deviation, style)
        data.append(dots)
    yaxis = _axis("accuracy on the client's own distribution (%)")
    if n_clients > MANY:
        return {"data": data, "layout": _layout(_axis("clients, from a method's worst to its best"), yaxis)}
    xaxis = _axis("client", range=[-0.5, n_clients - 0.5], showgrid=False)
    if n_clients <= NAMED:
        told = [f"client {k}<br>{sizes[k]:,} examples" if sizes is not None else f"client {k}" for k in range(n_clients)]
        xaxis |= {"tickvals": list(range(n_clients)), "ticktext": told, "title": None}
    stripe = {"type": "rect", "yref": "y domain", "y0": 0, "y1": 1, "layer": "below", "line": {"width": 0}}
    stripes = [stripe | {"x0": k - 0.5, "x1": k + 0.5, "fillcolor": "#f1f3f6"} for k in range(0, n_clients, 2)]
    return {"data": data, "layout": _layout(xaxis, yaxis) | {"shapes": stripes}}


def _split(table: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    heat = {"type": "heatmap", "z": table.tolist(), "x": list(classes), "colorscale": BLUES, "zmin": 0}
    heat |= {"y": [f"{k} ({size:,})" for k, size in enumerate(table.sum(1))], "colorbar": _colourbar("examples")}
    heat |= {"hovertemplate": "client %{y}<br>class %{x}: %{z:,} training examples<extra></extra>", "xgap": 1, "ygap": 1}
    if table.size <= NUMBERED:
        heat["texttemplate"] = "%{z}"
    layout = _layout(_axis("class", type="category"), _axis("client (its examples)", type="category", autorange="reversed"))
    return {"data": [heat], "layout": layout | {"height": 130 + min(max(32 * len(table), 160), 640)}}


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    heat = {
        "type": "heatmap",
        "z": np.round(shares, 2).tolist(),
        "x": list(classes),
        "y": list(classes),
        "zmin": 0,
        "zmax": 100,
    }
    heat |= {"customdata": counts.tolist(), "colorscale": BLUES, "colorbar": _colourbar("% of the true class")}
    heat |= {"xgap": 1, "ygap": 1}
    heat["hovertemplate"] = "true class %{y}, predicted %{x}<br>%{z:.1f} % (%{customdata} examples)<extra></extra>"
    if counts.size <= NUMBERED:
        heat["texttemplate"] = "%{z:.0f}"
    layout = _layout(_axis("predicted class", type="category"), _axis("true class", type="category", autorange="reversed"))
    return {"data": [heat], "layout": layout | {"height": 130 + min(max(30 * len(classes), 240), 640)}}


def _representations(
    points: np.ndarray, of_all_rounds: np.ndarray, classes: np.ndarray, whose: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    data, symbols = [], list(SYMBOLS.values())
    for c, (name, colour) in enumerate(zip(names, colours_of(len(names)), strict=True)):
        of_class = classes == c
        if not of_class.any():
            continue
        told = {"type": "scatter", "mode": "markers", "name": f"class {name}", "customdata": whose[of_class].tolist()}
        told |= {"x": _plain(points[of_class, 0]), "y": _plain(points[of_class, 1])}
        shapes = [symbols[k % len(symbols)] for k in whose[of_class]]
        told["marker"] = {"color": "rgb({:.0f},{:.0f},{:.0f})".format(*(255 * colour[:3])), "symbol": shapes, "size": 7}
        told["hovertemplate"] = f"class {name}, client %{{customdata}}<extra></extra>"
        data.append(told)
    margin = 0.05 * np.ptp(of_all_rounds, axis=(0, 1))
    low, high = of_all_rounds.min((0, 1)) - margin, of_all_rounds.max((0, 1)) + margin
    axes = [
        _axis(f"principal component {i + 1}", range=[float(low[i]), float(high[i])], showticklabels=False) for i in (0, 1)
    ]
    return {"data": data, "layout": _layout(*axes) | {"height": 560}}


def _layout(xaxis: dict[str, Any], yaxis: dict[str, Any]) -> dict[str, Any]:
    return {
        "xaxis": xaxis,
        "yaxis": yaxis,
        "height": 440,
        "margin": {"l": 64, "r": 16, "t": 30, "b": 56},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#9ca3af", "activecolor": "#1f2937"},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1f2937"},
        "legend": {"font": {"size": 13}, "tracegroupgap": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "uirevision": "kept",  # what was hidden in the legend stays so when the axis is changed
    }


def _axis(title: str, **others: Any) -> dict[str, Any]:
    grid = {"gridcolor": "#e5e7eb", "linecolor": "#9ca3af", "ticks": "outside", "tickcolor": "#9ca3af", "zeroline": False}
    return grid | {"title": {"text": title, "standoff": 12, "font": {"size": 13}}, "automargin": True} | others


def _colourbar(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "side": "right", "font": {"size": 13}}, "thickness": 14, "outlinewidth": 0}


def _bars(deviations: Sequence[float], style: Style) -> dict[str, Any]:
    return {"type": "data", "array": _plain(deviations), "color": style.colour, "thickness": 1.2, "width": 3}


def _hover(name: str, spent: str, n: int) -> str:
    spread = f" ± %{{customdata:.1f}} over {n} seeds" if n > 1 else ""
    return f"<b>{name}</b><br>%{{y:.1f}} %{spread}<br>{spent}<extra></extra>"


# --- numbers -----------------------------------------------------------------------------------------------------------


def measured(found: Sequence[Group], accuracy: str) -> bool:
    """Whether all runs have an accuracy of `COLUMNS` after the last round."""
    return all(run.rounds.iloc[-1].get(COLUMNS[accuracy], np.nan) >= 0 for group in found for run in group.runs)


def _accuracies(found: Sequence[Group]) -> list[str]:
    return [accuracy for accuracy in ACCURACIES if measured(found, accuracy)]


def _level(group: Group, accuracy: str, scale: Scale) -> Band:
    """The accuracy after the last round, all along the axis."""
    x, values = scale.along(), group.values(COLUMNS[accuracy])
    mean, deviation = values.mean(), _deviation(values)
    return Band(x, *(np.full(len(x), value) for value in (mean, mean - deviation, mean + deviation)), len(values))


def total(group: Group, quantity: str) -> float | None:
    """Of the whole run, mean over seeds; None where it was not counted."""
    spent = [targets.cumulated(run, quantity) for run in group.runs]
    return None if any(told is None for told in spent) else float(np.mean([told[-1] for told in spent]))


def _deviation(values: np.ndarray) -> float:
    """Of a sample; 0 for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _plain(values: Sequence[float]) -> list[float]:
    """Seven digits are more than a screen shows."""
    return [float(f"{value:.7g}") for value in values]


def _by_split(found: Sequence[Group]) -> dict[int, list[Group]]:
    """The groups with their runs on one split each, by split seed."""
    seeds = sorted({run.options["split_seed"] for group in found for run in group.runs})
    of = {seed: [[run for run in group.runs if run.options["split_seed"] == seed] for group in found] for seed in seeds}
    return {seed: [Group([(run, None) for run in runs]) for runs in members if runs] for seed, members in of.items()}


def _offered(chart: Chart, choices: dict[str, dict[str, tuple]]) -> dict[str, dict[str, str]]:
    """Of every choice what some spec is of, with its label."""
    there = [set(column) for column in zip(*(key.split("/") for key in chart.specs), strict=True)] or [set()] * len(choices)
    return {
        legend: {value: told[0] for value, told in values.items() if value in found}
        for (legend, values), found in zip(choices.items(), there, strict=True)
    }


def _name(group: Group, found: Sequence[Group]) -> str:
    """A group's name as plotly may show it: escaped, in lines that fit a legend."""
    return "<br>".join(escape(line) for line in textwrap.wrap(name_of(group, found), 30))


def _words(classes: np.ndarray) -> list[str]:
    return [escape(str(name)) for name in classes]
