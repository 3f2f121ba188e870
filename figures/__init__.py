"""Make tables and pictures of saved runs; this package reads only `saves` (and `plan`, planned runs).

The modules for pictures of comparable runs have the same structure. `panel(...)` computes the picture as plain data
(`marks`), which `on_paper` draws with matplotlib and `report` with plotly. `draw(runs, path, ...)` returns a matplotlib
figure, which a notebook shows, and writes it if there is a path. `python -m figures.MODULE RUN [RUN ...] -o PICTURE` does
the same as a command. The page shows the last paragraph of each module's docstring as the description of the picture."""

import errors  # noqa: F401, first of all: it tells where saves/ is gone
