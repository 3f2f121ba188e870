"""CFKD as in the authors' code: any client may be the teacher, no class is masked.

Berdoz et al. 2022. `--as_published`:
1. The client whose observation teaches is drawn from *all* clients, the receiver included.
2. Nothing is masked. A class that the observed client does not have has an observation that the code never writes, so that
   its loss depends on previous memory contents; here it is 0.
As here: one observation is sent per client and round. The code draws new examples of an observation for every receiver.
"""

from dataclasses import dataclass

import torch

from algorithms import cfkd
from algorithms.cfkd import loss, start, upload
from helpers import Round, model_of, replace_rows, select_rows, train_own
from options import flag

__all__ = ["loss", "start"]


@dataclass(frozen=True)
class Options(cfkd.Options):
    as_published: bool = flag(False, None, "follow the CFKD code: a client may be its own teacher, no class is masked")


def communicate(federation, state, options):
    clients = federation.sample()
    context = federation.wire.down("mean features", teachers(federation, state["sent"], clients), clients)
    losses = train_own(federation, clients, state, loss, options, context)
    sent = upload(federation, clients, select_rows(state["weights"], clients), options)
    state["sent"] = replace_rows(state["sent"], clients, sent)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def teachers(federation, sent, clients):
    """Return the message to each client: the global class means, and the observation of any client drawn at random."""
    all_classes = torch.ones_like(sent[0]["counts"], dtype=torch.bool)
    random_teachers = [sent[federation.stream("teacher", k).integers(len(sent))] for k in clients]
    rows = cfkd.teachers(federation, sent, clients)
    return [
        {**row, "held": all_classes, "observation": teacher["observation"], "observed": all_classes}
        for row, teacher in zip(rows, random_teachers, strict=True)
    ]
