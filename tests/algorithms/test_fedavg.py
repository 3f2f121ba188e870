"""FedAvg against gradient descent, plain training and averages written out; its published variants against theirs."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import WHOLE, close, line_of, mean_of, options_for, play, same, tiny_data, tiny_federation, weights_of

import algorithms
import commandline
import models
from algorithms import fedavg
from algorithms.published import fedavg as published
from data import shift
from data.datasets import from_arrays
from data.partition import Split
from federation import Federation
from federation.wire import Wire
from helpers import train
from options import Options, flags_of


def loss_on(federation, model, indices):
    return F.cross_entropy(model(federation.data.images(indices, torch.float64))[1], federation.data.y[indices])


def descended(federation, row, indices, make: Callable, steps=1, optimizer_state=None):
    """Full-batch steps of a textbook optimizer from weights `row` -> (weights, the optimizer's state)."""
    model = federation.architectures[0]().double().train()
    model.load_state_dict(row)
    optimizer = make(model.parameters())
    if optimizer_state:
        optimizer.load_state_dict(optimizer_state)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_on(federation, model, indices).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, optimizer.state_dict()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def first_weights(monkeypatch, module):
    """What each model holds when its training begins, in the order of training, as rounds of full batches go on."""
    recorded, inner = [], module.loss

    def watchful(model, batch, context, options):
        recorded.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        return inner(model, batch, context, options)

    monkeypatch.setattr(module, "loss", watchful)
    return recorded


# --- the paper's algorithm ---


def test_one_full_batch_step_each_is_gradient_descent_on_the_pooled_data_of_the_sampled_clients():
    # sum_k n_k (w - lr g_k) / n = w - lr (sum_k n_k g_k / n), and the bracket is the gradient over the pooled examples
    flags = options_for("fedavg", batch_size=WHOLE)
    order = np.random.default_rng(0).permutation(60)
    sampled = {r: tiny_federation(shares=[[k] for k in range(4)], participation=0.75).at(r).sample() for r in (1, 2)}
    sizes = dict(zip(sampled[1], (4, 12, 28), strict=True))  # 1 : 3 : 7
    (absent,) = set(range(4)) - set(sizes)
    sizes[absent] = 16
    ends = np.cumsum([sizes[k] for k in range(4)])
    shares = np.split(order, ends[:-1])
    federation = tiny_federation(shares=shares, participation=0.75)
    row = federation.initial()
    for rounds in (1, 2):
        _, done = play(federation, flags, rounds)
        assert list(done.clients) == sampled[rounds]
        pooled = torch.from_numpy(np.concatenate([shares[k] for k in sampled[rounds]]))
        row, _ = descended(federation, row, pooled, sgd)
        close(weights_of(done.models["global"]), row)


def test_several_local_steps_are_averaged_with_n_k():
    federation = tiny_federation(model="MLP")
    _, done = play(federation, options_for("fedavg", batch_size=WHOLE, epoch_per_round=3))
    rows = [descended(federation, federation.initial(), share, sgd, steps=3)[0] for share in federation.shares]
    close(weights_of(done.models["global"]), mean_of(rows, [10, 20, 30]))
    assert not torch.allclose(mean_of(rows, [10, 20, 30])["classifier.bias"], mean_of(rows, [1, 1, 1])["classifier.bias"])


def test_every_client_of_a_round_starts_from_what_the_server_broadcast(monkeypatch):
    federation, recorded = tiny_federation(), first_weights(monkeypatch, fedavg)
    flags = options_for("fedavg", batch_size=WHOLE)
    state = fedavg.start(federation, flags)
    broadcast = federation.initial()
    for r in (1, 2):
        fedavg.communicate(federation.at(r), state, flags)
        assert len(recorded) == 3
        assert all(same(row, broadcast) for row in recorded)
        broadcast = state["server"]
        recorded.clear()


def test_with_one_client_it_is_plain_training():
    federation = tiny_federation(shares=[range(5, 25)], model="MLP")
    _, done = play(federation, options_for("fedavg", batch_size=6, epoch_per_round=2), rounds=3)
    model, share = federation.architectures[0]().double(), federation.shares[0]
    model.load_state_dict(federation.initial())
    optimizer = sgd(model.parameters())  # has no memory: one for all rounds or one a round is the same
    for r in (1, 2, 3):
        order = federation.at(r).stream("batches", 0)
        for _ in range(2):
            for i in torch.from_numpy(order.permutation(20)).split(6):  # 6, 6, 6, 2
                optimizer.zero_grad()
                loss_on(federation, model, share[i]).backward()
                optimizer.step()
    close(weights_of(done.models["global"]), dict(model.state_dict()))


@pytest.mark.parametrize(
    ("flags", "make"),
    [({"optimizer": "adam", "lr": 0.01}, adam), ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))],
    ids=["Adam", "momentum"],
)
def test_the_optimizer_is_fresh_in_every_round(flags, make):
    federation = tiny_federation(model="MLP")
    state, done = play(federation, options_for("fedavg", batch_size=WHOLE, epoch_per_round=2, **flags), rounds=2)
    row = federation.initial()
    for _ in (1, 2):
        rows = [descended(federation, row, share, make, steps=2)[0] for share in federation.shares]
        row = mean_of(rows, [10, 20, 30])
    close(weights_of(done.models["global"]), row, tolerance=1e-9)
    assert state["kept"] == state["own"] == {}, "clients keep nothing"


