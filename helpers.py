"""The verbs of a communication round, in the words of the papers' pseudo-code.

Every verb takes and returns rows, lists with one entry a client, aligned with `clients`. No tensor that comes in is
changed in place. A function stands here only if two algorithms call it.
"""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from data import augment
from federation import Federation, Weights
from federation.meter import finite
from federation.optimizers import OPTIMIZERS, recalled
from models import Net

EVALUATION_BATCH = 250  # images at a time without gradients: what fits a processor's cache


class Batch(NamedTuple):
    """x [B, channels, height, width], normalised and changed by `--augment`; y int64 [B]; index int64 [B], positions in the
    client's own share, by which a teacher of single examples is indexed so that it cannot meet another image."""

    x: Tensor
    y: Tensor
    index: Tensor


class Round(NamedTuple):
    """The result of a round.

    `clients`: the clients that trained. `loss`: float [S], the training loss of each (of the server, where it alone
    trained). `models`: {name: k -> the current model of client k}; "global" is one model for all clients, any other name is
    one model per client; the first is the headline. `metrics`: further columns of the history, a value for the round or
    {client: value}. `local_weights`: the clients' rows of weights after their local epochs, where the models have others.
    """

    clients: Sequence[int]
    loss: Tensor
    models: dict[str, Callable[[int], Net]]
    metrics: dict[str, float | dict[int, float]] = {}  # noqa: RUF012
    local_weights: Sequence[Weights] | None = None


Loss = Callable[[Net, Batch, Any, Any], Tensor]


class Trained(NamedTuple):
    """What local epochs leave, a row a client: its weights, its optimizer's memory (None where that is not kept), its
    training loss, [S] in all, and how many steps it took."""

    weights: list[Weights]
    memory: list[Any]
    loss: Tensor
    steps: list[int]


def train(
    federation: Federation,
    clients: Sequence[int],
    weights: Sequence[Weights],
    loss: Loss,
    options,
    context: Sequence[Any] | None = None,
    memory: Sequence[Any] | None = None,
    only: Collection[str] | None = None,
    augmentation: Sequence[augment.Draw | None] | None = None,
) -> Trained:
    """Local epochs: every client trains its row of weights on its own share.

    `loss(model, batch, context, options)` is the loss of one client on one batch. `context`: rows of teachers and other
    constants. `memory`: rows of optimizer state, as returned by an earlier call (None of a client that has none yet; without
    rows every optimizer is fresh, and none is returned, which would have to travel from other processes). `only`: names
    of the parameters that are trained (None: all); a body or head without any computes as in evaluation, so that its
    BatchNorm statistics stay as they are. `augmentation`: rows of changes of the images that all epochs train on (None:
    new ones every epoch, as `--augment` says). A loss is the mean over the examples of all local epochs.

    Batches are `options.batch_size` long, of a new order every epoch; a left-over batch of one joins the batch before
    it. A share without examples takes no step, and its loss is 0. A client that straggles (`--straggler`) breaks off.

    A model may have `bounds`, {name: (least, most)} of some parameters. Each step ends with their projection onto these
    intervals, and they have no weight decay.
    """
    began, none = federation.meter.now(), [None] * len(clients)
    work = partial(_local_epochs, loss=loss, options=options, only=only, remembers=memory is not None)
    done = federation.map_clients(work, clients, weights, context or none, memory or none, augmentation or none)
    for k, (_, _, _, steps, samples, _) in zip(clients, done, strict=True):
        federation.meter.spent["steps", federation.party, k] += steps
        federation.meter.spent["samples", federation.party, k] += samples
    trained, remembered, losses, steps, _, sound = (list(part) for part in zip(*done, strict=True)) if done else ([],) * 6
    if federation.device.type == "cuda":
        torch.cuda.synchronize(federation.device)
    flags = torch.stack(sound).tolist() if done else []
    federation.meter.diverged |= {(federation.party, k) for k, is_sound in zip(clients, flags, strict=True) if not is_sound}
    federation.meter.seconds["train", federation.party] += federation.meter.now() - began
    return Trained(trained, remembered, torch.stack(losses), steps)


