"""Global, personal and validation accuracy, against counting by hand; fine-tuning of copies, against a plain loop."""

import math
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import line_of, map_leaves, options_for, play, tiny_federation, weights_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

import algorithms
import commandline
import experiment
import saves
import streams
from data.partition import Shares, Split
from errors import DivergedError
from experiment import evaluation, federation_of, measuring, prepare, rounds
from experiment.evaluation import cross_entropy, evaluate, features, personalise
from federation import Federation
from helpers import Round, model_of
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
    run_experiment = prepared("independent", tmp_path, partition="dirichlet", alpha=0.3, validation=0.3)
    federation, y = federation_of(run_experiment), run_experiment.data.y.numpy()
    done = Round([0, 1, 2], torch.zeros(3), {"personal": lambda k: Fixed(k)})
    of_round, of_clients, _ = evaluate(federation, run_experiment.split, done)
    for k in range(3):
        assert of_clients["global_accuracy"][k] == pytest.approx((y[run_experiment.data.n_train :] == k).mean(), abs=1e-12)
        assert of_clients["personal_accuracy"][k] == pytest.approx((y[run_experiment.split.test[k]] == k).mean(), abs=1e-12)
        assert of_clients["validation_accuracy"][k] == pytest.approx(
            (y[run_experiment.split.validation[k]] == k).mean(), abs=1e-12
        )
    for what in ("global", "personal", "validation"):
        values = np.array(list(of_clients[f"{what}_accuracy"].values()))
        assert of_round[f"{what}_mean"] == pytest.approx(values.mean(), abs=1e-12)
        assert of_round[f"{what}_std_clients"] == pytest.approx(values.std(), abs=1e-12)
        assert of_round[f"{what}_worst"] == values.min()
    # of logits 1 for a class and 0 for nine others the cross-entropy is ln(e + 9), less 1 where that class is right
    assert of_round["global_loss"] == pytest.approx(math.log(math.e + 9) - of_round["global_mean"], abs=1e-6), "float32"


def test_one_model_for_all_has_no_spread_on_the_global_test_but_one_on_the_clients_own(tmp_path):
    run_experiment = prepared("fedavg", tmp_path, partition="dirichlet", alpha=0.3)
    results = []
    done = Round([0], torch.zeros(1), {"global": lambda k: results.append(k) or Fixed(3)})
    of_round, of_clients, _ = evaluate(federation_of(run_experiment), run_experiment.split, done)
    assert results == [0]  # once, however many clients there are
    assert "global_std_clients" not in of_round
    assert "global_accuracy" not in of_clients
    assert of_round["global_worst"] == of_round["global_mean"]
    assert of_round["global_loss"] == pytest.approx(math.log(math.e + 9) - of_round["global_mean"], abs=1e-6), "float32"
    assert of_round["personal_std_clients"] > 0


def test_further_answers_have_columns_of_their_own(tmp_path):
    run_experiment = prepared("fedavg", tmp_path)
    done = Round([], torch.zeros(0), {"personal": lambda k: Fixed(0), "tuned": lambda k: Fixed(1)})
    of_round, of_clients, _ = evaluate(federation_of(run_experiment), run_experiment.split, done)
    test = run_experiment.data.y[run_experiment.data.n_train :].numpy()
    assert of_round["global_mean"] == pytest.approx((test == 0).mean(), abs=1e-12)
    assert of_round["global_mean:tuned"] == pytest.approx((test == 1).mean(), abs=1e-12)
    assert "personal_accuracy:tuned" in of_clients


def confused(y, output, n_classes=10):
    """Counted one by one."""
    table = np.zeros((n_classes, n_classes), dtype=int)
    for true, predicted in zip(y, output, strict=True):
        table[true, predicted] += 1
    return table


@pytest.mark.parametrize("name", ["fedavg", "independent"])
def test_confusion_counts_true_classes_in_rows_on_the_whole_test_set_and_on_a_clients_own(name, tmp_path):
    run_experiment = prepared(name, tmp_path, partition="dirichlet", alpha=0.3)
    federation, data = federation_of(run_experiment), run_experiment.data
    _, done = play(federation, run_experiment.options)
    of_round, of_clients, confusion = evaluate(federation, run_experiment.split, done)
    answer = next(iter(done.models.values()))

    def predict(k, indices):
        with torch.no_grad():
            return answer(k)(federation.data.images(torch.as_tensor(indices), torch.float32))[1].argmax(1).numpy()

    test, y = np.arange(data.n_train, len(data.y)), data.y.numpy()
    assert len(confusion["test"]) == (1 if name == "fedavg" else 3)
    for k, table in enumerate(confusion["test"]):
        assert np.array_equal(table, confused(y[test], predict(k, test)))
    true, predicted = (Shares(confusion[name], confusion["own_offsets"]) for name in ("own_true", "own_predicted"))
    for k, own in enumerate(run_experiment.split.test):
        assert true[k].tolist() == y[own].tolist(), "example by example, client after client"
        assert predicted[k].tolist() == predict(k, own).tolist()
        assert (true[k] == predicted[k]).double().mean() == of_clients["personal_accuracy"][k]
    assert of_round["global_mean"] == pytest.approx(np.mean([table.trace() / table.sum() for table in confusion["test"]]))


