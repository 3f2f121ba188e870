"""The flags. `Options` holds those that every algorithm reads; an algorithm's own dataclass inherits from it, adds its own
flags and may set other defaults for shared ones. One finished, frozen Options is one run, completely described.

    @dataclass(frozen=True)
    class Options(options.Options):
        lr: float = 0.05                                                     # a shared flag with another default
        mu: float = flag(0.0, Number(float, least=0), "weight of the ... ; 0 is FedAvg")

A flag is declared where it stands, with its default, what it takes and a help text that says unit, direction and limiting
case; `parse` turns a command line into the runs that it asks for.
"""

import argparse
import difflib
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from data.datasets import LOADERS
from data.partition import PARTITIONS, READ_ALPHA, READ_SIZES
from errors import UserError
from models import MODELS, READ_FEATURE_DIM

# --- what a flag takes -------------------------------------------------------------------------------------------------


LARGEST = {int: 2**63 - 1, float: 3.4e38}  # what a tensor's index and a single-precision number can hold


@dataclass(frozen=True)
class Number:
    """A whole number (`type` int) or any number (float) within bounds; infinity only where `infinite`."""

    type: type
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    infinite: bool = False
    words: tuple[str, ...] = ()  # other values that are allowed, such as "auto"

    def __call__(self, text: str) -> int | float | str:
        if text in self.words:
            return text
        value = self.type(text)
        if not math.isinf(value) and abs(value) > LARGEST[self.type]:
            raise ValueError("; too large")
        inside = self.least <= value <= self.most and self.above < value < self.below
        if not (inside or (self.infinite and value == math.inf)) or (math.isinf(value) and not self.infinite):
            raise ValueError
        return value

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", self.most),
                ("below", self.below),
            )
            if math.isfinite(bound)
        ]
        kind = "a whole number" if self.type is int else "a number"
        return " or ".join([" ".join([kind, " and ".join(bounds)]).strip(), *(["inf"] * self.infinite), *self.words])


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text not in self.names:
            raise ValueError(nearest(text, self.names))
        return text

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Matching:
    """Text of one form, described in words."""

    pattern: str
    words: str

    def __call__(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Several:
    """Values joined by commas, kept together as one value: a tuple."""

    of: Callable[[str], Any]

    def __call__(self, text: str) -> tuple:
        return tuple(self.of(part) for part in text.split(","))

    def __str__(self) -> str:
        return f"{self.of}, or several joined by commas"


def nearest(text: str, names: Sequence[str]) -> str:
    """ "; did you mean X?" for the name most like `text`, or nothing."""
    lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(text.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean {lower[found[0]]}?" if found else ""


@dataclass(frozen=True)
class Needs:
    """When a flag is read at all: said in its help, and an error where it is given in vain."""

    words: str
    holds: Callable[[Any], bool]


def flag(
    default: Any,
    takes: Callable[[str], Any] | None,
    help: str,
    needs: Needs | None = None,
    stands_for: Mapping | None = None,
) -> Any:
    """A dataclass field that is a flag. `takes` None is a switch, off by default, that takes no value; `stands_for` are
    the values of other flags that a switch stands for, which must not be given otherwise beside it."""
    return field(default=default, metadata={"takes": takes, "help": help, "needs": needs, "stands_for": stands_for or {}})


# --- the shared flags --------------------------------------------------------------------------------------------------


def _model(options) -> bool:
    return bool(set(options.model) & set(READ_FEATURE_DIM))


@dataclass(frozen=True)
class Options:
    """One run: the algorithm and every flag that can change a number. All of it is hashed into the run's name."""

    algorithm: str = ""

    dataset: str = flag("digits", Choice(tuple(LOADERS)), "data set; digits is embedded, others are downloaded if absent")
    reduced: float = flag(1.0, Number(float, above=0, most=1), "part of the training set that is kept; 1 is all of it")
    reduced_draw: str = flag(
        "first",
        Choice(("first", "random")),
        "which part --reduced keeps: the first images of the file or a random draw (from --split_seed)",
        Needs("--reduced below 1", lambda o: o.reduced < 1),
    )
    n_clients: int = flag(2, Number(int, least=1), "number of clients K")
    sizes: tuple[float, ...] | None = flag(
        None,
        Several(Number(float, above=0, most=1)),
        "fraction of the data for each client, one for each, adding up to at most 1 (0.7,0.2,0.1); default: equal parts",
        Needs(f"--partition {' or '.join(READ_SIZES)}", lambda o: o.partition in READ_SIZES),
    )
    partition: str = flag(
        "dirichlet",
        Choice(tuple(PARTITIONS)),
        "who gets what: dirichlet draws each client's class mix, lda deals each class over the clients, iid shuffles",
    )
    alpha: float = flag(
        math.inf,
        Number(float, above=0, infinite=True),
        "Dirichlet concentration: smaller is more heterogeneous; inf is every client with the class mix of the whole",
        Needs(f"--partition {' or '.join(READ_ALPHA)}", lambda o: o.partition in READ_ALPHA),
    )
    validation: float = flag(
        0.0, Number(float, least=0, below=1), "part of each client's training data held out for validation; 0 is none"
    )
    split_seed: int = flag(0, Number(int, least=0), "seed of the split alone: of --reduced_draw, --partition, --validation")

    model: tuple[str, ...] = flag(
        ("LeNet5",),
        Several(Choice(tuple(MODELS))),
        "architecture; LeNet5,ResNet9 is a mixed federation, dealt to the clients in turn",
    )
    feature_dim: int = flag(
        100,
        Number(int, least=1, most=65_536),
        "dimension of the features",
        Needs(f"--model {' or '.join(READ_FEATURE_DIM)} (the others have their own)", _model),
    )

    rounds: int = flag(100, Number(int, least=1), "communication rounds")
    epoch_per_round: int = flag(1, Number(int, least=1), "local epochs a round")
    batch_size: int = flag(32, Number(int, least=1), "examples in a batch")
    lr: float = flag(1e-3, Number(float, above=0), "learning rate")
    optimizer: str = flag("adam", Choice(("adam", "sgd")), "local optimizer")
    momentum: float = flag(
        0.0,
        Number(float, least=0, below=1),
        "momentum; 0 is plain SGD",
        Needs("--optimizer sgd", lambda o: o.optimizer == "sgd"),
    )
    weight_decay: float = flag(0.0, Number(float, least=0), "L2 penalty, added to the gradient; 0 is none")
    participation: float = flag(
        1.0, Number(float, above=0, most=1), "fraction of the clients that take part in a round, at least one; 1 is all"
    )
    track_history: int = flag(
        1, Number(int, least=0), "rounds from one evaluation to the next; 0 evaluates after the last round only"
    )

    seed: int = flag(0, Number(int, least=0), "seed of all but the split: initial weights, batches, sampling")
    device: str = flag(
        "auto",
        Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"),
        "where to compute; auto is cuda if there",
    )
    threads: int | str = flag(
        "auto",
        Number(int, least=1, most=1024, words=("auto",)),
        "processor threads to evaluate, and to train one model (centralized); a client trains with one; auto is all cores",
    )


@dataclass(frozen=True)
class Launch:
    """Where runs are read and written and what is shown: flags that change no number, and so no run's name."""

    data_dir: Path = flag(Path("data"), Path, "folder of the data sets")
    export_dir: Path = flag(Path("saves"), Path, "folder of the runs, one folder each")
    force: bool = flag(False, None, "run anew even where a finished run is saved")
    json: bool = flag(False, None, "one line of JSON a finished run on standard output, and nothing else there")
    quiet: bool = flag(False, None, "no progress bar, no split, only the table")


def flags_of(cls: type) -> dict[str, dict]:
    """{flag: {"takes", "help", "needs", "default"}} of an Options class, an overridden default keeping its help."""
    found = {}
    for f in fields(cls):
        declared = next(
            (
                base.__dataclass_fields__[f.name].metadata
                for base in cls.__mro__
                if f.name in getattr(base, "__dataclass_fields__", {}) and base.__dataclass_fields__[f.name].metadata
            ),
            None,
        )
        if declared:
            found[f.name] = {**declared, "default": f.default}
    return found


# --- from the command line to runs -------------------------------------------------------------------------------------


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=118)

    def _format_args(self, action, default_metavar) -> str:
        return "" if action.nargs == 0 else default_metavar


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"argument (--\w+): expected at least one argument", r"\1: a value is missing", message)
        message = re.sub(r"argument (--\w+): ignored explicit argument '(.*)'", r"\1=\2: \1 takes no value", message)
        message = re.sub(r"unrecognized arguments: (.*)", r"\1: belongs to no flag (algorithms come first)", message)
        raise UserError(message)


