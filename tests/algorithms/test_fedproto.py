"""FedProto: its answers, classes that nobody has, and clients that are absent."""

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, tiny_data, tiny_federation, weights_of

import algorithms
from algorithms import fedproto
from models import NearestPrototype


def options(**flags):
    return options_for("fedproto", **flags)


def test_in_the_first_round_there_are_no_prototypes_and_in_the_second_those_of_the_first_teach():
    first, second = (play(tiny_federation(), options(lambda_proto=lam), rounds=1)[0] for lam in (0.0, 5.0))
    assert all(
        torch.equal(item[n], other[n]) for item, other in zip(first["weights"], second["weights"], strict=True) for n in item
    )
    first, second = (play(tiny_federation(), options(lambda_proto=lam), rounds=2)[0] for lam in (0.0, 5.0))
    assert not torch.equal(first["weights"][0]["body.0.weight"], second["weights"][0]["body.0.weight"])


def test_the_headline_is_the_class_of_the_nearest_prototype_and_the_other_answer_the_network_itself():
    federation = tiny_federation()
    state, done = play(federation, options(), rounds=2)
    assert list(done.models) == ["prototypes", "personal"]
    x = federation.data.images(torch.arange(60, 90), federation.dtype)
    for k in federation.clients:
        answer, net = done.models["prototypes"](k), federation.model(k, state["weights"][k])
        features, logits = net(x)
        away = torch.cdist(features, state["known"][k]["prototypes"])
        result, scores = answer(x)
        assert torch.equal(result, features)
        assert torch.equal(scores.argmax(1), away.argmin(1))
        torch.testing.assert_close(scores, -away.square())
        assert torch.equal(done.models["personal"](k)(x)[1], logits)


def test_a_class_without_a_prototype_is_further_away_than_all_others_and_costs_a_finite_loss():
    federation = tiny_federation()
    net = federation.model(0, federation.initial(0))
    prototypes, x = torch.randn(3, 6, dtype=torch.float64), federation.data.images(torch.arange(9), federation.dtype)
    _, scores = NearestPrototype(net, prototypes, torch.tensor([True, False, True]))(x)
    assert (scores.argmin(1) == 1).all()
    assert torch.isfinite(F.cross_entropy(scores, torch.ones(9, dtype=torch.int64)))
    _, scores = NearestPrototype(net, prototypes, torch.zeros(3, dtype=torch.bool))(x)
    assert torch.equal(scores[:, 0], scores[:, 1]), "before anybody has sent any"


def test_what_an_absent_client_sent_last_still_counts_and_it_knows_what_it_received_last():
    federation = tiny_federation(participation=0.7)
    state, first = play(federation, options())
    (absent,) = set(federation.clients) - set(first.clients)
    assert state["sent"][absent] is None
    assert not state["known"][absent]["held"].any()
    before = {k: state["sent"][k] for k in federation.clients}
    r = 2
    while (done := fedproto.communicate(federation.at(r), state, options())).clients == first.clients:
        before = {k: state["sent"][k] for k in federation.clients}
        r += 1
    for k in set(federation.clients) - set(done.clients):
        assert state["sent"][k] is before[k]
    expected = fedproto.aggregated([row for row in state["sent"] if row])
    assert torch.equal(state["known"][done.clients[0]]["prototypes"], expected["prototypes"])


def test_a_class_that_one_client_alone_holds_has_its_mean_and_one_that_nobody_holds_is_not_there():
    data = tiny_data(n_classes=4)
    shares = [[i for i in range(60) if data.y[i] in classes] for classes in ((0, 1), (1,), (0, 1))]
    federation = tiny_federation(data, [*shares[:2], [i for i in range(60) if data.y[i] == 2]])
    state, _ = play(federation, options())
    known = state["known"][0]
    assert known["held"].tolist() == [True, True, True, False]
    torch.testing.assert_close(known["prototypes"][2], state["sent"][2]["means"][2])


@pytest.mark.parametrize("answer", ["prototypes", "personal"])
def test_a_saved_answer_can_be_made_anew(answer):
    federation = tiny_federation()
    _, done = play(federation, options())
    flags = {"model": ["LeNet5"], "feature_dim": 6}
    again = algorithms.ALGORITHMS["fedproto"].rebuild(flags, [list(federation.data.shape), 3], 1, answer).double()
    again.load_state_dict(weights_of(done.models[answer], 1))
    x = federation.data.images(torch.arange(9), federation.dtype)
    torch.testing.assert_close(again.eval()(x)[1], done.models[answer](1)(x)[1])
