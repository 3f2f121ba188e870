"""Stacked clients: the same numbers as one after another up to rounding, for every algorithm; what cannot be stacked; what
crosses between clients (nothing); workers and resumed runs, to the bit."""

import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_data, tiny_federation
from test_algorithms import answers_of, equal, every_case, federation_for, options_of, tensors

import algorithms
import commandline
import experiment
import models
import saves
from experiment import planning
from federation import local
from federation.pool import Pool
from federation.stacked import LAYERS, NotStackedError, Stack
from helpers import cross_entropy, train

SHARES = [range(17), range(17, 37), range(37, 54), range(54, 60)]  # in batches of 8: 8 8 | 8 8 4 | 8 8 | 6, and a single one
# each with the reason why its clients train one after another
ONE_AFTER_ANOTHER = {
    "moon": "the loss uses `eval` of the model",
    "mhmd": "a HeadsNet cannot be stacked",
    "pfedme": "the loss computes the network with other weights",
    "perfedavg": "the loss computes the network with other weights",
    "apfl": "a Mixture cannot be stacked",
    "fml": "a Pair cannot be stacked",
}
ALONE = ("centralized",)  # of which one party trains


def apart(serial, stacked):
    """The largest difference between the tensors of two trees."""
    pairs = list(zip(tensors(serial), tensors(stacked), strict=True))
    assert pairs
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel())


@pytest.fixture
def stacked_clients(monkeypatch):
    """Which clients take steps together, in the order of the steps."""
    steps, inner = [], local._Together.step

    def watchful(self):
        losses = inner(self)
        steps.append([client.k for client in self.clients])
        return losses

    monkeypatch.setattr(local._Together, "step", watchful)
    return steps


@every_case
def test_stacked_is_one_after_another_up_to_rounding(case, stacked_clients, caplog):
    flags = {"straggler": 0.4, "weight_decay": 0.01}
    if case not in ("scaffold", "fednova", "feddyn"):
        flags["momentum"] = 0.5
    results = []
    for stacked in (1, 4):
        federation = federation_for(case, shares=SHARES)
        state, done = play(federation, options_of(case, stacked=stacked, **flags), rounds=3)
        results.append((federation, state, done))
    (serial, state, done), (federation, stacked_state, stacked_done) = results
    assert federation.wire.collect() == serial.wire.collect()
    assert federation.meter.spent == serial.meter.spent
    assert list(stacked_done.clients) == list(done.clients)
    assert apart(stacked_done.loss, done.loss) < 1e-9
    assert apart(stacked_state, state) < 1e-9
    assert apart(answers_of(federation, stacked_done), answers_of(serial, done)) < 1e-9
    reason = ONE_AFTER_ANOTHER.get(case)
    notes = [f"--stacked 4: clients train one after another: {reason}"] if reason else []
    assert [record.message for record in caplog.records if "--stacked" in record.message] == notes
    assert (len(stacked_clients) > 0) == (case not in (*ONE_AFTER_ANOTHER, *ALONE))


