"""Killed at random moments, and given the same command again: the same bits as of a run that nothing disturbed.

Every method is ended at least `KILLS` times, a half of them at a rename: with a file written and not yet in its place, or
between two files that belong together. A checkpoint is written after every round in most of the chains, as where rounds take
long, and in the others when the policy says so, which here is in the end. Then grids side by side and runs with workers: no
process outlives a parent that was killed, and no temporary file the next command. And `python run.py` itself, its imports
included.
"""

import json
import re
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np

import saves
from checks.hard import Outcome, methods
from checks.hard.forks import ROOT, Ended, Forks, Plan
from federation import scratch

KILLS = 9  # of a method, at the least
LINKS = 4  # ends of one run, at the most
SOFT = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
MOMENTS = ROOT / "build" / "hard" / "kill.jsonl"  # every end: which command, when, at which round and file
GRIDS = (  # (flags, names of methods) of runs side by side, and of runs with workers
    ({"jobs": 2, "seed": "0 1"}, ("fedavg", "cfkd", "dpsgd")),
    ({"jobs": 1, "workers": 2, "n_clients": 4, "rounds": 8}, ("scaffold",)),
    ({"jobs": 1, "workers": 2, "n_clients": 4, "rounds": 8}, ("fedproto",)),
    ({"jobs": 2, "workers": 2, "n_clients": 4, "rounds": 8, "seed": "0 1 2"}, ("fedavg",)),
)
IN_A_GRID = 6  # ends of each
PATIENCE = 600.0  # seconds for the ends of one command, which are far fewer


@dataclass
class Trials:
    """What a chain of ends is made of, and what is found."""

    forks: Forks
    draw: np.random.Generator
    moments: list[dict] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    whole: int = 0  # chains that ended in the same bits
    lingered: float = 0.0  # seconds that processes did, of a parent that had been ended

    def attack(self, words: list[str], n: int, folder: Path) -> None:
        """End a command at least n times, in chains of ends, one in three of these at a rename where it renames any."""
        began, undisturbed = time.perf_counter(), folder / "undisturbed"
        undisturbed.mkdir(parents=True)
        argv = [*words, "--quiet", "--export_dir", str(undisturbed / "runs")]
        ended = self.forks.run(Plan(argv, str(undisturbed), eager=True))
        whole = methods.runs_in(undisturbed / "runs")
        if ended.status:
            self.failures.append(f"{' '.join(words)}: exit status {ended.status}, {ended.output[-300:]!r}")
            return
        at_renames, number = 0, 0
        while len(self.moments) < n or (ended.renames and at_renames < len(self.moments) / 3):
            number += 1
            (folder / str(number)).mkdir()
            self.chain(words, whole, ended.seconds, ended.renames, folder / str(number))
            shutil.rmtree(folder / str(number))
            at_renames = sum(bool(moment["file"]) for moment in self.moments)
            if time.perf_counter() - began > PATIENCE:
                self.failures.append(f"{' '.join(words)}: only {len(self.moments)} ends in {PATIENCE} s")
                return

    def chain(self, words: list[str], whole: dict[str, saves.Run], seconds: float, renames: int, folder: Path) -> None:
        """A command that is ended up to `LINKS` times and then left to its end, whose runs must be those of `whole`."""
        runs, eager = folder / "runs", bool(self.draw.random() < 0.75)
        text = f"{' '.join(words)} ({'a checkpoint a round' if eager else 'checkpoints as ever'})"
        argv = [*words, "--quiet", "--export_dir", str(runs)]
        for _ in range(LINKS):
            plan = Plan(argv, str(folder), eager=eager, **self._end(seconds, renames))
            before, files = standing(runs), for_a_while(folder)
            ended = self.forks.run(plan)
            self.lingered = max(self.lingered, ended.lingered)
            text += f"; {in_words(plan, ended)}"
            self.failures += [f"{text}: {what}" for what in wrong(plan, ended, before, standing(runs))]
            self.failures += [f"{text}: {path} is left" for path in left(plan, ended, for_a_while(folder) - files)]
            if not ended.cut:
                break
            self.moments.append(
                {
                    "command": " ".join(words),
                    "eager": eager,
                    "signal": signal.Signals(plan.signal).name,
                    "seconds": round(ended.seconds, 3),
                    "file": ended.file,
                    "behind": plan.behind,
                    "rounds": {name: last for name, (last, *_) in standing(runs).items()},
                }
            )
        before = standing(runs)
        ended = self.forks.run(Plan(argv, str(folder), eager=eager))
        result = methods.runs_in(runs)
        self.failures += [f"{text}; then: not said: {line!r}" for line in loss(before) if line not in ended.output]
        if ended.status or result.keys() != whole.keys():
            self.failures.append(f"{text}; then: exit status {ended.status}, {len(result)} runs, {ended.output[-300:]!r}")
        self.failures += [f"{text}; then: {path} is left" for path in for_a_while(folder)]
        apart = {name: methods.apart(whole[name], result[name]) for name in result.keys() & whole.keys()}
        self.failures += [f"{text}; then: {name} differs in {', '.join(what)}" for name, what in apart.items() if what]
        self.whole += result.keys() == whole.keys() and not any(apart.values())

    def _end(self, seconds: float, renames: int) -> dict:
        """At which rename, or when and by which signal, a command is ended."""
        kind = self.draw.random()
        if renames and kind < 0.5:
            return {"rename": int(self.draw.integers(1, renames + 1)), "behind": bool(self.draw.random() < 0.4)}
        number = signal.SIGKILL if kind < 0.75 else SOFT[self.draw.integers(len(SOFT))]
        return {"after": float(self.draw.uniform(0, seconds)), "signal": number}


