"""What is done for one run does not grow with the clients that exist, only with those that take part: counted, not timed."""

import sys

import numpy as np
import pytest
import torch
from conftest import tiny_data

import algorithms
import experiment
import saves
from data.partition import arrays, from_file, table
from experiment import federation_of, measuring, preparation, prepare
from experiment.checkpoints import Checkpoints
from figures import clients, confusion, split
from figures.groups import ordered
from options import Launch
from saves import workbook

FEW, MORE = 60, 1_200  # the latter more than `saves.MANY`
MUCH = (MORE - FEW) / 4  # calls: one for each client that exists would be four times as many
DATA = tiny_data(n_train=2_400, n_test=1_200, size=4)
FLAGS = {"model": ("MLP",), "rounds": 2, "epoch_per_round": 1, "threads": 1, "dataset": "digits", "partition": "iid"}
FLAGS |= {"batch_size": 64}  # one step a client, of few or of many


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(preparation, "_data", lambda *_: DATA)
    preparation._split.cache_clear()
    yield
    preparation._split.cache_clear()


def prepared(n_clients, export, name="fedavg", taking_part=4, **flags):
    """A run of which as many clients take part in a round however many there are."""
    options = {**FLAGS, "n_clients": n_clients, "participation": taking_part / n_clients, **flags}
    return prepare(algorithms.options_of(name)(algorithm=name, **options), Launch(export_dir=export))


def calls_of(work):
    """(what work() returns, how many functions are called meanwhile, Python's and those of C)."""
    n = 0

    def count(frame, event, function):
        nonlocal n
        n += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        return work(), n
    finally:
        sys.setprofile(None)


def test_no_function_is_called_for_each_client_that_exists(tmp_path):
    """Of a split that is drawn at once, the federation, the files; and of the evaluation of one model for all."""
    by_name = {}
    for n_clients in (FEW, FEW, MORE):  # the first time some is done that is not done again
        run_experiment = prepared(n_clients, tmp_path)
        path = tmp_path / f"{n_clients}.npz"
        steps = {
            "draw": lambda n=n_clients: prepared(n, tmp_path, split_seed=1),
            "federate": lambda item=run_experiment: federation_of(item),
            "save": lambda item=run_experiment, path=path: saves.write_arrays(path, arrays(DATA, item.split)),
            "read": lambda item=run_experiment, path=path: from_file(path, DATA, len(item.split.train)),
            "count": lambda item=run_experiment: table(DATA, item.split),
        }
        preparation._split.cache_clear()
        by_name[n_clients] = {what: calls_of(work)[1] for what, work in steps.items()}
    for what, n in by_name[FEW].items():
        assert abs(by_name[MORE][what] - n) < MUCH, what


def test_rounds_and_their_evaluation_call_nothing_for_each_client_that_exists(tmp_path):
    by_name = {}
    for n_clients in (FEW, FEW, MORE):
        run_experiment = prepared(n_clients, tmp_path)
        federation = federation_of(run_experiment)
        state, _ = measuring.start(run_experiment, federation)
        measuring.play(run_experiment, federation, state, 1)  # what is done once, such as counting operations
        (_, entry, _), n = calls_of(lambda item=run_experiment, state=state, f=federation: measuring.play(item, f, state, 2))
        assert len(saves.numbers(entry["clients"]["client"])) == n_clients, (
            "after the last round everyone's accuracy is told"
        )
        finished = Checkpoints(tmp_path, 2, state, [entry], {}).last
        by_name[n_clients] = n, calls_of(lambda tree=finished: saves.write_checkpoint(tmp_path, tree))[1]
    for more, few in zip(by_name[MORE], by_name[FEW], strict=True):
        assert abs(more - few) < MUCH


@pytest.mark.parametrize("name", ["fedavg", "fedper"])
def test_a_state_has_rows_of_those_that_took_part(name, tmp_path):
    run_experiment = prepared(MORE, tmp_path, name)
    federation = federation_of(run_experiment)
    state, _ = measuring.start(run_experiment, federation)
    done = run_experiment.module.communicate(federation.at(1), state, run_experiment.options)
    assert len(done.clients) == 4
    assert set(state["own"]) == (set(done.clients) if name == "fedper" else set())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of few clients and one of many."""
    export = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "_data", lambda *_: DATA)
        return {n: experiment.run(prepared(n, export, rounds=3, validation=0.2)) for n in (FEW, MORE)}


def test_a_history_of_many_has_those_that_trained_and_all_after_the_last_round(runs):
    for n_clients, run in runs.items():
        result = run.clients.groupby("round")
        assert result.size().to_dict() == (
            {1: n_clients, 2: n_clients, 3: n_clients} if n_clients == FEW else {1: 4, 2: 4, 3: MORE}
        )
        trained = run.clients[run.clients["round"] == 2].dropna(subset=["loss"])
        assert len(trained) == 4
        assert trained["personal_accuracy"].notna().all()
        # the row of a round is of all its clients, told or not
        last = run.clients[run.clients["round"] == 3]
        for what in ("personal", "validation"):
            values = last[f"{what}_accuracy"].to_numpy()
            assert run.rounds.iloc[-1][f"{what}_mean"] == pytest.approx(values.mean(), abs=1e-12)
            assert run.rounds.iloc[-1][f"{what}_worst"] == values.min()
        assert run.rounds["personal_mean"].notna().sum() == 3


def test_files_of_many_have_as_many_arrays_and_the_workbook_has_an_end(runs):
    few, many = runs.values()
    for name in ("split", "confusion"):
        assert few.arrays(name).keys() == many.arrays(name).keys()
    sheet = workbook._cut(workbook._last_clients(many), saves.MANY)
    assert len(sheet) == saves.MANY
    assert sheet["loss"].notna()[:4].all()
    assert "1200 rows" in sheet.iloc[-1, 0]


def test_pictures_of_many_show_how_many_have_how_much(runs):
    few, many = runs.values()
    rows = [split.panel(run.arrays("split"), most=split.MAX_CLIENTS).marks[0].values.shape for run in (few, many)]
    assert rows[0] == (FEW, 3)
    assert rows[1][1] == 4, "three classes and all of them"
    own = confusion.counts(many, own=True)
    assert own.sum() == 1_200
    right = own.trace() / own.sum()
    assert right == pytest.approx(many.clients[many.clients["round"] == 3]["personal_accuracy"].mean()), "one each"
    panel = clients.panel(ordered([many]))
    shown = [mark for mark in panel.marks if len(mark.hover) == saves.MANY]
    assert len(shown) == 1
    everyone = 100 * many.clients[many.clients["round"] == 3]["personal_accuracy"].sort_values().to_numpy()
    assert (shown[0].x[0], shown[0].x[-1]) == (everyone[0], everyone[-1])
    (mean,) = [mark.x[0] for mark in panel.marks if isinstance(mark.hover, str) and "mean over clients" in mark.hover]
    assert mean == pytest.approx(everyone.mean())


def test_the_tensors_of_all_shares_are_views_of_one(tmp_path):
    run_experiment = prepared(MORE, tmp_path)
    federation = federation_of(run_experiment)
    pointers = {share.untyped_storage().data_ptr() for share in federation.shares}
    assert len(pointers) == 1
    assert all(
        torch.equal(share, torch.from_numpy(own))
        for share, own in zip(federation.shares, run_experiment.split.train, strict=True)
    )
    assert np.array_equal(federation.sizes([0, 7]), run_experiment.split.train.sizes[[0, 7]])
