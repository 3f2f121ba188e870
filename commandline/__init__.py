"""From a command line to the runs that it requests."""

import argparse
import itertools
import math
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

import models
import plugins
from commandline import shorthand
from commandline.page import names, page, version
from commandline.shorthand import ALGORITHM_FIRST, MEANT, SETTINGS, TRANSLATIONS, Shorthand, spelled_out, words_of
from data.datasets import LOADERS
from data.partition import PARTITIONS, count_new, readers, whole_number
from errors import UserError
from options import Choice, Launch, Matching, Number, Options, Several, flags_of, nearest, role_of, stood_for
from untrusted import WIDTH, Parser, wrap

RUNS = 10_000  # limit for one command, or one method of a study
ROLES = {  # titles of the flags that every algorithm has, by role; several values of a flag are several runs
    "problem": "data, split, clients, model (several values are several problems)",
    "setting": "training (of several values, validation accuracy may select the best)",
    "seed": "seeds (tables show means over seeds)",
    "execution": "evaluation and computation",
}

# launch flags that a printed command includes, since they say where files are; all others concern a single call
PLACES = ("data_dir", "export_dir", "unverified_data", "plugin")
# flags whose choices are too many for a help text -> what `--list` calls them
LISTED = {"dataset": "datasets", "public_dataset": "datasets", "partition": "partitions"}
LISTED |= dict.fromkeys(("model", "server_model", "shared_model"), "models")
OTHERS = ("--slurm",)  # flags that take the flags of another program


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=WIDTH)

    def _format_action_invocation(self, action) -> str:
        """Return the flag by its main name only: its help lists the other names."""
        if action.nargs == 0:
            return ", ".join(action.option_strings)
        return f"{action.option_strings[0]} {action.metavar}"


class _Parser(Parser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"argument (--\w+)\S*: expected at least one argument", r"\1: the value is missing", message)
        message = re.sub(
            r"argument (--\w+)\S*: ignored explicit argument '((?s:.*))'", r"\1=\2: \1 takes no value; remove it", message
        )
        message = re.sub(
            r"unrecognized arguments: ((?s:.*))", r"\1: does not belong to a flag; put algorithms before the flags", message
        )
        raise UserError(message)


def parse(
    argv: Sequence[str],
    algorithms: Mapping[str, type[Options]],
    describe: Mapping[str, str],
    families: Mapping[str, Collection[str]] | None = None,
    alone: bool | None = None,
):
    """Parse a command line; return (runs, launch options, notes).

    `algorithms`: {name: its Options class}; `describe`: {name: its description for the help, one line and then details};
    `-h` without a name prints the first lines by `families`. The runs are every combination of the given values, algorithm
    by algorithm: a list of Options, each of which is checked. `notes` are lines to print. `alone`: whether an algorithm uses
    its own defaults for shared flags; None: only where no other algorithm is named. Raises UserError; `-h` prints the help
    and exits.
    """
    argv, networks = _replace_networks(argv)
    argv = [spelled_out(word) for word in _shield_other_flags(argv)]
    algorithm_words = _leading_words(argv)
    algorithm_names = [
        _find_algorithm(Path(word).stem if word.endswith(".py") else word, algorithms) for word in algorithm_words
    ]
    origin, base_flags, words = _expand(argv[len(algorithm_names) :], algorithm_names, algorithms)
    names = list(dict.fromkeys([base_flags.pop("algorithm")] if "algorithm" in base_flags else algorithm_names)) or ["cfkd"]
    alone = len(names) == 1 if alone is None else alone
    parser, declared = parser_of(names, algorithms, describe)
    if not (algorithm_names or origin):
        parser.format_help = lambda: page(families or {"algorithms": algorithms}, describe)

    defaults = {name: [flag["default"]] for name, flag in declared.items()}
    try:
        switches = [name for name, flag in declared.items() if flag["type"] is None]
        base_values, notes = _parse_flags(
            words_of(base_flags, switches), parser, declared, algorithms, defaults["n_clients"]
        )
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    typed_values, more_notes = _parse_flags(
        words, parser, declared, algorithms, base_values.get("n_clients", defaults["n_clients"])
    )
    # a saved configuration holds every flag, and has the default for a flag that the run does not read
    values = {
        **{name: flag_values for name, flag_values in base_values.items() if flag_values != defaults[name]},
        **typed_values,
    }
    launch_flags, shared_flags = flags_of(Launch), flags_of(Options)
    for name in launch_flags:
        if len(values.get(name, [])) > 1:
            raise UserError(f"--{name}: takes one value, got {len(values[name])}")
    launch_options = Launch(**{name: values.pop(name)[0] for name in launch_flags if name in values})
    if plugin_files := dict.fromkeys(
        [*(word for word in algorithm_words if word.endswith(".py")), *networks, *(launch_options.plugin or ())]
    ):
        launch_options = replace(launch_options, plugin=tuple(plugin_files))
    for name, flag in launch_flags.items():
        if (
            flag["requires"]
            and getattr(launch_options, name) != flag["default"]
            and not flag["requires"].holds(launch_options)
        ):
            raise UserError(f"--{name} {getattr(launch_options, name)}: applies only {flag['requires'].words}")

    if launch_options.study and (algorithm_words or origin or typed_values.keys() - launch_flags):
        raise UserError(
            f"--study {launch_options.study}: has its own algorithms and flags; combine it with launch flags only"
        )
    set_flags = [name for name in typed_values if name not in launch_flags]
    runs = combined({name: algorithms[name] for name in names}, values, alone, set_flags, declared)
    refuse_without_alpha(runs, {*set_flags, *(base_values.keys() & {"alpha"})})
    return runs, launch_options, [*notes, *more_notes, *_notes_on_defaults(names, values, algorithms, shared_flags)]


