"""Grids, strips and files: the right maps in the right order, readable by other tools."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from explain_models import with_red_square
from PIL import Image
from test_explain_runs import Models, make_ensemble, make_run

from engine.errors import EngineError, ExplainError
from engine.explain import export, overlay
from engine.explain.montage import montage, patient_strip
from engine.explain.runs import explain_file

QUESTION = {"layer": "act"}


@pytest.fixture
def sources(tmp_path):
    paths = []
    for k, (top, side) in enumerate([(20, 20), (180, 250), (300, 60)]):
        path = tmp_path / f"SOB_M_DC-14-2523-100-00{k}.png"
        Image.fromarray(with_red_square(top, 300, side, 456 if k == 1 else 460)).save(path)
        paths.append(path)
    return paths


# --- montage -------------------------------------------------------------------------------------------


def test_the_grid_puts_images_first_on_which_models_disagree(tmp_path, sources):
    runs = [make_run(tmp_path / "runs", 1), make_run(tmp_path / "runs", 2, model__dropout=0.5)]
    done: list[tuple[int, int]] = []
    grid = montage(runs, sources, load=Models(), progress=lambda k, n: done.append((k, n)), **QUESTION)
    assert done == [(k, 6) for k in range(1, 7)]
    assert grid.runs == tuple(run.id for run in runs)
    chance = grid.probability("malignant")
    assert chance.shape == (2, 3)
    np.testing.assert_allclose(grid.disagreement, chance.std(axis=0))
    assert grid.order()[0] == 1  # the biggest red square: one model says malignant, the other benign
    assert grid.predicted()[0][1] == "malignant"
    assert grid.predicted()[1][1] == "benign"


def test_a_run_without_weights_says_so_in_its_row_and_hides_no_other(tmp_path, sources):
    runs = [make_run(tmp_path / "runs", 1), make_run(tmp_path / "runs", 2)]
    runs[1].best.unlink()
    sources[2].unlink()
    grid = montage(runs, sources, load=Models(), **QUESTION)
    assert all(isinstance(cell, ExplainError) for cell in grid.cells[1])
    assert [isinstance(cell, EngineError) for cell in grid.cells[0]] == [False, False, True]
    assert np.isnan(grid.probability("malignant")[1]).all()
    assert grid.order()[-1] == 2  # nothing to see comes last
    assert np.isnan(grid.disagreement[2])


def test_ensembles_stand_in_the_grid_beside_their_members(tmp_path, sources):
    ensemble, members = make_ensemble(tmp_path)
    grid = montage([*members, ensemble], sources[:1], load=Models(), **QUESTION)
    one, other, fused = grid.probability("malignant")[:, 0]
    assert fused == pytest.approx(0.75 * one + 0.25 * other)


def test_an_empty_grid_and_an_unknown_method_are_refused(tmp_path, sources):
    run = make_run(tmp_path / "runs")
    with pytest.raises(ExplainError, match="nothing to show"):
        montage([], sources)
    with pytest.raises(ExplainError, match="no such method"):
        montage([run], sources, load=Models(), method="gradcan")


def test_a_patient_strip_goes_by_slide_and_magnification():
    rows = [
        {
            "image_id": f"{slide}-{power}-{k:03d}.png",
            "case": "14-22549",
            "slide": slide,
            "magnification": power,
        }
        for slide in ("S2", "S1")
        for power in ("400X", "40X")
        for k in range(5)
    ]
    rows.append({"image_id": "other.png", "case": "14-1", "slide": "S3", "magnification": "40X"})
    strip = patient_strip(pd.DataFrame(rows), "14-22549", per_group=2)
    assert list(zip(strip["slide"], strip["magnification"], strict=True)) == [
        ("S1", "40X"), ("S1", "40X"), ("S1", "400X"), ("S1", "400X"),
        ("S2", "40X"), ("S2", "40X"), ("S2", "400X"), ("S2", "400X"),
    ]  # fmt: skip
    assert strip["image_id"].iloc[0] == "S1-40X-000.png"
    assert strip["image_id"].iloc[1] == "S1-40X-004.png"
    assert list(strip.columns) == ["image_id", "case", "slide", "magnification"]
    with pytest.raises(ExplainError, match="case"):
        patient_strip(pd.DataFrame(rows), "99-1")


# --- export --------------------------------------------------------------------------------------------


@pytest.fixture
def found(tmp_path, sources):
    return explain_file(make_run(tmp_path / "runs"), sources[1], load=Models(), **QUESTION)


def test_the_raw_map_survives_the_file(found):
    values = np.load(io.BytesIO(export.raw_npy(found)), allow_pickle=False)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, found.raw)


def test_geojson_encloses_the_hottest_share_in_image_pixels(found):
    record = json.loads(export.geojson_bytes(found, 0.15))
    assert record["type"] == "FeatureCollection"
    mask = np.zeros(found.heat.shape, np.uint8)
    for feature in record["features"]:
        assert feature["properties"]["objectType"] == "annotation"
        rings = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in rings)
        cv2.fillPoly(mask, [(np.array(ring) - 0.5).round().astype(np.int32) for ring in rings], 1)
    expected = overlay.top_mask(found.heat, 0.15)
    assert (mask.astype(bool) ^ expected).mean() < 0.005


def test_geojson_keeps_holes():
    rows, columns = np.mgrid[:200, :200]
    distance = np.hypot(rows - 100, columns - 100)
    ring = np.where((distance > 30) & (distance < 60), 1.0, 0.0).astype(np.float32)
    polygons = export._polygons(ring, 0.9)
    assert len(polygons) == 1
    assert len(polygons[0]) == 2
    assert export._polygons(np.zeros_like(ring), 0.15) == []


@pytest.mark.parametrize(("form", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_page_is_a_file_of_its_kind(found, sources, form, start):
    row = export.FigureRow(
        with_red_square(180, 300, 250, 456),
        "an image $x$",
        (("B0", found), ("B1", found)),
        "malignant",
        "100X",
    )
    page = export.figure_page(
        [row, row], form=form, title="Two models", shared_scale=True, style=export.Style(contour_top=0.15)
    )
    assert page.startswith(start)
    if form == "svg":  # text is text, so that a journal can edit it
        assert b"true malignant" in page
        assert b"Research use only" in page


def test_a_figure_of_nothing_or_of_another_kind_is_refused(found):
    with pytest.raises(ExplainError, match="cannot be made"):
        export.figure_page([])
    row = export.FigureRow(with_red_square(180, 300, 250, 456), "x", (("B0", found),))
    with pytest.raises(ExplainError, match="docx"):
        export.figure_page([row], form="docx")


def test_a_folder_is_written_with_progress_and_an_index(tmp_path, sources):
    run = make_run(tmp_path / "runs")
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / sources[0].name
    twin.write_bytes(sources[1].read_bytes())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    done: list[tuple[int, int]] = []
    table = export.explain_folder(
        run, [*sources, twin, broken], tmp_path / "out", raw=True, outline=True, load=Models(),
        progress=lambda k, n: done.append((k, n)), **QUESTION,
    )  # fmt: skip
    assert done[-1] == (5, 5)
    assert table["error"].astype(bool).tolist() == [False] * 4 + [True]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(written) == 4 + 4 + 4 + 1
    for source, name in zip([*sources, twin], table["overlay"], strict=False):
        assert Image.open(tmp_path / "out" / name).size == Image.open(source).size
    again = pd.read_csv(tmp_path / "out" / "explanations.csv")
    assert again["overlay"].nunique() == 4
    assert "prob_malignant" in again.columns


def test_one_image_is_written_in_every_form(tmp_path, sources):
    run = make_run(tmp_path / "runs")
    out = tmp_path / "out"
    record = export.explain_image(
        run, sources[0], out / "a.png", raw=out / "a.npy", outline=out / "a.geojson", page=out / "a.pdf",
        style=export.Style(0.3, "viridis", 0.15), load=Models(), **QUESTION,
    )  # fmt: skip
    assert Image.open(out / "a.png").size == Image.open(sources[0]).size
    assert Image.open(out / "a.png").text["Run"] == run.id
    assert np.load(out / "a.npy").dtype == np.float32
    (first, *_) = json.loads((out / "a.geojson").read_bytes())["features"]
    assert first["properties"]["metadata"]["Target"] == record["target"]
    assert (out / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"style": (1.5, "inferno", None)}, "opacity is out of range"),
        ({"style": (0.5, "rainbow", None)}, "no such colour map"),
        ({"style": (0.5, "jet", 15.0)}, "outlined share is out of range"),
        ({"out": "."}, "over a folder"),
        ({"page": "a.docx"}, "cannot be made"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path, sources, changes, words):
    run = make_run(tmp_path / "runs")
    with pytest.raises(ExplainError, match=words):
        export.explain_image(
            run, sources[0], tmp_path / changes.get("out", "a.png"), load=Models(),
            page=tmp_path / changes["page"] if "page" in changes else None,
            style=export.Style(*changes["style"]) if "style" in changes else None, **QUESTION,
        )  # fmt: skip


def test_a_folder_cannot_be_written_over_a_file_nor_a_hundred_images_on_a_page(tmp_path, sources):
    run = make_run(tmp_path / "runs")
    with pytest.raises(ExplainError, match="need a folder"):
        export.explain_folder(run, sources, sources[0], load=Models(), **QUESTION)
    with pytest.raises(ExplainError, match="on a page"):
        export.explain_folder(
            run, sources * 20, tmp_path / "out", page=tmp_path / "a.pdf", load=Models(), **QUESTION
        )
