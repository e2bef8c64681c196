"""Members' predictions as cubes, read and aligned once per set of runs with the same images; and who has seen what.

Everything is kept by the times and sizes of the files it came from (`keys`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import cached, places
from engine.analysis import ensemble
from engine.analysis.ensemble import Cube
from engine.analysis.predictions import classes_of
from engine.errors import EnsembleError
from engine.runs import results
from engine.runs.ensembles import Seen, seen_among
from engine.runs.folder import RunFolder


def files_key(ids: Sequence[str], split: str) -> tuple:
    """The folder, and times and sizes of the predictions in it. ids: of the page's choice, which `read` checked."""
    runs = places.runs_folder()
    files = [RunFolder(runs / run_id).predictions_file(split) for run_id in ids]
    return (str(runs), *(cached.file_stamp(file) for file in files))


def keys(members: Sequence[str], split: str) -> tuple[tuple, tuple]:
    """What an answer about members depends on: their predictions, and what they were trained on."""
    return files_key(members, split), trained_key(members)


def cube(members: Sequence[str], split: str, per_case: bool = False) -> Cube:
    """The members' predictions on their common images; images a member was trained on are left out.

    Raises:
        RunError, PredictionsError, EnsembleError: no predictions, or members that do not fit together.
    """
    own = keys(members, split)
    return _by_case(tuple(members), split, *own) if per_case else _cube(tuple(members), split, *own)


@st.cache_resource(max_entries=64, show_spinner=False)
def _by_case(members: tuple[str, ...], split: str, key: tuple, trained_key: tuple) -> Cube:
    return ensemble.by_case(_cube(members, split, key, trained_key))


@st.cache_resource(max_entries=256, show_spinner=False)
def _cube(members: tuple[str, ...], split: str, key: tuple, trained_key: tuple) -> Cube:
    first = _signature(members[0], split, key[:2])
    same = all(
        _signature(run_id, split, (key[0], stamp)) == first
        for run_id, stamp in zip(members, key[1:], strict=True)
    )
    if same:
        pool = _pool(split, first, _pool_key(split, first))
        inside = set(members) <= set(pool.ids)
        source = pool.members(members) if inside else aligned(members, split)
    else:
        source = aligned(members, split)
    banned = frozenset().union(*(trained(run_id).images for run_id in members))
    keep = ~source.frame["image_id"].isin(banned).to_numpy() if banned else np.ones(len(source.true), bool)
    if not keep.any():
        raise EnsembleError(
            "No image is left to score",
            found=f"every one of the {len(keep)} images was in some member's training set",
            remedy="Choose members trained on the same split, so that they share a test set",
        )
    return source if keep.all() else source.take(keep)


def aligned(members: Sequence[str], split: str) -> Cube:
    return ensemble.cube({run_id: cached.predictions(run_id, split) for run_id in members})


@st.cache_data(max_entries=512, show_spinner=False)
def _signature(run_id: str, split: str, key: tuple) -> str:
    """The same for runs that predicted the same images."""
    table = RunFolder(Path(key[0]) / run_id).predictions(split)
    values = pd.util.hash_pandas_object(table["image_id"].astype(str).sort_values(), index=False)
    folds = "fold" if "fold" in table.columns else ""
    return f"{len(table)}-{int(values.sum()):x}-{','.join(classes_of(table))}-{folds}"


def _pool_key(split: str, signature: str) -> tuple[str, ...]:
    """The runs that share a set of images, newest first (at most 40)."""
    ids = []
    for summary in cached.scored(split):
        key = files_key([summary.id], split)
        if _signature(summary.id, split, key) == signature:
            ids.append(summary.id)
    return tuple(ids[:40])


@st.cache_resource(max_entries=8, show_spinner=False)
def _pool(split: str, signature: str, ids: tuple[str, ...]) -> Cube:
    return aligned(ids, split)


def mates(run_id: str, split: str) -> list[str]:
    """The runs that predicted the same images as this one, itself among them."""
    signature = _signature(run_id, split, files_key([run_id], split))
    return list(_pool_key(split, signature))


# --- what members were trained on ----------------------------------------------------------------------
def trained_key(members: Sequence[str]) -> tuple:
    runs = places.runs_folder()
    return tuple(cached.file_stamp(runs / run_id / "config.json") for run_id in members)


def trained(run_id: str) -> results.TrainedOn:
    path = places.runs_folder() / run_id
    return _trained_on(str(path), cached.file_stamp(path / "config.json"))


@st.cache_resource(max_entries=128, show_spinner=False)
def _trained_on(path: str, stamp: tuple) -> results.TrainedOn:
    return results.trained_on(RunFolder(Path(path)))


def seen(members: Sequence[str], split: str) -> Seen:
    """What of the images that the members predicted any of them was trained on."""
    return _seen(tuple(members), split, *keys(members, split))


@st.cache_data(max_entries=256, show_spinner=False)
def _seen(members: tuple[str, ...], split: str, key: tuple, trained_key: tuple) -> Seen:
    images: set[str] = set()
    cases: set[str] = set()
    for run_id, stamp in zip(members, key[1:], strict=True):
        own_images, own_cases = _predicted(run_id, split, (key[0], stamp))
        images |= own_images
        cases |= own_cases
    return seen_among([trained(run_id) for run_id in members], images, cases)


@st.cache_resource(max_entries=128, show_spinner=False)
def _predicted(run_id: str, split: str, key: tuple) -> tuple[frozenset[str], frozenset[str]]:
    """(images, cases) that a run predicted."""
    table = RunFolder(Path(key[0]) / run_id).predictions(split)
    return frozenset(table["image_id"]), frozenset(table["case"])
