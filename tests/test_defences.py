"""Defences change what the wire reveals: sums instead of messages, and weights with noise."""

import math

import numpy as np
import pytest
import torch
from conftest import line_of, options_for, public_federation, same, tiny_federation, weights_of

import algorithms
import experiment
from attacks.knowledge import Recording
from experiment import defences
from federation.privacy import Noise, epsilon
from federation.recording import Message, Recorder, sums
from federation.wire import ALL, SERVER, Wire, leaves
from options import Launch

UPLOADS = {name: module.uploads for name, module in algorithms.ALGORITHMS.items() if hasattr(module, "uploads")}
SUMMED = [name for name, uploads in UPLOADS.items() if uploads and None not in uploads.values()]


def recorded(name, secure=False, rounds=2, **others):
    """Play an algorithm on the tiny data; return (federation, last round, messages of the last round)."""
    flags = {"secure_aggregation": secure, "pretrain_epochs": 0} if name == "fedmd" else {"secure_aggregation": secure}
    build = public_federation if getattr(algorithms.ALGORITHMS[name], "public", False) else tiny_federation
    model = "CNN4" if name == "mhmd" else "MLP"
    federation = build(model=model, heads=name == "mhmd", dtype=torch.float32, **others)
    recorder = Recorder(federation.data, range(rounds + 1), 9, UPLOADS[name] if secure else None)
    federation.wire.recorder = recorder
    options, module = options_for(name, model=(model,), **flags), algorithms.ALGORITHMS[name]
    federation.wire.begin(0)
    state = module.start(federation, options)
    for r in range(1, rounds + 1):
        federation.wire.begin(r)
        result = module.communicate(federation.at(r), state, options)
    return federation, result, recorder.messages


@pytest.mark.parametrize("name", SUMMED)
def test_secure_aggregation_leaves_the_numbers_and_records_only_sums(name):
    federation, result, messages = recorded(name)
    secure, secure_result, secure_messages = recorded(name, secure=True)
    assert torch.equal(result.loss, secure_result.loss)
    for answer in result.models:
        for k in federation.clients:
            ours, theirs = (weights_of(part.models[answer], k) for part in (result, secure_result))
            assert all(torch.equal(ours[entry], theirs[entry]) for entry in ours)
    counts, secure_counts = federation.wire.collect(), secure.wire.collect()
    assert {key: n for key, n in counts.items() if key[0] == "up"} == {
        key: n for key, n in secure_counts.items() if key[0] == "up"
    }
    if name != "fd":  # its server sends the total, and the number of clients that have a class
        assert counts == secure_counts
    sent = [message for message in messages if message.direction == "up"]
    assert {message.kind for message in sent} == set(UPLOADS[name])
    secure_sent = [message for message in secure_messages if message.direction == "up"]
    assert [(message.kind, message.sender, message.receiver) for message in secure_sent] == [
        (kind, ALL, SERVER) for kind in dict.fromkeys(message.kind for message in sent)
    ]
    n_k = {message.sender: message.content for message in sent if message.kind == "n_k"}
    for total in secure_sent:
        rows = {message.sender: message.content for message in sent if message.kind == total.kind}
        if UPLOADS[name][total.kind] == "n_k":
            expected = sum_of([[leaf * n_k[k].to(leaf.dtype) for leaf in leaves(row)] for k, row in rows.items()])
        elif UPLOADS[name][total.kind] == "counts":
            expected = sum_of([[row["means"] * row["counts"].view(-1, 1), row["counts"]] for row in rows.values()])
        else:
            expected = sum_of(
                [[leaf + 0 if leaf.dtype != torch.bool else leaf.long() for leaf in leaves(row)] for row in rows.values()]
            )
        for ours, theirs in zip(leaves(total.content), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def sum_of(rows):
    return [sum(parts[1:], parts[0]) for parts in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", SUMMED)
def test_the_sums_give_the_server_the_same_averages(name):
    """Whatever the server sends back in the next round follows from sums: no download differs between clients."""
    _, _, messages = recorded(name, secure=True)
    by_kind = {}
    for message in messages:
        if message.direction == "down":
            by_kind.setdefault(message.kind, []).append(message.content)
    for contents in by_kind.values():
        for content in contents[1:]:
            assert all(torch.equal(a, b) for a, b in zip(leaves(contents[0]), leaves(content), strict=True))


def test_the_average_of_fedavg_is_the_recorded_sum_over_the_recorded_number_of_examples():
    _, result, messages = recorded("fedavg", secure=True)
    weights, n = (next(m.content for m in messages if m.direction == "up" and m.kind == kind) for kind in ("weights", "n_k"))
    assert n == 60
    for name, w in weights_of(result.models["global"]).items():
        torch.testing.assert_close(weights[name] / n, w, rtol=1e-6, atol=1e-6)


def test_the_sum_of_a_single_client_is_recorded_as_its_message():
    message = Message(1, "up", "n_k", 2, SERVER, torch.tensor(7))
    assert sums([message], {"n_k": ""}) == [message]


def test_attacks_do_not_take_a_sum_for_a_clients_message():
    messages = [Message(1, "up", "n_k", sender, SERVER, torch.tensor(7)) for sender in (ALL, 2)]
    recording = Recording(messages, {}, (1, 8, 8), ("a", "b"), torch.zeros(1), torch.ones(1))
    assert recording.sent() == {2: messages[1:]}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"algorithm": "feddf"}, "feddf needs single messages (weights, n_k)"),
        ({"algorithm": "cfkd"}, "cfkd needs single messages (mean features)"),
        ({"algorithm": "fedgkt"}, "fedgkt needs single messages (features, validation features)"),
        ({"algorithm": "centralized"}, "centralized needs single messages (examples)"),
        ({"algorithm": "data_exchange"}, "data_exchange has no server"),
        ({"algorithm": "dpsgd"}, "dpsgd has no server"),
        ({"algorithm": "epidemic"}, "epidemic has no server"),
        ({"algorithm": "fedavg", "as_published": True}, "this variant of fedavg"),
        ({"algorithm": "fedavg", "compress": "int8"}, "leave out --compress int8"),
        ({"algorithm": "fedproto", "participation": 0.5, "n_clients": 4}, "fedproto keeps the last messages"),
        ({"algorithm": "fd", "client_failure": 0.5}, "fd keeps the last messages"),
        ({"algorithm": "fedavg", "participation": 0.1, "n_clients": 10}, "at least two clients per round"),
    ],
)
def test_secure_aggregation_is_refused_by_name(flags, words):
    options = options_for(flags.pop("algorithm"), secure_aggregation=True, **flags)
    line = line_of(defences.check, options, algorithms.module_of(options))
    assert line.startswith("--secure_aggregation: ")
    assert words in line


