"""Name the accuracies of a saved run, and the other measures of `--measure`."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from errors import UserError
from figures.statistics import Seed, Values
from measures import MEASURES
from saves import Run

ACCURACIES = {  # of the headline answer; columns of another answer or a head end in ":" and a name
    "global": "global_mean",
    "personal": "personal_mean",
    "worst": "personal_worst",
    "validation": "validation_mean",
    "tuned": "tuned_mean",
    "new_sent": "new_sent_mean",
    "new_tuned": "new_tuned_mean",
}
WORDS = {
    "global": "on the whole test set, mean over clients where each has a model",
    "personal": "on each client's own distribution, mean over clients",
    "worst": "on each client's own distribution, of the worst client",
    "validation": "on each client's held-out training examples, mean over clients",
    "tuned": "on each client's own distribution after fine-tuning, mean over clients",
    "new_sent": "of the model as a new client receives it, on the new client's own distribution, mean over new clients",
    "new_tuned": "of the same model after the new client's fine-tuning, mean over new clients",
}
METRICS = (  # in words
    "global, personal, worst, validation, tuned, new_sent, new_tuned; a measure of --measure, such as auc or personal_auc; "
    "with the name of another model or head: personal:global, 'global:head 1'"
)
BY_CLASS = re.compile(r"_\d+$")  # the end of the name of a measure of one class
ROUND = {"last": "after the last round", "validation": "in the best validation round"}


def columns(runs: Iterable[Run] = ()) -> dict[str, str]:
    """Return {metric: its column of the rounds} of the headline answer.

    The accuracies come first, then every measure, including measures of a plugin that is not loaded."""
    requested = [name for run in runs for measure in _measured(run) for name in (measure, *_by_class(run, measure))]
    names = dict.fromkeys([*MEASURES, *requested])
    measures = {f"{prefix}{name}": f"{prefix or 'global_'}{name}_mean" for prefix in ("", "personal_") for name in names}
    return ACCURACIES | {name: column for name, column in measures.items() if name not in ACCURACIES}


def _measured(run: Run) -> list[str]:
    """Return the names in `--measure` of a run."""
    requested = run.options.get("measure")
    return [name for name in requested if isinstance(name, str)] if isinstance(requested, list | tuple) else []


def _by_class(run: Run, measure: str) -> list[str]:
    """Return the names of a measure for each class, such as recall_0, in a run that has them."""
    pattern = re.compile(rf"(?:global|personal)_({re.escape(measure)}_\d+)_mean")
    return list(dict.fromkeys(match[1] for column in run.round_columns if (match := pattern.fullmatch(column))))


def metrics(run: Run) -> dict[str, str]:
    """Return {name: its column of the rounds} of the accuracies that a run has after the last round.

    The names are those of `columns`; for another answer or a head, "personal:global" or "global:head 1"."""
    rounds = run.rounds
    last = rounds.iloc[-1]
    return {
        name + column.removeprefix(first): column
        for name, first in columns([run]).items()
        for column in rounds
        if f"{column}:".startswith(f"{first}:") and not np.isnan(last[column])
    }


def measure_of(metric: str) -> tuple[str, str]:
    """Return the measure of a metric in words, and the name of the accuracy on the same examples."""
    name = metric.partition(":")[0]
    if name in ACCURACIES:
        return "accuracy", name
    measure = name.removeprefix("personal_")
    return measure.replace("_", " "), "global" if measure == name else "personal"


def words(metric: str) -> str:
    """Return in words the examples on which a metric is computed, and the answer or head."""
    answer = metric.partition(":")[2]
    return WORDS[measure_of(metric)[1]] + (f', of "{answer}"' if answer else "")


def column_of(run: Run, metric: str) -> str | None:
    """Return the column of an accuracy; None where the run has no accuracy of that name.

    The name of the headline answer is accepted too: "personal:global" of `fedavg` is its "personal"."""
    name, _, suffix = metric.partition(":")
    answer, _, head = suffix.partition(" ")
    first, rounds = columns([run]).get(name), run.round_columns

    def column_with(suffix: str) -> str | None:
        column = f"{first}:{suffix}" if suffix else first
        return column if column in rounds and not np.isnan(rounds[column][-1]) else None

    column = column_with(suffix)
    return column_with(head) if column is None and answer and answer == run.headline else column


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raise UserError where a run has no accuracy of this name after the last round."""
    lacking = [run for run in runs if column_of(run, metric) is None]
    if not lacking:
        return
    hint = "" if any(_by_class(run, metric.removeprefix("personal_")) for run in runs) else _takes(metric)
    algorithms = dict.fromkeys(run.options["algorithm"] for run in runs if run not in lacking)
    if not algorithms:
        names = dict.fromkeys(name for run in runs for name in metrics(run))
        raise UserError(f"--metric {metric}: no run has this metric; must be one of {', '.join(names)}{hint}")
    raise UserError(
        f"--metric {metric}: {lacking[0].folder} does not have this metric; it has {', '.join(metrics(lacking[0]))}{hint}; "
        "runs of "
        f"{', '.join(algorithms)} have it (--where algorithm={','.join(algorithms)})"
    )


def _takes(metric: str) -> str:
    """Return in words the flag that a metric requires."""
    flags = {"validation": "--validation", "tuned": "--ft_epochs"}
    flags |= {name: f"--measure {name.removeprefix('personal_')}" for name in columns() if name not in ACCURACIES}
    measure = BY_CLASS.sub("", metric)
    return f"; it requires {flags[measure]}" if measure in flags else ""


def row_of(run: Run, on: str):
    """Return the row of the last round, or of the first of the rounds best on validation.

    Raises UserError without validation."""
    rounds = run.rounds
    if on == "last":
        return rounds.iloc[-1]
    if "validation_mean" not in rounds:
        raise UserError(f"--on validation: {run.folder} was run without --validation; all runs must have it")
    return rounds.loc[rounds["validation_mean"].idxmax()]


def accuracy(run: Run, metric: str, on: str) -> float:
    """Return an accuracy of a run that `check_metric` has accepted, as a fraction of 1.

    Raises UserError for an accuracy that was not measured in that round."""
    value = _value(run, column_of(run, metric), on)
    if np.isnan(value):
        raise UserError(f"--metric {metric}: {run.folder} has no value {ROUND[on]}")
    return value


def _value(run: Run, column: str | None, on: str) -> float:
    """Return a column of the last round, or of the round best on validation; NaN without the column."""
    if on != "last" or column is None:
        return float(row_of(run, on).get(column, np.nan))
    return float(run.round_columns[column][-1])


def values_of(runs: Iterable[Run], metric: str, on: str) -> Values | None:
    """Return {seed: a fraction of 1}; None where a run has no such accuracy in that round."""
    values: Values = {}
    for run in runs:
        values[seed_of(run)] = value = _value(run, column_of(run, metric), on)
        if np.isnan(value):
            return None
    return values


def seed_of(run: Run) -> Seed:
    """Return the key by which runs are paired: the seed and the seed of the split."""
    return run.options["seed"], run.options["split_seed"]
