"""Members are the candidates with a small loss.

S. Yeom, I. Giacomelli, M. Fredrikson, S. Jha: Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting,
IEEE CSF 2018: an example is a member if the network's loss on it is below a threshold. The score is minus the cross-entropy
of the last network that the client sent (or of a published model); the judge chooses the threshold.

Differences from the paper:
1. Where a client sends a body without a head (FedPer, FedRep), the head is fitted on public images.
2. With `--knows network` the score is the mean over the sent network and the client's own.

Not attacked: a head without a body (LG-FedAvg), class mean outputs (FD), and logits of public images (FedMD). A student
could learn from the logits, but the parties draw the order of the images from the run's seed, and the messages do not name
the images.

Knowledge: a network that a client sent; with `--knows network`, the client's own network.
"""

import torch
import torch.nn.functional as F

from attacks import networks
from attacks.knowledge import Guess


def attack(recording, public, options):
    scores = {}
    for k, of_client in networks.of_clients(recording, public).items():
        x, y = public.candidates[k]
        losses = [F.cross_entropy(networks.evaluate(model, x)[1], y, reduction="none") for model, _ in of_client]
        scores[k] = -torch.stack(losses).mean(0)
    return Guess(scores=scores)
