"""The model, both ways: clients train the server's weights, the server averages theirs.

H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Aguera y Arcas: Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, Algorithm 1.

Differences from the paper:
1. The average is over the sampled clients, sum_{k in S_t} n_k w_k / sum_{k in S_t} n_k (their text writes n_k / n over all
   clients), and n_k travels with the weights.
2. BatchNorm's running statistics are averaged like weights; its integer counters are kept. The paper has no BatchNorm.
   `--bn local` leaves the layers with the clients, which then have a model each (FedBN, Li et al., ICLR 2021).
3. `--optimizer adam` is allowed; the paper has plain SGD, the default here. Its memory is fresh in every round.

Two reference systems differ further; see `algorithms/published/fedavg.py`.
"""

from dataclasses import dataclass

import torch.nn.functional as F

import options
from helpers import Round, average, joined, parted, pick, put, shared_model, train


@dataclass(frozen=True)
class Options(options.Averaging):
    optimizer: str = "sgd"
    lr: float = 0.05
    epoch_per_round: int = 5
    batch_size: int = 10


def loss(model, batch, given, options):
    _, logits = model(batch.x)
    return F.cross_entropy(logits, batch.y)


def start(federation, options):
    own = federation.names("bn") if options.bn == "local" else ()
    (own,), (server,) = parted([federation.initial()], own)
    return {"server": server, "own": [own for _ in federation.clients]}


def communicate(federation, state, options):
    clients = federation.sample()
    weights = federation.wire.broadcast("weights", state["server"], clients)
    weights = joined(weights, pick(state["own"], clients))
    trained, _, losses = train(federation, clients, weights, loss, options)
    own, weights = parted(trained, state["own"][0])
    state["own"] = put(state["own"], clients, own)
    weights = federation.wire.up("weights", weights, clients)
    n = federation.wire.up("n_k", federation.sizes(clients), clients)
    state["server"] = average(weights, n)
    return Round(clients, losses, shared_model(federation, state["server"], state["own"]), trained=trained)
