"""Load the data sets. A loader is a function `source -> Data` and a line in `LOADERS`.

Images stay uint8, as in the source, on the device, once; `Data.images` normalises a batch with a tensor operation.
torchvision downloads the data sets that it has, and knows their checksums. Chorus reads the files itself, because
torchvision would run the code in a pickle and accepts no file without its checksum.
"""

import difflib
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import streams
import untrusted
from data import augment, files, pictures, silos
from data.files import Published, naming
from errors import UserError, writing
from untrusted import escape, is_there


@dataclass(frozen=True)
class Source:
    """Say where and how to read a data set: the folder of the data sets; the side in pixels to which images are resized
    (None: no resizing, but CelebA's images to 32); CelebA's attribute; whether to accept files without the published
    checksum; and the column of a table that holds the labels (None: see `silos.table`)."""

    data_dir: Path = Path("data")
    image_size: int | None = None
    attribute: str = "Smiling"
    unverified: bool = False
    label: str | None = None


@dataclass(frozen=True)
class Data:
    """Hold a data set: the training examples 0 .. n_train - 1, then the test examples, then `n_public` public examples of
    another data set, which belong to no client, in a single index space.

    x uint8 [n, channels, height, width], or float32 where the user's file holds floats; y int64 [n]; `classes` the names of
    the C labels; `mean` and `std` float [channels], of the pixels (0 .. 255, or the user's floats) of the *whole* training
    set, after any resizing. They are constants of the data set, as in every benchmark, and do not change with `--reduced` or
    the split. A vector of d features is an image of d channels and a single pixel. `owners` int64 [n] is the owner of each
    example, where the owner is known: the writer, or the number of the client among the named `clients`; -1 is an example
    without an owner. `unverified` names the files that differ from their published checksum or cannot be checked. The label
    of a public example is -1 where the other data set has other classes. `warnings` are lines for the user.
    """

    name: str
    x: Tensor
    y: Tensor
    n_train: int
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    owners: Tensor | None = None
    unverified: str = ""
    n_public: int = 0
    clients: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def images(self, indices: Tensor, dtype: torch.dtype = torch.float32, drawn: augment.Draw | None = None) -> Tensor:
        """Return normalised images [B, channels, height, width] for indices int64 [B], augmented by the draw `drawn`, which
        has a row for each index."""
        if dtype not in self._constants:
            self._constants[dtype] = [values.to(dtype).view(-1, 1, 1) for values in (self.mean, self.std)]
        mean, std = self._constants[dtype]
        x = self.x[indices].to(dtype).sub_(mean).div_(std)
        if drawn:
            x = augment.apply(drawn, x, black=((0 - mean) / std).flatten())
        return x.clone(memory_format=torch.channels_last)  # at the end: arithmetic in this format takes twice as long

    def to(self, device: str) -> "Data":
        """Return the same data on a device ("cpu", "cuda", "cuda:1")."""
        return replace(self, x=self.x.to(device), y=self.y.to(device), mean=self.mean.to(device), std=self.std.to(device))

    def write(self, path: Path) -> Path:
        """Write the data to a file that several processes read with `mapped`; return the path. Raise OSError that names the
        path."""
        with writing(path), path.open("wb") as file:  # torch's error for a path would hide the system's reason
            torch.save({f.name: getattr(self, f.name) for f in fields(self)}, file)
        return path

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of an image."""
        return tuple(self.x.shape[1:])

    @property
    def test(self) -> range:
        """Return the indices of the test examples."""
        return range(self.n_train, len(self.y) - self.n_public)

    @property
    def public(self) -> range:
        """Return the indices of the public examples, which come from another data set."""
        return range(len(self.y) - self.n_public, len(self.y))

    @property
    def vectors(self) -> bool:
        """Return whether the examples are vectors rather than images."""
        return self.shape[1:] == (1, 1)

    @cached_property
    def _constants(self) -> dict[torch.dtype, list[Tensor]]:
        """Return the cache of mean and std [channels, 1, 1] by dtype; `images` fills the cache."""
        return {}

    @cached_property
    def digest(self) -> str:
        """Return sixteen hexadecimal digits that identify these images, labels, their order, and the client of each
        example."""
        sha = hashlib.sha256(f"{self.name} {tuple(self.x.shape)} {self.n_train} {self.classes}".encode())
        for tensor in (self.x, self.y, self.mean, self.std):
            sha.update(tensor.cpu().contiguous().numpy())
        if self.n_public:
            sha.update(f"public {self.n_public}".encode())
        if self.clients:
            sha.update(f"{self.clients}".encode())
            sha.update(self.owners.cpu().numpy())
        return sha.hexdigest()[:16]


@cache
def mapped(path: Path) -> Data:
    """Load a data set that `Data.write` wrote. The tensors are mapped from the file, so that all processes share the
    memory."""
    return Data(**torch.load(path, mmap=True, weights_only=True))


def from_arrays(name: str, train: tuple, test: tuple, classes: tuple[str, ...], owners=None, clients=()) -> Data:
    """Return Data of two pairs (x, y) of arrays or tensors, of the training set and of the test set.

    x: images [n, channels, height, width] or [n, height, width], or vectors [n, d]; integers 0 .. 255, or floats, which
    become float32. y [n]: integers from 0, or texts that are among `classes`. `owners` and `clients` as in `Data`. Raise
    ValueError where the numbers of images and labels differ, where a part is empty (an empty test set is allowed with
    clients, who may hold out their own examples), where a label has no class, and for x of another type or shape.
    """
    for images, labels in (train, test):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, but {len(labels)} labels")
        if len(images) == 0 and (labels is train[1] or not clients):
            raise ValueError("no images")
    x = torch.cat([_images(train[0]), _images(test[0])]).contiguous()
    y = torch.cat([_class_numbers(train[1], classes), _class_numbers(test[1], classes)])
    if y.min() < 0 or y.max() >= len(classes):
        raise ValueError(f"labels from {y.min()} to {y.max()}, but {len(classes)} classes")
    owners = None if owners is None else torch.as_tensor(owners)
    constants = _mean_and_std(x[: len(train[1])])
    return Data(name, x, y, len(train[1]), tuple(classes), *constants, owners, clients=clients)


def from_datasets(name: str, train, test, classes: Sequence[str] = ()) -> Data:
    """Return Data of two torch Datasets, for a data set that fits into memory.

    An item is (image, label, ...): a tensor [channels, height, width] or [height, width], as `ToTensor` returns it, or a
    vector [d], or a PIL image. Leave out random transforms: Chorus reads each item once, and `--augment` changes images at
    random. `classes`: the names; by default `train.classes`, or the numbers of the labels. Raise ValueError as `from_arrays`
    does.
    """

    def arrays(dataset) -> tuple[Tensor, Tensor]:
        items = [dataset[i] for i in range(len(dataset))]
        return torch.stack([_tensor_of(item[0]) for item in items]), torch.tensor([int(item[1]) for item in items])

    pairs = arrays(train), arrays(test)
    classes = classes or getattr(train, "classes", None) or tuple(map(str, range(int(pairs[0][1].max()) + 1)))
    return from_arrays(name, *pairs, tuple(map(str, classes)))


def _tensor_of(image) -> Tensor:
    """Return a tensor, or the pixels of a PIL image as uint8 [channels, height, width] or [height, width]."""
    if isinstance(image, Tensor):
        return image
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels


def _images(x) -> Tensor:
    """Return examples as uint8 or float32 [n, channels, height, width]: see `from_arrays`."""
    x = torch.as_tensor(x)
    if x.dtype not in (torch.uint8, torch.float32):
        if not x.is_floating_point() and (x.dtype == torch.bool or (len(x) and (x.min() < 0 or x.max() > 255))):
            raise ValueError(f"images of {x.dtype}; must be integers 0 .. 255, or floats")
        x = x.to(torch.float32 if x.is_floating_point() else torch.uint8)
    if x.ndim in (2, 3):
        x = x[:, :, None, None] if x.ndim == 2 else x[:, None]
    if x.ndim != 4:
        raise ValueError(
            f"images of shape {list(x.shape)}; must be [n, channels, height, width], [n, height, width] or [n, d]"
        )
    _, channels, height, width = x.shape
    if channels == height > 4 >= width:
        raise ValueError(f"images of shape {list(x.shape)} have their channels last; use transpose(0, 3, 1, 2)")
    return x


def _class_numbers(y, classes: Sequence[str]) -> Tensor:
    """Return labels as int64 [n]; text labels become their positions in `classes`. Raise ValueError for unknown text."""
    if not isinstance(y, Tensor) and np.asarray(y).dtype.kind in "US":
        texts, numbers = np.asarray(y).astype(str).tolist(), {name: c for c, name in enumerate(classes)}
        if unknown := next((text for text in texts if text not in numbers), None):
            raise ValueError(f"the label {unknown} is not among the classes {', '.join(classes)}")
        y = [numbers[text] for text in texts]
    return torch.as_tensor(y).long()


def with_public(data: Data, other: Data) -> Data:
    """Return `data` followed by the training examples of another data set as public examples, normalised by the constants of
    `data`. Raise ValueError where the images have another shape or dtype."""
    if data.x.shape[1:] != other.x.shape[1:] or data.x.dtype != other.x.dtype:
        raise ValueError(f"images of {_form(other)}, those of {data.name} are of {_form(data)}; must be the same")
    x, y = other.x[: other.n_train], other.y[: other.n_train]
    y = y if other.classes == data.classes else torch.full_like(y, -1)
    joined = {"x": torch.cat([data.x, x]), "y": torch.cat([data.y, y])}
    if data.owners is not None:
        joined["owners"] = torch.cat([data.owners, torch.full_like(y, -1)])
    unverified = "; ".join(filter(None, (data.unverified, other.unverified)))
    return replace(data, **joined, unverified=unverified, n_public=len(y))


def _form(data: Data) -> str:
    """Return shape and dtype of the images as text."""
    return f"{'x'.join(map(str, data.shape))} {str(data.x.dtype).removeprefix('torch.')}"


def _mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std, float64 [channels] each, of images [n, channels, height, width]; the std of a constant channel is
    1."""
    pixels = x.transpose(0, 1).flatten(1)  # [channels, n * height * width]
    if x.is_floating_point():
        mean = torch.stack([channel.double().mean() for channel in pixels])
        std = torch.stack([channel.double().std(correction=0) for channel in pixels])
    else:
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in pixels]).double()
        values = torch.arange(256, dtype=torch.float64)
        mean = counts @ values / counts.sum(1)  # exact, from the histogram, without a float copy of the images
        std = (counts @ values.square() / counts.sum(1) - mean.square()).sqrt()
    return mean, torch.where(std > 0, std, 1.0)


