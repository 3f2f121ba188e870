"""What is done with the values of several seeds: paired differences, and p-values of several comparisons."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_SEEDS = 6  # common to both, for a paired t-test: with fewer it cannot be told whether differences are normal
LEAST_EXAMPLES = 6  # of a client, on which two models differ: of fewer, all in one direction are no rare chance
LEAST_PROBLEMS = 6  # of a test over problems: of 5 that all go one way Wilcoxon's p is 1 in 16
Seed = tuple[int, int]  # --seed and --split_seed
Values = dict[Seed, float]


class Paired(NamedTuple):
    """The mean of the differences over `n` common seeds, its 95 % interval (None for one seed) and the p of a paired t-test
    (None below LEAST_SEEDS, or where all differences are equal)."""

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0: the two are told apart. Never with one seed."""
        return self.low is not None and (self.low > 0 or self.high < 0)


def paired(own: Values, baseline: Values) -> Paired | None:
    """`own` less `baseline` over the seeds of both: Student's t, n - 1 degrees of freedom. None without a common seed."""
    common = sorted(own.keys() & baseline.keys())
    if not common:
        return None
    a, b = (np.array([values[seed] for seed in common]) for values in (own, baseline))
    n, mean = len(common), float((a - b).mean())
    if n == 1:
        return Paired(1, mean, None, None, None)
    from scipy import stats

    tested = n >= LEAST_SEEDS and np.ptp(a - b) > 1e-12
    return Paired(n, mean, *interval(a - b), float(stats.ttest_rel(a, b).pvalue) if tested else None)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean of paired differences, float [n], n of 2 or more."""
    mean, half = differences.mean(), least_errors(len(differences)) * differences.std(ddof=1) / len(differences) ** 0.5
    return float(mean - half), float(mean + half)


def least_errors(n: int) -> float:
    """How many standard errors a mean of n paired differences has to be from 0 for its 95 % interval to leave it out."""
    from scipy import stats

    return float(stats.t.ppf(0.975, n - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given (Holm 1979): the i-th smallest of m times m - i + 1, at most 1, monotone."""
    order = np.argsort(ps, kind="stable")
    stepped = np.maximum.accumulate([min(1.0, (len(ps) - i) * ps[place]) for i, place in enumerate(order)])
    adjusted = np.empty(len(ps))
    adjusted[order] = stepped
    return adjusted.tolist()


def over_problems(values: np.ndarray) -> tuple[str, float]:
    """(name of the test, its p) of means float [problems, methods], a problem counting once: Wilcoxon's signed ranks of two
    methods, Friedman's test of more (Demsar 2006)."""
    from scipy import stats

    if values.shape[1] == 2:
        return "Wilcoxon", float(stats.wilcoxon(values[:, 0], values[:, 1]).pvalue)
    return "Friedman", float(stats.friedmanchisquare(*values.T).pvalue)


def nemenyi(n_methods: int, n_problems: int) -> float:
    """By how much two average ranks must differ to be told apart at 5 % (Nemenyi 1963)."""
    from scipy import stats

    q = float(stats.studentized_range.ppf(0.95, n_methods, np.inf)) / 2**0.5
    return q * (n_methods * (n_methods + 1) / (6 * n_problems)) ** 0.5
