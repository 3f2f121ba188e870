"""Independent learning: each client starts from weights of its own and learns the same alone and in company."""

import torch
from conftest import options_for, play, tiny_federation, weights_of


def test_each_client_starts_from_weights_of_its_own():
    federation = tiny_federation()
    state, _ = play(federation, options_for("independent"), rounds=0)
    for k in federation.clients:
        own = federation.initial(k)
        assert all(torch.equal(state["weights"][k][name], own[name]) for name in own)
    assert not torch.equal(state["weights"][0]["classifier.weight"], state["weights"][1]["classifier.weight"])


def test_a_client_learns_the_same_alone_and_in_company():
    company, done = tiny_federation(), {}
    _, done["company"] = play(company, options_for("independent"), rounds=2)
    expected = weights_of(done["company"].models["personal"], 0)
    alone = tiny_federation(shares=[range(10)])
    _, done["alone"] = play(alone, options_for("independent"), rounds=2)
    weights = weights_of(done["alone"].models["personal"], 0)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
