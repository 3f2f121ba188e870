"""Evaluate the models of a round on the whole test set and on each client's own examples.

This module also extracts the clients' features and fine-tunes a copy of the last model for each client.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.datasets import Data
from data.partition import Shares, Split, global_test
from errors import DivergedError
from experiment import divergence
from federation import Federation, Weights, computing_with
from federation.meter import finite
from helpers import EVALUATION_BATCH, Loss, Round, cross_entropy, train
from measures import MEASURES
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


def evaluate(federation: Federation, split: Split, round_result: Round, measured: Sequence[str] = ()) -> Evaluated:
    """Return the accuracy of every model, and the further `measured` ones of `MEASURES`.

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
        (*auxiliary, last), model_confusion = _measure(federation, split, model_of, is_global, measured)
        confusion = confusion or model_confusion
        model_name = "" if name == next(iter(round_result.models)) else name
        for head, columns in {
            "": last,
            **{f"head {i}": columns for i, columns in enumerate(auxiliary, start=1)},
        }.items():
            suffix = f":{' '.join(filter(None, (model_name, head)))}" if model_name or head else ""
            of_round[f"global_loss{suffix}"] = float(np.mean(list(columns.pop("loss").values())))
            for column, by_client in columns.items():
                values = np.array(list(by_client.values()))
                if not len(values):
                    continue
                of_round[f"{column}_mean{suffix}"] = float(values.mean())
                of_round[f"{column}_worst{suffix}"] = float(values.min())
                if not (is_global and column.startswith("global")):
                    of_round[f"{column}_std_clients{suffix}"] = float(values.std())
                    of_clients[f"{column}_accuracy{suffix}" if column in EXAMPLES else f"{column}{suffix}"] = by_client
    return Evaluated(of_round, of_clients, confusion)


def _measure(
    federation: Federation, split: Split, model_of: Callable[[int], Net], is_global: bool, measured: Sequence[str]
) -> tuple[list[dict[str, ByClient]], dict[str, Tensor]]:
    """Return the measures of every head, the classifier last, and the confusion of the classifier.

    The measures of a head are {"loss", "global", "personal", "validation": {client: value}}, and the `measured` ones, as
    "global_auc". One global model is evaluated once; its loss and its global value are under client 0.
    """
    data, everyone = federation.data, federation.clients
    test = torch.as_tensor(global_test(data, split), device=federation.device)
    heads: list[dict[str, ByClient]] = []
    tables: list[Tensor] = []
    own_predicted: list[Tensor] = []
    # for each model, the clients whose own examples it predicts
    client_groups = [everyone] if is_global else [[k] for k in everyone]
    columns = ["loss", *EXAMPLES, *(f"{examples}_{name}" for name in measured for examples in ("global", "personal"))]
    for clients, personal, validation, scores in _scores_by_model(
        federation, split, model_of, test, client_groups, bool(measured)
    ):
        first = clients[0]
        heads = heads or [{name: {} for name in columns} for _ in scores]
        for measures, (predicted, loss, probabilities) in zip(heads, scores, strict=True):
            correct = predicted == data.y
            measures["loss"][first], measures["global"][first] = (
                loss[test].mean().item(),
                correct[test].double().mean().item(),
            )
            measures["personal"].update(zip(clients, _accuracies(correct, personal).tolist(), strict=True))
            with_validation = np.flatnonzero(validation.sizes)  # clients with held-out examples
            measures["validation"].update(
                zip(
                    (first + with_validation).tolist(),
                    _accuracies(correct, validation)[with_validation].tolist(),
                    strict=True,
                )
            )
            for name in measured:
                measures[f"global_{name}"] |= _measure_by_client(data, name, probabilities, {first: test})
                measures[f"personal_{name}"] |= _measure_by_client(
                    data, name, probabilities, dict(zip(clients, personal, strict=True))
                )
        tables.append(_confusion(data, test, scores[-1].predicted))
        own_predicted.append(scores[-1].predicted[personal.values])
    own = {"own_true": data.y.cpu()[split.test.values].int(), "own_predicted": torch.cat(own_predicted).int()}
    return heads, {"test": torch.stack(tables), **own, "own_offsets": torch.from_numpy(split.test.offsets)}


def _accuracies(correct: Tensor, shares: Shares) -> np.ndarray:
    """Return the accuracy on each client's examples, float64 [K]; NaN for a client without examples."""
    owners = torch.from_numpy(shares.owners)[correct[shares.values].cpu()]
    with np.errstate(invalid="ignore"):
        return np.bincount(owners, minlength=len(shares)) / shares.sizes


def _measure_by_client(data: Data, name: str, probabilities: Tensor, indices: dict[int, Tensor]) -> ByClient:
    """Return {client: a measure on its examples} for the clients for which the measure is defined."""
    values = {k: MEASURES[name](data.y[i].cpu().numpy(), probabilities[i].cpu().numpy()) for k, i in indices.items()}
    return {k: value for k, value in values.items() if not math.isnan(value)}


class Scores(NamedTuple):
    """A head's output on n examples.

    `predicted`: the class int64 [n]. `loss`: the cross-entropy float64 [n], in nats. `probabilities`: float [n, C] of the
    classes, or [n, 0] if nobody requested them.
    """

    predicted: Tensor
    loss: Tensor
    probabilities: Tensor


def _shares_of(shares: Shares, clients: Sequence[int], device: torch.device) -> Shares:
    """Return the shares of these consecutive clients, on the device."""
    selected = shares[clients[0] : clients[-1] + 1]
    return Shares(torch.as_tensor(selected.values, device=device), selected.offsets)


