"""With secure aggregation an attack sees the average of the clients, as the message of each."""

import pytest
import torch

from attacks.sums import averages
from federation.recording import Message, sums
from federation.wire import ALL, SERVER

ROWS = {0: torch.tensor([1.0, 3.0]), 2: torch.tensor([5.0, 7.0])}
N = {0: torch.tensor(10), 2: torch.tensor(30)}
DOWN = [Message(1, "down", "weights", SERVER, k, {"w": torch.zeros(2)}) for k in ROWS]


def up(kind, contents):
    return [Message(1, "up", kind, k, SERVER, content) for k, content in contents.items()]


@pytest.mark.parametrize(
    ("sent", "uploads", "expected"),
    [
        (
            up("weights", {k: {"w": row} for k, row in ROWS.items()}) + up("n_k", N),
            {"weights": "n_k", "n_k": ""},
            [4.0, 6.0],
        ),
        (up("weights", {k: {"w": row} for k, row in ROWS.items()}), {"weights": ""}, [3.0, 5.0]),
    ],
)
def test_each_client_of_the_round_has_the_average(sent, uploads, expected):
    received = averages(sums([*DOWN, *sent], uploads), uploads)
    weights = {message.sender: message.content["w"].tolist() for message in received if message.kind == "weights"}
    assert weights == {SERVER: [0.0, 0.0], 0: expected, 2: expected}
    assert {int(message.content) for message in received if message.kind == "n_k"} <= {20}
    assert not [message for message in received if message.sender == ALL]


def test_means_are_divided_by_the_counts_in_the_message_itself():
    counts = {0: torch.tensor([2, 0]), 2: torch.tensor([6, 0])}
    sent = up("prototypes", {k: {"means": ROWS[k].reshape(2, 1), "counts": counts[k]} for k in ROWS})
    received = averages(sums([*DOWN, *sent], {"prototypes": "counts"}), {"prototypes": "counts"})
    contents = [message.content for message in received if message.kind == "prototypes"]
    assert [content["means"].flatten().tolist() for content in contents] == [[4.0, 0.0]] * 2, "of 8 examples; none"
    assert [content["counts"].tolist() for content in contents] == [[4, 0]] * 2


def test_single_messages_stay_and_a_round_without_sums_too():
    messages = [*DOWN, *up("weights", {0: {"w": ROWS[0]}})]
    assert averages(messages, {"weights": ""}) == messages
