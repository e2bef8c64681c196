"""Background work steps back from the processor, and nothing ever fails for it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.runs import niceness
from engine.runs.executors import local

MINE = os.getpriority(os.PRIO_PROCESS, 0)
NICER = min(MINE + niceness.DEFAULT, niceness.NICEST)
WAITS = [sys.executable, "-S", "-c", "input()"]


@pytest.fixture
def child():
    """A process in a session of its own that waits."""
    process = subprocess.Popen(WAITS, stdin=subprocess.PIPE, start_new_session=True)
    yield process
    process.kill()
    process.wait(10)


@pytest.mark.parametrize(
    ("given", "steps"),
    [(None, 10), ("", 10), ("0", 0), (" 5 ", 5), ("19", 19), ("20", 10), ("-5", 10), ("ten", 10), ("²", 10)],
)
def test_steps_are_those_of_the_variable_or_ten(monkeypatch, given, steps):
    monkeypatch.delenv(niceness.VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(niceness.VARIABLE, given)
    assert niceness.steps() == steps


def test_a_child_is_ten_steps_nicer_and_its_starter_is_not(child):
    niceness.step_back(child.pid)
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == NICER
    assert os.getpriority(os.PRIO_PROCESS, 0) == MINE


def test_its_session_steps_back_too_where_sessions_are_scheduled(child):
    group = Path(f"/proc/{child.pid}/autogroup")
    if not group.exists():
        pytest.skip("this system does not schedule by session")
    end = (
        time.monotonic() + 5.0
    )  # the kernel takes one such change every tenth of a second, and says "again" meanwhile
    while not group.read_text().strip().endswith(f"nice {NICER}") and time.monotonic() < end:
        niceness.step_back(child.pid)
        time.sleep(0.02)
    assert group.read_text().strip().endswith(f"nice {NICER}")


def test_where_it_is_refused_or_unknown_or_unwanted_work_goes_on_as_before(child, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "setpriority", refused)
        niceness.step_back(child.pid)
    with monkeypatch.context() as patched:
        patched.delattr(os, "setpriority")
        niceness.step_back(child.pid)
    monkeypatch.setenv(niceness.VARIABLE, "0")
    niceness.step_back(child.pid)
    niceness.step_back(2**22 + 1)  # no such process
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == MINE


@pytest.mark.parametrize(("slot", "nice"), [(local.CPU_SLOT, NICER), ("gpu/GPU-1", MINE)])
def test_a_worker_on_the_cpu_and_its_loaders_step_back_one_on_a_gpu_does_not(
    machine, monkeypatch, slot, nice
):
    """A loader process is a child that the worker starts later, and torch's threads are threads of it."""
    run = machine.run()
    told = run.path / "nice.txt"
    script = (
        "import os, pathlib, subprocess, sys, threading, time\n"
        "time.sleep(0.05)\n"
        "found = [int(subprocess.check_output([sys.executable, '-S', '-c', 'import os; print(os.nice(0))']))]\n"
        "thread = threading.Thread(target=lambda: found.append(os.nice(0)))\n"
        "thread.start(); thread.join()\n"
        f"pathlib.Path({str(told)!r}).write_text(' '.join(map(str, [os.nice(0), *found])))\n"
    )
    monkeypatch.setattr(local, "worker_command", lambda folder: [sys.executable, "-S", "-c", script])
    assert local.spawn(run, slot).wait(20) == 0
    assert set(map(int, told.read_text().split())) == {nice}
