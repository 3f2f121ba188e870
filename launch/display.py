"""The progress of a study, on standard error.

On a terminal, one line for all runs and one line for each active run change in place; in a notebook, a single line.
Elsewhere plain lines appear now and then, so that a log file shows progress. The folder of a run says how many rounds are
finished.
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
from typing import Any

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
REFRESH = 0.1  # seconds between two updates of a terminal or notebook
BAR = "{desc} |{bar}|"
TAIL = 1 << 14  # bytes at the end of history.csv: the recent rounds give the speed of a run


@dataclass
class Standing:
    """The progress of a run, from the last rows of its `history.csv`.

    `pace` is in seconds per round; `news` is the last message about the run.
    """

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
        """Read the latest rows."""
        if not (rows := status.rows_of(self.folder, TAIL)):
            return
        last, trained_rows = rows[-1], [row for row in rows if int(row["round"]) > 0]
        self.news = self.news if int(last["round"]) == self.round else ""
        self.round = int(last["round"])
        if trained_rows:
            self.pace = mean(float(row["seconds"]) + float(row["evaluation_seconds"]) for row in trained_rows)
        self.loss = f"loss {float(last['loss']):.3f}" if last["loss"] else ""
        for model_kind in ("personal", "global"):
            if evaluated := [row for row in rows if row.get(f"{model_kind}_mean")]:
                self.accuracy = f"{model_kind} {float(evaluated[-1][f'{model_kind}_mean']):.1%}"

    @property
    def left(self) -> float:
        """The part of the run's work that is left."""
        return 0.0 if self.result else self.work * (self.rounds - self.round) / self.rounds

    def __str__(self) -> str:
        left = None if self.pace is None else self.pace * (self.rounds - self.round)
        parts = (
            f"{self.round:>{len(str(self.rounds))}}/{self.rounds}",
            self.accuracy,
            _format_time_left(left),
            self.label,
            self.loss,
        )
        return "  ".join(filter(None, (*parts, self.news)))


