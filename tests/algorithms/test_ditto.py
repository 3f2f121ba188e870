"""Ditto: its global model is FedAvg's, its personal ones without lambda are those of learning alone; and its loop."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, spied, tiny_federation, weights_of

from algorithms import ditto
from helpers import Batch

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch
FLAGS = [
    {"weight_decay": 0.1},
    {"momentum": 0.9, "lr_schedule": "step", "rounds": 4},
    {"optimizer": "adam", "lr": 0.01, "straggler": 0.5},
]


def two_of_three(**others):
    return tiny_federation(participation=0.7, dtype=torch.float32, **others)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", ["MLP_dropout", "CNN4"])
@pytest.mark.parametrize("flags", FLAGS)
def test_without_lambda_personal_models_learn_alone_from_the_common_start_to_the_last_bit(model, flags):
    one, other = two_of_three(model=model), two_of_three(model=model)
    alone = replace(other, start=other.initial())  # everyone's first weights
    flags = {"epoch_per_round": 2, **flags}
    _, done = play(one, options_for("ditto", lam=0.0, **flags), 4)
    _, expected = play(alone, options_for("independent", **flags), 4)
    assert torch.equal(done.loss, expected.loss)
    for k in one.clients:
        assert same(weights_of(done.models["personal"], k), weights_of(expected.models["personal"], k))


@pytest.mark.parametrize("model", ["MLP_dropout", "CNN4"])
@pytest.mark.parametrize("flags", FLAGS)
def test_the_global_model_is_fedavgs_to_the_last_bit_whatever_lambda_is(model, flags):
    one, other = two_of_three(model=model), two_of_three(model=model)
    flags = {"epoch_per_round": 2, **flags}
    _, done = play(one, options_for("ditto", lam=0.7, **flags), 4)
    _, expected = play(other, options_for("fedavg", **flags), 4)
    assert same(weights_of(done.models["global"]), weights_of(expected.models["global"]))
    assert one.wire.collect() == other.wire.collect()


def test_a_personal_model_descends_its_loss_and_is_drawn_to_what_was_received_in_that_round():
    # v <- v - lr (grad F_k(v) + lambda (v - w^t)), by steps of full batches, over two rounds
    lr, lam, rounds, epochs = 0.05, 0.8, 3, 2
    federation = tiny_federation(model="MLP")
    flags = options_for("ditto", lam=lam, lr=lr, batch_size=WHOLE, epoch_per_round=epochs)
    received = [federation.initial()]
    received += [weights_of(play(federation, flags, r)[1].models["global"]) for r in range(1, rounds)]
    _, done = play(federation, flags, rounds)
    model = federation.architectures[0]().double()
    for k, share in enumerate(federation.shares):
        model.load_state_dict(federation.initial())
        x, y = federation.data.images(share, torch.float64), federation.data.y[share]
        for w in received:
            for _ in range(epochs):
                model.zero_grad()
                F.cross_entropy(model(x)[1], y).backward()
                with torch.no_grad():
                    for name, v in model.named_parameters():
                        v -= lr * (v.grad + lam * (v - w[name]))
        for name, found in weights_of(done.models["personal"], k).items():
            torch.testing.assert_close(found, model.state_dict()[name], rtol=0, atol=1e-10)


def test_the_term_is_half_lambda_times_the_squared_distance_of_all_parameters_and_of_no_buffer():
    federation = tiny_federation(model="CNN4")
    received = {name: w + (torch.rand_like(w) if w.is_floating_point() else 1) for name, w in federation.initial().items()}
    model = federation.model(0, federation.initial())
    batch = Batch(federation.data.images(torch.arange(8), torch.float64), federation.data.y[:8], torch.arange(8))
    found = ditto.loss(model, batch, received, options_for("ditto", lam=0.3))
    distance = sum(((w - received[name]) ** 2).sum() for name, w in model.named_parameters())
    torch.testing.assert_close(found, F.cross_entropy(model(batch.x)[1], batch.y) + 0.15 * distance)


def test_the_anchor_is_what_the_server_sent_in_that_round(monkeypatch):
    federation, seen = tiny_federation(participation=0.7), spied(monkeypatch, ditto)
    flags = options_for("ditto", batch_size=WHOLE)
    state = ditto.start(federation, flags)
    for r in (1, 2, 3):
        sent = state["server"]
        ditto.communicate(federation.at(r), state, flags)
        assert len(seen) == 2, "of the personal models; the other training has the cross-entropy"
        assert all(same(given, sent) for given in seen)
        seen.clear()


def test_a_larger_lambda_keeps_personal_models_nearer_to_each_other():
    spreads = []
    for lam in (0.0, 1.0, 10.0):
        federation = tiny_federation(model="MLP")
        _, done = play(federation, options_for("ditto", lam=lam, epoch_per_round=4), 3)
        rows = [weights_of(done.models["personal"], k) for k in range(3)]
        spreads.append(sum((rows[0][name] - rows[2][name]).square().sum() for name in rows[0]))
    assert spreads[0] > spreads[1] > spreads[2]


def test_personal_models_are_the_headline_and_are_kept_of_those_alone_that_took_part():
    federation = two_of_three()
    state, done = play(federation, options_for("ditto"))
    assert list(done.models) == ["personal", "global"]
    assert set(state["personal"]) == set(state["memory"]) == set(done.clients)
    (absent,) = set(federation.clients) - set(done.clients)
    assert same(weights_of(done.models["personal"], absent), federation.initial())


def test_both_trainings_of_a_round_are_the_clients_steps():
    one, other = tiny_federation(), tiny_federation()
    play(one, options_for("ditto"))
    play(other, options_for("fedavg"))
    for k in one.clients:
        for what in ("steps", "samples", "flops"):
            assert one.meter.spent[what, "client", k] == 2 * other.meter.spent[what, "client", k]
