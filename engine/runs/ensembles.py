"""Ensembles of runs: combined from stored predictions, searched on validation, saved as runs of their own.

A saved ensemble is a run folder like any other: its config names members, method, weights and fit, its
predictions are stored, no weights are copied. A fusion is queued, since it computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.analysis.comparison import Comparison, Entry, compare
from engine.analysis.ensemble import Combined, Fitted, by_case, cube, method_of, shares
from engine.analysis.fitting import ensemble_predictions
from engine.analysis.metrics import outcome, value
from engine.analysis.predictions import classes_of
from engine.analysis.roles import Caution, cautions
from engine.analysis.subsets import Optimism, Search, search, search_optimism
from engine.errors import EnsembleError
from engine.progress import Progress
from engine.runs.config import RunConfig, TrainingConfig
from engine.runs.folder import RunFolder
from engine.runs.listing import summaries
from engine.runs.results import (
    Compared,
    TrainedOn,
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
    """What any member of an ensemble was trained on, among the images to be scored.

    `images` are never scored; `cases` raise the leakage badge.
    """

    images: frozenset[str]
    cases: frozenset[str]


def seen_among(learned: Iterable[TrainedOn], images: AbstractSet[str], cases: AbstractSet[str]) -> Seen:
    """The images and cases to be scored that somebody learned from; unknown cases ("") never count."""
    met = list(learned)
    return Seen(
        frozenset().union(*(one.images & images for one in met)),
        frozenset().union(*(one.cases & cases for one in met)) - {""},
    )


def seen_by(members: Sequence[RunFolder], tables: Mapping[str, pd.DataFrame]) -> Seen:
    """`seen_among` of the members' own training, for the images of their tables."""
    return seen_among(
        (trained_on(folder) for folder in members),
        set().union(*(table["image_id"] for table in tables.values())),
        set().union(*(table["case"] for table in tables.values())),
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
    per_case: bool = False,
) -> Ensemble:
    """Combine the stored predictions of runs.

    An image that any member was trained on is left out; `excluded` counts them.

    Args:
        per_case: every image carries what its case says over all magnifications (`ensemble.by_case`).

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
        tables,
        method,
        weights,
        tie_rule=tie_rule,
        validation=validation,
        exclude=seen.images,
        per_case=per_case,
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
    per_case: bool = False,
    selection: Selection | None = None,
    locked: bool = False,
) -> Compared:
    """Members in order and their ensemble last, compared with the best member; with a name it is also saved as a run.

    Args:
        selection, locked: as for `save_ensemble`.

    Raises:
        EnsembleError, PredictionsError, RunError: see `combine_runs`.
    """
    made = combine_runs(members, method, weights, split=split, tie_rule=tie_rule, per_case=per_case)
    saved = (
        save_ensemble(
            members,
            method,
            name,
            runs or members[0].runs,
            weights=weights,
            tie_rule=tie_rule,
            per_case=per_case,
            selection=selection,
            locked=locked,
        )
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
    if per_case:
        extra["per_case"] = True
    if saved:
        extra["id"] = saved.id
        if selection:
            extra["selection"] = saved.config().details["selection"]
    facts = facts_of([*members, saved] if saved else members)
    compared = compare([*entries, own], reference=best_member(members, split).id)
    extra["cautions"] = [
        asdict(one)
        for one in _cautions(members, made, compared, split, selection.chosen_on if selection else "")
    ]
    return Compared(compared, audits, split, extra, **facts)


def best_member(members: Sequence[RunFolder], split: str) -> RunFolder:
    """The member of greatest balanced accuracy on validation, so that test does not choose an ensemble's rival;
    on `split` where one has no validation predictions. Of equals the first."""
    side = "val" if all("val" in folder.predicted_splits() for folder in members) else split
    scores = [value("balanced_accuracy", outcome(folder.predictions(side))) for folder in members]
    return members[int(np.argmax(np.nan_to_num(scores, nan=-1.0)))]


def _cautions(
    members: Sequence[RunFolder], made: Ensemble, compared: Comparison, split: str, chosen_on: str
) -> list[Caution]:
    """What to beware of, but for what the audit says already. made: the last entry of the comparison."""
    source = cube({folder.id: folder.predictions(split) for folder in members})
    source = source.take(source.frame["image_id"].isin(made.table["image_id"]).to_numpy())
    gap = next(
        (
            one.estimate
            for one in compared.differences
            if one.id == compared.entries[-1].id and one.score == "balanced_accuracy"
        ),
        None,
    )
    looked_at: frozenset[str] = frozenset()
    if split == "test" and chosen_on == "val":
        looked_at = frozenset().union(*(folder.predictions("val")["case"] for folder in members))
    return cautions(
        source,
        made.combined,
        gain=(gap.value, gap.low, gap.high) if gap and len(members) > 1 else None,
        chosen_on=chosen_on,
        fitted_on="val" if made.fits else "",
        chosen_cases=looked_at,
    )


def save_ensemble(
    members: Sequence[RunFolder],
    method: str,
    name: str,
    runs: Path,
    *,
    weights: Sequence[float] | None = None,
    tie_rule: str = "mean-probability",
    per_case: bool = False,
    selection: Selection | None = None,
    locked: bool = False,
    study: str = "",
    experiment: str = "",
) -> RunFolder:
    """Save an ensemble as a run (kind `ensemble`): members, weights, fit and predictions; no copies of weights.

    Args:
        selection: how it was found.
        locked: nothing of it may change any more, so that its test score may be shown while choosing.
        study: the row of the source study's table that it reproduces. experiment: that it belongs to.
    """
    parts = {
        split: combine_runs(members, method, weights, split=split, tie_rule=tie_rule, per_case=per_case)
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
        "per_case": per_case,
    }
    if study:
        details["study"] = study
    if selection:
        details |= {"locked": locked, "selection": selection.as_record(members, runs)}
    config = RunConfig(
        kind="ensemble",
        name=name,
        data=first.data,
        training=TrainingConfig(mode=common_mode(members)),
        classes=classes_of(last.table),
        experiment=experiment,
        details=details,
    )
    return finished(
        runs, config, f"ensemble_{method}", {split: part.table for split, part in parts.items()}, last.audit
    )


# -- how it was found -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """How an ensemble was found: recorded when it is locked, before its test score is seen.

    Attributes:
        chosen_on: the split that was looked at while choosing.
        candidates: ids of the runs it was chosen from.
        subsets: combinations that searches scored; methods: by which.
        looked_at: choices that were looked at one by one.
        optimism: what having searched makes of the score, where that could be estimated.
    """

    chosen_on: str = "val"
    candidates: tuple[str, ...] = ()
    subsets: int = 0
    methods: tuple[str, ...] = ()
    looked_at: int = 0
    optimism: Optimism | None = None

    def as_record(self, members: Sequence[RunFolder], runs: Path) -> dict[str, Any]:
        """As the ensemble's config keeps it, with who and when, and how often this test was seen before."""
        ids = {*self.candidates, *(folder.id for folder in members)}
        return {
            "chosen_on": self.chosen_on,
            "candidates": list(self.candidates) or [folder.id for folder in members],
            "subsets": self.subsets,
            "methods": list(self.methods),
            "looked_at": self.looked_at,
            "tried": self.subsets + self.looked_at,
            "optimism": asdict(self.optimism) if self.optimism else None,
            "seen_before": len(seen_before(runs, ids)),
            "locked_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "locked_by": access.actor().name,
        }


