"""The data sets are what they say they are, and a missing or damaged one says so in one line."""

import gzip
import hashlib
import pickle
import re
import shutil
import struct
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import ROOT, line_of, needs_mnist, tiny_data
from PIL import Image

from data import datasets
from data.datasets import CELEBA_ATTRIBUTES, LOADERS, Source, from_arrays, load

torchvision = datasets._torchvision()
SOURCES = {"MNIST": "MNIST", "FMNIST": "FashionMNIST"}  # --dataset: torchvision's class, and so the folder
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load("digits", Source(tmp_path_factory.mktemp("empty")))


@pytest.fixture(scope="module")
def mnist():
    return load("MNIST", Source(ROOT / "data"))


def write_idx(path, array):
    """The IDX format: two zero bytes, 8 for unsigned bytes, the number of axes, their lengths (big-endian), the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def needs(path):
    return pytest.mark.skipif(not (ROOT / "data" / path).exists(), reason=f"the real files are not in data/{path}")


needs_fashion_mnist = needs("FashionMNIST/raw/train-images-idx3-ubyte")
needs_cifar10 = needs("cifar-10-batches-py/data_batch_1")
needs_cifar100 = needs("cifar-100-python/train")
needs_writers = needs("MNIST/mnist_writer_ids.npz")


def one_line(name, source):
    """The line that a user gets instead of the data."""
    return line_of(load, name, source)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


# --- digits ------------------------------------------------------------------------------------------------------------


def test_digits_has_the_documented_sizes_and_types(digits):
    assert digits.name == "digits"
    assert digits.shape == (1, 28, 28)
    assert (digits.n_train, len(digits.y) - digits.n_train) == (1437, 360)
    assert tuple(digits.x.shape) == (1797, 1, 28, 28)
    assert (digits.x.dtype, digits.y.dtype) == (torch.uint8, torch.int64)
    assert digits.classes == tuple("0123456789")


def test_digits_has_every_class_in_both_parts(digits):
    for part in (digits.y[: digits.n_train], digits.y[digits.n_train :]):
        assert torch.bincount(part, minlength=10).min() > 0


def test_digits_holds_every_source_image_once_with_its_own_label(digits):
    """Bilinear resizing is a matrix on both sides: pixel i of 28 looks at place (i + 1/2) 8/28 - 1/2 of 8."""
    from sklearn.datasets import load_digits

    source = load_digits()
    place = np.clip((np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(8)), 0, None)  # [28, 8]
    expected = (weights @ source.images @ weights.T * 255 / 16).reshape(1797, -1)
    result = digits.x.double().numpy().reshape(1797, -1)
    distance = (result**2).sum(1)[:, None] - 2 * result @ expected.T + (expected**2).sum(1)
    origin = distance.argmin(1)
    assert sorted(origin) == list(range(1797))
    assert (source.target[origin] == digits.y.numpy()).all()
    assert np.abs(result - expected[origin]).max() <= 0.5 + 1e-4  # rounded to a whole number, and nothing else


def test_digits_is_mixed_although_its_source_is_in_order_of_writers(digits):
    from sklearn.datasets import load_digits

    assert not np.array_equal(load_digits().target[: digits.n_train], digits.y[: digits.n_train].numpy())


def test_digits_comes_in_the_same_order_every_time(digits, tmp_path):
    np.random.seed(3)
    torch.manual_seed(3)
    again = load("digits", Source(tmp_path / "elsewhere"))
    assert torch.equal(again.x, digits.x)
    assert torch.equal(again.y, digits.y)
    assert again.digest == digits.digest


def test_digits_writes_nothing(tmp_path):
    load("digits", Source(tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- what every data set does ------------------------------------------------------------------------------------------


def three_channels(n_train=12, n_test=6):
    generator = np.random.default_rng(5)
    x = generator.integers(0, 256, (n_train + n_test, 3, 4, 5)) // np.array([1, 2, 8])[:, None, None]
    x, y = x.astype(np.uint8), np.arange(n_train + n_test) % 3
    return from_arrays("three", (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:]), tuple("abc"))


@pytest.mark.parametrize("make", [tiny_data, three_channels, lambda: load("digits", Source(ROOT))])
def test_mean_and_std_are_those_of_the_training_pixels(make):
    data = make()
    pixels = data.x[: data.n_train].double()
    for c in range(data.shape[0]):
        channel = pixels[:, c].flatten()
        mean = channel.sum() / len(channel)
        std = ((channel - mean) ** 2).mean().sqrt()  # of the population, as benchmarks print it
        torch.testing.assert_close(data.mean[c], mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(data.std[c], std, rtol=1e-10, atol=0)


def test_the_test_images_do_not_enter_mean_and_std():
    data = tiny_data(n_train=30, n_test=15)
    black = torch.zeros_like(data.x[30:])
    other = from_arrays("tiny", (data.x[:30], data.y[:30]), (black, data.y[30:]), data.classes)
    assert torch.equal(other.mean, data.mean)
    assert torch.equal(other.std, data.std)


def test_images_are_normalised_channel_by_channel():
    data = three_channels()
    images = data.images(torch.arange(data.n_train), torch.float64)
    for c in range(3):
        assert images[:, c].mean().abs() < 1e-12
        assert (images[:, c].std(correction=0) - 1).abs() < 1e-12


def test_images_are_those_asked_for_in_that_order():
    data = three_channels()
    indices = torch.tensor([13, 0, 0, 7])
    images = data.images(indices, torch.float64)
    for position, i in enumerate(indices.tolist()):
        for c in range(3):
            slow = (data.x[i, c].double() - data.mean[c]) / data.std[c]
            torch.testing.assert_close(images[position, c], slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_leave_the_stored_pixels_untouched(dtype):
    data = tiny_data()
    before = data.x.clone()
    images = data.images(torch.arange(len(data.y)), dtype)
    assert images.dtype == dtype
    images.zero_()
    assert data.x.dtype == torch.uint8
    assert torch.equal(data.x, before)


def test_from_arrays_keeps_training_before_test_examples():
    x = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    data = from_arrays("five", (x[:3], np.array([0, 1, 0])), (torch.from_numpy(x[3:]), torch.tensor([1, 0])), ("a", "b"))
    assert data.n_train == 3
    assert data.x.flatten().tolist() == [0, 1, 2, 3, 4]
    assert data.y.tolist() == [0, 1, 0, 1, 0]


def changed(data, what):
    x, y = data.x.clone(), data.y.clone()
    if what == "one pixel":
        x[3, 0, 0, 0] ^= 1
    elif what == "one test pixel":
        x[-1, 0, 0, 0] ^= 1
    elif what == "one label":
        y[3] = (y[3] + 1) % 3
    elif what == "two examples swapped":
        x[[0, 1]], y[[0, 1]] = x[[1, 0]], y[[1, 0]]
    other = {
        "n_train": {"n_train": data.n_train - 1},
        "mean": {"mean": data.mean + 1},
        "std": {"std": data.std * 2},
        "name": {"name": "other"},
        "classes": {"classes": ("x", "y", "z")},
        "shape": {"x": x.flatten(2).unsqueeze(2)},  # the same bytes as another picture
    }
    return replace(data, **{"x": x, "y": y, **other.get(what, {})})


@pytest.mark.parametrize(
    "what",
    [
        "one pixel",
        "one test pixel",
        "one label",
        "two examples swapped",
        "n_train",
        "mean",
        "std",
        "name",
        "classes",
        "shape",
    ],
)
def test_the_digest_changes_with(what):
    data = tiny_data()
    assert changed(data, what).digest != data.digest


def test_the_digest_is_that_of_the_content():
    data = tiny_data()
    assert changed(data, "nothing").digest == data.digest
    assert len(data.digest) == 16
    int(data.digest, 16)


def test_a_public_data_set_is_behind_the_test_examples_and_changes_no_constant():
    item, other = three_channels(), three_channels(n_train=8, n_test=2)
    other.x[:8] //= 2
    joined = datasets.with_public(item, other)
    assert (list(joined.test), list(joined.public)) == (list(range(12, 18)), list(range(18, 26)))
    assert torch.equal(joined.x[:18], item.x)
    assert torch.equal(joined.x[18:], other.x[:8]), "its training examples alone"
    assert torch.equal(joined.mean, item.mean)
    assert torch.equal(joined.std, item.std)
    assert torch.equal(joined.y[18:], other.y[:8])
    assert len({item.digest, other.digest, joined.digest}) == 3
    strange = datasets.with_public(item, replace(other, classes=("x", *other.classes[1:])))
    assert strange.y[18:].tolist() == [-1] * 8, "labels of other classes"
    written = datasets.with_public(replace(item, owners=torch.arange(18)), other)
    assert written.owners.tolist() == [*range(18), *[-1] * 8]


def test_a_public_data_set_of_other_images_is_refused():
    item, grey = three_channels(), datasets.load("digits", datasets.Source())
    with pytest.raises(ValueError, match="images of 1x28x28 uint8, those of .* are of 3x.* uint8; must be the same"):
        datasets.with_public(item, grey)
    with pytest.raises(ValueError, match="float32, those of"):
        datasets.with_public(item, replace(item, x=item.x.float()))


def test_a_channel_of_one_value_stays_finite():
    x = np.full((4, 2, 3, 3), 7, np.uint8)
    x[:, 1] = np.arange(4)[:, None, None]
    data = from_arrays("flat", (x[:2], [0, 1]), (x[2:], [0, 1]), ("a", "b"))
    images = data.images(torch.arange(4))
    assert images[:, 0].abs().max() == 0
    assert images.isfinite().all()


def test_floats_stay_as_they_are_and_have_their_own_mean_and_std():
    x = np.random.default_rng(1).normal(3, 2, (12, 2, 4, 4)).astype(np.float32)
    data = from_arrays("floats", (x[:8], np.arange(8) % 2), (x[8:], np.arange(4) % 2), ("a", "b"))
    assert data.x.dtype == torch.float32
    assert np.array_equal(data.x.numpy(), x)
    np.testing.assert_allclose(data.mean.numpy(), x[:8].astype(np.float64).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std.numpy(), x[:8].astype(np.float64).std((0, 2, 3)), rtol=1e-12)
    before = data.x.clone()
    data.images(torch.arange(12)).zero_()
    assert torch.equal(data.x, before)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((2, 1, 3, 3), np.uint8), [0], "2 images, but 1 labels"),
        (np.zeros((0, 1, 3, 3), np.uint8), [], "no images"),
        (np.zeros((2, 1, 3, 3), np.uint8), [0, 2], "labels from 0 to 2, but 2 classes"),
        (np.zeros((2, 1, 3, 3), np.uint8), [0, -1], "labels from -1"),
        (np.full((2, 1, 3, 3), 256), [0, 1], "images of torch.int64; must be integers 0 .. 255"),
        (np.full((2, 1, 3, 3), -1), [0, 1], "must be integers 0 .. 255"),
        (np.zeros((2, 1, 3, 3), bool), [0, 1], "images of torch.bool"),
        (np.zeros((2, 1, 1, 3, 3), np.uint8), [0, 1], "shape [2, 1, 1, 3, 3]; must be [n, channels, height, width]"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0, 1], "channels last; use transpose(0, 3, 1, 2)"),
        (np.zeros((2, 1, 3, 3), np.uint8), ["a", "c"], "the label c is not among the classes a, b"),
    ],
)
def test_arrays_that_are_no_data_are_refused(x, y, words):
    y = np.array(y, None if y and isinstance(y[0], str) else int)
    with pytest.raises(ValueError, match=re.escape(words)):
        from_arrays("wrong", (x, y), (x, y), ("a", "b"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5, 6, 6), (5, 6, 6)), ((4, 6, 6), (1, 6, 6)), ((4, 7), (7, 1, 1)), ((4, 1, 9, 3), (1, 9, 3))],
)
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "float16"])
def test_images_of_one_channel_or_many_and_vectors_are_taken_as_they_are(shape, expected, dtype):
    x = np.arange(np.prod(shape)).reshape(shape) % 200
    x = x.astype(dtype)
    data = from_arrays("own", (x[:2], [0, 1]), (x[2:], np.array(["b", "a"])), ["a", "b"])
    assert data.shape == expected
    assert data.x.dtype == (torch.float32 if dtype.startswith("float") else torch.uint8)
    assert np.array_equal(data.x.numpy().reshape(shape), x)
    assert data.y.tolist() == [0, 1, 1, 0]
    assert data.classes == ("a", "b")


class Items(torch.utils.data.Dataset):
    """A torch Dataset of (image, label), with names of its classes."""

    classes = ("cat", "dog")

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], i % 2


def test_torch_datasets_of_tensors_and_of_pictures_are_read_once():
    draw = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    expected = torch.from_numpy(draw).permute(0, 3, 1, 2)
    pictures = [Image.fromarray(image) for image in draw]
    for images, result in ((list(expected.float() / 255), expected.float() / 255), (pictures, expected)):
        data = datasets.from_datasets("own", Items(images[:4]), Items(images[4:]))
        assert torch.equal(data.x, result)
        assert (data.n_train, data.y.tolist(), data.classes) == (4, [0, 1, 0, 1, 0, 1], ("cat", "dog"))
    plain = torch.utils.data.TensorDataset(expected, torch.arange(6) % 3)
    assert datasets.from_datasets("own", plain, plain).classes == ("0", "1", "2")
    grey = Items([Image.fromarray(image[..., 0]) for image in draw])
    assert datasets.from_datasets("own", grey, grey).shape == (1, 8, 8)


# --- the published data sets, on small files of their layout -----------------------------------------------------------

WIDE, SMALL = 32, 9  # pixels; IDX files say how large their images are


@dataclass(frozen=True)
class Layout:
    """How small files of a published data set are written, and what is known of them.

    `write` takes the folder of the data sets and returns what must be read, (x_train, y_train, x_test, y_test, classes).
    `publish` makes the checksum of a file the published one. `files` have one of their own, `archive` has that of the rest.
    """

    write: Callable
    publish: Callable
    files: tuple[str, ...] = ()
    archive: str = ""


def random_images(channels, n_train=20, n_test=10, size=WIDE):
    generator = np.random.default_rng(channels)
    return [generator.integers(0, 256, (n, channels, size, size), dtype=np.uint8) for n in (n_train, n_test)]


def write_idx_files(data_dir, folder, names, n_classes=10, transposed=False):
    (x_train, x_test), y = random_images(1, 50, 48, SMALL), np.arange(50) % n_classes
    result = (x_train, y, x_test, y[:48])
    for name, array in zip(names, result, strict=True):
        array = array[:, 0] if array.ndim == 4 else array
        write_idx(data_dir / folder / name, array.transpose(0, 2, 1) if transposed and array.ndim == 3 else array)
    return result


def write_mnist(data_dir, source="MNIST"):
    return *write_idx_files(data_dir, f"{source}/raw", IDX_FILES), getattr(torchvision, source).classes


EMNIST_FILES = [f"emnist-balanced-{name.replace('t10k', 'test')}" for name in IDX_FILES]


def write_emnist(data_dir):
    result = write_idx_files(data_dir, "EMNIST/raw", EMNIST_FILES, n_classes=47, transposed=True)
    return *result, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"  # as the paper's table of classes has them


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=4))


def write_cifar(data_dir, name):
    folder = data_dir / FOLDERS[name]
    key, meta = {"CIFAR10": ("labels", "label_names"), "CIFAR100": ("fine_labels", "fine_label_names")}[name]
    classes = [f"thing {c}" for c in range(10)]
    (x_train, x_test), y = random_images(3), np.arange(20) % 10
    batches = CIFAR_BATCHES[name]
    for i, (batch, part) in enumerate(zip(batches, np.split(np.arange(20), len(batches)), strict=True)):
        labels = {key: y[part].tolist(), "coarse_labels": [i] * len(part)}
        write_pickle(folder / batch, {"data": x_train[part].reshape(len(part), -1), **labels})
    test = "test_batch" if name == "CIFAR10" else "test"
    write_pickle(folder / test, {"data": x_test.reshape(10, -1), key: y[:10].tolist(), "coarse_labels": [0] * 10})
    write_pickle(folder / CIFAR_META[name], {meta: classes, "coarse_label_names": ["wrong"]})
    return x_train, y, x_test, y[:10], classes


FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python", "CINIC10": "CINIC-10"}
CIFAR_BATCHES = {"CIFAR10": [f"data_batch_{i}" for i in range(1, 6)], "CIFAR100": ["train"]}
CIFAR_META = {"CIFAR10": "batches.meta", "CIFAR100": "meta"}


def write_svhn(data_dir):
    from scipy.io import savemat

    (x_train, x_test), y = random_images(3), np.arange(20) % 10
    data_dir.mkdir(parents=True, exist_ok=True)
    for part, x in (("train", x_train), ("test", x_test)):
        labels = np.where(y == 0, 10, y)[: len(x), None].astype(np.uint8)
        savemat(data_dir / f"{part}_32x32.mat", {"X": x.transpose(2, 3, 1, 0), "y": labels})
    return x_train, y, x_test, y[:10], "0123456789"


CINIC_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_image(path, x):
    """uint8 [channels, height, width] as a file; the suffix says of which kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = x[0] if len(x) == 1 else x.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def write_tree(root, parts):
    """{part: (x, y, classes)} as root/part/CLASS/NUMBER.png -> {part: (x, y)} in the order in which they are to be read."""
    for part, (x, y, classes) in parts.items():
        for i, (image, label) in enumerate(zip(x, y, strict=True)):
            write_image(root / part / classes[label] / f"{i:03}.png", image)
    order = {part: np.argsort(y, kind="stable") for part, (_, y, _) in parts.items()}
    return {part: (x[order[part]], np.asarray(y)[order[part]]) for part, (x, y, _) in parts.items()}


