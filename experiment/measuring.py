"""One round of an experiment: run the round, evaluate its models, and measure its history entry."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

import algorithms
import saves
from errors import UserError
from experiment import divergence
from experiment.evaluation import Evaluated, Remembered, evaluate, features, personalise, welcome
from experiment.preparation import Experiment
from federation import Federation
from federation.meter import UNCOUNTED
from helpers import Round, cross_entropy, model_of
from models import Net
from options import Options

log = logging.getLogger("chorus")
Entry = dict[str, dict]  # an entry of the history: see `saves.frame_of`
COUNTED = ("steps", "samples", "flops")  # of the clients; the server has separate columns, "steps:server"
TUNED = ("sent_", "local_", "tuned_")  # prefixes of the columns of `personalise`
PARTIES = ("client", "server")  # parties of the rounds; evaluation and fine-tuning count for neither


def start(experiment: Experiment, federation: Federation) -> tuple[dict[str, Any], Entry]:
    """Return what exists before the first round: (state, entry of round 0). Raise DivergedError if a party has diverged."""
    start_time = federation.meter.now()
    federation.wire.begin(0)
    state = experiment.module.start(federation, experiment.options)
    if not isinstance(state, dict):
        raise UserError(f"{experiment.options.algorithm}: start returns {_type(state)}; must return the state, a dict")
    diverged = divergence.in_round(federation, None, state, {})
    divergence.stop(experiment.options, diverged, 0)
    of_round, of_clients = divergence.columns(diverged)
    seconds = federation.meter.now() - start_time
    return state, _entry(federation, 0, Round([], torch.zeros(0), {}), Evaluated(of_round, of_clients, {}), seconds, 0.0)


def play(
    experiment: Experiment,
    federation: Federation,
    state: dict,
    r: int,
    watch: Callable[[str], None] = lambda words: None,
    before: Round | None = None,
    remembered: Remembered | None = None,
) -> tuple[Round, Entry, dict[str, Tensor]]:
    """Run round r, which changes the state; return (its result, its entry, its confusion if it is evaluated).

    `before` is the result of the previous round, which is also the result of a round in which all clients fail. `remembered`
    is the last evaluation, which this round's replaces: see `evaluate`. After the last round the clients fine-tune, if
    `--ft_epochs` is set. Raise DivergedError, and UserError if all clients failed in all rounds up to the last.
    """
    options, module, round_federation, now = experiment.options, experiment.module, federation.at(r), federation.meter.now
    start_time, state_before = now(), dict(state)
    failed, active = _failing(experiment, round_federation)
    if failed:
        _count_lost_work(experiment, round_federation.without(frozenset(round_federation.clients) - failed), state)
    federation.wire.begin(r)
    if active or not failed:
        result = module.communicate(round_federation.without(failed) if failed else round_federation, state, options)
        if problem := _problem_of(result):
            raise UserError(f"{options.algorithm}: {problem}")
    else:
        result = (before or Round([], torch.zeros(0), {}))._replace(clients=[], loss=torch.zeros(0), local_weights=None)
    if _failure_probability(experiment):
        result = result._replace(metrics={**result.metrics, "failed": len(failed)})
    if not result.models and r == options.rounds:
        raise UserError(
            f"--client_failure {options.client_failure:g}: all clients failed in all {r} rounds; use a smaller value"
        )
    diverged = divergence.in_round(federation, result, state, state_before)
    divergence.stop(options, diverged, r)
    training_end = now()
    evaluated, feature_arrays = Evaluated({}, {}, {}), {}
    if result.models and is_evaluated(options, r):
        evaluated = evaluate(federation, experiment.split, result, options.measure or (), remembered)
        if len(federation.clients) > saves.MANY and r < options.rounds:
            evaluated = evaluated._replace(of_clients=_select_clients(result.clients, evaluated.of_clients))
        feature_arrays = {"features": features(federation, result, options.track_features)} if options.track_features else {}
    if r == options.rounds:
        loss = getattr(experiment.module, "tuning_loss", cross_entropy)
        tuning = [personalise(federation, experiment.split, result, options, loss, watch)] if options.ft_epochs else []
        if received := _model_of_new_clients(experiment, federation, result, state):
            tuning += [welcome(federation, experiment.split, received, options, loss, watch)]
        for of_round, of_clients in tuning:
            evaluated.of_round.update(of_round)
            evaluated.of_clients.update(of_clients)
    of_round, of_clients = divergence.columns(diverged)
    evaluated.of_round.update(of_round)
    evaluated.of_clients.update(of_clients)
    entry = _entry(federation, r, result, evaluated, training_end - start_time, now() - training_end)
    return result, {**entry, **feature_arrays}, evaluated.confusion


def _problem_of(result: Any) -> str:
    """Return what is wrong with the result of an algorithm's round; "" if nothing is."""
    if not isinstance(result, Round):
        return f"communicate returns {_type(result)}; must return helpers.Round(clients, loss, models)"
    n = len(result.clients) or 1  # without clients, the server trained
    if not isinstance(result.loss, Tensor) or result.loss.shape != (n,):
        held = f"has the shape {list(result.loss.shape)}" if isinstance(result.loss, Tensor) else f"is {_type(result.loss)}"
        return f"the loss of a Round {held}; must be a tensor [{n}], a loss per client, such as train(...).loss"
    models = result.models.values() if isinstance(result.models, dict) else ()
    if not models or any(isinstance(model_of, torch.nn.Module) or not callable(model_of) for model_of in models):
        return "the models of a Round must be {name: function of k}, such as shared_model(federation, state)"
    return ""


