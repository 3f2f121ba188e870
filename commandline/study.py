"""A study in a file: methods by problems by seeds, with a separate tuning grid for each method.

    [problem]                            # flags of the problem; several values are several problems
    dataset = ["digits", "MNIST"]
    partition = "lda"
    alpha = [0.1, 1.0]

    [settings]                           # shared by all methods
    rounds = 20

    [fedavg]                             # a method: an algorithm's name and settings; the study tries several values
    lr = [0.01, 0.03, 0.1]

    [prox_light]                         # a method with another name needs its algorithm
    algorithm = "fedprox"
    mu = 0.01
    lr = [0.01, 0.03, 0.1]

    [execution]                          # evaluation and computation, and where the data are
    track_history = 5
    data_dir = "data"                    # --data_dir on the command line takes precedence

    [tuning]                             # chooses the setting of a method that is best on held-out training data
    validation = 0.2
    seed = [100]

    [seeds]
    seed = [0, 1, 2]
    split_seed = "seed"

Methods use the shared defaults, like several algorithms in one command. Studies that share sections can have them in one
file: `include = "methods.toml"`, above the first section. The values of the study itself replace those of that file.
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
from untrusted import print_escaped, wrap

SECTIONS = {
    "problem": "problem",
    "settings": "setting",
    "execution": "execution",
    "seeds": "seed",
}  # {section: the role of its flags}


@dataclass(frozen=True)
class Method:
    """A row of the study's table: an algorithm with values for its settings; the study tries all combinations."""

    name: str
    algorithm: str
    flags: dict[str, list]
    shared: dict[str, list]  # shared by all methods

    @property
    def n_settings(self) -> int:
        """The number of settings that the study tries for this method."""
        return math.prod(map(len, self.flags.values()))


@dataclass(frozen=True)
class Study:
    """The content of a study file, as typed values.

    `seeds` and `tuning`: {flag: its values}; `tuning` has "validation" and "seed" where the file has them. `data_dir`: the
    folder with the data sets, where the file names one.
    """

    name: str
    methods: tuple[Method, ...]
    seeds: dict[str, list]
    tuning: dict[str, list] = field(default_factory=dict)
    data_dir: Path | None = None

    def placed(self, launch_options: Launch) -> Launch:
        """Return the launch options with the file's `data_dir`, unless the command line names another folder."""
        is_default = launch_options.data_dir == Launch().data_dir
        return replace(launch_options, data_dir=self.data_dir) if self.data_dir and is_default else launch_options

    def runs(self, algorithms: Mapping[str, type[Options]]) -> dict[str, list[Options]]:
        """Return {method: its runs, all settings with all seeds}. Raises UserError."""
        return {method.name: self._runs(method, algorithms, self.seeds, {}) for method in self.methods}

    def tried(self, algorithms: Mapping[str, type[Options]]) -> dict[str, list[Options]]:
        """Return {method with several settings: the runs that choose among the settings}.

        These runs hold data out, and have seeds that the results do not use.
        """
        seeds = {**self.seeds, "seed": self.tuning.get("seed", [max(self.seeds["seed"]) + 1])}
        held_out = {"validation": self.tuning.get("validation", [0.2])}
        return {
            method.name: self._runs(method, algorithms, seeds, held_out) for method in self.methods if method.n_settings > 1
        }

    def _runs(
        self, method: Method, algorithms, seeds: Mapping[str, list], other_values: Mapping[str, list]
    ) -> list[Options]:
        options_class = algorithms[method.algorithm]
        values = {**method.shared, **method.flags, **seeds, **other_values}
        try:
            runs = combined({method.algorithm: options_class}, values, False, list(values), flags_of(options_class))
            refuse_without_alpha(runs, values)
        except UserError as error:
            raise UserError(f"--study {self.name}: [{method.name}] {error}") from None
        return runs


