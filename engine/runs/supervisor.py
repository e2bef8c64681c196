"""The supervisor: one light process per runs folder and machine that starts what waits in the queue.

Started by whoever submits, ends by itself when nothing is left to do. It holds `.supervisor.lock`, so a
second one leaves at once; when it is killed, workers go on, and the next submitter starts another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from engine.runs.executors import local
from engine.runs.folder import ACTIVE, FAILED, FINISHED, QUEUED, STARTING, RunFolder, lock_is_held
from engine.runs.queue import Queue

LOCK = ".supervisor.lock"
LOOK_EVERY_S = 0.5
IDLE_S = 10.0


def ensure(runs: Path) -> None:
    """Start a supervisor for this runs folder unless one is there; returns at once."""
    runs = Path(runs).resolve()
    if lock_is_held(runs / LOCK):
        return
    with open(runs / ".supervisor.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "engine", "supervise", str(runs)],
            cwd=local.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ.copy(),
        )


def supervise(runs: Path, idle_s: float = IDLE_S) -> int:
    """Start waiting runs, one per slot, until nothing waits or runs for `idle_s` seconds.

    Returns:
        0 when idle, 4 when another supervisor is at work.
    """
    runs = Path(runs).resolve()
    lock = FileLock(runs / LOCK, timeout=0)
    try:
        with lock:
            _loop(runs, Queue(runs), idle_s)
    except Timeout:
        return 4
    return 0


def _loop(runs: Path, queue: Queue, idle_s: float) -> None:
    children: dict[str, subprocess.Popen[bytes]] = {}
    busy_at = time.monotonic()
    slots = local.capacity()
    while True:
        taken = _settle(runs, queue, children)
        for slot in slots:
            if slot in taken:
                continue
            run_id = queue.claim(slot)
            if run_id is None:
                break
            taken.add(slot)
            _start(RunFolder(runs / run_id), slot, queue, children)
        if taken:
            busy_at = time.monotonic()
        waiting = any(entry.slot is None and not entry.held for entry in queue.entries())
        if not taken and not waiting and time.monotonic() - busy_at > idle_s:
            return
        time.sleep(LOOK_EVERY_S)


def _start(folder: RunFolder, slot: str, queue: Queue, children: dict[str, subprocess.Popen[bytes]]) -> None:
    status = folder.status()
    if status.state != QUEUED or folder.is_alive():  # withdrawn, deleted or started by hand meanwhile
        queue.remove(folder.id)
        return
    folder.write_status(status.moved(STARTING))
    children[folder.id] = local.spawn(folder, slot)


def _settle(runs: Path, queue: Queue, children: dict[str, subprocess.Popen[bytes]]) -> set[str]:
    """Drop claimed runs that have ended; return the slots still taken (by an earlier supervisor's, too)."""
    taken: set[str] = set()
    for entry in queue.entries():
        if entry.slot is None:
            continue
        folder = RunFolder(runs / entry.run_id)
        child = children.get(entry.run_id)
        if child is not None:
            if child.poll() is None:
                taken.add(entry.slot)
                continue
            _explain_early_death(folder, child.returncode)
            del children[entry.run_id]
        elif folder.state() in ACTIVE:  # claimed by a supervisor that is gone
            if folder.status().state == QUEUED:
                folder.write_status(folder.status().moved(STARTING))
                children[entry.run_id] = local.spawn(folder, entry.slot)
            taken.add(entry.slot)
            continue
        queue.remove(entry.run_id)
    return taken


def _explain_early_death(folder: RunFolder, code: int) -> None:
    """A worker that died before it could hold its lock could not say why: its launcher does."""
    status = folder.status()
    if status.state in FINISHED or status.state != STARTING:
        return
    last = folder.log_tail(2000).strip().splitlines()
    folder.write_status(
        status.moved(
            FAILED,
            ended_at=time.time(),
            error={
                "kind": "start",
                "message": f"The worker ended before it began (exit code {code}). Last line: {last[-1] if last else 'none'}",
                "remedy": "Read the log, correct what it names, then resume.",
            },
        )
    )
