"""Entries on the images they have in common, in one order; the page and the report say what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.analysis.predictions import GROUP_COLUMNS, classes_of
from engine.errors import PredictionsError, shorten


@dataclass(frozen=True, eq=False)
class Aligned:
    """Tables of the same images in the same order.

    dropped: per id, how many of its images another entry lacks. note: one sentence, empty if none dropped.
    """

    tables: dict[str, pd.DataFrame]
    classes: tuple[str, ...]
    dropped: dict[str, int]
    note: str

    @property
    def ids(self) -> list[str]:
        return list(self.tables)

    @property
    def frame(self) -> pd.DataFrame:
        """image_id and the group columns, as all entries share them."""
        first = next(iter(self.tables.values()))
        return first[["image_id", *GROUP_COLUMNS, *[c for c in ("fold",) if c in first.columns]]]

    def __len__(self) -> int:
        return len(next(iter(self.tables.values())))


def align(tables: Mapping[str, pd.DataFrame]) -> Aligned:
    """Reduce tables to their common images; what one entry does not know (case, ...) comes from the others.

    Raises:
        PredictionsError: no table, different classes, images predicted twice, no common image, or labels
            that contradict each other.
    """
    if not tables:
        raise PredictionsError("There is nothing to compare", remedy="Choose at least one entry")
    classes = _same_classes(tables)
    keys = _keys(tables)
    rows = _common_rows(keys)
    common = len(next(iter(rows.values())))
    if not common:
        first, second = (*tables, *tables)[:2]  # a single empty table has no image either
        raise PredictionsError(
            "The entries have no image in common",
            found=f"for example {_example(tables[first])} in {first} and {_example(tables[second])} in {second}",
            remedy="Compare entries that were tested on the same images (same protocol, fold and split)",
        )
    picked = {name: table.iloc[rows[name]].reset_index(drop=True) for name, table in tables.items()}
    dropped = {name: len(table) - common for name, table in tables.items()}
    shared = _shared_groups(picked)
    picked = {name: frame.assign(**shared) for name, frame in picked.items()}
    return Aligned(picked, classes, dropped, _note(dropped, common))


def _common_rows(keys: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Row positions of the common keys, in the order of the first entry."""
    first = next(iter(keys.values()))
    if all(np.array_equal(first, own) for own in keys.values()):
        return dict.fromkeys(keys, np.arange(len(first)))
    places = {name: {key: row for row, key in enumerate(own)} for name, own in keys.items()}
    common = [key for key in first if all(key in place for place in places.values())]
    return {name: np.array([place[key] for key in common], dtype=int) for name, place in places.items()}


def _same_classes(tables: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    found = {name: classes_of(table) for name, table in tables.items()}
    if len(set(found.values())) > 1:
        raise PredictionsError(
            "The entries predict different classes",
            found="; ".join(f"{name}: {', '.join(classes)}" for name, classes in found.items()),
            remedy="Compare entries of one task",
        )
    return next(iter(found.values()))


def _keys(tables: Mapping[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """What identifies a row: image_id; with the fold where an image was tested in several folds."""
    repeated = [name for name, table in tables.items() if table["image_id"].duplicated().any()]
    if not repeated:
        return {name: table["image_id"].astype(str).to_numpy(dtype=object) for name, table in tables.items()}
    keys = {}
    for name, table in tables.items():
        folds = table["fold"].astype(str) if "fold" in table.columns else pd.Series("", index=table.index)
        both = table["image_id"].astype(str) + "\t" + folds
        keys[name] = both.to_numpy(dtype=object)
        if both.duplicated().any():
            ids = table.loc[both.duplicated(), "image_id"].astype(str).tolist()
            raise PredictionsError(
                f"{name} predicts some images more than once",
                found=shorten(ids),
                remedy="Choose one split (test) or one fold",
            )
    return keys


def _example(table: pd.DataFrame) -> str:
    return str(table["image_id"].iloc[0]) if len(table) else "no images"


def _shared_groups(picked: Mapping[str, pd.DataFrame]) -> dict:
    """Group columns filled from the first entry that knows them; labels must not contradict."""
    shared = {}
    for column in GROUP_COLUMNS:
        first = next(iter(picked.values()))[column].astype(str)
        if all(first.equals(frame[column].astype(str)) for frame in picked.values()):
            shared[column] = first.array
            continue
        values = np.full(len(next(iter(picked.values()))), "", dtype=object)
        for name, frame in picked.items():
            own = frame[column].astype(str).to_numpy(dtype=object)
            clash = (values != "") & (own != "") & (values != own)
            if column == "label" and clash.any():
                where = int(np.flatnonzero(clash)[0])
                raise PredictionsError(
                    f"The labels of {name} contradict those of the other entries",
                    found=f"{int(clash.sum())} images, for example {frame['image_id'].iloc[where]}: "
                    f"{own[where]} and {values[where]}",
                    remedy="Correct the label column, or leave it out: labels are then taken from the others",
                )
            values = np.where(values == "", own, values)
        shared[column] = values.astype(str)
    return shared


def _note(dropped: Mapping[str, int], common: int) -> str:
    losing = {name: count for name, count in dropped.items() if count}
    if not losing:
        return ""
    parts = shorten([f"{name} loses {count:,}" for name, count in losing.items()])
    return f"Only the {common:,} images that all entries predict are compared ({parts})"
