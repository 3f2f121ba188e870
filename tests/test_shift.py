"""Feature shift: closed forms of the changes, whose examples are changed by how much, and what stays as it is."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import line_of, tiny_data
from test_experiment import assert_same, prepared

import experiment
import streams
from data import partition, shift
from data.datasets import from_arrays
from data.partition import Split
from experiment import federation_of, identity, preparation
from options import Options

KINDS = pytest.mark.parametrize("kind", shift.SHIFTS)
NO_STREAM = np.random.default_rng(0)


def request(kind="rotation", strength=1.0, n_clients=3, **flags):
    return Options(feature_shift=kind, shift_strength=strength, n_clients=n_clients, partition="iid", **flags)


def floats(n_train=60, n_test=30):
    """The tiny data as floats, with two channels of other means."""
    x, y = tiny_data(n_train, n_test).x.float(), tiny_data(n_train, n_test).y
    x = torch.cat([x / 255, x / 100 - 3], 1)
    return from_arrays("floats", (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:]), tuple("abc"))


def changed(data, options, **flags):
    """The data as their clients see them, the split, and by how much each client's are changed."""
    split = partition.split(data, replace(options, **flags))
    return shift.shifted(data, split, options), split, shift.amounts(options)


def own(split, k):
    """All examples of client k, in their order."""
    return np.sort(np.concatenate([part[k] for part in split.parts]))


# --- the changes ---


def turned(x, amount):
    return shift.rotation(x, amount, None, NO_STREAM)


