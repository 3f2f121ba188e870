"""FD as in CFKD's comparison: mean logits and a squared loss; sends logits only.

The comparison of CFKD's authors (Berdoz et al. 2022, `--preset fd` of their code). `--fd_variant mse_logits`, or
`--as_published`, which is the same:
1. Clients share mean raw logits, not softmax outputs.
2. The mean is over all examples of a class of all clients, the receiver's own included: weighted by class counts, which
   travel too.
3. The loss is CE + lambda_kd * the mean over batch and classes of (logits - mean)^2.
4. Untrained models send before round 1, so that round 1 has teachers.
"""

from dataclasses import dataclass

import torch.nn.functional as F

from algorithms import fd
from helpers import Round, average, class_means, model_of, outputs, own_models, replace_rows, select_rows, train_own
from options import Choice, Number, Requires, flag


@dataclass(frozen=True)
class Options(fd.Options):
    fd_variant: str = flag(
        "leave_one_out",
        Choice(("leave_one_out", "mse_logits")),
        "variant: of Jeong et al., or of the comparison in the CFKD paper",
    )
    fd_gamma: float = flag(
        1.0,
        Number(float, least=0),
        "weight of distillation relative to cross-entropy; 0 is learning alone",
        Requires("--fd_variant leave_one_out", lambda o: o.fd_variant == "leave_one_out"),
    )
    lambda_kd: float = flag(
        10.0,
        Number(float, least=0),
        "weight of the distance between logits; 0 is learning alone",
        Requires("--fd_variant mse_logits", lambda o: o.fd_variant == "mse_logits"),
    )
    as_published: bool = flag(
        False, None, "follow the CFKD paper: --fd_variant mse_logits", implies={"fd_variant": "mse_logits"}
    )


def loss(model, batch, context, options):
    _, logits = model(batch.x)
    means, is_held = context["means"][batch.y], context["held"][batch.y]  # [B, C], [B]
    distance = (is_held.unsqueeze(1) * (logits - means).square()).mean()
    return F.cross_entropy(logits, batch.y) + options.lambda_kd * distance


def start(federation, options):
    own = own_models(federation)
    return {**own, "sent": upload(federation, federation.clients, own["weights"])}


def communicate(federation, state, options):
    clients = federation.sample()
    context = federation.wire.broadcast("mean outputs", pooled(state["sent"]), clients)
    losses = train_own(federation, clients, state, loss, options, context)
    state["sent"] = replace_rows(state["sent"], clients, upload(federation, clients, select_rows(state["weights"], clients)))
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def pooled(sent):
    """Return the mean logits of each class over all examples of all clients: means [C, C], held [C]."""
    counts = [row["counts"] for row in sent]
    means = average([row["means"] for row in sent], [n.unsqueeze(1) for n in counts])
    return {"means": means, "held": sum(counts) > 0}


def upload(federation, clients, weights):
    """Return what the server receives from these clients: rows of `represent`."""
    return federation.wire.up("mean outputs", federation.map_clients(represent, clients, weights), clients)


def represent(federation, k, weights):
    """Return client k's message: its mean logits for each class [C, C], and class counts int64 [C]."""
    _, logits, y = outputs(federation, k, weights)
    means, counts = class_means(logits, y, len(federation.data.classes))
    return {"means": means, "counts": counts}
