"""To be told to stop is to be interrupted: SIGTERM, as `kill` and batch systems send it, and SIGHUP, as a terminal that is
closed sends it, save the last finished round as Ctrl-C does."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SOON = 0.05  # seconds


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
    before, hook = {}, sys.unraisablehook
    if threading.current_thread() is threading.main_thread():  # no other may say what a signal does
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _stop)
        sys.unraisablehook = lambda lost: _again(lost) if isinstance(lost.exc_value, KeyboardInterrupt) else hook(lost)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough, and a second one would disturb the saving
    raise Stopped(number)


def _again(lost) -> None:
    """A signal that comes while Python throws an object away would be printed, and forgotten: it is sent once more."""
    number = getattr(lost.exc_value, "signal", signal.SIGINT)
    if number != signal.SIGINT:
        signal.signal(number, _stop)
    threading.Timer(SOON, os.kill, (os.getpid(), number)).start()
