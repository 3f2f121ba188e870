"""Mean features by class, as the CFKD authors' code draws them (Berdoz et al. 2022).

`--as_published`:
1. The client whose observation teaches is drawn from *all* clients, the receiver included.
2. Nothing is masked. A class that the observed client does not hold has an observation that the code never writes, so
   that its loss depends on what the memory held before; here it is 0.
Kept: one observation is sent a client and round. The code draws the examples of an observation anew for every receiver.
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
    as_published: bool = flag(False, None, "as in the CFKD code: a client may be its own teacher, no class is masked")


def communicate(federation, state, options):
    clients = federation.sample()
    given = federation.wire.down("mean features", teachers(federation, state["sent"], clients), clients)
    losses = train_own(federation, clients, state, loss, options, given)
    sent = upload(federation, clients, select_rows(state["weights"], clients), options)
    state["sent"] = replace_rows(state["sent"], clients, sent)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})


def teachers(federation, sent, clients):
    """What the server sends to each: the global class means, and the observation of any client drawn at random."""
    every = torch.ones_like(sent[0]["counts"], dtype=torch.bool)
    drawn = [sent[federation.stream("teacher", k).integers(len(sent))] for k in clients]
    correct = cfkd.teachers(federation, sent, clients)
    return [
        {**row, "held": every, "observation": anyone["observation"], "observed": every}
        for row, anyone in zip(correct, drawn, strict=True)
    ]
