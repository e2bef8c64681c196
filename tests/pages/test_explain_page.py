"""The explain page: which images and which pictures (pure), and what a person sees (AppTest, no torch).

Maps are put into the run folder's store beforehand, as a visit with a model would have left them: showing
them again needs no network.
"""

from __future__ import annotations

import io
import json
import sys
import time

import explained as explained_runs  # beside conftest.py: pytest puts tests/ on the path
import numpy as np
import pandas as pd
import pytest
from explained import HEIGHT, WIDTH, explanation
from PIL import Image

from dashboard import explain_more, explain_panels, explain_trust, explain_view, synced_view
from dashboard.explain_view import Filter, Look
from engine.analysis import comparison
from engine.explain import export, overlay, store, trust
from engine.explain.ensemble_map import EnsembleMap, fuse
from engine.runs import ensembles


@pytest.fixture
def explained(runs_dir, tmp_path):
    """`explained("name", seed, maps=False)`: a run with weights, image files and a stored map of each."""

    def make(name: str = "run", seed: int = 0, maps: bool = True):
        return explained_runs.run(runs_dir, tmp_path / "images", name=name, seed=seed, maps=maps)

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


def test_pictures_keep_the_native_pixels():
    heat = explanation().heat
    shown = decoded(explain_view.coloured(heat, Look(colour_map="viridis")))
    assert shown.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(shown.astype(int) - overlay.colourise(heat, "viridis")).mean() < 3


def test_the_picture_laid_over_the_image_is_clear_where_nothing_speaks():
    heat = np.zeros((HEIGHT, WIDTH), np.float32)
    heat[10:20, 30:50] = 1
    shown = decoded(explain_view.veiled(heat, Look()))
    assert shown.shape == (HEIGHT, WIDTH, 4)
    np.testing.assert_array_equal(shown[..., 3], np.where(heat > 0, 255, 0))
    assert decoded(explain_view.veiled(heat, Look(even=True))).shape == (HEIGHT, WIDTH, 3)


def test_outlines_are_rings_around_the_hottest_share_in_pixels():
    heat = np.zeros((HEIGHT, WIDTH), np.float32)
    heat[10:20, 30:50] = 1
    assert explain_view.outlines(heat, Look()) == ()
    (ring,) = explain_view.outlines(heat, Look(contour=200 / heat.size))
    across, down = zip(*ring, strict=True)
    assert (min(across), max(across), min(down), max(down)) == (30.5, 49.5, 10.5, 19.5)
    against = explain_view.outlines(-heat, Look(contour=0.05, signed=True))
    assert against  # strong evidence against is outlined too


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("2.5,0.3,0.6", (2.5, 0.3, 0.6)),
        ("4", (4.0, 0.5, 0.5)),
        ("", synced_view.WHOLE),
        ("nan,0,0", synced_view.WHOLE),
        ("2,0.1", synced_view.WHOLE),
        ("<b>", synced_view.WHOLE),
        ("999,-3,7", (16.0, 0.0, 1.0)),
    ],
)
def test_the_zoom_of_a_link_is_read_or_the_whole_image_is_shown(text, view):
    assert synced_view.parse_view(text) == view


def test_a_zoom_is_written_as_it_is_read():
    assert synced_view.view_text(synced_view.WHOLE) == ""
    assert synced_view.parse_view(synced_view.view_text((2.5, 0.25, 0.75))) == (2.5, 0.25, 0.75)


def test_scale_bars_are_round_lengths_in_pixels_of_the_file():
    bars = {label: length for length, label in synced_view.bars(0.197)}
    assert bars["20 µm"] == pytest.approx(101.5, abs=0.1)
    assert synced_view.bars(None) == []


def test_new_colours_of_ten_models_are_drawn_in_time():
    """Under 150 ms of server time for all of them at 700 x 460; the bound leaves room for a busy machine."""
    heats = [explanation(k, size=(460, 700)).heat for k in range(10)]
    began = time.process_time()
    for heat in heats:
        explain_view.coloured(heat, Look(colour_map="viridis"))
        explain_view.outlines(heat, Look(contour=0.15))
    took = time.process_time() - began
    print(f"ten maps coloured and outlined: {1000 * took:.0f} ms of processor time")
    assert took < 0.3


def test_a_shared_scale_makes_a_weak_map_look_weak():
    weak, strong = np.full((4, 4), 0.1), np.full((4, 4), 1.0)
    low, high = explain_view.shared_scale([weak, strong], signed=False)
    assert (low, high) == (0.0, 1.0)
    assert (
        overlay.colourise(weak, scale=(low, high)).sum() < overlay.colourise(strong, scale=(low, high)).sum()
    )
    assert explain_view.shared_scale([np.array([[-2.0, 1.0]])], signed=True) == (-2.0, 2.0)


