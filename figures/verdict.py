"""State in words which method is best at what, and which of these conclusions the seeds support."""

import math
from collections.abc import Callable, Sequence

import numpy as np

import algorithms
from data.partition import Shares
from figures.alone import alone_for
from figures.groups import EQUAL, REFERENCES, Group, leading, name_of
from figures.metrics import measure_of, seed_of
from figures.statistics import Paired, Values, least_errors, paired
from options import flags_of
from saves import Run

Confusion = dict[str, np.ndarray]  # the arrays of a run's `confusion.npz`
RULE = (
    "Significantly different: Student's 95 % interval of the differences, paired by seed, excludes 0; with n = {n} seeds "
    "this takes {t:.1f} standard errors."
)


def chosen(groups: Sequence[Group]) -> list[Group] | None:
    """Return one group for each algorithm: of several settings the one with the best validation accuracy.

    None where an algorithm has several settings without `--validation`: selecting by test accuracy would tune on the test
    set."""
    best = []
    for algorithm in dict.fromkeys(group.algorithm for group in groups):
        settings = [group for group in groups if group.algorithm == algorithm]
        if len(settings) > 1 and any(group.validation is None for group in settings):
            return None
        best.append((leading(settings, lambda group: group.validation) or settings)[0] if len(settings) > 1 else settings[0])
    return best


def largest_class_share(run: Run, metric: str = "global", saved: Confusion | None = None) -> float | None:
    """Return the accuracy of always predicting the largest class, a fraction of 1.

    On the global test set this is the share of its largest class. On the clients' own test examples this is the share of
    each client's own largest class, mean over clients (for "worst": the smallest). None for a metric that is not an accuracy
    on test examples, and where the run did not keep the classes. `saved`: the run's "confusion", if it is read already."""
    kind, examples = measure_of(metric)
    if kind != "accuracy" or examples not in ("global", "personal", "tuned", "worst"):
        return None
    saved = saved or run.arrays("confusion")
    if saved is None:
        return None
    if examples == "global":
        counts = saved["test"][0].sum(1)
        return float(counts.max() / counts.sum())
    if "own_true" not in saved:
        return None
    own_counts = [np.bincount(classes) for classes in Shares(saved["own_true"], saved["own_offsets"]) if len(classes)]
    shares = [counts.max() / counts.sum() for counts in own_counts]
    return float(min(shares) if examples == "worst" else np.mean(shares))


def no_better_than_largest_class(run: Run, metric: str | None = None) -> bool:
    """Return whether an accuracy of a run after its last round is not above that of always predicting the largest class.

    The default metric is that of the headline answer."""
    saved = run.arrays("confusion")
    metric = metric or _headline(saved)
    return _lead(run, metric, run.summary()[f"{metric}_mean"], saved) <= EQUAL


def _headline(saved: Confusion | None) -> str:
    """Return the metric of the headline answer: "global" for one model for all, "personal" for a model per client."""
    return "global" if saved is None or len(saved["test"]) == 1 else "personal"


def _lead(run: Run, metric: str, value: float, saved: Confusion | None = None) -> float:
    """Return how far an accuracy is above the accuracy of always predicting the largest class.

    inf where the latter is unknown, and where no accuracy could be above it: every client has examples of one class."""
    share = largest_class_share(run, metric, saved)
    return math.inf if share in (None, 1.0) else value - share


def eligible(groups: Sequence[Group], metric: str, values: Callable[[Group], Values]) -> list[Group]:
    """Return the groups that may be called best by a metric, given its `values` by seed.

    Such a method collaborates, did not diverge, and is on average better than predicting the largest class."""

    def lead(group: Group) -> float:
        return float(np.mean([_lead(run, metric, values(group)[seed_of(run)]) for run in group.runs]))

    methods = [group for group in groups if group.algorithm not in REFERENCES and not group.diverged]
    return [group for group in methods if lead(group) > EQUAL]


