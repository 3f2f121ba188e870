"""K clients: their architectures, their shares of one data set, their random streams, and the loop over clients."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import streams
from data.datasets import Data
from data.partition import Shares
from federation.meter import Clients, Meter, several
from federation.pool import Pool
from federation.wire import Examples, Wire
from models import Net, Pair

Weights = dict[str, Tensor]  # parameters and buffers by name: one row of an algorithm's state


@dataclass(frozen=True)
class Federation:
    """The environment of a round. Only the counters `wire` and `meter` change.

    `shares`: K tensors int64 [n_k], each client's training examples as indices into `data`. `validation`: each client's
    held-out examples, in the same form. `public` int64 [n]: examples that every party may use; sending them counts bytes.
    `architectures`: functions that build a model, assigned to the clients in turn. `skeletons`: one model of each
    architecture, into which weights are loaded on demand. `start`: initial weights from another run, one row of a global
    model or one row per client; None draws new weights. `absent`: clients that take no part in the round, even if sampled.
    `threads`: the number of threads for training a single model (server, centralized) and for evaluation; a client always
    trains with one thread. `precision`: float32 or bf16, in which networks are computed. `pool`: processes that run clients
    in parallel; None: one after another.
    """

    data: Data
    shares: Sequence[Tensor]
    architectures: tuple[Callable[[], Net], ...]
    skeletons: tuple[Net, ...]
    start: Weights | Sequence[Weights] | None = None
    validation: Sequence[Tensor] = ()
    public: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    seed: int = 0
    participation: float = 1.0
    threads: int = 1
    round: int = 0
    absent: frozenset[int] = frozenset()
    party: str = "client"
    dtype: torch.dtype = torch.float32
    precision: str = "float32"
    wire: Wire = field(default_factory=Wire)
    meter: Meter = field(default_factory=Meter)
    pool: Pool | None = None

    @classmethod
    def of(
        cls,
        data: Data,
        shares,
        architectures,
        device="cpu",
        dtype=torch.float32,
        validation=(),
        public=(),
        precision="float32",
        **others,
    ) -> "Federation":
        """Return a federation on a device, with its skeletons.

        `data` is moved to the device; `shares` may be arrays. The shares are one tensor, and a client's share is a view of
        it.
        """
        with streams.torch_seeded("skeletons"):  # leaves the caller's generator unchanged
            # channels last is faster on a CPU, with the same numbers up to rounding; on a GPU it pays in bf16 only
            fits = torch.device(device).type == "cpu" or precision == "bf16"
            skeletons = tuple(build() for build in architectures)
            for skeleton in skeletons:
                layout = torch.channels_last if fits and skeleton.channels_last else torch.contiguous_format
                skeleton.to(device, dtype, memory_format=layout)
        for skeleton in skeletons:
            skeleton.precision = precision
        shares, validation = (
            Shares(torch.as_tensor(part.values, device=device), part.offsets)
            for part in (Shares.of(shares), Shares.of(validation))
        )
        public = torch.as_tensor(public, dtype=torch.int64, device=device)
        fixed = {"dtype": dtype, "validation": validation, "public": public, "precision": precision}
        return cls(data.to(device), shares, tuple(architectures), skeletons, **fixed, **others)

    @property
    def clients(self) -> range:
        """Return all clients: 0 .. K - 1."""
        return range(len(self.shares))

    @property
    def device(self) -> torch.device:
        """Return the device of the data and of all computations."""
        return self.data.x.device

    # --- variants of the same federation ---

    def at(self, round: int) -> "Federation":
        """Return the federation in another round, with that round's random streams."""
        return replace(self, round=round)

    def with_party(self, party: str) -> "Federation":
        """Return the federation with the random streams of another party, so that the clients' draws do not change."""
        return replace(self, party=party)

    def server(self, share: Tensor) -> "Federation":
        """Return the server as a federation of one, with the examples `share` int64 [n] and all threads."""
        return replace(self, party="server", shares=(share,))

    def on(self, share: Tensor) -> "Federation":
        """Return the federation with the examples `share` int64 [n], for example public ones, as every client's share."""
        return replace(self, shares=[share] * len(self.shares))

    def paired(self, shared: Net, pair: Callable[[Net, Net], Pair] = Pair) -> "Federation":
        """Return the federation with a second network at each client: pairs of its own network and the shared one."""
        return replace(self, skeletons=tuple(pair(own, shared) for own in self.skeletons))

    # --- the parts of a round ---

    def names(self, part: str) -> set[str]:
        """Return the names of the weights in a part, "body", "head", "full" or "bn": see `Net.names`.

        The names are those of the first architecture.
        """
        return self.skeletons[0].names(part)

    def stream(self, purpose: str, client: int = -1) -> np.random.Generator:
        """Return the random stream of (seed, party, purpose, round, client), at its beginning; -1 means no client."""
        return streams.generator(self.seed, self.party, purpose, self.round, client)

    def drawn(self) -> list[int]:
        """Return the sampled clients of this round, in order, including `absent` ones: max(floor(C K), 1) clients.

        (McMahan et al. 2017, Algorithm 1.) Without a server, a client sends to these clients: it does not know which clients
        fail.
        """
        if self.participation == 1:
            return list(self.clients)
        m = n_sampled(self.participation, len(self.shares))
        return sorted(self.stream("participation").choice(len(self.shares), m, replace=False).tolist())

    def sample(self) -> list[int]:
        """Return the clients of this round, in order, without the `absent` ones."""
        return [k for k in self.drawn() if k not in self.absent]

    def without(self, clients: frozenset[int]) -> "Federation":
        """Return the federation without these clients: they take no part, and their messages are not counted."""
        return replace(self, absent=clients, wire=self.wire.without(clients))

    def failing(self, chance: float, clients: Sequence[int] | None = None) -> tuple[frozenset[int], frozenset[int]]:
        """Split the clients of this round (None: `sample`) into (clients that fail, other clients).

        Each client fails independently with probability `chance`.
        """
        clients = self.sample() if clients is None else clients
        failed = frozenset(k for k in clients if self.stream("failure", k).random() < chance)
        return failed, frozenset(clients) - failed

    def sizes(self, clients: Sequence[int]) -> list[Tensor]:
        """Return n_k, the number of training examples, of each client: int64 scalars."""
        return [torch.tensor(len(self.shares[k]), device=self.device) for k in clients]

    def examples(self, indices: Tensor) -> Examples:
        """Return these images and labels, int64 [n], as a message for the wire."""
        x, y = self.data.x, self.data.y
        return Examples(indices, len(indices) * (x[0].nbytes + y.element_size()))

    def initial(self, client: int | None = None, architecture: int = 0) -> Weights:
        """Return initial weights: of one client, or (None) the common start that the server sends, for an architecture.

        A client's weights are drawn from its own stream. `start`, if set, replaces the drawn weights.
        """
        if self.start is not None:
            row = self.start if isinstance(self.start, dict) else self.start[architecture if client is None else client]
            return {name: tensor.to(self.device, _dtype_of(tensor, self.dtype), copy=True) for name, tensor in row.items()}
        key = (self.seed, "server", "initial") if client is None else (self.seed, "client", "initial", client)
        with streams.torch_seeded(*key):
            model = self.architectures[(architecture if client is None else client) % len(self.architectures)]()
        return {name: tensor.to(self.device, _dtype_of(tensor, self.dtype)) for name, tensor in model.state_dict().items()}

    def model(self, client: int, weights: Weights) -> Net:
        """Return the client's architecture with these weights, in evaluation mode.

        The model is a skeleton that the next call overwrites: use it at once, and copy what must stay.
        """
        skeleton = self.skeletons[client % len(self.skeletons)]
        with torch.no_grad():
            tensors = skeleton.state_dict()
            torch._foreach_copy_(list(tensors.values()), [weights[name] for name in tensors])
        return skeleton.requires_grad_(True).eval()

    def count_flops(self, do: Callable[[], Any], client: Clients, *kind: Hashable) -> Any:
        """Return do(), the work of a client (or of another party), and count its floating point operations.

        Several clients, of one architecture, do equal parts of the work. `kind` contains everything that determines the
        number of operations, besides the party and the client's architecture: see `Meter.work`.
        """
        first, *_ = several(client)
        return self.meter.work(do, self.party, client, (self.party, first % len(self.skeletons), *kind))

    def n_examples(self, client: Clients) -> int:
        """Return the number of training examples of a client, or of several together."""
        return sum(len(self.shares[k]) for k in several(client))

    def map_clients(self, work: Callable[..., Any], clients: Sequence[Clients], *rows: Sequence[Any]) -> list[Any]:
        """Return [work(self, k, row of the first, row of the second, ...) for every client k].

        In place of a client there may be several, whose work is done together. The pool, if any, runs clients in parallel.
        `work` must not change its arguments or use the wire. A client computes with one thread, so that the result does not
        depend on the number of parallel clients; a server computes with `threads` threads.
        """
        threads = self.threads if self.party == "server" else 1
        if self.pool and self.pool.is_ready and threads == 1 and len(clients) > 1:
            return self.pool.map_clients(self, work, clients, rows)
        with computing_with(threads):
            return [work(self, k, *row) for k, *row in zip(clients, *rows, strict=True)]


def n_sampled(participation: float, n_clients: int) -> int:
    """Return the number of clients that take part in a round: max(floor(C K), 1)."""
    return max(int(participation * n_clients + 1e-9), 1)


def _dtype_of(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype


@contextmanager
def computing_with(n: int) -> Iterator[None]:
    """Let torch compute with n threads inside."""
    n_before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(n_before)
