"""What a run is: everything that its result depends on, and the name of its folder."""

import hashlib
import platform
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import algorithms
import saves
from data import datasets, partition
from options import Options, plain

HERE = Path(__file__).resolve().parent.parent
SOURCES = (
    "streams",
    "data/augment",
    "data/datasets",
    "data/files",
    "data/partition",
    "data/pictures",
    "models",
    "federation/__init__",
    "federation/meter",
    "federation/wire",
    "helpers",
    "experiment/evaluation",
    "experiment/identity",
    "experiment/measuring",
    "experiment/preparation",
    "experiment/rounds",
)


def config_of(options: Options, data: datasets.Data, split: partition.Split, start: saves.Rows | None) -> dict[str, Any]:
    """`config.json`: the options, and what they do not say themselves: digests of the split, the data, the initial weights
    and of every file that an option names, the code, the libraries and the processor."""
    paths = {f.name: getattr(options, f.name) for f in fields(options) if isinstance(getattr(options, f.name), Path)}
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in paths.items()}
    environment = _environment(options.device)
    code = [environment["torch"], environment["numpy"], environment["processor"], *_sources(options.algorithm)]
    return {
        "options": plain(options),
        "split": split.digest,
        "data": {"name": data.name, "digest": data.digest},
        **({} if start is None else {"init_from": saves.digest(start)}),
        **({"files": files} if files else {}),
        "unverified_data": data.unverified,
        "inputs": [list(data.shape), len(data.classes)],
        "source": _digest(code),
        "revision": _revision(),
        "environment": environment,
    }


def name_of(config: dict[str, Any]) -> str:
    """The name of a run's folder: algorithm, data, a digest of all that was asked for, and one of what carries it out."""
    asked = {part: config[part] for part in ("options", "split", "data", "init_from", "files") if part in config}
    return f"{asked['options']['algorithm']}-{stem(asked['data']['name'])}-{_digest([asked])[:8]}-{config['source'][:6]}"


def stem(name: str) -> str:
    """A name, of a data set, as part of a file's name."""
    return re.sub(r"[^\w.]+", "_", name)


def _digest(parts: list) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _sources(algorithm: str) -> list[str]:
    """The text of every module that can change a number of this algorithm: the house's, its own, and those of the
    algorithms whose parts it takes."""
    todo = [algorithms.ALGORITHMS[algorithm], *filter(None, [algorithms.PUBLISHED.get(algorithm)])]
    own: set[str] = set()
    while todo:
        module = todo.pop()
        own.add(module.__name__)
        taken = {getattr(thing, "__module__", None) or getattr(thing, "__name__", "") for thing in vars(module).values()}
        todo += [sys.modules[name] for name in taken if name.startswith("algorithms.") and name not in own]
    files = [HERE / f"{name}.py" for name in SOURCES] + [Path(sys.modules[name].__file__) for name in sorted(own)]
    return [path.read_text() for path in files]


@cache
def _revision() -> str | None:
    """The commit of this checkout, "-dirty" where files differ from it; None outside git, or without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _environment(device: str) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
    }


def earlier(folder: Path) -> Path | None:
    """The finished run of the same options, split and data that other code, libraries or processor made, if there is one."""
    asked = folder.name.rpartition("-")[0]
    others = [done.parent for done in folder.parent.glob(f"{asked}-*/done")]
    return next((other for other in sorted(others) if other != folder), None)
