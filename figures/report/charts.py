"""The figures of a report: what a reader may choose for each, and for every choice what plotly.js draws."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType
from typing import Any

import saves
from errors import UserError
from figures import clients, confusion, curves, pareto, representations, split
from figures.groups import REFERENCES, Group, name_of
from figures.marks import Panel
from figures.metrics import column_of
from figures.report.on_page import spec
from figures.styles import label

QUANTITIES = {"rounds": "rounds", "bytes": "bytes", "flops": "FLOPs", "seconds": "seconds"}  # as a reader chooses them
ACCURACIES = ("global", "personal", "worst")
EXAMPLES = {"test": "whole test set", "own": "clients' own distributions"}
Shown = Iterable[tuple[dict[str, tuple[Any, str]], Panel]]  # what is chosen, {what: (value, label)}, and its panel


@dataclass
class Chart:
    """A figure: `words` say how to read it; `choices`, a {value: label} for each thing to choose; `specs`, {"data",
    "layout"} by the chosen values joined with "/"; without any, `absent` says why."""

    id: str
    title: str
    words: str
    absent: str
    choices: dict[str, dict[str, str]] = field(default_factory=dict)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)


def charts(found: Sequence[Group]) -> list[Chart]:
    """All figures of groups of runs on one data set and rule of the split, in the order of a reader's questions."""
    spent = _against(found, curves.panel, "against", QUANTITIES)
    price = _against(found, pareto.panel, "price", [name for name in QUANTITIES if name != "rounds"])
    no_method = f"There is no method to compare, only {' and '.join(REFERENCES)}."
    no_clients = "No run has accuracies by client after its last round."
    no_matrices = "No run's folder has confusion matrices (confusion.npz)."
    return [
        _chart("curves", "Learning curves", curves, spent, "No run has a learning curve."),
        _chart("price", "What accuracy costs", pareto, price, no_method),
        _chart("clients", "Each client", clients, _clients(found), no_clients),
        _chart("split", "Who has what", split, _splits(found), "No run's folder has its split (split.npz)."),
        _chart("confusion", "Confusion matrices", confusion, _confusion(found), no_matrices),
        _representations(found),
    ]


def over_problems(of_each: Mapping[str, Sequence[Chart]]) -> list[Chart]:
    """The figures of several problems by their titles, each with the problem as the first thing to choose; those of one as
    they are."""
    if len(of_each) == 1:
        return list(next(iter(of_each.values())))
    merged = []
    for alike in zip(*of_each.values(), strict=True):
        first = alike[0]
        words = " ".join(dict.fromkeys(chart.words for chart in alike))
        one = Chart(first.id, first.title, words, first.absent, {"problem": {}})
        for number, (title, chart) in enumerate(zip(of_each, alike, strict=True)):
            if chart.specs:
                one.choices["problem"][str(number)] = title
            one.specs |= {f"{number}/{key}": shown for key, shown in chart.specs.items()}
            for what, offered in chart.choices.items():
                one.choices[what] = one.choices.get(what, {}) | offered
        merged.append(one)
    return merged


def measured(found: Sequence[Group], accuracy: str) -> bool:
    """Whether all runs have an accuracy after the last round."""
    return all(column_of(run, accuracy) for group in found for run in group.runs)


def _chart(id: str, title: str, picture: ModuleType, shown: Shown, absent: str, more: str = "") -> Chart:
    """The panels with what the module of the picture says of them, the last paragraph of its docstring, and with what they
    lack; empty ones are left out."""
    chart = Chart(id, title, " ".join(picture.__doc__.split("\n\n")[-1].split()) + more, absent)
    lacks: dict[str, dict[str, str]] = {}
    for chosen, panel in shown:
        (_, first), *_ = chosen.values()
        lacks.setdefault(first, {}).update(panel.lacks)
        if not panel.empty:
            chart.specs["/".join(str(value) for value, _ in chosen.values())] = spec(panel)
            for what, (value, words) in chosen.items():
                chart.choices.setdefault(what, {})[str(value)] = words
    for first, names in lacks.items():
        if names:
            chart.words += f" Not against {first}, not in the histories or never alike in all seeds: {', '.join(names)}."
    return chart


def _against(found: Sequence[Group], panel: Callable, what: str, quantities: Sequence[str]) -> Shown:
    for quantity, accuracy in product(quantities, ACCURACIES):
        if measured(found, accuracy):
            chosen = {what: (quantity, QUANTITIES[quantity]), "accuracy": (accuracy, curves.title(accuracy))}
            yield chosen, panel(found, quantity, accuracy)


def _clients(found: Sequence[Group]) -> Shown:
    for seed in _split_seeds(found) if measured(found, "personal") else ():
        yield {"split seed": (seed, str(seed))}, clients.panel(found, seed)


def _splits(found: Sequence[Group]) -> Shown:
    for seed in _split_seeds(found):
        runs = [run for group in found for run in group.runs if run.options["split_seed"] == seed]
        if saved := next((saved for run in runs if (saved := run.arrays("split"))), None):
            yield {"split seed": (seed, str(seed))}, split.panel(saved)


def _split_seeds(found: Sequence[Group]) -> list[int]:
    return sorted({run.options["split_seed"] for group in found for run in group.runs})


def _confusion(found: Sequence[Group]) -> Shown:
    for number, group in enumerate(found):
        kept = [run for run in group.runs if run.arrays("confusion")]
        for which, words in EXAMPLES.items() if kept else ():
            chosen = {"method": (number, name_of(group, found)), "examples": (which, words)}
            yield chosen, confusion.panel(kept, label(Group(kept), found), which == "own")


def _representations(found: Sequence[Group]) -> Chart:
    """Of the first seed of each method, by PCA."""
    kept, lacking = {}, {}
    for number, group in enumerate(found):
        try:
            kept[number], *_ = representations.features(group.runs[0])
        except saves.DamagedError:
            raise
        except UserError as error:  # none were kept, or they have no common axes
            lacking[str(error).partition(": ")[2]] = None
    try:
        rounds = representations.rounds_shown(list(kept.values())) if kept else []
    except UserError as error:  # of no round in common
        kept, lacking = {}, {str(error): None}

    def shown() -> Shown:
        for number in kept:
            name = name_of(found[number], found)
            panels = representations.panels(found[number].runs[0], rounds, name=name)
            for r, panel in reversed(list(zip(rounds, panels, strict=True))):
                yield {"method": (number, name), "round": (r, str(r))}, panel

    why = "; ".join(lacking)
    more = " By PCA, of the first seed of each method." + (f" Not of all: {why}." if why else "")
    return _chart("representations", "Representations", representations, shown(), f"No representations: {why}.", more)
