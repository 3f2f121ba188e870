"""Draw the confusion matrix of saved runs after the last round.

    python -m figures.confusion RUN [RUN ...] -o confusion.png --own --client 3

Of the test examples of a true class (a row) the part that is predicted to be of each class (a column), in percent, of all
models and all seeds of a method together; a class without any has no numbers. The test examples are those of the whole test
set or each client's own.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.partition import Shares
from errors import UserError
from figures import command, on_paper
from figures.groups import check, ordered
from figures.marks import Axis, Heat, Panel
from figures.styles import label
from saves import Run


def counts(run: Run, own: bool = False, client: int | None = None) -> np.ndarray:
    """Return test examples by true class (row) and predicted class, int [C, C].

    Counts the whole test set or, with `own`, the clients' own test examples; summed over the models, or of a single
    client's. Raises UserError for a run without confusion matrices and for an unknown client."""
    saved = run.arrays("confusion")
    if saved is None:
        raise UserError(f"{run.folder}: confusion.npz, which every run writes, is missing")
    n_clients = len(saved["own_offsets"]) - 1
    if client is not None and not 0 <= client < n_clients:
        raise UserError(f"--client {client}: must be 0 to {n_clients - 1} for {run.folder}")
    if own:
        n = len(saved["classes"])
        pairs = Shares(n * saved["own_true"] + saved["own_predicted"], saved["own_offsets"])
        return np.bincount(pairs.values if client is None else pairs[client], minlength=n * n).reshape(n, n)
    by_model = saved["test"]
    # a single matrix: all clients have the same model
    return by_model.sum(0) if client is None else by_model[client if len(by_model) > 1 else 0]


def in_percent(table: np.ndarray) -> np.ndarray:
    """Return rows that sum to 100, float [C, C]; NaN in the rows of classes without examples."""
    with np.errstate(invalid="ignore"):
        return 100 * table / table.sum(1, keepdims=True)


def panel(runs: Sequence[Run], title: str, own: bool = False, client: int | None = None) -> Panel:
    """Return the confusion matrix of all runs together. Raises UserError as `counts`."""
    table = sum(counts(run, own, client) for run in runs)
    classes = dict(enumerate(map(str, runs[0].arrays("confusion")["classes"])))
    heat = Heat(in_percent(table), 100, "% of the true class", table)
    rows = min(max(len(classes), 8), 20)
    return Panel([heat], Axis("predicted class", ticks=classes), Axis("true class", ticks=classes), title, rows=rows)


def draw(
    runs: Sequence[Run], path: Path | None = None, own: bool = False, client: int | None = None, size: str | None = None
):
    """Return the matrices as a figure, written to a PNG or PDF if there is a path.

    `size`: one of `on_paper.SIZES`. Raises UserError for runs that cannot be compared, and as `counts`."""
    check(runs)
    groups = ordered(runs)
    panels = [panel(group.runs, label(group, groups), own, client) for group in groups]
    side = max(3.6, 1 + 0.25 * min(len(panels[0].x.ticks), 26))  # inches, for the numbers and the names of the classes
    of_client = "each client" if client is None else f"client {groups[0].runs[0].called(client)}"
    examples = f"the own test examples of {of_client}" if own else f"the whole test set, by the model of {of_client}"
    heading = f"{examples}\nafter the last round, n seeds together"
    return on_paper.figure(panels, side, side + 0.4, path, heading=heading, size=size)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("confusion", __doc__)
    parser.add_argument("--own", action="store_true", help="use each client's own test examples, not the global test set")
    parser.add_argument("--client", type=int, metavar="K", help="client whose model is drawn, from 0; default: all clients")
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
