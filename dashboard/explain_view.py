"""What the explain page knows: which images to walk through, their maps, and the pictures made of them.

A map is asked of the engine once (it is then stored in the run folder and needs no torch). Opacity, colours,
contour and zoom only make pictures of it: `Pictures`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from dashboard import cached, compare_view
from dashboard.compare_view import View
from engine.analysis import comparison
from engine.data import images
from engine.errors import EngineError, ExplainError
from engine.explain import overlay
from engine.explain.ensemble_map import EnsembleMap
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
    """How a map is shown. contour: share of the image outlined, 0 = none. zoom: 1 = whole image; centre 0..1."""

    opacity: float = 0.5
    colour_map: str = "inferno"
    contour: float = 0.0
    signed: bool = False
    zoom: float = 1.0
    centre: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True)
class Pictures:
    """Image, map and overlay as files, all of the same part of the image."""

    image: bytes
    heat: bytes
    overlay: bytes


def pictures(
    pixels: np.ndarray,
    heat: np.ndarray,
    look: Look,
    magnification: str = "",
    scale: tuple[float, float] | None = None,
) -> Pictures:
    """The three pictures of one map.

    Args:
        pixels: uint8, height x width x 3. heat: float, height x width; signed where `look.signed`.
        scale: a scale shared by several maps, otherwise the map's own.
    """
    colours = "signed" if look.signed else look.colour_map
    strongest = np.abs(heat) if look.signed else heat
    mixed = overlay.overlay(pixels, heat, look.opacity, colours, scale)
    flat = overlay.colourise(heat, colours, scale)
    if look.contour:
        mixed = overlay.draw_contour(mixed, strongest, look.contour)
        flat = overlay.draw_contour(flat, strongest, look.contour)
    shown = [crop(one, look) for one in (pixels, flat, mixed)]
    with_bar = [
        overlay.scale_bar(one, magnification) if look.zoom <= 1 else one for one in (shown[0], shown[2])
    ]
    return Pictures(jpeg(with_bar[0]), jpeg(shown[1]), jpeg(with_bar[1]))


def crop(picture: np.ndarray, look: Look) -> np.ndarray:
    """The part that is zoomed to, at the picture's own pixels."""
    if look.zoom <= 1:
        return picture
    height, width = picture.shape[:2]
    tall, wide = max(16, round(height / look.zoom)), max(16, round(width / look.zoom))
    left = round((width - wide) * float(np.clip(look.centre[0], 0, 1)))
    top = round((height - tall) * float(np.clip(look.centre[1], 0, 1)))
    return np.ascontiguousarray(picture[top : top + tall, left : left + wide])


def jpeg(picture: np.ndarray) -> bytes:
    """For the screen only: a tenth of a PNG's size and time. Downloads are PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def shared_scale(heats: Sequence[np.ndarray], signed: bool) -> tuple[float, float]:
    """One scale for several maps."""
    if signed:
        reach = max((float(np.abs(heat).max()) for heat in heats), default=0.0)
        return -reach, reach
    return overlay.heat_range(list(heats))


def heat_of(found: Map, signed: bool) -> np.ndarray:
    """What is drawn of a map: its evidence for the target, or signed (a model's only)."""
    if signed and not isinstance(found, EnsembleMap):
        return found.signed
    return found.heat


def verdict(found: Map, truth: str, threshold_note: str = "") -> str:
    """`malignant 0.93, truly benign: wrong`."""
    probability = float(found.probabilities[list(found.classes).index(found.predicted)])
    if not truth:
        return f"{found.predicted} {probability:.2f}, truth unknown{threshold_note}"
    word = "right" if found.predicted == truth else "wrong"
    return f"{found.predicted} {probability:.2f}, truly {truth}: {word}{threshold_note}"


# --- cached --------------------------------------------------------------------------------------------
def explainable(summaries: Sequence[Summary]) -> list[Summary]:
    """Trained runs with weights, and ensembles of such runs; newest first."""
    with_weights = {
        summary.id
        for summary in summaries
        if summary.config.kind == "train" and cached.run(summary.id).best.is_file()
    }
    found = []
    for summary in summaries:
        members = summary.config.details.get("members") or ()
        fused = summary.config.kind == "ensemble" and members and set(members) <= with_weights
        if summary.id in with_weights or fused:
            found.append(summary)
    return found


def opinions(ids: Sequence[str], split: str) -> tuple[pd.DataFrame, list[str], str]:
    """(a row per image with the runs' opinions, the runs in it, a sentence about those left out).

    Raises:
        RunError, PredictionsError: the first run has no predictions for the split.
    """
    able = [run_id for run_id in ids if split in cached.run(run_id).predicted_splits()]
    ids = able or list(ids)
    try:
        return compare_view.opinions(View(tuple(ids), split)), ids, ""
    except EngineError as error:
        if len(ids) < 2:
            raise
        note = f"Filters speak of the first run only: {error.message[0].lower()}{error.message[1:]}."
        return compare_view.opinions(View((ids[0],), split)), ids[:1], note


def pixels_of(path: str) -> np.ndarray:
    """The image at its native pixels, uint8.

    Raises:
        DataError: it is gone or cannot be read.
    """
    return _pixels(path, cached._file_stamp(path))


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
    key = (str(folder.path), cached._file_stamp(folder.best), cached._file_stamp(path))
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
