"""Print the differences between two saved runs.

    python -m figures.diff RUN RUN

Compares options, data, code and environment; accuracies and costs after the last round; the histories, up to the first round
in which they differ. Seconds are ignored: they are never the same twice."""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

import saves
from errors import UserError
from figures import command
from figures.units import shown
from untrusted import WIDTH, escape, print_escaped, wrap

MEASURED = ("global_mean", "personal_mean", "personal_worst", "tuned_mean", "validation_mean")  # after the last round
SPENT = ("bytes_up", "bytes_down", "bytes_between", "steps", "flops", "seconds")  # over all rounds
ABSENT = "(none)"


def report(run_a: saves.Run, run_b: saves.Run) -> str:
    """Return all differences between the two runs, in words and tables."""
    parts = [f"A  {run_a.folder}\nB  {run_b.folder}"]
    config_a, config_b = (dict(run.config) for run in (run_a, run_b))
    for title, first, second in (
        ("options", config_a.pop("options"), config_b.pop("options")),
        ("data, code and environment", dict(saves.flat(config_a)), dict(saves.flat(config_b))),
    ):
        rows = differing(first, second)
        parts.append(f"the same {title}" if not rows else _table([f"{title} that differ", "A", "B"], rows))
    parts.append(_table(["accuracy (%) after the last round; totals", "A", "B", "B - A"], results(run_a, run_b)))
    parts.append("\n".join(map(wrap, histories(run_a, run_b))))
    return "\n\n".join(parts)


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[list[str]]:
    """Return name and both values of every entry that differs, in the original order."""
    names = dict.fromkeys((*first, *second))
    values = [(name, first.get(name, ABSENT), second.get(name, ABSENT)) for name in names]
    return [[name, shown(a), shown(b)] for name, a, b in values if a != b]


def results(run_a: saves.Run, run_b: saves.Run) -> list[list[str]]:
    """Return accuracies in percent, their differences in points, and costs, if at least one run measured them."""
    rows = []
    for name in MEASURED:
        rows.append((name, *(100 * float(run.rounds.iloc[-1].get(name, np.nan)) for run in (run_a, run_b)), ".2f"))
    for name in SPENT:
        totals = (float(run.rounds[name].sum()) if name in run.rounds else np.nan for run in (run_a, run_b))
        rows.append((name, *totals, ",.1f" if name == "seconds" else ",.0f"))
    measured = [row for row in rows if not np.isnan(row[1:3]).all()]
    return [[name, _number(a, form), _number(b, form), _number(b - a, f"+{form}")] for name, a, b, form in measured]


def histories(run_a: saves.Run, run_b: saves.Run) -> list[str]:
    """Return in words the first round in which the histories differ, or that histories and weights are bit-identical."""
    frame_a, frame_b = (run.history.drop(columns=list(saves.TIMING), errors="ignore") for run in (run_a, run_b))
    lines = [
        f"only {letter} has the columns {', '.join(names)}"
        for letter, names in (("A", _without(frame_a, frame_b)), ("B", _without(frame_b, frame_a)))
        if names
    ]
    ends = [int(run.rounds["round"].max()) for run in (run_a, run_b)]
    if ends[0] != ends[1]:
        return [*lines, f"not compared round by round: A has {ends[0]} rounds, B {ends[1]}"]
    common = [name for name in frame_a if name in frame_b]
    for r in range(ends[0] + 1):
        a, b = (frame.loc[frame["round"] == r, common].reset_index(drop=True) for frame in (frame_a, frame_b))
        if list(a["client"]) != list(b["client"]):
            return [*lines, f"the histories differ from round {r} on, where they have rows of different clients"]
        columns = [name for name in common if not _same(a[name], b[name])]
        if columns:
            return [*lines, f"the histories differ from round {r} on, in {', '.join(columns)}"]
    return [*lines, _bits(run_a, run_b, what="histories" if not lines else "common columns of the histories")]


def _bits(run_a: saves.Run, run_b: saves.Run, what: str) -> str:
    if not all((run.folder / "weights.pt").exists() for run in (run_a, run_b)):
        return f"{what}: bit-identical (except seconds); not both runs have saved weights"
    weights = [{answer: saves.digest(rows) for answer, rows in run.weights().items()} for run in (run_a, run_b)]
    if weights[0] != weights[1]:
        return f"{what}: bit-identical (except seconds); the weights after the last round differ"
    return f"{what} and weights after the last round: bit-identical (except seconds)"


def _same(a, b) -> bool:
    return bool(np.array_equal(a.to_numpy(dtype=float), b.to_numpy(dtype=float), equal_nan=True))


def _without(frame, other) -> list[str]:
    return [name for name in frame if name not in other]


def _number(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value + 0.0, form)


def _table(headers: list[str], rows: list[list[str]]) -> str:
    aligned = ["left", *["right"] * 3] if len(headers) == 4 else None
    name_width, n_values = max(len(name) for name in (headers[0], *(row[0] for row in rows))), len(headers) - 1
    room = (WIDTH - name_width) // n_values - 2
    cells = [[name, *("\n".join(textwrap.wrap(value, room)) for value in values)] for name, *values in rows]
    return tabulate(cells, headers=headers, tablefmt="simple", colalign=aligned, disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.of_runs("diff", __doc__)
    args = parser.parse_args(argv)
    try:
        runs = command.chosen(args, keep_equal=True)
        if len(runs) != 2:
            raise UserError(
                f"requires two runs, got {len(runs)}; name two folders, or select two runs, such as --where seed=0,1"
            )
        print_escaped(report(*runs))
    except (UserError, OSError, ValueError) as error:
        parser.error(escape(error))


if __name__ == "__main__":
    main()
