"""Whole runs whose loader processes begin as beside a GPU: from a server, not by a fork of the run's process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_runs

PROGRAM = Path(__file__).with_name("tiny_runs.py")
MODERN = {"training__recipe": "modern", "model__geometry": "square"}


@pytest.mark.slow
def test_fast_mode_with_all_its_options_trains_from_a_server(make_run, from_a_server):
    options = {"training__mode": "fast", "training__mixup": 0.2, "training__loss": "focal"}
    folder = make_run(training__recipe="modern", training__workers=2, **options)
    assert tiny_runs.fit(folder) == "completed"
    assert folder.metrics()["loss"].notna().all()
    assert folder.predicted_splits() == ("val", "test")


@pytest.mark.slow
def test_kill_9_leaves_no_process_and_no_lock_and_the_resumed_run_ends_with_the_same_bits(make_run):
    whole = make_run(**MODERN, training__epochs=12, training__workers=0)
    broken = make_run(**MODERN, training__epochs=12, training__workers=2)
    tiny_runs.fit(whole)
    run = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(broken.path), "server"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,  # whoever holds it open keeps its reader waiting
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 120
    while not broken.last.is_file() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    beside = psutil.Process(run.pid).children(recursive=True)
    loaders = [one for one in beside if one.ppid() != run.pid]
    run.kill()
    output, _ = run.communicate(timeout=30)
    assert run.returncode == -9, output
    assert len(loaders) == 2
    assert psutil.wait_procs(beside, timeout=15)[1] == []
    assert not broken.is_alive()
    assert tiny_runs.fit(broken) == "completed"
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)
