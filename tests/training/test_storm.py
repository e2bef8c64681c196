"""Kills at random steps, in real processes, and the bits that come out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

KILLS = 20
OPTIONS = {"training__epochs": 16, "training__recipe": "modern", "model__geometry": "square"}


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_bits(make_run):
    whole, broken = make_run(**OPTIONS), make_run(**OPTIONS)
    program = [sys.executable, str(Path(__file__).with_name("storm.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for folder, kills in ((whole, 0), (broken, KILLS)):
        command = (
            [*program, str(folder.path), "7", str(kills)]
            if kills
            else [sys.executable, str(Path(__file__).with_name("tiny_runs.py")), str(folder.path)]
        )
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
        assert done.returncode == 0, done.stdout + done.stderr
    lives = [line.split() for line in done.stdout.splitlines()]
    ended = [kind for kind, code in lives[:-1] if code in ("-9", "3")]
    assert len(ended) == KILLS, lives
    assert {"SIGKILL", "SIGTERM", "STOP"} == set(ended)
    assert lives[-1] == ["LAST", "0"]
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)
    assert broken.state() == "completed"