def one_by_one(federation, split, model):
    """Which accuracy has each client of one model for all: client by client, as it is said -> personal, validation."""
    with torch.no_grad():
        _, logits = model(federation.data.images(torch.arange(len(federation.data.y)), federation.dtype))
    right = (logits.argmax(1) == federation.data.y).double()
    personal = {k: right[torch.from_numpy(own)].mean().item() for k, own in enumerate(split.test)}
    held_out = {k: right[torch.from_numpy(own)].mean().item() for k, own in enumerate(split.validation) if len(own)}
    return personal, held_out


shares_of_anything = st.lists(st.lists(st.integers(0, 89), max_size=6), min_size=4, max_size=4)


@settings(deadline=None, max_examples=50)
@given(tests=shares_of_anything, held_out=shares_of_anything)
@example(tests=[[], [60], [], [60, 61]], held_out=[[]] * 4)
@example(tests=[[]] * 4, held_out=[[0], [], [0], []])
def test_the_accuracies_of_all_clients_are_counted_at_once_as_they_are_one_by_one(tests, held_out):
    """To the bit; also of clients without examples, and of examples that several have."""
    federation = tiny_federation(model="MLP", shares=[range(10 * k, 10 * k + 10) for k in range(4)])
    split, weights = Split([range(10)] * 4, held_out, tests), federation.initial()
    done = Round([0], torch.zeros(1), {"global": lambda k: federation.model(k, weights)})
    of_round, of_clients, confusion = evaluate(federation, split, done)
    personal, validation = one_by_one(federation, split, federation.model(0, weights))
    assert list(of_clients["personal_accuracy"]) == [0, 1, 2, 3]
    assert repr(of_clients["personal_accuracy"]) == repr(personal), "NaN without test examples"
    assert of_clients.get("validation_accuracy", {}) == validation
    assert repr(of_round["personal_mean"]) == repr(float(np.mean(list(personal.values()))))
    assert confusion["own_offsets"].tolist() == np.cumsum([0, *map(len, tests)]).tolist()
    assert confusion["own_true"].tolist() == federation.data.y[np.concatenate(split.test)].tolist()


def test_confusion_is_of_the_headline_and_of_its_classifier():
    federation, flags = federation_for("mhmd", dtype=torch.float32), request("mhmd")
    _, done = play(federation, flags)
    of_round, _, confusion = evaluate(federation, SPLIT, done)
    table = confusion["test"].sum(0)
    assert (table.trace() / table.sum()).item() == pytest.approx(of_round["global_mean"])
    assert of_round["global_mean"] != of_round["global_mean:head 1"], "or the test would say nothing"


def test_features_are_those_of_the_headline_on_the_same_training_examples_in_every_round():
    federation, flags = federation_for("fedper", dtype=torch.float32, participation=0.5), request("fedper")
    spent = dict(federation.meter.spent)
    _, first = play(federation, flags)
    recorded = features(federation.at(1), first, 12)
    _, second = play(federation, flags, rounds=2)
    again = features(federation.at(2), second, 12)
    assert [len(recorded[f"labels_{k}"]) for k in range(3)] == [10, 12, 12], "client 0 has no more"
    answer, result = second.models["personal"], []
    for k, share in enumerate(SHARES):
        assert torch.equal(recorded[f"labels_{k}"], again[f"labels_{k}"])
        assert again[f"features_{k}"].dtype == torch.float32
        with torch.no_grad():
            everything = answer(k)(federation.data.images(torch.tensor(share), torch.float32))[0]
        place = [(everything - row).abs().sum(1).argmin().item() for row in again[f"features_{k}"]]
        assert torch.allclose(everything[place], again[f"features_{k}"], atol=1e-6)
        assert len(set(place)) == len(place), "each once"
        assert torch.equal(federation.data.y[torch.tensor(share)[place]], again[f"labels_{k}"])
        result.append(place)
    assert result[1] != sorted(result[1]), "drawn"
    assert {key for key in federation.meter.spent if key not in spent and key[1] not in measuring.PARTIES} == {
        ("flops", "evaluation", k) for k in range(3)
    }, "nobody's work in the rounds"


# --- fine-tuning of copies ---

SHARES = [range(10), range(10, 30), range(30, 50)]
HELD_OUT = [range(50, 53), range(53, 56), range(56, 60)]
TESTS = [range(60, 70), range(70, 78), range(78, 90)]
SPLIT = Split(*(tuple(np.array(share) for share in part) for part in (SHARES, HELD_OUT, TESTS)))


