"""How a study stands, on standard error: on a terminal a line of all runs and one of each that is running, which change in
place; elsewhere plain lines now and then, so that a log file shows signs of life. How far a run is stands in its folder.
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import mean

from tqdm import tqdm

import saves
from experiment import Experiment
from experiment.rounds import Row
from figures import status
from figures.groups import distinguishing
from figures.units import duration, flags_told
from launch.scheduling import work_of
from launch.single import Failed
from options import plain
from untrusted import escape

EVERY = 30.0  # seconds from one report to the next where there is no terminal
REFRESH = 0.1  # seconds in which a terminal is not written to again
TAIL = 1 << 14  # bytes at the end of history.csv: the rounds that tell how fast a run is


@dataclass
class Standing:
    """How far a run is, by the last rows of its `history.csv`: `pace` is in seconds a round, `news` what was said last."""

    label: str
    folder: Path
    rounds: int
    work: float
    round: int = 0
    pace: float | None = None
    accuracy: str = ""
    loss: str = ""
    news: str = ""
    result: saves.Run | Failed | None = None

    def look(self) -> None:
        """Read what is there now."""
        if not (rows := status.rows_of(self.folder, TAIL)):
            return
        last, played = rows[-1], [row for row in rows if int(row["round"]) > 0]
        self.news = self.news if int(last["round"]) == self.round else ""
        self.round = int(last["round"])
        if played:
            self.pace = mean(float(row["seconds"]) + float(row["evaluation_seconds"]) for row in played)
        self.loss = f"loss {float(last['loss']):.3f}" if last["loss"] else ""
        for what in ("personal", "global"):
            if evaluated := [row for row in rows if row.get(f"{what}_mean")]:
                self.accuracy = f"{what} {float(evaluated[-1][f'{what}_mean']):.1%}"

    @property
    def left(self) -> float:
        """The part of its work that is left."""
        return 0.0 if self.result else self.work * (self.rounds - self.round) / self.rounds

    def __str__(self) -> str:
        left = None if self.pace is None else self.pace * (self.rounds - self.round)
        told = (f"{self.round:>{len(str(self.rounds))}}/{self.rounds}", self.accuracy, _left(left), self.label, self.loss)
        return "  ".join(filter(None, (*told, self.news)))


class Display:
    """Knows how the runs stand, and shows nothing. In it a run `begins` and `stops`."""

    every, at_once = math.inf, False  # seconds from one look to the next; whether it looks where a run begins or stops

    def __init__(self, runs: Sequence[Experiment]) -> None:
        self.standings = {
            one.folder: Standing(label, one.folder, one.options.rounds, work_of(one))
            for one, label in zip(runs, labels_of(runs), strict=True)
        }
        self.running: list[Path] = []
        self.elsewhere = 0
        self._looked = time.monotonic()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_) -> None:
        pass

    def begins(self, one: Experiment) -> None:
        """A run is at work."""
        self.elsewhere = 0
        self.running.append(one.folder)
        self.look(self.at_once)

    def told(self, one: Experiment, words: str) -> None:
        """Something is to be said of a run."""
        self.standings[one.folder].news = words
        self.look()

    def stops(self, one: Experiment, result: saves.Run | Failed | None = None) -> None:
        """A run is over, or waits again."""
        self.running.remove(one.folder)
        self.standings[one.folder].result = result
        self.look(self.at_once)

    def waits(self, n: int) -> None:
        """Other processes are at work on all n runs that are left."""
        self.elsewhere = n
        self.look(self.at_once)

    @contextmanager
    def logger(self, folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
        """Of a run in this process, its last logger: the others have written the row."""
        yield lambda row: self.look()

    def look(self, now: bool = False) -> None:
        """Where it is time again, or `now`, show how the runs stand."""
        if now or time.monotonic() - self._looked >= self.every:
            self._looked = time.monotonic()
            for folder in self.running:
                self.standings[folder].look()
            over = sum(standing.result is not None for standing in self.standings.values())
            of_all = [(str(self), over, len(self.standings))] if len(self.standings) > 1 else []
            of_each = [(str(one), one.round, one.rounds) for one in map(self.standings.get, self.running)]
            with suppress(OSError):  # of a full disk, or of a terminal that is closed
                self.write([*of_all, *of_each])

    def write(self, lines: Sequence[tuple[str, int, int]]) -> None:
        """Show these lines, each with how many of how many rounds or runs are done."""

    def aside(self) -> AbstractContextManager:
        """Inside, something else is printed."""
        return nullcontext()

    def __str__(self) -> str:
        all_of_them = self.standings.values()
        over = [standing.result for standing in all_of_them if standing.result is not None]
        failed = sum(isinstance(result, Failed) for result in over)
        counts = {"running": len(self.running), "in another process": self.elsewhere}
        counts["waiting"] = len(all_of_them) - len(over) - len(self.running) - self.elsewhere
        counts["failed"] = failed
        told = [f"{n} {what}" for what, n in counts.items() if n]
        # what matters most comes first: a narrow terminal cuts the end
        done = f"{len(over) - failed} of {len(all_of_them)} runs done"
        return ", ".join(filter(None, (done, _left(self._left()), *told)))

    def _left(self) -> float | None:
        """Seconds, if work goes on as fast as that of the runs at work; None before the first round."""
        at_work = [self.standings[folder] for folder in self.running]
        speed = sum(one.work / one.rounds / one.pace for one in at_work if one.pace)
        return sum(standing.left for standing in self.standings.values()) / speed if speed else None


class Lines(Display):
    """For a file: every `EVERY` seconds a line of all runs and one of each that runs."""

    every = EVERY

    def write(self, lines: Sequence[tuple[str, int, int]]) -> None:
        """One below the other."""
        several = len(self.standings) > 1
        texts = [text if several and number == 0 else f"  {text}" for number, (text, *_) in enumerate(lines)]
        print(*texts, sep="\n", file=sys.stderr, flush=True)


class Bars(Display):
    """For a terminal."""

    every, at_once = REFRESH, True

    def __init__(self, runs: Sequence[Experiment]) -> None:
        super().__init__(runs)
        self._bars: list[tqdm] = []

    def __exit__(self, *_) -> None:
        with suppress(OSError):  # of a terminal that is closed
            for bar in reversed(self._bars):
                bar.close()

    def write(self, lines: Sequence[tuple[str, int, int]]) -> None:
        """In place of those before."""
        while len(self._bars) < len(lines):
            self._bars.append(tqdm(position=len(self._bars), leave=False, dynamic_ncols=True, bar_format="{desc}"))
        for bar, (text, bar.n, bar.total) in zip_longest(self._bars, lines, fillvalue=("", 0, 0)):
            bar.bar_format = "{desc} |{bar}|" if text else "{desc}"
            bar.set_description_str(text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, the lines are away."""
        with tqdm.external_write_mode(file=sys.stdout):
            yield


def display_of(runs: Sequence[Experiment], quiet: bool) -> Display:
    """What suits standard error; nothing with `--quiet`."""
    if quiet:
        return Display(runs)
    return (Bars if sys.stderr.isatty() else Lines)(runs)


class Beside(logging.Handler):
    """What is logged goes to standard error, above the lines where there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        with suppress(OSError):  # of a terminal that is closed, or of a full disk
            tqdm.write(escape(self.format(record), lines=True), file=sys.stderr)


def log_to_stderr() -> None:
    """Warnings of all, and what Chorus tells, on standard error; a run's log gets more. A standard
    stream that is closed is nowhere from now on: else the next file that is opened would be it, and get what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r+" if number == 0 else "w"))
    logging.basicConfig(format="%(message)s", handlers=[Beside(logging.INFO)], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def labels_of(runs: Sequence[Experiment]) -> list[str]:
    """The algorithm, its seed, and the options that tell runs apart."""
    found = [plain(one.options) for one in runs]
    names = [name for name in dict.fromkeys((*distinguishing(found, but=()), "seed")) if name != "algorithm"]
    return [f"{options['algorithm']} {flags_told(options, names)}".strip() for options in found]


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} left"
