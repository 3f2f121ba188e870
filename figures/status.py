"""Print the state of each run in a folder (done, running, stopped, failed), its round and its accuracy.

    python -m figures.status [saves]

For the folder of a study, the table has the tuning runs too. The command reads the files that a run writes while it goes on
(`history.csv`, its checkpoints) and its lock, and changes nothing."""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import saves
from errors import UserError
from figures.groups import distinguishing
from figures.units import duration, flags_told
from untrusted import Parser, RefusedError, is_there, opened, print_escaped, text, wrap

SHOWN = ("run", "status", "round", "global %", "personal %", "time left", "settings", "reason")


def status(folder: Path) -> dict[str, Any]:
    """Return the status of one run in words, and its "options", {} for a run that cannot be read.

    Keys: "run", "status", "round", "global %", "personal %", "time left" (at the pace of the rounds so far), "reason" (of a
    failure)."""
    if (why := saves.unreadable(folder)) is not None:
        return _unknown(folder, "unreadable", why)
    is_done = saves.finished(folder)
    try:
        run = saves.load(folder) if is_done else None
        options = (run.config if run else saves.read_config(folder))["options"]
        rows = run.rounds.to_dict("records") if run else rows_of(folder)
    except UserError as error:
        return _unknown(folder, "damaged" if isinstance(error, saves.DamagedError) else "older", str(error))
    failed, running = folder / "failed", saves.at_work(folder)
    state = "done" if is_done else "running" if running else "failed" if failed.exists() else "stopped"
    last = int(rows[-1]["round"]) if rows else 0
    if state in ("failed", "stopped"):  # the run would resume from its checkpoint; later rounds are lost
        last = saves.saved_round(folder)
        rows = [row for row in rows if int(row["round"]) <= last]
    rounds, taken = options["rounds"], sum(float(row[name]) for row in rows for name in ("seconds", "evaluation_seconds"))
    return {
        "run": folder.name,
        "status": state,
        "round": f"{rounds if is_done else last} of {rounds}",
        "global %": _accuracy(rows, "global_mean"),
        "personal %": _accuracy(rows, "personal_mean"),
        "time left": duration(taken / last * (rounds - last)) if rows and last and not is_done else "",
        "reason": _why(failed) if state == "failed" else "",
        "options": options,
    }


def _unknown(folder: Path, state: str, reason: str) -> dict[str, Any]:
    return {**dict.fromkeys(SHOWN, ""), "run": folder.name, "status": state, "reason": reason, "options": {}}


def rows_of(folder: Path, last: int | None = None) -> list[dict[str, str]]:
    """Return the readable rounds of an unfinished run so far; the last line may be incomplete.

    `last`: read only this number of bytes at the end of `history.csv`."""
    try:
        with opened(folder / "history.csv") as file:
            names, size = file.readline(), os.fstat(file.fileno()).st_size
            if last is not None and size - file.tell() > last:
                file.seek(size - last)
                file.readline()  # skip the rest of a row
            text = (names + file.read()).decode(errors="replace")
        return [row for row in csv.DictReader(io.StringIO(text, newline="")) if _is_whole(row)]
    except (RefusedError, OSError, csv.Error):
        return []


def _why(failed: Path) -> str:
    """Return the reason why a run failed, in its own words, or why the reason cannot be read."""
    try:
        return text(failed).strip()
    except RefusedError as error:
        return str(error)


def _is_whole(row: Mapping[str, str | None]) -> bool:
    try:
        numbers = {name: math.nan if text == "" else float(text) for name, text in row.items()}
        return int(row["round"]) >= 0 and min(numbers["seconds"], numbers["evaluation_seconds"]) >= 0
    except (KeyError, TypeError, ValueError):
        return False


def _accuracy(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return the accuracy of the last evaluated round, in percent."""
    values = [float(row[name]) for row in rows if row.get(name) not in (None, "")]
    values = [value for value in values if value == value]  # in a frame, a value that was not measured is NaN
    return f"{100 * values[-1]:.2f}" if values else ""


def table(export_dir: Path) -> str:
    """Return a table of all runs of a folder, with the settings that differ, and the number of runs with each status."""
    folders = [*saves.folders_in(export_dir), *saves.folders_in(export_dir / saves.TUNING)]
    rows = [status(folder) | {"run": str(folder.relative_to(export_dir))} for folder in folders]
    if not rows:
        return f"{export_dir}: no runs"
    differing = distinguishing([row["options"] for row in rows if row["options"]], but=("algorithm",))
    rows = [row | {"settings": flags_told(row["options"], differing)} for row in rows]
    counts = Counter(row["status"] for row in rows)
    columns = [name for name in SHOWN[:-1] if any(row[name] for row in rows)]
    aligned = ["right" if name in ("round", "global %", "personal %", "time left") else "left" for name in columns]
    shown = [[row[name] for name in columns] for row in rows]
    from tabulate import tabulate  # imported here, so that a command that prints no such table starts without delay

    text = tabulate(shown, headers=columns, tablefmt="simple", colalign=aligned, disable_numparse=True)
    reasons = [wrap(f"{row['run']}: {row['reason']}") for row in rows if row["reason"]]
    total = f"{len(rows)} runs: {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}"
    return "\n".join([text, "", *reasons, total])


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m figures.status", description=__doc__.splitlines()[0])
    parser.add_argument(
        "export_dir", nargs="?", type=Path, default=Path("saves"), help="folder with saved runs (default: saves)"
    )
    export_dir = parser.parse_args(argv).export_dir
    if not is_there(export_dir) or not export_dir.is_dir():
        parser.error(f"{export_dir}: no such folder; must be a folder of runs")
    try:
        print_escaped(table(export_dir))
    except UserError as error:  # the folder itself may be unreadable
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
