"""What only a GPU can show; skipped where there is none. `gpu_session.py` runs this beside the bench, in five minutes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch

from engine import files
from engine.errors import EngineError
from engine.training import estimate
from engine.training.device import choose
from engine.training.steps import Steps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]
STORM = Path(__file__).with_name("storm.py")
KILLS = 3
WORKER = Path(__file__).with_name("tiny_runs.py")


def on_gpu(make_run, **changes):
    return make_run(
        training__device="cuda", training__workers=2, **{"training__precision": "auto", **changes}
    )


def worker(folder, program=WORKER, *words, timeout: float = 120) -> str:
    """Train in a process of its own, as a user's runs are."""
    done = subprocess.run(
        [sys.executable, str(program), str(folder.path), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr + folder.log_tail()
    return done.stdout


def test_a_gpu_trains_in_bf16_where_it_has_it():
    chosen = choose("cuda")
    assert chosen.is_cuda
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert chosen.autocast == (torch.bfloat16 if native else torch.float16)
    assert chosen.scaled == (not native)


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ({"training__precision": "fp16"}, "modern"),
        ({"training__precision": "bf16"}, "study-as-run"),
        ({"training__precision": "fp32"}, "quick"),
        ({"training__compile": True}, "study-as-run"),
        ({"training__mode": "fast", "training__mixup": 0.2, "training__loss": "focal"}, "modern"),
    ],
    ids=["fp16 with a scaler", "bf16", "cached features", "compiled", "fast"],
)
def test_every_way_to_train_ends_with_predictions(make_run, options, recipe):
    folder = on_gpu(make_run, training__recipe=recipe, training__epochs=2, **options)
    assert tiny_runs.fit(folder) == "completed"
    assert folder.metrics()["loss"].notna().all()
    assert folder.predicted_splits() == ("val", "test")
    assert folder.status().numbers["peak_memory_mb"] > 1


@pytest.mark.parametrize(
    "options",
    [
        {"training__recipe": "study-as-run"},
        {"training__recipe": "modern", "training__mixup": 0.2, "training__cutmix": 1.0},
        {"training__recipe": "quick"},
    ],
    ids=lambda options: options["training__recipe"],
)
def test_no_step_waits_for_the_gpu(make_run, monkeypatch, options):
    """What makes the program wait is an error between the first epoch (memory, algorithms) and the losses' reading."""
    real, watched = Steps.update, []

    def update(self, source, batches, place, tally):
        if place.epoch == 1 or place.step + 1 == place.steps:
            return real(self, source, batches, place, tally)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return real(self, source, batches, place, tally)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            watched.append(place)

    monkeypatch.setattr(Steps, "update", update)
    folder = on_gpu(make_run, training__epochs=3, training__batch_size=2, **options)
    assert tiny_runs.fit(folder) == "completed"
    assert len(watched) == 18


def test_predictions_of_a_gpu_are_those_of_a_cpu(make_run, tiny_data):
    from engine.predict.judge import judge

    folder = on_gpu(make_run)
    tiny_runs.fit(folder)
    table = folder.predictions("test")
    paths = [tiny_data.absolute(name) for name in table["image_id"]]
    again = judge(folder, paths, device="cpu").table
    assert np.abs(again["logit_malignant"] - table["logit_malignant"]).max() < 1e-3


def test_a_run_killed_on_the_gpu_ends_with_the_same_bits(make_run):
    options = {"training__recipe": "modern", "training__epochs": 12, "model__geometry": "square"}
    whole, broken = on_gpu(make_run, **options), on_gpu(make_run, **options)
    worker(whole)
    lives = [line.split() for line in worker(broken, STORM, "7", str(KILLS), timeout=200).splitlines()]
    ended = [code for kind, code in lives if code in ("-9", "3")]
    print(f"{len(ended)} kills: {lives}")
    assert len(ended) == KILLS
    assert lives[-1] == ["LAST", "0"]
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)


def test_a_batch_too_large_for_the_gpu_names_half_of_it(make_run):
    """Real exhaustion: the allocator may use a sliver of the card."""
    folder = on_gpu(make_run, training__batch_size=20, model__image_size=768)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 300 * 2**20 / total))
    try:
        with pytest.raises(EngineError) as caught:
            tiny_runs.fit(folder)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert caught.value.kind == "out_of_memory"
    assert "--batch-size 10 --accumulate 2" in str(caught.value)


def test_a_loss_that_is_no_number_is_named_by_its_own_step(make_run, monkeypatch):
    """Losses are read every so many steps; the step that broke is named, not the one that noticed."""
    real = Steps.backward

    def broken(self, *given):
        real(self, *given)
        if len(self.unread.losses) == 3:
            self.unread.losses[-1] *= float("nan")

    monkeypatch.setattr(Steps, "backward", broken)
    with pytest.raises(EngineError, match="epoch 1, step 3"):
        tiny_runs.fit(on_gpu(make_run))


def test_an_estimate_measures_the_gpu():
    from engine.runs.config import ModelConfig, RunConfig, TrainingConfig

    config = RunConfig(
        model=ModelConfig(name=tiny_runs.TINY.name, image_size=64),
        training=TrainingConfig(batch_size=8, device="cuda"),
    )
    found = estimate.probe(config, 100, 10, 10)
    assert found.seconds > 0
    assert found.memory_mb > 1
    assert "cuda" in found.source


def test_one_process_in_a_group_trains_as_one_without(make_run):
    """Under torch.distributed.run, on one GPU."""
    alone, launched = on_gpu(make_run), on_gpu(make_run)
    worker(alone)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run(
        [*command, str(WORKER), str(launched.path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert files.sha256(alone.best) == files.sha256(launched.best)


def test_weights_average_and_scaler_state_survive_a_stop_in_fp16(make_run):
    options = {"training__recipe": "modern", "training__precision": "fp16", "model__geometry": "square"}
    whole, broken = on_gpu(make_run, **options), on_gpu(make_run, **options)
    tiny_runs.fit(whole)
    assert tiny_runs.fit(broken, tiny_runs.StopAt(broken, 6)) == "stopped"
    assert tiny_runs.fit(broken) == "completed"
    assert dataclasses.asdict(broken.config().training) == dataclasses.asdict(whole.config().training)
    assert tiny_runs.outcome(broken) == tiny_runs.outcome(whole)
