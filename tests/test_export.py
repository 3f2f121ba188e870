"""The network of a run in a file: read in a process without Chorus, with the outputs of `run.model`."""

import subprocess
import sys
import warnings
from importlib.util import find_spec

import pytest
import torch
from conftest import line_of, tiny_data

import models
import run as command
import saves
import streams
from saves.export import export

READ = """
import sys

import torch

folder = sys.argv[1]
model = torch.export.load(f"{folder}/model.pt2").module()
torch.save(model(torch.load(f"{folder}/images.pt")), f"{folder}/logits.pt")
print(*open(f"{folder}/model.classes.txt").read().splitlines(), sep="|")
assert not {"saves", "models", "federation", "run"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    words = (
        f"independent --dataset digits --reduced 0.1 --model LeNet5 --rounds 1 --n_clients 2 --quiet --export_dir {folder}"
    )
    assert command.main(words.split()) == 0
    (run,) = saves.find(folder)
    return run


def test_an_exported_network_is_read_without_chorus_and_has_the_logits_of_the_run(run, tmp_path):
    data, indices = run.data(), torch.arange(7)
    assert run.export(tmp_path / "model.pt2", client=1) == tmp_path / "model.pt2"
    torch.save(data.x[indices], tmp_path / "images.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().split("|") == list(data.classes)
    logits, expected = torch.load(tmp_path / "logits.pt"), run.model(1)(data.images(indices))[1]
    torch.testing.assert_close(logits, expected)
    assert torch.equal(logits.argmax(1), run.predict(1, data.x[indices]))
    other = run.model(0)(data.images(indices))[1]
    assert not torch.allclose(logits, other), "the network is the client's own"


@pytest.mark.filterwarnings("ignore")
def test_a_trace_of_a_network_has_its_outputs(run):
    model, data = run.model(1), run.data()
    traced = torch.jit.trace(model, data.images(torch.arange(3)))
    for result, expected in zip(traced(data.images(torch.arange(9))), model(data.images(torch.arange(9))), strict=True):
        torch.testing.assert_close(result, expected)


class Own(torch.nn.Module):
    """A user's network with something after its head."""

    head = "fc"

    def __init__(self, n_classes):
        super().__init__()
        self.fc = torch.nn.Linear(3 * 20 * 20, n_classes)

    def forward(self, x):
        return self.fc(x.view(-1, 3 * 20 * 20)).softmax(1)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["LeNet5", "ResNet9_GN", "ResNet8", "CNN4", "ViT", "MLP_dropout", "Own"])
def test_every_kind_of_network_can_be_exported(name, precision, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "Own", Own)
    data = tiny_data(size=20)
    data = type(data)(
        **{
            **vars(data),
            "x": data.x.expand(-1, 3, -1, -1).clone(),
            "mean": data.mean * torch.ones(3),
            "std": data.std * torch.ones(3),
        }
    )
    with streams.torch_seeded("test", name):
        model = models.build(name, data.shape, 3, 20).eval()
    model.precision = precision
    export(model, data, tmp_path / "model.pt2")
    with warnings.catch_warnings(action="ignore"):
        logits = torch.export.load(tmp_path / "model.pt2").module()(data.x[:5])
    torch.testing.assert_close(logits, model(data.images(torch.arange(5)))[1], rtol=1e-2, atol=1e-2)


class Decides(torch.nn.Module):
    """A network that reads a value, which torch cannot export."""

    def __init__(self, n_classes):
        super().__init__()
        self.fc = torch.nn.Linear(144, n_classes)

    def forward(self, x):
        return self.fc(x.flatten(1) if x.sum().item() > 0 else -x.flatten(1))


def test_what_cannot_be_exported_is_a_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "Decides", Decides)
    data = tiny_data()
    model = models.build("Decides", data.shape, 3, 20).eval()
    assert "model.pt2: torch cannot export this network: " in line_of(export, model, data, tmp_path / "model.pt2")
    assert "model.pth: must end in .pt2 or .onnx" in line_of(run.export, tmp_path / "model.pth")
    assert "its folder does not exist" in line_of(run.export, tmp_path / "nowhere" / "model.pt2")
    assert "has no client 9; must be 0 to 1" in line_of(run.export, tmp_path / "model.pt2", 9)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("onnxscript") is not None, reason="onnxscript is installed")
def test_onnx_without_its_library_is_a_line(run, tmp_path):
    line = line_of(run.export, tmp_path / "model.onnx")
    assert "model.onnx: ONNX requires onnxscript; install it (pip install onnxscript), or export to a .pt2 file" in line
