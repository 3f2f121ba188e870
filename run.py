# PYTHON_ARGCOMPLETE_OK
"""The command line: parse the flags, launch the experiments, print the table. `run` is the same for Python.

python run.py cfkd fedavg independent --dataset MNIST --n_clients 10 --seed 0 1 2
python run.py -h
"""

from errors import FailedError, UserError, unmasked  # first: reports short memory in one line while the imports below load

# isort: split

import gc
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import algorithms
import commandline
import experiment
import saves
from commandline import command_of, plan, study, tuning
from commandline.tuning import RequestedRuns
from experiment import Experiment, preparation
from federation import allocator, ranks, scratch
from figures import split
from figures.alone import alone_for
from figures.compare import compare
from figures.groups import groups, problems
from figures.problems import main_metrics, overview
from figures.render import render
from figures.verdict import best_on_validation
from launch import Failed, ending, launch, loggers, nodes, refuse, scheduling, slurm, tell_failed, torchrun
from launch.display import log_to_stderr
from options import Launch, Options
from untrusted import print_escaped, wrap

SPLITS_SHOWN, FOLDERS_SHOWN = 2, 6
# flags that print something, or submit the command, in place of returning runs
OF_THE_COMMAND = ("help", "json", "list", "named_by", "plan", "save_study", "show_split", "slurm", "version")
gc.freeze()  # the modules live until the end: searching them for garbage would delay the end of every command


@ending.with_status(ending.program)
def main(argv: Sequence[str]) -> int:
    """Run a command line and return the exit status: 0 on success, 1 where a run failed."""
    allocator.keep_blocks()
    is_leader = ranks.rank() == 0
    log_to_stderr() if is_leader else logging.getLogger().addHandler(logging.NullHandler())
    if "_ARGCOMPLETE" in os.environ:
        commandline.complete(os.environ["COMP_LINE"], *_load_options())
    commandline.bring(argv)
    classes, descriptions = _load_options()
    with ranks.joined():
        runs, launch_options, notes = commandline.parse(argv, classes, descriptions, algorithms.FAMILIES)
        if not is_leader:
            torchrun.follow(launch_options)
            return 0
        if launch_options.list:
            print_escaped(commandline.names_of(launch_options.list, descriptions))
            return 0
        if launch_options.save_study:
            study.save(runs, launch_options)
            return 0
        requested = _requested(runs, launch_options, notes, argv)
        if launch_options.show_split:
            split.show(requested.runs)
            return 0
        if launch_options.plan:
            return plan.tell_all(requested.runs, launch_options, ending.program())
        if slurm.is_asked(requested.runs, launch_options):
            slurm.hand_over(requested.runs, requested.launch_options, argv, requested.then)
            return 0
        print_lines = _announce(requested)
        patience = math.inf if launch_options.named_by is None else slurm.PATIENCE
        results: list[tuple[Experiment, saves.Run | Failed]] = []
        for experiment, result in launch(requested.runs, requested.launch_options, patience):
            results.append((experiment, result))
            if launch_options.json and not isinstance(result, Failed):
                print_escaped(json.dumps(result.summary(), allow_nan=False), flush=True)
        _print_report(requested, results, print_lines)
        return tell_failed((result for _, result in results), ending.program())


def run(*algorithm_names: str, **flags: Any) -> saves.Run | list[saves.Run]:
    """Run algorithms as the command does; return the finished run, or a list of runs.

        run("fedavg", n_clients=5, partition="lda", alpha=0.3)              # a saves.Run
        run("fedavg", "independent", n_clients=5, seed=[0, 1])              # a list of four runs

    The arguments are the words and flags of `python run.py`, and name the same run in the same folder, so a finished run is
    read. Several algorithms, or a list as the value of a flag, return a list, in the order of the command. A tuple is one
    value with several parts: model=("LeNet5", "ResNet9"). True sets a switch; None and False leave a flag out. An algorithm
    may be a file, "./my_method.py".

    Raise UserError for a mistake, with the line of the command, and FailedError if a run failed; all other runs are saved.
    Progress is on standard error, in a notebook below the cell; quiet=True shows none.
    """
    for name in OF_THE_COMMAND:
        if flags.get(name):
            raise UserError(f"--{name}: returns no run; use it on the command line, python run.py ... --{name}")
    allocator.keep_blocks()
    argv = commandline.words_of_call(algorithm_names, flags)
    preparation.forget()
    commandline.bring(argv)
    with _as_command(argv), unmasked(), scratch.used():
        runs, launch_options, notes = commandline.parse(argv, *_load_options())
        requested = _requested(runs, launch_options, notes, argv)
        results = [result for _, result in launch(requested.runs, requested.launch_options)]
    if failed := [str(result) for result in results if isinstance(result, Failed)]:
        raise FailedError("\n".join(failed))
    is_list = len(algorithm_names) > 1 or bool(launch_options.study) or any(map(commandline.is_several, flags.values()))
    return results if is_list else results[0]


@contextmanager
def _as_command(argv: Sequence[str]) -> Iterator[None]:
    """Act as the command inside: the log of a run names the command, and worker processes do not import the caller's script,
    which would call `run` again."""
    argv_before, main_module = sys.argv, sys.modules["__main__"]
    sys.argv, sys.modules["__main__"] = ["run.py", *argv], ModuleType("__main__")
    try:
        yield
    finally:
        sys.argv, sys.modules["__main__"] = argv_before, main_module


def _requested(runs: Sequence[Options], launch_options: Launch, notes: Sequence[str], argv: Sequence[str]) -> RequestedRuns:
    """Return the prepared runs that the flags request."""
    if launch_options.study:
        return tuning.of_study(launch_options)
    return RequestedRuns([_prepared(run, launch_options, argv) for run in runs], launch_options, notes)


