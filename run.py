# PYTHON_ARGCOMPLETE_OK
"""The command line: parse the flags, launch the experiments, print the table.

python run.py cfkd fedavg independent --dataset MNIST --n_clients 10 --seed 0 1 2
python run.py -h
"""

from errors import UserError  # first: where memory is too short for what follows, that is told in a line

# isort: split

import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import algorithms
import commandline
import experiment
import saves
from commandline import command_of, plan, study, tuning
from commandline.tuning import Asked
from experiment import Experiment
from federation import allocator, ranks
from figures import split
from figures.alone import alone_for
from figures.compare import compare
from figures.groups import groups, problems
from figures.problems import overview
from figures.render import render
from figures.verdict import best_on_validation
from launch import Failed, ending, launch, loggers, nodes, refuse, slurm, tell_failed, torchrun
from launch.display import log_to_stderr
from options import Launch, Options
from untrusted import print_escaped

SPLITS_SHOWN, FOLDERS_SHOWN = 2, 6


def main(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit status: 0, 1 where a run failed, and else that of `launch.ending`."""
    allocator.keep_blocks()
    leads = ranks.rank() == 0
    log_to_stderr() if leads else logging.getLogger().addHandler(logging.NullHandler())
    if "_ARGCOMPLETE" in os.environ:
        commandline.complete(os.environ["COMP_LINE"], *_declared())
    with ending.told(ending.program(), leads) as end:
        commandline.bring(argv)
        classes, described = _declared()
        with ranks.joined():
            runs, how, notes = commandline.parse(argv, classes, described, algorithms.FAMILIES)
            if not leads:
                torchrun.follow(how)
                return end.status
            if how.save_study:
                study.save(runs, how)
                return end.status
            asked = tuning.asked(how) if how.study else Asked([_prepared(run, how, argv) for run in runs], how, notes)
            if how.show_split:
                split.show(asked.runs)
            elif how.plan:
                end.status = plan.tell_all(asked.runs, how)
            elif slurm.is_asked(asked.runs, how):
                slurm.hand_over(asked.runs, asked.how, argv, asked.then)
            else:
                say = _announce(asked)
                results: list[tuple[Experiment, saves.Run | Failed]] = []
                for one, result in launch(asked.runs, asked.how, math.inf if how.named_by is None else slurm.PATIENCE):
                    results.append((one, result))
                    if how.json and not isinstance(result, Failed):
                        print_escaped(json.dumps(result.summary(), allow_nan=False), flush=True)
                _report(asked, results, say)
                end.status = tell_failed(result for _, result in results)
    return end.status


def _prepared(run: Options, how: Launch, argv: Sequence[str]) -> Experiment:
    try:
        return nodes.prepare(run, how)
    except UserError as error:
        error.args = (commandline.blamed(str(error), run, argv),)
        raise


def _declared() -> tuple[dict[str, type[Options]], dict[str, str]]:
    """{algorithm: its Options class} and {algorithm: what is sent, in one line}, of all that there are."""
    classes = algorithms.all_options()
    return classes, {name: algorithms.describe(name) for name in classes}


def _announce(asked: Asked) -> Callable[..., None]:
    """Print what is there already and who gets what, before anything is run; returns what prints beside the table."""
    how = asked.how
    loggers.chosen(how.log)  # a mistake is one before anything is said
    refuse(asked.runs, how)
    out = sys.stderr if how.json else sys.stdout
    say = lambda *words: print_escaped(*words, sep="\n", file=out, flush=True) if words else None  # noqa: E731
    if how.quiet:
        return say
    ready = list({one.folder: one for one in asked.runs}.values())  # two may be the same run: --threads 1 auto
    for one in ready:
        if not how.force and saves.finished(one.folder):
            say(f"already finished, read from {one.folder} (--force runs it anew)")
        elif (older := experiment.earlier(one.folder)) is not None:
            say(f"the code, a library or the processor has changed since {older} was made: it is kept, and this is run anew")
    drawn = split.distinct([one for one in ready if not saves.finished(one.folder)])
    say(*(split.text(one) for one in drawn[:SPLITS_SHOWN]))
    if len(drawn) > SPLITS_SHOWN:
        say(f"and {len(drawn) - SPLITS_SHOWN} more splits; --show_split draws them")
    return say


def _report(asked: Asked, results: Sequence[tuple[Experiment, saves.Run | Failed]], say: Callable[..., None]) -> None:
    """Print the table and what it says in words, where everything is, and which settings of a study were tried."""
    how, n = asked.how, len({one.folder for one in asked.runs})
    if left := n - len(results):
        print_escaped(
            f"other processes are at work on {left} of {n} runs; the one that ends last prints the table, and "
            f"python -m figures.status {shlex.quote(str(how.export_dir))} tells how they stand",
            file=sys.stderr,
        )
    elif finished := [(one, result) for one, result in results if not isinstance(result, Failed)]:
        _compare(asked, finished, say)
        if len(finished) > FOLDERS_SHOWN:
            say(f"{len(finished)} runs are saved in {how.export_dir}/; python -m figures.status {how.export_dir} lists them")
        else:
            say(f"saved in {how.export_dir}/ (history.xlsx, history.pkl, weights.pt, split.png in each):")
            say(*(f"  {run.folder.name}" for _, run in finished))
    if asked.settings:
        say("\nsettings tried, and chosen by validation accuracy (tuning.csv):", tuning.table(asked.settings))


def _compare(asked: Asked, finished: Sequence[tuple[Experiment, saves.Run]], say: Callable[..., None]) -> None:
    how, runs = asked.how, [run for _, run in finished]
    say("")
    if len(problems(runs)[1]) > 1:
        say(render(overview(runs, select=asked.chosen_among)), *asked.notes)
        return
    bases = {one.folder: nodes.independent(one, how) for one, _ in finished}
    others = dict.fromkeys(base.folder for base in bases.values() if base.folder not in bases)
    beside = [run for folder in others if (run := _baseline(folder))]
    result = compare(runs, beside=beside, place=f"python -m figures.table {shlex.quote(str(how.export_dir))}")
    found = result.tables[0].groups
    result.verdict += [*best_on_validation(found), *asked.notes]
    say(render(result))
    alone = [group for group in found if group.algorithm == "independent" or alone_for(group, found, groups(beside))]
    compared = {run.folder for group in alone for run in group.runs}
    lacking = [command_of(bases[one.folder].options, how) for one, run in finished if run.folder not in compared]
    for command in list(dict.fromkeys(lacking))[:3]:
        say(f"no independent learning on this split yet, so no gain: {command}")


def _baseline(folder: Path) -> saves.Run | None:
    """The finished run of a folder; None where there is none, or none that can be read: that is told."""
    if (why := saves.unreadable(folder)) is not None:
        logging.getLogger("chorus").warning("%s is not compared with: %s", folder.name, why)
        return None
    return saves.whole(folder, "nothing is compared with it")


if __name__ == "__main__":
    ending.leave(main(sys.argv[1:]))
