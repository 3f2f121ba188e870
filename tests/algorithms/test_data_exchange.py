"""Data exchange and D-PSGD: graphs and their mixing matrices, what passes between neighbours, and what it gives away."""

import itertools
import math
from functools import cache, partial
from types import SimpleNamespace

import conftest
import networkx as nx
import numpy as np
import pytest
import torch
from conftest import ROOT, CutWire, line_of, needs_mnist, options_for, play, same, tiny_data, tiny_federation, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st

import algorithms
import commandline
import experiment
from algorithms import data_exchange
from algorithms.data_exchange import exchange, graph
from experiment import identity
from federation.wire import Wire
from options import Launch, flags_of
from streams import generator

NUMBERS = (1, 2, 3, 5, 7, 10, 33)
DRAWN = [name for name in graph.TOPOLOGIES if name != "file"]
SHARES = [range(6), range(6, 16), range(16, 28), range(28, 43), range(43, 60)]  # of different lengths
IMAGE = 12 * 12 + 8  # bytes of one image of the tiny data and of its label
PUBLISHED = {(0.2, 2): 0.23, (0.2, 4): 0.09, (0.2, 6): 0.03, (0.2, 8): 0.01, (0.8, 2): 0.50, (0.8, 6): 0.085}
CLASSES = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
DESCRIBED = {name: algorithms.describe(name) for name in CLASSES}
modestly = settings(deadline=None, max_examples=60)


def parse(line):
    """The one run that a command line asks for."""
    (run,) = commandline.parse(line.split(), CLASSES, DESCRIBED)[0]
    return run


def request(n=5, name="data_exchange", **flags):
    return options_for(name, n_clients=n, **flags)


def net_of(n=5, topology="tree", **flags):
    return graph.of(n, request(n, topology=topology, **flags))


def path_of(n):
    return nx.path_graph(n)


def degrees(net):
    return [net.degree(k) for k in net]


