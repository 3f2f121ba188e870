"""Make the installed package `chorus`: `chorus fedavg ...` in any folder; in Python `chorus.run("fedavg")`, `chorus.saves`.

The modules of Chorus import one another by their own names, as in a checkout, and so do plugins. So `import chorus` puts
their folder first on Python's module path, and `chorus.saves` is another name of the module `saves`.
"""

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent


def main() -> NoReturn:
    """Run the command `chorus`, which is the command of `run.py`."""
    import errors

    sys.excepthook = errors.in_a_line

    import run
    from launch import ending

    ending.leave(run.main(sys.argv[1:]))


def run(*algorithm_names: str, **flags: Any) -> Any:
    """Run algorithms as the command does; return the finished run, or a list of runs: see `run` of the module `run`."""
    return importlib.import_module("run").run(*algorithm_names, **flags)


class _OtherNames(MetaPathFinder, Loader):
    """Import chorus.NAME as the module NAME itself."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name == "chorus.run":
            raise ModuleNotFoundError("chorus.run is a function; its module is run", name=name)
        spec = importlib.util.find_spec(_module_name(name)) if name.startswith("chorus.") else None
        return spec and ModuleSpec(name, self, origin=spec.origin, is_package=spec.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_module_name(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state  # create_module saved the module's own spec; import replaced the spec

    def get_code(self, name: str) -> CodeType | None:  # python -m chorus.NAME needs the code
        return importlib.util.find_spec(_module_name(name)).loader.get_code(_module_name(name))


def _module_name(name: str) -> str:
    """Return the module's own name: chorus.NAME without the prefix."""
    return name.removeprefix("chorus.")


def _refuse_name_clash() -> None:
    """Raise ImportError where Python has already imported another package's module under the name of a Chorus module."""
    for path in HERE.iterdir():
        imported = getattr(sys.modules.get(path.stem), "__file__", None)
        if imported and path.stem != "__init__" and HERE not in Path(imported).resolve().parents:
            raise ImportError(
                f"the module {path.stem} of chorus cannot be imported, because {imported} is already imported; import "
                "chorus first"
            )


if __name__ == "chorus":
    _refuse_name_clash()
    sys.path.insert(0, str(HERE))
    sys.meta_path.insert(0, _OtherNames())
