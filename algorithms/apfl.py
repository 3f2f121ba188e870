"""The model, both ways: a client answers with a mixture of it and a model of its own.

Y. Deng, M. M. Kamani, M. Mahdavi: Adaptive Personalized Federated Learning, 2020 (arXiv 2003.13461), Algorithm 1. In every
step w, which travels, goes down the gradient of its own loss, and v, which stays, that of the loss of the mixture alpha v +
(1 - alpha) w, and so does alpha. The headline answer is "personal", the mixture with the server's w; "global" is w.

Differences from the paper:
1. w is averaged by n_k, as in `fedavg`; the paper averages evenly.
2. alpha moves in every step, with the rate of the weights, and has no weight decay; a step ends with its projection onto
   [0, 1], as in the authors' code. There alpha stays where it is until a flag says otherwise, as with `--fixed_mixture`
   here; then it moves in the first step of a round, down its gradient and 0.02 alpha.
3. BatchNorm's statistics are mixed like weights: v's, of what the mixture has seen, and the server's. Counters are v's.

`--clip_grad` is of the gradient of both networks and alpha together.

Defaults: the rate of 0.1 and the alpha of 0.5 of the authors' MNIST example, 20 rounds of an MLP. A round there is 10 steps
in batches of 50; batches of 32, epochs and 100 rounds are Chorus's. The rounds of the paper are unknown here.
"""

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch.func import functional_call

import options
from helpers import Round, aggregate, cross_entropy, download, one_model, replace_rows, select_rows, shared_model, train
from models import Pair
from options import Number, flag


@dataclass(frozen=True)
class Options(options.Options):
    optimizer: str = "sgd"
    lr: float = 0.1
    mixture: float = flag(0.5, Number(float, least=0, most=1), "part alpha of the own model in the mixture, to begin with")
    fixed_mixture: bool = flag(False, None, "alpha stays as it is; with 0 the answer is FedAvg's, with 1 learning alone")


class Mixture(Pair):
    """A client's own network and the shared one, and how much of the first is in their mixture."""

    bounds = {"alpha": (0, 1)}  # noqa: RUF012

    def __init__(self, own, shared):
        super().__init__(own, shared)
        self.alpha = torch.nn.Parameter(torch.zeros((), dtype=next(own.parameters()).dtype))


def loss(model, batch, context, options):
    w, v, alpha = dict(model.shared.named_parameters()), dict(model.own.named_parameters()), model.alpha
    mixed = {name: alpha * v[name] + (1 - alpha) * w[name].detach() for name in w}
    of_mixture = cross_entropy(lambda x: functional_call(model.own, mixed, (x,)), batch, context, options)
    return of_mixture + cross_entropy(model.shared, batch, context, options)


def start(federation, options):
    common = one_model(federation)
    alpha = torch.tensor(options.mixture, dtype=federation.dtype, device=federation.device)
    return {**common, "mine": {}, "begin": {"v": common["server"], "alpha": alpha}}


def communicate(federation, state, options):
    clients = federation.sample()
    received = download(federation, state, clients)
    held = select_rows(state["mine"], clients, state["begin"])
    rows = [{**Pair.row(own=row["v"], shared=w), "alpha": row["alpha"]} for row, w in zip(held, received, strict=True)]
    pairs = federation.paired(copy.deepcopy(federation.skeletons[0]), Mixture)
    moving = {name for name, _ in pairs.skeletons[0].named_parameters()} - ({"alpha"} if options.fixed_mixture else set())
    trained = train(pairs, clients, rows, loss, options, only=moving)
    mine = [{"v": Pair.part(row, "own"), "alpha": row["alpha"]} for row in trained.weights]
    state["mine"] = replace_rows(state["mine"], clients, mine)
    aggregate(federation, state, clients, [Pair.part(row, "shared") for row in trained.weights])
    personal = partial(mixture_of, federation, state["server"], state["mine"], state["begin"])
    told = {"alpha": {k: row["alpha"].item() for k, row in zip(clients, mine, strict=True)}}
    return Round(clients, trained.loss, {"personal": personal, **shared_model(federation, state)}, told)


def mixture_of(federation, server, mine, begin, k):
    """What client k answers with: weights and BatchNorm's statistics mixed, counters its own."""
    row = mine.get(k, begin)
    v, alpha = row["v"], row["alpha"]
    mixed = {name: alpha * own + (1 - alpha) * server[name] for name, own in v.items() if own.is_floating_point()}
    return federation.model(k, {**v, **mixed})
