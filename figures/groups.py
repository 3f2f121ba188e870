"""Which saved runs may be compared, in which rows, and what each of them says."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import saves
from data import partition
from data.partition import Shares
from errors import UserError
from figures import targets
from figures.statistics import LEAST_EXAMPLES, Paired, Seed, Values, interval, paired
from figures.units import flags_told, shown
from measures import MEASURES
from options import Options, flags_of, role_of
from saves import Run
from untrusted import is_there

REFERENCES = ("independent", "centralized")  # the lower and the upper line: not methods that share what they learned
EQUAL = 1e-12  # accuracies that differ by less are the same share of the same examples
OF_A_SEED = ("algorithm", "seed", "split_seed")
COLUMNS = {  # of the headline answer; those of another answer and of a head end in ":" and their name
    "global": "global_mean",
    "personal": "personal_mean",
    "worst": "personal_worst",
    "validation": "validation_mean",
    "tuned": "tuned_mean",
    **{name: f"global_{name}_mean" for name in MEASURES},
    **{f"personal_{name}": f"personal_{name}_mean" for name in MEASURES},
}
METRICS = (  # in words
    "global, personal, worst, validation, tuned; what --measure asked for, such as auc or personal_auc; of another answer "
    "or of a head of the runs with its name, personal:global or 'global:head 1'"
)
TAKES = {"validation": "--validation", "tuned": "--ft_epochs"}  # what an accuracy is measured with
TAKES |= {f"{of}{name}": f"--measure {name}" for name in MEASURES for of in ("", "personal_")}
ROUND = {"last": "after the last round", "validation": "of the round best on validation"}
RULE = (
    *("dataset", "attribute", "image_size", "reduced", "reduced_draw", "sizes", "partition", "partition_file", "validation"),
    *("feature_shift", "shift_strength", "public_share", "public_dataset"),
    *sorted({name for deal in partition.PARTITIONS.values() for name in partition.parameters(deal)} - {"counts"}),
)
BEFORE = {
    name: flag["before"] for name, flag in flags_of(Options).items() if role_of(name) == "problem" and "before" in flag
}
log = logging.getLogger("chorus")


class Group:
    """Runs that differ in their seeds only, and for each the `independent` run on its split, where there is one."""

    def __init__(self, runs: Sequence[tuple[Run, Run | None]]) -> None:
        self.runs = [run for run, _ in runs]
        self.options = self.runs[0].options
        self.algorithm = self.options["algorithm"]
        self.summaries = [run.summary() for run in self.runs]
        self.baselines = [base.summary() if base else None for _, base in runs]

    def values(self, name: str) -> np.ndarray:
        """One value a run, float [n], of a key of `Run.summary`."""
        return np.array([summary.get(name) for summary in self.summaries], dtype=float)

    def by_seed(self, name: str) -> Values:
        """The same by seed."""
        return {seed_of(run): summary[name] for run, summary in zip(self.runs, self.summaries, strict=True)}

    def mean(self, name: str) -> float:
        """Mean over the runs."""
        return float(self.values(name).mean())

    def gain(self, name: str) -> Paired | None:
        """The difference to `independent` on the same split and seed; None where one of them is missing."""
        if self.algorithm == "independent" or None in self.baselines:
            return None
        return paired(
            self.by_seed(name), dict(zip(self.by_seed(name), [base[name] for base in self.baselines], strict=True))
        )

    def per_client_and_round(self, name: str) -> float:
        """Of a total of the run: its mean over all K clients and all rounds."""
        return self.mean(name) / self.options["n_clients"] / self.options["rounds"]

    @property
    def validation(self) -> float | None:
        """Mean validation accuracy after the last round, or None without `--validation`."""
        if any("validation_mean" not in run.rounds for run in self.runs):
            return None
        return float(np.mean([run.rounds["validation_mean"].iloc[-1] for run in self.runs]))

    @property
    def diverged(self) -> bool:
        """Whether a run diverged and went on: what it says means nothing."""
        return any(summary.get("diverged") is not None for summary in self.summaries)

    @property
    def tuned(self) -> bool:
        """Whether the clients fine-tuned the last model."""
        return not np.isnan(self.values("tuned_mean")).any()


def leading(found: Sequence[Group], value: Callable[[Group], float]) -> list[Group]:
    """Return the groups with the largest value: several where they are equal, none that diverged or has no value. All that
    is called best or is chosen is one of these."""
    values = [(group, value(group)) for group in found if not group.diverged]
    largest = max((of_it for _, of_it in values if not np.isnan(of_it)), default=np.nan)
    return [group for group, of_it in values if abs(of_it - largest) < EQUAL]


def groups(runs: Sequence[tuple[Run, Run | None]]) -> list[Group]:
    """Group (run, its independent run or None) by all options but the seeds, in order of appearance."""
    found: dict[str, list] = {}
    for run, baseline in runs:
        key = repr((run.options["algorithm"], {k: v for k, v in run.options.items() if k not in OF_A_SEED}))
        found.setdefault(key, []).append((run, baseline))
    return [Group(members) for members in found.values()]


def distinguishing(found: Sequence[Mapping[str, Any]], but: Sequence[str] = OF_A_SEED) -> list[str]:
    """Of several options, as `Group.options`: those, but for some, that tell the ones of one algorithm apart, if only
    because an older run lacks them."""
    differing: dict[str, None] = {}
    for algorithm in dict.fromkeys(options["algorithm"] for options in found):
        of_it = [options for options in found if options["algorithm"] == algorithm]
        for name in dict.fromkeys(name for options in of_it for name in options):
            if name not in but and len({repr(options.get(name, "(none)")) for options in of_it}) > 1:
                differing[name] = None
    return list(differing)


def name_of(group: Group, found: Sequence[Group]) -> str:
    """The algorithm, and the options that tell its groups apart."""
    told = flags_told(group.options, distinguishing([other.options for other in found]))
    return f"{group.algorithm} ({told})" if told else group.algorithm


def seed_of(run: Run) -> Seed:
    """What a run is paired by: its seed and that of its split."""
    return run.options["seed"], run.options["split_seed"]


def seeds_told(found: Sequence[Group]) -> str:
    """In words, how many seeds and splits there are, and what a spread over them is of."""
    seeds = {seed_of(run) for group in found for run in group.runs}
    splits = {split for _, split in seeds}
    if len(seeds) == 1:
        return "one seed: an illustration; --seed 0 1 2 3 4 --split_seed seed for a comparison"
    if len(splits) == len(seeds):
        return f"{len(seeds)} seeds, each with a split of its own"
    return (
        f"{len(seeds)} seeds on {len(splits)} split{'s' * (len(splits) > 1)}: a spread is that of training, not of who got "
        "what; --split_seed seed draws a split with each seed"
    )


def diverged_told(found: Sequence[Group]) -> list[str]:
    """In a line, which runs diverged and went on; none where none did."""
    told = []
    for group in found:
        rounds = [summary["diverged"] for summary in group.summaries if summary["diverged"] is not None]
        if rounds:
            of_all = f"{len(rounds)} of {len(group.runs)} runs, " if len(group.runs) > 1 else ""
            told.append(f"{name_of(group, found)} ({of_all}from {f'round {min(rounds)}' if min(rounds) else 'the start'})")
    said = "diverged and went on (--on_divergence continue), so that what is told of them means nothing"
    return [f"{said}: {', '.join(told)}"] if told else []


def row_of(run: Run, on: str):
    """The row of the last round, or of the first of those best on validation. Raises UserError without validation."""
    rounds = run.rounds
    if on == "last":
        return rounds.iloc[-1]
    if "validation_mean" not in rounds:
        raise UserError(f"--on validation: {run.folder} was run without --validation; all rows must have it")
    return rounds.loc[rounds["validation_mean"].idxmax()]


def metrics(run: Run) -> dict[str, str]:
    """{name: its column of the rounds} of the accuracies that a run has after the last round: the names of COLUMNS and, of
    another answer or a head, "personal:global", "global:head 1"."""
    rounds = run.rounds
    last = rounds.iloc[-1]
    return {
        name + column.removeprefix(first): column
        for name, first in COLUMNS.items()
        for column in rounds
        if f"{column}:".startswith(f"{first}:") and last[column] >= 0
    }


def meant(metric: str) -> tuple[str, str]:
    """What is measured, in words, accuracy or another measure, and the name of the accuracy that is on the same examples."""
    name = metric.partition(":")[0]
    measure = name.removeprefix("personal_")
    if measure not in MEASURES:
        return "accuracy", name
    return measure.replace("_", " "), "global" if measure == name else "personal"


def column_of(run: Run, metric: str) -> str | None:
    """The column of an accuracy; None where the run has none of that name. The headline answer is found by its own name too:
    "personal:global" of `fedavg` is its "personal"."""
    there, (name, _, of) = metrics(run), metric.partition(":")
    answer, _, head = of.partition(" ")
    if metric not in there and answer and answer == run.headline:
        metric = f"{name}:{head}" if head else name
    return there.get(metric)


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raises UserError where a run has no accuracy of this name after the last round."""
    lacking = [run for run in runs if column_of(run, metric) is None]
    if not lacking:
        return
    takes = f"; it takes {TAKES[metric]}" if metric in TAKES else ""
    having = dict.fromkeys(run.options["algorithm"] for run in runs if run not in lacking)
    if not having:
        names = dict.fromkeys(name for run in runs for name in metrics(run))
        raise UserError(f"--metric {metric}: no run has such an accuracy; there are {', '.join(names)}{takes}")
    raise UserError(
        f"--metric {metric}: {lacking[0].folder} has no such accuracy, but {', '.join(metrics(lacking[0]))}{takes}; runs of "
        f"{', '.join(having)} have it (--where algorithm={','.join(having)})"
    )


