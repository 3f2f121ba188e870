"""The zoo. A model is a function `(shape, n_classes) -> Net` and a line in `MODELS`; it names `feature_dim` as well where it
reads `--feature_dim`, and `heads` where it can be had with auxiliary heads.

`shape` is (channels, height, width) of an image. Every model is a body, images [B, channels, height, width] -> features
[B, D], and a classifier, features -> logits [B, C]; `forward` returns both. Parameters are named accordingly, `body.*` and
`classifier.*`. Parameter counts below are for one channel, 28x28 images and C = 10.

With `heads` a model is a `HeadsNet`, which has classifiers on the way too, `heads.*`. Models with a stem that can be cut off
are `StemNet`s; the server models of FedGKT read the maps of such a stem, whose shape is then `shape`.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError


def computed(module: nn.Module, x: Tensor, precision: str) -> Tensor:
    """module(x), of the type of x; where `precision` is "bf16", computed by torch's autocast to bfloat16."""
    if precision == "float32":
        return module(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        return module(x).to(x.dtype)


PARTS = ("body", "head", "full")  # of a network: head is the classifier, and every auxiliary one


class Net(nn.Module):
    """A body and a linear classifier on its features: forward(x) -> (features [B, D], logits [B, C]). With `precision`
    "bf16" the body is computed in bfloat16; the classifier, and so any loss, in what its weights are."""

    precision = "float32"

    def __init__(self, body: nn.Module, feature_dim: int, n_classes: int, bias: bool = True) -> None:
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(feature_dim, n_classes, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = computed(self.body, x, self.precision)
        return features, self.classifier(features)

    def every_head(self, x: Tensor) -> list[Tensor]:
        """Logits [B, C] of every head from the shallowest to the classifier, which here is the only one."""
        return [self(x)[1]]

    def names(self, part: str) -> set[str]:
        """The parameters and buffers of a part: one of `PARTS`, or "bn", the BatchNorm layers."""
        if part == "bn":
            layers = [(name, module) for name, module in self.named_modules() if isinstance(module, nn.BatchNorm2d)]
            return {f"{name}.{tensor}" for name, module in layers for tensor in module.state_dict()}
        of_body = {name for name in self.state_dict() if name.startswith("body.")}
        return {"body": of_body, "head": self.state_dict().keys() - of_body, "full": set(self.state_dict())}[part]

    def drop_from(self, stream: np.random.Generator) -> None:
        """From now on every `Dropout` draws from `stream`, one after another."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.stream = stream


class StemNet(Net):
    """A `Net` in two parts, of which another network may take the second's place: its body is nn.Sequential(stem, rest), and
    forward(x) is tail(stem(x))."""

    @staticmethod
    def map_shape(shape: Sequence[int]) -> tuple[int, int, int]:
        """Of the map behind any stem, for images of `shape`: every pair that reads such maps fits."""
        return (STEM_WIDTH, *shape[1:])

    @property
    def stem(self) -> nn.Module:
        """Images [B, channels, height, width] -> map [B, STEM_WIDTH, height, width]."""
        return self.body[0]

    def cut(self, x: Tensor) -> Tensor:
        """The map of the stem."""
        return computed(self.stem, x, self.precision)

    def tail(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map of the stem, which stays as it is -> (features [B, D], logits [B, C])."""
        features = computed(self.body[1], x, self.precision)
        return features, self.classifier(features)


class HeadsNet(Net):
    """A `Net` with auxiliary heads on the maps of its body, an nn.Sequential. `taps`: for each head how many modules stand
    before it, and the channels of the map there; the shallowest first.

    An auxiliary head is the mean over the map and a linear layer without bias, of C + 1 outputs u. In training its logits
    are u[:C] / (sigmoid(u[C]) + SCALE_EPSILON): the last output is a temperature for each image, which only sharpens; in
    evaluation they are u[:C], of the same order (Multi-Head Model Distillation, 2024, and its code, which has no epsilon).
    """

    SCALE_EPSILON = 1e-3

    def __init__(
        self, body: nn.Sequential, feature_dim: int, n_classes: int, bias: bool, taps: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__(body, feature_dim, n_classes, bias)
        self.ends = [end for end, _ in taps]
        self.heads = nn.ModuleList(
            nn.Sequential(GlobalMean(), nn.Linear(channels, n_classes + 1, bias=False)) for _, channels in taps
        )

    def every_head(self, x: Tensor) -> list[Tensor]:
        """Logits [B, C] of every head, the shallowest first, the classifier last."""
        said, begin = [], 0
        for head, end in zip(self.heads, self.ends, strict=True):
            x = computed(self.body[begin:end], x, self.precision)
            said.append(self.scaled(head(x)))
            begin = end
        return [*said, self.classifier(computed(self.body[begin:], x, self.precision))]

    def scaled(self, u: Tensor) -> Tensor:
        """u [B, C + 1] -> logits [B, C]."""
        logits, temperature = u[:, :-1], u[:, -1:]
        return logits / (temperature.sigmoid() + self.SCALE_EPSILON) if self.training else logits


class NearestPrototype(nn.Module):
    """A network that is asked by class prototypes [C, D], of which those `held`, bool [C], are there: forward(x) -> features
    [B, D] and minus squared distances [B, C]. A class without one is further away than all others."""

    def __init__(self, net: Net, prototypes: Tensor, held: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("prototypes", prototypes.detach().clone())
        self.register_buffer("held", held.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features, _ = self.net(x)
        away = (features.unsqueeze(1) - self.prototypes).square().sum(2)
        furthest = away.masked_fill(~self.held, 0).amax(1, keepdim=True)
        return features, -torch.where(self.held, away, 2 * furthest + 1)


class Pair(nn.Module):
    """Two networks of a client that learn in the same steps: `own`, which stays, and `shared`, which travels. One row
    has the weights of both, under names that begin with theirs."""

    def __init__(self, own: Net, shared: Net) -> None:
        super().__init__()
        self.own, self.shared = own, shared

    @staticmethod
    def row(**parts: Mapping[str, Any]) -> dict[str, Any]:
        """One row of the rows of its parts, of weights or of an optimizer's memory."""
        return {f"{part}.{name}": tensor for part, row in parts.items() for name, tensor in row.items()}

    @staticmethod
    def part(row: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The row of a part."""
        return {full.removeprefix(f"{name}."): tensor for full, tensor in row.items() if full.startswith(f"{name}.")}

    def drop_from(self, stream: np.random.Generator) -> None:
        """As `Net.drop_from`, one network after the other."""
        for net in (self.own, self.shared):
            net.drop_from(stream)


STEM_WIDTH = 16  # channels of the map between the two sides of a StemNet
ReLU = partial(nn.ReLU, inplace=True)  # the same numbers from less memory


class GlobalMean(nn.Module):
    """[B, D, height, width] -> [B, D]. Unlike adaptive pooling its gradient is deterministic on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        # along a view: the gradient comes back in the memory layout of x, which is channels-last
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2))


class MaxPool(nn.MaxPool2d):
    """2x2 max-pooling, [B, D, height, width] -> [B, D, height // 2, width // 2].

    Where no gradient asks which number was the largest, on a processor, it is two maxima of slices: the same numbers sooner
    (`python checks/costs.py pooling`). Only which zero is the larger, 0 or -0, may be answered otherwise.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side // 2 * 2 for side in x.shape[2:])
        if torch.is_grad_enabled() or x.device.type != "cpu" or not height * width:
            return super().forward(x)  # an image that is too small is refused there
        rows = torch.maximum(x[:, :, 0:height:2, :width], x[:, :, 1:height:2, :width])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class Dropout(nn.Module):
    """In training, each number of x [B, ...] is 0 with probability p and 1 / (1 - p) times itself otherwise; with
    `channels`, whole channels of x [B, D, height, width] share their fate. In evaluation, x.

    The draws come from the `stream` of `Net.drop_from`, so that they depend on what is trained and not on what was drawn
    before; without one, as in a notebook, from torch's own generator.
    """

    def __init__(self, p: float, channels: bool = False) -> None:
        super().__init__()
        self.p, self.channels = p, channels
        self.stream: np.random.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.stream is None:
            return (F.dropout2d if self.channels else F.dropout)(x, self.p)
        shape = (*x.shape[:2], 1, 1) if self.channels else x.shape
        draws = self.stream.random(shape, dtype=np.float32)  # the same whatever the precision of x
        return x * torch.from_numpy((draws >= self.p) / (1 - self.p)).to(x)


def LeNet5(shape, n_classes: int, feature_dim: int) -> Net:
    """The CFKD paper's LeNet5 (Berdoz et al. 2022), not the classical one: 30,986 parameters with feature_dim 84.

    Pooling stands before the ReLU: the same values from fewer of them.
    """
    body = nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(6, 16, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(16, 120, 3, padding=1), ReLU(), GlobalMean()),
        *(nn.Linear(120, feature_dim), nn.Tanh()),
    )
    return Net(body, feature_dim, n_classes)


def LeNet5_classic(shape, n_classes: int) -> Net:
    """LeNet-5 (LeCun et al., 1998) as it is built today, with max-pooling and ReLU: 61,706 parameters, 84 features."""
    channels, height, width = shape
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    body = nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(6, 16, 5), MaxPool(), ReLU(), nn.Flatten()),
        *(nn.Linear(flat, 120), ReLU()),
        *(nn.Linear(120, 84), ReLU()),
    )
    return Net(body, 84, n_classes)


class ResBlock(nn.Module):
    """shortcut(x) + ReLU(BN(conv(ReLU(BN(conv(x)))))), 3x3 convolutions without bias: the ReLU stands before the sum, none
    after. [B, inputs, height, width] -> [B, outputs, height / stride, width / stride], rounded up.

    The stride is the first convolution's. The shortcut is x itself, or BN(conv(x)), 1x1 without bias, where the stride is
    not 1.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(*_conv_bn_relu(inputs, outputs, stride), *_conv_bn_relu(outputs, outputs))
        self.shortcut = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> tuple[nn.Module, ...]:
    return *_conv_bn(inputs, outputs, stride, size), ReLU()


def _conv_bn(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)


def ResNet9(shape, n_classes: int, feature_dim: int) -> Net:
    """The CFKD paper's ResNet9 (Berdoz et al. 2022): 2,470,730 parameters with feature_dim 128; images from 16x16 on."""
    body = nn.Sequential(
        *_conv_bn_relu(shape[0], 64),
        *(*_conv_bn_relu(64, 128), MaxPool(), ResBlock(128, 128)),
        *(*_conv_bn_relu(128, 256), MaxPool()),
        *(*_conv_bn_relu(256, 256), MaxPool(), ResBlock(256, 256)),
        *(MaxPool(), GlobalMean()),
        *(nn.Linear(256, feature_dim), nn.Tanh()),
    )
    return Net(body, feature_dim, n_classes)


def ResNet18(shape, n_classes: int, feature_dim: int) -> Net:
    """The CFKD paper's ResNet18 (Berdoz et al. 2022): 11,302,730 parameters with three channels and feature_dim 256; images
    from 9x9 on."""
    channels, height, width = shape
    if max(height, width) <= 8:
        raise ValueError("the last maps would be single pixels, and a batch of one example nothing to normalise over")
    body = nn.Sequential(
        *_conv_bn_relu(channels, 64),
        *(ResBlock(64, 64), ResBlock(64, 64)),
        *(ResBlock(64, 128, stride=2), ResBlock(128, 128)),
        *(ResBlock(128, 256, stride=2), ResBlock(256, 256)),
        *(ResBlock(256, 512, stride=2), ResBlock(512, 512)),
        *(GlobalMean(), nn.Linear(512, feature_dim), nn.Tanh()),
    )
    return Net(body, feature_dim, n_classes)


# --- the CIFAR ResNets of Group Knowledge Transfer (He, Annavaram and Avestimehr, 2020) ---------------------------------


class SumBlock(nn.Module):
    """ReLU(shortcut(x) + residual(x)), the block of He et al. (2016): [B, inputs, height, width] -> [B, outputs, height /
    stride, width / stride], rounded up.

    The shortcut is x itself, or BN(conv(x)), 1x1 without bias, where the channels or the size change. x stays as it is.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *residual: nn.Module) -> None:
        super().__init__()
        self.outputs, self.stride = outputs, stride
        self.residual = nn.Sequential(*residual)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_conv_bn(inputs, outputs, stride, size=1))
        self.relu = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.residual(x))


class BasicBlock(SumBlock):
    """A `SumBlock` whose residual is BN(conv(ReLU(BN(conv(x))))): 3x3 without bias, the first with the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        residual = (*_conv_bn_relu(inputs, outputs, stride), *_conv_bn(outputs, outputs))
        super().__init__(inputs, outputs, stride, *residual)


class Bottleneck(SumBlock):
    """A `SumBlock` of 4 * planes outputs, whose residual is 1x1 to `planes` channels, 3x3 with the stride, and 1x1 to the
    outputs: convolutions without bias, each with its BN, and a ReLU after the first two."""

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        narrow = (*_conv_bn_relu(inputs, planes, size=1), *_conv_bn_relu(planes, planes, stride))
        super().__init__(inputs, 4 * planes, stride, *narrow, *_conv_bn(planes, 4 * planes, size=1))


def _bottlenecks(inputs: int, *depths: int) -> list[SumBlock]:
    """So many blocks a stage, of planes 16, 32, 64; each stage but the first halves the map."""
    blocks: list[SumBlock] = []
    for stage, depth in enumerate(depths):
        for place in range(depth):
            stride = 2 if stage > 0 and place == 0 else 1
            blocks.append(Bottleneck(blocks[-1].outputs if blocks else inputs, 16 * 2**stage, stride))
    return blocks


def _of_blocks(shape, n_classes: int, blocks: Sequence[SumBlock], stem: bool) -> Net:
    """[stem, ]blocks, mean, classifier; the features are the means. Convolutions start normal with variance 2 / fan_out."""
    channels, height, width = shape
    if max(height, width) <= math.prod(block.stride for block in blocks):
        raise ValueError("the last maps would be single pixels, and a batch of one example nothing to normalise over")
    body = nn.Sequential(*blocks, GlobalMean())
    if stem:
        body = nn.Sequential(nn.Sequential(*_conv_bn_relu(channels, STEM_WIDTH)), body)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return (StemNet if stem else Net)(body, blocks[-1].outputs, n_classes)


def ResNet8(shape, n_classes: int) -> Net:
    """FedGKT's client: stem and two bottlenecks, 64 features; 10,298 parameters, and 10,586 with three channels."""
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 2), stem=True)


def ResNet5(shape, n_classes: int) -> Net:
    """A smaller client: stem and one bottleneck, 64 features; 5,754 parameters, and 6,042 with three channels."""
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 1), stem=True)


