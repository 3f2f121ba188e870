"""The steps of a communication round, named as in the papers' pseudo-code.

Functions take and return rows: lists with one entry per client, in the order of `clients`. No function changes an input
tensor in place. A function belongs here only if two algorithms call it.
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

import streams
from data import augment
from federation import Federation, Weights, local
from federation.local import SCHEDULES, Batch, Common, Loss, learning_rate  # noqa: F401 - words of algorithms
from models import Net

EVALUATION_BATCH = 250  # images in a batch without gradients: the activations fit a CPU's cache


class Round(NamedTuple):
    """The result of a round.

    `clients`: the clients that trained. `loss`: float [S], the training loss of each client (of the server, if only the
    server trained). `models`: {name: k -> the current model of client k}; "global" is one model for all clients, any other
    name is one model per client; the first is the headline, which tables show. `metrics`: further columns of the history, a
    value for the round or {client: value}. `local_weights`: the clients' weights after their local epochs, if these differ
    from the weights of `models`.
    """

    clients: Sequence[int]
    loss: Tensor
    models: dict[str, Callable[[int], Net]]
    metrics: dict[str, float | dict[int, float]] = {}  # noqa: RUF012
    local_weights: Sequence[Weights] | None = None


class Trained(NamedTuple):
    """The result of local epochs, with one row per client.

    `weights`: the weights. `memory`: the optimizer's state (None if it is not kept). `loss`: the training losses [S].
    `steps`: the number of local steps.
    """

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
    """Train every client's row of weights on the client's own share for the local epochs.

    `loss(model, batch, context, options)` is the loss of one client on one batch. `context`: rows of teachers and other
    constants. `memory`: rows of optimizer state, as an earlier call returned them; the row of a client without state is
    None. Without `memory`, every optimizer is new and no state is returned, because other processes would have to send
    the state. `only`: names of the parameters to train (None: all). A body or head without a trained parameter
    is in evaluation mode, so that its BatchNorm statistics do not change. `augmentation`: rows of image changes that all
    epochs share (None: new changes every epoch, as `--augment` says). A loss is the mean over the examples of all local
    epochs.

    Batches have `options.batch_size` examples, in a new order every epoch. A last batch of one example is joined to the
    batch before it. A share without examples takes no step, and its loss is 0. A straggler (`--straggler`) stops early.

    A model may have `bounds`, {name: (least, most)} of some parameters. Each step ends with the projection of these
    parameters onto their intervals, and they have no weight decay.
    """
    start_time, no_rows = federation.meter.now(), [None] * len(clients)
    common = Common(loss, options, only, memory is not None, federation.meter.next_call())
    rows = (weights, context or no_rows, memory or no_rows, augmentation or no_rows)
    results = local.epochs(federation, clients, rows, common)
    for k, (_, _, _, steps, samples, _) in zip(clients, results, strict=True):
        federation.meter.spent["steps", federation.party, k] += steps
        federation.meter.spent["samples", federation.party, k] += samples
    trained, remembered, losses, steps, _, are_finite = (
        (list(part) for part in zip(*results, strict=True)) if results else ([],) * 6
    )
    if federation.device.type == "cuda":
        torch.cuda.synchronize(federation.device)
    flags = torch.stack(are_finite).tolist() if results else []
    federation.meter.diverged |= {
        (federation.party, k) for k, is_finite in zip(clients, flags, strict=True) if not is_finite
    }
    federation.meter.seconds["train", federation.party] += federation.meter.now() - start_time
    return Trained(trained, remembered, torch.stack(losses), steps)


def cross_entropy(model: Net, batch: Batch, context, options) -> Tensor:
    """Return the cross-entropy of supervised learning: the mean over the batch, in nats."""
    _, logits = model(batch.x)
    return F.cross_entropy(logits, batch.y)


def squared_distance(model: Net, weights: Weights) -> Tensor:
    """Return ||w - weights||^2 over the trained parameters w of a model: a loss term that pulls the model to `weights`."""
    return sum((w - weights[name]).square().sum() for name, w in trained_of(model).items())


def trained_of(model: Net) -> Weights:
    """Return the trained parameters of a model, by name."""
    return {name: w for name, w in model.named_parameters() if w.requires_grad}


def gradient(model: Net, batch: Batch, weights: Weights) -> Weights:
    """Return the gradient of a batch's cross-entropy at `weights`, which replace parameters of the model.

    No gradient flows through the result.
    """
    point = {name: w.detach().requires_grad_() for name, w in weights.items()}
    with torch.enable_grad():
        _, logits = functional_call(model, point, (batch.x,))
        gradients = torch.autograd.grad(F.cross_entropy(logits, batch.y), list(point.values()))
    return dict(zip(point, gradients, strict=True))


def gradient_descent(
    slope: Callable[[Weights], Weights], weights: Weights, lr: float, steps: int = 1, pull: float = 0.0
) -> Weights:
    """Return theta after `steps` steps of gradient descent on f(theta) + pull / 2 ||theta - weights||^2.

    Descent starts at theta = weights. slope(theta) is the gradient of f.
    """
    theta = weights
    for _ in range(steps):
        g = slope(theta)
        theta = {name: t - lr * (g[name] + pull * (t - weights[name])) for name, t in theta.items()}
    return theta


def linear_term(model: Net, direction: Weights) -> Tensor:
    """Return a loss term with the value 0 whose gradient is `direction`, for the parameters that `direction` names.

    The term adds `direction` to every local step.
    """
    inner_product = sum((direction[name] * w).sum() for name, w in model.named_parameters() if name in direction)
    return inner_product - inner_product.detach()


# --- personal models: the state of algorithms whose clients keep the models that they train ------------------------------


def own_models(federation: Federation) -> dict[str, list]:
    """Return the part of a state that holds models which stay with their clients.

    Rows "weights": each client's own initial weights. Rows "memory": the state of each client's optimizer.
    """
    everyone = federation.clients
    return {"weights": [federation.initial(k) for k in everyone], "memory": [None for _ in everyone]}


def train_own(
    federation: Federation, clients: Sequence[int], state: dict, loss: Loss, options, context=None, augmentation=None
) -> Tensor:
    """Call `train` on the models of `own_models` and replace their rows in the state; return the losses [S]."""
    weights, memory = select_rows(state["weights"], clients), select_rows(state["memory"], clients)
    trained = train(federation, clients, weights, loss, options, context, memory, augmentation=augmentation)
    state["weights"] = replace_rows(state["weights"], clients, trained.weights)
    state["memory"] = replace_rows(state["memory"], clients, trained.memory)
    return trained.loss


# --- outputs of a client's model -------------------------------------------------------------------------------------------


class Outputs(NamedTuple):
    """A model's outputs on n examples: features [n, D], logits [n, C], and the labels y int64 [n]."""

    features: Tensor
    logits: Tensor
    y: Tensor