def write_cinic10(data_dir):
    (x_train, x_test), y = random_images(3), np.arange(20) % 10
    (x_valid, _) = random_images(3, 30)
    parts = {"train": (x_train, y), "test": (x_test, y[:10]), "valid": (x_valid, np.arange(30) % 10)}
    read = write_tree(data_dir / "CINIC-10", {part: (*pair, CINIC_CLASSES) for part, pair in parts.items()})
    return *read["train"], *read["test"], CINIC_CLASSES


def write_celeba(data_dir, attribute="Smiling"):
    """Eight images of one colour each, which JPEG keeps to within a step or two: five train, one validation, two test."""
    folder = data_dir / "celeba"
    names = [f"{i + 1:06}.jpg" for i in range(8)]
    x = np.random.default_rng(0).integers(0, 256, (8, 3, 1, 1), dtype=np.uint8)
    for name, colour in zip(names, x, strict=True):
        write_image(folder / "img_align_celeba" / name, colour.repeat(218, 1).repeat(178, 2))
    values = {name: np.random.default_rng(i).permutation([0, 1] * 4) for i, name in enumerate(CELEBA_ATTRIBUTES)}
    rows = [" ".join([name, *(f"{2 * values[a][i] - 1:2}" for a in CELEBA_ATTRIBUTES)]) for i, name in enumerate(names)]
    lines = [str(len(names)), " ".join(CELEBA_ATTRIBUTES) + " ", *rows]
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = [0, 0, 1, 0, 2, 0, 2, 0]
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, parts, strict=True)))
    train, test = ([i for i, p in enumerate(parts) if p == part] for part in (0, 2))
    y = values[attribute]
    x = x.repeat(32, 2).repeat(32, 3)
    return x[train], y[train], x[test], y[test], (f"not {attribute}", attribute)