def test_independent_learning_sends_nothing_and_needs_no_defence():
    options = options_for("independent", secure_aggregation=True, participation=0.1)
    defences.check(options, algorithms.module_of(options))


# --- clipping and noise ---


def row_of(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64), "n": torch.tensor(3)}


def sent_by(noise: Noise, row, received, client=0, round=1):
    """Return what the server receives from a client that has received a row and sends another."""
    wire = Wire(noise=noise)
    wire.begin(round)
    wire.broadcast("weights", received, [client])
    (arrived,) = wire.up("weights", [row], [client])
    return arrived


def test_a_large_change_is_scaled_down_to_the_limit_and_a_small_one_stays():
    received, row = row_of(1.0, 1.0, 1.0), row_of(4.0, 1.0, 5.0)
    arrived = sent_by(Noise(2.5, 0.0, 0), row, received)
    torch.testing.assert_close(arrived["w"], row_of(2.5, 1.0, 3.0)["w"])
    assert arrived["n"] is row["n"], "integers are sent as they are"
    assert sent_by(Noise(5.0, 0.0, 0), row, received) is row, "the same bits"


def test_the_norm_is_over_all_tensors_of_a_row():
    zeros = {name: torch.zeros(4) for name in "abc"}
    arrived = sent_by(Noise(0.5, 0.0, 0), {name: torch.ones(4) for name in "abc"}, zeros)
    assert math.isclose(torch.cat(list(arrived.values())).norm(), 0.5, rel_tol=1e-6)


