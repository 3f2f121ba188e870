"""Numbers that are not finite: whose they are, in which round, and whether the run goes on with them."""

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

Party = int | str  # a client by its number, or in words
Found = dict[Party, str]  # of each that diverged, in words with a place for its name, what is not finite
SERVER = "the server"
log = logging.getLogger("chorus")
ROUND, TUNED = "diverged", "tuned_diverged"  # columns of the history: how many clients, and of each whether it did


def in_round(federation: Federation, done: Round | None, state: Mapping[str, Any], before: Mapping[str, Any]) -> Found:
    """Who has diverged since the state was `before`: by a training loss, by what local epochs ended with, or by what was
    made of that and is in the state now."""
    found = {} if done is None else _losses(done)
    for party, client in sorted(federation.meter.diverged):
        found.setdefault(client if party == "client" else SERVER, "the loss or the weights of {} are not finite")
    # what is made of such weights is not finite either, and says nothing more
    return found or dict.fromkeys(_unsound(federation, state, before), "what {} keeps is not finite")


def _losses(done: Round) -> Found:
    alone = [SERVER] if len(done.loss) else []  # there is no loss where all clients failed
    losses: dict[Party, float] = dict(zip(list(done.clients) or alone, done.loss.tolist(), strict=True))
    if "server_loss" in done.metrics:
        losses[SERVER] = done.metrics["server_loss"]
    return {who: f"the training loss of {{}} is {value}" for who, value in losses.items() if not math.isfinite(value)}


def _unsound(federation: Federation, state: Mapping[str, Any], before: Mapping[str, Any]) -> list[Party]:
    """Whose tensors that are new in the state are not finite."""
    new = list(_new(dict(state), before, len(federation.clients)))
    sound = torch.stack([finite([tensor]).to(federation.device) for _, tensor in new]).tolist() if new else []
    return list(dict.fromkeys(who for (who, _), is_sound in zip(new, sound, strict=True) if not is_sound))


def _new(tree: Any, before: Any, n_clients: int, whose: Party = SERVER) -> Iterator[tuple[Party, Tensor]]:
    """(whose it is, tensor) of a tree, without what is `before` at its place: no tensor of a state is changed in place. A
    row of a client is the client's, everything else the server's."""
    if tree is before:
        return
    if isinstance(tree, Tensor):
        yield whose, tree
    elif isinstance(tree, dict):
        for key, branch in tree.items():
            owner = key if isinstance(key, int) else whose
            n = 0 if key == "server" else n_clients  # its models may be as many as there are clients
            yield from _new(branch, before.get(key) if isinstance(before, dict) else None, n, owner)
    elif isinstance(tree, list | tuple):
        same = isinstance(before, list | tuple) and len(before) == len(tree)
        for k, branch in enumerate(tree):
            owner = k if whose == SERVER and len(tree) == n_clients else whose
            yield from _new(branch, before[k] if same else None, n_clients, owner)


def columns(found: Iterable[Party], name: str = ROUND) -> tuple[dict[str, float], dict[str, dict[int, float]]]:
    """Of the round, how many clients diverged and whether the server did; of the clients, that they did. Empty where nobody
    did: a run that does not diverge has no such columns."""
    clients = {who: 1.0 for who in found if who != SERVER}
    of_round = {name: float(len(clients))} if found else {}
    return of_round | ({f"{name}:server": 1.0} if SERVER in found else {}), {name: clients} if clients else {}


def stop(options: Options, found: Found, r: int) -> None:
    """Raises DivergedError where somebody diverged in round r (0: before the first) and the run is not to go on."""
    if found and options.on_divergence == "stop":
        who, what = next(iter(found.items()))
        rates = [name for name, flag in flags_of(type(options)).items() if flag["rate"] and name != "ft_lr"]
        raise DivergedError(
            f"{options.algorithm}: {what.format(_called(who))} {_when(r)}; nothing after it would mean anything; "
            f"{smaller(options, rates)}"
        )


def smaller(options: Options, rates: Sequence[str]) -> str:
    """What may help, in words."""
    told = " or ".join(f"--{name} (it is {getattr(options, name):g})" for name in rates)
    return f"a smaller {told} may help"


def warn(options: Options, history: Sequence[Mapping[str, Any]]) -> None:
    """Once in a run, that it has diverged and goes on."""
    if words := first(options, history):
        log.warning(words)


def first(options: Options, history: Sequence[Mapping[str, Any]]) -> str:
    """In words, that somebody has diverged in the last entry of a history, where nobody has in those before it; or ""."""
    *earlier, last = history
    names = [name for name in (ROUND, TUNED) if _parties(last, name)]
    if not names or any(_parties(entry, name) for entry in earlier for name in (ROUND, TUNED)):
        return ""
    (name, *_), r = names, last["round"]["round"]
    who, *others = _parties(last, name)
    told = f"{'fine-tuning of ' if name == TUNED else ''}{_called(who)}{f' and {len(others)} more' if others else ''}"
    return (
        f"{options.algorithm}: {told} diverged {_when(r)}, and the run goes on (--on_divergence continue); what it says "
        "from then on means nothing"
    )


def _parties(entry: Mapping[str, Any], name: str) -> list[Party]:
    """Who diverged, by an entry of a history."""
    clients = {column: saves.numbers(entry["clients"][column]) for column in ("client", name) if column in entry["clients"]}
    of_clients = clients["client"][clients[name] == 1].astype(int).tolist() if name in clients else []
    return [*of_clients, *([SERVER] if f"{name}:server" in entry["round"] else [])]


def _when(r: int) -> str:
    return f"in round {r}" if r else "before round 1"


def _called(who: Party) -> str:
    return who if isinstance(who, str) else f"client {who}"
