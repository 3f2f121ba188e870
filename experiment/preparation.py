"""Before the first round: the options resolved, the data loaded, the split drawn, everything checked; nothing is written."""

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
import torch

import algorithms
import models
import plugins
import saves
import streams
from data import datasets, partition, shift
from data.files import reason
from errors import UserError
from experiment import identity
from federation import Federation, scratch
from federation.pool import Pool, packed
from federation.ranks import Ranks, world
from federation.wire import Wire
from options import Launch, Options

log = logging.getLogger("chorus")


@dataclass(frozen=True)
class Experiment:
    """A run that is ready: everything is checked and named, nothing is written yet. `workers`: how many processes train its
    clients, which changes no number; 1 is this one alone."""

    options: Options
    data: datasets.Data
    split: partition.Split
    start: saves.Rows | None  # initial weights of --init_from
    folder: Path
    config: dict[str, Any]
    workers: int = 1

    @property
    def cores(self) -> int:
        """How many it keeps at work."""
        return max(self.workers, self.options.threads)

    @property
    def module(self) -> ModuleType:
        """What carries the options out."""
        return algorithms.module_of(self.options)


def prepare(options: Options, launch: Launch) -> Experiment:
    """Resolve `auto`, load the data, draw the split, name the folder. Raises UserError for whatever cannot work."""
    with plugins.blamed(options):
        prepared = _prepared(resolve(options), launch)
    plugins.check()
    return prepared


def _prepared(options: Options, launch: Launch) -> Experiment:
    _writable(launch.export_dir)
    source = _source(options, launch)
    data = _data(options.dataset, options.public_dataset, source)
    inputs = (data.shape, len(data.classes))
    with streams.torch_seeded("tried out"):
        built = [
            _built(options, name, build) for name, build in zip(options.model, _architectures(options, inputs), strict=True)
        ]
    _fits(options, data, built)
    shared = {f.name: getattr(options, f.name) for f in fields(Options)}
    split = _split(Options(**{**shared, "algorithm": "", "seed": 0}), source)
    if algorithms.says(options.algorithm, "public") and not len(split.public):
        raise UserError(f"{options.algorithm}: learns from public examples, and there are none; add --public_share 0.1")
    shift.check(split, options)
    _trains_on_one(options, split, built, data.shape)
    start = _start(options, built, inputs)
    check = getattr(algorithms.ALGORITHMS[options.algorithm], "check", None)
    if check and (words := check(options, data, len(split.train.values))):
        log.info(words)
    config = identity.config_of(options, data, split, start)
    return Experiment(options, data, split, start, launch.export_dir / identity.name_of(config), config)


def data_of(options: Options, launch: Launch) -> datasets.Data:
    """The data set that a run asks for, as it is on this machine. Raises UserError where it is not there."""
    return _data(options.dataset, options.public_dataset, _source(options, launch))


def resolve(options: Options) -> Options:
    """The same options with every `auto` replaced by what it means on this machine."""
    device, threads = options.device, options.threads
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"--device {options.device}: no CUDA device is there; --device cpu or auto")
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            allowed = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
            raise UserError(f"--device {options.device}: no such CUDA device; must be cpu, auto or one of {allowed}")
        device = f"cuda:{index}"
    return replace(options, device=device, threads=1 if threads == "auto" else threads)


def _writable(folder: Path) -> None:
    try:
        there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        # rights alone do not tell: nobody makes a file in /proc; one without a name, which `kill -9` cannot leave
        tempfile.TemporaryFile(dir=there).close()
    except OSError:  # a name that is too long, say
        raise UserError(f"--export_dir {folder}: cannot be written; must be a folder, there or to be made") from None


def _source(options: Options, launch: Launch) -> datasets.Source:
    return datasets.Source(launch.data_dir, options.image_size, options.attribute, launch.unverified_data, options.label)


@cache
def _data(name: str, public: str | None, source: datasets.Source) -> datasets.Data:
    """The data set, and behind it the public one where there is such."""
    data = datasets.load(name, source)
    if data.unverified:
        log.warning("--dataset %s: %s", name, data.unverified)
    for words in data.warnings:
        log.warning(words)
    if public is None:
        return data
    try:
        return datasets.with_public(data, _data(public, None, source))
    except ValueError as error:
        raise UserError(f"--public_dataset {public}: {error}") from None
    except UserError as error:  # which names the flag that others have
        raise UserError(f"--public_dataset {str(error).removeprefix('--dataset ')}") from None


@cache
def _split(options: Options, source: datasets.Source) -> partition.Split:
    """The split, drawn once for all that share it: it reads neither the algorithm nor the seed."""
    return partition.split(_data(options.dataset, options.public_dataset, source), options)


