"""Who gets what: partitioners, pure functions of labels, sizes and a generator.

A partitioner is a function `(labels, counts, alpha, generator) -> shares` and a line in `PARTITIONS`. Each of the three
is a pair, for the training and for the test set: `labels` int64 [n], `counts` int64 [K] how many examples each client is
to get (a rule whose sizes come out as they may reads only their number), and `shares` K arrays of positions among the
labels. A client's test share follows the same rule as its training share: it is a sample of its own distribution.

Every client gets at least one training and one test example by construction; nothing is drawn again in a loop until it
fits. What cannot be had is a UserError.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import streams
from errors import UserError

Pair = tuple[np.ndarray, np.ndarray]  # of the training and of the test set
Shares = list[np.ndarray]
STRATIFIED = 1e12  # from this alpha on a Dirichlet draw is its mean, as far as whole examples can tell


@dataclass(frozen=True)
class Split:
    """Each client's examples as sorted int64 indices into one `Data`: K arrays for training, validation and test.

    No example is in two training or validation shares, or in two test shares; no share but validation's is empty.
    """

    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this very split."""
        sha = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for share in part:
                sha.update(len(share).to_bytes(8, "little") + share.astype("<i8").tobytes())
        return sha.hexdigest()[:16]


def counts_of(sizes: Sequence[float] | None, n: int, n_clients: int) -> np.ndarray:
    """How many of n examples each client gets, int64 [K]: int(size * n); all n, dealt as evenly as can be, without sizes.

    What rounding leaves over goes one each to the first clients where the sizes add up to 1.
    """
    sizes = np.full(n_clients, 1 / n_clients) if sizes is None else np.asarray(sizes, dtype=float)
    counts = (sizes * n + 1e-9).astype(np.int64)  # 0.29 * 100 is 28.999...
    if sizes.sum() > 1 - 1e-9:
        counts[: n - counts.sum()] += 1
    return counts


def iid(labels: Pair, counts: Pair, alpha: float, generator: np.random.Generator) -> tuple[Shares, Shares]:
    """Shuffle and deal (McMahan et al. 2017). Every example is dealt where the sizes add up to 1."""
    return tuple(
        np.split(generator.permutation(len(y)), np.cumsum(wanted))[:-1] for y, wanted in zip(labels, counts, strict=True)
    )


def dirichlet(labels: Pair, counts: Pair, alpha: float, generator: np.random.Generator) -> tuple[Shares, Shares]:
    """Client by client a class mix p ~ Dirichlet(alpha * class frequencies), the same for train and test (Berdoz et al.
    2022, reference code). Sizes are exact. Alpha inf (or above 1e12) is a stratified split: every client has the mix of
    the whole, to within two examples a class; alpha towards 0 gives one class each, as long as that class lasts.

    The reference rounds a stratified split alike for every client, so that its last client gets what the rounding of all
    the others left over; ours corrects itself from client to client.
    """
    totals = _class_totals(labels)
    prior = totals.sum(0) / totals.sum()
    mixes = None if alpha > STRATIFIED else [_mix(prior, alpha, generator) for _ in counts[0]]
    return tuple(
        _deal(y, _per_class(total, mixes, wanted), generator)
        for y, total, wanted in zip(labels, totals, counts, strict=True)
    )


def _class_totals(labels: Pair) -> np.ndarray:
    """How many examples of each class the training and the test set have: int64 [2, C]."""
    n_classes = 1 + int(max(y.max() for y in labels))
    return np.stack([np.bincount(y, minlength=n_classes) for y in labels])


def _mix(prior: np.ndarray, alpha: float, generator: np.random.Generator) -> np.ndarray:
    """One draw from Dirichlet(alpha * prior), float [C]; its limits where floats end: the prior, or a single class."""
    if alpha > STRATIFIED:
        return prior
    present = prior > 0
    mix = np.zeros_like(prior)
    mix[present] = generator.dirichlet(np.maximum(alpha * prior[present], 1e-300))
    if not np.isfinite(mix).all() or mix.sum() < 0.5:
        return np.eye(len(prior))[generator.choice(len(prior), p=prior)]
    return mix


def _per_class(left: np.ndarray, mixes: Sequence[np.ndarray] | None, wanted: np.ndarray) -> np.ndarray:
    """How many of each class every client gets, int64 [K, C], with rows that add up to `wanted`.

    A client's mix (without mixes: that of all that is left) times its size is rounded with a carry to the next class and
    capped by what is left of the class; a shortfall is filled from class 0 upward.
    """
    left = left.copy()
    dealt = []
    for k, n in enumerate(wanted):
        mix = left / left.sum() if mixes is None else mixes[k]
        row = np.minimum(_rounded(mix, n), left)
        for c in range(len(left)):
            row[c] += min(n - row.sum(), left[c] - row[c])
        left -= row
        dealt.append(row)
    return np.stack(dealt)


def _rounded(mix: np.ndarray, n: int) -> np.ndarray:
    """Whole parts of n in the proportions of `mix` (which adds up to 1), rounded with a carry to the next part."""
    bounds = np.floor(np.cumsum(mix) * n + 0.5).astype(np.int64)
    bounds[-1] = n
    return np.diff(bounds, prepend=0)


