"""How much of a run is done, in forward passes of one image: what the progress bar and the ETA go by."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass

from engine.runs.presets import Recipe, Stage

TRAIN_COST = 3.0
"""A training step costs about three forward passes; only the shape of the progress bar depends on it."""
HEAD_COST = 0.01
"""A step of the head on cached features, likewise."""


@dataclass
class Work:
    """Forward passes of a run: all of them, and those that have been made."""

    total: float
    done: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, parts: Mapping[str, Sized], squares: int, epoch: int) -> Work:
        """The work of a run that stands at the beginning of an epoch.

        Args:
            parts: images of `train`, `val` and `test`.
            squares: the network sees of an image at evaluation, flips not counted.
            epoch: from 1.
        """
        train, val, test = (len(parts[name]) for name in ("train", "val", "test"))
        total, done, before = float((val + test) * squares * (4 if recipe.tta else 1)), 0.0, epoch - 1
        for stage in recipe.stages:
            once = float((stage.views * train + val) * squares) if stage.views else 0.0
            each = step_cost(stage) * train + (0.0 if stage.views else val * squares)
            total += once + each * stage.epochs
            done += each * min(before, stage.epochs) + (once if before >= stage.epochs else 0.0)
            before = max(0, before - stage.epochs)
        return cls(max(total, 1.0), done)

    @property
    def fraction(self) -> float:
        return min(self.done / self.total, 1.0)


def step_cost(stage: Stage) -> float:
    """Forward passes that training on one image costs."""
    return HEAD_COST if stage.views else TRAIN_COST
