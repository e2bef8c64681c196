"""Predictions of any other tool, read into our table: Keras, MATLAB, a colleague's model.

At least `image_id` and `prob_malignant` (or one `prob_<class>` column per class). What is missing of label,
subtype, case, slide and magnification comes from the BreakHis file name; `split` and `fold` are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from engine.analysis.predictions import GROUP_COLUMNS, classes_of, validate
from engine.data.breakhis import parse_name
from engine.data.manifest import CLASSES, SPLITS
from engine.errors import PredictionsError, shorten

SPLIT_WORDS = {
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "training": "train",
    "testing": "test",
    "": "test",
}


def read_foreign(sources: Sequence[Path], mapping: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read one or more CSVs of one model's predictions.

    Args:
        sources: the files; their rows are put together.
        mapping: their column names to ours (`{"y_prob": "prob_malignant"}`).

    Returns:
        A valid table of predictions with a `split` column (`test` where there was none).

    Raises:
        PredictionsError: unreadable, required columns missing, unknown split, no label to be had, or what
            `engine.analysis.predictions.validate` finds.
    """
    table = pd.concat([_read(Path(source)) for source in sources], ignore_index=True)
    table = table.rename(columns=dict(mapping or {}))
    table = _complete_binary(table)
    name = Path(sources[0]).name
    if "image_id" not in table.columns or len(classes_of(table)) < 2:
        raise PredictionsError(
            f"{name} lacks what an import needs",
            found=f"columns {', '.join(map(str, table.columns)) or 'none'}",
            remedy="Give image_id and prob_malignant, or image_id and one prob_<class> column per class",
        )
    table["image_id"] = [Path(str(text).replace("\\", "/")).name for text in table["image_id"]]
    table = _fill_from_names(table)
    table["split"] = _splits(table, name)
    _require_labels(table, name)
    return validate(table, name)


def _read(source: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(
            source,
            dtype=dict.fromkeys(("image_id", *GROUP_COLUMNS, "split"), str),
            keep_default_na=False,
            na_values={},
        )
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise PredictionsError(
            f"{source.name} cannot be read",
            found=str(error).strip() or type(error).__name__,
            remedy="Give a CSV file with a header line",
        ) from error
    if table.empty:
        raise PredictionsError(f"{source.name} has no rows", remedy="Give one row per image")
    return table


def _complete_binary(table: pd.DataFrame) -> pd.DataFrame:
    """Two classes need only one probability: the other is what is left to 1."""
    for given, other in (CLASSES, CLASSES[::-1]):
        if f"prob_{given}" in table.columns and classes_of(table) == (given,):
            known = pd.to_numeric(table[f"prob_{given}"], errors="coerce")
            return table.assign(**{f"prob_{given}": known, f"prob_{other}": 1 - known})
    return table


def _fill_from_names(table: pd.DataFrame) -> pd.DataFrame:
    parsed = [parse_name(text) for text in table["image_id"]]
    for column in GROUP_COLUMNS:
        own = table[column].fillna("").astype(str) if column in table.columns else [""] * len(table)
        table[column] = [
            value or (str(getattr(found, column)) if found else "")
            for value, found in zip(own, parsed, strict=True)
        ]
    if set(classes_of(table)) - set(
        CLASSES
    ):  # another task than benign or malignant: labels must be its classes
        unknown = set(table["label"]) - set(classes_of(table))
        if unknown and set(table["subtype"]) <= {*classes_of(table), ""}:
            table["label"] = table["subtype"]
    return table


def _splits(table: pd.DataFrame, name: str) -> list[str]:
    if "split" not in table.columns:
        return ["test"] * len(table)
    values = [
        SPLIT_WORDS.get(str(text).strip().lower(), str(text).strip().lower()) for text in table["split"]
    ]
    unknown = sorted(set(values) - set(SPLITS))
    if unknown:
        raise PredictionsError(
            f"{name} has splits that are not known",
            found=shorten(unknown),
            remedy="Use train, val and test, or leave the column out (then all of it is test)",
        )
    return values


def _require_labels(table: pd.DataFrame, name: str) -> None:
    unknown = table.loc[~table["label"].isin(classes_of(table)), "image_id"].tolist()
    if unknown:
        raise PredictionsError(
            f"{name} has images whose true class is not known",
            found=f"{len(unknown)} of {len(table)}, for example {shorten(unknown)}",
            remedy=f"Add a column label with {' or '.join(classes_of(table))}, or use BreakHis file names",
        )
