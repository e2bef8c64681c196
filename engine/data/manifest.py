"""The manifest: any data set as one table, one row per image.

Columns, in this order: `image_id` (unique; the file name with its ending for BreakHis), `path` (relative
to `Manifest.root`, forward slashes), `label` (class name), `subtype`, `case` (= patient), `slide`,
`magnification` (`40X` ... or empty) and, once split, `split` (`train`, `val`, `test`). All are text; what
is unknown is the empty string, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from engine.errors import DataError, shorten

COLUMNS = ("image_id", "path", "label", "subtype", "case", "slide", "magnification")
SPLITS = ("train", "val", "test")
MAGNIFICATIONS = ("40X", "100X", "200X", "400X")
CLASSES = ("benign", "malignant")
SUBTYPE_CLASSES = ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC")  # benign ones first


@dataclass(frozen=True)
class Manifest:
    """A data set: its root folder, its classes in label order, and its table (see module docstring)."""

    root: Path
    classes: tuple[str, ...]
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    @property
    def magnifications(self) -> tuple[str, ...]:
        """The magnifications present, in increasing order; empty where the data set has none."""
        return order_magnifications(self.table["magnification"].unique())

    def with_table(self, table: pd.DataFrame) -> Manifest:
        return replace(self, table=table.reset_index(drop=True))

    def only(self, magnifications: tuple[str, ...] | list[str]) -> Manifest:
        """The images of these magnifications.

        Raises:
            DataError: none of them is in the data set.
        """
        if not magnifications:
            return self
        kept = self.table[self.table["magnification"].isin(list(magnifications))]
        if kept.empty:
            raise DataError(
                f"No image has magnification {', '.join(magnifications)}",
                found=", ".join(self.magnifications) or "images without a magnification",
                remedy="Choose one of the magnifications that are there",
            )
        return self.with_table(kept)

    def absolute(self, path: str) -> Path:
        """Where an image lies on this machine."""
        return self.root / path


def order_magnifications(values) -> tuple[str, ...]:
    """`40X, 100X, 200X, 400X`: by power, not by alphabet; empty values dropped."""

    def power(text: str) -> tuple[float, str]:
        digits = text.rstrip("xX")
        return (float(digits), text) if digits.replace(".", "", 1).isdigit() else (float("inf"), text)

    return tuple(sorted({str(value) for value in values if value}, key=power))


def class_order(labels) -> tuple[str, ...]:
    """Label order: benign before malignant (the positive class), subtypes benign first, others by name."""
    present = {str(label) for label in labels if label}
    if present and present <= set(CLASSES):
        return CLASSES
    if present and present <= set(SUBTYPE_CLASSES):
        return tuple(name for name in SUBTYPE_CLASSES if name in present)
    return tuple(sorted(present))


def write_manifest(manifest: Manifest, target: Path, *, absolute: bool = False) -> None:
    """Write the table as CSV. `absolute` writes absolute paths, for a file that leaves its data root."""
    table = manifest.table
    if absolute:
        table = table.assign(path=[str((manifest.root / path).resolve()) for path in table["path"]])
    table.to_csv(target, index=False)


def read_manifest(source: Path, root: Path | None = None) -> Manifest:
    """Read a manifest that `write_manifest` wrote.

    Args:
        source: the CSV.
        root: the data root that relative paths start from; the CSV's own folder unless given.

    Raises:
        DataError: the file cannot be read, lacks `image_id` or `label`, or repeats an image_id.
    """
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"The manifest {Path(source).name} cannot be read",
            found=str(error),
            remedy="Give a CSV written by `python -m engine split`",
        ) from error
    missing = [name for name in ("image_id", "label") if name not in table.columns]
    if missing:
        raise DataError(
            f"The manifest {Path(source).name} lacks the column {' and '.join(missing)}",
            found=", ".join(map(str, table.columns)) or "no columns",
            remedy=f"A manifest has the columns {', '.join(COLUMNS)} and, once split, split",
        )
    repeated = table.loc[table["image_id"].duplicated(), "image_id"].unique().tolist()
    if repeated:
        raise DataError(
            "Some image_ids stand in more than one row",
            found=shorten(repeated),
            remedy="Give every image one row and one name",
        )
    for name in COLUMNS:
        if name not in table.columns:
            table[name] = ""
    ordered = [*COLUMNS, *[name for name in table.columns if name not in COLUMNS]]
    return Manifest(Path(root or Path(source).parent), class_order(table["label"]), table[ordered])
