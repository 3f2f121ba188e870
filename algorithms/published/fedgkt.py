"""Feature maps, predictions and labels go up, the server's predictions come down, and meet other images.

`--as_published`, as the authors' code does it (He et al. 2020):
1. The server's predictions are kept by place in a batch. The batches of the extraction and of the next training come in
   different random orders, so that every image is pulled towards what the server said of another one.
2. Training changes the images anew, where `--augment` does, and not as they were extracted.
Kept: new networks at the clients (the code starts them from a ResNet-56 trained on everybody's data), the server's order
over all clients, the plateau on validation data, and no batch is left out.
"""

from dataclasses import dataclass

import torch

from algorithms import fedgkt
from algorithms.fedgkt import loss, start
from options import flag

__all__ = ["loss", "start"]


@dataclass(frozen=True)
class Options(fedgkt.Options):
    as_published: bool = flag(False, None, "as in the authors' code: the server's predictions meet other images")


def communicate(federation, state, options):
    kept = state["targets"]
    orders = [
        torch.from_numpy(federation.stream("places", k).permutation(len(federation.shares[k]))) for k in federation.clients
    ]
    state["targets"] = [rows if rows is None else rows[order[: len(rows)]] for rows, order in zip(kept, orders, strict=True)]
    state["draws"] = [None for _ in federation.clients]
    return fedgkt.communicate(federation, state, options)
