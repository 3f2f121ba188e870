"""Run the clients of one round on many machines: on the ranks of one `torchrun`.

Every rank has the whole federation and does all work of a server, so that nothing has to be distributed. Each rank runs its
part of a round's clients, and all ranks gather the results. One rank leads: it decides which run is made and writes the
run's files; the others follow. The ranks communicate in turns: in a turn, each rank sends one message and receives the
messages of all ranks. A rank that fails says so in its next turn, so no rank waits for a message that never comes.
"""

import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch

from errors import LostError, UserError, reason_of
from federation.meter import Meter
from federation.pool import Pool, packed

if TYPE_CHECKING:
    from torch.distributed import Store

    from federation import Federation

PATIENCE = timedelta(hours=2)  # for which a rank waits for the others; a client of another rank may take long
POLL = 0.05  # seconds between two checks for another rank

# --- the message of a rank in its turn -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """Sent by the leader: all ranks start this task now."""

    what: Any


@dataclass(frozen=True)
class Done:
    """The result of a rank's part.

    `results` by the client's position in the round, `seconds` by client, and the counts `spent`. `of` identifies the work.
    `workers`: the number of clients that the rank trains in parallel.
    """

    of: tuple
    results: dict[int, Any]
    seconds: dict[int, float]
    spent: dict[tuple[str, str, int], int]
    workers: int


@dataclass(frozen=True)
class Idle:
    """No result: the rank works on no run, since the run is over or has failed there.

    `why`: the reason. `at`: the rank's machine.
    """

    why: str = ""
    at: str = ""


@dataclass(frozen=True)
class Over:
    """Sent by the leader: there are no more tasks."""


# --- the ranks -----------------------------------------------------------------------------------------------------------


class Ranks:
    """This process as one of the ranks, which share the clients of each round. `local`: worker processes of this rank."""

    is_ready = True

    def __init__(self, local: Pool | None = None, workers: int = 1) -> None:
        self._local, self._meter = local, Meter()
        self._workers = [workers] * world()
        self._mine = workers
        self._seconds: dict[tuple[str, int], float] = {}

    def map_clients(
        self, federation: "Federation", work: Callable[..., Any], clients: Sequence[int], rows: Sequence
    ) -> list[Any]:
        """Return [work(federation, k, row of the first, ...) for every client k], on every rank.

        Raise LostError if any rank has failed.
        """
        name = getattr(work, "func", work).__qualname__
        positions = self.dealt(name, clients, [federation.n_examples(k) for k in clients])[rank()]
        local_federation = replace(federation, pool=self._local, meter=self._meter)
        local_rows = [[row[position] for position in positions] for row in (clients, *rows)]
        try:
            local_results = local_federation.map_clients(partial(_timed, work), *local_rows)
        except Exception as error:
            share(Idle(reason_of(error), _hostname_suffix()))
            raise
        results = {position: result for position, (result, _) in zip(positions, local_results, strict=True)}
        seconds = {clients[position]: elapsed for position, (_, elapsed) in zip(positions, local_results, strict=True)}
        key = (name, federation.party, federation.round, tuple(clients))
        messages = share(Done(key, results, seconds, dict(self._meter.spent), self._mine))
        self._meter.clear()
        for r, message in enumerate(messages):
            if not isinstance(message, Done):
                raise LostError(f"rank {r} of {len(messages)}{message.at} has failed: {message.why or 'it executes no run'}")
            if message.of != key:
                raise LostError(f"rank {r} of {len(messages)} is at {message.of[:3]}, but this rank is at {key[:3]}")
        for message in messages:
            federation.meter.spent.update(message.spent)
            self._seconds |= {(name, k): elapsed for k, elapsed in message.seconds.items()}
        self._workers = [message.workers for message in messages]
        all_results = {position: result for message in messages for position, result in message.results.items()}
        return [all_results[position] for position in range(len(clients))]

    def dealt(self, name: str, clients: Sequence[int], examples: Sequence[int]) -> list[list[int]]:
        """Return, for each rank, the positions of its clients.

        The longest clients come first, each on the rank that would finish it first. The seconds of a client are those of the
        last time that it did this work; without such a time, the client takes as long per example as the others.
        """
        known = {k: self._seconds[name, k] for k in clients if (name, k) in self._seconds}
        measured = [(known[k], n) for k, n in zip(clients, examples, strict=True) if k in known and n]
        rate = sum(seconds for seconds, _ in measured) / sum(n for _, n in measured) if measured else 1.0
        costs = [known.get(k, rate * n) for k, n in zip(clients, examples, strict=True)]
        shares: list[list[int]] = [[] for _ in self._workers]
        load = [0.0] * len(shares)
        for position in sorted(range(len(clients)), key=lambda position: (-costs[position], position)):
            first = min(range(len(shares)), key=lambda r: ((load[r] + costs[position]) / self._workers[r], r))
            load[first] += costs[position]
            shares[first].append(position)
        return shares


