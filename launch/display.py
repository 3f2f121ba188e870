"""How a study stands, on standard error: on a terminal a line of all runs and one of each that is running, which change in
place; elsewhere plain lines now and then, so that a log file shows signs of life.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import saves
from experiment import Experiment
from experiment.rounds import Row
from figures.groups import distinguishing
from figures.units import duration, flags_told
from launch.scheduling import work_of
from launch.single import Failed
from options import plain
from untrusted import inert

EVERY = 30.0  # seconds from one report to the next where there is no terminal
REFRESH = 0.1  # seconds in which a terminal is not written to again


@dataclass
class Standing:
    """How far a run is: `first` is the round that it began or went on with, `news` what was said last."""

    label: str
    rounds: int
    work: float
    began: float = 0.0
    first: int | None = None
    round: int = 0
    accuracy: str = ""
    loss: str = ""
    news: str = ""
    result: saves.Run | Failed | None = None

    def hears(self, news: Row | str) -> None:
        """A row of the history, or words."""
        self.news = news if isinstance(news, str) else ""
        if isinstance(news, str):
            return
        self.round = int(news["round"])
        self.first = self.first or self.round
        self.loss = f"loss {news['loss']:.3f}"
        found = next((what for what in ("global", "personal") if f"{what}_mean" in news), None)
        self.accuracy = f"{found} {news[f'{found}_mean']:.1%}" if found else self.accuracy

    @property
    def made(self) -> int:
        """Rounds that were played since it began here."""
        return 0 if self.first is None else self.round - self.first + 1

    def __str__(self) -> str:
        left = (time.monotonic() - self.began) / self.made * (self.rounds - self.round) if self.made else None
        told = (f"{self.round:>{len(str(self.rounds))}}/{self.rounds}", self.accuracy, _left(left), self.label, self.loss)
        return "  ".join(filter(None, (*told, self.news)))


class Display:
    """Knows how the runs stand, and shows nothing. Within it they are told of in order: `begins`, `told`, `stops`."""

    def __init__(self, runs: Sequence[Experiment]) -> None:
        labels = labels_of(runs)
        self.standings = {
            one.folder: Standing(label, one.options.rounds, work_of(one)) for one, label in zip(runs, labels, strict=True)
        }
        self.running: list[Path] = []
        self.elsewhere = 0
        self.began = time.monotonic()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_) -> None:
        pass

    def begins(self, one: Experiment) -> None:
        """A run is at work."""
        self.elsewhere, standing = 0, self.standings[one.folder]
        standing.began, standing.first = time.monotonic(), None
        self.running.append(one.folder)
        self.show(now=True)

    def told(self, one: Experiment, news: Row | str) -> None:
        """A round is over, or something is to be said."""
        self.standings[one.folder].hears(news)
        self.show()

    def stops(self, one: Experiment, result: saves.Run | Failed | None = None) -> None:
        """A run is over, or waits again."""
        self.running.remove(one.folder)
        self.standings[one.folder].result = result
        self.show(now=True)

    def waits(self, n: int) -> None:
        """Other processes are at work on all n runs that are left."""
        self.elsewhere = n
        self.show()

    def show(self, now: bool = False) -> None:
        """Something has changed; `now` is something that is not to be missed."""

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
        """Seconds, if all runs' work goes on as fast as it went so far; None before the first round."""
        of_all = self.standings.values()
        made = sum(standing.work * standing.made / standing.rounds for standing in of_all)
        left = sum(s.work * (s.rounds - s.round) / s.rounds for s in of_all if s.result is None)
        return (time.monotonic() - self.began) * left / made if made else None


class Lines(Display):
    """For a file: every `EVERY` seconds, where there is something new, a line of all runs and one of each that runs."""

    shown = 0.0

    def show(self, now: bool = False) -> None:
        """Where it is time again."""
        self.shown = self.shown or self.began
        if time.monotonic() - self.shown >= EVERY:
            self.shown = time.monotonic()
            running = [f"  {self.standings[folder]}" for folder in self.running]
            with suppress(OSError):  # of a full disk
                print(*([str(self)] if len(self.standings) > 1 else []), *running, sep="\n", file=sys.stderr, flush=True)


class Bars(Display):
    """For a terminal."""

    def __init__(self, runs: Sequence[Experiment]) -> None:
        super().__init__(runs)
        self._shown = 0.0
        self._places: list[Path | None] = []  # of the runs' lines, from top to bottom
        self._lines: list[tqdm] = []

    def __enter__(self) -> Display:
        if len(self.standings) > 1:
            self._line(len(self.standings))
        return self

    def __exit__(self, *_) -> None:
        with suppress(OSError):  # of a terminal that is closed
            for line in reversed(self._lines):
                line.close()

    def begins(self, one: Experiment) -> None:
        """A run is at work: it takes the first line that is free."""
        if None in self._places:
            self._places[self._places.index(None)] = one.folder
        else:
            self._places.append(one.folder)
            self._line(1)
        super().begins(one)

    def stops(self, one: Experiment, result: saves.Run | Failed | None = None) -> None:
        """A run is over, or waits again: its line is free."""
        self._places[self._places.index(one.folder)] = None
        super().stops(one, result)

    def show(self, now: bool = False) -> None:
        """All lines anew, but not too often."""
        if not now and time.monotonic() - self._shown < REFRESH:
            return
        self._shown = time.monotonic()
        of_runs = self._lines[-len(self._places) :] if self._places else []
        for line in self._lines[: len(self._lines) - len(of_runs)]:
            over = sum(standing.result is not None for standing in self.standings.values())
            _write(line, str(self), over, len(self.standings))
        for line, folder in zip(of_runs, self._places, strict=True):
            standing = self.standings.get(folder)
            _write(line, str(standing or ""), standing.round if standing else 0, standing.rounds if standing else 0)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, the lines are away."""
        with tqdm.external_write_mode(file=sys.stdout):
            yield

    def _line(self, total: int) -> None:
        line = tqdm(total=total, position=len(self._lines), leave=False, dynamic_ncols=True, bar_format="{desc}")
        self._lines.append(line)


def _write(line: tqdm, text: str, n: int, total: int) -> None:
    line.n, line.total = n, total
    line.bar_format = "{desc} |{bar}|" if text else "{desc}"
    line.set_description_str(text)


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
            tqdm.write(inert(self.format(record), lines=True), file=sys.stderr)


def log_to_stderr() -> None:
    """Warnings of all, and what Chorus tells, on standard error; a run's log gets more (see `experiment.rounds`). A standard
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
