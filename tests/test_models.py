"""The zoo: sizes that were published, what `forward` gives, and each network written out the slow and obvious way."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import streams
from errors import UserError
from federation.meter import Meter
from models import (
    MODELS,
    BasicBlock,
    Bottleneck,
    Dropout,
    GlobalMean,
    HeadsNet,
    MaxPool,
    Net,
    ResBlock,
    StemNet,
    build,
    make,
    readers,
)

HAVE_HEADS = readers("heads")
GREY = (1, 28, 28)
WITH_STEM = {"ResNet4": (), "ResNet5": (1,), "ResNet8": (2,), "ResNet56": (6, 6, 6), "ResNet110": (12, 12, 12)}
WITHOUT_STEM = {"ResNet19": (2, 2, 2), "ResNet55": (6, 6, 6), "ResNet109": (12, 12, 12)}
BOTTLENECKS = {name: depths for name, depths in {**WITH_STEM, **WITHOUT_STEM}.items() if depths}  # a stage


def create(name, shape=GREY, n_classes=10, feature_dim=20, dtype=torch.float64, heads=False):
    with streams.torch_seeded("test", name):
        model = build(name, shape, n_classes, feature_dim, heads).to(dtype)
    model.drop_from(streams.generator("test"))
    return model


def random_images(n, shape, dtype=torch.float64):
    with streams.torch_seeded("images"):
        return torch.randn(n, *shape, dtype=dtype)


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


# --- sizes -------------------------------------------------------------------------------------------------------------


COLOUR = (3, 32, 32)


def resnet18_parameters(channels, feature_dim, n_classes=10):
    """Convolutions have no bias, and each a BatchNorm of two numbers a channel."""

    def conv(inputs, outputs, size=3):
        return inputs * size**2 * outputs + 2 * outputs

    plain = [conv(width, width) for width in (64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512)]
    halving = [conv(a, 2 * a) + conv(a, 2 * a, size=1) for a in (64, 128, 256)]
    linear = 512 * feature_dim + feature_dim + feature_dim * n_classes + n_classes
    return conv(channels, 64) + sum(plain) + sum(halving) + linear


def bottleneck_parameters(inputs, depths):
    """Of the blocks alone: 1x1, 3x3 and 1x1 of planes 16, 32, 64, and where the channels change a 1x1 beside them."""

    def conv(inputs, outputs, size=1):
        return inputs * size**2 * outputs + 2 * outputs

    total = 0
    for planes, depth in zip((16, 32, 64), depths, strict=False):
        for _ in range(depth):
            shortcut = conv(inputs, 4 * planes) if inputs != 4 * planes else 0
            total += conv(inputs, planes) + conv(planes, planes, size=3) + conv(planes, 4 * planes) + shortcut
            inputs = 4 * planes
    return total


GREY_STEM, COLOUR_STEM = 9 * 16 + 32, 27 * 16 + 32
BASIC = 2 * (9 * 16 * 16 + 32)


@pytest.mark.parametrize(
    ("name", "feature_dim", "n_parameters"),
    [
        # weights and biases layer by layer; the sums of LeNet5 and ResNet9 are those that the CFKD authors print
        ("LeNet5", 84, (25 * 6 + 6) + (6 * 25 * 16 + 16) + (16 * 9 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        ("LeNet5", 84, 30_986),
        ("LeNet5_classic", 84, (25 * 6 + 6) + (6 * 25 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        ("LeNet5_classic", 1, 61_706),
        ("ResNet9", 128, 2_470_730),
        ("ResNet18", 256, resnet18_parameters(1, 256)),
        ("MLP", 1, (784 * 200 + 200) + (200 * 10 + 10)),
        ("MLP", 1, 159_010),
        ("MLP_dropout", 1, 159_010),
        ("CNN_scratch", 1, (25 * 16 + 16) + (16 * 25 * 32 + 32) + (7 * 7 * 32 * 10 + 10)),
        ("CNN_scratch", 1, 28_938),
        ("2NN", 1, (784 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10)),
        ("2NN", 1, 199_210),
        ("CNN_McMahan", 1, (25 * 32 + 32) + (32 * 25 * 64 + 64) + (7 * 7 * 64 * 512 + 512) + (512 * 10 + 10)),
        ("CNN_McMahan", 1, 1_663_370),
        ("CNNMnist", 1, (25 * 10 + 10) + (10 * 25 * 20 + 20) + (4 * 4 * 20 * 50 + 50) + (50 * 10 + 10)),
        ("CNNMnist", 1, 21_840),
        ("ResNet4", 1, GREY_STEM + BASIC + (16 * 10 + 10)),
        ("ResNet4", 1, 5_306 - 2 * 9 * 16),
        ("ResNet5", 1, GREY_STEM + bottleneck_parameters(16, [1]) + (64 * 10 + 10)),
        ("ResNet8", 1, GREY_STEM + bottleneck_parameters(16, [2]) + (64 * 10 + 10)),
        ("ResNet8", 1, 10_298),
        ("ResNet56", 1, 591_034),
        ("ResNet110", 1, 1_147_450),
        ("ResNet19", 1, bottleneck_parameters(1, [2, 2, 2]) + (256 * 10 + 10)),
        # patches and positions; six blocks of attention, MLP and two norms; the last norm; the classifier
        ("ViT", 1, (16 * 64 + 64 + 49 * 64) + 6 * (4 * 64**2 + 64 + 4 * 64**2 + 192 + 4 * 64) + 128 + (64 * 10 + 10)),
    ],
)
def test_parameters_are_as_many_as_published(name, feature_dim, n_parameters):
    assert count(build(name, GREY, 10, feature_dim)) == n_parameters


@pytest.mark.parametrize(
    ("name", "feature_dim", "n_parameters"),
    [
        ("ResNet18", 256, resnet18_parameters(3, 256)),
        ("ResNet18", 256, 11_302_730),  # printed by the CFKD authors
        ("2NN", 1, (3072 * 200 + 200) + (200 * 200 + 200) + (200 * 10 + 10)),
        ("CNN_McMahan", 1, (75 * 32 + 32) + (32 * 25 * 64 + 64) + (8 * 8 * 64 * 512 + 512) + (512 * 10 + 10)),
        ("CNNMnist", 1, (75 * 10 + 10) + (10 * 25 * 20 + 20) + (5 * 5 * 20 * 50 + 50) + (50 * 10 + 10)),
    ],
)
def test_parameters_for_colour_images_are_as_many_as_published(name, feature_dim, n_parameters):
    assert count(build(name, COLOUR, 10, feature_dim)) == n_parameters


@pytest.mark.parametrize(
    ("name", "shape", "n_classes", "n_parameters"),
    [
        # the second numbers were measured on the authors' networks, but that their servers carry an idle stem of 464
        ("ResNet4", COLOUR, 10, COLOUR_STEM + BASIC + (16 * 10 + 10)),
        ("ResNet4", COLOUR, 10, 5_306),
        ("ResNet4", COLOUR, 100, 6_836),
        ("ResNet5", COLOUR, 10, COLOUR_STEM + (288 + 2_336 + 1_152 + 1_152) + (64 * 10 + 10)),
        ("ResNet5", COLOUR, 10, 6_042),
        ("ResNet8", COLOUR, 10, COLOUR_STEM + bottleneck_parameters(16, [2]) + (64 * 10 + 10)),
        ("ResNet8", COLOUR, 10, 10_586),
        ("ResNet8", COLOUR, 100, 16_436),
        ("ResNet56", COLOUR, 10, COLOUR_STEM + bottleneck_parameters(16, [6, 6, 6]) + (256 * 10 + 10)),
        ("ResNet56", COLOUR, 10, 591_322),
        ("ResNet56", COLOUR, 100, 614_452),
        ("ResNet110", COLOUR, 10, COLOUR_STEM + bottleneck_parameters(16, [12, 12, 12]) + (256 * 10 + 10)),
        ("ResNet110", COLOUR, 10, 1_147_738),
        ("ResNet110", COLOUR, 100, 1_170_868),
        ("ResNet19", (16, 32, 32), 10, bottleneck_parameters(16, [2, 2, 2]) + (256 * 10 + 10)),
        ("ResNet19", (16, 32, 32), 10, 219_914),
        ("ResNet55", (16, 32, 32), 10, 591_322 - 464),
        ("ResNet55", (16, 32, 32), 100, 614_452 - 464),
        ("ResNet109", (16, 32, 32), 10, 1_147_738 - 464),
        ("ResNet109", (16, 32, 32), 100, 1_170_868 - 464),
    ],
)
def test_the_networks_of_fedgkt_have_as_many_parameters_as_published(name, shape, n_classes, n_parameters):
    assert count(build(name, shape, n_classes, 1)) == n_parameters


def test_fedgkts_client_computes_9_to_17_times_less_than_the_networks_it_replaces():
    """Multiply-adds of the convolutions and the classifier for one image of 3x32x32, forward and of a step of training, and
    the ratios of the paper: 0.6, 5.4 and 10.2 petaFLOPs."""

    def multiply_adds(name, work):
        model, meter = build(name, COLOUR, 10, 1), Meter()
        meter.work(lambda: work(model), "client", 0, name)
        return meter.spent["flops", "client", 0] / 2

    def forward(model):
        model(torch.zeros(1, *COLOUR))

    def step(model):
        F.cross_entropy(model(torch.zeros(4, *COLOUR))[1], torch.arange(4)).backward()

    names = ("ResNet8", "ResNet56", "ResNet110")
    client, resnet56, resnet110 = (multiply_adds(name, forward) for name in names)
    first, second = 16 * 16 + 9 * 16 * 16 + 2 * 16 * 64, 64 * 16 + 9 * 16 * 16 + 16 * 64
    assert client == 32 * 32 * (27 * 16 + first + second) + 64 * 10
    assert [round(n / 1e6, 2) for n in (client, resnet56, resnet110)] == [9.62, 87.21, 167.43]
    assert [round(n / client, 2) for n in (resnet56, resnet110)] == [9.07, 17.41]
    # backward is the gradient of every layer's weights and of its input, but for the image
    steps = [multiply_adds(name, step) for name in names]
    assert steps == [4 * (3 * n - 32 * 32 * 27 * 16) for n in (client, resnet56, resnet110)]
    assert [round(n / steps[0], 1) for n in steps[1:]] == [9.2, 17.7]
    assert [round(n / steps[0], 1) for n in steps[1:]] == pytest.approx([5.4 / 0.6, 10.2 / 0.6], rel=0.05)
    parameters = [count(build(name, COLOUR, 10, 1)) for name in ("ResNet56", "ResNet110", "ResNet8")]
    assert [round(n / parameters[2], 1) for n in parameters[:2]] == [55.9, 108.4]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def maps_of_cnn4(height, width):
    """Their sizes after each of the four blocks, which halves where 2x2 or more is left."""
    sizes = []
    for _ in range(4):
        if height // 2 >= 2 and width // 2 >= 2:
            height, width = height // 2, width // 2
        sizes.append((height, width))
    return sizes


def features_of(name, shape, feature_dim):
    _, height, width = shape
    own = {"LeNet5_classic": 84, "MLP": 200, "MLP_dropout": 200, "2NN": 200, "CNN_McMahan": 512, "CNNMnist": 50}
    own["CNN_scratch"] = 32 * (height // 4) * (width // 4)
    own |= {"CNN4": 64 * math.prod(maps_of_cnn4(height, width)[-1]), "MobileNet": 1024, "ViT": 64}
    own |= {"ResNet4": 16} | {other: 64 * 2 ** (len(depths) - 1) for other, depths in BOTTLENECKS.items()}
    return own.get(name, feature_dim if name in readers("feature_dim") else None)  # None: not told here


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [GREY, (3, 28, 28), (3, 32, 32), (1, 64, 48), (3, 33, 30)])
def test_features_and_logits_have_their_shapes_for_images_of(name, shape):
    model = create(name, shape, n_classes=7)
    features, logits = model(random_images(2, shape))
    assert features.shape == (2, features_of(name, shape, 20) or model.classifier.in_features)
    assert logits.shape == (2, 7)
    assert model.classifier.in_features == features.shape[1]


@pytest.mark.parametrize("shape", [(3, 8, 8), (16, 8, 8), (16, 5, 7), (2, 1, 6)])
@pytest.mark.parametrize("name", [*WITH_STEM, *WITHOUT_STEM])
def test_the_networks_of_fedgkt_take_any_number_of_channels_and_small_maps(name, shape):
    features, logits = create(name, shape, n_classes=7)(random_images(2, shape))
    assert features.shape == (2, features_of(name, shape, 20))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_only_the_models_that_are_said_to_read_feature_dim(name):
    small, large = (build(name, GREY, 10, feature_dim).classifier.in_features for feature_dim in (5, 9))
    assert (small, large) == ((5, 9) if name in readers("feature_dim") else (small, small))


# --- what every model is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_classifier_on_the_features(name):
    model = create(name)
    features, logits = model(random_images(3, GREY))
    assert torch.equal(logits, model.classifier(features))
    torch.testing.assert_close(logits, features @ model.classifier.weight.T + model.classifier.bias)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_named_body_or_classifier(name):
    model = build(name, GREY, 10, 20)
    names = list(model.state_dict())
    assert {full.split(".")[0] for full in names} <= {"body", "classifier"}, "a body may have nothing to learn"
    assert [full for full in names if full.startswith("classifier.")] == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_for_training_and_untouched_by_being_tried_out(name):
    model = build(name, GREY, 10, 20)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for norm in layers(model, nn.BatchNorm2d):
        assert norm.num_batches_tracked == 0
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()


@pytest.mark.parametrize("name", MODELS)
def test_an_example_does_not_depend_on_its_batch_in_evaluation_mode(name):
    model, x = create(name).eval(), random_images(4, GREY)
    together = torch.cat(model(x), dim=1)
    alone = torch.cat([torch.cat(model(item.unsqueeze(0)), dim=1) for item in x])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name):
    model = create(name)  # with seeded masks, if any, which leave something of every unit in eight examples
    F.cross_entropy(model(random_images(8, GREY))[1], torch.arange(8)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_training_draws_from_the_stream_that_it_was_given_and_never_from_torchs_own(name):
    model, x, before = create(name), random_images(4, GREY), torch.get_rng_state()
    result = []
    for seed in (1, 1, 2):
        model.drop_from(np.random.default_rng(seed))
        result.append(torch.cat(model(x), dim=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(result[0], result[1])
    assert torch.equal(result[0], result[2]) == (not layers(model, Dropout)), "and a model without dropout from none"


# --- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("LeNet5", 4),  # two halvings
        ("LeNet5_classic", 12),  # (12 / 2 - 4) / 2 = 1
        ("ResNet9", 16),  # four halvings
        ("CNN_scratch", 4),
        ("CNN_McMahan", 4),
        ("CNNMnist", 16),  # ((16 - 4) / 2 - 4) / 2 = 1
    ],
)
def test_the_smallest_image_fits_and_a_smaller_one_is_a_user_error(name, least):
    build(name, (1, least, least), 10, 20)
    for shape in [(3, least - 1, least), (3, least, least - 1)]:
        with pytest.raises(UserError) as raised:
            build(name, shape, 10, 20)
        line = str(raised.value)
        assert len(line.splitlines()) == 1
        assert f"--model {name}" in line
        assert "3 channels" in line
        assert f"{shape[1]}x{shape[2]}" in line


@pytest.mark.parametrize("name", ["MLP", "2NN"])
def test_a_network_without_convolutions_fits_every_image(name):
    assert create(name, (1, 1, 1))(random_images(2, (1, 1, 1)))[1].shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "too_small"),
    [
        ("ResNet18", 8),  # three halvings, rounded up: of eight pixels one is left
        *((name, 4) for name in ("ResNet56", "ResNet110", "ResNet19", "ResNet55", "ResNet109")),
        *((name, 1) for name in ("ResNet4", "ResNet5", "ResNet8")),
    ],
)
def test_a_resnet_can_be_trained_on_a_single_example_of_whatever_it_takes(name, too_small):
    """Of a single pixel BatchNorm would have nothing to normalise over."""
    enough = too_small + 1
    for shape in [(3, enough, enough), (3, enough, 1), (3, 1, enough)]:
        features, _ = create(name, shape)(random_images(1, shape))
        assert torch.isfinite(features).all()
    for shape in [(3, too_small, too_small), (3, too_small, 1), (3, 1, too_small), (3, 1, 1)]:
        words = "is for images, not for vectors of 3 features"  # of a single pixel
        if shape != (3, 1, 1):
            words = f"does not fit .* 3 channels and {shape[1]}x{shape[2]} pixels"
        with pytest.raises(UserError, match=f"--model {name}: {words}"):
            build(name, shape, 10, 20)


# --- the slow and obvious way ------------------------------------------------------------------------------------------


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 6, 28, 28), (5, 16, 9, 7), (2, 64, 3, 2), (4, 1, 2, 2), (1, 1, 5, 5)])
def test_pooling_without_a_gradient_is_torchs_with_one(shape, dtype, layout):
    """Odd sides lose their last row and column, NaN wins, -inf loses; the result lies in memory as torch's does."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw).to(dtype, memory_format=layout)
    for value, share in ((math.nan, 0.05), (-math.inf, 0.4), (math.inf, 0.05), (0.0, 0.2)):
        x[torch.rand(shape, generator=draw) < share] = value
    with torch.no_grad():
        result = MaxPool()(x)
    torchs = F.max_pool2d(x, 2)
    torch.testing.assert_close(result, torchs, rtol=0, atol=0, equal_nan=True)
    assert result.stride() == torchs.stride()
    assert torch.equal(MaxPool()(x).isnan(), torchs.isnan())


