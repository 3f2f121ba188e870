"""How a command ends: with an exit status, and where something went wrong with one line on standard error."""

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
    """Return the name of the command that this process is, for its messages: `chorus` where Chorus is installed."""
    return "chorus" if Path(sys.argv[0]).stem == "chorus" else "run.py"


@dataclass
class Ending:
    """The exit status of a command, once it is known."""

    status: int = 0


@contextmanager
def told(program: str, tells: bool = True) -> Iterator[Ending]:
    """Inside, a command does its work, and sets its exit status. Where it ends early that is 1 where the system refused
    something, 2 for a mistake in the command, 128 and the number of the signal that stopped it, 3 on a node of another
    kind than the runs are named for. Why is told in a line, where this process `tells`. Unforeseen errors are raised."""
    ending, words = Ending(), ""
    try:
        with unmasked(), signals.interrupting(), scratch.used():
            yield ending
        sys.stdout.flush()  # here, where a full disk can be told
    except BrokenPipeError:  # whoever read the output has gone: | head
        print_no_more()
        ending.status = 1
    except KeyboardInterrupt as interrupt:
        words = "\nstopped; the same command goes on from the last finished round"
        ending.status = signals.status_of(interrupt)
    except (UserError, LostError, NoRoomError) as error:
        words, ending.status = f"{program}: {escape(error)}", _status(error)
    except Exception as error:
        if (why := refused(error)) is None:
            raise
        words, ending.status = f"{program}: {escape(why)}", 1
        print_no_more()
    if words and tells:
        with suppress(OSError):  # of a terminal that is closed, or of a full disk
            print_escaped(words, file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End this process. What Python and its libraries clean up then is not interrupted."""
    ignore_signals()
    sys.exit(status)


def _status(error: Exception) -> int:
    if isinstance(error, nodes.DeclinedError):
        return nodes.DECLINED
    return 2 if isinstance(error, UserError) else 1
