"""APFL: a step against the paper's algebra, its two ends, and who answers with what."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_data, tiny_federation, weights_of
from torch.func import functional_call

import models
from algorithms import apfl
from federation import Federation
from helpers import train

WHOLE = 60  # one full batch an epoch


def options(**flags):
    return options_for("apfl", **flags)


def gradients(model, row, x, y):
    """Of the cross-entropy of these weights, by name."""
    row = {name: tensor.clone().requires_grad_(tensor.is_floating_point()) for name, tensor in row.items()}
    names = [name for name, _ in model.named_parameters()]
    value = F.cross_entropy(functional_call(model, row, (x,))[1], y)
    return dict(zip(names, torch.autograd.grad(value, [row[name] for name in names]), strict=True))


def test_a_full_step_is_the_papers_for_w_for_v_and_for_alpha():
    federation, lr = tiny_federation(model="MLP"), 0.05
    asked = options(batch_size=WHOLE, mixture=0.3, lr=lr)
    state, _ = play(federation, asked)
    common = federation.initial()
    state["mine"][1] = {"v": federation.initial(1), "alpha": torch.tensor(0.3, dtype=torch.float64)}
    v, w, alpha = state["mine"][1]["v"], state["server"], 0.3
    assert any(not torch.equal(w[name], common[name]) for name in w)
    apfl.communicate(federation.at(2), state, asked)
    share, net = federation.shares[1], federation.architectures[0]().double()
    x, y = federation.data.images(share, federation.dtype), federation.data.y[share]
    mixed = {name: alpha * v[name] + (1 - alpha) * w[name] for name in w}
    slope = gradients(net, mixed, x, y)
    for name, tensor in state["mine"][1]["v"].items():
        torch.testing.assert_close(tensor, v[name] - lr * alpha * slope[name], rtol=0, atol=1e-12)
    moved = alpha - lr * sum(((v[name] - w[name]) * slope[name]).sum() for name in slope).item()
    assert state["mine"][1]["alpha"].item() == pytest.approx(moved, abs=1e-12)


@pytest.mark.parametrize("mixture", [0.0, 0.4, 1.0])
def test_the_model_that_travels_is_that_of_fedavg_whatever_the_mixture(mixture):
    ours, done = play(tiny_federation(participation=0.7), options(mixture=mixture), rounds=3)
    theirs, _ = play(tiny_federation(participation=0.7), options_for("fedavg"), rounds=3)
    assert all(torch.equal(ours["server"][name], tensor) for name, tensor in theirs["server"].items())
    assert all(torch.equal(tensor, theirs["server"][name]) for name, tensor in weights_of(done.models["global"]).items())


def test_with_nothing_of_its_own_a_client_answers_as_fedavg():
    _, done = play(tiny_federation(), options(mixture=0.0, fixed_mixture=True), rounds=3)
    theirs, _ = play(tiny_federation(), options_for("fedavg"), rounds=3)
    for k in range(3):
        own = weights_of(done.models["personal"], k)
        assert all(torch.equal(tensor, theirs["server"][name]) for name, tensor in own.items())


def test_with_nothing_of_the_others_a_client_learns_alone_from_the_common_start():
    _, done = play(tiny_federation(), options(mixture=1.0, fixed_mixture=True), rounds=3)
    federation = tiny_federation()
    rows, alone = [federation.initial()] * 3, options_for("independent")
    for r in (1, 2, 3):
        rows = train(federation.at(r), [0, 1, 2], rows, apfl.cross_entropy, alone).weights
    for k in range(3):
        for name, tensor in weights_of(done.models["personal"], k).items():
            torch.testing.assert_close(tensor, rows[k][name], rtol=0, atol=1e-12)


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
    asked = options(mixture=0.95, lr=0.3, batch_size=4, weight_decay=decay)
    v, draw = federation.initial(), torch.Generator().manual_seed(5)
    v = {name: w + torch.randn(w.shape, generator=draw, dtype=w.dtype) for name, w in v.items()}
    expected, left, back = by_hand(federation, v, 12, 0.95, 0.3, 4, decay)
    assert left > 0, "a step leads out of [0, 1]"
    assert back > 0, "and a later one leads back: alpha is not frozen at an end"
    state = apfl.start(federation, asked)
    state["begin"]["v"] = v
    for r in range(1, 13):
        apfl.communicate(federation.at(r), state, asked)
    assert state["mine"][0]["alpha"].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("mixture", [0.0, 1.0])
def test_at_its_ends_the_mixture_has_the_normalisation_of_fedavg_and_of_learning_alone(mixture):
    federation = tiny_federation(model="CNN4")
    _, done = play(federation, options(mixture=mixture, fixed_mixture=True), rounds=3)
    expected, theirs = [], tiny_federation(model="CNN4")
    if mixture:
        rows, alone = [theirs.initial()] * 3, options_for("independent")
        for r in (1, 2, 3):
            rows = train(theirs.at(r), [0, 1, 2], rows, apfl.cross_entropy, alone).weights
        expected = rows
    else:
        expected = [play(theirs, options_for("fedavg"), rounds=3)[0]["server"]] * 3
    assert sum("running" in name for name in expected[0]) == 8
    for k in federation.clients:
        for name, tensor in weights_of(done.models["personal"], k).items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, expected[k][name], rtol=0, atol=1e-12)


def test_the_mixture_stays_between_its_ends_and_where_it_is_fixed_where_it_is():
    wild = replace(options(mixture=1.0), lr=3.0)
    state, _ = play(tiny_federation(), wild, rounds=3)
    assert all(0 <= row["alpha"] <= 1 for row in state["mine"].values())
    state, _ = play(tiny_federation(), options(mixture=0.3, fixed_mixture=True), rounds=3)
    assert {row["alpha"].item() for row in state["mine"].values()} == {0.3}
    state, _ = play(tiny_federation(), options(mixture=0.3), rounds=3)
    assert 0.3 not in {row["alpha"].item() for row in state["mine"].values()}
