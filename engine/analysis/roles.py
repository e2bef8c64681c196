"""Who has seen what: which scored images and cases the members met before, and the warnings that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from engine.analysis.ensemble import METHODS, Combined, Cube
from engine.errors import shorten
from engine.wording import signed

ROLES = ("train", "val", "fused", "test")


@dataclass(frozen=True, eq=False)
class RoleAudit:
    """Which scored images and cases the members met before.

    trained: image_id -> members trained on it (never scored). seen_cases: case -> members trained on it
    (leakage badge). unknown: members whose training images are not known. table: a row per case, the scored
    ones first, a column per member with the roles its images had (`train`, `val`, `fused`, `test`, joined by +;
    "" none; "?" unknown). scored_cases: how many of its rows are scored. counts: images per member (rows) and
    role (columns `ROLES`).
    """

    trained: dict[str, tuple[str, ...]]
    seen_cases: dict[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    table: pd.DataFrame
    scored: int
    scored_cases: int = 0
    counts: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def excluded(self) -> list[str]:
        """Images that must not be scored."""
        return sorted(self.trained)

    @property
    def leaking(self) -> bool:
        """Whether a scored case was seen in training: the red badge."""
        return bool(self.seen_cases)

    @property
    def sentences(self) -> list[str]:
        """The audit in words, worst first."""
        lines = []
        if self.trained:
            lines.append(
                f"{len(self.trained):,} of {self.scored:,} images were in a member's training set and are not scored"
            )
        if self.seen_cases:
            lines.append(
                f"Leakage: {len(self.seen_cases):,} cases that are scored were seen in training by a member, "
                f"for example {shorten(sorted(self.seen_cases))}"
            )
        if self.unknown:
            lines.append(f"Unknown what was trained on: {shorten(list(self.unknown))}")
        return lines or ["No member has seen a scored case in training"]


def audit_roles(
    manifests: Mapping[str, pd.DataFrame | None], scored: pd.DataFrame | Iterable[str]
) -> RoleAudit:
    """Audit members' manifests against the images to be scored.

    Args:
        manifests: member -> its manifest table (image_id, case, split; optional fold; optional bool `fused`: a
            fusion was fitted on it), None where unknown. An image may have several rows.
        scored: the images to be scored: a table with image_id (and case; fold where tests are pooled), or ids.
            With a fold in both, an image counts as trained on only in its own fold.
    """
    wanted = scored if isinstance(scored, pd.DataFrame) else pd.DataFrame({"image_id": list(scored)})
    case_of = _case_lookup(manifests, wanted)
    trained: dict[str, list[str]] = {}
    seen: dict[str, list[str]] = {}
    cases = sorted({case for case in map(case_of.get, wanted["image_id"].astype(str)) if case})
    scored_cases = len(cases)
    others = {case for own in manifests.values() if own is not None for case in _cases(own, case_of)}
    cases += sorted(others - set(cases) - {""})
    columns: dict[str, list[str]] = {"case": cases}
    for member, manifest in manifests.items():
        if manifest is None or "split" not in manifest.columns:
            columns[member] = ["?"] * len(cases)
            continue
        for image in sorted(_trained_images(manifest, wanted)):
            trained.setdefault(image, []).append(member)
        known = _trained_cases(manifest, wanted, case_of)
        for case in sorted(known):
            seen.setdefault(case, []).append(member)
        columns[member] = _case_roles(manifest, cases, case_of)
    unknown = tuple(name for name, own in manifests.items() if own is None or "split" not in own.columns)
    return RoleAudit(
        {image: tuple(names) for image, names in trained.items()},
        {case: tuple(names) for case, names in seen.items()},
        unknown,
        pd.DataFrame(columns),
        len(wanted),
        scored_cases,
        pd.DataFrame(
            [_role_counts(name, own) for name, own in manifests.items()], columns=["member", *ROLES]
        ),
    )


def _case_lookup(manifests: Mapping[str, pd.DataFrame | None], wanted: pd.DataFrame) -> dict[str, str]:
    lookup: dict[str, str] = {}
    for table in [wanted, *[own for own in manifests.values() if own is not None]]:
        if "case" in table.columns:
            pairs = zip(table["image_id"].astype(str), table["case"].astype(str), strict=True)
            lookup = {image: case for image, case in pairs if case} | lookup
    return lookup


def _paired_by_fold(manifest: pd.DataFrame, wanted: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The manifest and the scored images, fold by fold where both have folds."""
    if "fold" not in manifest.columns or "fold" not in wanted.columns:
        return [(manifest, wanted)]
    own, other = manifest["fold"].astype(str), wanted["fold"].astype(str)
    return [(manifest[own == text], wanted[other == text]) for text in other.unique()]


def _trained_images(manifest: pd.DataFrame, wanted: pd.DataFrame) -> set[str]:
    found: set[str] = set()
    for own, images in _paired_by_fold(manifest, wanted):
        found |= set(own.loc[_learned(own), "image_id"].astype(str)) & set(images["image_id"].astype(str))
    return found


