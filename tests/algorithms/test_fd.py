"""Federated distillation: the loss, the leave-one-out means and their timing, each against a loop; its published variant."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import WHOLE, options_for, play, same, spied, tiny_data, tiny_federation, uneven_shares, weights_of
from torch import nn

from algorithms import fd
from algorithms.published import fd as mse
from federation import Federation
from helpers import Batch
from models import Net

VARIANT = {"fd_variant": "mse_logits"}


def same_runs(item, other):
    """Whether two states have the same models and the same optimizer memory, bit for bit."""
    weights = all(same(a, b) for a, b in zip(item["weights"], other["weights"], strict=True))
    memory = zip(item["memory"], other["memory"], strict=True)
    return weights and all(same(a[name], b[name]) for a, b in memory for name in a)


def logits_one_by_one(federation, k, row):
    """The logits of client k's model for each of its examples alone, in evaluation mode."""
    model = federation.model(k, row)
    with torch.no_grad():
        return [model(federation.data.images(i.view(1), torch.float64))[1][0] for i in federation.shares[k]]


def mean_of(vectors):
    return sum(vectors) / len(vectors)


def labels(federation, k):
    return federation.data.y[federation.shares[k]].tolist()


def softmax_means(federation, k, row):
    """{class: mean softmax output of client k's model over its examples of it}."""
    outputs = [z.softmax(0) for z in logits_one_by_one(federation, k, row)]
    y = labels(federation, k)
    return {c: mean_of([p for p, label in zip(outputs, y, strict=True) if label == c]) for c in set(y)}


def uneven(**others):
    """Client 0 lacks class 2, client 1 has class 1 alone, and client 2 all three."""
    data = tiny_data()
    return tiny_federation(data, uneven_shares(data), **others)


class Fixed(nn.Module):
    """A model that says given logits, whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return x, self.logits


def draw(*shape, seed=0):
    """Normal numbers in float64, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(y):
    return Batch(torch.zeros(len(y), 1), torch.tensor(y), torch.arange(len(y)))


# --- the loss ---


def test_the_loss_is_that_of_a_loop_over_the_examples():
    y = [0, 2, 1, 1, 3, 0, 2]
    model, targets = Fixed(draw(7, 4)), draw(4, 4, seed=1).softmax(1)
    held = torch.tensor([True, False, True, False])
    total = 0.0
    for z, label in zip(model.logits.tolist(), y, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in z))
        minus_log = [log_sum - value for value in z]
        total += minus_log[label]  # CE(F(w, b), y_b)
        if held[label]:
            total += 0.7 * sum(p * m for p, m in zip(targets[label].tolist(), minus_log, strict=True))
    result = fd.loss(model, batch_of(y), {"targets": targets, "held": held}, options_for("fd", fd_gamma=0.7))
    assert result.item() == pytest.approx(total / 7, rel=1e-14)


def test_a_class_without_a_target_contributes_its_cross_entropy_alone():
    model, held = Fixed(draw(3, 3)), torch.tensor([True, False, True])
    batch, flags = batch_of([1, 1, 1]), options_for("fd", fd_gamma=5.0)
    for targets in (torch.zeros(3, 3).double(), torch.full((3, 3), 7.0).double()):
        value = fd.loss(model, batch, {"targets": targets, "held": held}, flags)
        assert torch.equal(value, F.cross_entropy(model.logits, batch.y))