def _prepared(run: Options, launch_options: Launch, argv: Sequence[str]) -> Experiment:
    try:
        return nodes.prepare(run, launch_options)
    except UserError as error:
        error.args = (commandline.blamed(str(error), run, argv),)
        raise


def _load_options() -> tuple[dict[str, type[Options]], dict[str, str]]:
    """Return {algorithm: its Options class} and {algorithm: one line about what it sends}, for all algorithms."""
    classes = algorithms.all_options()
    return classes, {name: algorithms.describe(name) for name in classes}


def _announce(requested: RequestedRuns) -> Callable[..., None]:
    """Print which runs are saved already and how the data are split, before anything runs.

    Returns the function that prints the lines around the results table.
    """
    launch_options = requested.launch_options
    loggers.chosen(launch_options.log)  # reports a wrong --log before anything is printed
    refuse(requested.runs, launch_options)
    out = sys.stderr if launch_options.json else sys.stdout
    print_lines = lambda *lines: print_escaped(*lines, sep="\n", file=out, flush=True) if lines else None  # noqa: E731
    if launch_options.quiet:
        return print_lines
    # two experiments may be the same run: --threads 1 auto
    experiments = list({run_experiment.folder: run_experiment for run_experiment in requested.runs}.values())
    for run_experiment in experiments:
        if not launch_options.force and saves.finished(run_experiment.folder):
            print_lines(wrap(f"already finished, reading {run_experiment.folder} (--force repeats it)"))
        elif (older_run := experiment.earlier(run_experiment.folder)) is not None:
            print_lines(wrap(f"code, libraries or CPU changed since {older_run}; keeping it and starting a new run"))
    unfinished = [run_experiment for run_experiment in experiments if not saves.finished(run_experiment.folder)]
    if (hint := scheduling.bf16_hint(unfinished)) is not None:
        print_lines(wrap(hint))
    distinct_splits = split.distinct(unfinished)
    print_lines(*(split.text(run_experiment) for run_experiment in distinct_splits[:SPLITS_SHOWN]))
    if len(distinct_splits) > SPLITS_SHOWN:
        print_lines(f"and {len(distinct_splits) - SPLITS_SHOWN} more splits; --show_split draws them")
    return print_lines


def _print_report(
    requested: RequestedRuns, results: Sequence[tuple[Experiment, saves.Run | Failed]], print_lines: Callable[..., None]
) -> None:
    """Print the table, the verdict, the folders of the runs, and the settings that a study tried."""
    launch_options, n_runs = requested.launch_options, len({experiment.folder for experiment in requested.runs})
    if n_left := n_runs - len(results):
        message = (
            f"other processes are executing {n_left} of {n_runs} runs; the last process to finish prints the table; python "
            f"-m figures.status {shlex.quote(str(launch_options.export_dir))} shows their status"
        )
        print_escaped(wrap(message), file=sys.stderr)
    elif finished := [(experiment, result) for experiment, result in results if not isinstance(result, Failed)]:
        _print_comparison(requested, finished, print_lines)
        if len(finished) > FOLDERS_SHOWN:
            message = (
                f"{len(finished)} runs are saved in {launch_options.export_dir}/; "
                f"python -m figures.status {launch_options.export_dir} lists them"
            )
            print_lines(wrap(message))
        else:
            files = "history.xlsx, history.pkl, weights.pt, split.png in each"
            print_lines(wrap(f"saved in {launch_options.export_dir}/ ({files}):"))
            print_lines(*(f"  {run.folder.name}" for _, run in finished))
    if requested.settings:
        print_lines("\nsettings, selected by validation accuracy (tuning.csv):", tuning.table(requested.settings))


def _print_comparison(
    requested: RequestedRuns, finished: Sequence[tuple[Experiment, saves.Run]], print_lines: Callable[..., None]
) -> None:
    launch_options, runs = requested.launch_options, [run for _, run in finished]
    print_lines("")
    if len(problems(runs)[1]) > 1:
        print_lines(render(overview(runs, main_metrics(runs), select=requested.chosen_among)), *map(wrap, requested.notes))
        return
    baselines = {experiment.folder: nodes.independent(experiment, launch_options) for experiment, _ in finished}
    baseline_folders = dict.fromkeys(baseline.folder for baseline in baselines.values() if baseline.folder not in baselines)
    baseline_runs = [run for folder in baseline_folders if (run := _load_baseline(folder))]
    result = compare(
        runs, beside=baseline_runs, place=f"python -m figures.table {shlex.quote(str(launch_options.export_dir))}"
    )
    table_groups = result.tables[0].groups
    result.verdict += [*best_on_validation(table_groups), *requested.notes]
    print_lines(render(result))
    compared_groups = [
        group
        for group in table_groups
        if group.algorithm == "independent" or alone_for(group, table_groups, groups(baseline_runs))
    ]
    compared_folders = {run.folder for group in compared_groups for run in group.runs}
    commands = [
        command_of(baselines[experiment.folder].options, launch_options)
        for experiment, run in finished
        if run.folder not in compared_folders
    ]
    for command in list(dict.fromkeys(commands))[:3]:
        print_lines("gain over learning alone not shown; first run:", wrap(f"  {command}", " \\"))


def _load_baseline(folder: Path) -> saves.Run | None:
    """Return the finished run in a folder; None where the folder has no readable run, after a warning that says why."""
    if (problem := saves.unreadable(folder)) is not None:
        logging.getLogger("chorus").warning("skipping the comparison with %s: %s", folder.name, problem)
        return None
    return saves.whole(folder, "skipping the comparison with it")


if __name__ == "__main__":
    ending.leave(main(sys.argv[1:]))
