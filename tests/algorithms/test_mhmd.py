"""MHMD: its loss against one image after another in plain floats; a round by hand; and FedBABU."""

import math
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import WHOLE, line_of, options_for, play, same, tiny_data, weights_of

import algorithms
import experiment
import models
from algorithms import mhmd
from federation import Federation
from helpers import Batch
from options import Launch

SHARES = [range(10), range(10, 30), range(30, 60)]
B, C = 7, 3


def flags_for(name="mhmd", model=("CNN4",), **flags):
    return options_for(name, model=model, **flags)


def federation_of(heads=True, **others):
    """Three clients with CNN4 in float64, with or without auxiliary heads."""
    data = tiny_data()
    build = partial(models.build, "CNN4", data.shape, len(data.classes), 6, heads)
    return Federation.of(data, SHARES, [build], dtype=torch.float64, **others)


def part_of(weights, prefix):
    return {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}


# --- the loss ---


def said_by_heads(n_heads=3, seed=5):
    """Logits [B, C] of so many auxiliary heads and of the classifier, and labels that each gets right at times."""
    generator = torch.Generator().manual_seed(seed)
    logits = [2 * torch.randn(B, C, generator=generator, dtype=torch.float64) for _ in range(n_heads + 1)]
    return logits, torch.randint(C, (B,), generator=generator)


def loss_of(logits, y, options):
    """The loss of a model whose heads say just this of a batch."""
    return mhmd.loss(SimpleNamespace(every_head=lambda x: list(logits)), Batch(None, y, None), None, options)


