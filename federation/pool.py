"""The clients of one round side by side, in worker processes of one run.

A worker holds the federation as the run does: the data set mapped from one file, skeletons of its own, one thread. It is
sent one client's work at a time (a function, and the rows that it is given) and returns what came of it with what was
counted. What a client computes depends on nothing else, so the results are the same bits with any number of workers. They
take a second or two to start; until they are there the run's own process does the work.
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

# of others alone: the server finds modules from the folder in which the command was given, where ours may be older ones
PRELOADED = ["torch", "numpy", "cloudpickle"]
OWN = ("wire", "meter", "pool")  # of a federation: what each process has for itself
log = logging.getLogger("chorus")
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # which a terminal or a batch system sends to all processes: the first one decides


class Pool:
    """`n` workers for a federation, each with the equal one that `build()` returns, which is sent to them by value. To be
    closed. They end with this process too, where that is killed, and remove its temporary files."""

    def __init__(self, federation: "Federation", build: Callable[[], "Federation"], n: int) -> None:
        self._base, context = federation, context_of_workers()
        hears, self._alive = context.Pipe(duplex=False)
        sockets = None if multiprocessing.parent_process() else of_sockets()  # a worker's pool shares them with others
        self._executor = ProcessPoolExecutor(n, context, _begin, (packed((build, scratch.of_process(), sockets)), hears))
        self._begun, self._first = threading.Event(), []
        threading.Thread(target=self._start, args=(n, hears), daemon=True).start()

    def _start(self, n: int, hears: Connection) -> None:
        try:
            self._first = [self._executor.submit(os.getpid) for _ in range(n)]
        except (OSError, EOFError) as error:  # EOFError: the server that forks them is gone
            words = "--workers: no worker process could be started, the run goes on without: %s"
            log.warning(words, refused(error) or MEMORY)
        except RuntimeError:  # the pool was closed before they were there
            pass
        finally:
            hears.close()
        self._begun.set()

    @property
    def ready(self) -> bool:
        """Whether workers are there. Raises LostError where one has died."""
        return self._begun.is_set() and self._first != [] and all(future.done() and _of(future) for future in self._first)

    def wait(self) -> None:
        """Until they are there, or could not be started."""
        self._begun.wait()
        for future in self._first:
            _of(future)

    def map_clients(
        self, federation: "Federation", work: Callable[..., Any], clients: Sequence[int], rows: Sequence
    ) -> list[Any]:
        """[work(federation, k, row of the first, ...) for every client k]; those with the most examples are begun first."""
        changed = {
            f.name: getattr(federation, f.name)
            for f in fields(federation)
            if f.name not in OWN and getattr(federation, f.name) is not getattr(self._base, f.name)
        }
        tasks = list(zip(clients, *rows, strict=True))
        order = sorted(range(len(tasks)), key=lambda i: -len(federation.shares[clients[i]]))
        futures = {i: self._executor.submit(_carry_out, packed((work, changed, *tasks[i]))) for i in order}
        done = []
        for i in range(len(tasks)):
            result, spent = pickle.loads(_of(futures.pop(i)))
            federation.meter.spent.update(spent)
            done.append(result)
        return done

    def close(self) -> None:
        """The workers end at once, whatever they are at. (The library has no public word for that before Python 3.14, which
        has `kill_workers`.)"""
        self._begun.wait()
        reader, answers = self._executor._executor_manager_thread, self._executor._result_queue
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._alive.close()
        # a worker may end in the middle of an answer, and the library waits for the rest as long as anybody could write it
        answers._writer.close()
        if reader is not None:
            reader.join()


def _of(future: Future) -> Any:
    try:
        return future.result()
    except BrokenExecutor as error:
        raise LostError(f"--workers: a worker process was killed, as where memory is short; free some, {AGAIN}") from error


def context_of_workers(preloaded: Sequence[str] = PRELOADED) -> multiprocessing.context.BaseContext:
    """How worker processes begin: forked, where a system can, from a server that has imported libraries and started no
    thread (one that has could leave a lock behind, or hang in OpenMP), and else from nothing."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(preloaded))
        # interrupts are ignored by the server, which passes that on: Ctrl-C reaches all processes of a terminal; it has no
        # socket where the name of the folder for temporary files is too long
        with suppress(OSError), _ignoring_interrupts(), _silent():
            forkserver.ensure_running()
            if not multiprocessing.parent_process():  # who removes it
                _keep_folder(of_sockets())
            return context
    return multiprocessing.get_context("spawn")


