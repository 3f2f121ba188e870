"""Draw the pictures in a run's own folder from what the run saved, whichever process started the run."""

from functools import lru_cache
from pathlib import Path

import saves
from figures import exchange, split
from saves import Run
from untrusted import read_bytes


@lru_cache(maxsize=100)
def _picture_of(digest: str) -> list[bytes]:
    """Return a list with the picture of a split, by the digest of `split.npz`; it is empty until the split is drawn.

    A study has many runs on one split.
    """
    return []


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
    picture = _picture_of(run.digests["split.npz"])
    if picture:
        saves.written(png, lambda path: path.write_bytes(picture[0]))
    else:
        split.draw_one(run.arrays("split"), png)
        picture.append(read_bytes(png))
