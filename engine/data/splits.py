"""Splits: who learns, who chooses, who judges.

A protocol is a record in `PROTOCOLS`; `make_split` gives the manifest a `split` column (`train`, `val`,
`test`). A split is a pure function of the images at hand, the protocol, the fold and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.data.breakhis import is_complete, slide_facts
from engine.data.manifest import SPLITS, Manifest, order_magnifications
from engine.errors import SplitError, shorten

FOLDS = 5
VALIDATION_SHARE = 0.2
"""Share of the eligible training images that the official protocols set aside for validation, in whole cases."""
_ALIASES = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True)
class SplitSpec:
    """What determines a split; `fold` and `seed` as the protocol understands them."""

    protocol: str = "case"
    fold: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Protocol:
    """A way to split.

    `folds`: the folds it has. `keeps_cases_apart`: whether no case can be on two sides of it.
    `assign`: table and spec in, one of `train`, `val`, `test` or "" (left out) per row out.
    """

    name: str
    label: str
    help: str
    folds: tuple[int, ...]
    keeps_cases_apart: bool
    assign: Callable[[pd.DataFrame, SplitSpec], pd.Series]


def make_split(manifest: Manifest, spec: SplitSpec | None = None) -> Manifest:
    """The manifest with its `split` column; rows that the protocol leaves out are dropped.

    Raises:
        SplitError: `protocol` or `fold` (unknown), `case_unknown`, `slide_unknown`, `no_split_column`, or
            `class_missing` where a side of the split would lack a class.
    """
    spec = spec or SplitSpec()
    protocol = find_protocol(spec.protocol)
    if spec.fold not in protocol.folds:
        raise SplitError(
            f"The protocol {protocol.name} has no fold {spec.fold}",
            remedy=f"Choose one of {', '.join(map(str, protocol.folds))}",
            kind="fold",
        )
    sides = protocol.assign(manifest.table, spec)
    table = manifest.table.assign(split=pd.Series(sides, index=manifest.table.index, dtype=str))
    table = table[table["split"] != ""]
    _require_classes(table, manifest.classes)
    return manifest.with_table(table)


def find_protocol(name: str) -> Protocol:
    """The record of a protocol.

    Raises:
        SplitError: there is none of this name.
    """
    if name not in PROTOCOLS:
        raise SplitError(
            f"Unknown split protocol {name}", remedy=f"Choose one of {', '.join(PROTOCOLS)}", kind="protocol"
        )
    return PROTOCOLS[name]


def folds_available(protocol: str) -> tuple[int, ...]:
    """The folds of a protocol: 0-4 for `case`, 1-5 for the official ones, 0 where there is but one."""
    return find_protocol(protocol).folds


def split_hash(table: pd.DataFrame) -> str:
    """SHA-256 over the sorted pairs of image_id and split: the same split has the same hash anywhere."""
    pairs = sorted(zip(table["image_id"].astype(str), table["split"].astype(str), strict=True))
    return hashlib.sha256("".join(f"{image},{split}\n" for image, split in pairs).encode()).hexdigest()


def composition(table: pd.DataFrame, by: tuple[str, ...] = ("label",)) -> pd.DataFrame:
    """Images, slides and cases per split and per value of `by` (manifest columns), in split order.

    A slide or case that is not known ("") is not counted.
    """
    counted = table.assign(
        split=pd.Categorical(table["split"], SPLITS, ordered=True),
        slide=table["slide"].where(table["slide"] != ""),
        case=table["case"].where(table["case"] != ""),
    )
    if "magnification" in by:
        powers = (*order_magnifications(table["magnification"].unique()), "")
        counted["magnification"] = pd.Categorical(counted["magnification"], powers, ordered=True)
    grouped = counted.groupby(["split", *by], observed=True)
    counts = grouped.agg(images=("image_id", "size"), slides=("slide", "nunique"), cases=("case", "nunique"))
    counts = counts.reset_index()
    text = [name for name in ("split", "magnification") if name in counts.columns]
    return counts.astype(dict.fromkeys(text, str))


def case_groups(table: pd.DataFrame, groups: int, seed: int) -> dict[str, tuple[str, int, int]]:
    """Every case with its class, its group and how many groups its class has.

    A case that holds several classes counts for its rarest one. Per class the shuffled cases are dealt
    out in rounds, the case with most images to the group with fewest, so that groups differ by one case
    at most. A class with fewer cases than `groups` has fewer groups.
    """
    rarity = table.groupby("label")["case"].nunique()
    known = table.assign(rarity=table["label"].map(rarity))
    classes = known.sort_values(["rarity", "label"]).drop_duplicates("case").set_index("case")["label"]
    images = table["case"].value_counts()
    dealt: dict[str, tuple[str, int, int]] = {}
    for label in sorted(set(classes)):
        cases = sorted(classes.index[classes == label])
        _generator(seed, "case", label).shuffle(cases)
        count = min(groups, len(cases))
        filled = np.zeros(count, dtype=int)
        for start in range(0, len(cases), count):
            block = sorted(cases[start : start + count], key=lambda case: -int(images[case]))
            for case, group in zip(block, np.argsort(filled, kind="stable").tolist(), strict=False):
                dealt[case] = (label, group, count)
                filled[group] += images[case]
    return dealt


def _by_case(table: pd.DataFrame, spec: SplitSpec) -> pd.Series:
    """Test = fold k, validation = fold k + 1; the published table's folds where all of BreakHis is here."""
    _require_cases(table)
    if is_complete(table):
        published = slide_facts().set_index("slide")["case_fold"].to_dict()
        return table["slide"].map(
            {slide: _side(group, FOLDS, spec.fold) for slide, group in published.items()}
        )
    dealt = case_groups(table, FOLDS, spec.seed)
    return table["case"].map(
        {case: _side(group, count, spec.fold) for case, (_, group, count) in dealt.items()}
    )


