"""The defences of a run's messages: which algorithms and options allow them, and what they promise."""

import logging
from types import ModuleType
from typing import Any

import models
from errors import UserError
from federation import Federation, n_sampled
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
    if options.dp_clip and uploads != {}:
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


def _variant(module: ModuleType) -> str:
    return "this variant of " if module.__name__.startswith("algorithms.published.") else ""


def noise_of(options: Options) -> Noise | None:
    """Return the clipping and noise of what clients send; None without."""
    return Noise(options.dp_clip, options.dp_noise, options.dp_delta, options.seed) if options.dp_clip else None


def promise(options: Options, module: ModuleType) -> dict[str, Any]:
    """Return and log {"privacy": a client's epsilon, and what it does not cover}, for `config.json`; {} without noise.

    The total is that of a client that takes part in every round.
    """
    uploads = getattr(module, "uploads", {})
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


def columns(module: ModuleType, federation: Federation) -> dict[str, float]:
    """Return the columns of a round's epsilon; {} where clients send no weights, or without noise."""
    noise = federation.wire.noise
    return noise.columns(federation) if noise and WEIGHTS in getattr(module, "uploads", {}) else {}
