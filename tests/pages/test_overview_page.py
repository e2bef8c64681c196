"""The overview: what is here, one next step, and no torch."""

import subprocess
import sys
from pathlib import Path

import fabricate
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_with_nothing_there_one_button_makes_the_sample(app, said):
    at = app()
    assert not at.exception
    assert [button.label for button in at.button] == ["Make the sample data set"]
    assert "nothing has been opened or trained yet" in said(at)


def test_making_the_sample_leads_to_the_demo(app, said, monkeypatch):
    from engine.data import sample

    monkeypatch.setattr(sample, "write_sample", lambda target, progress=None: fabricate.write_images(target))
    at = app()
    at.button(key="make_sample").click().run()
    assert not at.exception
    assert at.button(key="next_step").label == "Train the demo model"


def test_runs_are_listed_with_state_and_leakage(app, said, finished_run, leaking_run):
    at = app()
    assert not at.exception
    text = said(at)
    assert "Completed" in text
    assert "leaks" in text
    assert "Patients kept apart" not in text or "worth here" in text
    assert at.button(key="next_step").label == "Compare the runs"


def test_the_best_result_is_told_with_interval_and_n(app, said, finished_run):
    text = said(app())
    assert "Best honest result" in text
    assert "n = 48 images, 4 cases" in text
    assert "Chosen by its validation score" in text


def test_without_an_honest_run_no_result_is_called_best(app, said, leaking_run):
    assert "None yet" in said(app())


def test_a_read_only_runs_folder_is_said(app, said, finished_run, monkeypatch):
    from dashboard import places

    monkeypatch.setattr(places, "read_only_reason", lambda: "The runs folder cannot be written by this user.")
    assert "cannot be written" in said(app())


@pytest.mark.slow
def test_light_pages_never_import_torch(finished_run, runs_dir):
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from streamlit.testing.v1 import AppTest
at = AppTest.from_file({str(ROOT / "dashboard" / "Home.py")!r}, default_timeout=60).run()
for page in ("runs", "dataset", "train", "run"):
    at.switch_page({str(ROOT)!r} + f"/pages/{{page}}.py").run()
    assert not at.exception, at.exception
heavy = sorted(set(sys.modules) & {{"torch", "timm", "albumentations", "pytorch_grad_cam", "sklearn"}})
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize(
    "page",
    [
        "overview",
        "dataset",
        "train",
        "runs",
        "run",
        "compare",
        "image",
        "ensemble",
        "explain",
        "predict",
        "shared",
    ],
)
def test_every_page_has_its_link_also_where_it_is_empty(app, page):
    shared = [block.proto.popover.label for block in app(page).get("popover")]
    assert shared == ["Share"]
