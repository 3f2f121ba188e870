"""What is read of a run's folder is what was written: damage is found, told in one line, and made good where it can be."""

import errno
import fcntl
import logging
import os
import pickle
import shutil
import subprocess
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import carried_out, closed, sealed
from test_experiment import assert_same, prepared

import experiment
import run as command
import saves
from checks.hard import corrupt, damages, in_time
from errors import UserError, reason_of
from experiment import checkpoints
from federation import scratch
from figures import exchange, report, status, table
from launch import single
from launch.loggers import ALWAYS
from saves.values import strange_config, strange_history, strange_weights

READ = ("config.json", "history.npz", "weights.pt", "confusion.npz", "features.npz", "split.npz")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_rounds(prepared("fedavg", tmp_path_factory.mktemp("saves"), track_features=1))


@pytest.fixture
def run(whole, tmp_path):
    return saves.load(shutil.copytree(whole.folder, tmp_path / whole.folder.name))


@pytest.fixture
def cut(tmp_path, monkeypatch):
    """A run that was stopped in its last round, with a checkpoint after each of the two before."""
    run_experiment = prepared("fedavg", tmp_path, track_features=1)
    monkeypatch.setattr(checkpoints, "SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(run_experiment, watch=_stop_after(3))
    return run_experiment


run_rounds = partial(experiment.run, loggers=ALWAYS)


def _stop_after(r):
    def watch(row):
        if row["round"] == r:
            raise KeyboardInterrupt

    return watch


DAMAGES = (damages.flipped, damages.truncated, damages.emptied, damages.removed, *damages.NO_FILES)


@pytest.fixture(autouse=True)
def limit():
    """Nothing that is read may hang."""
    with in_time(60):
        yield


def damaged(path, damage=damages.flipped, seed=0):
    damage(path, np.random.default_rng(seed))


def read_all(folder):
    """Everything that can be read of a run."""
    run = saves.load(folder)
    assert len(run.history) and run.weights() and run.model()
    for name in ("confusion", "features", "split"):
        assert run.arrays(name)
    assert run.checkpoint()


def test_done_is_what_sha256sum_checks_and_names_all_that_is_read(run):
    (checkpoint,) = saves.checkpoints(run.folder)
    assert set(run.digests) == {*READ, checkpoint.name}
    assert run.digests[checkpoint.name].startswith(checkpoint.stem.rpartition("-")[2])
    checked = subprocess.run(["sha256sum", "-c", "done"], cwd=run.folder, capture_output=True, text=True, check=True)
    assert checked.stdout.count(": OK\n") == len(READ) + 1


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*READ, "checkpoint"])
def test_damage_is_told_in_a_line_when_the_file_is_read_and_not_before(name, damage, run):
    path = saves.checkpoints(run.folder)[0] if name == "checkpoint" else run.folder / name
    damaged(path, damage)
    with pytest.raises(saves.DamagedError) as error:
        read_all(run.folder)
    assert str(path if name != "checkpoint" else run.folder) in str(error.value)
    assert "\n" not in str(error.value)
    if name in ("weights.pt", "features.npz"):
        assert len(table.compare([saves.load(run.folder)]).tables), "a table reads neither"


@pytest.mark.parametrize("name", ["history.pkl", "history.csv", "history.xlsx", "run.log", "split.png"])
def test_of_what_is_not_read_damage_changes_nothing(name, run, whole):
    (run.folder / name).write_bytes(b"\x80\x04other bytes")
    read_all(run.folder)
    pd.testing.assert_frame_equal(saves.load(run.folder).history, whole.history)


def test_damage_of_done_is_told_and_an_empty_one_is_of_an_older_version(run, caplog):
    lines = (run.folder / "done").read_text().splitlines(keepends=True)
    (run.folder / "done").write_text("".join(lines[:-1]))  # weights.pt
    with pytest.raises(saves.DamagedError, match=r"weights.pt: is damaged: done does not list it"):
        saves.load(run.folder).weights()
    (run.folder / "done").write_text("".join([*lines, "x"]))
    with pytest.raises(saves.DamagedError, match="line 8 does not consist of a digest and a file"):
        saves.load(run.folder)
    (run.folder / "done").write_bytes(b"")
    with pytest.raises(saves.OlderError, match="has no digests, because an older version wrote it"):
        saves.load(run.folder)
    assert saves.find(run.folder.parent) == []
    assert "skipping runs of an older version, which have no digests: fedavg-" in caplog.text


