"""Two gloo processes train the same run as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fabricate
import numpy as np
import pytest
import tiny_runs
import torch

from engine.errors import ConfigError
from engine.runs.folder import locate
from engine.training import distributed
from engine.training.distributed import Group

ROOT = Path(__file__).resolve().parents[2]


def test_one_process_shares_everything_with_itself():
    group = Group()
    assert group.share([3, 1, 2]) == [3, 1, 2]
    assert group.any(True, False) == (True, False)
    assert group.collect(np.arange(3), 3).tolist() == [0, 1, 2]


def test_two_processes_share_every_row_exactly_once():
    rows = list(range(7))
    assert sorted(Group(0, 2).share(rows) + Group(1, 2).share(rows)) == rows


@pytest.fixture
def two_of_us(monkeypatch):
    """The second of two processes on a machine with two GPUs; what it tells torch is written down."""
    told = {}
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.update(current=device))
    monkeypatch.setattr(distributed.distributed, "init_process_group", lambda kind: told.update(kind=kind))
    monkeypatch.setattr(distributed.distributed, "get_rank", lambda: 1)
    return told


def test_each_process_talks_through_a_gpu_of_its_own(two_of_us):
    assert distributed.join("auto") == Group(1, 2)
    assert two_of_us == {"kind": "cpu:gloo,cuda:nccl", "current": "cuda:1"}


def test_processes_that_train_on_the_processor_talk_by_gloo_beside_gpus_too(two_of_us):
    distributed.join("cpu")
    assert two_of_us == {"kind": "gloo"}


def test_more_processes_than_gpus_are_refused_by_each_of_them(two_of_us, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="Start at most 1 process,"):
        distributed.join("auto")
    assert not two_of_us


@pytest.mark.slow
def test_the_command_line_trains_one_run_in_two_processes(tmp_path):
    data = fabricate.write_images(tmp_path / "data")
    words = ["--runs", str(tmp_path / "runs"), "--data", str(data.root), "--magnification", "40X", "--json"]
    words += ["--recipe", "quick", "--geometry", "square", "--pretrained", "none", "--image-size", "32"]
    words += ["--epochs", "1", "--processes", "2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "engine", "train", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = locate(tmp_path / "runs", json.loads(done.stdout)["id"])
    assert folder.state() == "completed"
    log = (folder.path / "log.txt").read_text()
    assert log.count(f"Run {folder.id}: completed") == 2, log
    table = folder.manifest().table
    for split in ("val", "test"):  # every image once, though each process predicted half of them
        wanted = table.loc[table["split"] == split, "image_id"]
        assert folder.predictions(split)["image_id"].tolist() == wanted.tolist()
    assert len(folder.metrics()) == 2  # one process writes


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
