"""The data sets are what they say they are, and a missing or damaged one says so in one line."""

import struct
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import ROOT, needs_mnist, tiny_data

from data import datasets
from data.datasets import LOADERS, from_arrays, load
from errors import UserError

SOURCES = {"MNIST": "MNIST", "FMNIST": "FashionMNIST"}  # --dataset: torchvision's class, and so the folder
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load("digits", tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def mnist():
    return load("MNIST", ROOT / "data")


def write_idx(path, array):
    """The IDX format: two zero bytes, 8 for unsigned bytes, the number of axes, their lengths (big-endian), the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_small(data_dir, source, n_train=20, n_test=10, size=9):
    """Four IDX files of random images and labels -> the arrays they hold, in the order of IDX_FILES."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (n, size, size)) for n in (n_train, n_test)]
    labels = [np.arange(n) % 10 for n in (n_train, n_test)]
    arrays = [images[0], labels[0], images[1], labels[1]]
    for name, array in zip(IDX_FILES, arrays, strict=True):
        write_idx(data_dir / source / "raw" / name, array)
    return arrays


def no_network(monkeypatch, error):
    """torchvision's download makes its folder and then meets this error, as it does without a network."""

    def download(self):
        Path(self.raw_folder).mkdir(parents=True, exist_ok=True)
        raise error

    for source in SOURCES.values():
        monkeypatch.setattr(getattr(datasets._torchvision(), source), "download", download)


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
    found = digits.x.double().numpy().reshape(1797, -1)
    distance = (found**2).sum(1)[:, None] - 2 * found @ expected.T + (expected**2).sum(1)
    origin = distance.argmin(1)
    assert sorted(origin) == list(range(1797))
    assert (source.target[origin] == digits.y.numpy()).all()
    assert np.abs(found - expected[origin]).max() <= 0.5 + 1e-4  # rounded to a whole number, and nothing else


def test_digits_is_mixed_although_its_source_is_in_order_of_writers(digits):
    from sklearn.datasets import load_digits

    assert not np.array_equal(load_digits().target[: digits.n_train], digits.y[: digits.n_train].numpy())


def test_digits_comes_in_the_same_order_every_time(digits, tmp_path):
    np.random.seed(3)
    torch.manual_seed(3)
    again = load("digits", tmp_path / "elsewhere")
    assert torch.equal(again.x, digits.x)
    assert torch.equal(again.y, digits.y)
    assert again.digest == digits.digest


def test_digits_writes_nothing(tmp_path):
    load("digits", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- what every data set does ------------------------------------------------------------------------------------------


def three_channels(n_train=12, n_test=6):
    generator = np.random.default_rng(5)
    x = generator.integers(0, 256, (n_train + n_test, 3, 4, 5)) // np.array([1, 2, 8])[:, None, None]
    x, y = x.astype(np.uint8), np.arange(n_train + n_test) % 3
    return from_arrays("three", (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:]), tuple("abc"))


@pytest.mark.parametrize("make", [tiny_data, three_channels, lambda: load("digits", ROOT)])
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


# --- MNIST and its kin -------------------------------------------------------------------------------------------------


@needs_mnist
def test_mnist_is_the_published_one(mnist):
    assert mnist.shape == (1, 28, 28)
    assert (mnist.n_train, len(mnist.y) - mnist.n_train) == (60_000, 10_000)
    assert (mnist.x.dtype, mnist.y.dtype) == (torch.uint8, torch.int64)
    train = torch.bincount(mnist.y[: mnist.n_train]).tolist()
    assert train == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # as LeCun's page has it
    test = torch.bincount(mnist.y[mnist.n_train :]).tolist()
    assert test == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert len(mnist.classes) == 10


@needs_mnist
def test_mnist_has_the_mean_and_std_that_everybody_normalises_with(mnist):
    assert round(mnist.mean.item() / 255, 4) == 0.1307
    assert round(mnist.std.item() / 255, 4) == 0.3081


@pytest.mark.parametrize("name", SOURCES)
def test_small_idx_files_are_read(name, tmp_path):
    train_x, train_y, test_x, test_y = write_small(tmp_path, SOURCES[name])
    data = load(name, tmp_path)
    assert data.name == name
    assert (data.n_train, data.shape, len(data.classes)) == (20, (1, 9, 9), 10)
    assert (data.x.dtype, data.y.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(data.x[:, 0].numpy(), np.concatenate([train_x, test_x]))
    assert np.array_equal(data.y.numpy(), np.concatenate([train_y, test_y]))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "error",
    [
        URLError("no network"),
        RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried https://one/, got:\n<urlopen error>\n"),
        PermissionError(13, "Permission denied"),
    ],
    ids=["unreachable", "every mirror failed", "not allowed"],
)
def test_a_missing_data_set_is_one_line_and_leaves_nothing_behind(name, error, tmp_path, monkeypatch):
    no_network(monkeypatch, error)
    data_dir = tmp_path / "none"
    with pytest.raises(UserError) as raised:
        load(name, data_dir)
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    for part in (f"--dataset {name}", str(data_dir / SOURCES[name] / "raw"), *IDX_FILES, "--data_dir"):
        assert part in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("holds", [None, "notes.txt"])
def test_a_folder_that_was_there_before_a_failed_download_stays(holds, tmp_path, monkeypatch):
    no_network(monkeypatch, URLError("no network"))
    data_dir = tmp_path / "mine"
    data_dir.mkdir()
    if holds:
        (data_dir / holds).touch()
    with pytest.raises(UserError):
        load("MNIST", data_dir)
    assert data_dir.is_dir()
    assert [path.name for path in data_dir.iterdir()] == ([holds] if holds else [])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "an image file that ends early": lambda raw: truncate(raw / IDX_FILES[0]),
    "a label file that ends early": lambda raw: truncate(raw / IDX_FILES[3]),
    "an empty file": lambda raw: (raw / IDX_FILES[2]).write_bytes(b""),
    "a page of a web server": lambda raw: (raw / IDX_FILES[0]).write_text("<html><body>Please log in.</body></html>"),
    "images of another type": lambda raw: (raw / IDX_FILES[0]).write_bytes(bytes([0, 0, 13, 3]) + b"\0\0\0\1" * 4),
    "labels where images belong": lambda raw: write_idx(raw / IDX_FILES[0], np.arange(20) % 10),
    "fewer labels than images": lambda raw: write_idx(raw / IDX_FILES[1], np.arange(19) % 10),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line(damage, tmp_path):
    write_small(tmp_path, "MNIST")
    DAMAGES[damage](tmp_path / "MNIST" / "raw")
    with pytest.raises(UserError) as raised:
        load("MNIST", tmp_path)
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    assert "--dataset MNIST" in line
    assert str(tmp_path / "MNIST" / "raw") in line


def test_every_data_set_has_a_documented_loader():
    for loader in LOADERS.values():
        assert loader.__doc__
