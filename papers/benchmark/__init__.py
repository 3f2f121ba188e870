"""Compare all methods on problems that differ in what matters: which method works best on which kind of split?

README.md beside this file is the protocol, and was written before the first run. A problem is a study (`PROBLEM.toml`), and
`PROBLEM.csv` has the settings that its tuning tried. So the runs of a problem's table are those of the chosen settings."""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import algorithms
from commandline import command_of, study
from commandline.tuning import setting_text
from figures.groups import REFERENCES
from figures.on_paper import finished, panels
from figures.statistics import LEAST_PROBLEMS, average_ranks, holm, nemenyi, over_problems, paired
from figures.styles import COLOURS
from options import Options
from papers.tables import Cell, Results, Table, paragraphs, plain_rows, runs_of, shown

HERE = Path(__file__).resolve().parent
TITLE = "Which method works best on which split?"
ABOUT = paragraphs(
    """The protocol is in [papers/benchmark/README.md](papers/benchmark/README.md), and was fixed before the first run. Each
    method has six settings, chosen on held-out training data of one seed; then six other seeds, each with its own split, and
    the last round. All accuracies are in percent. *Gain* is the personal accuracy minus that of learning alone. *Harmed* are
    the clients that are worse off than alone. *kB* are all bytes per client and round. *Rounds to alone* are the rounds
    (median) until a method's personal accuracy is that of learning alone at its end. *To fedavg* is the difference in
    personal accuracy, paired by seed; ↑ and ↓: significantly better and worse. `~`: not significantly different from the
    best (paired t-tests at 5 %, Holm's correction for all methods of the problem). *5 of 6*: the other run diverged, and the
    method is in no test."""
)
PROBLEMS = {
    "few_examples": "MNIST, 1,200 images, 5 clients, IID",
    "strong_skew": "Fashion-MNIST, 1,800 images, 10 clients, lda 0.1",
    "mild_skew": "Fashion-MNIST, 1,800 images, 10 clients, lda 1",
    "two_classes": "Fashion-MNIST, 1,800 images, 10 clients, two classes each",
    "many_clients": "Fashion-MNIST, 6,000 images, 100 clients, dirichlet 0.5 with unequal sizes, 10 in a round",
    "writers": "MNIST, 6,000 images, 20 clients with their own writers, 10 in a round",
    "feature_shift": "MNIST, 1,200 images, 10 clients with their own rotation, BatchNorm",
}
SIGNIFICANT = 0.05


def chosen(problem: str) -> dict[str, str]:
    """Return {method: its chosen setting as flags} of a problem; empty before its tuning."""
    path = HERE / f"{problem}.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["method"]: row["settings"] for row in csv.DictReader(file) if row["chosen"]}


def command(runs: list[Options]) -> str:
    """Return the arguments of run.py that request these runs, which differ in their seeds."""
    flags = command_of(runs[0]).removeprefix("python run.py ").split(" --")
    kept = [flag for flag in flags if flag.split()[0] not in ("seed", "split_seed")]
    return f"{' --'.join(kept)} --seed {' '.join(str(run.seed) for run in runs)} --split_seed seed"


def setting(run: Options, flags: list[str]) -> str:
    """Return the setting of a run, as `PROBLEM.csv` writes it."""
    return setting_text({name: getattr(run, name) for name in flags})


@cache
def commands(problem: str) -> dict[str, str]:
    """Return {method: the command of its runs in the chosen setting} of a tuned problem."""
    classes, settings = algorithms.all_options(), chosen(problem)
    content = study.read(HERE / f"{problem}.toml", classes)
    runs = content.runs(classes)
    return {
        method.name: command([run for run in runs[method.name] if setting(run, list(method.flags)) == settings[method.name]])
        for method in content.methods
        if method.name in settings
    }


def cells(problem: str, method: str) -> dict[str, Cell]:
    """Return the numbers of a method on a problem."""
    own, alone = commands(problem)[method], commands(problem)["independent"]
    is_tuned = "--ft_epochs" in own
    row = {
        "global": Cell(own),
        "personal": Cell(own, "tuned" if is_tuned else "personal"),
        "worst": Cell(own, "worst tuned" if is_tuned else "worst"),
        "kB": Cell(own, "kB"),
        "MFLOPs": Cell(own, "MFLOPs"),
    }
    compared = {name: Cell(own, name, against=alone) for name in ("gain", "harmed", "rounds to alone")}
    return row if method in REFERENCES else row | compared


def overview_rows(table: Table, results: Results) -> list[dict[str, str]]:
    """Return the table of personal accuracies, with the average ranks."""
    _, average, _ = ranks(results)
    return [
        row | {"average rank": f"{average[row['']]:.1f}" if row[""] in average else ""} for row in plain_rows(table, results)
    ]


