"""Small proper files of every kind that a flag names, as bytes: what commands are tried with, and what is spoiled."""

import io
import json
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import tomli_w
from PIL import Image


def npz_of(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as an .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def arrays(n: int = 60, size: int = 8) -> dict[str, np.ndarray]:
    """n training images [8, 8] and half as many test images in 3 classes."""
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (n, size, size), dtype=np.uint8),
        "y_train": np.arange(n) % 3,
        "x_test": draw.integers(0, 256, (n // 2, size, size), dtype=np.uint8),
        "y_test": np.arange(n // 2) % 3,
    }


def table(clients: bool = False, n: int = 120) -> str:
    """n rows of four numbers and a class; with `clients` of three people."""
    draw = np.random.default_rng(1)
    head = ["a", "b", "c", "d", "label", *(["client"] if clients else [])]
    rows = [
        [*map("{:.3f}".format, draw.normal(size=4)), "uvw"[i % 3], *([f"p{i % 9 // 3}"] if clients else [])]
        for i in range(n)
    ]
    return "".join(",".join(row) + "\n" for row in [head, *rows])


def leaf() -> dict:
    """Two users with eight vectors each, as LEAF has them."""
    draw = np.random.default_rng(2)
    of_user = {u: {"x": draw.normal(size=(8, 3)).round(3).tolist(), "y": [i % 2 for i in range(8)]} for u in ("a", "b")}
    return {"users": ["a", "b"], "num_samples": [8, 8], "user_data": of_user}


def split() -> str:
    """A split made by hand of the images between two clients."""
    rows = [f"{i},{i % 2},{'train' if i < 60 else 'test'}" for i in range(90)]
    return "\n".join(["example,client,part", *rows]) + "\n"


def picture() -> bytes:
    """A small image."""
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "png")
    return file.getvalue()


def study() -> dict:
    """A study of two methods, of which each tries two settings."""
    return {
        "problem": {"dataset": "mine.npz", "n_clients": 2, "model": "MLP"},
        "settings": {"rounds": 1},
        "fedavg": {"lr": [0.01, 0.02]},
        "light": {"algorithm": "fedprox", "mu": 0.1, "lr": [0.01, 0.02]},
        "tuning": {"validation": 0.2, "seed": [100]},
        "seeds": {"seed": [0]},
    }


def config() -> dict:
    """The flags of a small run."""
    return {
        **{"algorithm": "fedavg", "dataset": "mine.npz", "model": ["MLP"], "rounds": 1, "n_clients": 3, "lr": 0.01},
        **{"alpha": "inf", "sizes": None, "keep_optimizer": True, "participation": 1.0, "seed": 3, "split_seed": 0},
    }


@cache
def common() -> dict[str, bytes]:
    """{path: content} of what lies beside every command."""
    held = arrays()
    people = {
        f"people/{name}.npz": npz_of({what: held[what][20 * k : 20 * k + 20] for what in ("x_train", "y_train")})
        for k, name in enumerate("abc")
    }
    pets = {f"pets/{part}/{kind}/{i}.png": picture() for part in ("train", "test") for kind in "xyz" for i in range(3)}
    return {
        "mine.npz": npz_of(held),
        "table.csv": table().encode(),
        "people.csv": table(clients=True).encode(),
        "leaf.json": json.dumps(leaf()).encode(),
        "split.csv": split().encode(),
        "split.npz": npz_of(
            {"example": np.arange(90), "client": np.arange(90) % 2, "part": np.array(["train"] * 60 + ["test"] * 30)}
        ),
        "edges.txt": b"# a ring\n0 1\n1 2\n\n2 0  # and back\n",
        "study.toml": tomli_w.dumps(study()).encode(),
        "config.json": json.dumps(config()).encode(),
        **people,
        **pets,
    }


@dataclass(frozen=True)
class Problem:
    """Flags of a tiny problem, the models that fit it, and flags that it has no use for."""

    flags: dict[str, str]
    models: tuple[str, ...]
    left: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)


IMAGES = ("LeNet5", "MLP", "2NN", "MLP_dropout", "CNN4", "CNN_scratch", "ResNet4")
VECTORS = ("MLP", "2NN", "MLP_dropout")
DEALT = (
    "n_clients",
    "partition",
    "split_seed",
    "reduced",
    "test_reduced",
    "new_clients",
    "sizes",
    "size_alpha",
    "alpha",
    "shard_per_user",
    "classes_per_client",
    "digit_num",
)
PROBLEMS = (
    Problem({"dataset": "mine.npz", "n_clients": "3"}, IMAGES),
    Problem({"dataset": "table.csv", "n_clients": "2"}, VECTORS, ("augment", "image_size")),
    Problem(
        {"dataset": "./pets", "n_clients": "2"},
        ("LeNet5", "MLP"),
        ("partition", "digit_num", "validation", "reduced", "n_clients", "public_share"),
    ),
    Problem({"clients": "people"}, IMAGES, DEALT),
    Problem({"clients": "people.csv"}, VECTORS, (*DEALT, "augment", "image_size")),
    Problem(
        {"dataset": "digits", "reduced": "0.05", "n_clients": "4"}, ("MLP", "LeNet5"), ("reduced", "image_size", "partition")
    ),
)
