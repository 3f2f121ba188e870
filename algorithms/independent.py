"""Independent: every client learns alone from its own data; sends nothing.

The lower reference line, also known as local-only training. Each client starts from its own weights and keeps its
optimizer's memory from round to round, so that `--rounds 100` is one training of 100 epochs.

A new client (`--new_clients`) receives no model.

Defaults: chosen by Chorus, shared by all methods: Adam with a learning rate of 0.001, batches of 32, one epoch a round.
"""

from dataclasses import dataclass

import options
from helpers import Round, cross_entropy, model_of, own_models, train_own

mixed = private_steps = True
new_clients = None
uploads = {}


@dataclass(frozen=True)
class Options(options.Options):
    pass


loss = cross_entropy


def start(federation, options):
    return own_models(federation)


def communicate(federation, state, options):
    clients = federation.sample()
    losses = train_own(federation, clients, state, loss, options)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])})
