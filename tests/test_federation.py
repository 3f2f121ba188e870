"""The federation's words: who takes part, whose random numbers, which weights, in what order and with how many threads."""

import random
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from conftest import options_for, same, tiny_data, tiny_federation
from torch import nn

import streams
from algorithms.independent import loss
from federation import Federation
from helpers import outputs, train
from models import Net


def with_clients(n_clients, **others):
    """A federation of any number of clients, who hold one example each."""
    return tiny_federation(shares=[[k % 60] for k in range(n_clients)], model="MLP", **others)


def normed():
    """A model with BatchNorm: floating and integer buffers beside its parameters."""
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5), nn.Tanh()), 5, 3)


@pytest.fixture
def three_threads():
    """Torch computes with three threads before and after, a number that nothing here asks for."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


# --- who takes part ---


@pytest.mark.parametrize(
    ("n_clients", "participation"), [(10, 0.1), (10, 0.35), (10, 0.05), (7, 0.5), (100, 0.29), (1, 0.3), (3, 0.9)]
)
def test_a_round_has_the_whole_part_of_c_k_clients_and_at_least_one(n_clients, participation):
    federation = with_clients(n_clients, participation=participation)
    m = max(floor(Fraction(str(participation)) * n_clients), 1)  # exact: 0.29 * 100 is 28.999... in floats
    for r in range(1, 20):
        clients = federation.at(r).sample()
        assert len(clients) == m
        assert clients == sorted(set(clients)), "in order, and nobody twice"
        assert set(clients) <= set(range(n_clients))
        assert all(type(k) is int for k in clients)


def test_everybody_takes_part_where_participation_is_1():
    assert all(with_clients(5).at(r).sample() == [0, 1, 2, 3, 4] for r in range(3))


def test_the_sample_changes_with_the_round_and_the_seed_alone():
    federation = with_clients(20, participation=0.5)
    drawn = federation.at(1).sample()
    assert federation.at(1).sample() == drawn, "asked again"
    federation.at(1).stream("batches", 3).permutation(10)
    np.random.default_rng().permutation(10)
    assert federation.at(1).sample() == drawn, "after other draws"
    other_data = tiny_federation(tiny_data(90, seed=4), [range(k, k + 3) for k in range(20)], dtype=torch.float32)
    assert replace(other_data, participation=0.5, threads=2).at(1).sample() == drawn, "other data, model and precision"
    rounds = [tuple(federation.at(r).sample()) for r in range(1, 11)]
    assert len(set(rounds)) == len(rounds), "10 of 20 can be drawn in 184,756 ways"
    assert replace(federation, seed=1).at(1).sample() != drawn


def test_every_client_is_sampled_as_often_as_any_other():
    federation, rounds = with_clients(6, participation=0.5), 600
    drawn = Counter(k for r in range(rounds) for k in federation.at(r).sample())
    five_deviations = 5 * (rounds * 0.5 * 0.5) ** 0.5  # each round takes a client with probability 1/2
    assert all(abs(drawn[k] - rounds / 2) < five_deviations for k in range(6))


# --- whose random numbers ---


def test_a_stream_is_found_by_seed_party_purpose_round_and_client():
    def draws(federation, purpose="one", client=0):
        return tuple(federation.stream(purpose, client).integers(2**62, size=4).tolist())

    federation = tiny_federation()
    named = [
        draws(federation),
        draws(federation, "other"),
        draws(federation, client=1),
        draws(federation, client=-1),
        draws(federation.at(1)),
        draws(federation.with_party("fine-tuning")),
        draws(federation.server(federation.shares[0])),
        draws(replace(federation, seed=1)),
    ]
    assert len(set(named)) == len(named)
    others = {"participation": 0.5, "threads": 2, "dtype": torch.float32, "model": "MLP", "data": tiny_data(70)}
    assert draws(tiny_federation(**others)) == named[0], "and by nothing else"
    assert draws(federation.at(np.int64(1)), client=np.int64(0)) == named[4], "numpy's 1 and Python's are one name"


def test_a_stream_is_always_at_its_beginning():
    federation = tiny_federation().at(2)
    first = federation.stream("one", 1).integers(2**62, size=8)
    assert np.array_equal(federation.stream("one", 1).integers(2**62, size=8), first)
    expected = streams.generator(0, "client", "one", 2, 1).integers(2**62, size=8)
    assert np.array_equal(first, expected)
    nobody = streams.generator(0, "client", "one", 2, -1).integers(2**62, size=8)
    assert np.array_equal(federation.stream("one").integers(2**62, size=8), nobody)


def test_nothing_touches_the_random_numbers_of_the_caller():
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    federation = tiny_federation(participation=0.5)
    clients, weights = federation.sample(), [federation.initial(k) for k in federation.clients]
    federation.initial()
    federation.model(0, weights[0])
    trained, _, _, _ = train(federation, federation.clients, weights, loss, options_for("independent"))
    federation.map_clients(outputs, clients, [trained[k] for k in clients])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), before[2], strict=True))


# --- the same federation, seen from elsewhere ---


def test_views_share_the_wire_and_the_meter_and_leave_the_original_as_it_is():
    federation = tiny_federation()
    share = torch.tensor([4, 5, 40])
    later, aside, server = federation.at(3), federation.with_party("fine-tuning"), federation.server(share)
    for view in (later, aside, server):
        assert view.wire is federation.wire
        assert view.meter is federation.meter
        assert view.data is federation.data
    assert (later.round, later.party) == (3, "client")
    assert (aside.round, aside.party) == (0, "fine-tuning")
    assert (server.round, server.party, list(server.clients)) == (0, "server", [0])
    assert torch.equal(server.shares[0], share)
    assert federation.at(3).server(share).round == 3, "views combine"
    assert (federation.round, federation.party, list(federation.clients)) == (0, "client", [0, 1, 2])
    server.wire.up("n", [torch.zeros(2)], [0])
    assert federation.wire.collect() == {("up", "n"): {0: 8}}
    with pytest.raises(FrozenInstanceError):
        federation.round = 1


# --- weights and models ---


def test_initial_weights_are_repeatable_and_each_client_has_its_own():
    federation = tiny_federation()
    rows = [federation.initial(k) for k in federation.clients] + [federation.initial()]
    for i, row in enumerate(rows):
        assert not any(same(row, other) for other in rows[:i]), "clients differ from each other and from the common start"
    assert all(same(federation.initial(k), rows[k]) for k in federation.clients)
    assert all(same(federation.at(7).with_party("fine-tuning").initial(k), rows[k]) for k in federation.clients)
    assert not same(replace(federation, seed=1).initial(0), rows[0])


def test_the_common_start_does_not_depend_on_the_number_of_clients_nor_on_the_round():
    few, many = with_clients(2), with_clients(9)
    assert same(few.initial(), many.initial())
    assert same(few.initial(1), many.initial(1)), "nor does a client's own"
    assert same(few.initial(), few.at(4).initial())
    assert same(few.initial(), few.server(few.shares[0]).initial())
    assert not same(few.initial(), replace(few, seed=1).initial())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_weights_have_the_precision_of_the_federation_and_integers_stay_integers(dtype):
    federation = Federation.of(tiny_data(), [range(10)], [normed], dtype=dtype)
    row = federation.initial(0)
    assert row["body.2.num_batches_tracked"].dtype == torch.int64
    assert {tensor.dtype for name, tensor in row.items() if "tracked" not in name} == {dtype}


def test_a_model_has_exactly_the_weights_of_its_row_and_is_in_evaluation_mode():
    federation = Federation.of(tiny_data(), [range(10), range(10, 20)], [normed], dtype=torch.float64)
    rows = [federation.initial(k) for k in federation.clients]
    rows[1]["body.2.num_batches_tracked"] = torch.tensor(41)
    rows[1]["body.2.running_mean"] = torch.arange(5, dtype=torch.float64)
    for k in (0, 1, 0):  # whatever the skeleton held before
        model = federation.model(k, rows[k])
        assert same(dict(model.state_dict()), rows[k])
        assert not any(module.training for module in model.modules())
        model.train().requires_grad_(False)
    assert all(p.requires_grad for p in federation.model(0, rows[0]).parameters())


def test_what_is_done_to_a_model_does_not_reach_the_row_it_came_from():
    federation = tiny_federation()
    row = federation.initial(0)
    kept = {name: tensor.clone() for name, tensor in row.items()}
    with torch.no_grad():
        for parameter in federation.model(0, row).parameters():
            parameter.zero_()
    assert same(row, kept)


def test_architectures_are_dealt_to_the_clients_in_turn():
    federation = tiny_federation(shares=[range(k, k + 5) for k in range(5)], model=("LeNet5", "MLP"))
    first_layers = {"LeNet5": (6, 1, 5, 5), "MLP": (200, 144)}
    for k in federation.clients:
        row, name = federation.initial(k), ("LeNet5", "MLP")[k % 2]
        assert next(iter(row.values())).shape == first_layers[name]
        assert same(dict(federation.model(k, row).state_dict()), row)


# --- sizes and examples ---


def test_sizes_are_the_lengths_of_the_shares():
    federation = tiny_federation(validation=[range(30, 35)] * 3)  # n_k does not count what is held out
    sizes = federation.sizes([2, 0])
    assert [n.item() for n in sizes] == [30, 10]
    assert all(n.dtype == torch.int64 and n.shape == () for n in sizes)


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_weigh_their_images_and_labels(channels):
    data = tiny_data()
    data = replace(data, x=data.x.expand(-1, channels, -1, -1), mean=data.mean.expand(channels))
    federation = tiny_federation(replace(data, std=data.std.expand(channels)))
    item = channels * 12 * 12 + 8  # a byte a pixel, and an int64 label
    for indices in (torch.arange(7), torch.tensor([3, 50]), torch.arange(0)):
        sent = federation.examples(indices)
        assert sent.nbytes == len(indices) * item
        assert torch.equal(sent.indices, indices), "they move as indices"


# --- for every client ---


def test_each_does_the_work_of_every_client_with_its_rows_in_order():
    federation = tiny_federation()
    recorded = []

    def work(view, k, letter, number):
        recorded.append(view)
        return k, letter, number

    assert federation.map_clients(work, [2, 0, 1], "cab", [7, 8, 9]) == [(2, "c", 7), (0, "a", 8), (1, "b", 9)]
    assert all(view is federation for view in recorded)
    with pytest.raises(ValueError, match="zip"):
        federation.map_clients(work, [0, 1], "ab", [1])


def test_a_client_computes_with_one_thread_and_a_server_with_all(three_threads):
    federation = tiny_federation(threads=2)

    def count(view, k):
        return torch.get_num_threads()

    assert federation.map_clients(count, [0, 1]) == [1, 1]
    assert torch.get_num_threads() == 3
    assert federation.with_party("fine-tuning").map_clients(count, [0]) == [1]
    assert federation.server(torch.arange(5)).map_clients(count, [0]) == [2]
    assert torch.get_num_threads() == 3


def test_the_number_of_threads_is_restored_after_an_error(three_threads):
    def fail(view, k):
        raise KeyError(k)

    with pytest.raises(KeyError):
        tiny_federation().map_clients(fail, [0])
    assert torch.get_num_threads() == 3


def test_shares_may_be_arrays_and_become_int64_tensors_on_the_device_of_the_data():
    federation = Federation.of(tiny_data(), [np.arange(5, dtype=np.int32), [5, 6]], [normed])
    assert [share.tolist() for share in federation.shares] == [[0, 1, 2, 3, 4], [5, 6]]
    assert all(share.dtype == torch.int64 and share.device == federation.device for share in federation.shares)
