"""Whether an image looks like those a run was trained on: its stain, and the scale of what is in it.

Two descriptors per image, both from pixels alone, so that the answer does not rest on the network it is to
judge. Stain: mean and spread of the tissue's colour in CIE Lab. Scale: how the contrast divides over six
octaves, from single pixels to nuclei to glands, which moves with magnification and focus.

Each descriptor has a Mahalanobis distance to the training images (scale: to the nearest magnification). The
limit is the 97.5th percentile of the training images' own distances, each measured against images of the
*other* patients, so that a new patient of the same laboratory passes: 5% false alarms for the two together. Measured on
159 real images at 100X (20 cases), six patients left out in each of 30 draws (1,814 judgements), images flagged:

    as they are                        5%, in the worst draw 26%, where one slide is stained oddly
    blue cast, grey, inverted          100%        darkened to 65%, to 125%     98%, 16%
    zoom of 4, of 2, shrunk to half    98%, 68%, 59%       blurred by 4, by 2 pixels    100%, 75%
    hue turned by 20, -20, 40 degrees  15%, 11%, 26%: the slides of BreakHis differ by as much
    photographs, glass, noise (22)     100%
    real images at 40X, 200X, 400X     6% of 10, 22% of 3, 32% of 2: the next magnification mostly passes

Distances of the network's last features (Mahalanobis in 8 to 32 principal components, 1 or 5 nearest neighbours; lite0,
73 training images, limit from 3 or 4 other cases) were tried on the same images: they found the photographs (95 to 100%),
but a hue turn in 0 to 33%, a zoom of two in 0 to 33%, at 0 to 33% false alarms. They are not used.

    appearance.json     in the run folder: centres, inverse covariances, limits; made once, from training images

Lee et al., A simple unified framework for detecting out-of-distribution samples, NeurIPS 2018 (the distance).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine import files
from engine.data.images import decode
from engine.errors import DataError, EngineError
from engine.progress import Progress
from engine.runs.folder import RunFolder

FILE = "appearance.json"
SCHEMA = 1
MOST = 480
"""Training images that are looked at: enough for six numbers, decoded in five seconds."""
LEAST = 30
LEAST_CASES = 3
PER_POWER = 20
QUANTILE = 0.975
RIDGE = 0.05
OCTAVES = 6
TISSUE = 0.3
"""Sum of the three optical densities above which a pixel is tissue and not glass."""
STAIN, SCALE = "stain", "magnification"


@dataclass(frozen=True, eq=False)
class Look:
    """An image in numbers: `stain` (6,) and `scale` (5,), float64."""

    stain: np.ndarray
    scale: np.ndarray


def look(pixels: np.ndarray) -> Look:
    """The descriptors of an image, about 2 ms for 700 x 460 pixels.

    Args:
        pixels: uint8, height x width x 3, native.
    """
    return Look(_stain(pixels), _scale(pixels))


def _stain(pixels: np.ndarray) -> np.ndarray:
    """Mean and log spread of L, a, b over the tissue of a small copy."""
    import cv2

    small = cv2.resize(np.ascontiguousarray(pixels), (96, 64), interpolation=cv2.INTER_AREA)
    flat = small.reshape(-1, 3).astype(np.float32)
    density = -np.log((flat + 1) / 256).sum(axis=1)
    tissue = flat[density > TISSUE]
    if len(tissue) < 50:  # glass: then its colour is what there is
        tissue = flat
    lab = cv2.cvtColor((tissue / 255)[None], cv2.COLOR_RGB2LAB)[0].astype(np.float64)
    return np.concatenate([lab.mean(axis=0), np.log(lab.std(axis=0) + 0.5)])


def _scale(pixels: np.ndarray) -> np.ndarray:
    """Log ratios of contrast between neighbouring octaves of brightness; a stronger stain changes none."""
    import cv2

    here = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast = []
    for _ in range(OCTAVES):
        below = cv2.pyrDown(here)
        band = cv2.subtract(here, cv2.pyrUp(below, dstsize=(here.shape[1], here.shape[0])))
        contrast.append(float(cv2.meanStdDev(band)[1].item()) + 0.05)
        here = below
    return np.diff(np.log(contrast))


# -- what training images look like ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cloud:
    """A Gaussian: `centre` (d,) and `weights` (d, d), the inverse covariance."""

    centre: np.ndarray
    weights: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of points (n, d): (n,)."""
        away = points - self.centre
        return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", away, self.weights, away), 0.0))


