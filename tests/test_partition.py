"""Who gets what: properties of every partitioner at every alpha and size, and the limits that can be written down."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import options_for
from hypothesis import example, given, settings
from hypothesis import strategies as st

import streams
from data.datasets import from_arrays
from data.partition import PARTITIONS, READ_ALPHA, READ_SIZES, Split, counts_of, split, table
from errors import UserError
from options import Options

ALPHAS = (1e-300, 1e-15, 0.01, 0.5, 1.0, 1e3, 1e12, 1e15, math.inf)
modestly = settings(deadline=None, max_examples=150)


def labelled(train, test, n_classes=None):
    """Data with these labels and images of one pixel."""
    train, test = np.asarray(train, dtype=np.int64), np.asarray(test, dtype=np.int64)
    n_classes = n_classes or 1 + int(max(train.max(), test.max()))
    parts = [(np.zeros((len(y), 1, 1, 1), dtype=np.uint8), y) for y in (train, test)]
    return from_arrays("labelled", *parts, tuple(map(str, range(n_classes))))


def in_turn(n_train, n_test, n_classes):
    return labelled(np.arange(n_train) % n_classes, np.arange(n_test) % n_classes, n_classes)


def class_table(labels, shares, n_classes):
    return np.stack([np.bincount(labels[share], minlength=n_classes) for share in shares])


def shares_of(name, labels, counts, alpha, seed=0):
    """A partitioner by itself, on labels that train and test have in common -> (training shares, test shares)."""
    counts = np.asarray(counts)
    return PARTITIONS[name]((labels, labels), (counts, counts), alpha, streams.generator("test", seed))


@st.composite
def problems(draw, partitions=tuple(PARTITIONS), alphas=ALPHAS):
    """(data, options): any labels, some classes rare or absent, and any number of clients that can have an example each."""
    n_classes = draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    skew = draw(st.sampled_from([0.1, 1.0, 100.0]))
    train, test = (
        generator.choice(n_classes, n, p=generator.dirichlet(np.full(n_classes, skew)))
        for n in (draw(st.integers(1, 150)), draw(st.integers(1, 150)))
    )
    n_clients = draw(st.integers(1, min(len(train), len(test))))
    asked = Options(
        partition=draw(st.sampled_from(partitions)),
        alpha=draw(st.sampled_from(alphas)),
        n_clients=n_clients,
        split_seed=draw(st.integers(0, 2**70)),
    )
    return labelled(train, test, n_classes), asked


@st.composite
def sized_problems(draw):
    """(data, options, parts, whole): client k asks for parts[k] of `whole` equal pieces, into which the data divide."""
    parts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    whole = sum(parts) + draw(st.sampled_from([0, 0, 1, 7]))
    n_train, n_test = whole * draw(st.integers(1, 8)), whole * draw(st.integers(1, 8))
    asked = Options(
        partition=draw(st.sampled_from(READ_SIZES)),
        alpha=draw(st.sampled_from(ALPHAS)),
        n_clients=len(parts),
        sizes=tuple(part / whole for part in parts),
        split_seed=draw(st.integers(0, 1000)),
    )
    return in_turn(n_train, n_test, draw(st.integers(1, 10))), asked, parts, whole


def assert_proper(data, found, n_clients):
    """Nothing twice, nothing out of range, nobody without an example, indices sorted."""
    for shares, least, end in ((found.train, 0, data.n_train), (found.test, data.n_train, len(data.y))):
        assert len(shares) == n_clients
        assert all(len(share) >= 1 for share in shares)
        every = np.concatenate(shares)
        assert len(np.unique(every)) == len(every)
        assert every.min() >= least
        assert every.max() < end
    for share in (*found.train, *found.validation, *found.test):
        assert share.dtype == np.int64
        assert (np.diff(share) > 0).all()


# --- every partitioner -------------------------------------------------------------------------------------------------


@modestly
@given(problems())
def test_shares_are_disjoint_in_range_complete_and_not_empty(problem):
    data, asked = problem
    found = split(data, asked)
    assert_proper(data, found, asked.n_clients)
    assert sum(map(len, found.train)) == data.n_train  # no sizes: everything is dealt, by every rule
    assert sum(map(len, found.test)) == len(data.y) - data.n_train


@modestly
@given(problems(partitions=READ_SIZES))
def test_without_sizes_clients_get_equal_numbers_and_the_first_ones_the_rest(problem):
    data, asked = problem
    found = split(data, asked)
    for shares, n in ((found.train, data.n_train), (found.test, len(data.y) - data.n_train)):
        each, rest = divmod(n, asked.n_clients)
        assert [len(share) for share in shares] == [each + 1] * rest + [each] * (asked.n_clients - rest)


@modestly
@given(sized_problems())
def test_sizes_are_exactly_as_asked(problem):
    data, asked, parts, whole = problem
    found = split(data, asked)
    assert_proper(data, found, asked.n_clients)
    assert [len(share) * whole for share in found.train] == [part * data.n_train for part in parts]
    assert [len(share) * whole for share in found.test] == [part * (len(data.y) - data.n_train) for part in parts]


@modestly
@given(problems())
def test_the_same_split_seed_gives_the_same_split(problem):
    data, asked = problem
    assert split(data, asked).digest == split(data, asked).digest


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("alpha", [0.5, math.inf])
def test_another_generator_gives_another_split(name, alpha):
    labels = np.arange(200) % 5
    once, again, other = (shares_of(name, labels, [50, 50, 50, 50], alpha, seed) for seed in (0, 0, 1))
    for part in (0, 1):  # training, test
        assert all(np.array_equal(a, b) for a, b in zip(once[part], again[part], strict=True))
        assert not all(np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(once[part], other[part], strict=True))


@pytest.mark.parametrize("name", PARTITIONS)
def test_labels_are_only_read(name):
    labels = np.arange(60) % 3
    labels.setflags(write=False)
    counts = np.array([20, 20, 20])
    counts.setflags(write=False)
    PARTITIONS[name]((labels, labels), (counts, counts), 0.5, streams.generator("test"))


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_as_many_clients_as_examples_get_one_each(name, alpha):
    """The tightest case: nothing is left to be drawn again until it fits."""
    data = in_turn(30, 30, 4)
    found = split(data, Options(partition=name, alpha=alpha, n_clients=30))
    assert_proper(data, found, 30)
    assert {len(share) for share in (*found.train, *found.test)} == {1}


# --- sizes -------------------------------------------------------------------------------------------------------------


@modestly
@example(100, [29])
@given(st.integers(1, 10_000), st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_counts_are_the_whole_parts_of_size_times_n(n, hundredths):
    """0.29 * 100 is 28.999... in floats and 29 in fractions."""
    asked = [Fraction(part, 100) for part in hundredths]
    if sum(asked) >= 1:
        asked = [Fraction(part, sum(hundredths) + 1) for part in hundredths]
    expected = [math.floor(size * n) for size in asked]
    assert counts_of([float(size) for size in asked], n, len(asked)).tolist() == expected


@modestly
@given(st.integers(1, 10_000), st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_sizes_that_add_up_to_one_deal_the_rest_to_the_first_clients(n, parts):
    asked = [Fraction(part, sum(parts)) for part in parts]
    whole = [math.floor(size * n) for size in asked]
    rest = n - sum(whole)
    expected = [count + (k < rest) for k, count in enumerate(whole)]
    assert counts_of([float(size) for size in asked], n, len(asked)).tolist() == expected


# --- iid ---------------------------------------------------------------------------------------------------------------


def test_iid_does_not_look_at_the_labels():
    counts = [10, 25, 15]
    one, _ = shares_of("iid", np.arange(50) % 5, counts, math.inf)
    other, _ = shares_of("iid", np.zeros(50, dtype=np.int64), counts, math.inf)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_iid_is_shuffled():
    (share,), _ = shares_of("iid", np.arange(50) % 5, [25], math.inf)
    assert not np.array_equal(np.sort(share), np.arange(25))


# --- dirichlet ---------------------------------------------------------------------------------------------------------


def assert_stratified(dealt, totals, counts):
    """A client's count of a class differs from its proportional part by at most 1 + n_k sum_{j<k} 1/N_{j+1}.

    N_j is what is left when client j comes, and client j gets n_j/N_j of what is left of each class, plus a rounding error
    e_j that is the difference of two roundings, so |e_j| <= 1. By recursion the class's part in what is left is off by
    sum_{j<k} e_j/N_{j+1} at client k, which takes n_k of it and adds its own rounding.
    """
    n = totals.sum()
    left = n - np.concatenate([[0], np.cumsum(counts)])
    for k, row in enumerate(dealt):
        bound = 1 + counts[k] * sum(1 / left[j + 1] for j in range(k))
        assert np.abs(row - totals * counts[k] / n).max() <= bound + 1e-9


@pytest.mark.parametrize("alpha", [1e13, 1e15, math.inf])
@modestly
@given(problem=problems(partitions=("dirichlet",), alphas=(math.inf,)))
def test_dirichlet_at_inf_is_stratified(alpha, problem):
    data, asked = problem
    asked = Options(partition="dirichlet", alpha=alpha, n_clients=asked.n_clients)
    found, labels, n_classes = split(data, asked), data.y.numpy(), len(data.classes)
    for shares in (found.train, found.test):
        dealt = class_table(labels, shares, n_classes)
        assert_stratified(dealt, dealt.sum(0), dealt.sum(1))


@modestly
@given(sized_problems())
def test_dirichlet_at_inf_is_stratified_for_unequal_sizes_too(problem):
    data, asked, parts, whole = problem
    labels = data.y.numpy()[: data.n_train]
    counts = np.array(parts) * (data.n_train // whole)
    shares, _ = shares_of("dirichlet", labels, counts, math.inf)
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
    shares, _ = shares_of("dirichlet", labels, counts, math.inf)
    dealt = class_table(labels, shares, 10)
    assert np.abs(dealt - np.outer(counts, totals / len(labels))).max() < 2


def test_dirichlet_at_inf_is_even_where_all_divides():
    shares, _ = shares_of("dirichlet", np.arange(200) % 5, [40] * 5, math.inf)
    assert (class_table(np.arange(200) % 5, shares, 5) == 8).all()


def test_dirichlet_towards_zero_gives_one_class_each_while_it_lasts():
    labels = np.repeat(np.arange(4), [100, 200, 300, 400])
    counts = [3] * 30  # 90 examples: no class can run out, whoever wants it
    train, test = (class_table(labels, shares, 4) for shares in shares_of("dirichlet", labels, counts, 1e-15))
    assert ((train == 3).sum(1) == 1).all()
    assert np.array_equal(train, test)  # and of the same class
    assert len(np.unique(train.argmax(1))) > 1  # which is not the same for all


@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_towards_zero_fills_up_only_from_a_class_that_ran_out(seed):
    labels = np.arange(120) % 6
    shares, _ = shares_of("dirichlet", labels, [15] * 8, 1e-15, seed)
    dealt = class_table(labels, shares, 6)
    left = 20 - np.cumsum(dealt, axis=0)
    for k, row in enumerate(dealt):
        assert (row > 0).sum() == 1 or (left[k] == 0).any()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_spreads_mixes_as_alpha_times_the_class_frequencies_would(alpha):
    """E p_c^2 = q_c (alpha q_c + 1) / (alpha + 1) for p ~ Dirichlet(alpha q): the second moment tells alpha q from alpha.

    Few of many examples are dealt, so that no class runs out, and 2,000 to a client, so that rounding is of no weight.
    """
    totals = np.array([400_000, 300_000, 300_000])
    labels, n_clients = np.repeat(np.arange(3), totals), 100
    q = totals / totals.sum()
    train, _ = shares_of("dirichlet", labels, [2000] * n_clients, alpha)
    squares = (class_table(labels, train, 3) / 2000) ** 2
    expected = q * (alpha * q + 1) / (alpha + 1)
    error = squares.std(0) / math.sqrt(n_clients)
    assert (np.abs(squares.mean(0) - expected) < 4 * error).all()


# --- lda ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e13, 1e15, math.inf])
@modestly
@given(problem=problems(partitions=("lda",), alphas=(math.inf,)))
def test_lda_at_inf_gives_every_client_the_same_of_every_class(alpha, problem):
    """A count is the difference of two roundings, so it is within 1 of the equal part; one example may be given away to a
    client that would have none."""
    data, asked = problem
    found = split(data, Options(partition="lda", alpha=alpha, n_clients=asked.n_clients))
    for shares in (found.train, found.test):
        dealt = class_table(data.y.numpy(), shares, len(data.classes))
        assert np.abs(dealt - dealt.sum(0) / asked.n_clients).max() <= 1 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_lda_towards_zero_gives_each_class_to_one_client(seed):
    """But for one example each that the clients without any are given."""
    labels, n_clients = np.arange(300) % 10, 6
    shares, _ = shares_of("lda", labels, [50] * n_clients, 1e-15, seed)
    dealt = class_table(labels, shares, 10)
    given_away = dealt.sum() - dealt.max(0).sum()
    assert given_away <= n_clients - 1
    assert (dealt.sum(1) >= 1).all()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_lda_spreads_classes_as_alpha_for_each_client_would(alpha):
    """E q_k^2 = (alpha + 1) / (K (K alpha + 1)) for q ~ Dirichlet(alpha, ..., alpha) over K clients."""
    n_classes, n_clients, n_each = 200, 5, 1000
    labels = np.repeat(np.arange(n_classes), n_each)
    train, _ = shares_of("lda", labels, [n_classes * n_each // n_clients] * n_clients, alpha)
    squares = ((class_table(labels, train, n_classes) / n_each) ** 2).mean(0)  # over clients, for each class
    expected = (alpha + 1) / (n_clients * (n_clients * alpha + 1))
    assert abs(squares.mean() - expected) < 4 * squares.std() / math.sqrt(n_classes)


# --- train and test ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READ_ALPHA)
@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0, math.inf])
def test_a_client_has_the_same_class_mix_in_training_and_test(name, alpha):
    """With the same class counts in both, the two tables of client and class are one."""
    labels = np.repeat(np.arange(5), [300, 500, 200, 400, 600])
    train, test = shares_of(name, labels, [500] * 4, alpha)
    assert np.array_equal(class_table(labels, train, 5), class_table(labels, test, 5))
    assert not all(np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(train, test, strict=True))  # two draws


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_ldas_parts_of_a_class_are_the_same_in_training_and_test_up_to_rounding(alpha):
    """A client's count is within 1 of its part of the class, and within 2 where it gave or was given one."""
    train_y, test_y = np.arange(5000) % 5, np.arange(1500) % 5
    counts = np.full(4, 1), np.full(4, 1)
    train, test = PARTITIONS["lda"]((train_y, test_y), counts, alpha, streams.generator("test"))
    parts = [class_table(y, shares, 5) / n for y, shares, n in ((train_y, train, 1000), (test_y, test, 300))]
    assert np.abs(parts[0] - parts[1]).max() <= 2 / 1000 + 2 / 300


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_dirichlets_mixes_are_the_same_in_training_and_test_up_to_rounding(alpha):
    """Few of many are dealt, so no class runs out and each count is within 1 of the mix times the share's size."""
    train_y, test_y = np.arange(50_000) % 5, np.arange(20_000) % 5
    counts = np.full(4, 1000), np.full(4, 300)
    train, test = PARTITIONS["dirichlet"]((train_y, test_y), counts, alpha, streams.generator("test"))
    mixes = [class_table(y, shares, 5) / n for y, shares, n in ((train_y, train, 1000), (test_y, test, 300))]
    assert np.abs(mixes[0] - mixes[1]).max() <= 1 / 1000 + 1 / 300