SETTINGS = {
    "adam": {"optimizer": "adam"},
    "adam, stragglers": {"optimizer": "adam", "straggler": 0.7, "weight_decay": 0.01},  # numbers of steps that differ
    "amsgrad, clip_grad": {"optimizer": "amsgrad", "clip_grad": 0.1},
    "momentum, clip_grad": {"momentum": 0.9, "clip_grad": 0.1, "straggler": 0.5},
    "augment": {"augment": "crop_flip_cutout", "lr_schedule": "cosine"},
    "batches of one": {"batch_size": 1},
    "local_steps": {"local_steps": 5, "momentum": 0.9},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_local_training_is_the_same_stacked(name):
    flags = {"lr": 1e-3, "epoch_per_round": 2, "rounds": 3, **SETTINGS[name]}
    results = []
    for stacked in (1, 3):
        federation = tiny_federation(shares=SHARES)
        options = options_for("independent", stacked=stacked, **flags)  # which keeps the optimizers' states
        state, done = play(federation, options, rounds=3)
        results.append((state["weights"], state["memory"], done.loss, federation.meter.spent))
    assert apart(results[0][:3], results[1][:3]) < 1e-9
    assert results[0][3] == results[1][3]


def blocks(shape, n_classes):
    """A small network of what only large ones have: groups, and a block with a shortcut."""
    grouped = torch.nn.Conv2d(4, 8, 3, groups=2, bias=False)
    body = torch.nn.Sequential(torch.nn.Conv2d(shape[0], 4, 3), models.ResBlock(4, 4, 2), grouped, models.GlobalMean())
    return models.Net(body, 8, n_classes)


NETS = ("LeNet5", "LeNet5_classic", "CNNMnist", "MLP_dropout", "ResNet4", "ResNet8", "ResNet8_GN", "CNN4", "blocks")


@pytest.mark.parametrize("only", [None, "head"])
@pytest.mark.parametrize("name", NETS)
def test_a_step_of_a_network_is_the_same_stacked(name, only, monkeypatch):
    """Dropout and BatchNorm's statistics too."""
    monkeypatch.setitem(models.MODELS, "blocks", blocks)
    data, names = tiny_data(size=20), only and {"classifier.weight", "classifier.bias"}
    results = []
    for stacked in (1, 2):
        federation = tiny_federation(data, [range(8), range(8, 16)], model=name)
        rows = [federation.initial(k) for k in (0, 1)]
        options = options_for("fedavg", stacked=stacked, lr=1e-3)
        results.append(train(federation, [0, 1], rows, cross_entropy, options, only=names))
        assert federation.meter.spent["flops", "client", 0] == federation.meter.spent["flops", "client", 1]
    assert apart(results[0].weights, results[1].weights) < 1e-12
    assert [list(row) for row in results[0].weights] == [list(row) for row in results[1].weights]
    for serial, joint in zip(tensors(results[0].weights), tensors(results[1].weights), strict=True):
        assert serial.stride() == joint.stride(), "kernels choose by the layout"


def test_no_number_of_a_client_enters_another_not_even_nan():
    federation = tiny_federation(shares=[range(16), range(16, 32), range(32, 48)], model="CNN4", dtype=torch.float32)
    rows, options = [federation.initial(k) for k in federation.clients], options_for("fedavg", stacked=3)
    before = train(federation, [0, 1, 2], rows, cross_entropy, options)
    rows[1] = {name: w * float("nan") if w.is_floating_point() else w for name, w in rows[1].items()}
    after = train(federation, [0, 1, 2], rows, cross_entropy, options)
    assert equal([after.weights[k] for k in (0, 2)], [before.weights[k] for k in (0, 2)])
    assert federation.meter.diverged == {("client", 1)}


def test_batches_of_one_size_are_of_one_step_and_epochs_begin_together(stacked_clients):
    shares = [range(12), range(12, 20), range(20, 28), range(28, 36), range(36, 40)]
    federation = tiny_federation(shares=shares, model="MLP")
    rows, options = [federation.initial()] * 5, options_for("fedavg", stacked=5, epoch_per_round=2)
    trained = train(federation, federation.clients, rows, cross_entropy, options)
    epoch = [[0, 1, 2, 3], [0, 4]]  # of 8 examples each, and then of 4
    assert stacked_clients == [*epoch, *epoch]
    assert trained.steps == [4, 2, 2, 2, 2]


def test_stacks_are_of_one_architecture_of_at_most_so_many_and_of_similar_sizes():
    sizes = [5, 9, 3, 9, 4, 8, 2, 7]
    ends = [sum(sizes[:k]) for k in range(9)]
    federation = tiny_federation(
        shares=[range(*pair) for pair in zip(ends, ends[1:], strict=False)], model=("MLP", "LeNet5")
    )
    stacks = local._stacks(federation, [0, 1, 2, 3, 4, 5, 7], options_for("fd", stacked=3))
    assert stacks == [(0, 4, 2), (1, 3), (5, 6)], "positions among these clients"
    assert local._stacks(federation, [0, 1], options_for("fd", stacked=3)) == [], "alone of its architecture"
    assert local._stacks(federation, [0, 2], options_for("fd")) == []
    assert local._stacks(federation.with_party("server"), [0, 2], options_for("fd", stacked=3)) == []


def teacher_by_call(model, batch, context, options):
    return F.cross_entropy(model(batch.x)[1], batch.y) + F.cross_entropy(model(batch.x.flip(0))[1], batch.y)


def late_refusal(model, batch, context, options):
    loss = cross_entropy(model, batch, context, options)
    return loss + (model.eval() and 0) if len(batch.y) == 4 else loss


def without_graph(model, batch, context, options):
    with torch.no_grad():
        model(batch.x)
    return cross_entropy(model, batch, context, options)


@pytest.mark.parametrize("loss", [teacher_by_call, late_refusal, without_graph])
def test_a_loss_that_uses_its_model_otherwise_is_computed_one_after_another_with_the_same_bits(loss, caplog):
    results = []
    for stacked in (1, 4):
        federation = tiny_federation(shares=SHARES, model="MLP")
        rows = [federation.initial()] * 4
        trained = train(federation, [0, 1, 2, 3], rows, loss, options_for("fedavg", stacked=stacked))
        results.append((trained.weights, federation.meter.spent))
    assert equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1], "what was done before the refusal is not counted"
    assert len(caplog.records) == 1


