"""The exchange of images before round 1, and what it gives away."""

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
    """Every client sends each of its neighbours int(share_ratio n_k) of its images, a draw without replacement for each ->
    (edges (from, to), the images sent over each, every client's share after that, without duplicates).
    """
    edges = [(i, j) for i in graph for j in sorted(graph[i])]
    sent = []
    for i, j in edges:
        own = federation.shares[i]
        n = int(share_ratio * len(own) + 1e-9)  # 0.29 * 100 is 28.999...
        drawn = torch.from_numpy(federation.stream(f"exchange with {j}", i).permutation(len(own))[:n]).to(own.device)
        sent.append(own[drawn])
    if share_ratio == 0:
        return edges, sent, [own.clone() for own in federation.shares]  # rows of a state, no views of the whole split
    received = federation.wire.between("images", [federation.examples(indices) for indices in sent], edges)
    held = [[own] for own in federation.shares]
    for (_, k), row in zip(edges, received, strict=True):
        held[k].append(row.indices)
    return edges, sent, [torch.unique(torch.cat(parts)) for parts in held]


def gone(federation: Federation, edges, sent: Sequence[Tensor]) -> list[Tensor]:
    """The images of each client that it sent to anybody."""
    parts = [[own[:0]] for own in federation.shares]
    for (i, _), indices in zip(edges, sent, strict=True):
        parts[i].append(indices)
    return [torch.unique(torch.cat(of_client)) for of_client in parts]


def leakage(federation: Federation, edges, sent, after, share_ratio: float) -> tuple[list[list[Tensor]], dict[str, Any]]:
    """What has left the clients -> (for each the intensity P of its images before, of all that it sent, and after; columns
    of the history, {name: value or {client: value}}).

    `exchange_kl` is the authors' figure, of client i with its neighbours j
        share_ratio * sum_j sum_pixels (P(sent_ij) + eps) ln((P(sent_ij) + eps) / (P(after_j) + eps)),
    where P(S) is the sum of the raw images of S over its total, zeros for none. It says how *unlike* what was sent is to
    what the receiver has afterwards: it is large for images unlike the receiver's and 0 where they match, even if all were
    sent.
    `images_left` is the part of a client's images that another party has received; `holders` in how many shares an image of
    its is afterwards, its own included, on average.
    """
    everyone, left = federation.clients, gone(federation, edges, sent)
    before, given, held = (
        federation.map_clients(_intensity, everyone, images) for images in (federation.shares, left, after)
    )
    kl = dict.fromkeys(everyone, 0.0)
    for (i, j), indices in zip(edges, sent, strict=True):
        if len(indices):
            (found,) = federation.map_clients(partial(_divergence, other=held[j]), [i], [indices])
            kl[i] += share_ratio * found
    times = torch.zeros(len(federation.data.y), dtype=torch.int64, device=federation.device)
    for share in after:
        times[share] += 1
    columns = {
        "exchange_kl": kl,
        "exchange_kl_sum": sum(kl.values()),
        "images_left": {k: len(images) / len(federation.shares[k]) for k, images in enumerate(left)},
        "holders": dict(enumerate(federation.map_clients(partial(_mean, values=times), everyone, federation.shares))),
    }
    return [[row.to(federation.dtype) for row in rows] for rows in zip(before, given, held, strict=True)], columns


def _intensity(federation: Federation, k: int, indices: Tensor) -> Tensor:
    """P(S): the raw images of S added up, over their total. float64 [channels, height, width]."""
    total = torch.zeros(federation.data.shape, dtype=torch.float64, device=federation.device)
    for part in indices.split(10_000):
        total += federation.data.x[part].double().sum(0)
    return total / total.sum().clamp(min=1e-12)


def _mean(federation: Federation, k: int, indices: Tensor, values: Tensor) -> float:
    return values[indices].double().mean().item()


def _divergence(federation: Federation, k: int, indices: Tensor, other: Tensor) -> float:
    p, q = _intensity(federation, k, indices) + EPSILON, other + EPSILON
    return (p * (p / q).log()).sum().item()