class Heard(Wire):
    """A wire that remembers what passes between clients, as (kind, from, to, row)."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def between(self, kind, rows, edges):
        self.messages += [(kind, *edge, row) for edge, row in zip(edges, rows, strict=True)]
        return super().between(kind, rows, edges)


def five(shares=SHARES, **others):
    return tiny_federation(shares=shares, **{"model": "MLP", **others})


def rows_of(done, n=5):
    (answer,) = done.models.values()
    return [weights_of(answer, k) for k in range(n)]


close = partial(conftest.close, tolerance=1e-12)


def rounds_of(federation, flags, n):
    """start, and after every round (state, Round)."""
    module = algorithms.module_of(flags)
    state = module.start(federation, flags)
    for r in range(1, n + 1):
        yield state, module.communicate(federation.at(r), state, flags)


# --- topologies ---


@pytest.mark.parametrize("n", NUMBERS)
@pytest.mark.parametrize("topology", DRAWN)
def test_every_topology_connects_all_clients_in_order_and_none_with_itself(topology, n):
    net = net_of(n, topology)
    assert list(net) == list(range(n))
    assert nx.is_connected(net)
    assert nx.number_of_selfloops(net) == 0
    assert all(type(k) is int for edge in net.edges for k in edge)


def test_the_tree_of_five_is_the_authors_and_goes_on_in_two_arms():
    assert {frozenset(edge) for edge in net_of(5).edges} == {frozenset(e) for e in [(0, 1), (0, 2), (0, 3), (2, 4)]}
    assert {frozenset(edge) for edge in net_of(8).edges - net_of(5).edges} == {
        frozenset(edge) for edge in [(3, 5), (4, 6), (5, 7)]
    }
    assert all(nx.is_tree(net_of(n)) for n in NUMBERS)


def test_the_degrees_are_those_of_a_ring_a_star_and_a_full_graph():
    for n in (3, 5, 10):
        assert degrees(net_of(n, "ring")) == [2] * n
        assert degrees(net_of(n, "star")) == [n - 1] + [1] * (n - 1)
        assert degrees(net_of(n, "full")) == [n - 1] * n
    assert [degrees(net_of(n, "ring")) for n in (1, 2)] == [[0], [1, 1]]
    assert set(net_of(5, "ring").edges) == {(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)}


def test_a_grid_is_row_by_row_and_its_last_row_as_long_as_there_are_clients():
    """Three wide: 0 1 2 / 3 4 5 / 6 7."""
    across, down = [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7)], [(0, 3), (1, 4), (2, 5), (3, 6), (4, 7)]
    assert {tuple(sorted(edge)) for edge in net_of(8, "grid").edges} == {*across, *down}
    assert nx.is_isomorphic(net_of(25, "grid"), nx.grid_2d_graph(5, 5))
    assert degrees(net_of(3, "grid")) == [2, 1, 1]


@modestly
@given(n=st.integers(1, 20), seed=st.integers(0, 10_000), p=st.floats(0, 1))
def test_a_random_graph_is_connected_and_repeatable_at_every_probability(n, seed, p):
    flags = {"topology": "random", "split_seed": seed}
    net = net_of(n, edge_probability=p, **flags)
    assert nx.is_connected(net)
    assert set(net.edges) == set(net_of(n, edge_probability=p, seed=seed + 1, lr=0.3, **flags).edges)
    assert nx.is_tree(net_of(n, edge_probability=0.0, **flags))
    assert net_of(n, edge_probability=1.0, **flags).number_of_edges() == n * (n - 1) // 2


def test_random_graphs_have_their_tree_and_each_other_edge_as_often_as_asked_and_differ_by_seed():
    nets = [net_of(40, "random", edge_probability=0.3, split_seed=seed) for seed in range(20)]
    others, extra = 20 * (40 * 39 // 2 - 39), sum(net.number_of_edges() - 39 for net in nets)
    assert abs(extra - 0.3 * others) < 4 * math.sqrt(others * 0.3 * 0.7)
    assert len({frozenset(net.edges) for net in nets}) == 20
    trees = [frozenset(net_of(9, "random", edge_probability=0.0, split_seed=seed).edges) for seed in range(20)]
    assert len(set(trees)) > 15
    assert max(max(degrees(nx.Graph(list(edges)))) for edges in trees) > 3, "no mere paths"


# --- an edge list ---


@pytest.fixture
def edge_list(tmp_path):
    """Text -> flags that have it as their graph."""

    def written(text):
        (tmp_path / "edges.txt").write_text(text)
        return {"topology": "file", "topology_file": tmp_path / "edges.txt"}

    return written


def test_an_edge_list_may_have_comments_blank_lines_and_an_edge_twice(edge_list):
    net = net_of(4, **edge_list("# who knows whom\n2 0\n\n 0\t3 # a friend\n0 2\n1 2\n"))
    assert list(net) == [0, 1, 2, 3]
    assert {tuple(sorted(edge)) for edge in net.edges} == {(0, 2), (0, 3), (1, 2)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 1\n1 two\n", ["line 2 must be two whole numbers (clients)", "separated by a blank"]),
        ("0 1\n1 2.0\n", ["line 2 must be two whole numbers (clients)"]),
        ("0 1\n1 4\n", ["names client 4", "--n_clients 4", "0 to 3"]),
        ("0 1\n-1 2\n", ["line 2 must be two whole numbers (clients)"]),
        ("0 1\n1 2\n2 2\n2 3\n", ["edge from client 2 to itself"]),
    ],
)
def test_a_file_that_is_no_graph_of_these_clients_is_one_line(edge_list, text, words):
    flags = edge_list(text)
    line = line_of(graph.check, request(4, **flags), None, 0)
    assert line.startswith(f"--topology_file {flags['topology_file']}: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("text", ["0 1\n2\n1 2\n", "0,1\n1,2\n"])
def test_a_line_that_is_no_edge_is_not_passed_over(edge_list, text):
    assert "must be two whole numbers (clients)" in line_of(
        graph.check, request(3, allow_disconnected=True, **edge_list(text)), None, 0
    )


def test_a_file_that_is_not_there_not_text_or_not_named_is_one_line(tmp_path):
    assert "the edge list is missing" in line_of(graph.check, request(topology="file"), None, 0)
    for path in (tmp_path / "none.txt", tmp_path):
        line = line_of(graph.check, request(topology="file", topology_file=path), None, 0)
        assert "cannot be read" in line
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00 1\n")
    line = line_of(graph.check, request(topology="file", topology_file=tmp_path / "bytes"), None, 0)
    assert "cannot be read as text" in line


def test_a_graph_of_several_parts_is_refused_unless_allowed_and_told_part_by_part(edge_list):
    flags = edge_list("0 3\n1 4\n4 2\n")
    line = line_of(graph.check, request(6, **flags), None, 0)
    assert line.startswith("--topology file: the graph has 3 separate components")
    assert "no path from client 0 to client 1" in line
    assert "--allow_disconnected" in line
    allowed = request(6, allow_disconnected=True, **flags)
    output = graph.check(allowed, None, 0)
    assert output.startswith("data_exchange: file of 6 clients with 3 edges; ")
    for words in ("client 0 (2 clients) 1", "client 1 (3 clients) 0.5", "client 5 (1 clients) 1"):
        assert f"spectral gap of the component with {words}" in output  # the path of three: 1 - 1/2
    result = graph.metrics(graph.of(6, allowed), allowed)
    assert result["component"] == {0: 0.0, 3: 0.0, 1: 1.0, 2: 1.0, 4: 1.0, 5: 5.0}
    assert result["spectral_gap"] == pytest.approx(0, abs=1e-12)


def test_a_connected_graph_is_told_with_its_gap_where_models_are_mixed_and_without_parts():
    assert graph.check(request(topology="full"), None, 0) == (
        "data_exchange: full of 5 clients with 10 edges; uniform mixing, spectral gap 1"
    )
    assert "metropolis mixing, spectral gap 0.138" in graph.check(request(name="dpsgd"), None, 0)
    assert graph.check(request(aggr_model="ps"), None, 0) == "data_exchange: tree of 5 clients with 4 edges"
    assert graph.metrics(net_of(), request(aggr_model="ps")) == {}
    assert list(graph.metrics(net_of(), request())) == ["spectral_gap"]


def test_the_gap_of_a_part_is_that_of_its_clients_in_order(edge_list):
    """The matrix of the authors' code depends on the order."""
    text = "\n".join(f"{i} {j}" for i, j in [(5, 33), (33, 49), (33, 53), (49, 53)])
    output = graph.check(request(64, mixing="reference", allow_disconnected=True, **edge_list(text)), None, 0)
    in_order = nx.Graph()
    in_order.add_nodes_from(range(4))
    in_order.add_edges_from([(0, 1), (1, 2), (1, 3), (2, 3)])
    gap = graph.spectral_gap(graph.reference(in_order))
    assert f"the component with client 5 (4 clients) {gap:.3g}" in output


def test_parts_mix_among_themselves_alone(edge_list):
    flags = request(share_ratio=0.5, allow_disconnected=True, **edge_list("0 1\n2 3\n3 4\n"))
    _, done = play(five(), flags, 8)
    other = [*SHARES[:2], range(16, 20), *SHARES[3:]]
    _, as_done = play(five(shares=other), flags, 8)
    for k, (item, two) in enumerate(zip(rows_of(done), rows_of(as_done), strict=True)):
        assert same(item, two) == (k < 2), "clients 0 and 1 never hear of client 2"
    assert done.metrics["component"] == {0: 0.0, 1: 0.0, 2: 2.0, 3: 2.0, 4: 2.0}


# --- mixing matrices ---


