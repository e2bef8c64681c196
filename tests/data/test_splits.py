"""Splits, on the names of all 7,909 images: no pixel is needed to know who is on which side."""

from pathlib import Path

import pandas as pd
import pytest

from engine.data.audit import audit
from engine.data.breakhis import parse_name, slide_facts
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.data.splits import (
    PROTOCOLS,
    SplitSpec,
    composition,
    folds_available,
    make_split,
    split_hash,
    split_warnings,
)
from engine.errors import SplitError


def manifest_of(rows: list[tuple], classes: tuple[str, ...] = CLASSES) -> Manifest:
    return Manifest(Path(), classes, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))


@pytest.fixture(scope="module")
def breakhis() -> Manifest:
    """The names of the whole release, numbered without gaps."""
    rows = []
    for slide in slide_facts().itertuples():
        for magnification in ("40X", "100X", "200X", "400X"):
            for number in range(1, getattr(slide, f"images_{magnification}") + 1):
                name = f"{slide.slide}-{magnification[:-1]}-{number:03d}.png"
                parsed = parse_name(name)
                assert parsed is not None
                assert (parsed.slide, parsed.case, parsed.label) == (slide.slide, slide.case, slide.label)
                rows.append((name, name, slide.label, slide.subtype, slide.case, slide.slide, magnification))
    return manifest_of(rows)


def small(benign: int, malignant: int, images: int = 4) -> Manifest:
    rows = [
        (f"{label}{case}-{image}.png", f"{image}.png", label, "", f"{label}{case}", f"s{label}{case}", "40X")
        for label, cases in (("benign", benign), ("malignant", malignant))
        for case in range(cases)
        for image in range(images)
    ]
    return manifest_of(rows)


def test_the_generated_manifest_is_the_whole_release(breakhis):
    assert len(breakhis) == 7909
    assert breakhis.table["label"].value_counts().to_dict() == {"malignant": 5429, "benign": 2480}


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if PROTOCOLS[name].keeps_cases_apart])
def test_cases_never_straddle_splits(breakhis, protocol):
    for fold in folds_available(protocol):
        for seed in (0,) if protocol == "case" else (0, 1):  # the folds of the whole release are fixed
            split = make_split(breakhis, SplitSpec(protocol, fold, seed)).table
            assert split.groupby("case")["split"].nunique().max() == 1
            assert audit(split).level == "clean"
            assert set(split["split"]) == {"train", "val", "test"}


def test_case_folds_test_every_image_once(breakhis):
    tested = [
        name
        for fold in range(5)
        for name in make_split(breakhis, SplitSpec("case", fold)).table.query("split == 'test'")["image_id"]
    ]
    assert sorted(tested) == sorted(breakhis.table["image_id"])


def test_validation_is_the_next_test_fold(breakhis):
    for fold in range(5):
        now = make_split(breakhis, SplitSpec("case", fold)).table
        following = make_split(breakhis, SplitSpec("case", (fold + 1) % 5)).table
        val, test = now[now["split"] == "val"], following[following["split"] == "test"]
        assert set(val["image_id"]) == set(test["image_id"])


def test_complete_breakhis_uses_the_published_case_folds(breakhis):
    published = slide_facts().set_index("slide")["case_fold"]
    split = make_split(breakhis, SplitSpec("case", 3, seed=99)).table
    tested = set(split.loc[split["split"] == "test", "slide"])
    assert tested == set(published.index[published == 3])


def test_official_folds_overlap_as_published(breakhis):
    reports = [audit(make_split(breakhis, SplitSpec("official", fold)).table) for fold in range(1, 6)]
    assert [report.pairs["train-test"] for report in reports] == [8, 6, 7, 7, 6]
    assert [report.pairs["val-test"] for report in reports] == [0] * 5
    assert [report.pairs["train-val"] for report in reports] == [0] * 5
    assert all(not report.shared_slides for report in reports)


