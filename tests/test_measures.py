"""Measures beside accuracy: against formulas written out, and in what is told of a run."""

import numpy as np
import pytest
import torch
from conftest import play, tiny_data, tiny_federation, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_algorithms import every_case, federation_for, options_of

import run as command
import saves
from data.partition import Split
from experiment.evaluation import evaluate
from figures import table
from measures import BINS, MEASURES


@st.composite
def predictions(draw):
    """(y int64 [n], probabilities [n, C])."""
    n, n_classes = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    p = generator.dirichlet(np.full(n_classes, draw(st.sampled_from([0.1, 1.0, 5.0]))), n)
    return generator.integers(0, n_classes, n), p


def slow(name, y, p):
    """The same by loops over classes, pairs and bins."""
    result, present = p.argmax(1), sorted(set(y))
    if name == "recall":
        n = [sum(y == c) for c in range(p.shape[1])]
        return [sum((result == c) & (y == c)) / n[c] if n[c] else np.nan for c in range(p.shape[1])]
    if name == "balanced_accuracy":
        return np.mean([sum((result == c) & (y == c)) / sum(y == c) for c in present])
    if name == "macro_f1":
        hits = [(sum((result == c) & (y == c)), sum(result == c), sum(y == c)) for c in present]
        return np.mean([2 * hit / (actual + true) for hit, actual, true in hits])
    if name == "auc":
        pairs = [[(a > b) + (a == b) / 2 for a in p[y == c, c] for b in p[y != c, c]] for c in present]
        return np.mean([np.mean(of_class) for of_class in pairs])
    gap = 0.0
    for b in range(BINS):
        inside = [i for i in range(len(y)) if b / BINS <= p[i].max() < (b + 1) / BINS or (b == BINS - 1 and p[i].max() == 1)]
        gap += abs(sum(result[i] == y[i] for i in inside) - sum(p[i].max() for i in inside)) / len(y)
    return 1 - gap


