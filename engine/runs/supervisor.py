"""The supervisor: one light process per runs folder that starts what waits in the queue.

Started by whoever submits, ends by itself when nothing is left to do. It holds `.supervisor.lock`, so a
second one leaves at once; when it is killed, workers go on, and the next submitter starts another, which
takes over what the first one had claimed. It imports neither torch nor pandas (about 30 MB).
"""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from engine import files
from engine.errors import EngineError
from engine.runs import executors
from engine.runs.config import EXECUTED
from engine.runs.creation import sweep
from engine.runs.executors import local
from engine.runs.exit_codes import EXIT_BUSY, EXIT_CODES, EXIT_COMPLETED, EXIT_STOPPED
from engine.runs.folder import RunFolder, lock_is_held, run_folders
from engine.runs.queue import Entry, Queue, requeue
from engine.runs.status import (
    COMPLETED,
    FAILED,
    INTERRUPTED,
    LOCAL,
    QUEUED,
    STARTING,
    STOPPED,
    WORKING,
    Status,
    unattended_state,
)

LOCK = ".supervisor.lock"
LOG = ".supervisor.log"
LOOK_EVERY_S = 0.5
RECONCILE_EVERY_S = 30.0
TROUBLE_WAIT_S = 2.0
IDLE_S = 10.0
STARTS_TRIED = 3
LOG_LIMIT = 1_000_000
_started: list[subprocess.Popen[bytes]] = []


def command(runs: Path) -> list[str]:
    """The argument list of a supervisor."""
    return [sys.executable, "-m", "engine", "supervise", str(runs)]


def is_running(runs: Path) -> bool:
    """Is a supervisor at work for this runs folder, on any machine?"""
    return lock_is_held(Path(runs) / LOCK)


def ensure(runs: Path) -> None:
    """Start a supervisor for this runs folder unless one is there; returns at once.

    Call it after what is to be done stands in the queue: a supervisor that is just leaving looks once more
    after it has let go of its lock.
    """
    runs = Path(runs).resolve()
    _started[:] = [child for child in _started if child.poll() is None]  # reaped, or they stay as zombies
    if is_running(runs):
        return
    log = runs / LOG
    try:
        with open(log, "wb" if log.exists() and log.stat().st_size > LOG_LIMIT else "ab") as output:
            _started.append(
                subprocess.Popen(
                    command(runs),
                    cwd=local.ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ.copy(),
                )
            )
    except OSError as error:
        raise executors.cannot_start(error) from error


def tend(runs: Path) -> bool:
    """Start a supervisor if something waits that nobody looks after (one was killed, the machine restarted).

    For a page to call when it is drawn: one look at the queue. Returns whether one was started.
    """
    runs = Path(runs)
    if not runs.is_dir() or is_running(runs):
        return False
    queue = Queue(runs)
    due = any(not entry.held for entry in queue.entries())
    if not due and queue.settings().auto_resume:
        due = any(_may_resume(folder, queue) for folder in run_folders(runs))
    if due:
        ensure(runs)
    return due


def supervise(runs: Path, idle_s: float = IDLE_S) -> int:
    """Start waiting runs, one per slot, until nothing waits or runs for `idle_s` seconds.

    Returns:
        0 when idle, 4 when another supervisor is at work.
    """
    runs = Path(runs).resolve()
    keeper = Supervisor(runs, idle_s)
    while True:
        try:
            # Whoever asks whether the lock is held takes a shared one for a moment: try for a while.
            with FileLock(runs / LOCK, timeout=1.0, poll_interval=0.02):
                keeper.run()
        except Timeout:
            return 4
        except OSError as error:
            print(f"The supervisor ends: {error}", flush=True)
            return 1
        # A run queued after the last look, by somebody who still saw the lock held: nobody else will come.
        if not keeper.has_waiting():
            return 0


@dataclass
class Child:
    """A worker this supervisor has started."""

    process: subprocess.Popen[bytes]
    slot: str
    out_of_memory_kills: int


