"""FedBABU, FedPer and LG-FedAvg: which part is trained, which travels, which stays; their limits, bit for bit."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    WHOLE,
    close,
    line_of,
    mean_of,
    only,
    options_for,
    play,
    same,
    tiny_data,
    tiny_federation,
    two_of_three,
    weights_of,
)

import algorithms
import commandline
import experiment
from algorithms import data_exchange, fedbabu
from experiment import identity
from federation.wire import Wire
from helpers import average, train
from options import Launch, flags_of

SHARES = [range(10), range(10, 30), range(30, 60)]
HEAD = {"classifier.weight", "classifier.bias"}
CLASSES = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
DESCRIBED = {name: algorithms.describe(name) for name in CLASSES}


def parse(line):
    return commandline.parse(line.split(), CLASSES, DESCRIBED)[0]


def head_of(row):
    return only(row, HEAD)


def body_of(row):
    return only(row, row.keys() - HEAD)


def rows_of(federation, done):
    (answer,) = done.models.values()
    return [weights_of(answer, k) for k in federation.clients]


def rounds_of(federation, flags, n):
    """start, and after every round (number, state, Round)."""
    module = algorithms.module_of(flags)
    state = module.start(federation, flags)
    for r in range(1, n + 1):
        yield r, state, module.communicate(federation.at(r), state, flags)


def descended(federation, row, share, steps=1, lr=0.05, momentum=0.0, parts=("body",)):
    """Full-batch steps of a textbook SGD, from a fresh start, on some parts of the network alone."""
    model = federation.architectures[0]().double()
    model.load_state_dict(row)
    trained = [p for name, p in model.named_parameters() if name.split(".")[0] in parts]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(federation.data.images(share, torch.float64))[1], federation.data.y[share]).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class Heard(Wire):
    """A wire that remembers what crosses it, as (direction, kind, client, row): the other end, the server, is -1."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def _carry(self, direction, kind, rows, edges):
        self.messages += [(direction, kind, max(edge), row) for edge, row in zip(edges, rows, strict=True)]
        return super()._carry(direction, kind, rows, edges)


# --- FedBABU ---


def test_the_head_is_the_initial_one_to_the_last_bit_and_the_body_moves():
    federation = two_of_three()
    initial, recorded = federation.initial(), set()
    for _, state, done in rounds_of(federation, options_for("fedbabu", momentum=0.9, weight_decay=0.1), 4):
        assert list(done.models) == ["global"], "nothing stays with a client"
        row = weights_of(done.models["global"])
        assert same(head_of(row), head_of(initial))
        assert all(same(head_of(trained), head_of(initial)) for trained in done.local_weights)
        assert not any(torch.equal(row[name], initial[name]) for name in body_of(row))
        assert same(body_of(row), state["server"])
        recorded |= set(done.clients)
    assert recorded == {0, 1, 2}


def test_the_body_is_the_mean_weighted_by_n_k_of_what_the_clients_trained():
    federation = tiny_federation(model="MLP")
    initial = federation.initial()
    flags = options_for("fedbabu", batch_size=WHOLE, epoch_per_round=3, momentum=0.9)
    state, done = play(federation, flags)
    rows = [descended(federation, initial, share, 3, momentum=0.9) for share in federation.shares]
    for result, expected in zip(done.local_weights, rows, strict=True):
        close(result, expected)
    close(state["server"], body_of(mean_of(rows, [10, 20, 30])))
    assert not torch.allclose(state["server"]["body.1.weight"], mean_of(rows, [1, 1, 1])["body.1.weight"], rtol=0, atol=1e-9)


def test_the_clients_of_a_round_start_from_the_servers_body_under_the_head_of_the_beginning(monkeypatch):
    federation, recorded, inner = two_of_three(), [], fedbabu.loss

    def watchful(model, batch, context, options):
        recorded.append(weights_of(lambda _: model))
        return inner(model, batch, context, options)

    monkeypatch.setattr(fedbabu, "loss", watchful)
    expected = federation.initial()
    for _, state, done in rounds_of(federation, options_for("fedbabu", batch_size=WHOLE), 3):
        assert len(recorded) == len(done.clients) == 2
        assert all(same(row, expected) for row in recorded)
        expected = {**expected, **state["server"]}
        recorded.clear()


@pytest.mark.parametrize("trained", ["body", "head"])
def test_what_is_not_trained_does_not_travel_even_where_full_is_averaged(trained):
    item, other = two_of_three(), two_of_three()
    state, done = play(item, options_for("fedbabu", local_upt_part=trained, aggr_part="full"), 3)
    expected, as_expected = play(other, options_for("fedbabu", local_upt_part=trained, aggr_part=trained), 3)
    assert same(state["server"], expected["server"])
    assert state["own"] == expected["own"] == {}
    assert torch.equal(done.loss, as_expected.loss)
    assert item.wire.collect() == other.wire.collect()