def probabilities(row, temperature=1.0):
    exponentials = [math.exp(z / temperature) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def cross_entropy(logits, y):
    return sum(-math.log(probabilities(row)[label]) for row, label in zip(logits, y, strict=True)) / len(y)


def lesson(teacher, student, y, options):
    """T^2 KL(teacher || student), the mean over those images that the teacher gets right, and over classes."""
    total, images = 0.0, 0
    for of_teacher, of_student, label in zip(teacher, student, y, strict=True):
        if options.correct_only == "1" and of_teacher.index(max(of_teacher)) != label:
            continue
        images += 1
        for p, q in zip(*(probabilities(row, options.temperature) for row in (of_teacher, of_student)), strict=True):
            total += p * (math.log(p) - math.log(q))
    if images == 0:
        return 0.0
    classes = C if options.kd_reduction == "mean" else 1
    return options.temperature**2 * total / (images * classes)


def slow_loss(logits, teachers, y, options):
    """Lists of every head's logits, as what learns and as what teaches -> the loss, a float."""
    *auxiliary, final = logits
    *auxiliary_teachers, final_teacher = teachers
    value = cross_entropy(final, y)
    for head, head_teacher in zip(auxiliary, auxiliary_teachers, strict=True):
        value += options.w_aux * cross_entropy(head, y)
        if options.distill in ("deep_to_shallow", "mutual"):
            value += options.w_kd * lesson(final_teacher, head, y, options)
        if options.distill == "mutual":
            value += options.w_kd * lesson(head_teacher, final, y, options)
    return value


def slow_gradient(logits, y, options):
    """By central differences; with a detached teacher what teaches stays as it was."""
    step, gradient = 1e-5, torch.zeros(len(logits), B, C, dtype=torch.float64)
    for head, b, c in product(range(len(logits)), range(B), range(C)):
        values = []
        for sign in (1, -1):
            moved = [[list(row) for row in of_head] for of_head in logits]
            moved[head][b][c] += sign * step
            values.append(slow_loss(moved, logits if options.detach_teacher else moved, y, options))
        gradient[head, b, c] = (values[0] - values[1]) / (2 * step)
    return gradient


def test_the_example_of_these_tests_has_heads_that_are_right_about_some_images_and_each_about_others():
    logits, y = said_by_heads()
    right = [tuple((of_head.argmax(1) == y).tolist()) for of_head in logits]
    assert len(set(right)) == 4
    assert all(0 < sum(of_head) < B for of_head in right)


def assert_is_the_slow_loss(options):
    logits, y = said_by_heads()
    leaves = [of_head.clone().requires_grad_() for of_head in logits]
    value = loss_of(leaves, y, options)
    numbers, labels = [of_head.tolist() for of_head in logits], y.tolist()
    assert value.item() == pytest.approx(slow_loss(numbers, numbers, labels, options), rel=1e-12)
    result = torch.stack(torch.autograd.grad(value, leaves))
    torch.testing.assert_close(result, slow_gradient(numbers, labels, options), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("detach_teacher", [False, True])
@pytest.mark.parametrize("kd_reduction", ["mean", "batchmean"])
@pytest.mark.parametrize("correct_only", ["0", "1"])
@pytest.mark.parametrize("distill", ["none", "deep_to_shallow", "mutual"])
def test_the_loss_and_its_gradient_are_those_of_a_slow_loop(distill, correct_only, kd_reduction, detach_teacher):
    options = flags_for(
        distill=distill,
        correct_only=correct_only,
        kd_reduction=kd_reduction,
        detach_teacher=detach_teacher,
        w_aux=0.7,
        w_kd=1.3,
        temperature=2.5,
    )
    assert_is_the_slow_loss(options)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("w_aux", "w_kd"), [(0.0, 1.0), (10.0, 0.0), (0.01, 0.1)])
def test_the_weights_and_the_temperature_are_where_they_belong(w_aux, w_kd, temperature):
    assert_is_the_slow_loss(flags_for(w_aux=w_aux, w_kd=w_kd, temperature=temperature))


def torchs(logits, y, options, w_aux):
    """The defaults with torch's own divergence of logarithms: its mean is over images and classes."""
    *auxiliary, final = logits
    value = F.cross_entropy(final, y)
    for head in auxiliary:
        value = value + w_aux * F.cross_entropy(head, y)
        for teacher, student in ((final, head), (head, final)):
            right = teacher.argmax(1) == y
            if right.any():
                p, q = (F.log_softmax(z[right] / options.temperature, 1) for z in (teacher, student))
                value = value + options.temperature**2 * F.kl_div(q, p, reduction="none", log_target=True).mean()
    return value


@pytest.mark.parametrize(("model", "w_aux"), [("MobileNet", 10), ("CNN4", 0.01)])
@pytest.mark.parametrize("n_heads", [0, 1, 3])
def test_by_default_both_ways_over_right_images_with_torchs_mean_and_the_architectures_weight(model, w_aux, n_heads):
    options = flags_for(model=(model,))
    assert (options.distill, options.correct_only, options.kd_reduction) == ("mutual", "1", "mean")
    assert (options.detach_teacher, options.w_aux, options.w_kd, options.temperature) == (False, None, 1, 1)
    logits, y = said_by_heads(n_heads)
    torch.testing.assert_close(loss_of(logits, y, options), torchs(logits, y, options, w_aux), rtol=1e-12, atol=0)


@pytest.mark.parametrize("model", ["MobileNet", "CNN4"])
def test_a_weight_that_is_given_holds_for_any_architecture_and_so_does_zero(model):
    logits, y = said_by_heads()
    for w_aux in (0.0, 0.3):
        options = flags_for(model=(model,), w_aux=w_aux)
        torch.testing.assert_close(loss_of(logits, y, options), torchs(logits, y, options, w_aux), rtol=1e-12, atol=0)


@pytest.mark.parametrize("detach_teacher", [False, True])
@pytest.mark.parametrize("wrong", [(0, 1, 2, 3), (3,), (1,), (0, 2)], ids=str)
def test_a_teacher_that_is_never_right_teaches_nothing(wrong, detach_teacher):
    """The term is 0 and its gradient is, never a mean over no images."""
    logits, y = said_by_heads()
    for head in wrong:  # far from the label, and the others as they were
        logits[head] = logits[head] - 9 * F.one_hot(y, C)
    options = flags_for(w_aux=0.7, w_kd=1.3, temperature=2.5, detach_teacher=detach_teacher)
    leaves = [of_head.clone().requires_grad_() for of_head in logits]
    value = loss_of(leaves, y, options)
    result = torch.stack(torch.autograd.grad(value, leaves))
    numbers, labels = [of_head.tolist() for of_head in logits], y.tolist()
    assert value.item() == pytest.approx(slow_loss(numbers, numbers, labels, options), rel=1e-12)
    torch.testing.assert_close(result, slow_gradient(numbers, labels, options), rtol=1e-6, atol=1e-8)
    if len(wrong) == 4:
        plain = [of_head.clone().requires_grad_() for of_head in logits]
        entropies = F.cross_entropy(plain[3], y) + 0.7 * sum(F.cross_entropy(head, y) for head in plain[:3])
        assert value.item() == pytest.approx(entropies.item(), rel=1e-12)
        torch.testing.assert_close(result, torch.stack(torch.autograd.grad(entropies, plain)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("correct_only", ["0", "1"])
def test_logits_that_are_far_out_leave_a_finite_loss_and_gradient(correct_only, dtype):
    """A temperature of an image multiplies what its head says by up to 1,000."""
    logits, y = said_by_heads()
    leaves = [(2000 * of_head).to(dtype).requires_grad_() for of_head in logits]
    value = loss_of(leaves, y, flags_for(correct_only=correct_only))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.parametrize("distill", ["deep_to_shallow", "mutual"])
def test_no_gradient_reaches_a_detached_teacher_and_the_value_is_the_same(distill):
    logits, y = said_by_heads()
    values, gradients = [], []
    for detach_teacher in (False, True):
        leaves = [of_head.clone().requires_grad_() for of_head in logits]
        values.append(loss_of(leaves, y, flags_for(w_aux=0.0, distill=distill, detach_teacher=detach_teacher)))
        gradients.append(torch.stack(torch.autograd.grad(values[-1], leaves)))
    assert torch.equal(*values)
    # of an image, (q - p) / (n C) is the gradient into the student, where the teacher is right
    right, result = [of_head.argmax(1) == y for of_head in logits], [of_head.softmax(1) for of_head in logits]
    for head in range(3):
        expected = right[3].unsqueeze(1) * (result[head] - result[3]) / (right[3].sum() * C)
        torch.testing.assert_close(gradients[1][head], expected)
        assert torch.allclose(gradients[0][head], expected) == (distill == "deep_to_shallow"), "here a head only learns"
    expected = (result[3] - F.one_hot(y, C)) / B
    if distill == "mutual":
        for head in range(3):
            expected = expected + right[head].unsqueeze(1) * (result[3] - result[head]) / (right[head].sum() * C)
    torch.testing.assert_close(gradients[1][3], expected)
    assert not torch.allclose(gradients[0][3], expected)


def test_fine_tuning_has_the_same_loss():
    assert mhmd.tuning_loss is mhmd.loss


# --- rounds ---


@pytest.mark.parametrize("w_aux", [None, 0.5])
def test_a_round_of_full_batches_is_a_step_of_each_body_on_the_loss_of_its_share_and_their_mean(w_aux):
    federation, flags = federation_of(), flags_for(batch_size=WHOLE, w_aux=w_aux)
    initial, (_, done) = federation.initial(), play(federation, flags)
    rows, values = [], []
    for share in federation.shares:
        model = federation.architectures[0]().double().train()
        model.load_state_dict(initial)
        result = model.every_head(federation.data.images(share, torch.float64))  # scaled, as in training
        value = torchs(result, federation.data.y[share], flags, 0.01 if w_aux is None else w_aux)
        named = dict(model.body.named_parameters())
        gradients = dict(zip(named, torch.autograd.grad(value, list(named.values())), strict=True))
        after = model.body.state_dict()
        rows.append({name: after[name] - flags.lr * gradients.get(name, 0) for name in after})
        values.append(value.item())
    assert done.loss.tolist() == pytest.approx(values, rel=1e-9)
    weights = weights_of(done.models["global"])
    for name, tensor in federation.architectures[0]().body.state_dict().items():
        if tensor.is_floating_point():
            expected = sum(n * row[name] for n, row in zip((10, 20, 30), rows, strict=True)) / 60
            torch.testing.assert_close(weights[f"body.{name}"], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("flags", [{}, {"participation": 0.7}, {"bn": "local"}], ids=str)
def test_no_head_ever_changes_while_all_of_the_body_does(flags):
    federation = federation_of(participation=flags.get("participation", 1.0))
    initial = federation.initial()
    state, done = play(federation, flags_for(**flags), rounds=3)
    for row in [*done.local_weights, *(weights_of(next(iter(done.models.values())), k) for k in federation.clients)]:
        for name, tensor in row.items():
            assert torch.equal(tensor, initial[name]) == (not name.startswith("body.")), name
    assert all(name.startswith("body.") for part in (state["server"], *state["own"].values()) for name in part)
    heads = {f"heads.{head}.1.weight" for head in range(3)} | {"classifier.weight", "classifier.bias"}
    assert same(state["frozen"], {name: initial[name] for name in heads})


def test_the_body_alone_travels():
    federation = federation_of()
    play(federation, flags_for())
    body = sum(tensor.nbytes for tensor in part_of(federation.initial(), "body.").values())
    crossed = federation.wire.collect()
    assert crossed["down", "weights"] == crossed["up", "weights"] == dict.fromkeys(range(3), body)


def test_rounds_are_trained_with_temperatures_and_evaluated_without(monkeypatch):
    modes, inner = [], models.HeadsNet.scaled
    monkeypatch.setattr(models.HeadsNet, "scaled", lambda model, u: modes.append(model.training) or inner(model, u))
    federation = federation_of()
    _, done = play(federation, flags_for(batch_size=WHOLE))
    assert modes == [True] * 9
    done.models["global"](0).every_head(federation.data.images(torch.arange(3), torch.float64))
    assert modes[9:] == [False] * 3


@pytest.mark.parametrize("flags", [{"w_kd": 0.0}, {"distill": "none"}], ids=str)
def test_auxiliary_heads_of_no_weight_leave_fedbabu(flags):
    state, done = play(federation_of(heads=False), flags_for("fedbabu"), rounds=2)
    result, redone = play(federation_of(), flags_for(w_aux=0.0, **flags), rounds=2)
    torch.testing.assert_close(redone.loss, done.loss, rtol=0, atol=1e-9)
    assert result["server"].keys() == state["server"].keys()
    for name, tensor in state["server"].items():
        torch.testing.assert_close(result["server"][name], tensor, rtol=0, atol=1e-9)
    other, _ = play(federation_of(), flags_for(), rounds=2)
    name = "body.3.0.weight"
    assert not torch.allclose(other["server"][name], state["server"][name], rtol=0, atol=1e-9)


# --- experiments ---


def prepared(export, **flags):
    """Two clients of the digits, 8x8 images, with CNN4 unless asked otherwise."""
    small = {
        "image_size": 8,
        "n_clients": 2,
        "reduced": 0.1,
        "rounds": 1,
        "validation": 0.2,
        "batch_size": 16,
        "device": "cpu",
    }
    return experiment.prepare(flags_for(**{**small, **flags}), Launch(export_dir=export))


def heads_by_hand(model, x):
    """Classes [n] that each head of a CNN4 says, the classifier last: the largest of all but its temperature."""
    result, hidden = [], x
    for place in range(3):
        hidden = model.body[place](hidden)
        u = hidden.mean(dim=(2, 3)) @ model.heads[place][1].weight.T
        assert u.shape[1] == 11
        result.append(u[:, :10].argmax(1))
    features = model.body[3](hidden).flatten(1)
    return [*result, (features @ model.classifier.weight.T + model.classifier.bias).argmax(1)]


@pytest.mark.parametrize(("flags", "answer"), [({}, "global"), ({"bn": "local"}, "personal")], ids=str)
def test_the_history_has_the_accuracies_of_every_head(flags, answer, tmp_path, monkeypatch):
    tuned, inner = [], mhmd.loss

    def watched(model, batch, context, options):
        tuned.append(type(model))
        return inner(model, batch, context, options)

    monkeypatch.setattr(mhmd, "tuning_loss", watched)
    run_experiment = prepared(tmp_path, ft_epochs=1, ft_lr=0.01, **flags)
    run = experiment.run(run_experiment)
    row, of_clients = run.rounds.iloc[-1], run.clients[run.clients["round"] == 1].set_index("client")
    data, split = run_experiment.data, run_experiment.split
    x = data.images(torch.arange(len(data.y)))
    accuracies = {}  # (head, whose): of the clients
    for k in range(2):
        model = run.model(k)
        assert isinstance(model, models.HeadsNet)
        assert answer in run.weights()
        with torch.no_grad():
            result = heads_by_hand(model, x)
        for head, classes in enumerate(result):
            right = (classes == data.y).double()
            examples = {"global": range(data.n_train, len(data.y)), "personal": split.test[k]}
            for what, indices in {**examples, "validation": split.validation[k]}.items():
                accuracies.setdefault((head, what), []).append(right[torch.as_tensor(indices)].mean().item())
    for (head, what), values in accuracies.items():
        suffix = "" if head == 3 else f":head {head + 1}"
        assert row[f"{what}_mean{suffix}"] == pytest.approx(sum(values) / 2, abs=1e-12)
        assert row[f"{what}_worst{suffix}"] == pytest.approx(min(values), abs=1e-12)
        if (answer, what) != ("global", "global"):
            assert of_clients[f"{what}_accuracy{suffix}"].tolist() == pytest.approx(values, abs=1e-12)
        assert math.isfinite(row[f"global_loss{suffix}"])
    assert len({tuple(values) for (_, what), values in accuracies.items() if what == "global"}) > 1, "heads differ"
    actual = {name for name in (*run.rounds, *run.clients) if ":head" in name}
    assert {name.rpartition(":")[2] for name in actual} == {"head 1", "head 2", "head 3"}
    assert tuned == [models.HeadsNet] * sum(-(-len(share) // 16) for share in split.train)


def test_a_model_without_auxiliary_heads_is_refused_and_one_that_does_not_fit(tmp_path):
    for model in (("LeNet5",), ("CNN4", "LeNet5")):
        line = line_of(partial(prepared, tmp_path, model=model))
        assert line == "--model LeNet5: has no auxiliary heads, which mhmd requires; must be one of CNN4, MobileNet"
    line = line_of(partial(prepared, tmp_path, model=("MobileNet",)))
    assert line == "--model MobileNet: does not fit images of 1 channels and 8x8 pixels"


def test_a_federation_of_an_experiment_has_heads_where_the_algorithm_is_mhmd_alone(tmp_path):
    run_experiment = prepared(tmp_path)
    assert isinstance(experiment.federation_of(run_experiment).skeletons[0], models.HeadsNet)
    of_fedbabu = algorithms.options_of("fedbabu")(**{**vars(options_for("fedbabu")), "model": ("CNN4",), "reduced": 0.1})
    run_experiment = experiment.prepare(replace(of_fedbabu, device="cpu"), Launch(export_dir=tmp_path))
    assert type(experiment.federation_of(run_experiment).skeletons[0]) is models.Net
