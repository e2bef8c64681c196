"""The data set page: any folder, a sentence for a wrong one, the split with its verdict."""

import fabricate
import pytest


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
