"""Format numbers for people: bytes, floating-point operations, seconds, percents; and an option's value as a flag takes
it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from untrusted import WIDTH, escape


def size(n_bytes: float) -> str:
    """Format bytes for people: 940 B, 6.7 kB, 2.48 MB (powers of 1000)."""
    return _scaled(n_bytes, ("B", "kB", "MB", "GB", "TB"))


def operations(flops: float) -> str:
    """Format floating-point operations for people: 2.5 MFLOP, 1.31 TFLOP."""
    return _scaled(flops, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def duration(seconds: float) -> str:
    """Format seconds for people: 0.4 s, 38 s, 12 min, 3.4 h."""
    for unit, length, limit in (("s", 1, 90), ("min", 60, 90)):
        if seconds < limit * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 3600:,.1f} h"


def _scaled(value: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"


def percent(value: float) -> str:
    """Return 12.34 for 0.1234, an empty text for NaN."""
    return "" if np.isnan(value) else f"{value:.2%}".rstrip("%")


def spread(values: np.ndarray) -> str:
    """Return the standard deviation over seeds, in points; an empty text for a single seed."""
    return f"{values.std(ddof=1):.2%}".rstrip("%") if len(values) > 1 else ""


def in_blocks(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], form: str, align: str = "left") -> str:
    """Return a table of texts in blocks of columns, one below the other, each at most WIDTH wide where a column allows it.

    `rows`: {column: text} per row, where a column may be missing. Every block begins with the columns `keys`. `form`: a
    format of tabulate. `align`: of all columns but `keys`, which are at the left.
    """
    from tabulate import tabulate  # imported here, so that help texts and error messages appear without delay

    def table(columns: Sequence[str]) -> str:
        cells = [[row.get(name, "") for name in columns] for row in rows]
        aligned = ["left" if name in keys else align for name in columns]
        return tabulate(cells, headers=columns, tablefmt=form, colalign=aligned, disable_numparse=True)

    blocks: list[list[str]] = []
    for name in (name for name in dict.fromkeys(name for row in rows for name in row) if name not in keys):
        if blocks and max(map(len, table([*keys, *blocks[-1], name]).splitlines())) <= WIDTH:
            blocks[-1].append(name)
        else:
            blocks.append([name])
    return "\n\n".join(table([*keys, *block]) for block in blocks)


def flags_told(options: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return the flags of these options that are present, as on a command line."""
    return " ".join(f"--{name} {shown(options[name])}" for name in names if name in options)


def shown(value: Any) -> str:
    """Return an option's value as a flag takes it: several with commas. The value is escaped, since it may contain names."""
    return escape(",".join(map(str, value)) if isinstance(value, list | tuple) else value)


class Unit(NamedTuple):
    """Hold the format of a number for people and for a workbook (Excel's format), and the name of the unit."""

    show: Callable[[Any], str]
    excel: str
    name: str = ""
    is_text: bool = False


UNITS = {
    "text": Unit(str, "General", is_text=True),
    "option": Unit(shown, "General", is_text=True),
    "%": Unit("{:.2f}".format, "0.00", "%"),
    "points": Unit(lambda points: f"{round(points, 2) + 0.0:+.2f}", "0.00", "points"),
    "bytes": Unit(size, "#,##0", "bytes"),
    "FLOPs": Unit(lambda flops: operations(flops).replace("FLOP", "").strip(), "#,##0", "FLOPs"),
    "s": Unit(duration, "0.00", "s"),
    "count": Unit("{:,.0f}".format, "#,##0"),
    "rounds": Unit("{:.1f}".format, "0.00"),
    "rank": Unit("{:.2f}".format, "0.00"),
    "epsilon": Unit("{:.3g}".format, "0.00"),
    "p": Unit(lambda p: "<0.001" if p < 0.001 else f"{p:.3f}", "0.000"),
}