@st.composite
def connected(draw):
    """Connected graphs of any density."""
    n, seed, p = draw(st.integers(1, 12)), draw(st.integers(0, 10_000)), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return net_of(n, "random", edge_probability=p, split_seed=seed)


def test_uniform_and_metropolis_rows_by_hand():
    """Of the path 0-1-2."""
    third = [1 / 3, 1 / 3, 1 / 3]
    np.testing.assert_allclose(graph.uniform(path_of(3)), [[1 / 2, 1 / 2, 0], third, [0, 1 / 2, 1 / 2]], atol=1e-15)
    np.testing.assert_allclose(graph.metropolis(path_of(3)), [[2 / 3, 1 / 3, 0], third, [0, 1 / 3, 2 / 3]], atol=1e-15)
    for mixing in (graph.uniform, graph.metropolis, graph.reference):
        assert mixing(path_of(1)).tolist() == [[1]]


@modestly
@given(net=connected())
def test_metropolis_is_symmetric_doubly_stochastic_and_as_xiao_and_boyd_write_it(net):
    matrix = graph.metropolis(net)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-14)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-14)
    assert (matrix >= 0).all()
    for i, j in itertools.permutations(net, 2):
        expected = 1 / (1 + max(net.degree(i), net.degree(j))) if net.has_edge(i, j) else 0
        assert matrix[i, j] == pytest.approx(expected, abs=1e-15)


@modestly
@given(net=connected(), steps=st.integers(1, 40))
def test_metropolis_converges_to_the_plain_average_at_the_rate_of_the_spectral_gap(net, steps):
    """What is left of a disagreement after t steps is (1 - gap)^t of it in the worst case, no more and no less."""
    matrix, n = graph.metropolis(net), len(net)
    left = np.linalg.norm(np.linalg.matrix_power(matrix, steps) - 1 / n, 2)
    assert left == pytest.approx((1 - graph.spectral_gap(matrix)) ** steps, abs=1e-10)


@modestly
@given(net=connected(), steps=st.integers(1, 40))
def test_uniform_converges_to_weights_in_proportion_to_degrees_plus_one(net, steps):
    """In the norm in which it is symmetric, at the rate of its gap."""
    matrix = graph.uniform(net)
    stationary = np.array([1 + net.degree(k) for k in net]) / sum(1 + net.degree(k) for k in net)
    np.testing.assert_allclose(stationary @ matrix, stationary, atol=1e-14)
    root = np.sqrt(stationary)
    left = root[:, None] * (np.linalg.matrix_power(matrix, steps) - stationary) / root
    assert np.linalg.norm(left, 2) == pytest.approx((1 - graph.spectral_gap(matrix)) ** steps, abs=1e-7)


def test_only_metropolis_ends_at_the_plain_average_of_a_star():
    net, values = net_of(5, "star"), np.array([10.0, 0, 0, 0, 0])
    ends = {name: np.linalg.matrix_power(mixing(net), 500) @ values for name, mixing in graph.MIXINGS.items()}
    np.testing.assert_allclose(ends["metropolis"], 2, atol=1e-9)
    np.testing.assert_allclose(ends["uniform"], 10 * 5 / 13, atol=1e-9)  # 5 of 5 + 4 * 2


def test_the_reference_matrix_of_the_tree_of_five():
    expected = np.array([[8, 8, 16, 32, 0], [4, 36, 8, 16, 0], [2, 2, 20, 8, 32], [4, 4, 8, 48, 0], [1, 1, 10, 4, 48]])
    np.testing.assert_array_equal(graph.reference(net_of()) * 64, expected)


def test_the_gap_is_one_where_all_agree_at_once_none_where_they_never_do_and_known_in_between():
    for n in (1, 2, 5, 9):
        assert graph.spectral_gap(graph.uniform(net_of(n, "full"))) == pytest.approx(1, abs=1e-7)
        assert graph.spectral_gap(graph.metropolis(net_of(n, "full"))) == pytest.approx(1, abs=1e-7)
    apart = nx.Graph([(0, 1), (2, 3)])
    assert graph.spectral_gap(graph.uniform(apart)) == pytest.approx(0, abs=1e-12)
    assert graph.spectral_gap(graph.metropolis(apart)) == pytest.approx(0, abs=1e-12)
    ring = graph.spectral_gap(graph.uniform(net_of(10, "ring")))
    assert ring == pytest.approx(1 - (1 + 2 * math.cos(2 * math.pi / 10)) / 3)
    assert graph.spectral_gap(np.array([[-0.8, 0], [0, 1]])) == pytest.approx(0.2), "a modulus, not a value"


# --- mixing over the wire ---


