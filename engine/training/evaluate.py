"""Predictions: logits of images, as the table that every page and every score reads.

One function, `logits`, serves validation during training, the predictions of a finished run, `predict` on
files from anywhere and the probe of an estimate: the same pixels, the same network, the same averaging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from engine.analysis import metrics
from engine.analysis.predictions import confusion, softmax
from engine.errors import PredictionsError
from engine.progress import Progress
from engine.training.models import LoadedModel

GROUPS = ("image_id", "case", "slide", "magnification", "subtype", "label")
# Pixels per pass on a CPU: eight squares of 224, larger passes fall out of its cache. Images a second of B0 on
# two cores (bf16) in passes of 2, 4, 8, 16, 32: 94, 175, 198, 145, 125. A GPU wants them large.
CPU_PIXELS = 8 * 224 * 224


def logits(
    loaded: LoadedModel,
    fetch: Callable[[int], np.ndarray],
    rows: Sequence[int],
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> np.ndarray:
    """Logits of images.

    Tiles and, with `loaded.tta`, flips of an image are averaged as logits.

    Args:
        fetch: row -> prepared pixels (uint8, height x width x 3), as the packed cache holds them.
        rows: which images.
        batch_size: most squares per pass; a CPU takes fewer where fewer are faster.
        progress: called with (images done, images in all).

    Returns:
        float64 (images, outputs of the network).
    """
    if not loaded.device.is_cuda:
        batch_size = min(batch_size, max(1, CPU_PIXELS // loaded.image_size**2))
    sums: np.ndarray | None = None
    views = np.zeros(len(rows), dtype=np.int64)
    waiting: list[np.ndarray] = []
    owners: list[int] = []
    launched: list[tuple[list[int], torch.Tensor]] = []

    def read() -> None:
        """Add up what the pass before has found: a GPU is given the next one first, and works on it meanwhile."""
        nonlocal sums
        while launched:
            owner, result = launched.pop()
            values = result.cpu().numpy().astype(np.float64)
            sums = np.zeros((len(rows), values.shape[1])) if sums is None else sums
            np.add.at(sums, owner, values)
            np.add.at(views, owner, 1)
            if progress:
                progress(owner[-1] + 1, len(rows))

    def flush(keep: int) -> None:
        while len(waiting) > keep:
            part, owner = waiting[:batch_size], owners[:batch_size]
            del waiting[:batch_size], owners[:batch_size]
            result = _forward(loaded, np.stack(part))
            read()
            launched.append((owner, result))
            if not loaded.device.is_cuda:
                read()

    for position, row in enumerate(rows):
        parts = loaded.preprocessing.views(fetch(row))
        waiting.extend(parts)
        owners.extend([position] * len(parts))
        flush(batch_size - 1)
    flush(0)
    read()
    if sums is None:
        return np.zeros((0, len(loaded.classes)))
    return sums / views[:, None]


@torch.inference_mode()
def _forward(loaded: LoadedModel, images: np.ndarray) -> torch.Tensor:
    """Logits (squares, classes), on the device; on a GPU they are only launched."""
    given = torch.from_numpy(images)
    if loaded.device.is_cuda:
        given = given.pin_memory()  # copied from other memory the program would wait for the pass before
    pixels = loaded.normalise(given)
    flips: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3)) if loaded.tta else ((),)
    total = None
    for axes in flips:
        with loaded.device.forward_context():
            result = loaded.model(pixels.flip(axes) if axes else pixels).float()
        total = result if total is None else total + result
    assert total is not None
    return total / len(flips)


def scores(values: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """What a row of `metrics.jsonl` says of logits (images, classes): loss, accuracy, balanced accuracy, AUROC."""
    probs = softmax(values)
    matrix = confusion(targets, probs.argmax(1), probs.shape[1])
    chosen = np.clip(probs[np.arange(len(targets)), targets], 1e-12, 1.0)
    return {
        "loss": float(-np.log(chosen).mean()),
        "accuracy": float(metrics.accuracy(matrix)),
        "balanced_accuracy": float(metrics.balanced_accuracy(matrix)),
        "auroc": float(metrics.auroc(targets, probs)),
    }


def predictions_table(rows: pd.DataFrame, values: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """The table of predictions (see engine.analysis.predictions) from manifest rows and their logits.

    Raises:
        PredictionsError: a logit is not a number.
    """
    if not np.isfinite(values).all():
        bad = rows["image_id"].to_numpy()[~np.isfinite(values).all(axis=1)]
        raise PredictionsError(
            "The network's output is not a number for some images",
            found=f"{len(bad)} images, for example {bad[0]}",
            remedy="Train again with a lower learning rate, or with --precision fp32",
        )
    table = rows[list(GROUPS)].reset_index(drop=True)
    probs = softmax(values)
    numbers = {f"prob_{name}": probs[:, at] for at, name in enumerate(classes)}
    numbers |= {f"logit_{name}": values[:, at] for at, name in enumerate(classes)}
    return table.assign(**numbers)
