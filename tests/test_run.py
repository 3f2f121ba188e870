"""The command line as its users meet it: what it prints where, and what a second call does."""

import codecs
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import closed, keeping

import algorithms
import run as command
import saves
from data.datasets import LOADERS, from_arrays
from experiment import identity
from figures import curves, folder, report, split, status, table, verdict
from figures.compare import compare
from figures.groups import groups
from figures.render import render
from figures.statistics import paired
from figures.units import size

QUICK = "--n_clients 3 --rounds 2 --reduced 0.1 --model MLP --threads 1"
KEYS = [
    *("algorithm", "seed", "split_seed", "folder", "global_mean", "global_std_clients", "global_worst"),
    *("personal_mean", "personal_std_clients", "personal_worst"),
    *("tuned_mean", "tuned_std_clients", "tuned_worst", "tuned_by_epoch", "bytes_up", "bytes_down"),
    *("bytes_between", "steps", "steps_server", "flops", "flops_server", "seconds", "evaluation_seconds"),
    *("diverged", "options"),
]


def main(words: str, export: Path) -> int:
    return command.main([*shlex.split(words), "--export_dir", str(export)])


def test_json_is_one_line_a_run_and_nothing_else_on_standard_output(tmp_path, capsys):
    assert main(f"fedavg cfkd --seed 0 1 {QUICK} --json", tmp_path) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["algorithm"], line["seed"]) for line in lines] == [("fedavg", 0), ("fedavg", 1), ("cfkd", 0), ("cfkd", 1)]
    for line in lines:
        assert list(line) == KEYS
        assert 0 <= line["global_worst"] <= line["global_mean"] <= 1
        assert line == json.loads(json.dumps(saves.load(line["folder"]).summary()))
    assert all(line["global_std_clients"] is None for line in lines[:2])
    assert all(line["global_std_clients"] >= 0 for line in lines[2:])
    assert {line[name] for line in lines for name in KEYS if name.startswith("tuned")} == {None}, "nothing was fine-tuned"


def test_totals_in_json_are_those_of_the_history(tmp_path, capsys):
    main(f"cfkd {QUICK} --json", tmp_path)
    line = json.loads(capsys.readouterr().out)
    clients = saves.load(line["folder"]).clients
    assert line["bytes_up"] == clients["bytes_up"].sum()
    assert line["bytes_down"] == clients["bytes_down"].sum()
    assert (line["steps"], line["flops"]) == (clients["steps"].sum(), clients["flops"].sum())
    assert (line["steps_server"], line["flops_server"]) == (0, 0)


