"""FedProto: the nearest class prototype decides; sends mean features both ways.

Y. Tan, G. Long, L. Liu, T. Zhou, Q. Lu, J. Jiang, C. Zhang: FedProto: Federated Prototype Learning across Heterogeneous
Clients, AAAI 2022, Algorithm 1. A prototype is the mean feature of a class. The headline answer is "prototypes", the class
of the nearest prototype; "personal" is the prediction of the client's network.

A new client (`--new_clients`) receives no model.

Differences from the paper:
1. A global prototype is the mean over all examples of its class, so counts travel too. Equation (6) has a further factor 1 /
   |N_j|, which would shrink it towards 0 as more clients have the class; the authors' code takes the plain mean of means.
2. The distance is the mean of squares over the D features and the batch, as in the code; the text sums distances.
3. A client sends the means of its features after the local epochs, in evaluation mode.
4. A class that no client has sent has no loss term, and is further from every image than all other classes.
5. An optimizer's momentum stays with its client from round to round; the authors' code has a new optimizer in each round.
6. With `--participation` below 1 the server keeps the last prototypes of absent clients; it sends prototypes to the clients
   of the round.

Defaults: from the authors' code on MNIST, 100 rounds with 20 clients of about 3 classes: a learning rate of 0.01, momentum
0.5, batches of 4, weight 1.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

import models
import options
from helpers import ModelOf, Round, average, model_of, outputs, own_models, replace_rows, select_rows, sent_means, train_own
from models import NearestPrototype
from options import Number, flag

mixed = same_features = stale = private_steps = True
new_clients = None
uploads = {"prototypes": "counts"}
class_means = {"prototypes": 1}


@dataclass(frozen=True)
class Options(options.Options):
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.5
    batch_size: int = 4
    lambda_proto: float = flag(1.0, Number(float, least=0), "weight of the distance to the global prototypes; 0 is none")


def loss(model, batch, context, options):
    features, logits = model(batch.x)  # [B, D], [B, C]
    prototypes, is_held = context["prototypes"][batch.y], context["held"][batch.y]  # [B, D], [B]
    distance = (is_held.unsqueeze(1) * (features - prototypes).square()).mean()
    return F.cross_entropy(logits, batch.y) + options.lambda_proto * distance


def start(federation, options):
    own, n_classes = own_models(federation), len(federation.data.classes)
    features = torch.zeros(n_classes, federation.skeletons[0].classifier.in_features)
    no_prototypes = {
        "prototypes": features.to(federation.device, federation.dtype),
        "held": torch.zeros(n_classes, dtype=torch.bool, device=federation.device),
    }
    return {**own, "sent": [None for _ in federation.clients], "known": [no_prototypes for _ in federation.clients]}


def communicate(federation, state, options):
    clients = federation.sample()
    losses = train_own(federation, clients, state, loss, options, select_rows(state["known"], clients))
    means = federation.map_clients(partial(represent, options=options), clients, select_rows(state["weights"], clients))
    means = federation.wire.up("prototypes", means, clients)
    state["sent"] = replace_rows(state["sent"], clients, means)
    received = federation.wire.broadcast("prototypes", aggregated([row for row in state["sent"] if row]), clients)
    state["known"] = replace_rows(state["known"], clients, received)
    weights, known = state["weights"], state["known"]
    nearest = ModelOf(lambda k: {**weights[k], **known[k]}, partial(nearest_prototype, federation))
    return Round(clients, losses, {"prototypes": nearest, "personal": model_of(federation, weights)})


def nearest_prototype(federation, k, row):
    """Return client k's network with a classification by the prototypes that the client has received."""
    return NearestPrototype(federation.model(k, row), row["prototypes"], row["held"]).eval()


def represent(federation, k, weights, options):
    """Return client k's mean feature of each class [C, D], and class counts [C]."""
    features, _, y = outputs(federation, k, weights)
    means, counts = sent_means(federation, k, features, y, options)
    return {"means": means, "counts": counts}


def aggregated(sent):
    """Return the global prototypes, and which classes any client has."""
    means = average([row["means"] for row in sent], [row["counts"].unsqueeze(1) for row in sent])
    return {"prototypes": means, "held": sum(row["counts"] for row in sent) > 0}


def rebuild(options, inputs, client, answer):
    """Return the network of a saved model: `options` and `inputs` as in a run's `config.json`."""
    network, (_, n_classes) = models.of_client(options, inputs, client), inputs
    held = torch.zeros(n_classes, dtype=torch.bool)
    return network if answer == "personal" else NearestPrototype(network, network.classifier.weight * 0, held)
