"""Feature shift: every client sees its examples through a change of its own, so that P(x|y) differs from client to client,
while the labels that a client has stay those of the split.

A shift is a function `(x, amount, data, stream) -> the changed images`, float32 [n, channels, height, width] with pixels as
`data` has them, and a line in `SHIFTS`. Amount 0 changes nothing; 1 is the most that can be asked for. Clients have amounts
from 0 to `--shift_strength`, in equal steps; `--split_seed` draws who has which.

All examples of a client are changed alike, once: those it trains on, those it holds out, and its own test examples. Test
examples of nobody stay as they are. So do the constants by which pixels are normalised.
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
from data.partition import Shares, Split
from errors import UserError

AT_ONCE = 1000  # images that are held as floats


def rotation(x: Tensor, amount: float, data: Data, stream: np.random.Generator) -> Tensor:
    """Turned about the centre, counterclockwise, by `amount` half turns: bilinear, black where nothing was."""
    height, width = x.shape[2:]
    cos, sin = math.cos(math.pi * amount), math.sin(math.pi * amount)
    # from a place in the result to that in the image, in halves of the sides
    back = torch.tensor([[[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]])
    grid = F.affine_grid(back, [1, *x.shape[1:]], align_corners=False)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)


def noise(x: Tensor, amount: float, data: Data, stream: np.random.Generator) -> Tensor:
    """Gaussian noise, drawn once, whose standard deviation is `amount` times that of the data set's pixels (by channel)."""
    drawn = torch.from_numpy(stream.standard_normal(x.shape, dtype=np.float32))
    return x + amount * _by_channel(data.std) * drawn


def contrast(x: Tensor, amount: float, data: Data, stream: np.random.Generator) -> Tensor:
    """Drawn towards the mean of the data set's pixels (by channel), of which `amount` 1 leaves nothing else: the normalised
    image, times 1 - amount."""
    return x.lerp(_by_channel(data.mean), amount)


SHIFTS: dict[str, Callable[[Tensor, float, Data, np.random.Generator], Tensor]] = {
    "rotation": rotation,
    "noise": noise,
    "contrast": contrast,
}


def _by_channel(values: Tensor) -> Tensor:
    return values.float().view(-1, 1, 1)


def amounts(options) -> np.ndarray:
    """By how much each client's examples are changed, float [K]: 0, S / (K - 1), ..., S in an order that is drawn, with S
    the `--shift_strength`. A client that is alone has 0."""
    places = streams.generator("feature shift", options.split_seed).permutation(options.n_clients)
    return options.shift_strength * places / max(options.n_clients - 1, 1)


def check(split: Split, options) -> None:
    """Raises UserError where a shift is asked for and an example has several owners, who would each change it."""
    if options.feature_shift != "none" and split.overlapping:
        of = f"--partition_file {options.partition_file}" if options.partition_file else f"--partition {options.partition}"
        raise UserError(
            f"--feature_shift {options.feature_shift}: with {of} several clients have the same image, and each would change "
            f"it; must be none, or a split in which an image has one owner"
        )


def shifted(data: Data, split: Split, options) -> Data:
    """The data set as its clients see it: the same where no shift is asked for, else with images of their own, of the same
    type; uint8 are rounded, and cut to 0 .. 255. Each example has one owner at most (`check`)."""
    if options.feature_shift == "none":
        return data
    change, x = SHIFTS[options.feature_shift], data.x.clone()
    values, owners = (np.concatenate([getattr(part, of) for part in split.parts]) for of in ("values", "owners"))
    everyones = Shares.dealt(values, owners, len(split.train)).sorted()  # whatever is held out
    for k, (amount, own) in enumerate(zip(amounts(options).tolist(), everyones, strict=True)):
        stream = streams.generator("feature shift", options.split_seed, k)
        for some in torch.from_numpy(own).split(AT_ONCE) if amount else ():
            x[some] = as_pixels(change(x[some].float(), amount, data, stream), x.dtype)
    return replace(data, x=x)