def test_signed_maps_of_an_ensemble_are_the_weighted_mean_of_its_members():
    one, other = explanation(1), explanation(2)
    fused = fuse([one, other], ["a", "b"], [3, 1])
    assert isinstance(fused, EnsembleMap)
    assert (explain_view.heat_of(one, True) == one.signed).all()
    assert (explain_view.heat_of(fused, False) == fused.heat).all()
    expected = 0.75 * one.signed / np.abs(one.signed).max() + 0.25 * other.signed / np.abs(other.signed).max()
    np.testing.assert_allclose(explain_view.heat_of(fused, True), expected, atol=1e-6)
    assert fused.signed.min() < 0 < fused.signed.max()


def test_the_verdict_names_prediction_truth_and_whether_they_agree():
    one = explanation()
    assert explain_view.verdict(one, "malignant") == "malignant 0.83, truly malignant: right"
    assert explain_view.verdict(one, "benign") == "malignant 0.83, truly benign: wrong"
    assert "unknown" in explain_view.verdict(one, "")


def test_a_threshold_decides_what_is_called():
    said = explain_view.judgement([0.65, 0.35], ("benign", "malignant"), "malignant", 0.3)
    assert (said.called, said.right, said.positive) == ("malignant", True, 0.35)
    said = explain_view.judgement([0.65, 0.35], ("benign", "malignant"), "malignant")
    assert (said.called, said.right, said.probability) == ("benign", False, 0.65)
    many = explain_view.judgement([0.2, 0.5, 0.3], ("A", "F", "DC"), "F", 0.3)
    assert (many.called, many.positive) == ("F", None)


def test_a_run_says_what_every_other_page_says_of_it():
    """A vote of 2 to 1 is 0.67; the weighted mean that the fused map carries is another number. A network that was
    evaluated in bf16 said another than the pass of its map."""
    fused = fuse([explanation(1), explanation(2)], ["a", "b"])
    row = {"label": "benign", "predicted_e": "benign", "confidence_e": 2 / 3}
    said = explain_view.said_of(fused, row, "e", None)
    assert (said.called, round(said.positive, 3), said.right) == ("benign", 0.333, True)
    assert explain_view.said_of(explanation(), row, "e", None) == said
    assert (
        explain_view.said_of(explanation(), {"label": "benign"}, "e", None).called == "malignant"
    )  # not stored


def test_images_on_which_probabilities_differ_most_come_first(table):
    doubt = explain_view.spread(table, ["a", "b"], ("benign", "malignant"))
    row = table.iloc[int(np.argmax(doubt))]
    probabilities = [
        row[f"confidence_{name}"]
        if row[f"predicted_{name}"] == "malignant"
        else 1 - row[f"confidence_{name}"]
        for name in "ab"
    ]
    assert doubt.max() == pytest.approx(abs(probabilities[0] - probabilities[1]) / 2)
    assert (explain_view.spread(table, ["a"], ("benign", "malignant")) == 0).all()
    many = pd.DataFrame({"predicted_a": ["A", "F"], "predicted_b": ["A", "DC"], "predicted_c": ["A", "F"]})
    np.testing.assert_allclose(explain_view.spread(many, ["a", "b", "c"], ("A", "F", "DC")), [0, 1 / 3])


def test_a_sample_is_spread_over_the_filter(table):
    paths = dict.fromkeys(table["image_id"].iloc[10:], "x")
    sample = explain_trust.spread_over(table, paths, 8)
    assert len(sample) == 8
    assert sample["image_id"].iloc[0] == table["image_id"].iloc[10]
    assert sample["image_id"].iloc[-1] == table["image_id"].iloc[-1]
    assert explain_trust.spread_over(table, {}, 8).empty


def test_the_trust_table_has_both_methods_and_their_difference_in_a_row():
    rows = [
        {"image_id": f"{case}-{k}", "case": case, "label": "malignant", "method": method, "target": "malignant",
         "probability": 0.9, "road": 0.2 * (method == "gradcam") + 0.01 * k, "insertion": 0.6, "deletion": 0.4,
         "glass_share": 0.1, "glass_area": 0.1}
        for method in ("gradcam", "randomcam") for case in "abc" for k in range(3)
    ]  # fmt: skip
    found = trust.summarise(pd.DataFrame(rows), draws=200)
    table = explain_trust.trust_table(found)
    assert list(table.columns) == [
        "Measure",
        "Grad-CAM",
        "Random weights (control)",
        "Difference",
        "Beats random",
    ]
    assert len(table) == len(trust.MEASURES)
    road = table.iloc[0]
    assert road["Difference"].startswith("0.200")
    assert road["Beats random"] == "yes"
    assert explain_trust._size(found) == "n = 9 images, 3 cases"


# --- the page ------------------------------------------------------------------------------------------
def viewer_of(at) -> dict:
    """What the synced pictures were given."""
    (element,) = at.get("bidi_component")
    return json.loads(element.proto.json)


