"""CFKD: the loss against one on probabilities, class means and observations against loops, who teaches whom and when."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from conftest import WHOLE, options_for, play, same, spied, tiny_data, tiny_federation, uneven_shares, weights_of
from torch import nn

import streams
from algorithms import cfkd
from algorithms.published import cfkd as published
from federation import Federation
from helpers import Batch
from models import Net

EVERY = 60  # n_avg so large that an observation is the mean of all examples of a class
B, C, D = 7, 4, 5


def draw(*shape, seed=0):
    """Normal numbers in float64, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Fixed(nn.Module):
    """A model that has given features, whatever the images, and a linear classifier."""

    def __init__(self, features, weight, bias):
        super().__init__()
        self.features = nn.Parameter(features)
        self.classifier = nn.Linear(weight.shape[1], len(weight), dtype=weight.dtype)
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.copy_(bias)

    def forward(self, x):
        return self.features, self.classifier(self.features)


def scene(scale=1.0, dtype=torch.float64):
    """A model, a batch and what is given: not every class has a mean, nor does the observed client hold every class."""
    model = Fixed(draw(B, D).tanh().to(dtype), scale * draw(C, D, seed=1).to(dtype), draw(C, seed=2).to(dtype))
    batch = Batch(torch.zeros(B, 1), torch.tensor([0, 2, 1, 1, 3, 0, 2]), torch.arange(B))
    context = {
        "means": draw(C, D, seed=3).tanh().to(dtype),
        "held": torch.tensor([True, True, False, True]),
        "observation": draw(C, D, seed=4).tanh().to(dtype),
        "observed": torch.tensor([True, False, True, True]),
    }
    return model, batch, context


def slow_loss(model, batch, context, lambda_kd, lambda_disc, through_observation=True):
    """As the paper has it, with the code's scaling: everything in probabilities, pair after pair."""
    features, logits = model(batch.x)
    result = model.classifier(context["observation"]).softmax(1)
    result = result if through_observation else result.detach()
    distillation = discrimination = 0.0
    for b in range(len(batch.y)):
        if context["held"][batch.y[b]]:
            distillation = distillation + F.mse_loss(features[b], context["means"][batch.y[b]], reduction="sum")
        for c in range(len(result)):
            if context["observed"][c]:
                h = (logits[b].softmax(0) * result[c]).sum()  # the probability that both say the same
                label = torch.tensor(float(batch.y[b] == c), dtype=h.dtype)
                discrimination = discrimination + F.binary_cross_entropy(h, label)
    n, n_classes, dimension = len(batch.y), len(result), features.shape[1]
    return (
        F.cross_entropy(logits, batch.y)
        + lambda_kd * distillation / (n * dimension)
        + lambda_disc * discrimination / (n * n_classes)
    )


def features_one_by_one(federation, k, row):
    """[(label, features)] of client k's examples, each alone, in evaluation mode."""
    model, data = federation.model(k, row), federation.data
    with torch.no_grad():
        return [(data.y[i].item(), model(data.images(i.view(1), torch.float64))[0][0]) for i in federation.shares[k]]


def mean_of(vectors):
    return sum(vectors) / len(vectors)


def class_means_of(federation, rows, clients):
    """{class: mean feature over all its examples of these clients, each by its own client's model}."""
    results = {}
    for k in clients:
        for y, s in features_one_by_one(federation, k, rows[k]):
            results.setdefault(y, []).append(s)
    return {c: mean_of(vectors) for c, vectors in results.items()}


def uneven(**others):
    """Class 3 is nobody's; client 0 lacks class 2, client 1 has class 1 alone, client 2 has 0, 1 and 2."""
    data = tiny_data()
    data = replace(data, classes=(*data.classes, "d"))
    return tiny_federation(data, uneven_shares(data), **others)


# --- the loss ---


