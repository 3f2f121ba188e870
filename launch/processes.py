"""Run experiments in parallel, in worker processes on the cores of this machine.

A worker lives for the whole study. Over a pipe it receives one run after another from this process, and sends back how each
run ended and what the run logged. The folder of a run says how many rounds are finished. If a worker is killed, only its run
stops, and restarts from its checkpoint. (A pool of the standard library breaks as a whole where one worker is killed. Nor
can a pool report which run the worker had, tell a run to stop, or know that a run computes with several threads.)

Workers are forked, where the system can fork, from a server that has imported the libraries and started no thread, so that a
further worker costs no seconds. Each data set is written to a file once. All workers map that file into their memory, so
that memory holds the data set once, for any number of workers.
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

# The libraries that every run needs. Modules of Chorus are not preloaded: the server imports from the folder in which the
# command was started, and that folder may hold an older version of them.
PRELOADED = ["torch", "pandas", "openpyxl", "matplotlib.pyplot"]
GRACE = 10.0  # seconds that a worker has to save its current run after its parent was killed

# --- in this process ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    experiment: Experiment | None = None  # the current run; None where the worker is idle


class Processes(AbstractContextManager):
    """As many runs at once as `cores` allows for their threads, or one run that has more threads. See `loop.Here`."""

    tries = 2

    def __init__(self, cores: int, loggers: Sequence[Logger], display: Display) -> None:
        self._cores, self._loggers, self._display = cores, tuple(loggers), display
        self._workers: list[_Worker] = []
        self._files: dict[int, Path] = {}  # {id of a data set: its file}; the experiments keep the data set alive
        self._stack, self._context = ExitStack(), context_of_workers(PRELOADED)

    def __enter__(self) -> "Processes":
        self._folder = self._stack.enter_context(scratch.shared_folder())
        return self

    def __exit__(self, *_) -> None:
        with self._stack:
            for worker in self._workers:
                worker.process.terminate()
                worker.pipe.close()  # a worker that could not save its run gets no other
            for worker in self._workers:
                worker.process.join()

    @property
    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.experiment is not None]

    @property
    def running(self) -> int:
        """See `loop.Here`."""
        return len(self._busy)

    def fitting(self, waiting: Sequence[Experiment]) -> Sequence[Experiment]:
        """See `loop.Here`."""
        n_used = sum(worker.experiment.cores for worker in self._busy)
        return [experiment for experiment in waiting if n_used == 0 or n_used + experiment.cores <= self._cores]

    def begin(self, experiment: Experiment, force: bool) -> None:
        """Send a run to an idle worker, by value, with the standard pickle.

        torch's own pickle would share tensors through a file system in memory, which is small in containers. Raises
        LostError where no worker can be started.
        """
        worker = next((worker for worker in self._workers if worker.experiment is None), None) or self._another()
        worker.experiment, data = experiment, experiment.data
        if id(data) not in self._files:
            self._files[id(data)] = data.write(self._folder / f"{len(self._files)}.pt")
        with suppress(OSError):  # the worker has just died: `ended` notices
            worker.pipe.send_bytes(
                pickle.dumps((replace(experiment, data=None), self._files[id(data)], force, self._loggers))
            )

    def _another(self) -> _Worker:
        own_pipe, worker_pipe = self._context.Pipe()
        args = (worker_pipe, scratch.of_process(), plugins.files())
        process = self._context.Process(target=_serve, args=args)  # not a daemon: it starts workers of its own
        try:
            process.start()
        except (OSError, EOFError) as error:  # EOFError: the server that forks the workers is gone
            raise LostError(f"--jobs: no worker process could be started: {refused(error) or MEMORY}") from error
        worker_pipe.close()
        self._workers.append(_Worker(process, own_pipe))
        return self._workers[-1]

    def ended(self, timeout: float) -> list[tuple[Experiment, End]]:
        """See `loop.Here`."""
        ends = []
        readable_pipes = wait([worker.pipe for worker in self._workers], timeout)
        for worker in [worker for worker in self._workers if worker.pipe in readable_pipes]:
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._workers.remove(worker)
                message = LostError(f"its process exited {_describe_exit(worker.process.exitcode)}")
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            elif worker.experiment is not None and isinstance(message, str):
                self._display.show_message(worker.experiment, message)
            elif worker.experiment is not None:
                ends.append((worker.experiment, message))
                worker.experiment = None
        return ends


def _describe_exit(exitcode: int | None) -> str:
    """Describe how a process ended."""
    if exitcode is None or exitcode >= 0:
        return f"with exit status {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")


# --- in a worker -------------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, folder: Path | None, plugin_files: Sequence[Path]) -> None:
    """Execute the runs that arrive, until the pipe closes or a signal stops this worker.

    The parent alone receives Ctrl-C, and sends the workers a signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    scratch.be_in(folder)
    threading.Thread(target=_stop_with_parent, args=(folder,), daemon=True).start()

    def say(message: logging.LogRecord | str) -> None:
        with suppress(OSError):  # the parent was killed: `_stop_with_parent` notices
            pipe.send(message)

    single.be_worker(say)
    for path in plugin_files:
        plugins.load(path)
    with suppress(EOFError, OSError, KeyboardInterrupt), signals.interrupting():
        while True:
            pipe.send(_execute_run(*pickle.loads(pipe.recv_bytes()), partial(single.words_to, say)))
    if was_killed(multiprocessing.parent_process()):
        _remove_files(folder)


def _execute_run(
    run_experiment: Experiment, data: Path, force: bool, loggers: Sequence[Logger], send: Callable[[str], None]
) -> End:
    with single.end_of(run_experiment) as ending:
        ending.end = experiment.run(replace(run_experiment, data=datasets.mapped(data)), force, send, loggers)
    return ending.end


def _stop_with_parent(folder: Path | None) -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)  # the main thread saves the last finished round
    time.sleep(GRACE)
    _remove_files(folder)
    os._exit(1)


def _remove_files(folder: Path | None) -> None:
    shutil.rmtree(of_sockets(), ignore_errors=True)
    scratch.leave(folder)
