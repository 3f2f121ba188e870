"""Images, from the change of a first layer that is linear: the change of unit i's weights, divided by that of its bias.

L. T. Phong, Y. Aono, T. Hayashi, L. Wang, S. Moriai: Privacy-Preserving Deep Learning: Revisited and Enhanced, ATIS 2017,
for a neuron and one image; J. Geiping, H. Bauermeister, H. Dröge, M. Moeller: Inverting Gradients - How Easy Is It to Break
Privacy in Federated Learning?, NeurIPS 2020, Proposition 3.1, for a linear layer with a bias. With plain SGD the weights
of unit i change by -lr sum_j g_ij x_j and its bias by -lr sum_j g_ij, over the images x_j of all steps. The quotient is a
mixture of images. It is an image where unit i responds to one image alone, as after one step on one image.

Differences from the papers:
1. They read the gradient of a step; here it is the change over the local epochs. Weight decay is ignored.
2. A quotient outside the range of the public pixels is no mixture with weights of one sign, so it is left out; the most
   plausible quotients are returned, without repetition: those with the least excess, then those with the largest contrast.
3. Adam and other optimizers that rescale each weight change the quotient; it is then no mixture of images.

Knowledge: the messages, of a network whose first layer is linear and has a bias.
"""

import math
from dataclasses import dataclass

import torch

from attacks.knowledge import Guess, nearest


@dataclass(frozen=True)
class Options:
    images: int = 100  # most images per client
    slack: float = 0.05  # mean excess over the range of the pixels, in std, of a plausible quotient
    distinct: float = 0.05  # least root mean square distance of two images, in std


def attack(recording, public, options):
    images = {}
    x = public.examples.x
    low, high = x.amin((0, 2, 3)).view(-1, 1, 1), x.amax((0, 2, 3)).view(-1, 1, 1)
    for k, rows in first_layer_changes(recording).items():
        weights, biases = rows[:, :-1], rows[:, -1:]
        quotients = (weights / biases)[biases.abs().flatten() > 0].float().unflatten(1, recording.shape)
        excess = (quotients - quotients.clamp(low, high)).abs().flatten(1).mean(1)
        plausible = excess <= options.slack  # False for what is not finite
        # what differs by rounding alone has the same rank
        order = sorted(zip((100 * excess[plausible]).round().tolist(), quotients[plausible], strict=True), key=_rank)
        images[k] = distinct_images([image.clamp(low, high) for _, image in order], options.images, options.distinct)
    return Guess(images={k: of_client for k, of_client in images.items() if len(of_client)})


def first_layer_changes(recording):
    """Return {client: float64 [rows, pixels + 1]}: changes of a first linear layer's weights, with the bias's at the end.

    There is a row for each unit and recorded round. Changes that are zero or not finite are left out.
    """
    changes, pixels = {}, math.prod(recording.shape)
    for k, _, before, after in recording.updates():
        weight = next((name for name in after if name.endswith(".weight")), "")
        bias = weight.replace("weight", "bias")
        if weight.startswith("body.") and bias in after and after[weight].shape[1:] == (pixels,):
            parts = [(after[name].double() - before[name].double()).view(len(after[bias]), -1) for name in (weight, bias)]
            rows = torch.cat(parts, 1)
            if torch.isfinite(rows).all() and rows.any():
                changes.setdefault(k, []).append(rows)
    return {k: torch.cat(rows) for k, rows in changes.items()}


def _rank(item):
    excess, image = item
    return excess, -image.std().item()


def distinct_images(ranked, n, distinct):
    """Return the first n images of a list that are further from each other than `distinct`: [n, channels, height, width]."""
    kept = ranked[:1]
    for image in ranked[1:]:
        if len(kept) < n and nearest(image[None], torch.stack(kept)) > distinct:
            kept.append(image)
    return torch.stack(kept) if kept else torch.zeros(0)
