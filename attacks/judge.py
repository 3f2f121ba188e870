"""The judge alone holds the truth: it draws candidates and public data, and scores the guesses of attacks.

`exposed` = (true positive rate at 1 % false positives - 0.01) / 0.99, pooled over the clients: 0 is no better than chance,
1 finds every example of a client without naming a stranger. Strangers have the class counts of the client's examples: with
other class counts the labels alone would tell them apart. `label_mix` = 1 - TV(guess, truth) / TV(public, truth), where TV
is the total variation distance, the mean over clients: 0 is no better than guessing the public distribution.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import streams
from attacks.knowledge import ATTACKER, Guess, Labelled, Public, Recording, nearest
from data.datasets import Data
from data.partition import Split

MEMBERS = 250  # most examples per client among the candidates
STRANGERS = 1000  # least number of strangers over all clients, where there are enough
PUBLIC = 5000  # most public examples
AT = 0.01  # the false positive rate
DISTINCT = 0.02  # the least distance of a client's label mix from the public one at which a guess can be judged


@dataclass(frozen=True)
class Truth:
    """What only the judge knows: which candidates are the client's own, by client, and the label mixes [K, C]."""

    is_member: Mapping[int, np.ndarray]
    mixes: Tensor


class Exposure(NamedTuple):
    """How well scores tell a client's examples from strangers.

    `exposed` with its 95 % interval `low` to `high`, the area under the curve `auc`, and the numbers of candidates.
    """

    exposed: float
    low: float
    high: float
    auc: float
    n_members: int
    n_strangers: int


def drawn(data: Data, split: Split, seed: int = 0) -> tuple[Public, Truth]:
    """Draw the public examples and the candidates from a data set and its split.

    Public examples and strangers are disjoint. Both come from the training and test examples that no client trained on.
    """
    used = np.concatenate([split.train.values, split.validation.values, split.public])
    pool = np.setdiff1d(np.arange(data.n_train + len(data.test)), used)
    pool = _without_copies_of(data, pool, split.train.values)
    order = streams.generator("attack", "public", seed).permutation(pool)
    public, strangers = order[: min(len(order) // 2, PUBLIC)], order[min(len(order) // 2, PUBLIC) :]
    y = data.y.numpy()
    owned = [_some(share, k, seed) for k, share in enumerate(split.train)]
    times = -(-STRANGERS // max(sum(map(len, owned)), 1))
    candidates, is_member = {}, {}
    for k, members in enumerate(owned):
        stream = streams.generator("attack", "candidates", seed, k)
        others = _with_class_counts(strangers, y, times * np.bincount(y[members], minlength=len(data.classes)), stream)
        members = members[np.isin(y[members], y[others])]  # a class without strangers would be told by its label
        indices = stream.permutation(np.concatenate([members, others]))
        candidates[k], is_member[k] = labelled(data, indices), np.isin(indices, members)
    mixes = torch.stack([torch.bincount(data.y[share], minlength=len(data.classes)).double() for share in split.train])
    return Public(labelled(data, public), candidates), Truth(is_member, mixes / mixes.sum(1, keepdim=True))


def _some(share: np.ndarray, k: int, seed: int) -> np.ndarray:
    if len(share) <= MEMBERS:
        return share
    return streams.generator("attack", "members", seed, k).choice(share, MEMBERS, replace=False)


def _with_class_counts(pool: np.ndarray, y: np.ndarray, counts: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Return examples of a pool with these class counts, fewer where the pool has too few of a class."""
    parts = [(of_class := pool[y[pool] == c])[stream.permutation(len(of_class))[:n]] for c, n in enumerate(counts)]
    return np.concatenate(parts)


def _without_copies_of(data: Data, pool: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the examples of a pool whose pixels are of no member and of no earlier example of the pool."""
    pixels = data.x.flatten(1).numpy()
    earlier = {pixels[i].tobytes() for i in members}
    first = {pixels[i].tobytes(): i for i in reversed(pool)}
    return np.array(sorted(i for content, i in first.items() if content not in earlier), dtype=np.int64)


def labelled(data: Data, indices: np.ndarray) -> Labelled:
    """Return these examples of a data set as an attacker has them."""
    indices = torch.as_tensor(indices)
    return Labelled(data.images(indices).contiguous(), data.y[indices])


def verdict(guess: Guess, recording: Recording, public: Public, truth: Truth) -> dict[str, Any]:
    """Return the numbers of an attack: of `exposure` where it found images or scored candidates, and "label_mix"."""
    victims = [k for k in truth.is_member if recording.own is None or k != ATTACKER]
    scores = dict(guess.scores)
    for k, images in guess.images.items():
        scores.setdefault(k, -nearest(public.candidates[k].x, images)) if len(images) else None
    numbers: dict[str, Any] = {}
    if scores:
        numbers |= exposure([scores.get(k) for k in victims], [truth.is_member[k] for k in victims])._asdict()
    if guess.mixes:
        numbers["label_mix"] = label_mix([guess.mixes.get(k) for k in victims], truth.mixes[victims], public)
    return numbers


def exposure(scores: Sequence[Tensor | None], is_member: Sequence[np.ndarray]) -> Exposure:
    """Return how well scores find members. A client without scores has equal scores, below all others.

    Ties count half: the curve is linear between thresholds. The interval is Wilson's, of the true positive rate.
    """
    from scipy.stats import binomtest, rankdata
    from sklearn.metrics import roc_auc_score, roc_curve

    parts = [np.full(len(own), np.nan) if s is None else np.asarray(s) for s, own in zip(scores, is_member, strict=True)]
    values = rankdata(np.nan_to_num(np.concatenate(parts).astype(float), nan=-np.inf, posinf=np.inf, neginf=-np.inf))
    truth = np.concatenate(list(is_member))
    n_members, n_strangers = int(truth.sum()), int((~truth).sum())
    if not n_members or not n_strangers:
        return Exposure(0.0, 0.0, 1.0, 0.5, n_members, n_strangers)
    false_positives, true_positives, _ = roc_curve(truth, values, drop_intermediate=False)
    rate = float(np.interp(AT, false_positives, true_positives))
    interval = binomtest(round(rate * n_members), n_members).proportion_ci(method="wilson")
    exposed, low, high = ((value - AT) / (1 - AT) for value in (rate, interval.low, interval.high))
    return Exposure(exposed, low, high, float(roc_auc_score(truth, values)), n_members, n_strangers)


def label_mix(guesses: Sequence[Tensor | None], mixes: Tensor, public: Public) -> float | None:
    """Return how much of the clients' label mixes [K, C] the guesses reveal; None where all clients have the public mix."""
    prior, revealed = public.mix(mixes.shape[1]), []
    for guess, truth in zip(guesses, mixes, strict=True):
        if (baseline := _total_variation(prior, truth)) >= DISTINCT:
            guess = prior if guess is None or not torch.isfinite(guess).all() else guess.double().clamp(min=0)
            guess = guess / guess.sum() if guess.sum() > 0 else prior
            revealed.append(1 - _total_variation(guess, truth) / baseline)
    return float(np.mean(revealed)) if revealed else None


def _total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)
