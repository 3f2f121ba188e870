"""Split the examples among clients: partitioners, pure functions of a pool of examples, a generator and flags.

A partitioner is a function `(pool, generator, ...) -> (training shares, test shares)` and a line in `PARTITIONS`. Its
further parameters name the flags that it reads (`n_clients`, `alpha`, ...), or `counts`: how many training and test examples
each client gets, two int64 [K], from `--sizes`. A flag that the chosen partitioner does not name is an error. Shares are K
arrays of indices into the data set, as a list or as `Shares`, which needs a single array for any number of clients. A
client's test share follows the same rule as its training share: both are samples of the client's own distribution.

Every client gets at least one training and one test example by construction; no partitioner draws again until the result
fits. An impossible split is a UserError.
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

Pair = tuple[np.ndarray, np.ndarray]  # arrays of the training and of the test set
Dealt = tuple[Sequence[np.ndarray], Sequence[np.ndarray]]  # shares of K clients, of the training and of the test set
STRATIFIED = 1e12  # from this alpha on, a Dirichlet draw equals its mean after rounding to whole examples


@dataclass(frozen=True, eq=False)
class Shares(Sequence):
    """Hold K arrays in a single array: client k has `shares[k]`, a view of `values` [n] from offsets[k] to offsets[k + 1].
    `values` are an array or a tensor, `offsets` int64 [K + 1]. So a million clients need two arrays instead of a million."""

    values: Any
    offsets: np.ndarray

    @classmethod
    def of(cls, shares: Sequence) -> "Shares":
        """Return K sequences of indices as `Shares` of int64; return `Shares` unchanged."""
        if isinstance(shares, cls):
            return shares
        arrays = [np.asarray(share, dtype=np.int64) for share in shares]
        return cls(np.concatenate(arrays or [np.zeros(0, np.int64)]), _offsets([len(array) for array in arrays]))

    @classmethod
    def dealt(cls, values: np.ndarray, owners: np.ndarray, n_clients: int) -> "Shares":
        """Return the shares of values [n], where `owners` int64 [n] is the client of each value; a client keeps its values
        in their given order."""
        return cls(values[np.argsort(owners, kind="stable")], _offsets(np.bincount(owners, minlength=n_clients)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, k: int | slice) -> Any:
        selection = range(len(self))[k]
        if isinstance(selection, int):
            return self.values[self.offsets[selection] : self.offsets[selection + 1]]
        if selection.step != 1:
            return Shares.of([self[i] for i in selection])
        offsets = self.offsets[selection.start : max(selection.start, selection.stop) + 1]
        return Shares(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def __iter__(self) -> Iterator:
        ends = self.offsets.tolist()
        return (self.values[start:end] for start, end in zip(ends, ends[1:], strict=False))

    @property
    def sizes(self) -> np.ndarray:
        """Return the number of values of each client, int64 [K]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """Return the client of each value, int64 [n]."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def sorted(self) -> "Shares":
        """Return the same shares, each in ascending order."""
        return Shares(self.values[np.lexsort((self.values, self.owners))], self.offsets)

    def followed_by(self, other: "Shares") -> "Shares":
        """Return these shares, then the shares of other clients."""
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return Shares(np.concatenate([self.values, other.values]), offsets)

    def where(self, mask: np.ndarray) -> "Shares":
        """Return each client's values where mask, bool [n], is True."""
        return Shares(self.values[mask], _offsets(mask)[self.offsets])


def _offsets(sizes: Sequence[int]) -> np.ndarray:
    """Return the offset at which each part begins, and the end of the last part: int64 [K + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


@dataclass(frozen=True)
class Pool:
    """Hold the examples to split: `train` and `test`, int64 indices into a data set; `y` int64 [n], the labels of the data
    set; `owners` int64 [n], the owner of each example (`Data.owners`), where known; and `clients`, the names of the owners
    where the owners are clients."""

    y: np.ndarray
    train: np.ndarray
    test: np.ndarray
    owners: np.ndarray | None = None
    clients: tuple[str, ...] = ()

    @property
    def parts(self) -> Pair:
        """Return the training and the test indices."""
        return self.train, self.test


PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Hold each client's examples as sorted int64 indices into a `Data`: K shares for training, validation and test, as
    `Shares` or as K arrays; and `public` int64 [n], the public examples, shared by all clients.

    No example is in two shares, except with `reference_blocks`; only a validation share may be empty. `names` are the
    clients' names; () where the clients have only numbers. `new`: the split of the new clients (`--new_clients`), which take
    no part in training; their numbers follow those of the other clients. `test_set` int64 [n]: the examples that
    `--test_reduced` keeps of the test set; None is all.
    """

    train: Shares
    validation: Shares
    test: Shares
    public: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    names: tuple[str, ...] = ()
    new: "Split | None" = None
    test_set: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in PARTS:
            object.__setattr__(self, name, Shares.of(getattr(self, name)))

    @property
    def parts(self) -> tuple[Shares, Shares, Shares]:
        """Return the training, validation and test shares."""
        return self.train, self.validation, self.test

    @property
    def everyone(self) -> "Split":
        """Return the split of all clients: those that train, then the new ones."""
        if self.new is None:
            return self
        parts = {name: getattr(self, name).followed_by(getattr(self.new, name)) for name in PARTS}
        return replace(self, **parts, names=self.names + self.new.names, new=None)

    @cached_property
    def overlapping(self) -> bool:
        """Return whether an example is in several shares."""
        return bool(_share_counts(self)[1].max() > 1)

    @cached_property
    def digest(self) -> str:
        """Return sixteen hexadecimal digits that identify this split: the digest of each share's length and indices, in
        eight bytes each."""
        sha = hashlib.sha256()
        for part in self.parts:
            sha.update(np.insert(part.values, part.offsets[:-1], part.sizes).astype("<i8"))
        if len(self.public):
            sha.update(self.public.astype("<i8"))
        if self.new:
            sha.update(f"new {self.new.digest}".encode())
        if self.test_set is not None:
            sha.update(b"test set")
            sha.update(self.test_set.astype("<i8"))
        return sha.hexdigest()[:16]


