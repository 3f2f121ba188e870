"""Centralized learning: whose data are used, and whose the work is."""

import torch
from conftest import options_for, play, tiny_federation, weights_of

from helpers import outputs


def test_all_data_are_used_whatever_the_participation():
    full, partial = tiny_federation(), tiny_federation(participation=0.4)
    expected, result = (weights_of(play(f, options_for("centralized"))[1].models["global"]) for f in (full, partial))
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_the_work_is_the_servers_and_its_model_is_the_only_one():
    federation = tiny_federation()
    state, done = play(federation, options_for("centralized", epoch_per_round=3))
    assert {party for _, party, _ in federation.meter.spent} == {"server"}
    assert federation.meter.spent["steps", "server", 0] == 3 * 8  # 60 = 7 * 8 + 4
    assert federation.meter.spent["samples", "server", 0] == 3 * 60
    assert list(done.models) == ["global"]
    assert list(done.clients) == []
    result = outputs(federation, 0, state["weights"])
    model = done.models["global"](2)
    with torch.no_grad():
        _, logits = model(federation.data.images(federation.shares[0], torch.float64))
    assert torch.equal(logits, result.logits), "evaluated where it is"


def test_with_one_client_it_sees_what_that_client_has():
    federation = tiny_federation(shares=[[5, 9, 1, 40]])
    state, _ = play(federation, options_for("centralized"), rounds=0)
    assert state["pooled"].tolist() == [5, 9, 1, 40]
