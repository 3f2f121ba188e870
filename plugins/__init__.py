"""Plugins: Python files outside Chorus, named in a command.

A plugin adds an algorithm, or adds a data set, a model, a partitioner, an optimizer or a measure to its table.

Chorus imports a file before it reads the flags, under the file's own name, in every process that takes part in a run. The
file may import modules beside it. It may add to the tables, and must change nothing else: the entries that exist already,
the code of Chorus and of its libraries, the modes and random states of the process.
"""

import ast
import hashlib
import importlib.util
import inspect
import math
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

import algorithms
import models
from algorithms import ALGORITHMS
from data.augment import AUGMENTATIONS
from data.datasets import LOADERS
from data.partition import PARTITIONS
from errors import UserError, reason_of, refused
from federation.optimizers import OPTIMIZERS
from helpers import SCHEDULES
from measures import MEASURES
from models import MODELS
from options import Options, flags_of, plain
from plugins import integrity
from untrusted import is_there, read_bytes

NAMED: dict[str, dict[str, Any]] = {
    "ALGORITHMS": ALGORITHMS,
    "LOADERS": LOADERS,
    "MODELS": MODELS,
    "PARTITIONS": PARTITIONS,
    "OPTIMIZERS": OPTIMIZERS,
    "AUGMENTATIONS": AUGMENTATIONS,
    "SCHEDULES": SCHEDULES,
    "MEASURES": MEASURES,
}
TABLES = tuple(NAMED.values())
TAKES = {  # {table: (arguments of its functions, further parameters that a function may have, by name)}
    "LOADERS": (("source",), ()),
    "MODELS": (("shape", "n_classes"), ("feature_dim", "heads")),
    "PARTITIONS": (("pool", "generator"), ("n_clients", "alpha", "...")),
    "OPTIMIZERS": (("weights", "memory", "lr", "options"), ()),
    "SCHEDULES": (("done",), ()),
    "MEASURES": (("y", "p"), ()),
}
MUST_LEAVE = f"a plugin may add to {', '.join(NAMED)}, and must not change anything else"
OURS = {name for table in TABLES for name in table}
HERE, MODULES = Path(__file__).resolve().parent.parent, frozenset(sys.modules)  # the modules of Chorus that a plugin needs


INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
MODULE = re.compile(r"\.*[^\W\d]\w*(\.\w+)*")  # the name of a module, with dots
NETWORK = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")  # a network in a file
NAME = re.compile(r"\w[\w.+-]*")  # the name of an entry: users type it, and folders have it in their names


@dataclass(frozen=True)
class Plugin:
    """An imported file, the names that it added to the tables, and the files beside it that its import loaded.

    `networks`: the names in the file that a command took as models. `digest`: of the files as they were imported.
    """

    path: Path
    names: frozenset[str]
    brought: frozenset[Path] = frozenset()
    networks: tuple[str, ...] = ()
    digest: str = ""


LOADED: dict[str, Plugin] = {}  # {name of the module: plugin}
_before: dict[str, Any] = {}  # code and modes, as the first plugin found them


def load(source: str | Path) -> ModuleType:
    """Return the module of a file; the module's name is the file's stem. A second call returns the same module, unless the
    file, or a file beside it that it imports, has changed.

    `FILE.py:NAME` also adds the network NAME of the file to the models, as FILE.NAME.

    Raises UserError for a file that does not exist, whose name is taken, that fails (with the line), that changes an entry
    of a table, or that has only a part of an algorithm.
    """
    if match := NETWORK.fullmatch(str(source)):
        module = load(match["file"])
        _add_network(source, module, match["name"])
        return module
    path = Path(source).expanduser().resolve()
    name = path.stem
    if name in LOADED and LOADED[name].path == path and is_there(path) and _digest(name) != LOADED[name].digest:
        _unload(name)
    is_imported = file_of(name) == path
    if is_imported and name in LOADED:
        return sys.modules[name]
    if path.suffix != ".py" or not is_there(path) or not path.is_file():
        raise UserError(f"{source}: no such file; must be a Python file, NAME.py")
    if not name.isidentifier():
        raise UserError(f"{source}: {name} is not a valid module name; must consist of letters, digits and _")
    if name in OURS:
        raise UserError(f"{source}: {name} is the name of a module of Chorus; rename the file")
    if not is_imported and (name in sys.modules or _is_elsewhere(name, path)):
        raise UserError(f"{source}: {name} is the name of another module; rename the file")
    tables_before, modules_before = [dict(table) for table in TABLES], set(sys.modules)
    if not _before:
        _before.update(code=_current_code(), modes=integrity.modes())
    try:
        module = sys.modules[name] if is_imported else _import_file(source, path)
        _register(source, module, tables_before)
    except BaseException:
        sys.modules.pop(name, None)
        for table, earlier in zip(TABLES, tables_before, strict=True):
            table.clear()
            table.update(earlier)
        raise
    known = OURS.union(*(plugin.names for plugin in LOADED.values()))
    added = frozenset(added for table in TABLES for added in table if added not in known)
    LOADED[name] = Plugin(path, added, _files_of_modules(set(sys.modules) - modules_before, path.parent))
    LOADED[name] = replace(LOADED[name], digest=_digest(name))
    return module