def _local_epochs(
    federation: Federation,
    k: int,
    weights: Weights,
    context,
    memory,
    augmentation,
    *,
    loss: Loss,
    options,
    only,
    remembers: bool,
):
    """One client's part of `train` -> (weights, memory, loss, steps, samples, whether weights and loss are
    finite)."""
    model = federation.model(k, weights).train()
    model.drop_from(federation.stream("dropout", k))  # anew: clients share their skeletons
    trained = {name: p for name, p in model.named_parameters() if only is None or name in only}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for part in model.children():
        part.train(any(parameter.requires_grad for parameter in part.parameters()))
    lr = learning_rate(options, federation.round)
    own, bounds = recalled(memory, trained), getattr(model, "bounds", {})
    free, bounded = ({name: p for name, p in trained.items() if (name in bounds) == inside} for inside in (False, True))
    move, undecayed = OPTIMIZERS[options.optimizer], replace(options, weight_decay=0.0) if bounded else options
    share, order, changes = federation.shares[k], federation.stream("batches", k), federation.stream("augment", k)

    def step(i: Tensor, changed: augment.Draw) -> Tensor:
        indices = share[i]
        images = federation.data.images(indices, federation.dtype, augment.part(changed, i))
        for parameter in trained.values():
            parameter.grad = None
        value = loss(model, Batch(images, federation.data.y[indices], i), context, options)
        value.backward()
        if options.clip_grad:
            torch.nn.utils.clip_grad_norm_(trained.values(), options.clip_grad)
        move(free, own, lr, options)
        if bounded:
            move(bounded, own, lr, undecayed)
            for name, parameter in bounded.items():
                parameter.data.clamp_(*bounds[name])
        return value.detach()

    def batches() -> Iterator[tuple[Tensor, augment.Draw]]:
        for _ in range(options.epoch_per_round):
            positions = torch.from_numpy(order.permutation(len(share))).to(federation.device)
            changed = augmentation
            if changed is None:
                changed = augment.draw(options.augment, len(share), federation.data.shape, changes, federation.device)
            yield from ((i, changed) for i in _batches(positions, options.batch_size))

    kind = "train", loss, frozenset(trained), federation.data.shape
    total, steps, samples = torch.zeros((), device=federation.device, dtype=torch.float64), 0, 0
    for i, changed in islice(batches(), _last_step(federation, k, options)):
        value = federation.count_flops(partial(step, i, changed), k, *kind, len(i))
        total += value * len(i)  # stays on the device: no waiting for it within an epoch
        steps, samples = steps + 1, samples + len(i)
    if steps:
        own = federation.meter.remembered(own, (federation.party, k % len(federation.skeletons), *kind))
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    kept, sound = {**(memory or {}), **own} if remembers else None, finite([total, *weights.values()])
    return weights, kept, total / max(samples, 1), steps, samples, sound


def _last_step(federation: Federation, k: int, options) -> int | None:
    """After how many local steps client k breaks off in this round, where it straggles: with a probability of `--straggler`,
    after a part of all its steps that is drawn evenly from (0, 1]. None: it does all its local epochs."""
    if federation.party != "client" or not options.straggler:
        return None
    straggles, part = federation.stream("straggler", k).random(2)
    in_an_epoch = len(_batches(torch.empty(len(federation.shares[k])), options.batch_size))
    return math.ceil((1 - part) * options.epoch_per_round * in_an_epoch) if straggles < options.straggler else None


def cross_entropy(model: Net, batch: Batch, context, options) -> Tensor:
    """The loss of supervised learning, mean over the batch, in nats."""
    _, logits = model(batch.x)
    return F.cross_entropy(logits, batch.y)


def squared_distance(model: Net, weights: Weights) -> Tensor:
    """||w - weights||^2 over the parameters w of a model that are trained: a term of a loss that draws it there."""
    return sum((w - weights[name]).square().sum() for name, w in trained_of(model).items())


