"""How fast training is: a plain timm + DataLoader loop, our loop, and our bare step, side by side.

Same network, image size, batch, number format, augmentation kinds and images. The sides take turns, round by
round, so that whatever else the machine does hits all of them; the median round counts.

- plain: PIL, torchvision transforms, DataLoader over the image files, default memory format, Adam
- ours: the training loop itself on the packed cache, with the recipe study-as-run
- bare: our step on one batch that is in the device's memory already; what no loader can beat
- frozen: a whole epoch of the head, with its validation and what it writes: on cached features, against pixels
  through the frozen backbone
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.manifest import Manifest
from engine.machine import cores
from engine.runs.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from engine.runs.creation import create

if TYPE_CHECKING:
    from engine.training.device import Device

MODEL = "tf_efficientnetv2_b0"
IMAGE_SIZE = 224
LIMITS = {"ours / plain": 1.08, "ours / bare": 0.97, "wait share": 0.03, "frozen": 20.0}
LIMITS_GPU = {"ours / plain": 1.08, "ours / bare": 0.90, "frozen": 20.0}


@dataclass(frozen=True)
class Size:
    """How much is measured: images per batch, batches per round, rounds."""

    batch: int
    batches: int
    rounds: int


CACHED_EPOCHS, PLAIN_EPOCHS = 9, 1
# A GPU is through with a handful of batches before its clocks have settled; images are then taken repeatedly.
CPU_SIZE, GPU_SIZE = Size(16, 4, 5), Size(64, 100, 3)


def run(
    manifest: Manifest,
    *,
    model: str = MODEL,
    image_size: int = IMAGE_SIZE,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 0,
    rounds: int = 0,
    batches: int = 0,
) -> list[dict[str, Any]]:
    """Measure all sides on images of a data set.

    Args:
        batch_size, rounds, batches: 0 = what suits the device.

    Returns:
        Records with `name`, `value`, `unit`, `limit` (None where there is none), `ok`, `detail`.
    """
    from engine.training.device import choose

    usual = GPU_SIZE if choose(device).is_cuda else CPU_SIZE
    size = Size(batch_size or usual.batch, batches or usual.batches, rounds or usual.rounds)
    images = size.batch * size.batches
    chosen = _chosen(manifest, images)
    config = RunConfig(
        data=DataConfig(root=str(manifest.root)),
        model=ModelConfig(name=model, pretrained="none", image_size=image_size),
        training=TrainingConfig(
            recipe="study-as-run",
            batch_size=size.batch,
            epochs=size.rounds + 1,
            device=device,
            precision=precision,
        ),
        classes=chosen.classes,
    )
    with tempfile.TemporaryDirectory() as folder:
        fit = _our_fit(Path(folder), config, chosen, images)
        loader = fit.loader
        sides: dict[str, Callable[[], float]] = {
            "plain": _plain_side(fit, chosen, size.batch),
            "ours": lambda: _our_round(fit, loader),
            "bare": lambda: _our_round(fit, _Resident(fit, loader, size.batch)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        spent: dict[str, list[float]] = {name: [] for name in sides}
        waits: list[float] = []
        for turn in range(size.rounds + 1):  # the first round warms up
            for name, measure in sides.items():
                busy = _cpu_seconds()
                took = measure()
                if turn:
                    seconds[name].append(took)
                    spent[name].append(_cpu_seconds() - busy)
                    if name == "ours":
                        waits.append(fit.tally.waiting / fit.tally.seconds)
            fit.epoch += 1  # as in a run: the loader went on with the next epoch's batches
        # A GPU is through with the images of a small data set before the epoch has begun.
        enough = images if fit.device.is_cuda else 0
        frozen = _frozen_epochs(Path(folder), config, chosen, enough)
        loader.close()
    return _records(seconds, spent, waits, frozen, len(fit.parts["train"]), fit.device)


def _cpu_seconds() -> float:
    """Core seconds of this process and its loader processes: what else runs on the machine counts less."""
    import psutil

    own, total = psutil.Process(), 0.0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            spent = process.cpu_times()
            total += spent.user + spent.system
    return total


def _records(
    seconds: dict[str, list[float]],
    spent: dict[str, list[float]],
    waits: list[float],
    frozen: tuple[float, float],
    images: int,
    device: Device,
) -> list[dict[str, Any]]:
    rate = {name: images / median(times) for name, times in seconds.items()}
    spread = {
        name: f"{images / max(times):.1f} to {images / min(times):.1f}" for name, times in seconds.items()
    }
    limits = LIMITS_GPU if device.is_cuda else LIMITS
    where = f"{device.name()}, {cores()} cores"
    if hasattr(os, "getloadavg"):
        where += f", load {os.getloadavg()[0]:.1f}"
    # Rounds are compared in pairs: what slows the machine for a moment slows both sides of a pair.
    pairs = {
        other: median(b / a for a, b in zip(seconds["ours"], seconds[other], strict=True))
        for other in ("plain", "bare")
    }
    work = {
        other: median(b / a for a, b in zip(spent["ours"], spent[other], strict=True))
        for other in ("plain", "bare")
    }
    plain, cached = frozen
    rows = [
        ("plain", rate["plain"], "images/s", f"{spread['plain']}; {where}"),
        ("ours", rate["ours"], "images/s", spread["ours"]),
        ("bare", rate["bare"], "images/s", spread["bare"]),
        ("ours / plain", pairs["plain"], "times", f"pairs of rounds; by core seconds {work['plain']:.2f}"),
        ("ours / bare", pairs["bare"], "times", f"pairs of rounds; by core seconds {work['bare']:.2f}"),
        ("wait share", median(waits), "of the time", "our loop waiting for pixels"),
        ("frozen", plain / cached, "times", f"an epoch {plain:.2f} s, cached {cached:.4f} s"),
    ]
    return [_record(*row, limits.get(row[0])) for row in rows]


def _record(name: str, value: float, unit: str, detail: str, limit: float | None) -> dict[str, Any]:
    """One line; of the share of waiting less is better, of everything else more."""
    ok = None if limit is None else (value <= limit if name == "wait share" else value >= limit)
    return {"name": name, "value": round(value, 4), "unit": unit, "limit": limit, "ok": ok, "detail": detail}


def _chosen(manifest: Manifest, count: int) -> Manifest:
    """`count` training images of both classes, and two for validation."""
    table = manifest.table.sample(frac=1.0, random_state=0)
    each = -(-count // len(manifest.classes))
    parts = [table[table["label"] == label].head(each + 1) for label in manifest.classes]
    rows = [part.assign(split=["val", *["train"] * (len(part) - 1)]) for part in parts]
    import pandas as pd

    return manifest.with_table(pd.concat(rows))


def _our_fit(folder: Path, config: RunConfig, manifest: Manifest, images: int = 0, *, writes: bool = False):
    """Our loop, ready for its first step; of a small data set every image is taken until `images` are reached."""
    from engine.runs import presets
    from engine.runs.reporter import Reporter
    from engine.training.loop import Fit
    from engine.training.parts import Part
    from engine.training.work import Work

    run = create(folder, config, "bench", manifest=manifest)
    fit = Fit(run, Reporter(run, writes=writes), config, presets.resolve(config))
    part = fit.parts["train"]
    again = np.resize(np.arange(len(part)), max(images, len(part)))
    fit.parts["train"] = Part(part.rows[again], part.targets[again])
    fit._pack()
    fit.work = Work(1.0)
    fit._enter_stage(None)
    return fit


def _our_round(fit, loader) -> float:
    """Seconds of one epoch of the real loop."""
    from engine.training.tally import Tally

    fit.loader, fit.step = loader, 0
    fit.tally = Tally.of(len(fit.manifest.classes))
    began = perf_counter()
    fit._train_epoch()
    fit.device.synchronise()
    return perf_counter() - began


class _Resident:
    """One augmented batch in the device's memory, served again and again."""

    def __init__(self, fit, loader, batch_size: int):
        from engine.training.loading import Batch

        self.images = loader.images
        pixels, targets = self.images[Batch(1, tuple(range(batch_size)))]
        self.pixels, self.targets = pixels.to(fit.device.torch), targets.to(fit.device.torch)

    def serve(self, wanted, ahead=()) -> Iterator:
        for batch in wanted:
            yield self.pixels[: len(batch.rows)], self.targets[: len(batch.rows)]


