"""Attacks on the messages of a run: what do they reveal about a client's data? To add one, write its module and its name.

An attack is a module with a docstring (what it infers, its source, what it must know, differences from the source) and

    attack(recording, public, options) -> knowledge.Guess

`recording` (`knowledge.Recording`) holds the messages and what the attacker knows of the run, `public` (`knowledge.Public`)
holds public data and candidates, and `options` is an instance of the module's frozen dataclass `Options`, or None without
one. An attack returns `Guess()` where the messages do not allow it. It has no other input: `judge` alone knows the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from types import ModuleType
from typing import Any

from attacks.knowledge import Guess, Public, Recording
from errors import UserError
from options import nearest

ATTACKS: dict[str, ModuleType] = {
    name: import_module(f"attacks.{name}")
    for name in (
        "declared_labels",
        "update_labels",
        "mean_predictions",
        "class_outputs",
        "sent_images",
        "linear_inputs",
        "linear_span",
        "update_matching",
        "feature_maps",
        "loss_threshold",
        "lira",
        "class_means",
    )
}
Attack = Callable[[Recording, Public, Any], Guess]


def options_of(name: str) -> Any:
    """Return the default options of an attack; None if it has none."""
    options = getattr(ATTACKS[name], "Options", None)
    return options and options()


def options_from(words: Sequence[str]) -> dict[str, Any]:
    """Return {attack: its options} from words ATTACK.NAME=VALUE; the other options are the defaults. Raise UserError."""
    chosen: dict[str, Any] = {}
    for word in words:
        name, _, setting = word.partition(".")
        flag, is_set, text = setting.partition("=")
        if name not in ATTACKS:
            raise UserError(f"--set {word}: {name} is no attack{nearest(name, list(ATTACKS))}")
        options = chosen.get(name, options_of(name))
        values = asdict(options) if options else {}
        if flag not in values or not is_set:
            known = ", ".join(f"{name}.{other}={value}" for other, value in values.items())
            raise UserError(f"--set {word}: must be one of {known}" if known else f"--set {word}: {name} has no options")
        kind = type(values[flag])
        try:
            chosen[name] = replace(options, **{flag: kind(text)})
        except ValueError:
            raise UserError(f"--set {word}: must be {'a whole number' if kind is int else 'a number'}") from None
    return chosen


def register(module: ModuleType) -> bool:
    """Add a user's module to the attacks; return whether it is one, a module with a function `attack`."""
    if callable(getattr(module, "attack", None)):
        ATTACKS[module.__name__] = module
    return module.__name__ in ATTACKS
