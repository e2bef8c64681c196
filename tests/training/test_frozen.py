"""The frozen stage on cached features, against pixels through the frozen backbone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_runs
import torch

from engine.runs import presets
from engine.training import frozen, loop
from engine.training.models import load_run_model


@pytest.fixture
def plainly(monkeypatch):
    """Recipes without cached features: the head trains on pixels through the frozen backbone."""
    real = presets.resolve

    def resolve(config):
        recipe = real(config)
        stages = tuple(dataclasses.replace(stage, views=0) for stage in recipe.stages)
        return dataclasses.replace(recipe, stages=stages)

    return lambda: monkeypatch.setattr(loop.presets, "resolve", resolve)


@pytest.mark.slow
def test_without_augmentation_cached_features_train_as_pixels_do(make_run, plainly):
    """Same order, same dropout draws: the scores must agree within a point, and the logits nearly."""
    options = {
        "training__recipe": "quick",
        "training__augmentation": "none",
        "training__epochs": 6,
        "model__dropout": 0.0,
    }
    cached, pixels = make_run(**options), make_run(**options)
    tiny_runs.fit(cached)
    plainly()
    tiny_runs.fit(pixels)
    one, two = (run.metrics().query("split == 'val'") for run in (cached, pixels))
    assert np.abs(one["balanced_accuracy"].to_numpy() - two["balanced_accuracy"].to_numpy()).max() <= 0.01
    assert np.abs(one["loss"].to_numpy() - two["loss"].to_numpy()).max() < 1e-3
    names = ["logit_benign", "logit_malignant"]
    difference = cached.predictions("test")[names] - pixels.predictions("test")[names]
    assert np.abs(difference.to_numpy()).max() < 1e-2


def test_the_head_on_mean_features_gives_the_mean_of_the_logits(make_run):
    run = make_run(training__epochs=1)
    tiny_runs.fit(run)
    model = load_run_model(run).model
    pixels = torch.rand(6, 3, 32, 32)
    with torch.inference_mode():
        feature = frozen.Backbone(model)(pixels)
        together = frozen.head_logits(model, feature.mean(0, keepdim=True), 0.0)
        assert torch.allclose(together[0], model(pixels).mean(0), atol=1e-4)


def test_an_epoch_sees_one_view_per_image_and_the_next_epoch_another():
    features = torch.arange(12).view(2, 3, 2).float()
    cached = frozen.CachedFeatures(features, torch.tensor([0, 1, 0]), features[0])
    (one, targets), *_ = cached.serve([frozen.Batch(1, (0, 2))])
    (two, _), *_ = cached.serve([frozen.Batch(2, (0, 2))])
    assert torch.equal(one, features[1, [0, 2]])
    assert torch.equal(two, features[0, [0, 2]])
    assert targets.tolist() == [0, 0]
