"""The data sets. A loader is a function `data_dir -> Data` and a line in `LOADERS`.

Images stay as the source has them, uint8, on the device, once; turning a batch into numbers around zero is a tensor
operation (`Data.images`).
"""

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import streams
from errors import UserError


@dataclass(frozen=True)
class Data:
    """One data set: the training examples 0 .. n_train - 1, then the test examples n_train .. n - 1, in one index space.

    x uint8 [n, channels, height, width]; y int64 [n]; `classes` the names of the C labels; `mean` and `std` float
    [channels], of the pixels (0 .. 255) of the *whole* training set as published. They are constants of the data set, as
    every benchmark has them, and do not change with `--reduced` or the split.
    """

    name: str
    x: Tensor
    y: Tensor
    n_train: int
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def images(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalised images [B, channels, height, width] for indices int64 [B]."""
        x = self.x[indices].to(dtype, memory_format=torch.channels_last)
        return x.sub_(self.mean.to(dtype).view(-1, 1, 1)).div_(self.std.to(dtype).view(-1, 1, 1))

    def to(self, device: str) -> "Data":
        """The same data on a device ("cpu", "cuda", "cuda:1")."""
        return replace(self, x=self.x.to(device), y=self.y.to(device), mean=self.mean.to(device), std=self.std.to(device))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return tuple(self.x.shape[1:])

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name these very images, labels and their order."""
        sha = hashlib.sha256(f"{self.name} {tuple(self.x.shape)} {self.n_train} {self.classes}".encode())
        for tensor in (self.x, self.y, self.mean, self.std):
            sha.update(tensor.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]


def from_arrays(name: str, train: tuple, test: tuple, classes: tuple[str, ...]) -> Data:
    """Data from two pairs (x uint8 [n, channels, height, width], y integers [n]), arrays or tensors. Raises
    ValueError where there are not as many labels as images."""
    for images, labels in (train, test):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, but {len(labels)} labels")
    x = torch.cat([torch.as_tensor(train[0]), torch.as_tensor(test[0])]).contiguous()
    y = torch.cat([torch.as_tensor(train[1]), torch.as_tensor(test[1])]).long()
    pixels = x[: len(train[1])].transpose(0, 1).flatten(1)  # [channels, n_train * height * width]
    counts = torch.stack([torch.bincount(channel, minlength=256) for channel in pixels]).double()
    values = torch.arange(256, dtype=torch.float64)
    mean = counts @ values / counts.sum(1)  # exact, from the histogram: no float copy of the images
    std = (counts @ values.square() / counts.sum(1) - mean.square()).sqrt()
    return Data(name, x, y, len(train[1]), classes, mean, std)


def digits(data_dir: Path) -> Data:
    """scikit-learn's 1,797 real handwritten digits (8x8), resized to 28x28 so that every MNIST model runs on them.

    1,437 train and 360 test images, dealt by a fixed stream: the source is in order of writers. Nothing is downloaded.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    order = streams.generator("data", "digits").permutation(len(source.target))
    small = torch.from_numpy(source.images[order]).float().unsqueeze(1) * (255 / 16)  # [1797, 1, 8, 8] in 0 .. 255
    x = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False).round().clamp(0, 255).to(torch.uint8)
    y = source.target[order].astype(np.int64)
    return from_arrays("digits", (x[:1437], y[:1437]), (x[1437:], y[1437:]), tuple("0123456789"))


def _torchvision():
    """torchvision.datasets, also beside a CPU-only torch.

    The released torchvision is built for CUDA and asks, when imported, for two of its own compiled operators that such a
    torch cannot load. Neither is used for data sets: declaring their schemas is enough.
    """
    try:
        import torchvision.datasets
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        _torchvision.library = torch.library.Library("torchvision", "DEF")  # the schemas live as long as this object
        for name in ("nms", "qnms"):
            _torchvision.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.datasets
    return torchvision.datasets


def _idx(name: str, source: str, data_dir: Path) -> Data:
    """MNIST and its kin through torchvision's class `source`: read where the files are, else downloaded and checked."""
    reader = getattr(_torchvision(), source)
    raw = data_dir / source / "raw"
    made = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    try:
        try:
            parts = [reader(str(data_dir), train=train) for train in (True, False)]
        except RuntimeError:  # torchvision's word for "the files are not there"
            parts = [reader(str(data_dir), train=train, download=True) for train in (True, False)]
        train, test = ((part.data.unsqueeze(1), part.targets) for part in parts)
        return from_arrays(name, train, test, tuple(parts[0].classes))
    except Exception as error:  # whatever a reader stumbles over in a file, and every kind of failed download
        for folder in made:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty
        files = ", ".join(Path(url).stem for url, _ in reader.resources)
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise UserError(
            f"--dataset {name}: not to be read from {raw} and not to be downloaded ({why}); "
            f"put {files} (unpacked, or as .gz) into {raw}, or name the folder above {source}/ with --data_dir"
        ) from error


def mnist(data_dir: Path) -> Data:
    """MNIST (LeCun et al., 1998): 60,000 and 10,000 images [1, 28, 28] of handwritten digits."""
    return _idx("MNIST", "MNIST", data_dir)


def fashion_mnist(data_dir: Path) -> Data:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017): 60,000 and 10,000 images [1, 28, 28] of clothes."""
    return _idx("FMNIST", "FashionMNIST", data_dir)


LOADERS: dict[str, Callable[[Path], Data]] = {"digits": digits, "MNIST": mnist, "FMNIST": fashion_mnist}


def load(name: str, data_dir: Path) -> Data:
    """The data set called `name`, on the CPU. Raises UserError where its files are neither there nor to be had."""
    return LOADERS[name](data_dir)
