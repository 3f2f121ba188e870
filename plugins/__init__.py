"""Code that a command brings along, in Python files outside the house: an algorithm, or what adds a data set, a model, a
partitioner, an optimizer, a measure to its table.

A file is imported before the flags are read, under its own name, in every process that takes part in a run. It may import
what lies beside it. It may add to the tables, and leaves all else as it is: what is in them already, the code of Chorus and
of its libraries, the modes and random states of the process.
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
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import algorithms
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
TAKES = {  # what a function in a table is called with, and what more it may ask for, by name
    "LOADERS": (("source",), ()),
    "MODELS": (("shape", "n_classes"), ("feature_dim", "heads")),
    "PARTITIONS": (("pool", "generator"), ("n_clients", "alpha", "...")),
    "OPTIMIZERS": (("weights", "memory", "lr", "options"), ()),
    "SCHEDULES": (("done",), ()),
    "MEASURES": (("y", "p"), ()),
}
MUST_LEAVE = f"it may add to {', '.join(NAMED)}, and must leave all else as it is"
OURS = {name for table in TABLES for name in table}
HERE, MODULES = Path(__file__).resolve().parent.parent, frozenset(sys.modules)  # of the house, all that a plugin needs


INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
MODULE = re.compile(r"\.*[^\W\d]\w*(\.\w+)*")  # a name of one, with dots
NAME = re.compile(r"\w[\w.+-]*")  # of what is added to a table: it is typed, and names folders


@dataclass(frozen=True)
class Plugin:
    """A file that was imported, the names that it has added to the tables, and the files beside it of the modules that its
    import has brought."""

    path: Path
    names: frozenset[str]
    brought: frozenset[Path] = frozenset()


LOADED: dict[str, Plugin] = {}  # by the module's name
_before: dict[str, Any] = {}  # code and modes, as the first plugin found them


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
    before, modules = [dict(table) for table in TABLES], set(sys.modules)
    if not _before:
        _before.update(code=_code(), modes=integrity.modes())
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
    added = frozenset(added for table in TABLES for added in table if added not in known)
    LOADED[name] = Plugin(path, added, _brought(set(sys.modules) - modules, path.parent))
    return module


def check() -> None:
    """Raise UserError where a plugin, since it was loaded, has changed what it must leave as it is."""
    if LOADED and _before and (changed := _changed()):
        raise UserError(f"--plugin {','.join(map(str, files()))}: has changed {changed} since it was loaded; {MUST_LEAVE}")


@contextmanager
def blamed(options: Options, before: str = "", after: str = "") -> Iterator[None]:
    """Inside, an error out of a plugin's file is a UserError that names the file and the line, between these words; so is
    any other error of a run that takes something of a plugin, but what the system refuses."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        own = {str(path) for name in LOADED for path in sources(name)}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
        places = [f"{frame.filename}, line {frame.lineno}" for frame in frames]
        places = places or [f"{LOADED[name].path}: what it adds does not work" for name in used_by(options)]
        if not places or refused(error):
            raise
        raise UserError(f"{before}{places[-1]}: {reason_of(error)}{after}") from error


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
    """The file of a plugin, and those of all that it imports from beside it: what its import has brought, and what an
    `import`, or a text that is the name of such a module, stands for that is carried out later."""
    first, brought = LOADED[name].path, LOADED[name].brought
    found, todo = set(), [first, *brought]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += _beside(path, first.parent)
    return sorted(found)


def text_of(path: Path) -> str:
    """The text of a file, of which no byte is lost, whatever its encoding."""
    return read_bytes(path).decode(errors="surrogateescape")


def digests() -> dict[str, str]:
    """{name: digest of its files} of every plugin that is loaded."""
    texts = {name: repr([text_of(path) for path in sources(name)]) for name in sorted(LOADED)}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}


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
    states = integrity.states()
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == str(path) else []
        raise UserError(f"{given}{f', line {lines[-1]}' if lines else ''}: {reason_of(error)}") from error
    if changed := _changed() or integrity.changed_value(states, integrity.states()):
        raise UserError(f"{given}: changes {changed}; {MUST_LEAVE}")
    return module


