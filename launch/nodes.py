"""On other machines than the one that named the runs.

A run's folder is named, last, by what carries it out: code, libraries, processor, device. A node of another kind would name
it otherwise, and so look for it, and save it, in another folder. So it is the submitter's names that hold everywhere. A
launcher on other machines has each of them prepare its experiments itself, and then asks

    one = nodes.under_its_name(experiment.prepare(options, how), named, how.any_node)

where `named` is what `named_for` took of the submitter's experiment of the same algorithm. Either this machine would name
the run in the same way, and nothing is changed; or DeclinedError says in one line what differs; or, with `--any_node`, the
folder is the submitter's, while `config.json` says what really carried the run out. `write` and `prepare` do the same by way
of a file, for those who start a command on each node (`launch/slurm.py`).
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
    """This machine would name a run otherwise than the one that submitted it."""


def named_for(one: Experiment) -> dict[str, Any]:
    """What of an experiment's `config.json` names what carries it out, as JSON can hold it."""
    return {name: one.config[name] for name in ("source", "revision", "environment")}


def under_its_name(one: Experiment, named: Mapping[str, Any], any_node: bool) -> Experiment:
    """An experiment that was prepared on this machine, in the folder that the submitter gave it. Raises DeclinedError where
    this machine is of another kind, unless `any_node`: then `config.json` has, beside the environment, that this was
    allowed."""
    if one.config["source"] != named["source"] and not any_node:
        here, there = identity.carried_out(one.config, named), identity.carried_out(named, one.config)
        raise DeclinedError(f"this node has {here}, the runs were named for {there}; --any_node accepts it")
    folder = one.folder.with_name(identity.name_of({**one.config, "source": named["source"]}))
    return replace(one, folder=folder, config={**one.config, "any_node": True} if any_node else one.config)


def with_data(one: Experiment, launch: Launch, all_of: str) -> Experiment:
    """The experiment with the data set as this machine reads it. Raises UserError where that is another one."""
    data = preparation.data_of(one.options, launch)
    if data.digest != one.config["data"]["digest"]:
        where = f"--dataset {one.options.dataset}: other data are in {launch.data_dir}"
        raise UserError(f"{where}; must be the same on all {all_of}")
    return replace(one, data=data)


def write(runs: Iterable[Experiment], path: Path) -> None:
    """What `named_for` says of each algorithm, to a file. Raises UserError where that differs between runs of one."""
    found: dict[str, dict[str, Any]] = {}
    for one in runs:
        if found.setdefault(one.options.algorithm, named_for(one)) != named_for(one):
            raise UserError("--device: must be one for all runs that are submitted together")
    saves.write_json(path, found)


def independent(one: Experiment, launch: Launch) -> Experiment:
    """Return independent learning with the same shared flags, on the same split."""
    shared = {f.name: getattr(one.options, f.name) for f in fields(Options)}
    return prepare(algorithms.options_of("independent")(**{**shared, "algorithm": "independent"}), launch)


def prepare(options: Options, launch: Launch) -> Experiment:
    """As `experiment.prepare`; with `--named_by` a file of `write`, under the submitter's name. Raises UserError, and
    DeclinedError where this node is of another kind."""
    one = experiment.prepare(options, launch)
    if launch.named_by is None:
        return one
    try:
        named = tree(launch.named_by)[one.options.algorithm]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"--named_by {launch.named_by}: names no run of {one.options.algorithm}; must be a file of --slurm"
        ) from None
    return under_its_name(one, named, launch.any_node)