def parse(argv: Sequence[str], algorithms: Mapping[str, type[Options]], describe: Mapping[str, str]):
    """A command line -> (runs, launch, notes).

    `algorithms`: name -> its Options class; `describe`: name -> one line for the help. Runs are every combination of the
    values given, algorithm by algorithm: a list of Options, checked each by itself. `notes` are lines worth telling.
    Raises UserError; `-h` prints the help and exits.
    """
    argv = list(argv)
    n_names = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    names = argv[:n_names] or ["cfkd"]
    for name in names:
        if name not in algorithms:
            raise UserError(f"algorithm {name}: must be one of {', '.join(algorithms)}{nearest(name, list(algorithms))}")
    names = list(dict.fromkeys(names))
    shared, launching = flags_of(Options), flags_of(Launch)
    owned = {name: {f: d for f, d in flags_of(algorithms[name]).items() if f not in shared} for name in names}

    alone = len(names) == 1
    parser = _parser(names if argv[:n_names] else list(algorithms), describe)
    common = parser.add_argument_group("flags of every algorithm (several values are a grid of runs)")
    defaults = flags_of(algorithms[names[0]]) if alone else shared
    for name in shared:
        _add(common, name, defaults[name])
    for algorithm, own in owned.items():
        group = parser.add_argument_group(f"flags of {algorithm} ({describe[algorithm]})")
        for name, declared in own.items():
            if f"--{name}" not in parser._option_string_actions:
                _add(group, name, declared)
    group = parser.add_argument_group("where and how to run (these change no number)")
    for name, declared in launching.items():
        _add(group, name, declared)

    _reject_strange_flags(argv[n_names:], parser, algorithms)
    # argparse takes -1e-3 for a flag; a blank before it makes it a value
    given = vars(parser.parse_args([f" {word}" if _is_number(word) else word for word in argv[n_names:]]))
    declared = {**launching, **shared, **{f: d for own in owned.values() for f, d in own.items()}}
    values = {name: _values(name, texts, declared[name]["takes"], algorithms) for name, texts in given.items()}
    for name in launching:
        if len(values.get(name, [])) > 1:
            raise UserError(f"--{name}: takes one value, got {len(values[name])}")
    launch = Launch(**{name: values.pop(name)[0] for name in launching if name in values})

    runs, in_use = [], set()
    for name in names:
        cls = algorithms[name]
        readable = {f: v for f, v in values.items() if f in flags_of(cls)}
        start = {} if alone else {f: d["default"] for f, d in shared.items()}
        for combination in itertools.product(*readable.values()):
            chosen = dict(zip(readable, combination, strict=True))
            candidate = cls(**{**start, **chosen, "algorithm": name})
            idle = {f for f in chosen if (needs := flags_of(cls)[f]["needs"]) and not needs.holds(candidate)}
            _consistent(chosen, flags_of(cls))
            in_use |= chosen.keys() - idle
            used = {f: v for f, v in chosen.items() if f not in idle}
            run = cls(**{**start, **used, "algorithm": name})
            if run not in runs:
                runs.append(run)
    for name, given_values in values.items():
        if name not in in_use:
            raise UserError(f"--{name} {_shown(given_values)}: read only with {declared[name]['needs'].words}")
    for run in runs:
        _check(run)
    return runs, launch, _notes(names, values, algorithms, shared)