def whole_number(new_clients: int | float | Sequence[str], n_clients: int) -> int | Sequence[str]:
    """Return the value of `--new_clients`, with a whole number, at least 1, in place of a fraction of `n_clients`."""
    return max(int(new_clients * n_clients + 1e-9), 1) if isinstance(new_clients, float) else new_clients


def count_new(new_clients: int | Sequence[str]) -> int:
    """Return the number of clients of `--new_clients`: a number, or names."""
    return new_clients if isinstance(new_clients, int) else len(new_clients)


def n_dealt(options) -> int:
    """Return the number of clients that get examples: those that train, and the new ones."""
    return options.n_clients + count_new(options.new_clients)


def global_test(data, split: Split) -> np.ndarray:
    """Return the test set for all clients, int64 [n]: the test set of the data. For data with clients: the test examples
    that belong to no client, or, where there are none, the union of the test examples of the clients that train. With
    `--test_reduced`, the kept part of the test set."""
    everything = np.array(data.test, dtype=np.int64) if split.test_set is None else split.test_set
    if not data.clients:
        return everything
    owners = data.owners.cpu().numpy()[everything]
    if has_common_test(data):
        return everything[owners < 0]
    if 0 < len(split.names) < len(data.clients):
        everything = everything[np.isin(owners, [data.clients.index(name) for name in split.names])]
    return np.union1d(everything, split.test.values)


def has_common_test(data) -> bool:
    """Return whether there are test examples that belong to no client."""
    return not data.clients or bool((data.owners[data.test.start : data.test.stop] < 0).any())


def counts_of(sizes: Sequence[float] | None, n: int, n_clients: int) -> np.ndarray:
    """Return how many of n examples each client gets, int64 [K]: int(size * n); without sizes, all n, as evenly as possible.

    Where the sizes add up to 1, the first clients get one each of the examples that rounding leaves over.
    """
    sizes = np.full(n_clients, 1 / n_clients) if sizes is None else np.asarray(sizes, dtype=float)
    counts = (sizes * n + 1e-9).astype(np.int64)  # because 0.29 * 100 is 28.999...
    if sizes.sum() > 1 - 1e-9:
        counts[: n - counts.sum()] += 1
    return counts


def iid(pool: Pool, generator: np.random.Generator, counts: Pair) -> Dealt:
    """Shuffle and deal (McMahan et al. 2017). Every example is dealt where the sizes add up to 1."""
    return tuple(
        Shares(generator.permutation(part)[: sizes.sum()], _offsets(sizes))
        for part, sizes in zip(pool.parts, counts, strict=True)
    )


def dirichlet(pool: Pool, generator: np.random.Generator, counts: Pair, alpha: float) -> Dealt:
    """Draw a class mix p ~ Dirichlet(alpha * class frequencies) for each client, the same for training and test (Berdoz et
    al. 2022, reference code). Sizes are exact. Alpha inf (or above 1e12) is a stratified split: every client has the class
    mix of the whole, to within two examples per class. With alpha towards 0 each client has a single class, as long as
    examples of this class are left.

    The reference code rounds a stratified split in the same way for every client, so that its last client gets the remainder
    of all others' rounding; Chorus corrects the rounding from client to client.
    """
    totals = _class_totals(pool)
    prior = totals.sum(0) / totals.sum()
    mixes = None if alpha > STRATIFIED else _mixes(prior, alpha, len(counts[0]), generator)
    return tuple(
        _deal(pool.y, part, _per_class(total, mixes, sizes), generator)
        for part, total, sizes in zip(pool.parts, totals, counts, strict=True)
    )


def _class_totals(pool: Pool) -> np.ndarray:
    """Return how many examples of each class the training and the test part have: int64 [2, C]."""
    labels = [pool.y[part] for part in pool.parts]
    n_classes = 1 + int(max(y.max() for y in labels))
    return np.stack([np.bincount(y, minlength=n_classes) for y in labels])


def _mix(prior: np.ndarray, alpha: float, generator: np.random.Generator) -> np.ndarray:
    """Draw once from Dirichlet(alpha * prior), float [C]. Where floats overflow or underflow, return the limit: the prior,
    or a single class."""
    if alpha > STRATIFIED:
        return prior
    present = prior > 0
    mix = np.zeros_like(prior)
    mix[present] = generator.dirichlet(np.maximum(alpha * prior[present], 1e-300))
    if not np.isfinite(mix).all() or mix.sum() < 0.5:
        return np.eye(len(prior))[generator.choice(len(prior), p=prior)]
    return mix