@pytest.mark.parametrize(("lambda_kd", "lambda_disc"), [(10.0, 1.0), (0.0, 2.0), (3.0, 0.0)])
def test_the_loss_and_its_gradient_are_those_of_a_loop_over_pairs_of_probabilities(lambda_kd, lambda_disc):
    model, batch, inputs = scene()
    result = cfkd.loss(model, batch, inputs, options_for("cfkd", lambda_kd=lambda_kd, lambda_disc=lambda_disc))
    expected = slow_loss(model, batch, inputs, lambda_kd, lambda_disc)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, list(model.parameters())) for value in (result, expected)]
    for item, other in zip(*gradients, strict=True):
        torch.testing.assert_close(item, other, rtol=0, atol=1e-12)


def test_the_classifier_learns_through_the_observation_as_well():
    model, batch, inputs = scene()
    weight = model.classifier.weight
    result = cfkd.loss(model, batch, inputs, options_for("cfkd"))
    through_one = slow_loss(model, batch, inputs, 10.0, 1.0, through_observation=False)
    torch.testing.assert_close(result, through_one, rtol=1e-12, atol=0)
    (both,), (item,) = (torch.autograd.grad(value, [weight]) for value in (result, through_one))
    assert not torch.allclose(both, item, rtol=1e-3)


def test_a_class_without_a_mean_or_an_observation_has_weight_0():
    model, batch, inputs = scene()
    flags = options_for("cfkd")
    expected = cfkd.loss(model, batch, inputs, flags)
    for name, c in (("means", 2), ("observation", 1)):
        other = inputs[name].clone()
        other[c] = 5.0
        assert torch.equal(cfkd.loss(model, batch, {**inputs, name: other}, flags), expected)
        other[0] = 5.0
        assert not torch.equal(cfkd.loss(model, batch, {**inputs, name: other}, flags), expected)


def test_the_divisors_are_those_of_the_whole_batch_whatever_is_missing():
    model, batch, inputs = scene()
    nothing = {"held": torch.zeros(C, dtype=torch.bool), "observed": torch.zeros(C, dtype=torch.bool)}
    _, logits = model(batch.x)
    alone = F.cross_entropy(logits, batch.y)
    assert torch.equal(cfkd.loss(model, batch, {**inputs, **nothing}, options_for("cfkd")), alone)
    # features and means are one apart in all D places, for the two examples of class 0 only: 2 D / (B D)
    one_apart = {**inputs, **nothing, "means": torch.zeros(C, D).double(), "held": torch.arange(C) == 0}
    flat = Fixed(torch.ones(B, D).double(), draw(C, D, seed=1), draw(C, seed=2))
    _, logits = flat(batch.x)
    result = cfkd.loss(flat, batch, one_apart, options_for("cfkd")) - F.cross_entropy(logits, batch.y)
    torch.testing.assert_close(result.item(), 10.0 * 2 / B)


def test_two_uniform_predictions_agree_with_probability_one_in_c():
    # h = sum_c 1/C^2 = 1/C for every pair: an example has one pair of the same class and C - 1 of others
    model, batch, context = scene()
    model = Fixed(draw(B, D), torch.zeros(C, D).double(), torch.zeros(C).double())
    context = {**context, "observed": torch.ones(C, dtype=torch.bool)}
    result = cfkd.loss(model, batch, context, options_for("cfkd", lambda_kd=0.0))
    c = torch.tensor(float(C), dtype=torch.float64)
    torch.testing.assert_close(result, c.log() + (c.log() - (C - 1) * torch.log1p(-1 / c)) / C)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_logits_give_finite_losses_and_gradients(scale, dtype):
    model, batch, context = scene(scale, dtype)
    _, logits = model(batch.x)
    assert logits.abs().max() > scale
    context["observation"][0] = model.features.detach()[1]  # sure of the same, and of something else
    result = cfkd.loss(model, batch, context, options_for("cfkd"))
    assert torch.isfinite(result)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(result, list(model.parameters())))


