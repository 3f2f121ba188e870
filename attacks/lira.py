"""Members are the candidates on which a network is surer than networks that were trained without them.

N. Carlini, S. Chien, M. Nasr, S. Song, A. Terzis, F. Tramèr: Membership Inference Attacks From First Principles, IEEE S&P
2022, the offline attack with a global variance. phi = log(p_y / (1 - p_y)) is a network's confidence in the label. The score
is phi of the client's network minus the mean of phi over shadow networks, which are trained on public examples.

Differences from the paper:
1. Shadow networks train alone with the run's options of local training, for as many epochs as a client; a client's network
   starts each round from what it received. One set of shadow networks serves all clients of an architecture.
2. A shadow network has as many examples as clients have by their messages (n_k, class counts), at most `n_examples`, in the
   public label mix.
3. phi is compared with its least squares prediction from the shadow mean and the label, which is fitted on public examples
   that train no shadow network, in standard deviations. So the scores of different networks and labels have one scale, and
   shadow networks of another scale do not add noise.
4. Where a client sends no head, the heads of its network and of the shadow networks are fitted on public images.
5. No augmented queries. A large network has fewer shadow networks; without any, phi is compared with that of its label. With
   `--knows network` the score is the mean over the sent network and the client's own.

Knowledge: a network that a client sent, the run's options; with `--knows network`, the client's own network.
"""

import copy
from dataclasses import dataclass

import torch

import streams
from attacks import networks
from attacks.declared_labels import counts_of
from attacks.knowledge import Guess, Labelled

PRIOR = 10  # examples that the mean over all labels counts for in the mean of a label


@dataclass(frozen=True)
class Options:
    n_shadows: int = 8
    n_examples: int = 500  # most examples of a shadow network
    most_epochs: int = 30
    most_flops: float = 2e11  # to train all shadow networks of an architecture: some 15 seconds on one core


def attack(recording, public, options):
    shadows, scores = {}, {}
    for k, of_client in networks.of_clients(recording, public).items():
        values = []
        for model, is_fitted in of_client:
            kind = k % len(recording.options["model"]), is_fitted
            if kind not in shadows:
                shadows[kind] = list(shadow_networks(recording, public, *kind, options))
            values.append(standardised(model, shadows[kind], public.candidates[k], public.examples))
        scores[k] = torch.stack(values).mean(0)
    return Guess(scores=scores)


def shadow_networks(recording, public, k, is_fitted, options):
    """Yield networks like client k's, trained on the first half of the public examples; with fitted heads if `is_fitted`."""
    n_public = len(public.examples.y) // 2
    n = min(typical_size(recording) or options.n_examples, options.n_examples, n_public // 2)
    n_shadows = min(
        options.n_shadows, int(options.most_flops / networks.training_flops(recording, k, n, options.most_epochs))
    )
    stream = streams.generator("attack", "lira", k)
    shares = [torch.from_numpy(stream.permutation(n_public)[:n]) for _ in range(n_shadows)]
    for model in networks.train(recording, public, k, shares, options.most_epochs, "lira"):
        yield copy.deepcopy(networks.fitted(model, public) if is_fitted else model)


def typical_size(recording):
    """Return the median number of training examples that clients name; 0 where they name none."""
    sizes = [int(m.content) for of_client in recording.sent("n_k").values() for m in of_client]
    for of_client in recording.sent().values():
        counts = (counts_of(message.content, len(recording.classes)) for message in of_client)
        sizes += [int(n.sum()) for n in counts if n is not None]
    return sorted(sizes)[len(sizes) // 2] if sizes else 0


def standardised(model, shadows, candidates, examples):
    """Return by how many standard deviations phi of the candidates [m] is above its value for public examples."""
    reference = Labelled(*(part[len(part) // 2 :] for part in examples))
    phi, expected = confidence(model, *reference), shadow_mean(shadows, reference)
    slope = (phi - phi.mean()) @ (expected - expected.mean()) / (expected - expected.mean()).square().sum().clamp(min=1e-12)
    residuals = phi - slope * expected
    n_labels = int(max(candidates.y.max(), reference.y.max())) + 1
    sums, counts = (
        torch.zeros(n_labels).index_add(0, reference.y, residuals),
        torch.bincount(reference.y, minlength=n_labels),
    )
    centre = (sums + PRIOR * residuals.mean()) / (counts + PRIOR)
    scale = (residuals - centre[reference.y]).std().clamp(min=1e-6)
    return (confidence(model, *candidates) - slope * shadow_mean(shadows, candidates) - centre[candidates.y]) / scale


def shadow_mean(shadows, examples):
    """Return the mean confidence [n] of the shadow networks; 0 without any."""
    total = sum((confidence(shadow, *examples) for shadow in shadows), torch.zeros(len(examples.y)))
    return total / max(len(shadows), 1)


def confidence(model, x, y):
    """Return phi = log(p_y / (1 - p_y)) [n] of a network, from its logits: no p is rounded to 1."""
    logits = networks.evaluate(model, x)[1]
    is_label = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
    return logits[is_label] - logits.masked_fill(is_label, -torch.inf).logsumexp(1)
