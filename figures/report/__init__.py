"""One page of saved runs, in one file: what each algorithm reaches, and what that costs.

    python -m figures.report RUN [RUN ...] -o report.html --baseline fedavg --target 0.9

A RUN is the folder of a finished run, or a folder that contains such folders, as `figures.table` takes them. The page
includes all that it needs, plotly.js as well, and loads nothing from a network. Its text is in `page.html.j2`, its numbers
come from `figures.table`, its figures from `figures.report.charts`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import saves
from data import partition
from errors import UserError
from figures import command, table
from figures.columns import Column
from figures.compare import Table, compare
from figures.groups import OF_A_SEED, REFERENCES, Group, name_of, ordered, problems, title_of
from figures.marks import Style
from figures.metrics import METRICS, seed_of
from figures.problems import overview
from figures.report.charts import charts, over_problems
from figures.styles import SHAPES, styles
from figures.units import UNITS, shown, size
from saves import Run
from untrusted import escape

TABLES = {  # {title of a table: its groups of columns}; each table fits a screen
    "Accuracy": ("runs", "accuracy", "gain", "difference"),
    "Cost of the target": ("target",),
    "Cost": ("sent", "cost"),
    "Privacy": ("privacy",),
}


@dataclass(frozen=True)
class Section:
    """Hold the comparison on one problem.

    `problem`: the name, "" for a single problem. `table`: the comparison. `columns`: {title: the columns of one table of the
    page}. `verdict`: the conclusions in words. `styles`: the style of each row. `references`: which rows are reference
    lines. `notes`: how to read the tables."""

    problem: str
    table: Table
    columns: dict[str, list[Column]]
    verdict: list[str]
    styles: list[Style]
    references: list[bool]
    notes: list[str]


def page(
    runs: Sequence[Run],
    title: str | None = None,
    metric: str = "global",
    baseline: str | None = None,
    target: float | None = None,
    select: Sequence[str] = (),
    passed_over: Sequence[str] = (),
) -> str:
    """Return the page as HTML.

    The parameters are the flags of the command line. The caller has already selected runs by `select`; `passed_over`: the
    lines on folders that were skipped. Of several problems the page begins with the table over problems. Raises UserError,
    as `compare`."""
    from plotly.offline import get_plotlyjs

    names, all_problems = problems(runs)
    titles = [title_of(names, problem.values, ", ") for problem in all_problems] if names else [""]
    by_problem = dict(zip(titles, [ordered(problem.runs) for problem in all_problems], strict=True))
    all_groups, facts = ordered(runs), setup(by_problem)
    figures = over_problems({name: charts(groups_of) for name, groups_of in by_problem.items()})
    # strict: a missing entry or NaN is an error here, instead of an empty or broken place on the page
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["is_text"] = lambda column: UNITS[column.unit].is_text
    return environment.get_template("page.html.j2").render(
        title=title or f"{facts['data set']}: {', '.join(dict.fromkeys(group.algorithm for group in all_groups))}",
        facts=facts,
        passed_over=passed_over,
        overview=overview(runs, [metric], select=select) if names else None,
        sections=[section(name, groups, metric, baseline, target) for name, groups in by_problem.items()],
        styles=styles(all_groups),
        shapes=SHAPES,
        names=[name_of(group, all_groups) for group in all_groups],
        charts=figures,
        specs={chart.id: chart.specs for chart in figures},
        options=options(all_groups),
        provenance=provenance(all_groups),
        plotlyjs=Markup(get_plotlyjs()),
    )


def section(problem: str, groups: Sequence[Group], metric: str, baseline: str | None, target: float | None) -> Section:
    """Return the comparison of groups of runs on one problem. Raises UserError, as `compare`."""
    runs = [run for group in groups for run in group.runs]
    result = compare(runs, metric, baseline=baseline, target=target, columns=["all"])
    (comparison_table,) = result.tables
    filled = [column for column in comparison_table.columns if any(row[column.name].text for row in comparison_table.rows)]
    columns = {
        title: [column for column in filled if column.group in column_groups] for title, column_groups in TABLES.items()
    }
    style_by_folder = {group.runs[0].folder: style for group, style in zip(groups, styles(groups), strict=True)}
    return Section(
        problem,
        comparison_table,
        {title: column_groups for title, column_groups in columns.items() if column_groups},
        result.verdict,
        [style_by_folder[group.runs[0].folder] for group in comparison_table.groups],
        [group.algorithm in REFERENCES for group in comparison_table.groups],
        result.notes,
    )


def setup(by_problem: Mapping[str, Sequence[Group]]) -> dict[str, str]:
    """Return in words what the runs share: the data set, the rule of the split, clients, rounds, seeds, problems."""
    all_groups = [group for groups_of in by_problem.values() for group in groups_of]
    runs = [run for group in all_groups for run in group.runs]

    def values(name: str) -> str:
        return " or ".join(dict.fromkeys(shown(run.options[name]) for run in runs if name in run.options))

    deals = [partition.PARTITIONS.get(run.options["partition"]) for run in runs]
    names = dict.fromkeys(name for deal in deals if deal for name in partition.parameters(deal))
    rule = ", ".join(f"{name} {values(name)}" for name in names if name in all_groups[0].options and name != "n_clients")
    return {
        "data set": values("dataset"),
        "split": values("partition") + (f" ({rule})" if rule else ""),
        "clients": values("n_clients"),
        "rounds": values("rounds"),
        "seeds": str(len({seed_of(run) for run in runs})),
        "runs": str(len(runs)),
        "problems": str(len(by_problem)),
    }


def options(groups: Sequence[Group]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the options that differ between groups, and the options that all groups share.

    The former are {name: a value per group, "" where the group does not have the option}, the latter {name: value}."""
    names = dict.fromkeys(name for group in groups for name in group.options if name not in OF_A_SEED)
    values = {name: [shown(group.options[name]) if name in group.options else "" for group in groups] for name in names}
    of_seeds = {
        name: [", ".join(map(str, sorted({run.options[name] for run in group.runs}))) for group in groups]
        for name in OF_A_SEED
        if name != "algorithm"
    }
    differing = {
        name: values_of_groups for name, values_of_groups in (values | of_seeds).items() if len(set(values_of_groups)) > 1
    }
    return differing, {
        name: values_of_groups[0] for name, values_of_groups in (values | of_seeds).items() if name not in differing
    }


