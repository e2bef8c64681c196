"""Models for the tests of explanations: timm architectures with random weights, and a planted pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import timm
import torch
from torch import nn

from engine.data.preprocessing import Preprocessing
from engine.runs import catalog
from engine.runs.catalog import Architecture


@dataclass(frozen=True)
class TestModel:
    """Shaped like engine.training.models.LoadedModel."""

    __test__ = False

    model: nn.Module
    architecture: Architecture
    classes: tuple[str, ...] = ("benign", "malignant")
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_size: int = 64
    geometry: str = "square"
    tta: bool = False

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.image_size, self.geometry)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        return (pixels - torch.tensor(self.mean).view(1, 3, 1, 1)) / torch.tensor(self.std).view(1, 3, 1, 1)

    def input(self, image: np.ndarray) -> torch.Tensor:
        """An image as the network takes it: float32, (1, 3, size, size)."""
        return self.normalise(torch.from_numpy(Preprocessing(self.image_size).squares(image)))


def random_model(name: str, image_size: int = 64, **changes) -> TestModel:
    """An architecture with random weights, its BatchNorm statistics fitted once: otherwise the features of a
    deep random network vanish (1e-6), and a map of them proves nothing."""
    record = catalog.find(name)
    torch.manual_seed(0)
    model = timm.create_model(record.name, pretrained=False, num_classes=2, drop_rate=0.0)
    _fit_batch_norm(model, image_size)
    with torch.no_grad():
        for module in model.get_classifier().modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, 0.05)
                module.bias.uniform_(-1, 1)
    return TestModel(model, record, image_size=image_size, **changes)


def _fit_batch_norm(model: nn.Module, image_size: int) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(torch.randn(4, 3, image_size, image_size))
    model.eval()


class RedFinder(nn.Module):
    """A network that must look at red: its layer's one channel is the local share of red.

    `stem` is 16 x 16 average pooling of red minus green, at stride 16, then ReLU: the grid of a real network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 16, stride=16)
        self.act = nn.ReLU()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, 0], self.conv.weight[0, 1] = 1 / 256, -1 / 256
            self.conv.weight[1, 2], self.conv.weight[1, 0] = 1 / 256, -1 / 256
            self.head.weight.copy_(torch.tensor([[-4.0, 4.0], [4.0, -4.0]]))
            self.head.bias.copy_(torch.tensor([0.1, -0.2]))

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean(dim=(2, 3)))


def red_finder(image_size: int = 224, geometry: str = "square", tta: bool = False) -> TestModel:
    record = Architecture("red", "red", "Red finder", "Tests", image_size, cam_layer="act")
    return TestModel(RedFinder().eval(), record, image_size=image_size, geometry=geometry, tta=tta)


def tissue(height: int = 460, width: int = 700, seed: int = 0) -> np.ndarray:
    """Grey noise as a tissue-like image: uint8, height x width x 3."""
    generator = np.random.default_rng(seed)
    return generator.integers(60, 220, (height, width, 3), dtype=np.uint8)


def with_red_square(top: int, left: int, side: int, height: int = 460, width: int = 700) -> np.ndarray:
    """A grey image with one red square at a known place."""
    image = np.full((height, width, 3), 128, np.uint8)
    image[top : top + side, left : left + side] = (255, 0, 0)
    return image
