"""Declare published tables: rows and columns, with the published number and the command of our run in each cell.

Results hold what is known of the runs of these commands."""

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
from figures.alone import harmed_clients
from figures.leaked import leaked
from figures.targets import rounds_to
from options import Options
from saves import Run


class Metric(NamedTuple):
    """Define a number that is read from a finished run, and its number of decimals.

    `of`: the run -> the number; for a cell with `against`, the run and the run that it is compared with -> the number.
    `knows`: what the attacker knows, for a number of the attacks on the run; "" for all other numbers."""

    of: Callable[..., float]
    digits: int = 2
    knows: str = ""


def last(column: str, scale: float = 100, digits: int = 2) -> Metric:
    """Return the metric of a column of the rounds after the last round; accuracies in percent."""
    return Metric(lambda run: scale * float(run.rounds.iloc[-1][column]), digits)


def leakage(quantity: str, view: str = "sent", knows: str = "wire") -> Metric:
    """Return the metric of the best attack on a run, in percent; NaN for a run that was not attacked."""

    def of(run: Run) -> float:
        values = leaked([run], quantity, view, knows)
        return float("nan") if values is None else 100 * float(values[0])

    return Metric(of, 1, knows)


def _images_left(run: Run) -> float:
    clients = run.clients
    return 100 * float(clients[clients["round"] == clients["round"].max()]["images_left"].mean())


def _rounds_to(run: Run, target: float, curve: str = "global_mean") -> float:
    """Return the rounds until the accuracy is the target, a fraction of 1, for the first time; inf if never."""
    reached = rounds_to(run, target, curve).value
    return float("inf") if reached is None else reached


def _gain(run: Run, alone: Run) -> float:
    return _personal(run) - _personal(alone)


def _personal(run: Run) -> float:
    """Return the personal accuracy after the last round, in percent; after fine-tuning where the run has fine-tuned."""
    last_round = run.rounds.iloc[-1]
    return 100 * float(last_round["tuned_mean" if run.options["ft_epochs"] else "personal_mean"])


def _harmed(run: Run, alone: Run) -> float:
    """Return the percentage of clients that are worse off than alone, by the rule of `figures.alone`; NaN if unknown."""
    clients = harmed_clients([(run, alone)])
    return float("nan") if clients is None or run.options["ft_epochs"] else 100 * float(clients.mean())


def _rounds_to_alone(run: Run, alone: Run) -> float:
    """Return the rounds until the personal accuracy is that of learning alone after its last round; inf if never."""
    return _rounds_to(run, float(alone.rounds["personal_mean"].iloc[-1]), "personal_mean")


METRICS: dict[str, Metric] = {
    "global": last("global_mean"),
    "personal": last("personal_mean"),
    "worst": last("personal_worst"),
    "best round": Metric(lambda run: 100 * float(run.rounds["global_mean"].max())),
    "loss": last("global_loss", 1, 3),
    "local": last("local_mean"),
    **{f"tuned {epoch}": last(f"tuned_mean:epoch {epoch}") for epoch in range(6)},
    "tuned std": last("tuned_std_clients"),
    "tuned tenth": last("tuned_worst_tenth"),
    "MB up": Metric(lambda run: run.summary()["bytes_up"] / run.options["n_clients"] / 1e6, 1),
    "kB": Metric(lambda run: _moved(run) / run.options["n_clients"] / run.options["rounds"] / 1e3, 1),
    "exchange_kl": last("exchange_kl_sum", 1, 3),
    "rounds to 80": Metric(lambda run: _rounds_to(run, 0.8), 0),
    "images left": Metric(_images_left, 1),
    "epsilon": last("epsilon", 1),
    "tuned": last("tuned_mean"),
    "worst tuned": last("tuned_worst"),
    "MFLOPs": Metric(lambda run: run.summary()["flops"] / run.options["n_clients"] / run.options["rounds"] / 1e6, 1),
    "gain": Metric(_gain),
    "harmed": Metric(_harmed, 1),
    "rounds to alone": Metric(_rounds_to_alone, 1),
    "exposed": leakage("exposed"),
    "label mix": leakage("label_mix"),
    "exposed, own client": leakage("exposed", knows="own_client"),
    "exposed, network": leakage("exposed", knows="network"),
    "exposed, published": leakage("exposed", "published"),
}


