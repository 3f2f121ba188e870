"""Estimate what a run costs: its rounds are rehearsed in a dry run, which trains and saves nothing.

A dry run executes the code of a round: it builds models, cuts batches, averages rows and sends messages on the wire. It
leaves out only work that takes long. Of every kind of such work (say, a step of a client on a batch of 32) it does and times
a few; all others return the result of the first. So bytes, steps and floating point operations are those of the run, and
seconds are an estimate.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

import saves
from experiment.defences import Accountant
from experiment.measuring import COUNTED, Entry, is_evaluated, play, start
from experiment.preparation import Experiment, federation_of
from federation import Federation, computing_with
from federation.meter import Meter
from federation.recording import rounds_of
from options import Options, flags_of, plain

if TYPE_CHECKING:  # a command's help and its error messages need not wait for the import
    import pandas as pd

NO_LEARNING = 1e-9  # a learning rate that changes almost nothing
# options that change what is learned and not its cost: the same clients take the same steps on the same batches
NO_COST = ("seed", "lr", "lr_schedule", "ft_lr", "weight_decay", "on_divergence")
PATIENCE, PART = 3.0, 0.1  # seconds for all timing, but at most a fraction of the run's estimated time


class Kept(NamedTuple):
    """Bytes of the tensors in a state after the last round.

    `by_client`: the rows of single clients, wherever they are stored. `common`: all other tensors. A tensor with several
    owners counts once, and as common if it is also common.
    """

    by_client: int
    common: int


@dataclass(frozen=True)
class Plan:
    """The estimated cost of an experiment.

    `parameters`: the number of parameters of each architecture. `history`: as a run's history, without accuracies. Its
    counts are exact, its seconds are estimates, and its "peak_memory" is the dry run's, which holds what the run will hold.
    `state`: the bytes that stay from round to round. `notes`: what the run will say of its counts.
    """

    experiment: Experiment
    parameters: tuple[int, ...]
    history: pd.DataFrame
    state: Kept
    notes: tuple[str, ...] = ()

    @property
    def rounds(self) -> pd.DataFrame:
        """Return one row per round, including round 0."""
        return self.history[self.history["client"] == saves.ALL].reset_index(drop=True)

    @property
    def seconds(self) -> float:
        """Return the estimated seconds of the whole run, including its evaluations."""
        return float(self.rounds["seconds"].sum() + self.rounds["evaluation_seconds"].sum())

    @property
    def recorded(self) -> int:
        """Return the most bytes that `--record_wire` saves: all messages of its rounds (a broadcast is saved only once)."""
        options, rounds = self.experiment.options, self.rounds
        is_recorded = rounds["round"].isin(rounds_of(options.record_wire or (), options.rounds))
        return int(rounds.loc[is_recorded, ["bytes_up", "bytes_down", "bytes_between"]].sum().sum())


class Rehearsal(Meter):
    """A meter with a clock of its own, for a dry run.

    It does not repeat work of a known kind, but advances the clock by that kind's seconds. `patience`: {kind: the seconds
    for which the work is repeated for timing, at least once}. Without it, the first execution is timed.
    """

    def __init__(self, patience: Mapping[Hashable, float] | None = None) -> None:
        super().__init__()
        self.passed_over: Counter[Hashable] = Counter()  # {kind: seconds} of the skipped work
        self._patience = patience
        self._known: dict[Hashable, tuple[float, Any]] = {}
        self._memories: dict[Hashable, dict[str, Any]] = {}
        self._timing = 0.0

    def now(self) -> float:
        """Return the seconds, as if all work had been done once."""
        return super().now() - self._timing + self.passed_over.total()

    def _done(self, function: Callable[[], Any], kind: Hashable) -> Any:
        if kind in self._known:
            seconds, result = self._known[kind]
            self.passed_over[kind] += seconds
            return result
        seconds, result = self._timed(partial(super()._done, function, kind))
        if self._patience is not None:
            taken: list[float] = []
            while not taken or sum(taken) < self._patience.get(kind, 0.0):
                taken.append(self._timed(function)[0])
            self._timing += sum(taken)
            seconds = statistics.fmean(taken)
        self._known[kind] = seconds, result
        return result

    def note(self, message: str) -> None:
        """Keep a message for the plan, and log nothing: the run will."""
        self.notes[message] = None

    def remembered(self, memory: dict[str, Any], kind: Hashable) -> dict[str, Any]:
        """Return the optimizer state after steps of a kind.

        If all steps were skipped, return a copy of the state after the first steps of the kind.
        """
        first = self._memories.setdefault(kind, memory)
        if any(memory.values()):
            return memory
        return {
            name: {key: torch.clone(value) for key, value in parameter_state.items()}
            for name, parameter_state in first.items()
        }

    def _timed(self, function: Callable[[], Any]) -> tuple[float, Any]:
        start_time = super().now()
        result = function()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return super().now() - start_time, result


def plan(experiment: Experiment, watch: Callable[[int], None] = lambda r: None, patience: float = PATIENCE) -> Plan:
    """Rehearse an experiment; call `watch` with the number of each finished round.

    If every client takes part in every round, one round is rehearsed for all similar rounds: the first, the last, and
    between them one round with evaluation and one without. If these rounds do not cost the same after all, or clients are
    sampled, every round is rehearsed. A first dry run finds the seconds of each kind of work; in a second one, each kind is
    timed for its share of `patience`, in seconds.
    """
    options = experiment.options
    inner = range(2, options.rounds)
    representatives = {is_evaluated(options, r): r for r in reversed(inner)}  # the first round of each kind
    representative = {r: representatives[is_evaluated(options, r)] for r in inner}
    rehearsed = sorted({1, options.rounds, *representative.values()})
    first_meter = Rehearsal()
    entries, _ = _rehearse(experiment, rehearsed, federation_of(experiment), first_meter, watch)
    counts_by_round = [_counts(entry) for r, entry in entries.items() if r > 1]
    if _is_random(options) or any(counts != counts_by_round[0] for counts in counts_by_round):
        representative, rehearsed = {}, range(1, options.rounds + 1)
    share = min(patience / max(first_meter.passed_over.total(), 1e-9), options.rounds / len(rehearsed) * PART)
    timing_meter = Rehearsal({kind: share * seconds for kind, seconds in first_meter.passed_over.items()})
    federation = federation_of(experiment)
    entries, state = _rehearse(experiment, rehearsed, federation, timing_meter, watch)
    accountant = Accountant(options, experiment.module, [len(share) for share in federation.shares])
    all_entries = []
    for r in range(options.rounds + 1):
        entry = entries[representative.get(r, r)]
        all_entries.append({**entry, "round": {**entry["round"], "round": r, **accountant.columns(entry)}})
    frame, named = saves.frame_of(all_entries), ("round", "client", "bytes", "epsilon", *COUNTED)
    costs = [name for name in frame if name.startswith(named) or name in saves.TIMING]
    parameters = tuple(sum(p.numel() for p in skeleton.parameters()) for skeleton in federation.skeletons)
    return Plan(experiment, parameters, frame[costs], kept(state, experiment.options.n_clients), tuple(timing_meter.notes))


def kept(state: dict[str, Any], n_clients: int) -> Kept:
    """Return the bytes of a state. Clients' rows are a list of length `n_clients`, or a dict by client."""
    sizes: dict[bool, dict[Hashable, int]] = {False: {}, True: {}}

    def walk(tree: Any, by_client: bool) -> None:
        if isinstance(tree, Tensor):
            sizes[by_client][tree.data_ptr(), tree.nbytes] = tree.nbytes
        elif isinstance(tree, dict):
            for key, branch in tree.items():
                walk(branch, by_client or isinstance(key, int))
        elif isinstance(tree, list | tuple):
            for branch in tree:
                walk(branch, by_client or (isinstance(tree, list) and len(tree) == n_clients))

    walk(state, by_client=False)
    common, rows = sizes[False], {key: nbytes for key, nbytes in sizes[True].items() if key not in sizes[False]}
    return Kept(sum(rows.values()), sum(common.values()))


