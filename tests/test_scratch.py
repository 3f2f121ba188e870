"""Files for a while: whose they are, and who removes them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

from federation import scratch


@pytest.fixture(autouse=True)
def begins(tmp_path, monkeypatch):
    """As in a process that begins, whose folder for temporary files is the test's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_own", None)


def lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def test_a_folder_of_a_command_that_was_killed_with_all_its_workers_is_removed_by_the_next(tmp_path):
    left, at_work, of_others = (tmp_path / f"chorus-{what}" for what in ("left", "at-work", "of-others"))
    for folder in (left, left / "worker-1", at_work, at_work / "worker-1", at_work / "worker-2"):
        folder.mkdir()
        (folder / "openpyxl.1").touch()
        lock(folder).touch()
    of_others.mkdir()
    with FileLock(lock(at_work / "worker-2")), scratch.used():  # its command is gone, one worker still saves
        own = scratch.of_process()
        assert set(tmp_path.iterdir()) == {at_work, lock(at_work), of_others, own, lock(own)}
        assert own.stat().st_mode & 0o777 == 0o700, "nobody else is to read what is there"
        assert tempfile.gettempdir() == str(own)
        with scratch.shared_folder() as shared, scratch.used():
            assert shared.parent == own
        assert not shared.exists()
    scratch.remove_abandoned(own)
    assert own.exists(), "it is at work"
    scratch.leave(at_work)
    assert set(tmp_path.iterdir()) == {of_others}
    assert tempfile.gettempdir() == str(tmp_path)


def test_a_command_that_was_killed_as_it_made_or_removed_its_folder_leaves_a_lock_which_the_next_removes(tmp_path):
    (tmp_path / "chorus-0").with_suffix(".lock").touch()
    with scratch.used():
        own = scratch.of_process()
        assert set(tmp_path.iterdir()) == {own, lock(own)}


KILLED = """
import os, sys, tempfile
from multiprocessing import util
from pathlib import Path
from federation import scratch

def kill(event, args):
    global left
    if event in ("open", "os.mkdir", "os.remove", "os.rmdir", "os.rename") and "chorus-" in str(args[0]):
        left -= 1
        if left == 0:
            os._exit(9)

for left in range(1, 100):
    pid = os.fork()
    if pid == 0:
        sys.addaudithook(kill)
        with scratch.used():
            Path(tempfile.gettempdir(), "openpyxl.1").touch()
        util._exit_function()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    there = os.listdir()
    with scratch.used():
        own = scratch.of_process().name
        print(status, len(there), sorted(os.listdir()) == [own, own + ".lock"])
    scratch.leave(None)
    if status == 0:
        break
"""


def test_what_a_command_leaves_that_is_killed_at_any_call_for_its_folder_is_removed_by_the_next(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", KILLED]
    output = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    *killed, last = [line.split() for line in output.splitlines()]
    assert last == ["0", "0", "True"], "a command that is not killed leaves nothing itself"
    assert {(status, swept) for status, _, swept in killed} == {("9", "True")}
    assert {left for _, left, _ in killed} == {"0", "1", "2"}, "before its lock, with a lock alone, with a folder"


def test_a_worker_has_a_folder_in_that_of_its_command(tmp_path):
    scratch.be_in(None)  # of a command that could make none
    assert tempfile.gettempdir() == str(tmp_path)
    assert not list(tmp_path.iterdir())
    scratch.be_in(tmp_path)
    assert Path(tempfile.gettempdir()).parent == tmp_path
    scratch.leave(None)
    assert not list(tmp_path.iterdir())


def test_where_no_folder_can_be_made_temporary_files_are_where_they_always_are(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with scratch.used():
        assert scratch.of_process() is None
        assert tempfile.gettempdir() == str(tmp_path / "gone")
