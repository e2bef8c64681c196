"""Figures and small computations of the data set page."""

import fabricate
import numpy as np
import pandas as pd
import pytest

from dashboard import dataset_parts, split_designer
from engine.data.audit import audit
from engine.data.breakhis import take_inventory
from engine.data.files import Problem
from engine.data.splits import SplitSpec, composition, make_split


def test_the_scale_bar_is_a_round_length_of_at_most_a_third_of_the_field():
    for field in (344.4, 137.9, 68.95, 34.44):
        length = dataset_parts.bar_length(field)
        assert length <= field / 3
        assert length * 2.5 >= field / 3
        assert str(int(length))[0] in "125"


def test_the_scale_bar_is_drawn_as_long_as_it_says():
    image = np.full((100, 300, 3), 128, dtype=np.uint8)
    drawn = dataset_parts.draw_bar(image, 80)
    assert (drawn == 255).all(axis=2).any(axis=0).sum() == 80
    assert (image == 128).all()


def test_counts_and_composition_say_in_words_what_they_show(tmp_path):
    manifest = fabricate.manifest(tmp_path)
    fig, alt = dataset_parts.counts_figure(take_inventory(manifest).counts)
    assert [trace.name for trace in fig.data] == ["benign", "malignant"]
    assert "benign: 30 at 40X" in alt
    split = make_split(manifest, SplitSpec("case"))
    fig, alt = split_designer.composition_figure(composition(split.table, ("label",)))
    cases = sum(int(value) for trace in fig.data[:2] for value in trace.x)
    assert cases == 20
    assert "train benign: 6 cases" in alt


def test_without_magnifications_and_slides_only_what_is_known_is_drawn():
    counts = pd.DataFrame({"": [12, 7]}, index=["tumour", "stroma"])
    fig, alt = dataset_parts.counts_figure(counts)
    assert [tuple(trace.x) for trace in fig.data] == [("tumour",), ("stroma",)]
    assert alt == "Images per class. tumour: 12; stroma: 7."
    table = pd.DataFrame(
        {"split": ["train", "test"], "label": "tumour", "cases": [3, 1], "slides": 0, "images": [9, 3]}
    )
    fig, _ = split_designer.composition_figure(table)
    assert [note.text for note in fig.layout.annotations] == ["Cases", "Images"]


def test_a_problem_is_told_once_with_the_name_first():
    table = dataset_parts.problem_table(
        [
            Problem("a/b/x.png", "empty", "x.png is empty. Found: 0 bytes."),
            Problem("y.png", "name", "No class.", False),
        ]
    )
    assert table.iloc[0].tolist() == ["x.png", "is empty. Found: 0 bytes.", "left out", "a/b"]
    assert table.iloc[1].tolist() == ["y.png", "No class.", "used", ""]


def test_the_subtype_table_counts_slides_and_cases(tmp_path):
    table = dataset_parts.subtype_table(fabricate.manifest(tmp_path).table)
    assert len(table) == 8
    assert table["Images"].sum() == 240
    assert "A adenosis" in set(table["Subtype"])


def test_a_scale_bar_needs_known_optics(tmp_path):
    from engine.data import images

    path = tmp_path / "x.png"
    path.write_bytes(images.encode_png(np.full((230, 700, 3), 90, dtype=np.uint8)))
    rows = [
        ({"path": "a/SOB_B_A-14-22549AB-40-001.png"}, "40X", "100 µm"),
        ({"path": "a/other.png"}, "40X", ""),
        ({"path": "a/other.png", "um_per_pixel": "0.25"}, "20X", "50 µm"),
        ({"path": "a/other.png", "um_per_pixel": "unknown"}, "20X", ""),
    ]
    for row, power, expected in rows:
        scale = dataset_parts.micrometres_per_pixel(pd.Series(row), power)
        assert dataset_parts.strip_image(path, scale)[1] == expected


def test_the_official_table_sets_what_is_here_beside_the_release(tmp_path):
    table = dataset_parts.official_table(take_inventory(fabricate.manifest(tmp_path)))
    assert table.set_index("Class").loc["benign", "40X"] == "30 of 625"
    assert table.set_index("Class").loc["both", "All"] == "240 of 7,909"


def test_the_audit_is_counted_line_by_line(tmp_path):
    split = make_split(fabricate.manifest(tmp_path), SplitSpec("image"))
    found = audit(split.table)
    table = split_designer.audit_table(found).set_index("Looked for")["Found"]
    assert table["Cases (patients) on more than one side"] == f"{len(found.shared_cases)} of 20"
    assert table["Pairs of near-identical images on two sides"] == "not compared"
    assert int(table["Test images whose case was seen before"]) == found.leaking_images["test"] > 0


@pytest.mark.parametrize("by", ["label", "subtype", "magnification"])
def test_the_composition_is_drawn_by_anything_and_adds_up(tmp_path, by):
    split = make_split(fabricate.manifest(tmp_path), SplitSpec("case")).table
    fig, _ = split_designer.composition_figure(composition(split, (by,)), by)
    images = sum(sum(trace.x) for trace in fig.data if trace.xaxis == "x3")
    assert images == len(split)
