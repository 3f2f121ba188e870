"""The verbs of a round, each against its slow and obvious version: training loops, averages, class means, outputs."""

from dataclasses import replace
from functools import partial

import conftest
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, same, tiny_data, tiny_federation, weights_of
from torch import nn

import streams
from algorithms.independent import loss
from federation import Federation
from federation.local import cut_batches, last_step
from helpers import (
    SCHEDULES,
    _parted,
    adapted,
    add_scaled,
    aggregate,
    average,
    class_means,
    download,
    linear_term,
    mean,
    one_model,
    outputs,
    own_models,
    parameters,
    replace_rows,
    select_rows,
    shared_model,
    squared_distance,
    subtract,
    train,
    train_own,
)
from models import Dropout, Net

close = partial(conftest.close, tolerance=1e-11)  # equal up to the order of float64 sums


def copies(rows):
    return [{name: tensor.clone() for name, tensor in row.items()} for row in rows]


def initial(federation):
    return [federation.initial(k) for k in federation.clients]


def linear():
    """A softmax regression, whose gradient can be written by hand."""
    return Net(nn.Flatten(), 144, 3)


def normed():
    """A model with BatchNorm and dropout, which tells training from evaluation mode."""
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5), nn.Tanh(), Dropout(0.5)), 5, 3)


def federation_of(build, shares=(range(10), range(10, 30), range(30, 60)), **others):
    return Federation.of(tiny_data(), [np.array(share) for share in shares], [build], dtype=torch.float64, **others)


def recorder():
    """(loss, seen): cross-entropy that notes the positions of each batch under the name that `given` has."""
    by_name = {}

    def noted(model, batch, context, options):
        by_name.setdefault(context, []).append(batch.index.clone())
        return loss(model, batch, None, options)

    return noted, by_name


def plain_training(federation, k, weights, positions, make):
    """What any textbook does: one optimizer, batch after batch of client k's own examples."""
    model = federation.architectures[0]().to(federation.dtype).train()
    model.load_state_dict(weights)
    optimizer = make(model.parameters())
    for i in positions:
        own = federation.shares[k][i]
        _, logits = model(federation.data.images(own, federation.dtype))
        optimizer.zero_grad()
        F.cross_entropy(logits, federation.data.y[own]).backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


# --- train: the steps ---


def test_one_full_batch_step_of_sgd_is_w_minus_lr_times_the_gradient():
    federation, lr = federation_of(linear), 0.05
    rows = initial(federation)
    trained, _, losses, _ = train(
        federation, federation.clients, rows, loss, options_for("independent", batch_size=60, lr=lr)
    )
    for k in federation.clients:
        share, row = federation.shares[k], rows[k]
        x = federation.data.images(share, torch.float64).flatten(1)
        logits = x @ row["classifier.weight"].T + row["classifier.bias"]
        # cross-entropy's derivative by the logits is softmax - one-hot, and the loss is a mean over the n examples
        slope = (logits.softmax(1) - torch.eye(3)[federation.data.y[share]]) / len(share)
        step = {"classifier.weight": slope.T @ x, "classifier.bias": slope.sum(0)}
        close(trained[k], {name: row[name] - lr * step[name] for name in row})
        by_hand = -logits.log_softmax(1)[torch.arange(len(share)), federation.data.y[share]].mean()
        torch.testing.assert_close(losses[k], by_hand)