def test_official_test_slides_are_those_of_the_paper(breakhis):
    for fold in range(1, 6):
        published = slide_facts().query(f"official_fold{fold} == 'test'")
        for protocol in ("official", "official-cleaned"):
            split = make_split(breakhis, SplitSpec(protocol, fold)).table
            assert set(split.loc[split["split"] == "test", "slide"]) == set(published["slide"])


def test_image_protocol_draws_the_numbers_of_the_study(breakhis):
    split = make_split(breakhis, SplitSpec("image")).table
    assert split["split"].value_counts().to_dict() == {"train": 5545, "val": 1182, "test": 1182}
    second = make_split(breakhis, SplitSpec("image-80-10-10")).table
    assert (second["split"] == "test").sum() == 788
    report = audit(split)
    assert report.level == "leak"
    assert report.leaking_images["test"] == 1182


def test_image_protocol_is_deterministic_and_seeded(breakhis):
    first = make_split(breakhis, SplitSpec("image", seed=5)).table
    shuffled = breakhis.with_table(breakhis.table.sample(frac=1, random_state=1))
    assert split_hash(first) == split_hash(make_split(shuffled, SplitSpec("image", seed=5)).table)
    assert split_hash(first) != split_hash(make_split(breakhis, SplitSpec("image", seed=6)).table)


def test_one_magnification_is_split_as_it_is_in_the_pooled_split(breakhis):
    pooled = make_split(breakhis, SplitSpec("image", seed=2)).table.query("magnification == '200X'")
    alone = make_split(breakhis.only(["200X"]), SplitSpec("image", seed=2)).table
    assert split_hash(pooled) == split_hash(alone)


@pytest.mark.parametrize("seed", range(6))
def test_a_hold_out_draws_whole_cases_until_15_percent_of_the_images_are_there(breakhis, seed):
    """Per class: enough images on a side, and one case fewer would not be; half of the cases at least stay in train."""
    table = make_split(breakhis, SplitSpec("holdout", seed=seed)).table
    for label, images in table.groupby("label"):
        for side in ("val", "test"):
            drawn = images[images["split"] == side]["case"].value_counts()
            assert drawn.sum() >= 0.15 * len(images)
            assert drawn.sum() - drawn.max() < 0.15 * len(images)
        train = images[images["split"] == "train"]
        assert train["case"].nunique() >= images["case"].nunique() / 4, label
    few = make_split(small(3, 3), SplitSpec("holdout", seed=seed)).table
    assert (few.groupby(["label", "split"])["case"].nunique() == 1).all()


def test_with_several_classes_only_train_needs_them_all():
    rows = [
        (f"{label}{case}.png", f"{label}{case}.png", label, "", f"{label}{case}", f"s{label}{case}", "40X")
        for label, cases in (("a", 5), ("b", 5), ("c", 1))
        for case in range(cases)
    ]
    table = make_split(manifest_of(rows, ("a", "b", "c")), SplitSpec("case")).table
    assert set(table.loc[table["label"] == "c", "split"]) == {"train"}
    assert {"a", "b"} <= set(table.loc[table["split"] == "test", "label"])
    given = manifest_of(rows, ("a", "b", "c"))
    sides = ["val" if label == "c" else "train" if name.endswith(("0.png", "1.png")) else "test"
             for name, label in zip(given.table["image_id"], given.table["label"], strict=True)]  # fmt: skip
    with pytest.raises(SplitError) as error:
        make_split(given.with_table(given.table.assign(split=sides)), SplitSpec("csv"))
    assert "train part would have no image of class c" in str(error.value)


@pytest.mark.parametrize(("benign", "malignant"), [(3, 3), (3, 11), (4, 5), (9, 11), (16, 54)])
def test_small_data_sets_have_both_classes_on_every_side(benign, malignant):
    manifest = small(benign, malignant)
    for fold in range(5):
        for seed in range(5):
            split = make_split(manifest, SplitSpec("case", fold, seed)).table
            assert split.groupby(["split", "label"]).ngroups == 6
            assert split.groupby("case")["split"].nunique().max() == 1


