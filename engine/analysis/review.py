"""Marks people leave on images: wrong label, artefact, discuss. Kept with author and time, never overwritten.

`marks.jsonl` in the runs folder: one JSON object per line, only ever appended to; taking a mark back is a
line of its own. A torn last line (a crash while writing) is skipped. A sensitivity analysis leaves marked
images out and always says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from engine import files
from engine.errors import PredictionsError

FILE = "marks.jsonl"
KINDS = {
    "wrong-label": "The label looks wrong",
    "artefact": "Artefact: fold, blur, pen, empty glass",
    "discuss": "To be discussed",
}
SHORT = {"wrong-label": "wrong label", "artefact": "artefact", "discuss": "discuss"}
COLUMNS = ("image_id", "kind", "author", "time", "note")
LONGEST = 2000


@dataclass(frozen=True)
class Mark:
    """One person's remark on one image. removed: this line takes the mark back."""

    image_id: str
    kind: str
    author: str
    time: str
    note: str = ""
    removed: bool = False


def mark(runs: Path, image_id: str, kind: str, author: str, note: str = "", *, remove: bool = False) -> Mark:
    """Append a mark (or take the same author's mark of this kind back).

    Raises:
        PredictionsError: an unknown kind, no image or author, a note too long, or a folder that cannot be
            written to.
    """
    if kind not in KINDS:
        raise PredictionsError("There is no such mark", found=kind, remedy=f"Use one of {', '.join(KINDS)}")
    if not image_id.strip() or not author.strip():
        raise PredictionsError(
            "A mark needs its image and its author",
            found=f"image {image_id!r}, author {author!r}",
            remedy="Give your name once, above the image",
        )
    if len(note) > LONGEST:
        raise PredictionsError(
            f"A note holds up to {LONGEST:,} characters", found=f"{len(note):,}", remedy="Shorten it"
        )
    made = Mark(image_id, kind, author.strip(), datetime.now(UTC).isoformat(timespec="seconds"), note, remove)
    target = Path(runs) / FILE
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.append_line(target, asdict(made))
    except OSError as error:
        raise PredictionsError(
            "The mark could not be kept", found=str(error), remedy="Make the runs folder writable"
        ) from error
    return made


def undo(runs: Path, author: str) -> Mark | None:
    """Take the author's last line back: a mark is removed, a removal put back; None where there is no line.

    Undoing twice is redoing: the undo is a line of its own, so nothing is ever lost.
    """
    own = [one for one in history(runs) if one.author == author.strip()]
    if not own:
        return None
    last = own[-1]
    return mark(runs, last.image_id, last.kind, author, last.note, remove=not last.removed)


def history(runs: Path) -> list[Mark]:
    """Every line in order, removals included; lines that cannot be read are skipped."""
    marks = []
    for record in files.read_lines(Path(runs) / FILE):
        with suppress(KeyError):
            marks.append(Mark(**{key: record[key] for key in (*COLUMNS, "removed")}))
    return marks


def marks(runs: Path) -> pd.DataFrame:
    """The marks in force, columns `COLUMNS`, a row per image, kind and author (their latest word)."""
    latest: dict[tuple[str, str, str], Mark] = {}
    for one in history(runs):
        key = (one.image_id, one.kind, one.author)
        latest.pop(key, None)
        if not one.removed:
            latest[key] = one
    rows = [{name: getattr(one, name) for name in COLUMNS} for one in latest.values()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def export_csv(runs: Path) -> str:
    """The marks in force as CSV text; cells that a spreadsheet would run as a formula are prefixed with '."""
    return files.spreadsheet_safe(marks(runs)).to_csv(index=False)


def flags(marked: pd.DataFrame) -> dict[str, str]:
    """image_id -> its kinds of mark in words, each once."""
    found: dict[str, list[str]] = {}
    for image, kind in zip(marked["image_id"], marked["kind"], strict=True):
        words = SHORT[kind] if kind in SHORT else str(kind)
        if words not in found.setdefault(str(image), []):
            found[str(image)].append(words)
    return {image: ", ".join(kinds) for image, kinds in found.items()}


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Predictions without marked images. label: the sentence that must stand beside every figure of it."""

    predictions: pd.DataFrame
    excluded: tuple[str, ...]
    label: str


def without_marked(
    predictions: pd.DataFrame, marked: pd.DataFrame, kinds: Iterable[str] = ("wrong-label", "artefact")
) -> Sensitivity:
    """Leave out images that carry a mark of these kinds, for a sensitivity analysis.

    Raises:
        PredictionsError: nothing is left.
    """
    chosen = list(kinds)
    banned = set(marked.loc[marked["kind"].isin(chosen), "image_id"])
    drop = predictions["image_id"].isin(banned).to_numpy()
    if drop.all() and len(predictions):
        raise PredictionsError(
            "Every image is marked: nothing is left to score",
            found=f"{len(predictions)} images",
            remedy="Choose fewer kinds of mark",
        )
    excluded = tuple(predictions.loc[drop, "image_id"].astype(str))
    words = ", ".join(SHORT.get(kind, kind) for kind in chosen)
    label = (
        f"Sensitivity analysis: {len(excluded):,} of {len(predictions):,} images left out "
        f"(marked {words}); not the main result"
    )
    return Sensitivity(predictions[~drop].reset_index(drop=True), excluded, label)