def as_pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float32 images in the dtype of a data set: for uint8, rounded and clipped to 0 .. 255."""
    return x if dtype.is_floating_point else x.round().clamp(0, 255).to(dtype)


def _resized(data: Data, size: int) -> Data:
    """Return the same data with images [channels, size, size]: bilinear, with antialias; uint8 stays uint8."""
    if data.shape[1:] == (size, size):
        return data
    parts = []
    for part in data.x.split(1000):  # avoids a float copy of all images
        resized = F.interpolate(part.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        parts.append(as_pixels(resized, data.x.dtype))
    x = torch.cat(parts)
    mean, std = _mean_and_std(x[: data.n_train])
    return replace(data, x=x, mean=mean, std=std)


def _unfolded(data: Data, size: int) -> Data:
    """Return vectors of size * size numbers, row after row, as images [1, size, size]. Raise UserError for vectors of
    another length."""
    if size * size != data.shape[0]:
        raise UserError(
            f"--image_size {size}: {data.name} holds vectors of {data.shape[0]} features; applies only to images, or to "
            f"vectors of {size}x{size} features"
        )
    x = data.x.view(-1, 1, size, size)
    mean, std = _mean_and_std(x[: data.n_train])
    return replace(data, x=x, mean=mean, std=std)


def digits(source: Source) -> Data:
    """Load scikit-learn's 1,797 real handwritten digits (8x8), resized to 28x28 so that every MNIST model runs on the
    digits.

    1,437 train and 360 test images, drawn by a fixed stream, because the source is in order of writers. Nothing is
    downloaded.
    """
    # the file of `sklearn.datasets.load_digits`, whose import takes a second: per line 64 pixels in 0 .. 16 and the label
    file = metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    lines = np.loadtxt(file, delimiter=",")
    lines = lines[streams.generator("data", "digits").permutation(len(lines))]
    small = torch.from_numpy(lines[:, :-1]).float().view(-1, 1, 8, 8) * (255 / 16)  # in 0 .. 255
    x = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False).round().clamp(0, 255).to(torch.uint8)
    y = lines[:, -1].astype(np.int64)
    return from_arrays("digits", (x[:1437], y[:1437]), (x[1437:], y[1437:]), tuple("0123456789"))


def _torchvision():
    """Return torchvision.datasets, also with a CPU-only torch.

    The released torchvision is built for CUDA. Its import asks for two of its own compiled operators that a CPU-only torch
    cannot load. The data sets use neither operator, so declaring the schemas of the operators is enough.
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


