"""Who gets what: properties of every partitioner at every alpha and size, and the limits that can be written down."""

import hashlib
import math
import pickle
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from conftest import ROOT, line_of, needs_mnist, options_for
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import saves
import streams
from data import datasets
from data.datasets import from_arrays
from data.partition import (
    PARTITIONS,
    PARTS,
    Pool,
    Shares,
    Split,
    _fill_empty_clients,
    _mix,
    _mixes,
    _rounded,
    arrays,
    counts_of,
    from_file,
    global_test,
    has_common_test,
    parameters,
    readers,
    split,
    table,
)
from errors import UserError
from options import Options

ALPHAS = (1e-300, 1e-15, 0.01, 0.5, 1.0, 1e3, 1e12, 1e15, math.inf)
OWNED = ("silos",)  # where the data say who the clients are; in all others they are as many as asked for
RULES = [name for name in PARTITIONS if name not in OWNED]
OF_TRAINING = ("writers", "silos")  # their test shares are (here) of the training set; the test set is not dealt
OVERLAPPING = ("reference_blocks",)  # those that may give an example to several clients
ONE_EACH = ("dirichlet", "lda", "iid", "shards", "classes", "digit_sets")  # where there are as many clients as examples
APART = [name for name in RULES if name not in OVERLAPPING]  # no example in two shares; and they draw
WHOLE_CLASSES = ("classes", "digit_sets")  # where few clients leave classes out
WRITER_IDS = ROOT / "data" / "MNIST" / "mnist_writer_ids.npz"
modestly = settings(deadline=None, max_examples=150)


def labelled(train, test, n_classes=None, hands=None):
    """Data with these labels and images of one pixel; the training images are of `hands`, two each unless told otherwise."""
    train, test = np.asarray(train, dtype=np.int64), np.asarray(test, dtype=np.int64)
    n_classes = n_classes or 1 + int(max(train.max(), test.max()))
    parts = [(np.zeros((len(y), 1, 1, 1), dtype=np.uint8), y) for y in (train, test)]
    hands = np.arange(len(train)) // 2 if hands is None else np.asarray(hands)
    writers = torch.from_numpy(np.concatenate([hands, 1000 + np.arange(len(test))]))
    return replace(from_arrays("labelled", *parts, tuple(map(str, range(n_classes)))), owners=writers)


def in_turn(n_train, n_test, n_classes):
    return labelled(np.arange(n_train) % n_classes, np.arange(n_test) % n_classes, n_classes)


def class_table(y, shares, n_classes):
    return np.stack([np.bincount(y[share], minlength=n_classes) for share in shares])


def pool_of(train_y, test_y=None):
    """All there is of `labelled` data; training and test have the same labels unless told otherwise."""
    data = labelled(train_y, train_y if test_y is None else test_y)
    return Pool(data.y.numpy(), np.arange(data.n_train), np.arange(data.n_train, len(data.y)), data.owners.numpy())


def dealt(name, pool, seed=0, n_clients=2, counts=None, **flags):
    """A partitioner by itself -> (training shares, test shares); `counts` are of training and test alike, or a pair."""
    counts = counts or tuple(counts_of(None, len(part), n_clients) for part in pool.parts)
    counts = counts if isinstance(counts, tuple) else (np.array(counts),) * 2
    flags = {**vars(Options()), "n_clients": n_clients, "counts": counts, **flags}
    generator = streams.generator("test", seed)
    return PARTITIONS[name](pool, generator, **{flag: flags[flag] for flag in parameters(PARTITIONS[name])})