@pytest.mark.parametrize("model", ["CNN4", "ResNet9"])
def test_where_the_head_alone_is_trained_and_averaged_the_body_keeps_its_bits_and_its_running_statistics(model):
    federation = two_of_three(model=model, data=tiny_data(size=16), shares=[range(4), range(4, 8), range(8, 14)])
    initial = federation.initial()
    flags = options_for("fedbabu", local_upt_part="head", aggr_part="head", batch_size=WHOLE, momentum=0.9)
    running = [name for name in initial if "running" in name or "tracked" in name]
    assert running
    reference = federation.architectures[0]().double().eval()
    for r, state, done in rounds_of(federation, flags, 2):
        assert state["server"].keys() == HEAD
        if r == 1:
            reference.load_state_dict(initial)
            for k, loss in zip(done.clients, done.loss, strict=True):
                _, logits = reference(federation.data.images(federation.shares[k], torch.float64))
                expected = F.cross_entropy(logits, federation.data.y[federation.shares[k]])
                torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)  # the body computes as in evaluation
        row = weights_of(done.models["global"])
        assert same(body_of(row), body_of(initial))
        assert all(same(body_of(trained), body_of(initial)) for trained in done.local_weights)
        assert not any(torch.equal(row[name], initial[name]) for name in HEAD)


def test_running_statistics_are_of_the_body_and_averaged_with_it():
    federation = tiny_federation(model="CNN4")
    initial = federation.initial()
    state, done = play(federation, options_for("fedbabu", batch_size=WHOLE))
    close(state["server"], average([body_of(row) for row in done.local_weights], federation.sizes([0, 1, 2])))
    moved = [name for name in state["server"] if "running" in name]
    assert len(moved) == 2 * 4
    assert not any(torch.equal(state["server"][name], initial[name]) for name in moved)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"rounds": 8, "lr_schedule": "step"}, 4 * [1] + 2 * [0.1] + 2 * [0.01]), ({"rounds": 8}, 8 * [1])],
    ids=["step", "constant"],
)
def test_the_rate_falls_to_a_tenth_in_the_first_round_of_the_second_half_and_to_a_hundredth_in_the_last_quarter(
    flags, expected
):
    options = options_for("fedbabu", batch_size=WHOLE, lr=0.1, **{"lr_schedule": "constant", **flags})
    federation = tiny_federation(shares=[range(20)], model="MLP")
    before = federation.initial()
    for r, _, done in rounds_of(federation, options, 8):
        after = weights_of(done.models["global"])
        moved = body_of(descended(federation, before, federation.shares[0], lr=1.0))
        for name in moved:  # the one step of plain SGD is lr times the gradient
            torch.testing.assert_close(
                before[name] - after[name], 0.1 * expected[r - 1] * (before[name] - moved[name]), rtol=1e-6, atol=1e-12
            )
        before = after


def test_momentum_is_fresh_in_every_round():
    federation = tiny_federation(shares=[range(20)], model="MLP")
    row = federation.initial()
    kept = descended(federation, row, federation.shares[0], steps=4, momentum=0.9)
    for _ in (1, 2):
        row = descended(federation, row, federation.shares[0], steps=2, momentum=0.9)
    _, done = play(federation, options_for("fedbabu", batch_size=WHOLE, epoch_per_round=2, momentum=0.9), rounds=2)
    weights = weights_of(done.models["global"])
    close(weights, row)
    assert not torch.allclose(weights["body.1.weight"], kept["body.1.weight"], rtol=0, atol=1e-6), (
        "one memory is another run"
    )


# --- its settings: FedPer and LG-FedAvg ---


@pytest.mark.parametrize(("name", "common", "own"), [("fedper", body_of, head_of), ("lg_fedavg", head_of, body_of)])
@pytest.mark.parametrize("model", ["MLP", "CNN4"])
def test_one_part_is_common_and_the_other_stays_with_its_client(name, common, own, model):
    federation = two_of_three(model=model)
    previous, absences = [federation.initial()] * 3, 0
    for _, state, done in rounds_of(federation, options_for(name), 4):
        rows, trained = rows_of(federation, done), dict(zip(done.clients, done.local_weights, strict=True))
        sizes = [len(federation.shares[k]) for k in done.clients]
        expected = mean_of(
            [{n: t for n, t in common(row).items() if t.is_floating_point()} for row in done.local_weights], sizes
        )
        for k in federation.clients:
            close(only(common(rows[k]), expected), expected)
            assert same(common(rows[k]), state["server"]), "the same for all, absent or not"
            assert same(own(rows[k]), state["own"].get(k, state["kept"]))
            assert same(own(rows[k]), own(trained.get(k, previous[k]))), "as it was trained, or as it was"
            absences += k not in trained
        previous = rows
    assert absences == 4
    heads = [own(row) for row in previous]
    assert not same(heads[0], heads[1])
    assert not same(heads[1], heads[2])


