"""To be told to stop is to be interrupted: SIGTERM, as `kill` and batch systems send it, and SIGHUP, as a terminal that is
closed sends it, save the last finished round as Ctrl-C does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """Told to stop by a signal, whose number is `signal`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status of a command that was stopped: 130 of Ctrl-C, 143 of SIGTERM, 129 of SIGHUP."""
    return 128 + getattr(interrupt, "signal", signal.SIGINT)


@contextmanager
def interrupting() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Stopped. One that is ignored, as `nohup` does, stays so."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may say what a signal does
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough, and a second one would disturb the saving
    raise Stopped(number)
