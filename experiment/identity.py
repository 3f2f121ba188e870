"""What a run is: everything that its result depends on, and the name of its folder."""

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
# what the loop over rounds imports and yet can change no number: it saves, parses, names or waits, or is asked below
OF_NO_NUMBER = ("data", "experiment", "plugins", "saves", "options", "errors", "algorithms")
OF_NO_NUMBER += ("federation.allocator", "federation.locks", "federation.scratch")
IMPORTS = re.compile(r"^ *(?:from ([\w.]+) import (\([^)]*\)|.+)|import ([\w.]+))", re.M)

LONGEST = 160  # bytes of a data set's name in that of a folder, of the 255 that file systems take
NO_PART = ("device", "unverified_data")  # of what a run asks for: who carries it out; what older runs said of their data


def config_of(options: Options, data: datasets.Data, split: partition.Split, start: saves.Rows | None) -> dict[str, Any]:
    """`config.json`: the options, and what they do not say themselves: digests of the split, of the data and of what is in
    every file that an option names, the plugins that are loaded, the code, the libraries and the processor."""
    return {
        "options": plain(options),
        "split": split.digest,
        "data": {"name": data.name, "digest": data.digest},
        "files": _files(options, data, split, start),
        "unverified_data": data.unverified,
        "inputs": [list(data.shape), len(data.classes)],
        **({"plugins": brought} if (brought := plugins.digests()) else {}),
        **carrier(options),
    }


def carrier(options: Options) -> dict[str, Any]:
    """The part of `config.json` that says what carries a run out: the code, the libraries and the processor."""
    environment = _environment(options.device)
    carried = [environment[name] for name in ("torch", "numpy", "processor", "device")]
    return {
        "source": _digest([*carried, *_sources(options)]),
        "revision": revision(),
        "environment": environment,
    }


def _files(options: Options, data: datasets.Data, split: partition.Split, start: saves.Rows | None) -> dict[str, str]:
    """{option: digest of what is in the file or folder that it names}; where it lies is no part of a run."""
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


def asked(config: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name what a `config.json` asks for: every option, the split, the data, the files.

    The device, like code, libraries and processor, is what carries a run out and no part of it. Nor is a flag that is newer
    than the run, while it is at the value that says what was done before it was there (`options.flag`, `before`).
    """
    options, files = config["options"], config.get("files", {})
    known = options["algorithm"] in algorithms.ALGORITHMS  # of a plugin that is not here the flags that all have are
    declared = flags_of(algorithms.options_of(options["algorithm"]) if known else Options)
    as_before = {name: plain_value(flag["legacy_value"]) for name, flag in declared.items() if "legacy_value" in flag}
    told = {
        name: value
        for name, value in options.items()
        if name not in files and name not in NO_PART and not (name in as_before and value == as_before[name])
    }
    parts = {"options": told, "split": config["split"], "data": config["data"]["digest"], "files": files}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def name_of(config: dict[str, Any]) -> str:
    """The name of a run's folder: algorithm, data, a digest of all that was asked for, and one of what carries it out."""
    return f"{config['options']['algorithm']}-{stem(config['data']['name'])}-{asked(config)[:8]}-{config['source'][:6]}"


def carried_out(config: Mapping[str, Any], today: Mapping[str, Any]) -> str:
    """In words, what of the code, the libraries and the processor that carried a run out is not as `today` has it, a
    `config.json` that asks for the same; empty where a run of today would be this very one."""
    if config["source"] == today["source"]:
        return ""
    there, here = config.get("environment", {}), today["environment"]
    others = [f"{name} {there[name]}" for name in ("torch", "numpy", "processor", "device") if there[name] != here[name]]
    return ", ".join(others) or f"code of {config.get('revision') or 'another revision'}"


def stem(name: str) -> str:
    """A name, of a data set, as part of a file's name; one too long for that is cut, and told apart by a digest."""
    told = re.sub(r"[^\w.]+", "_", name)
    if len(told.encode()) <= LONGEST:
        return told
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{told.encode()[:100].decode(errors='ignore')}-{digest}"


def _digest(parts: list) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _sources(options: Options) -> list[str]:
    """The text of every module that can change a number of these options: the house's, the algorithm's own, those of the
    algorithms whose parts it takes, and those of the plugins that it takes something of."""
    algorithm = options.algorithm
    brought = [path for name in plugins.used_by(options) for path in plugins.sources(name)]
    todo = [algorithms.ALGORITHMS[algorithm], *filter(None, [algorithms.PUBLISHED.get(algorithm)])]
    if brought:  # to look for their modules is to look at all that there are
        todo += [module for name, module in list(sys.modules.items()) if plugins.file_of(name) in brought]
    own: set[str] = set()
    while todo:
        module = todo.pop()
        own.add(module.__name__)
        taken = {getattr(thing, "__module__", None) or getattr(thing, "__name__", "") for thing in vars(module).values()}
        todo += [sys.modules[name] for name in taken if name.startswith("algorithms.") and name not in own]
    ours = sorted(name for name in own if name.startswith("algorithms."))
    return [plugins.text_of(path) for path in (*sources(), *(Path(sys.modules[name].__file__) for name in ours), *brought)]


@cache
def sources(first: str = "experiment.rounds") -> tuple[Path, ...]:
    """The files of the modules of Chorus that a module imports, itself and what those import included, which can change a
    number of every run."""
    found: dict[Path, None] = {}
    todo = [first]
    while todo:
        name = todo.pop()
        path = HERE / f"{name.replace('.', '/')}.py"
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        if path in found or not path.exists() or name in OF_NO_NUMBER:
            continue
        found[path] = None
        for package, names, module in IMPORTS.findall(plugins.text_of(path)):
            todo += [module or package, *(f"{package}.{part}" for part in re.findall(r"\w+", names) if package)]
    return tuple(sorted(found))


@cache
def revision() -> str | None:
    """The commit of this checkout, "-dirty" where files differ from it; None where it is none, or without git."""
    if not (HERE / ".git").exists():  # installed, perhaps into a folder of somebody else's checkout
        return None
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
    wanted = folder.name.rpartition("-")[0]
    others = [done.parent for done in folder.parent.glob(f"{wanted}-*/done")]
    return next((other for other in sorted(others) if other != folder), None)
