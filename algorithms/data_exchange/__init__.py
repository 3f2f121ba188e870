"""Data exchange: neighbours on a graph exchange images once, then weights each round.

M. Lan, M. Guo, Z. Yao: Decentralized learning with data exchanging, 2022 (a course report of USTC, with code). Weights are
mixed as in decentralised SGD, w_i(t + 1) = sum_j P_ij (w_j - lr grad f_j(w_j)); see `dpsgd`.

A new client (`--new_clients`) receives the model of the parameter server; with --aggr_model de it receives no model.

Differences from the report and the authors' code:
1. Mixing is synchronous; `--mixing uniform` is the mean over a client and its neighbours, as in the report. The code halves
   in place, client after client (`--mixing reference`). Only metropolis converges to the unweighted average.
2. Each neighbour receives a separate random draw of int(share_ratio n_i) images; the code sends every neighbour the same
   draw, of a size that is client 0's.
3. `--aggr_model ps` returns the last average, unweighted as in the code, which returns the average before it.
4. With `--participation` below 1 the graph of a round connects the participating clients; in the code every client
   participates.
5. `--ft_epochs` fine-tunes on a client's own images alone, without the received images: the model should fit the client's
   own distribution. Neither report nor code fine-tunes.

Defaults: from the authors' code, 5 rounds of an MLP on MNIST with 5 clients of 3 classes: 3 epochs, batches of 64, a rate of
0.01, momentum 0.5, a tenth of the images. The report has 10 rounds.
"""

from dataclasses import dataclass, replace

from algorithms.data_exchange import exchange, graph
from helpers import Round, cross_entropy, mean, model_of, replace_rows, select_rows, train
from models import MODELS
from options import ROUNDS, Choice, Number, Requires, Several, flag, redeclare

check = graph.check
MODELS_ALSO = Several(Choice(MODELS, also={"mlp": "MLP_dropout", "cnn": "CNNMnist"}))


@dataclass(frozen=True)
class Training(graph.Options):
    """The authors' training."""

    dataset: str = "MNIST"
    n_clients: int = 5
    partition: str = "digit_sets"
    model: tuple[str, ...] = redeclare(("MLP_dropout",), type=MODELS_ALSO)
    rounds: int = redeclare(5, aliases=(*ROUNDS, "epochs"))
    epoch_per_round: int = 3
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.5


@dataclass(frozen=True)
class Options(Training):
    share_ratio: float = flag(
        0.1, Number(float, least=0, most=1), "fraction of its images that a client sends to neighbours; 0 is none"
    )
    aggr_model: str = flag(
        "de",
        Choice(("de", "ps")),
        "aggregation: de mixes the models of neighbours, ps averages all models at a parameter server",
    )
    mixing: str = flag(
        "uniform", Choice(tuple(graph.MIXINGS)), graph.MIXING, Requires("--aggr_model de", graph.decentralised)
    )


loss = cross_entropy


def start(federation, options):
    """Give every client the same model, and a part of its neighbours' images."""
    weights, network = federation.initial(), graph.of(len(federation.clients), options)
    edges, sent, shares = exchange.send(federation, network, options.share_ratio)
    maps, leakage_metrics = exchange.leakage(federation, edges, sent, shares, options.share_ratio)
    return {
        "server": weights,
        "weights": [weights for _ in federation.clients],
        "shares": shares,
        "edges": [list(edge) for edge in network.edges],
        "maps": maps,
        "metrics": {**graph.metrics(network, options), **leakage_metrics},
    }


def communicate(federation, state, options):
    clients, with_received_images = federation.sample(), replace(federation, shares=tuple(state["shares"]))
    weights, is_central = select_rows(state["weights"], clients), not graph.decentralised(options)
    if is_central:
        weights = federation.wire.broadcast("weights", state["server"], clients)
    weights, _, losses, _ = train(with_received_images, clients, weights, loss, options)
    if is_central:
        state["server"] = mean(federation.wire.up("weights", weights, clients))
        return Round(clients, losses, {"global": model_of(federation, state["server"])}, state["metrics"], weights)
    mixed = graph.mix(federation, clients, weights, state["edges"], options)
    state["weights"] = replace_rows(state["weights"], clients, mixed)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])}, state["metrics"], weights)
