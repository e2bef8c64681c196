"""What the predict page knows: which files may be judged, and what their predictions say per image and per case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dashboard import cached
from engine.analysis import metrics
from engine.analysis.predictions import classes_of, labels, predicted, probabilities
from engine.data import files, images
from engine.errors import DataError, EngineError
from engine.runs import results
from engine.runs.config import NETWORKS
from engine.runs.folder import RunFolder, Summary

MOST_UPLOADS = 200
MOST_BYTES = 50_000_000


@dataclass(frozen=True)
class Refused:
    """A file that is not judged, and why."""

    name: str
    reason: str


# --- who judges ----------------------------------------------------------------------------------------
def able(summaries: Sequence[Summary]) -> list[Summary]:
    """Runs that can judge new images: with weights, or made of runs that have them; newest first."""
    by_id = {summary.id: summary for summary in summaries}
    known: dict[str, bool] = {}

    def can(run_id: str) -> bool:
        if run_id not in known:
            known[run_id] = False  # an ensemble that named itself would otherwise never end
            known[run_id] = run_id in by_id and _can(by_id[run_id], can)
        return known[run_id]

    return [summary for summary in summaries if can(summary.id)]


def _can(summary: Summary, can: Callable[[str], bool]) -> bool:
    kind, members = summary.config.kind, list(summary.config.details.get("members") or ())
    if kind in (*NETWORKS, "fusion") and not cached.run(summary.id).best.is_file():
        return False
    if kind in NETWORKS:
        return True
    return kind in ("ensemble", "fusion", "tta") and bool(members) and all(map(can, members))


# --- what is judged ------------------------------------------------------------------------------------
def save_uploads(uploads: Sequence[tuple[str, bytes]], folder: Path) -> tuple[list[Path], list[Refused]]:
    """Write uploaded images to a folder; each is judged by its bytes, whatever its name says.

    Args:
        uploads: (file name, bytes). folder: a new, private one; the caller deletes it.
    """
    kept: list[Path] = []
    refused = [
        Refused(safe_name(name), f"only {MOST_UPLOADS} files are taken at once; name their folder instead")
        for name, _ in uploads[MOST_UPLOADS:]
    ]
    taken: set[str] = set()
    for name, data in uploads[:MOST_UPLOADS]:
        shown = safe_name(name)
        if len(data) > MOST_BYTES:
            refused.append(Refused(shown, f"larger than {MOST_BYTES // 1_000_000} MB"))
            continue
        try:
            images.decode(data)
        except DataError as error:
            found = f" ({error.found.rstrip('.')})" if error.found else ""
            refused.append(Refused(shown, f"no readable PNG, JPEG or TIFF{found}"))
            continue
        unique = _free(shown, taken)
        taken.add(unique)
        (folder / unique).write_bytes(data)
        kept.append(folder / unique)
    return kept, refused


def safe_name(name: str) -> str:
    """The last part of an uploaded name, printable, never a path."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = files.printable(last).replace("/", "_").strip(" .")
    return shown[-150:] or "unnamed"


def _free(name: str, taken: set[str]) -> str:
    """`a.png`, `a (2).png`: two uploads of one name stay two."""
    unique, number = name, 2
    stem, dot, ending = name.rpartition(".")
    while unique in taken:
        unique = f"{stem or ending} ({number}){dot}{ending if stem else ''}"
        number += 1
    return unique


def folder_sources(text: str) -> list[Path]:
    """The images of a folder on the server.

    Raises:
        DataError: nothing there, or no image in it.
    """
    if not text.strip():
        raise DataError("No folder is named", remedy="Give the path of a folder of images on this machine")
    return results.image_files([Path(text.strip()).expanduser()])


# --- what is said --------------------------------------------------------------------------------------
def image_table(table: pd.DataFrame, refer_below: float = 0.0) -> pd.DataFrame:
    """A row per image: what is predicted, how surely, whether to refer it, and the truth where a name tells.

    refer_below: images whose predicted class has less probability than this are to be judged by a person.
    """
    classes = classes_of(table)
    guess, probs = predicted(table), probabilities(table)
    sure = probs[np.arange(len(table)), guess]
    shown = pd.DataFrame({"Image": table["image_id"], "Predicted": [classes[k] for k in guess]})
    for k, name in enumerate(classes):
        shown[f"P({name})"] = probs[:, k]
    shown["Refer"] = sure < refer_below
    for column, title in (("case", "Case"), ("magnification", "Magnification"), ("label", "Label by name")):
        if table[column].ne("").any():
            shown[title] = table[column]
    return shown


def case_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row per case: images, mean probability, diagnosis; empty where no name tells its case."""
    known = table[table["case"].ne("")]
    classes = classes_of(table)
    if known.empty:
        return pd.DataFrame()
    guess = predicted(known)
    rows = known.assign(_votes=guess == len(classes) - 1)
    grouped = rows.groupby("case", sort=True)
    found = pd.DataFrame(
        {
            "Images": grouped.size(),
            **{f"Mean P({name})": grouped[f"prob_{name}"].mean() for name in classes},
            f"Images called {classes[-1]}": grouped["_votes"].sum(),
        }
    ).reset_index(names="Case")
    means = found[[f"Mean P({name})" for name in classes]].to_numpy()
    found.insert(1, "Diagnosis", [classes[k] for k in means.argmax(axis=1)])
    return found


def score_sentence(table: pd.DataFrame) -> str:
    """How right the predictions are where file names tell the label; empty where they do not."""
    known = labels(table) >= 0
    if not known.any():
        return ""
    own = metrics.outcome(table[known])
    right = int((own.true == own.guess).sum())
    balanced = metrics.value("balanced_accuracy", own)
    text = f"{right} of {len(own)} images right by the labels in their names"
    return text if np.isnan(balanced) else f"{text}, balanced accuracy {balanced:.3f}"


def met_before(folder: RunFolder, table: pd.DataFrame) -> tuple[int, list[str], bool]:
    """(images the run was trained on, cases it was trained on, whether its training images are known)."""
    try:
        learned = results.trained_on(folder)
    except EngineError:
        return 0, [], False
    trained = int(table["image_id"].isin(learned.images).sum())
    cases = sorted((set(table["case"]) - {""}) & learned.cases)
    return trained, cases, learned.known


def outcome_counts(table: pd.DataFrame) -> Mapping[str, int]:
    """Class -> how many images are called so."""
    classes = classes_of(table)
    counts = np.bincount(predicted(table), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))
