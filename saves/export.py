"""Write the network of a saved run to a file that needs nothing of Chorus."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from errors import UserError, reason_of

if TYPE_CHECKING:
    from data.datasets import Data

SUFFIXES = (".pt2", ".onnx")


class Classifier(nn.Module):
    """Normalise images and classify them: pixels [n, channels, height, width], as in the data set -> logits [n, C]."""

    def __init__(self, model: nn.Module, data: Data) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", data.mean.float().view(-1, 1, 1))
        self.register_buffer("std", data.std.float().view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        _, logits = self.model((images.float() - self.mean) / self.std)
        return logits


def export(model: nn.Module, data: Data, path: Path) -> None:
    """Write a model with the normalisation of its data, by `torch.export` (.pt2) or as ONNX (.onnx), and the class names.

    The names are in the file of the same stem that ends in .classes.txt, in the order of the logits, a name per line.
    Raise UserError where the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: must end in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: its folder does not exist")
    if path.suffix == ".onnx" and not all(map(find_spec, ("onnx", "onnxscript"))):
        raise UserError(f"{path}: ONNX requires onnxscript; install it (pip install onnxscript), or export to a .pt2 file")
    images, batch = data.x[:2].cpu(), {0: torch.export.Dim("n")}
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            program = torch.export.export(Classifier(model, data).eval(), (images,), dynamic_shapes=(batch,), strict=False)
            if path.suffix == ".onnx":
                torch.onnx.export(program, f=path, dynamo=True, input_names=["images"], output_names=["logits"])
            else:
                torch.export.save(program, path)
    except OSError:
        raise
    except Exception as error:  # a user's network may do what torch cannot export
        raise UserError(f"{path}: torch cannot export this network: {reason_of(error)}") from error
    path.with_suffix(".classes.txt").write_text("".join(f"{name}\n" for name in data.classes), encoding="utf-8")
