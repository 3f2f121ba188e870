"""Read tables, .csv and .parquet files, once and strictly. Doubtful content is refused, with file, line and column."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

import untrusted
from data import files

SUFFIXES = (".csv", ".parquet")
COLUMNS = 20_000  # of a table
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # separators that Chorus refuses
TRUTH = {"true": 1.0, "false": 0.0}
SHOWN = 60  # characters of a cell in a message
MANY = 5  # rows; a shorter column of consecutive numbers does not count as a row number


@dataclass(frozen=True)
class Table:
    """Hold the cells of a table as text by column, "" for an empty cell. `lines` holds the line of the file at which each
    row begins; for a .parquet file the number of the row, from 1."""

    path: Path
    columns: dict[str, list[str]]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int, column: str) -> str:
        """Return file, line and column of a cell."""
        return f"{self.path}, {'line' if _is_csv(self.path) else 'row'} {self.lines[row]}: the column {shown(column)}"

    def words(self, name: str, empty: bool = False) -> np.ndarray:
        """Return a column as text [n]. Raise ValueError for an empty cell unless `empty` allows empty cells."""
        cells = files.words(f"{self.path}: the column {shown(name)}", self.columns[name])
        if not empty and len(wrong := np.flatnonzero(np.char.strip(cells) == "")):
            raise ValueError(f"{self.place(wrong[0], name)} is empty; fill in a value or remove the row")
        return cells

    def first(self, name: str) -> dict[str, str]:
        """Return where each value of a column occurs first: {value: file, line and column}."""
        rows: dict[str, int] = {}
        for row, cell in enumerate(self.columns[name]):
            rows.setdefault(cell, row)
        return {cell: self.place(row, name) for cell, row in rows.items()}

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as float64 [n]; true and false become 1 and 0. Raise ValueError for a cell that is not a finite
        number, and for a column whose numbers are too close together for 64-bit floats."""
        cells = self.columns[name]
        numbers = _floats(cells)
        with np.errstate(over="ignore"):
            wrong = np.flatnonzero(~np.isfinite(numbers.astype(np.float32)))
        if len(wrong):
            cell = cells[wrong[0]].strip()
            problem = f"holds {shown(cell)}" if cell else "is empty"
            hint = "; write decimals with a point" if cell.lstrip("+-").replace(",", "", 1).isdecimal() else ""
            raise ValueError(f"{self.place(wrong[0], name)} {problem}; features must be finite numbers{hint}")
        if np.spacing(np.abs(numbers).max()) > files.COLLAPSED * numbers.std():
            exact = {Decimal(cell.strip()) for cell in set(cells) if cell.strip().lower() not in TRUTH}
            if len(exact) > len(np.unique(numbers)):
                raise ValueError(
                    f"{self.path}: the column {shown(name)} holds numbers that 64-bit floats cannot distinguish; "
                    "subtract an offset from the column"
                )
        return numbers


def counts_rows(numbers: np.ndarray) -> bool:
    """Return whether these numbers are consecutive whole numbers, in any order, as row numbers are."""
    return len(numbers) >= MANY and bool((np.diff(np.sort(numbers)) == 1).all())


def read(path: Path) -> Table:
    """Read a table. Raise ValueError, naming file and line, where the file is not a table, where a column has no name or
    shares its name with another column, and where a row is shorter or longer than the header."""
    try:
        with untrusted.opened(path) as file:
            table = _csv(path, file) if _is_csv(path) else _parquet(path, file)
    except _WrongError as error:
        raise ValueError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); save the file as UTF-8") from None
    except Exception as error:  # a file of any content can make its reader raise any error
        raise ValueError(f"{path} cannot be read as a table ({files.reason(error)})") from error
    return table


class _WrongError(Exception):
    """Say what is wrong with a table: file, line and column, and what to do."""


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def shown(cell: str) -> str:
    """Return a cell as a message shows the cell: in a single line of at most `SHOWN` characters."""
    return untrusted.escape(cell if len(cell) <= SHOWN else f"{cell[:SHOWN]}...")


# --- cells -------------------------------------------------------------------------------------------------------------


def _floats(cells: Sequence[str]) -> np.ndarray:
    """Return numbers as float64 [n], correctly rounded; NaN for a cell that is not a number."""
    try:
        if not any("_" in cell for cell in cells):  # Python reads 1_000 as a number
            return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    texts = [cell.strip().lower() for cell in cells]
    if all(text in TRUTH for text in texts):
        return np.array([TRUTH[text] for text in texts])
    return np.array([float(text) if _is_number(text) else np.nan for text in texts])


