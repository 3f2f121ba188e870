"""A run as an Excel workbook: sheets summary, rounds, clients (of the last evaluated round), costs, config."""

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

MAX_ROWS, MAX_COLUMNS, MAX_TEXT = 1_048_576, 16_384, 32_767  # Excel's limits


def write(path: Path, run) -> None:
    """Write the workbook of a finished `saves.Run`. A sheet of more than `saves.MANY` clients, or too long for Excel, is
    cut, with a last row that says so."""
    sheets = {
        "summary": _summary(run),
        "rounds": run.rounds,
        "clients": _cut(_last_clients(run), saves.MANY),
        "costs": costs(run),
        "config": _config(run),
    }
    content = io.BytesIO()  # whole before it is written: an archive that is cut off would complain as it is thrown away
    with pd.ExcelWriter(content, engine="openpyxl") as writer:
        for name, frame in sheets.items():
            write_sheet(writer, name, _cut(frame), _format)
    path.write_bytes(content.getvalue())


def _summary(run) -> pd.DataFrame:
    summary = {name: value for name, value in run.summary().items() if name not in ("options", "tuned_by_epoch")}
    for epoch, value in enumerate(run.summary()["tuned_by_epoch"] or []):
        summary[f"tuned_mean (epoch {epoch})"] = value
    best = run.best_on_validation()
    rows = list(summary.items())
    if best:
        rows += [(f"{name} (best on validation)", value) for name, value in best.items()]
    return pd.DataFrame(rows, columns=["what", "value (accuracies after the last round)"])


def _last_clients(run) -> pd.DataFrame:
    clients = run.clients
    if clients.empty:
        return clients
    last = clients[clients["round"] == clients["round"].max()].dropna(axis=1, how="all")
    if len(last) > saves.MANY and "loss" in last:  # who trained comes first
        last = last.sort_values("loss", key=lambda loss: loss.isna(), kind="stable")
    last = last.reset_index(drop=True)
    if run.names:
        last.insert(list(last).index("client") + 1, "name", [run.called(k) for k in last["client"]])
    return last


def costs(run) -> pd.DataFrame:
    """Bytes by direction and kind, steps and floating point operations, the clients' and the server's apart: of the whole
    run, a round, and (what is the clients') a client and round, over all K clients."""
    rounds, n_clients = run.rounds, run.options["n_clients"]
    n_rounds = int(rounds["round"].max())
    rows = []
    for column in rounds.columns:
        if not column.startswith(("bytes_", "steps", "flops")):
            continue
        of_server = column.endswith(saves.SERVER)
        cost, _, kind = column.removesuffix(saves.SERVER).replace("_", " ").partition(":")
        total = int(rounds[column].sum())
        a_client = None if of_server else total / n_rounds / n_clients
        rows.append((cost, "server" if of_server else "clients", kind or "all", total, total / n_rounds, a_client))
    return pd.DataFrame(rows, columns=["cost", "of the", "kind", "the whole run", "a round", "a client and round"])


def _config(run) -> pd.DataFrame:
    told = [(name, json.dumps(value) if isinstance(value, list) else value) for name, value in flat(run.config)]
    return pd.DataFrame(told, columns=["option", "value"])


def _cut(frame: pd.DataFrame, most: int | None = None) -> pd.DataFrame:
    """The first of more rows than `most`, by default as many as Excel has beside the header."""
    most = most or MAX_ROWS - 1
    frame = frame.iloc[:, :MAX_COLUMNS]
    if len(frame) <= most:
        return frame
    kept = frame.iloc[: most - 1].astype(object)
    kept.loc[len(kept)] = [f"cut here: {len(frame)} rows, all of them in history.npz"] + [None] * (frame.shape[1] - 1)
    return kept


def write_sheet(writer: pd.ExcelWriter, name: str, frame: pd.DataFrame, form: Callable[[str, float], str]) -> None:
    """A frame as a sheet, `dress`ed. Text is text in it: nothing that begins with = is a formula, what Excel's files cannot
    hold is shown as an escape, and what is too long for a cell is cut. What a sheet cannot be called is changed in its
    name."""
    stem = re.sub(r"[\[\]:*?/\\']", "_", escape(name))[:31]
    taken = {other.lower() for other in writer.sheets}
    name = next(new for new in (stem, *(f"{stem[:26]} {i}" for i in range(2, len(taken) + 3))) if new.lower() not in taken)
    frame.rename(columns=_plain).map(_plain).to_excel(writer, sheet_name=name, index=False)
    sheet = writer.sheets[name]
    for cell in (cell for row in sheet.iter_rows() for cell in row):
        if cell.data_type == "f":
            cell.data_type = "s"
    dress(sheet, form)


def _plain(value: Any) -> Any:
    return escape(value, lines=True)[:MAX_TEXT] if isinstance(value, str) else value


def dress(sheet, form: Callable[[str, float], str]) -> None:
    """Headers that stay in sight, widths that show what is there, numbers in the form of what they are: form(what it is,
    number) -> Excel's number format."""
    sheet.freeze_panes = "B2"
    sheet.row_dimensions[1].height = 32  # two lines
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
            described = header if sheet.title not in ("summary", "config") else str(sheet.cell(row, 1).value)
            number = isinstance(cell.value, int | float) and not isinstance(cell.value, bool)
            if number and sheet.title != "config":  # options are shown as they were given
                cell.number_format = form(described, cell.value)
            cell.alignment = Alignment(horizontal="right" if number and sheet.title != "config" else "left")


def _format(described: str, value: float) -> str:
    if any(word in described for word in ("_mean", "_std_clients", "_worst", "_best", "accuracy")):
        return "0.00%"
    if described.endswith("_lr"):
        return "General"
    if isinstance(value, int) or any(word in described for word in ("memory", "bytes", "a round", "and round")):
        return "#,##0"
    return "0.000" if "seconds" in described else "0.0000"
