"""How a published table is declared: by rows and columns, with the published number and the command that makes ours in each
cell; and what is known of the runs of these commands.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

import algorithms
import commandline
from figures.targets import rounds_to
from options import Options
from saves import Run


class Metric(NamedTuple):
    """What is read off a finished run, and with how many decimals it is shown."""

    of: Callable[[Run], float]
    digits: int = 2


def last(column: str, scale: float = 100, digits: int = 2) -> Metric:
    """A column of the rounds after the last of them; accuracies in percent."""
    return Metric(lambda run: scale * float(run.rounds.iloc[-1][column]), digits)


def _images_left(run: Run) -> float:
    clients = run.clients
    return 100 * float(clients[clients["round"] == clients["round"].max()]["images_left"].mean())


def _rounds_to_80(run: Run) -> float:
    """Until the global accuracy is 80 % for the first time; inf where it never is."""
    reached = rounds_to(run, 0.8).value
    return float("inf") if reached is None else reached


METRICS: dict[str, Metric] = {
    "global": last("global_mean"),
    "personal": last("personal_mean"),
    "worst": last("personal_worst"),
    "loss": last("global_loss", 1, 3),
    "local": last("local_mean"),
    **{f"tuned {epoch}": last(f"tuned_mean:epoch {epoch}") for epoch in range(6)},
    "tuned std": last("tuned_std_clients"),
    "tuned tenth": last("tuned_worst_tenth"),
    "MB up": Metric(lambda run: run.summary()["bytes_up"] / run.options["n_clients"] / 1e6, 1),
    "kB": Metric(lambda run: _moved(run) / run.options["n_clients"] / run.options["rounds"] / 1e3, 1),
    "exchange_kl": last("exchange_kl_sum", 1, 3),
    "rounds to 80": Metric(_rounds_to_80, 0),
    "images left": Metric(_images_left, 1),
}


def _moved(run: Run) -> int:
    summary = run.summary()
    return summary["bytes_up"] + summary["bytes_down"] + summary["bytes_between"]


@dataclass(frozen=True)
class Cell:
    """A number of a table. `command`: what is typed behind run.py; several seeds are several runs, whose mean is shown.
    `metric`: of METRICS. `published`: in the same unit. `tolerance`: by how much ours may differ, fixed before the first
    run. `start`: the command of the runs from which `--init_from` starts, each from that of its own seed."""

    command: str = ""
    metric: str = "global"
    published: float | None = None
    tolerance: float | None = None
    start: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a paper. `source`: where the published numbers stand; `rows`: {row: {column: cell}}; `heavy`: it takes
    hours or a GPU, and is run only when it is named."""

    name: str
    title: str
    source: str
    rows: Mapping[str, Mapping[str, Cell]]
    heavy: bool = False

    @property
    def columns(self) -> list[str]:
        """In the order in which they first appear."""
        return list(dict.fromkeys(column for row in self.rows.values() for column in row))

    @property
    def cells(self) -> list[Cell]:
        """Those that a command makes."""
        return [cell for row in self.rows.values() for cell in row.values() if cell.command]


class Made(NamedTuple):
    """One run of a table. `key`: its command, in one form; `options`; `start`: that of the run that it starts from."""

    key: str
    options: Options
    start: "Made | None"


@cache
def runs_of(command: str, start: str = "") -> tuple[Made, ...]:
    """The runs of a cell, in the order of the seeds."""
    classes = algorithms.all_options()
    asked, _, _ = commandline.parse(shlex.split(command), classes, dict.fromkeys(classes, ""))
    starts = runs_of(start) if start else [None] * len(asked)
    made = []
    for options, origin in zip(asked, starts, strict=True):
        key = commandline.command_of(options).removeprefix("python run.py ")
        made.append(Made(f"{key} --init_from ({origin.key})" if origin else key, options, origin))
    return tuple(made)


def runs_in(tables: Iterable[Table]) -> list[Made]:
    """The runs of tables, each once."""
    cells = [cell for table in tables for cell in table.cells]
    return list(dict.fromkeys(made for cell in cells for made in runs_of(cell.command, cell.start)))


def started(made: Made, folder: Path | None) -> Options:
    """The options of a run, that starts from the models in a folder where there is one."""
    return made.options if folder is None else replace(made.options, init_from=str(folder))


