"""What happens to an image between its file and the network, in one place: training, evaluation, prediction and
explanation see the same pixels because all of them ask a `Preprocessing`.

`prepare` is what the packed cache holds of a decoded image; `views` are the squares cut from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.data.images import cut_tiles, resize
from engine.data.stain import Reference, StainNormaliser


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what a network sees.

    Attributes:
        size: side of the square, pixels.
        geometry: one of `engine.data.images.GEOMETRIES`.
        interpolation: one of `engine.data.images.INTERPOLATIONS`; nothing is resized under `tiles`.
        stain: recolours the native image first; None leaves its colours.
    """

    size: int
    geometry: str = "square"
    interpolation: str = "area"
    stain: StainNormaliser | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Two preprocessings that store the same pixels have the same key: it is part of a cache's name."""
        stored = "native" if self.geometry == "tiles" else f"{self.size}/{self.geometry}/{self.interpolation}"
        return f"{stored}/{self.stain.reference.key}" if self.stain else stored

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, bool]:
        """A decoded image as the packed cache holds it, and whether its stain could be normalised.

        Args:
            image: uint8, height x width x 3, native.

        Returns:
            uint8, size x size x 3 (`tiles`: the native size), and True where there was nothing to normalise.
        """
        normalised = True
        if self.stain:
            image, normalised = self.stain.normalise(image)
        return resize(image, self.size, self.geometry, self.interpolation), normalised

    def views(self, pixels: np.ndarray) -> np.ndarray:
        """The squares that the network sees of prepared pixels: uint8, views x size x size x 3."""
        return cut_tiles(pixels, self.size) if self.geometry == "tiles" else pixels[None]

    def squares(self, image: np.ndarray) -> np.ndarray:
        """The squares that the network sees of a decoded image: uint8, views x size x size x 3."""
        return self.views(self.prepare(image)[0])

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values, for the header of a weights file."""
        return {
            "image_size": self.size,
            "geometry": self.geometry,
            "interpolation": self.interpolation,
            "stain": self.stain.reference.as_record() if self.stain else None,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Preprocessing:
        """What `as_record` wrote; records without an interpolation are from before there was a choice (area)."""
        stain = record.get("stain")
        return cls(
            int(record["image_size"]),
            str(record["geometry"]),
            str(record.get("interpolation") or "area"),
            StainNormaliser(Reference.from_record(stain)) if stain else None,
        )


NATIVE = Preprocessing(0, "tiles")
"""Decoded pixels at their own size and in their own colours."""
