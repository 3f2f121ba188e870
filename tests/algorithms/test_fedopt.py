"""FedOpt against Algorithm 2 written out, number by number, and FedAvg, of which it is a setting."""

import math
import tomllib

import pytest
import torch
from conftest import away, gradient_of, options_for, play, tiny_federation, weights_of

import algorithms
import commandline
from algorithms import fedopt
from commandline import study
from options import plain

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch
EVERY = pytest.mark.parametrize("server", list(fedopt.SERVER_STEPS))


def is_parameter(federation):
    return {name for name, _ in federation.skeletons[0].named_parameters()}


@pytest.mark.parametrize("model", ["MLP", "CNN4"])
@pytest.mark.parametrize("flags", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}, {"bn": "local"}])
def test_plain_sgd_with_a_servers_rate_of_1_is_fedavg(model, flags):
    flags = {"epoch_per_round": 2, **flags}
    one, other = (tiny_federation(model=model, participation=0.7) for _ in range(2))
    _, done = play(one, options_for("fedopt", server_optimizer="sgd", server_lr=1.0, server_momentum=0.0, **flags), rounds=3)
    _, expected = play(other, options_for("fedavg", **flags), rounds=3)
    assert list(done.models) == list(expected.models)
    assert torch.allclose(done.loss, expected.loss, rtol=0, atol=1e-10)
    within = 1e-8 if "optimizer" in flags else 1e-10  # Adam divides by roots of what is nearly 0: last bits grow
    for name, answer in done.models.items():
        for k in one.clients:
            assert away(weights_of(answer, k), weights_of(expected.models[name], k)) < within
    assert one.wire.collect() == other.wire.collect()


def number_by_number(server, delta, m, v, x, o):
    """The server's step in one number of the model: lines 10 to 15 of Algorithm 2; FedAvgM -> (x, m, v)."""
    if server == "sgd":
        m = o.server_momentum * m + delta
        return x + o.server_lr * m, m, v
    m = o.beta1 * m + (1 - o.beta1) * delta
    if server == "adagrad":
        v = v + delta**2
    elif server == "adam":
        v = o.beta2 * v + (1 - o.beta2) * delta**2
    else:
        v = v - (1 - o.beta2) * delta**2 * (0 if v == delta**2 else math.copysign(1, v - delta**2))
    return x + o.server_lr * m / (math.sqrt(v) + o.tau), m, v


@EVERY
def test_three_rounds_are_those_of_the_algorithm_written_out(server):
    own = {"server_lr": 0.3, "server_momentum": 0.8, "beta1": 0.7, "beta2": 0.6, "tau": 0.02}
    flags = options_for("fedopt", server_optimizer=server, batch_size=WHOLE, **own)
    federation = tiny_federation(participation=0.7)
    _, done = play(federation, flags, rounds=3)
    row = federation.initial()
    flat = {name: w.flatten().tolist() for name, w in row.items()}
    m = {name: [0.0] * len(values) for name, values in flat.items()}
    v = {name: [flags.tau**2] * len(values) for name, values in flat.items()}
    for r in (1, 2, 3):
        clients = federation.at(r).sample()
        n = sum(len(federation.shares[k]) for k in clients)
        slopes = {k: gradient_of(federation, row, federation.shares[k]) for k in clients}
        for name, values in flat.items():  # one full-batch step a client: its change is -lr g_k
            mean = sum(len(federation.shares[k]) / n * slopes[k][name] for k in clients)
            for i, delta in enumerate((-flags.lr * mean).flatten().tolist()):
                values[i], m[name][i], v[name][i] = number_by_number(server, delta, m[name][i], v[name][i], values[i], flags)
        row = {name: torch.tensor(flat[name], dtype=torch.float64).view_as(w) for name, w in row.items()}
    assert away(weights_of(done.models["global"]), row) < 1e-10


def test_the_second_moment_of_yogi_falls_no_faster_than_that_of_adam_and_rises_no_faster():
    # v - (1 - beta2) D^2 sign(v - D^2): where v > D^2 it falls by (1 - beta2) D^2, adam's by (1 - beta2) (v - D^2)
    flags, m = options_for("fedopt", beta2=0.9), torch.zeros(2)
    change, v = torch.tensor([0.1, 3.0]), torch.tensor([1.0, 1.0])
    _, adam, _ = fedopt.SERVER_STEPS["adam"](change, m, v, flags)
    _, yogi, _ = fedopt.SERVER_STEPS["yogi"](change, m, v, flags)
    torch.testing.assert_close(v - adam, torch.tensor([0.099, -0.8]))
    torch.testing.assert_close(v - yogi, torch.tensor([0.001, -0.9]))


