"""Attacks on membership find what is planted, as often as a closed form says, and nothing where there is nothing."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import models
import streams
from attacks import class_means, judge, lira, loss_threshold, networks, options_of
from attacks.knowledge import Guess, Labelled, Public, Recording, empty
from federation.recording import Message
from federation.wire import SERVER

SHAPE, N_CLASSES, N = (1, 28, 28), 3, 30  # N: the members of a client
ATTACKS = {"loss_threshold": loss_threshold, "lira": lira, "class_means": class_means}
QUICK = lira.Options(n_shadows=8, n_examples=N, most_epochs=20)
RUN = {"model": ["MLP"], "feature_dim": 8, "rounds": 2, "epoch_per_round": 10, "batch_size": 16, "n_avg": 1}
RUN |= {"optimizer": "adam", "lr": 3e-3, "lr_schedule": "constant", "momentum": 0.0, "weight_decay": 0.0, "clip_grad": 0.0}
RUN |= {"augment": "none", "straggler": 0.0, "n_clients": 2}


def examples(name, n, noise=1.0, signal=1.0):
    """Images of a class: its own pattern and noise; labels in turn."""
    stream = streams.generator("test", "membership", name)
    patterns = streams.generator("test", "membership", "patterns").normal(size=(N_CLASSES, *SHAPE))
    y = torch.arange(n) % N_CLASSES
    return Labelled(torch.from_numpy(signal * patterns[y] + noise * stream.normal(size=(n, *SHAPE))).float(), y)


def random_labels(labelled, name):
    """The same images with labels drawn at random, so that only memory tells them."""
    stream = streams.generator("test", "membership", "labels", name)
    return Labelled(labelled.x, torch.from_numpy(stream.integers(0, N_CLASSES, len(labelled.y))))


def network(seed=0, members=None, steps=60):
    """An MLP, trained on its members until it knows them by heart; untrained without members."""
    with streams.torch_seeded("test", "membership", seed):
        model = models.make("MLP", SHAPE, N_CLASSES, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps if members else 0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(members.x)[1], members.y).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def planted(make=examples, n_clients=2):
    """Each client's members, and what an attacker and the judge have of them."""
    members = {k: make(f"members {k}", N) for k in range(n_clients)}
    strangers = {k: make(f"strangers {k}", 10 * N) for k in range(n_clients)}
    candidates = {k: Labelled(*map(torch.cat, zip(members[k], strangers[k], strict=True))) for k in members}
    is_member = {k: (torch.arange(11 * N) < N).numpy() for k in members}
    return members, Public(make("public", 1200), candidates), judge.Truth(is_member, torch.ones(n_clients, N_CLASSES) / 3)


def recorded(contents, kind="weights", knows="wire", weights=None):
    """A recording of one message per client, in the last round."""
    messages = [Message(2, "up", kind, k, SERVER, content) for k, content in contents.items()]
    facts = (RUN, SHAPE, tuple("abc"), torch.zeros(1), torch.ones(1))
    return Recording(messages, *facts, knows=knows, networks=weights or {})


def verdict(attack, recording, public, truth, options=None):
    """The judge's numbers for an attack."""
    return judge.verdict(attack.attack(recording, public, options), recording, public, truth)


def by_heart(name, n):
    """Images of no pattern with random labels."""
    return random_labels(examples(name, n, signal=0.0), name)


@pytest.fixture(scope="module")
def overfitted():
    """Two clients whose networks know random labels by heart."""
    members, public, truth = planted(by_heart)
    return {k: network(k, members[k]) for k in members}, public, truth


@pytest.mark.parametrize("knows", ["wire", "network"])
def test_a_network_that_knows_random_labels_by_heart_exposes_them(overfitted, knows):
    rows, public, truth = overfitted
    recording = recorded(rows) if knows == "wire" else recorded({}, knows=knows, weights=rows)
    by_loss = verdict(loss_threshold, recording, public, truth)
    by_shadows = verdict(lira, recording, public, truth, QUICK)
    assert by_loss["exposed"] > 0.5
    assert by_loss["auc"] > 0.9
    assert by_shadows["exposed"] > 0.5


