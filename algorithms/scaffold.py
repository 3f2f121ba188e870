"""The model and a control variate, both ways: every step is steered against the drift.

S. P. Karimireddy, S. Kale, M. Mohri, S. J. Reddi, S. U. Stich, A. T. Suresh: SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning, ICML 2020, Algorithm 1. A client's variate c_i guesses its own gradient, the server's c the mean of all;
a local step goes along g_i(y_i) - c_i + c. All variates begin at 0. Averages are even, as the paper's.

Differences from the paper:
1. A client sends y_i, as many bytes as the paper's y_i - x; K is the number of steps that it has really taken.
2. Variates are of the parameters that travel. BatchNorm's statistics are averaged; the gradient of `--variate 1` is taken in
   evaluation mode, which leaves them as they are.

Defaults: option II and a server's rate of 1, as in the paper's experiments; the training is that of `fedavg`. The paper
tunes the clients' rate, and its batches are a fifth of a client's examples.

`--compress` rounds y_i and the change of c_i and has no error feedback: what is lost in a round stays lost, so that the
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
    cross_entropy,
    download,
    keep_own,
    linear_term,
    mean,
    parameters,
    shared_model,
    subtract,
    train,
)
from options import Number, flag


@dataclass(frozen=True)
class Options(fedavg.Options):
    variate: int = flag(
        2,
        Number(int, least=1, most=2),
        "a client's new variate: 1 is its gradient at the server's model, over all its examples once more; 2 is the mean of "
        "the gradients of its local steps",
    )
    server_lr: float = flag(
        1.0, Number(float, above=0), "the server's learning rate; 1 takes the mean of the models", rate=True
    )


def check(options, data, n_train):
    """No words. Raises UserError where x - y_i would not be the learning rate times the sum of K steered gradients."""
    for name, plain in {"optimizer": "sgd", "momentum": 0.0, "clip_grad": 0.0}.items():
        if options.variate == 2 and (given := getattr(options, name)) != plain:
            raise UserError(f"--{name} {given}: --variate 2 of scaffold needs plain SGD; must be {plain}, or --variate 1")
    return ""


def loss(model, batch, context, options):
    return cross_entropy(model, batch, context, options) + linear_term(model, context)


def start(federation, options):
    state = fedavg.start(federation, options)
    return {**state, "c": {n: torch.zeros_like(w) for n, w in parameters(federation, state["server"]).items()}, "c_i": {}}


def communicate(federation, state, options):
    clients, none_yet = federation.sample(), {name: torch.zeros_like(v) for name, v in state["c"].items()}
    x, c = download(federation, state, clients), federation.wire.broadcast("variates", state["c"], clients)
    c_i = helpers.select_rows(state["c_i"], clients, none_yet)
    corrections = list(map(subtract, c, c_i))
    trained = train(federation, clients, x, loss, options, context=corrections)
    if options.variate == 1:
        new = federation.map_clients(gradient, clients, x, corrections)
    else:
        new = list(map(partial(renewed, federation, options), x, trained.weights, trained.steps, corrections))
    y = mean(federation.wire.up("weights", keep_own(state, clients, trained.weights), clients))
    change = mean(federation.wire.up("variates", list(map(subtract, new, c_i)), clients))
    before = parameters(federation, state["server"])
    state["server"] = add_scaled({**y, **before}, subtract(y, before), options.server_lr)
    state["c"] = add_scaled(state["c"], change, len(clients) / len(federation.clients))  # |S| / N
    state["c_i"] = helpers.replace_rows(state["c_i"], clients, new)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)


def renewed(federation, options, x, y, K, correction):
    """c_i - c + (x - y_i) / (K lr)."""
    lr = helpers.learning_rate(options, federation.round)
    return {name: (x[name] - y[name]) / (K * lr) - v for name, v in correction.items()}


def gradient(federation, k, weights, names):
    """Of client k's mean loss over all its examples at these weights: {name: tensor} of the parameters named."""
    model, share = federation.model(k, weights), federation.shares[k]
    wanted = {name: w for name, w in model.named_parameters() if name in names}

    def part(i):
        batch = helpers.Batch(federation.data.images(i, federation.dtype), federation.data.y[i], i)
        return torch.autograd.grad(cross_entropy(model, batch, None, None) * len(i) / len(share), wanted.values())

    parts = [federation.count_flops(partial(part, i), k, "gradient", len(i)) for i in share.split(helpers.EVALUATION_BATCH)]
    return {name: sum(of_one) for name, of_one in zip(wanted, zip(*parts, strict=True), strict=True)}