def accuracy(run: Run, metric: str, on: str) -> float:
    """A fraction of 1, of a run that `check_metric` has passed. Raises UserError for what was not measured in that round."""
    value = row_of(run, on)[column_of(run, metric)]
    if np.isnan(value):
        raise UserError(f"--metric {metric}: {run.folder} has none {ROUND[on]}")
    return float(value)


def by_client(run: Run, on: str):
    """The personal accuracy of each client, a pandas series by client."""
    clients = run.clients
    there = clients[clients["round"] == row_of(run, on)["round"]]
    return there.set_index("client")["personal_accuracy"].dropna()


def alone_for(group: Group, found: Sequence[Group]) -> Group | None:
    """The `independent` that a group is held against: the one there is, or of several the one with the same shared flags.
    None for `independent` itself, and where that is not one."""
    alone = [other for other in found if other.algorithm == "independent"]
    if len(alone) > 1:
        alone = [other for other in alone if _asked(other).items() <= _asked(group).items()]
    return alone[0] if len(alone) == 1 and group.algorithm != "independent" else None


def _asked(group: Group) -> dict[str, str]:
    return {name: repr(value) for name, value in group.options.items() if name not in OF_A_SEED}


def gains(group: Group, alone: Group, on: str) -> tuple[float, float | None] | None:
    """What collaboration is to the clients: by how much personal accuracy is above that of the same client alone, on the
    same split with the same seed, of the client that gains least, mean over the common seeds; and the share of clients that
    are `harmed` after the last round, mean over the splits (None where it is not known). None without a common seed, and of
    another round than the last where clients are more than `saves.MANY`."""
    found = [(by_client(run, on) - by_client(base, on)).min() for run, base in pairs(group.runs, alone.runs)]
    if not found or (on != "last" and group.options["n_clients"] > saves.MANY):  # then only the last round has every client
        return None
    on_splits = list(harmed(group, alone).values()) if on == "last" else [None]
    share = None if any(clients is None for clients in on_splits) else float(np.mean([c.mean() for c in on_splits]))
    return float(np.mean(found)), share


