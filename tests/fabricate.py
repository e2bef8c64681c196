"""Run folders made without torch: what a worker would have left behind, from a seed.

Used by the page tests and for looking at the pages with many runs. Split and audit are the engine's own;
only the probabilities are drawn.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from engine.data import audit, splits
from engine.data.manifest import CLASSES, MAGNIFICATIONS, Manifest
from engine.runs import creation
from engine.runs import status as run_status
from engine.runs.config import RunConfig
from engine.runs.folder import RunFolder
from engine.runs.status import Status

SUBTYPES = {"benign": ("A", "F", "PT", "TA"), "malignant": ("DC", "LC", "MC", "PC")}
CASES_PER_CLASS = 10
IMAGES_PER_SLIDE = 3


def manifest(root: Path, cases: int = CASES_PER_CLASS, images: int = IMAGES_PER_SLIDE) -> Manifest:
    """A manifest in BreakHis' grammar; the image files themselves are not there."""
    rows = []
    for label in CLASSES:
        for index in range(cases):
            subtype = SUBTYPES[label][index % 4]
            case = f"14-{10000 + index * 7 + (5000 if label == 'malignant' else 0)}"
            slide = f"SOB_{label[0].upper()}_{subtype}-{case}"
            for magnification in MAGNIFICATIONS:
                for number in range(1, images + 1):
                    name = f"{slide}-{magnification[:-1]}-{number:03d}.png"
                    rows.append((name, f"{label}/{name}", label, subtype, case, slide, magnification))
    columns = ["image_id", "path", "label", "subtype", "case", "slide", "magnification"]
    return Manifest(root, CLASSES, pd.DataFrame(rows, columns=columns, dtype=str))


def write_images(root: Path, cases: int = 6, images: int = 2, size: tuple[int, int] = (48, 32)) -> Manifest:
    """A data set of small noise images in BreakHis' grammar, fast enough for every test that needs files."""
    from engine.data.images import encode_png

    made = manifest(root, cases, images)
    drawn = np.random.default_rng(0)
    for path in made.table["path"]:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_png(drawn.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)))
    return made


def predictions(table: pd.DataFrame, seed: int, skill: float = 1.6) -> pd.DataFrame:
    """Logits with a difficulty per case (as in the real data) and per image; `skill` moves the classes apart."""
    drawn = np.random.default_rng(seed)
    sign = np.where(table["label"] == "malignant", 1.0, -1.0)
    cases = sorted(table["case"].unique())
    difficulty = dict(zip(cases, np.random.default_rng(99).normal(0, 1.1, len(cases)), strict=True))
    margin = (
        sign * skill + table["case"].map(difficulty).to_numpy(dtype=float) + drawn.normal(0, 0.9, len(table))
    )
    probability = 1 / (1 + np.exp(-margin))
    columns = ["image_id", "case", "slide", "magnification", "subtype", "label"]
    return table[columns].assign(
        prob_benign=1 - probability,
        prob_malignant=probability,
        logit_benign=-margin / 2,
        logit_malignant=margin / 2,
    )


@functools.cache
def _divided(protocol: str, fold: int) -> tuple[Manifest, dict, str]:
    """The fabricated data set split by this protocol, its audit and its hash: the same for every root."""
    divided = splits.make_split(manifest(Path()), splits.SplitSpec(protocol=protocol, fold=fold))
    return divided, audit.audit(divided.table).as_record(), splits.split_hash(divided.table)


def run(
    runs: Path,
    *,
    name: str = "lite0 at 160",
    model: str = "tf_efficientnet_lite0",
    protocol: str = "case",
    fold: int = 0,
    state: str = run_status.COMPLETED,
    epochs: int = 6,
    seed: int = 0,
    skill: float = 1.6,
    data_root: Path | None = None,
    error: dict | None = None,
    age_s: float = 3600.0,
    experiment: str = "",
) -> RunFolder:
    """One run in any state. A failed one has its error; only completed and stopped ones have predictions."""
    root = data_root or Path(runs) / "data"
    table, found, split = _divided(protocol, fold)
    divided = Manifest(root, table.classes, table.table.copy())
    config = RunConfig(name=name, experiment=experiment).changed(
        data__root=str(root),
        data__protocol=protocol,
        data__fold=fold,
        model__name=model,
        model__pretrained="offline",
        model__image_size=160,
        training__epochs=epochs,
        training__recipe="quick",
        training__seed=seed,
    )
    folder = creation.create(
        Path(runs),
        config,
        model,
        manifest=divided,
        audit=copy.deepcopy(found),
        split_hash=split,
    )
    finished = state in (run_status.COMPLETED, run_status.STOPPED)
    done = (
        epochs if state == run_status.COMPLETED else 0 if state == run_status.QUEUED else max(1, epochs // 2)
    )
    best = _write_metrics(folder, done, seed, skill)
    if finished:
        for side in ("val", "test"):
            folder.write_predictions(
                side, predictions(divided.table[divided.table["split"] == side], seed, skill)
            )
    (folder.path / "log.txt").write_text(
        "".join(f"epoch {epoch} of {epochs}\n" for epoch in range(1, done + 1)), encoding="utf-8"
    )
    now = time.time()
    status = Status().moved(run_status.QUEUED)
    if state != run_status.QUEUED:
        status = status.moved(run_status.RUNNING, started_at=now - age_s)
    if state not in (run_status.QUEUED, run_status.RUNNING):
        status = status.moved(state, ended_at=now - age_s + 30.0 * done)
    if state == run_status.FAILED and error is None:
        error = {
            "kind": "out_of_memory",
            "message": "The device ran out of memory. Found: 11.8 of 12.0 GB in use.",
            "remedy": "Halve the batch size and double the gradient accumulation",
        }
    folder.write_status(
        replace(
            status,
            epoch=done,
            epochs=epochs,
            progress=done / epochs,
            best=best,
            error=error,
            phase="" if finished else "Training",
            eta_s=95.0 if state == run_status.RUNNING else None,
            numbers={"images_per_s": 31.4, "memory_mb": 812, "lr": 1e-3} if done else {},
        )
    )
    return folder


def _write_metrics(folder: RunFolder, epochs: int, seed: int, skill: float) -> dict | None:
    drawn = np.random.default_rng(seed)
    best = None
    for epoch in range(1, epochs + 1):
        gain = 1 - np.exp(-epoch / 2)
        for side, penalty in (("train", 0.0), ("val", 0.08)):
            score = float(
                np.clip(0.5 + (0.28 + 0.06 * skill) * gain - penalty + drawn.normal(0, 0.012), 0, 1)
            )
            folder.append_metrics(
                {
                    "epoch": epoch,
                    "split": side,
                    "loss": float(0.7 * np.exp(-epoch / 4) + penalty + drawn.normal(0, 0.01) + 0.05),
                    "accuracy": score,
                    "balanced_accuracy": score - 0.01,
                    "lr": 1e-3 * (1 - (epoch - 1) / max(epochs, 1)),
                    "seconds": 21.5,
                }
            )
            if side == "val" and (best is None or score - 0.01 > best["value"]):
                best = {"metric": "balanced_accuracy", "value": score - 0.01, "epoch": epoch}
    return best


@contextlib.contextmanager
def running(runs: Path, **values) -> Iterator[RunFolder]:
    """A run whose lock is held, as while its worker lives."""
    folder = run(runs, state=run_status.RUNNING, **values)
    with folder.hold():
        yield folder