def combined(
    classes: Mapping[str, type[Options]],
    values: Mapping[str, Sequence[Any]],
    alone: bool,
    set_flags: Collection[str],
    declared: Mapping[str, dict],
) -> list[Options]:
    """Return the runs of every combination of flag values, algorithm by algorithm, each run once.

    `classes`: {algorithm: its Options class}; `values`: {flag: its values}; `alone`: whether an algorithm uses its own
    defaults for shared flags; `set_flags`: the flags that the user set here, which a run must read; `declared`: {flag: its
    declaration}. Raises UserError.
    """
    shared_flags, runs = flags_of(Options), {}
    read_flags: set[str] = set()
    read_by = {
        name: {flag: flag_values for flag, flag_values in values.items() if flag in flags_of(options_class)}
        for name, options_class in classes.items()
    }
    n_runs = sum(math.prod(map(len, readable.values())) for readable in read_by.values())
    if n_runs > RUNS:
        several = " ".join(f"--{flag}" for flag, several_values in values.items() if len(several_values) > 1)
        raise UserError(f"{several}: {n_runs:,} runs, more than the limit of {RUNS:,} per command; use fewer values")
    for name, readable in read_by.items():
        options_class = classes[name]
        start_values = {} if alone else {flag: declaration["default"] for flag, declaration in shared_flags.items()}
        for combination in itertools.product(*readable.values()):
            chosen = _with_clients(dict(zip(readable, combination, strict=True)), flags_of(options_class))
            candidate = options_class(**{**start_values, **chosen, "algorithm": name})
            unread = {
                flag
                for flag in chosen
                if (needs := flags_of(options_class)[flag]["requires"]) and not needs.holds(candidate)
            }
            _refuse_contradictions(chosen, flags_of(options_class))
            read_flags |= chosen.keys() - unread
            used = {flag: flag_values for flag, flag_values in chosen.items() if flag not in unread}
            runs[options_class(**{**start_values, **used, "algorithm": name})] = None
    for name in set_flags:
        if name not in read_flags:
            raise UserError(f"--{name} {_format_values(values[name])}: applies only {declared[name]['requires'].words}")
    for run in runs:
        _check_run(run)
    return list(runs)


def refuse_without_alpha(runs: Sequence[Options], set_flags: Collection[str]) -> None:
    """Raise UserError where the user set a partition that reads --alpha, and did not set --alpha."""
    for run in runs:
        if lacks_alpha(set_flags, run) and run.alpha == flags_of(Options)["alpha"]["default"]:
            raise UserError(
                f"--partition {run.partition}: requires --alpha; add --alpha X (smaller is more heterogeneous) or --alpha "
                "inf (IID)"
            )


