"""From a command line to the runs that it asks for."""

import argparse
import itertools
import math
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

import plugins
from commandline import shorthand
from commandline.page import page
from commandline.shorthand import MEANT, SETTINGS, TRANSLATIONS, Shorthand, words_of
from data.partition import readers
from errors import UserError
from options import Choice, Launch, Matching, Number, Options, Several, flags_of, nearest, role_of, stood_for
from untrusted import Parser

RUNS = 10_000  # that one command, or one method of a study, may ask for
ROLES = {  # of the flags that every algorithm has; several values of a flag are several runs
    "problem": "the problem (several are solved side by side; none is chosen for its accuracy)",
    "setting": "settings (of several the best on --validation may be chosen)",
    "seed": "seeds (results are means over them)",
    "execution": "how a run is computed and watched",
}

# launch flags that belong to a command as it is shown: where things are; all others are about one call alone
PLACES = ("data_dir", "export_dir", "unverified_data", "plugin")
OTHERS = ("--slurm",)  # flags that take the flags of another program


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=118)

    def _format_action_invocation(self, action) -> str:
        """The flag by its own name alone: its help tells the other ones."""
        if action.nargs == 0:
            return ", ".join(action.option_strings)
        return f"{action.option_strings[0]} {action.metavar}"


class _Parser(Parser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"argument (--\w+)\S*: expected at least one argument", r"\1: a value is missing", message)
        message = re.sub(r"argument (--\w+)\S*: ignored explicit argument '((?s:.*))'", r"\1=\2: \1 takes no value", message)
        message = re.sub(r"unrecognized arguments: ((?s:.*))", r"\1: belongs to no flag (algorithms come first)", message)
        raise UserError(message)


def parse(
    argv: Sequence[str],
    algorithms: Mapping[str, type[Options]],
    describe: Mapping[str, str],
    families: Mapping[str, Collection[str]] | None = None,
    alone: bool | None = None,
):
    """A command line -> (runs, launch, notes).

    `algorithms`: name -> its Options class; `describe`: name -> what the help says of it, a line and then more; `-h` without
    a name has the lines by `families`. Runs are every combination of the values given, algorithm by algorithm: a list of
    Options, checked each by itself. `notes` are lines worth telling. `alone`: whether an algorithm takes its own defaults
    for shared flags; None: where it is the only one. Raises UserError; `-h` prints the help and exits.
    """
    argv = _shielded(argv)
    typed = _first(argv)
    named = [_known(Path(word).stem if word.endswith(".py") else word, algorithms) for word in typed]
    origin, held, words = _expand(argv[len(named) :], named, algorithms)
    names = list(dict.fromkeys([held.pop("algorithm")] if "algorithm" in held else named)) or ["cfkd"]
    alone = len(names) == 1 if alone is None else alone
    parser, declared = parser_of(names, algorithms, describe)
    if not (named or origin):
        parser.format_help = lambda: page(families or {"algorithms": algorithms}, describe)

    defaults = {name: [flag["default"]] for name, flag in declared.items()}
    try:
        switches = [name for name, flag in declared.items() if flag["type"] is None]
        base, notes = _read(words_of(held, switches), parser, declared, algorithms, defaults["n_clients"])
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    given, more = _read(words, parser, declared, algorithms, base.get("n_clients", defaults["n_clients"]))
    # a saved configuration holds every flag, those that nothing reads too: at their defaults
    values = {**{name: found for name, found in base.items() if found != defaults[name]}, **given}
    launching, shared = flags_of(Launch), flags_of(Options)
    for name in launching:
        if len(values.get(name, [])) > 1:
            raise UserError(f"--{name}: takes one value, got {len(values[name])}")
    launch = Launch(**{name: values.pop(name)[0] for name in launching if name in values})
    if brought := dict.fromkeys([*(word for word in typed if word.endswith(".py")), *(launch.plugin or ())]):
        launch = replace(launch, plugin=tuple(brought))
    for name, flag in launching.items():
        if flag["requires"] and getattr(launch, name) != flag["default"] and not flag["requires"].holds(launch):
            raise UserError(f"--{name} {getattr(launch, name)}: read only with {flag['requires'].words}")

    if launch.study and (typed or origin or given.keys() - launching):
        raise UserError(f"--study {launch.study}: has its own algorithms and flags; combine it with launch flags only")
    asked = [name for name in given if name not in launching]
    runs = combined({name: algorithms[name] for name in names}, values, alone, asked, declared)
    refuse_without_alpha(runs, {*asked, *(base.keys() & {"alpha"})})
    return runs, launch, [*notes, *more, *_notes(names, values, algorithms, shared)]


