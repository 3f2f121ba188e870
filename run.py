# PYTHON_ARGCOMPLETE_OK
"""The command line: parse the flags, launch the experiments, print the table.

python run.py cfkd fedavg independent --dataset MNIST --n_clients 10 --seed 0 1 2
python run.py -h
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

import algorithms
import commandline
import experiment
import options
import saves
import study
from commandline import command_of, plan
from data import partition
from errors import DivergedError, UserError
from experiment import Experiment
from figures import summary
from figures.cells import render
from figures.groups import groups, problems, seeds_told
from figures.problems import overview
from launch import Failed, launch, loggers, scheduling, signals
from study import tuning

MAX_CLIENTS_SHOWN, MAX_CLASSES_SHOWN, MAX_SPLITS_SHOWN, MAX_FOLDERS_SHOWN = 20, 12, 2, 6


def main(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit status: 0, 1 where a run failed, 2 for a mistake in the command, 128 and the
    number of the signal that stopped it."""
    _log_to_stderr()
    classes = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
    described = {name: algorithms.describe(name) for name in classes}
    if "_ARGCOMPLETE" in os.environ:
        commandline.complete(os.environ["COMP_LINE"], classes, described)
    try:
        with signals.interrupting():
            runs, how, notes = commandline.parse(argv, classes, described, algorithms.FAMILIES)
            if how.save_study:
                return _save_study(runs, how)
            if how.study:
                return _study(runs, how)
            ready = [experiment.prepare(run, how) for run in runs]
            if how.show_split:
                return _show_split(ready)
            return _plan(ready, how) if how.plan else _launch(ready, how, notes)
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):  # of a terminal that is closed
            print("\nstopped; the same command goes on from the last finished round", file=sys.stderr)
        return signals.status_of(interrupt)


