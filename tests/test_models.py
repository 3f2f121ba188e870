"""The zoo: sizes that were published, what `forward` gives, and each network written out the slow and obvious way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import streams
from errors import UserError
from models import MODELS, READ_FEATURE_DIM, ResBlock, build

GREY = (1, 28, 28)


def made(name, shape=GREY, n_classes=10, feature_dim=20, dtype=torch.float64):
    with streams.torch_seeded("test", name):
        return build(name, shape, n_classes, feature_dim).to(dtype)


def random_images(n, shape, dtype=torch.float64):
    with streams.torch_seeded("images"):
        return torch.randn(n, *shape, dtype=dtype)


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


# --- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "feature_dim", "n_parameters"),
    [
        # weights and biases layer by layer; the sums of LeNet5 and ResNet9 are those that the CFKD authors print
        ("LeNet5", 84, (25 * 6 + 6) + (6 * 25 * 16 + 16) + (16 * 9 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        ("LeNet5", 84, 30_986),
        ("LeNet5_classic", 84, (25 * 6 + 6) + (6 * 25 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        ("LeNet5_classic", 1, 61_706),
        ("ResNet9", 128, 2_470_730),
        ("MLP", 1, (784 * 200 + 200) + (200 * 10 + 10)),
        ("MLP", 1, 159_010),
        ("CNN_scratch", 1, (25 * 16 + 16) + (16 * 25 * 32 + 32) + (7 * 7 * 32 * 10 + 10)),
        ("CNN_scratch", 1, 28_938),
    ],
)
def test_parameters_are_as_many_as_published(name, feature_dim, n_parameters):
    model = build(name, GREY, 10, feature_dim)
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


def features_of(name, shape, feature_dim):
    _, height, width = shape
    own = {"LeNet5_classic": 84, "MLP": 200, "CNN_scratch": 32 * (height // 4) * (width // 4)}
    return own.get(name, feature_dim)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [GREY, (3, 28, 28), (3, 32, 32), (1, 64, 48), (3, 33, 30)])
def test_features_and_logits_have_their_shapes_for_images_of(name, shape):
    model = made(name, shape, n_classes=7)
    features, logits = model(random_images(2, shape))
    assert features.shape == (2, features_of(name, shape, 20))
    assert logits.shape == (2, 7)
    assert model.classifier.in_features == features.shape[1]


@pytest.mark.parametrize("name", MODELS)
def test_only_the_models_that_are_said_to_read_feature_dim(name):
    small, large = (build(name, GREY, 10, feature_dim).classifier.in_features for feature_dim in (5, 9))
    assert (small, large) == ((5, 9) if name in READ_FEATURE_DIM else (small, small))


# --- what every model is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_classifier_on_the_features(name):
    model = made(name)
    features, logits = model(random_images(3, GREY))
    assert torch.equal(logits, model.classifier(features))
    torch.testing.assert_close(logits, features @ model.classifier.weight.T + model.classifier.bias)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_named_body_or_classifier(name):
    model = build(name, GREY, 10, 20)
    names = list(model.state_dict())
    assert {full.split(".")[0] for full in names} == {"body", "classifier"}
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
    model, x = made(name).eval(), random_images(4, GREY)
    together = torch.cat(model(x), dim=1)
    alone = torch.cat([torch.cat(model(one.unsqueeze(0)), dim=1) for one in x])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name):
    model = made(name)
    F.cross_entropy(model(random_images(8, GREY))[1], torch.arange(8)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


# --- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("LeNet5", 4),  # two halvings
        ("LeNet5_classic", 12),  # (12 / 2 - 4) / 2 = 1
        ("ResNet9", 16),  # four halvings
        ("CNN_scratch", 4),
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


def test_an_mlp_fits_every_image():
    assert made("MLP", (1, 1, 1))(random_images(2, (1, 1, 1)))[1].shape == (2, 10)


# --- the slow and obvious way ------------------------------------------------------------------------------------------


def test_pooling_before_the_relu_gives_lenet5_the_same_bits_as_after():
    """The largest of several and max(., 0) are both monotone, so their order is of no consequence."""
    model, x = made("LeNet5"), random_images(5, GREY)
    first, second, third = layers(model.body, nn.Conv2d)
    hidden = F.max_pool2d(F.relu(F.conv2d(x, first.weight, first.bias, padding=2)), 2)
    hidden = F.max_pool2d(F.relu(F.conv2d(hidden, second.weight, second.bias, padding=2)), 2)
    hidden = F.relu(F.conv2d(hidden, third.weight, third.bias, padding=1)).mean(dim=(2, 3))
    (linear,) = layers(model.body, nn.Linear)
    assert torch.equal(model(x)[0], torch.tanh(F.linear(hidden, linear.weight, linear.bias)))


def test_lenet5_classic_is_conv_pool_conv_pool_and_three_linear_layers():
    model, x = made("LeNet5_classic"), random_images(5, GREY)
    first, second = layers(model.body, nn.Conv2d)
    hidden = F.max_pool2d(F.relu(F.conv2d(x, first.weight, first.bias, padding=2)), 2)
    hidden = F.max_pool2d(F.relu(F.conv2d(hidden, second.weight, second.bias)), 2).flatten(1)
    assert hidden.shape[1] == 400
    for linear in layers(model.body, nn.Linear):
        hidden = F.relu(F.linear(hidden, linear.weight, linear.bias))
    torch.testing.assert_close(model(x)[0], hidden)


def test_cnn_scratch_is_two_convolutions_and_mlp_one_hidden_layer():
    model, x = made("CNN_scratch"), random_images(5, GREY)
    hidden = x
    for conv in layers(model.body, nn.Conv2d):
        hidden = F.max_pool2d(F.relu(F.conv2d(hidden, conv.weight, conv.bias, padding=2)), 2)
    torch.testing.assert_close(model(x)[0], hidden.flatten(1))
    model = made("MLP")
    (linear,) = layers(model.body, nn.Linear)
    torch.testing.assert_close(model(x)[0], F.relu(x.flatten(1) @ linear.weight.T + linear.bias))


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
        block = shaken(ResBlock(3).double()).train(training)
    x = random_images(4, (3, 6, 5))
    (conv1, conv2), (norm1, norm2) = layers(block, nn.Conv2d), layers(block, nn.BatchNorm2d)
    assert conv1.bias is None
    assert conv2.bias is None
    inner = F.relu(normalised(F.conv2d(x, conv1.weight, padding=1), norm1, training))
    residual = F.relu(normalised(F.conv2d(inner, conv2.weight, padding=1), norm2, training))
    found = block(x)
    torch.testing.assert_close(found, x + residual)
    assert (found < 0).any()  # a ReLU after the sum would leave none


@pytest.mark.parametrize("training", [True, False])
def test_resnet9_is_the_published_sequence(training):
    """64, 128 | pool, block | 256 | pool | 256 | pool, block | pool, mean, linear, Tanh."""
    model, x = shaken(made("ResNet9")).train(training), random_images(2, (1, 16, 16))
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


@pytest.mark.parametrize("name", ["LeNet5", "ResNet9"])
def test_features_end_in_a_tanh_and_so_lie_between_minus_one_and_one(name):
    model = made(name).eval()
    (linear,) = layers(model.body, nn.Linear)
    with torch.no_grad():
        linear.weight.mul_(1e6)  # far out, where only the bound is left
    features, _ = model(random_images(3, GREY))
    torch.testing.assert_close(features.abs(), torch.ones_like(features))
    assert (features < 0).any()
    assert (features > 0).any()
