"""Saved runs compared over their seeds: a row a setting, what it reaches, how far it is from a baseline, and what it costs.

    python -m figures.table RUN [RUN ...] --baseline fedavg --target 0.9

A RUN is the folder of a finished run, or a folder of such. Rows are groups of runs that differ in their seeds only, and the
unit of every mean, spread and test is the pair of --seed and --split_seed, never the client. Runs on different splits or on
different data are refused, and so is the same seed twice in a row. What is shown is of the last round, or of the round that
was best on validation, for all rows alike; it is never chosen on the test set.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from errors import UserError
from figures import command, targets
from figures.cells import Cell, Comparison, cell_of, count, effort, percent, points, render, whole, without_empty, write_xlsx
from figures.groups import (
    HARMED,
    METRICS,
    REFERENCES,
    ROUND,
    Group,
    accuracy,
    alone_for,
    check,
    check_metric,
    column_of,
    diverged_told,
    gains,
    meant,
    ordered,
    problems,
    read,
    row_of,
    seed_of,
    seeds_told,
    selected,
    sent,
    varying,
    where,
)
from figures.problems import overview, title_of
from figures.statistics import LEAST_SEEDS, Paired, Seed, Values, holm, paired
from figures.summary import verdict, with_baselines
from figures.units import operations, shown, size
from saves import Run
from untrusted import tell

ABSENT = "(none)"  # an option that an algorithm, or an older run, does not have
WORDS = {
    "global": "on the whole test set, mean over clients where each has a model",
    "personal": "on each client's own distribution, mean over clients",
    "worst": "on each client's own distribution, of the worst client",
    "validation": "on each client's held-out training examples, mean over clients",
    "tuned": "on each client's own distribution after fine-tuning, mean over clients",
}


def words(metric: str) -> str:
    """On which examples an accuracy is, and of whom."""
    of = metric.partition(":")[2]
    return WORDS[meant(metric)[1]] + (f', of "{of}"' if of else "")


def compare(
    runs: Sequence[Run],
    metric: str = "global",
    on: str = "last",
    by: Sequence[str] = (),
    select: Sequence[str] = (),
    baseline: str | None = None,
    target: float | None = None,
    equal: float | str | None = None,
) -> Comparison:
    """The comparison of saved runs, in any order; the parameters are the flags of the command line. Raises UserError."""
    if metric.startswith("tuned") and (on == "validation" or target is not None or equal):
        raise UserError(f"--metric {metric} is of the last round alone: not with --on validation, --target or --equal")
    if equal and on == "validation":
        raise UserError("--equal bytes reads the test curve at a budget: not with --on validation")
    check(runs)
    check_metric(runs, metric)
    chosen = selected(ordered(runs), select, on)
    found = [group for group, _ in chosen]
    labels = _labels(found, by, select)
    base = None if baseline is None else _baseline(found, labels, baseline)
    if select:
        for label, (_, tried) in zip(labels, chosen, strict=True):
            label["settings\ntried"] = count(len(tried))

    values = [{seed_of(run): accuracy(run, metric, on) for run in group.runs} for group in found]
    rows = [label | told for label, told in zip(labels, _statistics(values, metric, base), strict=True)]
    for row, group in zip(rows, found, strict=True):
        row |= _gains(group, found, metric, on) | _costs(group, on)
        if target is not None:
            row |= _targets(group, target, column_of(group.runs[0], metric) if on == "last" else "validation_mean")
    rows = without_empty(rows, of="server")
    result = Comparison({ROUND[on]: rows})
    result.notes += _notes(found, metric, on, base, target)
    result.notes += _budgets(chosen) if select else []
    if equal:
        budget, rows = _at_equal_bytes(found, labels, metric, base, None if equal == "bytes" else equal)
        result.tables[f"at equal bytes: {size(budget)} of all clients"] = rows
        result.notes.append(
            f"at equal bytes: at {size(budget)}{' that every method has sent by its end' * (equal == 'bytes')}, on straight "
            "lines between evaluated rounds (nothing before the first, and what has sent less at its end); "
            f"{' and '.join(REFERENCES)} are shown at their end"
        )
    return result


def _labels(found: Sequence[Group], by: Sequence[str], select: Sequence[str]) -> list[dict[str, Cell]]:
    """What a row is called. Raises UserError where two rows would be called alike: their runs are not averaged."""
    for name in by:
        if not any(name in group.options for group in found):
            raise UserError(f"--by {name}: no run has this option")
    vary = varying(found)
    rows = list(by) or ["algorithm", *vary]
    seen: dict[str, Group] = {}
    for group in found:
        twin = seen.setdefault(repr([group.options.get(name, ABSENT) for name in rows]), group)
        if twin is not group:
            both = [(name, *(other.options.get(name, ABSENT) for other in (twin, group))) for name in ("algorithm", *vary)]
            name, one, other = next(differs for differs in both if differs[1] != differs[2])
            raise UserError(
                f"--by {','.join(by)}: runs of {group.algorithm} that differ in {name} ({shown(one)} and {shown(other)}) "
                f"are not averaged; --by {','.join((*by, name))} tells them apart"
            )
    names = dict.fromkeys((*rows, *select))
    return [{(name if name == "algorithm" else f"--{name}"): _option(group, name) for name in names} for group in found]


def _option(group: Group, name: str) -> Cell:
    value = group.options.get(name, "")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(value if number else shown(value), shown(value))


def _called(group: Group, label: dict[str, Cell]) -> str:
    told = " ".join(f"{name} {cell.text}" for name, cell in label.items() if name.startswith("--") and cell.text)
    return f"{group.algorithm} ({told})" if told else group.algorithm


def _baseline(found: Sequence[Group], labels: Sequence[dict[str, Cell]], wanted: str) -> int:
    """The row that is meant, by its algorithm or its whole name. Raises UserError where that is not one row."""
    names = [_called(group, label) for group, label in zip(found, labels, strict=True)]
    exact = [i for i, name in enumerate(names) if name == wanted]
    meant = exact or [i for i, group in enumerate(found) if group.algorithm == wanted]
    if len(meant) != 1:
        raise UserError(f"--baseline {wanted}: {'no row' if not meant else 'several rows'} of that name; {'; '.join(names)}")
    return meant[0]


def _statistics(values: Sequence[Values], metric: str, base: int | None) -> list[dict[str, Cell]]:
    """For each row, of its values by seed: n, mean, standard deviation over seeds, and the paired difference to the base."""
    rows = []
    for of_seeds in values:
        own = np.array(list(of_seeds.values()))
        row = {"n": count(len(own)), f"{metric}\n%": percent(own.mean() if len(own) else None)}
        rows.append(row | {"std\nover seeds": percent(own.std(ddof=1) if len(own) > 1 else None)})
    if base is None:
        return rows
    pairs = [None if i == base else paired(of_seeds, values[base]) for i, of_seeds in enumerate(values)]
    tested = [i for i, pair in enumerate(pairs) if pair and pair.p is not None]
    adjusted = dict(zip(tested, holm([pairs[i].p for i in tested]), strict=True))
    for i, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        pair = pair or Paired(0, *[None] * 4)
        row["difference\nto baseline"] = points(pair.mean)
        row["95 % interval\nfrom"], row["\nto"] = points(pair.low), points(pair.high)
        row["common\nseeds"] = count(pair.n or None)
        row["p\n(Holm)"] = cell_of(adjusted.get(i), lambda p: "<0.001" if p < 0.001 else f"{p:.3f}")
    return rows


def _gains(group: Group, found: Sequence[Group], metric: str, on: str) -> dict[str, Cell]:
    """The gain over `independent`; no columns without any."""
    if not any(other.algorithm == "independent" for other in found):
        return {}
    alone = alone_for(group, found)
    of_clients = gains(group, alone, on) if alone else None
    values = [{seed_of(run): accuracy(run, metric, on) for run in one.runs} for one in (group, alone) if one]
    pair = paired(*values) if alone else None
    least, harmed = of_clients or (None, None)
    return {
        "gain over\nindependent": points(pair.mean if pair else None),
        "least of\na client": points(least),
        "clients\nharmed %": percent(harmed),
    }


def _costs(group: Group, on: str) -> dict[str, Cell]:
    """Means over seeds of the whole run, whichever of its rounds is shown."""
    rounds = {"best\nround": cell_of(float(np.mean([row_of(run, on)["round"] for run in group.runs])), "{:.1f}".format)}
    nbytes = float(np.mean([sent(run) for run in group.runs])) / group.options["n_clients"] / group.options["rounds"]
    return {
        **(rounds if on == "validation" else {}),
        "bytes a client\nand round": cell_of(nbytes, size),
        **effort(group),
    }


def _targets(group: Group, target: float, curve: str) -> dict[str, Cell]:
    """Of every quantity the median cost of the target, and how many runs arrived."""
    shows = {"rounds": "{:.1f}".format, "bytes": size, "flops": operations, "seconds": "{:.1f}".format}
    goal, row, arrived = f"{100 * target:g} %", {}, 0
    for quantity in targets.QUANTITIES:
        told = targets.cost_to(group.runs, target, quantity, curve)
        if told is None:
            row[f"{quantity}\nto {goal}"] = Cell(None, "")
            continue
        arrived, text = told.arrived, told.text(shows[quantity])
        row[f"{quantity}\nto {goal}"] = Cell(told.text("{:.10g}".format) if told.value is None else told.value, text)
    return {f"runs that\nreach {goal}": count(arrived), **row}


def _at_equal_bytes(
    found: Sequence[Group], labels: Sequence[dict[str, Cell]], metric: str, base: int | None, asked: float | None
) -> tuple[float, list[dict[str, Cell]]]:
    """The budget that is asked for, or the largest total of bytes that all communicating groups have reached; and the rows
    there."""
    methods = [group for group in found if group.algorithm not in REFERENCES]
    totals = [sent(run) for group in methods for run in group.runs if sent(run)]
    if not totals:
        raise UserError("--equal bytes: no method of these runs has sent anything")
    budget, values, costs = asked or min(totals), [], []
    for group in found:
        told: list[tuple[Seed, float, float, float, float]] = []
        for run in group.runs:
            nbytes, steps = targets.cumulated(run, "bytes"), targets.cumulated(run, "steps")
            at = min(budget, nbytes[-1]) if group in methods and nbytes[-1] else nbytes[-1]
            there, curve = targets.evaluated(run, column_of(run, metric))
            value = targets.interpolated(nbytes[there], curve, at)
            if value is not None:
                costs_of = [targets.interpolated(nbytes, spent, at) for spent in (targets.cumulated(run, "rounds"), steps)]
                told.append((seed_of(run), value, at, *costs_of))
        values.append({seed: value for seed, value, *_ in told})
        costs.append(np.mean([rest for _, _, *rest in told], axis=0) if told else [None] * 3)
    rows = []
    for label, statistics, (nbytes, rounds, steps) in zip(labels, _statistics(values, metric, base), costs, strict=True):
        spent = {"bytes of\nall clients": cell_of(nbytes, size), "rounds": cell_of(rounds, "{:.1f}".format)}
        rows.append({**label, **statistics, **spent, "steps of\nall clients": whole(steps)})
    return budget, rows


# --- how to read them --------------------------------------------------------------------------------------------------


def _notes(found: Sequence[Group], metric: str, on: str, base: int | None, target: float | None) -> list[str]:
    what = f"{metric}: {meant(metric)[0]} {words(metric)}, {ROUND[on]}"
    lines = [
        f"{what}; mean and standard deviation over n seeds; costs are of the whole run, the server's in columns of their own"
    ]
    if base is not None:
        lines.append(
            f"differences to {found[base].algorithm} in points, paired over the common seeds, with Student's 95 % interval; "
            f"p of a paired t-test from {LEAST_SEEDS} common seeds on, adjusted over the rows (Holm)"
        )
    if any(group.algorithm == "independent" for group in found):
        lines.append(
            f"gain over independent: {metric} accuracy less that of independent, in points, mean over the seeds of both; "
            "least of a client: of its personal accuracy, of the client that gains least"
        )
        lines.append(HARMED)
    if target is not None:
        held_out = on == "validation" or metric.startswith("validation")
        curve = targets.VALIDATION if held_out else targets.TEST
        what = f" ({metric})" if on == "last" else ""
        lines.append(
            f"to {100 * target:g} %: read off {curve}{what}, its running maximum, on straight lines between "
            "evaluated rounds, the first of them at the earliest; median over seeds, >T where the median run is not there "
            "at its end, T"
        )
    return lines + list(_cautions(found))


def _cautions(found: Sequence[Group]) -> Iterator[str]:
    yield seeds_told(found)
    yield from diverged_told(found)
    for group in found:
        codes = {run.config.get("source") for run in group.runs}
        if len(codes) > 1:
            yield f"warning: {group.algorithm} was run with {len(codes)} versions of code or libraries (figures.diff)"
    machines = {repr(run.config.get("environment")) for group in found for run in group.runs}
    if len(machines) > 1:
        yield f"warning: runs of {len(machines)} environments, whose seconds do not compare (figures.diff)"


def _budgets(chosen: Sequence[tuple[Group, list[Group]]]) -> Iterator[str]:
    yield "of the settings tried the one with the best mean validation accuracy, and its test accuracy"
    if len({len(settings) for _, settings in chosen}) > 1:
        told = ", ".join(f"{group.algorithm} {len(settings)}" for group, settings in chosen)
        yield f"warning: an unequal tuning budget: settings tried are {told}"
    for group, settings in chosen:
        if len({frozenset(map(seed_of, other.runs)) for other in settings}) > 1:
            yield f"warning: the settings of {group.algorithm} were tried with different seeds"


# --- the command line --------------------------------------------------------------------------------------------------


def fraction(text: str) -> float:
    """A flag's accuracy, in (0, 1]. Raises argparse.ArgumentTypeError."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no fraction of 1, such as 0.9")
    return value