OPTIMIZERS = {
    "plain SGD": ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": ({"optimizer": "sgd", "momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "weight decay": ({"optimizer": "sgd", "weight_decay": 0.1}, lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
    "Adam": ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.05)),
    "Adam with weight decay": (
        {"optimizer": "adam", "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_a_plain_loop_of_the_optimizer_over_the_same_batches(name):
    flags, make = OPTIMIZERS[name]
    federation = tiny_federation(model="MLP")
    rows, (noted, recorded) = initial(federation), recorder()
    trained, _, _, _ = train(
        federation, [0, 1, 2], rows, noted, options_for("independent", epoch_per_round=2, **flags), context=["a", "b", "c"]
    )
    for k in federation.clients:
        close(trained[k], plain_training(federation, k, rows[k], recorded["abc"[k]], make))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_that_gets_its_memory_back_goes_on_as_if_it_had_never_stopped(name):
    flags, make = OPTIMIZERS[name]
    federation, options = tiny_federation(model="MLP"), options_for("independent", **flags)
    rows, (noted, recorded), inputs = initial(federation), recorder(), ["a", "b", "c"]
    halfway, memory, _, _ = train(federation.at(1), [0, 1, 2], rows, noted, options, inputs, memory=[None] * 3)
    trained, _, _, _ = train(federation.at(2), [0, 1, 2], halfway, noted, options, inputs, memory)
    for k in federation.clients:
        close(trained[k], plain_training(federation, k, rows[k], recorded["abc"[k]], make))
    forgotten, _, _, _ = train(federation.at(2), [0, 1, 2], halfway, loss, options)
    remembers = name in ("momentum", "Adam", "Adam with weight decay")
    assert all(same(forgotten[k], trained[k]) != remembers for k in federation.clients)


def test_without_rows_of_memory_every_optimizer_is_fresh_and_none_is_returned():
    """Or what nobody wants would travel from other processes."""
    federation = tiny_federation()
    rows, options = initial(federation), options_for("fedavg", optimizer="adam")
    trained, memory, _, _ = train(federation, [0, 1, 2], rows, loss, options)
    fresh, kept, _, _ = train(federation, [0, 1, 2], rows, loss, options, memory=[None] * 3)
    assert memory == [None] * 3
    assert all(kept)
    assert all(same(*pair) for pair in zip(trained, fresh, strict=True))


def test_memory_may_be_missing_for_some_clients():
    federation, options = tiny_federation(model="MLP"), options_for("independent", optimizer="adam")
    rows = initial(federation)
    _, memory, _, _ = train(federation.at(1), [0, 1, 2], rows, loss, options, memory=[None] * 3)
    mixed, _, _, _ = train(federation.at(2), [0, 1, 2], rows, loss, options, memory=[None, memory[1], None])
    kept, _, _, _ = train(federation.at(2), [0, 1, 2], rows, loss, options, memory=memory)
    fresh, _, _, _ = train(federation.at(2), [0, 1, 2], rows, loss, options)
    assert same(mixed[0], fresh[0])
    assert same(mixed[1], kept[1])
    assert not same(kept[0], fresh[0])


def test_parameters_that_an_earlier_training_left_out_have_nothing_to_remember():
    federation, options = tiny_federation(model="MLP"), options_for("independent", optimizer="adam")
    rows, only = initial(federation), ["classifier.weight"]
    halfway, memory, _, _ = train(federation.at(1), [0, 1, 2], rows, loss, options, only=only, memory=[None] * 3)
    trained, _, _, _ = train(federation.at(2), [0, 1, 2], halfway, loss, options, memory=memory)
    fresh, _, _, _ = train(federation.at(2), [0, 1, 2], halfway, loss, options)
    assert not any(same(a, b) for a, b in zip(trained, fresh, strict=True)), "classifier.weight remembers"
    one_step = options_for("independent", optimizer="adam", batch_size=60)
    trained, _, _, _ = train(federation.at(2), [0, 1, 2], halfway, loss, one_step, memory=memory)
    fresh, _, _, _ = train(federation.at(2), [0, 1, 2], halfway, loss, one_step)
    for a, b in zip(trained, fresh, strict=True):
        assert {name for name in a if not torch.equal(a[name], b[name])} == set(only)


def test_parameters_that_are_left_out_now_are_remembered_until_they_are_trained_again():
    federation, options = tiny_federation(model="MLP"), options_for("independent", optimizer="adam", batch_size=60)
    head, body = ["classifier.weight", "classifier.bias"], ["body.1.weight", "body.1.bias"]
    rows = initial(federation)
    _, first, _, _ = train(federation.at(1), [0, 1, 2], rows, loss, options, only=head, memory=[None] * 3)
    _, second, _, _ = train(federation.at(2), [0, 1, 2], rows, loss, options, memory=first, only=body)
    for item, other in zip(first, second, strict=True):
        assert item.keys() == set(head)
        assert other.keys() == {*head, *body}
        assert all(same(item[name], other[name]) for name in head)


def test_only_the_named_parameters_are_trained():
    federation = federation_of(normed)
    rows, only = initial(federation), ["classifier.weight", "body.1.bias"]
    flags = options_for("independent", momentum=0.9, weight_decay=0.1, epoch_per_round=2)
    trained, memory, _, _ = train(federation, [0, 1, 2], rows, loss, flags, only=only, memory=[None] * 3)
    parameters = {name for name, _ in federation.skeletons[0].named_parameters()}
    for k in federation.clients:
        moved = {name for name in parameters if not torch.equal(trained[k][name], rows[k][name])}
        assert moved == set(only), "the others keep their bits, weight decay or not"
        assert memory[k].keys() == set(only)
        assert not torch.equal(trained[k]["body.2.running_mean"], rows[k]["body.2.running_mean"]), "statistics still run"
    again, _, _, _ = train(federation, [0], rows[:1], loss, flags)
    assert all(not torch.equal(again[0][name], rows[0][name]) for name in parameters), "and afterwards all are free again"


def test_the_model_is_in_training_mode_and_its_gradient_is_that_of_one_batch():
    federation, recorded = federation_of(normed), []

    def watchful(model, batch, context, options):
        recorded.append((model.training, [p.grad is None for p in model.parameters()]))
        return loss(model, batch, context, options)

    train(federation, [0], initial(federation)[:1], watchful, options_for("independent"))
    assert len(recorded) == 2  # 10 examples: 8 and 2
    assert all(training and all(no_gradient) for training, no_gradient in recorded)


# --- train: the batches ---


def test_a_batch_is_the_clients_own_examples_and_given_is_its_own_row():
    federation, options = tiny_federation(), options_for("independent", epoch_per_round=2)
    shares = [torch.tensor([9, 2, 30, 41]), torch.tensor([59, 3]), torch.arange(10, 25)]
    federation, counted = replace(federation, shares=tuple(shares)), [0, 0, 0]

    def watchful(model, batch, context, options):
        own = shares[context][batch.index]
        assert torch.equal(batch.x, federation.data.images(own, torch.float64))
        assert torch.equal(batch.y, federation.data.y[own])
        assert batch.x.dtype == torch.float64
        assert batch.index.dtype == batch.y.dtype == torch.int64
        counted[context] += len(batch.index)
        return loss(model, batch, None, options)

    train(federation, [2, 0, 1], select_rows(initial(federation), [2, 0, 1]), watchful, options, context=[2, 0, 1])
    assert counted == [2 * 4, 2 * 2, 2 * 15]


def test_every_example_is_seen_once_an_epoch_in_an_order_that_is_new_for_each_epoch_round_and_client():
    federation = tiny_federation(shares=[range(20), range(20, 40)], model="MLP")
    options, orders = options_for("independent", epoch_per_round=3), []
    for r in (1, 2):
        noted, recorded = recorder()
        train(federation.at(r), [0, 1], initial(federation), noted, options, context=[0, 1])
        for k in (0, 1):
            positions = torch.cat(recorded[k]).tolist()
            assert [len(i) for i in recorded[k]] == 3 * [8, 8, 4]
            epochs = [positions[:20], positions[20:40], positions[40:]]
            assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
            orders += [tuple(epoch) for epoch in epochs]
    assert len(set(orders)) == len(orders) == 2 * 2 * 3
    noted, recorded = recorder()
    train(federation.at(1).with_party("fine-tuning"), [0], initial(federation)[:1], noted, options, context=[0])
    assert tuple(torch.cat(recorded[0])[:20].tolist()) not in orders, "another party's draws are its own"


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [
        (16, 8, [8, 8]),
        (18, 8, [8, 8, 2]),
        (17, 8, [8, 9]),  # a left-over of one joins the batch before
        (9, 8, [9]),
        (1, 8, [1]),  # no batch before it
        (5, 1, [1, 1, 1, 1, 1]),  # not left over: asked for
        (3, 2, [3]),
        (4, 100, [4]),
        (0, 8, []),
        (0, 1, []),
    ],
)
def test_batches_are_cut_in_order_and_a_left_over_one_joins_the_batch_before(n, size, lengths):
    positions = torch.arange(n).flip(0)
    cut = cut_batches(positions, size)
    assert [len(batch) for batch in cut] == lengths
    assert [i for batch in cut for i in batch.tolist()] == positions.tolist()


# --- train: dropout ---


def dropping():
    """A model with two dropouts, whose features [B, 20] are 0 where the second dropped them and nowhere else."""
    return Net(nn.Sequential(Dropout(0.2), nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), Dropout(0.5)), 20, 3)


