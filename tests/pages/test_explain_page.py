"""The explain page: which images and which pictures (pure), and what a person sees (AppTest, no torch).

Maps are put into the run folder's store beforehand, as a visit with a model would have left them: showing
them again needs no network.
"""

from __future__ import annotations

import io
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dashboard import explain_more, explain_panels, explain_view
from dashboard.explain_view import Filter, Look
from engine.analysis import comparison
from engine.explain import overlay, store
from engine.explain.ensemble_map import EnsembleMap, fuse
from engine.explain.explanation import Explanation
from engine.runs import catalog, ensembles

HEIGHT, WIDTH = 46, 70


def explanation(seed: int = 0, target: str = "malignant", raw: np.ndarray | None = None) -> Explanation:
    made = np.random.default_rng(seed).normal(0, 1, (5, 5)).astype(np.float32) if raw is None else raw
    logits = np.array([-0.7, 0.9])
    return Explanation(
        raw=made,
        height=HEIGHT,
        width=WIDTH,
        probabilities=np.exp(logits) / np.exp(logits).sum(),
        logits=logits,
        classes=("benign", "malignant"),
        target=target,
        method="gradcam",
        layer="bn2",
        size=160,
        geometry="square",
    )


@pytest.fixture
def explained(make_run, tmp_path):
    """Makes a run with weights, image files for its test part, and a stored map of each image."""

    def make(name: str = "run", seed: int = 0, maps: bool = True):
        root = tmp_path / "images"
        folder = make_run(name=name, seed=seed, data_root=root)
        (folder.path / "best.safetensors").write_bytes(b"weights " + name.encode())
        manifest = folder.manifest()
        rows = manifest.table[manifest.table["split"] == "test"].head(6)
        table = folder.predictions("test")
        folder.write_predictions("test", table[table["image_id"].isin(rows["image_id"])])
        architecture = catalog.find(folder.config().model.name)
        for k, path in enumerate(rows["path"]):
            target = manifest.absolute(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(k).integers(150, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(target)
            if maps:
                key = store.key_of(
                    folder,
                    target.read_bytes(),
                    method="gradcam",
                    layer=architecture.cam_layer,
                    target="malignant",
                )
                store.save(folder, key, explanation(seed + k))
        return folder

    return make


# --- pure ----------------------------------------------------------------------------------------------
@pytest.fixture
def table(make_run) -> pd.DataFrame:
    folders = [make_run(name="a", seed=1, skill=0.5), make_run(name="b", seed=2, skill=0.5)]
    tables = {name: folder.predictions("test") for name, folder in zip("ab", folders, strict=True)}
    return comparison.opinions(comparison.align(tables))


def test_filters_keep_exactly_the_images_they_name(table):
    rows = explain_view.walk(table, Filter(magnification="100X", bucket="wrong"), "a")
    expected = table[(table["magnification"] == "100X") & ~table["right_a"]]
    assert set(rows["image_id"]) == set(expected["image_id"])
    assert len(rows) > 0
    disagree = explain_view.walk(table, Filter(bucket="disagree"), "a")
    assert set(disagree["image_id"]) == set(table[table["right_a"] != table["right_b"]]["image_id"])
    case = table["case"].iloc[0]
    assert set(explain_view.walk(table, Filter(case=case), "a")["case"]) == {case}


def test_an_image_keeps_its_place_and_an_unknown_one_has_the_first(table):
    rows = explain_view.walk(table, Filter(), "a")
    assert explain_view.position_of(rows, rows["image_id"].iloc[7]) == 7
    assert explain_view.position_of(rows, "gone.png") == 0


def test_siblings_are_the_other_images_of_the_slide(table):
    image = table["image_id"].iloc[0]
    found = explain_view.siblings(table, image)
    assert image not in set(found["image_id"])
    assert set(found["slide"]) == {table["slide"].iloc[0]}
    assert explain_view.siblings(table, "gone.png").empty


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pictures_keep_the_native_geometry_and_opacity_0_is_the_image():
    pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    heat = explanation().heat
    shown = explain_view.pictures(pixels, heat, Look(opacity=0.0))
    for data in (shown.image, shown.heat, shown.overlay):
        assert decoded(data).shape == (HEIGHT, WIDTH, 3)
    assert np.abs(decoded(shown.overlay).astype(int) - 200).max() <= 3
    full = explain_view.pictures(pixels, heat, Look(opacity=1.0))
    assert np.abs(decoded(full.overlay).astype(int) - decoded(full.heat).astype(int)).mean() < 3


def test_zoom_shows_the_same_part_in_all_three():
    ramp = np.arange(HEIGHT * WIDTH, dtype=float).reshape(HEIGHT, WIDTH)
    pixels = np.repeat((ramp / ramp.max() * 255).astype(np.uint8)[..., None], 3, axis=2)
    look = Look(zoom=2.0, centre=(1.0, 0.0))
    assert explain_view.crop(pixels, look).shape == (23, 35, 3)
    assert (explain_view.crop(pixels, look) == pixels[:23, 35:]).all()
    shown = explain_view.pictures(pixels, ramp, look)
    assert decoded(shown.image).shape == decoded(shown.heat).shape == decoded(shown.overlay).shape


def test_a_shared_scale_makes_a_weak_map_look_weak():
    weak, strong = np.full((4, 4), 0.1), np.full((4, 4), 1.0)
    low, high = explain_view.shared_scale([weak, strong], signed=False)
    assert (low, high) == (0.0, 1.0)
    assert (
        overlay.colourise(weak, scale=(low, high)).sum() < overlay.colourise(strong, scale=(low, high)).sum()
    )
    assert explain_view.shared_scale([np.array([[-2.0, 1.0]])], signed=True) == (-2.0, 2.0)


def test_signed_maps_exist_for_models_only():
    one, other = explanation(1), explanation(2)
    fused = fuse([one, other], ["a", "b"])
    assert isinstance(fused, EnsembleMap)
    assert (explain_view.heat_of(one, True) == one.signed).all()
    assert (explain_view.heat_of(one, False) == one.heat).all()
    assert (explain_view.heat_of(fused, True) == fused.heat).all()


def test_the_verdict_names_prediction_truth_and_whether_they_agree():
    one = explanation()
    assert explain_view.verdict(one, "malignant") == "malignant 0.83, truly malignant: right"
    assert explain_view.verdict(one, "benign") == "malignant 0.83, truly benign: wrong"
    assert "unknown" in explain_view.verdict(one, "")


# --- the page ------------------------------------------------------------------------------------------
def pictures_of(at) -> list[str]:
    """Alternative texts of the images on the page."""
    return [image.alt for element in at.get("image") for image in element.proto.imgs]


def test_without_weights_the_page_teaches(app, said, finished_run):
    at = app("explain")
    assert not at.exception
    assert "No run has weights" in said(at)


def test_a_stored_map_is_shown_with_truth_and_without_torch(app, said, explained):
    folder = explained()
    before = "torch" in sys.modules
    at = app("explain", runs=folder.id)
    assert not at.exception
    text = said(at)
    assert "malignant 0.83" in text
    assert "Research use only" in text
    alts = pictures_of(at)
    assert len(alts) == 3
    assert all(alts)
    assert ("torch" in sys.modules) == before


def test_every_model_has_its_row_and_the_link_restores_the_image(app, said, explained):
    first, second = explained("first", 1), explained("second", 2)
    image = first.predictions("test")["image_id"].iloc[3]
    at = app("explain", runs=f"{first.id},{second.id}", image=image)
    assert not at.exception
    assert len(pictures_of(at)) == 6
    assert all(image in alt for alt in (pictures_of(at)[0], pictures_of(at)[3]))


@pytest.mark.slow
def test_next_and_previous_walk_through_the_filtered_images(app, explained):
    folder = explained()
    at = app("explain", runs=folder.id)
    start = pictures_of(at)[0]
    at.button(key="explain_next").click().run()
    assert not at.exception
    assert pictures_of(at)[0] != start
    at.button(key="explain_prev").click().run()
    assert pictures_of(at)[0] == start
    assert at.button(key="explain_prev").disabled


def test_opacity_and_colours_ask_for_no_new_map(app, explained, monkeypatch):
    folder = explained()
    at = app("explain", runs=folder.id)

    def never(*_args, **_values):
        raise AssertionError("a map was computed again")

    monkeypatch.setattr(explain_view, "explain_file", never)
    at.slider(key="opacity").set_value(90).run()
    at.selectbox(key="colours").select("jet").run()
    assert not at.exception
    assert len(pictures_of(at)) == 3


def test_unknown_run_and_image_of_a_link_are_named(app, said, explained):
    folder = explained()
    at = app("explain", runs=f"{folder.id},20260101-000000-gone-abcd", image="nothing.png")
    assert not at.exception
    assert "20260101-000000-gone-abcd" in said(at)
    assert "nothing.png" in said(at)


def test_a_deleted_image_is_a_sentence(app, said, explained):
    folder = explained()
    manifest = folder.manifest()
    for path in manifest.table["path"]:
        manifest.absolute(path).unlink(missing_ok=True)
    at = app("explain", runs=folder.id)
    assert not at.exception
    assert "cannot be opened" in said(at)


def test_an_empty_filter_says_so(app, said, explained):
    folder = explained()
    rows = folder.predictions("test").assign(
        prob_benign=0.4, prob_malignant=0.6, logit_benign=0.0, logit_malignant=0.4, label="malignant"
    )
    folder.write_predictions("test", rows)
    at = app("explain", runs=folder.id, bucket="wrong")
    assert not at.exception
    assert "No image passes" in said(at)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["Patient", "Grid", "Trust", "Files"])
def test_the_views_below_are_drawn(app, explained, view):
    first, second = explained("first", 1), explained("second", 2)
    at = app("explain", runs=f"{first.id},{second.id}", view=view)
    assert not at.exception


@pytest.mark.slow
def test_the_grid_shows_every_model_on_every_image_from_stored_maps(app, explained):
    first, second = explained("first", 1), explained("second", 2)
    at = app("explain", runs=f"{first.id},{second.id}", view="Grid")
    before = len(pictures_of(at))
    at.toggle(key="explain_grid").set_value(True).run()
    assert not at.exception
    assert len(pictures_of(at)) == before + 12


def test_downloads_are_what_the_map_says(explained):
    one = explanation(3)
    pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    png = explain_more._overlay_png(pixels, one, Look(opacity=0.4, colour_map="viridis"))
    assert (decoded(png) == overlay.overlay(pixels, one.heat, 0.4, "viridis")).all()


def test_colours_and_zoom_of_the_link_are_restored(app, explained):
    folder = explained()
    at = app("explain", runs=folder.id, colours="viridis", zoom="2")
    assert not at.exception
    assert at.selectbox(key="colours").value == "viridis"
    assert at.session_state["zoom"] == "2"


def test_an_ensemble_shows_its_fused_map_and_where_members_disagree(app, said, explained, runs_dir):
    first, second = explained("first", 1), explained("second", 2)
    saved = ensembles.save_ensemble([first, second], "mean", "both", runs_dir)
    at = app("explain", runs=saved.id)
    assert not at.exception
    alts = pictures_of(at)
    assert len(alts) == 4
    assert "disagree" in alts[3]
    assert {box.key for box in at.checkbox if saved.id in box.key} == {
        f"{explain_panels.KEY}_tick_{saved.id}"
    }
