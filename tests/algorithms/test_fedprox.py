"""FedProx against FedAvg, of which it is a setting with mu 0, and against its objective written out."""

import pytest
import torch
import torch.nn.functional as F
from conftest import options_for, play, same_run, spied, tiny_federation, weights_of

from algorithms import fedprox
from helpers import Batch

WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", ["MLP", "CNN4"])
@pytest.mark.parametrize(
    "flags", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}, {"bn": "local", "weight_decay": 0.1}]
)
def test_mu_0_is_fedavg_to_the_last_bit(model, flags):
    flags = {"epoch_per_round": 2, **flags}
    same_run(("fedprox", {"mu": 0.0, **flags}), ("fedavg", flags), model)


def test_the_loss_has_half_mu_times_the_squared_distance_of_all_parameters_and_of_no_buffer():
    federation = tiny_federation(model="CNN4")
    received = {name: w + (torch.rand_like(w) if w.is_floating_point() else 1) for name, w in federation.initial().items()}
    model = federation.model(0, federation.initial())
    batch = Batch(federation.data.images(torch.arange(8), torch.float64), federation.data.y[:8], torch.arange(8))
    found = fedprox.loss(model, batch, received, options_for("fedprox", mu=0.3))
    distance = sum(((w - received[name]) ** 2).sum() for name, w in model.named_parameters())
    assert len(received) > len(list(model.parameters())), "there are buffers, which lie elsewhere too"
    torch.testing.assert_close(found, F.cross_entropy(model(batch.x)[1], batch.y) + 0.15 * distance)


def test_every_step_descends_the_cross_entropy_and_is_drawn_back_to_what_was_received():
    # w <- w - lr (grad F_k(w) + mu (w - w^t)): the first step, at w^t, is FedAvg's
    lr, mu = 0.05, 2.0
    federation = tiny_federation(model="MLP", shares=[range(30)])
    flags = options_for("fedprox", mu=mu, lr=lr, batch_size=WHOLE, epoch_per_round=3)
    _, done = play(federation, flags, rounds=2)
    model = federation.architectures[0]().double()
    received = federation.initial()
    indices = torch.arange(30)
    x, y = federation.data.images(indices, torch.float64), federation.data.y[indices]
    for _ in range(2):
        model.load_state_dict(received)
        for _ in range(3):
            model.zero_grad()
            F.cross_entropy(model(x)[1], y).backward()
            with torch.no_grad():
                for name, w in model.named_parameters():
                    w -= lr * (w.grad + mu * (w - received[name]))
        received = {name: w.detach().clone() for name, w in model.state_dict().items()}
    for name, w in weights_of(done.models["global"]).items():
        torch.testing.assert_close(w, received[name], rtol=0, atol=1e-10)


def test_clients_are_drawn_back_to_what_the_server_sent_in_that_round(monkeypatch):
    federation, seen = tiny_federation(participation=0.7), spied(monkeypatch, fedprox)
    flags = options_for("fedprox", batch_size=WHOLE)
    state = fedprox.start(federation, flags)
    for r in (1, 2, 3):
        sent = state["server"]
        fedprox.communicate(federation.at(r), state, flags)
        assert len(seen) == 2
        assert all(same(given, sent) for given in seen)
        seen.clear()


def test_a_larger_mu_keeps_clients_nearer_to_the_server():
    moved = []
    for mu in (0.0, 1.0, 10.0):
        federation = tiny_federation(model="MLP")
        _, done = play(federation, options_for("fedprox", mu=mu, epoch_per_round=4))
        before = federation.initial()
        moved.append([sum((row[name] - before[name]).square().sum() for name in row) for row in done.local_weights])
    assert all(free > near > nearer for free, near, nearer in zip(*moved, strict=True))
