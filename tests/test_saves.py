"""The run folder: what is written appears whole, reads back as it was, and runs no code when it is read."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
from conftest import from_plain, line_of, tiny_data
from hypothesis import given, settings
from hypothesis import strategies as st

import algorithms
import run as command
import saves
from data import datasets, partition
from data.partition import Split
from errors import UserError
from saves import workbook


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of cfkd: 3 clients, 2 rounds, evaluated in both, with validation."""
    export = tmp_path_factory.mktemp("runs")
    flags = "--n_clients 3 --rounds 2 --reduced 0.1 --model MLP --validation 0.2 --threads 1 --track_features 4 --quiet"
    assert command.main(["cfkd", *flags.split(), "--export_dir", str(export)]) == 0
    (run_experiment,) = saves.find(export)
    return run_experiment.folder


def test_a_folder_holds_what_the_design_lists_and_nothing_half_written(folder):
    present = {path.name for path in folder.iterdir()}
    (checkpoint,) = saves.checkpoints(folder)
    lacks = {"graph.png", "intensity.png", "failed", saves.LEAKAGE}  # of clients on a graph; of a failure; of attacks
    assert present == {*saves.FILES, ".lock", "done", checkpoint.name} - lacks


def test_two_lines_give_the_frame_and_the_model(folder):
    run = saves.load(folder)
    features, logits = run.model(client=2)(torch.zeros(1, 1, 28, 28))
    assert features.shape == (1, 200)
    assert logits.shape == (1, 10)
    assert list(run.rounds["round"]) == [0, 1, 2]
    assert list(run.clients["client"]) == [0, 1, 2] * 3


def own_of(split, part, k):
    """Client k's share in a `split.npz`."""
    return split[part][slice(*split[f"{part}_offsets"][k : k + 2])]


def test_the_saved_model_is_the_one_that_was_evaluated(folder):
    run, data = saves.load(folder), datasets.load("digits", datasets.Source())
    test = torch.arange(data.n_train, len(data.y))
    last = run.clients[run.clients["round"] == 2].set_index("client")
    with np.load(folder / "split.npz") as split, torch.no_grad():
        for k in range(3):
            model = run.model(k)
            right = model(data.images(test))[1].argmax(1) == data.y[test]
            assert right.double().mean().item() == last.loc[k, "global_accuracy"]
            own = torch.from_numpy(own_of(split, "test", k))
            right = model(data.images(own))[1].argmax(1) == data.y[own]
            assert right.double().mean().item() == last.loc[k, "personal_accuracy"]
            held = torch.from_numpy(own_of(split, "validation", k))
            right = model(data.images(held))[1].argmax(1) == data.y[held]
            assert right.double().mean().item() == last.loc[k, "validation_accuracy"]


def test_what_a_client_predicts_is_what_was_counted(folder):
    """`confusion.npz` has the classes that were said of each client's own test examples, in the order of the split."""
    run, saved, split = saves.load(folder), saves.load(folder).arrays("confusion"), saves.load(folder).arrays("split")
    data = run.data()
    assert data.digest == run.config["data"]["digest"]
    for k in range(3):
        result = run.predict(k, data.x[own_of(split, "test", k)])
        assert result.tolist() == saved["own_predicted"][slice(*saved["own_offsets"][k : k + 2])].tolist()
    many = data.x[:600]  # more than are predicted at once
    assert torch.equal(run.predict(1, many.numpy()), run.model(1)(data.images(torch.arange(600)))[1].argmax(1))
    assert run.predict(1, many[:0]).shape == (0,)


def test_costs_are_those_of_the_rounds_added_up(folder):
    run = saves.load(folder)
    costs, rounds = run.costs(), run.rounds
    assert list(costs["round"]) == [0, 1, 2]
    for name in ("bytes_up", "bytes_down", "steps", "flops", "steps:server", "seconds"):
        assert costs[name].tolist() == pytest.approx([sum(rounds[name][: r + 1]) for r in range(3)])
    assert costs["bytes_up"].iloc[-1] == run.summary()["bytes_up"]
    assert not {"loss", "personal_mean", "peak_memory"} & set(costs)


