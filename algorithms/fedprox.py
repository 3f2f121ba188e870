"""FedProx: FedAvg with a proximal term in the local loss; sends weights both ways.

T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith: Federated Optimization in Heterogeneous Networks, MLSys
2020, Algorithm 2. A client minimises F_k(w) + mu / 2 ||w - w^t||^2, where w^t is the received model; with mu 0 this is
`fedavg`.

Differences from the paper:
1. Clients are sampled uniformly and averaged by n_k, as in `fedavg`; the paper samples clients by n_k and averages with
   equal weights.
2. All clients train for the same number of local epochs (except with `--straggler`); in the paper slow clients train for
   fewer.
3. The proximal term covers the parameters, not BatchNorm's statistics.

Defaults: the training of `fedavg`, and a mu of 0.1 that is Chorus's choice. The authors' code says that no mu fits all
tasks, and tries 0.001, 0.01, 0.1, 0.5 and 1; its scripts have 200 rounds of 20 epochs, batches of 10 and a learning rate of
0.01.
"""

from dataclasses import dataclass

from algorithms import fedavg
from algorithms.fedavg import start
from helpers import Round, aggregate, cross_entropy, download, shared_model, squared_distance, train
from options import Number, flag

__all__ = ["start"]
private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(fedavg.Options):
    mu: float = flag(
        0.1,
        Number(float, least=0),
        "weight of the proximal term; larger keeps clients closer to the global model, 0 is FedAvg",
    )


def loss(model, batch, context, options):
    return cross_entropy(model, batch, context, options) + options.mu / 2 * squared_distance(model, context)


def communicate(federation, state, options):
    clients = federation.sample()
    weights = download(federation, state, clients)
    trained = train(federation, clients, weights, loss, options, context=weights)
    aggregate(federation, state, clients, trained.weights)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