def pairs(runs: Sequence[Run], alone: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Each run with that of `independent` of the same seed, where there is one."""
    without = {seed_of(run): run for run in alone}
    return [(run, without[seed_of(run)]) for run in runs if seed_of(run) in without]


HARMED = (
    "a client is harmed where it gets its own test examples wrong more often than the same client alone: Student's 95 % "
    f"interval of the differences, paired by example (means over the seeds on a split), is below 0, and {LEAST_EXAMPLES} "
    "examples or more differ"
)


def harmed(group: Group, alone: Group) -> dict[int, np.ndarray | None]:
    """{split seed: which clients a method harms, bool [K]}, by the rule in HARMED; None where runs did not keep which of
    their test examples they got right."""
    of_split: dict[int, list[tuple[Run, Run]]] = {}
    for run, base in pairs(group.runs, alone.runs):
        of_split.setdefault(run.options["split_seed"], []).append((run, base))
    return {split_seed: _harmed(pairs) for split_seed, pairs in of_split.items()}


def _harmed(pairs: Sequence[tuple[Run, Run]]) -> np.ndarray | None:
    kept = [[own_right(run) for run in pair] for pair in pairs]
    if any(right is None for pair in kept for right in pair):
        return None
    differences = np.mean([own.values.astype(float) - alone.values for own, alone in kept], axis=0)
    return np.array([_below_zero(of_client) for of_client in Shares(differences, kept[0][0].offsets)])


def own_right(run: Run) -> Shares | None:
    """Which of its own test examples each client got right after the last round, uint8; None where that was not kept."""
    saved = run.arrays("confusion")
    return saved and Shares((saved["own_true"] == saved["own_predicted"]).astype(np.uint8), saved["own_offsets"])


def _below_zero(differences: np.ndarray) -> bool:
    return np.count_nonzero(differences) >= LEAST_EXAMPLES and interval(differences)[1] < 0


def sent(run: Run) -> float:
    """Bytes of the run: of all clients, rounds and directions."""
    return float(targets.cumulated(run, "bytes")[-1])


# --- which runs, and in which rows -------------------------------------------------------------------------------------


def read(folders: Sequence[Path], passed_over: list[str] | None = None) -> list[Run]:
    """The runs of folders, each a run's or a folder of runs, each run once. The lines of `saves.gather` on what is passed
    over are added to `passed_over`, or logged. Raises UserError for a folder without any."""
    told: list[str] = []
    found: dict[Path, Run] = {}
    for folder in folders:
        if not is_there(folder) or not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        runs, lines = ([saves.load(folder)], []) if saves.there(folder / "config.json") else saves.gather(folder)
        if not runs:
            raise UserError(lines[0] if lines else f"{folder}: neither a finished run nor a folder of finished runs")
        told += lines
        for run in runs:
            found.setdefault(run.folder.resolve(), run)
    if passed_over is not None:
        passed_over += told
    else:
        for line in told:
            log.warning("%s", line)
    return list(found.values())


def where(runs: Sequence[Run], conditions: Mapping[str, Sequence[str]]) -> list[Run]:
    """The runs whose options are, each, one of the values given as text: {"alpha": ["0.1", "inf"]}. Raises UserError for an
    option that no run has, and where none is left."""

    def is_of(run: Run, name: str, texts: Sequence[str]) -> bool:
        value = _of_problem(run).get(name)
        return any(shown(value) == text or _same_number(value, text) for text in texts)

    for name in conditions:
        if not any(name in _of_problem(run) for run in runs):
            raise UserError(f"--where {name}: no run has this option")
    left = [run for run in runs if all(is_of(run, name, texts) for name, texts in conditions.items())]
    if not left:
        told = " ".join(f"{name}={','.join(texts)}" for name, texts in conditions.items())
        raise UserError(f"--where {told}: none of the {len(runs)} runs")
    return left


def _same_number(value: Any, text: str) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and float(text) == value
    except ValueError:
        return False


def check(runs: Sequence[Run]) -> None:
    """Raises UserError where runs are not of one rule for the split and one data set, where a split seed does not stand for
    one split, or where a setting has a seed twice."""
    for name in RULE:
        _alike(runs, lambda run, name=name: repr(_of_problem(run).get(name)), f"--{name}", "different splits", name)
    _alike(runs, lambda run: run.config["data"]["digest"], "the data's digest", "different data")
    for split_seed in sorted({run.options["split_seed"] for run in runs}):
        of_seed = [run for run in runs if run.options["split_seed"] == split_seed]
        what = f"the split's digest at --split_seed {split_seed}"
        _alike(of_seed, lambda run: run.config["split"], what, "different splits")
    for group in groups([(run, None) for run in runs]):
        seen: dict[Seed, Run] = {}
        for run in group.runs:
            if (twin := seen.setdefault(seed_of(run), run)) is not run:
                seeds = "--seed {} --split_seed {}".format(*seed_of(run))
                raise UserError(f"{group.algorithm} has {seeds} twice, a seed counts once: {twin.folder} and {run.folder}")


def _alike(runs: Sequence[Run], key: Callable[[Run], str], what: str, why: str, name: str | None = None) -> None:
    first = None
    for run in runs:
        if name is not None and name not in _of_problem(run):
            continue  # an older run, from before the flag; its split has a digest all the same
        first = first or run
        if key(run) != key(first):
            hint = f"; --where {name}={_short(_of_problem(run)[name])} takes one" if name else ""
            raise UserError(
                f"{why} are not compared: {what} is {key(first)} in {first.folder}, but {key(run)} in {run.folder}{hint}"
            )


def _of_problem(run: Run) -> dict[str, Any]:
    """A run's options; of an older one with what it did before a flag of the problem was there."""
    return {**BEFORE, **run.options}


def ordered(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups that differ in their seeds only, in an order that does not depend on that of the runs: by
    algorithm, the references last, then by the options."""
    found = groups([(run, None) for run in sorted(runs, key=lambda run: (*seed_of(run), str(run.folder)))])
    names = sorted({name for group in found for name in group.options if name not in OF_A_SEED})

    def place(group: Group) -> tuple:
        return (group.algorithm in REFERENCES, group.algorithm, [_rank(group.options.get(name)) for name in names])

    return sorted(found, key=place)


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, "inf" the largest, before words."""
    number = (isinstance(value, int | float) and not isinstance(value, bool)) or value == "inf"
    return (not number, float(value) if number else 0.0, "" if number else shown(value))


def varying(found: Sequence[Group]) -> list[str]:
    """The options that differ between groups which have them, or that only some groups of one algorithm have."""
    names = dict.fromkeys(name for group in found for name in group.options if name not in OF_A_SEED)

    def varies(name: str) -> bool:
        having = [group for group in found if name in group.options]
        some = {group.algorithm for group in having} & {group.algorithm for group in found if name not in group.options}
        return bool(some) or len({repr(group.options[name]) for group in having}) > 1

    return [name for name in names if varies(name)]


def selected(found: Sequence[Group], flags: Sequence[str], on: str) -> list[tuple[Group, list[Group]]]:
    """Of settings that differ in `flags` and their seeds only the one with the best mean validation accuracy (the first of
    equals), with all that were tried. Raises UserError for a flag that no run has and for settings without validation."""
    for flag in flags:
        if flag in OF_A_SEED or not any(flag in group.options for group in found):
            raise UserError(f"--select {flag}: not a flag that tells settings of these runs apart")
    settings: dict[str, list[Group]] = {}
    for group in found:
        left = {name: value for name, value in group.options.items() if name not in (*OF_A_SEED, *flags)}
        settings.setdefault(repr((group.algorithm, left)), []).append(group)
    return [(_best(tried, flags, on) if len(tried) > 1 else tried[0], tried) for tried in settings.values()]


def select(runs: Sequence[Run], flags: Sequence[str]) -> list[Run]:
    """Of the runs those of the settings that are `selected` by the validation accuracy after the last round, on each problem
    for itself; all of them without any flags. Raises UserError."""
    if not flags:
        return list(runs)
    _, found = problems(runs)
    return [run for problem in found for group, _ in selected(ordered(problem.runs), flags, "last") for run in group.runs]


class Problem(NamedTuple):
    """One problem of several: the values of the options that tell them apart, and its runs."""

    values: tuple[str, ...]
    runs: list[Run]


def problems(runs: Sequence[Run]) -> tuple[list[str], list[Problem]]:
    """The options of the problem that differ between runs, and the runs by their values, in the order of these."""
    of_runs = [_of_problem(run) for run in runs]
    names = dict.fromkeys(name for options in of_runs for name in options if role_of(name) == "problem")
    told = [name for name in names if len({repr(options.get(name)) for options in of_runs if name in options}) > 1]
    found: dict[tuple, list[Run]] = {}
    for run, options in zip(runs, of_runs, strict=True):
        found.setdefault(tuple(_plain(options.get(name)) for name in told), []).append(run)
    in_order = sorted(found.items(), key=lambda item: [_rank(value) for value in item[0]])
    return told, [Problem(tuple(map(_short, values)), of_it) for values, of_it in in_order]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _best(tried: Sequence[Group], flags: Sequence[str], on: str) -> Group:
    for run in (run for group in tried for run in group.runs):
        if "validation_mean" not in run.rounds:
            raise UserError(f"--select {','.join(flags)} chooses by validation; {run.folder} was run without --validation")
    best = leading(tried, lambda group: float(np.mean([row_of(run, on)["validation_mean"] for run in group.runs])))
    return (best or tried)[0]