# --- the whole split ---------------------------------------------------------------------------------------------------


def test_reduced_keeps_the_first_images():
    data = in_turn(100, 40, 5)
    found = split(data, Options(reduced=0.29, n_clients=3))  # 0.29 * 100 is 28.999... in floats
    assert sorted(np.concatenate(found.train)) == list(range(29))
    assert sum(map(len, found.test)) == 40  # the test set stays whole


def test_reduced_can_keep_a_random_draw():
    data = in_turn(1000, 40, 5)
    asked = {"reduced": 0.2, "reduced_draw": "random", "n_clients": 3}
    kept = [np.sort(np.concatenate(split(data, Options(**asked, split_seed=seed)).train)) for seed in (0, 0, 1)]
    assert [len(one) for one in kept] == [200, 200, 200]
    assert kept[0].max() < 1000
    assert np.array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])
    assert not np.array_equal(kept[0], np.arange(200))


def test_the_random_draw_does_not_depend_on_who_gets_what():
    data = in_turn(1000, 40, 5)
    asked = {"reduced": 0.2, "reduced_draw": "random"}
    others = [{"n_clients": 2}, {"n_clients": 7}, {"partition": "lda", "alpha": 0.5}, {"partition": "iid"}]
    kept = [np.sort(np.concatenate(split(data, Options(**asked, **other)).train)) for other in others]
    assert all(np.array_equal(kept[0], one) for one in kept)


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.999])
def test_validation_is_held_out_of_each_share(name, fraction):
    data = in_turn(203, 50, 5)
    asked = {"partition": name, "alpha": 0.5, "n_clients": 6} if name in READ_ALPHA else {"partition": name, "n_clients": 6}
    whole, found = split(data, Options(**asked)), split(data, Options(**asked, validation=fraction))
    for before, train, held in zip(whole.train, found.train, found.validation, strict=True):
        assert np.array_equal(np.sort(np.concatenate([train, held])), before)  # nothing else of the split changes
        assert len(held) == min(max(round(fraction * len(before)), 1), len(before) - 1)
    assert all(np.array_equal(a, b) for a, b in zip(whole.test, found.test, strict=True))
    assert_proper(data, found, 6)


