"""Federated mutual learning: own models of any kind beside one that all share, and whose optimizer remembers."""

import pytest
import torch
from conftest import options_for, play, tiny_federation, weights_of

import algorithms
from algorithms import fml
from models import Pair


def options(**flags):
    return options_for("fml", **flags)


def test_what_the_others_learn_reaches_a_client_through_the_shared_model():
    alone, together = (play(tiny_federation(), options(mutual_own=part), rounds=2)[0] for part in (1.0, 0.5))
    assert not torch.equal(alone["weights"][0]["body.0.weight"], together["weights"][0]["body.0.weight"])


def test_own_models_may_be_of_other_kinds_than_the_shared_one():
    federation = tiny_federation(model=("LeNet5", "MLP"))
    requested = options(model=("LeNet5", "MLP"), shared_model="ResNet4")
    state, done = play(federation, requested, rounds=2)
    assert [row.keys() for row in state["weights"]] == [federation.initial(k).keys() for k in range(3)]
    assert state["server"].keys() == fml.shared_of(federation, requested).state_dict().keys()
    assert list(done.models) == ["personal", "global"]
    for answer, client in (("personal", 1), ("global", 0)):
        config = {"model": ["LeNet5", "MLP"], "shared_model": "ResNet4", "feature_dim": requested.feature_dim}
        config["feature_dim"] = 6 if answer == "personal" else requested.feature_dim
        inputs = [list(federation.data.shape), 3]
        again = algorithms.ALGORITHMS["fml"].rebuild(config, inputs, client, answer).double().eval()
        again.load_state_dict(weights_of(done.models[answer], client))
        x = federation.data.images(torch.arange(9), federation.dtype)
        torch.testing.assert_close(again(x)[1], done.models[answer](client)(x)[1])


@pytest.mark.parametrize(("model", "follows"), [(("LeNet5_classic",), "LeNet5_classic"), (("MLP", "LeNet5"), "MLP")])
def test_the_shared_model_follows_the_clients(model, follows):
    """A shared LeNet5 beside other networks was at chance long after these had learned, and dragged them along."""
    assert fml.Options(algorithm="fml", model=model).shared_model == follows
    assert fml.Options(algorithm="fml", model=model, shared_model="ResNet4").shared_model == "ResNet4"


def test_the_own_models_optimizer_remembers_and_the_shared_ones_is_fresh():
    state, _ = play(tiny_federation(), options(optimizer="adam"), rounds=2)
    for k in range(3):
        assert state["memory"][k].keys() == {name for name, _ in tiny_federation().skeletons[0].named_parameters()}
    steps = {int(entry["step"]) for entry in state["memory"][0].values()}
    assert steps == {2 * 2}, "two rounds of 10 examples in batches of 8"


def test_a_row_of_a_pair_can_be_taken_apart():
    row = Pair.row(own={"a": 1, "b.c": 2}, shared={"a": 3})
    assert row == {"own.a": 1, "own.b.c": 2, "shared.a": 3}
    assert Pair.part(row, "own") == {"a": 1, "b.c": 2}