def combined(
    classes: Mapping[str, type[Options]],
    values: Mapping[str, Sequence[Any]],
    alone: bool,
    asked: Collection[str],
    declared: Mapping[str, dict],
) -> list[Options]:
    """Return the runs of every combination of flag values, algorithm by algorithm, each run once.

    `classes`: {algorithm: its Options class}; `values`: {flag: its values}; `alone`: whether an algorithm uses its own
    defaults for shared flags; `asked`: the flags that the user set here, which a run must read; `declared`: {flag: its
    declaration}. Raises UserError.
    """
    shared, runs = flags_of(Options), {}
    in_use: set[str] = set()
    read_by = {name: {f: v for f, v in values.items() if f in flags_of(cls)} for name, cls in classes.items()}
    n_runs = sum(math.prod(map(len, readable.values())) for readable in read_by.values())
    if n_runs > RUNS:
        several = " ".join(f"--{f}" for f, given in values.items() if len(given) > 1)
        raise UserError(f"{several}: would be {n_runs:,} runs; at most {RUNS:,} in one command")
    for name, readable in read_by.items():
        cls = classes[name]
        start = {} if alone else {f: d["default"] for f, d in shared.items()}
        for combination in itertools.product(*readable.values()):
            chosen = dict(zip(readable, combination, strict=True))
            candidate = cls(**{**start, **chosen, "algorithm": name})
            idle = {f for f in chosen if (needs := flags_of(cls)[f]["requires"]) and not needs.holds(candidate)}
            _consistent(chosen, flags_of(cls))
            in_use |= chosen.keys() - idle
            used = {f: v for f, v in chosen.items() if f not in idle}
            runs[cls(**{**start, **used, "algorithm": name})] = None
    for name in asked:
        if name not in in_use:
            raise UserError(f"--{name} {_shown(values[name])}: read only with {declared[name]['requires'].words}")
    for run in runs:
        _check(run)
    return list(runs)


def refuse_without_alpha(runs: Sequence[Options], said: Collection[str]) -> None:
    """Raises UserError where the flags that the user set name a partition that reads --alpha, and not --alpha."""
    for run in runs:
        if lacks_alpha(said, run) and run.alpha == flags_of(Options)["alpha"]["default"]:
            raise UserError(
                f"--partition {run.partition}: says nothing without --alpha: a number, the smaller the more heterogeneous, "
                "or inf for the class mix of the whole at every client"
            )


def bring(argv: Sequence[str]) -> None:
    """Load the files that a command line brings along, of algorithms and of --plugin, before it is parsed. Raises
    UserError."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", nargs="+", action="extend", default=[])
    given, _ = parser.parse_known_args(_shielded(argv))
    texts = [part for text in given.plugin for part in text.split(",")]
    for what, load, words in (("algorithm", plugins.algorithm, _first(argv)), ("--plugin", plugins.load, texts)):
        for path in (word for word in words if word.endswith(".py")):
            try:
                load(path)
            except UserError as error:
                raise UserError(f"{what} {error}") from error


def _first(argv: Sequence[str]) -> list[str]:
    """The words before any flag."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), argv))


