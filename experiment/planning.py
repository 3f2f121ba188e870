"""What a run will cost, before it is run: its rounds are rehearsed, and nothing is trained or saved.

A rehearsal goes through the very code of a round: models are built, batches cut, rows averaged, and the wire is crossed.
Only work that takes long is left out: of every kind of it (a step of a client on a batch of 32, say) a few are done and
timed, and each further one is taken as done, with what the first returned. So bytes, steps and floating point operations are
those of the run, and its seconds are an estimate.
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
from experiment.measuring import COUNTED, Entry, is_evaluated, play, start
from experiment.preparation import Experiment, federation_of
from federation import Federation, computing_with
from federation.meter import Meter
from options import flags_of, plain

if TYPE_CHECKING:  # a command's help and a mistake need not wait for it
    import pandas as pd

NO_LEARNING = 1e-9  # a learning rate
# options that change what is learnt and nothing of what it costs: the same steps on the same batches, of the same clients
NO_COST = ("seed", "lr", "lr_schedule", "ft_lr", "weight_decay", "on_divergence")
PATIENCE, PART = 3.0, 0.1  # seconds to time it all, but no more than a part of what the run will take


class Kept(NamedTuple):
    """Bytes of the tensors in a state after the last round: `by_client`, what is kept of the clients one by one, a row of
    each, wherever it lies; `common`, all else. A tensor that several hold is counted once, and as common where it is that
    too."""

    by_client: int
    common: int


@dataclass(frozen=True)
class Plan:
    """What an experiment will cost. `parameters`: of each architecture that is dealt to the clients; `history`: as a run's,
    its counts exact, its seconds estimated, its "peak_memory" that of the rehearsal, which holds what the run will hold.
    It has no accuracies. `state`: what is kept from round to round."""

    experiment: Experiment
    parameters: tuple[int, ...]
    history: pd.DataFrame
    state: Kept

    @property
    def rounds(self) -> pd.DataFrame:
        """A row a round, round 0 included."""
        return self.history[self.history["client"] == saves.ALL].reset_index(drop=True)

    @property
    def seconds(self) -> float:
        """Of the whole run, its evaluations included."""
        return float(self.rounds["seconds"].sum() + self.rounds["evaluation_seconds"].sum())


class Rehearsal(Meter):
    """A meter with its own clock: work of a kind that it knows is not done, but the clock put forward by its seconds.
    `patience`: {kind: for how many seconds it is done over and over to be timed, once at least}; None: what is done first
    is timed."""

    def __init__(self, patience: Mapping[Hashable, float] | None = None) -> None:
        super().__init__()
        self.passed_over: Counter[Hashable] = Counter()  # {kind: seconds} of the work that was not done
        self._patience = patience
        self._known: dict[Hashable, tuple[float, Any]] = {}
        self._memories: dict[Hashable, dict[str, Any]] = {}
        self._timing = 0.0

    def now(self) -> float:
        """Seconds, as if all work had been done once."""
        return super().now() - self._timing + self.passed_over.total()

    def _done(self, do: Callable[[], Any], kind: Hashable) -> Any:
        if kind in self._known:
            seconds, done = self._known[kind]
            self.passed_over[kind] += seconds
            return done
        seconds, done = self._timed(partial(super()._done, do, kind))
        if self._patience is not None:
            taken: list[float] = []
            while not taken or sum(taken) < self._patience.get(kind, 0.0):
                taken.append(self._timed(do)[0])
            self._timing += sum(taken)
            seconds = statistics.fmean(taken)
        self._known[kind] = seconds, done
        return done

    def remembered(self, memory: dict[str, Any], kind: Hashable) -> dict[str, Any]:
        """Where all steps were taken as done, a copy of what is remembered after steps of the kind that were."""
        first = self._memories.setdefault(kind, memory)
        if any(memory.values()):
            return memory
        return {name: {key: torch.clone(value) for key, value in of_one.items()} for name, of_one in first.items()}

    def _timed(self, do: Callable[[], Any]) -> tuple[float, Any]:
        began = super().now()
        done = do()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return super().now() - began, done


def plan(experiment: Experiment, watch: Callable[[int], None] = lambda r: None) -> Plan:
    """Rehearse an experiment; `watch` is told each round that is done.

    Where every client takes part in every round, one round is rehearsed for all that are alike: the first, the last, and
    between them one that is evaluated and one that is not. Where these do not cost the same after all, or clients are
    sampled, every round is rehearsed. A first rehearsal finds what takes how much of the time; in a second one work of each
    kind is timed for as much of `PATIENCE`.
    """
    options = experiment.options
    inner = range(2, options.rounds)
    alike = {is_evaluated(options, r): r for r in reversed(inner)}  # the first of each sort
    stands_for = {r: alike[is_evaluated(options, r)] for r in inner}
    rehearsed = sorted({1, options.rounds, *stands_for.values()})
    first = Rehearsal()
    entries, _ = _rehearse(experiment, rehearsed, federation_of(experiment), first, watch)
    later = [_counts(entry) for r, entry in entries.items() if r > 1]
    drawn = options.participation < 1 or options.straggler or options.client_failure
    if drawn or any(counts != later[0] for counts in later):
        stands_for, rehearsed = {}, range(1, options.rounds + 1)
    share = min(PATIENCE / max(first.passed_over.total(), 1e-9), options.rounds / len(rehearsed) * PART)
    patient = Rehearsal({kind: share * seconds for kind, seconds in first.passed_over.items()})
    federation = federation_of(experiment)
    entries, state = _rehearse(experiment, rehearsed, federation, patient, watch)
    everything = {r: entries[stands_for.get(r, r)] for r in range(options.rounds + 1)}
    frame = saves.frame_of([{**entry, "round": {**entry["round"], "round": r}} for r, entry in everything.items()])
    costs = [name for name in frame if name.startswith(("round", "client", "bytes", *COUNTED)) or name in saves.TIMING]
    parameters = tuple(sum(p.numel() for p in skeleton.parameters()) for skeleton in federation.skeletons)
    return Plan(experiment, parameters, frame[costs], kept(state, experiment.options.n_clients))


def kept(state: dict[str, Any], n_clients: int) -> Kept:
    """The bytes of a state. Rows of clients are a list of `n_clients`, or a dict by client."""
    found: dict[bool, dict[Hashable, int]] = {False: {}, True: {}}

    def walk(tree: Any, by_client: bool) -> None:
        if isinstance(tree, Tensor):
            found[by_client][tree.data_ptr(), tree.nbytes] = tree.nbytes
        elif isinstance(tree, dict):
            for key, branch in tree.items():
                walk(branch, by_client or isinstance(key, int))
        elif isinstance(tree, list | tuple):
            for branch in tree:
                walk(branch, by_client or (isinstance(tree, list) and len(tree) == n_clients))

    walk(state, by_client=False)
    common, rows = found[False], {key: nbytes for key, nbytes in found[True].items() if key not in found[False]}
    return Kept(sum(rows.values()), sum(common.values()))


def costs_of(experiment: Experiment) -> Hashable:
    """Equal for experiments that differ in nothing that changes bytes, steps or FLOPs, so that one plan is that of all. That
    is said of few options (`NO_COST`), and of the seed only where all clients take part and none straggles or fails, for it
    draws which do."""
    options = plain(experiment.options)
    draws_none = options["participation"] == 1 and not (options["straggler"] or options["client_failure"])
    left_out = [name for name in NO_COST if name != "seed" or draws_none]
    left_out.append("split_seed")  # the split itself is compared
    told = {name: value for name, value in options.items() if name not in left_out}
    return json.dumps(told, sort_keys=True), experiment.split.digest, experiment.data.digest


def _rehearse(
    experiment: Experiment, rounds: Iterable[int], federation: Federation, meter: Rehearsal, watch: Callable[[int], None]
) -> tuple[dict[int, Entry], dict[str, Any]]:
    """What comes before the first round, and these rounds -> ({round: entry}, the state after them)."""
    options = experiment.options  # a rehearsal must not diverge
    rates = [name for name, declared in flags_of(type(options)).items() if declared["rate"]]
    tiny = {name: min(getattr(options, name), NO_LEARNING) for name in rates}
    experiment = replace(experiment, options=replace(options, **tiny))
    federation = replace(federation, meter=meter)
    with computing_with(1):
        state, entry = start(experiment, federation)
        entries, done = {0: entry}, None
        for r in rounds:
            done, entries[r], _ = play(experiment, federation, state, r, before=done)
            watch(r)
    return entries, state


def _counts(entry: Entry) -> dict[str, float]:
    return {name: count for name, count in entry["round"].items() if name.startswith(("bytes", *COUNTED))}
