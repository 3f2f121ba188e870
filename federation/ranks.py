"""The clients of one round on many machines: on the ranks of one `torchrun`.

Every rank has the whole federation and computes all that a server does, so that nothing has to be handed out: of a round's
clients each rank does its part, and all gather what came of it. One rank leads: it decides which run is made and keeps its
files, and the others follow. They speak in turns, in which each says one thing and hears those of all; so whoever fails says
that in its next turn, and nobody waits for what does not come.
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

PATIENCE = timedelta(hours=2)  # that a rank waits for the others, one of which may have a long client
POLL = 0.05  # seconds from one look for another rank to the next

# --- what a rank says in its turn ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """Of the leader: this is to be done now, by all."""

    what: Any


@dataclass(frozen=True)
class Done:
    """What came of a rank's part: `results` by the place of the client in the round, `seconds` by client, what was counted.
    `of` says of which work all this is. `workers`: how many clients the rank trains side by side."""

    of: tuple
    results: dict[int, Any]
    seconds: dict[int, float]
    spent: dict[tuple[str, str, int], int]
    workers: int


@dataclass(frozen=True)
class Idle:
    """Nothing: the rank is at no run, since one is over or has failed there; `why` in words, and `at` which rank."""

    why: str = ""
    at: str = ""


@dataclass(frozen=True)
class Over:
    """Of the leader: there is no more to do."""


# --- the ranks -----------------------------------------------------------------------------------------------------------


class Ranks:
    """This process among the ranks, which share the clients of each round. `local`: worker processes of this rank."""

    ready = True

    def __init__(self, local: Pool | None = None, workers: int = 1) -> None:
        self._local, self._meter = local, Meter()
        self._workers = [workers] * world()
        self._mine = workers
        self._seconds: dict[tuple[str, int], float] = {}

    def map_clients(
        self, federation: "Federation", work: Callable[..., Any], clients: Sequence[int], rows: Sequence
    ) -> list[Any]:
        """[work(federation, k, row of the first, ...) for every client k], on every rank. Raises LostError where any rank
        has failed."""
        name = getattr(work, "func", work).__qualname__
        places = self.dealt(name, clients, [len(federation.shares[k]) for k in clients])[rank()]
        here = replace(federation, pool=self._local, meter=self._meter)
        some = [[row[place] for place in places] for row in (clients, *rows)]
        try:
            done = here.map_clients(partial(_timed, work), *some)
        except Exception as error:
            share(Idle(reason_of(error), _here()))
            raise
        results = {place: result for place, (result, _) in zip(places, done, strict=True)}
        seconds = {clients[place]: taken for place, (_, taken) in zip(places, done, strict=True)}
        of = (name, federation.party, federation.round, tuple(clients))
        said = share(Done(of, results, seconds, dict(self._meter.spent), self._mine))
        self._meter.clear()
        for number, one in enumerate(said):
            if not isinstance(one, Done):
                raise LostError(f"rank {number} of {len(said)}{one.at} has failed: {one.why or 'it is at no run'}")
            if one.of != of:
                raise LostError(f"rank {number} of {len(said)} is at {one.of[:3]}, this one at {of[:3]}")
        for one in said:
            federation.meter.spent.update(one.spent)
            self._seconds |= {(name, k): taken for k, taken in one.seconds.items()}
        self._workers = [one.workers for one in said]
        found = {place: result for one in said for place, result in one.results.items()}
        return [found[place] for place in range(len(clients))]

    def dealt(self, name: str, clients: Sequence[int], examples: Sequence[int]) -> list[list[int]]:
        """The places of the clients, for each rank those that it is to do: the longest first, each to the rank that would
        be done with it first. How long a client takes is known from the last time that this work was done for it; where it
        is not, it is thought to take as long for an example as the others."""
        known = {k: self._seconds[name, k] for k in clients if (name, k) in self._seconds}
        measured = [(known[k], n) for k, n in zip(clients, examples, strict=True) if k in known and n]
        rate = sum(taken for taken, _ in measured) / sum(n for _, n in measured) if measured else 1.0
        costs = [known.get(k, rate * n) for k, n in zip(clients, examples, strict=True)]
        shares: list[list[int]] = [[] for _ in self._workers]
        load = [0.0] * len(shares)
        for place in sorted(range(len(clients)), key=lambda place: (-costs[place], place)):
            first = min(range(len(shares)), key=lambda r: ((load[r] + costs[place]) / self._workers[r], r))
            load[first] += costs[place]
            shares[first].append(place)
        return shares


def _timed(work: Callable[..., Any], federation: "Federation", k: int, *row: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(federation, k, *row), time.perf_counter() - began


# --- the group -----------------------------------------------------------------------------------------------------------


def world() -> int:
    """How many ranks there are; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Which of them this process is; the first leads."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def on_this_machine() -> int:
    """How many ranks there are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if world() > 1 else 1


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the ranks hear each other. Where the leader comes to an end, so do the others; a mistake in the command, which
    all or the leader alone have found, is one."""
    if world() == 1:
        yield
        return
    from torch import distributed  # not before it is needed

    store, _, _ = next(distributed.rendezvous("env://"))
    found = _apart(store)
    distributed.init_process_group("gloo", store=found, rank=rank(), world_size=world(), timeout=PATIENCE)
    try:
        yield
    except UserError:
        share(Over() if rank() == 0 else Idle())
        raise
    if rank() == 0:
        share(Over())
    distributed.destroy_process_group()


