"""Per-FedAvg of first order: its loss and gradient written out, what a client makes of the model, and FedAvg as a limit."""

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_data, tiny_federation, weights_of

from algorithms import perfedavg
from helpers import Batch

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch


def close(one, other, tolerance=1e-10):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance)


def batch_of(federation, indices):
    return Batch(federation.data.images(indices, torch.float64), federation.data.y[indices], torch.arange(len(indices)))


def slope_at(federation, row, x, y):
    """The gradient of the cross-entropy at `row`, of a network of its own."""
    model = federation.architectures[0]().double()
    model.load_state_dict(row)
    value = F.cross_entropy(model(x)[1], y)
    value.backward()
    return value.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(("n", "cut"), [(8, (4, 4)), (5, (2, 3)), (4, (2, 2)), (3, None), (2, None), (1, None)])
def test_the_loss_is_that_of_the_second_half_after_a_step_on_the_first_and_its_gradient_the_one_there(n, cut):
    federation = tiny_federation(model="MLP")
    row, batch = federation.initial(), batch_of(federation, torch.arange(10, 10 + n))
    first, second = ([slice(None)] * 2) if cut is None else (slice(0, cut[0]), slice(cut[0], n))
    _, g = slope_at(federation, row, batch.x[first], batch.y[first])
    value, expected = slope_at(
        federation, {name: w - 0.3 * g[name] for name, w in row.items()}, batch.x[second], batch.y[second]
    )
    model = federation.model(0, row)
    found = perfedavg.loss(model, batch, None, options_for("perfedavg", adapt_lr=0.3))
    torch.testing.assert_close(found.detach(), value, rtol=0, atol=1e-12)
    found.backward()
    close({name: p.grad for name, p in model.named_parameters()}, expected, 1e-12)


def test_without_alpha_it_is_fedavg_on_the_second_half_of_each_batch():
    federation = tiny_federation(model="MLP")
    _, done = play(federation, options_for("perfedavg", adapt_lr=0.0, batch_size=WHOLE, epoch_per_round=2, lr=0.1))
    rows = []
    for k, share in enumerate(federation.shares):
        row, order = federation.initial(), federation.at(1).stream("batches", k)
        for _ in (1, 2):
            second = share[torch.from_numpy(order.permutation(len(share)))][len(share) // 2 :]
            _, g = slope_at(federation, row, *batch_of(federation, second)[:2])
            row = {name: w - 0.1 * g[name] for name, w in row.items()}
        rows.append(row)
    expected = {name: sum(n * row[name] for n, row in zip((10, 20, 30), rows, strict=True)) / 60 for name in rows[0]}
    close(weights_of(done.models["global"]), expected)
    for k in federation.clients:
        close(weights_of(done.models["personal"], k), expected)


@pytest.mark.parametrize("model", ["MLP_dropout", "CNN4"])
def test_a_client_makes_its_model_by_one_step_over_its_whole_share_in_evaluation_mode(model):
    federation = tiny_federation(model=model, participation=0.7)
    _, done = play(federation, options_for("perfedavg", adapt_lr=0.2, augment="flip", momentum=0.9, weight_decay=0.1), 2)
    w = weights_of(done.models["global"])
    assert list(done.models) == ["personal", "global"]
    for k, share in enumerate(federation.shares):  # of everyone, whoever took part
        one = federation.architectures[0]().double().eval()
        one.load_state_dict(w)
        F.cross_entropy(one(federation.data.images(share, torch.float64))[1], federation.data.y[share]).backward()
        slopes = {name: p.grad for name, p in one.named_parameters()}
        expected = {name: tensor - 0.2 * slopes[name] if name in slopes else tensor for name, tensor in w.items()}
        close(weights_of(done.models["personal"], k), expected)


def test_what_a_client_makes_of_the_model_is_nobodys_work_and_changes_nothing():
    federation = tiny_federation(dtype=torch.float32)
    flags = options_for("perfedavg")
    state, done = play(federation, flags)
    before, spent = weights_of(done.models["global"]), federation.meter.spent.copy()
    one, again = (weights_of(done.models["personal"], 1) for _ in range(2))
    close(one, again, tolerance=0)
    close(weights_of(done.models["global"]), before, tolerance=0)
    counted = {key: n for key, n in federation.meter.spent.items() if key[1] in ("client", "server")}
    assert counted == dict(spent)
    assert state["own"] == {}, "nobody keeps it"


def test_batchnorm_takes_batches_of_any_size():
    data_shares = [range(2), range(2, 5), range(5, 30)]
    _, done = play(tiny_federation(tiny_data(size=16), data_shares, "ResNet9"), options_for("perfedavg", batch_size=2))
    assert torch.isfinite(done.loss).all()


def test_the_defaults_are_those_of_the_paper_but_for_the_rate():
    flags = perfedavg.Options(algorithm="perfedavg")
    assert (flags.adapt_lr, flags.batch_size, flags.rounds, flags.optimizer) == (0.01, 40, 1000, "sgd")
    assert flags.lr == 0.1, "chosen on validation: the docstring"
