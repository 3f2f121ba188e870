"""The graph that clients are on, and how neighbours mix their models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import options
import streams
import untrusted
from data.datasets import Data
from errors import UserError
from federation import Federation, Weights
from helpers import average
from options import Choice, Number, Requires, flag

if TYPE_CHECKING:  # runs without a graph need not wait for it
    import networkx as nx

Edges = Iterable[tuple[int, int]]
MIXING = (
    "uniform is the mean over a client and its neighbours; only by metropolis do all models converge to the plain average; "
    "reference is the authors' code"
)


def decentralised(options) -> bool:
    """Whether neighbours mix their models, and no server averages them."""
    return options.aggr_model == "de"


# --- topologies: the edges between n clients, numbered from 0 ----------------------------------------------------------


def tree(n: int, options) -> Edges:
    """The authors' tree of five, 0-1, 0-2, 0-3, 2-4; from there on two arms that grow in turn."""
    return [(k, max(k - 2, 0) if k > 3 else 0) for k in range(1, n)]


def ring(n: int, options) -> Edges:
    """Each client between two; with two clients one edge."""
    return [(k, (k + 1) % n) for k in range(n if n > 2 else n - 1)]


def star(n: int, options) -> Edges:
    """Client 0 in the middle."""
    return [(0, k) for k in range(1, n)]


def full(n: int, options) -> Edges:
    """Everyone with everyone."""
    return combinations(range(n), 2)


def grid(n: int, options) -> Edges:
    """Row by row, rows of ceil(sqrt(n)), the last one as long as there are clients."""
    width = math.ceil(math.sqrt(n))
    beside = [(k, k + 1) for k in range(n - 1) if (k + 1) % width]
    return [*beside, *((k, k + width) for k in range(n - width))]


def random(n: int, options) -> Edges:
    """A random tree, so that it is connected, and each other edge with `--edge_probability`; of `--split_seed`."""
    draw = streams.generator("topology", options.split_seed)
    order = draw.permutation(n)
    edges = [(order[k], order[draw.integers(k)]) for k in range(1, n)]
    edges += [(i, j) for i in range(n) for j in range(i) if draw.random() < options.edge_probability]
    return [(int(i), int(j)) for i, j in edges]


def from_file(n: int, options) -> Edges:
    """Two clients a line, separated by blanks; # begins a comment."""
    name = f"--topology_file {options.topology_file}:"
    if options.topology_file is None:
        raise UserError("--topology file: --topology_file is missing")
    try:
        lines = untrusted.text(options.topology_file).splitlines()
    except untrusted.RefusedError as error:
        raise UserError(f"{name} {error.reason}; must be an edge list, two clients a line") from None
    edges = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isascii() and word.isdecimal() for word in words):
            raise UserError(f"{name} line {number} must be two clients, as whole numbers with a blank between them")
        i, j = map(int, words)
        if max(i, j) >= n:
            raise UserError(f"{name} line {number} names client {max(i, j)}; with --n_clients {n} they are 0 to {n - 1}")
        if i == j:
            raise UserError(f"{name} line {number} is an edge from client {i} to itself")
        edges.append((i, j))
    return edges


TOPOLOGIES: dict[str, Callable[[int, object], Edges]] = {
    "tree": tree,
    "ring": ring,
    "star": star,
    "full": full,
    "grid": grid,
    "random": random,
    "file": from_file,
}


@dataclass(frozen=True)
class Options(options.Options):
    """Flags of the algorithms whose clients are on a graph."""

    topology: str = flag("tree", Choice(tuple(TOPOLOGIES)), "who is whose neighbour; file is an edge list")
    edge_probability: float = flag(
        0.2,
        Number(float, least=0, most=1),
        "of each edge beside those of a random tree; 0 is the tree, 1 all edges",
        Requires("--topology random", lambda o: o.topology == "random"),
    )
    topology_file: Path | None = flag(
        None, Path, "edge list: two clients a line, from 0", Requires("--topology file", lambda o: o.topology == "file")
    )
    allow_disconnected: bool = flag(False, None, "take a graph of several parts, which never hear of one another")


def of(n: int, options) -> nx.Graph:
    """The graph of a run, with all clients as nodes, in order. Raises UserError for an edge list that is none."""
    return between(range(n), TOPOLOGIES[options.topology](n, options))


