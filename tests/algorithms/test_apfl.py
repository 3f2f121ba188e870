"""APFL: who answers with what, and an alpha that is projected."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import options_for, play, tiny_data, tiny_federation, weights_of

import models
from algorithms import apfl
from federation import Federation


def options(**flags):
    return options_for("apfl", **flags)


def test_the_answer_is_the_mixture_with_the_servers_model():
    federation = tiny_federation()
    state, done = play(federation, options(mixture=0.4), rounds=2)
    for k in federation.clients:
        alpha, v = state["mine"][k]["alpha"], state["mine"][k]["v"]
        for name, tensor in weights_of(done.models["personal"], k).items():
            torch.testing.assert_close(tensor, alpha * v[name] + (1 - alpha) * state["server"][name])
    assert done.metrics["alpha"] == {k: state["mine"][k]["alpha"].item() for k in range(3)}


def test_who_has_not_taken_part_yet_has_the_common_start_and_takes_no_room():
    federation = tiny_federation(participation=0.4)
    state, done = play(federation, options(mixture=0.25))
    assert list(state["mine"]) == done.clients
    absent = next(k for k in federation.clients if k not in done.clients)
    begin = federation.initial()
    for name, tensor in weights_of(done.models["personal"], absent).items():
        torch.testing.assert_close(tensor, 0.25 * begin[name] + 0.75 * state["server"][name])


def by_hand(federation, v, rounds, alpha, lr, batch_size, decay):
    """alpha of a client that is alone after so many rounds of projected SGD on softmax regressions w and v, in numpy, and
    how often a step led out of [0, 1] and how often alpha then came back from an end."""
    share, left, back = federation.shares[0].numpy(), 0, 0
    x = federation.data.images(federation.shares[0], torch.float64).flatten(1).numpy()
    one_hot = np.eye(3)[federation.data.y[federation.shares[0]].numpy()]
    w, v = (np.c_[row["classifier.weight"].numpy(), row["classifier.bias"].numpy()] for row in (federation.initial(), v))
    x = np.c_[x, np.ones(len(x))]

    def slope(weights, i):
        e = np.exp(x[i] @ weights.T)
        return (e / e.sum(1, keepdims=True) - one_hot[i]).T @ x[i] / len(i)

    for r in range(1, rounds + 1):
        order = federation.at(r).stream("batches", 0).permutation(len(share))
        for i in np.split(order, range(batch_size, len(order), batch_size)):
            g, of_mixture = slope(w, i), slope(alpha * v + (1 - alpha) * w, i)
            step = alpha - lr * ((v - w) * of_mixture).sum()
            w, v = w - lr * (g + decay * w), v - lr * (alpha * of_mixture + decay * v)
            left, back = left + (step > 1 or step < 0), back + (alpha in (0, 1) and 0 < step < 1)
            alpha = min(max(step, 0.0), 1.0)
    return alpha, left, back


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_alpha_is_that_of_projected_sgd_and_is_not_decayed(decay):
    data = tiny_data(size=2)
    federation = Federation.of(data, [np.arange(24)], [lambda: models.Net(torch.nn.Flatten(), 4, 3)], dtype=torch.float64)
    requested = options(mixture=0.95, lr=0.3, batch_size=4, weight_decay=decay)
    v, draw = federation.initial(), torch.Generator().manual_seed(5)
    v = {name: w + torch.randn(w.shape, generator=draw, dtype=w.dtype) for name, w in v.items()}
    expected, left, back = by_hand(federation, v, 12, 0.95, 0.3, 4, decay)
    assert left > 0, "a step leads out of [0, 1]"
    assert back > 0, "and a later one leads back: alpha is not frozen at an end"
    state = apfl.start(federation, requested)
    state["begin"]["v"] = v
    for r in range(1, 13):
        apfl.communicate(federation.at(r), state, requested)
    assert state["mine"][0]["alpha"].item() == pytest.approx(expected, abs=1e-9)


def test_the_mixture_stays_between_its_ends_and_where_it_is_fixed_where_it_is():
    wild = replace(options(mixture=1.0), lr=3.0)
    state, _ = play(tiny_federation(), wild, rounds=3)
    assert all(0 <= row["alpha"] <= 1 for row in state["mine"].values())
    state, _ = play(tiny_federation(), options(mixture=0.3, fixed_mixture=True), rounds=3)
    assert {row["alpha"].item() for row in state["mine"].values()} == {0.3}
    state, _ = play(tiny_federation(), options(mixture=0.3), rounds=3)
    assert 0.3 not in {row["alpha"].item() for row in state["mine"].values()}
