"""Which accuracy is this? The answers of a round, asked for the whole test set and for each client's own examples."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.partition import Split
from federation import Federation, computing_with
from helpers import EVALUATION_BATCH, Round
from models import Net

ByClient = dict[int, float]


def evaluate(federation: Federation, split: Split, done: Round) -> tuple[dict[str, float], dict[str, ByClient]]:
    """The accuracy of every answer -> (columns of the round, {column: {client: value}}).

    *global* is the whole test set, *personal* the client's own test examples, *validation* its held-out training
    examples. Means, standard deviations (of the population) and the worst are over clients; an answer that is one model
    for all has no spread on the global test. Columns of all but the first answer end in ":" and its name.
    """
    of_round: dict[str, float] = {}
    of_clients: dict[str, ByClient] = {}
    for name, answer in done.answers.items():
        suffix = "" if name == next(iter(done.answers)) else f":{name}"
        one_for_all = name == "global"
        found = _measure(federation, split, answer, one_for_all)
        of_round[f"global_loss{suffix}"] = float(np.mean(list(found.pop("loss").values())))
        for what, by_client in found.items():
            values = np.array(list(by_client.values()))
            if not len(values):
                continue
            of_round[f"{what}_mean{suffix}"] = float(values.mean())
            of_round[f"{what}_worst{suffix}"] = float(values.min())
            if not (one_for_all and what == "global"):
                of_round[f"{what}_std_clients{suffix}"] = float(values.std())
                of_clients[f"{what}_accuracy{suffix}"] = by_client
    return of_round, of_clients


def _measure(federation: Federation, split: Split, answer: Callable[[int], Net], one_for_all: bool) -> dict[str, ByClient]:
    """{"loss", "global", "personal", "validation": {client: value}}; one model for all has one loss and one global value,
    under client 0, and is asked once."""
    data = federation.data
    test = torch.arange(data.n_train, len(data.y), device=federation.device)
    personal, validation = (
        [torch.as_tensor(share, device=federation.device) for share in part] for part in (split.test, split.validation)
    )
    found: dict[str, ByClient] = {"loss": {}, "global": {}, "personal": {}, "validation": {}}
    for k in federation.clients:
        if k == 0 or not one_for_all:
            own = [*personal, *validation] if one_for_all else [personal[k], validation[k]]
            right, loss = _scores(federation, answer(k), torch.unique(torch.cat([test, *own])))
            found["loss"][k], found["global"][k] = loss[test].mean().item(), right[test].mean().item()
        found["personal"][k] = right[personal[k]].mean().item()
        if len(validation[k]):
            found["validation"][k] = right[validation[k]].mean().item()
    return found


@torch.no_grad()
def _scores(federation: Federation, model: Net, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the model is right about each of these examples (0 or 1), and its cross-entropy in nats: two float64, as
    long as the data set, defined at `indices` only. In batches that fit a processor's cache."""
    y = federation.data.y
    right = torch.full((len(y),), math.nan, dtype=torch.float64, device=federation.device)
    loss = right.clone()
    with computing_with(federation.threads):
        for i in indices.split(EVALUATION_BATCH):
            _, logits = model(federation.data.images(i, federation.dtype))
            right[i] = (logits.argmax(1) == y[i]).double()
            loss[i] = F.cross_entropy(logits, y[i], reduction="none").double()
    return right, loss
