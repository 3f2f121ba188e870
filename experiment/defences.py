"""The defences of a run's messages: which algorithms and options allow them, and what they promise."""

import logging
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

import models
import saves
from errors import UserError
from federation import dp_sgd, n_sampled
from federation.privacy import Noise, epsilon
from federation.wire import WEIGHTS
from options import Options

log = logging.getLogger("chorus")
EXACT = ("n_k",)  # kinds that are sent beside weights without noise: epsilon does not cover them


def check(options: Options, module: ModuleType) -> None:
    """Raise UserError if the algorithm, or another option, does not allow the requested defences."""
    uploads = getattr(module, "uploads", None)
    if options.secure_aggregation and uploads != {}:
        _check_sums(options, module, uploads)
    if options.dp_sgd:
        _check_steps(options, module)
    elif options.dp_clip and uploads != {}:
        _check_noise(options, module, uploads or {})


def _check_sums(options: Options, module: ModuleType, uploads: dict[str, str | None] | None) -> None:
    name, flag = options.algorithm, "--secure_aggregation:"
    if uploads is None:
        raise UserError(
            f"{flag} {_variant(module)}{name} has no server that needs only sums of the clients' messages; leave it out"
        )
    if single := [kind for kind, weight in uploads.items() if weight is None]:
        raise UserError(f"{flag} the server of {name} needs single messages ({', '.join(single)}), not sums; leave it out")
    if options.compress != "none":
        raise UserError(f"{flag} masked numbers cannot be compressed; leave out --compress {options.compress}")
    if getattr(module, "stale", False) and (options.participation < 1 or options.client_failure):
        raise UserError(
            f"{flag} the server of {name} keeps the last messages of absent clients; use --participation 1 and "
            "--client_failure 0"
        )
    if n_sampled(options.participation, options.n_clients) < 2:
        raise UserError(f"{flag} the sum of a single client is its message; use at least two clients per round")


def _check_noise(options: Options, module: ModuleType, uploads: dict[str, str | None]) -> None:
    name, flag = options.algorithm, f"--dp_clip {options.dp_clip:g}:"
    if WEIGHTS not in uploads:
        kinds = f" but {', '.join(uploads)}" if uploads else ""
        raise UserError(
            f"{flag} clients of {_variant(module)}{name} send no weights{kinds} to a server that averages them; leave it out"
        )
    if others := [kind for kind in uploads if kind not in (WEIGHTS, *EXACT)]:
        raise UserError(f"{flag} clients of {name} also send {', '.join(others)}, which would stay exact; leave it out")
    shared = getattr(options, "shared_model", None)
    names = [shared] if shared else options.model
    if getattr(options, "bn", "average") != "local" and (bad := models.with_batch_norm(names)):
        local = " or --bn local" if hasattr(options, "bn") else ""
        raise UserError(
            f"{flag} --model {bad[0]} has BatchNorm, whose variances noise makes negative; use a model without "
            f"BatchNorm{local}"
        )


def _check_steps(options: Options, module: ModuleType) -> None:
    name, flag = options.algorithm, f"--dp_sgd {options.dp_sgd:g}:"
    if not getattr(module, "private_steps", False):
        raise UserError(
            f"{flag} clients of {_variant(module)}{name} use their examples in other ways than local steps, without noise; "
            "leave it out"
        )
    names = [*options.model, *filter(None, [getattr(options, "shared_model", None)])]
    for kind, layer in (("BatchNorm", models.BATCH_NORM), ("Dropout", (models.Dropout, nn.modules.dropout._DropoutNd))):
        if refused := models.with_layer(layer, names):
            raise UserError(f"{flag} --model {refused[0]} has {kind}, which has no gradient per example; use another model")
    if options.stacked > 1:
        raise UserError(f"{flag} the steps of stacked clients have no gradient per example; leave out --stacked")
    if means := getattr(module, "class_means", {}):
        if not options.dp_noise:
            raise UserError(f"{flag} clients of {name} also send {', '.join(means)}; add --dp_clip and --dp_noise")
    elif options.dp_clip:
        raise UserError(f"{flag} the weights of a private step need no more noise; leave out --dp_clip and --dp_noise")


def _variant(module: ModuleType) -> str:
    return "this variant of " if module.__name__.startswith("algorithms.published.") else ""


