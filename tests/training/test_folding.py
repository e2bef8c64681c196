"""Folding the BatchNorms changes how long a network takes, not what it says; where it would, nothing is folded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.data.preprocessing import Preprocessing
from engine.runs import catalog
from engine.training import models
from engine.training.device import choose
from engine.training.folding import folded
from engine.training.models import LoadedModel


def loaded(model: nn.Module, name: str = "tf_efficientnet_lite0", size: int = 64) -> LoadedModel:
    half = (0.5, 0.5, 0.5)
    architecture = catalog.find(name)
    return LoadedModel(
        model.eval(), architecture, ("a", "b"), half, half, Preprocessing(size), choose("cpu", "fp32")
    )


def trained_statistics(model: nn.Module) -> nn.Module:
    """BatchNorms as training leaves them: with fresh ones a network that loses them says nearly the same."""
    drawn = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, least, spread in (
                (norm.running_mean, -0.2, 0.4),
                (norm.running_var, 0.6, 0.8),
                (norm.weight, 0.8, 0.4),
                (norm.bias, -0.2, 0.4),
            ):
                assert values is not None
                values.data = least + spread * torch.rand(values.shape, generator=drawn)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(one, nn.BatchNorm2d) for one in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnetv2_b0", "resnet50"])
def test_a_folded_network_says_the_same(name):
    torch.manual_seed(0)
    before = loaded(trained_statistics(models.build(catalog.find(name), 2)), name)
    after = folded(before)
    assert norms(before.model) > 40, "the network that was given stays as it is"
    assert norms(after.model) == 0
    pixels = before.normalise(torch.randint(0, 256, (3, 64, 64, 3)).to(torch.uint8))
    with torch.inference_mode():
        expected, features = before.model(pixels), models.features(before.model, pixels)
        assert torch.allclose(after.model(pixels), expected, atol=1e-5, rtol=1e-5)
        assert torch.allclose(models.features(after.model, pixels), features, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-3, "the logits must say something for their agreement to count"


class Crossed(nn.Module):
    """Convolution and BatchNorm side by side, but the BatchNorm comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(pixels)).mean((2, 3))


def test_where_the_order_of_computation_is_another_nothing_is_folded():
    torch.manual_seed(0)
    before = loaded(trained_statistics(Crossed()), size=16)
    assert folded(before) is before
