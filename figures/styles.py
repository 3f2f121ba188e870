"""Define style and label of methods, references, clients and classes, in every picture and on the page."""

from collections import Counter
from collections.abc import Sequence
from colorsys import hls_to_rgb
from math import cos, pi, sin
from typing import NamedTuple

from algorithms import ALGORITHMS
from figures.groups import REFERENCES, Group, name_of
from figures.marks import Style

# Six of Okabe and Ito's colours (two of them a little changed) and six more. Any two are noticeably different at the size
# of a marker, for readers with protanopia or deuteranopia too. Dark and light alternate, so that neighbours differ in grey,
# and so does each colour from the sixth after it, which shares its marker.
COLOURS = ("#006AA8", "#D55E00", "#6A1B9A", "#009E73", "#A51C30", "#D382AF")
COLOURS += ("#5C3A00", "#56B4E9", "#131A66", "#E69F00", "#4B5FE0", "#B5CC6A")
QUADRANTS = ((1, 1), (-1, 1), (-1, -1), (1, -1))
DASHES = ((), (4, 1.6), (6, 1.6, 1, 1.6), (6, 1, 1, 1, 1, 1), (2, 1), (5, 1))
SHAPES = {  # of markers, named as in plotly: corners (x, y), from -1 to 1
    "circle": tuple((cos(pi * i / 12), sin(pi * i / 12)) for i in range(24)),
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle-up": ((-1, -0.8), (1, -0.8), (0, 1)),
    "diamond": ((-1, 0), (0, -1), (1, 0), (0, 1)),
    "triangle-down": ((-1, 0.8), (0, -1), (1, 0.8)),
    "cross": tuple((x * i, y * j) for i, j in QUADRANTS for x, y in ((1, 0.4), (0.4, 0.4), (0.4, 1))[:: i * j]),
    "hourglass": ((-0.9, -1), (0.9, -1), (-0.9, 1), (0.9, 1)),
    "triangle-left": ((-1, 0), (0.8, -1), (0.8, 1)),
    "star-diamond": ((-1, 0), (-0.25, -0.25), (0, -1), (0.25, -0.25), (1, 0), (0.25, 0.25), (0, 1), (-0.25, 0.25)),
    "triangle-right": ((1, 0), (-0.8, 1), (-0.8, -1)),
    "bowtie": ((-1, -0.9), (-1, 0.9), (1, -0.9), (1, 0.9)),
    "diamond-tall": ((-0.5, 0), (0, -1), (0.5, 0), (0, 1)),
}
MARKERS = tuple(SHAPES)  # of methods
FIRST = ("fedavg", "cfkd", "fd", "fedprox", "fedbabu", "mhmd")  # often compared: distinct colours
# references are not methods: grey, with markers that no method has
SHAPES |= {
    "x": tuple((x * i, y * j) for i, j in QUADRANTS for x, y in ((0.4, 0), (1, 0.6), (0.6, 1), (0, 0.4))[:: i * j]),
    "star": tuple((r * sin(pi * i / 5), r * cos(pi * i / 5)) for i, r in zip(range(10), 5 * (1, 0.45), strict=True)),
}
OF_REFERENCES = {"independent": ("#000000", "x"), "centralized": ("#707070", "star")}
GREY_DASHES = ((1, 1.6), (12, 3), (1, 4), (12, 9))
# for classes: the ten colours of Petroff (2021), which colour-blind readers can distinguish
TEN = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
# for maps, light for small values: numbers in the cells stay legible, in print too
BLUES = ((0, "#f7fbff"), (0.5, "#b3cfe6"), (1, "#1f67ab"))


def styles(groups: Sequence[Group]) -> list[Style]:
    """Return a style per group; the first 48 methods or settings have distinct styles.

    The first twelve of `FIRST` and `ALGORITHMS` have their own colour and marker in every picture. Other methods have the
    nearest colour that the picture uses least, with another marker."""
    methods = (*FIRST, *(name for name in ALGORITHMS if name not in (*FIRST, *REFERENCES)))
    algorithms, n = [group.algorithm for group in groups], len(COLOURS)
    places = [methods.index(name) if name in methods else len(methods) for name in algorithms]
    n_drawn: Counter[int | str] = Counter()  # by colour, and by reference
    group_styles: dict[int, Style] = {}
    # the first setting of each method before all other settings
    for i in sorted(range(len(groups)), key=lambda i: (algorithms[:i].count(algorithms[i]), places[i])):
        if (name := algorithms[i]) in REFERENCES:
            colour, marker = OF_REFERENCES[name]
            dash = GREY_DASHES[(REFERENCES.index(name) + 2 * n_drawn[name]) % len(GREY_DASHES)]
            group_styles[i] = Style(colour, dash, marker)
            n_drawn[name] += 1
        else:
            nearest = min(range(n), key=lambda colour, place=places[i]: (n_drawn[colour], (colour - place) % n))
            group_styles[i] = style(nearest, n_drawn[nearest])
            n_drawn[nearest] += 1
    return [group_styles[i] for i in range(len(groups))]


def style(colour: int, row: int) -> Style:
    """Return one of the four styles of a colour, the place of one of COLOURS.

    Odd rows have open markers. Two styles with the same marker, filled or open, differ in their lightness."""
    marker = MARKERS[(colour + 6 * (row // 2) + 5 * (row % 2)) % len(MARKERS)]
    return Style(COLOURS[colour], DASHES[(colour + row) % len(DASHES)], marker + "-open" * (row % 2))


def label(group: Group, groups: Sequence[Group]) -> str:
    """Return the label of a group, or of a part of its runs, in a legend: its name and the number of its seeds."""
    return f"{name_of(group, groups)} (n = {len(group.runs)})"


class Look(NamedTuple):
    """Hold a group with its style and its label in the legend."""

    group: Group
    style: Style
    label: str


def looks(groups: Sequence[Group], by: Sequence[str] = ()) -> list[Look]:
    """Return each group with its style and its label.

    Groups that differ only in the options `by` have the same style and label, which has the numbers of their seeds."""
    names = [name_of(group, groups, by) for group in groups]
    same_name: dict[str, list[Group]] = {}
    for name, group in zip(names, groups, strict=True):
        same_name.setdefault(name, []).append(group)
    style_of = dict(zip(same_name, styles([first for first, *_ in same_name.values()]), strict=True))
    n_seeds = {name: {len(group.runs) for group in members} for name, members in same_name.items()}
    labels = {name: f"{name} (n = {' to '.join(map(str, sorted({min(n), max(n)})))})" for name, n in n_seeds.items()}
    return [Look(group, style_of[name], labels[name]) for group, name in zip(groups, names, strict=True)]


def of_classes(n: int) -> list[str]:
    """Return a colour per class.

    Colour-blind readers can distinguish the ten colours of up to ten classes; more colours are less distinct."""
    if n <= len(TEN):
        return list(TEN[:n])
    colours = [hls_to_rgb(0.8 * i / (n - 1), (0.35, 0.5, 0.65)[i % 3], 0.9) for i in range(n)]  # from red to violet
    return ["#" + "".join(f"{round(255 * channel):02x}" for channel in colour) for colour in colours]
