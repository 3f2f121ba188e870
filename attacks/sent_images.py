"""Images that clients send in clear.

Knowledge: the messages. Decentralized learning with data exchange sends images to neighbours, centralized learning sends
all of them to the server.
"""

import torch

from attacks.knowledge import Guess


def attack(recording, public, options):
    images = {}
    for k, messages in recording.sent().items():
        parts = [m.content["images"] for m in messages if isinstance(m.content, dict) and "images" in m.content]
        if parts:
            images[k] = recording.normalised(torch.cat(parts).unique(dim=0))
    return Guess(images=images)
