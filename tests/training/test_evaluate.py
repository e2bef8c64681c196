"""Logits of images, pass by pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch

from engine.data.preprocessing import Preprocessing
from engine.training import evaluate, models
from engine.training.device import Device
from engine.training.models import LoadedModel

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 40, 48, 3), dtype=np.uint8)


@pytest.fixture
def loaded():
    torch.manual_seed(0)
    model = models.build(tiny_runs.TINY, 2).eval()
    mean, std = models.statistics(model, "none")
    device = Device(torch.device("cpu"))
    return LoadedModel(
        model,
        tiny_runs.TINY,
        ("benign", "malignant"),
        mean,
        std,
        Preprocessing(32, "tiles"),
        device,
        tta=True,
    )


def test_a_gpu_is_given_the_next_pass_before_the_last_is_read_and_finds_the_same(loaded, monkeypatch):
    said: list = []
    wanted = evaluate.logits(loaded, PIXELS.__getitem__, range(7), batch_size=8)
    assert wanted.shape == (7, 2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: said.append("launched") or self)
    beside = replace(loaded, device=tiny_runs.LikeAGpu(torch.device("cpu")))
    found = evaluate.logits(
        beside,
        PIXELS.__getitem__,
        range(7),
        batch_size=8,
        progress=lambda done, total: said.append((done, total)),
    )
    assert np.array_equal(found, wanted)
    # Four tiles an image, so two images a pass: what a pass has found is read when the next one is on its way.
    first = ["launched", "launched", (2, 7), "launched", (4, 7), "launched", (6, 7), (7, 7)]
    assert said == first


def test_no_images_are_no_logits(loaded):
    assert evaluate.logits(loaded, PIXELS.__getitem__, []).shape == (0, 2)
