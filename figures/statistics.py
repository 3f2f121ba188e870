"""Compute statistics over seeds: paired differences, and p-values of several comparisons."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_SEEDS = 6  # common seeds for a paired t-test: with fewer, normality of the differences cannot be judged
LEAST_EXAMPLES = 6  # of a client on which two models differ: fewer may all go one way by chance
LEAST_PROBLEMS = 6  # for a test over problems: if all of 5 go one way, Wilcoxon's p is still 1 in 16
Seed = tuple[int, int]  # --seed and --split_seed
Values = dict[Seed, float]


class Paired(NamedTuple):
    """Hold a paired comparison over `n` common seeds.

    `mean`: the mean of the differences. `low`, `high`: its 95 % interval, None for one seed. `p`: of a paired t-test, None
    below LEAST_SEEDS, or where all differences are equal."""

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None

    @property
    def apart(self) -> bool:
        """Return whether the interval leaves out 0: the difference is significant. Never with one seed."""
        return self.low is not None and (self.low > 0 or self.high < 0)


def paired(own: Values, baseline: Values) -> Paired | None:
    """Return the comparison `own` minus `baseline` over the common seeds; None without a common seed.

    Student's t, n - 1 degrees of freedom."""
    common = sorted(own.keys() & baseline.keys())
    if not common:
        return None
    a, b = (np.array([values[seed] for seed in common]) for values in (own, baseline))
    n, mean = len(common), float((a - b).mean())
    if n == 1:
        return Paired(1, mean, None, None, None)
    from scipy import stats

    is_tested = n >= LEAST_SEEDS and np.ptp(a - b) > 1e-12
    return Paired(n, mean, *interval(a - b), float(stats.ttest_rel(a, b).pvalue) if is_tested else None)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean of paired differences, float [n], n of 2 or more."""
    mean, half = differences.mean(), least_errors(len(differences)) * differences.std(ddof=1) / len(differences) ** 0.5
    return float(mean - half), float(mean + half)


def least_errors(n: int) -> float:
    """Return the number of standard errors a mean of n paired differences must be from 0 to be significant.

    Significant: the 95 % interval leaves out 0."""
    from scipy import stats

    return float(stats.t.ppf(0.975, n - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Return adjusted p-values in the order of `ps` (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, at most 1, monotone."""
    order = np.argsort(ps, kind="stable")
    stepped = np.maximum.accumulate([min(1.0, (len(ps) - i) * ps[place]) for i, place in enumerate(order)])
    adjusted = np.empty(len(ps))
    adjusted[order] = stepped
    return adjusted.tolist()


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Return the average rank of each method, float [methods], from means float [problems, methods]; 1 is the best."""
    from scipy.stats import rankdata

    return rankdata(-values, axis=1).mean(0)


def over_problems(values: np.ndarray) -> tuple[str, float]:
    """Return (name of the test, its p) of means float [problems, methods]; every problem counts once.

    Wilcoxon's signed ranks for two methods, Friedman's test for more (Demsar 2006)."""
    from scipy import stats

    if values.shape[1] == 2:
        return "Wilcoxon", float(stats.wilcoxon(values[:, 0], values[:, 1]).pvalue)
    return "Friedman", float(stats.friedmanchisquare(*values.T).pvalue)


def nemenyi(n_methods: int, n_problems: int) -> float:
    """Return the critical difference of two average ranks at 5 % (Nemenyi 1963)."""
    from scipy import stats

    q = float(stats.studentized_range.ppf(0.95, n_methods, np.inf)) / 2**0.5
    return q * (n_methods * (n_methods + 1) / (6 * n_problems)) ** 0.5