def trained_of(model: Net) -> Weights:
    """The parameters of a model that are trained, by name."""
    return {name: w for name, w in model.named_parameters() if w.requires_grad}


def gradient(model: Net, batch: Batch, weights: Weights) -> Weights:
    """The gradient of the cross-entropy of a batch at `weights`, which stand in the place of parameters of the model. No
    gradient goes through it."""
    at = {name: w.detach().requires_grad_() for name, w in weights.items()}
    with torch.enable_grad():
        _, logits = functional_call(model, at, (batch.x,))
        slopes = torch.autograd.grad(F.cross_entropy(logits, batch.y), list(at.values()))
    return dict(zip(at, slopes, strict=True))


def gradient_descent(
    slope: Callable[[Weights], Weights], weights: Weights, lr: float, steps: int = 1, pull: float = 0.0
) -> Weights:
    """theta after so many steps of gradient descent from theta = weights on f(theta) + pull / 2 ||theta - weights||^2, where
    slope(theta) is the gradient of f."""
    theta = weights
    for _ in range(steps):
        g = slope(theta)
        theta = {name: t - lr * (g[name] + pull * (t - weights[name])) for name, t in theta.items()}
    return theta


def linear_term(model: Net, direction: Weights) -> Tensor:
    """A term of a loss that is 0, and whose gradient is `direction`, of the parameters that it names: what is added to every
    local step."""
    slope = sum((direction[name] * w).sum() for name, w in model.named_parameters() if name in direction)
    return slope - slope.detach()


def _batches(positions: Tensor, batch_size: int) -> list[Tensor]:
    """Cut int64 [n] into batches; a left-over batch of one joins the one before, for BatchNorm has no use for it."""
    cut = list(positions.split(batch_size))
    if len(cut) > 1 and len(cut[-1]) == 1 < batch_size:
        cut[-2:] = [torch.cat(cut[-2:])]
    return cut if len(positions) else []


# the factor of the learning rate in a round, by the part of the rounds that is done before it: 0 in the first round
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def learning_rate(options, round: int) -> float:
    """`--lr` in a round, as `--lr_schedule` has it."""
    return options.lr * SCHEDULES[options.lr_schedule]((round - 1) / options.rounds)


# --- models of their own: the state of algorithms whose clients keep what they trained ----------------------------------


def own_models(federation: Federation) -> dict[str, list]:
    """The part of a state that holds models which stay with their clients: rows "weights", each client's own initial
    ones, and "memory", of its optimizer."""
    everyone = federation.clients
    return {"weights": [federation.initial(k) for k in everyone], "memory": [None for _ in everyone]}


def train_own(
    federation: Federation, clients: Sequence[int], state: dict, loss: Loss, options, context=None, augmentation=None
) -> Tensor:
    """`train` for the models of `own_models`, whose rows it replaces in the state -> losses [S]."""
    weights, memory = select_rows(state["weights"], clients), select_rows(state["memory"], clients)
    trained = train(federation, clients, weights, loss, options, context, memory, augmentation=augmentation)
    state["weights"] = replace_rows(state["weights"], clients, trained.weights)
    state["memory"] = replace_rows(state["memory"], clients, trained.memory)
    return trained.loss


# --- what a client says ----------------------------------------------------------------------------------------------------


class Outputs(NamedTuple):
    """What a model says of n examples: features [n, D], logits [n, C], and their labels y int64 [n]."""

    features: Tensor
    logits: Tensor
    y: Tensor


@torch.no_grad()
def outputs(federation: Federation, k: int, weights: Weights) -> Outputs:
    """What client k's model says of its own training share, in evaluation mode, in the order of the share.

    Part of the work of one client, to be called within `federation.map_clients`.
    """
    model, share, parts = federation.model(k, weights), federation.shares[k], []
    for i in share.split(EVALUATION_BATCH):
        parts.append(
            federation.count_flops(lambda i=i: model(federation.data.images(i, federation.dtype)), k, "outputs", len(i))
        )
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Outputs(features, logits, federation.data.y[share])