def _unload(name: str) -> None:
    """Forget a plugin, its entries of the tables, and the modules beside it that its import loaded."""
    plugin = LOADED.pop(name)
    for table in TABLES:
        for added in plugin.names & table.keys():
            del table[added]
    for module in [module for module in sys.modules if file_of(module) in {plugin.path, *plugin.brought}]:
        del sys.modules[module]


def check() -> None:
    """Raise UserError where a plugin has changed, since it was loaded, what it must not change."""
    if LOADED and _before and (changed := _find_change()):
        raise UserError(f"--plugin {','.join(map(str, files()))}: has changed {changed} since it was loaded; {MUST_LEAVE}")


@contextmanager
def blamed(options: Options, before: str = "", after: str = "") -> Iterator[None]:
    """Raise an error from a plugin's file, inside this context, as a UserError that names the file and the line.

    `before` and `after` are the text around the error. Any other error of a run that uses a plugin becomes a UserError too,
    except for refusals of the system.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        own = {str(path) for name in LOADED for path in sources(name)}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
        places = [f"{frame.filename}, line {frame.lineno}" for frame in frames]
        places = places or [f"{LOADED[name].path}: an entry that it adds does not work" for name in used_by(options)]
        if not places or refused(error):
            raise
        raise UserError(f"{before}{places[-1]}: {reason_of(error)}{after}") from error


def algorithm(source: str | Path) -> str:
    """Return the name of the algorithm in a file. Raises UserError as `load` does, and for a file without algorithm."""
    module = load(source)
    if module.__name__ not in ALGORITHMS:
        raise UserError(f"{source}: is not an algorithm; missing: {', '.join(algorithms.lacking(module))}")
    return module.__name__


def files() -> list[str]:
    """Return the files of the loaded plugins, with their networks, so that another process can load them."""
    networks = [f"{plugin.path}:{name}" for plugin in LOADED.values() for name in plugin.networks]
    return [*(str(plugin.path) for plugin in LOADED.values()), *networks]


def model_of(source: str) -> str:
    """Return the model's name of a network in a file, `FILE.py:NAME`."""
    match = NETWORK.fullmatch(source)
    return f"{Path(match['file']).stem}.{match['name']}"


def used_by(options: Options) -> list[str]:
    """Return the plugins that a run uses: in its algorithm, or in a value of a flag."""
    values = [value if isinstance(value, list) else [value] for value in plain(options).values()]
    option_values = {name for texts in values for name in texts if isinstance(name, str)}
    return [name for name, plugin in LOADED.items() if plugin.names & option_values]


def sources(name: str) -> list[Path]:
    """Return the file of a plugin, and the files beside it of all modules that the plugin imports.

    These are the modules that its import loaded, and modules that are imported later: by an `import` statement, or by a text
    that is the name of such a module.
    """
    first, brought = LOADED[name].path, LOADED[name].brought
    paths, todo = set(), [first, *brought]
    while todo:
        path = todo.pop()
        if path not in paths:
            paths.add(path)
            todo += _imported_files(path, first.parent)
    return sorted(paths)


def text_of(path: Path) -> str:
    """Return the text of a file without loss of a byte, in any encoding."""
    return read_bytes(path).decode(errors="surrogateescape")


def digests() -> dict[str, str]:
    """Return {name: digest of its files} of every loaded plugin."""
    return {name: _digest(name) for name in sorted(LOADED)}


def _digest(name: str) -> str:
    return hashlib.sha256(repr([text_of(path) for path in sources(name)]).encode()).hexdigest()[:16]


