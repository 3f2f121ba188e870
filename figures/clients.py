"""Draw the personal accuracy of each client of saved runs after the last round.

    python -m figures.clients RUN [RUN ...] -o clients.png

With `--by`, the figure has a panel for each value of a flag, such as each split.

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
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np

import saves
from figures import command, on_paper
from figures.alone import alone_for, by_client, harmed, pairs
from figures.curves import in_parts
from figures.groups import Group
from figures.marks import Axis, Line, Panel, Points, Style, key
from figures.styles import label, styles
from saves import Run

HEIGHT = 0.7  # height of a row's dots; the distance between rows is 1
NAMED = 12  # maximum number of clients with names and bars; of more clients only the worst is named
MANY = 30  # number of clients above which dots are small
PERCENT = Axis(bounds=(0, 100))
BLACK, FAINT = Style("#000000"), Style("#dddddd", marker="")


def gains(runs: Sequence[Run], alone: Sequence[Run]):
    """Return the accuracy of each client minus that of the same client alone, mean over the common seeds.

    The result is a pandas series by client; None without a common seed."""
    import pandas as pd

    differences = [by_client(run, "last") - by_client(base, "last") for run, base in pairs(runs, alone)]
    return pd.concat(differences, axis=1).mean(axis=1) if differences else None


def accuracies(group: Group, groups: Sequence[Group], together: bool):
    """Return a frame with a row per client and seed, from the worst to the best.

    Columns: client, name, seed, "accuracy", "spread" over seeds (fractions of 1), "gain" (accuracy minus that of the same
    client alone), "harmed" (see `alone.harmed`), and the number of training "examples"; NaN where a value is unknown.
    `together`: a row per client, over its seeds."""
    import pandas as pd

    alone = alone_for(group, groups)
    frames = []
    for runs in [group.runs] if together else [[run] for run in group.runs]:
        own = pd.concat([by_client(run, "last") for run in runs], axis=1)
        frame = pd.DataFrame({"accuracy": own.mean(axis=1), "spread": own.std(axis=1), "seed": runs[0].options["seed"]})
        frame["gain"] = frame["harmed"] = frame["examples"] = np.nan
        frame["name"] = [runs[0].called(k) for k in frame.index]
        if alone and (gain := gains(runs, alone.runs)) is not None:
            frame["gain"] = gain
            (is_harmed,) = harmed(Group(runs), alone).values()
            frame["harmed"] = np.nan if is_harmed is None else is_harmed.astype(float)
        if saved := runs[0].arrays("split"):
            frame["examples"] = pd.Series(saved["table"].sum(1))
        frames.append(frame.rename_axis("client").reset_index())
    return pd.concat(frames, ignore_index=True).sort_values("accuracy", kind="stable", ignore_index=True)


def panel(groups: Sequence[Group], split_seed: int | None = None) -> Panel:
    """Return the clients of the groups: of all their runs, or of the runs with one split seed."""
    runs_by_group = [[run for run in group.runs if split_seed in (None, run.options["split_seed"])] for group in groups]
    shown = [(Group(runs), style) for runs, style in zip(runs_by_group, styles(groups), strict=True) if runs]
    together = len({run.config["split"] for group, _ in shown for run in group.runs}) == 1
    rows = [accuracies(group, groups, together) for group, _ in shown]
    max_clients = max(map(len, rows))
    for clients in rows:
        clients["bar"] = clients["spread"].fillna(0) if max_clients <= NAMED else 0.0
    ends = np.concatenate([PERCENT.around(100 * clients["accuracy"], 100 * clients["bar"]) for clients in rows], axis=1)
    width = max(np.ptp(ends), 1.0)
    span = (ends.min() - 0.2 * width, min(ends.max() + 0.05 * width, 101.0))  # space at the left for the names of clients
    marks = [Line((-100, 200), [y - 0.5] * 2, FAINT, width=0.8) for y in range(1, len(rows))]
    marks.append(key("client" if max_clients <= NAMED else "client (the worst is named)", BLACK))
    if any(clients["harmed"].notna().any() for clients in rows):
        marks.append(key("harmed: significantly worse than the same client alone", BLACK._replace(marker="x")))
    marks.append(Line([np.nan], [np.nan], BLACK._replace(marker=""), "mean over clients"))
    ticks = {}
    for y, ((group, style), clients) in enumerate(zip(shown, rows, strict=True)):
        ticks[y] = label(group, groups)
        marks += _row(y, ticks[y], style.colour, clients, together)
        if clients["harmed"].notna().any():
            ticks[y] += f"\n{clients['harmed'].sum():.0f} of {len(clients)} harmed"
    over_what = "mean over the n seeds" if together else "n seeds on several splits"
    x = replace(PERCENT, title=f"personal accuracy of each client after the last round (%), {over_what}", span=span)
    lines = ceil(0.45 * max_clients) if max_clients <= NAMED else min(ceil(0.04 * max_clients), 4)  # lines of text per row
    return Panel(marks, x, Axis(ticks=ticks, span=(len(rows) - 0.5, -0.5)), rows=len(rows) * max(lines, 2))


def _row(y: int, name: str, colour: str, clients, together: bool) -> list[Line | Points]:
    """Return the marks of a method: a dot per client, the worst on top, names, and the mean.

    Where there are many clients, only the worst is named."""
    mean = 100 * clients["accuracy"].to_numpy().mean()
    if len(clients) > saves.MANY:
        clients = clients.iloc[np.linspace(0, len(clients) - 1, saves.MANY).round().astype(int)]
    n, percent, bars = len(clients), 100 * clients["accuracy"].to_numpy(), 100 * clients["bar"].to_numpy()
    heights = y + (np.linspace(-HEIGHT / 2, HEIGHT / 2, n) if n > 1 else np.zeros(1))
    labels = [
        f"client {client}" + ("" if together else f", seed {seed}") for client, seed in clients[["name", "seed"]].values
    ]
    hover = np.array([_hover(name, client, row) for client, row in zip(labels, clients.itertuples(), strict=True)])
    mean_hover = f"{name}\n{mean:.1f} %\nmean over clients"
    marks = [Line([mean] * 2, [y - 0.42, y + 0.42], Style(colour, marker=""), hover=mean_hover, width=1.4)]
    for harm, marker in ((False, "circle"), (True, "x")):
        is_shown = ((clients["harmed"] == 1) == harm).to_numpy()
        options = {"across": bars[is_shown] if bars.any() else None, "size": 6.5 if n <= MANY else 4}
        marks.append(
            Points(percent[is_shown], heights[is_shown], Style(colour, marker=marker), hover=hover[is_shown], **options)
        )
    named = slice(n if n <= NAMED else 1)
    return [
        *marks,
        Points(PERCENT.around(percent, bars)[0][named], heights[named], Style(colour, marker=""), names=labels[named]),
    ]


def _hover(name: str, client: str, row) -> str:
    examples = "" if np.isnan(row.examples) else f" ({row.examples:,.0f} training examples)"
    spread = "" if np.isnan(row.spread) else f" ± {100 * row.spread:.1f}"
    gain = "" if np.isnan(row.gain) else f"\n{100 * row.gain:+.1f} points over learning alone"
    return f"{name}\n{client}{examples}\n{100 * row.accuracy:.1f} %{spread}{gain}"


def draw(runs: Sequence[Run], path: Path | None = None, by: Sequence[str] = (), size: str | None = None):
    """Return the clients as a figure, written to a PNG or PDF if there is a path.

    Each value of the options `by` has a panel. `size`: one of `on_paper.SIZES`. Raises UserError for runs that cannot be
    compared."""
    shown = [replace(panel([look.group for look in part]), title=title) for title, part in in_parts(runs, (), by).items()]
    starts, ends = zip(*(clients_panel.x.span for clients_panel in shown), strict=True)
    for clients_panel in shown:
        clients_panel.x = replace(clients_panel.x, span=(min(starts), max(ends)))
    height = 1.5 + 0.31 * max(clients_panel.rows for clients_panel in shown)
    return on_paper.figure(shown, 8.4, height, path, 1, legend="", size=size)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("clients", __doc__)
    command.add_by(parser)
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
