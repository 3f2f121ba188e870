"""Measures of a model's probabilities besides accuracy: functions (y int64 [n], p float [n, C]) -> a number, or C numbers.

A measure is at most 1, and larger is better. It is NaN if it is not defined: an area under the curve needs two classes, and
measures of the probabilities themselves need finite ones, which a diverged model does not have. C numbers are a measure for
each class.

Means over classes are over the classes among the labels: a client with few classes is not tested on the others.
"""

from collections.abc import Callable

import numpy as np

from errors import UserError, reason_of

BINS = 15  # bins of the confidence, of equal width


def recall(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return, for each class, the fraction of its examples that are predicted correctly: float [C]; NaN without examples."""
    n_classes = p.shape[1]
    correct = np.bincount(y[p.argmax(1) == y], minlength=n_classes)
    with np.errstate(invalid="ignore"):
        return correct / np.bincount(y, minlength=n_classes)


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


def values_of(measure: str, y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Return {name: value} of a measure on these examples, without undefined values.

    A measure of every class has a name for each, such as recall_0. Raise UserError where a user's measure fails.
    """
    where = f"--measure {measure}: on {len(y)} examples of {len(np.unique(y))} classes it"
    try:
        result = MEASURES[measure](y, p)
        result = np.asarray(result, dtype=float) if np.ndim(result) else np.asarray(float(result))
    except Exception as error:
        raise UserError(f"{where} fails: {reason_of(error)}; it may return NaN where it is not defined") from error
    if result.shape not in ((), (p.shape[1],)):
        raise UserError(f"{where} returns an array {list(result.shape)}; must return a number, or a number per class")
    if (result > 1 + 1e-9).any():
        raise UserError(f"{where} returns {np.nanmax(result):g}; must be at most 1, and larger is better")
    names = [measure] if result.ndim == 0 else [f"{measure}_{c}" for c in range(len(result))]
    return {name: float(value) for name, value in zip(names, result.reshape(-1), strict=True) if not np.isnan(value)}


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float | np.ndarray]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auc": auc,
    "calibration": calibration,
    "recall": recall,
}
