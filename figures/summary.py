"""What a comparison says in words: who is best at what, and what the seeds allow to say about it."""

from collections.abc import Sequence

from figures.alone import alone_for
from figures.groups import REFERENCES, Group, name_of
from figures.statistics import Paired, least_errors, paired

RULE = (
    "Told apart: Student's 95 % interval of the differences, paired by seed, leaves out 0; with n = {n} seeds that takes "
    "{t:.1f} standard errors."
)


def chosen(found: Sequence[Group]) -> list[Group] | None:
    """One group for each algorithm: of several settings the one with the best validation accuracy. None where there are
    several without `--validation`: to choose by test accuracy would be to tune on the test set."""
    best = []
    for algorithm in dict.fromkeys(group.algorithm for group in found):
        settings = [group for group in found if group.algorithm == algorithm]
        if len(settings) > 1 and any(group.validation is None for group in settings):
            return None
        best.append(max(settings, key=lambda group: group.validation) if len(settings) > 1 else settings[0])
    return best


def verdict(found: Sequence[Group], beside: Sequence[Group] = ()) -> list[str]:
    """Who is best at what, in words, and what the seeds allow to say about it; `beside`: runs of `independent` that are not
    among the groups. Empty for a single algorithm."""
    if len({group.algorithm for group in found}) < 2:
        return []
    tried, everything = len(found), found
    found = chosen(found)
    if found is None:
        return [
            "no winner is named: an algorithm has several settings, and only `--validation 0.1` could choose among them."
        ]
    lines = ["of each algorithm's settings the one with the best validation accuracy:"] if len(found) < tried else []
    methods = [group for group in found if group.algorithm not in REFERENCES]
    winners = {}
    own = "On the clients' own distributions"
    for what, where in (("global", "On the global test set"), ("personal", own), ("tuned", f"{own}, after fine-tuning,")):
        if not methods or (what == "tuned" and not all(group.tuned for group in methods)):
            continue
        name = f"{what}_mean"
        best = winners[what] = max(methods, key=lambda group: group.mean(name))
        words = f"{where} {name_of(best, everything)} is best of the collaborating methods, with {best.mean(name):.1%}"
        alone = alone_for(best, everything, beside)
        gain = paired(best.by_seed(name), alone.by_seed(name)) if alone else None
        lines.append(words + _above(gain) + _others(best, methods, everything, name) + ".")
    if methods and winners["global"] is not winners["personal"]:
        sent = {what: _sent(group) for what, group in winners.items()}
        small, large = sorted(("global", "personal"), key=lambda what: sent[what])
        if sent[small]:
            names = {what: name_of(group, everything) for what, group in winners.items()}
            times = f"{sent[large] / sent[small]:.3g}"
            told = f"{names[small]} moves {times} times fewer bytes than {names[large]}."
            lines.append(
                told if times != "1" else f"{names[small]} and {names[large]} move as many bytes, within half a percent."
            )
    if any("told apart" in line for line in lines):
        lines.append(RULE.format(n=(n := min(len(group.runs) for group in methods)), t=least_errors(n)))
    lines += [
        f"{name_of(group, everything)} reaches {group.mean('global_mean'):.1%} global and {group.mean('personal_mean'):.1%} "
        f"personal, {'without sending anything' if group.algorithm == 'independent' else 'with all raw data in one place'}."
        for group in found
        if group.algorithm in REFERENCES
    ]
    return lines


def _above(gain: Paired | None) -> str:
    """How far the best is above independent learning, and whether that is more than seeds differ by."""
    if gain is None:
        return ""
    points = f"{abs(gain.mean) * 100:.1f} points {'above' if gain.mean > 0 else 'below'} independent learning"
    if gain.n == 1:
        return f", {points}"
    interval = f"95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
    return f", {points} ({interval})" if gain.apart else f", not told apart from independent learning ({points}, {interval})"


def _others(best: Group, methods: Sequence[Group], found: Sequence[Group], name: str) -> str:
    """From which other methods the seeds tell the best one apart: by Student's 95 % interval of the paired differences."""
    said: dict[str, list[str]] = {}
    for group in sorted(methods, key=lambda group: -group.mean(name)):  # in whatever order the runs are read
        if group is best:
            continue
        difference = paired(best.by_seed(name), group.by_seed(name))
        if difference is None:
            said.setdefault("not compared with {}, run with other seeds", []).append(name_of(group, found))
        elif difference.n > 1:
            words = "told apart from {}" if difference.apart else "not told apart from {}"
            some = "" if difference.n == len(best.runs) == len(group.runs) else f" over the {difference.n} seeds in common"
            said.setdefault(words + some, []).append(name_of(group, found))
    return "".join(f"; {words.format(' and '.join(names))}" for words, names in said.items())


def best_on_validation(found: Sequence[Group]) -> list[str]:
    """For each run with `--validation` the round that was best there, and its test accuracies."""
    rounds = [(group, run, run.best_on_validation()) for group in found for run in group.runs]
    return [
        f"{name_of(group, found)} seed {run.options['seed']}, best on validation: round {best['round']:.0f}, with "
        f"{best['validation_mean']:.1%} there, {best['global_mean']:.1%} global and {best['personal_mean']:.1%} personal."
        for group, run, best in rounds
        if best
    ]


def _sent(group: Group) -> float:
    return group.mean("bytes_up") + group.mean("bytes_down") + group.mean("bytes_between")
