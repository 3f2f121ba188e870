"""One experiment: the same bits whatever came before, killed or interrupted; and never an old result for new code."""

import gc
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, line_of, tiny_federation

import algorithms
import experiment
import run
import saves
from data import partition
from data.datasets import Source
from errors import DivergedError
from experiment import checkpoints, divergence, identity, measuring, preparation, rounds
from helpers import Round
from options import Launch, Number, flag
from saves import workbook

QUICK = {
    "dataset": "digits",
    "n_clients": 3,
    "rounds": 3,
    "reduced": 0.1,
    "model": ("MLP",),
    "threads": 1,
    "batch_size": 16,
    "lr": 0.01,
    "track_features": 4,
}


OWN = {
    "mhmd": {"model": ("CNN4",)},
    "fedgkt": {"model": ("ResNet4",), "server_model": "ResNet4", "epochs_server": 1, "validation": 0.0, "image_size": 12},
    "fedmd": {"pretrain_epochs": 1},
    "feddf": {"epoch_per_round": 1, "distill_steps": 0},  # theirs are many
    "moon": {"epoch_per_round": 1},
}


def prepared(name: str, export: Path, **flags) -> experiment.Experiment:
    options = {"algorithm": name, **QUICK, **flags, **OWN.get(name, {})}
    return experiment.prepare(algorithms.options_of(name)(**options), Launch(export_dir=export))


def untimed(run: saves.Run) -> pd.DataFrame:
    return run.history.drop(columns=list(saves.TIMING))


def assert_same(item: saves.Run, other: saves.Run) -> None:
    """The same histories, all columns but those of time, weights, confusion and features, to the last bit."""
    pd.testing.assert_frame_equal(untimed(item), untimed(other), check_exact=True)
    a, b = (torch.load(run.folder / "weights.pt", weights_only=True) for run in (item, other))
    assert a.keys() == b.keys()
    for name in a:
        rows = zip(a[name], b[name], strict=True) if isinstance(a[name], list) else [(a[name], b[name])]
        assert all(torch.equal(left[key], right[key]) for left, right in rows for key in left)
    for name in ("confusion", "features"):
        kept, again = item.arrays(name), other.arrays(name)
        assert kept.keys() == again.keys()
        assert all(np.array_equal(kept[part], again[part]) for part in kept)


@pytest.fixture
def no_workbooks(monkeypatch):
    """They take a third of the time of so small a run; that of every method is written in the next test."""
    monkeypatch.setattr(workbook, "write", lambda path, run: path.write_bytes(b""))


NAMES = [*algorithms.ALGORITHMS, *(f"{name} --as_published" for name in algorithms.PUBLISHED)]


RANDOM = {"rounds": 2, "model": ("CNNMnist",), "augment": "crop_flip_cutout", "lr_schedule": "cosine", "clip_grad": 1.0}
UNCLIPPED = {"scaffold": {"variate": 1}}  # the other one needs steps that are not clipped


def test_histories_are_the_same_in_two_folders_whatever_ran_before(tmp_path, request):
    """With dropout and augmentation, which draw. (Without them: the next test but two runs each method in two folders.)"""

    def everything(names, folder):
        results = {}
        for name in names:
            algorithm, _, quirks = name.partition(" ")
            flags = {"as_published": True} if quirks else UNCLIPPED.get(name, {})
            results[name] = experiment.run(prepared(algorithm, folder, **flags, **RANDOM))
            torch.rand(3), np.random.random()  # noqa: NPY002  # what else a process may draw
        return results

    item = everything(NAMES, tmp_path / "a")
    request.getfixturevalue("no_workbooks")  # a second time
    other = everything(reversed(NAMES), tmp_path / "b")
    for name in NAMES:
        assert item[name].folder.name == other[name].folder.name
        assert_same(item[name], other[name])


def test_all_algorithms_train_on_one_split(tmp_path):
    """Also where a part of the data is public, from which few of them learn."""
    for public_share in (0.1, 0.3):
        experiments = [
            prepared(name, tmp_path, partition="lda", public_share=public_share) for name in algorithms.ALGORITHMS
        ]
        assert len({run_experiment.split.digest for run_experiment in experiments}) == 1
        assert len(experiments[0].split.public) == int(public_share * int(QUICK["reduced"] * 1437 + 1e-9) + 1e-9)