def _side(group: int, count: int, fold: int) -> str:
    """Which side a group is on. Two groups make train and test, one makes train: nothing is left over."""
    if count >= 2 and group == fold % count:
        return "test"
    if count >= 3 and group == (fold + 1) % count:
        return "val"
    return "train"


def _by_hold_out(table: pd.DataFrame, spec: SplitSpec) -> pd.Series:
    """About 70/15/15 of the images of every class in whole cases, a case on each side where there are three."""
    _require_cases(table)
    sides: dict[str, str] = dict.fromkeys(table["case"], "train")
    classes = {case: label for case, (label, _, _) in case_groups(table, 1, spec.seed).items()}
    for side in ("test", "val"):
        left = table[table["case"].map(sides) == "train"]
        for label in sorted(set(classes.values())):
            images = left[left["case"].map(classes) == label]
            wanted = 0.15 * int((table["case"].map(classes) == label).sum())
            sides |= dict.fromkeys(_draw_cases(images, wanted, spec, f"holdout {side} {label}"), side)
    return table["case"].map(sides)


def _draw_cases(images: pd.DataFrame, wanted: float, spec: SplitSpec, words: str) -> list[str]:
    """Cases in random order until they hold `wanted` images; half of the cases at least stay behind."""
    counts = images["case"].value_counts()
    cases = sorted(counts.index)
    _generator(spec.seed, words).shuffle(cases)
    drawn: list[str] = []
    while len(drawn) < len(cases) // 2 and counts[drawn].sum() < wanted:
        drawn.append(cases[len(drawn)])
    return drawn


def _by_image(share: float) -> Callable[[pd.DataFrame, SplitSpec], pd.Series]:
    """The source study's way: `int(share * n)` of every class x magnification to validation and to test."""

    def assign(table: pd.DataFrame, spec: SplitSpec) -> pd.Series:
        sides = pd.Series("train", index=table.index, dtype=str)
        ordered = table.sort_values("image_id")
        for (label, magnification), images in ordered.groupby(["label", "magnification"]):
            rows = images.index.to_numpy().copy()
            _generator(spec.seed, "image", f"{label} {magnification}").shuffle(rows)
            held = int(share * len(rows))
            sides.loc[rows[:held]] = "test"
            sides.loc[rows[held : 2 * held]] = "val"
        return sides

    return assign


def _by_official_fold(cleaned: bool) -> Callable[[pd.DataFrame, SplitSpec], pd.Series]:
    """Spanhol et al. (2016): test as published; validation from train, by case, never a case of test.

    `cleaned` also leaves out the training slides whose case is in test; as published they stay and leak.
    """

    def assign(table: pd.DataFrame, spec: SplitSpec) -> pd.Series:
        published = slide_facts().set_index("slide")[f"official_fold{spec.fold}"]
        unknown = sorted(set(table["slide"]) - set(published.index))
        if unknown:
            raise SplitError(
                "The official folds are defined for the 82 slides of BreakHis only",
                found=f"{len(unknown)} other slides, {shorten(unknown)}",
                remedy="Use the protocol case",
                kind="slide_unknown",
            )
        sides = table["slide"].map(published)
        in_test = set(table.loc[sides == "test", "case"])
        shared = (sides == "train") & table["case"].isin(in_test)
        validation = _validation_cases(table[(sides == "train") & ~shared], spec)
        sides = sides.mask((sides == "train") & table["case"].isin(validation), "val")
        return sides.mask(shared, "") if cleaned else sides

    return assign


def _validation_cases(table: pd.DataFrame, spec: SplitSpec) -> set[str]:
    chosen: set[str] = set()
    for label, images in table.groupby("label"):
        wanted = VALIDATION_SHARE * len(images)
        chosen |= set(_draw_cases(images, wanted, spec, f"official {spec.fold} {label}"))
    return chosen