def noise_of(options: Options) -> Noise | None:
    """Return the clipping and noise of the weights that clients send; None without."""
    return Noise(options.dp_clip, options.dp_noise, options.seed) if options.dp_clip else None


def promise(options: Options, module: ModuleType) -> dict[str, Any]:
    """Return and log {"privacy": a client's epsilon, and what it does not cover}, for `config.json`; {} without noise.

    The total is that of a client that takes part in every round. Epsilon of DP-SGD depends on the steps of each client, so
    it is in the history alone.
    """
    uploads = getattr(module, "uploads", None) or {}
    if options.dp_sgd:
        exact = [kind for kind in uploads if kind in EXACT] + ["class counts"] * hasattr(module, "class_means")
        log.info(
            "%s: --dp_sgd %g: epsilon is in the history; it grows with every step; unit: an example; not covered: %s",
            *(options.algorithm, options.dp_sgd, ", ".join(exact) or "nothing that clients send"),
        )
        return {"privacy": {"delta": options.dp_delta, "unit": "example", "not covered": exact}}
    if not options.dp_noise or WEIGHTS not in uploads:
        return {}
    per_round, total = (epsilon(options.dp_noise, n, options.dp_delta) for n in (1, options.rounds))
    exact = [kind for kind in uploads if kind != WEIGHTS]
    log.info(
        "%s: --dp_noise %g gives epsilon %.3g per round, at most %.3g after %d rounds, at delta %g; unit: a client; "
        "not covered: %s",
        options.algorithm,
        *(options.dp_noise, per_round, total, options.rounds, options.dp_delta),
        ", ".join(exact) or "nothing that clients send",
    )
    amounts = {"epsilon_round": per_round, "epsilon": total, "delta": options.dp_delta}
    return {"privacy": {**amounts, "unit": "client", "not covered": exact}}


class Accountant:
    """The epsilon of the rounds so far, from the counts of the history's entries. Without noise it has none.

    `sizes`: the number of training examples of each client. Epsilon is that of the client for which it is largest. What a
    client did in a round in which it failed counts.
    """

    def __init__(self, options: Options, module: ModuleType, sizes: Sequence[int], history: Iterable[dict] = ()) -> None:
        self._options, self._sizes, sent = options, np.asarray(sizes), getattr(module, "uploads", None) or {}
        self._kinds = getattr(module, "class_means", {}) if options.dp_sgd else {WEIGHTS: 1}
        self._is_private = options.dp_sgd > 0 or (options.dp_noise > 0 and WEIGHTS in sent)
        self._steps, self._messages = (np.zeros(len(sizes), np.int64) for _ in range(2))
        for entry in history if self._is_private else ():
            self._count(entry)

    def columns(self, entry: dict[str, dict]) -> dict[str, float]:
        """Count a further entry of the history; return the epsilon of its round, and of all rounds so far."""
        if not self._is_private:
            return {}
        of_round = self._count(entry)
        return {"epsilon_round": self._largest(*of_round), "epsilon": self._largest(self._steps, self._messages)}

    def _count(self, entry: dict[str, dict]) -> tuple[np.ndarray, np.ndarray]:
        """Add the steps and the messages of an entry to the totals; return those of the entry, by client."""
        columns = {name: np.nan_to_num(saves.numbers(column)) for name, column in entry["clients"].items()}
        clients, none = columns["client"].astype(np.int64), np.zeros(len(columns["client"]))
        steps, messages = np.zeros_like(self._steps), np.zeros_like(self._messages)
        steps[clients] = columns.get("steps", none)
        messages[clients] = sum(n * (columns.get(f"bytes_up:{kind}", none) > 0) for kind, n in self._kinds.items())
        self._steps, self._messages = self._steps + steps, self._messages + messages
        return steps, messages

    def _largest(self, steps: np.ndarray, messages: np.ndarray) -> float:
        options = self._options
        if not options.dp_sgd:
            return epsilon(options.dp_noise, int(messages.max(initial=0)), options.dp_delta)
        return max(
            dp_sgd.epsilon(options.dp_sgd, dp_sgd.rate(size, options.batch_size), t, options.dp_delta, options.dp_noise, m)
            for size, t, m in set(zip(self._sizes.tolist(), steps.tolist(), messages.tolist(), strict=True))
            if size
        )