def test_certain_agreement_costs_nothing_where_the_class_is_the_same_and_all_there_is_where_it_is_not():
    eye = torch.eye(3, dtype=torch.float64)
    flags = options_for("cfkd", lambda_kd=0.0)
    every = torch.ones(3, dtype=torch.bool)
    batch = Batch(torch.zeros(3, 1), torch.arange(3), torch.arange(3))
    right = {"means": eye, "held": every, "observation": eye, "observed": every}
    sure = Fixed(eye, 1e3 * eye, torch.zeros(3).double())
    assert cfkd.loss(sure, batch, right, flags).item() == pytest.approx(0, abs=1e-12)
    wrong = {**right, "observation": eye.roll(1, 0)}  # everybody's classes are another's
    assert cfkd.loss(sure, batch, wrong, flags) > 10


# --- limits ---


@pytest.mark.parametrize("name", ["lambda_kd", "lambda_disc"])
def test_each_of_its_two_losses_moves_the_models_from_round_1_on(name):
    nothing = {"lambda_kd": 0.0, "lambda_disc": 0.0}
    expected, _ = play(tiny_federation(), options_for("cfkd", **nothing))
    result, _ = play(tiny_federation(), options_for("cfkd", **{**nothing, name: 1.0}))
    assert not any(same(a, b) for a, b in zip(result["weights"], expected["weights"], strict=True))


# --- the rounds ---


@pytest.mark.parametrize("quirks", [{}, {"as_published": True}], ids=["paper", "as published"])
def test_teachers_are_those_of_the_end_of_the_round_before_and_untrained_in_round_1(monkeypatch, quirks):
    federation, module = tiny_federation(), published if quirks else cfkd
    flags, recorded = options_for("cfkd", batch_size=WHOLE, n_avg=EVERY, **quirks), spied(monkeypatch, module)
    state = module.start(federation, flags)
    rows = [federation.initial(k) for k in federation.clients]
    for r in (1, 2, 3):
        pooled = class_means_of(federation, rows, federation.clients)
        own = [class_means_of(federation, rows, [k]) for k in federation.clients]
        recorded.clear()
        module.communicate(federation.at(r), state, flags)
        assert len(recorded) == 3
        for k, context in enumerate(recorded):
            for c in range(3):
                torch.testing.assert_close(context["means"][c], pooled[c])
            # everything is averaged, so an observation tells whose it is
            whose = [j for j in federation.clients if torch.allclose(context["observation"][0], own[j][0])]
            assert len(whose) == 1
            if not quirks:
                assert whose != [k]
            for c in range(3):
                torch.testing.assert_close(context["observation"][c], own[whose[0]][c])
        rows = state["weights"]


def test_global_means_are_weighted_by_counts_and_nobodys_class_has_none():
    federation = uneven()
    state = cfkd.start(federation, options_for("cfkd"))
    pooled = class_means_of(federation, state["weights"], federation.clients)
    assert pooled.keys() == {0, 1, 2}
    for context in cfkd.teachers(federation, state["sent"], [0, 1, 2]):
        assert context["held"].tolist() == [True, True, True, False]
        for c in range(3):
            torch.testing.assert_close(context["means"][c], pooled[c])
        assert torch.equal(context["means"][3], torch.zeros(6).double())
        unweighted = mean_of([row["means"][0] for row in (state["sent"][0], state["sent"][2])])  # of 6 and 3 examples
        assert not torch.allclose(context["means"][0], unweighted, rtol=1e-3)


def test_what_the_observed_client_does_not_hold_is_marked():
    federation = uneven()
    state = cfkd.start(federation, options_for("cfkd", n_avg=EVERY))
    holds = [[True, True, False, False], [False, True, False, False], [True, True, True, False]]
    results = set()
    for r in range(20):
        for k, context in enumerate(cfkd.teachers(federation.at(r), state["sent"], [0, 1, 2])):
            (j,) = (j for j in range(3) if torch.equal(context["observation"], state["sent"][j]["observation"]))
            assert context["observed"].tolist() == holds[j]
            results.add((k, j))
    assert results == {(k, j) for k in range(3) for j in range(3) if j != k}


