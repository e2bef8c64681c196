"""Runs that a worker makes from trained ones: a fusion of their features, the mean of their weights, their
predictions over flips. Queued like any training, since they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import EnsembleError, shorten
from engine.runs import presets
from engine.runs.config import NETWORKS, RunConfig
from engine.runs.creation import create
from engine.runs.folder import RunFolder, locate
from engine.runs.joining import check_members, check_same_start
from engine.runs.launch import enqueue
from engine.runs.listing import summaries
from engine.runs.results import common_mode, distinct, worst_audit
from engine.share import access

SOUPS = ("uniform", "greedy")


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