def test_validation_of_two_images_holds_one_out_whatever_the_fraction():
    data = in_turn(6, 6, 2)
    for fraction in (0.001, 0.5, 0.999):
        found = split(data, Options(n_clients=3, validation=fraction))
        assert [len(share) for share in (*found.train, *found.validation)] == [1] * 6


def test_validation_is_a_random_part():
    data = in_turn(100, 10, 1)
    held = [split(data, Options(n_clients=1, validation=0.5, split_seed=seed)).validation[0] for seed in (0, 0, 1)]
    assert np.array_equal(held[0], held[1])
    assert not np.array_equal(held[0], held[2])
    assert not np.array_equal(held[0], np.arange(50))


def test_validation_is_empty_unless_asked_for():
    found = split(in_turn(30, 30, 3), Options(n_clients=4))
    assert [len(share) for share in found.validation] == [0] * 4


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_split_depends_on_the_split_seed_alone(name):
    data = in_turn(300, 100, 5)
    asked = {"partition": name, "n_clients": 4, "reduced": 0.5, "reduced_draw": "random", "validation": 0.2}
    expected = split(data, options_for("fedavg", **asked)).digest
    other = {"seed": 5, "model": ("MLP",), "rounds": 7, "lr": 0.3, "participation": 0.5}
    assert split(data, options_for("independent", **asked, **other)).digest == expected
    assert split(data, options_for("cfkd", **asked, lambda_kd=3.0)).digest == expected
    assert split(data, options_for("fedavg", **asked, split_seed=1)).digest != expected


