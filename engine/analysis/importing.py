"""Predictions of any other tool, read into our table: Keras, MATLAB, a colleague's model.

At least `image_id` and `prob_malignant` (or one `prob_<class>` column per class), under these names or mapped
to them. What is missing of label, subtype, case, slide and magnification comes from the BreakHis file name;
`split` and `fold` are kept, so that out-of-fold predictions are a pooled cross-validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from engine.analysis.predictions import GROUP_COLUMNS, classes_of, read_table, validate
from engine.data.breakhis import parse_name
from engine.data.manifest import CLASSES, SPLITS
from engine.errors import PredictionsError, shorten

# ours -> what other tools call it, in lower case without punctuation
ALIASES = {
    "image_id": ("imageid", "image", "img", "file", "filename", "filepath", "path", "name", "id"),
    "label": ("label", "ytrue", "true", "truth", "target", "trueclass", "groundtruth", "actual"),
    "case": ("case", "patient", "patientid", "caseid"),
    "slide": ("slide", "slideid"),
    "magnification": ("magnification", "mag", "zoom"),
    "subtype": ("subtype", "tumortype", "tumourtype"),
    "split": ("split", "subset", "partition", "set"),
    "fold": ("fold", "cvfold", "k"),
    "prob_malignant": (
        "probmalignant", "pmalignant", "malignant", "malignantprob", "malignantprobability", "prob", "probability",
        "yprob", "ypred", "yscore", "score", "prediction", "p1", "prob1",
    ),
    "prob_benign": ("probbenign", "pbenign", "benign", "benignprob", "benignprobability", "p0", "prob0"),
}  # fmt: skip
# true classes as other tools write them, where the classes are benign and malignant
LABEL_WORDS = {
    "0": "benign",
    "1": "malignant",
    "0.0": "benign",
    "1.0": "malignant",
    "b": "benign",
    "m": "malignant",
}
SPLIT_WORDS = {
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "training": "train",
    "testing": "test",
    "": "test",
}


def columns_of(source: Path) -> list[str]:
    """The column names of a CSV.

    Raises:
        PredictionsError: it cannot be read, or has no rows.
    """
    return [str(name) for name in _read(source).columns]


def guess_mapping(columns: Sequence[str]) -> dict[str, str]:
    """Their column -> ours, for those whose name says what they are; one column per meaning, `prob_<class>` as it is."""
    found = {name: name for name in columns if name in ALIASES or name.startswith("prob_")}
    for ours, words in ALIASES.items():
        if ours in found.values():
            continue
        alike = [name for name in columns if name not in found and _bare(name) in words]
        if alike:
            found[min(alike, key=lambda name: words.index(_bare(name)))] = ours
    return found


def _bare(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())


def predict_the_same(sources: Sequence[Path], mapping: Mapping[str, str] | None = None) -> bool:
    """Whether the files predict the same images: then each is a model of its own, otherwise parts of one.

    Raises:
        PredictionsError: a file cannot be read.
    """
    seen: set[str] = set()
    for source in sources:
        table = _read(source).rename(columns=dict(mapping or {}))
        images = set(table["image_id"].astype(str)) if "image_id" in table.columns else set()
        if seen & images:
            return True
        seen |= images
    return False


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
    name = Path(sources[0]).name
    table = _renamed(table, mapping or {}, name)
    table = _complete_binary(table)
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


def _renamed(table: pd.DataFrame, mapping: Mapping[str, str], name: str) -> pd.DataFrame:
    """The table under our names; a column that the mapping names must be there, and no meaning twice."""
    absent = [theirs for theirs in mapping if theirs not in table.columns]
    if absent:
        raise PredictionsError(
            f"{name} has not the columns that the mapping names",
            found=f"{shorten(absent)} among {', '.join(map(str, table.columns))}",
            remedy="Map columns that are in every file",
        )
    named = table.drop(columns=[ours for ours in mapping.values() if ours in table and ours not in mapping])
    named = named.rename(columns=dict(mapping))
    twice = sorted({str(column) for column in named.columns[named.columns.duplicated()]})
    if twice:
        raise PredictionsError(
            f"Two columns of {name} are taken for the same",
            found=shorten(twice),
            remedy="Map one column to each meaning",
        )
    return named


def _read(source: Path) -> pd.DataFrame:
    table = read_table(source)
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
        if column == "label" and set(classes_of(table)) == set(CLASSES):
            own = [LABEL_WORDS.get(text.strip().lower(), text.strip().lower()) for text in own]
            _agree_with_names(own, parsed, table["image_id"])
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


def _agree_with_names(own: Sequence[str], parsed: Sequence, images: pd.Series) -> None:
    wrong = [
        str(image)
        for text, found, image in zip(own, parsed, images, strict=True)
        if found and text in CLASSES and text != found.label
    ]
    if wrong:
        raise PredictionsError(
            "True classes contradict the BreakHis file names",
            found=f"{len(wrong)} of {len(images)} images, for example {shorten(wrong)}",
            remedy="Correct the label column (0 is benign, 1 is malignant), or leave it out",
        )


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
