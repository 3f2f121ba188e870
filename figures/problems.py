"""Compare methods over problems: the table of a paper's comparison, and what it supports over all problems.

A problem is what differs in the runs' data, split, clients or network (`options.Problem`). A row is a method, a column a
problem, a cell the mean over seeds with its deviation. Settings are selected within a problem, by validation; problems are
never selected."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from errors import UserError
from figures.columns import Cell, Column, cell_of, of_option
from figures.compare import Comparison, Table
from figures.groups import (
    OF_A_SEED,
    REFERENCES,
    Group,
    check,
    distinguishing,
    diverged_told,
    ordered,
    problems,
    seeds_told,
    selected,
    title_of,
)
from figures.metrics import ROUND, accuracy, check_metric, column_of, measure_of, seed_of
from figures.statistics import LEAST_PROBLEMS, Values, average_ranks, nemenyi, over_problems, paired
from figures.units import flags_told
from figures.verdict import at_chance, eligible, not_tuned, winners
from saves import Run


def main_metrics(runs: Sequence[Run]) -> list[str]:
    """Return the default metrics of a table over problems: global and personal accuracy, where all runs have both."""
    return [metric for metric in ("global", "personal") if all(column_of(run, metric) for run in runs)] or ["global"]


def overview(
    runs: Sequence[Run], metrics: Sequence[str] = ("global",), on: str = "last", select: Sequence[str] = ()
) -> Comparison:
    """Return a table for each metric: a row per method, a column per problem, accuracies in percent.

    Includes the average rank of each method over the problems on which all methods were run. Raises UserError as
    `compare`."""
    names, by_problem = problems(runs)
    groups_by_problem: dict[tuple[str, ...], list[Group]] = {}
    for problem in by_problem:
        check(problem.runs)
        for metric in metrics:
            check_metric(problem.runs, metric)
        groups_by_problem[problem.values] = [group for group, _ in selected(ordered(problem.runs), select, on)]
    all_groups = [group for groups in groups_by_problem.values() for group in groups]
    label = _labels(all_groups, (*names, *select))
    methods = sorted(dict.fromkeys(map(label, all_groups)), key=lambda name: (name.split()[0] in REFERENCES, name))
    results = [_Results.of(groups_by_problem, label, metric, on) for metric in metrics]
    tables, notes = zip(*(_table(result, names, methods, on, len(metrics) > 1) for result in results), strict=True)
    notes = [
        "mean ± standard deviation over seeds (number of seeds)",
        "* or bold: best collaborating method on a problem (several if equal; none that diverged or is no better than "
        "predicting the largest class); ~ or dagger: not significantly different from the best (Student's 95 % interval of "
        "the differences, paired by seed, includes 0)",
        *dict.fromkeys(note for of_metric in notes for note in of_metric),
        seeds_told(all_groups),
        *diverged_told(all_groups),
        *at_chance(all_groups),
        *not_tuned(all_groups),
    ]
    return Comparison(list(tables), [], notes, _data(names, results, methods))


class _Results(NamedTuple):
    """Hold the results by problem: {method: its accuracy by seed}, and {method: its mark}."""

    metric: str
    values: dict[tuple[str, ...], dict[str, Values]]
    marks: dict[tuple[str, ...], dict[str, str]]

    @classmethod
    def of(cls, groups_by_problem: Mapping[tuple[str, ...], Sequence[Group]], label, metric: str, on: str) -> "_Results":
        """Return the results of the groups on each problem."""
        values = {problem: _values(groups, label, metric, on) for problem, groups in groups_by_problem.items()}
        marks = {problem: _marks(groups, label, metric, values[problem]) for problem, groups in groups_by_problem.items()}
        return cls(metric, values, marks)


def _table(
    results: _Results, names: Sequence[str], methods: Sequence[str], on: str, is_of_several: bool
) -> tuple[Table, list[str]]:
    """Return the table of a metric, and the notes on its ranks; of several tables these name the metric."""
    ranks, notes = _ranks(methods, list(results.values.values()), f"{results.metric}: " if is_of_several else "")
    columns = [
        Column(title_of(names, problem, ", "), "problems", (*title_of(names, problem).split("\n"),), "%", None, spread=True)
        for problem in results.values
    ]
    rank = Column("average rank", "problems", ("average", "rank"), "rank", None)
    rows = [
        {
            column.name: _cell(method, accuracies, results.marks[problem])
            for column, (problem, accuracies) in zip(columns, results.values.items(), strict=True)
        }
        | {rank.name: cell_of(ranks.get(method), rank.unit)}
        for method in methods
    ]
    n_methods, metric = sum(name.split()[0] not in REFERENCES for name in methods), results.metric
    title = f"{f'{metric} accuracy' if measure_of(metric)[0] == 'accuracy' else metric} (%) {ROUND[on]}, by problem"
    below = n_methods if 0 < n_methods < len(rows) else None
    return Table(title, [*columns, *([rank] if ranks else [])], rows, methods, below=below), notes


def _data(names: Sequence[str], results: Sequence[_Results], methods: Sequence[str]) -> Table:
    """Return the same tables for programs: a row per method and problem."""
    keys = [of_option(name) for name in ("algorithm", *names)]
    n = Column("n", "runs", ("n",), "count", None)
    columns, rows = [], []
    for result in results:
        mark = f"{result.metric} mark" if columns else "mark"
        columns.append(Column(result.metric, "accuracy", (result.metric,), "%", None, spread=True))
        columns.append(Column(mark, "runs", (mark,), "text", None))
    for method in methods:
        for problem in (problem for problem, by_method in results[0].values.items() if method in by_method):
            cells = [cell_of(value, "text") for value in (method, *problem)]
            cells.append(cell_of(len(results[0].values[problem][method]), "count"))
            for result in results:
                accuracies = np.array(list(result.values[problem][method].values()))
                cells += [cell_of(100 * accuracies, "%"), cell_of(result.marks[problem].get(method), "text")]
            rows.append({column.name: cell for column, cell in zip((*keys, n, *columns), cells, strict=True)})
    return Table("data", [n, *columns], rows, [], keys=keys)


def _labels(groups: Sequence[Group], excluded: Sequence[str]):
    """Return a function group -> label of its row: its algorithm, and the settings in which methods of this algorithm
    differ."""
    varying = [name for name in distinguishing([group.options for group in groups]) if name not in (*excluded, *OF_A_SEED)]

    def label(group: Group) -> str:
        same_algorithm = [other for other in groups if other.algorithm == group.algorithm]
        own_names = [name for name in varying if len({repr(other.options.get(name)) for other in same_algorithm}) > 1]
        return f"{group.algorithm} {flags_told(group.options, own_names)}".strip()

    return label


def _values(groups: Sequence[Group], label, metric: str, on: str) -> dict[str, Values]:
    """Return {method: its accuracy by seed} on one problem. Raises UserError for a method that occurs twice."""
    values: dict[str, Values] = {}
    for group in groups:
        if label(group) in values:
            raise UserError(
                f"{label(group)} has two settings on one problem that this table does not distinguish; select one with "
                "--where"
            )
        values[label(group)] = {seed_of(run): accuracy(run, metric, on) for run in group.runs}
    return values


def _cell(method: str, values: dict[str, Values], marks: dict[str, str]) -> Cell:
    """Return the mean of a method's seeds on a problem, with its mark."""
    if method not in values:
        return Cell(None, "")
    cell = cell_of(100 * np.array(list(values[method].values())), "%")
    n = f" ({len(values[method])})"
    return cell._replace(text=cell.text + n, short=cell.short and cell.short + n, mark=marks.get(method, ""))


