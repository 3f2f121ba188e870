"""The label mix, from the change of the classifier's bias in a client's local training.

A. Wainakh, F. Ventola, T. Müßig, J. Keim, C. G. Cordero, E. Zimmer, T. Grube, K. Kersting, M. Mühlhäuser: User-Level Label
Leakage from Gradients in Federated Learning, PoPETs 2022, read signs and sizes of the last layer's gradient. Here the bias
gives equations that hold for cross-entropy: a step of gradient descent changes the bias by lr (q - p), where q are the
label frequencies of the batch and p the mean prediction. With P[c, :] the mean prediction for class c, p = P^T q, so over T
steps (I - P^T) q = change / (lr T). P is the mean of what the received and the sent network predict on public images.

Differences: the least squares solution with q >= 0 and sum q = 1; the scale lr T is not known for optimizers other than SGD
and for losses with further terms, so the scale is fitted too, as the one with the smallest residual.

Knowledge: the messages.
"""

import numpy as np
import torch

from attacks.knowledge import Guess
from attacks.mean_predictions import mean_by_class

SCALES = np.logspace(-3, 3, 61)  # relative to the scale at which the largest change of the bias is a frequency of 1


def attack(recording, public, options):
    estimates = {}
    for k, _, before, after in recording.updates():
        received, sent = recording.network(k, before), recording.network(k, after)
        if received is None or sent is None or "classifier.bias" not in after:
            continue
        confusion = sum(mean_by_class(model, public, len(recording.classes)) for model in (received, sent)).numpy() / 2
        change = (after["classifier.bias"] - before["classifier.bias"]).double().numpy()
        if np.isfinite(change).all() and np.abs(change).max() > 0:
            estimates.setdefault(k, []).append(solved(confusion, change))
    return Guess(mixes={k: torch.from_numpy(np.mean(of_client, axis=0)) for k, of_client in estimates.items()})


def solved(confusion, change):
    """Return q [C] >= 0 with sum 1, for which (I - P^T) q is closest to the change [C] at its best scale."""
    from scipy.optimize import nnls

    system, weight = np.eye(len(change)) - confusion.T, 10.0
    rows = np.vstack([system, np.full(len(change), weight)])
    best = (np.inf, np.full(len(change), 1 / len(change)))
    for scale in SCALES / np.abs(change).max():
        q, _ = nnls(rows, np.append(scale * change, weight))
        residual = np.linalg.norm(system @ q - scale * change) / np.linalg.norm(scale * change)
        best = min(best, (residual, q), key=lambda pair: pair[0])
    return best[1] / best[1].sum()
