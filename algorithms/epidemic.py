"""The model, in every round, to a few others that are drawn anew; there is no server.

M. de Vos, S. Farhadkhani, R. Guerraoui, A.-M. Kermarrec, R. Pires, R. Sharma: Epidemic Learning: Boosting Decentralized
Learning with Randomized Communication, NeurIPS 2023, Algorithm 1. `--peers local` is its EL-Local: each client sends to
`--fanout` others that it draws itself, so that some receive more and some nothing. `oracle` is its EL-Oracle: all are on a
random graph on which each has as many neighbours, and send to these. With a fanout of K - 1 both are dpsgd on a full graph.

Differences from the paper:
1. A client makes local epochs in a round; the paper has one step. All make them before anybody sends.
2. Where no graph has so many neighbours for everyone (K clients with an odd fanout, and K odd), the oracle's has one more.
3. With `--participation` below 1 a round is among its clients. One that fails (`--client_failure`) sends and is sent to; it
   does not receive, and nobody receives what it sent.

Defaults: Chorus's, the rate of `fedavg` and one epoch a round; the fanout of log2(K) is of the paper. The rates of its
experiments are unknown here.
"""

from dataclasses import dataclass
from math import ceil, log2

import options
from helpers import Round, cross_entropy, mean, model_of, replace_rows, select_rows, train
from options import Choice, Number, flag


@dataclass(frozen=True)
class Options(options.Options):
    optimizer: str = "sgd"
    lr: float = 0.05
    peers: str = flag("local", Choice(("local", "oracle")), "each client draws its receivers, or a graph is drawn for all")
    fanout: int | str = flag(
        "auto",
        Number(int, least=1, words=("auto",)),
        "to how many others a client sends in a round, at most all; auto is log2 of the clients of the round, rounded up",
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
    ways = [(j, k) for j in clients for k in sends[j]]
    received = federation.wire.between("weights", [rows[j] for j, _ in ways], ways)
    held = {k: [row] for k, row in rows.items()}  # what a client has to average: its own, and what it received
    for (_, k), row in zip(ways, received, strict=True):
        if k in held:
            held[k].append(row)
    state["weights"] = replace_rows(state["weights"], clients, [mean(held[k]) for k in clients])
    return Round(clients, trained.loss, {"personal": model_of(federation, state["weights"])}, local_weights=trained.weights)


def recipients(federation, clients, options):
    """{client: the others to whom it sends in this round}, in order."""
    n = len(clients)
    wanted = ceil(log2(n)) if options.fanout == "auto" else options.fanout
    fanout = min(wanted, n - 1)
    if options.peers == "oracle":
        return of_oracle(federation, clients, fanout)
    found = {}
    for k in clients:
        others = [other for other in clients if other != k]
        found[k] = sorted(federation.stream("peers", k).choice(others, fanout, replace=False).tolist())
    return found


def of_oracle(federation, clients, fanout):
    """The neighbours of each client on a random regular graph."""
    import networkx as nx

    n, seed = len(clients), int(federation.stream("peers").integers(2**32))
    graph = nx.random_regular_graph(fanout + (fanout * n) % 2, n, seed=seed)
    return {k: sorted(clients[i] for i in graph[place]) for place, k in enumerate(clients)}
