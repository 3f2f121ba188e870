"""pFedMe: personal models from Moreau envelopes; sends weights both ways.

C. T. Dinh, N. H. Tran, T. D. Nguyen: Personalized Federated Learning with Moreau Envelopes, NeurIPS 2020, Algorithm 1. On
each batch a client computes theta = argmin f(theta) + lambda / 2 ||theta - w||^2, by `--inner_steps` of gradient descent
with `--inner_lr` from w. Then it moves w <- w - eta lambda (w - theta), where eta is `--lr`: a step on the Moreau envelope
of f. The server moves by a fraction beta towards the clients' average. With one inner step this is a `fedavg` with the rate
eta lambda alpha. The headline answer is "personal", theta; "global" is the server's w.

A new client (`--new_clients`) receives the global model; fine-tuning makes it personal, without the proximal term.

Differences from the paper:
1. Local epochs pass over the share; the paper draws R batches of it (`--local_steps R`).
2. The inner problem starts at w; the paper leaves this open, and the authors' code starts at the previous theta.
3. The personal model is the theta of the client's final w in a round and its whole share, by the same number of inner steps,
   in evaluation mode; the authors' is the theta of the last batch. Its operations count as the client's, its steps do not
   count.
4. Clients that are not sampled do nothing; in Algorithm 1 all clients train, and the server averages a sample of them.
5. The server's average is unweighted, as in Algorithm 1; the authors' code weighs it by n_k.
6. The authors' code adds mu = 0.001 times theta to each inner gradient, a weight decay that the paper does not have.
7. The server steps in the parameters. BatchNorm's statistics, which change with every inner step, are averaged; its counters
   are one client's.

Defaults: from the authors' MNIST script for a convex model, 800 rounds of softmax regression: lambda 15, 5 inner steps of
0.1, beta 1, a learning rate of 0.005, batches of 20. A round there is 20 batches, and 5 of 20 clients take part. For a
network of two layers it has inner steps of 0.09.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

import options
from helpers import (
    Round,
    adapted,
    download,
    gradient,
    gradient_descent,
    mean,
    parameters,
    personal_model,
    personal_models,
    replace_rows,
    squared_distance,
    train,
    trained_of,
)
from options import Number, flag

uploads = {"weights": ""}


@dataclass(frozen=True)
class Options(options.Options):
    lam: float = flag(
        15.0,
        Number(float, above=0),
        "lambda, weight of the distance between personal and global model; larger keeps them closer",
    )
    inner_steps: int = flag(
        5, Number(int, least=1), "number of gradient steps for the personal model per batch (K in the paper)"
    )
    inner_lr: float = flag(
        0.1, Number(float, above=0), "alpha, learning rate of these steps; diverges from 2 / lambda on", rate=True
    )
    beta: float = flag(1.0, Number(float, above=0), "server step towards the clients' average; 1 is the average")
    optimizer: str = "sgd"
    lr: float = 0.005
    batch_size: int = 20
    rounds: int = 800


def loss(model, batch, context, options):
    """Return the Moreau envelope at the weights w, whose gradient is lambda (w - theta)."""
    w = {name: tensor.detach() for name, tensor in trained_of(model).items()}
    theta = gradient_descent(partial(gradient, model, batch), w, options.inner_lr, options.inner_steps, options.lam)
    with torch.no_grad():
        _, logits = torch.func.functional_call(model, theta, (batch.x,))
        f = F.cross_entropy(logits, batch.y)
    return f + options.lam / 2 * squared_distance(model, theta)


def start(federation, options):
    return personal_models(federation)


def communicate(federation, state, options):
    clients = federation.sample()
    received = download(federation, state, clients)
    trained = train(federation, clients, received, loss, options)
    solve = partial(adapted, lr=options.inner_lr, steps=options.inner_steps, pull=options.lam)
    state["personal"] = replace_rows(state["personal"], clients, federation.map_clients(solve, clients, trained.weights))
    average, w_t = mean(federation.wire.up("weights", trained.weights, clients)), parameters(federation, state["server"])
    state["server"] = {
        **average,
        **{name: (1 - options.beta) * w + options.beta * average[name] for name, w in w_t.items()},
    }
    return Round(clients, trained.loss, personal_model(federation, state))