# --- MNIST and similar data sets ---------------------------------------------------------------------------------------

# md5 of the unpacked files of LeCun et al. and of Xiao et al.; torchvision knows the md5 of the .gz files
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
MNIST_CLASSES = (
    *("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four"),
    *("5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine"),
)
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def mnist(source: Source) -> Data:
    """Load MNIST (LeCun et al., 1998): 60,000 and 10,000 images [1, 28, 28] of handwritten digits.

    `owners` come from mnist_writer_ids.npz (train_writer, test_writer), if this file lies beside raw/: the QMNIST labels
    (Yadav and Bottou, 2019) name the writer of each digit.
    """
    data = _idx(_mnist("MNIST", "MNIST", MNIST_FILES, source), MNIST_CLASSES, source)
    path = source.data_dir / "MNIST" / "mnist_writer_ids.npz"
    if not path.exists():
        return data
    with naming("MNIST", path):
        writers = untrusted.arrays(path, ("train_writer", "test_writer"))
        train, test = (_integers(writers[key]) for key in ("train_writer", "test_writer"))
        n_train, n_test = data.n_train, len(data.y) - data.n_train
        if (len(train), len(test)) != (n_train, n_test):
            raise ValueError(f"writers of {len(train)} and {len(test)} images, but there are {n_train} and {n_test}")
        return replace(data, owners=torch.from_numpy(np.concatenate([train, test])))