def masks_of(federation, rows, options):
    """By client, the masks of its features in each step of its training: bool [B, 20]."""
    by_name = {}

    def noted(model, batch, context, options):
        features, logits = model(batch.x)
        by_name.setdefault(context, []).append(features.detach() != 0)
        return F.cross_entropy(logits, batch.y)

    train(federation, federation.clients, rows, noted, options, context=federation.clients)
    return by_name


def test_the_masks_of_a_client_are_those_of_its_stream_one_after_another():
    federation, options = federation_of(dropping, seed=3).at(2), options_for("independent", epoch_per_round=2)
    masks = masks_of(federation, initial(federation), options)
    for k, steps in zip(federation.clients, (2 * 2, 2 * 3, 2 * 4), strict=True):  # batches of 8
        draws = streams.generator(3, "client", "dropout", 2, k)
        assert len(masks[k]) == steps
        for kept in masks[k]:
            draws.random((len(kept), 1, 12, 12), dtype=np.float32)  # the first dropout's, of the images
            assert torch.equal(kept, torch.from_numpy(draws.random(kept.shape, dtype=np.float32) >= 0.5))


def test_masks_are_new_for_each_step_epoch_round_client_party_and_seed():
    federation = federation_of(dropping, [range(8), range(8, 16)])
    rows, options, masks = initial(federation), options_for("independent", batch_size=4, epoch_per_round=3), []
    first = federation.at(1)
    for other in (first, federation.at(2), first.with_party("fine-tuning"), replace(first, seed=1)):
        recorded = masks_of(other, rows, options)
        masks += [tuple(kept.flatten().tolist()) for k in federation.clients for kept in recorded[k]]
    assert len(set(masks)) == len(masks) == 4 * 2 * 6


def test_dropout_leaves_the_order_of_the_batches_as_it_is():
    options, orders = options_for("independent", epoch_per_round=2), []
    for build in (dropping, linear):
        (noted, recorded), federation = recorder(), federation_of(build)
        train(federation, [0, 1, 2], initial(federation), noted, options, context=[0, 1, 2])
        orders.append({k: torch.cat(recorded[k]).tolist() for k in recorded})
    assert orders[0] == orders[1]


def test_with_dropout_a_client_gets_the_same_bits_in_any_order_and_company_and_after_anything_else():
    federation, options = federation_of(dropping), options_for("independent", optimizer="adam")
    rows = initial(federation)
    expected, _, losses, _ = train(federation, [0, 1, 2], rows, loss, options)
    assert not any(same(row, before) for row, before in zip(expected, rows, strict=True))
    before = torch.get_rng_state()
    for clients in ([2, 0, 1], [1], [2, 1]):
        train(federation.at(4), [0], rows[:1], loss, options)  # one round more for the skeleton that all share
        trained, _, result, _ = train(federation, clients, select_rows(rows, clients), loss, options)
        for s, k in enumerate(clients):
            assert same(trained[s], expected[k])
            assert torch.equal(result[s], losses[k])
    assert torch.equal(torch.get_rng_state(), before), "nor is anything drawn from torch's own generator"


def test_with_dropout_training_goes_on_in_fresh_models_as_if_it_had_not_stopped():
    options, clients = options_for("independent", optimizer="adam"), [0, 1, 2]
    federation = federation_of(dropping)
    halfway, memory, _, _ = train(
        federation.at(1), clients, initial(federation), loss, options, memory=[None] * len(clients)
    )
    expected, _, losses, _ = train(federation.at(2), clients, halfway, loss, options, memory=memory)
    fresh = federation_of(dropping)  # skeletons that have never been trained
    resumed, _, result, _ = train(fresh.at(2), clients, halfway, loss, options, memory=memory)
    assert all(same(row, other) for row, other in zip(resumed, expected, strict=True))
    assert torch.equal(result, losses)


def test_outputs_after_a_training_with_dropout_are_without_it():
    federation = federation_of(dropping)
    trained, _, _, _ = train(federation, [0, 1, 2], initial(federation), loss, options_for("independent"))
    for k in federation.clients:
        x = federation.data.images(federation.shares[k], torch.float64).flatten(1)
        features = torch.tanh(x @ trained[k]["body.2.weight"].T + trained[k]["body.2.bias"])
        torch.testing.assert_close(outputs(federation, k, trained[k]).features, features)


# --- train: what is returned ---


def test_the_loss_is_the_mean_over_the_examples_of_all_local_epochs():
    federation, values = tiny_federation(model="MLP"), {}

    def noted(model, batch, context, options):
        value = loss(model, batch, None, options)
        values.setdefault(context, []).extend([value.item()] * len(batch.y))  # a batch's mean, once for each of its examples
        return value

    options = options_for("independent", epoch_per_round=2, batch_size=7)
    _, _, losses, _ = train(federation, [2, 0], select_rows(initial(federation), [2, 0]), noted, options, context=[2, 0])
    assert losses.shape == (2,)
    assert [len(values[k]) for k in (2, 0)] == [2 * 30, 2 * 10]
    for result, k in zip(losses, (2, 0), strict=True):
        assert result.item() == pytest.approx(np.mean(values[k]), rel=1e-14)


