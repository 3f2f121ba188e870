"""On the nodes of a Ray cluster (https://docs.ray.io), which need share no disk. Imported only where `--ray` asks for it.

A run is a task, which Ray carries out where its cores (`--threads`), and the GPU of a run on a CUDA device, are free. The
code goes from this checkout to the nodes, so that all have the same; each data set goes into Ray's object store once, of
which each node has one copy in shared memory. On a node a run works in a folder of its own, which is gone afterwards: the
files of a finished run come back as what the task returns.

While a run is out this process holds the lock of its folder, and an actor beside this process, the post, takes what the run
leaves there: its last row, for the display, and, each time it has written a checkpoint, its files. They are put into its
folder at once. So the folder is always as a run on this machine would have left it, and whatever is killed (a node, a
worker, this process) the run goes on from there: files that appear whole or not at all, the checkpoint after what it needs,
`done` last.
"""

import itertools
import logging
import os
import pickle
import platform
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import saves
from data.datasets import Data
from errors import NoRoomError, UserError, reason_of
from experiment import Experiment, identity
from experiment.rounds import Logger, Row
from federation.scratch import shared_folder
from figures import folder as pictures
from launch import nodes, scheduling, single
from launch.display import Display
from launch.scheduling import next_of, work_of
from launch.single import Failed
from untrusted import read_bytes

HERE = Path(__file__).resolve().parent.parent
NO_CODE = ["?*.*", ".?*", "/data/*", "/saves/*", "/tests", "!*.py"]  # of the checkout, as .gitignore says it: the last holds
DRAWN_HERE = ("graph.png", "intensity.png")  # with these a row is added to a table beside the folder
REACH = 10.0  # seconds in which somebody answers at a cluster's address
POLL = 0.5  # seconds from one look into the post to the next
TELL = 1.0  # seconds in which a run leaves no second row
GRACE = 10.0  # seconds that runs have to leave their last finished round, where this process is told to stop
TRIES = 3  # of a run whose worker or node dies
log = logging.getLogger("chorus")

# --- in this process ---------------------------------------------------------------------------------------------------


def carry_out(
    experiments: Sequence[Experiment],
    force: bool,
    loggers: Sequence[Logger],
    display: Display,
    address: str,
    jobs: int | str,
    any_node: bool,
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Yields each experiment with what came of it, as it is over. `address` is what `ray.init` takes; "local" starts a
    cluster of this machine alone. `jobs`: how many cores are at work at once, "auto" all that the cluster has. Raises
    UserError where there is no cluster, or where all its nodes decline."""
    waiting, tries = sorted(experiments, key=work_of, reverse=True), Counter()
    with _connected(address, scheduling.cores_of(experiments, jobs)), _Cluster(jobs, loggers, any_node) as cluster:
        cluster.warn_of_too_wide(experiments)
        while waiting or cluster.out:
            fitting = cluster.fitting(waiting)
            one = next_of(fitting)
            if one is not None:
                waiting.remove(one)
                try:
                    cluster.send(one, anew=force and not tries[one.folder])
                    tries[one.folder] += 1
                except saves.BusyError:  # since a moment ago
                    waiting.append(one)
                continue
            if fitting and not cluster.out:
                display.waits(len(waiting))
            for one, what, told in cluster.news():
                if what == "begins":
                    display.begins(one)
                elif what == "told":
                    display.told(one, told)
                elif what == "declined" or (what == "killed" and tries[one.folder] < TRIES):
                    tries[one.folder] -= what == "declined"
                    display.stops(one)
                    waiting.append(one)  # behind all others
                else:
                    label = display.standings[one.folder].label
                    reason = f"{label}: {told}, {TRIES} times" if what == "killed" else told
                    result = single.failed(one, reason) if reason else _finished(one)
                    display.stops(one, result)
                    yield one, result


@contextmanager
def _connected(address: str, cores: int) -> Iterator[None]:
    """Inside, Ray's functions speak to the cluster, whose workers find this checkout's modules."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here: it tells nobody of itself
    local = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {}
    code = {"working_dir": str(HERE), "excludes": NO_CODE}
    main, before = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM)
    try:
        _reach(address)
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, RuntimeError, ValueError, OverflowError, AssertionError, RayError) as error:
        ray.shutdown()
        raise UserError(f"--ray {address}: no cluster that can be used is there ({reason_of(error)})") from None
    if main and before is not None:
        signal.signal(signal.SIGTERM, before)  # Ray's own would end this process before anything is saved
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nobody answers at a host and port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()


