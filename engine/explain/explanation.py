"""An explanation: one map with everything needed to read it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.explain import geometry as geometries


@dataclass(frozen=True, eq=False)
class Explanation:
    """A map of one image.

    Attributes:
        raw: float32, signed, on the layer's grid: (h, w), or (tiles, h, w) where the model sees tiles.
            No ReLU. With Grad-CAM or HiResCAM at the default layer of an EfficientNet its sum is
            logit - bias (for tiles: of the mean logit).
        height, width: of the original image, pixels.
        probabilities, logits: float64, (classes,); for tiles softmax of the mean logits, and these.
        classes: class names in label order.
        target: what is explained: a class name, or `margin` (logit of the last class minus the first).
        method, layer: how, and where in the network.
        size, geometry: side of the square the model saw, and how the image was brought to it.
    """

    raw: np.ndarray
    height: int
    width: int
    probabilities: np.ndarray
    logits: np.ndarray
    classes: tuple[str, ...]
    target: str
    method: str
    layer: str
    size: int
    geometry: str

    @cached_property
    def signed(self) -> np.ndarray:
        """The map at the original image's geometry: float32, height x width, negative = against the target."""
        return geometries.place(self.raw, self.height, self.width, self.size, self.geometry)

    @cached_property
    def heat(self) -> np.ndarray:
        """Evidence for the target at the original image's geometry: float32, height x width, >= 0.

        Not normalised, so that maps of one model can share a scale. ReLU before interpolation, as
        pytorch-grad-cam has it.
        """
        positive = np.maximum(self.raw, 0)
        return geometries.place(positive, self.height, self.width, self.size, self.geometry)

    @property
    def is_empty(self) -> bool:
        """Nothing in the image speaks for the target: the heat map is zero everywhere."""
        return not bool((self.raw > 0).any())

    @property
    def predicted(self) -> str:
        """Class of greatest probability."""
        return self.classes[int(np.argmax(self.probabilities))]

    @property
    def score(self) -> float:
        """The number that is explained: the target's logit, or the margin."""
        if self.target == "margin":
            return float(self.logits[-1] - self.logits[0])
        return float(self.logits[self.classes.index(self.target)])

    def probability(self, name: str) -> float:
        """Probability of a class."""
        return float(self.probabilities[self.classes.index(name)])
