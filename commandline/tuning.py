"""The choice among the settings of a method in a study.

For each method on each problem, the study takes the setting with the best mean validation accuracy. The validation examples
are held out from training, and the seeds are not those of the results.
"""

import csv
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import algorithms
import saves
from commandline.study import Method, Study, read
from errors import UserError
from experiment import Experiment
from launch import Failed, ending, launch, nodes, slurm, tell_failed
from options import Launch, Number, Options, Problem, flags_of, plain_value
from saves import Run
from untrusted import escape, no_formula, print_escaped, wrap

# validation is left out, since it differs between tuning and results
OF_THE_PROBLEM = tuple(f.name for f in fields(Problem) if f.name != "validation")


class Setting(NamedTuple):
    """A setting of a method that was tried on a problem.

    `values`: {flag: its value}; `accuracy`: mean validation accuracy over n seeds (a fraction of 1; None where a run failed
    or diverged); `chosen`: whether the study took this setting; `note`: the failure, or the flags of a choice at the edge of
    the grid.
    """

    method: str
    problem: tuple
    values: dict[str, object]
    accuracy: float | None
    n: int
    chosen: bool
    note: str = ""

    @property
    def flags(self) -> str:
        """The values as on a command line."""
        return setting_text(self.values)


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
    launch_options, folder = study.placed(launch_options), launch_options.export_dir / study.name
    launch_options, tuning_options = (
        replace(launch_options, export_dir=folder),
        replace(launch_options, export_dir=folder / saves.TUNING, json=False),
    )
    tuning_runs, all_runs, settings = study.tried(classes), study.runs(classes), []
    candidates = [
        (method, nodes.prepare(run, tuning_options)) for method, method_runs in tuning_runs.items() for run in method_runs
    ]
    experiments = [entry for _, entry in candidates]
    distinct = list({entry.folder: entry for entry in experiments}.values())  # two methods may request the same run
    if launch_options.plan:  # settings cost about the same: plan the results with the first setting of each method
        first = {
            (method.name, _values(run, OF_THE_PROBLEM)): _values(run, method.flags)
            for method in study.methods
            for run in reversed(all_runs[method.name])
        }
        results = results_of(study, all_runs, first)
        return RequestedRuns([*distinct, *(nodes.prepare(run, launch_options) for run in results)], launch_options)
    if slurm.is_asked(experiments, launch_options):
        return RequestedRuns(
            experiments,
            launch_options,
            then=[nodes.prepare(run, launch_options) for method_runs in all_runs.values() for run in method_runs],
        )
    if candidates:
        print_escaped(f"tuning: {len(distinct)} runs on held-out data, in {tuning_options.export_dir}", file=out, flush=True)
        results = [result for _, result in launch(experiments, tuning_options)]
        tell_failed(results, ending.program())
        runs_by_method: dict[str, list] = {method: [] for method in tuning_runs}
        for (method, entry), result in zip(candidates, results, strict=True):
            runs_by_method[method].append((entry.options, result))
        settings = choose(study, runs_by_method)
        record(settings, folder / "tuning.csv")
    chosen = {(setting.method, setting.problem): tuple(setting.values.values()) for setting in settings if setting.chosen}
    kept = results_of(study, all_runs, chosen)
    if not kept:
        raise UserError(
            f"--study {study.name}: no results, because every setting of every method failed or diverged; see "
            f"{folder / 'tuning.csv'}"
        )
    final = [nodes.prepare(run, launch_options) for run in kept]
    if not slurm.is_asked(final, launch_options):
        print_escaped(f"results: {len(final)} runs on all training data, in {folder}", file=out, flush=True)
    chosen_flags = list(dict.fromkeys(flag for entry in settings for flag in entry.values))
    table_command = f"python -m figures.table {folder}" + (f" --select {','.join(chosen_flags)}" if chosen_flags else "")
    notes = [
        *left_out(settings),
        *names_told(study, kept),
        f"print this table again: {table_command} (other formats: --latex, --markdown, --csv)",
    ]
    return RequestedRuns(final, launch_options, notes, chosen_flags, settings)


def table(settings: Sequence[Setting]) -> str:
    """Return the settings that were tried, with the choice, as a table; below, a line for each setting with a note."""
    from tabulate import tabulate  # imported here, so that help texts and error messages appear without delay

    rows = [{name: value for name, value in row.items() if name != "note"} for row in rows_of(settings)]
    notes: dict[tuple[str, str, bool], list[str]] = {}
    for setting in settings:
        if setting.note:
            notes.setdefault((setting.method, setting.flags, setting.chosen), []).append(setting.note)
    lines = [
        f"{method} {flags}{' (chosen)' * chosen}: {same[0]}{_share_of_problems(len(same), settings)}"
        for (method, flags, chosen), same in notes.items()
    ]
    return "\n".join([tabulate(rows, headers="keys", tablefmt="simple", floatfmt=".2f"), *map(wrap, lines)])


