"""Floating point operations as they are counted: of every network, layer by layer, and of convolutions in closed form."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import nn

import streams
from federation.meter import UNCOUNTED, Meter
from models import MODELS, Attention, StemNet, build, readers

COLOUR = (3, 33, 30)  # odd sizes, which strides round
EVERY_NET = [*((name, False) for name in MODELS), *((name, True) for name in readers("heads"))]
STEMS = [name for name in MODELS if isinstance(build(name, COLOUR, 10, 20), StemNet)]
WITHOUT_STEM = ("ResNet19", "ResNet55", "ResNet109")


def create(name, heads=False, layout=torch.contiguous_format, precision="float32"):
    with streams.torch_seeded("test", name):
        model = build(name, COLOUR, 10, 20, heads).to(memory_format=layout)
    model.precision = precision
    return model


def images(layout=torch.contiguous_format):
    with streams.torch_seeded("images"):
        return torch.randn(2, *COLOUR).to(memory_format=layout)


def loss(logits):
    return sum(F.cross_entropy(u, torch.arange(2)) for u in logits)


def counted(do):
    meter = Meter()
    meter.work(do, "client", 0, "once")
    return meter.spent["flops", "client", 0]


def layer_by_layer(model, x, say):
    """(operations of say(), those of a step with it, how many layers read x itself), from the shapes that each layer meets.

    A step is the way forward, as much again for the gradient of each layer's weights, and as much again for that of its
    input, but where that is x, flattened or not, which nothing is learnt about.
    """
    forward, backward, readers = 0, 0, 0
    kinds = nn.Conv2d | nn.Linear | Attention

    def note(layer, inputs, output):
        nonlocal forward, backward, readers
        if isinstance(layer, nn.Linear):
            products = output.numel() * layer.in_features
        elif isinstance(layer, Attention):  # each token with each token, twice
            products = 2 * output.numel() * output.shape[1]
        else:
            batch, channels, height, width = output.shape
            products = batch * height * width * channels * (layer.in_channels // layer.groups) * layer.weight[0, 0].numel()
        reads_x = torch.equal(inputs[0].flatten(1), x.flatten(1))
        forward += 2 * products
        backward += 2 * products * (1 if reads_x else 2)
        readers += reads_x

    hooks = [layer.register_forward_hook(note) for layer in model.modules() if isinstance(layer, kinds)]
    say()
    for hook in hooks:
        hook.remove()
    return forward, forward + backward, readers


@pytest.mark.parametrize(("precision", "layout"), [("float32", torch.contiguous_format), ("bf16", torch.channels_last)])
@pytest.mark.parametrize(("name", "heads"), EVERY_NET)
def test_flops_of_a_network_are_those_of_its_layers(name, heads, precision, layout):
    model, x = create(name, heads, layout, precision), images(layout)
    forward, step, readers = layer_by_layer(model, x, lambda: model.every_head(x))
    assert readers == (2 if name in WITHOUT_STEM else 1), "the first layer, and the shortcut beside it"
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            assert counted(lambda: model.every_head(x)) == forward
    assert counted(lambda: loss(model.every_head(x)).backward()) == step


@pytest.mark.parametrize("name", STEMS)
def test_flops_of_a_stem_and_of_a_tail_are_those_of_their_layers(name):
    model, x = create(name), images()
    whole, whole_step, _ = layer_by_layer(model, x, lambda: model(x))
    stem, _, _ = layer_by_layer(model, x, lambda: model.cut(x))
    maps = model.cut(x).detach()
    tail, step, readers = layer_by_layer(model, maps, lambda: model.tail(maps))
    assert readers == (1 if name == "ResNet4" else 2), "its shortcut is no layer"
    assert counted(lambda: model.cut(x)) == stem
    assert counted(lambda: model.tail(maps)) == tail == whole - stem
    assert counted(lambda: loss([model.tail(maps)[1]]).backward()) == step
    assert counted(lambda: loss([model.tail(model.cut(x))[1]]).backward()) == whole_step


def test_flops_of_a_depthwise_block_of_mobilenet_by_hand():
    """64 channels to 128 with a stride of 2: a 3x3 convolution of each channel alone, and a 1x1 of all."""
    block, x = create("MobileNet").body[2], torch.zeros(5, 64, 32, 32)
    depthwise, pointwise = 2 * 5 * 16 * 16 * 64 * 9, 2 * 5 * 16 * 16 * 64 * 128
    assert counted(lambda: block(x)) == depthwise + pointwise
    assert counted(lambda: block(x).sum().backward()) == 2 * depthwise + 3 * pointwise
    x.requires_grad_()
    assert counted(lambda: block(x).sum().backward()) == 3 * (depthwise + pointwise)


@pytest.mark.parametrize("of_weight", [True, False])
@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("kind", "places"),
    [
        (nn.Conv2d, 3 * 4),  # of the output, where a weight meets a number: (7 - 3) / 2 + 1, (9 - 3) / 2 + 1
        (nn.ConvTranspose2d, 7 * 9),  # of the input
    ],
)
def test_flops_of_a_convolution_are_those_of_the_gradients_that_are_asked_for(kind, places, groups, of_input, of_weight):
    layer, x = kind(4, 8, 3, stride=2, groups=groups), torch.zeros(5, 4, 7, 9, requires_grad=of_input)
    layer.weight.requires_grad_(of_weight)
    products = 5 * places * 4 * 8 // groups * 3 * 3
    assert counted(lambda: layer(x)) == 2 * products
    assert counted(lambda: layer(x).sum().backward()) == 2 * products * (1 + of_input + of_weight)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_is_counted_is_done_to_the_bit_as_if_it_were_not(precision):
    model, x = create("MobileNet", layout=torch.channels_last, precision=precision), images(torch.channels_last)

    def step():
        model.zero_grad()
        loss(model.every_head(x)).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    known = Meter()
    first, second = (known.work(step, "client", 0, "step") for _ in range(2))
    assert known.spent["flops", "client", 0] == 2 * counted(step)
    for grads in zip(first, second, step(), strict=True):
        assert torch.equal(grads[0], grads[1])
        assert torch.equal(grads[0], grads[2])


def test_counting_does_not_import_torchs_compiler():
    """Some 800 modules, a second or two."""
    code = (
        "import sys, torch; from federation.meter import Meter; meter, layer = Meter(), torch.nn.Conv2d(2, 3, 3); "
        "meter.work(lambda: layer(torch.zeros(1, 2, 4, 4)).sum().backward(), 'client', 0, 'step'); "
        "print(meter.spent['flops', 'client', 0], 'torch._dynamo' in sys.modules)"
    )
    run_experiment = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert run_experiment.split() == [str(2 * (2 * 2 * 2 * 3 * 2 * 9)), "False"], "forward and the weight, at 2x2 places"


# --- attention, and what has no formula --------------------------------------------------------------------------------

TOKENS, WIDTH, HEADS, HIDDEN = 9, 32, 4, 64
OF_ATTENTION = 2 * 2 * TOKENS * TOKENS * WIDTH  # scores and averages: each token with each token, over all heads


def tokens(**flags):
    return torch.rand(2, TOKENS, WIDTH, **flags)


def test_fused_attention_counts_as_its_two_products_and_its_gradient_as_five():
    """The fifth: the backward pass computes the scores again."""
    q, k, v = (tokens(requires_grad=True).unflatten(2, (HEADS, -1)).transpose(1, 2) for _ in range(3))
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * OF_ATTENTION
    step = counted(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert step == 2 * OF_ATTENTION * (1 + 5 / 2)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
def test_layers_of_transformers_count_the_same_with_and_without_torchs_fast_path(training, mode):
    x, linear = tokens(), 2 * TOKENS * WIDTH * WIDTH
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).train(training)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True).train(training)
    with mode():
        assert counted(lambda: attention(x, x, x)) == 2 * (4 * linear + OF_ATTENTION)
        assert counted(lambda: layer(x)) == 2 * (4 * linear + OF_ATTENTION + 4 * TOKENS * WIDTH * HIDDEN)


def uncounted(do, party="client"):
    meter = Meter()
    meter.work(do, party, 0, "once")
    return {quantity.removeprefix(UNCOUNTED) for quantity, _, _ in meter.spent if quantity.startswith(UNCOUNTED)}


@pytest.mark.parametrize(
    ("do", "name"),
    [
        (lambda: torch.fft.fft2(tokens()), "aten._fft_c2c"),
        (lambda: torch.cdist(tokens(), tokens()), "aten._cdist_forward"),
        (lambda: nn.LSTM(WIDTH, 8)(tokens()), "aten.mkldnn_rnn_layer"),
        (lambda: torch.linalg.inv(tokens()[:, :, :TOKENS]), "aten.linalg_inv_ex"),
    ],
)
def test_an_operation_without_a_formula_is_named(do, name):
    assert uncounted(do) == {name}


ACTIVATIONS = (F.relu, F.gelu, F.silu, F.softplus, F.hardswish, F.leaky_relu, F.elu, F.mish, torch.tanh, F.log_softmax)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_never_named(activation):
    x = tokens(requires_grad=True)
    flags = {"dim": 1} if activation is F.log_softmax else {}
    assert not uncounted(lambda: activation(x, **flags).square().mean().backward())


@pytest.mark.parametrize(("name", "heads"), EVERY_NET)
def test_every_operation_of_the_zoo_has_a_formula(name, heads):
    model, x = create(name, heads), images()
    assert not uncounted(lambda: loss(model.every_head(x)).backward())