def drawn_rows(n, seed=0):
    """Rows of weights, and of a counter that is not averaged."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"w": (3, 4), "b": (5,)}
    rows = [{name: torch.randn(*s, generator=rng, dtype=torch.float64) for name, s in shapes.items()} for _ in range(n)]
    return [{**row, "counter": torch.tensor(10 + k)} for k, row in enumerate(rows)]


def sides(edges):
    return {way for i, j in edges for way in ((i, j), (j, i))}


@pytest.mark.parametrize("mixing", graph.MIXINGS)
@pytest.mark.parametrize("clients", [range(7), [0, 2, 3, 4, 6], [5]])
@pytest.mark.parametrize("topology", ["tree", "grid", "full", "random"])
def test_mixing_over_the_wire_is_the_matrix_times_the_weights_of_those_that_are_there(mixing, clients, topology):
    net, wire, rows = net_of(7, topology), Heard(), drawn_rows(7)
    federation = SimpleNamespace(wire=wire, drawn=lambda: list(clients))
    there = [rows[k] for k in clients]
    before = [{name: tensor.clone() for name, tensor in row.items()} for row in there]
    mixed = graph.mix(federation, clients, there, [list(edge) for edge in net.edges], request(7, mixing=mixing))
    near = nx.relabel_nodes(net.subgraph(clients), {k: place for place, k in enumerate(clients)})
    matrix = graph.MIXINGS[mixing](nx.from_numpy_array(nx.to_numpy_array(near, nodelist=range(len(clients)))))
    for name in ("w", "b"):
        stacked = np.stack([row[name].numpy().ravel() for row in before])
        result = np.stack([row[name].numpy().ravel() for row in mixed])
        np.testing.assert_allclose(result, matrix @ stacked, rtol=0, atol=1e-12)
    assert [row["counter"].item() for row in mixed] == [10 + k for k in clients], "one's own"
    assert all(same(row, kept) for row, kept in zip(there, before, strict=True)), "nothing is changed in place"
    ways = sides(edge for edge in net.edges if set(edge) <= set(clients))
    assert sorted((j, k) for _, j, k, _ in wire.messages) == sorted(ways), "each way once, and neighbours alone"
    assert {kind for kind, *_ in wire.messages} <= {"weights"}
    now = dict(zip(clients, there, strict=True))
    for _, j, k, row in wire.messages:
        assert same(row, now[j]), "what the sender has by then"
        if mixing == "reference":
            now[k] = {**{name: (now[k][name] + row[name]) / 2 for name in ("w", "b")}, "counter": now[k]["counter"]}
    nbytes = {k: ((12 + 5) * 8 + 8) * sum(j == k for j, _ in ways) for k in clients}
    counted = wire.collect()
    assert counted.get(("between", "weights"), {}) == {k: n for k, n in nbytes.items() if n}
    assert len(counted) == (len(ways) > 0)


def test_where_the_wire_is_cut_a_client_is_left_with_its_own_part():
    rows, net = drawn_rows(5), net_of()
    for mixing in ("uniform", "metropolis"):
        federation = SimpleNamespace(wire=CutWire(), drawn=lambda: range(5))
        mixed = graph.mix(federation, range(5), rows, net.edges, request(mixing=mixing))
        matrix = graph.MIXINGS[mixing](net)
        for k in range(5):
            torch.testing.assert_close(mixed[k]["w"], matrix[k, k] * rows[k]["w"])


def test_the_clients_of_a_round_mix_among_themselves_and_the_absent_keep_their_models():
    wire = Heard()
    federation, flags = five(participation=0.6, wire=wire), request(topology="full", share_ratio=0.0)
    previous, recorded = [federation.initial()] * 5, set()
    for state, done in rounds_of(federation, flags, 4):
        assert len(done.clients) == len(done.local_weights) == 3
        result, ways = rows_of(done), sides(itertools.combinations(done.clients, 2))
        assert {(j, k) for _, j, k, _ in wire.messages} == ways
        assert len(wire.messages) == 6
        wire.messages.clear()
        mean = {name: sum(row[name] for row in done.local_weights) / 3 for name in previous[0]}
        for k in range(5):
            assert same(result[k], state["weights"][k])
            if k in done.clients:
                close(result[k], mean)
            else:
                assert same(result[k], previous[k])
        previous, recorded = result, recorded | set(done.clients)
    assert len(recorded) == 5


@pytest.mark.parametrize("mixing", graph.MIXINGS)
def test_neighbours_on_the_tree_and_nobody_else_send_weights_in_every_round(mixing):
    wire = Heard()
    federation, flags = five(wire=wire), request(mixing=mixing, share_ratio=0.0)
    n_parameters = sum(tensor.numel() for tensor in federation.initial().values())
    for _, done in rounds_of(federation, flags, 2):
        assert {(j, k) for _, j, k, _ in wire.messages} == sides(net_of().edges)
        crossed = wire.collect()
        assert crossed == {("between", "weights"): {k: n * n_parameters * 8 for k, n in enumerate([3, 1, 2, 1, 1])}}
        wire.messages.clear()
        matrix = graph.MIXINGS[mixing](net_of())
        for name in done.local_weights[0]:
            stacked = torch.stack([row[name] for row in done.local_weights])
            expected = torch.einsum("kj,j...->k...", torch.from_numpy(matrix), stacked)
            result = torch.stack([row[name] for row in rows_of(done)])
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
        assert list(done.models) == ["personal"]


def test_a_round_begins_where_mixing_ended(monkeypatch):
    federation, flags, recorded, inner = five(), request(batch_size=60, share_ratio=0.0), [], data_exchange.loss

    def watchful(model, batch, context, options):
        recorded.append(weights_of(lambda _: model))
        return inner(model, batch, context, options)

    monkeypatch.setattr(data_exchange, "loss", watchful)
    expected = [federation.initial()] * 5
    for _, done in rounds_of(federation, flags, 3):
        assert all(same(*rows) for rows in zip(recorded, expected, strict=True))
        expected = rows_of(done)
        recorded.clear()


# --- equal to what is known ---


@pytest.mark.parametrize("mixing", ["uniform", "metropolis"])
def test_on_a_full_graph_it_is_fedavg_of_equal_shares(mixing):
    equal, flags = [range(12 * k, 12 * k + 12) for k in range(5)], {"momentum": 0.5, "epoch_per_round": 2}
    rounds = rounds_of(five(shares=equal), request(topology="full", mixing=mixing, share_ratio=0.0, **flags), 3)
    expected = rounds_of(five(shares=equal), request(name="fedavg", **flags), 3)
    for (_, done), (_, as_fedavg) in zip(rounds, expected, strict=True):
        server = weights_of(as_fedavg.models["global"])
        for row in rows_of(done):
            close(row, server)
        torch.testing.assert_close(done.loss, as_fedavg.loss, rtol=1e-9, atol=0)


def test_a_parameter_server_averages_without_weights_and_is_asked_after_the_last_average():
    federation, flags = five(wire=Heard()), request(aggr_model="ps", share_ratio=0.0)
    n_bytes = 8 * sum(tensor.numel() for tensor in federation.initial().values())
    answers = []
    for state, done in rounds_of(federation, flags, 3):
        mean = {name: sum(row[name] for row in done.local_weights) / 5 for name in done.local_weights[0]}
        assert list(done.models) == ["global"]
        answers.append(weights_of(done.models["global"]))
        close(answers[-1], mean)
        assert same(answers[-1], state["server"])
        everyone = dict.fromkeys(range(5), n_bytes)
        assert federation.wire.collect() == {("down", "weights"): everyone, ("up", "weights"): everyone}
    sizes = [len(share) for share in SHARES]
    weighted = sum(n * row["classifier.bias"] for n, row in zip(sizes, done.local_weights, strict=True)) / sum(sizes)
    assert not torch.allclose(answers[-1]["classifier.bias"], weighted, rtol=0, atol=1e-9)
    assert federation.wire.messages == [], "nothing passes between clients"


def test_with_equal_shares_a_parameter_server_is_fedavg():
    equal = [range(12 * k, 12 * k + 12) for k in range(5)]
    item, other = (five(shares=equal, participation=0.6) for _ in range(2))
    rounds = rounds_of(item, request(aggr_model="ps", share_ratio=0.0, momentum=0.5), 3)
    expected = rounds_of(other, request(name="fedavg", momentum=0.5), 3)
    for (_, done), (_, as_fedavg) in zip(rounds, expected, strict=True):
        assert list(done.clients) == list(as_fedavg.clients)
        close(weights_of(done.models["global"]), weights_of(as_fedavg.models["global"]))


@pytest.mark.parametrize("topology", ["tree", "random"])
def test_dpsgd_is_data_exchange_without_an_exchange_and_with_metropolis_to_the_last_bit(topology):
    flags = {"topology": topology, "momentum": 0.5, "epoch_per_round": 2}
    item, other = (five(participation=0.8, dtype=torch.float32, model="CNN4") for _ in range(2))
    rounds = rounds_of(item, request(name="dpsgd", **flags), 3)
    expected = rounds_of(other, request(share_ratio=0.0, mixing="metropolis", **flags), 3)
    for (state, done), (as_state, as_done) in zip(rounds, expected, strict=True):
        assert all(same(*rows) for rows in zip(state["weights"], as_state["weights"], strict=True))
        assert torch.equal(done.loss, as_done.loss)
        assert list(done.models) == list(as_done.models) == ["personal"]
        assert done.metrics == as_done.metrics
        crossed = item.wire.collect()
        assert crossed == other.wire.collect()
        assert list(crossed) == [("between", "weights")], "no image moves"
    assert all(torch.equal(*rows) for rows in zip(state["shares"], item.shares, strict=True))


def test_one_client_alone_exchanges_and_mixes_with_nobody():
    for flags in (request(1), request(1, mixing="reference"), request(1, name="dpsgd"), request(1, aggr_model="ps")):
        _, done = play(five(shares=[range(20)]), flags, 2)
        assert same(weights_of(next(iter(done.models.values()))), done.local_weights[0])
        assert done.metrics["exchange_kl"] == done.metrics["images_left"] == {0: 0.0}
        assert done.metrics["holders"] == {0: 1.0}
        assert done.metrics.get("spectral_gap", 1.0) == 1.0


# --- the exchange ---


def exchanged(ratio=0.5, topology="tree", federation=None, **flags):
    """(federation, graph, edges, {edge: the images sent over it}, shares after)."""
    federation = federation or five(wire=Heard())
    net = net_of(len(federation.clients), topology, **flags)
    edges, sent, after = exchange.send(federation, net, ratio)
    return federation, net, edges, {edge: rows.tolist() for edge, rows in zip(edges, sent, strict=True)}, after


@pytest.mark.parametrize("ratio", [0.1, 0.29, 0.5, 1.0])
def test_every_neighbour_is_sent_its_part_of_distinct_images_of_the_senders_own(ratio):
    federation, net, edges, sent, _ = exchanged(ratio)
    assert sorted(edges) == sorted(sides(net.edges))
    assert len(set(edges)) == len(edges)
    for (i, _), images in sent.items():
        assert len(images) == len(set(images)) == int(ratio * len(SHARES[i]) + 1e-9)
        assert set(images) <= set(SHARES[i])
    assert [(kind, i, j) for kind, i, j, _ in federation.wire.messages] == [("images", *edge) for edge in edges]
    assert all(row.indices.tolist() == sent[i, j] for _, i, j, row in federation.wire.messages)


def test_twenty_nine_hundredths_of_a_hundred_are_twenty_nine():
    data = tiny_data(n_train=100)
    _, _, _, sent, _ = exchanged(0.29, federation=tiny_federation(data, [range(100), range(100)], "MLP"))
    assert {len(images) for images in sent.values()} == {29}


def test_draws_differ_between_neighbours_directions_and_seeds():
    everything = [range(60)] * 5
    _, _, _, sent, _ = exchanged(0.5, "full", five(shares=everything))
    _, _, _, other, _ = exchanged(0.5, "full", five(shares=everything, seed=1))
    draws = [tuple(sorted(images)) for images in (*sent.values(), *other.values())]
    assert len(set(draws)) == 2 * 20
    counted = np.bincount(np.concatenate(list(sent.values())), minlength=60)
    assert counted.max() - counted.min() < 20, "anything may be drawn"
    assert counted.min() > 0


def test_what_a_neighbour_is_sent_is_the_same_whatever_else_runs():
    _, _, edges, sent, _ = exchanged(0.5)
    federation = five(wire=Heard(), participation=0.4, threads=2, model="LeNet5", dtype=torch.float32)
    torch.rand(3), federation.stream("batches", 0).random(5), federation.initial()
    _, _, _, others, _ = exchanged(0.5, "full", federation)
    assert all(others[edge] == sent[edge] for edge in edges)
    _, _, _, again, _ = exchanged(0.5, "ring", federation)
    assert all(again[edge] == others[edge] for edge in again)
    other_shares = [*SHARES[:4], range(43, 50)]
    _, _, _, fewer, _ = exchanged(0.5, federation=five(shares=other_shares))
    assert all(fewer[edge] == sent[edge] for edge in edges if edge[0] != 4)


def test_images_arrive_once_and_are_not_sent_on():
    federation, net, edges, sent, after = exchanged(0.5)
    for k, share in enumerate(after):
        got = [sent[edge] for edge in edges if edge[1] == k]
        assert share.tolist() == sorted({*SHARES[k], *itertools.chain(*got)})
    assert not set(after[4].tolist()) & {*SHARES[0], *SHARES[1], *SHARES[3]}, "two and three steps away"
    assert len(set(after[4].tolist()) & set(SHARES[2])) == 6


def test_an_image_that_two_clients_have_is_held_once():
    shares = [range(20), range(10, 30), range(40)]
    *_, after = exchanged(1.0, "full", five(shares=shares))
    assert [share.tolist() for share in after] == [list(range(40))] * 3
    *_, after = exchanged(0.5, "full", five(shares=shares))
    assert all(len(share) == len(set(share.tolist())) for share in after)


def test_sharing_all_gives_the_union_of_the_closed_neighbourhood():
    _, net, _, _, after = exchanged(1.0)
    for k, share in enumerate(after):
        assert share.tolist() == sorted(itertools.chain(SHARES[k], *(SHARES[j] for j in net[k])))


def test_the_bytes_are_those_of_images_and_labels_counted_at_the_sender():
    federation, net, *_ = exchanged(0.5)
    expected = {k: net.degree(k) * (len(SHARES[k]) // 2) * IMAGE for k in range(5)}
    assert federation.wire.collect() == {("between", "images"): expected}


def test_sharing_none_sends_nothing_at_all():
    federation, _, _, sent, after = exchanged(0.0)
    assert federation.wire.messages == []
    assert federation.wire.collect() == {}
    assert set(map(len, sent.values())) == {0}
    assert all(torch.equal(*shares) for shares in zip(after, federation.shares, strict=True))


def test_where_the_wire_is_cut_everyone_is_left_with_its_own():
    *_, after = exchanged(1.0, federation=five(wire=CutWire()))
    assert [share.tolist() for share in after] == [list(share) for share in SHARES]


@pytest.mark.parametrize("aggr_model", ["de", "ps"])
def test_clients_train_on_what_they_have_after_the_exchange_which_happens_once(aggr_model):
    federation, flags = five(wire=Heard()), request(share_ratio=1.0, aggr_model=aggr_model, batch_size=60)
    *_, after = exchanged(1.0)
    module = algorithms.module_of(flags)
    state = module.start(federation, flags)
    assert list(federation.wire.collect()) == [("between", "images")]
    for r in (1, 2):
        federation.meter.spent.clear()
        done = module.communicate(federation.at(r), state, flags)
        results = {k: n for (what, _, k), n in federation.meter.spent.items() if what == "samples"}
        assert results == {k: len(share) for k, share in enumerate(after)}
        assert ("between", "images") not in federation.wire.collect()
    assert [share.tolist() for share in federation.shares] == [list(share) for share in SHARES], "the split stays"
    as_if = five(shares=[share.tolist() for share in after])
    _, expected = play(as_if, request(share_ratio=0.0, aggr_model=aggr_model, batch_size=60), 2)
    torch.testing.assert_close(done.loss, expected.loss, rtol=0, atol=0)


# --- what has left ---


def intensity(data, indices):
    """P(S), pixel by pixel."""
    images = data.x[list(map(int, indices))].double()
    _, _, height, width = images.shape
    total = float(images.sum())
    return [[sum(float(image[0, r, c]) for image in images) / total for c in range(width)] for r in range(height)]


def slow_kl(data, sent, after):
    """sum over pixels of (P + eps) ln((P + eps) / (Q + eps))."""
    p, q, result = intensity(data, sent), intensity(data, after), 0.0
    for row, other in zip(p, q, strict=True):
        for a, b in zip(row, other, strict=True):
            result += (a + 1e-5) * math.log((a + 1e-5) / (b + 1e-5))
    return result


def told_of(federation, ratio, topology="tree"):
    federation, net, edges, sent, after = exchanged(ratio, topology, federation)
    rows = [torch.tensor(sent[edge], dtype=torch.int64) for edge in edges]
    return exchange.leakage(federation, edges, rows, after, ratio)[1], sent, after


@pytest.mark.parametrize(("ratio", "topology"), [(0.5, "tree"), (0.3, "full"), (1.0, "ring")])
def test_exchange_kl_is_the_formula_in_a_loop_over_pixels(ratio, topology):
    federation = five(data=tiny_data(size=5, n_classes=5), dtype=torch.float32)
    result, sent, after = told_of(federation, ratio, topology)
    expected = dict.fromkeys(range(5), 0.0)
    for (i, j), images in sent.items():
        expected[i] += ratio * slow_kl(federation.data, images, after[j])
    assert result["exchange_kl"] == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert result["exchange_kl"] == pytest.approx(expected, abs=1e-12, rel=1e-9), "it is computed in float64"
    assert result["exchange_kl_sum"] == pytest.approx(sum(expected.values()), rel=1e-9)
    assert min(expected.values()) > 0


def test_exchange_kl_is_nothing_where_all_is_sent_to_one_that_has_the_same():
    """The weakness of the figure: everything has left, and it is 0."""
    result, *_ = told_of(five(shares=[range(30), range(30)]), 1.0)
    assert result["exchange_kl"] == pytest.approx({0: 0, 1: 0}, abs=1e-12)
    assert result["exchange_kl_sum"] == pytest.approx(0, abs=1e-12)
    assert result["images_left"] == {0: 1.0, 1: 1.0}
    assert result["holders"] == {0: 2.0, 1: 2.0}


def test_nothing_is_told_of_an_exchange_that_is_none():
    for ratio in (0.0, 0.01):  # of none of at most 17 images
        result, *_ = told_of(five(), ratio)
        nothing = dict.fromkeys(range(5), 0.0)
        assert result == {
            **{"exchange_kl": nothing, "exchange_kl_sum": 0.0, "images_left": nothing},
            "holders": dict.fromkeys(range(5), 1.0),
        }


@pytest.mark.parametrize("shares", [SHARES, [range(20), range(10, 30), range(25, 45), range(45, 60), range(60)]])
def test_images_left_and_holders_are_counted_by_hand(shares):
    result, sent, after = told_of(five(shares=shares), 0.5)
    held = [set(share.tolist()) for share in after]
    for k, own in enumerate(shares):
        gone = set().union(*(images for (i, _), images in sent.items() if i == k))
        assert result["images_left"][k] == len(gone) / len(own)
        assert result["holders"][k] == pytest.approx(sum(image in share for image in own for share in held) / len(own))
    assert len(set(result["images_left"].values())) > 1


def test_maps_are_the_intensities_before_of_all_that_was_sent_and_after():
    federation = five(data=tiny_data(size=5), shares=SHARES[:3])
    federation, _, edges, sent, after = exchanged(0.7, "star", federation)
    rows = [torch.tensor(sent[edge], dtype=torch.int64) for edge in edges]
    result, _ = exchange.leakage(federation, edges, rows, after, 0.5)
    assert len(result) == 3
    assert set(sent[0, 1]) & set(sent[0, 2]), "an image sent twice counts once"
    for k, (before, gone, afterwards) in enumerate(result):
        assert before.dtype == federation.dtype
        every = sorted(set(itertools.chain(*(images for (i, _), images in sent.items() if i == k))))
        for item, indices in ((before, SHARES[k]), (gone, every), (afterwards, after[k])):
            torch.testing.assert_close(item[0], torch.tensor(intensity(federation.data, indices), dtype=torch.float64))
    federation, _, edges, sent, after = exchanged(0.0, "star", federation)
    none, _ = exchange.leakage(federation, edges, [torch.zeros(0, dtype=torch.int64)] * len(edges), after, 0.0)
    for (before, gone, afterwards), (expected, *_) in zip(none, result, strict=True):
        assert torch.equal(gone, torch.zeros_like(gone))
        assert torch.equal(before, afterwards)
        assert torch.equal(before, expected)


@cache
def blocks_of(digit_num):
    """MNIST in the authors' blocks."""
    flags = parse(f"data_exchange --partition reference_blocks --digit_num {digit_num} --threads 1 --device cpu")
    return experiment.federation_of(experiment.prepare(flags, Launch(data_dir=ROOT / "data")))


