"""The files that a run saves besides its history: last weights, confusion matrices, features, and recorded messages."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

import saves
from experiment.preparation import Experiment
from federation import Federation, recording
from helpers import Round


def write_answers(experiment: Experiment, federation: Federation, result: Round, confusion: dict) -> dict[str, str]:
    """Write the weights after the last round and the confusion matrices; return {file: digest}."""
    folder = experiment.folder
    matrices = {name: matrix.cpu().numpy() for name, matrix in confusion.items()}
    matrices["classes"] = np.array(experiment.data.classes)
    return {
        "weights.pt": saves.write_tensors(folder / "weights.pt", _final_weights(federation, result)),
        "confusion.npz": saves.write_arrays(folder / "confusion.npz", matrices),
    }


def _final_weights(federation: Federation, result: Round) -> dict[str, Any]:
    """Return {model name: weights}, or rows of weights if every client has a model."""

    def weights(model_of: Callable, k: int) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model_of(k).state_dict().items()}

    return {
        name: weights(model_of, 0) if name == "global" else [weights(model_of, k) for k in federation.clients]
        for name, model_of in result.models.items()
    }


def write_features(experiment: Experiment, entries: Sequence[dict]) -> dict[str, str]:
    """Write `features.npz`; return {file: digest}, {} if the run kept no features.

    "rounds": int64 [T]. For each client k, "features_k": float32 [T, n, D], and "labels_k": int64 [n]. "classes": the names
    of the classes.
    """
    if not entries:
        return {}
    arrays = {
        "rounds": np.array([entry["round"]["round"] for entry in entries]),
        "classes": np.array(experiment.data.classes),
    }
    for name, last_value in entries[-1]["features"].items():
        rows = [entry["features"][name].numpy() for entry in entries]
        arrays[name] = np.stack(rows) if name.startswith("features") else last_value.numpy()
    return {"features.npz": saves.write_arrays(experiment.folder / "features.npz", arrays)}


def write_recording(experiment: Experiment, federation: Federation, r: int, state: dict) -> dict[str, str]:
    """Write the recorded messages of round r, if there are any; return {file: digest}.

    "public": weights that all parties know, such as FedBABU's head, which nobody changes or sends.
    """
    recorder = federation.wire.recorder
    if recorder is None or not recorder.messages:
        return {}
    name = saves.recording_name(r)
    content = {"messages": recording.to_plain(recorder.messages), "public": state.get("frozen", {})}
    return {name: saves.write_tensors(experiment.folder / name, content)}
