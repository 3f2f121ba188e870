"""FedGKT: both losses against torch's, the server against a plain loop; which map, logits and draw belong to an image."""

import math
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, same, tiny_data, tiny_federation
from torch import nn

import data.augment
import experiment
import models
import streams
from algorithms import fedgkt, independent
from algorithms.fedgkt import server
from algorithms.published import fedgkt as published
from errors import UserError
from federation import Federation
from federation.wire import Wire
from helpers import Batch
from options import Launch

SIZE = 8  # side of the images
SHARES = [range(4), range(4, 10), range(10, 19)]  # of different lengths, which tell the clients apart
HELD_OUT = [range(20, 32), range(32, 47), range(47, 60)]
N = 19
WHOLE = 64  # one full batch an epoch, of a client and of the server
B, C = 7, 4


def all_same(rows, others):
    return all(same(item, other) for item, other in zip(rows, others, strict=True))


def flags_for(name="fedgkt", **flags):
    return options_for(name, **({"server_model": "ResNet19"} if name == "fedgkt" else {}), **{"epochs_server": 1, **flags})


def alone_for(**flags):
    return options_for("independent", **{"weight_decay": 1e-4, **flags})  # as FedGKT's


def federation_of(shares=None, model=("ResNet8",), **others):
    data = others.pop("data", None) or tiny_data(size=SIZE)
    return tiny_federation(data, shares or SHARES, model, **others)


