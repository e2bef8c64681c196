"""What the compare page knows: its view as a record, cached comparisons, and which images a click means.

Pure functions first: AppTest cannot click a chart, so everything behind a click is tested here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached, places, selection, widgets
from engine.analysis import comparison, metrics, operating, review
from engine.analysis.alignment import Aligned
from engine.analysis.comparison import Comparison, Entry
from engine.analysis.operating import Rule
from engine.data.manifest import order_magnifications
from engine.errors import EngineError, PredictionsError
from engine.runs.config import reproducibility
from engine.runs.cost import cost_of
from engine.runs.folder import RunFolder, Summary

SPLITS = {"test": "Test", "val": "Validation"}
MODES = {"counts": "Counts", "percent": "Row %", "difference": "Difference"}
# bucket of engine.analysis.comparison -> (words, whether it is about one entry)
BUCKETS = {
    "all-wrong": ("All get it wrong", False),
    "disagree": ("They disagree", False),
    "only-wrong": ("Only this one wrong", True),
    "only-right": ("Only this one right", True),
    "confident-wrong": (f"Confident and wrong (from {comparison.CONFIDENT:.2f})", True),
    "unsure-right": (f"Unsure and right (below {comparison.UNSURE:.2f})", True),
    "wrong": ("Wrong", True),
    "marked": ("Marked by a person", False),
    "every": ("Every image", False),
}
OF_SEVERAL = ("disagree", "only-wrong", "only-right")  # need a second entry
# What a link to a view (and to one of its images) holds.
PARAMS = (
    "runs", "split", "mag", "threshold", "ref", "without", "by", "mode", "cell", "bucket", "whose", "case",
)  # fmt: skip
MOST_RUNS = 16
LOOKED_UP = 10  # manifests of other runs in which an import's images are looked up


@dataclass(frozen=True)
class Line:
    """An entry as tables, matrices and curves show it."""

    id: str
    label: str
    colour: str
    leaks: bool
    notes: tuple[str, ...] = ()
    """What is said small below the name: the cost of an evaluation, a mode that promises less."""


# --- pure: what a click opens --------------------------------------------------------------------------
@dataclass(frozen=True)
class Cell:
    """One cell of the matrices: whose, in which slice (`all`, `100X`), true and predicted class."""

    entry: str
    part: str
    true: str
    guess: str

    @property
    def text(self) -> str:
        """As the URL has it."""
        return ",".join((self.entry, self.part, self.true, self.guess))


def parse_cell(text: str, entries: Sequence[str], classes: Sequence[str]) -> Cell | None:
    """A cell of the URL; None where it is not one of this view's."""
    parts = text.split(",")
    if len(parts) != 4 or parts[0] not in entries or parts[2] not in classes or parts[3] not in classes:
        return None
    return Cell(*parts)


def clicked(event: object) -> list[str]:
    """The custom data of the first point that a Plotly selection event names; empty when nothing is selected."""
    points = ((event or {}).get("selection") or {}).get("points") or []  # type: ignore[attr-defined]
    for point in points:
        data = point.get("customdata") or []
        if isinstance(data, Mapping):  # Streamlit sends arrays as {"0": ..., "1": ...} in some versions
            data = [data[key] for key in sorted(data, key=int)]
        if len(data):
            return [str(value) for value in data]
    return []


def clicked_cell(event: object) -> Cell | None:
    """The cell of a matrix that was clicked."""
    data = clicked(event)
    return Cell(*data[:4]) if len(data) >= 4 else None


def cell_images(opinions: pd.DataFrame, cell: Cell, by: str, against: str | None = None) -> pd.DataFrame:
    """The images behind a cell; with `against` (difference mode) those that are in it for one of the two only."""
    slices = {by: cell.part}
    own = comparison.select_images(
        opinions, entry=cell.entry, true=cell.true, guess=cell.guess, slices=slices
    )
    if against is None or against == cell.entry:
        return own
    other = comparison.select_images(opinions, entry=against, true=cell.true, guess=cell.guess, slices=slices)
    changed = own.index.symmetric_difference(other.index)
    return opinions.loc[changed.sort_values()]