def fashion_mnist(source: Source) -> Data:
    """Load Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017): 60,000 and 10,000 images [1, 28, 28] of clothes."""
    return _idx(_mnist("FMNIST", "FashionMNIST", FASHION_MNIST_FILES, source), FASHION_MNIST_CLASSES, source)


def emnist(source: Source) -> Data:
    """Load EMNIST (Cohen et al., 2017), balanced split: 112,800 and 18,800 images [1, 28, 28] of digits and letters, 47
    classes; for 15 letters, upper and lower case are the same class. The files hold each image transposed; Chorus turns the
    images upright. Tested on small files of this layout only."""
    reader, folder = _torchvision().EMNIST, "EMNIST/raw"
    parts = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
    names = [f"emnist-balanced-{part}-ubyte" for part in parts]
    published = Published(
        "EMNIST",
        source.data_dir,
        {f"{folder}/{name}": None for name in names},
        {f"{folder}/gzip.zip": reader.md5},
        lambda place: reader(place, "balanced", download=True),
        f"put gzip.zip, or unpacked from it {', '.join(names)}, into {source.data_dir / folder}",
    )
    data = _idx(published, tuple(reader.classes_split_dict["balanced"]), source)
    return replace(data, x=data.x.transpose(2, 3).contiguous())


def _mnist(name: str, reader: str, checksums: dict[str, str], source: Source) -> Published:
    """Return the four files of torchvision's class `reader`, in a folder of this name."""
    folder = f"{reader}/raw"
    return Published(
        name,
        source.data_dir,
        {f"{folder}/{file}": md5 for file, md5 in checksums.items()},
        {f"{folder}/{file}.gz": None for file in checksums},
        lambda place: getattr(_torchvision(), reader)(place, download=True),
        f"put {', '.join(checksums)} (unpacked, or as .gz) into {source.data_dir / folder}",
    )


