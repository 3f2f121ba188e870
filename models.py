"""The models. A model is a function `(shape, n_classes) -> Net` and a line in `MODELS`.

The function has a parameter `feature_dim` if it uses `--feature_dim`, and `heads` if it can have auxiliary heads. Any other
`nn.Module` becomes a `Net` if its last layer is an `nn.Linear`: see `own_net`.

`shape` is (channels, height, width) of an image. Every model is a body, images [B, channels, height, width] -> features [B,
D], and a classifier, features -> logits [B, C]; `forward` returns both. Parameters are named `body.*` and `classifier.*`.
Parameter counts below are for one channel, 28x28 images and C = 10.

With `heads` a model is a `HeadsNet`, which has classifiers at intermediate layers too, `heads.*`. Models with a separable
stem are `StemNet`s; the server models of FedGKT read the maps of such a stem, and `shape` is then the shape of a map.
"""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import streams
from errors import UserError


def computed(module: nn.Module, x: Tensor, precision: str) -> Tensor:
    """Return module(x), with the type of x; with `precision` "bf16", computed by torch's autocast to bfloat16."""
    if precision == "float32":
        return module(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        return module(x).to(x.dtype)


PARTS = ("body", "head", "full")  # of a network: the head is the classifier and all auxiliary heads
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Net(nn.Module):
    """A body and a linear classifier on its features: forward(x) -> (features [B, D], logits [B, C]).

    With `precision` "bf16" the body is computed in bfloat16; the classifier, and so any loss, in the type of its weights.
    """

    precision = "float32"
    channels_last = True  # whether the layers compute the same in the layout channels-last, which is faster on a CPU

    def __init__(self, body: nn.Module, feature_dim: int, n_classes: int, bias: bool = True) -> None:
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(feature_dim, n_classes, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = computed(self.body, x, self.precision)
        return features, self.classifier(features)

    def every_head(self, x: Tensor) -> list[Tensor]:
        """Return the logits [B, C] of every head from the shallowest to the classifier, here the only head."""
        return [self(x)[1]]

    def names(self, part: str) -> set[str]:
        """Return the names of the parameters and buffers of a part: one of `PARTS`, or "bn", the BatchNorm layers."""
        if part == "bn":
            layers = [(name, module) for name, module in self.named_modules() if isinstance(module, BATCH_NORM)]
            return {f"{name}.{tensor}" for name, module in layers for tensor in module.state_dict()}
        of_body = {name for name in self.state_dict() if name.startswith("body.")}
        return {"body": of_body, "head": self.state_dict().keys() - of_body, "full": set(self.state_dict())}[part]

    def drop_from(self, stream: np.random.Generator) -> None:
        """Let every `Dropout` draw from `stream` from now on, one after another."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.stream = stream


class StemNet(Net):
    """A `Net` in two parts, of which another network can replace the second.

    Its body is nn.Sequential(stem, rest), and forward(x) is tail(stem(x)).
    """

    @staticmethod
    def map_shape(shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape of the map after any stem, for images of `shape`: all pairs of stem and tail fit."""
        return (STEM_WIDTH, *shape[1:])

    @property
    def stem(self) -> nn.Module:
        """Return the stem: images [B, channels, height, width] -> map [B, STEM_WIDTH, height, width]."""
        return self.body[0]

    def cut(self, x: Tensor) -> Tensor:
        """Return the map of the stem."""
        return computed(self.stem, x, self.precision)

    def tail(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (features [B, D], logits [B, C]) of the stem's map, which does not change."""
        features = computed(self.body[1], x, self.precision)
        return features, self.classifier(features)


class HeadsNet(Net):
    """A `Net` with auxiliary heads on the maps of its body, an nn.Sequential.

    `taps`: for each head, the number of modules before it and the channels of the map there; the shallowest head first.

    An auxiliary head is the mean over the map and a linear layer without bias, of C + 1 outputs u. In training its logits
    are u[:C] / (sigmoid(u[C]) + SCALE_EPSILON): the last output is a temperature for each image, which only sharpens. In
    evaluation the logits are u[:C], with the same order (Multi-Head Model Distillation, 2024, and its code, which has no
    epsilon).
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
        """Return the logits [B, C] of every head, the shallowest first, the classifier last."""
        logits_by_head, begin = [], 0
        for head, end in zip(self.heads, self.ends, strict=True):
            x = computed(self.body[begin:end], x, self.precision)
            logits_by_head.append(self.scaled(head(x)))
            begin = end
        return [*logits_by_head, self.classifier(computed(self.body[begin:], x, self.precision))]

    def scaled(self, u: Tensor) -> Tensor:
        """Return the logits [B, C] of u [B, C + 1]."""
        logits, temperature = u[:, :-1], u[:, -1:]
        return logits / (temperature.sigmoid() + self.SCALE_EPSILON) if self.training else logits


class BeforeHead(nn.Module):
    """The part of a network before its head: images -> what the head reads.

    `head`: the name of the head in the network, in whose place there are zeros from now on.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network, self.head = network, head
        parent, _, name = head.rpartition(".")
        setattr(network.get_submodule(parent), name, _Zeros(network.get_submodule(head).out_features))

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.network.get_submodule(self.head).inputs
        inputs.clear()
        self.network(x.clone(memory_format=torch.contiguous_format))  # `contiguous` keeps the strides of one channel
        return inputs.pop()


class _Zeros(nn.Module):
    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x)
        return x.new_zeros(*x.shape[:-1], self.n_outputs)


class OwnNet(Net):
    """A user's network as a `Net`: its head is the classifier, and the features are what the head reads.

    The head is the `nn.Linear` whose output the network returns, or the layer that the network's attribute `head` names.
    Raise UserError for a network without such a layer.
    """

    channels_last = False  # a network may use `view`, which depends on the layout

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        nn.Module.__init__(self)
        head = _head_of(network, torch.zeros(1, *shape))
        classifier = network.get_submodule(head)
        self.body, self.classifier = BeforeHead(network, head), classifier


def _head_of(network: nn.Module, x: Tensor) -> str:
    calls: list[tuple[str, Tensor, Tensor]] = []  # of each linear layer: its name, input and output
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear) and name}

    def record(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        calls.append((name, inputs[0], output))

    hooks = [module.register_forward_hook(partial(record, name)) for name, module in linear.items()]
    with torch.no_grad():
        result = network.eval()(x)
    network.train()
    for hook in hooks:
        hook.remove()
    head = getattr(network, "head", None)
    if not isinstance(head, str):
        head = next((name for name, _, output in calls if output is result), None)
        if head is None:
            last = f"other numbers than its last Linear layer, {calls[-1][0]}" if calls else "numbers of no Linear layer"
            raise UserError(f"its forward returns {last}; {HEAD}")
    if head not in linear:
        raise UserError(f"its head = {head!r} is none of its Linear layers, {', '.join(linear)}")
    inputs = [features for name, features, _ in calls if name == head]
    if len(inputs) != 1 or inputs[0].ndim != 2:
        sizes = " and ".join(str(list(features.shape)) for features in inputs) or "nothing"
        raise UserError(f"its head {head} reads {sizes} for one image; it must read [1, D], in a single call")
    return head


HEAD = (
    "return the output of a Linear layer, or name the layer in the class, as in head = 'fc'; Chorus then leaves out what "
    "follows, such as log_softmax"
)


class NearestPrototype(nn.Module):
    """A network that classifies by class prototypes [C, D].

    forward(x) -> (features [B, D], negative squared distances [B, C]). `held`, bool [C], marks the classes with a prototype.
    A class without a prototype is further away than all others.
    """

    def __init__(self, net: Net, prototypes: Tensor, held: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("prototypes", prototypes.detach().clone())
        self.register_buffer("held", held.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features, _ = self.net(x)
        distances = (features.unsqueeze(1) - self.prototypes).square().sum(2)
        largest = distances.masked_fill(~self.held, 0).amax(1, keepdim=True)
        return features, -torch.where(self.held, distances, 2 * largest + 1)


class Pair(nn.Module):
    """Two networks of a client that train in the same steps: `own`, which stays, and `shared`, which travels.

    One row has the weights of both, under names with the prefix of the network.
    """

    def __init__(self, own: Net, shared: Net) -> None:
        super().__init__()
        self.own, self.shared = own, shared

    @staticmethod
    def row(**parts: Mapping[str, Any]) -> dict[str, Any]:
        """Return one row from the rows of its parts, of weights or of an optimizer's memory."""
        return {f"{part}.{name}": tensor for part, row in parts.items() for name, tensor in row.items()}

    @staticmethod
    def part(row: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Return the row of a part."""
        return {
            full_name.removeprefix(f"{name}."): tensor
            for full_name, tensor in row.items()
            if full_name.startswith(f"{name}.")
        }

    def drop_from(self, stream: np.random.Generator) -> None:
        """Call `Net.drop_from` on both networks."""
        for net in (self.own, self.shared):
            net.drop_from(stream)


STEM_WIDTH = 16  # channels of the map between the two parts of a StemNet
ReLU = partial(nn.ReLU, inplace=True)  # in place: the same numbers with less memory


class GlobalMean(nn.Module):
    """[B, D, height, width] -> [B, D]. Unlike adaptive pooling, its gradient is deterministic on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        # on a view, so that the gradient has the memory layout of x, which is channels-last
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2))


class MaxPool(nn.MaxPool2d):
    """2x2 max-pooling, [B, D, height, width] -> [B, D, height // 2, width // 2].

    Without gradients on a CPU it is two maxima of slices: the same numbers in less time (`python checks/costs.py pooling`).
    Only the choice between 0 and -0 may differ.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side // 2 * 2 for side in x.shape[2:])
        plain = torch.is_grad_enabled() or torch.jit.is_tracing() or x.device.type != "cpu"
        if plain or not height * width:
            return super().forward(x)  # torch raises an error for an image that is too small
        rows = torch.maximum(x[:, :, 0:height:2, :width], x[:, :, 1:height:2, :width])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class Dropout(nn.Module):
    """In training, set each number of x [B, ...] to 0 with probability p and multiply it by 1 / (1 - p) otherwise.

    With `channels`, the choice is per channel of x [B, D, height, width]. In evaluation, return x.

    The draws come from the `stream` of `Net.drop_from`, so that they depend on the training and not on earlier draws;
    without a stream, as in a notebook, from torch's own generator.
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
        draws = self.stream.random(shape, dtype=np.float32)  # the same draws for any precision of x
        return x * streams.moved(torch.from_numpy((draws >= self.p) / (1 - self.p)).to(x.dtype), x.device)


def LeNet5(shape, n_classes: int, feature_dim: int) -> Net:
    """Return the CFKD paper's LeNet5 (Berdoz et al. 2022), not the classical one: 30,986 parameters with feature_dim 84.

    Pooling comes before the ReLU: the same values with less work.
    """
    body = nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(6, 16, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(16, 120, 3, padding=1), ReLU(), GlobalMean()),
        *(nn.Linear(120, feature_dim), nn.Tanh()),
    )
    return Net(body, feature_dim, n_classes)


def LeNet5_classic(shape, n_classes: int) -> Net:
    """Return LeNet-5 (LeCun et al., 1998) in today's form, with max-pooling and ReLU: 61,706 parameters, 84 features."""
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
    """shortcut(x) + ReLU(BN(conv(ReLU(BN(conv(x)))))), 3x3 convolutions without bias.

    The last ReLU comes before the sum, none after. [B, inputs, height, width] -> [B, outputs, height / stride, width /
    stride], rounded up. The stride is the first convolution's. The shortcut is x itself, or BN(conv(x)), 1x1 without bias,
    if the stride is not 1.
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
    """Return the CFKD paper's ResNet9 (Berdoz et al. 2022): 2,470,730 parameters with feature_dim 128.

    Images must be 16x16 or larger.
    """
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
    """Return the CFKD paper's ResNet18 (Berdoz et al. 2022): 11,302,730 parameters with three channels and feature_dim 256.

    Images must be 9x9 or larger.
    """
    channels, height, width = shape
    if max(height, width) <= 8:
        raise ValueError("the last feature maps have one pixel, so BatchNorm needs more than one example")
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
    """ReLU(shortcut(x) + residual(x)), the block of He et al. (2016).

    [B, inputs, height, width] -> [B, outputs, height / stride, width / stride], rounded up. The shortcut is x itself, or
    BN(conv(x)), 1x1 without bias, if the channels or the size change. x does not change.
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
    """A `SumBlock` of 4 * planes outputs.

    Its residual is 1x1 to `planes` channels, 3x3 with the stride, and 1x1 to the outputs: convolutions without bias, each
    with its BN, and a ReLU after the first two.
    """

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        narrow = (*_conv_bn_relu(inputs, planes, size=1), *_conv_bn_relu(planes, planes, stride))
        super().__init__(inputs, 4 * planes, stride, *narrow, *_conv_bn(planes, 4 * planes, size=1))


def _bottlenecks(inputs: int, *depths: int) -> list[SumBlock]:
    """Return `depths` blocks per stage, of planes 16, 32, 64; each stage but the first halves the map."""
    blocks: list[SumBlock] = []
    for stage, depth in enumerate(depths):
        for i in range(depth):
            stride = 2 if stage > 0 and i == 0 else 1
            blocks.append(Bottleneck(blocks[-1].outputs if blocks else inputs, 16 * 2**stage, stride))
    return blocks


def _of_blocks(shape, n_classes: int, blocks: Sequence[SumBlock], stem: bool) -> Net:
    """Return [stem, ]blocks, mean, classifier; the features are the means.

    Convolutions are initialised from a normal distribution with variance 2 / fan_out.
    """
    channels, height, width = shape
    if max(height, width) <= math.prod(block.stride for block in blocks):
        raise ValueError("the last feature maps have one pixel, so BatchNorm needs more than one example")
    body = nn.Sequential(*blocks, GlobalMean())
    if stem:
        body = nn.Sequential(nn.Sequential(*_conv_bn_relu(channels, STEM_WIDTH)), body)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return (StemNet if stem else Net)(body, blocks[-1].outputs, n_classes)


def ResNet8(shape, n_classes: int) -> Net:
    """Return FedGKT's client: stem and two bottlenecks, 64 features; 10,298 parameters, and 10,586 with three channels."""
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 2), stem=True)


