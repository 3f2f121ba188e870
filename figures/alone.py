"""What collaboration is to the clients: each of them beside itself alone, on the same split with the same seed."""

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


def alone_for(group: Group, found: Sequence[Group], beside: Sequence[Group] = ()) -> Group | None:
    """The `independent` that a group is held against: the one there is, or else, of several or of those `beside`, the one
    with the same shared flags. None for `independent` itself, and where that is not one."""
    alone = [other for other in found if other.algorithm == "independent"]
    if len(alone) != 1:
        alone = [other for other in alone or beside if _asked(other).items() <= _asked(group).items()]
    return alone[0] if len(alone) == 1 and group.algorithm != "independent" else None


def _asked(group: Group) -> dict[str, str]:
    return {name: repr(value) for name, value in group.options.items() if name not in OF_A_SEED}


def by_client(run: Run, on: str):
    """The personal accuracy of each client, a pandas series by client."""
    clients = run.clients
    there = clients[clients["round"] == row_of(run, on)["round"]]
    return there.set_index("client")["personal_accuracy"].dropna()


def pairs(runs: Sequence[Run], alone: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Each run with that of `independent` of the same seed, where there is one."""
    without = {seed_of(run): run for run in alone}
    return [(run, without[seed_of(run)]) for run in runs if seed_of(run) in without]


def least_gain(group: Group, alone: Group | None, on: str) -> float | None:
    """By how much personal accuracy is above that of the same client alone, of the client that gains least, mean over the
    common seeds. None without a common seed, and of another round than the last where clients are more than `saves.MANY`."""
    if alone is None or (on != "last" and group.options["n_clients"] > saves.MANY):  # then the last round alone has them all
        return None
    least = [(by_client(run, on) - by_client(base, on)).min() for run, base in pairs(group.runs, alone.runs)]
    return float(np.mean(least)) if least else None


def part_harmed(group: Group, alone: Group | None, on: str) -> float | None:
    """The part of the clients that are `harmed` after the last round, mean over the splits; None where it is not known."""
    on_splits = list(harmed(group, alone).values()) if alone is not None and on == "last" else []
    if not on_splits or any(clients is None for clients in on_splits):
        return None
    return float(np.mean([clients.mean() for clients in on_splits]))


def harmed(group: Group, alone: Group) -> dict[int, np.ndarray | None]:
    """{split seed: which clients a method harms, bool [K]}, by the rule in HARMED; None where runs did not keep which of
    their test examples they got right."""
    of_split: dict[int, list[tuple[Run, Run]]] = {}
    for run, base in pairs(group.runs, alone.runs):
        of_split.setdefault(run.options["split_seed"], []).append((run, base))
    return {split_seed: _harmed(pairs) for split_seed, pairs in of_split.items()}


def _harmed(pairs: Sequence[tuple[Run, Run]]) -> np.ndarray | None:
    kept = [[own_right(run) for run in pair] for pair in pairs]
    if any(right is None for pair in kept for right in pair):
        return None
    differences = np.mean([own.values.astype(float) - alone.values for own, alone in kept], axis=0)
    return np.array([_below_zero(of_client) for of_client in Shares(differences, kept[0][0].offsets)])


def own_right(run: Run) -> Shares | None:
    """Which of its own test examples each client got right after the last round, uint8; None where that was not kept."""
    saved = run.arrays("confusion")
    return saved and Shares((saved["own_true"] == saved["own_predicted"]).astype(np.uint8), saved["own_offsets"])


def _below_zero(differences: np.ndarray) -> bool:
    return np.count_nonzero(differences) >= LEAST_EXAMPLES and interval(differences)[1] < 0
