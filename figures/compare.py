"""The one comparison of saved runs: a row a setting, what it reaches, how far it is from others, and what it costs. Whatever
prints a table of results prints this one: the end of `run.py`, `figures.table` in all its forms, and the report.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from errors import UserError
from figures import targets
from figures.alone import alone_for
from figures.columns import Asked, Cell, Column, Row, cell_of, chosen, declared, of_option
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
from figures.verdict import at_chance, verdict
from saves import Run

ABSENT = "(none)"  # an option that an algorithm, or an older run, does not have
SHORT = {
    "global": "whole test set",
    "personal": "each client's own distribution",
    "worst": "the worst client's own",
    "tuned": "personal after fine-tuning",
}


@dataclass
class Table:
    """`rows`: {name of a column: cell}; `keys`: the columns that tell rows apart in forms for programs; `names`: what a row
    is called in forms for people, below `head`; from row `below` on they are reference lines, None without a rule; `groups`:
    that of each row."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Cell]]
    names: list[str]
    head: str = "algorithm"
    keys: list[Column] = field(default_factory=list)
    below: int | None = None
    groups: list[Group] = field(default_factory=list)

    def machine(self) -> tuple[list[tuple[str, str]], list[list[Any]]]:
        """Headers with their unit of UNITS, and a list of raw values a row."""
        own = {key.name for key in self.keys}
        columns = [*self.keys, *(column for column in self.columns if column.name not in own)]
        headers = [] if self.keys else [(self.head, "text")]
        rows: list[list[Any]] = [[] if self.keys else [name] for name in self.names or self.rows]
        for column in columns:
            headers += [(column.header, column.unit), *([(column.of_spread, column.unit)] if column.spread else [])]
            for told, row in zip(rows, self.rows, strict=True):
                cell = row[column.name]
                told += [cell.value, *([cell.std] if column.spread else [])]
        return headers, rows


@dataclass
class Comparison:
    """Tables, what they say in words, and how to read them; `data`: what stands for the first in forms for programs, where
    a row of it is several of theirs."""

    tables: list[Table]
    verdict: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: Table | None = None

    @property
    def lines(self) -> list[str]:
        """What stands below the tables: what is shown, the verdict, the other notes."""
        return [*self.notes[:1], *self.verdict, *self.notes[1:]]


def compare(
    runs: Sequence[Run], metric: str = "global", *, beside: Sequence[Run] = (), place: str = "", **flags
) -> Comparison:
    """The comparison of saved runs, in any order; `flags` are those of `Asked`, as `figures.table` takes them. `beside`:
    runs of `independent` that are no rows, for gains where no row is one; `place`: the command that shows more columns.
    Raises UserError."""
    asked = Asked(metric, **flags)
    if asked.metric.startswith("tuned") and (asked.on == "validation" or asked.target is not None or asked.equal):
        raise UserError(f"--metric {asked.metric} is of the last round alone: not with --on validation, --target or --equal")
    if asked.equal and asked.on == "validation":
        raise UserError("--equal bytes reads the test curve at a budget: not with --on validation")
    check(runs)
    check_metric(runs, asked.metric)
    rows, others = _rows(runs, asked, groups(beside))
    asked = rows[0].asked
    options = [row.group.options for row in rows]
    apart = list(asked.by) or ["algorithm", *distinguishing(options, across=True)]
    _check_apart(rows, apart, asked)
    keys = [of_option(name) for name in dict.fromkeys((*apart, *asked.select))]
    within = dict.fromkeys((*(asked.by or distinguishing(options)), *asked.select))
    names = [_name(row.group, within, asked) for row in rows]
    _against_baseline(rows, names)
    every = declared(runs, [key.name.removeprefix("--") for key in keys if key.name != "algorithm"], asked)
    wanted = chosen(every, asked)
    n = next(column for column in every if column.name == "n")
    cells = [{column.name: cell_of(column.value(row), column.unit) for column in (*keys, n, *wanted)} for row in rows]
    columns = [column for column in wanted if column.name in asked.columns or any(of[column.name].text for of in cells)]
    below = sum(row.group.algorithm not in REFERENCES for row in rows)
    table = Table(
        ROUND[asked.on],
        [_ready(column, asked) for column in columns],
        cells,
        names,
        "algorithm" if "algorithm" in apart else "--" + ", --".join(asked.by),
        [*keys, n],
        below if 0 < below < len(rows) else None,
        [row.group for row in rows],
    )
    found = [row.group for row in rows]
    told = dict.fromkeys(asked.fill(column.words) for column in columns if column.words and column.name not in SHORT)
    notes = [_explained(table, asked, place), *told, *_cautions(found, set(apart) - {*within, "algorithm"})]
    notes += _budgets(rows, others) if asked.select else []
    words = verdict(found, groups(beside)) if asked.on == "last" else []
    return Comparison([table], words, notes)