def is_several(value: Any) -> bool:
    """Return whether a Python value of a flag is several values, as a list is; a tuple is one value with several parts."""
    return isinstance(value, Iterable) and not isinstance(value, str | Path | tuple)


def words_of_call(algorithm_names: Sequence[str], flags: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line: algorithms, and flags with Python values.

    True is a switch; None and False leave a flag out; a list is several values; a tuple is one value, joined by commas.
    """
    words = [str(name) for name in algorithm_names]
    for name, value in flags.items():
        if is_several(value):
            words += [f"--{name}", *(_format_values([part]) for part in value)]
        elif value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words.append(f"--{name}={_format_values([value])}")
    return words


def names_of(kind: str, descriptions: Mapping[str, str]) -> str:
    """Return the names that `--list` prints: of "algorithms", "datasets", "models" or "partitions"."""
    return names({"algorithms": descriptions, "datasets": LOADERS, "models": models.MODELS, "partitions": PARTITIONS}[kind])


def bring(argv: Sequence[str]) -> None:
    """Load the Python files that a command line names, as algorithms, networks or with --plugin, before parsing.

    Raises UserError.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", nargs="+", action="extend", default=[])
    args, _ = parser.parse_known_args(_shield_other_flags(argv))
    texts = [part for text in args.plugin for part in text.split(",")]
    sources = [("algorithm", plugins.algorithm, word) for word in _leading_words(argv) if word.endswith(".py")]
    sources += [
        ("--plugin", plugins.load, text) for text in texts if text.endswith(".py") or plugins.NETWORK.fullmatch(text)
    ]
    sources += [(flag, plugins.load, network) for network, flag in _replace_networks(argv)[1].items()]
    for origin, load, source in sources:
        try:
            load(source)
        except UserError as error:
            raise UserError(f"{origin} {error}") from error


def _replace_networks(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words, with the model's name in place of each network in a file, FILE.py:NAME; and {network: its flag}."""
    flag, words, networks = "", [], {}
    for word in argv:
        name, equals_sign, text = word.partition("=") if word.startswith("-") else ("", "", word)
        flag, parts = spelled_out(name) or flag, text.split(",")
        if LISTED.get(flag.removeprefix("--")) == "models":
            for part in parts:
                if part.endswith(".py"):
                    raise UserError(f"{flag} {part}: must name a network in the file, as in {part}:Net")
            networks |= {part: flag for part in parts if plugins.NETWORK.fullmatch(part)}
            parts = [plugins.model_of(part) if part in networks else part for part in parts]
        words.append(f"{name}{equals_sign}{','.join(parts)}")
    return words, networks


def _leading_words(argv: Sequence[str]) -> list[str]:
    """Return the words before the first flag."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), argv))


def command_of(run: Options, launch_options: Launch | None = None) -> str:
    """Return the command line that executes this very run and finds its folder.

    The command names every flag that is not at its default, in alphabetical order, so that the command stays the same when
    flags are declared in another order.
    """
    words = ["python", "run.py", run.algorithm]
    launch_options = launch_options or Launch()
    plugin_files = tuple(file for file in launch_options.plugin or () if Path(file).stem in plugins.used_by(run)) or None
    for settings, default in ((run, type(run)()), (replace(launch_options, plugin=plugin_files), Launch())):
        flags = {field.name for field in fields(settings) if getattr(settings, field.name) != getattr(default, field.name)}
        flags |= {"alpha"} if lacks_alpha(flags, run) else set()
        for name in sorted(flags):
            value = getattr(settings, name)
            if name != "algorithm" and (settings is run or name in PLACES):
                words.append(f"--{name}")
                if value is not True:
                    words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def lacks_alpha(set_flags: Collection[str], run: Options) -> bool:
    """Return whether the set flags name a partition that reads --alpha, and not --alpha."""
    return "partition" in set_flags and "alpha" not in set_flags and run.partition in readers("alpha")


def blamed(message: str, run: Options, argv: Sequence[str]) -> str:
    """Return an error message about a run with the flag that the user typed.

    Where the message is about a default of the algorithm itself, the message says so.
    """
    typed_flags, own_flags = {spelled_out(word).split("=")[0] for word in argv}, flags_of(type(run))
    if run.partition == "silos" and "--dataset" not in typed_flags:  # --clients implies both flags
        message = message.replace(f"--dataset {run.dataset}:", f"--clients {run.dataset}:", 1)
    for name, declaration in flags_of(Options).items():
        value, default, names = (
            getattr(run, name),
            own_flags[name]["default"],
            {f"--{other}" for other in (name, *own_flags[name]["aliases"])},
        )
        flag_text = f"--{name} {_format_values([value])}"
        if message.startswith(f"{flag_text}:") and value == default != declaration["default"] and not typed_flags & names:
            explanation = f"the default of {run.algorithm}; other methods use {_format_values([declaration['default']])}"
            return message.replace(flag_text, f"{flag_text} ({explanation})", 1)
    return message


def complete(line: str, algorithms: Mapping[str, type[Options]], describe: Mapping[str, str]) -> None:
    """Complete the command `line` for a shell, by argcomplete's protocol, and exit."""
    import argcomplete

    names = [name for name in line.split() if name in algorithms] or list(algorithms)
    parser, declared = parser_of(names, algorithms, describe)
    parser.add_argument("algorithms", nargs="*", choices=list(algorithms))
    for action in parser._actions:
        flag_type = {**declared, **flags_of(Shorthand)}.get(action.dest, {}).get("type")
        element_type = getattr(flag_type, "of", flag_type)
        if isinstance(element_type, Choice):
            action.completer = argcomplete.ChoicesCompleter(element_type.names)
    argcomplete.autocomplete(parser, always_complete_options="long")


def _find_algorithm(text: str, algorithms: Mapping[str, type]) -> str:
    """Return the algorithm of this name, in any case, with or without hyphens: FedAvg, Per-FedAvg, D-PSGD."""

    def letters(name: str) -> str:
        return re.sub("[-_]", "", name.lower())

    for name in algorithms:
        if letters(name) == letters(text):
            return name
    if text.lower() in SETTINGS:
        raise UserError(f"algorithm {text}: is a setting of another algorithm here; use {SETTINGS[text.lower()]}")
    key, equals_sign, value = text.partition("=")
    if equals_sign:  # as in a file of settings: method=fedavg dataset.name=mnist
        name = key.removesuffix(".name").rpartition(".")[2]
        flag = value if name in MEANT[ALGORITHM_FIRST] else f"--{name} {value}"
        raise UserError(f"{text}: is not a flag; write {flag}, and algorithms before the flags")
    raise UserError(f"algorithm {text}: must be one of {', '.join(algorithms)}{nearest(text, list(algorithms))}")


def _expand(words: Sequence[str], algorithm_names: Sequence[str], algorithms: Mapping[str, type]):
    """Expand a preset or a saved configuration among the words; return (its words, its flags, all other words)."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in flags_of(Shorthand):
        parser.add_argument(f"--{name}", nargs="+", action="extend")
    args, other_words = parser.parse_known_args([_guard_number(word) for word in words])
    texts = [(name, text) for name, values in vars(args).items() for text in values]
    if not texts:
        return "", {}, list(words)
    (name, text), *more_texts = texts
    origin = f"--{name} {text}"
    if more_texts:
        raise UserError(f"{origin}: allows no second preset or configuration file; remove the others")
    value = value_of(name, text, flags_of(Shorthand)[name]["type"])
    try:
        base_flags = (
            shorthand.preset(value, algorithm_names) if name == "preset" else shorthand.config_file(value, algorithm_names)
        )
        if "algorithm" in base_flags:
            base_flags["algorithm"] = _find_algorithm(str(base_flags["algorithm"]), algorithms)
            if shorthand.is_of_a_run(base_flags):
                base_flags = {**shorthand.before(flags_of(algorithms[base_flags["algorithm"]])), **base_flags}
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    return origin, base_flags, other_words


class _Version(argparse.Action):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(nargs=0, **arguments)

    def __call__(self, parser: argparse.ArgumentParser, *_) -> None:
        print(version())
        parser.exit()


def parser_of(names: Sequence[str], algorithms: Mapping[str, type], describe: Mapping[str, str]):
    """Return the parser of all flags of these algorithms, and {flag: its declaration}."""
    parser = _Parser(
        prog="run.py",
        usage=f"python run.py {' '.join(names)} [--flag VALUE ...]",
        description="\n\n".join(_describe(name, describe[name]) for name in names),
        epilog="python run.py -h lists all algorithms.",
        formatter_class=_Help,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    first, *others = (flags_of(algorithms[name]) for name in names)
    shared_flags = {name: first[name] for name in flags_of(Options)}
    if others:  # the shared defaults, and those types and aliases on which all the algorithms agree
        for name, declared in flags_of(Options).items():
            agreed = {key for key in ("type", "aliases") if all(other[name][key] == first[name][key] for other in others)}
            shared_flags[name] = {**declared, **{key: first[name][key] for key in agreed}}
    groups = {title: {f: flag for f, flag in shared_flags.items() if role_of(f) == role} for role, title in ROLES.items()}
    for name in names:
        groups[f"settings of {name}"] = flags_of(algorithms[name])
    groups["execution: files, output, parallel runs (these do not change results)"] = flags_of(Launch)
    declared: dict[str, dict] = {}
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for name, flag in flags.items():
            if name not in declared:
                declared[name] = flag
                _add_flag(group, name, flag)
    parser.add_argument("--version", action=_Version, help="print the versions of Chorus, Python and torch")
    group = parser.add_argument_group("shorthands for several flags (an explicit flag takes precedence)")
    for name, flag in flags_of(Shorthand).items():
        _add_flag(group, name, flag)
    for name, other in TRANSLATIONS.items():
        arguments = {"nargs": "+", "metavar": "N"} if other.takes else {"action": "store_true"}
        group.add_argument(f"--{name}", help=f"alias of other systems for --{other.says}: {other.help}", **arguments)
    return parser, declared


def _describe(name: str, text: str) -> str:
    return "\n\n".join(wrap(" ".join(paragraph.split())) for paragraph in f"{name}: {text}".split("\n\n"))


def _add_flag(group, name: str, declared: Mapping[str, Any]) -> None:
    flag_type, requires = declared["type"], declared["requires"]
    help = declared["help"] + (f" [only {requires.words}]" if requires else "")
    if flag_type is None:
        group.add_argument(f"--{name}", action="store_true", help=help)
        return
    allowed_text = f"; {flag_type}" if isinstance(flag_type, Number | Choice | Several | Matching) else ""
    if name in LISTED:
        allowed_text = f"; --list {LISTED[name]} prints the choices"
    default = declared["default"]
    default_value = ",".join(map(str, default)) if isinstance(default, tuple) else default
    default_text = "" if default is None else f" (default: {default_value})"
    aliases = f" [also --{', --'.join(declared['aliases'])}]" if declared["aliases"] else ""
    option_strings = [f"--{spelling}" for spelling in (name, *declared["aliases"])]
    kinds = {Number: "N" if getattr(flag_type, "type", None) is int else "X", Choice: "NAME", Several: "A,B,..."}
    metavar = kinds.get(type(flag_type), "PATH" if flag_type is Path else "TEXT")
    group.add_argument(
        *option_strings, nargs="+", metavar=metavar, help=f"{help}{allowed_text}{default_text}{aliases}".replace("%", "%%")
    )


def _parse_flags(
    words: Sequence[str], parser: argparse.ArgumentParser, declared: Mapping, algorithms: Mapping, clients: list
):
    """Parse the words after the algorithms' names; return {flag: its values} and notes.

    The notes say how flags of other systems were translated. `clients`: the numbers of clients, where
    the words do not set them.
    """
    typed_names = _reject_strange_flags(words, parser, algorithms)
    texts = vars(parser.parse_args([_guard_number(word) for word in words]))
    values, notes = {}, []
    for name, text in texts.items():
        if name in declared:
            values[name] = _parse_values(typed_names[name], text, declared[name]["type"], algorithms)
    clients = values.get("n_clients", clients)
    for name, translation in TRANSLATIONS.items():
        if name in texts:
            other_values = _parse_values(name, texts[name], translation.takes, algorithms)
            shown = f"--{name} {_format_values(other_values)}" if translation.takes else f"--{name}"
            if translation.says in values:
                raise UserError(f"{shown}: sets --{typed_names[translation.says]}, which is also set; remove one of the two")
            if len(clients) > 1 or "clients" in values:
                raise UserError(
                    f"{shown}: cannot be translated with {'--clients' if 'clients' in values else 'several --n_clients'}; "
                    f"use --{translation.says}"
                )
            try:
                values[translation.says] = [translation.translate(value, clients[0]) for value in other_values]
            except ValueError as error:
                raise UserError(f"{shown}: {error}") from None
            explanation = translation.why(other_values[0])
            notes.append(f"{shown} is --{translation.says} {_format_values(values[translation.says])} here{explanation}")
    return values, notes


def _guard_number(word: str) -> str:
    """Return the word with a blank before a number: argparse takes -1e-3 for a flag, and ' -1e-3' for a value."""
    return f" {word}" if _is_number(word) else word


def _shield_other_flags(words: Sequence[str]) -> list[str]:
    """Return the words, changed so that no flag of another program begins like a flag of this one."""
    shielded: list[str] = []
    for word in words:
        name, equals_sign, text = word.partition("=")
        if shielded and shielded[-1] in OTHERS:
            shielded.append(f" {word}")
        elif equals_sign and name in OTHERS:
            shielded += [name, f" {text}"]
        else:
            shielded.append(word)
    return shielded


def _reject_strange_flags(words: Sequence[str], parser: argparse.ArgumentParser, algorithms: Mapping[str, type]) -> dict:
    """Return {flag: its name in these words}. Raises UserError for an unknown flag, or a flag that is set twice."""
    known_names, typed_names = {f: a.dest for f, a in parser._option_string_actions.items() if f.startswith("--")}, {}
    for text in (word.split("=")[0] for word in words if word.startswith("--")):
        if text not in known_names:
            owners = [name for name, cls in algorithms.items() if text[2:] in flags_of(cls)]
            suggestion = next((words for words, others in MEANT.items() if text[2:] in others), "")
            alternative = f"; did you mean {suggestion}?" if suggestion else nearest(text, list(known_names))
            owner_hint = f"; it is a flag of {', '.join(owners)}" if owners else ""
            hint = owner_hint + (alternative if suggestion or not owners else "")
            raise UserError(f"{text}: not a flag of these methods{hint}")
        name = known_names[text]
        if typed_names.get(name) == text[2:]:
            raise UserError(f"{text}: is set twice; put all values after one flag, {text} A B")
        if name in typed_names:
            raise UserError(f"{text}: is an alias of --{typed_names[name]}, which is also set; remove one of the two")
        typed_names[name] = text[2:]
    return typed_names


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _parse_values(name: str, texts: Any, flag_type: Callable | None, algorithms: Mapping[str, type]) -> list:
    if flag_type is None:
        return [True]
    texts = [text.strip() for text in texts]
    for index, text in enumerate(texts):
        if text in algorithms and not _is_value(text, flag_type, index):
            others = " ".join(texts[:index]) or "..."
            raise UserError(
                f"--{name} {text}: is an algorithm; put it before the flags, python run.py {text} --{name} {others}"
            )
    return values_of(name, texts, flag_type)


def values_of(name: str, texts: Sequence[str], flag_type: Callable) -> list:
    """Return the distinct values of a flag's texts. Raises UserError."""
    if isinstance(flag_type, Several) and isinstance(flag_type.of, Number) and not any("," in text for text in texts):
        texts = [",".join(texts)]  # --sizes 0.5 0.5 is one split, as in the reference code
    values = []
    for text in texts:
        value = value_of(name, text, flag_type)
        if value not in values:
            values.append(value)
    return values


def _is_value(text: str, flag_type: Callable, index: int) -> bool:
    """Return whether a word that is also an algorithm's name is a flag's value: the first may be a folder of that name."""
    if flag_type in (Path, str):
        return index == 0
    try:
        flag_type(text)
    except (ValueError, OverflowError):
        return False
    return True


def value_of(name: str, text: str, flag_type: Callable) -> Any:
    """Return the value of a flag's text. Raises UserError, which names the flag, the text and the allowed values."""
    try:
        return flag_type(text)
    except (ValueError, OverflowError) as error:
        hint = str(error) if str(error).startswith("; ") else ""
        raise UserError(f"--{name} {text}: must be {flag_type}{hint}") from None


def _format_values(values: Sequence[Any]) -> str:
    return " ".join(",".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values)


def _refuse_contradictions(chosen: Mapping[str, Any], declared: Mapping[str, dict]) -> None:
    """Raise UserError where a flag contradicts the value that another flag implies."""
    for flag, set_value in chosen.items():
        for name, value in stood_for(declared[flag], set_value).items():
            if name != flag and chosen.get(name, value) != value:
                shown_flag = f"--{flag}" if set_value is True else f"--{flag} {set_value}"
                meaning = f"sets --{name} {value}" if value is not None else f"allows no --{name}"
                raise UserError(f"--{name} {_format_values([chosen[name]])}: contradicts {shown_flag}, which {meaning}")


def _with_clients(chosen: dict[str, Any], declared: Mapping[str, dict]) -> dict[str, Any]:
    """Return the flags with `--clients` replaced by the flags that it implies. By default all clients of the data train,
    except those of --new_clients. Raises UserError."""
    if not chosen.get("clients"):
        return chosen
    implied = dict(stood_for(declared["clients"], chosen["clients"]))
    new_clients = whole_number(chosen.get("new_clients", 0), implied["n_clients"])
    n_new = count_new(new_clients)
    n_clients = chosen.get("n_clients", implied["n_clients"] - n_new)
    if not 1 <= n_clients <= implied["n_clients"] - n_new:
        numbers = [f"--{name} {_format_values([chosen[name]])}" for name in ("n_clients", "new_clients") if name in chosen]
        raise UserError(
            f"{' with '.join(numbers)}: {chosen['clients']} has {implied['n_clients']} clients, of which at least one must "
            "train; use a smaller number"
        )
    _refuse_contradictions({name: value for name, value in chosen.items() if name != "n_clients"}, declared)
    return {**chosen, **implied, "n_clients": n_clients, **({"new_clients": new_clients} if n_new else {})}


def _check_run(run: Options) -> None:
    """Check the flags that depend on each other. Raises UserError."""
    if len(run.model) > run.n_clients:
        raise UserError(
            f"--model {','.join(run.model)}: more architectures than clients; must be at most --n_clients {run.n_clients}"
        )
    if run.sizes is not None:
        shown, n_new = ",".join(f"{size:g}" for size in run.sizes), count_new(run.new_clients)
        if len(run.sizes) != run.n_clients + n_new:
            beside = f", --new_clients {n_new}" if n_new else ""
            raise UserError(
                f"--sizes {shown}: must be one size per client (--n_clients {run.n_clients}{beside}), got {len(run.sizes)}"
            )
        if run.size_alpha != math.inf:
            raise UserError(f"--size_alpha {run.size_alpha:g}: contradicts --sizes {shown}; remove one of the two")
        if sum(run.sizes) > 1 + 1e-9:
            raise UserError(f"--sizes {shown}: must add up to at most 1, got {sum(run.sizes):g}")


def _notes_on_defaults(names, values, algorithms, shared_flags) -> list[str]:
    """Return notes on the shared defaults that an algorithm would replace by its own, if it were named alone."""
    if len(names) == 1:
        return []
    notes = []
    for name in names:
        own_flags = flags_of(algorithms[name])
        differing = [
            flag
            for flag in shared_flags
            if flag not in values and own_flags[flag]["default"] != shared_flags[flag]["default"]
        ]
        if differing:
            shown_defaults = _format_defaults(shared_flags, differing)
            notes.append(
                f"{name} uses the shared defaults {shown_defaults}, so that methods are comparable; alone, its defaults are "
                f"{_format_defaults(own_flags, differing)}"
            )
    return notes


def _format_defaults(declared: Mapping[str, dict], names: Sequence[str]) -> str:
    return " ".join(f"--{name} {_format_values([declared[name]['default']])}" for name in names)