@dataclass(eq=False)
class _Out:
    """A run that is out, its number on this trip, what holds its folder, and whether a node has begun it."""

    one: Experiment
    number: int
    lock: ExitStack
    begun: bool = False


class _Cluster:
    """The nodes, and the runs that are `out` there, by the reference to what their tasks will return. In the end those that
    are still out are told to stop, and what they leave is kept."""

    def __init__(self, jobs: int | str, loggers: Sequence[Logger], any_node: bool) -> None:
        self.out: dict[ray.ObjectRef, _Out] = {}
        self._jobs, self._loggers, self._any_node = jobs, tuple(loggers), any_node
        self._numbers, self._data, self._declined = itertools.count(), {}, {}
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._task = ray.remote(_task())
        self._post = ray.remote(_post()).options(num_cpus=0, max_restarts=-1, scheduling_strategy=beside).remote()

    def __enter__(self) -> "_Cluster":
        return self

    def __exit__(self, *_) -> None:
        if self.out:
            for ref in self.out:
                ray.cancel(ref)
            ray.wait(list(self.out), num_returns=len(self.out), timeout=GRACE)
            for _ in self._left():
                pass
        for out in self.out.values():
            out.lock.close()

    def _nodes(self) -> list[Mapping[str, Any]]:
        """Those that are there, and have not declined."""
        return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._declined]

    def fitting(self, waiting: Sequence[Experiment]) -> list[Experiment]:
        """Those for which there is room beside what is out: up to `jobs` cores; or all of the cluster's, and one run more,
        so that no node waits for the next, and a cluster that grows with what waits does grow. Raises UserError where all
        nodes have declined."""
        if not self.out:
            self._refuse_none()
            return list(waiting)
        used = sum((Counter(_needs(out.one)) for out in self.out.values()), Counter())
        if self._jobs != "auto":
            return [one for one in waiting if used["CPU"] + one.cores <= self._jobs]
        there = sum((Counter(node["Resources"]) for node in self._nodes()), Counter())
        return [one for one in waiting if all(used[name] <= there[name] for name in _needs(one))]

    def _refuse_none(self) -> None:
        if self._declined and not any(node["Resources"].get("CPU") for node in self._nodes()):
            raise UserError(f"--ray: every node declines; {next(iter(self._declined.values()))}")

    def warn_of_too_wide(self, experiments: Sequence[Experiment]) -> None:
        """Say which needs no node of today can meet: such a run waits for a node that can."""
        for name, words in (("CPU", "--threads {}: no node has so many cores"), ("GPU", "--device cuda: no node has a GPU")):
            most = max((needs.get(name, 0) for needs in map(_needs, experiments)), default=0)
            if most > max((node["Resources"].get(name, 0) for node in self._nodes()), default=0):
                log.warning("%s; such runs wait for one that has", words.format(most))

    def send(self, one: Experiment, anew: bool) -> None:
        """Let a run begin, or go on from what its folder holds. Raises BusyError where another process has the folder."""
        with ExitStack() as stack:
            stack.enter_context(saves.locked(one.folder))
            if anew:
                saves.clear(one.folder)
            number, needs = next(self._numbers), _needs(one)
            others = {"label_selector": {"ray.io/node-id": f"!in({','.join(self._declined)})"}} if self._declined else {}
            task = self._task.options(
                num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_retries=0, **others
            )  # Ray's own retries would send what the folder holds now, and not what comes back until then
            ref = task.remote(
                pickle.dumps((replace(one, data=None), self._loggers)),
                self._of(one.data),
                ray.put(_contents(one.folder)),
                {name: read_bytes(path) for name, path in _paths(one).items()},
                self._post,
                number,
                self._any_node,
                sys.argv,
            )
            self.out[ref] = _Out(one, number, stack.pop_all())

    def _of(self, data: Data) -> ray.ObjectRef:
        """The data in the object store, as arrays: these are mapped, where tensors would be copied into each worker."""
        if id(data) not in self._data:
            values = {f.name: getattr(data, f.name) for f in fields(data)}
            arrays = {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in values.items()}
            self._data[id(data)] = data, ray.put(arrays)  # the data too, or another could get its id
        return self._data[id(data)][1]

    def news(self) -> Iterator[tuple[Experiment, str, Any]]:
        """What has come in a while: a run "begins", a row or words are "told", a run is "over" (with the reason why it
        failed, or None), "declined" by its node, or "killed" (with the words for it). Of a run that has ended the folder
        holds what came back, and is free."""
        if not self.out:
            time.sleep(POLL)
            return
        ready, _ = ray.wait(list(self.out), timeout=POLL)
        yield from self._left()
        for ref in ready:
            out = self.out.pop(ref)
            with out.lock:
                yield from self._begins(out)
                yield out.one, *self._end_of(ref, out)

    def _left(self) -> Iterator[tuple[Experiment, str, Any]]:
        """What runs have left in the post; files are put where they belong."""
        try:
            held, said = ray.get(self._post.take.remote())
        except RayActorError:  # its process was killed, and begins anew: with it went rows, and files that will come again
            held, said = {}, []
        for record in said:
            logging.getLogger(record.name).handle(record)
        by_number = {out.number: out for out in self.out.values()}
        for (number, what), told in held.items():
            out = by_number.get(number)  # None: of a trip that was given up
            if out is not None and what == "files":
                _place(out.one.folder, told)
            elif out is not None:
                yield from self._begins(out)
                yield from [(out.one, what, told)] if what == "told" else []

    def _begins(self, out: _Out) -> Iterator[tuple[Experiment, str, Any]]:
        """That it has begun, once."""
        if not out.begun:
            out.begun = True
            yield out.one, "begins", None

    def _end_of(self, ref: ray.ObjectRef, out: _Out) -> tuple[str, Any]:
        try:
            what, told, files = ray.get(ref)
        except RayTaskError as error:  # an exception that no run raises: a module that a node lacks, say
            return "over", reason_of(error.cause or error)
        except RayError as error:
            return "killed", _words_of(error)
        if what == "declined":
            node, words = told
            if node not in self._declined:
                log.warning("%s", words)
            self._declined[node] = words
            return what, words
        _place(out.one.folder, files)
        return what, told


