"""Several clients of one architecture as one network: one forward and backward pass for all.

A stack of C clients holds its weights as tensors [C, ...]. Between its layers, maps are [B, C * channels, height, width] in
channels-last layout and vectors are [C, B, D]: a convolution has C times the groups, a linear layer is a batched matrix
product, and BatchNorm normalises C times the channels. So no client's numbers enter another's, and each client's are those
of its own network up to rounding.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models


class NotStackedError(Exception):
    """A network or a loss that a stack cannot compute; the message says why."""


class Conv2d(nn.Conv2d):
    """The convolutions of C clients, on maps."""

    def forward(self, x: Tensor) -> Tensor:
        bias, groups = None if self.bias is None else self.bias.flatten(), self.groups * len(self.weight)
        return F.conv2d(x, self.weight.flatten(0, 1), bias, self.stride, self.padding, self.dilation, groups)


class BatchNorm2d(nn.BatchNorm2d):
    """The BatchNorm layers of C clients, on maps."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        of_channels = (t.flatten() for t in (self.running_mean, self.running_var, self.weight, self.bias))
        return F.batch_norm(x, *of_channels, self.training, self.momentum, self.eps)


class GroupNorm(nn.GroupNorm):
    """The GroupNorm layers of C clients, on maps."""

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.n * self.num_groups, self.weight.flatten(), self.bias.flatten(), self.eps)


class Linear(nn.Linear):
    """The linear layers of C clients, on vectors."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.transpose(1, 2)
        return torch.bmm(x, weight) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), x, weight)


class Flatten(nn.Flatten):
    """Maps to vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return _by_client(x, self.n).flatten(2) if x.ndim == 4 else x


class GlobalMean(models.GlobalMean):
    """Maps to vectors: the means over a map."""

    def forward(self, x: Tensor) -> Tensor:
        return _by_client(super().forward(x), self.n)


class Dropout(models.Dropout):
    """The dropout of C clients, each with the draws of its own stream, on maps or vectors."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        of_clients = x.unbind() if x.ndim == 3 else x.chunk(self.n, 1)
        dropped = [self._dropped(x_k, stream) for x_k, stream in zip(of_clients, self.streams, strict=True)]
        return torch.stack(dropped) if x.ndim == 3 else torch.cat(dropped, 1)

    def _dropped(self, x: Tensor, stream: np.random.Generator) -> Tensor:
        self.stream = stream
        return super().forward(x)


def _by_client(x: Tensor, n: int) -> Tensor:
    """Return [B, C * D, ...] as [C, B, D, ...]."""
    return x.unflatten(1, (n, -1)).transpose(0, 1)


# the layer of a stack for each layer of a client; a layer of its own class is the same for both
LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.GroupNorm: GroupNorm,
    nn.Linear: Linear,
    nn.Flatten: Flatten,
    models.GlobalMean: GlobalMean,
    models.Dropout: Dropout,
    **{layer: layer for layer in (models.MaxPool, nn.ReLU, nn.Tanh, nn.Identity, nn.Sequential)},
    **{block: block for block in (models.ResBlock, models.BasicBlock, models.Bottleneck, models.Net, models.StemNet)},
}


class Stack:
    """The networks of n clients of an architecture as one, `net`, whose parameters and buffers are [n, ...].

    Raise NotStackedError for a network with a layer that is not in `LAYERS`.
    """

    def __init__(self, skeleton: nn.Module, n: int) -> None:
        self.net = copy.deepcopy(skeleton)
        if len(list(skeleton.parameters())) < len(list(skeleton.named_parameters(remove_duplicate=False))):
            raise NotStackedError("layers with shared weights cannot be stacked")
        for module in self.net.modules():
            if type(module) not in LAYERS or getattr(module, "padding_mode", "zeros") != "zeros":
                raise NotStackedError(f"a {type(module).__name__} cannot be stacked")
            module.__class__, module.n = LAYERS[type(module)], n
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(_rows_like(parameter.detach(), n)))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, _rows_like(buffer, n))

    def fill(self, rows: Sequence[dict[str, Tensor]], streams: Sequence[np.random.Generator]) -> None:
        """Take over the clients' weights, and the streams of their dropout."""
        for name, tensor in self.net.state_dict().items():
            for stacked, row in zip(tensor, rows, strict=True):
                stacked.copy_(row[name])
        for module in self.net.modules():
            if isinstance(module, Dropout):
                module.streams = streams

    def row(self, c: int) -> dict[str, Tensor]:
        """Return a copy of the weights of the client at position c."""
        return {name: tensor[c].clone() for name, tensor in self.net.state_dict().items()}

    def losses(self, images: Tensor, loss: Callable[[Any, Tensor, int], Tensor]) -> Tensor:
        """Return loss(model, images of the client, c) of the client at each position c, as a tensor [n].

        `images` [n, B, channels, height, width]. A model is a `Member`. Raise NotStackedError for a loss that fails with it.
        """
        shared = _Pass(self.net, images)
        try:
            return torch.stack([loss(Member(shared, x, c), x, c) for c, x in enumerate(images)])
        except NotStackedError:
            raise
        except Exception as error:  # a loss is any function of any module
            raise NotStackedError(f"the loss fails with stacked clients: {type(error).__name__}: {error}") from error


class _Pass:
    """One pass of a stack: its outputs and its weights by client, computed when the first client needs them."""

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        self.net, self._images, self._outputs = net, images, None
        self.parameters = dict(net.named_parameters())
        self._rows: dict[str, tuple[Tensor, ...]] = {}

    def outputs(self, c: int) -> tuple[Tensor, Tensor]:
        """Return (features [B, D], logits [B, C]) of a client."""
        if self._outputs is None:
            # [B, n * channels, height, width]; in another layout a step takes twice as long
            x = self._images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
            self._outputs = [part.unbind() for part in self.net(x)]
        features, logits = self._outputs
        return features[c], logits[c]

    def weight(self, name: str, c: int) -> Tensor:
        """Return a parameter of a client, as part of the stack's."""
        if name not in self._rows:
            self._rows[name] = self.parameters[name].unbind()
        return self._rows[name][c]


class Member:
    """The model of one client in a stack, for its loss.

    The loss may call the model once, on the images of its batch, read its parameters and call its classifier. Raise
    NotStackedError for any other use.
    """

    training = True

    def __init__(self, shared: _Pass, images: Tensor, c: int) -> None:
        self._shared, self._images, self._c = shared, images, c

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (features [B, D], logits [B, C])."""
        if x is not self._images or not torch.is_grad_enabled():
            raise NotStackedError("the loss calls the model more than once, or on other images than its batch")
        self._images = None
        return self._shared.outputs(self._c)

    def named_parameters(self, **by_torch: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, parameter of this client)."""
        if by_torch:  # torch's `functional_call`
            raise NotStackedError("the loss computes the network with other weights")
        for name in self._shared.parameters:
            yield name, self._shared.weight(name, self._c)

    @property
    def classifier(self) -> Callable[[Tensor], Tensor]:
        """Return the client's classifier, a function from features to logits."""
        tensors = {name.rpartition(".")[2]: w for name, w in self.named_parameters() if name.startswith("classifier.")}
        return partial(F.linear, **tensors)

    def __getattr__(self, name: str) -> Any:
        raise NotStackedError(f"the loss uses `{name}` of the model")


def _rows_like(tensor: Tensor, n: int) -> Tensor:
    """Return n tensors of this shape and layout as one [n, ...], without values."""
    return torch.empty_strided(
        (n, *tensor.shape), (tensor.numel(), *tensor.stride()), dtype=tensor.dtype, device=tensor.device
    )
