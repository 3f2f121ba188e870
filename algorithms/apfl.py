"""APFL: each client mixes its own model with the shared one; sends weights both ways.

Y. Deng, M. M. Kamani, M. Mahdavi: Adaptive Personalized Federated Learning, 2020 (arXiv 2003.13461), Algorithm 1. The shared
model w travels, the own model v stays. In every step w descends the gradient of its own loss; v and alpha descend the
gradient of the loss of the mixture alpha v + (1 - alpha) w. The headline answer is "personal", the mixture with the server's
w; "global" is w.

A new client (`--new_clients`) receives the global model; fine-tuning makes it personal, without a mixture.

Differences from the paper:
1. The server weighs w by n_k, as in `fedavg`; the paper averages with equal weights.
2. alpha changes in every step, with the learning rate of the weights and without weight decay. A step ends with the
   projection of alpha onto [0, 1], as in the authors' code. In that code alpha is constant unless a flag is set, as with
   `--fixed_mixture` here; with the flag it changes in the first step of a round, down its gradient and 0.02 alpha.
3. BatchNorm's statistics are mixed like weights: the statistics of v, computed on the mixture's inputs, and the server's.
   The counters are those of v.

`--clip_grad` limits the gradient of both networks and alpha together.

Defaults: the learning rate of 0.1 and the alpha of 0.5 of the authors' MNIST example, 20 rounds of an MLP. A round of the
example is 10 steps in batches of 50; batches of 32, epochs and 100 rounds are Chorus's. The number of rounds in the paper
is unknown to us.
"""

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch.func import functional_call

import options
from helpers import Round, aggregate, cross_entropy, download, one_model, replace_rows, select_rows, shared_model, train
from models import Pair
from options import Number, flag

private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(options.Options):
    optimizer: str = "sgd"
    lr: float = 0.1
    mixture: float = flag(0.5, Number(float, least=0, most=1), "initial weight of the own model in the mixture, from 0 to 1")
    fixed_mixture: bool = flag(
        False, None, "keep alpha fixed instead of learning it; alpha 0 is FedAvg, 1 is learning alone"
    )


class Mixture(Pair):
    """A client's own network, the shared network, and the weight alpha of the own network in their mixture."""

    bounds = {"alpha": (0, 1)}  # noqa: RUF012

    def __init__(self, own, shared):
        super().__init__(own, shared)
        self.alpha = torch.nn.Parameter(torch.zeros((), dtype=next(own.parameters()).dtype))


def loss(model, batch, context, options):
    w, v, alpha = dict(model.shared.named_parameters()), dict(model.own.named_parameters()), model.alpha
    mixed = {name: alpha * v[name] + (1 - alpha) * w[name].detach() for name in w}
    mixture_loss = cross_entropy(lambda x: functional_call(model.own, mixed, (x,)), batch, context, options)
    return mixture_loss + cross_entropy(model.shared, batch, context, options)


def start(federation, options):
    common = one_model(federation)
    alpha = torch.tensor(options.mixture, dtype=federation.dtype, device=federation.device)
    return {**common, "mine": {}, "begin": {"v": common["server"], "alpha": alpha}}


def communicate(federation, state, options):
    clients = federation.sample()
    received = download(federation, state, clients)
    own_rows = select_rows(state["mine"], clients, state["begin"])
    rows = [{**Pair.row(own=row["v"], shared=w), "alpha": row["alpha"]} for row, w in zip(own_rows, received, strict=True)]
    pairs = federation.paired(copy.deepcopy(federation.skeletons[0]), Mixture)
    trained_names = {name for name, _ in pairs.skeletons[0].named_parameters()} - (
        {"alpha"} if options.fixed_mixture else set()
    )
    trained = train(pairs, clients, rows, loss, options, only=trained_names)
    mine = [{"v": Pair.part(row, "own"), "alpha": row["alpha"]} for row in trained.weights]
    state["mine"] = replace_rows(state["mine"], clients, mine)
    aggregate(federation, state, clients, [Pair.part(row, "shared") for row in trained.weights])
    personal = partial(mixture_of, federation, state["server"], state["mine"], state["begin"])
    metrics = {"alpha": {k: row["alpha"].item() for k, row in zip(clients, mine, strict=True)}}
    return Round(clients, trained.loss, {"personal": personal, **shared_model(federation, state)}, metrics)


def mixture_of(federation, server, mine, begin, k):
    """Return client k's personal model: weights and BatchNorm's statistics are mixed, counters are the client's own."""
    row = mine.get(k, begin)
    v, alpha = row["v"], row["alpha"]
    mixed = {name: alpha * own + (1 - alpha) * server[name] for name, own in v.items() if own.is_floating_point()}
    return federation.model(k, {**v, **mixed})