def lda(labels: Pair, counts: Pair, alpha: float, generator: np.random.Generator) -> tuple[Shares, Shares]:
    """Class by class, parts of the clients q ~ Dirichlet(alpha), the same for train and test (latent Dirichlet
    allocation, as in FedGKT's experiments, He et al. 2020). Every example is dealt; sizes come out unequal, the more so
    the smaller alpha.

    Unlike the reference, which zeroes the part of a client that has its fill and draws everything again until each client
    has 10 examples, this is one draw: a client left without an example is given one, of the class it has the largest part
    in that another client can spare.
    """
    n_clients = len(counts[0])
    equal = np.full(n_clients, 1 / n_clients)
    totals = _class_totals(labels)
    parts = np.stack([_mix(equal, alpha * n_clients, generator) for _ in totals[0]])  # [C, K]
    # a class is rounded in an order of its own: else it is the same clients that every class rounds up
    orders = [generator.permutation(n_clients) for _ in parts]
    shares = []
    for y, total in zip(labels, totals, strict=True):
        per_class = np.zeros((n_clients, len(parts)), dtype=np.int64)
        for c, (part, order, n) in enumerate(zip(parts, orders, total, strict=True)):
            per_class[order, c] = _rounded(part[order], n)
        for k in np.flatnonzero(per_class.sum(1) == 0):
            spare = np.where(per_class.sum(1, keepdims=True) > 1, per_class, 0)
            c = next(c for c in np.argsort(-parts[:, k], kind="stable") if spare[:, c].any())
            per_class[spare[:, c].argmax(), c] -= 1
            per_class[k, c] += 1
        shares.append(_deal(y, per_class, generator))
    return tuple(shares)


def _deal(labels: np.ndarray, per_class: np.ndarray, generator: np.random.Generator) -> Shares:
    """Shuffle each class once and deal it in client order: per_class int64 [K, C] -> K shares."""
    dealt: list[list[np.ndarray]] = [[] for _ in per_class]
    for c in range(per_class.shape[1]):
        positions = generator.permutation(np.flatnonzero(labels == c))
        for k, piece in enumerate(np.split(positions, np.cumsum(per_class[:, c]))[:-1]):
            dealt[k].append(piece)
    return [np.concatenate(pieces) for pieces in dealt]


PARTITIONS: dict[str, Callable] = {"dirichlet": dirichlet, "lda": lda, "iid": iid}
READ_ALPHA = ("dirichlet", "lda")
READ_SIZES = ("dirichlet", "iid")


def split(data, options) -> Split:
    """The split that `options` ask for, drawn from `options.split_seed` alone: the same for every algorithm and seed.

    First `--reduced` keeps a part of the training set, then `--partition` deals it and the test set, then
    `--validation` holds out a share of every client's training examples. Raises UserError for what cannot be had.
    """
    generator = streams.generator("split", options.split_seed)
    y = data.y.cpu().numpy()
    n_kept = int(options.reduced * data.n_train + 1e-9)
    kept = np.arange(data.n_train)
    if options.reduced_draw == "random":
        kept = streams.generator("reduced", options.split_seed).permutation(kept)
    kept = kept[:n_kept]
    y_test = y[data.n_train :]
    n_clients = options.n_clients
    if n_kept < 1:
        raise UserError(f"--reduced {options.reduced:g}: keeps none of the {data.n_train} training images of {data.name}")
    counts = []
    for n, what in ((n_kept, "training"), (len(y_test), "test")):
        if n < n_clients:
            raise UserError(
                f"--n_clients {n_clients}: more clients than the {n} {what} images of {data.name} there are to deal"
                f"{f' with --reduced {options.reduced:g}' if options.reduced < 1 else ''}; at most {n}"
            )
        counts.append(counts_of(options.sizes, n, n_clients))
        if counts[-1].min() < 1:
            raise UserError(
                f"--sizes {','.join(f'{size:g}' for size in options.sizes)}: a client would get none of the {n} {what} "
                f"images; every size must be at least {1 / n:.2g}"
            )

    train, test = PARTITIONS[options.partition]((y[kept], y_test), counts, options.alpha, generator)
    train = [np.sort(kept[share]) for share in train]
    held_out = [_hold_out(share, options, k) for k, share in enumerate(train)]
    return Split(
        train=tuple(np.setdiff1d(share, held) for share, held in zip(train, held_out, strict=True)),
        validation=tuple(held_out),
        test=tuple(np.sort(data.n_train + share) for share in test),
    )


def _hold_out(share: np.ndarray, options, k: int) -> np.ndarray:
    """The part of a client's training share kept for validation: round(F n_k), at least 1, and never all of it."""
    if not options.validation:
        return share[:0]
    if len(share) < 2:
        raise UserError(
            f"--validation {options.validation:g}: client {k} has a single training image and cannot hold one out; "
            f"use fewer clients or --validation 0"
        )
    n = min(max(round(options.validation * len(share)), 1), len(share) - 1)
    return np.sort(streams.generator("validation", options.split_seed, k).permutation(share)[:n])


def table(data, split: Split) -> np.ndarray:
    """Training examples by client and class, validation included: int64 [K, C]."""
    y = data.y.cpu().numpy()
    return np.stack(
        [
            np.bincount(y[np.concatenate([train, held])], minlength=len(data.classes))
            for train, held in zip(split.train, split.validation, strict=True)
        ]
    )
