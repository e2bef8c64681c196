"""What the explain page knows: which images to walk through, their maps, and the pictures made of them.

A map is asked of the engine once (it is then stored in the run folder and needs no torch). Opacity, colours,
contour only make pictures of it; opacity and zoom not even that (`synced_view`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from dashboard import cached, compare_view, predict_view, synced_view, widgets
from dashboard.compare_view import View
from engine.analysis import comparison, curves, metrics
from engine.analysis.operating import Rule
from engine.data import images
from engine.errors import EngineError, ExplainError
from engine.explain import overlay
from engine.explain.runs import Map, explain_file
from engine.runs.folder import RunFolder, Summary

BUCKETS = {
    "all": "All images",
    "wrong": "Wrong",
    "right": "Right",
    "confident-wrong": "Confident and wrong",
    "unsure-right": "Unsure and right",
    "disagree": "Models disagree",
}


# --- pure: which images --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Filter:
    """Which images to walk through; `all` restricts nothing. bucket speaks of the first run."""

    magnification: str = "all"
    subtype: str = "all"
    case: str = "all"
    bucket: str = "all"


def walk(table: pd.DataFrame, chosen: Filter, entry: str) -> pd.DataFrame:
    """The rows of `opinions` that pass, in the order of case, magnification and name."""
    slices = {"magnification": chosen.magnification, "subtype": chosen.subtype, "case": chosen.case}
    bucket = None if chosen.bucket == "all" else chosen.bucket
    rows = comparison.select_images(table, entry=entry, slices=slices, bucket=bucket)
    return rows.sort_values(["case", "image_id"], kind="stable").reset_index(drop=True)


def position_of(rows: pd.DataFrame, image_id: str) -> int:
    """Where an image stands in the walk; 0 where it is not in it."""
    found = np.flatnonzero(rows["image_id"].to_numpy() == image_id)
    return int(found[0]) if len(found) else 0


def siblings(table: pd.DataFrame, image_id: str) -> pd.DataFrame:
    """The other images of the same slide (of the same case where the slide is not known)."""
    own = table[table["image_id"] == image_id]
    if own.empty:
        return own
    column = "slide" if own["slide"].iloc[0] else "case"
    value = own[column].iloc[0]
    same = table[(table[column] == value) & (table["image_id"] != image_id)] if value else own.iloc[:0]
    return same.sort_values(["magnification", "image_id"])


# --- pure: pictures ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Look:
    """How a map is shown. contour: share of the image outlined, 0 = none. even: as in `overlay.overlay`."""

    opacity: float = overlay.OPACITY
    colour_map: str = "inferno"
    contour: float = 0.0
    signed: bool = False
    even: bool = False

    @property
    def colours(self) -> str:
        """The colour map of `overlay.colours`."""
        return "signed" if self.signed else self.colour_map


def coloured(heat: np.ndarray, look: Look, scale: tuple[float, float] | None = None) -> bytes:
    """A map in its colours, as a file for the screen.

    Args:
        heat: float, height x width; signed where `look.signed`.
        scale: a scale shared by several maps, otherwise the map's own.
    """
    return jpeg(overlay.colourise(heat, look.colours, scale))


def veiled(heat: np.ndarray, look: Look, scale: tuple[float, float] | None = None) -> bytes:
    """A map to be laid over its image, as a file for the screen: clear where there is no evidence, unless `look.even`.

    Args: see `coloured`.
    """
    if look.even:
        return coloured(heat, look, scale)
    buffer = io.BytesIO()
    # lossless WebP: a sixth of the time of a lossy one with alpha, half the bytes of a PNG
    picture = Image.fromarray(overlay.veil(heat, look.colours, scale))
    picture.save(buffer, format="WEBP", lossless=True, quality=0, method=0)
    return buffer.getvalue()


def overlaid(pixels: np.ndarray, found: Map, look: Look) -> np.ndarray:
    """The overlay as it is downloaded, at native pixels: uint8, height x width x 3."""
    return overlay.overlay(pixels, found.heat, look.opacity, look.colour_map, even=look.even)


def outlines(heat: np.ndarray, look: Look) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Rings of (x, y) around the hottest share, in pixels; none where `look.contour` is 0."""
    if not look.contour:
        return ()
    strongest = np.abs(heat) if look.signed else heat
    return tuple(
        tuple((float(x) + 0.5, float(y) + 0.5) for x, y in ring)
        for ring in overlay.contours(strongest, look.contour)
    )


