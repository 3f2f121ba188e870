"""FML: own models and a shared model teach each other; sends the shared model.

T. Shen, J. Zhang, X. Jia, F. Zhang, G. Huang, P. Zhou, K. Kuang, F. Wu, C. Wu: Federated Mutual Learning, 2020 (arXiv
2006.16765), Algorithm 1. The shared model travels both ways. In every step the own model learns from the labels and from the
shared model, and the shared model from the labels and from the own model. Own models may have any architecture; the shared
model has `--shared_model`, by default the first architecture of `--model`. The headline answer is "personal", the own model;
"global" is the shared model.

A new client (`--new_clients`) receives the shared model and fine-tunes it.

Differences from the paper:
1. No gradient flows into a teacher's outputs, as in mutual learning; the paper leaves this open.
2. The shared models are averaged by n_k, which travels too; the paper averages with equal weights.
3. With `--participation` below 1 an absent client's own model does not change.

`--clip_grad` limits the gradient of both networks together.

Defaults: from the authors' code, 90 rounds of one epoch: a learning rate of 0.1, momentum 0.9, weight decay 5e-4, batches
of 128. There the rate falls by 10 after 30 and 60 rounds; here it is constant (`--lr_schedule step`: after 45 and 67). The
weights of 0.5 are Chorus's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import models
import options
import streams
from helpers import Round, average, model_of, own_models, replace_rows, select_rows, train
from models import MODELS, Pair
from options import Choice, Number, flag

mixed = private_steps = True
uploads = {"weights": "n_k", "n_k": ""}


@dataclass(frozen=True)
class Options(options.Options):
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    rounds: int = 90
    shared_model: str | None = flag(
        None,
        Choice(MODELS),
        "architecture of the shared (meme) model; default: the first of --model",
        follows=lambda o: o.model[0],
    )
    mutual_own: float = flag(0.5, Number(float, least=0, most=1), "weight of labels in the own model's loss; 1 is alone")
    mutual_shared: float = flag(0.5, Number(float, least=0, most=1), "weight of labels in the shared loss; 1 is FedAvg")


def check(options, data, n_train):
    """Return "". Raise UserError if the shared model cannot be built."""
    with streams.torch_seeded("tried out"):
        models.build(options.shared_model, data.shape, len(data.classes), options.feature_dim)
    return ""


def loss(model, batch, context, options):
    (_, own), (_, shared) = model.own(batch.x), model.shared(batch.x)
    return student(own, shared, batch.y, options.mutual_own) + student(shared, own, batch.y, options.mutual_shared)


def student(logits, teacher, y, labels):
    """Return the student's loss, a mean over the batch.

    The loss is labels * cross-entropy + (1 - labels) * KL(teacher || logits).
    """
    divergence = F.kl_div(logits.log_softmax(1), teacher.detach().log_softmax(1), reduction="batchmean", log_target=True)
    return labels * F.cross_entropy(logits, y) + (1 - labels) * divergence


def start(federation, options):
    return {**own_models(federation), "server": dict(shared_of(federation, options).state_dict())}


def communicate(federation, state, options):
    clients = federation.sample()
    received = federation.wire.broadcast("weights", state["server"], clients)
    own = select_rows(state["weights"], clients)
    pairs = [Pair.row(own=row, shared=shared) for row, shared in zip(own, received, strict=True)]
    # the optimizer of the shared model is new in every round
    memory = [Pair.row(own=row or {}) for row in select_rows(state["memory"], clients)]
    trained = train(federation.paired(shared_of(federation, options)), clients, pairs, loss, options, memory=memory)
    state["weights"] = replace_rows(state["weights"], clients, [Pair.part(row, "own") for row in trained.weights])
    state["memory"] = replace_rows(state["memory"], clients, [Pair.part(row, "own") for row in trained.memory])
    sent = federation.wire.up("weights", [Pair.part(row, "shared") for row in trained.weights], clients)
    state["server"] = average(sent, federation.wire.up("n_k", federation.sizes(clients), clients))
    own, server = model_of(federation, state["weights"]), state["server"]
    return Round(clients, trained.loss, {"personal": own, "global": lambda k: shared_of(federation, options, server)})


def shared_of(federation, options, weights=None):
    """Return the shared network, with these weights or those of the common start."""
    with streams.torch_seeded(federation.seed, "server", "initial"):
        network = models.make(options.shared_model, federation.data.shape, len(federation.data.classes), options.feature_dim)
    network = network.to(federation.device, federation.dtype, memory_format=torch.channels_last).eval()
    network.precision = federation.precision
    if weights:
        network.load_state_dict(weights)
    return network


def rebuild(options, inputs, client, answer):
    """Return the network of a saved model: `options` and `inputs` as in a run's `config.json`."""
    shared_options = {**options, "model": [options["shared_model"]]} if answer == "global" else options
    return models.of_client(shared_options, inputs, client)
