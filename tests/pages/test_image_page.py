"""The page of one image: what the models say, what people say, and the list it walks through."""

from __future__ import annotations

from types import SimpleNamespace

import fabricate
import numpy as np
import pandas as pd
import pytest

from dashboard import image_view
from engine.analysis import review


@pytest.fixture
def two(make_run):
    return make_run(name="first", seed=1, skill=0.9), make_run(name="second", seed=2, skill=1.4)


def link(two, **more: str) -> dict[str, str]:
    return {"runs": f"{two[0].id},{two[1].id}", "bucket": "every", **more}


def first_image(two) -> str:
    return str(two[0].predictions("test")["image_id"].iloc[0])


def test_neighbours_end_at_the_ends_of_the_list():
    ids = ["a", "b", "c"]
    assert image_view.neighbours(ids, "a") == ("", "b", 1)
    assert image_view.neighbours(ids, "c") == ("b", "", 3)
    assert image_view.neighbours(ids, "z") == ("", "", 0)


def test_siblings_are_the_other_images_of_the_slide_at_every_magnification():
    table = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d"],
            "slide": ["s", "s", "s", "t"],
            "case": "k",
            "magnification": ["400X", "40X", "100X", "40X"],
        }
    )
    found = image_view.siblings(table, "a")
    assert list(found) == ["40X", "100X"]
    assert [list(rows["image_id"]) for rows in found.values()] == [["b"], ["c"]]


def test_every_models_opinion_the_patient_and_the_siblings_are_there(app, said, two):
    image = first_image(two)
    at = app("image", **link(two, image=image))
    assert not at.exception
    text = said(at)
    for folder in two:
        table = folder.predictions("test").set_index("image_id")
        assert f"{table.loc[image, 'prob_malignant']:.3f}" in text
        own = table[table["case"] == table.loc[image, "case"]]
        right = ((own["prob_malignant"] > 0.5) == (own["label"] == "malignant")).sum()
        assert f"{right} of {len(own)} images right" in text
    assert "11 other images" in text  # a slide has three images at each of four magnifications
    for power in ("40X", "100X", "200X", "400X"):
        assert f"{power}: " in text


def test_next_goes_through_the_list_of_the_link(app, said, two):
    image = first_image(two)
    at = app("image", **link(two, image=image, cell=f"{two[0].id},all,benign,benign"))
    count = next(text for text in (c.value for c in at.caption) if "truly benign, called benign" in text)
    place = int(count.split()[0])
    at.button(key="image_next").click().run()
    after = next(text for text in (c.value for c in at.caption) if "truly benign, called benign" in text)
    assert int(after.split()[0]) == place + 1
    assert at.title[0].value.replace("\\", "") != image


def test_a_mark_is_kept_with_its_author_and_can_be_undone(app, said, two, runs_dir):
    image = first_image(two)
    at = app("image", **link(two, image=image))
    at.text_input(key=f"image_note_{image}").input("pen stroke").run()
    at.button(key="image_mark_artefact").click().run()
    found = review.marks(runs_dir)
    assert found[["image_id", "kind", "note"]].to_numpy().tolist() == [[image, "artefact", "pen stroke"]]
    assert found["author"].iloc[0] in said(at)
    at.button(key="image_undo").click().run()
    assert review.marks(runs_dir).empty
    assert "Nobody has marked this image" in said(at)


def test_a_reader_sees_marks_and_makes_none(app, said, two, runs_dir, monkeypatch):
    image = first_image(two)
    review.mark(runs_dir, image, "discuss", "Ana")
    monkeypatch.setenv("DASHBOARD_ROLE", "viewer")
    at = app("image", **link(two, image=image))
    assert "Ana" in said(at)
    assert all(at.button(key=f"image_mark_{kind}").disabled for kind in review.KINDS)


def test_notes_are_text(app, said, two, runs_dir):
    image = first_image(two)
    review.mark(runs_dir, image, "discuss", "<b>Ana</b>", "**loud** [x](http://y)")
    at = app("image", **link(two, image=image))
    shown = [one.value for one in at.markdown if "loud" in one.value]
    assert shown
    assert "\\*\\*loud\\*\\*" in shown[0]
    assert "\\<b\\>Ana" in shown[0]


@pytest.mark.parametrize(
    ("image", "words"), [("", "names no image"), ("nothing.png", "not among those that all these entries")]
)
def test_a_link_that_leads_nowhere_says_so(app, said, two, image, words):
    at = app("image", **link(two, image=image))
    assert not at.exception
    assert words in said(at)


def test_overlays_are_made_when_asked_for_and_speak_of_the_operating_point(
    app, said, make_run, tmp_path, monkeypatch
):
    data = tmp_path / "data"
    fabricate.write_images(data, cases=fabricate.CASES_PER_CLASS, images=fabricate.IMAGES_PER_SLIDE)
    folder = make_run(seed=1, data_root=data)
    table = folder.predictions("test")
    row = table.iloc[0]
    found = SimpleNamespace(
        heat=np.random.default_rng(0).random((32, 48)),
        probabilities=row[["prob_benign", "prob_malignant"]].to_numpy(dtype=float),
        classes=("benign", "malignant"),
    )
    monkeypatch.setattr("dashboard.explain_view.explainable", list)
    monkeypatch.setattr("dashboard.explain_view.map_of", lambda *_: found)
    params = {"runs": folder.id, "bucket": "every", "image": row["image_id"]}
    assert "Show the maps of 1 entry" in [button.label for button in app("image", **params).button]
    at = app("image", **params, maps="1", threshold="0.99")
    assert not at.exception
    assert "benign" in next(one.value for one in at.caption if "truly" in one.value and "lite0" in one.value)
    assert "Research use only" in said(at)
