"""What Chorus says when it cannot go on: one clear line, never a traceback."""


class UserError(Exception):
    """A flag, a file or a data set is wrong: its text is the one line that a user reads, naming the flag, the value and
    what is allowed. `run.py` prints it and exits with 2, before anything was trained or written."""


class DivergedError(Exception):
    """A training loss became NaN or infinite; its text says where. `run.py` prints it and goes on with the next run."""