def _type(value: Any) -> str:
    return type(value).__name__


def _model_of_new_clients(
    experiment: Experiment, federation: Federation, result: Round, state: dict
) -> Callable[[int], Net] | None:
    """Return k -> the model that a new client receives; None without new clients, or if the algorithm has no such model.

    It is the one global model of the round. Without one, it is the model from which a client starts its first round after
    `helpers.download`: the server's weights, and the initial values of what stays with a client.
    """
    answer = getattr(algorithms.ALGORITHMS[experiment.options.algorithm], "new_clients", "")
    if not experiment.split.new or answer is None:
        return None
    if "global" in result.models:
        return result.models["global"]
    if {"server", "kept", "frozen"} <= state.keys():  # of `helpers.one_model`
        return model_of(federation, {**state["server"], **state["kept"], **state["frozen"]})
    if answer not in result.models:
        log.info("--new_clients: %s sends no model to a new client, so its columns stay empty", experiment.options.algorithm)
    return result.models.get(answer)


def passed_over(experiment: Experiment, federation: Federation, r: int) -> bool:
    """Return whether all clients of round r fail."""
    return _failure_probability(experiment) > 0 and not _failing(experiment, federation.at(r))[1]


def _failing(experiment: Experiment, federation: Federation) -> tuple[frozenset[int], frozenset[int]]:
    """Split the clients of a round into those that fail and the others. Without a chance of failure, draw nothing."""
    if not (probability := _failure_probability(experiment)):
        return frozenset(), frozenset()
    sample = getattr(experiment.module, "sample", lambda federation, options: federation.sample())
    return federation.failing(probability, sample(federation, experiment.options))


def _failure_probability(experiment: Experiment) -> float:
    """Return the probability that a client of a round fails."""
    return 0.0 if getattr(experiment.module, "idle", False) else experiment.options.client_failure


def _count_lost_work(experiment: Experiment, failing: Federation, state: dict) -> None:
    """Let the failing clients work on a copy of the state that is thrown away, so that the meter counts their work.

    Each party counts what it sends: a message between two clients counts too if one of them fails.
    """
    meter = failing.meter
    server_counts = {key: n for key, n in meter.spent.items() if key[1] == "server"}
    experiment.module.communicate(failing, dict(state), experiment.options)
    for key in [key for key in meter.spent if key[1] == "server"]:  # the server receives nothing from failed clients
        meter.spent[key] = server_counts.get(key, 0)
    meter.diverged.clear()


