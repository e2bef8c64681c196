"""Judging 1,000 files from disk, beside what training pays to evaluate the same files.

    judge                                 decoded, looked at for stain and scale, predicted, calibrated: `engine predict`
    training's decoding and evaluation    files that it has not met: decoded into its cache, then logits
    training's evaluation from its cache  the same once more: nothing is left to decode
    memory growth                         of the resident memory, from the first fifth of the images to the last

One network (random weights, only time counts), one process, float32, the sides in turn; both keep freed memory
(`engine.allocator`), as a prediction and a worker do. New files have to be decoded once by whoever judges them, so
the limit of 0.8 is against the training that has to as well. Against the packed cache the ratio is told without a
limit: decoding a PNG of 700 x 460 takes a core 7 ms, and tf_efficientnet_b0 at 224, with its BatchNorms folded, 10
where training's takes 11, so that no order of the work reaches 0.8 of that network alone. Core time per image of the
two (two cores, 64 files): B0 21 and 11 ms, B2 36 and 25, B4 95 and 103, V2-S 120 and 114.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from engine.allocator import kept_memory
from engine.data import cache
from engine.data.manifest import Manifest
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder
from engine.runs.status import COMPLETED, Status

LIMIT, LIMIT_GROWTH_MB = 0.8, 50.0
IMAGES = 1000
FIRST = "training's decoding and evaluation"
PACKED = "training's evaluation from its cache"
GROWTH = "memory growth"


def run(
    manifest: Manifest, *, images: int = IMAGES, rounds: int = 2, model: str = "tf_efficientnet_b0"
) -> list[dict[str, Any]]:
    """Measure; a record per line: `what, images_per_s, peer_images_per_s, ratio, limit, within, detail`.

    Args:
        manifest: a data set; its images are repeated until there are enough.
        rounds: repetitions of each side; the median counts.
    """
    with tempfile.TemporaryDirectory(prefix="bench-predict-") as scratch:
        base = Path(scratch)
        many = _many(manifest, base / "images", images)
        folder = _run(many, base / "runs", model)
        return _measure(folder, many, base / "cache", rounds)


def _measure(folder: RunFolder, many: Manifest, room: Path, rounds: int) -> list[dict[str, Any]]:
    from engine.predict.judge import judge
    from engine.training.evaluate import logits
    from engine.training.models import load_run_model

    loaded = load_run_model(folder)
    paths = [many.absolute(path) for path in many.table["path"]]
    began = perf_counter()
    with kept_memory():
        packed = cache.pack(many, loaded.preprocessing, room)
    packing = perf_counter() - began
    judge(folder, paths[:64], device="cpu")  # warms up, and looks at the training images once
    seconds: dict[str, list[float]] = {"judge": [], "evaluation": []}
    growth = []
    for _ in range(rounds):
        resident: dict[int, float] = {}
        began = perf_counter()

        def note(done: int, total: int, resident: dict[int, float] = resident) -> None:
            if total == len(paths):
                resident[done] = _resident_mb()

        judge(folder, paths, progress=note, device="cpu")
        seconds["judge"].append(perf_counter() - began)
        steps = sorted(resident)
        growth.append(resident[steps[-1]] - resident[steps[len(steps) // 5]])
        began = perf_counter()
        with kept_memory():
            logits(loaded, packed.__getitem__, range(len(packed)))
        seconds["evaluation"].append(perf_counter() - began)
    rate = {name: len(paths) / median(values) for name, values in seconds.items()}
    first = len(paths) / (median(seconds["evaluation"]) + packing)
    name = f"{folder.config().model.name}, {len(paths):,} files"
    return [
        _record(f"judge beside {FIRST}", rate["judge"], first, LIMIT, name),
        _record(f"judge beside {PACKED}", rate["judge"], rate["evaluation"], None, "which decodes nothing any more"),
        {
            "what": GROWTH,
            "value": max(growth),
            "unit": "MB",
            "limit": LIMIT_GROWTH_MB,
            "within": max(growth) <= LIMIT_GROWTH_MB,
            "detail": "resident memory, first fifth to last image; the worst round",
        },
    ]  # fmt: skip


def _record(what: str, rate: float, peer: float, limit: float | None, detail: str) -> dict[str, Any]:
    ratio = rate / peer
    return {
        "what": what,
        "images_per_s": rate,
        "peer_images_per_s": peer,
        "ratio": ratio,
        "limit": limit,
        "within": None if limit is None else ratio >= limit,
        "detail": detail,
    }


def _many(manifest: Manifest, target: Path, images: int) -> Manifest:
    """So many files, made of those of a data set: links where the file system has them."""
    target.mkdir(parents=True)
    table = manifest.table.iloc[np.arange(images) % len(manifest)].reset_index(drop=True)
    names = [f"{position:05d}{Path(path).suffix}" for position, path in enumerate(table["path"])]
    for name, path in zip(names, table["path"], strict=True):
        (target / name).symlink_to(manifest.absolute(path).resolve())
    split = np.where(np.arange(images) % 2 == 0, "train", "test")
    return Manifest(target, manifest.classes, table.assign(image_id=names, path=names, split=split))


def _run(manifest: Manifest, runs: Path, model: str) -> RunFolder:
    """A run folder with a network of random weights."""
    import torch

    from engine.data.preprocessing import Preprocessing
    from engine.runs import catalog
    from engine.training import checkpoint, models
    from engine.training.device import choose

    torch.manual_seed(0)
    architecture = catalog.find(model)
    network = models.build(architecture, len(manifest.classes))
    mean, std = models.statistics(network, "none")
    preprocessing = Preprocessing(architecture.image_size)
    loaded = models.LoadedModel(
        network, architecture, manifest.classes, mean, std, preprocessing, choose("cpu", "fp32")
    )
    config = RunConfig(name="bench", classes=manifest.classes).changed(
        data__root=str(manifest.root), model__name=model, model__pretrained="none"
    )
    folder = create(runs, config, "bench", manifest=manifest, status=Status().moved("starting"))
    checkpoint.save_weights(folder.best, network.state_dict(), loaded.facts())
    folder.write_status(Status(progress=1.0).moved(COMPLETED))
    return folder


def _resident_mb() -> float:
    """Resident memory of this process, MB; 0 where the system does not tell (nothing but Linux does so here)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 1e6
