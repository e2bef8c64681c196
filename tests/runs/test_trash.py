"""Deleted runs: found in the trash, brought back, gone only when it is emptied."""

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
