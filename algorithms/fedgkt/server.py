"""The server of FedGKT: what it is sent, how it learns from it, and what it answers."""

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
PATIENCE, FACTOR, BETTER = 10, 0.1, 1e-4  # of torch's ReduceLROnPlateau, as the authors use it


class Relay(nn.Module):
    """A client's stem and the server's network behind it: forward(x) -> (features, logits). The map between them is rounded
    to `dtype`, as it is on the wire."""

    def __init__(self, stem: nn.Module, server: models.Net, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem, self.server, self.dtype = stem, server, dtype

    @property
    def precision(self) -> str:
        """The server's network's; the stem is computed alike."""
        return self.server.precision

    @precision.setter
    def precision(self, precision: str) -> None:
        self.server.precision = precision

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.server(models.computed(self.stem, x, self.precision).to(self.dtype).to(x.dtype))


# --- before the first round --------------------------------------------------------------------------------------------


def check(options, data: Data, n_train: int) -> str:
    """How much memory the server needs, in words. Raises UserError where the networks do not fit at the split, or the maps
    of n_train examples not into memory."""
    for name in options.model:
        with streams.torch_seeded("tried out"):
            if not isinstance(models.make(name, data.shape, len(data.classes), options.feature_dim), StemNet):
                raise UserError(f"--model {name}: has no stem whose map could be sent; must be one that has: ResNet8, ...")
    shape = StemNet.map_shape(data.shape)
    with streams.torch_seeded("tried out"):
        try:
            models.build(options.server_model, shape, len(data.classes), options.feature_dim)
        except UserError:
            size = "x".join(map(str, shape[1:]))
            raise UserError(
                f"--server_model {options.server_model}: does not fit maps of {shape[0]} channels and {size} pixels, which "
                f"--model {','.join(options.model)} sends"
            ) from None
    copies = 2 if _keeps(options.participation, options) else 1  # what is kept, and what is learned from
    needed = copies * n_train * (torch.Size(shape).numel() * DTYPES[options.feature_dtype].itemsize)
    cuda = options.device.startswith("cuda")
    free = torch.cuda.mem_get_info(options.device)[0] if cuda else psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"--model {','.join(options.model)}: the server would keep {needed / 2**30:.1f} GiB of maps on "
            f"{options.device}, where {free / 2**30:.1f} GiB are free; --feature_dtype float16 halves it, --reduced too"
        )
    words = [f"fedgkt: the server keeps {needed / 2**30:.2f} GiB of maps on {options.device}"]
    if options.validation:
        words.append(f"{options.validation:.0%} of each client's examples are held out to tell when its learning rate falls")
    if math.isfinite(options.alpha):
        words.append("--alpha is the Dirichlet concentration, the weight of the authors' --alpha is --kd_alpha")
    return "; ".join(words)


def _keeps(participation: float, options) -> bool:
    """Whether the server goes on learning from what absent clients sent last."""
    return participation < 1 and options.stale == "keep"


# --- the clients' part -------------------------------------------------------------------------------------------------


def start(federation: Federation, options) -> dict[str, Any]:
    """The server's part of the state: its network, its optimizer's memory, the plateau, and what each client sent last."""
    nothing = torch.zeros(0, *StemNet.map_shape(federation.data.shape), device=federation.device)
    weights = _of(federation, nothing, nothing[:, 0, 0, 0].long(), options).initial()
    return {
        "server": weights,
        "server_memory": None,
        "plateau": {"best": -1.0, "bad": 0, "factor": 1.0},
        "arrived": [None for _ in federation.clients],
    }


def teachers(federation: Federation, state: dict, clients: Sequence[int], options) -> tuple[list[dict], list]:
    """What each client trains with: {"targets" [n_k, C], "weight"} and the draw of its images that the targets belong to. A
    client without targets yet, or without distillation, has weight 0 and draws anew."""
    given, drawn, n_classes = [], [], len(federation.data.classes)
    for k in clients:
        n, targets = len(federation.shares[k]), state["targets"][k]
        taught = options.distill_client == "1" and targets is not None and len(targets) == n
        if not taught:
            targets = torch.zeros(n, n_classes, dtype=federation.dtype, device=federation.device)
        given.append({"targets": targets, "weight": options.kd_alpha if taught else 0.0})
        drawn.append(state["draws"][k] if taught and options.augment_extract == "1" else None)
    return given, drawn


