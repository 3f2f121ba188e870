"""Measure what collaboration brings each client: compare it with the same client alone, on the same split and seed."""

from collections.abc import Sequence

import numpy as np

import saves
from data.partition import Shares
from figures.groups import OF_A_SEED, Group
from figures.metrics import row_of, seed_of
from figures.statistics import LEAST_EXAMPLES, interval
from saves import Run

HARMED = (
    "a client is harmed where it gets its own test examples wrong more often than the same client alone: Student's 95 % "
    f"interval of the differences, paired by example (means over the seeds on a split), is below 0, and {LEAST_EXAMPLES} "
    "examples or more differ"
)


def alone_for(group: Group, groups: Sequence[Group], beside: Sequence[Group] = ()) -> Group | None:
    """Return the group of `independent` that a group is compared with.

    This is the only `independent` among the groups. Where there are several or none, search these or `beside` for the one
    with the same shared flags. None for `independent` itself, and where the search does not give exactly one group."""
    alone = [other for other in groups if other.algorithm == "independent"]
    if len(alone) != 1:
        alone = [other for other in alone or beside if _shared_options(other).items() <= _shared_options(group).items()]
    return alone[0] if len(alone) == 1 and group.algorithm != "independent" else None


def _shared_options(group: Group) -> dict[str, str]:
    return {name: repr(value) for name, value in group.options.items() if name not in OF_A_SEED}


def by_client(run: Run, on: str):
    """Return the personal accuracy of each client, a pandas series by client."""
    clients = run.clients
    last = clients[clients["round"] == row_of(run, on)["round"]]
    return last.set_index("client")["personal_accuracy"].dropna()


def pairs(runs: Sequence[Run], alone: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return each run with the run of `independent` of the same seed, where there is such a run."""
    alone_by_seed = {seed_of(run): run for run in alone}
    return [(run, alone_by_seed[seed_of(run)]) for run in runs if seed_of(run) in alone_by_seed]


def least_gain(group: Group, alone: Group | None, on: str) -> float | None:
    """Return the gain in personal accuracy over the same client alone, of the client that gains least.

    Mean over the common seeds. None without a common seed, and for a round other than the last where there are more than
    `saves.MANY` clients."""
    if alone is None or (on != "last" and group.options["n_clients"] > saves.MANY):  # only the last round has all clients
        return None
    smallest_gains = [(by_client(run, on) - by_client(base, on)).min() for run, base in pairs(group.runs, alone.runs)]
    return float(np.mean(smallest_gains)) if smallest_gains else None


def part_harmed(group: Group, alone: Group | None, on: str) -> float | None:
    """Return the fraction of clients that are `harmed` after the last round, mean over the splits; None if unknown."""
    on_splits = list(harmed(group, alone).values()) if alone is not None and on == "last" else []
    if not on_splits or any(clients is None for clients in on_splits):
        return None
    return float(np.mean([clients.mean() for clients in on_splits]))


def harmed(group: Group, alone: Group) -> dict[int, np.ndarray | None]:
    """Return {split seed: which clients a method harms, bool [K]}, by the rule in HARMED.

    None where runs did not keep which of their test examples they classified correctly."""
    by_split: dict[int, list[tuple[Run, Run]]] = {}
    for run, base in pairs(group.runs, alone.runs):
        by_split.setdefault(run.options["split_seed"], []).append((run, base))
    return {split_seed: harmed_clients(pairs) for split_seed, pairs in by_split.items()}


def harmed_clients(pairs: Sequence[tuple[Run, Run]]) -> np.ndarray | None:
    """Return which clients a method harms on one split, bool [K], from pairs (a run, learning alone) with equal seeds."""
    correct = [[own_right(run) for run in pair] for pair in pairs]
    if any(of_run is None for pair in correct for of_run in pair):
        return None
    differences = np.mean([own.values.astype(float) - alone.values for own, alone in correct], axis=0)
    return np.array([_below_zero(of_client) for of_client in Shares(differences, correct[0][0].offsets)])


def own_right(run: Run) -> Shares | None:
    """Return which of its own test examples each client classified correctly after the last round, uint8.

    None where the run did not keep these predictions."""
    saved = run.arrays("confusion")
    return saved and Shares((saved["own_true"] == saved["own_predicted"]).astype(np.uint8), saved["own_offsets"])


def _below_zero(differences: np.ndarray) -> bool:
    return np.count_nonzero(differences) >= LEAST_EXAMPLES and interval(differences)[1] < 0
