"""Loggers, which receive the numbers of each round while a run goes on.

A logger is a function. Its arguments are the run's folder and the rows that exist already: round 0, or all rounds up to the
checkpoint from which a run continues. It returns a context, which receives each further row. To add a logger: write the
function, and name it in `LOGGERS` and in `options.Launch.log`.
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
    """Write `history.csv`: one line per round, appended.

    The file is rewritten as a run starts or continues, and where a row has a new column. So the file holds each round once
    and all columns, even after the run was killed. A count of work that was not done is 0; a value that was not measured is
    empty.
    """
    path, rows = folder / "history.csv", list(rows)
    columns: list[str] = []

    def text_of(rows: Sequence[Row]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_csv_value(row, name) for name in columns] for row in rows)
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


def _csv_value(row: Row, name: str) -> float | str:
    value = row.get(name, 0 if name.startswith(saves.COUNTS) else "")
    return "" if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def run_log(folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """Write one line per round to `run.log`."""
    yield lambda row: log.debug("%s", line_of(row))


def line_of(row: Row) -> str:
    """Return a round as one line: its loss, its accuracies where the round was evaluated, its seconds."""
    accuracies = [
        f"{model_kind} {row[f'{model_kind}_mean']:.1%}"
        for model_kind in ("global", "personal")
        if f"{model_kind}_mean" in row
    ]
    seconds = row["seconds"] + row["evaluation_seconds"]
    return ", ".join([f"round {row['round']}: loss {row['loss']:.3f}", *accuracies, duration(seconds)])


@contextmanager
def tensorboard(folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """Write the same numbers for TensorBoard, in the run's folder: `tensorboard --logdir saves`."""
    for older in folder.glob(saves.EVENTS):
        older.unlink()
    with _summary_writer()(folder) as writer:
        for row in rows:
            _write_scalars(writer, row)
        yield lambda row: _write_scalars(writer, row)


def _write_scalars(writer, row: Row) -> None:
    for name, value in row.items():
        if name != "round" and not math.isnan(value):
            writer.add_scalar(name.replace(":", "/"), value, row["round"])
    writer.flush()


def _summary_writer() -> type:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--log tensorboard: TensorBoard is not installed; run python -m pip install tensorboard") from None
    return SummaryWriter


ALWAYS: tuple[Logger, ...] = (history_csv, run_log)
LOGGERS: dict[str, Logger] = {"tensorboard": tensorboard}


def chosen(name: str | None) -> tuple[Logger, ...]:
    """Return the loggers of a run with `--log`. Raises UserError for a logger whose library is not installed."""
    if name == "tensorboard":
        _summary_writer()
    return (*ALWAYS, *([LOGGERS[name]] if name else []))