@pytest.mark.parametrize("name", [*READ, "checkpoint", "done"])
def test_the_same_command_makes_a_damaged_run_anew_to_the_same_bits_and_says_so(name, whole, tmp_path, caplog):
    caplog.set_level(logging.INFO, "chorus")
    run_experiment = prepared("fedavg", tmp_path, track_features=1)
    shutil.copytree(whole.folder, run_experiment.folder)
    path = saves.checkpoints(run_experiment.folder)[0] if name == "checkpoint" else run_experiment.folder / name
    damaged(path)
    again = run_rounds(run_experiment)
    assert (": is damaged" if name == "done" else f"{path.name}: is damaged") in caplog.text
    from_checkpoint = name in ("config.json", "split.npz", "history.npz", "features.npz", "done")
    assert ("resumed after round 3 of 3" in caplog.text) == from_checkpoint
    assert ("repeating rounds 1 to 3" in caplog.text) != from_checkpoint
    assert_same(whole, again)
    saves.verify(again)


def test_two_checkpoints_are_kept_while_a_run_goes_on_and_one_when_it_is_done(cut, whole):
    assert [path.name.split("-")[1] for path in saves.checkpoints(cut.folder)] == ["3", "2"]
    assert len(saves.checkpoints(run_rounds(cut).folder)) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_the_last_checkpoint_is_damaged_the_one_before_it_is_used_and_what_is_lost_is_said(damage, cut, whole, caplog):
    caplog.set_level(logging.INFO, "chorus")
    last, before = saves.checkpoints(cut.folder)
    damaged(last, damage)
    again = run_rounds(cut)
    assert (f"{last}: is damaged" in caplog.text) == (damage is not damages.removed)
    lost = "" if damage is damages.removed else "; repeating round 3"  # of which nothing is left
    assert f"{cut.folder.name}: resumed after round 2 of 3{lost}\n" in caplog.text
    assert_same(whole, again)
    assert len(saves.checkpoints(cut.folder)) == 1


def test_where_both_are_damaged_it_begins_anew_and_says_so(cut, whole, caplog):
    caplog.set_level(logging.INFO, "chorus")
    for path in saves.checkpoints(cut.folder):
        damaged(path)
    again = run_rounds(cut)
    assert (
        f"{cut.folder.name}: starts again from round 1, because it has no good checkpoint; repeating rounds 1 to 3"
        in caplog.text
    )
    assert_same(whole, again)


@pytest.mark.parametrize("name", ["weights.pt", "confusion.npz"])
def test_a_checkpoint_of_the_last_round_is_good_where_what_was_written_in_it_is(name, cut, whole, caplog):
    damaged(cut.folder / name)
    assert_same(whole, run_rounds(cut))
    assert f"{name}: is damaged: its content has changed since it was written; using the previous checkpoint" in caplog.text


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(cut):
    for name in (".weights.pt.0123abcd", ".checkpoint.pt.89abcdef", ".mine", "notes.0123abcd"):
        (cut.folder / name).touch()
    run_rounds(cut)
    hidden = {path.name for path in cut.folder.iterdir() if path.name.startswith((".", "notes"))}
    assert hidden == {".lock", ".mine", "notes.0123abcd"}


def test_several_may_write_one_file_at_once(tmp_path):
    def write(path):
        saves.write_text(tmp_path / "file", "of the other")
        path.write_text("mine")

    saves.written(tmp_path / "file", write)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


# --- what would run code, or pass for another run ---------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return (print, ("code of a stranger",))


def test_no_pickle_is_read(run, whole, capsys):
    (run.folder / "history.pkl").write_bytes(pickle.dumps(Bomb()))
    np.savez(run.folder / "confusion.npz", test=np.array([Bomb()], dtype=object))
    torch.save({"global": Bomb()}, run.folder / "weights.pt")
    strange = sealed(run.folder)
    pd.testing.assert_frame_equal(strange.history, whole.history)
    for read in (strange.weights, partial(strange.arrays, "confusion")):
        with pytest.raises(saves.DamagedError):
            read()
    assert "stranger" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"round": "3", "state": {}, "history": [], "files": {}},
        {"round": 99, "state": {}, "history": [], "files": {}},
        {"round": 3, "state": {}, "history": []},
        {"round": 3, "state": Bomb(), "history": [], "files": {}},
    ],
)
def test_a_checkpoint_that_is_none_is_passed_over(content, tmp_path, capsys):
    torch.save(content, tmp_path / "c")
    r = content["round"] if isinstance(content, dict) and content["round"] == 99 else 3
    (tmp_path / "c").rename(tmp_path / f"checkpoint-{r}-{saves.digest_of(tmp_path / 'c')[:16]}.pt")
    assert saves.read_checkpoint(tmp_path, 3) is None
    assert "stranger" not in capsys.readouterr().out


