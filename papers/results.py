"""The runs of the papers' tables: which of them are saved, what they say, and the small files of it that are kept in git."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import experiment
import saves
from experiment import Experiment, identity
from experiment.preparation import resolve
from options import Launch
from papers import PAPERS
from papers.tables import METRICS, Earlier, Made, Results, Table, runs_in, runs_of, started

HERE = Path(__file__).resolve().parent
CARRIED = ("run", "revision", "torch", "processor")  # columns of results.csv beside the command and the metrics


class Saved:
    """The finished runs in a folder, by their identity. A recorded run has a known identity, so that no data are read;
    any other run is prepared first. Of several runs with one identity, today's code comes before the newest run."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._recorded = recorded()
        self._runs: dict[str, list[saves.Run]] = {}
        for run in sorted(saves.find(launch.export_dir), key=lambda run: (run.folder / saves.DONE).stat().st_mtime):
            self._runs.setdefault(identity.asked(run.config), []).append(run)

    def find(self, made: Made) -> saves.Run | None:
        """The saved run of a cell, or None. Raises UserError where its data are needed and missing."""
        if made.key in self._recorded:
            name = self._recorded[made.key]["run"]
        elif (one := self.prepare(made)) is not None:
            name = identity.asked(one.config)
        else:
            return None
        runs = self._runs.get(name, [])
        return next((run for run in runs if not other_than_today(run, made)), runs[-1] if runs else None)

    def prepare(self, made: Made) -> Experiment | None:
        """The run of a cell, ready to begin; None where the run that it starts from is missing. Raises UserError."""
        start = self.find(made.start) if made.start else None
        if made.start and start is None:
            return None
        return experiment.prepare(started(made, start and start.folder), self._launch)


def recorded() -> dict[str, dict[str, str]]:
    """{command: row of `results.csv`} of all papers."""
    return {key: row for paper in PAPERS.values() for key, row in read(paper).rows.items()}


def collect(tables: Sequence[Table], launch: Launch) -> Results:
    """The numbers of these tables, from saved runs, and from `results.csv` where a run is not saved. Raises UserError as
    `Saved.find`."""
    saved, kept, results = Saved(launch), recorded(), Results()
    for table in tables:
        for cell in table.cells:
            for made in runs_of(cell.command, cell.start):
                run = saved.find(made)
                if run is not None:
                    row = results.rows.setdefault(made.key, {**_carried(run), "other": other_than_today(run, made)})
                    row[cell.metric] = METRICS[cell.metric].of(run)
                elif made.key in kept:
                    row = kept[made.key]
                    results.rows[made.key] = {**row, "other": f"code of {row['revision']}, as recorded"}
    return results


def other_than_today(run: saves.Run, made: Made) -> str:
    """Return which code, library or processor made a run and is not today's, in words; "" if today's would be the same."""
    return identity.carried_out(run.config, identity.carrier(resolve(made.options)))


def _carried(run: saves.Run) -> dict[str, str]:
    environment = run.config["environment"]
    told = {name: environment[name] for name in ("torch", "processor")}
    if environment["device"] != "cpu":
        told["processor"] = environment["device"]
    return {"run": identity.asked(run.config), "revision": run.config["revision"] or "", **told}


def file_of(paper: ModuleType, name: str = "results.csv") -> Path:
    """Where a paper's results are kept."""
    return HERE / paper.__name__.rpartition(".")[2] / name


def read(paper: ModuleType) -> Results:
    """The results of a paper that are kept in git: those of its runs, and what `earlier.csv` has of an earlier revision."""
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
    """Keep results: those of runs that are kept already are replaced, all others stay."""
    kept = read(paper).rows | results.rows
    wanted = [made.key for made in runs_in(paper.TABLES)]
    metrics = dict.fromkeys(cell.metric for table in paper.TABLES for cell in table.cells)
    with file_of(paper).open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["command", *CARRIED, *metrics], restval="", extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        for key in wanted:
            if key in kept:
                numbers = {
                    name: f"{float(kept[key][name]):.7g}" for name in metrics if kept[key].get(name) not in (None, "")
                }
                writer.writerow({"command": key, **kept[key], **numbers})


def missing(tables: Sequence[Table], launch: Launch) -> tuple[list[Experiment], list[Made]]:
    """The runs of these tables that are not saved: those that can begin now, and those that start from one of them."""
    saved, ready, waiting = Saved(launch), {}, {}
    for made in runs_in(tables):
        for needed in filter(None, (made.start, made)):
            if saved.find(needed) is not None:
                continue
            one = saved.prepare(needed)
            if one is None:
                waiting[needed.key] = needed
            else:
                ready[one.folder] = one
    return list(ready.values()), list(waiting.values())
