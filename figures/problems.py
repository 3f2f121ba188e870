"""Methods by problems: the table of a paper's comparison, and what may be said of a method over all problems.

A problem is what differs in the runs' data, split, clients or network (`options.Problem`). A row is a method, a column a
problem, a cell the mean over seeds with its deviation. Settings are chosen within a problem, by validation; problems are
never chosen among.
"""

from collections.abc import Sequence

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
)
from figures.metrics import ROUND, accuracy, check_metric, meant, seed_of
from figures.statistics import LEAST_PROBLEMS, Values, nemenyi, over_problems, paired
from figures.units import flags_told
from figures.verdict import at_chance, eligible, winners
from saves import Run


def title_of(names: Sequence[str], values: Sequence[str], between: str = "\n") -> str:
    """A problem as the head of a column: the data set by its name alone, other options with theirs."""
    told = [value if name == "dataset" else f"{name} {value}" for name, value in zip(names, values, strict=True)]
    return between.join(told)


def overview(runs: Sequence[Run], metric: str = "global", on: str = "last", select: Sequence[str] = ()) -> Comparison:
    """A row a method, a column a problem, accuracies in percent; and the average rank of each method over the problems that
    all of them were run on. Raises UserError as `compare`."""
    names, found = problems(runs)
    chosen: dict[tuple[str, ...], list[Group]] = {}
    for problem in found:
        check(problem.runs)
        check_metric(problem.runs, metric)
        chosen[problem.values] = [group for group, _ in selected(ordered(problem.runs), select, on)]
    everyone = [group for groups in chosen.values() for group in groups]
    label = _labels(everyone, (*names, *select))
    methods = sorted(dict.fromkeys(map(label, everyone)), key=lambda name: (name.split()[0] in REFERENCES, name))
    values = {problem: _values(groups, label, metric, on) for problem, groups in chosen.items()}
    marks = {problem: _marks(groups, label, metric, values[problem]) for problem, groups in chosen.items()}
    ranks, notes = _ranks(methods, list(values.values()))
    columns = [
        Column(title_of(names, problem, ", "), "problems", (*title_of(names, problem).split("\n"),), "%", None, spread=True)
        for problem in values
    ]
    rank = Column("average rank", "problems", ("average", "rank"), "rank", None)
    rows = [
        {
            column.name: _cell(method, of_it, marks[problem])
            for column, (problem, of_it) in zip(columns, values.items(), strict=True)
        }
        | {rank.name: cell_of(ranks.get(method), rank.unit)}
        for method in methods
    ]
    below = sum(name.split()[0] not in REFERENCES for name in methods)
    title = f"{f'{metric} accuracy' if meant(metric)[0] == 'accuracy' else metric} (%) {ROUND[on]}, by problem"
    notes = [
        "mean ± standard deviation over seeds (number of seeds)",
        "* or bold: the best of the collaborating methods on a problem, several where they are equal, none that diverged or "
        "is no better than predicting the largest class; ~ or a dagger: not told apart from it, Student's "
        "95 % interval of the differences, paired by seed, has 0 in it",
        *notes,
        seeds_told(everyone),
        *diverged_told(everyone),
        *at_chance(everyone),
    ]
    table = Table(
        title, [*columns, *([rank] if ranks else [])], rows, methods, below=below if 0 < below < len(rows) else None
    )
    return Comparison([table], [], notes, _data(names, values, marks, methods, metric))


def _data(
    names: Sequence[str],
    values: dict[tuple, dict[str, Values]],
    marks: dict[tuple, dict[str, str]],
    methods: Sequence[str],
    metric: str,
) -> Table:
    """The same for programs: a row a method and problem."""
    keys = [of_option(name) for name in ("algorithm", *names)]
    n, mark = Column("n", "runs", ("n",), "count", None), Column("mark", "runs", ("mark",), "text", None)
    mean = Column(metric, "accuracy", (metric,), "%", None, spread=True)
    rows = []
    for method in methods:
        for problem, of_it in values.items():
            if method in of_it:
                own = np.array(list(of_it[method].values()))
                told = [cell_of(value, "text") for value in (method, *problem)]
                told += [cell_of(len(own), "count"), cell_of(100 * own, "%"), cell_of(marks[problem].get(method), "text")]
                rows.append({column.name: cell for column, cell in zip((*keys, n, mean, mark), told, strict=True)})
    return Table("data", [n, mean, mark], rows, [], keys=keys)


def _labels(everyone: Sequence[Group], left_out: Sequence[str]):
    """group -> what its row is called: its algorithm, and the settings that tell methods of this algorithm apart."""
    vary = [name for name in distinguishing([group.options for group in everyone]) if name not in (*left_out, *OF_A_SEED)]

    def label(group: Group) -> str:
        of_it = [other for other in everyone if other.algorithm == group.algorithm]
        own = [name for name in vary if len({repr(other.options.get(name)) for other in of_it}) > 1]
        return f"{group.algorithm} {flags_told(group.options, own)}".strip()

    return label


def _values(groups: Sequence[Group], label, metric: str, on: str) -> dict[str, Values]:
    """{method: its accuracy by seed} on one problem. Raises UserError for a method that is there twice."""
    found: dict[str, Values] = {}
    for group in groups:
        if label(group) in found:
            raise UserError(f"{label(group)} was run twice on one problem, in settings that the table does not tell apart")
        found[label(group)] = {seed_of(run): accuracy(run, metric, on) for run in group.runs}
    return found


def _cell(method: str, values: dict[str, Values], marks: dict[str, str]) -> Cell:
    """The mean of a method's seeds on a problem, with its mark."""
    if method not in values:
        return Cell(None, "")
    own = cell_of(100 * np.array(list(values[method].values())), "%")
    n = f" ({len(values[method])})"
    return own._replace(text=own.text + n, short=own.short and own.short + n, mark=marks.get(method, ""))


def _marks(groups: Sequence[Group], label, metric: str, values: dict[str, Values]) -> dict[str, str]:
    """Return {method: "best" or "level"}: the winners of the collaborating methods on a problem, where there are several
    methods, and what is not told apart from them."""

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


def _ranks(methods: Sequence[str], values: Sequence[dict[str, Values]]) -> tuple[dict[str, float], list[str]]:
    """The average rank of the collaborating methods over problems, 1 the best, and what it allows to say."""
    from scipy.stats import rankdata

    competing = [name for name in methods if name.split()[0] not in REFERENCES]
    common = [of for of in values if all(name in of for name in competing)]
    if len(competing) < 2 or len(common) < 2:
        return {}, []
    table = np.array([[np.mean(list(of[name].values())) for name in competing] for of in common])  # [problems, methods]
    ranks = rankdata(-table, axis=1).mean(0)
    words = [f"average rank of the collaborating methods over {len(common)} problems, 1 is best"]
    if len(common) < LEAST_PROBLEMS:
        words.append(f"no test over problems: {len(common)} are too few, {LEAST_PROBLEMS} the least")
    else:
        name, p = over_problems(table)
        words.append(f"{name} over {len(common)} problems: p = {p:.3f}")
        if len(competing) > 2:
            distance = nemenyi(len(competing), len(common))
            words.append(f"Nemenyi: ranks that differ by less than {distance:.2f} are not told apart at 5 %")
    return dict(zip(competing, map(float, ranks), strict=True)), words
