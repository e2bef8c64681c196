"""The predict page: what is taken, what is said (pure), and what a person sees (AppTest, no torch)."""

from __future__ import annotations

import io
from pathlib import Path

import fabricate
import numpy as np
import pytest
from PIL import Image

from dashboard import predict_view
from engine.errors import DataError
from engine.runs import results


def png(seed: int = 0, size: tuple[int, int] = (70, 46)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def with_weights(make_run):
    folder = make_run(name="trained")
    (folder.path / "best.safetensors").write_bytes(b"weights")
    return folder


def judged(rows, seed: int = 0):
    return fabricate.predictions(rows, seed)


# --- what is taken -------------------------------------------------------------------------------------
def test_uploads_are_judged_by_their_bytes_not_by_their_names(tmp_path):
    uploads = [
        ("a.png", png()),
        ("really_an_image.exe", png(1)),
        ("program.png", b"MZ\x90\x00" + b"\x00" * 200),
        ("page.png", b"<html><script>alert(1)</script></html>"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("empty.png", b""),
        ("cut.png", png(2)[:-40]),
    ]
    kept, refused = predict_view.save_uploads(uploads, tmp_path)
    assert {path.name for path in kept} == {"a.png", "really_an_image.exe"}
    assert {one.name for one in refused} == {"program.png", "page.png", "drawing.svg", "empty.png", "cut.png"}
    assert all(one.reason for one in refused)


def test_uploaded_names_never_leave_their_folder_and_twins_stay_two(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["../../evil.png", "..\\evil.png", "/etc/passwd", "..", "a\u202egnp.png"]
    kept, refused = predict_view.save_uploads([(name, png(k)) for k, name in enumerate(names)], folder)
    assert not refused
    assert len({path.name for path in kept}) == len(names)
    assert all(path.parent == folder and path.resolve().parent == folder.resolve() for path in kept)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in"]


def test_more_than_200_files_are_refused_with_the_limit(tmp_path):
    one = png()
    kept, refused = predict_view.save_uploads([(f"{k}.png", one) for k in range(203)], tmp_path)
    assert len(kept) == 200
    assert len(refused) == 3
    assert "200" in refused[0].reason


def test_a_folder_without_images_is_an_error_with_a_remedy(tmp_path):
    for text in ("", str(tmp_path / "nothing"), str(tmp_path)):
        with pytest.raises(DataError) as caught:
            predict_view.folder_sources(text)
        assert caught.value.remedy


# --- what is said --------------------------------------------------------------------------------------
def test_the_table_says_class_probability_and_whom_to_refer(make_run):
    table = make_run().predictions("test")
    shown = predict_view.image_table(table, refer_below=0.7)
    malignant = table["prob_malignant"] > 0.5
    assert list(shown["Predicted"] == "malignant") == list(malignant)
    sure = np.maximum(table["prob_malignant"], table["prob_benign"])
    assert list(shown["Refer"]) == list(sure < 0.7)
    assert "Label by name" in shown.columns


def test_cases_are_diagnosed_by_their_mean_probability(make_run):
    table = make_run().predictions("test")
    cases = predict_view.case_table(table)
    means = table.groupby("case")["prob_malignant"].mean()
    for _, row in cases.iterrows():
        assert row["Mean P(malignant)"] == pytest.approx(means[row["Case"]])
        assert row["Diagnosis"] == ("malignant" if means[row["Case"]] > 0.5 else "benign")
    assert predict_view.case_table(table.assign(case="")).empty


def test_labels_in_names_are_scored_and_unknown_ones_are_not(make_run):
    table = make_run().predictions("test")
    right = ((table["prob_malignant"] > 0.5) == (table["label"] == "malignant")).sum()
    assert f"{right} of {len(table)} images right" in predict_view.score_sentence(table)
    assert predict_view.score_sentence(table.assign(label="")) == ""


def test_images_and_cases_of_the_training_set_are_told(make_run):
    folder = make_run()
    manifest = folder.manifest().table
    rows = manifest[manifest["split"] == "train"].head(5)
    trained, cases, known = predict_view.met_before(folder, judged(rows))
    assert (trained, cases, known) == (5, sorted(set(rows["case"])), True)
    test = folder.predictions("test")
    assert predict_view.met_before(folder, test) == (0, [], True)


# --- the page ------------------------------------------------------------------------------------------
def test_without_weights_the_page_teaches(app, said, finished_run):
    at = app("predict")
    assert not at.exception
    assert "No run has weights" in said(at)


def test_an_unknown_run_of_a_link_is_named(app, said, with_weights):
    at = app("predict", run="20260101-000000-gone-abcd")
    assert not at.exception
    assert "20260101-000000-gone-abcd" in said(at)
    assert at.selectbox(key="predict_run").value == with_weights.id


def test_a_folder_is_judged_and_its_training_images_raise_the_badge(
    app, said, with_weights, tmp_path, monkeypatch
):
    rows = with_weights.manifest().table
    rows = rows[rows["split"] == "train"].head(4)
    folder = tmp_path / "new"
    folder.mkdir()
    for k, name in enumerate(rows["image_id"]):
        (folder / name).write_bytes(png(k))
    seen: list[Path] = []

    def predict(_folder, sources, *, progress=None, device="cpu"):
        seen.extend(Path(source) for source in sources)
        if progress:
            progress(len(seen), len(seen))
        return judged(rows)

    monkeypatch.setattr(results, "predict_images", predict)
    at = app("predict", run=with_weights.id)
    at.segmented_control(key="predict_source").set_value("Name a folder").run()
    at.text_input(key="predict_folder").set_value(str(folder)).run()
    at.button(key="predict_go").click().run()
    assert not at.exception
    assert {path.name for path in seen} == set(rows["image_id"])
    text = said(at)
    assert "4 images" in text
    assert "bh-leak" in text
    assert "proves nothing" in text


def test_a_folder_that_is_not_there_is_a_sentence(app, said, with_weights):
    at = app("predict", run=with_weights.id)
    at.segmented_control(key="predict_source").set_value("Name a folder").run()
    at.text_input(key="predict_folder").set_value("/no/such/folder").run()
    at.button(key="predict_go").click().run()
    assert not at.exception
    assert "no such image or folder" in said(at)
