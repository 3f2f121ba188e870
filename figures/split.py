"""The picture of a split: how many training examples of each class every client has."""

from pathlib import Path

import numpy as np

from figures import pyplot

MAX_CLIENTS = 60  # more rows than this cannot be told apart
MANY_CLASSES = 26  # more names than this do not fit side by side


def draw(npz: Path, png: Path) -> None:
    """Draw `split.npz` of a run's folder as a map of client x class."""
    plt = pyplot()
    with np.load(npz) as saved:
        table, classes = saved["table"], saved["classes"]
    n_clients = len(table)
    shown = table[:MAX_CLIENTS]
    figure, axes = plt.subplots(
        figsize=(1.8 + min(0.55 * len(classes), 14), 1.6 + 0.32 * max(len(shown), 4)), layout="constrained", dpi=110
    )
    image = axes.imshow(shown, cmap="cividis", aspect="auto", vmin=0)
    if len(classes) <= MANY_CLASSES:
        slanted = max(map(len, classes)) > 3
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(range(len(classes)), classes, **turned)
    step = max(1, len(shown) // 20)
    axes.set_yticks(range(0, len(shown), step))
    axes.set(xlabel="class", ylabel="client")
    more = f" (the first {MAX_CLIENTS} of {n_clients} clients)" if n_clients > MAX_CLIENTS else ""
    axes.set_title(f"training examples by client and class{more}", fontsize=10)
    if shown.size <= 400:
        for (k, c), count in np.ndenumerate(shown):
            colour = "black" if count > 0.5 * shown.max() else "white"
            axes.text(c, k, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=axes, label="examples")
    figure.savefig(png, format="png")
    plt.close(figure)