def observed_by(federation, r):
    """Whose observation each client gets in round r: every client's own is full of its number."""
    entry = {"means": torch.zeros(3, 2), "counts": torch.ones(3, dtype=torch.int64)}
    sent = [{**entry, "observation": torch.full((3, 2), float(j))} for j in federation.clients]
    inputs = cfkd.teachers(federation.at(r), sent, list(federation.clients))
    return [int(row["observation"][0, 0]) for row in inputs]


def test_the_teacher_is_another_client_drawn_uniformly_anew_each_round():
    federation, rounds = tiny_federation(shares=[[k] for k in range(4)], model="MLP"), 1500
    by_round = [tuple(observed_by(federation, r)) for r in range(rounds)]
    deviation = (rounds * (1 / 3) * (2 / 3)) ** 0.5
    for k in federation.clients:
        drawn = Counter(teachers[k] for teachers in by_round)
        assert drawn.keys() == set(federation.clients) - {k}
        assert all(abs(n - rounds / 3) < 5 * deviation for n in drawn.values())
    assert len(set(by_round)) == 3**4, "clients draw independently of each other"


def test_a_client_alone_is_its_own_teacher():
    federation = tiny_federation(shares=[range(10)])
    assert observed_by(federation, 1) == [0]
    _, done = play(federation, options_for("cfkd"), rounds=2)
    assert torch.isfinite(done.loss).all()


def test_the_teacher_of_a_client_does_not_depend_on_who_else_takes_part():
    federation = uneven().at(3)
    sent = cfkd.start(federation, options_for("cfkd"))["sent"]
    together = cfkd.teachers(federation, sent, [0, 1, 2])
    for k in range(3):
        assert same(cfkd.teachers(federation, sent, [k])[0], together[k])


def test_as_published_the_teacher_may_be_oneself_and_nothing_is_masked():
    federation, rounds = uneven(), 600
    sent = published.start(federation, options_for("cfkd", as_published=True))["sent"]
    drawn = [Counter() for _ in range(3)]
    for r in range(rounds):
        for k, context in enumerate(published.teachers(federation.at(r), sent, [0, 1, 2])):
            assert context["held"].all()
            assert context["observed"].all()
            (j,) = (j for j in range(3) if torch.equal(context["observation"], sent[j]["observation"]))
            drawn[k][j] += 1
    deviation = (rounds * (1 / 3) * (2 / 3)) ** 0.5
    for k in range(3):
        assert drawn[k].keys() == {0, 1, 2}
        assert all(abs(n - rounds / 3) < 5 * deviation for n in drawn[k].values())
    paper = cfkd.teachers(federation, sent, [0, 1, 2])
    for item, other in zip(published.teachers(federation, sent, [0, 1, 2]), paper, strict=True):
        assert torch.equal(item["means"], other["means"]), "global means are the same"


def test_as_published_a_class_that_was_not_observed_counts_with_an_observation_of_0():
    federation = uneven()
    sent = published.start(federation, options_for("cfkd", as_published=True))["sent"]
    assert torch.equal(sent[1]["observation"][[0, 2, 3]], torch.zeros(3, 6).double())
    model, batch, context = scene()
    context = {**context, "held": torch.ones(C, dtype=torch.bool), "observed": torch.ones(C, dtype=torch.bool)}
    context["observation"][1] = 0.0
    result = published.loss(model, batch, context, options_for("cfkd", as_published=True))
    torch.testing.assert_close(result, slow_loss(model, batch, context, 10.0, 1.0), rtol=1e-12, atol=0)


def test_the_server_keeps_what_it_last_received_of_those_that_sit_out():
    federation, flags = tiny_federation(participation=0.7), options_for("cfkd", n_avg=EVERY)
    state = cfkd.start(federation, flags)
    latest = list(state["weights"])
    for r in range(1, 5):
        before = state["sent"]
        done = cfkd.communicate(federation.at(r), state, flags)
        for k in federation.clients:
            if k in done.clients:
                latest[k] = state["weights"][k]
            else:
                assert same(state["sent"][k], before[k])
        pooled = class_means_of(federation, latest, federation.clients)
        (context,) = cfkd.teachers(federation, state["sent"], [0])
        for c in range(3):
            torch.testing.assert_close(context["means"][c], pooled[c])


