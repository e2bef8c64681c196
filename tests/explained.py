"""Runs whose maps are already stored, as a visit with a model would have left them: shown without a network."""

from __future__ import annotations

from pathlib import Path

import fabricate
import numpy as np
from PIL import Image

from engine.explain import store
from engine.explain.explanation import Explanation
from engine.runs import catalog
from engine.runs.folder import RunFolder

HEIGHT, WIDTH = 46, 70


def explanation(
    seed: int = 0,
    target: str = "malignant",
    raw: np.ndarray | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Explanation:
    """A map of noise on a 5 x 5 grid; P(malignant) is 0.832."""
    made = np.random.default_rng(seed).normal(0, 1, (5, 5)).astype(np.float32) if raw is None else raw
    logits = np.array([-0.7, 0.9])
    return Explanation(
        raw=made,
        height=size[0],
        width=size[1],
        probabilities=np.exp(logits) / np.exp(logits).sum(),
        logits=logits,
        classes=("benign", "malignant"),
        target=target,
        method="gradcam",
        layer="bn2",
        size=160,
        geometry="square",
    )


def run(
    runs: Path,
    root: Path,
    *,
    name: str = "run",
    seed: int = 0,
    maps: bool = True,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    **values,
) -> RunFolder:
    """A finished run with weights, the files of six of its test images under `root`, and a map of each.

    Args:
        maps: store the maps. size: height, width of the images. values: of `fabricate.run`.
    """
    folder = fabricate.run(runs, name=name, seed=seed, data_root=root, **values)
    (folder.path / "best.safetensors").write_bytes(b"weights " + name.encode())
    manifest = folder.manifest()
    rows = manifest.table[manifest.table["split"] == "test"].head(6)
    table = folder.predictions("test")
    folder.write_predictions("test", table[table["image_id"].isin(rows["image_id"])])
    layer = catalog.find(folder.config().model.name).cam_layer
    for k, path in enumerate(rows["path"]):
        target = manifest.absolute(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(150, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target)
        if maps:
            key = store.key_of(folder, target.read_bytes(), method="gradcam", layer=layer, target="malignant")
            store.save(folder, key, explanation(seed + k, size=size))
    return folder
