"""Draw the split of a run: the classes of each client.

    python -m figures.split RUN [RUN ...] -o split.png

A panel for each distinct split of the runs, which need not be comparable.

How many training examples of each class every client has; an empty cell is none. Where clients are too many for a row each,
it is how many have how many: of each class, and of all together, the part of the clients with so many training examples.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import experiment
import saves
from data import partition, shift
from experiment import Experiment
from figures import on_paper
from figures.marks import Axis, Heat, Panel
from figures.units import flags_told
from saves import Run
from untrusted import WIDTH, print_escaped, wrap

CLIENTS_SHOWN, CLASSES_SHOWN = 20, 12  # in the terminal
MAX_CLIENTS = 60  # on paper, more rows than this are indistinguishable


def panel(saved: Mapping[str, np.ndarray], title: str = "", most: int = saves.MANY) -> Panel:
    """Return the map client x class of a `split.npz`; of more than `most` clients, the distribution of their counts."""
    table, classes = saved["table"], list(map(str, saved["classes"]))
    if len(table) > most:
        return _distributions(table, classes, title)
    names = saved.get("clients", range(len(table)))
    clients = {k: f"{name} ({size:,})" for k, (name, size) in enumerate(zip(names, table.sum(1), strict=True))}
    x, y = Axis("class", ticks=dict(enumerate(classes))), Axis("client (its examples)", ticks=clients)
    return Panel([Heat(table, max(table.max(), 1), "training examples")], x, y, title, rows=min(len(table), 20))


def _distributions(table: np.ndarray, classes: Sequence[str], title: str) -> Panel:
    """Return, for each class and for all, the fraction of clients with 0, 1, 2 to 3, 4 to 7, ... examples, most on top."""
    classes_held, sizes = np.count_nonzero(table, axis=1), table.sum(1)
    n_bins = int(sizes.max()).bit_length() + 1
    parts = [np.bincount(np.frexp(counts)[1], minlength=n_bins) / len(table) for counts in (*table.T, sizes)]
    bins = ["0", "1", *(f"{2**i:,} to {2 ** (i + 1) - 1:,}" for i in range(1, n_bins - 1))]
    summary = [
        f"{len(table):,} clients",
        f"classes per client: {_range(classes_held)}",
        f"examples per client: {_range(sizes)}",
    ]
    x = Axis("class", ticks=dict(enumerate([*classes, "all"])))
    y = Axis("examples per client", ticks=dict(enumerate(bins[::-1])))
    heat = Heat(100 * np.stack(parts, axis=1)[::-1], 100, "% of the clients")
    return Panel([heat], x, y, "\n".join(filter(None, [title, "; ".join(summary)])), rows=max(n_bins, 8))


def _range(counts: np.ndarray) -> str:
    smallest, largest = int(counts.min()), int(counts.max())
    return f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}, median {np.median(counts):,.0f}"


def draw_one(saved: Mapping[str, np.ndarray], png: Path) -> None:
    """Draw one split, a `split.npz`, as a map."""
    _figure([panel(saved, "training examples by client and class", MAX_CLIENTS)], png)


def draw(runs: Sequence[Run], path: Path | None = None, size: str | None = None):
    """Return the distinct splits of runs as a figure, written to a PNG or PDF if there is a path.

    `size`: one of `on_paper.SIZES`."""
    by_split = {(run.config["data"]["digest"], run.config["split"]): run for run in reversed(runs)}
    shown = [panel(run.arrays("split"), name_of(run), MAX_CLIENTS) for run in reversed(by_split.values())]
    return _figure(shown, path, size)


def name_of(run: Run) -> str:
    """Return the data set and the flags with which a run's split was drawn."""
    options = run.options
    rule = partition.PARTITIONS.get(options["partition"])
    flags = [name for name in (partition.parameters(rule) if rule else []) if options.get(name) is not None]
    flag_text = flags_told(options, (*flags, "split_seed"))
    return f"{options['dataset']} --partition {options['partition']}\n{flag_text}"