@needs_mnist
@pytest.mark.parametrize(("ratio", "digit_num"), PUBLISHED)
def test_the_sums_on_mnist_are_those_that_the_authors_plot(ratio, digit_num):
    federation = blocks_of(digit_num)
    edges, sent, after = exchange.send(federation, net_of(), ratio)
    _, result = exchange.leakage(federation, edges, sent, after, ratio)
    published = PUBLISHED[ratio, digit_num]
    assert abs(result["exchange_kl_sum"] - published) < max(0.1 * published, 0.01)
    assert [len(images) for images in sent] == [int(ratio * 6000 * digit_num)] * 8


# --- the history ---


def ran(name, folder, **flags):
    quick = {"rounds": 2, "reduced": 0.3, "model": ("MLP",), "threads": 1, "dataset": "digits", "digit_num": 3, **flags}
    asked_for = CLASSES[name](algorithm=name, **quick)
    return experiment.run(experiment.prepare(asked_for, Launch(export_dir=folder)))


def test_the_history_has_the_columns_of_what_was_exchanged_and_of_the_graph(tmp_path):
    done = ran("data_exchange", tmp_path, share_ratio=0.5)
    last, clients = done.rounds.iloc[-1], done.clients[done.clients["round"] == 2]
    assert list(clients["client"]) == [0, 1, 2, 3, 4]
    for column in ("exchange_kl", "images_left", "holders"):
        assert np.isfinite(clients[column]).all()
    assert last["exchange_kl_sum"] == pytest.approx(clients["exchange_kl"].sum())
    assert last["spectral_gap"] == pytest.approx(graph.spectral_gap(graph.uniform(net_of())))
    assert list(clients["images_left"] > 0.49) == [True] * 5
    assert clients["holders"].min() > 1
    assert "component" not in done.history
    first = done.clients[done.clients["round"] == 0]
    assert (first["bytes_between:images"] > 0).all()
    assert done.rounds["bytes_between:images"].iloc[1:].fillna(0).eq(0).all()
    assert np.isfinite(clients[["global_accuracy", "personal_accuracy"]]).all().all()


