"""Where a map lies on the image: what the model saw, and the way back. Needs no torch.

A map on the layer's grid (7 x 7, say) covers the square the model saw; the square was the whole image
squeezed, the whole image in a frame, or one of several tiles. `place` undoes exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engine.data.preprocessing import Preprocessing
from engine.errors import ExplainError

FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (0, 1))
"""The four flips that test-time augmentation averages over, as array axes."""


@dataclass(frozen=True)
class View:
    """A square the model sees: uint8 pixels, which tile of the image it is, and the axes it is flipped in."""

    pixels: np.ndarray
    tile: int = 0
    flip: tuple[int, ...] = ()

    def unflipped(self, raw: np.ndarray) -> np.ndarray:
        """A map (h, w) of these pixels, as a map of the tile."""
        return np.flip(raw, self.flip) if self.flip else raw


def boxes(height: int, width: int, size: int, geometry: str) -> list[tuple[int, int, int, int]]:
    """The parts of an image that a model sees, one box (top, left, height, width) per tile.

    The same windows as `images.cut_tiles` cuts, in the same order.
    """
    if geometry != "tiles":
        return [(0, 0, height, width)]
    return [(top, left, size, size) for top in _starts(height, size) for left in _starts(width, size)]


def views(image: np.ndarray, preprocessing: Preprocessing, tta: bool = False) -> list[View]:
    """The squares a model sees of a decoded image, uint8, size x size x 3 each; with `tta` in all four flips.

    Raises:
        ExplainError: the image is no uint8 RGB array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ExplainError(
            "An image to explain must be uint8, height x width x 3",
            found=f"{image.dtype}, shape {image.shape}",
            remedy="Read it with engine.data.images.decode",
        )
    return [
        View(np.flip(square, flip) if flip else square, tile, flip)
        for tile, square in enumerate(preprocessing.squares(image))
        for flip in (FLIPS if tta else FLIPS[:1])
    ]


def place(raw: np.ndarray, height: int, width: int, size: int, geometry: str) -> np.ndarray:
    """A map on the layer's grid brought back onto the image.

    Args:
        raw: float, (h, w), or (tiles, h, w) with tiles in the order of `boxes`.
        height, width: of the image, pixels.
        size: side of the square the model saw, pixels.
        geometry: `square`, `letterbox` or `tiles`.

    Returns:
        float32, height x width; signed as `raw` is. Where tiles overlap, their mean: one scale for all.
    """
    if geometry == "tiles":
        return _stitch(raw, height, width, size)
    if geometry == "letterbox":
        top, left, inner_height, inner_width = letterbox_box(height, width, size)
        square = _resize(raw, size, size)
        return _resize(square[top : top + inner_height, left : left + inner_width], height, width)
    return _resize(raw, height, width)


def letterbox_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Where `images.resize(..., "letterbox")` puts the image in the square: top, left, height, width."""
    factor = size / max(height, width)
    inner_height, inner_width = max(1, round(height * factor)), max(1, round(width * factor))
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width


def _stitch(raw: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    canvas = np.zeros((max(height, size), max(width, size)), np.float32)
    seen = np.zeros_like(canvas)
    for tile, (top, left, tall, wide) in zip(raw, boxes(height, width, size, "tiles"), strict=True):
        canvas[top : top + tall, left : left + wide] += _resize(tile, tall, wide)
        seen[top : top + tall, left : left + wide] += 1
    return (canvas / seen)[:height, :width]


def _starts(length: int, size: int) -> list[int]:
    length = max(length, size)  # a smaller image is padded below and to the right
    return np.linspace(0, length - size, -(-length // size)).round().astype(int).tolist()


def _resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    source = np.ascontiguousarray(values, dtype=np.float32)
    return cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
