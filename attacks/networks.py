"""Networks for attacks: the clients' networks that an attacker can evaluate, and networks that it trains on public data."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import helpers
import models
from attacks.knowledge import Labelled, Public, Recording, Weights
from data.datasets import Data
from federation import Federation, computing_with
from models import Net

AT_ONCE = 250  # images in a batch
N_PUBLIC = 2000  # public images on which a head is fitted
DECAY = 1e-3  # weight decay of a fitted head: without it, separable features have no best head


class Evaluated(NamedTuple):
    """A client's network in evaluation mode; `is_fitted`: whether its head is of `fitted` and not the client's."""

    model: nn.Module
    is_fitted: bool


def of_clients(recording: Recording, public: Public) -> dict[int, list[Evaluated]]:
    """Return {client: its networks}: the last one that it sent, and with `--knows network` its own one.

    A body without a head has a fitted one. Weights without a body are of no use.
    """
    networks: dict[int, list[Evaluated]] = {}
    for rows in (recording.sent_weights(), recording.networks if recording.knows == "network" else {}):
        for k, row in rows.items():
            model = recording.network(k, row)
            body = None if model else _with_body(recording, k, row)
            if model or body:
                networks.setdefault(k, []).append(Evaluated(model or fitted(body, public), body is not None))
    return networks


def _with_body(recording: Recording, k: int, row: Weights) -> Net | None:
    model = recording.build(k).eval()
    own, names = model.state_dict(), model.names("body")
    if any(name not in row or row[name].shape != own[name].shape for name in names):
        return None
    model.load_state_dict({**own, **{name: row[name] for name in names}})
    return model


def fitted(model: Net, public: Public) -> Net:
    """Return the network with the head that has the least cross-entropy on public images."""
    examples, head = public.examples, model.classifier
    n = min(N_PUBLIC, len(examples.y) // 2)  # the other half shows what the network does on unknown images
    features, y = evaluate(model, examples.x[:n])[0], examples.y[:n]
    scale = features.square().mean().sqrt().clamp(min=1e-12)
    weight, bias = torch.zeros_like(head.weight).requires_grad_(), torch.zeros(len(head.weight)).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features / scale @ weight.T + bias, y) + DECAY / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        if head.bias is not None:
            head.bias.copy_(bias)
    return model


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a network's features [n, D] and logits [n, C] for images [n, channels, height, width]."""
    features, logits = zip(*(model(part) for part in x.split(AT_ONCE)), strict=True)
    return torch.cat(features), torch.cat(logits)


def train(
    recording: Recording, public: Public, k: int, shares: Sequence[Tensor], most_epochs: int, name: str
) -> Iterator[Net]:
    """Yield a network of client k's architecture for each share of the public examples, trained as the run trains.

    All options of local training are the run's: optimizer, learning rate and its schedule, batches, augmentation. A network
    trains alone, for as many epochs as a client, but at most `most_epochs`. `name` seeds the draws.
    """
    rounds, epochs = _lengths(recording, max(map(len, shares), default=0), most_epochs)
    training = {"rounds": rounds, "epoch_per_round": epochs, "local_steps": 0, "stacked": len(shares), "dp_sgd": 0.0}
    options = SimpleNamespace(**{**recording.options, **training})
    names = recording.options["model"]
    build = partial(
        models.make, names[k % len(names)], recording.shape, len(recording.classes), recording.options["feature_dim"]
    )
    if not shares:
        return
    federation = Federation.of(_data(recording, public.examples), shares, [build], party=f"attack {name}")
    state = helpers.own_models(federation)
    with computing_with(1):
        for r in range(1, rounds + 1):
            helpers.train_own(federation.at(r), federation.clients, state, helpers.cross_entropy, options)
    for s, row in enumerate(state["weights"]):
        yield federation.model(s, row)


def training_flops(recording: Recording, k: int, n_examples: int, most_epochs: int) -> int:
    """Return the floating point operations of `train` for a share of n examples: three forward passes an image."""
    with FlopCounterMode(display=False) as counter:
        evaluate(recording.build(k).eval(), torch.zeros(1, *recording.shape))
    rounds, epochs = _lengths(recording, n_examples, most_epochs)
    return max(3 * counter.get_total_flops() * n_examples * rounds * epochs, 1)


def _lengths(recording: Recording, n_examples: int, most_epochs: int) -> tuple[int, int]:
    """Return the rounds and the epochs per round of a training on n examples."""
    options = recording.options
    epochs = options["epoch_per_round"]
    if steps := options.get("local_steps"):  # runs of earlier versions have no `--local_steps`
        epochs = math.ceil(steps * options["batch_size"] / max(n_examples, 1))
    epochs = min(epochs, most_epochs)
    return min(recording.options["rounds"], max(most_epochs // max(epochs, 1), 1)), epochs


def _data(recording: Recording, examples: Labelled) -> Data:
    pixels = recording.pixels(examples.x)  # `--augment` needs pixels, whose black is 0
    return Data("public", pixels, examples.y, len(examples.y), recording.classes, recording.mean, recording.std)
