"""FedNova: changes are normalized by steps; sends weights down, changes per step up.

J. Wang, Q. Liu, H. Liang, G. Joshi, H. V. Poor: Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization, NeurIPS 2020, FedNova (section 4, equation 7). A client's change is lr G_k a_k, its gradients times their
weights; it sends d_k = lr G_k a_k / |a_k|_1. For SGD |a_k|_1 is the number of steps, for SGD with momentum it is larger.
The server moves by tau sum_k p_k d_k, with tau = sum_k p_k |a_k|_1 and p_k = n_k / n. If all clients take the same number of
steps, this is `fedavg`.

Differences from the paper:
1. |a_k|_1 counts the steps that a client has really taken; the client sends it to the server. The paper's proximal steps and
   its server momentum are left out.
2. p_k is over the sampled clients, n_k / sum_{S} n_k, as in `fedavg`; the paper's proof requires that a sample has the mean
   of all clients.
3. BatchNorm's statistics are averaged, as in `fedavg`: they are not a sum of gradients.

Defaults: from the paper's CIFAR-10, VGG-11 with 16 clients: a learning rate of 0.02 that falls by 10 at half and at three
quarters of the rounds, momentum 0.9, batches of 32, 2 epochs, weight decay 1e-4. The authors' code has other default values
(a learning rate of 0.1, batches of 512, 200 rounds, no momentum).
"""

from dataclasses import dataclass

import torch

from algorithms import fedavg
from algorithms.fedavg import start
from errors import UserError
from helpers import Round, add_scaled, average, cross_entropy, download, keep_own, parameters, shared_model, train

__all__ = ["start"]
private_steps = True
uploads = {"normalised changes": "n_k", "|a_k|": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(fedavg.Options):
    lr: float = 0.02
    lr_schedule: str = "step"
    epoch_per_round: int = 2
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 1e-4


def check(options, data, n_train):
    """Return "". Raise UserError if a client's change is not a sum of gradients with known weights."""
    if options.optimizer != "sgd":
        raise UserError(f"--optimizer {options.optimizer}: fednova supports only SGD; use --optimizer sgd --lr {Options.lr}")
    return ""


loss = cross_entropy


def communicate(federation, state, options):
    clients, x = federation.sample(), parameters(federation, state["server"])
    weights = download(federation, state, clients)
    trained = train(federation, clients, weights, loss, options)
    a = [counted(steps, options.momentum) for steps in trained.steps]
    rows = list(map(normalised, weights, keep_own(state, clients, trained.weights), [x] * len(clients), a))
    d = federation.wire.up("normalised changes", rows, clients)
    a = federation.wire.up("|a_k|", [torch.tensor(a_k, device=federation.device, dtype=torch.float64) for a_k in a], clients)
    n = federation.wire.up("n_k", federation.sizes(clients), clients)
    d, tau = average(d, n), average(a, n)
    state["server"] = add_scaled({**d, **x}, parameters(federation, d), -tau)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)


def counted(steps, momentum):
    """Return |a|_1 of SGD.

    A gradient contributes to every step from its own to the last, each time multiplied by `momentum`. With n steps left,
    including its own, its weight is 1 + momentum + ... + momentum^(n - 1) = (1 - momentum^n) / (1 - momentum).
    """
    return sum((1 - momentum**n) / (1 - momentum) for n in range(1, steps + 1))


def normalised(received, row, names, a):
    """Return a client's message: (received - row) / a for the parameters in `names`, and the rest of the row unchanged."""
    return {**row, **{name: (received[name] - row[name]) / a for name in names}}