def test_running_statistics_are_averaged_like_weights_and_counters_are_kept():
    data, shares = tiny_data(n_train=12, n_test=3, size=16), [range(4), range(4, 12)]
    build = partial(models.build, "ResNet9", data.shape, 3, 6)
    federation = Federation.of(data, shares, [build], dtype=torch.float64)
    _, done = play(federation, options_for("fedavg", batch_size=12, lr=0.01))
    rows = [
        descended(federation, federation.initial(), share, partial(torch.optim.SGD, lr=0.01))[0]
        for share in federation.shares
    ]
    result, averaged = weights_of(done.models["global"]), mean_of(rows, [4, 8])
    buffers = [name for name, _ in federation.skeletons[0].named_buffers()]
    running = [name for name in buffers if "running" in name]
    assert len(running) == 2 * 8, "of eight normalisations"
    for name in result:
        if not result[name].is_floating_point():
            assert name.endswith("num_batches_tracked")
            assert result[name].dtype == torch.int64
            assert result[name] == 1, "one batch"
        else:
            torch.testing.assert_close(result[name], averaged[name], rtol=0, atol=1e-10)
    first = running[0]
    assert not torch.allclose(result[first], mean_of(rows, [1, 1])[first], rtol=0, atol=1e-6), "n_k tells"


def test_the_counter_of_batches_is_the_first_clients():
    data, shares = tiny_data(n_train=12, n_test=3, size=16), [range(4), range(4, 12)]
    federation = Federation.of(data, shares, [partial(models.build, "ResNet9", data.shape, 3, 6)])
    _, done = play(federation, options_for("fedavg", batch_size=2))  # two batches and four
    counters = {v.item() for n, v in weights_of(done.models["global"]).items() if n.endswith("tracked")}
    assert counters == {2}, "not their mean"


def test_buffers_and_counters_travel_too():
    data, shares = tiny_data(n_train=12, n_test=3, size=16), [range(4), range(4, 12)]
    federation = Federation.of(data, shares, [partial(models.build, "ResNet9", data.shape, 3, 6)])
    play(federation, options_for("fedavg"))
    parameters = sum(p.numel() for p in federation.skeletons[0].parameters())
    channels = 64 + 128 + 2 * 128 + 256 + 256 + 2 * 256  # of the eight normalisations: a mean and a variance each
    model = 4 * (parameters + 2 * channels) + 8 * 8  # float32, and eight int64 counters
    crossed = federation.wire.collect()
    assert crossed[("down", "weights")] == crossed[("up", "weights")] == {0: model, 1: model}
    assert crossed[("up", "n_k")] == {0: 8, 1: 8}


def test_there_is_one_answer_the_servers_model():
    federation = tiny_federation()
    state, done = play(federation, options_for("fedavg"), rounds=2)
    assert list(done.models) == ["global"]
    assert all(same(weights_of(done.models["global"], k), state["server"]) for k in federation.clients)


# --- the published variants ---


def four(**others):
    """Four clients of equal size, of whom two take part."""
    shares = [range(k, 60, 4) for k in range(4)]
    return tiny_federation(shares=shares, participation=0.5, **others)


