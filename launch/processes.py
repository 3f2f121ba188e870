"""Side by side, in worker processes on the cores of this machine.

A worker stays for the whole study. It has a pipe to this process, through which it gets one run after another and says how
each ended and what was logged; how far a run is stands in the run's folder. If a worker is killed, only its run stops, and
begins once more from its checkpoint. (A pool of the standard library breaks as a whole where one worker is killed; nor can
it say which run that was, tell a run to stop, or know that one computes with several threads.)

Workers are forked, where a system can, from a server that has imported the libraries and started no thread, so that one
more costs no seconds. Each data set is written to a file once, which all workers map into their memory: it is there once,
however many they are.
"""

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import experiment
import plugins
from data import datasets
from errors import MEMORY, LostError, refused
from experiment import Experiment
from experiment.rounds import Logger
from federation import scratch
from federation.pool import context_of_workers, of_sockets, was_killed
from launch import signals, single
from launch.display import Display
from launch.single import End

# what every run needs, of others alone: the server finds modules from the folder in which the command was given, where ours
# may be older ones
PRELOADED = ["torch", "pandas", "openpyxl", "matplotlib.pyplot"]
GRACE = 10.0  # seconds that a worker has to save what it is at, where its parent was killed

# --- in this process ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    one: Experiment | None = None  # that it is at


class Processes(AbstractContextManager):
    """As many runs at once as there are `cores` for their threads, or one alone that has more threads. See `loop.Here`."""

    tries = 2

    def __init__(self, cores: int, loggers: Sequence[Logger], display: Display) -> None:
        self._cores, self._loggers, self._display = cores, tuple(loggers), display
        self._workers: list[_Worker] = []
        self._files: dict[int, Path] = {}  # by the id of the data, which the experiments hold
        self._stack, self._context = ExitStack(), context_of_workers(PRELOADED)

    def __enter__(self) -> "Processes":
        self._folder = self._stack.enter_context(scratch.shared_folder())
        return self

    def __exit__(self, *_) -> None:
        with self._stack:
            for worker in self._workers:
                worker.process.terminate()
                worker.pipe.close()  # one that could not save what it was at waits for no other run
            for worker in self._workers:
                worker.process.join()

    @property
    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.one is not None]

    @property
    def running(self) -> int:
        """See `loop.Here`."""
        return len(self._busy)

    def fitting(self, waiting: Sequence[Experiment]) -> Sequence[Experiment]:
        """See `loop.Here`."""
        used = sum(worker.one.cores for worker in self._busy)
        return [one for one in waiting if used == 0 or used + one.cores <= self._cores]

    def begin(self, one: Experiment, force: bool) -> None:
        """Send a run to a worker that has none. By value, with the standard pickle: that of torch would share tensors
        through a file system in memory, which is small in containers. Raises LostError where no worker can be started."""
        worker = next((worker for worker in self._workers if worker.one is None), None) or self._another()
        worker.one, data = one, one.data
        if id(data) not in self._files:
            self._files[id(data)] = data.write(self._folder / f"{len(self._files)}.pt")
        with suppress(OSError):  # one that has just died: `ended` finds out
            worker.pipe.send_bytes(pickle.dumps((replace(one, data=None), self._files[id(data)], force, self._loggers)))

    def _another(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        given = (theirs, scratch.of_process(), plugins.files())
        process = self._context.Process(target=_serve, args=given)  # has workers of its own
        try:
            process.start()
        except (OSError, EOFError) as error:  # EOFError: the server that forks them is gone
            raise LostError(f"--jobs: no worker process could be started: {refused(error) or MEMORY}") from error
        theirs.close()
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def ended(self, timeout: float) -> list[tuple[Experiment, End]]:
        """See `loop.Here`."""
        ends = []
        ready = wait([worker.pipe for worker in self._workers], timeout)
        for worker in [worker for worker in self._workers if worker.pipe in ready]:
            try:
                news = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._workers.remove(worker)
                news = LostError(f"its process ended {_words_of(worker.process.exitcode)}")
            if isinstance(news, logging.LogRecord):
                logging.getLogger(news.name).handle(news)
            elif worker.one is not None and isinstance(news, str):
                self._display.told(worker.one, news)
            elif worker.one is not None:
                ends.append((worker.one, news))
                worker.one = None
        return ends


def _words_of(exitcode: int | None) -> str:
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

    def say(news: logging.LogRecord | str) -> None:
        with suppress(OSError):  # the parent was killed: `_stop_with_parent` finds out
            pipe.send(news)

    single.be_worker(say)
    for path in brought:
        plugins.load(path)
    with suppress(EOFError, OSError, KeyboardInterrupt), signals.interrupting():
        while True:
            pipe.send(_end_of(*pickle.loads(pipe.recv_bytes()), partial(single.words_to, say)))
    if was_killed(multiprocessing.parent_process()):
        _leave(folder)


def _end_of(one: Experiment, data: Path, force: bool, loggers: Sequence[Logger], say: Callable[[str], None]) -> End:
    with single.ending(one) as ending:
        ending.end = experiment.run(replace(one, data=datasets.mapped(data)), force, say, loggers)
    return ending.end


def _stop_with_parent(folder: Path | None) -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)  # the main thread saves
    time.sleep(GRACE)
    _leave(folder)
    os._exit(1)


def _leave(folder: Path | None) -> None:
    shutil.rmtree(of_sockets(), ignore_errors=True)
    scratch.leave(folder)