@st.composite
def problems(draw, partitions=tuple(PARTITIONS), alphas=ALPHAS):
    """(data, options) that can be had: any labels, some classes rare or absent, and any number of clients that can have an
    example each. Shards, classes and digit sets need enough of every class, a block an image; writers need two images each,
    one to train on."""
    name = draw(st.sampled_from(partitions))
    n_classes = draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    skew = draw(st.sampled_from([0.1, 1.0, 100.0]))
    n_pieces = draw(st.integers(1, 5))  # into which every class can be cut, where that matters
    needed = name in ("shards", *WHOLE_CLASSES, *OVERLAPPING)
    of_each = np.repeat(np.arange(n_classes), n_pieces) if needed else np.arange(0)
    train, test = (
        generator.permutation(
            np.concatenate([of_each, generator.choice(n_classes, n, p=generator.dirichlet(np.full(n_classes, skew)))])
        )
        for n in (draw(st.integers(2 if name in ("writers", "silos") else 1, 150)), draw(st.integers(1, 150)))
    )
    most, hands, flags = min(len(train), len(test)), None, {}
    if name == "shards":
        fitting = [
            (n_clients, n)
            for n_clients in range(1, len(of_each) + 1)
            for n in range(1, len(of_each) // n_clients + 1)
            if n_clients * n >= n_classes
        ]
        flags["n_clients"], flags["shard_per_user"] = draw(st.sampled_from(fitting))
    elif name == "classes":
        flags["classes_per_client"] = draw(st.integers(1, n_classes))
        flags["n_clients"] = draw(st.integers(1, len(of_each) // flags["classes_per_client"]))
    elif name in ("digit_sets", "reference_blocks"):
        flags["digit_num"] = draw(st.integers(1, n_classes))
        flags["n_clients"] = draw(st.integers(1, n_pieces if name == "digit_sets" else most))
    elif name in ("writers", "silos"):
        n_writers = draw(st.integers(1, len(train) // 2))
        of_each = np.repeat(np.arange(n_writers), 2)
        hands = generator.permutation(np.concatenate([of_each, generator.choice(n_writers, len(train) - len(of_each))]))
        flags["n_clients"] = draw(st.integers(1, min(n_writers, most))) if name == "writers" else n_writers
        flags["test_share"] = draw(st.sampled_from([1e-9, 0.2, 0.5, 0.999]))
    options = Options(
        partition=name,
        alpha=draw(st.sampled_from(alphas)),
        split_seed=draw(st.integers(0, 2**70)),
        **{"n_clients": draw(st.integers(1, most)), **flags},
    )
    data = labelled(train, test, n_classes, hands)
    if name not in (*ONE_EACH, *OF_TRAINING, *OVERLAPPING):  # a rule of which nothing is known here
        assume(can_be_had(data, options))
    return data, options


@st.composite
def sized_problems(draw):
    """(data, options, parts, whole): client k asks for parts[k] of `whole` equal pieces, into which the data divide."""
    parts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    whole = sum(parts) + draw(st.sampled_from([0, 0, 1, 7]))
    n_train, n_test = whole * draw(st.integers(1, 8)), whole * draw(st.integers(1, 8))
    options = Options(
        partition=draw(st.sampled_from(readers("counts"))),
        alpha=draw(st.sampled_from(ALPHAS)),
        n_clients=len(parts),
        sizes=tuple(part / whole for part in parts),
        split_seed=draw(st.integers(0, 1000)),
    )
    return in_turn(n_train, n_test, draw(st.integers(1, 10))), options, parts, whole


def assert_proper(data, result, options):
    """Nothing twice (of a client, where clients may have the same), nothing out of range, nobody without an example, indices
    sorted."""
    tests = (0, data.n_train) if options.partition in OF_TRAINING else (data.n_train, len(data.y))
    for shares, (least, end) in ((result.train, (0, data.n_train)), (result.test, tests)):
        assert len(shares) == options.n_clients
        assert all(len(share) >= 1 for share in shares)
        assert min(share.min() for share in shares) >= least
        assert max(share.max() for share in shares) < end
    assert len(result.validation) == options.n_clients
    every = [*result.train, *result.validation, *result.test]
    apart = zip(result.train, result.validation, result.test, strict=True) if options.partition in OVERLAPPING else [every]
    for shares in apart:
        assert len(np.unique(np.concatenate(shares))) == sum(map(len, shares))
    for share in every:
        assert share.dtype == np.int64
        assert (np.diff(share) > 0).all()


def can_be_had(data, options):
    try:
        return bool(split(data, options))
    except UserError:
        return False


def refusal(data, options):
    """The one line that refuses what is asked."""
    return line_of(split, data, options)


def split_or_refused(data, options):
    """The split, or None where a client has a single image and cannot hold one out."""
    try:
        return split(data, options)
    except UserError:
        assert options.validation
        return None


# --- every partitioner -------------------------------------------------------------------------------------------------


@modestly
@given(problems())
def test_shares_are_disjoint_in_range_and_not_empty(problem):
    data, options = problem
    assert_proper(data, split(data, options), options)


@modestly
@given(problems(partitions=APART))
def test_every_example_is_dealt(problem):
    data, options = problem
    result, y = split(data, options), data.y.numpy()
    every = np.concatenate([*result.train, *result.test])
    expected = np.arange(data.n_train if options.partition in OF_TRAINING else len(y))
    if options.partition in WHOLE_CLASSES:
        expected = np.flatnonzero(np.isin(y, y[every]))  # too few clients for all classes: those that are dealt are whole
    if options.partition == "classes":
        assert len(np.unique(y[every])) == min(options.n_clients * options.classes_per_client, len(data.classes))
    assert np.array_equal(np.sort(every), expected)


@modestly
@given(problems(partitions=readers("counts")))
def test_without_sizes_clients_get_equal_numbers_and_the_first_ones_the_rest(problem):
    data, options = problem
    drawn_split = split(data, options)
    for shares, n in ((drawn_split.train, data.n_train), (drawn_split.test, len(data.y) - data.n_train)):
        each, rest = divmod(n, options.n_clients)
        assert [len(share) for share in shares] == [each + 1] * rest + [each] * (options.n_clients - rest)


@modestly
@given(sized_problems())
def test_sizes_are_exactly_as_asked(problem):
    data, options, parts, whole = problem
    drawn_split = split(data, options)
    assert_proper(data, drawn_split, options)
    assert [len(share) * whole for share in drawn_split.train] == [part * data.n_train for part in parts]
    assert [len(share) * whole for share in drawn_split.test] == [part * (len(data.y) - data.n_train) for part in parts]


@modestly
@given(problems())
def test_the_same_split_seed_gives_the_same_split(problem):
    data, options = problem
    assert split(data, options).digest == split(data, options).digest


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("alpha", [0.5, math.inf])
def test_another_generator_gives_another_split(name, alpha):
    pool = pool_of(np.arange(200) % 5)
    once, again, other = (dealt(name, pool, seed, n_clients=4, alpha=alpha) for seed in (0, 0, 1))
    for part in (0, 1):  # training, test
        assert all(np.array_equal(a, b) for a, b in zip(once[part], again[part], strict=True))
        assert not all(np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(once[part], other[part], strict=True))


@pytest.mark.parametrize("name", RULES)
def test_the_pool_is_only_read(name):
    pool, counts = pool_of(np.arange(60) % 3), (np.array([20, 20, 20]), np.array([20, 20, 20]))
    for array in (pool.y, *pool.parts, pool.owners, *counts):
        array.setflags(write=False)
    dealt(name, pool, counts=counts, n_clients=3, alpha=0.5)


@pytest.mark.parametrize("name", RULES)
def test_nobody_gets_nothing(name):
    """A rule that cannot deal to so many clients is refused."""
    data, options = in_turn(64, 64, 4), Options(partition=name, n_clients=20, classes_per_client=1)
    try:
        drawn_split = split(data, options)
    except UserError as error:
        assert "use fewer clients" in str(error)
        assert name not in ONE_EACH
    else:
        assert_proper(data, drawn_split, options)


@pytest.mark.parametrize(("train", "test", "what"), [([2, 0, 3], [1, 1, 1], "training"), ([2, 1, 2], [1, 0, 2], "test")])
def test_a_rule_that_leaves_a_client_out_is_refused_by_name(train, test, what, monkeypatch):
    def deal(pool, generator):
        return [np.split(part, np.cumsum(n)[:-1]) for part, n in zip(pool.parts, (train, test), strict=True)]

    monkeypatch.setitem(PARTITIONS, "iid", deal)
    line = refusal(in_turn(5, 3, 1), Options(partition="iid", n_clients=3))
    assert line == f"--partition iid: client 1 would get no {what} image; use fewer clients"


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_as_many_clients_as_examples_get_one_each(name, alpha):
    """The tightest case: nothing is left to be drawn again until it fits."""
    data = in_turn(30, 30, 10)
    options = Options(partition=name, alpha=alpha, n_clients=30, shard_per_user=1, classes_per_client=1, digit_num=1)
    drawn_split = split(data, options)
    assert_proper(data, drawn_split, options)
    assert {len(share) for share in (*drawn_split.train, *drawn_split.test)} == {1}


@pytest.mark.parametrize("name", OF_TRAINING)
def test_as_many_clients_as_pairs_of_examples_train_on_one_and_keep_the_other(name):
    data, options = in_turn(30, 30, 5), Options(partition=name, n_clients=15)
    drawn_split = split(data, options)
    assert_proper(data, drawn_split, options)
    assert {len(share) for share in (*drawn_split.train, *drawn_split.test)} == {1}


@pytest.mark.parametrize("name", RULES)
def test_a_partitioner_reads_the_flags_that_it_names_and_no_others(name):
    data = in_turn(400, 200, 5)
    before = {"n_clients": 4, "partition": name, "alpha": 0.5}
    once = split(data, Options(**before)).digest
    others = {"alpha": 5.0, "sizes": (0.4, 0.3, 0.2, 0.1), "shard_per_user": 3, "classes_per_client": 3, "test_share": 0.4}
    others["digit_num"] = 2
    for flag, value in others.items():
        other = split(data, Options(**{**before, flag: value})).digest
        assert (other != once) == ({"sizes": "counts"}.get(flag, flag) in parameters(PARTITIONS[name])), flag


def test_readers_are_the_partitioners_that_name_a_flag():
    assert readers("alpha") == ("dirichlet", "lda")
    assert readers("counts") == ("dirichlet", "iid")
    assert readers("shard_per_user") == ("shards",)
    assert readers("digit_num") == ("digit_sets", "reference_blocks")
    assert readers("no_such_flag") == ()


# --- sizes -------------------------------------------------------------------------------------------------------------


@modestly
@example(100, [29])
@given(st.integers(1, 10_000), st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_counts_are_the_whole_parts_of_size_times_n(n, hundredths):
    """0.29 * 100 is 28.999... in floats and 29 in fractions."""
    requests = [Fraction(part, 100) for part in hundredths]
    if sum(requests) >= 1:
        requests = [Fraction(part, sum(hundredths) + 1) for part in hundredths]
    expected = [math.floor(size * n) for size in requests]
    assert counts_of([float(size) for size in requests], n, len(requests)).tolist() == expected


@modestly
@given(st.integers(1, 10_000), st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_sizes_that_add_up_to_one_deal_the_rest_to_the_first_clients(n, parts):
    requests = [Fraction(part, sum(parts)) for part in parts]
    whole = [math.floor(size * n) for size in requests]
    rest = n - sum(whole)
    expected = [count + (k < rest) for k, count in enumerate(whole)]
    assert counts_of([float(size) for size in requests], n, len(requests)).tolist() == expected


# --- iid ---------------------------------------------------------------------------------------------------------------


def test_iid_does_not_look_at_the_labels():
    counts = [10, 25, 15]
    item, _ = dealt("iid", pool_of(np.arange(50) % 5), counts=counts)
    other, _ = dealt("iid", pool_of(np.zeros(50)), counts=counts)
    assert all(np.array_equal(a, b) for a, b in zip(item, other, strict=True))


def test_iid_is_shuffled():
    (share,), _ = dealt("iid", pool_of(np.arange(50) % 5), counts=[25])
    assert not np.array_equal(np.sort(share), np.arange(25))


# --- dirichlet ---------------------------------------------------------------------------------------------------------


def assert_stratified(counted, totals, counts):
    """A client's count of a class differs from its proportional part by at most 1 + n_k sum_{j<k} 1/N_{j+1}.

    N_j is what is left when client j comes, and client j gets n_j/N_j of what is left of each class, plus a rounding error
    e_j that is the difference of two roundings, so |e_j| <= 1. By recursion the class's part in what is left is off by
    sum_{j<k} e_j/N_{j+1} at client k, which takes n_k of it and adds its own rounding.
    """
    n = totals.sum()
    left = n - np.concatenate([[0], np.cumsum(counts)])
    for k, row in enumerate(counted):
        bound = 1 + counts[k] * sum(1 / left[j + 1] for j in range(k))
        assert np.abs(row - totals * counts[k] / n).max() <= bound + 1e-9


@pytest.mark.parametrize("alpha", [1e13, 1e15, math.inf])
@modestly
@given(problem=problems(partitions=("dirichlet",), alphas=(math.inf,)))
def test_dirichlet_at_inf_is_stratified(alpha, problem):
    data, options = problem
    options = Options(partition="dirichlet", alpha=alpha, n_clients=options.n_clients)
    result, labels, n_classes = split(data, options), data.y.numpy(), len(data.classes)
    for shares in (result.train, result.test):
        counted = class_table(labels, shares, n_classes)
        assert_stratified(counted, counted.sum(0), counted.sum(1))


@modestly
@given(sized_problems())
def test_dirichlet_at_inf_is_stratified_for_unequal_sizes_too(problem):
    data, options, parts, whole = problem
    labels = data.y.numpy()[: data.n_train]
    counts = np.array(parts) * (data.n_train // whole)
    shares, _ = dealt("dirichlet", pool_of(labels), counts=(counts, counts))
    assert_stratified(
        class_table(labels, shares, len(data.classes)), np.bincount(labels, minlength=len(data.classes)), counts
    )


@pytest.mark.parametrize("n_clients", [2, 3, 5, 10, 20, 50, 100])
def test_dirichlet_at_inf_is_within_two_examples_of_proportional_on_mnist(n_clients):
    """With equal sizes the roundings do not pile up: for MNIST's class counts and the usual numbers of clients every client
    is within 2 of its part of a class. The counts do not depend on the draw."""
    totals = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    labels = np.repeat(np.arange(10), totals)
    counts = counts_of(None, len(labels), n_clients)
    shares, _ = dealt("dirichlet", pool_of(labels), counts=(counts, counts))
    assert np.abs(class_table(labels, shares, 10) - np.outer(counts, totals / len(labels))).max() < 2


def test_dirichlet_at_inf_is_even_where_all_divides():
    shares, _ = dealt("dirichlet", pool_of(np.arange(200) % 5), counts=[40] * 5)
    assert (class_table(np.arange(200) % 5, shares, 5) == 8).all()


def test_dirichlet_towards_zero_gives_one_class_each_while_it_lasts():
    pool = pool_of(np.repeat(np.arange(4), [100, 200, 300, 400]))
    counts = [3] * 30  # 90 examples: no class can run out, whoever wants it
    train, test = (class_table(pool.y, shares, 4) for shares in dealt("dirichlet", pool, counts=counts, alpha=1e-15))
    assert ((train == 3).sum(1) == 1).all()
    assert np.array_equal(train, test)  # and of the same class
    assert len(np.unique(train.argmax(1))) > 1  # which is not the same for all


@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_towards_zero_fills_up_only_from_a_class_that_ran_out(seed):
    labels = np.arange(120) % 6
    shares, _ = dealt("dirichlet", pool_of(labels), seed, counts=[15] * 8, alpha=1e-15)
    counted = class_table(labels, shares, 6)
    left = 20 - np.cumsum(counted, axis=0)
    for k, row in enumerate(counted):
        assert (row > 0).sum() == 1 or (left[k] == 0).any()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_spreads_mixes_as_alpha_times_the_class_frequencies_would(alpha):
    """E p_c^2 = q_c (alpha q_c + 1) / (alpha + 1) for p ~ Dirichlet(alpha q): the second moment tells alpha q from alpha.

    Few of many examples are dealt, so that no class runs out, and 2,000 to a client, so that rounding is of no weight.
    """
    totals = np.array([400_000, 300_000, 300_000])
    labels, n_clients = np.repeat(np.arange(3), totals), 100
    q = totals / totals.sum()
    train, _ = dealt("dirichlet", pool_of(labels), counts=[2000] * n_clients, alpha=alpha)
    squares = (class_table(labels, train, 3) / 2000) ** 2
    expected = q * (alpha * q + 1) / (alpha + 1)
    error = squares.std(0) / math.sqrt(n_clients)
    assert (np.abs(squares.mean(0) - expected) < 4 * error).all()


def test_the_class_frequencies_of_dirichlet_are_those_of_training_and_test_together():
    """At alpha 1e9 a mix is its mean to within sqrt(q (1 - q) / alpha) < 2e-5: of no weight in 30 examples."""
    pool = pool_of(np.repeat([0, 1], [100, 100]), np.repeat([0, 1], [300, 100]))
    train, test = dealt("dirichlet", pool, counts=[30, 30], alpha=1e9)
    assert [np.bincount(pool.y[share]).tolist() for share in (*train, *test)] == [[20, 10]] * 4


@modestly
@given(parts=st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any), n=st.integers(0, 1000))
def test_the_first_classes_of_a_mix_are_together_rounded_to_the_nearest_number(parts, n):
    """The carry: what rounding a class leaves over goes to the next, never more than a half."""
    ends = np.cumsum(_rounded(np.array(parts) / sum(parts), n))
    exact = [Fraction(sum(parts[: c + 1]) * n, sum(parts)) for c in range(len(parts))]
    assert all(abs(int(end) - part) <= Fraction(1, 2) + Fraction(1, 10**9) for end, part in zip(ends, exact, strict=True))
    assert ends[-1] == n


# --- lda ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e13, 1e15, math.inf])
@modestly
@given(problem=problems(partitions=("lda",), alphas=(math.inf,)))
def test_lda_at_inf_gives_every_client_the_same_of_every_class(alpha, problem):
    """A count is the difference of two roundings, so it is within 1 of the equal part; one example may be given away to a
    client that would have none."""
    data, options = problem
    drawn_split = split(data, Options(partition="lda", alpha=alpha, n_clients=options.n_clients))
    for shares in (drawn_split.train, drawn_split.test):
        counted = class_table(data.y.numpy(), shares, len(data.classes))
        assert np.abs(counted - counted.sum(0) / options.n_clients).max() <= 1 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_lda_towards_zero_gives_each_class_to_one_client(seed):
    """But for one example each that the clients without any are given."""
    labels, n_clients = np.arange(300) % 10, 6
    shares, _ = dealt("lda", pool_of(labels), seed, n_clients=n_clients, alpha=1e-15)
    counted = class_table(labels, shares, 10)
    given_away = counted.sum() - counted.max(0).sum()
    assert given_away <= n_clients - 1
    assert (counted.sum(1) >= 1).all()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_lda_spreads_classes_as_alpha_for_each_client_would(alpha):
    """E q_k^2 = (alpha + 1) / (K (K alpha + 1)) for q ~ Dirichlet(alpha, ..., alpha) over K clients."""
    n_classes, n_clients, n_each = 200, 5, 1000
    labels = np.repeat(np.arange(n_classes), n_each)
    train, _ = dealt("lda", pool_of(labels), n_clients=n_clients, alpha=alpha)
    squares = ((class_table(labels, train, n_classes) / n_each) ** 2).mean(0)  # over clients, for each class
    expected = (alpha + 1) / (n_clients * (n_clients * alpha + 1))
    assert abs(squares.mean() - expected) < 4 * squares.std() / math.sqrt(n_classes)


def test_it_is_not_the_same_clients_that_every_class_of_lda_rounds_up():
    """Six examples among four clients are 2, 1, 2 and 1 in an order drawn for the class: 1.5 each, of variance 1/4."""
    n_classes = 100
    train, _ = dealt("lda", pool_of(np.repeat(np.arange(n_classes), 6)), n_clients=4, alpha=math.inf)
    sizes = np.array([len(share) for share in train])
    assert (np.abs(sizes - 1.5 * n_classes) < 4 * math.sqrt(n_classes / 4)).all()


# --- shards ------------------------------------------------------------------------------------------------------------


@st.composite
def even_shards(draw):
    """(pool, flags, number of classes, shards a class, images a shard in training and test) where all divides; labels in
    any order."""
    n_classes, n_of, n_clients = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    n_of *= n_clients // math.gcd(n_clients, n_classes * n_of)  # as many shards for one client as for another
    each = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    labels = [generator.permutation(np.repeat(np.arange(n_classes), n_of * m)) for m in each]
    flags = {"n_clients": n_clients, "shard_per_user": n_classes * n_of // n_clients}
    return pool_of(*labels), flags, n_classes, n_of, each


@modestly
@given(even_shards(), st.integers(0, 1000))
def test_shards_are_as_many_for_each_class_and_each_client_and_of_the_same_labels_in_training_and_test(problem, seed):
    pool, flags, n_classes, n_of, each = problem
    parts = dealt("shards", pool, seed, **flags)
    train, test = (class_table(pool.y, shares, n_classes) for shares in parts)
    n_train, n_test = train // each[0], test // each[1]  # shards by client and class
    assert np.array_equal(train, n_train * each[0])  # whole ones
    assert np.array_equal(test, n_test * each[1])
    assert np.array_equal(n_train, n_test)
    assert (n_train.sum(0) == n_of).all()
    assert (n_train.sum(1) == flags["shard_per_user"]).all()


@modestly
@given(even_shards(), st.integers(0, 1000))
def test_a_shard_is_a_run_of_its_class_in_the_order_of_the_file(problem, seed):
    pool, flags, n_classes, _, each = problem
    pool = replace(pool, train=streams.generator("test", seed).permutation(pool.train))  # as of --reduced_draw random
    for shares, m in zip(dealt("shards", pool, seed, **flags), each, strict=True):
        owner = np.full(len(pool.y), -1)
        for k, share in enumerate(shares):
            owner[share] = k
        for c in range(n_classes):
            of_class = owner[(pool.y == c) & (owner >= 0)].reshape(-1, m)  # [shards, images a shard]
            assert (of_class == of_class[:, :1]).all()


@modestly
@given(problems(partitions=("shards",)))
def test_one_shard_a_client_cuts_every_class_as_evenly_as_can_be(problem):
    """With one shard each a client is a shard: as many a class, give or take one, and the longer pieces first."""
    data, options = problem
    n_clients = options.n_clients * options.shard_per_user
    result, y = split(data, replace(options, n_clients=n_clients, shard_per_user=1)), data.y.numpy()
    numbers = []
    for shares, begin, end in ((result.train, 0, data.n_train), (result.test, data.n_train, len(y))):
        by_class = [sorted((s for s in shares if y[s[0]] == c), key=lambda s: s[0]) for c in range(len(data.classes))]
        numbers.append([len(pieces) for pieces in by_class])
        for c, pieces in enumerate(by_class):
            of_class = begin + np.flatnonzero(y[begin:end] == c)
            cut = np.array_split(of_class, len(pieces))
            assert all(np.array_equal(a, b) for a, b in zip(pieces, cut, strict=True))
    assert numbers[0] == numbers[1]
    each, rest = divmod(n_clients, len(data.classes))
    assert sorted(numbers[0]) == [each] * (len(data.classes) - rest) + [each + 1] * rest
    labels = [[y[share[0]] for share in shares] for shares in (result.train, result.test)]
    assert labels[0] == labels[1]


def assert_rate(times, n, p):
    """So many of n independent tries, each with probability p, to within four standard deviations."""
    assert abs(times - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def test_shards_are_dealt_at_random_whatever_their_labels():
    """Two clients with two of the shards 0 0 1 1: the first has two of one class in 1 of 3 deals."""
    pool = pool_of(np.arange(40) % 2)
    firsts = [dealt("shards", pool, seed, n_clients=2, shard_per_user=2)[0][0] for seed in range(300)]
    assert_rate(sum(len(np.unique(pool.y[share])) == 1 for share in firsts), 300, 1 / 3)


def test_the_classes_with_a_shard_more_are_drawn_at_random():
    """Four shards of three classes: each class is the one with two in 1 of 3 deals."""
    pool = pool_of(np.arange(60) % 3)
    times = np.zeros(3)
    for seed in range(300):
        train, _ = dealt("shards", pool, seed, n_clients=4, shard_per_user=1)
        times[(class_table(pool.y, train, 3) > 0).sum(0).argmax()] += 1
    for n in times:
        assert_rate(n, 300, 1 / 3)


def test_which_shard_of_a_class_is_whose_is_drawn_apart_for_training_and_test():
    """One class, two clients: the first has the first half in 1 of 2 deals, of both sets in 1 of 4."""
    firsts = [dealt("shards", pool_of(np.zeros(20)), seed, shard_per_user=1) for seed in range(300)]
    in_train, in_test = np.array([[min(part[0]) in (0, 20) for part in parts] for parts in firsts]).T
    assert_rate(in_train.sum(), 300, 1 / 2)
    assert_rate(in_test.sum(), 300, 1 / 2)
    assert_rate((in_train & in_test).sum(), 300, 1 / 4)


# --- classes -----------------------------------------------------------------------------------------------------------


@modestly
@given(problems(partitions=("classes",)))
def test_classes_are_exactly_as_many_as_asked_the_same_in_training_and_test_and_shared_evenly(problem):
    data, options = problem
    result, y, n_classes = split(data, options), data.y.numpy(), len(data.classes)
    train, test = (class_table(y, shares, n_classes) for shares in (result.train, result.test))
    assert ((train > 0).sum(1) == options.classes_per_client).all()
    assert np.array_equal(train > 0, test > 0)
    n_holders = (train > 0).sum(0)
    assert n_holders.max() - n_holders.min() <= 1
    for counted in (train, test):
        for column in counted.T:
            held = column[column > 0]
            assert len(held) == 0 or held.max() - held.min() <= 1  # a class is dealt evenly to those that hold it


def test_the_classes_of_a_client_are_drawn_at_random():
    """Two of three classes: each pair in 1 of 3 deals; one class each of three: each order in 1 of 6."""
    pool, pairs, orders = pool_of(np.arange(60) % 3), Counter(), Counter()
    for seed in range(300):
        train, _ = dealt("classes", pool, seed, n_clients=1, classes_per_client=2)
        pairs[tuple(np.unique(pool.y[train[0]]))] += 1
        train, _ = dealt("classes", pool, seed, n_clients=3, classes_per_client=1)
        orders[tuple(int(pool.y[share[0]]) for share in train)] += 1
    assert len(pairs) == 3
    assert len(orders) == 6
    for times in pairs.values():
        assert_rate(times, 300, 1 / 3)
    for times in orders.values():
        assert_rate(times, 300, 1 / 6)


def test_a_class_is_shuffled_before_it_is_dealt():
    train, test = dealt("classes", pool_of(np.zeros(40)), classes_per_client=1)
    for share in (*train, *test):
        assert (np.diff(np.sort(share)) > 1).any()  # no run of the file


@pytest.mark.parametrize("name", ["shards", "classes"])
def test_a_class_that_nobody_trains_on_is_nobodys_to_be_tested_on(name):
    data = labelled(np.arange(40) % 2, np.arange(30) % 3)
    result, y = split(data, Options(partition=name, n_clients=2, shard_per_user=2, classes_per_client=2)), data.y.numpy()
    assert sorted(np.concatenate(result.test)) == [i for i in range(40, 70) if y[i] < 2]


# --- digit sets and blocks ---------------------------------------------------------------------------------------------

SETS = {  # of five clients
    2: [{0, 1}, {6, 7}, {2, 3}, {8, 9}, {4, 5}],
    3: [{0, 1, 2}, {6, 7, 8}, {2, 3, 4}, {8, 9, 0}, {4, 5, 6}],
    4: [{0, 1, 2, 3}, {6, 7, 8, 9}, {2, 3, 4, 5}, {8, 9, 0, 1}, {4, 5, 6, 7}],
}
# images of each digit in MNIST, to train and to test
OF_MNIST = (
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
)


def like_mnist(seed=0):
    """As many labels of each digit as MNIST has, in any order."""
    generator = np.random.default_rng(seed)
    return pool_of(*(generator.permutation(np.repeat(np.arange(10), of_each)) for of_each in OF_MNIST))


@pytest.mark.parametrize("digit_num", SETS)
def test_five_clients_hold_the_digits_of_the_authors(digit_num):
    pool = pool_of(np.arange(200) % 10, np.arange(60) % 10)
    for shares in dealt("digit_sets", pool, n_clients=5, digit_num=digit_num):
        assert [set(pool.y[share]) for share in shares] == SETS[digit_num]


@pytest.mark.parametrize("digit_num", SETS)
def test_the_blocks_are_six_thousand_images_in_the_order_of_their_labels_and_whole(digit_num):
    pool = like_mnist()
    parts = dealt("reference_blocks", pool, n_clients=5, digit_num=digit_num)
    for shares, part, n in zip(parts, pool.parts, (6000, 1000), strict=True):
        in_order = sorted(part.tolist(), key=lambda i: (pool.y[i], i))
        blocks = [in_order[n * d : n * (d + 1)] for d in range(10)]
        for share, digits in zip(shares, SETS[digit_num], strict=True):
            assert len(share) == n * digit_num
            assert set(share.tolist()) == set().union(*(blocks[d] for d in digits))
    train, _ = parts
    both = SETS[digit_num][0] & SETS[digit_num][2]
    assert len(np.intersect1d(train[0], train[2])) == 6000 * len(both), "the same images, not others of the digit"


def test_a_block_has_the_end_of_one_digit_and_the_beginning_of_the_next():
    """5,923 zeros leave room for 77 ones; block 1 has 6,000 of the 6,665 ones that are left."""
    pool = like_mnist()
    train, _ = dealt("reference_blocks", pool, n_clients=1, digit_num=1)
    assert np.bincount(pool.y[train[0]]).tolist() == [5923, 77]
    train, _ = dealt("reference_blocks", pool, n_clients=1, digit_num=3)
    assert np.bincount(pool.y[train[0]]).tolist() == [5923, 6742, 18000 - 5923 - 6742]


def test_the_blocks_are_cut_without_a_draw_and_from_what_is_kept():
    pool = like_mnist()
    once, again = (dealt("reference_blocks", pool, seed, n_clients=5, digit_num=2) for seed in (0, 1))
    assert all(np.array_equal(*shares) for part in (0, 1) for shares in zip(once[part], again[part], strict=True))
    train, test = dealt("reference_blocks", replace(pool, train=pool.train[::2]), n_clients=5, digit_num=2)
    assert {len(share) for share in train} == {6000}
    assert set(np.concatenate(train)) <= set(pool.train[::2])
    assert {len(share) for share in test} == {2000}


@modestly
@given(problems(partitions=("digit_sets",)))
def test_digit_sets_are_consecutive_apart_the_same_in_training_and_test_and_shared_evenly(problem):
    data, options = problem
    result, y, n_classes = split(data, options), data.y.numpy(), len(data.classes)
    assert_proper(data, result, options)
    train, test = (class_table(y, shares, n_classes) for shares in (result.train, result.test))
    assert np.array_equal(train > 0, test > 0)
    for row in train > 0:
        assert row.sum() == options.digit_num
        runs = [all(row[(c + d) % n_classes] for d in range(options.digit_num)) for c in range(n_classes)]
        assert any(runs)
    for counted in (train, test):
        for column in counted.T:
            held = column[column > 0]
            assert len(held) == 0 or held.max() - held.min() <= 1


def test_ten_clients_of_one_digit_have_all_ten_and_so_have_the_next_ten():
    pool = pool_of(np.arange(400) % 10)
    train, _ = dealt("digit_sets", pool, n_clients=20, digit_num=1)
    digits = [int(pool.y[share[0]]) for share in train]
    assert digits[:10] == [0, 6, 2, 8, 4, 1, 7, 3, 9, 5]
    assert sorted(digits[10:]) == list(range(10))
    for name in ("digit_sets", "reference_blocks"):
        train, test = dealt(name, pool, n_clients=10, digit_num=1)
        assert np.array_equal(np.sort(np.concatenate(train)), np.arange(400))
        assert np.array_equal(np.sort(np.concatenate(test)), np.arange(400, 800))


def test_digits_that_nobody_holds_are_nobodys_to_be_tested_on():
    pool = pool_of(np.arange(100) % 10)
    for name in ("digit_sets", "reference_blocks"):
        for shares in dealt(name, pool, n_clients=2, digit_num=3):
            assert set(pool.y[np.concatenate(shares)]) == {0, 1, 2, 6, 7, 8}


def test_a_digit_is_shuffled_before_it_is_dealt_and_named_by_its_place_among_those_there_are():
    pool = pool_of(np.tile([3, 8], 40))
    train, test = dealt("digit_sets", pool, n_clients=2, digit_num=2)
    for share in (*train, *test):
        assert set(pool.y[share]) == {3, 8}
        assert (np.diff(np.sort(share[pool.y[share] == 3])) > 2).any()  # no run of the file
    for name in ("digit_sets", "reference_blocks"):
        train, _ = dealt(name, pool, n_clients=2, digit_num=1)
        assert [set(pool.y[share]) for share in train] == [{3}, {8}]


@pytest.mark.parametrize("name", ["digit_sets", "reference_blocks"])
@pytest.mark.parametrize("n", [6, 10**24])
def test_more_digits_than_there_are_is_a_clear_line(name, n):
    line = refusal(in_turn(100, 30, 5), Options(partition=name, digit_num=n))
    assert line == f"--digit_num {n}: the training images have 5 classes; must be at most 5"


def test_a_digit_of_fewer_images_than_holders_is_a_clear_line():
    data = labelled([0] * 9 + [1], [0] * 5 + [1] * 5)
    line = refusal(data, Options(partition="digit_sets", digit_num=2))
    assert line.startswith("--digit_num 2: class 1 would be cut into 2 pieces, but has 1 training images")


def test_a_block_without_an_image_is_a_clear_line():
    """Ten blocks of three test images: seven are empty."""
    assert "3 test images are fewer than the 10 blocks" in refusal(
        labelled(np.arange(20) % 10, [0, 1, 2]), Options(partition="reference_blocks", n_clients=3, digit_num=1)
    )


# --- writers -----------------------------------------------------------------------------------------------------------


def assert_whole_writers(data, result, options):
    """No writer is two clients', none is left out, and the clients have as many of them to within one."""
    hands = data.owners.numpy()
    own = [
        np.unique(hands[np.concatenate(parts)]) for parts in zip(result.train, result.validation, result.test, strict=True)
    ]
    every = np.concatenate(own)
    assert np.array_equal(np.sort(every), np.unique(hands[: data.n_train]))
    assert max(map(len, own)) - min(map(len, own)) <= 1
    for train, held, test in zip(result.train, result.validation, result.test, strict=True):
        n = len(train) + len(held) + len(test)
        assert len(test) == min(max(round(options.test_share * n), 1), n - 1)


@modestly
@given(problems(partitions=("writers",)))
def test_writers_are_whole_and_their_test_images_are_a_share_of_their_own(problem):
    data, options = problem
    assert_whole_writers(data, split(data, options), options)


def test_writers_are_dealt_at_random():
    """Of four writers client 0 has each pair in 1 of 6 deals."""
    pool, pairs = pool_of(np.zeros(8)), Counter()
    for seed in range(300):
        train, test = dealt("writers", pool, seed)
        pairs[tuple(np.unique(pool.owners[[*train[0], *test[0]]]))] += 1
    assert len(pairs) == 6
    for times in pairs.values():
        assert_rate(times, 300, 1 / 6)


def test_the_test_images_of_a_client_are_drawn_at_random():
    """Of four images each is the one tested on in 1 of 4 deals."""
    tested = Counter(int(dealt("writers", pool_of(np.zeros(4)), s, n_clients=1)[1][0][0]) for s in range(300))
    assert sorted(tested) == [0, 1, 2, 3]
    for times in tested.values():
        assert_rate(times, 300, 1 / 4)


def test_writers_of_the_images_that_are_kept_are_dealt():
    data = in_turn(100, 40, 5)
    options = Options(partition="writers", n_clients=5, reduced=0.4)
    drawn_split = split(data, options)
    assert sorted(np.concatenate([*drawn_split.train, *drawn_split.test])) == list(range(40))


@needs_mnist
@pytest.mark.skipif(not WRITER_IDS.exists(), reason="the writers are not in data/MNIST")
def test_mnists_writers_in_fifty_clients():
    """539 people wrote the training images: 39 clients have 11 of them and 11 have 10."""
    with np.load(WRITER_IDS) as ids:
        hands = np.concatenate([ids["train_writer"], ids["test_writer"]]).astype(np.int64)
    data = replace(datasets.load("MNIST", datasets.Source(ROOT / "data")), owners=torch.from_numpy(hands))
    options = Options(partition="writers", n_clients=50, validation=0.1)
    drawn_split = split(data, options)
    assert_proper(data, drawn_split, options)
    assert_whole_writers(data, drawn_split, options)
    every = [
        np.concatenate(parts) for parts in zip(drawn_split.train, drawn_split.validation, drawn_split.test, strict=True)
    ]
    assert np.array_equal(np.sort(np.concatenate(every)), np.arange(60_000))
    assert Counter(len(np.unique(hands[own])) for own in every) == {11: 39, 10: 11}


# --- silos -------------------------------------------------------------------------------------------------------------


def brought(train_owners, test_owners, names=("a", "b", "c")):
    """Data that come by client: owners of the training and of the test examples."""
    data = labelled(np.arange(len(train_owners)) % 2, np.arange(len(test_owners)) % 2, 2)
    return replace(data, owners=torch.tensor([*train_owners, *test_owners]), clients=tuple(names))


def silos_of(data, **flags):
    return split(data, Options(**{"partition": "silos", "n_clients": len(data.clients), **flags}))


def test_a_silo_is_a_client_with_all_that_it_has():
    data = brought([2, 0, 1, 2, 0, 2], [1, 0, 2, 1])
    silos = silos_of(data)
    assert [share.tolist() for share in silos.train] == [[1, 4], [2], [0, 3, 5]]
    assert [share.tolist() for share in silos.test] == [[7], [6, 9], [8]]
    assert silos.names == ("a", "b", "c")
    assert not has_common_test(data)
    assert global_test(data, silos).tolist() == [6, 7, 8, 9]  # the union of what they have
    assert silos_of(data, split_seed=1).digest == silos.digest, "nothing is drawn"


def test_a_silo_without_test_examples_holds_out_its_own():
    data = brought([0] * 10 + [1] * 10 + [2] * 5, [1, 1])
    silos = silos_of(data, test_share=0.3)
    assert silos.test.sizes.tolist() == [3, 2, 2]  # round(0.3 * 5) = 2
    assert silos.test[1].tolist() == [25, 26]
    for k, whole in ((0, range(10)), (2, range(20, 25))):
        assert np.array_equal(np.union1d(silos.train[k], silos.test[k]), whole)
        assert not np.intersect1d(silos.train[k], silos.test[k]).size
    assert np.array_equal(global_test(data, silos), np.union1d([25, 26], silos.test.values))
    assert silos_of(data, test_share=0.3, split_seed=1).digest != silos.digest


def test_where_all_share_a_test_set_it_is_the_global_one_alone():
    data = brought([0, 0, 1, 1, 2, 2], [0, -1, 1, 2, -1])
    silos = silos_of(data)
    assert has_common_test(data)
    assert [share.tolist() for share in silos.test] == [[6], [8], [9]]
    assert global_test(data, silos).tolist() == [7, 10]


def test_without_any_test_set_the_clients_hold_out_and_no_other_rule_can_deal():
    whole = brought([0] * 4 + [1] * 4 + [2] * 4, [0])
    data = replace(whole, x=whole.x[:12], y=whole.y[:12], owners=whole.owners[:12])
    silos = silos_of(data)
    assert np.array_equal(global_test(data, silos), np.sort(silos.test.values))
    line = refusal(data, Options(partition="iid", n_clients=2))
    assert line.startswith("--partition iid: labelled has no test set to split; must be writers or silos")


def test_names_stay_with_who_has_them(folder):
    """A client is called by a name where it has examples of that silo alone: as silos, or by a file that says the same."""
    data = brought([1, 1, 0, 0, 2, 2], [0, 1, 2])
    silos = silos_of(data)
    shares = {part: [getattr(silos, part)[k] for k in (2, 0, 1)] for part in PARTS}
    path = str(saved(folder / "other order.npz", data, Split(**shares)))
    assert split(data, Options(partition_file=path, n_clients=3)).names == ("c", "a", "b")
    assert split(data, Options(partition="iid", n_clients=3)).names == ()


def test_silos_that_cannot_be_had_are_a_clear_line():
    data = brought([0, 0, 1, 1, 2], [0, 1])
    options = Options(partition="silos", n_clients=4)
    assert refusal(data, options) == "--n_clients 4: the data have 3 clients; must be at most 3"
    line = refusal(data, replace(options, n_clients=3))
    assert (
        line
        == "--partition silos: c has a single example and no test examples, so it cannot hold one out; remove this client"
    )
    line = refusal(data, replace(options, n_clients=3, reduced=0.6))
    assert line == "--reduced: keeps no training examples of c; use --reduced_draw random"
    assert "do not name the clients" in refusal(replace(data, owners=None, clients=()), options)


# --- clients that do not train, clients that are left out, and a smaller test set ---------------------------------------


def same_shares(item, other):
    """Whether two lists of shares are equal."""
    return [list(share) for share in item] == [list(share) for share in other]


@pytest.mark.parametrize("rule", [name for name in RULES if name != "writers"])
def test_new_clients_are_the_last_of_a_split_over_all_clients(rule):
    """The shares of all are those of a split without new clients; only the others hold out validation examples."""
    data, options = in_turn(240, 120, 4), Options(partition=rule, n_clients=6, alpha=1.0)
    whole = split(data, options)
    result = split(data, replace(options, n_clients=4, new_clients=2))
    assert same_shares(result.train, whole.train[:4])
    assert same_shares(result.new.train, whole.train[4:])
    assert same_shares(result.new.test, whole.test[4:])
    assert same_shares(result.everyone.train, whole.train)
    assert result.digest not in (whole.digest, split(data, replace(options, n_clients=4)).digest)
    if rule not in OVERLAPPING:
        validated = split(data, replace(options, n_clients=4, new_clients=2, validation=0.25))
        assert same_shares(validated.new.train, whole.train[4:])
        assert all(len(share) for share in validated.validation)
    assert result.new.validation.sizes.tolist() == [0, 0]


@pytest.mark.parametrize(("new_clients", "expected"), [(0, 0), (3, 3), (0.25, 2), (0.01, 1), (("a", "b"), ("a", "b"))])
def test_a_fraction_of_new_clients_is_a_whole_number_of_them(new_clients, expected):
    options = Options(n_clients=9, new_clients=new_clients)
    assert options.new_clients == expected
    assert replace(options, seed=1).new_clients == expected


def test_new_clients_may_be_named_and_a_number_of_the_datas_own_clients_is_drawn():
    data = brought([2, 0, 1, 2, 0, 2], [1, 0, 2, 1])
    named = silos_of(data, n_clients=2, new_clients=("b",))
    assert (named.names, named.new.names, named.everyone.names) == (("a", "c"), ("b",), ("a", "c", "b"))
    assert same_shares(named.train, [[1, 4], [0, 3, 5]])
    assert same_shares(named.new.train, [[2]])
    assert same_shares(named.new.test, [[6, 9]])
    drawn = {silos_of(data, n_clients=2, new_clients=1, split_seed=seed).new.names for seed in range(20)}
    assert drawn == {("a",), ("b",), ("c",)}
    assert "no client is called d; must be among a, b, c" in refusal(
        data, Options(partition="silos", n_clients=2, new_clients=("d",))
    )
    assert "have no names; use a number" in refusal(in_turn(9, 9, 3), Options(n_clients=2, new_clients=("d",)))


def test_fewer_clients_than_the_data_have_are_a_draw_of_them():
    """Each keeps its examples, and no example of another client is left, in training or in the tests of all."""
    data = brought([2, 0, 1, 2, 0, 2], [1, 0, 2, 1])
    own = dict(zip("abc", [[1, 4], [2], [0, 3, 5]], strict=True))
    tests = dict(zip("abc", [[7], [6, 9], [8]], strict=True))
    drawn = set()
    for seed in range(20):
        result = silos_of(data, n_clients=2, split_seed=seed)
        drawn.add(result.names)
        assert same_shares(result.train, [own[name] for name in result.names])
        assert same_shares(result.test, [tests[name] for name in result.names])
        assert global_test(data, result).tolist() == sorted(i for name in result.names for i in tests[name])
        kept = silos_of(data, n_clients=1, new_clients=("b",), split_seed=seed)
        assert kept.new.names == ("b",)
        assert same_shares(kept.train, [own[kept.names[0]]])
    assert drawn == {("a", "b"), ("a", "c"), ("b", "c")}


def test_a_split_with_new_clients_can_be_read_again(tmp_path):
    data = brought([2, 0, 1, 2, 0, 2], [1, 0, 2, 1])
    for flags in ({"new_clients": ("a",)}, {"new_clients": 1}):
        whole = silos_of(data, n_clients=2, **flags)
        np.savez(tmp_path / "split.npz", **arrays(data, whole))
        again = from_file(tmp_path / "split.npz", data, 2, flags["new_clients"])
        assert again.digest == whole.digest
        assert (again.names, again.new.names) == (whole.names, whole.new.names)
    line = line_of(from_file, tmp_path / "split.npz", data, 2)
    assert line.endswith("has 3 clients, but --n_clients is 2; use --n_clients 3")
    line = line_of(from_file, tmp_path / "split.npz", data, 1, 1)
    assert line.endswith("but --n_clients is 1 with --new_clients 1; use --n_clients 2 with --new_clients 1")


@pytest.mark.parametrize("rule", readers("counts"))
@pytest.mark.parametrize("size_alpha", [1e-300, 0.1, 1.0, 1e15])
def test_sizes_of_a_dirichlet_draw_deal_every_example_and_leave_nobody_empty(rule, size_alpha):
    data, options = in_turn(300, 90, 3), Options(partition=rule, n_clients=12, size_alpha=size_alpha)
    result = split(data, options)
    assert_proper(data, result, options)
    for part, n in ((result.train, 300), (result.test, 90)):
        assert part.sizes.sum() == n
        assert part.sizes.min() >= 1
    if size_alpha == 1e15:
        assert np.ptp(result.train.sizes) <= 1
    if size_alpha == 1e-300:
        assert sorted(result.train.sizes) == [1] * 11 + [289]
    mixes = [(part.sizes - 1) / (part.sizes - 1).sum() for part in (result.train, result.test)]
    assert np.abs(mixes[0] - mixes[1]).max() < 1 / 70, "the same draw in training and test"
    assert split(data, options).digest == result.digest
    if size_alpha in (0.1, 1.0):
        assert split(data, replace(options, split_seed=1)).train.sizes.tolist() != result.train.sizes.tolist()


def test_sizes_vary_as_the_parts_of_a_symmetric_dirichlet_distribution():
    """The variance of a part is (K - 1) / (K^2 (K A + 1))."""
    data, k, alpha = in_turn(4000, 40, 2), 4, 0.5
    sizes = [
        split(data, Options(partition="iid", n_clients=k, size_alpha=alpha, split_seed=s)).train.sizes for s in range(300)
    ]
    variance = (np.array(sizes) / 4000).var()
    assert variance == pytest.approx((k - 1) / (k**2 * (k * alpha + 1)), rel=0.15)


@pytest.mark.parametrize(("test_reduced", "n"), [(0.5, 60), (30.0, 30), (0.1, 12), (120.0, 120)])
def test_a_reduced_test_set_is_a_draw_for_all_clients_and_for_the_global_accuracy(test_reduced, n):
    data, options = in_turn(240, 120, 4), Options(partition="iid", n_clients=5, test_reduced=test_reduced)
    result, whole = split(data, options), split(data, replace(options, test_reduced=1.0))
    kept = global_test(data, result)
    assert len(kept) == n
    assert sorted(result.test.values) == kept.tolist()
    assert same_shares(result.train, whole.train)
    assert kept.tolist() != list(range(240, 240 + n)) or n == 120
    assert result.digest != whole.digest
    other = split(data, replace(options, split_seed=1))
    assert n == 120 or global_test(data, other).tolist() != kept.tolist()


def test_of_clients_that_have_test_examples_each_keeps_the_same_fraction_at_least_one(tmp_path):
    data = brought([0, 1, 2], [0] * 8 + [1] * 4 + [2] + [-1] * 4)
    result = silos_of(data, test_reduced=0.5)
    assert result.test.sizes.tolist() == [4, 2, 1]
    assert len(global_test(data, result)) == 2, "of the four that belong to no client"
    np.savez(tmp_path / "split.npz", **arrays(data, result))
    again = from_file(tmp_path / "split.npz", data, 3)
    assert again.digest == result.digest
    assert global_test(data, again).tolist() == global_test(data, result).tolist()


# --- train and test ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", readers("alpha"))
@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0, math.inf])
def test_a_client_has_the_same_class_mix_in_training_and_test(name, alpha):
    """With the same class counts in both, the two tables of client and class are one."""
    pool = pool_of(np.repeat(np.arange(5), [300, 500, 200, 400, 600]))
    train, test = dealt(name, pool, n_clients=4, alpha=alpha)
    assert np.array_equal(class_table(pool.y, train, 5), class_table(pool.y, test, 5))
    assert not all(np.array_equal(np.sort(a), np.sort(b) - 2000) for a, b in zip(train, test, strict=True))  # two draws


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_ldas_parts_of_a_class_are_the_same_in_training_and_test_up_to_rounding(alpha):
    """A client's count is within 1 of its part of the class, and within 2 where it gave or was given one."""
    pool = pool_of(np.arange(5000) % 5, np.arange(1500) % 5)
    train, test = dealt("lda", pool, n_clients=4, alpha=alpha)
    parts = [class_table(pool.y, shares, 5) / n for shares, n in ((train, 1000), (test, 300))]
    assert np.abs(parts[0] - parts[1]).max() <= 2 / 1000 + 2 / 300


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_dirichlets_mixes_are_the_same_in_training_and_test_up_to_rounding(alpha):
    """Few of many are dealt, so no class runs out and each count is within 1 of the mix times the share's size."""
    pool = pool_of(np.arange(50_000) % 5, np.arange(20_000) % 5)
    train, test = dealt("dirichlet", pool, counts=(np.full(4, 1000), np.full(4, 300)), alpha=alpha)
    mixes = [class_table(pool.y, shares, 5) / n for shares, n in ((train, 1000), (test, 300))]
    assert np.abs(mixes[0] - mixes[1]).max() <= 1 / 1000 + 1 / 300


# --- the whole split ---------------------------------------------------------------------------------------------------


def test_reduced_keeps_the_first_images():
    data = in_turn(100, 40, 5)
    drawn_split = split(data, Options(reduced=0.29, n_clients=3))  # 0.29 * 100 is 28.999... in floats
    assert sorted(np.concatenate(drawn_split.train)) == list(range(29))
    assert sum(map(len, drawn_split.test)) == 40  # the test set stays whole


def test_reduced_can_keep_a_random_draw():
    data = in_turn(1000, 40, 5)
    flags = {"reduced": 0.2, "reduced_draw": "random", "n_clients": 3}
    kept = [np.sort(np.concatenate(split(data, Options(**flags, split_seed=seed)).train)) for seed in (0, 0, 1)]
    assert [len(item) for item in kept] == [200, 200, 200]
    assert kept[0].max() < 1000
    assert np.array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])
    assert not np.array_equal(kept[0], np.arange(200))


def test_the_random_draw_does_not_depend_on_who_gets_what():
    data = in_turn(1000, 40, 5)
    flags = {"reduced": 0.2, "reduced_draw": "random"}
    others = [{"n_clients": 2}, {"n_clients": 7}, {"partition": "lda", "alpha": 0.5}, {"partition": "iid"}]
    kept = [np.sort(np.concatenate(split(data, Options(**flags, **other)).train)) for other in others]
    assert all(np.array_equal(kept[0], item) for item in kept)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.999])
def test_validation_is_held_out_of_each_share(name, fraction):
    data = in_turn(203, 50, 5)
    options = Options(partition=name, alpha=0.5, n_clients=6)
    whole = split(data, options)
    if name in OVERLAPPING and fraction == 0.999:  # what one of a block's holders leaves, the other takes
        line = refusal(data, replace(options, validation=fraction))
        assert line.startswith(
            "--validation 0.999: every image of client 1 is held out by this client or by another client with the same image"
        )
        return
    drawn_split = split(data, replace(options, validation=fraction))
    for before, train, held in zip(whole.train, drawn_split.train, drawn_split.validation, strict=True):
        assert np.array_equal(np.sort(np.concatenate([train, held])), before)  # nothing else of the split changes
        least = min(max(round(fraction * len(before)), 1), len(before) - 1)
        assert len(held) >= least if name in OVERLAPPING else len(held) == least
    assert all(np.array_equal(a, b) for a, b in zip(whole.test, drawn_split.test, strict=True))
    assert_proper(data, drawn_split, options)


def test_what_one_client_holds_out_no_other_trains_on():
    """Blocks belong to several clients whole: a client's held-out image was trained on by whoever had its block too."""
    data = in_turn(600, 100, 10)
    for fraction in (0.1, 0.5, 0.9):
        drawn_split = split(data, Options(partition="reference_blocks", n_clients=5, digit_num=6, validation=fraction))
        assert not np.intersect1d(np.concatenate(drawn_split.train), np.concatenate(drawn_split.validation)).size
        parts = [
            len(held) / (len(held) + len(train))
            for held, train in zip(drawn_split.validation, drawn_split.train, strict=True)
        ]
        assert fraction <= min(parts)
        assert max(parts) < 1 - (1 - fraction) ** 2, "less than if each of two holders had drawn for itself"


def test_validation_of_two_images_holds_one_out_whatever_the_fraction():
    data = in_turn(6, 6, 2)
    for fraction in (0.001, 0.5, 0.999):
        drawn_split = split(data, Options(n_clients=3, validation=fraction))
        assert [len(share) for share in (*drawn_split.train, *drawn_split.validation)] == [1] * 6


def test_validation_is_a_random_part():
    data = in_turn(100, 10, 1)
    held = [split(data, Options(n_clients=1, validation=0.5, split_seed=seed)).validation[0] for seed in (0, 0, 1)]
    assert np.array_equal(held[0], held[1])
    assert not np.array_equal(held[0], held[2])
    assert not np.array_equal(held[0], np.arange(50))


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("part", [0.1, 0.5])
def test_public_examples_are_set_aside_before_the_rest_is_dealt(name, part):
    data = in_turn(203, 50, 5)
    data = replace(data, owners=torch.arange(253) % 6) if name == "silos" else data
    options = Options(partition=name, alpha=0.5, n_clients=6, public_share=part, validation=0.1)
    result, others = split(data, options), split(data, replace(options, split_seed=1))
    assert len(result.public) == int(part * 203)
    assert not np.array_equal(result.public, others.public), "a random part"
    assert not set(result.public) & set(np.concatenate([share for each in result.parts for share in each]))
    assert not np.array_equal(result.public, np.arange(len(result.public)))
    rest = replace(data, x=data.x.clone(), y=data.y.clone())  # another owner of the very same examples
    dealt = np.concatenate([*result.train, *result.validation])
    assert set(dealt) <= set(range(203)) - set(result.public)
    assert split(rest, options).digest == result.digest != split(data, replace(options, public_share=0)).digest


def test_public_examples_are_of_what_reduced_keeps():
    data = in_turn(200, 50, 5)
    for drawn in ("first", "random"):
        kept = split(data, Options(reduced=0.5, reduced_draw=drawn, partition="iid"))
        drawn_split = split(data, Options(reduced=0.5, reduced_draw=drawn, partition="iid", public_share=0.2))
        assert len(drawn_split.public) == 20
        assert set(np.concatenate([*drawn_split.train, drawn_split.public])) == set(np.concatenate(list(kept.train)))


def test_public_examples_of_another_data_set_leave_the_split_as_it_is():
    data = in_turn(200, 50, 5)
    joined = datasets.with_public(data, in_turn(40, 10, 5))
    options = Options(partition="lda", alpha=0.5, n_clients=4, validation=0.1)
    plain, result = split(data, options), split(joined, replace(options, public_share=0.25, public_dataset="MNIST"))
    assert all(np.array_equal(a.values, b.values) for a, b in zip(plain.parts, result.parts, strict=True))
    assert len(result.public) == 10
    assert set(result.public) <= set(range(250, 290)), "those of the other training set"
    whole = split(joined, replace(options, public_share=1.0, public_dataset="MNIST"))
    assert whole.public.tolist() == list(range(250, 290))


def test_public_examples_are_saved_with_the_split(folder):
    data, options = in_turn(100, 20, 5), Options(n_clients=2, public_share=0.1)
    drawn_split = split(data, options)
    path = saved(folder / "split.npz", data, drawn_split)
    back = from_file(path, data, 2)
    assert back.digest == drawn_split.digest
    assert back.public.tolist() == drawn_split.public.tolist()
    assert "public" not in arrays(data, split(data, replace(options, public_share=0))), "as before there were any"
    edited = {**arrays(data, drawn_split), "public": np.array([drawn_split.train[0][0]])}
    np.savez(path, **edited)
    assert "contains example" in line_of(from_file, path, data, 2), "public and somebody's"
    np.savez(path, **{**edited, "public": np.array([120])})
    assert "public must be a list of indices from 0 to 119" in line_of(from_file, path, data, 2)


def test_public_examples_that_cannot_be_had_are_refused():
    data = in_turn(100, 20, 5)
    assert refusal(data, Options(public_share=0.001)).startswith("--public_share 0.001: rounds to 0 of 100 images")
    assert "leaves no training image of labelled for the clients" in refusal(data, Options(public_share=1.0))


def test_validation_is_empty_unless_asked_for():
    drawn_split = split(in_turn(30, 30, 3), Options(n_clients=4))
    assert [len(share) for share in drawn_split.validation] == [0] * 4


@pytest.mark.parametrize("name", RULES)
def test_the_split_depends_on_the_split_seed_alone(name):
    data = in_turn(300, 100, 5)
    flags = {"partition": name, "n_clients": 4, "reduced": 0.5, "reduced_draw": "random", "validation": 0.2}
    expected = split(data, options_for("fedavg", **flags)).digest
    other = {"seed": 5, "model": ("MLP",), "rounds": 7, "lr": 0.3, "participation": 0.5}
    assert split(data, options_for("independent", **flags, **other)).digest == expected
    assert split(data, options_for("cfkd", **flags, lambda_kd=3.0)).digest == expected
    assert split(data, options_for("fedavg", **flags, split_seed=1)).digest != expected
    bare = Options(partition=name, n_clients=4)  # of the partitioner's own draws alone
    assert (split(data, bare).digest != split(data, replace(bare, split_seed=1)).digest) == (name in APART)


def test_torch_and_numpys_global_generators_are_left_alone():
    of_torch, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    split(in_turn(100, 100, 5), Options(n_clients=4, alpha=0.5, validation=0.1, reduced=0.5, reduced_draw="random"))
    assert torch.equal(torch.get_rng_state(), of_torch)
    assert np.array_equal(np.random.get_state()[1], of_numpy)


@modestly
@given(problems(), st.sampled_from([0.0, 0.3]))
def test_the_table_adds_up(problem, validation):
    data, options = problem
    result = split_or_refused(data, replace(options, validation=validation))
    if result is None:
        return
    counted = table(data, result)
    assert counted.shape == (options.n_clients, len(data.classes))
    every = data.y.numpy()[np.concatenate([*result.train, *result.validation])]
    assert np.array_equal(counted.sum(0), np.bincount(every, minlength=len(data.classes)))
    sizes = [len(train) + len(held) for train, held in zip(result.train, result.validation, strict=True)]
    assert np.array_equal(counted.sum(1), sizes)
    for row, share, held in zip(counted, result.train, result.validation, strict=True):
        labels = data.y.numpy()[[*share, *held]].tolist()
        assert [labels.count(c) for c in range(len(data.classes))] == row.tolist()


# --- many shares in one array ------------------------------------------------------------------------------------------

whole_numbers = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6)


@given(lists=whole_numbers, cut=st.slices(6))
def test_shares_are_a_list_of_arrays(lists, cut):
    result = Shares.of(lists)
    assert [share.tolist() for share in result] == [result[k].tolist() for k in range(len(result))] == lists
    assert result.sizes.tolist() == [len(item) for item in lists]
    assert result.owners.tolist() == [k for k, item in enumerate(lists) for _ in item]
    assert [share.tolist() for share in result[cut]] == lists[cut]
    assert [share.tolist() for share in result.sorted()] == [sorted(item) for item in lists]
    even = result.where(result.values % 2 == 0)
    assert [share.tolist() for share in even] == [[i for i in item if i % 2 == 0] for item in lists]
    assert Shares.of(result) is result
    if lists:
        assert result[-1].tolist() == lists[-1]
        assert np.shares_memory(result[-1], result.values) or not lists[-1], "a view"
    with pytest.raises(IndexError):
        result[len(lists)]


@given(owners=st.lists(st.integers(0, 4)))
def test_what_is_dealt_lies_with_its_owner_in_the_order_in_which_it_came(owners):
    result = Shares.dealt(np.arange(len(owners)), np.array(owners, dtype=np.int64), 5)
    assert [share.tolist() for share in result] == [[i for i, owner in enumerate(owners) if owner == k] for k in range(5)]


@pytest.mark.parametrize("alpha", [1e-300, 1e-15, 0.01, 0.5, 100.0])
def test_class_mixes_that_are_drawn_at_once_are_those_that_are_drawn_one_by_one(alpha):
    prior, (item, other) = np.array([0.5, 0.0, 0.2, 0.3]), (streams.generator("mixes", 1) for _ in range(2))
    assert np.array_equal(_mixes(prior, alpha, 50, item), [_mix(prior, alpha, other) for _ in range(50)])
    assert item.random() == other.random(), "and the stream goes on alike"


@modestly
@given(data=st.data())
def test_who_has_nothing_is_given_one_by_who_has_most_of_the_class_it_has_the_largest_part_in(data):
    n_clients, n_classes = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    cells = st.lists(st.integers(0, 4), min_size=n_classes, max_size=n_classes)
    result = np.array(data.draw(st.lists(cells, min_size=n_clients, max_size=n_clients)))
    assume(result.sum() >= n_clients)
    parts = np.array([[data.draw(st.sampled_from([0.1, 0.2, 0.3])) for _ in range(n_clients)] for _ in range(n_classes)])
    expected = result.copy()
    for k in np.flatnonzero(expected.sum(1) == 0):
        spare = np.where(expected.sum(1, keepdims=True) > 1, expected, 0)
        c = next(c for c in np.argsort(-parts[:, k], kind="stable") if spare[:, c].any())
        expected[spare[:, c].argmax(), c] -= 1
        expected[k, c] += 1
    _fill_empty_clients(result, parts)
    assert np.array_equal(result, expected)
    assert result.sum(1).all()


# --- the digest --------------------------------------------------------------------------------------------------------


def shares_of(*shares):
    return tuple(np.array(share, dtype=np.int64) for share in shares)


def test_the_digest_tells_splits_apart():
    item = Split(shares_of([0, 1], [2]), shares_of([3], [4, 5]), shares_of([6], [7]))
    others = [
        Split(item.validation, item.train, item.test),  # training and validation swapped
        Split(item.train, item.test, item.validation),
        Split(item.train[::-1], item.validation, item.test),  # two clients swapped
        Split(shares_of([0], [1, 2]), item.validation, item.test),  # the same indices, cut elsewhere
        Split(shares_of([0, 1, 2], []), item.validation, item.test),
        Split(shares_of([0, 1], [8]), item.validation, item.test),  # one index
        Split(item.train, shares_of([3], [4, 8]), item.test),
        Split(item.train, item.validation, shares_of([6], [8])),
    ]
    digests = [part.digest for part in (item, *others)]
    assert len(set(digests)) == len(digests)


@modestly
@given(problem=problems(), validation=st.sampled_from([0.0, 0.3]))
def test_the_digest_is_of_one_share_after_the_other_its_length_and_its_indices(problem, validation):
    """As it stands in the names of runs and in recorded results."""
    data, options = problem
    result = split_or_refused(data, replace(options, validation=validation))
    if result is None:
        return
    sha = hashlib.sha256()
    for part in (result.train, result.validation, result.test):
        for share in part:
            sha.update(len(share).to_bytes(8, "little") + share.astype("<i8").tobytes())
    assert result.digest == sha.hexdigest()[:16]


def test_the_digest_is_that_of_the_content():
    item = Split(shares_of([0, 1], [2]), shares_of([], []), shares_of([6], [7]))
    same = Split(tuple(share.astype(np.int32) for share in item.train), shares_of([], []), shares_of([6], [7]))
    assert item.digest == same.digest
    assert len(item.digest) == 16
    int(item.digest, 16)


# --- a split from a file -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("splits")


def saved(path, data, result, /, **edited):
    """The split, saved, with some of its arrays in place of what they were; None leaves one out."""
    return written(path, {**arrays(data, result), **edited})


def saved_as_before(path, data, result, /, **edited):
    """Likewise in the form of older runs, with an array of each client's share."""
    return written(path, {**older(data, result), **edited})


def written(path, kept):
    saves.write_arrays(path, {name: array for name, array in kept.items() if array is not None})
    return path


def older(data, result):
    kept = {name: array for name, array in arrays(data, result).items() if name.partition("_")[0] not in PARTS}
    return kept | {f"{name}_{k}": share for name in PARTS for k, share in enumerate(getattr(result, name))}


@modestly
@given(problem=problems(), validation=st.sampled_from([0.0, 0.3]))
def test_a_split_reads_back_as_it_was(folder, problem, validation):
    data, options = problem
    result = split_or_refused(data, replace(options, validation=validation))
    if result is None:
        return
    for save in (saved, saved_as_before):
        path = save(folder / "split.npz", data, result)
        back = split(data, Options(partition_file=str(path), n_clients=options.n_clients, split_seed=options.split_seed + 1))
        assert back.digest == result.digest
        for part in ("train", "validation", "test"):
            for before, after in zip(getattr(result, part), getattr(back, part), strict=True):
                assert np.array_equal(before, after)
                assert after.dtype == np.int64


def test_what_is_saved_says_what_it_is(folder):
    data = in_turn(60, 30, 3)
    drawn_split = split(data, Options(n_clients=2, validation=0.1))
    with np.load(saved(folder / "split.npz", data, drawn_split)) as back:
        assert str(back["data"]) == data.digest
        assert np.array_equal(back["table"], table(data, drawn_split))
        assert tuple(back["classes"]) == data.classes
        start, end = back["validation_offsets"][1:3]
        assert np.array_equal(back["validation"][start:end], drawn_split.validation[1])
        assert not back["overlapping"]
        assert len(back.files) == 4 + 3 * 2, "an array and its offsets for each part, however many clients there are"


@pytest.fixture
def whole():
    """(data, a split of it for two clients, its options)."""
    data = in_turn(60, 30, 3)
    options = Options(n_clients=2, validation=0.1)
    return data, split(data, options), options


def test_a_split_edited_by_hand_may_be_in_any_order_and_of_any_whole_numbers(folder, whole):
    data, result, _ = whole
    edited = {"train_0": result.train[0][::-1].astype(np.uint16), "validation_1": np.array([]), "table": None}
    back = from_file(saved_as_before(folder / "split.npz", data, result, **edited), data, 2)
    assert back.digest == Split(result.train, (result.validation[0], np.array([], dtype=np.int64)), result.test).digest
    assert back.validation[1].dtype == np.int64


WANTED = "must be the split.npz of a run, or have example, client and part"
NO_SPLIT = f"cannot be read as a split; {WANTED}"


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        ({"train_0": None, "train_1": None}, [NO_SPLIT]),
        ({"validation_1": None}, [NO_SPLIT]),
        ({"test_0": None}, [NO_SPLIT]),
        ({"data": np.array("0123456789abcdef")}, ["split of other data than --dataset labelled"]),
        ({"data": np.array([[1, 2], [3, 4]])}, ["split of other data"]),
        ({"train_2": np.array([0])}, [NO_SPLIT]),
        ({"train_1": None}, ["has 1 clients", "--n_clients is 2", "use --n_clients 1"]),
        ({"train_0": np.array([0, 60])}, ["train_0 must be a list of indices from 0 to 59"]),
        ({"train_0": np.array([-1, 3])}, ["train_0 must be a list of indices from 0 to 59"]),
        ({"train_1": np.array([], dtype=np.int64)}, ["train has no example of client 1; each client needs at least one"]),
        ({"train_1": np.array([1.0, 2.5])}, ["train_1 must be"]),
        ({"train_1": np.array([True, False])}, ["train_1 must be"]),
        ({"train_1": np.array(["1", "2"])}, ["train_1 must be"]),
        ({"train_1": np.array([[1, 2]])}, ["train_1 must be"]),
        ({"train_1": np.array(1)}, ["train_1 must be"]),
        ({"train_1": np.array([2**64 - 1], dtype=np.uint64)}, ["train_1 must be"]),
        ({"validation_0": np.array([60])}, ["validation_0 must be a list of indices from 0 to 59"]),
        ({"test_1": np.array([90])}, ["test_1 must be a list of indices from 0 to 89"]),
        ({"test_1": np.array([], dtype=np.int64)}, ["test has no example of client 1; each client needs at least one"]),
    ],
)
def test_a_file_that_is_no_proper_split_is_refused(folder, whole, edited, words):
    data, result, options = whole
    path = saved_as_before(folder / "split.npz", data, result, **edited)
    line = refusal(data, replace(options, partition_file=str(path)))
    for word in (f"--partition_file {path}: ", *words):
        assert word in line


