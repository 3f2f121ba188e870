"""pFedMe: its inner problem, its step on the envelope and the server's, each written out; and FedAvg as a limit."""

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_federation, weights_of

from algorithms import pfedme
from helpers import Batch, gradient_descent, train

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch
EQUAL = [range(20), range(20, 40), range(40, 60)]
INNER = {"lam": 2.0, "inner_lr": 0.1, "inner_steps": 3}


def close(one, other, tolerance=1e-10):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance)


def theta_of(federation, row, indices, train=False, lam=2.0, inner_lr=0.1, inner_steps=3):
    """theta <- theta - alpha (grad f(theta) + lambda (theta - w)) from theta = w, in a loop over one model's parameters."""
    model = federation.architectures[0]().double().train(train)
    model.load_state_dict(row)
    for _ in range(inner_steps):
        model.zero_grad()
        F.cross_entropy(model(federation.data.images(indices, torch.float64))[1], federation.data.y[indices]).backward()
        with torch.no_grad():
            for name, theta in model.named_parameters():
                theta -= inner_lr * (theta.grad + lam * (theta - row[name]))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_the_inner_problem_of_a_quadratic_ends_in_its_fixed_point():
    # f(theta) = a/2 (theta - b)^2: where a (theta - b) + lambda (theta - w) = 0
    a, b, w = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 4.0], [3.0, -1.0], [0.5, 2.0]))
    found = gradient_descent(lambda theta: {"w": a * (theta["w"] - b)}, {"w": w}, lr=0.1, steps=300, pull=5.0)
    torch.testing.assert_close(found["w"], (a * b + 5 * w) / (a + 5), rtol=0, atol=1e-12)


def test_the_loss_is_the_envelope_and_its_gradient_is_lambda_times_w_less_theta():
    federation, row = tiny_federation(model="MLP"), tiny_federation(model="MLP").initial()
    indices = torch.arange(8, 20)
    model = federation.model(0, row)
    batch = Batch(federation.data.images(indices, torch.float64), federation.data.y[indices], torch.arange(12))
    found = pfedme.loss(model, batch, None, options_for("pfedme", **INNER))
    theta = theta_of(federation, row, indices)
    at_theta = F.cross_entropy(federation.model(1, theta)(batch.x)[1], batch.y)
    distance = sum(((row[name] - theta[name]) ** 2).sum() for name in row)
    torch.testing.assert_close(found.detach(), at_theta.detach() + distance, rtol=0, atol=1e-10)
    model = federation.model(0, row)
    pfedme.loss(model, batch, None, options_for("pfedme", **INNER)).backward()
    close({n: p.grad for n, p in model.named_parameters()}, {n: 2.0 * (row[n] - theta[n]) for n in row})


def test_a_client_steps_towards_theta_of_each_batch_and_the_average_is_even():
    # w <- w - eta lambda (w - theta) by full batches of unequal shares
    federation, eta = tiny_federation(model="MLP"), 0.05
    _, done = play(federation, options_for("pfedme", lr=eta, batch_size=WHOLE, epoch_per_round=2, **INNER), 2)
    server = federation.initial()
    for _ in (1, 2):
        rows = []
        for share in federation.shares:
            row = server
            for _ in (1, 2):
                theta = theta_of(federation, row, share)
                row = {name: w - eta * 2.0 * (w - theta[name]) for name, w in row.items()}
            rows.append(row)
        server = {name: sum(row[name] for row in rows) / 3 for name in server}
    close(weights_of(done.models["global"]), server)
    for k, share in enumerate(federation.shares):
        close(weights_of(done.models["personal"], k), theta_of(federation, rows[k], share))


@pytest.mark.parametrize(("lam", "inner_lr"), [(15.0, 0.02), (1.0, 0.1)])
def test_with_one_inner_step_it_is_fedavg_with_eta_lambda_alpha(lam, inner_lr):
    flags = {"epoch_per_round": 2, "rounds": 3}
    one, other = (tiny_federation(shares=EQUAL, participation=0.7) for _ in range(2))
    asked = options_for("pfedme", lam=lam, inner_lr=inner_lr, inner_steps=1, lr=0.05 / (lam * inner_lr), **flags)
    _, done = play(one, asked, 3)
    _, expected = play(other, options_for("fedavg", lr=0.05, **flags), 3)
    close(weights_of(done.models["global"]), weights_of(expected.models["global"]))


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_server_goes_a_part_beta_of_the_way_in_parameters_and_averages_buffers(beta):
    federation = tiny_federation(model="CNN4")
    flags = options_for("pfedme", beta=beta, **INNER)
    _, done = play(federation, flags)
    initial = federation.initial()
    trained = train(federation.at(1), [0, 1, 2], [initial] * 3, pfedme.loss, flags).weights
    learnt = {name for name, _ in federation.skeletons[0].named_parameters()}
    for name, found in weights_of(done.models["global"]).items():
        mean = sum(row[name] for row in trained) / 3
        if name in learnt:
            torch.testing.assert_close(found, initial[name] + beta * (mean - initial[name]), rtol=0, atol=1e-10)
        elif found.is_floating_point():
            torch.testing.assert_close(found, mean, rtol=0, atol=1e-10)
        else:
            assert torch.equal(found, trained[0][name])


def test_the_personal_model_is_theta_of_the_clients_own_w_and_whole_share_in_evaluation_mode():
    federation = tiny_federation(model="CNN4")
    flags = options_for("pfedme", augment="flip", **INNER)
    _, done = play(federation, flags)
    w = train(federation.at(1), [0, 1, 2], [federation.initial()] * 3, pfedme.loss, flags).weights
    for k, share in enumerate(federation.shares):
        close(weights_of(done.models["personal"], k), theta_of(federation, w[k], share))
    assert not torch.allclose(w[0]["classifier.bias"], weights_of(done.models["personal"], 0)["classifier.bias"], atol=1e-6)


def test_personal_models_are_the_headline_and_are_kept_of_those_alone_that_took_part():
    federation = tiny_federation(participation=0.7)
    state, done = play(federation, options_for("pfedme"))
    assert list(done.models) == ["personal", "global"]
    assert set(state["personal"]) == set(done.clients)
    (absent,) = set(federation.clients) - set(done.clients)
    close(weights_of(done.models["personal"], absent), federation.initial(), tolerance=0)


def test_an_inner_step_costs_what_a_step_of_fedavg_does():
    # K gradients and one way forward a batch, and K gradients over the share after the last
    spent = {}
    for name, flags in (("fedavg", {}), *(("pfedme", {"inner_steps": steps}) for steps in (1, 3))):
        federation = tiny_federation(model="MLP")
        play(federation, options_for(name, batch_size=WHOLE, **flags))
        spent[name, flags.get("inner_steps")] = federation.meter.spent["flops", "client", 0]
        assert federation.meter.spent["steps", "client", 0] == 1
    assert spent["pfedme", 3] - spent["pfedme", 1] == 2 * 2 * spent["fedavg", None]


def test_the_defaults_are_those_of_the_authors():
    flags = pfedme.Options(algorithm="pfedme")
    assert (flags.lam, flags.inner_steps, flags.inner_lr, flags.beta) == (15, 5, 0.1, 1)
    assert (flags.lr, flags.batch_size, flags.rounds, flags.optimizer) == (0.005, 20, 800, "sgd")