def test_the_history_of_parts_says_who_is_in_which_and_a_parameter_servers_has_no_gap(tmp_path):
    (tmp_path / "edges").write_text("0 1\n2 3\n3 4\n")
    flags = {"topology": "file", "topology_file": tmp_path / "edges", "allow_disconnected": True}
    clients = ran("dpsgd", tmp_path, **flags, rounds=1).clients
    assert list(clients[clients["round"] == 1]["component"]) == [0, 0, 2, 2, 2]
    done = ran("data_exchange", tmp_path, aggr_model="ps", rounds=1)
    assert "spectral_gap" not in done.history
    assert done.rounds["exchange_kl_sum"].iloc[-1] > 0


def test_a_graph_of_several_parts_is_refused_before_a_run_begins(tmp_path):
    (tmp_path / "edges").write_text("0 1\n2 3\n3 4\n")
    flags = {"topology": "file", "topology_file": tmp_path / "edges", "reduced": 0.3, "dataset": "digits"}
    for name in ("data_exchange", "dpsgd"):
        result = CLASSES[name](algorithm=name, model=("MLP",), **flags)
        line = line_of(experiment.prepare, result, Launch(export_dir=tmp_path / "saves"))
        assert line.startswith("--topology file: the graph has 2 separate components")


def test_the_personal_test_share_stays_ones_own_whatever_is_exchanged(tmp_path):
    """With a network that does not train, so that models are alike, personal accuracy is that of the split's own share."""
    flags = {"lr": 1e-30, "momentum": 0.0, "rounds": 1}
    item, other = (ran("data_exchange", tmp_path, share_ratio=ratio, **flags).clients for ratio in (0.0, 1.0))
    for result in (item, other):
        assert result["personal_accuracy"].notna().any()
    assert list(item["personal_accuracy"].dropna()) == list(other["personal_accuracy"].dropna())