@cache
def _keep_folder(folder: str) -> None:
    """That of the server's socket is removed in the end, with a traceback where it is gone by then."""
    util.Finalize(None, os.makedirs, (folder,), {"exist_ok": True}, exitpriority=-99)  # just before


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, a process that is begun has no standard error: why the server or a worker ends is told by who waits for it, in
    a line, and not by a traceback."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def ignore_signals() -> None:
    """From now on no signal interrupts this process: another decides for it, or all is done."""
    for name in SIGNALS:
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def was_killed(parent: BaseProcess) -> bool:
    """Whether the process at the other end of a pipe that was closed is no more: its pipes close one after another."""
    parent.join(0.05)
    return not parent.is_alive()


def of_sockets() -> str:
    """The folder in which multiprocessing has the sockets of this command and of its workers; it removes it in the end of a
    command that is not killed."""
    return util.get_temp_dir()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no other may say what a signal does
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- in a worker -------------------------------------------------------------------------------------------------------

_federation: "Federation"


def _begin(sent: bytes, alive: Connection) -> None:
    global _federation
    build, folder, sockets = pickle.loads(sent)
    ignore_signals()
    threading.Thread(target=_end_with_parent, args=(alive, folder, sockets), daemon=True).start()
    allocator.keep_blocks()
    torch.set_num_threads(1)
    _federation = build()


def _end_with_parent(alive: Connection, folder: Path | None, sockets: str | None) -> None:
    with suppress(EOFError, OSError):
        alive.recv()  # nothing is ever sent: the pool is closed, or its process was killed
    if was_killed(multiprocessing.parent_process()):
        if sockets:
            shutil.rmtree(sockets, ignore_errors=True)
        scratch.leave(folder)
    os._exit(0)


def _carry_out(task: bytes) -> bytes:
    work, changed, k, *row = pickle.loads(task)
    (done,) = replace(_federation, **changed).map_clients(work, [k], *([part] for part in row))
    spent = dict(_federation.meter.spent)
    _federation.meter.clear()
    return packed((done, spent))


# --- by value ------------------------------------------------------------------------------------------------------------


class _Pickler(cloudpickle.Pickler):
    """Tensors as their bytes. (torch's own way is an archive a tensor, or a file in shared memory each, which is small in
    containers.) They arrive in memory of their own, laid out alike: kernels choose by strides and alignment, and round
    otherwise."""

    def reducer_override(self, thing: Any) -> Any:
        """How one thing is taken apart."""
        if type(thing) is nn.Parameter:
            return nn.Parameter, (thing.data, thing.requires_grad)
        if type(thing) is Tensor and thing.layout == torch.strided:
            dense = thing.detach().clone()  # without gaps, and with the same strides where it has none
            flat = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy()
            return _tensor, (tuple(dense.shape), dense.stride(), dense.dtype, pickle.PickleBuffer(flat))
        return super().reducer_override(thing)


def _tensor(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, buffer: bytearray) -> Tensor:
    made = torch.empty_strided(shape, strides, dtype=dtype)
    if made.numel():
        flat = made.as_strided((made.numel(),), (1,)).view(torch.uint8)
        flat.copy_(torch.frombuffer(buffer, dtype=torch.uint8))
    return made


def packed(thing: Any) -> bytes:
    """Whatever is to be sent to another process, by value, functions included; `pickle.loads` unpacks it."""
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(thing)
    return file.getvalue()
