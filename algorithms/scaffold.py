"""SCAFFOLD: control variates correct client drift; sends weights and variates.

S. P. Karimireddy, S. Kale, M. Mohri, S. J. Reddi, S. U. Stich, A. T. Suresh: SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning, ICML 2020, Algorithm 1. A client's variate c_i estimates its own gradient, the server's c the mean
gradient; a local step follows g_i(y_i) - c_i + c. All variates start at 0. Averages are unweighted, as the paper's.

Differences from the paper:
1. A client sends y_i, with as many bytes as the paper's y_i - x; K is the number of steps that it has really taken.
2. Variates cover the parameters that travel. BatchNorm's statistics are averaged; the gradient of `--variate 1` is computed
   in evaluation mode, which does not change them.

Defaults: option II and a server's rate of 1, as in the paper's experiments; the training is that of `fedavg`. The paper
tunes the clients' rate, and its batches are a fifth of a client's examples.

`--compress` rounds y_i and the change of c_i without error feedback: the rounding error of a round stays, so that the
server's c drifts from the mean of the c_i.
"""

from dataclasses import dataclass
from functools import partial

import torch

import helpers
from algorithms import fedavg
from errors import UserError
from helpers import (
    Round,
    add_scaled,
    download,
    linear_term,
    mean,
    parameters,
    shared_model,
    subtract,
    train,
)
from options import Number, flag

uploads = {"weights": "", "variates": ""}


@dataclass(frozen=True)
class Options(fedavg.Options):
    variate: int = flag(
        2,
        Number(int, least=1, most=2),
        "update of the client's control variate: 1 is the gradient of the global model over all its examples (an extra "
        "pass), 2 is the mean gradient of its local steps",
    )
    server_lr: float = flag(1.0, Number(float, above=0), "server's learning rate; 1 is the mean of the models", rate=True)


def check(options, data, n_train):
    """Return "". Raise UserError if x - y_i is not the learning rate times the sum of K corrected gradients."""
    for name, required in {"optimizer": "sgd", "momentum": 0.0, "clip_grad": 0.0}.items():
        if options.variate == 2 and (value := getattr(options, name)) != required:
            words = f"--{name} {required}" + f" --lr {Options.lr}" * (name == "optimizer")
            raise UserError(f"--{name} {value}: scaffold with --variate 2 requires plain SGD; use {words}, or --variate 1")
    return ""


def loss(model, batch, context, options):
    return helpers.cross_entropy(model, batch, context, options) + linear_term(model, context)


def start(federation, options):
    state = fedavg.start(federation, options)
    return {**state, "c": {n: torch.zeros_like(w) for n, w in parameters(federation, state["server"]).items()}, "c_i": {}}


def communicate(federation, state, options):
    clients, zeros = federation.sample(), {name: torch.zeros_like(v) for name, v in state["c"].items()}
    x, c = download(federation, state, clients), federation.wire.broadcast("variates", state["c"], clients)
    c_i = helpers.select_rows(state["c_i"], clients, zeros)
    corrections = list(map(subtract, c, c_i))
    trained = train(federation, clients, x, loss, options, context=corrections)
    if options.variate == 1:
        new_c_i = federation.map_clients(gradient, clients, x, corrections)
    else:
        new_c_i = list(map(partial(renewed, federation, options), x, trained.weights, trained.steps, corrections))
    y = mean(federation.wire.up("weights", helpers.keep_own(state, clients, trained.weights), clients))
    change = mean(federation.wire.up("variates", list(map(subtract, new_c_i, c_i)), clients))
    before = parameters(federation, state["server"])
    state["server"] = add_scaled({**y, **before}, subtract(y, before), options.server_lr)
    state["c"] = add_scaled(state["c"], change, len(clients) / len(federation.clients))  # |S| / N
    state["c_i"] = helpers.replace_rows(state["c_i"], clients, new_c_i)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)


def renewed(federation, options, x, y, K, correction):
    """Return the new variate, c_i - c + (x - y_i) / (K lr)."""
    lr = helpers.learning_rate(options, federation.round)
    return {name: (x[name] - y[name]) / (K * lr) - v for name, v in correction.items()}


def gradient(federation, k, weights, names):
    """Return the gradient of client k's mean loss over all its examples at these weights: {name: tensor} for `names`."""
    model, share = federation.model(k, weights), federation.shares[k]
    named = {name: w for name, w in model.named_parameters() if name in names}

    def part(i):
        batch = helpers.Batch(federation.data.images(i, federation.dtype), federation.data.y[i], i)
        return torch.autograd.grad(helpers.cross_entropy(model, batch, None, None) * len(i) / len(share), named.values())

    parts = [federation.count_flops(partial(part, i), k, "gradient", len(i)) for i in share.split(helpers.EVALUATION_BATCH)]
    return {name: sum(terms) for name, terms in zip(named, zip(*parts, strict=True), strict=True)}