def _plain_side(fit, manifest: Manifest, batch_size: int) -> Callable[[], float]:
    """The loop of a tutorial: what most people run."""
    import timm
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms

    from engine.training.loading import start_method

    device = fit.device.torch
    size, path, classes = fit.loaded.image_size, manifest.absolute, list(manifest.classes)
    network = timm.create_model(fit.loaded.architecture.timm_name, num_classes=len(classes), drop_rate=0.3)
    network.to(device).train()
    # The same layers are trained on both sides, so that only the loop differs.
    for theirs, ours in zip(network.parameters(), fit.model.parameters(), strict=True):
        theirs.requires_grad_(ours.requires_grad)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    change = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomAffine(36, translate=(0.3, 0.3)),
            transforms.ToTensor(),
            transforms.Normalize(fit.loaded.mean, fit.loaded.std),
        ]
    )
    names = manifest.table["path"].to_numpy()[fit.parts["train"].rows]
    labels = manifest.table["label"].to_numpy()[fit.parts["train"].rows]
    files = [(path(name), classes.index(label)) for name, label in zip(names, labels, strict=True)]
    workers = fit.loader.workers or 2
    loader = DataLoader(
        _ImageFiles(files, change),  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=fit.device.is_cuda,
        multiprocessing_context=start_method(fit.device),
    )

    def measure() -> float:
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        began = perf_counter()
        for pixels, targets in loader:
            with fit.device.forward_context():
                loss = torch.nn.functional.cross_entropy(network(pixels.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        fit.device.synchronise()
        return perf_counter() - began

    return measure


class _ImageFiles:
    """What torchvision's ImageFolder does: PIL opens, the transforms do the rest."""

    def __init__(self, files: list[tuple[Path, int]], change):
        self.files, self.change = files, change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int):
        from PIL import Image

        path, target = self.files[row]
        with Image.open(path) as image:
            return self.change(image.convert("RGB")), target


def _frozen_epochs(folder: Path, config: RunConfig, manifest: Manifest, images: int) -> tuple[float, float]:
    """Seconds of an epoch of the head: pixels through the frozen backbone, and cached features.

    Whole epochs as a run has them, with their validation and what they write.
    """
    from engine.runs import presets

    config = config.changed(training__recipe="quick", training__epochs=CACHED_EPOCHS + PLAIN_EPOCHS + 2)
    quick = _our_fit(folder, config, manifest, images, writes=True)
    cached = [_whole_epoch(quick) for _ in range(CACHED_EPOCHS + 1)][1:]
    recipe = presets.resolve(config)
    plain = replace(recipe, stages=(replace(recipe.stages[-1], views=0),))
    quick.recipe, quick.stage_at, quick.cached = plain, -1, None
    quick._enter_stage(None)
    seconds = [_whole_epoch(quick) for _ in range(PLAIN_EPOCHS + 1)][1:]
    quick.close()
    return median(seconds), median(cached)


def _whole_epoch(fit) -> float:
    began = perf_counter()
    fit._train_epoch()
    fit._validate_epoch()
    fit.device.synchronise()
    return perf_counter() - began