def _needs(one: Experiment) -> dict[str, int]:
    """What a node has to have free."""
    return {"CPU": one.cores, **({"GPU": 1} if one.options.device.startswith("cuda") else {})}


def _paths(one: Experiment) -> dict[str, Path]:
    """{option: file that it names}."""
    found = {f.name: getattr(one.options, f.name) for f in fields(one.options)}
    return {name: value for name, value in found.items() if isinstance(value, Path)}


def _words_of(error: RayError) -> str:
    """The first sentence, in one line."""
    return " ".join(str(error).split()).partition(". ")[0].removesuffix(".") or type(error).__name__


def _finished(one: Experiment) -> saves.Run | Failed:
    """The run that came back, its folder completed."""
    try:
        run = saves.load(one.folder)
        pictures.complete(run)
    except Exception as error:
        return single.failed(one, reason_of(error))
    return run


# --- a run's folder as bytes ---------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    """What a run wrote and a machine tells another."""
    named = (folder / name for name in saves.FILES if name not in DRAWN_HERE)
    found = [*named, *folder.glob(saves.EVENTS), *saves.checkpoints(folder), folder / saves.DONE]
    return [path for path in found if path.exists()]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: read_bytes(path) for path in _files(folder)}


def _place(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make the folder hold these files, each whole or as it was: the checkpoint after what it needs, `done` last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        saves.written(folder / name, lambda path, content=content: path.write_bytes(content))
    for path in _files(folder):
        if path.name not in contents:  # why it failed before, say
            path.unlink()


# --- what is sent by value, as it is defined inside a function: where the caller is outside the cluster (`ray://`) a process
# that has not our modules handles it as well ---------------------------------------------------------------------------


def _post() -> type:
    """An actor. Of each run it holds the last of each kind of thing that was left, so that it stays small however seldom it
    is emptied; of what was logged, all."""

    class Post:
        def __init__(self) -> None:
            self._held, self._said = {}, []

        def leave(self, number: int, what: str, told: Any) -> None:
            self._held[number, what] = told

        def say(self, record: logging.LogRecord) -> None:
            self._said.append(record)

        def take(self) -> tuple[dict[tuple[int, str], Any], list[logging.LogRecord]]:
            held, said = self._held, self._said
            self._held, self._said = {}, []
            return held, said

    return Post


def _task() -> Callable[..., tuple[str, Any, dict[str, bytes]]]:
    """`_serve`, of a pickled experiment and what else our modules define."""

    def serve(packed: bytes, *others: Any) -> tuple[str, Any, dict[str, bytes]]:
        import pickle

        from launch import ray

        return ray._serve(*pickle.loads(packed), *others)

    return serve


# --- on a node ---------------------------------------------------------------------------------------------------------


def _serve(
    one: Experiment,
    loggers: Sequence[Logger],
    arrays: Mapping[str, Any],
    contents: Mapping[str, bytes],
    named: Mapping[str, bytes],
    post: Any,
    number: int,
    any_node: bool,
    argv: Sequence[str],
) -> tuple[str, Any, dict[str, bytes]]:
    """Carry out one run, from the contents of its folder and of the files that its options name -> (what came of it, see
    `_Cluster.news`; the words for it; what its folder holds)."""
    sys.argv = list(argv)  # the command that the run's log tells
    single.be_worker(post.say.remote)
    with shared_folder() as scratch:
        folder = scratch / one.folder.name
        _place(folder, contents)
        here = replace(one, data=_data(arrays), folder=folder, options=_options(one, named, scratch))
        try:
            here = replace(here, config=_config(one, here, any_node))
        except nodes.DeclinedError as error:
            return "declined", (ray.get_runtime_context().get_node_id(), f"{platform.node()}: {error}"), {}
        left = _Left(post, number)
        post.leave.remote(number, "begins", None)
        try:
            result = single.carry_out(here, False, (*loggers, left.files), left.row)
        except NoRoomError as error:  # on this node
            return "over", reason_of(error), {}
        except KeyboardInterrupt:  # the caller is told to stop
            ray.get(post.leave.remote(number, "files", _contents(folder)))
            raise
        return "over", result.reason if isinstance(result, Failed) else None, _contents(folder)


def _options(one: Experiment, named: Mapping[str, bytes], scratch: Path) -> Any:
    """As the node has it: files where it can read them, and of its GPUs the one that Ray gave, which is its only one."""
    for name, content in named.items():
        (scratch / name).write_bytes(content)
    device = {"device": "cuda:0"} if one.options.device.startswith("cuda") else {}
    return replace(one.options, **{name: scratch / name for name in named}, **device)


def _data(arrays: Mapping[str, Any]) -> Data:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nothing writes into data
        return Data(**{name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in arrays.items()})


def _config(one: Experiment, here: Experiment, any_node: bool) -> dict[str, Any]:
    """The caller's, which this node has as well; with `any_node` what it has in its place. Raises nodes.DeclinedError."""
    found = identity.config_of(here.options, here.data, here.split, here.start)
    mine = {**one.config, "source": found["source"], "environment": found["environment"]}
    return nodes.under_its_name(replace(one, config=mine), nodes.named_for(one), any_node).config


class _Left:
    """Leaves in the post what a run has to tell: a row, or words, not too often; its files where it has written a checkpoint
    and the files before are no longer on their way."""

    def __init__(self, post: Any, number: int) -> None:
        self._leave: Callable = lambda what, told: post.leave.remote(number, what, told)
        self._told, self._way = -TELL, None

    def row(self, news: Row | str) -> None:
        """A round is over, or something is to be said."""
        if time.monotonic() - self._told >= TELL:
            self._told = time.monotonic()
            self._leave("told", news)

    @contextmanager
    def files(self, folder: Path, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
        """A logger, the last one: what the others write of a round is there."""
        sent = saves.checkpoints(folder)

        def look(row: Row) -> None:
            nonlocal sent
            now = saves.checkpoints(folder)
            if now != sent and (self._way is None or ray.wait([self._way], timeout=0)[0]):
                sent, self._way = now, self._leave("files", _contents(folder))

        yield look
