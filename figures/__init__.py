"""Tables and pictures of saved runs; nothing here reads anything but `saves` (and `plan`, what was planned).

The pictures of comparable runs are modules alike: `draw(runs, path, ...)` returns a matplotlib figure, which a notebook
shows, and writes it where there is a path; `python -m figures.MODULE RUN [RUN ...] -o PICTURE` is the same as a command.
"""

from pathlib import Path


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


def finished(figure, path: Path | None = None):
    """The figure, written to a PNG or PDF where there is a path (by its ending), and no longer held by pyplot. Raises
    ValueError for an ending that is no picture's, OSError where the file is not to be written."""
    try:
        if path is not None:
            figure.savefig(path)
    finally:
        pyplot().close(figure)
    return figure
