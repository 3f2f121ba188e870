"""Mean features by class, and a few averaged features of one other client: representations are shared, models are not.

F. Berdoz, A. Singh, M. Jaggi, R. Raskar: Scalable Collaborative Learning via Representation Sharing, 2022 (arXiv
2211.10943); called CFKD, contrastive and feature-based knowledge distillation, in its code.

Differences from the paper:
1. The weights are scaled as in the reference code, whose published numbers they belong to: the squared distance is a mean
   over the D features and the contrastive loss a mean over the C classes, where the paper sums. lambda_kd = 10 at D = 84
   is 0.119 for a sum.
2. The global mean of a class is that of all its examples, client means weighted by their counts (as in the code; the text
   says the mean of the clients' means, the same for equal counts). Therefore the counts travel too.
3. One observation a client and round (M_up = M_down = 1, as in all of the paper's experiments).
4. The observation comes from a random *other* client; the code's draw includes the client itself.
5. A class that nobody has sent, or that the observed client does not hold, has weight 0 in the loss; the code reads
   memory that was never written.
6. With `--participation` below 1 the server keeps what it last received of the others.

The reference code's own draw is in `algorithms/published/cfkd.py`.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

import options
from helpers import Round, average, class_means, model_of, outputs, own_models, pick, put, train_own
from options import Number, flag

mixed = True
same_features = True


@dataclass(frozen=True)
class Options(options.Options):
    lambda_kd: float = flag(10.0, Number(float, least=0), "weight of the feature distillation; 0 is none")
    lambda_disc: float = flag(1.0, Number(float, least=0), "weight of the contrastive discriminator; 0 is none")
    n_avg: int = flag(10, Number(int, least=1), "examples averaged into an observation of a class; more reveal less of each")


def loss(model, batch, given, options):
    features, logits = model(batch.x)  # [B, D], [B, C]
    means, held = given["means"][batch.y], given["held"][batch.y]  # [B, D], [B]
    distillation = (held.unsqueeze(1) * (features - means).square()).mean()

    # would two clients give the same label? log h[b, c] = log <softmax(logits_b), softmax(tau(observation_c))>; in logs,
    # for h is as small as 1e-38. The classifier learns through both of its arguments.
    said, observed = logits.log_softmax(1), model.classifier(given["observation"]).log_softmax(1)
    log_same = torch.logsumexp(said.unsqueeze(1) + observed.unsqueeze(0), dim=2)  # [B, C]
    log_other = torch.log1p(-log_same.exp().clamp(max=1 - torch.finfo(said.dtype).eps))
    is_same = F.one_hot(batch.y, len(observed)).bool()
    discrimination = -(given["observed"] * torch.where(is_same, log_same, log_other)).mean()
    return F.cross_entropy(logits, batch.y) + options.lambda_kd * distillation + options.lambda_disc * discrimination


def start(federation, options):
    own = own_models(federation)
    return {
        **own,
        "sent": upload(federation, federation.clients, own["weights"], options),
    }  # untrained: round 1's teachers


def communicate(federation, state, options):
    clients = federation.sample()
    given = federation.wire.down("mean features", teachers(federation, state["sent"], clients), clients)
    losses = train_own(federation, clients, state, loss, options, given)
    state["sent"] = put(state["sent"], clients, upload(federation, clients, pick(state["weights"], clients), options))
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def teachers(federation, sent, clients):
    """What the server sends to each: the global class means, and the observation of another client drawn at random."""
    means = average([row["means"] for row in sent], [row["counts"].unsqueeze(1) for row in sent])  # [C, D]
    held = sum(row["counts"] for row in sent) > 0  # [C]
    drawn = [sent[another(federation, k)] for k in clients]
    return [
        {"means": means, "held": held, "observation": row["observation"], "observed": row["counts"] > 0} for row in drawn
    ]


def another(federation, k):
    """A client other than k, uniformly; k itself where there is no other."""
    others = [j for j in federation.clients if j != k] or [k]
    return others[federation.stream("teacher", k).integers(len(others))]


def upload(federation, clients, weights, options):
    rows = federation.each(partial(represent, n_avg=options.n_avg), clients, weights)
    return federation.wire.up("mean features", rows, clients)


def represent(federation, k, weights, n_avg):
    """What client k sends: the mean feature of each class [C, D], class counts [C], and an observation [C, D], the mean of
    at most n_avg features of each class drawn without replacement."""
    features, _, y = outputs(federation, k, weights)
    drawn = few_of_each(y, n_avg, federation.stream("observation", k))
    means, counts = class_means(features, y, len(federation.data.classes))
    observation, _ = class_means(features[drawn], y[drawn], len(counts))
    return {"means": means, "counts": counts, "observation": observation}


def few_of_each(y, n, stream):
    """Positions of at most n examples of each class, drawn without replacement: y int64 [m] -> int64 [<= n C]."""
    order = stream.permutation(len(y))
    label = y.cpu().numpy()[order]
    by_class = np.argsort(label, kind="stable")  # each class in its random order
    rank = np.arange(len(y)) - np.searchsorted(label[by_class], label[by_class])
    return torch.from_numpy(order[by_class[rank < n]]).to(y.device)