def publish_mnist(constant):
    def publish(patch, path):
        if path.suffix == ".gz":
            reader = torchvision.MNIST if constant == "MNIST_FILES" else torchvision.FashionMNIST
            others = [pair for pair in reader.resources if pair[0] != path.name]
            order = [f"{name}.gz" for name in IDX_FILES]
            pairs = sorted([*others, (path.name, md5(path))], key=lambda pair: order.index(pair[0]))
            patch.setattr(reader, "resources", pairs)
        else:
            patch.setitem(getattr(datasets, constant), path.name, md5(path))

    return publish


def publish_cifar(name):
    def publish(patch, path):
        reader = getattr(torchvision, name)
        if path.suffix == ".gz":
            patch.setattr(reader, "tgz_md5", md5(path))
        for list_name in ("train_list", "test_list"):
            pairs = [[file, md5(path) if file == path.name else old] for file, old in getattr(reader, list_name)]
            patch.setattr(reader, list_name, pairs)
        if path.name == reader.meta["filename"]:
            patch.setattr(reader, "meta", {**reader.meta, "md5": md5(path)})

    return publish


def publish_svhn(patch, path):
    reader = torchvision.SVHN
    lists = {k: [u, f, md5(path) if f == path.name else old] for k, (u, f, old) in reader.split_list.items()}
    patch.setattr(reader, "split_list", lists)


def publish_celeba(patch, path):
    reader = torchvision.CelebA
    patch.setattr(reader, "file_list", [(i, md5(path) if f == path.name else old, f) for i, old, f in reader.file_list])


def cifar_files(name):
    names = (*CIFAR_BATCHES[name], "test_batch" if name == "CIFAR10" else "test", CIFAR_META[name])
    return tuple(f"{FOLDERS[name]}/{file}" for file in names)


