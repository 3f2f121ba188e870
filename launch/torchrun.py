"""On the ranks of one `torchrun`, which make one run after another together. The first rank leads, and does as it would
alone; here is what the others do.

torchrun --nnodes 4 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint node1:29500 run.py fedavg --n_clients 1000
"""

from dataclasses import replace
from functools import partial
from typing import Any

from errors import UserError
from experiment import Experiment, identity, rounds
from federation import ranks
from launch import nodes, scheduling
from options import Launch


def follow(how: Launch) -> None:
    """Do what the leader tells, until it is done with all."""
    ranks.follow(partial(_take_part, how))


def _take_part(how: Launch, told: tuple[Experiment, dict[str, Any] | None]) -> None:
    one, saved = told
    if differs := identity.carried_out(identity.carrier(one.options), one.config):
        raise UserError(f"has {differs}; must be the same on all ranks")
    one = nodes.with_data(one, how, "ranks")
    workers = scheduling.workers_of(one, how.workers, scheduling.cores())
    rounds.follow(replace(one, workers=workers), saved)
