"""Two gloo processes train the same run as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from engine.training.distributed import Group


def test_one_process_shares_everything_with_itself():
    group = Group()
    assert group.share([3, 1, 2]) == [3, 1, 2]
    assert group.any(True, False) == (True, False)
    assert group.collect(np.arange(3), 3).tolist() == [0, 1, 2]


def test_two_processes_share_every_row_exactly_once():
    rows = list(range(7))
    assert sorted(Group(0, 2).share(rows) + Group(1, 2).share(rows)) == rows


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(make_run):
    options = {
        "training__epochs": 2,
        "model__dropout": 0.0,  # masks are drawn per process
        "details": {"recipe": {"ema": 0.9}},
    }
    alone, together = make_run(**options), make_run(**options)
    assert tiny_runs.fit(alone) == "completed"
    program = Path(__file__).with_name("tiny_runs.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(program),
    ]
    done = subprocess.run(
        [*command, str(together.path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for split in ("val", "test"):
        one, two = alone.predictions(split), together.predictions(split)
        assert two["image_id"].tolist() == one["image_id"].tolist()
        assert np.abs(one["logit_malignant"] - two["logit_malignant"]).max() < 1e-3
    one, two = alone.metrics(), together.metrics()
    assert np.abs(one["loss"] - two["loss"]).max() < 1e-4
    assert together.state() == "completed"
