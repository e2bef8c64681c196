"""Estimates before a launch."""

from __future__ import annotations

import pytest
import tiny_runs

from engine.runs import forecast
from engine.runs.config import ModelConfig, RunConfig, TrainingConfig
from engine.training import estimate


@pytest.mark.parametrize(
    ("recipe", "geometry"),
    [
        ("quick", "square"),
        pytest.param("study-as-run", "square", marks=pytest.mark.slow),
        pytest.param("modern", "tiles", marks=pytest.mark.slow),
    ],
)
def test_a_probe_measures_time_and_memory(recipe, geometry):
    config = RunConfig(
        model=ModelConfig(name=tiny_runs.TINY.name, image_size=64, geometry=geometry),
        training=TrainingConfig(recipe=recipe, batch_size=2, epochs=3, device="cpu"),
    )
    small, large = (estimate.probe(config, count, 10, 10) for count in (100, 100_000))
    assert 0 < small.seconds < large.seconds
    assert small.memory_mb > 50
    assert small.images_per_s > 0
    assert "cpu" in small.source


@pytest.mark.slow
def test_measuring_in_another_process_reports_a_workers_memory():
    config = RunConfig(
        model=ModelConfig(name="tf_efficientnet_lite0", image_size=32),
        training=TrainingConfig(batch_size=2, device="cpu"),
    )
    found = forecast.measure(config, (100, 20, 20))
    assert found.epoch_s > 0
    assert 100 < found.memory_mb < 4000
