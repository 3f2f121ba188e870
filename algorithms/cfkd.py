"""Mean features by class, and a few averaged ones of another client; no model is sent.

F. Berdoz, A. Singh, M. Jaggi, R. Raskar: Scalable Collaborative Learning via Representation Sharing, 2022 (arXiv
2211.10943); CFKD, contrastive and feature-based knowledge distillation, in its code.

Differences from the paper:
1. Means over the D features and over the C classes, as in the reference code and its published weights; the paper sums.
2. The global mean of a class is that of all its examples, as in the code (the text: the mean of means): counts travel too.
3. One observation a client and round (M_up = M_down = 1, as in all of the paper's experiments), of a random *other* client.
4. A class that nobody has sent, or that the observed client does not hold, has weight 0 in the loss.
5. With `--participation` below 1 the server keeps what the others sent last. The code's draw: `published/cfkd.py`.

Defaults: of the authors' code and experiments, 100 rounds of one epoch: the shared training (Adam, a rate of 0.001, batches
of 32), both weights and n_avg.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

import options
from helpers import Round, average, class_means, model_of, outputs, own_models, replace_rows, select_rows, train_own
from options import Number, flag

mixed = same_features = True


@dataclass(frozen=True)
class Options(options.Options):
    lambda_kd: float = flag(10.0, Number(float, least=0), "weight of the feature distillation; 0 is none")
    lambda_disc: float = flag(1.0, Number(float, least=0), "weight of the contrastive discriminator; 0 is none")
    n_avg: int = flag(10, Number(int, least=1), "examples averaged into an observation of a class; more reveal less of each")


def loss(model, batch, context, options):
    features, logits = model(batch.x)  # [B, D], [B, C]
    means, held = context["means"][batch.y], context["held"][batch.y]  # [B, D], [B]
    distillation = (held.unsqueeze(1) * (features - means).square()).mean()
    # log h[b, c] = log <softmax(logits_b), softmax(tau(observation_c))>, which the classifier learns from on both sides
    said, observed = logits.log_softmax(1), model.classifier(context["observation"]).log_softmax(1)
    log_same = torch.logsumexp(said.unsqueeze(1) + observed.unsqueeze(0), dim=2)  # [B, C]
    log_other = torch.log1p(-log_same.exp().clamp(max=1 - torch.finfo(said.dtype).eps))
    is_same = F.one_hot(batch.y, len(observed)).bool()
    discrimination = -(context["observed"] * torch.where(is_same, log_same, log_other)).mean()
    return F.cross_entropy(logits, batch.y) + options.lambda_kd * distillation + options.lambda_disc * discrimination


def start(federation, options):
    own = own_models(federation)  # untrained, they teach in round 1
    return {**own, "sent": upload(federation, federation.clients, own["weights"], options)}


def communicate(federation, state, options):
    clients = federation.sample()
    given = federation.wire.down("mean features", teachers(federation, state["sent"], clients), clients)
    losses = train_own(federation, clients, state, loss, options, given)
    sent = upload(federation, clients, select_rows(state["weights"], clients), options)
    state["sent"] = replace_rows(state["sent"], clients, sent)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def teachers(federation, sent, clients):
    """What the server sends to each: the global class means, and the observation of another client drawn at random."""
    means = average([row["means"] for row in sent], [row["counts"].unsqueeze(1) for row in sent])  # [C, D]
    held = sum(row["counts"] for row in sent) > 0  # [C]
    rows = []
    for k in clients:
        others = sent[:k] + sent[k + 1 :] or sent
        other = others[federation.stream("teacher", k).integers(len(others))]
        rows.append({"means": means, "held": held, "observation": other["observation"], "observed": other["counts"] > 0})
    return rows


def upload(federation, clients, weights, options):
    """What the server receives of these clients: rows of `represent`."""
    rows = federation.map_clients(partial(represent, n_avg=options.n_avg), clients, weights)
    return federation.wire.up("mean features", rows, clients)


def represent(federation, k, weights, n_avg):
    """Client k's mean feature of each class [C, D], class counts [C], and an observation [C, D] of n_avg of each class."""
    features, _, y = outputs(federation, k, weights)
    few = few_of_each(y, n_avg, federation.stream("observation", k))
    means, counts = class_means(features, y, len(federation.data.classes))
    return {"means": means, "counts": counts, "observation": class_means(features[few], y[few], len(counts))[0]}


def few_of_each(y, n, stream):
    """Positions of n examples of each class (all of a smaller one), drawn without replacement: int64 [m] -> [<= n C]."""
    order = torch.from_numpy(stream.permutation(len(y))).to(y.device)
    nth = F.one_hot(y[order]).cumsum(0).gather(1, y[order].unsqueeze(1)).squeeze(1)  # 1, 2, ... within its class
    return order[nth <= n]