def _select_clients(clients: Sequence[int], of_clients: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    return {name: {k: column[k] for k in clients if k in column} for name, column in of_clients.items()}


def is_evaluated(options: Options, r: int) -> bool:
    """Return whether `--track_history` selects round r, or r is the last round."""
    return r == options.rounds or bool(options.track_history and r % options.track_history == 0)


def untuned(entry: Entry) -> Entry:
    """Return the entry of a last round without the columns of fine-tuning."""

    def without(columns: dict[str, Any]) -> dict[str, Any]:
        return {name: values for name, values in columns.items() if not name.startswith(TUNED)}

    return {**entry, "round": without(entry["round"]), "clients": without(entry["clients"])}


def _entry(federation: Federation, r: int, result: Round, evaluated: Evaluated, seconds: float, evaluation: float) -> Entry:
    """Return a round's entry of the history, and reset the counts of wire and meter."""
    sent, meter = federation.wire.collect(), federation.meter
    columns: dict[str, dict[int, float]] = {}
    server_columns = {name: f"{name}:server" for name in COUNTED}
    counted = ("bytes_up", "bytes_down", "bytes_between", *COUNTED, *server_columns.values())
    totals: dict[str, float] = dict.fromkeys(counted, 0)

    def count(name: str, client: int | None, amount: int) -> None:
        totals[name] = totals.get(name, 0) + amount
        if client is not None:
            columns.setdefault(name, {}).setdefault(client, 0)
            columns[name][client] += amount

    for (direction, kind), by_client in sent.items():
        for client, nbytes in by_client.items():
            count(f"bytes_{direction}", client, nbytes)
            count(f"bytes_{direction}:{kind}", client, nbytes)
    for (quantity, party, client), amount in meter.spent.items():
        if quantity.startswith(UNCOUNTED):
            if party in PARTIES:
                name = quantity.removeprefix(UNCOUNTED)
                meter.note(f"FLOPs are too small: torch's {name} has no formula here, and is not counted")
        elif party == "client":
            count(quantity, client, amount)
        elif party == "server":
            count(server_columns[quantity], None, amount)
    training = sum(meter.seconds["train", party] for party in PARTIES)
    meter.clear()
    columns["loss"] = dict(zip(result.clients, result.loss.tolist(), strict=False))
    columns.update(evaluated.of_clients)
    columns.update({name: metric for name, metric in result.metrics.items() if isinstance(metric, dict)})
    round_metrics = {name: metric for name, metric in result.metrics.items() if not isinstance(metric, dict)}
    clients_by_column = {name: np.fromiter(column, np.int64, len(column)) for name, column in columns.items()}
    present = np.unique(np.concatenate(list(clients_by_column.values())))
    clients = {"client": saves.kept(present)}
    for name, column in columns.items():
        values = np.full(len(present), math.nan)
        values[np.searchsorted(present, clients_by_column[name])] = np.fromiter(column.values(), np.float64, len(column))
        clients[name] = saves.kept(values)
    loss = result.loss.mean().item() if len(result.loss) else math.nan
    timing = dict(zip(saves.TIMING, (seconds, training, seconds - training, evaluation, _peak(federation)), strict=True))
    return {
        "round": {"round": r, "loss": loss, **totals, **evaluated.of_round, **round_metrics, **timing},
        "clients": clients,
    }


def _peak(federation: Federation) -> float:
    """Return the peak memory in bytes: of the CUDA device since the last call, or of this process since its start."""
    if federation.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(federation.device)
        torch.cuda.reset_peak_memory_stats(federation.device)
        return float(peak)
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
