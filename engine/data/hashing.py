"""Fingerprints of images: SHA-256 of the bytes, and a perceptual hash of what is to be seen.

The perceptual hash is the sign of the 255 lowest frequencies (16 x 16 cosine transform of the image squeezed to
64 x 64 grey, mean left out). Unrelated tissue differs in about half of the bits; the same picture, saved
again or scaled, in a few. Flips and quarter turns of the square only change signs or order of frequencies, so
all eight positions are compared without touching the image again.

Results are appended to a file as they come, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engine.data.examined import Examined
from engine.data.files import Problem
from engine.data.images import decode
from engine.data.manifest import Manifest
from engine.progress import Progress

BITS = 255
NEAR = 40
"""Bits of 255 in which near duplicates may differ; unrelated images differ in 128 +- 8."""
POSITIONS = (
    "as it is",
    "flipped left to right",
    "flipped upside down",
    "turned by 180 degrees",
    "mirrored at the diagonal",
    "turned by 90 degrees",
    "turned by 270 degrees",
    "mirrored at the other diagonal",
)
_SIDE = 16


@dataclass(frozen=True)
class Hashes:
    """Fingerprints of a manifest, in its order.

    `sha256`: one per image, empty where it could not be read. `signs`: int8, images x 255, +1 or -1; a row of
    0 where the image could not be read or is blank. `problems`: the images that could not be read.
    """

    image_ids: tuple[str, ...]
    sha256: tuple[str, ...]
    signs: np.ndarray
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Pair:
    """Two images that show the same: rows of the manifest, bits that differ, how the second lies."""

    first: int
    second: int
    distance: int
    position: str
    exact: bool


def hash_images(
    manifest: Manifest, cache_dir: Path | None = None, progress: Progress | None = None
) -> Hashes:
    """Hash every image, on all cores, remembering what is done already.

    Args:
        manifest: which images.
        cache_dir: where results are kept between calls; the pixel cache's folder unless given.
        progress: called with (images done, images in all).

    An image that cannot be decoded becomes a problem; the rest is hashed.
    """
    examined = Examined(manifest, cache_dir)
    results: dict[str, dict] = {}
    todo: list[str] = []
    for path in manifest.table["path"]:
        known = examined.known(path)
        if known and ("sha256" in known or "problem" in known):
            results[path] = known
        else:
            todo.append(path)
    results |= dict(examined.examine(todo, _fingerprint, progress, len(results)))
    return _collected(manifest, results)


def find_pairs(hashes: Hashes, near: int = NEAR) -> list[Pair]:
    """Pairs of images that show the same, in any of the eight positions; nearest first.

    The comparison is one matrix product per position: a dot product of signs is 255 - 2 x differing bits.
    7,909 images take about 20 s on two cores.
    """
    signs = hashes.signs.astype(np.float32)
    found: dict[tuple[int, int], Pair] = {}
    threshold = BITS - 2 * near
    for position, turned in enumerate(_positions(hashes.signs)):
        other = turned.astype(np.float32).T
        for start in range(0, len(signs), 1024):
            product = signs[start : start + 1024] @ other
            rows, columns = np.nonzero(product >= threshold)
            for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
                if row < column:
                    distance = int(BITS - product[row - start, column]) // 2
                    pair = _pair(hashes, row, column, distance, POSITIONS[position])
                    if (row, column) not in found or found[row, column].distance > distance:
                        found[row, column] = pair
    for pair in _exact(hashes):
        found[pair.first, pair.second] = pair
    return sorted(found.values(), key=lambda pair: (pair.distance, pair.first, pair.second))


def describe_pairs(manifest: Manifest, pairs: list[Pair]) -> pd.DataFrame:
    """Pairs as a table: a, b (image_id), distance, position, exact, and whether slide, case, label, subtype
    and (where there is one) split differ: `other_slide`, `other_case`, ..."""
    table = manifest.table
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    result = pd.DataFrame(
        {
            "a": table["image_id"].iloc[first].to_numpy(),
            "b": table["image_id"].iloc[second].to_numpy(),
            "distance": [pair.distance for pair in pairs],
            "position": [pair.position for pair in pairs],
            "exact": [pair.exact for pair in pairs],
        }
    )
    for name in ("slide", "case", "label", "subtype", "magnification", "split"):
        if name in table.columns:
            values = table[name].to_numpy()
            result[f"other_{name}"] = values[first] != values[second]
    return result


@dataclass(frozen=True)
class Duplicates:
    """What hashing a data set found: `pairs` as `describe_pairs`, and the images that could not be read."""

    images: int
    pairs: pd.DataFrame
    problems: tuple[Problem, ...]

    def crossing(self, what: str) -> pd.DataFrame:
        """Pairs whose two images differ in slide, case, label, subtype or split."""
        column = f"other_{what}"
        return self.pairs[self.pairs[column]] if column in self.pairs else self.pairs.iloc[:0]

    def as_record(self) -> dict:
        return {
            "images": self.images,
            "pairs": self.pairs.to_dict("records"),
            "across_slides": len(self.crossing("slide")),
            "across_labels": len(self.crossing("label")),
            "across_subtypes": len(self.crossing("subtype")),
            "problems": [problem.as_record() for problem in self.problems],
        }

    def as_text(self, limit: int = 20) -> str:
        exact = int(self.pairs["exact"].sum())
        lines = [
            f"{len(self.pairs)} pairs of images show the same ({exact} byte for byte): "
            f"{len(self.crossing('slide'))} across slides, {len(self.crossing('subtype'))} across subtypes, "
            f"{len(self.crossing('label'))} across labels."
        ]
        for pair in self.pairs.head(limit).to_dict("records"):
            lines.append(f"{pair['a']} and {pair['b']}: {pair['position']}, {pair['distance']} bits differ")
        if len(self.pairs) > limit:
            lines.append(f"... and {len(self.pairs) - limit} more pairs")
        return "\n".join([*lines, *[f"{problem.file}: {problem.message}" for problem in self.problems]])


def find_duplicates(
    manifest: Manifest, cache_dir: Path | None = None, progress: Progress | None = None
) -> Duplicates:
    """Hash every image of a data set and name those that show the same (what `check --images` reports)."""
    hashes = hash_images(manifest, cache_dir, progress)
    return Duplicates(len(manifest), describe_pairs(manifest, find_pairs(hashes)), hashes.problems)


def perceptual_signs(image: np.ndarray) -> np.ndarray:
    """The 255 signs of an image (uint8, height x width x 3): int8, +1 or -1; all 0 for a blank image."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < 1.0:  # blank: every frequency is rounding noise
        return np.zeros(BITS, np.int8)
    low = cv2.dct(small)[:_SIDE, :_SIDE]
    return np.where(low >= 0, 1, -1).astype(np.int8).ravel()[1:]


