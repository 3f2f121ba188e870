"""Find the image files of a data set's folder, and decode many image files at once."""

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
MANY = 10_000  # files; decoding more shows a progress bar and caches the result
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # of SUFFIXES; other formats of Pillow start programs (EPS)
PIXELS = 2**26  # of an image: 8,192 x 8,192; Pillow itself warns at a slightly larger size
GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's names for images of a single channel


def tree(root: Path) -> tuple[tuple[list[Path], list[int]], tuple[list[Path], list[int]], tuple[str, ...]]:
    """Return (files, labels) of root/train/CLASS/*.png and of root/test/CLASS/*.png, and the names of the classes.

    The classes are the folders of train/ by name; files come in order of class and name. Hidden files and files without an
    image suffix are skipped. Raise ValueError where a folder is missing or empty, and for a class of test/ that train/
    lacks.
    """
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise ValueError(
                f"there is no folder {root / part}; must hold train/CLASS/*.png and test/CLASS/*.png (or .jpg, ...)"
            )
    train, test = labelled(root / "train"), labelled(root / "test")
    classes = tuple(dict.fromkeys(train[1]))
    for name in test[1]:
        if name not in classes:
            raise ValueError(f"{root / 'test' / name} is a class that is not in train/; train/ has {', '.join(classes)}")
    train, test = ((files, [classes.index(name) for name in names]) for files, names in (train, test))
    return train, test, classes


def labelled(part: Path) -> tuple[list[Path], list[str]]:
    """Return the files of part/CLASS/*.png, in order of class and name, and the class of each file. Raise ValueError where
    there are no files."""
    files, names = [], []
    for folder in _folders(part):
        images = [path for path in visible(folder) if path.suffix.lower() in SUFFIXES]
        if not images:
            raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        files += images
        names += [folder.name] * len(images)
    return files, names


def visible(folder: Path) -> list[Path]:
    """Return the files and folders in a folder that are not hidden, by name."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in HIDDEN)


def unread(root: Path, read: Iterable[Path]) -> list[str]:
    """Return the paths in a folder, relative to `root`, that are neither hidden nor in `read`. A folder without any read
    file is a single path that ends in /."""
    read_paths = set(read)
    parents = {parent for path in {path.parent for path in read_paths} for parent in (path, *path.parents)}

    def below(folder: Path) -> Iterator[str]:
        for path in visible(folder):
            if path in parents:
                yield from below(path)
            elif path not in read_paths:
                yield f"{path.relative_to(root)}{'/' if path.is_dir() else ''}"

    return list(below(root))


def _folders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder. Raise ValueError where there are none."""
    folders = [path for path in visible(folder) if path.is_dir()]
    if not folders:
        raise ValueError(f"{folder} holds no folders; must hold one folder per class")
    return folders


def decode(files: list[Path], size: int | None, channels: int | None, folder: Path) -> np.ndarray:
    """Decode image files to uint8 [n, channels, height, width].

    `size` is the side to which each image is resized (bilinear, with antialias); None: all images must have the same size.
    `channels` is 3 for RGB, or None: 1 if all images are grey, else 3. Transparency is dropped. The result of more than
    10,000 files is cached in `folder`, under a name that changes with any of the files; the next call reads the cache. You
    can remove this folder at any time. Raise ValueError, naming the file.
    """
    if not files:
        raise ValueError("no images")
    cache = _cache_path(files, size, channels, folder) if len(files) > MANY else None
    if cache and (x := _read_cache(cache, len(files))) is not None:
        return x
    # memory holds each image twice; an image that is not resized has the size that its header names
    max_pixels = PIXELS if size else min(PIXELS, untrusted.memory() // (2 * 3 * len(files)))
    pictures = list(_decoded(files, size, channels, max_pixels))
    shapes = [picture.shape for picture in pictures]
    for path, shape in zip(files, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            sizes = [f"{width}x{height}" for _, height, width in (shapes[0], shape)]
            raise ValueError(
                f"images differ in size: {files[0]} has {sizes[0]}, {path} has {sizes[1]} (width x height); add "
                "--image_size to resize all"
            )
    x = np.empty((len(files), max(shape[0] for shape in shapes), *shapes[0][1:]), np.uint8)
    for i, picture in enumerate(pictures):
        x[i] = picture  # a grey channel is repeated three times where other images have three channels
    if cache:
        _write_cache(cache, x)
    return x


def _decoded(files: list[Path], size: int | None, channels: int | None, max_pixels: int) -> Iterator[np.ndarray]:
    """Yield each image as uint8 [1 or 3, height, width], in order; several threads decode at once. Raise ValueError for an
    image of more than `max_pixels` pixels."""
    from PIL import Image
    from tqdm import tqdm

    def some(start: int) -> list[np.ndarray]:
        return [_picture(path, size, channels, max_pixels) for path in files[start : start + 256]]

    bar = {"desc": "decoding", "unit": " images", "file": sys.stderr, "leave": False}
    hidden = None if len(files) > MANY else True  # None: hidden without a terminal
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,
        tqdm(total=len(files), disable=hidden, **bar) as progress,
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for pictures in pool.map(some, range(0, len(files), 256)):
            progress.update(len(pictures))
            yield from pictures


def _picture(path: Path, size: int | None, channels: int | None, max_pixels: int) -> np.ndarray:
    """Return an image as uint8 [1 or 3, height, width]; the first image of a file that holds several."""
    from PIL import Image

    try:
        with untrusted.opened(path) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"{image.width}x{image.height}; must have at most {max_pixels:,} pixels")
            if image.mode in ("I", "F"):
                raise ValueError("32 bits per pixel; must be 8 or 16")
            grey = image.mode in GREY and channels != 3
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))  # 65535 becomes 255
            elif image.mode == "P":
                image = image.convert("RGBA")  # a palette may have transparent colours
            image = image.convert("L" if grey else "RGB")
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except Exception as error:  # Pillow raises many kinds of errors for a broken file
        raise ValueError(f"{path} cannot be read as an image ({reason(error)})") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


# --- cache of decoded images -------------------------------------------------------------------------------------------


def _cache_path(files: list[Path], size: int | None, channels: int | None, folder: Path) -> Path | None:
    """Return the path of the cache of these files; None where a file is missing."""
    from PIL import __version__

    try:
        stats = [(str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    except OSError:
        return None  # decoding names the missing file
    return folder / f"{hashlib.sha256(repr((stats, size, channels, __version__)).encode()).hexdigest()[:32]}.npy"


def _read_cache(path: Path, n: int) -> np.ndarray | None:
    """Return the cached images, or None where the cache is missing or damaged."""
    with suppress(Exception):
        x = untrusted.array(path)
        if x.dtype == np.uint8 and x.ndim == 4 and len(x) == n:
            return x
    return None


def _write_cache(path: Path, x: np.ndarray) -> None:
    """Write the images to a temporary file and rename the file. Skip the cache where the disk is full, where permissions
    forbid writing, and where the folder is a link, which may lead anywhere."""
    temporary = path.with_suffix(f".{os.getpid()}")
    if path.parent.is_symlink():
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                np.save(file, x)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
