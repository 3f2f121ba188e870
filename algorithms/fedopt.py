"""FedOpt: the server steps with SGD, Adagrad, Adam or Yogi; sends weights both ways.

S. J. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konecny, S. Kumar, H. B. McMahan: Adaptive Federated
Optimization, ICLR 2021, Algorithm 2 (FedAdagrad, FedAdam, FedYogi; moments have no bias correction) and, with
`--server_optimizer sgd`, Algorithm 1. SGD with momentum is FedAvgM (Hsu, Qi, Brown, 2019); without momentum, and with a
server's rate of 1, it is `fedavg`.

Differences from the paper:
1. The change is weighted by n_k, as in `fedavg`; Algorithm 2 has an unweighted mean.
2. v starts at tau^2, the smallest value that the algorithm allows; m starts at 0.
3. The server steps in the parameters. BatchNorm's statistics are averaged, as in `fedavg`.
4. FedAdagrad has no momentum unless `--beta1` is given: its default is 0, that of Adam and Yogi 0.9, as in Flower.
5. The paper's code starts Adagrad's and Yogi's v at 0, and Adam's v decays with 0.999; the paper writes 0.99.

Defaults: for 1,500 rounds of EMNIST, the best pair of rates in the authors' code for each --server_optimizer: 0.03 for the
clients, and 0.003 (adam, yogi), 0.1 (adagrad) or 0.3 (sgd) for the server. There 10 of 3,400 clients train for one epoch per
round in batches of 20. tau is the paper's 1e-3; the same table of the code has 1e-4 for adam and yogi and 1e-2 for adagrad.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms import fedavg
from helpers import Round, add_scaled, aggregate, cross_entropy, download, parameters, shared_model, subtract, train
from options import Choice, Number, Requires, flag


def _sgd(change, m, v, options):
    m = options.server_momentum * m + change
    return m, v, m


def _adaptive(second: Callable):
    def step(change, m, v, options):
        m = options.beta1 * m + (1 - options.beta1) * change
        v = second(v, change.square(), options.beta2)
        return m, v, m / (v.sqrt() + options.tau)

    return step


# (change, m, v, options) -> (m, v, step), tensor by tensor; the server moves by --server_lr times the step
SERVER_STEPS: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "sgd": _sgd,
    "adagrad": _adaptive(lambda v, square, beta2: v + square),
    "adam": _adaptive(lambda v, square, beta2: beta2 * v + (1 - beta2) * square),
    "yogi": _adaptive(lambda v, square, beta2: v - (1 - beta2) * square * (v - square).sign()),
}
MOMENTUM = Requires("--server_optimizer sgd", lambda o: o.server_optimizer == "sgd")
ADAPTIVE = Requires("--server_optimizer adagrad, adam or yogi", lambda o: o.server_optimizer != "sgd")
SECOND = Requires("--server_optimizer adam or yogi", lambda o: o.server_optimizer in ("adam", "yogi"))


SERVER_LR = {"sgd": 0.3, "adagrad": 0.1, "adam": 0.003, "yogi": 0.003}  # from the authors' code, on EMNIST

private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(fedavg.Options):
    lr: float = 0.03
    epoch_per_round: int = 1
    batch_size: int = 20
    rounds: int = 1500
    server_optimizer: str = flag("adam", Choice(tuple(SERVER_STEPS)), "optimizer of the server, on the clients' mean update")
    server_lr: float | None = flag(
        None,
        Number(float, above=0),
        "learning rate of the server; 1 with plain SGD is FedAvg; default: 0.003 for adam and yogi, 0.1 for adagrad, 0.3 "
        "for sgd",
        rate=True,
        follows=lambda o: SERVER_LR[o.server_optimizer],
    )
    server_momentum: float = flag(0.9, Number(float, least=0, below=1), "momentum of the server's SGD; 0 is plain", MOMENTUM)
    beta1: float | None = flag(
        None,
        Number(float, least=0, below=1),
        "decay of the first moment of the mean update; 0 keeps no history; default: 0 for adagrad, 0.9 for adam and yogi",
        ADAPTIVE,
        follows=lambda o: 0.0 if o.server_optimizer == "adagrad" else 0.9,
    )
    beta2: float = flag(0.99, Number(float, least=0, below=1), "decay of the second moment of the mean update", SECOND)
    tau: float = flag(1e-3, Number(float, above=0), "constant in the denominator; larger is less adaptive", ADAPTIVE)


loss = cross_entropy


def start(federation, options):
    state = fedavg.start(federation, options)
    trainable = parameters(federation, state["server"])
    m, v = ({name: torch.full_like(w, value) for name, w in trainable.items()} for value in (0.0, options.tau**2))
    return {**state, "m": m, "v": v}


def communicate(federation, state, options):
    clients, x = federation.sample(), parameters(federation, state["server"])
    weights = download(federation, state, clients)
    trained = train(federation, clients, weights, loss, options)
    aggregate(federation, state, clients, trained.weights)  # now state["server"] is the clients' average
    step, m, v = SERVER_STEPS[options.server_optimizer], state["m"], state["v"]
    results = {name: step(change, m[name], v[name], options) for name, change in subtract(state["server"], x).items()}
    state["m"], state["v"], steps = ({name: part[i] for name, part in results.items()} for i in range(3))
    state["server"] = add_scaled({**state["server"], **x}, steps, options.server_lr)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