LAYOUTS = {
    "MNIST": Layout(write_mnist, publish_mnist("MNIST_FILES"), tuple(f"MNIST/raw/{f}" for f in IDX_FILES)),
    "FMNIST": Layout(
        lambda data_dir: write_mnist(data_dir, "FashionMNIST"),
        publish_mnist("FASHION_MNIST_FILES"),
        tuple(f"FashionMNIST/raw/{f}" for f in IDX_FILES),
    ),
    "EMNIST": Layout(
        write_emnist,
        lambda patch, path: patch.setattr(torchvision.EMNIST, "md5", md5(path)),
        archive="EMNIST/raw/gzip.zip",
    ),
    "CIFAR10": Layout(partial(write_cifar, name="CIFAR10"), publish_cifar("CIFAR10"), cifar_files("CIFAR10")),
    "CIFAR100": Layout(partial(write_cifar, name="CIFAR100"), publish_cifar("CIFAR100"), cifar_files("CIFAR100")),
    "SVHN": Layout(write_svhn, publish_svhn, ("train_32x32.mat", "test_32x32.mat")),
    "CINIC10": Layout(
        write_cinic10,
        lambda patch, path: patch.setattr(datasets, "CINIC10_MD5", md5(path)),
        archive="CINIC-10.tar.gz",
    ),
    "CELEBA": Layout(
        write_celeba,
        publish_celeba,
        ("celeba/list_attr_celeba.txt", "celeba/list_eval_partition.txt"),
        "celeba/img_align_celeba.zip",
    ),
}
ARCHIVED = [name for name, layout in LAYOUTS.items() if layout.archive]
CHECKED = [name for name, layout in LAYOUTS.items() if layout.files]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test waits for a network, or finds one."""

    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setitem(sys.modules, "gdown", None)


@pytest.mark.parametrize("name", LAYOUTS)
def test_small_files_are_read_exactly(name, tmp_path):
    x_train, y_train, x_test, y_test, classes = LAYOUTS[name].write(tmp_path)
    data = load(name, Source(tmp_path, unverified=True))
    assert (data.name, data.n_train, data.classes) == (name, len(x_train), tuple(classes))
    assert (data.x.dtype, data.y.dtype) == (torch.uint8, torch.int64)
    result, expected = data.x.numpy(), np.concatenate([x_train, x_test])
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= (2 if name == "CELEBA" else 0)  # JPEG rounds
    assert np.array_equal(data.y.numpy(), np.concatenate([y_train, y_test]))
    assert data.x.is_contiguous()
    assert data.owners is None


@pytest.mark.parametrize("name", CHECKED)
def test_files_with_their_published_checksums_need_no_leave(name, tmp_path, monkeypatch):
    LAYOUTS[name].write(tmp_path)
    for file in LAYOUTS[name].files:
        LAYOUTS[name].publish(monkeypatch, tmp_path / file)
    words = load(name, Source(tmp_path)).unverified
    assert words == ("" if not LAYOUTS[name].archive else words)
    assert "published checksum" not in words


@pytest.mark.parametrize(("name", "file"), [(name, file) for name in CHECKED for file in LAYOUTS[name].files])
def test_each_file_is_held_against_its_checksum(name, file, tmp_path, monkeypatch):
    LAYOUTS[name].write(tmp_path)
    for other in LAYOUTS[name].files:
        if other != file:
            LAYOUTS[name].publish(monkeypatch, tmp_path / other)
    line = one_line(name, Source(tmp_path))
    assert line.startswith(
        f"--dataset {name}: {tmp_path / file} does not have its published checksum (md5 {md5(tmp_path / file)}"
    )
    assert line.endswith("; add --unverified_data to use it anyway")
    words = load(name, Source(tmp_path, unverified=True)).unverified
    assert words.startswith(f"{Path(file).name} does not have the published checksum")


def test_the_words_name_the_first_and_the_last_of_many_files(tmp_path):
    write_cifar(tmp_path, "CIFAR10")
    words = load("CIFAR10", Source(tmp_path, unverified=True)).unverified
    assert words == "data_batch_1, ..., batches.meta do not have the published checksum"


def make_archive(name, data_dir):
    """The archive from which the small files could have been unpacked, in its place."""
    if name in ("EMNIST", "CELEBA"):
        path = data_dir / LAYOUTS[name].archive
        with zipfile.ZipFile(path, "w") as file:
            for image in EMNIST_FILES if name == "EMNIST" else ():
                file.writestr(f"gzip/{image}.gz", gzip.compress((data_dir / "EMNIST" / "raw" / image).read_bytes()))
        return path
    path = data_dir / {"CIFAR10": "cifar-10-python.tar.gz", "CIFAR100": "cifar-100-python.tar.gz"}.get(
        name, "CINIC-10.tar.gz"
    )
    folder = data_dir / FOLDERS[name]
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, "." if name == "CINIC10" else folder.name)
    return path


@pytest.mark.parametrize("name", ARCHIVED)
def test_what_cannot_be_checked_is_said(name, tmp_path):
    LAYOUTS[name].write(tmp_path)
    words = load(name, Source(tmp_path, unverified=True)).unverified
    assert words.endswith(f"cannot be checked, because the archive {Path(LAYOUTS[name].archive).name} is missing")


@pytest.mark.parametrize("name", ["EMNIST", "CINIC10"])
def test_without_any_checksum_at_hand_files_are_taken(name, tmp_path):
    LAYOUTS[name].write(tmp_path)
    assert "cannot be checked" in load(name, Source(tmp_path)).unverified


@pytest.mark.parametrize("name", ARCHIVED)
def test_an_archive_beside_its_files_is_checked(name, tmp_path, monkeypatch):
    layout = LAYOUTS[name]
    layout.write(tmp_path)
    archive = make_archive(name, tmp_path)
    for file in layout.files:
        layout.publish(monkeypatch, tmp_path / file)
    line = one_line(name, Source(tmp_path))
    assert f"{archive} does not have its published checksum" in line
    words = load(name, Source(tmp_path, unverified=True)).unverified
    assert words == f"{archive.name} does not have the published checksum"
    layout.publish(monkeypatch, archive)
    assert load(name, Source(tmp_path)).unverified == ""


def test_an_archive_does_not_matter_where_each_file_has_its_own_checksum(tmp_path, monkeypatch):
    write_cifar(tmp_path, "CIFAR10")
    for file in LAYOUTS["CIFAR10"].files:
        publish_cifar("CIFAR10")(monkeypatch, tmp_path / file)
    make_archive("CIFAR10", tmp_path).write_bytes(b"half of it")
    assert load("CIFAR10", Source(tmp_path)).unverified == ""


# --- unpacking and downloading -----------------------------------------------------------------------------------------


def pack(name, data_dir, patch):
    """The archives of a data set as published, without the files -> the archives."""
    layout = LAYOUTS[name]
    for file in layout.files:
        layout.publish(patch, data_dir / file)
    if name in SOURCES:
        archives = []
        for file in layout.files:
            archives.append(data_dir / f"{file}.gz")
            archives[-1].write_bytes(gzip.compress((data_dir / file).read_bytes()))
            (data_dir / file).unlink()
            layout.publish(patch, archives[-1])
        return archives
    archive = make_archive(name, data_dir)
    layout.publish(patch, archive)
    if name == "EMNIST":
        for file in EMNIST_FILES:
            (data_dir / "EMNIST" / "raw" / file).unlink()
    else:
        shutil.rmtree(data_dir / FOLDERS[name])
    return [archive]


PACKED = ["MNIST", "FMNIST", "EMNIST", "CIFAR10", "CIFAR100", "CINIC10"]


@pytest.mark.parametrize("name", PACKED)
def test_archives_put_there_by_hand_are_unpacked_without_a_network(name, tmp_path, monkeypatch):
    expected = LAYOUTS[name].write(tmp_path)
    before = load(name, Source(tmp_path, unverified=True))
    archives = pack(name, tmp_path, monkeypatch)
    contents = [archive.read_bytes() for archive in archives]
    data = load(name, Source(tmp_path))
    assert data.digest == before.digest
    assert data.unverified == ""
    assert len(data.y) == len(expected[1]) + len(expected[3])
    assert [archive.read_bytes() for archive in archives] == contents
    assert not list(tmp_path.glob(".*"))
    assert load(name, Source(tmp_path)).digest == data.digest  # and from the files alone


@pytest.mark.parametrize("name", [name for name in PACKED if name not in SOURCES])
def test_an_archive_with_another_checksum_is_not_unpacked(name, tmp_path, monkeypatch):
    LAYOUTS[name].write(tmp_path)
    [archive] = pack(name, tmp_path, monkeypatch)
    archive.write_bytes(b"a page")
    before = sorted(tmp_path.rglob("*"))
    for unverified in (False, True):
        line = one_line(name, Source(tmp_path, unverified=unverified))
        assert f"{archive} does not have its published checksum" in line
        assert "--unverified_data" not in line  # which would not help
    assert archive.read_bytes() == b"a page"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_download_never_writes_over_an_archive_of_the_users(tmp_path, monkeypatch):
    """MNIST's .gz are checked by torchvision alone, which would write over them where they lie."""
    write_mnist(tmp_path)
    archives = pack("MNIST", tmp_path, monkeypatch)
    archives[0].write_bytes(b"a page")

    monkeypatch.setattr(torchvision.utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision.utils, "_urlretrieve", lambda url, file: Path(file).write_bytes(b"another page"))
    line = one_line("MNIST", Source(tmp_path))
    assert "or downloaded" in line
    assert archives[0].read_bytes() == b"a page"


