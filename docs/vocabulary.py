"""Write the words of a round, docs/vocabulary.md, from the docstrings and from the algorithms that use the words.

python -m docs.vocabulary
"""

import ast
import inspect
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import algorithms
import helpers
from federation import Federation
from federation.wire import Wire

PAGE = Path(__file__).with_suffix(".md")
COMMON = 4  # methods: a word of as many is common
TEXT = """# The words of a round

For readers who write an algorithm. A round, `communicate(federation, state, options)`, uses functions of `helpers` and the
parts of `federation`. A variant of FedAvg takes {n_first} words; with {n_common} more you can read almost every method of
Chorus. [Extending](extending.md) shows both in use, and the [rules](extending.md#rules-for-an-algorithm). `python -m
docs.vocabulary` makes this page from the docstrings; "methods" counts the methods of Chorus that use a word.

## A variant of FedAvg: {n_first} words

In the order of `communicate` in `algorithms/fedavg.py`:

{first}

## Common words: {n_common}

{common}

## Rare words: {n_rare}

{rare}
"""
FIELD = r"`{}`(?: [^:`]*)?: (.*?)(?:\. |\.$|; )"  # what the docstring of a class says of a field


def page() -> str:
    """Return the text of the page."""
    counts = Counter(word for module in algorithms.ALGORITHMS.values() for word in set(_words_in(module)))
    first = dict.fromkeys(_words_in(algorithms.ALGORITHMS["fedavg"].communicate))
    others = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if word not in first]
    common, rare = ([word for word in others if (counts[word] >= COMMON) is is_common] for is_common in (True, False))
    groups = {"first": list(first), "common": common, "rare": rare}
    tables = {name: _table({word: counts[word] for word in words}) for name, words in groups.items()}
    return TEXT.format(**tables, **{f"n_{name}": len(words) for name, words in groups.items()})


def _words_in(part: Any) -> list[str]:
    """Return the described words that a module or function uses, in the order of the text."""
    tree = ast.parse(inspect.getsource(part))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    texts = [ast.unparse(node) for node in nodes]
    return [text for text in texts if re.fullmatch(r"\w+|federation\.(wire\.)?\w+", text) and _sentence(text)]


def _thing(word: str) -> Any:
    """Return the object that a word names: a part of `helpers`, of a federation or of its wire."""
    *owner, name = word.split(".")
    return getattr({0: helpers, 1: Federation, 2: Wire}[len(owner)], name, None)


def _sentence(word: str) -> str:
    """Return the first sentence of a word's docstring; "" for a word without docstring, or of another module."""
    thing = _thing(word)
    if word.startswith("federation.") and not callable(thing) and not isinstance(thing, property):
        match = re.search(FIELD.format(word.split(".")[-1]), " ".join(Federation.__doc__.split()))
        return match[1][0].upper() + match[1][1:] + "." if match else ""
    if isinstance(thing, ModuleType) or (word.isidentifier() and getattr(thing, "__module__", "") != helpers.__name__):
        return ""
    return re.split(r"(?<=[^.]\.) ", " ".join(inspect.getdoc(thing).split()))[0]


def _table(counts: dict[str, int]) -> str:
    """Return a table of words."""
    rows = [f"| `{_call(word)}` | {_sentence(word)} | {n} |".replace("||", r"\|\|") for word, n in counts.items()]
    return "\n".join(["| word | what it does | methods |", "|---|---|---|", *rows])


def _call(word: str) -> str:
    """Return a word as an algorithm writes it, with the arguments that it requires."""
    thing = _thing(word)
    if not inspect.isfunction(thing):
        return word
    parameters = [parameter for name, parameter in inspect.signature(thing).parameters.items() if name != "self"]
    arguments = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return f"{word}({', '.join([*arguments, *(['...'] * (len(arguments) < len(parameters)))])})"


if __name__ == "__main__":
    PAGE.write_text(page())
