"""The graph of the clients, and how neighbours mix their models."""

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

if TYPE_CHECKING:  # runs without a graph need not wait for the import
    import networkx as nx

Edges = Iterable[tuple[int, int]]
MIXING = (
    "mixing weights: uniform is the mean over a client and its neighbours, metropolis converges to the plain average of all "
    "models, reference is the authors' code"
)


def decentralised(options) -> bool:
    """Return whether neighbours mix their models, so that no server averages them."""
    return options.aggr_model == "de"


# --- topologies: the edges between n clients, numbered from 0 ----------------------------------------------------------


def tree(n: int, options) -> Edges:
    """Return the authors' tree of five, 0-1, 0-2, 0-3, 2-4, extended by two arms that grow in turn."""
    return [(k, max(k - 2, 0) if k > 3 else 0) for k in range(1, n)]


def ring(n: int, options) -> Edges:
    """Return a ring; one edge for two clients."""
    return [(k, (k + 1) % n) for k in range(n if n > 2 else n - 1)]


def star(n: int, options) -> Edges:
    """Return a star with client 0 in the middle."""
    return [(0, k) for k in range(1, n)]


def full(n: int, options) -> Edges:
    """Return all edges."""
    return combinations(range(n), 2)


def grid(n: int, options) -> Edges:
    """Return a grid with rows of ceil(sqrt(n)) clients; the last row may be shorter."""
    width = math.ceil(math.sqrt(n))
    horizontal = [(k, k + 1) for k in range(n - 1) if (k + 1) % width]
    return [*horizontal, *((k, k + width) for k in range(n - width))]


def random(n: int, options) -> Edges:
    """Return a random tree, so that the graph is connected, and each other edge with `--edge_probability`.

    `--split_seed` determines the graph.
    """
    draw = streams.generator("topology", options.split_seed)
    order = draw.permutation(n)
    edges = [(order[k], order[draw.integers(k)]) for k in range(1, n)]
    edges += [(i, j) for i in range(n) for j in range(i) if draw.random() < options.edge_probability]
    return [(int(i), int(j)) for i, j in edges]


def from_file(n: int, options) -> Edges:
    """Read an edge list: two clients per line, separated by blanks; # starts a comment."""
    prefix = f"--topology_file {options.topology_file}:"
    if options.topology_file is None:
        raise UserError("--topology file: the edge list is missing; add --topology_file PATH")
    try:
        lines = untrusted.text(options.topology_file).splitlines()
    except untrusted.RefusedError as error:
        raise UserError(f"{prefix} {error.reason}; must be an edge list with two clients per line") from None
    edges = []
    for line_number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isascii() and word.isdecimal() for word in words):
            raise UserError(f"{prefix} line {line_number} must be two whole numbers (clients) separated by a blank")
        i, j = map(int, words)
        if max(i, j) >= n:
            raise UserError(
                f"{prefix} line {line_number} names client {max(i, j)}; must be 0 to {n - 1} with --n_clients {n}"
            )
        if i == j:
            raise UserError(f"{prefix} line {line_number} is an edge from client {i} to itself; remove the line")
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
    """Flags of the algorithms with clients on a graph."""

    topology: str = flag("tree", Choice(tuple(TOPOLOGIES)), "communication graph of the clients; file reads an edge list")
    edge_probability: float = flag(
        0.2,
        Number(float, least=0, most=1),
        "probability of each edge outside a random spanning tree; 0 is the tree, 1 is the complete graph",
        Requires("--topology random", lambda o: o.topology == "random"),
    )
    topology_file: Path | None = flag(
        None,
        Path,
        "file with an edge list: two client numbers per line, from 0",
        Requires("--topology file", lambda o: o.topology == "file"),
    )
    allow_disconnected: bool = flag(False, None, "allow a disconnected graph")


def of(n: int, options) -> nx.Graph:
    """Return the graph of a run, with all clients as nodes, in order. Raise UserError for an invalid edge list."""
    return between(range(n), TOPOLOGIES[options.topology](n, options))


