"""Draw the pictures in a run's own folder from what the run saved, whichever process started the run."""

from figures import exchange, split
from saves import Run


def complete(run: Run) -> None:
    """Draw the missing pictures of a finished run's folder: `split.png`; on a graph also `graph.png` and `intensity.png`.

    With the latter two, the run's row is added to `result.xlsx` beside the folder."""
    folder = run.folder
    if not (folder / "split.png").exists():
        split.draw_one(run.arrays("split"), folder / "split.png")
    if "topology" in run.options and not (folder / "graph.png").exists():
        exchange.report(run, run.checkpoint()["state"])