def _ready(column: Column, asked: Asked) -> Column:
    """With what is asked for in its header; one that is asked for by name or group is never left out."""
    heads = tuple(map(asked.fill, column.heads))
    return column._replace(heads=heads, shown=1 if asked.columns else column.shown)


def _rows(runs: Sequence[Run], asked: Asked, beside: Sequence[Group]) -> tuple[list[Row], list[list[Group]]]:
    """The rows, the best first, then those that diverged, references last; and the settings that were tried for each."""
    settings = selected(ordered(runs), asked.select, asked.on)
    found = [group for group, _ in settings]
    if asked.equal:
        asked = replace(asked, budget=_budget(found, asked.equal))
    rows = [Row(group, asked, alone_for(group, found, beside), len(tried)) for group, tried in settings]
    for row in rows:
        if asked.equal:
            row.equal = _at_budget(row.group, asked)

    def place(row: Row) -> tuple[bool, bool, float]:
        values = [accuracy(run, asked.metric, asked.on) for run in row.group.runs]
        return row.group.algorithm in REFERENCES, row.group.diverged, -float(np.mean(values))

    order = sorted(range(len(rows)), key=lambda i: place(rows[i]))
    return [rows[i] for i in order], [settings[i][1] for i in order]


def _check_apart(rows: Sequence[Row], apart: Sequence[str], asked: Asked) -> None:
    """Raises UserError where two rows would be called alike: their runs are not averaged."""
    found = [row.group for row in rows]
    for name in asked.by:
        if not any(name in group.options for group in found):
            raise UserError(f"--by {name}: no run has this option")
    every = ["algorithm", *distinguishing([group.options for group in found], across=True)]
    seen: dict[str, Group] = {}
    for group in found:
        twin = seen.setdefault(repr([group.options.get(name, ABSENT) for name in apart]), group)
        if twin is not group:
            both = [(name, *(other.options.get(name, ABSENT) for other in (twin, group))) for name in every]
            name, *values = next(differs for differs in both if differs[1] != differs[2])
            one, other = sorted(map(shown, values))
            raise UserError(
                f"--by {','.join(asked.by)}: runs of {group.algorithm} that differ in {name} ({one} and {other}) "
                f"are not averaged; --by {','.join((*asked.by, name))} tells them apart"
            )


def _name(group: Group, names: Sequence[str], asked: Asked) -> str:
    """What a row is called: its algorithm and the options that tell those of one algorithm apart."""
    own = [name for name in names if name in group.options and name != "algorithm"]
    algorithm = shown(group.algorithm) if not asked.by or "algorithm" in asked.by else ""
    return f"{algorithm} {flags_told(group.options, own)}".strip()


