"""What a run leaves beside its history: the weights after the last round, the confusion of classes, and features."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

import saves
from experiment.preparation import Experiment
from federation import Federation
from helpers import Round


def write_answers(experiment: Experiment, federation: Federation, done: Round, confusion: dict) -> dict[str, str]:
    """The weights after the last round, and which class was taken for which -> {file: digest}."""
    folder = experiment.folder
    tables = {name: table.cpu().numpy() for name, table in confusion.items()}
    tables["classes"] = np.array(experiment.data.classes)
    return {
        "weights.pt": saves.write_tensors(folder / "weights.pt", _final_weights(federation, done)),
        "confusion.npz": saves.write_arrays(folder / "confusion.npz", tables),
    }


def _final_weights(federation: Federation, done: Round) -> dict[str, Any]:
    """{answer: weights}, or rows of weights where every client has its own."""

    def weights(answer: Callable, k: int) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in answer(k).state_dict().items()}

    return {
        name: weights(answer, 0) if name == "global" else [weights(answer, k) for k in federation.clients]
        for name, answer in done.models.items()
    }


def write_features(experiment: Experiment, entries: Sequence[dict]) -> dict[str, str]:
    """`features.npz`: "rounds" int64 [T]; of each client k "features_k" float32 [T, n, D] and "labels_k" int64 [n];
    "classes" -> {file: digest}, {} where no features were kept."""
    if not entries:
        return {}
    arrays = {
        "rounds": np.array([entry["round"]["round"] for entry in entries]),
        "classes": np.array(experiment.data.classes),
    }
    for name, of_last in entries[-1]["features"].items():
        rows = [entry["features"][name].numpy() for entry in entries]
        arrays[name] = np.stack(rows) if name.startswith("features") else of_last.numpy()
    return {"features.npz": saves.write_arrays(experiment.folder / "features.npz", arrays)}