def costs_of(experiment: Experiment, any_draw: bool = False) -> Hashable:
    """Return a value that is equal for experiments with the same bytes, steps and FLOPs, so that they can share a plan.

    `any_draw`: the value is also equal for experiments that differ in the draws of seed and split, and cost about the same.

    Only a few options (`NO_COST`) never change the cost. The seed is one of them only if all clients take part and none
    straggles or fails, since the seed decides which clients do.
    """
    options = plain(experiment.options)
    ignored = [name for name in NO_COST if name != "seed" or any_draw or not _is_random(experiment.options)]
    ignored.append("split_seed")  # the comparison includes the split itself
    relevant = {name: value for name, value in options.items() if name not in ignored}
    split = None if any_draw else experiment.split.digest
    return json.dumps(relevant, sort_keys=True), split, experiment.data.digest


def _is_random(options: Options) -> bool:
    """Return whether the seed decides what clients do in a round, and so what it costs."""
    return options.participation < 1 or bool(options.straggler or options.client_failure or options.dp_sgd)


def _rehearse(
    experiment: Experiment, rounds: Iterable[int], federation: Federation, meter: Rehearsal, watch: Callable[[int], None]
) -> tuple[dict[int, Entry], dict[str, Any]]:
    """Run the start and these rounds of a dry run; return ({round: entry}, the state after them)."""
    options = experiment.options  # tiny learning rates, since a dry run must not diverge
    rates = [name for name, declared in flags_of(type(options)).items() if declared["rate"]]
    tiny_rates = {name: min(getattr(options, name), NO_LEARNING) for name in rates}
    experiment = replace(experiment, options=replace(options, **tiny_rates))
    federation = replace(federation, meter=meter)
    with computing_with(1):
        state, entry = start(experiment, federation)
        entries, result, remembered = {0: entry}, None, {}
        for r in rounds:
            result, entries[r], _ = play(experiment, federation, state, r, before=result, remembered=remembered)
            watch(r)
    return entries, state


def _counts(entry: Entry) -> dict[str, float]:
    return {name: count for name, count in entry["round"].items() if name.startswith(("bytes", *COUNTED))}
