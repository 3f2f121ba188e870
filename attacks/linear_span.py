"""Which images a client has, from the span of the changes of a first layer that is linear.

With plain SGD a unit's weights and bias change by a linear combination of the images of all steps, each with a 1 for the
bias. Where a client has fewer images than the layer has units, and enough of the units respond to each image, the span of
the changes holds every image of the client, also after many local steps; images of others are outside. I. Petrov, D. I.
Dimitrov, M. Baader, M. N. Müller, M. Vechev: DAGER: Exact Gradient Inversion for Large Language Models, NeurIPS 2024, test
tokens by their distance from the span of a gradient.

Differences from the paper:
1. It tests tokens of a vocabulary against the gradient of a step; here candidates are images, and the changes are over the
   local epochs of all recorded rounds. Weight decay adds the weights themselves to the span, which is ignored.
2. Rounding and optimizers other than SGD fill the space. So the directions of the span count by their size, s^2 / (s^2 +
   ridge^2): the score is -log of the part of a candidate's norm that is left.

Knowledge: the messages, of a network whose first layer is linear and has a bias; candidates.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from attacks.knowledge import Guess
from attacks.linear_inputs import first_layer_changes


@dataclass(frozen=True)
class Options:
    ridge: float = 1e-3  # relative to the largest singular value


def attack(recording, public, options):
    scores = {}
    for k, changes in first_layer_changes(recording).items():
        _, sizes, directions = torch.linalg.svd(changes, full_matrices=False)
        kept = sizes.square() / (sizes.square() + (options.ridge * sizes[0]) ** 2)
        x = F.normalize(F.pad(public.candidates[k].x.flatten(1).double(), (0, 1), value=1), dim=1)
        outside = 1 - ((x @ directions.T).square() * kept).sum(1)
        scores[k] = -outside.clamp(min=1e-12).log()
    return Guess(scores=scores)
