"""Make the figures of a report: the choices of each figure, and what plotly.js draws for every choice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType
from typing import Any

import saves
from errors import UserError
from figures import clients, confusion, curves, metrics, pareto, representations, split
from figures.groups import REFERENCES, Group, name_of
from figures.leaked import leaked
from figures.marks import Panel
from figures.metrics import column_of
from figures.report.on_page import spec
from figures.styles import label, looks

QUANTITIES = {
    "rounds": "rounds",
    "bytes": "bytes",
    "flops": "FLOPs",
    "seconds": "seconds",
    "exposed": "exposed examples",
}  # {quantity: label for the reader}
ACCURACIES = ("global", "personal", "worst")
EXAMPLES = {"test": "whole test set", "own": "clients' own distributions"}
Shown = Iterable[tuple[dict[str, tuple[Any, str]], Panel]]  # the choices, {choice: (value, label)}, and the panel


@dataclass
class Chart:
    """Hold a figure.

    `words`: how to read the figure. `choices`: a {value: label} for each choice. `specs`: {"data", "layout"} by the chosen
    values, joined with "/". `absent`: the reason why there are no specs."""

    id: str
    title: str
    words: str
    absent: str
    choices: dict[str, dict[str, str]] = field(default_factory=dict)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)


def charts(groups: Sequence[Group]) -> list[Chart]:
    """Return all figures of groups of runs with the same data set and rule of the split, in a reader's order."""
    spent = _against(groups, curves.panels, "against", list(curves.AXES))
    prices = [name for name in QUANTITIES if name not in ("rounds", "exposed")]
    prices += ["exposed"] * all(leaked(group.runs, "exposed") is not None for group in groups)
    price = _against(groups, pareto.panels, "price", prices)
    no_method = f"There is no method to compare, only {' and '.join(REFERENCES)}."
    no_clients = "No run has accuracies by client after its last round."
    no_matrices = "No run's folder has confusion matrices (confusion.npz)."
    return [
        _chart("curves", "Learning curves", curves, spent, "No run has a learning curve."),
        _chart("price", "What accuracy costs", pareto, price, no_method),
        _chart("clients", "Each client", clients, _clients(groups), no_clients),
        _chart("split", "Split", split, _splits(groups), "No run's folder has its split (split.npz)."),
        _chart("confusion", "Confusion matrices", confusion, _confusion(groups), no_matrices),
        _representations(groups),
    ]


def over_problems(charts_by_problem: Mapping[str, Sequence[Chart]]) -> list[Chart]:
    """Return the figures of several problems, {title: figures}; the problem becomes the first choice of each figure.

    The figures of a single problem are returned unchanged."""
    if len(charts_by_problem) == 1:
        return list(next(iter(charts_by_problem.values())))
    merged = []
    for same_figure in zip(*charts_by_problem.values(), strict=True):
        first = same_figure[0]
        words = " ".join(dict.fromkeys(chart.words for chart in same_figure))
        combined = Chart(first.id, first.title, words, first.absent, {"problem": {}})
        for number, (title, chart) in enumerate(zip(charts_by_problem, same_figure, strict=True)):
            if chart.specs:
                combined.choices["problem"][str(number)] = title
            combined.specs |= {f"{number}/{key}": spec_of_key for key, spec_of_key in chart.specs.items()}
            for choice, labels in chart.choices.items():
                combined.choices[choice] = combined.choices.get(choice, {}) | labels
        merged.append(combined)
    return merged


def measured(groups: Sequence[Group], accuracy: str) -> bool:
    """Return whether all runs have an accuracy after the last round."""
    return all(column_of(run, accuracy) for group in groups for run in group.runs)


def _chart(id: str, title: str, picture: ModuleType, choices_and_panels: Shown, absent: str, more: str = "") -> Chart:
    """Return a chart of the panels; empty panels are left out.

    The words are the last paragraph of the docstring of the picture's module, and the entries that the panels lack."""
    chart = Chart(id, title, " ".join(picture.__doc__.split("\n\n")[-1].split()) + more, absent)
    lacking: dict[str, dict[str, str]] = {}
    for choices, panel in choices_and_panels:
        (_, first), *_ = choices.values()
        lacking.setdefault(first, {}).update(panel.lacks)
        if not panel.empty:
            chart.specs["/".join(str(value) for value, _ in choices.values())] = spec(panel)
            for choice, (value, words) in choices.items():
                chart.choices.setdefault(choice, {})[str(value)] = words
    for first, names in lacking.items():
        if names:
            chart.words += (
                f" Not shown against {first}, because the histories do not count it or the seeds have no common range: "
                f"{', '.join(names)}."
            )
    return chart


def _against(groups: Sequence[Group], panels: Callable, choice: str, quantities: Sequence[str]) -> Shown:
    measures = metrics.columns(run for group in groups for run in group.runs).keys() - metrics.ACCURACIES.keys()
    shown = (*ACCURACIES, *sorted(name for name in measures if not metrics.BY_CLASS.search(name)))
    for quantity, accuracy in product(quantities, shown):
        if measured(groups, accuracy):
            choices = {choice: (quantity, QUANTITIES[quantity]), "accuracy": (accuracy, curves.title(accuracy))}
            (panel,) = panels({"": looks(groups)}, quantity, accuracy)
            yield choices, panel


def _clients(groups: Sequence[Group]) -> Shown:
    for seed in _split_seeds(groups) if measured(groups, "personal") else ():
        yield {"split seed": (seed, str(seed))}, clients.panel(groups, seed)


def _splits(groups: Sequence[Group]) -> Shown:
    for seed in _split_seeds(groups):
        runs = [run for group in groups for run in group.runs if run.options["split_seed"] == seed]
        if saved := next((saved for run in runs if (saved := run.arrays("split"))), None):
            yield {"split seed": (seed, str(seed))}, split.panel(saved)


def _split_seeds(groups: Sequence[Group]) -> list[int]:
    return sorted({run.options["split_seed"] for group in groups for run in group.runs})


def _confusion(groups: Sequence[Group]) -> Shown:
    for number, group in enumerate(groups):
        kept = [run for run in group.runs if run.arrays("confusion")]
        for which, words in EXAMPLES.items() if kept else ():
            choices = {"method": (number, name_of(group, groups)), "examples": (which, words)}
            yield choices, confusion.panel(kept, label(Group(kept), groups), which == "own")


def _representations(groups: Sequence[Group]) -> Chart:
    """Return the chart of representations: the first seed of each method, by PCA."""
    kept, lacking = {}, {}
    for number, group in enumerate(groups):
        try:
            kept[number], *_ = representations.features(group.runs[0])
        except saves.DamagedError:
            raise
        except UserError as error:  # no features were kept, or the features have no common axes
            lacking[str(error).partition(": ")[2]] = None
    try:
        rounds = representations.rounds_shown(list(kept.values())) if kept else []
    except UserError as error:  # the runs have no round in common
        kept, lacking = {}, {str(error): None}

    def shown() -> Shown:
        for number in kept:
            name = name_of(groups[number], groups)
            panels = representations.panels(groups[number].runs[0], rounds, name=name)
            for r, panel in reversed(list(zip(rounds, panels, strict=True))):
                yield {"method": (number, name), "round": (r, str(r))}, panel

    reasons = "; ".join(lacking)
    more = " By PCA, of the first seed of each method." + (f" Not of all: {reasons}." if reasons else "")
    return _chart("representations", "Representations", representations, shown(), f"No representations: {reasons}.", more)
