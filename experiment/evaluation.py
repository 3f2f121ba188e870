"""Evaluate the models of a round on the whole test set and on each client's own examples.

This module also extracts the clients' features and fine-tunes a copy of the last model for each client.
"""

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.partition import Shares, Split, global_test
from errors import DivergedError, UserError
from experiment import divergence
from federation import Federation, Weights, computing_with
from federation.meter import finite
from helpers import EVALUATION_BATCH, Loss, ModelOf, Round, cross_entropy, train
from measures import values_of
from models import Net

ByClient = dict[int, float]
EXAMPLES = ("global", "personal", "validation")  # the sets of examples on which an accuracy is measured
TOGETHER = 50  # clients that fine-tune between two progress messages
AT_ONCE = 16  # models that are evaluated together
PART = 10 * EVALUATION_BATCH  # examples in one task of a worker process
PARTY = "evaluation"  # a party of its own, so that evaluation counts as no client's and no server's work


class Evaluated(NamedTuple):
    """The result of an evaluation.

    `of_round`: columns of the round. `of_clients`: {column: {client: value}}. `confusion`: matrices and predictions of the
    headline model. "test" int64 [M, C, C] counts, on the whole test set, the examples of a true class (row) with a predicted
    class (column), for M models: the one global model or K models. "own_true" and "own_predicted", int32 [n], are the true
    and the predicted class of each client's own test examples, client after client in the order of the split; client k's
    examples are those from "own_offsets"[k] to [k + 1].
    """

    of_round: dict[str, float]
    of_clients: dict[str, ByClient]
    confusion: dict[str, Tensor]


class Measured(NamedTuple):
    """The measures of all models of a name.

    `rows`: for each client's model, weak references to the tensors of its weights; {} if the weights are unknown. `heads`:
    for each head, the classifier last, {"loss", "global", "personal", "validation": {client: value}}, and further measures
    with names such as "global_auc". `confusion`: see `Evaluated`.
    """

    rows: list[dict[str, weakref.ref]]
    heads: list[dict[str, ByClient]]
    confusion: dict[str, Tensor]


Remembered = dict[str, Measured]  # the last evaluation, by the name of the models


def evaluate(
    federation: Federation,
    split: Split,
    round_result: Round,
    measured: Sequence[str] = (),
    remembered: Remembered | None = None,
) -> Evaluated:
    """Return the accuracy of every model, and the further measures `measured`.

    A client's model with the same weights as in the evaluation `remembered` is not evaluated again. `remembered` receives
    this evaluation; None remembers nothing.

    The columns of measures have names such as "global_auc_mean" and "personal_auc_mean".

    *global* is the whole test set, *personal* the client's own test examples, *validation* its held-out training examples.
    Means, standard deviations (of the population) and the worst value are over clients; one global model has no spread on
    the global test set. Columns of all models but the first end in ":" and the model's name, columns of an auxiliary head in
    ":head 1" (the shallowest), ":head 2", ...
    """
    of_round: dict[str, float] = {}
    of_clients: dict[str, ByClient] = {}
    confusion: dict[str, Tensor] = {}
    for name, model_of in round_result.models.items():
        is_global = name == "global"
        before = None if remembered is None else remembered.get(name)
        measures = _measure(federation, split, model_of, is_global, measured, before)
        if remembered is not None:
            remembered[name] = measures
        *auxiliary, last = measures.heads
        confusion = confusion or measures.confusion
        model_name = "" if name == next(iter(round_result.models)) else name
        for head, columns in {
            "": last,
            **{f"head {i}": columns for i, columns in enumerate(auxiliary, start=1)},
        }.items():
            suffix = f":{' '.join(filter(None, (model_name, head)))}" if model_name or head else ""
            of_round[f"global_loss{suffix}"] = float(np.mean(list(columns["loss"].values())))
            for column, by_client in columns.items():
                values = np.array(list(by_client.values()))
                if column == "loss" or not len(values):
                    continue
                of_round[f"{column}_mean{suffix}"] = float(values.mean())
                of_round[f"{column}_worst{suffix}"] = float(values.min())
                if not (is_global and column.startswith("global")):
                    of_round[f"{column}_std_clients{suffix}"] = float(values.std())
                    of_clients[f"{column}_accuracy{suffix}" if column in EXAMPLES else f"{column}{suffix}"] = by_client
    return Evaluated(of_round, of_clients, confusion)