def federation_for(name="fedavg", model="MLP", **others):
    """Three clients of the tiny data, which hold out some examples; models that an algorithm can do with."""
    model = {"fedgkt": "ResNet8", "mhmd": "CNN4"}.get(name, model)
    held_out = tuple(map(np.array, HELD_OUT))
    context = {"shares": SHARES, "model": model, "validation": held_out, "heads": name == "mhmd", **others}
    return tiny_federation(**context)


def request(name="fedavg", **flags):
    own = {"fedgkt": {"server_model": "ResNet19", "epochs_server": 1}, "mhmd": {"w_aux": 0.01}}
    return options_for(name, **{"ft_epochs": 2, "ft_lr": 0.05, **own.get(name, {}), **flags})


def tuned_by(name, federation, flags, done=None, split=SPLIT):
    loss = getattr(algorithms.ALGORITHMS[name], "tuning_loss", cross_entropy)
    return personalise(federation, split, done or play(federation, flags)[1], flags, loss)


def digest(*trees):
    """All tensors of some trees, as bytes, and all that is not a tensor, as text."""
    results = []
    for tree in trees:
        results.append(repr(map_leaves(lambda leaf: results.append(leaf.numpy().tobytes()), tree)))
    return results


def answered(federation, done):
    return {name: [weights_of(answer, k) for k in federation.clients] for name, answer in done.models.items()}


def spied(monkeypatch):
    """[(client, the round that its streams are of, weights before, weights after)] of every training of `personalise`."""
    recorded, inner = [], evaluation.train

    def watchful(federation, clients, weights, *args, **others):
        before = [map_leaves(torch.clone, row) for row in weights]
        result = inner(federation, clients, weights, *args, **others)
        recorded.append((*clients, federation.round, *before, *result[0]))
        return result

    monkeypatch.setattr(evaluation, "train", watchful)
    return recorded


def accuracy(federation, weights, indices):
    """Counted by hand, in a network of its own."""
    model = federation.architectures[0]().to(federation.dtype).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        _, logits = model(federation.data.images(torch.as_tensor(indices), federation.dtype))
    return (logits.argmax(1) == federation.data.y[torch.as_tensor(indices)]).double().mean().item()


def of_the_round(federation):
    """What is counted as the clients' or the server's work."""
    return {key: n for key, n in federation.meter.spent.items() if key[1] in measuring.PARTIES}


def untuned(names):
    return [name for name in names if not name.startswith(("sent_", "local_", "tuned_"))]


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_fine_tuning_changes_no_bit_of_the_state_the_answers_and_the_counts(name):
    federation, flags = federation_for(name, dtype=torch.float32, participation=0.7), request(name)
    state, done = play(federation, flags)
    before = digest(state, answered(federation, done), done.local_weights, federation.data.x, federation.data.y)
    counted, crossed = of_the_round(federation), federation.wire._bytes.copy()
    of_round, of_clients = tuned_by(name, federation, flags, done)
    assert digest(state, answered(federation, done), done.local_weights, federation.data.x, federation.data.y) == before
    assert (of_the_round(federation), federation.wire._bytes) == (counted, crossed)
    assert all(math.isfinite(value) for value in of_round.values())
    assert of_clients["tuned_accuracy"].keys() == {0, 1, 2}, "everyone, whoever took part in the last round"
    expected = play(federation_for(name, dtype=torch.float32, participation=0.7), flags, rounds=2)
    module = algorithms.module_of(flags)
    after = module.communicate(federation.at(2), state, flags)
    assert digest(state) == digest(expected[0]), "nor of a round after it"
    assert torch.equal(after.loss, expected[1].loss)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.1)])
@pytest.mark.parametrize("name", ["fedavg", "independent"])
def test_fine_tuning_is_a_plain_loop_over_the_clients_own_examples(name, momentum, weight_decay, monkeypatch):
    federation, recorded = replace(federation_for(name), seed=5), spied(monkeypatch)
    # a schedule, its rate and local epochs are of the rounds
    flags = request(name, ft_epochs=3, momentum=momentum, weight_decay=weight_decay, lr_schedule="step", lr=0.3, rounds=1)
    flags = replace(flags, epoch_per_round=2, ft_lr=0.02)
    _, done = play(federation, flags)
    sent = answered(federation, done).popitem()[1]
    of_round, of_clients = tuned_by(name, federation, flags, done)
    assert [(k, epoch) for k, epoch, _, _ in recorded] == [(k, epoch) for k in range(3) for epoch in (1, 2, 3)]
    for k in range(3):
        model = federation.architectures[0]().double().train()
        model.load_state_dict(sent[k])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=momentum, weight_decay=weight_decay)
        for epoch in (1, 2, 3):
            order = streams.generator(5, "tuning", "batches", epoch, k).permutation(len(SHARES[k]))
            for i in torch.from_numpy(order).split(8):
                own = torch.tensor(SHARES[k])[i]
                optimizer.zero_grad()
                F.cross_entropy(model(federation.data.images(own, torch.float64))[1], federation.data.y[own]).backward()
                optimizer.step()
            result = recorded[3 * k + epoch - 1][3]
            for weight, value in model.state_dict().items():
                torch.testing.assert_close(result[weight], value, rtol=0, atol=1e-10)
            assert of_clients[f"tuned_accuracy:epoch {epoch}"][k] == accuracy(federation, result, TESTS[k])
    assert of_clients["tuned_accuracy"] == of_clients["tuned_accuracy:epoch 3"]
    assert {n for n in of_round if n.startswith("tuned_mean")} == {
        "tuned_mean",
        *(f"tuned_mean:epoch {e}" for e in range(4)),
    }


