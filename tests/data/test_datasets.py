"""Other data sets: a CSV or a folder per class, any classes, any magnifications; bad rows named, not fatal."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.data.audit import audit
from engine.data.breakhis import compare_official, load_dataset, parse_name, slide_facts, take_inventory
from engine.data.datasets import inspect, read_csv_dataset, with_task
from engine.data.images import encode_png
from engine.data.manifest import CLASSES, COLUMNS, Manifest
from engine.data.splits import SplitSpec, make_split
from engine.errors import DataError, SplitError

PIXELS = encode_png(np.full((20, 30, 3), 120, np.uint8))


def put(root: Path, *paths: str, content: bytes = PIXELS) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def csv(root: Path, *lines: str) -> Path:
    target = root / "list.csv"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def test_a_csv_becomes_a_manifest(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    source = csv(
        tmp_path,
        "path,label,case,magnification,um_per_pixel",
        "a/1.png,grade 1,p1,20,0.5",
        "a/2.png,grade 2,p2,40x,0.25",
        "b/3.png,grade 3,p3,,",
    )
    manifest, inventory = inspect(source)
    assert manifest.classes == ("grade 1", "grade 2", "grade 3")
    assert manifest.table["magnification"].tolist() == ["20X", "40X", ""]
    assert manifest.table["um_per_pixel"].tolist() == ["0.5", "0.25", ""]
    assert manifest.absolute(manifest.table["path"][0]).is_file()
    assert inventory.cases == 3
    assert inventory.counts.loc["grade 2", "40X"] == 1
    assert inventory.usable


def test_other_words_for_the_columns_are_understood(tmp_path):
    put(tmp_path, "1.png", "2.png")
    source = csv(tmp_path, "Filename,Class,Patient_ID", "1.png,x,7", "2.png,y,8")
    assert inspect(source)[0].table["case"].tolist() == ["7", "8"]


def test_bad_rows_are_named_and_the_rest_is_used(tmp_path):
    data = tmp_path / "data"
    put(data, "1.png", "2.png")
    put(data, "empty.png", content=b"")
    put(tmp_path, "secret.png")
    source = csv(
        data,
        "path,label,case",
        "1.png,x,p1",
        "2.png,y,p2",
        "empty.png,x,p1",
        "gone.png,x,p1",
        "../secret.png,x,p1",
        f"{tmp_path}/secret.png,x,p1",
        "1.png,y,p1",
        "2.png,,p2",
        ",x,p3",
    )
    manifest, inventory = inspect(source)
    assert len(manifest) == 2
    assert [problem.kind for problem in inventory.problems] == [
        "empty",
        "missing",
        "outside",
        "outside",
        "duplicate_id",
        "label",
        "path",
    ]
    assert "once as x, once as y" in inventory.problems[4].message


def test_a_csv_without_its_columns_says_which(tmp_path):
    with pytest.raises(DataError) as error:
        inspect(csv(tmp_path, "name,kind", "a,b"))
    assert error.value.kind == "columns"
    assert "path and label" in error.value.message
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00\x01binary")
    with pytest.raises(DataError) as error:
        inspect(tmp_path / "list.csv")
    assert error.value.kind == "csv"


def test_absolute_paths_share_their_own_root(tmp_path):
    put(tmp_path / "elsewhere", "1.png", "2.png")
    folder = tmp_path / "elsewhere"
    manifest, inventory = read_csv_dataset(
        csv(tmp_path, "path,label", f"{folder}/1.png,x", f"{folder}/2.png,y")
    )
    assert manifest.root == folder
    assert inventory.problems == ()


def test_breakhis_names_in_a_csv_fill_what_it_does_not_say(tmp_path):
    put(tmp_path, "SOB_B_A-14-22549AB-40-001.png", "SOB_M_DC-14-2523-40-001.png")
    source = csv(
        tmp_path,
        "path,label",
        "SOB_B_A-14-22549AB-40-001.png,benign",
        "SOB_M_DC-14-2523-40-001.png,malignant",
    )
    table = inspect(source)[0].table
    assert table["case"].tolist() == ["14-22549", "14-2523"]
    assert table["subtype"].tolist() == ["A", "DC"]


def test_folders_name_classes_but_never_cases(tmp_path):
    for number in range(12):
        put(tmp_path, f"cat/{number}.png", f"dog/20x/{number}.png")
    put(tmp_path, "stray.png")
    (tmp_path / "bird").mkdir()
    manifest, inventory = inspect(tmp_path)
    assert manifest.classes == ("cat", "dog")
    assert manifest.table["image_id"].is_unique
    assert manifest.magnifications == ("20X",)
    assert [problem.kind for problem in inventory.problems] == ["label", "empty_class"]
    with pytest.raises(SplitError) as error:
        make_split(manifest, SplitSpec("case"))
    assert error.value.kind == "case_unknown"
    split = make_split(manifest, SplitSpec("image")).table
    assert audit(split).level == "unknown"


def test_folders_that_are_a_split_are_read_as_one(tmp_path):
    for part in ("train", "valid", "test"):
        put(tmp_path, f"{part}/x/{part}1.png", f"{part}/y/{part}2.png")
    manifest, _ = inspect(tmp_path)
    assert manifest.classes == ("x", "y")
    split = make_split(manifest, SplitSpec("csv")).table
    assert split["split"].value_counts().to_dict() == {"train": 2, "val": 2, "test": 2}


def test_load_dataset_reads_any_of_them(tmp_path):
    put(tmp_path, "x/1.png", "y/2.png")
    assert len(load_dataset(tmp_path)) == 2
    assert len(load_dataset(csv(tmp_path, "path,label", "x/1.png,x", "y/2.png,y"))) == 2


@pytest.fixture(scope="module")
def release() -> Manifest:
    rows = []
    for slide in slide_facts().itertuples():
        for magnification in ("40X", "100X", "200X", "400X"):
            for number in range(1, getattr(slide, f"images_{magnification}") + 1):
                name = f"{slide.slide}-{magnification[:-1]}-{number:03d}.png"
                assert parse_name(name)
                rows.append((name, name, slide.label, slide.subtype, slide.case, slide.slide, magnification))
    return Manifest(Path(), CLASSES, pd.DataFrame(rows, columns=list(COLUMNS), dtype=str))


def test_the_subtype_task_leaves_out_the_case_with_two_subtypes(release):
    subtypes = with_task(release, "subtype")
    assert subtypes.classes == ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC")
    assert "14-13412" not in set(subtypes.table["case"])
    assert len(with_task(release, "subtype", keep_ambiguous=True)) == 7909
    assert with_task(release, "malignancy") is release
    for fold in range(5):
        split = make_split(subtypes, SplitSpec("case", fold)).table
        assert set(split.loc[split["split"] == "train", "label"]) == set(subtypes.classes)
        assert split.groupby("case")["split"].nunique().max() == 1


def test_a_subtype_task_needs_subtypes(tmp_path):
    put(tmp_path, "x/1.png", "y/2.png")
    with pytest.raises(DataError) as error:
        with_task(load_dataset(tmp_path), "subtype")
    assert error.value.kind == "subtype_unknown"


def test_the_official_inventory_says_what_is_missing_and_extra(release):
    whole = compare_official(release.table)
    assert whole is not None
    assert whole.complete
    assert whole.expected == 7909
    remarks = " ".join(take_inventory(release, sizes={"700x460": 7892, "700x456": 17}).remarks)
    assert "14-13412 is filed under DC and LC" in remarks
    assert "17 of 700x456" in remarks
    assert "A single image: SOB_M_DC-14-4364 at 40X" in remarks
    table = release.table
    partial = table[~((table["slide"] == "SOB_M_DC-14-4364") & (table["magnification"] == "40X"))]
    extra = table.iloc[:1].assign(image_id="x", slide="SOB_B_A-99-1", case="99-1")
    report = compare_official(pd.concat([partial, extra]))
    assert report is not None
    assert not report.complete
    assert report.differences.to_dict("records") == [
        {"slide": "SOB_M_DC-14-4364", "magnification": "40X", "expected": 1, "found": 0}
    ]
    assert report.foreign == ("SOB_B_A-99-1",)
    assert "1 missing from 1 slides" in report.summary
    assert compare_official(extra) is None
