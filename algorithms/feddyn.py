"""FedDyn: dynamic regularization aligns local optima; sends weights both ways.

D. A. E. Acar, Y. Zhao, R. Matas Navarro, M. Mattina, P. N. Whatmough, V. Saligrama: Federated Learning Based on Dynamic
Regularization, ICLR 2021, Algorithm 1. Client k minimises L_k(w) - <g_k, w> + alpha / 2 ||w - w^t||^2, where w^t is the
received model and g_k the client's gradient at the end of its previous round. At the minimum the gradient is g_k - alpha
(w_k - w^t), the next g_k. The server's h is the mean of all g_k; its model is the mean of the w_k minus h / alpha. Means are
unweighted, as the paper's (`fedavg` weighs by n_k): the objective is the mean of the L_k.

Differences from the paper:
1. Local epochs, with any `--optimizer`, approximate the minimum; the next g_k assumes the exact minimum. The authors' code
   does so too.
2. The tested model is the server's model w^t; the authors' code tests the mean of the w_k.
3. The authors' code divides alpha by the client's size relative to the mean size; here all clients have the same alpha.
4. The authors' code clips a step's gradient to a norm of 10 (`--clip_grad 10`); neither the paper nor the defaults do.
5. `--compress` rounds the messages without error feedback, so that h drifts from the mean of the g_k.
6. g_k and h cover the parameters that travel; BatchNorm's statistics are averaged.

Defaults: from the authors' CIFAR-10 script, 1,000 rounds with 100 clients: a learning rate of 0.1, batches of 50, 5 epochs,
weight decay 1e-3, alpha 0.01.
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

private_steps = True
uploads = {"weights": ""}


@dataclass(frozen=True)
class Options(fedavg.Options):
    lr: float = 0.1
    batch_size: int = 50
    weight_decay: float = 1e-3
    alpha_coef: float = flag(
        0.01,
        Number(float, above=0),
        "alpha, weight of the dynamic regularization; larger keeps clients closer to the received model",
    )


def loss(model, batch, context, options):
    proximal_term = options.alpha_coef / 2 * squared_distance(model, context["w"])
    return cross_entropy(model, batch, context, options) + linear_term(model, context["-g"]) + proximal_term


def start(federation, options):
    state = fedavg.start(federation, options)
    zeros = {name: torch.zeros_like(w) for name, w in parameters(federation, state["server"]).items()}
    return {**state, "h": zeros, "g": {}}


def communicate(federation, state, options):
    clients, alpha, h = federation.sample(), options.alpha_coef, state["h"]
    zeros = {name: torch.zeros_like(v) for name, v in h.items()}
    w = download(federation, state, clients)
    g = select_rows(state["g"], clients, zeros)  # zeros for clients that have not taken part yet
    context = [{"w": row, "-g": subtract(zeros, g_k)} for row, g_k in zip(w, g, strict=True)]
    trained = train(federation, clients, w, loss, options, context=context)
    changes = [subtract(row, {name: received[name] for name in h}) for row, received in zip(trained.weights, w, strict=True)]
    g = [add_scaled(g_k, change, -alpha) for g_k, change in zip(g, changes, strict=True)]
    state["g"] = replace_rows(state["g"], clients, g)
    rows = mean(federation.wire.up("weights", keep_own(state, clients, trained.weights), clients))
    change = subtract(rows, parameters(federation, state["server"]))
    state["h"] = add_scaled(h, change, -alpha * len(clients) / len(federation.clients))
    state["server"] = add_scaled(rows, state["h"], -1 / alpha)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
