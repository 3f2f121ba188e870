"""K clients: their architectures, their shares of one data set, their random streams, and how "for every client" is
carried out.
"""

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
from federation.meter import Meter
from federation.pool import Pool
from federation.wire import Examples, Wire
from models import Net, Pair

Weights = dict[str, Tensor]  # parameters and buffers by name: one row of an algorithm's state


@dataclass(frozen=True)
class Federation:
    """What a round finds given. Nothing in it changes but what is counted: `wire`, `meter`.

    `shares`: K tensors int64 [n_k], each client's training examples as indices into `data`; `validation`: those it holds
    out, alike; `public` int64 [n]: examples that everybody may look at, and that count where they are sent.
    `architectures`: functions that build a model, dealt to the clients in turn; `skeletons`: one model of each, into which
    weights are loaded when they are needed. `start`: initial weights from elsewhere, of one model for all or a row a client;
    None draws new ones. `absent`: clients that take no part in the round, though they be sampled. `threads`: for a phase
    that trains a single model, and for evaluation; a client always trains with one. `precision`: float32 or bf16, in which
    networks are computed. `pool`: processes in which clients work side by side; None: one after another.
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
        """A federation on a device, with its skeletons. `data` is moved there; `shares` may be arrays. They are one tensor,
        and a client's share is a view of it."""
        with streams.torch_seeded("skeletons"):  # never the caller's generator
            # channels last: the same numbers to rounding, and faster
            skeletons = tuple(build().to(device, dtype, memory_format=torch.channels_last) for build in architectures)
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
        """All of them: 0 .. K - 1."""
        return range(len(self.shares))

    @property
    def device(self) -> torch.device:
        """Where the data lie and everything is computed."""
        return self.data.x.device

    # --- the same federation, seen from elsewhere ---

    def at(self, round: int) -> "Federation":
        """In that round: its streams are new, all else is the same."""
        return replace(self, round=round)

    def with_party(self, party: str) -> "Federation":
        """With the streams of another party, so that its draws leave the clients' draws as they are."""
        return replace(self, party=party)

    def server(self, share: Tensor) -> "Federation":
        """The server as a federation of one, which holds the examples `share` int64 [n] and may use every thread."""
        return replace(self, party="server", shares=(share,))

    def on(self, share: Tensor) -> "Federation":
        """With the examples `share` int64 [n] in everybody's hands, in place of their own: public ones, say."""
        return replace(self, shares=[share] * len(self.shares))

    def paired(self, shared: Net, pair: Callable[[Net, Net], Pair] = Pair) -> "Federation":
        """With a second network at each client: pairs of its own one and of one that all share."""
        return replace(self, skeletons=tuple(pair(own, shared) for own in self.skeletons))

    # --- words of a round ---

    def names(self, part: str) -> set[str]:
        """The names of the weights of a part, "body", "head", "full" or "bn": see `Net.names`. Of the first architecture."""
        return self.skeletons[0].names(part)

    def stream(self, purpose: str, client: int = -1) -> np.random.Generator:
        """The random stream of (seed, party, purpose, round, client), at its beginning; -1 stands for no client."""
        return streams.generator(self.seed, self.party, purpose, self.round, client)

    def drawn(self) -> list[int]:
        """All clients of this round, in order, those that are `absent` too: max(floor(C K), 1) of them (McMahan et al. 2017,
        Algorithm 1). Where there is no server a client sends to these: it does not know who fails."""
        if self.participation == 1:
            return list(self.clients)
        m = n_sampled(self.participation, len(self.shares))
        return sorted(self.stream("participation").choice(len(self.shares), m, replace=False).tolist())

    def sample(self) -> list[int]:
        """The clients of this round, in order, without those that are `absent`."""
        return [k for k in self.drawn() if k not in self.absent]

    def without(self, clients: frozenset[int]) -> "Federation":
        """In which these clients take no part, and nothing that they send or receive is counted."""
        return replace(self, absent=clients, wire=self.wire.without(clients))

    def failing(self, chance: float, clients: Sequence[int] | None = None) -> tuple[frozenset[int], frozenset[int]]:
        """The clients of this round (None: `sample`) in two: those that fail, each by itself with this chance, and the
        others."""
        clients = self.sample() if clients is None else clients
        failed = frozenset(k for k in clients if self.stream("failure", k).random() < chance)
        return failed, frozenset(clients) - failed

    def sizes(self, clients: Sequence[int]) -> list[Tensor]:
        """n_k, the number of training examples, of each: int64 scalars."""
        return [torch.tensor(len(self.shares[k]), device=self.device) for k in clients]

    def examples(self, indices: Tensor) -> Examples:
        """These images and labels, int64 [n], ready for the wire."""
        x, y = self.data.x, self.data.y
        return Examples(indices, len(indices) * (x[0].nbytes + y.element_size()))

    def initial(self, client: int | None = None, architecture: int = 0) -> Weights:
        """Initial weights: of one client, from its own stream, or (None) the common start that the server hands out, of an
        architecture; or what `start` has."""
        if self.start is not None:
            row = self.start if isinstance(self.start, dict) else self.start[architecture if client is None else client]
            return {name: tensor.to(self.device, _kept(tensor, self.dtype), copy=True) for name, tensor in row.items()}
        named = (self.seed, "server", "initial") if client is None else (self.seed, "client", "initial", client)
        with streams.torch_seeded(*named):
            model = self.architectures[(architecture if client is None else client) % len(self.architectures)]()
        return {name: tensor.to(self.device, _kept(tensor, self.dtype)) for name, tensor in model.state_dict().items()}

    def model(self, client: int, weights: Weights) -> Net:
        """The client's architecture with these weights, in evaluation mode.

        It is a skeleton that the next call fills anew: use it at once, and take out copies of what is to stay.
        """
        skeleton = self.skeletons[client % len(self.skeletons)]
        with torch.no_grad():
            for name, tensor in skeleton.state_dict().items():
                tensor.copy_(weights[name])
        return skeleton.requires_grad_(True).eval()

    def count_flops(self, do: Callable[[], Any], client: int, *kind: Hashable) -> Any:
        """do(), the work of a client (or of another party) on its own, its floating point operations counted. `kind` says
        all that their number depends on besides the party and the client's architecture: see `Meter.work`."""
        return self.meter.work(do, self.party, client, (self.party, client % len(self.skeletons), *kind))

    def map_clients(self, work: Callable[..., Any], clients: Sequence[int], *rows: Sequence[Any]) -> list[Any]:
        """[work(self, k, row of the first, row of the second, ...) for every client k], side by side where there is a pool.

        `work` changes nothing that it is given and crosses no wire. A client computes with one thread, so that the result
        does not depend on how many work side by side; a server computes with all of `threads`.
        """
        threads = self.threads if self.party == "server" else 1
        if self.pool and self.pool.ready and threads == 1 and len(clients) > 1:
            return self.pool.map_clients(self, work, clients, rows)
        with computing_with(threads):
            return [work(self, k, *row) for k, *row in zip(clients, *rows, strict=True)]


def n_sampled(participation: float, n_clients: int) -> int:
    """How many clients take part in a round: max(floor(C K), 1)."""
    return max(int(participation * n_clients + 1e-9), 1)


def _kept(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype


@contextmanager
def computing_with(n: int) -> Iterator[None]:
    """Inside, torch computes with n threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