def test_of_a_client_an_answer_images_or_data_that_are_not_there_a_line_says_so(folder, tmp_path):
    run = saves.load(folder)
    for client in (-1, 3):
        assert line_of(run.model, client) == f"{folder}: has no client {client}; must be 0 to 2"
    assert line_of(run.model, 0, "global") == f"{folder}: has no answer global; must be one of personal"
    assert line_of(run.predict, 0, torch.zeros(2, 28, 28)) == "images: must be of shape [n, 1, 28, 28], got [2, 28, 28]"
    other = replace(run, config={**run.config, "data": {"digest": "0"}})
    assert line_of(other.data) == f"--dataset digits: the data differ from the data of {folder}"
    file = tmp_path / "mine.npz"
    gone = replace(run, config={**run.config, "options": {**run.options, "dataset": str(file)}})
    assert str(file) in line_of(gone.data)


MU = algorithms.options_of("fedprox").mu  # as declared


def test_the_data_of_a_run_are_read_as_it_read_them(tmp_path):
    """Behind them the public ones; of a table with the column of the labels that was asked for."""
    rows = [f"{k % 7},{'ab'[k % 2]},{k % 5}" for k in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["first,kind,last", *rows]))
    public = f"--dataset digits --public_dataset {tmp_path / 'other.npz'} --public_share 0.5"
    x = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    parts = {"x_train": x[:20], "y_train": np.arange(20) % 10, "x_test": x[20:], "y_test": np.arange(10)}
    np.savez(tmp_path / "other.npz", **parts)
    for flags in (public, f"--dataset {tmp_path / 'table.csv'} --label kind"):
        words = f"fedavg {flags} --model MLP --rounds 1 --n_clients 2 --quiet --export_dir {tmp_path / 'runs'}"
        assert command.main(words.split()) == 0
    digests = {run.data().digest for run in saves.find(tmp_path / "runs")}
    assert digests == {run.config["data"]["digest"] for run in saves.find(tmp_path / "runs")}
    assert len(digests) == 2


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Eight finished runs, of two algorithms, two splits and two seeds."""
    export = tmp_path_factory.mktemp("many")
    flags = "--n_clients 2 --rounds 1 --reduced 0.05 --model MLP --partition lda --alpha 0.5 inf --seed 0 1 --quiet"
    assert command.main(["fedavg", "fedprox", *flags.split(), "--export_dir", str(export)]) == 0
    return export


@pytest.mark.parametrize(
    ("options", "n"),
    [
        *(({}, 8), ({"algorithm": "fedavg"}, 4), ({"algorithm": ["fedavg", "cfkd"]}, 4), ({"alpha": math.inf}, 4)),
        *(({"alpha": 0.5, "seed": 1}, 2), ({"alpha": [0.5, math.inf]}, 8), ({"seed": [0, 7]}, 4), ({"seed": 7}, 0)),
        *(({"model": "MLP"}, 8), ({"model": ("MLP",)}, 8), ({"model": ("MLP", "LeNet5")}, 0), ({"mu": MU}, 4)),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_runs_are_found_by_their_options(options, n, kind, many):
    result = saves.find(kind(many), **options)
    assert len(result) == n
    assert [run.folder.name for run in result] == sorted(run.folder.name for run in result)
    values = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    for run in result:
        read = from_plain(algorithms.options_of(run.options["algorithm"]), run.options)
        assert all(getattr(read, name) in (*of_it, *((item,) for item in of_it)) for name, of_it in values.items())


def test_an_option_that_no_run_has_is_a_line(many, tmp_path):
    text = f"alhpa: no run in {many} has this option; did you mean alpha?"
    with pytest.raises(UserError, match=re.escape(text)):
        saves.find(many, alhpa=1)
    assert saves.find(tmp_path / "nowhere", alhpa=1) == []


def test_many_runs_are_a_frame_with_their_options_as_columns(many):
    runs = saves.find(many)
    frame = saves.frame(runs)
    assert len(frame) == 8
    for (_, row), run in zip(frame.iterrows(), runs, strict=True):
        summary = run.summary()
        by_name = {name: value for name, value in summary.items() if name not in ("options", "tuned_by_epoch")}
        assert all(row[name] == value or (pd.isna(row[name]) and value is None) for name, value in by_name.items())
        assert (row["model"], row["alpha"], row["n_clients"]) == ("MLP", float(run.options["alpha"]), 2)
    assert frame["mu"].notna().tolist() == [run.options["algorithm"] == "fedprox" for run in runs]
    assert frame.groupby(["algorithm", "alpha"]).size().tolist() == [2, 2, 2, 2]
    rounds, clients = saves.frame(runs, "rounds"), saves.frame(runs, "clients")
    assert (len(rounds), len(clients)) == (16, 16)
    assert rounds.groupby(["algorithm", "alpha", "seed"])["bytes_up"].sum().tolist() == [
        saves.find(many, algorithm=algorithm, alpha=alpha, seed=seed)[0].summary()["bytes_up"]
        for algorithm in ("fedavg", "fedprox")
        for alpha in (0.5, math.inf)
        for seed in (0, 1)
    ]
    assert saves.frame([]).empty
    assert line_of(saves.frame, runs, "run") == "rows run: must be one of runs, rounds, clients"


def test_the_row_of_a_round_sums_up_its_clients(folder):
    run = saves.load(folder)
    for r, of_round in run.rounds.set_index("round").iterrows():
        clients = run.clients[run.clients["round"] == r]
        for name in ("bytes_up", "bytes_down", "steps", "samples"):
            assert of_round[name] == clients[name].sum()
        if r:
            for what in ("global", "personal", "validation"):
                values = clients[f"{what}_accuracy"].to_numpy()
                assert of_round[f"{what}_mean"] == pytest.approx(values.mean(), abs=1e-12)
                assert of_round[f"{what}_std_clients"] == pytest.approx(values.std(), abs=1e-12)
                assert of_round[f"{what}_worst"] == values.min()
            assert of_round["loss"] == pytest.approx(clients["loss"].mean(), abs=1e-12)
    kinds = [name for name in run.rounds if name.startswith("bytes_") and ":" in name]
    total = run.rounds[["bytes_up", "bytes_down"]].to_numpy().sum()
    assert run.rounds[kinds].to_numpy().sum() == total


def test_a_client_steps_through_its_own_training_share_once_an_epoch(folder):
    clients = saves.load(folder).clients
    with np.load(folder / "split.npz") as split:
        for k in range(3):
            of_client = clients[(clients["client"] == k) & (clients["round"] > 0)]
            assert set(of_client["samples"]) == {len(own_of(split, "train", k))}


def test_the_headline_is_the_last_round_and_validation_chooses_only_by_validation(folder):
    run = saves.load(folder)
    rounds = run.rounds
    assert run.summary()["global_mean"] == rounds["global_mean"].iloc[-1]
    best = run.best_on_validation()
    assert best["validation_mean"] == rounds["validation_mean"].max()
    chosen = rounds[rounds["round"] == best["round"]].iloc[0]
    assert best["global_mean"] == chosen["global_mean"]


def test_the_best_round_on_validation_is_not_the_best_on_test(tmp_path):
    result = ((1, 0.9, 0.5), (2, 0.6, 0.7), (3, 0.8, 0.7))  # of equals the first
    rows = [{"round": r, "loss": 1.0, "global_mean": g, "validation_mean": v} for r, g, v in result]
    history = [{"round": row, "clients": {"client": torch.zeros(0)}} for row in rows]
    best = run_of(history).best_on_validation()
    assert (best["round"], best["global_mean"]) == (2, 0.6)


def test_the_summary_is_of_the_last_round_even_where_an_earlier_one_was_better_on_test(tmp_path):
    rows = [
        {
            "round": r,
            "loss": 1.0,
            "global_mean": g,
            "bytes_up": 1,
            "bytes_down": 2,
            "seconds": 0.5,
            "evaluation_seconds": 0.5,
        }
        for r, g in ((1, 0.9), (2, 0.6))
    ]
    history = [{"round": row, "clients": {"client": []}} for row in rows]
    summary = run_of(history, algorithm="fedavg", seed=0, split_seed=0).summary()
    assert summary["global_mean"] == 0.6
    assert (summary["bytes_up"], summary["bytes_down"], summary["seconds"]) == (2, 4, 1.0)  # totals of the run
    assert summary["evaluation_seconds"] == 1.0


def test_without_validation_there_is_no_best(tmp_path):
    history = [{"round": {"round": 1, "loss": 1.0, "global_mean": 0.5}, "clients": {"client": torch.zeros(0)}}]
    assert run_of(history).best_on_validation() is None


def test_a_history_reads_back_as_it_was(tmp_path):
    clients = {"client": torch.tensor([3, 1]), "loss": torch.tensor([0.5, float("nan")]), "steps": torch.tensor([2.0, 1.0])}
    frame = saves.frame_of([{"round": {"round": 1, "loss": 0.5, "bytes_up": 8, "steps": 3}, "clients": clients}])
    saves.write_history(tmp_path, frame)
    with np.load(tmp_path / "history.npz") as saved:
        back = pd.DataFrame(dict(saved))
    pd.testing.assert_frame_equal(back, frame, check_column_type=False)
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "history.pkl"), frame, check_column_type=False)
    assert list(back["client"]) == [saves.ALL, 1, 3]
    assert back["bytes_up"].dtype == np.int64


@pytest.mark.parametrize("column", [[0.5, math.nan, 3.0], []])
def test_a_column_of_clients_is_read_from_a_checkpoint_and_as_the_tensor_of_an_older_one(column, tmp_path):
    for stored in (saves.kept(np.array(column)), torch.tensor(column, dtype=torch.float64)):
        saves.write_tensors(tmp_path / "checkpoint.pt", {"client": stored})
        result = saves.numbers(saves.read_tensors(tmp_path / "checkpoint.pt")["client"])
        assert np.array_equal(result, column, equal_nan=True)


def test_bytes_that_a_client_did_not_send_are_0_and_what_was_not_measured_is_nan():
    columns = {"bytes_up": torch.tensor([7.0, math.nan]), "personal_accuracy": torch.tensor([0.5, math.nan])}
    history = [
        {"round": {"round": 1, "loss": 2.0, "bytes_up": 7}, "clients": {"client": torch.tensor([0, 2]), **columns}},
        {"round": {"round": 2, "loss": 1.0, "bytes_up": 0}, "clients": {"client": torch.tensor([], dtype=torch.int64)}},
    ]
    frame = saves.frame_of(history)
    assert frame["round"].tolist() == [1, 1, 1, 2]
    assert frame["client"].tolist() == [saves.ALL, 0, 2, saves.ALL]
    assert frame["bytes_up"].tolist() == [7, 7, 0, 0]
    assert frame["personal_accuracy"].isna().tolist() == [True, False, True, True]


def framed_slowly(history):
    """A frame a round and a frame a client and round, put together and sorted."""
    of_rounds = pd.DataFrame([entry["round"] for entry in history]).assign(client=saves.ALL)
    of_clients = [
        pd.DataFrame({name: saves.numbers(column) for name, column in entry["clients"].items()}).assign(
            round=entry["round"]["round"]
        )
        for entry in history
        if len(entry["clients"]["client"])
    ]
    frame = pd.concat([of_rounds, *of_clients], ignore_index=True)
    frame = frame.sort_values(["round", "client"], kind="stable", ignore_index=True)
    counts = [name for name in frame if name.startswith(saves.COUNTS)]
    frame[counts] = frame[counts].fillna(0)
    return frame.astype(dict.fromkeys(["round", "client", *counts], np.int64))[saves.in_order(frame)]


OF_CLIENTS = ("bytes_up", "steps", "flops", "loss", "personal_accuracy")
numbers, some_clients = st.floats(0, 1) | st.just(math.nan), st.lists(st.integers(0, 50), unique=True, max_size=4)


@st.composite
def histories(draw):
    """Of some rounds with columns that not all of them have, and of clients in any order."""
    history = [{"round": {"round": 0, "loss": math.nan, "bytes_up": 3}, "clients": {"client": torch.zeros(0)}}]
    for r in range(1, draw(st.integers(1, 4)) + 1):
        of_round = {"round": r, "loss": draw(numbers), "bytes_up": draw(st.integers(0, 9)), "steps": draw(st.integers(0, 9))}
        of_round |= {name: draw(numbers) for name in draw(st.sets(st.sampled_from(["global_mean", "seconds", "told"])))}
        clients = draw(some_clients)
        of_clients = {"client": torch.tensor(clients, dtype=torch.int64)}
        for name in draw(st.sets(st.sampled_from(OF_CLIENTS))) if clients else ():
            value = st.integers(0, 9) | st.just(math.nan) if name.startswith(saves.COUNTS) else numbers
            of_clients[name] = torch.tensor([draw(value) for _ in clients], dtype=torch.float64)
        history.append({"round": of_round, "clients": of_clients})
    return history


@settings(deadline=None, max_examples=60)
@given(history=histories())
def test_a_history_is_framed_as_a_frame_of_each_round_and_one_of_its_clients_put_together(history):
    pd.testing.assert_frame_equal(saves.frame_of(history), framed_slowly(history), check_column_type=False)


def test_one_row_of_a_stack_is_saved_without_the_stack(tmp_path):
    stack = torch.zeros(100, 1000)
    saves.write_tensors(tmp_path / "row.pt", {"row": stack[3]})
    assert (tmp_path / "row.pt").stat().st_size < 3 * stack[3].nbytes


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    saves.write_json(tmp_path / "config.json", {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        saves.write_json(tmp_path / "config.json", {"a": float("nan")})
    with pytest.raises(RuntimeError):
        saves.written(tmp_path / "config.json", _half_a_file)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"], "nor is it left beside"
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}


def _half_a_file(path):
    path.write_text('{"a": ')
    raise RuntimeError("killed")


def test_clear_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    for name in (*saves.FILES, "notes.txt"):
        (tmp_path / name).touch()
    saves.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_at_work_is_refused_to_a_second_process(tmp_path):
    with saves.locked(tmp_path), pytest.raises(UserError, match="another process"), saves.locked(tmp_path):
        pass


def run_of(history, **options) -> saves.Run:
    """A run with these rows and nothing else."""
    run = saves.Run(Path(), {"options": options}, {})
    vars(run).update(_columns={name: column.to_numpy() for name, column in saves.frame_of(history).items()}, names=[])
    return run


@pytest.mark.parametrize("name", ["x" * 5_000, "a\0b", "none"])
def test_of_a_name_that_no_folder_can_have_there_is_none(name, tmp_path):
    with pytest.raises(UserError, match="no such folder; use the folder of a finished run"):
        saves.load(tmp_path / name)


def test_an_unfinished_run_is_not_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        saves.load(tmp_path)


# --- the workbook ---


def test_the_workbook_has_the_sheets_and_the_numbers_of_the_history(folder):
    book, run = openpyxl.load_workbook(folder / "history.xlsx"), saves.load(folder)
    assert book.sheetnames == ["summary", "rounds", "clients", "costs", "config"]
    rounds = pd.DataFrame(book["rounds"].values)
    rounds.columns = rounds.iloc[0]
    assert list(rounds["bytes_up"][1:]) == list(run.rounds["bytes_up"])
    assert list(rounds["global_mean"][2:]) == list(run.rounds["global_mean"][1:])
    clients = list(book["clients"].values)
    assert len(clients) == 1 + 3
    assert {row[clients[0].index("round")] for row in clients[1:]} == {2}
    config = dict(row[:2] for row in book["config"].values)
    assert config["options.n_clients"] == 3
    assert config["options.alpha"] == "inf"


def test_every_sheet_has_a_frozen_header_and_columns_wide_enough_for_their_numbers(folder):
    for sheet in openpyxl.load_workbook(folder / "history.xlsx"):
        assert sheet.freeze_panes == "B2"
        for column in sheet.iter_cols():
            width = sheet.column_dimensions[column[0].column_letter].width
            shown = [
                f"{c.value:,}" if isinstance(c.value, int) else f"{c.value:.4f}"
                for c in column[1:]
                if isinstance(c.value, int | float) and not isinstance(c.value, bool)
            ]
            assert width >= max([len(text) for text in shown], default=0)


def test_accuracies_are_shown_in_percent_and_bytes_with_thousands(folder):
    sheet = openpyxl.load_workbook(folder / "history.xlsx")["rounds"]
    formats = {cell.value: sheet.cell(3, cell.column).number_format for cell in sheet[1]}
    assert formats["global_mean"] == formats["personal_worst"] == "0.00%"
    assert formats["bytes_up"] == formats["steps"] == "#,##0"
    assert formats["seconds"] == "0.000"


def test_costs_add_up_by_direction(folder):
    run = saves.load(folder)
    costs = workbook.costs(run)
    of_server, costs = (costs[costs["of the"] == party].set_index(["cost", "kind"]) for party in ("server", "clients"))
    for cost in ("bytes up", "bytes down"):
        of_kinds = costs.loc[cost].drop("all")["the whole run"].sum()
        assert of_kinds == costs.loc[(cost, "all"), "the whole run"]
        assert costs.loc[(cost, "all"), "a client and round"] == of_kinds / 2 / 3  # 2 rounds, 3 clients
    assert costs.loc[("flops", "all"), "the whole run"] == run.clients["flops"].sum() > 0
    assert costs.loc[("steps", "all"), "the whole run"] == run.clients["steps"].sum() > 0
    assert (of_server["the whole run"] == 0).all(), "fedavg's server trains nothing"
    assert of_server["a client and round"].isna().all()


def test_a_column_is_wide_enough_for_its_largest_number(folder):
    sheet = openpyxl.load_workbook(folder / "history.xlsx")["costs"]
    for column in sheet.iter_cols(min_row=2, min_col=4):
        width = sheet.column_dimensions[column[0].column_letter].width
        assert width > max(len(f"{cell.value:,.0f}") for cell in column if cell.value is not None)


def test_a_sheet_too_long_for_excel_is_cut_and_says_so(monkeypatch):
    monkeypatch.setattr(workbook, "MAX_ROWS", 10)
    cut = workbook._cut(pd.DataFrame({"a": range(50), "b": range(50)}))
    assert len(cut) == 9  # and the header
    assert "50 rows" in cut.iloc[-1, 0]
    assert list(cut["a"][:8]) == list(range(8))
    fits = pd.DataFrame({"a": range(9)})
    pd.testing.assert_frame_equal(workbook._cut(fits), fits)


@pytest.mark.parametrize("n_clients", [5, 6, 60])
def test_of_many_clients_the_sheet_has_so_many_those_who_trained_first_and_says_so(n_clients, tmp_path, monkeypatch):
    monkeypatch.setattr(saves, "MANY", 5)
    loss = torch.full((n_clients,), math.nan)
    loss[-2:] = 1.0
    clients = {"client": torch.arange(n_clients), "loss": loss, "personal_accuracy": torch.linspace(0, 1, n_clients)}
    run = run_of([{"round": {"round": 1, "loss": 1.0}, "clients": clients}], n_clients=100)
    sheet = workbook._cut(workbook._last_clients(run), saves.MANY)
    assert len(sheet) == 5
    if n_clients == 5:
        assert sheet["client"].tolist() == [0, 1, 2, 3, 4], "as they are"
    else:
        assert sheet["client"].tolist()[:4] == [n_clients - 2, n_clients - 1, 0, 1]
        assert f"{n_clients} rows, all of them in history.npz" in sheet.iloc[-1, 0]


def test_text_too_long_for_a_cell_is_cut():
    sheet = workbook._config(run_of([], sizes=[0.123456789] * 10_000, lr=0.1))
    assert sheet["option"].tolist() == ["options.sizes", "options.lr"]
    assert len(workbook._plain(sheet["value"][0])) == workbook.MAX_TEXT
    assert sheet["value"][1] == 0.1


def test_a_split_reads_back(tmp_path):
    data = tiny_data(n_train=4, n_test=2, n_classes=2)
    shares = [[np.array([0, 2]), np.array([1])], [np.array([3]), np.array([], int)], [np.array([4]), np.array([5])]]
    saves.write_arrays(tmp_path / "split.npz", partition.arrays(data, Split(*map(tuple, shares))))
    with np.load(tmp_path / "split.npz") as back:
        assert own_of(back, "train", 0).tolist() == [0, 2]
        assert own_of(back, "validation", 1).tolist() == []
        assert own_of(back, "test", 1).tolist() == [5]
        assert list(back["classes"]) == ["a", "b"]
        assert back["table"].tolist() == [[2, 1], [0, 1]]  # labels in turn: images 0, 2 and 3 (held out); image 1


def test_a_history_is_read_once_and_a_summary_is_the_callers_own(folder, monkeypatch):
    """Tables ask for rounds and summary of each run many times."""
    paths, read = [], saves.read_arrays
    monkeypatch.setattr(saves, "read_arrays", lambda path, *only: paths.append(path.name) or read(path, *only))
    run = saves.load(folder)
    expected = run.summary()
    run.summary()["global_mean"] = None
    assert run.summary() == expected
    assert run.rounds is run.rounds
    assert len(run.history) > len(run.rounds)
    assert paths == ["history.npz"]


def test_rounds_are_the_rows_of_the_history_without_the_clients(folder):
    """As pandas selects them: without columns that no round has."""
    run = saves.load(folder)
    rows = run.history[run.history["client"] == saves.ALL]
    assert run.rounds.equals(rows.drop(columns="client").dropna(axis=1, how="all").reset_index(drop=True))
