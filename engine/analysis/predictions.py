"""The table of predictions: one row per image, made by a run, an ensemble or any other tool.

Columns: `image_id, case, slide, magnification, subtype, label` (text, empty where unknown), then
`prob_<class>` (sums to 1 over the classes) and `logit_<class>` per class in label order; optionally `fold`
and `split`. Classes, probabilities and labels are always read from the table itself, so that a run of any
number of classes is scored by the same code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from engine.data.manifest import class_order, order_magnifications
from engine.errors import PredictionsError, shorten

GROUP_COLUMNS = ("case", "slide", "magnification", "subtype", "label")
CLIP = 1e-6


def classes_of(table: pd.DataFrame) -> tuple[str, ...]:
    """The classes a table has probabilities for, in label order (benign before malignant)."""
    present = [name.removeprefix("prob_") for name in table.columns if name.startswith("prob_")]
    return tuple(name for name in class_order(present) if name in present)


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """Probabilities, shape (images, classes), float64, columns in label order."""
    return np.column_stack([table[f"prob_{name}"].to_numpy(dtype=float) for name in classes_of(table)])


def logits(table: pd.DataFrame) -> np.ndarray:
    """Logits, shape (images, classes), float64, columns in label order."""
    return np.column_stack([table[f"logit_{name}"].to_numpy(dtype=float) for name in classes_of(table)])


def softmax(values: np.ndarray) -> np.ndarray:
    """Probabilities of logits (..., classes): the last axis sums to one."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def labels(table: pd.DataFrame) -> np.ndarray:
    """True class per image as an index into `classes_of(table)`; -1 where the label is unknown."""
    column = table["label"].astype(str)
    found = np.full(len(table), -1, dtype=np.int64)
    for position, name in enumerate(classes_of(table)):
        found[(column == name).to_numpy(dtype=bool)] = position
    return found


def predicted(table: pd.DataFrame, threshold: float | None = None) -> np.ndarray:
    """Predicted class per image as an index.

    Without a threshold, the class of greatest probability. With one (two classes only), the last class
    (malignant) where its probability reaches the threshold.
    """
    values = probabilities(table)
    if threshold is None:
        return values.argmax(axis=1)
    if values.shape[1] != 2:
        raise PredictionsError(
            "A threshold needs two classes",
            found=f"{values.shape[1]} classes: {', '.join(classes_of(table))}",
            remedy="Leave the threshold out: the class of greatest probability is taken",
        )
    return (values[:, 1] >= threshold).astype(np.int64)


def read_predictions(source: Path) -> pd.DataFrame:
    """Read and validate a stored table.

    Raises:
        PredictionsError: unreadable, or not a table of predictions (see `validate`).
    """
    return validate(read_table(source), Path(source).name)


def read_table(source: Path) -> pd.DataFrame:
    """A CSV as it is: names, groups and splits as text, no cell taken for a missing value.

    Raises:
        PredictionsError: it cannot be read.
    """
    try:
        return pd.read_csv(
            source,
            dtype=dict.fromkeys(("image_id", *GROUP_COLUMNS, "split"), str),
            keep_default_na=False,
            na_values={},
        )
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise PredictionsError(
            f"The predictions {Path(source).name} cannot be read",
            found=str(error).strip() or type(error).__name__,
            remedy="Give a CSV file with a header line",
        ) from error


def validate(table: pd.DataFrame, name: str = "predictions") -> pd.DataFrame:
    """The table with number columns as numbers, or an error that says what is wrong with it.

    Raises:
        PredictionsError: no image_id, fewer than two classes, an image twice (in one split and fold), or a
            probability that is missing, outside 0..1, or does not sum to one (within 0.01).
    """
    columns = list(map(str, table.columns))
    if "image_id" not in columns:
        raise PredictionsError(
            f"{name} has no column image_id",
            found=", ".join(columns) or "no columns",
            remedy="Give the columns image_id and prob_<class>, one row per image",
        )
    table = table.copy()
    for column in GROUP_COLUMNS:
        table[column] = table[column].fillna("").astype(str) if column in table.columns else ""
    classes = classes_of(table)
    if len(classes) < 2:
        raise PredictionsError(
            f"{name} needs probabilities of at least two classes",
            found=", ".join(columns),
            remedy="Give prob_benign and prob_malignant, or one prob_<class> column per class",
        )
    numbers = [
        f"{kind}_{label}" for kind in ("prob", "logit") for label in classes if f"{kind}_{label}" in columns
    ]
    for column in numbers:
        table[column] = pd.to_numeric(table[column], errors="coerce")
    values = probabilities(table)
    wrong = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1) | (values > 1).any(axis=1)
    wrong |= np.abs(values.sum(axis=1) - 1) > 0.01
    if wrong.any():
        ids = table.loc[wrong, "image_id"].astype(str).tolist()
        raise PredictionsError(
            f"{name} has probabilities that are missing, outside 0 to 1, or do not sum to one",
            found=f"{len(ids)} of {len(table)} rows, for example {shorten(ids)}",
            remedy="Correct or leave out these rows; probabilities of an image must sum to one",
        )
    key = ["image_id", *[column for column in ("split", "fold") if column in columns]]
    repeated = table.loc[table.duplicated(key), "image_id"].astype(str).tolist()
    if repeated:
        raise PredictionsError(
            f"{name} predicts some images more than once",
            found=shorten(repeated),
            remedy="Keep one row per image (and per split and fold where there are such columns)",
        )
    return with_logits(table)


def with_logits(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `logit_<class>` columns, made from the probabilities where there were none.

    Two classes: 0 and the log-odds of the second, so that softmax gives the probability back. More: the
    log-probabilities. Probabilities are clipped at 1e-6 first.
    """
    classes = classes_of(table)
    if all(f"logit_{name}" in table.columns for name in classes):
        return table
    values = np.log(np.clip(probabilities(table), CLIP, 1 - CLIP))
    if len(classes) == 2:
        clipped = np.clip(probabilities(table)[:, 1], CLIP, 1 - CLIP)
        values = np.column_stack([np.zeros(len(table)), np.log(clipped / (1 - clipped))])
    return table.assign(**{f"logit_{name}": values[:, position] for position, name in enumerate(classes)})


def confusion(true: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """Counts, shape (classes, classes): rows true, columns predicted. Unknown labels (-1) do not count."""
    known = true >= 0
    flat = np.bincount(true[known] * classes + guess[known], minlength=classes * classes)
    return flat.reshape(classes, classes)


def confusion_by_magnification(table: pd.DataFrame, threshold: float | None = None) -> dict[str, np.ndarray]:
    """`all` and each magnification present -> counts (classes, classes), rows true, columns predicted."""
    true, guess, size = labels(table), predicted(table, threshold), len(classes_of(table))
    matrices = {"all": confusion(true, guess, size)}
    power = table["magnification"].to_numpy()
    for name in order_magnifications(table["magnification"].unique()):
        matrices[name] = confusion(true[power == name], guess[power == name], size)
    return matrices
