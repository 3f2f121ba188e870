"""The only road between parties. Whatever crosses it is counted, from the tensors themselves.

A *row* is what one client sends or receives: a tensor, `Rows`, `Examples`, or a dict, list or tuple of them. Verbs take and
return rows aligned with `clients`. The wire returns what the other side receives: the very same tensors, since no tensor
of a state is ever changed in place.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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


class Wire:
    """Counts bytes by direction ("up", "down", "between"), kind and client, since `collect` was last called."""

    def __init__(self) -> None:
        self._bytes: Counter[tuple[str, str, int]] = Counter()

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
        for client, row in zip(clients, rows, strict=True):
            self._bytes[direction, kind, int(client)] += weigh(row)
        return list(rows)