def test_epoch_0_is_the_personal_accuracy_of_what_is_sent():
    for name in ("fedavg", "fedper", "cfkd", "centralized"):
        federation, flags = federation_for(name), request(name)
        _, done = play(federation, flags, 2)
        evaluated, of_evaluated, _ = evaluate(federation, SPLIT, done)
        of_round, of_clients = tuned_by(name, federation, flags, done)
        personal = of_evaluated["personal_accuracy"]
        assert of_clients["tuned_accuracy:epoch 0"] == of_clients["sent_accuracy"] == personal
        for end in ("mean", "std_clients", "worst"):
            assert of_round[f"sent_{end}"] == of_round[f"tuned_{end}:epoch 0"]
            assert of_round[f"sent_{end}"] == pytest.approx(evaluated[f"personal_{end}"], abs=1e-15)


def test_where_the_first_answer_is_no_network_of_the_clients_the_next_one_is_fine_tuned():
    federation, flags = federation_for("fedgkt"), request("fedgkt")
    _, done = play(federation, flags)
    _, of_evaluated, _ = evaluate(federation, SPLIT, done)
    _, of_clients = tuned_by("fedgkt", federation, flags, done)
    assert of_clients["sent_accuracy"] == of_evaluated["personal_accuracy:personal"]


def test_a_client_fine_tunes_on_its_training_examples_alone(monkeypatch):
    flags, recorded = request("fedper", augment="flip"), spied(monkeypatch)
    federation = federation_for(model="CNN4")
    _, done = play(federation, flags)
    common, data = answered(federation, done)["personal"], federation.data
    tuned_by("fedper", federation, flags, done)
    expected = [after for _, _, _, after in recorded]
    for k in range(3):
        poisoned = torch.ones(len(data.y), dtype=torch.bool)
        poisoned[list(SHARES[k])] = False  # tests, what is held out, the others' examples: other images, other labels
        x = torch.where(poisoned.view(-1, 1, 1, 1), 255 - data.x, data.x)
        other = federation_for(model="CNN4", data=replace(data, x=x, y=torch.where(poisoned, (data.y + 1) % 3, data.y)))
        done = Round([], torch.zeros(0), {"personal": lambda j, other=other: other.model(j, common[j])})
        recorded.clear()
        tuned_by("fedper", other, flags, done)
        results = [after for j, _, _, after in recorded if j == k]
        assert digest(results) == digest(expected[2 * k : 2 * k + 2])
        assert digest([after for _, _, _, after in recorded]) != digest(expected), (
            "what is poisoned is what others learn from"
        )


def test_fine_tuning_does_not_depend_on_the_order_of_the_clients_nor_on_who_else_there_is(monkeypatch):
    flags = request(augment="crop_flip", momentum=0.9)
    federation = federation_for(model="CNN4")  # of one skeleton, whose statistics and rates of a client before would show
    _, done = play(federation, flags)
    _, expected = tuned_by("fedavg", federation, flags, done)
    recorded = spied(monkeypatch)
    tuned_by("fedavg", federation, flags, done)
    weights = {(k, epoch): digest(after) for k, epoch, _, after in recorded}
    for clients in ([2, 0, 1], [1], [0, 2]):
        monkeypatch.setattr(Federation, "clients", property(lambda self, clients=clients: clients))
        recorded.clear()
        _, result = tuned_by("fedavg", federation, flags, done)
        assert list(result["tuned_accuracy"]) == clients
        for column in ("sent_accuracy", "tuned_accuracy:epoch 1", "tuned_accuracy"):
            assert result[column] == {k: expected[column][k] for k in clients}
        assert all(digest(after) == weights[k, epoch] for k, epoch, _, after in recorded)


