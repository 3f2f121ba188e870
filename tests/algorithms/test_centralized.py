"""Centralized learning is one plain training on what all clients have sent."""

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_federation, weights_of

from algorithms import centralized
from helpers import outputs


@pytest.mark.parametrize("batch_size", [8, 100])
def test_it_is_a_plain_training_on_the_pooled_data_that_goes_on_from_round_to_round(batch_size):
    shares = [[3, 30, 31], [50, 2], range(10, 30)]
    federation = tiny_federation(shares=shares, model="MLP")
    flags = options_for("centralized", optimizer="adam", lr=0.01, epoch_per_round=2, batch_size=batch_size)
    state, done = play(federation, flags, rounds=2)
    pooled = torch.tensor([3, 30, 31, 50, 2, *range(10, 30)])  # client after client
    assert torch.equal(state["pooled"], pooled)
    model = federation.architectures[0]().double()
    model.load_state_dict(federation.initial())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)  # one for all rounds
    for r in (1, 2):
        order, values = federation.at(r).server(pooled).stream("batches", 0), []
        for _ in range(2):
            positions = torch.from_numpy(order.permutation(25))
            for i in positions.split_with_sizes([8, 8, 9] if batch_size == 8 else [25]):  # 8, 8, 8, and 1 left over
                x, y = federation.data.images(pooled[i], torch.float64), federation.data.y[pooled[i]]
                value = F.cross_entropy(model(x)[1], y)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                values += [value.item()] * len(i)
    trained = weights_of(done.models["global"])
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(done.loss, torch.tensor([sum(values) / 50], dtype=torch.float64))


def test_every_client_sends_its_examples_once_before_round_1_and_then_nothing_is_sent():
    federation, flags = tiny_federation(), options_for("centralized")
    state, _ = play(federation, flags, rounds=0)
    one = 12 * 12 + 8  # a byte a pixel, and an int64 label
    assert federation.wire.collect() == {("up", "examples"): {0: 10 * one, 1: 20 * one, 2: 30 * one}}
    for r in (1, 2):
        centralized.communicate(federation.at(r), state, flags)
        assert federation.wire.collect() == {}


def test_all_data_are_used_whatever_the_participation():
    full, partial = tiny_federation(), tiny_federation(participation=0.4)
    expected, found = (weights_of(play(f, options_for("centralized"))[1].models["global"]) for f in (full, partial))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_work_is_the_servers_and_its_model_is_the_only_one():
    federation = tiny_federation()
    state, done = play(federation, options_for("centralized", epoch_per_round=3))
    assert {party for _, party, _ in federation.meter.spent} == {"server"}
    assert federation.meter.spent["steps", "server", 0] == 3 * 8  # 60 = 7 * 8 + 4
    assert federation.meter.spent["samples", "server", 0] == 3 * 60
    assert list(done.models) == ["global"]
    assert list(done.clients) == []
    said = outputs(federation, 0, state["weights"])
    model = done.models["global"](2)
    with torch.no_grad():
        _, logits = model(federation.data.images(federation.shares[0], torch.float64))
    assert torch.equal(logits, said.logits), "evaluated where it is"


def test_with_one_client_it_sees_what_that_client_has():
    federation = tiny_federation(shares=[[5, 9, 1, 40]])
    state, _ = play(federation, options_for("centralized"), rounds=0)
    assert state["pooled"].tolist() == [5, 9, 1, 40]