@pytest.mark.parametrize("name", ["fedmd", "feddf"])
def test_who_learns_from_public_examples_is_refused_without(name, tmp_path):
    assert line_of(partial(prepared, public_share=0.0), name, tmp_path) == (
        f"{name}: requires public examples, but there are none; add --public_share 0.1"
    )


def test_public_examples_of_another_data_set_are_behind_ones_own_and_named_by_what_is_in_them(tmp_path):
    def of(labels, name):
        x = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
        parts = {"x_train": x[:20], "y_train": labels[:20], "x_test": x[20:], "y_test": labels[20:]}
        np.savez(tmp_path / name, **parts)
        return prepared("fedavg", tmp_path, public_share=0.5, public_dataset=str(tmp_path / name))

    plain, run_experiment = prepared("fedavg", tmp_path), of(np.arange(30) % 10, "a.npz")
    assert [
        np.array_equal(a.values, b.values) for a, b in zip(plain.split.parts, run_experiment.split.parts, strict=True)
    ] == [True] * 3
    assert len(run_experiment.split.public) == 10
    assert run_experiment.split.public.min() >= len(plain.data.y)
    assert experiment.federation_of(run_experiment).public.tolist() == run_experiment.split.public.tolist()
    assert of(np.arange(30) % 10, "b.npz").folder == run_experiment.folder, "where a file lies is no part of a run"
    assert of(np.arange(30) % 5, "c.npz").folder != run_experiment.folder