def ResNet5(shape, n_classes: int) -> Net:
    """Return a smaller client: stem and one bottleneck, 64 features; 5,754 parameters, and 6,042 with three channels."""
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 1), stem=True)


def ResNet4(shape, n_classes: int) -> Net:
    """Return a smaller client, `resnet5_56` in the authors' code: stem and one basic block, 16 features.

    5,018 parameters, and 5,306 with three channels.
    """
    return _of_blocks(shape, n_classes, [BasicBlock(STEM_WIDTH, STEM_WIDTH)], stem=True)


def ResNet56(shape, n_classes: int) -> Net:
    """Return stem and stages of 6, 6, 6 bottlenecks, 256 features.

    591,034 parameters, and 591,322 with three channels. Images must be 5x5 or larger.
    """
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 6, 6, 6), stem=True)


def ResNet110(shape, n_classes: int) -> Net:
    """Return stem and stages of 12, 12, 12 bottlenecks, 256 features.

    1,147,450 parameters, and 1,147,738 with three channels. Images must be 5x5 or larger.
    """
    return _of_blocks(shape, n_classes, _bottlenecks(STEM_WIDTH, 12, 12, 12), stem=True)


def ResNet19(shape, n_classes: int) -> Net:
    """Return a small server for FedGKT, 2, 2, 2 bottlenecks and no stem; 219,914 parameters on maps of 16 channels.

    Maps must be 5x5 or larger.
    """
    return _of_blocks(shape, n_classes, _bottlenecks(shape[0], 2, 2, 2), stem=False)


