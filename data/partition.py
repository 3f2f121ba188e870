"""Who gets what: partitioners, pure functions of a pool of examples, a generator and the flags they name.

A partitioner is a function `(pool, generator, ...) -> (training shares, test shares)` and a line in `PARTITIONS`. Its
further parameters name the flags that it reads (`n_clients`, `alpha`, ...), or `counts`: how many training and how many test
examples each client is to get, two int64 [K], from `--sizes`. A flag that a partitioner does not name is an error beside
it. Shares are K arrays of indices into the data set, in a list or as `Shares`, which are one array however many clients
there are. A client's test share follows the same rule as its training share: it is a sample of its own distribution.

Every client gets at least one training and one test example by construction; nothing is drawn again in a loop until it
fits. What cannot be had is a UserError.
"""

import hashlib
import heapq
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import streams
import untrusted
from data import tables
from data.files import in_order, listed, one_spelling, words
from errors import UserError
from untrusted import RefusedError

Pair = tuple[np.ndarray, np.ndarray]  # of the training and of the test set
Dealt = tuple[Sequence[np.ndarray], Sequence[np.ndarray]]  # likewise, of K clients
STRATIFIED = 1e12  # from this alpha on a Dirichlet draw is its mean, as far as whole examples can tell


@dataclass(frozen=True, eq=False)
class Shares(Sequence):
    """K arrays in one: what client k has is `shares[k]`, a view of `values` [n] from offsets[k] to offsets[k + 1]. `values`
    are an array or a tensor, `offsets` int64 [K + 1]. So a million clients are two arrays, and not a million."""

    values: Any
    offsets: np.ndarray

    @classmethod
    def of(cls, shares: Sequence) -> "Shares":
        """K sequences of indices, as int64; shares as they are."""
        if isinstance(shares, cls):
            return shares
        arrays = [np.asarray(share, dtype=np.int64) for share in shares]
        return cls(np.concatenate(arrays or [np.zeros(0, np.int64)]), _offsets([len(array) for array in arrays]))

    @classmethod
    def dealt(cls, values: np.ndarray, owners: np.ndarray, n_clients: int) -> "Shares":
        """Of values [n] and to whom each is dealt, int64 [n]; a client has its own in the order in which they stand."""
        return cls(values[np.argsort(owners, kind="stable")], _offsets(np.bincount(owners, minlength=n_clients)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, k: int | slice) -> Any:
        which = range(len(self))[k]
        if isinstance(which, int):
            return self.values[self.offsets[which] : self.offsets[which + 1]]
        if which.step != 1:
            return Shares.of([self[i] for i in which])
        offsets = self.offsets[which.start : max(which.start, which.stop) + 1]
        return Shares(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def __iter__(self) -> Iterator:
        ends = self.offsets.tolist()
        return (self.values[start:end] for start, end in zip(ends, ends[1:], strict=False))

    @property
    def sizes(self) -> np.ndarray:
        """How many each client has, int64 [K]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """Whose each of the values is, int64 [n]."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def sorted(self) -> "Shares":
        """Each client's in ascending order."""
        return Shares(self.values[np.lexsort((self.values, self.owners))], self.offsets)

    def where(self, wanted: np.ndarray) -> "Shares":
        """Of each client those that are wanted, bool [n]."""
        return Shares(self.values[wanted], _offsets(wanted)[self.offsets])


def _offsets(sizes: Sequence[int]) -> np.ndarray:
    """Where each of some parts begins and the last one ends: int64 [K + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


@dataclass(frozen=True)
class Pool:
    """What there is to deal: `train` and `test`, int64 indices into one data set, of which `y` int64 [n] are the labels and
    `owners` int64 [n] whose each example is (`Data.owners`), where that is known, and
    `clients` their names where they are clients."""

    y: np.ndarray
    train: np.ndarray
    test: np.ndarray
    owners: np.ndarray | None = None
    clients: tuple[str, ...] = ()

    @property
    def parts(self) -> Pair:
        """Training and test."""
        return self.train, self.test


PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Each client's examples as sorted int64 indices into one `Data`: K shares for training, validation and test, given as
    `Shares` or as K arrays; and `public` int64 [n], the examples that are everybody's.

    No example is in two shares, but with `reference_blocks`; no share but validation's is empty. `names` are the clients';
    () where they have none but their numbers.
    """

    train: Shares
    validation: Shares
    test: Shares
    public: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in PARTS:
            object.__setattr__(self, name, Shares.of(getattr(self, name)))

    @property
    def parts(self) -> tuple[Shares, Shares, Shares]:
        """Training, validation and test."""
        return self.train, self.validation, self.test

    @cached_property
    def overlapping(self) -> bool:
        """Whether an example is in several shares."""
        return bool(_times(self)[1].max() > 1)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this very split: of each share its length and its indices, in eight bytes
        each."""
        sha = hashlib.sha256()
        for part in self.parts:
            sha.update(np.insert(part.values, part.offsets[:-1], part.sizes).astype("<i8"))
        if len(self.public):
            sha.update(self.public.astype("<i8"))
        return sha.hexdigest()[:16]


def global_test(data, split: Split) -> np.ndarray:
    """The test set that all clients are asked for, int64 [n]: that of the data; of data that come by client the test
    examples that are nobody's, or where there are none the union of the clients' own."""
    everything = np.array(data.test, dtype=np.int64)
    if not has_common_test(data):
        return np.union1d(everything, split.test.values)
    return everything[data.owners.cpu().numpy()[everything] < 0] if data.clients else everything


def has_common_test(data) -> bool:
    """Whether there are test examples besides those that clients bring as their own."""
    return not data.clients or bool((data.owners[data.test.start : data.test.stop] < 0).any())


def counts_of(sizes: Sequence[float] | None, n: int, n_clients: int) -> np.ndarray:
    """How many of n examples each client gets, int64 [K]: int(size * n); all n, dealt as evenly as can be, without sizes.

    What rounding leaves over goes one each to the first clients where the sizes add up to 1.
    """
    sizes = np.full(n_clients, 1 / n_clients) if sizes is None else np.asarray(sizes, dtype=float)
    counts = (sizes * n + 1e-9).astype(np.int64)  # 0.29 * 100 is 28.999...
    if sizes.sum() > 1 - 1e-9:
        counts[: n - counts.sum()] += 1
    return counts


def iid(pool: Pool, generator: np.random.Generator, counts: Pair) -> Dealt:
    """Shuffle and deal (McMahan et al. 2017). Every example is dealt where the sizes add up to 1."""
    return tuple(
        Shares(generator.permutation(part)[: wanted.sum()], _offsets(wanted))
        for part, wanted in zip(pool.parts, counts, strict=True)
    )


def dirichlet(pool: Pool, generator: np.random.Generator, counts: Pair, alpha: float) -> Dealt:
    """Client by client a class mix p ~ Dirichlet(alpha * class frequencies), the same for train and test (Berdoz et al.
    2022, reference code). Sizes are exact. Alpha inf (or above 1e12) is a stratified split: every client has the mix of
    the whole, to within two examples a class; alpha towards 0 gives one class each, as long as that class lasts.

    The reference rounds a stratified split alike for every client, so that its last client gets what the rounding of all
    the others left over; ours corrects itself from client to client.
    """
    totals = _class_totals(pool)
    prior = totals.sum(0) / totals.sum()
    mixes = None if alpha > STRATIFIED else _mixes(prior, alpha, len(counts[0]), generator)
    return tuple(
        _deal(pool.y, part, _per_class(total, mixes, wanted), generator)
        for part, total, wanted in zip(pool.parts, totals, counts, strict=True)
    )


def _class_totals(pool: Pool) -> np.ndarray:
    """How many examples of each class the training and the test part have: int64 [2, C]."""
    labels = [pool.y[part] for part in pool.parts]
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


def _mixes(prior: np.ndarray, alpha: float, n: int, generator: np.random.Generator) -> np.ndarray:
    """n draws of `_mix`, float [n, C]: at once where none of them is beyond floats, which draws the same numbers."""
    state, present, mixes = generator.bit_generator.state, prior > 0, np.zeros((n, len(prior)))
    mixes[:, present] = generator.dirichlet(np.maximum(alpha * prior[present], 1e-300), n)
    if np.isfinite(mixes).all() and mixes.sum(1).min() >= 0.5:
        return mixes
    generator.bit_generator.state = state
    return np.stack([_mix(prior, alpha, generator) for _ in range(n)])


def _per_class(left: np.ndarray, mixes: np.ndarray | None, wanted: np.ndarray) -> np.ndarray:
    """How many of each class every client gets, int64 [K, C], with rows that add up to `wanted`.

    A client's mix (without mixes: that of all that is left) times its size is rounded with a carry to the next class and
    capped by what is left of the class; a shortfall is filled from class 0 upward.
    """
    left = left.copy()
    dealt = np.zeros((len(wanted), len(left)), np.int64) if mixes is None else _rounded(mixes, wanted[:, None])
    for n, row in zip(wanted, dealt, strict=True):
        if mixes is None:
            row[:] = _rounded(left / left.sum(), n)
        np.minimum(row, left, out=row)
        if row.sum() < n:
            for c in range(len(left)):
                row[c] += min(n - row.sum(), left[c] - row[c])
        left -= row
    return dealt


def _rounded(mix: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Whole parts of n in the proportions of `mix` (whose last axis adds up to 1), rounded with a carry to the next part."""
    bounds = np.floor(np.cumsum(mix, axis=-1) * n + 0.5).astype(np.int64)
    bounds[..., -1:] = n
    return np.diff(bounds, prepend=0)


def lda(pool: Pool, generator: np.random.Generator, n_clients: int, alpha: float) -> Dealt:
    """Class by class, parts of the clients q ~ Dirichlet(alpha), the same for train and test (latent Dirichlet
    allocation, as in FedGKT's experiments, He et al. 2020). Every example is dealt; sizes come out unequal, the more so
    the smaller alpha.

    Unlike the reference, which zeroes the part of a client that has its fill and draws everything again until each client
    has 10 examples, this is one draw: a client left without an example is given one, of the class it has the largest part
    in that another client can spare.
    """
    equal = np.full(n_clients, 1 / n_clients)
    totals = _class_totals(pool)
    parts = np.stack([_mix(equal, alpha * n_clients, generator) for _ in totals[0]])  # [C, K]
    # a class is rounded in an order of its own: else it is the same clients that every class rounds up
    orders = [generator.permutation(n_clients) for _ in parts]
    shares = []
    for examples, total in zip(pool.parts, totals, strict=True):
        per_class = np.zeros((n_clients, len(parts)), dtype=np.int64)
        for c, (part, order, n) in enumerate(zip(parts, orders, total, strict=True)):
            per_class[order, c] = _rounded(part[order], n)
        _give_to_the_empty(per_class, parts)
        shares.append(_deal(pool.y, examples, per_class, generator))
    return tuple(shares)


def _give_to_the_empty(per_class: np.ndarray, parts: np.ndarray) -> None:
    """Of int64 [K, C], give each row of zeros a one: of the class it has the largest part in, float [C, K], that another row
    can spare, from the first of the rows that have the most of it and more than one in all."""
    sizes = per_class.sum(1).tolist()
    if min(sizes):
        return
    holders = [np.flatnonzero(column) for column in per_class.T]
    spare = [list(zip((-per_class[own, c]).tolist(), own.tolist(), strict=True)) for c, own in enumerate(holders)]
    for heap in spare:
        heapq.heapify(heap)
    for k in [k for k, size in enumerate(sizes) if not size]:
        for c in np.argsort(-parts[:, k], kind="stable"):
            while spare[c] and sizes[spare[c][0][1]] == 1:
                heapq.heappop(spare[c])
            if spare[c]:
                break
        most, giver = heapq.heappop(spare[c])
        if most < -1:
            heapq.heappush(spare[c], (most + 1, giver))
        sizes[giver] -= 1
        per_class[giver, c] -= 1
        per_class[k, c] += 1


def _deal(y: np.ndarray, part: np.ndarray, per_class: np.ndarray, generator: np.random.Generator) -> Shares:
    """Shuffle each class of a part once and deal it in client order: per_class int64 [K, C] -> K shares."""
    everyone, examples, owners = np.arange(len(per_class)), [], []
    for c, counts in enumerate(per_class.T):
        examples.append(generator.permutation(part[y[part] == c])[: counts.sum()])
        owners.append(np.repeat(everyone, counts))
    return Shares.dealt(np.concatenate(examples), np.concatenate(owners), len(per_class))


def shards(pool: Pool, generator: np.random.Generator, n_clients: int, shard_per_user: int) -> Dealt:
    """Sort by label, cut every class into shards, deal `shard_per_user` of them to each client; the test set is cut and
    dealt with the same labels (Oh, Kim, Yun 2022, FedBABU's reference code, after McMahan et al. 2017).

    The K s shards are as many for one class as for another, but for a remainder that goes one each to classes drawn at
    random (the reference takes only numbers without a remainder). They are dealt at random, so that a client may hold
    two of one class: s shards, not s classes. Every example is dealt, but those of a class that has none to train on.
    """
    present = np.unique(pool.y[pool.train])
    n_shards, n_classes = n_clients * shard_per_user, len(present)
    least, most = -(-n_classes // n_clients), min(map(len, pool.parts)) // n_clients
    if not least <= shard_per_user <= most:
        raise UserError(
            f"--shard_per_user {shard_per_user}: with --n_clients {n_clients} there would be {n_shards} shards, and each of "
            f"the {n_classes} classes needs a shard, each shard a training and a test image; must be {least} to {most}"
        )
    n_of = np.full(n_classes, n_shards // n_classes)  # shards of each class
    n_of[generator.permutation(n_classes)[: n_shards % n_classes]] += 1
    labels = generator.permutation(np.repeat(present, n_of))
    owners = np.repeat(np.arange(n_clients), shard_per_user)  # of shard i, which has labels[i]
    holders = {c: owners[labels == c] for c in present}
    return _deal_pieces(pool, n_clients, holders, np.sort, f"--shard_per_user {shard_per_user}", generator)


def classes(pool: Pool, generator: np.random.Generator, n_clients: int, classes_per_client: int) -> Dealt:
    """Every client holds exactly `classes_per_client` classes, drawn at random among those that the fewest clients hold
    so far; a class is shuffled and dealt evenly to those that hold it, in training and test. Where K k is less than the
    number of classes some are nobody's; otherwise every example is dealt, but those of a class that has none to train on.
    """
    present = np.unique(pool.y[pool.train])
    if classes_per_client > len(present):
        raise UserError(
            f"--classes_per_client {classes_per_client}: the training images are of {len(present)} classes; "
            f"must be at most {len(present)}"
        )
    holders: dict[int, list[int]] = {c: [] for c in present}
    for k in range(n_clients):
        fewest_first = np.lexsort((generator.random(len(present)), [len(held) for held in holders.values()]))
        for c in present[fewest_first[:classes_per_client]]:
            holders[c].append(k)
    holders = {c: clients for c, clients in holders.items() if clients}
    asked = f"--classes_per_client {classes_per_client}"
    return _deal_pieces(pool, n_clients, holders, generator.permutation, asked, generator)


def _deal_pieces(
    pool: Pool,
    n_clients: int,
    holders: Mapping[int, Sequence[int]],
    arranged: Callable[[np.ndarray], np.ndarray],
    asked: str,
    generator: np.random.Generator,
) -> Dealt:
    """Put each class's examples in order by `arranged`, cut them as evenly as can be into a piece for each of its holders
    {class: clients}, and deal the pieces at random. Raises UserError, on the flag `asked`, where a class has too few."""
    shares = []
    for part, what in zip(pool.parts, ("training", "test"), strict=True):
        pieces, owners = [], []
        for c, clients in holders.items():
            examples, m = arranged(part[pool.y[part] == c]), len(clients)
            if len(examples) < m:
                raise UserError(
                    f"{asked}: class {c} would be cut into {m} pieces and has {len(examples)} {what} images; "
                    f"use a smaller number or fewer clients"
                )
            pieces.append(examples)
            owners.append(np.repeat(generator.permutation(clients), counts_of(None, len(examples), m)))
        shares.append(Shares.dealt(np.concatenate(pieces), np.concatenate(owners), n_clients))
    return tuple(shares)


def digit_sets(pool: Pool, generator: np.random.Generator, n_clients: int, digit_num: int) -> Dealt:
    """Every client holds `digit_num` consecutive classes (Lan, Guo, Yao 2022); a class is shuffled and dealt evenly to those
    that hold it, in training and test. Classes that nobody holds are left out.
    """
    held = _digit_sets(pool, n_clients, digit_num)
    holders = {c: [k for k, own in enumerate(held) if place in own] for place, c in enumerate(np.unique(pool.y[pool.train]))}
    holders = {c: clients for c, clients in holders.items() if clients}
    return _deal_pieces(pool, n_clients, holders, generator.permutation, f"--digit_num {digit_num}", generator)


def reference_blocks(pool: Pool, generator: np.random.Generator, n_clients: int, digit_num: int) -> Dealt:
    """As `digit_sets`, but with the blocks of the authors' code in place of classes: the images sorted by label and cut into
    as many equal parts as there are classes (on MNIST of 6,000 images, so that a block has some of the next digit). All its
    holders have a block *whole*: an image may be in several shares. Nothing is drawn.
    """
    held, n = _digit_sets(pool, n_clients, digit_num), len(np.unique(pool.y[pool.train]))
    shares = []
    for part, what in zip(pool.parts, ("training", "test"), strict=True):
        if len(part) < n:
            raise UserError(f"--partition reference_blocks: {len(part)} {what} images are fewer than the {n} blocks")
        blocks = np.array_split(part[np.argsort(pool.y[part], kind="stable")], n)
        shares.append([np.concatenate([blocks[place] for place in places]) for places in held])
    return tuple(shares)


def _digit_sets(pool: Pool, n_clients: int, digit_num: int) -> list[list[int]]:
    """The classes of each client, by their place among those there are. Of ten, the first five clients begin at 0, 6, 2, 8,
    4, the next five at 1, 7, 3, 9, 5, and so on; as many clients as there are classes begin at all of them."""
    n = len(np.unique(pool.y[pool.train]))
    if digit_num > n:
        raise UserError(f"--digit_num {digit_num}: the training images are of {n} classes; must be at most {n}")
    stride = n // 2 + 1
    cycle = n // math.gcd(n, stride)  # so many clients on, the places come again
    return [[(i * stride + i // cycle + digit) % n for digit in range(digit_num)] for i in range(n_clients)]


def writers(pool: Pool, generator: np.random.Generator, n_clients: int, test_share: float) -> Dealt:
    """Natural: whole writers, as many to one client as to another to within one, with all their training images. A client's
    test examples are a share of its own images that it does not train on; the test set, of other writers, is not dealt.
    """
    if pool.owners is None:
        raise UserError(
            "--partition writers: it is not known who wrote these images; must be data with writers, such as "
            "--dataset MNIST with MNIST/mnist_writer_ids.npz in --data_dir"
        )
    hands = pool.owners[pool.train]
    ids = np.unique(hands)
    if len(ids) < n_clients:
        raise UserError(f"--n_clients {n_clients}: more clients than the {len(ids)} writers; at most {len(ids)}")
    train, test = [], []
    for k, own in enumerate(np.array_split(generator.permutation(ids), n_clients)):
        images = generator.permutation(pool.train[np.isin(hands, own)])
        if len(images) < 2:
            raise UserError(f"--partition writers: client {k} has a single image and cannot hold one out; use fewer clients")
        n = _held_out(test_share, len(images))
        test.append(images[:n])
        train.append(images[n:])
    return train, test


def silos(pool: Pool, generator: np.random.Generator, n_clients: int, test_share: float) -> Dealt:
    """As they come: each owner of training examples is a client, with all of them. Its test examples are its own of the test
    set; where it has none there, a share of its training examples that it does not train on."""
    if pool.owners is None:
        raise UserError("--partition silos: it is not known whose these examples are; must be data that --clients can read")
    ids, owners = np.unique(pool.owners[pool.train], return_inverse=True)
    if lost := [name for k, name in enumerate(pool.clients) if k not in ids]:
        raise UserError(f"--reduced: keeps no training examples of {listed(lost)}; --reduced_draw random keeps of all alike")
    if len(ids) != n_clients:
        raise UserError(f"--n_clients {n_clients}: the training examples are of {len(ids)} clients; must be {len(ids)}")
    place = np.searchsorted(ids, pool.owners[pool.test]).clip(max=len(ids) - 1)
    owned = ids[place] == pool.owners[pool.test]
    train, test = Shares.dealt(pool.train, owners, n_clients), Shares.dealt(pool.test[owned], place[owned], n_clients)
    kept, held_out = list(train), list(test)
    for k in np.flatnonzero(test.sizes == 0):
        examples = generator.permutation(train[k])
        if len(examples) < 2:
            name = pool.clients[ids[k]] if pool.clients else f"client {k}"
            raise UserError(f"--partition silos: {name} has a single example, and no test examples; it cannot hold one out")
        n = _held_out(test_share, len(examples))
        held_out[k], kept[k] = examples[:n], examples[n:]
    return kept, held_out


def _held_out(share: float, n: int) -> int:
    """round(share n), at least 1 and never all."""
    return min(max(round(share * n), 1), n - 1)


PARTITIONS: dict[str, Callable] = {
    "dirichlet": dirichlet,
    "lda": lda,
    "iid": iid,
    "shards": shards,
    "classes": classes,
    "digit_sets": digit_sets,
    "reference_blocks": reference_blocks,
    "writers": writers,
    "silos": silos,
}


def parameters(partitioner: Callable) -> list[str]:
    """What a partitioner reads beside the pool and the generator."""
    return list(inspect.signature(partitioner).parameters)[2:]


def readers(parameter: str) -> tuple[str, ...]:
    """The partitioners that read it."""
    return tuple(name for name, partitioner in PARTITIONS.items() if parameter in parameters(partitioner))


def split(data, options) -> Split:
    """The split that `options` ask for, drawn from `options.split_seed` alone: the same for every algorithm and seed.

    First `--reduced` keeps a part of the training set, then `--public_share` is set aside, then `--partition` deals the
    rest and the test set, then `--validation` holds out a share of every client's training examples, from everyone; or all
    of it is read from `--partition_file`. Raises UserError for what cannot be had.
    """
    if options.partition_file:
        return from_file(Path(options.partition_file), data, options.n_clients)
    n_clients, n_kept = options.n_clients, int(options.reduced * data.n_train + 1e-9)
    kept = np.arange(data.n_train)
    if options.reduced_draw == "random":
        kept = streams.generator("reduced", options.split_seed).permutation(kept)
    if n_kept < 1:
        raise UserError(f"--reduced {options.reduced:g}: keeps none of the {data.n_train} training images of {data.name}")
    kept = kept[:n_kept]
    public = _public(np.array(data.public, dtype=np.int64) if options.public_dataset else kept, options)
    pool = Pool(
        data.y.cpu().numpy(),
        kept[~np.isin(kept, public)] if len(public) else kept,
        np.array(data.test, dtype=np.int64),
        None if data.owners is None else data.owners.cpu().numpy(),
        data.clients,
    )
    if not len(pool.parts[0]):
        raise UserError(
            f"--public_share {options.public_share:g}: leaves no training image of {data.name} to deal; use less than 1, or "
            "--public_dataset for the public examples"
        )
    smaller = {"reduced": options.reduced < 1, "public_share": len(public) and not options.public_dataset}
    told = " ".join(f"--{name} {getattr(options, name):g}" for name, is_read in smaller.items() if is_read)
    partitioner, counts = PARTITIONS[options.partition], []
    dealt = pool.parts[:1] if options.partition in readers("test_share") else pool.parts  # tests are the clients' own there
    for part, what in zip(dealt, ("training", "test"), strict=False):
        n = len(part)
        if not n and what == "test":
            raise UserError(
                f"--partition {options.partition}: {data.name} has no test set to deal; must be "
                f"{' or '.join(readers('test_share'))}, where each client holds out its own"
            )
        if n < n_clients:
            raise UserError(
                f"--n_clients {n_clients}: more clients than the {n} {what} images of {data.name} there are to deal"
                f"{f' with {told}' if told else ''}; at most {n}"
            )
        counts.append(counts_of(options.sizes, n, n_clients))
        if counts[-1].min() < 1:
            raise UserError(
                f"--sizes {','.join(f'{size:g}' for size in options.sizes)}: a client would get none of the {n} {what} "
                f"images; every size must be at least {1 / n:.2g}"
            )

    available = {**vars(options), "counts": tuple(counts)}
    read = {name: available[name] for name in parameters(partitioner)}
    train, test = partitioner(pool, streams.generator("split", options.split_seed), **read)
    train, test = Shares.of(train).sorted(), Shares.of(test).sorted()
    for shares, what in ((train, "training"), (test, "test")):
        if len(empty := np.flatnonzero(shares.sizes == 0)):
            raise UserError(
                f"--partition {options.partition}: client {empty[0]} would get no {what} image; use fewer clients"
            )
    held_out = _held_back(train, data.n_train, options)[train.values]
    return _named(data, Split(train.where(~held_out), train.where(held_out), test, public))


def _public(examples: np.ndarray, options) -> np.ndarray:
    """The part `--public_share` of these examples, int64 indices in ascending order. Raises UserError where it has none."""
    n = int(options.public_share * len(examples) + 1e-9)
    if options.public_share and not n:
        raise UserError(f"--public_share {options.public_share:g}: is none of {len(examples)} images; use a larger part")
    return np.sort(streams.generator("public", options.split_seed).permutation(examples)[:n])


def _named(data, split: Split) -> Split:
    """The same split with the clients' names, where each has examples of one who has a name, and of no other."""
    if not data.clients:
        return split
    owners = data.owners.cpu().numpy()[split.train.values]
    first = owners[split.train.offsets[:-1]]
    if len(np.unique(first)) < len(first) or (owners != first[split.train.owners]).any():
        return split
    return replace(split, names=tuple(data.clients[owner] for owner in first))


def _held_back(shares: Shares, n_train: int, options) -> np.ndarray:
    """Which training examples are kept for validation, from everyone who holds them, bool [n_train]: of each share
    round(F n_k) or more, at least 1, and never all. What another client has held out already comes first, so that of shares
    that overlap no more is kept than need be. Raises UserError for a share that would be kept whole."""
    kept = np.zeros(n_train, dtype=bool)
    if not options.validation:
        return kept
    for k, share in enumerate(shares):
        if len(share) < 2:
            raise UserError(
                f"--validation {options.validation:g}: client {k} has a single training image and cannot hold one out; "
                f"use fewer clients or --validation 0"
            )
        drawn = streams.generator("validation", options.split_seed, k).permutation(share)
        already_first = np.argsort(~kept[drawn], kind="stable")
        kept[drawn[already_first][: _held_out(options.validation, len(share))]] = True
    if len(whole := np.flatnonzero(shares.where(~kept[shares.values]).sizes == 0)):
        raise UserError(
            f"--validation {options.validation:g}: every image of client {whole[0]} is held out by it or by another that "
            f"holds it too; use a smaller share"
        )
    return kept


def arrays(data, split: Split) -> dict[str, np.ndarray]:
    """What a split is saved as (`split.npz`): train, validation and test, int32, indices into the data set (test examples
    follow the training examples), client after client; train_offsets, validation_offsets, test_offsets, int64 [K + 1]:
    client k has those from offsets[k] to offsets[k + 1]; public, int32, where there is such; the table of client x class;
    the names of the classes; the data's digest; whether an example is in several shares; the clients' names, where they
    have any."""
    shares = {}
    for name, part in zip(PARTS, split.parts, strict=True):
        shares |= {name: part.values.astype(np.int32), f"{name}_offsets": part.offsets}
    shares |= {"public": split.public.astype(np.int32)} if len(split.public) else {}
    return {
        **{"data": np.array(data.digest), "table": table(data, split), "classes": np.array(data.classes)},
        **{"overlapping": np.array(split.overlapping), **shares},
        **({"clients": np.array(split.names)} if split.names else {}),
    }


def _times(split: Split) -> Pair:
    """The examples that are dealt, and in how many shares each is."""
    return np.unique(np.concatenate([*(part.values for part in split.parts), split.public]), return_counts=True)


HAND_MADE = ("example", "client", "part")  # columns


def from_file(path: Path, data, n_clients: int) -> Split:
    """A split that was saved as `arrays`, perhaps edited by hand, or in the form of older runs, with an array train_K,
    validation_K and test_K of each client: the table is not read, a digest of the data need not be there. Or one made by
    hand, a .csv or .npz with `example`, `client`, `part`: an index into the data set, a number from 0 or a name, one of
    `PARTS`. Raises UserError where it is none, of other data, of other clients, or deals what is not there or something
    twice."""
    wrong, wanted = f"--partition_file {path}:", "must be the split.npz of a run, or have example, client and part"
    try:
        saved = _columns(path) if path.suffix.lower() == ".csv" else untrusted.arrays(path)
        overlapping = "overlapping" in saved and bool(saved["overlapping"])
        digest = str(saved["data"]) if "data" in saved else data.digest
        public = saved.get("public", np.zeros(0, np.int64))
        if set(HAND_MADE) <= set(saved):
            names, read = _hand_made(*(saved[name] for name in HAND_MADE), n_clients)
        else:
            names, read = tuple(map(str, saved.get("clients", ()))), [_pieces(saved, part) for part in PARTS]
        names = tuple(map(untrusted.escape, names))
    except RefusedError as error:
        raise UserError(f"{wrong} {error.reason}; {wanted}") from None
    except _HandMadeError as error:
        raise UserError(f"{wrong} {error}") from None
    except Exception as error:  # whatever a reader stumbles over in a file that may be anything
        raise UserError(f"{wrong} not to be read as a split; {wanted}") from error
    if digest != data.digest:
        raise UserError(f"{wrong} is a split of other data than those of --dataset {data.name} ({data.digest})")
    if (k := len(read[0][1]) - 1) != n_clients:
        raise UserError(f"{wrong} deals to {k} clients, and --n_clients is {n_clients}; add --n_clients {k}")
    parts = []
    # a test share may be of the training set (`writers`), a training share of the test set never
    for part, n, least, (pieces, offsets) in zip(
        PARTS, (data.n_train, data.n_train, data.test.stop), (1, 0, 1), read, strict=True
    ):
        for name, piece in pieces.items():
            _indices(piece, n, f"{wrong} {name}")
        values = np.concatenate([piece.astype(np.int64) for piece in pieces.values()])
        ends = offsets.dtype.kind in "iu" and (*offsets[:1].tolist(), *offsets[-1:].tolist()) == (0, len(values))
        if not ends or offsets.shape != (k + 1,) or (np.diff(offsets.astype(np.int64)) < 0).any():
            raise UserError(f"{wrong} {part}_offsets must be {k + 1} numbers from 0 up to {len(values)}")
        parts.append(Shares(values, offsets.astype(np.int64)).sorted())
        if parts[-1].sizes.min() < least:
            raise UserError(f"{wrong} {part} has no example of client {parts[-1].sizes.argmin()}, who needs at least one")
    _indices(public, len(data.y), f"{wrong} public")
    found = Split(*parts, np.sort(public.astype(np.int64)))
    found = replace(found, names=names) if len(names) == k else _named(data, found)
    indices, times = _times(found)
    if overlapping:  # then several clients may have it, but none twice, and nobody as a test example of a training one
        train, validation, test = found.parts
        own = np.concatenate([part.owners * len(data.y) + part.values for part in found.parts])
        learned = np.unique(np.concatenate([train.values, validation.values]))
        both = np.concatenate([learned, np.unique(test.values)])
        indices, times = max((np.unique(of, return_counts=True) for of in (own, both)), key=lambda counted: counted[1].max())
        indices %= len(data.y)
    if times.max() > 1:
        twice = indices[times.argmax()]
        raise UserError(f"{wrong} deals example {twice} {times.max()} times; an example must be in one share at most")
    return found


def _indices(given: np.ndarray, n: int, what: str) -> None:
    """Raises UserError where these are not indices below n."""
    proper = given.ndim == 1 and (given.dtype.kind in "iu" or not len(given))
    if not proper or (len(given) and not 0 <= given.min() <= given.max() < n):
        raise UserError(f"{what} must be a list of indices from 0 to {n - 1}")


class _HandMadeError(Exception):
    """What is wrong with a split made by hand."""


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of a table: `example` int64, all others text. Raises _HandMadeError for what is no such table."""
    try:
        table = tables.read(path)
    except ValueError as error:
        raise _HandMadeError(str(error)) from None
    columns: dict[str, Any] = dict(table.columns)
    for row, cell in enumerate(columns.get("example", ())):
        if not re.fullmatch(r"-?\d{1,18}", cell.strip()):
            words = f"holds {tables.shown(cell)}; must be a whole number"
            raise _HandMadeError(f"{table.place(row, 'example')} {words}")
    if "example" in columns:
        columns["example"] = np.array(list(map(int, columns["example"])), np.int64)
    return {name: np.asarray(column) for name, column in columns.items()}


def _hand_made(
    examples: np.ndarray, clients: np.ndarray, parts: np.ndarray, n_clients: int
) -> tuple[tuple[str, ...], list[tuple]]:
    """The names of the clients, () where they are numbers, and of each part what `_pieces` returns. The numbers of clients
    are held against `n_clients` before anything is made that is as large as they say."""
    if not examples.shape == clients.shape == parts.shape == (len(examples),):
        raise _HandMadeError("example, client and part must be as long as each other")
    try:
        clients, parts = words("client", clients.tolist()), words("part", parts.tolist())
    except ValueError as error:
        raise _HandMadeError(str(error)) from None
    if len(strange := np.flatnonzero(~np.isin(parts, PARTS))):
        raise _HandMadeError(
            f"part {parts[strange[0]]} of example {examples[strange[0]]}; must be one of {', '.join(PARTS)}"
        )
    if len(nobody := np.flatnonzero(clients == "")):
        raise _HandMadeError(f"example {examples[nobody[0]]} has no client")
    names = in_order(clients)
    try:
        one_spelling("client", names, {})
    except ValueError as error:
        raise _HandMadeError(str(error)) from None
    if numbered := all(name.isdecimal() for name in names):
        highest = max(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
        if len(highest) > 18 or int(highest) >= n_clients:
            which = f"--n_clients {n_clients} has clients 0 .. {n_clients - 1}"
            raise _HandMadeError(f"deals to client {tables.shown(highest)}, and {which}")
        there = set(map(int, names))
        if lost := next((k for k in range(int(highest)) if k not in there), None):
            raise _HandMadeError(f"deals nothing to client {lost}")
        names = [str(k) for k in range(int(highest) + 1)]
    place = {name: k for k, name in enumerate(names)}
    owners = np.array([place[str(int(name)) if numbered else name] for name in clients.tolist()])
    shares = [Shares.dealt(examples[it], owners[it], len(names)) for it in (parts == part for part in PARTS)]
    read = [({f"example of part {part}": share.values}, share.offsets) for part, share in zip(PARTS, shares, strict=True)]
    return () if numbered else tuple(names), read


def _pieces(saved: Mapping[str, np.ndarray], part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays of a part by their names, which together are its `Shares.values`, and its offsets. Raises KeyError."""
    if part in saved:
        return {part: np.asarray(saved[part])}, np.atleast_1d(saved[f"{part}_offsets"])
    n_clients = sum(name.startswith(f"{PARTS[0]}_") for name in saved)
    pieces = {f"{part}_{k}": np.asarray(saved[f"{part}_{k}"]) for k in range(max(n_clients, 1))}
    return pieces, _offsets([piece.size for piece in pieces.values()])


def table(data, split: Split) -> np.ndarray:
    """Training examples by client and class, validation included: int64 [K, C]."""
    y, n_classes = data.y.cpu().numpy(), len(data.classes)
    cells = [part.owners * n_classes + y[part.values] for part in (split.train, split.validation)]
    counts = np.bincount(np.concatenate(cells), minlength=len(split.train) * n_classes)
    return counts.reshape(-1, n_classes)