def between(clients: Iterable[int], edges: Iterable[Sequence[int]]) -> nx.Graph:
    """The graph of these clients, its nodes in their order, with those of the edges that are between two of them."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(clients)
    graph.add_edges_from((i, j) for i, j in edges if i in graph and j in graph)
    return graph


def parts_of(graph: nx.Graph) -> list[list[int]]:
    """The clients of each part that is connected, in order."""
    import networkx as nx

    return [sorted(part) for part in nx.connected_components(graph)]


def check(options, data: Data, n_train: int) -> str:
    """The graph and how fast models mix on it, in words. Raises UserError where its parts never hear of one another."""
    graph = of(options.n_clients, options)
    parts = parts_of(graph)
    shown = f"{options.topology} of {len(graph)} clients with {graph.number_of_edges()} edges"
    if len(parts) > 1 and not options.allow_disconnected:
        raise UserError(
            f"--topology {options.topology}: the graph has {len(parts)} parts which never hear of one another (client "
            f"{parts[1][0]} is not reached from client 0); connect them, or add --allow_disconnected"
        )
    words = [f"{options.algorithm}: {shown}"]
    if decentralised(options):
        for part in parts:
            gap = spectral_gap(MIXINGS[options.mixing](between(part, graph.edges)))
            of_part = "" if len(parts) == 1 else f" of the part with client {part[0]} ({len(part)} clients)"
            words.append(f"{options.mixing} mixing, spectral gap{of_part} {gap:.3g}")
    return "; ".join(words)


# --- mixing matrices [n, n]: row i is what client i's new model is made of ---------------------------------------------


def uniform(graph: nx.Graph) -> np.ndarray:
    """The mean over a client and its neighbours."""
    near = _adjacency(graph) + np.eye(len(graph))
    return near / near.sum(1, keepdims=True)


def metropolis(graph: nx.Graph) -> np.ndarray:
    """1 / (1 + the larger of the two degrees), the rest oneself: symmetric and doubly stochastic (Xiao and Boyd 2004)."""
    degree = np.array([graph.degree(k) for k in graph])
    weights = _adjacency(graph) / (1 + np.maximum.outer(degree, degree))
    return weights + np.diag(1 - weights.sum(1))


def reference(graph: nx.Graph) -> np.ndarray:
    """What the authors' code comes to: client after client, and for each neighbour in order, half of oneself as one is by
    then and half of the neighbour as it is by then."""
    weights, place = np.eye(len(graph)), {k: i for i, k in enumerate(graph)}
    for k, j in in_turn(graph):
        weights[place[k]] = (weights[place[k]] + weights[place[j]]) / 2
    return weights


def in_turn(graph: nx.Graph) -> list[tuple[int, int]]:
    """(client, neighbour) in the order in which the authors' code mixes."""
    return [(k, j) for k in graph for j in sorted(graph[k])]


def _adjacency(graph: nx.Graph) -> np.ndarray:
    import networkx as nx

    return nx.to_numpy_array(graph)


MIXINGS = {"uniform": uniform, "metropolis": metropolis, "reference": reference}


def spectral_gap(matrix: np.ndarray) -> float:
    """1 - the second largest modulus of an eigenvalue: by which part a round brings the models nearer to one another; 0 is
    never, 1 at once."""
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix)))
    return float(1 - moduli[-2]) if len(moduli) > 1 else 1.0


# --- a round -----------------------------------------------------------------------------------------------------------


def told(graph: nx.Graph, options) -> dict[str, float | dict[int, float]]:
    """Columns of the history: the spectral gap of the mixing, and which part of the graph a client is in, by its first."""
    found: dict[str, float | dict[int, float]] = {}
    if decentralised(options):
        found["spectral_gap"] = spectral_gap(MIXINGS[options.mixing](graph))
    parts = parts_of(graph)
    if len(parts) > 1:
        found["component"] = {k: float(part[0]) for part in parts for k in part}
    return found


def mix(
    federation: Federation, clients: Sequence[int], weights: Sequence[Weights], edges: Sequence[Sequence[int]], options
) -> list[Weights]:
    """Every client sends its weights to its neighbours among those of the round, and averages its own and what it received
    by its row of the mixing matrix of the graph between `clients` -> new rows. Only a client that is absent, because it
    fails, receives nothing and is not received from."""
    everyone, rows = between(federation.drawn(), edges), dict(zip(clients, weights, strict=True))
    if options.mixing == "reference":
        for k, j in (way for way in in_turn(everyone) if way[1] in rows):
            (received,) = federation.wire.between("weights", [rows[j]], [(j, k)])
            if k in rows:
                rows[k] = average([rows[k], received], [torch.tensor(1), torch.tensor(1)])
        return list(rows.values())
    graph = between(clients, edges)
    matrix = torch.from_numpy(MIXINGS[options.mixing](graph))
    ways = [(j, k) for k in everyone for j in sorted(everyone[k]) if j in rows]  # from, to
    received = federation.wire.between("weights", [rows[j] for j, _ in ways], ways)
    held = {k: {k: row} for k, row in rows.items()}  # what a client averages, by whose it is
    for (j, k), row in zip(ways, received, strict=True):
        if k in held:
            held[k][j] = row
    place = {k: i for i, k in enumerate(graph)}
    return [average(list(of.values()), [matrix[place[k], place[j]] for j in of]) for k, of in held.items()]