def _budget(text: str) -> float | str:
    """ "bytes", or so many: 500kB, 20MB."""
    if text == "bytes":
        return text
    found = re.fullmatch(r"([\d.]+) *([kMGT]?)B?", text)
    value = float(found[1]) * 1000 ** " kMGT".index(found[2] or " ") if found and found[1].count(".") < 2 else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is neither bytes nor a budget, such as 20MB")
    return value


def _workbook(text: str) -> Path:
    if not text.endswith(".xlsx"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .xlsx")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m figures.table`."""
    made = command.of_runs("table", __doc__)
    made.add_argument("--metric", metavar="NAME", default="global", help=f"which accuracy: {METRICS} (default: global)")
    made.add_argument(
        "--on", choices=ROUND, default="last", help="which round: the last, or the one best on validation (default: last)"
    )
    made.add_argument(
        "--by",
        type=command.names,
        default=(),
        metavar="OPTION[,OPTION]",
        help="what tells rows apart; default: all that varies",
    )
    made.add_argument("--baseline", metavar="NAME", help="the row, or its algorithm, to which differences are taken")
    made.add_argument("--target", type=fraction, metavar="ACCURACY", help="what it cost to reach it, a fraction of 1")
    made.add_argument(
        "--equal",
        type=_budget,
        metavar="BYTES",
        help='a second table, at equal bytes of all clients: "bytes" for as many as all methods have sent, or 20MB',
    )
    made.add_argument(
        "--columns", type=_headers, default=(), metavar="HEADER[,HEADER]", help="only the columns that begin like this"
    )
    forms = made.add_mutually_exclusive_group()
    for form, words in {"markdown": "a GitHub table", "latex": "a LaTeX table (booktabs)", "csv": "numbers alone"}.items():
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=words)
    forms.add_argument("--xlsx", type=_workbook, metavar="FILE", help="a workbook as well, numbers as numbers")
    made.set_defaults(form="plain")
    return made