@EVERY
def test_the_server_steps_in_parameters_alone_and_averages_the_buffers(server):
    federation = tiny_federation(model="CNN4")
    state, done = play(federation, options_for("fedopt", server_optimizer=server), rounds=2)
    learnt = is_parameter(federation)
    assert state["m"].keys() == state["v"].keys() == learnt
    running = [name for name in state["server"] if "running" in name]
    assert len(running) == 8
    for name in running:
        mean = sum(n * row[name] for n, row in zip((10, 20, 30), done.local_weights, strict=True)) / 60
        torch.testing.assert_close(state["server"][name], mean, rtol=0, atol=1e-12)


def test_the_state_begins_with_no_momentum_and_the_least_second_moment():
    federation = tiny_federation(model="MLP")
    state = fedopt.start(federation, options_for("fedopt", tau=0.1))
    assert all((m == 0).all() for m in state["m"].values())
    assert all((v == 0.1**2).all() for v in state["v"].values())


def test_a_servers_optimizer_is_one_line_in_the_table(monkeypatch):
    monkeypatch.setitem(fedopt.SERVER_STEPS, "sign", lambda change, m, v, o: (m, v, change.sign()))
    federation = tiny_federation(model="MLP")
    _, done = play(federation, options_for("fedopt", server_optimizer="sign", server_lr=0.01))
    before, after = federation.initial(), weights_of(done.models["global"])
    steps = torch.cat([(after[name] - before[name]).flatten() for name in before])
    moved = steps[steps.abs() > 1e-12]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01))


def fedadagrad(federation, flags, rounds):
    """Algorithm 2 with FedAdagrad's second moment and no momentum, from full-batch steps of all clients."""
    row = federation.initial()
    v = {name: torch.full_like(w, flags.tau**2) for name, w in row.items()}
    for _ in range(rounds):
        slopes = [gradient_of(federation, row, share) for share in federation.shares]
        for name in row:
            n = [len(share) for share in federation.shares]
            delta = -flags.lr * sum(n_k * g[name] for n_k, g in zip(n, slopes, strict=True)) / sum(n)
            v[name] = v[name] + delta**2
            row[name] = row[name] + flags.server_lr * delta / (v[name].sqrt() + flags.tau)
    return row


def test_adagrad_has_no_momentum_unless_it_is_given():
    found = {}
    for given in ({}, {"beta1": 0.9}):
        federation = tiny_federation(model="MLP")
        flags = options_for("fedopt", server_optimizer="adagrad", batch_size=WHOLE, **given)
        found[flags.beta1] = away(
            weights_of(play(federation, flags, rounds=3)[1].models["global"]), fedadagrad(federation, flags, 3)
        )
    assert found[0.0] < 1e-10
    assert found[0.9] > 1e-3


@pytest.mark.parametrize(("server", "beta1"), [("adam", 0.9), ("yogi", 0.9), ("sgd", 0.9), ("adagrad", 0.0)])
def test_a_default_that_follows_names_a_run_by_the_number_that_it_becomes(server, beta1):
    implied, given = (options_for("fedopt", server_optimizer=server, **flags) for flags in ({}, {"beta1": beta1}))
    assert implied == given, "so runs of adam and yogi keep the names that they had"
    assert plain(implied)["beta1"] == beta1


def test_a_grid_of_servers_is_saved_as_a_study_of_as_many_runs():
    argv = ["fedopt", "--server_optimizer", "adam", "adagrad", "--seed", "0"]
    for own, beta1 in (([], None), (["--beta1", "0.9"], [0.9])):
        runs, _, _ = commandline.parse([*argv, *own], algorithms.all_options(), {"fedopt": ""})
        assert [run.beta1 for run in runs] == (beta1 * 2 if beta1 else [0.9, 0.0])
        section = tomllib.loads(study.text_of(runs))["fedopt"]
        assert section.get("beta1") == (beta1[0] if beta1 else None)


def test_the_defaults_are_the_papers():
    flags = fedopt.Options(algorithm="fedopt")
    assert (flags.beta1, flags.beta2, flags.tau, flags.optimizer) == (0.9, 0.99, 1e-3, "sgd")
    assert (flags.batch_size, flags.epoch_per_round, flags.momentum, flags.rounds) == (20, 1, 0, 1500)


def test_the_servers_rate_is_by_its_optimizer_until_it_is_given():
    """10 ** -2.5 of FedAdam and FedYogi, -1 of FedAdagrad, -0.5 of FedAvgM: the authors' best on EMNIST."""
    rates = {server: fedopt.Options(algorithm="fedopt", server_optimizer=server).server_lr for server in fedopt.SERVER_STEPS}
    assert rates == {"sgd": 0.3, "adagrad": 0.1, "adam": 0.003, "yogi": 0.003}
    assert fedopt.Options(algorithm="fedopt", server_lr=0.5).server_lr == 0.5