def draw(federation: Federation, k: int, options) -> augment.Draw:
    """The one draw of client k's images in this round that is extracted, and trained on in the next."""
    name = options.augment if options.augment_extract == "1" else "none"
    stream = federation.stream("extract", k)
    return augment.draw(name, len(federation.shares[k]), federation.data.shape, stream, federation.device)


@torch.no_grad()
def extract(federation: Federation, k: int, weights, indices: Tensor, drawn: augment.Draw, dtype: torch.dtype):
    """What client k's network says of these examples in evaluation mode: maps [n, ...], logits [n, C]; and labels [n]."""
    model = federation.model(k, weights)

    def say(i: Tensor) -> tuple[Tensor, Tensor]:
        middle = model.cut(federation.data.images(indices[i], federation.dtype, augment.part(drawn, i)))
        return middle.to(dtype), model.tail(middle)[1]

    cut = torch.arange(len(indices), device=federation.device).split(EVALUATION_BATCH)
    maps, logits = zip(*(federation.count_flops(partial(say, i), k, "extract", len(i)) for i in cut), strict=True)
    return {"maps": Rows(torch.cat(maps)), "logits": Rows(torch.cat(logits)), "labels": Rows(federation.data.y[indices])}


# --- the server's part -------------------------------------------------------------------------------------------------


class Learned(NamedTuple):
    """`logits`: the server's logits [n_k, C] for each client of the round. `metrics`: columns of the history."""

    logits: list[Tensor]
    metrics: dict[str, float]


def learn(federation: Federation, state: dict, clients: Sequence[int], draws, loss: Callable, options) -> Learned:
    """The server's phase: it receives what the clients extract, learns from all of it in random order, and says what it
    thinks of every example. Its part of the state is replaced."""
    maps, held = gather(federation, state, clients, draws, options)
    server = _of(federation, maps, torch.cat([row["labels"] for row in held.values()]), options)
    targets = torch.cat([row["logits"] for row in held.values()])
    given = {"targets": targets, "said": torch.zeros_like(targets)}
    asked = replace(
        options, epoch_per_round=options.epochs_server, augment="none", lr=options.lr * state["plateau"]["factor"]
    )
    trained = train(server, [0], [state["server"]], loss, asked, [given], [state["server_memory"]])
    (state["server"],), (state["server_memory"],) = trained.weights, trained.memory
    ages = [(len(row["labels"]), federation.round - row["round"]) for row in held.values()]
    metrics = {
        "server_loss": trained.loss.item(),
        "server_lr": learning_rate(asked, federation.round),
        "feature_age_mean": sum(n * age for n, age in ages) / max(len(targets), 1),
        "feature_age_max": float(max(age for _, age in ages)),
    }
    validated = _validate(federation, state, clients, server, options)
    if validated is not None:
        state["plateau"] = _plateau(state["plateau"], validated)
        metrics["server_validation"] = validated
    logits = dict(zip(held, given["said"].split([len(row["labels"]) for row in held.values()]), strict=True))
    return Learned([logits[k].clone() for k in clients], metrics)


