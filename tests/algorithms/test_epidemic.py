"""Epidemic learning: to whom a client sends, and what becomes of its model."""

from collections import Counter

import pytest
import torch
from conftest import options_for, tiny_federation

from algorithms import epidemic
from helpers import train

PEERS = ("local", "oracle")


def options(**flags):
    return options_for("epidemic", **flags)


def crowd(n, **others):
    return tiny_federation(shares=[range(3 * k, 3 * k + 3) for k in range(n)], model="MLP", **others)


@pytest.mark.parametrize("peers", PEERS)
def test_every_client_sends_to_so_many_others_others_in_every_round(peers):
    federation, recorded = crowd(8), set()
    for r in range(1, 30):
        result = epidemic.recipients(federation.at(r), range(8), options(peers=peers, fanout=3))
        assert list(result) == list(range(8))
        for k, receivers in result.items():
            assert len(set(receivers)) == 3
            assert k not in receivers
        recorded.add(str(result))
    assert len(recorded) == 29
    assert epidemic.recipients(federation.at(1), range(8), options(peers=peers, fanout=3)) == epidemic.recipients(
        crowd(8).at(1), range(8), options(peers=peers, fanout=3)
    )


def test_clients_draw_for_themselves_so_that_some_receive_more_than_others():
    result = epidemic.recipients(crowd(8).at(1), range(8), options(fanout=2))
    received = Counter(k for receivers in result.values() for k in receivers)
    assert len(set(received.values())) > 1


def test_who_a_client_draws_is_any_other_as_likely():
    federation, result = crowd(5), Counter()
    for r in range(2000):
        result.update(epidemic.recipients(federation.at(r), range(5), options(fanout=1))[2])
    assert set(result) == {0, 1, 3, 4}
    assert all(abs(n - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5 for n in result.values())


def test_the_oracles_graph_has_edges_both_ways_and_as_many_neighbours_for_each():
    for r in range(1, 10):
        result = epidemic.recipients(crowd(9).at(r), range(9), options(peers="oracle", fanout=4))
        assert all(k in result[j] for k, receivers in result.items() for j in receivers)
        assert {len(receivers) for receivers in result.values()} == {4}
    odd = epidemic.recipients(crowd(9).at(1), range(9), options(peers="oracle", fanout=3))
    assert {len(receivers) for receivers in odd.values()} == {4}, "9 clients cannot have 3 neighbours each"


@pytest.mark.parametrize(("n", "expected"), [(2, 1), (3, 2), (8, 3), (9, 4)])
def test_auto_is_the_logarithm_of_the_clients_rounded_up(n, expected):
    assert {len(r) for r in epidemic.recipients(crowd(n), range(n), options()).values()} == {expected}


def test_among_the_clients_of_a_round_alone():
    result = epidemic.recipients(crowd(8), [1, 4, 6], options(fanout=7))
    assert result == {1: [4, 6], 4: [1, 6], 6: [1, 4]}


def test_a_model_becomes_the_mean_of_its_own_and_of_those_that_it_received():
    federation, requested = crowd(6), options(fanout=2)
    state = epidemic.start(federation, requested)
    at = federation.at(1)
    trained = train(at, range(6), state["weights"], epidemic.loss, requested).weights
    sends = epidemic.recipients(at, range(6), requested)
    done = epidemic.communicate(at, state, requested)
    for k in range(6):
        held = [trained[k], *(trained[j] for j in range(6) if k in sends[j])]
        for name, tensor in state["weights"][k].items():
            torch.testing.assert_close(tensor, sum(row[name] for row in held) / len(held), rtol=0, atol=1e-12)
    assert list(done.models) == ["personal"]


def test_all_begin_with_the_same_weights():
    federation = crowd(3)
    state = epidemic.start(federation, options())
    assert all(torch.equal(row[name], state["weights"][0][name]) for row in state["weights"] for name in row)