def read(path: Path, algorithms: Mapping[str, type[Options]]) -> Study:
    """Return the study in a file. Raises UserError for a file that is no study."""
    prefix, document = f"--study {path}:", _sections(path)
    shared = {section: dict(document.get(section, {})) for section in SECTIONS}
    data_dir = _parse_data_dir(shared["execution"].pop("data_dir", None), f"{prefix} [execution]")
    for section, flags in shared.items():
        for name in flags:
            if name in flags_of(Launch):  # `data_dir` of [execution] is taken out above
                place = "in [execution]" if name == "data_dir" else "on the command line"
                raise UserError(f"{prefix} [{section}] {name}: must be {place}")
            if name not in flags_of(Options):
                raise UserError(
                    f"{prefix} [{section}] {name}: not a flag that all methods have{nearest(name, list(flags_of(Options)))}"
                )
            if role_of(name) != SECTIONS[section]:
                section_of_flag = next(other for other, its_role in SECTIONS.items() if its_role == role_of(name))
                raise UserError(f"{prefix} [{section}] {name}: must be in [{section_of_flag}]")
    seeds = _parse_flags(shared.pop("seeds"), flags_of(Options), f"{prefix} [seeds]")
    methods = [
        _parse_method(name, content, shared, algorithms, prefix)
        for name, content in document.items()
        if name not in (*SECTIONS, "tuning")
    ]
    if not methods:
        raise UserError(f"{prefix} has no method; add a section with an algorithm's name, such as [fedavg]")
    tuning = dict(document.get("tuning", {}))
    if unknown := [name for name in tuning if name not in ("validation", "seed", "unequal")]:
        raise UserError(f"{prefix} [tuning] {unknown[0]}: must be validation, seed or unequal")
    unequal = tuning.pop("unequal", False)
    if not isinstance(unequal, bool):
        raise UserError(f"{prefix} [tuning] unequal {unequal}: must be true or false")
    if not path.stem.strip("."):  # its runs would end up in another folder
        raise UserError(f"{prefix} has only dots as its name; rename it, the folder of its runs gets the same name")
    typed = _parse_flags(tuning, flags_of(Options), f"{prefix} [tuning]")
    study = Study(path.stem, tuple(methods), {"seed": [0], **seeds}, typed, data_dir)
    _refuse_unfair(study, unequal, prefix)
    return study


def _sections(path: Path, is_included: bool = False) -> dict[str, dict[str, Any]]:
    """Return {section: its content} of a file, with the sections of the file that it includes. Raises UserError."""
    try:
        document = untrusted.toml(path)
    except untrusted.RefusedError as error:
        raise UserError(f"--study {path}: {error.reason}; must be a TOML file") from None
    included: dict[str, dict[str, Any]] = {}
    if "include" in document and not is_included:
        if not isinstance(other := document.pop("include"), str):
            raise UserError(f"--study {path}: include {other}: must be the path of another study file, relative to this one")
        included = _sections(path.parent / other, is_included=True)
    for section, content in document.items():
        if not isinstance(content, dict):
            raise UserError(
                f"--study {path}: {section} is outside a section; must be in [problem], [settings], [seeds] or a method"
            )
    return included | {section: {**included.get(section, {}), **content} for section, content in document.items()}


def _parse_data_dir(value: Any, prefix: str) -> Path | None:
    if not isinstance(value, str | None):
        raise UserError(f"{prefix} data_dir {value}: must be one folder, in quotes")
    return None if value is None else Path(value)


def _parse_method(name: str, content: Mapping[str, Any], shared: Mapping[str, Mapping], algorithms, prefix: str) -> Method:
    flags = {flag: value for flag, value in content.items() if flag != "algorithm"}
    algorithm = content.get("algorithm", name)
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        sections = ", ".join((*SECTIONS, "tuning"))
        hint = nearest(str(algorithm), [*algorithms, *SECTIONS])
        raise UserError(f"{prefix} [{name}]: must be an algorithm or one of {sections}{hint}")
    known_flags = flags_of(algorithms[algorithm])
    for flag in flags:
        if flag not in known_flags:
            raise UserError(f"{prefix} [{name}] {flag}: not a flag of {algorithm}{nearest(flag, list(known_flags))}")
        if role_of(flag) != "setting":
            raise UserError(
                f"{prefix} [{name}] {flag}: is part of the {role_of(flag)}, which all methods share; move it out of the "
                "method's section"
            )
    shared_values: dict[str, list] = {}
    for section, values in shared.items():
        shared_values |= _parse_flags(values, known_flags, f"{prefix} [{section}]")
    return Method(name, algorithm, _parse_flags(flags, known_flags, f"{prefix} [{name}]"), shared_values)


def _refuse_unfair(study: Study, unequal: bool, prefix: str) -> None:
    """Raise UserError for unequal numbers of settings, or tuning on the data or the seeds of the results."""
    n_tried = {method.name: method.n_settings for method in study.methods if method.n_settings > 1}
    if len(set(n_tried.values())) > 1 and not unequal:
        shown = ", ".join(f"{name} {size}" for name, size in n_tried.items())
        raise UserError(
            f"{prefix} numbers of settings are {shown}; must be equal for all methods, or add unequal = true to [tuning]"
        )
    if shared_seeds := set(study.tuning.get("seed", [])) & set(study.seeds["seed"]):
        raise UserError(f"{prefix} [tuning] seed {min(shared_seeds)}: is also in [seeds]; use other seeds for tuning")
    shares = study.tuning.get("validation", [0.2])
    if len(shares) > 1 or not all(shares):
        shown = " ".join(map(str, shares))
        raise UserError(
            f"{prefix} [tuning] validation {shown}: must be one number above 0 (the fraction of training data held out)"
        )
    for method in study.methods:
        several = [name for name, values in method.shared.items() if len(values) > 1 and role_of(name) != "problem"]
        if several:
            section = next(section for section, role in SECTIONS.items() if role == role_of(several[0]))
            remedy = "put tuned flags into the section of each method" if section == "settings" else "use one"
            raise UserError(f"{prefix} [{section}] {several[0]}: has several values; {remedy}")


