"""FedAvg: clients train, the server averages; sends weights both ways.

H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Aguera y Arcas: Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, Algorithm 1.

Differences from the paper:
1. The average is over the sampled clients, sum_{k in S_t} n_k w_k / sum_{k in S_t} n_k (the paper writes n_k / n over all
   clients), and n_k travels with the weights.
2. BatchNorm's running statistics are averaged like weights; its integer counters are kept. The paper has no BatchNorm. With
   `--bn local` the BatchNorm layers stay with the clients, and each client has its own model (FedBN, Li et al., ICLR 2021).
3. `--optimizer adam` is allowed; the paper has plain SGD, the default here. The optimizer's memory is new in every round.

Two reference systems differ further; see `algorithms/published/fedavg.py`.

Defaults: batches of 10 and 5 epochs, as in the paper's experiments with an MNIST CNN; the learning rate of 0.05 is ours.
The paper tunes the learning rate for each task, and has 100 clients, of which 10 take part in a round.
"""

from dataclasses import dataclass

import options
from helpers import Round, aggregate, cross_entropy, download, one_model, shared_model, train

private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(options.Averaging):
    optimizer: str = "sgd"
    lr: float = 0.05
    epoch_per_round: int = 5
    batch_size: int = 10


loss = cross_entropy


def start(federation, options):
    return one_model(federation, kept=federation.names("bn") if options.bn == "local" else ())


def communicate(federation, state, options):
    clients = federation.sample()
    weights = download(federation, state, clients)
    trained = train(federation, clients, weights, loss, options)
    aggregate(federation, state, clients, trained.weights)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