@pytest.mark.parametrize("sides", [(12, 12), (13, 13)])
def test_half_of_a_half_turn_is_a_quarter_counterclockwise_and_a_whole_one_upside_down(sides):
    x = torch.rand(3, 2, *sides)
    torch.testing.assert_close(turned(x, 0.5), x.rot90(dims=(2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(turned(x, 1.0), x.flip(2, 3), rtol=0, atol=1e-5)


def test_an_image_that_is_not_square_is_turned_and_not_stretched():
    x = torch.rand(2, 1, 8, 14)
    result = turned(x, 0.5)
    torch.testing.assert_close(result[..., 3:11], x[..., 3:11].rot90(dims=(2, 3)), rtol=0, atol=1e-5)
    assert not result[..., :3].any(), "black, where nothing was"
    assert not result[..., 11:].any()
    torch.testing.assert_close(turned(x, 1.0), x.flip(2, 3), rtol=0, atol=1e-5)


def test_contrast_is_the_normalised_image_times_what_is_left_of_it():
    data, options = floats(), request("contrast", 0.8)
    result, split, amounts = changed(data, options)
    for k, amount in enumerate(amounts):
        indices = torch.from_numpy(own(split, k))
        torch.testing.assert_close(result.images(indices), (1 - amount) * data.images(indices), rtol=0, atol=1e-5)


def test_noise_is_a_draw_of_the_client_in_standard_deviations_of_each_channel():
    data, options = floats(), request("noise", 0.8, split_seed=7)
    result, split, amounts = changed(data, options)
    for k, amount in enumerate(amounts):
        indices = torch.from_numpy(own(split, k))
        drawn = streams.generator("feature shift", 7, k).standard_normal((len(indices), 2, 12, 12), dtype=np.float32)
        difference = result.images(indices, torch.float64) - data.images(indices, torch.float64)
        torch.testing.assert_close(difference, amount * torch.from_numpy(drawn).double(), rtol=0, atol=1e-5)


def test_pixels_of_a_byte_are_rounded_and_cut():
    data, options = tiny_data(), request("noise")
    result, split, amounts = changed(data, options)
    assert result.x.dtype == torch.uint8
    for k, amount in enumerate(amounts):
        before = data.x[own(split, k)].double()
        drawn = torch.from_numpy(streams.generator("feature shift", 0, k).standard_normal(before.shape, dtype=np.float32))
        expected = (before + amount * data.std.view(-1, 1, 1) * drawn).round().clamp(0, 255)
        assert (result.x[own(split, k)].double() - expected).abs().max() <= 1, "but for the last bit before rounding"
    assert (result.x == 0).sum() > (data.x == 0).sum()


def test_images_are_changed_in_parts_as_at_once(monkeypatch):
    data = tiny_data()
    for kind in shift.SHIFTS:
        whole = changed(data, request(kind))[0].x
        monkeypatch.setattr(shift, "AT_ONCE", 7)
        assert torch.equal(changed(data, request(kind))[0].x, whole)
        monkeypatch.undo()


# --- whose, and by how much ---


def test_clients_have_equal_steps_from_none_to_the_strength_dealt_by_the_split_seed():
    for n in (2, 5, 40):
        assert np.allclose(np.sort(shift.amounts(request(n_clients=n, strength=0.6))), np.linspace(0, 0.6, n))
    dealt = [shift.amounts(request(n_clients=40, split_seed=seed)).tolist() for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]
    assert dealt[0] != sorted(dealt[0])
    assert shift.amounts(request(n_clients=1)).tolist() == [0], "nobody to differ from"


@KINDS
def test_all_examples_of_a_client_are_changed_once_and_those_of_nobody_are_not(kind):
    data, options = tiny_data(), request(kind, sizes=(0.3, 0.3, 0.2), validation=0.2)
    before = data.x.clone()
    result, split, amounts = changed(data, options)
    assert torch.equal(data.x, before), "the data set itself stays"
    nobodys = np.setdiff1d(np.arange(len(data.y)), np.concatenate([part.values for part in split.parts]))
    assert len(nobodys) == 18
    assert torch.equal(result.x[nobodys], before[nobodys])
    for k, amount in enumerate(amounts):
        for part in split.parts:
            same = (result.x[part[k]] == before[part[k]]).flatten(1).all(1)
            assert same.all() if amount == 0 else not same.any()
    for name in ("y", "mean", "std"):
        assert getattr(result, name) is getattr(data, name)
    assert sorted(amounts.tolist()) == [0, 0.5, 1]


@KINDS
def test_an_image_is_changed_alike_whatever_is_held_out(kind):
    data, options = tiny_data(), request(kind)
    assert torch.equal(changed(data, options)[0].x, changed(data, options, validation=0.4)[0].x)


@KINDS
def test_what_a_client_sees_does_not_depend_on_what_others_have(kind):
    data, options = tiny_data(), request(kind)
    result, split, _ = changed(data, options)
    others = data.x.clone()
    others[own(split, 0)] = 0
    again = shift.shifted(replace(data, x=others), split, options)
    for k in (1, 2):
        assert torch.equal(again.x[own(split, k)], result.x[own(split, k)])


def test_none_is_the_very_data_set_and_no_strength_are_its_bits():
    data = tiny_data()
    split = partition.split(data, request())
    assert shift.shifted(data, split, Options(n_clients=3)) is data
    for kind in shift.SHIFTS:
        assert torch.equal(shift.shifted(data, split, request(kind, 0.0)).x, data.x)


@KINDS
def test_the_split_is_drawn_as_without_a_shift(kind):
    for name in ("iid", "lda", "shards"):
        flags = {"n_clients": 3, "partition": name, "validation": 0.2, "alpha": 0.5}
        assert partition.split(tiny_data(), Options(**flags, feature_shift=kind)).digest == (
            partition.split(tiny_data(), Options(**flags)).digest
        )


def test_the_test_set_of_writers_is_nobodys_and_stays_as_it_is():
    data = replace(tiny_data(), owners=torch.arange(90) // 3)
    options = replace(request(), partition="writers")
    result, split, amounts = changed(data, options)
    assert torch.equal(result.x[60:], data.x[60:])
    most = amounts.argmax()
    assert torch.equal(result.x[split.test[most]], data.x[split.test[most]].flip(2, 3)), "its own test images are changed"


def test_an_example_of_several_owners_is_refused_with_the_split_by_name():
    twice = Split([[0, 1], [1, 2]], [[], []], [[60], [61]])
    text = "several clients have the same image, and each would change it; must be none, or use a split in which each image "
    assert line_of(shift.check, twice, replace(request("noise"), partition="reference_blocks")) == (
        f"--feature_shift noise: with --partition reference_blocks {text}has one client"
    )
    assert f"with --partition_file my.npz {text}" in line_of(shift.check, twice, request(partition_file="my.npz"))
    shift.check(twice, Options())
    shift.check(Split([[0, 1], [2]], [[], []], [[60], [61]]), request())


# --- in a run ---


@KINDS
def test_clients_train_and_are_tested_on_what_they_see(kind, tmp_path):
    run_experiment = prepared("fedavg", tmp_path, feature_shift=kind)
    expected = shift.shifted(run_experiment.data, run_experiment.split, run_experiment.options)
    assert torch.equal(federation_of(run_experiment).data.x, expected.x)
    assert not torch.equal(expected.x, run_experiment.data.x)


def test_a_shift_of_no_strength_is_the_run_without_one_to_the_last_bit(tmp_path):
    plain = experiment.run(prepared("fedavg", tmp_path))
    assert_same(experiment.run(prepared("fedavg", tmp_path, feature_shift="noise", shift_strength=0.0)), plain)
    with pytest.raises(AssertionError):
        assert_same(experiment.run(prepared("fedavg", tmp_path, feature_shift="noise")), plain)


def test_workers_see_what_one_process_sees(tmp_path):
    run_experiment = prepared("fedavg", tmp_path, feature_shift="rotation")
    expected = federation_of(run_experiment)
    with preparation.at_work(replace(run_experiment, workers=2)) as federation:
        federation.pool.wait()
        recorded = federation.map_clients(lambda federation, k: (os.getpid(), federation.data.x), federation.clients)
    assert os.getpid() not in {process for process, _ in recorded}
    assert all(torch.equal(x, expected.data.x) for _, x in recorded)


def test_a_run_is_named_by_its_shift_and_without_one_as_before_there_was_any(tmp_path):
    plain = prepared("fedavg", tmp_path).config
    older = {**plain, "options": {n: v for n, v in plain["options"].items() if n not in ("feature_shift", "shift_strength")}}
    names = [
        identity.request_digest(prepared("fedavg", tmp_path, feature_shift="noise", shift_strength=s).config)
        for s in (0.1, 0.5)
    ]
    assert identity.request_digest(older) == identity.request_digest(plain)
    assert len({identity.request_digest(plain), *names}) == 3


def test_the_split_of_a_shifted_run_is_taken_with_a_shift_and_without(tmp_path):
    run_experiment = prepared("fedavg", tmp_path, feature_shift="contrast")
    path = str(experiment.save_split(run_experiment))
    for kind in ("none", "contrast"):
        again = prepared("fedavg", tmp_path, partition_file=path, feature_shift=kind)
        assert again.split.digest == run_experiment.split.digest
