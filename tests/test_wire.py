"""The wire counts every byte that crosses it, where it crossed, and changes nothing."""

import pytest
import torch
from conftest import tiny_data, tiny_federation
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.wire import Examples, Rows, Wire, leaves, weigh

ELEMENT_BYTES = {
    torch.float64: 8,
    torch.int64: 8,
    torch.float32: 4,
    torch.int32: 4,
    torch.float16: 2,
    torch.bfloat16: 2,
    torch.uint8: 1,
    torch.bool: 1,
}


@st.composite
def weighed_leaves(draw):
    """(a tensor or examples, its bytes counted by hand)."""
    if draw(st.integers(0, 4)) == 0:
        nbytes = draw(st.integers(0, 1000))
        return Examples(torch.arange(3), nbytes), nbytes
    shape = draw(st.lists(st.integers(0, 4), max_size=3))  # [] is a scalar: one element
    dtype = draw(st.sampled_from(list(ELEMENT_BYTES)))
    elements = 1
    for side in shape:
        elements *= side
    return torch.zeros(shape, dtype=dtype), elements * ELEMENT_BYTES[dtype]


def weighed_branches(children):
    lists = st.lists(children, max_size=4)
    dicts = st.dictionaries(st.text(max_size=3), children, max_size=4)
    return st.one_of(
        lists.map(lambda pairs: ([tree for tree, _ in pairs], sum(n for _, n in pairs))),
        lists.map(lambda pairs: (tuple(tree for tree, _ in pairs), sum(n for _, n in pairs))),
        dicts.map(lambda pairs: ({key: tree for key, (tree, _) in pairs.items()}, sum(n for _, n in pairs.values()))),
    )


@settings(deadline=None, max_examples=60)
@given(st.recursive(weighed_leaves(), weighed_branches, max_leaves=12))
def test_a_tree_weighs_the_sum_of_its_leaves(weighed):
    tree, nbytes = weighed
    assert weigh(tree) == nbytes


def test_a_tree_weighs_what_a_hand_counts():
    tree = {
        "means": torch.zeros(3, 4),  # 12 floats of 4 bytes
        "counts": [torch.zeros(5, dtype=torch.int64), torch.tensor(7)],  # 5 and 1 of 8 bytes
        "held": (torch.ones(9, dtype=torch.bool),),  # a byte each
        "images": torch.zeros(2, 1, 3, 3, dtype=torch.uint8),  # 18 of one byte
        "nothing": {},
    }
    assert weigh(tree) == 12 * 4 + 6 * 8 + 9 + 18


def test_a_view_weighs_its_own_elements_not_the_memory_it_looks_into():
    whole = torch.zeros(10, 8)
    assert weigh(whole[:, ::2]) == 40 * 4
    assert weigh(whole[3]) == 8 * 4
    assert weigh(torch.zeros(1).expand(6)) == 6 * 4


def test_leaves_come_from_left_to_right():
    a, b, c, d = (torch.tensor(float(i)) for i in range(4))
    result = list(leaves({"second": [a, (b,)], "first": {"x": c}, "last": d}))
    assert [leaf.item() for leaf in result] == [0, 1, 2, 3]


def test_examples_weigh_their_images_and_labels():
    federation = tiny_federation(tiny_data(size=12))
    examples = federation.examples(torch.tensor([4, 8, 15]))
    assert examples.nbytes == 3 * (1 * 12 * 12 * 1 + 8)  # uint8 pixels, an int64 label
    federation.wire.up("examples", [examples], [1])
    assert federation.wire.collect() == {("up", "examples"): {1: 3 * (144 + 8)}}


def test_bytes_are_kept_by_direction_kind_and_client():
    wire = Wire()
    wire.up("weights", [torch.zeros(2), torch.zeros(3)], [0, 4])
    wire.up("n_k", [torch.tensor(1), torch.tensor(1)], [0, 4])
    wire.down("weights", [torch.zeros(5)], [4])
    wire.between("weights", [torch.zeros(7)], [(4, 0)])
    assert wire.collect() == {
        ("up", "weights"): {0: 2 * 4, 4: 3 * 4},
        ("up", "n_k"): {0: 8, 4: 8},
        ("down", "weights"): {4: 5 * 4},
        ("between", "weights"): {4: 7 * 4},
    }


def test_bytes_of_the_same_kind_add_up_until_they_are_collected():
    wire = Wire()
    wire.up("weights", [torch.zeros(2)], [3])
    wire.up("weights", [torch.zeros(5)], [3])
    wire.up("weights", [torch.zeros(1), torch.zeros(1)], [3, 3])
    assert wire.collect() == {("up", "weights"): {3: (2 + 5 + 1 + 1) * 4}}
    assert wire.collect() == {}
    wire.up("weights", [torch.zeros(1)], [3])
    assert wire.collect() == {("up", "weights"): {3: 4}}


def test_what_was_collected_does_not_change_afterwards():
    wire = Wire()
    wire.up("weights", [torch.zeros(2)], [0])
    collected = wire.collect()
    wire.up("weights", [torch.zeros(2)], [0])
    assert collected == {("up", "weights"): {0: 8}}


