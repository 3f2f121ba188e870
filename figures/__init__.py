"""Tables and pictures of saved runs; nothing here reads anything but `saves` (and `plan`, what was planned).

The pictures of comparable runs are modules alike: `panel(...)` works out what is shown, as plain data (`marks`), which
`on_paper` draws with matplotlib and `report` with plotly; `draw(runs, path, ...)` returns a matplotlib figure, which a
notebook shows, and writes it where there is a path; `python -m figures.MODULE RUN [RUN ...] -o PICTURE` is the same as a
command. The last paragraph of each docstring tells readers of the page, too, what they see.
"""

import errors  # noqa: F401, first of all: it tells where saves/ is gone
