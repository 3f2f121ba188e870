"""Side by side, in worker processes on the cores of this machine.

A worker stays for the whole study and has a pipe of its own to this process: it is sent a run, tells its rounds, and says
what came of it. With a worker that is killed goes the one run that it was at, which is begun once more, from its checkpoint.
(A pool of the standard library breaks as a whole where one worker is killed; nor can it say which run that was, tell a run
to stop, or know that one computes with several threads.)

Workers are forked, where a system can, from a server that has imported the libraries and started no thread, so that one
more costs no seconds. Each data set is written to a file once, which all workers map into their memory: it is there once,
however many they are.
"""

import logging
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import plugins
import saves
from data import datasets
from data.datasets import Data
from errors import MEMORY, LostError, NoRoomError, reason_of, refused
from experiment import Experiment
from experiment.rounds import Logger, Row
from federation import scratch
from federation.pool import context_of_workers, of_sockets, was_killed
from launch import signals, single
from launch.display import Display
from launch.scheduling import POLL, next_of, work_of
from launch.single import Failed

# what every run needs, of others alone: the server finds modules from the folder in which the command was given, where ours
# may be older ones
PRELOADED = ["torch", "pandas", "openpyxl", "matplotlib.pyplot"]
TRIES = 2  # of a run whose worker is killed
GRACE = 10.0  # seconds that a worker has to save what it is at, where its parent was killed

# --- in this process ---------------------------------------------------------------------------------------------------


def carry_out(
    experiments: Sequence[Experiment],
    force: bool,
    loggers: Sequence[Logger],
    display: Display,
    cores: int,
    patience: float = math.inf,
) -> Iterator[tuple[Experiment, saves.Run | Failed]]:
    """Yields each experiment with what came of it, as it is over. The longest are begun first, and so many that their
    `--threads` are no more than `cores`, or one alone that has more. Those that another process is at work on are left to it
    after `patience` seconds without any other work. Raises NoRoomError where nothing can be saved any more, LostError where
    no worker can be started."""
    waiting, killed, idle = sorted(experiments, key=work_of, reverse=True), Counter(), 0.0
    with _handed_over(experiments) as files, _Workers(cores) as workers:
        while waiting or workers.busy:
            fitting = [one for one in waiting if workers.have_room_for(one)]
            one = next_of(fitting)
            if one is not None:
                waiting.remove(one)
                idle = 0.0
                display.begins(one)
                workers.begin(one, files.of(one.data), force, loggers)
                continue
            if fitting and not workers.busy:
                if idle >= patience:
                    return
                idle += POLL
                display.waits(len(waiting))
            for one, (what, told) in workers.news(POLL if fitting else None):
                killed[one.folder] += what == "killed"
                if what == "no room":
                    raise NoRoomError(told)
                if what == "told":
                    display.told(one, told)
                elif what == "busy" or (what == "killed" and killed[one.folder] < TRIES):
                    display.stops(one)
                    waiting.append(one)  # behind all others
                else:
                    label = display.standings[one.folder].label
                    reason = f"{label}: {told}, {TRIES} times" if what == "killed" else told
                    result = saves.load(one.folder) if reason is None else single.failed(one, reason)
                    display.stops(one, result)
                    yield one, result


@dataclass(frozen=True)
class _Files:
    """Data sets in files of one folder."""

    folder: Path
    names: dict[int, str]  # by the id of the data, which the experiments hold

    def of(self, data: Data) -> Path:
        """The file of one."""
        return self.folder / self.names[id(data)]


@contextmanager
def _handed_over(experiments: Sequence[Experiment]) -> Iterator[_Files]:
    """Inside, the data sets of the experiments are in files."""
    found = {id(one.data): one.data for one in experiments}
    with scratch.shared_folder() as folder:
        files = _Files(folder, {key: f"{number}.pt" for number, key in enumerate(found)})
        for data in found.values():
            data.write(files.of(data))
        yield files


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    one: Experiment | None = None  # that it is at


