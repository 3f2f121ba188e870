"""FedALA: its weights against a loop that differentiates them directly, and where local training starts."""

import pytest
import torch
import torch.nn.functional as F
from conftest import WHOLE, close, options_for, play, same, tiny_federation

from algorithms import fedala


def begun(federation, own, received, names, W, batches, lr):
    """Local initialisation by autograd through own + (received - own) * W, with a clipped step a batch -> (start, W)."""
    model = federation.architectures[0]().double().eval()
    W = {name: w.clone().requires_grad_() for name, w in W.items()}

    def blend():
        return {name: own[name] + (received[name] - own[name]) * W[name] for name in names}

    model.load_state_dict(received)
    for i in batches:
        _, logits = torch.func.functional_call(model, blend(), (federation.data.images(i, torch.float64),))
        value = F.cross_entropy(logits, federation.data.y[i])
        for w, g in zip(W.values(), torch.autograd.grad(value, list(W.values())), strict=True):
            w.data = (w.data - lr * g).clip(0, 1)
    return {**received, **{name: tensor.detach() for name, tensor in blend().items()}}, {n: w.detach() for n, w in W.items()}


@pytest.mark.parametrize(("layers", "names"), [(1, ["classifier.weight", "classifier.bias"]), (9, None)])
def test_weights_descend_the_loss_at_the_start_and_are_clipped_and_go_on_where_they_were(layers, names):
    federation = tiny_federation(model="CNN4")
    own, further = (
        {n: w + 0.1 * torch.rand_like(w) if w.is_floating_point() else w for n, w in federation.initial().items()}
        for _ in range(2)
    )
    received = federation.initial()
    parameters = [name for name, _ in federation.skeletons[0].named_parameters()]
    names = names or parameters
    flags = options_for("fedala", ala_layers=layers, ala_share=1.0, ala_lr=1000.0, ala_first=3, batch_size=WHOLE)
    share = federation.shares[2]
    result, W = fedala.between(federation, 2, received, own, {}, options=flags)
    expected, at = begun(federation, own, received, names, {n: torch.ones_like(own[n]) for n in names}, [share] * 3, 1000.0)
    close(result, expected)
    close(W, at)
    values = torch.cat([w.flatten() for w in W.values()])
    assert values.min() == 0, "clipped"
    assert values.max() == 1
    assert ((values > 0) & (values < 1)).any()
    result, W = fedala.between(federation, 2, received, further, W, options=flags)
    expected, at = begun(federation, further, received, names, at, [share], 1000.0)  # one epoch from now on
    close(result, expected)
    close(W, at)


def test_what_is_not_in_the_last_layers_is_what_was_received_buffers_too():
    federation = tiny_federation(model="CNN4")
    received = federation.initial()
    own = {n: w + 1 for n, w in received.items()}
    result, W = fedala.between(federation, 0, received, own, {}, options=options_for("fedala", ala_lr=1e3, ala_layers=1))
    assert set(W) == {"classifier.weight", "classifier.bias"}
    for name in received:
        assert torch.equal(result[name], received[name]) == (name not in W)


def test_weights_are_learned_on_a_part_of_the_share_that_is_drawn_anew_each_round(monkeypatch):
    federation, recorded, inner = tiny_federation(), [], fedala.gradient

    def watchful(model, batch, at):
        recorded.append(batch.index.tolist())
        return inner(model, batch, at)

    monkeypatch.setattr(fedala, "gradient", watchful)
    own = {n: w + 0.1 for n, w in federation.initial().items()}
    drawn = []
    for r in (1, 2):
        flags = options_for("fedala", ala_share=0.5, ala_first=3, batch_size=8)
        fedala.between(federation.at(r), 2, federation.initial(), own, {}, options=flags)
        epochs = [sorted(sum(recorded[e : e + 2], [])) for e in (0, 2, 4)]
        assert [len(i) for i in recorded] == [8, 7] * 3
        assert epochs[0] == epochs[1] == epochs[2], "the same examples in every epoch"
        assert len(set(epochs[0])) == 15
        assert set(epochs[0]) <= set(range(30, 60))
        assert recorded[0] != recorded[2], "in another order"
        drawn.append(epochs[0])
        recorded.clear()
    assert drawn[0] != drawn[1]


def test_a_client_that_comes_for_the_first_time_starts_from_what_it_received_and_the_next_time_from_between(monkeypatch):
    federation, starts, inner = tiny_federation(participation=0.7), [], fedala.train

    def watchful(federation, clients, weights, *others, **more):
        starts.append(dict(zip(clients, weights, strict=True)))
        return inner(federation, clients, weights, *others, **more)

    monkeypatch.setattr(fedala, "train", watchful)
    flags = options_for("fedala", ala_lr=10.0)
    state, recorded = fedala.start(federation, flags), set()
    for r in range(1, 5):
        sent, own = state["server"], state["personal"]
        done = fedala.communicate(federation.at(r), state, flags)
        assert set(own) == recorded, "of those alone that took part"
        for k in done.clients:
            assert same(starts[-1][k], sent) == (k not in recorded)
            if k in recorded:
                between = fedala.blended(own[k], sent, state["W"][k])
                assert same({n: starts[-1][k][n] for n in between}, between), "by its own weights"
        recorded |= set(done.clients)
    assert list(done.models) == ["personal", "global"]
    assert recorded == {0, 1, 2}


def test_a_client_without_examples_starts_from_what_it_received():
    federation = tiny_federation(shares=[[], range(30)])
    own = {n: w + 0.1 for n, w in federation.initial().items()}
    result, W = fedala.between(federation, 0, federation.initial(), own, {}, options=options_for("fedala"))
    assert same(result, federation.initial())
    assert all((w == 1).all() for w in W.values())


def test_the_last_layers_are_counted_by_those_that_have_parameters():
    model = tiny_federation(model="CNN4").skeletons[0]
    everything = [name for name, _ in model.named_parameters()]
    assert fedala.last_layers(model, 0) == []
    assert fedala.last_layers(model, 1) == everything[-2:]
    assert fedala.last_layers(model, 2) == everything[-4:], "a normalisation is a layer"
    assert fedala.last_layers(model, 99) == everything


def test_learning_weights_costs_operations_and_no_steps():
    spent = {}
    for lr in (0.0, 1.0):
        federation = tiny_federation()
        play(federation, options_for("fedala", ala_lr=lr), 2)
        spent[lr] = federation.meter.spent
    assert all(spent[1.0]["steps", "client", k] == spent[0.0]["steps", "client", k] for k in range(3))
    assert all(spent[1.0]["flops", "client", k] > spent[0.0]["flops", "client", k] for k in range(3))