def _parse_flags(flags: Mapping[str, Any], declared: Mapping[str, Mapping], prefix: str) -> dict[str, list]:
    """Return {flag: its distinct values, typed}, of a section in TOML.

    A switch that is only false is left out: false is its default. Raises UserError.
    """
    typed = {}
    for name, content in flags.items():
        items, flag_type = content if isinstance(content, list) else [content], declared[name]["type"]
        if not items:
            raise UserError(f"{prefix} {name}: has no value; add one or remove the flag")
        if flag_type is not None:
            try:
                typed[name] = values_of(name, [_format_value(value) for value in items], flag_type)
            except UserError as error:
                raise UserError(f"{prefix} {error}") from None
        elif not all(isinstance(value, bool) for value in items):
            raise UserError(f"{prefix} {name}: is a switch; must be true or false")
        elif any(items):
            typed[name] = list(dict.fromkeys(items))
    return typed


def _format_value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def save(runs: Sequence[Options], launch_options: Launch) -> None:
    """Write the runs as a study to `--save_study`, and nothing else. Raises UserError."""
    try:
        launch_options.save_study.write_text(text_of(runs, launch_options))
    except OSError as error:
        raise UserError(f"--save_study {launch_options.save_study}: cannot be written ({error.strerror})") from None
    plugin_words = f" --plugin {','.join(launch_options.plugin)}" if launch_options.plugin else ""
    command = f"python run.py --study {launch_options.save_study}{plugin_words}"
    print_escaped(wrap(f"wrote {launch_options.save_study}; run it with: {command}"))


def text_of(runs: Sequence[Options], launch_options: Launch) -> str:
    """Return the text of a study that requests these runs.

    Values that all methods share are in the study's sections, the rest in the section of each method. Raises UserError where
    the methods do not run on the same problems and seeds.
    """
    import tomli_w

    methods = {run.algorithm: [other for other in runs if other.algorithm == run.algorithm] for run in runs}
    values = {method: _values_of_runs(method_runs) for method, method_runs in methods.items()}
    document: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS} | {method: {} for method in methods}
    for name, flag in flags_of(Options).items():
        role, by_method = role_of(name), [flag_values[name] for flag_values in values.values()]
        is_shared = all(method_values == by_method[0] for method_values in by_method)
        if role != "setting" and not is_shared:
            raise UserError(
                f"--save_study: --{name} differs between methods, but is part of the {role}, which all methods share"
            )
        if role != "setting" or (is_shared and len(by_method[0]) == 1):
            sections = [next(section for section, its_role in SECTIONS.items() if its_role == role)]
        else:
            sections = list(methods)
        for target, section_values in zip(sections, by_method, strict=False):
            if section_values != [flag["default"]]:
                document[target][name] = _toml_value(section_values)
    if launch_options.data_dir != Launch().data_dir:
        document["execution"]["data_dir"] = str(launch_options.data_dir)
    if any(lacks_alpha(document["problem"], run) for run in runs):
        document["problem"]["alpha"] = runs[0].alpha  # write the default too: the partition requires it
    for method, flag_values in values.items():
        own = {name: flag for name, flag in flags_of(type(methods[method][0])).items() if name not in flags_of(Options)}
        document[method] |= {
            name: _toml_value(flag_values[name]) for name, flag in own.items() if flag_values[name] != [flag["default"]]
        }
    return tomli_w.dumps({section: content for section, content in document.items() if content or section in methods})


def _values_of_runs(runs: Sequence[Options]) -> dict[str, list]:
    """Return {flag: its values in the runs, in order}; the default, where the default gives the same runs."""
    values = {}
    for name, flag in flags_of(type(runs[0])).items():
        default, values[name] = flag["default"], list(dict.fromkeys(getattr(run, name) for run in runs))
        if values[name] != [default] and all(
            getattr(replace(run, **{name: default}), name) == getattr(run, name) for run in runs
        ):
            values[name] = [default]
    if len(values["seed"]) > 1 and all(run.split_seed == run.seed for run in runs):
        values["split_seed"] = ["seed"]  # the lists of both would ask for each split with each seed
    return values


def _toml_value(values: Sequence[Any]) -> Any:
    plain_values = [
        ",".join(map(str, value)) if isinstance(value, tuple) else value if isinstance(value, int | float) else str(value)
        for value in values
    ]
    return plain_values[0] if len(plain_values) == 1 else plain_values