def legend(look: Look, scale: tuple[float, float] | None) -> synced_view.Legend:
    """The colours with their ends in words."""
    if look.signed:
        low, high = "against", "for the target"
    else:
        low, high = "no evidence", "most" if scale is None else f"most of all models ({scale[1]:.3g})"
    return synced_view.Legend(overlay.colours(look.colours), low, high)


def jpeg(picture: np.ndarray) -> bytes:
    """For the screen only, without chroma subsampling: nuclei keep their edges at 16x. Downloads are PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=93, subsampling=0)
    return buffer.getvalue()


def shared_scale(heats: Sequence[np.ndarray], signed: bool) -> tuple[float, float]:
    """One scale for several maps."""
    if signed:
        reach = max((float(np.abs(heat).max()) for heat in heats), default=0.0)
        return -reach, reach
    return overlay.heat_range(list(heats))


def heat_of(found: Map, signed: bool) -> np.ndarray:
    """What is drawn of a map: its evidence for the target, or signed."""
    return found.signed if signed else found.heat


@dataclass(frozen=True)
class Judgement:
    """What a model said of an image.

    Attributes:
        called: its class, at the threshold. probability: of that class.
        positive: probability of the last class (malignant); None with more than two classes.
        threshold: from which `positive` on the last class is called; None = the most probable class.
        truth: true class, empty where it is not known.
    """

    called: str
    probability: float
    positive: float | None
    threshold: float | None
    truth: str

    @property
    def right(self) -> bool | None:
        return self.called == self.truth if self.truth else None

    @property
    def words(self) -> str:
        """`malignant 0.93, truly benign: wrong`."""
        said = f"{self.called} {self.probability:.2f}"
        if self.right is None:
            return f"{said}, truth unknown"
        return f"{said}, truly {self.truth}: {'right' if self.right else 'wrong'}"


def judgement(
    probabilities: Sequence[float] | np.ndarray,
    classes: Sequence[str],
    truth: str,
    threshold: float | None = None,
) -> Judgement:
    """A model's answer from its probabilities, (classes,)."""
    values = np.asarray(probabilities, dtype=float)
    at = int(values.argmax())
    positive = float(values[-1]) if len(values) == 2 else None
    if threshold is not None and positive is not None:
        at = int(positive >= threshold)
    return Judgement(str(classes[at]), float(values[at]), positive, threshold, str(truth or ""))


def said_of(
    found: Map, row: Mapping[str, Any] | pd.Series, run_id: str, threshold: float | None
) -> Judgement:
    """What a run said of the image: its stored prediction, as every other page shows it; else the map's own.

    A vote, a temperature or a stacker is not the weighted mean that the fused map carries, and a network that
    was evaluated in bf16 said something else, by a few hundredths, than the float32 pass of the map.
    """
    truth = row["label"]
    stored = row.get(f"predicted_{run_id}")
    if isinstance(stored, str) and len(found.classes) == 2:
        sure = float(row[f"confidence_{run_id}"])
        positive = sure if stored == found.classes[-1] else 1 - sure
        return judgement([1 - positive, positive], found.classes, truth, threshold)
    return judgement(found.probabilities, found.classes, truth, threshold)


def verdict(found: Map, truth: str) -> str:
    """`malignant 0.93, truly benign: wrong`."""
    return judgement(found.probabilities, found.classes, truth).words


