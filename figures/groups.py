"""Decide which saved runs may be compared, and group them into rows."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import saves
from data import partition
from errors import UserError
from experiment import identity
from figures import targets
from figures.metrics import row_of, seed_of
from figures.statistics import Seed, Values
from figures.units import flags_told, shown
from options import Options, flags_of, nearest, role_of
from saves import Run
from untrusted import is_there

REFERENCES = ("independent", "centralized")  # the lower and the upper line: not collaborating methods
EQUAL = 1e-12  # accuracies that differ by less are the same share of the same examples, up to rounding
OF_A_SEED = ("algorithm", "seed", "split_seed")
RULE = (
    *("dataset", "attribute", "image_size", "reduced", "reduced_draw", "sizes", "partition", "partition_file", "validation"),
    *("feature_shift", "shift_strength", "public_share", "public_dataset"),
    *sorted({name for deal in partition.PARTITIONS.values() for name in partition.parameters(deal)} - {"counts"}),
)
BEFORE = {
    name: flag["legacy_value"]
    for name, flag in flags_of(Options).items()
    if role_of(name) == "problem" and "legacy_value" in flag
}
log = logging.getLogger("chorus")


class Group:
    """Hold runs that differ in their seeds only."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.options = self.runs[0].options
        self.algorithm = self.options["algorithm"]
        self.summaries = [run.summary() for run in self.runs]

    def values(self, name: str) -> np.ndarray:
        """Return one value per run, float [n], of a key of `Run.summary`."""
        return np.array([summary.get(name) for summary in self.summaries], dtype=float)

    def by_seed(self, name: str) -> Values:
        """Return {seed: value} of a key of `Run.summary`."""
        return {seed_of(run): summary[name] for run, summary in zip(self.runs, self.summaries, strict=True)}

    def mean(self, name: str) -> float:
        """Return the mean over the runs."""
        return float(self.values(name).mean())

    def per_client_and_round(self, name: str) -> float:
        """Return the mean over all K clients and all rounds of a total of the run."""
        return self.mean(name) / self.options["n_clients"] / self.options["rounds"]

    @property
    def validation(self) -> float | None:
        """Return the mean validation accuracy after the last round, or None without `--validation`."""
        if any("validation_mean" not in run.rounds for run in self.runs):
            return None
        return float(np.mean([run.rounds["validation_mean"].iloc[-1] for run in self.runs]))

    @property
    def diverged(self) -> bool:
        """Return whether a run diverged and went on; the results of such a run mean nothing."""
        return any(summary.get("diverged") is not None for summary in self.summaries)

    @property
    def tuned(self) -> bool:
        """Return whether the clients fine-tuned the last model."""
        return not np.isnan(self.values("tuned_mean")).any()


def leading(groups: Sequence[Group], value: Callable[[Group], float]) -> list[Group]:
    """Return the groups with the largest value: several where they are equal, none that diverged or has no value.

    A group that is called best, or that is selected, is always one of these groups."""
    values = [(group, value(group)) for group in groups if not group.diverged]
    largest = max((score for _, score in values if not np.isnan(score)), default=np.nan)
    return [group for group, score in values if abs(score - largest) < EQUAL]


def groups(runs: Sequence[Run]) -> list[Group]:
    """Group runs by all options but the seeds, in order of appearance."""
    runs_by_key: dict[str, list[Run]] = {}
    for run in runs:
        key = repr((run.options["algorithm"], {name: value for name, value in run.options.items() if name not in OF_A_SEED}))
        runs_by_key.setdefault(key, []).append(run)
    return [Group(members) for members in runs_by_key.values()]


