"""The label mix, from the change of the classifier's bias in a client's local training.

A. Wainakh, F. Ventola, T. Müßig, J. Keim, C. G. Cordero, E. Zimmer, T. Grube, K. Kersting, M. Mühlhäuser: User-Level Label
Leakage from Gradients in Federated Learning, PoPETs 2022, read signs and sizes of the last layer's gradient. Here the bias
gives equations that hold for cross-entropy: a step of gradient descent changes the bias by lr (q - p), where q are the
label frequencies of the batch and p the mean prediction. With P[c, :] the mean prediction for class c, p = P^T q, so over T
steps (I - P^T) q = change / (lr T). P is the mean of what the received and the sent network predict on public images.

Differences: the equations leave one direction open, since I - P^T maps its stationary distribution to 0. With plain SGD
lr T is known, from the options and the size n_k that the client sends, and the sum of q closes it. Otherwise the answer with
the fewest classes is taken.

Knowledge: the messages.
"""

import math

import numpy as np
import torch

from attacks.knowledge import Guess
from attacks.mean_predictions import mean_by_class


def attack(recording, public, options):
    estimates = {}
    for k, message, before, after in recording.updates():
        received, sent = recording.network(k, before), recording.network(k, after)
        if received is None or sent is None or "classifier.bias" not in after:
            continue
        confusion = sum(mean_by_class(model, public, len(recording.classes)) for model in (received, sent)).numpy() / 2
        change = (after["classifier.bias"] - before["classifier.bias"]).double().numpy()
        if np.isfinite(confusion).all() and np.isfinite(change).all() and np.abs(change).max() > 0:
            estimates.setdefault(k, []).append(solved(confusion, change, length_of(recording, message)))
    return Guess(mixes={k: torch.from_numpy(np.mean(of_client, axis=0)) for k, of_client in estimates.items()})


def length_of(recording, message):
    """Return lr T of the local training behind a message: 0 where it is not known."""
    options = recording.options
    sizes = [n.content for n in recording.sent("n_k").get(message.sender, []) if n.round == message.round]
    if options["optimizer"] != "sgd" or options["lr_schedule"] != "constant" or not sizes:
        return 0.0
    epoch_steps = options["epoch_per_round"] * math.ceil(int(sizes[0]) / options["batch_size"])
    n_steps = options.get("local_steps") or epoch_steps  # runs of earlier versions have no `--local_steps`
    return options["lr"] / (1 - options["momentum"]) * n_steps


def solved(confusion, change, length=0.0):
    """Return q [C] >= 0 with sum 1, for which (I - P^T) q times a length is closest to the change [C]."""
    from scipy.optimize import nnls

    system = np.eye(len(change)) - confusion.T
    least, _ = nnls(system, change)
    stationary = np.abs(np.linalg.svd(system)[2][-1])
    q = least + max(length - least.sum(), 0.0) * stationary / stationary.sum()
    return q / q.sum() if q.sum() > 0 else stationary / stationary.sum()
