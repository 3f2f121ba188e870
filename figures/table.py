"""The comparison of saved runs: a table, and what it says in words.

    python -m figures.table RUN [RUN ...]

prints the comparison over seeds, which is in `figures.comparison`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from saves import Run

REFERENCES = ("independent", "centralized")  # the lower and the upper line: not methods that share what they learned
OF_A_SEED = ("algorithm", "seed", "split_seed")


class Group:
    """Runs that differ in their seeds only, and for each the `independent` run on its split, where there is one."""

    def __init__(self, runs: Sequence[tuple[Run, Run | None]]) -> None:
        self.runs = [run for run, _ in runs]
        self.options = self.runs[0].options
        self.algorithm = self.options["algorithm"]
        self.summaries = [run.summary() for run in self.runs]
        self.baselines = [base.summary() if base else None for _, base in runs]

    def values(self, name: str) -> np.ndarray:
        """One value a run, float [n]."""
        return np.array([summary.get(name) for summary in self.summaries], dtype=float)

    def mean(self, name: str) -> float:
        """Mean over the runs."""
        return float(self.values(name).mean())

    def gain(self, name: str) -> float | None:
        """Mean difference to `independent` on the same split and seed; None where one of them is missing."""
        if self.algorithm == "independent" or None in self.baselines:
            return None
        return float(np.mean([own[name] - base[name] for own, base in zip(self.summaries, self.baselines, strict=True)]))

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
    def tuned(self) -> bool:
        """Whether the clients fine-tuned the last model."""
        return not np.isnan(self.values("tuned_mean")).any()

    @property
    def steps(self) -> float:
        """Optimizer steps of all clients in all rounds, mean over the runs."""
        return float(np.mean([run.rounds["steps"].sum() for run in self.runs]))


def groups(runs: Sequence[tuple[Run, Run | None]]) -> list[Group]:
    """Group (run, its independent run or None) by all options but the seeds, in order of appearance."""
    found: dict[str, list] = {}
    for run, baseline in runs:
        key = repr((run.options["algorithm"], {k: v for k, v in run.options.items() if k not in OF_A_SEED}))
        found.setdefault(key, []).append((run, baseline))
    return [Group(members) for members in found.values()]


def comparison(found: Sequence[Group]) -> str:
    """The table. Accuracies in percent after the last round; gains in points; a spread is over seeds and says so."""
    varying = _varying(found)
    several = any(len(group.runs) > 1 for group in found)
    rows = []
    for group in found:
        row: dict[str, Any] = {"algorithm": group.algorithm}
        row |= {f"--{name}": shown(group.options.get(name, "")) for name in varying}
        if several:
            row["seeds"] = len(group.runs)
        for what in ("global", "personal", *(["tuned"] if any(group.tuned for group in found) else [])):
            row[f"{what}\n%"] = percent(group.mean(f"{what}_mean"))
            if several:
                row[f"{what} std\nover seeds"] = spread(group.values(f"{what}_mean"))
        row["worst client\npersonal %"] = percent(group.mean("personal_worst"))
        row["gain over independent\nglobal, personal"] = _gains(group)
        row["up a client\nand round"] = size(group.per_client_and_round("bytes_up"))
        row["down a client\nand round"] = size(group.per_client_and_round("bytes_down"))
        if any(group.mean("bytes_between") for group in found):
            row["to neighbours, a\nclient and round"] = size(group.per_client_and_round("bytes_between"))
        row["steps of\nall clients"] = f"{group.steps:,.0f}"
        row["seconds"] = f"{group.mean('seconds'):.1f}"
        rows.append(row)
    text = ("algorithm", *(f"--{name}" for name in varying))
    aligned = ["left" if name in text else "right" for name in rows[0]]
    return tabulate(rows, headers="keys", tablefmt="simple", colalign=aligned, disable_numparse=True)


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


def verdict(found: Sequence[Group]) -> list[str]:
    """Who wins what, in words. Empty for a single algorithm."""
    if len({group.algorithm for group in found}) < 2:
        return []
    varying = _varying(found)
    tried, found = len(found), chosen(found)
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
        best = winners[what] = max(methods, key=lambda group: group.mean(f"{what}_mean"))
        words = f"{where} {_name(best, varying)} is best of the collaborating methods, with {best.mean(f'{what}_mean'):.1%}"
        gain = best.gain(f"{what}_mean")
        if gain is not None:
            points = round(gain * 100, 1)
            words += (
                f", {points} points above independent learning" if points > 0 else ", no better than independent learning"
            )
        level = [_name(group, varying) for group in methods if group is not best and _level(best, group, f"{what}_mean")]
        if level:
            words += f"; not to be told apart from {' or '.join(level)}, within twice the standard error over seeds"
        lines.append(words + ".")
    if methods and winners["global"] is not winners["personal"]:
        sent = {what: _sent(group) for what, group in winners.items()}
        small, large = sorted(("global", "personal"), key=lambda what: sent[what])
        if sent[small]:
            lines.append(
                f"{_name(winners[small], varying)} moves {sent[large] / sent[small]:.3g} times fewer bytes "
                f"than {_name(winners[large], varying)}."
            )
    lines += [
        f"{_name(group, varying)} reaches {group.mean('global_mean'):.1%} global and {group.mean('personal_mean'):.1%} "
        f"personal, {'without sending anything' if group.algorithm == 'independent' else 'with all raw data in one place'}."
        for group in found
        if group.algorithm in REFERENCES
    ]
    return lines


def best_on_validation(found: Sequence[Group]) -> list[str]:
    """For each run with `--validation` the round that was best there, and its test accuracies."""
    varying = _varying(found)
    rounds = [(group, run, run.best_on_validation()) for group in found for run in group.runs]
    return [
        f"{_name(group, varying)} seed {run.options['seed']}, best on validation: round {best['round']:.0f}, with "
        f"{best['validation_mean']:.1%} there, {best['global_mean']:.1%} global and {best['personal_mean']:.1%} personal."
        for group, run, best in rounds
        if best
    ]


def size(nbytes: float) -> str:
    """Bytes for people: 940 B, 6.7 kB, 2.48 MB (powers of 1000)."""
    return _scaled(nbytes, ("B", "kB", "MB", "GB", "TB"))


def operations(flops: float) -> str:
    """Floating point operations for people: 2.5 MFLOP, 1.31 TFLOP."""
    return _scaled(flops, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 38 s, 12 min, 3.4 h."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90)):
        if seconds < most * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 3600:,.1f} h"


def _scaled(value: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {units[-1]}"


def _level(best: Group, other: Group, name: str) -> bool:
    """Whether runs of the same seeds differ by no more than twice the standard error of their paired difference."""
    seeds = [[(run.options["seed"], run.options["split_seed"]) for run in group.runs] for group in (best, other)]
    if len(best.runs) < 2 or seeds[0] != seeds[1]:
        return False
    difference = best.values(name) - other.values(name)
    return bool(difference.mean() <= 2 * difference.std(ddof=1) / len(difference) ** 0.5)


def _sent(group: Group) -> float:
    return group.mean("bytes_up") + group.mean("bytes_down") + group.mean("bytes_between")


def _gains(group: Group) -> str:
    gains = [group.gain("global_mean"), group.gain("personal_mean")]
    return "" if None in gains else ", ".join(f"{round(gain * 100, 1) + 0.0:+.1f}" for gain in gains)


def percent(value: float) -> str:
    """12.34 for 0.1234, nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.2%}".rstrip("%")