def ResNet4(shape, n_classes: int) -> Net:
    """A smaller client, `resnet5_56` in the authors' code: stem and one basic block, 16 features; 5,018 parameters, and
    5,306 with three channels."""
    return _of_blocks(shape, n_classes, [BasicBlock(STEM_WIDTH, STEM_WIDTH)], stem=True)


def ResNet56(shape, n_classes: int) -> Net:
    """Stem and stages of 6, 6, 6 bottlenecks, 256 features; 591,034 parameters, and 591,322 with three channels; images from
    5x5 on."""
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 6, 6, 6), stem=True)


def ResNet110(shape, n_classes: int) -> Net:
    """Stem and stages of 12, 12, 12 bottlenecks, 256 features; 1,147,450 parameters, and 1,147,738 with three channels;
    images from 5x5 on."""
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 12, 12, 12), stem=True)


def ResNet19(shape, n_classes: int) -> Net:
    """A small server for FedGKT, 2, 2, 2 bottlenecks and no stem; 219,914 parameters on maps of 16 channels; from 5x5 on."""
    return _of_blocks(shape, n_classes, _bottlenecks(shape[0], 2, 2, 2), stem=False)


def ResNet55(shape, n_classes: int) -> Net:
    """FedGKT's server, `ResNet56` without its stem: 590,858 parameters on maps of 16 channels; from 5x5 on."""
    return _of_blocks(shape, n_classes, _bottlenecks(shape[0], 6, 6, 6), stem=False)


