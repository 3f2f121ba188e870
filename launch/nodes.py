"""Runs on other machines than the machine that named the runs.

The last part of a run's name stands for what executes the run: code, libraries, processor, device. A node of another kind
would name the run differently, and so look for it, and save it, in another folder. So the submitter's names hold everywhere.
A launcher on other machines has each machine prepare its experiments itself, and then calls

    run_experiment = nodes.under_its_name(experiment.prepare(options, launch_options), named, launch_options.any_node)

where `named` is the result of `named_for` for the submitter's experiment of the same algorithm. There are three cases. This
machine would give the run the same name: nothing changes. This machine would give another name: DeclinedError says in one
line what differs. With `--any_node`, the folder is the submitter's, and `config.json` says what really executed the run.
`write` and `prepare` do the same with a file, for launchers that start a command on each node (`launch/slurm.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import algorithms
import experiment
import saves
from errors import UserError
from experiment import Experiment, identity, preparation
from options import Launch, Options
from untrusted import tree

DECLINED = 3  # the exit status of a command on a node of another kind


class DeclinedError(UserError):
    """This machine would name a run differently from the machine that submitted the run."""


def named_for(experiment: Experiment) -> dict[str, Any]:
    """Return the part of an experiment's `config.json` that names what executes the run, as values for JSON."""
    return {name: experiment.config[name] for name in ("source", "revision", "environment")}


def under_its_name(experiment: Experiment, named: Mapping[str, Any], any_node: bool) -> Experiment:
    """Return an experiment that was prepared on this machine, in the folder that the submitter gave to the run.

    Raises DeclinedError where this machine is of another kind, unless `any_node`: then `config.json` records, besides the
    environment, that any node was allowed.
    """
    if experiment.config["source"] != named["source"] and not any_node:
        own_environment, named_environment = (
            identity.carried_out(experiment.config, named),
            identity.carried_out(named, experiment.config),
        )
        raise DeclinedError(
            f"this node has {own_environment}, but the runs were submitted for {named_environment}; add --any_node to "
            "accept this node"
        )
    folder = experiment.folder.with_name(identity.name_of({**experiment.config, "source": named["source"]}))
    return replace(
        experiment, folder=folder, config={**experiment.config, "any_node": True} if any_node else experiment.config
    )


def with_data(experiment: Experiment, launch_options: Launch, all_of: str) -> Experiment:
    """Return the experiment with the data set as this machine reads it. Raises UserError where the data differ."""
    data = preparation.data_of(experiment.options, launch_options)
    if data.digest != experiment.config["data"]["digest"]:
        prefix = f"--dataset {experiment.options.dataset}: {launch_options.data_dir} has other data"
        raise UserError(f"{prefix}; must be the same on all {all_of}")
    return replace(experiment, data=data)


def write(runs: Iterable[Experiment], path: Path) -> None:
    """Write `named_for` of each algorithm to a file. Raises UserError where it differs between runs of one algorithm."""
    names_by_algorithm: dict[str, dict[str, Any]] = {}
    for run_experiment in runs:
        if names_by_algorithm.setdefault(run_experiment.options.algorithm, named_for(run_experiment)) != named_for(
            run_experiment
        ):
            raise UserError("--device: must be the same for all runs of one job")
    saves.write_json(path, names_by_algorithm)


def independent(experiment: Experiment, launch_options: Launch) -> Experiment:
    """Return independent learning with the same shared flags, on the same split."""
    shared = {field.name: getattr(experiment.options, field.name) for field in fields(Options)}
    return prepare(algorithms.options_of("independent")(**{**shared, "algorithm": "independent"}), launch_options)


def prepare(options: Options, launch_options: Launch) -> Experiment:
    """Prepare an experiment as `experiment.prepare` does; with `--named_by`, a file of `write`, under the submitter's name.

    Raises UserError, and DeclinedError where this node is of another kind.
    """
    run_experiment = experiment.prepare(options, launch_options)
    if launch_options.named_by is None:
        return run_experiment
    try:
        named = tree(launch_options.named_by)[run_experiment.options.algorithm]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"--named_by {launch_options.named_by}: has no entry for {run_experiment.options.algorithm}; must be a file "
            "that --slurm has written"
        ) from None
    return under_its_name(run_experiment, named, launch_options.any_node)