def cell_sentence(
    cell: Cell, labels: Mapping[str, str], n: int, against: str | None = None, by: str = "magnification"
) -> str:
    """What the gallery shows, in words."""
    words = {"magnification": "at ", "subtype": "of subtype ", "fold": "in fold "}.get(by, "")
    where = "" if cell.part == "all" else f" {words}{cell.part}"
    images = widgets.counted(n, "image")
    if against and against != cell.entry:
        return (
            f"{images}{where}, truly {cell.true}, called {cell.guess} by only one of "
            f"{labels[cell.entry]} and {labels[against]}"
        )
    return f"{images}{where}, truly {cell.true}, called {cell.guess} by {labels[cell.entry]}"


@dataclass(frozen=True)
class Asked:
    """Which images a view lists: those of a cell, of a patient, or of a bucket (in this order of precedence)."""

    cell: Cell | None = None
    case: str = ""
    bucket: str = "all-wrong"
    whose: str = ""
    by: str = "magnification"
    against: str = ""


def listed(
    opinions: pd.DataFrame, asked: Asked, labels: Mapping[str, str], marked: set[str] | None = None
) -> tuple[pd.DataFrame, str]:
    """(rows of `opinions`, surest first, a sentence that says which they are).

    Args:
        asked: `whose` must be an entry of `opinions`. marked: images that carry a mark.
    """
    if asked.cell is not None:
        rows = cell_images(opinions, asked.cell, asked.by, asked.against or None)
        sentence = cell_sentence(asked.cell, labels, len(rows), asked.against or None, asked.by)
        order = asked.cell.entry
    elif asked.case:
        rows, order = opinions[opinions["case"] == asked.case], asked.whose
        sentence = f"{widgets.counted(len(rows), 'image')} of patient {asked.case}"
    else:
        order = asked.whose
        if asked.bucket in ("every", "marked"):
            keep = opinions["image_id"].isin(marked or set()) | (asked.bucket == "every")
            rows = opinions[keep]
        else:
            rows = comparison.select_images(opinions, entry=asked.whose, bucket=asked.bucket)
        words, of_one = BUCKETS[asked.bucket]
        about = f" ({labels[asked.whose]})" if of_one else ""
        sentence = f"{widgets.counted(len(rows), 'image')}: {words.lower()}{about}"
    return rows.sort_values(f"confidence_{order}", ascending=False, kind="stable"), sentence


def asked_from_url(ids: Sequence[str], classes: Sequence[str]) -> Asked:
    """What the link asks for; what makes no sense in this view is left out."""
    whose = selection.read("whose")
    known = [name for name in BUCKETS if len(ids) > 1 or name not in OF_SEVERAL]
    bucket, reference = selection.read("bucket"), selection.read("ref")
    base = reference if reference in ids else ids[0]
    return Asked(
        parse_cell(selection.read("cell"), ids, classes),
        selection.read("case"),
        bucket if bucket in known else "all-wrong" if len(ids) > 1 else "wrong",
        whose if whose in ids else ids[0],
        selection.read("by", "magnification"),
        base if selection.read("mode") == "difference" and len(ids) > 1 else "",
    )


# --- operating point -----------------------------------------------------------------------------------
def rule_of(text: str) -> Rule:
    """The operating point of a link; the most probable class where it makes no sense."""
    try:
        return operating.parse_rule(text)
    except PredictionsError:
        return Rule()


def thresholds_at(ids: Sequence[str], rule: Rule) -> tuple[float | None, ...]:
    """The threshold of every entry; those chosen on validation are the same whatever is looked at.

    Raises:
        RunError, PredictionsError: an entry without usable validation predictions.
    """
    if not rule.on_validation:
        return tuple([operating.threshold_by(rule, None)] * len(ids))
    return tuple(_chosen(run_id, rule, stamps([run_id], "val")) for run_id in ids)


@st.cache_data(max_entries=256, show_spinner=False)
def _chosen(run_id: str, rule: Rule, key: tuple) -> float | None:
    folder = RunFolder(Path(key[0]) / run_id)
    table = folder.predictions("val") if "val" in folder.predicted_splits() else None
    try:
        return operating.threshold_by(rule, table)
    except PredictionsError as error:
        raise PredictionsError(
            f"{folder.name}: {error.message[0].lower()}{error.message[1:]}",
            found=error.found,
            remedy=error.remedy,
        ) from error


