"""Chorus under attack: killed, corrupted, starved, fed with strangers' files and with commands that nobody would type.

A module a part, each with `tried(seed) -> Outcome`. What takes seconds of this is a test too; the whole is `make hard`."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field


class HangsError(BaseException):
    """It takes too long. No handler of Exception keeps it."""


@contextlib.contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Raise HangsError after so many seconds inside. Of the main thread alone."""

    def late(*_):
        raise HangsError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Outcome:
    """What a part has tried: `figures` {what: how many, or in words}, as they are printed and recorded, in order;
    `failures`, a line each, which says how to repeat it."""

    figures: dict[str, int | str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, what: str, n: int = 1) -> None:
        """n more of what is counted."""
        self.figures[what] = self.figures.get(what, 0) + n