def _measure(
    federation: Federation,
    split: Split,
    model_of: Callable[[int], Net],
    is_global: bool,
    measured: Sequence[str],
    before: Measured | None,
) -> Measured:
    """Measure the models of a name, except those whose weights are the same as in the evaluation `before`.

    One global model is evaluated once; its loss and its global value are under client 0.
    """
    everyone, n_classes = federation.clients, len(federation.data.classes)
    # for each model, the clients whose own examples it predicts
    client_groups = [everyone] if is_global else [[k] for k in everyone]
    rows = [{} if is_global else _references(model_of, clients[0]) for clients in client_groups]
    old_rows = before.rows if before else [{}] * len(rows)
    unchanged = [_same(row, old) for row, old in zip(rows, old_rows, strict=True)]
    changed = [clients for clients, is_same in zip(client_groups, unchanged, strict=True) if not is_same]
    columns = ["loss", *EXAMPLES, *(f"{examples}_{name}" for name in measured for examples in ("global", "personal"))]
    heads: list[dict[str, ByClient]] = []
    tables: list[Tensor] = []
    own_predicted: list[Tensor] = []
    scored_models = _scores_by_model(federation, split, model_of, changed, bool(measured))
    for clients, is_same in zip(client_groups, unchanged, strict=True):
        first = clients[0]
        if is_same:
            heads = heads or [{name: {} for name in columns} for _ in before.heads]
            for measures, old_measures in zip(heads, before.heads, strict=True):
                for name, old in old_measures.items():
                    measures.setdefault(name, {}).update({first: old[first]} if first in old else {})
            tables.append(before.confusion["test"][first])
            own_predicted.append(Shares(before.confusion["own_predicted"], split.test.offsets)[first])
            continue
        scored = next(scored_models)
        heads = heads or [{name: {} for name in columns} for _ in scored.heads]
        for measures, (predicted, loss, probabilities) in zip(heads, scored.heads, strict=True):
            correct = predicted == scored.y
            measures["loss"][first] = loss[scored.test].mean().item()
            measures["global"][first] = correct[scored.test].double().mean().item()
            measures["personal"].update(zip(clients, _accuracies(correct, scored.personal).tolist(), strict=True))
            with_validation = np.flatnonzero(scored.validation.sizes)  # clients with held-out examples
            measures["validation"].update(
                zip(
                    (first + with_validation).tolist(),
                    _accuracies(correct, scored.validation)[with_validation].tolist(),
                    strict=True,
                )
            )
            for name in measured:
                own = dict(zip(clients, scored.personal, strict=True))
                for part, indices in (("global", {first: scored.test}), ("personal", own)):
                    for k, i in indices.items():
                        for measure, value in values_of(name, scored.y[i].numpy(), probabilities[i].numpy()).items():
                            measures.setdefault(f"{part}_{measure}", {})[k] = value
        predicted = scored.heads[-1].predicted
        tables.append(_confusion(scored.y[scored.test], predicted[scored.test], n_classes))
        own_predicted.append(predicted[scored.personal.values].int())
    own = {"own_true": federation.data.y.cpu()[split.test.values].int(), "own_predicted": torch.cat(own_predicted)}
    confusion = {"test": torch.stack(tables), **own, "own_offsets": torch.from_numpy(split.test.offsets)}
    return Measured(rows, heads, confusion)


def _references(model_of: Callable[[int], Net], k: int) -> dict[str, weakref.ref]:
    """Return weak references to the weights of client k's model, {} if they are unknown.

    No tensor of a row is changed in place, so a model with the same tensors is the same. The references keep no row alive,
    and a new tensor at the address of an old one does not match. A reference is dead where the row was made for this call.
    """
    return {name: weakref.ref(tensor) for name, tensor in model_of.row(k).items()} if isinstance(model_of, ModelOf) else {}


def _same(row: dict[str, weakref.ref], other: dict[str, weakref.ref]) -> bool:
    return bool(row) and row.keys() == other.keys() and all(row[name]() is other[name]() is not None for name in row)