def _headers(text: str) -> tuple[str, ...]:
    return tuple(header.strip() for header in text.split(",") if header.strip())


def main(argv: Sequence[str] | None = None) -> None:
    of_command = parser()
    given = of_command.parse_args(argv)
    try:
        passed_over: list[str] = []
        runs = where(read(given.runs, passed_over), dict(given.where))
        result = _of_all(runs, given)
        result.notes += passed_over
        if given.columns:
            _keep(result, given.columns)
        if given.xlsx:
            write_xlsx(result, given.xlsx)
        tell(render(result, given.form), flush=True)
        if given.form == "csv":  # which has no notes
            tell(*passed_over, sep="\n", end="\n" * bool(passed_over), file=sys.stderr)
    except (UserError, OSError, ValueError, MemoryError) as error:
        command.ended(of_command, error)


def _of_all(runs: Sequence[Run], given: argparse.Namespace) -> Comparison:
    """The comparison of runs on one problem; of several problems the table over them, and the comparison on each where it is
    asked for something that the first does not tell."""
    asked = {name: getattr(given, name) for name in ("metric", "on", "by", "select", "baseline", "target", "equal")}
    names, found = problems(runs)
    if len(found) == 1:
        result = compare(runs, **asked)
        if given.on == "last":  # which the words are of
            chosen = [group for group, _ in selected(ordered(runs), given.select, given.on)]
            result.notes[:0] = verdict(with_baselines(chosen))
        return result
    result = overview(runs, given.metric, given.on, given.select)
    if given.by or given.baseline or given.target is not None or given.equal:
        notes: dict[str, None] = {}
        for problem in found:
            of_it = compare(problem.runs, **asked)
            title = title_of(names, problem.values, ", ")
            result.tables |= {f"{title}, {name}": rows for name, rows in of_it.tables.items()}
            notes |= dict.fromkeys(of_it.notes)
        result.notes += [note for note in notes if note not in result.notes]
    return result


def _keep(result: Comparison, headers: Sequence[str]) -> None:
    """Of every table that has such columns keep those whose headers begin as one of `headers`, and the names of the rows."""
    told = [name for rows in result.tables.values() for name in rows[0]]
    if not any(" ".join(name.split()).startswith(header) for name in told for header in headers):
        every = ", ".join(dict.fromkeys(" ".join(name.split()) for name in told))
        raise UserError(f"--columns {','.join(headers)}: no column begins like this; {every}")
    for title, rows in result.tables.items():
        kept = [name for name in rows[0] if any(" ".join(name.split()).startswith(header) for header in headers)]
        if kept:
            named = [name for name in rows[0] if name == "algorithm" or name.startswith("--") or name in kept]
            result.tables[title] = [{name: row[name] for name in named} for row in rows]
            result.typeset.pop(title, None)


if __name__ == "__main__":
    main()
