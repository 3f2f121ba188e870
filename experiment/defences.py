"""The defences of a run's messages: which algorithms and options allow them, and what they promise."""

from types import ModuleType

from errors import UserError
from federation import n_sampled
from options import Options


def check(options: Options, module: ModuleType) -> None:
    """Raise UserError if the algorithm, or another option, does not allow the requested defences."""
    uploads = getattr(module, "uploads", None)
    if options.secure_aggregation and uploads != {}:
        _check_sums(options, module, uploads)


def _check_sums(options: Options, module: ModuleType, uploads: dict[str, str | None] | None) -> None:
    name, flag = options.algorithm, "--secure_aggregation:"
    if uploads is None:
        variant = "this variant of " if module.__name__.startswith("algorithms.published.") else ""
        raise UserError(f"{flag} {variant}{name} has no server that needs only sums of the clients' messages; leave it out")
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