def lenet5_step(n, D=6, C=3, side=12):
    """Floating point operations of a training step of LeNet5 on n images [1, side, side], by hand: a multiply-add is two;
    forward, gradients of the weights, and gradients of every layer's input but the first one's, the image's."""
    first = side**2 * 6 * 25
    others = (side // 2) ** 2 * 16 * 6 * 25 + (side // 4) ** 2 * 120 * 16 * 9 + 120 * D + D * C
    return 2 * n * (2 * first + 3 * others)


def test_flops_of_training_are_those_counted_by_hand_the_short_last_batch_included():
    federation = tiny_federation()
    rows, options = initial(federation), options_for("independent", epoch_per_round=2)
    for times in (1, 2):  # counted, then known
        train(federation, [0, 2], select_rows(rows, [0, 2]), loss, options)
        results = {k: federation.meter.spent["flops", "client", k] for k in (0, 2)}
        # batches of 8: 10 examples are 8 + 2, 30 are 8 + 8 + 8 + 6
        assert results[0] == times * 2 * (lenet5_step(8) + lenet5_step(2))
        assert results[2] == times * 2 * (3 * lenet5_step(8) + lenet5_step(6))


def test_flops_of_a_part_are_less_and_those_of_another_loss_its_own():
    federation = tiny_federation()
    rows, options = initial(federation), options_for("independent", batch_size=60)

    def twice(model, batch, context, options):
        return loss(model, batch, context, options) + loss(model, batch, context, options)

    def counted(*args, **others):
        federation.meter.spent.clear()
        train(federation, [0], rows[:1], *args, options, **others)
        return federation.meter.spent["flops", "client", 0]

    whole = counted(loss)
    assert whole == lenet5_step(10)
    # the body computes as in evaluation: all forward, and of the classifier the gradient of its weights
    forward = (lenet5_step(10) + 2 * 10 * 12**2 * 6 * 25) // 3
    assert counted(loss, only=federation.names("head")) == forward + 2 * 10 * 6 * 3
    assert counted(twice) == 2 * whole
    assert counted(loss) == whole


def test_flops_of_outputs_are_those_of_the_way_forward():
    federation = tiny_federation()
    federation.map_clients(outputs, [2], [federation.initial(2)])
    assert federation.meter.spent == {("flops", "client", 2): (lenet5_step(30) + 2 * 30 * 12**2 * 6 * 25) // 3}


def counts_of(federation):
    """What was counted but the floating point operations."""
    return {key: n for key, n in federation.meter.spent.items() if key[0] != "flops"}


def test_effort_counts_steps_and_samples_by_party_and_client():
    federation = tiny_federation(model="MLP")
    rows, options = initial(federation), options_for("independent", epoch_per_round=2)
    train(federation, [0, 2], select_rows(rows, [0, 2]), loss, options)
    # batches of 8: 10 examples are 8 + 2, 30 are 8 + 8 + 8 + 6
    expected = {("steps", "client", 0): 4, ("samples", "client", 0): 20}
    expected |= {("steps", "client", 2): 8, ("samples", "client", 2): 60}
    assert counts_of(federation) == expected
    train(federation.at(1), [0], rows[:1], loss, options)
    train(federation.server(torch.arange(17)), [0], rows[:1], loss, options)  # 17 examples are 8 + 9
    expected |= {("steps", "client", 0): 2 * 4, ("samples", "client", 0): 2 * 20}
    expected |= {("steps", "server", 0): 4, ("samples", "server", 0): 34}
    assert counts_of(federation) == expected


def test_training_changes_nothing_that_it_was_given():
    federation, options = federation_of(normed), options_for("independent", optimizer="adam")
    rows, common = initial(federation), federation.initial()
    inputs = [{"teacher": torch.ones(3, dtype=torch.float64)} for _ in federation.clients]

    def taught(model, batch, context, options):
        return loss(model, batch, None, options) + (model(batch.x)[1].mean(0) * context["teacher"]).sum()

    trained, memory, _, _ = train(federation.at(1), [0, 1, 2], rows, taught, options, inputs, memory=[None] * 3)
    remembered = [{name: {**entry} for name, entry in row.items()} for row in memory]
    values = [[tensor.clone() for entry in row.values() for tensor in entry.values()] for row in memory]
    kept, shared, images = copies(trained), copies([common])[0], federation.data.x.clone()
    train(federation.at(2), [0, 1, 2], trained, taught, options, inputs, memory)
    train(federation.at(2), [0, 1, 2], [common] * 3, taught, options, inputs, memory)  # rows may be one and the same
    assert all(same(row, before) for row, before in zip(trained, kept, strict=True))
    assert same(common, shared)
    for row, before, numbers in zip(memory, remembered, values, strict=True):
        assert {name: list(entry) for name, entry in row.items()} == {name: list(entry) for name, entry in before.items()}
        now = [tensor for entry in row.values() for tensor in entry.values()]
        assert all(torch.equal(a, b) for a, b in zip(now, numbers, strict=True))
    assert all(torch.equal(row["teacher"], torch.ones(3)) for row in inputs)
    assert torch.equal(federation.data.x, images)


def test_what_training_returns_is_free_of_gradients_and_of_the_model_it_came_from():
    federation = tiny_federation()
    (row,), _, losses, _ = train(federation, [0], initial(federation)[:1], loss, options_for("independent"))
    kept = copies([row])[0]
    federation.model(0, federation.initial())  # fills the skeleton anew
    assert same(row, kept)
    assert not any(tensor.requires_grad for tensor in [*row.values(), losses])


def test_a_client_gets_the_same_bits_in_any_order_and_company():
    federation, options = tiny_federation(), options_for("independent", optimizer="adam")
    rows = initial(federation)
    expected, _, losses, _ = train(federation, [0, 1, 2], rows, loss, options)
    result = federation.map_clients(outputs, [0, 1, 2], expected)
    for clients in ([2, 0, 1], [1], [2, 1]):
        trained, _, actual, _ = train(federation, clients, select_rows(rows, clients), loss, options)
        again = federation.map_clients(outputs, clients, trained)
        for s, k in enumerate(clients):
            assert same(trained[s], expected[k])
            assert torch.equal(actual[s], losses[k])
            assert all(torch.equal(a, b) for a, b in zip(again[s], result[k], strict=True))


def test_an_empty_share_takes_no_step_and_has_loss_0():
    federation = tiny_federation(shares=[[], range(10)], model="MLP")
    rows, options = initial(federation), options_for("independent", optimizer="adam")
    trained, memory, losses, _ = train(federation.at(1), [0, 1], rows, loss, options, memory=[None] * 2)
    assert same(trained[0], rows[0])
    assert losses[0] == 0
    assert federation.meter.spent["steps", "client", 0] == federation.meter.spent["samples", "client", 0] == 0
    trained, _, _, _ = train(federation.at(2), [0, 1], trained, loss, options, memory=memory)
    assert same(trained[0], rows[0]), "its memory, of nothing, can be given back"


def test_the_steps_that_each_client_took_are_told():
    federation = tiny_federation(model="MLP")
    flags = options_for("independent", batch_size=8, epoch_per_round=3)
    result = train(federation, [0, 1, 2], initial(federation), loss, flags).steps
    assert result == [3 * 2, 3 * 3, 3 * 4], "10, 20 and 30 examples"
    assert result == [federation.meter.spent["steps", "client", k] for k in range(3)]


# --- train: a number of steps ---


@pytest.mark.parametrize("n", [1, 3, 7, 12])
def test_local_steps_are_the_first_steps_of_as_many_epochs_as_they_take_however_large_the_share(n):
    federation = tiny_federation(model="MLP", shares=[range(10), range(10, 30), range(30, 60), ()])
    options = options_for("independent", batch_size=8)
    rows, (noted, recorded), (other, cut) = initial(federation), recorder(), recorder()
    train(federation, [0, 1, 2, 3], rows, noted, replace(options, epoch_per_round=12), "abcd")
    trained = train(federation, [0, 1, 2, 3], rows, other, replace(options, local_steps=n), "abcd")
    assert trained.steps == [n, n, n, 0], "whoever has no examples takes no step"
    for name in "abc":
        assert len(cut[name]) == n
        assert all(map(torch.equal, cut[name], recorded[name]))


def test_a_straggler_stops_after_a_part_of_the_local_steps():
    federation = tiny_federation(shares=[range(60)])
    options = options_for("independent", batch_size=1, local_steps=7, straggler=0.5)
    results = [last_step(federation.at(r), 0, options) for r in range(300)]
    assert set(results) == set(range(1, 8))
    assert results.count(7) > 140, "half of all, and a seventh of the others"


# --- train: stragglers ---


def test_a_straggler_takes_the_first_steps_of_those_that_it_would_take_and_is_counted_so():
    federation = tiny_federation(model="MLP")
    options = options_for("independent", batch_size=4, epoch_per_round=2)
    rows, (noted, recorded), (other, cut) = initial(federation), recorder(), recorder()
    train(federation, [0, 1, 2], rows, noted, options, "abc")
    trained = train(federation, [0, 1, 2], rows, other, replace(options, straggler=1.0), "abc", memory=[None] * 3)
    for k, name in enumerate("abc"):
        n = trained.steps[k]
        assert 0 < n < len(recorded[name]), "a part, at least one"
        assert len(cut[name]) == n
        assert all(map(torch.equal, cut[name], recorded[name]))
        close(trained.weights[k], plain_training(federation, k, rows[k], recorded[name][:n], OPTIMIZERS["plain SGD"][1]))


def test_a_client_straggles_as_often_as_is_said_for_a_part_of_its_steps_that_is_drawn_evenly():
    federation = tiny_federation(shares=[range(60)])
    options = options_for("independent", batch_size=1, epoch_per_round=100, straggler=0.3)
    results = [last_step(federation.at(r), 0, options) for r in range(2000)]
    late = np.array([steps for steps in results if steps is not None])
    assert abs(len(late) / 2000 - 0.3) < 3 * np.sqrt(0.3 * 0.7 / 2000)
    assert late.min() >= 1
    assert late.max() <= 6000
    assert abs(late.mean() - 3000) < 3 * 6000 / np.sqrt(12 * len(late)), "evenly from 0 to 6,000"


def test_whoever_is_no_client_does_not_straggle_and_nobody_does_by_default():
    federation, options = tiny_federation(), options_for("independent", straggler=1.0)
    assert last_step(federation, 0, options) is not None
    assert last_step(federation.with_party("tuning"), 0, options) is None
    assert last_step(federation.server(federation.shares[0]), 0, options) is None
    assert last_step(federation, 0, options_for("independent")) is None


# --- terms of a loss ---


def test_the_squared_distance_is_over_the_parameters_that_are_trained():
    model = normed().double()
    model.classifier.requires_grad_(False)
    anchor = {name: w + 2 for name, w in model.state_dict().items()}
    n = sum(p.numel() for p in model.body.parameters())
    assert squared_distance(model, anchor).item() == pytest.approx(4 * n)


def test_what_steers_is_0_and_adds_its_direction_to_the_gradient():
    model = linear().double()
    direction = {"classifier.bias": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)}
    term = linear_term(model, direction)
    assert term.item() == 0
    term.backward()
    assert torch.equal(model.classifier.bias.grad, direction["classifier.bias"])
    assert model.classifier.weight.grad is None


# --- weights as vectors ---


def test_parameters_are_what_is_no_buffer_of_what_a_row_has():
    federation = tiny_federation(model="CNN4")
    row = federation.initial()
    result = parameters(federation, row)
    assert list(result) == [name for name, _ in federation.skeletons[0].named_parameters()]
    assert all(result[name] is row[name] for name in result)
    part = {"classifier.bias": row["classifier.bias"], "body.1.running_mean": torch.zeros(64)}
    assert parameters(federation, part).keys() == {"classifier.bias"}


def test_a_difference_and_a_step_are_of_what_their_second_row_names_and_change_nothing_in_place():
    entry = {"a": torch.tensor([3.0, 5.0]), "b": torch.tensor(1.0), "n": torch.tensor(7)}
    other = {"b": torch.tensor(4.0), "a": torch.tensor([1.0, 1.0])}
    assert {name: w.tolist() for name, w in subtract(entry, other).items()} == {"b": -3.0, "a": [2.0, 4.0]}
    there = add_scaled(entry, other, -0.5)
    assert list(there) == list(entry)
    assert {name: w.tolist() for name, w in there.items()} == {"a": [2.5, 4.5], "b": -1.0, "n": 7}
    assert there["n"] is entry["n"]
    assert entry["a"].tolist() == [3.0, 5.0]


# --- models that stay with their clients ---


def test_own_models_start_from_each_clients_own_weights_with_nothing_to_remember():
    federation = tiny_federation()
    state = own_models(federation)
    assert state["memory"] == [None, None, None]
    assert all(same(state["weights"][k], federation.initial(k)) for k in federation.clients)


def test_train_own_replaces_the_rows_of_its_clients_and_keeps_the_others():
    federation, options = tiny_federation(model="MLP"), options_for("independent", optimizer="adam")
    state, clients = own_models(federation), [0, 2]
    for r in (1, 2):
        before = dict(state)
        rows, memory = select_rows(before["weights"], clients), select_rows(before["memory"], clients)
        trained, remembered, losses, _ = train(federation.at(r), clients, rows, loss, options, memory=memory)
        assert torch.equal(train_own(federation.at(r), clients, state, loss, options), losses)
        for s, k in enumerate(clients):
            assert same(state["weights"][k], trained[s])
            assert all(same(state["memory"][k][name], remembered[s][name]) for name in remembered[s])
        assert state["weights"][1] is before["weights"][1]
        assert state["memory"][1] is None


# --- outputs ---


def test_outputs_are_those_of_evaluation_mode_in_the_order_of_the_share():
    federation = federation_of(normed, [[59, 3, 7, 20, 21], range(10)])
    rows = initial(federation)
    for row in rows:
        row["body.2.running_mean"] = torch.arange(5, dtype=torch.float64)
        row["body.2.running_var"] = torch.arange(5, dtype=torch.float64) + 0.5
    kept = copies(rows)
    for k in (1, 0):
        share, row, result = federation.shares[k], rows[k], outputs(federation, k, rows[k])
        x = federation.data.images(share, torch.float64).flatten(1)
        hidden = x @ row["body.1.weight"].T + row["body.1.bias"]
        normal = (hidden - row["body.2.running_mean"]) / (row["body.2.running_var"] + 1e-5).sqrt()  # BatchNorm's eps
        features = (normal * row["body.2.weight"] + row["body.2.bias"]).tanh()  # no dropout
        torch.testing.assert_close(result.features, features)
        torch.testing.assert_close(result.logits, features @ row["classifier.weight"].T + row["classifier.bias"])
        assert torch.equal(result.y, federation.data.y[share])
        assert not result.features.requires_grad
        assert not result.logits.requires_grad
    assert all(same(row, before) for row, before in zip(rows, kept, strict=True)), "running statistics stay as they are"


def test_outputs_of_a_share_longer_than_an_evaluation_batch_are_those_of_its_examples_one_by_one():
    data = tiny_data(n_train=520)
    share = np.random.default_rng(0).permutation(520)[:503]  # 250 + 250 + 3
    federation = Federation.of(data, [share], [linear], dtype=torch.float64)
    row = federation.initial(0)
    result = outputs(federation, 0, row)
    assert result.features.shape == (503, 144)
    for position in (0, 249, 250, 251, 499, 500, 502):
        x = data.images(torch.tensor([share[position]]), torch.float64).flatten(1)
        torch.testing.assert_close(result.features[position], x[0])
        torch.testing.assert_close(result.logits[position], (x @ row["classifier.weight"].T + row["classifier.bias"])[0])
        assert result.y[position] == data.y[share[position]]


@pytest.mark.parametrize("model", ["MLP_dropout", "CNN4"])
def test_to_adapt_is_gradient_descent_over_the_whole_share_however_long_in_evaluation_mode(model):
    data = tiny_data(n_train=520)
    federation = tiny_federation(data, [range(503), range(503, 520), []], model)  # 250 + 250 + 3
    begin = {n: w + 0.1 if w.is_floating_point() else w for n, w in federation.initial().items()}
    for k, steps, pull in ((0, 2, 0.7), (1, 1, 0.0), (2, 2, 0.7)):
        result = adapted(federation, k, begin, lr=0.05, steps=steps, pull=pull)
        single, share = federation.architectures[0]().double().eval(), federation.shares[k]
        single.load_state_dict(begin)
        for _ in range(steps if len(share) else 0):
            single.zero_grad()
            F.cross_entropy(single(data.images(share, torch.float64))[1], data.y[share]).backward()
            with torch.no_grad():
                for name, theta in single.named_parameters():
                    theta -= 0.05 * (theta.grad + pull * (theta - begin[name]))
        for name, w in single.state_dict().items():
            torch.testing.assert_close(result[name], w, rtol=1e-9, atol=1e-10)
        assert same(begin, {n: w + 0.1 if w.is_floating_point() else w for n, w in federation.initial().items()})


# --- averages ---


def test_the_average_is_weighted_by_n():
    n = [torch.tensor(1), torch.tensor(3)]
    assert average([torch.tensor([0.0]), torch.tensor([4.0])], n).tolist() == [3.0]  # (1 * 0 + 3 * 4) / 4
    rows = [{"a": torch.tensor([0.0]), "b": torch.tensor([8.0])}, {"a": torch.tensor([4.0]), "b": torch.tensor([0.0])}]
    result = average(rows, n)
    assert {name: tensor.tolist() for name, tensor in result.items()} == {"a": [3.0], "b": [2.0]}
    assert rows[0]["a"] == 0, "nothing is added up in place"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_average_of_equal_models_is_that_model(dtype):
    row = tiny_federation(dtype=dtype).initial()
    result = average([row, row, row], [torch.tensor(n) for n in (1, 2, 5)])  # eighths: exact but for rounding n_k w
    assert {tensor.dtype for tensor in result.values()} == {dtype}
    for name in row:
        torch.testing.assert_close(result[name], row[name], rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_integer_buffers_are_kept_and_not_averaged():
    rows = [{"count": torch.tensor(n), "flag": torch.tensor([n > 3])} for n in (3, 8)]
    result = average(rows, [torch.tensor(1), torch.tensor(7)])
    assert result["count"].dtype == torch.int64
    assert result["count"] == 3
    assert result["flag"].dtype == torch.bool


def test_the_average_of_nothing_is_0():
    rows = [torch.ones(2), torch.full((2,), 5.0)]
    assert average(rows, [torch.tensor(0), torch.tensor(0)]).tolist() == [0.0, 0.0]


def test_weights_may_differ_by_class():
    item, other = torch.tensor([[2.0, 4.0], [1.0, 1.0], [7.0, 7.0]]), torch.tensor([[6.0, 8.0], [5.0, 9.0], [7.0, 7.0]])
    n = [torch.tensor([[1], [1], [0]]), torch.tensor([[1], [3], [0]])]
    expected = [[4.0, 6.0], [4.0, 7.0], [0.0, 0.0]]  # means, (1 + 3 * 5) / 4 and (1 + 3 * 9) / 4, and nobody's class
    assert average([item, other], n).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_class_means_are_those_of_a_loop_over_the_classes(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 7, generator=generator, dtype=dtype)
    y = torch.randint(0, 4, (40,), generator=generator)
    y[y == 2] = 1  # nobody is of class 2, nor of class 4, the last
    means, counts = class_means(values, y, 5)
    assert means.dtype == dtype
    assert counts.dtype == torch.int64
    for c in range(5):
        mine = [values[i] for i in range(40) if y[i] == c]
        assert counts[c] == len(mine)
        expected = torch.stack(mine).mean(0) if mine else torch.zeros(7, dtype=dtype)
        torch.testing.assert_close(means[c], expected)
    assert counts.tolist()[2] == counts.tolist()[4] == 0
    assert counts.sum() == 40


def test_class_means_of_a_single_example_and_of_none():
    means, counts = class_means(torch.tensor([[2.0, 3.0]]), torch.tensor([1]), 3)
    assert means.tolist() == [[0.0, 0.0], [2.0, 3.0], [0.0, 0.0]]
    assert counts.tolist() == [0, 1, 0]
    means, counts = class_means(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), 3)
    assert means.tolist() == 3 * [[0.0, 0.0]]
    assert counts.tolist() == [0, 0, 0]


def test_a_mean_is_the_average_of_rows_that_count_alike():
    rows = [{"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)}, {"w": torch.tensor([4.0, 0.0]), "n": torch.tensor(9)}]
    result = mean(rows)
    assert torch.equal(result["w"], torch.tensor([2.5, 1.0]))
    assert result["n"] == 7, "counters are the first one's"


# --- rows ---


def test_pick_takes_rows_and_put_replaces_them_in_a_new_list():
    rows = ["a", "b", "c", "d"]
    assert select_rows(rows, [3, 1]) == ["d", "b"]
    assert replace_rows(rows, [3, 1], ["D", "B"]) == ["a", "B", "c", "D"]
    assert replace_rows(rows, [], []) == rows
    assert rows == ["a", "b", "c", "d"]
    by_client = {7: "a"}
    assert select_rows(by_client, [3, 7], "none yet") == ["none yet", "a"]
    assert replace_rows(by_client, [3, 7], ["b", "A"]) == {7: "A", 3: "b"}
    assert by_client == {7: "a"}
    with pytest.raises(ValueError, match="zip"):
        replace_rows(rows, [0, 1], ["A"])


# --- train: the learning rate over the rounds, and long gradients ---

FACTORS = {
    "constant": [1] * 8,
    "step": [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01],  # a tenth from half on, a hundredth from three quarters on
    "cosine": [np.cos(np.pi * r / 16) ** 2 for r in range(8)],  # (1 + cos(2 a)) / 2 = cos(a)^2
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_schedule_is_counted_in_rounds_and_scales_the_learning_rate(name, optimizer):
    federation = tiny_federation(model="MLP")
    rows = initial(federation)

    def trained(r, **flags):
        options = options_for("independent", optimizer=optimizer, rounds=8, epoch_per_round=2, **flags)
        return train(federation.at(r), federation.clients, rows, loss, options)[0]

    for r, factor in enumerate(FACTORS[name], start=1):
        for item, other in zip(trained(r, lr=0.05, lr_schedule=name), trained(r, lr=0.05 * factor), strict=True):
            close(item, other)


def test_steps_fall_at_half_and_three_quarters_of_an_odd_number_of_rounds_too():
    """With 7 rounds 3.5 are done in the middle of round 4, so round 5 is the first after half; 5.25 lies in round 6."""
    factors = [SCHEDULES["step"]((r - 1) / 7) for r in range(1, 8)]
    assert factors == [1, 1, 1, 1, 0.1, 0.1, 0.1**2]


@pytest.mark.parametrize("limit", [0.01, 0.5, 1e6])
def test_a_gradient_longer_than_the_limit_is_scaled_down_to_it(limit):
    federation, lr = federation_of(linear), 0.05
    rows = initial(federation)

    def steps(clip_grad):
        options = options_for("independent", batch_size=60, lr=lr, clip_grad=clip_grad)
        trained, _, _, _ = train(federation, federation.clients, rows, loss, options)
        return [{name: (row[name] - new[name]) / lr for name in row} for row, new in zip(rows, trained, strict=True)]

    for whole, clipped in zip(steps(0.0), steps(limit), strict=True):
        length = torch.cat([part.flatten() for part in whole.values()]).norm().item()
        assert 0.5 < length < 1e6
        for name in whole:  # torch divides by the length plus 1e-6
            torch.testing.assert_close(clipped[name], whole[name] * min(1, limit / length), rtol=1e-5, atol=1e-9)


# --- train: one part alone ---


def modes(model):
    """{name of a module: whether it is in training mode}, the network itself under ""."""
    return {name: module.training for name, module in model.named_modules()}


def watched(build, part, **flags):
    """Train one part of the network of every client with full batches -> (federation, rows, trained, losses, the modes and
    the parameters with a gradient before the step)."""
    federation, recorded = federation_of(build), []

    def watchful(model, batch, context, options):
        recorded.append((modes(model), {name for name, p in model.named_parameters() if p.requires_grad}))
        return loss(model, batch, context, options)

    rows, only = initial(federation), part and federation.names(part)
    changed_options = options_for("independent", batch_size=60, epoch_per_round=2, momentum=0.9, weight_decay=0.1, **flags)
    trained, _, losses, _ = train(federation, federation.clients, rows, watchful, changed_options, only=only)
    return federation, rows, trained, losses, recorded


def test_a_body_under_a_head_that_is_trained_keeps_its_bits_and_its_running_statistics():
    federation, rows, trained, _, _ = watched(normed, "head")
    assert "body.2.running_var" in federation.names("body")
    for row, after in zip(rows, trained, strict=True):
        changed = {name for name in row if not torch.equal(row[name], after[name])}
        assert changed == {"classifier.weight", "classifier.bias"}


def test_a_body_under_a_head_that_is_trained_computes_as_in_evaluation():
    federation = federation_of(normed)
    rows = [{**row, "body.2.running_mean": row["body.2.running_mean"] + 0.3} for row in initial(federation)]
    options = options_for("independent", batch_size=60)
    _, _, losses, _ = train(federation, federation.clients, rows, loss, options, only=federation.names("head"))
    _, _, whole, _ = train(federation, federation.clients, rows, loss, options)
    for k in federation.clients:
        row, share = rows[k], federation.shares[k]
        x = federation.data.images(share, torch.float64).flatten(1) @ row["body.1.weight"].T + row["body.1.bias"]
        x = (x - row["body.2.running_mean"]) / (row["body.2.running_var"] + 1e-5).sqrt()  # no statistics of the batch
        x = torch.tanh(x * row["body.2.weight"] + row["body.2.bias"])  # nor a dropout
        by_hand = F.cross_entropy(x @ row["classifier.weight"].T + row["classifier.bias"], federation.data.y[share])
        torch.testing.assert_close(losses[k], by_hand)
        assert not torch.allclose(whole[k], by_hand)


def test_a_head_over_a_body_that_is_trained_keeps_its_bits():
    federation, rows, trained, _, recorded = watched(normed, "body")
    for row, after in zip(rows, trained, strict=True):
        same_bits = {name for name in row if torch.equal(row[name], after[name])}
        assert same_bits == {"classifier.weight", "classifier.bias"}, "the running statistics move with the body"
    for mode, _ in recorded:
        assert {name for name, training in mode.items() if not training} == {"classifier"}


@pytest.mark.parametrize(("part", "still"), [("head", "body"), ("body", "classifier"), ("full", None), (None, None)])
def test_the_part_that_is_not_trained_is_in_evaluation_mode_and_has_no_gradients(part, still):
    federation, _, _, _, recorded = watched(normed, part)
    parameters = {name for name, _ in federation.skeletons[0].named_parameters()}
    for mode, free in recorded:
        assert {name.split(".")[0] for name, training in mode.items() if not training} == ({still} if still else set())
        assert mode[""], "the network itself is being trained, whatever part of it"
        assert free == {name for name in parameters if name.split(".")[0] != still}
    assert not any(modes(federation.model(0, federation.initial())).values()), "what comes next finds it in evaluation"


def test_all_of_a_network_is_trained_again_after_a_part_of_it():
    federation = federation_of(normed)
    rows, options = initial(federation), options_for("independent", momentum=0.9)
    expected, _, losses, _ = train(federation, [0, 1, 2], rows, loss, options)
    train(federation, [0, 1, 2], rows, loss, options, only=federation.names("head"))
    trained, _, result, _ = train(federation, [0, 1, 2], rows, loss, options)
    assert torch.equal(result, losses)
    assert all(same(*pair) for pair in zip(trained, expected, strict=True))


@pytest.mark.parametrize(("part", "trained"), [("body", {"body"}), ("head", {"classifier", "heads"})])
def test_auxiliary_heads_belong_to_the_head(part, trained):
    federation = tiny_federation(model="CNN4", heads=True, shares=[range(6)])
    row, recorded = federation.initial(), []

    def watchful(model, batch, context, options):
        recorded.append({name for name, child in model.named_children() if child.training})
        return sum(F.cross_entropy(logits, batch.y) for logits in model.every_head(batch.x))

    changed_options = options_for("independent")
    (after,), _, _, _ = train(federation, [0], [row], watchful, changed_options, only=federation.names(part))
    assert recorded == [trained]
    assert {name.split(".")[0] for name in row if not torch.equal(row[name], after[name])} == trained


# --- parts of weights ---


def test_rows_are_parted_by_name_and_no_tensor_is_copied():
    federation = tiny_federation(model="CNN4")
    rows = initial(federation)
    for names in (federation.names("head"), federation.names("bn"), federation.names("full"), set(), ["no such name"]):
        named, rest = _parted(rows, names)
        for row, item, other in zip(rows, named, rest, strict=True):
            assert item.keys() == row.keys() & set(names)
            assert other.keys() == row.keys() - set(names)
            assert all({**item, **other}[name] is tensor for name, tensor in row.items())
        assert [len(row) for row in rows] == 3 * [len(federation.names("full"))], "what was parted is as it was"


# --- one model for all ---


def three_parts(federation):
    """A state whose weights are the server's (classifier), a client's own (the first layer), and frozen (the second)."""
    first, second = ({name for name in federation.names("body") if name.startswith(part)} for part in ("body.1", "body.3"))
    assert first
    assert second
    return first, second, one_model(federation, kept=first, frozen=second)


def test_every_weight_of_the_common_start_is_the_servers_a_clients_own_or_frozen():
    federation = tiny_federation(model="2NN")
    first, second, state = three_parts(federation)
    initial = federation.initial()
    assert set(state["frozen"]) == second
    assert (set(state["kept"]), state["own"]) == (first, {}), "of nobody before the first round"
    assert set(state["server"]) == set(initial) - first - second
    assert same({**state["server"], **state["kept"], **state["frozen"]}, initial)


def test_what_is_downloaded_is_the_servers_part_and_only_that_crosses_the_wire():
    federation = tiny_federation(model="2NN")
    first, second, state = three_parts(federation)
    state["own"] = {k: {name: tensor + k for name, tensor in state["kept"].items()} for k in (0, 2)}
    rows = download(federation, state, [2, 0])
    for k, row in zip([2, 0], rows, strict=True):
        assert same(row, {**federation.initial(), **state["own"][k]})
    (row,) = download(federation, state, [1])
    assert same(row, federation.initial()), "who has not taken part yet has what it had at the start"
    federation.wire.collect()
    download(federation, state, [2, 0])
    nbytes = sum(tensor.nbytes for tensor in state["server"].values())
    assert federation.wire.collect() == {("down", "weights"): {0: nbytes, 2: nbytes}}


def test_aggregation_averages_the_servers_part_by_size_and_leaves_each_client_its_own():
    federation = tiny_federation(model="2NN")
    first, second, state = three_parts(federation)
    before = dict(state)
    trained = {k: {name: tensor + k + 1 for name, tensor in federation.initial().items()} for k in (0, 2)}
    aggregate(federation, state, [0, 2], list(trained.values()))
    for name, tensor in state["server"].items():  # 10 and 30 examples
        torch.testing.assert_close(tensor, (10 * trained[0][name] + 30 * trained[2][name]) / 40)
    assert state["server"].keys() == before["server"].keys()
    for k in (0, 2):
        assert same(state["own"][k], {name: trained[k][name] for name in first})
    assert state["own"].keys() == {0, 2}
    assert before["own"] == {}, "no state is changed in place"
    first_rows = dict(state["own"])
    aggregate(federation, state, [1], [trained[0]])
    assert all(state["own"][k] is first_rows[k] for k in (0, 2)), "who was away keeps what it had"
    federation.wire.collect()
    state = dict(before)
    aggregate(federation, state, [0, 2], list(trained.values()))
    assert state["frozen"] is before["frozen"]
    nbytes = sum(tensor.nbytes for tensor in state["server"].values())
    assert federation.wire.collect() == {("up", "weights"): {0: nbytes, 2: nbytes}, ("up", "n_k"): {0: 8, 2: 8}}


def test_what_nobody_keeps_anything_of_is_one_model_for_all():
    federation = tiny_federation(model="2NN")
    state = one_model(federation, frozen=federation.names("head"))
    answers = shared_model(federation, state)
    assert list(answers) == ["global"]
    assert all(same(weights_of(answers["global"], k), federation.initial()) for k in federation.clients)


def test_what_clients_keep_a_part_of_is_a_model_each():
    federation = tiny_federation(model="2NN")
    _, second, state = three_parts(federation)
    state["own"] = dict(enumerate(_parted(initial(federation), state["kept"])[0]))
    answers = shared_model(federation, state)
    assert list(answers) == ["personal"]
    for k in (2, 0, 1):
        assert same(weights_of(answers["personal"], k), {**federation.initial(), **state["own"][k]})
