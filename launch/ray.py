"""Runs on the nodes of a Ray cluster (https://docs.ray.io).

The nodes must see the folder of the runs, and the files that flags name, under the same paths. This module is imported only
where `--ray` asks for it.

A run is a Ray task. Ray starts the task on a node that has the run's cores (`--threads`) free, and a GPU for a run on a CUDA
device. The task works in the run's own folder, as a process of this machine does. So whatever is killed (a node, a worker,
this process), the run continues from its checkpoint. Ray copies the code of this checkout to the nodes, so that all nodes
have the same code; each node reads the data itself.
"""

import logging
import os
import pickle
import platform
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

import experiment
import plugins
from errors import LostError, UserError, reason_of
from experiment import Experiment, identity
from experiment.rounds import Logger
from launch import nodes, scheduling, single
from launch.single import End
from options import Launch

HERE = Path(__file__).resolve().parent.parent
# files of the checkout that stay here, as .gitignore patterns: the last match decides
NO_CODE = ["?*.*", ".?*", "/data/*", "/saves/*", "/tests", "!*.py"]
REACH = 10.0  # seconds in which a cluster must answer at its address
GRACE = 10.0  # seconds that runs have to save their last finished round, where this process must stop
log = logging.getLogger("chorus")

# --- in this process ---------------------------------------------------------------------------------------------------


class Nodes(AbstractContextManager):
    """The nodes of the cluster at the address `--ray`.

    `ray.init` reads the address; "local" starts a cluster of this machine alone. `--jobs` is the number of the cluster's
    cores in use at once. See `loop.Here`. Raises UserError where there is no cluster, or where all nodes decline.
    """

    tries = 3

    def __init__(self, launch_options: Launch, experiments: Sequence[Experiment], loggers: Sequence[Logger]) -> None:
        self._how, self._experiments, self._loggers = launch_options, experiments, tuple(loggers)
        self._out: dict[ray.ObjectRef, Experiment] = {}
        self._declined: dict[str, str] = {}  # {id of a node: why it declined}

    def __enter__(self) -> "Nodes":
        _connect(self._how.ray, scheduling.cores_of(self._experiments, self._how.jobs))
        self._task = ray.remote(_make_task())
        for name, warning in (
            ("CPU", "--threads {}: no node has that many cores"),
            ("GPU", "--device cuda: no node has a GPU"),
        ):
            largest = max(_required_resources(experiment).get(name, 0) for experiment in self._experiments)
            if largest > max((node["Resources"].get(name, 0) for node in self._nodes()), default=0):
                log.warning("%s; these runs wait for such a node", warning.format(largest))
        return self

    def __exit__(self, *_) -> None:
        for ref in self._out:
            ray.cancel(ref)
        if self._out:
            ray.wait(list(self._out), num_returns=len(self._out), timeout=GRACE)
        ray.shutdown()

    def _nodes(self) -> list[Mapping[str, Any]]:
        """Return the nodes that are alive and have not declined."""
        return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._declined]

    @property
    def running(self) -> int:
        """See `loop.Here`."""
        return len(self._out)

    def fitting(self, waiting: Sequence[Experiment]) -> Sequence[Experiment]:
        """See `loop.Here`.

        There is room for up to `--jobs` cores. With `--jobs auto` there is room for all cores of the cluster and for one
        more run: so no node waits for its next run, and a cluster that grows with its queue does grow.
        """
        if not self._out:
            if self._declined and not any(node["Resources"].get("CPU") for node in self._nodes()):
                raise UserError(f"--ray: all nodes decline; {next(iter(self._declined.values()))}")
            return waiting
        used = sum((Counter(_required_resources(experiment)) for experiment in self._out.values()), Counter())
        if self._how.jobs != "auto":
            return [experiment for experiment in waiting if used["CPU"] + experiment.cores <= self._how.jobs]
        available = sum((Counter(node["Resources"]) for node in self._nodes()), Counter())
        return [
            experiment
            for experiment in waiting
            if all(used[name] <= available[name] for name in _required_resources(experiment))
        ]

    def begin(self, experiment: Experiment, force: bool) -> None:
        """See `loop.Here`."""
        experiment.folder.mkdir(parents=True, exist_ok=True)  # shows a node that it shares the folder of the runs
        resources = _required_resources(experiment)
        selector = {"label_selector": {"ray.io/node-id": f"!in({','.join(self._declined)})"}} if self._declined else {}
        options = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0), "max_retries": 0, **selector}
        pickled_run = pickle.dumps((replace(experiment, data=None), self._how, force, self._loggers))
        ref = self._task.options(**options).remote(
            str(Path.cwd()), sys.argv, [str(path) for path in plugins.files()], pickled_run
        )
        self._out[ref] = experiment

    def ended(self, timeout: float) -> list[tuple[Experiment, End]]:
        """See `loop.Here`."""
        if not self._out:
            time.sleep(timeout)
        ended_refs = ray.wait(list(self._out), timeout=timeout)[0] if self._out else []
        return [(experiment, self._end_of(ref, experiment)) for ref in ended_refs for experiment in [self._out.pop(ref)]]

    def _end_of(self, ref: "ray.ObjectRef", experiment: Experiment) -> End:
        try:
            end, records, node = pickle.loads(ray.get(ref))
        except RayTaskError as error:  # an exception from outside a run, such as a module that a node lacks
            return single.failed(experiment, reason_of(error.cause or error))
        except RayError as error:  # only the first sentence, in one line
            return LostError(" ".join(str(error).split()).partition(". ")[0].removesuffix(".") or type(error).__name__)
        for record in records:
            logging.getLogger(record.name).handle(record)
        if isinstance(end, nodes.DeclinedError):
            if node not in self._declined:
                log.warning("%s", end)
            self._declined[node] = str(end)
        return end


