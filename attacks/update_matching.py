"""Images, found by gradient descent on images whose gradient has the direction of a client's update.

J. Geiping, H. Bauermeister, H. Dröge, M. Moeller: Inverting Gradients - How Easy Is It to Break Privacy in Federated
Learning?, NeurIPS 2020: minimise 1 - cos(gradient of the images, gradient of the client) + tv * total variation with Adam on
the signs of the gradient, inside the range of the pixels, with a learning rate that falls to a tenth at 3/8, 5/8 and 7/8 of
the iterations. L. Zhu, Z. Liu, S. Han: Deep Leakage from Gradients, NeurIPS 2019, had the squared distance and L-BFGS.

Differences from the paper:
1. The received weights minus the sent ones replace the gradient, and the images are matched by their gradient at the
   received weights: exact for a step of SGD; after several steps or local epochs only the direction is similar. The paper
   unrolls the local steps.
2. Labels and the number of images are not known. A step of SGD changes the classifier's bias by lr (q - p), with the label
   frequencies q and the mean prediction p, here that of the received network on public images. A class that is in no batch
   gives the number of steps, at least, and then the bias gives q. A step is taken to have a whole batch of images.
3. One trial from the mean image with small noise, and few iterations; the paper starts from noise, with up to 24,000
   iterations and several trials. Large networks have fewer iterations, by the budget of operations.
4. The network is in evaluation mode, with the BatchNorm statistics that the client received.

Knowledge: the messages, of whole networks. Only the first recorded update of each client is matched.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import streams
from attacks.knowledge import Guess
from attacks.mean_predictions import N_PUBLIC, predictions

PASSES = 8  # the operations of an iteration, with the gradient of a gradient, in forward passes


@dataclass(frozen=True)
class Options:
    images: int = 8  # most images per client
    iterations: int = 300
    flops: float = 4e9  # most operations per client
    lr: float = 0.1
    tv: float = 1e-2  # weight of the total variation


def attack(recording, public, options):
    images = {}
    for k, _, before, after in recording.updates():
        model = recording.network(k, before)
        if k in images or model is None or "classifier.bias" not in after:
            continue
        update = {name: (before[name] - after[name]).float() for name, _ in model.named_parameters()}
        change = -update["classifier.bias"]
        if all(torch.isfinite(part).all() for part in update.values()) and change.any():
            labels = _labels(model, change.double(), public, recording, options)
            images[k] = match(model.float(), update, labels, public.examples.x, options, k)
    return Guess(images=images)


def _labels(model, change, public, recording, options):
    """Return the labels int64 [n] of the images to find, from the change of the classifier's bias [C]."""
    # a step changes the bias by lr (q - p): q are the label frequencies of the batch, p the mean prediction
    p, change = predictions(model, public.examples.x[:N_PUBLIC]).double().mean(0), change / recording.options["lr"]
    n_steps = max(round(float(-change.clamp(max=0).sum() / p[change < 0].sum().clamp(min=1e-6))), 1)
    q = (change / n_steps + p).clamp(min=0)
    q = q / q.sum().clamp(min=1e-6)
    n = min(options.images, n_steps * recording.options["batch_size"])
    counts = (q * n).floor()
    missing = (q * n - counts).argsort(descending=True)[: max(n - int(counts.sum()), 0)]
    counts[missing] += 1
    return torch.arange(len(q)).repeat_interleave(counts.long())


def match(model, update, labels, known, options, k):
    """Return images [n, channels, height, width] of these labels whose gradient has the direction of an update.

    `known`: public images, for the range of the pixels and the mean.
    """
    low, high = known.amin((0, 2, 3)).view(-1, 1, 1), known.amax((0, 2, 3)).view(-1, 1, 1)
    noise = streams.generator("attack", "update_matching", k).standard_normal((len(labels), *known.shape[1:]))
    x = (known.mean(0) + 0.1 * torch.from_numpy(noise).float()).clamp(low, high).requires_grad_()
    parameters, target = list(model.parameters()), torch.cat([part.flatten() for part in update.values()])
    target = F.normalize(target, dim=0)
    adam = torch.optim.Adam([x], lr=options.lr)

    def step():
        gradient = torch.autograd.grad(F.cross_entropy(model(x)[1], labels), parameters, create_graph=True)
        distance = 1 - F.cosine_similarity(torch.cat([part.flatten() for part in gradient]), target, dim=0)
        x.grad = torch.autograd.grad(distance + options.tv * _total_variation(x), x)[0].sign()
        adam.step()
        x.data.clamp_(low, high)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x.detach())
    n_iterations = min(options.iterations, int(options.flops / (PASSES * max(counter.get_total_flops(), 1))))
    falls = [int(n_iterations * part) for part in (3 / 8, 5 / 8, 7 / 8)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, falls)
    with torch.enable_grad():
        for _ in range(n_iterations):
            step()
            schedule.step()
    return x.detach()


def _total_variation(x):
    return x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