def _timed(work: Callable[..., Any], federation: "Federation", k: int, *row: Any) -> tuple[Any, float]:
    start_time = time.perf_counter()
    return work(federation, k, *row), time.perf_counter() - start_time


# --- the group -----------------------------------------------------------------------------------------------------------


def world() -> int:
    """Return the number of ranks; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Return the number of this process among the ranks; rank 0 leads."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def on_this_machine() -> int:
    """Return the number of ranks on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if world() > 1 else 1


@contextmanager
def joined() -> Iterator[None]:
    """Connect the ranks inside.

    If the leader ends, the others end too. An error in the command, which all ranks or only the leader have found, counts as
    an end.
    """
    if world() == 1:
        yield
        return
    from torch import distributed  # imported here, since it is slow and rarely needed

    store, _, _ = next(distributed.rendezvous("env://"))
    fresh_store = _fresh_store(store)
    distributed.init_process_group("gloo", store=fresh_store, rank=rank(), world_size=world(), timeout=PATIENCE)
    try:
        yield
    except UserError:
        share(Over() if rank() == 0 else Idle())
        raise
    if rank() == 0:
        share(Over())
    distributed.destroy_process_group()


def _fresh_store(store: "Store") -> "Store":
    """Return a part of torchrun's store without entries of an earlier start.

    torch keeps one store for all restarts, and would find entries of processes that have ended.
    """
    from torch.distributed import PrefixStore

    mine = uuid4().hex
    store.set(f"hello {rank()}", mine)
    if rank() > 0:
        # the key of this start's leader: an earlier leader does not know `mine`
        name = store.get(f"welcome {mine}").decode()
        store.set(f"here {name} {rank()}", "")
        return PrefixStore(name, store)
    for other in range(1, world()):
        while not store.check([f"here {mine} {other}"]):
            store.set(f"welcome {store.get(f'hello {other}').decode()}", mine)  # the entry may be from an earlier start
            time.sleep(POLL)
    return PrefixStore(mine, store)


def share(thing: Any) -> list[Any]:
    """Send one object to all ranks, and return the objects of all ranks. Raise LostError if a rank has ended."""
    from torch import distributed

    data = torch.frombuffer(bytearray(packed(thing)), dtype=torch.uint8)
    lengths = [torch.empty(1, dtype=torch.int64) for _ in range(world())]
    try:
        distributed.all_gather(lengths, torch.tensor([len(data)]))
        longest = max(lengths).item()
        buffers = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        distributed.all_gather(buffers, torch.cat([data, torch.empty(longest - len(data), dtype=torch.uint8)]))
    except RuntimeError as error:
        # without the position in the source file
        message = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        raise LostError(f"lost a rank: {message}") from None
    return [
        thing if r == rank() else pickle.loads(buffer[:length].numpy())
        for r, (buffer, length) in enumerate(zip(buffers, lengths, strict=True))
    ]


@contextmanager
def leading(what: Any) -> Iterator[None]:
    """Let the other ranks do a task inside; if the leader fails, tell them. Only the leader calls this."""
    if world() == 1:
        yield
        return
    share(Begin(what))
    try:
        yield
    except LostError:
        raise
    except Exception as error:
        share(Idle(reason_of(error), _hostname_suffix()))
        raise


def follow(do: Callable[[Any], None]) -> None:
    """Call do(task) for every task of the leader, until there are no more. Report a failure to the other ranks."""
    reason = ""
    while not isinstance(message := share(Idle(reason, _hostname_suffix()))[0], Over):
        reason = ""
        if isinstance(message, Begin):
            try:
                do(message.what)
            except Exception as error:
                reason = reason_of(error)


def _hostname_suffix() -> str:
    return f" ({socket.gethostname()})"


def refuse(flag: str) -> None:
    """Raise UserError if a flag requires what several ranks cannot do together."""
    if world() > 1:
        raise UserError(
            f"{flag}: not supported by torchrun, whose {world()} ranks execute one run after another on CPUs; remove the "
            "flag"
        )
