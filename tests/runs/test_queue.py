"""The queue: order, holds, no run claimed twice, rebuilt when its file is damaged."""

import sqlite3
from concurrent.futures import ProcessPoolExecutor

import pytest

from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder
from engine.runs.queue import FILE, ORDER_FILE, Queue


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


def destroy(queue: Queue, how: str) -> None:
    for suffix in ("-wal", "-shm"):
        queue.file.with_name(FILE + suffix).unlink(missing_ok=True)
    if how == "removed":
        queue.file.unlink()
    else:
        queue.file.write_bytes({"garbage": b"not a database" * 500, "emptied": b""}[how])


def decided(queue: Queue) -> list[tuple]:
    return [(entry.run_id, entry.held, entry.priority) for entry in queue.entries()]


@pytest.fixture
def arranged(queue) -> Queue:
    """Five waiting runs in an order that nothing but the queue knows: two held, one urgent, one moved."""
    ids = [create(queue.runs, RunConfig(name=str(number)), f"run{number}").id for number in range(5)]
    for run_id in ids:
        queue.add(run_id)
    queue.move(ids[4], 0)
    queue.move(ids[0], 3)
    queue.prioritize(ids[2], 5)
    queue.hold(ids[1])
    queue.hold(ids[4])
    return queue


@pytest.mark.parametrize("how", ["garbage", "emptied", "removed"])
def test_order_holds_and_priorities_outlive_the_file(arranged, how):
    before = decided(arranged)
    assert [priority for _, _, priority in before] == [5, 0, 0, 0, 0]
    assert [run_id for run_id, _, _ in before] != sorted(run_id for run_id, _, _ in before)
    destroy(arranged, how)
    assert decided(arranged) == before
    destroy(arranged, how)  # and once more, from what the rebuilding itself wrote
    assert arranged.reconcile() == []
    assert decided(arranged) == before


@pytest.mark.parametrize("how", ["garbage", "emptied", "removed"])
def test_what_is_added_to_a_lost_queue_waits_behind_the_others(arranged, how):
    before = decided(arranged)
    destroy(arranged, how)
    new = create(arranged.runs, RunConfig(name="new"), "another").id
    arranged.add(new)
    arranged.reconcile()
    assert decided(arranged) == [*before, (new, False, 0)]


def test_what_left_the_queue_does_not_come_back_with_it(arranged):
    (first, *_), held = decided(arranged)[0], [run_id for run_id, held, _ in decided(arranged) if held]
    assert arranged.claim("cpu/0") == first
    RunFolder(arranged.runs / first).move(["queued"], "completed")
    RunFolder(arranged.runs / held[0]).move(["queued"], "stopped")
    arranged.withdraw(held[0])
    left = [row for row in decided(arranged) if row[0] != first]
    destroy(arranged, "garbage")
    assert decided(arranged) == left
    RunFolder(arranged.runs / held[0]).move(["stopped"], "queued")
    arranged.reconcile()
    assert decided(arranged)[-1] == (held[0], False, 0)  # it was withdrawn: nobody holds it any more


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"runs": 3}', '{"runs": [null, {"run_id": 4}]}'])
def test_without_the_order_the_runs_still_come_back(arranged, text):
    ids = sorted(run_id for run_id, _, _ in decided(arranged))
    destroy(arranged, "garbage")
    (arranged.runs / ORDER_FILE).write_text(text, encoding="utf-8")
    assert decided(arranged) == [(run_id, False, 0) for run_id in ids]


def test_another_program_may_read_the_queue(queue, tmp_path):
    queue.add("a")
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT run_id FROM queue").fetchall() == [("a",)]
