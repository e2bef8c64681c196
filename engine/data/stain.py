"""Stain normalisation: every image recoloured after one reference image, which comes from the training part only.

Macenko (2009) separates hematoxylin and eosin and matches their strengths; Reinhard (2001) matches mean and
spread of colour. Both are torchstain's. An image that cannot be normalised (blank, or of one colour) stays as it is
and is counted. In the source study, Vahadane's method lowered B0 from 98.82 to 96.79%: look before you use it.

What a method takes from its reference is a handful of numbers. They are what a run records and carries in its
weights file, so that a resumed, moved or bundled run recolours alike, wherever the reference image has gone.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.data.images import decode, resize
from engine.data.manifest import Manifest
from engine.errors import DataError

METHODS = {
    "macenko": "Macenko (2009): strengths of hematoxylin and eosin",
    "reinhard": "Reinhard (2001): mean and spread of colour",
}
_CANDIDATES = 48
_LEAST_TISSUE = 0.02
"""Macenko scales by the 99th percentile of all pixels: with less tissue than this it would stretch the noise of glass."""
_FITTED = {"macenko": ("HERef", "maxCRef"), "reinhard": ("target_means", "target_stds")}
_PRECISION = {"macenko": np.float64, "reinhard": np.float32}
"""What torchstain computes in: other digits would round some pixels to another value."""


@dataclass(frozen=True)
class Reference:
    """What all images are made to look like: the method, the image it was taken from, and its numbers.

    `numbers`: for `macenko` the two stain vectors (3 x 2) and their strengths (2), for `reinhard` mean and spread
    of the three colour axes.
    """

    method: str
    image_id: str
    numbers: dict[str, list]

    @property
    def key(self) -> str:
        """Names this normalisation in the key of a pixel cache: the same numbers give the same pixels."""
        text = json.dumps([self.method, self.numbers], sort_keys=True)
        return f"{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def as_record(self) -> dict[str, Any]:
        return {"method": self.method, "reference": self.image_id, "numbers": self.numbers}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Reference:
        """What `as_record` wrote.

        Raises:
            DataError: kind `stain_reference`, something is missing.
        """
        method, numbers = record.get("method"), record.get("numbers")
        if method not in METHODS or not isinstance(numbers, dict) or not set(_FITTED[method]) <= set(numbers):
            raise DataError(
                "The stain reference of this run cannot be read",
                found=", ".join(map(str, record)) or "an empty record",
                remedy="Train the run again",
                kind="stain_reference",
            )
        return cls(method, str(record.get("reference", "")), numbers)


class StainNormaliser:
    """Recolours images after a reference; safe to call from several threads.

    `images` and `failures` count the images and those that fell back to what they were.
    """

    def __init__(self, reference: Reference):
        self.reference = reference
        self.images = self.failures = 0
        self._count = threading.Lock()
        self._normaliser = _new(reference.method)
        for name in _FITTED[reference.method]:
            numbers = np.array(reference.numbers[name], dtype=_PRECISION[reference.method])
            setattr(self._normaliser, name, numbers)

    def normalise(self, image: np.ndarray) -> tuple[np.ndarray, bool]:
        """uint8, height x width x 3, to the same, and whether it worked; where not, the image as it was."""
        result = self._attempt(image)
        with self._count:
            self.images += 1
            self.failures += result is None
        return (image, False) if result is None else (result, True)

    def _attempt(self, image: np.ndarray) -> np.ndarray | None:
        if self.reference.method == "macenko" and tissue_share(image) < _LEAST_TISSUE:
            return None
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                if self.reference.method == "macenko":
                    result = self._normaliser.normalize(image, stains=False)[0]
                else:
                    result = self._normaliser.normalize(image)
        except (np.linalg.LinAlgError, ValueError, IndexError, ZeroDivisionError):
            return None
        result = np.asarray(result)
        if result.shape != image.shape or np.ptp(result.reshape(-1, 3)[::7], axis=0).max() < 2:
            return None
        return np.ascontiguousarray(result)

    def as_record(self) -> dict:
        """The reference, how many images were asked for, and how many stayed as they were."""
        return {**self.reference.as_record(), "images": self.images, "failures": self.failures}


def tissue_share(image: np.ndarray) -> float:
    """Share of the pixels that are stained (optical density of 0.15 in every channel, as Macenko's method has it)."""
    bright = 240 * np.exp(-0.15) - 1
    return float((image.max(axis=2) <= bright).mean())


def fit(method: str, image_id: str, image: np.ndarray) -> Reference:
    """The reference that an image makes.

    Args:
        image: uint8, height x width x 3.

    Raises:
        DataError: `stain_method` (unknown), `stain_reference` (blank, or of one colour).
    """
    _require_method(method)
    normaliser = _new(method)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            normaliser.fit(image)
        numbers = {name: np.asarray(getattr(normaliser, name), np.float64) for name in _FITTED[method]}
        if not all(np.isfinite(values).all() for values in numbers.values()):
            raise ValueError("its colours have no spread")
        if tissue_share(image) < _LEAST_TISSUE:
            raise ValueError("hardly any tissue")
    except (np.linalg.LinAlgError, ValueError, IndexError) as error:
        raise DataError(
            f"{image_id} cannot serve as stain reference",
            found=str(error),
            remedy="Choose another seed or method",
            kind="stain_reference",
        ) from error
    return Reference(method, image_id, {name: values.tolist() for name, values in numbers.items()})


def choose_reference(manifest: Manifest, method: str = "macenko", seed: int = 0) -> Reference:
    """The most ordinary training image: of 48 drawn at random, the one whose colours are nearest the median.

    One that cannot serve (blank, unreadable) is passed over for the next.

    Args:
        manifest: with its split; only rows of `train` are looked at.

    Raises:
        DataError: `stain_method` (unknown), `no_split` (no training part), `stain_reference` (none can serve).
    """
    _require_method(method)
    table = manifest.table
    train = table[table["split"] == "train"] if "split" in table.columns else table.iloc[:0]
    if train.empty:
        raise DataError(
            "A stain reference is taken from the training part, and there is none",
            found="a manifest without a split",
            remedy="Split the data set first",
            kind="no_split",
        )
    rows = np.random.default_rng(seed).permutation(len(train))[:_CANDIDATES]
    drawn = train.sort_values("image_id").iloc[rows]
    readable: list[tuple[str, np.ndarray]] = []
    for image_id, path in zip(drawn["image_id"], drawn["path"], strict=True):
        try:
            readable.append((str(image_id), decode(manifest.absolute(path))))
        except DataError:
            continue
    refused: DataError | None = None
    for position in _by_ordinariness([image for _, image in readable]):
        try:
            return fit(method, *readable[position])
        except DataError as error:
            refused = refused or error
    raise refused or DataError(
        "No training image can serve as stain reference",
        found=f"{len(drawn)} images that cannot be read",
        remedy="Check the data set with `python -m engine check DATA --images`",
        kind="stain_reference",
    )


def preview(manifest: Manifest, normaliser: StainNormaliser, n: int = 4, seed: int = 0):
    """Before and after for `n` images of different slides: a list of (image_id, before, after, worked)."""
    table = manifest.table.sample(frac=1, random_state=seed)
    one_each = table[(table["slide"] == "") | ~table["slide"].duplicated()]
    result = []
    for image_id, path in zip(one_each["image_id"], one_each["path"], strict=True):
        try:
            before = decode(manifest.absolute(path))
        except DataError:
            continue
        result.append((str(image_id), before, *normaliser.normalise(before)))
        if len(result) == n:
            break
    return result


def _by_ordinariness(images: list[np.ndarray]) -> list[int]:
    """Positions of images, the one whose colours are nearest the median first."""
    if not images:
        return []
    colours = np.stack([_colours(image) for image in images])
    spread = colours.std(0) + 1e-6
    return np.abs((colours - np.median(colours, axis=0)) / spread).sum(1).argsort(kind="stable").tolist()


def _colours(image: np.ndarray) -> np.ndarray:
    """Mean and spread of optical density per channel: what a stain looks like in six numbers."""
    density = -np.log((resize(image, 64).reshape(-1, 3).astype(np.float64) + 1) / 256)
    return np.concatenate([density.mean(0), density.std(0)])


def _require_method(method: str) -> None:
    if method not in METHODS:
        raise DataError(
            f"Unknown stain normalisation {method}",
            remedy=f"Choose one of {', '.join(METHODS)}",
            kind="stain_method",
        )


def _new(method: str) -> Any:
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

    return {"macenko": NumpyMacenkoNormalizer, "reinhard": NumpyReinhardNormalizer}[method]()