def command_of(run: Options, launch: Launch | None = None) -> str:
    """The command line that makes this very run, and where it is looked for: what is not a default, by name, so that it
    stays the same when flags are declared in another order."""
    words = ["python", "run.py", run.algorithm]
    launch = launch or Launch()
    used = tuple(file for file in launch.plugin or () if Path(file).stem in plugins.used_by(run)) or None
    for given, default in ((run, type(run)()), (replace(launch, plugin=used), Launch())):
        said = {f.name for f in fields(given) if getattr(given, f.name) != getattr(default, f.name)}
        said |= {"alpha"} if lacks_alpha(said, run) else set()
        for name in sorted(said):
            value = getattr(given, name)
            if name != "algorithm" and (given is run or name in PLACES):
                words.append(f"--{name}")
                if value is not True:
                    words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def lacks_alpha(said: Collection[str], run: Options) -> bool:
    """Whether what is said of a run names a partition that reads --alpha, and not that."""
    return "partition" in said and "alpha" not in said and run.partition in readers("alpha")


def blamed(message: str, run: Options, argv: Sequence[str]) -> str:
    """What was wrong with a run, by the flag that was typed; where it is of a default that is the algorithm's own, it says
    so."""
    typed, own = {word.split("=")[0] for word in argv}, flags_of(type(run))
    if run.partition == "silos" and "--dataset" not in typed:  # --clients stands for both
        message = message.replace(f"--dataset {run.dataset}:", f"--clients {run.dataset}:", 1)
    for name, shared in flags_of(Options).items():
        value, default, names = (
            getattr(run, name),
            own[name]["default"],
            {f"--{other}" for other in (name, *own[name]["aliases"])},
        )
        said = f"--{name} {_shown([value])}"
        if message.startswith(f"{said}:") and value == default != shared["default"] and not typed & names:
            whose = f"the default of {run.algorithm}; that of others is {_shown([shared['default']])}"
            return message.replace(said, f"{said} ({whose})", 1)
    return message


def complete(line: str, algorithms: Mapping[str, type[Options]], describe: Mapping[str, str]) -> None:
    """Answer a shell that asks, by argcomplete's protocol, how the command `line` may go on, and exit."""
    import argcomplete

    names = [name for name in line.split() if name in algorithms] or list(algorithms)
    parser, declared = parser_of(names, algorithms, describe)
    parser.add_argument("algorithms", nargs="*", choices=list(algorithms))
    for action in parser._actions:
        takes = {**declared, **flags_of(Shorthand)}.get(action.dest, {}).get("type")
        found = getattr(takes, "of", takes)
        if isinstance(found, Choice):
            action.completer = argcomplete.ChoicesCompleter(found.names)
    argcomplete.autocomplete(parser, always_complete_options="long")


def _known(text: str, algorithms: Mapping[str, type]) -> str:
    """The algorithm that is meant, in whatever case, with or without hyphens: FedAvg, Per-FedAvg, D-PSGD."""

    def letters(name: str) -> str:
        return re.sub("[-_]", "", name.lower())

    for name in algorithms:
        if letters(name) == letters(text):
            return name
    if text.lower() in SETTINGS:
        raise UserError(f"algorithm {text}: is a setting here; type {SETTINGS[text.lower()]}")
    raise UserError(f"algorithm {text}: must be one of {', '.join(algorithms)}{nearest(text, list(algorithms))}")


