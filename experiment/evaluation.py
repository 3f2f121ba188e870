"""Which accuracy is this? The answers of a round, asked for the whole test set and for each client's own examples; how
clients see their examples; and what each client makes of the last model by fine-tuning a copy of it.
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
EXAMPLES = ("global", "personal", "validation")  # on which an accuracy is
TOGETHER = 50  # clients that fine-tune before the next ones are told of
AT_ONCE = 16  # models that are evaluated before the next ones are asked for
PART = 10 * EVALUATION_BATCH  # of the examples, which one process goes through
PARTY = "evaluation"  # in whose name it computes, so that nothing of it counts as a client's or the server's work


class Evaluated(NamedTuple):
    """`of_round`: columns of the round; `of_clients`: {column: {client: value}}; `confusion`: how often the headline answer
    took a true class (row) for another (column) on the whole test set, "test" int64 [M, C, C], of the one model for all or
    of K models; and of each client's own test examples, one by one, the true class "own_true" and the one that was said
    "own_predicted", int32 [n], client after client in the order of the split, of client k from "own_offsets"[k] to [k + 1].
    """

    of_round: dict[str, float]
    of_clients: dict[str, ByClient]
    confusion: dict[str, Tensor]


def evaluate(federation: Federation, split: Split, done: Round, measured: Sequence[str] = ()) -> Evaluated:
    """The accuracy of every answer, and what else of `MEASURES` is `measured`, in columns such as "global_auc_mean" and
    "personal_auc_mean".

    *global* is the whole test set, *personal* the client's own test examples, *validation* its held-out training
    examples. Means, standard deviations (of the population) and the worst are over clients; an answer that is one model
    for all has no spread on the global test. Columns of all but the first answer end in ":" and its name, those of an
    auxiliary head in ":head 1" (the shallowest), ":head 2", ...
    """
    of_round: dict[str, float] = {}
    of_clients: dict[str, ByClient] = {}
    confusion: dict[str, Tensor] = {}
    for name, answer in done.models.items():
        one_for_all = name == "global"
        (*auxiliary, last), confused = _measure(federation, split, answer, one_for_all, measured)
        confusion = confusion or confused
        own = "" if name == next(iter(done.models)) else name
        for head, found in {"": last, **{f"head {i}": found for i, found in enumerate(auxiliary, start=1)}}.items():
            suffix = f":{' '.join(filter(None, (own, head)))}" if own or head else ""
            of_round[f"global_loss{suffix}"] = float(np.mean(list(found.pop("loss").values())))
            for what, by_client in found.items():
                values = np.array(list(by_client.values()))
                if not len(values):
                    continue
                of_round[f"{what}_mean{suffix}"] = float(values.mean())
                of_round[f"{what}_worst{suffix}"] = float(values.min())
                if not (one_for_all and what.startswith("global")):
                    of_round[f"{what}_std_clients{suffix}"] = float(values.std())
                    of_clients[f"{what}_accuracy{suffix}" if what in EXAMPLES else f"{what}{suffix}"] = by_client
    return Evaluated(of_round, of_clients, confusion)


def _measure(
    federation: Federation, split: Split, answer: Callable[[int], Net], one_for_all: bool, measured: Sequence[str]
) -> tuple[list[dict[str, ByClient]], dict[str, Tensor]]:
    """For every head, the classifier last, {"loss", "global", "personal", "validation": {client: value}}; one model for all
    has one loss and one global value, under client 0, and is asked once; and what is `measured`, as "global_auc". And the
    confusion of the classifier."""
    data, everyone = federation.data, federation.clients
    test = torch.as_tensor(global_test(data, split), device=federation.device)
    heads: list[dict[str, ByClient]] = []
    tables: list[Tensor] = []
    own_predicted: list[Tensor] = []
    # each model with the clients whose own examples it is asked for
    asks = [everyone] if one_for_all else [[k] for k in everyone]
    named = ["loss", *EXAMPLES, *(f"{where}_{name}" for name in measured for where in ("global", "personal"))]
    for clients, personal, validation, scores in _asked(federation, split, answer, test, asks, bool(measured)):
        first = clients[0]
        heads = heads or [{name: {} for name in named} for _ in scores]
        for found, (predicted, loss, probabilities) in zip(heads, scores, strict=True):
            right = predicted == data.y
            found["loss"][first], found["global"][first] = loss[test].mean().item(), right[test].double().mean().item()
            found["personal"].update(zip(clients, _parts(right, personal).tolist(), strict=True))
            holding = np.flatnonzero(validation.sizes)  # who holds something out
            found["validation"].update(
                zip((first + holding).tolist(), _parts(right, validation)[holding].tolist(), strict=True)
            )
            for name in measured:
                found[f"global_{name}"] |= _worth(data, name, probabilities, {first: test})
                found[f"personal_{name}"] |= _worth(data, name, probabilities, dict(zip(clients, personal, strict=True)))
        tables.append(_confusion(data, test, scores[-1].predicted))
        own_predicted.append(scores[-1].predicted[personal.values])
    own = {"own_true": data.y.cpu()[split.test.values].int(), "own_predicted": torch.cat(own_predicted).int()}
    return heads, {"test": torch.stack(tables), **own, "own_offsets": torch.from_numpy(split.test.offsets)}


def _parts(right: Tensor, shares: Shares) -> np.ndarray:
    """Of each client's examples the part that is right, float64 [K], by one count over all clients; NaN of none."""
    owners = torch.from_numpy(shares.owners)[right[shares.values].cpu()]
    with np.errstate(invalid="ignore"):
        return np.bincount(owners, minlength=len(shares)) / shares.sizes