def test_torch_and_numpys_global_generators_are_left_alone():
    of_torch, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    split(in_turn(100, 100, 5), Options(n_clients=4, alpha=0.5, validation=0.1, reduced=0.5, reduced_draw="random"))
    assert torch.equal(torch.get_rng_state(), of_torch)
    assert np.array_equal(np.random.get_state()[1], of_numpy)


@modestly
@given(problems(), st.sampled_from([0.0, 0.3]))
def test_the_table_adds_up(problem, validation):
    data, asked = problem
    try:
        found = split(data, Options(**{**vars(asked), "validation": validation}))
    except UserError:  # a client with a single image cannot hold one out
        assert validation
        return
    counted = table(data, found)
    assert counted.shape == (asked.n_clients, len(data.classes))
    assert np.array_equal(counted.sum(0), np.bincount(data.y[: data.n_train].numpy(), minlength=len(data.classes)))
    sizes = [len(train) + len(held) for train, held in zip(found.train, found.validation, strict=True)]
    assert np.array_equal(counted.sum(1), sizes)
    for row, share, held in zip(counted, found.train, found.validation, strict=True):
        labels = data.y.numpy()[[*share, *held]].tolist()
        assert [labels.count(c) for c in range(len(data.classes))] == row.tolist()


# --- the digest --------------------------------------------------------------------------------------------------------


