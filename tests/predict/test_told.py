"""Case and label by CSV, name or folder, in this order; what cannot be understood is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DataError
from engine.predict.told import describe, image_ids, read_told

CLASSES = ("benign", "malignant")
REAL = "SOB_M_DC-14-2523-100-012.png"


def csv(tmp_path: Path, text: str) -> Path:
    target = tmp_path / "cases.csv"
    target.write_text(text, encoding="utf-8")
    return target


def test_the_csv_goes_before_the_name_and_the_name_before_the_folder(tmp_path):
    told = read_told(csv(tmp_path, f"image,patient,label\nx.png,P1,malignant\n{REAL},P2,\n"))
    paths = [
        Path("in/benign/x.png"),
        Path(f"in/benign/{REAL}"),
        Path("in/Malignant/deep/y.png"),
        Path("z.png"),
    ]
    table = describe(paths, CLASSES, told)
    assert table["case"].tolist() == ["P1", "P2", "", ""]
    assert table["label"].tolist() == ["malignant", "malignant", "malignant", ""]
    assert table["magnification"].tolist() == ["", "100X", "", ""]


def test_paths_of_the_csv_tell_twins_apart(tmp_path):
    told = read_told(csv(tmp_path, "file,case\na/1.png,A\nb\\1.png,B\n"))
    table = describe([Path("/data/a/1.png"), Path("/data/b/1.png")], CLASSES, told)
    assert table["case"].tolist() == ["A", "B"]
    assert table["image_id"].tolist() == ["a/1.png", "b/1.png"]


def test_ids_are_names_where_they_can_be():
    assert image_ids([Path("/x/a.png"), Path("/y/b.png")]) == ["a.png", "b.png"]
    assert image_ids([Path("/x/p/a.png"), Path("/x/q/a.png")]) == ["p/a.png", "q/a.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,colour\na.png,red\n", "which image is of which case"),
        ("case,label\n1,benign\n", "which image is of which case"),
        ("image,case\na.png,1\na.png,2\n", "two things of one image"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_csv_that_does_not_tell_is_a_sentence(tmp_path, text, said):
    with pytest.raises(DataError, match=said) as caught:
        read_told(csv(tmp_path, text))
    assert caught.value.remedy


def test_labels_that_are_no_classes_are_a_sentence(tmp_path):
    told = read_told(csv(tmp_path, "image,label\na.png,cat\n"))
    with pytest.raises(DataError, match="not classes of this model"):
        describe([Path("a.png")], CLASSES, told)
