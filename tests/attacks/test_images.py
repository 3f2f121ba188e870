"""Attacks that reconstruct images find a planted leak exactly, and nothing where there is none."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from conftest import ROOT, options_for, play, tiny_federation

from attacks import ATTACKS, feature_maps, judge, linear_inputs, linear_span, pictures, update_matching
from attacks.knowledge import Guess, Recording, empty
from data.datasets import Source, from_arrays, load
from data.partition import Split
from federation.recording import Recorder
from federation.wire import Wire

ON_IMAGES = ("linear_inputs", "linear_span", "update_matching", "feature_maps")
FEW = {  # options with which an attack is quick
    "linear_inputs": linear_inputs.Options(),
    "linear_span": linear_span.Options(starts=3),
    "update_matching": update_matching.Options(images=2, iterations=20),
    "feature_maps": feature_maps.Options(steps=40, stems=4),
}


@pytest.fixture(scope="module")
def digits():
    return load("digits", Source(ROOT))


def recorded(data, shares, name, model, **flags):
    """Return the recording of a round, the public data and the truth."""
    options = options_for(name, model=(model,), n_clients=len(shares), **flags)
    wire = Wire(recorder=Recorder(data, [0, 1], 1000))
    federation = tiny_federation(data, shares, model, dtype=torch.float32, wire=wire)
    wire.begin(1)
    play(federation, options)
    return attacked(data, shares, wire.recorder.messages, options)


def attacked(data, shares, messages, options):
    facts = (asdict(options) | {"model": list(options.model), "feature_dim": 6}, data.shape, data.classes)
    recording = Recording(messages, *facts, data.mean, data.std)
    split = Split(shares, [[] for _ in shares], [[] for _ in shares])
    return recording, *judge.drawn(data, split)


@pytest.fixture(scope="module")
def one_step(digits):
    """Two clients of one image each, and one step of FedAvg."""
    return recorded(digits, [[0], [1]], "fedavg", "MLP", batch_size=1)


@pytest.fixture(scope="module")
def epochs(digits):
    """Two clients of 30 images, and three local epochs of FedAvg in batches of 10."""
    return recorded(digits, [range(30), range(30, 60)], "fedavg", "MLP", batch_size=10, epoch_per_round=3)


@pytest.fixture(scope="module")
def maps(digits):
    return recorded(digits, [range(40), range(40, 80)], "fedgkt", "ResNet4", server_model="ResNet19", epochs_server=1)


def verdict(name, case, options=None):
    recording, public, truth = case
    guess = ATTACKS[name].attack(recording, public, options or FEW[name])
    return guess, judge.verdict(guess, recording, public, truth)


def test_the_change_of_a_linear_layer_after_a_step_on_an_image_is_the_image(digits, one_step):
    guess, numbers = verdict("linear_inputs", one_step)
    for k in (0, 1):
        assert judge.nearest(digits.images([k]), guess.images[k]).item() < 1e-3
        assert len(guess.images[k]) == 1
    assert numbers["exposed"] == 1


def test_images_sent_in_clear_are_all_exposed(digits):
    shares = [range(10), range(10, 30), range(30, 60)]
    for name, flags in (("data_exchange", {"share_ratio": 1.0}), ("centralized", {})):
        options = options_for(name, model=("MLP",), n_clients=3, **flags)
        wire = Wire(recorder=Recorder(digits, [0], 1000))
        wire.begin(0)
        federation = tiny_federation(digits, shares, "MLP", dtype=torch.float32, wire=wire)
        play(federation, options, 0)
        _, numbers = verdict("sent_images", attacked(digits, shares, wire.recorder.messages, options), True)
        assert numbers["exposed"] == 1


def test_the_span_of_the_changes_after_local_epochs_holds_the_images_of_the_client(epochs):
    _, numbers = verdict("linear_span", epochs, linear_span.Options(starts=0))
    assert numbers["exposed"] == 1


def test_sparse_images_are_found_in_the_span_of_the_changes_after_local_epochs():
    draw = np.random.default_rng(0)
    x = (draw.integers(1, 256, (400, 1, 12, 12)) * (draw.random((400, 1, 12, 12)) < 0.3)).astype(np.uint8)
    y = np.arange(400) % 3
    data = from_arrays("sparse", (x[:200], y[:200]), (x[200:], y[200:]), tuple("abc"))
    case = recorded(data, [range(30), range(30, 60)], "fedavg", "MLP", batch_size=10, epoch_per_round=3)
    guess, _ = verdict("linear_span", case)
    for k in (0, 1):
        own, others = (case[1].candidates[k].x[torch.from_numpy(part)] for part in _parts(case[2], k))
        assert len(guess.images[k])
        assert judge.nearest(guess.images[k], own).max() < 0.01 < 0.5 < judge.nearest(guess.images[k], others).min()


def _parts(truth, k):
    return truth.is_member[k], ~truth.is_member[k]


def test_span_of_another_client_exposes_nothing(epochs):
    recording, public, truth = epochs
    swapped = [m._replace(sender=_other(m.sender), receiver=_other(m.receiver)) for m in recording.messages]
    _, numbers = verdict("linear_span", (replace(recording, messages=swapped), public, truth))
    assert numbers["low"] <= 0 <= numbers["high"]


def _other(party):
    return 1 - party if party >= 0 else party


def test_matching_an_update_of_a_step_finds_the_image_better_than_public_images_do(digits):
    case = recorded(digits, [[0], [1]], "fedavg", "MLP", batch_size=1)
    guess, numbers = verdict("update_matching", case, update_matching.Options(iterations=150))
    assert numbers["exposed"] == 1
    for k in (0, 1):
        assert len(guess.images[k]) == 1
        x = digits.images([k])
        assert judge.nearest(guess.images[k], x) < judge.nearest(x, case[1].examples.x)


def test_feature_maps_of_unknown_stems_are_decoded(maps):
    _, numbers = verdict("feature_maps", maps, feature_maps.Options(steps=80, stems=4, lr=1e-2))
    assert numbers["low"] > 0


def test_the_invariants_ignore_order_scale_and_sign_of_the_channels():
    x = torch.randn(5, 4, 6, 6, dtype=torch.float64)
    changed = (x * torch.tensor([1.0, -2.0, 0.5, -3.0]).view(-1, 1, 1))[:, [2, 0, 3, 1]] + 1
    torch.testing.assert_close(feature_maps.invariants(x, x), feature_maps.invariants(changed, changed))


@pytest.mark.parametrize("name", ON_IMAGES)
def test_nothing_is_found_without_messages(name, one_step, maps):
    for recording, public, _ in (one_step, maps):
        assert ATTACKS[name].attack(empty(recording), public, FEW[name]) == Guess()


@pytest.mark.parametrize("name", ON_IMAGES)
def test_zeros_expose_nothing(name, epochs, maps):
    for recording, public, truth in (epochs, maps):
        zeros = [m._replace(content=_zeros(m.content)) for m in recording.messages]
        _, numbers = verdict(name, (replace(recording, messages=zeros), public, truth))
        assert numbers.get("low", 0) <= 0 <= numbers.get("high", 0)


def _zeros(content):
    return {name: torch.zeros_like(tensor) for name, tensor in content.items()} if isinstance(content, dict) else content * 0


def test_images_of_a_search_from_noise_are_not_counted_as_exposed(epochs):
    recording, public, truth = epochs
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(20, *recording.shape))).float()
    numbers = judge.verdict(Guess(images={0: noise, 1: noise}), recording, public, truth)
    assert numbers["low"] <= 0 <= numbers["high"]


def test_pictures_show_reconstructions_where_there_are_any(one_step, tmp_path):
    recording, public, truth = one_step
    guess, _ = verdict("linear_inputs", one_step)
    arguments = (recording, public, truth.is_member, "title", tmp_path / "pictures.png")
    assert not pictures.draw(Guess(), *arguments)
    assert pictures.draw(guess, *arguments)
    assert (tmp_path / "pictures.png").read_bytes().startswith(b"\x89PNG")
