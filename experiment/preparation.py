"""Preparation before the first round: resolve the options, load the data, draw the split and check everything.

This module writes no file of the run.
"""

import logging
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import torch

import algorithms
import models
import plugins
import saves
import streams
from data import datasets, partition, shift
from data.files import listed, reason
from errors import MEMORY, UserError, refused
from experiment import defences, identity
from federation import Federation, recording, scratch
from federation.pool import Pool, packed
from federation.ranks import Ranks, world
from federation.wire import Wire
from measures import MEASURES, values_of
from options import Launch, Options

log = logging.getLogger("chorus")
COPIES = 4  # of the weights of a network, at least, in the memory of a run


@dataclass(frozen=True)
class Experiment:
    """A checked and named run, of which no file exists yet.

    `workers`: the number of processes that train the clients, which changes no number; 1 is this process alone.
    """

    options: Options
    data: datasets.Data
    split: partition.Split
    start: saves.Rows | None  # initial weights of --init_from
    folder: Path
    config: dict[str, Any]
    workers: int = 1

    @property
    def cores(self) -> int:
        """Return the number of cores that the run keeps busy."""
        return max(self.workers, self.options.threads)

    @property
    def module(self) -> ModuleType:
        """Return the algorithm's module."""
        return algorithms.module_of(self.options)


def prepare(options: Options, launch_options: Launch) -> Experiment:
    """Resolve `auto`, load the data, draw the split and name the folder. Raise UserError for anything that cannot work."""
    with plugins.blamed(options):
        prepared = _prepared(resolve(options), launch_options)
    plugins.check()
    return prepared


def _prepared(options: Options, launch_options: Launch) -> Experiment:
    _check_writable(launch_options.export_dir)
    source = _source(options, launch_options)
    data = _data(options.dataset, options.public_dataset, source)
    inputs = (data.shape, len(data.classes))
    with streams.torch_seeded("tried out"):
        networks = [
            _build_network(options, name, build, data.shape)
            for name, build in zip(options.model, _architectures(options, inputs), strict=True)
        ]
    _check_models(options, data, networks)
    _check_measures(options, len(data.classes))
    defences.check(options, algorithms.module_of(options))
    shared = {f.name: getattr(options, f.name) for f in fields(Options)}
    split = _split(Options(**{**shared, "algorithm": "", "seed": 0}), source)
    if algorithms.says(options.algorithm, "public") and not len(split.public):
        raise UserError(f"{options.algorithm}: requires public examples, but there are none; add --public_share 0.1")
    shift.check(split, options)
    _check_single_examples(options, split.everyone, networks, data.shape)
    if split.new:
        _note_on_new_clients(options.algorithm)
    start = _start(options, networks, inputs)
    check = getattr(algorithms.ALGORITHMS[options.algorithm], "check", None)
    if check and (message := check(options, data, len(split.train.values))):
        log.info(message)
    config = identity.config_of(options, data, split, start) | defences.promise(options, algorithms.module_of(options))
    return Experiment(options, data, split, start, launch_options.export_dir / identity.name_of(config), config)


@cache
def _note_on_new_clients(algorithm: str) -> None:
    """Log, once, that an algorithm has no model for new clients."""
    if getattr(algorithms.ALGORITHMS[algorithm], "new_clients", "") is None:
        log.info("--new_clients: %s sends no model to a new client, so its columns stay empty", algorithm)


def forget() -> None:
    """Forget the data sets and splits of earlier runs in this process, whose files and plugins may have changed since."""
    _data.cache_clear()
    _split.cache_clear()


def data_of(options: Options, launch_options: Launch) -> datasets.Data:
    """Return the data set that a run requests, from this machine. Raise UserError if it is missing."""
    return _data(options.dataset, options.public_dataset, _source(options, launch_options))


def resolve(options: Options) -> Options:
    """Return the options with every `auto` replaced by its value on this machine."""
    device, threads = options.device, options.threads
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"--device {options.device}: no CUDA device is available; must be cpu or auto")
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            allowed = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
            raise UserError(f"--device {options.device}: no such CUDA device; must be cpu, auto or one of {allowed}")
        device = f"cuda:{index}"
    return replace(options, device=device, threads=1 if threads == "auto" else threads)


def _check_writable(folder: Path) -> None:
    try:
        existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        # permissions are not enough: nobody can create a file in /proc; a file without a name leaves nothing after `kill -9`
        tempfile.TemporaryFile(dir=existing).close()
    except OSError:  # for example a name that is too long
        raise UserError(f"--export_dir {folder}: cannot be written; use a folder that exists or can be created") from None


def _source(options: Options, launch_options: Launch) -> datasets.Source:
    return datasets.Source(
        launch_options.data_dir, options.image_size, options.attribute, launch_options.unverified_data, options.label
    )


