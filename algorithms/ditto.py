"""Ditto: a personal model stays near the global one; sends weights both ways.

T. Li, S. Hu, A. Beirami, V. Smith: Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, Algorithm
1. The global model is FedAvg's. Each client also trains a personal model v_k on F_k(v_k) + lambda / 2 ||v_k - w^t||^2, where
w^t is the received model. With lambda 0, v_k learns independently from the common start; with a large lambda, v_k follows
w^t. The headline answer is "personal", v_k; "global" is the global model.

A new client (`--new_clients`) receives the global model; fine-tuning makes it personal, without the proximal term.

Differences from the paper:
1. Both trainings take `--epoch_per_round` and see the same batches in the same order; a straggler stops both at the same
   fraction. Both count as the client's steps.
2. The average is weighted by n_k, as in `fedavg`; Algorithm 1 uses equal weights.
3. The proximal term covers the parameters; BatchNorm's statistics are v_k's own.
4. The memory of v_k's optimizer stays with the client from round to round; the other optimizer is new in every round. Plain
   SGD has no memory.
5. The paper chooses lambda per data set, on validation data, and also per client; here all clients share one lambda.
6. No attacks, and none of the robust averages.

Defaults: the training of `fedavg`, and a lambda of 0.1, the smallest of the 0.1, 1 and 2 among which the authors' code
chooses. Its scripts have lambda 1, batches of 16, a learning rate of 0.05, 2 steps instead of epochs in a round, and 5,000
rounds.
"""

from dataclasses import dataclass

import options
from helpers import (
    Round,
    aggregate,
    cross_entropy,
    download,
    personal_model,
    personal_models,
    replace_rows,
    select_rows,
    squared_distance,
    train,
)
from options import Number, flag

private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(options.Options):
    lam: float = flag(
        0.1,
        Number(float, least=0),
        "lambda, weight of the distance between personal and global model; larger keeps them closer, 0 is learning alone",
    )
    optimizer: str = "sgd"
    lr: float = 0.05
    epoch_per_round: int = 5
    batch_size: int = 10


def loss(model, batch, context, options):
    """Return the loss of the personal model; `context` is the received global model."""
    return cross_entropy(model, batch, context, options) + options.lam / 2 * squared_distance(model, context)


def start(federation, options):
    return {**personal_models(federation), "memory": {}}


def communicate(federation, state, options):
    clients = federation.sample()
    received = download(federation, state, clients)
    trained = train(federation, clients, received, cross_entropy, options)
    v, memory = select_rows(state["personal"], clients, state["start"]), select_rows(state["memory"], clients)
    personal = train(federation, clients, v, loss, options, context=received, memory=memory)
    aggregate(federation, state, clients, trained.weights)
    state["personal"] = replace_rows(state["personal"], clients, personal.weights)
    state["memory"] = replace_rows(state["memory"], clients, personal.memory)
    return Round(clients, personal.loss, personal_model(federation, state))
