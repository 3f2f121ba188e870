"""Numbers that are not finite: who is named, and that a run goes on with them where it is to."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import play, tiny_federation
from test_algorithms import MODULES, federation_for, options_of
from test_evaluation import federation_for as federation_of_tuning
from test_evaluation import prepared
from test_measures import split_of

import experiment
import run as command
import saves
from errors import DivergedError
from experiment import divergence, measuring
from experiment.divergence import SERVER
from experiment.evaluation import personalise
from experiment.preparation import Experiment
from federation.meter import finite
from figures import representations
from helpers import Round, cross_entropy, train
from measures import MEASURES

LOST = {"lr": 1e30, "weight_decay": 1e30}  # one step leads out of all numbers, from a loss that is one


def lost(case, settings, **flags) -> tuple[Experiment, object]:
    """An experiment of the tiny federation, in float32, whose weights one step makes infinite; and the federation."""
    options = options_of(case, **LOST, rounds=2, on_divergence=settings, measure=tuple(MEASURES), **flags)
    federation = federation_for(case, dtype=torch.float32)
    return Experiment(options, federation.data, split_of(federation), None, Path(), {}), federation


def entries(item, federation):
    """What the history says of each round."""
    state, entry = measuring.start(item, federation)
    result, done = [entry], None
    for r in range(1, item.options.rounds + 1):
        done, entry, _ = measuring.play(item, federation, state, r, before=done)
        result.append(entry)
    return result


@pytest.mark.parametrize("case", MODULES)
def test_every_algorithm_goes_on_to_the_end_or_names_the_first_in_its_round(case):
    result = entries(*lost(case, "continue"))
    diverged = [divergence._parties(entry, divergence.ROUND) for entry in result]
    assert any(diverged)
    assert diverged[-1], "what is not finite once never is again"
    last = result[-1]
    of_clients = {name: saves.numbers(column).copy() for name, column in last["clients"].items()}
    for columns in (last["round"], of_clients):
        named = [name for name in columns if name.startswith(("global_", "personal_"))]
        named = [name for name in named if "loss" not in name and "recall" not in name]  # of a class without examples: NaN
        accuracies = torch.cat([torch.as_tensor(columns[name]).flatten().double() for name in named])
        assert len(accuracies)
        assert ((accuracies >= 0) & (accuracies <= 1)).all()
    assert [entry["round"].get("diverged") for entry in result] == [
        float(sum(who != SERVER for who in parties)) if parties else None for parties in diverged
    ]
    first = next(r for r, parties in enumerate(diverged) if parties)
    with pytest.raises(DivergedError) as raised:
        entries(*lost(case, "stop"))
    line = str(raised.value)
    who = diverged[first][0]
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{case.split()[0]}: ")
    assert f" {who if who == SERVER else f'client {who}'} " in line
    assert f" {f'in round {first}' if first else 'before round 1'}; " in line
    assert "--lr (now 1e+30)" in line


ONE_EXAMPLE = (
    "fedavg",
    "moon",
    "fedbabu",
    "mhmd",
    "perfedavg",
    "apfl",
    "cfkd",
    "fedproto",
    "fml",
    "fedmd",
    "feddf",
    "fedgkt",
)


@pytest.mark.parametrize("case", ONE_EXAMPLE)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_client_with_one_example_trains_layers_of_batch_norm(case, batch_size):
    """They normalise over the places of its image, and what comes of it is finite."""
    model = "CNN4" if case == "mhmd" else "ResNet8"
    federation = federation_for(case, shares=[range(1), range(10, 30), range(30, 34)], model=model, dtype=torch.float32)
    assert federation.names("bn")
    options = options_of(case, batch_size=batch_size)
    module = MODULES[case]
    state = module.start(federation, options)
    assert not divergence.in_round(federation, None, state, {})
    done = module.communicate(federation.at(1), state, options)
    assert not divergence.in_round(federation, done, state, {})
    answer = next(iter(done.models.values()))
    assert answer(0)(federation.data.images(torch.arange(3)))[1].isfinite().all()


def test_the_last_step_of_a_client_is_looked_at_too():
    """Its loss was finite before that step, and no later one tells."""
    federation, options = tiny_federation(dtype=torch.float32), options_of("fedavg", **LOST, batch_size=30, rounds=1)
    trained = train(federation, [1], [federation.initial()], cross_entropy, options)
    assert trained.loss.isfinite().all()
    assert federation.meter.diverged == {("client", 1)}
    result = divergence.in_round(federation, Round([1], trained.loss, {}), {}, {})
    with pytest.raises(DivergedError, match="fedavg: the loss or the weights of client 1 are not finite in round 7; "):
        divergence.stop(options, result, 7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_number_among_many_that_is_not_finite_is_found(value, dtype):
    rows = [torch.full((3, 5), torch.finfo(dtype).max, dtype=dtype), torch.zeros(0), torch.arange(4)]
    assert finite(rows)
    assert finite([-rows[0], *rows])
    spoiled = rows[0].clone()
    spoiled[1, 2] = value
    assert not finite([*rows, spoiled])
    assert finite([])


def test_what_is_new_in_a_state_is_laid_to_the_client_whose_row_it_is_or_to_the_server():
    federation, nan = tiny_federation(), torch.tensor([0.0, math.nan])
    sound = {"a": torch.ones(2)}
    before = {"server": sound, "weights": [sound] * 3, "own": {1: sound}, "pairs": [sound, sound]}

    def find_result(**changed):
        return list(divergence.in_round(federation, None, {**before, **changed}, before))

    assert find_result() == []
    assert find_result(server={"a": nan}) == [SERVER]
    assert find_result(server=[sound, {"a": nan}, sound]) == [SERVER], "models of three architectures"
    assert find_result(weights=[sound, sound, {"a": nan, "deep": [nan] * 3}]) == [2]
    assert find_result(own={1: sound, 0: {"a": nan}}) == [0]
    assert find_result(pairs=[{"a": nan}, sound]) == [SERVER], "not a row a client"
    assert find_result(n=torch.tensor([3])) == []
    before = {**before, "server": {"a": nan}}
    assert find_result() == [], "said when it came"


def test_clients_that_fail_leave_nothing_that_could_be_named():
    item, federation = lost("fedavg", "stop", client_failure=1.0)
    state, _ = measuring.start(item, federation)
    done, entry, _ = measuring.play(item, federation, state, 1)
    assert done.clients == []
    assert "diverged" not in entry["round"]


def test_a_run_that_does_not_diverge_is_the_same_either_way_but_for_its_name(tmp_path):
    experiments = [prepared("fedavg", tmp_path, rounds=2, on_divergence=flags) for flags in ("stop", "continue")]
    stops, goes_on = map(experiment.run, experiments)
    assert stops.folder != goes_on.folder
    item, other = (of.history.drop(columns=list(saves.TIMING)) for of in (stops, goes_on))
    assert item.equals(other)
    assert not [name for name in item if "diverged" in name]
    weights = [of.weights()["global"] for of in (stops, goes_on)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert stops.diverged is goes_on.diverged is None


def test_fine_tuning_goes_on_as_well_and_is_counted_apart():
    federation = federation_of_tuning(dtype=torch.float32)
    options = replace(options_of("fedavg"), ft_epochs=2, ft_lr=1e30, weight_decay=1e30, on_divergence="continue")
    _, done = play(federation, replace(options, weight_decay=0.0))
    of_round, of_clients = personalise(federation, split_of(federation), done, options)
    assert of_round["tuned_diverged"] == len(federation.clients)
    assert of_clients["tuned_diverged"] == dict.fromkeys(federation.clients, 1.0)
    assert 0 <= of_round["tuned_mean"] <= 1
    assert math.isfinite(of_round["sent_mean"])


def report(capsys):
    """Standard output and error of what was carried out, and the loggers as before."""
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = []
    return capsys.readouterr()


WORDS = (
    "--dataset digits --n_clients 3 --reduced 0.1 --batch_size 64 --model MLP --optimizer sgd --lr 1e30 --rounds 3 --quiet"
)


def test_a_command_tells_of_it_once_and_its_table_too(tmp_path, capsys, monkeypatch):
    """Also where it was interrupted after it had diverged, with workers and with runs side by side."""
    words = [*WORDS.split(), "--track_features", "3", "--export_dir", str(tmp_path)]
    goes_on = [*words, "--on_divergence", "continue"]
    real = measuring.play

    def interrupted(*args, **others):
        if args[3] == 3:
            raise KeyboardInterrupt
        return real(*args, **others)

    with monkeypatch.context() as patch:
        patch.setattr(experiment.rounds, "play", interrupted)
        assert command.main(["independent", *goes_on, "--jobs", "1"]) != 0
    assert report(capsys).err.count("diverged") == 1
    assert command.main(["independent", *goes_on, "--workers", "2"]) == 0
    after = report(capsys)
    assert "diverged" not in after.err, "it was told before the interruption"
    assert "independent (from round 2)" in " ".join(after.out.split())
    (resumed,) = saves.find(tmp_path)
    assert (resumed.folder / "run.log").read_text().count("client 0 and 2 more diverged in round 2") == 1
    assert resumed.diverged == json.loads(json.dumps(resumed.summary(), allow_nan=False))["diverged"] == 2
    assert resumed.rounds["diverged"].tolist()[2:] == [3, 3]
    assert np.isnan(resumed.rounds["loss"].iloc[-1])
    assert resumed.rounds["personal_mean"].between(0, 1).tolist() == [False, True, True, True], "round 0 has none"
    assert not np.isfinite(resumed.arrays("features")["features_0"][-1]).all()
    with pytest.raises(saves.UserError, match="diverged in all rounds with saved features"):
        representations.features(resumed)

    assert command.main(["independent", "fedavg", *words, "--workers", "1", "--jobs", "2"]) == 1
    lines = [line for line in report(capsys).err.splitlines() if line.startswith("run.py: ")]
    assert [line.split(" (")[0].split(";")[0] for line in lines] == [
        "run.py: independent: the training loss of client 0 is nan in round 2",
        "run.py: fedavg: the training loss of client 0 is nan in round 2",
    ]


@pytest.mark.parametrize("n_classes", [3, 10, 100])
def test_a_model_whose_logits_are_no_numbers_says_the_first_such_class(n_classes):
    logits = torch.arange(40.0 * n_classes).view(40, n_classes)
    logits[:, [1, 2]] = math.nan
    logits[20:] = math.nan
    for result in (logits, logits.T.contiguous().T, logits.to(memory_format=torch.contiguous_format)[::2]):
        n = len(result)
        assert result.argmax(1).tolist() == [1] * (n // 2) + [0] * (n // 2)


def test_measures_of_probabilities_that_are_none_are_not_defined():
    y, p = np.arange(6) % 3, np.full((6, 3), np.nan)
    assert {name: bool(np.isnan(measure(y, p)).any()) for name, measure in MEASURES.items()} == {
        "balanced_accuracy": False,
        "macro_f1": False,
        "recall": False,
        "auc": True,
        "calibration": True,
    }