def pictures_of(at) -> list[str]:
    """Alternative texts of the synced pictures."""
    return [panel["alt"] for row in viewer_of(at)["rows"] for panel in row["panels"]]


def drawn(at) -> list[str]:
    """Alternative texts of the other images on the page."""
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
    (row,) = viewer_of(at)["rows"]
    first = folder.predictions("test").sort_values(["case", "image_id"]).iloc[0]
    called = "malignant" if first["prob_malignant"] > 0.5 else "benign"
    assert row["verdict"].startswith(f"{called} {first[f'prob_{called}']:.2f}, truly {first['label']}: ")
    assert row["right"] == (first["label"] == called)
    assert row["probability_words"] == f"P(malignant) {first['prob_malignant']:.3f} · threshold 0.50"
    assert "Calibration: " in row["note"]
    assert "lass" in row["note"]
    assert "Research use only" in said(at)
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
    at.toggle(key="even").set_value(True).run()
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
@pytest.mark.parametrize("view", explain_more.VIEWS)
def test_the_views_below_are_drawn(app, explained, view):
    first, second = explained("first", 1), explained("second", 2)
    at = app("explain", runs=f"{first.id},{second.id}", view=view)
    assert not at.exception


@pytest.mark.slow
def test_the_grid_shows_every_model_on_every_image_from_stored_maps(app, explained):
    first, second = explained("first", 1), explained("second", 2)
    at = app("explain", runs=f"{first.id},{second.id}", view="Grid")
    assert drawn(at) == []
    at.toggle(key="explain_grid").set_value(True).run()
    assert not at.exception
    assert len(drawn(at)) == 12


def test_downloads_are_what_the_map_says(explained):
    one = explanation(3)
    pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    look = Look(opacity=0.4, colour_map="viridis")
    png = explain_more._overlay_png(pixels, one, look, export.about(one, "run-1"))
    assert (decoded(png) == overlay.overlay(pixels, one.heat, 0.4, "viridis")).all()
    written = Image.open(io.BytesIO(png)).text
    assert (written["Run"], written["Method"], written["Target"]) == ("run-1", "gradcam", "malignant")


def test_colours_and_zoom_of_the_link_are_restored(app, explained):
    folder = explained()
    at = app("explain", runs=folder.id, colours="viridis", zoom="2.00,0.250,0.750")
    assert not at.exception
    assert at.selectbox(key="colours").value == "viridis"
    assert viewer_of(at)["view"] == [2.0, 0.25, 0.75]


def test_a_threshold_of_the_link_calls_and_filters(app, explained):
    """Also one that was chosen on the compare page."""
    folder = explained()
    first = folder.predictions("test").sort_values(["case", "image_id"]).iloc[0]
    strict = round(float(first["prob_malignant"]) + 0.005, 3)
    for text, threshold in (("youden", None), (str(strict), strict)):
        at = app("explain", runs=folder.id, threshold=text)
        assert not at.exception
        (row,) = viewer_of(at)["rows"]
        if threshold:
            assert row["threshold"] == threshold
            assert row["verdict"].startswith(f"benign {first['prob_benign']:.2f}")
        assert row["threshold"] != 0.5


@pytest.mark.slow
def test_a_click_on_a_sibling_opens_it(app, explained):
    folder = explained()
    at = app("explain", runs=folder.id)
    here = viewer_of(at)["image_id"]
    button = next(one for one in at.button if str(one.key).startswith("explain_sibling_"))
    there = button.key.removeprefix("explain_sibling_")
    button.click().run()
    assert not at.exception
    assert viewer_of(at)["image_id"] == there != here


def test_a_map_of_zeros_and_a_checkpoint_that_is_gone_are_said(app, said, explained):
    folder, second = explained(maps=False), explained("second", 2)
    path = next(
        path for path in map(folder.manifest().absolute, folder.manifest().table["path"]) if path.is_file()
    )
    key = store.key_of(folder, path.read_bytes(), method="gradcam", layer="bn2", target="malignant")
    store.save(folder, key, explanation(raw=np.full((5, 5), -1, np.float32)))
    (second.path / "best.safetensors").unlink()
    at = app("explain", runs=f"{folder.id},{second.id}", image=path.name)
    assert not at.exception
    assert "Nothing in this image speaks for malignant" in viewer_of(at)["rows"][0]["note"]
    assert "No map can be made of second: its weights are not there." in said(at)


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


def test_a_run_of_the_link_without_a_network_is_told_from_one_that_is_gone(app, said, explained, make_run):
    folder, bare = explained(), make_run(name="only predictions")
    at = app("explain", runs=f"{bare.id},{folder.id}")
    assert not at.exception
    assert "No map can be made of only predictions: its weights are not there." in said(at)
    assert "not here" not in said(at)
    assert len(viewer_of(at)["rows"]) == 1
