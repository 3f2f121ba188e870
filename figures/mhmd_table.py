"""The published grid of MHMD beside saved runs: python -m figures.mhmd_table [SAVES], after figures/mhmd_table.sh.

Personal accuracy (%) after 5 epochs of fine-tuning, mean and standard deviation over the 100 clients. The published MHMD
and the published others come from two code bases with different BatchNorms; ours are one.
"""

import sys
from pathlib import Path

from tabulate import tabulate

import saves

ALGORITHMS = ("mhmd", "fedbabu", "fedavg", "fedper", "lg_fedavg")
PUBLISHED = {  # (s, f, tau): in the order of ALGORITHMS, the first two with their deviation
    (100, 1.0, 1): ("66.70 ±4.86", "55.79 ±4.57", "51.93", "51.95", "53.01"),
    (100, 1.0, 4): ("58.99 ±4.87", "44.49 ±4.91", "42.66", "40.87", "43.09"),
    (100, 1.0, 10): ("49.34 ±4.99", "33.20 ±4.54", "34.62", "32.91", "34.64"),
    (100, 0.1, 1): ("61.87 ±5.12", "49.67 ±4.92", "43.92", "45.17", "40.91"),
    (100, 0.1, 4): ("54.69 ±5.06", "44.74 ±5.10", "39.67", "39.30", "37.87"),
    (100, 0.1, 10): ("46.89 ±4.93", "35.94 ±5.06", "33.13", "32.08", "30.08"),
    (50, 1.0, 1): ("65.73 ±4.93", "61.09 ±4.91", "57.84", "57.16", "58.44"),
    (50, 1.0, 4): ("64.21 ±5.14", "51.56 ±5.04", "47.17", "48.89", "47.78"),
    (50, 1.0, 10): ("58.19 ±5.30", "42.09 ±5.12", "40.59", "39.90", "40.32"),
    (50, 0.1, 1): ("66.15 ±5.19", "56.69 ±5.16", "49.55", "51.63", "42.64"),
    (50, 0.1, 4): ("62.47 ±5.10", "49.55 ±5.58", "43.63", "46.31", "38.54"),
    (50, 0.1, 10): ("55.09 ±5.37", "42.63 ±5.59", "38.09", "39.81", "30.79"),
    (10, 1.0, 1): ("83.23 ±5.95", "79.17 ±6.51", "77.46", "74.71", "77.49"),
    (10, 1.0, 4): ("76.22 ±6.53", "74.60 ±6.69", "70.41", "65.61", "69.97"),
    (10, 1.0, 10): ("68.77 ±7.09", "66.64 ±6.84", "63.51", "59.71", "61.50"),
    (10, 0.1, 1): ("80.51 ±5.79", "76.02 ±6.29", "71.24", "69.36", "51.75"),
    (10, 0.1, 4): ("71.05 ±6.58", "71.00 ±6.63", "67.14", "62.62", "35.80"),
    (10, 0.1, 10): ("68.13 ±6.10", "66.32 ±7.02", "62.67", "59.50", "25.04"),
}


def table(export_dir: Path) -> str:
    """A row a cell of the grid, published and ours; empty where there is no run."""
    ours = {}
    for run in saves.find(export_dir):
        o, summary = run.options, run.summary()
        if (o["dataset"], o["model"], o["ft_epochs"], o["n_clients"]) == ("CIFAR100", ["MobileNet"], 5, 100):
            cell = (o["shard_per_user"], o["participation"], o["epoch_per_round"], o["algorithm"])
            ours[cell] = f"{100 * summary['tuned_mean']:.2f} ±{100 * summary['tuned_std_clients']:.2f}"
    rows = []
    for cell, published in PUBLISHED.items():
        pairs = zip(ALGORITHMS, published, strict=True)
        rows.append([*cell, *(text for name, text_of in pairs for text in (text_of, ours.get((*cell, name), "")))])
    headers = ["s", "f", "tau", *(f"{name} {whose}" for name in ALGORITHMS for whose in ("published", "ours"))]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("saves")))
