"""FedRep: what stays while the head is trained, and normalisation that is local."""

import pytest
import torch
from conftest import only, options_for, play, same, tiny_federation, weights_of
from oracles import HEAD


@pytest.mark.parametrize("model", ["CNN4", "MLP"])
def test_while_the_head_is_trained_the_body_keeps_its_bits_and_its_running_statistics(model):
    federation = tiny_federation(model=model)
    state, done = play(federation, options_for("fedrep", head_epochs=2, epoch_per_round=0))  # as if the body had none
    initial = federation.initial()
    for k in federation.clients:
        row = weights_of(done.models["personal"], k)
        assert not any(torch.equal(row[name], initial[name]) for name in HEAD)
        for name in row.keys() - HEAD:
            torch.testing.assert_close(row[name], initial[name], rtol=0, atol=1e-14)  # the average of equals
        assert same(only(done.local_weights[k], row.keys() - HEAD), only(initial, row.keys() - HEAD))
    assert set(state["own"]) == {0, 1, 2}


def test_normalisation_that_is_local_stays_with_its_client():
    federation = tiny_federation(model="CNN4")
    bn = federation.names("bn")
    state, done = play(federation, options_for("fedrep", head_epochs=1, bn="local"), 2)
    assert bn
    assert state["server"].keys() == federation.names("body") - bn
    for k, trained in enumerate(done.local_weights):
        assert same(only(weights_of(done.models["personal"], k), bn | HEAD), only(trained, bn | HEAD))
