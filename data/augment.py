"""Random changes of training images: a crop, a mirror image, a hole, for a whole batch at once.

What is drawn is kept apart from applying it. A draw is a dict of tensors with a row an example, {step: [n, ...]}; it can
be kept in a state, and gives the same images every time it is applied. The steps, in the order in which they are taken:

- crop: the image gets a border of black pixels, an eighth of the side wide, and a window of the image's size is cut out
  anywhere (He et al., Deep Residual Learning for Image Recognition, CVPR 2016: 4 pixels at 32);
- flip: left and right change places, for half of the examples (as above);
- cutout: a square of half the shorter side, its centre any pixel, is set to the mean; what of it is outside is cut off
  (DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017; 16 pixels at 32, as in the
  code of FedGKT).
"""

import numpy as np
import torch
from torch import Tensor

AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "flip": ("flip",),
    "crop_flip": ("crop", "flip"),
    "crop_flip_cutout": ("crop", "flip", "cutout"),
}

Draw = dict[str, Tensor]


def draw(name: str, n: int, shape: tuple[int, int, int], stream: np.random.Generator, device="cpu") -> Draw:
    """What happens to each of n images of a shape (channels, height, width), on the device.

    "crop" int64 [n, 2]: pixels by which the window is lower and further right than the image, -pad .. pad; "flip" bool
    [n]; "cutout" int64 [n, 2]: row and column of the centre. A step that is not of this augmentation is not drawn.
    """
    sides = np.array(shape[1:])
    pad = sides // 8
    draws = {
        "crop": lambda: stream.integers(-pad, pad + 1, (n, 2)),
        "flip": lambda: stream.integers(2, size=n) == 1,
        "cutout": lambda: stream.integers(sides, size=(n, 2)),
    }
    return {step: torch.from_numpy(draws[step]()).to(device) for step in AUGMENTATIONS[name]}


def part(drawn: Draw, i: Tensor) -> Draw:
    """The rows of a draw for the positions i int64 [B]."""
    return {step: rows[i] for step, rows in drawn.items()}


def apply(drawn: Draw, x: Tensor, black: Tensor) -> Tensor:
    """The changed images, of normalised x [B, channels, height, width], whose mean is 0 and whose black is [channels].

    Every pixel of the result is looked up among those of its image, with which stand black, for what is outside, and the
    mean, for what is cut out: one gather does all steps.
    """
    n, channels, height, width = x.shape
    row, column = (torch.arange(side, device=x.device).expand(n, side) for side in (height, width))
    hole = _hole(row, column, drawn["cutout"], min(height, width) // 4) if "cutout" in drawn else None
    if "flip" in drawn:
        column = torch.where(drawn["flip"][:, None], width - 1 - column, column)
    if "crop" in drawn:
        row, column = row + drawn["crop"][:, :1], column + drawn["crop"][:, 1:]
    outside, cut = height * width, height * width + 1  # where black and the mean stand
    row = torch.where(_between(row, 0, height), row * width, outside)
    column = torch.where(_between(column, 0, width), column, outside)
    pixel = (row[:, :, None] + column[:, None, :]).clamp_(max=outside)  # [B, height, width]
    if hole is not None:
        pixel = torch.where(hole, cut, pixel)
    others = torch.stack([black, torch.zeros_like(black)], 1).expand(n, channels, 2)
    pixels = torch.cat([x.flatten(2), others], 2)  # [B, channels, height * width + 2]
    return pixels.gather(2, pixel.view(n, 1, -1).expand(-1, channels, -1)).view(x.shape)


def _hole(row: Tensor, column: Tensor, centre: Tensor, half: int) -> Tensor:
    """Bool [B, height, width]: the square from `half` pixels before the centre to `half - 1` behind it, as published."""
    down, right = row - centre[:, :1], column - centre[:, 1:]
    return _between(down, -half, half)[:, :, None] & _between(right, -half, half)[:, None, :]


def _between(x: Tensor, low: int, high: int) -> Tensor:
    return (x >= low) & (x < high)