def provenance(groups: Sequence[Group]) -> dict[str, Any]:
    """Return where the numbers come from.

    Each distinct environment and revision with its groups and the digests of their code; digests of the data and of the
    split of each split seed; the names of the runs' folders."""
    environments: dict[str, dict[str, Any]] = {}
    for group in groups:
        for run in group.runs:
            environment = {**run.config.get("environment", {}), "revision": run.config.get("revision", "")}
            entry = environments.setdefault(repr(environment), {"told": environment, "runs": 0, "of": {}})
            entry["runs"] += 1
            entry["of"].setdefault(name_of(group, groups), {})[str(run.config.get("source", ""))[:12]] = None
    runs = [run for group in groups for run in group.runs]
    return {
        "columns": list(dict.fromkeys(name for entry in environments.values() for name in entry["told"])),
        "environments": list(environments.values()),
        "data": runs[0].config["data"],
        "splits": {run.options["split_seed"]: run.config["split"] for run in sorted(runs, key=seed_of)},
        "folders": {name_of(group, groups): [run.folder.resolve().name for run in group.runs] for group in groups},
    }


# --- the command line --------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.of_runs("report", __doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="HTML file (default: report.html)")
    parser.add_argument("--title", help="title of the page (default: the data set and the algorithms)")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        default="global",
        help=f"metric of differences and targets: {METRICS} (default: global)",
    )
    parser.add_argument("--baseline", metavar="NAME", help="row (or its algorithm) to which the other rows are compared")
    parser.add_argument(
        "--target",
        type=table.fraction,
        metavar="ACCURACY",
        help="accuracy above 0 and at most 1; adds the cost of reaching it",
    )
    args = parser.parse_args(argv)
    try:
        passed_over: list[str] = []
        runs = command.chosen(args, passed_over)
        arguments = (args.title, args.metric, args.baseline, args.target, args.select, passed_over)
        saves.write_text(args.output, page(runs, *arguments))
    except (UserError, OSError, ValueError, MemoryError) as error:
        command.ended(parser, error)
    print(f"{escape(args.output)}: {len(runs)} run{'s' * (len(runs) != 1)}, {size(args.output.stat().st_size)}")
