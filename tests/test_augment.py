"""Augmented images against the slow and obvious way, one image at a time; draws against the names of their streams."""

import io
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import options_for, tiny_data, tiny_federation
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import algorithms
import streams
from algorithms.independent import loss
from data.augment import AUGMENTATIONS, apply, draw, part
from data.datasets import from_arrays
from data.partition import Shares
from experiment.evaluation import evaluate
from federation import Federation
from helpers import Round, outputs, train
from models import Net

CHANGING = [name for name in AUGMENTATIONS if name != "none"]
SHAPES = [(3, 32, 32), (1, 28, 28), (2, 9, 17), (1, 40, 8), (3, 5, 16), (1, 3, 7), (2, 1, 1)]


def random_data(shape=(3, 32, 32), n=40, source=np.uint8):
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (n, *shape)).astype(np.uint8), np.arange(n) % 2
    data = from_arrays("random", (x[: n // 2], y[: n // 2]), (x[n // 2 :], y[n // 2 :]), ("a", "b"))
    return data if source is np.uint8 else replace(data, x=data.x.to(torch.float32) / 7)


def one_image(data, index, drawn, position, dtype):
    """Pad, slice, reverse, normalise, zero a square: one image, as torchvision and the published code take the steps."""
    raw = data.x[index].to(dtype)
    _, height, width = raw.shape
    if "crop" in drawn:
        pads = (height // 8, width // 8)
        padded = torch.zeros(raw.shape[0], height + 2 * pads[0], width + 2 * pads[1], dtype=dtype)  # black
        padded[:, pads[0] : pads[0] + height, pads[1] : pads[1] + width] = raw
        top, left = (pad + int(moved) for pad, moved in zip(pads, drawn["crop"][position], strict=True))
        assert top in range(2 * pads[0] + 1)
        assert left in range(2 * pads[1] + 1)
        raw = padded[:, top : top + height, left : left + width]
    if "flip" in drawn and drawn["flip"][position]:
        raw = torch.stack([raw[:, :, width - 1 - column] for column in range(width)], 2)
    x = (raw - data.mean.to(dtype)[:, None, None]) / data.std.to(dtype)[:, None, None]
    if "cutout" in drawn:
        row, column = drawn["cutout"][position].tolist()
        length = min(height, width) // 2
        rows = slice(max(row - length // 2, 0), min(row + length // 2, height))
        x[:, rows, max(column - length // 2, 0) : min(column + length // 2, width)] = 0
    return x


def drawn_for(name, data, n, *key):
    return draw(name, n, data.shape, streams.generator("tests", name, *key))


def equal(item, other):
    return item.keys() == other.keys() and all(torch.equal(item[key], other[key]) for key in item)


def uniform(counts, cells):
    """Whether n draws could be uniform over the cells: chi-square within 4 standard deviations of its mean."""
    n, degrees = sum(counts.values()), cells - 1
    assert n >= 20 * cells, "too few draws to tell"
    chi_square = sum((count - n / cells) ** 2 for count in counts.values()) / (n / cells)
    return len(counts) == cells and abs(chi_square - degrees) < 4 * (2 * degrees) ** 0.5


# --- the images ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("source", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CHANGING)
def test_a_batch_is_what_pad_slice_reverse_and_zero_make_of_every_image(name, shape, source, dtype):
    data = random_data(shape, source=source)
    indices = torch.from_numpy(np.random.default_rng(1).permutation(40))
    drawn = drawn_for(name, data, 40)
    result = data.images(indices, dtype, drawn)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, torch.stack([one_image(data, index, drawn, i, dtype) for i, index in enumerate(indices)]))


def test_steps_that_change_nothing_leave_the_very_bits_of_the_plain_image():
    data, still = random_data(), {"crop": torch.zeros(5, 2, dtype=torch.int64), "flip": torch.zeros(5, dtype=torch.bool)}
    indices = torch.tensor([3, 1, 4, 1, 5])
    result, plain = data.images(indices, torch.float32, still), data.images(indices, torch.float32)
    assert torch.equal(result.view(torch.int32), plain.view(torch.int32))


def test_the_border_of_a_crop_is_a_black_pixel():
    data = random_data()
    down_and_right = {"crop": torch.tensor([[4, 4]])}
    result = data.images(torch.tensor([7]), torch.float64, down_and_right)[0]
    black = replace(data, x=torch.zeros_like(data.x)).images(torch.tensor([7]), torch.float64)[0]
    plain = data.images(torch.tensor([7]), torch.float64)[0]
    assert torch.equal(result[:, :28, :28], plain[:, 4:, 4:])
    assert torch.equal(result[:, 28:], black[:, 28:])
    assert torch.equal(result[:, :, 28:], black[:, :, 28:])


@pytest.mark.parametrize(("shape", "length"), [((1, 32, 32), 16), ((2, 28, 28), 14), ((1, 9, 17), 4), ((1, 30, 12), 6)])
def test_the_hole_is_half_the_shorter_side_and_clipped_at_the_borders(shape, length):
    _, height, width = shape
    centres = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    x = torch.ones(len(centres), *shape)
    result = apply({"cutout": centres}, x, black=torch.zeros(shape[0]))
    before = length // 2  # pixels before the centre: the rest, with the centre, are length // 2 as well
    assert torch.equal((result == 0).any(1), (result == 0).all(1)), "one hole for all channels"
    for (row, column), hole in zip(centres.tolist(), result[:, 0] == 0, strict=True):
        expected = {
            (r, c)
            for r in range(row - before, row + before)
            for c in range(column - before, column + before)
            if 0 <= r < height and 0 <= c < width
        }
        assert {(r, c) for r, c in hole.nonzero().tolist()} == expected
    areas = (result[:, 0] == 0).sum((1, 2))
    assert areas.max() == length**2
    assert areas.min() == (length // 2) ** 2, "a corner keeps a quarter of it"


def test_the_same_draw_gives_the_same_bits_again_and_a_part_of_it_a_part_of_them():
    data = random_data()
    drawn, indices = drawn_for("crop_flip_cutout", data, 40), torch.arange(40)
    kept = {step: rows.clone() for step, rows in drawn.items()}
    images, x = data.images(indices, torch.float32, drawn), data.x.clone()
    assert torch.equal(data.images(indices, torch.float32, drawn), images)
    for i in (torch.tensor([39, 0, 7]), torch.arange(10, 20), torch.tensor([5])):
        assert torch.equal(data.images(indices[i], torch.float32, part(drawn, i)), images[i])
    assert equal(drawn, kept)
    assert torch.equal(data.x, x)


def test_a_draw_can_be_kept_in_a_checkpoint():
    data, file = random_data(), io.BytesIO()
    drawn = drawn_for("crop_flip_cutout", data, 40)
    torch.save({"drawn": [drawn, None]}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["drawn"][0]
    assert equal(loaded, drawn)
    assert torch.equal(data.images(torch.arange(40), drawn=loaded), data.images(torch.arange(40), drawn=drawn))


def test_the_work_is_done_for_a_whole_batch_at_once_and_nothing_waits_for_its_values():
    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(str(function))
            return function(*args, **(kwargs or {}))

    data, lists = random_data(), []
    data.images(torch.arange(1))  # with the first batch mean and deviation are converted, for all others
    for n in (1, 40):
        calls = []
        with Counting():
            data.images(torch.arange(n), torch.float32, part(drawn_for("crop_flip_cutout", data, 40), torch.arange(n)))
        lists.append(calls)
    assert lists[0] == lists[1], "as many calls for 40 images as for one"
    # a meta tensor has a shape but no values: whatever would have to read one on the way fails
    drawn = {step: rows.to("meta") for step, rows in drawn_for("crop_flip_cutout", data, 40).items()}
    assert data.to("meta").images(torch.arange(40, device="meta"), torch.float32, drawn).shape == (40, 3, 32, 32)


# --- none ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("source", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_none_draws_nothing_and_gives_the_plain_images(shape, source, dtype):
    data, stream = random_data(shape, source=source), streams.generator("a")
    drawn, indices = draw("none", 40, data.shape, stream), torch.arange(39, -1, -1)
    assert drawn == part(drawn, indices) == {}
    assert stream.random() == streams.generator("a").random()
    x = data.x[indices].to(dtype, memory_format=torch.channels_last)  # memory as convolutions want it, also for 1 channel
    x = x.sub(data.mean.to(dtype).view(-1, 1, 1)).div(data.std.to(dtype).view(-1, 1, 1))
    for result in (data.images(indices, dtype), data.images(indices, dtype, drawn)):
        assert torch.equal(result, x)
        assert result.stride() == x.stride()


# --- what is drawn ---


@pytest.mark.parametrize(("shape", "pads"), [((3, 32, 32), (4, 4)), ((1, 28, 28), (3, 3)), ((2, 17, 40), (2, 5))])
def test_offsets_and_flips_are_uniform_and_independent_of_each_other(shape, pads):
    cells = (2 * pads[0] + 1) * (2 * pads[1] + 1) * 2
    drawn = draw("crop_flip", 50 * cells, shape, streams.generator("tests", *shape))
    assert drawn.keys() == {"crop", "flip"}
    counts = Counter(zip(*drawn["crop"].T.tolist(), drawn["flip"].tolist(), strict=True))
    reach = {(d, r, f) for d in range(-pads[0], pads[0] + 1) for r in range(-pads[1], pads[1] + 1) for f in (False, True)}
    assert set(counts) == reach
    assert uniform(counts, cells)


def test_half_of_the_images_are_flipped_where_nothing_else_is_done():
    drawn = draw("flip", 40_000, (3, 32, 32), streams.generator("tests"))
    assert drawn.keys() == {"flip"}
    assert drawn["flip"].dtype == torch.bool
    assert abs(drawn["flip"].double().mean() - 0.5) < 4 * 0.5 / 40_000**0.5


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 6, 17)])
def test_the_centre_of_a_hole_is_any_pixel_with_the_same_probability(shape):
    _, height, width = shape
    drawn = draw("crop_flip_cutout", 30 * height * width, shape, streams.generator("tests"))
    counts = Counter(zip(*drawn["cutout"].T.tolist(), strict=True))
    assert set(counts) == {(row, column) for row in range(height) for column in range(width)}
    assert uniform(counts, height * width)


def test_draws_come_from_the_given_stream_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    drawn = [drawn_for("crop_flip_cutout", random_data(), 40) for _ in range(2)]
    random_data().images(torch.arange(40), torch.float32, drawn[0])
    assert equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert not equal(drawn[0], drawn_for("crop_flip_cutout", random_data(), 40, "another"))


# --- training ---


def watched(federation, clients, epochs=1, batch_size=8, name="crop_flip_cutout"):
    """What training shows to the loss: {client: [{position: image} an epoch]}."""
    by_name = {k: [] for k in clients}

    def noted(model, batch, context, options):
        for i, image in zip(batch.index.tolist(), batch.x, strict=True):
            if not by_name[context] or len(by_name[context][-1]) == len(federation.shares[context]):
                by_name[context].append({})
            by_name[context][-1][i] = image.clone()
        assert torch.equal(batch.y, federation.data.y[federation.shares[context][batch.index]])
        return loss(model, batch, None, options)

    flags = options_for("independent", augment=name, epoch_per_round=epochs, batch_size=batch_size)
    train(federation, clients, [federation.initial(k) for k in clients], noted, flags, context=list(clients))
    assert all(len(images) == len(federation.shares[k]) for k in clients for images in by_name[k])
    return by_name


def same_images(item, other):
    return item.keys() == other.keys() and all(torch.equal(item[i], other[i]) for i in item)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_training_sees_each_example_as_drawn_for_its_position_anew_every_epoch(name):
    federation = tiny_federation(model="MLP").at(3)
    recorded = watched(federation, [2, 0, 1], epochs=3, name=name)
    for k, share in enumerate(federation.shares):
        stream = federation.stream("augment", k)
        assert len(recorded[k]) == 3
        for images in recorded[k]:
            drawn = draw(name, len(share), federation.data.shape, stream)
            for i, image in images.items():
                assert torch.equal(image, one_image(federation.data, share[i], drawn, i, torch.float64))


def test_an_image_does_not_depend_on_the_size_of_batches_nor_on_who_else_trains():
    federation = tiny_federation(model="MLP")
    expected = watched(federation, [0, 1, 2], epochs=2)
    for clients, batch_size in (([2, 1, 0], 8), ([1], 8), ([0, 1, 2], 30), ([2, 0], 7), ([0], 1)):
        result = watched(federation, clients, epochs=2, batch_size=batch_size)
        for k in clients:
            assert all(same_images(*epoch) for epoch in zip(result[k], expected[k], strict=True))


def test_epochs_rounds_clients_seeds_and_parties_have_draws_of_their_own():
    alike = [range(20), range(20)]  # two clients with the same examples
    draws = []
    for federation in (
        tiny_federation(model="MLP", shares=alike).at(1),
        tiny_federation(model="MLP", shares=alike).at(2),
        tiny_federation(model="MLP", shares=alike, seed=1).at(1),
        tiny_federation(model="MLP", shares=alike).at(1).with_party("fine-tuning"),
    ):
        draws += [images for epochs in watched(federation, [0, 1], epochs=2).values() for images in epochs]
    assert len(draws) == 4 * 2 * 2
    assert not any(same_images(draws[a], draws[b]) for a in range(len(draws)) for b in range(a))


def test_augmentation_leaves_the_batches_as_they_are():
    orders = []
    for name in AUGMENTATIONS:
        recorded = watched(tiny_federation(model="MLP"), [0, 1, 2], epochs=2, name=name)
        orders.append(
            [list(images) for k in recorded for images in recorded[k]]
        )  # positions in the order in which they came
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize("name", CHANGING)
def test_a_step_of_training_is_that_of_a_step_on_the_changed_images(name):
    federation = tiny_federation(model="MLP")
    row, share = federation.initial(1), federation.shares[1]
    flags = options_for("independent", augment=name, batch_size=60)
    (trained,), _, _, _ = train(federation, [1], [row], loss, flags)
    (plain,), _, _, _ = train(federation, [1], [row], loss, options_for("independent", batch_size=60))
    drawn = draw(name, len(share), federation.data.shape, federation.stream("augment", 1))
    x = torch.stack([one_image(federation.data, index, drawn, i, torch.float64) for i, index in enumerate(share)])
    model = federation.model(1, row).train()
    model.zero_grad()
    nn.functional.cross_entropy(model(x)[1], federation.data.y[share]).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(trained[key], row[key] - 0.05 * parameter.grad, rtol=0, atol=1e-12)
        assert not torch.equal(trained[key], plain[key])


def test_a_resumed_run_gives_the_same_bits():
    flags, file = options_for("fedavg", augment="crop_flip_cutout", optimizer="adam", epoch_per_round=2), io.BytesIO()
    module = algorithms.module_of(flags)
    federation = tiny_federation(dtype=torch.float32)
    state = module.start(federation, flags)
    losses = []
    for r in (1, 2, 3):
        losses.append(module.communicate(federation.at(r), state, flags).loss)
        if r == 1:
            torch.save(state, file)
    file.seek(0)
    resumed, federation = torch.load(file, weights_only=True), tiny_federation(dtype=torch.float32)
    torch.rand(3)  # whatever else ran
    again = [module.communicate(federation.at(r), resumed, flags).loss for r in (2, 3)]
    assert torch.equal(torch.stack(again), torch.stack(losses[1:]))
    assert equal(resumed["server"], state["server"])


def test_training_leaves_torchs_own_generator_as_it_is():
    before = torch.get_rng_state()
    watched(tiny_federation(model="MLP"), [0, 1, 2], epochs=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_share_draws_for_nobody():
    assert watched(tiny_federation(model="MLP", shares=[[], range(10)]), [0, 1])[0] == []


# --- whatever is not training sees plain images ---


class Mirror(nn.Module):
    """Features are the image itself, noted in a list as it comes, by copies of the network too."""

    def __init__(self, recorded):
        super().__init__()
        self.note = recorded.append

    def forward(self, x):
        self.note(x.clone())
        return x.flatten(1)


def test_outputs_and_evaluation_see_plain_images():
    data, recorded = tiny_data(), []
    federation = Federation.of(data, [range(0, 60, 2)], [lambda: Net(Mirror(recorded), 144, 3)], dtype=torch.float64).at(1)
    flags, row = options_for("independent", augment="crop_flip_cutout"), federation.initial(0)
    (row,), _, _, _ = train(federation, [0], [row], loss, flags)
    plain = data.images(torch.arange(90), torch.float64)
    assert torch.equal(outputs(federation, 0, row).features, plain[federation.shares[0]].flatten(1))
    model = federation.model(0, row)
    recorded.clear()
    nothing = Shares.of([[]])
    evaluate(
        federation,
        SimpleNamespace(test=nothing, validation=nothing, test_set=None),
        Round([0], torch.zeros(1), {"a": lambda k: model}),
    )
    assert torch.equal(torch.cat(recorded), plain[60:])