@torch.no_grad()
def outputs(federation: Federation, k: int, weights: Weights) -> Outputs:
    """Return the outputs of client k's model on the client's training share, in evaluation mode, in the order of the share.

    Call it within `federation.map_clients`, as part of one client's work.
    """
    model, share, parts = federation.model(k, weights), federation.shares[k], []
    for i in share.split(EVALUATION_BATCH):
        parts.append(
            federation.count_flops(lambda i=i: model(federation.data.images(i, federation.dtype)), k, "outputs", len(i))
        )
    features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Outputs(features, logits, federation.data.y[share])


def adapted(federation: Federation, k: int, weights: Weights, *, lr: float, steps: int = 1, pull: float = 0.0) -> Weights:
    """Return client k's weights after `gradient_descent` on f_k, the mean cross-entropy over its whole training share.

    The images are without `--augment` and the model is in evaluation mode. Call it within `federation.map_clients`, as part
    of one client's work.
    """
    model, share = federation.model(k, weights), federation.shares[k]

    def part(theta: Weights, i: Tensor) -> Weights:
        return gradient(model, Batch(federation.data.images(i, federation.dtype), federation.data.y[i], i), theta)

    def slope(theta: Weights) -> Weights:
        total = {name: torch.zeros_like(t) for name, t in theta.items()}
        for i in share.split(EVALUATION_BATCH) if len(share) else ():
            batch_gradient = federation.count_flops(partial(part, theta, i), k, "gradient", federation.data.shape, len(i))
            total = {name: t + len(i) / len(share) * batch_gradient[name] for name, t in total.items()}
        return total

    initial = {name: weights[name] for name in trained_of(model)}
    return {**weights, **gradient_descent(slope, initial, lr, steps, pull)}