def test_a_digest_of_the_data_need_not_be_there(folder, whole):
    data, result, options = whole
    for save in (saved, saved_as_before):
        path = save(folder / "split.npz", data, result, data=None)
        assert split(data, replace(options, partition_file=str(path))).digest == result.digest


def by_hand(result, names=None):
    """A split as the columns of one that is made by hand, in any order."""
    parts = [(part, getattr(result, part)) for part in PARTS]
    columns = {
        "example": np.concatenate([shares.values for _, shares in parts]),
        "client": np.concatenate([shares.owners for _, shares in parts]),
        "part": np.repeat(PARTS, [len(shares.values) for _, shares in parts]),
    }
    order = np.random.default_rng(0).permutation(len(columns["example"]))
    columns["client"] = np.array(names)[columns["client"]] if names else columns["client"]
    return {name: column[order] for name, column in columns.items()}


def written_by_hand(path, columns):
    if path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("name", ["split.npz", "split.csv"])
@pytest.mark.parametrize("names", [None, ["ward_2", "ward_10"]])
def test_a_split_made_by_hand_is_the_split_that_it_says(folder, whole, name, names):
    """Clients that have names come in the order in which people have them."""
    data, result, options = whole
    back = split(data, replace(options, partition_file=written_by_hand(folder / name, by_hand(result, names))))
    assert back.digest == result.digest
    assert back.names == tuple(names or ())
    if names:  # which a run keeps
        again = saved(folder / "kept.npz", data, back)
        assert split(data, replace(options, partition_file=str(again))).names == back.names


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("part", "trian", ["part trian of example", "must be one of train, validation, test"]),
        ("example", 90, ["must be a list of indices from 0 to"]),
        ("example", -1, ["must be a list of indices from 0 to"]),
        ("example", 1.5, ["must be a"]),
        ("client", "3", ["names client 3, but --n_clients 2 has clients 0 .. 1"]),
        ("client", "100000000", ["names client 100000000, but --n_clients 2"]),
        ("client", "9" * 200, ["names client 999", "but --n_clients 2"]),
        ("client", "01", ["'01' and '1' look like two spellings of one client"]),
        ("client", "", ["has no client"]),
    ],
)
@pytest.mark.parametrize("name", ["split.npz", "split.csv"])
def test_a_split_made_by_hand_that_is_none_is_one_line(folder, whole, name, column, value, words):
    data, result, options = whole
    columns = {key: values.astype(object) for key, values in by_hand(result).items()}
    columns[column][0] = value
    columns = {key: np.array(values.tolist()) for key, values in columns.items()}
    line = refusal(data, replace(options, partition_file=written_by_hand(folder / name, columns)))
    for word in (f"--partition_file {folder / name}: ", *words):
        assert word in line


