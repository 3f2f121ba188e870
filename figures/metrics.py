"""The accuracies of a saved run by name, and what else `--measure` asked for."""

from collections.abc import Iterable, Sequence

import numpy as np

from errors import UserError
from figures.statistics import Seed, Values
from measures import MEASURES
from saves import Run

ACCURACIES = {  # of the headline answer; those of another answer and of a head end in ":" and their name
    "global": "global_mean",
    "personal": "personal_mean",
    "worst": "personal_worst",
    "validation": "validation_mean",
    "tuned": "tuned_mean",
}
WORDS = {
    "global": "on the whole test set, mean over clients where each has a model",
    "personal": "on each client's own distribution, mean over clients",
    "worst": "on each client's own distribution, of the worst client",
    "validation": "on each client's held-out training examples, mean over clients",
    "tuned": "on each client's own distribution after fine-tuning, mean over clients",
}
METRICS = (  # in words
    "global, personal, worst, validation, tuned; what --measure asked for, such as auc or personal_auc; of another answer "
    "or of a head of the runs with its name, personal:global or 'global:head 1'"
)
ROUND = {"last": "after the last round", "validation": "of the round best on validation"}


def columns(runs: Iterable[Run] = ()) -> dict[str, str]:
    """{metric: its column of the rounds} of the headline answer: the accuracies, then every measure, also of a plugin that
    is not loaded."""
    asked = [name for run in runs for name in _measured(run)]
    names = dict.fromkeys([*MEASURES, *asked])
    measures = {f"{of}{name}": f"{of or 'global_'}{name}_mean" for of in ("", "personal_") for name in names}
    return ACCURACIES | {name: column for name, column in measures.items() if name not in ACCURACIES}


def _measured(run: Run) -> list[str]:
    """What `--measure` of a run names."""
    asked = run.options.get("measure")
    return [name for name in asked if isinstance(name, str)] if isinstance(asked, list | tuple) else []


def metrics(run: Run) -> dict[str, str]:
    """{name: its column of the rounds} of the accuracies that a run has after the last round: the names of `columns` and, of
    another answer or a head, "personal:global", "global:head 1"."""
    rounds = run.rounds
    last = rounds.iloc[-1]
    return {
        name + column.removeprefix(first): column
        for name, first in columns([run]).items()
        for column in rounds
        if f"{column}:".startswith(f"{first}:") and last[column] >= 0
    }


def meant(metric: str) -> tuple[str, str]:
    """What a metric measures, in words, accuracy or another measure, and the name of the accuracy on the same examples."""
    name = metric.partition(":")[0]
    if name in ACCURACIES:
        return "accuracy", name
    measure = name.removeprefix("personal_")
    return measure.replace("_", " "), "global" if measure == name else "personal"


def words(metric: str) -> str:
    """On which examples a metric is, and of whom."""
    of = metric.partition(":")[2]
    return WORDS[meant(metric)[1]] + (f', of "{of}"' if of else "")


def column_of(run: Run, metric: str) -> str | None:
    """The column of an accuracy; None where the run has none of that name. The headline answer is found by its own name too:
    "personal:global" of `fedavg` is its "personal"."""
    there, (name, _, of) = metrics(run), metric.partition(":")
    answer, _, head = of.partition(" ")
    if metric not in there and answer and answer == run.headline:
        metric = f"{name}:{head}" if head else name
    return there.get(metric)


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raises UserError where a run has no accuracy of this name after the last round."""
    lacking = [run for run in runs if column_of(run, metric) is None]
    if not lacking:
        return
    takes = _takes(metric)
    having = dict.fromkeys(run.options["algorithm"] for run in runs if run not in lacking)
    if not having:
        names = dict.fromkeys(name for run in runs for name in metrics(run))
        raise UserError(f"--metric {metric}: no run has such an accuracy; there are {', '.join(names)}{takes}")
    raise UserError(
        f"--metric {metric}: {lacking[0].folder} has no such accuracy, but {', '.join(metrics(lacking[0]))}{takes}; runs of "
        f"{', '.join(having)} have it (--where algorithm={','.join(having)})"
    )


def _takes(metric: str) -> str:
    """The flag that a metric takes, in words."""
    flags = {"validation": "--validation", "tuned": "--ft_epochs"}
    flags |= {name: f"--measure {name.removeprefix('personal_')}" for name in columns() if name not in ACCURACIES}
    return f"; it takes {flags[metric]}" if metric in flags else ""


def row_of(run: Run, on: str):
    """The row of the last round, or of the first of those best on validation. Raises UserError without validation."""
    rounds = run.rounds
    if on == "last":
        return rounds.iloc[-1]
    if "validation_mean" not in rounds:
        raise UserError(f"--on validation: {run.folder} was run without --validation; all rows must have it")
    return rounds.loc[rounds["validation_mean"].idxmax()]


def accuracy(run: Run, metric: str, on: str) -> float:
    """A fraction of 1, of a run that `check_metric` has passed. Raises UserError for what was not measured in that round."""
    value = row_of(run, on)[column_of(run, metric)]
    if np.isnan(value):
        raise UserError(f"--metric {metric}: {run.folder} has none {ROUND[on]}")
    return float(value)


def values_of(runs: Iterable[Run], metric: str, on: str) -> Values | None:
    """{seed: a fraction of 1}; None where a run has no such accuracy in that round."""
    found: Values = {}
    for run in runs:
        value = row_of(run, on).get(column_of(run, metric), np.nan)
        if np.isnan(value):
            return None
        found[seed_of(run)] = float(value)
    return found


def seed_of(run: Run) -> Seed:
    """What a run is paired by: its seed and that of its split."""
    return run.options["seed"], run.options["split_seed"]