def _apart(store: "Store") -> "Store":
    """A part of torchrun's store in which nothing is left of an earlier start. torch keeps one store for all restarts, and
    would look there for processes that are gone."""
    from torch.distributed import PrefixStore

    mine = uuid4().hex
    store.set(f"hello {rank()}", mine)
    if rank() > 0:
        name = store.get(f"welcome {mine}").decode()  # of the leader of this start: no other has heard of it
        store.set(f"here {name} {rank()}", "")
        return PrefixStore(name, store)
    for other in range(1, world()):
        while not store.check([f"here {mine} {other}"]):
            store.set(f"welcome {store.get(f'hello {other}').decode()}", mine)  # it may be of an earlier start
            time.sleep(POLL)
    return PrefixStore(mine, store)


def share(thing: Any) -> list[Any]:
    """Say one thing, and hear what each of the ranks says. Raises LostError where one is gone."""
    from torch import distributed

    mine = torch.frombuffer(bytearray(packed(thing)), dtype=torch.uint8)
    lengths = [torch.empty(1, dtype=torch.int64) for _ in range(world())]
    try:
        distributed.all_gather(lengths, torch.tensor([len(mine)]))
        longest = max(lengths).item()
        said = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        distributed.all_gather(said, torch.cat([mine, torch.empty(longest - len(mine), dtype=torch.uint8)]))
    except RuntimeError as error:
        words = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]  # without the place in its source
        raise LostError(f"a rank is gone: {words}") from None
    return [
        thing if number == rank() else pickle.loads(one[:length].numpy())
        for number, (one, length) in enumerate(zip(said, lengths, strict=True))
    ]


@contextmanager
def leading(what: Any) -> Iterator[None]:
    """Inside, the others do what is told them; where this rank fails they hear of it. Of the leader alone."""
    if world() == 1:
        yield
        return
    share(Begin(what))
    try:
        yield
    except LostError:
        raise
    except Exception as error:
        share(Idle(reason_of(error), _here()))
        raise


def follow(do: Callable[[Any], None]) -> None:
    """do(what the leader tells), again and again until there is no more. What fails is told to the others."""
    why = ""
    while not isinstance(told := share(Idle(why, _here()))[0], Over):
        why = ""
        if isinstance(told, Begin):
            try:
                do(told.what)
            except Exception as error:
                why = reason_of(error)


def _here() -> str:
    return f" ({socket.gethostname()})"


def refuse(flag: str) -> None:
    """Raises UserError where a flag asks for what several ranks cannot do together."""
    if world() > 1:
        raise UserError(f"{flag}: not with torchrun, whose {world()} ranks make one run after another, on processors")
