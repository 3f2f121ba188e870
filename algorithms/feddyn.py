"""The model, both ways: each client's objective is bent to have the minimum of all.

D. A. E. Acar, Y. Zhao, R. Matas Navarro, M. Mattina, P. N. Whatmough, V. Saligrama: Federated Learning Based on Dynamic
Regularization, ICLR 2021, Algorithm 1. Client k minimises L_k(w) - <g_k, w> + alpha / 2 ||w - w^t||^2, where w^t is what the
server sent and g_k its own gradient where it stopped before; at the minimum the gradient is g_k - alpha (w_k - w^t), the
next g_k. The server's h is the mean of all g_k; its model is the mean of the w_k less h / alpha. Means are even, as the
paper's (`fedavg` weighs by n_k): what is minimised is the mean of the L_k.

Differences from the paper:
1. The minimum is approached by local epochs, with any `--optimizer`; the next g_k is as if it had been reached. The authors'
   code does so too.
2. What is tested is the server's model w^t; the authors' code tests the mean of the w_k.
3. The authors' code divides alpha by the client's size relative to the mean size; here all clients have the same alpha.
4. The authors' code scales a step's gradient down to a norm of 10 (`--clip_grad 10`); the paper does not, nor do the
   defaults.
5. `--compress` rounds what is sent and has no error feedback, so that h drifts from the mean of the g_k.
6. g_k and h are of the parameters that travel; BatchNorm's statistics are averaged.

Defaults: of the authors' CIFAR-10 script, 1,000 rounds with 100 clients: a rate of 0.1, batches of 50, 5 epochs, weight
decay 1e-3, alpha 0.01.
"""

from dataclasses import dataclass

import torch

from algorithms import fedavg
from helpers import (
    Round,
    add_scaled,
    cross_entropy,
    download,
    keep_own,
    linear_term,
    mean,
    parameters,
    replace_rows,
    select_rows,
    shared_model,
    squared_distance,
    subtract,
    train,
)
from options import Number, flag


@dataclass(frozen=True)
class Options(fedavg.Options):
    lr: float = 0.1
    batch_size: int = 50
    weight_decay: float = 1e-3
    alpha_coef: float = flag(
        0.01,
        Number(float, above=0),
        "alpha, weight of the regularisation; larger keeps clients nearer to what they received",
    )


def loss(model, batch, context, options):
    pull = options.alpha_coef / 2 * squared_distance(model, context["w"])
    return cross_entropy(model, batch, context, options) + linear_term(model, context["-g"]) + pull


def start(federation, options):
    state = fedavg.start(federation, options)
    nothing = {name: torch.zeros_like(w) for name, w in parameters(federation, state["server"]).items()}
    return {**state, "h": nothing, "g": {}}


def communicate(federation, state, options):
    clients, alpha, h = federation.sample(), options.alpha_coef, state["h"]
    nothing = {name: torch.zeros_like(v) for name, v in h.items()}
    w = download(federation, state, clients)
    g = select_rows(state["g"], clients, nothing)  # only those that have taken part have one
    given = [{"w": row, "-g": subtract(nothing, g_k)} for row, g_k in zip(w, g, strict=True)]
    trained = train(federation, clients, w, loss, options, context=given)
    moves = [subtract(row, {name: begun[name] for name in h}) for row, begun in zip(trained.weights, w, strict=True)]
    g = [add_scaled(g_k, move, -alpha) for g_k, move in zip(g, moves, strict=True)]
    state["g"] = replace_rows(state["g"], clients, g)
    rows = mean(federation.wire.up("weights", keep_own(state, clients, trained.weights), clients))
    move = subtract(rows, parameters(federation, state["server"]))
    state["h"] = add_scaled(h, move, -alpha * len(clients) / len(federation.clients))
    state["server"] = add_scaled(rows, state["h"], -1 / alpha)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
