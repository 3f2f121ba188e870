"""What an attacker has: a recording of messages, public data, and candidates. And what an attack returns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models
import streams
from federation.recording import Message
from federation.wire import ALL, SERVER
from models import Net

KNOWS = {
    "wire": "the messages alone",
    "own_client": "also the network and the data of client 0, which is the attacker",
    "network": "also every client's own network: an upper bound",
}
ATTACKER = 0  # the attacker's client with --knows own_client
Weights = dict[str, Tensor]


class Labelled(NamedTuple):
    """Normalised images x [n, channels, height, width] and labels y int64 [n]."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Recording:
    """The messages that an attacker sees, and its knowledge of the run.

    `options`: every option of the run without its seeds, since a seed reveals initial weights, batches and splits. `shape`
    of an image, `classes` the names of the labels, `mean` and `std` [channels] of the pixels. `public_weights`: weights that
    all parties know by design. `knows`: a key of `KNOWS`. `networks`: {client: weights of its own network after the last
    round} and `own`: the data of client `ATTACKER`, where the attacker knows them.
    """

    messages: Sequence[Message]
    options: Mapping[str, Any]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    public_weights: Weights = field(default_factory=dict)
    knows: str = "wire"
    networks: Mapping[int, Weights] = field(default_factory=dict)
    own: Labelled | None = None

    def sent(self, *kinds: str) -> dict[int, list[Message]]:
        """Return the messages of these kinds (none: of any kind) by the client that sent them, in order of time.

        A sum over the clients of a round (`--secure_aggregation`) is no client's message; see `attacks.sums`.
        """
        messages: dict[int, list[Message]] = {}
        for message in self.messages:
            if message.sender not in (SERVER, ALL) and (not kinds or message.kind in kinds):
                messages.setdefault(message.sender, []).append(message)
        return messages

    def received(self, message: Message, kind: str = "weights") -> Any | None:
        """Return what the sender of a message received from the server as `kind` in the same round; None without it."""
        for other in self.messages:
            if (other.round, other.receiver, other.kind) == (message.round, message.sender, kind) and other.sender == SERVER:
                return other.content
        return None

    def normalised(self, images: Tensor) -> Tensor:
        """Return recorded images [n, channels, height, width] as a network sees them."""
        mean, std = (values.float().view(-1, 1, 1) for values in (self.mean, self.std))
        return (images.float() - mean) / std

    def pixels(self, x: Tensor) -> Tensor:
        """Return normalised images [n, channels, height, width], or one, with pixels as in the data set."""
        mean, std = (values.float().view(-1, 1, 1) for values in (self.mean, self.std))
        return x.float() * std + mean

    def build(self, k: int) -> Net:
        """Return a new network of client k's architecture, with arbitrary weights."""
        return next(self._architectures(k))

    def network(self, k: int, weights: Weights) -> nn.Module | None:
        """Return the network with these weights of client k and the public ones, in evaluation mode.

        Return None where the weights are of no whole network.
        """
        row = {**self.public_weights, **weights}
        for model in self._architectures(k):
            expected = model.state_dict()
            if expected.keys() <= row.keys() and all(row[name].shape == expected[name].shape for name in expected):
                model.load_state_dict({name: row[name] for name in expected})
                return model.eval()
        return None

    def updates(self) -> Iterator[tuple[int, Message, Weights, Weights]]:
        """Yield (client, message, weights before, weights after) of every client's local training that was sent."""
        for k, messages in self.sent("weights", "normalised changes").items():
            for message in messages:
                before = self.received(message)
                if before is not None:
                    yield k, message, before, self._after(message, before)

    def sent_weights(self) -> dict[int, Weights]:
        """Return {client: the last weights that it sent, with the public ones}, of whole networks or of a part."""
        weights = {}
        for k, messages in self.sent("weights", "normalised changes").items():
            row = self._after(messages[-1], self.received(messages[-1]))
            if row is not None:
                weights[k] = {**self.public_weights, **row}
        return weights

    def _after(self, message: Message, before: Weights | None) -> Weights | None:
        if message.kind == "weights":
            return message.content
        steps = next((m.content for m in self.sent("|a_k|")[message.sender] if m.round == message.round), None)
        if before is None or steps is None:
            return None
        trained = {name for name, _ in self.build(message.sender).named_parameters()}
        return {
            name: before[name] - steps.to(row.dtype) * row if name in trained else row
            for name, row in message.content.items()
        }

    def _architectures(self, k: int) -> Iterator[Net]:
        own, shared = self.options["model"][k % len(self.options["model"])], self.options.get("shared_model")
        for name in filter(None, dict.fromkeys([own, shared])):
            for heads in (False, True):
                if name in models.readers("heads") or not heads:
                    with streams.torch_seeded("attack", "architecture"):
                        yield models.make(name, self.shape, len(self.classes), self.options["feature_dim"], heads)


def empty(recording: Recording) -> Recording:
    """Return the recording without messages."""
    return replace(recording, messages=[])


def nearest(x: Tensor, images: Tensor) -> Tensor:
    """Return the distance of each of x [m, ...] to the nearest image [n, ...]: float [m], the root of the mean square."""
    return distances(x, images).min(1).values


def distances(x: Tensor, others: Tensor) -> Tensor:
    """Return the root mean square distances [m, n] of images x [m, ...] and others [n, ...]."""
    flat, others = x.flatten(1), others.flatten(1).to(x.dtype)
    return torch.cdist(flat, others, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5


@dataclass(frozen=True)
class Public:
    """Data that anybody may have: labelled examples like the clients', which no client has.

    `candidates`: {client: images and labels}, the client's own and strangers' in random order; an attack may score them.
    """

    examples: Labelled
    candidates: Mapping[int, Labelled]

    def mix(self, n_classes: int) -> Tensor:
        """Return the distribution of the public labels, float64 [C]."""
        return torch.bincount(self.examples.y, minlength=n_classes).double() / len(self.examples.y)


class Guess(NamedTuple):
    """What an attack infers; {} for what it does not infer.

    `mixes`: {client: its label distribution, float [C]}. `images`: {client: normalised images [n, channels, height, width]}.
    `scores`: {client: float [m]}, larger where a candidate is more likely the client's own, on one scale for all clients.
    """

    mixes: Mapping[int, Tensor] = {}  # noqa: RUF012
    images: Mapping[int, Tensor] = {}  # noqa: RUF012
    scores: Mapping[int, Tensor] = {}  # noqa: RUF012