def _share_of_problems(n: int, settings: Sequence[Setting]) -> str:
    n_problems = len({setting.problem for setting in settings})
    return f" (on {n} of {n_problems} problems)" if n < n_problems else ""


def left_out(settings: Sequence[Setting]) -> list[str]:
    """Return a line for each method that the results lack on a problem, because no setting could be chosen."""
    chosen = {(setting.method, setting.problem) for setting in settings if setting.chosen}
    tried = dict.fromkeys((setting.method, setting.problem) for setting in settings)
    n_problems = Counter(method for method, problem in tried if (method, problem) not in chosen)
    return [
        f"{method} is left out{_share_of_problems(n, settings)}: every setting failed or diverged in tuning"
        for method, n in n_problems.items()
    ]


def choose(study: Study, tried: Mapping[str, Sequence[tuple[Options, Run | Failed]]]) -> list[Setting]:
    """Return all settings that were tried, from {method: its runs}.

    Of equal settings the first is chosen; none where each has a failed or diverged run.
    """
    tried_settings = []
    for method in (method for method in study.methods if method.name in tried):
        by_problem: dict[tuple, dict[tuple, list[Run | Failed]]] = {}
        for options, run in tried[method.name]:
            settings = by_problem.setdefault(_values(options, OF_THE_PROBLEM), {})
            settings.setdefault(_values(options, method.flags), []).append(run)
        for problem, settings in by_problem.items():
            failures = {values: _failure(runs, method.algorithm) for values, runs in settings.items()}
            means = {values: _mean_accuracy(runs) for values, runs in settings.items() if not failures[values]}
            best = max(means, key=means.get, default=None)
            for values, runs in settings.items():
                flags = dict(zip(method.flags, values, strict=True))
                note = edges(method, flags) if values == best else failures[values]
                accuracy, is_chosen = means.get(values), values == best
                tried_settings.append(Setting(method.name, problem, flags, accuracy, len(runs), is_chosen, note))
    return tried_settings


def _mean_accuracy(runs: Sequence[Run]) -> float:
    return float(np.mean([run.rounds["validation_mean"].iloc[-1] for run in runs]))


def _failure(runs: Sequence[Run | Failed], algorithm: str) -> str:
    """Return how many runs failed or diverged, with the reason of the first; "" where none did."""
    reasons = [reason for run in runs if (reason := _reason(run))]
    return f"{len(reasons)} of {len(runs)} runs failed: {reasons[0].removeprefix(f'{algorithm}: ')}" if reasons else ""


def _reason(run: Run | Failed) -> str:
    if isinstance(run, Failed):
        return run.reason.partition(";")[0]
    return "" if run.diverged is None else f"diverged in round {run.diverged}"


def edges(method: Method, flags: Mapping[str, Any]) -> str:
    """Return the flags whose values are the smallest or the largest of the grid, though the flag allows others beyond."""
    declared, edges = flags_of(algorithms.options_of(method.algorithm)), []
    for name, value in flags.items():
        allowed = declared[name]["type"]
        numbers = [number for number in method.flags[name] if isinstance(number, int | float)]
        if isinstance(allowed, Number) and value in numbers and len(numbers) > 1:
            edges += [f"the smallest {name} tried"] * (value == min(numbers) and value > allowed.least)
            edges += [f"the largest {name} tried"] * (value == max(numbers) and value < allowed.most)
    return ", ".join(edges)


def setting_text(values: Mapping[str, Any]) -> str:
    """Return a setting as flags, as `tuning.csv` has it."""
    return " ".join(f"--{name} {plain_value(value)}" for name, value in values.items())


def _values(options: Options, names: Sequence[str]) -> tuple:
    return tuple(getattr(options, name) for name in names)


def results_of(
    study: Study, runs: Mapping[str, Sequence[Options]], chosen: Mapping[tuple[str, tuple], tuple]
) -> dict[Options, list[str]]:
    """Return the runs for the results, from {method: its runs in all settings}, as {run: methods}.

    `chosen`: {(method, problem): values of the method's flags}. Of a method with several settings only the chosen setting
    remains, and nothing on a problem without a choice. A run that several methods request is there once, with the names of
    all these methods.
    """
    kept: dict[Options, list[str]] = {}
    for method in study.methods:
        for options in runs[method.name]:
            choice = chosen.get((method.name, _values(options, OF_THE_PROBLEM)))
            if method.n_settings == 1 or _values(options, method.flags) == choice:
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
        setting = f"{options.algorithm} {setting_text({name: getattr(options, name) for name in flags})}".rstrip()
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
            "settings": setting.flags,
            "validation %": None if setting.accuracy is None else round(100 * setting.accuracy, 4),
            "seeds": setting.n,
            "chosen": "yes" if setting.chosen else "",
            "note": setting.note,
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
