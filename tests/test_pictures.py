"""Image files become the pixels that are in them, and a folder of them what it says."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import pictures
from data.pictures import decode, tree


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(path, array, mode=None, **flags):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **flags)
    return path


# --- pixels ------------------------------------------------------------------------------------------------------------

GREY, COLOUR = pixels(5, 7), pixels(5, 7, 3)


def palette(path):
    image = Image.new("P", (7, 5))
    image.putpalette(pixels(256, 3, seed=1).tobytes())
    image.putdata(GREY.flatten().tolist())
    image.save(path, transparency=bytes(range(256)))
    return path


KINDS = {  # how a file is written, and the pixels that must be read
    "grey.png": (lambda path: saved(path, GREY), GREY[None]),
    "colour.png": (lambda path: saved(path, COLOUR), COLOUR.transpose(2, 0, 1)),
    "colour.bmp": (lambda path: saved(path, COLOUR), COLOUR.transpose(2, 0, 1)),
    "colour.webp": (lambda path: saved(path, COLOUR, lossless=True), COLOUR.transpose(2, 0, 1)),
    "colour.tif": (lambda path: saved(path, COLOUR), COLOUR.transpose(2, 0, 1)),
    "colour.ppm": (lambda path: saved(path, COLOUR), COLOUR.transpose(2, 0, 1)),
    "grey.pgm": (lambda path: saved(path, GREY), GREY[None]),
    "transparent.png": (lambda path: saved(path, np.dstack([COLOUR, GREY])), COLOUR.transpose(2, 0, 1)),
    "transparent grey.png": (lambda path: saved(path, np.dstack([GREY, GREY[::-1]])), GREY[None]),
    "black and white.png": (lambda path: saved(path, (GREY > 99) * np.uint8(255), "1"), (GREY[None] > 99) * 255),
    "sixteen bits.png": (lambda path: saved(path, GREY.astype(np.uint16) * 257), GREY[None]),
    "sixteen bits.tif": (lambda path: saved(path, GREY.astype(np.uint16) // 2 * 257 + 200), GREY[None] // 2 + 1),
    "palette.png": (palette, pixels(256, 3, seed=1)[GREY].transpose(2, 0, 1)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", KINDS)
def test_the_pixels_are_those_of_the_file(name, tmp_path):
    write, expected = KINDS[name]
    x = decode([write(tmp_path / name)], None, None, tmp_path / "kept")
    assert x.dtype == np.uint8
    assert np.array_equal(x, expected[None])


def test_grey_is_colour_where_others_are_coloured(tmp_path):
    files = [saved(tmp_path / "a.png", GREY), saved(tmp_path / "b.png", COLOUR), saved(tmp_path / "c.png", GREY[::-1])]
    x = decode(files, None, None, tmp_path / "kept")
    assert x.shape == (3, 3, 5, 7)
    assert np.array_equal(x[0], np.stack([GREY] * 3))
    assert np.array_equal(x[1], COLOUR.transpose(2, 0, 1))
    assert decode(files[::2], None, None, tmp_path / "kept").shape == (2, 1, 5, 7)
    assert decode(files[::2], None, 3, tmp_path / "kept").shape == (2, 3, 5, 7)


def test_many_images_stay_in_their_order(tmp_path):
    x = pixels(700, 3, 4, seed=2)
    files = [saved(tmp_path / f"{i}.png", image) for i, image in enumerate(x)]
    assert np.array_equal(decode(files, None, None, tmp_path / "kept")[:, 0], x)
    assert not (tmp_path / "kept").exists()  # few files are not kept


def test_each_image_is_resized_from_the_size_that_it_has(tmp_path):
    """To one pixel with antialias: nearly the mean; without it, only what lies in the middle."""
    files = [saved(tmp_path / f"{n}.png", np.tile(np.uint8([[0, 200], [200, 0]]), (n, n))) for n in (2, 3, 20)]
    x = decode(files, 1, None, tmp_path / "kept")
    assert x.shape == (3, 1, 1, 1)
    assert np.abs(x.astype(int) - 100).max() <= 1


@pytest.mark.parametrize("size", [3, 10])
def test_resizing_is_bilinear(size, tmp_path):
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))
    x = decode([saved(tmp_path / "ramp.png", ramp)], size, None, tmp_path / "kept")
    step = 24 / size
    expected = (np.arange(size) + 0.5) * step * 10 - 5  # a straight line stays one, but for its ends
    assert np.abs(x[0, 0, :, 1:-1] - expected[1:-1]).max() <= 1


def test_images_of_different_sizes_are_named(tmp_path):
    files = [saved(tmp_path / "a.png", GREY), saved(tmp_path / "b.png", GREY), saved(tmp_path / "c.png", GREY[:4])]
    with pytest.raises(ValueError, match="images differ in size") as raised:
        decode(files, None, None, tmp_path / "kept")
    assert str(raised.value) == (
        f"images differ in size: {files[0]} has 7x5, {files[2]} has 7x4 (width x height); add --image_size to resize all"
    )
    assert decode(files, 6, None, tmp_path / "kept").shape == (3, 1, 6, 6)


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


BROKEN = {
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<html>"),
    "not there": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "of 32 bits": lambda path: Image.fromarray(np.zeros((20, 30), np.float32)).save(path, "TIFF"),
    "of 32 bit integers": lambda path: Image.fromarray(np.zeros((20, 30), np.int32)).save(path, "TIFF"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_one_broken_image_among_many_is_named(damage, tmp_path):
    files = [saved(tmp_path / f"{i}.png", pixels(20, 30, 3, seed=i)) for i in range(5)]
    BROKEN[damage](files[3])
    with pytest.raises(ValueError, match="cannot be read as an image") as raised:
        decode(files, None, None, tmp_path / "kept")
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).startswith(f"{files[3]} cannot be read as an image (")


def test_the_first_of_several_broken_images_is_named(tmp_path):
    files = [saved(tmp_path / f"{i:03}.png", pixels(2, 2)) for i in range(600)]
    for i in (20, 300, 599):
        files[i].write_bytes(b"")
    for _ in range(3):
        with pytest.raises(ValueError, match="020.png cannot be read as an image"):
            decode(files, None, None, tmp_path / "kept")


def test_no_images_is_said():
    with pytest.raises(ValueError, match="no images"):
        decode([], None, None, Path("kept"))


# --- what is kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Twelve files, which are many here."""
    monkeypatch.setattr(pictures, "MANY", 11)
    return [saved(tmp_path / "files" / f"{i:02}.png", pixels(4, 4, seed=i)) for i in range(12)]


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded."""
    recorded, inner = [], pictures._picture
    monkeypatch.setattr(pictures, "_picture", lambda path, *args: recorded.append(path) or inner(path, *args))
    return recorded


def test_many_images_are_decoded_once(many, decoded, tmp_path):
    first = decode(many, None, None, tmp_path / "kept")
    assert sorted(decoded) == many
    [file] = (tmp_path / "kept").iterdir()
    assert file.suffix == ".npy"
    assert np.array_equal(decode(many, None, None, tmp_path / "kept"), first)
    assert len(decoded) == 12


def test_eleven_are_not_many(many, tmp_path):
    decode(many[:11], None, None, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def newer(many):
    times = many[5].stat()
    os.utime(many[5], ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def longer(many):
    times = many[5].stat()
    many[5].write_bytes(many[5].read_bytes() + b"more")
    os.utime(many[5], ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "a newer file": (newer, (None, None)),
    "a longer file": (longer, (None, None)),
    "another order": (lambda many: many.reverse(), (None, None)),
    "another file": (lambda many: many.append(many.pop().rename(many[0].with_name("new.png"))), (None, None)),
    "another size": (lambda many: None, (3, None)),
    "other channels": (lambda many: None, (None, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_are_decoded_anew_after(change, many, decoded, tmp_path):
    decode(many, None, None, tmp_path / "kept")
    before = len(decoded)
    act, flags = CHANGES[change]
    act(many)
    decode(many, *flags, tmp_path / "kept")
    assert len(decoded) == before + 12


@pytest.mark.parametrize("damage", ["half", "empty", "objects", "other numbers", "fewer", "a folder"])
def test_what_was_kept_and_is_damaged_is_done_without(damage, many, decoded, tmp_path):
    first = decode(many, None, None, tmp_path / "kept")
    [file] = (tmp_path / "kept").iterdir()
    if damage in ("half", "empty"):
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 150])
    elif damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        wrong = {"objects": np.array([None] * 12), "other numbers": first.astype(float), "fewer": first[:11]}[damage]
        np.save(file, wrong)
    assert np.array_equal(decode(many, None, None, tmp_path / "kept"), first)
    assert len(decoded) == 24


def test_nothing_half_written_is_left(many, tmp_path, monkeypatch):
    def fail(file, x):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    assert decode(many, None, None, tmp_path / "kept").shape == (12, 1, 4, 4)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_place_that_is_not_to_be_had_is_done_without(many, tmp_path):
    (tmp_path / "file").touch()
    assert decode(many, None, None, tmp_path / "file" / "kept").shape == (12, 1, 4, 4)


def test_a_missing_file_among_many_is_named(many, tmp_path):
    many[4].unlink()
    with pytest.raises(ValueError, match="04.png cannot be read as an image"):
        decode(many, None, None, tmp_path / "kept")


def test_nothing_is_printed_where_nobody_watches(many, tmp_path, capfd):
    decode(many, None, None, tmp_path / "kept")
    assert capfd.readouterr() == ("", "")


# --- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    for part, names in {"train": ("dog/b.png", "dog/a.JPG", "cat/x.png"), "test": ("cat/1.jpeg",)}.items():
        for name in names:
            (root / part / name).parent.mkdir(parents=True, exist_ok=True)
            (root / part / name).touch()
    return root


def test_a_folder_is_read_class_by_class_in_order_of_names(pets):
    train, test, classes = tree(pets)
    assert classes == ("cat", "dog")
    assert train == ([pets / "train" / name for name in ("cat/x.png", "dog/a.JPG", "dog/b.png")], [0, 1, 1])
    assert test == ([pets / "test" / "cat" / "1.jpeg"], [0])


def test_what_is_hidden_or_no_image_is_passed_over(pets):
    before = tree(pets)
    for name in ("train/.hidden/a.png", "train/dog/.a.png", "train/dog/notes.txt", "train/Thumbs.db", "valid/bird/a.png"):
        (pets / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / name).touch()
    assert tree(pets) == before


def remove(root, name):
    for path in sorted((root / name).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / name).rmdir()


WRONG = {
    "no train": (
        lambda root: remove(root, "train"),
        "no folder {root}/train; must hold train/CLASS/*.png and test/CLASS/*.png",
    ),
    "no test": (lambda root: remove(root, "test"), "no folder {root}/test; must hold"),
    "a file for test": (lambda root: (remove(root, "test"), (root / "test").touch()), "no folder {root}/test"),
    "an empty train": (lambda root: (remove(root, "train/dog"), remove(root, "train/cat")), "{root}/train holds no folders"),
    "an empty test": (lambda root: remove(root, "test/cat"), "{root}/test holds no folders"),
    "an empty class": (lambda root: (root / "train" / "bird").mkdir(), "{root}/train/bird holds no images (.png, .jpg"),
    "an empty test class": (lambda root: (root / "test" / "dog").mkdir(), "{root}/test/dog holds no images"),
    "a class of its own": (
        lambda root: (root / "test" / "cat").rename(root / "test" / "cow"),
        "{root}/test/cow is a class that is not in train/",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_folder_of_images_is_one_line(what, pets):
    act, words = WRONG[what]
    act(pets)
    with pytest.raises(ValueError, match=".") as raised:
        tree(pets)
    assert words.format(root=pets) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_folder_that_may_not_be_read_is_named(pets, monkeypatch):
    """As its owner says; root may read everything."""
    inner = Path.iterdir

    def iterdir(self):
        if self.name == "dog":
            raise PermissionError(13, "Permission denied", str(self))
        return inner(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PermissionError, match="dog"):
        tree(pets)
