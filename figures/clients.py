"""Each client's accuracy on its own distribution after the last round, of saved runs.

    python -m figures.clients RUN [RUN ...] -o clients.png

Runs on several splits, whose clients are not the same, have a dot for every client of every seed.

A row a method, a dot a client, from the worst to the best: on one split its mean over seeds, and where clients are few with
one standard deviation over them; of more than 1,000 dots every so many-th is shown, the worst and the best among them. A
cross is a harmed client: it gets its own test examples wrong more often than the same client alone (independent, on the same
split with the same seed) by more than chance, by the rule of the table.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np

import saves
from figures import command, on_paper
from figures.alone import alone_for, by_client, harmed, pairs
from figures.groups import Group, check, ordered
from figures.marks import Axis, Line, Panel, Points, Style, key
from figures.styles import label, styles
from saves import Run

HEIGHT = 0.7  # of a row's dots; rows are 1 apart
NAMED = 12  # clients; of more the worst alone is named, and none has a bar
MANY = 30  # clients, from which on dots are small
BLACK, FAINT = Style("#000000"), Style("#dddddd")


def gains(runs: Sequence[Run], alone: Sequence[Run]):
    """The accuracy of each client less that of the same client alone, mean over the seeds of both, a pandas series by
    client; None without such a seed."""
    import pandas as pd

    found = [by_client(run, "last") - by_client(base, "last") for run, base in pairs(runs, alone)]
    return pd.concat(found, axis=1).mean(axis=1) if found else None


def accuracies(group: Group, found: Sequence[Group], together: bool):
    """A frame with a row a client and seed, from the worst to the best: client, name, seed, "accuracy", "spread" over seeds
    (fractions of 1), "gain", its accuracy less that of the same client alone, "harmed" (see `groups.harmed`), and its number
    of training "examples"; NaN where there is nothing to tell. `together`: a row a client, over its seeds."""
    import pandas as pd

    alone = alone_for(group, found)
    frames = []
    for runs in [group.runs] if together else [[run] for run in group.runs]:
        own = pd.concat([by_client(run, "last") for run in runs], axis=1)
        frame = pd.DataFrame({"accuracy": own.mean(axis=1), "spread": own.std(axis=1), "seed": runs[0].options["seed"]})
        frame["gain"] = frame["harmed"] = frame["examples"] = np.nan
        frame["name"] = [runs[0].called(k) for k in frame.index]
        if alone and (gain := gains(runs, alone.runs)) is not None:
            frame["gain"] = gain
            (of_split,) = harmed(Group(runs), alone).values()
            frame["harmed"] = np.nan if of_split is None else of_split.astype(float)
        if saved := runs[0].arrays("split"):
            frame["examples"] = pd.Series(saved["table"].sum(1))
        frames.append(frame.rename_axis("client").reset_index())
    return pd.concat(frames, ignore_index=True).sort_values("accuracy", kind="stable", ignore_index=True)


def panel(found: Sequence[Group], split_seed: int | None = None) -> Panel:
    """The clients of the groups: of all their runs, or of those with one split seed."""
    parts = [[run for run in group.runs if split_seed in (None, run.options["split_seed"])] for group in found]
    of = [(Group(runs), style) for runs, style in zip(parts, styles(found), strict=True) if runs]
    together = len({run.config["split"] for group, _ in of for run in group.runs}) == 1
    rows = [accuracies(group, found, together) for group, _ in of]
    most = max(map(len, rows))
    for clients in rows:
        clients["bar"] = clients["spread"].fillna(0) if most <= NAMED else 0.0
    ends = 100 * np.concatenate([clients["accuracy"] + side * clients["bar"] for clients in rows for side in (-1, 1)])
    room = max(np.ptp(ends), 1.0)
    span = (ends.min() - 0.2 * room, min(ends.max() + 0.05 * room, 101.0))  # on the left for the names of clients
    marks = [Line(span, [y - 0.5] * 2, FAINT, width=0.8) for y in range(1, len(rows))]
    marks.append(key("client" if most <= NAMED else "client (the worst is named)", BLACK))
    if any(clients["harmed"].notna().any() for clients in rows):
        marks.append(key("harmed: worse than itself alone, by more than chance", BLACK._replace(marker="x")))
    marks.append(Line([np.nan], [np.nan], BLACK, "mean over clients"))
    ticks = {}
    for y, ((group, style), clients) in enumerate(zip(of, rows, strict=True)):
        ticks[y] = label(group, found)
        marks += _row(y, ticks[y], style.colour, clients, together)
        if clients["harmed"].notna().any():
            ticks[y] += f"\n{clients['harmed'].sum():.0f} of {len(clients)} harmed"
    what = "mean over the n seeds" if together else "n seeds on several splits"
    x = Axis(f"personal accuracy of each client after the last round (%), {what}", span=span)
    lines = ceil(0.45 * most) if most <= NAMED else min(ceil(0.04 * most), 4)  # of text, for a row
    return Panel(marks, x, Axis(ticks=ticks, span=(len(rows) - 0.5, -0.5)), rows=len(rows) * max(lines, 2))


def _row(y: int, name: str, colour: str, clients, together: bool) -> list[Line | Points]:
    """The dots of a method, the worst client on top, their names or that of the worst, and their mean."""
    mean = 100 * clients["accuracy"].to_numpy().mean()
    if len(clients) > saves.MANY:
        clients = clients.iloc[np.linspace(0, len(clients) - 1, saves.MANY).round().astype(int)]
    n, percent, bars = len(clients), 100 * clients["accuracy"].to_numpy(), 100 * clients["bar"].to_numpy()
    heights = y + (np.linspace(-HEIGHT / 2, HEIGHT / 2, n) if n > 1 else np.zeros(1))
    of = [f"client {client}" + ("" if together else f", seed {seed}") for client, seed in clients[["name", "seed"]].values]
    hover = np.array([_hover(name, client, row) for client, row in zip(of, clients.itertuples(), strict=True)])
    told = f"{name}\n{mean:.1f} %\nmean over clients"
    marks = [Line([mean] * 2, [y - 0.42, y + 0.42], Style(colour), hover=told, width=1.4)]
    for harm, marker in ((False, "circle"), (True, "x")):
        it = ((clients["harmed"] == 1) == harm).to_numpy()
        how = {"across": bars[it] if bars.any() else None, "size": 6.5 if n <= MANY else 4}
        marks.append(Points(percent[it], heights[it], Style(colour, marker=marker), hover=hover[it], **how))
    named = slice(n if n <= NAMED else 1)
    return [*marks, Points((percent - bars)[named], heights[named], Style(colour, marker=""), names=of[named])]


def _hover(name: str, client: str, row) -> str:
    examples = "" if np.isnan(row.examples) else f" ({row.examples:,.0f} training examples)"
    spread = "" if np.isnan(row.spread) else f" ± {100 * row.spread:.1f}"
    gain = "" if np.isnan(row.gain) else f"\n{100 * row.gain:+.1f} points to itself alone"
    return f"{name}\n{client}{examples}\n{100 * row.accuracy:.1f} %{spread}{gain}"


def draw(runs: Sequence[Run], path: Path | None = None):
    """The clients as a figure, written to a PNG or PDF where there is a path. Raises UserError for runs that are not to be
    compared."""
    check(runs)
    shown = panel(ordered(runs))
    return on_paper.figure([shown], 8.4, 1.5 + 0.31 * shown.rows, path, legend="")


def main(argv: Sequence[str] | None = None) -> None:
    command.run(command.parser("clients", __doc__), draw, argv)


if __name__ == "__main__":
    main()