def draw(*shape, seed=0):
    """Normal numbers in float64, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(name, weights, shape, n_classes=3):
    """A new network with these weights, which no federation shares."""
    model = models.make(name, tuple(shape), n_classes, 6).to(weights["classifier.weight"].dtype)
    model.load_state_dict(weights)
    return model


@torch.no_grad()
def said_of(federation, k, weights, indices, drawn=None, name="ResNet8"):
    """(map behind the stem, logits of the client's own head), in evaluation mode, each example alone."""
    model, maps, logits = filled(name, weights, federation.data.shape).eval(), [], []
    for p, i in enumerate(indices):
        entry = {step: rows[p : p + 1] for step, rows in (drawn or {}).items()}
        x = federation.data.images(torch.tensor([int(i)]), federation.dtype, entry)
        maps.append(model.body[0](x))
        logits.append(model(x)[1])
    return torch.cat(maps), torch.cat(logits)


class Message(NamedTuple):
    direction: str
    kind: str
    client: int
    row: object


class Heard(Wire):
    """A wire that remembers what crosses it."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def _carry(self, direction, kind, rows, edges):
        self.messages += [Message(direction, kind, max(edge), row) for edge, row in zip(edges, rows, strict=True)]
        return super()._carry(direction, kind, rows, edges)

    def take(self, kind):
        """{client: row} of the messages of a kind, all of which are forgotten."""
        results = {m.client: m.row for m in self.messages if m.kind == kind}
        self.messages.clear()
        return results


class Step(NamedTuple):
    """One call of a loss: the batch, what was given, and the model as it was then, in the mode that it was in."""

    batch: Batch
    context: dict
    model: nn.Module
    options: object


def watched(monkeypatch, name, module=fedgkt):
    """The calls of a loss, in their order."""
    recorded, inner = [], getattr(module, name)

    def watchful(model, batch, context, options):
        kept = context and {key: v.clone() if isinstance(v, torch.Tensor) else v for key, v in context.items()}
        recorded.append(Step(Batch(*(part.clone() for part in batch)), kept, deepcopy(model), options))
        return inner(model, batch, context, options)

    monkeypatch.setattr(module, name, watchful)
    return recorded


def rounds_of(federation, flags, n, module=fedgkt):
    """start, and every round as (number, state, Round)."""
    state = module.start(federation, flags)
    for r in range(1, n + 1):
        yield r, state, module.communicate(federation.at(r), state, flags)


# --- the losses ---


class Fixed(nn.Module):
    """A model that has given logits, whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return self.logits, self.logits


def transferred(z, t, T):
    """As the authors' code has it."""
    return T * T * nn.KLDivLoss(reduction="batchmean")(F.log_softmax(z / T, dim=1), F.softmax(t / T, dim=1) + 1e-7)


def scene():
    """A model, a batch that is shuffled, and the targets of more examples than it holds."""
    i = torch.tensor([8, 0, 3, 5, 1, 7, 2])
    return Fixed(3 * draw(B, C)), Batch(torch.zeros(B, 1), torch.tensor([0, 2, 1, 1, 3, 0, 2]), i), 4 * draw(9, C, seed=1)


def assert_same_loss(model, result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, [model.logits])[0] for value in (result, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


CASES = pytest.mark.parametrize(("T", "alpha"), [(3.0, 1.0), (1.0, 0.3), (0.5, 2.0), (20.0, 0.0)])


@CASES
def test_a_clients_loss_and_its_gradient_are_cross_entropy_and_alpha_times_the_transfer_of_its_own_targets(T, alpha):
    model, batch, targets = scene()
    result = fedgkt.loss(model, batch, {"targets": targets, "weight": alpha}, flags_for(temperature=T, kd_alpha=9.0))
    expected = F.cross_entropy(model.logits, batch.y) + alpha * transferred(model.logits, targets[batch.index], T)
    assert_same_loss(model, result, expected)


@CASES
def test_the_servers_loss_and_its_gradient_are_the_transfer_and_alpha_times_cross_entropy(T, alpha):
    model, batch, targets = scene()
    context = {"targets": targets, "said": torch.zeros(9, C).double()}
    result = fedgkt.server_loss(model, batch, context, flags_for(temperature=T, kd_alpha=alpha, distill_server="1"))
    expected = transferred(model.logits, targets[batch.index], T) + alpha * F.cross_entropy(model.logits, batch.y)
    assert_same_loss(model, result, expected)


def test_a_server_that_does_not_distill_has_cross_entropy_whole_whatever_alpha():
    model, batch, targets = scene()
    context = {"targets": targets, "said": torch.zeros(9, C).double()}
    for alpha in (0.0, 0.3):
        result = fedgkt.server_loss(model, batch, context, flags_for(kd_alpha=alpha, distill_server="0"))
        assert torch.equal(result, F.cross_entropy(model.logits, batch.y))


@pytest.mark.parametrize("distill", ["0", "1"])
def test_the_server_notes_its_logits_at_the_places_of_the_batch_and_nowhere_else(distill):
    model, batch, targets = scene()
    context = {"targets": targets, "said": torch.full((9, C), 7.0).double()}
    fedgkt.server_loss(model, batch, context, flags_for(distill_server=distill))
    assert torch.equal(context["said"][batch.index], model.logits)
    assert torch.equal(context["said"][[4, 6]], torch.full((2, C), 7.0).double())
    assert not context["said"].requires_grad


def test_the_constant_beside_the_targets_counts():
    # a sure teacher: with the constant every class has weight 1e-7 at least, and (1 + 1e-7) is not a distribution
    model, batch, _ = scene()
    sure = torch.zeros(9, C).double()
    sure[:, 0] = 1e4
    result = fedgkt.transfer(model.logits, sure[batch.index], flags_for(temperature=1.0))
    z = model.logits.detach().log_softmax(1)
    by_hand = (1 + 1e-7) * (math.log1p(1e-7) - z[:, 0]) + 1e-7 * (math.log(1e-7) - z[:, 1:]).sum(1)
    torch.testing.assert_close(result.item(), by_hand.mean().item(), rtol=1e-13, atol=0)
    assert abs(result.item() + z[:, 0].mean().item()) > 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_logits_give_finite_losses_and_gradients(scale, dtype):
    _, batch, _ = scene()
    model, targets = Fixed((scale * draw(B, C)).to(dtype)), (scale * draw(9, C, seed=1)).to(dtype)
    context = {"targets": targets, "said": torch.zeros_like(targets), "weight": 1.0}
    for loss in (fedgkt.loss, fedgkt.server_loss):
        value = loss(model, batch, context, flags_for(temperature=1.0))
        assert torch.isfinite(value)
        assert torch.isfinite(torch.autograd.grad(value, [model.logits])[0]).all()


def test_weights_are_kd_alpha_and_in_the_first_round_0(monkeypatch):
    federation, recorded = federation_of(), watched(monkeypatch, "loss")
    for r, _, done in rounds_of(federation, flags_for(kd_alpha=0.7, batch_size=WHOLE), 3):
        assert [step.context["weight"] for step in recorded] == [0.0 if r == 1 else 0.7] * 3
        for k, step in enumerate(recorded):
            _, logits = step.model(step.batch.x)
            taught = F.cross_entropy(logits, step.batch.y)
            if r > 1:
                taught = taught + 0.7 * transferred(logits, step.context["targets"][step.batch.index], 3.0)
            torch.testing.assert_close(done.loss[k].item(), taught.item(), rtol=1e-12, atol=0)
        recorded.clear()


# --- limits ---


@pytest.mark.parametrize("augment", ["none", "crop_flip_cutout"])
def test_without_distillation_to_the_clients_it_is_independent_learning_bit_for_bit(augment):
    shared = {"optimizer": "amsgrad", "lr": 0.01, "augment": augment, "epoch_per_round": 2, "weight_decay": 1e-3}
    expected, alone = play(federation_of(), alone_for(**shared), rounds=3)
    servers = [
        {"distill_server": "0", "kd_alpha": 0.0},
        {"distill_server": "1", "epochs_server": 2, "temperature": 1.0},
        {"server_model": "ResNet4", "augment_extract": "0", "feature_dtype": "bfloat16"},
    ]
    ends = []
    for others in servers:
        flags = options_for("fedgkt", **{"server_model": "ResNet19", "distill_client": "0", **shared, **others})
        result, done = play(federation_of(validation=HELD_OUT), flags, rounds=3)
        assert all_same(result["weights"], expected["weights"])
        for a, b in zip(result["memory"], expected["memory"], strict=True):
            assert a.keys() == b.keys()
            assert all(same(a[name], b[name]) for name in b)
        assert torch.equal(done.loss, alone.loss)
        ends.append(result["server"])
    assert not same(ends[0], ends[1]), "the servers differ, and the clients do not"


@pytest.mark.parametrize("option", [{}, {"kd_alpha": 0.0}], ids=["alpha 1", "alpha 0"])
def test_distillation_moves_the_clients_from_round_2_on_unless_alpha_is_0(option):
    federation, alone = federation_of(), federation_of()
    pairs = zip(rounds_of(federation, flags_for(**option), 2), rounds_of(alone, alone_for(), 2, independent), strict=True)
    for (r, pair, _), (_, expected, _) in pairs:
        for item, other in zip(pair["weights"], expected["weights"], strict=True):
            assert same(item, other) == (r == 1 or bool(option))


@pytest.mark.parametrize(
    "values",
    [{"optimizer": "amsgrad", "lr": 0.01, "weight_decay": 1e-2}, {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0}],
    ids=["amsgrad", "momentum"],
)
def test_the_servers_phase_is_a_plain_loop_over_the_maps_of_a_frozen_stem(values, monkeypatch):
    monkeypatch.setitem(server.DTYPES, "float32", torch.float64)  # nothing is rounded
    share, n, epochs = range(3, 14), 11, 2
    federation = federation_of([share])
    flags = flags_for(distill_server="0", epochs_server=epochs, batch_size=4, rounds=3, epoch_per_round=3, **values)
    flags = replace(flags, lr_schedule="step" if values["optimizer"] == "sgd" else "constant")
    with streams.torch_seeded(0, "server", "initial"):
        net = models.make("ResNet19", (16, SIZE, SIZE), 3, 6).double()
    assert same(fedgkt.start(federation, flags)["server"], net.state_dict())
    parameters = net.parameters()
    if values["optimizer"] == "amsgrad":
        optimizer = torch.optim.Adam(parameters, lr=0.01, weight_decay=1e-2, amsgrad=True)
    else:
        optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    y = federation.data.y[list(share)]
    for r, state, done in rounds_of(federation, flags, 3):
        maps, _ = said_of(federation, 0, state["weights"][0], share)
        order, losses = streams.generator(0, "server", "batches", r, 0), []
        if values["optimizer"] == "sgd":
            optimizer.param_groups[0]["lr"] = 0.05 * (1, 1, 0.1)[r - 1]  # --lr_schedule is the server's as well
        net.train()
        for _ in range(epochs):
            positions = torch.from_numpy(order.permutation(n))
            for i in positions.split(4):
                loss = F.cross_entropy(net(maps[i])[1], y[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item() * len(i))
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(state["server"][name], tensor, rtol=0, atol=1e-9)
        assert done.metrics["server_loss"] == pytest.approx(sum(losses) / (n * epochs), rel=1e-9)
    assert federation.meter.spent["steps", "server", 0] == 3 * epochs * 3
    assert federation.meter.spent["samples", "server", 0] == 3 * epochs * n


def test_the_server_learns_from_all_clients_in_one_random_order(monkeypatch):
    federation, recorded = federation_of(), watched(monkeypatch, "server_loss")
    play(federation, flags_for(epochs_server=2, augment="crop_flip"))
    epochs = [torch.cat([step.batch.index for step in steps]) for steps in (recorded[:3], recorded[3:])]
    assert [sorted(i.tolist()) for i in epochs] == [list(range(N))] * 2, "every example once an epoch, 19 in 8, 8 and 3"
    assert not torch.equal(*epochs)
    of_client = torch.tensor([0] * 4 + [1] * 6 + [2] * 9)
    assert any(len(of_client[step.batch.index].unique()) > 1 for step in recorded), "a batch is of several clients"
    assert all(step.options.augment == "none" for step in recorded)


def test_clients_do_epoch_per_round_and_the_server_epochs_server():
    federation = federation_of()
    play(federation, flags_for(epoch_per_round=3, epochs_server=2))
    assert [federation.meter.spent["samples", "client", k] for k in range(3)] == [3 * 4, 3 * 6, 3 * 9]
    assert federation.meter.spent["samples", "server", 0] == 2 * N


# --- what is sent ---


@pytest.mark.parametrize("feature_dtype", ["float32", "float16", "bfloat16"])
def test_up_go_maps_in_evaluation_mode_the_clients_own_logits_and_labels_and_down_logits(feature_dtype):
    federation = federation_of(wire=Heard())
    for _, state, done in rounds_of(federation, flags_for(feature_dtype=feature_dtype), 2):
        assert {(m.direction, m.kind, m.client) for m in federation.wire.messages} == {
            way for k in range(3) for way in (("up", "features", k), ("down", "logits", k))
        }
        assert len(federation.wire.messages) == 6
        down = {m.client: m.row for m in federation.wire.messages if m.direction == "down"}
        up = federation.wire.take("features")
        counted = federation.wire.collect()
        for k, share in enumerate(SHARES):
            assert up[k].keys() == {"maps", "logits", "labels"}
            maps, logits = said_of(federation, k, state["weights"][k], share)
            result = up[k]["maps"].tensor
            assert result.dtype == getattr(torch, feature_dtype)
            assert result.shape == (len(share), 16, SIZE, SIZE)
            rough = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}[feature_dtype]
            torch.testing.assert_close(result.double(), maps, rtol=rough, atol=1e-6)
            torch.testing.assert_close(up[k]["logits"].tensor, logits, rtol=0, atol=1e-12)  # of the map unrounded
            assert torch.equal(up[k]["labels"].tensor, federation.data.y[list(share)])
            assert down[k].shape == (len(share), 3)
            assert down[k].dtype == torch.float64
            item = 4 if feature_dtype == "float32" else 2
            n = len(share)
            assert counted["up", "features"][k] == n * 16 * SIZE * SIZE * item + n * 3 * 8 + n * 8
            assert counted["down", "logits"][k] == n * 3 * 8
        assert done.clients == [0, 1, 2]


@pytest.mark.parametrize("feature_dtype", ["float32", "float16", "bfloat16"])
def test_the_server_trains_on_the_maps_as_they_were_rounded(feature_dtype, monkeypatch):
    federation, recorded = federation_of(wire=Heard()), watched(monkeypatch, "server_loss")
    play(federation, flags_for(feature_dtype=feature_dtype, batch_size=WHOLE))
    sent = federation.wire.take("features")
    pooled = {name: torch.cat([sent[k][name].tensor for k in range(3)]) for name in ("maps", "logits", "labels")}
    (step,) = recorded
    assert torch.equal(step.batch.x, pooled["maps"].double()[step.batch.index])
    assert torch.equal(step.batch.y, pooled["labels"][step.batch.index])
    assert torch.equal(step.context["targets"], pooled["logits"])


def test_down_go_logits_to_the_clients_of_the_round_alone():
    federation = federation_of(wire=Heard(), participation=0.7)
    for r, _, done in rounds_of(federation, flags_for(), 3):
        assert done.clients == federation.at(r).sample()
        assert len(done.clients) == 2
        assert [m.client for m in federation.wire.messages if m.direction == "down"] == done.clients
        assert [m.client for m in federation.wire.messages if m.direction == "up"] == done.clients
        federation.wire.messages.clear()


# --- targets ---


def pairs_of(steps):
    """(map, logits) of every example of these steps, the logits in the mode the model was in."""
    return [pair for step in steps for pair in zip(step.batch.x, step.model(step.batch.x)[1].detach(), strict=True)]


@pytest.mark.parametrize("augment", ["none", "crop_flip_cutout"])
def test_targets_are_what_the_last_server_epoch_said_of_the_very_map_before_the_step(augment, monkeypatch):
    federation, recorded = federation_of(), watched(monkeypatch, "server_loss")
    flags = flags_for(epochs_server=3, augment=augment)
    for _, state, _ in rounds_of(federation, flags, 2):
        assert all(step.model.training for step in recorded)
        *earlier, last = (pairs_of(recorded[e : e + 3]) for e in (0, 3, 6))
        assert len(last) == N
        for k, share in enumerate(SHARES):
            maps, _ = said_of(federation, k, state["weights"][k], share, state["draws"][k])
            assert state["targets"][k].shape == (len(share), 3)
            for p in range(len(share)):
                (expected,) = [z for x, z in last if torch.allclose(x, maps[p], rtol=1e-5, atol=1e-6)]
                torch.testing.assert_close(state["targets"][k][p], expected, rtol=0, atol=1e-10)
                for epoch in earlier:
                    (other,) = [z for x, z in epoch if torch.allclose(x, maps[p], rtol=1e-5, atol=1e-6)]
                    assert not torch.allclose(state["targets"][k][p], other, rtol=1e-4, atol=1e-4)
        recorded.clear()


def test_what_a_client_receives_is_what_it_learns_from_in_the_next_round(monkeypatch):
    federation, recorded = federation_of(wire=Heard()), watched(monkeypatch, "loss")
    before = None
    for r, state, _ in rounds_of(federation, flags_for(batch_size=WHOLE), 3):
        for k, step in enumerate(recorded):
            if r > 1:
                assert torch.equal(step.context["targets"], before[k])
                x = federation.data.images(torch.tensor(SHARES[k])[step.batch.index], torch.float64)
                assert torch.equal(step.batch.x, x), "positions in the share, as those of the targets"
        before = federation.wire.take("logits")
        assert all(torch.equal(state["targets"][k], before[k]) for k in range(3))
        recorded.clear()


def test_targets_follow_a_permutation_of_a_clients_share(monkeypatch):
    # one batch a step holds everything, so that an order changes rounding alone
    monkeypatch.setitem(server.DTYPES, "float32", torch.float64)
    order = [5, 2, 0, 4, 1, 3]
    moved = [list(share) for share in SHARES]
    moved[1] = [moved[1][p] for p in order]
    flags = flags_for(batch_size=WHOLE, epochs_server=2)
    expected, done = play(federation_of(), flags, rounds=3)
    result, redone = play(federation_of(moved), flags, rounds=3)
    for k in range(3):
        targets = expected["targets"][k]
        torch.testing.assert_close(result["targets"][k], targets[order] if k == 1 else targets, rtol=0, atol=1e-9)
        assert not torch.allclose(targets[0], targets[1], atol=1e-4)
    torch.testing.assert_close(redone.loss, done.loss, rtol=0, atol=1e-9)


def test_permuting_the_clients_changes_nothing(monkeypatch):
    monkeypatch.setitem(server.DTYPES, "float32", torch.float64)
    was = [2, 0, 1]  # client j is what client was[j] was
    flags = flags_for(batch_size=WHOLE, epochs_server=2, augment="crop_flip")
    federation = federation_of(validation=HELD_OUT)
    expected, done = play(federation, flags, rounds=3)
    shares, held_out = ([part[k] for k in was] for part in (SHARES, HELD_OUT))
    stream = Federation.stream

    def moved(self, purpose, client=-1):
        return stream(self, purpose, was[client] if self.party == "client" and client >= 0 else client)

    monkeypatch.setattr(Federation, "stream", moved)
    other = federation_of(shares, validation=held_out, start=[federation.initial(k) for k in was])
    result, redone = play(other, flags, rounds=3)
    for j, k in enumerate(was):
        assert same(result["draws"][j], expected["draws"][k])
        torch.testing.assert_close(result["targets"][j], expected["targets"][k], rtol=0, atol=1e-9)
        torch.testing.assert_close(redone.loss[j], done.loss[k], rtol=0, atol=1e-9)
        for name in expected["weights"][k]:
            torch.testing.assert_close(result["weights"][j][name], expected["weights"][k][name], rtol=0, atol=1e-9)
    for name in expected["server"]:
        torch.testing.assert_close(result["server"][name], expected["server"][name], rtol=0, atol=1e-9)
    assert redone.metrics == pytest.approx(done.metrics)


# --- the draw ---


def batches_of(steps):
    """{client: [its batches]}: clients are told apart by how many targets they have."""
    results = {}
    for step in steps:
        k = [len(share) for share in SHARES].index(len(step.context["targets"]))
        results.setdefault(k, []).append(step.batch)
    return results


def fresh_batches(monkeypatch, rounds, **flags):
    """What independent learning trains on, round by round, in the order of the clients."""
    recorded, result = watched(monkeypatch, "loss", independent), []
    for _ in rounds_of(federation_of(), alone_for(**flags), rounds, independent):
        result.append([step.batch for step in recorded])
        recorded.clear()
    return result


def test_what_is_extracted_in_a_round_is_what_every_epoch_of_the_next_trains_on(monkeypatch):
    shared = {"augment": "crop_flip_cutout", "epoch_per_round": 2}
    fresh = fresh_batches(monkeypatch, 1, **shared)
    federation, recorded, before = federation_of(wire=Heard()), watched(monkeypatch, "loss"), None
    for r, state, _ in rounds_of(federation, flags_for(**shared), 3):
        for k, batches in batches_of(recorded).items():
            assert sum(len(batch.y) for batch in batches) == 2 * len(SHARES[k])
            for batch in batches if r > 1 else []:
                drawn = data.augment.part(before[k], batch.index)
                x = federation.data.images(torch.tensor(SHARES[k])[batch.index], torch.float64, drawn)
                assert torch.equal(batch.x, x)
        if r == 1:  # as drawn anew
            assert len(recorded) == len(fresh[0])
            for step, batch in zip(recorded, fresh[0], strict=True):
                assert torch.equal(step.batch.x, batch.x)
        sent = federation.wire.take("features")
        for k, share in enumerate(SHARES):
            stream = streams.generator(0, "client", "extract", r, k)
            expected = data.augment.draw("crop_flip_cutout", len(share), (1, SIZE, SIZE), stream)
            assert same(state["draws"][k], expected)
            maps, logits = said_of(federation, k, state["weights"][k], share, state["draws"][k])
            torch.testing.assert_close(sent[k]["maps"].tensor.double(), maps, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(sent[k]["logits"].tensor, logits, rtol=0, atol=1e-12)
            plain, _ = said_of(federation, k, state["weights"][k], share)
            assert not torch.allclose(maps, plain, atol=1e-2)
        before = state["draws"]
        recorded.clear()


def test_without_an_augmented_extraction_maps_are_of_plain_images_and_training_of_fresh_draws(monkeypatch):
    shared = {"augment": "crop_flip_cutout", "epoch_per_round": 2}
    fresh = fresh_batches(monkeypatch, 3, **shared)
    federation, recorded = federation_of(wire=Heard()), watched(monkeypatch, "loss")
    for r, state, _ in rounds_of(federation, flags_for(augment_extract="0", **shared), 3):
        assert [step.context["weight"] for step in recorded] == [float(r > 1)] * len(recorded)
        for step, batch in zip(recorded, fresh[r - 1], strict=True):
            assert torch.equal(step.batch.x, batch.x)
            assert torch.equal(step.batch.index, batch.index)
        sent = federation.wire.take("features")
        for k, share in enumerate(SHARES):
            maps, _ = said_of(federation, k, state["weights"][k], share)
            torch.testing.assert_close(sent[k]["maps"].tensor.double(), maps, rtol=1e-6, atol=1e-6)
        recorded.clear()


# --- who takes part ---


def assert_same_examples(step, rows):
    """Whether the step has exactly the examples of these messages, each with its label and its own client's logits."""
    maps, logits, labels = (torch.cat([row[name].tensor for row in rows]) for name in ("maps", "logits", "labels"))
    assert len(step.batch.x) == len(maps)
    equal = (step.batch.x[:, None] == maps.to(step.batch.x.dtype)[None]).flatten(2).all(2)
    assert (equal.sum(0) == 1).all()
    assert (equal.sum(1) == 1).all()
    which = equal.int().argmax(1)
    assert torch.equal(step.batch.y, labels[which])
    assert torch.equal(step.context["targets"][step.batch.index], logits[which])


@pytest.mark.parametrize("stale", ["keep", "drop"])
def test_the_server_learns_from_those_present_and_with_keep_from_what_the_absent_sent_last(stale, monkeypatch):
    federation, recorded = federation_of(wire=Heard(), participation=0.7), watched(monkeypatch, "server_loss")
    flags = flags_for(stale=stale, batch_size=WHOLE, augment="crop_flip")
    last, before, ages = {}, None, []
    for r, state, done in rounds_of(federation, flags, 6):
        present = done.clients
        assert len(present) == 2
        last |= {k: (r, row) for k, row in federation.wire.take("features").items()}
        held = sorted(last) if stale == "keep" else present
        (step,) = recorded
        assert_same_examples(step, [last[k][1] for k in held])
        old = {k: r - last[k][0] for k in held}
        sizes = {k: len(SHARES[k]) for k in held}
        mean = sum(sizes[k] * old[k] for k in held) / sum(sizes.values())
        assert (done.metrics["feature_age_mean"], done.metrics["feature_age_max"]) == (
            pytest.approx(mean),
            max(old.values()),
        )
        ages.append(max(old.values()))
        for k, row in enumerate(state["arrived"]):
            assert (row is not None) == (stale == "keep" and k in last)
            if row is not None:
                assert torch.equal(row["maps"], last[k][1]["maps"].tensor)
                assert row["round"] == last[k][0]
        for k in set(federation.clients) - set(present):
            assert (state["targets"][k] is None) == (k not in last)
            if before is not None:
                assert all(state[name][k] is before[name][k] for name in ("weights", "memory", "targets", "draws"))
        for k in present:
            expected = torch.cat([z for _, z in pairs_of([step])])
            assert len(state["targets"][k]) == len(SHARES[k])
            assert all((row == expected.view(-1, 3)).all(1).any() for row in state["targets"][k])
        before = dict(state)
        recorded.clear()
    assert max(ages) == (2 if stale == "keep" else 0), "somebody is away twice running"


def test_a_client_that_comes_back_learns_from_the_targets_and_the_draw_of_when_it_was_last_there(monkeypatch):
    federation, recorded = federation_of(participation=0.4), watched(monkeypatch, "loss")
    flags, last, came_back = flags_for(augment="crop_flip_cutout", batch_size=WHOLE), {}, 0
    for r, state, done in rounds_of(federation, flags, 7):
        (k,) = done.clients
        (step,) = recorded
        assert step.context["weight"] == float(k in last)
        if k in last:
            came_back += last[k][0] < r - 1
            _, targets, drawn = last[k]
            assert torch.equal(step.context["targets"], targets)
            x = federation.data.images(
                torch.tensor(SHARES[k])[step.batch.index], torch.float64, data.augment.part(drawn, step.batch.index)
            )
            assert torch.equal(step.batch.x, x)
        last[k] = r, state["targets"][k], state["draws"][k]
        recorded.clear()
    assert came_back


def test_the_server_keeps_no_maps_between_rounds_in_which_all_take_part():
    for _, state, done in rounds_of(federation_of(), flags_for(stale="keep"), 2):
        assert state["arrived"] == [None] * 3
        assert (done.metrics["feature_age_mean"], done.metrics["feature_age_max"]) == (0, 0)
        assert not any(t.ndim == 4 and t.shape[2] == SIZE for t in state.values() if isinstance(t, torch.Tensor))


def test_a_client_without_examples_is_no_obstacle():
    federation = federation_of([range(0), range(6), range(6, 15)], validation=[range(0), range(20, 23), range(23, 28)])
    for _, state, done in rounds_of(federation, flags_for(), 2):
        assert done.loss[0] == 0
        assert torch.isfinite(done.loss).all()
        assert state["targets"][0].shape == (0, 3)
        assert math.isfinite(done.metrics["server_loss"])


# --- the plateau ---


def plateau_of_torch(accuracies):
    """The factors of the learning rate before each round, of torch's scheduler with its defaults."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, factors = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max"), []
    for accuracy in accuracies:
        factors.append(optimizer.param_groups[0]["lr"])
        scheduler.step(accuracy)
    return factors


def accuracies_of(kind, n=60):
    generator = np.random.default_rng(len(kind))
    steps = np.arange(n)
    return {
        "random": generator.integers(0, 20, n) / 20,
        "rising": np.minimum(steps, 20) / 40 + generator.integers(0, 2, n) / 40,
        "constant": np.full(n, 0.5),
        "zero": np.zeros(n),
        "barely better": 0.5 * 1.000005**steps,
        "better by a little": 0.25 * 1.00012**steps,
        "every eleventh": 0.1 + (steps // 11) * 0.1,
        "every twelfth": 0.1 + (steps // 12) * 0.1,
    }[kind].tolist()


KINDS = ("random", "rising", "constant", "zero", "barely better", "better by a little", "every eleventh", "every twelfth")


@pytest.mark.parametrize("kind", KINDS)
def test_the_plateau_is_that_of_torch(kind):
    accuracies, result = accuracies_of(kind), []
    plateau = server.start(federation_of(), flags_for())["plateau"]
    for accuracy in accuracies:
        result.append(plateau["factor"])
        plateau = server._plateau(plateau, accuracy)
    assert result == pytest.approx(plateau_of_torch(accuracies), rel=1e-12)
    if kind in ("better by a little", "every eleventh"):
        assert result[-1] == 1
    elif kind != "rising":
        assert result[-1] < 1


def test_the_servers_learning_rate_is_lr_times_the_factor_and_the_clients_is_not(monkeypatch):
    accuracies = iter([0.5] * 25)
    monkeypatch.setattr(server, "_validate", lambda *args: next(accuracies))
    of_server, of_clients = watched(monkeypatch, "server_loss"), watched(monkeypatch, "loss")
    factors, federation = plateau_of_torch([0.5] * 25), federation_of([range(3)])
    flags = flags_for(lr=0.02, batch_size=WHOLE)
    state = fedgkt.start(federation, flags)
    for r in range(1, 26):
        before = state["server"]
        result = fedgkt.communicate(federation.at(r), state, flags).metrics
        assert result["server_validation"] == 0.5
        (step,) = of_server
        assert step.options.lr == result["server_lr"] == pytest.approx(0.02 * factors[r - 1], rel=1e-12)
        assert all(of_client.options.lr == 0.02 for of_client in of_clients)
        bias = "classifier.bias"  # a step of gradient descent shows the rate that was taken
        context = {**step.context, "said": step.context["said"].clone()}
        value = fedgkt.server_loss(step.model, step.batch, context, flags)
        (gradient,) = torch.autograd.grad(value, [step.model.classifier.bias])
        moved = before[bias] - result["server_lr"] * (gradient + 1e-4 * before[bias])
        torch.testing.assert_close(state["server"][bias], moved, rtol=1e-10, atol=1e-12)
        of_server.clear()
        of_clients.clear()
    assert sorted(set(factors)) == pytest.approx([0.01, 0.1, 1])


@torch.no_grad()
def accuracy_of(federation, state, clients):
    """Of stems and server on what these clients hold out, all their examples together."""
    net, right = filled("ResNet19", state["server"], (16, SIZE, SIZE)).eval(), []
    for k in clients:
        maps, _ = said_of(federation, k, state["weights"][k], HELD_OUT[k])
        right += (net(maps.float().double())[1].argmax(1) == federation.data.y[list(HELD_OUT[k])]).tolist()
    return sum(right) / len(right)


def test_validation_is_of_held_out_examples_through_stem_and_server_after_the_round_and_is_counted():
    results = set()
    federation = federation_of(validation=HELD_OUT, participation=0.7, wire=Heard())
    flags = flags_for(augment="crop_flip_cutout", optimizer="amsgrad", lr=0.005, epochs_server=3)
    for _, state, done in rounds_of(federation, flags, 6):
        clients = done.clients
        assert done.metrics["server_validation"] == accuracy_of(federation, state, clients)
        results.add(done.metrics["server_validation"])
        sent = federation.wire.take("validation features")
        assert sorted(sent) == clients
        counted = federation.wire.collect()
        for k in clients:
            n = len(HELD_OUT[k])
            maps, logits = said_of(federation, k, state["weights"][k], HELD_OUT[k])
            torch.testing.assert_close(sent[k]["maps"].tensor.double(), maps, rtol=1e-6, atol=1e-6)
            assert torch.equal(sent[k]["labels"].tensor, federation.data.y[list(HELD_OUT[k])])
            assert counted["up", "validation features"][k] == n * 16 * SIZE * SIZE * 4 + n * 3 * 8 + n * 8
            assert counted["up", "features"][k] == len(SHARES[k]) * (16 * SIZE * SIZE * 4 + 3 * 8 + 8)
    assert len(results) > 1


def test_only_held_out_examples_move_the_plateau():
    tiny = tiny_data(size=SIZE)
    x, y = tiny.x.clone(), tiny.y.clone()
    x[tiny.n_train :] = 255 - x[tiny.n_train :]
    y[tiny.n_train :] = 0
    flags = flags_for()
    expected, done = play(federation_of(validation=HELD_OUT), flags, rounds=2)
    result, redone = play(federation_of(data=replace(tiny, x=x, y=y), validation=HELD_OUT), flags, rounds=2)
    assert result["plateau"] == expected["plateau"]
    assert redone.metrics == done.metrics
    y = tiny.y.clone()
    y[[i for share in HELD_OUT for i in share]] = 0
    result, redone = play(federation_of(data=replace(tiny, y=y), validation=HELD_OUT), flags, rounds=2)
    assert redone.metrics["server_validation"] != done.metrics["server_validation"]
    assert result["plateau"] != expected["plateau"]
    assert same(result["server"], expected["server"]), "nobody is trained on them"
    assert all_same(result["weights"], expected["weights"])


def test_without_validation_the_learning_rate_stays():
    federation = federation_of([range(2)])
    for _, state, done in rounds_of(federation, flags_for(lr=1e-9), 13):
        assert state["plateau"] == {"best": -1.0, "bad": 0, "factor": 1.0}
        assert done.metrics["server_lr"] == 1e-9
        assert "server_validation" not in done.metrics
        assert federation.wire.collect().keys() == {("up", "features"), ("down", "logits")}


# --- before the first round ---


@pytest.mark.parametrize(
    ("flags", "gib"),
    [
        ({}, 1.0),
        ({"feature_dtype": "float16"}, 0.5),
        ({"feature_dtype": "bfloat16"}, 0.5),
        ({"participation": 0.5}, 2.0),
        ({"participation": 0.5, "stale": "drop"}, 1.0),
        ({"stale": "keep"}, 1.0),
    ],
)
def test_the_memory_of_the_maps_is_said_and_refused_where_there_is_less(flags, gib, monkeypatch):
    # a map of 16 channels and 8x8 pixels in float32 is 4 KiB, so that 2^18 of them are a GiB
    options, tiny = flags_for(device="cpu", **flags), tiny_data(size=SIZE)
    free = SimpleNamespace(available=int(gib * 2**30))
    monkeypatch.setattr(server.psutil, "virtual_memory", lambda: free)
    before = torch.get_rng_state()
    assert f" {gib:.2f} GiB" in fedgkt.check(options, tiny, 2**18)
    assert torch.equal(torch.get_rng_state(), before)
    free.available -= 1
    with pytest.raises(UserError, match=f"{gib:.1f} GiB.*--feature_dtype float16") as error:
        fedgkt.check(options, tiny, 2**18)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["LeNet5", "ResNet19", "ResNet8,MLP"])
def test_a_model_without_a_stem_is_refused(name):
    with pytest.raises(UserError, match=f"--model {name.split(',')[-1]}: has no stem") as error:
        fedgkt.check(flags_for(model=tuple(name.split(",")), device="cpu"), tiny_data(), 60)
    assert "\n" not in str(error.value)


def test_a_server_that_does_not_fit_the_maps_is_refused():
    options, words = flags_for(model=("ResNet8", "ResNet4"), device="cpu"), "16 channels, 4x4 pixels"
    with pytest.raises(UserError, match=f"--server_model ResNet19: .*--model ResNet8,ResNet4.*{words}") as error:
        fedgkt.check(options, tiny_data(size=4), 60)
    assert "\n" not in str(error.value)
    assert "0.00 GiB" in fedgkt.check(options, tiny_data(size=5), 60)


def test_an_experiment_is_checked_before_it_starts(tmp_path, monkeypatch):
    def prepared(**flags):
        return experiment.prepare(replace(DIGITS, image_size=None, **flags), Launch(export_dir=tmp_path))

    monkeypatch.setattr(server.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    prepared()
    with pytest.raises(UserError, match="has no stem"):
        prepared(model=("MLP",))
    n = sum(len(share) for share in prepared().split.train)
    monkeypatch.setattr(server.psutil, "virtual_memory", lambda: SimpleNamespace(available=n * 16 * 8 * 8 * 4 - 1))
    with pytest.raises(UserError, match="GiB free"):
        prepared()


# --- the answers ---


@pytest.mark.parametrize("feature_dtype", ["float32", "float16"])
def test_the_answers_are_stem_and_server_and_the_clients_own_network(feature_dtype):
    federation, flags = federation_of(), flags_for(feature_dtype=feature_dtype)
    state, done = play(federation, flags, rounds=2)
    assert list(done.models) == ["server", "personal"]
    test = torch.arange(federation.data.n_train, len(federation.data.y))
    x, net = federation.data.images(test, torch.float64), filled("ResNet19", state["server"], (16, SIZE, SIZE)).eval()
    for k in federation.clients:
        maps, logits = said_of(federation, k, state["weights"][k], test)
        rounded = maps.to(getattr(torch, feature_dtype)).double()
        with torch.no_grad():
            result = done.models["server"](k)(x)
            personal = done.models["personal"](k)(x)[1]
            for item, expected in zip(result, net(rounded), strict=True):
                torch.testing.assert_close(item, expected, rtol=1e-5, atol=1e-5)
            assert feature_dtype == "float32" or not torch.allclose(result[1], net(maps)[1], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(personal, logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_relay_is_the_server_behind_the_stem_with_the_map_rounded_between_them(dtype):
    with streams.torch_seeded("relay"):
        client, net = models.make("ResNet8", (1, 8, 8), 3, 6).eval(), models.make("ResNet19", (16, 8, 8), 3, 6).eval()
        x = torch.randn(5, 1, 8, 8)
    relay = server.Relay(client.stem, net, dtype)
    with torch.no_grad():
        for result, expected in zip(relay(x), net(client.stem(x).to(dtype).float()), strict=True):
            assert torch.equal(result, expected)
        assert not torch.equal(relay(x)[1], net(client.stem(x))[1])
        plain = relay(x)[1]
        relay.precision = "bf16"
        assert net.precision == relay.precision == "bf16"
        assert not torch.equal(relay(x)[1], plain)
        cut = models.computed(client.stem, x, "bf16")
        assert torch.equal(relay(x)[1], net(cut.to(dtype).float())[1])


DIGITS = options_for(
    "fedgkt",
    reduced=0.05,
    rounds=1,
    n_clients=2,
    model=("ResNet4", "ResNet8"),
    image_size=8,
    server_model="ResNet5",  # small: bf16 is slow on a processor without it
    feature_dtype="bfloat16",
    epochs_server=1,
    device="cpu",
)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_models_of_a_saved_run_have_the_accuracies_of_its_history(precision, tmp_path):
    run_experiment = experiment.prepare(replace(DIGITS, precision=precision), Launch(export_dir=tmp_path))
    run = experiment.run(run_experiment)
    last = run.clients[run.clients["round"] == 1]
    test = torch.arange(run_experiment.data.n_train, len(run_experiment.data.y))
    x, y = run_experiment.data.images(test), run_experiment.data.y[test]
    for k in range(2):
        for answer, column in (
            (None, "global_accuracy"),
            ("server", "global_accuracy"),
            ("personal", "global_accuracy:personal"),
        ):
            model = run.model(k, answer)
            assert model.precision == precision
            assert answer == "personal" or model.dtype == torch.bfloat16, "of the map"
            with torch.no_grad():
                accuracy = (model(x)[1].argmax(1) == y).double().mean().item()
            expected = last[last["client"] == k][column].item()
            assert accuracy == pytest.approx(expected, abs=1e-12)
    row = run.rounds.iloc[-1]
    for name in ("server_loss", "server_lr", "server_validation", "feature_age_mean", "feature_age_max"):
        assert math.isfinite(row[name])
    assert run.summary()["global_mean"] == last["global_accuracy"].mean()
    assert row["bytes_up:features"] > 0
    assert row["bytes_up:validation features"] > 0


# --- other networks, other precision ---


def test_clients_may_have_different_networks_behind_and_in_front_of_their_stems(monkeypatch):
    names = ("ResNet8", "ResNet4")  # of three clients the third has the first again
    federation, recorded = federation_of(model=names, wire=Heard()), watched(monkeypatch, "server_loss")
    for _, state, done in rounds_of(federation, flags_for(batch_size=WHOLE), 2):
        sent = federation.wire.take("features")
        for k, share in enumerate(SHARES):
            maps, logits = said_of(federation, k, state["weights"][k], share, name=names[k % 2])
            torch.testing.assert_close(sent[k]["maps"].tensor.double(), maps, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(sent[k]["logits"].tensor, logits, rtol=0, atol=1e-12)
        (step,) = recorded
        assert_same_examples(step, list(sent.values()))
        recorded.clear()
        x = federation.data.images(torch.arange(60, 70), torch.float64)
        net = filled("ResNet19", state["server"], (16, SIZE, SIZE)).eval()
        for k in (2, 1, 0):
            maps, logits = said_of(federation, k, state["weights"][k], range(60, 70), name=names[k % 2])
            with torch.no_grad():
                torch.testing.assert_close(
                    done.models["server"](k)(x)[1], net(maps.float().double())[1], rtol=1e-5, atol=1e-5
                )
                torch.testing.assert_close(done.models["personal"](k)(x)[1], logits, rtol=0, atol=1e-12)


def dtypes_in(tree):
    if isinstance(tree, dict | list):
        return set().union(*(dtypes_in(branch) for branch in (tree.values() if isinstance(tree, dict) else tree)))
    return {tree.dtype} if isinstance(tree, torch.Tensor) and tree.is_floating_point() else set()


def test_with_bf16_networks_are_computed_in_it_and_states_and_losses_are_not(monkeypatch):
    result, of_server, of_clients = {}, watched(monkeypatch, "server_loss"), watched(monkeypatch, "loss")
    for precision in ("float32", "bf16"):
        federation = federation_of(dtype=torch.float32, precision=precision, validation=HELD_OUT, wire=Heard())
        state, done = play(federation, flags_for(optimizer="amsgrad", lr=0.01), rounds=2)
        assert {step.model.precision for step in (*of_server, *of_clients)} == {precision}
        assert {step.batch.x.dtype for step in (*of_server, *of_clients)} == {torch.float32}
        assert dtypes_in(state) == {torch.float32}
        assert torch.isfinite(done.loss).all()
        assert all(math.isfinite(value) for value in done.metrics.values())
        assert all(done.models[name](0).precision == precision for name in done.models)
        for rows in federation.wire.take("features").values():
            maps = rows["maps"].tensor
            assert maps.dtype == torch.float32
            assert torch.equal(maps.bfloat16().float(), maps) == (precision == "bf16")
        of_server.clear()
        of_clients.clear()
        result[precision] = state
    item, other = result.values()
    assert not same(item["server"], other["server"])
    for a, b in zip(item["weights"], other["weights"], strict=True):
        assert not same(a, b)
        for name in a:
            assert torch.allclose(a[name].double(), b[name].double(), rtol=0.1, atol=0.3), "the same but for rounding"


# --- as published ---


def test_as_published_predictions_meet_other_images_and_draws_are_new(monkeypatch):
    shared = {"augment": "crop_flip_cutout", "epoch_per_round": 2}
    fresh = fresh_batches(monkeypatch, 3, **shared)
    federation, recorded = federation_of(wire=Heard()), watched(monkeypatch, "loss")  # the algorithm's own
    flags, received = flags_for(as_published=True, **shared), None
    for r, _, _ in rounds_of(federation, flags, 3, published):
        for step, batch in zip(recorded, fresh[r - 1], strict=True):
            assert torch.equal(step.batch.x, batch.x)
        orders = []
        for step in recorded if r > 1 else []:
            k = [len(share) for share in SHARES].index(len(step.context["targets"]))
            equal = (step.context["targets"][:, None] == received[k][None]).all(2)
            assert (equal.sum(0) == 1).all(), "the same predictions"
            orders.append(equal.int().argmax(1).tolist())
        assert all(order != sorted(order) for order in orders), "in another order"
        received = federation.wire.take("logits")
        recorded.clear()
