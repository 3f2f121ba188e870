"""FedNova against sums of weighted gradients written out, and FedAvg, which it is where all take as many steps."""

import pytest
import torch
from conftest import away, drifting, gradient_of, line_of, optimum, options_for, play, tiny_federation, weights_of

from algorithms import fedavg, fednova
from federation.wire import Wire
from helpers import train

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_gradient_counts_as_often_as_the_steps_hold_it(momentum, steps):
    # constant gradients of 1 and a rate of 1: what SGD has gone is |a|_1
    w, velocity = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        w -= velocity
    assert fednova.counted(steps, momentum) == pytest.approx(-w)
    assert momentum or fednova.counted(steps, momentum) == steps


@pytest.mark.parametrize("model", ["MLP", "CNN4"])
@pytest.mark.parametrize("flags", [{"momentum": 0.0}, {"momentum": 0.9, "clip_grad": 1.0}, {"momentum": 0.9, "bn": "local"}])
def test_where_all_take_as_many_steps_it_is_fedavg(model, flags):
    # all |a_k| are tau, so that x - tau sum_k p_k (x - y_k) / tau = sum_k p_k y_k
    flags = {"epoch_per_round": 3, "batch_size": WHOLE, "weight_decay": 0.1, **flags}
    one, other = (tiny_federation(model=model, participation=0.7) for _ in range(2))
    _, done = play(one, options_for("fednova", **flags), rounds=3)
    _, expected = play(other, options_for("fedavg", **flags), rounds=3)
    assert torch.allclose(done.loss, expected.loss, rtol=0, atol=1e-10)
    assert list(done.models) == list(expected.models)
    for name, answer in done.models.items():
        for k in one.clients:
            assert away(weights_of(answer, k), weights_of(expected.models[name], k)) < 1e-10


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("straggler", [0.0, 1.0])
def test_two_rounds_are_the_sums_of_weighted_gradients_written_out(momentum, straggler, monkeypatch):
    federation, taken = tiny_federation(model="MLP", participation=0.7), []

    def noted(*args, **others):
        taken.append(train(*args, **others))
        return taken[-1]

    monkeypatch.setattr(fednova, "train", noted)
    own = {"momentum": momentum, "straggler": straggler, "weight_decay": 0.1}
    flags = options_for("fednova", batch_size=4, epoch_per_round=2, **own)
    _, done = play(federation, flags, rounds=2)
    x, uneven = federation.initial(), False
    for r in (1, 2):
        here = federation.at(r)
        clients = here.sample()
        n, tau, direction = sum(len(here.shares[k]) for k in clients), 0.0, dict.fromkeys(x, 0.0)
        for k, K in zip(clients, taken[r - 1].steps, strict=True):
            order, share, p = here.stream("batches", k), here.shares[k], len(here.shares[k]) / n
            batches = [i for _ in range(2) for i in torch.from_numpy(order.permutation(len(share))).split(4)][:K]
            a = [sum(momentum**j for j in range(K - s)) for s in range(K)]
            y, velocity, weighted = dict(x), dict.fromkeys(x, 0.0), dict.fromkeys(x, 0.0)
            for i, a_s in zip(batches, a, strict=True):
                g = gradient_of(here, y, share[i])
                g = {name: g[name] + flags.weight_decay * y[name] for name in x}
                velocity = {name: momentum * velocity[name] + g[name] for name in x}
                y = {name: y[name] - flags.lr * velocity[name] for name in x}
                weighted = {name: weighted[name] + a_s * g[name] for name in x}
            tau += p * sum(a)
            direction = {name: direction[name] + p * weighted[name] / sum(a) for name in x}
            uneven = uneven or taken[r - 1].steps[0] != K
        x = {name: x[name] - flags.lr * tau * direction[name] for name in x}
    assert uneven
    assert away(weights_of(done.models["global"]), x) < 1e-10


def test_a_client_of_more_steps_weighs_no_more_at_the_optimum_as_it_does_in_fedavg():
    # batches of one example: a client takes K_k = n_k small steps, whose sum is lr K_k grad_k and terms of lr^2.
    # So FedAvg rests where sum_k p_k K_k grad_k = 0, and FedNova where sum_k p_k grad_k = 0
    flags = {"batch_size": 1, "lr": 1e-5, "weight_decay": 0.1, "momentum": 0.0, "epoch_per_round": 1}
    federation = drifting()
    sizes = [len(share) for share in federation.shares]
    right = optimum(federation, 0.1, [n / sum(sizes) for n in sizes])
    wrong = optimum(federation, 0.1, [n**2 / sum(n**2 for n in sizes) for n in sizes])
    gone = {}
    for name, module in (("fednova", fednova), ("fedavg", fedavg)):
        for begun in (right, wrong):
            state = {**module.start(federation, options_for(name, **flags)), "server": begun}
            module.communicate(federation.at(1), state, options_for(name, **flags))
            gone[name, begun is right] = away(state["server"], begun)
    assert gone["fednova", True] < 1e-3 * gone["fednova", False]
    assert gone["fedavg", False] < 1e-3 * gone["fedavg", True]


def test_what_is_sent_is_the_change_for_each_step_the_buffers_as_they_are_the_number_and_the_norm():
    federation = tiny_federation(model="CNN4", dtype=torch.float32)
    play(federation, options_for("fednova"))
    crossed = federation.wire.collect()
    assert {kind for way, kind in crossed if way == "up"} == {"normalised changes", "|a_k|", "n_k"}
    assert crossed["up", "normalised changes"] == crossed["down", "weights"]


@pytest.mark.parametrize("compress", ["fp16", "int8"])
def test_the_number_of_steps_arrives_exactly_where_weights_are_rounded(compress, monkeypatch):
    # fp16 knows no 2051, which would arrive as 2052
    steps, wire, seen = [2051, 3, 70], Wire(compress), {}
    inner = Wire._carry

    def heard(self, direction, kind, rows, clients):
        seen[kind] = inner(self, direction, kind, rows, clients)
        return seen[kind]

    monkeypatch.setattr(Wire, "_carry", heard)
    monkeypatch.setattr(fednova, "train", lambda *args: train(*args)._replace(steps=steps))
    play(tiny_federation(model="MLP", wire=wire), options_for("fednova", momentum=0.0))
    assert [a_k.item() for a_k in seen["|a_k|"]] == steps
    assert wire.collect()["up", "|a_k|"] == {0: 8, 1: 8, 2: 8}


def test_buffers_are_averaged_as_in_fedavg():
    federation = tiny_federation(model="CNN4")
    state, done = play(federation, options_for("fednova"))
    running = [name for name in state["server"] if "running" in name]
    assert len(running) == 8
    for name in running:
        mean = sum(n * row[name] for n, row in zip((10, 20, 30), done.local_weights, strict=True)) / 60
        torch.testing.assert_close(state["server"][name], mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad"])
def test_another_optimizer_than_sgd_is_refused_by_name(optimizer):
    line = line_of(fednova.check, options_for("fednova", optimizer=optimizer), None, 60)
    assert line.startswith(f"--optimizer {optimizer}: fednova")
    assert line.endswith("must be sgd")
    assert fednova.check(options_for("fednova", momentum=0.5), None, 60) == ""


def test_the_defaults_are_those_of_the_authors():
    flags = fednova.Options(algorithm="fednova")
    found = (flags.optimizer, flags.lr, flags.momentum, flags.batch_size, flags.epoch_per_round, flags.weight_decay)
    assert found == ("sgd", 0.02, 0.9, 32, 2, 1e-4)
