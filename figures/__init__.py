"""Tables and pictures of saved runs; nothing here reads anything but `saves` (and `plan`, what was planned).

The pictures of comparable runs are modules alike: `draw(runs, path, ...)` returns a matplotlib figure, which a notebook
shows, and writes it where there is a path; `python -m figures.MODULE RUN [RUN ...] -o PICTURE` is the same as a command.
"""

from math import ceil
from pathlib import Path

PAGE = 12  # inches that a reader sees at once


def pyplot():
    """matplotlib's pyplot, for files alone: it opens no window, and is not imported before it is needed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def panels(rows: int, columns: int, width: float, height: float, **how):
    """A figure and its axes, an array [rows, columns], each `width` x `height` inches; `how` is for `pyplot.subplots`."""
    size = (width * columns, height * rows)
    return pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", dpi=110, **how)


def tiles(n: int, width: float, height: float):
    """A figure and its n axes, each `width` x `height` inches, in rows that fit a page."""
    columns = max(1, min(n, int(PAGE / width)))
    figure, grid = panels(ceil(n / columns), columns, width, height)
    for spare in grid.flat[n:]:
        spare.remove()
    return figure, list(grid.flat[:n])


def finished(figure, path: Path | None = None):
    """The figure, written to a PNG or PDF where there is a path (by its ending), and no longer held by pyplot. Raises
    ValueError for an ending that is no picture's, OSError where the file is not to be written."""
    try:
        if path is not None:
            figure.savefig(path)
    finally:
        pyplot().close(figure)
    return figure
