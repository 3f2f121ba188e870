"""The model down, its change per step up: who takes more steps does not weigh more.

J. Wang, Q. Liu, H. Liang, G. Joshi, H. V. Poor: Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization, NeurIPS 2020, FedNova (section 4, equation 7). A client's change is lr G_k a_k, its gradients times how much
each of them counts; it sends d_k = lr G_k a_k / |a_k|_1. Of SGD |a_k|_1 is the number of steps, of SGD with momentum more.
The server goes tau sum_k p_k d_k, with tau = sum_k p_k |a_k|_1 and p_k = n_k / n. Where all take as many steps this is
`fedavg`.

Differences from the paper:
1. |a_k|_1 is of the steps that a client has really taken, which the server is told. The paper's proximal steps, and its
   momentum at the server, are left out.
2. p_k is of the sampled clients, n_k / sum_{S} n_k, as in `fedavg`; the paper's proof asks of a sample that it has the
   mean of all.
3. BatchNorm's statistics are averaged, as in `fedavg`: they are no sum of gradients.

Defaults: of the paper's CIFAR-10, VGG-11 with 16 clients: a rate of 0.02 that falls by 10 at half and at three quarters of
the rounds, momentum 0.9, batches of 32, 2 epochs, weight decay 1e-4. The authors' code has other values until its flags are
given (a rate of 0.1, batches of 512, 200 rounds, no momentum).
"""

from dataclasses import dataclass

import torch

from algorithms import fedavg
from algorithms.fedavg import start
from errors import UserError
from helpers import Round, add_scaled, average, cross_entropy, download, keep_own, parameters, shared_model, train

__all__ = ["start"]


@dataclass(frozen=True)
class Options(fedavg.Options):
    lr: float = 0.02
    lr_schedule: str = "step"
    epoch_per_round: int = 2
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 1e-4


def check(options, data, n_train):
    """No words. Raises UserError where a client's change is not a sum of gradients, each of a known weight."""
    if options.optimizer != "sgd":
        raise UserError(f"--optimizer {options.optimizer}: fednova knows how SGD adds up its gradients alone; must be sgd")
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
    """|a|_1 of SGD: a gradient is in every step from its own to the last, each time `momentum` times as heavy, and counts
    1 + momentum + ... + momentum^(n - 1) = (1 - momentum^n) / (1 - momentum), if n steps are left with its own."""
    return sum((1 - momentum**n) / (1 - momentum) for n in range(1, steps + 1))


def normalised(begun, row, names, a):
    """What a client sends: (begun - row) / a of the parameters named, and the rest of its row as it is."""
    return {**row, **{name: (begun[name] - row[name]) / a for name in names}}
