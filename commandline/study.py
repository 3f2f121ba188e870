"""A study in a file: methods by problems by seeds, each method tuned on a grid of its own.

    [problem]                            # flags of the problem; several values are several problems
    dataset = ["digits", "MNIST"]
    partition = "lda"
    alpha = [0.1, 1.0]

    [settings]                           # of all methods
    rounds = 20

    [fedavg]                             # a method: an algorithm's name, and its settings; several values are tried
    lr = [0.01, 0.03, 0.1]

    [prox_light]                         # a method of another name says which algorithm it is
    algorithm = "fedprox"
    mu = 0.01
    lr = [0.01, 0.03, 0.1]

    [tuning]                             # where a method has several settings: the best on held-out training data is taken
    validation = 0.2
    seed = [100]

    [seeds]
    seed = [0, 1, 2]
    split_seed = "seed"

Methods take the shared defaults, as several algorithms in one command do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import untrusted
from commandline import combined, lacks_alpha, refuse_without_alpha, values_of
from errors import UserError
from options import Launch, Options, flags_of, nearest, role_of
from untrusted import print_escaped

SECTIONS = {
    "problem": "problem",
    "settings": "setting",
    "execution": "execution",
    "seeds": "seed",
}  # and the role of its flags


@dataclass(frozen=True)
class Method:
    """A row of the study's table: an algorithm with values for its settings, several of which are tried."""

    name: str
    algorithm: str
    flags: dict[str, list]
    shared: dict[str, list]  # of all methods

    @property
    def n_settings(self) -> int:
        """How many settings the study tries for this method."""
        return math.prod(map(len, self.flags.values()))


@dataclass(frozen=True)
class Study:
    """What a file asks for, as typed values. `seeds` and `tuning`: {flag: its values}; `tuning` has "validation" and "seed"
    where the file has them."""

    name: str
    methods: tuple[Method, ...]
    seeds: dict[str, list]
    tuning: dict[str, list] = field(default_factory=dict)

    def runs(self, algorithms: Mapping[str, type[Options]]) -> dict[str, list[Options]]:
        """{method: its runs, all settings with all seeds}. Raises UserError."""
        return {method.name: self._runs(method, algorithms, self.seeds, {}) for method in self.methods}

    def tried(self, algorithms: Mapping[str, type[Options]]) -> dict[str, list[Options]]:
        """{method with several settings: the runs that choose among them}, on held-out data and with seeds of their own."""
        seeds = {**self.seeds, "seed": self.tuning.get("seed", [max(self.seeds["seed"]) + 1])}
        held_out = {"validation": self.tuning.get("validation", [0.2])}
        return {
            method.name: self._runs(method, algorithms, seeds, held_out) for method in self.methods if method.n_settings > 1
        }

    def _runs(self, method: Method, algorithms, seeds: Mapping[str, list], others: Mapping[str, list]) -> list[Options]:
        cls = algorithms[method.algorithm]
        values = {**method.shared, **method.flags, **seeds, **others}
        try:
            found = combined({method.algorithm: cls}, values, False, list(values), flags_of(cls))
            refuse_without_alpha(found, values)
        except UserError as error:
            raise UserError(f"--study {self.name}: [{method.name}] {error}") from None
        return found


def read(path: Path, algorithms: Mapping[str, type[Options]]) -> Study:
    """The study of a file. Raises UserError for what is none."""
    try:
        held = untrusted.toml(path)
    except untrusted.RefusedError as error:
        raise UserError(f"--study {path}: {error.reason}; must be a TOML file") from None
    wrong = f"--study {path}:"
    for section, content in held.items():
        if not isinstance(content, dict):
            raise UserError(
                f"{wrong} {section} stands in no section; must be below [problem], [settings], [seeds] or a method"
            )
    shared = {section: held.get(section, {}) for section in SECTIONS}
    for section, flags in shared.items():
        for name in flags:
            if name not in flags_of(Options):
                raise UserError(f"{wrong} [{section}] {name}: no such flag{nearest(name, list(flags_of(Options)))}")
            if role_of(name) != SECTIONS[section]:
                place = next(other for other, its_role in SECTIONS.items() if its_role == role_of(name))
                raise UserError(f"{wrong} [{section}] {name}: must stand below [{place}]")
    seeds = _typed(shared.pop("seeds"), flags_of(Options), f"{wrong} [seeds]")
    methods = [
        _method(name, content, shared, algorithms, wrong)
        for name, content in held.items()
        if name not in (*SECTIONS, "tuning")
    ]
    if not methods:
        raise UserError(f"{wrong} has no method; must have a section of an algorithm's name, such as [fedavg]")
    tuning = dict(held.get("tuning", {}))
    if strange := [name for name in tuning if name not in ("validation", "seed", "unequal")]:
        raise UserError(f"{wrong} [tuning] {strange[0]}: must be validation, seed or unequal")
    unequal = tuning.pop("unequal", False)
    if not isinstance(unequal, bool):
        raise UserError(f"{wrong} [tuning] unequal {unequal}: must be true or false")
    if not path.stem.strip("."):  # the folder of its runs would be another
        raise UserError(f"{wrong} is called by dots alone; must have a name, which its runs' folder has too")
    typed = _typed(tuning, flags_of(Options), f"{wrong} [tuning]")
    study = Study(path.stem, tuple(methods), {"seed": [0], **seeds}, typed)
    _fair(study, unequal, wrong)
    return study


