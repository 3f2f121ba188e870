"""FedDF: the averages of fedavg, which then learn from the mean logits of all models that were sent."""

import pytest
from conftest import CutWire, away, options_for, play, public_federation, tiny_data, weights_of, with_public

from algorithms import feddf
from options import flags_of

ONE_BATCH = {"distill_batch_size": 12}  # all public images of the tiny data in one batch


def test_several_architectures_are_answered_by_each_clients_own_and_one_by_one_for_all():
    mixed, alike = public_federation(model=("MLP", "LeNet5")), public_federation()
    state, done = play(mixed, options_for("feddf"))
    assert list(done.models) == ["personal"]
    assert all(away(weights_of(done.models["personal"], k), state["server"][k % 2]) == 0 for k in mixed.clients)
    assert list(play(alike, options_for("feddf"))[1].models) == ["global"]


def test_a_client_of_an_architecture_starts_from_its_average():
    """Two rounds: what is sent down in the second is the fused model of the client's own architecture."""
    federation, recorded = public_federation(model=("MLP", "LeNet5")), []
    carry = federation.wire.down
    federation.wire.down = lambda kind, rows, clients: recorded.append(rows) or carry(kind, rows, clients)
    options = options_for("feddf")
    state = feddf.start(federation, options)
    feddf.communicate(federation.at(1), state, options)
    fused = list(state["server"])
    feddf.communicate(federation.at(2), state, options)
    assert [away(row, fused[k % 2]) for k, row in enumerate(recorded[1])] == [0, 0, 0]


def test_no_label_of_a_public_image_is_read_but_every_image_is():
    data, options = with_public(tiny_data()), options_for("feddf", **ONE_BATCH)
    expected = play(public_federation(data), options)[0]["server"][0]
    for change, moves in (("y", False), ("x", True)):
        changed = with_public(tiny_data())
        getattr(changed, change)[list(changed.public)] = 0
        assert (away(play(public_federation(changed), options)[0]["server"][0], expected) > 1e-6) == moves


def test_it_learns_from_what_arrives():
    """With the wire cut every teacher is a network of zeros, whose mean logits are even whatever the clients learnt."""
    options, states = options_for("feddf", distill_epochs=2), []
    for flipped in (False, True):
        data = with_public(tiny_data())
        if flipped:
            data.y[:60] = (data.y[:60] + 1) % 3
        states.append(play(public_federation(data, wire=CutWire()), options)[0]["server"][0])
    assert away(*states) == 0


@pytest.mark.parametrize(("batch_size", "steps", "taken"), [(5, 7, 9), (5, 9, 9), (4, 7, 9), (11, 2, 2), (5, 1, 6)])
def test_the_server_takes_at_least_so_many_steps_in_whole_passes(batch_size, steps, taken):
    """12 images: 3 steps a pass of 5 or 4, and 1 a pass of 11, where a left-over one joins; never under two passes."""
    federation = public_federation()
    play(federation, options_for("feddf", distill_steps=steps, distill_epochs=2, distill_batch_size=batch_size))
    assert federation.meter.spent["steps", "server", 0] == taken


def test_the_default_is_the_fewest_steps_of_the_authors_code_and_none_is_what_older_runs_did():
    flags = feddf.Options(algorithm="feddf")
    assert (flags.distill_steps, flags_of(feddf.Options)["distill_steps"]["legacy_value"]) == (1000, 0)


def test_the_steps_of_the_server_are_the_servers():
    federation = public_federation()
    play(federation, options_for("feddf", distill_epochs=2, distill_batch_size=5))
    spent = federation.meter.spent
    assert spent["steps", "server", 0] == 2 * 3  # 12 images in batches of 5
    assert spent["samples", "server", 0] == 2 * 12
    assert sum(spent["samples", "client", k] for k in federation.clients) == 60
    assert spent["flops", "server", 0] > 0
