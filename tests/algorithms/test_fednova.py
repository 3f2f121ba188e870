"""FedNova: how often a gradient counts, the optimum that it has, and the number of steps on the wire."""

import pytest
from conftest import away, drifting, optimum, options_for, play, tiny_federation

from algorithms import fedavg, fednova
from federation.wire import Wire
from helpers import train


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


@pytest.mark.parametrize("compress", ["fp16", "int8"])
def test_the_number_of_steps_arrives_exactly_where_weights_are_rounded(compress, monkeypatch):
    # fp16 knows no 2051, which would arrive as 2052
    steps, wire, recorded = [2051, 3, 70], Wire(compress), {}
    inner = Wire._carry

    def heard(self, direction, kind, rows, clients):
        recorded[kind] = inner(self, direction, kind, rows, clients)
        return recorded[kind]

    monkeypatch.setattr(Wire, "_carry", heard)
    monkeypatch.setattr(fednova, "train", lambda *args: train(*args)._replace(steps=steps))
    play(tiny_federation(model="MLP", wire=wire), options_for("fednova", momentum=0.0))
    assert [a_k.item() for a_k in recorded["|a_k|"]] == steps
    assert wire.collect()["up", "|a_k|"] == {0: 8, 1: 8, 2: 8}
