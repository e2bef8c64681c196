"""Ensembles of runs: combined from stored predictions, searched on validation, saved as runs of their own.

A saved ensemble is a run folder like any other: its config names members, method, weights and fit, its
predictions are stored, no weights are copied. A fusion is queued, since it computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from engine.analysis.comparison import Entry, compare
from engine.analysis.ensemble import Combined, Fitted, cube, method_of
from engine.analysis.fitting import ensemble_predictions
from engine.analysis.predictions import classes_of
from engine.analysis.subsets import Optimism, Search, search, search_optimism
from engine.errors import EnsembleError
from engine.runs.config import RunConfig, TrainingConfig
from engine.runs.folder import RunFolder, create
from engine.runs.launch import enqueue
from engine.runs.results import (
    Compared,
    Progress,
    common_mode,
    distinct,
    entry,
    facts_of,
    finished,
    trained_on,
    worst_audit,
)
from engine.share import access

MAX_LISTED = 5000


@dataclass(frozen=True)
class Seen:
    """What the members of an ensemble were trained on, among the images to be scored.

    `images` are never scored; `cases` raise the leakage badge; `unknown` members tell nothing.
    """

    images: frozenset[str]
    cases: frozenset[str]
    unknown: tuple[str, ...]


def seen_by(members: Sequence[RunFolder], tables: Mapping[str, pd.DataFrame]) -> Seen:
    """Judge every image to be scored by what each member learned from."""
    learned = {folder.id: trained_on(folder) for folder in members}
    scored_images = frozenset().union(*(set(table["image_id"]) for table in tables.values()))
    scored_cases = frozenset().union(*(set(table["case"]) for table in tables.values())) - {""}
    return Seen(
        scored_images.intersection(*[frozenset().union(*(one.images for one in learned.values()))]),
        scored_cases.intersection(*[frozenset().union(*(one.cases for one in learned.values()))]),
        tuple(folder.name for folder in members if not learned[folder.id].known),
    )


def ensemble_audit(members: Sequence[RunFolder], seen: Seen) -> dict[str, Any]:
    """The leakage badge of an ensemble: by what is scored, then the worst of its members'."""
    if seen.cases:
        cases = sorted(seen.cases)
        return {
            "level": "leak",
            "verdict": f"Leaks: members were trained on {len(cases)} of the cases they are scored on, among them {', '.join(cases[:3])}.",
            "seen_cases": cases,
        }
    return worst_audit(members)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """An ensemble of stored predictions in one split, before it is saved or compared."""

    table: pd.DataFrame
    combined: Combined
    fits: dict[str, Fitted]
    excluded: int
    audit: dict[str, Any]


def combine_runs(
    members: Sequence[RunFolder],
    method: str = "mean",
    weights: Sequence[float] | None = None,
    *,
    split: str = "test",
    tie_rule: str = "mean-probability",
) -> Ensemble:
    """Combine the stored predictions of runs.

    An image that any member was trained on is left out; `excluded` counts them.

    Raises:
        EnsembleError, PredictionsError, RunError: members that do not fit together, or lack predictions.
    """
    if not members:
        raise EnsembleError("An ensemble needs members", remedy="Choose at least one checkpoint")
    distinct(members)
    tables = {folder.id: folder.predictions(split) for folder in members}
    validation = None
    if method_of(method).fitted:
        validation = {folder.id: folder.predictions("val") for folder in members}
    seen = seen_by(members, tables)
    table, combined, fits = ensemble_predictions(
        tables, method, weights, tie_rule=tie_rule, validation=validation, exclude=seen.images
    )
    return Ensemble(table, combined, fits, len(seen.images), ensemble_audit(members, seen))


def ensemble_runs(
    members: Sequence[RunFolder],
    method: str = "mean",
    *,
    weights: Sequence[float] | None = None,
    split: str = "test",
    name: str | None = None,
    runs: Path | None = None,
    tie_rule: str = "mean-probability",
) -> Compared:
    """Members in order and their ensemble last, compared; with a name it is also saved as a run.

    Raises:
        EnsembleError, PredictionsError, RunError: see `combine_runs`.
    """
    made = combine_runs(members, method, weights, split=split, tie_rule=tie_rule)
    saved = (
        save_ensemble(members, method, name, runs or members[0].runs, weights=weights, tie_rule=tie_rule)
        if name
        else None
    )
    label = name or f"{method_of(method).title} of {len(members)}"
    own = Entry(saved.id if saved else "ensemble", label, made.table)
    scored = set(made.table["image_id"])
    entries = [entry(folder, split) for folder in members]
    entries = [
        replace(one, predictions=one.predictions[one.predictions["image_id"].isin(scored)]) for one in entries
    ]
    audits = {folder.id: folder.audit() for folder in members} | {own.id: made.audit}
    extra: dict[str, Any] = {
        "method": method,
        "weights": [float(value) for value in made.combined.weights],
        "ties": made.combined.ties,
        "excluded": made.excluded,
    }
    if saved:
        extra["id"] = saved.id
    facts = facts_of([*members, saved] if saved else members)
    return Compared(compare([*entries, own], reference=entries[0].id), audits, split, extra, **facts)