# --- cached --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class View:
    """What is compared; the key of everything cached.

    thresholds: per id, None = most probable class. without: kinds of marks whose images are left out.
    """

    ids: tuple[str, ...]
    split: str = "test"
    magnification: str = "all"
    by: str = "magnification"
    names: tuple[str, ...] = metrics.DEFAULT_SCORES
    reference: str = ""
    thresholds: tuple[float | None, ...] = ()
    without: tuple[str, ...] = ()


def view_from_url(ids: Sequence[str]) -> View:
    """The view that a link names, for pages that show a part of it (one image).

    Raises:
        RunError, PredictionsError: as `thresholds_at`.
    """
    split = selection.read("split", "test")
    rule = rule_of(selection.read("threshold"))
    return View(
        tuple(ids),
        split if split in SPLITS else "test",
        selection.read("mag", "all"),
        thresholds=thresholds_at(ids, rule),
        without=kinds_from_url(),
    )


def kinds_from_url() -> tuple[str, ...]:
    """Kinds of marks whose images the link leaves out."""
    return tuple(kind for kind in selection.read_list("without") if kind in review.KINDS)


def stamps(ids: Sequence[str], split: str) -> tuple:
    """Times and sizes of the predictions behind a view, with the folder they lie in."""
    folder = places.runs_folder()
    files = [cached.run(run_id).predictions_file(split) for run_id in ids]
    return (str(folder), *(cached.file_stamp(file) for file in files))


def key_of(view: View) -> tuple:
    """Everything on disk that decides what a view shows."""
    marks = (cached.marks_stamp(),) if view.without else ()
    return (*stamps(view.ids, view.split), *marks)


def aligned(view: View) -> Aligned:
    """The entries on their common images, shared by all sessions: read, never changed.

    Raises:
        RunError, PredictionsError: no predictions, entries that cannot be compared, or nothing left of them.
    """
    whole = _aligned(view.ids, view.split, stamps(view.ids, view.split))
    if view.magnification == "all" and not view.without:
        return whole
    return _restricted(view, key_of(view))


@st.cache_resource(max_entries=16, show_spinner=False)
def _aligned(ids: tuple[str, ...], split: str, key: tuple) -> Aligned:
    tables = {run_id: RunFolder(Path(key[0]) / run_id).predictions(split) for run_id in ids}
    return comparison.align(tables)


@st.cache_resource(max_entries=32, show_spinner=False)
def _restricted(view: View, key: tuple) -> Aligned:
    whole = _aligned(view.ids, view.split, stamps(view.ids, view.split))
    keep = np.ones(len(whole), dtype=bool)
    if view.magnification != "all":
        keep &= (whole.frame["magnification"] == view.magnification).to_numpy()
    if view.without:
        left = review.without_marked(whole.frame[keep], cached.marks(), view.without).predictions
        keep &= whole.frame["image_id"].isin(left["image_id"]).to_numpy()
    if not keep.any():
        raise PredictionsError(
            "These entries have no image here",
            found=f"magnification {view.magnification}",
            remedy="Choose another magnification",
        )
    tables = {name: table[keep].reset_index(drop=True) for name, table in whole.tables.items()}
    return replace(whole, tables=tables)


def sensitivity(view: View) -> str:
    """The sentence that must stand beside every figure of a view that leaves marked images out; else empty."""
    if not view.without:
        return ""
    before = aligned(replace(view, without=()))
    return review.without_marked(before.frame, cached.marks(), view.without).label


def compare(view: View, with_intervals: bool) -> Comparison:
    """The comparison of a view. With intervals it takes seconds once, then nothing.

    Raises:
        RunError, PredictionsError: as `aligned`.
    """
    return _compare(view, with_intervals, key_of(view))


@st.cache_resource(max_entries=64, show_spinner=False)
def _compare(view: View, with_intervals: bool, key: tuple) -> Comparison:
    images = aligned(view)
    thresholds = thresholds_of(view)
    entries = [Entry(run_id, run_id, images.tables[run_id], {}, thresholds[run_id]) for run_id in view.ids]
    found = comparison.compare(
        entries,
        names=view.names,
        reference=view.reference or None,
        by=view.by,
        with_intervals=with_intervals,
    )
    if with_intervals:
        _ready().add((view, key))
    return found


@st.cache_resource
def _ready() -> set:
    """Views whose intervals were computed: the page then draws them at once."""
    return set()


