"""The model, both ways: beside it a client keeps a personal one, which is drawn to it.

T. Li, S. Hu, A. Beirami, V. Smith: Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, Algorithm
1. The model for all is FedAvg's. Beside it a client goes on with v_k, on F_k(v_k) + lambda / 2 ||v_k - w^t||^2, where w^t is
what it received. With lambda 0 that is independent learning from the common start; with a large one v_k follows w^t. The
headline answer is "personal", v_k; "global" is the model for all.

Differences from the paper:
1. Both trainings have `--epoch_per_round`, and see the same batches in the same order; a straggler breaks off either at the
   same part. Both count as the client's steps.
2. The average is weighted by n_k, as in `fedavg`; Algorithm 1 writes an even one.
3. The term is of the parameters; BatchNorm's statistics are v_k's own.
4. The memory of v_k's optimizer stays with the client from round to round, that of the other is fresh; plain SGD has none.
5. The paper chooses lambda by data set, on validation data, also client by client; one for all here.
6. No attacks, and none of the robust averages.

Defaults: the training of `fedavg`, and a lambda of 0.1, the smallest of the 0.1, 1 and 2 among which the authors' code
chooses. Its scripts have lambda 1, batches of 16, a rate of 0.05, 2 steps instead of epochs in a round, and 5,000 rounds.
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


@dataclass(frozen=True)
class Options(options.Options):
    lam: float = flag(
        0.1,
        Number(float, least=0),
        "lambda, how strongly a personal model is drawn to the global one; 0 is independent learning",
    )
    optimizer: str = "sgd"
    lr: float = 0.05
    epoch_per_round: int = 5
    batch_size: int = 10


def loss(model, batch, context, options):
    """Of the personal model; `given` is the global one."""
    return cross_entropy(model, batch, context, options) + options.lam / 2 * squared_distance(model, context)


def start(federation, options):
    return {**personal_models(federation), "memory": {}}


def communicate(federation, state, options):
    clients = federation.sample()
    received = download(federation, state, clients)
    trained = train(federation, clients, received, cross_entropy, options)
    v, memory = select_rows(state["personal"], clients, state["start"]), select_rows(state["memory"], clients)
    drawn = train(federation, clients, v, loss, options, context=received, memory=memory)
    aggregate(federation, state, clients, trained.weights)
    state["personal"] = replace_rows(state["personal"], clients, drawn.weights)
    state["memory"] = replace_rows(state["memory"], clients, drawn.memory)
    return Round(clients, drawn.loss, personal_model(federation, state))
