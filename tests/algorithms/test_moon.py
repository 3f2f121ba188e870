"""MOON: its teachers, its first round, and what its weight does."""

import math

import torch
from conftest import WHOLE, away, elsewhere, options_for, play, same, spied, tiny_federation

from algorithms import moon


def test_other_weights_are_asked_as_in_evaluation_and_leave_no_trace():
    federation = tiny_federation(model="CNN4")
    row, received = federation.initial(), elsewhere(federation, 1)
    kept = {name: w.clone() for name, w in received.items()}
    model, x = federation.model(0, row).train(), federation.data.images(torch.arange(5), torch.float64)
    model.drop_from(federation.stream("dropout", 0))
    features = moon.features_of(model, received, x)
    assert not features.requires_grad
    assert all(module.training for module in model.modules()), "the model goes on training"
    assert same(dict(model.state_dict()), row)
    assert same(received, kept)
    reference = federation.architectures[0]().double().eval()
    reference.load_state_dict(received)
    torch.testing.assert_close(features, reference(x)[0], rtol=0, atol=1e-10)


def test_the_first_time_the_term_is_log_2_and_has_no_gradient():
    # both cosines are one number
    federation = tiny_federation()
    flags = options_for("moon", mu=5.0, batch_size=WHOLE)
    _, done = play(federation, flags)
    _, expected = play(tiny_federation(), options_for("fedavg", batch_size=WHOLE, momentum=flags.momentum))
    torch.testing.assert_close(done.loss, expected.loss + 5 * math.log(2), rtol=0, atol=1e-10)


def test_teachers_are_what_was_received_and_what_the_client_trained_last_whenever_that_was(monkeypatch):
    federation, recorded = tiny_federation(participation=0.7), spied(monkeypatch, moon)
    flags = options_for("moon", batch_size=WHOLE)
    state, last, again = moon.start(federation, flags), {}, 0
    for r in range(1, 6):
        sent = state["server"]
        done = moon.communicate(federation.at(r), state, flags)
        assert len(recorded) == 2
        for k, (received, previous) in zip(done.clients, recorded, strict=True):
            assert same(received, sent)
            assert same(previous, last.get(k, sent))
            again += k in last
        last |= dict(zip(done.clients, done.local_weights, strict=True))
        assert state["previous"].keys() == last.keys()
        recorded.clear()
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