def _as_given(table: pd.DataFrame, spec: SplitSpec) -> pd.Series:
    if "split" not in table.columns:
        raise SplitError(
            "The data set brings no split of its own",
            found=f"the columns {', '.join(table.columns)}",
            remedy="Add a column split with train, val or test to the CSV, or choose another protocol",
            kind="no_split_column",
        )
    sides = table["split"].fillna("").astype(str).str.strip().str.lower().replace(_ALIASES)
    strange = sorted(set(sides) - {*SPLITS, ""})
    if strange:
        raise SplitError(
            "The column split holds other words than train, val and test",
            found=shorten(strange),
            remedy="Use train, val and test; leave it empty for an image that is not to be used",
            kind="split_value",
        )
    return sides


PROTOCOLS: dict[str, Protocol] = {
    record.name: record
    for record in (
        Protocol(
            "case",
            "By case, 5 folds",
            "Test = fold k, validation = fold k + 1, train = the rest; all images of a patient on one side. "
            "On the complete BreakHis the folds are a fixed table, elsewhere they are drawn with the seed",
            tuple(range(FOLDS)),
            True,
            _by_case,
        ),
        Protocol(
            "holdout",
            "By case, one hold-out",
            "About 70/15/15 of the images of every class, in whole cases drawn with the seed",
            (0,),
            True,
            _by_hold_out,
        ),
        Protocol(
            "official-cleaned",
            "Official folds, cleaned",
            "The test slides of Spanhol et al. (2016); training slides of the same patients are left out, "
            "validation is taken from the training cases",
            (1, 2, 3, 4, 5),
            True,
            _by_official_fold(cleaned=True),
        ),
        Protocol(
            "official",
            "Official folds, as published",
            "Spanhol et al. (2016) as published: slides are kept apart, but 6 to 8 cases are in train and test",
            (1, 2, 3, 4, 5),
            False,
            _by_official_fold(cleaned=False),
        ),
        Protocol(
            "image",
            "By image, 70/15/15 (leaks)",
            "The source study's split: per class and magnification at random, so that every patient is on "
            "every side. For reproducing it only",
            (0,),
            False,
            _by_image(0.15),
        ),
        Protocol(
            "image-80-10-10",
            "By image, 80/10/10 (leaks)",
            "The source study's second split, behind its headline of 99.62%. For reproducing it only",
            (0,),
            False,
            _by_image(0.10),
        ),
        Protocol(
            "csv",
            "The data set's own",
            "The column split of the CSV: train, val, test; an empty cell leaves the image out",
            (0,),
            False,
            _as_given,
        ),
    )
}


def _generator(seed: int, *words: str) -> np.random.Generator:
    """A generator of its own per class and purpose: a filter on one class does not redraw another."""
    digest = hashlib.sha256("|".join((str(seed), *words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _require_cases(table: pd.DataFrame) -> None:
    unknown = table.loc[table["case"] == "", "image_id"].tolist()
    if unknown:
        raise SplitError(
            f"The case (patient) of {len(unknown)} images is not known, so cases cannot be kept apart",
            found=shorten([str(name) for name in unknown]),
            remedy="Add a column case to the CSV, or use the protocol image and accept that it may leak",
            kind="case_unknown",
        )


def _require_classes(table: pd.DataFrame, classes: tuple[str, ...]) -> None:
    """Every class on every side; with more than two classes only train must have them all (`warnings`)."""
    present = set(zip(table["split"], table["label"], strict=True))
    for side in SPLITS:
        lacking = [label for label in classes if (side, label) not in present]
        if lacking and (len(classes) <= 2 or side == "train" or len(lacking) == len(classes)):
            cases = table.loc[table["label"].isin(lacking), "case"].nunique()
            raise SplitError(
                f"The {side} part would have no image of class {' and '.join(lacking)}",
                found=f"{cases} cases of it in all",
                remedy="Three cases of every class are the least for train, val and test: add cases, choose "
                "another fold, or more magnifications",
                kind="class_missing",
            )


def split_warnings(table: pd.DataFrame) -> list[str]:
    """What a reader of results on this split should know: small sides, subtypes that train never saw."""
    notes: list[str] = []
    for side in ("val", "test"):
        part = table[table["split"] == side]
        cases = part[part["case"] != ""].groupby("label")["case"].nunique()
        few = [f"{label}: {count}" for label, count in cases.items() if count < 5]
        if few:
            notes.append(f"Few cases in {side} ({', '.join(few)}): intervals will be wide.")
        lacking = sorted(set(table["label"]) - set(part["label"]))
        if lacking:
            notes.append(f"No image of class {' and '.join(lacking)} in {side}.")
    train = set(table.loc[table["split"] == "train", "subtype"])
    unseen = sorted(set(table["subtype"]) - train - {""})
    if unseen:
        one = len(unseen) == 1
        named = " and ".join(unseen)
        notes.append(f"Subtype{'' if one else 's'} {named} occur{'s' if one else ''} in no training case.")
    return notes