def test_the_noise_has_the_declared_deviation_and_is_another_for_each_client_and_round():
    zeros, noise = {"w": torch.zeros(100_000)}, Noise(0.5, 3.0, seed=7)
    draws = [sent_by(noise, zeros, zeros, k, r)["w"] for k, r in ((0, 1), (1, 1), (0, 2))]
    for draw in draws:
        assert abs(draw.mean()) < 0.03
        assert math.isclose(draw.std(), 1.5, rel_tol=0.01)
    assert np.abs(np.corrcoef(torch.stack(draws)) - np.eye(3)).max() < 0.02
    assert torch.equal(sent_by(Noise(0.5, 3.0, seed=7), zeros, zeros, 1, 1)["w"], draws[1])
    assert not torch.equal(sent_by(Noise(0.5, 3.0, seed=8), zeros, zeros, 1, 1)["w"], draws[1])


def test_weights_that_come_down_and_other_kinds_stay_exact():
    wire, row = Wire(noise=Noise(1e-9, 1.0, 0)), row_of(1.0, 2.0)
    assert wire.broadcast("weights", row, [0])[0] is row
    assert wire.up("n_k", [torch.tensor(5)], [0])[0] == 5


def test_noise_is_added_before_compression_so_that_the_message_has_the_compressed_bytes():
    wire = Wire("int8", noise=Noise(1.0, 1.0, 0))
    zeros = {"w": torch.zeros(1000)}
    wire.broadcast("weights", zeros, [0])
    wire.up("weights", [zeros], [0])
    assert wire.collect()["up", "weights"] == {0: 1004}


NOISED = [name for name in SUMMED if UPLOADS[name].keys() <= {"weights", "n_k"}] + ["feddf"]


@pytest.mark.parametrize("name", [name for name in NOISED if name != "mhmd"])
def test_without_limit_and_noise_every_bit_stays_and_with_noise_every_upload_changes(name):
    plain, limited, noised = (
        recorded(name, wire=Wire(noise=noise)) for noise in (None, Noise(1e9, 0.0, 0), Noise(0.01, 0.0, 0))
    )
    for message, other in zip(plain[2], limited[2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(leaves(message.content), leaves(other.content), strict=True))
    downloads = {m.receiver: m.content for m in noised[2] if (m.direction, m.kind) == ("down", "weights")}
    for message in noised[2]:
        if (message.direction, message.kind) == ("up", "weights"):
            changes = [(w - downloads[message.sender][entry]).flatten() for entry, w in message.content.items()]
            assert math.isclose(torch.cat(changes).norm(), 0.01, rel_tol=1e-3), "the local change is larger"


@pytest.mark.parametrize("failed", [frozenset(), frozenset({1})])
def test_the_wire_without_failed_clients_adds_noise_too(failed):
    wire = Wire(noise=Noise(1.0, 1.0, 0)).without(failed)
    wire.begin(1)
    zeros = {"w": torch.zeros(3)}
    wire.broadcast("weights", zeros, [0, 2])
    assert all(row["w"].abs().min() > 0 for row in wire.up("weights", [zeros, zeros], [0, 2]))


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (2.0, 9), (0.7, 3), (20.0, 100), (0.2, 1)])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_epsilon_is_that_of_the_definition_by_numerical_integration(noise, rounds, delta):
    """Delta is the integral of max(0, p - exp(epsilon) q), for T numbers with and without a mean of 1 each."""
    value, deviation = epsilon(noise, rounds, delta), noise * math.sqrt(rounds)  # their sum: mean T or 0
    x = np.linspace(-12 * deviation, rounds + 12 * deviation, 400_001)
    p, q = (np.exp(-(((x - mean) / deviation) ** 2) / 2) / deviation / math.sqrt(2 * math.pi) for mean in (rounds, 0))
    numeric = np.trapezoid(np.maximum(p - math.exp(value) * q, 0), x)
    assert math.isclose(numeric, delta, rel_tol=1e-4)


def test_epsilon_at_the_limits():
    assert epsilon(1.0, 0, 1e-5) == 0
    assert epsilon(0.0, 3, 1e-5) == math.inf
    assert epsilon(100.0, 1, 0.5) == 0
    assert math.isclose(epsilon(1.0, 1, 1e-5), 4.3772, abs_tol=1e-4)  # of the analytic Gaussian mechanism
    assert math.isclose(epsilon(1.0, 4, 1e-5), epsilon(0.5, 1, 1e-5))
    assert math.isclose(epsilon(1e-3, 5, 1e-5), 5e6 / 2, rel_tol=0.01), "no overflow"


