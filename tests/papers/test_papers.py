"""Published tables: a cell is the very run that its command makes; what is recorded is what RESULTS.md says."""

import os
import re
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import MNIST_FILES

import experiment
import papers
from errors import UserError
from launch import launch
from options import Launch
from papers import PAPERS, __main__, page, results
from papers.tables import METRICS, Cell, Results, Table, failures, render, runs_in, runs_of

TABLES = [(name, table) for name, paper in PAPERS.items() for table in paper.TABLES]
QUICK = "--dataset digits --n_clients 3 --reduced 0.05 --rounds 1 --model MLP --batch_size 16 --threads 1"


def ids(pair):
    return f"{pair[0]}/{pair[1].name}"


def ran(line, export):
    """The runs of a command line, saved."""
    prepared = [experiment.prepare(created.options, Launch(export_dir=export)) for created in runs_of(line)]
    return [run for _, run in launch(prepared, Launch(quiet=True))]


def table_of(**rows):
    return Table("tiny", "A table", "Nowhere.", {name: {"accuracy": cell} for name, cell in rows.items()})


@pytest.mark.parametrize("pair", TABLES, ids=ids)
def test_every_cell_has_a_command_that_is_understood_and_a_metric(pair):
    for cell in pair[1].cells:
        runs = runs_of(cell.command, cell.start)
        assert runs
        assert cell.metric in METRICS
        assert {built.options.threads for built in runs} == {1}, "or the run would depend on how many cores there are"
        assert not cell.against or len(runs_of(cell.against)) == len(runs)
        assert cell.tolerance is None or cell.published is not None


def test_a_key_is_a_command_that_makes_the_same_run_again():
    for _, table in TABLES:
        for created in {built.key: built for cell in table.cells for built in runs_of(cell.command)}.values():
            (again,) = runs_of(created.key)
            assert again.options == created.options


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_script_is_made_from_its_tables(name):
    assert results.file_of(PAPERS[name], "run.sh").read_text() == page.script(name, PAPERS[name]), (
        "python -m papers --record"
    )