def distinguishing(
    all_options: Sequence[Mapping[str, Any]], but: Sequence[str] = OF_A_SEED, across: bool = False
) -> list[str]:
    """Return the names of the options that distinguish groups of the same algorithm.

    `all_options`: the options of each group, as `Group.options`. `but`: names that are left out. An option that an older run
    lacks counts as different. `across`: include options in which different algorithms differ, if both have the option."""

    def differ(options: Sequence[Mapping[str, Any]], name: str) -> bool:
        return len({repr(mapping.get(name, "(none)")) for mapping in options}) > 1

    names = [name for name in dict.fromkeys(name for options in all_options for name in options) if name not in but]
    algorithms = dict.fromkeys(options["algorithm"] for options in all_options)
    by_algorithm = [[options for options in all_options if options["algorithm"] == algorithm] for algorithm in algorithms]
    return [
        name
        for name in names
        if any(differ(same_algorithm, name) for same_algorithm in by_algorithm)
        or (across and differ([options for options in all_options if name in options], name))
    ]


def name_of(group: Group, groups: Sequence[Group], by: Sequence[str] = ()) -> str:
    """Return the algorithm, and the options in which its groups differ, without the options `by`."""
    flags = flags_told(group.options, distinguishing([other.options for other in groups], (*OF_A_SEED, *by)))
    return f"{group.algorithm} ({flags})" if flags else group.algorithm


def seeds_told(groups: Sequence[Group]) -> str:
    """Return in words the number of seeds and splits, and what a spread over seeds measures."""
    seeds = {seed_of(run) for group in groups for run in group.runs}
    splits = {split for _, split in seeds}
    if len(seeds) == 1:
        return "one seed is only an illustration; for a comparison use --seed 0 1 2 3 4 --split_seed seed"
    if len(splits) == len(seeds):
        return f"{len(seeds)} seeds, each with its own split"
    return (
        f"{len(seeds)} seeds on {len(splits)} split{'s' * (len(splits) > 1)}: std is the variation of training, not of the "
        "split; --split_seed seed draws a split per seed"
    )


def diverged_told(groups: Sequence[Group]) -> list[str]:
    """Return one line that names the runs that diverged and went on; an empty list without such a run."""
    entries = []
    for group in groups:
        rounds = [summary["diverged"] for summary in group.summaries if summary["diverged"] is not None]
        if rounds:
            fraction = f"{len(rounds)} of {len(group.runs)} runs, " if len(group.runs) > 1 else ""
            entries.append(
                f"{name_of(group, groups)} ({fraction}from {f'round {min(rounds)}' if min(rounds) else 'the start'})"
            )
    explanation = "diverged and continued (--on_divergence continue), so their results are meaningless"
    return [f"{explanation}: {', '.join(entries)}"] if entries else []


def sent(run: Run) -> float:
    """Return the bytes of the run: all clients, rounds and directions."""
    return float(targets.cumulated(run, "bytes")[-1])


# --- select runs, and group them ---------------------------------------------------------------------------------------


def read(folders: Sequence[Path], passed_over: list[str] | None = None, keep_equal: bool = False) -> list[Run]:
    """Return the runs of folders; a folder is a run's or contains runs. Every run appears once, and of equal runs only the
    newest, unless `keep_equal`.

    The lines on skipped folders, of `saves.gather` and `newest`, are added to `passed_over`, or logged. Raises UserError for
    a folder without runs."""
    skipped: list[str] = []
    runs_by_folder: dict[Path, Run] = {}
    for folder in folders:
        if not is_there(folder) or not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        runs, lines = ([saves.load(folder)], []) if saves.there(folder / "config.json") else saves.gather(folder)
        if not runs:
            raise UserError(lines[0] if lines else f"{folder}: must be a finished run or a folder of finished runs")
        skipped += lines
        for run in runs:
            runs_by_folder.setdefault(run.folder.resolve(), run)
    all_runs = list(runs_by_folder.values())
    kept, lines = (all_runs, []) if keep_equal else newest(all_runs)
    skipped += lines
    if passed_over is not None:
        passed_over += skipped
    else:
        for line in skipped:
            log.warning("%s", line)
    return kept


