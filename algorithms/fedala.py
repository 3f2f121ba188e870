"""FedALA: clients blend the global model into their own; sends weights both ways.

J. Zhang, Y. Hua, H. Wang, T. Song, Z. Xue, R. Ma, H. Guan: FedALA: Adaptive Local Aggregation for Personalized Federated
Learning, AAAI 2023, Algorithm 1. In the last `--ala_layers` layers, local training starts from own + (received - own) * W,
with a weight in [0, 1] for every number; in the other layers it starts from the received weights. W is learned: it descends
the client's loss at this starting point, on a random part of the client's examples, and is clipped after every step. With W
fixed at 1 this is `fedavg`. The headline answer is "personal", a client's model after local training; "global" is the
average.

A new client (`--new_clients`) receives the global model and fine-tunes it; it has no model of its own to blend.

Differences from the paper:
1. The first time, W is learned for `--ala_first` epochs; the paper continues until the loss has settled, so that a round's
   cost would depend on what was learned. Later it is one epoch, as in the paper.
2. A client in its first round has no model of its own and starts from the received weights; it learns W first in its second
   round.
3. W is learned with the network in evaluation mode, on images without `--augment`; buffers are the received ones. Its
   operations count as the client's, its steps do not count.
4. Every module with parameters is a layer, so BatchNorm is one: `--ala_layers 2` may be the classifier and a normalisation.
   The authors' code counts tensors, of which the classifier has two.
5. The personal model is the one after local training; the authors also test the one before it.

Defaults: the paper's 2,000 rounds of a CNN of four layers: a learning rate of 0.005, batches of 10, one epoch, W of the
classifier alone on 80 % of the examples. The authors' code has 1,000 rounds by default.
"""

from dataclasses import dataclass
from functools import partial

import torch

import options
from algorithms.fedavg import loss
from helpers import (
    Batch,
    Round,
    aggregate,
    download,
    gradient,
    personal_model,
    personal_models,
    replace_rows,
    select_rows,
    train,
)
from options import Number, flag

__all__ = ["loss"]
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(options.Options):
    ala_layers: int = flag(1, Number(int, least=0), "number of last layers that are adaptively aggregated (p); 0 is FedAvg")
    ala_share: float = flag(
        0.8, Number(float, above=0, most=1), "fraction of its examples on which a client learns the aggregation weights"
    )
    ala_lr: float = flag(
        1.0, Number(float, least=0), "learning rate of the weights; 0 keeps them at 1, which is FedAvg", rate=True
    )
    ala_first: int = flag(10, Number(int, least=0), "epochs for the aggregation weights the first time; later 1")
    optimizer: str = "sgd"
    lr: float = 0.005
    batch_size: int = 10
    rounds: int = 2000


def start(federation, options):
    return {**personal_models(federation), "W": {}}


def communicate(federation, state, options):
    clients = federation.sample()
    received = download(federation, state, clients)
    own, W = select_rows(state["personal"], clients), select_rows(state["W"], clients)
    results = federation.map_clients(partial(between, options=options), clients, received, own, W)
    weights, learned = zip(*results, strict=True)
    trained = train(federation, clients, weights, loss, options)
    aggregate(federation, state, clients, trained.weights)
    state["personal"] = replace_rows(state["personal"], clients, trained.weights)
    state["W"] = replace_rows(state["W"], clients, learned)
    return Round(clients, trained.loss, personal_model(federation, state))


def between(federation, k, received, own, W, *, options):
    """Return the starting point of client k's local training, and its learned W, {name: weights like the parameter}."""
    if own is None:
        return received, {}
    model, draw = federation.model(k, received).requires_grad_(False), federation.stream("ala", k)
    names, share = last_layers(model, options.ala_layers), federation.shares[k]
    epochs = 1 if W else options.ala_first
    W = W or {name: torch.ones_like(own[name]) for name in names}
    part = draw.permutation(len(share))[: round(options.ala_share * len(share))]

    def slope(weights, i):
        return gradient(model, Batch(federation.data.images(i, federation.dtype), federation.data.y[i], i), weights)

    for _ in range(epochs if names and len(part) and options.ala_lr else 0):
        for i in share[torch.from_numpy(draw.permutation(part)).to(share.device)].split(options.batch_size):
            g = federation.count_flops(partial(slope, blended(own, received, W), i), k, "ala", federation.data.shape, len(i))
            # the gradient of the loss at own + (received - own) * W with respect to W
            W = {n: (w - options.ala_lr * g[n] * (received[n] - own[n])).clamp(0, 1) for n, w in W.items()}
    return {**received, **blended(own, received, W)}, W


def blended(own, received, W):
    """Return own + (received - own) * W, which equals `received` bit for bit where W is 1."""
    return {name: torch.lerp(own[name], received[name], w) for name, w in W.items()}


def last_layers(model, n):
    """Return the names of the parameters of the last n layers that have any."""
    layers = [name for name, layer in model.named_modules() if list(layer.parameters(recurse=False))]
    chosen = set(layers[len(layers) - min(n, len(layers)) :])
    return [name for name, _ in model.named_parameters() if name.rpartition(".")[0] in chosen]