def _positions(signs: np.ndarray) -> Iterator[np.ndarray]:
    """The signs that each image would have in each of `POSITIONS`.

    Mirroring an axis negates its odd frequencies; mirroring at the diagonal swaps the two axes.
    """
    full = np.concatenate([np.zeros((len(signs), 1), np.int8), signs], 1).reshape(-1, _SIDE, _SIDE)
    odd = np.where(np.arange(_SIDE) % 2, -1, 1).astype(np.int8)
    for base in (full, full.transpose(0, 2, 1)):
        left_right = base * odd[None, None, :]
        upside_down = base * odd[None, :, None]
        both = left_right * odd[None, :, None]
        for turned in (base, left_right, upside_down, both):
            yield turned.reshape(len(signs), -1)[:, 1:]


def _pair(hashes: Hashes, first: int, second: int, distance: int, position: str) -> Pair:
    exact = bool(hashes.sha256[first]) and hashes.sha256[first] == hashes.sha256[second]
    return Pair(first, second, distance, position, exact)


def _exact(hashes: Hashes) -> Iterator[Pair]:
    groups: dict[str, list[int]] = {}
    for row, digest in enumerate(hashes.sha256):
        if digest:
            groups.setdefault(digest, []).append(row)
    for rows in groups.values():
        for number, first in enumerate(rows):
            for second in rows[number + 1 :]:
                yield Pair(first, second, 0, POSITIONS[0], True)


def _fingerprint(path: Path) -> dict:
    data = path.read_bytes()
    signs = perceptual_signs(decode(data, path.name))
    bits = np.packbits(signs > 0).tobytes().hex() if signs.any() else ""
    return {"sha256": hashlib.sha256(data).hexdigest(), "signs": bits}


def _collected(manifest: Manifest, results: dict[str, dict]) -> Hashes:
    paths = manifest.table["path"].tolist()
    signs = np.zeros((len(paths), BITS), np.int8)
    problems = []
    for row, path in enumerate(paths):
        record = results[path]
        if record.get("problem"):
            problems.append(Problem(path, *record["problem"]))
        if record.get("signs"):
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(record["signs"]), np.uint8))[:BITS]
            signs[row] = np.where(bits, 1, -1)
    digests = tuple(results[path].get("sha256", "") for path in paths)
    return Hashes(tuple(manifest.table["image_id"]), digests, signs, tuple(problems))