def problem_rows(table: Table, results: Results) -> list[dict[str, str]]:
    """Return the table of a problem: the chosen setting and the results of each method."""
    tests, settings, rows = comparisons(table, results), chosen(table.name), []
    for method, row_cells in table.rows.items():

        def text(name: str, method: str = method, row_cells: Mapping[str, Cell] = row_cells) -> str:
            return shown(table, method, name, results) if name in row_cells else ""

        test = tests.get(method, {})
        is_level, is_different = test.get("p best", 0) >= SIGNIFICANT, test.get("p fedavg", 1) < SIGNIFICANT
        mark = (" ↑" if test["difference"] > 0 else " ↓") if is_different else ""
        n, requested = _counts(table, method, results)
        rows.append(
            {
                "": method,
                "setting": settings[method].replace("--", ""),
                "global": text("global"),
                "personal": text("personal") + " ~" * is_level,
                "to fedavg": f"{test['difference']:+.2f}{mark}" if test else "",
                "worst": text("worst"),
                "gain": text("gain"),
                "harmed": text("harmed"),
                **{name: text(name).split(" ±")[0] for name in ("kB", "MFLOPs")},
                "rounds to alone": "" if method in REFERENCES else _median_rounds(results.of(row_cells["rounds to alone"])),
                "n": str(n) if n == requested else f"{n} of {requested}",
            }
        )
    return rows


def _counts(table: Table, method: str, results: Results) -> tuple[int, int]:
    """Return how many runs of a method have results, and how many there should be: diverged runs have none."""
    return results.n(table, method, "global"), len(runs_of(table.rows[method]["global"].command))


def _median_rounds(rounds: np.ndarray) -> str:
    if not len(rounds):
        return ""
    return "never" if np.isinf(np.median(rounds)) else f"{np.median(rounds):.0f}"


def table(problem: str) -> Table:
    """Return the table of a tuned problem."""
    return Table(
        problem,
        f"{problem}: {PROBLEMS[problem]}",
        f"Settings: papers/benchmark/{problem}.csv.",
        {method: cells(problem, method) for method in commands(problem)},
        as_text=problem_rows,
    )


BY_PROBLEM = {problem: table(problem) for problem in PROBLEMS if chosen(problem)}
OVERVIEW = Table(
    "personal",
    "Personal accuracy (%) of all methods on all problems",
    "On each client's own distribution, after the last round.",
    {
        method: {
            problem: of_problem.rows[method]["personal"]
            for problem, of_problem in BY_PROBLEM.items()
            if method in of_problem.rows
        }
        for method in dict.fromkeys(method for of_problem in BY_PROBLEM.values() for method in of_problem.rows)
    },
    as_text=overview_rows,
)
TABLES = (OVERVIEW, *BY_PROBLEM.values())


def ranks(results: Results) -> tuple[list[str], dict[str, float], np.ndarray]:
    """Return (problems, {collaborating method: average rank}, means [problems, methods]), 1 the best.

    Only problems on which all methods have results, and only methods with results on some problem."""
    means = {
        method: [results.mean(OVERVIEW, method, problem) if problem in row else np.nan for problem in BY_PROBLEM]
        for method, row in OVERVIEW.rows.items()
        if method not in REFERENCES
    }
    values = np.array(list(means.values())).T
    complete = ~np.isnan(values).any(1)
    if not complete.any():
        return [], {}, values[:0]
    average = average_ranks(values[complete])
    return (
        [p for p, is_complete in zip(BY_PROBLEM, complete, strict=True) if is_complete],
        dict(zip(means, average, strict=True)),
        values[complete],
    )


def comparisons(table: Table, results: Results) -> dict[str, dict[str, float]]:
    """Return {method: {"difference" to fedavg in points, "p fedavg", "p best"}} of the personal accuracies of a problem.

    p by paired t-tests over seeds, adjusted by Holm for the collaborating methods of the problem."""
    values = {
        method: dict(enumerate(results.of(row["personal"])))
        for method, row in table.rows.items()
        if method not in REFERENCES
    }
    n = max(map(len, values.values()), default=0)
    values = {method: by_seed for method, by_seed in values.items() if len(by_seed) == n >= 2}
    if "fedavg" not in values:
        return {}
    best = max(values, key=lambda method: np.mean(list(values[method].values())))
    result: dict[str, dict[str, float]] = {method: {} for method in values}
    for name, baseline in (("p best", best), ("p fedavg", "fedavg")):
        compared = {method: paired(by_seed, values[baseline]) for method, by_seed in values.items()}
        tested = [method for method in compared if compared[method].p is not None]
        for method, p in zip(tested, holm([compared[method].p for method in tested]), strict=True):
            result[method][name] = p
    for method, difference in compared.items():
        result[method]["difference"] = difference.mean
    return result


