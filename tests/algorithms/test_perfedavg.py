"""Per-FedAvg of first order: what a client makes of the model, which nobody keeps, and batches of any size."""

import pytest
import torch
import torch.nn.functional as F
from conftest import close, options_for, play, tiny_data, tiny_federation, weights_of


@pytest.mark.parametrize("model", ["MLP_dropout", "CNN4"])
def test_a_client_makes_its_model_by_one_step_over_its_whole_share_in_evaluation_mode(model):
    federation = tiny_federation(model=model, participation=0.7)
    _, done = play(federation, options_for("perfedavg", adapt_lr=0.2, augment="flip", momentum=0.9, weight_decay=0.1), 2)
    w = weights_of(done.models["global"])
    assert list(done.models) == ["personal", "global"]
    for k, share in enumerate(federation.shares):  # of everyone, whoever took part
        single = federation.architectures[0]().double().eval()
        single.load_state_dict(w)
        F.cross_entropy(single(federation.data.images(share, torch.float64))[1], federation.data.y[share]).backward()
        slopes = {name: p.grad for name, p in single.named_parameters()}
        expected = {name: tensor - 0.2 * slopes[name] if name in slopes else tensor for name, tensor in w.items()}
        close(weights_of(done.models["personal"], k), expected)


def test_what_a_client_makes_of_the_model_is_nobodys_work_and_changes_nothing():
    federation = tiny_federation(dtype=torch.float32)
    flags = options_for("perfedavg")
    state, done = play(federation, flags)
    before, spent = weights_of(done.models["global"]), federation.meter.spent.copy()
    item, again = (weights_of(done.models["personal"], 1) for _ in range(2))
    close(item, again, tolerance=0)
    close(weights_of(done.models["global"]), before, tolerance=0)
    counted = {key: n for key, n in federation.meter.spent.items() if key[1] in ("client", "server")}
    assert counted == dict(spent)
    assert state["own"] == {}, "nobody keeps it"


def test_batchnorm_takes_batches_of_any_size():
    data_shares = [range(2), range(2, 5), range(5, 30)]
    _, done = play(tiny_federation(tiny_data(size=16), data_shares, "ResNet9"), options_for("perfedavg", batch_size=2))
    assert torch.isfinite(done.loss).all()