def download_from(folder, name, patch, error=None):
    """torchvision's download copies what lies in `folder`, and then meets the error, if there is one."""

    def download(self, *_):
        shutil.copytree(folder, self.root, dirs_exist_ok=True)
        if error:
            raise error

    reader = getattr(torchvision, {**SOURCES, "CELEBA": "CelebA"}.get(name, name))
    patch.setattr(reader, "download", download)
    if name == "CELEBA":  # whose reader asks for texts that nothing here reads
        patch.setattr(reader, "__init__", lambda self, root, **_: setattr(self, "root", root) or self.download())


DOWNLOADED = [name for name in LAYOUTS if name != "CINIC10"]  # which is not torchvision's


def tree_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_lies_in_its_place_and_nothing_else_does(name, tmp_path, monkeypatch):
    layout = LAYOUTS[name]
    layout.write(tmp_path / "there")
    for file in layout.files:
        layout.publish(monkeypatch, tmp_path / "there" / file)
    download_from(tmp_path / "there", name, monkeypatch)
    data = load(name, Source(tmp_path / "new" / "data"))
    assert tree_of(tmp_path / "new" / "data") == tree_of(tmp_path / "there")
    assert data.digest == load(name, Source(tmp_path / "there")).digest
    assert not [path for path in (tmp_path / "new" / "data").iterdir() if path.name.startswith(".")]