def _worth(data: Data, name: str, probabilities: Tensor, of: dict[int, Tensor]) -> ByClient:
    """{client: a measure of its examples}, of those for whom it is defined."""
    values = {k: MEASURES[name](data.y[i].cpu().numpy(), probabilities[i].cpu().numpy()) for k, i in of.items()}
    return {k: value for k, value in values.items() if not math.isnan(value)}


class Scores(NamedTuple):
    """The class int64 that a head says of each of some examples, its cross-entropy float64 in nats, and the probabilities
    float [n, C] of the classes, [n, 0] where they are not asked for."""

    predicted: Tensor
    loss: Tensor
    probabilities: Tensor


def _of(part: Shares, clients: Sequence[int], device: torch.device) -> Shares:
    """The shares of these clients, which follow one another, on the device."""
    some = part[clients[0] : clients[-1] + 1]
    return Shares(torch.as_tensor(some.values, device=device), some.offsets)


def _asked(
    federation: Federation,
    split: Split,
    answer: Callable[[int], Net],
    test: Tensor,
    asks: Sequence[Sequence[int]],
    probabilities: bool,
) -> Iterator[tuple[Sequence[int], Shares, Shares, list[Scores]]]:
    """(clients, what they have to test and hold out, what every head says) for the model of each of `asks`, which is that of
    the first of its clients: of the examples `test` int64 [n] and of these clients' own. The scores are as long as the data
    set; -1 and NaN of what was not asked.

    Several models at a time are asked, in parts of the examples, side by side where there is a pool.
    """
    evaluation = federation.with_party(PARTY)
    for some in (asks[place : place + AT_ONCE] for place in range(0, len(asks), AT_ONCE)):
        owned = [[_of(part, clients, federation.device) for part in (split.test, split.validation)] for clients in some]
        tasks = []
        for place, (clients, own) in enumerate(zip(some, owned, strict=True)):
            model = copy.deepcopy(answer(clients[0]))  # the next answer may be of the same skeleton
            asked = torch.unique(torch.cat([test, *(share.values for share in own)]))
            tasks += [(place, clients[0], model, part) for part in asked.split(PART)]
        places, of, models, parts = zip(*tasks, strict=True)
        said = list(
            zip(places, parts, evaluation.map_clients(partial(_scores, whole=probabilities), of, models, parts), strict=True)
        )
        for place, (clients, own) in enumerate(zip(some, owned, strict=True)):
            yield clients, *own, _whole(federation.data.y, [(part, heads) for at, part, heads in said if at == place])


