"""The algorithms, by family. To add one: its module, and its name in `FAMILIES`.

A module has a docstring, whose first line says what is sent, and whose paragraph "Defaults: ..." names the source of its
default values; and in this order
- `Options`: its flags and its defaults for shared ones, a frozen dataclass;
- `loss(model, batch, given, options) -> scalar`: of one client on one batch (`helpers.Batch`), model(x) -> features [B, D],
  logits [B, C]; `given` is the client's row of what `train` was given;
- `start(federation, options) -> state`: a dict of plain containers and tensors; what it sends is round 0;
- `communicate(federation, state, options) -> helpers.Round`: one round; it replaces what it changes in the state.

What takes long goes through `train`, `outputs` or `federation.count_flops`, so that its floating point operations are
counted and `--plan` can pass over it; how much that is must not depend on what was learned.

It may also have
- `mixed = True`: clients may have different architectures; `same_features = True`: but features of one dimension;
- `public = True`: it learns from `federation.public`, examples that everybody may look at;
- `idle = True`: its clients do nothing in a round, and cannot fail;
- `sample(federation, options) -> clients` of a round, where that is not `federation.sample()`;
- `heads = True`: its models have auxiliary heads (`models.HeadsNet`);
- `check(options, data, n_train) -> words`, told before the first round; it raises UserError for what cannot work;
- `tuning_loss`: what `--ft_epochs` trains with, where that is not the cross-entropy;
- `rebuild(options, inputs, client, answer) -> network` of a saved answer, where that is not the client's architecture.
"""

import inspect
import re
from dataclasses import fields
from importlib import import_module
from types import ModuleType

from options import Launch, Options, flags_of

FAMILIES: dict[str, tuple[str, ...]] = {
    "one global model, by averaging weights": (
        "fedavg",
        "fedprox",
        "scaffold",
        "fedopt",
        "fednova",
        "feddyn",
        "moon",
    ),
    "personal models, of which a part is averaged": (
        "fedbabu",
        "fedper",
        "fedrep",
        "lg_fedavg",
        "mhmd",
    ),
    "a personal model beside the one for all": (
        "ditto",
        "pfedme",
        "perfedavg",
        "apfl",
        "fedala",
    ),
    "models of their own, that share knowledge instead of weights": (
        "cfkd",
        "fedproto",
        "fml",
        "fedmd",
        "feddf",
        "fd",
        "fedgkt",
    ),
    "neighbours on a graph, without a server": (
        "data_exchange",
        "dpsgd",
        "epidemic",
    ),
    "reference lines, that do not collaborate": (
        "independent",
        "centralized",
    ),
}
ALGORITHMS: dict[str, ModuleType] = {
    name: import_module(f"algorithms.{name}") for family in FAMILIES.values() for name in family
}
# the same with the quirks of a reference system, where it has any that change numbers
PUBLISHED: dict[str, ModuleType] = {
    name: import_module(f"algorithms.published.{name}") for name in ("cfkd", "fd", "fedavg", "fedgkt")
}
DEFAULTS = "Defaults: "  # how the paragraph of a docstring begins that names the source of the default values
PARTS = {  # functions that every algorithm has, and what they are given
    "loss": ["model", "batch", "given", "options"],
    "start": ["federation", "options"],
    "communicate": ["federation", "state", "options"],
}


def lacking(module: ModuleType) -> list[str]:
    """In words, what a module has not that an algorithm has."""
    found = [] if str(module.__doc__ or "").strip() else ["docstring, whose first line says what is sent"]
    cls = getattr(module, "Options", None)
    if not (isinstance(cls, type) and issubclass(cls, Options) and cls.__dict__.get("__dataclass_params__")):
        found.append("Options, a frozen dataclass that inherits options.Options")
    elif taken := flags_of(cls).keys() & flags_of(Launch).keys():
        found.append(f"name of its own for its flag {min(taken)}, which says how to run")
    for name, parameters in PARTS.items():
        function = getattr(module, name, None)
        if _parameters(function) != parameters:
            found.append(f"{name}({', '.join(parameters)})")
    return found


def _parameters(function: object) -> list[str] | None:
    """The names of what a function is given; None of what is no function, or does not tell them."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


def options_of(name: str) -> type:
    """The Options class of an algorithm, its quirks included."""
    return PUBLISHED.get(name, ALGORITHMS[name]).Options


def all_options() -> dict[str, type]:
    """{algorithm: its Options class}, what the parser of a command line is given."""
    return {name: options_of(name) for name in ALGORITHMS}


def module_of(options) -> ModuleType:
    """The module that carries these options out: the published one where any of its quirks is asked for."""
    plain = ALGORITHMS[options.algorithm]
    inherited = {f.name for f in fields(plain.Options)}
    quirks = [f for f in fields(options) if f.name not in inherited and getattr(options, f.name) != f.default]
    asked = any(f.metadata["requires"] is None or f.metadata["requires"].holds(options) for f in quirks)
    return PUBLISHED[options.algorithm] if asked else plain


def says(name: str, what: str) -> bool:
    """Whether an algorithm's module says of itself that it is `mixed`, has the `same_features`, needs `heads`, `public`."""
    return getattr(ALGORITHMS.get(name), what, False)


def describe(name: str) -> str:
    """What is sent, in a line; whose method it is; and the source of its defaults: these paragraphs of its docstring."""
    first, *others = ALGORITHMS[name].__doc__.strip().split("\n\n")
    return "\n\n".join([first, *others[:1], *(part for part in others[1:] if part.startswith(DEFAULTS))])


def defaults(name: str) -> str:
    """Return the first sentence on the source of an algorithm's defaults; "" if its docstring has none."""
    module = ALGORITHMS.get(name)
    parts = (module.__doc__ or "").split("\n\n") if module else []
    text = " ".join(next((part for part in parts if part.startswith(DEFAULTS)), "").removeprefix(DEFAULTS).split())
    return re.split(r"\.(?: |$)", text)[0]
