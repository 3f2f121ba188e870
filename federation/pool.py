"""Run the clients of one round in parallel, in worker processes of one run.

A worker holds the same federation as the run: the data set mapped from one file, its own skeletons, one thread. It receives
one client's work at a time (a function and its rows) and returns the result and the counts. A client's computation depends
on nothing else, so the results are the same bits with any number of workers. Workers take a second or two to start; until
then the run's own process does the work.
"""

import io
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import cache
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import torch
from torch import Tensor, nn

from errors import AGAIN, MEMORY, LostError, refused
from federation import allocator, scratch

if TYPE_CHECKING:
    from federation import Federation

# only third-party modules: the fork server would import Chorus from the current folder, which may hold an older version
PRELOADED = ["torch", "numpy", "cloudpickle"]
OWN = ("wire", "meter", "pool")  # fields of a federation that each process has for itself
log = logging.getLogger("chorus")
# a terminal or a batch system sends these to all processes; only the run's process reacts
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Pool:
    """`n` worker processes for a federation.

    Each worker has an equal federation, which `build()` returns; `build` is sent to the workers by value. Call `close` at
    the end. The workers also end if this process is killed, and then remove its temporary files.
    """

    def __init__(self, federation: "Federation", build: Callable[[], "Federation"], n: int) -> None:
        self._base, context = federation, context_of_workers()
        receiver, self._alive = context.Pipe(duplex=False)
        # the pool of a worker shares the folder with other pools
        sockets = None if multiprocessing.parent_process() else of_sockets()
        self._executor = ProcessPoolExecutor(n, context, _begin, (packed((build, scratch.of_process(), sockets)), receiver))
        self._begun, self._first = threading.Event(), []
        threading.Thread(target=self._start, args=(n, receiver), daemon=True).start()

    def _start(self, n: int, receiver: Connection) -> None:
        try:
            self._first = [self._executor.submit(os.getpid) for _ in range(n)]
        except (OSError, EOFError) as error:  # EOFError: the server that forks them is gone
            message = "--workers: no worker process could be started; the run continues without workers: %s"
            log.warning(message, refused(error) or MEMORY)
        except RuntimeError:  # the pool was closed before the workers started
            pass
        finally:
            receiver.close()
        self._begun.set()

    @property
    def is_ready(self) -> bool:
        """Return whether the workers have started. Raise LostError if a worker has died."""
        return (
            self._begun.is_set()
            and self._first != []
            and all(future.done() and _result_of(future) for future in self._first)
        )

    def wait(self) -> None:
        """Wait until the workers have started, or could not be started."""
        self._begun.wait()
        for future in self._first:
            _result_of(future)

    def map_clients(
        self, federation: "Federation", work: Callable[..., Any], clients: Sequence[int], rows: Sequence
    ) -> list[Any]:
        """Return [work(federation, k, row of the first, ...) for every client k].

        The clients with the most examples start first.
        """
        changed = {
            f.name: getattr(federation, f.name)
            for f in fields(federation)
            if f.name not in OWN and getattr(federation, f.name) is not getattr(self._base, f.name)
        }
        tasks = list(zip(clients, *rows, strict=True))
        order = sorted(range(len(tasks)), key=lambda i: -federation.n_examples(clients[i]))
        futures = {i: self._executor.submit(_run_task, packed((work, changed, *tasks[i]))) for i in order}
        results = []
        for i in range(len(tasks)):
            result, spent = pickle.loads(_result_of(futures.pop(i)))
            federation.meter.spent.update(spent)
            results.append(result)
        return results

    def close(self) -> None:
        """End the workers at once, even if they are busy.

        (The library has no public function for this before Python 3.14, which has `kill_workers`.)
        """
        self._begun.wait()
        reader, result_queue = self._executor._executor_manager_thread, self._executor._result_queue
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._alive.close()
        # a worker may end while it writes a result, and the library waits for the rest as long as the pipe has a writer
        result_queue._writer.close()
        if reader is not None:
            reader.join()


def _result_of(future: Future) -> Any:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise LostError(f"--workers: a worker process was killed, perhaps for lack of memory; free some, {AGAIN}") from error


