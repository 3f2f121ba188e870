"""The only connection between parties. The wire counts whatever crosses it, from the tensors themselves.

A *row* is what one client sends or receives: a tensor, `Rows`, `Examples`, or a dict, list or tuple of them. Functions take
and return rows aligned with `clients`. The wire returns what the receiver gets: the same tensors, since no tensor of a state
is ever changed in place; or, with compression, tensors rounded as they were sent.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from federation.privacy import Noise
    from federation.recording import Recorder

SERVER = -1  # the server as a sender or receiver; clients are 0 .. K - 1
ALL = -2  # all clients of a round together, as the sender of a sum (`--secure_aggregation`)
WEIGHTS = "weights"  # the kind of message that is clipped and noised
Tree = Any  # a tensor, Rows, Examples, or a dict, list or tuple of trees


@dataclass(frozen=True)
class Examples:
    """Labelled images as a message: indices into the one data set, with the bytes of the images themselves.

    `indices` int64 [n]; `nbytes` of the n images and labels as the data set stores them.
    """

    indices: Tensor
    nbytes: int


@dataclass(frozen=True)
class Rows:
    """A tensor with one row for each of a sender's examples: the number of rows is part of the message."""

    tensor: Tensor

    @property
    def nbytes(self) -> int:
        """Return the bytes of the tensor."""
        return self.tensor.nbytes


def leaves(tree: Tree) -> Iterable[Tensor | Rows | Examples]:
    """Return the tensors, rows and examples in a tree, from left to right."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return [tree]
    return [leaf for branch in tree for leaf in leaves(branch)]


def weigh(tree: Tree) -> int:
    """Return the bytes of a tree: elements times element size, summed over its leaves, without headers or compression."""
    return sum(leaf.nbytes for leaf in leaves(tree))


def mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return the same tree with `function` applied to its leaves."""
    if isinstance(tree, dict):
        return {name: mapped(function, branch) for name, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(function, branch) for branch in tree)
    return function(tree)


@dataclass(frozen=True)
class Packed:
    """A leaf as it arrives, and the number of bytes in which it is sent."""

    arrives: Tensor | Rows | Examples
    nbytes: int


def fp16(x: Tensor) -> Packed:
    """Pack in half precision: two bytes per number. A number out of range is sent as the largest number in range."""
    most = torch.finfo(torch.float16).max
    return Packed(x.clamp(-most, most).half().to(x.dtype), 2 * x.numel())


def int8(x: Tensor) -> Packed:
    """Pack in 8 bits: the nearest of 255 steps from -max |x| to max |x|.

    A number takes one byte, and the step takes four.
    """
    step = (x.abs().max() / 127).float().to(x.dtype) if x.numel() else x.new_ones(())
    return Packed((x / torch.where(step > 0, step, 1)).round() * step, x.numel() + 4)


COMPRESSIONS: dict[str, Callable[[Tensor], Packed]] = {"fp16": fp16, "int8": int8}


def packed(leaf: Tensor | Rows | Examples, pack: Callable[[Tensor], Packed]) -> Packed:
    """Return a packed leaf.

    Integers, booleans, examples and single numbers, such as a count or a step size, are sent exactly.
    """
    if isinstance(leaf, Rows):
        inner = packed(leaf.tensor, pack)
        return Packed(Rows(inner.arrives), inner.nbytes)
    is_packable = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 0
    return pack(leaf) if is_packable else Packed(leaf, leaf.nbytes)


class Wire:
    """Count bytes by direction ("up", "down", "between"), kind and client, since the last call of `collect`.

    `compress`: a name of `COMPRESSIONS`, or "none". `recorder` keeps the messages of some rounds, as they arrive. `noise`
    protects the weights that clients send to the server, before they are compressed.
    """

    def __init__(self, compress: str = "none", recorder: "Recorder | None" = None, noise: "Noise | None" = None) -> None:
        self._bytes: Counter[tuple[str, str, int]] = Counter()
        self._pack = COMPRESSIONS.get(compress)
        self._uncounted: frozenset[int] = frozenset()
        self.recorder, self.noise = recorder, noise
        self._round, self._received = 0, {}  # the weights that each client received in this round

    def begin(self, round: int) -> None:
        """Start a round, or (0) what comes before the first."""
        self._round = round
        self._received.clear()
        if self.recorder:
            self.recorder.begin(round)

    def without(self, clients: frozenset[int]) -> "Wire":
        """Return the same wire with the same counters, which does not count messages of these clients."""
        other = copy.copy(self)
        other._uncounted = clients
        return other

    def up(self, kind: str, rows: Sequence[Tree], clients: Sequence[int]) -> list[Tree]:
        """Send rows[s] from client clients[s] to the server; return what the server receives."""
        return self._carry("up", kind, rows, [(k, SERVER) for k in clients])

    def down(self, kind: str, rows: Sequence[Tree], clients: Sequence[int]) -> list[Tree]:
        """Send rows[s] from the server to client clients[s]; return what the clients receive."""
        return self._carry("down", kind, rows, [(SERVER, k) for k in clients])

    def broadcast(self, kind: str, tree: Tree, clients: Sequence[int]) -> list[Tree]:
        """Send one tree from the server to every client, counted once per client; return what the clients receive."""
        return self._carry("down", kind, [tree] * len(clients), [(SERVER, k) for k in clients])

    def between(self, kind: str, rows: Sequence[Tree], edges: Sequence[tuple[int, int]]) -> list[Tree]:
        """Send rows[s] from client j to client k for edges[s] = (j, k), counted at the sender; return the received rows."""
        return self._carry("between", kind, rows, edges)

    def collect(self) -> dict[tuple[str, str], dict[int, int]]:
        """Return {(direction, kind): {client: bytes}} of all messages since the last call, and reset the counts."""
        bytes_by_kind: dict[tuple[str, str], dict[int, int]] = {}
        for (direction, kind, client), nbytes in sorted(self._bytes.items()):
            bytes_by_kind.setdefault((direction, kind), {})[client] = nbytes
        self._bytes.clear()
        return bytes_by_kind

    def _carry(self, direction: str, kind: str, rows: Sequence[Tree], edges: Sequence[tuple[int, int]]) -> list[Tree]:
        if self.noise and (direction, kind) == ("up", WEIGHTS):
            rows = [
                self.noise.protected(row, self._received[int(k)], self._round, int(k))
                for row, (k, _) in zip(rows, edges, strict=True)
            ]
        packed_rows = {id(row): self._sent(row) for row in rows}  # a broadcast row is packed once
        arrived = [packed_rows[id(row)] for row in rows]
        for (sender, receiver), (_, nbytes) in zip(edges, arrived, strict=True):
            client = int(receiver if sender == SERVER else sender)
            if client not in self._uncounted:
                self._bytes[direction, kind, client] += nbytes
        arrived_rows = [row for row, _ in arrived]
        if self.noise and (direction, kind) == ("down", WEIGHTS):
            self._received.update((int(k), row) for row, (_, k) in zip(arrived_rows, edges, strict=True))
        if self.recorder:
            counted = [s for s, edge in enumerate(edges) if not self._uncounted.intersection(map(int, edge))]
            self.recorder.keep(direction, kind, [arrived_rows[s] for s in counted], [edges[s] for s in counted])
        return arrived_rows

    def _sent(self, row: Tree) -> tuple[Tree, int]:
        if self._pack is None:
            return row, weigh(row)
        packed_row = mapped(partial(packed, pack=self._pack), row)
        return mapped(lambda leaf: leaf.arrives, packed_row), weigh(packed_row)
