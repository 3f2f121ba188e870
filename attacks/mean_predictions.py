"""The label mix, from what a client's network predicts on public images.

A network trained on a mix q predicts p(c | x) in proportion to q_c p(x | c), so its mean prediction on public images of
balanced classes leans to the classes that the client has. The estimate divides by nothing and is biased towards the
prediction of a good network, the balanced mix; it is a lower bound of what the network reveals.

Knowledge: a network that a client sent, or logits that it sent for public images (FedMD); with `--knows network`, the
client's own network.
"""

import torch

from attacks.knowledge import Guess

AT_ONCE = 250  # public images in a batch
N_PUBLIC = 1000  # public images


def attack(recording, public, options):
    mixes = {}
    weights = {**recording.sent_weights(), **recording.networks}
    for k, row in weights.items():
        model = recording.network(k, row)
        if model is not None:
            mixes[k] = mean_by_class(model, public, len(recording.classes)).mean(0)
    for k, messages in recording.sent("logits").items():
        if k not in mixes and isinstance(messages[-1].content, torch.Tensor):
            mixes[k] = messages[-1].content.softmax(1).mean(0)
    return Guess(mixes=mixes)


@torch.no_grad()
def predictions(model, x):
    """Return a network's probabilities [n, C] for images [n, channels, height, width]."""
    return torch.cat([model(part)[1].softmax(1) for part in x.split(AT_ONCE)])


def mean_by_class(model, public, n_classes):
    """Return a network's mean prediction for the public images of each class, float64 [C, C].

    A class without a public image counts as always recognised.
    """
    p, y = predictions(model, public.examples.x[:N_PUBLIC]).double(), public.examples.y[:N_PUBLIC]
    certain = torch.eye(n_classes, dtype=torch.float64)
    return torch.stack([p[y == c].mean(0) if (y == c).any() else certain[c] for c in range(n_classes)])
