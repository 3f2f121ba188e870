"""FedDF: the server distils all models on public images; sends weights both ways.

T. Lin, L. Kong, S. U. Stich, M. Jaggi: Ensemble Distillation for Robust Model Fusion in Federated Learning, NeurIPS 2020,
Algorithms 1 and 3. The server averages the models of each architecture. Then it trains each average towards the mean logits
of all received models, on images without labels (`--public_share`, `--public_dataset`).

A new client (`--new_clients`) receives the model of its architecture.

Differences from the paper:
1. The server trains for `--distill_steps`, rounded up to whole passes over the public images, at a constant rate. The paper
   takes up to 10,000 steps, with a cosine schedule, and stops after 1,000 steps without improvement on a validation set; so
   it never takes fewer than the 1,000 that are the default here.
2. A client's architecture is fixed. If no client of a round has an architecture, its average stays and is trained further.
3. BatchNorm's running statistics are averaged, and updated on the public images while the server trains.

Without server steps this is fedavg. The public images stay at the server and are not sent to clients. The result is one
global model, or with several architectures one model per client.

Defaults: from the authors' code on CIFAR-10, 100 rounds of ResNet-8 with 20 clients: 40 epochs, batches of 64, a learning
rate of 0.1. The public images there are another data set (CIFAR-100); here a tenth of the training set.
"""

from dataclasses import dataclass, replace
from math import ceil

import torch.nn.functional as F

import options
from helpers import Round, average, cross_entropy, mean, outputs, select_rows, train
from options import Number, flag

mixed = public = private_steps = True
new_clients = "personal"  # that of its architecture
uploads = {"weights": None, "n_k": None}


@dataclass(frozen=True)
class Options(options.Options):
    epoch_per_round: int = 40
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.1
    public_share: float = 0.1
    distill_steps: int = flag(
        1000,
        Number(int, least=0),
        "number of server steps per round, rounded up to whole epochs over the public images; 0 is --distill_epochs only",
        legacy_value=0,
    )
    distill_epochs: int = flag(
        1, Number(int, least=0), "minimum number of server epochs over the public images per round; 0 is FedAvg"
    )
    distill_lr: float = flag(1e-3, Number(float, above=0), "learning rate of the server (Adam)", rate=True)
    distill_batch_size: int = flag(128, Number(int, least=1), "number of public images per server batch")


loss = cross_entropy


def distillation(model, batch, context, options):
    """Return KL(teacher || student) on public images; `context`: the teacher's logits of all public images [n, C]."""
    _, logits = model(batch.x)
    return F.kl_div(logits.log_softmax(1), context[batch.index].log_softmax(1), reduction="batchmean", log_target=True)


def start(federation, options):
    return {"server": [federation.initial(None, a) for a in range(len(federation.skeletons))]}


def communicate(federation, state, options):
    clients, n_models = federation.sample(), len(state["server"])
    architectures = [k % n_models for k in clients]  # of each client
    weights = federation.wire.down("weights", select_rows(state["server"], architectures), clients)
    trained = train(federation, clients, weights, loss, options)
    sent = federation.wire.up("weights", trained.weights, clients)
    n = federation.wire.up("n_k", federation.sizes(clients), clients)
    averages = [
        average(*zip(*((row, n_k) for row, n_k, b in zip(sent, n, architectures, strict=True) if b == a), strict=True))
        if a in architectures
        else state["server"][a]
        for a in range(n_models)
    ]
    state["server"] = fused(federation, averages, clients, sent, options) if options.distill_epochs else averages
    model_name = "global" if n_models == 1 else "personal"
    models = {model_name: lambda k: federation.model(k, state["server"][k % n_models])}
    return Round(clients, trained.loss, models, local_weights=trained.weights)


def fused(federation, averages, clients, sent, options):
    """Return the averages, one per architecture, after training on the logits of the clients' models."""
    server = federation.on(federation.public).with_party("server")
    results = server.map_clients(outputs, clients, sent)
    teacher, students = mean([rows.logits for rows in results]), range(len(averages))
    full_batches, remainder = divmod(len(federation.public), options.distill_batch_size)
    steps = max(1, full_batches + (remainder > 1))  # per pass: a left-over batch of one joins the batch before it
    passes = max(options.distill_epochs, ceil(options.distill_steps / steps))
    learning = {"lr": options.distill_lr, "epoch_per_round": passes, "local_steps": 0, "lr_schedule": "constant"}
    as_server = replace(options, optimizer="adam", batch_size=options.distill_batch_size, **learning)
    return train(server, students, averages, distillation, as_server, context=[teacher for _ in students]).weights