def adapted(federation: Federation, k: int, weights: Weights, *, lr: float, steps: int = 1, pull: float = 0.0) -> Weights:
    """Return client k's weights after `gradient_descent` on f_k, the mean cross-entropy over its whole training share,
    without `--augment` and in evaluation mode. Call it within `federation.map_clients`, as part of one client's work."""
    model, share = federation.model(k, weights), federation.shares[k]

    def part(theta: Weights, i: Tensor) -> Weights:
        return gradient(model, Batch(federation.data.images(i, federation.dtype), federation.data.y[i], i), theta)

    def slope(theta: Weights) -> Weights:
        total = {name: torch.zeros_like(t) for name, t in theta.items()}
        for i in share.split(EVALUATION_BATCH) if len(share) else ():
            found = federation.count_flops(partial(part, theta, i), k, "gradient", federation.data.shape, len(i))
            total = {name: t + len(i) / len(share) * found[name] for name, t in total.items()}
        return total

    begin = {name: weights[name] for name in trained_of(model)}
    return {**weights, **gradient_descent(slope, begin, lr, steps, pull)}


def class_means(values: Tensor, y: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Mean of values [n, D] by class -> (means [C, D], counts int64 [C]). An absent class has mean 0 and count 0."""
    counts = torch.bincount(y, minlength=n_classes)
    one_hot = F.one_hot(y, n_classes).to(values.dtype)  # a product: index_add is not repeatable on CUDA
    return one_hot.T @ values / counts.clamp(min=1).unsqueeze(1), counts


def average(rows: Sequence[Any], n: Sequence[Tensor]) -> Any:
    """sum_k n_k row_k / sum_k n_k over rows of tensors, or of dicts of tensors; n_k broadcasts against the row.

    Where all n_k are 0 the average is 0. Integer tensors (BatchNorm's counter of batches) are not averaged: the first
    row's are kept.
    """
    if isinstance(rows[0], dict):
        return {name: average([row[name] for row in rows], n) for name in rows[0]}
    if not rows[0].is_floating_point():
        return rows[0]
    total = sum(n)
    weighted = sum(n_k.to(row.dtype) * row for row, n_k in zip(rows, n, strict=True))
    return weighted / torch.where(total == 0, 1, total).to(weighted.dtype)


def mean(rows: Sequence[Any]) -> Any:
    """sum_k row_k / S over S rows: `average`, where all count alike."""
    return average(rows, [torch.tensor(1)] * len(rows))


def parameters(federation: Federation, row: Weights) -> Weights:
    """The part of a row that is learnt by gradients: no buffer. Of the first architecture."""
    learnt = {name for name, _ in federation.skeletons[0].named_parameters()}
    return {name: w for name, w in row.items() if name in learnt}


def subtract(one: Weights, other: Weights) -> Weights:
    """one - other, of the weights that `other` names."""
    return {name: one[name] - w for name, w in other.items()}


def add_scaled(row: Weights, step: Weights, rate: float | Tensor) -> Weights:
    """row + rate step, of the weights that `step` names; the others as they are."""
    return {**row, **{name: row[name] + rate * change for name, change in step.items()}}


# --- one model for all: the state of algorithms that average weights ------------------------------------------------------


def one_model(federation: Federation, kept: Collection[str] = (), frozen: Collection[str] = ()) -> dict[str, Any]:
    """The part of a state that holds one model for all, from the common start: "server", the weights that travel; "kept",
    those named in `kept`, which stay with a client, and "own", {client: its row of them} of each that has taken part;
    "frozen", those that nobody changes, nor sends, since everyone draws the common start from the run's seed."""
    (frozen,), (moving,) = _parted([federation.initial()], frozen)
    (kept,), (server,) = _parted([moving], kept)
    return {"server": server, "kept": kept, "own": {}, "frozen": frozen}


def download(federation: Federation, state: dict, clients: Sequence[int]) -> list[Weights]:
    """What the clients of a round start from: the server's weights, which it sends to each, and beside them their own."""
    sent = federation.wire.broadcast("weights", state["server"], clients)
    own, kept, frozen = state["own"], state["kept"], state["frozen"]
    return [{**row, **own.get(k, kept), **frozen} for k, row in zip(clients, sent, strict=True)]


def aggregate(federation: Federation, state: dict, clients: Sequence[int], weights: Sequence[Weights]) -> None:
    """The clients keep what is their own and send the rest, and n_k; the server's weights become sum_k n_k w_k / sum_k n_k
    (McMahan et al. 2017, Algorithm 1)."""
    weights = keep_own(state, clients, weights)
    weights = federation.wire.up("weights", weights, clients)
    n = federation.wire.up("n_k", federation.sizes(clients), clients)
    state["server"] = average(weights, n)


def keep_own(state: dict, clients: Sequence[int], weights: Sequence[Weights]) -> list[Weights]:
    """The clients' own rows in the state are replaced -> the rows of what is to be sent."""
    own, rest = _parted(weights, state["kept"])
    if state["kept"]:
        state["own"] = replace_rows(state["own"], clients, own)
    return _parted(rest, state["frozen"])[1]


def shared_model(federation: Federation, state: dict) -> dict[str, Callable[[int], Net]]:
    """The answer: one model for all where the clients keep nothing of their own, and else a model a client."""
    common, own, kept = {**state["server"], **state["frozen"]}, state["own"], state["kept"]
    if not kept:
        return {"global": model_of(federation, common)}
    return {"personal": lambda k: federation.model(k, {**common, **own.get(k, kept)})}


def personal_models(federation: Federation) -> dict[str, Any]:
    """The part of a state that holds one model for all, as `one_model`, and a personal one beside it: "personal", {client:
    its weights} of each that has taken part, and "start", those of all others."""
    state = one_model(federation)
    return {**state, "personal": {}, "start": state["server"]}


def personal_model(federation: Federation, state: dict) -> dict[str, Callable[[int], Net]]:
    """The answers of `personal_models`: a model a client, and the one for all."""
    personal, start = state["personal"], state["start"]
    return {"personal": lambda k: federation.model(k, personal.get(k, start)), **shared_model(federation, state)}


def _parted(rows: Sequence[Weights], names: Collection[str]) -> tuple[list[Weights], list[Weights]]:
    """Rows of weights cut in two: what is named, and the rest."""
    named = [{name: tensor for name, tensor in row.items() if name in names} for row in rows]
    return named, [{name: tensor for name, tensor in row.items() if name not in names} for row in rows]


# --- rows ---------------------------------------------------------------------------------------------------------------


def select_rows(rows: Sequence[Any] | dict[int, Any], clients: Sequence[int], other: Any = None) -> list[Any]:
    """The rows of these clients; of a dict `other` where it has none."""
    return [rows.get(k, other) if isinstance(rows, dict) else rows[k] for k in clients]


def replace_rows(rows: Any, clients: Sequence[int], new: Sequence[Any]) -> Any:
    """A new list, or dict by client, of all rows, those of `clients` replaced."""
    replaced = dict(rows) if isinstance(rows, dict) else list(rows)
    for k, row in zip(clients, new, strict=True):
        replaced[k] = row
    return replaced


def model_of(federation: Federation, weights: Weights | Sequence[Weights]) -> Callable[[int], Net]:
    """k -> model of client k: all with the same weights (a dict), or each with its own row."""
    return lambda k: federation.model(k, weights if isinstance(weights, dict) else weights[k])


# --- names of earlier versions, for methods that people have written -----------------------------------------------------

RENAMED = {
    "pick": "select_rows",
    "put": "replace_rows",
    "minus": "subtract",
    "moved": "add_scaled",
    "descended": "gradient_descent",
    "steered": "linear_term",
}


def __getattr__(name: str) -> Any:
    if name not in RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"helpers.{name} is now helpers.{RENAMED[name]}; the old name will go", DeprecationWarning, stacklevel=2)
    return globals()[RENAMED[name]]