def test_a_history_that_no_run_can_have_is_refused(run, whole):
    columns = {str(name): whole.history[name].to_numpy() for name in whole.history}
    assert strange_history(columns, 3, 3) is None

    def changed(name, value):
        column = columns[name].copy()
        column[-1] = value
        return {**columns, name: column}

    for strange, result in {
        "an accuracy": (changed("personal_accuracy", 7.5), "personal_accuracy is 7.5"),
        "a share": (changed("global_mean", -0.1), "global_mean is -0.1"),
        "bytes": (changed("bytes_up", -1), "bytes_up is -1"),
        "seconds": (changed("seconds", -1.0), "seconds is -1"),
        "a round": (changed("round", 99), "round is 99"),
        "a client": (changed("client", 3), "client is 3"),
        "a text": ({**columns, "loss": np.array(["x"] * len(columns["loss"]))}, "its columns are not all numbers"),
        "lengths": ({**columns, "loss": np.zeros(2)}, "its columns differ in length"),
        "rows": ({"round": columns["round"]}, "it has no rounds and clients"),
        "rounds": ({name: column[4:] for name, column in columns.items()}, "it does not have one row for each of 3 rounds"),
    }.values():
        assert strange_history(strange, 3, 3) == result
    np.savez(run.folder / "history.npz", **changed("global_mean", 7.5))
    with pytest.raises(saves.DamagedError, match=r"history.npz: is damaged: global_mean is 7.5"):
        _ = sealed(run.folder).history


def test_a_config_that_no_run_can_have_is_refused(whole):
    config = whole.config
    assert strange_config(config) is None
    assert strange_config([]) == "it is not a configuration"
    assert strange_config({**config, "options": []}) == "its options is of the wrong type; must be dict"
    assert (
        strange_config({**config, "options": {**config["options"], "rounds": "3"}})
        == "its rounds is of the wrong type; must be int"
    )
    assert strange_config({**config, "options": {**config["options"], "rounds": 0}}) == "3 clients in 0 rounds"
    assert (
        strange_config({name: value for name, value in config.items() if name != "data"})
        == "its data is of the wrong type; must be dict"
    )


def test_weights_that_no_run_can_have_are_refused(run, whole):
    row = {"w": torch.zeros(2)}
    assert strange_weights(whole.weights(), 3) is None
    assert strange_weights({"global": row, "personal": [row] * 3}, 3) is None
    assert strange_weights([], 3) == strange_weights({}, 3) == strange_weights(row["w"], 3) == "it holds no weights"
    assert (
        strange_weights({"personal": [row] * 2}, 3)
        == strange_weights({"personal": row}, 3)
        == "personal does not have 3 clients"
    )
    for strange in (3, row["w"], [row], {"w": 3}):
        assert strange_weights({"global": strange}, 3) == "global does not consist of tensors"
    assert strange_weights({"personal": [row, row, None]}, 3) == "personal does not consist of tensors"
    torch.save({"global": 3}, run.folder / "weights.pt")
    with pytest.raises(saves.DamagedError, match=r"weights.pt: is damaged: global does not consist of tensors"):
        sealed(run.folder).weights()


