"""The algorithms, by family. To add one: its module, and its name in `FAMILIES`.

A module has a docstring, whose first line says what is sent, and in this order
- `Options`: its flags and its defaults for shared ones, a frozen dataclass;
- `loss(model, batch, given, options) -> scalar`: of one client on one batch (`helpers.Batch`), model(x) -> features [B, D],
  logits [B, C]; `given` is the client's row of what `train` was given;
- `start(federation, options) -> state`: a dict of plain containers and tensors; what it sends is round 0;
- `communicate(federation, state, options) -> helpers.Round`: one round; it replaces what it changes in the state.

What takes long goes through `train`, `outputs` or `federation.work`, so that its floating point operations are counted and
`--plan` can pass over it; how much that is must not depend on what was learned.

It may also have
- `mixed = True`: clients may have different architectures; `same_features = True`: but features of one dimension;
- `public = True`: it learns from `federation.public`, examples that everybody may look at;
- `idle = True`: its clients do nothing in a round, and cannot fail;
- `heads = True`: its models have auxiliary heads (`models.HeadsNet`);
- `check(options, data, n_train) -> words`, told before the first round; it raises UserError for what cannot work;
- `tuning_loss`: what `--ft_epochs` trains with, where that is not the cross-entropy;
- `rebuild(options, inputs, client, answer) -> network` of a saved answer, where that is not the client's architecture.
"""

from dataclasses import fields
from types import ModuleType

from algorithms import (
    apfl,
    centralized,
    cfkd,
    data_exchange,
    ditto,
    dpsgd,
    epidemic,
    fd,
    fedala,
    fedavg,
    fedbabu,
    feddf,
    feddyn,
    fedgkt,
    fedmd,
    fednova,
    fedopt,
    fedper,
    fedproto,
    fedprox,
    fedrep,
    fml,
    independent,
    lg_fedavg,
    mhmd,
    moon,
    perfedavg,
    pfedme,
    scaffold,
)
from algorithms.published import cfkd as published_cfkd
from algorithms.published import fd as published_fd
from algorithms.published import fedavg as published_fedavg
from algorithms.published import fedgkt as published_fedgkt

FAMILIES: dict[str, dict[str, ModuleType]] = {
    "one global model, by averaging weights": {
        "fedavg": fedavg,
        "fedprox": fedprox,
        "scaffold": scaffold,
        "fedopt": fedopt,
        "fednova": fednova,
        "feddyn": feddyn,
        "moon": moon,
    },
    "personal models, of which a part is averaged": {
        "fedbabu": fedbabu,
        "fedper": fedper,
        "fedrep": fedrep,
        "lg_fedavg": lg_fedavg,
        "mhmd": mhmd,
    },
    "a personal model beside the one for all": {
        "ditto": ditto,
        "pfedme": pfedme,
        "perfedavg": perfedavg,
        "apfl": apfl,
        "fedala": fedala,
    },
    "models of their own, that share knowledge instead of weights": {
        "cfkd": cfkd,
        "fedproto": fedproto,
        "fml": fml,
        "fedmd": fedmd,
        "feddf": feddf,
        "fd": fd,
        "fedgkt": fedgkt,
    },
    "neighbours on a graph, without a server": {
        "data_exchange": data_exchange,
        "dpsgd": dpsgd,
        "epidemic": epidemic,
    },
    "reference lines, that do not collaborate": {
        "independent": independent,
        "centralized": centralized,
    },
}
ALGORITHMS: dict[str, ModuleType] = {name: module for family in FAMILIES.values() for name, module in family.items()}
# the same with the quirks of a reference system, where it has any that change numbers
PUBLISHED: dict[str, ModuleType] = {
    "cfkd": published_cfkd,
    "fd": published_fd,
    "fedavg": published_fedavg,
    "fedgkt": published_fedgkt,
}


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
    asked = any(f.metadata["needs"] is None or f.metadata["needs"].holds(options) for f in quirks)
    return PUBLISHED[options.algorithm] if asked else plain


def says(name: str, what: str) -> bool:
    """Whether an algorithm's module says of itself that it is `mixed`, has the `same_features`, needs `heads`, `public`."""
    return getattr(ALGORITHMS.get(name), what, False)


def describe(name: str) -> str:
    """What is sent, in a line; and whose method it is: the first two paragraphs of its docstring."""
    return "\n\n".join(ALGORITHMS[name].__doc__.strip().split("\n\n")[:2])
