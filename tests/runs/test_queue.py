"""The queue: order, holds, no run claimed twice, rebuilt when its file is damaged."""

import sqlite3
from concurrent.futures import ProcessPoolExecutor

import pytest

from engine.runs.config import RunConfig
from engine.runs.folder import create
from engine.runs.queue import FILE, Queue


@pytest.fixture
def queue(tmp_path) -> Queue:
    return Queue(tmp_path)


def waiting(queue: Queue) -> list[str]:
    return [entry.run_id for entry in queue.entries() if entry.slot is None]


def test_first_come_first_served_until_moved(queue):
    for name in "abcd":
        queue.add(name)
    queue.add("a")
    assert waiting(queue) == ["a", "b", "c", "d"]
    queue.move("d", 0)
    queue.move("a", 2)
    assert waiting(queue) == ["d", "b", "a", "c"]
    assert queue.claim("cpu/0") == "d"


def test_a_held_run_is_passed_over(queue):
    for name in "ab":
        queue.add(name)
    queue.hold("a")
    assert queue.claim("cpu/0") == "b"
    assert queue.claim("cpu/0") is None
    queue.hold("a", False)
    assert queue.claim("cpu/0") == "a"


def test_a_claimed_run_cannot_be_withdrawn(queue):
    queue.add("a")
    queue.add("b")
    assert queue.claim("cpu/0") == "a"
    assert not queue.withdraw("a")
    assert queue.withdraw("b")
    assert not queue.withdraw("b")


def _claim_all(folder) -> list[str]:
    queue, mine = Queue(folder), []
    while (run_id := queue.claim("cpu/0")) is not None:
        mine.append(run_id)
    return mine


def test_four_processes_never_claim_one_run_twice(queue, tmp_path):
    names = [f"run{number}" for number in range(100)]
    for name in names:
        queue.add(name)
    with ProcessPoolExecutor(4) as pool:
        claimed = [name for part in pool.map(_claim_all, [tmp_path] * 4) for name in part]
    assert sorted(claimed) == sorted(names)


def test_a_damaged_file_is_rebuilt_from_the_folders(tmp_path):
    runs = [create(tmp_path, RunConfig(name=str(number)), "x") for number in range(3)]
    queue = Queue(tmp_path)
    for run in runs:
        queue.add(run.id)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"{FILE}{suffix}").unlink(missing_ok=True)
    (tmp_path / FILE).write_bytes(b"not a database" * 500)
    assert sorted(waiting(queue)) == sorted(run.id for run in runs)
    assert (tmp_path / f"{FILE}.damaged").exists()


def test_another_program_may_read_the_queue(queue, tmp_path):
    queue.add("a")
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT run_id FROM queue").fetchall() == [("a",)]
