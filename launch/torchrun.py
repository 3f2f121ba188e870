"""Runs on the ranks of one `torchrun`, which execute one run after another together.

The first rank leads, and does the same as without `torchrun`. This module is for the other ranks.

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


def follow(launch_options: Launch) -> None:
    """Execute what the leader sends, until the leader is finished."""
    ranks.follow(partial(_take_part, launch_options))


def _take_part(launch_options: Launch, message: tuple[Experiment, dict[str, Any] | None]) -> None:
    experiment, saved = message
    if differs := identity.carried_out(identity.carrier(experiment.options), experiment.config):
        raise UserError(f"has {differs}; code, libraries and CPU must be the same on all ranks")
    experiment = nodes.with_data(experiment, launch_options, "ranks")
    workers = scheduling.workers_of(experiment, launch_options.workers, scheduling.cores())
    rounds.follow(replace(experiment, workers=workers), saved)
