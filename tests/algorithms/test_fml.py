"""Federated mutual learning: the loss by hand, its two ends, own models of any kind beside one that all share."""

import pytest
import torch
from conftest import options_for, play, tiny_federation, weights_of

import algorithms
from algorithms import fml
from helpers import Batch
from models import Pair


def options(**flags):
    return options_for("fml", **flags)


def both(federation, asked):
    """A pair of networks with different weights."""
    pair = federation.paired(fml.shared_of(federation, asked)).skeletons[0]
    pair.own.load_state_dict(federation.initial(0))
    return pair.train()


def test_each_learns_from_the_labels_and_from_what_the_other_says():
    federation, asked = tiny_federation(), options(mutual_own=0.3, mutual_shared=0.6)
    pair = both(federation, asked)
    x, y = federation.data.images(torch.arange(5), federation.dtype), federation.data.y[:5]
    own, shared = (net(x)[1].softmax(1) for net in (pair.own, pair.shared))
    total = 0.0
    for b in range(5):
        for said, teacher, labels in ((own[b], shared[b], 0.3), (shared[b], own[b], 0.6)):
            divergence = sum(teacher[c] * (teacher[c] / said[c]).log() for c in range(3)).item()
            total += (-labels * said[y[b]].log().item() + (1 - labels) * divergence) / 5
    found = fml.loss(pair, Batch(x, y, torch.arange(5)), None, asked)
    assert found.item() == pytest.approx(total, abs=1e-12)


def test_a_teacher_is_not_moved_by_who_learns_from_it():
    federation, asked = tiny_federation(), options(mutual_own=0.0, mutual_shared=1.0)
    pair = both(federation, asked)
    x, y = federation.data.images(torch.arange(5), federation.dtype), federation.data.y[:5]
    fml.student(pair.own(x)[1], pair.shared(x)[1], y, 0.0).backward()
    assert all(parameter.grad is None for parameter in pair.shared.parameters())
    assert any(parameter.grad.any() for parameter in pair.own.parameters())


def test_with_labels_alone_the_shared_model_is_fedavgs_and_the_own_ones_learn_alone():
    flags = {"mutual_own": 1.0, "mutual_shared": 1.0, "momentum": 0.5, "weight_decay": 0.0}
    ours, done = play(tiny_federation(participation=0.7), options(**flags, feature_dim=6), rounds=3)
    theirs, _ = play(tiny_federation(participation=0.7), options_for("fedavg", momentum=0.5), rounds=3)
    alone, _ = play(tiny_federation(participation=0.7), options_for("independent", momentum=0.5), rounds=3)
    assert all(torch.equal(ours["server"][name], tensor) for name, tensor in theirs["server"].items())
    for k in range(3):
        assert all(torch.equal(ours["weights"][k][name], tensor) for name, tensor in alone["weights"][k].items())
        own = weights_of(done.models["personal"], k)
        assert all(torch.equal(tensor, alone["weights"][k][name]) for name, tensor in own.items())


def test_what_the_others_learn_reaches_a_client_through_the_shared_model():
    alone, together = (play(tiny_federation(), options(mutual_own=part), rounds=2)[0] for part in (1.0, 0.5))
    assert not torch.equal(alone["weights"][0]["body.0.weight"], together["weights"][0]["body.0.weight"])


def test_own_models_may_be_of_other_kinds_than_the_shared_one():
    federation = tiny_federation(model=("LeNet5", "MLP"))
    asked = options(model=("LeNet5", "MLP"), shared_model="ResNet4")
    state, done = play(federation, asked, rounds=2)
    assert [row.keys() for row in state["weights"]] == [federation.initial(k).keys() for k in range(3)]
    assert state["server"].keys() == fml.shared_of(federation, asked).state_dict().keys()
    assert list(done.models) == ["personal", "global"]
    for answer, client in (("personal", 1), ("global", 0)):
        config = {"model": ["LeNet5", "MLP"], "shared_model": "ResNet4", "feature_dim": asked.feature_dim}
        config["feature_dim"] = 6 if answer == "personal" else asked.feature_dim
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


def test_the_defaults_are_those_of_the_authors():
    flags = fml.Options(algorithm="fml")
    assert (flags.optimizer, flags.lr, flags.momentum, flags.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
    assert (flags.batch_size, flags.epoch_per_round, flags.rounds, flags.shared_model) == (128, 1, 90, "LeNet5")


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
