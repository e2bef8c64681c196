"""Deleted runs: found in the trash, brought back, gone only when it is emptied."""

import shutil

import pytest

from engine.errors import RunError
from engine.runs import trash
from engine.runs.folder import locate


def test_delete_is_undone_by_restore(run):
    trash.delete(run)
    assert trash.trashed(run.runs) == [run.id]
    with pytest.raises(RunError, match="restore it from the trash"):
        locate(run.runs, run.id)
    trash.restore(run.runs, run.id)
    assert locate(run.runs, run.id).name == "first"


def test_emptying_leaves_what_is_no_run_and_says_what_cannot_go(run, monkeypatch):
    trash.delete(run)
    (run.runs / ".trash" / "notes.txt").write_text("not a run")
    assert trash.trashed(run.runs) == [run.id]

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(trash.shutil, "rmtree", refused)
    with pytest.raises(RunError, match="cannot be emptied"):
        trash.empty_trash(run.runs)
    assert trash.trashed(run.runs) == [run.id]
    monkeypatch.undo()
    assert trash.empty_trash(run.runs) == 1
    assert (run.runs / ".trash" / "notes.txt").exists()


def test_a_run_that_came_back_another_way_is_not_mixed_with_the_deleted_one(run):
    copy = shutil.copytree(run.path, run.runs.parent / "copy")
    trash.delete(run)
    copy.replace(run.path)
    for act in (lambda: trash.delete(run), lambda: trash.restore(run.runs, run.id)):
        with pytest.raises(RunError, match="A run of this id is there already"):
            act()
    assert locate(run.runs, run.id).name == "first"
