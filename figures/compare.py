"""Compare saved runs: a row per setting, with its results, its differences to other rows, and its costs.

All tables of results come from this module: at the end of `run.py`, in all forms of `figures.table`, and in the report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from errors import UserError
from figures import targets
from figures.alone import alone_for
from figures.columns import Cell, Column, Request, Row, cell_of, chosen, declared, of_option
from figures.groups import (
    REFERENCES,
    Group,
    check,
    distinguishing,
    diverged_told,
    groups,
    ordered,
    seeds_told,
    selected,
    sent,
)
from figures.metrics import ROUND, accuracy, check_metric, column_of, seed_of
from figures.statistics import Seed, holm, paired
from figures.units import flags_told, shown
from figures.verdict import at_chance, not_tuned, verdict
from saves import Run

ABSENT = "(none)"  # of an option that an algorithm or an older run does not have
SHORT = {
    "global": "whole test set",
    "personal": "each client's own distribution",
    "worst": "the worst client's own distribution",
    "tuned": "personal after fine-tuning",
}


@dataclass
class Table:
    """Hold a table of results.

    `rows`: {name of a column: cell}. `keys`: the columns that identify rows in forms for programs. `names`: the labels of
    the rows in forms for people, below `head`. `below`: the index of the first reference row; None without a rule. `groups`:
    the group of each row."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Cell]]
    names: list[str]
    head: str = "algorithm"
    keys: list[Column] = field(default_factory=list)
    below: int | None = None
    groups: list[Group] = field(default_factory=list)

    def machine(self) -> tuple[list[tuple[str, str]], list[list[Any]]]:
        """Return headers with their unit of UNITS, and a list of raw values per row."""
        key_names = {key.name for key in self.keys}
        columns = [*self.keys, *(column for column in self.columns if column.name not in key_names)]
        headers = [] if self.keys else [(self.head, "text")]
        rows: list[list[Any]] = [[] if self.keys else [name] for name in self.names or self.rows]
        for column in columns:
            headers += [(column.header, column.unit), *([(column.of_spread, column.unit)] if column.spread else [])]
            for values, row in zip(rows, self.rows, strict=True):
                cell = row[column.name]
                values += [cell.value, *([cell.std] if column.spread else [])]
        return headers, rows


@dataclass
class Comparison:
    """Hold tables, a verdict in words, and notes on how to read the tables.

    `data`: replaces the first table in forms for programs, where a row of that table is several rows of data."""

    tables: list[Table]
    verdict: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: Table | None = None

    @property
    def lines(self) -> list[str]:
        """Return the lines below the tables: the first note, the verdict, the other notes."""
        return [*self.notes[:1], *self.verdict, *self.notes[1:]]


def compare(
    runs: Sequence[Run], metric: str = "global", *, beside: Sequence[Run] = (), place: str = "", **flags
) -> Comparison:
    """Return the comparison of saved runs, in any order.

    `flags` are those of `Request`, as `figures.table` takes them. `beside`: runs of `independent` that are not rows; gains
    use them where no row is `independent`. `place`: the command that shows more columns. Raises UserError."""
    request = Request(metric, **flags)
    if request.metric.startswith("tuned") and (request.on == "validation" or request.target is not None or request.equal):
        raise UserError(
            f"--metric {request.metric} exists only after the last round; remove --on validation, --target or --equal"
        )
    if request.equal and request.on == "validation":
        raise UserError("--equal bytes reads the test curve; remove --on validation")
    check(runs)
    check_metric(runs, request.metric)
    rows, tried = _rows(runs, request, groups(beside))
    request = rows[0].request
    options = [row.group.options for row in rows]
    distinct_names = list(request.by) or ["algorithm", *distinguishing(options, across=True)]
    _check_apart(rows, distinct_names, request)
    keys = [of_option(name) for name in dict.fromkeys((*distinct_names, *request.select))]
    label_names = dict.fromkeys((*(request.by or distinguishing(options)), *request.select))
    names = [_name(row.group, label_names, request) for row in rows]
    _against_baseline(rows, names)
    every = declared(runs, [key.name.removeprefix("--") for key in keys if key.name != "algorithm"], request)
    selection = chosen(every, request)
    n = next(column for column in every if column.name == "n")
    cells = [{column.name: cell_of(column.value(row), column.unit) for column in (*keys, n, *selection)} for row in rows]
    columns = [
        column
        for column in selection
        if column.name in request.columns or any(row_cells[column.name].text for row_cells in cells)
    ]
    below = sum(row.group.algorithm not in REFERENCES for row in rows)
    table = Table(
        ROUND[request.on],
        [_ready(column, request) for column in columns],
        cells,
        names,
        "algorithm" if "algorithm" in distinct_names else "--" + ", --".join(request.by),
        [*keys, n],
        below if 0 < below < len(rows) else None,
        [row.group for row in rows],
    )
    row_groups = [row.group for row in rows]
    explanations = dict.fromkeys(
        request.fill(column.words) for column in columns if column.words and column.name not in SHORT
    )
    notes = [
        _explained(table, request, place),
        *explanations,
        *_cautions(row_groups, set(distinct_names) - {*label_names, "algorithm"}),
    ]
    notes += _budgets(rows, tried) if request.select else []
    conclusions = verdict(row_groups, groups(beside)) if request.on == "last" else []
    return Comparison([table], conclusions, notes)


