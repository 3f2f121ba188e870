"""Attack saved runs: what do their messages and their models reveal about the clients' data?

    python -m attacks RUN [RUN ...] [--knows wire network] [--attacks NAME ...]

A run needs `--record_wire first,last`. Results are saved in its folder, and `figures.table --columns privacy` shows them.
All numbers are lower bounds: another attack may find more. docs/privacy.md explains them."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import plugins
from attacks import ATTACKS, options_from, register, results
from attacks.knowledge import KNOWS
from errors import UserError
from figures import command
from figures.groups import name_of, ordered, read
from figures.units import duration, in_blocks
from saves import Run
from untrusted import Parser, print_escaped, wrap

NOTE = (
    "exposed: 0 is chance, 100 names every training example of a client and no stranger. label mix: 0 is guessing the "
    "public distribution, 100 is exact. All are lower bounds: another attack may find more. sent: what the messages reveal; "
    "published: what the models after the last round reveal."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m attacks", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run, or a folder of runs")
    knowledge = "; ".join(f"{name}: {words}" for name, words in KNOWS.items())
    parser.add_argument(
        "--knows", nargs="+", choices=KNOWS, default=["wire"], help=f"knowledge of the attacker ({knowledge})"
    )
    parser.add_argument("--attacks", nargs="+", metavar="NAME", help=f"default: all of {', '.join(ATTACKS)}")
    parser.add_argument(
        "--set", nargs="+", metavar="ATTACK.NAME=VALUE", default=[], help="options of attacks, such as lira.n_shadows=16"
    )
    parser.add_argument("--plan", action="store_true", help="print how many attacks are missing, and their estimated time")
    parser.add_argument("--plugin", nargs="+", type=Path, default=[], help="Python files with attacks of your own")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder with the data sets")
    parser.add_argument("--force", action="store_true", help="repeat attacks that have a result")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="draw the images that attacks reconstruct; repeats the attacks"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per attack, and nothing else")
    args = parser.parse_args(argv)
    try:
        attack_runs(args)
    except (UserError, OSError, ValueError, MemoryError) as error:
        command.ended(parser, error)


def attack_runs(args) -> None:
    """Attack the runs of a command line, and print the results. Raise UserError."""
    for path in args.plugin:
        if not register(plugins.load(path)):
            raise UserError(f"--plugin {path}: has no function attack(recording, public, options)")
    if unknown := [name for name in args.attacks or () if name not in ATTACKS]:
        raise UserError(f"--attacks {unknown[0]}: must be one of {', '.join(ATTACKS)}")
    runs = read(args.runs)
    cases, options = results.cases_of(args.attacks or list(ATTACKS), args.knows), options_from(args.set)
    if args.plan:
        n, seconds, unknown = results.estimate(runs, cases, options)
        words = f"{n} of {len(runs) * len(cases)} attacks are missing; about {duration(seconds)}, as on other runs"
        print_escaped(wrap(f"{words}{'; unknown: ' * bool(unknown)}{', '.join(unknown)}"))
        return
    outcomes: list[dict[str, Any]] = []
    groups = ordered(runs)
    names = {run.folder: name_of(group, groups) for group in groups for run in group.runs}
    with tqdm(total=len(runs) * len(cases), unit="attack", disable=None, leave=False) as bar:
        for run in runs:

            def show(case: results.Case, run: Run = run) -> None:
                bar.set_description(f"{names[run.folder]} {case.attack}")
                bar.update()

            by_case = results.run_attacks(run, cases, args.data_dir, args.force, show, args.pictures, options)
            outcomes += [{"run": run, "case": case, **by_case[case.key]} for case in cases]
    if args.json:
        for row in outcomes:
            numbers = {name: value for name, value in row.items() if name not in ("run", "case")}
            print_escaped(json.dumps({"folder": str(row["run"].folder), **row["case"]._asdict(), **numbers}))
        return
    rows = [_shown(row, names) for row in outcomes if {"exposed", "label_mix"} & row.keys()]
    if rows:
        print_escaped(in_blocks(rows, ["run", "seed", "view", "knows", "attack"], "simple", align="right"))
    print_escaped(wrap(NOTE if rows else "no attack applies to the messages and models of these runs"))


def _shown(row: dict[str, Any], names: dict[Path, str]) -> dict[str, str]:
    """Return a row of the printed table."""
    run, case = row["run"], row["case"]
    shown = {"run": names[run.folder], "seed": str(run.options["seed"]), "view": case.view, "knows": case.knows}
    shown |= {"attack": case.attack, "exposed %": "", "95 % interval": "", "AUC": "", "label mix %": ""}
    if "exposed" in row:
        shown["exposed %"] = f"{100 * row['exposed']:.1f}"
        shown["95 % interval"] = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        shown["AUC"] = f"{row['auc']:.3f}"
    if row.get("label_mix") is not None:
        shown["label mix %"] = f"{100 * row['label_mix']:.1f}"
    return shown


if __name__ == "__main__":
    sys.exit(main())
