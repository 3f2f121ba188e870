"""Learning curves of runs that differ in their seeds: the mean over seeds at every point of what was spent, and its band."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from figures.targets import cumulated, evaluated, interpolated
from saves import Run


class Band(NamedTuple):
    """x float [P], never decreasing: what a run has spent; mean float [P] of the curve over `n` runs; low and high float
    [P], one standard deviation over the runs below and above it (the mean itself for a single run)."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def band(runs: Sequence[Run], quantity: str, curve: str = "global_mean") -> Band | None:
    """The curve, a column of the rounds such as `personal_mean`, against a quantity of `targets.QUANTITIES`.

    Between a run's evaluated rounds the curve is a straight line; a point is shown where every run has spent as much.
    None where a history has no such quantity. Raises UserError for a run without that column.
    """
    lines = []
    for run in runs:
        there, values = evaluated(run, curve)
        spent = cumulated(run, quantity)
        if spent is None:
            return None
        lines.append((spent[there], values))
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    points = np.unique(np.concatenate([x for x, _ in lines] + [[first, last]]))
    points = points[(points >= first) & (points <= last)]
    values = np.array([[interpolated(x, y, at) for at in points] for x, y in lines]).reshape(len(lines), len(points))
    mean, spread = values.mean(0), values.std(0, ddof=1) if len(lines) > 1 else np.zeros(len(points))
    return Band(points, mean, mean - spread, mean + spread, len(lines))
