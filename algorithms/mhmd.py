"""MHMD: clients with fixed random heads distil mutually; sends the body both ways.

Multi-Head Model Distillation, in the code of CAIVIAC/FL_SD (2024), an extension of FedBABU. The body has auxiliary heads,
each with a temperature for every image. They learn from the labels and, where the classifier is right, from the classifier
(self-distillation); where they are right, they teach the classifier (mutual feedback). The code's mode 1005 is the default
here, 1 is `fedbabu`, 1002 is `--distill deep_to_shallow --correct_only 0`, 1004 `--distill deep_to_shallow`.

What the code leaves open, or does differently from its intention:
1. A head reads the output of a block after pooling, each head of another block (three of the code's CNN heads read the first
   one).
2. The last of a head's C + 1 outputs is its temperature for any C; the denominator has a constant of 1e-3.
3. A distillation term is the mean over the images for which its teacher is right, and 0 if there are none.
4. `--w_aux` is 10 for MobileNet and 0.01 for CNN4, as in the code's first upload; its last upload has 10 for both.
5. Heads are frozen with all their parameters, including temperatures: until fine-tuning they are fixed random projections of
   the features, and change only through the body.
6. CNN4's classifier has a bias, MobileNet's none (as their numbers of parameters show); auxiliary heads have none.
7. Fine-tuning uses this loss too. Split and seed are those of the run (the code draws another split). The code's modes 2 to
   4 (one auxiliary head) and 1003 (all images if any is right) are left out.
Everything else is as in `fedbabu`, with its differences; the published table compares the two with different BatchNorms.

A new client (`--new_clients`) receives the body and draws the same heads.

Defaults: from the authors' code, its mode 1005 and w_aux by architecture, 320 local epochs; the training is that of
`fedbabu`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from algorithms import fedbabu
from algorithms.fedbabu import check, start
from helpers import Round, aggregate, download, shared_model, train
from options import Choice, Number, flag

__all__ = ["check", "start"]
heads = True
uploads = {"weights": "n_k", "n_k": ""}
published_tuned = True
W_AUX = {"MobileNet": 10.0, "CNN4": 0.01}


@dataclass(frozen=True)
class Options(fedbabu.Options):
    distill: str = flag(
        "mutual",
        Choice(("none", "deep_to_shallow", "mutual")),
        "direction of distillation: auxiliary heads from the classifier, or (mutual) in both directions",
    )
    correct_only: str = flag(
        "1", Choice(("0", "1")), "whether to distil only images that the teacher classifies correctly; 0 is all images"
    )
    kd_reduction: str = flag(
        "mean",
        Choice(("mean", "batchmean")),
        "reduction of the divergence over classes: mean divides by their number, batchmean does not",
    )
    detach_teacher: bool = flag(False, None, "whether to stop gradients into the teacher")
    w_aux: float | None = flag(
        None,
        Number(float, least=0),
        "weight of the auxiliary heads' cross-entropy; default: 10 for MobileNet, 0.01 for CNN4",
    )
    w_kd: float = flag(1.0, Number(float, least=0), "weight of distillation; 0 is none")
    temperature: float = flag(1.0, Number(float, above=0), "temperature of distillation")


def loss(model, batch, context, options):
    *auxiliary, final = model.every_head(batch.x)  # each [B, C]
    total = F.cross_entropy(final, batch.y)
    for logits in auxiliary:
        w_aux = W_AUX[options.model[0]] if options.w_aux is None else options.w_aux
        total = total + w_aux * F.cross_entropy(logits, batch.y)
        if options.distill != "none":
            total = total + options.w_kd * transfer(final, logits, batch.y, options)
        if options.distill == "mutual":
            total = total + options.w_kd * transfer(logits, final, batch.y, options)
    return total


def transfer(teacher, student, y, options):
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)).

    It is the mean over the images that the teacher gets right, and over C.
    """
    correct = teacher.argmax(1) == y if options.correct_only == "1" else torch.ones_like(y, dtype=torch.bool)
    p = ((teacher.detach() if options.detach_teacher else teacher) / options.temperature).log_softmax(1)
    q = (student / options.temperature).log_softmax(1)
    divergence = (correct.unsqueeze(1) * p.exp() * (p - q)).sum() / correct.sum().clamp(min=1)
    return options.temperature**2 * divergence / (p.shape[1] if options.kd_reduction == "mean" else 1)


tuning_loss = loss


def communicate(federation, state, options):
    clients = federation.sample()
    weights = download(federation, state, clients)
    trained = train(federation, clients, weights, loss, options, only=federation.names(options.local_upt_part))
    aggregate(federation, state, clients, trained.weights)
    return Round(clients, trained.loss, shared_model(federation, state), local_weights=trained.weights)
