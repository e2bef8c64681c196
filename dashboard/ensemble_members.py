"""Which runs can be members of an ensemble, what each costs, and what adding one would do to a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import cached, ensemble_cubes, places
from engine.analysis.ensemble import Cube
from engine.analysis.predictions import classes_of
from engine.errors import EngineError
from engine.runs import derived
from engine.runs.folder import Summary

SPLITS = {"val": "validation", "test": "test"}


def candidates(summaries: Sequence[Summary]) -> list[Summary]:
    """Runs that can be members: those with predictions, ensembles too. Runs that only repeat another one with
    test-time augmentation are behind a switch."""
    return [one for one in summaries if one.has_predictions and one.config.kind != "tta"]


def augmented(members: Sequence[str]) -> dict[str, str]:
    """Member -> the run that predicted it with test-time augmentation, where that was computed."""
    return derived.augmented(places.runs_folder(), members)


@dataclass(frozen=True)
class Cost:
    """What a run costs at prediction: size of its weights in bytes, milliseconds per image; nan = unknown."""

    size: float
    latency: float

    @property
    def text(self) -> str:
        parts = []
        if self.size == self.size:
            parts.append(f"{self.size / 1e6:.0f} MB")
        if self.latency == self.latency:
            parts.append(f"{self.latency:.0f} ms/image")
        return " · ".join(parts)


def cost(run_id: str, by_id: Mapping[str, Summary]) -> Cost:
    """Size and measured latency of a run; of an ensemble or fusion with those of its members.

    Latency is what predicting validation and test took when the run was made, on the device it ran on.
    """
    summary = by_id.get(run_id)
    if summary is None or summary.config.kind in ("import", "pooled"):
        return Cost(float("nan"), float("nan"))
    weights = cached.run(run_id).best
    size = float(weights.stat().st_size) if weights.is_file() else 0.0
    own = summary.status.numbers.get("predict_ms_per_image")
    members = list(summary.config.details.get("members") or ())
    if summary.config.kind == "tta" and members:
        return Cost(cost(members[0], by_id).size, float(own) if own else float("nan"))
    if summary.config.kind in ("ensemble", "fusion"):
        parts = [cost(one, by_id) for one in members]
        return Cost(size + sum(one.size for one in parts), sum(one.latency for one in parts))
    return Cost(size or float("nan"), float(own) if own else float("nan"))


def fit_problems(ids: Sequence[str], members: Sequence[str], split: str) -> dict[str, tuple[str, bool]]:
    """Run -> (what adding it to the members would cost, whether it cannot be added), judged per scored image.

    Only runs with something to say: others have the same images, none of which they were trained on, and saw no
    case of them.
    """
    found: dict[str, tuple[str, bool]] = {}
    if not members:
        return found
    try:
        scored = ensemble_cubes.cube(members, split)
        mark = _images_mark(scored)
        for run_id in set(ids) - set(members):
            keys = (mark, *ensemble_cubes.keys([run_id], split))
            problem = _fit_problem(run_id, split, *keys, scored)
            if problem[0]:
                found[run_id] = problem
    except EngineError:  # the choice itself does not fit together: the right side says so
        return {}
    return found


def _images_mark(source: Cube) -> tuple:
    """The same for cubes of the same images and classes: most choices score the same images."""
    hashed = pd.util.hash_pandas_object(source.frame["image_id"].astype(str), index=False)
    return source.classes, len(hashed), int(hashed.sum())


@st.cache_data(max_entries=1024, show_spinner=False)
def _fit_problem(
    run_id: str, split: str, mark: tuple, keys: tuple, trained: tuple, _source: Cube
) -> tuple[str, bool]:
    """_source: not hashed, `mark` stands for it."""
    if split not in cached.run(run_id).predicted_splits():
        return f"no {SPLITS[split]} predictions", True
    scored = _source.frame
    table = cached.predictions(run_id, split)
    if classes_of(table) != _source.classes:
        return "other classes", True
    common = set(table["image_id"]) & set(scored["image_id"])
    if not common:
        return f"shares no {SPLITS[split]} image with the choice", True
    learned = ensemble_cubes.trained(run_id)
    known = common & learned.images
    if len(known) == len(common):
        return "was trained on every image that is scored", True
    found = []
    if known:
        found.append(f"trained on {len(known):,} scored images: they would be left out")
    elif len(common) < len(scored):
        found.append(f"lacks {len(scored) - len(common):,} of the scored images")
    cases = (set(scored.loc[scored["image_id"].isin(common - known), "case"]) - {""}) & learned.cases
    if cases:
        found.append(f"saw {len(cases):,} scored cases in training")
    return "; ".join(found), False