def _moved(run: Run) -> int:
    summary = run.summary()
    return summary["bytes_up"] + summary["bytes_down"] + summary["bytes_between"]


@dataclass(frozen=True)
class Cell:
    """Declare a number of a table.

    `command`: the arguments of run.py; several seeds are several runs, whose mean is shown. `metric`: a key of METRICS.
    `published`: in the same unit. `tolerance`: the allowed difference of our number, fixed before the first run. `start`:
    the command of the runs from which `--init_from` starts; each run starts from the run of its own seed. `against`: the
    command of the runs with which the metric compares, as many, in the same order."""

    command: str = ""
    metric: str = "global"
    published: float | None = None
    tolerance: float | None = None
    start: str = ""
    against: str = ""


@dataclass(frozen=True)
class Table:
    """Declare a table of a paper.

    `source`: where the published numbers come from. `rows`: {row: {column: cell}}. `heavy`: the table takes hours or a GPU,
    and runs only by name. `as_text`: (table, results) -> {column: text} per row, where `plain_rows` is not enough."""

    name: str
    title: str
    source: str
    rows: Mapping[str, Mapping[str, Cell]]
    heavy: bool = False
    as_text: "Callable[[Table, Results], list[dict[str, str]]] | None" = None

    @property
    def columns(self) -> list[str]:
        """Return the columns in the order in which they first appear."""
        return list(dict.fromkeys(column for row in self.rows.values() for column in row))

    @property
    def cells(self) -> list[Cell]:
        """Return the cells that have a command."""
        return [cell for row in self.rows.values() for cell in row.values() if cell.command]


class Made(NamedTuple):
    """Hold one run of a table.

    `key`: its command, in a canonical form. `options`: its options. `start`: the run that it starts from."""

    key: str
    options: Options
    start: "Made | None"


@cache
def runs_of(command: str, start: str = "") -> tuple[Made, ...]:
    """Return the runs of a cell, in the order of the seeds."""
    classes = algorithms.all_options()
    requested, _, _ = commandline.parse(shlex.split(command), classes, dict.fromkeys(classes, ""))
    starts = runs_of(start) if start else [None] * len(requested)
    runs = []
    for options, origin in zip(requested, starts, strict=True):
        key = commandline.command_of(options).removeprefix("python run.py ")
        runs.append(Made(f"{key} --init_from ({origin.key})" if origin else key, options, origin))
    return tuple(runs)


def runs_in(tables: Iterable[Table]) -> list[Made]:
    """Return the runs of tables, each once."""
    cells = [cell for table in tables for cell in table.cells]
    return list(dict.fromkeys(table_run for cell in cells for table_run in runs_of(cell.command, cell.start)))


def started(table_run: Made, folder: Path | None) -> Options:
    """Return the options of a run; with a folder, the run starts from the models in this folder."""
    return table_run.options if folder is None else replace(table_run.options, init_from=str(folder))


class Earlier(NamedTuple):
    """Hold a cell as printed at an earlier revision, of n runs that no longer exist."""

    n: int
    mean: float
    std: float | None


