"""FedGKT as in the authors' code: the server's predictions meet other images.

`--as_published`, as the authors' code does it (He et al. 2020):
1. The server's predictions are kept by position in a batch. The batches of the extraction and of the next training have
   different random orders, so that every image is trained towards the server's prediction of another image.
2. Training draws a new augmentation, with `--augment`, and does not reuse the extraction's.
As here: new networks at the clients (the code starts them from a ResNet-56 trained on all clients' data), the server's order
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
    as_published: bool = flag(False, None, "follow the authors' code: the server's logits are compared with other images")


def communicate(federation, state, options):
    targets = state["targets"]
    orders = [
        torch.from_numpy(federation.stream("places", k).permutation(len(federation.shares[k]))) for k in federation.clients
    ]
    state["targets"] = [
        rows if rows is None else rows[order[: len(rows)]] for rows, order in zip(targets, orders, strict=True)
    ]
    state["draws"] = [None for _ in federation.clients]
    return fedgkt.communicate(federation, state, options)
