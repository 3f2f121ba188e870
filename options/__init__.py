"""The flags. `Options` holds those that every algorithm reads; an algorithm's own dataclass inherits from it, adds its own
flags and may set other defaults for shared ones. One finished, frozen Options is one run, completely described.

    @dataclass(frozen=True)
    class Options(options.Options):
        lr: float = 0.05                                                     # a shared flag with another default
        mu: float = flag(0.0, Number(float, least=0), "weight of the ... ; 0 is FedAvg")

A flag is declared where it stands, with its default, what it takes and a help text that says unit, direction and limiting
case; `parse` turns a command line into the runs that it asks for.
"""

from options.command import complete, parse
from options.shared import Averaging, Launch, Needs, Options, again, flag, flags_of, from_plain, plain
from options.values import Choice, Matching, Number, Several, nearest

__all__ = [
    "Averaging",
    "Choice",
    "Launch",
    "Matching",
    "Needs",
    "Number",
    "Options",
    "Several",
    "again",
    "complete",
    "flag",
    "flags_of",
    "from_plain",
    "nearest",
    "parse",
    "plain",
]
