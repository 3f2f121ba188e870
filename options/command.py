"""From a command line to the runs that it asks for."""

import argparse
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from errors import UserError
from options.shared import Launch, Options, flags_of
from options.values import Choice, Matching, Number, Several, nearest


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
    texts = [text.strip() for text in texts]
    for place, text in enumerate(texts):
        if text in algorithms and (place or takes is not Path):  # a folder may have an algorithm's name
            others = " ".join(texts[:place]) or "..."
            raise UserError(f"--{name} {text}: name the algorithms first, python run.py {text} --{name} {others}")
    if isinstance(takes, Several) and isinstance(takes.of, Number) and not any("," in text for text in texts):
        texts = [",".join(texts)]  # --sizes 0.5 0.5 is one split, as the reference spells it
    found = []
    for text in texts:
        try:
            value = takes(text)
        except (ValueError, OverflowError) as error:
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
