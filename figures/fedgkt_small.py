"""The table of FedGKT on a small machine: python -m figures.fedgkt_small [SAVES], after figures/fedgkt_small.sh."""

import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate

import saves

SHARED = {"reduced": 0.1, "n_clients": 4, "augment": "crop_flip", "precision": "bf16", "batch_size": 64, "validation": 0.1}
LINES = (
    # what the line is called, and the options that it is found by
    ("fedgkt, 10 rounds", {"algorithm": "fedgkt", "augment_extract": "1", "rounds": 10}),
    ("ResNet-8 centrally, 10 epochs", {"algorithm": "centralized", "model": ["ResNet8"], "rounds": 10}),
    ("ResNet-8 centrally, 30 epochs", {"algorithm": "centralized", "model": ["ResNet8"], "rounds": 30}),
    ("ResNet-8 centrally, 100 epochs", {"algorithm": "centralized", "model": ["ResNet8"], "rounds": 100}),
    ("fedgkt, plain images extracted", {"algorithm": "fedgkt", "augment_extract": "0", "rounds": 10}),
    *(
        (
            f"fedavg of ResNet-56, 10 rounds of {epochs} (unconverged)",
            {"algorithm": "fedavg", "model": ["ResNet56"], "rounds": 10, "epoch_per_round": epochs},
        )
        for epochs in (1, 5)
    ),
    ("ResNet-56 centrally, 30 epochs", {"algorithm": "centralized", "model": ["ResNet56"], "rounds": 30}),
    ("ResNet-110 centrally, 30 epochs", {"algorithm": "centralized", "model": ["ResNet110"], "rounds": 30}),
)


def table(export_dir: Path) -> str:
    """A row a line, of the runs that are there."""
    runs, rows = list(saves.find(export_dir)), []
    for name, wanted in LINES:
        asked = {"dataset": "CIFAR10", **SHARED, **wanted}
        found = [
            run.summary() for run in runs if asked.items() <= {k: v for k, v in run.options.items() if k in asked}.items()
        ]
        values = 100 * np.array([summary["global_mean"] for summary in found])
        spread = f"{values.std(ddof=1):.2f}" if len(values) > 1 else ""
        sent = np.mean([summary["bytes_up"] / summary["options"]["n_clients"] for summary in found]) / 1e6 if found else 0
        if found:
            rows.append([name, len(found), f"{values.mean():.2f}", spread, f"{sent:,.1f}"])
    headers = ["", "n", "global", "std over seeds", "MB up a client, all rounds"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("saves")))