@pytest.mark.parametrize("content", ["", "{", "[" * 3_000, "\xff", "[1]", '{"options": 3}', "NaN"])
def test_a_damaged_config_is_one_line_everywhere(content, run, capsys):
    (run.folder / "config.json").write_bytes(content.encode("latin1"))
    sealed_by_hand = "".join(f"{saves.digest_of(path)}  {path.name}\n" for path in run.folder.glob("*.[njp][tps]*"))
    (run.folder / "done").write_text(sealed_by_hand)
    with pytest.raises(UserError, match=r"config.json: is damaged: "):
        saves.load(run.folder)
    assert "1 damaged" in status.table(run.folder.parent)
    assert command.main(f"fedavg --n_clients 3 --init_from {run.folder}".split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json: is damaged" in line


def test_an_archive_that_unpacks_to_more_than_its_arrays_is_refused(run):
    with zipfile.ZipFile(run.folder / "confusion.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (68719476736,)}".ljust(118)
        archive.writestr("test.npy", b"\x93NUMPY\x01\x00v\x00" + header)
    with pytest.raises(saves.DamagedError, match="confusion.npz: is damaged: test declares float64"):
        sealed(run.folder).arrays("confusion")


# --- beside others, and while it is drawn ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["done", "config.json", "history.npz", "checkpoint"])
def test_a_damaged_run_of_fewer_rounds_stops_no_longer_one_and_no_table(name, run, caplog):
    """A longer one of the same would go on from it; and of independent learning the gain is taken."""
    caplog.set_level(logging.WARNING, "chorus")
    path = saves.checkpoints(run.folder)[0] if name == "checkpoint" else run.folder / name
    damaged(path, damages.truncated if name == "done" else damages.flipped, seed=1)  # in the middle
    longer = prepared("fedavg", run.folder.parent, track_features=1, rounds=run.options["rounds"] + 1)
    item = run_rounds(longer)
    lines = [line for line in caplog.text.splitlines() if "is damaged" in line]
    assert len(lines) == (name != "history.npz"), "of which nothing is read"
    assert_same(item, run_rounds(prepared("fedavg", run.folder.parent.parent / "alone", track_features=1, rounds=4)))


def test_nothing_is_compared_with_a_damaged_baseline_and_it_is_said(tmp_path, capsys):
    words = f"--n_clients 3 --rounds 1 --reduced 0.1 --model MLP --quiet --export_dir {tmp_path}".split()
    assert command.main(["independent", *words]) == 0
    assert command.main(["cfkd", *words]) == 0
    assert "gain over alone" in capsys.readouterr().out
    (baseline,) = tmp_path.glob("independent-*")
    damaged(baseline / "history.npz")
    assert command.main(["cfkd", *words]) == 0
    captured = capsys.readouterr()
    assert "cfkd" in captured.out
    assert "gain over alone" not in captured.out
    (line,) = [line for line in captured.err.splitlines() if "history.npz" in line]
    assert line.endswith("is damaged: its content has changed since it was written; skipping the comparison with it")


@pytest.mark.parametrize("damage", DAMAGES)
def test_status_of_a_finished_run_is_of_what_is_checked(damage, run):
    before = status.status(run.folder)
    damaged(run.folder / "history.csv", damage)
    assert status.status(run.folder) == before
    damaged(run.folder / "history.npz")
    assert status.status(run.folder)["status"] == "damaged"


@pytest.mark.parametrize("damage", DAMAGES)
def test_status_of_an_unfinished_run_shows_whole_rows_alone(damage, cut):
    damaged(cut.folder / "history.csv", damage)
    assert status.status(cut.folder)["status"] == "stopped"


def test_a_report_does_without_nothing_that_is_damaged(run, tmp_path, capsys):
    damaged(run.folder / "features.npz")
    with pytest.raises(SystemExit):
        report.main([str(run.folder), "-o", str(tmp_path / "page.html")])
    assert "features.npz: is damaged" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


# --- no files, and files that may not be read --------------------------------------------------------------------------


def pairs(*names):
    """Each file a pipe, and two of them all else; `make hard` tries all."""
    both = [(name, damages.a_pipe) for name in names]
    return both + [(name, damage) for name in ("done", ".lock") for damage in damages.NO_FILES if damage != damages.a_pipe]


@pytest.mark.parametrize(("name", "damage"), pairs("done", *READ, "history.csv", "run.log", ".lock", "checkpoint"))
def test_no_reader_hangs_where_a_file_is_none(name, damage, run, tmp_path):
    undamaged = corrupt.told_by(run.folder, tmp_path)
    damaged(saves.checkpoints(run.folder)[0] if name == "checkpoint" else run.folder / name, damage)
    result = corrupt.told_by(run.folder, tmp_path)
    assert corrupt.wrong(undamaged, result) == []
    assert isinstance(result["config"], saves.DamagedError) == (name in ("done", "config.json"))


@pytest.mark.parametrize(
    ("name", "damage"),
    pairs("done", "config.json", "history.csv", "history.xlsx", "run.log", "failed", ".lock", "checkpoint"),
)
def test_a_run_goes_on_to_the_same_bits_or_says_in_a_line_which_file_is_none(name, damage, cut, whole):
    path = saves.checkpoints(cut.folder)[0] if name == "checkpoint" else cut.folder / name
    path.touch()
    damaged(path, damage)
    with in_time(30):
        result = carried_out(cut, False, ALWAYS, lambda row: None)
    if isinstance(result, single.Failed):
        assert path.name in result.reason
        assert "\n" not in result.reason
        assert damage is damages.a_folder or name in ("run.log", ".lock"), result.reason
    else:
        assert_same(whole, result)


def test_a_workbook_of_all_runs_that_is_none_is_told_and_the_run_is_kept(run, tmp_path, caplog):
    os.mkfifo(tmp_path / "result.xlsx")
    exchange.append(run, tmp_path / "result.xlsx")
    assert "result.xlsx: cannot be read (a pipe or a device; must be a file); this run is not added" in caplog.text


@pytest.fixture
def readable():
    """A folder that every user may read."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("name", [".", "done", "config.json", "history.npz", "weights.pt"])
def test_a_run_that_may_not_be_read_is_told_as_a_damaged_one_and_stays_as_it_is(name, whole, readable, caplog):
    folder = Path(shutil.copytree(whole.folder, readable / whole.folder.name))
    path, content = folder / name, {path.name: path.read_bytes() for path in folder.iterdir()}
    mode = path.stat().st_mode
    path.chmod(0)
    with closed():
        with pytest.raises(saves.UnreadableError, match="cannot be read or written; change the permissions") as error:
            read_all(folder)
        assert isinstance(error.value, saves.DamagedError)
        assert str(path if name != "." else folder) in str(error.value)
        assert saves.find(readable) == []
        assert f"{folder.name} skipped: {path if name != '.' else folder}: cannot be read" in caplog.text
        with pytest.raises(saves.UnreadableError):
            saves.whole(folder, "it would be made anew") if saves.finished(folder) else saves.load(folder)
    path.chmod(mode)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content


def test_a_checkpoint_that_may_not_be_read_is_neither_removed_nor_passed_over(cut):
    last = saves.checkpoints(cut.folder)[0]
    cut.folder.chmod(0o755)
    for above in (*cut.folder.parents,)[:-2]:
        above.chmod(above.stat().st_mode | 0o055)
    last.chmod(0)
    with closed():
        with pytest.raises(saves.UnreadableError):
            saves.read_checkpoint(cut.folder, 3, remove=True)
        assert saves.read_checkpoint(cut.folder, 3)["round"] == 2, "of somebody else's run the one before it"
    assert last.exists()


# --- file systems without locks ----------------------------------------------------------------------------------------

REFUSALS = [OSError(number, os.strerror(number)) for number in (errno.ENOLCK, errno.EOPNOTSUPP)]


@pytest.fixture(params=[*REFUSALS, NotImplementedError()], ids=["ENOLCK", "EOPNOTSUPP", "not implemented"])
def no_locks(request, monkeypatch):
    def refuse(*_):
        raise request.param

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_grid_on_a_file_system_without_locks_ends_in_one_line(no_locks, tmp_path, capsys):
    words = f"fedavg --n_clients 2 --rounds 1 --reduced 0.1 --model MLP --seed 0 1 --jobs 1 --quiet --export_dir {tmp_path}"
    assert command.main(words.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run.py: {tmp_path}/fedavg-digits-")
    assert line.endswith(": its file system has no locks; use a folder on another disk (for runs: --export_dir)")


def test_where_there_are_no_locks_nobody_is_at_work_and_temporary_files_are_where_they_always_are(
    cut, whole, no_locks, tmp_path, monkeypatch
):
    assert not saves.at_work(cut.folder)
    monkeypatch.setattr(scratch, "_own", None)
    with scratch.used():
        assert scratch.of_process() is None
    with pytest.raises(OSError, match="No locks available") as error:
        exchange.append(whole, tmp_path / "result.xlsx")
    assert reason_of(error.value).startswith(f"{tmp_path}: its file system has no locks; use a folder on another disk")