def _idx(published: Published, classes: tuple[str, ...], source: Source) -> Data:
    """Return Data of the images and labels of the training set and of the test set."""
    unverified = files.obtain(published, source.unverified)
    x_train, y_train, x_test, y_test = (
        published.read(path, lambda file, axes=axes: files.idx(file, axes))
        for path, axes in zip(published.files, (3, 1, 3, 1), strict=True)
    )
    return _published_data(published, (x_train[:, None], y_train), (x_test[:, None], y_test), classes, unverified)


def _published_data(published: Published, train: tuple, test: tuple, classes: tuple[str, ...], unverified: str) -> Data:
    """Return `from_arrays` of published files, whose pixels are bytes; files that do not belong together raise a UserError
    of a single line."""
    with naming(published.name, published.place):
        if wrong := next((x.dtype for x, _ in (train, test) if x.dtype != np.uint8), None):
            raise ValueError(f"images of {wrong}, not of bytes")
        return replace(from_arrays(published.name, train, test, classes), unverified=unverified)


# --- colour images in a few files --------------------------------------------------------------------------------------


def cifar10(source: Source) -> Data:
    """Load CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 images [3, 32, 32] of 10 kinds of objects."""
    return _cifar("CIFAR10", "labels", source)


def cifar100(source: Source) -> Data:
    """Load CIFAR-100 (Krizhevsky, 2009) with its 100 fine labels: 50,000 and 10,000 images [3, 32, 32]."""
    return _cifar("CIFAR100", "fine_labels", source)


def _cifar(name: str, labels: str, source: Source) -> Data:
    """Load CIFAR's pickles, whose dicts hold images as `data` [n, 3072] and labels under the key `labels`."""
    reader = getattr(_torchvision(), name)
    checksums = {**dict(reader.train_list), **dict(reader.test_list), reader.meta["filename"]: reader.meta["md5"]}
    published = Published(
        name,
        source.data_dir,
        {f"{reader.base_folder}/{file}": md5 for file, md5 in checksums.items()},
        {reader.filename: reader.tgz_md5},
        lambda place: reader(place, download=True),
        f"put {reader.filename} into {source.data_dir}, or unpack it there",
    )
    unverified = files.obtain(published, source.unverified)

    def batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
        entry = files.unpickled(path)
        return entry["data"].reshape(-1, 3, 32, 32), _integers(entry[labels])

    def part(batches: list) -> tuple[np.ndarray, np.ndarray]:
        x, y = zip(*(published.read(f"{reader.base_folder}/{file}", batch) for file, _ in batches), strict=True)
        return np.concatenate(x), np.concatenate(y)

    meta = published.read(
        f"{reader.base_folder}/{reader.meta['filename']}", lambda path: files.unpickled(path)[reader.meta["key"]]
    )
    return _published_data(published, part(reader.train_list), part(reader.test_list), tuple(map(str, meta)), unverified)


NUMBERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "single", "double")  # Matlab's names


def svhn(source: Source) -> Data:
    """Load SVHN (Netzer et al., 2011), cropped digits: 73,257 and 26,032 images [3, 32, 32] of house numbers. The files
    label the digit 0 as class 10; Chorus labels the digit as class 0. Tested on small files of this layout only."""
    reader = _torchvision().SVHN
    train, test = (reader.split_list[part][1:] for part in ("train", "test"))  # file name, md5
    published = Published(
        "SVHN",
        source.data_dir,
        dict([train, test]),
        {},
        lambda place: [reader(place, part, download=True) for part in ("train", "test")],
        f"put {train[0]} and {test[0]} into {source.data_dir}",
    )
    unverified = files.obtain(published, source.unverified)

    def mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
        from scipy.io import loadmat, whosmat

        with untrusted.opened(path) as file:  # the header names types and shapes before unpacking
            for name, shape, kind in whosmat(file):
                if name in ("X", "y") and kind not in NUMBERS:
                    raise ValueError(f"{name} holds {kind}; must be numbers")
                if name in ("X", "y"):
                    untrusted.affordable(path, 8 * math.prod(shape), path.stat().st_size)
            file.seek(0)
            file = loadmat(file, variable_names=["X", "y"])
        y = _integers(file["y"].reshape(-1))
        return file["X"].transpose(3, 2, 0, 1), np.where(y == 10, 0, y)  # X [32, 32, 3, n]

    return _published_data(
        published, published.read(train[0], mat), published.read(test[0], mat), tuple("0123456789"), unverified
    )


