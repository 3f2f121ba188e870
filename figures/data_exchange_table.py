"""The grid of `figures/data_exchange_table.sh`: published and ours, and accuracy against what it costs in privacy.

    python -m figures.data_exchange_table [SAVES] [-o PICTURE]

Accuracies (%) on the whole test set, mean over the 5 clients where each has a model; then over seeds, ± the deviation over
several; `exchange_kl` summed over clients. The published figures are read off the authors' slides, to within a point.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

import saves
from figures.on_paper import finished, panels
from figures.styles import COLOURS

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PUBLISHED = {  # digits: (decentralised, parameter server, leakage summed) for each of SHARES
    2: ((33, 57, 58, 58.5, 58.5, 58), (82, 96, 96, 95.5, 96.5, 97), (0, 0.23, 0.34, 0.43, 0.50, 0.56)),
    4: ((62, 80, 81, 81, 82, 82), (97, 98, 98, 98, 98, 98), (0, 0.09, None, None, 0.20, None)),
    6: ((82, 96, 97.5, 97, 97.5, 97.5), (98.5, 99, 99, 99, 99, 99), (0, 0.03, 0.05, 0.07, 0.085, 0.10)),
}
SETTING = {"algorithm": "data_exchange", "partition": "reference_blocks", "model": ["CNNMnist"], "rounds": 10}
SETTING |= {"n_clients": 5, "topology": "tree", "epoch_per_round": 3}
WAYS = {"reference": "de, the authors' mixing", "uniform": "de, uniform mixing", "ps": "ps"}


def cells(export_dir: Path) -> dict[tuple[int, float, str], list[saves.Run]]:
    """The runs of the grid, all seeds, by digits, share and way of averaging."""
    found = defaultdict(list)
    for run in saves.find(export_dir):
        o = run.options
        if SETTING.items() <= o.items():
            way = "ps" if o["aggr_model"] == "ps" else o["mixing"]
            if o["digit_num"] in PUBLISHED and way in WAYS:
                found[o["digit_num"], o["share_ratio"], way].append(run)
    return found


def table(found: dict) -> str:
    """A row for each number of digits and share of the grid; empty where there is no run."""
    rows = []
    for digit_num, (de, ps, leakage) in PUBLISHED.items():
        for place, share in enumerate(SHARES):
            ours = {way: found.get((digit_num, share, way), []) for way in WAYS}
            leaked = [_leaked(run) for runs in ours.values() for run in runs]
            row = {"digits": digit_num, "share": share, "de published": de[place]}
            row |= {WAYS[way]: _accuracy(ours[way]) for way in ("reference", "uniform")}
            row |= {"ps published": ps[place], "ps": _accuracy(ours["ps"])}
            kl = f"{np.mean(leaked):.3f}" if leaked else ""
            rows.append(row | {"leakage published": "" if leakage[place] is None else leakage[place], "exchange_kl": kl})
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _accuracies(runs: Sequence[saves.Run]) -> np.ndarray:
    return 100 * np.array([run.summary()["global_mean"] for run in runs])


def _accuracy(runs: Sequence[saves.Run]) -> str:
    values = _accuracies(runs)
    spread = f" ±{values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}" if len(values) else ""


def _leaked(run: saves.Run) -> float:
    return run.rounds["exchange_kl_sum"].iloc[-1]


def _images_left(run: saves.Run) -> float:
    clients = run.clients
    return clients[clients["round"] == clients["round"].max()]["images_left"].mean()


def draw(found: dict, path: Path) -> None:
    """Accuracy against the authors' figure of leakage, and against the part of its images that left a client."""
    figure, ((of_kl, of_images),) = panels(1, 2, 5.25, 3.8, sharey=True)
    lines = sorted({(digit_num, way) for digit_num, _, way in found}, key=lambda line: (list(WAYS).index(line[1]), line[0]))
    for digit_num, way in lines:
        of_line = [found[cell] for cell in sorted(found) if (cell[0], cell[2]) == (digit_num, way)]
        accuracy = [_accuracies(seeds).mean() for seeds in of_line]
        colour, dashes = COLOURS[list(PUBLISHED).index(digit_num)], ("--", "-", ":")[list(WAYS).index(way)]
        style = {
            "color": colour,
            "linestyle": dashes,
            "marker": "o",
            "markersize": 3.5,
            "label": f"{digit_num} digits, {WAYS[way]}",
        }
        of_kl.plot([np.mean([_leaked(run) for run in seeds]) for seeds in of_line], accuracy, **style)
        of_images.plot([100 * np.mean([_images_left(run) for run in seeds]) for seeds in of_line], accuracy, **style)
    of_kl.set(xlabel="exchange_kl, summed over clients", ylabel="accuracy on the whole test set (%)")
    of_images.set(xlabel="images that left a client (%), mean over clients")
    for axes in (of_kl, of_images):
        axes.grid(alpha=0.3)
    figure.legend(*of_kl.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    finished(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m figures.data_exchange_table", description=__doc__.splitlines()[0])
    parser.add_argument(
        "export_dir", nargs="?", type=Path, default=Path("saves"), metavar="SAVES", help="folder of the runs"
    )
    parser.add_argument("-o", "--output", type=Path, help="PNG or PDF of accuracy against leakage; default: no picture")
    given = parser.parse_args()
    grid = cells(given.export_dir)
    print(table(grid))
    if given.output:
        draw(grid, given.output)
