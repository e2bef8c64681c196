"""One update of the weights: what it asks of the device, what it mixes, what it averages."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch
from torch.overrides import TorchFunctionMode

from engine.data.preprocessing import Preprocessing
from engine.runs import presets
from engine.runs.config import RunConfig
from engine.training import models, objective, steps
from engine.training.device import Device
from engine.training.distributed import Group
from engine.training.loading import Batch
from engine.training.models import LoadedModel
from engine.training.steps import Place, Steps
from engine.training.tally import Tally

EVERYTHING = {"mixup": 0.4, "cutmix": 1.0, "ema": 0.9, "clip": 1.0, "loss": "focal", "class_weights": True}


def recipe_of(name: str, **options) -> presets.Recipe:
    config = RunConfig(details={"recipe": options}).changed(training__recipe=name, training__epochs=2)
    return presets.resolve(config)


def network(device: Device) -> LoadedModel:
    torch.manual_seed(0)
    model = models.build(tiny_runs.TINY, 2).to(device.torch)
    mean, std = models.statistics(model, "none")
    classes = ("benign", "malignant")
    return LoadedModel(model, tiny_runs.TINY, classes, mean, std, Preprocessing(32), device)


class Elsewhere(Device):
    """A device that takes work and never gives an answer: asking a meta tensor for a number is an error, where a
    GPU would make the program wait."""

    @property
    def is_cuda(self) -> bool:
        return True

    def forward_context(self):
        return nullcontext()

    def seed(self, seed: int) -> None:
        pass


class Copies(TorchFunctionMode):
    """Writes down what is copied from the processor to another device: beside a GPU the program waits for that, too."""

    def __init__(self):
        super().__init__()
        self.made: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == "meta":
            given = {part.device.type for part in args if isinstance(part, torch.Tensor)}
            if given == {"cpu"} or func in (torch.tensor, torch.as_tensor):
                self.made.append(func.__name__)
        return result


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(steps, "Carrier", lambda device: lambda *tensors: tensors)
    generator = torch.Generator
    monkeypatch.setattr(
        torch, "Generator", lambda device=None: generator()
    )  # timm's average has one it never uses
    for kind in (torch.optim.Adam, torch.optim.AdamW):  # there is no fused kernel of it for meta tensors
        fused = kind.__init__
        monkeypatch.setattr(
            kind, "__init__", lambda self, *a, _real=fused, **k: _real(self, *a, **{**k, "fused": False})
        )
    monkeypatch.setattr(steps, "SETTLE_EVERY", 3)
    return Elsewhere(torch.device("meta"))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("study-as-run", {}), ("modern", EVERYTHING), ("modern", {"freeze_batchnorm": False}), ("quick", {})],
)
def test_a_step_asks_the_device_for_no_number_until_the_losses_are_read(elsewhere, recipe, options):
    chosen = recipe_of(recipe, **options)
    loaded = network(elsewhere)
    loss = objective.loss_per_image(chosen, np.array([5, 3]), elsewhere.torch)
    job = Steps(loaded, chosen, 0, Group(), loss, dropout=0.3)
    models.train_mode(loaded.model, job.stage.trainable, chosen.freeze_batchnorm)
    targets = torch.zeros(4, dtype=torch.int64, device="meta")
    shape = (4, loaded.model.num_features) if job.stage.views else (4, 32, 32, 3)
    inputs = torch.zeros(shape, dtype=torch.float32 if job.stage.views else torch.uint8, device="meta")
    tally = Tally.of(2)

    def update(step: int) -> None:
        batch = Batch(1, (0, 1, 2, 3))
        job.update(iter([(inputs, targets)]), [batch], Place(1, step, 100), tally)

    with Copies() as copies:  # it does see them
        torch.zeros(2).to("meta").add_(torch.as_tensor([1.0], device="meta"))
    assert copies.made == ["to", "as_tensor"]
    update(0)  # means and deviations of the pixels go there once
    with Copies() as copies:
        update(1)
    assert copies.made == []
    assert len(job.unread) == tally.images == 8
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        update(2)


def test_a_checkpoint_of_the_stage_before_says_nothing_about_this_one():
    """A killed run enters a stage as one that was not killed does: with a fresh optimizer and a fresh scaler."""
    recipe = recipe_of("study-as-described")
    loaded = network(replace(Device(torch.device("cpu")), scaled=True))
    first, second = (
        Steps(loaded, recipe, at, Group(), objective.loss_per_image(recipe, np.ones(2), torch.device("cpu")))
        for at in (0, 1)
    )
    state = first.state()
    state["scaler"]["scale"] = 2.0
    fresh = second.state()["scaler"]
    second.load(state)
    assert second.state()["scaler"] == fresh
    first.load(state)
    assert first.state()["scaler"]["scale"] == 2.0