def ResNet55(shape, n_classes: int) -> Net:
    """Return FedGKT's server, `ResNet56` without its stem: 590,858 parameters on maps of 16 channels, of 5x5 or larger."""
    return _of_blocks(shape, n_classes, _bottlenecks(shape[0], 6, 6, 6), stem=False)


def ResNet109(shape, n_classes: int) -> Net:
    """Return FedGKT's larger server, `ResNet110` without its stem: 1,147,274 parameters on maps of 16 channels.

    Maps must be 5x5 or larger.
    """
    return _of_blocks(shape, n_classes, _bottlenecks(shape[0], 12, 12, 12), stem=False)


def MLP(shape, n_classes: int) -> Net:
    """Return one hidden layer of 200 ReLU units, which are the features: 159,010 parameters."""
    channels, height, width = shape
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 200), ReLU()), 200, n_classes)


def MLP_dropout(shape, n_classes: int) -> Net:
    """Return `MLP` with dropout before its ReLU.

    As in "Decentralized learning with data exchanging" (Lan, Guo and Yao, 2022).
    """
    channels, height, width = shape
    body = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 200), Dropout(0.5), ReLU())
    return Net(body, 200, n_classes)


def TwoNN(shape, n_classes: int) -> Net:
    """Return the "2NN" of the FedAvg paper (McMahan et al. 2017): 199,210 parameters.

    It has two hidden layers of 200 ReLU units, and the second layer is the features.
    """
    channels, height, width = shape
    body = nn.Sequential(
        *(nn.Flatten(), nn.Linear(channels * height * width, 200), ReLU()),
        *(nn.Linear(200, 200), ReLU()),
    )
    return Net(body, 200, n_classes)


