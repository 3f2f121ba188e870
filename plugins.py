"""Code that a command brings along, in Python files outside the house: an algorithm, or what adds a data set, a model, a
partitioner, an optimizer, a measure to its table.

A file is imported before the flags are read, under its own name, in every process that takes part in a run. It may import
what lies beside it. It may add to the tables: what is in them already stays as it is.
"""

import ast
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import algorithms
from algorithms import ALGORITHMS
from data.augment import AUGMENTATIONS
from data.datasets import LOADERS
from data.partition import PARTITIONS
from errors import UserError, reason_of
from helpers import SCHEDULES
from measures import MEASURES
from models import MODELS
from optimizers import OPTIMIZERS
from options import Options, plain
from untrusted import is_there

TABLES: tuple[dict, ...] = (
    ALGORITHMS,
    LOADERS,
    MODELS,
    PARTITIONS,
    OPTIMIZERS,
    AUGMENTATIONS,
    SCHEDULES,
    MEASURES,
)
OURS = {name for table in TABLES for name in table}
HERE, MODULES = Path(__file__).resolve().parent, frozenset(sys.modules)  # of the house, all that a plugin needs


@dataclass(frozen=True)
class Plugin:
    """A file that was imported, and the names that it has added to the tables."""

    path: Path
    names: frozenset[str]


LOADED: dict[str, Plugin] = {}  # by the module's name


def load(given: str | Path) -> ModuleType:
    """The module of a file, whose name is the file's stem; where it was loaded before, that one. Raises UserError for a file
    that is not there, whose name is taken, that fails (with the line), that changes what is in a table, or that has a part
    of an algorithm only."""
    path = Path(given).expanduser().resolve()
    name, imported = path.stem, file_of(path.stem) == path
    if imported and name in LOADED:
        return sys.modules[name]
    if path.suffix != ".py" or not is_there(path) or not path.is_file():
        raise UserError(f"{given}: no such file; must be a Python file, NAME.py")
    if not name.isidentifier():
        raise UserError(f"{given}: {name} is no name of a module; must be letters, digits and _")
    if name in OURS:
        raise UserError(f"{given}: {name} is in the house already; must be another name")
    if not imported and (name in sys.modules or _elsewhere(name, path)):
        raise UserError(f"{given}: {name} is the name of another module; must be another name")
    before = [dict(table) for table in TABLES]
    try:
        module = sys.modules[name] if imported else _import(given, path)
        _register(given, module, before)
    except BaseException:
        sys.modules.pop(name, None)
        for table, earlier in zip(TABLES, before, strict=True):
            table.clear()
            table.update(earlier)
        raise
    known = OURS.union(*(plugin.names for plugin in LOADED.values()))
    LOADED[name] = Plugin(path, frozenset(added for table in TABLES for added in table if added not in known))
    return module


def algorithm(given: str | Path) -> str:
    """The name of the algorithm in a file. Raises UserError as `load` does, and where the file has none."""
    module = load(given)
    if module.__name__ not in ALGORITHMS:
        raise UserError(f"{given}: is no algorithm; it has no {', no '.join(algorithms.lacking(module))}")
    return module.__name__


def files() -> list[Path]:
    """Those that were loaded, for another process to load."""
    return [plugin.path for plugin in LOADED.values()]


def used_by(options: Options) -> list[str]:
    """The plugins that a run takes something of: its algorithm, or what a flag names."""
    values = [value if isinstance(value, list) else [value] for value in plain(options).values()]
    named = {name for several in values for name in several if isinstance(name, str)}
    return [name for name, plugin in LOADED.items() if plugin.names & named]


def sources(name: str) -> list[Path]:
    """The file of a plugin, and those of all that it imports from beside it."""
    first = LOADED[name].path
    found, todo = set(), [first]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += _beside(path, first.parent)
    return sorted(found)


def file_of(name: str) -> Path | None:
    """The file of a module that is imported; None where it has none, or is not."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).resolve() if file else None


def _elsewhere(name: str, path: Path) -> bool:
    """Whether a module of that name would be found in another file."""
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path)


def _import(given: str | Path, path: Path) -> ModuleType:
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # behind ours and the libraries', which keep their names
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        raise UserError(f"{given}{f', line {lines[-1]}' if lines else ''}: {reason_of(error)}") from error
    return module


def _register(given: str | Path, module: ModuleType, before: list[Mapping[str, Any]]) -> None:
    for table, earlier in zip(TABLES, before, strict=True):
        if changed := [name for name, thing in earlier.items() if table.get(name) is not thing]:
            raise UserError(f"{given}: changes {changed[0]}, which is there already; must be another name")
    if hasattr(module, "communicate"):
        if lacking := algorithms.lacking(module):
            raise UserError(f"{given}: is no whole algorithm; it has no {', no '.join(lacking)}")
        ALGORITHMS[module.__name__] = module


def _beside(path: Path, folder: Path) -> list[Path]:
    """The files in a folder that a file there imports, with those of the packages that they are in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.parents[node.level - 1].relative_to(folder).parts if node.level else ()
            names = [[*above, *(node.module or "").split("."), alias.name] for alias in node.names]
        else:
            continue
        for parts in ([part for part in name if part] for name in names):
            if not _is_ours(parts[0], folder):
                places = [folder.joinpath(*parts[: n + 1]) for n in range(len(parts))]
                found += [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return [file for file in found if file.is_file()]


def _is_ours(name: str, folder: Path) -> bool:
    """Whether a module is of the house or a library, whatever else of that name lies in a folder."""
    file = file_of(name)
    return (file is not None and folder not in file.parents) or (folder == HERE and name in MODULES)
