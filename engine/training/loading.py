"""Batches of pixels: what is drawn, in which order, augmented with which seed.

Order and augmentation are functions of (seed, epoch, image), never of a generator's history: the same with
any number of loader processes, and after any resume. Pixels stay uint8 until they are on the device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from engine.data import augment
from engine.data.cache import PackedImages
from engine.data.images import GEOMETRIES, resize
from engine.errors import DataError
from engine.training.device import Device

assert "tiles" in GEOMETRIES


@dataclass(frozen=True)
class Batch:
    """One step's images: rows of the training part, and the epoch that seeds their augmentation."""

    epoch: int
    rows: tuple[int, ...]


class TrainingImages(Dataset):
    """Augmented training images by batch.

    Args:
        packed: pixels of the whole manifest.
        rows: which of them are trained on.
        targets: class index of each of `rows`.
    """

    def __init__(
        self,
        packed: PackedImages,
        rows: np.ndarray,
        targets: np.ndarray,
        augmentation: str,
        size: int,
        geometry: str,
        seed: int,
    ):
        self.packed, self.rows, self.targets, self.seed = packed, rows, targets, seed
        self.options = (augmentation, size, geometry)
        self._augmenter: augment.Augmenter | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (n, size, size, 3) and class indices (n,)."""
        if self._augmenter is None:  # built where it is used: a worker process has its own
            self._augmenter = augment.recipe(*self.options)
        images = [
            self._augmenter(
                self.packed[int(self.rows[row])], augment.sample_seed(self.seed, batch.epoch, row)
            )
            for row in batch.rows
        ]
        targets = self.targets[list(batch.rows)]
        return torch.from_numpy(np.stack(images)), torch.from_numpy(targets)


def order(seed: int, epoch: int, strata: np.ndarray, sampling: str) -> np.ndarray:
    """Rows in the order of an epoch.

    Args:
        strata: group (class x magnification) of each row.
        sampling: `shuffle`, every row once; `balanced`, as many draws with every group equally likely.
    """
    generator = np.random.default_rng([seed, epoch])
    if sampling == "shuffle":
        return generator.permutation(len(strata))
    _, inverse, counts = np.unique(strata, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[inverse]
    return generator.choice(len(strata), size=len(strata), replace=True, p=weights / weights.sum())


def batches(rows: np.ndarray, epoch: int, size: int, least: int = 2) -> list[Batch]:
    """An epoch cut into batches; a last batch of fewer than `least` images joins the one before.

    BatchNorm needs two images, and every process of a distributed run at least one.
    """
    cut = [tuple(map(int, rows[start : start + size])) for start in range(0, len(rows), size)]
    if len(cut) > 1 and len(cut[-1]) < least:
        last = cut.pop()
        cut[-1] = (*cut[-1], *last)
    return [Batch(epoch, part) for part in cut]


class Waiting:
    """Iterates over something and counts the seconds spent waiting for it."""

    def __init__(self, source):
        self.source = iter(source)
        self.seconds = 0.0

    def __iter__(self):
        return self

    def __next__(self):
        began = time.perf_counter()
        try:
            return next(self.source)
        finally:
            self.seconds += time.perf_counter() - began


class Loader:
    """Serves batches in order, in this process or from loader processes that live as long as the run.

    Args:
        images: the training part.
        device: GPUs get pinned memory.
        workers: loader processes; -1 = none on a CPU (it is the same cores that train), up to 8 for a GPU.
    """

    def __init__(self, images: TrainingImages, device: Device, workers: int = -1):
        self.images = images
        if workers < 0:
            workers = min(8, max(1, (os.cpu_count() or 2) - 1)) if device.is_cuda else 0
        self.workers = workers
        self._queue: list[Batch] = []
        self._loader: DataLoader | None = None
        if workers:
            self._loader = DataLoader(
                images,
                batch_size=None,
                sampler=self._queue,
                num_workers=workers,
                persistent_workers=True,
                pin_memory=device.is_cuda,
                prefetch_factor=4,
            )

    def serve(self, wanted: list[Batch]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches, in this order."""
        if self._loader is None:
            for batch in wanted:
                yield self.images[batch]
        else:
            self._queue[:] = wanted
            yield from self._loader


def prepared(image: np.ndarray, size: int, geometry: str) -> np.ndarray:
    """An image as evaluation sees it: uint8, views x size x size x 3 (one view but for `tiles`)."""
    if geometry == "tiles":
        from engine.data.images import cut_tiles

        return cut_tiles(image, size)
    if geometry not in GEOMETRIES:
        raise DataError(f"Unknown geometry {geometry}", remedy=f"Choose one of {', '.join(GEOMETRIES)}")
    return resize(image, size, geometry)[None]
