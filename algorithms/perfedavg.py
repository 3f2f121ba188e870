"""Per-FedAvg: a model that adapts well in one step; sends weights both ways.

A. Fallah, A. Mokhtari, A. Ozdaglar: Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic
Meta-Learning Approach, NeurIPS 2020, Algorithm 1, with the first-order gradient (FO): w~ = w - alpha grad f(w, D) on
one half of each batch, then w <- w - beta grad f(w~, D') on the other, where alpha is `--adapt_lr` and beta is `--lr`. With
alpha 0 it is `fedavg` on half of each batch.

The headline answer is "personal": a client takes one step of size alpha from the global model, down the gradient of its mean
loss over its whole training share, without `--augment` and in evaluation mode. "global" is the global model without this
step.

A new client (`--new_clients`) receives the global model; fine-tuning takes the place of the adaptation step.

Differences from the paper:
1. The second derivatives are left out, and with them the third batch (the paper's FO; not its Hessian-free HF).
2. D and D' are the first and the second half of one batch, not two draws. In a batch with fewer than four examples, both are
   the whole batch, since BatchNorm cannot normalise a half of one example.
3. Local epochs pass over the share; the paper takes tau steps. Both forward passes update BatchNorm's statistics.
4. The average is weighted by n_k, as in `fedavg`; the paper's is unweighted.

Defaults: the paper's 1,000 rounds, alpha 0.01 and batches of 40; the learning rate of 0.1 is Chorus's. The paper has beta
0.001, for a network of two small hidden layers, 4 or 10 steps a round and 10 of 50 clients. 0.1 is the better of 0.1 and
0.3 by validation accuracy on the problem of docs/settings.md. The authors' code is unknown to us.
"""

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch.func import functional_call

import options
from helpers import (
    Batch,
    Round,
    adapted,
    aggregate,
    download,
    gradient,
    gradient_descent,
    one_model,
    shared_model,
    train,
    trained_of,
)
from options import Number, flag

uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(options.Options):
    adapt_lr: float = flag(
        0.01,
        Number(float, least=0),
        "alpha, learning rate of a client's adaptation step, in training and in evaluation; 0 is none",
        rate=True,
    )
    optimizer: str = "sgd"
    lr: float = 0.1
    batch_size: int = 40
    rounds: int = 1000


def loss(model, batch, context, options):
    """Return the loss of the batch's second half at the weights after a step on the first half.

    The step counts as a constant.
    """
    first, second = halves(batch)
    w = trained_of(model)
    adapted_weights = gradient_descent(partial(gradient, model, first), w, options.adapt_lr)
    _, logits = functional_call(model, adapted_weights, (second.x,))
    return F.cross_entropy(logits, second.y)


def halves(batch):
    """Return the two halves of a batch; twice the whole batch if it has fewer than four examples."""
    half = len(batch.y) // 2
    return (Batch(*(t[:half] for t in batch)), Batch(*(t[half:] for t in batch))) if half > 1 else (batch, batch)


def start(federation, options):
    return one_model(federation)


def communicate(federation, state, options):
    clients = federation.sample()
    weights = download(federation, state, clients)
    trained = train(federation, clients, weights, loss, options)
    aggregate(federation, state, clients, trained.weights)
    models = {"personal": after_a_step(federation, state["server"], options), **shared_model(federation, state)}
    return Round(clients, trained.loss, models, local_weights=trained.weights)


def after_a_step(federation, w, options):
    """Return k -> client k's model after a step from w; this step counts as no party's work."""
    adaptation, step = federation.with_party("adaptation"), partial(adapted, lr=options.adapt_lr)
    return lambda k: federation.model(k, adaptation.map_clients(step, [k], [w])[0])
