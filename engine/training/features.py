"""Pooled features of a frozen network: what a light classifier (the leakage probe) is fitted on.

They are a function of the image alone, so they are computed once and kept beside the packed pixels.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from engine.data import cache
from engine.data.cache_room import default_cache_dir
from engine.data.images import DECODE_VERSION
from engine.data.manifest import Manifest
from engine.data.preprocessing import Preprocessing
from engine.progress import Progress
from engine.runs import catalog
from engine.training import models
from engine.training.device import choose

_BATCH, _BATCH_CPU = 32, 8
"""On a CPU the activations of 8 images stay near its caches, and channels last suits its kernels: a third of the time."""


def pooled_features(
    manifest: Manifest,
    model: str = "tf_efficientnet_lite0",
    pretrained: str = "offline",
    size: int = 224,
    geometry: str = "square",
    device: str = "auto",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Features of every image of a manifest, in its order: float32, images x channels.

    Args:
        model: an architecture of the catalogue.
        pretrained: as for training; random weights (`none`) are drawn with seed 0.
        size: side of the square that the network sees, pixels.
        geometry: `tiles` averages the features of all windows of an image.
        progress: called with (images done, images in all).

    Raises:
        ConfigError, WeightsError, DataError.
    """
    architecture = catalog.find(model)
    folder = Path(cache_dir) if cache_dir else default_cache_dir()
    paths = "\n".join(manifest.table["path"])
    preprocessing = Preprocessing(size, geometry)
    words = (cache.dataset_hash(manifest), paths, model, pretrained, size, preprocessing.key, DECODE_VERSION)
    stored = folder / f"features-{hashlib.sha256('|'.join(map(str, words)).encode()).hexdigest()[:24]}.npy"
    if stored.is_file():
        os.utime(stored)  # when it was last used
        return np.load(stored, allow_pickle=False)
    torch.manual_seed(0)
    target = choose(device)
    network = models.build(architecture, 2, pretrained).eval().to(target.torch)
    mean, std = models.statistics(network, pretrained)
    packed = cache.pack(manifest, preprocessing, folder)
    on_cpu = target.torch.type == "cpu"
    batch = _BATCH_CPU if on_cpu else _BATCH
    if on_cpu:
        network = network.to(memory_format=torch.channels_last)
    rows: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(packed), batch):
            views = [packed[row] for row in range(start, min(start + batch, len(packed)))]
            tiles = [preprocessing.views(view) for view in views]
            stack = torch.from_numpy(np.concatenate(tiles))
            pixels = models.normalise(stack, mean, std, target.torch)
            if on_cpu:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            values = models.features(network, pixels).float().cpu().numpy()
            ends = np.cumsum([len(tile) for tile in tiles])[:-1]
            rows += [part.mean(0) for part in np.split(values, ends)]
            if progress:
                progress(len(rows), len(packed))
    result = np.stack(rows).astype(np.float32)
    temporary = stored.with_name(stored.name + ".part")
    with temporary.open("wb") as file:
        np.save(file, result, allow_pickle=False)
    temporary.replace(stored)
    return result