def class_means(values: Tensor, y: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean of values [n, D] by class: (means [C, D], counts int64 [C]).

    An absent class has mean 0 and count 0.
    """
    counts = torch.bincount(y, minlength=n_classes)
    one_hot = F.one_hot(y, n_classes).to(values.dtype)  # a matrix product, since index_add is not repeatable on CUDA
    return one_hot.T @ values / counts.clamp(min=1).unsqueeze(1), counts


def sent_means(
    federation: Federation, k: int, values: Tensor, y: Tensor, options, purpose: str = "means"
) -> tuple[Tensor, Tensor]:
    """Return `class_means` of client k as it sends them: with `--dp_clip` and `--dp_noise`, clipped and with noise.

    Each example's values are clipped to an L2 norm of C, and the sum of a class gets noise of standard deviation S C per
    number. Counts stay exact. `purpose`: the name of the means among those of a round.
    """
    n_classes = len(federation.data.classes)
    if not options.dp_clip:
        return class_means(values, y, n_classes)
    scales = options.dp_clip / values.norm(dim=1, keepdim=True).clamp(min=options.dp_clip)
    means, counts = class_means(values * scales, y, n_classes)
    draw = federation.stream(f"dp {purpose}", k).standard_normal(tuple(means.shape))
    noise = options.dp_noise * options.dp_clip * streams.moved(torch.from_numpy(draw), means.device).to(means.dtype)
    return torch.where(counts.unsqueeze(1) > 0, means + noise / counts.clamp(min=1).unsqueeze(1), means), counts


def average(rows: Sequence[Any], n: Sequence[Tensor]) -> Any:
    """Return sum_k n_k row_k / sum_k n_k over rows of tensors, or of dicts of tensors; n_k broadcasts against the row.

    If all n_k are 0, the average is 0. Integer tensors (BatchNorm's counter of batches) are not averaged: the result has the
    tensor of the first row.
    """
    if isinstance(rows[0], dict):
        return {name: average([row[name] for row in rows], n) for name in rows[0]}
    if not rows[0].is_floating_point():
        return rows[0]
    total = sum(n)
    weighted = sum(n_k.to(row.dtype) * row for row, n_k in zip(rows, n, strict=True))
    return weighted / torch.where(total == 0, 1, total).to(weighted.dtype)


def mean(rows: Sequence[Any]) -> Any:
    """Return sum_k row_k / S over S rows: `average` with equal weights."""
    return average(rows, [torch.tensor(1)] * len(rows))


def parameters(federation: Federation, row: Weights) -> Weights:
    """Return the parameters in a row, without its buffers. The names are from the first architecture."""
    names = {name for name, _ in federation.skeletons[0].named_parameters()}
    return {name: w for name, w in row.items() if name in names}


def subtract(weights: Weights, other: Weights) -> Weights:
    """Return weights - other, for the weights that `other` names."""
    return {name: weights[name] - w for name, w in other.items()}


def add_scaled(row: Weights, step: Weights, rate: float | Tensor) -> Weights:
    """Return row + rate * step for the weights that `step` names; the other weights do not change."""
    return {**row, **{name: row[name] + rate * change for name, change in step.items()}}


# --- one global model: the state of algorithms that average weights -------------------------------------------------------


def one_model(federation: Federation, kept: Collection[str] = (), frozen: Collection[str] = ()) -> dict[str, Any]:
    """Return the part of a state that holds one global model, from the common start.

    "server": the weights that are sent. "kept": initial values of the weights named in `kept`, which stay with a client.
    "own": {client: its row of the kept weights} for each client that has taken part. "frozen": weights that nobody changes
    or sends, because every party draws the common initial weights from the run's seed.
    """
    (frozen,), (trained_part,) = _parted([federation.initial()], frozen)
    (kept,), (server,) = _parted([trained_part], kept)
    return {"server": server, "kept": kept, "own": {}, "frozen": frozen}


def download(federation: Federation, state: dict, clients: Sequence[int]) -> list[Weights]:
    """Return the rows from which a round's clients start.

    The server sends its weights to each client; the client adds its own weights and the frozen ones.
    """
    sent = federation.wire.broadcast("weights", state["server"], clients)
    own, kept, frozen = state["own"], state["kept"], state["frozen"]
    return [{**row, **own.get(k, kept), **frozen} for k, row in zip(clients, sent, strict=True)]


def aggregate(federation: Federation, state: dict, clients: Sequence[int], weights: Sequence[Weights]) -> None:
    """Average the clients' weights: each client keeps its own part and sends the rest with n_k.

    The server's weights become sum_k n_k w_k / sum_k n_k (McMahan et al. 2017, Algorithm 1).
    """
    weights = keep_own(state, clients, weights)
    weights = federation.wire.up("weights", weights, clients)
    n = federation.wire.up("n_k", federation.sizes(clients), clients)
    state["server"] = average(weights, n)


def keep_own(state: dict, clients: Sequence[int], weights: Sequence[Weights]) -> list[Weights]:
    """Replace the clients' own rows in the state; return the rows to send."""
    own, rest = _parted(weights, state["kept"])
    if state["kept"]:
        state["own"] = replace_rows(state["own"], clients, own)
    return _parted(rest, state["frozen"])[1]


def shared_model(federation: Federation, state: dict) -> dict[str, Callable[[int], Net]]:
    """Return the models of a round: one global model if the clients keep no weights, else one model per client."""
    common, own, kept = {**state["server"], **state["frozen"]}, state["own"], state["kept"]
    if not kept:
        return {"global": model_of(federation, common)}
    return {"personal": model_of(federation, lambda k: {**common, **own.get(k, kept)})}


def personal_models(federation: Federation) -> dict[str, Any]:
    """Return the part of a state that holds one global model, as `one_model`, and a personal model per client.

    "personal": {client: its weights} for each client that has taken part. "start": the weights of all other clients.
    """
    state = one_model(federation)
    return {**state, "personal": {}, "start": state["server"]}


def personal_model(federation: Federation, state: dict) -> dict[str, Callable[[int], Net]]:
    """Return the models of `personal_models`: one model per client, and the global one."""
    personal, start = state["personal"], state["start"]
    own = model_of(federation, lambda k: personal.get(k, start))
    return {"personal": own, **shared_model(federation, state)}


def _parted(rows: Sequence[Weights], names: Collection[str]) -> tuple[list[Weights], list[Weights]]:
    """Split rows of weights in two: the named weights, and the rest."""
    named = [{name: tensor for name, tensor in row.items() if name in names} for row in rows]
    return named, [{name: tensor for name, tensor in row.items() if name not in names} for row in rows]


# --- rows ---------------------------------------------------------------------------------------------------------------


def select_rows(rows: Sequence[Any] | dict[int, Any], clients: Sequence[int], other: Any = None) -> list[Any]:
    """Return the rows of these clients; from a dict, `other` for a client without a row."""
    return [rows.get(k, other) if isinstance(rows, dict) else rows[k] for k in clients]


def replace_rows(rows: Any, clients: Sequence[int], new: Sequence[Any]) -> Any:
    """Return a new list, or dict by client, of all rows, with the rows of `clients` replaced."""
    replaced = dict(rows) if isinstance(rows, dict) else list(rows)
    for k, row in zip(clients, new, strict=True):
        replaced[k] = row
    return replaced


class ModelOf(NamedTuple):
    """k -> the model of client k: build(k, row(k)).

    `row`: k -> the weights of the model, and whatever else it depends on. While a client's row has the same tensors, the
    client's model is the same and is not evaluated again.
    """

    row: Callable[[int], Weights]
    build: Callable[[int, Weights], Net]

    def __call__(self, k: int) -> Net:
        return self.build(k, self.row(k))


def model_of(federation: Federation, weights: Weights | Sequence[Weights] | Callable[[int], Weights]) -> ModelOf:
    """Return k -> the model of client k: all with the same weights (a dict), or each client with its own row.

    The clients' rows are a sequence or a function of k.
    """
    if callable(weights):
        return ModelOf(weights, federation.model)
    return ModelOf(lambda k: weights if isinstance(weights, dict) else weights[k], federation.model)


# --- names of earlier versions, for users' own algorithms ------------------------------------------------------------------

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