@pytest.mark.parametrize("lacking", ["example", "client", "part"])
def test_a_table_without_one_of_the_columns_is_no_split(folder, whole, lacking):
    columns = {name: column for name, column in by_hand(whole[1]).items() if name != lacking}
    path = written_by_hand(folder / "split.csv", columns)
    assert refusal(whole[0], replace(whole[2], partition_file=path)) == f"--partition_file {path}: {NO_SPLIT}"


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        ({"train": None}, [NO_SPLIT]),
        ({"test_offsets": None}, [NO_SPLIT]),
        ({"train": np.array([0.5])}, ["train must be a list of indices from 0 to 59"]),
        ({"train_offsets": np.array([0, 26, 51, 52])}, ["has 3 clients", "--n_clients is 2", "use --n_clients 3"]),
        ({"train_offsets": np.array([0, 0, 54])}, ["train has no example of client 0; each client needs at least one"]),
        ({"train_offsets": np.array([1, 27, 54])}, ["train_offsets must be 3 numbers from 0 up to 54"]),
        ({"train_offsets": np.array([0, 55, 54])}, ["train_offsets must be 3 numbers from 0 up to 54"]),
        ({"train_offsets": np.array([0, 27, 53])}, ["train_offsets must be 3 numbers from 0 up to 54"]),
        ({"train_offsets": np.array([0.0, 27.0, 54.0])}, ["train_offsets must be 3 numbers from 0 up to 54"]),
        ({"test_offsets": np.array([0, 30])}, ["test_offsets must be 3 numbers from 0 up to 30"]),
    ],
)
def test_shares_in_one_array_that_are_no_proper_split_are_refused(folder, whole, edited, words):
    data, result, options = whole
    path = saved(folder / "split.npz", data, result, **edited)
    line = refusal(data, replace(options, partition_file=str(path)))
    for word in (f"--partition_file {path}: ", *words):
        assert word in line


