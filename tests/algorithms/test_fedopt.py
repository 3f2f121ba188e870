"""FedOpt: its table of servers, and defaults that follow from the server."""

import tomllib
from dataclasses import replace

import oracles
import pytest
import torch
from conftest import WHOLE, away, options_for, play, tiny_federation, weights_of

import algorithms
import commandline
from algorithms import fedopt
from commandline import study
from options import Launch, plain


def test_the_second_moment_of_yogi_falls_no_faster_than_that_of_adam_and_rises_no_faster():
    # v - (1 - beta2) D^2 sign(v - D^2): where v > D^2 it falls by (1 - beta2) D^2, adam's by (1 - beta2) (v - D^2)
    flags, m = options_for("fedopt", beta2=0.9), torch.zeros(2)
    change, v = torch.tensor([0.1, 3.0]), torch.tensor([1.0, 1.0])
    _, adam, _ = fedopt.SERVER_STEPS["adam"](change, m, v, flags)
    _, yogi, _ = fedopt.SERVER_STEPS["yogi"](change, m, v, flags)
    torch.testing.assert_close(v - adam, torch.tensor([0.099, -0.8]))
    torch.testing.assert_close(v - yogi, torch.tensor([0.001, -0.9]))


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


def test_adagrad_has_no_momentum_unless_it_is_given():
    results = {}
    for inputs in ({}, {"beta1": 0.9}):
        federation = tiny_federation(model="MLP")
        flags = options_for("fedopt", server_optimizer="adagrad", batch_size=WHOLE, **inputs)
        expected = oracles.fedopt(federation, replace(flags, beta1=0.0), 3)["models"]["global"]
        results[flags.beta1] = away(weights_of(play(federation, flags, rounds=3)[1].models["global"]), expected)
    assert results[0.0] < 1e-10
    assert results[0.9] > 1e-3


@pytest.mark.parametrize(("server", "beta1"), [("adam", 0.9), ("yogi", 0.9), ("sgd", 0.9), ("adagrad", 0.0)])
def test_a_default_that_follows_names_a_run_by_the_number_that_it_becomes(server, beta1):
    implied, inputs = (options_for("fedopt", server_optimizer=server, **flags) for flags in ({}, {"beta1": beta1}))
    assert implied == inputs, "so runs of adam and yogi keep the names that they had"
    assert plain(implied)["beta1"] == beta1


def test_a_grid_of_servers_is_saved_as_a_study_of_as_many_runs():
    argv = ["fedopt", "--server_optimizer", "adam", "adagrad", "--seed", "0"]
    for own, beta1 in (([], None), (["--beta1", "0.9"], [0.9])):
        runs, _, _ = commandline.parse([*argv, *own], algorithms.all_options(), {"fedopt": ""})
        assert [run.beta1 for run in runs] == (beta1 * 2 if beta1 else [0.9, 0.0])
        section = tomllib.loads(study.text_of(runs, Launch()))["fedopt"]
        assert section.get("beta1") == (beta1[0] if beta1 else None)


def test_the_servers_rate_is_by_its_optimizer_until_it_is_given():
    """10 ** -2.5 of FedAdam and FedYogi, -1 of FedAdagrad, -0.5 of FedAvgM: the authors' best on EMNIST."""
    rates = {server: fedopt.Options(algorithm="fedopt", server_optimizer=server).server_lr for server in fedopt.SERVER_STEPS}
    assert rates == {"sgd": 0.3, "adagrad": 0.1, "adam": 0.003, "yogi": 0.003}
    assert fedopt.Options(algorithm="fedopt", server_lr=0.5).server_lr == 0.5