def file_of(name: str) -> Path | None:
    """Return the file of an imported module; None where the module has no file or is not imported."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).resolve() if file else None


def _is_elsewhere(name: str, path: Path) -> bool:
    """Return whether Python would find a module of this name in another file."""
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path)


def _import_file(source: str | Path, path: Path) -> ModuleType:
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that modules of Chorus and of libraries keep their names
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    states = integrity.states()
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == str(path) else []
        raise UserError(f"{source}{f', line {lines[-1]}' if lines else ''}: {reason_of(error)}") from error
    if changed := _find_change() or integrity.changed_value(states, integrity.states()):
        raise UserError(f"{source}: changes {changed}; {MUST_LEAVE}")
    return module


def _current_code() -> integrity.Code:
    return integrity.code(growing=(*TABLES, LOADED, _before))


def _find_change() -> str | None:
    """Return what changed in Chorus, its libraries or their modes since before the first plugin; or None."""
    of_modes = integrity.changed_value(_before["modes"], integrity.modes())
    return of_modes or integrity.changed_code(_before["code"], _current_code())


def _register(source: str | Path, module: ModuleType, before: list[Mapping[str, Any]]) -> None:
    for table, earlier in zip(TABLES, before, strict=True):
        if changed := [name for name, thing in earlier.items() if table.get(name) is not thing]:
            raise UserError(f"{source}: changes {changed[0]}, which already exists; use another name")
    if hasattr(module, "communicate"):
        if missing := algorithms.lacking(module):
            raise UserError(f"{source}: is not a complete algorithm; missing: {', '.join(missing)}")
        ALGORITHMS[module.__name__] = module
    for (what, table), earlier in zip(NAMED.items(), before, strict=True):
        for name in [name for name in table if name not in earlier]:
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise UserError(f"{source}: the name {name!r} in {what}; must consist of letters, digits and _ . + -")
            if wrong := _find_error(what, name, table[name]):
                raise UserError(f"{source}: {what}[{name!r}] {wrong}")


def _add_network(source: str, module: ModuleType, name: str) -> None:
    plugin, model = LOADED[module.__name__], model_of(source)
    if name in plugin.networks:
        return
    network = getattr(module, name, None)
    if network is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise UserError(f"{source}: {plugin.path.name} has no {name}; its networks are {', '.join(classes) or 'none'}")
    if wrong := _find_error("MODELS", model, network):
        raise UserError(f"{source}: {name} {wrong}")
    MODELS[model] = network
    LOADED[module.__name__] = replace(plugin, names=plugin.names | {model}, networks=(*plugin.networks, name))


def _find_error(table_name: str, name: str, entry: Any) -> str:
    """Return, in words, why an entry cannot be in a table; "" where it can."""
    if table_name == "ALGORITHMS":
        lacking = algorithms.lacking(entry)
        whole = isinstance(entry, ModuleType) and entry.__name__ == name and not lacking
        return (
            ""
            if whole
            else f"is not a complete algorithm; must be a module of that name{', with ' * bool(lacking)}{', '.join(lacking)}"
        )
    if table_name == "AUGMENTATIONS":
        steps = AUGMENTATIONS["crop_flip_cutout"]
        is_valid = isinstance(entry, tuple | list) and all(step in steps for step in entry)
        return "" if is_valid else f"is {entry!r}; must be a tuple of steps, of {', '.join(steps)}"
    required, optional = TAKES[table_name]
    form = f"must be a function of ({', '.join((*required, *optional))})"
    if not callable(entry):
        return f"is {entry!r}; {form}"
    if table_name == "MODELS":
        if isinstance(entry, nn.Module):
            return f"is a network; {form} that returns a new network"
        try:
            models.arguments(entry, (1, 1, 1), 2, 1, False)
        except (TypeError, ValueError) as error:
            return f"cannot be called: {error}; {form}"
        return ""
    try:
        signature = inspect.signature(entry)
        named = [
            name for name in list(signature.parameters)[len(required) :] if table_name == "PARTITIONS" or name in optional
        ]
        signature.bind(*required, **dict.fromkeys(named))
    except (TypeError, ValueError) as error:
        return f"cannot be called: {error}; {form}"
    if table_name == "PARTITIONS" and (strange := [name for name in named if name not in (*flags_of(Options), "counts")]):
        return f"reads {strange[0]}, which is not a flag of all methods; {form}, where the last are names of flags"
    if table_name == "SCHEDULES":
        try:
            factors = [float(entry(done)) for done in (0.0, 0.5)]
        except Exception as error:
            return f"fails: {reason_of(error)}; {form} that returns a number"
        return "" if all(map(math.isfinite, factors)) else f"returns {factors}; {form} that returns a number"
    return ""


def _files_of_modules(names: set[str], folder: Path) -> frozenset[Path]:
    """Return the files of modules in a folder that are no part of Chorus, nor of a library that is installed below it."""
    library_folders = [library for library in INSTALLED if folder in library.parents]
    imported = {file_of(name) for name in names if not (folder == HERE and name.partition(".")[0] in integrity.OURS)} - {
        None
    }
    return frozenset(
        file for file in imported if folder in file.parents and not any(lib in file.parents for lib in library_folders)
    )


def _imported_files(path: Path, folder: Path) -> list[Path]:
    """Return the files in a folder that a file there imports or names, and those of the packages that contain them."""
    candidates = []
    try:
        tree = ast.parse(read_bytes(path))
    except (SyntaxError, ValueError):  # no Python module, or a module that fails as it is imported
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.parents[node.level - 1].relative_to(folder).parts if node.level else ()
            names = [[*above, *(node.module or "").split("."), alias.name] for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            words = node.value.split(".")  # such as an argument of importlib.import_module
            names = [words, [*path.parent.relative_to(folder).parts, *words]]
        else:
            continue
        for parts in ([part for part in name if part] for name in names):
            if not _is_ours(parts[0], folder):
                places = [folder.joinpath(*parts[: n + 1]) for n in range(len(parts))]
                candidates += [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return [file for file in candidates if file.is_file()]


def _is_ours(name: str, folder: Path) -> bool:
    """Return whether a module is part of Chorus or a library, whatever file of the same name is in a folder."""
    file = file_of(name)
    return (file is not None and folder not in file.parents) or (folder == HERE and name in MODULES)