def between(clients: Iterable[int], edges: Iterable[Sequence[int]]) -> nx.Graph:
    """Return the graph of these clients, with nodes in their order and the edges between them."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(clients)
    graph.add_edges_from((i, j) for i, j in edges if i in graph and j in graph)
    return graph


def parts_of(graph: nx.Graph) -> list[list[int]]:
    """Return the clients of each connected component, in order."""
    import networkx as nx

    return [sorted(part) for part in nx.connected_components(graph)]


def check(options, data: Data, n_train: int) -> str:
    """Return a message with the graph and its spectral gap. Raise UserError if the graph is not connected."""
    graph = of(options.n_clients, options)
    parts = parts_of(graph)
    summary = f"{options.topology} of {len(graph)} clients with {graph.number_of_edges()} edges"
    if len(parts) > 1 and not options.allow_disconnected:
        raise UserError(
            f"--topology {options.topology}: the graph has {len(parts)} separate components (no path from client 0 to "
            f"client {parts[1][0]}); connect them, or add --allow_disconnected"
        )
    messages = [f"{options.algorithm}: {summary}"]
    if decentralised(options):
        for part in parts:
            gap = spectral_gap(MIXINGS[options.mixing](between(part, graph.edges)))
            component_text = "" if len(parts) == 1 else f" of the component with client {part[0]} ({len(part)} clients)"
            messages.append(f"{options.mixing} mixing, spectral gap{component_text} {gap:.3g}")
    return "; ".join(messages)


# --- mixing matrices [n, n]: row i has the weights of client i's new model ---------------------------------------------


def uniform(graph: nx.Graph) -> np.ndarray:
    """Return the mean over a client and its neighbours."""
    neighbours = _adjacency(graph) + np.eye(len(graph))
    return neighbours / neighbours.sum(1, keepdims=True)


def metropolis(graph: nx.Graph) -> np.ndarray:
    """Return 1 / (1 + the larger of the two degrees), with the rest on the diagonal.

    The matrix is symmetric and doubly stochastic (Xiao and Boyd 2004).
    """
    degree = np.array([graph.degree(k) for k in graph])
    weights = _adjacency(graph) / (1 + np.maximum.outer(degree, degree))
    return weights + np.diag(1 - weights.sum(1))


def reference(graph: nx.Graph) -> np.ndarray:
    """Return the matrix of the authors' code.

    One client after another, and for each neighbour in order, takes half of its current model and half of the neighbour's
    current model.
    """
    weights, index = np.eye(len(graph)), {k: i for i, k in enumerate(graph)}
    for k, j in in_turn(graph):
        weights[index[k]] = (weights[index[k]] + weights[index[j]]) / 2
    return weights


def in_turn(graph: nx.Graph) -> list[tuple[int, int]]:
    """Return (client, neighbour) pairs in the order in which the authors' code mixes."""
    return [(k, j) for k in graph for j in sorted(graph[k])]


def _adjacency(graph: nx.Graph) -> np.ndarray:
    import networkx as nx

    return nx.to_numpy_array(graph)


MIXINGS = {"uniform": uniform, "metropolis": metropolis, "reference": reference}


def spectral_gap(matrix: np.ndarray) -> float:
    """Return 1 - the second largest modulus of an eigenvalue: the fraction by which a round brings the models together.

    0 means never, 1 means at once.
    """
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix)))
    return float(1 - moduli[-2]) if len(moduli) > 1 else 1.0


# --- a round -----------------------------------------------------------------------------------------------------------


def metrics(graph: nx.Graph, options) -> dict[str, float | dict[int, float]]:
    """Return columns of the history: the spectral gap of the mixing, and each client's component.

    A component is named by its first client.
    """
    metrics: dict[str, float | dict[int, float]] = {}
    if decentralised(options):
        metrics["spectral_gap"] = spectral_gap(MIXINGS[options.mixing](graph))
    parts = parts_of(graph)
    if len(parts) > 1:
        metrics["component"] = {k: float(part[0]) for part in parts for k in part}
    return metrics


def mix(
    federation: Federation, clients: Sequence[int], weights: Sequence[Weights], edges: Sequence[Sequence[int]], options
) -> list[Weights]:
    """Send every client's weights to its neighbours in the round, and average with the mixing matrix; return the new rows.

    A client averages its own weights and the received ones by its row of the matrix, which is that of the graph between
    `clients`. Only an absent client, one that fails, receives nothing and contributes nothing.
    """
    full_graph, rows = between(federation.drawn(), edges), dict(zip(clients, weights, strict=True))
    if options.mixing == "reference":
        for k, j in (edge for edge in in_turn(full_graph) if edge[1] in rows):
            (received,) = federation.wire.between("weights", [rows[j]], [(j, k)])
            if k in rows:
                rows[k] = average([rows[k], received], [torch.tensor(1), torch.tensor(1)])
        return list(rows.values())
    graph = between(clients, edges)
    matrix = torch.from_numpy(MIXINGS[options.mixing](graph))
    edges_used = [(j, k) for k in full_graph for j in sorted(full_graph[k]) if j in rows]  # from, to
    received = federation.wire.between("weights", [rows[j] for j, _ in edges_used], edges_used)
    rows_by_sender = {k: {k: row} for k, row in rows.items()}  # the weights that a client averages, by sender
    for (j, k), row in zip(edges_used, received, strict=True):
        if k in rows_by_sender:
            rows_by_sender[k][j] = row
    index = {k: i for i, k in enumerate(graph)}
    return [
        average(list(row_by_sender.values()), [matrix[index[k], index[j]] for j in row_by_sender])
        for k, row_by_sender in rows_by_sender.items()
    ]
