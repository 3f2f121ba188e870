"""Images, decoded from the feature maps that clients send (FedGKT), by a network trained on public images.

A. Dosovitskiy, T. Brox: Inverting Visual Representations with Convolutional Networks, CVPR 2016: a decoder learns images
from the features of a known network. Z. He, T. Zhang, R. B. Lee: Model Inversion Attacks Against Collaborative Inference,
ACSAC 2019, attack the maps of a split network so.

With `--knows network`, the decoder of a client learns from the maps of the client's own stem. Otherwise the stem is unknown:
one decoder learns from the maps of many random stems, as they are before training. Its inputs do not depend on the order,
the scale and the sign of the channels: each channel is standardised over all images, and at each pixel the mean, the
root mean square, the maximum and the standard deviation of the absolute values over the channels are the inputs.

Differences from the papers:
1. An unknown stem: He et al. query it, or learn a substitute of it. The invariants here are of this attack.
2. A decoder of three convolutions, as a stem keeps the size of an image, trained for few steps on the mean squared error.
3. A client's stem is the one of the last round, while maps of earlier rounds are of earlier stems.

Knowledge: the messages; with `--knows network` the clients' networks, with `--knows own_client` the attacker's stem too,
which is one of the stems that the decoder learns from.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

import models
import streams
from attacks.knowledge import Guess
from attacks.mean_predictions import AT_ONCE
from models import StemNet


@dataclass(frozen=True)
class Options:
    steps: int = 500
    batch_size: int = 32
    stems: int = 20  # random stems
    images: int = 250  # public images that standardise the channels of a stem
    lr: float = 3e-3
    width: int = 16  # channels of the decoder


def attack(recording, public, options):
    sent = {k: messages[-1].content["maps"].float() for k, messages in recording.sent("features").items()}
    sent = {k: maps for k, maps in sent.items() if torch.isfinite(maps).all() and maps.any()}
    networks = {k: recording.network(k, weights) for k, weights in recording.networks.items()}
    own = {k: model.stem for k, model in networks.items() if isinstance(model, StemNet)}
    images, x, decoder = {}, public.examples.x, None
    for k, maps in sent.items():
        if k in own:
            images[k] = decode(learn([own[k]], x, standardised, options), standardised(maps, maps))
            continue
        if decoder is None:
            decoder = learn([*random_stems(recording, x, options), *own.values()], x, invariants, options)
        images[k] = decode(decoder, invariants(maps, maps))
    return Guess(images=images)


def random_stems(recording, x, options):
    """Return stems before training, with the BatchNorm statistics of public images."""
    stems, inputs = [], (recording.shape, len(recording.classes), recording.options["feature_dim"])
    for i in range(options.stems):
        with streams.torch_seeded("attack", "feature_maps", i):
            stem = models.make(recording.options["model"][0], *inputs).stem.train()
        for module in stem.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of the next batch alone
        with torch.no_grad():
            stem(x[: options.images])
        stems.append(stem.eval())
    return stems


def standardised(maps, reference):
    """Return maps [n, channels, height, width] with each channel of the reference maps at mean 0 and std 1."""
    std, mean = torch.std_mean(reference, (0, 2, 3), keepdim=True)
    return (maps - mean) / torch.where(std > 0, std, 1)


def invariants(maps, reference):
    """Return [n, 4, height, width], which ignores the order, the scale and the sign of the channels."""
    sizes = standardised(maps, reference).abs()
    return torch.stack([sizes.mean(1), sizes.square().mean(1).sqrt(), sizes.amax(1), sizes.std(1)], 1)


def learn(stems, x, represent, options):
    """Return a decoder from represent(maps of a stem, reference maps) to the public images x."""
    stream = streams.generator("attack", "feature_maps", "batches")
    with torch.no_grad():
        references = [stem(x[: options.images]) for stem in stems]
        inputs = represent(references[0][:1], references[0]).shape[1]
    with streams.torch_seeded("attack", "feature_maps", "decoder"):
        widths = (inputs, options.width, options.width, options.width, x.shape[1])
        layers = [nn.Sequential(nn.Conv2d(*pair, 3, padding=1), nn.ReLU()) for pair in pairwise(widths)]
    decoder = nn.Sequential(*layers[:-1], layers[-1][0])  # the last layer without a ReLU
    adam = torch.optim.Adam(decoder.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.steps)
    with torch.enable_grad():
        for _ in range(options.steps):
            s, batch = stream.integers(len(stems)), x[stream.integers(len(x), size=options.batch_size)]
            with torch.no_grad():
                features = represent(stems[s](batch), references[s])
            adam.zero_grad()
            F.mse_loss(decoder(features), batch).backward()
            adam.step()
            schedule.step()
    return decoder


@torch.no_grad()
def decode(decoder, features):
    """Return the images of features [n, channels, height, width]."""
    return torch.cat([decoder(part) for part in features.split(AT_ONCE)])
