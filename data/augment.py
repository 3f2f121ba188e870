"""Augment training images at random: a crop, a mirror image, a hole, for a whole batch at once.

Drawing is separate from applying. A draw is a dict of tensors with a row per example, {step: [n, ...]}. A state can hold a
draw, and the draw gives the same images whenever the draw is applied. The steps, in the order of application:

- crop: add a border of black pixels, an eighth of the side wide, and cut out a window of the image's size at a random place
  (He et al., Deep Residual Learning for Image Recognition, CVPR 2016: 4 pixels at 32);
- flip: swap left and right, for half of the examples (as above);
- cutout: set a square of half the shorter side, with any pixel as its centre, to the mean; the part of the square outside
  the image has no effect (DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017; 16
  pixels at 32, as in the code of FedGKT).
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
    """Draw the augmentation `name` of each of n images of a shape (channels, height, width), on the device.

    "crop" int64 [n, 2]: pixels by which the window is lower and further right than the image, -pad .. pad; "flip" bool [n];
    "cutout" int64 [n, 2]: row and column of the centre. The draw holds only the steps of this augmentation.
    """
    sides = np.array(shape[1:])
    pad = sides // 8
    draws = {
        "crop": lambda: stream.integers(-pad, pad + 1, (n, 2)),
        "flip": lambda: stream.integers(2, size=n) == 1,
        "cutout": lambda: stream.integers(sides, size=(n, 2)),
    }
    return {step: torch.from_numpy(draws[step]()).to(device) for step in AUGMENTATIONS[name]}


def part(augmentation: Draw, indices: Tensor) -> Draw:
    """Return the rows of a draw at `indices`, int64 [B]."""
    return {step: rows[indices] for step, rows in augmentation.items()}


def apply(augmentation: Draw, x: Tensor, black: Tensor) -> Tensor:
    """Return the augmented images, for normalised x [B, channels, height, width]. The mean of x is 0; `black` [channels]
    holds the normalised value of black.

    Each pixel of the result is an index into the pixels of its image, extended by black (outside the image) and by the mean
    (inside the hole). So a single gather does all steps.
    """
    n, channels, height, width = x.shape
    row, column = (torch.arange(side, device=x.device).expand(n, side) for side in (height, width))
    hole = _hole(row, column, augmentation["cutout"], min(height, width) // 4) if "cutout" in augmentation else None
    if "flip" in augmentation:
        column = torch.where(augmentation["flip"][:, None], width - 1 - column, column)
    if "crop" in augmentation:
        row, column = row + augmentation["crop"][:, :1], column + augmentation["crop"][:, 1:]
    outside, inside_hole = height * width, height * width + 1  # indices of black and of the mean
    row = torch.where(_between(row, 0, height), row * width, outside)
    column = torch.where(_between(column, 0, width), column, outside)
    index = (row[:, :, None] + column[:, None, :]).clamp_(max=outside)  # [B, height, width]
    if hole is not None:
        index = torch.where(hole, inside_hole, index)
    constants = torch.stack([black, torch.zeros_like(black)], 1).expand(n, channels, 2)
    pixels = torch.cat([x.flatten(2), constants], 2)  # [B, channels, height * width + 2]
    return pixels.gather(2, index.view(n, 1, -1).expand(-1, channels, -1)).view(x.shape)


def _hole(row: Tensor, column: Tensor, centre: Tensor, half: int) -> Tensor:
    """Return bool [B, height, width]: the square from `half` pixels before the centre to `half - 1` pixels after the centre,
    as published."""
    down, right = row - centre[:, :1], column - centre[:, 1:]
    return _between(down, -half, half)[:, :, None] & _between(right, -half, half)[:, None, :]


def _between(x: Tensor, low: int, high: int) -> Tensor:
    return (x >= low) & (x < high)
