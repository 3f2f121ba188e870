"""Epidemic Learning: clients send weights to a few random peers, without a server.

M. de Vos, S. Farhadkhani, R. Guerraoui, A.-M. Kermarrec, R. Pires, R. Sharma: Epidemic Learning: Boosting Decentralized
Learning with Randomized Communication, NeurIPS 2023, Algorithm 1. `--peers local` is its EL-Local: each client draws
`--fanout` receivers, so that some clients receive more messages than others and some none. `oracle` is its EL-Oracle: all
clients are on a random regular graph of degree `--fanout` and send to their neighbours. With a fanout of K - 1 both are
dpsgd on a full graph.

A new client (`--new_clients`) receives no model.

Differences from the paper:
1. A client trains for local epochs in a round; the paper has one step (`--local_steps 1`). All clients train before any
   client sends.
2. If no regular graph of this degree exists (an odd fanout and an odd number of clients), the oracle's degree is one larger.
3. With `--participation` below 1 a round takes place among its clients. A client that fails (`--client_failure`) sends, and
   others send to it; but it receives nothing, and nobody receives what it sent.

Defaults: chosen by Chorus: the learning rate of `fedavg` and one epoch a round; the fanout of log2(K) is of the paper. The
rates of its experiments are unknown to us.
"""

from dataclasses import dataclass
from math import ceil, log2

import options
from helpers import Round, cross_entropy, mean, model_of, replace_rows, select_rows, train
from options import Choice, Number, flag

private_steps = True
new_clients = None


@dataclass(frozen=True)
class Options(options.Options):
    optimizer: str = "sgd"
    lr: float = 0.05
    peers: str = flag(
        "local",
        Choice(("local", "oracle")),
        "random communication: each client draws its receivers, or all clients use one random graph",
    )
    fanout: int | str = flag(
        "auto",
        Number(int, least=1, words=("auto",)),
        "number of receivers per client and round, at most all; auto is log2 of the participating clients, rounded up",
    )


loss = cross_entropy


def start(federation, options):
    weights = federation.initial()
    return {"weights": [weights for _ in federation.clients]}


def communicate(federation, state, options):
    clients = federation.sample()
    trained = train(federation, clients, select_rows(state["weights"], clients), loss, options)
    rows = dict(zip(clients, trained.weights, strict=True))
    sends = recipients(federation, federation.drawn(), options)
    edges = [(j, k) for j in clients for k in sends[j]]
    received = federation.wire.between("weights", [rows[j] for j, _ in edges], edges)
    rows_to_average = {k: [row] for k, row in rows.items()}  # a client's own weights, and those that it received
    for (_, k), row in zip(edges, received, strict=True):
        if k in rows_to_average:
            rows_to_average[k].append(row)
    state["weights"] = replace_rows(state["weights"], clients, [mean(rows_to_average[k]) for k in clients])
    return Round(clients, trained.loss, {"personal": model_of(federation, state["weights"])}, local_weights=trained.weights)


def recipients(federation, clients, options):
    """Return {client: the clients to which it sends in this round}, in order."""
    n = len(clients)
    requested = ceil(log2(n)) if options.fanout == "auto" else options.fanout
    fanout = min(requested, n - 1)
    if options.peers == "oracle":
        return of_oracle(federation, clients, fanout)
    recipients_of = {}
    for k in clients:
        others = [other for other in clients if other != k]
        recipients_of[k] = sorted(federation.stream("peers", k).choice(others, fanout, replace=False).tolist())
    return recipients_of


def of_oracle(federation, clients, fanout):
    """Return the neighbours of each client on a random regular graph."""
    import networkx as nx

    n, seed = len(clients), int(federation.stream("peers").integers(2**32))
    graph = nx.random_regular_graph(fanout + (fanout * n) % 2, n, seed=seed)
    return {k: sorted(clients[j] for j in graph[i]) for i, k in enumerate(clients)}