@cache
def _data(name: str, public: str | None, source: datasets.Source) -> datasets.Data:
    """Return the data set, followed by the public data set if there is one."""
    data = datasets.load(name, source)
    if data.unverified:
        log.warning("--dataset %s: %s", name, data.unverified)
    for warning in data.warnings:
        log.warning(warning)
    if public is None:
        return data
    try:
        return datasets.with_public(data, _data(public, None, source))
    except ValueError as error:
        raise UserError(f"--public_dataset {public}: {error}") from None
    except UserError as error:  # the message names the flag --dataset
        raise UserError(f"--public_dataset {str(error).removeprefix('--dataset ')}") from None


@cache
def _split(options: Options, source: datasets.Source) -> partition.Split:
    """Return the split, drawn once for all runs that share it: it depends neither on the algorithm nor on the seed.

    Log the clients that train if these are a part of the data's clients, and the new clients."""
    data = _data(options.dataset, options.public_dataset, source)
    split = partition.split(data, options)
    if split.names and len(split.everyone.names) < len(data.clients):
        n = len(split.names)
        log.info("--n_clients %d: %d of %d clients train: %s", n, n, len(data.clients), listed(split.names))
    if split.new:
        names = split.new.names or map(str, range(len(split.train), partition.n_dealt(options)))
        log.info("--new_clients: take no part in training: %s", listed(names))
    return split


def _start(options: Options, networks: Sequence[models.Net], inputs: tuple) -> saves.Rows | None:
    """Return the weights after the last round of `--init_from`: one row of the global model, or one row per client."""
    if options.init_from is None:
        return None
    prefix = f"--init_from {options.init_from}:"
    try:
        weights = saves.load(options.init_from).weights()
    except UserError as error:
        raise UserError(f"--init_from {error}") from None
    rows = weights.get("global", weights.get("personal"))
    if rows is None:
        raise UserError(f"{prefix} has neither a global model nor one model per client, but {', '.join(map(str, weights))}")
    if isinstance(rows, list):
        if not algorithms.says(options.algorithm, "mixed"):
            raise UserError(
                f"{prefix} has one model per client, but {options.algorithm} starts from a global model; use a run with a "
                "global model, such as fedavg"
            )
        if len(rows) != options.n_clients:
            raise UserError(
                f"{prefix} has models of {len(rows)} clients, but --n_clients is {options.n_clients}; use --n_clients "
                f"{len(rows)}"
            )
    for k, row in enumerate(rows if isinstance(rows, list) else [rows] * len(networks)):
        if {name: tensor.shape for name, tensor in row.items()} != {
            name: tensor.shape for name, tensor in networks[k % len(networks)].state_dict().items()
        }:
            raise UserError(
                f"{prefix} has another architecture than --model {options.model[k % len(networks)]} for {inputs[1]} "
                f"classes and images of {'x'.join(map(str, inputs[0]))}; use the same architecture"
            )
    return rows


def _check_models(options: Options, data: datasets.Data, networks: Sequence[models.Net]) -> None:
    """Check that the algorithm works with these models, one of each architecture, and the models with these images."""
    algorithm, model_list = options.algorithm, ",".join(options.model)
    if len(data.classes) < 2:
        raise UserError(
            f"--dataset {options.dataset}: all examples have the class {data.classes[0]}; must have at least two classes"
        )
    if options.augment != "none" and data.vectors:
        raise UserError(f"--augment {options.augment}: applies only to images, but {options.dataset} holds vectors")
    models_with_heads = models.readers("heads")
    without_heads = [name for name in options.model if name not in models_with_heads]
    if without_heads and algorithms.says(algorithm, "heads"):
        raise UserError(
            f"--model {without_heads[0]}: has no auxiliary heads, which {options.algorithm} requires; must be one of "
            f"{', '.join(models_with_heads)}"
        )
    if len(set(options.model)) > 1 and not algorithms.says(algorithm, "mixed"):
        raise UserError(
            f"--model {model_list}: {options.algorithm} combines the clients' weights, so all clients must have the same "
            "architecture"
        )
    if getattr(options, "bn", "average") == "local" and not any(model.names("bn") for model in networks):
        raise UserError(
            f"--bn local: --model {model_list} has no BatchNorm layers; must be one of {', '.join(models.with_batch_norm())}"
        )
    widths = {model.classifier.in_features for model in networks}
    if len(widths) > 1 and algorithms.says(algorithm, "same_features"):
        dimensions = ", ".join(
            f"{name} {model.classifier.in_features}" for name, model in zip(options.model, networks, strict=True)
        )
        raise UserError(
            f"--model {model_list}: {options.algorithm} shares features, so all models must have the same feature "
            f"dimension, got {dimensions}"
        )


