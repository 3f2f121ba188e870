"""What experiments will cost, in two tables: a row a run, and a row for every kind of message; see `experiment.planning`."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

import experiment
from errors import DivergedError
from experiment import Experiment, Plan
from experiment.planning import NO_COST
from figures.groups import distinguishing
from figures.units import duration, operations, shown, size
from launch import ending
from launch.scheduling import cores_of, side_by_side
from options import Launch, plain
from untrusted import escape, print_escaped

DIRECTIONS = {"up": "up", "down": "down", "between": "to neighbours"}


def tell_all(ready: Sequence[Experiment], how: Launch) -> int:
    """Print what runs will cost, and nothing else; returns the exit status."""
    plans: list[Plan] = []
    for found in each(ready, how.quiet):
        if isinstance(found, DivergedError):
            print_escaped(f"{ending.program()}: {escape(found)}", file=sys.stderr)
            continue
        plans.append(found)
        if how.json:
            print_escaped(json.dumps(summary(found), allow_nan=False), flush=True)
    if plans and not how.json:
        print_escaped(report(plans, cores_of(ready, how.jobs)))
    return 0 if len(plans) == len(ready) else 1


def each(ready: Sequence[Experiment], quiet: bool) -> Iterator[Plan | DivergedError]:
    """The plan of each experiment, or why it has none: initial weights from elsewhere may not be finite. Those that cost the
    same are planned once."""
    found: dict = {}
    for number, one in enumerate(ready, start=1):
        costs = experiment.costs_of(one)
        if costs not in found:
            label = f"planning {one.options.algorithm} seed {one.options.seed} ({number}/{len(ready)})"
            with tqdm(desc=label, unit="round", disable=True if quiet else None, leave=False) as bar:
                try:
                    found[costs] = experiment.plan(one, lambda r, bar=bar: bar.update())
                except DivergedError as error:
                    yield error
                    continue
        yield replace(found[costs], experiment=one)


def report(plans: Sequence[Plan], cores: int = 1) -> str:
    """The tables of plans, and the sum of it in words: one after another and, where there are several `cores`, side by side
    on these. Bytes are exact; those of a round are means over the rounds."""
    named = _named(plans)
    neighbours = any(plan.rounds["bytes_between"].any() for plan in plans)
    server = any(plan.rounds["flops:server"].any() for plan in plans)
    runs = [{**name, **_run(plan, neighbours, server)} for name, plan in zip(named, plans, strict=True)]
    kinds = [{**name, **row} for name, plan in zip(named, plans, strict=True) for row in _kinds(plan)]
    words = (*named[0], "direction", "kind")
    parts = [_table(rows, words) for rows in (runs, kinds) if rows]
    total, seconds = sum(_bytes(plan) for plan in plans), sum(plan.seconds for plan in plans)
    what = "a run" if len(plans) == 1 else f"{len(plans)} runs"
    how = "one after another"
    if cores > 1 and len(plans) > 1:
        parallel = side_by_side([(plan.seconds, plan.experiment.options.threads) for plan in plans], cores)
        how += f", or {duration(parallel)} side by side with --jobs {cores}"
    made = len({id(plan.history) for plan in plans})
    once = (
        f"; planned {made}, since what differs in nothing but {', '.join(NO_COST)} costs the same"
        if made < len(plans)
        else ""
    )
    parts.append(
        f"{what}: {size(total)}, about {duration(seconds)} on this machine as busy as it is now, {how}{once}; "
        "nothing was trained or saved"
    )
    return "\n\n".join(parts)


def summary(plan: Plan) -> dict[str, Any]:
    """The keys of `--json`: of the whole run, but for those that say otherwise. Counts are exact, seconds estimated."""
    rounds, options = plan.rounds, plan.experiment.options
    return {
        "algorithm": options.algorithm,
        "seed": options.seed,
        "split_seed": options.split_seed,
        "folder": str(plan.experiment.folder),
        "parameters": list(plan.parameters),
        "bytes": {
            name.removeprefix("bytes_"): {
                "before": int(rounds[name].iloc[0]),
                "a_round": float(rounds[name].iloc[1:].mean()),
                "run": int(rounds[name].sum()),
            }
            for name in _messages(rounds)
        },
        **{name: int(rounds[name].sum()) for name in ("steps", "flops")},
        **{f"{name}_server": int(rounds[f"{name}:server"].sum()) for name in ("steps", "flops")},
        "state": {
            "a_client": plan.state.by_client / options.n_clients,
            "common": plan.state.common,
            "all": sum(plan.state),
        },
        "memory": int(rounds["peak_memory"].max()),
        **{name: round(float(rounds[name].sum()), 3) for name in ("seconds", "evaluation_seconds")},
        "options": plain(options),
    }


def _run(plan: Plan, neighbours: bool, server: bool) -> dict[str, str]:
    told, options = summary(plan), plan.experiment.options
    rounds, share = plan.rounds, options.n_clients * options.rounds
    row = {"parameters": ", ".join(f"{n:,}" for n in dict.fromkeys(told["parameters"]))}
    for name, words in DIRECTIONS.items():
        if name != "between" or neighbours:
            row[f"{words}, a client\nand round"] = size(rounds[f"bytes_{name}"].sum() / share)
    row["steps of\nall clients"] = f"{told['steps']:,}"
    row["FLOPs a client\nand round"] = operations(told["flops"] / share)
    if server:
        row["steps of\nthe server"] = f"{told['steps_server']:,}"
        row["FLOPs of the\nserver a round"] = operations(told["flops_server"] / options.rounds)
    state = told["state"]
    return {
        **row,
        "state kept, a client\nand in all": f"{size(state['a_client'])}, {size(state['all'])}",
        "memory, of this\nprocess so far": size(told["memory"]),
        "time": duration(plan.seconds),
    }


def _kinds(plan: Plan) -> list[dict[str, str]]:
    rows = []
    for name, nbytes in summary(plan)["bytes"].items():
        direction, _, kind = name.partition(":")
        a_round = nbytes["a_round"]
        rows.append({"direction": DIRECTIONS[direction], "kind": kind, "bytes before\nround 1": f"{nbytes['before']:,}"})
        rows[-1]["a round,\nall clients"] = f"{a_round:,.0f}" if a_round.is_integer() else f"{a_round:,.1f}"
        rows[-1]["the run"] = f"{nbytes['run']:,}"
    return rows


def _messages(rounds) -> list[str]:
    """Columns of bytes by direction and kind, the directions in their order."""
    places = list(DIRECTIONS)
    found = [name for name in rounds if name.startswith("bytes_") and ":" in name]
    return sorted(found, key=lambda name: places.index(name.removeprefix("bytes_").partition(":")[0]))


def _bytes(plan: Plan) -> float:
    return float(plan.rounds[["bytes_up", "bytes_down", "bytes_between"]].sum().sum())


def _named(plans: Sequence[Plan]) -> list[dict[str, str]]:
    """What tells the plans apart: the algorithm, and the options that differ among those of one algorithm."""
    found = [plain(plan.experiment.options) for plan in plans]
    differing = distinguishing(found, but=())
    return [
        {"algorithm": options["algorithm"], **{f"--{name}": shown(options.get(name, "")) for name in differing}}
        for options in found
    ]


def _table(rows: Sequence[dict[str, str]], words: Sequence[str]) -> str:
    aligned = ["left" if name in words else "right" for name in rows[0]]
    return tabulate(rows, headers="keys", tablefmt="simple", colalign=aligned, disable_numparse=True)
