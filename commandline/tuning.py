"""Which of several settings a study takes: for each method on each problem the one with the best mean validation accuracy,
on examples held out from training, with seeds that the results are not of.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

import algorithms
from commandline.study import Study, read
from errors import UserError
from experiment import Experiment
from launch import Failed, launch, nodes, slurm, tell_failed
from options import Launch, Options, Problem, plain_value
from saves import Run
from untrusted import escape, no_formula, print_escaped

OF_THE_PROBLEM = tuple(f.name for f in fields(Problem) if f.name != "validation")  # which differs between the two steps


class Setting(NamedTuple):
    """A setting of a method that was tried on a problem: the values of its flags, its mean validation accuracy over n seeds
    (a fraction of 1, None where a run of it failed or diverged), and whether it was chosen."""

    method: str
    problem: tuple
    values: dict[str, object]
    accuracy: float | None
    n: int
    chosen: bool


@dataclass(frozen=True)
class Asked:
    """The runs that a command asks for, ready to be made, and what is to be said of them: `notes` below the table;
    `chosen_among`, flags whose values were chosen beforehand, of the `settings` that were tried; `then`, runs that may come
    after these."""

    runs: Sequence[Experiment]
    how: Launch
    notes: Sequence[str] = ()
    chosen_among: Sequence[str] = ()
    settings: Sequence[Setting] = ()
    then: Sequence[Experiment] = ()


def asked(how: Launch) -> Asked:
    """Return what `--study` asks for. Where a method has several settings these are tried on held-out data first: the runs
    that are returned are of the settings that were chosen. With `--plan`, or where the tuning is Slurm's to make, they are
    those of the tuning, before the others."""
    classes = algorithms.all_options()
    study, out = read(how.study, classes), sys.stderr if how.json else sys.stdout
    folder = how.export_dir / study.name
    how, trying = replace(how, export_dir=folder), replace(how, export_dir=folder / "tuning", json=False)
    tried, every, settings = study.tried(classes), study.runs(classes), []
    candidates = [(method, nodes.prepare(run, trying)) for method, of_it in tried.items() for run in of_it]
    ready = [one for _, one in candidates]
    if how.plan:  # settings cost about the same: of the results the first of each method
        return Asked([*ready, *(nodes.prepare(of_it[0], how) for of_it in every.values())], how)
    if slurm.is_asked(ready, how):
        return Asked(ready, how, then=[nodes.prepare(run, how) for of_it in every.values() for run in of_it])
    if candidates:
        print_escaped(f"tuning: {len(candidates)} runs on held-out data, in {trying.export_dir}", file=out, flush=True)
        results = [result for _, result in launch(ready, trying)]
        tell_failed(results)
        of_methods: dict[str, list] = {method: [] for method in tried}
        for (method, one), result in zip(candidates, results, strict=True):
            of_methods[method].append((one.options, None if isinstance(result, Failed) else result))
        settings = choose(study, of_methods)
        record(settings, folder / "tuning.csv")
    kept = results_of(study, every, settings)
    final = [nodes.prepare(run, how) for run in kept]
    if not slurm.is_asked(final, how):
        print_escaped(f"results: {len(final)} runs on all training data, in {folder}", file=out, flush=True)
    among = list(dict.fromkeys(flag for one in settings for flag in one.values))
    again = f"python -m figures.table {folder}" + (f" --select {','.join(among)}" if among else "")
    notes = [*names_told(study, kept), f"{again} prints it anew; --latex, --markdown, --csv are other forms"]
    return Asked(final, how, notes, among, settings)


def table(settings: Sequence[Setting]) -> str:
    """Return what was tried and chosen, as a table."""
    return tabulate(rows_of(settings), headers="keys", tablefmt="simple", floatfmt=".2f")


def choose(study: Study, tried: Mapping[str, Sequence[tuple[Options, Run | None]]]) -> list[Setting]:
    """All settings that were tried, {method: its runs, None for one that failed}. Of equals the first is chosen. Raises
    UserError where no setting of a method can be."""
    found = []
    for method in (method for method in study.methods if method.name in tried):
        by_problem: dict[tuple, dict[tuple, list[Run | None]]] = {}
        for options, run in tried[method.name]:
            settings = by_problem.setdefault(_values(options, OF_THE_PROBLEM), {})
            settings.setdefault(_values(options, method.flags), []).append(run)
        for problem, settings in by_problem.items():
            means = {values: _mean(runs) for values, runs in settings.items()}
            there = {values: mean for values, mean in means.items() if mean is not None}
            if not there:
                raise UserError(
                    f"--study {study.name}: [{method.name}] no setting can be chosen, a run of each failed or diverged"
                )
            best = max(there, key=there.get)
            for values, mean in means.items():
                flags = dict(zip(method.flags, values, strict=True))
                found.append(Setting(method.name, problem, flags, mean, len(settings[values]), values == best))
    return found


def _mean(runs: Sequence[Run | None]) -> float | None:
    if any(run is None or run.diverged is not None for run in runs):
        return None
    return float(np.mean([run.rounds["validation_mean"].iloc[-1] for run in runs]))


def _values(options: Options, names: Sequence[str]) -> tuple:
    return tuple(getattr(options, name) for name in names)


def results_of(study: Study, runs: Mapping[str, Sequence[Options]], settings: Sequence[Setting]) -> dict[Options, list[str]]:
    """Of {method: its runs in all settings} those that are run in the end: the chosen setting where several were tried. A
    run that several methods ask for is there once, with the names of all of them: {run: methods}."""
    chosen = {(one.method, one.problem): tuple(one.values.values()) for one in settings if one.chosen}
    kept: dict[Options, list[str]] = {}
    for method in study.methods:
        for options in runs[method.name]:
            best = chosen.get((method.name, _values(options, OF_THE_PROBLEM)))
            if best is None or _values(options, method.flags) == best:
                kept.setdefault(options, []).append(method.name)
    return kept


def names_told(study: Study, kept: Mapping[Options, Sequence[str]]) -> list[str]:
    """In a line, which setting each method of the study was run in; none where methods are called as their algorithms."""
    if all(method.name == method.algorithm for method in study.methods):
        return []
    told: dict[str, dict[str, None]] = {}
    for options, methods in kept.items():
        flags = dict.fromkeys(f for method in study.methods if method.algorithm == options.algorithm for f in method.flags)
        setting = " ".join([options.algorithm, *(f"--{name} {plain_value(getattr(options, name))}" for name in flags)])
        told.setdefault(setting, {}).update(dict.fromkeys(methods))
    return ["methods of the study: " + "; ".join(f"{', '.join(names)}: {what}" for what, names in told.items())]


def rows_of(settings: Sequence[Setting]) -> list[dict[str, object]]:
    """What was tried as a table, {column: value}: options of the problem that differ, and a method's flags as one text."""
    told = [name for i, name in enumerate(OF_THE_PROBLEM) if len({repr(one.problem[i]) for one in settings}) > 1]
    return [
        {
            "method": one.method,
            **{name: plain_value(one.problem[OF_THE_PROBLEM.index(name)]) for name in told},
            "settings": " ".join(f"--{name} {plain_value(value)}" for name, value in one.values.items()),
            "validation %": None if one.accuracy is None else round(100 * one.accuracy, 4),
            "seeds": one.n,
            "chosen": "yes" if one.chosen else "",
        }
        for one in settings
    ]


def record(settings: Sequence[Setting], path: Path) -> None:
    """What was tried and chosen, as CSV."""
    rows = rows_of(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            told = {name: escape(value) for name, value in row.items() if isinstance(value, str)}
            told |= {name: no_formula(value) for name, value in told.items() if name != "settings"}  # which begin with --
            writer.writerow(row | told)
