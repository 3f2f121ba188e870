"""FedBABU: clients train and share the body under a fixed random head.

J. Oh, S. Kim, S.-Y. Yun: FedBABU: Towards Enhanced Representation for Federated Image Classification, ICLR 2022,
Algorithm 1. `--ft_epochs` trains the head: after the rounds each client fine-tunes a copy of the model.

Clients train `--local_upt_part`, the server averages `--aggr_part`; the intersection travels. A part that is trained and not
averaged stays with its client. A part that is not trained keeps its initial values; it is never sent, since every party
draws the common start from the run's seed. With both set to full this is FedAvg; `fedper` and `lg_fedavg` are other
settings.

A new client (`--new_clients`) receives the body and draws the same head.

Differences from the paper and the authors' code:
1. The average is weighted by n_k, which travels too; the code's average is unweighted, which is the same for shares of one
   size.
2. `--lr_schedule step`: the first round of the second half has a tenth of the rate, that of the last quarter a hundredth.
   Momentum is reset in every round.
3. BatchNorm averages its running statistics and evaluates with them (`--bn local`: its layers stay with the clients); the
   code keeps none and evaluates with the statistics of a client's test batch. A part that is not trained computes as in
   evaluation, in the rounds and in fine-tuning.
4. Fine-tuning starts from the last model; in the code, from that of the round with the best test accuracy.
5. The server has no data (`server_data_ratio` of the code, FedBABU+).

Defaults: from the authors' runs, 320 local epochs of CNN4 with 100 clients: SGD with a learning rate of 0.1, batches of
50 and momentum 0.9. They have 320 rounds of one epoch, 80 of four or 32 of ten; here the default is 320 rounds. The code's
flags default to other values (a learning rate of 0.01, batches of 10, an MLP).
"""

from dataclasses import dataclass

import options
from errors import UserError
from helpers import Round, aggregate, cross_entropy, download, one_model, shared_model, train
from models import MODELS, PARTS
from options import Choice, Several, flag, redeclare

private_steps = True
uploads = {"weights": "n_k", "n_k": ""}
published_tuned = True


@dataclass(frozen=True)
class Training(options.Averaging):
    """The paper's training, for all algorithms that are settings of this code."""

    model: tuple[str, ...] = redeclare(("CNN4",), type=Several(Choice(MODELS, also={"mobile": "MobileNet", "cnn": "CNN4"})))
    rounds: int = redeclare(320, aliases=(*options.ROUNDS, "epochs"))
    batch_size: int = 50
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_schedule: str = "step"
    momentum: float = 0.9


@dataclass(frozen=True)
class Options(Training):
    local_upt_part: str = flag(
        "body", Choice(PARTS), "part of the model that clients train; full with --aggr_part full is FedAvg"
    )
    aggr_part: str = flag("body", Choice(PARTS), "part of the model that the server averages, within the trained part")


def check(options, data, n_train):
    """Return "". Raise UserError if no part is both trained and averaged."""
    if {options.local_upt_part, options.aggr_part} == {"body", "head"}:
        raise UserError(
            f"--aggr_part {options.aggr_part}: clients do not train this part with --local_upt_part "
            f"{options.local_upt_part}; must be full or {options.local_upt_part}"
        )
    return ""


loss = cross_entropy


def start(federation, options):
    trained, averaged = federation.names(options.local_upt_part), federation.names(options.aggr_part)
    local = federation.names("bn") if options.bn == "local" else set()
    return one_model(federation, kept=trained - (averaged - local), frozen=federation.names("full") - trained)


def communicate(federation, state, options):
    clients = federation.sample()
    weights = download(federation, state, clients)
    trained = train(federation, clients, weights, loss, options, only=federation.names(options.local_upt_part))
    aggregate(federation, state, clients, trained.weights)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