class _Workers:
    """As many as are needed at once. In the end they are told to stop, and save what they are at."""

    def __init__(self, cores: int) -> None:
        self._cores, self._all = cores, []
        self._context = context_of_workers(PRELOADED)

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_) -> None:
        for worker in self._all:
            worker.process.terminate()
            worker.pipe.close()  # one that could not save what it was at waits for no other run
        for worker in self._all:
            worker.process.join()

    @property
    def busy(self) -> list[_Worker]:
        """Those that are at a run."""
        return [worker for worker in self._all if worker.one is not None]

    def have_room_for(self, one: Experiment) -> bool:
        """Whether its threads find cores that are free."""
        used = sum(worker.one.cores for worker in self.busy)
        return used == 0 or used + one.cores <= self._cores

    def begin(self, one: Experiment, data: Path, force: bool, loggers: Sequence[Logger]) -> None:
        """Send a run to a worker that has none. By value, with the standard pickle: that of torch would share tensors
        through a file system in memory, which is small in containers."""
        worker = next((worker for worker in self._all if worker.one is None), None) or self._another()
        worker.one = one
        with suppress(OSError):  # one that has just died: `news` finds out
            worker.pipe.send_bytes(pickle.dumps((replace(one, data=None), data, force, tuple(loggers))))

    def _another(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        given = (theirs, scratch.of_process(), plugins.files())
        process = self._context.Process(target=_serve, args=given)  # has workers of its own
        try:
            process.start()
        except (OSError, EOFError) as error:  # EOFError: the server that forks them is gone
            raise LostError(f"--jobs: no worker process could be started: {refused(error) or MEMORY}") from error
        theirs.close()
        self._all.append(_Worker(process, ours))
        return self._all[-1]

    def news(self, timeout: float | None) -> Iterator[tuple[Experiment, tuple[str, Any]]]:
        """What workers tell of their runs, at least one thing, or nothing after `timeout` seconds: a row is "told", a run is
        "over" (with the reason why it failed, or None), "busy" elsewhere, "killed" (with the words for it), or stopped where
        nothing can be saved any more, "no room" (likewise)."""
        for worker in _ready(self._all, timeout):
            try:
                what, told = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._all.remove(worker)
                what, told = "killed", f"its process ended {_end_of(worker.process.exitcode)}"
            if what == "said":
                logging.getLogger(told.name).handle(told)
                continue
            one = worker.one
            if what != "told":
                worker.one = None
            if one is not None:
                yield one, (what, told)


def _ready(workers: Sequence[_Worker], timeout: float | None) -> list[_Worker]:
    ready = wait([worker.pipe for worker in workers], timeout)
    return [worker for worker in workers if worker.pipe in ready]


def _end_of(exitcode: int | None) -> str:
    """In words, how a process ended."""
    if exitcode is None or exitcode >= 0:
        return f"with exit status {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"by {name}" + (", as where memory is short" if name == "SIGKILL" else "")


# --- in a worker -------------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, folder: Path | None, brought: Sequence[Path]) -> None:
    """Carry out what arrives, until there is no more, or a signal says stop: that is what the parent, which alone hears of
    Ctrl-C, makes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    scratch.be_in(folder)
    threading.Thread(target=_stop_with_parent, args=(folder,), daemon=True).start()

    def tell(what: str, told: Any) -> None:
        try:
            pipe.send((what, told))
        except OSError:  # the parent was killed
            signal.raise_signal(signal.SIGTERM)

    def say(record: logging.LogRecord) -> None:
        with suppress(OSError):
            pipe.send(("said", record))

    def watch(news: Row | str) -> None:
        tell("told", news)

    single.be_worker(say)
    for path in brought:
        plugins.load(path)
    with suppress(EOFError, KeyboardInterrupt), signals.interrupting():
        while True:
            one, data, force, loggers = pickle.loads(pipe.recv_bytes())
            try:
                result = single.carry_out(replace(one, data=datasets.mapped(data)), force, loggers, watch)
            except saves.BusyError:
                tell("busy", None)
            except NoRoomError as error:
                tell("no room", str(error))
            except Exception as error:  # before it began: its data are gone, say
                tell("over", reason_of(error))
            else:
                tell("over", result.reason if isinstance(result, Failed) else None)
    if was_killed(multiprocessing.parent_process()):
        _leave(folder)


def _stop_with_parent(folder: Path | None) -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)  # the main thread saves
    time.sleep(GRACE)
    _leave(folder)
    os._exit(1)


def _leave(folder: Path | None) -> None:
    shutil.rmtree(of_sockets(), ignore_errors=True)
    scratch.leave(folder)
