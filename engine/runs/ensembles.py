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

import pandas as pd

from engine.analysis.comparison import Entry, compare
from engine.analysis.ensemble import Combined, Fitted, by_case, cube, method_of, shares
from engine.analysis.fitting import ensemble_predictions
from engine.analysis.predictions import classes_of
from engine.analysis.subsets import Optimism, Search, search, search_optimism
from engine.errors import EnsembleError, shorten
from engine.progress import Progress
from engine.runs import presets
from engine.runs.config import NETWORKS, RunConfig, TrainingConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder, locate
from engine.runs.joining import check_members, check_same_start
from engine.runs.launch import enqueue
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
SOUPS = ("uniform", "greedy")


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
) -> Compared:
    """Members in order and their ensemble last, compared; with a name it is also saved as a run.

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
            locked=selection is not None,
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
    return Compared(compare([*entries, own], reference=entries[0].id), audits, split, extra, **facts)


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


# -- computed by a worker -------------------------------------------------------------------------


def start_fusion(
    members: Sequence[RunFolder],
    name: str,
    runs: Path,
    *,
    as_study: bool = False,
    study: str = "",
    experiment: str = "",
) -> RunFolder:
    """Queue a CNN-MLP fusion of trained runs of one split (kind `fusion`).

    Args:
        as_study: fitted on validation and watched on test, as the study did.
        study, experiment: as for `save_ensemble`.

    Raises:
        EnsembleError: members that cannot be joined (see `joining.check_members`).
    """
    check_members(list(members), members[0].manifest() if members else _none())
    details = {"as_study": as_study} | ({"study": study} if study else {})
    return _queue("fusion", members, name, runs, details, experiment)


def start_soup(members: Sequence[RunFolder], name: str, runs: Path, *, recipe: str = "uniform") -> RunFolder:
    """Queue the mean of the members' weights as one network (kind `soup`).

    Args:
        recipe: `uniform`, or `greedy`: a member is taken in where validation does not get worse.

    Raises:
        EnsembleError: other architectures or first weights (see `joining.check_same_start`).
    """
    manifest = members[0].manifest() if members else _none()
    check_members(list(members), manifest)
    check_same_start([(folder.name, folder.config()) for folder in members], manifest.classes)
    if recipe not in SOUPS:
        raise EnsembleError("There is no such soup", found=recipe, remedy=f"Use {' or '.join(SOUPS)}")
    return _queue("soup", members, name, runs, {"recipe": recipe})


def _none() -> Any:
    raise EnsembleError("Joining needs at least two members", found="0", remedy="Choose more runs")


def start_tta(member: RunFolder, runs: Path) -> RunFolder:
    """Queue a trained run's predictions with test-time augmentation, as a run of its own (kind `tta`).

    Raises:
        EnsembleError: it has no network of its own, or averages flips already.
    """
    config = member.config()
    if config.kind not in NETWORKS:
        raise EnsembleError(
            f"{member.name} has no network of its own",
            found=f"a run of kind {config.kind}",
            remedy="Choose trained runs; an ensemble is augmented through its members",
        )
    if averages_flips(config):
        raise EnsembleError(
            f"{member.name} averages the four flips already",
            found=f"recipe {config.training.recipe}",
            remedy="Nothing needs to be computed",
        )
    return _queue("tta", [member], f"{member.name}, four flips", runs, {})


def averages_flips(config: RunConfig) -> bool:
    """Whether a run's own predictions are made with test-time augmentation."""
    return config.kind == "tta" or (config.kind == "train" and presets.resolve(config).tta)


def augmented(runs: Path, ids: Sequence[str]) -> dict[str, str]:
    """Run -> the run that predicted it with test-time augmentation (itself where it does so anyway).

    Runs that have none yet, or one that has not completed, are absent.
    """
    by_id = {one.id: one for one in summaries(runs)}
    found = {one: one for one in ids if one in by_id and averages_flips(by_id[one].config)}
    for one in by_id.values():
        of = one.config.details.get("members") or ()
        if one.config.kind == "tta" and len(of) == 1 and of[0] in ids and one.has_predictions:
            found.setdefault(of[0], one.id)
    return found


def with_tta(members: Sequence[RunFolder], runs: Path) -> list[RunFolder]:
    """The members as predicted with test-time augmentation.

    Raises:
        EnsembleError: for some this was not computed.
    """
    found = augmented(runs, [folder.id for folder in members])
    absent = [folder for folder in members if folder.id not in found]
    if absent:
        raise EnsembleError(
            "Some members were not predicted with test-time augmentation",
            found=shorten([folder.name for folder in absent]),
            remedy=f"python -m engine tta {absent[0].id}",
        )
    return [locate(runs, found[folder.id]) for folder in members]


def _queue(
    kind: str,
    members: Sequence[RunFolder],
    name: str,
    runs: Path,
    details: dict[str, Any],
    experiment: str = "",
) -> RunFolder:
    access.require_editor("launch runs")
    distinct(members)
    first = members[0].config()
    details = {"members": [folder.id for folder in members], **details}
    training = replace(first.training, mode=common_mode(members))
    config = replace(
        first, kind=kind, name=name, training=training, parent="", experiment=experiment, details=details
    )
    folder = create(
        runs,
        config,
        kind,
        manifest=members[0].manifest(),
        audit=worst_audit(members),
        split_hash=str(members[0].record().get("split_hash", "")),
    )
    enqueue(folder)
    return folder


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
        selection=selection if reveal else None,
    )
    return Searched(found, compared, optimism, {folder.id: folder.name for folder in members})