class Earlier(NamedTuple):
    """A cell as it was printed at an earlier revision, of n runs that are no longer at hand."""

    n: int
    mean: float
    std: float | None


@dataclass
class Results:
    """What is known of runs: {key: {"run": its identity, metric: value, what carried it out}}; and, of cells that have none,
    {(table, row, column): what an earlier revision printed}."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    earlier: dict[tuple[str, str, str], Earlier] = field(default_factory=dict)

    def of(self, cell: Cell) -> np.ndarray:
        """A value a run that is there, float [n]."""
        there = [self.rows[made.key] for made in runs_of(cell.command, cell.start) if made.key in self.rows]
        return np.array([row[cell.metric] for row in there if row.get(cell.metric) not in (None, "")], dtype=float)

    def mean(self, table: Table, row: str, column: str) -> float:
        """Over the runs of a cell, or as it was printed earlier; NaN where there is neither."""
        values, before = self.of(table.rows[row][column]), self.printed(table, row, column)
        if before:
            return before.mean
        return float(values.mean()) if len(values) else float("nan")

    def n(self, table: Table, row: str, column: str) -> int:
        """Of how many runs the mean is."""
        before = self.printed(table, row, column)
        return before.n if before else len(self.of(table.rows[row][column]))

    def printed(self, table: Table, row: str, column: str) -> Earlier | None:
        """What an earlier revision printed of a cell, where it was of more runs than are known now."""
        before = self.earlier.get((table.name, row, column))
        return before if before and before.n > len(self.of(table.rows[row][column])) else None

    def missing(self, table: Table) -> list[str]:
        """The commands of the runs that are not there."""
        return [made.key for made in runs_in([table]) if made.key not in self.rows]


def render(table: Table, results: Results) -> str:
    """The table in Markdown: what was published beside ours, a mean over n seeds with its standard deviation. A star marks a
    mean with a run that other code, libraries or another processor made than those at hand; in brackets stands what an
    earlier revision printed."""
    rows = []
    for name, cells in table.rows.items():
        row, ns = {"": name}, set()
        for column in table.columns:
            cell = cells.get(column, Cell())
            if any(other.get(column, Cell()).published is not None for other in table.rows.values()):
                row[f"{column} (published)"] = "" if cell.published is None else f"{cell.published:g}"
            if cell.command:
                row[column] = shown(table, name, column, results)
                ns.add(results.n(table, name, column))
            elif any(other.get(column, Cell()).command for other in table.rows.values()):
                row[column] = ""
        row["n"] = " or ".join(map(str, sorted(ns))) or "0"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def shown(table: Table, row: str, column: str, results: Results) -> str:
    """A cell's mean over its runs and their standard deviation; in brackets what an earlier revision printed; nothing where
    there is neither."""
    cell = table.rows[row][column]
    values, digits = results.of(cell), METRICS[cell.metric].digits
    if before := results.printed(table, row, column):
        return f"({before.mean:g}{'' if before.std is None else f' ±{before.std:g}'})"
    if not len(values):
        return ""
    others = any(results.rows.get(made.key, {}).get("other") for made in runs_of(cell.command, cell.start))
    spread = f" ±{values.std(ddof=1):.{digits}f}" if np.ptp(values) > 0 else ""
    return f"{values.mean():.{digits}f}{spread}{'*' * others}"


def failures(table: Table, results: Results) -> list[str]:
    """In words, the cells that are further from the published number than the tolerance that was fixed beforehand."""
    told = []
    for name, cells in table.rows.items():
        for column, cell in cells.items():
            values = results.of(cell) if cell.tolerance is not None else np.array([])
            if len(values) and abs(off := values.mean() - cell.published) > cell.tolerance:
                told.append(
                    f"{name}, {column}: {off:+.2f} from the published {cell.published:g}, allowed {cell.tolerance:g}"
                )
    return told


def paragraphs(*texts: str) -> str:
    """Texts as paragraphs of Markdown, each on one line of the source."""
    return "\n\n".join(" ".join(text.split()) for text in texts)


def both(rows: Sequence[str], columns: Sequence[str], cell: Callable[[str, str], Cell]) -> dict[str, dict[str, Cell]]:
    """{row: {column: cell(row, column)}}"""
    return {row: {column: cell(row, column) for column in columns} for row in rows}