def test_cinic10_is_downloaded_from_where_its_authors_put_it(tmp_path, monkeypatch):
    write_cinic10(tmp_path / "there")
    archive = make_archive("CINIC10", tmp_path / "there")
    monkeypatch.setattr(datasets, "CINIC10_MD5", md5(archive))
    results = []

    def download(url, filename, *_):
        results.append(url)
        shutil.copyfile(archive, filename)

    monkeypatch.setattr(torchvision.utils, "_get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(torchvision.utils, "_urlretrieve", download)
    data = load("CINIC10", Source(tmp_path / "new"))
    assert results == ["https://datashare.is.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"]
    assert data.unverified == ""  # the archive was kept, and is checked
    assert data.digest == load("CINIC10", Source(tmp_path / "there")).digest
    assert tree_of(tmp_path / "new") == tree_of(tmp_path / "there")


@pytest.mark.parametrize("name", DOWNLOADED)
@pytest.mark.parametrize(
    "error",
    [
        URLError("no network"),
        RuntimeError("Error downloading it:\nTried https://one/, got:\n<urlopen error>\n"),
        PermissionError(13, "Permission denied"),
        OSError(28, "No space left on device"),
    ],
    ids=["unreachable", "every mirror failed", "not allowed", "no room"],
)
def test_a_download_that_breaks_is_one_line_and_leaves_nothing_behind(name, error, tmp_path, monkeypatch):
    LAYOUTS[name].write(tmp_path / "half")
    data_dir = tmp_path / "new" / "data"
    download_from(tmp_path / "half", name, monkeypatch, error)
    line = one_line(name, Source(data_dir))
    for part in (f"--dataset {name}: ", str(data_dir), str(error).splitlines()[0].rstrip(":"), "--data_dir"):
        assert part in line
    assert not (tmp_path / "new").exists()


def test_a_download_that_lacks_a_file_is_one_line(tmp_path, monkeypatch):
    write_cifar(tmp_path / "half", "CIFAR10")
    (tmp_path / "half" / FOLDERS["CIFAR10"] / "data_batch_3").unlink()
    download_from(tmp_path / "half", "CIFAR10", monkeypatch)
    monkeypatch.setattr(torchvision.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(
        torchvision.CIFAR10, "__init__", lambda self, root, **_: setattr(self, "root", root) or self.download()
    )
    assert "the download lacks data_batch_3" in one_line("CIFAR10", Source(tmp_path / "new"))


def test_what_is_there_stays_when_the_rest_is_downloaded(tmp_path, monkeypatch):
    write_cifar(tmp_path / "there", "CIFAR10")
    for file in LAYOUTS["CIFAR10"].files:
        publish_cifar("CIFAR10")(monkeypatch, tmp_path / "there" / file)
    download_from(tmp_path / "there", "CIFAR10", monkeypatch)
    mine = tmp_path / "mine" / FOLDERS["CIFAR10"]
    shutil.copytree(tmp_path / "there" / FOLDERS["CIFAR10"], mine)
    (mine / "data_batch_3").unlink()
    write_pickle(mine / "data_batch_1", {"data": np.zeros((4, 3072), np.uint8), "labels": [9, 9, 9, 9]})
    data = load("CIFAR10", Source(tmp_path / "mine", unverified=True))
    assert data.y[:4].tolist() == [9, 9, 9, 9]
    assert data.y[8:12].tolist() == [8, 9, 0, 1]  # the third batch
    assert data.unverified == "data_batch_1 does not have the published checksum"


def test_a_download_gives_up_on_a_silent_server_and_no_other_connection_does(tmp_path, monkeypatch):
    import socket

    patience = []

    def download(self):
        patience.append(socket.getdefaulttimeout())
        raise URLError("timed out")

    monkeypatch.setattr(torchvision.MNIST, "download", download)
    one_line("MNIST", Source(tmp_path))
    assert patience == [60]
    assert socket.getdefaulttimeout() is None


WHERE = {
    "MNIST": ("MNIST/raw", *IDX_FILES),
    "FMNIST": ("FashionMNIST/raw", *IDX_FILES),
    "EMNIST": ("EMNIST/raw", "gzip.zip", *EMNIST_FILES),
    "CIFAR10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "CIFAR100": ("cifar-100-python", "cifar-100-python.tar.gz"),
    "SVHN": ("", "train_32x32.mat", "test_32x32.mat"),
    "CINIC10": ("CINIC-10", "CINIC-10.tar.gz"),
    "CELEBA": ("celeba", "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba", "gdown"),
}


@pytest.mark.parametrize("name", WHERE)
def test_without_files_and_network_the_line_says_what_is_to_lie_where(name, tmp_path):
    data_dir = tmp_path / "none"
    line = one_line(name, Source(data_dir))
    place, *files = WHERE[name]
    for part in (f"--dataset {name}: ", str(data_dir / place), *files, "--data_dir"):
        assert part in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("holds", [None, "notes.txt", ".download-other"])
def test_a_folder_that_was_there_before_a_failed_download_stays(holds, tmp_path):
    data_dir = tmp_path / "mine"
    data_dir.mkdir()
    if holds:
        (data_dir / holds).touch()
    one_line("MNIST", Source(data_dir))
    assert data_dir.is_dir()
    assert [path.name for path in data_dir.iterdir()] == ([holds] if holds else [])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_data_dir_that_is_a_file_is_one_line(name, tmp_path):
    (tmp_path / "file").touch()
    assert f"--dataset {name}: " in one_line(name, Source(tmp_path / "file"))


def test_a_copy_that_torchvision_would_prefer_is_not_looked_at(tmp_path):
    """It takes processed/training.pt instead of the files, whatever is in it."""
    write_mnist(tmp_path)
    expected = load("MNIST", Source(tmp_path, unverified=True)).digest
    for file in ("training.pt", "test.pt"):
        (tmp_path / "MNIST" / "processed").mkdir(exist_ok=True)
        torch.save((torch.zeros(3, 9, 9, dtype=torch.uint8), torch.zeros(3).long()), tmp_path / "MNIST" / "processed" / file)
    assert load("MNIST", Source(tmp_path, unverified=True)).digest == expected


# --- damaged files -----------------------------------------------------------------------------------------------------


class Runs:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def page(path):
    path.write_text("<html><body>Please log in.</body></html>")


def entry(**changes):
    """A damage: a CIFAR pickle with other entries, or without those that are None."""

    def damage(path):
        content = {**pickle.loads(path.read_bytes()), **changes}
        write_pickle(path, {key: value for key, value in content.items() if value is not None})

    return damage


def mat(**changes):
    def damage(path):
        from scipy.io import loadmat, savemat

        content = {**loadmat(path), **changes}
        savemat(path, {key: value for key, value in content.items() if not key.startswith("_") and value is not None})

    return damage


def lines(change):
    """A damage: a text file with other lines."""
    return lambda path: path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


RAW, BATCH, FINE, META = (
    "MNIST/raw/",
    "cifar-10-batches-py/data_batch_2",
    "cifar-100-python/train",
    "cifar-10-batches-py/batches.meta",
)
MAT, PICTURE = "test_32x32.mat", "CINIC-10/test/dog/005.png"
FACE, ATTRIBUTES, PARTS = (
    "celeba/img_align_celeba/000005.jpg",
    "celeba/list_attr_celeba.txt",
    "celeba/list_eval_partition.txt",
)
DAMAGES = {  # what is damaged: data set, file, damage, what the line says besides the file
    "images end early": ("MNIST", RAW + IDX_FILES[0], truncate, "cannot reshape"),
    "images that end in the header": (
        "MNIST",
        RAW + IDX_FILES[0],
        lambda path: path.write_bytes(bytes([0, 0, 8, 3, 0])),
        "IDX",
    ),
    "labels end early": ("MNIST", RAW + IDX_FILES[3], truncate, "cannot reshape"),
    "images go on": ("MNIST", RAW + IDX_FILES[2], lambda path: path.write_bytes(path.read_bytes() + b"0"), "cannot reshape"),
    "an empty IDX file": ("MNIST", RAW + IDX_FILES[2], empty, "not an IDX file"),
    "a web page for images": ("MNIST", RAW + IDX_FILES[0], page, "not an IDX file"),
    "float images": (
        "MNIST",
        RAW + IDX_FILES[0],
        lambda path: path.write_bytes(bytes([0, 0, 13, 3]) + b"\0\0\0\1" * 4),
        "IDX",
    ),
    "labels for images": ("MNIST", RAW + IDX_FILES[0], lambda path: write_idx(path, np.arange(50) % 10), "3 axes"),
    "fewer labels": (
        "MNIST",
        RAW + IDX_FILES[1],
        lambda path: write_idx(path, np.arange(49) % 10),
        "50 images, but 49 labels",
    ),
    "a label too many": ("MNIST", RAW + IDX_FILES[1], lambda path: write_idx(path, np.arange(50) % 11), "0 to 10"),
    "letters damaged": ("EMNIST", "EMNIST/raw/" + EMNIST_FILES[2], halve, "cannot reshape"),
    "a folder for a file": (
        "MNIST",
        RAW + IDX_FILES[0],
        lambda path: path.unlink() or path.mkdir(),
        "a folder; must be a file",
    ),
    "half a pickle": ("CIFAR10", BATCH, halve, "cannot be read"),
    "an empty pickle": ("CIFAR10", BATCH, empty, "pickle exhausted"),
    "a web page for a pickle": ("CIFAR10", BATCH, page, "cannot be read"),
    "a pickle that runs": (
        "CIFAR10",
        BATCH,
        lambda path: write_pickle(path, Runs(path.with_name("ran"))),
        "uses pathlib.Path",
    ),
    "a pickle that runs deep inside": (
        "CIFAR100",
        FINE,
        lambda path: entry(batch_label=[Runs(path.with_name("ran"))])(path),
        "uses pathlib",
    ),
    "names that run": ("CIFAR10", META, lambda path: write_pickle(path, Runs(path.with_name("ran"))), "uses pathlib"),
    "a list": ("CIFAR10", BATCH, lambda path: write_pickle(path, [1]), "must be a dict, not a list"),
    "no images": ("CIFAR10", BATCH, entry(data=None), "it lacks 'data'"),
    "no labels": ("CIFAR10", BATCH, entry(labels=None), "it lacks 'labels'"),
    "no fine labels": ("CIFAR100", FINE, entry(fine_labels=None), "it lacks 'fine_labels'"),
    "no names": ("CIFAR10", META, entry(label_names=None), "it lacks 'label_names'"),
    "images of another size": ("CIFAR10", BATCH, entry(data=np.zeros((4, 100), np.uint8)), "cannot reshape"),
    "images of floats": ("CIFAR10", BATCH, entry(data=np.zeros((4, 3072))), "f8"),
    "images as a list": ("CIFAR10", BATCH, entry(data=[0] * 3072), "list"),
    "labels of text": ("CIFAR10", BATCH, entry(labels=["cat"] * 4), "integers"),
    "labels of fractions": ("CIFAR10", BATCH, entry(labels=[0.5] * 4), "integers"),
    "fewer labels than colour images": ("CIFAR10", BATCH, entry(labels=[1, 2, 3]), "20 images, but 19 labels"),
    "a label without a name": ("CIFAR10", BATCH, entry(labels=[1, 2, 3, 10]), "labels from 0 to 10, but 10 classes"),
    "half a .mat": ("SVHN", MAT, halve, "cannot be read"),
    "an empty .mat": ("SVHN", MAT, empty, "cannot be read"),
    "a web page for a .mat": ("SVHN", MAT, page, "cannot be read"),
    "a .mat without labels": ("SVHN", MAT, mat(y=None), "it lacks 'y'"),
    "a .mat of few labels": ("SVHN", MAT, mat(y=np.arange(9)), "10 images, but 9 labels"),
    "a .mat of floats": ("SVHN", MAT, lambda path: mat(X=np.zeros((32, 32, 3, 10)))(path), "float64"),
    "a .mat of one image": ("SVHN", MAT, mat(X=np.zeros((32, 32, 3), np.uint8)), "axes"),
    "a .mat of larger images": ("SVHN", MAT, mat(X=np.zeros((40, 40, 3, 10), np.uint8)), "40"),
    "half a picture": ("CINIC10", PICTURE, halve, "cannot be read as an image"),
    "an empty picture": ("CINIC10", PICTURE, empty, "cannot be read as an image"),
    "a web page for a picture": ("CINIC10", PICTURE, page, "cannot be read as an image"),
    "a picture of another size": (
        "CINIC10",
        PICTURE,
        lambda path: write_image(path, np.zeros((3, 32, 31), np.uint8)),
        "has 32x32",
    ),
    "a class without pictures": (
        "CINIC10",
        "CINIC-10/test/dog",
        lambda path: (path / "005.png").unlink(),
        "holds no images",
    ),
    "half a face": ("CELEBA", FACE, halve, "cannot be read as an image"),
    "a missing face": ("CELEBA", FACE, Path.unlink, "No such file"),
    "no attributes": ("CELEBA", ATTRIBUTES, empty, "cannot be read"),
    "half the attributes": ("CELEBA", ATTRIBUTES, halve, "cannot be read"),
    "another attribute": (
        "CELEBA",
        ATTRIBUTES,
        lines(lambda rows: [rows[0], rows[1].replace("Smiling", "Grinning"), *rows[2:]]),
        "Smiling",
    ),
    "an attribute of 2": (
        "CELEBA",
        ATTRIBUTES,
        lines(lambda rows: [*rows[:3], " ".join(["000002.jpg"] + ["2"] * 40), *rows[4:]]),
        "'2'",
    ),
    "a face without attributes": ("CELEBA", ATTRIBUTES, lines(lambda rows: rows[:-2]), "'000008.jpg'"),
    "no parts": ("CELEBA", PARTS, empty, "no training images"),
    "a part too many": ("CELEBA", PARTS, lines(lambda rows: [*rows, "000009.jpg 1 2"]), "cannot be read"),
}
NOT_NAMED = {  # the error shows only when files are put together: the line names their folder instead
    *("fewer labels", "a label too many", "fewer labels than colour images", "a label without a name"),
    *("a .mat of few labels", "a .mat of floats", "a .mat of larger images"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_that_names_it(damage, tmp_path):
    name, file, change, words = DAMAGES[damage]
    LAYOUTS[name].write(tmp_path)
    change(tmp_path / file)
    line = one_line(name, Source(tmp_path, unverified=True))
    assert line.startswith(f"--dataset {name}: ")
    assert str((tmp_path / file).parent if damage in NOT_NAMED else tmp_path / file) in line
    assert words in line
    assert not list(tmp_path.rglob("ran"))


def test_what_runs_in_a_pickle_would_have_run_for_torchvision(tmp_path):
    write_pickle(tmp_path / "file", Runs(tmp_path / "ran"))
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "ran").exists()


# --- what is particular to some of them --------------------------------------------------------------------------------


def write_writers(data_dir, **arrays):
    np.savez(data_dir / "MNIST" / "mnist_writer_ids.npz", **arrays)


def test_mnist_knows_its_writers_where_they_are_told(tmp_path):
    write_mnist(tmp_path)
    train, test = np.arange(50, dtype=np.int16) * 7, np.arange(48, dtype=np.int16) + 900
    write_writers(tmp_path, train_writer=train, test_writer=test)
    writers = load("MNIST", Source(tmp_path, unverified=True)).owners
    assert writers.dtype == torch.int64
    assert writers.tolist() == [*train.tolist(), *test.tolist()]


def test_another_data_set_does_not_get_mnists_writers(tmp_path):
    write_mnist(tmp_path)
    write_mnist(tmp_path, "FashionMNIST")
    write_writers(tmp_path, train_writer=np.zeros(50, int), test_writer=np.zeros(48, int))
    assert load("FMNIST", Source(tmp_path, unverified=True)).owners is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"train_writer": np.arange(49), "test_writer": np.arange(48)},
            "49 and 48 images, but there are 50 and 48",
        ),
        ({"train_writer": np.arange(50), "test_writer": np.arange(50)}, "50 and 50 images, but there are 50 and 48"),
        ({"train_writer": np.arange(49), "test_writer": np.arange(49)}, "49 and 49 images"),
        ({"train_writer": np.arange(50)}, "test_writer"),
        ({"train_writer": np.array([None] * 50), "test_writer": np.arange(48)}, "cannot be read"),
        ({"train_writer": np.linspace(0, 1, 50), "test_writer": np.arange(48)}, "integer"),
    ],
)
def test_writers_of_other_images_are_one_line(arrays, words, tmp_path):
    write_mnist(tmp_path)
    write_writers(tmp_path, **arrays)
    line = one_line("MNIST", Source(tmp_path, unverified=True))
    assert line.startswith(f"--dataset MNIST: {tmp_path / 'MNIST' / 'mnist_writer_ids.npz'} ")
    assert words in line


