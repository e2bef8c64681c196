"""Dashboards, a command line, supervisors and workers at once, killed at random; and queues that are damaged."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import psutil
import pytest

from engine import files
from engine.errors import EngineError
from engine.runs import launch, listing, supervisor
from engine.runs import status as run_status
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder
from engine.runs.queue import FILE, Queue


def workers_in_turn(run: RunFolder) -> bool:
    """Whether no two workers ever worked on a run at once: once another begins, the one before is gone."""
    seen: list[int] = []
    for row in files.read_lines(run.path / "steps.jsonl"):
        if not seen or seen[-1] != row["pid"]:
            if row["pid"] in seen:
                return False
            seen.append(row["pid"])
    return True


@pytest.mark.slow
def test_two_dashboards_a_command_line_and_a_killer(machine, ledger):
    """Thirty seconds in which three people press everything, and a fourth kills whatever is there."""
    draw = random.Random(7)
    runs = [machine.run(f"run {number}", steps=25, step_s=0.04) for number in range(4)]
    for run in runs:
        launch.enqueue(run)
    over = threading.Event()
    troubles: list[Exception] = []

    def person(seed: int) -> None:
        mine = random.Random(seed)
        queue = Queue(machine.runs)
        acts = [
            lambda run: launch.stop(run),
            lambda run: launch.resume(run),
            lambda run: launch.resume(run),
            lambda run: queue.move(run.id, mine.randrange(3)),
            lambda run: launch.hold(run),
            lambda run: launch.release(run),
            lambda run: run.write_label(name=f"named {seed}"),
            lambda run: listing.summaries(machine.runs),
            lambda run: supervisor.tend(machine.runs),
            lambda run: launch.stop(run, kill=True),
        ]
        while not over.wait(mine.uniform(0.02, 0.3)):
            try:
                mine.choice(acts)(mine.choice(runs))
            except EngineError:
                pass  # a sentence for the person; anything else is a fault
            except Exception as error:
                troubles.append(error)

    people = [threading.Thread(target=person, args=(seed,)) for seed in (1, 2, 3)]
    for thread in people:
        thread.start()
    kills, end = 0, time.monotonic() + 25
    while time.monotonic() < end:
        time.sleep(draw.uniform(0.3, 1.5))
        victims = machine.processes()
        if victims:
            with contextlib.suppress(psutil.Error):
                draw.choice(victims).send_signal(signal.SIGKILL)
                kills += 1
        if draw.random() < 0.1:
            damage(machine)
        ledger.look(machine.runs, [run.id for run in runs])
    over.set()
    for thread in people:
        thread.join()
    assert troubles == []
    assert kills > 5
    queue = Queue(machine.runs)

    def settle() -> bool:
        for run in runs:
            queue.hold(run.id, False)
            if run.state() in run_status.RESUMABLE:
                with contextlib.suppress(EngineError):
                    launch.resume(run)
        supervisor.tend(machine.runs)
        return all(run.state() == "completed" for run in runs)

    def slowly() -> bool:
        time.sleep(0.3)
        return settle()

    machine.until(slowly, 120)
    for run in runs:
        assert sorted(set(machine.steps(run))) == list(range(1, 26))
        assert workers_in_turn(run)
    ledger.look(machine.runs, [run.id for run in runs])


def damage(machine) -> None:
    """Zeroes in the middle of the queue's file, while everybody uses it."""
    with contextlib.suppress(OSError), open(machine.runs / FILE, "rb+") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(size // 2)
        file.write(b"\x00" * min(2048, size // 2))


def test_a_queue_damaged_anywhere_is_rebuilt_and_nobody_is_lost(tmp_path, ledger):
    runs = [create(tmp_path, RunConfig(name=str(number)), "run") for number in range(4)]
    queue = Queue(tmp_path)
    for run in runs:
        queue.add(run.id)
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    whole = (tmp_path / FILE).read_bytes()
    draw = random.Random(2)
    cases = [whole[:cut] for cut in (0, 1, 50, 100, 1000, len(whole) // 2, len(whole) - 1)]
    for _ in range(25):
        at = draw.randrange(0, len(whole) - 64)
        cases.append(whole[:at] + bytes(draw.randrange(256) for _ in range(64)) + whole[at + 64 :])
    cases += [b"not a database at all", b"\x00" * len(whole), os.urandom(len(whole))]
    for data in cases:
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"{FILE}{suffix}").unlink(missing_ok=True)
        (tmp_path / FILE).write_bytes(data)
        queue.reconcile()  # what a supervisor does when it begins
        waiting = {entry.run_id for entry in queue.entries()}
        assert waiting >= {run.id for run in runs}
        ledger.look(tmp_path, [run.id for run in runs])


def test_a_queue_that_lost_its_table_is_rebuilt(tmp_path, ledger):
    run = create(tmp_path, RunConfig(), "run")
    Queue(tmp_path).add(run.id)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("DROP TABLE queue")
    assert [entry.run_id for entry in Queue(tmp_path).entries()] == [run.id]
    ledger.look(tmp_path, [run.id])


def test_many_that_find_it_damaged_at_once_rebuild_it_once(tmp_path, ledger):
    runs = [create(tmp_path, RunConfig(name=str(number)), "run") for number in range(5)]
    Queue(tmp_path).add(runs[0].id)
    (tmp_path / FILE).write_bytes(b"damage" * 2000)
    claimed: list[str] = []

    def take() -> None:
        while (run_id := Queue(tmp_path).claim("cpu/0")) is not None:
            claimed.append(run_id)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(run.id for run in runs)
    assert len(list(tmp_path.glob(f"{FILE}.damaged"))) == 1
    ledger.look(tmp_path, [run.id for run in runs])


def test_what_is_claimed_while_a_damaged_queue_is_set_aside_stays_claimed(tmp_path, monkeypatch, ledger):
    """Somebody makes the new file and claims from it just after the damaged one was moved."""
    run = create(tmp_path, RunConfig(), "run")
    Queue(tmp_path).add(run.id)
    (tmp_path / FILE).write_bytes(b"damage" * 2000)
    claimed, readers, real = [], [], Path.replace

    def replace(path: Path, target):
        moved = real(path, target)
        if path == tmp_path / FILE:
            Queue(tmp_path).entries()
            readers.append(sqlite3.connect(tmp_path / FILE))  # keeps the log from being folded into the file
            readers[0].execute("SELECT * FROM queue").fetchall()
            claimed.append(Queue(tmp_path).claim("cpu/0"))
        return moved

    monkeypatch.setattr(Path, "replace", replace)
    again = Queue(tmp_path).claim("cpu/0")
    readers[0].close()
    assert claimed == [run.id]
    assert again is None
    ledger.look(tmp_path, [run.id])


def test_a_queue_that_is_locked_is_not_taken_for_damaged(tmp_path, monkeypatch, ledger):
    from engine.runs import queue as module

    monkeypatch.setattr(module, "BUSY_S", 0.1)
    run = create(tmp_path, RunConfig(), "run")
    Queue(tmp_path).add(run.id)
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(EngineError, match="keeps the queue busy"):
        Queue(tmp_path).add("another")
    holder.execute("COMMIT")
    holder.close()
    assert not (tmp_path / f"{FILE}.damaged").exists()
    assert [entry.run_id for entry in Queue(tmp_path).entries()] == [run.id]
    ledger.look(tmp_path, [run.id])


def test_a_runs_folder_that_disappears_ends_the_supervisor(machine, ledger):
    run = machine.run(steps=400, step_s=0.05)
    launch.enqueue(run)
    machine.until(lambda: machine.steps(run))
    process = machine.processes("supervise")[0]
    shutil.rmtree(machine.runs, ignore_errors=True)
    machine.until(
        lambda: (
            shutil.rmtree(machine.runs, ignore_errors=True)
            or not process.is_running()
            or process.status() == psutil.STATUS_ZOMBIE
        )
    )
    machine.runs.mkdir(exist_ok=True)
    ledger.look(machine.runs, [])


def test_a_queue_on_a_network_file_system_does_not_share_memory(tmp_path, monkeypatch):
    from engine.runs import database

    def mode() -> str:
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
            return connection.execute("PRAGMA journal_mode").fetchone()[0]

    Queue(tmp_path).add("a")
    assert mode() == "wal"
    (tmp_path / FILE).unlink()
    monkeypatch.setattr(database, "on_network", lambda folder: True)
    Queue(tmp_path).add("a")
    assert mode() == "delete"


@pytest.mark.slow
def test_a_thousand_runs_are_listed_within_150_ms(tmp_path, monkeypatch):
    from engine.bench import runs as bench

    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "YOUNG_S", 0.0)  # files are remembered at once
    runs = tmp_path / "runs"
    bench.make_runs(runs, 1000, 2)
    listing.summaries(runs)
    spent, walls = [], []
    for _ in range(7):
        began, cpu = time.perf_counter(), time.process_time()
        assert len(listing.summaries(runs)) == 1000
        walls.append(time.perf_counter() - began)
        spent.append(time.process_time() - cpu)
    print(f"1,000 runs: {1000 * min(spent):.0f} ms of one core, {1000 * min(walls):.0f} ms on the clock")
    assert min(spent) < 0.15  # of one core: whatever else runs on the machine of a test