def _integers(labels: list | np.ndarray) -> np.ndarray:
    """Return labels as int64 [n]. Raise ValueError for anything else."""
    if isinstance(labels, list) and not all(type(label) is int for label in labels):
        raise ValueError("must be integers [n]")
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"must be integers [n], not {labels.dtype} {list(labels.shape)}")
    return labels.astype(np.int64)


# --- one image per file ------------------------------------------------------------------------------------------------

CINIC10_URL = "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"
CINIC10_MD5 = "6ee4d0c996905fe93221de577967a372"
CELEBA_ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)


def cinic10(source: Source) -> Data:
    """Load CINIC-10 (Darlow et al., 2018): 90,000 and 90,000 images [3, 32, 32] of CIFAR-10's classes, from CIFAR-10 and
    ImageNet. Its validation set is not used. Tested on small files of this layout only."""

    def download(place: str) -> None:
        folder = f"{place}/CINIC-10"  # the archive has no top folder
        _torchvision().utils.download_and_extract_archive(CINIC10_URL, place, folder, md5=CINIC10_MD5)

    published = Published(
        "CINIC10",
        source.data_dir,
        {"CINIC-10/train": None, "CINIC-10/test": None},
        {"CINIC-10.tar.gz": CINIC10_MD5},
        download,
        f"put CINIC-10.tar.gz into {source.data_dir}, or unpack it into {source.data_dir / 'CINIC-10'}",
    )
    unverified = files.obtain(published, source.unverified)
    train, test, classes = published.read("CINIC-10", pictures.tree)
    return replace(_pictures("CINIC10", train, test, classes, source, source.image_size, 3), unverified=unverified)


LISTED = 64 * untrusted.MIB  # bytes of a text file of CelebA; the larger file has 26 MB


def celeba(source: Source) -> Data:
    """Load CelebA (Liu et al., 2015), aligned and cropped: 162,770 and 19,962 photographs of faces [3, 32, 32], labelled by
    an attribute of 40, `source.attribute`. The whole photographs, 178x218, are resized to 32x32, or to `source.image_size`.
    Its validation set is not used. Tested on small files of this layout only."""
    attribute = source.attribute
    if attribute not in CELEBA_ATTRIBUTES:
        near = difflib.get_close_matches(attribute, CELEBA_ATTRIBUTES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"--attribute {attribute}: must be one of {', '.join(CELEBA_ATTRIBUTES)}{hint}")
    reader = _torchvision().CelebA
    checksums = {name: md5 for _, md5, name in reader.file_list}
    images, attributes, parts = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
    published = Published(
        "CELEBA",
        source.data_dir,
        {**{f"celeba/{name}": checksums[name] for name in (attributes, parts)}, f"celeba/{images}": None},
        {f"celeba/{images}.zip": checksums[f"{images}.zip"]},
        lambda place: reader(place, download=True),
        f"put {attributes}, {parts} and the unpacked folder {images} into {source.data_dir / 'celeba'}",
    )
    unverified = files.obtain(published, source.unverified)
    train, test = published.read(f"celeba/{parts}", _celeba_parts)
    labels = published.read(f"celeba/{attributes}", lambda path: _celeba_labels(path, attribute, [*train, *test]))
    train, test = ([published.place / images / name for name in names] for names in (train, test))
    pairs = (train, labels[: len(train)]), (test, labels[len(train) :])
    classes = (f"not {attribute}", attribute)
    return replace(_pictures("CELEBA", *pairs, classes, source, source.image_size or 32, 3), unverified=unverified)


