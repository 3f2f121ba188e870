"""FedRep: clients train their own head, then the shared body; sends the body.

L. Collins, H. Hassani, A. Mokhtari, S. Shakkottai: Exploiting Shared Representations for Personalized Federated Learning,
ICML 2021, Algorithm 1. A client trains its own head on the received body, for `--head_epochs`; then it trains the body under
this head, for `--epoch_per_round`, and sends the body.

A new client (`--new_clients`) receives the body, and starts with the initial head.

Differences from the paper:
1. The average is weighted by n_k, which travels too; the paper's is unweighted.
2. The head is the classifier; all heads start equal, from the common start.
3. Head and body are trained in epochs; Algorithm 1 has tau steps of the head and one of the body. Both trainings start with
   new momentum, and have the same order of batches.
4. BatchNorm's running statistics belong to the body: they are averaged, and do not change while the head is trained (`--bn
   local`: its layers stay with the client).
5. The authors' code decays weights and not biases; here weight decay applies to all trained parameters.
6. A client that was never sampled uses the head of the common start; the authors' code trains heads before it tests.

Defaults: from the authors' code on CIFAR-10, 100 rounds with 10 of 100 clients of two classes: ten epochs of the head and
one of the body, learning rate 0.01, momentum 0.5, batches of 10, weight decay 1e-4.
"""

from dataclasses import dataclass, replace

import options
from helpers import Round, aggregate, cross_entropy, download, one_model, shared_model, train
from options import Number, flag

private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(options.Averaging):
    head_epochs: int = flag(
        10,
        Number(int, least=0),
        "number of local epochs of the head, before those of the body; 0 never trains the head, as in fedbabu",
    )
    batch_size: int = 10
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.5
    weight_decay: float = 1e-4


loss = cross_entropy


def start(federation, options):
    local = federation.names("bn") if options.bn == "local" else set()
    return one_model(federation, kept=federation.names("head") | local)


def communicate(federation, state, options):
    clients = federation.sample()
    weights = download(federation, state, clients)
    head_options = replace(options, epoch_per_round=options.head_epochs, local_steps=0)
    heads = train(federation, clients, weights, loss, head_options, only=federation.names("head"))
    bodies = train(federation, clients, heads.weights, loss, options, only=federation.names("body"))
    aggregate(federation, state, clients, bodies.weights)
    return Round(clients, bodies.loss, shared_model(federation, state), local_weights=bodies.weights)
