"""Checks that a plugin leaves everything unchanged: the code of Chorus, torch and numpy, and the modes and random states.

A plugin that replaced `Net.forward` or torch's default type would change every other run, under the names of runs without
the plugin. So `plugins` compares the results of these functions before and after.
"""

import random
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

import numpy as np
import torch
import torch._compile
from torch.nn.modules import module as hooks

HERE = Path(__file__).resolve().parent.parent
OURS = {path.stem for path in (*HERE.glob("*.py"), *HERE.glob("*/__init__.py"))} | {
    path.parent.name for path in HERE.glob("*/__init__.py")
}
OURS -= {"__init__"}
# with their submodules
LIBRARIES = ("torch.nn", "torch.optim", "torch.autograd", "torch.functional", "torch._tensor", "numpy")
ALONE = ("torch", "builtins", "math", "random")
RUN = {FunctionType, BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, np.ufunc}
RUN |= {staticmethod, classmethod, property}
# in which Python records the warnings of a module; and the module `builtins`, to which IPython adds names in every cell
IGNORED = ("__warningregistry__", "__builtins__")

Code = dict[str, dict[str, tuple]]  # {module: {name in it: objects}}


def code(growing: tuple[Any, ...] = ()) -> Code:
    """Return the objects of each name in the modules that a run computes with.

    These are the modules of Chorus, and some modules of torch and numpy. `growing`: containers to which a plugin may add.
    """
    growing_ids = {id(table) for table in growing}
    names_by_module: Code = {}
    for name, module in list(sys.modules.items()):
        is_ours = name.partition(".")[0] in OURS and HERE in Path(getattr(module, "__file__", None) or "/").parents
        if is_ours or name in ALONE or name.startswith(LIBRARIES):
            names_by_module[name] = marks = {}
            for key, value in list(vars(module).items()):
                if (
                    key not in IGNORED
                    and id(value) not in growing_ids
                    and (is_ours or _is_code(value))
                    and (mark := _objects_of(value))
                ):
                    marks[key] = mark
                if isinstance(value, type) and value.__module__ == name:
                    marks |= {
                        f"{key}.{part}": _objects_of(attribute) or (attribute,)
                        for part, attribute in list(vars(value).items())
                        if is_ours or _is_code(attribute)
                    }
    return names_by_module


def changed_code(before: Code, after: Code) -> str | None:
    """Return the first changed name, or None.

    A name is changed where it stands for another object, or for a new function or class in a module of Chorus or in a class.
    """
    for module, names in before.items():
        names_after = after.get(module, {})
        for name, mark in names.items():
            now = names_after.get(name, ())
            same = len(now) == len(mark) and all(old is new for old, new in zip(mark, now, strict=True))
            if not same and not _is_wrapped_by_torch(mark, now):
                return f"{module}.{name}"
        for name in names_after.keys() - names.keys():
            counts = name.partition(".")[0] in names if "." in name else module.partition(".")[0] in OURS
            if counts and _is_code(names_after[name][0]):
                return f"{module}.{name}"
    return None


def _is_wrapped_by_torch(before: tuple, now: tuple) -> bool:
    """Return whether torch wrapped a function in its own, as its compiler does when it is imported."""
    wrapper = now[0] if now else None
    is_wrapper = isinstance(wrapper, FunctionType) and wrapper.__code__.co_filename == torch._compile.__file__
    return is_wrapper and wrapper.__wrapped__ is before[0]


def _is_code(value: Any) -> bool:
    return type(value) in RUN or isinstance(value, type)


def _objects_of(value: Any) -> tuple:
    """Return the objects of a value: itself and its changeable parts; () for a value that may change during a run."""
    if isinstance(value, FunctionType):
        return value, value.__code__, value.__defaults__, value.__kwdefaults__
    if isinstance(value, dict):
        return value, *value.keys(), *value.values()
    if isinstance(value, list | set | tuple | frozenset):
        return value, *value
    return (value,) if callable(value) or isinstance(value, str | bytes | int | float) else ()


def modes() -> dict[str, Hashable]:
    """Return the modes of torch and numpy that Chorus never changes: {description: value}."""
    devices = ("cpu", "cuda")
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": str(torch.get_default_device()),
        "torch's deterministic algorithms": torch.get_deterministic_debug_mode(),
        "torch's grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "torch's autocast": tuple((torch.is_autocast_enabled(name), torch.get_autocast_dtype(name)) for name in devices),
        "torch's precision of float32 products": torch.get_float32_matmul_precision(),
        "torch's denormal numbers": bool(torch.tensor([5e-324], dtype=torch.float64, device="cpu") * 1),
        "torch's oneDNN switch": torch.backends.mkldnn.enabled,
        "torch's function modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "torch's hooks of all modules": tuple(
            (name, key)
            for name, content in vars(hooks).items()
            if name.startswith("_global_") and content
            for key in _keys(content)
        ),
        "numpy's handling of errors": tuple(sorted(np.geterr().items())),
    }


def _keys(content: Any) -> tuple:
    return tuple(content) if isinstance(content, Mapping) else (content,)


def states() -> dict[str, Hashable]:
    """Return the state that an import must not change, though a run may: {description: value}.

    These are the numbers of threads, the switches of cuDNN, and the random states, from which no run draws.
    """
    cudnn = torch.backends.cudnn
    return {
        "torch's number of threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's cuDNN switches": (cudnn.enabled, cudnn.deterministic, cudnn.benchmark),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": str(np.random.get_state(legacy=False)) + np.random.get_state()[1].tobytes().hex(),
        "the state of Python's random": random.getstate(),
    }


def changed_value(before: Mapping[str, Hashable], after: Mapping[str, Hashable]) -> str | None:
    """Return the description of the first changed value; or None."""
    return next((name for name, value in before.items() if after[name] != value), None)