def test_an_example_in_two_shares_of_one_array_is_refused(folder, whole):
    data, result, options = whole
    edited = {"test": np.where(result.test.values == result.test[0][0], result.test[1][0], result.test.values)}
    line = refusal(data, replace(options, partition_file=str(saved(folder / "split.npz", data, result, **edited))))
    assert f"contains example {result.test[1][0]} 2 times; an example must belong to at most one client and part" in line


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("other", ["train_1", "validation_1", "test_1", "train_0", "validation_0", "test_0"])
def test_an_example_in_two_shares_or_twice_in_one_is_refused(folder, whole, part, other):
    data, result, options = whole
    before = older(data, result)
    twice = before[other][0]
    edited = {f"{part}_0": np.append(before[f"{part}_0"], twice)}
    path = saved_as_before(folder / "split.npz", data, result, **edited)
    line = refusal(data, replace(options, partition_file=str(path)))
    if other.startswith("test") and part != "test":
        assert f"{part}_0 must be a list of indices from 0 to 59" in line  # nobody trains on the test set
    else:
        assert f"contains example {twice} 2 times; an example must belong to at most one client and part" in line


@pytest.fixture
def overlapping():
    """(data, blocks of it that three clients share, their options)."""
    data = in_turn(100, 50, 10)
    options = Options(partition="reference_blocks", n_clients=3, digit_num=3, validation=0.2)
    return data, split(data, options), options


