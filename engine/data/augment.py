"""Augmentation: named recipes of albumentations behind one interface. uint8 in, uint8 out.

The tensor is normalised on the device, so the loader hands over a quarter of the bytes. albumentations
costs seconds and imports torch; it is imported when the first pipeline is built, not with this module.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.data.images import GEOMETRIES
from engine.data.preprocessing import Preprocessing
from engine.errors import ConfigError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import asks a server for news


@dataclass(frozen=True)
class Recipe:
    """A named augmentation; `build` gives its list of transforms, given the module albumentations."""

    name: str
    label: str
    help: str
    build: Callable[[Any], list]


class Augmenter:
    """One pipeline. The same image and seed give the same result, on any worker and after any resume.

    Not safe for several threads at once: the pipeline holds its random state.
    """

    def __init__(self, name: str, size: int, geometry: str, pipeline: Any):
        self.name, self.size, self.geometry = name, size, geometry
        self._pipeline = pipeline
        # One generator of each kind for all transforms, set back for every image: 8 instead of 90 microseconds.
        self._python, self._numpy = random.Random(0), np.random.Generator(np.random.Philox(0))  # nosec B311
        if pipeline is not None:
            # Not Compose.set_random_seed: it hands every transform the same seed, and as each draws its first
            # number from it, horizontal and vertical flips would always happen together (albumentations 2.0.8).
            pipeline.set_random_state(self._numpy, self._python)

    @property
    def pipeline(self) -> Any:
        """The albumentations pipeline itself; None where nothing is done."""
        return self._pipeline

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Augment one image.

        Args:
            image: uint8, height x width x 3.
            seed: see `sample_seed`.

        Returns:
            uint8, contiguous; `size` x `size` x 3 under the geometry `tiles`, else the shape of the image.
        """
        if self._pipeline is None:
            return image.copy()  # the packed cache hands out read-only views
        self._python.seed(seed)
        self._numpy.bit_generator.state = _philox_state(seed)
        return np.ascontiguousarray(self._pipeline(image=image)["image"])


def _philox_state(seed: int) -> dict:
    """The start of the stream of numbers that belongs to a seed below 2**64."""
    return {
        "bit_generator": "Philox",
        "state": {"counter": np.zeros(4, np.uint64), "key": np.array([seed, 0], np.uint64)},
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of one image in one epoch, below 2**63: a hash, so that neighbours share nothing."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def recipe(name: str, size: int, geometry: str = "square") -> Augmenter:
    """The augmentation of this name.

    Args:
        name: one of `RECIPES`.
        size: side of the square that the model sees, pixels.
        geometry: `tiles` cuts a random size x size window of native pixels before anything else; otherwise
            the image is expected at its final size.

    Raises:
        ConfigError: unknown name or geometry.
    """
    for value, choices, what in ((name, RECIPES, "augmentation"), (geometry, GEOMETRIES, "geometry")):
        if value not in choices:
            raise ConfigError(f"Unknown {what} {value}", remedy=f"Choose one of {', '.join(choices)}")
    crop = geometry == "tiles"
    if name == "none" and not crop:
        return Augmenter(name, size, geometry, None)
    import albumentations

    steps = RECIPES[name].build(albumentations)
    if crop:
        steps = [_window(albumentations, size), *steps]
    return Augmenter(name, size, geometry, albumentations.Compose(steps))


def preview(image: np.ndarray, name: str, preprocessing: Preprocessing, n: int = 8, seed: int = 0):
    """What a training batch would see of one image.

    Args:
        image: uint8, height x width x 3, native.
        name: one of `RECIPES`.
        preprocessing: of the run: size, geometry, interpolation and stain.

    Returns:
        `n` augmented versions, uint8, n x size x size x 3; and True where there was no stain to normalise or it
        could be.
    """
    augment = recipe(name, preprocessing.size, preprocessing.geometry)
    prepared, normalised = preprocessing.prepare(image)
    versions = [augment(prepared, sample_seed(seed, 0, number)) for number in range(n)]
    return np.stack(versions), normalised


def _window(A: Any, size: int) -> Any:
    import cv2

    return A.RandomCrop(size, size, pad_if_needed=True, border_mode=cv2.BORDER_REFLECT, p=1.0)


def _move(A: Any, degrees: float, shift: float, zoom: tuple[float, float] = (1.0, 1.0)) -> Any:
    """Flips, rotation, translation and zoom as one transform of albumentations, with reflected borders.

    One warp instead of HorizontalFlip, VerticalFlip and Affine one after the other: the same pictures from one
    interpolation, in three quarters of the time.
    """
    import cv2

    class Move(A.ImageOnlyTransform):
        def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
            draw = self.py_random
            flips = (draw.choice((-1.0, 1.0)), draw.choice((-1.0, 1.0)))
            turn = np.deg2rad(draw.uniform(-degrees, degrees))
            by = (draw.uniform(-shift, shift), draw.uniform(-shift, shift))
            scale = float(np.exp(draw.uniform(np.log(zoom[0]), np.log(zoom[1]))))
            return {"matrix": _matrix(params["shape"], flips, turn, by, scale)}

        def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
            height, width = img.shape[:2]
            return cv2.warpAffine(
                img, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )

    return Move(p=1.0)


def _matrix(
    shape: tuple[int, ...],
    flips: tuple[float, float],
    turn: float,
    by: tuple[float, float],
    scale: float,
) -> np.ndarray:
    """2 x 3, source to target pixels: flip, zoom and turn about the centre, then move by shares of the size."""
    height, width = shape[:2]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    a, b, c, d = cosine * flips[0], -sine * flips[1], sine * flips[0], cosine * flips[1]
    right = middle_x + by[0] * width - a * middle_x - b * middle_y
    down = middle_y + by[1] * height - c * middle_x - d * middle_y
    return np.array([[a, b, right], [c, d, down]])


def _stain_jitter(A: Any) -> Any:
    return A.HEStain(
        method="random_preset", intensity_scale_range=(0.8, 1.2), intensity_shift_range=(-0.1, 0.1), p=0.3
    )


def _colour_jitter(A: Any) -> Any:
    return A.ColorJitter(
        brightness=(0.8, 1.2), contrast=(0.8, 1.25), saturation=(0.7, 1.3), hue=(-0.04, 0.04), p=0.7
    )


def _strong(A: Any) -> list:
    return [
        _move(A, 180, 0.15, (0.8, 1.25)),
        # HEStain costs 9 ms, ten times the rest together, so it takes turns with plain colour jitter.
        A.OneOf([_stain_jitter(A), _colour_jitter(A)], p=0.8),
        A.OneOf([A.GaussianBlur(blur_limit=(3, 5)), A.GaussNoise(std_range=(0.01, 0.04))], p=0.2),
    ]


RECIPES: dict[str, Recipe] = {
    record.name: record
    for record in (
        Recipe("none", "None", "The image as it is.", lambda A: []),
        Recipe(
            "light",
            "Light",
            "The eight symmetries of the square: flips and quarter turns. No pixel is invented.",
            lambda A: [A.D4(p=1.0)],
        ),
        Recipe(
            "study",
            "The study's",
            "Flips, rotation up to 36 degrees, translation up to 30%, borders reflected: as the source study.",
            lambda A: [_move(A, 36, 0.3)],
        ),
        Recipe(
            "strong",
            "Strong",
            "Flips, any rotation, zoom 0.8 to 1.25, and jitter of stain colour, blur and noise: "
            "for laboratories that stain differently.",
            _strong,
        ),
    )
}