def _check_measures(options: Options, n_classes: int) -> None:
    """Try the measures of users, on labels of all classes and of one. Raise UserError for one that fails."""
    p = np.full((n_classes, n_classes), 0.5 / n_classes) + 0.5 * np.eye(n_classes)
    for name in options.measure or ():
        if MEASURES[name].__module__ != "measures":
            for y in (np.arange(n_classes), np.zeros(n_classes, np.int64)):
                values_of(name, y, p)


def _check_single_examples(options: Options, split: partition.Split, networks: Sequence[models.Net], shape: tuple) -> None:
    """Check that the models can train on one example if a batch may have one: BatchNorm needs two values per channel."""
    single = np.flatnonzero(split.train.sizes == 1)
    if options.batch_size > 1 and not len(single):
        return
    for name, model in zip(options.model, networks, strict=True):
        try:
            with streams.torch_seeded("tried out"):  # for dropout
                model.train()(torch.zeros(1, *shape))
        except ValueError as error:
            cause = f"client {single[0]} has a single training example" if len(single) else "--batch_size is 1"
            raise UserError(
                f"--model {name}: cannot train on a batch of one example, but {cause} ({reason(error)})"
            ) from None


def _architectures(options: Options, inputs: tuple) -> list[Callable[[], models.Net]]:
    """Return the functions that build the clients' models."""
    heads = algorithms.says(options.algorithm, "heads")
    return [partial(models.build, name, *inputs, options.feature_dim, heads) for name in options.model]


def _build_network(options: Options, name: str, build: Callable[[], models.Net], shape: tuple[int, int, int]) -> models.Net:
    """Return a new network. Raise UserError if the memory is too small for it, or if a user's network has a defect."""
    with plugins.blamed(options, f"--model {name}: ", f"; {models.MUST_BE}"):
        n_bytes = psutil.virtual_memory().available // COPIES
        try:
            with _limited_memory(n_bytes) as is_limited:
                network = build()
        except (MemoryError, RuntimeError) as error:
            if is_limited and refused(error) == MEMORY:
                raise UserError(
                    f"--model {name}: its weights take more than {n_bytes / 1e9:.1f} GB; a run holds {COPIES} copies or "
                    "more (network, gradients, server, client), which do not fit the free memory; use a smaller model"
                ) from error
            raise
        if name not in models.ZOO and (defect := models.defect_of(network, shape)):
            raise UserError(f"--model {name}: {defect}")
        return network


@contextmanager
def _limited_memory(n_bytes: int) -> Iterator[bool]:
    """Let this process take at most n_bytes more inside, so that the system need not kill it; yield whether that is so."""
    try:
        import resource
    except ImportError:  # Windows
        yield False
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + n_bytes
    if soft != resource.RLIM_INFINITY and soft <= limit:
        yield False
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def federation_of(experiment: Experiment) -> Federation:
    """Return the clients of an experiment with their data, on its device; make computations repeatable from now on."""
    return _federation(experiment, shift.shifted(experiment.data, experiment.split, experiment.options))


def _federation(experiment: Experiment, data: datasets.Data) -> Federation:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = False  # --precision float32 means float32, whose products TF32 rounds to 10 bits
    options = experiment.options
    rounds = recording.rounds_of(options.record_wire or (), options.rounds)
    uploads = getattr(experiment.module, "uploads", {}) if options.secure_aggregation else None
    recorder = recording.Recorder(data, rounds, options.record_rows, uploads) if rounds else None
    return Federation.of(
        data,
        experiment.split.train,
        _architectures(options, (data.shape, len(data.classes))),
        options.device,
        validation=experiment.split.validation,
        public=experiment.split.public,
        start=experiment.start,
        precision=options.precision,
        wire=Wire(options.compress, recorder, defences.noise_of(options)),
        seed=options.seed,
        participation=options.participation,
        threads=options.threads,
    )


@contextmanager
def at_work(experiment: Experiment) -> Iterator[Federation]:
    """Yield the federation of an experiment, with its worker processes and other ranks of torchrun, if any."""
    federation, is_distributed = federation_of(experiment), world() > 1
    if experiment.workers == 1:
        yield replace(federation, pool=Ranks() if is_distributed else None)
        return
    with scratch.shared_folder() as folder:
        file = federation.data.to("cpu").write(folder / "data.pt")
        build = partial(_replica, plugins.files(), packed(replace(experiment, data=None)), file)
        pool = Pool(federation, build, experiment.workers)
        try:
            yield replace(federation, pool=Ranks(pool, experiment.workers) if is_distributed else pool)
        finally:
            pool.close()


def _replica(plugin_files: Sequence[Path], packed_experiment: bytes, data_file: Path) -> Federation:
    for path in plugin_files:  # before unpacking the experiment, which may contain the plugins' classes
        plugins.load(path)
    return _federation(pickle.loads(packed_experiment), datasets.mapped(data_file))