def test_blocks_are_saved_as_what_they_are_and_read_again(folder, overlapping):
    data, result, _ = overlapping
    path = saved_as_before(folder / "split.npz", data, result)
    with np.load(path) as back:
        assert back["overlapping"]
    back = split(data, Options(partition_file=str(path), n_clients=3))
    assert back.digest == result.digest
    assert len(np.intersect1d([*back.train[0], *back.validation[0]], [*back.train[2], *back.validation[2]])) == 10


@pytest.mark.parametrize("output", [None, np.array(False)])
def test_blocks_of_which_it_is_not_said_that_they_overlap_are_refused(folder, overlapping, output):
    data, result, _ = overlapping
    path = saved_as_before(folder / "split.npz", data, result, overlapping=output)
    line = refusal(data, Options(partition_file=str(path), n_clients=3))
    assert line.startswith(f"--partition_file {path}: contains example 2 2 times; ")  # block 2 is of 2, 12, 22, ...


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_example_that_one_client_has_twice_is_refused_even_where_clients_may_overlap(folder, overlapping, part):
    data, result, _ = overlapping
    twice = np.append(getattr(result, part)[0], result.train[0][0])
    path = saved_as_before(folder / "split.npz", data, result, **{f"{part}_0": twice})
    assert f"contains example {result.train[0][0]}" in refusal(data, Options(partition_file=str(path), n_clients=3))


