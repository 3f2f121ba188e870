"""The body, both ways: it is trained under a random head that nobody ever changes.

J. Oh, S. Kim, S.-Y. Yun: FedBABU: Towards Enhanced Representation for Federated Image Classification, ICLR 2022,
Algorithm 1. The head is what `--ft_epochs` is for: after the rounds each client fine-tunes a copy.

`--local_upt_part` is trained, `--aggr_part` is averaged; what is both travels. What is trained and not averaged stays with
its client, what is not trained stays as it began: everyone draws the common start from the run's seed, so it is never sent.
With both full this is FedAvg; `fedper` and `lg_fedavg` are other settings.

Differences from the paper and the authors' code:
1. The average is weighted by n_k, which travels too; the code's is unweighted, the same where all shares are of one size.
2. `--lr_schedule step`: the first round of the second half has a tenth of the rate, that of the last quarter a hundredth.
   Momentum starts anew in every round.
3. BatchNorm averages its running statistics and evaluates with them (`--bn local`: its layers stay with the clients); the
   code keeps none and evaluates with those of a client's own test batch. A part that is not trained computes as in
   evaluation, in the rounds and in fine-tuning.
4. The last model is fine-tuned; the code's is the one of the round that was best on the test set.
5. The server has no data (`server_data_ratio` of the code, FedBABU+).

Defaults: of the authors' runs, 320 local epochs of CNN4 with 100 clients: SGD with a rate of 0.1, batches of
50 and momentum 0.9. They have 320 rounds of one epoch, 80 of four or 32 of ten; here a run has 320 until --rounds says
otherwise. The code's flags default to other values (a rate of 0.01, batches of 10, an MLP).
"""

from dataclasses import dataclass

import options
from errors import UserError
from helpers import Round, aggregate, cross_entropy, download, one_model, shared_model, train
from models import MODELS, PARTS
from options import Choice, Several, flag, redeclare


@dataclass(frozen=True)
class Training(options.Averaging):
    """How the paper trains, for all that are settings of this code."""

    model: tuple[str, ...] = redeclare(("CNN4",), type=Several(Choice(MODELS, also={"mobile": "MobileNet", "cnn": "CNN4"})))
    rounds: int = redeclare(320, aliases=(*options.ROUNDS, "epochs"))
    batch_size: int = 50
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_schedule: str = "step"
    momentum: float = 0.9


@dataclass(frozen=True)
class Options(Training):
    local_upt_part: str = flag("body", Choice(PARTS), "which part clients train; full with --aggr_part full is FedAvg")
    aggr_part: str = flag("body", Choice(PARTS), "which part is averaged, of what is trained")


def check(options, data, n_train):
    """No words. Raises UserError where nothing that is trained is averaged."""
    if {options.local_upt_part, options.aggr_part} == {"body", "head"}:
        raise UserError(
            f"--aggr_part {options.aggr_part}: nothing of it is trained with --local_upt_part {options.local_upt_part}; "
            f"must be full or {options.local_upt_part}"
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