def standing(runs: Path) -> dict[str, tuple[int, int, str, bool]]:
    """{name of a run's folder: the last round of its history.csv, that of its checkpoint, its log, whether it is done}."""
    results = {}
    for folder in sorted(path for path in runs.glob("*-*") if path.is_dir()):
        csv, log = folder / "history.csv", folder / "run.log"
        lines = csv.read_text().splitlines()[1:] if csv.exists() else []
        last = max((int(line.split(",")[0]) for line in lines if "," in line), default=0)
        text = log.read_text() if log.exists() else ""
        results[folder.name] = (last, saves.saved_round(folder), text, saves.finished(folder))
    return results


def last_in(log: str) -> int:
    """The last round that finished, as a log tells it: history.csv may still have a row of an earlier, killed process."""
    return max(map(int, re.findall(r" round (\d+): loss", log)), default=0)


def for_a_while(folder: Path) -> set[str]:
    """What there is in the folder for temporary files."""
    return {path.name for path in folder.iterdir() if path.name not in ("runs", "said", "moment")}


def left(plan: Plan, ended: Ended, names: set[str]) -> list[str]:
    """Of new temporary files, those that must not be left: what SIGKILL leaves is in a folder that the next command
    removes."""
    killed = ended.cut and plan.signal == signal.SIGKILL
    return sorted(name for name in names if not (killed and name.startswith(scratch.PREFIX)))


def loss(before: dict) -> list[str]:
    """What a command says of each run that it goes on with, and of the rounds that are lost of it."""
    results = []
    for name, (last, saved, _, done) in before.items():
        again = f"; repeating round {last}" if last == saved + 1 else ""
        again = f"; repeating rounds {saved + 1} to {last}" if last > saved + 1 else again
        if saved and not done:
            results.append(f"{name}: resumed after round {saved} of ")
        if again and not done:
            results.append(f"{again}\n")
    return results


def in_words(plan: Plan, ended: Ended) -> str:
    """An end, so that it can be repeated."""
    if not ended.cut:
        return "over before it was ended"
    if plan.rename:
        return f"killed {'behind' if plan.behind else 'before'} rename {plan.rename}, of {ended.file}"
    return f"{signal.Signals(plan.signal).name} after {plan.after:.3f} s"


def wrong(plan: Plan, ended: Ended, before: dict, after: dict) -> list[str]:
    """What is not as it must be after an end."""
    results = [f"{process} outlived it" for process in ended.left]
    if plan.signal == signal.SIGKILL and ended.cut:  # those whose parent was killed as they began may say what they like
        return results
    if "Traceback" in ended.output:
        results.append(f"a traceback: {ended.output[-500:]!r}")
    if not ended.cut:
        return results
    heard = ended.status in (0, 128 + plan.signal)
    if not heard and not (ended.status == -plan.signal and before == after):  # before it could hear, or when all was done
        results.append(f"exit status {ended.status}: {ended.output[-500:]!r}")
    if ended.status == 128 + plan.signal and not all(
        done or saved >= last_in(text.removeprefix(before[name][2] if name in before else ""))
        for name, (_, saved, text, done) in after.items()
    ):
        results.append("a finished round is not saved")
    return results


# --- all of it ---------------------------------------------------------------------------------------------------------


def tried(seed: int) -> Outcome:
    """Kill everything, at moments that are drawn from `seed`."""
    jobs = [(words, KILLS) for name in reversed(methods.NAMES) for words in methods.commands([name], jobs=1)]
    jobs += [(words, IN_A_GRID) for flags, names in GRIDS for words in methods.commands(names, **flags)]
    outcome, idle = Outcome(), SimpleQueue()
    # in a folder whose name is short enough for a socket's
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as scratch,
        Forks() as item,
        Forks() as other,
        ThreadPoolExecutor(2) as both,
    ):
        idle.put(item)
        idle.put(other)

        def attacked(number: int) -> Trials:
            trials = Trials(idle.get(), np.random.default_rng([seed, number]))
            try:
                trials.attack(*jobs[number], Path(scratch) / str(number))
            finally:
                idle.put(trials.forks)
            return trials

        result = list(both.map(attacked, range(len(jobs))))
    outcome.failures += [failure for trials in result for failure in trials.failures]
    moments = [moment for trials in result for moment in trials.moments]
    MOMENTS.parent.mkdir(parents=True, exist_ok=True)
    MOMENTS.write_text("".join(f"{json.dumps(moment)}\n" for moment in moments))
    outcome.figures |= {"methods": len(methods.NAMES), "grids and runs with workers": len(jobs) - len(methods.NAMES)}
    outcome.figures["ends"] = len(moments)
    for moment in sorted(moments, key=_kind):
        outcome.count(_kind(moment))
    outcome.figures["chains to the same bits"] = sum(trials.whole for trials in result)
    outcome.figures["seconds that children outlived a parent, at most"] = f"{max(t.lingered for t in result):.1f}"
    outcome.figures["moments"] = str(MOMENTS.relative_to(ROOT))
    return outcome


def _kind(moment: dict) -> str:
    if not moment["file"]:
        return f"{moment['signal']} at a random moment"
    return f"SIGKILL {'behind' if moment['behind'] else 'before'} the rename of a file"