def test_select_fixed_draws_once_and_never_again():
    federation = four()

    def drawn(rounds, **flags):
        return [tuple(play(federation, options_for("fedavg", **flags), r)[1].clients) for r in range(1, rounds + 1)]

    fixed = drawn(6, select="fixed")
    assert set(fixed) == {fixed[0]}
    assert len(fixed[0]) == 2
    assert set(drawn(6, as_published=True)) == {fixed[0]}
    assert len(set(drawn(6, keep_optimizer=True))) > 1, "per round is the default"
    others = {tuple(play(four(seed=s), options_for("fedavg", select="fixed"))[1].clients) for s in range(8)}
    assert len(others) > 1, "drawn, not the first two"


def test_the_others_data_are_never_used_where_the_selection_is_fixed():
    federation = four()
    play(federation, options_for("fedavg", select="fixed"), rounds=5)
    trained = {k for _, _, k in federation.meter.spent}
    assert len(trained) == 2


def test_aggregate_all_takes_back_the_part_of_a_step_that_belongs_to_the_absent():
    federation = four()
    plain, all_of_them = options_for("fedavg"), options_for("fedavg", aggregate="all")
    old = federation.initial()
    selected = weights_of(play(federation, plain)[1].models["global"])  # the mean of the two: sizes are equal
    damped = weights_of(play(federation, all_of_them)[1].models["global"])
    close(damped, {name: 0.5 * old[name] + 0.5 * selected[name] for name in old}, tolerance=1e-14)


def test_aggregate_all_weighs_the_absent_by_their_size():
    federation = tiny_federation(participation=0.7)  # two of three, of sizes 10, 20 and 30
    old = federation.initial()
    selected, damped = (
        weights_of(play(federation, options_for("fedavg", **flags))[1].models["global"])
        for flags in ({}, {"aggregate": "all"})
    )
    present = sum(len(federation.shares[k]) for k in federation.at(1).sample())
    close(damped, mean_of([selected, old], [present, 60 - present]), tolerance=1e-14)


def test_no_weights_are_sent_for_the_absent():
    federation = four()
    _, done = play(federation, options_for("fedavg", aggregate="all"))
    crossed = federation.wire.collect()
    for direction in ("up", "down"):
        assert set(crossed[direction, "weights"]) == set(done.clients)


def test_the_sizes_by_which_the_absent_are_weighed_have_been_sent():
    federation = tiny_federation(participation=0.7)
    play(federation, options_for("fedavg", aggregate="all"))
    assert set(federation.wire.collect()["up", "n_k"]) == {0, 1, 2}, "the wire is the only road between parties"


def test_as_published_is_the_damped_unweighted_average_over_a_fixed_half():
    federation = tiny_federation(
        shares=[range(4), range(4, 12), range(12, 30), range(30, 60)], participation=0.5, model="MLP"
    )
    flags = options_for("fedavg", as_published=True, batch_size=WHOLE, epoch_per_round=2, optimizer="adam", lr=0.01)
    _, done = play(federation, flags, rounds=3)
    row, moments = federation.initial(), {}
    for _ in (1, 2, 3):
        rows = []
        for k in done.clients:
            trained, moments[k] = descended(federation, row, federation.shares[k], adam, 2, moments.get(k))
            rows.append(trained)
        row = mean_of([*rows, row, row], [1, 1, 1, 1])  # 0.5 w_old + 0.5 mean
    close(weights_of(done.models["global"]), row, tolerance=1e-9)


def test_as_published_is_unweighted():
    federation = tiny_federation(model="MLP")
    _, done = play(federation, options_for("fedavg", as_published=True, batch_size=WHOLE))
    rows = [descended(federation, federation.initial(), share, sgd)[0] for share in federation.shares]
    close(weights_of(done.models["global"]), mean_of(rows, [1, 1, 1]))


def test_keep_optimizer_keeps_each_clients_moments_although_its_weights_are_replaced():
    federation = four(model="MLP")
    flags = options_for("fedavg", keep_optimizer=True, optimizer="adam", lr=0.01, batch_size=WHOLE)
    row, moments = federation.initial(), {}
    for rounds in (1, 2, 3, 4):
        _, done = play(federation, flags, rounds)
        rows = []
        for k in done.clients:  # those of a client that sits out wait for it
            trained, moments[k] = descended(federation, row, federation.shares[k], adam, 1, moments.get(k))
            rows.append(trained)
        row = mean_of(rows, [15, 15])
        close(weights_of(done.models["global"]), row, tolerance=1e-9)
    fresh = weights_of(
        play(federation, options_for("fedavg", optimizer="adam", lr=0.01, batch_size=WHOLE), 4)[1].models["global"]
    )
    assert not torch.allclose(fresh["classifier.weight"], row["classifier.weight"])