@pytest.mark.parametrize(("part", "fixed"), [("head", "body."), ("body", "classifier."), ("full", "nothing")])
def test_only_the_part_that_is_asked_for_is_fine_tuned(part, fixed, monkeypatch):
    federation, flags, recorded = federation_for(model="CNN4"), request(ft_part=part, momentum=0.9), spied(monkeypatch)
    _, done = play(federation, flags)
    sent = weights_of(done.models["global"])
    tuned_by("fedavg", federation, flags, done)
    assert len(recorded) == 3 * 2
    for _, epoch, before, after in recorded:
        kept = {name for name in sent if torch.equal(after[name], before[name])}
        assert kept == {name for name in sent if name.startswith(fixed)}, "BatchNorm's running statistics included"
        assert epoch == 2 or digest(before) == digest(sent), "everyone begins with what was sent"


def test_an_algorithm_may_have_a_loss_of_its_own_for_fine_tuning(tmp_path, monkeypatch):
    results = {}
    monkeypatch.setattr(
        measuring, "personalise", lambda f, s, d, options, loss, _: results.setdefault(options.algorithm, loss) and ({}, {})
    )
    for name in ("cfkd", "mhmd"):
        small = {"model": ("CNN4",), "image_size": 8, "reduced": 0.05, "rounds": 1, "batch_size": 50, "ft_epochs": 1}
        run_experiment = prepared(name, tmp_path, **small)
        run_experiment.folder.mkdir(parents=True)
        rounds.play_rounds(run_experiment, federation_of(run_experiment), None, lambda row: None, [])
    assert results == {"cfkd": cross_entropy, "mhmd": algorithms.ALGORITHMS["mhmd"].loss}


def test_auxiliary_heads_are_fine_tuned_with_the_loss_of_their_algorithm(monkeypatch):
    federation, flags, recorded = federation_for("mhmd"), request("mhmd", ft_part="head"), spied(monkeypatch)
    tuned_by("mhmd", federation, flags)
    for _, _, before, after in recorded:
        moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved == {"classifier", "heads"}


ONE_CLASS_EACH = [range(k, 50, 3) for k in range(3)]  # whoever trains on it forgets the others, which are in the tests


def test_local_is_what_the_clients_of_the_round_had_after_their_local_epochs():
    federation, flags = federation_for(participation=0.7, shares=ONE_CLASS_EACH), request(epoch_per_round=3)
    _, done = play(federation, flags, 2)
    of_round, of_clients = tuned_by("fedavg", federation, flags, done)
    by_hand = {k: accuracy(federation, row, TESTS[k]) for k, row in zip(done.clients, done.local_weights, strict=True)}
    assert len(by_hand) == 2
    assert not by_hand.items() <= of_clients["sent_accuracy"].items()
    assert of_clients["local_accuracy"] == by_hand
    values = sorted(by_hand.values())
    assert of_round["local_mean"] == pytest.approx(sum(values) / 2)
    assert (of_round["local_worst"], of_round["local_best"]) == (values[0], values[1])


def test_tuned_is_what_the_last_epoch_leaves_even_where_it_is_not_the_best():
    federation, flags = federation_for("centralized", shares=ONE_CLASS_EACH), request("centralized", lr=0.02)
    of_round, of_clients = tuned_by("centralized", federation, flags)
    assert of_round["tuned_mean"] == of_round["tuned_mean:epoch 2"] < of_round["tuned_mean:epoch 0"]
    assert of_clients["tuned_accuracy"] == of_clients["tuned_accuracy:epoch 2"]


@pytest.mark.parametrize("name", ["cfkd", "independent", "centralized", "fedgkt"])
def test_there_is_no_local_column_where_the_answer_is_what_the_clients_trained(name):
    federation = federation_for(name)
    of_round, of_clients = tuned_by(name, federation, request(name, ft_epochs=1))
    assert not [column for column in (*of_round, *of_clients) if column.startswith("local")]


@pytest.mark.parametrize("K", [1, 3, 10, 11, 23, 100])
def test_the_spread_over_clients_by_hand(K):
    values = np.random.default_rng(K).permutation(K) / 128.0
    result = evaluation._spread(dict(enumerate(values.tolist())))
    tenth = sorted(values)[: {1: 1, 3: 1, 10: 1, 11: 2, 23: 3, 100: 10}[K]]
    assert result["worst"] == min(values)
    assert result["best"] == max(values)
    assert result["worst_tenth"] == pytest.approx(sum(tenth) / len(tenth), abs=1e-15)
    assert result["mean"] == pytest.approx(sum(values) / K, abs=1e-15)
    assert result["std_clients"] == pytest.approx(math.sqrt(sum((values - sum(values) / K) ** 2) / K), abs=1e-15)
    assert len(result) == 5