def test_a_personal_part_goes_on_from_where_its_client_left_it():
    federation = tiny_federation(model="MLP")
    flags, rows = options_for("fedper", batch_size=WHOLE), [federation.initial()] * 3
    for _, _, done in rounds_of(federation, flags, 2):
        trained = [
            descended(federation, row, share, parts=("body", "classifier"))
            for row, share in zip(rows, federation.shares, strict=True)
        ]
        body = body_of(mean_of(trained, [10, 20, 30]))
        rows = [{**row, **body} for row in trained]
        for result, expected in zip(rows_of(federation, done), rows, strict=True):
            close(result, expected)


# --- the wire ---


@pytest.mark.parametrize(("name", "part"), [("fedbabu", "body"), ("fedper", "body"), ("lg_fedavg", "head")])
def test_the_averaged_part_goes_down_and_comes_up_with_n_k_and_nothing_else_ever(name, part):
    federation, flags = two_of_three(model="CNN4", wire=Heard(), dtype=torch.float32), options_for(name)
    module = algorithms.ALGORITHMS[name]
    state = module.start(federation, flags)
    assert federation.wire.messages == [], "everyone draws the same beginning"
    head = 3 * (9 * 64 + 1) * 4  # CNN4 pools 12x12 to 3x3, of 64 channels
    floats = 64 * (9 + 1) + 3 * 64 * (64 * 9 + 1) + 4 * 4 * 64
    nbytes = head if part == "head" else floats * 4 + 4 * 8  # and the counters of four normalisations
    names = federation.names(part)
    for r in (1, 2):
        done = module.communicate(federation.at(r), state, flags)
        once = [(direction, kind, k) for direction, kind, k, _ in federation.wire.messages]
        kinds = [("down", "weights"), ("up", "weights"), ("up", "n_k")]
        assert once == [(*kind, k) for kind in kinds for k in done.clients]
        for _, kind, k, row in federation.wire.messages:
            assert row.keys() == names if kind == "weights" else row == len(SHARES[k])
        crossed = federation.wire.collect()
        assert crossed["down", "weights"] == crossed["up", "weights"] == dict.fromkeys(done.clients, nbytes)
        assert crossed["up", "n_k"] == dict.fromkeys(done.clients, 8)
        federation.wire.messages.clear()


# --- --bn local ---


@pytest.mark.parametrize("name", ["fedbabu", "fedper"])
def test_normalisation_that_is_local_never_travels_and_stays_with_its_client(name):
    federation = two_of_three(model="CNN4", wire=Heard())
    bn, part, initial = federation.names("bn"), federation.names("body"), federation.initial()
    assert len(bn) == 4 * 5
    assert bn < part
    previous = [initial] * 3
    for _, state, done in rounds_of(federation, options_for(name, bn="local"), 3):
        assert list(done.models) == ["personal"]
        sent = [row for _, kind, _, row in federation.wire.messages if kind == "weights"]
        assert len(sent) == 2 * len(done.clients)
        assert all(row.keys() == part - bn for row in sent)
        federation.wire.messages.clear()
        rows, trained = rows_of(federation, done), dict(zip(done.clients, done.local_weights, strict=True))
        expected = mean_of([only(row, part - bn) for row in done.local_weights], [len(SHARES[k]) for k in done.clients])
        close(state["server"], expected)
        for k in federation.clients:
            assert same(only(rows[k], part - bn), state["server"])
            assert same(only(rows[k], bn), only(trained.get(k, previous[k]), bn)), "the absent keep theirs"
            if name == "fedbabu":
                assert same(head_of(rows[k]), head_of(initial))
        previous = rows
    assert not same(only(previous[0], bn), only(previous[1], bn))


def test_where_the_head_alone_is_trained_local_normalisation_is_nobodys_own():
    federation = two_of_three(model="CNN4")
    state, done = play(federation, options_for("fedbabu", bn="local", local_upt_part="head", aggr_part="head"), 2)
    assert list(done.models) == ["global"]
    assert same(body_of(weights_of(done.models["global"])), body_of(federation.initial()))


# --- flags ---


