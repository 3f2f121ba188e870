"""DP-SGD: the gradient of each example is limited, every step has noise, and epsilon counts the steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import line_of, options_for, play, public_federation, tiny_federation, weights_of

import algorithms
import experiment
import streams
from experiment import defences
from federation import dp_sgd, privacy
from federation.local import Batch
from federation.recording import Recorder
from federation.wire import leaves
from helpers import cross_entropy, sent_means
from options import Launch

PRIVATE = [name for name, module in algorithms.ALGORITHMS.items() if hasattr(module, "private_steps")]
REFUSED = set(algorithms.ALGORITHMS) - set(PRIVATE)


def federation_for(name, **others):
    build = public_federation if getattr(algorithms.ALGORITHMS[name], "public", False) else tiny_federation
    return build(model="MLP", **others)


def with_other_data(federation):
    """Return the federation with other images of every client, and its labels in another order."""
    data, x, y = federation.data, federation.data.x.clone(), federation.data.y.clone()
    for share in federation.shares:
        x[share], y[share] = x[share].flip(-1).roll(3, -2), y[share].flip(0)
    return replace(federation, data=replace(data, x=x, y=y))


def uploads_of(federation, name, **flags):
    """Return what clients send in two rounds: [(kind, tensors)]."""
    recorder = Recorder(federation.data, range(3), 99)
    federation.wire.recorder = recorder
    options, module = options_for(name, model=("MLP",), **flags), algorithms.ALGORITHMS[name]
    federation.wire.begin(0)
    state = module.start(federation, options)
    for r in (1, 2):
        federation.wire.begin(r)
        module.communicate(federation.at(r), state, options)
        federation.meter.clear()
    return [(message.kind, list(leaves(message.content))) for message in recorder.messages if message.direction != "down"]


def are_equal(first, second):
    pairs = [pair for (_, ours), (_, theirs) in zip(first, second, strict=True) for pair in zip(ours, theirs, strict=True)]
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", [*PRIVATE, "fedala"])
def test_with_noise_alone_no_message_depends_on_the_clients_examples(name):
    """The clip is so small that only noise is left. What still depends on the examples leaves the client without noise."""
    flags = {"dp_sgd": 1e25, "dp_sgd_clip": 1e-25, "dp_clip": 1e-25, "dp_noise": 1e25}
    federation = federation_for(name)
    messages = uploads_of(federation, name, **flags)
    others = uploads_of(with_other_data(federation_for(name)), name, **flags)
    assert are_equal(messages, others) == (name != "fedala"), "fedala learns how to mix on the examples themselves"
    if messages:
        assert not are_equal(uploads_of(federation_for(name), name), uploads_of(with_other_data(federation_for(name)), name))


@pytest.mark.parametrize("name", PRIVATE)
def test_with_a_large_clip_and_no_noise_it_is_a_step_on_the_whole_share(name):
    flags, rows = {"model": ("MLP",), "batch_size": 20, "rounds": 2}, []
    for more in ({}, {"dp_sgd": 1e-15, "dp_sgd_clip": 1e6}):
        federation = federation_for(name, shares=[range(20), range(20, 40), range(40, 60)])
        _, result = play(federation, options_for(name, **flags, **more), rounds=2)
        rows.append([weights_of(build, k) for build in result.models.values() for k in federation.clients])
    for ours, theirs in zip(*rows, strict=True):
        for entry, w in ours.items():
            torch.testing.assert_close(theirs[entry], w, rtol=1e-6, atol=1e-6)


def test_the_gradient_is_the_sum_of_each_examples_limited_gradient_over_the_expected_size():
    federation = tiny_federation(model="LeNet5_classic")
    model, share = federation.model(2, federation.initial()).train(), federation.shares[2]
    images, y = federation.data.images(share, torch.float64), federation.data.y[share]
    options = options_for("fedavg", batch_size=7, dp_sgd=1e-300, dp_sgd_clip=1.2)
    trained, batch = dict(model.named_parameters()), Batch(images, y, torch.arange(len(y)))

    def loss(model, batch):
        return cross_entropy(model, batch, None, options)

    mean_loss = dp_sgd.set_gradients(model, trained, loss, batch, options, streams.generator("noise"))
    gradients = {name: p.grad.clone() for name, p in trained.items()}
    expected, losses, norms = {name: torch.zeros_like(p) for name, p in trained.items()}, [], []
    for i in range(len(y)):
        model.zero_grad()
        of_one = loss(model, Batch(images[i : i + 1], y[i : i + 1], torch.tensor([i])))
        of_one.backward()
        norms.append(torch.cat([p.grad.flatten() for p in trained.values()]).norm())
        losses.append(of_one.detach())
        for name, p in trained.items():
            expected[name] += p.grad * min(1.0, 1.2 / norms[-1]) / 7
    assert min(norms) < 1.2 < max(norms), "both cases"
    torch.testing.assert_close(mean_loss, torch.stack(losses).mean())
    for name in trained:
        torch.testing.assert_close(gradients[name], expected[name])


def test_a_step_without_examples_has_noise_of_the_declared_deviation():
    federation = tiny_federation(model="MLP", feature_dim=64)
    model, nothing = federation.model(0, federation.initial()), torch.zeros(0, dtype=torch.int64)
    options, trained = options_for("fedavg", batch_size=5, dp_sgd=3.0, dp_sgd_clip=0.5), dict(model.named_parameters())
    batch = Batch(federation.data.images(nothing, torch.float64), nothing, nothing)
    assert dp_sgd.set_gradients(model, trained, None, batch, options, streams.generator("noise")) == 0
    numbers = torch.cat([p.grad.flatten() for p in trained.values()])
    assert len(numbers) > 10_000
    assert math.isclose(numbers.std(), 3.0 * 0.5 / 5, rel_tol=0.03)
    assert abs(numbers.mean()) < 0.01


def test_each_step_takes_every_example_with_the_same_probability():
    drawn = [batch for _ in range(400) for batch in dp_sgd.batches(50, 8, np.random.default_rng(_))]
    assert len(drawn) == 400 * 7
    counts = np.bincount(torch.cat(drawn).numpy(), minlength=50)
    assert np.abs(counts / len(drawn) - 8 / 50).max() < 5 * math.sqrt(0.16 * 0.84 / len(drawn))
    assert np.isclose(np.var([len(batch) for batch in drawn]), 50 * 0.16 * 0.84, rtol=0.1), "independent: binomial sizes"
    assert [len(batch) for batch in dp_sgd.batches(5, 8, np.random.default_rng(0))] == [5], "the rate is at most 1"
    assert list(dp_sgd.batches(0, 8, np.random.default_rng(0))) == []


def test_every_call_of_a_round_has_its_own_batches_and_noise():
    """Epsilon adds up the steps of both calls of fedrep, which assumes fresh draws."""
    purposes = []

    def spied(self, purpose, client=-1):
        purposes.append((purpose, client))
        return stream(self, purpose, client)

    federation = tiny_federation(model="MLP")
    stream = type(federation).stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(federation), "stream", spied)
        play(federation, options_for("fedrep", model=("MLP",), dp_sgd=1.0))
    drawn = [purpose for purpose in purposes if purpose[0].startswith("dp_sgd")]
    assert len(drawn) == len(set(drawn)) == 2 * 2 * 3


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (2.0, 9), (20.0, 100)])
def test_without_sampling_epsilon_is_at_least_that_of_the_gaussian_mechanism_and_close(noise, steps):
    exact, bound = privacy.epsilon(noise, steps, 1e-5), dp_sgd.epsilon(noise, 1.0, steps, 1e-5)
    assert exact <= bound <= 1.25 * exact
    assert dp_sgd.epsilon(7.0, 0.5, 0, 1e-5, noise, steps) == pytest.approx(bound), "messages alone"


def test_epsilon_of_sampled_steps_is_at_least_that_of_the_privacy_loss_distribution():
    from opacus.accountants.prv import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(1.1, 0.05, 200)]
    lower = accountant.get_epsilon(1e-5, eps_error=0.05)
    assert lower * 0.95 <= dp_sgd.epsilon(1.1, 0.05, 200, 1e-5) <= lower * 1.3


def test_epsilon_at_the_limits():
    assert dp_sgd.epsilon(1.0, 0.1, 0, 1e-5) == 0
    assert dp_sgd.epsilon(0.0, 0.1, 3, 1e-5) == math.inf
    assert dp_sgd.epsilon(1.0, 0.1, 3, 1e-5, 0.0, 1) == math.inf
    assert dp_sgd.epsilon(1.0, 0.1, 10, 1e-5) < dp_sgd.epsilon(1.0, 0.2, 10, 1e-5) < dp_sgd.epsilon(1.0, 0.2, 20, 1e-5)


def test_an_example_adds_at_most_the_limit_to_a_class_sum_and_noise_is_divided_by_the_count():
    federation, options = tiny_federation(model="MLP"), options_for("cfkd", dp_sgd=1.0, dp_clip=2.0, dp_noise=0.0)
    values = torch.randn(12, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[0] /= 100
    y = torch.arange(12) % 3
    means, counts = sent_means(federation, 0, values, y, options)
    others, fewer = sent_means(federation, 0, values[:-1], y[:-1], options)
    change = means[2] * counts[2] - others[2] * fewer[2]
    assert math.isclose(change.norm(), 2.0)
    assert torch.equal(means[:2], others[:2])
    assert not means[3:].any(), "no noise for a class without examples"
    noised, _ = sent_means(federation, 0, values, y, replace(options, dp_noise=3.0))
    draws = ((noised - means)[:3] * counts[:3].unsqueeze(1)).flatten()
    assert math.isclose(draws.std(), 6.0, rel_tol=0.2)
    other, _ = sent_means(federation, 0, values, y, replace(options, dp_noise=3.0), "observation")
    assert not torch.equal(noised, other), "another draw for the other means of the round"


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("fedala", {}, "clients of fedala use their examples in other ways than local steps"),
        ("perfedavg", {}, "clients of perfedavg use their examples in other ways"),
        ("data_exchange", {}, "clients of data_exchange use their examples in other ways"),
        ("cfkd", {"as_published": True, "dp_clip": 1.0, "dp_noise": 1.0}, "this variant of cfkd"),
        ("fedavg", {"model": ("ResNet9",)}, "--model ResNet9 has BatchNorm"),
        ("fedavg", {"model": ("MLP_dropout",)}, "--model MLP_dropout has Dropout"),
        ("fml", {"shared_model": "CNN4"}, "--model CNN4 has BatchNorm"),
        ("fedavg", {"stacked": 3}, "leave out --stacked"),
        ("fedavg", {"dp_clip": 1.0}, "leave out --dp_clip"),
        ("cfkd", {}, "cfkd also send mean features; add --dp_clip and --dp_noise"),
        ("fd", {"dp_clip": 1.0}, "fd also send mean outputs; add"),
    ],
)
def test_it_is_refused_by_name(name, flags, words):
    options = options_for(name, **{"model": ("MLP",), "dp_sgd": 1.0, **flags})
    line = line_of(defences.check, options, algorithms.module_of(options))
    assert line.startswith("--dp_sgd 1: ")
    assert words in line


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_does_not_declare_private_steps_is_refused(name):
    options = options_for(name, model=("MLP",), dp_sgd=1.0)
    assert "use their examples in other ways" in line_of(defences.check, options, algorithms.module_of(options))


@pytest.mark.parametrize(
    ("name", "more", "means"), [("fedavg", {}, 0), ("cfkd", {"dp_clip": 1.0, "dp_noise": 30.0}, 2), ("independent", {}, 0)]
)
def test_a_run_saves_its_epsilon_and_resumes_to_the_same(tmp_path, name, more, means):
    flags = {"dataset": "digits", "n_clients": 3, "rounds": 3, "reduced": 0.1, "model": ("MLP",), "partition": "iid"}
    options = options_for(name, **flags, dp_sgd=1.5, lr=0.1, **more)
    prepared = experiment.prepare(options, Launch(export_dir=tmp_path))
    run = experiment.run(prepared)
    assert run.config["privacy"]["unit"] == "example"
    history = run.rounds
    sizes = [len(share) for share in prepared.split.train]
    expected = [
        max(
            dp_sgd.epsilon(1.5, 8 / n, r * math.ceil(n / 8), 1e-5, options.dp_noise, means * (r + 1) if means else 0)
            for n in sizes
        )
        for r in (1, 2, 3)
    ]
    assert history["epsilon"].tolist()[1:] == pytest.approx(expected)
    plan = experiment.plan(experiment.prepare(options, Launch(export_dir=tmp_path / "plan")))
    assert plan.rounds["epsilon"].tolist()[1:] == pytest.approx(expected)
    again = experiment.run(experiment.prepare(options, Launch(export_dir=tmp_path / "again")))
    assert again.rounds["epsilon"].equals(history["epsilon"])
    assert again.rounds["loss"].equals(history["loss"]), "the noise repeats"


def test_a_network_that_draws_random_numbers_by_itself_is_one_line():
    federation = tiny_federation(model="MLP")
    model, share = federation.model(0, federation.initial()), federation.shares[0]
    batch = Batch(federation.data.images(share, torch.float64), federation.data.y[share], share)

    def noisy(model, batch):
        return cross_entropy(model, batch._replace(x=batch.x + torch.rand_like(batch.x)), None, None)

    arguments = (model, dict(model.named_parameters()), noisy, batch, options_for("fedavg", dp_sgd=1.0), None)
    line = line_of(dp_sgd.set_gradients, *arguments)
    assert line.startswith("--dp_sgd: the network or the loss has no gradient of a single example: ")
    assert "\n" not in line