class Supervisor:
    """What `supervise` does while it holds the lock."""

    def __init__(self, runs: Path, idle_s: float = IDLE_S):
        self.runs = runs
        self.idle_s = idle_s
        self.queue = Queue(runs)
        self.slots = local.slots()
        self.children: dict[str, Child] = {}
        self.unsaid: dict[str, tuple[Child, int]] = {}
        self.failed_starts: dict[str, int] = {}
        self.cluster: executors.Keeper | None = None

    def run(self) -> None:
        """Turn after turn, until idle or the runs folder is gone."""
        busy_at = time.monotonic()
        reconciled_at = float("-inf")
        ending = threading.Event()
        thread: threading.Thread | None = None
        try:
            while self.runs.is_dir():
                wait_s = LOOK_EVERY_S
                try:
                    thread = thread or self._watch_cluster(ending)  # it may be connected at any time
                    if time.monotonic() - reconciled_at > RECONCILE_EVERY_S:
                        self._reconcile()
                        reconciled_at = time.monotonic()
                    if self.turn():
                        busy_at = time.monotonic()
                except (EngineError, OSError, sqlite3.Error) as error:
                    # A full disk, a folder without write access: nothing is lost, it goes on when it can.
                    _complain(error)
                    wait_s = TROUBLE_WAIT_S
                if time.monotonic() - busy_at > self.idle_s:
                    return
                time.sleep(wait_s)
        finally:
            ending.set()
            if thread is not None:
                thread.join(20)

    def has_waiting(self) -> bool:
        try:
            return any(entry.slot is None and not entry.held for entry in self.queue.entries())
        except EngineError:
            return False

    def turn(self) -> bool:
        """Settle what has ended, start what waits; returns whether anything is left to do."""
        taken = self._settle()
        for slot, wishes in self.slots.items():
            while slot not in taken:
                run_id = self.queue.claim(slot, wishes)
                if run_id is None:
                    break
                if self._start(RunFolder(self.runs / run_id), slot):
                    taken.add(slot)
        return bool(taken) or self.has_waiting() or bool(self.cluster and self.cluster.busy)

    # -- starting -----------------------------------------------------------------------------
    def _start(self, folder: RunFolder, slot: str) -> bool:
        """Start the worker of a claimed run. False when the run does not wait any more, or cannot be started."""
        try:
            if folder.stop_requested():
                folder.move((QUEUED,), STOPPED, ended_at=time.time())
            elif folder.move((QUEUED,), STARTING, slot=slot):
                self._spawn(folder, slot)
                return True
        except (EngineError, OSError) as error:
            self._put_back(folder.id, error)
            raise
        if folder.status().state == QUEUED and folder.path.is_dir():  # somebody holds its lock just now
            self.queue.release(folder.id)
            raise executors.busy(folder)
        self.queue.remove(folder.id)  # withdrawn, deleted or started by hand meanwhile
        return False

    def _put_back(self, run_id: str, error: EngineError | OSError) -> None:
        """It waits again at its place until the trouble is over; one that is broken itself must not block the others."""
        self.queue.release(run_id)
        self.failed_starts[run_id] = self.failed_starts.get(run_id, 0) + 1
        full = getattr(error, "kind", "") == "disk_full" or getattr(error, "errno", 0) == errno.ENOSPC
        if self.failed_starts[run_id] % STARTS_TRIED == 0 and not full:
            self.queue.move(run_id, sys.maxsize)

    def _spawn(self, folder: RunFolder, slot: str) -> None:
        try:
            process = local.spawn(folder, slot)
        except (OSError, EngineError):
            folder.move((STARTING,), QUEUED, slot="")
            raise
        self.children[folder.id] = Child(process, slot, _out_of_memory_kills())

    # -- settling -----------------------------------------------------------------------------
    def _settle(self) -> set[str]:
        """Drop claims of runs that have ended; return the slots still taken (by an earlier supervisor's, too)."""
        for run_id, child in list(self.children.items()):
            code = child.process.poll()
            if code is not None:
                del self.children[run_id]
                self.unsaid[run_id] = (child, code)
        for run_id, (child, code) in list(self.unsaid.items()):
            try:
                self._say_how_it_ended(RunFolder(self.runs / run_id), child, code)
            except (EngineError, OSError) as error:  # said later; until then the lock tells "interrupted"
                _complain(error)
                continue
            del self.unsaid[run_id]
        # After a rebuild the queue may not know a claim: what runs here takes its slot all the same.
        taken = {child.slot for child in self.children.values()}
        for entry in self.queue.entries():
            if entry.slot is None or entry.run_id in self.children or entry.slot not in self.slots:
                if entry.slot is not None and entry.run_id in self.children:
                    taken.add(entry.slot)
                continue
            try:
                if self._still_works(RunFolder(self.runs / entry.run_id), entry):
                    taken.add(entry.slot)
            except EngineError as error:
                _complain(error)
        return taken

    def _still_works(self, folder: RunFolder, entry: Entry) -> bool:
        """Whether a claimed run that is no child of ours still takes its slot; settles it if not."""
        status = folder.status()
        if status.state == QUEUED and folder.path.is_dir():  # its supervisor was killed before it started it
            self.queue.release(entry.run_id)
            return False
        state = folder.state() if folder.path.is_dir() else ""
        if state in WORKING:
            return True
        self.queue.settle(entry)
        if state == INTERRUPTED and status.state == STARTING and status.executor == LOCAL:
            self._again(folder, status)  # claimed and never begun: nothing to lose by starting it
        elif state == INTERRUPTED and _may_resume(folder, self.queue):
            self._again(folder, status)
        return False

    def _say_how_it_ended(self, folder: RunFolder, child: Child, code: int) -> None:
        """Write what a worker could not write any more: killed, or dead before it began, or no room on the disk."""
        status = folder.status()
        if status.state not in WORKING or code == EXIT_BUSY or not folder.path.is_dir():
            return
        # Its own state while it began or worked; nothing else may be overwritten.
        mine = (STARTING, INTERRUPTED)
        if code < 0:
            stopped = folder.stop_requested()
            error = None if stopped else _killed(-code, _out_of_memory_kills() > child.out_of_memory_kills)
            folder.move(
                mine, STOPPED if stopped else INTERRUPTED, error=error, ended_at=time.time(), eta_s=None
            )
            if not stopped and _may_resume(folder, self.queue):
                self._again(folder, folder.status())
        elif code in (EXIT_COMPLETED, EXIT_STOPPED):
            ended = COMPLETED if code == EXIT_COMPLETED else STOPPED
            # Python says 0, too, of a child that somebody else has reaped: the worker's own word is wanted.
            said = f"Run {folder.id}: {ended}" in folder.log_tail(4000)
            folder.move(mine, ended if said else INTERRUPTED, ended_at=time.time(), eta_s=None)
        else:
            folder.move(
                mine, FAILED, ended_at=time.time(), eta_s=None, error=_ended_early(folder, status, code)
            )

    def _again(self, folder: RunFolder, status: Status) -> None:
        if status.restarts < self.queue.settings().max_restarts:
            requeue(folder, (INTERRUPTED,), restarts=status.restarts + 1)

    def _reconcile(self) -> None:
        """At the start and now and then: what the folders know and the queue does not; what was interrupted."""
        sweep(self.runs)
        self.queue.reconcile()
        if self.queue.settings().auto_resume:
            for folder in run_folders(self.runs):
                if folder.id not in self.children and _may_resume(folder, self.queue):
                    self._again(folder, folder.status())

    # -- the cluster --------------------------------------------------------------------------
    def _watch_cluster(self, ending: threading.Event) -> threading.Thread | None:
        """A cluster that answers slowly, or not at all, must not keep runs of this machine waiting."""
        self.cluster = executors.keeper(self.runs)
        if self.cluster is None:
            return None
        thread = threading.Thread(target=self.cluster.run, args=(ending,), daemon=True)
        thread.start()
        return thread


