"""The estimated cost of experiments, in two tables: one row per run, and one row per kind of message.

See `experiment.planning`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

import experiment
from errors import DivergedError
from experiment import Experiment, Plan
from experiment.planning import NO_COST, PATIENCE
from figures.groups import distinguishing
from figures.units import duration, in_blocks, operations, shown, size
from launch.scheduling import cores_of, side_by_side
from options import Launch, plain
from untrusted import escape, print_escaped, wrap

MANY = 20  # plans in a command above which seeds and splits share plans
DIRECTIONS = {"up": "up", "down": "down", "between": "to neighbours"}


def tell_all(experiments: Sequence[Experiment], launch_options: Launch, program: str) -> int:
    """Print the estimated cost of runs, and nothing else; return the exit status.

    `program`: the name of this command in messages."""
    plans: list[Plan] = []
    for result in each(experiments, launch_options.quiet):
        if isinstance(result, DivergedError):
            print_escaped(f"{program}: {escape(result)}", file=sys.stderr)
            continue
        plans.append(result)
        if launch_options.json:
            print_escaped(json.dumps(summary(result), allow_nan=False), flush=True)
    if plans and not launch_options.json:
        print_escaped(report(plans, cores_of(experiments, launch_options.jobs)))
    return 0 if len(plans) == len(experiments) else 1


def each(experiments: Sequence[Experiment], quiet: bool) -> Iterator[Plan | DivergedError]:
    """Yield the plan of each experiment, or the error of an experiment without a plan.

    An error occurs where initial weights from elsewhere are not finite. Experiments with the same cost are planned once;
    where more than MANY costs remain, experiments that differ in seed and split alone are planned once.
    """
    plans: dict = {}
    costs_of_all = [experiment.costs_of(item) for item in experiments]
    if len(set(costs_of_all)) > MANY:
        costs_of_all = [experiment.costs_of(item, any_draw=True) for item in experiments]
    patience = PATIENCE * min(1, MANY / max(len(set(costs_of_all)), 1))
    for number, (run_experiment, costs) in enumerate(zip(experiments, costs_of_all, strict=True), start=1):
        if costs not in plans:
            label = (
                f"planning {run_experiment.options.algorithm} seed {run_experiment.options.seed} "
                f"({number}/{len(experiments)})"
            )
            with tqdm(desc=label, unit="round", disable=True if quiet else None, leave=False) as progress_bar:
                try:
                    plans[costs] = experiment.plan(
                        run_experiment, lambda round_number, progress_bar=progress_bar: progress_bar.update(), patience
                    )
                except DivergedError as error:
                    yield error
                    continue
        yield replace(plans[costs], experiment=run_experiment)


def report(plans: Sequence[Plan], cores: int = 1) -> str:
    """Return the tables of plans, and the total in words.

    The total is for the runs one after another and, with several `cores`, in parallel on these cores. Bytes are exact; bytes
    per round are means over the rounds.
    """
    labels = _label_plans(plans)
    neighbours = any(plan.rounds["bytes_between"].any() for plan in plans)
    server = any(plan.rounds["flops:server"].any() for plan in plans)
    run_rows = [{**name, **_run_row(plan, neighbours, server)} for name, plan in zip(labels, plans, strict=True)]
    kind_rows = [{**name, **row} for name, plan in zip(labels, plans, strict=True) for row in _kind_rows(plan)]
    text_columns = (*labels[0], "direction", "kind")
    parts = [_format_table(rows, text_columns) for rows in (run_rows, kind_rows) if rows]
    total, seconds = sum(_total_bytes(plan) for plan in plans), sum(plan.seconds for plan in plans)
    subject = "a run" if len(plans) == 1 else f"{len(plans)} runs"
    order = "one run after another"
    if cores > 1 and len(plans) > 1:
        parallel = side_by_side([(plan.seconds, plan.experiment.options.threads) for plan in plans], cores)
        order += f", or {duration(parallel)} in parallel with --jobs {cores}"
    n_planned = len({id(plan.history) for plan in plans})
    planned_note = f"; only {n_planned} planned: {', '.join(NO_COST)} do not change cost" if n_planned < len(plans) else ""
    if len({experiment.costs_of(plan.experiment) for plan in plans}) > n_planned:
        planned_note += ", and other draws of clients and splits are taken to cost the same"
    summary_line = (
        f"{subject}: {size(total)}, about {duration(seconds)} on this machine at its current load, {order}{planned_note}; "
        "nothing was trained or saved"
    )
    parts += [wrap(note) for note in dict.fromkeys(note for plan in plans for note in plan.notes)]
    parts.append(wrap(summary_line))
    return "\n\n".join(parts)


def summary(plan: Plan) -> dict[str, Any]:
    """Return the keys of `--json`, for the whole run unless a key says otherwise.

    Counts are exact; seconds are estimates.
    """
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
            for name in _message_columns(rounds)
        },
        **{name: int(rounds[name].sum()) for name in ("steps", "flops")},
        **{f"{name}_server": int(rounds[f"{name}:server"].sum()) for name in ("steps", "flops")},
        "state": {
            "a_client": plan.state.by_client / options.n_clients,
            "common": plan.state.common,
            "all": sum(plan.state),
        },
        "memory": int(rounds["peak_memory"].max()),
        "recording": plan.recorded,
        **({"epsilon": float(rounds["epsilon"].iloc[-1])} if "epsilon" in rounds else {}),
        **{name: round(float(rounds[name].sum()), 3) for name in ("seconds", "evaluation_seconds")},
        "options": plain(options),
    }


def _run_row(plan: Plan, neighbours: bool, server: bool) -> dict[str, str]:
    totals, options = summary(plan), plan.experiment.options
    rounds, client_rounds = plan.rounds, options.n_clients * options.rounds
    row = {"parameters": ", ".join(f"{n:,}" for n in dict.fromkeys(totals["parameters"]))}
    for name, label in DIRECTIONS.items():
        if name != "between" or neighbours:
            row[f"{label} per\nclient, round"] = size(rounds[f"bytes_{name}"].sum() / client_rounds)
    row["client\nsteps"] = f"{totals['steps']:,}"
    row["FLOPs per\nclient, round"] = operations(totals["flops"] / client_rounds)
    if server:
        row["server\nsteps"] = f"{totals['steps_server']:,}"
        row["server FLOPs\nper round"] = operations(totals["flops_server"] / options.rounds)
    if "epsilon" in rounds:
        row["epsilon"] = f"{rounds['epsilon'].iloc[-1]:.3g}"
    if options.record_wire:
        row["recording,\nat most"] = size(plan.recorded)
    state = totals["state"]
    return {
        **row,
        "state per client,\nin total": f"{size(state['a_client'])}, {size(state['all'])}",
        "peak memory of\nthis process": size(totals["memory"]),
        "time": duration(plan.seconds),
    }


def _kind_rows(plan: Plan) -> list[dict[str, str]]:
    rows = []
    for name, n_bytes in summary(plan)["bytes"].items():
        direction, _, kind = name.partition(":")
        a_round = n_bytes["a_round"]
        rows.append({"direction": DIRECTIONS[direction], "kind": kind, "bytes before\nround 1": f"{n_bytes['before']:,}"})
        rows[-1]["per round,\nall clients"] = f"{a_round:,.0f}" if a_round.is_integer() else f"{a_round:,.1f}"
        rows[-1]["whole run"] = f"{n_bytes['run']:,}"
    return rows


def _message_columns(rounds) -> list[str]:
    """Return the columns of bytes by direction and kind, in the order of the directions."""
    directions = list(DIRECTIONS)
    columns = [name for name in rounds if name.startswith("bytes_") and ":" in name]
    return sorted(columns, key=lambda name: directions.index(name.removeprefix("bytes_").partition(":")[0]))


def _total_bytes(plan: Plan) -> float:
    return float(plan.rounds[["bytes_up", "bytes_down", "bytes_between"]].sum().sum())


def _label_plans(plans: Sequence[Plan]) -> list[dict[str, str]]:
    """Return the labels of plans: the algorithm, and the options that differ among plans of one algorithm."""
    options_of_plans = [plain(plan.experiment.options) for plan in plans]
    differing = distinguishing(options_of_plans, but=())
    return [
        {"algorithm": options["algorithm"], **{f"--{name}": shown(options.get(name, "")) for name in differing}}
        for options in options_of_plans
    ]


def _format_table(rows: Sequence[dict[str, str]], text_columns: Sequence[str]) -> str:
    return in_blocks(rows, [name for name in rows[0] if name in text_columns], "simple", align="right")