@pytest.mark.parametrize("attribute", ["Smiling", "Male", "5_o_Clock_Shadow", "Young"])
def test_celeba_is_labelled_by_the_attribute_asked_for(attribute, tmp_path):
    _, y_train, _, y_test, classes = write_celeba(tmp_path, attribute)
    data = load("CELEBA", Source(tmp_path, attribute=attribute, unverified=True))
    assert data.y.tolist() == [*y_train, *y_test]
    assert data.classes == classes
    assert data.n_train == 5


@pytest.mark.parametrize(("attribute", "hint"), [("Smile", "; did you mean Smiling?"), ("xyz", ""), ("smiling", "Smiling?")])
def test_an_unknown_attribute_is_one_line_before_anything_is_looked_for(attribute, hint, tmp_path):
    line = one_line("CELEBA", Source(tmp_path / "none", attribute=attribute))
    assert line.startswith(f"--attribute {attribute}: must be one of 5_o_Clock_Shadow, ")
    assert all(name in line for name in CELEBA_ATTRIBUTES)
    assert line.endswith(hint or ", Young")
    assert len(set(CELEBA_ATTRIBUTES)) == 40


def test_celeba_needs_its_three_things_only(tmp_path, monkeypatch):
    write_celeba(tmp_path)
    for file in LAYOUTS["CELEBA"].files:
        publish_celeba(monkeypatch, tmp_path / file)
    data = load("CELEBA", Source(tmp_path))
    assert data.unverified == "img_align_celeba cannot be checked, because the archive img_align_celeba.zip is missing"


# --- the real files ----------------------------------------------------------------------------------------------------


@needs_mnist
def test_mnist_is_the_published_one(mnist):
    assert mnist.shape == (1, 28, 28)
    assert (mnist.n_train, len(mnist.y) - mnist.n_train) == (60_000, 10_000)
    assert (mnist.x.dtype, mnist.y.dtype) == (torch.uint8, torch.int64)
    train = torch.bincount(mnist.y[: mnist.n_train]).tolist()
    assert train == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # as LeCun's page has it
    test = torch.bincount(mnist.y[mnist.n_train :]).tolist()
    assert test == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.classes == tuple(torchvision.MNIST.classes)
    assert mnist.unverified == ""


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        pytest.param("MNIST", "3e8d18e1ad18c72d", marks=needs_mnist),
        pytest.param("FMNIST", "ef54dc081e12886d", marks=needs_fashion_mnist),
    ],
)
def test_saved_runs_still_name_the_same_data(name, digest):
    assert load(name, Source(ROOT / "data")).digest == digest


@needs_mnist
def test_mnist_has_the_mean_and_std_that_everybody_normalises_with(mnist):
    assert round(mnist.mean.item() / 255, 4) == 0.1307
    assert round(mnist.std.item() / 255, 4) == 0.3081


@needs_writers
def test_mnists_training_and_test_digits_have_other_writers(mnist):
    train, test = mnist.owners[: mnist.n_train], mnist.owners[mnist.n_train :]
    assert (len(train.unique()), len(test.unique())) == (539, 297)
    assert not set(train.tolist()) & set(test.tolist())


@needs_fashion_mnist
def test_fashion_mnist_is_the_published_one():
    data = load("FMNIST", Source(ROOT / "data"))
    assert torch.bincount(data.y[:60_000]).tolist() == [6000] * 10
    assert torch.bincount(data.y[60_000:]).tolist() == [1000] * 10
    assert (data.n_train, data.shape, data.unverified) == (60_000, (1, 28, 28), "")
    assert round(data.mean.item() / 255, 4) == 0.2860
    assert round(data.std.item() / 255, 4) == 0.3530
    assert data.classes == tuple(torchvision.FashionMNIST.classes)