def test_a_split_of_other_clients_is_refused(folder, whole):
    data, result, options = whole
    path = saved_as_before(folder / "split.npz", data, result)
    for n in (1, 3):
        line = refusal(data, replace(options, n_clients=n, partition_file=str(path)))
        assert line == f"--partition_file {path}: has 2 clients, but --n_clients is {n}; use --n_clients 2"


def test_a_split_of_data_that_differ_in_one_label_is_refused(folder, whole):
    data, result, options = whole
    path = saved_as_before(folder / "split.npz", data, result)
    y = data.y.clone()
    y[0] += 1
    other = replace(data, y=y)
    assert other.digest in refusal(other, replace(options, partition_file=str(path)))


def text(path, whole):
    path.write_text("train_0: 1 2 3\n")


def truncated(path, whole):
    path.write_bytes(saved_as_before(path, *whole[:2]).read_bytes()[:-30])


def damaged(path, whole):
    content = bytearray(saved_as_before(path, *whole[:2]).read_bytes())
    content[60:200] = bytes(140)
    path.write_bytes(content)


def one_array(path, whole):
    with path.open("wb") as file:
        np.save(file, np.arange(5))


def too_large(path, whole):
    """Its first share claims 2**60 numbers, and has none."""
    with ZipFile(path, "w") as archive:
        archive.writestr("data.npy", _npy("<U16", "()") + np.array(whole[0].digest).tobytes())
        for name in ("train_0", "train_1"):
            archive.writestr(f"{name}.npy", _npy("<i8", f"({2**60},)"))


