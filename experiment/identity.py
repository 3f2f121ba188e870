"""The identity of a run: everything on which its result depends, and the name of its folder."""

import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import algorithms
import plugins
import saves
import untrusted
from data import datasets, partition
from options import Options, flags_of, plain, plain_value

HERE = Path(__file__).resolve().parent.parent
# modules that the loop over rounds imports and that change no number: they save, parse, name, wait; or see `_sources`
OF_NO_NUMBER = ("data", "experiment", "plugins", "saves", "options", "errors", "algorithms")
OF_NO_NUMBER += ("federation.allocator", "federation.locks", "federation.scratch")
IMPORTS = re.compile(r"^ *(?:from ([\w.]+) import (\([^)]*\)|.+)|import ([\w.]+))", re.M)

LONGEST = 160  # bytes of a data set's name in a folder's name, which file systems limit to 255 bytes
NO_PART = ("device", "unverified_data")  # not part of a request: the device, and a note on the data in older runs


def config_of(options: Options, data: datasets.Data, split: partition.Split, start: saves.Rows | None) -> dict[str, Any]:
    """Return `config.json`: the options and what the options do not contain.

    This is: digests of the split, of the data and of every file that an option names, the loaded plugins, the code, the
    libraries and the CPU.
    """
    return {
        "options": plain(options),
        "split": split.digest,
        "data": {"name": data.name, "digest": data.digest},
        "files": _files(options, data, split, start),
        "unverified_data": data.unverified,
        "inputs": [list(data.shape), len(data.classes)],
        **({"plugins": plugin_digests} if (plugin_digests := plugins.digests()) else {}),
        **carrier(options),
    }


def carrier(options: Options) -> dict[str, Any]:
    """Return the part of `config.json` that names the code, the libraries and the CPU of a run."""
    environment = _environment(options.device)
    versions = [environment[name] for name in ("torch", "numpy", "processor", "device")]
    return {
        "source": _digest([*versions, *_sources(options)]),
        "revision": revision(),
        "environment": environment,
    }


def _files(options: Options, data: datasets.Data, split: partition.Split, start: saves.Rows | None) -> dict[str, str]:
    """Return {option: digest of the file or folder that it names}; the path is not part of a run."""
    contents: dict[str, Any] = {
        "dataset": data.digest if options.dataset not in datasets.LOADERS else None,
        "public_dataset": data.digest if options.public_dataset not in (None, *datasets.LOADERS) else None,
        "partition_file": split.digest if options.partition_file else None,
        "init_from": None if start is None else saves.digest(start),
    }
    paths = {f.name: getattr(options, f.name) for f in fields(options) if isinstance(getattr(options, f.name), Path)}
    for name, path in paths.items():
        with untrusted.opened(path) as file:
            contents[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return {name: digest for name, digest in contents.items() if digest}


def request_digest(config: Mapping[str, Any]) -> str:
    """Return sixteen hexadecimal digits that identify the request of a `config.json`: options, split, data and files.

    The device, code, libraries and CPU are not part of the request. Nor is a flag that is newer than the run, as long as the
    flag has the value that describes earlier versions (`options.flag`, `legacy_value`).
    """
    options, files = config["options"], config.get("files", {})
    is_known = options["algorithm"] in algorithms.ALGORITHMS  # of an unloaded plugin only the shared flags are known
    declared = flags_of(algorithms.options_of(options["algorithm"]) if is_known else Options)
    legacy_values = {name: plain_value(flag["legacy_value"]) for name, flag in declared.items() if "legacy_value" in flag}
    requested = {
        name: value
        for name, value in options.items()
        if name not in files and name not in NO_PART and not (name in legacy_values and value == legacy_values[name])
    }
    parts = {"options": requested, "split": config["split"], "data": config["data"]["digest"], "files": files}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def name_of(config: dict[str, Any]) -> str:
    """Return the name of a run's folder: algorithm, data, a digest of the request, and a digest of code, libraries, CPU."""
    algorithm, data = config["options"]["algorithm"], stem(config["data"]["name"])
    return f"{algorithm}-{data}-{request_digest(config)[:8]}-{config['source'][:6]}"


def carried_out(config: Mapping[str, Any], today: Mapping[str, Any]) -> str:
    """Return a message with the differences of code, libraries and CPU between a run and `today`.

    `today` is a `config.json` of the same request. The message is empty if the run would be the same today.
    """
    if config["source"] == today["source"]:
        return ""
    run_environment, current_environment = config.get("environment", {}), today["environment"]
    differences = [
        f"{name} {run_environment[name]}"
        for name in ("torch", "numpy", "processor", "device")
        if run_environment[name] != current_environment[name]
    ]
    return ", ".join(differences) or f"code of {config.get('revision') or 'another revision'}"


def stem(name: str) -> str:
    """Return a name, such as a data set's, as part of a file name; a name that is too long is cut and gets a digest."""
    text = re.sub(r"[^\w.]+", "_", name)
    if len(text.encode()) <= LONGEST:
        return text
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{text.encode()[:100].decode(errors='ignore')}-{digest}"


def _digest(parts: list) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _sources(options: Options) -> list[str]:
    """Return the text of every module that can change a number of a run with these options.

    These are Chorus's modules, the algorithm's module, the modules of algorithms whose parts it uses, and the modules of
    plugins that it uses.
    """
    algorithm = options.algorithm
    plugin_paths = [path for name in plugins.used_by(options) for path in plugins.sources(name)]
    queue = [algorithms.ALGORITHMS[algorithm], *filter(None, [algorithms.PUBLISHED.get(algorithm)])]
    if plugin_paths:  # plugin modules can only be found by searching all loaded modules
        queue += [module for name, module in list(sys.modules.items()) if plugins.file_of(name) in plugin_paths]
    names: set[str] = set()
    while queue:
        module = queue.pop()
        names.add(module.__name__)
        used = {getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in vars(module).values()}
        queue += [sys.modules[name] for name in used if name.startswith("algorithms.") and name not in names]
    algorithm_modules = sorted(name for name in names if name.startswith("algorithms."))
    return [
        plugins.text_of(path)
        for path in (*sources(), *(Path(sys.modules[name].__file__) for name in algorithm_modules), *plugin_paths)
    ]


@cache
def sources(first: str = "experiment.rounds") -> tuple[Path, ...]:
    """Return the files of Chorus's modules that can change a number of a run.

    These are the module `first` and the modules that it imports, directly or indirectly.
    """
    files: dict[Path, None] = {}
    queue = [first]
    while queue:
        name = queue.pop()
        path = HERE / f"{name.replace('.', '/')}.py"
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        if path in files or not path.exists() or name in OF_NO_NUMBER:
            continue
        files[path] = None
        for package, names, module in IMPORTS.findall(plugins.text_of(path)):
            queue += [module or package, *(f"{package}.{part}" for part in re.findall(r"\w+", names) if package)]
    return tuple(sorted(files))


@cache
def revision() -> str | None:
    """Return the commit of this checkout, with "-dirty" if Python files differ from it; None without a checkout or git."""
    if not (HERE / ".git").exists():  # an installed package may lie in the folder of another checkout
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("describe", "--always", "--abbrev=12") + "-dirty" * bool(changed)
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
    """Return the finished run of the same request that other code, libraries or CPU made; None if there is none."""
    request = folder.name.rpartition("-")[0]
    others = [path.parent for path in folder.parent.glob(f"{request}-*/done")]
    return next((other for other in sorted(others) if other != folder), None)