@dataclass
class Results:
    """Hold the known results of runs.

    `rows`: {key: {"run": its identity, metric: value, code, library and processor of the run}}. `earlier`: for cells without
    runs, {(table, row, column): the cell as printed at an earlier revision}."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    earlier: dict[tuple[str, str, str], Earlier] = field(default_factory=dict)

    def of(self, cell: Cell) -> np.ndarray:
        """Return a value per known run, float [n]."""
        known = [self.rows[table_run.key] for table_run in runs_of(cell.command, cell.start) if table_run.key in self.rows]
        return np.array([row[cell.metric] for row in known if row.get(cell.metric) not in (None, "")], dtype=float)

    def mean(self, table: Table, row: str, column: str) -> float:
        """Return the mean over the runs of a cell, or the mean printed earlier; NaN without either."""
        values, printed = self.of(table.rows[row][column]), self.printed(table, row, column)
        if printed:
            return printed.mean
        return float(values.mean()) if len(values) else float("nan")

    def n(self, table: Table, row: str, column: str) -> int:
        """Return the number of runs in the mean."""
        printed = self.printed(table, row, column)
        return printed.n if printed else len(self.of(table.rows[row][column]))

    def printed(self, table: Table, row: str, column: str) -> Earlier | None:
        """Return a cell as printed at an earlier revision, if it was a mean of more runs than are known now."""
        printed = self.earlier.get((table.name, row, column))
        return printed if printed and printed.n > len(self.of(table.rows[row][column])) else None

    def missing(self, table: Table) -> list[str]:
        """Return the commands of the runs without results."""
        return [table_run.key for table_run in runs_in([table]) if table_run.key not in self.rows]


def rows_of(table: Table, results: Results) -> list[dict[str, str]]:
    """Return the table as it is shown, {column: text} per row."""
    return (table.as_text or plain_rows)(table, results)


def plain_rows(table: Table, results: Results) -> list[dict[str, str]]:
    """Return the table, {column: text} per row: the published number beside ours, a mean over n seeds with its deviation.

    A star marks a mean with a run of other code, libraries or another processor than the present ones. A number in brackets
    was printed at an earlier revision."""
    rows = []
    for name, cells in table.rows.items():
        row, counts = {"": name}, set()
        for column in table.columns:
            cell = cells.get(column, Cell())
            if any(other.get(column, Cell()).published is not None for other in table.rows.values()):
                row[f"{column} (published)"] = "" if cell.published is None else f"{cell.published:g}"
            if cell.command:
                row[column] = shown(table, name, column, results)
                counts.add(results.n(table, name, column))
            elif any(other.get(column, Cell()).command for other in table.rows.values()):
                row[column] = ""
        row["n"] = " or ".join(map(str, sorted(counts))) or "0"
        rows.append(row)
    return rows


def render(table: Table, results: Results) -> str:
    """Return the table of `rows_of` in Markdown."""
    return tabulate(rows_of(table, results), headers="keys", tablefmt="github", disable_numparse=True)


def shown(table: Table, row: str, column: str, results: Results) -> str:
    """Return a cell's mean over its runs and their standard deviation; empty without runs.

    A mean in brackets was printed at an earlier revision."""
    cell = table.rows[row][column]
    values, digits = results.of(cell), METRICS[cell.metric].digits
    if printed := results.printed(table, row, column):
        return f"({printed.mean:g}{'' if printed.std is None else f' ±{printed.std:g}'})"
    if not len(values):
        return ""
    has_others = any(results.rows.get(table_run.key, {}).get("other") for table_run in runs_of(cell.command, cell.start))
    spread = f" ±{values.std(ddof=1):.{digits}f}" if np.ptp(values) > 0 else ""
    return f"{values.mean():.{digits}f}{spread}{'*' * has_others}"


def failures(table: Table, results: Results) -> list[str]:
    """Return in words the cells whose difference to the published number exceeds the tolerance.

    The tolerance was fixed before the first run."""
    messages = []
    for name, cells in table.rows.items():
        for column, cell in cells.items():
            values = results.of(cell) if cell.tolerance is not None else np.array([])
            if len(values) and abs(difference := values.mean() - cell.published) > cell.tolerance:
                messages.append(
                    f"{name}, {column}: {difference:+.2f} from the published {cell.published:g}, allowed {cell.tolerance:g}"
                )
    return messages


def paragraphs(*texts: str) -> str:
    """Return texts as paragraphs of Markdown, each on one line of the source."""
    return "\n\n".join(" ".join(text.split()) for text in texts)


def both(rows: Sequence[str], columns: Sequence[str], cell: Callable[[str, str], Cell]) -> dict[str, dict[str, Cell]]:
    """Return {row: {column: cell(row, column)}}."""
    return {row: {column: cell(row, column) for column in columns} for row in rows}
