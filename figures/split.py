"""The picture of a split: how many training examples of each class every client has.

    python -m figures.split RUN [RUN ...] -o split.png

A panel for each distinct split of the runs, which need not be comparable.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data import partition
from errors import UserError
from figures import finished, panels, tiles
from figures.units import shown
from saves import Run

MAX_CLIENTS = 60  # more rows than this cannot be told apart
MANY_CLASSES = 26  # more names than this do not fit side by side


def draw_saved(npz: Path, png: Path) -> None:
    """One split, as `split.npz` of a run's folder has it, as a map of client x class."""
    with np.load(npz) as saved:
        table, classes = saved["table"], saved["classes"]
    figure, ((axes,),) = panels(1, 1, *_inches(table))
    _map(figure, axes, table, classes, "training examples by client and class")
    finished(figure, png)


def draw(runs: Sequence[Run], path: Path | None = None):
    """The distinct splits of runs as a figure, written to a PNG or PDF where there is a path. Raises UserError for a run
    without `split.npz`."""
    distinct = {(run.config["data"]["digest"], run.config["split"]): run for run in reversed(runs)}
    maps = [(name_of(run), _saved(run)) for run in reversed(distinct.values())]
    width, height = np.max([_inches(saved["table"]) for _, saved in maps], axis=0)
    figure, grid = tiles(len(maps), width, height)
    for axes, (name, saved) in zip(grid, maps, strict=True):
        _map(figure, axes, saved["table"], saved["classes"], name)
    return finished(figure, path)


def name_of(run: Run) -> str:
    """The data and the flags that a run's split was drawn with."""
    options = run.options
    rule = partition.PARTITIONS.get(options["partition"])
    flags = [name for name in (partition.parameters(rule) if rule else []) if options.get(name) is not None]
    told = " ".join(f"--{name} {shown(options[name])}" for name in (*flags, "split_seed"))
    return f"{options['dataset']} --partition {options['partition']}\n{told}"


def _saved(run: Run) -> dict[str, np.ndarray]:
    saved = run.arrays("split")
    if saved is None:
        raise UserError(f"{run.folder}: no split.npz, which every run writes")
    return saved


def _inches(table: np.ndarray) -> tuple[float, float]:
    """Width and height of a map."""
    n_clients, n_classes = table.shape
    return 1.8 + min(0.55 * n_classes, 14), 1.6 + 0.32 * max(min(n_clients, MAX_CLIENTS), 4)


def _map(figure, axes, table: np.ndarray, classes: np.ndarray, title: str) -> None:
    n_clients = len(table)
    drawn = table[:MAX_CLIENTS]
    image = axes.imshow(drawn, cmap="cividis", aspect="auto", vmin=0)
    name_classes(axes.xaxis, classes)
    step = max(1, len(drawn) // 20)
    axes.set_yticks(range(0, len(drawn), step))
    axes.set(xlabel="class", ylabel="client")
    more = f" (the first {MAX_CLIENTS} of {n_clients} clients)" if n_clients > MAX_CLIENTS else ""
    axes.set_title(f"{title}{more}", fontsize=10)
    if drawn.size <= 400:
        write_numbers(axes, drawn, drawn.max())
    figure.colorbar(image, ax=axes, label="examples")


def name_classes(axis, classes: Sequence[str]) -> None:
    """The classes as ticks of an axis, those along the bottom slanted where they are long; none where they are too many."""
    if len(classes) > MANY_CLASSES:
        return
    slanted = axis.axis_name == "x" and max(map(len, classes)) > 3
    axis.set_ticks(
        range(len(classes)), classes, **({"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {})
    )


def write_numbers(axes, values: np.ndarray, brightest: float) -> None:
    """The numbers of a map in its cells, where they are not NaN; `brightest` is the value of its lightest colour."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "black" if value > 0.5 * brightest else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)


def main(argv: Sequence[str] | None = None) -> None:
    from figures import command  # what an experiment, which draws its split, needs not

    command.run(command.parser("split", __doc__), draw, argv)


if __name__ == "__main__":
    main()
