"""Many models on many images: the study's montage as data, and one patient's images as a strip. No torch.

Cells are sorted so that what deserves a look comes first: images on which the models disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engine.data.manifest import order_magnifications
from engine.errors import EngineError, ExplainError
from engine.explain import methods
from engine.explain.ensemble_map import overlap_matrix
from engine.explain.overlay import TOP_SHARE
from engine.explain.runs import Loader, Map, explain_files
from engine.runs.folder import RunFolder


@dataclass(frozen=True, eq=False)
class Montage:
    """A grid of maps: a row per run, a column per image.

    Attributes:
        runs: ids of the runs.
        sources: the image files.
        cells: cells[run][image]: a map, or the error that says why there is none.
        overlap: mean overlap (Dice) of the hottest parts over pairs of runs, per image, (images,); nan with
            fewer than two maps.
    """

    runs: tuple[str, ...]
    sources: tuple[Path, ...]
    cells: tuple[tuple[Map | EngineError, ...], ...]
    overlap: np.ndarray

    def probability(self, name: str) -> np.ndarray:
        """Probability of a class, (runs, images); nan where there is no map."""
        return np.array([[_probability(cell, name) for cell in row] for row in self.cells])

    def predicted(self) -> list[list[str]]:
        """Predicted class per run and image; empty where there is no map."""
        return [
            ["" if isinstance(cell, EngineError) else cell.predicted for cell in row] for row in self.cells
        ]

    @property
    def disagreement(self) -> np.ndarray:
        """Standard deviation over runs of the probability of the last class (malignant), (images,)."""
        return _spread(self.probability(self._last_class()))

    def order(self) -> list[int]:
        """Images by disagreement, greatest first; ties by least overlap; images without maps last."""
        doubt = np.nan_to_num(self.disagreement, nan=-1.0)
        overlap = np.nan_to_num(self.overlap, nan=1.0)
        return sorted(range(len(self.sources)), key=lambda k: (-round(float(doubt[k]), 9), overlap[k], k))

    def _last_class(self) -> str:
        cells = (cell for row in self.cells for cell in row)
        return next((cell.classes[-1] for cell in cells if not isinstance(cell, EngineError)), "")


def montage(
    folders: list[RunFolder],
    sources: list[Path],
    *,
    load: Loader | None = None,
    progress: Callable[[int, int], None] | None = None,
    **question,
) -> Montage:
    """Maps of every image by every run. One run after another, so that one network is in memory at a time.

    Args:
        load: see `runs.explain_file`.
        progress: called with (maps done, maps in all).
        question: method, target, layer, device, batch_size.

    Raises:
        ExplainError: nothing to show, or an unknown method. What is wrong for one run only (no weights, no
            such layer or class) stands in its cells.
    """
    if not folders or not sources:
        raise ExplainError("There is nothing to show", remedy="Choose at least one run and one image")
    methods.find_method(question.get("method", methods.DEFAULT_METHOD))
    cells = []
    for position, folder in enumerate(folders):
        row = []
        for done, (_, found) in enumerate(_row(folder, sources, load, question), start=1):
            row.append(found)
            if progress:
                progress(position * len(sources) + done, len(folders) * len(sources))
        cells.append(tuple(row))
    overlap = np.array([_overlap([row[k] for row in cells]) for k in range(len(sources))])
    return Montage(tuple(folder.id for folder in folders), tuple(sources), tuple(cells), overlap)


def _row(folder: RunFolder, sources: list[Path], load: Loader | None, question: dict):
    """A run's maps; a run that cannot be explained at all (no weights) gives its error in each cell."""
    made = explain_files(folder, sources, load=load, **question)
    try:
        first = next(made)
    except EngineError as error:
        yield from ((source, error) for source in sources)
        return
    yield first
    yield from made


def _probability(cell: Map | EngineError, name: str) -> float:
    if isinstance(cell, EngineError) or name not in cell.classes:
        return float("nan")
    return float(cell.probabilities[cell.classes.index(name)])


def _spread(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    count = known.sum(axis=0)
    safe = np.maximum(count, 1)
    mean = np.where(known, values, 0).sum(axis=0) / safe
    square = (np.where(known, values - mean, 0) ** 2).sum(axis=0) / safe
    return np.where(count > 0, np.sqrt(square), np.nan)


def _overlap(column: list[Map | EngineError]) -> float:
    heats = [cell.heat for cell in column if not isinstance(cell, EngineError)]
    if len(heats) < 2:
        return float("nan")
    pairs = overlap_matrix(heats, TOP_SHARE)[np.triu_indices(len(heats), 1)]
    return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan")


def patient_strip(table: pd.DataFrame, case: str, per_group: int = 3) -> pd.DataFrame:
    """One case's images across slides and magnifications: a row per image, at most `per_group` of each.

    Args:
        table: a manifest or predictions table (image_id, case, slide, magnification, ...).
        per_group: images per slide and magnification, spread evenly over their numbers.

    Raises:
        ExplainError: no image of this case.
    """
    own = table[table["case"] == case]
    if own.empty:
        raise ExplainError(
            "No image belongs to this case",
            found=case or "an empty case",
            remedy="Choose a case of the run's own data",
        )
    powers = {name: k for k, name in enumerate(order_magnifications(own["magnification"].unique()))}
    rank = own["magnification"].map(powers).fillna(len(powers))
    ordered = own.assign(_power=rank).sort_values(["slide", "_power", "image_id"], kind="stable")
    picked = [
        group.iloc[np.unique(np.linspace(0, len(group) - 1, min(per_group, len(group))).round().astype(int))]
        for _, group in ordered.groupby(["slide", "_power"], sort=False)
    ]
    return pd.concat(picked).drop(columns="_power").reset_index(drop=True)
