"""Draw the pictures in a run's own folder from what the run saved, whichever process started the run."""

from pathlib import Path

import saves
from figures import exchange, split
from saves import Run
from untrusted import read_bytes

KEPT = 100  # pictures of splits that a process keeps
_pictures: dict[str, bytes] = {}  # by the digest of `split.npz`: a study has many runs on one split


def complete(run: Run) -> None:
    """Draw the missing pictures of a finished run's folder: `split.png`; on a graph also `graph.png` and `intensity.png`.

    With the latter two, the run's row is added to `result.xlsx` beside the folder."""
    folder = run.folder
    if not (folder / "split.png").exists():
        _draw_split(run, folder / "split.png")
    if "topology" in run.options and not (folder / "graph.png").exists():
        exchange.report(run, run.checkpoint()["state"])


def _draw_split(run: Run, png: Path) -> None:
    """Draw the split of a run, or write the picture of the same split again."""
    digest = run.digests["split.npz"]
    if digest in _pictures:
        saves.written(png, lambda path: path.write_bytes(_pictures[digest]))
        return
    split.draw_one(run.arrays("split"), png)
    if len(_pictures) == KEPT:
        _pictures.clear()
    _pictures[digest] = read_bytes(png)
