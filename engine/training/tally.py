"""What the steps of an epoch add up to, read from the device now and then instead of at every step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from engine.analysis import metrics
from engine.training import failures
from engine.training.distributed import Group

SETTLE_EVERY = 16
"""A GPU runs ahead of the program; reading a loss makes it wait, so that is done every so many steps."""


@dataclass
class Tally:
    """What an epoch's training steps add up to; part of the checkpoint."""

    matrix: np.ndarray
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    @classmethod
    def of(cls, classes: int) -> Tally:
        """Nothing yet; `matrix` counts (classes, classes), rows true, columns predicted."""
        return cls(np.zeros((classes, classes), dtype=np.int64))

    def to_state(self) -> dict:
        state = {"loss": self.loss, "images": self.images, "seconds": self.seconds, "waiting": self.waiting}
        return {**state, "matrix": self.matrix.tolist()}

    @classmethod
    def from_state(cls, state: dict) -> Tally:
        return cls(**{**state, "matrix": np.array(state["matrix"], dtype=np.int64)})

    def row(self) -> dict[str, float]:
        """The epoch's numbers as `metrics.jsonl` has them."""
        return {
            "loss": self.loss / self.images,
            "accuracy": float(metrics.accuracy(self.matrix)),
            "balanced_accuracy": float(metrics.balanced_accuracy(self.matrix)),
            "seconds": round(self.seconds, 3),
            "images_per_s": round(self.images / max(self.seconds, 1e-9), 2),
            "wait_share": round(self.waiting / max(self.seconds, 1e-9), 4),
        }


@dataclass
class Unread:
    """Losses and outputs that are still on the device, in the order of their batches."""

    steps: list[int] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    targets: list[torch.Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        """Images not read yet."""
        return sum(len(targets) for targets in self.targets)

    def add(self, step: int, loss: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """A batch of the `step`-th step (from 1): its loss (scalar), logits (n, classes) and class indices (n,)."""
        self.steps.append(step)
        self.losses.append(loss.detach())
        self.outputs.append(outputs.detach())
        self.targets.append(targets)

    def read_into(self, tally: Tally, epoch: int, group: Group) -> None:
        """Add all of it to the tally; of several processes each does so after the same step.

        Raises:
            TrainingError: a loss is no number; the tally is as before.
        """
        losses = torch.stack(self.losses).tolist() if self.losses else []
        finite = np.isfinite(losses)
        (broken,) = group.any(not finite.all())
        if broken:
            raise failures.not_a_number(epoch, self.steps[int(np.argmin(finite))])
        if not losses:
            return
        classes = len(tally.matrix)
        cells = torch.cat(self.targets) * classes + torch.cat(self.outputs).argmax(1)
        counts = np.bincount(cells.cpu().numpy(), minlength=classes**2)
        tally.matrix += counts.reshape(classes, classes)
        for loss in losses:
            tally.loss += loss  # one by one: the sum does not depend on when it is read
        for part in (self.steps, self.losses, self.outputs, self.targets):
            part.clear()
