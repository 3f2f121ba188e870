"""Global, personal and validation accuracy, against counting by hand."""

import numpy as np
import pytest
import torch

import algorithms
from evaluation import evaluate
from experiment import federation_of, prepare
from helpers import Round
from options import Launch

SMALL = {"n_clients": 3, "reduced": 0.1, "model": ("MLP",), "threads": 1}


def prepared(name, export, **flags):
    return prepare(algorithms.options_of(name)(**{"algorithm": name, **SMALL, **flags}), Launch(export_dir=export))


class Fixed(torch.nn.Module):
    """Says class `c` whatever it sees."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c = c

    def forward(self, x):
        return x.flatten(1), torch.nn.functional.one_hot(torch.full((len(x),), self.c), 10).float()


def test_global_is_the_whole_test_set_and_personal_the_clients_own_share_of_it(tmp_path):
    one = prepared("independent", tmp_path, partition="dirichlet", alpha=0.3, validation=0.3)
    federation, y = federation_of(one), one.data.y.numpy()
    done = Round([0, 1, 2], torch.zeros(3), {"personal": lambda k: Fixed(k)})
    of_round, of_clients = evaluate(federation, one.split, done)
    for k in range(3):
        assert of_clients["global_accuracy"][k] == pytest.approx((y[one.data.n_train :] == k).mean(), abs=1e-12)
        assert of_clients["personal_accuracy"][k] == pytest.approx((y[one.split.test[k]] == k).mean(), abs=1e-12)
        assert of_clients["validation_accuracy"][k] == pytest.approx((y[one.split.validation[k]] == k).mean(), abs=1e-12)
    for what in ("global", "personal", "validation"):
        values = np.array(list(of_clients[f"{what}_accuracy"].values()))
        assert of_round[f"{what}_mean"] == pytest.approx(values.mean(), abs=1e-12)
        assert of_round[f"{what}_std_clients"] == pytest.approx(values.std(), abs=1e-12)
        assert of_round[f"{what}_worst"] == values.min()


def test_one_model_for_all_has_no_spread_on_the_global_test_but_one_on_the_clients_own(tmp_path):
    one = prepared("fedavg", tmp_path, partition="dirichlet", alpha=0.3)
    asked = []
    done = Round([0], torch.zeros(1), {"global": lambda k: asked.append(k) or Fixed(3)})
    of_round, of_clients = evaluate(federation_of(one), one.split, done)
    assert asked == [0]  # once, however many clients there are
    assert "global_std_clients" not in of_round
    assert "global_accuracy" not in of_clients
    assert of_round["global_worst"] == of_round["global_mean"]
    assert of_round["personal_std_clients"] > 0


def test_further_answers_have_columns_of_their_own(tmp_path):
    one = prepared("fedavg", tmp_path)
    done = Round([], torch.zeros(0), {"personal": lambda k: Fixed(0), "tuned": lambda k: Fixed(1)})
    of_round, of_clients = evaluate(federation_of(one), one.split, done)
    test = one.data.y[one.data.n_train :].numpy()
    assert of_round["global_mean"] == pytest.approx((test == 0).mean(), abs=1e-12)
    assert of_round["global_mean:tuned"] == pytest.approx((test == 1).mean(), abs=1e-12)
    assert "personal_accuracy:tuned" in of_clients
