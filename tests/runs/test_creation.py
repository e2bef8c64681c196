"""New run folders: safe ids, seen whole or not at all."""

import pytest

from engine.runs import creation
from engine.runs import folder as contract
from engine.runs.config import RunConfig
from engine.runs.creation import create, new_id
from engine.runs.folder import RunFolder, run_folders
from engine.runs.listing import summaries


def test_a_new_run_is_complete_and_queued(run):
    assert run.state() == "queued"
    assert run.config() == RunConfig(name="first")
    assert run.name == "first"
    assert contract.ID_PATTERN.fullmatch(run.id)
    assert run.record()["provenance"]["packages"]["numpy"]


def test_ids_are_safe_whatever_they_are_made_from():
    for text in ("../../etc", "Ünïcode name", "", "a" * 300, "x; rm -rf /", "V2-B0"):
        assert contract.ID_PATTERN.fullmatch(new_id(text))


def test_a_run_is_seen_whole_or_not_at_all(run, monkeypatch):
    """Killed while it is made: nothing shows, and what is left is swept later."""

    def killed(self, status):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_status", killed)
    with pytest.raises(KeyboardInterrupt):
        create(run.runs, RunConfig(name="second"), "x")
    assert [folder.id for folder in run_folders(run.runs)] == [run.id]
    (run.runs / f"{creation.NEW}20261122-201500-x-3f2a").mkdir()
    assert len(summaries(run.runs)) == 1
    assert creation.sweep(run.runs) == 0
    assert creation.sweep(run.runs, older_s=-1) == 1