def _parser(names: Sequence[str], describe: Mapping[str, str]) -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<14}{describe[name]}" for name in names)
    return _Parser(
        prog="run.py",
        usage="python run.py [ALGORITHM ...] [--flag VALUE ...]",
        description=f"Collaborative learning, compared on one split.\n\nalgorithms (none named: cfkd):\n{listed}",
        epilog="run.py ALGORITHM -h shows that algorithm's flags and defaults.",
        formatter_class=_Help,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )


def _add(group, name: str, declared: Mapping[str, Any]) -> None:
    takes, needs = declared["takes"], declared["needs"]
    help = declared["help"] + (f" [only with {needs.words}]" if needs else "")
    if takes is None:
        group.add_argument(f"--{name}", action="store_true", help=help)
        return
    allowed = f"; {takes}" if isinstance(takes, Number | Choice | Several | Matching) else ""
    default = declared["default"]
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    default_text = "" if default is None else f" (default: {shown})"
    group.add_argument(f"--{name}", nargs="+", help=f"{help}{allowed}{default_text}".replace("%", "%%"))


def _reject_strange_flags(words: Sequence[str], parser: argparse.ArgumentParser, algorithms: Mapping[str, type]) -> None:
    known = [f for f in parser._option_string_actions if f.startswith("--")]
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    for text in flags:
        if flags.count(text) > 1:
            raise UserError(f"{text}: given twice; several values stand behind one flag, {text} A B")
        if text not in known:
            owners = [name for name, cls in algorithms.items() if text[2:] in flags_of(cls)]
            hint = f"; it is a flag of {', '.join(owners)}" if owners else nearest(text, known)
            raise UserError(f"{text}: no algorithm named here reads such a flag{hint}")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _values(name: str, texts: Any, takes: Callable | None, algorithms: Mapping[str, type]) -> list:
    if takes is None:
        return [True]
    if isinstance(takes, Several) and isinstance(takes.of, Number) and not any("," in text for text in texts):
        texts = [",".join(texts)]  # --sizes 0.5 0.5 is one split, as the reference spells it
    found = []
    for text in map(str.strip, texts):
        try:
            value = takes(text)
        except (ValueError, OverflowError) as error:
            if text in algorithms:
                raise UserError(f"--{name} {text}: name the algorithms first, python run.py {text} --{name} ...") from None
            hint = str(error) if str(error).startswith("; ") else ""
            raise UserError(f"--{name} {text}: must be {takes}{hint}") from None
        if value not in found:
            found.append(value)
    return found


