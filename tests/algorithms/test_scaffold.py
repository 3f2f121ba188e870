"""SCAFFOLD against its Algorithm 1 written out, FedAvg where its variates are held at 0, and a known optimum."""

import pytest
import torch
from conftest import away, drifting, gradient_of, line_of, optimum, options_for, play, tiny_federation, weights_of

import helpers
from algorithms import scaffold
from helpers import train

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch
BOTH = pytest.mark.parametrize("variate", [1, 2])


def zeros(row):
    return {name: torch.zeros_like(w) for name, w in row.items()}


def even(rows):
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def written_out(federation, flags, rounds):
    """Algorithm 1, a line a line, for networks without buffers and one full batch an epoch -> (x, c, c_i)."""
    x, lr, N = federation.initial(), flags.lr, len(federation.clients)
    c, variates = zeros(x), [zeros(x) for _ in federation.clients]
    for r in range(1, rounds + 1):
        clients, rows, changes = federation.at(r).sample(), [], []
        for k in clients:
            share, c_i = federation.shares[k], variates[k]
            y, K = dict(x), flags.epoch_per_round
            for _ in range(K):
                g = gradient_of(federation, y, share)
                y = {n: w - lr * (g[n] - c_i[n] + c[n]) for n, w in y.items()}
            if flags.variate == 1:
                new = gradient_of(federation, x, share)
            else:
                new = {n: c_i[n] - c[n] + (x[n] - y[n]) / (K * lr) for n in x}
            rows.append({n: y[n] - x[n] for n in x})
            changes.append({n: new[n] - c_i[n] for n in x})
            variates[k] = new
        x = {n: w + flags.server_lr * even(rows)[n] for n, w in x.items()}
        c = {n: v + len(clients) / N * even(changes)[n] for n, v in c.items()}
    return x, c, variates


@BOTH
@pytest.mark.parametrize("participation", [1.0, 0.7])
def test_three_rounds_are_those_of_the_algorithm_written_out(variate, participation):
    federation = tiny_federation(model="MLP", participation=participation)
    flags = options_for("scaffold", variate=variate, server_lr=0.7, batch_size=WHOLE, epoch_per_round=3)
    state, done = play(federation, flags, rounds=3)
    x, c, c_i = written_out(federation, flags, rounds=3)
    assert away(weights_of(done.models["global"]), x) < 1e-10
    assert away(state["c"], c) < 1e-10
    for k, row in state["c_i"].items():
        assert away(row, c_i[k]) < 1e-10
    assert away(c, zeros(c)) > 1e-3


def test_with_variates_held_at_0_it_is_fedavg_where_clients_are_of_one_size(monkeypatch):
    def nothing(federation, options, x, y, K, correction):
        return zeros(correction)

    monkeypatch.setattr(scaffold, "renewed", nothing)
    flags, shares = {"epoch_per_round": 2, "weight_decay": 0.1}, [range(k, 60, 4) for k in range(4)]
    for model in ("MLP", "CNN4"):
        one, other = (tiny_federation(model=model, shares=shares, participation=0.5) for _ in range(2))
        _, done = play(one, options_for("scaffold", **flags), rounds=3)
        _, expected = play(other, options_for("fedavg", **flags), rounds=3)
        assert torch.equal(done.loss, expected.loss) or torch.allclose(done.loss, expected.loss, rtol=0, atol=1e-10)
        assert away(weights_of(done.models["global"]), weights_of(expected.models["global"])) < 1e-10


def test_with_one_full_batch_a_round_the_options_are_one_and_the_server_descends_the_mean_gradient():
    # K = 1: y_i = x - lr (g_i - c_i + c), so option 2 is g_i; the mean of the corrections is 0 where all take part
    federation = tiny_federation(model="MLP")
    x = federation.initial()
    for rounds in (1, 2, 3):
        for variate in (1, 2):
            flags = options_for("scaffold", variate=variate, batch_size=WHOLE, server_lr=2.0)
            state, done = play(federation, flags, rounds)
            slopes = [gradient_of(federation, x, share) for share in federation.shares]
            assert all(away(state["c_i"][k], slopes[k]) < 1e-10 for k in federation.clients)
            after = {name: w - 2.0 * flags.lr * even(slopes)[name] for name, w in x.items()}
            assert away(weights_of(done.models["global"]), after) < 1e-10
        x = after


def test_the_servers_variate_is_the_mean_of_all_clients_variates_of_whom_the_absent_keep_theirs():
    federation = tiny_federation(model="MLP", participation=0.4, shares=[range(k, 60, 5) for k in range(5)])
    flags = options_for("scaffold", epoch_per_round=2)
    state, seen = scaffold.start(federation, flags), set()
    for r in range(1, 6):
        before = state["c_i"]
        done = scaffold.communicate(federation.at(r), state, flags)
        seen |= set(done.clients)
        assert state["c_i"].keys() == seen, "nobody has one who never took part"
        assert all(row is before[k] for k, row in state["c_i"].items() if k not in done.clients)
        everyone = [state["c_i"].get(k, zeros(state["c"])) for k in federation.clients]
        assert away(state["c"], even(everyone)) < 1e-12
    assert len(seen) > 2


