"""The results of attacks on a run, kept in its folder: `leakage.json`.

{"run": digest of the run's own files, "results": {"VIEW KNOWS ATTACK": numbers}}. The view is "sent" (the recorded messages)
or "published" (the models after the last round, which the run hands to its users). A result names the digest of the code
and the options of its attack; with other code or options the attack is repeated.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import algorithms
import plugins
import saves
from attacks import ATTACKS, judge, options_of
from attacks.knowledge import ATTACKER, Public, Recording
from attacks.pictures import draw
from attacks.sums import averages
from data import partition, shift
from data.datasets import Data
from experiment import identity
from federation import computing_with
from federation.recording import Message
from federation.wire import SERVER
from saves import LEAKAGE, Run

SECRET = ("seed", "split_seed", "partition_file", "init_from", "clients")  # options that reveal the truth, or name a file


class Case(NamedTuple):
    """One attack on one view of a run."""

    view: str
    knows: str
    attack: str

    @property
    def key(self) -> str:
        """Return the name of the result."""
        return f"{self.view} {self.knows} {self.attack}"


class Attacked:
    """A run under attack: its views, public data and the truth, each loaded once.

    `options`: {attack: its options}, where they are not the defaults.
    """

    def __init__(self, run: Run, data_dir: Path, options: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.run, self._data_dir, self._options = run, data_dir, options
        self._views: dict[tuple[str, str], Recording] = {}

    def case(self, case: Case, pictures: Path | None = None) -> dict[str, Any]:
        """Carry out an attack; return its numbers. With a folder `pictures`, draw the images that it reconstructs."""
        recording, (public, truth) = self.view(case.view, case.knows), self.drawn
        start_time, options = perf_counter(), self._options.get(case.attack, options_of(case.attack))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            guess = ATTACKS[case.attack].attack(recording, public, options)
        numbers = judge.verdict(guess, recording, public, truth)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            path = pictures / f"{self.run.folder.name}-{case.key.replace(' ', '-')}.png"
            draw(guess, recording, public, truth.is_member, f"{self.run.folder.name}: {case.key}", path)
        return {**numbers, "seconds": round(perf_counter() - start_time, 2), **inputs_of(case.attack, options)}

    def view(self, view: str, knows: str) -> Recording:
        """Return what an attacker sees: the recorded messages, or the published models as messages."""
        if (view, knows) not in self._views:
            self._views[view, knows] = self._view(view, knows)
        return self._views[view, knows]

    def _view(self, view: str, knows: str) -> Recording:
        run, networks, own = self.run, {}, None
        models = own_models(run)
        if view == "sent":
            messages, public_weights = run.recording()
            module = algorithms.ALGORITHMS.get(run.options["algorithm"])
            messages = averages(messages, getattr(module, "uploads", None) or {})
        else:
            last = run.options["rounds"]
            messages = [Message(last, "up", "weights", k, SERVER, row) for k, row in models.items()]
            public_weights = {}
        if knows == "network":
            networks = models
        elif knows == "own_client":
            (data, split), networks = self._shares, {ATTACKER: models[ATTACKER]} if ATTACKER in models else {}
            own = judge.labelled(data, split.train[ATTACKER])
        options = {name: value for name, value in run.options.items() if name not in SECRET}
        data = self._shares[0]
        facts = (tuple(run.config["inputs"][0]), data.classes, data.mean, data.std)
        return Recording(messages, options, *facts, public_weights, knows, networks, own)

    @cached_property
    def drawn(self) -> tuple[Public, judge.Truth]:
        """Return the public data with the candidates, and the truth."""
        return judge.drawn(*self._shares)

    @cached_property
    def _shares(self) -> tuple[Data, partition.Split]:
        data, options = self.run.data(self._data_dir), self.run.options
        clients = options["n_clients"], options.get("new_clients", 0)
        split = partition.from_file(self.run.folder / "split.npz", data, *clients)
        return shift.shifted(data, split, _Shifted(options)), split


class _Shifted:
    """The options of a run that `shift.shifted` reads, from its `config.json`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.feature_shift = options.get("feature_shift", "none")
        self.shift_strength = options.get("shift_strength", 0.5)
        self.split_seed, self.n_clients = options["split_seed"], options["n_clients"]
        self.new_clients = options.get("new_clients", 0)