def gather(federation: Federation, state: dict, clients: Sequence[int], draws, options) -> tuple[Tensor, dict[int, dict]]:
    """What the server learns from: one tensor of all maps, and the other rows of each client in their order there. The
    clients of the round send anew; what the others sent last stays where the server keeps it."""
    keeps = _keeps(federation.participation, options)
    held = {k: row for k, row in enumerate(state["arrived"]) if row is not None and k not in clients}
    n = sum(len(federation.shares[k]) for k in (*clients, *held))
    maps, place, ordered = torch.empty(0), 0, {}
    for k, drawn in [*zip(clients, draws, strict=True), *((k, None) for k in held)]:
        if k in clients:
            row = _sent(federation, k, state["weights"][k], federation.shares[k], drawn, "features", options)
            held[k] = {**row, "round": federation.round}
        row, end = held[k], place + len(held[k]["labels"])
        if not len(maps):  # one tensor for all maps; a client's own are let go as soon as they stand in it
            maps = torch.empty(n, *row["maps"].shape[1:], dtype=row["maps"].dtype, device=federation.device)
        maps[place:end] = row["maps"] if keeps else row.pop("maps")
        ordered[k], place = row, end
    if keeps:
        state["arrived"] = [held.get(k) for k in federation.clients]
    return maps[:place], ordered


def _sent(federation: Federation, k: int, weights, indices: Tensor, drawn, kind: str, options) -> dict[str, Tensor]:
    """What the server receives of these examples of client k."""
    work = partial(extract, indices=indices, drawn=drawn, dtype=DTYPES[options.feature_dtype])
    (row,) = federation.wire.up(kind, federation.map_clients(work, [k], [weights]), [k])
    return {name: rows.tensor for name, rows in row.items()}


def _of(federation: Federation, maps: Tensor, y: Tensor, options) -> Federation:
    """The server as a federation of one, whose examples are maps."""
    n, channels = maps.shape[:2]
    zeros = torch.zeros(channels, dtype=torch.float64)
    data = Data("maps", maps, y, n, federation.data.classes, zeros, torch.ones_like(zeros))
    inputs = (tuple(maps.shape[1:]), len(federation.data.classes), options.feature_dim)
    build = partial(models.make, options.server_model, *inputs)
    same = ("dtype", "precision", "seed", "threads", "round", "wire", "meter")
    same = {name: getattr(federation, name) for name in same}
    return Federation.of(data, [range(n)], [build], federation.device, party="server", **same)


def _validate(federation: Federation, state: dict, clients: Sequence[int], server: Federation, options) -> float | None:
    """The accuracy of stems and server on what the clients of the round hold out, which they send without augmentation; None
    where they hold nothing out."""
    right = total = 0
    for k in clients:
        if len(federation.validation) and len(federation.validation[k]):
            row = _sent(federation, k, state["weights"][k], federation.validation[k], {}, "validation features", options)
            right += server.map_clients(partial(_right, maps=row["maps"], y=row["labels"]), [0], [state["server"]])[0]
            total += len(row["labels"])
    return right / total if total else None


@torch.no_grad()
def _right(server: Federation, k: int, weights, maps: Tensor, y: Tensor) -> int:
    model, right = server.model(k, weights), 0
    for x, labels in zip(maps.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
        logits = server.count_flops(lambda x=x: model(x.to(server.dtype))[1], k, "validate", len(x))
        right += (logits.argmax(1) == labels).sum().item()
    return right


def _plateau(plateau: dict, accuracy: float) -> dict:
    """After more than PATIENCE rounds without a better accuracy the learning rate is a tenth."""
    if accuracy > plateau["best"] * (1 + BETTER):
        return {**plateau, "best": accuracy, "bad": 0}
    if plateau["bad"] == PATIENCE:
        return {**plateau, "bad": 0, "factor": plateau["factor"] * FACTOR}
    return {**plateau, "bad": plateau["bad"] + 1}


# --- answers -----------------------------------------------------------------------------------------------------------


def behind(federation: Federation, state: dict, options) -> Callable[[int], Relay]:
    """k -> client k's stem with the server's network behind it."""
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
    """The network of a saved answer: `options` and `inputs` as in a run's `config.json`."""
    (shape, n_classes), model = inputs, models.of_client(options, inputs, client)
    if answer == "personal":
        return model
    server = models.make(options["server_model"], StemNet.map_shape(shape), n_classes, options["feature_dim"])
    return Relay(model.stem, server, DTYPES[options["feature_dtype"]])
