"""FedDyn against its Algorithm 1 written out, its fixed point, and a known optimum."""

import pytest
import torch
from conftest import away, drifting, gradient_of, optimum, options_for, play, tiny_federation, weights_of

from algorithms import feddyn
from helpers import Batch

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch


def zeros(row):
    return {name: torch.zeros_like(w) for name, w in row.items()}


def written_out(federation, flags, rounds):
    """Algorithm 1, a line a line, whose minimum is approached by full-batch steps -> (w, h, g)."""
    w, alpha, m = federation.initial(), flags.alpha_coef, len(federation.clients)
    h, g = zeros(w), [zeros(w) for _ in federation.clients]
    for r in range(1, rounds + 1):
        clients, rows = federation.at(r).sample(), []
        for k in clients:
            theta = dict(w)
            for _ in range(flags.epoch_per_round):
                slope = gradient_of(federation, theta, federation.shares[k])
                theta = {n: t - flags.lr * (slope[n] - g[k][n] + alpha * (t - w[n])) for n, t in theta.items()}
            g[k] = {n: g[k][n] - alpha * (theta[n] - w[n]) for n in w}
            rows.append(theta)
        h = {n: h[n] - alpha / m * sum(row[n] - w[n] for row in rows) for n in w}
        w = {n: sum(row[n] for row in rows) / len(rows) - h[n] / alpha for n in w}
    return w, h, g


@pytest.mark.parametrize("participation", [1.0, 0.7])
def test_three_rounds_are_those_of_the_algorithm_written_out(participation):
    federation = tiny_federation(model="MLP", participation=participation)
    flags = options_for("feddyn", alpha_coef=0.3, batch_size=WHOLE, epoch_per_round=4, weight_decay=0.0)
    state, done = play(federation, flags, rounds=3)
    w, h, g = written_out(federation, flags, rounds=3)
    assert away(weights_of(done.models["global"]), w) < 1e-10
    assert away(state["h"], h) < 1e-10
    for k, row in state["g"].items():
        assert away(row, g[k]) < 1e-10
    assert away(h, zeros(h)) > 1e-4


def test_the_loss_pulls_to_what_was_received_and_its_gradient_is_less_that_of_last_time():
    federation = tiny_federation(model="CNN4")
    model, flags = federation.model(0, federation.initial()).train(), options_for("feddyn", alpha_coef=0.3)
    received = {name: w + (torch.rand_like(w) if w.is_floating_point() else 1) for name, w in federation.initial().items()}
    slope = {name: torch.rand_like(w) for name, w in model.named_parameters()}
    share = federation.shares[0]
    batch = Batch(federation.data.images(share, torch.float64), federation.data.y[share], share)
    value = feddyn.loss(model, batch, {"w": received, "-g": {name: -g for name, g in slope.items()}}, flags)
    value.backward()
    plain = gradient_of(federation, federation.initial(), share)
    for name, w in model.named_parameters():
        expected = plain[name] - slope[name] + 0.3 * (w.detach() - received[name])
        torch.testing.assert_close(w.grad, expected, rtol=0, atol=1e-10)
    distance = sum((w - received[name]).square().sum() for name, w in model.named_parameters())
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(model(batch.x)[1], batch.y) + 0.15 * distance)


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_where_all_clients_are_at_the_minimum_of_all_with_their_gradients_nothing_moves(alpha):
    # there the gradient of a client's objective is grad L_k - g_k + 0 = 0, and h, the mean of the g_k, is 0
    federation, decay = drifting(participation=0.7), 0.1
    flags = options_for("feddyn", alpha_coef=alpha, weight_decay=decay, batch_size=WHOLE, epoch_per_round=3)
    best = optimum(federation, decay)
    slopes = [gradient_of(federation, best, share) for share in federation.shares]
    g = {k: {name: slope[name] + decay * best[name] for name in best} for k, slope in enumerate(slopes)}
    state = {**feddyn.start(federation, flags), "server": best, "g": g}
    for r in (1, 2, 3):
        feddyn.communicate(federation.at(r), state, flags)
        assert away(state["server"], best) < 1e-10
        assert away(state["h"], zeros(best)) < 1e-10
        assert all(away(state["g"][k], g[k]) < 1e-10 for k in federation.clients)
    assert max(away(row, zeros(row)) for row in g.values()) > 0.1, "alone they would leave"


@pytest.mark.parametrize("participation", [1.0, 0.7])
def test_clients_that_drift_apart_reach_the_optimum_where_fedavg_does_not(participation):
    flags = {"batch_size": WHOLE, "epoch_per_round": 5, "lr": 0.2, "weight_decay": 0.1}
    federation = drifting(participation=participation)
    _, done = play(federation, options_for("feddyn", alpha_coef=1.0, **flags), rounds=200)
    assert away(weights_of(done.models["global"]), optimum(federation, 0.1)) < 1e-6
    federation = drifting()
    _, done = play(federation, options_for("fedavg", **flags), rounds=100)
    sizes = [len(share) / 27 for share in federation.shares]
    assert away(weights_of(done.models["global"]), optimum(federation, 0.1, sizes)) > 1e-2, "nor that of its own weights"


def test_h_is_the_mean_of_all_clients_gradients_of_whom_the_absent_keep_theirs():
    federation = tiny_federation(model="MLP", participation=0.4, shares=[range(k, 60, 5) for k in range(5)])
    flags = options_for("feddyn", alpha_coef=0.5, optimizer="adam", lr=1e-3)  # whatever led there
    state, seen = feddyn.start(federation, flags), set()
    for r in range(1, 6):
        before = state["g"]
        done = feddyn.communicate(federation.at(r), state, flags)
        seen |= set(done.clients)
        assert state["g"].keys() == seen, "nobody has one who never took part"
        assert all(row is before[k] for k, row in state["g"].items() if k not in done.clients)
        everyone = [state["g"].get(k, zeros(state["h"])) for k in federation.clients]
        assert away(state["h"], {name: sum(row[name] for row in everyone) / 5 for name in state["h"]}) < 1e-12
    assert len(seen) > 2


@pytest.mark.parametrize("bn", ["average", "local"])
def test_gradients_are_of_the_parameters_that_travel_and_statistics_are_averaged_evenly(bn):
    federation = tiny_federation(model="CNN4")
    state, done = play(federation, options_for("feddyn", bn=bn, alpha_coef=1.0), rounds=2)
    learnt = {name for name, _ in federation.skeletons[0].named_parameters()}
    assert state["h"].keys() == learnt - (federation.names("bn") if bn == "local" else set())
    assert all(row.keys() == state["h"].keys() for row in state["g"].values())
    buffers = {name for name in state["server"] if "running" in name}
    assert len(buffers) == (8 if bn == "average" else 0)
    for name in buffers:
        expected = sum(row[name] for row in done.local_weights) / 3
        torch.testing.assert_close(state["server"][name], expected, rtol=0, atol=1e-12)


def test_weights_go_both_ways_and_nothing_else():
    federation = tiny_federation()
    play(federation, options_for("feddyn"))
    assert federation.wire.collect().keys() == {("up", "weights"), ("down", "weights")}


def test_the_defaults_are_those_of_the_authors():
    flags = feddyn.Options(algorithm="feddyn")
    found = (flags.alpha_coef, flags.lr, flags.batch_size, flags.epoch_per_round, flags.weight_decay, flags.optimizer)
    assert found == (0.01, 0.1, 50, 5, 1e-3, "sgd")
