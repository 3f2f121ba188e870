# PYTHON_ARGCOMPLETE_OK
"""The command line: parse the flags, launch the experiments, print the table.

python run.py cfkd fedavg independent --dataset MNIST --n_clients 10 --seed 0 1 2
python run.py -h
"""

from errors import DivergedError, UserError  # first: where memory is too short for what follows, that is told in a line

# isort: split

import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from tabulate import tabulate

import algorithms
import allocator
import commandline
import experiment
import options
import saves
import study
from commandline import command_of, plan
from data import partition, shift
from experiment import Experiment
from federation import ranks
from figures.alone import alone_for
from figures.compare import compare
from figures.groups import groups, problems
from figures.problems import overview
from figures.render import render
from figures.verdict import best_on_validation
from launch import Failed, ending, launch, loggers, nodes, refuse, scheduling, slurm, torchrun
from launch.display import log_to_stderr
from study import tuning
from untrusted import inert, tell

MAX_CLIENTS_SHOWN, MAX_CLASSES_SHOWN, MAX_SPLITS_SHOWN, MAX_FOLDERS_SHOWN = 20, 12, 2, 6


def main(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit status: 0, 1 where a run failed, and else that of `launch.ending`."""
    allocator.keep_blocks()
    leads = ranks.rank() == 0
    log_to_stderr() if leads else logging.getLogger().addHandler(logging.NullHandler())
    if "_ARGCOMPLETE" in os.environ:
        commandline.complete(os.environ["COMP_LINE"], *_declared())
    return ending.status_of(ending.program(), partial(_carry_out, argv, leads), leads)


def _carry_out(argv: Sequence[str], leads: bool) -> int:
    commandline.bring(argv)
    classes, described = _declared()
    with ranks.joined():
        runs, how, notes = commandline.parse(argv, classes, described, algorithms.FAMILIES)
        if not leads:
            torchrun.follow(how)
            return 0
        if how.save_study:
            return _save_study(runs, how)
        if how.study:
            return _study(how, argv)
        ready = [_prepared(run, how, argv) for run in runs]
        if how.show_split:
            return _show_split(ready)
        if how.plan:
            return _plan(ready, how)
        return _submit(ready, how, argv) if _is_for_slurm(ready, how) else _launch(ready, how, notes)


def _prepared(run: options.Options, how: options.Launch, argv: Sequence[str]) -> Experiment:
    try:
        return nodes.prepare(run, how)
    except UserError as error:
        error.args = (commandline.blamed(str(error), run, argv),)
        raise


def _declared() -> tuple[dict[str, type[options.Options]], dict[str, str]]:
    """{algorithm: its Options class} and {algorithm: what is sent, in one line}, of all that there are."""
    classes = algorithms.all_options()
    return classes, {name: algorithms.describe(name) for name in classes}


def _launch(ready: Sequence[Experiment], how: options.Launch, notes: Sequence[str], chosen_among: Sequence[str] = ()) -> int:
    """Run what is not finished, and print the table; `chosen_among` are flags whose values were chosen beforehand."""
    loggers.chosen(how.log)  # a mistake is one before anything is said
    refuse(ready, how)
    ready = list({one.folder: one for one in ready}.values())  # two may be the same run: --threads 1 auto
    out = sys.stderr if how.json else sys.stdout
    say = (lambda *words: None) if how.quiet else (lambda *words: tell(*words, file=out, flush=True))
    for one in ready:
        if not how.force and saves.finished(one.folder):
            say(f"already finished, read from {one.folder} (--force runs it anew)")
        elif (older := experiment.earlier(one.folder)) is not None:
            say(f"the code, a library or the processor has changed since {older} was made: it is kept, and this is run anew")
    drawn = _of_each_split([one for one in ready if not saves.finished(one.folder)])
    for one in drawn[:MAX_SPLITS_SHOWN]:
        say(_split(one))
    if len(drawn) > MAX_SPLITS_SHOWN:
        say(f"and {len(drawn) - MAX_SPLITS_SHOWN} more splits; --show_split draws them")

    results = _results(ready, how, math.inf if how.named_by is None else slurm.PATIENCE)
    if left := len(ready) - len(results):
        tell(
            f"other processes are at work on {left} of {len(ready)} runs; the one that ends last prints the table, and "
            f"python -m figures.status {shlex.quote(str(how.export_dir))} tells how they stand",
            file=sys.stderr,
        )
        return _failures(results)
    finished = [(one, result) for one, result in results if not isinstance(result, Failed)]
    if finished:
        _report(finished, how, notes, out, chosen_among)
    return _failures(results)


def _is_for_slurm(ready: Sequence[Experiment], how: options.Launch) -> bool:
    """Whether runs are to be made elsewhere: not by an element of a job, nor where all are finished."""
    return how.slurm is not None and how.named_by is None and bool(_unfinished(ready, how))


def _unfinished(ready: Sequence[Experiment], how: options.Launch) -> list[Experiment]:
    return [one for one in ready if how.force or not saves.finished(one.folder)]


def _submit(ready: Sequence[Experiment], how: options.Launch, argv: Sequence[str], then: Sequence[Experiment] = ()) -> int:
    """Submit the command line as a job, and tell where it stands; `then` are runs that may follow."""
    both, n = [*ready, *then], len(_unfinished(ready, how))
    job, folder = slurm.submit(argv, [*both, *(_independent(one, how) for one in both)], how)
    out = sys.stderr if how.json else sys.stdout
    others = " on held-out data, then those with the settings that are chosen" if then else ""
    environment = ready[0].config["environment"]
    kind = ", ".join(f"{name} {environment[name]}" for name in ("processor", "device", "torch"))
    tell(f"job {job}: {n} of {len(ready)} runs to make{others}", file=out)
    tell(f"  on nodes with {kind}" + (", and any other (--any_node)" if how.any_node else "; others decline"), file=out)
    tell(f"  script and logs: {folder}", file=out)
    tell(f"  python -m figures.status {shlex.quote(str(ready[0].folder.parent))} tells how they stand", file=out)
    tell("  the element that ends last prints the table, as this command does once all are finished", file=out)
    return 0


def _results(
    ready: Sequence[Experiment], how: options.Launch, patience: float = math.inf
) -> list[tuple[Experiment, saves.Run | Failed]]:
    """What came of the experiments, in their order; each finished one is told in JSON where that is asked for."""
    results = []
    for one, result in launch(ready, how, patience):
        results.append((one, result))
        if how.json and not isinstance(result, Failed):
            tell(json.dumps(result.summary(), allow_nan=False), flush=True)
    return results


def _failures(results: Sequence[tuple[Experiment, saves.Run | Failed]]) -> int:
    """Tell of each that failed; returns the exit status."""
    failed = [result for _, result in results if isinstance(result, Failed)]
    for failure in failed:
        tell(f"{ending.program()}: {inert(failure)}", file=sys.stderr)
    return 1 if failed else 0


def _save_study(runs: Sequence[options.Options], how: options.Launch) -> int:
    """The runs as a study in a file, and nothing else."""
    try:
        how.save_study.write_text(study.text_of(runs))
    except OSError as error:
        raise UserError(f"--save_study {how.save_study}: cannot be written ({error.strerror})") from None
    brought = f" --plugin {','.join(how.plugin)}" if how.plugin else ""
    tell(f"written to {how.save_study}; python run.py --study {how.save_study}{brought} runs it")
    return 0


def _study(how: options.Launch, argv: Sequence[str]) -> int:
    """A study: where a method has several settings these are tried on held-out data; then each method is run in the setting
    that was chosen, and the table is printed."""
    classes = algorithms.all_options()
    asked, out = study.read(how.study, classes), sys.stderr if how.json else sys.stdout
    folder = how.export_dir / asked.name
    how, trying = replace(how, export_dir=folder), replace(how, export_dir=folder / "tuning", json=False)
    tried, every, settings = asked.tried(classes), asked.runs(classes), []
    candidates = [(method, nodes.prepare(run, trying)) for method, of_it in tried.items() for run in of_it]
    if how.plan:  # settings cost about the same: of the results the first of each method
        firsts = [nodes.prepare(of_it[0], how) for of_it in every.values()]
        return _plan([*(one for _, one in candidates), *firsts], how)
    if _is_for_slurm([one for _, one in candidates], how):
        results = [nodes.prepare(run, how) for of_it in every.values() for run in of_it]
        return _submit([one for _, one in candidates], how, argv, results)
    if candidates:
        tell(f"tuning: {len(candidates)} runs on held-out data, in {trying.export_dir}", file=out, flush=True)
        results = _results([one for _, one in candidates], trying)
        _failures(results)
        of_methods: dict[str, list] = {method: [] for method in tried}
        for (method, one), (_, result) in zip(candidates, results, strict=True):
            of_methods[method].append((one.options, None if isinstance(result, Failed) else result))
        settings = tuning.choose(asked, of_methods)
        tuning.record(settings, folder / "tuning.csv")
    kept = tuning.results_of(asked, every, settings)
    final = [nodes.prepare(run, how) for run in kept]
    if _is_for_slurm(final, how):
        return _submit(final, how, argv)
    tell(f"results: {len(final)} runs on all training data, in {folder}", file=out, flush=True)
    among = list(dict.fromkeys(flag for one in settings for flag in one.values))
    again = f"python -m figures.table {folder}" + (f" --select {','.join(among)}" if among else "")
    notes = [*tuning.names_told(asked, kept), f"{again} prints it anew; --latex, --markdown, --csv are other forms"]
    status = _launch(final, how, notes, among)
    if settings:
        tell("\nsettings tried, and chosen by validation accuracy (tuning.csv):", file=out)
        tell(tabulate(tuning.rows_of(settings), headers="keys", tablefmt="simple", floatfmt=".2f"), file=out)
    return status


def _show_split(ready: Sequence[Experiment]) -> int:
    """Who gets what, on the screen and in --export_dir, and nothing else."""
    from figures import split

    for one in _of_each_split(ready):
        tell(_split(one))
        saved = experiment.save_split(one)
        split.draw_one(partition.arrays(one.data, one.split), saved.with_suffix(".png"))
        tell(f"drawn in {saved.with_suffix('.png')}, saved beside it for --partition_file")
    return 0


def _plan(ready: Sequence[Experiment], how: options.Launch) -> int:
    """What the runs will cost, on the screen, and nothing else."""
    plans = []
    for found in plan.each(ready, how.quiet):
        if isinstance(found, DivergedError):
            tell(f"{ending.program()}: {inert(found)}", file=sys.stderr)
            continue
        plans.append(found)
        if how.json:
            tell(json.dumps(plan.summary(found), allow_nan=False), flush=True)
    if plans and not how.json:
        tell(plan.report(plans, scheduling.cores_of(ready, how.jobs)))
    return 0 if len(plans) == len(ready) else 1


def _report(
    finished: Sequence[tuple[Experiment, saves.Run]],
    how: options.Launch,
    notes: Sequence[str],
    out,
    chosen_among: Sequence[str] = (),
) -> None:
    """The table, what it says in words, and where everything is."""
    runs = [run for _, run in finished]
    tell(file=out)
    if len(problems(runs)[1]) > 1:
        tell(render(overview(runs, select=chosen_among)), file=out)
        tell(*notes, sep="\n", end="\n" * bool(notes), file=out)
    else:
        bases = {one.folder: _independent(one, how) for one, _ in finished}
        others = dict.fromkeys(base.folder for base in bases.values() if base.folder not in bases)
        beside = [run for folder in others if (run := _baseline(folder))]
        result = compare(runs, beside=beside, place=f"python -m figures.table {shlex.quote(str(how.export_dir))}")
        found = result.tables[0].groups
        result.verdict += [*best_on_validation(found), *notes]
        tell(render(result), file=out)
        alone = [group for group in found if group.algorithm == "independent" or alone_for(group, found, groups(beside))]
        compared = {run.folder for group in alone for run in group.runs}
        lacking = [command_of(bases[one.folder].options, how) for one, run in finished if run.folder not in compared]
        for command in list(dict.fromkeys(lacking))[:3]:
            tell(f"no independent learning on this split yet, so no gain: {command}", file=out)
    if len(finished) > MAX_FOLDERS_SHOWN:
        tell(
            f"{len(finished)} runs are saved in {how.export_dir}/; python -m figures.status {how.export_dir} lists them",
            file=out,
        )
        return
    tell(f"saved in {how.export_dir}/ (history.xlsx, history.pkl, weights.pt, split.png in each):", file=out)
    for _, run in finished:
        tell(f"  {run.folder.name}", file=out)


def _baseline(folder: Path) -> saves.Run | None:
    """The finished run of a folder; None where there is none, or none that can be read: that is told."""
    if (why := saves.unreadable(folder)) is not None:
        logging.getLogger("chorus").warning("%s is not compared with: %s", folder.name, why)
        return None
    return saves.whole(folder, "nothing is compared with it")


def _independent(one: Experiment, how: options.Launch) -> Experiment:
    """Independent learning with the same shared flags, on the same split."""
    shared = {f.name: getattr(one.options, f.name) for f in fields(options.Options)}
    return nodes.prepare(algorithms.options_of("independent")(**{**shared, "algorithm": "independent"}), how)


def _of_each_split(ready: Sequence[Experiment]) -> list[Experiment]:
    """One of each that differ in who gets what, or in the change through which a client sees it."""

    def drawn(one: Experiment) -> tuple:
        return one.split.digest, *(tuple(shift.amounts(one.options)) if one.options.feature_shift != "none" else ())

    return list({drawn(one): one for one in ready}.values())


def _split(one: Experiment) -> str:
    """The split as a table of client x class; where there are many classes, of how many a client holds; and by how much
    its images are changed."""
    n_clients, shown = len(one.split.train), partition.Split(*(part[:MAX_CLIENTS_SHOWN] for part in one.split.parts))
    counts = partition.table(one.data, shown)
    columns = [(name if len(name) <= 8 else f"{name[:7]}.", counts[:, c]) for c, name in enumerate(one.data.classes)]
    if len(columns) > MAX_CLASSES_SHOWN:
        largest, median = counts.max(1), np.median(counts, axis=1).astype(int)
        columns = [("classes", (counts > 0).sum(1)), ("largest", largest), ("median", median)]
    columns += [("all", counts.sum(1)), ("test", shown.test.sizes)]
    if one.options.feature_shift != "none":
        columns.append(("shift", [f"{amount:.2f}" for amount in shift.amounts(one.options)]))
    names = one.split.names[: len(counts)] or [f"{k:>6}" for k in range(len(counts))]
    first, width = max(6, *map(len, names)), max(7, *(len(name) + 1 for name, _ in columns))
    lines = [
        f"split {one.split.digest}: training examples by client and class",
        f"{'client':<{first}}" + "".join(f"{name:>{width}}" for name, _ in columns),
    ]
    for k, name in enumerate(names):
        lines.append(f"{name:<{first}}" + "".join(f"{column[k]:>{width}}" for _, column in columns))
    if n_clients > MAX_CLIENTS_SHOWN:
        lines.append(f"   ... {n_clients - MAX_CLIENTS_SHOWN} more clients, all of them in split.npz")
    if one.data.clients and not one.split.names:
        lines.append(
            f"the data come by {len(one.data.clients)} clients and are dealt anew; --clients keeps them as they come"
        )
    if not partition.has_common_test(one.data):
        n = len(partition.global_test(one.data, one.split))
        lines.append(f"no test set is common to all clients: the global one is the union of their own, {n:,} examples")
    return "\n".join(lines)


if __name__ == "__main__":
    ending.leave(main(sys.argv[1:]))