def calls(name, tmp_path, *words):
    """The command lines that `papers/NAME/run.sh` gives to python."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/calls\n')
    python.chmod(0o755)
    script = results.file_of(PAPERS[name], "run.sh")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", script, *words], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_script_runs_every_command_of_its_tables(name, tmp_path):
    result = calls(name, tmp_path, *(table.name for table in PAPERS[name].TABLES))
    ours = [line.removeprefix("run.py ") for line in result if line.startswith("run.py ")]
    expected = [cell.command for table in PAPERS[name].TABLES for cell in table.cells if not cell.start]
    assert {created.options for line in ours for created in runs_of(line)} == {
        m.options for line in expected for m in runs_of(line)
    }
    starting = [f"-m papers {name}/{t.name}" for t in PAPERS[name].TABLES if any(cell.start for cell in t.cells)]
    assert [line for line in result if not line.startswith("run.py ")] == starting


def test_flags_behind_two_dashes_go_to_every_command_and_a_light_table_is_run_unless_named(tmp_path):
    result = calls("cfkd", tmp_path, "--", "--slurm", "--array=1-8")
    assert len(result) == len({cell.command for cell in PAPERS["cfkd"].TABLES[0].cells})
    assert all(line.endswith("--slurm --array=1-8") for line in result)


def test_a_table_that_a_papers_script_does_not_have_is_a_line():
    script = results.file_of(PAPERS["cfkd"], "run.sh")
    done = subprocess.run(["sh", script, "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("no table nothing; use mnist, ablation, fashion, cifar10\n")


def test_recorded_numbers_are_shown_without_reading_any_data(tmp_path, monkeypatch, capsys):
    def absent(*_):
        raise AssertionError("a recorded number needs no data")

    monkeypatch.setattr(experiment, "prepare", absent)
    assert __main__.main(["cfkd/mnist", "--show", "--export_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    recorded = results.read(PAPERS["cfkd"])
    assert f"{recorded.mean(PAPERS['cfkd'].TABLES[0], 'cfkd (CFKD)', 'N = 10'):.2f}" in out
    assert "as recorded" in out


def test_results_md_says_what_is_recorded_to_the_last_digit():
    text = page.PATH.read_text()
    assert page.written(text) == text, "python -m papers --record writes it anew"


def test_outside_the_papers_blocks_results_md_has_no_figures():
    text = page.PATH.read_text()
    for name in PAPERS:
        text = re.sub(f"<!-- papers/{name}: begin -->.*?<!-- papers/{name}: end -->", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d+\.\d+|\d+ %", text)


HERE = ("digits", *(["MNIST"] if MNIST_FILES.exists() else []))


@pytest.mark.parametrize("name", PAPERS)
def test_a_recorded_row_has_the_identity_of_the_run_that_its_command_makes(name, tmp_path):
    recorded, checked = results.read(PAPERS[name]).rows, 0
    for run_experiment in runs_in(PAPERS[name].TABLES):
        if run_experiment.key in recorded and run_experiment.options.dataset in HERE and run_experiment.start is None:
            item = experiment.prepare(run_experiment.options, Launch(export_dir=tmp_path))
            assert recorded[run_experiment.key]["run"] == experiment.identity.request_digest(item.config), run_experiment.key
            checked += 1
    if not checked:
        pytest.skip(f"no recorded row of {name} is of data that are here")


@pytest.mark.parametrize("name", PAPERS)
def test_what_was_to_hold_of_the_recorded_results_holds(name):
    paper, recorded = PAPERS[name], results.read(PAPERS[name])
    assert [line for table in paper.TABLES for line in failures(table, recorded)] == []
    assert getattr(paper, "check", lambda _: [])(recorded) == []


def test_a_run_of_other_settings_in_the_same_folder_is_not_taken_for_a_cell(tmp_path):
    """An ablation of cfkd once stood in its table as cfkd, and 3 rounds without distillation as the published mhmd."""
    table = table_of(cfkd=Cell(f"cfkd {QUICK}"))
    others = ("--lambda_kd 0 --lambda_disc 8", "--lr 0.5", "--participation 0.5", "--rounds 2", "--as_published")
    for flags in others:
        ran(f"cfkd {QUICK} {flags}" if "--rounds" not in flags else f"cfkd {QUICK.replace('--rounds 1', flags)}", tmp_path)
    settings = Launch(export_dir=tmp_path)
    result = results.collect([table], settings)
    assert result.rows == {}
    assert result.missing(table) == [runs_of(f"cfkd {QUICK}")[0].key], "the table says with which command to make it"
    (run_experiment,), _ = results.missing([table], settings)
    (run,) = ran(f"cfkd {QUICK}", tmp_path)
    assert run.folder == run_experiment.folder
    (row,) = results.collect([table], settings).rows.values()
    assert row["global"] == 100 * run.summary()["global_mean"]


def test_a_run_that_other_code_made_counts_and_is_marked(tmp_path, monkeypatch):
    table = table_of(independent=Cell(f"independent {QUICK}", published=50.0))
    with monkeypatch.context() as before:
        before.setattr(experiment.identity, "_sources", lambda algorithm: ["older"])
        before.setattr(experiment.identity, "revision", lambda: "0123abcd")
        (older,) = ran(f"independent {QUICK}", tmp_path)
    result = results.collect([table], Launch(export_dir=tmp_path))
    assert [row["other"] for row in result.rows.values()] == ["code of 0123abcd"]
    assert f"{100 * older.summary()['global_mean']:.2f}*" in render(table, result)
    ran(f"independent {QUICK}", tmp_path)
    result = results.collect([table], Launch(export_dir=tmp_path))
    assert [row["other"] for row in result.rows.values()] == [""], "today's code goes before any other"
    assert "*" not in render(table, result)


def test_a_run_that_starts_from_another_starts_from_the_one_with_its_seed(tmp_path):
    fedavg, command = f"fedavg {QUICK} --seed 0 1", f"lg_fedavg {QUICK} --seed 0 1"
    table, flags = table_of(lg_fedavg=Cell(command, start=fedavg)), Launch(export_dir=tmp_path)
    experiments, waiting = results.missing([table], flags)
    assert [run_experiment.options.algorithm for run_experiment in experiments] == ["fedavg", "fedavg"]
    assert [run_experiment.options.seed for run_experiment in waiting] == [0, 1]
    starts = {run.options["seed"]: run for run in ran(fedavg, tmp_path)}
    experiments, waiting = results.missing([table], flags)
    assert not waiting
    for item in experiments:
        assert item.start["classifier.weight"].equal(starts[item.options.seed].weights()["global"]["classifier.weight"]), (
            "FedAvg's last model"
        )
    ran(command, tmp_path)
    assert results.collect([table], flags).rows == {}, "one that started anew is another run"
    list(launch(experiments, Launch(quiet=True)))
    assert len(results.collect([table], flags).of(table.cells[0])) == 2


def test_a_cell_is_the_mean_over_its_seeds_and_a_table_says_how_many_are_there():
    cells = {"a": Cell(f"fedavg {QUICK} --seed 0 1 2", published=60.0), "b": Cell(f"fd {QUICK} --seed 0")}
    keys = [cell.key for cell in runs_of(cells["a"].command)]
    result = Results({key: {"global": value} for key, value in zip(keys, (50.0, 52.0, 57.0), strict=True)})
    header, _, first, second = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in render(table_of(**cells), result).splitlines()
    )
    assert header == ["", "accuracy (published)", "accuracy", "n"]
    assert first == ["a", "60", f"53.00 ±{np.std([50, 52, 57], ddof=1):.2f}", "3"]
    assert second == ["b", "", "", "0"]


def test_what_is_further_from_the_published_number_than_allowed_is_said():
    table = table_of(a=Cell(f"fedavg {QUICK}", published=60.0, tolerance=2.5))
    result = Results({runs_of(table.cells[0].command)[0].key: {"global": 63.0}})
    assert failures(table, result) == ["a, accuracy: +3.00 from the published 60, allowed 2.5"]


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A paper with one table, in a folder of its own, beside a page for it."""
    table = table_of(a=Cell(f"independent {QUICK} --seed 0 1", published=50.0))
    created = SimpleNamespace(__name__="papers.tiny", TITLE="Tiny", ABOUT="A paper.", TABLES=(table,))
    created.words = lambda result: f"The mean is {result.mean(table, 'a', 'accuracy'):.2f}."
    (tmp_path / "tiny").mkdir()
    for module in (papers, page, results, __main__):
        monkeypatch.setattr(module, "PAPERS", {"tiny": created})
    monkeypatch.setattr(results, "HERE", tmp_path)
    monkeypatch.setattr(page, "PATH", tmp_path / "RESULTS.md")
    page.PATH.write_text("# Results\n\n<!-- papers/tiny: begin --><!-- papers/tiny: end -->\n\nThe end.\n")
    return created


