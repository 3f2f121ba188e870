"""One round of an experiment: it is played and evaluated, and measured for the history."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

import saves
from errors import UserError
from experiment import divergence
from experiment.evaluation import Evaluated, evaluate, features, personalise
from experiment.preparation import Experiment
from federation import Federation
from helpers import Round, cross_entropy
from options import Options

Entry = dict[str, dict]  # of the history: see `saves.frame_of`
COUNTED = ("steps", "samples", "flops")  # of the clients; those of the server are columns of their own, "steps:server"
TUNED = ("sent_", "local_", "tuned_")  # columns of what `personalise` finds
PARTIES = ("client", "server")  # of the rounds; what is spent to evaluate or to fine-tune is none of theirs


def start(experiment: Experiment, federation: Federation) -> tuple[dict[str, Any], Entry]:
    """What comes before the first round -> (state, entry of round 0). Raises DivergedError."""
    began = federation.meter.now()
    state = experiment.module.start(federation, experiment.options)
    found = divergence.in_round(federation, None, state, {})
    divergence.stop(experiment.options, found, 0)
    of_round, of_clients = divergence.columns(found)
    seconds = federation.meter.now() - began
    return state, _entry(federation, 0, Round([], torch.zeros(0), {}), Evaluated(of_round, of_clients, {}), seconds, 0.0)


def play(
    experiment: Experiment,
    federation: Federation,
    state: dict,
    r: int,
    watch: Callable[[str], None] = lambda words: None,
    before: Round | None = None,
) -> tuple[Round, Entry, dict[str, Tensor]]:
    """Round r, in which the state changes -> (what it leaves, its entry, its confusion where it is evaluated). `before`:
    what the round before it left, which is what a round leaves in which all clients fail.

    After the last round the clients fine-tune, where they do. Raises DivergedError, and UserError where all clients failed
    in all rounds up to the last.
    """
    options, module, here, now = experiment.options, experiment.module, federation.at(r), federation.meter.now
    began, state_before = now(), dict(state)
    failed, others = _failing(experiment, here)
    if failed:
        _work_in_vain(experiment, here.without(frozenset(here.clients) - failed), state)
    if others or not failed:
        done = module.communicate(here.without(failed) if failed else here, state, options)
    else:
        done = (before or Round([], torch.zeros(0), {}))._replace(clients=[], loss=torch.zeros(0), local_weights=None)
    if _chance(experiment):
        done = done._replace(metrics={**done.metrics, "failed": len(failed)})
    if not done.models and r == options.rounds:
        raise UserError(f"--client_failure {options.client_failure:g}: all clients failed in all {r} rounds")
    found = divergence.in_round(federation, done, state, state_before)
    divergence.stop(options, found, r)
    trained = now()
    evaluated, seen = Evaluated({}, {}, {}), {}
    if done.models and is_evaluated(options, r):
        evaluated = evaluate(federation, experiment.split, done, options.measure or ())
        if len(federation.clients) > saves.MANY and r < options.rounds:
            evaluated = evaluated._replace(of_clients=_only(done.clients, evaluated.of_clients))
        seen = {"features": features(federation, done, options.track_features)} if options.track_features else {}
    if r == options.rounds and options.ft_epochs:
        loss = getattr(experiment.module, "tuning_loss", cross_entropy)
        of_round, of_clients = personalise(federation, experiment.split, done, options, loss, watch)
        evaluated.of_round.update(of_round)
        evaluated.of_clients.update(of_clients)
    of_round, of_clients = divergence.columns(found)
    evaluated.of_round.update(of_round)
    evaluated.of_clients.update(of_clients)
    entry = _entry(federation, r, done, evaluated, trained - began, now() - trained)
    return done, {**entry, **seen}, evaluated.confusion


def passed_over(experiment: Experiment, federation: Federation, r: int) -> bool:
    """Whether all clients of round r fail."""
    failed, others = _failing(experiment, federation.at(r))
    return bool(failed) and not others


def _failing(experiment: Experiment, here: Federation) -> tuple[frozenset[int], frozenset[int]]:
    """The clients of a round in two: those that fail, and the others. Nothing is drawn where none can fail."""
    if not (chance := _chance(experiment)):
        return frozenset(), frozenset()
    sample = getattr(experiment.module, "sample", lambda federation, options: federation.sample())
    return here.failing(chance, sample(here, experiment.options))


def _chance(experiment: Experiment) -> float:
    """That a client of a round fails."""
    return 0.0 if getattr(experiment.module, "idle", False) else experiment.options.client_failure


def _work_in_vain(experiment: Experiment, failing: Federation, state: dict) -> None:
    """Those who fail do their work on a state that is thrown away, so that it is counted. Each party counts what it sends
    itself: a message between two clients, of which one fails, too."""
    meter = failing.meter
    servers = {key: n for key, n in meter.spent.items() if key[1] == "server"}
    experiment.module.communicate(failing, dict(state), experiment.options)
    for key in [key for key in meter.spent if key[1] == "server"]:  # it never hears of them
        meter.spent[key] = servers.get(key, 0)
    meter.diverged.clear()


def _only(clients: Sequence[int], of_clients: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    return {name: {k: column[k] for k in clients if k in column} for name, column in of_clients.items()}


def is_evaluated(options: Options, r: int) -> bool:
    """Whether round r is one that `--track_history` names, or the last."""
    return r == options.rounds or bool(options.track_history and r % options.track_history == 0)


def untuned(entry: Entry) -> Entry:
    """The entry of a last round, without what clients fine-tuned after it."""

    def without(columns: dict[str, Any]) -> dict[str, Any]:
        return {name: told for name, told in columns.items() if not name.startswith(TUNED)}

    return {**entry, "round": without(entry["round"]), "clients": without(entry["clients"])}


def _entry(federation: Federation, r: int, done: Round, evaluated: Evaluated, seconds: float, evaluation: float) -> Entry:
    """A round's part of the history; the counts of wire and meter begin anew."""
    crossed, meter = federation.wire.collect(), federation.meter
    columns: dict[str, dict[int, float]] = {}
    of_the_server = {name: f"{name}:server" for name in COUNTED}
    counted = ("bytes_up", "bytes_down", "bytes_between", *COUNTED, *of_the_server.values())
    totals: dict[str, float] = dict.fromkeys(counted, 0)

    def count(name: str, client: int | None, amount: int) -> None:
        totals[name] = totals.get(name, 0) + amount
        if client is not None:
            columns.setdefault(name, {}).setdefault(client, 0)
            columns[name][client] += amount

    for (direction, kind), by_client in crossed.items():
        for client, nbytes in by_client.items():
            count(f"bytes_{direction}", client, nbytes)
            count(f"bytes_{direction}:{kind}", client, nbytes)
    for (what, party, client), amount in meter.spent.items():
        if party == "client":
            count(what, client, amount)
        elif party == "server":
            count(of_the_server[what], None, amount)
    training = sum(meter.seconds["train", party] for party in PARTIES)
    meter.clear()
    columns["loss"] = dict(zip(done.clients, done.loss.tolist(), strict=False))
    columns.update(evaluated.of_clients)
    columns.update({name: told for name, told in done.metrics.items() if isinstance(told, dict)})
    of_all = {name: told for name, told in done.metrics.items() if not isinstance(told, dict)}
    whose = {name: np.fromiter(column, np.int64, len(column)) for name, column in columns.items()}
    present = np.unique(np.concatenate(list(whose.values())))
    clients = {"client": saves.kept(present)}
    for name, column in columns.items():
        values = np.full(len(present), math.nan)
        values[np.searchsorted(present, whose[name])] = np.fromiter(column.values(), np.float64, len(column))
        clients[name] = saves.kept(values)
    loss = done.loss.mean().item() if len(done.loss) else math.nan
    timing = dict(zip(saves.TIMING, (seconds, training, seconds - training, evaluation, _peak(federation)), strict=True))
    return {"round": {"round": r, "loss": loss, **totals, **evaluated.of_round, **of_all, **timing}, "clients": clients}


def _peak(federation: Federation) -> float:
    """Bytes of memory at most: of the CUDA device since the last call, or of this process since it began."""
    if federation.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(federation.device)
        torch.cuda.reset_peak_memory_stats(federation.device)
        return float(peak)
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
