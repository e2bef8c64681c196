"""The index of runs: a cache that may be damaged, locked, old or gone, and never says anything untrue."""

import contextlib
import shutil
import sqlite3
import stat
import time

import pytest

from engine.runs import index as module
from engine.runs.index import VERSION, Index

ROWS = {f"run{number}": (f"stamps {number}", f'{{"number": {number}}}') for number in range(30)}


@pytest.fixture
def index(tmp_path) -> Index:
    return Index(tmp_path / "cache")


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def test_what_was_written_is_read_by_another(index, runs):
    index.write(runs, ROWS, set(ROWS))
    assert Index(index.file.parent).read(runs) == ROWS


def test_it_logs_ahead_and_is_for_this_user_alone(index, runs):
    index.write(runs, ROWS, set(ROWS))
    with contextlib.closing(sqlite3.connect(index.file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert stat.S_IMODE(index.file.stat().st_mode) == 0o600


def test_runs_that_are_gone_are_forgotten_and_others_replaced(index, runs):
    index.write(runs, ROWS, set(ROWS))
    index.write(runs, {"run1": ("new", "{}")}, {"run1", "run2"})
    assert index.read(runs) == {"run1": ("new", "{}"), "run2": ROWS["run2"]}


def test_two_runs_folders_do_not_mix_and_a_removed_one_is_forgotten(index, tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    index.write(tmp_path / "one", ROWS, set(ROWS))
    index.write(tmp_path / "two", {"run1": ("other", "{}")}, {"run1"})
    assert index.read(tmp_path / "one") == ROWS
    shutil.rmtree(tmp_path / "one")
    index.write(tmp_path / "three", ROWS, set(ROWS))
    with contextlib.closing(sqlite3.connect(index.file)) as connection:
        paths = [row[0] for row in connection.execute("SELECT path FROM runs_folder ORDER BY path")]
        assert paths == [str(tmp_path / "three"), str(tmp_path / "two")]
        assert connection.execute("SELECT COUNT(*) FROM run").fetchone()[0] == len(ROWS) + 1


def test_a_row_changed_on_disk_is_not_believed(index, runs):
    index.write(runs, ROWS, set(ROWS))
    data = index.file.read_bytes()
    at = data.index(b'{"number": 7}')
    index.file.write_bytes(data[:at] + b'{"number": 8}' + data[at + 13 :])
    assert index.read(runs) == {name: row for name, row in ROWS.items() if name != "run7"}


def test_another_version_is_thrown_away_and_made_again(index, runs):
    index.write(runs, ROWS, set(ROWS))
    with contextlib.closing(sqlite3.connect(index.file)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert index.read(runs) == {}
    assert not index.file.exists()
    index.write(runs, ROWS, set(ROWS))
    assert index.read(runs) == ROWS


@pytest.mark.parametrize("table", ["run", "runs_folder"])
def test_an_index_without_its_tables_is_made_again(index, runs, table):
    index.write(runs, ROWS, set(ROWS))
    with contextlib.closing(sqlite3.connect(index.file)) as connection:
        connection.execute(f"DROP TABLE {table}")
    assert index.read(runs) == {}
    index.write(runs, ROWS, set(ROWS))
    assert index.read(runs) == ROWS


def test_a_locked_index_is_waited_for_briefly_and_kept(index, runs, monkeypatch):
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    index.write(runs, ROWS, set(ROWS))
    holder = sqlite3.connect(index.file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    assert index.read(runs) == ROWS  # readers do not wait for a writer
    index.write(runs, {"run1": ("new", "{}")}, set(ROWS))
    assert time.monotonic() - began < 2
    holder.execute("ROLLBACK")
    holder.close()
    assert index.read(runs) == ROWS


def test_a_write_that_ends_in_the_middle_leaves_the_rows_before(index, runs, monkeypatch):
    index.write(runs, ROWS, set(ROWS))

    def killed(*texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_checksum", killed)
    with pytest.raises(KeyboardInterrupt):
        index.write(runs, {"run1": ("new", "{}")}, {"run1"})
    monkeypatch.undo()
    assert index.read(runs) == ROWS
