"""On the nodes of a Ray cluster (https://docs.ray.io), which see the folder of the runs under the same path, and the files
that flags name. Imported only where `--ray` asks for it.

A run is a task, which Ray begins where its cores (`--threads`), and the GPU of a run on a CUDA device, are free. It works in
the run's own folder, as a process of this machine does: so whatever is killed (a node, a worker, this process), the run goes
on from its checkpoint. The code goes from this checkout to the nodes, so that all have the same; each node reads the data.
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
NO_CODE = ["?*.*", ".?*", "/data/*", "/saves/*", "/tests", "!*.py"]  # of the checkout, as .gitignore says it: the last holds
REACH = 10.0  # seconds in which somebody answers at a cluster's address
GRACE = 10.0  # seconds that runs have to save their last finished round, where this process is told to stop
log = logging.getLogger("chorus")

# --- in this process ---------------------------------------------------------------------------------------------------


class Nodes(AbstractContextManager):
    """The nodes of the cluster at the address `--ray`, as `ray.init` takes it; "local" starts one of this machine alone.
    `--jobs` is how many of its cores are at work at once. See `loop.Here`. Raises UserError where there is no cluster, or
    where all its nodes decline."""

    tries = 3

    def __init__(self, how: Launch, experiments: Sequence[Experiment], loggers: Sequence[Logger]) -> None:
        self._how, self._experiments, self._loggers = how, experiments, tuple(loggers)
        self._out: dict[ray.ObjectRef, Experiment] = {}
        self._declined: dict[str, str] = {}  # {node: why}

    def __enter__(self) -> "Nodes":
        _connect(self._how.ray, scheduling.cores_of(self._experiments, self._how.jobs))
        self._task = ray.remote(_task())
        for name, words in (("CPU", "--threads {}: no node has so many cores"), ("GPU", "--device cuda: no node has a GPU")):
            most = max(_needs(one).get(name, 0) for one in self._experiments)
            if most > max((node["Resources"].get(name, 0) for node in self._nodes()), default=0):
                log.warning("%s; such runs wait for one that has", words.format(most))
        return self

    def __exit__(self, *_) -> None:
        for ref in self._out:
            ray.cancel(ref)
        if self._out:
            ray.wait(list(self._out), num_returns=len(self._out), timeout=GRACE)
        ray.shutdown()

    def _nodes(self) -> list[Mapping[str, Any]]:
        """Those that are there, and have not declined."""
        return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._declined]

    @property
    def running(self) -> int:
        """See `loop.Here`."""
        return len(self._out)

    def fitting(self, waiting: Sequence[Experiment]) -> Sequence[Experiment]:
        """See `loop.Here`. There is room for up to `--jobs` cores; or for all of the cluster's, and one run more, so that no
        node waits for the next, and a cluster that grows with what waits does grow."""
        if not self._out:
            if self._declined and not any(node["Resources"].get("CPU") for node in self._nodes()):
                raise UserError(f"--ray: every node declines; {next(iter(self._declined.values()))}")
            return waiting
        used = sum((Counter(_needs(one)) for one in self._out.values()), Counter())
        if self._how.jobs != "auto":
            return [one for one in waiting if used["CPU"] + one.cores <= self._how.jobs]
        there = sum((Counter(node["Resources"]) for node in self._nodes()), Counter())
        return [one for one in waiting if all(used[name] <= there[name] for name in _needs(one))]

    def begin(self, one: Experiment, force: bool) -> None:
        """See `loop.Here`."""
        one.folder.mkdir(parents=True, exist_ok=True)  # by which a node sees that it shares the folder of the runs
        needs = _needs(one)
        others = {"label_selector": {"ray.io/node-id": f"!in({','.join(self._declined)})"}} if self._declined else {}
        options = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "max_retries": 0, **others}
        work = pickle.dumps((replace(one, data=None), self._how, force, self._loggers))
        ref = self._task.options(**options).remote(str(Path.cwd()), sys.argv, [str(path) for path in plugins.files()], work)
        self._out[ref] = one

    def ended(self, timeout: float) -> list[tuple[Experiment, End]]:
        """See `loop.Here`."""
        if not self._out:
            time.sleep(timeout)
        ready = ray.wait(list(self._out), timeout=timeout)[0] if self._out else []
        return [(one, self._end_of(ref, one)) for ref in ready for one in [self._out.pop(ref)]]

    def _end_of(self, ref: "ray.ObjectRef", one: Experiment) -> End:
        try:
            end, said, node = pickle.loads(ray.get(ref))
        except RayTaskError as error:  # an exception that no run raises: a module that a node lacks, say
            return single.failed(one, reason_of(error.cause or error))
        except RayError as error:  # the first sentence, in one line
            return LostError(" ".join(str(error).split()).partition(". ")[0].removesuffix(".") or type(error).__name__)
        for record in said:
            logging.getLogger(record.name).handle(record)
        if isinstance(end, nodes.DeclinedError):
            if node not in self._declined:
                log.warning("%s", end)
            self._declined[node] = str(end)
        return end


def _connect(address: str, cores: int) -> None:
    """From now on Ray's functions speak to the cluster, whose workers find this checkout's modules."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here: it tells nobody of itself
    local = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {}
    code = {"working_dir": str(HERE), "excludes": NO_CODE}
    main, before = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdigit():  # where nobody answers, Ray would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, RuntimeError, ValueError, OverflowError, AssertionError, RayError) as error:
        ray.shutdown()
        raise UserError(f"--ray {address}: no cluster that can be used is there ({reason_of(error)})") from None
    if main and before is not None:
        signal.signal(signal.SIGTERM, before)  # Ray's own would end this process before anything is saved


