"""What a plugin must leave as it is: the code of Chorus, torch and numpy, and the modes and random states of a process.

A plugin that replaced `Net.forward` or torch's default type would change every run beside it, under the names of runs
without the plugin. So `plugins` compares what is here before and after.
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
LIBRARIES = (
    "torch.nn",
    "torch.optim",
    "torch.autograd",
    "torch.functional",
    "torch._tensor",
    "numpy",
)  # and what is in them
ALONE = ("torch", "builtins", "math", "random")
RUN = {FunctionType, BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, np.ufunc}
RUN |= {staticmethod, classmethod, property}
WARNED = "__warningregistry__"  # where Python keeps which warnings a module has given

Code = dict[str, dict[str, tuple]]  # {module: {name in it: objects}}


def code(growing: tuple[Any, ...] = ()) -> Code:
    """Return what each name in the modules of Chorus, and in those of torch and numpy that a run computes with, stands for.

    `growing`: containers to which may be added.
    """
    grows = {id(table) for table in growing}
    found: Code = {}
    for name, module in list(sys.modules.items()):
        ours = name.partition(".")[0] in OURS and HERE in Path(getattr(module, "__file__", None) or "/").parents
        if ours or name in ALONE or name.startswith(LIBRARIES):
            found[name] = names = {}
            for key, value in list(vars(module).items()):
                if key != WARNED and id(value) not in grows and (ours or _runs(value)) and (mark := _mark(value)):
                    names[key] = mark
                if isinstance(value, type) and value.__module__ == name:
                    names |= {
                        f"{key}.{part}": _mark(of_class) or (of_class,)
                        for part, of_class in list(vars(value).items())
                        if ours or _runs(of_class)
                    }
    return found


def changed_code(before: Code, after: Code) -> str | None:
    """Return the first name that stands for something else, or for a new function or class in a module of Chorus or in a
    class; or None."""
    for module, names in before.items():
        there = after.get(module, {})
        for name, mark in names.items():
            now = there.get(name, ())
            same = len(now) == len(mark) and all(one is other for one, other in zip(mark, now, strict=True))
            if not same and not _wrapped_by_torch(mark, now):
                return f"{module}.{name}"
        for name in there.keys() - names.keys():
            counts = name.partition(".")[0] in names if "." in name else module.partition(".")[0] in OURS
            if counts and _runs(there[name][0]):
                return f"{module}.{name}"
    return None


def _wrapped_by_torch(before: tuple, now: tuple) -> bool:
    """Whether torch has put a function of its own around another, as its compiler does where it is imported."""
    wrapper = now[0] if now else None
    ours = isinstance(wrapper, FunctionType) and wrapper.__code__.co_filename == torch._compile.__file__
    return ours and wrapper.__wrapped__ is before[0]


def _runs(value: Any) -> bool:
    return type(value) in RUN or isinstance(value, type)


def _mark(value: Any) -> tuple:
    """The objects that a value is: itself, and what can be changed in it; () for what may change while a run goes on."""
    if isinstance(value, FunctionType):
        return value, value.__code__, value.__defaults__, value.__kwdefaults__
    if isinstance(value, dict):
        return value, *value.keys(), *value.values()
    if isinstance(value, list | set | tuple | frozenset):
        return value, *value
    return (value,) if callable(value) or isinstance(value, str | bytes | int | float) else ()


def modes() -> dict[str, Hashable]:
    """Return the modes of torch and numpy that Chorus never changes: {what it is, in words: value}."""
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
            (name, key) for name, kept in vars(hooks).items() if name.startswith("_global_") and kept for key in _keys(kept)
        ),
        "numpy's handling of errors": tuple(sorted(np.geterr().items())),
    }


def _keys(kept: Any) -> tuple:
    return tuple(kept) if isinstance(kept, Mapping) else (kept,)


def states() -> dict[str, Hashable]:
    """Return what an import must leave too, though a run may set it: numbers of threads, switches of cuDNN, and the random
    states, of which no run draws."""
    cudnn = torch.backends.cudnn
    return {
        "torch's number of threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's cuDNN switches": (cudnn.enabled, cudnn.deterministic, cudnn.benchmark),
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": str(np.random.get_state(legacy=False)) + np.random.get_state()[1].tobytes().hex(),
        "the state of Python's random": random.getstate(),
    }


def changed_value(before: Mapping[str, Hashable], after: Mapping[str, Hashable]) -> str | None:
    """Return what is not as it was, in words; or None."""
    return next((what for what, value in before.items() if after[what] != value), None)
