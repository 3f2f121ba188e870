"""Pictures of what an attack reconstructs: images beside the nearest true ones, and beside the nearest public ones.

Which image a reconstruction is of is not known, so each is beside the nearest of the client's own images. The nearest of
many images is near to anything: so it is also beside the nearest of equally many random public images, which the client
does not have. A reconstruction shows something only if the first is clearly nearer than the second.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import streams
from attacks.knowledge import ATTACKER, Guess, Public, Recording, distances
from figures import on_paper

COLUMNS, CLIENTS = 8, 3  # most reconstructions per client, and most clients
WIDTH = 9.0  # inches


def draw(guess: Guess, recording: Recording, public: Public, is_member, title: str, path: Path) -> bool:
    """Draw the reconstructed images of the first clients to a PNG; return whether there are images to draw.

    `is_member`: {client: bool [m]}, which candidates are the client's own.
    """
    channels, height, width = recording.shape
    clients = [k for k, images in guess.images.items() if len(images) and (recording.own is None or k != ATTACKER)][:CLIENTS]
    if not clients or channels not in (1, 3) or height * width == 1:
        return False
    side = WIDTH / (COLUMNS + 1)
    figure, grid = on_paper.panels(3 * len(clients), COLUMNS, side, side * height / width)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for k, rows in zip(clients, grid.reshape(len(clients), 3, COLUMNS), strict=True):
        own = public.candidates[k].x[torch.from_numpy(is_member[k])]
        others = streams.generator("attack", "pictures", k).permutation(len(public.examples.x))[: len(own)]
        shown = _beside(guess.images[k], own, public.examples.x[torch.from_numpy(others)])
        names = (f"client {k}:\nreconstructed", "nearest of its\n{} images", "nearest of\n{} public ones")
        for axes_of_row, images, values, name, n in zip(rows, *shown, names, (0, len(own), len(others)), strict=True):
            axes_of_row[0].set_ylabel(name.format(n), rotation=0, ha="right", va="center", fontsize=8)
            for axes, image, distance in zip(axes_of_row, images, values, strict=False):
                axes.imshow(_pixels(image, recording), cmap="gray", vmin=0, vmax=1)
                axes.set_xlabel("" if np.isnan(distance) else f"{distance:.2f}", fontsize=7, labelpad=1)
    figure.suptitle(
        f"{title}\neach reconstruction beside the nearest true image and the nearest of equally many random public images\n"
        f"columns: from the nearest to the farthest reconstruction; numbers: root mean square distance in std",
        fontsize=9,
    )
    on_paper.finished(figure, path)
    return True


def _beside(images: Tensor, own: Tensor, others: Tensor) -> tuple[list[Tensor], list[np.ndarray]]:
    """Return rows of images and of their distances: reconstructions, the nearest own images, the nearest others.

    The reconstructions are evenly spaced in the order of their distance to the nearest own image.
    """
    order = distances(images.float(), own).min(1).values.argsort()
    order = order[np.linspace(0, len(order) - 1, min(COLUMNS, len(order))).round().astype(int)]
    chosen = images[order]
    to_own, to_others = (distances(chosen.float(), known).min(1) for known in (own, others))
    values = [np.full(len(chosen), np.nan), to_own.values.numpy(), to_others.values.numpy()]
    return [chosen, own[to_own.indices], others[to_others.indices]], values


def _pixels(image: Tensor, recording: Recording) -> np.ndarray:
    """Return a normalised image [channels, height, width] as brightness from 0 to 1, [height, width, channels]."""
    pixels = recording.pixels(image).clamp(0, 255) / 255
    return pixels.permute(1, 2, 0).squeeze(2).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
