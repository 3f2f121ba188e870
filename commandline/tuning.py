"""The choice among the settings of a method in a study.

For each method on each problem, the study takes the setting with the best mean validation accuracy. The validation examples
are held out from training, and the seeds are not those of the results.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

import algorithms
from commandline.study import Method, Study, read
from errors import UserError
from experiment import Experiment
from launch import Failed, ending, launch, nodes, slurm, tell_failed
from options import Launch, Options, Problem, plain_value
from saves import Run
from untrusted import escape, no_formula, print_escaped

# validation is left out, since it differs between tuning and results
OF_THE_PROBLEM = tuple(f.name for f in fields(Problem) if f.name != "validation")


class Setting(NamedTuple):
    """A setting of a method that was tried on a problem.

    `values`: {flag: its value}; `accuracy`: mean validation accuracy over n seeds (a fraction of 1; None where a run failed
    or diverged); `chosen`: whether the study took this setting.
    """

    method: str
    problem: tuple
    values: dict[str, object]
    accuracy: float | None
    n: int
    chosen: bool


@dataclass(frozen=True)
class RequestedRuns:
    """The prepared runs that a command requests, and what to print about them.

    `notes`: lines below the table; `chosen_among`: flags whose values were chosen before, among the `settings` that were
    tried; `then`: runs that may follow these.
    """

    runs: Sequence[Experiment]
    launch_options: Launch
    notes: Sequence[str] = ()
    chosen_among: Sequence[str] = ()
    settings: Sequence[Setting] = ()
    then: Sequence[Experiment] = ()


def of_study(launch_options: Launch) -> RequestedRuns:
    """Return what `--study` requests.

    Where a method has several settings, Chorus first tries the settings on held-out data; the returned runs are those of the
    chosen settings. With `--plan`, or where Slurm does the tuning, the returned runs are the tuning runs; the others follow.
    """
    classes = algorithms.all_options()
    study, out = read(launch_options.study, classes), sys.stderr if launch_options.json else sys.stdout
    folder = launch_options.export_dir / study.name
    launch_options, tuning_options = (
        replace(launch_options, export_dir=folder),
        replace(launch_options, export_dir=folder / "tuning", json=False),
    )
    tuning_runs, all_runs, settings = study.tried(classes), study.runs(classes), []
    candidates = [
        (method, nodes.prepare(run, tuning_options)) for method, method_runs in tuning_runs.items() for run in method_runs
    ]
    experiments = [entry for _, entry in candidates]
    if launch_options.plan:  # settings cost about the same: plan the results with the first setting of each method
        results = dict.fromkeys(  # two methods may request the same run
            run for method in study.methods for run in all_runs[method.name] if _is_first(run, method)
        )
        return RequestedRuns([*experiments, *(nodes.prepare(run, launch_options) for run in results)], launch_options)
    if slurm.is_asked(experiments, launch_options):
        return RequestedRuns(
            experiments,
            launch_options,
            then=[nodes.prepare(run, launch_options) for method_runs in all_runs.values() for run in method_runs],
        )
    if candidates:
        print_escaped(
            f"tuning: {len(candidates)} runs on held-out data, in {tuning_options.export_dir}", file=out, flush=True
        )
        results = [result for _, result in launch(experiments, tuning_options)]
        tell_failed(results, ending.program())
        runs_by_method: dict[str, list] = {method: [] for method in tuning_runs}
        for (method, entry), result in zip(candidates, results, strict=True):
            runs_by_method[method].append((entry.options, None if isinstance(result, Failed) else result))
        settings = choose(study, runs_by_method)
        record(settings, folder / "tuning.csv")
    kept = results_of(study, all_runs, settings)
    final = [nodes.prepare(run, launch_options) for run in kept]
    if not slurm.is_asked(final, launch_options):
        print_escaped(f"results: {len(final)} runs on all training data, in {folder}", file=out, flush=True)
    chosen_flags = list(dict.fromkeys(flag for entry in settings for flag in entry.values))
    table_command = f"python -m figures.table {folder}" + (f" --select {','.join(chosen_flags)}" if chosen_flags else "")
    notes = [
        *names_told(study, kept),
        f"print this table again: {table_command} (other formats: --latex, --markdown, --csv)",
    ]
    return RequestedRuns(final, launch_options, notes, chosen_flags, settings)


def _is_first(run: Options, method: Method) -> bool:
    return _values(run, method.flags) == tuple(values[0] for values in method.flags.values())


def table(settings: Sequence[Setting]) -> str:
    """Return the settings that were tried, with the choice, as a table."""
    from tabulate import tabulate  # imported here, so that help texts and error messages appear without delay

    return tabulate(rows_of(settings), headers="keys", tablefmt="simple", floatfmt=".2f")


def choose(study: Study, tried: Mapping[str, Sequence[tuple[Options, Run | None]]]) -> list[Setting]:
    """Return all settings that were tried, from {method: its runs, None for a failed run}.

    Of equal settings the first is chosen. Raises UserError where no setting of a method can be chosen.
    """
    tried_settings = []
    for method in (method for method in study.methods if method.name in tried):
        by_problem: dict[tuple, dict[tuple, list[Run | None]]] = {}
        for options, run in tried[method.name]:
            settings = by_problem.setdefault(_values(options, OF_THE_PROBLEM), {})
            settings.setdefault(_values(options, method.flags), []).append(run)
        for problem, settings in by_problem.items():
            means = {values: _mean_accuracy(runs) for values, runs in settings.items()}
            scored = {values: mean for values, mean in means.items() if mean is not None}
            if not scored:
                raise UserError(
                    f"--study {study.name}: [{method.name}] no setting can be chosen, because each has a failed or diverged "
                    "run"
                )
            best = max(scored, key=scored.get)
            for values, mean in means.items():
                flags = dict(zip(method.flags, values, strict=True))
                tried_settings.append(Setting(method.name, problem, flags, mean, len(settings[values]), values == best))
    return tried_settings


def _mean_accuracy(runs: Sequence[Run | None]) -> float | None:
    if any(run is None or run.diverged is not None for run in runs):
        return None
    return float(np.mean([run.rounds["validation_mean"].iloc[-1] for run in runs]))


def _values(options: Options, names: Sequence[str]) -> tuple:
    return tuple(getattr(options, name) for name in names)


def results_of(study: Study, runs: Mapping[str, Sequence[Options]], settings: Sequence[Setting]) -> dict[Options, list[str]]:
    """Return the runs for the results, from {method: its runs in all settings}, as {run: methods}.

    Where several settings were tried, only the chosen setting remains. A run that several methods request is there once,
    with the names of all these methods.
    """
    chosen = {(setting.method, setting.problem): tuple(setting.values.values()) for setting in settings if setting.chosen}
    kept: dict[Options, list[str]] = {}
    for method in study.methods:
        for options in runs[method.name]:
            best = chosen.get((method.name, _values(options, OF_THE_PROBLEM)))
            if best is None or _values(options, method.flags) == best:
                kept.setdefault(options, []).append(method.name)
    return kept


def names_told(study: Study, kept: Mapping[Options, Sequence[str]]) -> list[str]:
    """Return a line with the setting of each method; no line where all methods are named like their algorithms."""
    if all(method.name == method.algorithm for method in study.methods):
        return []
    methods_by_setting: dict[str, dict[str, None]] = {}
    for options, methods in kept.items():
        flags = dict.fromkeys(
            flag for method in study.methods if method.algorithm == options.algorithm for flag in method.flags
        )
        setting = " ".join([options.algorithm, *(f"--{name} {plain_value(getattr(options, name))}" for name in flags)])
        methods_by_setting.setdefault(setting, {}).update(dict.fromkeys(methods))
    return [
        "methods of the study: " + "; ".join(f"{', '.join(names)}: {text}" for text, names in methods_by_setting.items())
    ]


def rows_of(settings: Sequence[Setting]) -> list[dict[str, object]]:
    """Return the tried settings as a table: {column: value} per row.

    Columns are the problem's options that differ, and a method's flags as one text.
    """
    differing = [
        name for index, name in enumerate(OF_THE_PROBLEM) if len({repr(setting.problem[index]) for setting in settings}) > 1
    ]
    return [
        {
            "method": setting.method,
            **{name: plain_value(setting.problem[OF_THE_PROBLEM.index(name)]) for name in differing},
            "settings": " ".join(f"--{name} {plain_value(value)}" for name, value in setting.values.items()),
            "validation %": None if setting.accuracy is None else round(100 * setting.accuracy, 4),
            "seeds": setting.n,
            "chosen": "yes" if setting.chosen else "",
        }
        for setting in settings
    ]


def record(settings: Sequence[Setting], path: Path) -> None:
    """Write the tried settings and the choice as CSV."""
    rows = rows_of(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            texts = {name: escape(value) for name, value in row.items() if isinstance(value, str)}
            # settings stay as they are: they begin with --
            texts |= {name: no_formula(value) for name, value in texts.items() if name != "settings"}
            writer.writerow(row | texts)
