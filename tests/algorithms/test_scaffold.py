"""SCAFFOLD: one full batch a round, the steps that are counted, the gradient over all examples."""

import oracles
import torch
from conftest import WHOLE, away, gradient_of, options_for, play, tiny_federation, weights_of

import helpers
from algorithms import scaffold
from helpers import train


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
            after = {name: w - 2.0 * flags.lr * oracles.even(slopes)[name] for name, w in x.items()}
            assert away(weights_of(done.models["global"]), after) < 1e-10
        x = after


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
            y, old = taken[-1].weights[k], c_i.get(k, oracles.zeros(c))
            new = {n: old[n] - c[n] + (x[n] - y[n]) / (K * lr) for n in c}
            assert away(state["c_i"][k], new) < 1e-10


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
