"""The predict page: what is taken, what is said (pure), and what a person sees (AppTest, no torch)."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import fabricate
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dashboard import predict_job, predict_view
from engine.errors import DataError, ExplainError
from engine.predict.calibration import Calibration
from engine.predict.judge import Judged, Refused


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


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """These runs have no real weights: a map is refused at once, without loading torch."""

    def refuse(*_):
        raise ExplainError("No map in this test")

    monkeypatch.setattr(predict_view.maps, "maps_of", refuse)


def judged(folder, rows, paths=(), unlike: str = "", **more) -> Judged:
    """What `engine.predict.judge.judge` gives, with made-up probabilities."""
    table = fabricate.predictions(rows, 0).reset_index(drop=True)
    calibrated = {f"calibrated_{name}": table[f"prob_{name}"] for name in ("benign", "malignant")}
    table = table.assign(
        **calibrated, agreeing=1, members=1, stain_distance=np.nan, magnification_distance=np.nan, unlike=""
    )
    if unlike:
        table.loc[0, "unlike"] = unlike
    at = {name: Path(path) for name, path in zip(table["image_id"], paths, strict=False)}
    facts = {"refused": (), "calibration": Calibration(reason="nothing was tried"), "appearance": None}
    facts |= {"unfamiliar": "The training images are not here", "members": (), **more}
    return Judged(folder.id, table, at, **facts)


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


def test_too_large_is_said_with_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(predict_view, "MOST_BYTES", 100)
    _, refused = predict_view.save_uploads([("big.png", png())], tmp_path)
    assert "too large" in refused[0].reason
    assert "at most" in refused[0].reason
    monkeypatch.undo()
    bomb = png()[:16] + (60_000).to_bytes(4, "big") * 2 + png()[24:]
    _, refused = predict_view.save_uploads([("bomb.png", bomb)], tmp_path)
    assert len(refused) == 1


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


def test_whom_to_refer_is_in_the_link_before_anything_is_judged(app, with_weights, make_run):
    from engine.runs.ensembles import ensemble_runs

    other = make_run(name="another", seed=1)
    (other.path / "best.safetensors").write_bytes(b"weights")
    both = ensemble_runs([with_weights, other], "mean", name="both").as_record()["id"]
    at = app("predict", run=both, refer="0.8", agree="75")
    assert not at.exception, at.exception
    assert (at.slider(key="refer").value, at.slider(key="agree").value) == (0.8, 75)
    at = app("predict", run=with_weights.id, refer="0.8")
    assert at.slider(key="refer").value == 0.8
    assert "agree" not in [slider.key for slider in at.slider], "one model agrees with itself"


def drawn(folder, tmp_path, names) -> Path:
    target = tmp_path / "new"
    target.mkdir()
    for k, name in enumerate(names):
        (target / name).write_bytes(png(k))
    return target


def ask(app, run, folder: Path):
    """The page after a click on Predict."""
    at = app("predict", run=run.id)
    at.segmented_control(key="predict_source").set_value("Name a folder").run()
    at.text_input(key="predict_folder").set_value(str(folder)).run()
    at.button(key="predict_go").click().run()
    return at


def finish(at):
    """The page once its thread is done."""
    end = time.monotonic() + 10
    while not at.session_state[predict_job.KEY].finished:
        assert time.monotonic() < end
        time.sleep(0.01)
    return at.run()


def test_a_folder_is_judged_and_its_training_images_raise_the_badge(
    app, said, with_weights, tmp_path, monkeypatch
):
    rows = with_weights.manifest().table
    rows = pd.concat([rows[rows["split"] == "train"].head(2), rows[rows["split"] == "test"].head(2)])
    folder = drawn(with_weights, tmp_path, rows["image_id"])
    seen: list[Path] = []

    def judge(run, paths, *, told, progress, phase, stop):
        seen.extend(paths)
        refused = (Refused("<b>.png", "cut off"),)
        return judged(run, rows, sorted(paths), refused=refused, unlike="stain")

    monkeypatch.setattr(predict_job, "judge", judge)
    at = finish(ask(app, with_weights, folder))
    assert not at.exception, at.exception
    assert {path.name for path in seen} == set(rows["image_id"])
    text = said(at)
    assert "4 images" in text
    assert "bh-leak" in text
    assert "proves nothing" in text
    assert "not calibrated: nothing was tried" in text
    assert "1 file not judged" in text
    assert "<b>.png: cut off" in text
    assert at.dataframe[0].value["Image"].iloc[0] == rows["image_id"].iloc[0], "the unlike one first"
    assert at.dataframe[0].value["Refer"].iloc[0].endswith("unlike training: stain")
    assert "Balanced accuracy" in text
    assert "The scores leave out 2 images that the model was trained on." in text
    assert "n = 2 images" in text
    assert "without the images" in text, "what a link to this page opens is said"


def test_images_in_their_own_colours_are_named(app, said, with_weights, tmp_path, monkeypatch):
    rows = with_weights.manifest().table.head(3)
    folder = drawn(with_weights, tmp_path, rows["image_id"])
    name = str(rows["image_id"].iloc[1])

    def judge(run, paths, *, told, progress, phase, stop):
        return judged(run, rows, sorted(paths), own_colours=(name,))

    monkeypatch.setattr(predict_job, "judge", judge)
    at = finish(ask(app, with_weights, folder))
    assert not at.exception, at.exception
    assert (
        f"1 of 3 images could not be stain-normalised and were judged in their own colours: {name}"
        in said(at)
    )
    shown = at.dataframe[0].value.set_index("Image")["Stain"]
    assert shown[name] == "own colours"
    assert set(shown.drop(name)) == {"normalised"}


def test_a_prediction_is_cancelled_and_keeps_what_was_judged(app, said, with_weights, tmp_path, monkeypatch):
    rows = with_weights.manifest().table.head(3)
    folder = drawn(with_weights, tmp_path, rows["image_id"])
    begun = threading.Event()

    def judge(run, paths, *, told, progress, phase, stop):
        phase("Judging")
        progress(1, 3)
        begun.set()
        end = time.monotonic() + 10
        while not stop() and time.monotonic() < end:
            time.sleep(0.01)
        return judged(run, rows.head(1), sorted(paths), stopped=True)

    monkeypatch.setattr(predict_job, "judge", judge)
    at = ask(app, with_weights, folder)
    assert begun.wait(10)
    at.run()
    at.button(key="predict_cancel").click().run()
    at = finish(at)
    assert "Stopped: 1 of 3 images were judged." in said(at)


def test_a_failure_of_any_kind_is_a_sentence(app, said, with_weights, tmp_path, monkeypatch):
    folder = drawn(with_weights, tmp_path, ["a.png"])

    def judge(*_, **__):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(predict_job, "judge", judge)
    at = finish(ask(app, with_weights, folder))
    assert not at.exception
    assert "The prediction failed" in said(at)
    assert "ZeroDivisionError: boom" in said(at)


def test_dropped_files_go_with_the_next_prediction(with_weights):
    from tempfile import TemporaryDirectory

    scratch = TemporaryDirectory(prefix="predict-")
    kept = Path(scratch.name)
    job = predict_job.Job(with_weights, [], scratch=scratch)
    del scratch
    assert kept.is_dir()
    del job
    assert not kept.exists()


def test_a_folder_that_is_not_there_is_a_sentence(app, said, with_weights):
    at = ask(app, with_weights, Path("/no/such/folder"))
    assert not at.exception
    assert "no such image or folder" in said(at)


def test_a_reader_drops_images_but_names_no_folder(app, with_weights, monkeypatch):
    monkeypatch.setenv("DASHBOARD_ROLE", "viewer")
    at = app("predict", run=with_weights.id)
    assert at.segmented_control(key="predict_source").options == ["Drop images"]