def _complain(error: Exception) -> None:
    print(f"{time.strftime('%F %T')} {error}", flush=True)


def _may_resume(folder: RunFolder, queue: Queue) -> bool:
    """Automatic resume: wanted, interrupted, not by somebody who asked for a stop, not again and again."""
    settings = queue.settings()
    status = folder.status()
    return (
        settings.auto_resume
        and status.state in (*WORKING, INTERRUPTED)
        and unattended_state(status) == INTERRUPTED
        and status.restarts < settings.max_restarts
        and not folder.stop_requested()
        and not folder.is_alive()
        and (files.read_json(folder.path / "config.json") or {}).get("kind") in EXECUTED
    )


def _ended_early(folder: RunFolder, status: Status, code: int) -> dict[str, str | None]:
    last = folder.log_tail(4000).strip().splitlines()
    said = f"Last line: {last[-1] if last else 'none'}"
    if status.state == STARTING:
        return {
            "kind": "start",
            "message": f"The worker ended before it began (exit code {code}). {said}",
            "remedy": "Read the log, correct what it names, then resume.",
        }
    kinds = {number: kind for kind, number in EXIT_CODES.items()}
    return {
        "kind": kinds.get(code, "internal"),
        "message": f"The worker ended (exit code {code}) and could not write why. {said}",
        "remedy": "Free disk space, then resume: the last whole checkpoint is kept."
        if kinds.get(code) == "disk_full"
        else "Read the log, correct what it names, then resume.",
    }


def _killed(number: int, out_of_memory: bool) -> dict[str, str | None]:
    if out_of_memory and number == signal.SIGKILL:
        return {
            "kind": "out_of_memory",
            "message": "The system ended the worker because the machine's memory was exhausted (SIGKILL).",
            "remedy": "Halve the batch size, use fewer loader processes, or run fewer at once; then resume.",
        }
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return {
        "kind": "killed",
        "message": f"The worker was ended from outside ({name}).",
        "remedy": "Resume: it continues from its last checkpoint.",
    }


def _out_of_memory_kills() -> int:
    """How many processes this machine, or this container, has killed for memory so far."""
    kills = 0
    for source, word in (("/proc/vmstat", "oom_kill"), ("/sys/fs/cgroup/memory.events", "oom_kill")):
        try:
            lines = Path(source).read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            continue
        kills += sum(int(line.split()[1]) for line in lines if line.split()[:1] == [word])
    return kills