def _against_baseline(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Take every row's difference to the baseline. Raises UserError where that is not one row."""
    asked = rows[0].asked
    if asked.baseline is None:
        return
    wanted = asked.baseline.replace("(", "").replace(")", "")
    exact = [i for i, name in enumerate(names) if name == wanted]
    meant = exact or [i for i, row in enumerate(rows) if row.group.algorithm == wanted]
    if len(meant) != 1:
        what = "no row" if not meant else "several rows"
        raise UserError(f"--baseline {asked.baseline}: {what} of that name; {'; '.join(names)}")
    base = rows[meant[0]]
    for at in ("end", *(["equal"] if asked.equal else [])):
        values = {id(row): row.values(asked.metric) if at == "end" else row.equal[0] for row in rows}
        found = {id(row): paired(values[id(row)], values[id(base)]) for row in rows if row is not base}
        tested = [one for one, pair in found.items() if pair and pair.p is not None]
        adjusted = dict(zip(tested, holm([found[one].p for one in tested]), strict=True))
        for row in rows:
            if pair := found.get(id(row)):
                row.against[at] = (pair, adjusted.get(id(row)))


def _budget(found: Sequence[Group], equal: float | str) -> float:
    """The budget that is asked for, or the largest total of bytes that all communicating groups have reached."""
    methods = [group for group in found if group.algorithm not in REFERENCES]
    totals = [sent(run) for group in methods for run in group.runs if sent(run)]
    if not totals:
        raise UserError("--equal bytes: no method of these runs has sent anything")
    return min(totals) if equal == "bytes" else float(equal)


def _at_budget(group: Group, asked: Asked):
    """Of a group's runs at the budget: {seed: accuracy}, and the mean bytes, rounds and steps there, None without any."""
    told: list[tuple[Seed, float, list[float]]] = []
    for run in group.runs:
        nbytes = targets.cumulated(run, "bytes")
        limited = group.algorithm not in REFERENCES and nbytes[-1]
        at = min(asked.budget, nbytes[-1]) if limited else nbytes[-1]
        there, curve = targets.evaluated(run, column_of(run, asked.metric))
        value = targets.interpolated(nbytes[there], curve, at)
        if value is not None:
            spent = [targets.interpolated(nbytes, targets.cumulated(run, name), at) for name in ("rounds", "steps")]
            told.append((seed_of(run), value, [at, *spent]))
    costs = np.mean([rest for *_, rest in told], axis=0).tolist() if told else [None] * 3
    return {seed: value for seed, value, _ in told}, *costs


# --- how to read them --------------------------------------------------------------------------------------------------


def _explained(table: Table, asked: Asked, place: str) -> str:
    """In a line: what is shown, over how many seeds, and where the rest is."""
    what = [f"{column.name}: {SHORT[column.name]}" for column in table.columns if column.name in SHORT]
    counts = sorted({len(group.runs) for group in table.groups})
    n = f"n = {counts[0]}{f' to {counts[-1]}' if len(counts) > 1 else ''} seed{'s' * (counts[-1] > 1)}"
    mean = ", mean ± standard deviation over seeds" if counts[-1] > 1 else ""
    more = "" if "all" in asked.columns else f" More columns: {place or 'with'} --columns all"
    first = f"{ROUND[asked.on][:1].upper()}{ROUND[asked.on][1:]}, best {asked.metric} first."
    return f"{first} {'; '.join(what)}{'. ' if what else ''}{n}{mean}.{more}"


def _cautions(found: Sequence[Group], untold: set[str]) -> Iterator[str]:
    yield seeds_told(found)
    if untold:
        told = [
            f"--{name} {' or '.join(dict.fromkeys(shown(g.options[name]) for g in found if name in g.options))}"
            for name in sorted(untold)
        ]
        yield f"methods differ in {', '.join(told)}"
    yield from diverged_told(found)
    yield from at_chance(found)
    for group in found:
        codes = {run.config.get("source") for run in group.runs}
        if len(codes) > 1:
            yield f"warning: {group.algorithm} was run with {len(codes)} versions of code or libraries (figures.diff)"
    machines = {repr(run.config.get("environment")) for group in found for run in group.runs}
    if len(machines) > 1:
        yield f"warning: runs of {len(machines)} environments, whose seconds do not compare (figures.diff)"


def _budgets(rows: Sequence[Row], tried: Sequence[Sequence[Group]]) -> Iterator[str]:
    yield "of the settings tried the one with the best mean validation accuracy, and its test accuracy"
    if len({len(settings) for settings in tried}) > 1:
        told = sorted(f"{row.group.algorithm} {len(settings)}" for row, settings in zip(rows, tried, strict=True))
        yield f"warning: an unequal tuning budget: settings tried are {', '.join(told)}"
    for row, settings in zip(rows, tried, strict=True):
        if len({frozenset(map(seed_of, other.runs)) for other in settings}) > 1:
            yield f"warning: the settings of {row.group.algorithm} were tried with different seeds"