def winners(groups: Sequence[Group], metric: str, values: Callable[[Group], Values]) -> list[Group]:
    """Return the best of the groups that are `eligible`, several where they are equal."""
    return leading(eligible(groups, metric, values), lambda group: float(np.mean(list(values(group).values()))))


def verdict(groups: Sequence[Group], beside: Sequence[Group] = ()) -> list[str]:
    """Return in words which method is best at what, and which of these conclusions the seeds support.

    `beside`: runs of `independent` that are not among the groups. Empty for a single algorithm."""
    if len({group.algorithm for group in groups}) < 2:
        return []
    n_settings, all_groups = len(groups), groups
    groups = chosen(groups)
    if groups is None:
        return [
            "no method is called best: an algorithm has several settings; rerun with --validation 0.1 to choose among them."
        ]
    lines = ["for each algorithm, the setting with the best validation accuracy:"] if len(groups) < n_settings else []
    methods = [group for group in groups if group.algorithm not in REFERENCES]
    sole_best: dict[str, Group] = {}
    own_examples = "On the clients' own distributions"
    for metric, place in (
        ("global", "On the global test set"),
        ("personal", own_examples),
        ("tuned", f"{own_examples}, after fine-tuning,"),
    ):
        if not methods or (metric == "tuned" and not all(group.tuned for group in methods)):
            continue
        name = f"{metric}_mean"
        best = winners(methods, metric, lambda group, name=name: group.by_seed(name))
        lines.append(f"{place} {_best_told(best, methods, all_groups, beside, name)}.")
        if len(best) == 1:
            sole_best[metric] = best[0]
    if len({sole_best.get("global"), sole_best.get("personal")} - {None}) == 2:
        sent = {metric: _sent(group) for metric, group in sole_best.items()}
        small, large = sorted(("global", "personal"), key=lambda metric: sent[metric])
        if sent[small]:
            names = {metric: name_of(group, all_groups) for metric, group in sole_best.items()}
            times = f"{sent[large] / sent[small]:.3g}"
            sentence = f"{names[small]} transfers {times} times fewer bytes than {names[large]}."
            lines.append(
                sentence
                if times != "1"
                else f"{names[small]} and {names[large]} transfer equally many bytes (within 0.5 %)."
            )
    if any("significantly different" in line for line in lines):
        lines.append(RULE.format(n=(n := min(len(group.runs) for group in methods)), t=least_errors(n)))
    lines += [
        f"{name_of(group, all_groups)} reaches {group.mean('global_mean'):.1%} global and {group.mean('personal_mean'):.1%} "
        f"personal, {'without sending anything' if group.algorithm == 'independent' else 'with all raw data in one place'}."
        for group in groups
        if group.algorithm in REFERENCES
    ]
    return lines


def _best_told(
    best: Sequence[Group], methods: Sequence[Group], all_groups: Sequence[Group], beside: Sequence[Group], name: str
) -> str:
    """Return in words which method is best, or that no method is."""
    if not best:
        return "no collaborating method is best: each diverged or is no better than predicting the largest class"
    names, value = [name_of(group, all_groups) for group in best], best[0].mean(name)
    others = _others(best, methods, all_groups, name)
    if len(best) > 1:
        return f"{' and '.join(names)} are equally good, with {value:.1%} each{others}"
    alone = alone_for(best[0], all_groups, beside)
    above = _above(paired(best[0].by_seed(name), alone.by_seed(name)) if alone else None)
    return f"{names[0]} is the best collaborating method, with {value:.1%}{above}{others}"


