"""One page of saved runs, in one file: what each algorithm reaches, and what that costs.

    python -m figures.report RUN [RUN ...] -o report.html --baseline fedavg --target 0.9

A RUN is the folder of a finished run, or a folder of such, as `figures.table` takes them. The page holds all that it needs,
plotly.js included, and asks no network for anything. What is written on it stands in `page.html.j2`; its numbers are of
`figures.table`, its figures of `figures.report.charts`.
"""

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
from figures.groups import OF_A_SEED, REFERENCES, Group, name_of, ordered, problems
from figures.marks import Style
from figures.metrics import METRICS, seed_of
from figures.problems import overview, title_of
from figures.report.charts import charts, over_problems
from figures.styles import styles
from figures.units import UNITS, shown, size
from saves import Run
from untrusted import escape

TABLES = {  # which groups of columns stand in which table, each of which fits a screen
    "What was reached": ("runs", "accuracy", "gain", "difference"),
    "What the target cost": ("target",),
    "What it took": ("sent", "cost"),
}


@dataclass(frozen=True)
class Section:
    """The comparison on one problem: what it is of ("" where it is the only one), its table, by title the columns that stand
    together, what it says in words, how each row is drawn, which are reference lines, and how to read them."""

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
    """The page as HTML; the parameters are the flags of the command line, whose `select` has been carried out, and what was
    `passed_over` when the runs were read. Of several problems it begins with the table over them. Raises UserError, as
    `compare`."""
    from plotly.offline import get_plotlyjs

    names, found = problems(runs)
    titles = [title_of(names, problem.values, ", ") for problem in found] if names else [""]
    by_problem = dict(zip(titles, [ordered(problem.runs) for problem in found], strict=True))
    everything, facts = ordered(runs), setup(by_problem)
    figures = over_problems({name: charts(groups_of) for name, groups_of in by_problem.items()})
    # strict: an entry that is forgotten here is no empty place on the page, and NaN no broken one
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["is_text"] = lambda column: UNITS[column.unit].is_text
    return environment.get_template("page.html.j2").render(
        title=title or f"{facts['data set']}: {', '.join(dict.fromkeys(group.algorithm for group in everything))}",
        facts=facts,
        passed_over=passed_over,
        overview=overview(runs, metric, select=select) if names else None,
        sections=[section(name, of_it, metric, baseline, target) for name, of_it in by_problem.items()],
        styles=styles(everything),
        names=[name_of(group, everything) for group in everything],
        charts=figures,
        specs={chart.id: chart.specs for chart in figures},
        options=options(everything),
        provenance=provenance(everything),
        plotlyjs=Markup(get_plotlyjs()),
    )


def section(problem: str, found: Sequence[Group], metric: str, baseline: str | None, target: float | None) -> Section:
    """The comparison of groups of runs on one problem. Raises UserError, as `compare`."""
    runs = [run for group in found for run in group.runs]
    result = compare(runs, metric, baseline=baseline, target=target, columns=["all"])
    (told,) = result.tables
    there = [column for column in told.columns if any(row[column.name].text for row in told.rows)]
    columns = {title: [column for column in there if column.group in of] for title, of in TABLES.items()}
    looks = {group.runs[0].folder: style for group, style in zip(found, styles(found), strict=True)}
    return Section(
        problem,
        told,
        {title: of for title, of in columns.items() if of},
        result.verdict,
        [looks[group.runs[0].folder] for group in told.groups],
        [group.algorithm in REFERENCES for group in told.groups],
        result.notes,
    )


def setup(by_problem: Mapping[str, Sequence[Group]]) -> dict[str, str]:
    """What the runs are of, in words: the data set, the rule of the split, clients, rounds, seeds, problems."""
    found = [group for groups_of in by_problem.values() for group in groups_of]
    runs = [run for group in found for run in group.runs]

    def told(name: str) -> str:
        return " or ".join(dict.fromkeys(shown(run.options[name]) for run in runs if name in run.options))

    deals = [partition.PARTITIONS.get(run.options["partition"]) for run in runs]
    names = dict.fromkeys(name for deal in deals if deal for name in partition.parameters(deal))
    rule = ", ".join(f"{name} {told(name)}" for name in names if name in found[0].options and name != "n_clients")
    return {
        "data set": told("dataset"),
        "split": told("partition") + (f" ({rule})" if rule else ""),
        "clients": told("n_clients"),
        "rounds": told("rounds"),
        "seeds": str(len({seed_of(run) for run in runs})),
        "runs": str(len(runs)),
        "problems": str(len(by_problem)),
    }


def options(found: Sequence[Group]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The options that differ between groups, {name: a value a group, "" where it has none}, and those that all share."""
    names = dict.fromkeys(name for group in found for name in group.options if name not in OF_A_SEED)
    values = {name: [shown(group.options[name]) if name in group.options else "" for group in found] for name in names}
    of_seeds = {
        name: [", ".join(map(str, sorted({run.options[name] for run in group.runs}))) for group in found]
        for name in OF_A_SEED
        if name != "algorithm"
    }
    differing = {name: told for name, told in (values | of_seeds).items() if len(set(told)) > 1}
    return differing, {name: told[0] for name, told in (values | of_seeds).items() if name not in differing}


def provenance(found: Sequence[Group]) -> dict[str, Any]:
    """Where the numbers are from: each distinct environment and revision with the groups that ran in it and the digests of
    their code, digests of the data and of the split of each split seed, and the names of the runs' folders."""
    environments: dict[str, dict[str, Any]] = {}
    for group in found:
        for run in group.runs:
            told = {**run.config.get("environment", {}), "revision": run.config.get("revision", "")}
            entry = environments.setdefault(repr(told), {"told": told, "runs": 0, "of": {}})
            entry["runs"] += 1
            entry["of"].setdefault(name_of(group, found), {})[str(run.config.get("source", ""))[:12]] = None
    runs = [run for group in found for run in group.runs]
    return {
        "columns": list(dict.fromkeys(name for entry in environments.values() for name in entry["told"])),
        "environments": list(environments.values()),
        "data": runs[0].config["data"],
        "splits": {run.options["split_seed"]: run.config["split"] for run in sorted(runs, key=seed_of)},
        "folders": {name_of(group, found): [run.folder.resolve().name for run in group.runs] for group in found},
    }


# --- the command line --------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.of_runs("report", __doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="HTML file (default: report.html)")
    parser.add_argument("--title", help="of the page (default: the data set and the algorithms)")
    parser.add_argument(
        "--metric",
        metavar="NAME",
        default="global",
        help=f"the accuracy of which differences and targets are: {METRICS} (default: global)",
    )
    parser.add_argument("--baseline", metavar="NAME", help="the row, or its algorithm, to which differences are taken")
    parser.add_argument(
        "--target", type=table.fraction, metavar="ACCURACY", help="what it cost to reach it, a fraction of 1"
    )
    given = parser.parse_args(argv)
    try:
        passed_over: list[str] = []
        runs = command.chosen(given, passed_over)
        how = (given.title, given.metric, given.baseline, given.target, given.select, passed_over)
        saves.write_text(given.output, page(runs, *how))
    except (UserError, OSError, ValueError, MemoryError) as error:
        command.ended(parser, error)
    print(f"{escape(given.output)}: {len(runs)} run{'s' * (len(runs) != 1)}, {size(given.output.stat().st_size)}")
