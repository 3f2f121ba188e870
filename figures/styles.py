"""How methods, references, clients and classes look and what they are called, in every picture and on the page."""

from collections import Counter
from collections.abc import Sequence
from colorsys import hls_to_rgb

from algorithms import ALGORITHMS
from figures.groups import REFERENCES, Group, name_of
from figures.marks import Style

# Okabe and Ito's colours, told apart by colour-blind readers, with a dash pattern and a marker each for print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ((), (4, 1.6), (6, 1.6, 1, 1.6), (6, 1, 1, 1, 1, 1), (2, 1), (5, 1))
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
FIRST = ("fedavg", "cfkd", "fd", "fedprox", "fedbabu", "mhmd")  # often side by side: a colour each
# references are no methods, and have no colour
OF_REFERENCES = {"independent": ("#000000", "x"), "centralized": ("#707070", "star")}
GREY_DASHES = ((1, 1.6), (12, 3), (1, 4), (12, 9))
# of classes, told apart by colour-blind readers: the ten of Petroff (2021)
TEN = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
# of maps, light for few: numbers in the cells stay legible, in print too
BLUES = ((0, "#f7fbff"), (0.5, "#b3cfe6"), (1, "#1f67ab"))


def styles(found: Sequence[Group]) -> list[Style]:
    """A style a group. A method has its own in every picture, whatever stands beside it; where its colour is taken it has
    another, and where all are a pattern of its own: up to 36 are told apart."""
    methods = (*FIRST, *(name for name in ALGORITHMS if name not in (*FIRST, *REFERENCES)))
    seen: Counter[str] = Counter()
    taken: list[int] = []
    told = []
    for group in found:
        if group.algorithm in REFERENCES:
            i = seen[group.algorithm]
            seen[group.algorithm] += 1
            colour, marker = OF_REFERENCES[group.algorithm]
            dash = GREY_DASHES[(REFERENCES.index(group.algorithm) + 2 * i) % len(GREY_DASHES)]
            told.append(Style(colour, dash, marker))
            continue
        place = methods.index(group.algorithm) if group.algorithm in methods else len(methods)
        n = len(COLOURS)
        uses = Counter(j % n for j in taken)
        nearest = min(range(n), key=lambda colour, place=place, uses=uses: (uses[colour], (colour - place) % n))
        shift = next(row for row in range(n) if nearest + n * row not in taken) if len(taken) < n * n else 0
        taken.append(nearest + n * shift)
        pattern = (nearest + shift) % n  # the next pattern when the colours are used up
        told.append(Style(COLOURS[nearest], DASHES[pattern], MARKERS[pattern]))
    return told


def label(group: Group, found: Sequence[Group]) -> str:
    """What one of these groups, or a part of its runs, is called in a legend: its name and the number of its seeds."""
    return f"{name_of(group, found)} (n = {len(group.runs)})"


def looks(found: Sequence[Group]) -> list[tuple[Group, Style, str]]:
    """Each group with its style and its label."""
    return [(group, style, label(group, found)) for group, style in zip(found, styles(found), strict=True)]


def of_classes(n: int) -> list[str]:
    """A colour a class: ten that are told apart by colour-blind readers, or as many as it takes, less well."""
    if n <= len(TEN):
        return list(TEN[:n])
    parts = [hls_to_rgb(0.8 * i / (n - 1), (0.35, 0.5, 0.65)[i % 3], 0.9) for i in range(n)]  # from red to violet
    return ["#" + "".join(f"{round(255 * part):02x}" for part in of_class) for of_class in parts]
