"""The leakage audit: what stands on two sides of a split.

A model that has seen a patient in training recognises that patient's stain and tissue, so its score on
other images of the same patient says little about the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pandas as pd

from engine.data.breakhis import AMBIGUOUS_CASES
from engine.data.manifest import SPLITS, Manifest
from engine.errors import SplitError, shorten
from engine.progress import Progress


@dataclass(frozen=True)
class Audit:
    """What leaks between the sides of a split.

    `level`: `clean`, `leak` or `unknown` (no image names its case). `verdict`: one sentence for a badge.
    `shared_cases`, `shared_slides`: each with the sides it is on. `leaking_images`: per side that judges
    (`val`, `test`), the images whose case is also on a side before it. `cases`, `images`: totals.
    `pairs`: shared cases per pair of sides. `other_magnification`: per judging side, the images whose slide
    was seen before at another magnification. `label_conflicts`: sentences about one thing with two labels.
    `near_duplicates`: pairs of images that show the same and are on two sides; None where images were
    not compared.
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
    other_magnification: dict[str, int] = field(default_factory=dict)
    label_conflicts: tuple[str, ...] = ()
    near_duplicates: tuple[dict, ...] | None = None

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
            "other_magnification": self.other_magnification,
            "label_conflicts": list(self.label_conflicts),
            "near_duplicates": None if self.near_duplicates is None else list(self.near_duplicates),
        }

    def as_text(self) -> str:
        """The audit as `engine audit` prints it: the verdict, then what is behind it."""
        lines = [self.verdict]
        for side, count in self.leaking_images.items():
            if count:
                lines.append(f"{count} images of {side} show a case that was seen before.")
        for side, count in self.other_magnification.items():
            if count:
                lines.append(f"{count} images of {side} show a slide seen before at another magnification.")
        if self.near_duplicates is None:
            lines.append("Images were not compared with each other; --images does that.")
        else:
            lines.append(f"{len(self.near_duplicates)} pairs of near-identical images are on two sides.")
            lines += [
                f"  {pair['a']} ({pair['split_a']}) and {pair['b']} ({pair['split_b']}), "
                f"{pair['position']}, {pair['distance']} of 255 bits differ"
                for pair in self.near_duplicates[:20]
            ]
        return "\n".join([*lines, *self.label_conflicts])


def audit_images(
    manifest: Manifest, cache_dir: Path | None = None, progress: Progress | None = None
) -> Audit:
    """The audit with the images themselves compared: near duplicates across sides, and across labels.

    Decodes every image once (results are kept, see `engine.data.hashing`).
    """
    from engine.data.hashing import describe_pairs, find_pairs, hash_images

    pairs = find_pairs(hash_images(manifest, cache_dir, progress))
    return audit(manifest.table, describe_pairs(manifest, pairs))


def audit(table: pd.DataFrame, duplicates: pd.DataFrame | None = None) -> Audit:
    """Audit a split by what its table says: cases, slides, labels.

    Args:
        table: a manifest's table with `split`; at least image_id and split, `case` and `slide` if known.
        duplicates: pairs of images that show the same, as `engine.data.hashing.describe_pairs`.

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
    near = None if duplicates is None else _across_sides(table, duplicates)
    if near and level != "leak":
        level = "leak"
        verdict = (
            f"Leaks: {len(near)} pairs of near-identical images are on two sides, "
            f"such as {near[0]['a']} and {near[0]['b']}."
        )
    return Audit(
        level=level,
        verdict=verdict,
        shared_cases=shared_cases,
        shared_slides=shared_slides,
        leaking_images=leaking,
        cases=len(cases),
        images=len(table),
        unknown_cases=unknown,
        pairs=pairs,
        other_magnification={side: _seen_elsewhere(table, side) for side in ("val", "test")},
        label_conflicts=tuple(_conflicts(table, duplicates)),
        near_duplicates=near,
    )


_BEFORE = {"val": {"train"}, "test": {"train", "val"}}
"""Where a model has learned or was chosen before this side judges it."""


def _across_sides(table: pd.DataFrame, duplicates: pd.DataFrame) -> tuple[dict, ...]:
    sides = dict(zip(table["image_id"], table["split"], strict=True))
    found = []
    for pair in duplicates.to_dict("records"):
        one, other = sides.get(pair["a"], ""), sides.get(pair["b"], "")
        if one and other and one != other:
            facts = {key: pair[key] for key in ("a", "b", "distance", "position", "exact")}
            found.append({**facts, "split_a": one, "split_b": other})
    return tuple(found)


def _seen_elsewhere(table: pd.DataFrame, side: str) -> int:
    """Images of this side whose slide was seen before at another magnification: the same lesion, zoomed."""
    if not {"slide", "magnification"} <= set(table.columns):
        return 0
    known = table[(table["slide"] != "") & (table["magnification"] != "")]
    before = known[known["split"].isin(_BEFORE[side])].groupby("slide")["magnification"].agg(set)
    here = known[known["split"] == side]
    return sum(
        bool(before.get(slide, set()) - {magnification})
        for slide, magnification in zip(here["slide"], here["magnification"], strict=True)
    )


def _conflicts(table: pd.DataFrame, duplicates: pd.DataFrame | None) -> Iterator[str]:
    """One thing under two labels: a case of two classes, a slide of two subtypes' twins, twin images."""
    for column, word in (("label", "classes"), ("subtype", "subtypes")):
        if {"slide", column} <= set(table.columns):
            known = table[(table["slide"] != "") & (table[column] != "")]
            for slide, values in known.groupby("slide")[column].unique().items():
                if len(values) > 1:
                    yield f"Slide {slide} is filed under the {word} {' and '.join(sorted(values))}."
    if {"case", "label"} <= set(table.columns):
        known = table[table["case"] != ""]
        for case, values in known.groupby("case")["label"].unique().items():
            if len(values) > 1:
                yield f"Case {case} is filed under the labels {' and '.join(sorted(values))}."
    if "case" in table.columns and set(AMBIGUOUS_CASES) & set(table["case"]):
        for case in AMBIGUOUS_CASES:
            subtypes = sorted(set(table.loc[table["case"] == case, "subtype"]))
            if len(subtypes) > 1:
                yield f"Case {case} is filed under the subtypes {' and '.join(subtypes)} with nearly the same images."
    if duplicates is not None:
        for pair in duplicates.to_dict("records"):
            if pair.get("other_label") or pair.get("other_subtype"):
                what = "label" if pair.get("other_label") else "subtype"
                yield f"{pair['a']} and {pair['b']} show the same and differ in {what}."


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
    tainted = [name for name, sides in cases.items() if side in sides and _BEFORE[side] & set(sides)]
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
        names = ", ".join(sorted(shared)[:3]) + (f" and {len(shared) - 3} more" if len(shared) > 3 else "")
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
