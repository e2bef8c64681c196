"""What is minimised and how: mixing, and the average of the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch
from timm.utils.model_ema import ModelEmaV3

from engine.runs import presets
from engine.training import models, objective


def mixed(**options):
    """Two images of one colour each, mixed with as many seeds; yields (images, shares)."""
    mixer = objective.mixer(replace(presets.find("modern"), label_smoothing=0.0, **options), 2)
    assert mixer is not None
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    images[0] += torch.tensor([10, 20, 30], dtype=torch.uint8)
    images[1] += torch.tensor([110, 220, 130], dtype=torch.uint8)
    for seed in range(20):
        np.random.seed(seed)
        made, shares = objective.mix(mixer, images, torch.tensor([0, 1]))
        assert made.shape == images.shape
        assert made.dtype == torch.uint8
        yield images, made, shares


def test_cutmix_exchanges_a_rectangle_of_whole_pixels_and_its_area_is_the_share():
    cut = 0
    for images, made, shares in mixed(cutmix=1.0):
        own = (made[0] == images[0]).all(-1)
        other = (made[0] == images[1]).all(-1)
        assert (own | other).all()
        assert shares[0].tolist() == pytest.approx([own.float().mean().item(), other.float().mean().item()])
        rows, columns = (other.any(axis).sum().item() for axis in (1, 0))
        assert other.sum() == rows * columns  # a rectangle
        cut += 0 < rows < 8 and 0 < columns < 8
    assert cut > 5


def test_mixup_blends_every_pixel_by_the_share():
    for images, made, shares in mixed(mixup=1.0):
        wanted = images[0] * shares[0, 0] + images[1] * shares[0, 1]
        assert (made[0].float() - wanted).abs().max() <= 0.51


@pytest.mark.parametrize("frozen", [True, False])
def test_the_average_of_what_changes_is_timms_average_of_everything(frozen):
    recipe = replace(presets.find("study-as-run"), ema=0.9, freeze_batchnorm=frozen)
    model = models.build(tiny_runs.TINY, 2)
    models.set_trainable(model, tiny_runs.TINY, "all", frozen)
    ours = objective.moving_average(model, recipe)
    theirs = ModelEmaV3(model, decay=0.9, use_warmup=True)
    assert ours is not None
    for step in range(6):
        models.train_mode(model, "all", frozen)
        model(torch.randn(4, 3, 32, 32))  # moves the statistics of what is not frozen
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn_like(parameter)
        ours.update(model, step=step)
        theirs.update(model, step=step)
    for (name, one), (_, two) in zip(
        ours.module.state_dict().items(), theirs.module.state_dict().items(), strict=True
    ):
        assert torch.equal(one, two), name