def ResNet109(shape, n_classes: int) -> Net:
    """FedGKT's larger server, `ResNet110` without its stem: 1,147,274 parameters on maps of 16 channels; from 5x5 on."""
    return _of_blocks(shape, n_classes, _bottlenecks(shape[0], 12, 12, 12), stem=False)


def MLP(shape, n_classes: int) -> Net:
    """One hidden layer of 200 ReLU units, which are the features: 159,010 parameters."""
    channels, height, width = shape
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 200), ReLU()), 200, n_classes)


def MLP_dropout(shape, n_classes: int) -> Net:
    """`MLP` with dropout before its ReLU, as in "Decentralized learning with data exchanging" (Lan, Guo and Yao, 2022)."""
    channels, height, width = shape
    body = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 200), Dropout(0.5), ReLU())
    return Net(body, 200, n_classes)


def TwoNN(shape, n_classes: int) -> Net:
    """The "2NN" of the FedAvg paper (McMahan et al. 2017), two hidden layers of 200 ReLU units, of which the second are the
    features: 199,210 parameters."""
    channels, height, width = shape
    body = nn.Sequential(
        *(nn.Flatten(), nn.Linear(channels * height * width, 200), ReLU()),
        *(nn.Linear(200, 200), ReLU()),
    )
    return Net(body, 200, n_classes)


