"""What runs leak: the best result of the attacks on each run (`python -m attacks`, docs/privacy.md)."""

from collections.abc import Sequence

import numpy as np

from saves import Run

LESS = {"wire": ("wire",), "own_client": ("wire", "own_client"), "network": ("wire", "network")}  # who knows more can do all


def leaked(runs: Sequence[Run], quantity: str, view: str = "sent", knows: str = "wire") -> np.ndarray | None:
    """Return the best result of any attack per run, fractions of 1; None where a run was not attacked in this way.

    `quantity`: "exposed" or "label_mix". `view`: "sent" or "published". A run without an applicable attack leaks 0. A label
    mix that cannot be judged, since all clients have the public mix, is NaN."""
    values = [_of_run(run, quantity, view, knows) for run in runs]
    return None if None in values else np.array(values, dtype=float)


def _of_run(run: Run, quantity: str, view: str, knows: str) -> float | None:
    results = {tuple(key.split()): result for key, result in run.leakage().items()}
    if not any(key[:2] == (view, knows) for key in results):
        return None
    values = [
        np.nan if result[quantity] is None else float(result[quantity])
        for key, result in results.items()
        if key[0] == view and key[1] in LESS[knows] and quantity in result
    ]
    return max([0.0, *values]) if not np.isnan(values).all() or not values else np.nan
