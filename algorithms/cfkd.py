"""CFKD: clients learn from others' class mean features; sends features only.

F. Berdoz, A. Singh, M. Jaggi, R. Raskar: Scalable Collaborative Learning via Representation Sharing, 2022 (arXiv
2211.10943). CFKD is the name in its code: contrastive and feature-based knowledge distillation. A client sends the mean
feature of each class and observations: averages of a few features of a class. A client receives the global class means and
the observations of another client.

A new client (`--new_clients`) receives no model.

Differences from the paper:
1. Means over the D features and over the C classes, as in the reference code and its published weights; the paper sums.
2. The global mean of a class is the mean over all its examples, as in the code (the paper's text: the mean of the clients'
   means). So clients also send their class counts.
3. Each client receives one observation per round (M_up = M_down = 1, as in all of the paper's experiments), from a random
   *other* client.
4. A class that no client has sent, or that the observed client does not have, has weight 0 in the loss.
5. With `--participation` below 1 the server keeps the last features of absent clients. The code's random draw:
   `published/cfkd.py`.

Defaults: from the authors' code and experiments, 100 rounds of one epoch: Adam with a learning rate of 0.001 and batches of
32 (the shared defaults of Chorus are the same), lambda_kd, lambda_disc and n_avg.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

import options
from helpers import Round, average, model_of, outputs, own_models, replace_rows, select_rows, sent_means, train_own
from options import Number, flag

mixed = same_features = private_steps = True
new_clients = None
uploads = {"mean features": None}
class_means = {"mean features": 2}


@dataclass(frozen=True)
class Options(options.Options):
    lambda_kd: float = flag(10.0, Number(float, least=0), "weight of feature distillation; 0 is none")
    lambda_disc: float = flag(1.0, Number(float, least=0), "weight of the contrastive discriminator loss; 0 is none")
    n_avg: int = flag(
        10, Number(int, least=1), "number of examples averaged into one shared class mean; more examples reveal less of each"
    )


def loss(model, batch, context, options):
    features, logits = model(batch.x)  # [B, D], [B, C]
    means, is_held = context["means"][batch.y], context["held"][batch.y]  # [B, D], [B]
    distillation = (is_held.unsqueeze(1) * (features - means).square()).mean()
    # log h[b, c] = log <softmax(logits_b), softmax(tau(observation_c))>; the classifier learns from both sides
    predicted, observed = logits.log_softmax(1), model.classifier(context["observation"]).log_softmax(1)
    log_same = torch.logsumexp(predicted.unsqueeze(1) + observed.unsqueeze(0), dim=2)  # [B, C]
    log_other = torch.log1p(-log_same.exp().clamp(max=1 - torch.finfo(predicted.dtype).eps))
    is_same = batch.y.unsqueeze(1) == torch.arange(len(observed), device=batch.y.device)
    discrimination = -(context["observed"] * torch.where(is_same, log_same, log_other)).mean()
    return F.cross_entropy(logits, batch.y) + options.lambda_kd * distillation + options.lambda_disc * discrimination


def start(federation, options):
    own = own_models(federation)  # in round 1 the features of the untrained models teach
    return {**own, "sent": upload(federation, federation.clients, own["weights"], options)}


def communicate(federation, state, options):
    clients = federation.sample()
    context = federation.wire.down("mean features", teachers(federation, state["sent"], clients), clients)
    losses = train_own(federation, clients, state, loss, options, context)
    sent = upload(federation, clients, select_rows(state["weights"], clients), options)
    state["sent"] = replace_rows(state["sent"], clients, sent)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def teachers(federation, sent, clients):
    """Return the message to each client: the global class means, and the observation of another client drawn at random."""
    means = average([row["means"] for row in sent], [row["counts"].unsqueeze(1) for row in sent])  # [C, D]
    held = sum(row["counts"] for row in sent) > 0  # [C]
    rows = []
    for k in clients:
        others = sent[:k] + sent[k + 1 :] or sent
        other = others[federation.stream("teacher", k).integers(len(others))]
        rows.append({"means": means, "held": held, "observation": other["observation"], "observed": other["counts"] > 0})
    return rows


def upload(federation, clients, weights, options):
    """Return what the server receives from these clients: rows of `represent`."""
    rows = federation.map_clients(partial(represent, options=options), clients, weights)
    return federation.wire.up("mean features", rows, clients)


def represent(federation, k, weights, options):
    """Return client k's class mean features [C, D], class counts [C], and an observation [C, D] of n_avg of each class."""
    features, _, y = outputs(federation, k, weights)
    selected = few_of_each(y, options.n_avg, federation.stream("observation", k))
    means, counts = sent_means(federation, k, features, y, options)
    observation, _ = sent_means(federation, k, features[selected], y[selected], options, "observation")
    return {"means": means, "counts": counts, "observation": observation}


def few_of_each(y, n, stream):
    """Return the positions of n random examples of each class (all of a smaller class), without replacement.

    y int64 [m] -> [<= n C].
    """
    order = torch.from_numpy(stream.permutation(len(y))).to(y.device)
    rank_in_class = F.one_hot(y[order]).cumsum(0).gather(1, y[order].unsqueeze(1)).squeeze(1)  # 1, 2, ... within the class
    return order[rank_in_class <= n]
