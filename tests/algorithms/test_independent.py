"""Independent learning is K separate trainings, and nothing else."""

import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_federation, weights_of


def test_it_is_a_plain_training_of_each_client_that_goes_on_from_round_to_round():
    federation = tiny_federation(model="MLP")
    flags = options_for("independent", optimizer="adam", lr=0.01, weight_decay=0.1, epoch_per_round=2)
    state, done = play(federation, flags, rounds=3)
    for k in federation.clients:
        model, share = federation.architectures[0]().double(), federation.shares[k]
        model.load_state_dict(federation.initial(k))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)  # one for all rounds
        for r in (1, 2, 3):
            order, values = federation.at(r).stream("batches", k), []
            for _ in range(2):
                for i in torch.from_numpy(order.permutation(len(share))).split(8):  # 10, 20, 30: never one left over
                    value = F.cross_entropy(
                        model(federation.data.images(share[i], torch.float64))[1], federation.data.y[share[i]]
                    )
                    optimizer.zero_grad()
                    value.backward()
                    optimizer.step()
                    values += [value.item()] * len(i)
        trained = weights_of(done.models["personal"], k)
        for name, expected in model.state_dict().items():
            torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-10)
            assert torch.equal(trained[name], state["weights"][k][name])
        torch.testing.assert_close(done.loss[k].item(), sum(values) / len(values), rtol=1e-10, atol=0)


def test_each_client_starts_from_weights_of_its_own():
    federation = tiny_federation()
    state, _ = play(federation, options_for("independent"), rounds=0)
    for k in federation.clients:
        own = federation.initial(k)
        assert all(torch.equal(state["weights"][k][name], own[name]) for name in own)
    assert not torch.equal(state["weights"][0]["classifier.weight"], state["weights"][1]["classifier.weight"])


def test_nothing_is_sent():
    federation = tiny_federation()
    play(federation, options_for("independent"), rounds=2)
    assert federation.wire.collect() == {}


def test_a_client_learns_the_same_alone_and_in_company():
    company, done = tiny_federation(), {}
    _, done["company"] = play(company, options_for("independent"), rounds=2)
    expected = weights_of(done["company"].models["personal"], 0)
    alone = tiny_federation(shares=[range(10)])
    _, done["alone"] = play(alone, options_for("independent"), rounds=2)
    found = weights_of(done["alone"].models["personal"], 0)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
