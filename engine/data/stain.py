"""Stain normalisation: every image recoloured after one reference image, which comes from the training part only.

Macenko (2009) separates hematoxylin and eosin and matches their strengths; Reinhard (2001) matches mean and
spread of colour. Both are torchstain's. An image that cannot be normalised (blank, or of one colour) stays as it is
and is counted. In the source study, Vahadane's method lowered B0 from 98.82 to 96.79%: look before you use it.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Reference:
    """The image that all others are made to look like."""

    method: str
    image_id: str
    path: Path

    @property
    def key(self) -> str:
        """Names this normalisation in the key of a pixel cache."""
        return f"{self.method}/{self.image_id}"


class StainNormaliser:
    """Recolours images after a reference; safe to call from several threads.

    `images` and `failures` count the calls and those that fell back to the image as it was.
    """

    def __init__(self, reference: Reference):
        self.reference = reference
        self.images = self.failures = 0
        self._count = threading.Lock()
        self._normaliser = _fitted(reference)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8, height x width x 3, to the same."""
        result = self._attempt(image)
        with self._count:
            self.images += 1
            self.failures += result is None
        return image if result is None else result

    def _attempt(self, image: np.ndarray) -> np.ndarray | None:
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
        if result.shape != image.shape or not np.isfinite(result).all() or result.std() < 1:
            return None
        return np.ascontiguousarray(np.clip(result, 0, 255).astype(np.uint8))

    def as_record(self) -> dict:
        """For the run: method, reference, how many images, how many stayed as they were."""
        return {
            "method": self.reference.method,
            "reference": self.reference.image_id,
            "images": self.images,
            "failures": self.failures,
        }


def choose_reference(manifest: Manifest, method: str = "macenko", seed: int = 0) -> Reference:
    """The most ordinary training image: of 48 drawn at random, the one whose colours are nearest the median.

    Args:
        manifest: with its split; only rows of `train` are looked at.

    Raises:
        DataError: `stain_method` (unknown), `no_split` (no training part).
    """
    if method not in METHODS:
        raise DataError(
            f"Unknown stain normalisation {method}",
            remedy=f"Choose one of {', '.join(METHODS)}",
            kind="stain_method",
        )
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
    colours = np.stack([_colours(manifest.absolute(path)) for path in drawn["path"]])
    spread = colours.std(0) + 1e-6
    nearest = int(np.abs((colours - np.median(colours, axis=0)) / spread).sum(1).argmin())
    chosen = drawn.iloc[nearest]
    return Reference(method, str(chosen["image_id"]), manifest.absolute(str(chosen["path"])))


def preview(manifest: Manifest, normaliser: StainNormaliser, n: int = 4, seed: int = 0):
    """Before and after for `n` images of different slides: a list of (image_id, before, after)."""
    table = manifest.table.sample(frac=1, random_state=seed)
    one_each = table[(table["slide"] == "") | ~table["slide"].duplicated()].head(n)
    result = []
    for image_id, path in zip(one_each["image_id"], one_each["path"], strict=True):
        before = decode(manifest.absolute(path))
        result.append((image_id, before, normaliser(before)))
    return result


def _colours(path: Path) -> np.ndarray:
    """Mean and spread of optical density per channel: what a stain looks like in six numbers."""
    density = -np.log((resize(decode(path), 64).reshape(-1, 3).astype(np.float64) + 1) / 256)
    return np.concatenate([density.mean(0), density.std(0)])


def _fitted(reference: Reference) -> Any:
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

    kinds = {"macenko": NumpyMacenkoNormalizer, "reinhard": NumpyReinhardNormalizer}
    normaliser = kinds[reference.method]()
    try:
        normaliser.fit(decode(reference.path))
    except (np.linalg.LinAlgError, ValueError, IndexError) as error:
        raise DataError(
            f"{reference.image_id} cannot serve as stain reference",
            found=str(error),
            remedy="Choose another seed or method",
            kind="stain_reference",
        ) from error
    return normaliser
