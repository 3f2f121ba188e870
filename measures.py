"""Measures of a model's probabilities besides accuracy: functions (y int64 [n], p float [n, C]) -> a number.

A measure is at most 1, and larger is better. It is NaN if it is not defined: an area under the curve needs two classes, and
measures of the probabilities themselves need finite ones, which a diverged model does not have.

Means over classes are over the classes among the labels: a client with few classes is not tested on the others.
"""

from collections.abc import Callable

import numpy as np

BINS = 15  # bins of the confidence, of equal width


def balanced_accuracy(y: np.ndarray, p: np.ndarray) -> float:
    """Return the mean over classes of each class's accuracy."""
    correct = p.argmax(1) == y
    return float(np.mean([correct[y == c].mean() for c in np.unique(y)]))


def macro_f1(y: np.ndarray, p: np.ndarray) -> float:
    """Return the mean over classes of F1, the harmonic mean of precision and recall."""
    from sklearn.metrics import f1_score

    return float(f1_score(y, p.argmax(1), labels=np.unique(y), average="macro", zero_division=0))


def auc(y: np.ndarray, p: np.ndarray) -> float:
    """Return the mean over classes of the area under the receiver operating characteristic, each class against the rest."""
    from sklearn.metrics import roc_auc_score

    present = np.unique(y)
    if len(present) < 2 or not np.isfinite(p).all():
        return float("nan")
    return float(np.mean([roc_auc_score(y == c, p[:, c]) for c in present]))


def calibration(y: np.ndarray, p: np.ndarray) -> float:
    """Return 1 - ECE, the expected calibration error (Guo et al., ICML 2017, eq. 3).

    ECE is the difference between the confidence (the largest probability) and the accuracy in bins of the confidence,
    averaged over the examples.
    """
    if not np.isfinite(p).all():
        return float("nan")
    confidence, correct = p.max(1), (p.argmax(1) == y).astype(float)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=BINS)
    return float(1 - np.abs(gaps).sum() / len(y))


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auc": auc,
    "calibration": calibration,
}