def text(experiment: Experiment) -> str:
    """Return the split as a table client x class; where there are many classes, how many each client holds.

    With a feature shift the table also has its amount per client."""
    everyone = experiment.split.everyone
    n_clients, shown = len(everyone.train), partition.Split(*(part[:CLIENTS_SHOWN] for part in everyone.parts))
    counts = partition.table(experiment.data, shown)
    names = [*everyone.names[: len(counts)]] or [f"{k:>6}" for k in range(len(counts))]
    names = [name if k < len(experiment.split.train) else f"{name} (new)" for k, name in enumerate(names)]
    first, has_shift = max(6, *map(len, names)), experiment.options.feature_shift != "none"
    labels = _labels(experiment.data.classes, WIDTH - first, 3 if has_shift else 2)
    columns = [(label, counts[:, c]) for c, label in enumerate(labels)]
    if not labels:
        largest, median = counts.max(1), np.median(counts, axis=1).astype(int)
        columns = [("classes", (counts > 0).sum(1)), ("largest", largest), ("median", median)]
    columns += [("all", counts.sum(1)), ("test", shown.test.sizes)]
    if has_shift:
        columns.append(("shift", [f"{amount:.2f}" for amount in shift.amounts(experiment.options)]))
    width = max(7, *(len(name) + 1 for name, _ in columns))
    lines = [
        f"split {experiment.split.digest}: training examples by client and class",
        f"{'client':<{first}}" + "".join(f"{name:>{width}}" for name, _ in columns),
    ]
    for k, name in enumerate(names):
        lines.append(f"{name:<{first}}" + "".join(f"{column[k]:>{width}}" for _, column in columns))
    if n_clients > CLIENTS_SHOWN:
        lines.append(f"   ... and {n_clients - CLIENTS_SHOWN} more clients (split.npz has all clients)")
    if experiment.data.clients and not everyone.names:
        n = len(experiment.data.clients)
        lines.append(
            wrap(f"the data have {n} clients, but this split is new; use --clients to keep the clients of the data")
        )
    if not partition.has_common_test(experiment.data):
        n = len(partition.global_test(experiment.data, experiment.split))
        union = f"the global test set is the union of the clients' test sets ({n:,} examples)"
        lines.append(wrap(f"the data have no common test set: {union}"))
    return "\n".join(lines)


def _labels(classes: Sequence[str], room: int, n_others: int) -> list[str]:
    """Return the names of the classes, cut so that a table with `n_others` more columns is at most `room` wide.

    Empty where there are too many classes.
    """
    for longest in (8, 6):
        labels = [name if len(name) <= longest else f"{name[: longest - 1]}." for name in classes]
        if len(labels) <= CLASSES_SHOWN and (len(labels) + n_others) * max(7, 1 + max(map(len, labels))) <= room:
            return labels
    return []


def distinct(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Return one experiment for each distinct split or feature shift of the clients."""

    def drawn(experiment: Experiment) -> tuple:
        return experiment.split.digest, *(
            tuple(shift.amounts(experiment.options)) if experiment.options.feature_shift != "none" else ()
        )

    return list({drawn(experiment): experiment for experiment in experiments}.values())


def show(experiments: Sequence[Experiment]) -> None:
    """Print the splits, and draw and save them in `--export_dir`; nothing else."""
    for run_experiment in distinct(experiments):
        print_escaped(text(run_experiment))
        split_file = experiment.save_split(run_experiment)
        draw_one(partition.arrays(run_experiment.data, run_experiment.split), split_file.with_suffix(".png"))
        print_escaped(wrap(f"wrote {split_file.with_suffix('.png')}, and {split_file.name} for --partition_file"))


def _figure(shown: Sequence[Panel], path: Path | None, size: str | None = None):
    rows, columns = np.max([shown_panel.marks[0].values.shape for shown_panel in shown], axis=0)
    return on_paper.figure(shown, 2.2 + min(0.55 * columns, 14), 1.6 + 0.32 * max(rows, 4), path, size=size)


def main(argv: Sequence[str] | None = None) -> None:
    from figures import command  # imported here: an experiment that draws its split does not need `command`

    command.run(command.parser("split", __doc__), draw, argv)


if __name__ == "__main__":
    main()
