"""The model, both ways; the server learns what all models say of public images.

T. Lin, L. Kong, S. U. Stich, M. Jaggi: Ensemble Distillation for Robust Model Fusion in Federated Learning, NeurIPS 2020,
Algorithms 1 and 3. The server averages the models of each architecture and then teaches each average the mean logits of all
models that it received, on images without labels (`--public_share`, `--public_dataset`).

Differences from the paper:
1. The server learns for `--distill_steps`, rounded up to whole passes over the public images, at a constant rate. The paper
   takes up to 10,000 steps, at a rate that falls along a cosine, and stops where 1,000 steps have brought nothing on a
   validation set; so it never takes fewer than the 1,000 that are the default here.
2. A client belongs to one architecture for good, and an average that nobody of a round is of goes on from where it was.
3. BatchNorm's running statistics are averaged, and go on with the public images while the server learns.

Without a step of the server it is fedavg. The public images are the server's and are not sent to clients. The answer is one
model for all, or with several architectures a client's own.

Defaults: of the authors' code on CIFAR-10, 100 rounds of ResNet-8 with 20 clients: 40 epochs, batches of 64, a rate of 0.1.
The public images there are another data set (CIFAR-100); here a tenth of the training set.
"""

from dataclasses import dataclass, replace
from math import ceil

import torch.nn.functional as F

import options
from helpers import Round, average, cross_entropy, mean, outputs, select_rows, train
from options import Number, flag

mixed = public = True


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
        "steps of the server in a round, rounded up to whole passes over the public images; 0 is --distill_epochs alone",
        legacy_value=0,
    )
    distill_epochs: int = flag(
        1, Number(int, least=0), "least passes of the server over the public images in a round; 0 is fedavg"
    )
    distill_lr: float = flag(1e-3, Number(float, above=0), "learning rate of the server, which learns with Adam", rate=True)
    distill_batch_size: int = flag(128, Number(int, least=1), "public images in a batch of the server")


loss = cross_entropy


def distillation(model, batch, context, options):
    """KL(teacher || student) on public images; `given`: the teacher's logits of all of them [n, C]."""
    _, logits = model(batch.x)
    return F.kl_div(logits.log_softmax(1), context[batch.index].log_softmax(1), reduction="batchmean", log_target=True)


def start(federation, options):
    return {"server": [federation.initial(None, a) for a in range(len(federation.skeletons))]}


def communicate(federation, state, options):
    clients, n_models = federation.sample(), len(state["server"])
    own = [k % n_models for k in clients]  # the architecture of each
    weights = federation.wire.down("weights", select_rows(state["server"], own), clients)
    trained = train(federation, clients, weights, loss, options)
    sent = federation.wire.up("weights", trained.weights, clients)
    n = federation.wire.up("n_k", federation.sizes(clients), clients)
    averages = [
        average(*zip(*((row, n_k) for row, n_k, b in zip(sent, n, own, strict=True) if b == a), strict=True))
        if a in own
        else state["server"][a]
        for a in range(n_models)
    ]
    state["server"] = fused(federation, averages, clients, sent, options) if options.distill_epochs else averages
    answer = "global" if n_models == 1 else "personal"
    models = {answer: lambda k: federation.model(k, state["server"][k % n_models])}
    return Round(clients, trained.loss, models, local_weights=trained.weights)


def fused(federation, averages, clients, sent, options):
    """The averages, one of each architecture, after they have learnt from the models that the clients sent."""
    server = federation.on(federation.public).with_party("server")
    said = server.map_clients(outputs, clients, sent)
    teacher, students = mean([rows.logits for rows in said]), range(len(averages))
    full, left = divmod(len(federation.public), options.distill_batch_size)
    steps = max(1, full + (left > 1))  # of a pass: a left-over batch of one joins the one before it
    passes = max(options.distill_epochs, ceil(options.distill_steps / steps))
    learning = {"lr": options.distill_lr, "epoch_per_round": passes, "lr_schedule": "constant"}
    as_server = replace(options, optimizer="adam", batch_size=options.distill_batch_size, **learning)
    return train(server, students, averages, distillation, as_server, context=[teacher for _ in students]).weights