def _code() -> integrity.Code:
    return integrity.code(growing=(*TABLES, LOADED, _before))


def _changed() -> str | None:
    """What of Chorus, its libraries and their modes is not as the first plugin found it."""
    of_modes = integrity.changed_value(_before["modes"], integrity.modes())
    return of_modes or integrity.changed_code(_before["code"], _code())


def _register(given: str | Path, module: ModuleType, before: list[Mapping[str, Any]]) -> None:
    for table, earlier in zip(TABLES, before, strict=True):
        if changed := [name for name, thing in earlier.items() if table.get(name) is not thing]:
            raise UserError(f"{given}: changes {changed[0]}, which is there already; must be another name")
    if hasattr(module, "communicate"):
        if lacking := algorithms.lacking(module):
            raise UserError(f"{given}: is no whole algorithm; it has no {', no '.join(lacking)}")
        ALGORITHMS[module.__name__] = module
    for (what, table), earlier in zip(NAMED.items(), before, strict=True):
        for name in [name for name in table if name not in earlier]:
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise UserError(f"{given}: the name {name!r} in {what}; must be text of letters, digits and _ . + -")
            if wrong := _wrong(what, name, table[name]):
                raise UserError(f"{given}: {what}[{name!r}] {wrong}")


def _wrong(what: str, name: str, thing: Any) -> str:
    """In words, why a thing cannot stand in a table; "" where it can."""
    if what == "ALGORITHMS":
        lacking = algorithms.lacking(thing)
        whole = isinstance(thing, ModuleType) and thing.__name__ == name and not lacking
        return (
            ""
            if whole
            else f"is no whole algorithm; must be a module of that name{', with ' * bool(lacking)}{', '.join(lacking)}"
        )
    if what == "AUGMENTATIONS":
        steps = AUGMENTATIONS["crop_flip_cutout"]
        told = isinstance(thing, tuple | list) and all(step in steps for step in thing)
        return "" if told else f"is {thing!r}; must be a tuple of steps, of {', '.join(steps)}"
    given, optional = TAKES[what]
    form = f"must be a function of ({', '.join((*given, *optional))})"
    if not callable(thing):
        return f"is {thing!r}; {form}"
    try:
        signature = inspect.signature(thing)
        named = [name for name in list(signature.parameters)[len(given) :] if what == "PARTITIONS" or name in optional]
        signature.bind(*given, **dict.fromkeys(named))
    except (TypeError, ValueError) as error:
        return f"cannot be called: {error}; {form}"
    if what == "PARTITIONS" and (strange := [name for name in named if name not in (*flags_of(Options), "counts")]):
        return f"reads {strange[0]}, which is no flag that all methods have; {form}, the latter by the flags' names"
    if what == "SCHEDULES":
        try:
            factors = [float(thing(done)) for done in (0.0, 0.5)]
        except Exception as error:
            return f"fails: {reason_of(error)}; {form} that gives a number"
        return "" if all(map(math.isfinite, factors)) else f"gives {factors}; {form} that gives a number"
    return ""


def _brought(names: set[str], folder: Path) -> frozenset[Path]:
    """The files of modules that lie in a folder, and are neither of the house nor of a library installed below it."""
    below = [library for library in INSTALLED if folder in library.parents]
    found = {file_of(name) for name in names if not (folder == HERE and name.partition(".")[0] in integrity.OURS)} - {None}
    return frozenset(file for file in found if folder in file.parents and not any(lib in file.parents for lib in below))


def _beside(path: Path, folder: Path) -> list[Path]:
    """The files in a folder that a file there imports or names, with those of the packages that they are in."""
    found = []
    try:
        tree = ast.parse(read_bytes(path))
    except (SyntaxError, ValueError):  # no module of Python, or one that fails once it is imported
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.parents[node.level - 1].relative_to(folder).parts if node.level else ()
            names = [[*above, *(node.module or "").split("."), alias.name] for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            words = node.value.split(".")  # for importlib.import_module, say
            names = [words, [*path.parent.relative_to(folder).parts, *words]]
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