def test_layers_that_a_stack_does_not_know_are_refused():
    with pytest.raises(NotStackedError, match="a LayerNorm cannot be stacked"):
        Stack(models.Net(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LayerNorm(4)), 4, 2), 2)
    with pytest.raises(NotStackedError, match="Conv2d"):
        Stack(models.Net(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding_mode="reflect")), 4, 2), 2)
    tied = models.Net(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), 4, 4)
    tied.body[1].weight = tied.body[0].weight
    with pytest.raises(NotStackedError, match="shared"):
        Stack(tied, 2)
    convolutional = [name for name in models.MODELS if name != "ViT"]
    known = {type(m) for name in convolutional for m in models.build(name, (3, 33, 30), 10, 20).modules()}
    assert known <= set(LAYERS)


# --- a run ---


def prepared(folder, line):
    classes = algorithms.all_options()
    words = [*line.split(), "--export_dir", str(folder)]
    (options,), launch_options, _ = commandline.parse(words, classes, dict.fromkeys(classes, ""))
    return experiment.prepare(options, launch_options)


LINE = "cfkd --n_clients 4 --rounds 3 --reduced 0.1 --partition lda --alpha 0.5 --model MLP --batch_size 16"


def test_only_a_stacked_run_has_another_name(tmp_path):
    folders = [prepared(tmp_path, f"{LINE} {flags}").folder.name for flags in ("", "--stacked 1", "--stacked 4")]
    assert folders[0] == folders[1] != folders[2]
    config = prepared(tmp_path, LINE).config
    older = {**config, "options": {name: value for name, value in config["options"].items() if name != "stacked"}}
    assert experiment.identity.request_digest(older) == experiment.identity.request_digest(config)


def test_two_workers_and_a_resumed_run_leave_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(Pool, "is_ready", property(lambda pool: pool.wait() or True))
    line = f"{LINE} --stacked 2"
    whole = experiment.run(prepared(tmp_path / "one", line))
    with_workers = replace(prepared(tmp_path / "two", line), workers=2)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["round"] == 2:
            raise KilledError

    with pytest.raises(KilledError):
        experiment.run(with_workers, watch=kill)
    resumed = experiment.run(with_workers)
    assert equal(resumed.weights(), whole.weights())
    timing = list(saves.TIMING)
    assert resumed.history.drop(columns=timing).equals(whole.history.drop(columns=timing))


def test_a_plan_of_a_stacked_run_has_its_counts(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    foretold = planning.plan(prepared(tmp_path, f"{LINE} --stacked 4"))
    run = experiment.run(prepared(tmp_path, f"{LINE} --stacked 4"))
    for name in (name for name in foretold.history if name.startswith(("bytes", "steps", "samples", "flops"))):
        assert foretold.history[name].equals(run.history[name]), name