def own_models(run: Run) -> dict[int, dict]:
    """Return {client: the weights of the model that it uses after the last round}: its own, or the global one."""
    weights = run.weights()
    rows = weights.get("personal", weights.get("global", next(iter(weights.values()))))
    return dict(enumerate(rows)) if isinstance(rows, list) else dict.fromkeys(range(run.options["n_clients"]), rows)


def inputs_of(attack: str, options: Any) -> dict[str, Any]:
    """Return what a result depends on besides the run: the digest of the attack's code, and its options."""
    return {"code": _code(attack), "options": asdict(options) if options else {}}


@cache
def _code(attack: str) -> str:
    own = plugins.sources(attack) if attack in plugins.LOADED else identity.sources(f"attacks.{attack}")
    texts = [plugins.text_of(path) for path in dict.fromkeys([*own, *identity.sources("attacks.judge")])]
    return hashlib.sha256(repr(texts).encode()).hexdigest()[:16]


def cases_of(attacks: Sequence[str], knows: Sequence[str]) -> list[Case]:
    """Return the attacks on the messages with each knowledge, and on the published models with the messages' alone."""
    sent = [Case("sent", what, attack) for what in knows for attack in attacks]
    return [*sent, *(Case("published", "wire", attack) for attack in attacks)]


def missing_of(run: Run, cases: Sequence[Case], options: Mapping[str, Any] = MappingProxyType({})) -> list[Case]:
    """Return the attacks that have no result with today's code and these options."""
    results = run.leakage()
    inputs = {case.attack: inputs_of(case.attack, options.get(case.attack, options_of(case.attack))) for case in cases}
    return [case for case in cases if not inputs[case.attack].items() <= results.get(case.key, {}).items()]


def estimate(runs: Sequence[Run], cases: Sequence[Case], options: Mapping[str, Any]) -> tuple[int, float, list[str]]:
    """Return (number of attacks without a result, their estimated seconds, names of the attacks without an estimate).

    The estimate of an attack is its mean seconds on the runs that have a result, of the same algorithm if there are any.
    """
    seconds: dict[tuple[str, str | None], list[float]] = {}
    for run in runs:
        for key, result in run.leakage().items():
            for algorithm in (run.options["algorithm"], None):
                seconds.setdefault((key, algorithm), []).append(result["seconds"])
    n, total, unknown = 0, 0.0, {}
    for run in runs:
        for case in missing_of(run, cases, options):
            known = seconds.get((case.key, run.options["algorithm"])) or seconds.get((case.key, None))
            n, total = n + 1, total + (sum(known) / len(known) if known else 0)
            unknown |= {} if known else {case.key: None}
    return n, total, list(unknown)


def run_attacks(
    run: Run,
    cases: Sequence[Case],
    data_dir: Path,
    force: bool = False,
    watch: Callable[[Case], None] = lambda case: None,
    pictures: Path | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, dict[str, Any]]:
    """Carry out the attacks that have no result yet; return all results of the run by key. Each is saved at once.

    With a folder `pictures`, repeat all attacks and draw the images that they reconstruct. `options`: see `Attacked`.
    """
    attacked, results, missing = Attacked(run, data_dir, options), run.leakage(), set(missing_of(run, cases, options))
    for case in cases:
        if force or pictures or case in missing:
            with computing_with(1):  # the same bits on any machine, and no threads that wait for busy cores
                results = {**results, case.key: attacked.case(case, pictures)}
            saves.write_json(run.folder / LEAKAGE, {"run": saves.digest_of(run.folder / saves.DONE), "results": results})
        watch(case)
    return results