def _scores_by_model(
    federation: Federation,
    split: Split,
    model_of: Callable[[int], Net],
    test: Tensor,
    client_groups: Sequence[Sequence[int]],
    probabilities: bool,
) -> Iterator[tuple[Sequence[int], Shares, Shares, list[Scores]]]:
    """Yield (clients, their test examples, their validation examples, scores of every head) for each group of clients.

    The model of a group is the model of its first client. It predicts the examples `test` int64 [n] and the group's own
    examples. The scores are as long as the data set; examples without a prediction have -1 and NaN.

    Up to AT_ONCE models are evaluated together, in parts of the examples, in parallel if there is a pool.
    """
    evaluation = federation.with_party(PARTY)
    for groups in (client_groups[i : i + AT_ONCE] for i in range(0, len(client_groups), AT_ONCE)):
        shares_by_group = [
            [_shares_of(part, clients, federation.device) for part in (split.test, split.validation)] for clients in groups
        ]
        tasks = []
        for i, (clients, own_shares) in enumerate(zip(groups, shares_by_group, strict=True)):
            model = copy.deepcopy(model_of(clients[0]))  # the next model may use the same skeleton
            examples = torch.unique(torch.cat([test, *(share.values for share in own_shares)]))
            tasks += [(i, clients[0], model, part) for part in examples.split(PART)]
        positions, first_clients, models, parts = zip(*tasks, strict=True)
        results = list(
            zip(
                positions,
                parts,
                evaluation.map_clients(partial(_scores, whole=probabilities), first_clients, models, parts),
                strict=True,
            )
        )
        for i, (clients, own_shares) in enumerate(zip(groups, shares_by_group, strict=True)):
            yield (
                clients,
                *own_shares,
                _merge_scores(federation.data.y, [(part, heads) for j, part, heads in results if j == i]),
            )


def _merge_scores(y: Tensor, parts: Sequence[tuple[Tensor, list[Scores]]]) -> list[Scores]:
    """Merge scores of parts of the data set into scores as long as the data set, one for each head."""
    nan_losses = torch.full((len(y),), math.nan, dtype=torch.float64, device=y.device)
    merged = []
    for template in parts[0][1]:
        nan_probabilities = template.probabilities.new_full((len(y), template.probabilities.shape[1]), math.nan)
        merged.append(Scores(torch.full_like(y, -1), nan_losses.clone(), nan_probabilities))
    for indices, heads in parts:
        for target, scores in zip(merged, heads, strict=True):
            for tensor, part in zip(target, scores, strict=True):
                tensor[indices] = part
    return merged


@torch.no_grad()
def _scores(federation: Federation, k: int, model: Net, indices: Tensor, whole: bool = False) -> list[Scores]:
    """Return the scores of every head of client k's model on these examples, the classifier last.

    `whole` requests the probabilities. Batches are small enough for a CPU's cache.
    """
    y, evaluation = federation.data.y, federation.with_party(PARTY)

    def logits_of(i: Tensor) -> list[Tensor]:
        x = federation.data.images(i, federation.dtype)
        return model.every_head(x) if isinstance(model, Net) else [model(x)[1]]

    heads: list[list[Scores]] = []
    with computing_with(federation.threads):
        for i in indices.split(EVALUATION_BATCH):
            logits_by_head = evaluation.count_flops(partial(logits_of, i), k, "scores", type(model), len(i))
            losses = [F.cross_entropy(logits, y[i], reduction="none").double() for logits in logits_by_head]
            probabilities = [logits.softmax(1) if whole else logits[:, :0] for logits in logits_by_head]
            predicted = [logits.argmax(1) for logits in logits_by_head]
            heads.append([Scores(*of_head) for of_head in zip(predicted, losses, probabilities, strict=True)])
    return [Scores(*(torch.cat(parts) for parts in zip(*of_head, strict=True))) for of_head in zip(*heads, strict=True)]


def _confusion(data: Data, indices: Tensor, predicted: Tensor) -> Tensor:
    """Return the confusion matrix of these examples, int64 [C, C]: rows are true classes, columns predicted classes."""
    n_classes = len(data.classes)
    return torch.bincount(data.y[indices] * n_classes + predicted[indices], minlength=n_classes**2).view(n_classes, -1)


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
) -> tuple[dict[str, float], dict[str, ByClient]]:
    """Fine-tune a copy of the last model on each client's training examples, for `--ft_epochs`.

    Return (columns of the round, {column: {client: personal accuracy}}).

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
        watch(f"fine-tuning clients {group[0]} to {group[-1]} of {len(clients)}")
        weights = [{name: w.detach().clone() for name, w in model_of(k).state_dict().items()} for k in group]
        results = tuning.map_clients(fine_tune, group, weights, [split.test[k] for k in group])
        for k, (accuracies, bad_epoch) in zip(group, results, strict=True):
            if bad_epoch and options.on_divergence == "stop":
                raise DivergedError(
                    f"{options.algorithm}: the loss or the weights of client {k} are not finite after epoch {bad_epoch} of "
                    f"its fine-tuning; {divergence.smaller(options, ['ft_lr'])}"
                )
            diverged += [k] if bad_epoch else []
            for epoch, accuracy in enumerate(accuracies):
                accuracies_by_column.setdefault(("tuned", f":epoch {epoch}"), {})[k] = accuracy
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


def _fine_tuned(
    federation: Federation, k: int, weights: Weights, own: np.ndarray, *, loss: Loss, options
) -> tuple[list[float], int]:
    """Return client k's accuracies on its `own` test examples int64 [n], and the epoch in which it diverged (0: it did not).

    The accuracies are before fine-tuning and after each epoch of fine-tuning.
    """
    tuning_options = replace(options, lr=options.ft_lr, lr_schedule="constant", epoch_per_round=1, straggler=0.0)
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
