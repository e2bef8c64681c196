"""What is told about images besides their pixels: case and label, by their names, a CSV, or their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from engine.data.breakhis import parse_name
from engine.data.files import printable
from engine.errors import DataError, shorten

COLUMNS = ("case", "slide", "magnification", "subtype", "label")
_NAMES = ("image", "image_id", "file", "filename", "file_name", "path", "name")
_CASES = ("case", "case_id", "patient", "patient_id")
_LABELS = ("label", "class", "diagnosis", "truth")


@dataclass(frozen=True)
class Told:
    """A CSV read: file name (or path) -> case, and -> label, where it has them."""

    cases: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def of(self, path: Path) -> tuple[str, str]:
        """(case, label) of an image: by its longest matching path, then by its name; empty where not told."""
        parts = PurePosixPath(path.as_posix()).parts
        keys = ["/".join(parts[start:]).lstrip("/") for start in range(len(parts))]
        return (
            next((self.cases[key] for key in keys if key in self.cases), ""),
            next((self.labels[key] for key in keys if key in self.labels), ""),
        )


def read_told(source: Path) -> Told:
    """A CSV with a column of file names and one of cases, labels or both.

    Raises:
        DataError: unreadable, or without these columns, or one image with two cases.
    """
    name = printable(Path(source).name)
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name} cannot be read as CSV",
            found=str(error)[:200],
            remedy="Save it as CSV in UTF-8",
            kind="csv",
        ) from error
    table.columns = pd.Index([str(column).strip().lower() for column in table.columns])
    image, case, label = (
        next((column for column in names if column in table.columns), "")
        for names in (_NAMES, _CASES, _LABELS)
    )
    if not image or not (case or label):
        raise DataError(
            f"{name} does not say which image is of which case",
            found=", ".join(table.columns)[:200] or "no columns",
            remedy="Give the columns image (file names) and case; label, if the truth is known",
            kind="columns",
        )
    keys = [text.strip().replace("\\", "/").lstrip("/").removeprefix("./") for text in table[image]]
    told = []
    for column in (case, label):
        values = [text.strip() for text in table[column]] if column else [""] * len(keys)
        found: dict[str, str] = {}
        for key, value in zip(keys, values, strict=True):
            if value and found.setdefault(key, value) != value:
                raise DataError(
                    f"{name} tells two things of one image",
                    found=f"{printable(key)}: {column} {printable(found[key])} and {printable(value)}",
                    remedy="Keep one row per image",
                    kind="csv",
                )
        told.append(found)
    return Told(*told)


def describe(paths: Sequence[Path], classes: Sequence[str], told: Told | None = None) -> pd.DataFrame:
    """`image_id, case, slide, magnification, subtype, label` of images; empty where nothing tells it.

    The CSV goes before the name, the name before the folder: an image in a folder called like a class of the
    model (`benign/...`) has that label. Files of one name are told apart by the end of their paths.
    """
    known = {name.lower(): name for name in classes}
    rows = []
    for path in paths:
        name = parse_name(path.name)
        row = dict.fromkeys(COLUMNS, "")
        if name is not None:
            row = {column: str(getattr(name, column)) for column in COLUMNS}
        else:
            folders = [part.lower() for part in path.parts[:-1]]
            row["label"] = next((known[part] for part in reversed(folders) if part in known), "")
        case, label = told.of(path) if told else ("", "")
        row["case"] = case or row["case"]
        row["label"] = (known.get(label.lower(), label) if label else "") or row["label"]
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.insert(0, "image_id", image_ids(paths))
    strange = sorted(set(table["label"]) - {"", *classes})
    if told and told.labels and strange and not set(told.labels.values()) & set(classes):
        raise DataError(
            "The labels of the CSV are not classes of this model",
            found=shorten([printable(one) for one in strange]),
            remedy=f"Call them {' and '.join(classes)}",
        )
    return table


def image_ids(paths: Sequence[Path]) -> list[str]:
    """File names; where some are not unique, paths below the folder that all have in common."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [path.absolute().parts for path in paths]
    common = 0
    while all(len(parts) > common + 1 and parts[common] == whole[0][common] for parts in whole):
        common += 1
    return ["/".join(parts[common:]) for parts in whole]
