"""Each client's accuracy on its own distribution after the last round, of saved runs.

    python -m figures.clients RUN [RUN ...] -o clients.png

A row a method, a dot a client, from the worst to the best. A client is harmed (a cross) where it is below itself alone:
`independent` on the same split with the same seed. On one split a dot is the mean over seeds, and so is what harms; runs on
several splits, whose clients are not the same, have a dot for every client of every seed, as `figures.table` counts them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from figures import command, finished, panels
from figures.curves import labels, styles
from figures.groups import Group, alone_for, by_client, check, ordered, seed_of
from saves import Run

HEIGHT = 0.7  # of a row's dots; rows are 1 apart
MANY = 30  # clients, from which on dots are small


def accuracies(group: Group, found: Sequence[Group], together: bool):
    """A frame with a row a client and seed: client, seed, split_seed, "accuracy" (a fraction of 1) and "gain", its accuracy
    less that of the same client alone, NaN where there is no such run. `together`: a row a client, means over its seeds."""
    import pandas as pd

    alone = alone_for(group, found)
    without = {seed_of(run): by_client(run, "last") for run in (alone.runs if alone else [])}
    frames = []
    for run in group.runs:
        own = by_client(run, "last")
        frame = pd.DataFrame({"accuracy": own, "gain": own - without.get(seed_of(run), np.nan)}).reset_index()
        frames.append(frame.assign(seed=run.options["seed"], split_seed=run.options["split_seed"]))
    frame = pd.concat(frames, ignore_index=True)
    return frame.groupby("client", as_index=False).mean() if together else frame


def draw(runs: Sequence[Run], path: Path | None = None):
    """The clients as a figure, written to a PNG or PDF where there is a path. Raises UserError for runs that are not to be
    compared."""
    check(runs)
    found = ordered(runs)
    together = len({run.config["split"] for run in runs}) == 1
    rows = [accuracies(group, found, together).sort_values("accuracy", kind="stable") for group in found]
    inches = float(np.clip(0.015 * max(map(len, rows)), 0.62, 1.8))  # of a row
    figure, ((axes,),) = panels(1, 1, 8.4, 1.5 + inches * len(found))
    for y, (clients, style) in enumerate(zip(rows, styles(found), strict=True)):
        _row(axes, y, clients, style.colour, together)
    axes.set_yticks(range(len(found)), labels(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.18 * (high - low), min(high, 101))  # on the left the names of the worst clients
    axes.grid(axis="x", alpha=0.3)
    of = "mean over the n seeds" if together else "n seeds on several splits"
    axes.set_xlabel(f"personal accuracy of each client after the last round (%), {of}")
    _legend(figure, together)
    return finished(figure, path)


def _row(axes, y: int, clients, colour: str, together: bool) -> None:
    """The dots of a method, the worst client on top, and how many are harmed."""
    heights = y + np.linspace(-HEIGHT / 2, HEIGHT / 2, len(clients)) if len(clients) > 1 else np.array([float(y)])
    percent, harmed = 100 * clients["accuracy"].to_numpy(), clients["gain"].to_numpy() < -1e-12
    if y:
        axes.axhline(y - 0.5, color="#DDDDDD", linewidth=0.8)
    axes.plot([percent.mean()] * 2, [y - 0.42, y + 0.42], color=colour, linewidth=1.4, alpha=0.7)
    size = 30 if len(clients) <= MANY else 12
    axes.scatter(percent[~harmed], heights[~harmed], s=size, color=colour, zorder=3)
    axes.scatter(percent[harmed], heights[harmed], s=1.2 * size, color=colour, marker="x", linewidths=1.8, zorder=3)
    worst = clients.iloc[0]
    seed = "" if together else f", seed {worst['seed']:.0f}"
    name = f"client {worst['client']:.0f}{seed}"
    axes.annotate(name, (percent[0], heights[0]), (-7, 0), textcoords="offset points", ha="right", va="center", fontsize=8)
    if clients["gain"].notna().any():
        told = f"{harmed.sum()} of {len(clients)} harmed"
        axes.text(1.01, y, told, transform=axes.get_yaxis_transform(), va="center", fontsize=9)


def _legend(figure, together: bool) -> None:
    """In black: the colours are those of the rows."""
    from matplotlib.lines import Line2D

    marks = {
        "client (the worst is named)": {"marker": "o", "linestyle": ""},
        f"harmed: below itself alone{', mean over seeds' if together else ''}": {
            "marker": "x",
            "linestyle": "",
            "markeredgewidth": 1.9,
        },
        "mean over clients": {"marker": "|", "linestyle": "", "markersize": 12},
    }
    handles = [Line2D([], [], color="black", label=label, **how) for label, how in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def main(argv: Sequence[str] | None = None) -> None:
    command.run(command.parser("clients", __doc__), draw, argv)


if __name__ == "__main__":
    main()
