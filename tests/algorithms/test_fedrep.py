"""FedRep against FedBABU, of which it is a setting without head epochs, and against its two descents written out."""

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_federation, weights_of

from algorithms import fedrep

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch
HEAD = {"classifier.weight", "classifier.bias"}


def two_of_three(**others):
    return tiny_federation(participation=0.7, **{"model": "MLP", **others})


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def only(row, names):
    return {name: tensor for name, tensor in row.items() if name in names}


def descended(federation, row, share, part, steps, lr=0.05, momentum=0.5):
    """Full-batch steps of a textbook SGD, from a fresh start, on one part of the network alone."""
    model = federation.architectures[0]().double()
    model.load_state_dict(row)
    optimizer = torch.optim.SGD(getattr(model, part).parameters(), lr=lr, momentum=momentum)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(federation.data.images(share, torch.float64))[1], federation.data.y[share]).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("model", ["MLP", "CNN4"])
@pytest.mark.parametrize("flags", [{"momentum": 0.9, "weight_decay": 0.1}, {"optimizer": "adam", "momentum": 0.0}])
def test_without_head_epochs_it_is_fedbabu_to_the_last_bit(model, flags):
    one, other = (two_of_three(model=model, dtype=torch.float32) for _ in range(2))
    flags = {"epoch_per_round": 2, "weight_decay": 0.0, **flags}
    state, done = play(one, options_for("fedrep", head_epochs=0, **flags), 3)
    expected, as_expected = play(other, options_for("fedbabu", **flags), 3)
    assert same(state["server"], expected["server"])
    assert torch.equal(done.loss, as_expected.loss)
    for k in one.clients:
        assert same(weights_of(done.models["personal"], k), weights_of(as_expected.models["global"]))
    assert one.wire.collect() == other.wire.collect()


def test_a_client_trains_its_own_head_under_the_body_it_received_and_then_the_body_under_that_head():
    # two rounds over unequal shares: the head goes on from where it was, the body from the average by n_k
    federation = tiny_federation(model="MLP")
    flags = options_for("fedrep", head_epochs=3, epoch_per_round=2, batch_size=WHOLE, momentum=0.5, weight_decay=0.0)
    body, heads = federation.initial(), [federation.initial()] * 3
    for rounds in (1, 2):
        state, done = play(federation, flags, rounds)
        trained = []
        for head, share in zip(heads, federation.shares, strict=True):
            row = descended(federation, {**body, **only(head, HEAD)}, share, "classifier", 3)
            trained.append(descended(federation, row, share, "body", 2))
        heads = trained
        body = {name: sum(n * row[name] for n, row in zip((10, 20, 30), trained, strict=True)) / 60 for name in body}
        for k in federation.clients:
            expected = {**body, **only(heads[k], HEAD)}
            for name, found in weights_of(done.models["personal"], k).items():
                torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-10)
    assert state["server"].keys() == set(body) - HEAD


def test_the_loss_is_that_of_the_body_under_the_head_that_was_trained():
    federation = tiny_federation(model="MLP")
    _, done = play(federation, options_for("fedrep", head_epochs=4, batch_size=WHOLE, momentum=0.5, weight_decay=0.0))
    for k, share in enumerate(federation.shares):
        row = descended(federation, federation.initial(), share, "classifier", 4)
        model = federation.model(k, row)
        expected = F.cross_entropy(model(federation.data.images(share, torch.float64))[1], federation.data.y[share])
        torch.testing.assert_close(done.loss[k], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", ["CNN4", "MLP"])
def test_while_the_head_is_trained_the_body_keeps_its_bits_and_its_running_statistics(model):
    federation = tiny_federation(model=model)
    state, done = play(federation, options_for("fedrep", head_epochs=2, epoch_per_round=0))  # as if the body had none
    initial = federation.initial()
    for k in federation.clients:
        row = weights_of(done.models["personal"], k)
        assert not any(torch.equal(row[name], initial[name]) for name in HEAD)
        for name in row.keys() - HEAD:
            torch.testing.assert_close(row[name], initial[name], rtol=0, atol=1e-14)  # the average of equals
        assert same(only(done.local_weights[k], row.keys() - HEAD), only(initial, row.keys() - HEAD))
    assert set(state["own"]) == {0, 1, 2}


def test_heads_are_kept_of_those_alone_that_took_part_and_the_others_have_the_common_one():
    federation = two_of_three()
    state, done = play(federation, options_for("fedrep", head_epochs=1))
    assert set(state["own"]) == set(done.clients)
    (absent,) = set(federation.clients) - set(done.clients)
    assert same(only(weights_of(done.models["personal"], absent), HEAD), only(federation.initial(), HEAD))
    assert all(row.keys() == HEAD for row in state["own"].values())


def test_normalisation_that_is_local_stays_with_its_client():
    federation = tiny_federation(model="CNN4")
    bn = federation.names("bn")
    state, done = play(federation, options_for("fedrep", head_epochs=1, bn="local"), 2)
    assert bn
    assert state["server"].keys() == federation.names("body") - bn
    for k, trained in enumerate(done.local_weights):
        assert same(only(weights_of(done.models["personal"], k), bn | HEAD), only(trained, bn | HEAD))


def test_the_defaults_are_those_of_the_authors():
    flags = fedrep.Options(algorithm="fedrep")
    assert (flags.head_epochs, flags.epoch_per_round, flags.batch_size) == (10, 1, 10)
    assert (flags.optimizer, flags.lr, flags.momentum, flags.weight_decay) == ("sgd", 0.01, 0.5, 1e-4)
