"""The algorithms, by family. To add one, write its module and add its name to `FAMILIES`.

A module has a docstring whose first line says what is sent, and whose paragraph "Defaults: ..." names the source of its
default values; a paragraph "A new client ...", unless there is one global model; and in this order
- `Options`: its flags and its defaults for shared flags, a frozen dataclass;
- `loss(model, batch, context, options) -> scalar`: the loss of one client on one batch (`helpers.Batch`), model(x) ->
  features [B, D], logits [B, C]; `context` is the client's row of the argument `context` of `train`;
- `start(federation, options) -> state`: a dict of plain containers and tensors; messages sent here belong to round 0;
- `communicate(federation, state, options) -> helpers.Round`: one round; it replaces the parts of the state that change.

Work that takes long must use `train`, `outputs` or `federation.count_flops`, so that its floating point operations are
counted and `--plan` can skip it. The amount of work must not depend on what was learned.

A module may also have
- `mixed = True`: clients may have different architectures; `same_features = True`: with features of the same dimension;
- `public = True`: it learns from `federation.public`, examples that every party may use;
- `idle = True`: its clients do nothing in a round, and cannot fail;
- `uploads`: {kind of message that a client sends to the server: how the server uses it}. "": it needs only the sum over the
  clients of a round; "n_k", or another kind or an entry of the message: only the sum weighted by it; None: it needs single
  messages. Without `uploads`, `--secure_aggregation` is refused;
- `private_steps = True`: clients use their examples in local steps (`train`), and in class means (`sent_means`),
  alone, and the loss is a mean over examples, so `--dp_sgd` protects each example; `class_means`: {kind of message: the
  number of class means in it that contain an example};
- `stale = True`: the server also uses the last messages of absent clients;
- `sample(federation, options) -> clients` of a round, if other than `federation.sample()`;
- `new_clients`: None, if a client that took part in no round receives no model (`--new_clients`). By default it receives the
  round's "global" model, or else the weights from which a client starts after `download`, with the state of `one_model`.
  Otherwise the name of a model of the round that also a client of a higher number has;
- `heads = True`: its models have auxiliary heads (`models.HeadsNet`);
- `check(options, data, n_train) -> message`, logged before the first round; it raises UserError for what cannot work;
- `published_tuned = True`: its published accuracy is after fine-tuning, so a table without `--ft_epochs` says so;
- `tuning_loss`: the loss of `--ft_epochs`, if other than the cross-entropy;
- `rebuild(options, inputs, client, answer) -> network` of a saved model, if other than the client's architecture.
"""

import inspect
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType

from options import Launch, Options, flags_of

FAMILIES: dict[str, tuple[str, ...]] = {
    "one global model: the server averages weights": (
        "fedavg",
        "fedprox",
        "scaffold",
        "fedopt",
        "fednova",
        "feddyn",
        "moon",
    ),
    "personal models: the server averages a part of the weights": (
        "fedbabu",
        "fedper",
        "fedrep",
        "lg_fedavg",
        "mhmd",
    ),
    "a global model and a personal model per client": (
        "ditto",
        "pfedme",
        "perfedavg",
        "apfl",
        "fedala",
    ),
    "own models: clients share knowledge instead of weights": (
        "cfkd",
        "fedproto",
        "fml",
        "fedmd",
        "feddf",
        "fd",
        "fedgkt",
    ),
    "decentralized: neighbours on a graph exchange models, without a server": (
        "data_exchange",
        "dpsgd",
        "epidemic",
    ),
    "baselines without collaboration": (
        "independent",
        "centralized",
    ),
}
ALGORITHMS: dict[str, ModuleType] = {
    name: import_module(f"algorithms.{name}") for family in FAMILIES.values() for name in family
}
# variants with the quirks of a reference system that change numbers
PUBLISHED: dict[str, ModuleType] = {
    name: import_module(f"algorithms.published.{name}") for name in ("cfkd", "fd", "fedavg", "fedgkt")
}
NEW_CLIENT = "A new client (`--new_clients`)"  # first words of the paragraph that says what a new client receives
DEFAULTS = "Defaults: "  # first word of the docstring's paragraph with the source of the default values
PARTS = {  # functions that every algorithm has, and their parameters
    "loss": ["model", "batch", "context", "options"],
    "start": ["federation", "options"],
    "communicate": ["federation", "state", "options"],
}