def _expand(words: Sequence[str], named: Sequence[str], algorithms: Mapping[str, type]):
    """What a preset or a saved configuration among the words stands for -> (its words, its flags, all other words)."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in flags_of(Shorthand):
        parser.add_argument(f"--{name}", nargs="+", action="extend")
    found, others = parser.parse_known_args([_guarded(word) for word in words])
    texts = [(name, text) for name, given in vars(found).items() for text in given]
    if not texts:
        return "", {}, list(words)
    (name, text), *more = texts
    origin = f"--{name} {text}"
    if more:
        raise UserError(f"{origin}: takes one value, and stands alone")
    value = value_of(name, text, flags_of(Shorthand)[name]["type"])
    try:
        held = shorthand.preset(value, named) if name == "preset" else shorthand.config_file(value, named)
        if "algorithm" in held:
            held["algorithm"] = _known(str(held["algorithm"]), algorithms)
            if shorthand.is_of_a_run(held):
                held = {**shorthand.before(flags_of(algorithms[held["algorithm"]])), **held}
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    return origin, held, others


def parser_of(names: Sequence[str], algorithms: Mapping[str, type], describe: Mapping[str, str]):
    """The parser of all flags of these algorithms -> (parser, {flag: its declaration})."""
    parser = _Parser(
        prog="run.py",
        usage=f"python run.py {' '.join(names)} [--flag VALUE ...]",
        description="\n\n".join(f"{name}: {describe[name]}" for name in names),
        epilog="python run.py -h lists the algorithms.",
        formatter_class=_Help,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    first, *others = (flags_of(algorithms[name]) for name in names)
    of_all = {name: first[name] for name in flags_of(Options)}
    if others:  # the shared defaults, and the other words for a value or a flag that all of them have
        for name, declared in flags_of(Options).items():
            agreed = {
                what for what in ("type", "aliases") if all(other[name][what] == first[name][what] for other in others)
            }
            of_all[name] = {**declared, **{what: first[name][what] for what in agreed}}
    groups = {title: {f: flag for f, flag in of_all.items() if role_of(f) == role} for role, title in ROLES.items()}
    for name in names:
        groups[f"settings of {name}"] = flags_of(algorithms[name])
    groups["where and how to run (these change no number)"] = flags_of(Launch)
    declared: dict[str, dict] = {}
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for name, flag in flags.items():
            if name not in declared:
                declared[name] = flag
                _add(group, name, flag)
    group = parser.add_argument_group("flags that stand for others (one given beside them has the last word)")
    for name, flag in flags_of(Shorthand).items():
        _add(group, name, flag)
    for name, other in TRANSLATIONS.items():
        takes = {"nargs": "+", "metavar": "N"} if other.takes else {"action": "store_true"}
        group.add_argument(f"--{name}", help=f"another system's --{other.says}: {other.help}", **takes)
    return parser, declared


def _add(group, name: str, declared: Mapping[str, Any]) -> None:
    takes, needs = declared["type"], declared["requires"]
    help = declared["help"] + (f" [only with {needs.words}]" if needs else "")
    if takes is None:
        group.add_argument(f"--{name}", action="store_true", help=help)
        return
    allowed = f"; {takes}" if isinstance(takes, Number | Choice | Several | Matching) else ""
    default = declared["default"]
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    default_text = "" if default is None else f" (default: {shown})"
    also = f" [also --{', --'.join(declared['aliases'])}]" if declared["aliases"] else ""
    spellings = [f"--{spelling}" for spelling in (name, *declared["aliases"])]
    kinds = {Number: "N" if getattr(takes, "type", None) is int else "X", Choice: "NAME", Several: "A,B,..."}
    metavar = kinds.get(type(takes), "PATH" if takes is Path else "TEXT")
    group.add_argument(
        *spellings, nargs="+", metavar=metavar, help=f"{help}{allowed}{default_text}{also}".replace("%", "%%")
    )


def _read(words: Sequence[str], parser: argparse.ArgumentParser, declared: Mapping, algorithms: Mapping, clients: list):
    """The words behind the algorithms' names -> ({flag: its values}, how other systems' flags were translated to ours).
    `clients` are the numbers of clients, where the words do not give them."""
    typed = _reject_strange_flags(words, parser, algorithms)
    texts = vars(parser.parse_args([_guarded(word) for word in words]))
    found, notes = {}, []
    for name, text in texts.items():
        if name in declared:
            found[name] = _values(typed[name], text, declared[name]["type"], algorithms)
    clients = found.get("n_clients", clients)
    for name, other in TRANSLATIONS.items():
        if name in texts:
            given = _values(name, texts[name], other.takes, algorithms)
            shown = f"--{name} {_shown(given)}" if other.takes else f"--{name}"
            if other.says in found:
                raise UserError(f"{shown}: says the same as --{typed[other.says]}, which is given too")
            if len(clients) > 1 or "clients" in found:
                raise UserError(
                    f"{shown}: with {'--clients' if 'clients' in found else 'several --n_clients'} use --{other.says}"
                )
            try:
                found[other.says] = [other.translate(value, clients[0]) for value in given]
            except ValueError as error:
                raise UserError(f"{shown}: {error}") from None
            why = other.why(given[0])
            notes.append(f"{shown} is --{other.says} {_shown(found[other.says])} here{why}")
    return found, notes


def _guarded(word: str) -> str:
    """argparse takes -1e-3 for a flag; a blank before it makes it a value."""
    return f" {word}" if _is_number(word) else word


def _shielded(words: Sequence[str]) -> list[str]:
    """The same words, but of those that are another program's flags none begins like one of ours."""
    found: list[str] = []
    for word in words:
        name, joined, text = word.partition("=")
        if found and found[-1] in OTHERS:
            found.append(f" {word}")
        elif joined and name in OTHERS:
            found += [name, f" {text}"]
        else:
            found.append(word)
    return found