def is_value(text: str) -> bool:
    """Return whether a text is a value that a feature may hold and not a name: a number (including NaN and infinity), true
    or false."""
    return text.strip().lower() in TRUTH or _is_number(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


# --- .csv --------------------------------------------------------------------------------------------------------------


def _csv(path: Path, file: io.BufferedIOBase) -> Table:
    """Read a file of comma-separated values (RFC 4180), whose first line names the columns. Skip blank lines."""
    reader = csv.reader(_checked_lines(path, io.TextIOWrapper(file, "utf-8-sig", newline="")), strict=True)
    names, rows, lines, line = [], [], [], 1
    try:
        for row in reader:
            if row and not names:
                names = _header(path, line, row)
            elif row:
                if len(row) != len(names):
                    raise _WrongError(f"{path}, line {line}: {_length_problem(row, len(names))}")
                rows.append(row)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise _WrongError(
            f"{path}, line {line}: cannot be read as a row of a table ({error}); check quotes and commas"
        ) from None
    if not names:
        raise _WrongError(f"{path} has no columns; name the columns in the first line")
    columns = map(list, zip(*rows, strict=True)) if rows else ([] for _ in names)
    return Table(path, dict(zip(names, columns, strict=True)), lines)


def _checked_lines(path: Path, text: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a file. Raise _WrongError for a line of more than `COLUMNS` columns."""
    for n, line in enumerate(text, 1):
        if line.count(",") >= COLUMNS:
            raise _WrongError(
                f"{path}, line {n}: has {line.count(',') + 1} columns, more than the limit of {COLUMNS}; remove columns"
            )
        yield line


def _length_problem(row: Sequence[str], n: int) -> str:
    """Return what is wrong with a row that does not have n values."""
    if row[0].lstrip().startswith("#"):
        return f"{shown(','.join(row))} looks like a comment; remove the line"
    hint = (
        "write decimals with a point, and quote text with a comma"
        if len(row) > n
        else "give every row a value for each column"
    )
    return f"holds {len(row)} values for {n} columns; {hint}"


def _header(path: Path, line: int, row: Sequence[str]) -> list[str]:
    """Return the names of the columns. Raise _WrongError for a line that does not look like names separated by commas."""
    where, header = f"{path}, line {line}:", shown(",".join(row))
    if row[0].lstrip().startswith("#"):
        raise _WrongError(f"{where} {header} looks like a comment; remove the line, the first line must name the columns")
    for mark, separator in SEPARATORS.items():
        if any(mark in cell for cell in row) and (len(row) == 1 or mark in ";\t"):
            raise _WrongError(f"{where} the columns are separated by {separator} ({header}); use commas")
    if len(row) == 1:
        raise _WrongError(f"{where} has a single column, {header}; separate features and label by commas")
    names = _checked_names(where, row)
    numbers = [name for name in names if is_value(name)]
    if len(numbers) == len(names) or not _are_consecutive(numbers):  # pandas calls columns 0, 1, 2, ...
        raise _WrongError(
            f"{where} the first line is no header, but {header}; add a first line with the names of the columns"
        )
    return names


def _checked_names(where: str, columns: Iterable[Any]) -> list[str]:
    """Return the names of columns, without the spaces around the names. Raise _WrongError for an empty name and for a name
    that occurs twice."""
    names: list[str] = []
    for i, name in enumerate((str(name).strip() for name in columns), 1):
        if not name or name.startswith(("Unnamed: ", "__index_level_")):
            raise _WrongError(
                f"{where} column {i} has no name, like an index column of pandas; remove the column (index=False), or "
                "name the column if it is a feature"
            )
        if name in names:
            raise _WrongError(
                f"{where} columns {names.index(name) + 1} and {i} have the same name, {shown(name)}; "
                "rename or remove one of the columns"
            )
        names.append(name)
    return names


def _are_consecutive(numbers: Sequence[str]) -> bool:
    """Return whether these are whole numbers, each larger by 1 than the previous number."""
    whole = all(number.isdecimal() for number in numbers)
    return whole and all(int(b) - int(a) == 1 for a, b in zip(numbers, numbers[1:], strict=False))


# --- .parquet ----------------------------------------------------------------------------------------------------------


def _parquet(path: Path, file: io.BufferedIOBase) -> Table:
    """Read a .parquet file of numbers, booleans and text."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise _WrongError(
            f"{path}: reading .parquet files needs the package pyarrow; run python -m pip install pyarrow"
        ) from None
    parquet = pq.ParquetFile(file)
    metadata = parquet.metadata
    if parquet.schema_arrow.names and len(parquet.schema_arrow.names) > COLUMNS:
        raise _WrongError(
            f"{path} has {len(parquet.schema_arrow.names)} columns, more than the limit of {COLUMNS}; remove columns"
        )
    unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    packed = path.stat().st_size
    untrusted.affordable(path, max(unpacked, 8 * metadata.num_rows * metadata.num_columns), packed)
    names = _checked_names(f"{path}:", parquet.schema_arrow.names)
    columns = {}
    for name, column in zip(names, parquet.read().columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not is_text and not any(
            is_kind(column.type)
            for is_kind in (
                pa.types.is_integer,
                pa.types.is_floating,
                pa.types.is_boolean,
                pa.types.is_decimal,
                pa.types.is_null,
            )
        ):
            raise _WrongError(f"{path}: the column {shown(name)} holds {column.type}; must be numbers or text")
        columns[name] = ["" if value is None else str(value) for value in column.to_pylist()]
    return Table(path, columns, range(1, metadata.num_rows + 1))