def _ready(column: Column, request: Request) -> Column:
    """Return a column with the requested values in its header.

    A column that the user requests by name or group is never left out."""
    heads = tuple(map(request.fill, column.heads))
    return column._replace(heads=heads, shown=1 if request.columns else column.shown)


def _rows(runs: Sequence[Run], request: Request, beside: Sequence[Group]) -> tuple[list[Row], list[list[Group]]]:
    """Return the rows, and for each row the settings that were tried.

    The best row comes first, then the rows that diverged; references come last."""
    settings = selected(ordered(runs), request.select, request.on)
    row_groups = [group for group, _ in settings]
    if request.equal:
        request = replace(request, budget=_budget(row_groups, request.equal))
    rows = [Row(group, request, alone_for(group, row_groups, beside), len(tried)) for group, tried in settings]
    for row in rows:
        if request.equal:
            row.equal = _at_budget(row.group, request)

    def place(row: Row) -> tuple[bool, bool, float]:
        values = [accuracy(run, request.metric, request.on) for run in row.group.runs]
        return row.group.algorithm in REFERENCES, row.group.diverged, -float(np.mean(values))

    order = sorted(range(len(rows)), key=lambda i: place(rows[i]))
    return [rows[i] for i in order], [settings[i][1] for i in order]


def _check_apart(rows: Sequence[Row], keys: Sequence[str], request: Request) -> None:
    """Raise UserError where two rows would have the same label: their runs are not averaged."""
    row_groups = [row.group for row in rows]
    for name in request.by:
        if not any(name in group.options for group in row_groups):
            raise UserError(f"--by {name}: no run has this option")
    differing = ["algorithm", *distinguishing([group.options for group in row_groups], across=True)]
    first_with: dict[str, Group] = {}
    for group in row_groups:
        twin = first_with.setdefault(repr([group.options.get(name, ABSENT) for name in keys]), group)
        if twin is not group:
            values_of_both = [(name, *(second.options.get(name, ABSENT) for second in (twin, group))) for name in differing]
            name, *values = next(
                values_of_option for values_of_option in values_of_both if values_of_option[1] != values_of_option[2]
            )
            first, second = sorted(map(shown, values))
            raise UserError(
                f"--by {','.join(request.by)}: runs of {group.algorithm} that differ in {name} ({first} and {second}) "
                f"are not averaged; --by {','.join((*request.by, name))} separates them"
            )


def _name(group: Group, names: Sequence[str], request: Request) -> str:
    """Return the label of a row: its algorithm, and the options in which rows of this algorithm differ."""
    own_names = [name for name in names if name in group.options and name != "algorithm"]
    algorithm = shown(group.algorithm) if not request.by or "algorithm" in request.by else ""
    return f"{algorithm} {flags_told(group.options, own_names)}".strip()


