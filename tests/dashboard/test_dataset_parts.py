"""Figures and small computations of the data set page."""

import fabricate
import numpy as np
import pytest

from dashboard import dataset_parts
from engine.data.breakhis import take_inventory
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
    fig, alt = dataset_parts.composition_figure(composition(split.table, ("label",)))
    cases = sum(int(value) for trace in fig.data[:2] for value in trace.x)
    assert cases == 20
    assert "train benign: 6 cases" in alt


def test_the_subtype_table_counts_slides_and_cases(tmp_path):
    table = dataset_parts.subtype_table(fabricate.manifest(tmp_path).table)
    assert len(table) == 8
    assert table["Images"].sum() == 240
    assert table.loc[table["Code"] == "A", "Name"].item() == "adenosis"


@pytest.mark.parametrize("width", [350, 700])
def test_only_images_of_the_official_width_get_a_scale_bar(tmp_path, width):
    from engine.data import images

    path = tmp_path / "x.png"
    path.write_bytes(images.encode_png(np.full((230, width, 3), 90, dtype=np.uint8)))
    _, bar = dataset_parts.strip_image(path, "40X")
    assert bar == ("100 µm" if width == 700 else "")