def _mixes(prior: np.ndarray, alpha: float, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `_mix` n times, float [n, C]: in a single call where every draw fits into floats. The single call draws the same
    numbers."""
    state, present, mixes = generator.bit_generator.state, prior > 0, np.zeros((n, len(prior)))
    mixes[:, present] = generator.dirichlet(np.maximum(alpha * prior[present], 1e-300), n)
    if np.isfinite(mixes).all() and mixes.sum(1).min() >= 0.5:
        return mixes
    generator.bit_generator.state = state
    return np.stack([_mix(prior, alpha, generator) for _ in range(n)])


def _per_class(remaining: np.ndarray, mixes: np.ndarray | None, sizes: np.ndarray) -> np.ndarray:
    """Return how many examples of each class every client gets, int64 [K, C]; the rows add up to `sizes`.

    The client's mix (without mixes: the mix of all remaining examples) times its size is rounded with a carry to the next
    class, and capped by the remaining examples of the class. A shortfall is filled from class 0 upward.
    """
    remaining = remaining.copy()
    counts = np.zeros((len(sizes), len(remaining)), np.int64) if mixes is None else _rounded(mixes, sizes[:, None])
    for n, row in zip(sizes, counts, strict=True):
        if mixes is None:
            row[:] = _rounded(remaining / remaining.sum(), n)
        np.minimum(row, remaining, out=row)
        if row.sum() < n:
            for c in range(len(remaining)):
                row[c] += min(n - row.sum(), remaining[c] - row[c])
        remaining -= row
    return counts


def _rounded(mix: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Return whole parts of n in the proportions of `mix` (whose last axis adds up to 1), rounded with a carry to the next
    part."""
    bounds = np.floor(np.cumsum(mix, axis=-1) * n + 0.5).astype(np.int64)
    bounds[..., -1:] = n
    return np.diff(bounds, prepend=0)


def lda(pool: Pool, generator: np.random.Generator, n_clients: int, alpha: float) -> Dealt:
    """Draw each class's parts of the clients q ~ Dirichlet(alpha), the same for training and test (latent Dirichlet
    allocation, as in FedGKT's experiments, He et al. 2020). Every example is dealt; sizes are unequal, more so for smaller
    alpha.

    The reference code sets the part of a full client to zero and draws everything again until each client has 10 examples.
    Chorus draws once: a client without an example gets one, of the class with the client's largest part among the classes
    that another client can spare.
    """
    equal = np.full(n_clients, 1 / n_clients)
    totals = _class_totals(pool)
    parts = np.stack([_mix(equal, alpha * n_clients, generator) for _ in totals[0]])  # [C, K]
    # each class is rounded in its own order of clients; a common order would round up the same clients in every class
    orders = [generator.permutation(n_clients) for _ in parts]
    shares = []
    for examples, total in zip(pool.parts, totals, strict=True):
        per_class = np.zeros((n_clients, len(parts)), dtype=np.int64)
        for c, (part, order, n) in enumerate(zip(parts, orders, total, strict=True)):
            per_class[order, c] = _rounded(part[order], n)
        _fill_empty_clients(per_class, parts)
        shares.append(_deal(pool.y, examples, per_class, generator))
    return tuple(shares)


def _fill_empty_clients(per_class: np.ndarray, parts: np.ndarray) -> None:
    """Change each row of zeros of int64 [K, C] to hold one example. The class is the class with the row's largest part,
    float [C, K], that another row can spare. The giver is the first row with the most examples of the class among the rows
    with more than one example in all."""
    sizes = per_class.sum(1).tolist()
    if min(sizes):
        return
    holders = [np.flatnonzero(column) for column in per_class.T]
    spare = [
        list(zip((-per_class[clients, c]).tolist(), clients.tolist(), strict=True)) for c, clients in enumerate(holders)
    ]
    for heap in spare:
        heapq.heapify(heap)
    for k in [k for k, size in enumerate(sizes) if not size]:
        for c in np.argsort(-parts[:, k], kind="stable"):
            while spare[c] and sizes[spare[c][0][1]] == 1:
                heapq.heappop(spare[c])
            if spare[c]:
                break
        negative_count, giver = heapq.heappop(spare[c])
        if negative_count < -1:
            heapq.heappush(spare[c], (negative_count + 1, giver))
        sizes[giver] -= 1
        per_class[giver, c] -= 1
        per_class[k, c] += 1


def _deal(y: np.ndarray, part: np.ndarray, per_class: np.ndarray, generator: np.random.Generator) -> Shares:
    """Shuffle each class of a part once and deal the class in client order: per_class int64 [K, C] -> K shares."""
    everyone, examples, owners = np.arange(len(per_class)), [], []
    for c, counts in enumerate(per_class.T):
        examples.append(generator.permutation(part[y[part] == c])[: counts.sum()])
        owners.append(np.repeat(everyone, counts))
    return Shares.dealt(np.concatenate(examples), np.concatenate(owners), len(per_class))


def shards(pool: Pool, generator: np.random.Generator, n_clients: int, shard_per_user: int) -> Dealt:
    """Sort by label, cut every class into shards, and deal `shard_per_user` shards to each client; the test set is cut and
    dealt with the same labels (Oh, Kim, Yun 2022, FedBABU's reference code, after McMahan et al. 2017).

    The K s shards are spread evenly over the classes; classes drawn at random get one each of the remainder (the reference
    code accepts only numbers without a remainder). Shards are dealt at random, so that a client may hold two shards of a
    class: s shards, not s classes. Every example is dealt, except test examples of a class without training examples.
    """
    present = np.unique(pool.y[pool.train])
    n_shards, n_classes = n_clients * shard_per_user, len(present)
    lowest, highest = -(-n_classes // n_clients), min(map(len, pool.parts)) // n_clients
    if not lowest <= shard_per_user <= highest:
        raise UserError(
            f"--shard_per_user {shard_per_user}: gives {n_shards} shards for --n_clients {n_clients}; each of {n_classes} "
            f"classes needs a shard, each shard a training and a test image; must be {lowest} to {highest}"
        )
    n_of = np.full(n_classes, n_shards // n_classes)  # number of shards per class
    n_of[generator.permutation(n_classes)[: n_shards % n_classes]] += 1
    labels = generator.permutation(np.repeat(present, n_of))
    owners = np.repeat(np.arange(n_clients), shard_per_user)  # client of shard i, whose label is labels[i]
    holders = {c: owners[labels == c] for c in present}
    return _deal_pieces(pool, n_clients, holders, np.sort, f"--shard_per_user {shard_per_user}", generator)


def classes(pool: Pool, generator: np.random.Generator, n_clients: int, classes_per_client: int) -> Dealt:
    """Give every client exactly `classes_per_client` classes, drawn at random among the classes that the fewest clients hold
    so far. Each class is shuffled and dealt evenly to its holders, in training and test. Where K k is less than the number
    of classes, some classes belong to no client; otherwise every example is dealt, except test examples of a class without
    training examples."""
    present = np.unique(pool.y[pool.train])
    if classes_per_client > len(present):
        raise UserError(
            f"--classes_per_client {classes_per_client}: the training images have {len(present)} classes; "
            f"must be at most {len(present)}"
        )
    holders: dict[int, list[int]] = {c: [] for c in present}
    for k in range(n_clients):
        fewest_first = np.lexsort((generator.random(len(present)), [len(members) for members in holders.values()]))
        for c in present[fewest_first[:classes_per_client]]:
            holders[c].append(k)
    holders = {c: clients for c, clients in holders.items() if clients}
    flag = f"--classes_per_client {classes_per_client}"
    return _deal_pieces(pool, n_clients, holders, generator.permutation, flag, generator)


def _deal_pieces(
    pool: Pool,
    n_clients: int,
    holders: Mapping[int, Sequence[int]],
    arrange: Callable[[np.ndarray], np.ndarray],
    flag: str,
    generator: np.random.Generator,
) -> Dealt:
    """Order each class's examples by `arrange`, cut the class as evenly as possible into a piece for each of its holders
    {class: clients}, and deal the pieces at random. Raise UserError on `flag`, a flag with its value, where a class has too
    few examples."""
    shares = []
    for part, kind in zip(pool.parts, ("training", "test"), strict=True):
        pieces, owners = [], []
        for c, clients in holders.items():
            examples, m = arrange(part[pool.y[part] == c]), len(clients)
            if len(examples) < m:
                raise UserError(
                    f"{flag}: class {c} would be cut into {m} pieces, but has {len(examples)} {kind} images; use a smaller "
                    "value or fewer clients"
                )
            pieces.append(examples)
            owners.append(np.repeat(generator.permutation(clients), counts_of(None, len(examples), m)))
        shares.append(Shares.dealt(np.concatenate(pieces), np.concatenate(owners), n_clients))
    return tuple(shares)


def digit_sets(pool: Pool, generator: np.random.Generator, n_clients: int, digit_num: int) -> Dealt:
    """Give every client `digit_num` consecutive classes (Lan, Guo, Yao 2022). Each class is shuffled and dealt evenly to its
    holders, in training and test. Classes without a holder are left out."""
    places_held = _digit_sets(pool, n_clients, digit_num)
    holders = {
        c: [k for k, places in enumerate(places_held) if place in places]
        for place, c in enumerate(np.unique(pool.y[pool.train]))
    }
    holders = {c: clients for c, clients in holders.items() if clients}
    return _deal_pieces(pool, n_clients, holders, generator.permutation, f"--digit_num {digit_num}", generator)


def reference_blocks(pool: Pool, generator: np.random.Generator, n_clients: int, digit_num: int) -> Dealt:
    """Split as `digit_sets`, but with the blocks of the authors' code instead of classes: the images sorted by label and cut
    into as many equal parts as there are classes (on MNIST parts of 6,000 images, so that a block holds some images of the
    next digit). Every holder of a block has the *whole* block: an image may be in several shares. Nothing is drawn."""
    places_held, n = _digit_sets(pool, n_clients, digit_num), len(np.unique(pool.y[pool.train]))
    shares = []
    for part, kind in zip(pool.parts, ("training", "test"), strict=True):
        if len(part) < n:
            raise UserError(f"--partition reference_blocks: {len(part)} {kind} images are fewer than the {n} blocks")
        blocks = np.array_split(part[np.argsort(pool.y[part], kind="stable")], n)
        shares.append([np.concatenate([blocks[place] for place in places]) for places in places_held])
    return tuple(shares)


def _digit_sets(pool: Pool, n_clients: int, digit_num: int) -> list[list[int]]:
    """Return the classes of each client, as places among the existing classes. Of ten classes, the first five clients begin
    at 0, 6, 2, 8, 4, the next five at 1, 7, 3, 9, 5, and so on; as many clients as there are classes begin at every
    class."""
    n = len(np.unique(pool.y[pool.train]))
    if digit_num > n:
        raise UserError(f"--digit_num {digit_num}: the training images have {n} classes; must be at most {n}")
    stride = n // 2 + 1
    cycle = n // math.gcd(n, stride)  # after this many clients, the start places repeat
    return [[(i * stride + i // cycle + digit) % n for digit in range(digit_num)] for i in range(n_clients)]


def writers(pool: Pool, generator: np.random.Generator, n_clients: int, test_share: float) -> Dealt:
    """Split by writer, a natural split: each client gets whole writers with all their training images; the numbers of
    writers differ by at most one. A client's test examples are a share of its own images that it does not train on; the test
    set, of other writers, is not dealt."""
    if pool.owners is None:
        raise UserError(
            "--partition writers: these data do not name the writers; use data with writers, such as "
            "--dataset MNIST with MNIST/mnist_writer_ids.npz in --data_dir"
        )
    writer_ids = pool.owners[pool.train]
    ids = np.unique(writer_ids)
    if len(ids) < n_clients:
        raise UserError(f"--n_clients {n_clients}: more clients than writers; must be at most {len(ids)}")
    train, test = [], []
    for k, own_ids in enumerate(np.array_split(generator.permutation(ids), n_clients)):
        images = generator.permutation(pool.train[np.isin(writer_ids, own_ids)])
        if len(images) < 2:
            raise UserError(f"--partition writers: client {k} has a single image and cannot hold one out; use fewer clients")
        n = _held_out(test_share, len(images))
        test.append(images[:n])
        train.append(images[n:])
    return train, test


def silos(pool: Pool, generator: np.random.Generator, n_clients: int, test_share: float) -> Dealt:
    """Keep the data's own split: each owner of training examples is a client with all of them. The client's test examples
    are its own examples of the test set; a client without test examples holds out a share of its training examples."""
    if pool.owners is None:
        raise UserError("--partition silos: these data do not name the clients; use data that --clients can read")
    ids, owners = np.unique(pool.owners[pool.train], return_inverse=True)
    if missing := [name for k, name in enumerate(pool.clients) if k not in ids]:
        raise UserError(f"--reduced: keeps no training examples of {listed(missing)}; use --reduced_draw random")
    if len(ids) != n_clients:
        raise UserError(f"--n_clients {n_clients}: the data have {len(ids)} clients; must be at most {len(ids)}")
    positions = np.searchsorted(ids, pool.owners[pool.test]).clip(max=len(ids) - 1)
    owned = ids[positions] == pool.owners[pool.test]
    train, test = Shares.dealt(pool.train, owners, n_clients), Shares.dealt(pool.test[owned], positions[owned], n_clients)
    training, held_out = list(train), list(test)
    for k in np.flatnonzero(test.sizes == 0):
        examples = generator.permutation(train[k])
        if len(examples) < 2:
            name = pool.clients[ids[k]] if pool.clients else f"client {k}"
            raise UserError(
                f"--partition silos: {name} has a single example and no test examples, so it cannot hold one out; remove "
                "this client"
            )
        n = _held_out(test_share, len(examples))
        held_out[k], training[k] = examples[:n], examples[n:]
    return training, held_out


def _held_out(share: float, n: int) -> int:
    """Return round(share n), at least 1 and at most n - 1."""
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
    """Return the names of the parameters of a partitioner after the pool and the generator."""
    return list(inspect.signature(partitioner).parameters)[2:]


def readers(parameter: str) -> tuple[str, ...]:
    """Return the names of the partitioners that read a parameter."""
    return tuple(name for name, partitioner in PARTITIONS.items() if parameter in parameters(partitioner))


def split(data, options) -> Split:
    """Return the split of `options`, drawn from `options.split_seed` alone: the same split for every algorithm and seed.

    First `--reduced` keeps a part of the training set and `--test_reduced` of the test set; then `--public_share` takes the
    public examples; then `--partition` deals the rest and the test set; `--new_clients` sets clients apart; then
    `--validation` holds out a share of every other client's training examples, for all clients. With `--partition_file`,
    the whole split comes from the file. Raise UserError for an impossible split.
    """
    if options.partition_file:
        return from_file(Path(options.partition_file), data, options.n_clients, options.new_clients)
    n_clients, n_kept = n_dealt(options), int(options.reduced * data.n_train + 1e-9)
    kept = np.arange(data.n_train)
    if options.reduced_draw == "random":
        kept = streams.generator("reduced", options.split_seed).permutation(kept)
    if n_kept < 1:
        raise UserError(f"--reduced {options.reduced:g}: keeps none of the {data.n_train} training images of {data.name}")
    kept = kept[:n_kept]
    public = _public(np.array(data.public, dtype=np.int64) if options.public_dataset else kept, options)
    test_set = _test_set(data, options)
    pool = Pool(
        data.y.cpu().numpy(),
        kept[~np.isin(kept, public)] if len(public) else kept,
        np.array(data.test, dtype=np.int64) if test_set is None else test_set,
        None if data.owners is None else data.owners.cpu().numpy(),
        data.clients,
    )
    if not len(pool.parts[0]):
        raise UserError(
            f"--public_share {options.public_share:g}: leaves no training image of {data.name} for the clients; use less "
            "than 1, or "
            "--public_dataset for the public examples"
        )
    smaller = {"reduced": options.reduced < 1, "public_share": len(public) and not options.public_dataset}
    smaller["test_reduced"] = test_set is not None
    flags = " ".join(f"--{name} {getattr(options, name):g}" for name, is_used in smaller.items() if is_used)
    if options.partition == "silos":
        pool = _some_silos(pool, options)
    partitioner, counts = PARTITIONS[options.partition], []
    mix = None
    if options.size_alpha != math.inf:
        equal, draw = np.full(n_clients, 1 / n_clients), streams.generator("sizes", options.split_seed)
        mix = _mix(equal, options.size_alpha * n_clients, draw)
    # partitioners that read test_share hold test examples out of the training set
    dealt = pool.parts[:1] if options.partition in readers("test_share") else pool.parts
    for part, kind in zip(dealt, ("training", "test"), strict=False):
        n = len(part)
        if not n and kind == "test":
            raise UserError(
                f"--partition {options.partition}: {data.name} has no test set to split; must be "
                f"{' or '.join(readers('test_share'))}, where each client holds out its own"
            )
        if n < n_clients:
            raise UserError(
                f"--n_clients {n_clients}: more clients than {kind} images of {data.name}"
                f"{f' with {flags}' if flags else ''}; must be at most {n}"
            )
        counts.append(counts_of(options.sizes, n, n_clients) if mix is None else 1 + _rounded(mix, n - n_clients))
        if counts[-1].min() < 1:
            raise UserError(
                f"--sizes {','.join(f'{size:g}' for size in options.sizes)}: a client would get none of the {n} {kind} "
                f"images; each size must be at least {1 / n:.2g}"
            )

    available = {**vars(options), "n_clients": n_clients, "counts": tuple(counts)}
    arguments = {name: available[name] for name in parameters(partitioner)}
    train, test = partitioner(pool, streams.generator("split", options.split_seed), **arguments)
    train, test = Shares.of(train).sorted(), Shares.of(test).sorted()
    for shares, kind in ((train, "training"), (test, "test")):
        if len(empty := np.flatnonzero(shares.sizes == 0)):
            raise UserError(
                f"--partition {options.partition}: client {empty[0]} would get no {kind} image; use fewer clients"
            )
    none = Shares(train.values[:0], np.zeros_like(train.offsets))
    draw = streams.generator("new clients", options.split_seed) if options.partition == "silos" else None
    dealt = _with_new(_named(data, Split(train, none, test, public, test_set=test_set)), options.new_clients, draw)
    train = dealt.train
    held_out = _held_back(train, data.n_train, options)[train.values]
    return replace(dealt, train=train.where(~held_out), validation=train.where(held_out))


def _with_new(split: Split, new_clients: int | Sequence[str], draw: np.random.Generator | None = None) -> Split:
    """Return a split of all clients with the new clients set apart: the named clients, or a number of clients. Without
    `draw`, a number means the last clients. Raise UserError for a client that does not exist."""
    if not (n := count_new(new_clients)):
        return split
    everyone = np.arange(len(split.train))
    if not isinstance(new_clients, int):
        new = _numbers(new_clients, split.names)
    else:
        new = np.sort((draw.permutation(everyone) if draw else everyone)[len(everyone) - n :])

    def part(clients: np.ndarray) -> dict[str, Any]:
        shares = {name: Shares.of([getattr(split, name)[k] for k in clients]) for name in PARTS}
        return {**shares, "names": tuple(split.names[k] for k in clients) if split.names else ()}

    return replace(split, **part(np.setdiff1d(everyone, new)), new=Split(**part(new)))


def _numbers(new_clients: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return the numbers of the named clients of `--new_clients`, in order. Raise UserError for an unknown name."""
    flag = f"--new_clients {','.join(new_clients)}:"
    if not names:
        raise UserError(f"{flag} the clients of this split have no names; use a number of clients")
    for name in new_clients:
        if name not in names:
            raise UserError(f"{flag} no client is called {name}; must be among {listed(names)}")
    return np.array([k for k, name in enumerate(names) if name in new_clients])


def _some_silos(pool: Pool, options) -> Pool:
    """Return a pool with the examples of `n_dealt` owners only: a random draw, with the named clients of
    `--new_clients`. Return the same pool where this is all owners, or more."""
    if pool.owners is None:
        return pool
    owners = np.arange(len(pool.clients)) if pool.clients else np.unique(pool.owners[pool.train])
    if n_dealt(options) >= len(owners):
        return pool
    named = np.zeros(0, np.int64) if isinstance(options.new_clients, int) else _numbers(options.new_clients, pool.clients)
    others = streams.generator("clients", options.split_seed).permutation(np.setdiff1d(owners, named))
    chosen = np.sort(np.concatenate([named, others[: n_dealt(options) - len(named)]]))
    train, test = (part[np.isin(pool.owners[part], chosen)] for part in pool.parts)
    numbers = np.full(owners.max() + 1, -1)
    numbers[chosen] = np.arange(len(chosen))
    renumbered = np.where(pool.owners < 0, -1, numbers[pool.owners])
    names = tuple(pool.clients[k] for k in chosen) if pool.clients else ()
    return replace(pool, train=train, test=test, owners=renumbered, clients=names)


def _test_set(data, options) -> np.ndarray | None:
    """Return the examples that `--test_reduced` keeps of the test set, int64 in ascending order, or None for all: a random
    draw. Of the data's own clients, each keeps the same fraction of its test examples, at least one. Raise UserError for
    another number of examples than the test set can have."""
    test, size = np.array(data.test, dtype=np.int64), options.test_reduced
    if size == 1:
        return None
    fraction = size if size < 1 else size / max(len(test), 1)
    if fraction > 1 or (size > 1 and size != int(size)) or int(fraction * len(test) + 1e-9) < 1:
        raise UserError(
            f"--test_reduced {size:g}: must be a fraction below 1, or a whole number of the {len(test)} test images of "
            f"{data.name}, and keep at least one"
        )
    order = streams.generator("test set", options.split_seed).permutation(test)
    if not data.clients:
        return np.sort(order[: int(fraction * len(test) + 1e-9)])
    owners = data.owners.cpu().numpy()[order]
    kept = [order[owners == owner] for owner in np.unique(owners)]
    return np.sort(np.concatenate([examples[: max(int(fraction * len(examples) + 1e-9), 1)] for examples in kept]))


def _public(examples: np.ndarray, options) -> np.ndarray:
    """Return the part `--public_share` of these examples, int64 indices in ascending order. Raise UserError where the part
    is empty."""
    n = int(options.public_share * len(examples) + 1e-9)
    if options.public_share and not n:
        raise UserError(
            f"--public_share {options.public_share:g}: rounds to 0 of {len(examples)} images; use a larger fraction"
        )
    return np.sort(streams.generator("public", options.split_seed).permutation(examples)[:n])


def _named(data, split: Split) -> Split:
    """Return the split with the clients' names, where each client has the examples of a single named owner and no two
    clients share an owner."""
    if not data.clients:
        return split
    owners = data.owners.cpu().numpy()[split.train.values]
    first = owners[split.train.offsets[:-1]]
    if len(np.unique(first)) < len(first) or (owners != first[split.train.owners]).any():
        return split
    return replace(split, names=tuple(data.clients[owner] for owner in first))


def _held_back(shares: Shares, n_train: int, options) -> np.ndarray:
    """Return which training examples are held out for validation, bool [n_train], for all clients that hold the example: of
    each share round(F n_k) or more, at least 1, and never all. Examples that another client has already held out come first,
    so that overlapping shares hold out no more than necessary. Raise UserError for a share of which every example would be
    held out."""
    held_out = np.zeros(n_train, dtype=bool)
    if not options.validation:
        return held_out
    for k, share in enumerate(shares):
        if len(share) < 2:
            raise UserError(
                f"--validation {options.validation:g}: client {k} has a single training image and cannot hold one out; "
                f"use fewer clients or --validation 0"
            )
        order = streams.generator("validation", options.split_seed, k).permutation(share)
        already_first = np.argsort(~held_out[order], kind="stable")
        held_out[order[already_first][: _held_out(options.validation, len(share))]] = True
    if len(emptied := np.flatnonzero(shares.where(~held_out[shares.values]).sizes == 0)):
        raise UserError(
            f"--validation {options.validation:g}: every image of client {emptied[0]} is held out by this client or by "
            "another client with the same image; use a smaller value"
        )
    return held_out


def arrays(data, split: Split) -> dict[str, np.ndarray]:
    """Return the arrays of `split.npz`: train, validation and test, int32, indices into the data set (test examples follow
    the training examples), client after client, the new clients last; train_offsets, validation_offsets, test_offsets, int64
    [K + 1]: client k has the indices from offsets[k] to offsets[k + 1]; public, int32, where there are public examples; the
    table of client x class; the names of the classes; the data's digest; whether an example is in several shares; the
    clients' names, where the clients have names; new, the number of new clients, where there are any; and test_set, int32,
    where the test set is reduced."""
    shares, everyone = {}, split.everyone
    for name, part in zip(PARTS, everyone.parts, strict=True):
        shares |= {name: part.values.astype(np.int32), f"{name}_offsets": part.offsets}
    shares |= {"public": split.public.astype(np.int32)} if len(split.public) else {}
    shares |= {"new": np.array(len(split.new.train))} if split.new else {}
    shares |= {} if split.test_set is None else {"test_set": split.test_set.astype(np.int32)}
    return {
        **{"data": np.array(data.digest), "table": table(data, everyone), "classes": np.array(data.classes)},
        **{"overlapping": np.array(everyone.overlapping), **shares},
        **({"clients": np.array(everyone.names)} if everyone.names else {}),
    }


def _share_counts(split: Split) -> Pair:
    """Return the examples in the split, and the number of shares that hold each example."""
    return np.unique(np.concatenate([*(part.values for part in split.parts), split.public]), return_counts=True)


HAND_MADE = ("example", "client", "part")  # columns of a split file that a user writes


def from_file(path: Path, data, n_clients: int, new_clients: int | Sequence[str] = 0) -> Split:
    """Load a split of `n_clients` clients that train, and of the new clients, from a file in one of three forms. First: a
    file of `arrays`, perhaps edited; the table is ignored, the digest of the data is optional. Second: the form of older
    runs, with arrays train_K, validation_K and test_K for each client. Third: a .csv or .npz with the columns `example` (an
    index into the data set), `client` (a number from 0, or a name) and `part` (a name of `PARTS`). Raise UserError where the
    file is not a split, belongs to other data or other clients, or deals a missing example or an example twice."""
    where, expected = f"--partition_file {path}:", "must be the split.npz of a run, or have example, client and part"
    n_new = count_new(new_clients)
    n_clients += n_new
    try:
        saved = _columns(path) if path.suffix.lower() == ".csv" else untrusted.arrays(path)
        overlapping = "overlapping" in saved and bool(saved["overlapping"])
        digest = str(saved["data"]) if "data" in saved else data.digest
        public, test_set = saved.get("public", np.zeros(0, np.int64)), saved.get("test_set")
        if set(HAND_MADE) <= set(saved):
            names, shares_read = _from_columns(*(saved[name] for name in HAND_MADE), n_clients)
        else:
            names, shares_read = tuple(map(str, saved.get("clients", ()))), [_pieces(saved, part) for part in PARTS]
        names = tuple(map(untrusted.escape, names))
    except RefusedError as error:
        raise UserError(f"{where} {error.reason}; {expected}") from None
    except _HandMadeError as error:
        raise UserError(f"{where} {error}") from None
    except Exception as error:  # a file of any content can make its reader raise any error
        raise UserError(f"{where} cannot be read as a split; {expected}") from error
    if digest != data.digest:
        raise UserError(
            f"{where} is a split of other data than --dataset {data.name} ({data.digest}); use a split of these data"
        )
    if (k := len(shares_read[0][1]) - 1) != n_clients:
        beside = f" with --new_clients {n_new}" if n_new else ""
        raise UserError(
            f"{where} has {k} clients, but --n_clients is {n_clients - n_new}{beside}; use --n_clients {k - n_new}{beside}"
        )
    parts = []
    # a test share may hold training examples (`writers`); a training share never holds test examples
    for part, n, minimum, (pieces, offsets) in zip(
        PARTS, (data.n_train, data.n_train, data.test.stop), (1, 0, 1), shares_read, strict=True
    ):
        for name, piece in pieces.items():
            _check_indices(piece, n, f"{where} {name}")
        values = np.concatenate([piece.astype(np.int64) for piece in pieces.values()])
        ends = offsets.dtype.kind in "iu" and (*offsets[:1].tolist(), *offsets[-1:].tolist()) == (0, len(values))
        if not ends or offsets.shape != (k + 1,) or (np.diff(offsets.astype(np.int64)) < 0).any():
            raise UserError(f"{where} {part}_offsets must be {k + 1} numbers from 0 up to {len(values)}")
        parts.append(Shares(values, offsets.astype(np.int64)).sorted())
        if parts[-1].sizes.min() < minimum:
            raise UserError(
                f"{where} {part} has no example of client {parts[-1].sizes.argmin()}; each client needs at least one"
            )
    _check_indices(public, len(data.y), f"{where} public")
    if test_set is not None:
        _check_indices(test_set, data.test.stop, f"{where} test_set")
        test_set = np.sort(test_set.astype(np.int64))
    result = Split(*parts, np.sort(public.astype(np.int64)), test_set=test_set)
    result = replace(result, names=names) if len(names) == k else _named(data, result)
    indices, times = _share_counts(result)
    # clients may share an example; no client has an example twice, and no training example is a test example
    if overlapping:
        train, validation, test = result.parts
        by_client = np.concatenate([part.owners * len(data.y) + part.values for part in result.parts])
        training = np.unique(np.concatenate([train.values, validation.values]))
        by_use = np.concatenate([training, np.unique(test.values)])
        indices, times = max(
            (np.unique(indices_of, return_counts=True) for indices_of in (by_client, by_use)), key=lambda pair: pair[1].max()
        )
        indices %= len(data.y)
    if times.max() > 1:
        repeated = indices[times.argmax()]
        raise UserError(
            f"{where} contains example {repeated} {times.max()} times; an example must belong to at most one client and part"
        )
    return _with_new(result, new_clients)


def _check_indices(indices: np.ndarray, n: int, where: str) -> None:
    """Raise UserError where these are not indices below n; the message begins with `where`."""
    is_valid = indices.ndim == 1 and (indices.dtype.kind in "iu" or not len(indices))
    if not is_valid or (len(indices) and not 0 <= indices.min() <= indices.max() < n):
        raise UserError(f"{where} must be a list of indices from 0 to {n - 1}")


class _HandMadeError(Exception):
    """Say what is wrong with a split that a user wrote."""


def _columns(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a table: `example` int64, all others text. Raise _HandMadeError where the file is not such a
    table."""
    try:
        table = tables.read(path)
    except ValueError as error:
        raise _HandMadeError(str(error)) from None
    columns: dict[str, Any] = dict(table.columns)
    for row, cell in enumerate(columns.get("example", ())):
        if not re.fullmatch(r"-?\d{1,18}", cell.strip()):
            problem = f"holds {tables.shown(cell)}; must be a whole number"
            raise _HandMadeError(f"{table.place(row, 'example')} {problem}")
    if "example" in columns:
        columns["example"] = np.array(list(map(int, columns["example"])), np.int64)
    return {name: np.asarray(column) for name, column in columns.items()}


def _from_columns(
    examples: np.ndarray, clients: np.ndarray, parts: np.ndarray, n_clients: int
) -> tuple[tuple[str, ...], list[tuple]]:
    """Return the names of the clients, () where the names are numbers, and for each part the result of `_pieces`. The
    numbers of clients are checked against `n_clients` before any array of this size is allocated."""
    if not examples.shape == clients.shape == parts.shape == (len(examples),):
        raise _HandMadeError("example, client and part must have the same length")
    try:
        clients, parts = words("client", clients.tolist()), words("part", parts.tolist())
    except ValueError as error:
        raise _HandMadeError(str(error)) from None
    if len(invalid := np.flatnonzero(~np.isin(parts, PARTS))):
        raise _HandMadeError(
            f"part {parts[invalid[0]]} of example {examples[invalid[0]]}; must be one of {', '.join(PARTS)}"
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
            allowed = f"--n_clients {n_clients} has clients 0 .. {n_clients - 1}"
            raise _HandMadeError(f"names client {tables.shown(highest)}, but {allowed}")
        present = set(map(int, names))
        if missing := next((k for k in range(int(highest)) if k not in present), None):
            raise _HandMadeError(f"has no example of client {missing}")
        names = [str(k) for k in range(int(highest) + 1)]
    index = {name: k for k, name in enumerate(names)}
    owners = np.array([index[str(int(name)) if numbered else name] for name in clients.tolist()])
    shares = [Shares.dealt(examples[mask], owners[mask], len(names)) for mask in (parts == part for part in PARTS)]
    pieces = [({f"example of part {part}": share.values}, share.offsets) for part, share in zip(PARTS, shares, strict=True)]
    return () if numbered else tuple(names), pieces


def _pieces(saved: Mapping[str, np.ndarray], part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the arrays of a part by name, which together are its `Shares.values`, and its offsets. Raise KeyError."""
    if part in saved:
        return {part: np.asarray(saved[part])}, np.atleast_1d(saved[f"{part}_offsets"])
    n_clients = sum(name.startswith(f"{PARTS[0]}_") for name in saved)
    pieces = {f"{part}_{k}": np.asarray(saved[f"{part}_{k}"]) for k in range(max(n_clients, 1))}
    return pieces, _offsets([piece.size for piece in pieces.values()])


def table(data, split: Split) -> np.ndarray:
    """Return the numbers of training examples by client and class, validation included: int64 [K, C]."""
    y, n_classes = data.y.cpu().numpy(), len(data.classes)
    cells = [part.owners * n_classes + y[part.values] for part in (split.train, split.validation)]
    counts = np.bincount(np.concatenate(cells), minlength=len(split.train) * n_classes)
    return counts.reshape(-1, n_classes)
