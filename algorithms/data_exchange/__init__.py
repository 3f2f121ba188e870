"""Raw images once, then weights in every round, to the neighbours on a graph only.

M. Lan, M. Guo, Z. Yao: Decentralized learning with data exchanging, 2022 (a course report of USTC, with code). Weights are
mixed as in decentralised SGD, w_i(t + 1) = sum_j P_ij (w_j - lr grad f_j(w_j)); see `dpsgd`.

Differences from the report and the authors' code:
1. Mixing is synchronous, `--mixing uniform` the mean over a client and its neighbours, as the report writes it; the code
   halves in place, client after client (`--mixing reference`). Only metropolis converges to the plain average.
2. Each neighbour is sent a draw of its own, of int(share_ratio n_i) images; the code sends all the same one, of a size that
   is client 0's.
3. `--aggr_model ps` answers with the last average, unweighted as in the code, which answers with the one before.
4. With `--participation` below 1 the graph of a round is that between the clients that take part; the code has all.
5. `--ft_epochs` fine-tunes on a client's own images alone, not on those that it received: it is to fit the client's own
   distribution. Neither report nor code fine-tunes.

Defaults: of the authors' code, 5 rounds of an MLP on MNIST with 5 clients of 3 classes: 3 epochs, batches of 64, a rate of
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
    """How the authors train."""

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
    share_ratio: float = flag(0.1, Number(float, least=0, most=1), "part of its images that a client sends; 0 is none")
    aggr_model: str = flag("de", Choice(("de", "ps")), "neighbours mix their models, or a parameter server averages all")
    mixing: str = flag(
        "uniform", Choice(tuple(graph.MIXINGS)), graph.MIXING, Requires("--aggr_model de", graph.decentralised)
    )


loss = cross_entropy


def start(federation, options):
    """Everyone has the same model, and a part of its neighbours' images."""
    weights, net = federation.initial(), graph.of(len(federation.clients), options)
    edges, sent, shares = exchange.send(federation, net, options.share_ratio)
    maps, told = exchange.leakage(federation, edges, sent, shares, options.share_ratio)
    return {
        "server": weights,
        "weights": [weights for _ in federation.clients],
        "shares": shares,
        "edges": [list(edge) for edge in net.edges],
        "maps": maps,
        "metrics": {**graph.told(net, options), **told},
    }


def communicate(federation, state, options):
    clients, holding = federation.sample(), replace(federation, shares=tuple(state["shares"]))
    weights, central = select_rows(state["weights"], clients), not graph.decentralised(options)
    if central:
        weights = federation.wire.broadcast("weights", state["server"], clients)
    weights, _, losses, _ = train(holding, clients, weights, loss, options)
    if central:
        state["server"] = mean(federation.wire.up("weights", weights, clients))
        return Round(clients, losses, {"global": model_of(federation, state["server"])}, state["metrics"], weights)
    mixed = graph.mix(federation, clients, weights, state["edges"], options)
    state["weights"] = replace_rows(state["weights"], clients, mixed)
    return Round(clients, losses, {"personal": model_of(federation, state["weights"])}, state["metrics"], weights)