def test_the_loss_of_a_target_that_is_met_is_its_entropy():
    # CE(p, p) is the entropy of p, the least it can be; its gradient vanishes there
    p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    model, batch = Fixed(p.log()), batch_of([0])
    context = {"targets": p.expand(3, 3), "held": torch.ones(3, dtype=torch.bool)}
    distillation = fd.loss(model, batch, context, options_for("fd")) - F.cross_entropy(model.logits, batch.y)
    torch.testing.assert_close(distillation.item(), 0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    (gradient,) = torch.autograd.grad(distillation, model.parameters())
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


# --- the means ---


def test_the_leave_one_out_mean_of_1_2_and_6_for_device_0_is_4():
    sent = [{"means": torch.full((2, 2), v), "held": torch.tensor([True, True])} for v in (1.0, 2.0, 6.0)]
    result = fd.leave_one_out(sent, [0, 1, 2])
    assert [row["targets"].tolist() for row in result] == [[[v, v], [v, v]] for v in (4.0, 3.5, 1.5)]
    assert all(row["held"].tolist() == [True, True] for row in result)
    assert fd.leave_one_out(sent, [1])[0]["targets"][0, 0] == 3.5, "of those that ask"


def test_the_mean_is_over_the_others_that_hold_the_class():
    held = [[True, True, False], [True, False, False], [True, True, False]]
    value = [[1.0, 2.0, 0.0], [5.0, 0.0, 0.0], [9.0, 6.0, 0.0]]  # what one does not hold is sent as 0
    sent = [
        {"means": torch.tensor(v).view(3, 1).expand(3, 3), "held": torch.tensor(h)} for v, h in zip(value, held, strict=True)
    ]
    result = fd.leave_one_out(sent, [0, 1, 2])
    assert [row["held"].tolist() for row in result] == [[True, True, False]] * 3
    assert [row["targets"][:2, 0].tolist() for row in result] == [[7.0, 6.0], [5.0, 4.0], [3.0, 2.0]]


def test_a_class_that_nobody_else_holds_has_no_target():
    held = [[True, True], [False, True]]
    sent = [{"means": draw(2, 2) * torch.tensor(h).view(2, 1), "held": torch.tensor(h)} for h in held]
    own, other = fd.leave_one_out(sent, [0, 1])
    assert own["held"].tolist() == [False, True]
    assert other["held"].tolist() == [True, True]
    assert torch.equal(other["targets"][0], sent[0]["means"][0])
    alone = fd.leave_one_out(sent[:1], [0])[0]
    assert alone["held"].tolist() == [False, False]
    assert torch.isfinite(alone["targets"]).all()


def test_a_client_sends_the_mean_softmax_outputs_of_its_model_after_the_local_epochs():
    federation = uneven()
    state, _ = play(federation, options_for("fd", epoch_per_round=2), rounds=2)
    for k in federation.clients:
        means, sent = softmax_means(federation, k, state["weights"][k]), state["sent"][k]
        for c in range(3):
            assert sent["held"][c] == (c in means)
            torch.testing.assert_close(sent["means"][c], means.get(c, torch.zeros(3, dtype=torch.float64)))
    assert [row["held"].tolist() for row in state["sent"]] == [[True, True, False], [False, True, False], [True] * 3]


@pytest.mark.parametrize("flags", [{}, VARIANT], ids=["leave one out", "mse logits"])
def test_what_is_sent_is_said_in_evaluation_mode(flags):
    def normed():
        return Net(nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5)), 5, 3)

    federation = Federation.of(tiny_data(), [range(10), range(10, 30)], [normed], dtype=torch.float64)
    state, _ = play(federation, options_for("fd", **flags), rounds=1)
    for k, row in enumerate(state["weights"]):
        result = logits_one_by_one(federation, k, row)  # of single examples, which BatchNorm in training mode would refuse
        for c in range(3):
            mine = [z if flags else z.softmax(0) for z, y in zip(result, labels(federation, k), strict=True) if y == c]
            torch.testing.assert_close(state["sent"][k]["means"][c], mean_of(mine))


# --- the rounds ---


def test_the_first_round_has_no_targets_and_is_independent_learning():
    flags = {"optimizer": "adam", "epoch_per_round": 2}
    result, done = play(uneven(), options_for("fd", **flags))
    expected, alone = play(uneven(), options_for("independent", **flags))
    assert same_runs(result, expected)
    assert torch.equal(done.loss, alone.loss)


def test_the_targets_are_the_others_means_at_the_end_of_the_round_before(monkeypatch):
    federation, flags, recorded = uneven(), options_for("fd", batch_size=WHOLE), spied(monkeypatch, fd)
    state = fd.start(federation, flags)
    fd.communicate(federation.at(1), state, flags)
    assert not any(context["held"].any() for context in recorded)
    for r in (2, 3):
        sent = [softmax_means(federation, k, row) for k, row in enumerate(state["weights"])]
        recorded.clear()
        fd.communicate(federation.at(r), state, flags)
        assert len(recorded) == 3
        for k, inputs in enumerate(recorded):
            others = [sent[j] for j in federation.clients if j != k]
            for c in range(3):
                outputs = [means[c] for means in others if c in means]
                assert inputs["held"][c] == bool(outputs)
                if outputs:
                    torch.testing.assert_close(inputs["targets"][c], mean_of(outputs))


def test_a_class_that_one_client_alone_holds_teaches_that_client_nothing(monkeypatch):
    federation, recorded = uneven(), spied(monkeypatch, fd)
    play(federation, options_for("fd", batch_size=WHOLE), rounds=2)
    assert recorded[3 + 2]["held"].tolist() == [True, True, False], "client 2 is the only one with class 2"
    assert recorded[3 + 0]["held"].tolist() == [True, True, True]


def test_the_server_keeps_what_it_last_received_of_those_that_sit_out(monkeypatch):
    federation, flags, recorded = (
        tiny_federation(participation=0.7),
        options_for("fd", batch_size=WHOLE),
        spied(monkeypatch, fd),
    )
    state, latest = fd.start(federation, flags), {}
    for r in range(1, 6):
        recorded.clear()
        before = dict(latest)
        done = fd.communicate(federation.at(r), state, flags)
        for k, context in zip(done.clients, recorded, strict=True):
            others = [before[j][0] for j in before if j != k]  # every client holds every class
            assert context["held"].tolist() == [bool(others)] * 3
            if others:
                torch.testing.assert_close(context["targets"][0], mean_of(others))
        latest |= {k: softmax_means(federation, k, state["weights"][k]) for k in done.clients}
    assert len(latest) == 3