@pytest.mark.parametrize("name", ["fedbabu", "mhmd"])
@pytest.mark.parametrize(("trained", "averaged"), [("body", "head"), ("head", "body")])
def test_parts_that_share_nothing_are_one_line(name, trained, averaged, tmp_path):
    options = CLASSES[name](algorithm=name, local_upt_part=trained, aggr_part=averaged, image_size=8, reduced=0.1)
    line = line_of(experiment.prepare, options, Launch(export_dir=tmp_path))
    assert line.startswith(f"--aggr_part {averaged}: clients do not train this part with --local_upt_part {trained}")
    assert f"must be full or {trained}" in line


def test_every_other_pair_of_parts_is_ready_to_run(tmp_path):
    parts = ("body", "head", "full")
    for trained, averaged in [(a, b) for a in parts for b in parts if {a, b} != {"body", "head"}]:
        options = CLASSES["fedbabu"](
            algorithm="fedbabu", local_upt_part=trained, aggr_part=averaged, image_size=8, reduced=0.1
        )
        experiment.prepare(options, Launch(export_dir=tmp_path))


@pytest.mark.parametrize("name", ["fedbabu", "mhmd"])
def test_the_help_says_which_parts_there_are(name, capsys):
    with pytest.raises(SystemExit):
        parse(f"{name} --help")
    output = " ".join(capsys.readouterr().out.split())
    for flag in ("local_upt_part", "aggr_part"):
        assert "one of body, head, full (default: body)" in output.partition(f"--{flag} NAME")[2][:200]


@pytest.mark.parametrize("name", ["fedper", "lg_fedavg"])
def test_a_setting_has_no_flag_for_what_it_sets(name):
    assert "--local_upt_part: not a flag of these methods" in line_of(parse, f"{name} --local_upt_part body")
    assert not {"local_upt_part", "aggr_part"} & flags_of(CLASSES[name]).keys()


@pytest.mark.parametrize("name", ["fedbabu", "mhmd"])
def test_the_spellings_of_the_reference_are_understood(name):
    (run,) = parse(f"{name} --epochs 32 --model mobile --num_users 100 --frac 0.1 --local_ep 10 --local_bs 25 --wd 0.5")
    result = (run.rounds, run.model, run.n_clients, run.participation, run.epoch_per_round, run.batch_size, run.weight_decay)
    assert result == (32, ("MobileNet",), 100, 0.1, 10, 25, 0.5)
    assert [run.model for run in parse(f"{name} --model cnn mobile")] == [("CNN4",), ("MobileNet",)]
    assert parse(f"{name} --comm_round 7")[0].rounds == parse(f"{name} --rounds 7")[0].rounds == 7


def test_epochs_are_rounds_to_those_whose_reference_says_so_and_to_nobody_else():
    for name in CLASSES:
        if issubclass(CLASSES[name], fedbabu.Training | data_exchange.Training):
            assert parse(f"{name} --epochs 3")[0].rounds == 3
        else:
            assert line_of(parse, f"{name} --epochs 3").startswith("--epochs: not a flag of these methods")
            assert line_of(parse, f"{name} --model mobile").startswith("--model mobile: must be one of")


@pytest.mark.parametrize("name", ["fedbabu", "fedper", "lg_fedavg", "mhmd"])
def test_the_defaults_are_those_of_the_paper(name):
    (run,) = parse(name)
    assert (run.rounds, run.batch_size, run.optimizer, run.lr, run.momentum) == (320, 50, "sgd", 0.1, 0.9)
    assert (run.weight_decay, run.lr_schedule, run.model, run.bn) == (0.0, "step", ("CNN4",), "average")
    assert {"local_upt_part": "body", "aggr_part": "body"}.items() <= vars(run).items() or name in ("fedper", "lg_fedavg")


@pytest.mark.parametrize("name", ["fedper", "lg_fedavg", "mhmd"])
def test_a_run_is_named_by_the_code_that_it_takes_from_fedbabu(name):
    of_fedbabu = Path(fedbabu.__file__).read_text()
    assert of_fedbabu in identity._sources(options_for(name))
    assert of_fedbabu not in identity._sources(options_for("fedavg"))


def test_train_is_what_fedbabu_runs_at_a_client():
    """So that whatever holds for `train` holds here: batches, modes and effort included."""
    federation, flags = two_of_three(), options_for("fedbabu", momentum=0.9)
    state, done = play(federation, flags)
    work = partial(train, federation.at(1), done.clients, [federation.initial()] * 2, fedbabu.loss, flags)
    trained, _, losses, _ = work(only=federation.names("body"))
    assert torch.equal(done.loss, losses)
    assert all(same(*rows) for rows in zip(done.local_weights, trained, strict=True))
