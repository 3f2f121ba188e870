"""pFedMe: its inner problem, the server's step, its personal models, and what it costs."""

import oracles
import pytest
import torch
from conftest import WHOLE, close, options_for, play, tiny_federation, weights_of

from algorithms import pfedme
from helpers import gradient_descent, train

INNER = {"lam": 2.0, "inner_lr": 0.1, "inner_steps": 3}


def test_the_inner_problem_of_a_quadratic_ends_in_its_fixed_point():
    # f(theta) = a/2 (theta - b)^2: where a (theta - b) + lambda (theta - w) = 0
    a, b, w = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 4.0], [3.0, -1.0], [0.5, 2.0]))
    result = gradient_descent(lambda theta: {"w": a * (theta["w"] - b)}, {"w": w}, lr=0.1, steps=300, pull=5.0)
    torch.testing.assert_close(result["w"], (a * b + 5 * w) / (a + 5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_server_goes_a_part_beta_of_the_way_in_parameters_and_averages_buffers(beta):
    federation = tiny_federation(model="CNN4")
    flags = options_for("pfedme", beta=beta, **INNER)
    _, done = play(federation, flags)
    initial = federation.initial()
    trained = train(federation.at(1), [0, 1, 2], [initial] * 3, pfedme.loss, flags).weights
    learnt = {name for name, _ in federation.skeletons[0].named_parameters()}
    for name, model in weights_of(done.models["global"]).items():
        mean = sum(row[name] for row in trained) / 3
        if name in learnt:
            torch.testing.assert_close(model, initial[name] + beta * (mean - initial[name]), rtol=0, atol=1e-10)
        elif model.is_floating_point():
            torch.testing.assert_close(model, mean, rtol=0, atol=1e-10)
        else:
            assert torch.equal(model, trained[0][name])


def test_the_personal_model_is_theta_of_the_clients_own_w_and_whole_share_in_evaluation_mode():
    federation = tiny_federation(model="CNN4")
    flags = options_for("pfedme", augment="flip", **INNER)
    _, done = play(federation, flags)
    w = train(federation.at(1), [0, 1, 2], [federation.initial()] * 3, pfedme.loss, flags).weights
    for k, share in enumerate(federation.shares):
        close(weights_of(done.models["personal"], k), oracles.pfedme_theta(federation, w[k], share, flags))
    assert not torch.allclose(w[0]["classifier.bias"], weights_of(done.models["personal"], 0)["classifier.bias"], atol=1e-6)


def test_an_inner_step_costs_what_a_step_of_fedavg_does():
    # K gradients and one way forward a batch, and K gradients over the share after the last
    spent = {}
    for name, flags in (("fedavg", {}), *(("pfedme", {"inner_steps": steps}) for steps in (1, 3))):
        federation = tiny_federation(model="MLP")
        play(federation, options_for(name, batch_size=WHOLE, **flags))
        spent[name, flags.get("inner_steps")] = federation.meter.spent["flops", "client", 0]
        assert federation.meter.spent["steps", "client", 0] == 1
    assert spent["pfedme", 3] - spent["pfedme", 1] == 2 * 2 * spent["fedavg", None]
