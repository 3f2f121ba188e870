"""The server of FedGKT: the messages that it receives, its training, and its predictions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

import models
import streams
from data import augment
from data.datasets import Data
from errors import UserError
from federation import Federation
from federation.wire import Rows
from helpers import EVALUATION_BATCH, learning_rate, train
from models import StemNet
from options import Choice

NETWORK = Choice(models.MODELS)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PATIENCE, FACTOR, BETTER = 10, 0.1, 1e-4  # the authors' settings of torch's ReduceLROnPlateau


class Relay(nn.Module):
    """A client's stem followed by the server's network: forward(x) -> (features, logits).

    The map between them is rounded to `dtype`, as on the wire.
    """

    def __init__(self, stem: nn.Module, server: models.Net, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem, self.server, self.dtype = stem, server, dtype

    @property
    def precision(self) -> str:
        """Return the precision of the server's network, which is also the stem's."""
        return self.server.precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self.server.precision = precision

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.server(models.computed(self.stem, x, self.precision).to(self.dtype).to(x.dtype))


# --- before the first round --------------------------------------------------------------------------------------------


def check(options, data: Data, n_train: int) -> str:
    """Return a message with the memory that the server needs.

    Raise UserError if the networks do not fit together at the split, or the maps of n_train examples do not fit into memory.
    """
    for name in options.model:
        with streams.torch_seeded("tried out"):
            if not isinstance(models.make(name, data.shape, len(data.classes), options.feature_dim), StemNet):
                raise UserError(
                    f"--model {name}: has no stem, whose feature map fedgkt sends; must be a model with a stem, such as "
                    "ResNet8"
                )
    shape = StemNet.map_shape(data.shape)
    with streams.torch_seeded("tried out"):
        try:
            models.build(options.server_model, shape, len(data.classes), options.feature_dim)
        except UserError:
            size = "x".join(map(str, shape[1:]))
            raise UserError(
                f"--server_model {options.server_model}: does not fit the feature maps of --model {','.join(options.model)} "
                f"({shape[0]} channels, {size} pixels)"
            ) from None
    # the stored maps, and the maps of the training set
    copies = 2 if _keeps_stale_features(options.participation, options) else 1
    needed = copies * n_train * (torch.Size(shape).numel() * DTYPES[options.feature_dtype].itemsize)
    on_cuda = options.device.startswith("cuda")
    free = torch.cuda.mem_get_info(options.device)[0] if on_cuda else psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"--model {','.join(options.model)}: the server needs {needed / 2**30:.1f} GiB for feature maps, but "
            f"{options.device} has {free / 2**30:.1f} GiB free; use --feature_dtype float16 (half the size) or a smaller "
            "--reduced"
        )
    messages = [f"fedgkt: the server keeps {needed / 2**30:.2f} GiB of feature maps on {options.device}"]
    if options.validation:
        messages.append(f"{options.validation:.0%} of each client's examples are held out to schedule its learning rate")
    if math.isfinite(options.alpha):
        messages.append("--alpha is the Dirichlet concentration; the authors' --alpha, a weight, is --kd_alpha here")
    return "; ".join(messages)


def _keeps_stale_features(participation: float, options) -> bool:
    """Return whether the server also learns from the last features of absent clients."""
    return participation < 1 and options.stale == "keep"


# --- the clients' part -------------------------------------------------------------------------------------------------


def start(federation: Federation, options) -> dict[str, Any]:
    """Return the server's part of the state.

    It has the server's network, its optimizer's memory, the plateau, and each client's last message.
    """
    no_maps = torch.zeros(0, *StemNet.map_shape(federation.data.shape), device=federation.device)
    weights = _server_federation(federation, no_maps, no_maps[:, 0, 0, 0].long(), options).initial()
    return {
        "server": weights,
        "server_memory": None,
        "plateau": {"best": -1.0, "bad": 0, "factor": 1.0},
        "arrived": [None for _ in federation.clients],
    }


def teachers(federation: Federation, state: dict, clients: Sequence[int], options) -> tuple[list[dict], list]:
    """Return each client's context {"targets" [n_k, C], "weight"}, and the augmentation to which the targets belong.

    A client without targets yet, or without distillation, has weight 0 and a new augmentation.
    """
    contexts, augmentations, n_classes = [], [], len(federation.data.classes)
    for k in clients:
        n, targets = len(federation.shares[k]), state["targets"][k]
        has_teacher = options.distill_client == "1" and targets is not None and len(targets) == n
        if not has_teacher:
            targets = torch.zeros(n, n_classes, dtype=federation.dtype, device=federation.device)
        contexts.append({"targets": targets, "weight": options.kd_alpha if has_teacher else 0.0})
        augmentations.append(state["draws"][k] if has_teacher and options.augment_extract == "1" else None)
    return contexts, augmentations


def draw(federation: Federation, k: int, options) -> augment.Draw:
    """Return the augmentation of client k's images in this round.

    It is extracted in this round and used for training in the next round.
    """
    name = options.augment if options.augment_extract == "1" else "none"
    stream = federation.stream("extract", k)
    return augment.draw(name, len(federation.shares[k]), federation.data.shape, stream, federation.device)


@torch.no_grad()
def extract(federation: Federation, k: int, weights, indices: Tensor, drawn: augment.Draw, dtype: torch.dtype):
    """Return client k's maps [n, ...], logits [n, C] and labels [n] of these examples, in evaluation mode.

    `drawn` is the augmentation of the examples.
    """
    model = federation.model(k, weights)

    def say(i: Tensor) -> tuple[Tensor, Tensor]:
        maps_of_batch = model.cut(federation.data.images(indices[i], federation.dtype, augment.part(drawn, i)))
        return maps_of_batch.to(dtype), model.tail(maps_of_batch)[1]

    batches = torch.arange(len(indices), device=federation.device).split(EVALUATION_BATCH)
    maps, logits = zip(*(federation.count_flops(partial(say, i), k, "extract", len(i)) for i in batches), strict=True)
    return {"maps": Rows(torch.cat(maps)), "logits": Rows(torch.cat(logits)), "labels": Rows(federation.data.y[indices])}


# --- the server's part -------------------------------------------------------------------------------------------------


class Learned(NamedTuple):
    """The result of the server's phase.

    `logits`: the server's logits [n_k, C] for each client of the round. `metrics`: columns of the history.
    """

    logits: list[Tensor]
    metrics: dict[str, float]


def learn(federation: Federation, state: dict, clients: Sequence[int], draws, loss: Callable, options) -> Learned:
    """Run the server's phase and replace the server's part of the state.

    The server receives the clients' features, trains on all of them in random order, and returns its logits of every
    example.
    """
    maps, rows_by_client = gather(federation, state, clients, draws, options)
    server = _server_federation(federation, maps, torch.cat([row["labels"] for row in rows_by_client.values()]), options)
    targets = torch.cat([row["logits"] for row in rows_by_client.values()])
    context = {"targets": targets, "said": torch.zeros_like(targets)}
    rate = options.lr * state["plateau"]["factor"]
    server_options = replace(options, epoch_per_round=options.epochs_server, local_steps=0, augment="none", lr=rate)
    trained = train(server, [0], [state["server"]], loss, server_options, [context], [state["server_memory"]])
    (state["server"],), (state["server_memory"],) = trained.weights, trained.memory
    ages = [(len(row["labels"]), federation.round - row["round"]) for row in rows_by_client.values()]
    metrics = {
        "server_loss": trained.loss.item(),
        "server_lr": learning_rate(server_options, federation.round),
        "feature_age_mean": sum(n * age for n, age in ages) / max(len(targets), 1),
        "feature_age_max": float(max(age for _, age in ages)),
    }
    validated = _validate(federation, state, clients, server, options)
    if validated is not None:
        state["plateau"] = _plateau(state["plateau"], validated)
        metrics["server_validation"] = validated
    logits = dict(
        zip(rows_by_client, context["said"].split([len(row["labels"]) for row in rows_by_client.values()]), strict=True)
    )
    return Learned([logits[k].clone() for k in clients], metrics)


def gather(federation: Federation, state: dict, clients: Sequence[int], draws, options) -> tuple[Tensor, dict[int, dict]]:
    """Return the server's training data: one tensor of all maps, and each client's other rows in the order of the maps.

    The clients of the round send new features; the last features of absent clients stay if the server keeps them.
    """
    keeps_stale = _keeps_stale_features(federation.participation, options)
    rows_by_client = {k: row for k, row in enumerate(state["arrived"]) if row is not None and k not in clients}
    n = sum(len(federation.shares[k]) for k in (*clients, *rows_by_client))
    maps, begin, ordered = torch.empty(0), 0, {}
    for k, augmentation in [*zip(clients, draws, strict=True), *((k, None) for k in rows_by_client)]:
        if k in clients:
            row = _receive(federation, k, state["weights"][k], federation.shares[k], augmentation, "features", options)
            rows_by_client[k] = {**row, "round": federation.round}
        row, end = rows_by_client[k], begin + len(rows_by_client[k]["labels"])
        if not len(maps):  # one tensor for all maps; each client's maps are freed once they are copied
            maps = torch.empty(n, *row["maps"].shape[1:], dtype=row["maps"].dtype, device=federation.device)
        maps[begin:end] = row["maps"] if keeps_stale else row.pop("maps")
        ordered[k], begin = row, end
    if keeps_stale:
        state["arrived"] = [rows_by_client.get(k) for k in federation.clients]
    return maps[:begin], ordered


def _receive(
    federation: Federation, k: int, weights, indices: Tensor, augmentation, kind: str, options
) -> dict[str, Tensor]:
    """Return what the server receives for these examples of client k."""
    work = partial(extract, indices=indices, drawn=augmentation, dtype=DTYPES[options.feature_dtype])
    (row,) = federation.wire.up(kind, federation.map_clients(work, [k], [weights]), [k])
    return {name: rows.tensor for name, rows in row.items()}


def _server_federation(federation: Federation, maps: Tensor, y: Tensor, options) -> Federation:
    """Return the server as a federation of one, whose examples are maps."""
    n, channels = maps.shape[:2]
    zeros = torch.zeros(channels, dtype=torch.float64)
    data = Data("maps", maps, y, n, federation.data.classes, zeros, torch.ones_like(zeros))
    inputs = (tuple(maps.shape[1:]), len(federation.data.classes), options.feature_dim)
    build = partial(models.make, options.server_model, *inputs)
    shared = ("dtype", "precision", "seed", "threads", "round", "wire", "meter")
    shared = {name: getattr(federation, name) for name in shared}
    return Federation.of(data, [range(n)], [build], federation.device, party="server", **shared)


def _validate(federation: Federation, state: dict, clients: Sequence[int], server: Federation, options) -> float | None:
    """Return the accuracy of stems and server on the held-out examples of the round's clients; None if there are none.

    The clients send these examples without augmentation.
    """
    n_correct = n_total = 0
    for k in clients:
        if len(federation.validation) and len(federation.validation[k]):
            row = _receive(federation, k, state["weights"][k], federation.validation[k], {}, "validation features", options)
            n_correct += server.map_clients(
                partial(_count_correct, maps=row["maps"], y=row["labels"]), [0], [state["server"]]
            )[0]
            n_total += len(row["labels"])
    return n_correct / n_total if n_total else None


@torch.no_grad()
def _count_correct(server: Federation, k: int, weights, maps: Tensor, y: Tensor) -> int:
    model, n_correct = server.model(k, weights), 0
    for x, labels in zip(maps.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
        logits = server.count_flops(lambda x=x: model(x.to(server.dtype))[1], k, "validate", len(x))
        n_correct += (logits.argmax(1) == labels).sum().item()
    return n_correct


def _plateau(plateau: dict, accuracy: float) -> dict:
    """Return the plateau after a round.

    The learning rate falls to a tenth after more than PATIENCE rounds without improvement.
    """
    if accuracy > plateau["best"] * (1 + BETTER):
        return {**plateau, "best": accuracy, "bad": 0}
    if plateau["bad"] == PATIENCE:
        return {**plateau, "bad": 0, "factor": plateau["factor"] * FACTOR}
    return {**plateau, "bad": plateau["bad"] + 1}


# --- models ------------------------------------------------------------------------------------------------------------


def behind(federation: Federation, state: dict, options) -> Callable[[int], Relay]:
    """Return k -> client k's stem followed by the server's network."""
    rows, weights = state["weights"], state["server"]

    def answer(k: int) -> Relay:
        shape = StemNet.map_shape(federation.data.shape)
        with streams.torch_seeded("overwritten"):
            server = models.make(options.server_model, shape, len(federation.data.classes), options.feature_dim)
        server.load_state_dict(weights)
        server.precision = federation.precision
        stem = federation.model(k, rows[k]).stem
        return Relay(stem, server.to(federation.device, federation.dtype), DTYPES[options.feature_dtype]).eval()

    return answer


def rebuild(options: dict[str, Any], inputs: Sequence, client: int, answer: str) -> nn.Module:
    """Return the network of a saved model: `options` and `inputs` as in a run's `config.json`."""
    (shape, n_classes), model = inputs, models.of_client(options, inputs, client)
    if answer == "personal":
        return model
    server = models.make(options["server_model"], StemNet.map_shape(shape), n_classes, options["feature_dim"])
    return Relay(model.stem, server, DTYPES[options["feature_dtype"]])