def test_too_few_cases_name_the_class_and_the_remedy():
    with pytest.raises(SplitError) as error:
        make_split(small(2, 10), SplitSpec())
    assert error.value.kind == "class_missing"
    assert "benign" in error.value.message
    assert "add cases" in str(error.value)


def test_seed_redraws_the_case_folds_of_other_data():
    manifest = small(9, 11)
    assert split_hash(make_split(manifest, SplitSpec(seed=0)).table) != split_hash(
        make_split(manifest, SplitSpec(seed=1)).table
    )


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (SplitSpec("nonsense"), "protocol"),
        (SplitSpec("case", 5), "fold"),
        (SplitSpec("official", 1), "slide_unknown"),
        (SplitSpec("csv"), "no_split_column"),
    ],
)
def test_impossible_specs_are_refused(spec, kind):
    with pytest.raises(SplitError) as error:
        make_split(small(5, 5), spec)
    assert error.value.kind == kind
    assert error.value.remedy


def test_unknown_cases_refuse_a_split_by_case():
    manifest = small(5, 5)
    table = manifest.table.copy()
    table.loc[3, "case"] = ""
    with pytest.raises(SplitError) as error:
        make_split(manifest.with_table(table), SplitSpec())
    assert error.value.kind == "case_unknown"


def test_a_split_column_is_taken_as_given():
    manifest = small(2, 2)
    sides = ["train", "Validation", "test", ""] * 4
    split = make_split(manifest.with_table(manifest.table.assign(split=sides)), SplitSpec("csv")).table
    assert split["split"].tolist() == ["train", "val", "test"] * 4
    assert audit(split).level == "leak"


def test_composition_counts_images_slides_and_cases(breakhis):
    split = make_split(breakhis, SplitSpec("case", 0)).table
    counts = composition(split)
    assert counts["images"].sum() == 7909
    assert counts["cases"].sum() == 70
    assert counts["slides"].sum() == 82
    fine = composition(split, ("label", "subtype", "magnification"))
    assert fine["images"].sum() == 7909
    assert fine["magnification"].head(4).tolist() == ["40X", "100X", "200X", "400X"]


def test_warnings_name_subtypes_that_train_never_saw(breakhis):
    split = make_split(breakhis, SplitSpec("case", 0)).table
    assert not any("no training case" in note for note in split_warnings(split))
    without = split[~((split["subtype"] == "PT") & (split["split"] == "train"))]
    assert any("PT occurs in no training case" in note for note in split_warnings(without))
    without = without[~((without["subtype"] == "TA") & (without["split"] == "train"))]
    assert any("Subtypes PT and TA occur in no training case" in note for note in split_warnings(without))


def test_few_cases_of_several_classes_are_one_warning_a_side():
    rows = [
        ("train", "a", "1"),
        ("test", "a", "2"),
        ("test", "b", "3"),
        ("test", "b", "4"),
        ("val", "a", "5"),
    ]
    table = pd.DataFrame(rows, columns=["split", "label", "case"]).assign(subtype="")
    assert split_warnings(table) == [
        "Few cases in val (a: 1): intervals will be wide.",
        "No image of class b in val.",
        "Few cases in test (a: 1, b: 2): intervals will be wide.",
    ]


def test_split_hash_knows_every_image_and_side(breakhis):
    split = make_split(breakhis, SplitSpec()).table
    changed = split.copy()
    changed.loc[0, "split"] = "val" if changed.loc[0, "split"] != "val" else "test"
    assert split_hash(split) != split_hash(changed)
    assert split_hash(split) == split_hash(split.iloc[::-1])


def test_every_protocol_and_task_can_be_configured():
    from engine.data.datasets import TASKS
    from engine.runs import config

    assert set(PROTOCOLS) == set(config.PROTOCOLS)
    assert set(TASKS) == set(config.TASKS)
