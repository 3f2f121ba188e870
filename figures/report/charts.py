"""The figures of a report: what a reader may choose for each, and for every choice what plotly.js draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from errors import UserError
from figures import clients as of_clients
from figures import confusion as of_confusion
from figures import curves as of_curves
from figures import pareto as of_pareto
from figures import representations as of_representations
from figures import split as of_split
from figures.groups import COLUMNS, REFERENCES, Group, name_of
from figures.marks import Panel
from figures.report.on_page import spec
from figures.styles import label

QUANTITIES = {"rounds": "rounds", "bytes": "bytes", "flops": "FLOPs", "seconds": "seconds"}  # as a reader chooses them


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

    def show(self, panel: Panel, **chosen: tuple[Any, str]) -> None:
        """Show a panel for what is chosen, {what: (value, label)}; what it lacks is said."""
        self.specs["/".join(str(value) for value, _ in chosen.values())] = spec(panel)
        for what, (value, words) in chosen.items():
            self.choices.setdefault(what.replace("_", " "), {})[str(value)] = words


def charts(found: Sequence[Group]) -> list[Chart]:
    """All figures of groups of runs on one data set and rule of the split, in the order of a reader's questions."""
    return [curves(found), pareto(found), clients(found), split(found), confusion(found), representations(found)]


def measured(found: Sequence[Group], accuracy: str) -> bool:
    """Whether all runs have an accuracy of `COLUMNS` after the last round."""
    return all(run.rounds.iloc[-1].get(COLUMNS[accuracy], np.nan) >= 0 for group in found for run in group.runs)


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
    _against(chart, found, of_curves.panel, QUANTITIES, "against")
    return chart


def pareto(found: Sequence[Group]) -> Chart:
    """Accuracy after the last round against the price of the whole run."""
    chart = Chart(
        "price",
        "What accuracy costs",
        "After the last round, against the total of the whole run: up and to the left is better. Points are means over "
        "seeds, error bars one standard deviation over seeds. The grey steps, the Pareto front, join the methods that no "
        f"other beats at their price or below. A reference ({' or '.join(REFERENCES)}), whatever it costs, or what sends "
        "nothing, against bytes, is a level line.",
        f"There is no method to compare, only {' and '.join(REFERENCES)}.",
    )
    _against(chart, found, of_pareto.panel, [name for name in QUANTITIES if name != "rounds"], "price")
    return chart


def _against(chart: Chart, found: Sequence[Group], panel: Callable, quantities: Sequence[str], what: str) -> None:
    """Panels of each quantity and accuracy; what is not in the histories is said once."""
    lacks: dict[str, dict[str, str]] = {}
    for quantity, accuracy in product(quantities, of_curves.TITLES):
        if measured(found, accuracy):
            shown = panel(found, quantity, accuracy)
            lacks.setdefault(QUANTITIES[quantity], {}).update(shown.lacks)
            if not shown.empty:
                title = of_curves.TITLES[accuracy]
                chart.show(shown, **{what: (quantity, QUANTITIES[quantity]), "accuracy": (accuracy, title)})
    for quantity, names in lacks.items():
        if names:
            chart.words += f" Not against {quantity}, not in the histories or never alike in all seeds: {', '.join(names)}."


def clients(found: Sequence[Group]) -> Chart:
    """Personal accuracy of every client after the last round, on each split."""
    chart = Chart(
        "clients",
        "Each client",
        "Accuracy on the client's own distribution after the last round, a row a method, from its worst client to its best: "
        "mean over the seeds on this split, with one standard deviation over them where clients are few. The pointer tells "
        "which client it is, and what it gains.",
        "No run has accuracies by client after its last round.",
    )
    if any(group.algorithm == "independent" for group in found):
        chart.words += " A cross is a client that the method harms: it is served worse than by learning alone."
    for seed in split_seeds(found) if measured(found, "personal") else ():
        chart.show(of_clients.panel(found, seed), split_seed=(seed, str(seed)))
    return chart


def split(found: Sequence[Group]) -> Chart:
    """How many training examples of each class every client has."""
    chart = Chart(
        "split",
        "Who has what",
        "Training examples by client and class; none where a cell is empty.",
        "No run's folder has its split (split.npz).",
    )
    for seed in split_seeds(found):
        runs = [run for group in found for run in group.runs if run.options["split_seed"] == seed]
        if saved := next((saved for run in runs if (saved := run.arrays("split"))), None):
            chart.show(of_split.panel(saved), split_seed=(seed, str(seed)))
    return chart


def confusion(found: Sequence[Group]) -> Chart:
    """Which class is taken for which, after the last round."""
    chart = Chart(
        "confusion",
        "Confusion matrices",
        "After the last round: of the examples of a true class (row) the share predicted as each class (column), in %. "
        "Examples are counted over all models and all seeds of the method; a class without examples has an empty row.",
        "No run's folder has confusion matrices (confusion.npz).",
    )
    examples = {"test": "whole test set", "own": "clients' own distributions"}
    for number, group in enumerate(found):
        kept = [(run, None) for run in group.runs if run.arrays("confusion")]
        for which, words in examples.items() if kept else ():
            panel = of_confusion.panel([run for run, _ in kept], label(Group(kept), found), which == "own")
            chart.show(panel, method=(number, name_of(group, found)), examples=(which, words))
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
            kept[number], *_ = of_representations.features(group.runs[0])
        except UserError as error:  # none were kept, or they have no common axes
            lacking.append(str(error).partition(": ")[2])
    try:
        rounds = of_representations.rounds_shown(list(kept.values())) if kept else []
    except UserError as error:  # of no round in common
        kept, lacking = {}, [str(error)]
    if any((group.runs[0].folder / "features.npz").exists() for group in found):
        why = f" Not of all: {'; '.join(dict.fromkeys(lacking))}." if lacking else ""
        chart.words, chart.absent = chart.words + why, f"No representations.{why}"
    for number in kept:
        name = name_of(found[number], found)
        panels = of_representations.panels(found[number].runs[0], rounds, name=name)
        for r, panel in reversed(list(zip(rounds, panels, strict=True))):
            chart.show(panel, method=(number, name), round=(r, str(r)))
    return chart


def split_seeds(found: Sequence[Group]) -> list[int]:
    """Of all runs."""
    return sorted({run.options["split_seed"] for group in found for run in group.runs})
