"""Minutes and memory before a launch, from what finished runs of this installation took. Pure.

Nothing is guessed from tables: where no run of the model has finished here, the answer is that it is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from engine.runs import catalog, presets
from engine.runs.config import RunConfig


@dataclass(frozen=True)
class Past:
    """What a finished run took: per epoch (medians), outside of epochs, and at most of memory."""

    name: str
    config: RunConfig
    train_images: int
    val_images: int
    train_s: float
    val_s: float
    rest_s: float
    memory_mb: float


@dataclass(frozen=True)
class Forecast:
    """Seconds and MB of one run, and the run it was scaled from; nan and empty where it is not known."""

    seconds: float
    memory_mb: float
    source: str


UNKNOWN = Forecast(float("nan"), float("nan"), "")


def past(
    name: str, config: RunConfig, metrics: pd.DataFrame, sides: pd.Series, total_s: float, memory_mb: float
) -> Past | None:
    """The record of a finished run, or None where its metrics do not say how long an epoch took."""
    if metrics.empty or "seconds" not in metrics:
        return None
    seconds = metrics.dropna(subset=["seconds"]).groupby("split")["seconds"]
    medians, sums = seconds.median(), seconds.sum()
    if "train" not in medians.index:
        return None
    rest = max(total_s - float(sums.sum()), 0.0)
    counts = sides.value_counts()
    return Past(
        name, config, int(counts.get("train", 0)), int(counts.get("val", 0)),
        float(medians["train"]), float(medians.get("val", 0.0)), rest, memory_mb,
    )  # fmt: skip


def forecast(config: RunConfig, train_images: int, val_images: int, known: Sequence[Past]) -> Forecast:
    """Scale the most alike finished run by images, epochs and pixels.

    Only runs of the same model, recipe, geometry and device count; among those the nearest image size. Time is
    taken to grow with images and with the square of the side, memory with the batch and the square of the side
    (an upper bound, since part of it is constant).
    """
    alike = [
        record
        for record in known
        if record.config.model.name == config.model.name
        and record.config.model.geometry == config.model.geometry
        and record.config.training.recipe == config.training.recipe
        and record.config.training.device == config.training.device
        and record.train_images
    ]
    if not alike:
        return UNKNOWN
    side = _side(config)
    record = min(alike, key=lambda item: abs(_side(item.config) - side))
    pixels = (side / _side(record.config)) ** 2
    try:
        recipe, before = presets.resolve(config), presets.resolve(record.config)
    except Exception:
        return UNKNOWN
    per_epoch = record.train_s * train_images / record.train_images
    if record.val_images:
        per_epoch += record.val_s * val_images / record.val_images
    seconds = (per_epoch * recipe.epochs + record.rest_s) * pixels
    memory = record.memory_mb * max(1.0, pixels * recipe.batch_size / max(before.batch_size, 1))
    return Forecast(seconds, memory or float("nan"), record.name)


def _side(config: RunConfig) -> int:
    record = catalog.BY_NAME.get(config.model.name)
    return config.model.image_size or (record.image_size if record else 224)
