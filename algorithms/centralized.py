"""Centralized: clients send their raw data once, and one model learns from all data.

The upper reference line. Before round 1 every client sends all its training examples to the server, and the wire counts
them; after that nothing is sent. A round is `--epoch_per_round` epochs (or `--local_steps`) over the pooled data. The server
evaluates the model; sending the model back to the clients is not counted.

Defaults: chosen by Chorus, shared by all methods: Adam with a learning rate of 0.001, batches of 32, one epoch a round.
"""

from dataclasses import dataclass

import torch

import options
from helpers import Round, cross_entropy, model_of, train

idle = True
uploads = {"examples": None}


@dataclass(frozen=True)
class Options(options.Options):
    pass


loss = cross_entropy


def start(federation, options):
    everyone = federation.clients
    sent = federation.wire.up("examples", [federation.examples(federation.shares[k]) for k in everyone], everyone)
    pooled = torch.cat([examples.indices for examples in sent])
    return {"pooled": pooled, "weights": federation.initial(), "memory": None}


def communicate(federation, state, options):
    server = federation.server(state["pooled"])
    trained = train(server, [0], [state["weights"]], loss, options, memory=[state["memory"]])
    (state["weights"],), (state["memory"],) = trained.weights, trained.memory
    return Round([], trained.loss, {"global": model_of(federation, state["weights"])})