def draw(results: Results, path: Path) -> None:
    """Draw personal accuracy against bytes, a point per method: means over the problems that all methods have."""
    problems, average, means = ranks(results)
    figure, ((axes,),) = panels(1, 1, 7, 5)
    sent = [np.mean([results.mean(BY_PROBLEM[problem], method, "kB") for problem in problems]) for method in average]
    points = dict(zip(average, zip(sent, means.mean(0), strict=True), strict=True))
    colours = {}
    for (name, family), colour, marker in zip(algorithms.FAMILIES.items(), COLOURS, "osD^vP", strict=False):
        members = [method for method in family if method in points]
        colours |= dict.fromkeys(members, colour)
        if members:
            x, y = zip(*(points[method] for method in members), strict=True)
            axes.plot(x, y, marker, color=colour, markersize=5, label=name.partition(":")[0])
    for method, dash in zip(REFERENCES, ("--", ":"), strict=True):
        level = np.mean([results.mean(OVERVIEW, method, problem) for problem in problems])
        axes.axhline(level, linestyle=dash, linewidth=1, color="grey", label=method)
    axes.set(xscale="log", xlabel="kB per client and round", ylabel="personal accuracy (%)")
    axes.set_xlim(right=5 * max(sent))
    axes.set_title("one problem" if len(problems) == 1 else f"means over {len(problems)} problems", fontsize=10)
    axes.grid(alpha=0.3)
    for column in _columns(points):
        right, height = 1.3 * max(points[method][0] for method in column), np.inf
        for method in sorted(column, key=lambda name: -points[name][1]):
            height = min(points[method][1], height - 0.028 * np.ptp(axes.get_ylim()))  # labels do not overlap
            line = {"arrowstyle": "-", "color": colours[method], "linewidth": 0.5, "relpos": (0, 0.5)}
            style = {"fontsize": 7, "color": colours[method], "va": "center", "arrowprops": line}
            axes.annotate(method, points[method], (right, height), **style)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    finished(figure, path)


def _columns(points: Mapping[str, tuple[float, float]]) -> list[list[str]]:
    """Return the methods in groups whose points are near each other along the axis of bytes."""
    columns: list[list[str]] = []
    for method in sorted(points, key=lambda name: points[name][0]):
        if columns and points[method][0] < 3 * points[columns[-1][-1]][0]:
            columns[-1].append(method)
        else:
            columns.append([method])
    return columns


PICTURE = ("accuracy_and_bytes.png", "Personal accuracy against bytes, a point per method")


def words(results: Results) -> str:
    """Return in words what the tables show: the ranks, then each problem."""
    problems, average, means = ranks(results)
    leading = ", ".join(f"{method} ({average[method]:.1f})" for method in sorted(average, key=average.get)[:5])
    if len(problems) >= LEAST_PROBLEMS:
        (name, p), distance = over_problems(means), nemenyi(len(average), len(problems))
        tested = (
            f"{name}: p = {p:.2g}. Ranks that differ by less than {distance:.1f} are not significantly different (Nemenyi)."
        )
    else:
        tested = f"{LEAST_PROBLEMS} problems are needed for a test of the ranks."
    counted = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    finding = f"On {counted} of {len(PROBLEMS)}, the best average ranks of {len(average)} methods are {leading}. {tested}"
    return paragraphs(finding, *(problem_words(of_problem, results) for of_problem in BY_PROBLEM.values()))


def problem_words(table: Table, results: Results) -> str:
    """Return in words what the table of a problem shows."""
    tests = comparisons(table, results)
    personal = {method: results.mean(table, method, "personal") for method in table.rows}
    sent = {method: results.mean(table, method, "kB") for method in tests}
    best = max(tests, key=personal.get)
    level = [method for method in tests if tests[method].get("p best", 0) >= SIGNIFICANT]
    different = [method for method in tests if tests[method].get("p fedavg", 1) < SIGNIFICANT]
    better = [method for method in different if tests[method]["difference"] > 0]
    worse = [method for method in different if tests[method]["difference"] < 0]
    cheap = min((method for method in tests if personal[method] > personal["independent"]), key=sent.get, default=None)
    sentences = [
        f"**{table.name}.** {best} has the best personal accuracy, {personal[best]:.1f} %; alone it is "
        f"{personal['independent']:.1f} %, with all data in one place {personal['centralized']:.1f} %.",
        f"Not significantly different from {best}: {_listed(level)}.",
        f"Significantly better than fedavg ({personal['fedavg']:.1f} %): {_listed(better)}; worse: {_listed(worse)}.",
    ]
    if cheap:
        sentences.append(
            f"Of the methods that are better than alone, {cheap} sends least: {sent[cheap]:.1f} kB per client and round for "
            f"{personal[cheap]:.1f} %."
        )
    counts = {method: _counts(table, method, results) for method in table.rows}
    if diverged := [f"{method} ({all_runs - n} of {all_runs})" for method, (n, all_runs) in counts.items() if n < all_runs]:
        sentences.append(f"Diverged in the chosen setting: {', '.join(diverged)}; their numbers are of the other runs.")
    return " ".join(sentences)


def _listed(methods: Sequence[str]) -> str:
    return ", ".join(methods) or "none"