def _npy(dtype, shape):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def a_folder(path, whole):
    path.mkdir()


@pytest.mark.parametrize("create", [Path.touch, text, truncated, damaged, one_array, too_large, a_folder])
def test_a_file_that_is_something_else_is_refused(tmp_path, whole, create):
    path = tmp_path / "split.npz"
    create(path) if create is Path.touch else create(path, whole)
    line = refusal(whole[0], replace(whole[2], partition_file=str(path)))
    assert line.startswith(f"--partition_file {path}: ")
    assert line.endswith(f"; {WANTED}")


def test_members_that_are_no_arrays_are_refused(tmp_path, whole):
    data, result, options = whole
    path = saved_as_before(tmp_path / "split.npz", data, result, train_1=None)
    with ZipFile(path, "a") as archive:
        archive.writestr("train_1.npy", "1 2 3")
    assert f"--partition_file {path}: cannot be read as the array train_1 (" in refusal(
        data, replace(options, partition_file=str(path))
    )


def test_no_file_is_refused(tmp_path, whole):
    path = tmp_path / "no.npz"
    line = refusal(whole[0], replace(whole[2], partition_file=str(path)))
    assert line == f"--partition_file {path}: cannot be read (No such file or directory); {WANTED}"


class Touch:
    """Unpickled, it leaves a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data", "train_0", "test_1"])
def test_a_pickle_inside_is_not_opened(tmp_path, whole, name):
    data, result, options = whole
    path, mark = tmp_path / "split.npz", tmp_path / "mark"
    np.savez(path, **{**older(data, result), name: np.array([Touch(mark)], dtype=object)})
    assert f"{name} holds objects" in refusal(data, replace(options, partition_file=str(path)))
    path.write_bytes(pickle.dumps(Touch(mark)))
    assert "cannot be read as an .npz file (" in refusal(data, replace(options, partition_file=str(path)))
    assert not mark.exists()


# --- what cannot be had ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RULES if name not in OF_TRAINING])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"n_clients": 31}, ("--n_clients 31", "than test images", "must be at most 30")),
        (
            {"n_clients": 11, "reduced": 0.1},
            ("--n_clients 11", "than training images", "--reduced 0.1", "must be at most 10"),
        ),
        ({"n_clients": 101}, ("--n_clients 101", "than training images", "must be at most 100")),
        ({"n_clients": 10**24}, ("than training images", "must be at most 100")),
        ({"n_clients": 1, "reduced": 0.001}, ("--reduced 0.001", "none of the 100 training images")),
        ({"n_clients": 2, "sizes": (0.5, 0.01)}, ("--sizes 0.5,0.01", "30 test", "at least 0.033")),
        ({"n_clients": 2, "sizes": (0.5, 0.005)}, ("--sizes 0.5,0.005", "100 training", "at least 0.01")),
    ],
)
def test_what_nobody_can_deal_is_a_clear_line(name, flags, words):
    line = refusal(in_turn(100, 30, 5), Options(partition=name, **flags))
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", (*ONE_EACH, "writers"))
def test_a_single_training_image_cannot_be_held_out(name):
    """Ten images: one each for ten clients, two each for five that keep one to be tested on."""
    flags = {"n_clients": 5 if name in OF_TRAINING else 10, "shard_per_user": 1, "classes_per_client": 1, "digit_num": 1}
    line = refusal(in_turn(100, 30, 10), Options(partition=name, reduced=0.1, validation=0.5, **flags))
    for word in ("--validation 0.5", "client 0", "single training image", "use fewer clients or --validation 0"):
        assert word in line


ONE_OF_CLASS_1 = labelled([0] * 9 + [1], [0] * 5 + [1] * 5)
NONE_OF_CLASS_1 = labelled([0, 1] * 5, [0] * 10)


@pytest.mark.parametrize(
    ("data", "flags", "words"),
    [
        (in_turn(100, 30, 5), {"shard_per_user": 2}, ["4 shards", "5 classes", "must be 3 to 15"]),
        (in_turn(100, 30, 5), {"shard_per_user": 16}, ["32 shards", "must be 3 to 15"]),
        (in_turn(30, 100, 5), {"shard_per_user": 16}, ["32 shards", "must be 3 to 15"]),
        (in_turn(100, 30, 5), {"shard_per_user": 10**24}, ["must be 3 to 15"]),
        (ONE_OF_CLASS_1, {"shard_per_user": 2}, ["class 1 would be cut into 2 pieces, but has 1 training images"]),
        (
            NONE_OF_CLASS_1,
            {"shard_per_user": 2},
            ["class 1", "2 pieces, but has 0 test images"],
        ),
        (in_turn(100, 30, 5), {"classes_per_client": 6}, ["training images have 5 classes", "at most 5"]),
        (in_turn(100, 30, 5), {"classes_per_client": 10**24}, ["at most 5"]),
        (ONE_OF_CLASS_1, {"classes_per_client": 2}, ["class 1 would be cut into 2 pieces, but has 1 training images"]),
        (NONE_OF_CLASS_1, {"classes_per_client": 2}, ["class 1", "0 test images", "a smaller value or fewer clients"]),
    ],
)
def test_shards_and_classes_that_cannot_be_had_are_a_clear_line(data, flags, words):
    ((flag, value),) = flags.items()
    line = refusal(data, Options(partition={"shard_per_user": "shards"}.get(flag, "classes"), n_clients=2, **flags))
    for word in (f"--{flag} {value}", *words):
        assert word in line


@pytest.mark.parametrize("n", [3, 15])
def test_the_numbers_of_shards_that_the_line_allows_can_be_had(n):
    data, options = in_turn(100, 30, 5), Options(partition="shards", n_clients=2, shard_per_user=n)
    assert_proper(data, split(data, options), options)


def test_writers_that_cannot_be_had_are_a_clear_line():
    data = in_turn(100, 60, 5)  # 50 writers of two images
    options = Options(partition="writers", n_clients=51)
    assert refusal(data, options) == "--n_clients 51: more clients than writers; must be at most 50"
    assert "--n_clients 11" in refusal(data, replace(options, n_clients=11, reduced=0.2))  # 10 writers are kept
    line = refusal(replace(data, owners=None), options)
    assert "--partition writers: these data do not name the writers; use" in line
    assert "--dataset MNIST" in line
    line = refusal(labelled(np.zeros(6), np.zeros(6), hands=range(6)), replace(options, n_clients=6))
    assert line == "--partition writers: client 0 has a single image and cannot hold one out; use fewer clients"


def test_every_partitioner_is_documented_and_its_flags_are_declared():
    for rule in PARTITIONS.values():
        assert rule.__doc__
        assert set(parameters(rule)) <= {*vars(Options()), "counts"}