def test_shadow_networks_tell_an_easy_stranger_from_a_member():
    # the labels of half of the images are easy: a small loss alone says little
    def mixed(name, n):
        easy, hard = examples(f"{name} easy", n // 2, noise=0.3), by_heart(f"{name} hard", n - n // 2)
        return Labelled(torch.cat([easy.x, hard.x]), torch.cat([easy.y, hard.y]))

    members, public, truth = planted(mixed)
    order = torch.from_numpy(streams.generator("test", "membership", "order").permutation(len(public.examples.y)))
    public = replace(public, examples=Labelled(*(part[order] for part in public.examples)))
    recording = recorded({k: network(k, members[k]) for k in members})
    by_loss = verdict(loss_threshold, recording, public, truth)
    by_shadows = verdict(lira, recording, public, truth, QUICK)
    assert by_shadows["exposed"] > by_loss["exposed"] + 0.1
    assert by_shadows["exposed"] > 0.2


def test_a_body_without_a_head_gets_one_and_a_head_without_a_body_is_not_attacked():
    _, public, truth = planted()
    rows = {k: network(k) for k in range(2)}

    def parts(prefix):
        return recorded({k: {n: w for n, w in row.items() if n.startswith(prefix)} for k, row in rows.items()})

    (model, is_fitted), *_ = networks.of_clients(parts("body"), public)[0]
    x, y = public.candidates[0]
    assert is_fitted
    assert (networks.evaluate(model, x)[1].argmax(1) == y).double().mean() > 0.95
    for attack, options in ((loss_threshold, None), (lira, QUICK)):
        assert abs(verdict(attack, parts("body"), public, truth, options)["auc"] - 0.5) < 0.1  # an untrained body
        assert attack.attack(parts("classifier"), public, options) == Guess()


def test_confidence_is_exact_where_a_probability_rounds_to_one():
    logits = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0], [2.0, 1.0, 0.5]])
    model = nn.Linear(1, 1)
    model.forward = lambda x: (logits, logits)
    phi = lira.confidence(model, torch.zeros(3, 1), torch.tensor([0, 0, 0]))
    p = logits[2].double().softmax(0)[0]
    expected = [60 - torch.tensor(2.0).log().item(), -60.0, (p / (1 - p)).log().item()]
    torch.testing.assert_close(phi.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-5)


def test_large_networks_have_fewer_shadow_networks():
    _, public, _ = planted()
    recording = recorded({0: network(), 1: network(1)})
    cost = networks.training_flops(recording, 0, N, 20)
    mlp = 2 * (784 * 200 + 200 * N_CLASSES)
    assert cost == 3 * mlp * N * 20
    for n_shadows in (0, 2):
        options = replace(QUICK, most_flops=(n_shadows + 0.5) * cost)
        assert len(list(lira.shadow_networks(recording, public, 0, False, options))) == n_shadows
        assert all(torch.isfinite(s).all() for s in lira.attack(recording, public, options).scores.values())


# --- means --------------------------------------------------------------------------------------------------------------


def gaussians(name, n, dim):
    return torch.from_numpy(streams.generator("test", "membership", name).normal(size=(n, dim)))


@pytest.mark.parametrize(("n", "dim"), [(20, 10), (50, 200), (10, 100)])
def test_a_mean_of_gaussians_is_traced_at_the_rate_of_theory(n, dim):
    # the inner product n <m, z> of a stranger has mean 0 and variance D n, that of a member mean D: d' = sqrt(D / n)
    inside, outside = [], []
    for i in range(40):
        z = gaussians(f"members {n} {dim} {i}", n, dim)
        others = gaussians(f"strangers {n} {dim} {i}", 10 * n, dim)
        inside.append(class_means.log_ratio(z.mean(0), z, n, 0.0))
        outside.append(class_means.log_ratio(z.mean(0), others, n, 0.0))
    inside, outside = torch.cat(inside), torch.cat(outside)
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = 1 - normal.cdf(normal.icdf(torch.tensor(0.99)) - (dim / n) ** 0.5)
    rate = (inside > outside.quantile(0.99)).double().mean()
    assert abs(rate - expected) < 0.06
    assert abs(outside.exp().mean() - 1) < 0.2 or dim > n  # the mean of a likelihood ratio under the null hypothesis is 1


def cfkd_message(row, members, n_avg, name):
    """CFKD's message of a client, and which members are in its observation."""
    model = recorded({}).network(0, row)
    features = networks.evaluate(model, members.x)[0]
    stream, means, observed = streams.generator("test", name), [], []
    for c in range(N_CLASSES):
        at = (members.y == c).nonzero().flatten()
        means.append(features[at].mean(0))
        observed.append(at[stream.permutation(len(at))[:n_avg]])
    observation = torch.stack([features[i].mean(0) for i in observed])
    counts = torch.bincount(members.y, minlength=N_CLASSES)
    return {"means": torch.stack(means), "counts": counts, "observation": observation}, torch.cat(observed)


def messages_of(members, rows, n_avg=1):
    """CFKD's messages, and {client: observed members}."""
    pairs = {k: cfkd_message(rows[k], members[k], n_avg, f"observation {k}") for k in members}
    return {k: content for k, (content, _) in pairs.items()}, {k: observed for k, (_, observed) in pairs.items()}


