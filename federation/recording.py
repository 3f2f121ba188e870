"""A recording of the wire: the messages of chosen rounds, as the receiver gets them. Attacks read it (`attacks`)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.datasets import Data
from federation.wire import ALL, Examples, Rows, Tree, leaves, mapped


class Message(NamedTuple):
    """One message: `direction` "up", "down" or "between", `sender` and `receiver` a client or SERVER.

    The sender of a sum over the clients of a round (`sums`) is ALL.

    `content`: a tree of tensors on the CPU. Labelled images are {"images": as the data set stores them, "labels"}.
    """

    round: int
    direction: str
    kind: str
    sender: int
    receiver: int
    content: Tree


class Recorder:
    """Keep the messages of some rounds, each round until the next one begins.

    `rounds`: the rounds to record. `n_rows`: the rows that are kept of a message with a row per example. `data` holds the
    images that messages name: a recording holds the images, since an index reveals which image it is. `uploads`: with secure
    aggregation, the kinds of messages that clients send, as an algorithm declares them; see `sums`.
    """

    def __init__(
        self, data: Data, rounds: Sequence[int], n_rows: int, uploads: Mapping[str, str | None] | None = None
    ) -> None:
        self._data, self._rounds, self._n_rows, self._uploads = data, frozenset(rounds), n_rows, uploads
        self._round = -1
        self._messages: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """Return the messages of this round."""
        return self._messages if self._uploads is None else sums(self._messages, self._uploads)

    def begin(self, round: int) -> None:
        """Start a round: forget the messages of the round before."""
        self._round, self._messages = round, []

    def keep(self, direction: str, kind: str, rows: Sequence[Tree], edges: Sequence[tuple[int, int]]) -> None:
        """Record that rows[s] went from sender to receiver over edges[s], if the round is recorded."""
        if self._round not in self._rounds:
            return
        contents = {id(row): mapped(self._content, row) for row in rows}  # a broadcast row is stored once
        self._messages += [
            Message(self._round, direction, kind, int(sender), int(receiver), contents[id(row)])
            for row, (sender, receiver) in zip(rows, edges, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the messages of this round; a tensor that several clients receive counts once."""
        tensors = {leaf.data_ptr(): leaf.nbytes for message in self.messages for leaf in leaves(message.content)}
        return sum(tensors.values())

    def _content(self, leaf: Tensor | Rows | Examples) -> Any:
        if isinstance(leaf, Examples):
            indices = leaf.indices[: self._n_rows]
            return {"images": self._data.x[indices].cpu(), "labels": self._data.y[indices].cpu()}
        return leaf.tensor[: self._n_rows].cpu() if isinstance(leaf, Rows) else leaf.detach().cpu()


def sums(messages: Sequence[Message], uploads: Mapping[str, str | None]) -> list[Message]:
    """Return the messages of a round with secure aggregation: of each kind in `uploads`, one sum over the clients.

    `uploads`: {kind: what the receiver multiplies a client's message by}: "" for nothing, the name of an entry of the
    message itself, or another kind. The sum of a single client is its message, so its sender stays.
    """
    sent: dict[str, dict[int, Tree]] = {kind: {} for kind in uploads}
    for message in messages:
        if message.direction == "up" and message.kind in sent:
            sent[message.kind][message.sender] = message.content
    results, summed = [], set()
    for message in messages:
        rows = sent.get(message.kind, {}) if message.direction == "up" else {}
        if len(rows) < 2:
            results.append(message)
        elif message.kind not in summed:
            summed.add(message.kind)
            weight = uploads[message.kind]
            weighted = [_weighted(row, weight, sent.get(weight, {}).get(k)) for k, row in rows.items()]
            results.append(message._replace(sender=ALL, content=_added(weighted)))
    return results


def _weighted(row: Tree, weight: str | None, n: Tensor | None) -> Tree:
    """Return a client's message times its weight n; without n, times the entry `weight` of the message itself, if any."""
    if isinstance(row, dict) and weight in row:
        return {
            **_weighted({name: part for name, part in row.items() if name != weight}, weight, row[weight]),
            weight: row[weight],
        }
    if n is None:
        return row
    return mapped(lambda leaf: leaf * n.to(leaf.dtype).reshape(n.shape + (1,) * (leaf.ndim - n.ndim)), row)


def _added(rows: Sequence[Tree]) -> Tree:
    if isinstance(rows[0], dict):
        return {name: _added([row[name] for row in rows]) for name in rows[0]}
    return sum(row.long() if row.dtype == torch.bool else row for row in rows)


def rounds_of(words: Sequence[int | str], last: int) -> tuple[int, ...]:
    """Return the rounds that `--record_wire` names in a run of `last` rounds.

    "first" is round 1 with the messages before it (round 0), "last" is the last round.
    """
    named = {"first": (0, 1), "last": (last,)}
    return tuple(sorted({r for word in words for r in named.get(word, (word,)) if r in range(last + 1)}))


def to_plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as plain containers, for a file."""
    return [message._asdict() for message in messages]


def from_plain(rows: Sequence[dict[str, Any]]) -> list[Message]:
    """Return the messages of `to_plain`. Raise TypeError, KeyError or ValueError for anything else."""
    messages = [Message(**row) for row in rows]
    for message in messages:
        if not all(isinstance(leaf, torch.Tensor) for leaf in leaves(message.content)):
            raise ValueError("a message holds something else than tensors")
    return messages
