"""Declare every column of the results table once.

An entry of COLUMNS has the name, group, header and unit of a column, how its value is computed from the runs of a row, and
whether the column is shown by default. A new column is one entry of COLUMNS; `of_metric` makes the columns of a metric."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from errors import UserError
from figures import metrics, targets
from figures.alone import HARMED, least_gain, part_harmed
from figures.groups import Group, sent
from figures.leaked import leaked
from figures.metrics import column_of, measure_of, values_of
from figures.statistics import LEAST_SEEDS, Paired, Values, paired
from figures.units import UNITS, shown
from saves import Run
from untrusted import escape

GROUPS = {  # {group of columns: title}, in the order of a table
    "options": "Options that differ between rows",
    "runs": "Runs",
    "accuracy": "Accuracy",
    "gain": "Gain over learning alone",
    "difference": "Difference to the baseline",
    "sent": "Communication",
    "privacy": "Privacy",
    "cost": "Cost",
    "target": "Cost of the target",
    "equal": "At equal bytes",
}


@dataclass(frozen=True)
class Request:
    """Hold what the user requests from the comparison: the flags of `figures.table`.

    `budget`: the bytes that `equal` resolves to."""

    metric: str = "global"
    on: str = "last"
    by: Sequence[str] = ()
    select: Sequence[str] = ()
    baseline: str | None = None
    target: float | None = None
    equal: float | str | None = None
    columns: Sequence[str] = ()
    budget: float | None = None

    def fill(self, text: str) -> str:
        """Return a header or a note with the requested values in its {places}."""
        curve = "validation" if self.on == "validation" or self.metric.startswith("validation") else "the test curve"
        places = {
            "{metric}": self.metric,
            "{target}": "" if self.target is None else f"{100 * self.target:g} %",
            "{baseline}": str(self.baseline),
            "{budget}": "" if self.budget is None else UNITS["bytes"].show(self.budget),
            "{curve}": f"{curve} ({self.metric})" if self.on == "last" else curve,
        }
        for place, replacement in places.items():
            text = text.replace(place, replacement)
        return text


@dataclass
class Row:
    """Hold a row for the functions of the columns.

    `group`: runs that differ in their seeds only. `alone`: the group of `independent` that the row is compared with.
    `tried`: how many settings were tried. `equal`: (accuracies by seed, bytes, rounds, steps) at equal bytes. `against`: the
    difference to the baseline and its p by Holm, at the "end" and at "equal" bytes."""

    group: Group
    request: Request
    alone: Group | None = None
    tried: int = 1
    equal: tuple[Values, float | None, float | None, float | None] | None = None
    against: dict[str, tuple[Paired, float | None]] = field(default_factory=dict)

    def values(self, metric: str) -> Values | None:
        """Return {seed: a fraction of 1} in the requested round; None where a run has no such value."""
        return values_of(self.group.runs, metric, self.request.on)

    def gain(self, metric: str) -> Paired | None:
        """Return the difference to learning alone, paired by seed."""
        alone = values_of(self.alone.runs, metric, self.request.on) if self.alone else None
        own = self.values(metric)
        return paired(own, alone) if own and alone else None


class Above(float):
    """Mark a number as a lower bound: the target was not reached by the end."""


Value = float | str | np.ndarray | None  # array: a value per seed; mean and standard deviation are shown


class Column(NamedTuple):
    """Declare a column.

    `heads`: the lines of the header; adjacent columns with the same first line share that line. `unit`: a key of UNITS.
    `shown`: 0 not by default, 1 always, more: left out of a table that is too wide, the largest first. `needs`: the flag
    without which the column is empty. `spread`: the value is an array. `words`: a note below a table that shows the
    column."""

    name: str
    group: str
    heads: tuple[str, ...]
    unit: str
    value: Callable[[Row], Value]
    shown: int = 0
    needs: str = ""
    spread: bool = False
    words: str = ""

    @property
    def header(self) -> str:
        """Return the header in forms for programs: name and unit."""
        unit = UNITS[self.unit].name
        return f"{self.name} ({unit})" if unit else self.name

    @property
    def of_spread(self) -> str:
        """Return the header of the standard deviation over seeds in forms for programs."""
        return f"{self.name} std ({UNITS[self.unit].name})"


class Cell(NamedTuple):
    """Hold a value (None for an empty cell), its text, its standard deviation over seeds, and its mark.

    `mark`: "best", or "level" where the value is not significantly different from the best. `short`: the text where there is
    little room."""

    value: float | str | None
    text: str
    std: float | None = None
    mark: str = ""
    short: str = ""


def cell_of(value: Value, unit: str) -> Cell:
    """Return the cell of a value in its unit; an empty cell for None and NaN."""
    show = UNITS[unit].show
    if isinstance(value, np.ndarray) and len(value):
        mean, std = float(value.mean()), float(value.std(ddof=1)) if len(value) > 1 else None
        if std is not None and not np.isnan(mean):
            return Cell(mean, f"{show(mean)} ±{show(std)}", std, short=f"{mean:.1f} ±{std:.1f}")
        value = mean
    if value is None or isinstance(value, np.ndarray) or (isinstance(value, float) and np.isnan(value)):
        return Cell(None, "")
    if isinstance(value, Above):
        return Cell(f">{float(value):.10g}", f">{show(value)}")
    return Cell(value, escape(show(value)))


# --- the columns ------------------------------------------------------------------------------------------------------


def _per_client_and_round(name: str) -> Callable[[Row], float]:
    return lambda row: row.group.per_client_and_round(name)


def _between(row: Row) -> float | None:
    return row.group.per_client_and_round("bytes_between") or None


def _sent(row: Row) -> float:
    n_bytes = float(np.mean([sent(run) for run in row.group.runs]))
    return n_bytes / row.group.options["n_clients"] / row.group.options["rounds"]


def _kinds(row: Row) -> str | None:
    rounds = row.group.runs[0].rounds
    bytes_by_column = {name: rounds[name].sum() for name in rounds if name.startswith(("bytes_up:", "bytes_between:"))}
    kinds = dict.fromkeys(
        name.partition(":")[2]
        for name in sorted(bytes_by_column, key=bytes_by_column.get, reverse=True)
        if bytes_by_column[name]
    )
    is_silent = sum(row.group.values(f"bytes_{way}").sum() for way in ("up", "between")) == 0
    return ", ".join(kinds) or ("nothing" if is_silent else None)


def _epsilon(row: Row) -> float | None:
    rounds = [run.rounds for run in row.group.runs]
    return float(np.mean([r["epsilon"].iloc[-1] for r in rounds])) if all("epsilon" in r for r in rounds) else None


def _not_covered(row: Row) -> str | None:
    promise = row.group.runs[0].config.get("privacy")
    return (", ".join(promise["not covered"]) or "nothing") if isinstance(promise, dict) else None


def _to_target(quantity: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        reached = _reached(row, quantity)
        return reached and (Above(reached.total) if reached.value is None else reached.value)

    return value


def _reached(row: Row, quantity: str = "rounds") -> targets.Reached | None:
    if row.request.target is None:
        return None
    curve = column_of(row.group.runs[0], row.request.metric) if row.request.on == "last" else "validation_mean"
    return targets.cost_to(row.group.runs, row.request.target, quantity, curve)


def _best_round(row: Row) -> float | None:
    if row.request.on != "validation":
        return None
    return float(np.mean([metrics.row_of(run, "validation")["round"] for run in row.group.runs]))


def _differences(group: str, at: str, over: str, needs: str) -> list[Column]:
    """Return the columns of the paired difference to the baseline, its interval, n and p."""

    def of(part: str) -> Callable[[Row], float | None]:
        def value(row: Row) -> float | None:
            comparison = row.against.get(at)
            statistic = comparison and getattr(comparison[0], part)
            return statistic if statistic is None or part == "n" else 100 * statistic

        return value

    prefix = "" if at == "end" else f"{at}_"
    words = (
        f"differences to {{baseline}} in percentage points, paired by seed, with Student's 95 % interval; p: paired t-test "
        f"(at least {LEAST_SEEDS} common seeds), Holm-adjusted over the rows"
    )
    common = {"shown": 1, "needs": needs}
    return [
        Column(f"{prefix}difference", group, (over, "difference"), "points", of("mean"), words=words, **common),
        Column(f"{prefix}low", group, (over, "95 % from"), "points", of("low"), **common),
        Column(f"{prefix}high", group, (over, "to"), "points", of("high"), **common),
        Column(f"{prefix}common_seeds", group, (over, "seeds"), "count", of("n"), **common),
        Column(f"{prefix}p", group, (over, "p (Holm)"), "p", lambda row: row.against.get(at, (0, None))[1], **common),
    ]


LEAST = "least client: gain in personal accuracy over the same client alone, of the client that gains least, mean over seeds"
EPSILON = (
    "epsilon: differential privacy over the whole run, the largest of all clients, at --dp_delta; the unit is a client "
    "(--dp_noise) or an example (--dp_sgd); smaller is more private; empty without noise"
)
TARGET = (
    "to {target}: cost until the running maximum of {curve} reaches the target, interpolated linearly between evaluated "
    "rounds, at least the first evaluated round; median over seeds; >T: the median run ends at T without reaching it"
)
EQUAL = (
    "at equal bytes: accuracy at {budget} of all clients, interpolated linearly between evaluated rounds (empty before the "
    "first; a method that sends less: at its end); independent and centralized: at their end"
)
EXPOSED = (
    "leaked: the best of the attacks that were run, so a lower bound; exposed: 0 is chance, 100 names every training "
    "example of a client and no stranger; label mix: 0 is guessing the public distribution, 100 is exact"
)


def _leaked(name: str, head: str, quantity: str, view: str, knows: str, shown: int = 0) -> Column:
    """Return a column of what was leaked, with a value per seed."""

    def value(row: Row) -> np.ndarray | None:
        values = leaked(row.group.runs, quantity, view, knows)
        return None if values is None else 100 * values

    label = quantity.replace("_", " ")
    return Column(name, "privacy", (head, f"{label} %"), "%", value, shown=shown, spread=True, words=EXPOSED)


ONE, RUN, GOAL, EQUALLY = "per client and round", "whole run", "to {target}", "at {budget} of all clients"
COLUMNS: list[Column] = [
    Column("n", "runs", ("", "n"), "count", lambda row: len(row.group.runs)),
    Column("tried", "runs", ("settings", "tried"), "count", lambda row: row.tried, shown=1, needs="select"),
    Column("best_round", "runs", ("best", "round"), "rounds", _best_round, shown=1),
    Column(
        "gain_least",
        "gain",
        ("gain over alone", "least client"),
        "points",
        lambda row: _points(least_gain(row.group, row.alone, row.request.on)),
        words=LEAST,
    ),
    Column(
        "harmed",
        "gain",
        ("clients", "harmed %"),
        "%",
        lambda row: _points(part_harmed(row.group, row.alone, row.request.on)),
        words=HARMED,
    ),
    *_differences("difference", "end", "difference to baseline", "baseline"),
    Column(
        "kinds",
        "sent",
        ("what clients", "send"),
        "text",
        _kinds,
        words=(
            "what clients send: the kinds of messages, most bytes first; the columns of bytes also count what clients "
            "receive"
        ),
    ),
    Column("sent", "sent", (ONE, "sent"), "bytes", _sent, shown=1),
    Column("sent_up", "sent", (ONE, "up"), "bytes", _per_client_and_round("bytes_up")),
    Column("sent_down", "sent", (ONE, "down"), "bytes", _per_client_and_round("bytes_down")),
    Column("sent_between", "sent", (ONE, "neighbours"), "bytes", _between),
    _leaked("exposed", "leaked by messages", "exposed", "sent", "wire", shown=2),
    _leaked("label_mix", "leaked by messages", "label_mix", "sent", "wire", shown=2),
    _leaked("exposed_own_client", "to another client", "exposed", "sent", "own_client"),
    _leaked("exposed_network", "network known", "exposed", "sent", "network"),
    _leaked("label_mix_network", "network known", "label_mix", "sent", "network"),
    _leaked("exposed_published", "leaked by model", "exposed", "published", "wire", shown=2),
    _leaked("label_mix_published", "leaked by model", "label_mix", "published", "wire"),
    Column("epsilon", "privacy", (RUN, "epsilon"), "epsilon", _epsilon, words=EPSILON),
    Column("not_covered", "privacy", ("epsilon does", "not cover"), "text", _not_covered),
    Column("flops", "cost", (ONE, "FLOPs"), "FLOPs", _per_client_and_round("flops"), shown=3),
    Column("time", "cost", (RUN, "time"), "s", lambda row: row.group.mean("seconds"), shown=4),
    Column("steps", "cost", (RUN, "steps"), "count", lambda row: row.group.mean("steps")),
    Column("server_steps", "cost", (RUN, "server steps"), "count", lambda row: row.group.mean("steps_server") or None),
    Column(
        "server_flops",
        "cost",
        ("server, per round", "FLOPs"),
        "FLOPs",
        lambda row: row.group.mean("flops_server") / row.group.options["rounds"] or None,
    ),
    Column(
        "reached",
        "target",
        (GOAL, "runs"),
        "count",
        lambda row: (reached := _reached(row)) and reached.arrived,
        shown=1,
        needs="target",
        words=TARGET,
    ),
    *(
        Column(f"{quantity}_to_target", "target", (GOAL, quantity), unit, _to_target(quantity), shown=1, needs="target")
        for quantity, unit in (("rounds", "rounds"), ("bytes", "bytes"), ("flops", "FLOPs"), ("seconds", "s"))
    ),
    Column(
        "equal",
        "equal",
        (EQUALLY, "{metric} %"),
        "%",
        lambda row: row.equal and _percent(row.equal[0]),
        shown=1,
        needs="equal",
        spread=True,
        words=EQUAL,
    ),
    Column("equal_n", "equal", (EQUALLY, "n"), "count", lambda row: row.equal and len(row.equal[0]), needs="equal"),
    *_differences("equal", "equal", "difference to baseline there", "equal"),
    *(
        Column(f"equal_{name}", "equal", (EQUALLY, name), unit, lambda row, i=i: row.equal and row.equal[i], 1, "equal")
        for i, (name, unit) in enumerate((("bytes", "bytes"), ("rounds", "rounds"), ("steps", "count")), start=1)
    ),
]
SHOWN = {"global": 1, "personal": 1, "worst": 2, "tuned": 1, "new_sent": 1, "new_tuned": 1}  # `shown` of the metrics


def of_metric(metric: str, request: Request) -> list[Column]:
    """Return the columns that every metric has: the value reached, and the gain over learning alone."""
    measure, examples = measure_of(metric)
    head = metric if measure == "accuracy" else examples + metric[len(metric.partition(":")[0]) :]
    is_main = 1 if metric == request.metric else 0
    return [
        Column(
            *(metric, "accuracy", (f"{measure} %", head), "%", lambda row: _percent(row.values(metric))),
            shown=is_main or SHOWN.get(metric, 0),
            spread=True,
            words=f"{metric}: {measure} {metrics.words(metric)}",
        ),
        Column(
            *(f"gain_{metric}", "gain", ("gain over alone", metric), "points"),
            lambda row: (pair := row.gain(metric)) and 100 * pair.mean,
            shown=is_main or int(metric in ("global", "personal")),
        ),
    ]


def of_option(name: str) -> Column:
    """Return the column of an option of the runs, with the values from the command lines."""

    def value(row: Row) -> float | str | None:
        setting = row.group.options.get(name)
        is_number = isinstance(setting, int | float) and not isinstance(setting, bool)
        return setting if is_number else shown(setting) if name in row.group.options else None

    head = name if name == "algorithm" else f"--{name}"
    return Column(head, "options", ("", head), "option", value)


def declared(runs: Sequence[Run], options: Iterable[str], request: Request) -> list[Column]:
    """Return all columns that runs can have, in the order of a table."""
    available = metrics.columns(runs)
    requested = [name for name in request.columns if any(column_of(run, name) for run in runs)]
    every = dict.fromkeys([*([] if request.metric in available else [request.metric]), *available, *requested])
    columns = [*map(of_option, options), *(column for metric in every for column in of_metric(metric, request)), *COLUMNS]
    order = list(GROUPS)
    return sorted(columns, key=lambda column: order.index(column.group))


def chosen(every: Sequence[Column], request: Request) -> list[Column]:
    """Return the columns to show.

    `--columns` selects columns by name or group. Without it: the columns shown by default and those that other flags
    request. Raises UserError."""
    available = [column for column in every if not column.needs or getattr(request, column.needs)]
    if not request.columns:
        return [column for column in available if column.shown]
    for word in request.columns:
        matches = [column for column in every if word in (column.name, column.group, "all")]
        if not matches:
            raise UserError(
                f"--columns {word}: no such column; must be all, a group ({', '.join(GROUPS)}) or a column: "
                f"{', '.join(column.name for column in every)}"
            )
        if not any(column in available for column in matches):
            raise UserError(f"--columns {word}: needs --{matches[0].needs}")
    requested = set(request.columns)
    return [column for column in available if {column.name, column.group, "all"} & requested]


def _percent(values: Values | None) -> np.ndarray | None:
    return None if values is None else 100 * np.array(list(values.values()), dtype=float)


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
