"""Shift features: every client sees its examples through a change of its own. So P(x|y) differs between clients, while a
client keeps the labels of the split.

A shift is a function `(x, amount, data, stream) -> the changed images`, float32 [n, channels, height, width] with pixels as
in `data`, and a line in `SHIFTS`. Amount 0 changes nothing; amount 1 is the maximum. Clients have amounts from 0 to
`--shift_strength`, in equal steps; `--split_seed` draws the amount of each client.

All examples of a client change in the same way, once: training, validation and the client's own test examples. Test examples
without a client stay unchanged, and so do the constants that normalise the pixels.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import streams
from data.datasets import Data, as_pixels
from data.partition import Shares, Split, n_dealt
from errors import UserError

AT_ONCE = 1000  # images to hold as floats at a time


def rotation(x: Tensor, amount: float, data: Data, stream: np.random.Generator) -> Tensor:
    """Rotate images about the centre, counterclockwise, by `amount` half turns: bilinear, black outside the image."""
    height, width = x.shape[2:]
    cos, sin = math.cos(math.pi * amount), math.sin(math.pi * amount)
    # maps a place in the result to a place in the image, in halves of the sides
    inverse = torch.tensor([[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]])
    grid = F.affine_grid(inverse, [1, *x.shape[1:]], align_corners=False)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)


def noise(x: Tensor, amount: float, data: Data, stream: np.random.Generator) -> Tensor:
    """Add Gaussian noise, drawn once, whose standard deviation is `amount` times the standard deviation of the data set's
    pixels (per channel)."""
    gaussian = torch.from_numpy(stream.standard_normal(x.shape, dtype=np.float32))
    return x + amount * _by_channel(data.std) * gaussian


def contrast(x: Tensor, amount: float, data: Data, stream: np.random.Generator) -> Tensor:
    """Move pixels towards the mean of the data set's pixels (per channel); at `amount` 1 every pixel is the mean. After
    normalisation, the result is the original image times 1 - amount."""
    return x.lerp(_by_channel(data.mean), amount)


SHIFTS: dict[str, Callable[[Tensor, float, Data, np.random.Generator], Tensor]] = {
    "rotation": rotation,
    "noise": noise,
    "contrast": contrast,
}


def _by_channel(values: Tensor) -> Tensor:
    """Return values [channels] as float [channels, 1, 1], for broadcasting over images."""
    return values.float().view(-1, 1, 1)


def amounts(options) -> np.ndarray:
    """Return by how much each client's examples change, float [K]: 0, S / (K - 1), ..., S in a random order, where S is
    `--shift_strength`. A single client has amount 0. The new clients come last."""
    n_clients = n_dealt(options)
    places = streams.generator("feature shift", options.split_seed).permutation(n_clients)
    return options.shift_strength * places / max(n_clients - 1, 1)


def check(split: Split, options) -> None:
    """Raise UserError where a shift is on and several clients own the same example: each of them would change the
    example."""
    if options.feature_shift != "none" and split.everyone.overlapping:
        flag = f"--partition_file {options.partition_file}" if options.partition_file else f"--partition {options.partition}"
        raise UserError(
            f"--feature_shift {options.feature_shift}: with {flag} several clients have the same image, and each would "
            "change it; must be none, or use a split in which each image has one client"
        )


def shifted(data: Data, split: Split, options) -> Data:
    """Return the data set as its clients see it: unchanged without a shift, else with changed images of the same type; uint8
    images are rounded and clipped to 0 .. 255. Each example has at most one owner (`check`)."""
    if options.feature_shift == "none":
        return data
    change, x = SHIFTS[options.feature_shift], data.x.clone()
    parts = split.everyone.parts
    values, owners = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "owners"))
    shares = Shares.dealt(values, owners, n_dealt(options)).sorted()  # training, validation and test together
    for k, (amount, share) in enumerate(zip(amounts(options).tolist(), shares, strict=True)):
        stream = streams.generator("feature shift", options.split_seed, k)
        for indices in torch.from_numpy(share).split(AT_ONCE) if amount else ():
            x[indices] = as_pixels(change(x[indices].float(), amount, data, stream), x.dtype)
    return replace(data, x=x)
