"""Files for a while: whose they are, and who removes them."""

import tempfile
from pathlib import Path

from filelock import FileLock

from federation import scratch


def test_a_folder_of_a_command_that_was_killed_with_all_its_workers_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_held", None)  # as in a process that begins
    left, at_work, of_others = (tmp_path / f"chorus-{what}" for what in ("left", "at-work", "of-others"))
    for folder in (left, left / "worker-1", at_work, at_work / "worker-1", at_work / "worker-2"):
        folder.mkdir()
        (folder / "openpyxl.1").touch()
        (folder / scratch.LOCK).touch()
    of_others.mkdir()
    with FileLock(at_work / "worker-2" / scratch.LOCK), scratch.used():  # its command is gone, one worker still saves
        own = scratch.of_process()
        assert set(tmp_path.iterdir()) == {at_work, of_others, own}
        assert tempfile.gettempdir() == str(own)
        with scratch.shared_folder() as shared, scratch.used():
            assert shared.parent == own
        assert not shared.exists()
    scratch.remove_abandoned(own)
    assert own.exists(), "it is at work"
    scratch.leave(at_work)
    assert set(tmp_path.iterdir()) == {of_others}
    assert tempfile.gettempdir() == str(tmp_path)


def test_a_worker_has_a_folder_in_that_of_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_held", None)
    scratch.be_in(None)  # of a command that could make none
    assert tempfile.gettempdir() == str(tmp_path)
    assert not list(tmp_path.iterdir())
    scratch.be_in(tmp_path)
    assert Path(tempfile.gettempdir()).parent == tmp_path
    scratch.leave(None)
    assert not list(tmp_path.iterdir())


def test_where_no_folder_can_be_made_temporary_files_are_where_they_always_are(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(scratch, "_held", None)
    with scratch.used():
        assert scratch.of_process() is None
        assert tempfile.gettempdir() == str(tmp_path / "gone")