def test_models_stay_with_their_clients_and_each_answers_with_its_own():
    federation, flags = tiny_federation(), options_for("cfkd")
    state = cfkd.start(federation, flags)
    assert all(same(state["weights"][k], federation.initial(k)) for k in federation.clients)
    state, done = play(federation, flags, rounds=2)
    assert list(done.models) == ["personal"]
    assert all(same(weights_of(done.models["personal"], k), state["weights"][k]) for k in federation.clients)


# --- what is sent ---


def test_an_observation_is_the_mean_of_n_avg_distinct_examples_of_a_class_or_of_all_where_there_are_fewer():
    federation = uneven()
    rows = [federation.initial(k) for k in federation.clients]
    sent = cfkd.upload(federation.at(1), [0, 1, 2], rows, options_for("cfkd", n_avg=3))
    for k in federation.clients:
        result = features_one_by_one(federation, k, rows[k])
        for c in range(4):
            mine = [s for y, s in result if y == c]
            assert sent[k]["counts"][c] == len(mine)
            if mine:
                torch.testing.assert_close(sent[k]["means"][c], mean_of(mine))
                possible = [mean_of(few) for few in combinations(mine, min(3, len(mine)))]
                assert any(torch.allclose(sent[k]["observation"][c], mean, rtol=1e-9) for mean in possible)
            else:
                assert not sent[k]["means"][c].any()
                assert not sent[k]["observation"][c].any()


def test_an_observation_is_drawn_anew_each_round_and_by_each_client():
    federation = tiny_federation(shares=[range(20), range(20)])
    rows = [federation.initial(0)] * 2  # the same model and the same data

    def observed(r):
        return [row["observation"] for row in cfkd.upload(federation.at(r), [0, 1], rows, options_for("cfkd", n_avg=2))]

    results = [*observed(1), *observed(2)]
    assert not any(torch.equal(item, other) for item, other in combinations(results, 2))
    assert all(torch.equal(item, other) for item, other in zip(observed(1), results[:2], strict=True)), "and repeatably"


def test_what_is_sent_is_said_in_evaluation_mode():
    def normed():
        return Net(nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5)), 5, 3)

    federation = Federation.of(tiny_data(), [range(10), range(10, 30)], [normed], dtype=torch.float64)
    state, _ = play(federation, options_for("cfkd", n_avg=EVERY))
    for k, row in enumerate(state["weights"]):
        means = class_means_of(federation, [row] * 2, [k])  # of single examples
        for c in range(3):
            torch.testing.assert_close(state["sent"][k]["means"][c], means[c])
            torch.testing.assert_close(state["sent"][k]["observation"][c], means[c])


# --- few of each ---


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_few_of_each_are_distinct_examples_of_each_class_and_as_many_as_there_can_be(n):
    y = torch.tensor([3, 0, 0, 5, 3, 3, 0, 0, 3, 3, 3, 0, 7])
    for seed in range(20):
        drawn = cfkd.few_of_each(y, n, streams.generator("test", seed)).tolist()
        assert len(set(drawn)) == len(drawn)
        result, there = Counter(y[drawn].tolist()), Counter(y.tolist())
        assert result == {c: min(n, there[c]) for c in there}


def test_few_of_each_draws_every_example_of_a_class_as_often_as_any_other():
    y, times = torch.tensor([0, 1, 0, 1, 0, 0, 1]), 1500
    drawn = Counter()
    stream = streams.generator("test")
    for _ in range(times):
        drawn.update(cfkd.few_of_each(y, 2, stream).tolist())
    for i, label in enumerate(y.tolist()):
        chance = 2 / {0: 4, 1: 3}[label]
        assert abs(drawn[i] - times * chance) < 5 * (times * chance * (1 - chance)) ** 0.5
