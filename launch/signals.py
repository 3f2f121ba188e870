"""Stop signals, which act like Ctrl-C: they save the last finished round.

The signals are SIGTERM, which `kill` and batch systems send, and SIGHUP, which a terminal sends as it closes.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SOON = 0.05  # seconds


class Stopped(KeyboardInterrupt):
    """A signal stopped this process; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status of a stopped command: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + getattr(interrupt, "signal", signal.SIGINT)


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise Stopped for SIGTERM and SIGHUP inside this context. An ignored signal, as under `nohup`, stays ignored."""
    handlers, hook = {}, sys.unraisablehook
    if threading.current_thread() is threading.main_thread():  # only the main thread may set signal handlers
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                handlers[number] = signal.signal(number, _raise_stopped)
        sys.unraisablehook = lambda unraisable: (
            _send_again(unraisable) if isinstance(unraisable.exc_value, KeyboardInterrupt) else hook(unraisable)
        )
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise_stopped(number: int, _frame) -> None:
    signal.signal(number, signal.SIG_IGN)  # one signal is enough; a second signal would disturb the saving
    raise Stopped(number)


def _send_again(unraisable) -> None:
    """Send a signal again that arrived while Python destroyed an object: Python would print the signal and forget it."""
    number = getattr(unraisable.exc_value, "signal", signal.SIGINT)
    if number != signal.SIGINT:
        signal.signal(number, _raise_stopped)
    threading.Timer(SOON, os.kill, (os.getpid(), number)).start()
