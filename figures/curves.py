"""Accuracy against rounds, of saved runs.

    python -m figures.curves RUN [RUN ...] -o curves.png

Each line is a run. Left: the whole test set; right: each client's own distribution, mean over clients.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import saves
from errors import UserError
from figures import pyplot

# Okabe and Ito's colours, told apart by colour-blind readers, with a dash pattern each for print
STYLES = (
    *(("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#000000", ":"), ("#CC79A7", (0, (6, 1, 1, 1, 1, 1)))),
    *(("#E69F00", (0, (1, 1))), ("#56B4E9", (0, (5, 1)))),
)


def draw(runs: Sequence[saves.Run], path: Path) -> None:
    """Draw the runs' mean accuracies over the rounds into a PNG or PDF."""
    plt = pyplot()

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained", dpi=110)
    for number, run in enumerate(runs):
        colour, dashes = STYLES[number % len(STYLES)]
        for axes, what in zip(panels, ("global", "personal"), strict=True):
            rounds = run.rounds.dropna(subset=[f"{what}_mean"])
            label = run.options["algorithm"]
            axes.plot(
                rounds["round"], 100 * rounds[f"{what}_mean"], color=colour, linestyle=dashes, label=label, linewidth=1.8
            )
    for axes, title in zip(panels, ("global: the whole test set", "personal: each client's own distribution"), strict=True):
        axes.set(title=title, xlabel="round")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy (%), mean over clients")
    panels[0].legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m figures.curves", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"), help="PNG or PDF (default: curves.png)")
    given = parser.parse_args(argv)
    try:
        draw([saves.load(folder) for folder in given.runs], given.output)
    except (UserError, OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
