"""The only road between parties. Whatever crosses it is counted, from the tensors themselves.

A *row* is what one client sends or receives: a tensor, `Rows`, `Examples`, or a dict, list or tuple of them. Verbs take and
return rows aligned with `clients`. The wire returns what the other side receives: the very same tensors, since no tensor
of a state is ever changed in place; or, where it compresses, tensors that are rounded as they were sent.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Tree = Any  # a tensor, Rows, Examples, or a dict, list or tuple of trees


@dataclass(frozen=True)
class Examples:
    """Labelled images on the move: they travel as indices into the one data set and weigh what they are.

    `indices` int64 [n]; `nbytes` of the n images and labels as the data set stores them.
    """

    indices: Tensor
    nbytes: int


@dataclass(frozen=True)
class Rows:
    """A tensor with a row for each of a sender's examples: how many rows there are is itself a message."""

    tensor: Tensor

    @property
    def nbytes(self) -> int:
        """Of the tensor."""
        return self.tensor.nbytes


def leaves(tree: Tree) -> Iterable[Tensor | Rows | Examples]:
    """The tensors, rows and examples in a tree, from left to right."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return [tree]
    return [leaf for branch in tree for leaf in leaves(branch)]


def weigh(tree: Tree) -> int:
    """Bytes of a tree: elements times element size, summed over its leaves. No header, no compression."""
    return sum(leaf.nbytes for leaf in leaves(tree))


def mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """The same tree with `function` applied to its leaves."""
    if isinstance(tree, dict):
        return {name: mapped(function, branch) for name, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(function, branch) for branch in tree)
    return function(tree)


@dataclass(frozen=True)
class Packed:
    """A leaf as it arrives, and the bytes in which it is sent."""

    arrives: Tensor | Rows | Examples
    nbytes: int


def fp16(x: Tensor) -> Packed:
    """In half precision: two bytes a number. What is beyond its range is sent as its largest number."""
    most = torch.finfo(torch.float16).max
    return Packed(x.clamp(-most, most).half().to(x.dtype), 2 * x.numel())


def int8(x: Tensor) -> Packed:
    """In 8 bits: the nearest of 255 steps from -max |x| to max |x|, one byte a number, and the step in four."""
    step = (x.abs().max() / 127).float().to(x.dtype) if x.numel() else x.new_ones(())
    return Packed((x / torch.where(step > 0, step, 1)).round() * step, x.numel() + 4)


COMPRESSIONS: dict[str, Callable[[Tensor], Packed]] = {"fp16": fp16, "int8": int8}


def packed(leaf: Tensor | Rows | Examples, pack: Callable[[Tensor], Packed]) -> Packed:
    """A leaf whose numbers are packed. Whole numbers, truth values, examples and single numbers, such as a count or a
    step size, are sent exactly."""
    if isinstance(leaf, Rows):
        inner = packed(leaf.tensor, pack)
        return Packed(Rows(inner.arrives), inner.nbytes)
    packs = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 0
    return pack(leaf) if packs else Packed(leaf, leaf.nbytes)


class Wire:
    """Counts bytes by direction ("up", "down", "between"), kind and client, since `collect` was last called. `compress`: a
    name of `COMPRESSIONS`, or "none"."""

    def __init__(self, compress: str = "none") -> None:
        self._bytes: Counter[tuple[str, str, int]] = Counter()
        self._pack = COMPRESSIONS.get(compress)
        self._uncounted: frozenset[int] = frozenset()

    def without(self, clients: frozenset[int]) -> "Wire":
        """The same wire with the same counts, which counts nothing of these clients."""
        other = copy.copy(self)
        other._uncounted = clients
        return other

    def up(self, kind: str, rows: Sequence[Tree], clients: Sequence[int]) -> list[Tree]:
        """Client clients[s] sends rows[s] to the server -> what the server receives."""
        return self._carry("up", kind, rows, clients)

    def down(self, kind: str, rows: Sequence[Tree], clients: Sequence[int]) -> list[Tree]:
        """The server sends rows[s] to client clients[s] -> what the clients receive."""
        return self._carry("down", kind, rows, clients)

    def broadcast(self, kind: str, tree: Tree, clients: Sequence[int]) -> list[Tree]:
        """The server sends one tree to every client, counted once for each -> what the clients receive."""
        return self._carry("down", kind, [tree] * len(clients), clients)

    def between(self, kind: str, rows: Sequence[Tree], edges: Sequence[tuple[int, int]]) -> list[Tree]:
        """Client j sends rows[s] to client k for edges[s] = (j, k), counted at the sender -> what the k receive."""
        return self._carry("between", kind, rows, [sender for sender, _ in edges])

    def collect(self) -> dict[tuple[str, str], dict[int, int]]:
        """{(direction, kind): {client: bytes}} of all that crossed since the last call, which starts the count anew."""
        counted: dict[tuple[str, str], dict[int, int]] = {}
        for (direction, kind, client), nbytes in sorted(self._bytes.items()):
            counted.setdefault((direction, kind), {})[client] = nbytes
        self._bytes.clear()
        return counted

    def _carry(self, direction: str, kind: str, rows: Sequence[Tree], clients: Sequence[int]) -> list[Tree]:
        sent = {id(row): self._sent(row) for row in rows}  # what goes to everyone is packed once
        arrived = [sent[id(row)] for row in rows]
        for client, (_, nbytes) in zip(clients, arrived, strict=True):
            if int(client) not in self._uncounted:
                self._bytes[direction, kind, int(client)] += nbytes
        return [row for row, _ in arrived]

    def _sent(self, row: Tree) -> tuple[Tree, int]:
        if self._pack is None:
            return row, weigh(row)
        sent = mapped(partial(packed, pack=self._pack), row)
        return mapped(lambda leaf: leaf.arrives, sent), weigh(sent)