def test_one_command_runs_what_is_missing_prints_it_and_records_it(paper, tmp_path, capsys):
    words = ["tiny", "--export_dir", str(tmp_path / "saves"), "--quiet"]
    assert __main__.main([*words, "--show"]) == 0
    assert "missing: python run.py independent " in capsys.readouterr().out
    assert __main__.main([*words, "--plan"]) == 0
    assert "2 runs: " in capsys.readouterr().out
    assert not (tmp_path / "saves").exists(), "neither runs anything"
    assert __main__.main([*words, "--record"]) == 0
    out = capsys.readouterr().out
    (value,) = re.findall(r"\| a .*\| ([\d.]+ ±[\d.]+)", out)
    assert f"The mean is {value.partition(' ')[0]}." in page.PATH.read_text()
    assert value in page.PATH.read_text()
    assert page.PATH.read_text().endswith("The end.\n")
    lines = (tmp_path / "tiny" / "results.csv").read_text().splitlines()
    assert lines[0] == "command,run,revision,torch,processor,global"
    assert len(lines) == 1 + 2
    assert __main__.main([]) == 0
    assert "2 of 2 runs recorded" in capsys.readouterr().out


def test_a_table_that_shares_a_run_with_another_leaves_the_others_numbers(paper):
    command = paper.TABLES[0].cells[0].command
    key = runs_of(command)[0].key
    paper.TABLES += (table_of(b=Cell(command, metric="personal")),)
    carried = {"run": "1", "revision": "a", "torch": "2", "processor": "x"}
    results.record(paper, Results({key: {**carried, "global": 50.0}}))
    results.record(paper, Results({key: {**carried, "personal": 60.0}}))
    assert results.read(paper).rows[key] == {**carried, "global": "50", "personal": "60"}
    results.record(paper, Results({key: {**carried, "run": "2", "personal": 70.0}}))
    assert results.read(paper).rows[key]["global"] == "", "of a run made anew"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_runs_are_side_by_side_and_a_signal_stops_them(number, status, paper, tmp_path, capsys, monkeypatch):
    flags = {}

    def launch(experiments, settings):
        flags.update(n=len(experiments), jobs=settings.jobs, workers=settings.workers, quiet=settings.quiet)
        signal.raise_signal(number)

    monkeypatch.setattr(__main__, "launch", launch)
    assert __main__.main(["tiny", "--export_dir", str(tmp_path / "saves"), "--jobs", "3"]) == status
    assert flags == {"n": 2, "jobs": 3, "workers": "auto", "quiet": False}
    assert "rerun the same command to resume after the last finished round" in capsys.readouterr().err


def test_results_md_is_made_again_from_what_is_recorded_without_any_run(paper, tmp_path):
    assert __main__.main(["tiny", "--export_dir", str(tmp_path / "saves"), "--quiet", "--record"]) == 0
    text = page.PATH.read_text()
    page.PATH.write_text(re.sub(r"\d", "7", text))
    assert __main__.main(["--record"]) == 0
    assert page.PATH.read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing: must be one of tiny"),
        (["tiny/other"], "tiny/other: must be a table of tiny: tiny"),
        (["tiny", "--rows", "xyz"], "--rows xyz: matches no row; the rows are a"),
        (["tiny", "--jobs", "0"], "--jobs 0: must be a whole number at least 1 and at most 1024 or auto"),
        (["tiny", "--data_dir", "/nowhere"], ""),
    ],
)
def test_a_mistake_is_a_line(paper, words, message, tmp_path, capsys):
    status = __main__.main([*words, "--export_dir", str(tmp_path / "saves"), "--quiet", "--show"])
    result = capsys.readouterr().err
    if message:
        assert status == 2
        assert result == f"papers: {message}\n"
    else:
        assert status == 0, "the embedded digits lie nowhere"


def test_a_mistake_in_the_data_is_a_line(paper, tmp_path, capsys, monkeypatch):
    def absent(*_):
        raise UserError("--dataset digits: not there")

    monkeypatch.setattr(experiment, "prepare", absent)
    assert __main__.main(["tiny", "--export_dir", str(tmp_path), "--show"]) == 2
    assert capsys.readouterr().err == "papers: --dataset digits: not there\n"
