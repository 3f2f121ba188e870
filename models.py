"""The zoo. A model is a function `(shape, n_classes, feature_dim) -> Net` and a line in `MODELS`.

`shape` is (channels, height, width) of an image. Every model is a body, images [B, channels, height, width] -> features
[B, D], and a classifier, features -> logits [B, C]; `forward` returns both. Parameters are named accordingly, `body.*` and
`classifier.*`. Parameter counts below are for one channel, 28x28 images and C = 10.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from errors import UserError


class Net(nn.Module):
    """A body and a linear classifier on its features: forward(x) -> (features [B, D], logits [B, C])."""

    def __init__(self, body: nn.Module, feature_dim: int, n_classes: int) -> None:
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(feature_dim, n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return features, self.classifier(features)


ReLU = partial(nn.ReLU, inplace=True)  # the same numbers from less memory


class GlobalMean(nn.Module):
    """[B, D, height, width] -> [B, D]. Unlike adaptive pooling its gradient is deterministic on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def LeNet5(shape, n_classes: int, feature_dim: int) -> Net:
    """The CFKD paper's LeNet5 (Berdoz et al. 2022), not the classical one: 30,986 parameters with feature_dim 84.

    Pooling stands before the ReLU: the same values from fewer of them.
    """
    body = nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 5, padding=2), nn.MaxPool2d(2), ReLU()),
        *(nn.Conv2d(6, 16, 5, padding=2), nn.MaxPool2d(2), ReLU()),
        *(nn.Conv2d(16, 120, 3, padding=1), ReLU(), GlobalMean()),
        *(nn.Linear(120, feature_dim), nn.Tanh()),
    )
    return Net(body, feature_dim, n_classes)


def LeNet5_classic(shape, n_classes: int, feature_dim: int) -> Net:
    """LeNet-5 (LeCun et al., 1998) as it is built today, with max-pooling and ReLU: 61,706 parameters, 84 features."""
    channels, height, width = shape
    flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    body = nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=2), nn.MaxPool2d(2), ReLU()),
        *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), ReLU(), nn.Flatten()),
        *(nn.Linear(flat, 120), ReLU()),
        *(nn.Linear(120, 84), ReLU()),
    )
    return Net(body, 84, n_classes)


class ResBlock(nn.Module):
    """x + ReLU(BN(conv(ReLU(BN(conv(x)))))), 3x3 convolutions without bias: the ReLU stands before the sum, none after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(*_conv_bn_relu(channels, channels), *_conv_bn_relu(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def _conv_bn_relu(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), ReLU()


def ResNet9(shape, n_classes: int, feature_dim: int) -> Net:
    """The CFKD paper's ResNet9 (Berdoz et al. 2022): 2,470,730 parameters with feature_dim 128; images from 16x16 on."""
    body = nn.Sequential(
        *_conv_bn_relu(shape[0], 64),
        *(*_conv_bn_relu(64, 128), nn.MaxPool2d(2), ResBlock(128)),
        *(*_conv_bn_relu(128, 256), nn.MaxPool2d(2)),
        *(*_conv_bn_relu(256, 256), nn.MaxPool2d(2), ResBlock(256)),
        *(nn.MaxPool2d(2), GlobalMean()),
        *(nn.Linear(256, feature_dim), nn.Tanh()),
    )
    return Net(body, feature_dim, n_classes)


def MLP(shape, n_classes: int, feature_dim: int) -> Net:
    """One hidden layer of 200 ReLU units, which are the features: 159,010 parameters."""
    channels, height, width = shape
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 200), ReLU()), 200, n_classes)


def CNN_scratch(shape, n_classes: int, feature_dim: int) -> Net:
    """The network of "Federated Learning - Your Data Stays With You!" (Agarwal, 2021): 28,938 parameters, 1,568 features."""
    channels, height, width = shape
    body = nn.Sequential(
        *(nn.Conv2d(channels, 16, 5, padding=2), nn.MaxPool2d(2), ReLU()),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.MaxPool2d(2), ReLU(), nn.Flatten()),
    )
    return Net(body, 32 * (height // 4) * (width // 4), n_classes)


MODELS: dict[str, Callable[[tuple[int, int, int], int, int], Net]] = {
    "LeNet5": LeNet5,
    "LeNet5_classic": LeNet5_classic,
    "ResNet9": ResNet9,
    "MLP": MLP,
    "CNN_scratch": CNN_scratch,
}
READ_FEATURE_DIM = ("LeNet5", "ResNet9")


def build(name: str, shape: tuple[int, int, int], n_classes: int, feature_dim: int) -> Net:
    """A new `name` with torch's default initialisation. Raises UserError where it does not fit such images."""
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():  # a layer of size 0 warns, and is refused below
            model = MODELS[name](shape, n_classes, feature_dim)
            model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        size = "x".join(map(str, shape[1:]))
        raise UserError(f"--model {name}: does not fit images of {shape[0]} channels and {size} pixels") from error
    return model.train()