def test_a_broadcast_is_counted_once_for_every_client():
    wire, tree = Wire(), {"a": torch.zeros(10)}
    received = wire.broadcast("weights", tree, [1, 5, 6])
    assert wire.collect() == {("down", "weights"): {1: 40, 5: 40, 6: 40}}
    assert len(received) == 3
    assert all(row is tree for row in received)


def test_a_broadcast_to_nobody_is_free():
    wire = Wire()
    assert wire.broadcast("weights", torch.zeros(10), []) == []
    assert wire.collect() == {}


def test_what_passes_between_clients_is_counted_at_the_sender():
    wire = Wire()
    wire.between("model", [torch.zeros(1), torch.zeros(2), torch.zeros(4)], [(0, 1), (0, 2), (2, 0)])
    assert wire.collect() == {("between", "model"): {0: (1 + 2) * 4, 2: 4 * 4}}


@pytest.mark.parametrize("verb", ["up", "down", "between"])
def test_the_very_same_tensors_arrive_in_the_order_of_the_rows(verb):
    rows = [{"w": torch.zeros(2), "more": [torch.ones(1)]}, torch.zeros(3), Examples(torch.arange(2), 10)]
    addresses = [(2, 0), (0, 1), (1, 2)] if verb == "between" else [2, 0, 1]
    received = getattr(Wire(), verb)("weights", rows, addresses)
    assert len(received) == 3
    assert all(got is sent for got, sent in zip(received, rows, strict=True))


@pytest.mark.parametrize("verb", ["up", "down", "between"])
@pytest.mark.parametrize("n_rows", [0, 1, 3])
def test_rows_and_clients_of_different_number_are_an_error(verb, n_rows):
    addresses = [(0, 1), (1, 0)] if verb == "between" else [0, 1]
    with pytest.raises(ValueError, match="argument"):
        getattr(Wire(), verb)("weights", [torch.zeros(1)] * n_rows, addresses)


def test_clients_named_by_numpy_or_torch_are_the_same_clients():
    wire = Wire()
    wire.up("weights", [torch.zeros(1)], [3])
    wire.up("weights", [torch.zeros(1)], torch.tensor([3]))
    wire.up("weights", [torch.zeros(1)], torch.tensor([3]).numpy())
    collected = wire.collect()
    assert collected == {("up", "weights"): {3: 3 * 4}}
    assert all(type(client) is int and type(n) is int for row in collected.values() for client, n in row.items())


# --- compressed ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "nbytes", "error"), [("fp16", 2 * 300, 2**-11), ("int8", 300 + 4, None)])
def test_what_arrives_is_what_was_sent_rounded_and_its_bytes_are_those_sent(name, nbytes, error, dtype):
    x = torch.randn(3, 100, dtype=dtype, generator=torch.Generator().manual_seed(0))
    wire = Wire(name)
    (arrived,) = wire.up("weights", [x], [0])
    assert wire.collect() == {("up", "weights"): {0: nbytes}}
    assert arrived.dtype == dtype
    bound = x.abs() * error if error else x.abs().max() / 127 / 2 * (1 + 1e-6)
    assert ((arrived - x).abs() <= bound).all()
    assert not torch.equal(arrived, x)
    (again,) = wire.up("weights", [arrived], [0])
    assert (again - arrived).abs().max() <= 1e-6 * x.abs().max(), "what is rounded already stays"


def test_int8_has_255_steps_and_0_stays_0():
    (arrived,) = Wire("int8").up("weights", [torch.linspace(-3, 3, 100_001)], [0])
    assert len(arrived.unique()) == 255
    assert arrived[50_000] == 0
    for still in (torch.zeros(5), torch.zeros(0), torch.tensor(2.5)):
        assert torch.equal(Wire("int8").up("weights", [still], [0])[0], still)


def test_half_precision_keeps_to_its_largest_number():
    (arrived,) = Wire("fp16").up("weights", [torch.tensor([1e9, -1e9, 2.0])], [0])
    assert arrived.tolist() == [65504, -65504, 2]


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_counts_labels_examples_and_single_numbers_are_sent_exactly(name):
    single = [torch.tensor(2051.3, dtype=torch.float64), torch.tensor(1e6 + 1)]
    wire, row = Wire(name), [torch.arange(3), torch.tensor([True]), Examples(torch.arange(2), 99), {"a": torch.tensor(7)}]
    row += single
    (arrived,) = wire.up("other", [row], [0])
    assert weigh(arrived) == weigh(row) == wire.collect()["up", "other"][0]
    assert all(item is other for item, other in zip(leaves(arrived), leaves(row), strict=True))


def test_rows_and_trees_are_packed_within():
    wire, tree = Wire("fp16"), {"a": Rows(torch.full((4, 2), 0.1)), "b": [torch.ones(3), (torch.ones(5),)]}
    for arrived in wire.broadcast("maps", tree, [0, 2]):
        assert isinstance(arrived["a"], Rows)
        assert torch.equal(arrived["a"].tensor, torch.full((4, 2), 0.1).half().float())
        assert type(arrived["b"][1]) is tuple
    assert wire.collect() == {("down", "maps"): {0: 2 * (8 + 3 + 5), 2: 2 * (8 + 3 + 5)}}


def test_without_compression_the_very_tensors_arrive():
    x = torch.randn(5)
    assert Wire().up("weights", [x], [0])[0] is x
    assert Wire("none").up("weights", [x], [0])[0] is x