def test_what_the_server_does_is_none_of_the_clients(tmp_path, capsys):
    gkt = "--model ResNet4 --server_model ResNet5 --epochs_server 3 --batch_size 64 --validation 0 --image_size 12"
    main(f"fedgkt {QUICK.replace('--model MLP', gkt)} --rounds 1 --json".replace("--rounds 2 ", ""), tmp_path)
    line = json.loads(capsys.readouterr().out)
    of_clients = saves.load(line["folder"]).clients
    batches = sum(-(-n // 64) for n in of_clients["samples"])
    assert line["steps"] == of_clients["steps"].sum() == batches, "one epoch of each client"
    assert line["steps_server"] == 3 * -(-int(of_clients["samples"].sum()) // 64), "three epochs over all that arrived"
    assert line["flops"] == of_clients["flops"].sum()
    assert line["flops_server"] > line["flops"], "the larger network, three times"
    main(f"centralized {QUICK} --json", tmp_path)
    line = json.loads(capsys.readouterr().out)
    assert (line["steps"], line["flops"]) == (0, 0), "clients do nothing but send"
    assert line["steps_server"] > 0


def test_the_split_is_shown_before_the_first_round_and_the_table_after_the_last(tmp_path, capsys):
    assert main(f"fedavg independent {QUICK}", tmp_path) == 0
    out = capsys.readouterr().out
    assert out.index("training examples by client and class") < out.index("gain over alone")
    counts = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit() and len(line.split()) == 13]
    assert sum(int(row[-2]) for row in counts) == 143  # a tenth of 1,437 training images
    assert sum(int(row[-1]) for row in counts) == 360
    assert "one seed is only an illustration; for a comparison use --seed 0 1 2 3 4 --split_seed seed" in out
    assert all(run.folder.name in out for run in saves.find(tmp_path))


def test_a_second_call_returns_the_finished_runs_and_says_so(tmp_path, capsys):
    main(f"fedavg {QUICK}", tmp_path)
    before = capsys.readouterr().out
    (done,) = tmp_path.glob("*/done")
    stamp = done.stat().st_mtime_ns
    main(f"fedavg {QUICK}", tmp_path)
    after = capsys.readouterr().out
    assert f"already finished, reading {done.parent}" in " ".join(after.split())
    assert "training examples by client" not in after
    assert before[before.index("accuracy %") :] == after[after.index("accuracy %") :]
    assert done.stat().st_mtime_ns == stamp


def test_changed_code_is_said_and_run_anew(tmp_path, capsys, monkeypatch):

    main(f"fedavg {QUICK}", tmp_path)
    monkeypatch.setattr(identity, "_sources", lambda algorithm: ["changed"])
    main(f"fedavg {QUICK}", tmp_path)
    assert "changed since" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*/done"))) == 2


def test_the_gain_is_over_the_independent_run_on_the_same_split(tmp_path, capsys):
    main(f"cfkd {QUICK} --alpha 0.5", tmp_path)
    out = capsys.readouterr().out
    (hint,) = re.findall(r"^gain over learning alone not shown.*\n  python run\.py ((?:.*\\\n)*.*)", out, re.M)
    assert command.main(shlex.split(hint.replace("\\\n", ""))) == 0  # a command that works, in several lines
    capsys.readouterr()
    main(f"cfkd {QUICK} --alpha 0.5", tmp_path)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cfkd ")]
    results = {run.options["algorithm"]: run.summary() for run in saves.find(tmp_path)}
    gains = [100 * (results["cfkd"][name] - results["independent"][name]) for name in ("global_mean", "personal_mean")]
    assert re.findall(r"[+-][\d.]+", row) == [f"{round(gain, 2) + 0.0:+.2f}" for gain in gains]


def test_quiet_prints_the_table_only_and_no_terminal_means_no_bar(tmp_path, capsys):
    main(f"fedavg {QUICK} --quiet", tmp_path)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.lstrip().startswith("accuracy %")
    main(f"cfkd {QUICK}", tmp_path)
    assert capsys.readouterr().err == ""


def test_shared_defaults_hold_for_all_and_the_output_says_so(tmp_path, capsys):
    main(f"fedavg independent {QUICK}", tmp_path)
    assert "fedavg uses the shared defaults --epoch_per_round 1 --batch_size 32" in capsys.readouterr().out
    assert {run.options["optimizer"] for run in saves.find(tmp_path)} == {"adam"}


def test_a_diverging_run_is_told_in_one_line_and_the_others_go_on(tmp_path, capsys):
    assert main(f"independent {QUICK} --optimizer sgd --lr 1e30 0.01", tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "smaller --lr" in printed.err
    assert len(list(tmp_path.glob("*/done"))) == 1


def test_last_and_best_on_validation_are_both_told(tmp_path, capsys):
    main(f"fedavg {QUICK} --validation 0.2", tmp_path)
    (run,) = saves.find(tmp_path)
    assert f"best on validation: round {run.best_on_validation()['round']:.0f}" in capsys.readouterr().out


def test_help_exits_with_0(capsys):
    with pytest.raises(SystemExit) as exit:
        command.main(["-h"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in algorithms.ALGORITHMS)


# --- a split, a saved configuration, a saved run ---


def test_a_split_is_shown_drawn_and_saved_and_nothing_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "launch", None)
    words = f"fedavg cfkd {QUICK} --partition classes --classes_per_client 4 --seed 0 1 --show_split"
    assert main(words, tmp_path) == 0
    out = capsys.readouterr().out
    png, npz = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert out.count("training examples by client and class") == 1  # one split for all four runs
    assert str(png) in out
    assert png.read_bytes().startswith(b"\x89PNG")
    with np.load(npz) as saved:
        assert ((saved["table"] > 0).sum(1) == 4).all()


def test_many_classes_are_summed_up_on_the_screen(tmp_path, capsys, monkeypatch):
    names = tuple(f"a class with number {c}" for c in range(20))
    x, y = np.zeros((100, 1, 28, 28), np.uint8), np.repeat(np.arange(20), 5)
    monkeypatch.setitem(LOADERS, "digits", lambda source: from_arrays("digits", (x, y), (x, y), names))
    words = "--partition classes --classes_per_client 10 --n_clients 2 --show_split --data_dir elsewhere"
    assert main(words, tmp_path) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    # every client has ten classes of five examples, and none of the ten others
    assert rows == [["client", "classes", "largest", "median", "all", "test"]] + [
        [k, "10", "5", "2", "50", "50"] for k in "01"
    ]


def test_a_saved_split_is_taken_as_it_is(tmp_path, capsys):
    main(f"fedavg {QUICK} --partition lda --alpha 0.5 --validation 0.2", tmp_path)
    (first,) = saves.find(tmp_path)
    split = str(first.folder / "split.npz")
    assert main(f"independent {QUICK.replace('--reduced 0.1', '')} --partition_file '{split}'", tmp_path) == 0
    (second,) = [run for run in saves.find(tmp_path) if run.options["algorithm"] == "independent"]
    assert second.config["split"] == first.config["split"]
    assert second.best_on_validation() is not None  # what was held out is held out


def test_a_saved_configuration_gives_the_identical_run(tmp_path, capsys):
    main(f"cfkd {QUICK} --partition lda --alpha 0.5 --lambda_kd 3", tmp_path)
    (run,) = saves.find(tmp_path)
    capsys.readouterr()
    config = shlex.quote(str(run.folder / "config.json"))
    assert main(f"--config_file {config}", tmp_path) == 0
    assert f"already finished, reading {run.folder}" in " ".join(capsys.readouterr().out.split())
    assert main(f"--config_file {config}", tmp_path / "other") == 0
    (again,) = saves.find(tmp_path / "other")
    assert again.folder.name == run.folder.name
    columns = [name for name in run.history if name not in saves.TIMING]
    pd.testing.assert_frame_equal(again.history[columns], run.history[columns], check_exact=True)


def test_training_goes_on_from_a_saved_run(tmp_path):
    """With a learning rate that moves nothing, the models after the last round are those that the run started from."""
    main(f"fedavg {QUICK} --lr 0.01", tmp_path / "a")
    (first,) = saves.find(tmp_path / "a")
    folder = shlex.quote(str(first.folder))
    main(f"fedavg {QUICK} --lr 1e-30 --init_from {folder}", tmp_path / "b")
    (second,) = saves.find(tmp_path / "b")
    item, other = first.weights()["global"], second.weights()["global"]
    assert all(torch.allclose(item[name], other[name], rtol=1e-6) for name in item)  # averages of equal models
    assert second.config["files"]["init_from"] == saves.digest(item)
    # every client starts from the one model; with models of their own each from its own
    main(f"cfkd {QUICK} --lr 1e-30 --init_from {folder}", tmp_path / "c")
    (third,) = saves.find(tmp_path / "c")
    assert all(torch.equal(row[name], item[name]) for row in third.weights()["personal"] for name in item)
    main(f"independent {QUICK}", tmp_path / "d")
    (own,) = saves.find(tmp_path / "d")
    main(f"fd {QUICK} --lr 1e-30 --init_from {shlex.quote(str(own.folder))}", tmp_path / "e")
    (fifth,) = saves.find(tmp_path / "e")
    rows = zip(own.weights()["personal"], fifth.weights()["personal"], strict=True)
    assert all(torch.equal(a[name], b[name]) for a, b in rows for name in a)
    assert not torch.equal(*(row["classifier.bias"] for row in own.weights()["personal"][:2]))


def test_the_weights_that_a_run_starts_from_are_part_of_its_name(tmp_path):
    """The same folder with other weights in it is another run."""
    main(f"fedavg {QUICK}", tmp_path / "a")
    (first,) = saves.find(tmp_path / "a")
    words = f"fedavg {QUICK} --init_from {shlex.quote(str(first.folder))}"
    main(words, tmp_path / "b")
    weights = first.weights()
    weights["global"]["classifier.bias"] += 1
    keeping(first, "weights.pt", weights)
    main(words, tmp_path / "b")
    assert len({run.config["files"]["init_from"] for run in saves.find(tmp_path / "b")}) == 2


def test_a_run_that_is_asked_for_in_two_ways_counts_once(tmp_path, capsys):
    main(f"fedavg {QUICK} 1 auto", tmp_path)  # its last flag is --threads 1
    assert "over seeds" not in capsys.readouterr().out, "one run is one seed"
    assert len(saves.find(tmp_path)) == 1


def test_runs_that_may_not_be_read_are_listed_and_end_no_grid(open_folder, capsys):
    def of_words(work, *words):
        try:
            status = work([*words])
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    def counts(out):
        rows = [line.split() for line in out.splitlines()]
        return {row[0]: row[1] for row in rows if row and row[0] in ("fedavg", "cfkd", "fd") and row[1].isdigit()}

    words = f"fedavg cfkd fd --seed 0 1 {QUICK} --quiet --jobs 1"
    page, folder = open_folder / "page.html", str(open_folder)
    main(words, open_folder)
    for command_of in (table.main, status.main, lambda argv: report.main([*argv, "-o", str(page)])):
        of_words(command_of, folder)  # what they import late
    codecs.lookup("latin1")  # and what a pickle of bytes is read with
    for path in open_folder.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    page.unlink()
    named = {(run.options["algorithm"], run.options["seed"]): run.folder for run in saves.find(open_folder)}
    whole, history, done = named["fedavg", 0], named["cfkd", 0] / "history.npz", named["fd", 0] / "done"
    with closed(whole, history, done):
        _, out, _ = of_words(table.main, folder, "--columns", "n", "accuracy")
        for path in (whole, history, done):
            run = path if path == whole else path.parent
            assert f"{run.name} skipped: {path}: cannot be read or written" in " ".join(out.split())
        assert counts(out) == {"fedavg": "1", "cfkd": "1", "fd": "1"}
        _, out, err = of_words(table.main, folder, "--csv")
        assert (" skipped: " in out, err.count(" skipped: ")) == (False, 3)
        _, out, _ = of_words(status.main, folder)
        assert out.count("  unreadable") == 3
        assert "6 runs: 3 done, 3 unreadable" in out
        of_words(report.main, folder, "-o", str(page))
        assert page.read_text().count(" skipped: ") == 3
        code, out, err = of_words(lambda argv: main(words, open_folder))
        assert code == 1
        assert err.count("cannot be read or written") == 3
        assert "over seeds" not in out, "one run of each is left"
        longer = words.replace("--rounds 2", "--rounds 3")
        _, _, err = of_words(lambda argv: main(longer, open_folder))
        assert err.count("takes its first 2 rounds from") == 3, "of those that may be read"


def test_a_picture_that_cannot_be_drawn_is_a_warning_and_the_run_is_made(tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise ValueError("no canvas")

    folder._picture_of.cache_clear()
    monkeypatch.setattr(split, "draw_one", broken)
    assert main(f"fedavg {QUICK} --quiet", tmp_path) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("finished and saved, but a picture cannot be drawn: ValueError: no canvas")
    (run,) = saves.find(tmp_path)
    assert not (run.folder / "split.png").exists()


def test_runs_on_one_split_have_the_picture_that_is_drawn_once(tmp_path, monkeypatch):
    """A run on another split has its own; a run whose picture is gone gets it again."""
    drawn, draw_one = [], split.draw_one
    folder._picture_of.cache_clear()
    monkeypatch.setattr(split, "draw_one", lambda saved, png: drawn.append(png) or draw_one(saved, png))
    main(f"fedavg independent {QUICK} --jobs 1 --quiet --split_seed 0 1", tmp_path)
    runs = saves.find(tmp_path)
    pictures = {}
    for run in runs:
        pictures.setdefault(run.config["split"], set()).add((run.folder / "split.png").read_bytes())
    assert len(runs) == 4
    assert len(drawn) == len(pictures) == 2
    assert all(len(of_split) == 1 for of_split in pictures.values())
    (runs[0].folder / "split.png").unlink()
    folder.complete(runs[0])
    assert (runs[0].folder / "split.png").read_bytes() in pictures[runs[0].config["split"]]


@pytest.mark.parametrize("program", ["/usr/bin/chorus", "run.py"])
def test_a_message_begins_with_the_name_of_the_command(program, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [program])
    assert main("fedavg --lr x", tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"{Path(program).name}: --lr x: ")
    main(f"fedavg {QUICK} --lr 1e30 --optimizer sgd --quiet", tmp_path)
    assert capsys.readouterr().err.startswith(f"{Path(program).name}: fedavg: the "), "of a run that failed"


def test_a_public_share_that_leaves_nothing_to_deal_is_told_by_its_own_flag(tmp_path, capsys):
    assert main("fedavg --dataset digits --n_clients 3 --public_share 1", tmp_path) == 2
    assert "run.py: --public_share 1: leaves no training image of digits for the clients" in capsys.readouterr().err
    assert main("fedavg --dataset digits --n_clients 3 --public_share 0.999 --reduced 0.9", tmp_path) == 2
    assert "training images of digits with --reduced 0.9 --public_share 0.999; must be at most" in capsys.readouterr().err


# --- the table and its words ---


class Told:
    """A run that tells what it is told."""

    def __init__(self, algorithm, global_mean, personal_mean, nbytes, seed=0, validation=None, diverged=None, **options):
        self.options = {"algorithm": algorithm, "seed": seed, "split_seed": 0, "n_clients": 2, "rounds": 10, **options}
        accuracies = {"global_mean": global_mean, "personal_mean": personal_mean, "personal_worst": personal_mean}
        self._summary = {**accuracies, "bytes_up": nbytes, "bytes_down": nbytes, "bytes_between": 0, "seconds": 1.0}
        self.diverged = self._summary["diverged"] = diverged
        self._summary |= {"steps": 10, "steps_server": 0, "flops": 1000, "flops_server": 0}
        self.config = {"options": self.options, "data": {"digest": 0}, "split": 0, "environment": {}, "source": ""}
        self.folder = Path(f"{algorithm}-{seed}")
        sent = {"bytes_up": nbytes / 2, "bytes_down": nbytes / 2, "bytes_between": 0}
        self.rounds = pd.DataFrame({"round": [1, 2], **accuracies, **sent})
        if validation is not None:
            self.rounds["validation_mean"] = [0.0, validation]

    @property
    def round_columns(self):
        return {name: column.to_numpy() for name, column in self.rounds.items()}

    def summary(self):
        return self._summary

    def leakage(self):
        return {}

    def arrays(self, name):
        """Of the global test set 6 of 10 are of one class; of the clients' own examples 3 of 4, and all."""
        own = {"own_true": np.array([0, 1, 1, 1, 2, 2]), "own_offsets": np.array([0, 4, 6])}
        return {"test": np.array([[[6, 0, 0], [1, 2, 0], [0, 1, 0]]])} | own if self.classes else None

    classes = False


def test_the_words_name_the_winner_of_each_accuracy_and_the_price():
    base = Told("independent", 0.5, 0.8, 0)
    runs = [Told("fedavg", 0.9, 0.85, 8000), Told("cfkd", 0.6, 0.95, 1000), base, Told("centralized", 0.97, 0.96, 500)]
    first, second, third, *references = verdict.verdict(groups(runs))
    assert "fedavg" in first
    assert "90.0%" in first
    assert "40.0 points above" in first  # 0.9 - 0.5
    assert "cfkd" in second
    assert "15.0 points above" in second  # 0.95 - 0.8
    assert third == "cfkd transfers 8 times fewer bytes than fedavg."
    assert len(references) == 2


def test_nothing_moves_once_fewer_bytes():
    def report(nbytes):
        runs = [Told("fedavg", 0.9, 0.85, 10000), Told("cfkd", 0.6, 0.95, nbytes)]
        return verdict.verdict(groups(runs))[2]

    assert report(9996) == "cfkd and fedavg transfer equally many bytes (within 0.5 %)."
    assert report(10000) == "fedavg and cfkd transfer equally many bytes (within 0.5 %)."
    assert report(9900) == "cfkd transfers 1.01 times fewer bytes than fedavg."


def test_a_winner_that_does_not_beat_independent_learning_is_not_said_to():
    base = Told("independent", 0.5, 0.9, 0)
    lines = verdict.verdict(groups([Told("fedavg", 0.6, 0.7, 1), base]))
    assert "20.0 points below independent learning" in lines[1]


def test_a_lead_within_what_the_seeds_differ_by_is_said_to_be_none():
    def words(leads):
        runs = [Told("fedavg", 0.9, 0.9, 1, seed=seed) for seed in range(3)]
        runs += [Told("cfkd", 0.9 + lead, 0.8, 1, seed=seed) for seed, lead in enumerate(leads)]
        return verdict.verdict(groups(runs))[0]

    # mean 0.01 every time; standard errors 0.03 / sqrt(3) = 0.017, 0.001 / sqrt(3) = 0.0006, and between them 0.004
    assert "; not significantly different from fedavg" in words((0.04, 0.01, -0.02))
    assert "; significantly different from fedavg" in words((0.011, 0.010, 0.009))
    assert "; not significantly different from fedavg" in words((0.017, 0.010, 0.003)), (
        "2.5 standard errors, and Student's 97.5 % is 4.3"
    )


def test_one_seed_or_other_seeds_say_nothing_about_a_difference():
    def words(of_fedavg, of_cfkd):
        runs = [Told("fedavg", 0.9, 0.9, 1, seed=seed) for seed in of_fedavg]
        runs += [Told("cfkd", 0.7, 0.8, 1, seed=seed) for seed in of_cfkd]
        return verdict.verdict(groups(runs))[0]

    assert "significantly" not in words([0], [0])
    assert "not compared with cfkd, which has other seeds" in words([0, 1], [2, 3])
    assert "significantly different from cfkd over the 2 common seeds" in words([0, 1, 2], [1, 2, 3])


def verdict_of(*runs):
    return verdict.verdict(groups(runs))


def test_methods_that_are_equal_are_told_as_equal_and_none_of_them_as_the_best():
    first, second, *_ = verdict_of(Told("fedavg", 0.9, 0.7, 1), Told("fedprox", 0.9, 0.8, 1), Told("fd", 0.5, 0.5, 1))
    assert first == "On the global test set fedavg and fedprox are equally good, with 90.0% each."
    assert "fedprox is the best" in second
    runs = [Told(name, value, value, 1, seed=s) for name in ("fedavg", "fedprox") for s, value in enumerate((0.7, 0.9))]
    first, *others = verdict_of(*runs)
    assert "fedavg and fedprox are equally good" in first
    assert not any("fewer bytes" in line or "significantly different" in line for line in others)


def test_a_run_that_diverged_is_neither_best_nor_chosen():
    first, *_ = verdict_of(Told("fedavg", 0.9, 0.9, 1, diverged=2), Told("cfkd", 0.7, 0.7, 1))
    assert "cfkd is the best" in first
    assert "fedavg" not in first
    runs = [Told("fedavg", 0.9, 0.9, 1, validation=0.9, lr=1, diverged=1), Told("fedavg", 0.8, 0.8, 1, validation=0.6, lr=2)]
    result = verdict_of(*runs, Told("cfkd", 0.7, 0.7, 1, validation=0.5, lr=1))
    assert "fedavg (--lr 2) is the best collaborating method, with 80.0%" in result[1]
    assert verdict.best_on_validation(groups(runs[:1])) == []


def test_what_is_no_better_than_predicting_the_largest_class_is_not_best(monkeypatch):
    monkeypatch.setattr(Told, "classes", True)
    run = Told("fedavg", 0.6, 0.875, 1)
    assert verdict.largest_class_share(run) == 0.6
    assert verdict.largest_class_share(run, "personal") == (3 / 4 + 1) / 2
    assert verdict.no_better_than_largest_class(run)
    first, second, *_ = verdict_of(run, Told("cfkd", 0.55, 0.9, 1))
    assert "no collaborating method is best: each diverged or is no better than predicting the largest class" in first
    assert "cfkd is the best collaborating method, with 90.0%" in second
    assert "fedavg is the best" in verdict_of(Told("fedavg", 0.61, 0.7, 1), Told("cfkd", 0.55, 0.9, 1))[0]


def test_two_methods_that_are_equal_are_told_apart_in_one_comparison_of_twenty():
    draw = np.random.default_rng(0)
    for n in (2, 3, 5):
        values = draw.normal(size=(4000, 2, n))
        apart = sum(paired(dict(enumerate(a)), dict(enumerate(b))).apart for a, b in values) / len(values)
        assert apart == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / len(values)) ** 0.5), "it was .30, .18 and .12"


def test_settings_are_chosen_by_validation_and_never_by_test():
    runs = [Told("fedavg", 0.9, 0.9, 1, validation=0.6, lr=0.1), Told("fedavg", 0.7, 0.7, 1, validation=0.8, lr=0.2)]
    other = Told("cfkd", 0.75, 0.75, 1, validation=0.7, lr=0.1)
    lines = verdict.verdict(groups([*runs, other]))
    assert "validation" in lines[0]
    assert "cfkd" in lines[1]  # 0.75 on test beats the chosen 0.7; the 0.9 was not chosen
    (line,) = verdict.verdict(groups([*(Told("fedavg", 0.9, 0.9, 1, lr=lr) for lr in (1, 2)), other]))
    assert "no method is called best" in line


def saying(algorithm, predicted, *, one_for_all=True, diverged=None, **options):
    """A run on two clients, whose own test examples are of the classes 0 0 0 1 and 2 2: what it said of each of them."""
    true, own = np.array([0, 0, 0, 1, 2, 2]), np.array(predicted)
    right = true == own
    run = Told(algorithm, right.mean(), (right[:4].mean() + right[4:].mean()) / 2, 1, model=["LeNet5"], **options)
    test = np.zeros((1 if one_for_all else 2, 3, 3), int)
    np.add.at(test[0], (true, own), 1)
    kept = {"test": test, "own_true": true, "own_predicted": own, "own_offsets": np.array([0, 4, 6])}
    run.arrays, run.diverged = {"confusion": kept}.get, diverged
    return run


def test_a_run_that_is_right_no_more_often_than_a_constant_answer_is_found():
    """One model: 3 of 6 examples are of class 0. Personal models: 3 / 4 and 2 / 2 for the classes of their clients."""
    find_result = verdict.no_better_than_largest_class
    assert find_result(saying("fedavg", [0, 0, 0, 0, 0, 0]))
    assert find_result(saying("fedavg", [1, 0, 0, 0, 0, 0]))
    assert not find_result(saying("fedavg", [0, 0, 0, 0, 2, 0])), "4 of 6"
    assert find_result(saying("ditto", [0, 0, 0, 0, 2, 2], one_for_all=False)), (
        "5 of 6 are right, as many as by the largest class"
    )
    assert find_result(saying("ditto", [0, 0, 0, 0, 2, 0], one_for_all=False))
    assert not find_result(saying("ditto", [0, 0, 0, 1, 2, 2], one_for_all=False))
    older = saying("fedavg", [0, 0, 0, 0, 0, 0])
    older.arrays = {}.get
    assert not find_result(older), "it did not keep what it said"


def test_clients_of_one_class_each_are_not_at_chance():
    run = saying("ditto", [0, 0, 0, 0, 2, 2], one_for_all=False)
    kept = run.arrays("confusion")
    kept["own_true"] = np.array([0, 0, 0, 0, 2, 2])
    assert not verdict.no_better_than_largest_class(run)


def test_a_run_at_chance_is_told_what_the_defaults_are_made_for():
    def report(*runs):
        return verdict.at_chance(groups(runs))

    (line,) = report(saying("pfedme", [0, 0, 0, 0, 2, 2], one_for_all=False), saying("fedavg", [0, 0, 0, 1, 2, 2]))
    assert line.startswith("pfedme ended no better than the largest class: 87.5% on the clients' own test examples")
    assert f"its defaults are {algorithms.defaults('pfedme')}. Use --rounds 800, a larger --lr or another --model." in line
    assert "800 rounds of softmax regression" in line
    constant = [0, 0, 0, 0, 0, 0]
    (line,) = report(saying("fedopt", constant, rounds=1500, seed=1), saying("fedopt", [0, 0, 0, 1, 2, 2], rounds=1500))
    assert "ended with 1 of 2 seeds no better" in line
    assert line.endswith("Use a larger --lr or another --model.")
    (line,) = report(saying("of_a_plugin", constant))
    assert "defaults" not in line
    assert report(saying("fedavg", constant, diverged=2)) == [], "that is told already"


def test_a_command_whose_run_ends_at_chance_says_so(tmp_path, capsys):
    main(f"fedopt {QUICK.replace('MLP', 'LeNet5')} --lr 1e-9 --server_lr 1e-9", tmp_path)
    out = capsys.readouterr().out
    assert "fedopt ended no better than the largest class" in out
    assert "Use --rounds 1500" in out


def test_the_spread_over_seeds_stands_beside_the_mean_and_says_so():
    runs = [Told("fedavg", value, value, 1, seed=seed) for seed, value in enumerate((0.80, 0.82, 0.84))]
    comparison = compare(runs)
    (row,) = [line.split() for line in render(comparison).splitlines() if line.startswith("fedavg")]
    assert row[1:3] == ["82.00", "±2.00"], "the mean, and the standard deviation of a sample"
    assert "n = 3 seeds, mean ± standard deviation over seeds." in comparison.notes[0]
    assert "±" not in render(compare(runs[:1]))
    assert "n = 1 seed." in compare(runs[:1]).notes[0]


def test_groups_are_told_apart_by_the_options_that_differ():
    runs = [Told("fedavg", 0.5, 0.5, 1, lr=lr) for lr in (0.1, 0.2)]
    text = render(compare(runs))
    assert [line[:18] for line in text.splitlines() if line.startswith("fedavg")] == [
        "fedavg --lr 0.1   ",
        "fedavg --lr 0.2   ",
    ]


@pytest.mark.parametrize(
    ("nbytes", "message"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2_480_000, "2.48 MB"), (5e12, "5 TB")]
)
def test_sizes_are_in_powers_of_1000(nbytes, message):
    assert size(nbytes) == message


def test_curves_are_drawn_and_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    main(f"fedavg {QUICK} --quiet", tmp_path / "runs")
    (run,) = saves.find(tmp_path / "runs")
    curves.main([str(run.folder), "-o", str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        curves.main([str(tmp_path), "-o", str(tmp_path / "curves.png")])
    assert exit.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
