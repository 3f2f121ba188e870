"""APFL: a step against the paper's algebra, its two ends, and who answers with what."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_federation, weights_of
from torch.func import functional_call

from algorithms import apfl
from helpers import Batch, train

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
    assert all(torch.equal(tensor, theirs["server"][name]) for name, tensor in weights_of(done.answers["global"]).items())


def test_with_nothing_of_its_own_a_client_answers_as_fedavg():
    _, done = play(tiny_federation(), options(mixture=0.0, fixed_mixture=True), rounds=3)
    theirs, _ = play(tiny_federation(), options_for("fedavg"), rounds=3)
    for k in range(3):
        own = weights_of(done.answers["personal"], k)
        assert all(torch.equal(tensor, theirs["server"][name]) for name, tensor in own.items())


def test_with_nothing_of_the_others_a_client_learns_alone_from_the_common_start():
    _, done = play(tiny_federation(), options(mixture=1.0, fixed_mixture=True), rounds=3)
    federation = tiny_federation()
    rows, alone = [federation.initial()] * 3, options_for("independent")
    for r in (1, 2, 3):
        rows = train(federation.at(r), [0, 1, 2], rows, apfl.cross_entropy, alone).weights
    for k in range(3):
        for name, tensor in weights_of(done.answers["personal"], k).items():
            torch.testing.assert_close(tensor, rows[k][name], rtol=0, atol=1e-12)


def test_the_answer_is_the_mixture_with_the_servers_model():
    federation = tiny_federation()
    state, done = play(federation, options(mixture=0.4), rounds=2)
    for k in federation.clients:
        alpha, v = state["mine"][k]["alpha"], state["mine"][k]["v"]
        for name, tensor in weights_of(done.answers["personal"], k).items():
            torch.testing.assert_close(tensor, alpha * v[name] + (1 - alpha) * state["server"][name])
    assert done.told["alpha"] == {k: state["mine"][k]["alpha"].item() for k in range(3)}


def test_who_has_not_taken_part_yet_has_the_common_start_and_takes_no_room():
    federation = tiny_federation(participation=0.4)
    state, done = play(federation, options(mixture=0.25))
    assert list(state["mine"]) == done.clients
    absent = next(k for k in federation.clients if k not in done.clients)
    begin = federation.initial()
    for name, tensor in weights_of(done.answers["personal"], absent).items():
        torch.testing.assert_close(tensor, 0.25 * begin[name] + 0.75 * state["server"][name])


def test_a_step_that_leads_out_of_the_mixture_counts_as_its_end_and_leads_back():
    federation = tiny_federation(model="MLP")
    pair = federation.paired(federation.architectures[0]().double(), apfl.Mixture).skeletons[0]
    batch = Batch(federation.data.images(torch.arange(9), federation.dtype), federation.data.y[:9], torch.arange(9))
    values, slopes = {}, {}
    for alpha in (1.0, 1.7):
        pair.alpha.data.fill_(alpha)
        value = apfl.loss(pair, batch, None, options())
        values[alpha], (slopes[alpha],) = value.item(), torch.autograd.grad(value, [pair.alpha])
    assert values[1.0] == values[1.7]
    assert slopes[1.0] != 0
    assert slopes[1.7] == 0


def test_the_mixture_stays_between_its_ends_and_where_it_is_fixed_where_it_is():
    wild = replace(options(mixture=1.0), lr=3.0)
    state, _ = play(tiny_federation(), wild, rounds=3)
    assert all(0 <= row["alpha"] <= 1 for row in state["mine"].values())
    state, _ = play(tiny_federation(), options(mixture=0.3, fixed_mixture=True), rounds=3)
    assert {row["alpha"].item() for row in state["mine"].values()} == {0.3}
    state, _ = play(tiny_federation(), options(mixture=0.3), rounds=3)
    assert 0.3 not in {row["alpha"].item() for row in state["mine"].values()}