def _whole(y: Tensor, parts: Sequence[tuple[Tensor, list[Scores]]]) -> list[Scores]:
    """For every head one score as long as the data set, of scores of parts of it."""
    nothing = torch.full((len(y),), math.nan, dtype=torch.float64, device=y.device)
    whole = []
    for first in parts[0][1]:
        unsaid = first.probabilities.new_full((len(y), first.probabilities.shape[1]), math.nan)
        whole.append(Scores(torch.full_like(y, -1), nothing.clone(), unsaid))
    for indices, heads in parts:
        for into, scores in zip(whole, heads, strict=True):
            for tensor, part in zip(into, scores, strict=True):
                tensor[indices] = part
    return whole


@torch.no_grad()
def _scores(federation: Federation, k: int, model: Net, indices: Tensor, whole: bool = False) -> list[Scores]:
    """What every head of client k's model, the classifier last, says of these examples, with its probabilities where the
    `whole` is asked for. In batches that fit a processor's cache."""
    y, evaluation = federation.data.y, federation.with_party(PARTY)

    def logits_of(i: Tensor) -> list[Tensor]:
        x = federation.data.images(i, federation.dtype)
        return model.every_head(x) if isinstance(model, Net) else [model(x)[1]]

    heads: list[list[Scores]] = []
    with computing_with(federation.threads):
        for i in indices.split(EVALUATION_BATCH):
            said = evaluation.count_flops(partial(logits_of, i), k, "scores", type(model), len(i))
            losses = [F.cross_entropy(logits, y[i], reduction="none").double() for logits in said]
            probabilities = [logits.softmax(1) if whole else logits[:, :0] for logits in said]
            predicted = [logits.argmax(1) for logits in said]
            heads.append([Scores(*of_head) for of_head in zip(predicted, losses, probabilities, strict=True)])
    return [Scores(*(torch.cat(parts) for parts in zip(*of_head, strict=True))) for of_head in zip(*heads, strict=True)]


def _confusion(data: Data, indices: Tensor, predicted: Tensor) -> Tensor:
    """Of these examples, int64 [C, C]: row the true class, column the one that is said."""
    n_classes = len(data.classes)
    return torch.bincount(data.y[indices] * n_classes + predicted[indices], minlength=n_classes**2).view(n_classes, -1)


@torch.no_grad()
def features(federation: Federation, done: Round, n: int) -> dict[str, Tensor]:
    """How every client sees n of its own training examples (all where it has fewer), the same in every round, drawn from
    their own stream -> {"features_k": float32 [n, D] of the headline answer, "labels_k": int64 [n]}, on the processor."""
    seen, evaluation = {}, federation.with_party(PARTY).at(0)
    answer = next(iter(done.models.values()))

    def features_of(model: Net, i: Tensor) -> Tensor:
        return model(federation.data.images(i, federation.dtype))[0]

    for k in federation.clients:
        share, model = federation.shares[k], answer(k)
        drawn = torch.from_numpy(evaluation.stream("features", k).permutation(len(share))[:n])
        own = share[drawn.to(share.device)]
        cut = own.split(EVALUATION_BATCH)
        parts = [evaluation.count_flops(partial(features_of, model, i), k, "features", type(model), len(i)) for i in cut]
        seen |= {f"features_{k}": torch.cat(parts).float().cpu(), f"labels_{k}": federation.data.y[own].cpu()}
    return seen


# --- personalisation ---------------------------------------------------------------------------------------------------


