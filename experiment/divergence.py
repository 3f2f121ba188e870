"""Values that are not finite: which party has them, in which round, and whether the run continues."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import saves
from errors import DivergedError
from federation import Federation
from federation.meter import finite
from helpers import Round
from options import Options, flags_of

Party = int | str  # a client's number, or a name such as "the server"
Found = dict[Party, str]  # for each diverged party, a message with a place for the party's name
SERVER = "the server"
log = logging.getLogger("chorus")
# columns of the history: number of diverged clients, and a flag per client: in a round, and in their fine-tuning
ROUND, TUNED, _ = COLUMNS = ("diverged", "tuned_diverged", "new_tuned_diverged")


def in_round(
    federation: Federation, round_result: Round | None, state: Mapping[str, Any], before: Mapping[str, Any]
) -> Found:
    """Return the parties that have diverged since the state was `before`.

    A party has diverged if its training loss, the weights after its local epochs or its new tensors in the state are not
    finite.
    """
    diverged = {} if round_result is None else _losses(round_result)
    for party, client in sorted(federation.meter.diverged):
        diverged.setdefault(client if party == "client" else SERVER, "the loss or the weights of {} are not finite")
    # values computed from such weights are not finite either, so the state adds no information
    return diverged or dict.fromkeys(
        _parties_with_nonfinite_tensors(federation, state, before), "the state of {} is not finite"
    )


def _losses(round_result: Round) -> Found:
    parties = [SERVER] if len(round_result.loss) else []  # no loss if all clients failed
    losses: dict[Party, float] = dict(zip(list(round_result.clients) or parties, round_result.loss.tolist(), strict=True))
    if "server_loss" in round_result.metrics:
        losses[SERVER] = round_result.metrics["server_loss"]
    return {party: f"the training loss of {{}} is {value}" for party, value in losses.items() if not math.isfinite(value)}


def _parties_with_nonfinite_tensors(
    federation: Federation, state: Mapping[str, Any], before: Mapping[str, Any]
) -> list[Party]:
    """Return the parties whose new tensors in the state are not finite."""
    new = list(_new_tensors(dict(state), before, len(federation.clients)))
    are_finite = torch.stack([finite([tensor]).to(federation.device) for _, tensor in new]).tolist() if new else []
    return list(dict.fromkeys(party for (party, _), is_finite in zip(new, are_finite, strict=True) if not is_finite))


def _new_tensors(tree: Any, before: Any, n_clients: int, party: Party = SERVER) -> Iterator[tuple[Party, Tensor]]:
    """Yield (party, tensor) for the tensors of a tree that are not at the same place in `before`.

    No tensor of a state is changed in place, so identity is enough. A client's row belongs to the client, everything else to
    the server.
    """
    if tree is before:
        return
    if isinstance(tree, Tensor):
        yield party, tree
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            owner = key if isinstance(key, int) else party
            n = 0 if key == "server" else n_clients  # the server may have as many models as there are clients
            yield from _new_tensors(branch, before.get(key) if isinstance(before, dict) else None, n, owner)
    elif isinstance(tree, list | tuple):
        same = isinstance(before, list | tuple) and len(before) == len(tree)
        for k, branch in enumerate(tree):
            owner = k if party == SERVER and len(tree) == n_clients else party
            yield from _new_tensors(branch, before[k] if same else None, n_clients, owner)


def columns(diverged: Iterable[Party], name: str = ROUND) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
    """Return the history columns of a divergence: (columns of the round, columns of the clients).

    The round has the number of diverged clients and a flag of the server; each diverged client has a flag. Both are empty if
    nobody diverged: a run without divergence has no such columns.
    """
    clients = {party: 1.0 for party in diverged if party != SERVER}
    of_round = {name: float(len(clients))} if diverged else {}
    return of_round | ({f"{name}:server": 1.0} if SERVER in diverged else {}), {name: clients} if clients else {}


def stop(options: Options, diverged: Found, r: int) -> None:
    """Raise DivergedError if a party diverged in round r (0: before the first round) and the run must not continue."""
    if diverged and options.on_divergence == "stop":
        party, message = next(iter(diverged.items()))
        rates = [name for name, flag in flags_of(type(options)).items() if flag["rate"] and name != "ft_lr"]
        raise DivergedError(
            f"{options.algorithm}: {message.format(_name_of(party))} {_when(r)}; later rounds would be meaningless; "
            f"{smaller(options, rates)}"
        )


def smaller(options: Options, rates: Sequence[str]) -> str:
    """Return a message with the learning rates that the user may reduce."""
    flags = " or ".join(f"--{name} (now {getattr(options, name):g})" for name in rates)
    return f"a smaller {flags} may help"


def warn(options: Options, history: Sequence[Mapping[str, Any]]) -> None:
    """Log a warning the first time that a run has diverged and continues."""
    if message := first(options, history):
        log.warning(message)


def first(options: Options, history: Sequence[Mapping[str, Any]]) -> str:
    """Return a message if a party diverged in the last entry of a history and none in the earlier entries; else ""."""
    *earlier, last = history
    names = [name for name in COLUMNS if _parties(last, name)]
    if not names or any(_parties(entry, name) for entry in earlier for name in COLUMNS):
        return ""
    (name, *_), r = names, last["round"]["round"]
    party, *others = _parties(last, name)
    subject = f"{'' if name == ROUND else 'fine-tuning of '}{_name_of(party)}{f' and {len(others)} more' if others else ''}"
    return (
        f"{options.algorithm}: {subject} diverged {_when(r)}, and the run continues (--on_divergence continue); "
        "its later results are meaningless"
    )


def _parties(entry: Mapping[str, Any], name: str) -> list[Party]:
    """Return the diverged parties in an entry of a history."""
    clients = {column: saves.numbers(entry["clients"][column]) for column in ("client", name) if column in entry["clients"]}
    of_clients = clients["client"][clients[name] == 1].astype(int).tolist() if name in clients else []
    return [*of_clients, *([SERVER] if f"{name}:server" in entry["round"] else [])]


def _when(r: int) -> str:
    return f"in round {r}" if r else "before round 1"


def _name_of(party: Party) -> str:
    return party if isinstance(party, str) else f"client {party}"
