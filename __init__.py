"""What `chorus` is where it is installed: `chorus fedavg ...` in any folder, `from chorus import saves` in Python.

The modules of the house import one another by their own names, as in a checkout, and so do plugins. So their folder comes
first where Python looks for modules, once `chorus` is imported, and `chorus.saves` is another name of `saves`.
"""

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import NoReturn

HERE = Path(__file__).resolve().parent


def main() -> NoReturn:
    """The command `chorus`: that of `run.py`."""
    import errors

    sys.excepthook = errors.in_a_line

    import run
    from launch import ending

    ending.leave(run.main(sys.argv[1:]))


class _OtherNames(MetaPathFinder, Loader):
    """Finds chorus.NAME as the very module NAME."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        own = importlib.util.find_spec(_own(name)) if name.startswith("chorus.") else None
        return own and ModuleSpec(name, self, origin=own.origin, is_package=own.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_own(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = module.__spec__.loader_state  # it is what it was

    def get_code(self, name: str) -> CodeType | None:  # of python -m chorus.NAME
        return importlib.util.find_spec(_own(name)).loader.get_code(_own(name))


def _own(name: str) -> str:
    return name.removeprefix("chorus.")


def _refuse_taken() -> None:
    """Raises ImportError where a module of somebody else's has a name of ours already."""
    for path in HERE.iterdir():
        there = getattr(sys.modules.get(path.stem), "__file__", None)
        if there and path.stem != "__init__" and HERE not in Path(there).resolve().parents:
            raise ImportError(f"chorus has a module {path.stem}, and {there} is imported already; import chorus before it")


if __name__ == "chorus":
    _refuse_taken()
    sys.path.insert(0, str(HERE))
    sys.meta_path.insert(0, _OtherNames())