def test_pooling_refuses_a_map_below_2x2_with_and_without_a_gradient():
    for with_gradient in (True, False):
        with torch.set_grad_enabled(with_gradient), pytest.raises(RuntimeError, match="too small"):
            MaxPool()(torch.zeros(1, 3, 1, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", [name for name in MODELS if layers(create(name, COLOUR), nn.MaxPool2d)])
def test_a_network_with_pooling_says_the_same_to_the_bit_without_a_gradient(name, precision, layout):
    model = create(name, COLOUR, dtype=torch.float32).to(memory_format=layout).eval()
    x, model.precision = random_images(9, COLOUR, torch.float32).contiguous(memory_format=layout), precision
    with torch.no_grad():
        result = model(x)
    assert all(torch.equal(item, other) for item, other in zip(result, model(x), strict=True))


def test_pooling_before_the_relu_gives_lenet5_the_same_bits_as_after():
    """The largest of several and max(., 0) are both monotone, so their order is of no consequence."""
    model, x = create("LeNet5"), random_images(5, GREY)
    first, second, third = layers(model.body, nn.Conv2d)
    hidden = F.max_pool2d(F.relu(F.conv2d(x, first.weight, first.bias, padding=2)), 2)
    hidden = F.max_pool2d(F.relu(F.conv2d(hidden, second.weight, second.bias, padding=2)), 2)
    hidden = F.relu(F.conv2d(hidden, third.weight, third.bias, padding=1)).mean(dim=(2, 3))
    (linear,) = layers(model.body, nn.Linear)
    assert torch.equal(model(x)[0], torch.tanh(F.linear(hidden, linear.weight, linear.bias)))


def test_lenet5_classic_is_conv_pool_conv_pool_and_three_linear_layers():
    model, x = create("LeNet5_classic"), random_images(5, GREY)
    first, second = layers(model.body, nn.Conv2d)
    hidden = F.max_pool2d(F.relu(F.conv2d(x, first.weight, first.bias, padding=2)), 2)
    hidden = F.max_pool2d(F.relu(F.conv2d(hidden, second.weight, second.bias)), 2).flatten(1)
    assert hidden.shape[1] == 400
    for linear in layers(model.body, nn.Linear):
        hidden = F.relu(F.linear(hidden, linear.weight, linear.bias))
    torch.testing.assert_close(model(x)[0], hidden)


def test_cnn_scratch_is_two_convolutions_and_mlp_one_hidden_layer():
    model, x = create("CNN_scratch"), random_images(5, GREY)
    hidden = x
    for conv in layers(model.body, nn.Conv2d):
        hidden = F.max_pool2d(F.relu(F.conv2d(hidden, conv.weight, conv.bias, padding=2)), 2)
    torch.testing.assert_close(model(x)[0], hidden.flatten(1))
    model = create("MLP")
    (linear,) = layers(model.body, nn.Linear)
    torch.testing.assert_close(model(x)[0], F.relu(x.flatten(1) @ linear.weight.T + linear.bias))


def test_2nn_is_two_hidden_layers_of_relus():
    model, x = create("2NN"), random_images(5, GREY)
    first, second = layers(model.body, nn.Linear)
    hidden = F.relu(x.flatten(1) @ first.weight.T + first.bias)
    torch.testing.assert_close(model(x)[0], F.relu(hidden @ second.weight.T + second.bias))


@pytest.mark.parametrize("shape", [GREY, (2, 13, 18)])
def test_cnn_mcmahan_is_two_convolutions_and_one_hidden_layer(shape):
    model, x = create("CNN_McMahan", shape), random_images(5, shape)
    hidden = x
    for conv in layers(model.body, nn.Conv2d):
        hidden = F.max_pool2d(F.relu(F.conv2d(hidden, conv.weight, conv.bias, padding=2)), 2)
    (linear,) = layers(model.body, nn.Linear)
    torch.testing.assert_close(model(x)[0], F.relu(hidden.flatten(1) @ linear.weight.T + linear.bias))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [GREY, (2, 17, 20)])
def test_cnnmnist_is_the_published_sequence_with_its_dropout_of_channels_before_the_second_pooling(shape, training):
    model, x = create("CNNMnist", shape).train(training), random_images(5, shape)
    model.drop_from(np.random.default_rng(7))
    draws = np.random.default_rng(7)

    def dropped(hidden, shape):
        kept = torch.from_numpy(draws.random(shape, dtype=np.float32)) >= 0.5  # every example and every layer its own
        return torch.where(kept, 2 * hidden, 0) if training else hidden

    first, second = layers(model.body, nn.Conv2d)
    (linear,) = layers(model.body, nn.Linear)
    hidden = F.relu(F.max_pool2d(F.conv2d(x, first.weight, first.bias), 2))
    hidden = dropped(F.conv2d(hidden, second.weight, second.bias), (5, 20, 1, 1))
    hidden = F.relu(F.max_pool2d(hidden, 2)).flatten(1)
    hidden = dropped(F.relu(hidden @ linear.weight.T + linear.bias), (5, 50))
    torch.testing.assert_close(model(x)[0], hidden)


def by_hand(model, training):
    """What is left of the model's convolutions, and a function that applies the next, without bias, and its BatchNorm."""
    convs, norms = iter(layers(model, nn.Conv2d)), iter(layers(model, nn.BatchNorm2d))

    def conv_bn(hidden, channels, stride=1, size=3):
        conv, norm = next(convs), next(norms)
        assert conv.weight.shape == (channels, hidden.shape[1], size, size)
        assert conv.bias is None
        return normalised(F.conv2d(hidden, conv.weight, stride=stride, padding=size // 2), norm, training)

    return convs, conv_bn


def normalised(x, norm, training):
    """Batch normalisation over everything but the channel, by its definition."""
    if training:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
    else:
        mean, variance = norm.running_mean, norm.running_var
    mean, scale, variance, shift = (v.view(-1, 1, 1) for v in (mean, norm.weight, variance, norm.bias))
    return (x - mean) / (variance + norm.eps).sqrt() * scale + shift


def shaken(module):
    """Batch normalisations with statistics, scales and shifts that would show if one were left out."""
    with streams.torch_seeded("norms"), torch.no_grad():
        for norm in layers(module, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.add_(torch.rand(tensor.shape, dtype=tensor.dtype))
    return module


@pytest.mark.parametrize("training", [True, False])
def test_a_resblock_has_its_relu_before_the_sum_and_none_after(training):
    with streams.torch_seeded("block"):
        block = shaken(ResBlock(3, 3).double()).train(training)
    x = random_images(4, (3, 6, 5))
    (conv1, conv2), (norm1, norm2) = layers(block, nn.Conv2d), layers(block, nn.BatchNorm2d)
    assert conv1.bias is None
    assert conv2.bias is None
    inner = F.relu(normalised(F.conv2d(x, conv1.weight, padding=1), norm1, training))
    residual = F.relu(normalised(F.conv2d(inner, conv2.weight, padding=1), norm2, training))
    result = block(x)
    torch.testing.assert_close(result, x + residual)
    assert (result < 0).any()  # a ReLU after the sum would leave none


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("outputs", "stride"), [(7, 2), (3, 2), (7, 3)])
def test_a_resblock_with_a_stride_has_a_normalised_convolution_for_a_shortcut(outputs, stride, training):
    with streams.torch_seeded("block"):
        block = shaken(ResBlock(3, outputs, stride).double()).train(training)
    x = random_images(4, (3, 6, 5))
    (conv1, conv2), (norm1, norm2) = layers(block.residual, nn.Conv2d), layers(block.residual, nn.BatchNorm2d)
    ((conv3,), (norm3,)) = layers(block.shortcut, nn.Conv2d), layers(block.shortcut, nn.BatchNorm2d)
    assert [conv.weight.shape for conv in (conv1, conv2, conv3)] == [
        (outputs, 3, 3, 3),
        (outputs, outputs, 3, 3),
        (outputs, 3, 1, 1),
    ]
    assert conv1.bias is conv2.bias is conv3.bias is None
    inner = F.relu(normalised(F.conv2d(x, conv1.weight, stride=stride, padding=1), norm1, training))
    residual = F.relu(normalised(F.conv2d(inner, conv2.weight, padding=1), norm2, training))
    every = x[:, :, ::stride, ::stride]  # a 1x1 convolution is a product, channel by channel, at each place
    shortcut = normalised(torch.einsum("oi,bihw->bohw", conv3.weight[:, :, 0, 0], every), norm3, training)
    result = block(x)
    assert result.shape == (4, outputs, -(-6 // stride), -(-5 // stride))
    torch.testing.assert_close(result, shortcut + residual)
    assert (result < 0).any(), "no ReLU after the sum, nor on the shortcut"


def test_the_names_of_resnet9s_weights_stay_as_runs_have_saved_them():
    block = [name for name in build("ResNet9", GREY, 10, 20).state_dict() if name.startswith("body.7.")]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    halves = [[f"{conv}.weight", *(f"{conv + 1}.{what}" for what in norm)] for conv in (0, 3)]
    assert block == [f"body.7.residual.{name}" for half in halves for name in half]


@pytest.mark.parametrize("training", [True, False])
def test_resnet9_is_the_published_sequence(training):
    """64, 128 | pool, block | 256 | pool | 256 | pool, block | pool, mean, linear, Tanh."""
    model, x = shaken(create("ResNet9")).train(training), random_images(2, (1, 16, 16))
    convs, norms = iter(layers(model, nn.Conv2d)), iter(layers(model, nn.BatchNorm2d))

    def unit(hidden, channels):
        conv, norm = next(convs), next(norms)
        assert conv.weight.shape == (channels, hidden.shape[1], 3, 3)
        assert conv.bias is None
        return F.relu(normalised(F.conv2d(hidden, conv.weight, padding=1), norm, training))

    def block(hidden):
        return hidden + unit(unit(hidden, hidden.shape[1]), hidden.shape[1])

    hidden = block(F.max_pool2d(unit(unit(x, 64), 128), 2))
    hidden = F.max_pool2d(unit(hidden, 256), 2)
    hidden = block(F.max_pool2d(unit(hidden, 256), 2))
    hidden = F.max_pool2d(hidden, 2).mean(dim=(2, 3))
    (linear,) = layers(model.body, nn.Linear)
    torch.testing.assert_close(model(x)[0], torch.tanh(F.linear(hidden, linear.weight, linear.bias)))
    assert next(convs, None) is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (9, 12)])
def test_resnet18_is_the_published_sequence(size, training):
    """64 | 64, 64 | 128 / 2, 128 | 256 / 2, 256 | 512 / 2, 512 | mean, linear, Tanh."""
    shape = (3, *size)
    model, x = shaken(create("ResNet18", shape)).train(training), random_images(2, shape)
    convs, conv_bn = by_hand(model, training)
    hidden = F.relu(conv_bn(x, 64))
    for channels, stride in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]:
        residual = F.relu(conv_bn(hidden, channels, stride))
        residual = F.relu(conv_bn(residual, channels))
        shortcut = hidden if stride == 1 else conv_bn(hidden, channels, stride, size=1)
        hidden = shortcut + residual
    (linear,) = layers(model.body, nn.Linear)
    hidden = hidden.mean(dim=(2, 3))
    torch.testing.assert_close(model(x)[0], torch.tanh(F.linear(hidden, linear.weight, linear.bias)))
    assert next(convs, None) is None


def projected(x, shortcut, stride, training):
    """BN(conv(x)), 1x1: a product, channel by channel, at each place that the stride leaves."""
    ((conv,), (norm,)) = layers(shortcut, nn.Conv2d), layers(shortcut, nn.BatchNorm2d)
    assert conv.weight.shape[1:] == (x.shape[1], 1, 1)
    assert conv.bias is None
    places = x[:, :, ::stride, ::stride]
    return normalised(torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], places), norm, training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("inputs", "planes", "stride", "projects"),
    [(12, 3, 1, False), (3, 3, 1, True), (3, 2, 2, True), (12, 3, 2, True), (12, 2, 1, True)],
)
def test_a_bottleneck_is_1x1_3x3_1x1_with_the_stride_in_the_middle_and_its_last_relu_after_the_sum(
    inputs, planes, stride, projects, training
):
    with streams.torch_seeded("block"):
        block = shaken(Bottleneck(inputs, planes, stride).double()).train(training)
    x = random_images(4, (inputs, 7, 5))
    before = x.clone()
    convs, norms = layers(block.residual, nn.Conv2d), layers(block.residual, nn.BatchNorm2d)
    shapes = [(planes, inputs, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)]
    assert [conv.weight.shape for conv in convs] == shapes
    assert [conv.bias for conv in convs] == [None] * 3
    narrow = torch.einsum("oi,bihw->bohw", convs[0].weight[:, :, 0, 0], x)
    narrow = F.relu(normalised(narrow, norms[0], training))
    narrow = F.relu(normalised(F.conv2d(narrow, convs[1].weight, stride=stride, padding=1), norms[1], training))
    residual = normalised(torch.einsum("oi,bihw->bohw", convs[2].weight[:, :, 0, 0], narrow), norms[2], training)
    shortcut = projected(x, block.shortcut, stride, training) if projects else x
    assert projects == bool(layers(block.shortcut, nn.Conv2d))
    result = block(x)
    assert result.shape == (4, 4 * planes, -(-7 // stride), -(-5 // stride))
    torch.testing.assert_close(result, torch.clamp(shortcut + residual, min=0))
    assert (residual < 0).any(), "none before the sum"
    assert torch.equal(x, before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("outputs", "stride", "projects"), [(3, 1, False), (7, 1, True), (3, 2, True), (7, 2, True)])
def test_a_basic_block_is_two_3x3_with_the_stride_in_the_first_and_its_last_relu_after_the_sum(
    outputs, stride, projects, training
):
    with streams.torch_seeded("block"):
        block = shaken(BasicBlock(3, outputs, stride).double()).train(training)
    x = random_images(4, (3, 7, 5))
    before = x.clone()
    (conv1, conv2), (norm1, norm2) = layers(block.residual, nn.Conv2d), layers(block.residual, nn.BatchNorm2d)
    assert [conv1.weight.shape, conv2.weight.shape] == [(outputs, 3, 3, 3), (outputs, outputs, 3, 3)]
    assert conv1.bias is conv2.bias is None
    inner = F.relu(normalised(F.conv2d(x, conv1.weight, stride=stride, padding=1), norm1, training))
    residual = normalised(F.conv2d(inner, conv2.weight, padding=1), norm2, training)
    shortcut = projected(x, block.shortcut, stride, training) if projects else x
    assert projects == bool(layers(block.shortcut, nn.Conv2d))
    result = block(x)
    assert result.shape == (4, outputs, -(-7 // stride), -(-5 // stride))
    torch.testing.assert_close(result, torch.clamp(shortcut + residual, min=0))
    assert (residual < 0).any(), "none before the sum"
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("_GN")])
def test_with_group_norm_a_network_is_its_own_but_for_its_normalisations(name):
    """Each of two groups of channels of an example has mean 0 and variance 1, and a scale and a shift per channel."""
    model, plain = create(name), create(name.removesuffix("_GN"))
    norms, replaced = layers(model, nn.GroupNorm), layers(plain, nn.BatchNorm2d)
    assert not layers(model, nn.BatchNorm2d)
    assert [norm.num_channels for norm in norms] == [norm.num_features for norm in replaced]
    assert count(model) == count(plain)
    assert {name: w.shape for name, w in model.named_parameters()} == {n: w.shape for n, w in plain.named_parameters()}
    x = random_images(3, (norms[0].num_channels, 5, 4))
    groups = norms[0].double()(x).unflatten(1, (2, -1)).flatten(2)
    torch.testing.assert_close(groups.mean(2), torch.zeros(3, 2, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(groups.var(2, correction=0), torch.ones(3, 2, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(28, 28), (32, 32)])
def test_vit_is_patches_six_blocks_and_the_mean_token(size):
    model, x = create("ViT", (3, *size)), random_images(2, (3, *size))
    patches, *blocks, norm, _ = model.body
    pixels = F.unfold(x, 4, stride=4).transpose(1, 2)  # [B, T, 3 * 4 * 4]
    tokens = pixels @ patches.embedding.weight.flatten(1).T + patches.embedding.bias + patches.position
    assert tokens.shape == (2, size[0] // 4 * (size[1] // 4), 64)
    for block in blocks:
        before, attention = block.attention
        heads = []
        q, k, v = (before(tokens) @ attention.qkv.weight.T).split(64, dim=2)
        for h in range(4):
            q_h, k_h, v_h = (part[:, :, 16 * h : 16 * (h + 1)] for part in (q, k, v))
            heads.append(F.softmax(torch.einsum("btd,bsd->bts", q_h, k_h) / 4, dim=2) @ v_h)
        tokens = tokens + attention.output(torch.cat(heads, dim=2))
        tokens = tokens + block.mlp(tokens)
    assert len(blocks) == 6
    torch.testing.assert_close(model(x)[0], norm(tokens).mean(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [*WITH_STEM, *WITHOUT_STEM])
def test_the_networks_of_fedgkt_are_their_published_sequences(name, training):
    """[16 |] bottlenecks of 64 | 128 / 2 | 256 / 2 | mean; or of ResNet4, 16 | a basic block of 16 | mean."""
    shape = (3, 9, 6)
    model, x = shaken(create(name, shape)).train(training), random_images(3, shape)
    convs, conv_bn = by_hand(model, training)
    hidden = F.relu(conv_bn(x, 16)) if name in WITH_STEM else x
    if name == "ResNet4":
        hidden = F.relu(hidden + conv_bn(F.relu(conv_bn(hidden, 16)), 16))
    for stage, depth in enumerate(BOTTLENECKS.get(name, ())):
        planes = (16, 32, 64)[stage]
        for place in range(depth):
            stride = 2 if stage in (1, 2) and place == 0 else 1
            residual = F.relu(conv_bn(F.relu(conv_bn(hidden, planes, size=1)), planes, stride))
            residual = conv_bn(residual, 4 * planes, size=1)
            shortcut = conv_bn(hidden, 4 * planes, stride, size=1) if place == 0 else hidden
            hidden = F.relu(shortcut + residual)
    assert hidden.shape[2:] == ((3, 2) if len(BOTTLENECKS.get(name, ())) == 3 else (9, 6))
    torch.testing.assert_close(model(x)[0], hidden.mean(dim=(2, 3)))
    assert next(convs, None) is None
    assert not layers(model.body, nn.Linear)


@pytest.mark.parametrize("name", [*WITH_STEM, *WITHOUT_STEM])
def test_the_convolutions_of_fedgkts_networks_start_normal_with_two_over_fan_out_for_a_variance(name):
    model = create(name, (16, 8, 8))
    scaled = []
    for conv in layers(model, nn.Conv2d):
        outputs, _, size, _ = conv.weight.shape
        scaled.append(conv.weight.detach().flatten() / (2 / (outputs * size**2)) ** 0.5)
        assert abs(scaled[-1].std().item() - 1) < 5 / (2 * scaled[-1].numel()) ** 0.5
    numbers = torch.cat(scaled)
    assert abs(numbers.mean().item()) < 5 / len(numbers) ** 0.5
    assert abs((numbers**4).mean().item() - 3) < 5 * (96 / len(numbers)) ** 0.5, "normal; a uniform one would have 1.8"
    for norm in layers(model, nn.BatchNorm2d):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


# --- a stem and a tail ---


@pytest.mark.parametrize("name", MODELS)
def test_the_models_with_a_stem_have_the_attribute_and_the_others_have_none(name):
    model = build(name, GREY, 10, 20)
    assert (
        isinstance(model, StemNet)
        == hasattr(model, "stem")
        == hasattr(model, "tail")
        == (name.removesuffix("_GN") in WITH_STEM)
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", WITH_STEM)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_is_its_tail_on_its_stem_to_the_bit(name, dtype, training):
    shape = (3, 9, 10)
    model, x = shaken(create(name, shape, dtype=dtype)).train(training), random_images(4, shape, dtype)
    maps = model.stem(x)
    assert maps.shape == (4, 16, 9, 10)
    (conv,), (norm,) = layers(model.stem, nn.Conv2d), layers(model.stem, nn.BatchNorm2d)
    torch.testing.assert_close(maps, F.relu(normalised(F.conv2d(x, conv.weight, padding=1), norm, training)))
    for result, expected in zip(model.tail(maps), model(x), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", WITH_STEM)
def test_the_tail_leaves_the_map_as_it_is_and_teaches_the_stem(name, training):
    """The map goes on to a server, so nothing may be done to it in place."""
    model, x = create(name, (3, 8, 8)).train(training), random_images(4, (3, 8, 8))
    leaf = (random_images(4, (16, 8, 8)) + 0.1).requires_grad_()  # with negative numbers too, that a ReLU would show in
    before = leaf.detach().clone()
    F.cross_entropy(model.tail(leaf)[1], torch.arange(4)).backward()
    assert torch.equal(leaf, before)
    assert leaf.grad.abs().sum() > 0
    with torch.no_grad():
        sent = model.stem(x)
        before = sent.clone()
        model.tail(sent)
    assert torch.equal(sent, before)
    whole, parts = [], []
    for result, grads in ((model(x)[1], whole), (model.tail(model.stem(x))[1], parts)):
        grads += torch.autograd.grad(F.cross_entropy(result, torch.arange(4)), list(model.parameters()))
    assert all(torch.equal(item, other) for item, other in zip(whole, parts, strict=True))


@pytest.mark.parametrize("name", WITH_STEM)
def test_no_parameter_of_a_model_with_a_stem_is_named_twice(name):
    model = build(name, COLOUR, 10, 20)
    named = list(model.named_parameters(remove_duplicate=False))
    assert len({id(parameter) for _, parameter in named}) == len(named)
    assert len({tensor.data_ptr() for tensor in model.state_dict().values()}) == len(model.state_dict())
    stem = [name for name, _ in named if name.startswith("body.0.")]
    assert stem == ["body.0.0.weight", "body.0.1.weight", "body.0.1.bias"]
    assert [id(model.get_parameter(name)) for name in stem] == [id(parameter) for parameter in model.stem.parameters()]


@pytest.mark.parametrize(("whole", "server"), [("ResNet56", "ResNet55"), ("ResNet110", "ResNet109")])
def test_fedgkts_server_is_the_whole_network_without_its_stem(whole, server):
    model, x = shaken(create(whole, (3, 8, 8))).eval(), random_images(3, (3, 8, 8))
    rest = create(server, (16, 8, 8)).eval()
    named = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("body.0.")}
    rest.load_state_dict({name.replace("body.1.", "body.", 1): tensor for name, tensor in named.items()})
    for result, expected in zip(rest(model.stem(x)), model(x), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("name", ["LeNet5", "ResNet9", "ResNet18"])
def test_features_end_in_a_tanh_and_so_lie_between_minus_one_and_one(name):
    model = create(name).eval()
    (linear,) = layers(model.body, nn.Linear)
    with torch.no_grad():
        linear.weight.mul_(1e6)  # far out, where only the bound is left
    features, _ = model(random_images(3, GREY))
    torch.testing.assert_close(features.abs(), torch.ones_like(features))
    assert (features < 0).any()
    assert (features > 0).any()


# --- dropout ---


def dropping(p=0.3, channels=False, seed=0):
    dropout = Dropout(p, channels)
    dropout.stream = np.random.default_rng(seed)
    return dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [True, False])
def test_dropout_zeroes_a_share_of_p_and_keeps_the_expectation(channels, dtype):
    x = torch.full((200, 500, 1, 1) if channels else (200, 500), 2.0, dtype=dtype)
    result = dropping(0.3, channels)(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result[result != 0], torch.full_like(result[result != 0], 2 / (1 - 0.3)))
    five_deviations = 5 * (0.3 * 0.7 / 1e5) ** 0.5
    assert abs((result == 0).double().mean().item() - 0.3) < five_deviations
    assert abs(result.double().mean().item() - 2) < five_deviations * 2 / (1 - 0.3)


def test_dropout_of_channels_takes_whole_channels_of_single_examples():
    kept = dropping(0.5, channels=True)(torch.ones(20, 30, 4, 6)) != 0
    assert torch.equal(kept, kept[:, :, :1, :1].expand_as(kept))
    whole = kept[:, :, 0, 0]
    for pattern in (whole, whole.T):
        assert len({tuple(row.tolist()) for row in pattern}) == len(pattern), (
            "examples and channels each have their own fate"
        )


def test_dropout_of_numbers_takes_each_by_itself():
    kept = dropping(0.5)(torch.ones(20, 30, 4, 6)) != 0
    shares = kept.double().mean(dim=(2, 3))
    assert ((shares > 0) & (shares < 1)).any(dim=1).all()  # whole channels alone would give 0 or 1


@pytest.mark.parametrize("channels", [True, False])
def test_dropout_does_nothing_and_draws_nothing_in_evaluation_mode(channels):
    dropout, x = dropping(0.5, channels).eval(), random_images(3, (4, 5, 5))
    assert torch.equal(dropout(x), x)
    assert dropout.stream.random() == np.random.default_rng(0).random()
    dropout.stream = None
    assert torch.equal(dropout(x), x)


@pytest.mark.parametrize("channels", [True, False])
def test_dropout_draws_the_same_masks_from_the_same_stream_and_new_ones_every_time(channels):
    x, before = random_images(6, (20, 5, 5)), torch.get_rng_state()
    create_single, same, other = dropping(0.5, channels, 1), dropping(0.5, channels, 1), dropping(0.5, channels, 2)
    first, second = create_single(x), create_single(x)
    assert torch.equal(same(x), first)
    assert torch.equal(same(x), second)
    assert not torch.equal(first, second)
    assert not torch.equal(other(x), first)
    assert torch.equal(torch.get_rng_state(), before), "none of torch's"
    single = dropping(0.5, channels, 1)(x.float())
    assert torch.equal(single != 0, first != 0), "whatever the precision"


@pytest.mark.parametrize("channels", [True, False])
def test_the_gradient_of_dropout_is_its_mask(channels):
    x = random_images(6, (20, 5, 5)).requires_grad_()
    dropping(0.3, channels)(x).sum().backward()
    torch.testing.assert_close(x.grad, dropping(0.3, channels)(torch.ones_like(x)))
    assert (x.grad == 0).any()


def test_the_mask_is_where_the_numbers_are():
    assert dropping()(torch.ones(3, 2, device="meta")).device.type == "meta"


@pytest.mark.parametrize(("channels", "torchs"), [(True, F.dropout2d), (False, F.dropout)])
def test_without_a_stream_dropout_is_torchs(channels, torchs):
    dropout, x = Dropout(0.3, channels), random_images(6, (20, 5, 5))
    assert dropout.stream is None
    with streams.torch_seeded("one"):
        result = dropout(x)
    with streams.torch_seeded("one"):
        assert torch.equal(result, torchs(x, 0.3))
    assert (result == 0).any()


def test_a_model_hands_its_stream_to_every_dropout_and_they_draw_from_it_in_turn():
    inner = nn.Sequential(nn.Sequential(Dropout(0.5)), nn.Flatten(), Dropout(0.5))
    model, stream = Net(inner, 40, 2), np.random.default_rng(3)
    model.drop_from(stream)
    assert all(dropout.stream is stream for dropout in layers(model, Dropout))
    expected = np.random.default_rng(3)
    both = [torch.from_numpy(expected.random(shape, dtype=np.float32)) >= 0.5 for shape in ((7, 40, 1, 1), (7, 40))]
    features, _ = model(torch.ones(7, 40, 1, 1))
    assert torch.equal(features, 4.0 * (both[0].flatten(1) & both[1]))


def test_a_model_that_was_just_built_has_no_stream():
    assert all(dropout.stream is None for dropout in layers(build("CNNMnist", GREY, 10, 20), Dropout))


# --- networks that can be had with auxiliary heads ---------------------------------------------------------------------

TAPPED = {"CNN4": (0, 1, 2), "MobileNet": (4, 7, 10)}  # modules of the body; MobileNet's first is the plain convolution
DEPTH = {"CNN4": 4, "MobileNet": 14}
SEPARABLE = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def with_heads(name, shape=COLOUR, n_classes=10, **others):
    return create(name, shape, n_classes, heads=True, **others)


def outputs_of(modules, work):
    """(inputs, outputs) of each of these modules while `work()` is done."""
    inputs, outputs = {}, {}

    def hook(module, arguments, result):
        inputs[module], outputs[module] = arguments[0].detach().clone(), result.detach().clone()

    hooks = [module.register_forward_hook(hook) for module in modules]
    work()
    for item in hooks:
        item.remove()
    return [inputs[module] for module in modules], [outputs[module] for module in modules]


def test_cnn4_and_mobilenet_can_be_had_with_heads_and_no_other():
    assert HAVE_HEADS == ("CNN4", "MobileNet")
    for name in ("LeNet5", "ResNet8"):
        assert not isinstance(build(name, GREY, 10, 20, heads=True), HeadsNet)
        assert not isinstance(make(name, GREY, 10, 20, heads=True), HeadsNet)
    for name in HAVE_HEADS:
        for maker in (build, make):
            assert isinstance(maker(name, GREY, 10, 20, heads=True), HeadsNet)
            assert type(maker(name, GREY, 10, 20)) is Net, "and without unless they are asked for"
        assert type(MODELS[name](GREY, 10)) is Net


CNN4_BODY = (27 * 64 + 64 + 128) + 3 * (9 * 64 * 64 + 64 + 128)
MOBILENET_BODY = (27 * 32 + 64) + sum(
    (9 * inputs + 2 * inputs) + (inputs * outputs + 2 * outputs)  # one filter a channel, then 1x1, each with its BN
    for inputs, (outputs, _) in zip((32, *(width for width, _ in SEPARABLE)), SEPARABLE, strict=False)
)


@pytest.mark.parametrize(
    ("name", "n_classes", "heads", "body", "head"),
    [
        ("CNN4", 10, False, CNN4_BODY, 2 * 2 * 64 * 10 + 10),
        ("CNN4", 10, False, 113_088, 115_658 - 113_088),
        ("CNN4", 10, True, CNN4_BODY, 3 * 64 * 11 + 2 * 2 * 64 * 10 + 10),
        ("CNN4", 10, True, 113_088, 117_770 - 113_088),
        ("CNN4", 7, True, CNN4_BODY, 3 * 64 * 8 + 2 * 2 * 64 * 7 + 7),
        ("MobileNet", 100, False, MOBILENET_BODY, 1024 * 100 + 100),
        ("MobileNet", 100, False, 3_206_976, 3_309_476 - 3_206_976),
        ("MobileNet", 100, True, MOBILENET_BODY, (256 + 512 + 512) * 101 + 1024 * 100),
        ("MobileNet", 100, True, 3_206_976, 231_680),
        ("MobileNet", 100, True, 3_206_976, 3_438_656 - 3_206_976),
        ("MobileNet", 7, True, MOBILENET_BODY, (256 + 512 + 512) * 8 + 1024 * 7),
    ],
)
def test_networks_with_and_without_heads_have_as_many_parameters_as_published(name, n_classes, heads, body, head):
    model = build(name, COLOUR, n_classes, 1, heads)
    assert count(model.body) == body
    assert count(model) == body + head


@pytest.mark.parametrize(
    ("name", "heads", "biases"),
    [
        ("CNN4", False, [*(f"body.{block}.0.bias" for block in range(4)), "classifier.bias"]),
        ("CNN4", True, [*(f"body.{block}.0.bias" for block in range(4)), "classifier.bias"]),
        ("MobileNet", False, ["classifier.bias"]),
        ("MobileNet", True, []),
    ],
)
def test_the_biases_of_convolutions_and_linear_layers_are_those_that_the_counts_tell(name, heads, biases):
    model = build(name, COLOUR, 10, 1, heads)
    of_layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [f"{name}.bias" for name, layer in of_layers if layer.bias is not None] == biases


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("CNN4", [(64, 16, 16), (64, 8, 8), (64, 4, 4)]),
        ("MobileNet", [(256, 8, 8), (512, 4, 4), (512, 4, 4)]),
    ],
)
def test_each_head_reads_the_map_of_another_block_as_it_leaves_it(name, maps, training):
    model, x = shaken(with_heads(name)).train(training), random_images(2, COLOUR)
    _, left = outputs_of([model.body[place] for place in TAPPED[name]], lambda: model.every_head(x))
    read, _ = outputs_of(list(model.heads), lambda: model.every_head(x))
    for map_left, map_read, shape in zip(left, read, maps, strict=True):
        assert map_read.shape == (2, *shape)
        assert torch.equal(map_read, map_left)


@pytest.mark.parametrize("name", HAVE_HEADS)
def test_a_head_teaches_the_blocks_before_it_and_none_after(name):
    model, x = with_heads(name, (3, 20, 20)), random_images(4, (3, 20, 20))
    for head, (place, logits) in enumerate(zip((*TAPPED[name], DEPTH[name]), model.every_head(x), strict=True)):
        value, named = F.cross_entropy(logits, torch.arange(4)), dict(model.named_parameters())
        gradients = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
        result = dict(zip(named, gradients, strict=True))
        for block in range(DEPTH[name]):
            of_block = [gradient for name, gradient in result.items() if name.startswith(f"body.{block}.")]
            if block > place:
                assert all(gradient is None for gradient in of_block)
            else:
                assert any(gradient.abs().max() > 1e-8 for gradient in of_block)
        taught = {name.rpartition(".")[0] for name, gradient in result.items() if gradient is not None}
        own = "classifier" if head == 3 else f"heads.{head}.1"
        assert {name for name in taught if not name.startswith("body.")} == {own}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", HAVE_HEADS)
def test_the_last_of_the_heads_is_the_classifier_that_forward_has(name, training):
    model, x = with_heads(name, (3, 20, 20)).train(training), random_images(4, (3, 20, 20))
    result = model.every_head(x)
    assert [logits.shape for logits in result] == [(4, 10)] * 4
    assert torch.equal(result[-1], model(x)[1])
    features, logits = model(x)
    expected = features @ model.classifier.weight.T
    torch.testing.assert_close(logits, expected if model.classifier.bias is None else expected + model.classifier.bias)


@pytest.mark.parametrize("name", ["LeNet5", "ResNet8", "CNNMnist", *HAVE_HEADS])
def test_a_network_with_one_head_has_its_logits_for_every_head(name):
    model, x = create(name).eval(), random_images(3, GREY)
    (logits,) = model.every_head(x)
    assert torch.equal(logits, model(x)[1])


@pytest.mark.parametrize("n_classes", [2, 7, 10, 100])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", HAVE_HEADS)
def test_a_heads_last_output_is_a_temperature_of_each_image_in_training_alone(name, training, n_classes):
    shape = (3, 20, 20)
    model, x = shaken(with_heads(name, shape, n_classes)).train(training), random_images(3, shape)
    maps, _ = outputs_of(list(model.heads), lambda: model.every_head(x))
    for head, map_read, result in zip(model.heads, maps, model.every_head(x), strict=False):
        weights = head[1].weight.detach()
        assert weights.shape == (n_classes + 1, map_read.shape[1])
        for b in range(3):
            mean = [map_read[b, channel].mean().item() for channel in range(map_read.shape[1])]
            u = [sum(w * m for w, m in zip(row.tolist(), mean, strict=True)) for row in weights]
            divisor = 1 / (1 + math.exp(-u[n_classes])) + 1e-3 if training else 1
            torch.testing.assert_close(result[b].tolist(), [u[c] / divisor for c in range(n_classes)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", HAVE_HEADS)
def test_what_is_scaled_depends_on_the_model_and_not_on_whether_its_heads_are_frozen(name):
    """Frozen parts compute as in evaluation, and heads are frozen in all rounds."""
    model, x = with_heads(name, (3, 20, 20)), random_images(3, (3, 20, 20))
    expected = model.every_head(x)
    for part in (model.heads, model.classifier):
        part.eval()
    for result, scaled in zip(model.every_head(x), expected, strict=True):
        assert torch.equal(result, scaled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_logits_and_gradients_stay_finite_however_far_out_a_temperature_is(far, dtype):
    model = with_heads("CNN4", GREY, dtype=dtype)
    u = random_images(4, (11,), dtype)
    u[:, -1] = far
    u.requires_grad_()
    logits = model.scaled(u)
    torch.testing.assert_close(logits, u[:, :10] / ((far > 0) + 1e-3))
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert torch.isfinite(u.grad).all()


@pytest.mark.parametrize("name", HAVE_HEADS)
def test_the_initial_weights_of_what_both_have_are_the_same_bits_with_and_without_heads(name):
    alone, among = create(name, COLOUR).state_dict(), with_heads(name).state_dict()
    shared = alone.keys() & among.keys()
    assert alone.keys() - shared == ({"classifier.bias"} if name == "MobileNet" else set())
    assert among.keys() - shared == {f"heads.{head}.1.weight" for head in range(3)}
    assert all(torch.equal(alone[key], among[key]) for key in shared)


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize(("name", "norms"), [("CNN4", 4), ("MobileNet", 27), ("LeNet5", 0), ("ResNet8", 8)])
def test_body_and_head_are_all_of_a_network_and_its_normalisations_lie_in_the_body(name, norms, heads):
    model = build(name, COLOUR, 10, 20, heads)
    body, head, full, bn = (model.names(part) for part in ("body", "head", "full", "bn"))
    assert full == set(model.state_dict())
    assert body | head == full
    assert not body & head
    assert body == {f"body.{key}" for key in model.body.state_dict()}
    auxiliary = {f"heads.{place}.1.weight" for place in range(3)} if heads and name in HAVE_HEADS else set()
    bias = {"classifier.bias"} if model.classifier.bias is not None else set()
    assert head == {"classifier.weight"} | bias | auxiliary
    assert bn < body
    ends = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert len(bn) == norms * len(ends) == sum(len(norm.state_dict()) for norm in layers(model, nn.BatchNorm2d))
    assert {key.rpartition(".")[2] for key in bn} == (set(ends) if norms else set())
    assert all(f"{key.rpartition('.')[0]}.running_mean" in full for key in bn)


@pytest.mark.parametrize("name", HAVE_HEADS)
def test_every_parameter_of_a_network_with_heads_learns_its_temperatures_too(name):
    model = with_heads(name, (3, 20, 20))
    result = model.every_head(random_images(8, (3, 20, 20)))
    sum(F.cross_entropy(logits, torch.arange(8)) for logits in result).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert all((head[1].weight.grad[-1] != 0).any() for head in model.heads)


@pytest.mark.parametrize("name", HAVE_HEADS)
def test_a_network_with_heads_is_built_for_training_and_its_heads_say_the_same_of_an_example_alone(name):
    model, x = with_heads(name, (3, 20, 20)), random_images(3, (3, 20, 20))
    assert all(module.training for module in model.modules())
    for norm in layers(model, nn.BatchNorm2d):
        assert norm.num_batches_tracked == 0
        assert (norm.running_var == 1).all()
    together = torch.stack(shaken(model).eval().every_head(x))
    torch.testing.assert_close(together, torch.cat([torch.stack(model.every_head(item.unsqueeze(0))) for item in x], dim=1))


@pytest.mark.parametrize("name", HAVE_HEADS)
def test_with_bf16_all_of_the_body_is_computed_in_it_and_the_heads_are_not(name):
    model = with_heads(name, dtype=torch.float32).eval()
    x = random_images(4, COLOUR, torch.float32)
    expected = model.every_head(x)
    model.precision = "bf16"
    read, _ = outputs_of([*model.heads, model.classifier], lambda: model.every_head(x))
    for values in read:
        assert values.dtype == torch.float32
        assert torch.equal(values.bfloat16().float(), values)
    for result, exact in zip(model.every_head(x), expected, strict=True):
        assert result.dtype == torch.float32
        assert not torch.equal(result, exact)
        torch.testing.assert_close(result, exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        ((32, 32), [(16, 16), (8, 8), (4, 4), (2, 2)]),
        ((28, 28), [(14, 14), (7, 7), (3, 3), (3, 3)]),
        ((12, 12), [(6, 6), (3, 3), (3, 3), (3, 3)]),
        ((8, 8), [(4, 4), (2, 2), (2, 2), (2, 2)]),
        ((4, 4), [(2, 2)] * 4),
        ((3, 3), [(3, 3)] * 4),
        ((64, 48), [(32, 24), (16, 12), (8, 6), (4, 3)]),
        ((40, 12), [(20, 6), (10, 3), (10, 3), (10, 3)]),  # the shorter side decides
        ((12, 40), [(6, 20), (3, 10), (3, 10), (3, 10)]),
    ],
)
@pytest.mark.parametrize("heads", [True, False])
def test_cnn4_pools_only_where_2x2_is_left(size, maps, heads):
    model, x = create("CNN4", (3, *size), heads=heads), random_images(2, (3, *size))
    _, outputs = outputs_of([model.body[block] for block in range(4)], lambda: model(x))
    assert [map_left.shape for map_left in outputs] == [(2, 64, *map_size) for map_size in maps]
    assert maps_of_cnn4(*size) == maps
    assert len(layers(model, nn.MaxPool2d)) == sum(item != other for item, other in zip([size, *maps], maps, strict=False))
    assert model(x)[0].shape == (2, 64 * math.prod(maps[-1]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (13, 18)])
def test_cnn4_is_four_convolutions_each_with_batchnorm_relu_and_pooling(size, training):
    shape = (3, *size)
    model, x = shaken(with_heads("CNN4", shape)).train(training), random_images(5, shape)
    hidden, sizes = x, [size, *maps_of_cnn4(*size)]
    convs, norms = layers(model, nn.Conv2d), layers(model, nn.BatchNorm2d)
    for conv, norm, before, after in zip(convs, norms, sizes, sizes[1:], strict=False):
        assert conv.weight.shape == (64, hidden.shape[1], 3, 3)
        hidden = F.relu(normalised(F.conv2d(hidden, conv.weight, conv.bias, padding=1), norm, training))
        hidden = hidden if before == after else F.max_pool2d(hidden, 2)
    assert len(convs) == len(norms) == 4
    torch.testing.assert_close(model(x)[0], hidden.flatten(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (17, 5)])
def test_mobilenet_is_a_convolution_and_thirteen_depthwise_separable_blocks(size, training):
    shape = (3, *size)
    model, x = shaken(with_heads("MobileNet", shape)).train(training), random_images(3, shape)
    convs, norms = iter(layers(model, nn.Conv2d)), iter(layers(model, nn.BatchNorm2d))
    first = next(convs)
    assert first.weight.shape == (32, 3, 3, 3)
    hidden = F.relu(normalised(F.conv2d(x, first.weight, padding=1), next(norms), training))
    for channels, stride in SEPARABLE:
        depthwise, pointwise = next(convs), next(convs)
        assert depthwise.weight.shape == (hidden.shape[1], 1, 3, 3), "a filter a channel"
        filtered = F.conv2d(hidden, depthwise.weight, stride=stride, padding=1, groups=hidden.shape[1])
        hidden = F.relu(normalised(filtered, next(norms), training))
        assert pointwise.weight.shape == (channels, hidden.shape[1], 1, 1)
        hidden = torch.einsum("oi,bihw->bohw", pointwise.weight[:, :, 0, 0], hidden)
        hidden = F.relu(normalised(hidden, next(norms), training))
    torch.testing.assert_close(model(x)[0], hidden.mean(dim=(2, 3)))
    assert next(convs, None) is next(norms, None) is None


@pytest.mark.parametrize("heads", [True, False])
def test_mobilenet_takes_images_from_17x17_on_and_can_be_trained_on_a_single_one(heads):
    """Of a single pixel BatchNorm would have nothing to normalise over; four halvings, rounded up, leave one of sixteen."""
    for shape in [(3, 17, 17), (3, 17, 1), (3, 1, 17)]:
        model = create("MobileNet", shape, heads=heads)
        assert all(torch.isfinite(logits).all() for logits in model.every_head(random_images(1, shape)))
    for shape in [(3, 16, 16), (3, 16, 1), (1, 8, 8)]:
        with pytest.raises(UserError) as raised:
            build("MobileNet", shape, 10, 1, heads)
        size = "x".join(map(str, shape[1:]))
        assert str(raised.value) == f"--model MobileNet: does not fit images of {shape[0]} channels and {size} pixels"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (64, 64, 8, 8), (2, 120, 1, 1), (1, 16, 7, 7)])
def test_the_global_mean_has_the_bits_of_a_mean_and_a_gradient_in_the_layout_of_channels_last(shape, layout, dtype):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    ours, plain = (maps.to(memory_format=layout, copy=True).requires_grad_() for _ in range(2))
    means, expected = GlobalMean()(ours), plain.mean(dim=(2, 3))
    slope = torch.randn(means.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    (gradient,), (expected_gradient,) = torch.autograd.grad(means, ours, slope), torch.autograd.grad(expected, plain, slope)
    assert torch.equal(means, expected)
    assert torch.equal(gradient, expected_gradient)
    assert gradient.is_contiguous(memory_format=torch.channels_last), "what comes before works on one layout"
