"""The styles of methods: nothing in a picture looks like anything else, in grey and for colour-blind readers too."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from colorspacious import cspace_convert

from algorithms import ALGORITHMS
from figures.styles import COLOURS, MARKERS, OF_REFERENCES, SHAPES, style, styles

# How far two colours must differ on an axis of CIELAB, so that half of the readers notice it: Stone, Szafir and Setlur
# (2014), "An engineering model for color difference as a function of size". Seen from 40 cm, 5 points are 0.25 degrees.
SIZE = 0.25
LEAST = np.array([5.079 + 0.751 / SIZE, 5.339 + 1.541 / SIZE, 5.349 + 2.871 / SIZE])  # L*, a*, b*
READERS = {"normal": None, "no red cones": "protanomaly", "no green cones": "deuteranomaly"}


def lab_of(reader, colours):
    """CIELAB of colours as a reader sees them, float [N, 3]; simulated as Machado, Oliveira and Fernandes (2009) do."""
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]) / 255
    if READERS[reader]:
        space = {"name": "sRGB1+CVD", "cvd_type": READERS[reader], "severity": 100}
        rgb = np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1)
    return cspace_convert(rgb, "sRGB1", "CIELab")


def lightness(colour):
    """L* from 0 to 100, which a printer without colours keeps."""
    return lab_of("normal", [colour])[0, 0]


@pytest.mark.parametrize("reader", READERS)
def test_every_two_colours_are_noticeably_different_to_every_reader(reader):
    colours = [*COLOURS, *(colour for colour, _ in OF_REFERENCES.values())]
    lab = lab_of(reader, colours)
    confused = [(a, b) for (a, x), (b, y) in combinations(zip(colours, lab, strict=True), 2) if np.all(abs(x - y) < LEAST)]
    assert not confused


def test_neighbouring_colours_are_noticeably_different_in_grey():
    for colour, following in zip(COLOURS, (*COLOURS[1:], COLOURS[0]), strict=True):
        assert abs(lightness(colour) - lightness(following)) > LEAST[0], (colour, following)


def covered(shape):
    """Where a marker is, bool [61 * 61] over the square from -1 to 1: an odd number of edges lies to the right."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, 61) + 1e-4, np.linspace(-1, 1, 61) + 1e-4))
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(shape, (*shape[1:], shape[0]), strict=True):
        crosses = (y1 > y) != (y2 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def test_markers_have_different_shapes():
    """Of the area of two markers together, they share less than four fifths, as a circle and a square do."""
    areas = {name: covered(shape) for name, shape in SHAPES.items()}
    for a, b in combinations(areas, 2):
        assert (areas[a] & areas[b]).sum() < 0.8 * (areas[a] | areas[b]).sum(), (a, b)


def of(*names):
    return [SimpleNamespace(algorithm=name) for name in names]


def look_alike(first, other):
    """Whether only hue, or nothing, distinguishes two styles: the marker, its filling and nearly the lightness are equal."""
    near = abs(lightness(first.colour) - lightness(other.colour)) <= LEAST[0]
    return first.marker == other.marker and near


def test_all_methods_in_one_picture_are_distinct_without_their_hue():
    all_styles = styles(of(*ALGORITHMS))
    assert len(all_styles) == 29
    assert not [pair for pair in combinations(all_styles, 2) if look_alike(*pair)]
    assert {s.marker for s in all_styles} >= {"x", "star"}, "references have markers of their own"


def test_forty_eight_styles_are_distinct_without_their_hue():
    all_styles = [style(colour, row) for colour in range(12) for row in range(4)]
    assert not [pair for pair in combinations(all_styles, 2) if look_alike(*pair)]
    assert len(set(styles(of(*["fedavg"] * 48)))) == 48


def test_the_first_twelve_have_their_colour_in_every_picture_and_all_settings_come_after_the_methods():
    alone = {name: styles(of(name))[0] for name in ALGORITHMS}
    everything = dict(zip(ALGORITHMS, styles(of(*ALGORITHMS)), strict=True))
    kept = [name for name in ALGORITHMS if everything[name] == alone[name]]
    assert len({everything[name].colour for name in kept if name not in OF_REFERENCES}) == len(COLOURS) == len(MARKERS)
    assert {"fedavg", "cfkd", "fd", "fedprox", "fedbabu", "mhmd"} <= set(kept)
    *settings, other = styles(of("fedavg", "fedavg", "fedavg", "cfkd"))
    assert (settings[0], other) == (alone["fedavg"], alone["cfkd"])
    assert len({s.colour for s in (*settings, other)}) == 4


def test_the_order_of_the_groups_changes_no_style():
    names = ["fd", "cfkd", "scaffold", "independent", "fedavg"]
    forward, backward = (dict(zip(order, styles(of(*order)), strict=True)) for order in (names, names[::-1]))
    assert forward == backward