def seen_before(runs: Path, candidates: Iterable[str]) -> list[str]:
    """Saved ensembles of these runs (two members in common, or all of a smaller one): each showed its test score."""
    wanted = set(candidates)
    return [
        one.id
        for one in summaries(runs)
        if one.config.kind == "ensemble"
        and len(wanted & set(one.config.details.get("members") or ()))
        >= min(2, len(wanted), len(one.config.details.get("members") or ()))
    ]


def locked_run(
    runs: Path,
    members: Sequence[str],
    method: str,
    weights: Sequence[float] | None = None,
    *,
    tie_rule: str = "mean-probability",
    per_case: bool = False,
) -> str:
    """The id of the newest locked ensemble that is exactly this choice; empty where it was not locked."""
    for one in summaries(runs):
        details = one.config.details
        if one.config.kind != "ensemble" or not details.get("locked"):
            continue
        same = (
            sorted(details.get("members") or ()) == sorted(members)
            and details.get("method") == method
            and bool(details.get("per_case")) == per_case
            and (method != "vote" or details.get("tie_rule") == tie_rule)
        )
        if same and (method_of(method).fitted or _same_weights(details, members, weights)):
            return one.id
    return ""


def _same_weights(
    details: Mapping[str, Any], members: Sequence[str], weights: Sequence[float] | None
) -> bool:
    own = dict(zip(members, shares(weights, len(members)), strict=True))
    return all(
        abs(own[name] - share) < 1e-6
        for name, share in zip(details["members"], details["weights"], strict=True)
    )


# -- searched -------------------------------------------------------------------------------------


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
            record["optimism"] = asdict(self.optimism)
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
    name: str | None = None,
    per_case: bool = False,
    methods: Sequence[str] = ("mean", "vote"),
    progress: Progress | None = None,
) -> Searched:
    """Rank all subsets on validation; test stays covered unless `reveal`.

    Revealing locks the best one first: it is saved as a run that records what was tried.

    Args:
        name: of the saved run.

    Raises:
        EnsembleError: too many members, or none that fit together. RunError: one has no validation predictions.
    """
    distinct(members)
    tables = {folder.id: folder.predictions("val") for folder in members}
    seen = seen_by(members, tables)
    held = cube(tables)
    held = held.take(~held.frame["image_id"].isin(seen.images).to_numpy())
    if per_case:
        held = by_case(held)
    found = search(
        held,
        methods,
        max_size,
        progress=(lambda share: progress(round(share * 1000), 1000)) if progress else None,
    )
    by_id = {folder.id: folder for folder in members}
    best = [by_id[run_id] for run_id in found.members()]
    method = found.methods[int(found.method[0])]
    try:
        optimism = search_optimism(held, methods, max_size)
    except EnsembleError:  # too few cases to search on some and judge on others: then nothing is claimed
        optimism = None
    if reveal and not name:
        name = f"Best of {found.tried:,}: {method} of {len(best)}"
    selection = Selection(
        candidates=tuple(by_id), subsets=found.tried, methods=tuple(found.methods), optimism=optimism
    )
    compared = ensemble_runs(
        best,
        method,
        split="test" if reveal else "val",
        name=name,
        per_case=per_case,
        selection=selection,
        locked=reveal,
    )
    return Searched(found, compared, optimism, {folder.id: folder.name for folder in members})