def test_every_column_of_a_round_is_the_spread_of_the_column_of_the_clients():
    federation = federation_for()
    of_round, of_clients = tuned_by("fedavg", federation, request())
    stems = {"sent": [""], "local": [""], "tuned": ["", ":epoch 0", ":epoch 1", ":epoch 2"]}
    assert of_clients.keys() == {f"{what}_accuracy{end}" for what in stems for end in stems[what]}
    expected = {}
    for what in stems:
        for end in stems[what]:
            spread = evaluation._spread(of_clients[f"{what}_accuracy{end}"])
            expected |= {f"{what}_{name}{end}": value for name, value in spread.items()}
    assert of_round == expected


def test_fine_tuning_that_diverges_names_its_rate():
    federation, flags = federation_for(dtype=torch.float32), request(ft_epochs=5, ft_lr=1e30)
    _, done = play(federation, flags)
    with pytest.raises(DivergedError) as raised:
        tuned_by("fedavg", federation, flags, done)
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    assert line.startswith("fedavg: the loss or the weights of client 0 are not finite after epoch 1 ")
    assert "a smaller --ft_lr (now 1e+30) may help" in line


@pytest.mark.parametrize("run_experiment", ["--ft_part head", "--ft_lr 0.1", "--ft_lr 0.1 --ft_epochs 0"])
def test_what_says_how_to_fine_tune_is_refused_where_nothing_is_fine_tuned(run_experiment):
    classes = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
    line = line_of(commandline.parse, ["fedavg", *run_experiment.split()], classes, dict.fromkeys(classes, ""))
    flag, value, *_ = run_experiment.split()
    assert line == f"{flag} {value}: applies only with --ft_epochs above 0"


# --- fine-tuning at the end of a run ---

RUN = {"rounds": 3, "batch_size": 16, "lr": 0.01, "participation": 0.7, "partition": "lda", "alpha": 0.5, "image_size": 8}
TUNED = {"ft_epochs": 2, "ft_lr": 0.05, "ft_part": "head"}


def run_of(name, export, **flags):
    return experiment.run(prepared(name, export, **RUN, **flags))


def untimed(frame):
    return frame.drop(columns=list(saves.TIMING))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{whether it fine-tunes: a run of FedBABU}."""
    return {
        bool(flags): run_of("fedbabu", tmp_path_factory.mktemp("tuned" if flags else "plain"), **flags)
        for flags in ({}, TUNED)
    }


def test_a_run_is_the_same_but_for_the_columns_of_fine_tuning(runs, tmp_path):
    others = [run_of("cfkd", tmp_path, **flags) for flags in ({}, TUNED)]
    for plain, tuned in ((runs[False], runs[True]), others):
        columns = list(plain.history.columns)
        assert untuned(tuned.history.columns) == columns
        assert len(tuned.history.columns) > len(columns)
        pd.testing.assert_frame_equal(untimed(plain.history), untimed(tuned.history[columns]), check_exact=True)
        item, other = (run.checkpoint()["state"] for run in (plain, tuned))
        assert digest(item) == digest(other)
        assert digest(plain.weights()) == digest(tuned.weights())


def test_fine_tuning_is_told_in_the_last_round_alone(runs):
    rounds = runs[True].rounds.set_index("round")
    columns = [name for name in rounds if name not in untuned(rounds.columns)]
    assert rounds[columns].loc[3].notna().all()
    assert rounds[columns].loc[:2].isna().all(axis=None)
    clients = runs[True].clients
    assert list(clients[clients["tuned_accuracy"].notna()]["client"]) == [0, 1, 2]


def test_the_summary_has_what_clients_made_of_the_last_model(runs):
    last, result = runs[True].rounds.iloc[-1], runs[True].summary()
    assert [result[f"tuned_{name}"] for name in ("mean", "std_clients", "worst")] == [
        last[f"tuned_{name}"] for name in ("mean", "std_clients", "worst")
    ]
    assert result["tuned_by_epoch"] == [last[f"tuned_mean:epoch {epoch}"] for epoch in (0, 1, 2)]
    assert result["tuned_by_epoch"][0] == last["sent_mean"] == pytest.approx(result["personal_mean"], abs=1e-15)
    assert result["tuned_by_epoch"][-1] == result["tuned_mean"] != result["tuned_by_epoch"][0]
    accuracies = [value for value in runs[True].clients["tuned_accuracy"] if not math.isnan(value)]
    assert result["tuned_mean"] == pytest.approx(sum(accuracies) / 3)
    assert result["tuned_worst"] == min(accuracies)


def test_without_fine_tuning_the_summary_says_that_there_was_none(runs):
    result = runs[False].summary()
    nothing = dict.fromkeys(("tuned_mean", "tuned_std_clients", "tuned_worst", "tuned_by_epoch"))
    assert {name: result[name] for name in result if name.startswith("tuned")} == nothing
    assert result.keys() == runs[True].summary().keys()


@pytest.mark.parametrize("place", ["communicate", "personalise"])
def test_a_run_stopped_in_its_last_round_fine_tunes_as_if_it_had_not_been(place, runs, tmp_path, monkeypatch):
    run_experiment = prepared("fedbabu", tmp_path, **RUN, **TUNED)
    where = measuring if place == "personalise" else algorithms.ALGORITHMS["fedbabu"]
    inner = getattr(where, place)

    def stopped(federation, *rest):
        done = inner(federation, *rest)
        if place == "personalise" or federation.round == 3:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(where, place, stopped)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(run_experiment)
    monkeypatch.setattr(where, place, inner)
    assert saves.saved_round(run_experiment.folder) == 2
    resumed = experiment.run(run_experiment)
    pd.testing.assert_frame_equal(untimed(resumed.history), untimed(runs[True].history), check_exact=True)
    assert digest(resumed.weights()) == digest(runs[True].weights())


def test_how_a_run_fine_tunes_is_part_of_its_name(tmp_path):
    others = [{}, TUNED, {**TUNED, "ft_epochs": 3}, {**TUNED, "ft_lr": 0.1}, {**TUNED, "ft_part": "full"}]
    assert len({prepared("fedbabu", tmp_path, **RUN, **flags).folder for flags in others}) == len(others)


# --- models that have not changed ------------------------------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch):
    """The clients whose models are evaluated."""
    clients, scores = [], evaluation._scores

    def counted(federation, k, *args, **options):
        clients.append(k)
        return scores(federation, k, *args, **options)

    monkeypatch.setattr(evaluation, "_scores", counted)
    return clients


def same_evaluation(first, second):
    return (
        first.of_round == second.of_round
        and first.of_clients == second.of_clients
        and all(torch.equal(first.confusion[name], second.confusion[name]) for name in first.confusion)
    )


@pytest.mark.parametrize("name", ["independent", "ditto", "fedproto", "fedrep"])
def test_a_client_with_the_same_weights_is_not_evaluated_again_and_has_the_same_accuracy(name, scored):
    """With one client a round, the others' personal models stay; a shared body changes the models of all clients."""
    federation, flags = federation_for(name, participation=0.4), request(name)
    state, remembered = algorithms.module_of(flags).start(federation, flags), {}
    for r in range(1, 5):
        done = algorithms.module_of(flags).communicate(federation.at(r), state, flags)
        scored.clear()
        evaluated = evaluate(federation, SPLIT, done, ("auc",), remembered)
        clients = list(scored)
        assert same_evaluation(evaluated, evaluate(federation, SPLIT, done, ("auc",)))
        (trained,) = done.clients
        personal = list(federation.clients) if r == 1 or name == "fedrep" else [trained]
        assert sorted(clients) == sorted({"ditto": [0], "fedproto": personal}.get(name, []) + personal), "global: client 0"