def _needs(one: Experiment) -> dict[str, int]:
    """What a node has to have free."""
    return {"CPU": one.cores, **({"GPU": 1} if one.options.device.startswith("cuda") else {})}


def _task() -> Callable[..., bytes]:
    """`_carry_out`, to be sent by value, with what our modules define as bytes: where the caller is outside the cluster
    (`ray://`) a process that has not our modules handles it as well."""

    def carry_out(*given: Any) -> bytes:
        from launch import ray

        return ray._carry_out(*given)

    return carry_out


# --- on a node ---------------------------------------------------------------------------------------------------------


def _carry_out(cwd: str, argv: Sequence[str], brought: Sequence[str], work: bytes) -> bytes:
    """Carry out one run -> its end, what was logged, and this node."""
    said: list[logging.LogRecord] = []
    single.be_worker(said.append)
    sys.argv = list(argv)  # the command that the run's log tells
    os.chdir(cwd)  # from where paths are given
    for path in brought:
        plugins.load(path)
    one, how, force, loggers = pickle.loads(work)
    with single.ending(one) as ending:
        try:
            here = _as_it_is_here(one, how)
        except UserError as error:
            kind = nodes.DeclinedError if isinstance(error, nodes.DeclinedError) else UserError
            raise kind(f"{platform.node()}: {error}") from None
        ending.end = experiment.run(here, force, loggers=loggers)
    return pickle.dumps((ending.end, said, ray.get_runtime_context().get_node_id()))


def _as_it_is_here(one: Experiment, how: Launch) -> Experiment:
    """With this node's data, and of its GPUs the one that Ray gave, which is its only one; `config.json` as the caller has
    it, or with `--any_node` with what this node has in its place. Raises UserError."""
    if not one.folder.is_dir():
        raise UserError(f"{one.folder}: is not there; the nodes of --ray must share --export_dir, under the same path")
    options = replace(one.options, device="cuda:0") if one.options.device.startswith("cuda") else one.options
    own = {name: value for name, value in identity.carrier(options).items() if name != "revision"}
    named = nodes.under_its_name(replace(one, config={**one.config, **own}), nodes.named_for(one), how.any_node)
    return replace(nodes.with_data(one, how, "nodes"), options=options, config=named.config)