def arrays(*shares):
    return tuple(np.array(share, dtype=np.int64) for share in shares)


def test_the_digest_tells_splits_apart():
    one = Split(arrays([0, 1], [2]), arrays([3], [4, 5]), arrays([6], [7]))
    others = [
        Split(one.validation, one.train, one.test),  # training and validation swapped
        Split(one.train, one.test, one.validation),
        Split(one.train[::-1], one.validation, one.test),  # two clients swapped
        Split(arrays([0], [1, 2]), one.validation, one.test),  # the same indices, cut elsewhere
        Split(arrays([0, 1, 2], []), one.validation, one.test),
        Split(arrays([0, 1], [8]), one.validation, one.test),  # one index
        Split(one.train, arrays([3], [4, 8]), one.test),
        Split(one.train, one.validation, arrays([6], [8])),
    ]
    digests = [part.digest for part in (one, *others)]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_that_of_the_content():
    one = Split(arrays([0, 1], [2]), arrays([], []), arrays([6], [7]))
    same = Split(tuple(share.astype(np.int32) for share in one.train), arrays([], []), arrays([6], [7]))
    assert one.digest == same.digest
    assert len(one.digest) == 16
    int(one.digest, 16)


# --- what cannot be had ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"n_clients": 31}, ("--n_clients 31", "30 test", "at most 30")),
        ({"n_clients": 11, "reduced": 0.1}, ("--n_clients 11", "10 training", "--reduced 0.1", "at most 10")),
        ({"n_clients": 101}, ("--n_clients 101", "100 training")),
        ({"n_clients": 1, "reduced": 0.001}, ("--reduced 0.001", "0 training")),
        ({"n_clients": 2, "sizes": (0.5, 0.01)}, ("--sizes 0.5,0.01", "30 test", "at least 0.033")),
        ({"n_clients": 2, "sizes": (0.5, 0.005)}, ("--sizes 0.5,0.005", "100 training", "at least 0.01")),
        ({"n_clients": 10, "reduced": 0.1, "validation": 0.5}, ("--validation 0.5", "single training image")),
    ],
)
def test_what_cannot_be_had_is_a_clear_line(name, flags, words):
    with pytest.raises(UserError) as raised:
        split(in_turn(100, 30, 5), Options(partition=name, **flags))
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


def test_every_partitioner_is_documented_and_its_flags_are_declared():
    assert all(rule.__doc__ for rule in PARTITIONS.values())
    assert set(READ_ALPHA) | set(READ_SIZES) == set(PARTITIONS)
