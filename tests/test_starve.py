"""What the system refuses is told in one line that says what to do, nothing half-written is taken as good, and the same
command goes on. With disks, limits and kills, and at length: `checks/hard/starve.py`."""

import errno
import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, carried_out
from test_experiment import assert_same, prepared

import errors
import experiment
import saves
import untrusted
from errors import NoRoomError, reason_of, refused, writing
from saves import files


def nothing(row) -> None:
    pass


def in_words_of_its_own() -> ImportError:
    """As a library has it that tells what it lacks, whyever that could not be loaded."""
    error = ImportError("No module named expat")
    error.__context__ = ImportError("pyexpat.so: failed to map segment from shared object")
    return error


@pytest.mark.parametrize("number", errors.REFUSED)
def test_what_the_system_refuses_is_one_line_that_names_the_file_and_says_what_to_do(number):
    line = reason_of(OSError(number, os.strerror(number), "saves/run/weights.pt"))
    assert line.startswith("saves/run/weights.pt: ")
    assert ("another disk" if number == errno.ENOLCK else "the same command") in line
    assert len(line.splitlines()) == 1
    assert os.strerror(number) not in line, "in plain words"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you"),
            "not enough memory",
        ),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
        (in_words_of_its_own(), "not enough memory"),
        (RuntimeError("can't start new thread"), "the limit of processes or threads is reached"),
    ],
)
def test_so_is_what_libraries_say_in_errors_of_their_own(error, words):
    assert reason_of(error).startswith(words)


@pytest.mark.parametrize(
    "error", [TypeError("a bug"), RuntimeError("shapes cannot be multiplied"), OSError("odd"), KeyError("x")]
)
def test_what_nobody_foresaw_is_told_as_what_it_is(error):
    assert refused(error) is None
    assert reason_of(error).startswith(f"{type(error).__name__}: ")


def test_an_error_of_torch_that_comes_of_a_full_disk_is_that_of_the_disk(tmp_path):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    with pytest.raises(OSError, match="No space left") as raised, writing(tmp_path / "weights.pt"):
        torch.save({"w": torch.zeros(100_000)}, Full())
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "weights.pt"))
    with pytest.raises(RuntimeError, match="a bug"), writing(tmp_path / "weights.pt"):
        raise RuntimeError("a bug")


def refusing(monkeypatch, number, name):
    """No file whose name holds `name` can be synced to the disk."""

    def fsync(descriptor, sync=os.fsync):
        if name in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells which file a descriptor is of")
@pytest.mark.parametrize(
    "name", ["config.json", "split.npz", "weights.pt", "checkpoint", "history.npz", "history.xlsx", "done"]
)
def test_wherever_a_disk_gets_full_the_command_ends_and_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    whole = experiment.run(prepared("fedavg", tmp_path / "whole"))
    run_experiment = prepared("fedavg", tmp_path / "full")
    with monkeypatch.context() as patched:
        refusing(patched, errno.ENOSPC, name)
        ended = carried_out(run_experiment, False, (), nothing)
    assert isinstance(ended, NoRoomError)
    assert re.search(r"/\S+: the disk is full; free some space, then rerun the same command$", str(ended))
    assert not saves.finished(run_experiment.folder)
    assert [path.name for path in run_experiment.folder.glob(".*")] == [".lock"], "nothing half-written is left"
    assert_same(experiment.run(run_experiment), whole)


def test_a_finished_run_that_cannot_be_read_now_stays_finished(tmp_path, monkeypatch):
    run_experiment = prepared("fedavg", tmp_path)
    experiment.run(run_experiment)

    def short(path, *others):
        with untrusted.refusing(path, "text"):
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(untrusted, "text", short)
        failed = carried_out(run_experiment, False, (), nothing)
    assert failed.reason.startswith("not enough memory; ")
    assert experiment.run(run_experiment).done
    assert (run_experiment.folder / "run.log").read_text().count(" in /") == 1, "and is not made again"


def test_a_good_checkpoint_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    run_experiment = prepared("fedavg", tmp_path, rounds=3)

    def stop(row):
        if not isinstance(row, str) and row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(run_experiment, watch=stop)
    kept = saves.checkpoints(run_experiment.folder)
    with monkeypatch.context() as patched:

        def no_more(path, *flags):
            if Path(path).name.startswith("checkpoint-"):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
            return regular(path, *flags)

        regular = untrusted.regular
        patched.setattr(untrusted, "regular", no_more)
        failed = carried_out(run_experiment, False, (), nothing)
    assert ": too many files are open; " in failed.reason
    assert saves.checkpoints(run_experiment.folder) == kept != []
    assert experiment.run(run_experiment).done


def test_who_is_told_to_stop_stops_though_the_disk_is_full(tmp_path, monkeypatch, caplog):
    def stop(row):
        refusing(monkeypatch, errno.ENOSPC, "checkpoint")
        raise KeyboardInterrupt

    with caplog.at_level(logging.WARNING, "chorus"), pytest.raises(KeyboardInterrupt):
        carried_out(prepared("fedavg", tmp_path, rounds=3), False, (), stop)
    assert "cannot save round " in caplog.text


def test_a_full_disk_behind_the_output_is_told_and_the_runs_are_kept(tmp_path):
    words = f"fedavg --dataset digits --reduced 0.1 --n_clients 2 --model MLP --rounds 1 --quiet --export_dir {tmp_path}"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "run.py", *words.split()], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "run.py: the disk is full; free some space, then rerun the same command\n")
    assert len(saves.find(tmp_path)) == 1


def limited(resource_of: int, most: int, *words) -> subprocess.CompletedProcess:
    """A command that ended, in a process that may have no more of something than this."""
    return subprocess.run(
        [sys.executable, "run.py", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource_of, (most, most)),
        check=False,
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_files_that_may_not_be_as_large_are_named(jobs, tmp_path):
    words = f"fedavg --dataset digits --n_clients 2 --model MLP --rounds 1 --seed 0 1 --jobs {jobs} --quiet"
    done = limited(resource.RLIMIT_FSIZE, 100_000, *words.split(), "--export_dir", tmp_path)
    assert done.returncode == 1
    assert all(": the file exceeds the size limit; " in line for line in done.stderr.splitlines()), done.stderr
    assert not saves.find(tmp_path)
    assert not list(tmp_path.glob("*/.[!l]*"))


@pytest.mark.parametrize("most", [300, 450])  # MiB; with a little more, libraries abort before they can say anything
def test_too_little_memory_to_load_is_one_line(most):
    done = limited(resource.RLIMIT_AS, most << 20, "fedavg")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "memory" in done.stderr.lower()