KILLED = """
import run, sys
from experiment import checkpoints
checkpoints.SECONDS = 0
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["cfkd", "fedavg", "centralized"])
def test_a_run_killed_half_way_and_started_again_is_the_same_to_the_last_bit(name, tmp_path):
    flags = f"{name} --n_clients 3 --rounds 8 --reduced 0.3 --participation 0.7 --epoch_per_round 3 --threads 1 --quiet"
    flags += " --model CNNMnist --augment crop_flip --lr_schedule step --track_features 4"
    command = [sys.executable, "-c", KILLED, *flags.split(), "--export_dir"]
    assert run.main([*flags.split(), "--jobs", "1", "--workers", "1", "--export_dir", str(tmp_path / "whole")]) == 0
    with subprocess.Popen([*command, str(tmp_path / "killed")], cwd=ROOT) as process:
        deadline = time.monotonic() + 120
        while not (result := list((tmp_path / "killed").glob("*/checkpoint-*.pt"))) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (result[0].parent / "done").exists()
    assert 0 < saves.saved_round(result[0].parent) < 8
    again = subprocess.run([*command, str(tmp_path / "killed")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "resumed after round" in again.stderr
    (item,), (other,) = saves.find(tmp_path / "whole"), saves.find(tmp_path / "killed")
    assert_same(item, other)


@pytest.fixture
def rounds_run(monkeypatch):
    """The rounds that a run executes."""
    result, play = [], rounds.play
    monkeypatch.setattr(rounds, "play", lambda *args: result.append(args[3]) or play(*args))
    return result


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_a_finished_one_of_fewer_rounds_to_the_same_bits(name, tmp_path, rounds_run, no_workbooks):
    algorithm, _, quirks = name.partition(" ")
    flags = {"participation": 0.7, "ft_epochs": 1, "validation": 0.2, "lr_schedule": "constant"}
    flags |= {"as_published": True} if quirks else {}
    for n in (1, 3):
        shorter = experiment.run(prepared(algorithm, tmp_path / "a", rounds=n, **flags))
    before = untimed(shorter)
    run_experiment = experiment.run(prepared(algorithm, tmp_path / "a", rounds=4, **flags))
    assert rounds_run == [1, 2, 3, 4], "of 3 rounds the last two, of 4 the last"
    other = experiment.run(prepared(algorithm, tmp_path / "b", rounds=4, **flags))
    assert_same(run_experiment, other)
    assert untimed(saves.load(shorter.folder)).equals(before), "which stays as it is"


@pytest.mark.parametrize(
    ("flags", "anew"),
    [
        ({}, False),
        ({"track_history": 2}, False),
        ({"track_history": 3}, True),  # which evaluates a last round that is none of a longer run's
        ({"track_history": 0}, True),
        ({"lr_schedule": "step"}, True),
    ],
    ids=str,
)
def test_a_run_goes_on_from_one_of_fewer_rounds_only_where_these_are_its_own(flags, anew, tmp_path, rounds_run):
    experiment.run(prepared("fedavg", tmp_path, rounds=2, **flags))
    experiment.run(prepared("fedavg", tmp_path, rounds=2, **flags, seed=1))
    rounds_run.clear()
    longer = experiment.run(prepared("fedavg", tmp_path, rounds=4, **flags))
    assert rounds_run == ([1, 2, 3, 4] if anew else [3, 4])
    rounds_run.clear()
    longer = saves.load(shutil.copytree(longer.folder, tmp_path / "longer" / longer.folder.name))
    assert_same(experiment.run(prepared("fedavg", tmp_path, rounds=4, **flags), force=True), longer)
    assert rounds_run == [1, 2, 3, 4], "forced, from the beginning"
    rounds_run.clear()
    experiment.run(prepared("fedavg", tmp_path, rounds=4, **flags, momentum=0.5, optimizer="sgd"))
    assert rounds_run == [1, 2, 3, 4], "other settings"


def test_a_run_of_many_clients_begins_anew(tmp_path, rounds_run, monkeypatch):
    monkeypatch.setattr(saves, "MANY", 2)
    for n in (1, 2):
        experiment.run(prepared("fedavg", tmp_path, rounds=n))
    assert rounds_run == [1, 1, 2], "its history has between the rounds those that trained"


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_an_interrupted_run_goes_on_from_the_last_finished_round(name, tmp_path, monkeypatch, no_workbooks):
    whole = experiment.run(prepared(name, tmp_path / "whole"))
    cut, module = prepared(name, tmp_path / "cut"), algorithms.ALGORITHMS[name]
    communicate = module.communicate

    def interrupted(federation, state, options):
        done = communicate(federation, state, options)  # the state has moved on, and must not be what is saved
        if federation.round == 2:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(module, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(cut)
    monkeypatch.setattr(module, "communicate", communicate)
    assert saves.saved_round(cut.folder) == 1
    assert_same(whole, experiment.run(cut))


@pytest.fixture
def writes(monkeypatch):
    """Played by a clock of the test's own -> (seconds of a round, seconds of a write of a checkpoint) -> the rounds whose
    checkpoints were written, after a number of rounds."""
    now, write, play_one = [0.0], saves.write_checkpoint, rounds.play

    def written(export: Path, n: int, of_a_round: float, of_a_write: float) -> list[int]:
        results = []

        def slow_write(folder, checkpoint):
            results.append(checkpoint["round"])
            now[0] += of_a_write
            write(folder, checkpoint)

        def slow_play(*args):
            now[0] += of_a_round
            return play_one(*args)

        monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(saves, "write_checkpoint", slow_write)
        monkeypatch.setattr(rounds, "play", slow_play)
        experiment.run(prepared("fedavg", export, rounds=n, track_features=0))
        return results

    return written


def test_a_checkpoint_is_written_where_that_takes_no_more_than_a_fiftieth_of_the_work_since_the_last(writes, tmp_path):
    assert writes(tmp_path, 12, of_a_round=1.0, of_a_write=0.07) == [2, 6, 10, 12], (
        "the first is thought to take 0.02 s and a little, more than a second pays for; the others take the work of 3.5 s"
    )


def test_a_checkpoint_is_written_after_a_minute_at_the_latest(writes, tmp_path):
    assert writes(tmp_path, 8, of_a_round=25.0, of_a_write=9.0) == [1, 4, 7, 8]


def test_a_checkpoint_of_many_bytes_is_thought_to_take_long_before_the_first_is_written(writes, tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpoints, "FIRST_WRITE", (0.0, 4 * 159_010 / 0.05)
    )  # an MLP's weights in 0.05 s: a history is less
    assert writes(tmp_path, 6, of_a_round=1.0, of_a_write=0.001)[0] == 3


def test_without_patience_a_checkpoint_is_written_after_each_round_and_the_weights_before_the_last(tmp_path, monkeypatch):
    written, rename = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (written.append(to.name.partition("-")[0:3:2]), rename(path, to)))
    monkeypatch.setattr(checkpoints, "SECONDS", 0)
    experiment.run(prepared("fedavg", tmp_path))
    named = [(name, rest.partition("-")[0]) for name, rest in written if name in ("checkpoint", "weights.pt")]
    assert named == [("checkpoint", "1"), ("checkpoint", "2"), ("weights.pt", ""), ("checkpoint", "3")]


@pytest.mark.parametrize("where", ["the rounds", "the weights", "a logger"])
def test_wherever_a_run_is_interrupted_it_goes_on_from_the_last_finished_round(where, tmp_path, monkeypatch):
    whole, cut = experiment.run(prepared("cfkd", tmp_path / "whole")), prepared("cfkd", tmp_path / "cut")
    play_one, write = rounds.play, saves.write_tensors

    def interrupted(name, path, tree):
        if path.name == name:
            raise KeyboardInterrupt
        write(path, tree)

    def play_and_stop(*args):
        done = play_one(*args)
        if args[3] == 3:
            raise KeyboardInterrupt
        return done

    def stop(row):
        if row["round"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if where == "the rounds":
            patch.setattr(rounds, "play", play_and_stop)
        if where == "the weights":
            patch.setattr(saves, "write_tensors", partial(interrupted, "weights.pt"))
        experiment.run(cut, watch=stop if where == "a logger" else lambda row: None)
    assert saves.saved_round(cut.folder) == (3 if where == "a logger" else 2)
    assert_same(whole, experiment.run(cut))


def test_a_finished_run_is_returned_as_it_is_unless_forced(tmp_path):
    run_experiment = prepared("fedavg", tmp_path)
    recorded: list[int] = []
    first = experiment.run(run_experiment, watch=lambda row: recorded.append(row["round"]))
    experiment.run(run_experiment, watch=lambda row: recorded.append(row["round"]))
    assert recorded == [1, 2, 3]
    first = saves.load(shutil.copytree(first.folder, tmp_path / "first" / first.folder.name))
    again = experiment.run(run_experiment, force=True, watch=lambda row: recorded.append(row["round"]))
    assert recorded == [1, 2, 3] * 2
    assert_same(first, again)


def test_a_run_is_done_only_when_all_of_it_is_written_and_what_is_missing_is_written_later(tmp_path, monkeypatch):
    run_experiment, recorded = prepared("fedavg", tmp_path), []
    with monkeypatch.context() as full_disk:
        full_disk.setattr(workbook, "write", lambda *_: 1 / 0)  # the last thing before
        with pytest.raises(ZeroDivisionError):
            experiment.run(run_experiment)
    assert not (run_experiment.folder / "done").exists()
    assert experiment.run(run_experiment, watch=recorded.append).done
    assert (run_experiment.folder / "history.xlsx").exists()
    assert recorded == [], "no round is played again"


def test_changed_code_makes_a_new_run_beside_the_old_one(tmp_path, monkeypatch):
    old = prepared("fedavg", tmp_path)
    experiment.run(old)
    assert experiment.earlier(old.folder) is None
    sources = identity._sources
    monkeypatch.setattr(identity, "_sources", lambda algorithm: [*sources(algorithm), "# a change"])
    new = prepared("fedavg", tmp_path)
    assert new.folder != old.folder
    assert experiment.earlier(new.folder) == old.folder
    assert not new.folder.exists()
    assert (old.folder / "done").exists()
    (old.folder / "done").unlink()
    assert experiment.earlier(new.folder) is None, "one that is not finished is not spoken of"


@pytest.mark.parametrize("what", ["torch", "numpy", "processor", "device"])
def test_another_library_or_processor_makes_a_new_run_beside_the_old_one(what, tmp_path, monkeypatch):
    old, environment = prepared("fedavg", tmp_path).folder, identity._environment
    monkeypatch.setattr(identity, "_environment", lambda device: {**environment(device), what: "another"})
    new = prepared("fedavg", tmp_path).folder
    assert new != old
    assert new.name.rpartition("-")[0] == old.name.rpartition("-")[0], "what was asked for is the same"


def test_the_name_of_a_run_covers_every_option_the_split_and_the_data(tmp_path, monkeypatch):
    other = {
        "reduced": 0.2, "reduced_draw": "random", "n_clients": 4, "partition": "lda", "alpha": 0.3, "validation": 0.2,
        "split_seed": 1, "model": ("LeNet5",), "rounds": 4, "epoch_per_round": 2, "batch_size": 8, "lr": 0.1,
        "optimizer": "sgd", "weight_decay": 0.1, "participation": 0.5, "track_history": 2, "seed": 1, "threads": 2,
        "image_size": 16, "augment": "flip", "lr_schedule": "cosine", "clip_grad": 1.0,
        "lambda_kd": 1.0, "lambda_disc": 2.0, "n_avg": 3, "as_published": True,
    }  # fmt: skip
    names = [prepared("cfkd", tmp_path).folder.name]
    names += [prepared("cfkd", tmp_path, **{name: value}).folder.name for name, value in other.items()]
    split = prepared("cfkd", tmp_path).split
    monkeypatch.setattr(preparation, "_split", lambda *_: replace(split, test=split.test[::-1]))
    names.append(prepared("cfkd", tmp_path).folder.name)
    data = preparation._data("digits", None, Source())
    monkeypatch.setattr(preparation, "_data", lambda *_: replace(data, mean=data.mean + 1))
    names.append(prepared("cfkd", tmp_path).folder.name)
    assert len(set(names)) == len(names)


def test_a_flag_that_is_newer_leaves_the_identity_of_older_runs_as_it_is_while_it_is_off(tmp_path, monkeypatch):
    plain = algorithms.fedavg.Options

    @dataclass(frozen=True)
    class Newer(plain):
        straggling: float = flag(0.0, Number(float, least=0), "a flag of tomorrow", legacy_value=0.0)

    older = experiment.prepare(plain(**QUICK, algorithm="fedavg"), Launch(export_dir=tmp_path)).config
    monkeypatch.setattr(algorithms, "options_of", lambda name: Newer)
    off, on = (
        experiment.prepare(Newer(**QUICK, algorithm="fedavg", straggling=value), Launch(export_dir=tmp_path)).config
        for value in (0.0, 0.5)
    )
    assert "straggling" in off["options"]
    assert identity.request_digest(off) == identity.request_digest(older) != identity.request_digest(on)


def test_the_order_of_the_options_and_the_device_are_no_part_of_what_is_asked_for(tmp_path):
    config = prepared("fedavg", tmp_path).config
    turned = {**config, "options": dict(reversed({**config["options"], "device": "cuda:0"}.items()))}
    assert identity.request_digest(turned) == identity.request_digest(config)
    assert identity.request_digest({**config, "options": {**config["options"], "lr": 0.5}}) != identity.request_digest(
        config
    )


def test_a_file_is_what_is_in_it_and_not_where_it_lies(tmp_path):
    flags = {"n_clients": 3, "partition": "iid"}
    written = experiment.save_split(prepared("fedavg", tmp_path, **flags))
    names = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(written, tmp_path / folder / "split.npz")
        names.append(prepared("fedavg", tmp_path, partition_file=str(tmp_path / folder / "split.npz")).folder.name)
    assert names[0] == names[1]
    for folder, edges in (("a", "0 1\n1 2\n"), ("b", "0 1\n1 2\n"), ("c", "0 1\n0 2\n")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "edges.txt").write_text(edges)
    graphs = [
        prepared("dpsgd", tmp_path, n_clients=3, topology="file", topology_file=tmp_path / folder / "edges.txt").folder.name
        for folder in "abc"
    ]
    assert graphs[0] == graphs[1] != graphs[2]


def test_what_carried_a_run_out_is_told_where_it_is_not_todays(tmp_path):
    today = prepared("fedavg", tmp_path).config
    assert identity.carried_out(today, today) == ""
    library = {**today, "source": "another", "environment": {**today["environment"], "torch": "1.0"}}
    assert identity.carried_out(library, today) == "torch 1.0"
    code = {**today, "source": "another", "revision": "0123abcd"}
    assert identity.carried_out(code, today) == "code of 0123abcd"


def test_auto_is_resolved_before_a_run_is_named(tmp_path):
    options = prepared("fedavg", tmp_path, threads="auto").options
    assert options.threads == 1
    assert options.device.startswith(("cpu", "cuda:"))
    config = prepared("fedavg", tmp_path, device="auto").config
    assert "auto" not in json.dumps(config)


def test_the_configuration_names_what_a_result_depends_on(tmp_path):
    run_experiment = prepared("cfkd", tmp_path)
    config = experiment.run(run_experiment).config
    assert config["split"] == run_experiment.split.digest
    assert config["data"]["digest"] == run_experiment.data.digest
    assert config["environment"]["torch"] == torch.__version__
    assert config["environment"]["processor"].endswith(torch.backends.cpu.get_cpu_capability())
    assert config["options"]["threads"] == 1
    assert len(config["source"]) == 64


def test_a_server_whose_loss_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """Also in the last round, and where no client would notice."""
    from algorithms import fedgkt

    monkeypatch.setattr(fedgkt, "server_loss", lambda model, batch, context, options: model(batch.x)[1].sum() * math.nan)
    with pytest.raises(DivergedError, match="fedgkt: the training loss of the server is nan in round 1"):
        experiment.run(prepared("fedgkt", tmp_path, rounds=1, distill_client="0"))


def test_preparing_writes_nothing(tmp_path):
    prepared("fedavg", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_says_who_and_when(tmp_path):
    run_experiment = prepared("independent", tmp_path, lr=1e30, optimizer="sgd", rounds=20)
    with pytest.raises(DivergedError, match=r"independent: the training loss of client \d is (nan|inf) in round \d"):
        experiment.run(run_experiment)
    assert not (run_experiment.folder / "done").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_loss_but_a_finite_one_stops_a_run_at_once(value, tmp_path):
    flags = prepared("independent", tmp_path).options

    def check(loss):
        divergence.stop(
            flags, divergence.in_round(tiny_federation(), Round([0, 2], torch.tensor([1.0, loss]), {}), {}, {}), 2
        )

    check(1e30)
    with pytest.raises(DivergedError, match=f"the training loss of client 2 is {value} in round 2"):
        check(value)


def test_the_log_has_the_command_and_the_traceback(tmp_path, monkeypatch):
    run_experiment = prepared("fedavg", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "fedavg", "--rounds", "3"])
    monkeypatch.setattr(algorithms.fedavg, "aggregate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        experiment.run(run_experiment)
    text = (run_experiment.folder / "run.log").read_text()
    assert "run.py fedavg --rounds 3" in text
    assert "ZeroDivisionError" in text


@pytest.mark.parametrize(("every", "evaluated"), [(0, [5]), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5])])
def test_track_history_is_the_interval_of_evaluations_and_the_last_round_always_is_one(every, evaluated, tmp_path):
    rounds = experiment.run(prepared("fedavg", tmp_path, rounds=5, track_history=every)).rounds
    assert list(rounds.dropna(subset=["global_mean"])["round"]) == evaluated


def test_round_0_holds_what_is_sent_before_the_first_round(tmp_path):
    rounds = experiment.run(prepared("centralized", tmp_path)).rounds.set_index("round")
    n = sum(map(len, prepared("centralized", tmp_path).split.train))
    assert list(rounds["bytes_up"]) == [n * (28 * 28 + 8), 0, 0, 0]  # an image in uint8 and a label in int64
    assert list(rounds["steps"])[0] == 0


def test_the_split_that_is_drawn_is_the_split_that_is_saved(tmp_path):
    run_experiment = prepared("independent", tmp_path, partition="lda", alpha=0.4)
    run = experiment.run(run_experiment)
    with np.load(run.folder / "split.npz") as saved:
        for k in range(3):
            assert np.array_equal(saved["train"][slice(*saved["train_offsets"][k : k + 2])], run_experiment.split.train[k])
        assert np.array_equal(saved["table"], partition.table(run_experiment.data, run_experiment.split))


# --- memory --------------------------------------------------------------------------------------------------------------


def test_a_round_leaves_no_tensor_behind(tmp_path):
    """A small tensor that stays keeps a large free block from being used again: memory grew by 0.2 MB a round."""
    results = []

    def count(row):
        if isinstance(row, dict):
            gc.collect()
            results.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))

    experiment.run(prepared("fedavg", tmp_path, rounds=8, track_history=1, track_features=0), watch=count)
    assert results[2:7] == [results[2]] * 5, "the first rounds fill what is kept once, the last one writes"


def test_a_resumed_adam_counts_its_steps_on_the_processor():
    """On a GPU a step would wait for its counter; all else moves to the device ("meta" stands for it)."""
    adam = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    saved = {"state": {"memory": [{"w": adam}, None], "step": torch.zeros(1)}, "history": [], "files": {}, "round": 1}
    state, *_ = checkpoints.from_checkpoint(saved, torch.device("meta"))
    assert state["memory"][0]["w"]["step"] is adam["step"]
    assert {state["memory"][0]["w"][name].device.type for name in ("exp_avg", "exp_avg_sq")} == {"meta"}
    assert state["step"].device.type == "meta", "a tensor of that name that is no counter of Adam's"


def test_a_convolution_in_float32_is_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    preparation.federation_of(prepared("fedavg", tmp_path))
    assert not torch.backends.cudnn.allow_tf32


ROUND = Round([0, 1], torch.zeros(2), {"global": lambda k: None})


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "communicate returns NoneType; must return helpers.Round(clients, loss, models)"),
        (([0, 1], torch.zeros(2)), "communicate returns tuple"),
        (ROUND._replace(loss=[0.0, 0.0]), "the loss of a Round is list; must be a tensor [2], a loss per client"),
        (ROUND._replace(loss=torch.zeros(())), "the loss of a Round has the shape []; must be a tensor [2]"),
        (ROUND._replace(loss=torch.zeros(1)), "has the shape [1]"),
        (ROUND._replace(clients=[], loss=torch.zeros(2)), "must be a tensor [1]"),
        (ROUND._replace(models={}), "the models of a Round must be {name: function of k}"),
        (ROUND._replace(models={"global": {"w": torch.zeros(2)}}), "the models of a Round must be"),
        (ROUND._replace(models={"global": torch.nn.Linear(1, 1)}), "the models of a Round must be"),
    ],
)
def test_what_is_no_result_of_a_round_is_one_line(result, words):
    assert words in measuring._problem_of(result)


def test_the_result_of_a_round_has_no_problem_with_clients_or_with_the_server_alone():
    assert not measuring._problem_of(ROUND)
    assert not measuring._problem_of(ROUND._replace(clients=[], loss=torch.zeros(1)))


def test_a_state_that_is_no_dict_and_a_model_that_is_no_network_are_one_line(tmp_path, monkeypatch):
    run_experiment = prepared("fedavg", tmp_path)
    module = algorithms.ALGORITHMS["fedavg"]
    communicate = module.communicate
    monkeypatch.setattr(module, "communicate", lambda *words: communicate(*words)._replace(models={"global": lambda k: {}}))
    assert "returns dict; must return a network" in line_of(experiment.run, run_experiment)
    monkeypatch.setattr(module, "start", lambda federation, options: None)
    assert line_of(experiment.run, run_experiment) == "fedavg: start returns NoneType; must return the state, a dict"


def test_a_commit_is_dirty_where_python_files_differ_and_not_where_results_do(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    monkeypatch.setattr(identity, "HERE", tmp_path)
    revision = identity.revision.__wrapped__
    assert revision() is None
    for name in ("code.py", "results.csv"):
        (tmp_path / name).write_text("1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    clean = revision()
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    (tmp_path / "results.csv").write_text("2\n")
    assert revision() == clean
    (tmp_path / "code.py").write_text("2\n")
    assert revision() == f"{clean}-dirty"
