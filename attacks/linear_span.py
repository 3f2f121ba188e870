"""Which images a client has, and the images themselves, from the span of the changes of a first layer that is linear.

With plain SGD a unit's weights and bias change by a linear combination of the images of all steps, each with a 1 for the
bias. Where a client has fewer images than the layer has units, and enough of the units respond to each image, the span of
the changes holds every image of the client, also after many local steps; images of others are outside. I. Petrov, D. I.
Dimitrov, M. Baader, M. N. Müller, M. Vechev: DAGER: Exact Gradient Inversion for Large Language Models, NeurIPS 2024, test
tokens by their distance from the span of a gradient.

The images are sparse points of the span: many pixels are black. A linear program finds a point of the span inside the range
of the pixels with the least weighted sum of brightness, and its solution sets the next weights, as in E. J. Candès, M. B.
Wakin, S. P. Boyd: Enhancing Sparsity by Reweighted l1 Minimization, Journal of Fourier Analysis and Applications 2008.
The first weights are those of a public image. A solution that repeats itself, with more pixels at the ends of their range
than any point of the span has by chance, is an image of the client.

Differences from the papers:
1. DAGER tests tokens of a vocabulary against the gradient of a step; here candidates are images, and the changes are over
   the local epochs of all recorded rounds. Weight decay adds the weights themselves to the span, which is ignored.
2. Rounding and optimizers other than SGD fill the space. So the directions of the span count by their size, s^2 / (s^2 +
   ridge^2): the score is -log of the part of a candidate's norm that is left.
3. Images are searched only in a span that is smaller than the layer. Images without many black pixels are not found.

Knowledge: the messages, of a network whose first layer is linear and has a bias; candidates.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from attacks.knowledge import Guess
from attacks.linear_inputs import distinct_images, first_layer_changes


@dataclass(frozen=True)
class Options:
    ridge: float = 1e-3  # relative to the largest singular value
    rounding: float = 1e-4  # smaller singular values, relative to the largest, are rounding
    largest: int = 200  # no search for images in a span of more directions, which takes long
    starts: int = 10  # public images at which a search starts
    programs: int = 4  # most linear programs from a start
    slack: float = 1e-3  # of a pixel's range, in std
    same: float = 0.005  # root mean square distance of solutions that count as the same, in std
    black: float = 1.5  # least pixels at an end of their range, relative to the directions of the span


def attack(recording, public, options):
    scores, images = {}, {}
    for k, changes in first_layer_changes(recording).items():
        _, sizes, directions = torch.linalg.svd(changes, full_matrices=False)
        kept = sizes.square() / (sizes.square() + (options.ridge * sizes[0]) ** 2)
        x = F.normalize(F.pad(public.candidates[k].x.flatten(1).double(), (0, 1), value=1), dim=1)
        outside = 1 - ((x @ directions.T).square() * kept).sum(1)
        scores[k] = -outside.clamp(min=1e-12).log()
        span = directions[sizes > options.rounding * sizes[0]]
        if len(span) < len(directions) and len(span) <= options.largest:
            points = [sparse_point(span.T.numpy(), start, public.examples.x, options) for start in range(options.starts)]
            points = [point.view(recording.shape) for point in points if point is not None]
            if points:
                images[k] = distinct_images(points, options.starts, options.same)
    return Guess(images=images, scores=scores)


def sparse_point(span, start, known, options):
    """Return an image of the span [pixels + 1, n], float [pixels], by the search from a public image; None without one."""
    from scipy.optimize import linprog

    pixels, bias = span[:-1], span[-1:]
    low, high = known.min().item(), known.max().item()
    limits = np.repeat([high + options.slack, options.slack - low], len(pixels))
    inside = {"A_ub": np.vstack([pixels, -pixels]), "b_ub": limits, "A_eq": bias, "b_eq": [1.0], "bounds": (None, None)}
    point = known[start % len(known)].flatten().double().numpy()
    for _ in range(options.programs):
        earlier = point
        program = linprog((1 / (np.maximum(point - low, 0) + (high - low) / 10)) @ pixels, **inside)
        if program.x is None:
            return None
        point = pixels @ program.x
        if np.sqrt(np.square(point - earlier).mean()) < options.same:
            return torch.from_numpy(point.clip(low, high)).float() if _is_sparse(point, span, low, high, options) else None
    return None


def _is_sparse(point, span, low, high, options):
    """Return whether a corner of the span inside the range has more limits than the n - 1 that make any corner."""
    is_free = np.abs(span[:-1] - low * span[-1:]).max(1) > options.slack  # not black in all images
    at_limit = np.minimum(np.abs(point - low), np.abs(point - high)) < 2 * options.slack
    return (at_limit & is_free).sum() > options.black * span.shape[1]