def test_a_run_is_named_by_the_edges_in_its_file(tmp_path, edge_list):
    results = []
    for text in ("0 1\n1 2\n2 3\n3 4\n", "0 1\n0 2\n0 3\n0 4\n"):
        flags = {"reduced": 0.3, "dataset": "digits", "model": ("MLP",), **edge_list(text)}
        asked_for = CLASSES["dpsgd"](algorithm="dpsgd", **flags)
        results.append(experiment.prepare(asked_for, Launch(export_dir=tmp_path / "saves")).folder)
    assert results[0] != results[1]


@pytest.mark.parametrize("name", ["data_exchange", "dpsgd"])
def test_a_run_is_named_by_the_code_of_its_graph_and_exchange(name):
    sources = identity._sources(options_for(name))
    for module in (graph, exchange, data_exchange):
        with open(module.__file__) as file:  # noqa: PTH123
            assert file.read() in sources


# --- flags ---


def test_the_command_of_the_authors_is_understood():
    run = parse("data_exchange --digit_num 3 --share_ratio 0.1 --aggr_model de --model cnn --epochs 50 --gpu 0")
    assert (run.digit_num, run.share_ratio, run.aggr_model, run.model, run.rounds) == (3, 0.1, "de", ("CNNMnist",), 50)
    assert run.device == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert parse("data_exchange --iid").partition == "iid"
    run = parse("data_exchange --num_users 7 --local_ep 4 --local_bs 32 --comm_round 9")
    assert (run.n_clients, run.epoch_per_round, run.batch_size, run.rounds) == (7, 4, 32, 9)
    assert [parse(f"data_exchange --{name} 6").rounds for name in ("rounds", "global_epoch")] == [6, 6]


