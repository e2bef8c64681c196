"""Exports give the same logits as the run."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tiny_runs
import torch

from engine.errors import WeightsError
from engine.training import export
from engine.training.models import load_run_model


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    tiny_runs.register()
    folder = tiny_runs.make_run(tmp_path_factory.mktemp("finished"), tiny_data, training__epochs=1)
    tiny_runs.fit(folder)
    return folder


@pytest.mark.parametrize("format", ["safetensors", "torchscript"])
def test_an_export_gives_the_logits_of_the_run(finished, tmp_path, format):
    done = export.export_run(finished, tmp_path, format)
    assert done.path.stat().st_size > 1000
    assert done.difference <= export.TOLERANCE
    card = done.card.read_text()
    assert "benign, malignant" in card
    assert "For research only" in card
    assert finished.id in card


@pytest.mark.slow
def test_onnx_gives_the_logits_of_the_run_for_any_number_of_images(finished, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs requirements-dev.txt")
    done = export.export_run(finished, tmp_path, "onnx")
    assert done.difference <= export.TOLERANCE
    loaded = load_run_model(finished)
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for count in (1, 5):  # neither is what it was exported with
        images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        pixels = loaded.normalise(torch.from_numpy(images)).contiguous()
        with torch.inference_mode():
            ours = loaded.model(pixels).numpy()
        (theirs,) = session.run(["logits"], {"pixels": pixels.numpy()})
        assert theirs.shape == (count, 2)
        assert np.abs(ours - theirs).max() <= export.TOLERANCE
        assert np.abs(ours).max() > 0


def test_onnx_without_its_packages_names_them(finished, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    absent = ("onnxscript", "onnxruntime")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else found(name))
    with pytest.raises(WeightsError, match="pip install onnxscript onnxruntime, or export as torchscript"):
        export.export_run(finished, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs_is_refused_and_removed(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(WeightsError, match="other logits"):
        export.export_run(finished, tmp_path, "torchscript")
    assert not list(tmp_path.iterdir())


def test_a_name_cannot_write_markup_into_the_card(finished, tmp_path):
    finished.write_label(name="<b>[x](http://y)</b>")
    card = export.export_run(finished, tmp_path).card.read_text()
    assert "<b>" not in card
    assert "](" not in card