class Display:
    """The progress of all runs, without output. The caller reports the start (`begins`) and the end (`stops`) of a run."""

    every, at_once = math.inf, False  # seconds between updates; whether the start and end of a run update too

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        self.standings = {
            experiment.folder: Standing(label, experiment.folder, experiment.options.rounds, work_of(experiment))
            for experiment, label in zip(experiments, labels_of(experiments), strict=True)
        }
        self.running: list[Path] = []
        self.elsewhere = 0
        self._looked = time.monotonic()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_) -> None:
        pass

    def begins(self, experiment: Experiment) -> None:
        """Record that a run has started."""
        self.elsewhere = 0
        self.running.append(experiment.folder)
        self.look(self.at_once)

    def show_message(self, experiment: Experiment, message: str) -> None:
        """Record a message about a run."""
        self.standings[experiment.folder].news = message
        self.look()

    def stops(self, experiment: Experiment, result: saves.Run | Failed | None = None) -> None:
        """Record that a run is finished, or that it waits again."""
        self.running.remove(experiment.folder)
        self.standings[experiment.folder].result = result
        self.look(self.at_once)

    def waits(self, n: int) -> None:
        """Record that other processes work on all n runs that are left."""
        self.elsewhere = n
        self.look(self.at_once)

    @contextmanager
    def logger(self, folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
        """Show the progress after each round of a run in this process; the other loggers have written the row already."""
        yield lambda row: self.look()

    def look(self, now: bool = False) -> None:
        """Show the progress of the runs, where it is time again or `now`."""
        if now or time.monotonic() - self._looked >= self.every:
            self._looked = time.monotonic()
            for folder in self.running:
                self.standings[folder].look()
            n_over = sum(standing.result is not None for standing in self.standings.values())
            study_line = [(str(self), n_over, len(self.standings))] if len(self.standings) > 1 else []
            run_lines = [(str(active), active.round, active.rounds) for active in map(self.standings.get, self.running)]
            with suppress(OSError):  # the terminal may be closed, or the disk full
                self.write([*study_line, *run_lines])

    def write(self, lines: Sequence[tuple[str, int, int]]) -> None:
        """Show these lines, each with the number of finished rounds or runs and the total number."""

    def aside(self) -> AbstractContextManager:
        """Make room for other output inside this context."""
        return nullcontext()

    def __str__(self) -> str:
        standings = self.standings.values()
        results = [standing.result for standing in standings if standing.result is not None]
        failed = sum(isinstance(result, Failed) for result in results)
        counts = {"running": len(self.running), "in another process": self.elsewhere}
        counts["waiting"] = len(standings) - len(results) - len(self.running) - self.elsewhere
        counts["failed"] = failed
        counted = [f"{n} {what}" for what, n in counts.items() if n]
        # the most important part comes first: a narrow terminal cuts the end
        done = f"{len(results) - failed} of {len(standings)} runs done"
        return ", ".join(filter(None, (done, _format_time_left(self._left()), *counted)))

    def _left(self) -> float | None:
        """Return the seconds left, if work continues as fast as the active runs; None before the first round."""
        running = [self.standings[folder] for folder in self.running]
        speed = sum(active.work / active.rounds / active.pace for active in running if active.pace)
        return sum(standing.left for standing in self.standings.values()) / speed if speed else None


class Lines(Display):
    """Progress for a file: every `EVERY` seconds one line for all runs and one line for each active run."""

    every = EVERY

    def write(self, lines: Sequence[tuple[str, int, int]]) -> None:
        """Print the lines, one below the other."""
        several = len(self.standings) > 1
        texts = [text if several and number == 0 else f"  {text}" for number, (text, *_) in enumerate(lines)]
        print(*texts, sep="\n", file=sys.stderr, flush=True)


class Bars(Display):
    """Progress for a terminal."""

    every, at_once = REFRESH, True

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        super().__init__(experiments)
        self._bars: list[tqdm] = []

    def __exit__(self, *_) -> None:
        with suppress(OSError):  # the terminal may be closed
            for bar in reversed(self._bars):
                bar.close()

    def write(self, lines: Sequence[tuple[str, int, int]]) -> None:
        """Replace the previous lines."""
        while len(self._bars) < len(lines):
            self._bars.append(tqdm(position=len(self._bars), leave=False, dynamic_ncols=True, bar_format="{desc}"))
        for bar, (text, bar.n, bar.total) in zip_longest(self._bars, lines, fillvalue=("", 0, 0)):
            bar.bar_format = BAR if text else "{desc}"
            bar.set_description_str(text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the lines inside this context."""
        with tqdm.external_write_mode(file=sys.stdout):
            yield


class Notebook(Display):
    """Progress for a notebook: a line below the cell, which shows the end of the runs when the notebook is saved.

    (The bars of tqdm.notebook need widgets, which a saved notebook shows as they were at the beginning, or as an error.)
    """

    every, at_once, width = REFRESH, True, 60
    _output: Any = None

    def write(self, lines: Sequence[tuple[str, int, int]]) -> None:
        """Replace the previous line."""
        from IPython.display import display

        text, n, total = lines[0] if lines else (str(self), 1, 1)
        content = {"text/plain": tqdm.format_meter(n, total, 0, ncols=self.width, prefix=text, bar_format=BAR)}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)


def display_of(experiments: Sequence[Experiment], quiet: bool) -> Display:
    """Return the display that suits standard error; with `--quiet` a display that prints nothing."""
    if quiet:
        return Display(experiments)
    is_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return (Bars if sys.stderr.isatty() else Notebook if is_notebook else Lines)(experiments)


class Beside(logging.Handler):
    """A log handler that writes to standard error, above the progress lines where there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        with suppress(OSError):  # the terminal may be closed, or the disk full
            tqdm.write(escape(self.format(record), lines=True), file=sys.stderr)


def log_to_stderr() -> None:
    """Send warnings of all libraries, and messages of Chorus, to standard error; a run's log gets more.

    Replace a closed standard stream by the null device. Otherwise the next file that opens would get the stream's number,
    and receive what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r+" if number == 0 else "w"))
    logging.basicConfig(format="%(message)s", handlers=[Beside(logging.INFO)], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def labels_of(experiments: Sequence[Experiment]) -> list[str]:
    """Return a label for each run: the algorithm, the options that differ between the runs, and the seed."""
    options_of_runs = [plain(experiment.options) for experiment in experiments]
    names = [name for name in dict.fromkeys((*distinguishing(options_of_runs, but=()), "seed")) if name != "algorithm"]
    return [f"{options['algorithm']} {flags_told(options, names)}".strip() for options in options_of_runs]


def _format_time_left(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} left"
