"""Defences change what the wire reveals: secure aggregation leaves sums alone, and the same numbers."""

import pytest
import torch
from conftest import line_of, options_for, public_federation, tiny_federation, weights_of

import algorithms
from attacks.knowledge import Recording
from experiment import defences
from federation.recording import Message, Recorder, sums
from federation.wire import ALL, SERVER, leaves

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
