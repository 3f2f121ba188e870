"""The exchange of images before round 1, and the information that it reveals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from federation import Federation

if TYPE_CHECKING:
    import networkx as nx

EPSILON = 1e-5  # added to every pixel of both distributions, as in the authors' code


def send(federation: Federation, graph: nx.Graph, share_ratio: float) -> tuple[list, list, list]:
    """Send int(share_ratio n_k) images of every client to each of its neighbours, a new draw without replacement for each.

    Return (edges (from, to), the images sent over each edge, every client's share afterwards, without duplicates).
    """
    edges = [(i, j) for i in graph for j in sorted(graph[i])]
    sent = []
    for i, j in edges:
        own = federation.shares[i]
        n = int(share_ratio * len(own) + 1e-9)  # 0.29 * 100 is 28.999...
        positions = torch.from_numpy(federation.stream(f"exchange with {j}", i).permutation(len(own))[:n]).to(own.device)
        sent.append(own[positions])
    if share_ratio == 0:
        # copies, since a state must not hold views of the whole split
        return edges, sent, [own.clone() for own in federation.shares]
    received = federation.wire.between("images", [federation.examples(indices) for indices in sent], edges)
    parts_by_client = [[own] for own in federation.shares]
    for (_, k), row in zip(edges, received, strict=True):
        parts_by_client[k].append(row.indices)
    return edges, sent, [torch.unique(torch.cat(parts)) for parts in parts_by_client]


def gone(federation: Federation, edges, sent: Sequence[Tensor]) -> list[Tensor]:
    """Return the images that each client sent to any other client."""
    parts = [[own[:0]] for own in federation.shares]
    for (i, _), indices in zip(edges, sent, strict=True):
        parts[i].append(indices)
    return [torch.unique(torch.cat(client_parts)) for client_parts in parts]


def leakage(federation: Federation, edges, sent, after, share_ratio: float) -> tuple[list[list[Tensor]], dict[str, Any]]:
    """Return (intensities P of each client's images, columns of the history).

    P is computed for the images before the exchange, for all images that the client sent, and for its images afterwards. The
    columns are {name: value or {client: value}}.

    `exchange_kl` is the authors' figure, of client i with its neighbours j

        share_ratio * sum_j sum_pixels (P(sent_ij) + eps) ln((P(sent_ij) + eps) / (P(after_j) + eps)).

    P(S) is the sum of the raw images of S over its total, zeros without images. The figure measures how *different* the sent
    images are from the receiver's images afterwards: it is large for images unlike the receiver's and 0 if they match, even
    if all images were sent.

    `images_left` is the fraction of a client's images that another client has received. `holders` is the mean number of
    clients that have an image of the client afterwards, including the client.
    """
    everyone, images_sent = federation.clients, gone(federation, edges, sent)
    intensities_before, sent_intensities, intensities_after = (
        federation.map_clients(_intensity, everyone, images) for images in (federation.shares, images_sent, after)
    )
    kl = dict.fromkeys(everyone, 0.0)
    for (i, j), indices in zip(edges, sent, strict=True):
        if len(indices):
            (divergence,) = federation.map_clients(partial(_divergence, other=intensities_after[j]), [i], [indices])
            kl[i] += share_ratio * divergence
    n_holders = torch.zeros(len(federation.data.y), dtype=torch.int64, device=federation.device)
    for share in after:
        n_holders[share] += 1
    columns = {
        "exchange_kl": kl,
        "exchange_kl_sum": sum(kl.values()),
        "images_left": {k: len(images) / len(federation.shares[k]) for k, images in enumerate(images_sent)},
        "holders": dict(enumerate(federation.map_clients(partial(_mean, values=n_holders), everyone, federation.shares))),
    }
    return [
        [row.to(federation.dtype) for row in rows]
        for rows in zip(intensities_before, sent_intensities, intensities_after, strict=True)
    ], columns


def _intensity(federation: Federation, k: int, indices: Tensor) -> Tensor:
    """Return P(S): the sum of the raw images of S over its total. float64 [channels, height, width]."""
    total = torch.zeros(federation.data.shape, dtype=torch.float64, device=federation.device)
    for part in indices.split(10_000):
        total += federation.data.x[part].double().sum(0)
    return total / total.sum().clamp(min=1e-12)


def _mean(federation: Federation, k: int, indices: Tensor, values: Tensor) -> float:
    return values[indices].double().mean().item()


def _divergence(federation: Federation, k: int, indices: Tensor, other: Tensor) -> float:
    p, q = _intensity(federation, k, indices) + EPSILON, other + EPSILON
    return (p * (p / q).log()).sum().item()
