"""A tiny network, a tiny data set and runs on them: what the tests of training share.

Also a program (`python tiny_runs.py DIR [server]`): a worker that knows the tiny network; with `server` its loader
processes begin as beside a GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.data.images import encode_png
from engine.data.manifest import Manifest
from engine.runs import catalog
from engine.runs.catalog import Architecture
from engine.runs.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder
from engine.runs.reporter import Reporter
from engine.training.device import Device

TINY = Architecture("test_efficientnet", "test_efficientnet.r160_in1k", "Tiny", "Tests", 32)
COUNTS = {"train": 20, "val": 8, "test": 6}


def register() -> None:
    """Put the tiny network into this process' catalogue."""
    if TINY.name not in catalog.BY_NAME:
        catalog.ARCHITECTURES = (*catalog.ARCHITECTURES, TINY)
        catalog.BY_NAME[TINY.name] = TINY


def write_images(root: Path) -> Manifest:
    """Noise with a tint per class, 48 x 40 pixels, and its manifest with a split."""
    generator = np.random.default_rng(0)
    rows = []
    for split, count in COUNTS.items():
        for number in range(count):
            label = ("benign", "malignant")[number % 2]
            pixels = generator.integers(60, 200, (40, 48, 3))
            pixels[..., number % 2] += 40
            name = f"{split}_{number}.png"
            (root / name).write_bytes(encode_png(pixels.astype(np.uint8)))
            power = ("40X", "100X")[number // 2 % 2]
            rows.append(
                (name, name, label, "", f"{split}{number // 4}", f"{split}{number // 2}", power, split)
            )
    columns = ["image_id", "path", "label", "subtype", "case", "slide", "magnification", "split"]
    return Manifest(root, ("benign", "malignant"), pd.DataFrame(rows, columns=columns, dtype=str))


def make_run(runs: Path, manifest: Manifest, *, details: dict | None = None, **changes) -> RunFolder:
    """A run folder ready for a worker; `changes` as `RunConfig.changed` takes them."""
    config = RunConfig(
        data=DataConfig(root=str(manifest.root)),
        model=ModelConfig(name=TINY.name, pretrained="none", image_size=32),
        training=TrainingConfig(epochs=2, batch_size=4, device="cpu", precision="fp32"),
        details=details or {},
    ).changed(**changes)
    return create(runs, config, "tiny", manifest=manifest)


class LikeAGpu(Device):
    """The processor, treated as a GPU is."""

    @property
    def is_cuda(self) -> bool:
        return True


class StopAt(Reporter):
    """Asks for a stop at the n-th time that it is asked."""

    def __init__(self, folder: RunFolder, at: int):
        super().__init__(folder)
        self.left = at

    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left <= 0 or super().stop_requested()


def fit(folder: RunFolder, report: Reporter | None = None) -> str:
    """Train in this process, under the lock."""
    from engine.training.loop import train

    with folder.hold():
        report = report or Reporter(folder)
        report.begin(0)
        return train(folder, report)


def start_loaders_as_beside_a_gpu() -> None:
    """Loader processes of this process come from a server, whatever the device is."""
    import torch

    from engine.training import loading

    real = loading.start_method
    loading.start_method = lambda _: real(Device(torch.device("cuda")))


def outcome(folder: RunFolder) -> dict:
    """Everything of a run that must not depend on how often it was interrupted."""
    from engine import files

    metrics = folder.metrics()[["epoch", "split", "loss", "accuracy", "balanced_accuracy", "auroc", "lr"]]
    return {
        "weights": files.sha256(folder.best),
        "metrics": metrics.to_csv(index=False),
        "val": folder.predictions_file("val").read_bytes(),
        "test": folder.predictions_file("test").read_bytes(),
    }


if __name__ == "__main__":
    register()
    if "server" in sys.argv[2:]:
        start_loaders_as_beside_a_gpu()
    from engine.runs import worker

    sys.exit(worker.work(Path(sys.argv[1])))
