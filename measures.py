"""What a model's probabilities are worth, beside accuracy: functions (y int64 [n], p float [n, C]) -> a number, at most 1,
the larger the better. NaN where it is not defined: an area under the curve takes two classes, and what is made of the
probabilities themselves takes ones that are numbers, which those of a model that has diverged are not.

Means over classes are over those that are among the labels: a client with few classes is not asked for the others.
"""

from collections.abc import Callable

import numpy as np

BINS = 15  # of the confidence, all as wide


def balanced_accuracy(y: np.ndarray, p: np.ndarray) -> float:
    """The mean over classes of the part of each that is right."""
    right = p.argmax(1) == y
    return float(np.mean([right[y == c].mean() for c in np.unique(y)]))


def macro_f1(y: np.ndarray, p: np.ndarray) -> float:
    """The mean over classes of F1, the harmonic mean of precision and recall."""
    from sklearn.metrics import f1_score

    return float(f1_score(y, p.argmax(1), labels=np.unique(y), average="macro", zero_division=0))


def auc(y: np.ndarray, p: np.ndarray) -> float:
    """The mean over classes of the area under the receiver operating characteristic, each class against the rest."""
    from sklearn.metrics import roc_auc_score

    present = np.unique(y)
    if len(present) < 2 or not np.isfinite(p).all():
        return float("nan")
    return float(np.mean([roc_auc_score(y == c, p[:, c]) for c in present]))


def calibration(y: np.ndarray, p: np.ndarray) -> float:
    """1 - ECE, the expected calibration error: in bins of the confidence (the largest probability), how far it is from the
    part that is right, mean over the examples (Guo et al., ICML 2017, eq. 3)."""
    if not np.isfinite(p).all():
        return float("nan")
    confidence, right = p.max(1), (p.argmax(1) == y).astype(float)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(1 - np.abs(gaps).sum() / len(y))


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auc": auc,
    "calibration": calibration,
}