@settings(deadline=None, max_examples=60)
@given(predictions(), st.sampled_from(list(MEASURES)))
def test_a_measure_is_what_a_slow_loop_finds(sample, name):
    y, p = sample
    if name == "auc" and len(set(y)) == 1:
        assert np.isnan(MEASURES[name](y, p))
    else:
        assert MEASURES[name](y, p) == pytest.approx(slow(name, y, p), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", MEASURES)
def test_whoever_knows_it_all_has_1(name):
    y = np.arange(12) % 3
    assert np.all(MEASURES[name](y, np.eye(3)[y]) == 1)


def test_who_says_one_class_is_right_of_one_class_and_sure_without_reason():
    y, p = np.arange(12) % 3, np.tile([1.0, 0, 0], (12, 1))
    assert MEASURES["balanced_accuracy"](y, p) == pytest.approx(1 / 3)
    assert MEASURES["macro_f1"](y, p) == pytest.approx((2 * 4 / (12 + 4)) / 3)
    assert MEASURES["auc"](y, p) == 0.5
    assert MEASURES["calibration"](y, p) == pytest.approx(1 / 3)


def test_equal_classes_have_the_accuracy_for_a_balanced_one():
    y = np.arange(30) % 3
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    assert MEASURES["balanced_accuracy"](y, p) == pytest.approx((p.argmax(1) == y).mean())


def split_of(federation):
    """Each client's own test examples: some of the tiny test set, of the last client of one class alone."""
    n = len(federation.data.test)
    test = np.array(federation.data.test)
    return Split(federation.shares, [[]] * 3, [test[: n // 2], test[n // 2 :: 2], test[n // 2 + 1 :: 6]])


@every_case
def test_what_is_measured_changes_nothing_else_and_is_that_of_the_answers(case):
    federation = federation_for(case)
    _, done = play(federation, options_of(case))
    split = split_of(federation)
    plain, measured = evaluate(federation, split, done), evaluate(federation, split, done, tuple(MEASURES))
    assert {name: measured.of_round[name] for name in plain.of_round} == plain.of_round
    assert {name: measured.of_clients[name] for name in plain.of_clients} == plain.of_clients
    more = set(measured.of_round) - set(plain.of_round)
    assert {name.split(":")[0].split("_")[0] for name in more} == {"global", "personal"}
    for name in (*MEASURES.keys() - {"recall"}, "recall_0", "recall_2"):
        assert 0 <= measured.of_round[f"global_{name}_mean"] <= 1


def test_global_and_personal_are_of_the_whole_test_set_and_of_ones_own():
    federation = tiny_federation(tiny_data(n_test=36), model="MLP")
    _, done = play(federation, options_of("ditto"))
    split = split_of(federation)
    result = evaluate(federation, split, done, ("auc", "macro_f1"))
    y = federation.data.y
    for k in federation.clients:
        with torch.no_grad():
            model = federation.model(k, weights_of(done.models["personal"], k))
            p = model(federation.data.images(torch.arange(len(y)), torch.float64))[1].softmax(1).numpy()
        own, whole = split.test[k], np.array(federation.data.test)
        for where, i in (("global", whole), ("personal", own)):
            if len(set(y[i].tolist())) > 1:
                expected = slow("auc", y[i].numpy(), p[i])
                assert result.of_clients[f"{where}_auc"][k] == pytest.approx(expected)
    one_class = {k for k in federation.clients if len(set(y[split.test[k]].tolist())) == 1}
    assert one_class, "a client whose own examples are of one class has no area"
    assert result.of_clients["personal_auc"].keys() == set(federation.clients) - one_class
    assert result.of_clients["personal_macro_f1"].keys() == set(federation.clients)


def test_a_measure_is_shown_by_its_name_and_said_how_to_get_where_it_is_not(tmp_path, capsys):
    words = f"fedavg --dataset digits --reduced 0.1 --model MLP --rounds 1 --n_clients 2 --quiet --export_dir {tmp_path}"
    assert command.main([*words.split(), "--measure", "auc,macro_f1"]) == 0
    (run,) = saves.find(tmp_path)
    for name in ("auc", "personal_auc", "macro_f1", "personal_macro_f1"):
        of, _, measure = name.rpartition("personal_")
        value = run.rounds.iloc[-1][f"{'personal' if name != measure else 'global'}_{measure}_mean"]
        capsys.readouterr()
        table.main([str(tmp_path), "--metric", name])
        assert f"{100 * value:.2f}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        table.main([str(tmp_path), "--metric", "calibration"])
    assert "it requires --measure calibration" in capsys.readouterr().err
    assert command.main([*words.split(), "--measure", "accuracy"]) == 2
    assert "must be one of balanced_accuracy, macro_f1, auc, calibration" in capsys.readouterr().err


def test_the_recall_of_a_class_is_in_the_table_and_of_clients_with_examples_of_the_class(tmp_path, capsys):
    words = f"fedavg --dataset digits --reduced 0.1 --model MLP --rounds 1 --n_clients 2 --quiet --export_dir {tmp_path}"
    split = "--partition lda --alpha 0.1"
    assert command.main([*words.split(), *split.split(), "--measure", "recall"]) == 0
    (run,) = saves.find(tmp_path)
    confusion, last = run.arrays("confusion"), run.rounds.iloc[-1]
    (matrix,) = confusion["test"]
    for c in range(10):
        assert last[f"global_recall_{c}_mean"] == pytest.approx(matrix[c, c] / matrix[c].sum())
        own = [
            confusion["own_true"][a:b] for a, b in zip(confusion["own_offsets"], confusion["own_offsets"][1:], strict=False)
        ]
        clients = run.clients.set_index("client")
        holders = [k for k in (0, 1) if c in own[k]]
        assert [k for k in (0, 1) if not np.isnan(clients.get(f"personal_recall_{c}", {}).get(k, np.nan))] == holders
    capsys.readouterr()
    table.main([str(tmp_path), "--metric", "recall_3"])
    assert f"{100 * last['global_recall_3_mean']:.2f}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        table.main([str(tmp_path), "--metric", "recall"])
    assert "no run has this metric; must be one of global, personal, worst, recall_0, recall_1" in capsys.readouterr().err