def _accuracies(correct: Tensor, shares: Shares) -> np.ndarray:
    """Return the accuracy on each client's examples, float64 [K]; NaN for a client without examples."""
    owners = shares.owners[correct.numpy()[shares.values]]
    with np.errstate(invalid="ignore"):
        return np.bincount(owners, minlength=len(shares)) / shares.sizes


class Scores(NamedTuple):
    """A head's output on n examples.

    `predicted`: the class int64 [n]. `loss`: the cross-entropy float64 [n], in nats. `probabilities`: float [n, C] of the
    classes, or [n, 0] if nobody requested them.
    """

    predicted: Tensor
    loss: Tensor
    probabilities: Tensor


class Scored(NamedTuple):
    """The scores of a model on n examples, on the CPU.

    `y`: the labels int64 [n]. `test`, `personal`, `validation`: the positions among the examples of the test set and of the
    clients' own examples. `heads`: the scores of every head, the classifier last.
    """

    y: Tensor
    test: np.ndarray
    personal: Shares
    validation: Shares
    heads: list[Scores]


def _scores_by_model(
    federation: Federation,
    split: Split,
    model_of: Callable[[int], Net],
    client_groups: Sequence[Sequence[int]],
    probabilities: bool,
) -> Iterator[Scored]:
    """Yield the scores of each group of consecutive clients: of the model of its first client.

    The model predicts the whole test set and the group's own examples. Up to AT_ONCE models are evaluated together, in parts
    of the examples, in parallel if there is a pool.
    """
    evaluation, y, test = federation.with_party(PARTY), federation.data.y.cpu(), global_test(federation.data, split)
    for groups in (client_groups[i : i + AT_ONCE] for i in range(0, len(client_groups), AT_ONCE)):
        own_shares = [
            [shares[clients[0] : clients[-1] + 1] for shares in (split.test, split.validation)] for clients in groups
        ]
        examples = [np.unique(np.concatenate([test, *(shares.values for shares in own)])) for own in own_shares]
        tasks = []
        for i, clients in enumerate(groups):
            model = copy.deepcopy(model_of(clients[0]))  # the next model may use the same skeleton
            if not isinstance(model, torch.nn.Module):
                raise UserError(
                    f"a function in the models of a Round returns {type(model).__name__}; must return a network, such as "
                    "model_of(federation, weights) does"
                )
            indices = torch.as_tensor(examples[i], device=federation.device)
            tasks += [(i, clients[0], model, part) for part in indices.split(PART)]
        positions, first_clients, models, parts = zip(*tasks, strict=True)
        results = evaluation.map_clients(partial(_scores, whole=probabilities), first_clients, models, parts)
        results = _on_cpu(results, federation.device)
        for i, own in enumerate(own_shares):
            heads = zip(*(heads for position, heads in zip(positions, results, strict=True) if position == i), strict=True)
            yield Scored(
                y[examples[i]],
                np.searchsorted(examples[i], test),
                *(Shares(np.searchsorted(examples[i], shares.values), shares.offsets) for shares in own),
                [_concatenated(scores) for scores in heads],
            )


def _on_cpu(results: Sequence[list[Scores]], device: torch.device) -> list[list[Scores]]:
    """Return scores on the CPU, after a single wait for the device."""
    moved = [[Scores(*(part.to("cpu", non_blocking=True) for part in scores)) for scores in heads] for heads in results]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return moved