def spread(rows: pd.DataFrame, ids: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """How far the runs' answers lie apart, (rows,): of two classes the standard deviation of the probability of
    the last one, of more the share of runs that do not say what most say."""
    if not ids:
        return np.zeros(len(rows))
    said = rows[[f"predicted_{run_id}" for run_id in ids]].to_numpy(dtype=str)
    if len(classes) != 2:
        votes = np.stack([(said == name).sum(axis=1) for name in classes])
        return 1 - votes.max(axis=0) / len(ids)
    sure = rows[[f"confidence_{run_id}" for run_id in ids]].to_numpy(dtype=float)
    return np.where(said == classes[-1], sure, 1 - sure).std(axis=1)


# --- cached --------------------------------------------------------------------------------------------
def explainable(summaries: Sequence[Summary]) -> list[Summary]:
    """What has a network to look into: trained runs, soups, fusions, and ensembles of networks; newest first."""
    fusions = {summary.id for summary in summaries if summary.config.kind == "fusion"}
    return [
        summary
        for summary in predict_view.able(summaries)
        if summary.config.kind == "fusion" or not fusions & set(summary.config.details.get("members") or ())
    ]


def opinions(
    ids: Sequence[str], split: str, point: Rule | None = None
) -> tuple[pd.DataFrame, list[str], str]:
    """(a row per image with the runs' opinions, the runs in it, a sentence about those left out).

    Args:
        point: the operating point at which right and wrong are told; the most probable class unless given.

    Raises:
        RunError, PredictionsError: the first run has no predictions for the split.
    """
    able = [run_id for run_id in ids if split in cached.run(run_id).predicted_splits()]
    ids = able or list(ids)
    try:
        table = _opinions(ids, split, point)
        whole = max(len(cached.predictions(run_id, split)) for run_id in ids)
        note = f"{len(table):,} of {whole:,} images: those that every ticked run predicted."
        return table, ids, note if len(table) < whole else ""
    except EngineError as error:
        if len(ids) < 2:
            raise
        note = f"Filters speak of the first run only: {error.message[0].lower()}{error.message[1:]}."
        return _opinions(ids[:1], split, point), ids[:1], note


def thresholds(ids: Sequence[str], point: Rule | None) -> dict[str, float | None]:
    """Run id -> from which probability on the last class is called; None = the most probable class.

    Raises:
        RunError, PredictionsError: a run has no validation predictions to choose on.
    """
    chosen = compare_view.thresholds_at(ids, point) if point else (None,) * len(ids)
    return dict(zip(ids, chosen, strict=True))


def _opinions(ids: Sequence[str], split: str, point: Rule | None) -> pd.DataFrame:
    chosen = tuple(thresholds(ids, point).values())
    return compare_view.opinions(View(tuple(ids), split, thresholds=chosen if point else ()))


def calibration(run_id: str, positive: float) -> str:
    """What such a probability has meant on validation: `of 23 validation images given 0.80 to 0.90, 14 were malignant`.

    Empty without validation predictions of two classes.
    """
    folder = cached.run(run_id)
    if "val" not in folder.predicted_splits():
        return ""
    try:
        bins, name = _reliability(str(folder.path), cached.file_stamp(folder.predictions_file("val")))
    except EngineError:
        return ""
    near = bins[(bins["low"] <= positive) & ((positive < bins["high"]) | (bins["high"] >= 1))]
    if near.empty:
        low = min(int(positive * 10), 9) / 10
        return f"no validation image was given {low:.1f} to {low + 0.1:.1f}, so nothing says what {positive:.2f} is worth"
    one = near.iloc[0]
    hits = round(one["observed"] * one["n"])
    return (
        f"of {widgets.counted(int(one['n']), 'validation image')} given {one['low']:.1f} to {one['high']:.1f}, "
        f"{hits} {'was' if hits == 1 else 'were'} {name}"
    )


@st.cache_data(max_entries=64, show_spinner=False)
def _reliability(path: str, stamp: tuple) -> tuple[pd.DataFrame, str]:
    result = metrics.outcome(RunFolder(Path(path)).predictions("val"))
    return curves.reliability(result), result.classes[-1]


def pixels_of(path: str) -> np.ndarray:
    """The image at its native pixels, uint8.

    Raises:
        DataError: it is gone or cannot be read.
    """
    return _pixels(path, cached.file_stamp(path))


def picture_of(path: str) -> bytes:
    """The whole image as a file for the screen.

    Raises:
        DataError: it is gone or cannot be read.
    """
    return _picture(path, cached.file_stamp(path))


@st.cache_data(max_entries=24, show_spinner=False)
def _picture(path: str, stamp: tuple) -> bytes:
    return jpeg(_pixels(path, stamp))


@st.cache_resource(max_entries=24, show_spinner=False)
def _pixels(path: str, stamp: tuple) -> np.ndarray:
    decoded = images.decode(Path(path))
    decoded.setflags(write=False)
    return decoded


def map_of(run_id: str, path: str, method: str, target: str, layer: str) -> Map:
    """A run's map of an image: kept in memory, else read from the run folder, else made.

    Raises:
        ExplainError, DataError, RunError: as `engine.explain.runs.explain_file`.
    """
    folder = cached.run(run_id)
    key = (str(folder.path), cached.file_stamp(folder.best), cached.file_stamp(path))
    return _map(run_id, path, method, target, layer, key)


@st.cache_resource(max_entries=64, show_spinner=False)
def _map(run_id: str, path: str, method: str, target: str, layer: str, key: tuple) -> Map:
    return explain_file(
        RunFolder(Path(key[0])), Path(path), method=method, target=target, layer=layer or None, load=load
    )


def load(folder: RunFolder):
    """A run's model from the page's cache."""
    if not folder.best.is_file():
        raise ExplainError(
            f"The weights of the run {folder.name} are not there",
            found="no checkpoint in its folder",
            remedy="Wait until its first epoch has ended, resume it, or restore the file",
        )
    return cached.model(folder.id)[0]
