"""What a target accuracy cost: the rounds, bytes, floating-point operations or seconds until saved runs had reached it.

A run's curve is one column of its evaluated rounds, made monotone by its running maximum and joined by straight lines in the
quantity asked for, which is cumulated over the rounds, round 0 included. Where the first evaluated round is at the target
already, that round is the answer, an upper bound. A group of runs that differ in their seeds has the median of its runs.
"""

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
TEST, VALIDATION = "the test curve", "validation"  # what an answer is read off


@dataclass(frozen=True)
class Reached:
    """The median cost of a target over `n` runs of which `arrived` reached it, in the unit of the quantity, read off
    `read_off`; `value` None where the median run did not, by the end at `total`, the median of the runs' totals."""

    value: float | None
    total: float
    arrived: int
    n: int
    read_off: str

    def text(self, show: Callable[[float], str] = "{:.4g}".format) -> str:
        """The value, or ">" and the total where the median run did not arrive."""
        return f">{show(self.total)}" if self.value is None else show(self.value)


def rounds_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached:
    """Communication rounds to a target accuracy (a fraction of 1). Raises UserError where a run has no such curve."""
    return cost_to(runs, target, "rounds", curve)


def bytes_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached:
    """Bytes of all clients in all directions to a target accuracy (a fraction of 1). Raises UserError as `rounds_to`."""
    return cost_to(runs, target, "bytes", curve)


def flops_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached | None:
    """Floating-point operations to a target accuracy (a fraction of 1); None where a history does not count them. Raises
    UserError as `rounds_to`."""
    return cost_to(runs, target, "flops", curve)


def seconds_to(runs: Run | Sequence[Run], target: float, curve: str = "global_mean") -> Reached:
    """Seconds to a target accuracy (a fraction of 1), those of the evaluations left out. Raises UserError as `rounds_to`."""
    return cost_to(runs, target, "seconds", curve)


def cost_to(runs: Run | Sequence[Run], target: float, quantity: str, curve: str = "global_mean") -> Reached | None:
    """The median over runs of what the target cost; None where a history has no such quantity.

    `quantity` is one of QUANTITIES, `curve` a column of the rounds, such as `personal_mean` or `validation_mean`. Raises
    UserError for a run without that column.
    """
    found = [_of_run(run, target, quantity, curve) for run in (runs if isinstance(runs, Sequence) else [runs])]
    if None in found:
        return None
    costs, totals = (np.array(of_runs) for of_runs in zip(*found, strict=True))
    median = float(np.median(costs))
    read_off = VALIDATION if curve.startswith("validation") else TEST
    return Reached(
        None if isinf(median) else median, float(np.median(totals)), int(np.isfinite(costs).sum()), len(costs), read_off
    )


def cumulated(run: Run, quantity: str) -> np.ndarray | None:
    """The quantity up to the end of each row of `run.rounds`, float [rounds + 1]; None where the history lacks it."""
    rounds = run.rounds
    if quantity == "rounds":
        return rounds["round"].to_numpy(dtype=float)
    there = [name for name in ADDED_UP.get(quantity, (quantity,)) if name in rounds]
    return rounds[there].fillna(0).sum(axis=1).cumsum().to_numpy(dtype=float) if there else None


def evaluated(run: Run, curve: str) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of `run.rounds` have the curve, bool [rounds + 1], and its values there. Raises UserError for none."""
    rounds = run.rounds
    if curve not in rounds:
        raise UserError(f"{run.folder}: its history has no {curve}")
    there = rounds[curve].notna().to_numpy()
    return there, rounds[curve].to_numpy(dtype=float)[there]


def interpolated(x: np.ndarray, y: np.ndarray, at: float) -> float | None:
    """y at a point of the never decreasing x, on a straight line between its neighbours; of equal x the last one counts.
    None before the first x, the last y behind the last x."""
    before = int(np.searchsorted(x, at, side="right")) - 1
    if before < 0:
        return None
    if before == len(x) - 1:
        return float(y[-1])
    part = (at - x[before]) / (x[before + 1] - x[before])
    return float(y[before] + part * (y[before + 1] - y[before]))


def _of_run(run: Run, target: float, quantity: str, curve: str) -> tuple[float, float] | None:
    """(cost of the target, inf where it was not reached; total at the end)."""
    there, values = evaluated(run, curve)
    spent = cumulated(run, quantity)
    if spent is None:
        return None
    total, spent, best = float(spent[-1]), spent[there], np.maximum.accumulate(values)
    first = int(np.searchsorted(best, target))  # the first that is at least the target
    if first == len(best):
        return inf, total
    if first == 0:
        return float(spent[0]), total
    part = (target - best[first - 1]) / (best[first] - best[first - 1])
    return float(spent[first - 1] + part * (spent[first] - spent[first - 1])), total
