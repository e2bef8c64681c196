"""The list of runs: never a stale row, and no damaged run hides another."""

import os
import shutil
import time
from dataclasses import replace

import pytest

from engine import files
from engine.bench.runs import make_runs
from engine.runs import database, listing, trash
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder, run_folders
from engine.runs.index import Index
from engine.runs.listing import summaries
from engine.runs.status import Status

WORTH, COUNT = 4, 8


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The ids of the folders whose files were read, since it was last emptied."""
    seen: list[str] = []
    facts = RunFolder.facts

    def spied(self: RunFolder):
        seen.append(self.id)
        return facts(self)

    monkeypatch.setattr(RunFolder, "facts", spied)
    return seen


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A runs folder that is worth an index, its files no longer young, and a cache folder of its own."""
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "YOUNG_S", 0.0)
    monkeypatch.setattr(listing, "WORTH_AN_INDEX", WORTH)
    runs = tmp_path / "runs"
    make_runs(runs, COUNT, 1)
    time.sleep(0.02)  # a few ticks
    return runs


def in_a_new_process(runs):
    """The list as a process makes it that has just begun."""
    listing._KNOWN.clear()
    return summaries(runs)


def truth(runs):
    return [folder.summary() for folder in run_folders(runs)]


def test_a_torn_status_is_unknown_and_hides_no_other_run(run):
    other = create(run.runs, RunConfig(name="other"), "x")
    (run.path / "status.json").write_text('{"state": "run')
    states = {summary.id: summary.state for summary in summaries(run.runs)}
    assert states == {run.id: "unknown", other.id: "queued"}


def test_a_damaged_configuration_hides_no_other_run(run):
    other = create(run.runs, RunConfig(name="other"), "x")
    (run.path / "config.json").write_text("{")
    assert {summary.id: summary.state for summary in summaries(run.runs)} == {
        run.id: "unknown",
        other.id: "queued",
    }


def test_a_configuration_of_a_newer_version_says_so_in_the_list(run):
    record = files.read_json(run.path / "config.json") or {}
    files.write_json(run.path / "config.json", {**record, "schema": 99})
    (summary,) = summaries(run.runs)
    assert "newer version" in summary.status.error["message"]
    assert summary.status.error["remedy"] == "Update this installation"


def test_summaries_notice_every_change(run):
    assert summaries(run.runs)[0].state == "queued"
    run.write_status(Status().moved("completed"))
    assert summaries(run.runs)[0].state == "completed"
    run.write_label(name="renamed")
    assert summaries(run.runs)[0].name == "renamed"


def test_what_has_not_changed_is_read_once(many, read):
    summaries(many)
    assert len(read) == COUNT
    read.clear()
    assert summaries(many) == truth(many)
    assert len(read) == COUNT  # by `truth` alone


def test_a_new_process_reads_no_folder(many, read):
    before = summaries(many)
    read.clear()
    assert in_a_new_process(many) == before
    assert read == []


def test_a_new_process_reads_only_what_changed_while_none_looked(many, read):
    summaries(many)
    changed = run_folders(many)[3]
    changed.write_label(name="renamed")
    read.clear()
    assert in_a_new_process(many)[3].name == "renamed"
    assert read == [changed.id]


def test_runs_that_finish_one_by_one_reach_the_index(tmp_path, monkeypatch, read):
    """A server that saw each of them alone leaves few for the next process to read."""
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "YOUNG_S", 0.0)
    monkeypatch.setattr(listing, "WORTH_AN_INDEX", WORTH)
    runs = tmp_path / "runs"
    for number in range(WORTH + 2):
        create(runs, RunConfig(name=str(number)), f"run{number}", status=Status().moved("completed"))
        time.sleep(0.01)
        summaries(runs)
    read.clear()
    in_a_new_process(runs)
    assert len(read) == 2


def _in_place(path, text):
    """As an editor writes: the same file, its old time put back, no trace in the folder."""
    stat = path.stat()
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _rename_in_the_configuration(folder):
    source = folder.path / "config.json"
    _in_place(source, source.read_text().replace('"bench ', '"other '))


def _copy_back(folder):
    """The folder is replaced by a copy of another one, times and all."""
    other = run_folders(folder.runs)[-1]
    shutil.rmtree(folder.path)
    shutil.copytree(other.path, folder.path, copy_function=shutil.copy2)