def save_ensemble(
    members: Sequence[RunFolder],
    method: str,
    name: str,
    runs: Path,
    *,
    weights: Sequence[float] | None = None,
    tie_rule: str = "mean-probability",
    notes: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Save an ensemble as a run (kind `ensemble`): members, weights, fit and predictions; no copies of weights.

    Args:
        notes: what is to be remembered of how it was found (a search, say).
    """
    parts = {
        split: combine_runs(members, method, weights, split=split, tie_rule=tie_rule)
        for split in ("val", "test")
        if all(split in folder.predicted_splits() for folder in members)
    }
    if not parts:
        raise EnsembleError(
            "The members have no split in common that can be saved",
            found="; ".join(
                f"{folder.name}: {', '.join(folder.predicted_splits()) or 'none'}" for folder in members[:4]
            ),
            remedy="Choose members that have completed",
        )
    last = parts.get("test") or parts["val"]
    first = members[0].config()
    details = {
        "members": [folder.id for folder in members],
        "method": method,
        "weights": [float(value) for value in last.combined.weights],
        "tie_rule": tie_rule,
        "fits": {key: fit.as_record() for key, fit in last.fits.items()},
        "excluded": {split: part.excluded for split, part in parts.items()},
        **(notes or {}),
    }
    config = RunConfig(
        kind="ensemble",
        name=name,
        data=first.data,
        training=TrainingConfig(mode=common_mode(members)),
        classes=classes_of(last.table),
        details=details,
    )
    return finished(
        runs, config, f"ensemble_{method}", {split: part.table for split, part in parts.items()}, last.audit
    )


def start_fusion(members: Sequence[RunFolder], name: str, runs: Path, *, as_study: bool = False) -> RunFolder:
    """Queue a CNN-MLP fusion of trained runs of one split (kind `fusion`).

    Raises:
        EnsembleError: fewer than two members, or members that are no trained runs.
    """
    access.require_editor("launch runs")
    if len(members) < 2:
        raise EnsembleError(
            "A fusion needs at least two members", found=str(len(members)), remedy="Choose more runs"
        )
    distinct(members)
    untrained = [folder.name for folder in members if folder.config().kind != "train"]
    if untrained:
        raise EnsembleError(
            "Only trained runs can be fused", found=", ".join(untrained), remedy="Leave the others out"
        )
    first = members[0].config()
    details = {"members": [folder.id for folder in members], "as_study": as_study}
    training = replace(first.training, mode=common_mode(members))
    config = replace(
        first, kind="fusion", name=name, training=training, parent="", experiment="", details=details
    )
    record = members[0].record()
    folder = create(
        runs,
        config,
        "fusion",
        manifest=members[0].manifest(),
        audit=worst_audit(members),
        split_hash=str(record.get("split_hash", "")),
    )
    enqueue(folder)
    return folder


@dataclass(frozen=True)
class Searched:
    """A search over all subsets, ranked on validation; the best one compared with its members."""

    search: Search
    best: Compared
    optimism: Optimism | None
    names: Mapping[str, str]

    def as_record(self) -> dict[str, Any]:
        """The document of `ensemble --search --json`."""
        record = {
            **self.best.as_record(),
            "tried": self.search.tried,
            "search": self.search.records(MAX_LISTED),
        }
        if self.optimism:
            record["optimism"] = {
                "apparent": self.optimism.apparent,
                "nested": self.optimism.nested,
                "optimism": self.optimism.optimism,
            }
        return record

    def as_text(self) -> str:
        lines = [
            f"{self.search.tried:,} combinations tried, ranked by balanced accuracy on validation (n = {self.search.n:,} images, {self.search.n_cases} cases):"
        ]
        for rank, row in enumerate(self.search.records(10), 1):
            lines.append(
                f"{rank:>3}. {row['score']:.4f}  {row['method']:<6} {', '.join(self.names[run_id] for run_id in row['members'])}"
            )
        if self.optimism:
            lines.append(str(self.optimism))
        return "\n".join([*lines, "", f"The first of them on {self.best.split}:", self.best.as_text()])


def search_ensembles(
    members: Sequence[RunFolder],
    *,
    max_size: int | None = None,
    reveal: bool = False,
    methods: Sequence[str] = ("mean", "vote"),
    progress: Progress | None = None,
) -> Searched:
    """Rank all subsets on validation; test stays covered unless `reveal`.

    Raises:
        EnsembleError: too many members, or none that fit together. RunError: one has no validation predictions.
    """
    distinct(members)
    tables = {folder.id: folder.predictions("val") for folder in members}
    seen = seen_by(members, tables)
    held = cube(tables)
    held = held.take(~held.frame["image_id"].isin(seen.images).to_numpy())
    found = search(
        held,
        methods,
        max_size,
        progress=(lambda share: progress(round(share * 1000), 1000)) if progress else None,
    )
    by_id = {folder.id: folder for folder in members}
    best = [by_id[run_id] for run_id in found.members()]
    compared = ensemble_runs(best, found.methods[int(found.method[0])], split="test" if reveal else "val")
    try:
        optimism = search_optimism(held, methods, max_size)
    except EnsembleError:  # too few cases to search on some and judge on others: then nothing is claimed
        optimism = None
    return Searched(found, compared, optimism, {folder.id: folder.name for folder in members})