def test_a_new_row_at_the_address_of_an_old_one_is_evaluated_and_no_row_is_kept_alive(scored):
    """The reference to a row that is gone matches nothing, whatever is in its memory now."""
    federation, remembered = tiny_federation(), {}
    rows = [federation.initial(k) for k in federation.clients]
    evaluate(federation, SPLIT, Round([], torch.zeros(0), {"personal": model_of(federation, rows)}), (), remembered)
    gone = weakref.ref(rows[1]["classifier.weight"])
    rows[1] = None
    assert gone() is None
    rows[1] = federation.initial(1)
    scored.clear()
    evaluate(federation, SPLIT, Round([], torch.zeros(0), {"personal": model_of(federation, rows)}), (), remembered)
    assert scored == [1]


def test_a_row_that_is_made_for_each_call_is_evaluated_every_time(scored):
    """Its tensors are gone in both evaluations, so nothing says that they were the same."""
    federation, remembered = tiny_federation(), {}
    for r in range(2):
        rows = [federation.initial(k + r) for k in federation.clients]
        mixture = model_of(federation, lambda k, rows=rows: {name: w * 1 for name, w in rows[k].items()})
        scored.clear()
        evaluate(federation, SPLIT, Round([], torch.zeros(0), {"personal": mixture}), (), remembered)
        assert sorted(scored) == [0, 1, 2]


def test_a_row_with_one_other_tensor_is_another_row(scored):
    federation, remembered = tiny_federation(), {}
    rows = [federation.initial(k) for k in federation.clients]
    evaluate(federation, SPLIT, Round([], torch.zeros(0), {"personal": model_of(federation, rows)}), (), remembered)
    rows[2] = {**rows[2], "classifier.bias": rows[2]["classifier.bias"] + 1}
    scored.clear()
    evaluate(federation, SPLIT, Round([], torch.zeros(0), {"personal": model_of(federation, rows)}), (), remembered)
    assert scored == [2]


