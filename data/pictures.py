"""Image files: the folder of a data set, and decoding many of them at once."""

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

import untrusted
from data.files import reason

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
HIDDEN = ("Thumbs.db", "desktop.ini")  # by Windows
MANY = 10_000  # files; more of them are decoded with a progress bar, and what comes out is kept
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # of SUFFIXES; others of Pillow's start programs (EPS)
PIXELS = 2**26  # of one image: 8,192 x 8,192; Pillow itself warns at somewhat more
GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's words for one channel


def tree(root: Path) -> tuple[tuple[list[Path], list[int]], tuple[list[Path], list[int]], tuple[str, ...]]:
    """root/train/CLASS/*.png and root/test/CLASS/*.png -> (files, labels) of both, and the names of the classes.

    Classes are the folders of train/ by name, files come by class and name. What is hidden, or is no image by its name, is
    passed over. Raises ValueError where a folder is not there or holds nothing, and for a class of test/ that train/ lacks.
    """
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise ValueError(f"no folder {root / part}; must hold train/CLASS/*.png and test/CLASS/*.png (or .jpg, ...)")
    train, test = labelled(root / "train"), labelled(root / "test")
    classes = tuple(dict.fromkeys(train[1]))
    for name in test[1]:
        if name not in classes:
            raise ValueError(f"{root / 'test' / name} is a class that train/ lacks; train/ has {', '.join(classes)}")
    train, test = ((found, [classes.index(name) for name in names]) for found, names in (train, test))
    return train, test, classes


def labelled(part: Path) -> tuple[list[Path], list[str]]:
    """part/CLASS/*.png -> the files, by class and name, and the class of each. Raises ValueError where there are none."""
    files, names = [], []
    for folder in _folders(part):
        images = [path for path in visible(folder) if path.suffix.lower() in SUFFIXES]
        if not images:
            raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        files += images
        names += [folder.name] * len(images)
    return files, names


def visible(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, by name."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in HIDDEN)


def unread(root: Path, read: Iterable[Path]) -> list[str]:
    """Return what lies in a folder, is not hidden and was not read, as paths from there. A folder of which nothing was read
    is one path that ends in /."""
    taken = set(read)
    above = {parent for path in {path.parent for path in taken} for parent in (path, *path.parents)}

    def below(folder: Path) -> Iterator[str]:
        for path in visible(folder):
            if path in above:
                yield from below(path)
            elif path not in taken:
                yield f"{path.relative_to(root)}{'/' if path.is_dir() else ''}"

    return list(below(root))


def _folders(folder: Path) -> list[Path]:
    found = [path for path in visible(folder) if path.is_dir()]
    if not found:
        raise ValueError(f"{folder} holds no folders; must hold one for each class")
    return found


def decode(files: list[Path], size: int | None, channels: int | None, kept: Path) -> np.ndarray:
    """Image files -> uint8 [n, channels, height, width].

    `size` is the side to which each is resized (bilinear, with antialias); None: they must be of one size. `channels` is 3
    for RGB, or None: 1 if all of them are grey, else 3. Transparency is dropped. What came of more than 10,000 files is kept
    in the folder `kept`, under a name that changes with any of the files, and read from there the next time; that folder may
    be removed at any time. Raises ValueError, naming the file.
    """
    if not files:
        raise ValueError("no images")
    place = _place(files, size, channels, kept) if len(files) > MANY else None
    if place and (x := _read(place, len(files))) is not None:
        return x
    # each is held twice, and those that are not resized as large as they say
    most = PIXELS if size else min(PIXELS, untrusted.memory() // (2 * 3 * len(files)))
    pictures = list(_decoded(files, size, channels, most))
    shapes = [picture.shape for picture in pictures]
    for path, shape in zip(files, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            sizes = [f"{width}x{height}" for _, height, width in (shapes[0], shape)]
            raise ValueError(
                f"images of different sizes: {files[0]} is {sizes[0]}, {path} {sizes[1]} (width x height); "
                "--image_size resizes all of them"
            )
    x = np.empty((len(files), max(shape[0] for shape in shapes), *shapes[0][1:]), np.uint8)
    for i, picture in enumerate(pictures):
        x[i] = picture  # one grey channel becomes three equal ones where others have three
    if place:
        _keep(place, x)
    return x


def _decoded(files: list[Path], size: int | None, channels: int | None, most: int) -> Iterator[np.ndarray]:
    """Each image uint8 [1 or 3, height, width], in order; several threads decode at once. None may have more pixels than
    `most`."""
    from PIL import Image
    from tqdm import tqdm

    def some(start: int) -> list[np.ndarray]:
        return [_picture(path, size, channels, most) for path in files[start : start + 256]]

    bar = {"desc": "decoding", "unit": " images", "file": sys.stderr, "leave": False}
    hidden = None if len(files) > MANY else True  # None: hidden where nobody watches
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,
        tqdm(total=len(files), disable=hidden, **bar) as progress,
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for pictures in pool.map(some, range(0, len(files), 256)):
            progress.update(len(pictures))
            yield from pictures


def _picture(path: Path, size: int | None, channels: int | None, most: int) -> np.ndarray:
    """One image, uint8 [1 or 3, height, width]; of several in a file the first."""
    from PIL import Image

    try:
        with untrusted.opened(path) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > most:
                raise ValueError(f"{image.width}x{image.height}; at most {most:,} pixels are read here")
            if image.mode in ("I", "F"):
                raise ValueError("32 bits a pixel; must be 8 or 16")
            grey = image.mode in GREY and channels != 3
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))  # 65535 becomes 255
            elif image.mode == "P":
                image = image.convert("RGBA")  # a palette may have transparent colours
            image = image.convert("L" if grey else "RGB")
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except Exception as error:  # Pillow has many words for a broken file
        raise ValueError(f"{path} is not to be read as an image ({reason(error)})") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


# --- what is kept of a long decoding -----------------------------------------------------------------------------------


def _place(files: list[Path], size: int | None, channels: int | None, kept: Path) -> Path | None:
    """Where it is kept; None where a file is not there."""
    from PIL import __version__

    try:
        stats = [(str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    except OSError:
        return None  # the decoding will say which
    return kept / f"{hashlib.sha256(repr((stats, size, channels, __version__)).encode()).hexdigest()[:32]}.npy"


def _read(place: Path, n: int) -> np.ndarray | None:
    """What was kept, unless it is not there or damaged."""
    with suppress(Exception):
        x = untrusted.array(place)
        if x.dtype == np.uint8 and x.ndim == 4 and len(x) == n:
            return x
    return None


def _keep(place: Path, x: np.ndarray) -> None:
    """Write beside and rename; without room or permission it is done without, and where the folder is a link, which may
    lead anywhere."""
    beside = place.with_suffix(f".{os.getpid()}")
    if place.parent.is_symlink():
        return
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as file:
                np.save(file, x)
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