def spread(values: np.ndarray) -> str:
    """The standard deviation over seeds, in points; nothing for a single one."""
    return f"{values.std(ddof=1):.2%}".rstrip("%") if len(values) > 1 else ""


def distinguishing(found: Sequence[Mapping[str, Any]], but: Sequence[str] = OF_A_SEED) -> list[str]:
    """The options, but for some, that tell those of one algorithm apart, if only because an older run lacks them."""
    differing: dict[str, None] = {}
    for algorithm in dict.fromkeys(options["algorithm"] for options in found):
        of_it = [options for options in found if options["algorithm"] == algorithm]
        for name in dict.fromkeys(name for options in of_it for name in options):
            if name not in but and len({repr(options.get(name, "(none)")) for options in of_it}) > 1:
                differing[name] = None
    return list(differing)


def _varying(found: Sequence[Group]) -> list[str]:
    return distinguishing([group.options for group in found])


def shown(value: Any) -> str:
    """An option's value as a flag takes it: several with commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def name_of(group: Group, found: Sequence[Group]) -> str:
    """The algorithm, and the options that tell its groups apart."""
    return _name(group, _varying(found))


def _name(group: Group, varying: Sequence[str]) -> str:
    told = [f"--{name} {shown(group.options[name])}" for name in varying if name in group.options]
    return f"{group.algorithm} ({' '.join(told)})" if told else group.algorithm


def main(argv: Sequence[str] | None = None) -> None:
    from figures import comparison  # what run.py needs not

    comparison.main(argv)


if __name__ == "__main__":
    main()
