"""Where the numbers of each round go while a run goes on.

A logger is a function: it is given the run's folder and the rows that are there already (round 0, or all up to the
checkpoint from which a run goes on), and is a context in which each further row is told. To add one: write it, and name it
in `LOGGERS` and in `options.Launch.log`.
"""

import csv
import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import saves
from errors import UserError, writing
from experiment.rounds import Logger, Row
from figures.units import duration
from untrusted import appended

log = logging.getLogger("chorus")


@contextmanager
def history_csv(folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """`history.csv`: a line a round, appended; written whole as a run begins or goes on, and where a column is new. So it
    holds each round once and all columns, whenever a run was killed. What was not done is 0, what was not measured is empty.
    """
    path, rows = folder / "history.csv", list(rows)
    columns: list[str] = []

    def text_of(rows: Sequence[Row]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_plain(row, name) for name in columns] for row in rows)
        return text.getvalue()

    def write(row: Row | None = None) -> None:
        if row is not None:
            rows.append(row)
        if row is None or not row.keys() <= set(columns):
            columns[:] = saves.in_order(name for row in rows for name in row)
            saves.write_text(path, text_of([dict(zip(columns, columns, strict=True)), *rows]))
        else:
            with writing(path), appended(path) as file:
                file.write(text_of([row]))

    write()
    yield write


def _plain(row: Row, name: str) -> float | str:
    value = row.get(name, 0 if name.startswith(saves.COUNTS) else "")
    return "" if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def run_log(folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """A line a round in `run.log`."""
    yield lambda row: log.debug("%s", line_of(row))


def line_of(row: Row) -> str:
    """A round in a line: its loss, its accuracies where it was evaluated, its seconds."""
    told = [f"{what} {row[f'{what}_mean']:.1%}" for what in ("global", "personal") if f"{what}_mean" in row]
    seconds = row["seconds"] + row["evaluation_seconds"]
    return ", ".join([f"round {row['round']}: loss {row['loss']:.3f}", *told, duration(seconds)])


@contextmanager
def tensorboard(folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """The same numbers for TensorBoard, in the run's folder: `tensorboard --logdir saves`."""
    for older in folder.glob(saves.EVENTS):
        older.unlink()
    with _summary_writer()(folder) as writer:
        for row in rows:
            _scalars(writer, row)
        yield lambda row: _scalars(writer, row)


def _scalars(writer, row: Row) -> None:
    for name, value in row.items():
        if name != "round" and not math.isnan(value):
            writer.add_scalar(name.replace(":", "/"), value, row["round"])
    writer.flush()


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--log tensorboard: it is not installed; python -m pip install tensorboard") from None
    return SummaryWriter


ALWAYS: tuple[Logger, ...] = (history_csv, run_log)
LOGGERS: dict[str, Logger] = {"tensorboard": tensorboard}


def chosen(name: str | None) -> tuple[Logger, ...]:
    """The loggers of a run with `--log`. Raises UserError for one whose library is not installed."""
    if name == "tensorboard":
        _summary_writer()
    return (*ALWAYS, *([LOGGERS[name]] if name else []))
