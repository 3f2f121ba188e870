"""Find the runs of the papers' tables among saved runs, read their results, and keep small result files in git."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

import experiment
import saves
from attacks import ATTACKS
from attacks.results import cases_of, run_attacks
from experiment import Experiment, identity
from experiment.preparation import resolve
from options import Launch
from papers import PAPERS
from papers.tables import METRICS, Earlier, Made, Results, Table, runs_in, runs_of, started

HERE = Path(__file__).resolve().parent
CARRIED = ("run", "revision", "torch", "processor")  # columns of results.csv besides the command and the metrics


class Saved:
    """Index the finished runs in a folder by their identity.

    A recorded run has a known identity, so that no data are read; any other run is prepared first. Of several runs with one
    identity, a run of today's code comes before the newest run."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._recorded = recorded()
        self._runs: dict[str, list[saves.Run]] = {}
        for run in sorted(saves.find(launch.export_dir), key=lambda run: (run.folder / saves.DONE).stat().st_mtime):
            self._runs.setdefault(identity.request_digest(run.config), []).append(run)

    def find(self, table_run: Made) -> saves.Run | None:
        """Return the saved run of a cell, or None. Raises UserError where its data are needed and missing."""
        if table_run.key in self._recorded:
            name = self._recorded[table_run.key]["run"]
        elif (experiment := self.prepare(table_run)) is not None:
            name = identity.request_digest(experiment.config)
        else:
            return None
        runs = self._runs.get(name, [])
        return next((run for run in runs if not other_than_today(run, table_run)), runs[-1] if runs else None)

    def prepare(self, table_run: Made) -> Experiment | None:
        """Return the prepared run of a cell; None where the run that it starts from is missing. Raises UserError."""
        start = self.find(table_run.start) if table_run.start else None
        if table_run.start and start is None:
            return None
        return experiment.prepare(started(table_run, start and start.folder), self._launch)


def recorded() -> dict[str, dict[str, str]]:
    """Return {command: row of `results.csv`} of all papers."""
    return {key: row for paper in PAPERS.values() for key, row in read(paper).rows.items()}


def collect(tables: Sequence[Table], launch: Launch) -> Results:
    """Return the numbers of these tables, from saved runs, and from `results.csv` where a run is not saved.

    Raises UserError as `Saved.find`."""
    saved, recorded_rows, results = Saved(launch), recorded(), Results()
    for table in tables:
        for cell in table.cells:
            others = runs_of(cell.against) if cell.against else ()
            for place, table_run in enumerate(runs_of(cell.command, cell.start)):
                run = saved.find(table_run)
                compared = [saved.find(other) for other in others[place : place + 1]]
                if run is None and table_run.key in recorded_rows:
                    row = recorded_rows[table_run.key]
                    results.rows[table_run.key] = {**row, "other": f"code of {row['revision']}, as recorded"}
                elif run is not None and None not in compared:
                    row = results.rows.setdefault(
                        table_run.key, {**_carried(run), "other": other_than_today(run, table_run)}
                    )
                    value = METRICS[cell.metric].of(run, *compared)
                    row |= {} if value != value else {cell.metric: value}  # NaN: a run that was not attacked
    return results


def attack(tables: Sequence[Table], launch: Launch) -> None:
    """Carry out the attacks that the numbers of these tables need and that have no result yet. Raises UserError."""
    saved, cases = Saved(launch), {}
    for cell in (cell for table in tables for cell in table.cells if METRICS[cell.metric].knows):
        for run in filter(None, map(saved.find, runs_of(cell.command, cell.start))):
            cases.setdefault(run.folder, (run, {}))[1].update(
                dict.fromkeys(cases_of(list(ATTACKS), [METRICS[cell.metric].knows]))
            )
    with tqdm(cases.values(), "attacks", unit="run", disable=True if launch.quiet else None, leave=False) as progress:
        for run, of_run in progress:
            run_attacks(run, list(of_run), launch.data_dir)


def other_than_today(run: saves.Run, table_run: Made) -> str:
    """Return in words the code, library or processor of a run that differs from today's; "" if nothing differs."""
    return identity.carried_out(run.config, identity.carrier(resolve(table_run.options)))


def _carried(run: saves.Run) -> dict[str, str]:
    environment = run.config["environment"]
    software = {name: environment[name] for name in ("torch", "processor")}
    if environment["device"] != "cpu":
        software["processor"] = environment["device"]
    return {"run": identity.request_digest(run.config), "revision": run.config["revision"] or "", **software}


def file_of(paper: ModuleType, name: str = "results.csv") -> Path:
    """Return the path of a paper's results."""
    return HERE / paper.__name__.rpartition(".")[2] / name


def read(paper: ModuleType) -> Results:
    """Return the results of a paper in git: its runs, and the cells of an earlier revision in `earlier.csv`."""
    earlier = {
        (row["table"], row["row"], row["column"]): Earlier(int(row["n"]), float(row["mean"]), float(row["std"] or 0) or None)
        for row in _rows(file_of(paper, "earlier.csv"))
    }
    return Results({row.pop("command"): row for row in _rows(file_of(paper))}, earlier)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def record(paper: ModuleType, results: Results) -> None:
    """Write results: new numbers replace those of the same runs, all others stay. A run that was made anew has none left."""
    all_rows = dict(read(paper).rows)
    for key, row in results.rows.items():
        earlier = all_rows.get(key, {})
        is_same = all(earlier.get(name) == row.get(name) for name in ("run", "revision"))
        all_rows[key] = {**earlier, **row} if is_same else row
    keys = [table_run.key for table_run in runs_in(paper.TABLES)]
    metrics = dict.fromkeys(cell.metric for table in paper.TABLES for cell in table.cells)
    with file_of(paper).open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["command", *CARRIED, *metrics], restval="", extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        for key in keys:
            if key in all_rows:
                numbers = {
                    name: f"{float(all_rows[key][name]):.7g}"
                    for name in metrics
                    if all_rows[key].get(name) not in (None, "")
                }
                writer.writerow({"command": key, **all_rows[key], **numbers})


def missing(tables: Sequence[Table], launch: Launch) -> tuple[list[Experiment], list[Made]]:
    """Return the runs of these tables that are not saved.

    The first list can start now; the runs of the second list start from a run of the first."""
    saved, experiments, waiting = Saved(launch), {}, {}
    for table_run in runs_in(tables):
        for required in filter(None, (table_run.start, table_run)):
            if saved.find(required) is not None:
                continue
            experiment = saved.prepare(required)
            if experiment is None:
                waiting[required.key] = required
            else:
                experiments[experiment.folder] = experiment
    return list(experiments.values()), list(waiting.values())
