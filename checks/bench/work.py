"""What all who do a job start from, in one file: the same images, shares, initial weights and settings. It asks for no more
than torch and the networks, so that the environments of other systems can read it."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models

Examples = tuple[Tensor, Tensor]  # x float32 [n, channels, height, width], normalised; y int64 [n]
TEST_BATCH = 250  # images at a time in a test, for all


@dataclass(frozen=True)
class Work:
    """`shares`: the training examples of each client; `test`: those that all test on; `start`: initial weights of the one
    model for all; `own`: of each client, and `server`: of the server, where they have models of their own; `options`: those
    of Chorus's run, by name."""

    shares: list[Examples]
    test: Examples
    start: dict[str, Tensor]
    own: list[dict[str, Tensor]]
    server: dict[str, Tensor]
    options: dict[str, Any]

    @classmethod
    def read(cls, path: Path, device: str = "cpu") -> "Work":
        """From the file, all of it on a device."""
        return cls(**torch.load(path, weights_only=True, map_location=device))

    def write(self, path: Path) -> None:
        """Into a file."""
        torch.save(vars(self), path)

    @property
    def per_round(self) -> int:
        """How many clients take part in a round."""
        return round(len(self.shares) * self.options["participation"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return tuple(self.test[0].shape[1:])

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return int(self.test[1].max()) + 1

    def network(self, weights: dict[str, Tensor] | None = None) -> models.Net:
        """The network of the job, with the weights of the common start or others."""
        return self.build(self.options["model"][0], self.shape, weights or self.start)

    def build(self, name: str, shape: tuple[int, int, int], weights: dict[str, Tensor]) -> models.Net:
        """A network with these weights, for images or maps of a shape; of torch's own layers, without what Chorus has in
        place of one to be faster."""
        net = models.make(name, shape, self.n_classes, self.options["feature_dim"])
        for module in list(net.modules()):
            for place, layer in module.named_children():
                if isinstance(layer, models.MaxPool):
                    setattr(module, place, nn.MaxPool2d(2))
        net.load_state_dict(weights)
        return net.to(self.test[0].device)


class Logits(nn.Module):
    """A network whose forward is its logits alone, which other systems ask for."""

    def __init__(self, net: models.Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[1]


@torch.no_grad()
def accuracy_of(network: Logits, test: Examples) -> float:
    """The part of the test examples that a network takes for what they are, in evaluation mode."""
    network.eval()
    parts = zip(*(part.split(TEST_BATCH) for part in test), strict=True)
    return sum((network(x).argmax(1) == y).sum().item() for x, y in parts) / len(test[1])


def read_options() -> argparse.Namespace:
    """What a program that does a job is called with: `work`, the file, and `threads`; `best` and `device`, of bare loops."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--best", action="store_true")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def tell(**named) -> None:
    """The last words of such a program: `rounds`, seconds of each round, `tests`, seconds of each test (none where these are
    part of `rounds`), `accuracy` after the last, a fraction, and `steps` in all."""
    print(json.dumps(named), flush=True)