def test_init_independent_starts_each_client_from_weights_of_its_own_in_round_1_alone():
    federation = tiny_federation(model="MLP")
    flags = options_for("fedavg", init="independent", batch_size=WHOLE)
    rows = [descended(federation, federation.initial(k), federation.shares[k], sgd)[0] for k in federation.clients]
    row = mean_of(rows, [10, 20, 30])
    _, done = play(federation, flags)
    close(weights_of(done.models["global"]), row)
    crossed = federation.wire.collect()
    assert {direction for direction, _ in crossed} == {"up"}, "there is nothing to hand out yet"
    rows = [descended(federation, row, share, sgd)[0] for share in federation.shares]
    _, done = play(federation, flags, rounds=2)
    close(weights_of(done.models["global"]), mean_of(rows, [10, 20, 30]))
    assert ("down", "weights") in federation.wire.collect()


def test_as_published_is_its_three_flags_and_an_average_without_weights():
    federation = four(model="MLP")  # of equal size, so that weights make no difference
    flags = {"optimizer": "adam", "lr": 0.01}
    options = options_for("fedavg", as_published=True, **flags)
    three = options_for("fedavg", select="fixed", aggregate="all", keep_optimizer=True, **flags)
    result, expected = (weights_of(play(federation, o, rounds=3)[1].models["global"]) for o in (options, three))
    close(result, expected, tolerance=1e-9)


def test_the_quirks_are_off_by_default_and_then_it_is_the_papers_algorithm():
    flags = options_for("fedavg", optimizer="adam")
    result = published.start(four(), flags)
    expected = fedavg.start(four(), flags)
    for r in (1, 2, 3):
        published.communicate(four().at(r), result, flags)
        fedavg.communicate(four().at(r), expected, flags)
        assert same(result["server"], expected["server"])
    assert flags_of(published.Options).keys() - flags_of(fedavg.Options).keys() == {
        *("init", "keep_optimizer", "aggregate", "select", "as_published")
    }


def test_train_is_what_fedavg_runs_at_a_client():
    """So that whatever holds for `train` holds here: masks, batches and effort included."""
    federation, flags = tiny_federation(), options_for("fedavg")
    trained, _, losses, _ = train(federation.at(1), [0, 1, 2], [federation.initial()] * 3, fedavg.loss, flags)
    _, done = play(federation, flags)
    assert torch.equal(done.loss, losses)
    close(weights_of(done.models["global"]), mean_of(trained, [10, 20, 30]))


# --- --bn local ---