def CNN_McMahan(shape, n_classes: int) -> Net:
    """Return the CNN of the FedAvg paper (McMahan et al. 2017): 1,663,370 parameters, 512 features.

    The paper names no activation after the convolutions; TensorFlow Federated's version has ReLU.
    """
    channels, height, width = shape
    body = nn.Sequential(
        *(nn.Conv2d(channels, 32, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(32, 64, 5, padding=2), MaxPool(), ReLU(), nn.Flatten()),
        *(nn.Linear(64 * (height // 4) * (width // 4), 512), ReLU()),
    )
    return Net(body, 512, n_classes)


def CNNMnist(shape, n_classes: int) -> Net:
    """Return the CNN of "Decentralized learning with data exchanging" (Lan, Guo and Yao, 2022).

    21,840 parameters, 50 features. Images must be 16x16 or larger. Pooling comes before the dropout of channels and the
    ReLU: the same values with less work.
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
    """Return the network of "Federated Learning - Your Data Stays With You!" (Agarwal, 2021).

    28,938 parameters, 1,568 features.
    """
    channels, height, width = shape
    body = nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, padding=2), MaxPool(), ReLU()),
        *(nn.Conv2d(16, 32, 5, padding=2), MaxPool(), ReLU(), nn.Flatten()),
    )
    return Net(body, 32 * (height // 4) * (width // 4), n_classes)


# --- networks with optional auxiliary heads -----------------------------------------------------------------------------


def _with_heads(body: nn.Sequential, feature_dim: int, n_classes: int, heads: bool, taps, bias: bool = True) -> Net:
    """Return the network with or without auxiliary heads, with the same initial weights for the common parts.

    With heads, the classifier has a bias if `bias` is True.
    """
    return HeadsNet(body, feature_dim, n_classes, bias, taps) if heads else Net(body, feature_dim, n_classes)


def CNN4(shape, n_classes: int, heads: bool = False) -> Net:
    """Return four 3x3 convolutions of 64 channels, each with its BN, pooling and ReLU (FedBABU, Oh et al. 2022).

    115,658 parameters with three channels and 32x32, and 117,770 with heads on the maps of the first three, pooled.

    A block pools if at least 2x2 of the map remain: all four at 32x32, as published. Pooling comes before the ReLU: the same
    values with less work.
    """
    channels, height, width = shape
    if max(height, width) <= 1:
        raise ValueError("BatchNorm needs more than one example")
    blocks = []
    for inputs in (channels, 64, 64, 64):
        pools = min(height, width) >= 4
        height, width = (height // 2, width // 2) if pools else (height, width)
        pool = [MaxPool()] if pools else []
        blocks.append(nn.Sequential(nn.Conv2d(inputs, 64, 3, padding=1), nn.BatchNorm2d(64), *pool, ReLU()))
    body = nn.Sequential(*blocks, nn.Flatten())
    return _with_heads(body, 64 * height * width, n_classes, heads, taps=[(1, 64), (2, 64), (3, 64)])


def MobileNet(shape, n_classes: int, heads: bool = False) -> Net:
    """Return MobileNet for CIFAR (Howard et al. 2017, as in FedBABU and MHMD).

    It has a 3x3 convolution and 13 depthwise separable blocks, and 1,024 features; 3,309,476 parameters with three channels
    and C = 100. Images must be 17x17 or larger.

    With heads, on the maps after blocks 3, 6 and 9, 3,438,656 parameters: the classifier then has no bias.
    """
    channels, height, width = shape
    if max(height, width) <= 16:
        raise ValueError("the last feature maps have one pixel, so BatchNorm needs more than one example")
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    blocks = [nn.Sequential(*_conv_bn_relu(channels, 32))]
    for i, (inputs, outputs) in enumerate(zip((32, *widths), widths, strict=False)):
        stride = 2 if i in (1, 3, 5, 11) else 1
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        pointwise = _conv_bn_relu(inputs, outputs, size=1)
        blocks.append(nn.Sequential(depthwise, nn.BatchNorm2d(inputs), ReLU(), *pointwise))
    body = nn.Sequential(*blocks, GlobalMean())
    return _with_heads(body, 1024, n_classes, heads, taps=[(5, 256), (8, 512), (11, 512)], bias=False)


# --- without BatchNorm --------------------------------------------------------------------------------------------------


def _with_group_norm(name: str, model: Callable[..., Net]) -> Callable[..., Net]:
    """Return a model with GroupNorm of two groups in place of each BatchNorm, as in Reddi et al. (2021)."""

    @wraps(model)
    def with_group_norm(*arguments: Any, **by_name: Any) -> Net:
        net = model(*arguments, **by_name)
        for module in list(net.modules()):
            for child, layer in module.named_children():
                if isinstance(layer, nn.BatchNorm2d):
                    setattr(module, child, nn.GroupNorm(2, layer.num_features))
        return net

    with_group_norm.__doc__ = f"Return `{name}` with GroupNorm of two groups in place of BatchNorm (Reddi et al. 2021)."
    return with_group_norm


class Patches(nn.Module):
    """Cut images into patches of 4x4 pixels: [B, channels, height, width] -> tokens [B, T, width of a token].

    A token is a linear function of its patch plus a learned position.
    """

    def __init__(self, shape: Sequence[int], width: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(shape[0], width, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn((shape[1] // 4) * (shape[2] // 4), width))

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x).flatten(2).transpose(1, 2) + self.position


class Attention(nn.Module):
    """Self-attention of several heads on tokens [B, T, D].

    It is written as matrix products: torch's fused kernels have no second derivative.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv, self.output = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # queries, keys and values [B, heads, T, D / heads]
        q, k, v = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
        return self.output((weights @ v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """x + attention(LN(x)), and then y + MLP(LN(y)), on tokens [B, T, D]; the MLP has one hidden layer of 2 D units."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, n_heads))
        hidden = (nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.mlp = nn.Sequential(nn.LayerNorm(width), *hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class TokenMean(nn.Module):
    """[B, T, D] -> [B, D]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def ViT(shape, n_classes: int) -> Net:
    """Return a small vision transformer (Dosovitskiy et al. 2021) for 28x28 and 32x32 images: 204,682 parameters.

    It has patches of 4x4 pixels and six blocks of width 64 with four heads. The features are the mean token, as in Beyer et
    al. (2022), without a class token. Images must be 4x4 or larger.
    """
    width = 64
    blocks = [TransformerBlock(width, n_heads=4) for _ in range(6)]
    return Net(nn.Sequential(Patches(shape, width), *blocks, nn.LayerNorm(width), TokenMean()), width, n_classes)


MUST_BE = (  # the end of an error message for authors of a model
    "a model is a class or function of (shape, n_classes) that returns an nn.Module whose last layer is an nn.Linear with "
    "n_classes outputs, or models.Net(body, feature_dim, n_classes)"
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
    "ViT": ViT,
}
MODELS |= {f"{name}_GN": _with_group_norm(name, MODELS[name]) for name in ("ResNet9", "ResNet18", "ResNet8", "ResNet56")}
ZOO = frozenset(MODELS)  # all other models are a user's


def readers(parameter: str) -> tuple[str, ...]:
    """Return the models that have a parameter, "feature_dim" or "heads"."""
    return tuple(name for name, model in MODELS.items() if parameter in inspect.signature(model).parameters)


def arguments(
    model: Callable[..., Net], shape: tuple[int, int, int], n_classes: int, feature_dim: int, heads: bool
) -> inspect.BoundArguments:
    """Return the arguments of a model's function: by the names of its parameters, else shape and n_classes first.

    Raise TypeError for a function that cannot be called so.
    """
    signature = inspect.signature(model)
    values = {"shape": shape, "in_channels": shape[0], "n_classes": n_classes, "num_classes": n_classes}
    values |= {"feature_dim": feature_dim, "heads": heads}
    by_name = {name: value for name, value in values.items() if name in signature.parameters}
    try:
        return signature.bind(**by_name)
    except TypeError:  # it has other names for the first two
        optional = {name: value for name, value in by_name.items() if name in ("feature_dim", "heads")}
        return signature.bind(shape, n_classes, **optional)


def make(name: str, shape: tuple[int, int, int], n_classes: int, feature_dim: int, heads: bool = False) -> Net:
    """Return a new model `name`, initialised from torch's generator; with auxiliary heads if requested and available.

    Raise UserError for a network of a user that cannot become a `Net`.
    """
    bound = arguments(MODELS[name], shape, n_classes, feature_dim, heads)
    model = MODELS[name](*bound.args, **bound.kwargs)
    if isinstance(model, Net) or not isinstance(model, nn.Module):
        return model
    try:
        return OwnNet(model, shape)
    except UserError as error:
        raise UserError(f"--model {name}: {error}") from None


def with_layer(layer: type[nn.Module] | tuple[type[nn.Module], ...], names: Iterable[str] | None = None) -> list[str]:
    """Return the models that have layers of this class, among these names or (None) all."""
    results = []
    for name in MODELS if names is None else names:
        with torch.device("meta"), suppress(Exception):  # raised by a plugin's model
            results += [name] if any(isinstance(m, layer) for m in make(name, (1, 28, 28), 10, 100).modules()) else []
    return results


def with_batch_norm(names: Iterable[str] | None = None) -> list[str]:
    """Return the models that have BatchNorm layers, among these names or (None) all."""
    return with_layer(BATCH_NORM, names)


def of_client(options: Mapping[str, Any], inputs: Sequence[Any], client: int, heads: bool = False) -> Net:
    """Return a new network of a client's architecture; architectures are assigned to the clients in turn.

    `options` and `inputs` are as in a run's `config.json`. Raise UserError for a model of a plugin that is not loaded.
    """
    (shape, n_classes), names = inputs, options["model"]
    name = names[client % len(names)]
    if name not in MODELS:
        raise UserError(f"--model {name}: belongs to a plugin; load it first: plugins.load(FILE)")
    return make(name, tuple(shape), n_classes, options["feature_dim"], heads)


def build(name: str, shape: tuple[int, int, int], n_classes: int, feature_dim: int, heads: bool = False) -> Net:
    """Return a new model `name` after a test run.

    Raise UserError if the model does not fit these images, has convolutions for vectors, or is not a valid model.
    """
    arguments = (shape, n_classes, feature_dim, heads)
    model = _build_and_test(name, *arguments)
    if shape[1:] == (1, 1) and (model is None or _convolves(model)):
        others = [other for other in MODELS if _takes_vectors(other, *arguments)]
        raise UserError(
            f"--model {name}: is for images, not for vectors of {shape[0]} features; must be {' or '.join(others)}"
        )
    if model is None:
        size = "x".join(map(str, shape[1:]))
        raise UserError(f"--model {name}: does not fit images of {shape[0]} channels and {size} pixels")
    return model


def _build_and_test(name: str, shape: tuple[int, int, int], n_classes: int, feature_dim: int, heads: bool) -> Net | None:
    """Return a new model `name`; None if it does not fit these images. Raise UserError if it is not a valid model."""
    try:
        # torch warns about a layer of size 0, which fails here
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            model = make(name, shape, n_classes, feature_dim, heads)
            if not isinstance(model, Net):
                raise UserError(f"--model {name}: is a {type(model).__name__}, not an nn.Module; {MUST_BE}")
            output = model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, ZeroDivisionError):
        if name not in ZOO:
            raise
        return None
    parts = output if isinstance(output, tuple) else (output,)
    sizes = [list(part.shape) if isinstance(part, Tensor) else part for part in parts]
    width = getattr(model.classifier, "in_features", None)
    if sizes == [[1, width], [1, model.classifier.out_features]] != [[1, width], [1, n_classes]]:
        n_outputs = model.classifier.out_features
        raise UserError(f"--model {name}: has {n_outputs} outputs, but the data have {n_classes} classes; {MUST_BE}")
    if not isinstance(output, tuple) or sizes != [[1, width], [1, n_classes]]:
        description = " and ".join(map(str, sizes)) if isinstance(output, tuple) else type(output).__name__
        raise UserError(f"--model {name}: returns {description} for one example and {n_classes} classes; {MUST_BE}")
    return model.train()


def defect_of(model: Net, shape: tuple[int, int, int]) -> str:
    """Return, in words, why a network cannot be trained or evaluated as methods do; "" if it can.

    Methods compute a network with other weights than its own (`torch.func.functional_call`), several times on the same
    images. A network must change neither in place, and no output in evaluation mode may be random.
    """
    own, parameters = copy.deepcopy(model).state_dict(), {name for name, _ in model.named_parameters()}
    x, outputs = torch.rand(2, *shape), []
    for training in (False, False, True):
        weights = {name: (3 * w).requires_grad_(training) if name in parameters else w for name, w in own.items()}
        point, images = {name: w.clone() for name, w in weights.items()}, x.clone()
        with torch.set_grad_enabled(training):
            _, logits = functional_call(model.train(training), point, (images,))
        # BatchNorm changes its buffers in training
        if changed := [n for n in (parameters if training else own) if not torch.equal(point[n], weights[n])]:
            return f"changes {changed[0].removeprefix('body.network.')} in place in forward; compute a new tensor instead"
        if not torch.equal(images, x):
            return "changes its images in place in forward; compute new tensors instead, as in x = x - 0.5 for x -= 0.5"
        outputs.append(logits)
    if not torch.equal(*outputs[:2]):
        return "is random in evaluation mode; F.dropout needs training=self.training"
    try:
        logits.square().sum().backward()
    except RuntimeError as error:
        return f"cannot be trained: {' '.join(str(error).split()).partition(' Hint:')[0]}"
    return ""


def _takes_vectors(name: str, *arguments: Any) -> bool:
    with suppress(Exception):  # raised by a plugin's model
        return (model := _build_and_test(name, *arguments)) is not None and not _convolves(model)
    return False


def _convolves(model: Net) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())
