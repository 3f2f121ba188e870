"""What a flag takes: a function from text to a value, which raises ValueError, and in words says what is allowed."""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGEST = {int: 2**63 - 1, float: 3.4e38}  # what a tensor's index and a single-precision number can hold


@dataclass(frozen=True)
class Number:
    """A whole number (`type` int) or any number (float) within bounds; infinity only where `infinite`."""

    type: type
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    infinite: bool = False
    words: tuple[str, ...] = ()  # other values that are allowed, such as "auto"

    def __call__(self, text: str) -> int | float | str:
        if text in self.words:
            return text
        value = self.type(text)
        if not math.isinf(value) and abs(value) > LARGEST[self.type]:
            raise ValueError("; too large")
        inside = self.least <= value <= self.most and self.above < value < self.below
        if not (inside or (self.infinite and value == math.inf)) or (math.isinf(value) and not self.infinite):
            raise ValueError
        return value

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", self.most),
                ("below", self.below),
            )
            if math.isfinite(bound)
        ]
        kind = "a whole number" if self.type is int else "a number"
        return " or ".join([" ".join([kind, " and ".join(bounds)]).strip(), *(["inf"] * self.infinite), *self.words])


@dataclass(frozen=True)
class Choice:
    """One of some names, in any case; `also` are other systems' words for them. Where `paths` says in words what else may
    be given, text that is a path is taken as it is."""

    names: tuple[str, ...]
    also: Mapping[str, str] = field(default_factory=dict)
    paths: str = ""

    def __call__(self, text: str) -> str:
        if text in self.names:
            return text
        found = {**{name.lower(): name for name in self.names}, **self.also}.get(text.lower())
        if found:
            return found
        if self.paths and ("/" in text or text.endswith(".npz") or Path(text).exists()):
            return text
        raise ValueError(nearest(text, self.names))

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}{f', or {self.paths}' if self.paths else ''}"


@dataclass(frozen=True)
class Matching:
    """Text of one form, described in words."""

    pattern: str
    words: str

    def __call__(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Several:
    """Values joined by commas, kept together as one value: a tuple."""

    of: Callable[[str], Any]

    def __call__(self, text: str) -> tuple:
        return tuple(self.of(part) for part in text.split(","))

    def __str__(self) -> str:
        return f"{self.of}, or several joined by commas"


def nearest(text: str, names: Sequence[str]) -> str:
    """ "; did you mean X?" for the name most like `text`, or nothing."""
    lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(text.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean {lower[found[0]]}?" if found else ""
