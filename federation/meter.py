"""What the parties spend, counted where they spend it: steps, examples, floating point operations, seconds."""

import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode


class Meter:
    """Counts since `clear` was last called. `spent`: {(what, party, client): how many} of "steps", "samples" and "flops",
    which repeat when a run is repeated; `seconds`: {(phase, party): seconds}, which do not."""

    def __init__(self) -> None:
        self.spent: Counter[tuple[str, str, int]] = Counter()
        self.seconds: Counter[tuple[str, str]] = Counter()
        self._flops: dict[Hashable, int] = {}

    def now(self) -> float:
        """Seconds on this meter's clock, of which only differences mean anything."""
        return time.perf_counter()

    def work(self, do: Callable[[], Any], party: str, client: int, kind: Hashable) -> Any:
        """do(), whose floating point operations are counted: those of matrix products and convolutions, forward and
        backward, a multiply-add being two.

        torch counts them where work of this `kind` is done for the first time; the kind says all that their number depends
        on, such as the size of the batch. What is known is added, and not watched again.
        """
        done = self._done(do, kind)
        self.spent["flops", party, client] += self._flops[kind]
        return done

    def clear(self) -> None:
        """Begin anew with all counts; what is known of a kind of work stays known."""
        self.spent.clear()
        self.seconds.clear()

    def _done(self, do: Callable[[], Any], kind: Hashable) -> Any:
        if kind in self._flops:
            return do()
        with FlopCounterMode(display=False) as counter:
            done = do()
        self._flops[kind] = counter.get_total_flops()
        return done
