"""The end of a command: an exit status, and after an error one line on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from errors import LostError, NoRoomError, UserError, print_no_more, refused, unmasked
from federation import scratch
from federation.pool import ignore_signals
from launch import nodes, signals
from untrusted import escape, print_escaped


def program() -> str:
    """Return the name of this command for its messages: `chorus` where Chorus is installed, else `run.py`."""
    return "chorus" if Path(sys.argv[0]).stem == "chorus" else "run.py"


@dataclass
class Ending:
    """The exit status of a command; 0 until the command or an error sets another."""

    status: int = 0


@contextmanager
def exit_status(program: str, prints: bool = True) -> Iterator[Ending]:
    """Run a command inside this context; the command sets its exit status.

    After an early end the status is 1 where the system refused something, 2 for a mistake in the command, 128 plus the
    number of the signal that stopped the command, or 3 on a node of another kind than the runs are named for. The reason is
    printed in one line, where this process `prints`. Unexpected errors are raised.
    """
    ending, message = Ending(), ""
    try:
        with unmasked(), signals.interrupting(), scratch.used():
            yield ending
        sys.stdout.flush()  # here, where a full disk still becomes a message
    except BrokenPipeError:  # the reader of the output has gone: | head
        print_no_more()
        ending.status = 1
    except KeyboardInterrupt as interrupt:
        message = "\nstopped; the same command goes on from the last finished round"
        ending.status = signals.status_of(interrupt)
    except (UserError, LostError, NoRoomError) as error:
        message, ending.status = f"{program}: {escape(error)}", _status_of(error)
    except Exception as error:
        if (reason := refused(error)) is None:
            raise
        message, ending.status = f"{program}: {escape(reason)}", 1
        print_no_more()
    if message and prints:
        with suppress(OSError):  # the terminal may be closed, or the disk full
            print_escaped(message, file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End this process. Signals do not interrupt the cleanup of Python and its libraries."""
    ignore_signals()
    sys.exit(status)


def _status_of(error: Exception) -> int:
    if isinstance(error, nodes.DeclinedError):
        return nodes.DECLINED
    return 2 if isinstance(error, UserError) else 1