def _reject_strange_flags(words: Sequence[str], parser: argparse.ArgumentParser, algorithms: Mapping[str, type]) -> dict:
    """{flag: how it is spelled here}. Raises UserError for a flag that is not there, or is given twice."""
    known, typed = {f: a.dest for f, a in parser._option_string_actions.items() if f.startswith("--")}, {}
    for text in (word.split("=")[0] for word in words if word.startswith("--")):
        if text not in known:
            owners = [name for name, cls in algorithms.items() if text[2:] in flags_of(cls)]
            meant = next((words for words, others in MEANT.items() if text[2:] in others), "")
            near = f"; did you mean {meant}?" if meant else nearest(text, list(known))
            hint = f"; it is a flag of {', '.join(owners)}" if owners else near
            raise UserError(f"{text}: no algorithm named here reads such a flag{hint}")
        name = known[text]
        if typed.get(name) == text[2:]:
            raise UserError(f"{text}: given twice; several values stand behind one flag, {text} A B")
        if name in typed:
            raise UserError(f"{text}: is another name of --{typed[name]}, which is given too")
        typed[name] = text[2:]
    return typed


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
        if text in algorithms and not _is_value(text, takes, place):
            others = " ".join(texts[:place]) or "..."
            raise UserError(f"--{name} {text}: name the algorithms first, python run.py {text} --{name} {others}")
    return values_of(name, texts, takes)


def values_of(name: str, texts: Sequence[str], takes: Callable) -> list:
    """Return the distinct values of a flag's texts. Raises UserError."""
    if isinstance(takes, Several) and isinstance(takes.of, Number) and not any("," in text for text in texts):
        texts = [",".join(texts)]  # --sizes 0.5 0.5 is one split, as the reference spells it
    found = []
    for text in texts:
        value = value_of(name, text, takes)
        if value not in found:
            found.append(value)
    return found


def _is_value(text: str, takes: Callable, place: int) -> bool:
    """Whether a word that is also an algorithm's name is meant as a flag's value: the first may be a folder of that name."""
    if takes in (Path, str):
        return place == 0
    try:
        takes(text)
    except (ValueError, OverflowError):
        return False
    return True


def value_of(name: str, text: str, takes: Callable) -> Any:
    """The value that a flag's text stands for. Raises UserError, which names the flag, the text and what is allowed."""
    try:
        return takes(text)
    except (ValueError, OverflowError) as error:
        hint = str(error) if str(error).startswith("; ") else ""
        raise UserError(f"--{name} {text}: must be {takes}{hint}") from None


def _shown(values: Sequence[Any]) -> str:
    return " ".join(",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values)


def _consistent(chosen: Mapping[str, Any], declared: Mapping[str, dict]) -> None:
    """No flag says otherwise than a switch that stands for it."""
    for flag, given in chosen.items():
        for name, value in stood_for(declared[flag], given).items():
            if name != flag and chosen.get(name, value) != value:
                told = f"--{flag}" if given is True else f"--{flag} {given}"
                means = f"is --{name} {value}" if value is not None else f"takes no --{name}"
                raise UserError(f"--{name} {_shown([chosen[name]])}: contradicts {told}, which {means}")


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
