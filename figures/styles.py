"""Define style and label of methods, references, clients and classes, in every picture and on the page."""

from collections import Counter
from collections.abc import Sequence
from colorsys import hls_to_rgb

from algorithms import ALGORITHMS
from figures.groups import REFERENCES, Group, name_of
from figures.marks import Style

# Okabe and Ito's colours, which colour-blind readers can distinguish, with a dash pattern and a marker each for print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ((), (4, 1.6), (6, 1.6, 1, 1.6), (6, 1, 1, 1, 1, 1), (2, 1), (5, 1))
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
FIRST = ("fedavg", "cfkd", "fd", "fedprox", "fedbabu", "mhmd")  # often compared: distinct colours
# references are not methods, and are grey
OF_REFERENCES = {"independent": ("#000000", "x"), "centralized": ("#707070", "star")}
GREY_DASHES = ((1, 1.6), (12, 3), (1, 4), (12, 9))
# for classes: the ten colours of Petroff (2021), which colour-blind readers can distinguish
TEN = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
# for maps, light for small values: numbers in the cells stay legible, in print too
BLUES = ((0, "#f7fbff"), (0.5, "#b3cfe6"), (1, "#1f67ab"))


def styles(groups: Sequence[Group]) -> list[Style]:
    """Return a style per group.

    A method has its own style in every picture, whatever methods are beside it. If its colour is taken, the method gets
    another colour; if all colours are taken, another pattern: up to 36 styles are distinct."""
    methods = (*FIRST, *(name for name in ALGORITHMS if name not in (*FIRST, *REFERENCES)))
    n_drawn: Counter[str] = Counter()
    taken: list[int] = []
    group_styles = []
    for group in groups:
        if group.algorithm in REFERENCES:
            i = n_drawn[group.algorithm]
            n_drawn[group.algorithm] += 1
            colour, marker = OF_REFERENCES[group.algorithm]
            dash = GREY_DASHES[(REFERENCES.index(group.algorithm) + 2 * i) % len(GREY_DASHES)]
            group_styles.append(Style(colour, dash, marker))
            continue
        place = methods.index(group.algorithm) if group.algorithm in methods else len(methods)
        n = len(COLOURS)
        uses = Counter(j % n for j in taken)
        nearest = min(range(n), key=lambda colour, place=place, uses=uses: (uses[colour], (colour - place) % n))
        shift = next(row for row in range(n) if nearest + n * row not in taken) if len(taken) < n * n else 0
        taken.append(nearest + n * shift)
        pattern = (nearest + shift) % n  # the next pattern when the colours are used up
        group_styles.append(Style(COLOURS[nearest], DASHES[pattern], MARKERS[pattern]))
    return group_styles


def label(group: Group, groups: Sequence[Group]) -> str:
    """Return the label of a group, or of a part of its runs, in a legend: its name and the number of its seeds."""
    return f"{name_of(group, groups)} (n = {len(group.runs)})"


def looks(groups: Sequence[Group]) -> list[tuple[Group, Style, str]]:
    """Return each group with its style and its label."""
    return [(group, style, label(group, groups)) for group, style in zip(groups, styles(groups), strict=True)]


def of_classes(n: int) -> list[str]:
    """Return a colour per class.

    Colour-blind readers can distinguish the ten colours of up to ten classes; more colours are less distinct."""
    if n <= len(TEN):
        return list(TEN[:n])
    colours = [hls_to_rgb(0.8 * i / (n - 1), (0.35, 0.5, 0.65)[i % 3], 0.9) for i in range(n)]  # from red to violet
    return ["#" + "".join(f"{round(255 * channel):02x}" for channel in colour) for colour in colours]
