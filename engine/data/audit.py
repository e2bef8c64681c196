"""The leakage audit: what stands on two sides of a split.

A model that has seen a patient in training recognises that patient's stain and tissue, so its score on
other images of the same patient says little about the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import pandas as pd

from engine.data.manifest import SPLITS
from engine.errors import SplitError, shorten


@dataclass(frozen=True)
class Audit:
    """What leaks between the sides of a split.

    `level`: `clean`, `leak` or `unknown` (no image names its case). `verdict`: one sentence for a badge.
    `shared_cases`, `shared_slides`: each with the sides it is on. `leaking_images`: per side that judges
    (`val`, `test`), the images whose case is also on a side before it. `cases`, `images`: totals.
    """

    level: str
    verdict: str
    shared_cases: dict[str, tuple[str, ...]]
    shared_slides: dict[str, tuple[str, ...]]
    leaking_images: dict[str, int]
    cases: int
    images: int
    unknown_cases: int = 0
    pairs: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return self.level == "clean"

    def as_record(self) -> dict:
        """The audit as `audit --json` prints it and as runs store it."""
        return {
            "level": self.level,
            "clean": self.clean,
            "verdict": self.verdict,
            "shared_cases": {name: list(sides) for name, sides in self.shared_cases.items()},
            "shared_slides": {name: list(sides) for name, sides in self.shared_slides.items()},
            "shared_cases_per_pair": self.pairs,
            "leaking_images": self.leaking_images,
            "cases": self.cases,
            "images": self.images,
            "unknown_cases": self.unknown_cases,
        }


def audit(table: pd.DataFrame) -> Audit:
    """Audit a split by what its table says: cases and slides.

    Args:
        table: a manifest's table with `split`; at least image_id and split, `case` and `slide` if known.

    Raises:
        SplitError: there is no column `split`, or nothing in it.
    """
    if "split" not in table.columns or not table["split"].astype(bool).any():
        raise SplitError(
            "The manifest has no split to audit",
            found=", ".join(map(str, table.columns)),
            remedy="Make one with `python -m engine split DATA --out manifest.csv`",
            kind="no_split_column",
        )
    table = table[table["split"].astype(bool)]
    cases, slides = _sides(table, "case"), _sides(table, "slide")
    shared_cases = {name: sides for name, sides in cases.items() if len(sides) > 1}
    shared_slides = {name: sides for name, sides in slides.items() if len(sides) > 1}
    pairs = {
        f"{one}-{other}": sum(1 for sides in cases.values() if one in sides and other in sides)
        for one, other in combinations(SPLITS, 2)
    }
    unknown = int((table["case"] == "").sum()) if "case" in table.columns else len(table)
    leaking = {side: _leaking(table, cases, side) for side in ("val", "test")}
    level, verdict = _verdict(len(cases), shared_cases, shared_slides, pairs, unknown, len(table))
    return Audit(level, verdict, shared_cases, shared_slides, leaking, len(cases), len(table), unknown, pairs)


def _sides(table: pd.DataFrame, column: str) -> dict[str, tuple[str, ...]]:
    """Every known case (or slide) with the sides it is on, in split order."""
    if column not in table.columns:
        return {}
    known = table[table[column] != ""]
    found = known.groupby(column)["split"].unique()
    rank = {side: position for position, side in enumerate(SPLITS)}
    return {
        str(name): tuple(sorted(map(str, sides), key=lambda side: rank.get(side, len(rank))))
        for name, sides in found.items()
    }


def _leaking(table: pd.DataFrame, cases: dict[str, tuple[str, ...]], side: str) -> int:
    """Images of this side whose case was also where a model learns or is chosen."""
    before = {"val": {"train"}, "test": {"train", "val"}}[side]
    tainted = [name for name, sides in cases.items() if side in sides and before & set(sides)]
    if not tainted:
        return 0
    return int(((table["split"] == side) & table["case"].isin(tainted)).sum())


def _verdict(
    total: int,
    shared: dict[str, tuple[str, ...]],
    slides: dict[str, tuple[str, ...]],
    pairs: dict[str, int],
    unknown: int,
    images: int,
) -> tuple[str, str]:
    if shared:
        names = ", ".join(sorted(shared)[:3]) + (", ..." if len(shared) > 3 else "")
        where = "; ".join(f"{pair.replace('-', ' and ')}: {count}" for pair, count in pairs.items() if count)
        verb = "is" if len(shared) == 1 else "are"
        return "leak", (
            f"Leaks: {len(shared)} of {total} cases {verb} on more than one side of the split ({where}), "
            f"among them {names}."
        )
    if slides:  # only possible where cases are unknown
        return "leak", f"Leaks: {len(slides)} slides are on more than one side, {shorten(sorted(slides))}."
    if unknown == images:
        return "unknown", f"Unknown: the case of none of the {images} images is known."
    if unknown:
        return "unknown", (
            f"Unknown: no known case is on two sides, but the case of {unknown} of {images} images is not known."
        )
    return "clean", f"Clean: no case is on two sides ({total} cases)."