def test_the_history_counts_the_rounds_of_the_client_that_sent_most_often():
    options = options_for("fedavg", dp_clip=1.0, dp_noise=2.0)
    sent = [np.array([16.0, 16.0, math.nan]), np.array([0.0, 16.0, 16.0]), np.array([0.0, 16.0, 16.0])]
    entries = [{"round": {}, "clients": {"client": [0, 1, 2], "bytes_up:weights": nbytes}} for nbytes in sent]
    accountant = defences.Accountant(options, algorithms.module_of(options), [5, 5, 5])
    shown = [accountant.columns(entry) for entry in entries]
    assert shown == [{"epsilon_round": epsilon(2.0, 1, 1e-5), "epsilon": epsilon(2.0, n, 1e-5)} for n in (1, 2, 3)]
    resumed = defences.Accountant(options, algorithms.module_of(options), [5, 5, 5], entries[:2])
    assert resumed.columns(entries[2]) == shown[2]
    plain = options_for("fedavg", dp_clip=1.0)
    assert defences.Accountant(plain, algorithms.module_of(plain), [5, 5, 5]).columns(entries[0]) == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"algorithm": "fedproto"}, "fedproto send no weights but prototypes"),
        ({"algorithm": "cfkd"}, "cfkd send no weights but mean features"),
        ({"algorithm": "fednova"}, "fednova send no weights but normalised changes"),
        ({"algorithm": "dpsgd"}, "dpsgd send no weights to a server"),
        ({"algorithm": "centralized"}, "centralized send no weights"),
        ({"algorithm": "scaffold"}, "scaffold also send variates"),
        ({"algorithm": "fedavg", "model": ("ResNet9",)}, "--model ResNet9 has BatchNorm"),
        ({"algorithm": "fml", "shared_model": "CNN4"}, "--model CNN4 has BatchNorm"),
        ({"algorithm": "fedavg", "init": "independent"}, "this variant of fedavg send no weights"),
    ],
)
def test_noise_is_refused_by_name(flags, words):
    options = options_for(flags.pop("algorithm"), **{"model": ("MLP",), "dp_clip": 1.0, **flags})
    line = line_of(defences.check, options, algorithms.module_of(options))
    assert line.startswith("--dp_clip 1: ")
    assert words in line


@pytest.mark.parametrize("name", [*NOISED, "independent"])
def test_what_sends_weights_may_have_noise_and_says_what_epsilon_does_not_cover(name):
    flags = {"bn": "local", "model": ("CNN4",)} if name in ("mhmd", "fedbabu", "fedper") else {"model": ("MLP",)}
    options = options_for(name, dp_clip=1.0, dp_noise=2.0, rounds=4, **flags)
    module = algorithms.module_of(options)
    defences.check(options, module)
    promise = defences.promise(options, module)
    if name == "independent":
        assert promise == {}
    else:
        assert promise["privacy"]["not covered"] == [kind for kind in UPLOADS[name] if kind != "weights"]
        assert promise["privacy"]["epsilon"] == epsilon(2.0, 4, 1e-5)


def test_a_run_saves_its_epsilon_and_sums_alone(tmp_path):
    flags = {"dataset": "digits", "n_clients": 3, "rounds": 2, "reduced": 0.1, "model": ("MLP",), "record_wire": ("last",)}
    options = options_for("fedavg", **flags, dp_clip=1.0, dp_noise=0.5, secure_aggregation=True)
    prepared = experiment.prepare(options, Launch(export_dir=tmp_path))
    finished = experiment.run(prepared)
    assert finished.config["privacy"]["epsilon"] == epsilon(0.5, 2, 1e-5)
    assert finished.rounds["epsilon"].tolist()[1:] == [epsilon(0.5, r, 1e-5) for r in (1, 2)]
    messages, _ = finished.recording()
    assert [(m.kind, m.sender) for m in messages if m.direction == "up"] == [("weights", ALL), ("n_k", ALL)]
    again = experiment.run(experiment.prepare(options, Launch(export_dir=tmp_path / "again")))
    assert same(finished.weights()["global"], again.weights()["global"]), "the noise repeats"
    other = experiment.prepare(options_for("fedavg", **flags), Launch(export_dir=tmp_path))
    assert other.folder != prepared.folder
    assert "privacy" not in other.config
