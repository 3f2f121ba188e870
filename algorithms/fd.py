"""FD: clients learn from the others' class mean predictions; sends these only.

E. Jeong, S. Oh, H. Kim, J. Park, M. Bennis, S.-L. Kim: Communication-Efficient On-Device Machine Learning: Federated
Distillation and Augmentation under Non-IID Private Data, 2018 (arXiv 1811.11479), Algorithm 1.

A new client (`--new_clients`) receives no model.

Differences from the paper:
1. A client's mean output for a class is that of its model after the local epochs, over its training share; the paper keeps
   a running mean during the epochs. The message has the same size; this takes one more forward pass and includes no outputs
   of earlier weights.
2. The leave-one-out mean is over the other clients that have the class; the paper divides by all of them, M - 1, since there
   every client has every class. A class that no other client has gets no target: for this class the client learns alone. So
   a client also sends which classes it has, and receives which classes have a target.
3. Federated augmentation (FAug, a conditional GAN at the server) is not part of it.
4. Models stay with their clients: each client starts from its own weights and keeps its optimizer's memory.
5. With `--participation` below 1 the outputs of absent clients are the last ones that they sent; in the paper every client
   participates.

The variant with which CFKD was compared is in `algorithms/published/fd.py`.

Defaults: chosen by Chorus: a weight of 1 and the shared defaults. The settings of the paper are unknown to us.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

import options
from helpers import Round, model_of, outputs, own_models, replace_rows, select_rows, sent_means, train_own
from options import Number, flag

mixed = stale = private_steps = True
new_clients = None
uploads = {"mean outputs": ""}
class_means = {"mean outputs": 1}


@dataclass(frozen=True)
class Options(options.Options):
    fd_gamma: float = flag(
        1.0, Number(float, least=0), "weight of distillation relative to cross-entropy; 0 is learning alone"
    )


def loss(model, batch, context, options):
    _, logits = model(batch.x)
    target, is_held = context["targets"][batch.y], context["held"][batch.y]  # [B, C], [B]
    distillation = F.cross_entropy(logits, target, reduction="none")
    return F.cross_entropy(logits, batch.y) + options.fd_gamma * (is_held * distillation).mean()


def start(federation, options):
    n_classes = len(federation.data.classes)
    no_outputs = {
        "means": torch.zeros(n_classes, n_classes, dtype=federation.dtype, device=federation.device),
        "held": torch.zeros(n_classes, dtype=torch.bool, device=federation.device),
    }
    return {**own_models(federation), "sent": [no_outputs for _ in federation.clients]}


def communicate(federation, state, options):
    clients = federation.sample()
    context = download(federation, state["sent"], clients, options)
    losses = train_own(federation, clients, state, loss, options, context)
    sent = upload(federation, clients, select_rows(state["weights"], clients), options)
    state["sent"] = replace_rows(state["sent"], clients, sent)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def leave_one_out(sent, clients):
    """Return for each client the mean over all *other* clients that have a class: targets [C, C], held [C].

    `held` says whether any other client has the class. In a client's message, the mean of an absent class is 0.
    """
    total = total_of(sent)
    return [without(own, total) for own in select_rows(sent, clients)]


def total_of(sent):
    """Return the sum over all clients, and how many of them have each class, int64 [C]."""
    return {"means": sum(row["means"] for row in sent), "held": sum(row["held"].long() for row in sent)}


def without(own, total):
    """Return the mean over the clients of a total without one of them."""
    n = total["held"] - own["held"].long()
    return {"targets": (total["means"] - own["means"]) / n.clamp(min=1).unsqueeze(1), "held": n > 0}


def download(federation, sent, clients, options):
    """Return what each client learns from.

    A server with secure aggregation knows the total alone, and each client subtracts its own outputs.
    """
    if options.secure_aggregation:
        totals = federation.wire.broadcast("mean outputs", total_of(sent), clients)
        return list(map(without, select_rows(sent, clients), totals))
    return federation.wire.down("mean outputs", leave_one_out(sent, clients), clients)


def upload(federation, clients, weights, options):
    """Return what the server receives from these clients: rows of `represent`."""
    rows = federation.map_clients(partial(represent, options=options), clients, weights)
    return federation.wire.up("mean outputs", rows, clients)


def represent(federation, k, weights, options):
    """Return client k's message: its mean softmax output for each class [C, C], and which classes it has, bool [C]."""
    _, logits, y = outputs(federation, k, weights)
    means, counts = sent_means(federation, k, logits.softmax(1), y, options)
    return {"means": means, "held": counts > 0}