def _start(options: Options, built: Sequence[models.Net], inputs: tuple) -> saves.Rows | None:
    """The weights after the last round of `--init_from`: of the one model for all where it has one, or a row a client."""
    if options.init_from is None:
        return None
    given = f"--init_from {options.init_from}:"
    try:
        weights = saves.load(options.init_from).weights()
    except UserError as error:
        raise UserError(f"--init_from {error}") from None
    found = weights.get("global", weights.get("personal"))
    if found is None:
        raise UserError(f"{given} has neither a model for all nor one a client; it has {', '.join(map(str, weights))}")
    if isinstance(found, list):
        if not algorithms.says(options.algorithm, "mixed"):
            raise UserError(
                f"{given} has a model a client, and {options.algorithm} starts from one for all; must be a run that ends "
                f"with one, of fedavg or centralized"
            )
        if len(found) != options.n_clients:
            raise UserError(f"{given} has models of {len(found)} clients, and --n_clients is {options.n_clients}")
    for k, row in enumerate(found if isinstance(found, list) else [found] * len(built)):
        if {n: t.shape for n, t in row.items()} != {n: t.shape for n, t in built[k % len(built)].state_dict().items()}:
            raise UserError(
                f"{given} is of another architecture than --model {options.model[k % len(built)]} for {inputs[1]} classes "
                f"and images of {'x'.join(map(str, inputs[0]))}; must be the same"
            )
    return found


def _fits(options: Options, data: datasets.Data, built: Sequence[models.Net]) -> None:
    """Whether the algorithm can do with these models, one of each architecture, and they with these images."""
    algorithm, named = options.algorithm, ",".join(options.model)
    if len(data.classes) < 2:
        raise UserError(
            f"--dataset {options.dataset}: all examples are of one class, {data.classes[0]}, and any model is right; must "
            "be of two classes or more"
        )
    if options.augment != "none" and data.vectors:
        raise UserError(f"--augment {options.augment}: read only with images, and {options.dataset} holds vectors")
    have_heads = models.readers("heads")
    strange = [name for name in options.model if name not in have_heads]
    if strange and algorithms.says(algorithm, "heads"):
        raise UserError(
            f"--model {strange[0]}: has no auxiliary heads, which {options.algorithm} learns with; must be one of "
            f"{', '.join(have_heads)}"
        )
    if len(set(options.model)) > 1 and not algorithms.says(algorithm, "mixed"):
        raise UserError(
            f"--model {named}: {options.algorithm} averages or pools weights, which takes one architecture for all clients"
        )
    if getattr(options, "bn", "average") == "local" and not any(model.names("bn") for model in built):
        raise UserError(
            f"--bn local: --model {named} has no BatchNorm layers, which would stay with the clients; must be one of "
            f"{', '.join(models.with_batch_norm())}"
        )
    widths = {model.classifier.in_features for model in built}
    if len(widths) > 1 and algorithms.says(algorithm, "same_features"):
        found = ", ".join(f"{name} {model.classifier.in_features}" for name, model in zip(options.model, built, strict=True))
        raise UserError(f"--model {named}: {options.algorithm} shares features, which must be of one dimension, got {found}")


def _trains_on_one(options: Options, split: partition.Split, built: Sequence[models.Net], shape: tuple) -> None:
    """Whether the models can train on one example, where a batch may be of one: BatchNorm takes two numbers a channel."""
    single = np.flatnonzero(split.train.sizes == 1)
    if options.batch_size > 1 and not len(single):
        return
    for name, model in zip(options.model, built, strict=True):
        try:
            with streams.torch_seeded("tried out"):  # of dropout
                model.train()(torch.zeros(1, *shape))
        except ValueError as error:
            which = f"client {single[0]} has a single training example" if len(single) else "--batch_size is 1"
            raise UserError(f"--model {name}: cannot train on one example, and {which} ({reason(error)})") from None


def _architectures(options: Options, inputs: tuple) -> list[Callable[[], models.Net]]:
    """What builds the models that are dealt to the clients."""
    heads = algorithms.says(options.algorithm, "heads")
    return [partial(models.build, name, *inputs, options.feature_dim, heads) for name in options.model]


def _built(options: Options, name: str, build: Callable[[], models.Net]) -> models.Net:
    with plugins.blamed(options, f"--model {name}: ", f"; {models.MUST_BE}"):
        return build()


def federation_of(experiment: Experiment) -> Federation:
    """The clients of an experiment and the data as they see them, on its device, where what they compute repeats from now
    on."""
    return _federation(experiment, shift.shifted(experiment.data, experiment.split, experiment.options))


def _federation(experiment: Experiment, data: datasets.Data) -> Federation:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    options = experiment.options
    return Federation.of(
        data,
        experiment.split.train,
        _architectures(options, (data.shape, len(data.classes))),
        options.device,
        validation=experiment.split.validation,
        public=experiment.split.public,
        start=experiment.start,
        precision=options.precision,
        wire=Wire(options.compress),
        seed=options.seed,
        participation=options.participation,
        threads=options.threads,
    )


@contextmanager
def at_work(experiment: Experiment) -> Iterator[Federation]:
    """Inside, the clients of an experiment, side by side in its workers where it has several, and shared with other ranks
    where there are any."""
    federation, shared = federation_of(experiment), world() > 1
    if experiment.workers == 1:
        yield replace(federation, pool=Ranks() if shared else None)
        return
    with scratch.shared_folder() as folder:
        file = federation.data.to("cpu").write(folder / "data.pt")
        build = partial(_replica, plugins.files(), packed(replace(experiment, data=None)), file)
        pool = Pool(federation, build, experiment.workers)
        try:
            yield replace(federation, pool=Ranks(pool, experiment.workers) if shared else pool)
        finally:
            pool.close()


def _replica(brought: Sequence[Path], sent: bytes, file: Path) -> Federation:
    for path in brought:  # before what is sent is unpacked, which may be of their making
        plugins.load(path)
    return _federation(pickle.loads(sent), datasets.mapped(file))
