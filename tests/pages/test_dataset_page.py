"""The data set page: any folder, a sentence for a wrong one, the split with its verdict."""

import fabricate
import numpy as np
import pytest

from engine.data.images import encode_png


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    fabricate.write_images(folder)
    return folder


def pictures(at) -> int:
    """Images drawn: each has a text alternative with its file name."""
    return sum(1 for kind in ("image", "imgs") for _ in at.get(kind))


def test_without_a_data_set_one_button_makes_the_sample(app, said):
    at = app("dataset")
    assert not at.exception
    assert "no data set has been opened yet" in said(at)
    assert "Make the sample data set" in [button.label for button in at.button]


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "other"])
def test_a_folder_that_is_no_data_set_is_a_sentence(app, said, tmp_path, kind):
    target = tmp_path / "given"
    if kind == "empty":
        target.mkdir()
    elif kind == "file":
        target.write_text("x")
    elif kind == "other":
        target.mkdir()
        (target / "holiday.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    at = app("dataset", data=str(target))
    assert not at.exception
    assert len(at.error) == 1
    assert at.error[0].value.count("\n") >= 1  # what was wrong, and what to do


def test_counts_are_the_inventory(app, said, sample):
    at = app("dataset", data=str(sample))
    assert not at.exception
    assert {metric.label: metric.value for metric in at.metric} == {
        "Images": "96", "Slides": "12", "Cases": at.metric[2].value, "Magnifications": "4", "Problems": "0",
    }  # fmt: skip


def test_problems_are_listed_by_file_and_the_rest_stays_usable(app, said, tmp_path):
    folder = tmp_path / "data"
    fabricate.write_images(folder, cases=3, images=1)
    broken = next(folder.rglob("*.png"))
    broken.write_bytes(b"")
    at = app("dataset", data=str(folder))
    assert not at.exception
    assert at.metric[4].value == "1"
    assert "1 file is left out" in said(at)
    assert any(
        broken.name in str(value) for frame in at.dataframe for value in frame.value.to_numpy().ravel()
    )


def test_the_gallery_filters_and_pages(app, sample):
    at = app("dataset", data=str(sample), view="Images", power="40X")
    assert not at.exception
    everything = app("dataset", data=str(sample), view="Images")
    few = app("dataset", data=str(sample), view="Images", power="40X", subtype="PT")
    assert [pictures(page) for page in (everything, at, few)] == [24, 24, 2]


def test_a_filter_of_a_link_that_fits_nothing_is_said(app, sample):
    at = app("dataset", data=str(sample), view="Images", case="99-1")
    assert not at.exception
    assert "99-1" in at.toast[0].value.replace("\\", "")


def test_the_split_comes_with_its_verdict(app, said, sample):
    at = app("dataset", data=str(sample), view="Split")
    assert not at.exception
    assert "Clean: no case is on two sides" in said(at)
    at = app("dataset", data=str(sample), view="Split", protocol="image")
    assert "bh-leak" in said(at)
    assert "Train on this split" in [button.label for button in at.button]


def test_a_split_that_cannot_be_made_is_a_sentence(app, said, sample):
    at = app("dataset", data=str(sample), view="Split", protocol="official", fold="2")
    assert not at.exception
    assert "official folds are defined for the 82 slides" in said(at)


def test_duplicates_are_looked_for_on_demand(app, said, tmp_path):
    folder = tmp_path / "data"
    fabricate.write_images(folder, cases=3, images=1)
    first, second = sorted(folder.rglob("*.png"))[:2]
    second.write_bytes(first.read_bytes())
    at = app("dataset", data=str(folder))
    at.button(key="duplicates").click().run()
    assert not at.exception
    assert "1 pair show the same: 1 exact" in said(at) or "pairs show the same" in said(at)


def test_a_reader_opens_no_folder_that_was_not_opened_before(app, said, sample, monkeypatch):
    monkeypatch.setenv("DASHBOARD_ROLE", "viewer")
    at = app("dataset", data=str(sample))
    assert not at.exception
    assert "Only an editor may open another folder" in said(at)
    assert not at.metric


@pytest.mark.parametrize("protocol", ["case", "holdout", "image", "image-80-10-10"])
def test_every_protocol_shows_its_composition_and_audit(app, said, sample, protocol):
    at = app("dataset", data=str(sample), view="Split", protocol=protocol, by="subtype")
    assert not at.exception
    assert not at.error
    audit = next(frame.value for frame in at.dataframe if "Looked for" in frame.value)
    assert len(audit) == 8


@pytest.mark.slow
def test_other_data_without_magnifications_and_with_three_classes(app, said, tmp_path):
    drawn = np.random.default_rng(0)
    for label in ("in situ", "invasive", "normal"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(8):
            pixels = drawn.integers(0, 255, (32, 48, 3), dtype=np.uint8)
            (tmp_path / "data" / label / f"{label}{number}.png").write_bytes(encode_png(pixels))
    for view in ("Contents", "Images", "Stain and augmentation", "Split"):
        at = app("dataset", data=str(tmp_path / "data"), view=view, protocol="image")
        assert not at.exception, view
    assert at.metric[0].value == "24"
    assert "the case of none of the 24 images is known" in said(at)


def test_two_hundred_problems_are_a_table_and_the_page_stays_usable(app, said, sample, tmp_path):
    import shutil

    folder = shutil.copytree(sample, tmp_path / "data")
    path = next(folder.rglob("*.png"))
    for number in range(200):
        path.with_name(f"{path.name.rpartition('-')[0]}-{number + 500}.png").write_bytes(b"")
    at = app("dataset", data=str(folder))
    assert not at.exception
    assert at.metric[4].value == "200"
    assert "200 files are left out" in said(at)


def test_the_stain_is_shown_before_and_after(app, said, sample):
    at = app("dataset", data=str(sample), view="Stain and augmentation", stain="reinhard")
    assert not at.exception
    assert pictures(at) == 12
    assert "an ordinary image of the training part" in said(at)