def CNN_McMahan(shape, n_classes: int) -> Net:
    """The CNN of the FedAvg paper (McMahan et al. 2017): 1,663,370 parameters, 512 features.

    The paper names no activation after the convolutions; ReLU is what TensorFlow Federated's version has.
    """
    channels, height, width = shape
    body = nn.Sequential(
        *(nn.Conv2d(channels, 32, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(32, 64, 5, padding=2), MaxPool(), ReLU(), nn.Flatten()),
        *(nn.Linear(64 * (height // 4) * (width // 4), 512), ReLU()),
    )
    return Net(body, 512, n_classes)


def CNNMnist(shape, n_classes: int) -> Net:
    """The CNN of "Decentralized learning with data exchanging" (Lan, Guo and Yao, 2022): 21,840 parameters, 50 features;
    images from 16x16 on.

    Pooling stands before the dropout of channels and the ReLU: the same values from fewer of them.
    """
    channels, height, width = shape
    flat = 20 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
    body = nn.Sequential(
        *(nn.Conv2d(channels, 10, 5), MaxPool(), ReLU()),
        *(nn.Conv2d(10, 20, 5), MaxPool(), Dropout(0.5, channels=True), ReLU(), nn.Flatten()),
        *(nn.Linear(flat, 50), ReLU(), Dropout(0.5)),
    )
    return Net(body, 50, n_classes)


def CNN_scratch(shape, n_classes: int) -> Net:
    """The network of "Federated Learning - Your Data Stays With You!" (Agarwal, 2021): 28,938 parameters, 1,568 features."""
    channels, height, width = shape
    body = nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(16, 32, 5, padding=2), MaxPool(), ReLU(), nn.Flatten()),
    )
    return Net(body, 32 * (height // 4) * (width // 4), n_classes)


# --- networks that can be had with auxiliary heads ---------------------------------------------------------------------


def _with_heads(body: nn.Sequential, feature_dim: int, n_classes: int, heads: bool, taps, bias: bool = True) -> Net:
    """Alone or with heads, whose classifier has a `bias` or none; the initial weights of what both have are the same."""
    return HeadsNet(body, feature_dim, n_classes, bias, taps) if heads else Net(body, feature_dim, n_classes)


def CNN4(shape, n_classes: int, heads: bool = False) -> Net:
    """Four 3x3 convolutions of 64 channels, each with its BN, pooling and ReLU (FedBABU, Oh et al. 2022): 115,658 parameters
    with three channels and 32x32, and 117,770 with heads on the maps of the first three, pooled.

    A block pools where at least 2x2 is left of the map: all four at 32x32, as published. Pooling stands before the ReLU: the
    same values from fewer of them.
    """
    channels, height, width = shape
    if max(height, width) <= 1:
        raise ValueError("a batch of one example would be nothing to normalise over")
    blocks = []
    for inputs in (channels, 64, 64, 64):
        pools = min(height, width) >= 4
        height, width = (height // 2, width // 2) if pools else (height, width)
        pool = [MaxPool()] if pools else []
        blocks.append(nn.Sequential(nn.Conv2d(inputs, 64, 3, padding=1), nn.BatchNorm2d(64), *pool, ReLU()))
    body = nn.Sequential(*blocks, nn.Flatten())
    return _with_heads(body, 64 * height * width, n_classes, heads, taps=[(1, 64), (2, 64), (3, 64)])


def MobileNet(shape, n_classes: int, heads: bool = False) -> Net:
    """MobileNet for CIFAR (Howard et al. 2017, as FedBABU and MHMD have it): 3x3 convolution and 13 depthwise separable
    blocks, 1,024 features; 3,309,476 parameters with three channels and C = 100; images from 17x17 on.

    With heads, on the maps after blocks 3, 6 and 9, 3,438,656: the classifier then has no bias.
    """
    channels, height, width = shape
    if max(height, width) <= 16:
        raise ValueError("the last maps would be single pixels, and a batch of one example nothing to normalise over")
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    blocks = [nn.Sequential(*_conv_bn_relu(channels, 32))]
    for place, (inputs, outputs) in enumerate(zip((32, *widths), widths, strict=False)):
        stride = 2 if place in (1, 3, 5, 11) else 1
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        pointwise = _conv_bn_relu(inputs, outputs, size=1)
        blocks.append(nn.Sequential(depthwise, nn.BatchNorm2d(inputs), ReLU(), *pointwise))
    body = nn.Sequential(*blocks, GlobalMean())
    return _with_heads(body, 1024, n_classes, heads, taps=[(5, 256), (8, 512), (11, 512)], bias=False)


MUST_BE = (  # what a line says to those who write one
    "a model is a function of (shape, n_classes) that returns models.Net(body, feature_dim, n_classes), or a subclass: "
    "forward(x) -> (features [B, feature_dim], logits [B, n_classes]), and classifier, an nn.Linear between the two"
)
MODELS: dict[str, Callable[..., Net]] = {
    "LeNet5": LeNet5,
    "LeNet5_classic": LeNet5_classic,
    "ResNet9": ResNet9,
    "ResNet18": ResNet18,
    "ResNet4": ResNet4,
    "ResNet5": ResNet5,
    "ResNet8": ResNet8,
    "ResNet56": ResNet56,
    "ResNet110": ResNet110,
    "ResNet19": ResNet19,
    "ResNet55": ResNet55,
    "ResNet109": ResNet109,
    "MLP": MLP,
    "MLP_dropout": MLP_dropout,
    "2NN": TwoNN,
    "CNN_McMahan": CNN_McMahan,
    "CNNMnist": CNNMnist,
    "CNN_scratch": CNN_scratch,
    "CNN4": CNN4,
    "MobileNet": MobileNet,
}


def readers(parameter: str) -> tuple[str, ...]:
    """The models that name it, "feature_dim" or "heads"."""
    return tuple(name for name, model in MODELS.items() if parameter in inspect.signature(model).parameters)


def make(name: str, shape: tuple[int, int, int], n_classes: int, feature_dim: int, heads: bool = False) -> Net:
    """A new `name`, initialised from torch's generator; with auxiliary heads where it has any and `heads` asks for them."""
    optional = {"feature_dim": feature_dim, "heads": heads}
    read = inspect.signature(MODELS[name]).parameters
    return MODELS[name](shape, n_classes, **{what: value for what, value in optional.items() if what in read})


def with_batch_norm() -> list[str]:
    """The models that have BatchNorm layers."""
    found = []
    for name in MODELS:
        with torch.device("meta"), suppress(Exception):  # of a plugin
            found += [name] if make(name, (1, 28, 28), 10, 100).names("bn") else []
    return found


def of_client(options: Mapping[str, Any], inputs: Sequence[Any], client: int, heads: bool = False) -> Net:
    """A new network of a client's architecture, of which they are dealt in turn: `options` and `inputs` as in a run's
    `config.json`. Raises UserError for a model of a plugin that is not loaded."""
    (shape, n_classes), names = inputs, options["model"]
    name = names[client % len(names)]
    if name not in MODELS:
        raise UserError(f"--model {name}: is of a plugin, which must be loaded first: plugins.load(FILE)")
    return make(name, tuple(shape), n_classes, options["feature_dim"], heads)


def build(name: str, shape: tuple[int, int, int], n_classes: int, feature_dim: int, heads: bool = False) -> Net:
    """A new `name`, tried out. Raises UserError where it does not fit such images, for vectors has convolutions, or is not
    what a model must be."""
    asked = (shape, n_classes, feature_dim, heads)
    model = _tried(name, *asked)
    if shape[1:] == (1, 1) and (model is None or _convolves(model)):
        others = [other for other in MODELS if _takes_vectors(other, *asked)]
        raise UserError(
            f"--model {name}: is for images, not for vectors of {shape[0]} features; must be {' or '.join(others)}"
        )
    if model is None:
        size = "x".join(map(str, shape[1:]))
        raise UserError(f"--model {name}: does not fit images of {shape[0]} channels and {size} pixels")
    return model


def _tried(name: str, shape: tuple[int, int, int], n_classes: int, feature_dim: int, heads: bool) -> Net | None:
    """A new `name`; None where it does not fit such images. Raises UserError where it is not what a model must be."""
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():  # a layer of size 0 warns, and is refused here
            model = make(name, shape, n_classes, feature_dim, heads)
            if not isinstance(model, Net):
                raise UserError(f"--model {name}: is a {type(model).__name__} and no Net; {MUST_BE}")
            said = model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, ZeroDivisionError):
        return None
    sizes = [list(part.shape) if isinstance(part, Tensor) else part for part in said] if isinstance(said, tuple) else [said]
    if sizes != [[1, getattr(model.classifier, "in_features", None)], [1, n_classes]]:
        what = " and ".join(map(str, sizes)) if isinstance(said, tuple) else type(said).__name__
        raise UserError(f"--model {name}: gives {what} for one example, {n_classes} classes; {MUST_BE}")
    return model.train()


def _takes_vectors(name: str, *asked: Any) -> bool:
    with suppress(Exception):  # of a plugin
        return (model := _tried(name, *asked)) is not None and not _convolves(model)
    return False


def _convolves(model: Net) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())