def test_the_steps_are_counted_that_a_client_has_really_taken(monkeypatch):
    federation, taken = tiny_federation(model="MLP"), []

    def noted(*args, **others):
        taken.append(train(*args, **others))
        return taken[-1]

    monkeypatch.setattr(scaffold, "train", noted)
    flags = options_for("scaffold", straggler=1.0, epoch_per_round=3, batch_size=4, lr_schedule="step", rounds=2)
    state = scaffold.start(federation, flags)
    for r, lr in ((1, flags.lr), (2, flags.lr / 10)):
        x, c, c_i = state["server"], state["c"], state["c_i"]
        scaffold.communicate(federation.at(r), state, flags)
        steps = taken[-1].steps
        assert len(set(steps)) == 3, "all of them another number"
        for k, K in enumerate(steps):
            y, old = taken[-1].weights[k], c_i.get(k, zeros(c))
            new = {n: old[n] - c[n] + (x[n] - y[n]) / (K * lr) for n in c}
            assert away(state["c_i"][k], new) < 1e-10


@BOTH
@pytest.mark.parametrize("participation", [1.0, 0.7])
def test_clients_that_drift_apart_reach_the_optimum_where_fedavg_does_not(variate, participation):
    flags = {"batch_size": WHOLE, "epoch_per_round": 5, "lr": 0.2, "weight_decay": 0.1}
    federation = drifting(participation=participation)
    _, done = play(federation, options_for("scaffold", variate=variate, **flags), rounds=200)
    assert away(weights_of(done.models["global"]), optimum(federation, 0.1)) < 1e-6
    federation = drifting()
    _, done = play(federation, options_for("fedavg", **flags), rounds=200)
    sizes = [len(share) / 27 for share in federation.shares]
    assert away(weights_of(done.models["global"]), optimum(federation, 0.1, sizes)) > 1e-2, "nor that of its own weights"


@BOTH
@pytest.mark.parametrize("bn", ["average", "local"])
def test_variates_are_of_the_parameters_that_travel_and_statistics_are_averaged_evenly(variate, bn):
    federation = tiny_federation(model="CNN4")
    state, done = play(federation, options_for("scaffold", variate=variate, bn=bn), rounds=2)
    learnt = {name for name, _ in federation.skeletons[0].named_parameters()}
    assert state["c"].keys() == learnt - (federation.names("bn") if bn == "local" else set())
    buffers = {name for name in state["server"] if "running" in name}
    assert len(buffers) == (8 if bn == "average" else 0)
    for name in buffers:
        expected = sum(row[name] for row in done.local_weights) / 3
        torch.testing.assert_close(state["server"][name], expected, rtol=0, atol=1e-12)


def test_the_gradient_over_all_examples_is_in_evaluation_mode_and_of_portions_one(monkeypatch):
    federation = tiny_federation(model="CNN4")
    row = {name: w + 0.1 if "running" in name else w for name, w in federation.initial().items()}
    learnt = [name for name, _ in federation.skeletons[0].named_parameters()]
    (whole,) = federation.map_clients(scaffold.gradient, [2], [row], [dict.fromkeys(learnt)])
    model = federation.architectures[0]().double().eval()
    model.load_state_dict(row)
    logits = model(federation.data.images(federation.shares[2], torch.float64))[1]
    torch.nn.functional.cross_entropy(logits, federation.data.y[federation.shares[2]]).backward()
    assert away(whole, {name: w.grad for name, w in model.named_parameters()}) < 1e-12
    monkeypatch.setattr(helpers, "EVALUATION_BATCH", 7)
    (parts,) = federation.map_clients(scaffold.gradient, [2], [row], [dict.fromkeys(learnt[:2])])
    assert away(parts, {name: whole[name] for name in learnt[:2]}) < 1e-12, "30 examples are 7, 7, 7, 7 and 2"


def test_model_and_variate_go_both_ways_and_nothing_else():
    federation = tiny_federation(model="CNN4", dtype=torch.float32)
    play(federation, options_for("scaffold"))
    crossed = federation.wire.collect()
    assert crossed.keys() == {(way, kind) for way in ("up", "down") for kind in ("weights", "variates")}
    assert crossed["up", "variates"] == {
        k: 4 * sum(p.numel() for p in federation.skeletons[0].parameters()) for k in range(3)
    }


@pytest.mark.parametrize(
    ("flags", "beginning"),
    [
        ({"optimizer": "adam"}, "--optimizer adam: --variate 2 of scaffold needs plain SGD; must be sgd"),
        ({"momentum": 0.9}, "--momentum 0.9: --variate 2 of scaffold needs plain SGD; must be 0"),
        ({"clip_grad": 1.0}, "--clip_grad 1.0: --variate 2 of scaffold needs plain SGD; must be 0"),
    ],
)
def test_what_is_not_plain_sgd_is_refused_by_name_where_variates_are_made_of_steps(flags, beginning):
    assert line_of(scaffold.check, options_for("scaffold", **flags), None, 60).startswith(beginning)
    assert scaffold.check(options_for("scaffold", variate=1, **flags), None, 60) == ""


def test_the_defaults_are_plain_sgd_option_2_and_a_servers_rate_of_1():
    flags = scaffold.Options(algorithm="scaffold")
    assert (flags.optimizer, flags.momentum, flags.variate, flags.server_lr) == ("sgd", 0, 2, 1)
    assert scaffold.check(flags, None, 60) == ""
