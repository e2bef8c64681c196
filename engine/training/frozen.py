"""The frozen stage on cached features.

Where the backbone is frozen its output for an image never changes, so the features of K augmented views per
image are computed once, and the head trains on those. The head is linear, so the mean logit over tiles and
flips is the logit of the mean feature: validation needs one pass, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from engine.training import models
from engine.training.evaluate import logits
from engine.training.loading import Batch, Loader, batches
from engine.training.models import LoadedModel

GATHERED = 64
"""Batches of an epoch that are put in order together: what they take is little beside the features themselves."""


class Backbone(nn.Module):
    """A network without its last layer: pixels to pooled features."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return models.features(self.model, pixels)


@dataclass(frozen=True)
class CachedFeatures:
    """Features of the training views (views, images, features) and of the validation images."""

    train: torch.Tensor
    targets: torch.Tensor
    val: torch.Tensor

    def serve(self, wanted: list[Batch]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """As `Loader.serve`, with features for pixels, of batches of one epoch: epoch e sees view e mod views."""
        if not wanted:
            return
        rows = torch.tensor([row for batch in wanted for row in batch.rows]).to(self.targets.device)
        sizes = [len(batch.rows) for batch in wanted]
        view = self.train[wanted[0].epoch % len(self.train)]
        start = 0
        # Many batches are gathered at once: a step on features is shorter than launching a gather for it.
        for first in range(0, len(wanted), GATHERED):
            part = sizes[first : first + GATHERED]
            mine = rows[start : start + sum(part)]
            yield from zip(view[mine].split(part), self.targets[mine].split(part), strict=True)
            start += sum(part)


def compute(
    loaded: LoadedModel,
    loader: Loader,
    fetch: Callable[[int], np.ndarray],
    val_rows: np.ndarray,
    views: int,
    batch_size: int,
    progress: Callable[[int], None],
) -> CachedFeatures:
    """Run the frozen backbone once over the training views and the validation images.

    Args:
        progress: called with the number of images just done.
    """
    eye = replace(loaded, model=Backbone(loaded.model).eval())
    everything = np.arange(len(loader.images))
    train = [
        torch.cat(list(_view(eye, loader, batches(everything, view, batch_size), progress)))
        for view in range(views)
    ]
    done = 0

    def count(position: int, _: int) -> None:
        nonlocal done
        progress(position - done)
        done = position

    val = logits(eye, fetch, val_rows.tolist(), batch_size=batch_size, progress=count)
    device = loaded.device.torch
    targets = torch.from_numpy(loader.images.targets).to(device)
    return CachedFeatures(torch.stack(train), targets, torch.from_numpy(val).float().to(device))


@torch.inference_mode()
def _view(
    eye: LoadedModel, loader: Loader, wanted: list[Batch], progress: Callable[[int], None]
) -> Iterator[torch.Tensor]:
    for images, _ in loader.serve(wanted):
        with eye.device.forward_context():
            yield eye.model(eye.normalise(images)).float()
        progress(len(images))