def _trained_cases(manifest: pd.DataFrame, wanted: pd.DataFrame, case_of: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for own, images in _paired_by_fold(manifest, wanted):
        train = {case_of.get(image, "") for image in own.loc[_learned(own), "image_id"].astype(str)}
        found |= train & {case_of.get(image, "") for image in images["image_id"].astype(str)}
    return found - {""}


def _case_roles(manifest: pd.DataFrame, cases: list[str], case_of: Mapping[str, str]) -> list[str]:
    roles: dict[str, set[str]] = {}
    for name, split, fused in zip(
        _cases(manifest, case_of), manifest["split"].astype(str), _fused(manifest), strict=True
    ):
        roles.setdefault(name, set()).update({split, "fused"} if fused else {split})
    return ["+".join(role for role in ROLES if role in roles.get(name, ())) for name in cases]


def _cases(manifest: pd.DataFrame, case_of: Mapping[str, str]) -> list[str]:
    return [case_of.get(image, "") for image in manifest["image_id"].astype(str)]


def _fused(manifest: pd.DataFrame) -> np.ndarray:
    """Rows that a fusion was fitted on."""
    if "fused" not in manifest.columns:
        return np.zeros(len(manifest), dtype=bool)
    return manifest["fused"].to_numpy(dtype=bool)


def _learned(manifest: pd.DataFrame) -> np.ndarray:
    """Rows that something was fitted on: the networks, or a fusion of them."""
    return (manifest["split"] == "train").to_numpy(dtype=bool) | _fused(manifest)


def _role_counts(member: str, manifest: pd.DataFrame | None) -> dict[str, object]:
    if manifest is None or "split" not in manifest.columns:
        return {"member": member, **dict.fromkeys(ROLES, np.nan)}
    ids, split = manifest["image_id"], manifest["split"]
    numbers = {role: ids[split == role].nunique() for role in ("train", "val", "test")}
    return {"member": member, **numbers, "fused": ids[_fused(manifest)].nunique()}


# --- warnings ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caution:
    """One warning about an ensemble. kind is machine-readable; serious ones get the badge."""

    kind: str
    message: str
    serious: bool = field(default=False)


def cautions(
    source: Cube,
    answer: Combined,
    *,
    audit: RoleAudit | None = None,
    gain: tuple[float, float, float] | None = None,
    chosen_on: str = "",
    fitted_on: str = "",
    chosen_cases: AbstractSet[str] = frozenset(),
) -> list[Caution]:
    """The warnings of honest ensembling that apply.

    gain: (difference to the best member, low, high). chosen_on / fitted_on: the split that members were
    chosen on and the method was fitted on ("" = neither happened). chosen_cases: the cases of that split, where
    another one is scored.
    """
    found: list[Caution] = []
    if audit and audit.trained:
        found.append(Caution("trained-on-scored", audit.sentences[0], True))
    if audit and audit.seen_cases:
        line = next(text for text in audit.sentences if text.startswith("Leakage"))
        found.append(Caution("leakage", line, True))
    if audit and audit.unknown:
        found.append(
            Caution("training-unknown", f"Unknown what was trained on: {shorten(list(audit.unknown))}")
        )
    if "test" in (chosen_on, fitted_on):
        found.append(
            Caution("selected-on-test", "Chosen or fitted on test: the test score is no longer a test", True)
        )
    both = (chosen_cases & set(source.frame["case"])) - {""}
    if both:
        text = (
            f"{len(both):,} of the scored cases were also looked at while choosing, as validation of other folds "
            "or of a split by image: this score is no test on new patients"
        )
        found.append(Caution("chosen-on-scored-cases", text))
    if METHODS[answer.method].fitted and fitted_on and fitted_on == chosen_on:
        text = f"The members were chosen on {chosen_on} and the method was fitted on it as well"
        found.append(Caution("fitted-where-chosen", text))
    if gain is not None and not np.isnan(gain[1]) and gain[1] <= 0 <= gain[2]:
        text = f"The difference to the best member ({signed(*gain)}) may be chance"
        found.append(Caution("gain-within-interval", text))
    elif gain is not None and gain[2] < 0:
        text = f"The best member alone is better ({signed(*gain)})"
        found.append(Caution("worse-than-best", text, True))
    if len(source) == 1:
        found.append(Caution("one-member", "One member is not an ensemble: the result is that member"))
    elif np.ptp(source.probs, axis=0).max() < 1e-9:
        found.append(Caution("identical", "All members predict the same: combining them changes nothing"))
    elif answer.weights.max() > 0.8:
        name = source.ids[int(answer.weights.argmax())]
        found.append(Caution("one-weight", f"{name} carries {answer.weights.max():.0%} of the weight"))
    cases = source.frame.loc[source.frame["case"] != "", "case"].nunique()
    if 0 < cases < 30:
        found.append(
            Caution(
                "few-cases", f"Only {cases} cases are scored: only large differences can be told from chance"
            )
        )
    if answer.ties:
        text = f"{answer.ties:,} of {len(answer.tied):,} votes tied"
        found.append(Caution("ties", text))
    return found
