"""The picture of a split: who has what.

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
from untrusted import print_escaped

CLIENTS_SHOWN, CLASSES_SHOWN = 20, 12  # in the terminal
MAX_CLIENTS = 60  # more rows than this cannot be told apart on paper


def panel(saved: Mapping[str, np.ndarray], title: str = "", most: int = saves.MANY) -> Panel:
    """The map of client x class of a `split.npz`, or where clients are more than `most` that of how many have how many."""
    table, classes = saved["table"], list(map(str, saved["classes"]))
    if len(table) > most:
        return _distributions(table, classes, title)
    names = saved.get("clients", range(len(table)))
    clients = {k: f"{name} ({size:,})" for k, (name, size) in enumerate(zip(names, table.sum(1), strict=True))}
    x, y = Axis("class", ticks=dict(enumerate(classes))), Axis("client (its examples)", ticks=clients)
    return Panel([Heat(table, max(table.max(), 1), "training examples")], x, y, title, rows=min(len(table), 20))


def _distributions(table: np.ndarray, classes: Sequence[str], title: str) -> Panel:
    """Of each class, and of all, the part of the clients that have 0, 1, 2 to 3, 4 to 7, ... examples, most on top."""
    held, sizes = np.count_nonzero(table, axis=1), table.sum(1)
    n_bins = int(sizes.max()).bit_length() + 1
    parts = [np.bincount(np.frexp(counts)[1], minlength=n_bins) / len(table) for counts in (*table.T, sizes)]
    bins = ["0", "1", *(f"{2**i:,} to {2 ** (i + 1) - 1:,}" for i in range(1, n_bins - 1))]
    told = [f"{len(table):,} clients", f"classes a client: {_range(held)}", f"examples a client: {_range(sizes)}"]
    x = Axis("class", ticks=dict(enumerate([*classes, "all"])))
    y = Axis("examples of a client", ticks=dict(enumerate(bins[::-1])))
    heat = Heat(100 * np.stack(parts, axis=1)[::-1], 100, "% of the clients")
    return Panel([heat], x, y, "\n".join(filter(None, [title, "; ".join(told)])), rows=max(n_bins, 8))


def _range(counts: np.ndarray) -> str:
    least, most = int(counts.min()), int(counts.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}, median {np.median(counts):,.0f}"


def draw_one(saved: Mapping[str, np.ndarray], png: Path) -> None:
    """One split, as a `split.npz` has it, as a map."""
    _figure([panel(saved, "training examples by client and class", MAX_CLIENTS)], png)


def draw(runs: Sequence[Run], path: Path | None = None):
    """The distinct splits of runs as a figure, written to a PNG or PDF where there is a path."""
    distinct = {(run.config["data"]["digest"], run.config["split"]): run for run in reversed(runs)}
    return _figure([panel(run.arrays("split"), name_of(run), MAX_CLIENTS) for run in reversed(distinct.values())], path)


def name_of(run: Run) -> str:
    """The data and the flags that a run's split was drawn with."""
    options = run.options
    rule = partition.PARTITIONS.get(options["partition"])
    flags = [name for name in (partition.parameters(rule) if rule else []) if options.get(name) is not None]
    told = flags_told(options, (*flags, "split_seed"))
    return f"{options['dataset']} --partition {options['partition']}\n{told}"


def text(one: Experiment) -> str:
    """The split as a table of client x class; where there are many classes, of how many a client holds; and by how much
    its images are changed."""
    n_clients, shown = len(one.split.train), partition.Split(*(part[:CLIENTS_SHOWN] for part in one.split.parts))
    counts = partition.table(one.data, shown)
    columns = [(name if len(name) <= 8 else f"{name[:7]}.", counts[:, c]) for c, name in enumerate(one.data.classes)]
    if len(columns) > CLASSES_SHOWN:
        largest, median = counts.max(1), np.median(counts, axis=1).astype(int)
        columns = [("classes", (counts > 0).sum(1)), ("largest", largest), ("median", median)]
    columns += [("all", counts.sum(1)), ("test", shown.test.sizes)]
    if one.options.feature_shift != "none":
        columns.append(("shift", [f"{amount:.2f}" for amount in shift.amounts(one.options)]))
    names = one.split.names[: len(counts)] or [f"{k:>6}" for k in range(len(counts))]
    first, width = max(6, *map(len, names)), max(7, *(len(name) + 1 for name, _ in columns))
    lines = [
        f"split {one.split.digest}: training examples by client and class",
        f"{'client':<{first}}" + "".join(f"{name:>{width}}" for name, _ in columns),
    ]
    for k, name in enumerate(names):
        lines.append(f"{name:<{first}}" + "".join(f"{column[k]:>{width}}" for _, column in columns))
    if n_clients > CLIENTS_SHOWN:
        lines.append(f"   ... {n_clients - CLIENTS_SHOWN} more clients, all of them in split.npz")
    if one.data.clients and not one.split.names:
        lines.append(
            f"the data come by {len(one.data.clients)} clients and are dealt anew; --clients keeps them as they come"
        )
    if not partition.has_common_test(one.data):
        n = len(partition.global_test(one.data, one.split))
        lines.append(f"no test set is common to all clients: the global one is the union of their own, {n:,} examples")
    return "\n".join(lines)


def distinct(ready: Sequence[Experiment]) -> list[Experiment]:
    """One of each that differ in who gets what, or in the change through which a client sees it."""

    def drawn(one: Experiment) -> tuple:
        return one.split.digest, *(tuple(shift.amounts(one.options)) if one.options.feature_shift != "none" else ())

    return list({drawn(one): one for one in ready}.values())


def show(ready: Sequence[Experiment]) -> None:
    """Print who gets what, and draw and save it in `--export_dir`; nothing else."""
    for one in distinct(ready):
        print_escaped(text(one))
        saved = experiment.save_split(one)
        draw_one(partition.arrays(one.data, one.split), saved.with_suffix(".png"))
        print_escaped(f"drawn in {saved.with_suffix('.png')}, saved beside it for --partition_file")


def _figure(shown: Sequence[Panel], path: Path | None):
    rows, columns = np.max([of.marks[0].values.shape for of in shown], axis=0)
    return on_paper.figure(shown, 2.2 + min(0.55 * columns, 14), 1.6 + 0.32 * max(rows, 4), path)


def main(argv: Sequence[str] | None = None) -> None:
    from figures import command  # what an experiment, which draws its split, needs not

    command.run(command.parser("split", __doc__), draw, argv)


if __name__ == "__main__":
    main()