def lacking(module: ModuleType) -> list[str]:
    """Return messages with the parts that a module lacks to be an algorithm."""
    missing = [] if str(module.__doc__ or "").strip() else ["docstring (its first line says what is sent)"]
    cls = getattr(module, "Options", None)
    if not (isinstance(cls, type) and issubclass(cls, Options) and cls.__dict__.get("__dataclass_params__")):
        missing.append("Options (a frozen dataclass that inherits options.Options)")
    elif duplicates := flags_of(cls).keys() & flags_of(Launch).keys():
        missing.append(f"another name for its flag {min(duplicates)} (this name is a launch flag)")
    else:
        missing += [f"another default for its flag {flag}: {problem}" for flag, problem in _wrong_defaults(cls)]
    for name, parameters in PARTS.items():
        function = getattr(module, name, None)
        if _parameters(function) != parameters:
            missing.append(f"{name}({', '.join(parameters)})")
    return missing


def _wrong_defaults(cls: type) -> list[tuple[str, str]]:
    """Return (flag, problem) for each default that the flag itself would not accept."""
    wrong = []
    for name, declared in flags_of(cls).items():
        default, flag_type = declared["default"], declared["type"]
        if default is None or flag_type in (None, str, Path):
            continue
        text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        try:
            flag_type(text)
        except (ValueError, TypeError):
            wrong.append((name, f"{text} must be {flag_type}"))
    return wrong


def _parameters(function: object) -> list[str] | None:
    """Return the names of a function's parameters; None for an object that is no function or has no signature."""
    try:  # `given` is the earlier name of `context`
        return ["context" if name == "given" else name for name in inspect.signature(function).parameters]
    except (TypeError, ValueError):
        return None


def options_of(name: str) -> type:
    """Return the Options class of an algorithm, with its published quirks."""
    return PUBLISHED.get(name, ALGORITHMS[name]).Options


def all_options() -> dict[str, type]:
    """Return {algorithm: its Options class} for the command-line parser."""
    return {name: options_of(name) for name in ALGORITHMS}


def module_of(options) -> ModuleType:
    """Return the module for these options: the published variant if the options set any of its quirks."""
    standard = ALGORITHMS[options.algorithm]
    inherited = {f.name for f in fields(standard.Options)}
    quirks = [f for f in fields(options) if f.name not in inherited and getattr(options, f.name) != f.default]
    has_quirk = any(f.metadata["requires"] is None or f.metadata["requires"].holds(options) for f in quirks)
    return PUBLISHED[options.algorithm] if has_quirk else standard


def says(name: str, what: str) -> bool:
    """Return whether an algorithm's module sets a flag: `mixed`, `same_features`, `heads`, `public`."""
    return getattr(ALGORITHMS.get(name), what, False)


def describe(name: str) -> str:
    """Return the paragraphs of an algorithm's docstring for the help: summary, paper, what a new client receives, and source
    of the defaults."""
    first, *others = ALGORITHMS[name].__doc__.strip().split("\n\n")
    return "\n\n".join([first, *others[:1], *(part for part in others[1:] if part.startswith((NEW_CLIENT, DEFAULTS)))])


def defaults(name: str) -> str:
    """Return the first sentence on the source of an algorithm's defaults; "" if its docstring has none."""
    module = ALGORITHMS.get(name)
    parts = (module.__doc__ or "").split("\n\n") if module else []
    text = " ".join(next((part for part in parts if part.startswith(DEFAULTS)), "").removeprefix(DEFAULTS).split())
    return re.split(r"\.(?: |$)", text)[0]
