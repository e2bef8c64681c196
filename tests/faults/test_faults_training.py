"""Faults of a real training: memory of the device, a loader process that never answers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.errors import TrainingError
from engine.runs import launch, listing, worker
from engine.runs import status as run_status
from engine.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
import tiny_runs

PROGRAM = Path(__file__).with_name("hung_loader.py")
CUDA_WORDS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.76 GiB of which 1.05 GiB "
    "is free.\nSee documentation for Memory Management"
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """`tiny(**changes)`: a run on the tiny network, ready for a worker."""
    tiny_runs.register()
    monkeypatch.setenv("BREAKHIS_CACHE", str(tmp_path / "cache"))
    images = tmp_path / "images"
    images.mkdir()
    manifest = tiny_runs.write_images(images)
    return lambda **changes: tiny_runs.make_run(tmp_path / "runs", manifest, **changes)


def test_a_gpu_out_of_memory_offers_the_same_training_in_half_of_it(tiny, monkeypatch, ledger):
    import torch

    from engine.training.steps import Steps

    def step(*_):
        raise torch.OutOfMemoryError(CUDA_WORDS)

    monkeypatch.setattr(Steps, "backward", step)
    run = tiny()
    with pytest.raises(TrainingError) as caught:
        tiny_runs.fit(run)
    assert caught.value.kind == "out_of_memory"
    assert str(caught.value).startswith("There is not enough memory")
    assert "epoch 1, step 1: CUDA out of memory. Tried to allocate 2.00 GiB" in caught.value.found
    assert "Start it again with --batch-size 2 --accumulate 2: the same training" in caught.value.remedy
    ledger.look(run.runs, [run.id], may_fail=True)


def started(run: RunFolder, sign: Path) -> subprocess.Popen:
    command = [sys.executable, str(PROGRAM), str(run.path), str(sign)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.slow
def test_a_hung_loader_is_said_to_stall_can_be_killed_and_resumes(tiny, tmp_path, monkeypatch, ledger):
    sign = tmp_path / "hang"
    sign.touch()
    run = tiny(training__workers=1, training__epochs=3)
    process = started(run, sign)
    try:
        end = time.monotonic() + 90
        while run.metrics().empty or run.state() != "running":
            assert time.monotonic() < end, run.log_tail()
            assert process.poll() is None, run.log_tail()
            time.sleep(0.05)
        time.sleep(1.5)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, "no loader process"
        monkeypatch.setattr(run_status, "STALL_S", 0.5)
        (summary,) = listing.summaries(run.runs)
        assert (summary.state, summary.stalled) == ("running", True)
        ledger.look(run.runs, [run.id])
        launch.stop(run)
        time.sleep(0.5)
        assert run.state() == "stopping"  # nobody listens
        assert "was killed" in launch.stop(run, kill=True)
        process.wait(10)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []  # its loaders went with it
        assert run.state() == "stopped"
        ledger.look(run.runs, [run.id])
    finally:
        process.kill()
    sign.unlink()
    assert run.move(("stopped",), "queued")
    run.clear_stop()
    process = started(run, sign)
    try:
        assert process.wait(240) == worker.EXIT_COMPLETED, run.log_tail()
    except subprocess.TimeoutExpired:
        pytest.fail(f"not resumed within 240 s: {run.status()}; {run.log_tail()}")
    finally:
        process.kill()
    assert run.metrics()["epoch"].max() == 3
    assert not run.predictions("test").empty
    ledger.look(run.runs, [run.id])