def _log_to_stderr() -> None:
    """Warnings of all, and what Chorus tells, on standard error; a run's log gets more (see experiment.py)."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger().handlers[0].setLevel(logging.INFO)
    logging.captureWarnings(True)


def _launch(ready: Sequence[Experiment], how: options.Launch, notes: Sequence[str], chosen_among: Sequence[str] = ()) -> int:
    """Run what is not finished, and print the table; `chosen_among` are flags whose values were chosen beforehand."""
    loggers.chosen(how.log)  # a mistake is one before anything is said
    out = sys.stderr if how.json else sys.stdout
    say = (lambda *words: None) if how.quiet else (lambda *words: print(*words, file=out, flush=True))
    for one in ready:
        if not how.force and (one.folder / "done").exists():
            say(f"already finished, read from {one.folder} (--force runs it anew)")
        elif (older := experiment.earlier(one.folder)) is not None:
            say(f"the code, a library or the processor has changed since {older} was made: it is kept, and this is run anew")
    drawn = {one.split.digest: one for one in ready if not (one.folder / "done").exists()}
    for one in list(drawn.values())[:MAX_SPLITS_SHOWN]:
        say(_split(one))
    if len(drawn) > MAX_SPLITS_SHOWN:
        say(f"and {len(drawn) - MAX_SPLITS_SHOWN} more splits; --show_split draws them")

    results = _results(ready, how)
    finished = [(one, result) for one, result in results if not isinstance(result, Failed)]
    if finished:
        _report(finished, how, notes, out, chosen_among)
    return _failures(results)


def _results(ready: Sequence[Experiment], how: options.Launch) -> list[tuple[Experiment, saves.Run | Failed]]:
    """What came of the experiments, in their order; each finished one is told in JSON where that is asked for."""
    results = []
    for one, result in launch(ready, how.force, how.quiet, how.jobs, how.log, how.ray, how.any_node):
        results.append((one, result))
        if how.json and not isinstance(result, Failed):
            print(json.dumps(result.summary(), allow_nan=False), flush=True)
    return results


def _failures(results: Sequence[tuple[Experiment, saves.Run | Failed]]) -> int:
    """Tell of each that failed; returns the exit status."""
    failed = [result for _, result in results if isinstance(result, Failed)]
    for failure in failed:
        print(f"run.py: {failure}", file=sys.stderr)
    return 1 if failed else 0


def _save_study(runs: Sequence[options.Options], how: options.Launch) -> int:
    """The runs as a study in a file, and nothing else."""
    try:
        how.save_study.write_text(study.text_of(runs))
    except OSError as error:
        raise UserError(f"--save_study {how.save_study}: cannot be written ({error.strerror})") from None
    print(f"written to {how.save_study}; python run.py --study {how.save_study} runs it")
    return 0


def _study(runs: Sequence[options.Options], how: options.Launch) -> int:
    """A study: where a method has several settings these are tried on held-out data; then each method is run in the setting
    that was chosen, and the table is printed."""
    classes = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
    if runs != [classes["cfkd"](algorithm="cfkd")]:
        raise UserError(f"--study {how.study}: has its own algorithms and flags; beside it stands only where and how to run")
    asked, out = study.read(how.study, classes), sys.stderr if how.json else sys.stdout
    folder = how.export_dir / asked.name
    how, trying = replace(how, export_dir=folder), replace(how, export_dir=folder / "tuning", json=False)
    tried, every, settings = asked.tried(classes), asked.runs(classes), []
    candidates = [(method, experiment.prepare(run, trying)) for method, of_it in tried.items() for run in of_it]
    if how.plan:  # settings cost about the same: of the results the first of each method
        firsts = [experiment.prepare(of_it[0], how) for of_it in every.values()]
        return _plan([*(one for _, one in candidates), *firsts], how)
    if candidates:
        print(f"tuning: {len(candidates)} runs on held-out data, in {trying.export_dir}", file=out, flush=True)
        results = _results([one for _, one in candidates], trying)
        _failures(results)
        of_methods: dict[str, list] = {method: [] for method in tried}
        for (method, one), (_, result) in zip(candidates, results, strict=True):
            of_methods[method].append((one.options, None if isinstance(result, Failed) else result))
        settings = tuning.choose(asked, of_methods)
        tuning.record(settings, folder / "tuning.csv")
    final = [experiment.prepare(run, how) for run in tuning.results_of(asked, every, settings)]
    print(f"results: {len(final)} runs on all training data, in {folder}", file=out, flush=True)
    among = list(dict.fromkeys(flag for one in settings for flag in one.values))
    again = f"python -m figures.table {folder}" + (f" --select {','.join(among)}" if among else "")
    status = _launch(final, how, [f"{again} prints it anew; --latex, --markdown, --csv are other forms"], among)
    if settings:
        print("\nsettings tried, and chosen by validation accuracy (tuning.csv):", file=out)
        print(tabulate(tuning.rows_of(settings), headers="keys", tablefmt="simple", floatfmt=".2f"), file=out)
    return status


def _show_split(ready: Sequence[Experiment]) -> int:
    """Who gets what, on the screen and in --export_dir, and nothing else."""
    from figures import split

    for one in {one.split.digest: one for one in ready}.values():
        print(_split(one))
        saved = experiment.save_split(one)
        split.draw_saved(saved, saved.with_suffix(".png"))
        print(f"drawn in {saved.with_suffix('.png')}, saved beside it for --partition_file")
    return 0


def _plan(ready: Sequence[Experiment], how: options.Launch) -> int:
    """What the runs will cost, on the screen, and nothing else. Those that cost the same are planned once."""
    plans, found = [], {}
    for number, one in enumerate(ready, start=1):
        costs = experiment.costs_of(one)
        if costs not in found:
            label = f"planning {one.options.algorithm} seed {one.options.seed} ({number}/{len(ready)})"
            with tqdm(desc=label, unit="round", disable=True if how.quiet else None, leave=False) as bar:
                try:
                    found[costs] = experiment.plan(one, lambda r, bar=bar: bar.update())
                except DivergedError as error:  # of initial weights from elsewhere
                    print(f"run.py: {error}", file=sys.stderr)
                    continue
        plans.append(replace(found[costs], experiment=one))
        if how.json:
            print(json.dumps(plan.summary(plans[-1]), allow_nan=False), flush=True)
    if plans and not how.json:
        print(plan.report(plans, scheduling.cores_of(ready, how.jobs)))
    return 0 if len(plans) == len(ready) else 1


def _report(
    finished: Sequence[tuple[Experiment, saves.Run]],
    how: options.Launch,
    notes: Sequence[str],
    out,
    chosen_among: Sequence[str] = (),
) -> None:
    """The table, what it says in words, and where everything is."""
    baselines = [_independent(one, how) for one, _ in finished]
    runs = [
        (run, saves.load(base.folder) if (base.folder / "done").exists() else None)
        for (_, run), base in zip(finished, baselines, strict=True)
    ]
    found, several = groups(runs), len(problems([run for run, _ in runs])[1]) > 1
    print(file=out)
    if several:
        print(render(overview([run for run, _ in runs], select=chosen_among)), file=out)
        print(*notes, sep="\n", end="\n" * bool(notes), file=out)
    else:
        print(summary.table(found), file=out)
        print(file=out)
        for line in (*summary.verdict(found), *summary.best_on_validation(found), *notes):
            print(line, file=out)
    missing = {
        command_of(base.options, how): None
        for base, (_, run), (_, there) in zip(baselines, finished, runs, strict=True)
        if there is None and run.options["algorithm"] != "independent"
    }
    if not several:
        for command in list(missing)[:3]:
            print(f"no independent learning on this split yet, so no gain: {command}", file=out)
        print(seeds_told(found), file=out)
    if len(finished) > MAX_FOLDERS_SHOWN:
        print(
            f"{len(finished)} runs are saved in {how.export_dir}/; python -m figures.status {how.export_dir} lists them",
            file=out,
        )
        return
    print(f"saved in {how.export_dir}/ (history.xlsx, history.pkl, weights.pt, split.png in each):", file=out)
    for _, run in finished:
        print(f"  {run.folder.name}", file=out)


def _independent(one: Experiment, how: options.Launch) -> Experiment:
    """Independent learning with the same shared flags, on the same split."""
    shared = {f.name: getattr(one.options, f.name) for f in fields(options.Options)}
    return experiment.prepare(algorithms.options_of("independent")(**{**shared, "algorithm": "independent"}), how)


def _split(one: Experiment) -> str:
    """The split as a table of client x class; where there are many classes, of how many a client holds."""
    counts = partition.table(one.data, one.split)
    columns = [(name if len(name) <= 8 else f"{name[:7]}.", counts[:, c]) for c, name in enumerate(one.data.classes)]
    if len(columns) > MAX_CLASSES_SHOWN:
        largest, median = counts.max(1), np.median(counts, axis=1).astype(int)
        columns = [("classes", (counts > 0).sum(1)), ("largest", largest), ("median", median)]
    columns += [("all", counts.sum(1)), ("test", np.array([len(share) for share in one.split.test]))]
    width = max(7, *(len(name) + 1 for name, _ in columns))
    lines = [
        f"split {one.split.digest}: training examples by client and class",
        "client" + "".join(f"{name:>{width}}" for name, _ in columns),
    ]
    for k in range(min(len(counts), MAX_CLIENTS_SHOWN)):
        lines.append(f"{k:>6}" + "".join(f"{column[k]:>{width}}" for _, column in columns))
    if len(counts) > MAX_CLIENTS_SHOWN:
        lines.append(f"   ... {len(counts) - MAX_CLIENTS_SHOWN} more clients, all of them in split.npz")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