@pytest.mark.parametrize(
    ("name", "n_classes", "mean", "std"),
    [
        pytest.param("CIFAR10", 10, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616], marks=needs_cifar10),
        pytest.param("CIFAR100", 100, [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762], marks=needs_cifar100),
    ],
)
def test_cifar_is_the_published_one(name, n_classes, mean, std):
    data = load(name, Source(ROOT / "data", unverified=True))
    assert (data.n_train, len(data.y), data.shape) == (50_000, 60_000, (3, 32, 32))
    assert torch.bincount(data.y[:50_000]).tolist() == [50_000 // n_classes] * n_classes
    assert torch.bincount(data.y[50_000:]).tolist() == [10_000 // n_classes] * n_classes
    assert [round(m.item() / 255, 4) for m in data.mean] == mean
    assert [round(s.item() / 255, 4) for s in data.std] == std
    first, last = {"CIFAR10": ("airplane", "truck"), "CIFAR100": ("apple", "worm")}[name]
    assert (data.classes[0], data.classes[-1], len(data.classes)) == (first, last, n_classes)


@pytest.mark.parametrize(
    "name", [pytest.param("CIFAR10", marks=needs_cifar10), pytest.param("CIFAR100", marks=needs_cifar100)]
)
def test_cifar_with_other_checksums_is_refused_unless_it_is_allowed(name):
    reader = getattr(torchvision, name)
    folder = ROOT / "data" / reader.base_folder
    wrong = [file for file, published in reader.train_list + reader.test_list if md5(folder / file) != published]
    if not wrong:
        pytest.skip("the files here have their published checksums")
    assert f"{folder / wrong[0]} does not have its published checksum" in one_line(name, Source(ROOT / "data"))


# --- other sizes, and data sets of the user's --------------------------------------------------------------------------


def by_area(size, new):
    """The matrix [new, size] of bilinear resizing with antialias: triangles as wide as a new pixel, weights adding to 1."""
    scale = max(size / new, 1)
    places = (np.arange(new) + 0.5) * size / new - 0.5
    weights = np.clip(1 - np.abs(places[:, None] - np.arange(size)) / scale, 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("name", [*LAYOUTS, "digits"])
@pytest.mark.parametrize("size", [5, 32, 40])
def test_every_data_set_comes_in_the_size_asked_for(name, size, tmp_path):
    if name != "digits":
        LAYOUTS[name].write(tmp_path)
    source = Source(tmp_path, unverified=True)
    whole, data = load(name, source), load(name, replace(source, image_size=size))
    assert data.shape == (whole.shape[0], size, size)
    assert data.x.dtype == torch.uint8
    assert torch.equal(data.y, whole.y)
    assert (data.n_train, data.classes, data.unverified) == (whole.n_train, whole.classes, whole.unverified)
    resize = by_area(whole.shape[1], size)
    expected = np.einsum("ah,nchw,bw->ncab", resize, whole.x.double().numpy(), resize)
    assert np.abs(data.x.numpy() - expected).max() <= (2 if name == "CELEBA" else 1.01)  # Pillow rounds twice
    pixels = data.x[: data.n_train].double()
    torch.testing.assert_close(data.mean, pixels.mean((0, 2, 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(data.std, pixels.std((0, 2, 3), correction=0), rtol=1e-9, atol=0)


def test_image_files_are_resized_once_from_the_size_that_they_have(tmp_path):
    write_celeba(tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    Image.fromarray(x).save(tmp_path / "celeba" / "img_align_celeba" / "000001.jpg", format="PNG")  # keeps every pixel
    for size, options in ((32, None), (40, 40)):
        data = load("CELEBA", Source(tmp_path, options, unverified=True))
        expected = np.einsum("ah,hwc,bw->cab", by_area(218, size), x.astype(float), by_area(178, size))
        assert np.abs(data.x[0].numpy() - expected).max() <= 1.01


def test_with_a_size_images_may_be_of_different_sizes(tmp_path):
    write_cinic10(tmp_path)
    write_image(tmp_path / "CINIC-10" / "train" / "airplane" / "000.png", np.full((3, 50, 60), 7, np.uint8))
    data = load("CINIC10", Source(tmp_path, image_size=16))
    assert data.shape == (3, 16, 16)
    assert data.x[0].unique().tolist() == [7]


def test_an_image_that_has_the_size_already_stays_as_it_is(tmp_path):
    write_mnist(tmp_path)
    source = Source(tmp_path, unverified=True)
    assert load("MNIST", replace(source, image_size=SMALL)).digest == load("MNIST", source).digest


def test_more_images_than_are_resized_at_once(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (1203, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", x_train=x, y_train=np.arange(1203) % 3, x_test=x[:5], y_test=np.zeros(5, int))
    data = load(str(tmp_path / "many.npz"), Source(image_size=8))
    resize = by_area(4, 8)
    assert np.abs(data.x[:1203, 0].numpy() - resize @ x.astype(float) @ resize.T).max() <= 0.5 + 1e-3
    assert torch.equal(data.x[1203:], data.x[:5])


def test_floats_are_resized_as_floats(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4, 4))
    np.savez(tmp_path / "f.npz", x_train=x, y_train=np.arange(6) % 3, x_test=x[:5], y_test=np.zeros(5, int))
    data = load(str(tmp_path / "f.npz"), Source(image_size=3))
    resize = by_area(4, 3)
    np.testing.assert_allclose(data.x[:6, 0].numpy(), resize @ x @ resize.T, atol=1e-6)


def test_an_npz_file_is_a_data_set_by_its_path(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (9, 5, 6, 3), dtype=np.uint8), np.arange(9) % 3
    np.savez(tmp_path / "mine.npz", x_train=x[:6], y_train=y[:6], x_test=x[6:], y_test=y[6:])
    data = load(str(tmp_path / "mine.npz"), Source())
    assert (data.name, data.n_train, data.classes, data.shape) == ("mine", 6, ("0", "1", "2"), (3, 5, 6))
    assert np.array_equal(data.x.numpy(), x.transpose(0, 3, 1, 2))
    assert data.y.tolist() == y.tolist()
    assert (data.owners, data.unverified) == (None, "")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_images_is_a_data_set_by_its_path(channels, tmp_path, monkeypatch):
    (x_train, x_test), y = random_images(channels, size=7), np.arange(20) % 3
    parts = {"train": (x_train, y, "cab"), "test": (x_test, y[:10], "cab")}
    write_tree(tmp_path / "my.pets", parts)
    monkeypatch.chdir(tmp_path / "my.pets")
    for path in (str(tmp_path / "my.pets"), "."):
        data = load(path, Source(tmp_path / "data"))
        assert (data.name, data.n_train, data.classes, data.shape) == ("my.pets", 20, ("a", "b", "c"), (channels, 7, 7))
        names = np.array([ord("cab"[label]) - ord("a") for label in y])  # folders are sorted, a c is class 2
        order, test_order = np.argsort(names, kind="stable"), np.argsort(names[:10], kind="stable")
        assert np.array_equal(data.x.numpy(), np.concatenate([x_train[order], x_test[test_order]]))
        assert data.y.tolist() == [*names[order], *names[:10][test_order]]
    assert not (tmp_path / "data").exists()


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    x = np.zeros((2, 3, 3), np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1])
    assert load("~/mine.npz", Source()).name == "mine"


@pytest.mark.parametrize("name", ["nothing.npz", "no/such/folder", "MNIS", "x" * 300])
def test_a_path_to_nothing_is_one_line(name, tmp_path):
    line = one_line(str(tmp_path / name), Source())
    assert line.startswith(f"--dataset {tmp_path / name}: ")
    if len(name) < 300:
        assert line.endswith("must be one of digits, MNIST, FMNIST, EMNIST, CIFAR10, CIFAR100, SVHN, CINIC10, CELEBA, "
                             "a .npz file or a folder with train/ and test/")  # fmt: skip


@pytest.mark.parametrize("image_size", [None, 3])
def test_a_broken_image_of_the_users_is_one_line_that_names_the_path_as_given(image_size, tmp_path, monkeypatch):
    (x_train, x_test), y = random_images(3, size=7), np.arange(20) % 2
    write_tree(tmp_path / "pets", {"train": (x_train, y, "ab"), "test": (x_test, y[:10], "ab")})
    halve(tmp_path / "pets" / "test" / "b" / "003.png")
    monkeypatch.chdir(tmp_path)
    line = one_line("./pets", Source(image_size=image_size))
    assert line.startswith("--dataset ./pets: pets/test/b/003.png cannot be read as an image (")


@pytest.mark.parametrize("name", ["mine.npz", "mine"])
def test_a_damaged_data_set_of_the_users_is_one_line_that_names_it(name, tmp_path):
    if name == "mine":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"")
    assert one_line(str(tmp_path / name), Source()).startswith(f"--dataset {tmp_path / name}: ")


def test_the_names_of_the_data_sets():
    assert {"digits", "MNIST", "FMNIST", "EMNIST", "CIFAR10", "CIFAR100", "SVHN", "CINIC10", "CELEBA"} <= set(LOADERS)


def test_every_data_set_has_a_documented_loader():
    for loader in LOADERS.values():
        assert loader.__doc__
    for name in ("EMNIST", "SVHN", "CINIC10", "CELEBA"):
        assert "small" in LOADERS[name].__doc__  # nobody has tried them on the real files
