"""Labels and class counts that clients send in clear.

Knowledge: the messages. CFKD and FedProto send class counts, since means are averaged with them; FedGKT sends the label of
every example; an exchange of images sends labels. No inference is needed: the guess is exact where every example counts.
"""

import torch

from attacks.knowledge import Guess


def attack(recording, public, options):
    mixes = {}
    for k, messages in recording.sent().items():
        counts = [n for message in messages if (n := counts_of(message.content, len(recording.classes))) is not None]
        if counts:
            mixes[k] = max(counts, key=lambda n: n.sum()).double()
    return Guess(mixes={k: n / n.sum() for k, n in mixes.items() if n.sum() > 0})


def counts_of(content, n_classes):
    """Return the class counts int64 [C] that a message names; None where it names none."""
    if not isinstance(content, dict):
        return None
    if "counts" in content:
        return content["counts"]
    if "labels" in content:
        return torch.bincount(content["labels"], minlength=n_classes)
    return None