def _concatenated(parts: Sequence[Scores]) -> Scores:
    """Return the scores of a head on all examples from its scores on parts of them."""
    return Scores(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@torch.no_grad()
def _scores(federation: Federation, k: int, model: Net, indices: Tensor, whole: bool = False) -> list[Scores]:
    """Return the scores of every head of client k's model on these examples, the classifier last.

    `whole` requests the probabilities. Batches are small enough for a CPU's cache; a GPU computes all examples at once.
    """
    y, evaluation = federation.data.y, federation.with_party(PARTY)

    def logits_of(i: Tensor) -> list[Tensor]:
        x = federation.data.images(i, federation.dtype)
        return model.every_head(x) if isinstance(model, Net) else [model(x)[1]]

    heads: list[list[Scores]] = []
    with computing_with(federation.threads):
        for i in indices.split(EVALUATION_BATCH if federation.device.type == "cpu" else PART):
            logits_by_head = evaluation.count_flops(partial(logits_of, i), k, "scores", type(model), len(i))
            losses = [F.cross_entropy(logits, y[i], reduction="none").double() for logits in logits_by_head]
            probabilities = [logits.softmax(1) if whole else logits[:, :0] for logits in logits_by_head]
            predicted = [logits.argmax(1) for logits in logits_by_head]
            heads.append([Scores(*of_head) for of_head in zip(predicted, losses, probabilities, strict=True)])
    return [_concatenated(parts) for parts in zip(*heads, strict=True)]


def _confusion(y: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """Return the confusion matrix of these examples, int64 [C, C]: rows are true classes, columns predicted classes."""
    return torch.bincount(y * n_classes + predicted, minlength=n_classes**2).view(n_classes, -1)


@torch.no_grad()
def features(federation: Federation, round_result: Round, n: int) -> dict[str, Tensor]:
    """Return the headline model's features of n training examples of every client (all if the client has fewer).

    The examples are the same in every round; each client has a random stream for this purpose. Return {"features_k": float32
    [n, D], "labels_k": int64 [n]}, on the CPU.
    """
    arrays, evaluation = {}, federation.with_party(PARTY).at(0)
    model_of = next(iter(round_result.models.values()))

    def features_of(model: Net, i: Tensor) -> Tensor:
        return model(federation.data.images(i, federation.dtype))[0]

    for k in federation.clients:
        share, model = federation.shares[k], model_of(k)
        positions = torch.from_numpy(evaluation.stream("features", k).permutation(len(share))[:n])
        indices = share[positions.to(share.device)]
        batches = indices.split(EVALUATION_BATCH)
        parts = [evaluation.count_flops(partial(features_of, model, i), k, "features", type(model), len(i)) for i in batches]
        arrays |= {f"features_{k}": torch.cat(parts).float().cpu(), f"labels_{k}": federation.data.y[indices].cpu()}
    return arrays


# --- personalisation ---------------------------------------------------------------------------------------------------


def personalise(
    federation: Federation,
    split: Split,
    round_result: Round,
    options,
    loss: Loss = cross_entropy,
    watch: Callable[[str], None] = lambda words: None,
    first: int = 0,
) -> tuple[dict[str, float], dict[str, ByClient]]:
    """Fine-tune a copy of the last model on each client's training examples, for `--ft_epochs`.

    Return (columns of the round, {column: {client: personal accuracy}}). Columns and messages count clients from `first`.

    *sent*: the first model of the round that is a client's network, before fine-tuning. *local*: the clients of the round,
    after their local epochs, if that is another model. *tuned*: after the last epoch of fine-tuning; columns that end in
    ":epoch 1" are after the first epoch, and so on. Besides the mean and the standard deviation over clients, there are the
    worst and the best client and the mean of the worst tenth of the clients, ceil(K / 10). The random draws, steps and bytes
    of fine-tuning count for no round. `watch` receives progress messages. Raise DivergedError if a client diverges and the
    run must not continue.
    """
    model_of = next(model_of for model_of in round_result.models.values() if isinstance(model_of(0), Net))
    tuning, clients = federation.with_party("tuning"), federation.clients
    accuracies_by_column: dict[tuple[str, str], ByClient] = {}  # keys: kind and suffix of a column's name
    diverged: list[int] = []
    if round_result.local_weights:
        test_shares = [split.test[k] for k in round_result.clients]
        accuracies_by_column["local", ""] = dict(
            zip(
                round_result.clients,
                tuning.map_clients(_personal_accuracy, round_result.clients, round_result.local_weights, test_shares),
                strict=True,
            )
        )
    fine_tune = partial(_fine_tuned, loss=loss, options=options)
    for group in (clients[i : i + TOGETHER] for i in range(0, len(clients), TOGETHER)):
        watch(f"fine-tuning clients {first + group[0]} to {first + group[-1]} of {first + len(clients)}")
        weights = [{name: w.detach().clone() for name, w in model_of(k).state_dict().items()} for k in group]
        results = tuning.map_clients(fine_tune, group, weights, [split.test[k] for k in group])
        for k, (accuracies, bad_epoch) in zip(group, results, strict=True):
            if bad_epoch and options.on_divergence == "stop":
                raise DivergedError(
                    f"{options.algorithm}: the loss or the weights of client {first + k} are not finite after epoch "
                    f"{bad_epoch} of its fine-tuning; {divergence.smaller(options, ['ft_lr'])}"
                )
            diverged += [first + k] if bad_epoch else []
            for epoch, accuracy in enumerate(accuracies):
                accuracies_by_column.setdefault(("tuned", f":epoch {epoch}"), {})[first + k] = accuracy
    accuracies_by_column["sent", ""], accuracies_by_column["tuned", ""] = (
        accuracies_by_column["tuned", ":epoch 0"],
        accuracies_by_column["tuned", f":epoch {options.ft_epochs}"],
    )
    of_round, of_clients = divergence.columns(diverged, divergence.TUNED)
    of_round |= {
        f"{kind}_{name}{suffix}": value
        for (kind, suffix), values in accuracies_by_column.items()
        for name, value in _spread(values).items()
    }
    return of_round, of_clients | {
        f"{kind}_accuracy{suffix}": by_client for (kind, suffix), by_client in accuracies_by_column.items()
    }


def welcome(
    federation: Federation,
    split: Split,
    model_of: Callable[[int], Net],
    options,
    loss: Loss = cross_entropy,
    watch: Callable[[str], None] = lambda words: None,
) -> tuple[dict[str, float], dict[str, ByClient]]:
    """Evaluate the models that the new clients of a split receive, and fine-tune a copy for each client.

    Return the columns of `personalise`: "new_sent_mean", ..., and with `--ft_epochs` "new_tuned_mean", ... `model_of`: k ->
    the model that new client k receives. The numbers of the new clients follow those of the other clients.
    """
    shares = Shares(torch.as_tensor(split.new.train.values, device=federation.device), split.new.train.offsets)
    received = Round([], torch.zeros(0), {"new": model_of})
    first = len(federation.clients)
    columns = personalise(replace(federation, shares=shares), split.new, received, options, loss, watch, first)
    kinds = ("sent", "tuned") if options.ft_epochs else ("sent",)
    return tuple({f"new_{name}": value for name, value in part.items() if name.startswith(kinds)} for part in columns)


def _fine_tuned(
    federation: Federation, k: int, weights: Weights, own: np.ndarray, *, loss: Loss, options
) -> tuple[list[float], int]:
    """Return client k's accuracies on its `own` test examples int64 [n], and the epoch in which it diverged (0: it did not).

    The accuracies are before fine-tuning and after each epoch of fine-tuning.
    """
    an_epoch = {"epoch_per_round": 1, "local_steps": 0, "straggler": 0.0}
    tuning_options = replace(options, lr=options.ft_lr, lr_schedule="constant", **an_epoch)
    only, memory, diverged = federation.model(k, weights).names(options.ft_part), None, 0
    accuracies = [_personal_accuracy(federation, k, weights, own)]
    for epoch in range(1, options.ft_epochs + 1):
        trained = train(federation.at(epoch), [k], [weights], loss, tuning_options, memory=[memory], only=only)
        (weights,), (memory,) = trained.weights, trained.memory
        if not diverged and not finite([trained.loss, *weights.values()]):
            diverged = epoch
            if options.on_divergence == "stop":
                break
        accuracies.append(_personal_accuracy(federation, k, weights, own))
    return accuracies, diverged


def _personal_accuracy(federation: Federation, k: int, weights: Weights, own: np.ndarray) -> float:
    """Return the accuracy of these weights of client k on its own test examples int64 [n]."""
    indices = torch.as_tensor(own, device=federation.device)
    predicted = _scores(federation, k, federation.model(k, weights), indices)[-1].predicted
    return (predicted == federation.data.y[indices]).double().mean().item()


def _spread(by_client: ByClient) -> dict[str, float]:
    values = np.array(list(by_client.values()))
    tenth = np.sort(values)[: math.ceil(len(values) / 10)]
    figures = {"mean": values.mean(), "std_clients": values.std(), "worst": values.min(), "worst_tenth": tenth.mean()}
    return {name: float(value) for name, value in {**figures, "best": values.max()}.items()}