def _shown(values: Sequence[Any]) -> str:
    return " ".join(",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values)


def _consistent(chosen: Mapping[str, Any], declared: Mapping[str, dict]) -> None:
    """No flag says otherwise than a switch that stands for it."""
    for switch in chosen:
        for name, value in declared[switch]["stands_for"].items():
            if chosen.get(name, value) != value:
                raise UserError(f"--{name} {_shown([chosen[name]])}: contradicts --{switch}, which is --{name} {value}")


def _check(run: Options) -> None:
    """What no single flag can know."""
    if len(run.model) > run.n_clients:
        raise UserError(f"--model {','.join(run.model)}: more architectures than --n_clients {run.n_clients}")
    if run.sizes is not None:
        shown = ",".join(f"{size:g}" for size in run.sizes)
        if len(run.sizes) != run.n_clients:
            raise UserError(
                f"--sizes {shown}: must be one size for each of --n_clients {run.n_clients}, got {len(run.sizes)}"
            )
        if sum(run.sizes) > 1 + 1e-9:
            raise UserError(f"--sizes {shown}: must add up to at most 1, got {sum(run.sizes):g}")


def _notes(names, values, algorithms, shared) -> list[str]:
    """Which shared defaults an algorithm would have set otherwise, had it been named alone."""
    if len(names) == 1:
        return []
    notes = []
    for name in names:
        own = flags_of(algorithms[name])
        differing = [f for f in shared if f not in values and own[f]["default"] != shared[f]["default"]]
        if differing:
            taken = _flags(shared, differing)
            notes.append(f"{name} took the shared defaults {taken}; named alone it takes {_flags(own, differing)}")
    return notes


def _flags(declared: Mapping[str, dict], names: Sequence[str]) -> str:
    return " ".join(f"--{name} {_shown([declared[name]['default']])}" for name in names)


# --- options as plain text ---------------------------------------------------------------------------------------------


def plain(options: Any) -> dict[str, Any]:
    """Every option as JSON can hold it: tuples as lists, inf as "inf", paths as text."""

    def value(v: Any) -> Any:
        if isinstance(v, tuple):
            return [value(part) for part in v]
        if isinstance(v, Path):
            return str(v)
        return "inf" if v == math.inf else v

    return {f.name: value(getattr(options, f.name)) for f in fields(options)}


def from_plain(cls: type[Options], values: Mapping[str, Any]) -> Options:
    """The inverse of `plain`."""

    def value(v: Any) -> Any:
        if isinstance(v, list):
            return tuple(value(part) for part in v)
        return math.inf if v == "inf" else v

    return cls(**{name: value(v) for name, v in values.items()})