def is_ready(view: View) -> bool:
    return (view, key_of(view)) in _ready()


def thresholds_of(view: View) -> dict[str, float | None]:
    return dict(zip(view.ids, view.thresholds or (None,) * len(view.ids), strict=True))


def opinions(view: View) -> pd.DataFrame:
    """A row per image with every entry's prediction (engine.analysis.comparison.opinions)."""
    return _opinions(replace(view, names=(), reference="", by="magnification"), key_of(view))


@st.cache_resource(max_entries=16, show_spinner=False)
def _opinions(view: View, key: tuple) -> pd.DataFrame:
    return comparison.opinions(aligned(view), thresholds_of(view))


def seed_spread(view: View, ids: tuple[str, ...]) -> comparison.Spread:
    """Seed spread and case spread of the view's first score over some of its entries."""
    return _seed_spread(replace(view, reference=""), ids, key_of(view))


@st.cache_resource(max_entries=32, show_spinner=False)
def _seed_spread(view: View, ids: tuple[str, ...], key: tuple) -> comparison.Spread:
    images = aligned(view)
    return comparison.seed_spread({run_id: images.tables[run_id] for run_id in ids}, view.names[0])


def image_paths(ids: Sequence[str]) -> dict[str, str]:
    """image_id -> absolute path, from the manifests of these runs.

    Imports have none: their images are looked up by name in the newest manifests of other runs.
    """
    found, lacking = _known_paths(ids)
    if lacking:
        others = [
            one.id for one in cached.summaries() if one.config.kind == "train" and one.id not in set(ids)
        ]
        found = {**_known_paths(others[:LOOKED_UP])[0], **found}
    return found


def _known_paths(ids: Sequence[str]) -> tuple[dict[str, str], bool]:
    """(image_id -> path, whether one of the runs has no manifest)."""
    found: dict[str, str] = {}
    lacking = False
    for run_id in ids:
        try:
            folder = cached.run(run_id)
            found = {**_paths(str(folder.path), cached.file_stamp(folder.path / "manifest.csv")), **found}
        except EngineError:
            lacking = True
    return found, lacking


@st.cache_resource(max_entries=32, show_spinner=False)
def _paths(path: str, key: tuple) -> dict[str, str]:
    manifest = RunFolder(Path(path)).manifest()
    return {
        image: str(manifest.absolute(place))
        for image, place in zip(manifest.table["image_id"], manifest.table["path"], strict=True)
    }


# --- small ---------------------------------------------------------------------------------------------
def lines_of(summaries: Sequence[Summary], labels: Mapping[str, str]) -> list[Line]:
    """The entries with the colour they have on every page."""
    colours = widgets.run_colours()
    return [
        Line(
            one.id,
            labels[one.id],
            colours.get(one.id, "#888888"),
            one.audit.get("level") == "leak",
            _notes(one),
        )
        for one in summaries
    ]


def _notes(summary: Summary) -> tuple[str, ...]:
    """What evaluating an image costs with this entry, and that it is not exactly resumable."""
    spent = cost_of(cached.run(summary.id))
    fast = "fast mode: not exactly resumable" if reproducibility(summary.config) else ""
    return tuple(filter(None, (str(spent) if spent else "", fast)))


def link_params(**more: str) -> dict[str, str]:
    """The parameters of this view that lead back to it, with more of them."""
    own = {name: selection.read(name) for name in PARAMS}
    return {name: value for name, value in {**own, **more}.items() if value}


def default_ids(summaries: Sequence[Summary], split: str, most: int = 4) -> list[str]:
    """The newest run and the next ones that predicted images of the same test part."""
    chosen: list[str] = []
    first: set[str] = set()
    for summary in summaries:
        try:
            images = set(cached.predictions(summary.id, split)["image_id"])
        except EngineError:
            continue
        if not chosen or len(first & images) > 0.5 * len(first | images):
            first = first or images
            chosen.append(summary.id)
        if len(chosen) == most:
            break
    return chosen


def magnifications(images: Aligned) -> list[str]:
    return list(order_magnifications(images.frame["magnification"].unique()))


def named_note(note: str, labels: Mapping[str, str]) -> str:
    """The engine's sentence about left-out images with names instead of ids."""
    for run_id, label in labels.items():
        note = note.replace(run_id, label)
    return note