def _cloud(points: np.ndarray) -> Cloud:
    """Around the median, which a few odd images do not move; a ridge keeps few images from a flat cloud."""
    centre = np.median(points, axis=0)
    spread = (points - centre).std(axis=0) + 1e-6
    unit = (points - centre) / spread
    covariance = unit.T @ unit / len(unit) + RIDGE * np.eye(unit.shape[1])
    return Cloud(centre, np.linalg.inv(covariance) / np.outer(spread, spread))


def _nearest(clouds: Mapping[str, Cloud], points: np.ndarray) -> np.ndarray:
    return np.min([cloud.distance(points) for cloud in clouds.values()], axis=0)


@dataclass(frozen=True, eq=False)
class Appearance:
    """What a run's training images look like. `scale` has a cloud per magnification; limits are distances."""

    stain: Cloud
    scale: dict[str, Cloud]
    stain_limit: float
    scale_limit: float
    n_images: int
    n_cases: int

    def judge(self, looks: Sequence[Look]) -> pd.DataFrame:
        """A row per image: `stain_distance, magnification_distance` (1 = the limit) and `unlike`.

        unlike: `stain`, `magnification`, both joined by ` and `, or empty.
        """
        if not looks:
            return pd.DataFrame({"stain_distance": [], "magnification_distance": [], "unlike": []})
        stain = self.stain.distance(np.stack([one.stain for one in looks])) / self.stain_limit
        scale = _nearest(self.scale, np.stack([one.scale for one in looks])) / self.scale_limit
        words = [
            " and ".join(name for name, value in ((STAIN, s), (SCALE, m)) if value > 1)
            for s, m in zip(stain, scale, strict=True)
        ]
        return pd.DataFrame({"stain_distance": stain, "magnification_distance": scale, "unlike": words})

    def as_record(self) -> dict[str, Any]:
        def plain(cloud: Cloud) -> dict[str, Any]:
            return {"centre": cloud.centre.tolist(), "weights": cloud.weights.tolist()}

        return {
            "schema": SCHEMA,
            "n_images": self.n_images,
            "n_cases": self.n_cases,
            "stain": {**plain(self.stain), "limit": self.stain_limit},
            "scale": {
                "limit": self.scale_limit,
                "clouds": {name: plain(cloud) for name, cloud in self.scale.items()},
            },
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Appearance:
        """Back from `as_record`.

        Raises:
            DataError: another version's, or damaged.
        """

        def cloud(stored: Mapping[str, Any], size: int) -> Cloud:
            centre = np.asarray(stored["centre"], dtype=float)
            weights = np.asarray(stored["weights"], dtype=float)
            if centre.shape != (size,) or weights.shape != (size, size):
                raise ValueError(f"shapes {centre.shape} and {weights.shape}")
            if not (np.isfinite(centre).all() and np.isfinite(weights).all()):
                raise ValueError("numbers that are not finite")
            return Cloud(centre, weights)

        try:
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {record['schema']}")
            limits = float(record["stain"]["limit"]), float(record["scale"]["limit"])
            clouds = {str(k): cloud(v, OCTAVES - 1) for k, v in record["scale"]["clouds"].items()}
            if not clouds or not all(np.isfinite(limit) and limit > 0 for limit in limits):
                raise ValueError("no limit")
            sizes = int(record["n_images"]), int(record["n_cases"])
            return cls(cloud(record["stain"], 6), clouds, *limits, *sizes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{FILE} cannot be read", found=str(error)[:100], remedy="Delete it; it is made again"
            ) from error


def fit(looks: Sequence[Look], cases: Sequence[str], powers: Sequence[str]) -> Appearance:
    """What the images of a training part look like.

    Args:
        looks: of the images. cases: theirs, empty where unknown. powers: magnifications, empty where unknown.

    Raises:
        DataError: too few images or patients to say what is usual.
    """
    known = sorted({case for case in cases if case})
    if len(looks) < LEAST or len(known) < LEAST_CASES:
        raise DataError(
            "Too little was trained on to say what is usual",
            found=f"{len(looks)} images of {len(known)} cases",
            remedy=f"It takes {LEAST} images of {LEAST_CASES} cases",
        )
    stain, scale = np.stack([one.stain for one in looks]), np.stack([one.scale for one in looks])
    case, power = np.asarray(cases, dtype=object), np.asarray(powers, dtype=object)
    own_stain, own_scale = np.full(len(looks), np.nan), np.full(len(looks), np.nan)
    for name in known:
        held = case == name
        own_stain[held] = _cloud(stain[~held]).distance(stain[held])
        own_scale[held] = _nearest(_by_power(scale[~held], power[~held]), scale[held])
    return Appearance(
        _cloud(stain),
        _by_power(scale, power),
        float(np.nanquantile(own_stain, QUANTILE)),
        float(np.nanquantile(own_scale, QUANTILE)),
        len(looks),
        len(known),
    )


def _by_power(points: np.ndarray, power: np.ndarray) -> dict[str, Cloud]:
    """A cloud per magnification with images enough; one for all where there is none."""
    names = [str(name) for name in sorted(set(power)) if name and int((power == name).sum()) >= PER_POWER]
    return {name: _cloud(points[power == name]) for name in names} or {"all": _cloud(points)}


# -- of a run -------------------------------------------------------------------------------------


def of_run(folder: RunFolder, progress: Progress | None = None) -> Appearance:
    """What a trained run's training images look like: read from its folder, or made from the images and kept.

    Raises:
        DataError: the images are not on this machine, or too few.
        RunError: the run has no manifest.
    """
    stored = files.read_json(folder.path / FILE)
    if stored is not None:
        with contextlib.suppress(DataError):
            return Appearance.from_record(stored)
    manifest = folder.manifest()
    rows = _drawn(manifest.table)
    paths = [manifest.absolute(path) for path in rows["path"]]
    if paths and not any(path.is_file() for path in paths[:: max(1, len(paths) // 20)]):
        raise DataError(
            f"The training images of {folder.name} are not on this machine",
            found=str(manifest.root),
            remedy="Predict once where they are, or import the run with the folder of its images",
        )
    looks: list[Look] = []
    kept: list[int] = []
    for position, one in enumerate(_looks(paths)):
        if one is not None:
            looks.append(one)
            kept.append(position)
        if progress:
            progress(position + 1, len(paths))
    rows = rows.iloc[kept]
    made = fit(looks, rows["case"].tolist(), rows["magnification"].tolist())
    with contextlib.suppress(OSError):  # a folder that cannot be written: made again next time
        files.write_json(folder.path / FILE, made.as_record())
    return made


def _drawn(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST` training images, each case and magnification with its turn."""
    train = table[table["split"] == "train"] if "split" in table.columns else table.iloc[:0]
    train = train.sample(frac=1, random_state=0)
    turn = train.groupby(["case", "magnification"]).cumcount()
    return train.loc[turn.sort_values(kind="stable").index].head(MOST)


def _looks(paths: Sequence[Path]) -> Iterator[Look | None]:
    def one(path: Path) -> Look | None:
        try:
            return look(decode(path))
        except EngineError:
            return None

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(one, paths)
