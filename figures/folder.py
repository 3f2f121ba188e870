"""The pictures that lie in a run's own folder: drawn from what the run saved, by whoever launched it."""

from figures import exchange, split
from saves import Run


def complete(run: Run) -> None:
    """Draw what a finished run's folder lacks of `split.png` and, where clients are on a graph, `graph.png` and
    `intensity.png`; with the latter its row is added to `result.xlsx` beside the folder."""
    folder = run.folder
    if not (folder / "split.png").exists():
        split.draw_one(run.arrays("split"), folder / "split.png")
    if "topology" in run.options and not (folder / "graph.png").exists():
        exchange.report(run, run.checkpoint()["state"])