CHANGES = {
    "status replaced": lambda folder: folder.write_status(replace(folder.status(), state="failed")),
    "status gone": lambda folder: (folder.path / "status.json").unlink(),
    "label written": lambda folder: folder.write_label(tags=["a"]),
    "configuration edited in place": _rename_in_the_configuration,
    "predictions": lambda folder: (folder.path / "predictions" / "test.csv").touch(),
    "moved by hand": lambda folder: folder.path.replace(folder.runs / f"20200101-000000-{folder.id[16:]}"),
    "replaced by a copy": _copy_back,
    "deleted": trash.delete,
    "configuration gone": lambda folder: (folder.path / "config.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_is_overlooked_by_this_process_or_the_next(many, change):
    summaries(many)
    finished = next(folder for folder in run_folders(many) if folder.state() == "completed")
    CHANGES[change](finished)
    assert summaries(many) == truth(many)
    assert in_a_new_process(many) == truth(many)


def test_a_run_brought_back_from_the_trash_is_listed_as_it_was(many):
    before = summaries(many)
    trash.delete(run_folders(many)[0])
    assert in_a_new_process(many) == before[1:]
    trash.restore(many, before[0].id)
    assert in_a_new_process(many) == before


def test_a_copy_of_the_runs_folder_is_read_for_itself(many, tmp_path):
    summaries(many)
    shutil.copytree(many, tmp_path / "copy")
    copied = run_folders(tmp_path / "copy")[0]
    copied.write_label(name="only in the copy")
    assert in_a_new_process(tmp_path / "copy")[0].name == "only in the copy"
    assert in_a_new_process(many)[0].name != "only in the copy"


def test_what_was_written_a_moment_ago_is_read_again_however_it_looks(run, monkeypatch):
    """Two writes within one tick of a coarse clock, to the same inode again: nothing tells them apart."""
    at = time.time_ns()
    monkeypatch.setattr(listing, "_stamps", lambda path: ((at, at, 1, 1),) * 4)
    for epoch in (1, 2):
        run.write_status(replace(run.status(), epoch=epoch))
        assert summaries(run.runs)[0].status.epoch == epoch


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_is_set_hides_no_change(many, monkeypatch, jump):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    assert summaries(many) == truth(many)
    run_folders(many)[2].write_label(name="renamed")
    assert in_a_new_process(many)[2].name == "renamed"


def test_files_of_the_future_are_not_remembered(many, monkeypatch, read):
    """The clock was set back: for the file system their tick may still come again."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    summaries(many)
    read.clear()
    summaries(many)
    assert len(read) == COUNT


def test_what_is_young_on_a_file_server_is_older_than_here(many, monkeypatch, read):
    """Its clock may be off by more than a tick."""
    monkeypatch.setattr(listing, "_is_on_network", lambda root: True)
    summaries(many)
    read.clear()
    summaries(many)
    assert len(read) == COUNT


def test_what_could_not_be_read_once_is_read_again(many, monkeypatch):
    """Too many open files, a server that is away for a second: nothing on disk will ever change for it."""
    real = files.read_json
    monkeypatch.setattr(files, "read_json", lambda source: None)
    assert {summary.state for summary in summaries(many)} == {"unknown"}
    monkeypatch.setattr(files, "read_json", real)
    assert summaries(many) == truth(many)


def test_a_few_runs_need_no_index(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "YOUNG_S", 0.0)
    time.sleep(0.02)
    summaries(run.runs)
    assert not Index().file.exists()


def test_a_runs_folder_that_cannot_be_written_is_indexed_all_the_same(many, read):
    """Nothing is written beside the runs."""
    before = {path.name for path in many.iterdir()}
    summaries(many)
    assert {path.name for path in many.iterdir()} == before
    read.clear()
    in_a_new_process(many)
    assert read == []


def test_without_a_local_disk_for_the_cache_the_folders_are_read(many, monkeypatch, read):
    monkeypatch.setattr(database, "on_network", lambda folder: True)
    monkeypatch.setattr(listing, "_is_on_network", lambda root: False)
    summaries(many)
    assert not Index().file.exists()
    read.clear()
    assert in_a_new_process(many) == truth(many)


def test_a_cache_folder_that_cannot_be_written_is_no_error(many, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "file" / "cache"))
    assert summaries(many) == truth(many)
    assert in_a_new_process(many) == truth(many)
