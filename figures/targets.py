"""Compute the cost of a target accuracy: the rounds, bytes, floating-point operations or seconds until runs reached it.

A run's curve is one column of its evaluated rounds, made monotone by its running maximum. Straight lines join the points in
the requested quantity, which is cumulated over the rounds, round 0 included. Where the first evaluated round already reaches
the target, the result is this round, an upper bound. A group of runs that differ in their seeds has the median of its
runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isinf

import numpy as np

from errors import UserError
from saves import Run

QUANTITIES = ("rounds", "bytes", "flops", "seconds")
ADDED_UP = {
    "bytes": ("bytes_up", "bytes_down", "bytes_between"),
    "flops": ("flops", "flops:server"),
    "seconds": ("seconds",),
}
TEST, VALIDATION = "the test curve", "validation"  # the curves: values of `Reached.read_off`


@dataclass(frozen=True)
class Reached:
    """Hold the median cost of a target over `n` runs, of which `arrived` reached the target, in the quantity's unit.

    `value`: None where the median run did not reach the target. `total`: the median of the runs' totals at their end.
    `read_off`: the curve that was used."""

    value: float | None
    total: float
    arrived: int
    n: int
    read_off: str

    def text(self, show: Callable[[float], str] = "{:.4g}".format) -> str:
        """Return the value, or ">" and the total where the median run did not reach the target."""
        return f">{show(self.total)}" if self.value is None else show(self.value)


def rounds_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached:
    """Return communication rounds to a target accuracy (a fraction of 1). Raises UserError if a run has no such curve."""
    return cost_to(runs, target, "rounds", curve)


def bytes_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached:
    """Return bytes of all clients in all directions to a target accuracy (a fraction of 1).

    Raises UserError as `rounds_to`."""
    return cost_to(runs, target, "bytes", curve)


def flops_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached | None:
    """Return floating-point operations to a target accuracy (a fraction of 1); None if a history does not count them.

    Raises UserError as `rounds_to`."""
    return cost_to(runs, target, "flops", curve)


def seconds_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached:
    """Return seconds to a target accuracy (a fraction of 1), without the evaluations. Raises UserError as `rounds_to`."""
    return cost_to(runs, target, "seconds", curve)


def cost_to(runs: Run | Sequence[Run], target: float, quantity: str, curve: str = "global_mean") -> Reached | None:
    """Return the median cost of the target over runs; None where a history has no such quantity.

    `quantity` is one of QUANTITIES, `curve` a column of the rounds, such as `personal_mean` or `validation_mean`. Raises
    UserError for a run without that column."""
    results = [_of_run(run, target, quantity, curve) for run in (runs if isinstance(runs, Sequence) else [runs])]
    if None in results:
        return None
    costs, totals = (np.array(of_runs) for of_runs in zip(*results, strict=True))
    median = float(np.median(costs))
    read_off = VALIDATION if curve.startswith("validation") else TEST
    return Reached(
        None if isinf(median) else median, float(np.median(totals)), int(np.isfinite(costs).sum()), len(costs), read_off
    )


def cumulated(run: Run, quantity: str) -> np.ndarray | None:
    """Return the quantity up to the end of each row of `run.rounds`, float [rounds + 1]; None if the history lacks it."""
    rounds = run.round_columns
    if quantity == "rounds":
        return rounds["round"].astype(float)
    present = [name for name in ADDED_UP.get(quantity, (quantity,)) if name in rounds]
    return sum(np.nan_to_num(rounds[name]) for name in present).cumsum().astype(float) if present else None


def evaluated(run: Run, curve: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows of `run.rounds` have the curve, bool [rounds + 1], and the values of these rows.

    Raises UserError where the history has no such curve."""
    rounds = run.round_columns
    if curve not in rounds:
        raise UserError(f"{run.folder}: its history has no {curve}")
    is_evaluated = ~np.isnan(rounds[curve])
    return is_evaluated, rounds[curve][is_evaluated].astype(float)


def interpolated(x: np.ndarray, y: np.ndarray, at: float) -> float | None:
    """Return y at a point of the never decreasing x, on a straight line between its neighbours.

    Of equal x the last one counts. None before the first x; the last y after the last x."""
    before = int(np.searchsorted(x, at, side="right")) - 1
    if before < 0:
        return None
    if before == len(x) - 1:
        return float(y[-1])
    fraction = (at - x[before]) / (x[before + 1] - x[before])
    return float(y[before] + fraction * (y[before + 1] - y[before]))


def _of_run(run: Run, target: float, quantity: str, curve: str) -> tuple[float, float] | None:
    """Return (cost of the target, inf where the run did not reach it; total at the end)."""
    is_evaluated, values = evaluated(run, curve)
    spent = cumulated(run, quantity)
    if spent is None:
        return None
    total, spent, best = float(spent[-1]), spent[is_evaluated], np.maximum.accumulate(values)
    first = int(np.searchsorted(best, target))  # the first value of at least the target
    if first == len(best):
        return inf, total
    if first == 0:
        return float(spent[0]), total
    fraction = (target - best[first - 1]) / (best[first] - best[first - 1])
    return float(spent[first - 1] + fraction * (spent[first] - spent[first - 1])), total