def at_chance(groups: Sequence[Group]) -> list[str]:
    """Return a line for each setting that ended no better than the largest class.

    The line has this accuracy and the source of the method's defaults."""
    lines = []
    for group in groups:
        bad = [run for run in group.runs if run.diverged is None and no_better_than_largest_class(run)]
        if not bad:
            continue
        metric = _headline(bad[0].arrays("confusion"))
        accuracy = np.mean([run.summary()[f"{metric}_mean"] for run in bad])
        largest = np.mean([largest_class_share(run, metric) for run in bad])
        place = "on the test set" if metric == "global" else "on the clients' own test examples"
        seeds = "" if len(bad) == len(group.runs) else f" with {len(bad)} of {len(group.runs)} seeds"
        rounds, model = group.options["rounds"], ",".join(group.options["model"])
        source = algorithms.defaults(group.algorithm)
        default_rounds = flags_of(algorithms.options_of(group.algorithm))["rounds"]["default"] if source else 0
        suggestions = [
            *([f"--rounds {default_rounds}"] if rounds < default_rounds else []),
            "a larger --lr",
            "another --model",
        ]
        lines.append(
            f"{name_of(group, groups)} ended{seeds} no better than the largest class: {accuracy:.1%} {place}; always "
            f"predicting the largest class gives {largest:.1%}; after {rounds} round{'s' * (rounds > 1)} of {model}"
            + (f"; its defaults are {source}" if source else "")
            + f". Use {', '.join(suggestions[:-1])} or {suggestions[-1]}."
        )
    return lines


def not_tuned(groups: Sequence[Group]) -> list[str]:
    """Return a line on the methods whose published accuracy is after fine-tuning, where these groups did not fine-tune."""
    names = dict.fromkeys(
        group.algorithm
        for group in groups
        if algorithms.says(group.algorithm, "published_tuned") and not group.options.get("ft_epochs")
    )
    if not names:
        return []
    return [f"the published accuracy of {' and '.join(names)} is after fine-tuning; --ft_epochs 5 measures it"]


def _above(gain: Paired | None) -> str:
    """Return in words how far the best is above independent learning, and whether this gain is significant over seeds."""
    if gain is None:
        return ""
    points = f"{abs(gain.mean) * 100:.1f} points {'above' if gain.mean > 0 else 'below'} independent learning"
    if gain.n == 1:
        return f", {points}"
    interval = f"95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
    return (
        f", {points} ({interval})"
        if gain.apart
        else f", not significantly different from independent learning ({points}, {interval})"
    )


def _others(best: Sequence[Group], methods: Sequence[Group], groups: Sequence[Group], name: str) -> str:
    """Return in words which other methods differ significantly from the best method; methods that diverged are left out.

    Significant: Student's 95 % interval of the paired differences leaves out 0."""
    names_by_words: dict[str, list[str]] = {}
    for group in sorted(methods, key=lambda group: -group.mean(name)):  # independent of the order in which runs are read
        if group in best or group.diverged:
            continue
        difference = paired(best[0].by_seed(name), group.by_seed(name))
        if difference is None:
            names_by_words.setdefault("not compared with {}, which has other seeds", []).append(name_of(group, groups))
        elif difference.n > 1:
            words = "significantly different from {}" if difference.apart else "not significantly different from {}"
            over_seeds = (
                "" if difference.n == len(best[0].runs) == len(group.runs) else f" over the {difference.n} common seeds"
            )
            names_by_words.setdefault(words + over_seeds, []).append(name_of(group, groups))
    return "".join(f"; {words.format(' and '.join(names))}" for words, names in names_by_words.items())


def best_on_validation(groups: Sequence[Group]) -> list[str]:
    """Return a line for each run with `--validation` that did not diverge: its best round on validation, and test
    accuracies."""
    rounds = [(group, run, run.best_on_validation()) for group in groups for run in group.runs if run.diverged is None]
    return [
        f"{name_of(group, groups)} seed {run.options['seed']}, best on validation: round {best['round']:.0f}, with "
        f"{best['validation_mean']:.1%} on validation, {best['global_mean']:.1%} global and {best['personal_mean']:.1%} "
        "personal."
        for group, run, best in rounds
        if best
    ]


def _sent(group: Group) -> float:
    return group.mean("bytes_up") + group.mean("bytes_down") + group.mean("bytes_between")