def _marks(groups: Sequence[Group], label, metric: str, values: dict[str, Values]) -> dict[str, str]:
    """Return {method: "best" or "level"} of the collaborating methods on a problem.

    "best": the best methods. "level": methods not significantly different from them. Empty with fewer than two methods."""

    def of(group: Group) -> Values:
        return values[label(group)]

    best = winners(groups, metric, of)
    if not best or sum(group.algorithm not in REFERENCES for group in groups) < 2:
        return {}
    marks = {}
    for group in eligible(groups, metric, of):
        difference = paired(of(best[0]), of(group))
        if group in best:
            marks[label(group)] = "best"
        elif difference and difference.n > 1 and not difference.apart:
            marks[label(group)] = "level"
    return marks


def _ranks(methods: Sequence[str], values: Sequence[dict[str, Values]], prefix: str) -> tuple[dict[str, float], list[str]]:
    """Return the average rank of the collaborating methods over problems, 1 the best, and the conclusions it supports.

    A conclusion begins with the prefix."""
    competing = [name for name in methods if name.split()[0] not in REFERENCES]
    common = [by_method for by_method in values if all(name in by_method for name in competing)]
    if len(competing) < 2 or len(common) < 2:
        return {}, []
    # [problems, methods]
    table = np.array([[np.mean(list(by_method[name].values())) for name in competing] for by_method in common])
    ranks = average_ranks(table)
    lines = [f"average rank of the collaborating methods over {len(common)} problems, 1 is best"]
    if len(common) < LEAST_PROBLEMS:
        lines.append(f"no significance test: {len(common)} problems are too few, at least {LEAST_PROBLEMS} are needed")
    else:
        name, p = over_problems(table)
        lines.append(f"{prefix}{name} over {len(common)} problems: p = {p:.3f}")
        if len(competing) > 2:
            distance = nemenyi(len(competing), len(common))
            lines.append(f"Nemenyi: ranks that differ by less than {distance:.2f} are not significantly different at 5 %")
    return dict(zip(competing, map(float, ranks), strict=True)), lines
