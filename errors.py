"""What Chorus says when it cannot go on: one clear line, never a traceback."""

import sys
from pathlib import Path

for _room in ("data", "saves"):  # what is downloaded and what is run lies there beside code, and may be removed with it
    if not Path(__file__).with_name(_room).joinpath("__init__.py").exists():
        print(f"{_room}/ is gone, and with it code of Chorus; git checkout {_room} brings that back", file=sys.stderr)
        sys.exit(2)


class UserError(Exception):
    """A flag, a file or a data set is wrong: its text is the one line that a user reads, naming the flag, the value and
    what is allowed. `run.py` prints it and exits with 2, before anything was trained or written."""


class LostError(Exception):
    """A process that takes part in a run has failed or is gone: its text says which. The last finished round is saved, from
    which the same command goes on."""


class DivergedError(Exception):
    """A training loss became NaN or infinite; its text says where. `run.py` prints it and goes on with the next run."""


def reason_of(error: BaseException) -> str:
    """In one line, why a run failed."""
    words, said = " ".join(str(error).split()), isinstance(error, UserError | DivergedError | LostError)
    return words if said else f"{type(error).__name__}: {words}".removesuffix(": ")