def newest(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs without those that other code, libraries or CPU repeated later, and a line that names the others."""
    kept: dict[tuple, Run] = {}
    for run in sorted(runs, key=lambda run: ((run.folder / saves.DONE).stat().st_mtime_ns, str(run.folder))):
        kept[identity.request_digest(run.config), run.options.get("device")] = run
    is_kept = set(map(id, kept.values()))
    older = sorted(run.folder.name for run in runs if id(run) not in is_kept)
    names = ", ".join(older[:3]) + f" and {len(older) - 3} more" * (len(older) > 3)
    line = f"skipping {names}: the same run is there from newer code, libraries or another CPU (see figures.diff)"
    return [run for run in runs if id(run) in is_kept], [line] if older else []


def where(runs: Sequence[Run], conditions: Mapping[str, Sequence[str]]) -> list[Run]:
    """Return the runs that meet all conditions: {"alpha": ["0.1", "inf"]} lists the allowed values of an option as text.

    Raises UserError for an option that no run has, and where no run matches."""

    def is_of(run: Run, name: str, texts: Sequence[str]) -> bool:
        value = _of_problem(run).get(name)
        return any(shown(value) == text or _same_number(value, text) for text in texts)

    for name in conditions:
        if not any(name in _of_problem(run) for run in runs):
            raise UserError(f"--where {name}: no run has this option")
    matching = [run for run in runs if all(is_of(run, name, texts) for name, texts in conditions.items())]
    if not matching:
        requested = " ".join(f"{name}={','.join(texts)}" for name, texts in conditions.items())
        raise UserError(f"--where {requested}: matches none of the {len(runs)} runs")
    return matching


def _same_number(value: Any, text: str) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and float(text) == value
    except ValueError:
        return False


def check(runs: Sequence[Run], has_by: bool = False) -> None:
    """Raise UserError where runs cannot be compared; `has_by`: the command has `--by`.

    Runs must have the same rule for the split and the same data set, a split seed must stand for one split, and a setting
    must not have the same seed twice."""
    options = {id(run): _of_problem(run) for run in runs}
    for name in RULE:  # a run may be older than the flag; the digest of its split is compared anyway
        having = [run for run in runs if name in options[id(run)]]
        _alike(having, lambda run, name=name: repr(options[id(run)][name]), f"--{name}", "different splits", name, has_by)
    _alike(runs, lambda run: run.config["data"]["digest"], "the data's digest", "different data")
    for split_seed in sorted({run.options["split_seed"] for run in runs}):
        of_seed = [run for run in runs if run.options["split_seed"] == split_seed]
        subject = f"the split's digest at --split_seed {split_seed}"
        _alike(of_seed, lambda run: run.config["split"], subject, "different splits")
    for group in groups(runs):
        by_seed: dict[Seed, Run] = {}
        for run in group.runs:
            if (twin := by_seed.setdefault(seed_of(run), run)) is not run:
                seeds = "--seed {} --split_seed {}".format(*seed_of(run))
                raise UserError(
                    f"{group.algorithm} has two runs with {seeds}, but a seed counts once: {twin.folder} and {run.folder}; "
                    "remove one of them"
                )


def _alike(
    runs: Sequence[Run], key: Callable[[Run], str], what: str, why: str, name: str | None = None, has_by: bool = False
) -> None:
    for run in runs:
        if key(run) != key(first := runs[0]):
            hint = f"; add --where {name}={_short(_of_problem(run)[name])} to select one" if name else ""
            hint += f", or --by {name} for a panel each" if name and has_by else ""
            raise UserError(
                f"{why} cannot be compared: {what} is {key(first)} in {first.folder}, but {key(run)} in {run.folder}{hint}"
            )


def _of_problem(run: Run) -> dict[str, Any]:
    """Return a run's options; an older run gets the earlier behaviour as the value of newer flags of the problem."""
    return {**BEFORE, **run.options}


def ordered(runs: Sequence[Run]) -> list[Group]:
    """Return the runs in groups that differ in their seeds only.

    The order does not depend on the order of the runs: by algorithm, the references last, then by the options."""
    all_groups = groups(sorted(runs, key=lambda run: (*seed_of(run), str(run.folder))))
    names = sorted({name for group in all_groups for name in group.options if name not in OF_A_SEED})

    def place(group: Group) -> tuple:
        return (group.algorithm in REFERENCES, group.algorithm, [_rank(group.options.get(name)) for name in names])

    return sorted(all_groups, key=place)


def _rank(value: Any) -> tuple[bool, float, str]:
    """Return a sort key: numbers by size, "inf" the largest, before words."""
    is_number = (isinstance(value, int | float) and not isinstance(value, bool)) or value == "inf"
    return (not is_number, float(value) if is_number else 0.0, "" if is_number else shown(value))


def selected(groups: Sequence[Group], flags: Sequence[str], on: str) -> list[tuple[Group, list[Group]]]:
    """Select among settings that differ only in `flags` and their seeds.

    Return the setting with the best mean validation accuracy (the first of equals), with all settings that were tried.
    Raises UserError for a flag that no run has and for settings without validation."""
    for flag in flags:
        if flag in OF_A_SEED or not any(flag in group.options for group in groups):
            raise UserError(f"--select {flag}: must be a flag in which settings of these runs can differ")
    settings: dict[str, list[Group]] = {}
    for group in groups:
        other_options = {name: value for name, value in group.options.items() if name not in (*OF_A_SEED, *flags)}
        settings.setdefault(repr((group.algorithm, other_options)), []).append(group)
    return [(_best(tried, flags, on) if len(tried) > 1 else tried[0], tried) for tried in settings.values()]


def select(runs: Sequence[Run], flags: Sequence[str]) -> list[Run]:
    """Return the runs of the settings that are `selected` by the validation accuracy after the last round.

    Selects on each problem separately; returns all runs without any flags. Raises UserError."""
    if not flags:
        return list(runs)
    _, all_problems = problems(runs)
    return [
        run for problem in all_problems for group, _ in selected(ordered(problem.runs), flags, "last") for run in group.runs
    ]


class Problem(NamedTuple):
    """Hold one of several problems: the values of the options in which the problems differ, and its runs."""

    values: tuple[str, ...]
    runs: list[Run]


def title_of(names: Sequence[str], values: Sequence[str], between: str = "\n") -> str:
    """Return a problem as the head of a column: the data set by its name alone, other options with their names."""
    parts = [value if name == "dataset" else f"{name} {value}" for name, value in zip(names, values, strict=True)]
    return between.join(parts)


def problems(runs: Sequence[Run], by: Sequence[str] | None = None) -> tuple[list[str], list[Problem]]:
    """Return the names of options, and the runs grouped by their values, in order of the values.

    The options are `by`, or by default those of the problem that differ between runs. Raises UserError for an option that no
    run has."""
    all_options = [_of_problem(run) for run in runs]
    names = dict.fromkeys(name for options in all_options for name in options)
    if unknown := [name for name in by or () if name not in names or name in OF_A_SEED]:
        hint = nearest(unknown[0], [name for name in names if role_of(name) == "problem"])
        raise UserError(f"--by {unknown[0]}: must be an option of these runs, such as alpha or n_clients{hint}")
    of_problem = [name for name in names if role_of(name) == "problem"]
    differing = [
        name for name in of_problem if len({repr(options.get(name)) for options in all_options if name in options}) > 1
    ]
    differing = differing if by is None else list(by)
    runs_by_values: dict[tuple, list[Run]] = {}
    for run, options in zip(runs, all_options, strict=True):
        runs_by_values.setdefault(tuple(_plain(options.get(name)) for name in differing), []).append(run)
    in_order = sorted(runs_by_values.items(), key=lambda item: [_rank(value) for value in item[0]])
    return differing, [Problem(tuple(map(_short, values)), members) for values, members in in_order]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _best(tried: Sequence[Group], flags: Sequence[str], on: str) -> Group:
    for run in (run for group in tried for run in group.runs):
        if "validation_mean" not in run.rounds:
            raise UserError(f"--select {','.join(flags)} requires validation, but {run.folder} was run without --validation")
    best = leading(tried, lambda group: float(np.mean([row_of(run, on)["validation_mean"] for run in group.runs])))
    return (best or tried)[0]
