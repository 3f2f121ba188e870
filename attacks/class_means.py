"""Members are the candidates in the direction in which a client's class mean differs from the public class mean.

C. Dwork, A. Smith, T. Steinke, J. Ullman, S. Vadhan: Robust Traceability from Trace Amounts, FOCS 2015, after N. Homer et
al.: Resolving Individuals Contributing Trace Amounts of DNA to Highly Complex Mixtures Using High-Density SNP Genotyping
Microarrays, PLoS Genetics 2008: a mean of n vectors is traced to its members by the inner product with a candidate. For
Gaussian features with centre mu and covariance S the test of Neyman and Pearson is the likelihood ratio of two distributions
of the mean m of a candidate f and n - 1 others, or of n others:

    N(m; mu + (f - mu) / n, S (n - 1) / n^2)  to  N(m; mu, S / n).

Its main term is the inner product of m - mu and f - mu, whitened. For n = 1 (CFKD with n_avg 1) it is exact matching.

Differences from the papers:
1. The likelihood ratio and not its main term, so that classes with other counts n have one scale.
2. mu and S are of public features of the class; S is shrunk to the mean over classes, and directions of small variance are
   left out. S has `noise` in addition: rounding of messages, or another network.
3. An observation of CFKD is the mean of n_avg examples of n_k: its likelihood ratio is that of a mixture, with weight
   n_avg / n_k. Message and observation count as independent.
4. FD sends no counts: n is the one with which the mean is as far from mu as expected.
5. With `--knows own_client` features are of the attacker's own network, and the client's class mean is the centre of its
   observation: CFKD and FedProto pull the features of all clients to common means. The noise is fitted. It is a weak proxy.

Knowledge: the client's own network (`--knows network`) or the attacker's, and class means (CFKD, FedProto) or class mean
outputs (FD) of the last round.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch

from attacks import networks
from attacks.knowledge import ATTACKER, Guess


@dataclass(frozen=True)
class Options:
    noise: float = 0.01  # in standard deviations of a feature
    least_variance: float = 1e-4  # of a direction, relative to the largest


def attack(recording, public, options):
    scores = {}
    for k, messages in recording.sent("mean features", "prototypes", "mean outputs").items():
        message, own = messages[-1], ATTACKER if recording.knows == "own_client" else k
        model = recording.network(own, recording.networks[own]) if own in recording.networks else None
        if model is not None and message.round == recording.options["rounds"]:
            features = outputs_of if message.kind == "mean outputs" else features_of
            scores[k] = traced(message.content, partial(features, model), public, k, recording, options)
    return Guess(scores=scores)


def features_of(model, x):
    """Return a network's features [n, D]."""
    return networks.evaluate(model, x)[0].double()


def outputs_of(model, x):
    """Return a network's probabilities [n, C]."""
    return networks.evaluate(model, x)[1].double().softmax(1)


def traced(content, features, public, k, recording, options):
    """Return the log likelihood ratios [m] of client k's candidates for a message; 0 for classes that it does not have."""
    (x, y), known, by_proxy = public.candidates[k], public.examples, recording.knows == "own_client"
    reference, candidates = features(known.x), features(x)
    groups = [reference[known.y == c] for c in range(len(content["means"]))]
    within = [group.T.cov(correction=0) * len(group) for group in groups if len(group) > 1]
    pooled, scores = sum(within) / len(reference), torch.zeros(len(y), dtype=torch.float64)
    for c in y.unique().tolist():
        n = int(content["counts"][c] if "counts" in content else content["held"][c])
        if n and len(groups[c]) > 1:
            whiten = whitening(groups[c], pooled, options.least_variance)
            centre, mean = groups[c].mean(0), content["means"][c].double()
            z, m = whiten(candidates[y == c] - centre), whiten(mean - centre)
            n = n if "counts" in content else max(round(len(m) / max(float(m @ m), 1e-12)), 1)
            ratio = log_ratio(m, z, n, noise_of(m, n, by_proxy, options))
            if "observation" in content:
                n_of, observation = min(recording.options["n_avg"], n), content["observation"][c].double()
                o = whiten(observation - (mean if by_proxy else centre))
                of_observation = log_ratio(o, z, n_of, noise_of(o, n_of, by_proxy, options))
                share = torch.tensor(n_of / n, dtype=torch.float64)  # at 1 the observation is the mean
                ratio = (n_of < n) * ratio + torch.logaddexp(share.log() + of_observation, (1 - share).log())
            scores[y == c] = ratio
    return scores


def whitening(group, pooled, least_variance):
    """Return the function of centred features that gives a class [n, D] unit covariance, in directions with variance."""
    n, dim = group.shape
    values, vectors = torch.linalg.eigh((n * group.T.cov(correction=0) + dim * pooled) / (n + dim))
    kept = values > least_variance * values.max().clamp(min=1e-30)
    matrix = vectors[:, kept] / values[kept].sqrt()
    return lambda centred: centred @ matrix


def log_ratio(m, z, n, noise):
    """Return log p(m | z is one of the n vectors of the mean m) / p(m | it is not) for whitened m [D] and z [..., D]."""
    inside, outside = (n - 1) / n**2 + noise**2, 1 / n + noise**2
    distances = (m - z / n).square().sum(-1) / inside - m.square().sum() / outside
    return (len(m) * math.log(outside / inside) - distances) / 2


def noise_of(m, n, by_proxy, options):
    """Return the noise of a whitened mean m [D] of n; with another network, as much as explains the length of the mean."""
    excess = max(float(m @ m) / max(len(m), 1) - 1 / n, 0) if by_proxy else 0
    return max(options.noise, excess**0.5)