def test_models_without_known_weights_are_always_evaluated(scored):
    federation, remembered = tiny_federation(), {}
    done = Round([], torch.zeros(0), {"personal": lambda k: Fixed(k)})
    for _ in range(2):
        evaluate(federation, SPLIT, done, (), remembered)
    assert scored == [0, 1, 2] * 2


def test_a_run_evaluates_each_new_row_once(tmp_path, scored):
    """Of one client a round: the models of all three in round 1, then that of the client that trained."""
    experiment.run(prepared("independent", tmp_path, rounds=3, participation=0.4))
    assert len(scored) == 3 + 1 + 1


# --- new clients -------------------------------------------------------------------------------------------------------

ARRIVING = {**RUN, "n_clients": 2, "new_clients": 2, "partition": "lda", "alpha": 0.5, "validation": 0.1}


@pytest.fixture(scope="module", params=[{}, {"ft_epochs": 2, "ft_part": "head", "ft_lr": 0.1}], ids=["sent", "tuned"])
def arriving(request, tmp_path_factory):
    """FedPer with two clients that train and two new ones: the experiment and its run."""
    run_experiment = prepared("fedper", tmp_path_factory.mktemp("new"), **ARRIVING, **request.param)
    return run_experiment, experiment.run(run_experiment)


def test_a_new_client_takes_no_part_in_training(arriving):
    run_experiment, run = arriving
    federation, split = federation_of(run_experiment), run_experiment.split
    assert list(federation.clients) == [0, 1]
    used = np.concatenate([part.values for part in split.parts])
    assert not np.isin(np.concatenate([part.values for part in split.new.parts]), used).any()
    assert set(run.clients["client"]) == {0, 1}
    assert list(run.new_clients["client"]) == [2, 3]
    assert set(run.new_clients["round"]) == {run_experiment.options.rounds}
    assert len(run.arrays("split")["test_offsets"]) == 5, "all clients"


def test_a_new_client_receives_the_last_body_with_the_initial_head_and_fine_tunes_it_on_its_own_examples(arriving):
    run_experiment, run = arriving
    federation, split, options = federation_of(run_experiment), run_experiment.split, run_experiment.options
    (shared, _), initial = run.weights()["personal"], federation.initial()
    received = {name: initial[name] if name in federation.names("head") else w for name, w in shared.items()}
    assert not all(torch.equal(received[name], initial[name]) for name in received)
    new = replace(federation, shares=[torch.from_numpy(share) for share in split.new.train])
    expected = Round([], torch.zeros(0), {"personal": model_of(new, received)})
    _, of_clients = personalise(new, split.new, expected, options)
    assert list(of_clients["sent_accuracy"]) == [0, 1]
    for name, by_client in of_clients.items():
        if name.startswith("sent") or options.ft_epochs:
            assert run.new_clients[f"new_{name}"].tolist() == list(by_client.values())
    tuned = [name for name in run.rounds if name.startswith("new_tuned")]
    assert bool(tuned) == bool(options.ft_epochs)
    assert run.summary()["new_sent_mean"] == pytest.approx(np.mean(list(of_clients["sent_accuracy"].values())))


def test_participants_of_a_run_with_new_clients_learn_what_they_learn_without_them(arriving, tmp_path):
    """A split file with the same shares and nobody else."""
    run_experiment, run = arriving
    split = run_experiment.split
    rows = [
        (int(i), k, part)
        for part in ("train", "validation", "test")
        for k, share in enumerate(getattr(split, part))
        for i in share
    ]
    pd.DataFrame(rows, columns=["example", "client", "part"]).to_csv(tmp_path / "split.csv", index=False)
    flags = {**ARRIVING, "new_clients": 0, "validation": 0.0, "partition_file": str(tmp_path / "split.csv")}
    flags |= {"partition": "dirichlet", "alpha": math.inf, "reduced": 1.0}
    assert digest(experiment.run(prepared("fedper", tmp_path, **flags)).weights()) == digest(run.weights())


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_each_algorithm_has_a_model_for_a_new_client_or_says_that_it_has_none(name, caplog):
    """The model is what the server has learned: not the initial one, and the same for every client of an architecture."""
    federation, options = federation_for(name), request(name)
    state, done = play(federation, options)
    arrived = SimpleNamespace(split=SimpleNamespace(new=True), options=options)
    model_for = measuring._model_of_new_clients(arrived, federation, done, state)
    if name == "data_exchange":  # which has one with a parameter server only
        assert model_for is None
        assert "sends no model to a new client" in caplog.text
        return
    assert (model_for is None) == (getattr(algorithms.ALGORITHMS[name], "new_clients", "") is None)
    if model_for is None:
        assert "global" not in done.models
        return
    first, other = weights_of(model_for, 0), weights_of(model_for, 1)
    assert digest(first) == digest(other)
    assert name == "fml" or digest(first) != digest(federation.initial())
