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
from tqdm import tqdm

import algorithms
import commandline
import experiment
import options
import saves
from commandline import command_of, plan
from data import partition
from errors import DivergedError, UserError
from experiment import Experiment
from figures import summary
from figures.groups import groups, seeds_told
from launch import Failed, launch, loggers, scheduling, signals
from launch.display import Beside

MAX_CLIENTS_SHOWN, MAX_CLASSES_SHOWN = 20, 12


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
    shown = Beside(logging.INFO)
    logging.basicConfig(format="%(message)s", handlers=[shown], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def _launch(ready: Sequence[Experiment], how: options.Launch, notes: Sequence[str]) -> int:
    loggers.chosen(how.log)  # a mistake is one before anything is said
    out = sys.stderr if how.json else sys.stdout
    say = (lambda *words: None) if how.quiet else (lambda *words: print(*words, file=out, flush=True))
    for one in ready:
        if not how.force and (one.folder / "done").exists():
            say(f"already finished, read from {one.folder} (--force runs it anew)")
        elif (older := experiment.earlier(one.folder)) is not None:
            say(f"the code, a library or the processor has changed since {older} was made: it is kept, and this is run anew")
    for drawn in {one.split.digest: one for one in ready if not (one.folder / "done").exists()}.values():
        say(_split(drawn))

    finished, failed = [], []
    for one, result in launch(ready, how.force, how.quiet, how.jobs, how.log):
        if isinstance(result, Failed):
            failed.append(result)
            continue
        finished.append((one, result))
        if how.json:
            print(json.dumps(result.summary(), allow_nan=False), flush=True)
    if finished:
        _report(finished, how, notes, out)
    for failure in failed:
        print(f"run.py: {failure}", file=sys.stderr)
    return 1 if failed else 0


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


def _report(finished: Sequence[tuple[Experiment, saves.Run]], how: options.Launch, notes: Sequence[str], out) -> None:
    """The table, what it says in words, and where everything is."""
    baselines = [_independent(one, how) for one, _ in finished]
    runs = [
        (run, saves.load(base.folder) if (base.folder / "done").exists() else None)
        for (_, run), base in zip(finished, baselines, strict=True)
    ]
    found = groups(runs)
    print(file=out)
    print(summary.table(found), file=out)
    print(file=out)
    for line in (*summary.verdict(found), *summary.best_on_validation(found), *notes):
        print(line, file=out)
    missing = {
        command_of(base.options, how): None
        for base, (_, run), (_, there) in zip(baselines, finished, runs, strict=True)
        if there is None and run.options["algorithm"] != "independent"
    }
    for command in list(missing)[:3]:
        print(f"no independent learning on this split yet, so no gain: {command}", file=out)
    print(seeds_told(found), file=out)
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
