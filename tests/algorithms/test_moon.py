"""MOON against a loop over the images, its teachers, and FedAvg, of which it is a setting."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import away, options_for, play, same_run, spied, tiny_federation

from algorithms import moon
from helpers import Batch

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def other_weights(federation, seed):
    """A row of weights that has nothing in common with the initial one, running statistics included."""
    generator = torch.Generator().manual_seed(seed)
    row = federation.initial()
    return {
        name: w + torch.rand(w.shape, generator=generator, dtype=w.dtype) if w.is_floating_point() else w
        for name, w in row.items()
    }


@pytest.mark.parametrize("model", ["MLP", "CNN4"])
@pytest.mark.parametrize("flags", [{}, {"optimizer": "adam", "lr": 0.01}, {"bn": "local"}])
def test_mu_0_is_fedavg_to_the_last_bit(model, flags):
    flags = {"epoch_per_round": 2, "weight_decay": 0.1, "momentum": 0.9, **flags}
    same_run(("moon", {"mu": 0.0, **flags}), ("fedavg", flags), model)


def image_by_image(federation, row, received, previous, batch, mu, tau):
    """The loss written out, and its gradient by the parameters of the model that learns."""
    student, glob, prev = (federation.architectures[0]().double() for _ in range(3))
    student.load_state_dict(row)
    glob.load_state_dict(received)
    prev.load_state_dict(previous)
    features, logits = student.train()(batch.x)
    total = 0.0
    for b in range(len(batch.y)):
        x = batch.x[b : b + 1]
        z, z_glob, z_prev = features[b], glob.eval()(x)[0][0].detach(), prev.eval()(x)[0][0].detach()
        s_glob = (z @ z_glob) / (z.norm() * z_glob.norm())
        s_prev = (z @ z_prev) / (z.norm() * z_prev.norm())
        e_glob, e_prev = torch.exp(s_glob / tau), torch.exp(s_prev / tau)
        total = total - logits[b].log_softmax(0)[batch.y[b]] - mu * torch.log(e_glob / (e_glob + e_prev))
    value = total / len(batch.y)
    value.backward()
    return value.detach(), {name: w.grad for name, w in student.named_parameters()}


@pytest.mark.parametrize("model", ["LeNet5", "CNN4"])
def test_the_loss_and_its_gradient_are_those_of_a_slow_loop(model):
    federation, share = tiny_federation(model=model), torch.arange(8)
    row, received, previous = federation.initial(), other_weights(federation, 1), other_weights(federation, 2)
    batch = Batch(federation.data.images(share, torch.float64), federation.data.y[share], share)
    expected, slopes = image_by_image(federation, row, received, previous, batch, mu=3.0, tau=0.2)
    learning = federation.model(0, row).train()
    learning.drop_from(federation.stream("dropout", 0))
    value = moon.loss(learning, batch, (received, previous), options_for("moon", mu=3.0, temperature=0.2))
    value.backward()
    torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-10)
    assert away({name: w.grad for name, w in learning.named_parameters()}, slopes) < 1e-8
    plain = F.cross_entropy(federation.model(0, row).train()(batch.x)[1], batch.y)
    assert abs(value - plain) > 1e-3, "the term is there"


def test_other_weights_are_asked_as_in_evaluation_and_leave_no_trace():
    federation = tiny_federation(model="CNN4")
    row, received = federation.initial(), other_weights(federation, 1)
    kept = {name: w.clone() for name, w in received.items()}
    model, x = federation.model(0, row).train(), federation.data.images(torch.arange(5), torch.float64)
    model.drop_from(federation.stream("dropout", 0))
    found = moon.features_of(model, received, x)
    assert not found.requires_grad
    assert all(module.training for module in model.modules()), "the model goes on training"
    assert same(dict(model.state_dict()), row)
    assert same(received, kept)
    reference = federation.architectures[0]().double().eval()
    reference.load_state_dict(received)
    torch.testing.assert_close(found, reference(x)[0], rtol=0, atol=1e-10)


def test_the_first_time_the_term_is_log_2_and_has_no_gradient():
    # both cosines are one number
    federation = tiny_federation()
    flags = options_for("moon", mu=5.0, batch_size=WHOLE)
    _, done = play(federation, flags)
    _, expected = play(tiny_federation(), options_for("fedavg", batch_size=WHOLE, momentum=flags.momentum))
    torch.testing.assert_close(done.loss, expected.loss + 5 * math.log(2), rtol=0, atol=1e-10)


def test_teachers_are_what_was_received_and_what_the_client_trained_last_whenever_that_was(monkeypatch):
    federation, seen = tiny_federation(participation=0.7), spied(monkeypatch, moon)
    flags = options_for("moon", batch_size=WHOLE)
    state, last, again = moon.start(federation, flags), {}, 0
    for r in range(1, 6):
        sent = state["server"]
        done = moon.communicate(federation.at(r), state, flags)
        assert len(seen) == 2
        for k, (received, previous) in zip(done.clients, seen, strict=True):
            assert same(received, sent)
            assert same(previous, last.get(k, sent))
            again += k in last
        last |= dict(zip(done.clients, done.local_weights, strict=True))
        assert state["previous"].keys() == last.keys()
        seen.clear()
    assert again > 4


def test_the_clients_are_averaged_by_n_k_and_drawn_together_the_more_the_larger_mu_is():
    moved = []
    for mu in (0.0, 1.0, 10.0):
        federation = tiny_federation()
        flags = options_for("moon", mu=mu, epoch_per_round=4, momentum=0.0)
        state = moon.start(federation, flags)
        for r in (1, 2, 3):
            done = moon.communicate(federation.at(r), state, flags)
        mean = {
            n: sum(s * row[n] for s, row in zip((10, 20, 30), done.local_weights, strict=True)) / 60 for n in state["server"]
        }
        assert away(state["server"], mean) < 1e-12
        moved.append(done.local_weights[0])
    assert away(moved[0], moved[1]) > 1e-6
    assert away(moved[0], moved[2]) > away(moved[0], moved[1])


def test_the_defaults_are_the_papers():
    flags = moon.Options(algorithm="moon")
    found = (flags.optimizer, flags.lr, flags.momentum, flags.weight_decay, flags.batch_size, flags.epoch_per_round)
    assert found == ("sgd", 0.01, 0.9, 1e-5, 64, 10)
    assert (flags.mu, flags.temperature) == (1.0, 0.5)