def test_the_features_of_one_image_are_matched_exactly():
    members, public, truth = planted()
    rows = {k: network(k, members[k], steps=20) for k in members}
    contents, observed = messages_of(members, rows)
    # a client has many examples, so that its means say nothing
    contents = {
        k: {**content, "counts": 10**9 * content["counts"], "means": content["means"] * 0} for k, content in contents.items()
    }
    recording = recorded(contents, "mean features", "network", rows)
    scores = class_means.attack(recording, public, class_means.Options()).scores
    for k in members:
        assert set(scores[k].topk(N_CLASSES).indices.tolist()) == set(observed[k].tolist())
    numbers = judge.verdict(Guess(scores=scores), recording, public, truth)
    assert numbers["exposed"] == pytest.approx(N_CLASSES / N, abs=0.03)


@pytest.mark.parametrize("kind", ["prototypes", "mean features", "mean outputs"])
def test_means_of_few_examples_expose_them_where_the_network_is_known(kind):
    def few(name, n):
        labelled = examples(name, n, signal=0.1)
        return Labelled(labelled.x[: n // 4], labelled.y[: n // 4]) if "members" in name else labelled

    members = {k: few(f"members {k}", N) for k in range(2)}
    strangers = {k: examples(f"strangers {k}", 10 * N, signal=0.1) for k in range(2)}
    candidates = {k: Labelled(*map(torch.cat, zip(members[k], strangers[k], strict=True))) for k in members}
    truth = judge.Truth({k: (torch.arange(10 * N + N // 4) < N // 4).numpy() for k in members}, torch.ones(2, 3) / 3)
    public, rows = Public(examples("public", 1200, signal=0.1), candidates), {k: network(k) for k in members}
    contents, _ = messages_of(members, rows, n_avg=N)  # an observation of all, which adds nothing
    if kind == "mean outputs":
        for k, row in rows.items():
            p = networks.evaluate(recorded({}).network(k, row), members[k].x)[1].softmax(1)
            contents[k] = {"means": torch.stack([p[members[k].y == c].mean(0) for c in range(3)]), "held": torch.ones(3) > 0}
    recording = recorded(contents, kind, "network", rows)
    recording = replace(recording, options={**RUN, "n_avg": N})
    numbers = verdict(class_means, recording, public, truth, class_means.Options())
    assert numbers["auc"] > (0.55 if kind == "mean outputs" else 0.8)
    assert kind == "mean outputs" or numbers["low"] > 0


# --- nothing to find ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_without_messages_guesses_nothing(overfitted, name):
    rows, public, _ = overfitted
    assert ATTACKS[name].attack(empty(recorded(rows)), public, options_of(name)) == Guess()


@pytest.mark.parametrize("knows", ["wire", "own_client", "network"])
def test_means_without_the_network_of_the_last_round_are_not_attacked(knows):
    members, public, _ = planted()
    rows = {k: network(k) for k in members}
    contents, _ = messages_of(members, rows)
    recording = recorded(contents, "mean features", knows, rows if knows != "wire" else {})
    recording = replace(recording, options={**RUN, "rounds": 3}) if knows != "wire" else recording
    assert class_means.attack(recording, public, class_means.Options()) == Guess()


def nothing(case):
    """(recording, public, truth) of a case in which the messages say nothing of the candidates."""
    members, public, truth = planted(by_heart)
    rows = {k: network(k) if case == "untrained" else network(k, members[1 - k]) for k in members}
    if case == "zeros":
        rows = {k: {name: w * 0 for name, w in row.items()} for k, row in rows.items()}
    if case == "shuffled":
        shuffled = {k: Labelled(m.x, random_labels(m, f"shuffled {k}").y) for k, m in members.items()}
        strangers = {k: public.candidates[k].x[N:] for k in members}
        rows = {k: network(k, Labelled(strangers[k][:N], shuffled[k].y)) for k in members}
        candidates = {
            k: Labelled(torch.cat([c.x[:N], c.x[2 * N :]]), torch.cat([c.y[:N], c.y[2 * N :]]))
            for k, c in public.candidates.items()
        }
        public, truth = (
            replace(public, candidates=candidates),
            replace(truth, is_member={k: m[: 10 * N] for k, m in truth.is_member.items()}),
        )
    return members, rows, public, truth


@pytest.mark.parametrize("case", ["zeros", "wrong client", "untrained", "shuffled"])
@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_not_there_is_not_exposed(case, name):
    members, rows, public, truth = nothing(case)
    if name == "class_means":
        other = {k: members[1 - k] for k in members}
        contents, _ = messages_of(other, rows)
        recording = recorded(contents, "mean features", "network", rows)
    else:
        recording = recorded(rows)
    numbers = verdict(ATTACKS[name], recording, public, truth, QUICK if name == "lira" else options_of(name))
    assert numbers["low"] <= 0.005
    assert 0.4 < numbers["auc"] < 0.6


def test_equal_scores_expose_nothing():
    _, public, truth = planted()
    scores = {k: torch.full((11 * N,), 3.0) for k in truth.is_member}
    numbers = judge.verdict(Guess(scores=scores), recorded({}), public, truth)
    assert numbers["exposed"] == pytest.approx(0, abs=1e-9)
    assert numbers["auc"] == 0.5
