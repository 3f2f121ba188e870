"""The runs of the papers' tables: which of them are saved, what they say, and the small files of it that are kept in git."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import experiment
import saves
from experiment import Experiment, identity
from options import Launch
from papers.tables import METRICS, Earlier, Made, Results, Table, runs_in, runs_of, started

HERE = Path(__file__).resolve().parent
CARRIED = ("run", "revision", "torch", "processor")  # columns of results.csv beside the command and the metrics


class Saved:
    """The finished runs of a folder by what they ask for; of several that ask for the same, made by other code, the last."""

    def __init__(self, export_dir: Path) -> None:
        self._by_asked: dict[str, saves.Run] = {}
        for run in sorted(saves.find(export_dir), key=lambda run: (run.folder / saves.DONE).stat().st_mtime):
            self.add(run)

    def add(self, run: saves.Run) -> None:
        """One more run."""
        self._by_asked[identity.asked(run.config)] = run

    def of(self, one: Experiment) -> saves.Run | None:
        """The very run that an experiment would make, whatever carried it out; today's code before any other."""
        if saves.finished(one.folder):
            return saves.load(one.folder)
        return self._by_asked.get(identity.asked(one.config))


def prepared(made: Made, saved: Saved, launch: Launch) -> Experiment | None:
    """A run of a table, ready; None where the run that it starts from is not there yet. Raises UserError."""
    origin = None
    if made.start:
        before = saved.of(experiment.prepare(made.start.options, launch))
        if before is None:
            return None
        origin = before.folder
    return experiment.prepare(started(made, origin), launch)


def collect(tables: Sequence[Table], launch: Launch) -> Results:
    """What the saved runs say of these tables. Raises UserError where the data are not there."""
    saved, results = Saved(launch.export_dir), Results()
    for table in tables:
        for cell in table.cells:
            for made in runs_of(cell.command, cell.start):
                one = prepared(made, saved, launch)
                run = None if one is None else saved.of(one)
                if run is not None:
                    row = results.rows.setdefault(made.key, {**_carried(run), "other": _other(run, one)})
                    row[cell.metric] = METRICS[cell.metric].of(run)
    return results


def _other(run: saves.Run, one: Experiment) -> str:
    return identity.carried_out(run.config, one.config)


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
    """The runs of these tables that are not saved: those that can be run now, and those that start from one of them."""
    saved, ready, waiting = Saved(launch.export_dir), {}, {}
    for made in runs_in(tables):
        for needed in filter(None, (made.start, made)):
            one = prepared(needed, saved, launch)
            if one is None:
                waiting[needed.key] = needed
            elif saved.of(one) is None:
                ready[one.folder] = one
    return list(ready.values()), list(waiting.values())