def test_distillation_moves_the_models_from_round_2_on():
    for rounds, equal in ((1, True), (2, False)):
        states = [play(tiny_federation(), options_for("fd", fd_gamma=gamma), rounds)[0] for gamma in (0.0, 1.0)]
        assert same_runs(*states) is equal


@pytest.mark.parametrize("flags", [{}, VARIANT], ids=["leave one out", "mse logits"])
def test_models_stay_with_their_clients_and_each_answers_with_its_own(flags):
    federation = tiny_federation()
    module = mse if flags else fd
    state = module.start(federation, options_for("fd", **flags))
    assert all(same(state["weights"][k], federation.initial(k)) for k in federation.clients)
    state, done = play(federation, options_for("fd", **flags), rounds=2)
    assert list(done.models) == ["personal"]
    assert all(same(weights_of(done.models["personal"], k), state["weights"][k]) for k in federation.clients)


def test_the_default_weighs_distillation_as_much_as_the_labels():
    assert fd.Options(algorithm="fd").fd_gamma == 1.0
    with pytest.raises(TypeError):
        fd.Options(algorithm="fd", lambda_kd=1.0)


# --- mean logits, as CFKD's authors compared themselves with ---


def pooled_logits(federation, rows):
    """{class: mean of the logits over all its examples of all clients, each by its own client's model}."""
    by_name = {}
    for k, row in enumerate(rows):
        for z, y in zip(logits_one_by_one(federation, k, row), labels(federation, k), strict=True):
            by_name.setdefault(y, []).append(z)
    return {c: mean_of(vectors) for c, vectors in by_name.items()}


def test_the_mean_logits_are_those_of_all_examples_of_all_clients_and_untrained_models_send_first(monkeypatch):
    federation, flags, recorded = uneven(), options_for("fd", **VARIANT, batch_size=WHOLE), spied(monkeypatch, mse)
    state = mse.start(federation, flags)
    rows = [federation.initial(k) for k in federation.clients]
    for r in (1, 2, 3):
        expected = pooled_logits(federation, rows)  # at the end of the round before
        recorded.clear()
        mse.communicate(federation.at(r), state, flags)
        assert len(recorded) == 3
        for context in recorded:  # the same for all, one's own examples included
            assert context["held"].tolist() == [True] * 3
            for c in range(3):
                torch.testing.assert_close(context["means"][c], expected[c])
        rows = state["weights"]


def test_a_class_that_nobody_has_has_no_mean_logits():
    data = tiny_data()
    without = [i for i in range(60) if data.y[i] != 1]
    federation = tiny_federation(data, [without[:9], without[9:]])
    state = mse.start(federation, options_for("fd", **VARIANT))
    assert mse.pooled(state["sent"])["held"].tolist() == [True, False, True]


def test_the_loss_of_mse_logits_is_that_of_a_loop_over_examples_and_classes():
    y, held = [0, 2, 1, 1, 3], torch.tensor([True, False, True, True])
    model, means = Fixed(draw(5, 4)), draw(4, 4, seed=1)
    flags = options_for("fd", **VARIANT, lambda_kd=3.0)
    distance = sum(
        (z - m) ** 2
        for row, label in zip(model.logits.tolist(), y, strict=True)
        if held[label]
        for z, m in zip(row, means[label].tolist(), strict=True)
    )
    expected = F.cross_entropy(model.logits, torch.tensor(y)).item() + 3.0 * distance / (5 * 4)  # of batch and classes
    result = mse.loss(model, batch_of(y), {"means": means, "held": held}, flags)
    assert result.item() == pytest.approx(expected, rel=1e-14)


def test_as_published_is_the_variant_mse_logits():
    item, done = play(tiny_federation(), options_for("fd", as_published=True), rounds=2)
    other, redone = play(tiny_federation(), options_for("fd", **VARIANT), rounds=2)
    assert same_runs(item, other)
    assert torch.equal(done.loss, redone.loss)
    assert options_for("fd", **VARIANT).lambda_kd == 10.0


def test_the_server_keeps_the_mean_logits_of_those_that_sit_out():
    federation, flags = replace(uneven(), participation=0.7), options_for("fd", **VARIANT)
    state, latest = mse.start(federation, flags), [federation.initial(k) for k in range(3)]
    for r in range(1, 5):
        done = mse.communicate(federation.at(r), state, flags)
        for k in done.clients:
            latest[k] = state["weights"][k]
        expected, result = pooled_logits(federation, latest), mse.pooled(state["sent"])
        for c in range(3):
            torch.testing.assert_close(result["means"][c], expected[c])