@pytest.mark.parametrize("name", ["data_exchange", "dpsgd"])
def test_the_authors_mlp_has_dropout(name):
    assert parse(f"{name} --model mlp").model == ("MLP_dropout",)


@pytest.mark.parametrize("name", ["data_exchange", "dpsgd"])
def test_the_defaults_are_the_authors(name):
    run = parse(name)
    assert (run.dataset, run.n_clients, run.partition, run.digit_num) == ("MNIST", 5, "digit_sets", 3)
    assert (run.rounds, run.epoch_per_round, run.batch_size, run.model) == (5, 3, 64, ("MLP_dropout",))
    assert (run.optimizer, run.lr, run.momentum) == ("sgd", 0.01, 0.5)
    assert (run.topology, run.aggr_model) == ("tree", "de")
    assert run.mixing == {"data_exchange": "uniform", "dpsgd": "metropolis"}[name]
    assert name == "dpsgd" or run.share_ratio == 0.1


@pytest.mark.parametrize("name", ["data_exchange", "dpsgd"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--topology_file edges", "--topology_file edges: applies only with --topology file"),
        ("--topology star --topology_file edges", "--topology_file edges: applies only with --topology file"),
        ("--edge_probability 0.5", "--edge_probability 0.5: applies only with --topology random"),
        ("--topology random --edge_probability 1.1", "--edge_probability 1.1: must be"),
        ("--topology cube", "--topology cube: must be one of tree, ring, star, full, grid, random, file"),
    ],
)
def test_a_flag_of_another_graph_is_one_line(name, flags, words):
    assert line_of(parse, f"{name} {flags}").startswith(words)


def test_mixing_is_for_neighbours_alone_and_the_exchange_for_data_exchange_alone():
    for mixing in graph.MIXINGS:
        line = line_of(parse, f"data_exchange --aggr_model ps --mixing {mixing}")
        assert line.startswith(f"--mixing {mixing}: applies only with --aggr_model de")
    for flag in ("share_ratio 0.5", "aggr_model de", "mixing uniform"):
        assert line_of(parse, f"dpsgd --{flag}").startswith(f"--{flag.split()[0]}: not a flag of these methods")
    assert not {"share_ratio", "aggr_model", "mixing"} & flags_of(CLASSES["dpsgd"]).keys()
    for ratio in ("-0.1", "1.1"):
        assert line_of(parse, f"data_exchange --share_ratio {ratio}").startswith(f"--share_ratio {ratio}: must be")


def test_the_help_says_which_mixing_converges_to_the_plain_average(capsys):
    with pytest.raises(SystemExit):
        parse("data_exchange --help")
    output = " ".join(capsys.readouterr().out.split())
    assert "metropolis converges to the plain average of all models" in output


def test_the_stream_of_an_edge_is_named_by_its_ends():
    """So that a draw is one of (seed, sender, receiver) alone."""
    _, _, _, sent, _ = exchanged(0.5, federation=five(seed=3))
    for (i, j), images in sent.items():
        order = generator(3, "client", f"exchange with {j}", 0, i).permutation(len(SHARES[i]))
        assert images == [SHARES[i][p] for p in order[: len(SHARES[i]) // 2]]
