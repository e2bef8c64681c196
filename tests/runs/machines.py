"""A runs folder whose workers are real processes with a job that only counts (see pretend.py)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pretend
import psutil
import pytest

from engine.runs import supervisor
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.executors import local
from engine.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """A runs folder and the processes at work on it."""

    def __init__(self, runs: Path):
        self.runs = runs

    def run(self, name: str = "run", *, device: str = "auto", **details) -> RunFolder:
        """A queued run of the counting job, not in the queue yet."""
        config = RunConfig(name=name, details=details).changed(training__device=device)
        return create(self.runs, config, name.replace(" ", "_"))

    def steps(self, run: RunFolder) -> list[int]:
        """The steps that were made, by all workers there ever were, in order."""
        from engine import files

        return [row["step"] for row in files.read_lines(run.path / "steps.jsonl")]

    def workers(self, run: RunFolder) -> set[int]:
        from engine import files

        return {row["pid"] for row in files.read_lines(run.path / "steps.jsonl")}

    def processes(self, command: str = "") -> list[psutil.Process]:
        """Live processes whose command line names this runs folder."""
        found = []
        for (
            pid
        ) in psutil.pids():  # process_iter keeps objects whose id another process has by now: not killable
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                words = process.cmdline()
                ours = any(str(self.runs) in word for word in words) and (not command or command in words)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self, command: str) -> int:
        """`kill -9` every worker or supervisor of this folder."""
        found = self.processes(command)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # A dying process loses its command line before its locks; it must not be reaped in its parent's stead.
        self.until(lambda: all(is_dead(process) for process in found))
        self.until(lambda: not any(process.is_running() for process in self.processes(command)))
        return len(found)

    def until(self, what: Callable[[], object], timeout_s: float = 60.0) -> object:
        """Wait until something is true, and return it."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(0.02)
        log = self.runs / supervisor.LOG
        raise AssertionError(
            f"not within {timeout_s} s; supervisor said: {log.read_text() if log.exists() else 'nothing'}"
        )

    def until_state(self, run: RunFolder, *states: str, timeout_s: float = 60.0) -> str:
        try:
            self.until(lambda: run.state() in states, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{run.state()} instead of {states}; {error}; {run.log_tail()}") from error
        return run.state()

    def supervise(self, idle_s: float = 1.0) -> subprocess.Popen:
        return subprocess.Popen(
            [*pretend.supervisor_command(self.runs), str(idle_s)], start_new_session=True, cwd=local.ROOT
        )


def is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.setattr(local, "worker_command", pretend.worker_command)
    monkeypatch.setattr(supervisor, "command", pretend.supervisor_command)
    found = Machine(runs)
    yield found
    for process in found.processes():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for child in supervisor._started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return create(tmp_path / "runs", RunConfig(name="first"), "tf_efficientnet_lite0")


HOLD = """
import sys, time
from pathlib import Path
from engine.runs.folder import RunFolder

with RunFolder(Path(sys.argv[1])).hold():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(run) -> Iterator[subprocess.Popen]:
    """Another process that holds the run's lock.

    Not by multiprocessing: what it spawns runs the main module again, which a page test in this process replaces.
    """
    command = [sys.executable, "-c", HOLD, str(run.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()