def context_of_workers(preloaded: Sequence[str] = PRELOADED) -> multiprocessing.context.BaseContext:
    """Return the multiprocessing context of worker processes.

    If the system can, workers are forked from a server that has imported libraries and started no thread (forking a process
    with threads could leave a lock behind, or hang in OpenMP); otherwise they are spawned.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preloaded))
        # the server and its children ignore interrupts, since Ctrl-C reaches all processes of a terminal; the server has no
        # socket if the path of the folder for temporary files is too long
        with suppress(OSError), _ignoring_interrupts(), _silent():
            forkserver.ensure_running()
            if not multiprocessing.parent_process():  # the main process removes the folder
                _keep_folder(of_sockets())
            return context
    return multiprocessing.get_context("spawn")


@cache
def _keep_folder(folder: str) -> None:
    """Create the folder of the server's socket again at exit, since its removal prints a traceback if it is missing."""
    util.Finalize(None, os.makedirs, (folder,), {"exist_ok": True}, exitpriority=-99)  # just before the removal, at -100


@contextmanager
def _silent() -> Iterator[None]:
    """Start processes without standard error inside.

    The process that waits for the server or a worker reports why it ended, in one line and not in a traceback.
    """
    saved_stderr, null_device = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null_device, 2)
        yield
    finally:
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
        os.close(null_device)


def ignore_signals() -> None:
    """Ignore signals from now on: another process decides for this process, or all work is done."""
    for name in SIGNALS:
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def was_killed(parent: BaseProcess) -> bool:
    """Return whether the process at the other end of a closed pipe has ended: its pipes close one after another."""
    parent.join(0.05)
    return not parent.is_alive()


def of_sockets() -> str:
    """Return the folder in which multiprocessing has the sockets of this command and its workers.

    multiprocessing removes the folder when the command ends, unless the command is killed.
    """
    return util.get_temp_dir()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


# --- in a worker -------------------------------------------------------------------------------------------------------

_federation: "Federation"


def _begin(packed_start: bytes, alive: Connection) -> None:
    global _federation
    build, folder, sockets = pickle.loads(packed_start)
    ignore_signals()
    threading.Thread(target=_end_with_parent, args=(alive, folder, sockets), daemon=True).start()
    allocator.keep_blocks()
    torch.set_num_threads(1)
    _federation = build()


def _end_with_parent(alive: Connection, folder: Path | None, sockets: str | None) -> None:
    with suppress(EOFError, OSError):
        alive.recv()  # nobody sends anything: this fails when the pool is closed or its process is killed
    if was_killed(multiprocessing.parent_process()):
        if sockets:
            shutil.rmtree(sockets, ignore_errors=True)
        scratch.leave(folder)
    os._exit(0)


def _run_task(task: bytes) -> bytes:
    work, changed, k, *row = pickle.loads(task)
    (result,) = replace(_federation, **changed).map_clients(work, [k], *([value] for value in row))
    spent = dict(_federation.meter.spent)
    _federation.meter.clear()
    return packed((result, spent))


# --- by value ------------------------------------------------------------------------------------------------------------


class _Pickler(cloudpickle.Pickler):
    """Pickle tensors as their bytes.

    (torch's pickling makes an archive per tensor, or a file per tensor in shared memory, which is small in containers.) The
    tensors arrive in newly allocated memory with the same layout: kernels choose by strides and alignment, and round
    differently otherwise.
    """

    def reducer_override(self, thing: Any) -> Any:
        """Return how to pickle one object."""
        if type(thing) is nn.Parameter:
            return nn.Parameter, (thing.data, thing.requires_grad)
        if type(thing) is Tensor and thing.layout == torch.strided:
            dense = thing.detach().clone()  # without gaps; a tensor without gaps keeps its strides
            flat = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
            return _tensor, (tuple(dense.shape), dense.stride(), dense.dtype, pickle.PickleBuffer(flat))
        return super().reducer_override(thing)


def _tensor(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, buffer: bytearray) -> Tensor:
    tensor = torch.empty_strided(shape, strides, dtype=dtype)
    if tensor.numel():
        flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
        flat.copy_(torch.frombuffer(buffer, dtype=torch.uint8))
    return tensor


def packed(thing: Any) -> bytes:
    """Return an object, by value, as bytes for another process, functions included; `pickle.loads` unpacks it."""
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(thing)
    return file.getvalue()
