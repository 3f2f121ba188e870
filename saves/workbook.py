"""Write a run as an Excel workbook: sheets summary, rounds, clients (of the last evaluated round), costs, config."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from openpyxl.styles import Alignment, Font
from openpyxl.utils import get_column_letter

import saves
from saves import flat
from untrusted import escape

LEFT, RIGHT = Alignment(horizontal="left"), Alignment(horizontal="right")
MAX_ROWS, MAX_COLUMNS, MAX_TEXT = 1_048_576, 16_384, 32_767  # Excel's limits


def write(path: Path, run) -> None:
    """Write the workbook of a finished `saves.Run`. A sheet of more than `saves.MANY` clients, or too long for Excel, is
    cut; its last row says so."""
    sheets = {
        "summary": _summary(run),
        "rounds": run.rounds,
        "clients": _cut(_last_clients(run), saves.MANY),
        "costs": costs(run),
        "config": _config(run),
    }
    content = io.BytesIO()  # in memory first: an archive that writing cuts off would report an error on deletion
    with pd.ExcelWriter(content, engine="openpyxl") as writer:
        for name, frame in sheets.items():
            write_sheet(writer, name, _cut(frame), _format)
    path.write_bytes(content.getvalue())


def _summary(run) -> pd.DataFrame:
    """Return the summary of a run as a frame of two columns."""
    summary = {name: value for name, value in run.summary().items() if name not in ("options", "tuned_by_epoch")}
    for epoch, value in enumerate(run.summary()["tuned_by_epoch"] or []):
        summary[f"tuned_mean (epoch {epoch})"] = value
    best = run.best_on_validation()
    rows = list(summary.items())
    if best:
        rows += [(f"{name} (best on validation)", value) for name, value in best.items()]
    return pd.DataFrame(rows, columns=["what", "value (accuracies after the last round)"])


def _last_clients(run) -> pd.DataFrame:
    """Return the rows of the clients in the last evaluated round."""
    clients = run.clients
    if clients.empty:
        return clients
    last = clients[clients["round"] == clients["round"].max()].dropna(axis=1, how="all")
    if len(last) > saves.MANY and "loss" in last:  # clients that trained come first
        last = last.sort_values("loss", key=lambda loss: loss.isna(), kind="stable")
    last = last.reset_index(drop=True)
    if run.names:
        last.insert(list(last).index("client") + 1, "name", [run.called(k) for k in last["client"]])
    return last


def costs(run) -> pd.DataFrame:
    """Return bytes by direction and kind, and steps and floating point operations, of clients and server separately: of the
    whole run, per round, and (for the clients) per client and round, over all K clients."""
    rounds, n_clients = run.rounds, run.options["n_clients"]
    n_rounds = int(rounds["round"].max())
    rows = []
    for column in rounds.columns:
        if not column.startswith(("bytes_", "steps", "flops")):
            continue
        is_server = column.endswith(saves.SERVER)
        cost, _, kind = column.removesuffix(saves.SERVER).replace("_", " ").partition(":")
        total = int(rounds[column].sum())
        per_client = None if is_server else total / n_rounds / n_clients
        rows.append((cost, "server" if is_server else "clients", kind or "all", total, total / n_rounds, per_client))
    return pd.DataFrame(rows, columns=["cost", "of the", "kind", "the whole run", "a round", "a client and round"])


def _config(run) -> pd.DataFrame:
    """Return the configuration of a run as a frame of two columns."""
    rows = [(name, json.dumps(value) if isinstance(value, list) else value) for name, value in flat(run.config)]
    return pd.DataFrame(rows, columns=["option", "value"])


def _cut(frame: pd.DataFrame, limit: int | None = None) -> pd.DataFrame:
    """Return at most `limit` rows of a frame, by default as many as Excel holds below the header."""
    limit = limit or MAX_ROWS - 1
    frame = frame.iloc[:, :MAX_COLUMNS]
    if len(frame) <= limit:
        return frame
    kept = frame.iloc[: limit - 1].astype(object)
    kept.loc[len(kept)] = [f"cut here: {len(frame)} rows, all of them in history.npz"] + [None] * (frame.shape[1] - 1)
    return kept


def write_sheet(writer: pd.ExcelWriter, name: str, frame: pd.DataFrame, form: Callable[[str, float], str]) -> None:
    """Write a frame as a sheet and `dress` the sheet. Text stays text: text that begins with = is not a formula, characters
    that Excel's files cannot hold become escapes, and text too long for a cell is cut. Characters that a sheet's name cannot
    hold are replaced."""
    stem = re.sub(r"[\[\]:*?/\\']", "_", escape(name))[:31]
    taken = {other.lower() for other in writer.sheets}
    name = next(
        candidate
        for candidate in (stem, *(f"{stem[:26]} {i}" for i in range(2, len(taken) + 3)))
        if candidate.lower() not in taken
    )
    frame.rename(columns=_plain).map(_plain).to_excel(writer, sheet_name=name, index=False)
    sheet = writer.sheets[name]
    for cell in (cell for row in sheet.iter_rows() for cell in row):
        if cell.data_type == "f":
            cell.data_type = "s"
    dress(sheet, form)


def _plain(value: Any) -> Any:
    """Return text that a cell can hold; other values unchanged."""
    return escape(value, lines=True)[:MAX_TEXT] if isinstance(value, str) else value


def dress(sheet, form: Callable[[str, float], str]) -> None:
    """Freeze the headers, fit the widths to the content, and format the numbers by form(description, number) -> Excel's
    number format."""
    sheet.freeze_panes = "B2"
    sheet.row_dimensions[1].height = 32  # room for two lines
    for cell in sheet[1]:
        cell.font = Font(bold=True)
        cell.alignment = Alignment(horizontal="left", vertical="top", wrap_text=True)
    for index, column in enumerate(sheet.iter_cols(min_row=1), start=1):
        header = str(column[0].value)
        values = [cell.value for cell in column[1:200]]
        texts = [value for value in values if isinstance(value, str)]
        texts += [f"{value:,.0f}" for value in values if isinstance(value, int | float)]
        widest = max([len(text) for text in texts] + [10, min(len(header), 18)])
        sheet.column_dimensions[get_column_letter(index)].width = min(widest + 2, 70)
        for row, cell in enumerate(column[1:], start=2):
            description = header if sheet.title not in ("summary", "config") else str(sheet.cell(row, 1).value)
            number = isinstance(cell.value, int | float) and not isinstance(cell.value, bool)
            if number and sheet.title != "config":  # options keep the form of the command line
                cell.number_format = form(description, cell.value)
            cell.alignment = RIGHT if number and sheet.title != "config" else LEFT


def _format(description: str, value: float) -> str:
    """Return Excel's number format for a value."""
    if any(word in description for word in ("_mean", "_std_clients", "_worst", "_best", "accuracy")):
        return "0.00%"
    if description.endswith("_lr"):
        return "General"
    if isinstance(value, int) or any(word in description for word in ("memory", "bytes", "a round", "and round")):
        return "#,##0"
    return "0.000" if "seconds" in description else "0.0000"