def _against_baseline(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Add to every row its difference to the baseline. Raises UserError where the name does not match exactly one row."""
    request = rows[0].request
    if request.baseline is None:
        return
    label = request.baseline.replace("(", "").replace(")", "")
    exact = [i for i, name in enumerate(names) if name == label]
    matches = exact or [i for i, row in enumerate(rows) if row.group.algorithm == label]
    if len(matches) != 1:
        n_rows = "no row" if not matches else "several rows"
        raise UserError(f"--baseline {request.baseline}: {n_rows} with this name; must be one of: {'; '.join(names)}")
    base = rows[matches[0]]
    for at in ("end", *(["equal"] if request.equal else [])):
        values = {id(row): row.values(request.metric) if at == "end" else row.equal[0] for row in rows}
        differences = {id(row): paired(values[id(row)], values[id(base)]) for row in rows if row is not base}
        tested = [row_id for row_id, pair in differences.items() if pair and pair.p is not None]
        adjusted = dict(zip(tested, holm([differences[row_id].p for row_id in tested]), strict=True))
        for row in rows:
            if pair := differences.get(id(row)):
                row.against[at] = (pair, adjusted.get(id(row)))


def _budget(groups: Sequence[Group], equal: float | str) -> float:
    """Return the requested budget in bytes.

    `equal` "bytes" is the largest total of bytes that all communicating groups have reached."""
    methods = [group for group in groups if group.algorithm not in REFERENCES]
    totals = [sent(run) for group in methods for run in group.runs if sent(run)]
    if not totals:
        raise UserError("--equal bytes: no method of these runs sends anything")
    return min(totals) if equal == "bytes" else float(equal)


def _at_budget(group: Group, request: Request):
    """Return the results of a group's runs at the budget: {seed: accuracy}, and mean bytes, rounds and steps.

    The means are None without any run that was evaluated by then."""
    reached: list[tuple[Seed, float, list[float]]] = []
    for run in group.runs:
        n_bytes = targets.cumulated(run, "bytes")
        is_limited = group.algorithm not in REFERENCES and n_bytes[-1]
        at = min(request.budget, n_bytes[-1]) if is_limited else n_bytes[-1]
        is_evaluated, curve = targets.evaluated(run, column_of(run, request.metric))
        value = targets.interpolated(n_bytes[is_evaluated], curve, at)
        if value is not None:
            spent = [targets.interpolated(n_bytes, targets.cumulated(run, name), at) for name in ("rounds", "steps")]
            reached.append((seed_of(run), value, [at, *spent]))
    costs = np.mean([rest for *_, rest in reached], axis=0).tolist() if reached else [None] * 3
    return {seed: value for seed, value, _ in reached}, *costs


# --- notes and cautions -------------------------------------------------------------------------------------------------


def _explained(table: Table, request: Request, place: str) -> str:
    """Return one line: the shown metrics, the number of seeds, and where more columns are."""
    meanings = [f"{column.name}: {SHORT[column.name]}" for column in table.columns if column.name in SHORT]
    counts = sorted({len(group.runs) for group in table.groups})
    n = f"n = {counts[0]}{f' to {counts[-1]}' if len(counts) > 1 else ''} seed{'s' * (counts[-1] > 1)}"
    mean = ", mean ± standard deviation over seeds" if counts[-1] > 1 else ""
    more = "" if "all" in request.columns else f" More columns: {place or 'with'} --columns all"
    first = f"{ROUND[request.on][:1].upper()}{ROUND[request.on][1:]}, best {request.metric} first."
    return f"{first} {'; '.join(meanings)}{'. ' if meanings else ''}{n}{mean}.{more}"


def _cautions(groups: Sequence[Group], differing: set[str]) -> Iterator[str]:
    yield seeds_told(groups)
    if differing:
        options = [
            f"--{name} {' or '.join(dict.fromkeys(shown(g.options[name]) for g in groups if name in g.options))}"
            for name in sorted(differing)
        ]
        yield f"methods differ in {', '.join(options)}"
    yield from diverged_told(groups)
    yield from at_chance(groups)
    yield from not_tuned(groups)
    for group in groups:
        codes = {run.config.get("source") for run in group.runs}
        if len(codes) > 1:
            yield f"warning: {group.algorithm} was run with {len(codes)} versions of code or libraries (see figures.diff)"
    machines = {repr(run.config.get("environment")) for group in groups for run in group.runs}
    if len(machines) > 1:
        yield f"warning: runs of {len(machines)} environments; do not compare their seconds (see figures.diff)"


def _budgets(rows: Sequence[Row], tried: Sequence[Sequence[Group]]) -> Iterator[str]:
    yield "test accuracies of the settings with the best mean validation accuracy"
    if len({len(settings) for settings in tried}) > 1:
        counts = sorted(f"{row.group.algorithm} {len(settings)}" for row, settings in zip(rows, tried, strict=True))
        yield f"warning: unequal tuning budgets, numbers of settings: {', '.join(counts)}"
    for row, settings in zip(rows, tried, strict=True):
        if len({frozenset(map(seed_of, other.runs)) for other in settings}) > 1:
            yield f"warning: the settings of {row.group.algorithm} were run with different seeds"
