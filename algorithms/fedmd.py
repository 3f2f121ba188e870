"""FedMD: clients learn from mean logits of public images; sends logits both ways.

D. Li, J. Wang: FedMD: Heterogenous Federated Learning via Model Distillation, 2019 (arXiv 1910.03581), Algorithm 1. Every
client first trains on the labelled public images and then on its own (transfer learning). In a round a client sends its
logits of some public images (communicate), receives the mean logits (aggregate, distribute), trains towards them (digest)
and trains on its own images again (revisit). Clients may have different architectures.

A new client (`--new_clients`) receives no model.

Differences from the paper:
1. Both parts of the transfer learning take `--pretrain_epochs`; the authors stop by a validation set, after at most 20 and
   25 epochs.
2. With `--participation` below 1 the mean is over the clients of the round; in the paper every client participates.
3. The public images are sent to every client once, before round 1, and counted. Every party draws the public images of a
   round from the run's seed.
4. Both parts of the transfer learning have batches of `--batch_size`; the authors' code has 128 on the public images and 32
   on a client's own, and 5 only after that.
5. The digest starts with a new optimizer in each round; the optimizer of a client's own images keeps its memory.

Defaults: from the authors' code on CIFAR, 20 rounds with 10 clients of 3 images a class: 4 epochs in batches of 5, 5,000
public images in batches of 256; Adam with a learning rate of 0.001. The digest's mean absolute difference of logits and the
20 epochs of pretraining are also the code's.
"""

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import from_numpy

import options
from errors import UserError
from helpers import Round, cross_entropy, mean, model_of, outputs, own_models, replace_rows, select_rows, train, train_own
from options import Number, flag

mixed = public = True
new_clients = None
uploads = {"logits": ""}


@dataclass(frozen=True)
class Options(options.Options):
    epoch_per_round: int = 4
    batch_size: int = 5
    public_share: float = 0.1
    pretrain_epochs: int = flag(
        20,
        Number(int, least=0),
        "epochs of pretraining before round 1, first on the public images with labels, then on the client's images",
    )
    alignment: int = flag(
        5000, Number(int, least=1), "number of public images per round, drawn again each round; at most all"
    )
    digest_epochs: int = flag(
        1, Number(int, least=0), "number of distillation epochs per round, towards the mean logits; 0 is learning alone"
    )
    digest_batch_size: int = flag(256, Number(int, least=1), "number of public images per batch")


def check(options, data, n_train):
    """Return "". Raise UserError if pretraining needs labels that the public images do not have."""
    if options.pretrain_epochs and data.n_public and data.y[data.public].min() < 0:
        raise UserError(
            f"--public_dataset {options.public_dataset}: its classes differ from those of {data.name}, so clients cannot "
            "pretrain on its labels; add --pretrain_epochs 0"
        )
    return ""


loss = cross_entropy


def digestion(model, batch, context, options):
    """Return the mean absolute difference from `context`, the mean logits [n, C] of the public images."""
    _, logits = model(batch.x)
    return F.l1_loss(logits, context[batch.index])


def start(federation, options):
    everyone, state = federation.clients, own_models(federation)
    federation.wire.broadcast("public images", federation.examples(federation.public), everyone)
    pretraining = replace(options, epoch_per_round=options.pretrain_epochs, local_steps=0)
    state["weights"] = train(federation.on(federation.public), everyone, state["weights"], loss, pretraining).weights
    train_own(federation, everyone, state, loss, pretraining)
    return state


def communicate(federation, state, options):
    clients = federation.sample()
    selected = from_numpy(federation.stream("alignment").permutation(len(federation.public))[: options.alignment])
    public = federation.on(federation.public[selected.to(federation.device)])
    weights = select_rows(state["weights"], clients)
    logits = federation.wire.up("logits", logits_of(public, clients, weights), clients)
    mean_logits = federation.wire.broadcast("mean logits", mean(logits), clients)
    digest_batches = {"epoch_per_round": options.digest_epochs, "local_steps": 0, "batch_size": options.digest_batch_size}
    digest_options = replace(options, **digest_batches)
    digested = train(public, clients, weights, digestion, digest_options, mean_logits)
    state["weights"] = replace_rows(state["weights"], clients, digested.weights)
    losses = train_own(federation, clients, state, loss, options)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def logits_of(public, clients, weights):
    """Return the logits [n, C] of each of these clients on the public images."""
    return [result.logits for result in public.map_clients(outputs, clients, weights)]