def personalise(
    federation: Federation,
    split: Split,
    done: Round,
    options,
    loss: Loss = cross_entropy,
    watch: Callable[[str], None] = lambda words: None,
) -> tuple[dict[str, float], dict[str, ByClient]]:
    """Each client fine-tunes a copy of the last model on its training examples, for `--ft_epochs` -> (columns of the round,
    {column: {client: personal accuracy}}).

    *sent*: the first answer that is a client's network, as it is; *local*: of the clients of the round, after their local
    epochs, where that is another model; *tuned*: after the last epoch of fine-tuning, and in columns that end in ":epoch 1"
    after the first, and so on. Beside mean and standard deviation over clients stand the worst and the best client and the
    mean of the worst tenth of them, ceil(K / 10). Draws, steps and bytes are none of the rounds'. `watch` is told how far it
    is. Raises DivergedError, where the run is not to go on.
    """
    answer = next(answer for answer in done.models.values() if isinstance(answer(0), Net))
    aside, clients = federation.with_party("tuning"), federation.clients
    found: dict[tuple[str, str], ByClient] = {}  # by what it is of and the end of its columns' names
    diverged: list[int] = []
    if done.local_weights:
        own = [split.test[k] for k in done.clients]
        found["local", ""] = dict(
            zip(done.clients, aside.map_clients(_personal, done.clients, done.local_weights, own), strict=True)
        )
    tuned = partial(_fine_tuned, loss=loss, options=options)
    for some in (clients[place : place + TOGETHER] for place in range(0, len(clients), TOGETHER)):
        watch(f"fine-tuning clients {some[0]} to {some[-1]} of {len(clients)}")
        weights = [{name: w.detach().clone() for name, w in answer(k).state_dict().items()} for k in some]
        done_by = aside.map_clients(tuned, some, weights, [split.test[k] for k in some])
        for k, (accuracies, wrong) in zip(some, done_by, strict=True):
            if wrong and options.on_divergence == "stop":
                raise DivergedError(
                    f"{options.algorithm}: the loss of client {k} or its weights are not finite after epoch {wrong} of its "
                    f"fine-tuning; {divergence.smaller(options, ['ft_lr'])}"
                )
            diverged += [k] if wrong else []
            for epoch, accuracy in enumerate(accuracies):
                found.setdefault(("tuned", f":epoch {epoch}"), {})[k] = accuracy
    found["sent", ""], found["tuned", ""] = found["tuned", ":epoch 0"], found["tuned", f":epoch {options.ft_epochs}"]
    of_round, of_clients = divergence.columns(diverged, divergence.TUNED)
    of_round |= {f"{what}_{name}{end}": value for (what, end), of in found.items() for name, value in _spread(of).items()}
    return of_round, of_clients | {f"{what}_accuracy{end}": by_client for (what, end), by_client in found.items()}


def _fine_tuned(
    federation: Federation, k: int, weights: Weights, own: np.ndarray, *, loss: Loss, options
) -> tuple[list[float], int]:
    """Client k's accuracy on its `own` test examples int64 [n], as it is sent, and after each epoch of fine-tuning; and the
    epoch in which it diverged, 0 where it did not."""
    asked = replace(options, lr=options.ft_lr, lr_schedule="constant", epoch_per_round=1, straggler=0.0)
    only, memory, diverged = federation.model(k, weights).names(options.ft_part), None, 0
    accuracies = [_personal(federation, k, weights, own)]
    for epoch in range(1, options.ft_epochs + 1):
        trained = train(federation.at(epoch), [k], [weights], loss, asked, memory=[memory], only=only)
        (weights,), (memory,) = trained.weights, trained.memory
        if not diverged and not finite([trained.loss, *weights.values()]):
            diverged = epoch
            if options.on_divergence == "stop":
                break
        accuracies.append(_personal(federation, k, weights, own))
    return accuracies, diverged


def _personal(federation: Federation, k: int, weights: Weights, own: np.ndarray) -> float:
    """The accuracy of these weights of client k on its own test examples int64 [n]."""
    indices = torch.as_tensor(own, device=federation.device)
    predicted = _scores(federation, k, federation.model(k, weights), indices)[-1].predicted
    return (predicted == federation.data.y[indices]).double().mean().item()


def _spread(by_client: ByClient) -> dict[str, float]:
    values = np.array(list(by_client.values()))
    tenth = np.sort(values)[: math.ceil(len(values) / 10)]
    figures = {"mean": values.mean(), "std_clients": values.std(), "worst": values.min(), "worst_tenth": tenth.mean()}
    return {name: float(value) for name, value in {**figures, "best": values.max()}.items()}