class Heard(Wire):
    """A wire that remembers the weights that cross it."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def _carry(self, direction, kind, rows, edges):
        self.weights += rows if kind == "weights" else []
        return super()._carry(direction, kind, rows, edges)


WAYS = pytest.mark.parametrize(
    "flags",
    [{}, {"init": "independent"}, {"keep_optimizer": True, "optimizer": "adam", "lr": 0.01}],
    ids=["plain", "init independent", "keep_optimizer"],
)


@WAYS
def test_normalisation_that_is_local_never_travels_and_stays_with_its_client(flags):
    federation = tiny_federation(model="CNN4", participation=0.7, wire=Heard())
    options, bn = options_for("fedavg", bn="local", **flags), federation.names("bn")
    module, averaged = algorithms.module_of(options), federation.names("full") - federation.names("bn")
    assert {name.rpartition(".")[2] for name in bn} == {
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert len(bn) == 4 * 5, "four layers with all they have"
    state, absent = module.start(federation, options), 0
    previous = [federation.initial(k if "init" in flags else None) for k in federation.clients]
    for r in (1, 2, 3):
        done = module.communicate(federation.at(r), state, options)
        assert len(federation.wire.weights) == (2 if r == 1 and "init" in flags else 4)
        assert all(row.keys() == averaged for row in federation.wire.weights)
        federation.wire.weights.clear()
        assert list(done.models) == ["personal"], "everyone has a model of its own"
        rows = [weights_of(done.models["personal"], k) for k in federation.clients]
        trained = dict(zip(done.clients, done.local_weights, strict=True))
        parts = [{name: row[name] for name in averaged} for row in done.local_weights]
        close(state["server"], mean_of(parts, [10 * (k + 1) for k in done.clients]))
        for k in federation.clients:
            assert all(torch.equal(rows[k][name], state["server"][name]) for name in averaged)
            assert all(torch.equal(rows[k][name], trained.get(k, previous[k])[name]) for name in bn), "as trained, or kept"
            absent += k not in trained
        previous = rows
    assert absent == 3
    assert not any(torch.equal(rows[0][name], rows[1][name]) for name in bn if "running" in name)


def test_a_client_goes_on_training_with_its_own_normalisation_in_the_common_model(monkeypatch):
    federation, recorded = tiny_federation(model="CNN4"), first_weights(monkeypatch, fedavg)
    options = options_for("fedavg", bn="local", batch_size=WHOLE)
    state = fedavg.start(federation, options)
    expected = [federation.initial()] * 3
    for r in (1, 2, 3):
        done = fedavg.communicate(federation.at(r), state, options)
        assert len(recorded) == 3
        for k in federation.clients:
            # the running statistics move in the forward pass, after which the loss is worked out; all else is as it was
            assert all(torch.equal(recorded[k][n], expected[k][n]) for n in expected[k] if "running" not in n)
        expected = [weights_of(done.models["personal"], k) for k in federation.clients]
        recorded.clear()


def test_the_absent_are_averaged_too_without_their_normalisation_where_all_models_are():
    federation = tiny_federation(model="CNN4", participation=0.7, wire=Heard())
    bn = federation.names("bn")
    for init in ("shared", "independent"):
        state, done = play(federation, options_for("fedavg", bn="local", aggregate="all", init=init))
        assert not any(bn & row.keys() for row in federation.wire.weights)
        (absent,) = set(federation.clients) - set(done.clients)
        rows = dict(zip(done.clients, done.local_weights, strict=True))
        rows[absent] = federation.initial(absent if init == "independent" else None)
        parts = [{name: rows[k][name] for name in rows[k].keys() - bn} for k in federation.clients]
        close(state["server"], mean_of(parts, [10, 20, 30]))


def normalised_first():
    """A convolution, BatchNorm and a classifier. But for the layer's epsilon it gives the same for x and for c x; its
    running statistics are means over all batches, so that nothing is left of their initial values."""
    norm = torch.nn.BatchNorm2d(4, eps=1e-12, momentum=None)
    return models.Net(
        torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), norm, torch.nn.ReLU(), models.GlobalMean()), 4, 3
    )


def test_with_local_normalisation_clients_of_other_contrast_answer_as_if_all_had_the_same():
    """FedBN on a shift that it undoes: a client's contrast is a factor of its normalised images, and of its statistics. The
    models are trained alike either way, since a batch is normalised by its own statistics; what differs is the answer."""
    ints, parts = tiny_data(), (range(10), range(10, 30), range(30, 60))
    x, y, n = ints.x.float() / 255, ints.y, ints.n_train
    data = from_arrays("floats", (x[:n], y[:n]), (x[n:], y[n:]), ints.classes)
    tests = [np.arange(60 + 10 * k, 70 + 10 * k) for k in range(3)]
    split = Split(parts, [[]] * 3, tests)
    shifted = shift.shifted(data, split, Options(n_clients=3, feature_shift="contrast", shift_strength=0.9))
    away = {}
    for bn in ("local", "average"):
        logits = []
        for recorded in (data, shifted):
            federation = Federation.of(recorded, parts, [normalised_first], dtype=torch.float64)
            _, done = play(federation, options_for("fedavg", bn=bn), rounds=3)
            (answer,) = done.models.values()
            images = [recorded.images(torch.from_numpy(own), torch.float64) for own in tests]
            logits.append(torch.cat([answer(k).eval()(images[k])[1].detach() for k in range(3)]))
            learnt = [{name: row[name] for name, _ in answer(0).named_parameters()} for row in done.local_weights]
            away.setdefault(f"{bn}, weights", []).append(learnt)
        away[bn] = (logits[0] - logits[1]).abs().max().item()
        for item, other in zip(*away[f"{bn}, weights"], strict=True):
            close(item, other, 1e-5)  # pixels are float32
    assert away["local"] < 1e-6 < 1e-2 < away["average"]


def test_local_normalisation_is_not_as_published():
    classes = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
    line = line_of(commandline.parse, ["fedavg", "--as_published", "--bn", "local"], classes, dict.fromkeys(classes, ""))
    assert line == "--bn local: contradicts --as_published, which sets --bn average"