def _celeba_parts(path: Path) -> tuple[list[str], list[str]]:
    """Return the image names of the training and of the test set from list_eval_partition.txt. Each line holds an image name
    and its part: 0 training, 1 validation, 2 test."""
    rows = [line.split() for line in untrusted.text(path, LISTED).splitlines()]
    train, test = ([name for name, part in rows if part == code] for code in ("0", "2"))
    if not (train and test):
        raise ValueError("no training images, or no test images")
    return train, test


def _celeba_labels(path: Path, attribute: str, images: list[str]) -> list[int]:
    """Return the labels from list_attr_celeba.txt: 1 for an image with the attribute, 0 without. The file holds a line with
    the number of images, a line with the names of the attributes, then a line per image with its name and -1 or 1 for each
    attribute."""
    _, names, *rows = (line.split() for line in untrusted.text(path, LISTED).splitlines())
    column = names.index(attribute) + 1
    values = {row[0]: {"-1": 0, "1": 1}[row[column]] for row in rows}
    return [values[image] for image in images]


def _pictures(name, train, test, classes, source: Source, size: int | None, channels: int | None) -> Data:
    """Return Data of two pairs (image files, labels)."""
    x = pictures.decode([*train[0], *test[0]], size, channels, source.data_dir / ".decoded")
    n_train = len(train[0])
    return from_arrays(name, (x[:n_train], train[1]), (x[n_train:], test[1]), classes)


# --- the user's files --------------------------------------------------------------------------------------------------


def own(path: Path, source: Source) -> Data:
    """Load the user's data from a file or a folder, as `silos.brought` reads the data: arrays, tables or image files (a
    single channel if all images are grey, else three), with or without clients."""
    user_data = silos.brought(path, source.label)
    xs, n_train = [part.x for part in user_data.parts], len(user_data.train.y)
    if isinstance(xs[0], list):
        x = pictures.decode(
            [file for images in xs for file in images], source.image_size, None, source.data_dir / ".decoded"
        )
    else:
        x = np.concatenate(xs)
    if x.dtype == np.float64:
        x = files.in_32_bits(x, n_train) if source.image_size is None else x.astype(np.float32)
    y, classes = files.classified(user_data)
    clients, owners = silos.owners(user_data)
    pairs = (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:])
    name = path.resolve().name if path.is_dir() else path.stem
    return replace(from_arrays(name, *pairs, classes, owners, clients), warnings=user_data.warnings)


LOADERS: dict[str, Callable[[Source], Data]] = {
    "digits": digits,
    "MNIST": mnist,
    "FMNIST": fashion_mnist,
    "EMNIST": emnist,
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "SVHN": svhn,
    "CINIC10": cinic10,
    "CELEBA": celeba,
}


def load(name: str, source: Source) -> Data:
    """Load the data set called `name`, or at the path `name`, on the CPU. Raise UserError where its files are missing and
    cannot be downloaded, and where its files are not as expected."""
    with naming(name):
        if name in LOADERS:
            data = LOADERS[name](source)
            if not isinstance(data, Data):
                raise ValueError(
                    f"its loader returns {type(data).__name__}; must return a Data, such as from_arrays(...), or "
                    "from_datasets(...) of two torch Datasets"
                )
        elif is_there(path := Path(name).expanduser()):
            data = own(path, source)
        else:
            raise ValueError(
                f"no such file or folder; must be one of {', '.join(LOADERS)}, a .npz file or a folder with train/ and test/"
            )
        data = replace(data, name=escape(data.name), classes=_safe_names(data.classes), clients=_safe_names(data.clients))
        if source.image_size is None:
            return data
        return (_unfolded if data.vectors else _resized)(data, source.image_size)


def _safe_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of classes or clients, escaped, because many outputs show the names. Raise ValueError for a name
    longer than `untrusted.NAME`."""
    untrusted.short("a class or a client has", names)
    return tuple(map(escape, names))
