"""FedMD: transfer learning, then rounds of communicating, digesting and revisiting."""

from dataclasses import replace

import pytest
import torch
from conftest import away, line_of, options_for, play, public_federation, tiny_data, with_public

from algorithms import fedmd
from data import datasets
from helpers import train

LONE = {"pretrain_epochs": 0}
ONE_BATCH = {"batch_size": 60, "digest_batch_size": 12}


def test_the_mean_is_over_the_clients_of_the_round_alone():
    federation = public_federation(participation=0.7)
    _, done = play(federation, options_for("fedmd", **LONE))
    assert len(done.clients) == 2
    recorded = []
    carry = federation.wire.broadcast
    federation.wire.broadcast = lambda kind, tree, clients: recorded.append((kind, tree)) or carry(kind, tree, clients)
    state = fedmd.start(federation, options := options_for("fedmd", **LONE, **ONE_BATCH))
    done = fedmd.communicate(federation.at(1), state, options)
    x = federation.data.images(federation.public, torch.float64)
    outputs = [federation.model(k, federation.initial(k))(x)[1].detach() for k in done.clients]
    kind, sent = recorded[-1]
    assert kind == "mean logits"
    at = torch.from_numpy(federation.at(1).stream("alignment").permutation(12))
    assert (sent - (sum(outputs) / 2)[at]).abs().max() < 1e-12


def test_before_round_1_everyone_learns_from_the_public_labels_and_then_from_its_own():
    federation, options = public_federation(), options_for("fedmd", pretrain_epochs=3)
    state, epochs = fedmd.start(federation, options), replace(options, epoch_per_round=3)
    slow = public_federation()
    everyone = list(slow.clients)
    public = train(slow.on(slow.public), everyone, [slow.initial(k) for k in everyone], fedmd.loss, epochs).weights
    expected = train(slow, everyone, public, fedmd.loss, epochs).weights
    assert [away(row, other) for row, other in zip(state["weights"], expected, strict=True)] == [0, 0, 0]
    labels = with_public(tiny_data())
    labels.y[list(labels.public)] = 0
    other = fedmd.start(public_federation(labels), options)
    assert away(other["weights"][0], state["weights"][0]) > 1e-3


def test_a_round_is_about_some_public_images_the_same_for_all_and_others_in_every_round():
    federation, options, recorded = public_federation(), options_for("fedmd", alignment=5, **LONE), []
    carry = federation.wire.up
    federation.wire.up = lambda kind, rows, clients: recorded.append(rows) or carry(kind, rows, clients)
    state = fedmd.start(federation, options)
    x = federation.data.images(federation.public, torch.float64)
    drawn = []
    for r in (1, 2):
        outputs = [federation.model(k, state["weights"][k])(x)[1].detach() for k in federation.clients]
        fedmd.communicate(federation.at(r), state, options)
        about = [
            [int((logits - row).abs().sum(1).argmin()) for row in rows]
            for logits, rows in zip(outputs, recorded[-1], strict=True)
        ]
        assert [len(rows) for rows in recorded[-1]] == [5, 5, 5]
        assert about[0] == about[1] == about[2]
        assert len(set(about[0])) == 5
        drawn.append(set(about[0]))
    assert drawn[0] != drawn[1]


def test_no_label_of_a_public_image_is_read_in_a_round():
    data = with_public(tiny_data())
    unlabelled = replace(data, y=torch.where(torch.arange(len(data.y)) >= data.public.start, -1, data.y))
    rows = [
        play(public_federation(of), options_for("fedmd", **LONE), rounds=2)[0]["weights"][0] for of in (data, unlabelled)
    ]
    assert away(*rows) == 0


def test_the_optimizer_of_the_own_images_goes_on_and_that_of_digesting_does_not():
    federation, options = public_federation(), options_for("fedmd", optimizer="adam", digest_batch_size=4, **LONE)
    state, _ = play(federation, options, rounds=2)
    assert {int(memory["step"]) for memory in state["memory"][0].values()} == {2 * 2}, "two rounds of two batches of ten"
    with_more, _ = play(public_federation(), replace(options, digest_epochs=0), rounds=2)
    assert state["memory"][0].keys() == with_more["memory"][0].keys()


def test_labels_that_are_not_there_are_not_learnt_from():
    others = datasets.with_public(tiny_data(), tiny_data(n_classes=4))
    assert set(others.y[list(others.public)].tolist()) == {-1}
    line = line_of(fedmd.check, options_for("fedmd", public_dataset="FMNIST"), others, 60)
    assert line.startswith("--public_dataset FMNIST: its classes differ from those of tiny")
    assert line.endswith("add --pretrain_epochs 0")
    assert fedmd.check(options_for("fedmd", **LONE), others, 60) == ""
    assert fedmd.check(options_for("fedmd"), with_public(tiny_data()), 60) == ""


@pytest.mark.parametrize("digest_epochs", [1, 2])
def test_what_a_client_goes_through_is_counted_as_its_own(digest_epochs):
    federation = public_federation()
    play(federation, options_for("fedmd", digest_epochs=digest_epochs, pretrain_epochs=2))
    for k, share in enumerate(federation.shares):
        assert federation.meter.spent["samples", "client", k] == (1 + 2) * len(share) + (2 + digest_epochs) * 12
