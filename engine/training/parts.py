"""The rows of each split that a run trains and is judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.data.manifest import SPLITS, Manifest
from engine.errors import SplitError


@dataclass(frozen=True)
class Part:
    """The rows of one split: positions in the manifest, and class indices."""

    rows: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def parts_of(manifest: Manifest, used: np.ndarray | None = None) -> dict[str, Part]:
    """Rows and class indices per split.

    Args:
        used: which rows count, bool; all of them unless given.

    Raises:
        SplitError: no split, or train or validation lacks a class.
    """
    table = manifest.table
    if "split" not in table.columns:
        raise SplitError("The manifest has no split", remedy="Write it with `python -m engine split`")
    index = {name: at for at, name in enumerate(manifest.classes)}
    found = {}
    for name in SPLITS:
        here = (table["split"] == name).to_numpy()
        rows = np.flatnonzero(here if used is None else here & used)
        targets = np.array([index.get(label, -1) for label in table["label"].iloc[rows]], dtype=np.int64)
        found[name] = Part(rows[targets >= 0], targets[targets >= 0])
    for name in ("train", "val"):
        absent = [label for label, at in index.items() if not (found[name].targets == at).any()]
        if absent:
            raise SplitError(
                f"The {name} part has no image of class {' and '.join(absent)}",
                found=f"{len(found[name])} images in {name}",
                remedy="Choose another fold or protocol, or more magnifications",
            )
    return found
