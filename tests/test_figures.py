"""Tables and pictures of saved runs: what a data exchange leaves beside its run, fine-tuning."""

import logging

import numpy as np
import openpyxl
import pytest
from PIL import Image

import algorithms
import experiment
import saves
from figures import exchange, tuning
from figures.compare import compare
from figures.render import render
from figures.units import size
from launch import launch
from options import Launch

QUICK = {"dataset": "digits", "reduced": 0.2, "rounds": 1, "epoch_per_round": 1, "threads": 1, "model": ("MLP",)}


def run(name, export, force=False, **flags):
    options = {"algorithm": name, **QUICK, **flags}
    prepared = experiment.prepare(algorithms.options_of(name)(**options), Launch(export_dir=export))
    ((_, finished),) = launch([prepared], Launch(force=force, quiet=True))
    return finished


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """Three runs in one folder: five clients that mix, five with a parameter server, three on another graph."""
    folder = tmp_path_factory.mktemp("saves")
    mixed = run("data_exchange", folder, digit_num=4, share_ratio=0.5, model=("CNNMnist",))
    central = run("data_exchange", folder, digit_num=4, aggr_model="ps", partition="iid")
    three = run("dpsgd", folder, n_clients=3, topology="ring")
    return folder, mixed, central, three


def rows_of(path, sheet):
    return list(openpyxl.load_workbook(path)[sheet].iter_rows(values_only=True))


def test_the_authors_workbook_has_their_columns_and_a_row_an_experiment(exchanged):
    folder, mixed, central, _ = exchanged
    header, first, second = rows_of(folder / "result.xlsx", "5 clients")
    assert header == (
        *("nn model", "share ratio", "number of original digits", "aggregation model", "iid status", "training rounds"),
        *(f"acc client {k}" for k in (1, 2, 3, 4, 5)),
        *(f"leakage {k}" for k in (1, 2, 3, 4, 5)),
    )
    assert first[:6] == ("cnn", 0.5, 4, "de", False, 1)
    clients = mixed.clients[mixed.clients["round"] == 1]
    assert first[6:11] == pytest.approx(100 * clients["global_accuracy"], abs=1e-9)
    assert first[11:] == pytest.approx(clients["exchange_kl"], abs=1e-12)
    assert second[:6] == ("MLP", 0.1, None, "ps", True, 1), "the flag is not read by --partition iid"
    assert second[6:11] == (pytest.approx(100 * central.summary()["global_mean"]), None, None, None, None)


def test_another_number_of_clients_has_a_sheet_of_its_own(exchanged):
    folder, _, _, three = exchanged
    header, row = rows_of(folder / "result.xlsx", "3 clients")
    assert len(header) == len(row) == 6 + 2 * 3
    assert row[6:9] == pytest.approx(exchange.accuracies(three))
    assert row[9:] == (0, 0, 0), "nothing was sent"
    assert openpyxl.load_workbook(folder / "result.xlsx").sheetnames == ["5 clients", "3 clients"]


def test_a_finished_run_that_is_read_again_adds_no_row_and_one_run_anew_does(exchanged, tmp_path):
    run("dpsgd", tmp_path, n_clients=3)
    run("dpsgd", tmp_path, n_clients=3)
    assert len(rows_of(tmp_path / "result.xlsx", "3 clients")) == 1 + 1
    run("dpsgd", tmp_path, force=True, n_clients=3)
    assert len(rows_of(tmp_path / "result.xlsx", "3 clients")) == 1 + 2


def test_a_result_file_that_is_no_workbook_is_left_as_it_is_and_the_run_is_kept(tmp_path, caplog):
    (tmp_path / "result.xlsx").write_text("mine")
    with caplog.at_level(logging.WARNING, logger="chorus"):
        finished = run("dpsgd", tmp_path, n_clients=3)
    assert finished.done
    assert (tmp_path / "result.xlsx").read_text() == "mine"
    assert "result.xlsx: cannot be read as a workbook" in caplog.text


def test_pictures_of_the_graph_and_the_intensities_are_drawn_and_cleared_with_the_run(exchanged):
    for finished in exchanged[1:]:
        for name in ("graph.png", "intensity.png"):
            with Image.open(finished.folder / name) as picture:
                assert picture.width > 200
                assert len(set(picture.convert("L").tobytes())) > 20, "not empty"
    assert {"graph.png", "intensity.png"} <= set(saves.FILES)


def test_fine_tuning_is_reported_by_epoch_mean_over_clients_and_seeds(tmp_path, capsys):
    runs = [run("fedavg", tmp_path, n_clients=3, ft_epochs=2, seed=seed) for seed in (0, 1)]
    tuning.main([*(str(run_experiment.folder) for run_experiment in runs), "-o", str(tmp_path / "tuning.png")])
    shown = {}
    for block in capsys.readouterr().out.strip().split("\n\n"):  # a wide table comes in several
        header, _, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines())
        shown |= dict(zip(header, row, strict=True))
    last = [run.rounds.iloc[-1] for run in runs]
    for name, column in (("as sent", "tuned_mean:epoch 0"), ("epoch 1", "tuned_mean:epoch 1"), ("local", "local_mean")):
        assert shown[name] == f"{100 * np.mean([rounds[column] for rounds in last]):.2f}"
    assert shown["epoch 2"] == f"{100 * np.mean([rounds['tuned_mean'] for rounds in last]):.2f}"
    assert shown["std over seeds"] == f"{100 * np.std([rounds['tuned_mean'] for rounds in last], ddof=1):.2f}"
    assert (shown[""], shown["n"]) == ("fedavg", "2")
    with Image.open(tmp_path / "tuning.png") as picture:
        assert picture.width > 200


def test_runs_without_fine_tuning_are_refused_in_a_line(exchanged, capsys):
    with pytest.raises(SystemExit):
        tuning.main([str(exchanged[3].folder)])
    assert "dpsgd: a run has no fine-tuning; use runs with --ft_epochs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tuning.main([str(exchanged[3].folder), "--size", "column"])
    assert "--size: only with --output" in capsys.readouterr().err


def test_the_comparison_tells_what_went_to_neighbours_and_what_fine_tuning_made_of_it(exchanged, tmp_path):
    tuned = run("fedavg", tmp_path, n_clients=3, ft_epochs=1)
    on_graph, text = (render(compare([item], columns=["all"])) for item in (exchanged[3], tuned))
    model = sum(tensor.nbytes for tensor in tuned.weights()["global"].values())
    assert size(2 * model) in on_graph, "two neighbours on a ring of three"
    assert "tuned" in text.splitlines()[1].split()
    assert f"{100 * tuned.summary()['tuned_mean']:.2f}" in text
