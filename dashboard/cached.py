"""Reads that are kept between clicks, keyed by the files' times and sizes, so that they are never stale.

Nothing here imports torch until a page asks for a model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import batch_preview, places
from engine.analysis import intervals, review
from engine.data import datasets, hashing, stain, thumbnails
from engine.data.breakhis import Inventory
from engine.data.manifest import Manifest
from engine.data.preprocessing import Preprocessing
from engine.errors import EngineError, RunError
from engine.progress import Progress
from engine.runs import folder as run_folder
from engine.runs import launch, listing
from engine.runs.config import DataConfig, RunConfig
from engine.runs.folder import RunFolder, Summary

# A cached value is shared with nobody: st.cache_data hands out copies.
ENTRIES = 32


# --- data sets -----------------------------------------------------------------------------------------
def dataset(root: str | Path) -> tuple[Manifest, Inventory]:
    """Scan of a data set: manifest and inventory.

    Raises:
        DataError: as `engine.data.datasets.inspect`.
        AccessError: a reader asks for a folder that was not opened before.
    """
    places.require_open(root)
    path = str(Path(root).expanduser().absolute())
    return _dataset(path, folder_stamp(path))


@st.cache_data(max_entries=4, show_spinner=False)
def _dataset(root: str, stamp: tuple) -> tuple[Manifest, Inventory]:
    return datasets.inspect(Path(root))


def folder_stamp(root: str | Path) -> tuple[int, int]:
    """(folders, newest change) of a tree, from its folders alone: 330 folders instead of 7,909 files."""
    if Path(root).is_file():
        return file_stamp(root)
    folders, newest = 0, 0
    for here, _, _ in os.walk(root):
        try:
            newest = max(newest, Path(here).stat().st_mtime_ns)
        except OSError:
            continue
        folders += 1
    return folders, newest


def duplicates(root: str | Path, progress: Progress | None = None) -> pd.DataFrame | None:
    """Pairs of images that show the same (`engine.data.hashing.describe_pairs`).

    Without `progress` only what was found before is returned, None where nothing was looked for yet.
    """
    path = str(Path(root).expanduser().absolute())
    stamp = folder_stamp(path)
    found = _duplicates(path, stamp)
    if not found and progress is not None:
        manifest = _dataset(path, stamp)[0]
        hashes = hashing.hash_images(manifest, progress=progress)
        if hashes.problems:
            _dataset.clear()  # type: ignore[attr-defined]  # what cannot be decoded is left out from now on
        found.append(hashing.describe_pairs(manifest, hashing.find_pairs(hashes)))
    return found[0] if found else None


@st.cache_resource(max_entries=4, show_spinner=False)
def _duplicates(root: str, stamp: tuple) -> list[pd.DataFrame]:
    """A place for the result of a search, shared by all sessions."""
    return []


def prepared(data: DataConfig) -> launch.Prepared:
    """A data set divided as a configuration says: manifest with split, audit, warnings.

    Raises:
        DataError, SplitError: as `engine.runs.launch.prepare_data`.
        AccessError: as `dataset`.
    """
    places.require_open(data.root)
    root = str(Path(data.root).expanduser().absolute())
    return _prepared(data, root, folder_stamp(root), file_stamp(data.split_csv) if data.split_csv else (0, 0))


@st.cache_data(max_entries=24, show_spinner=False)
def _prepared(data: DataConfig, root: str, stamp: tuple, csv_stamp: tuple) -> launch.Prepared:
    return launch.prepare_data(RunConfig(data=data), _dataset(root, stamp)[0])


def data_problems(config: RunConfig) -> list[EngineError]:
    """What is wrong with the data set or its split (`engine.runs.launch.data_problems`), on the cached split."""
    try:
        if config.data.root:
            prepared(config.data)
    except EngineError as error:
        return [error]
    return []


def thumbnail(path: str | Path, width: int = 220) -> bytes:
    """An image as a small JPEG, from the store on disk or made now.

    Raises:
        DataError: it cannot be decoded.
    """
    return _thumbnail(str(path), file_stamp(path), width)


@st.cache_data(max_entries=600, show_spinner=False)
def _thumbnail(path: str, stamp: tuple, width: int) -> bytes:
    return thumbnails.thumbnail_jpeg(Path(path), width)


def batch_sheet(
    paths: Sequence[str], recipe: str, preprocessing: Preprocessing, n: int
) -> tuple[bytes, list[int]]:
    """Augmented versions of images as one PNG, and the rows in their own colours (see `dashboard.batch_preview`).

    Raises:
        DataError: an image or the preview fails.
    """
    files = tuple((path, file_stamp(path)) for path in paths)
    return _batch_sheet(files, recipe, preprocessing.as_record(), n)


@st.cache_data(max_entries=8, show_spinner=False)
def _batch_sheet(files: tuple, recipe: str, preprocessing: dict, n: int) -> tuple[bytes, list[int]]:
    return batch_preview.sheet([path for path, _ in files], recipe, preprocessing, n)


def stain_normaliser(ready: launch.Prepared, method: str) -> stain.StainNormaliser | None:
    """The normaliser that a run on this split would have, fitted to its training part; None for `none`.

    Raises:
        DataError: no training image can serve as reference.
    """
    if method == "none":
        return None
    root = str(ready.manifest.root)
    record = _stain_reference(root, folder_stamp(root), ready.split_hash, method, ready.manifest)
    return stain.StainNormaliser(stain.Reference.from_record(record))


@st.cache_data(max_entries=16, show_spinner=False)
def _stain_reference(root: str, stamp: tuple, split_hash: str, method: str, _manifest: Manifest) -> dict:
    return stain.choose_reference(_manifest, method).as_record()


def stain_preview(root: str | Path, method: str, count: int) -> tuple[str, list, int]:
    """Stain before and after (see `dashboard.pixel_preview.before_and_after`).

    Raises:
        DataError, SplitError: no reference, or no split to take it from.
    """
    path = str(Path(root).expanduser().absolute())
    return _stain_preview(path, method, count, folder_stamp(path))


@st.cache_data(max_entries=8, show_spinner=False)
def _stain_preview(root: str, method: str, count: int, stamp: tuple) -> tuple[str, list, int]:
    from dashboard import pixel_preview

    return pixel_preview.before_and_after(root, method, count)


# --- runs ----------------------------------------------------------------------------------------------
def summaries() -> list[Summary]:
    """Every run, newest first (the engine keeps what did not change)."""
    return listing.summaries(places.runs_folder())


def run(run_id: str) -> RunFolder:
    """The folder of a run.

    Raises:
        RunError: there is none of this id.
    """
    return run_folder.locate(places.runs_folder(), run_id)


def scored(split_name: str = "test") -> list[Summary]:
    """Runs with predictions for a split, newest first: what compare and ensemble can use."""
    return [summary for summary in summaries() if split_name in summary.has_predictions]


def predictions(run_id: str, split_name: str = "test") -> pd.DataFrame:
    """The stored predictions of a run.

    Raises:
        RunError, PredictionsError: there are none, or they cannot be read.
    """
    folder = run(run_id)
    return _predictions(str(folder.path), split_name, file_stamp(folder.predictions_file(split_name)))


@st.cache_data(max_entries=64, show_spinner=False)
def _predictions(path: str, split_name: str, stamp: tuple) -> pd.DataFrame:
    return RunFolder(Path(path)).predictions(split_name)


def metrics(run_id: str) -> pd.DataFrame:
    """Epoch metrics of a run; empty before the first epoch has ended."""
    folder = run(run_id)
    return _metrics(str(folder.path), file_stamp(folder.path / "metrics.jsonl"))


@st.cache_data(max_entries=64, show_spinner=False)
def _metrics(path: str, stamp: tuple) -> pd.DataFrame:
    return RunFolder(Path(path)).metrics()


def manifest_of(run_id: str) -> Manifest:
    """The images of a run with their split.

    Raises:
        RunError: the run has none.
    """
    folder = run(run_id)
    return _manifest_of(str(folder.path), file_stamp(folder.path / "manifest.csv"))


@st.cache_data(max_entries=ENTRIES, show_spinner=False)
def _manifest_of(path: str, stamp: tuple) -> Manifest:
    return RunFolder(Path(path)).manifest()


def estimates(
    run_id: str, split_name: str, names: tuple[str, ...], by: str | None = None, draws: int = 2000
) -> pd.DataFrame:
    """Scores of a run with intervals, a row per slice: see `engine.analysis.intervals.estimate_table`."""
    folder = run(run_id)
    stamp = file_stamp(folder.predictions_file(split_name))
    return _estimates(str(folder.path), split_name, stamp, tuple(names), by, draws)


@st.cache_data(max_entries=128, show_spinner=False)
def _estimates(path: str, split_name: str, stamp: tuple, names: tuple[str, ...], by: str | None, draws: int):
    return intervals.estimate_table(_predictions(path, split_name, stamp), names, by=by, draws=draws)


def marks() -> pd.DataFrame:
    """What people remarked on images (`engine.analysis.review.marks`)."""
    return _marks(str(places.runs_folder()), marks_stamp())


def marks_stamp() -> tuple[int, int]:
    """Time and size of the file of marks: what depends on them is keyed by it."""
    return file_stamp(places.runs_folder() / review.FILE)


@st.cache_data(max_entries=4, show_spinner=False)
def _marks(runs: str, stamp: tuple) -> pd.DataFrame:
    return review.marks(Path(runs))


# --- models --------------------------------------------------------------------------------------------
def model(run_id: str) -> tuple[Any, threading.Lock]:
    """A run's model and the lock to hold while using it: hooks sit on a shared model, sessions are threads.

    At most two models stay in memory. The first call imports torch (several seconds).

    Raises:
        RunError: the run has no weights.
    """
    folder = run(run_id)
    if not folder.best.is_file():
        raise RunError(
            f"The run {folder.name} has no weights",
            found=f"state {folder.state()}",
            remedy="Choose a run that has completed at least one epoch",
        )
    return _model(str(folder.path), file_stamp(folder.best))


@st.cache_resource(max_entries=2, show_spinner="Loading the model ...")
def _model(path: str, stamp: tuple) -> tuple[Any, threading.Lock]:
    from engine.training import models

    return models.load_run_model(RunFolder(Path(path))), threading.Lock()


def file_stamp(path: str | Path) -> tuple[int, int]:
    """(time of change, size); zeros where there is no file."""
    try:
        found = Path(path).stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
