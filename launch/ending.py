"""The end of a command: an exit status, and after an error one line on standard error."""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from errors import LostError, NoRoomError, UserError, print_no_more, refused, unmasked
from federation import ranks, scratch
from federation.pool import ignore_signals
from launch import nodes, signals
from untrusted import escape, print_escaped


def program() -> str:
    """Return the name of this command for its messages: `chorus` where Chorus is installed, else `run.py`."""
    return "chorus" if Path(sys.argv[0]).stem == "chorus" else "run.py"


def with_status(program: Callable[[], str]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return a decorator for a command, a function that returns an exit status; `program()` names it in messages.

    After an early end the status is 1 where the system refused something, 2 for a mistake in the command, 128 plus the
    number of the signal that stopped the command, or 3 on a node of another kind than the runs are named for. The reason is
    printed in one line, by the first of the ranks of a torchrun. Unexpected errors are raised. (A decorator and no context:
    a signal may arrive before a context is entered, and nothing would turn it into a status.)
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def main(*args: Any) -> int:
            message = ""
            try:
                with unmasked(), signals.interrupting(), scratch.used():
                    status = command(*args)
                sys.stdout.flush()  # here, where a full disk still becomes a message
                return status
            except BrokenPipeError:  # the reader of the output has gone: | head
                print_no_more()
                return 1
            except KeyboardInterrupt as interrupt:
                message = "\nstopped; rerun the same command to resume after the last finished round"
                status = signals.status_of(interrupt)
            except (UserError, LostError, NoRoomError) as error:
                message, status = f"{program()}: {escape(error)}", _status_of(error)
            except Exception as error:
                if (reason := refused(error)) is None:
                    raise
                message, status = f"{program()}: {escape(reason)}", 1
                print_no_more()
            if ranks.rank() == 0:
                with suppress(OSError):  # the terminal may be closed, or the disk full
                    print_escaped(message, file=sys.stderr, flush=True)
            return status

        return main

    return decorate


def leave(status: int) -> NoReturn:
    """End this process. Signals do not interrupt the cleanup of Python and its libraries."""
    ignore_signals()
    sys.exit(status)


def _status_of(error: Exception) -> int:
    if isinstance(error, nodes.DeclinedError):
        return nodes.DECLINED
    return 2 if isinstance(error, UserError) else 1