def _method(name: str, content: Mapping[str, Any], shared: Mapping[str, Mapping], algorithms, wrong: str) -> Method:
    flags = {flag: value for flag, value in content.items() if flag != "algorithm"}
    algorithm = content.get("algorithm", name)
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        sections = ", ".join((*SECTIONS, "tuning"))
        hint = nearest(str(algorithm), [*algorithms, *SECTIONS])
        raise UserError(f"{wrong} [{name}]: neither an algorithm nor one of {sections}{hint}")
    known = flags_of(algorithms[algorithm])
    for flag in flags:
        if flag not in known:
            raise UserError(f"{wrong} [{name}] {flag}: {algorithm} reads no such flag{nearest(flag, list(known))}")
        if role_of(flag) != "setting":
            raise UserError(
                f"{wrong} [{name}] {flag}: is no setting of a method; it is of the {role_of(flag)}, and shared by all"
            )
    of_all: dict[str, list] = {}
    for section, values in shared.items():
        of_all |= _typed(values, known, f"{wrong} [{section}]")
    return Method(name, algorithm, _typed(flags, known, f"{wrong} [{name}]"), of_all)


def _fair(study: Study, unequal: bool, wrong: str) -> None:
    """Raises UserError where methods try unequal numbers of settings, or tune on the data or the seeds of the results."""
    tried = {method.name: method.n_settings for method in study.methods if method.n_settings > 1}
    if len(set(tried.values())) > 1 and not unequal:
        told = ", ".join(f"{name} {size}" for name, size in tried.items())
        raise UserError(f"{wrong} settings tried are {told}; must be as many for each, or unequal = true below [tuning]")
    if both := set(study.tuning.get("seed", [])) & set(study.seeds["seed"]):
        raise UserError(
            f"{wrong} [tuning] seed {min(both)}: is one of [seeds] too; a setting is chosen with seeds of its own"
        )
    shares = study.tuning.get("validation", [0.2])
    if len(shares) > 1 or not all(shares):
        told = " ".join(map(str, shares))
        raise UserError(
            f"{wrong} [tuning] validation {told}: must be one number above 0, the share of training data held out"
        )
    for method in study.methods:
        several = [name for name, values in method.shared.items() if len(values) > 1 and role_of(name) != "problem"]
        if several:
            raise UserError(f"{wrong} [settings] {several[0]}: has several values; what is tuned stands with each method")


def _typed(flags: Mapping[str, Any], declared: Mapping[str, Mapping], where: str) -> dict[str, list]:
    """Return {flag: its distinct values, as the flag has them}, of a section in TOML. A switch that is only false is not
    there: false is its default. Raises UserError."""
    found = {}
    for name, given in flags.items():
        several, takes = given if isinstance(given, list) else [given], declared[name]["type"]
        if not several:
            raise UserError(f"{where} {name}: has no value; write one, or leave the flag out")
        if takes is not None:
            try:
                found[name] = values_of(name, [_text(value) for value in several], takes)
            except UserError as error:
                raise UserError(f"{where} {error}") from None
        elif not all(isinstance(value, bool) for value in several):
            raise UserError(f"{where} {name}: is a switch; must be true or false")
        elif any(several):
            found[name] = list(dict.fromkeys(several))
    return found


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def save(runs: Sequence[Options], how: Launch) -> None:
    """Write the runs as a study to `--save_study`, and nothing else. Raises UserError."""
    try:
        how.save_study.write_text(text_of(runs))
    except OSError as error:
        raise UserError(f"--save_study {how.save_study}: cannot be written ({error.strerror})") from None
    brought = f" --plugin {','.join(how.plugin)}" if how.plugin else ""
    print_escaped(f"written to {how.save_study}; python run.py --study {how.save_study}{brought} runs it")


def text_of(runs: Sequence[Options]) -> str:
    """Runs as the text of a study that asks for them: what all share in its sections, the rest with each method. Raises
    UserError where the methods are not run on the same problems and seeds."""
    import tomli_w

    methods = {run.algorithm: [other for other in runs if other.algorithm == run.algorithm] for run in runs}
    values = {method: _values(of_it) for method, of_it in methods.items()}
    held: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS} | {method: {} for method in methods}
    for name, flag in flags_of(Options).items():
        role, told = role_of(name), [of_method[name] for of_method in values.values()]
        alike = all(one == told[0] for one in told)
        if role != "setting" and not alike:
            raise UserError(f"--save_study: --{name} is not the same for all methods, and is of the {role}")
        if role != "setting" or (alike and len(told[0]) == 1):
            places = [next(section for section, its_role in SECTIONS.items() if its_role == role)]
        else:
            places = list(methods)
        for place, found in zip(places, told, strict=False):
            if found != [flag["default"]]:
                held[place][name] = _toml(found)
    if any(lacks_alpha(held["problem"], run) for run in runs):
        held["problem"]["alpha"] = runs[0].alpha  # at its default, which is to be said here
    for method, of_method in values.items():
        own = {name: flag for name, flag in flags_of(type(methods[method][0])).items() if name not in flags_of(Options)}
        held[method] |= {name: _toml(of_method[name]) for name, flag in own.items() if of_method[name] != [flag["default"]]}
    return tomli_w.dumps({section: content for section, content in held.items() if content or section in methods})


def _values(runs: Sequence[Options]) -> dict[str, list]:
    """{flag: the values that it has in runs, in order; its default, where that becomes the value in each of them}"""
    values = {}
    for name, flag in flags_of(type(runs[0])).items():
        default, values[name] = flag["default"], list(dict.fromkeys(getattr(run, name) for run in runs))
        if values[name] != [default] and all(
            getattr(replace(run, **{name: default}), name) == getattr(run, name) for run in runs
        ):
            values[name] = [default]
    return values


def _toml(values: Sequence[Any]) -> Any:
    plain = [
        ",".join(map(str, value)) if isinstance(value, tuple) else value if isinstance(value, int | float) else str(value)
        for value in values
    ]
    return plain[0] if len(plain) == 1 else plain