def _connect(address: str, cores: int) -> None:
    """Connect Ray's functions to the cluster; its workers import the modules of this checkout."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that starts here sends no usage statistics
    local = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {}
    runtime_env = {"working_dir": str(HERE), "excludes": NO_CODE}
    is_main_thread, handler = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdigit():  # without an answer, Ray would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
        ray.init(address, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, RuntimeError, ValueError, OverflowError, AssertionError, RayError) as error:
        ray.shutdown()
        raise UserError(f"--ray {address}: no usable cluster found ({reason_of(error)})") from None
    if is_main_thread and handler is not None:
        signal.signal(signal.SIGTERM, handler)  # Ray's own handler would end this process before a run is saved


def _required_resources(experiment: Experiment) -> dict[str, int]:
    """Return the resources that a node must have free."""
    return {"CPU": experiment.cores, **({"GPU": 1} if experiment.options.device.startswith("cuda") else {})}


def _make_task() -> Callable[..., bytes]:
    """Return `_make_run` as a function that is pickled by value, with bytes for the types of this package.

    Where the caller is outside the cluster (`ray://`), a process without the modules of Chorus handles the function too.
    """

    def make_run(*args: Any) -> bytes:
        from launch import ray

        return ray._make_run(*args)

    return make_run


# --- on a node ---------------------------------------------------------------------------------------------------------


def _make_run(cwd: str, argv: Sequence[str], plugin_files: Sequence[str], pickled_run: bytes) -> bytes:
    """Execute one run; return its end, its log records and the id of this node, as bytes."""
    records: list[logging.LogRecord] = []
    single.be_worker(records.append)
    sys.argv = list(argv)  # the log of the run shows this command
    os.chdir(cwd)  # relative paths start from this folder
    for path in plugin_files:
        plugins.load(path)
    run_experiment, launch_options, force, loggers = pickle.loads(pickled_run)
    with single.end_of(run_experiment) as ending:
        try:
            local_experiment = _as_it_is_here(run_experiment, launch_options)
        except UserError as error:
            error_type = nodes.DeclinedError if isinstance(error, nodes.DeclinedError) else UserError
            raise error_type(f"{platform.node()}: {error}") from None
        ending.end = experiment.run(local_experiment, force, loggers=loggers)
    return pickle.dumps((ending.end, records, ray.get_runtime_context().get_node_id()))


def _as_it_is_here(experiment: Experiment, launch_options: Launch) -> Experiment:
    """Return the experiment with this node's data, and with the GPU that Ray assigned, the only GPU that the task sees.

    `config.json` is the caller's; with `--any_node` it has this node's values instead. Raises UserError.
    """
    if not experiment.folder.is_dir():
        raise UserError(
            f"{experiment.folder}: does not exist on this node; the nodes of --ray must share --export_dir under the same "
            "path"
        )
    options = (
        replace(experiment.options, device="cuda:0") if experiment.options.device.startswith("cuda") else experiment.options
    )
    own_carrier = {name: value for name, value in identity.carrier(options).items() if name != "revision"}
    named_experiment = nodes.under_its_name(
        replace(experiment, config={**experiment.config, **own_carrier}),
        nodes.named_for(experiment),
        launch_options.any_node,
    )
    return replace(nodes.with_data(experiment, launch_options, "nodes"), options=options, config=named_experiment.config)
