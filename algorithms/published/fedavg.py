"""FedAvg with the quirks of two reference systems; sends weights both ways.

`--as_published` is "Federated Learning - Your Data Stays With You!" (S. Agarwal, 2021):
1. `--select fixed`: the clients are sampled once, before round 1, and the others' data are never used.
2. `--aggregate all`: the average is over all K models. The models of clients that were not selected are the server's, so
   that a fraction 1 - C of every step is undone. The server knows these models: no weights are sent for them.
3. `--keep_optimizer`: a client's Adam keeps its moments although its weights are replaced.
4. The average is unweighted. (No separate flag.)
Left out: its accuracy, correct answers over the number of *batches*, a percentage only for batches of 100.

The FL baseline of CFKD's Table 1 (Berdoz et al. 2022, `--preset fl` of its code) is `--init independent
--keep_optimizer --optimizer adam`: in round 1 every client trains from its own weights, and the server averages networks
that have nothing in common yet.
"""

from dataclasses import dataclass

import torch

from algorithms import fedavg
from algorithms.fedavg import loss
from helpers import Round, average, download, keep_own, shared_model, train
from options import Choice, flag


@dataclass(frozen=True)
class Options(fedavg.Options):
    init: str = flag(
        "shared",
        Choice(("shared", "independent")),
        "initialization: one model for all clients, or a different one per client",
    )
    keep_optimizer: bool = flag(False, None, "keep the state of the clients' optimizers between rounds")
    aggregate: str = flag(
        "selected", Choice(("selected", "all")), "models to average: of the participating clients, or of all K clients"
    )
    select: str = flag(
        "per_round", Choice(("per_round", "fixed")), "client sampling: in every round, or once for all rounds"
    )
    as_published: bool = flag(
        False,
        None,
        'follow "Your Data Stays With You!" (Agarwal 2021): --aggregate all --select fixed --keep_optimizer, and an '
        "unweighted average",
        implies={"aggregate": "all", "select": "fixed", "keep_optimizer": True, "init": "shared", "bn": "average"},
    )


def start(federation, options):
    common = fedavg.start(federation, options)
    return {
        **common,
        "server": common["server"] if options.init == "shared" else None,
        "memory": {},  # {client: its optimizer's memory} for clients that have taken part
    }


def sample(federation, options):
    """Return the clients of a round."""
    return (federation.at(0) if options.select == "fixed" else federation).sample()


def communicate(federation, state, options):
    participants = clients = sample(federation, options)
    is_independent = state["server"] is None  # round 1 of --init independent
    weights = [federation.initial(k) for k in clients] if is_independent else download(federation, state, clients)
    memory = [state["memory"].get(k) for k in clients] if options.keep_optimizer else None
    trained = train(federation, clients, weights, loss, options, memory=memory)
    if options.keep_optimizer:
        state["memory"] = {**state["memory"], **dict(zip(clients, trained.memory, strict=True))}
    weights = federation.wire.up("weights", keep_own(state, clients, trained.weights), clients)
    if options.aggregate == "all":
        absent = [k for k in federation.clients if k not in clients]
        if is_independent:  # the server has no model yet that could replace a failed client's
            absent = [k for k in absent if k not in federation.absent]
            initial = keep_own(state, absent, [federation.initial(k) for k in absent])
            weights += federation.wire.up("weights", initial, absent)
        else:
            weights += [state["server"]] * len(absent)
        clients = [*clients, *absent]
    if options.as_published:
        n = [torch.tensor(1)] * len(clients)
    else:
        n = federation.wire.up("n_k", federation.sizes(clients), clients)
    state["server"] = average(weights, n)
    return Round(participants, trained.loss, shared_model(federation, state), local_weights=trained.weights)
