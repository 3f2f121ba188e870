"""The bare loops do Chorus's work, and end at its very networks where nothing is drawn. The page shows what is recorded."""

from dataclasses import replace

import pytest
import torch

import experiment
from checks.bench import bare, contestants, results, rounds
from checks.bench.jobs import JOBS, Job

# batches are whole shares, and the other client of two is the one that is observed: the loop has nothing to draw
UNDRAWN = "--dataset digits --reduced 0.1 --n_clients 2 --partition iid --rounds 2 --batch_size 1000 --track_history 0"
SMALL = {
    "fedavg": "fedavg --model LeNet5_classic --optimizer sgd --lr 0.5",
    "fedbabu": "fedbabu --model CNN4 --lr_schedule constant --lr 0.01",
    "cfkd": "cfkd --n_avg 1000",
    "fedgkt": "fedgkt --model ResNet4 --server_model ResNet5 --validation 0 --epochs_server 2",
}


@pytest.mark.parametrize("best", (False, True))
@pytest.mark.parametrize("name", SMALL)
def test_a_bare_loop_ends_at_the_networks_of_chorus_where_nothing_is_drawn(name, best, tmp_path):
    run_experiment = contestants.prepared(Job("", f"{SMALL[name]} {UNDRAWN}", 0))
    run = experiment.run(replace(run_experiment, folder=tmp_path / "run"))
    loop = bare.Loop(contestants.work_of(run_experiment), best)
    playing = bare.ROUNDS[name](loop)
    next(playing)
    answers = next(playing)
    assert loop.steps == run.rounds[["steps", "steps:server"]].to_numpy().sum()
    x, y = loop.work.test
    kinds = list(run.weights())
    assert len(kinds) == len(answers)
    for kind, of_kind in zip(kinds, answers, strict=True):
        for k, answer in enumerate(of_kind):
            theirs = run.model(k, kind)
            with torch.no_grad():
                torch.testing.assert_close(loop.outputs(answer, x)[1], theirs(x)[1], atol=2e-3, rtol=2e-3)


def a_sample(**others):
    return {"training": 2.0, "test": 1.0, "command": 20.0, "cores": 30.0, "accuracy": 0.9, "steps": 100, **others}


def test_other_steps_or_another_accuracy_is_other_work_and_so_are_other_bits_of_chorus():
    taken = {"Chorus, 1 worker": [a_sample()], "Chorus, 2 workers": [a_sample()], "bare loop": [a_sample(accuracy=0.88)]}
    assert rounds.others(taken, JOBS["fedavg"]) == []
    assert len(rounds.others({**taken, "Chorus, 2 workers": [a_sample(accuracy=0.9001)]}, JOBS["fedavg"])) == 1
    assert len(rounds.others({**taken, "bare loop": [a_sample(steps=99), a_sample(accuracy=0.8)]}, JOBS["fedavg"])) == 2


def test_a_sample_is_the_median_over_all_rounds_but_the_first_and_a_round_has_its_test_where_every_round_has_one():
    kept = results.summary({"rounds": [9.0, 1.0, 2.0, 6.0], "tests": [7.0, 3.0, 4.0, 5.0], **a_sample()})
    assert (kept["training"], kept["test"]) == (2.0, 4.0)
    taken = {results.YARDSTICK: [kept, {**kept, "training": 8.0}, {**kept, "training": 4.0}], "another": [kept]}

    def cells(job):
        (row,) = (line for line in results.describe(taken, {}, JOBS[job]).splitlines() if "another" in line)
        return row.split(" | ")[3:5]

    assert cells("fedavg") == ["6.00 (6.00, 6.00)", "1.33"], "(4 + 4) / (2 + 4)"
    assert cells("cfkd") == ["2.00 (2.00, 2.00)", "2.00"], "4 / 2: the only test comes after the last round"


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """Copies of the pages that are made from what is recorded."""
    for name in ("PAGE", "README"):
        path = tmp_path / name
        path.write_text(getattr(results, name).read_text())
        monkeypatch.setattr(results, name, path)


def test_samples_of_the_same_code_and_machine_are_added_and_others_replaced(tmp_path, monkeypatch, pages):
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    results.PAGE.write_text("# Speed\n\n<!-- bench rounds: begin -->\n\n<!-- bench rounds: end -->\n\nMore.\n")
    here = {"cores": 2, "processor": "x", "versions": {"torch": "2"}, "source": "1", "revision": "a", "data": ""}
    by_name = {
        "command": "c",
        "here": here,
        "taken": {results.YARDSTICK: [a_sample()], "Chorus, 1 worker": [a_sample()]},
        "absent": {},
    }
    results.record("rounds", "fedavg", by_name)
    results.record("rounds", "fedavg", {**by_name, "here": {**here, "revision": "b"}})
    assert len(results.read()["rounds"]["fedavg"]["taken"][results.YARDSTICK]) == 2
    page = results.PAGE.read_text()
    assert "n = 2;" in page
    results.write()
    assert results.PAGE.read_text() == page
    results.record("rounds", "fedavg", {**by_name, "here": {**here, "source": "2"}})
    assert len(results.read()["rounds"]["fedavg"]["taken"][results.YARDSTICK]) == 1


def test_the_pages_show_what_is_recorded(pages):
    before = results.PAGE.read_text(), results.README.read_text()
    results.write()
    assert (results.PAGE.read_text(), results.README.read_text()) == before
