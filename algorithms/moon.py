"""MOON: a contrastive loss on features reduces client drift; sends weights both ways.

Q. Li, B. He, D. Song: Model-Contrastive Federated Learning, CVPR 2021, Algorithm 1. To the cross-entropy a client adds mu
times -log(exp(s_glob / tau) / (exp(s_glob / tau) + exp(s_prev / tau))). s_glob is the cosine similarity of an image's
features to those of the received model, s_prev to those of the client's previous model. With mu 0 this is `fedavg`.

Differences from the paper:
1. There is no projection head: features are the inputs of the classifier, of the chosen architecture (`--feature_dim`). The
   paper adds two layers of 256 after the body, and its classifier reads their output.
2. The previous model is that of the last round in which the client took part. Before the client's first round it is the
   received model; then the term is log 2 and has no gradient.
3. Both models compute as in evaluation, with their running statistics and without dropout.

Defaults: from the paper's CIFAR-10, 100 rounds with 10 clients: a learning rate of 0.01, momentum 0.9, weight decay 1e-5,
batches of 64, 10 epochs, a temperature of 0.5. mu is 1 as for CIFAR-100 and Tiny-ImageNet; the example of the authors' code
for CIFAR-10 has 5.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.func import functional_call

from algorithms import fedavg
from helpers import Round, aggregate, download, replace_rows, shared_model, train
from options import Number, flag

private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(fedavg.Options):
    lr: float = 0.01
    epoch_per_round: int = 10
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 1e-5
    mu: float = flag(1.0, Number(float, least=0), "weight of the contrastive term; 0 is FedAvg")
    temperature: float = flag(0.5, Number(float, above=0), "temperature of the contrastive term; smaller is sharper")


def loss(model, batch, context, options):
    features, logits = model(batch.x)  # [B, D], [B, C]
    s_glob, s_prev = (F.cosine_similarity(features, features_of(model, row, batch.x)) for row in context)  # [B]
    contrast = F.softplus((s_prev - s_glob) / options.temperature).mean()  # -log(e^g / (e^g + e^p)) = log(1 + e^(p - g))
    return F.cross_entropy(logits, batch.y) + options.mu * contrast


@torch.no_grad()
def features_of(model, weights, x):
    """Return the features [B, D] of the same architecture with other weights, as in evaluation.

    The model does not change.
    """
    model.eval()
    features, _ = functional_call(model, weights, (x,))
    model.train()
    return features


def start(federation, options):
    return {**fedavg.start(federation, options), "previous": {}}


def communicate(federation, state, options):
    clients = federation.sample()
    weights = download(federation, state, clients)
    previous = [state["previous"].get(k, row) for k, row in zip(clients, weights, strict=True)]
    trained = train(federation, clients, weights, loss, options, context=list(zip(weights, previous, strict=True)))
    state["previous"] = replace_rows(state["previous"], clients, trained.weights)
    aggregate(federation, state, clients, trained.weights)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
