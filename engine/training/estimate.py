"""Minutes and memory before a launch: a few real steps of the very loop that will train.

Run as a process of its own (`engine.runs.forecast.measure`), so that the memory it reports is a worker's and not
the caller's. What earlier runs of this machine took is there, too; this is the measured part.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from engine.allocator import kept_memory
from engine.data.manifest import COLUMNS, Manifest
from engine.errors import EngineError
from engine.runs import presets
from engine.runs.config import RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder
from engine.runs.reporter import Reporter
from engine.training.loop import Fit
from engine.training.work import Work

WARM_STEPS, STEPS = 1, 3
NATIVE = (460, 700)
"""Height and width of a BreakHis image, pixels: what tiles are cut from in the probe."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take on this machine.

    Attributes:
        seconds_per_epoch: training and validation of one epoch of the last (main) stage.
        seconds: the whole run, with its predictions, without packing images.
        memory_mb: peak of the process (CPU) or of the GPU.
        images_per_s: of training steps.
        source: how it was found, for people.
    """

    seconds_per_epoch: float
    seconds: float
    memory_mb: float
    images_per_s: float
    source: str


class Probe(Fit):
    """The training loop on made-up pixels, a few steps of it."""

    def __init__(self, folder: RunFolder, config: RunConfig):
        super().__init__(folder, Reporter(folder, writes=False), config, presets.resolve(config))
        self.work = Work(1.0)
        self._pack()

    def _pack(self) -> None:
        """Noise in place of images; nothing is read or written."""
        size = (self.loaded.image_size,) * 2 if self.loaded.geometry != "tiles" else NATIVE
        noise = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
        self.packed = [noise[row % 4] for row in range(len(self.manifest))]  # type: ignore[assignment]
        self._make_loader()

    def train_seconds(self) -> float:
        """Seconds per update, after a warm-up; the epoch's stage is the last one."""
        self.epoch = self.recipe.epochs
        self._enter_stage(None)
        self._train_epoch()
        # The first updates pay for memory and for choosing algorithms.
        times = self.step_seconds[WARM_STEPS:] or self.step_seconds
        return float(np.median(times))

    def evaluate_seconds(self) -> float:
        """Seconds per image at evaluation, flips not counted."""
        part = self.parts["val"]
        began = time.perf_counter()
        self._evaluate(replace(self.loaded, model=self.model.eval(), tta=False), part, "Validating")
        return (time.perf_counter() - began) / len(part)


def probe(config: RunConfig, train: int, val: int, test: int) -> Estimate:
    """Measure a few steps in this process and scale them to a run.

    Args:
        train, val, test: images of each split.

    Raises:
        EngineError: as training itself (`out_of_memory`: the estimate is that it does not fit).
    """
    # The same work, nothing to fetch, and no image to take a stain reference from.
    config = config.changed(model__pretrained="none", model__stain="none")
    recipe = presets.resolve(config)
    with tempfile.TemporaryDirectory() as folder:
        update = recipe.images_per_update
        manifest = _made_up(config.classes, update * (WARM_STEPS + STEPS), min(16, max(val, 2)))
        run = create(Path(folder), config, "probe", manifest=manifest)
        job = Probe(run, config)
        forward = job.evaluate_seconds()
        stage = recipe.stages[-1]
        step = 0.0 if stage.views else job.train_seconds()
        memory = job.device.peak_mb()
        device = str(job.device.torch)
    per_image = step / update
    once = sum(s.views * train + val for s in recipe.stages if s.views) * forward
    epoch = per_image * train + (0.0 if stage.views else val * forward)
    flips = 4 if recipe.tta else 1
    seconds = once + epoch * stage.epochs + (val + test) * forward * flips
    rate = 1 / per_image if per_image else 1 / forward
    source = f"{STEPS} steps of {update} images on {device}" if step else f"16 images on {device}"
    return Estimate(epoch, seconds, memory, rate, source)


def _made_up(classes: tuple[str, ...], train: int, val: int) -> Manifest:
    rows = []
    for split, count in (("train", max(train, len(classes))), ("val", max(val, len(classes))), ("test", 0)):
        for number in range(count):
            label = classes[number % len(classes)]
            rows.append((f"{split}{number}.png", f"{split}{number}.png", label, "", "", "", "", split))
    return Manifest(Path(), classes, pd.DataFrame(rows, columns=[*COLUMNS, "split"], dtype=str))


def main() -> None:
    request = json.load(sys.stdin)
    try:
        with kept_memory():  # as a worker does
            found = probe(RunConfig.from_record(request["config"]), *request["counts"])
        answer = {"estimate": asdict(found)}
    except EngineError as error:
        answer = {"error": error.as_record()}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
